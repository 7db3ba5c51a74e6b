"""TIFF files by GDAL: any number of bands of 8, 16 or 32 bits, and the georeference and tags of a GeoTIFF.

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
import shlex
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ImageError, reason
from refscale_codec.picture import levels, tiff
from refscale_codec.picture.levels import Number
from refscale_codec.picture.tiff import Page

INSTALL = "pip install 'refscale-codec[geo]'"

_DOMAINS_OF_FILES = {"IMAGE_STRUCTURE", "SUBDATASETS", "DERIVED_SUBDATASETS", "COLOR_PROFILE", "xml:XMP", "EXIF"}
_EXIF_TAGS = {  # as GDAL calls them; they are among the EXIF
    *("TIFFTAG_DOCUMENTNAME", "TIFFTAG_IMAGEDESCRIPTION", "TIFFTAG_SOFTWARE", "TIFFTAG_DATETIME", "TIFFTAG_ARTIST"),
    *("TIFFTAG_HOSTCOMPUTER", "TIFFTAG_COPYRIGHT", "TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION"),
    "TIFFTAG_RESOLUTIONUNIT",
}
WRITTEN = "16 or 32 bits, bands, nodata value or georeference"
"""What a TIFF that is to be written may need GDAL for."""

_IMPLIED_TAG = ("AREA_OR_POINT", "Area")  # GDAL sets it for every georeferenced file
_GEOREFERENCE = ("crs", "transform")
_TILES = 512, 256, 1024, 2048  # sides in pixels, the default first; overviews need powers of two
_CREATION = {"compress": "DEFLATE", "predictor": "YES", "bigtiff": "IF_SAFER"}


class Raster(NamedTuple):
    """The contents of a file."""

    pixels: NDArray[Any]  # [h, w, bands]
    alpha: NDArray[Any] | None  # [h, w]
    nodata: Number | None
    geo: bytes  # JSON; empty for none
    notes: list[str]  # for people: what is not kept as it is in the file


def decode(data: bytes, page: Page, name: str, most_pixels: int, most_samples: int) -> Raster:
    """Read a picture in the bytes of a TIFF file.

    Args:
        data: the whole file.
        page: the picture, from `tiff.read_page`.
        name: of the file, for messages.
        most_pixels: larger pictures are refused.
        most_samples: likewise, over all bands.

    Raises:
        ImageError: rasterio is not installed; alpha or a palette of unknown meaning; too large.
    """
    rasterio = _rasterio(name, tiff.gdal_reason(page) or "georeference")
    (width, height), count = page.size, page.samples
    if width * height > most_pixels or width * height * count > most_samples:
        raise ImageError(
            f"{name} has {width} x {height} pixels in {count} bands; at most {most_pixels:,} and "
            f"{most_samples:,} samples are read: split it"
        )
    try:
        with rasterio.MemoryFile(data, filename="picture.tif") as memory:
            with _opened(rasterio, memory, page) as file:
                pixels = _samples(file, page, name)
                found = _interpreted(file, pixels, page, name)
            for mask in page.masks:
                with _opened(rasterio, memory, mask) as file:
                    found = _masked(found, file.read(1) != 0)
            return found
    except rasterio.errors.RasterioError as error:  # its own text may only point to GDAL's
        raise ImageError(f"{name} is damaged or truncated: {reason(error.__cause__ or error)}") from error


def _opened(rasterio: Any, memory: Any, page: Page) -> Any:
    if page.first:
        return memory.open(driver="GTiff")
    return rasterio.open(f"GTIFF_DIR:off:{page.offset}:{memory.name}", driver="GTiff")


def _samples(file: Any, page: Page, name: str) -> NDArray[Any]:
    types = set(file.dtypes)
    if (file.width, file.height, file.count) != (*page.size, page.samples) or len(types) != 1:
        raise ImageError(f"{name} is not read by GDAL as its tags say")
    if not types <= {dtype.name for dtype in levels.READ}:
        raise ImageError(f"{name} has samples of {', '.join(sorted(types))}; refscale codes {levels.NAMES}")
    pixels = np.empty((file.height, file.width, file.count), file.dtypes[0])
    for band in range(file.count):
        pixels[..., band] = file.read(band + 1)
    return pixels


def _interpreted(file: Any, samples: NDArray[Any], page: Page, name: str) -> Raster:
    """Return what samples mean by the tags that say so: grey, RGB or other bands, and straight alpha."""
    kinds = [kind.name for kind in file.colorinterp]
    if not page.palette:
        kinds = ["gray" if kind == "palette" else kind for kind in kinds]  # GDAL's way to show few bits, or white as 0
    alphas = [band for band, kind in enumerate(kinds) if kind == "alpha"]
    if len(alphas) == len(kinds) or len(alphas) > 1:
        what = "nothing but alpha" if len(alphas) == len(kinds) else f"{len(alphas)} bands of alpha"
        raise ImageError(
            f"{name} has {what}: say what its bands are with `gdal_edit.py -colorinterp_1 gray {shlex.quote(name)}`"
        )
    order = sorted(range(len(kinds)), key=lambda band: kinds[band] == "alpha")
    kinds = [kinds[band] for band in order]
    fields, notes = _fields(file, kinds, order)
    if order != sorted(order):
        notes.append(f"band {order[-1] + 1} is alpha, and becomes the last band")
    samples, nodata, narrowed = levels.narrowed(samples, file.nodata)
    notes += narrowed
    nodata = _nodata(nodata, samples.dtype, notes)
    pixels = samples[..., order[: len(order) - len(alphas)]]
    alpha = samples[..., alphas[0]].copy() if alphas else None
    if page.palette:
        notes.append("palette picture, converted to its colours")
        if nodata is not None:
            alpha = np.full(samples.shape[:2], levels.opaque(samples.dtype)) if alpha is None else alpha
            alpha[pixels[..., 0] == nodata] = 0
        pixels, nodata = page.colours[pixels[..., 0]], None
        if alpha is not None and alpha.dtype != np.uint8:
            alpha = (alpha >> 8).astype(np.uint8)
        fields = {key: fields[key] for key in fields if key in (*_GEOREFERENCE, "tags")}
    elif page.bits < 8 or page.white_is_zero:
        pixels, nodata = _as_grey(pixels, nodata, page, fields, notes)
    if alpha is not None and page.bits < 8:
        alpha = _widened(alpha, page.bits)
    if alpha is not None and alphas and page.premultiplied(alphas[0]):
        notes.append("premultiplied alpha, converted to straight colours")
        pixels = _straight(pixels, alpha, nodata)
    return Raster(np.ascontiguousarray(pixels), alpha, nodata, _dumped(fields), notes)


def _nodata(value: float | None, dtype: np.dtype[Any], notes: list[str]) -> Number | None:
    """Return a nodata value that a sample can have; a note is added for another one."""
    if value is None:
        return None
    if dtype.kind != "f" and float(value).is_integer():
        value = int(value)
    if levels.can_be(dtype, value):
        return value
    notes.append(f"nodata value {value:g} is left out: no sample can have it")
    return None


def _as_grey(
    pixels: NDArray[Any], nodata: Number | None, page: Page, fields: dict[str, Any], notes: list[str]
) -> tuple[NDArray[Any], Number | None]:
    """Return samples of less than 8 bits over all 8 bits, and inverted if 0 is white; likewise the nodata value.

    Scale and offset in `fields` then give the same values for the new samples.
    """
    values = np.append(pixels.ravel(), pixels.dtype.type(nodata or 0))
    top = (1 << page.bits) - 1
    if page.bits < 8:
        notes.append(f"samples of {page.bits} bit{'s' * (page.bits > 1)}, scaled to 8 bits")
        values = _widened(values, page.bits)
    factor = (255 if page.bits < 8 else top) / top
    if page.white_is_zero:
        notes.append("0 is white in it: samples are inverted")
        values = values.dtype.type(top * factor) - values
    if "scales" in fields or "offsets" in fields:
        count = pixels.shape[2]
        scales, offsets = fields.get("scales", [1.0] * count), fields.get("offsets", [0.0] * count)
        if page.white_is_zero:
            offsets = [offset + scale * top for scale, offset in zip(scales, offsets, strict=True)]
            factor = -factor
        fields["scales"], fields["offsets"] = [scale / factor for scale in scales], offsets
    return values[:-1].reshape(pixels.shape), None if nodata is None else int(values[-1])


def _widened(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return samples of less than 8 bits scaled to 0..255, rounded."""
    top = (1 << bits) - 1
    return ((2 * 255 * samples.astype(np.uint16) + top) // (2 * top)).astype(np.uint8)


def _straight(pixels: NDArray[Any], alpha: NDArray[Any], nodata: Number | None) -> NDArray[Any]:
    """Return premultiplied colours divided by alpha, rounded; 0 where alpha is 0."""
    straight = np.empty_like(pixels)
    full = levels.opaque(alpha.dtype)
    for band in range(pixels.shape[2]):
        plane = pixels[..., band]
        if plane.dtype.kind == "f":
            divided = plane / np.where(alpha > 0, alpha, full)
        else:
            opacity = np.maximum(alpha, 1).astype(np.int64)
            divided = ((2 * int(full) * plane.astype(np.int64) + opacity) // (2 * opacity)).clip(0, int(full))
        straight[..., band] = np.where(plane == nodata, plane, np.where(alpha > 0, divided, 0))
    return straight


def _masked(raster: Raster, valid: NDArray[np.bool_]) -> Raster:
    """Return a picture whose alpha is 0 where a mask says that it is not valid."""
    alpha = np.full(valid.shape, levels.opaque(raster.pixels.dtype))
    alpha = np.where(valid, alpha if raster.alpha is None else raster.alpha, alpha.dtype.type(0))
    note = "its mask becomes alpha" if raster.alpha is None else "its mask is joined to its alpha"
    return raster._replace(alpha=alpha, notes=[*raster.notes, note])


def _fields(file: Any, kinds: list[str], order: list[int]) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of a file's metadata, and notes on what is left out.

    Args:
        file: the open file.
        kinds: the colour interpretations of its bands, alpha the last.
        order: which of the file's bands these are.
    """
    fields: dict[str, Any] = {}
    if file.crs is not None:
        code, whole = file.crs.to_string(), file.crs.to_wkt()
        same = type(file.crs).from_user_input(code).to_wkt() == whole
        fields["crs"] = code if same else whole
    if not file.transform.is_identity:
        fields["transform"] = list(file.transform)[:6]
    alpha = kinds[-1] == "alpha"
    tags = {key: value for key, value in file.tags().items() if (key, value) != _IMPLIED_TAG and key not in _EXIF_TAGS}
    for key, values, default in (
        ("tags", tags, {}),
        ("band_tags", [file.tags(band + 1) for band in order], [{} for _ in order]),
        ("descriptions", [file.descriptions[band] for band in order], [None] * file.count),
        ("units", [file.units[band] or None for band in order], [None] * file.count),
        ("scales", [file.scales[band] for band in order], [1.0] * file.count),
        ("offsets", [file.offsets[band] for band in order], [0.0] * file.count),
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
    return fields, notes


def _default_interpretations(bands: int) -> list[str]:
    """Return the default colour interpretations of bands, without alpha."""
    return ["red", "green", "blue"] if bands == 3 else ["gray"] + ["undefined"] * (bands - 1)


def encode(
    pixels: NDArray[Any], alpha: NDArray[Any] | None, nodata: Number | None, geo: bytes, icc: bytes, name: str
) -> bytes:
    """Return a Cloud Optimized GeoTIFF, deflated.

    Args:
        pixels: [h, w, bands] of a type of `levels.TYPES`.
        alpha: [h, w] of the same type; it becomes the last band.
        nodata: the nodata value.
        geo: JSON as from `decode`.
        icc: colour profile, or empty.
        name: of the file, for messages.

    Raises:
        ImageError: rasterio is not installed.
        Exception: nearly any, for a `geo` that GDAL does not accept.
    """
    rasterio = _rasterio(name, WRITTEN)
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


def interpretations(geo: bytes, bands: int) -> list[str]:
    """Return the colour interpretations of a picture's bands, without alpha, by GDAL's names in lower case."""
    found = _loaded(geo).get("interpretations")
    return [str(name) for name in found][:bands] if isinstance(found, list) else _default_interpretations(bands)


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


def require_gdal(name: str, what: str) -> None:
    """Raise an ImageError that says how to install rasterio if it is missing; `what` needs it."""
    if not installed():
        raise ImageError(f"{name} needs GDAL, for its {what}: {INSTALL}")


def _rasterio(name: str, what: str) -> Any:
    require_gdal(name, what)
    return importlib.import_module("rasterio")
