"""PNG, JPEG, WebP and plain TIFF <-> samples and metadata: Pillow, and OpenCV for PNG of 16 bits, which Pillow halves.

What is not coded is refused with its name and a way out. Pillow would open many such files and change them quietly on
the way: it halves 16-bit RGB to 8 bits, drops the fourth band of a TIFF that does not say what the band is, and decodes
the first page of many. All of that is looked for here and in `tiff`.
"""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.PngImagePlugin
from numpy.typing import NDArray
from PIL.TiffImagePlugin import TiffImageFile

from refscale_codec.errors import ImageError, reason
from refscale_codec.picture import formats, tiff
from refscale_codec.picture.metadata import Metadata

_SAVE_OPTIONS: dict[str, dict[str, object]] = {
    "png": {},
    "webp": {"lossless": True, "exact": True},  # exact keeps what is fully transparent
    "tiff": {"compression": "tiff_adobe_deflate"},
}

_COLOURS = {  # what is made of Pillow's modes; others are refused
    "1": "L",
    "L": "L",
    "LA": "LA",
    "La": "LA",
    "P": "RGB",
    "PA": "RGBA",
    "RGB": "RGB",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
}
_NAMES = {  # what a person calls such pictures
    "1": "black and white",
    "P": "a palette",
    "PA": "a palette",
    "CMYK": "a CMYK picture",
    "YCbCr": "a YCbCr picture",
    "LAB": "a CIELAB picture",
}

_EXIF_START = b"Exif\0\0"  # what JPEG has before the EXIF, and Pillow at times for other formats
_PNG_DEPTH = 24  # where a PNG says how many bits a sample has; what kind of colour it has follows
_PNG_START = 33  # bytes of a PNG before the chunk after its header
_TO_BGR = {3: [2, 1, 0], 4: [2, 1, 0, 3], 1: [0]}  # as OpenCV orders channels, and back

_lock = threading.Lock()


@contextmanager
def strict(most_pixels: int) -> Iterator[list[warnings.WarningMessage]]:
    """Make Pillow take pictures up to a limit of ours, refuse truncated ones, and collect its warnings.

    All three are settings of the process, hence the lock; they are put back afterwards.
    """
    with _lock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        limit, lenient = PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES
        PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES = most_pixels, False
        try:
            yield caught
        finally:
            PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES = limit, lenient


def decode(data: bytes, name: str, most_pixels: int) -> tuple[NDArray[Any], Metadata]:
    """Read the bytes of a file; to be called within `strict`.

    Args:
        data: the whole file.
        name: what to call it in messages.
        most_pixels: beyond that many it is refused.

    Returns:
        Samples [h, w, 1..4] as stored, uint8 or uint16: grey or RGB, and alpha as an even last one; and what the file
        says beside them.

    Raises:
        ImageError: it is no such file, or of a kind that is not coded.
        Exception: nearly any, for damaged bytes.
    """
    too_large = f"at most {most_pixels:,} pixels are read: cut it up"
    try:
        picture = PIL.Image.open(io.BytesIO(data), formats=formats.READABLE)
    except PIL.UnidentifiedImageError:
        raise ImageError(formats.why_not_opened(data, name)) from None
    except PIL.Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large ({reason(error)}); {too_large}") from error
    if picture.width * picture.height > most_pixels:
        pixels = f"{picture.width} x {picture.height} = {picture.width * picture.height:,} pixels"
        raise ImageError(f"{name} has {pixels}; {too_large}")
    _require_known(picture, data, name)
    samples = _samples(picture, data)
    return samples, _metadata(picture, data)


def _require_known(picture: PIL.Image.Image, data: bytes, name: str) -> None:
    """Raise an ImageError that says what the picture is, unless it is a single one in grey, palette or RGB."""
    frames = int(getattr(picture, "n_frames", 1))
    if frames > 1:
        raise ImageError(
            f"{name} holds {frames} pictures (pages, previews or frames of an animation); refscale codes one: "
            f"take the first with {formats.conversion(name + '[0]')}"
        )
    if picture.format == "PNG" and data[_PNG_DEPTH] == 16:
        if "transparency" not in picture.info:
            return
        advice = formats.conversion(name)
        raise ImageError(f"{name} has 16 bits and a colour that is transparent; convert it with {advice}")
    if picture.mode not in _COLOURS:
        colour, advice = _NAMES.get(picture.mode, f"of mode {picture.mode}"), formats.conversion(name)
        raise ImageError(f"{name} is {colour}, which refscale does not code: convert it with {advice}")


def _samples(picture: PIL.Image.Image, data: bytes) -> NDArray[Any]:
    """Return the samples as stored, [h, w, 1..4], in an array of their own."""
    if picture.format == "PNG":  # the check sums of all chunks, which decoding alone does not look at
        PIL.Image.open(io.BytesIO(data), formats=("PNG",)).verify()
    if isinstance(picture, TiffImageFile):
        picture = tiff.as_stored(picture)
    picture.load()
    if picture.format == "PNG" and data[_PNG_DEPTH] == 16:
        return _png_16_samples(data)
    mode = _COLOURS[picture.mode]
    if "transparency" in picture.info:
        mode = {"L": "LA", "RGB": "RGBA"}.get(mode, mode)  # a colour that is transparent
    if picture.mode in ("1", "P", "PA"):
        taken = mode.replace("L", "grey").replace("A", " with alpha")
        warnings.warn(f"it is in {_NAMES[picture.mode]} and taken as 8-bit {taken}", stacklevel=2)
    samples = np.array(picture if picture.mode == mode else picture.convert(mode), dtype=np.uint8)
    return samples.reshape(picture.height, picture.width, -1)


def _png_16_samples(data: bytes) -> NDArray[Any]:
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16:
        raise ValueError("OpenCV does not decode it")
    if samples.ndim == 2:
        return samples[..., None]
    samples = samples[..., _TO_BGR[samples.shape[2]]]
    return samples[..., 2:] if data[_PNG_DEPTH + 1] == 4 else samples  # grey with alpha, which OpenCV makes RGB of


def _metadata(picture: PIL.Image.Image, data: bytes) -> Metadata:
    """Return what a file says beside its pixels; the picture is loaded, and the PNG read to its end."""
    icc, exif, xmp = (picture.info.get(name) for name in ("icc_profile", "exif", "xmp"))
    if isinstance(picture, TiffImageFile):
        exif = tiff.read_exif(data)
    icc, exif, xmp = (part if isinstance(part, bytes) else b"" for part in (icc, exif, xmp))
    return Metadata(icc, exif.removeprefix(_EXIF_START), xmp)


def encode(samples: NDArray[Any], kind: str, metadata: Metadata) -> bytes:
    """Return the bytes of a lossless picture file.

    Args:
        samples: [h, w, 1..4] as `decode` returns them; uint16 for PNG only.
        kind: `png`, `webp` or `tiff`.
        metadata: what to say beside them, but for the georeference.

    Raises:
        Exception: nearly any, for metadata that the format cannot hold.
    """
    options = dict(_SAVE_OPTIONS[kind])
    if metadata.icc:
        options["icc_profile"] = metadata.icc
    if kind == "tiff":
        tags = tiff.exif_as_tags(metadata.exif)
        if tags:
            del options["compression"]  # Pillow writes directories of tags into an uncompressed TIFF only
        options["exif"] = tiff.with_xmp(tags, metadata.xmp)
    elif metadata.exif:
        options["exif"] = metadata.exif
    if kind == "png" and metadata.xmp:
        options["pnginfo"] = text = PIL.PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", metadata.xmp)
    elif kind == "webp" and metadata.xmp:
        options["xmp"] = metadata.xmp
    buffer = io.BytesIO()
    if samples.dtype == np.uint8:
        PIL.Image.fromarray(samples.squeeze(2) if samples.shape[2] == 1 else samples).save(buffer, kind, **options)
        return buffer.getvalue()
    PIL.Image.new("L", (1, 1)).save(buffer, kind, **options)  # for its metadata, which OpenCV does not write
    return _png_16(samples, buffer.getvalue())


def _png_16(samples: NDArray[Any], donor: bytes) -> bytes:
    """Return a PNG of 16 bits with what another PNG has between its header and its pixels."""
    if samples.shape[2] == 2:
        samples = samples[..., [0, 0, 0, 1]]
    done, coded = cv2.imencode(".png", samples[..., _TO_BGR[samples.shape[2]]])
    if not done:
        raise ValueError("OpenCV does not encode it")
    at, data = _PNG_START, coded.tobytes()
    while donor[at + 4 : at + 8] != b"IDAT":
        at += 12 + int.from_bytes(donor[at : at + 4], "big")
    return bytes(data[:_PNG_START] + donor[_PNG_START:at] + data[_PNG_START:])
