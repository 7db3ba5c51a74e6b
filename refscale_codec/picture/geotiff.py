"""TIFF files by GDAL: bands of any number in 8 or 16 bits, and what a GeoTIFF says of place and bands.

GDAL comes with rasterio, an extra, which is imported where it is needed. Arrays and bytes go in and out here; `image`
knows pictures. What a GeoTIFF says is one JSON object, which only holds what is not as in any TIFF:

    crs           EPSG:code, or WKT                 transform   a, b, c, d, e, f: x = a column + b row + c, ...
    tags          {name: text}                      band_tags   [{name: text}, ...], the alpha band's the last
    descriptions, units, interpretations            [text or null, ...], likewise
    scales, offsets                                 [number, ...], likewise
"""

import base64
import importlib
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ImageError, reason

INSTALL = "pip install 'refscale-codec[geo]'"

_DOMAINS_OF_FILES = {"IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "COLOR_PROFILE", "xml:XMP", "EXIF"}
_SAID_ANYWAY = ("AREA_OR_POINT", "Area")  # by GDAL, of whatever has a place
_OF_PLACE = ("crs", "transform")
_TYPES = ("uint8", "uint16", "int16")
_TILES = 512, 256, 1024, 2048  # sides, the usual one first; powers of two, which overviews need
_CREATION = {"compress": "DEFLATE", "predictor": "YES", "bigtiff": "IF_SAFER"}


class Raster(NamedTuple):
    """What is in a file."""

    pixels: NDArray[Any]  # [h, w, bands]
    alpha: NDArray[Any] | None  # [h, w]
    nodata: int | None
    geo: bytes  # JSON; empty for nothing
    notes: list[str]  # what is not as in the file, for people


def decode(data: bytes, name: str, most_pixels: int, most_samples: int) -> Raster:
    """Read the bytes of a TIFF file.

    Args:
        data: the whole file.
        name: what to call it in messages.
        most_pixels: beyond that many it is refused.
        most_samples: likewise, in all bands.

    Raises:
        ImageError: rasterio is not installed; there is more than one picture; samples are of another type; too large.
    """
    rasterio = _rasterio(name)
    try:
        return _decoded(rasterio, data, name, most_pixels, most_samples)
    except rasterio.errors.RasterioError as error:  # its own text may only refer to GDAL's
        raise ImageError(f"{name} is damaged or truncated: {reason(error.__cause__ or error)}") from error


def _decoded(rasterio: Any, data: bytes, name: str, most_pixels: int, most_samples: int) -> Raster:
    with _quiet(), rasterio.MemoryFile(data, filename="picture.tif") as memory, memory.open(driver="GTiff") as file:
        if file.subdatasets:
            raise ImageError(f"{name} holds {len(file.subdatasets)} pictures; refscale codes one: take one out first")
        if file.width * file.height > most_pixels or file.width * file.height * file.count > most_samples:
            raise ImageError(
                f"{name} has {file.width} x {file.height} pixels in {file.count} bands; at most {most_pixels:,} and "
                f"{most_samples:,} samples are read: cut it up"
            )
        types = set(file.dtypes)
        if len(types) != 1 or not types <= set(_TYPES):
            raise ImageError(
                f"{name} has samples of {', '.join(sorted(types))}; refscale codes {', '.join(_TYPES)}: scale them to "
                f"one of these, such as with `gdal_translate -ot UInt16 -scale`"
            )
        pixels = np.empty((file.height, file.width, file.count), file.dtypes[0])
        for band in range(file.count):
            pixels[..., band] = file.read(band + 1)
        said, notes = _said(file)
        nodata = None
        if file.nodata is not None:
            limits = np.iinfo(pixels.dtype)
            if math.isfinite(file.nodata) and file.nodata.is_integer() and limits.min <= file.nodata <= limits.max:
                nodata = int(file.nodata)
            else:
                notes.append(f"its nodata value {file.nodata:g} is none that its samples can have: left out")
        kinds = [kind.name for kind in file.colorinterp]
        if kinds == ["palette"]:
            notes.append("its palette is coded as the colours that it stands for")
            table = np.array([colour for _, colour in sorted(file.colormap(1).items())], np.uint8)
            pixels, said = (
                table[pixels[..., 0]],
                {key: said[key] for key in said if key in (*_OF_PLACE, "tags")},
            )
            nodata, kinds = None, ["red", "green", "blue", "alpha"]
            if (table[:, 3] == 255).all():
                pixels, kinds = np.ascontiguousarray(pixels[..., :3]), kinds[:3]
    alpha = None
    if kinds[-1] == "alpha" and len(kinds) > 1:
        pixels, alpha = np.ascontiguousarray(pixels[..., :-1]), pixels[..., -1].copy()
    return Raster(pixels, alpha, nodata, _dumped(said), notes)


def _said(file: Any) -> tuple[dict[str, Any], list[str]]:
    """Return what a file says as JSON takes it, and notes of what is left out."""
    said: dict[str, Any] = {}
    if file.crs is not None:
        code, whole = file.crs.to_string(), file.crs.to_wkt()
        same = type(file.crs).from_user_input(code).to_wkt() == whole
        said["crs"] = code if same else whole
    if not file.transform.is_identity:
        said["transform"] = list(file.transform)[:6]
    bands = range(1, file.count + 1)
    kinds = [kind.name for kind in file.colorinterp]
    alpha = kinds[-1] == "alpha" and len(kinds) > 1
    for key, values, default in (
        ("tags", {key: value for key, value in file.tags().items() if (key, value) != _SAID_ANYWAY}, {}),
        ("band_tags", [file.tags(band) for band in bands], [{} for _ in bands]),
        ("descriptions", list(file.descriptions), [None] * file.count),
        ("units", [unit or None for unit in file.units], [None] * file.count),
        ("scales", list(file.scales), [1.0] * file.count),
        ("offsets", list(file.offsets), [0.0] * file.count),
        ("interpretations", kinds, _usual(file.count - alpha) + ["alpha"] * alpha),
    ):
        if values != default:
            said[key] = values
    notes = []
    if file.gcps[0]:
        notes.append("its ground control points are left out")
    if file.rpcs is not None:
        notes.append("its rational polynomial coefficients are left out")
    if others := set(file.tag_namespaces()) - _DOMAINS_OF_FILES - {"RPC"}:
        notes.append(f"its tags in {', '.join(sorted(others))} are left out")
    if file.tags(ns="EXIF"):
        notes.append("its EXIF is left out")
    if any("per_dataset" in {flag.name for flag in flags} for flags in file.mask_flag_enums) and not alpha:
        notes.append("its mask is left out")
    return said, notes


def _usual(bands: int) -> list[str]:
    """Return how bands are interpreted if nothing is said; alpha is none of them."""
    return ["red", "green", "blue"] if bands == 3 else ["gray"] + ["undefined"] * (bands - 1)


def encode(
    pixels: NDArray[Any], alpha: NDArray[Any] | None, nodata: int | None, geo: bytes, icc: bytes, name: str
) -> bytes:
    """Return a Cloud Optimized GeoTIFF, deflated.

    Args:
        pixels: [h, w, bands] uint8, uint16 or int16.
        alpha: [h, w] likewise, which becomes the last band.
        nodata: the value that stands for no data.
        geo: JSON as `decode` gives it; what does not fit these bands is left out.
        icc: colour profile, or nothing.
        name: what to call the file in messages.

    Raises:
        ImageError: rasterio is not installed, or GDAL does not take what is in `geo`.
    """
    rasterio = _rasterio(name)
    height, width = pixels.shape[:2]
    planes = [*pixels.transpose(2, 0, 1), *([] if alpha is None else [alpha])]
    said = _loaded(geo)
    kinds = said.get("interpretations", _usual(pixels.shape[2]) + ["alpha"] * (alpha is not None))
    options = {
        "driver": "GTiff", "height": height, "width": width, "count": len(planes),
        "dtype": pixels.dtype.name, "nodata": nodata, "crs": said.get("crs"),
        "photometric": "RGB" if kinds[:3] == ["red", "green", "blue"] else "MINISBLACK",
    }  # fmt: skip
    if icc:
        options["SOURCE_ICC_PROFILE"] = base64.b64encode(icc).decode()
    if "transform" in said:
        options["transform"] = rasterio.Affine(*said["transform"])
    with _quiet(), rasterio.MemoryFile() as memory, rasterio.MemoryFile() as made:
        with memory.open(**options) as file:
            file.colorinterp = [rasterio.enums.ColorInterp[kind] for kind in kinds]
            for band, plane in enumerate(planes, start=1):
                file.write(plane, band)
            file.update_tags(**said.get("tags", {}))
            for band, tags in enumerate(said.get("band_tags", ()), start=1):
                file.update_tags(band, **tags)
            for key in ("descriptions", "units", "scales", "offsets"):
                if key in said:
                    setattr(file, key, tuple(value or "" if key == "units" else value for value in said[key]))
        with memory.open() as file:
            importlib.import_module("rasterio.shutil").copy(
                file, made.name, driver="COG", blocksize=_tile(height, width), **_CREATION
            )
        return bytes(made.read())


def _tile(height: int, width: int) -> int:
    """Return the side of a file's tiles.

    Validators call a picture or an overview untiled that is a column of single tiles, so none is to be as wide as one.
    """
    columns = set()
    while height > _TILES[0]:
        columns.add(width)
        height, width = -(-height // 2), -(-width // 2)
    return next((side for side in _TILES if side not in columns), _TILES[0])


def moved(geo: bytes, left: int, top: int) -> bytes:
    """Return what is said of the part of a picture that begins at this column and row."""
    said = _loaded(geo)
    with suppress(KeyError, TypeError, ValueError):  # nothing to move, or nothing that can be
        a, b, c, d, e, f = said["transform"]
        said["transform"] = [a, b, a * left + b * top + c, d, e, d * left + e * top + f]
    return _dumped(said)


def place(geo: bytes) -> bytes:
    """Return what is said of the place alone."""
    return _dumped({key: value for key, value in _loaded(geo).items() if key in _OF_PLACE})


def transform(geo: bytes) -> tuple[float, float, float, float, float, float] | None:
    """Return a, b, c, d, e, f of the transform; None if it is not said."""
    with suppress(KeyError, TypeError, ValueError, OverflowError):
        a, b, c, d, e, f = (float(number) for number in _loaded(geo)["transform"])
        if all(map(math.isfinite, (a, b, c, d, e, f))):
            return a, b, c, d, e, f
    return None


def crs(geo: bytes) -> str | None:
    """Return the coordinate reference system, as `EPSG:code` or WKT; None if it is not said."""
    said = _loaded(geo).get("crs")
    return said if isinstance(said, str) else None


def tags(geo: bytes) -> dict[str, str]:
    """Return the tags of the whole picture."""
    said = _loaded(geo).get("tags")
    return {name: str(value) for name, value in said.items()} if isinstance(said, dict) else {}


def grid(geo: bytes) -> tuple[str, tuple[float, ...]] | None:
    """Return the coordinate reference system and the transform; None if not both are said."""
    system, numbers = crs(geo), transform(geo)
    return None if system is None or numbers is None else (system, numbers)


def _loaded(geo: bytes) -> dict[str, Any]:
    """Return what JSON says; what is damaged says nothing."""
    with suppress(ValueError, RecursionError):
        said = json.loads(geo)
        return said if isinstance(said, dict) else {}
    return {}


def _dumped(said: dict[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode() if said else b""


def installed() -> bool:
    """Return whether rasterio is here."""
    with suppress(ImportError):
        return bool(importlib.import_module("rasterio"))
    return False


def require_gdal(name: str) -> None:
    """Raise an ImageError that says how to install rasterio where it is not here."""
    if not installed():
        raise ImageError(f"{name} takes GDAL, for its bands, its nodata value or its georeference: {INSTALL}")


def _rasterio(name: str) -> Any:
    require_gdal(name)
    return importlib.import_module("rasterio")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep rasterio from warning of pictures without a georeference."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
