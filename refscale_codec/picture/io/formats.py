"""The formats of picture files: how they are recognised and named, and which pictures each can hold.

Only names and first bytes are examined here; `pillow`, `tiff` and `geotiff` read the contents.
"""

import shlex
from pathlib import Path
from typing import Any

import numpy as np

from refscale_codec.errors import ImageError, UsageError
from refscale_codec.picture.image import kind_of

READABLE = ("PNG", "JPEG", "WEBP", "TIFF")
"""Formats that are read, by Pillow's names."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff")
"""Of files that are read, in lower case: what is looked for in a folder, and replaced in the name of an output."""

WRITABLE = ("png", "webp", "tiff")
"""Formats that are written."""

NAMES = {"png": "PNG", "webp": "WebP", "tiff": "TIFF", "geotiff": "GeoTIFF"}
"""Their names in messages; `geotiff` is a TIFF written by GDAL."""

MOST_BYTES = {1: 1, 5: 4096, 7: 2048, 8: 1032, 32773: 64, 32946: 1032}
"""By TIFF's numbers of compressions, the most bytes of samples that a coded byte can give: of none, LZW, JPEG, deflate,
PackBits and deflate. The format of what is coded forbids more."""

_COMPRESSIONS = {
    6: "old JPEG", 7: "JPEG", 9: "JBIG", 10: "JBIG", 33003: "JPEG 2000", 33005: "JPEG 2000", 34661: "JBIG",
    34712: "JPEG 2000", 34715: "JBIG2", 34887: "LERC", 34892: "JPEG", 34925: "LZMA", 34926: "Zstandard", 34927: "WebP",
    34933: "PNG", 34934: "JPEG XR", 22610: "JPEG XR", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL",
    52546: "JPEG XL",
}  # fmt: skip
"""By TIFF's numbers of compressions, names of those that not every GDAL decodes."""

_OF_SUFFIX = {".png": "png", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}
_MAX_WEBP_SIDE = 16_383  # pixels
_LOSSY_NAMES = {"jpg", "jpeg", "jpe", "jfif"}

_SIGNATURES = (  # offset, bytes there, format
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (8, b"WEBP", "WebP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"II\0*", "TIFF"),  # not by the standard, but they are read
    (0, b"MM*\0", "TIFF"),
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
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"%PDF", "PDF"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"\x0e\x03\x13\x01", "HDF4"),
    (0, b"CDF\x01", "NetCDF"),
    (0, b"CDF\x02", "NetCDF"),
    (0, b"CDF\x05", "NetCDF"),
    (0, b"GRIB", "GRIB"),
    (0, b"NITF", "NITF"),
    (0, b"msid", "MrSID"),
    (0, b"EHFA_HEADER_TAG", "Erdas Imagine"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"<VRTDataset", "GDAL VRT"),
    (0, b"SQLite format 3\0", "GeoPackage"),
)
_MEASURED = {"JPEG 2000", "OpenEXR", "PDF", "MrSID", "NITF", "Erdas Imagine", "GRIB", "FITS", "GDAL VRT", "GeoPackage"}
_SETS = {"HDF5", "HDF4", "NetCDF"}
"""Formats of what is measured, with place, calibration or more than 8 bits: GDAL converts them and keeps these. Those
of `_SETS` hold several pictures as a rule."""


def named(name: str) -> str:
    """Return `png`, `webp` or `tiff` for a name in any case (`tif` is `tiff`); UsageError for any other."""
    kind = {"tif": "tiff"}.get(name.lower(), name.lower())
    if kind in _LOSSY_NAMES:
        raise UsageError("JPEG is lossy, so it is not written: use png, webp or tiff")
    if kind not in WRITABLE:
        raise UsageError(f"unknown picture format {name!r}: use png, webp or tiff")
    return kind


def of_path(path: Path) -> str:
    """Return `png`, `webp` or `tiff` for the suffix of a picture to be written; UsageError for any other suffix."""
    suffix = path.suffix.lower()
    if suffix.removeprefix(".") in _LOSSY_NAMES:
        raise UsageError(f"{path}: JPEG is lossy, so it is not written: use .png, .webp or .tif")
    if not suffix:
        raise UsageError(f"{path} has no suffix, which says the format of a picture: use .png, .webp, .tif or .tiff")
    if suffix not in _OF_SUFFIX:
        raise UsageError(f"{path}: unknown suffix {suffix!r} for a picture: use .png, .webp, .tif or .tiff")
    return _OF_SUFFIX[suffix]


def needs_gdal(dtype: np.dtype[Any], bands: int, nodata: float | None, geo: bytes) -> bool:
    """Return whether a TIFF of such a picture is written by GDAL."""
    return dtype != np.uint8 or bands not in (1, 3) or nodata is not None or bool(geo)


def supporting(dtype: np.dtype[Any], bands: int, longest: int) -> list[str]:
    """Return which of `WRITABLE` can hold pictures of a type, a number of bands, and a longest side in pixels."""
    depths = {"png": (np.uint8, np.uint16), "webp": (np.uint8,)}
    return [
        kind
        for kind in WRITABLE
        if kind not in depths
        or dtype in depths[kind]
        and bands in (1, 3)
        and not (kind == "webp" and longest > _MAX_WEBP_SIDE)
    ]


def fitting(dtype: np.dtype[Any], bands: int, longest: int, nodata: float | None, geo: bytes, *, alpha: bool) -> str:
    """Return `png` if it can hold all of a picture as it is, else `tiff`; arguments as in `supporting`."""
    turns_rgb = alpha and bands == 1 and dtype.itemsize == 2
    fits = "png" in supporting(dtype, bands, longest) and nodata is None and not geo and not turns_rgb
    return "png" if fits else "tiff"


def require_support(kind: str, dtype: np.dtype[Any], bands: int, longest: int) -> None:
    """Raise a UsageError for a format that is not among `supporting`."""
    able = supporting(dtype, bands, longest)
    if kind in able:
        return
    what = f"{kind_of(dtype, bands)} pictures"
    if kind in supporting(dtype, bands, 1):
        what = f"more than {_MAX_WEBP_SIDE} pixels a side, and this picture has {longest}"
    suffixes = " or ".join({"tiff": ".tif"}.get(name, f".{name}") for name in able)
    raise UsageError(
        f"{NAMES[kind]} cannot hold {what}; {listed(able)} can: "
        f"name the output {suffixes}, or give --format {' or '.join(able)}"
    )


def listed(kinds: list[str]) -> str:
    """Return formats as a list in words: `PNG and TIFF`."""
    return " and ".join(NAMES[kind] for kind in kinds)


def readable(head: bytes) -> bool:
    """Return whether bytes begin as a file in a format that is read."""
    return any(head.startswith(magic, at) for at, magic, kind in _SIGNATURES if kind.upper() in READABLE)


def unreadable(data: bytes, name: str) -> str:
    """Return a message on a file that is in no readable format, or looks like one that is but cannot be opened."""
    kind = next((kind for offset, magic, kind in _SIGNATURES if data.startswith(magic, offset)), None)
    if data.startswith(b"\x89RSC"):
        return f"{name} is a .rsc file, not a picture: decode it first"
    if kind is None:
        return f"{name} is not a picture; refscale reads PNG, JPEG, WebP and TIFF"
    if kind.upper() not in READABLE:
        article = "an" if kind[0] in "AEHO" else "a"
        return (
            f"{name} is {article} {kind} file; refscale reads PNG, JPEG, WebP and TIFF: convert it with "
            f"{_by_gdal(name, kind in _SETS) if kind in _MEASURED | _SETS else conversion(name)}"
        )
    return f"{name} is a damaged, truncated or unsupported {kind} file"


def undecoded(name: str, compression: int, bits: int) -> str:
    """Return the message on a TIFF that GDAL does not decode, of a compression by its number and bits of a sample."""
    kind = _COMPRESSIONS.get(compression, f"compression {compression}")
    return (
        f"{name} is compressed by {kind}, which this GDAL does not decode in samples of {bits} bits: rewrite it, for "
        f"instance with `gdal_translate -co COMPRESS=DEFLATE {shlex.quote(name)} picture.tif` of a GDAL that does, or "
        "with tifffile and imagecodecs"
    )


def require_page(name: str, number: int, count: int) -> None:
    """Raise an ImageError if a file of so many pictures has no such page; pages are counted from 1."""
    if not 1 <= number <= count:
        raise ImageError(f"{name} has no page {number}: it holds {count} picture{'s' * (count > 1)}")


def several(name: str, count: int) -> str:
    """Return the message on a file of several pictures."""
    return (
        f"{name} holds {count} pictures; refscale codes one: choose it with --page 1 to --page {count}, of a reference "
        "with --ref-page, in Python with page or reference_page"
    )


def conversion(name: str, to: str = "picture.png") -> str:
    """Return a shell command that converts a file to one in grey or RGB, of the same depth."""
    return f"`magick {shlex.quote(name)} -colorspace sRGB {to}`"


def to_rgb(name: str) -> str:
    """Return a shell command that converts a file to an 8-bit RGB picture without alpha."""
    # Not `-type TrueColor`: ImageMagick may then still write a grey or palette PNG if that is smaller.
    return f"`magick {shlex.quote(name)} -colorspace sRGB -alpha off PNG24:rgb.png`"


def _by_gdal(name: str, several: bool) -> str:
    """Return a shell command that converts a file to a TIFF, with its bits, place and calibration."""
    quoted = shlex.quote(name)
    if several:
        return f"`gdal_translate` to TIFF; `gdalinfo {quoted}` lists the names of the pictures in it"
    return f"`gdal_translate {quoted} picture.tif`"
