"""PNG, JPEG, WebP and plain TIFF <-> samples and metadata: Pillow, and OpenCV for 16-bit PNG.

Kinds of pictures that are not coded are refused by name, with a way to convert them. Pillow would open many of them and
silently change them: it reduces 16-bit RGB to 8 bits, drops the fourth band of a TIFF that does not declare what the
band is, and decodes the first page of many. These cases are detected here and in `tiff`.

Nothing global is changed: Pillow's limits are those of the program (see docs/decisions/picture-files.md).
"""

import io
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageFile
import PIL.PngImagePlugin
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from refscale_codec.errors import ImageError
from refscale_codec.picture.io import chunks, exif, formats, jpeg, png, tiff
from refscale_codec.picture.metadata import Metadata

_SAVE_OPTIONS: dict[str, dict[str, object]] = {
    "png": {},
    "webp": {"lossless": True, "exact": True},  # exact keeps the colours of fully transparent pixels
    "tiff": {"compression": "tiff_adobe_deflate"},
}

_COLOURS = {"1": "L", "L": "L", "LA": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBA": "RGBA"}
"""Pillow's modes and what they are converted to; others are refused."""

_BACK_TO_STORED = {  # orientation: the inverse of the transposition that Pillow applies to such a TIFF
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_90,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_270,
}

_NAMES = {"1": "black and white", "P": "palette", "PA": "palette", "CMYK": "CMYK"}  # for messages

_ENTRIES, _ENTRY = 0xB002, 16  # the tag of an index that lists pictures, and bytes for each
_EXIF_START = b"Exif\0\0"  # precedes the EXIF in JPEG, and sometimes in what Pillow returns for other formats


def decode(data: bytes, name: str, number: int | None, most_pixels: int) -> tuple[NDArray[Any], Metadata, list[str]]:
    """Decode the bytes of a PNG, JPEG or WebP file.

    Args:
        data: the whole file.
        name: of the file, for messages.
        number: which of several pictures or frames, from 1; None for the only one, or the primary one of a JPEG.
        most_pixels: larger pictures are refused.

    Returns:
        Samples [h, w, 1..4] as stored, uint8 or uint16: grey, grey and alpha, RGB, or RGB and alpha; the metadata; and
        notes for people on what is not kept as it is in the file.

    Raises:
        ImageError: it is no such file, or of a kind that is not coded.
        Exception: nearly any, for damaged bytes.
    """
    said, left_out = Metadata(), list[str]()
    if chunks.is_png(data):
        data, said, left_out = chunks.read_png(data)
    picture = _opened(data, name, most_pixels)
    notes = _turn_to(picture, data, name, number)
    _require_supported(picture, data, name)
    _require_enough(picture, data, name)
    samples, more = _samples(picture, data)
    metadata, others = _metadata(picture, data, said)
    if left_out + others:
        more.append(f"left out: {', '.join(left_out + others)}")
    return samples, metadata, notes + more


def decode_tiff(data: bytes, page: tiff.Page, name: str, most_pixels: int) -> NDArray[Any]:
    """Return the samples [h, w, channels] of a TIFF of which `tiff.gdal_reason` says nothing, as `decode` does.

    Raises:
        ImageError: it is damaged, or has more than `most_pixels`.
    """
    picture = _opened(data, name, most_pixels)
    if not isinstance(picture, TiffImageFile):
        raise ImageError(formats.unreadable(data, name))
    stored = _as_stored(picture)
    if page.palette:  # of bytes, and alpha maybe
        bands = np.atleast_3d(np.array(stored))
        return np.dstack([page.colours[bands[..., 0]], bands[..., 1:]])
    return _array(stored, _COLOURS[picture.mode])


def _as_stored(picture: TiffImageFile) -> PIL.Image.Image:
    """Load a TIFF and undo the transposition that Pillow applies for its orientation tag."""
    inverse = _BACK_TO_STORED.get(picture.getexif().get(PIL.ExifTags.Base.Orientation, 1))
    picture.load()
    return picture if inverse is None else picture.transpose(inverse)


def _opened(data: bytes, name: str, most_pixels: int) -> PIL.Image.Image:
    too_large = f"at most {most_pixels:,} pixels are read: split it"
    try:
        picture = PIL.Image.open(io.BytesIO(data), formats=formats.READABLE)
    except PIL.UnidentifiedImageError:
        raise ImageError(formats.unreadable(data, name)) from None
    except PIL.Image.DecompressionBombError:
        limit = "the limit of Pillow in this program, PIL.Image.MAX_IMAGE_PIXELS"
        raise ImageError(f"{name} is larger than {limit}; with a higher one, {too_large}") from None
    if picture.width * picture.height > most_pixels:
        pixels = f"{picture.width} x {picture.height} = {picture.width * picture.height:,} pixels"
        raise ImageError(f"{name} has {pixels}; {too_large}")
    return picture


def _turn_to(picture: PIL.Image.Image, data: bytes, name: str, number: int | None) -> list[str]:
    """Select one of several pictures or frames, and return notes as `decode` does."""
    count = int(getattr(picture, "n_frames", 1))
    if number is not None:
        formats.require_page(name, number, count)
        picture.seek(number - 1)
    elif isinstance(picture, JpegImageFile):  # its first picture is the primary one
        others = len(_index(picture, data)) - 1
        return [f"left out: {others} more picture{'s' * (others > 1)} in it (previews, views or a gain map)"] * (
            others > 0
        )
    elif count > 1:
        raise ImageError(formats.several(name, count))
    return []


def _index(picture: PIL.Image.Image, data: bytes) -> list[int]:
    """Return where in a JPEG the pictures of its index begin (CIPA's Multi-Picture Format), at 0 the primary one."""
    index = picture.info.get("mp")
    if isinstance(index, bytes):
        with suppress(Exception):  # hostile bytes; the pixels do not depend on them
            order: Literal["little", "big"] = "little" if index[:2] == b"II" else "big"
            entries = bytes(tiff.read_directory(index, tiff.Tags(index[:8]).next)[_ENTRIES])
            offsets = [int.from_bytes(entries[at + 8 : at + 12], order) for at in range(0, len(entries), _ENTRY)]
            return [0, *(data.index(index) + offset for offset in offsets[1:])]
    return [0]


def _behind(picture: PIL.Image.Image, data: bytes) -> list[str]:
    """Return the name of what follows the end of a JPEG and the pictures of its index: a video or an archive, say."""
    end = max(start + jpeg.length(data[start:]) for start in {0, max(_index(picture, data))})
    more = len(data[end:].rstrip(b"\0"))
    return [chunks.behind(more)] if more else []


def _require_supported(picture: PIL.Image.Image, data: bytes, name: str) -> None:
    """Raise an ImageError that names what is not supported, unless it is a picture in grey, palette or RGB."""
    if picture.format != "PNG" and picture.mode not in _COLOURS:
        colour, advice = _NAMES.get(picture.mode, f"mode-{picture.mode}"), formats.conversion(name)
        raise ImageError(f"{name} is a {colour} picture, which refscale does not code: convert it with {advice}")


def _require_enough(picture: PIL.Image.Image, data: bytes, name: str) -> None:
    """Raise an ImageError if the file is too short for its pixels; no memory is taken for them."""
    if PIL.ImageFile.LOAD_TRUNCATED_IMAGES:
        return
    if isinstance(picture, JpegImageFile):
        size = picture.width * picture.height * len(picture.getbands())
        file = data[getattr(picture, "offset", 0) :]  # of one of several pictures
        short = len(file) * formats.MOST_BYTES[7] < size or jpeg.ends_early(file)
    else:
        short = picture.format == "PNG" and png.ends_early(data)
    if short:
        raise ImageError(f"{name} is damaged or truncated: its data end before the last of its pixels")


def _samples(picture: PIL.Image.Image, data: bytes) -> tuple[NDArray[Any], list[str]]:
    """Return the samples as stored, [h, w, 1..4], in an array of their own, and notes as `decode` does."""
    if picture.format == "PNG":  # checksums of all chunks, which decoding does not check
        PIL.Image.open(io.BytesIO(data), formats=("PNG",)).verify()
    picture.load()
    deep = picture.format == "PNG" and png.is_deep(data)
    mode, transparent = _COLOURS.get(picture.mode, ""), picture.info.get("transparency")
    if picture.mode == "P" and transparent is not None:
        mode, transparent = "RGBA", None
    samples = png.deep_samples(data) if deep else _array(picture, mode)
    if transparent is not None:
        samples = np.dstack([samples, png.alpha_of(samples, transparent, data)])
    notes = []
    if picture.mode in _NAMES:
        converted = {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGB with alpha"}[samples.shape[2]]
        notes.append(f"{_NAMES[picture.mode]} picture, converted to 8-bit {converted}")
    return samples, notes


def _array(picture: PIL.Image.Image, mode: str) -> NDArray[Any]:
    samples = np.array(picture if picture.mode == mode else picture.convert(mode), dtype=np.uint8)
    return samples.reshape(picture.height, picture.width, -1)


def _metadata(picture: PIL.Image.Image, data: bytes, said: Metadata) -> tuple[Metadata, list[str]]:
    """Return the metadata of a loaded picture, with what `chunks` has read, and the names of what is left out."""
    left_out: list[str] = []
    if isinstance(picture, JpegImageFile):
        said, left_out = chunks.read_jpeg(picture.info, picture.applist)
        left_out += _behind(picture, data) if picture.tell() == 0 else []
    elif picture.format == "WEBP":
        left_out = chunks.read_webp(data)
    icc, exif, xmp = (picture.info.get(name) for name in ("icc_profile", "exif", "xmp"))
    icc, exif, xmp = (part if isinstance(part, bytes) else b"" for part in (icc, exif, xmp))
    exif = exif.removeprefix(_EXIF_START)
    return replace(said, icc=said.icc or icc, exif=exif, xmp=said.xmp or xmp), left_out


def encode(samples: NDArray[Any], kind: str, metadata: Metadata) -> bytes:
    """Return the bytes of a lossless picture file.

    Args:
        samples: [h, w, 1..4] as from `decode`; uint16 for PNG only.
        kind: `png`, `webp` or `tiff`.
        metadata: to store with them; its georeference is ignored.

    Raises:
        Exception: nearly any, for metadata that the format cannot hold.
    """
    options = dict(_SAVE_OPTIONS[kind])
    if metadata.icc:
        options["icc_profile"] = metadata.icc
    if kind != "tiff" and metadata.exif:
        options["exif"] = metadata.exif
    if kind == "webp" and metadata.xmp:
        options["xmp"] = metadata.xmp
    if kind == "png" and len(metadata.icc) > PIL.PngImagePlugin.MAX_TEXT_CHUNK:
        raise ValueError("Pillow refuses a PNG with such a large colour profile")
    buffer = io.BytesIO()
    if samples.dtype == np.uint8:
        PIL.Image.fromarray(samples.squeeze(2) if samples.shape[2] == 1 else samples).save(buffer, kind, **options)
        data = buffer.getvalue()
    else:
        PIL.Image.new("L", (1, 1)).save(buffer, kind, **options)  # its metadata chunks, which OpenCV does not write
        data = png.deep_file(samples, buffer.getvalue())
    if kind == "tiff":
        return exif.with_tags(data, metadata)
    return data if kind == "webp" else data[: png.START] + chunks.png(metadata) + data[png.START :]
