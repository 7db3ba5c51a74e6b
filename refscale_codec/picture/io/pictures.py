"""Files of pictures <-> `Image`.

`pillow` reads and writes PNG, JPEG, WebP and plain TIFF. Which
decoder a TIFF has follows from what is in it: `tiff` finds its pictures and their kinds, Pillow decodes grey, palettes
and RGB of up to 8 bits without loss in the compression, and GDAL (`geotiff`) everything else. What is installed decides
only whether a file is read, never to which samples. `formats` lists what each format can hold.

Pixels are read **as stored**. An orientation tag (EXIF in JPEG, PNG and WebP, tag 274 in TIFF) is not applied: it is
metadata for viewers, while picture and reference share the stored pixel grid. Pillow applies the tag to TIFF; that is
undone. So the tag stays valid for the pixels, and is kept with the rest of the EXIF. What tells how samples are to be
understood is applied: palettes, few bits, white as 0, premultiplied alpha, masks.

Colour profile, EXIF, XMP and georeference are kept as bytes. A TIFF has no EXIF block: its EXIF tags are collected into
one, and written as tags again (`exif`). Whether a format can hold a part is tested by writing a picture of one pixel.

Deliberately absent: lossy output. A decoded picture saved as JPEG would be coded twice.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ImageError, OutputError, reason
from refscale_codec.picture import files, geo
from refscale_codec.picture.image import MAX_BANDS, MAX_PIXELS, MAX_SAMPLES, MAX_SIDE, Image
from refscale_codec.picture.io import exif, extent, formats, geotiff, pillow, sidecars, tiff
from refscale_codec.picture.io.sidecars import Sidecar
from refscale_codec.picture.metadata import NAMES, Metadata, parts_of, without_other_profile

_log = logging.getLogger(__name__)


def read(path: Path, *, page: int | None = None, need_georeference: bool = True) -> Image:
    """Read a PNG, JPEG, WebP or TIFF file, and the files beside it that say more of it; see `from_bytes`.

    Raises:
        ImageError: there is no such file, it cannot be read, or `from_bytes` refuses it.
    """
    data, beside = _contents(path), sidecars.beside(Path(path))
    found = from_bytes(data, str(path), page=page, need_georeference=need_georeference, beside=beside)
    return replace(found, name=Path(path).name)


def _contents(path: Path) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return files.contents(file, str(path), most_bytes)
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder, not a picture") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read {path}: {reason(error)}") from error


def most_bytes(head: bytes, name: str) -> int:
    """Return the most bytes of a picture file that are read, by its first bytes; ImageError for another kind of file.

    They are twice those of the most samples, as floats, or fewer where the picture's own size is there already.
    """
    if head and not formats.readable(head):
        raise ImageError(formats.unreadable(head, name))
    return min(8 * MAX_SAMPLES, extent.most_bytes(head) or 8 * MAX_SAMPLES)


def from_bytes(
    data: bytes,
    name: str,
    *,
    page: int | None = None,
    need_georeference: bool = True,
    beside: Sequence[Sidecar] = (),
) -> Image:
    """Decode a picture in the bytes of a PNG, JPEG, WebP or TIFF file.

    The format follows from the bytes, not from the name. A truncated file is refused; a changed byte is detected if the
    format has checksums (PNG, deflated TIFF), and otherwise may give other pixels. Conversions are reported through
    `logging`: of a palette to its colours, and of samples of 1 to 4 bits to 8 bits. Warnings of Pillow and rasterio (of
    damaged EXIF, say) remain Python warnings.

    Settings of Pillow are left as the program has them: `PIL.Image.MAX_IMAGE_PIXELS` limits the size (by default to 179
    million pixels), and truncated files are read if `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` is set.

    Args:
        data: The whole file.
        name: Of the file, for messages: its path, or `standard input`.
        page: Which of several pictures, from 1; None for the only one. Overviews, previews and masks of a TIFF are not
            counted; a JPEG's primary picture is read without it.
        need_georeference: Whether the georeference must be read. If not, it is left out where only rasterio could read
            it and rasterio is not installed: the pixels of an 8-bit GeoTIFF in grey or RGB are the same without it.
        beside: The files beside it, from `sidecars.beside`; they belong to the first picture.

    Raises:
        ImageError: not such a file; damaged or truncated; more than `MAX_PIXELS` or `MAX_BANDS`; CMYK, CIELAB or YCbCr;
            samples of a type that is not in `levels.READ`; several pictures and no `page`; or rasterio is needed and
            not installed.
    """
    if not data:
        raise ImageError(f"{name} is empty")
    try:
        image, notes = _decode(data, name, page, need_georeference)
        if beside and page in (None, 1):
            image, more = sidecars.applied(image, data, name, list(beside))
            notes += more
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(
            f"{name} is too large to be decoded here ({reason(error)}); at most {MAX_PIXELS:,} pixels are read"
        ) from error
    except Exception as error:  # a decoder fed with hostile bytes raises nearly anything
        raise ImageError(f"{name} is damaged or truncated: {reason(error)}") from error
    if image.longest > MAX_SIDE:
        raise ImageError(f"{name} has a side of {image.longest:,} pixels; at most {MAX_SIDE:,} are read: split it")
    for note in dict.fromkeys(notes):
        _log.warning("%s: %s", name, note)
    return replace(image, metadata=without_other_profile(image.metadata, image.bands, name))


def _decode(data: bytes, name: str, page: int | None, need_georeference: bool) -> tuple[Image, list[str]]:
    """Return a picture, and notes for people on what is not kept as it is in the file; for errors see `from_bytes`."""
    if not tiff.is_tiff(data):
        samples, metadata, notes = pillow.decode(data, name, page, MAX_PIXELS)
        return _with_alpha(samples, exif.without_same_resolution(metadata)), notes
    chosen = tiff.read_page(data, name, page)
    tiff.require_blocks(chosen, data, name)
    metadata, notes = exif.of_page(chosen, data)
    notes += chosen.notes
    if not tiff.gdal_reason(chosen) and not _read_by_gdal(chosen, name, need_georeference):
        return _with_alpha(pillow.decode_tiff(data, chosen, name, MAX_PIXELS), metadata), notes + chosen.conversions
    raster = geotiff.decode(data, chosen, name, MAX_PIXELS, MAX_SAMPLES)
    if raster.pixels.shape[2] > MAX_BANDS:
        raise ImageError(f"{name} has {raster.pixels.shape[2]} bands; at most {MAX_BANDS} are coded")
    image = Image(raster.pixels, replace(metadata, geo=raster.geo), raster.alpha, raster.nodata)
    return image, notes + raster.notes


def _with_alpha(samples: NDArray[Any], metadata: Metadata) -> Image:
    """Return a picture of samples [h, w, 1..4] whose last band is alpha if there are 2 or 4."""
    if samples.shape[2] % 2:
        return Image(np.ascontiguousarray(samples), metadata)
    return Image(np.ascontiguousarray(samples[..., :-1]), metadata, samples[..., -1].copy())


def _read_by_gdal(page: tiff.Page, name: str, need_georeference: bool) -> bool:
    """Return whether GDAL reads a picture that Pillow decodes to the same samples: for its georeference.

    Raises:
        ImageError: the georeference is needed and rasterio is not installed.
    """
    if not page.georeferenced:
        return False
    if need_georeference and not geotiff.installed():
        raise ImageError(
            f"{name} is a GeoTIFF, and GDAL is needed for its georeference: {geotiff.INSTALL}; to encode it without, "
            "give --strip, or strip=True in Python"
        )
    return geotiff.installed()


def read_rgb(path: Path) -> Image:
    """Read a picture that must be 8-bit RGB without alpha, as measuring and training need it; see `read`.

    Raises:
        ImageError: as `read`, and for any other kind.
    """
    image = from_bytes(_contents(path), str(path), need_georeference=False)
    if image.kind != "8-bit RGB" or image.alpha is not None:
        with_alpha = "" if image.alpha is None else " with alpha"
        advice = f": {formats.to_rgb(str(path))}" if image.pixels.dtype == np.uint8 else ""
        raise ImageError(f"{path} is {image.kind}{with_alpha}, but 8-bit RGB is needed here{advice}")
    return image


def write(image: Image, path: Path, format: str | None = None) -> None:
    """Write a picture losslessly and atomically; see `to_bytes`.

    Args:
        image: The picture.
        path: Of the file; an existing one is replaced.
        format: `png`, `webp` or `tiff`; None takes it from the path's suffix.

    Raises:
        UsageError: an unknown or lossy format, or one that does not hold such a picture.
        OutputError: no such folder, or writing fails. An existing file is then unchanged.
    """
    path = Path(path)
    data = to_bytes(image, format if format is not None else formats.of_path(path))
    files.write_atomically(path, data)


def to_bytes(image: Image, format: str) -> bytes:
    """Return the bytes of a lossless picture file with the picture's metadata.

    Metadata and a nodata value that the format cannot hold are left out, with a warning through `logging`. TIFF holds
    EXIF as tags: numbers and plain text are kept, but not every byte, nor an embedded preview, which is logged, too;
    such a TIFF is not compressed. A TIFF of other samples than 8-bit grey or RGB, with a nodata value or with a
    georeference is written as Cloud Optimized GeoTIFF.

    Args:
        image: The picture.
        format: `png`, `webp` (lossless) or `tiff`; case does not matter.

    Raises:
        UsageError: an unknown or lossy format, or a picture too large for it or of bands that it does not hold.
        OutputError: it needs GDAL, which is not installed, or the library that writes the format fails.
    """
    kind = formats.named(format)
    formats.require_support(kind, image.pixels.dtype, image.bands, image.longest)
    if kind == "webp" and image.bands == 1:
        _log.warning("WebP has no grey pictures: written as RGB; PNG and TIFF keep grey")
    if kind == "png" and image.kind == "16-bit grey" and image.alpha is not None:
        _log.warning("16-bit grey with alpha is written to PNG as RGB with alpha; TIFF keeps grey")
    if kind in ("png", "webp") and image.nodata is not None:
        _log.warning(
            "%s cannot hold the nodata value %g, left out; TIFF can",
            formats.NAMES[kind],
            image.nodata,
        )
    variant = _variant(image, kind)
    if variant == "geotiff":
        geotiff.require_gdal("a TIFF of this picture", geotiff.WRITTEN, OutputError)
        if geotiff.unused_alpha(image.pixels, image.alpha, geo.fields_of(image.metadata.geo)):
            _log.warning("alpha is a band like others for GDAL, unless it is beside 1 or 3 bands of uint8 or uint16")
    written = 3 if kind == "webp" or kind == "png" and image.alpha is not None and image.pixels.itemsize == 2 else 1
    said = exif.with_resolution(image.metadata) if kind == "png" else image.metadata
    metadata = without_other_profile(said, max(written, image.bands), formats.NAMES[variant])
    metadata = _supported_metadata(replace(image, metadata=metadata), variant)
    try:
        return _encode(replace(image, metadata=metadata), variant)
    except (OSError, ValueError, MemoryError) as error:
        raise OutputError(
            f"cannot store a picture of {image.width} x {image.height} as {formats.NAMES[variant]}: {reason(error)}"
        ) from error


def _variant(image: Image, kind: str) -> str:
    """Return `geotiff` for a TIFF that needs GDAL, else the format."""
    gdal = kind == "tiff" and formats.needs_gdal(image.pixels.dtype, image.bands, image.nodata, image.metadata.geo)
    return "geotiff" if gdal else kind


def _encode(image: Image, variant: str) -> bytes:
    metadata = image.metadata
    if variant == "geotiff":
        data = geotiff.encode(
            image.pixels, image.alpha, image.nodata, geo.fields_of(metadata.geo), metadata.icc, "the picture"
        )
        return exif.with_tags(data, metadata)
    samples = image.pixels if image.alpha is None else np.dstack([image.pixels, image.alpha])
    return pillow.encode(samples, variant, metadata)


def _supported_metadata(image: Image, variant: str) -> Metadata:
    """Return the metadata that a format can hold, and log in one line what it cannot hold, or not byte for byte."""
    if image.metadata.geo and variant == "geotiff":
        image = replace(image, metadata=replace(image.metadata, geo=_writable(image)))
    supported = image.metadata
    kinds = formats.supporting(image.pixels.dtype, image.bands, image.longest)
    others = [other for other in (_variant(image, kind) for kind in kinds) if other != variant]
    left_out: dict[str, list[str]] = {}  # by the formats that can hold them
    for name, part in parts_of(supported).items():
        back = _round_trip(image, variant, name) if part else part
        if part and not back:
            supported = replace(supported, **{name: b""})
            able = formats.listed([other for other in others if _round_trip(image, other, name)])
            left_out.setdefault(able, []).append(f"the {NAMES[name]} ({len(part):,} bytes)")
        elif back != part and name == "exif":
            _log.warning(f"{formats.NAMES[variant]} holds the {NAMES[name]} as tags, not byte for byte")
    if variant in ("tiff", "geotiff") and supported.resolution and exif.other_resolution(supported):
        _log.warning("TIFF has one resolution: that of the EXIF is written, the other one is left out; PNG holds both")
    for able, parts in left_out.items():
        text = f"{formats.NAMES[variant]} cannot hold {', '.join(parts)}, left out"
        _log.warning(f"{text}; {able} can" if able else text)
    return supported


def _writable(image: Image) -> bytes:
    """Return what a GeoTIFF holds of the georeference, and log what it does not hold, with the reason."""
    try:
        fields = geo.parse(image.metadata.geo)
        fields, left_out = geotiff.writable(fields, image.bands, image.alpha is not None, image.pixels.dtype)
    except ValueError as error:
        fields, left_out = {}, [f"all ({error})"]
    if left_out:
        _log.warning("GeoTIFF: left out of the %s: %s", NAMES["geo"], ", ".join(left_out))
    return geo.dumped(fields)


def _round_trip(image: Image, variant: str, name: str) -> bytes:
    """Return a part of the metadata as it is read from a file of one pixel; empty if that fails."""
    if name == "resolution" and variant in ("tiff", "geotiff"):  # where it is part of the EXIF
        return image.metadata.resolution
    alone = Metadata(**{name: getattr(image.metadata, name)})
    alpha = None if image.alpha is None else image.alpha[:1, :1]
    try:
        data = _encode(replace(image, pixels=image.pixels[:1, :1], alpha=alpha, metadata=alone), variant)
        return bytes(getattr(_decode(data, variant, None, True)[0].metadata, name))
    except Exception:  # hostile metadata, which may not be writable, or make the file unreadable
        return b""
