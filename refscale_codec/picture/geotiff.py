"""TIFF files by GDAL: any number of bands in 8 or 16 bits, and the georeference and tags of a GeoTIFF.

GDAL comes with rasterio, an extra, which is imported when it is needed. Functions here take and return arrays and
bytes; `image` has pictures. The metadata of a GeoTIFF is one JSON object, without the fields that have their default:

    crs           EPSG:code, or WKT                 transform   a, b, c, d, e, f: x = a column + b row + c, ...
    tags          {name: text}                      band_tags   [{name: text}, ...], the alpha band's the last
    descriptions, units, interpretations            [text or null, ...], likewise
    scales, offsets                                 [number, ...], likewise
"""

import base64
import importlib
import json
import math
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ImageError, reason

INSTALL = "pip install 'refscale-codec[geo]'"

_DOMAINS_OF_FILES = {"IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "COLOR_PROFILE", "xml:XMP", "EXIF"}
_IMPLIED_TAG = ("AREA_OR_POINT", "Area")  # GDAL sets it for every georeferenced file
_GEOREFERENCE = ("crs", "transform")
_TYPES = ("uint8", "uint16", "int16")
_TILES = 512, 256, 1024, 2048  # sides in pixels, the default first; overviews need powers of two
_CREATION = {"compress": "DEFLATE", "predictor": "YES", "bigtiff": "IF_SAFER"}


class Raster(NamedTuple):
    """The contents of a file."""

    pixels: NDArray[Any]  # [h, w, bands]
    alpha: NDArray[Any] | None  # [h, w]
    nodata: int | None
    geo: bytes  # JSON; empty for none
    notes: list[str]  # for people: what is not kept as it is in the file


def decode(data: bytes, name: str, most_pixels: int, most_samples: int) -> Raster:
    """Read the bytes of a TIFF file.

    Args:
        data: the whole file.
        name: of the file, for messages.
        most_pixels: larger pictures are refused.
        most_samples: likewise, over all bands.

    Raises:
        ImageError: rasterio is not installed; there is more than one picture; samples are of another type; too large.
    """
    rasterio = _rasterio(name)
    try:
        return _decoded(rasterio, data, name, most_pixels, most_samples)
    except rasterio.errors.RasterioError as error:  # its own text may only point to GDAL's
        raise ImageError(f"{name} is damaged or truncated: {reason(error.__cause__ or error)}") from error


def _decoded(rasterio: Any, data: bytes, name: str, most_pixels: int, most_samples: int) -> Raster:
    with rasterio.MemoryFile(data, filename="picture.tif") as memory, memory.open(driver="GTiff") as file:
        if file.subdatasets:
            raise ImageError(f"{name} holds {len(file.subdatasets)} pictures; refscale codes one: extract one first")
        if file.width * file.height > most_pixels or file.width * file.height * file.count > most_samples:
            raise ImageError(
                f"{name} has {file.width} x {file.height} pixels in {file.count} bands; at most {most_pixels:,} and "
                f"{most_samples:,} samples are read: split it"
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
        fields, notes = _fields(file)
        nodata = None
        if file.nodata is not None:
            limits = np.iinfo(pixels.dtype)
            if math.isfinite(file.nodata) and file.nodata.is_integer() and limits.min <= file.nodata <= limits.max:
                nodata = int(file.nodata)
            else:
                notes.append(f"nodata value {file.nodata:g} is left out: no sample can have it")
        kinds = [kind.name for kind in file.colorinterp]
        if kinds == ["palette"]:
            notes.append("palette picture, converted to its colours")
            table = np.array([colour for _, colour in sorted(file.colormap(1).items())], np.uint8)
            pixels = table[pixels[..., 0]]
            fields = {key: fields[key] for key in fields if key in (*_GEOREFERENCE, "tags")}
            nodata, kinds = None, ["red", "green", "blue", "alpha"]
            if (table[:, 3] == 255).all():
                pixels, kinds = np.ascontiguousarray(pixels[..., :3]), kinds[:3]
    alpha = None
    if kinds[-1] == "alpha" and len(kinds) > 1:
        pixels, alpha = np.ascontiguousarray(pixels[..., :-1]), pixels[..., -1].copy()
    return Raster(pixels, alpha, nodata, _dumped(fields), notes)


def _fields(file: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of a file's metadata, and notes on what is left out."""
    fields: dict[str, Any] = {}
    if file.crs is not None:
        code, whole = file.crs.to_string(), file.crs.to_wkt()
        same = type(file.crs).from_user_input(code).to_wkt() == whole
        fields["crs"] = code if same else whole
    if not file.transform.is_identity:
        fields["transform"] = list(file.transform)[:6]
    bands = range(1, file.count + 1)
    kinds = [kind.name for kind in file.colorinterp]
    alpha = kinds[-1] == "alpha" and len(kinds) > 1
    for key, values, default in (
        ("tags", {key: value for key, value in file.tags().items() if (key, value) != _IMPLIED_TAG}, {}),
        ("band_tags", [file.tags(band) for band in bands], [{} for _ in bands]),
        ("descriptions", list(file.descriptions), [None] * file.count),
        ("units", [unit or None for unit in file.units], [None] * file.count),
        ("scales", list(file.scales), [1.0] * file.count),
        ("offsets", list(file.offsets), [0.0] * file.count),
        ("interpretations", kinds, _default_interpretations(file.count - alpha) + ["alpha"] * alpha),
    ):
        if values != default:
            fields[key] = values
    notes = []
    if file.gcps[0]:
        notes.append("ground control points are left out")
    if file.rpcs is not None:
        notes.append("rational polynomial coefficients are left out")
    if others := set(file.tag_namespaces()) - _DOMAINS_OF_FILES - {"RPC"}:
        notes.append(f"tags in {', '.join(sorted(others))} are left out")
    if file.tags(ns="EXIF"):
        notes.append("EXIF is left out")
    if any("per_dataset" in {flag.name for flag in flags} for flags in file.mask_flag_enums) and not alpha:
        notes.append("mask is left out")
    return fields, notes


def _default_interpretations(bands: int) -> list[str]:
    """Return the default colour interpretations of bands, without alpha."""
    return ["red", "green", "blue"] if bands == 3 else ["gray"] + ["undefined"] * (bands - 1)


def encode(
    pixels: NDArray[Any], alpha: NDArray[Any] | None, nodata: int | None, geo: bytes, icc: bytes, name: str
) -> bytes:
    """Return a Cloud Optimized GeoTIFF, deflated.

    Args:
        pixels: [h, w, bands] uint8, uint16 or int16.
        alpha: [h, w] of the same type; it becomes the last band.
        nodata: the nodata value.
        geo: JSON as from `decode`.
        icc: colour profile, or empty.
        name: of the file, for messages.

    Raises:
        ImageError: rasterio is not installed.
        Exception: nearly any, for a `geo` that GDAL does not accept.
    """
    rasterio = _rasterio(name)
    height, width = pixels.shape[:2]
    planes = [*pixels.transpose(2, 0, 1), *([] if alpha is None else [alpha])]
    fields = _loaded(geo)
    kinds = fields.get("interpretations", _default_interpretations(pixels.shape[2]) + ["alpha"] * (alpha is not None))
    options = {
        "driver": "GTiff", "height": height, "width": width, "count": len(planes),
        "dtype": pixels.dtype.name, "nodata": nodata, "crs": fields.get("crs"),
        "photometric": "RGB" if kinds[:3] == ["red", "green", "blue"] else "MINISBLACK",
    }  # fmt: skip
    if icc:
        options["SOURCE_ICC_PROFILE"] = base64.b64encode(icc).decode()
    if "transform" in fields:
        options["transform"] = rasterio.Affine(*fields["transform"])
    with rasterio.MemoryFile() as memory, rasterio.MemoryFile() as made:
        with memory.open(**options) as file:
            file.colorinterp = [rasterio.enums.ColorInterp[kind] for kind in kinds]
            for band, plane in enumerate(planes, start=1):
                file.write(plane, band)
            file.update_tags(**fields.get("tags", {}))
            for band, tags in enumerate(fields.get("band_tags", ()), start=1):
                file.update_tags(band, **tags)
            for key in ("descriptions", "units", "scales", "offsets"):
                if key in fields:
                    setattr(file, key, tuple(value or "" if key == "units" else value for value in fields[key]))
        with memory.open() as file:
            importlib.import_module("rasterio.shutil").copy(
                file, made.name, driver="COG", blocksize=_tile(height, width), **_CREATION
            )
        return bytes(made.read())


def _tile(height: int, width: int) -> int:
    """Return the side of a file's tiles, in pixels.

    Validators take a picture or an overview for untiled if it is exactly as wide as one tile, so that is avoided.
    """
    columns = set()
    while height > _TILES[0]:
        columns.add(width)
        height, width = -(-height // 2), -(-width // 2)
    return next((side for side in _TILES if side not in columns), _TILES[0])


def of_window(geo: bytes, left: int, top: int) -> bytes:
    """Return the metadata of a window of the picture that begins at this column and row."""
    fields = _loaded(geo)
    with suppress(KeyError, TypeError, ValueError):  # no transform, or no valid one
        a, b, c, d, e, f = fields["transform"]
        fields["transform"] = [a, b, a * left + b * top + c, d, e, d * left + e * top + f]
    return _dumped(fields)


def without_tags(geo: bytes) -> bytes:
    """Return the georeference alone."""
    return _dumped({key: value for key, value in _loaded(geo).items() if key in _GEOREFERENCE})


def transform(geo: bytes) -> tuple[float, float, float, float, float, float] | None:
    """Return a, b, c, d, e, f of the transform; None if there is none."""
    with suppress(KeyError, TypeError, ValueError, OverflowError):
        a, b, c, d, e, f = (float(number) for number in _loaded(geo)["transform"])
        if all(map(math.isfinite, (a, b, c, d, e, f))):
            return a, b, c, d, e, f
    return None


def crs(geo: bytes) -> str | None:
    """Return the coordinate reference system, as `EPSG:code` or WKT; None if there is none."""
    found = _loaded(geo).get("crs")
    return found if isinstance(found, str) else None


def tags(geo: bytes) -> dict[str, str]:
    """Return the tags of the whole picture."""
    found = _loaded(geo).get("tags")
    return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def georeference(geo: bytes) -> tuple[str, tuple[float, ...]] | None:
    """Return the coordinate reference system and the transform; None unless there are both."""
    system, numbers = crs(geo), transform(geo)
    return None if system is None or numbers is None else (system, numbers)


def _loaded(geo: bytes) -> dict[str, Any]:
    """Return the fields of JSON; none if it is damaged."""
    with suppress(ValueError, RecursionError):
        found = json.loads(geo)
        return found if isinstance(found, dict) else {}
    return {}


def _dumped(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() if fields else b""


def installed() -> bool:
    """Return whether rasterio is installed."""
    with suppress(ImportError):
        return bool(importlib.import_module("rasterio"))
    return False


def require_gdal(name: str) -> None:
    """Raise an ImageError that says how to install rasterio if it is missing."""
    if not installed():
        raise ImageError(f"{name} needs GDAL, for its 16 bits, bands, nodata value or georeference: {INSTALL}")


def _rasterio(name: str) -> Any:
    require_gdal(name)
    return importlib.import_module("rasterio")
