"""Which picture files there are: how each is told, named, and what of pictures it holds.

Only names and first bytes are looked at here; `pillow`, `tiff` and `geotiff` look inside.
"""

import shlex
from pathlib import Path
from typing import Any

import numpy as np

from refscale_codec.errors import ImageError

READABLE = ("PNG", "JPEG", "WEBP", "TIFF")
"""What is read, as Pillow calls it."""

WRITABLE = ("png", "webp", "tiff")
"""What is written."""

NAMES = {"png": "PNG", "webp": "WebP", "tiff": "TIFF", "geotiff": "GeoTIFF"}
"""What a person calls them, and a TIFF by GDAL."""

_OF_SUFFIX = {".png": "png", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}
_MAX_WEBP_SIDE = 16_383  # pixels
_LOSSY_NAMES = {"jpg", "jpeg", "jpe", "jfif"}

_SIGNATURES = (  # (offset, bytes there, the file's kind)
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (8, b"WEBP", "WebP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphei", "HEIF"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"P5", "PGM"),
    (0, b"P6", "PPM"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
)


def named(name: str) -> str:
    """Return `png`, `webp` or `tiff` for a name in any case, `tif` among them; ImageError for any other."""
    kind = {"tif": "tiff"}.get(name.lower(), name.lower())
    if kind in _LOSSY_NAMES:
        raise ImageError("JPEG would lose detail a second time, so it is not written: use png, webp or tiff")
    if kind not in WRITABLE:
        raise ImageError(f"unknown picture format {name!r}: use png, webp or tiff")
    return kind


def of_path(path: Path) -> str:
    """Return `png`, `webp` or `tiff` for the suffix of a picture to be written; ImageError for any other suffix."""
    suffix = path.suffix.lower()
    if suffix.removeprefix(".") in _LOSSY_NAMES:
        raise ImageError(f"{path} would be a JPEG, which loses detail a second time: use .png, .webp or .tif")
    if suffix not in _OF_SUFFIX:
        raise ImageError(f"{path}: unknown suffix {suffix!r} for a picture: use .png, .webp, .tif or .tiff")
    return _OF_SUFFIX[suffix]


def kind_of(dtype: np.dtype[Any], bands: int) -> str:
    """Return what a person calls pictures of a type and a number of bands: `8-bit RGB`, `16-bit 4-band`."""
    colour = {1: "grey", 3: "RGB"}.get(bands, f"{bands}-band")
    return f"{8 * dtype.itemsize}-bit {'signed ' if dtype.kind == 'i' else ''}{colour}"


def takes_gdal(dtype: np.dtype[Any], bands: int, nodata: int | None, geo: bytes) -> bool:
    """Return whether a TIFF of such pictures is a GeoTIFF."""
    return dtype != np.uint8 or bands not in (1, 3) or nodata is not None or bool(geo)


def holding(dtype: np.dtype[Any], bands: int, longest: int) -> list[str]:
    """Return which of `WRITABLE` hold pictures of a type, a number of bands, and a longest side in pixels."""
    depths = {"png": (np.uint8, np.uint16), "webp": (np.uint8,)}
    return [
        kind
        for kind in WRITABLE
        if kind not in depths
        or dtype in depths[kind]
        and bands in (1, 3)
        and not (kind == "webp" and longest > _MAX_WEBP_SIDE)
    ]


def require_holds(kind: str, dtype: np.dtype[Any], bands: int, longest: int) -> None:
    """Refuse a format that is not among `holding`: ImageError."""
    able = holding(dtype, bands, longest)
    if kind in able:
        return
    what = f"{kind_of(dtype, bands)} pictures"
    if kind in holding(dtype, bands, 1):
        what = f"more than {_MAX_WEBP_SIDE} pixels a side, and this picture has {longest}"
    suffixes = " or ".join({"tiff": ".tif"}.get(name, f".{name}") for name in able)
    raise ImageError(
        f"{NAMES[kind]} cannot hold {what}; {listed(able)} can: "
        f"name the output {suffixes}, or give --format {' or '.join(able)}"
    )


def listed(kinds: list[str]) -> str:
    """Return formats as a person lists them: `PNG and TIFF`."""
    return " and ".join(NAMES[kind] for kind in kinds)


def why_not_opened(data: bytes, name: str) -> str:
    """Return what to say of a file that is none of the readable ones, or that looks like one and cannot be opened."""
    kind = next((kind for offset, magic, kind in _SIGNATURES if data.startswith(magic, offset)), None)
    if kind is None:
        return f"{name} is not a picture; refscale reads PNG, JPEG, WebP and TIFF"
    if kind.upper() not in READABLE:
        return (
            f"{name} is {'an' if kind == 'AVIF' else 'a'} {kind} file; refscale reads PNG, JPEG, WebP and TIFF: "
            f"convert it with {conversion(name + '[0]')}"
        )
    return f"{name} is a {kind} file, but damaged, truncated or of an unsupported kind"


def conversion(name: str) -> str:
    """Return the command that makes an 8-bit RGB picture of a file."""
    # Not `-type TrueColor`: ImageMagick 6 then still writes a grey or palette PNG where that is smaller.
    return f"`convert {shlex.quote(name)} -colorspace sRGB -alpha off PNG24:rgb.png`"
