"""TIFF files by GDAL: any number of bands of 8, 16 or 32 bits, and the georeference and tags of a GeoTIFF.

GDAL comes with rasterio, an extra, which is imported when it is needed. Functions here take and return arrays and
bytes; `pictures` has pictures, `geo` the fields of the metadata.
"""

import base64
import importlib
import logging
import shlex
import threading
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ImageError, RefscaleError
from refscale_codec.picture import geo, levels
from refscale_codec.picture.geo import Fields
from refscale_codec.picture.io import formats, gdal_fields, tiff
from refscale_codec.picture.io.tiff import Page
from refscale_codec.picture.levels import Number

INSTALL = "pip install 'refscale-codec[geo]'"

WRITTEN = "16 or 32 bits, bands, nodata value or georeference"
"""What a TIFF that is to be written may need GDAL for."""

_COLOURS = {"gray", "red", "green", "blue"}  # interpretations of bands that alpha may have been multiplied with
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
        ImageError: rasterio is not installed; alpha or a palette of unknown meaning; too large; damaged; a compression
            that GDAL does not decode.
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
        why = gdal_fields.why(error)
        if "missing codec" in why or page.compression == tiff.JPEG and page.bits > 8:
            raise ImageError(formats.undecoded(name, page.compression, page.bits)) from error
        if "Unsupported" in why:
            raise ImageError(f"{name} is a TIFF of a kind that GDAL does not decode: {why}") from error
        raise ImageError(f"{name} is damaged or truncated: {why}") from error


def _opened(rasterio: Any, memory: Any, page: Page) -> Any:
    if page.first:
        return memory.open(driver="GTiff")
    return rasterio.open(f"GTIFF_DIR:off:{page.offset}:{memory.name}", driver="GTiff")


def _samples(file: Any, page: Page, name: str) -> NDArray[Any]:
    types = set(file.dtypes)
    if (file.width, file.height, file.count) != (*page.size, page.samples) or len(types) != 1:
        raise ImageError(f"{name} is damaged: GDAL finds another size or other bands in it than its tags say")
    if not types <= {dtype.name for dtype in levels.READ}:
        raise ImageError(f"{name} has samples of {', '.join(sorted(types))}; refscale codes {levels.NAMES}")
    pixels = np.empty((file.height, file.width, file.count), file.dtypes[0])
    warnings, logger = _Warnings(), logging.getLogger("rasterio")
    if page.fax:
        logger.addHandler(warnings)
    try:
        for band in range(file.count):
            pixels[..., band] = file.read(band + 1)
    finally:
        logger.removeHandler(warnings)
    if warnings.found:
        raise ImageError(f"{name} is damaged or truncated: {gdal_fields.plain(warnings.found[0])}")
    return pixels


class _Warnings(logging.Handler):
    """Collects the warnings that rasterio logs in the thread that made it.

    GDAL only warns of fax data that end early, and fills with white or black.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.thread, self.found = threading.get_ident(), list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.found.append(record.getMessage())


def _interpreted(file: Any, samples: NDArray[Any], page: Page, name: str) -> Raster:
    """Return what samples mean by the tags that say so: grey, RGB or other bands, and straight alpha."""
    kinds = [kind.name for kind in file.colorinterp]
    if not page.palette:
        kinds = ["gray" if kind == "palette" else kind for kind in kinds]  # GDAL's way to show few bits, or white as 0
    if page.white_is_zero:
        kinds[0] = "gray"
    alphas = [band for band, kind in enumerate(kinds) if kind == "alpha"]
    if len(alphas) == len(kinds) or len(alphas) > 1:
        alone = len(kinds) == 1
        what = "nothing but alpha" if alone else f"{len(alphas)} bands of alpha"
        meaning = "-colorinterp_1 gray" if alone else f"-colorinterp_{alphas[-1] + 1} undefined"
        raise ImageError(f"{name} has {what}: say what its bands are with `gdal_edit.py {meaning} {shlex.quote(name)}`")
    order = sorted(range(len(kinds)), key=lambda band: kinds[band] == "alpha")
    kinds = [kinds[band] for band in order]
    fields, left_out = gdal_fields.read(file, kinds, order)
    if page.palette:  # the bands become others
        kept = {key: fields[key] for key in fields if key in (*geo.GEOREFERENCE, "tags")}
        lost = [key for key in fields if key not in (*kept, "interpretations")]
        left_out += [gdal_fields.named(key, "of the palette's indices") for key in lost]
        fields = kept
    notes = [f"left out: {', '.join(left_out)}"] if left_out else []
    if order != sorted(order):
        notes.append(f"band {order[-1] + 1} is alpha, and becomes the last band")
    samples, nodata, narrowed = levels.narrowed(samples, file.nodata)
    notes += narrowed
    nodata = nodata_of(nodata, samples.dtype, notes)
    if file.nodata is None and page.nodata:  # rasterio gives none that the type does not hold
        notes.append(f"nodata value {page.nodata} is left out: no sample can have it")
    if file.nodata is not None and page.nodata and not _is_number(page.nodata):
        notes.append(f"nodata value {page.nodata[:40]!r} is no number; it is read as {file.nodata:g}, as GDAL does")
    pixels = samples[..., order[: len(order) - len(alphas)]]
    alpha = samples[..., alphas[0]].copy() if alphas else None
    notes += page.conversions
    if page.palette:
        if nodata is not None:
            alpha = np.full(samples.shape[:2], levels.opaque(samples.dtype)) if alpha is None else alpha
            alpha[pixels[..., 0] == nodata] = 0
        pixels, nodata = page.colours[pixels[..., 0]], None
        if alpha is not None and alpha.dtype != np.uint8:
            alpha = (alpha >> 8).astype(np.uint8)
    elif page.bits < 8 or page.white_is_zero:
        pixels, nodata = _as_grey(pixels, nodata, page, fields)
    if alpha is not None and page.bits < 8:
        alpha = _widened(alpha, page.bits)
    if alpha is not None and alphas and page.premultiplied(alphas[0]):
        notes.append("premultiplied alpha, converted to straight colours")
        pixels = _straight(pixels, kinds, alpha, nodata)
    return Raster(np.ascontiguousarray(pixels), alpha, nodata, geo.dumped(fields), notes)


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return "_" not in text  # which only Python skips
    return False


def nodata_of(value: float | None, dtype: np.dtype[Any], notes: list[str]) -> Number | None:
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
    pixels: NDArray[Any], nodata: Number | None, page: Page, fields: dict[str, Any]
) -> tuple[NDArray[Any], Number | None]:
    """Return samples of less than 8 bits over all 8 bits, and inverted if 0 is white; likewise the nodata value.

    Scale and offset in `fields` then give the same values for the new samples.
    """
    values = np.append(pixels.ravel(), pixels.dtype.type(nodata or 0))
    top = (1 << page.bits) - 1
    if page.bits < 8:
        values = _widened(values, page.bits)
    factor = (255 if page.bits < 8 else top) / top
    if page.white_is_zero:
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


def _straight(pixels: NDArray[Any], kinds: list[str], alpha: NDArray[Any], nodata: Number | None) -> NDArray[Any]:
    """Return premultiplied colours divided by alpha, rounded, and 0 where alpha is 0; other bands as they are."""
    straight = pixels.copy()
    full = levels.opaque(alpha.dtype)
    for band in (band for band in range(pixels.shape[2]) if kinds[band] in _COLOURS):
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
    notes = [*raster.notes, "its mask becomes alpha" if raster.alpha is None else "its mask is joined to its alpha"]
    alpha, nodata, fields = masked_alpha(raster.pixels, raster.alpha, raster.nodata, valid, raster.geo)
    if nodata is None and raster.nodata is not None:
        notes.append(f"nodata value {raster.nodata:g} is left out: the mask says what is valid")
    return raster._replace(alpha=alpha, nodata=nodata, geo=fields, notes=notes)


def masked_alpha(
    pixels: NDArray[Any], alpha: NDArray[Any] | None, nodata: Number | None, valid: NDArray[np.bool_], fields: bytes
) -> tuple[NDArray[Any], Number | None, bytes]:
    """Return alpha [h, w], nodata value and georeference of a picture that gets a mask.

    Alpha is to be written as a mask again where GDAL would not take it for one: beside a nodata value, which has
    precedence over alpha and not over a mask, or if `_is_opacity` is false. Joined to an alpha of the picture's own, it
    takes nodata's place.

    Args:
        pixels: [h, w, bands].
        alpha: that it has already, or None.
        nodata: its nodata value.
        valid: the mask, [h, w].
        fields: its georeference, see `geo`.
    """
    if alpha is None:
        alpha = np.full(valid.shape, levels.opaque(pixels.dtype))
        fields = geo.with_alpha(fields, mask=nodata is not None or not _is_opacity(pixels))
    else:
        nodata = None
    return np.where(valid, alpha, alpha.dtype.type(0)), nodata, fields


def _is_opacity(pixels: NDArray[Any]) -> bool:
    """Return whether GDAL takes an alpha band for what is valid beside such bands."""
    return pixels.dtype in (np.uint8, np.uint16) and pixels.shape[2] in (1, 3)


def alpha_is_mask(alpha: NDArray[Any], fields: Fields) -> bool:
    """Return whether alpha [h, w] is written as a mask: it is from one, and nothing between 0 and opaque."""
    return "mask" in fields and bool(((alpha == 0) | (alpha == levels.opaque(alpha.dtype))).all())


def unused_alpha(pixels: NDArray[Any], alpha: NDArray[Any] | None, fields: Fields) -> bool:
    """Return whether alpha is written as a band that GDAL does not take for what is valid."""
    return alpha is not None and not _is_opacity(pixels) and not alpha_is_mask(alpha, fields)


def encode(
    pixels: NDArray[Any], alpha: NDArray[Any] | None, nodata: Number | None, fields: Fields, icc: bytes, name: str
) -> bytes:
    """Return a Cloud Optimized GeoTIFF, deflated.

    Args:
        pixels: [h, w, bands] of a type of `levels.TYPES`.
        alpha: [h, w] of the same type; it becomes the last band, or a mask, see `alpha_is_mask`.
        nodata: the nodata value.
        fields: see `geo`.
        icc: colour profile, or empty.
        name: of the file, for messages.

    Raises:
        ImageError: rasterio is not installed.
        Exception: nearly any, for a field that GDAL does not accept, see `writable`.
    """
    rasterio = _rasterio(name, WRITTEN)
    height, width = pixels.shape[:2]
    mask = None
    if alpha is not None and alpha_is_mask(alpha, fields):
        mask, alpha, fields = alpha != 0, None, geo.without_alpha(fields)
    planes = [*pixels.transpose(2, 0, 1), *([] if alpha is None else [alpha])]
    kinds = fields.get("interpretations", geo.usual_interpretations(pixels.shape[2], alpha is not None))
    options = {
        "driver": "GTiff", "height": height, "width": width, "count": len(planes),
        "dtype": pixels.dtype.name, "nodata": nodata,
        "photometric": "RGB" if kinds[:3] == ["red", "green", "blue"] else "MINISBLACK",
    }  # fmt: skip
    if icc:
        options["SOURCE_ICC_PROFILE"] = base64.b64encode(icc).decode()
    inside = rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True)  # the mask, which is in no file of its own
    with inside, rasterio.MemoryFile() as memory, rasterio.MemoryFile() as made:
        with memory.open(**options) as file:
            file.colorinterp = [rasterio.enums.ColorInterp[kind] for kind in kinds]
            for band, plane in enumerate(planes, start=1):
                file.write(plane, band)
            if mask is not None:
                file.write_mask(mask)
            gdal_fields.write(file, fields)
        with memory.open() as file:
            importlib.import_module("rasterio.shutil").copy(
                file, made.name, driver="COG", blocksize=_tile(height, width), **_CREATION
            )
        return bytes(made.read())


def writable(fields: Fields, bands: int, alpha: bool, dtype: np.dtype[Any]) -> tuple[Fields, list[str]]:
    """Return the fields that GDAL writes and reads again, and the names of the others, with the reason.

    Each is tried in a file of one pixel.
    """
    pixels, opacity = np.zeros((1, 1, bands), dtype), np.zeros((1, 1), dtype) if alpha else None
    left_out = []
    for name in [name for name in fields if name not in ("gcp_crs", "mask")]:
        alone = {key: fields[key] for key in (name, *(("gcp_crs",) if name == "gcps" else ())) if key in fields}
        try:
            data = encode(pixels, opacity, None, alone, b"", "the picture")
            raster = decode(data, tiff.read_page(data, name, None), name, 1, bands + 1)
            missing = set(alone) - set(geo.fields_of(raster.geo)) - {"interpretations"}
            failed = "GDAL does not keep it" if missing else ""
        except Exception as error:  # of GDAL or PROJ
            failed = gdal_fields.why(error)
        if failed:
            left_out.append(gdal_fields.named(name, failed))
            fields = {key: value for key, value in fields.items() if key not in alone}
    return fields, left_out


def _tile(height: int, width: int) -> int:
    """Return the side of a file's tiles, in pixels.

    Validators take a picture or an overview for untiled if it is exactly as wide as one tile, so that is avoided.
    """
    columns = set()
    while height > _TILES[0]:
        columns.add(width)
        height, width = -(-height // 2), -(-width // 2)
    return next((side for side in _TILES if side not in columns), _TILES[0])


def installed() -> bool:
    """Return whether rasterio is installed."""
    with suppress(ImportError):
        return bool(importlib.import_module("rasterio"))
    return False


def require_gdal(name: str, what: str, error: type[RefscaleError] = ImageError) -> None:
    """Raise an error that says how to install rasterio if it is missing; `what` needs it."""
    if not installed():
        raise error(f"{name} needs GDAL, for its {what}: {INSTALL}")


def _rasterio(name: str, what: str) -> Any:
    require_gdal(name, what)
    return importlib.import_module("rasterio")
