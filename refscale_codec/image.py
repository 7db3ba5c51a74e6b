"""Pictures: pixels in memory, and the files they come from and go to.

First and last station of the sentence *image -> align -> rescale -> lrcodec -> container*: everything between works on
`Image.pixels` and never sees a file. Pillow reads and writes what has 8 bits, OpenCV PNG of 16 bits, and `geotiff` any
TIFF of 16 bits, of other bands than grey or RGB, or with a georeference.

What is not coded is refused with its name and a way out. Pillow would open many such files and change them quietly on
the way: it halves 16-bit RGB to 8 bits, drops the fourth band of a TIFF that does not say what the band is, and decodes
the first page of many. All of that is looked for here.

Pixels are taken **as stored**. An orientation tag (EXIF in JPEG, PNG and WebP, tag 274 in TIFF) is not applied: the
pixel grid is what a reference and a target share, and a viewer's rotation is metadata. Pillow does apply it to TIFF,
which is undone here. So an orientation tag stays true of the pixels and comes back with the rest of the EXIF.

Colour profile, EXIF, XMP and georeference are kept as bytes. TIFF has no EXIF in one piece: there the tags that EXIF
knows are put together to one, and taken apart again. What a format cannot hold is found out by trying it on a single
pixel.

Deliberately absent: lossy output. A decoded picture that is saved as JPEG would be coded twice.

Longer than most modules, because it alone knows picture files: what is refused, and why.
"""

import errno
import hashlib
import io
import logging
import os
import secrets
import shlex
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.PngImagePlugin
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from refscale_codec import geotiff
from refscale_codec.errors import ImageError
from refscale_codec.metadata import Metadata

MAX_PIXELS = 400_000_000
"""Largest picture that is read, in pixels; the container has the same limit."""

MAX_BANDS = 255
"""Most bands, without alpha."""

MAX_SAMPLES = 3 * MAX_PIXELS
"""Most samples in all bands; the container has the same limit."""

_READABLE = ("PNG", "JPEG", "WEBP", "TIFF")
_FORMAT_OF_SUFFIX = {".png": "png", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}
_LOSSY_NAMES = {"jpg", "jpeg", "jpe", "jfif"}
_MAX_WEBP_SIDE = 16_383

_SAVE_OPTIONS: dict[str, dict[str, object]] = {
    "png": {},
    "webp": {"lossless": True, "exact": True},  # exact keeps what is fully transparent
    "tiff": {"compression": "tiff_adobe_deflate"},
}

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

_TAG_BITS, _TAG_SAMPLES, _TAG_SAMPLE_FORMAT, _TAG_ORIENTATION = 258, 277, 339, 274
_TAG_PHOTOMETRIC, _TAG_EXTRA = 262, 338
_TAGS_OF_EVERY_TIFF = (256, 257, 262)  # width, height, photometric
_TAGS_OF_GDAL = (33550, 33922, 34264, 34735, 42112, 42113, 50844)  # place, its own metadata, nodata
_TAG_XMP, _TAG_ICC, _TAG_INTEROP = 700, 34675, 40965
_SUB_DIRECTORIES = (34665, 34853)  # those of EXIF and GPS
_TAGS_OF_EXIF = (  # what EXIF has in its first directory that does not tell how a TIFF stores its pixels
    *(270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 316, 318, 319, 18246, 33432),
    *range(40091, 40096),
    *_SUB_DIRECTORIES,
)
_EXIF_START = b"Exif\0\0"  # what JPEG has before the EXIF, and Pillow at times for other formats
_SAMPLE_FORMATS = {2: "signed ", 3: "floating-point ", 5: "complex ", 6: "complex "}
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_PNG_DEPTH = 24  # where a PNG says how many bits a sample has; what kind of colour it has follows
_PNG_START = 33  # bytes of a PNG before the chunk after its header
_TO_BGR = {3: [2, 1, 0], 4: [2, 1, 0, 3], 1: [0]}  # as OpenCV orders channels, and back

_BACK_TO_STORED = {  # orientation: what undoes the turn that Pillow gives to such a TIFF
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_90,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_270,
}

_log = logging.getLogger(__name__)
_pillow_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class Image:
    """A picture in memory.

    Raises:
        ValueError: an array is of another shape or type. That is a mistake of the program, not of a user.
    """

    pixels: NDArray[Any]  # [h, w, bands] uint8, uint16 or int16, each >= 1
    """Row by row from the top left, as stored in the file. One band is grey, three are RGB."""
    metadata: Metadata = Metadata()
    """What the file says beside them."""
    alpha: NDArray[Any] | None = None  # [h, w], of the pixels' type
    """How opaque pixels are, from 0 to the highest value of the type; None for wholly."""
    nodata: int | None = None
    """Samples of this value, which their type can hold, stand for no data."""

    def __post_init__(self) -> None:
        """Refuse any other array."""
        if self.pixels.dtype not in (np.uint8, np.uint16, np.int16):
            raise ValueError(f"pixels must be uint8, uint16 or int16, got {self.pixels.dtype = !s}")
        if self.pixels.ndim != 3 or self.pixels.shape[2] > MAX_BANDS:
            raise ValueError(f"pixels must be [h, w, 1..{MAX_BANDS}], got {self.pixels.shape = }")
        if 0 in self.pixels.shape:
            raise ValueError(f"pixels must not be empty, got {self.pixels.shape = }")
        alpha = self.alpha
        if alpha is not None and (alpha.dtype != self.pixels.dtype or alpha.shape != self.pixels.shape[:2]):
            raise ValueError(f"alpha must be like a band of the pixels, got {alpha.dtype = !s}, {alpha.shape = }")

    @property
    def height(self) -> int:
        """Rows, in pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns, in pixels."""
        return int(self.pixels.shape[1])

    @property
    def bands(self) -> int:
        """Bands, without alpha."""
        return int(self.pixels.shape[2])

    @property
    def kind(self) -> str:
        """What a person calls such a picture, without its alpha: `8-bit RGB`."""
        return kind_of(self.pixels.dtype, self.bands)

    def fingerprint(self) -> bytes:
        """Return 6 bytes that stand for these pixels, their shape and their type; alpha does not count.

        They are the first 6 of SHA-256 over `refscale-pixels-` and `v1`, `u2` or `i2` by the type, height, width and
        bands as u32 little endian, then the pixels in row-major order, little endian. The same picture in another file
        format has the same fingerprint.
        """
        dtype = self.pixels.dtype
        digest = hashlib.sha256(b"refscale-pixels-" + (b"v1" if dtype == np.uint8 else dtype.str[1:].encode()))
        digest.update(struct.pack("<III", *self.pixels.shape))
        digest.update(np.ascontiguousarray(self.pixels, dtype.newbyteorder("<")).data)
        return digest.digest()[:6]


def kind_of(dtype: np.dtype[Any], bands: int) -> str:
    """Return what a person calls pictures of a type and a number of bands."""
    colour = {1: "grey", 3: "RGB"}.get(bands, f"with {bands} bands")
    return f"{8 * dtype.itemsize}-bit {'signed ' if dtype.kind == 'i' else ''}{colour}"


def read(path: Path) -> Image:
    """Read a PNG, JPEG, WebP or TIFF file; see `from_bytes`.

    Raises:
        ImageError: there is no such file, it cannot be read, or `from_bytes` refuses it.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder, not a picture") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read {path}: {_reason(error)}") from error
    return from_bytes(data, str(path))


def from_bytes(data: bytes, name: str) -> Image:
    """Decode the bytes of a PNG, JPEG, WebP or TIFF file with one picture in it.

    The kind is told from the bytes, not from the name. Every truncated file is refused; a changed byte is noticed
    where the format has check sums (PNG, deflated TIFF) and may pass as other pixels where it has none. What Pillow
    warns about and the pixels survive (a damaged EXIF block, say) is passed on through `logging`, and so is what is not
    taken as it is: a palette becomes the colours that it stands for, and samples of 1 to 4 bits become 8 bits.

    Args:
        data: The whole file.
        name: What to call it in messages: its path, or `standard input`.

    Raises:
        ImageError: not such a file; damaged or truncated; more than `MAX_PIXELS` or `MAX_BANDS`; CMYK, CIELAB or YCbCr;
            samples of more than 16 bits or of floating point; animated or of several pages; or `geotiff` is needed and
            not installed.
    """
    if not data:
        raise ImageError(f"{name} is empty")
    try:
        with _strict_pillow() as caught:
            tags = _tiff_tags(data)
            if tags is not None and _is_for_gdal(tags, name):
                read = _read_by_gdal(data, tags, name)
            else:
                picture = PIL.Image.open(io.BytesIO(data), formats=_READABLE)
                _require_size(picture.width, picture.height, name)
                _require_known(picture, data, name)
                read = _decode(picture, data)
                read = replace(read, metadata=_metadata(picture, data))
    except ImageError:
        raise
    except PIL.UnidentifiedImageError:
        raise ImageError(_why_not_opened(data, name)) from None
    except (PIL.Image.DecompressionBombError, MemoryError) as error:
        raise ImageError(
            f"{name} is too large to be decoded here ({_reason(error)}); at most {MAX_PIXELS:,} pixels are read"
        ) from error
    except Exception as error:  # a decoder fed with hostile bytes raises nearly anything
        raise ImageError(f"{name} is damaged or truncated: {_reason(error)}") from error
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        _log.warning("%s: %s", name, message)
    return read


def read_rgb(path: Path) -> Image:
    """Read a picture that must be 8-bit RGB without alpha, see `read`: what measures and trains takes no other.

    Raises:
        ImageError: as `read`, and for any other kind.
    """
    image = read(path)
    if image.kind != "8-bit RGB" or image.alpha is not None:
        raise ImageError(
            f"{path} is {image.kind}{_with_alpha(image)}; this command takes 8-bit RGB only: {_convert(str(path))}"
        )
    return image


def write(image: Image, path: Path, format: str | None = None) -> None:
    """Write a picture without loss, see `to_bytes`; the file appears whole or not at all.

    Args:
        image: The picture.
        path: Where to. An existing file is replaced.
        format: `png`, `webp` or `tiff`; None takes it from the path's suffix.

    Raises:
        ImageError: an unknown or lossy format, no such folder, or the disk does not take the file. An existing file
            is then as it was.
    """
    path = Path(path)
    data = to_bytes(image, format if format is not None else format_of(path))
    try:
        write_atomically(path, data)
    except FileNotFoundError as error:
        raise ImageError(f"cannot write {path}: there is no folder {path.parent}") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot write {path}: {_reason(error)}") from error


def to_bytes(image: Image, format: str) -> bytes:
    """Return the bytes of a lossless picture file with the picture's metadata.

    Metadata and a nodata value that the format cannot hold are told through `logging` and left out. TIFF holds EXIF as
    tags of its own: numbers and plain text stay, but not every byte, nor an embedded preview; that is told, too. Such a
    TIFF is not compressed. A TIFF of other samples than 8-bit grey or RGB, with a nodata value, or with a georeference
    is a Cloud Optimized GeoTIFF.

    Args:
        image: The picture.
        format: `png`, `webp` (lossless) or `tiff`; case does not matter.

    Raises:
        ImageError: an unknown or lossy format, or a picture too large for it or of bands that it does not hold.
    """
    kind = format_named(format)
    require_holds(kind, image.pixels.dtype, image.bands)
    if kind == "webp" and max(image.height, image.width) > _MAX_WEBP_SIDE:
        raise ImageError(
            f"WebP holds at most {_MAX_WEBP_SIDE} pixels a side and this picture has {image.width} x {image.height}: "
            "use png or tiff"
        )
    usual = image.kind in ("8-bit grey", "8-bit RGB") and image.nodata is None and not image.metadata.geo
    if kind == "tiff" and not usual:
        kind = "geotiff"
    if kind == "webp" and image.bands == 1:
        _log.warning("webp has no grey pictures: it becomes RGB")
    if kind == "png" and image.kind == "16-bit grey" and image.alpha is not None:
        _log.warning("a png with 16-bit grey and alpha is not written here: it becomes RGB")
    if kind in ("png", "webp") and image.nodata is not None:
        _log.warning("%s cannot hold this picture's nodata value %d: only its pixels have it", kind, image.nodata)
    metadata = _what_fits(image, kind)
    try:
        return _saved(replace(image, metadata=metadata), kind)
    except (OSError, ValueError, MemoryError) as error:
        raise ImageError(
            f"cannot store a picture of {image.width} x {image.height} as {kind}: {_reason(error)}"
        ) from error


def require_holds(kind: str, dtype: np.dtype[Any], bands: int) -> None:
    """Refuse a format that cannot hold pictures of a type and a number of bands: ImageError."""
    depths = {"png": (np.uint8, np.uint16), "webp": (np.uint8,)}.get(kind)
    if depths is not None and (dtype not in depths or bands not in (1, 3)):
        raise ImageError(f"{kind} cannot hold {kind_of(dtype, bands)}: use .tif or --format tiff")


def _saved(image: Image, kind: str) -> bytes:
    icc, exif, xmp = image.metadata.icc, image.metadata.exif, image.metadata.xmp
    if kind == "geotiff":
        return geotiff.encode(image.pixels, image.alpha, image.nodata, image.metadata.geo, icc, "the picture")
    options = dict(_SAVE_OPTIONS[kind])
    if icc:
        options["icc_profile"] = icc
    if kind == "tiff":
        tags = PIL.Image.Exif()
        tags.load(exif)
        tags = _known_to_exif(tags)
        if tags:
            del options["compression"]  # Pillow writes directories of tags into an uncompressed TIFF only
        if xmp:
            tags[_TAG_XMP] = xmp
        options["exif"] = tags.tobytes() if tags else b""
    elif exif:
        options["exif"] = exif
    if kind == "png" and xmp:
        options["pnginfo"] = text = PIL.PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp)
    elif kind == "webp" and xmp:
        options["xmp"] = xmp
    buffer = io.BytesIO()
    if image.pixels.dtype == np.uint8:
        samples = image.pixels if image.alpha is None else np.dstack([image.pixels, image.alpha])
        PIL.Image.fromarray(samples.squeeze(2) if samples.shape[2] == 1 else samples).save(buffer, kind, **options)
        return buffer.getvalue()
    PIL.Image.new("L", (1, 1)).save(buffer, kind, **options)  # for its metadata, which OpenCV does not write
    return _png_16(image, buffer.getvalue())


def _png_16(image: Image, donor: bytes) -> bytes:
    """Return a PNG of 16 bits with what another PNG has between its header and its pixels."""
    samples = image.pixels
    if image.alpha is not None:
        samples = np.dstack([*samples.repeat(3 // image.bands, axis=2).transpose(2, 0, 1), image.alpha])
    done, coded = cv2.imencode(".png", samples[..., _TO_BGR[samples.shape[2]]])
    if not done:
        raise ValueError("OpenCV does not encode it")
    at, data = _PNG_START, coded.tobytes()
    while donor[at + 4 : at + 8] != b"IDAT":
        at += 12 + int.from_bytes(donor[at : at + 4], "big")
    return data[:_PNG_START] + donor[_PNG_START:at] + data[_PNG_START:]


def _what_fits(image: Image, kind: str) -> Metadata:
    """Return what of a picture's metadata a format can hold, and log what it cannot, or not as it is."""
    fitting = image.metadata
    alpha = None if image.alpha is None else image.alpha[:1, :1]
    for name, part in asdict(fitting).items():
        if not part:
            continue
        alone = Metadata(**{name: part})
        what = "georeference and tags" if name == "geo" else name.upper()
        try:
            with _strict_pillow():
                data = _saved(replace(image, pixels=image.pixels[:1, :1], alpha=alpha, metadata=alone), kind)
            back = from_bytes(data, kind).metadata
        except Exception:  # anything may be in it, and a file made of it may be one that is not read
            back = Metadata()
        if not getattr(back, name):
            fitting = replace(fitting, **{name: b""})
            _log.warning("%s cannot hold this picture's %s (%d bytes): left out", kind, what, len(part))
        elif getattr(back, name) != part:
            _log.warning("%s holds this picture's %s as tags of its own, not byte for byte", kind, what)
    return fitting


def write_atomically(path: Path, data: bytes) -> None:
    """Write bytes to a file that is at every moment either the old one or the whole new one.

    The bytes go to a temporary file in the same folder, which is then renamed. A symbolic link stays a link and its
    target is replaced; a replaced file keeps its permissions. What is neither file nor folder (`/dev/null`, a named
    pipe) cannot be renamed over and is written to directly.

    Raises:
        OSError: it did not work. Nothing is left behind and an existing file is as it was.
    """
    target = Path(os.path.realpath(path))
    mode = target.stat().st_mode if target.exists() else None
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if mode is not None and not stat.S_ISREG(mode):
        target.write_bytes(data)
        return
    temporary = target.with_name(f".refscale-{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(stat.S_IMODE(mode))
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _strict_pillow() -> Iterator[list[warnings.WarningMessage]]:
    """Make Pillow take pictures up to our own limit, refuse truncated ones, and collect its warnings.

    All three are settings of the process, hence the lock; they are put back afterwards.
    """
    with _pillow_lock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        limit, lenient = PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES
        PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES = MAX_PIXELS, False
        try:
            yield caught
        finally:
            PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES = limit, lenient


def _require_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width} x {height} = {width * height:,} pixels; at most {MAX_PIXELS:,} are read: cut it up"
        )


def _require_known(picture: PIL.Image.Image, data: bytes, name: str) -> None:
    """Raise an ImageError that says what the picture is, unless it is a single one in grey, palette or RGB."""
    frames = int(getattr(picture, "n_frames", 1))
    if frames > 1:
        raise ImageError(
            f"{name} holds {frames} pictures (pages, previews or frames of an animation); refscale codes one: "
            f"take the first with {_convert(name + '[0]')}"
        )
    if picture.format == "PNG" and data[_PNG_DEPTH] == 16:
        if "transparency" not in picture.info:
            return
        raise ImageError(f"{name} has 16 bits and a colour that is transparent; convert it with {_convert(name)}")
    if picture.mode not in _COLOURS:
        colour = _NAMES.get(picture.mode, f"of mode {picture.mode}")
        raise ImageError(f"{name} is {colour}, which refscale does not code: convert it with {_convert(name)}")


def _decode(picture: PIL.Image.Image, data: bytes) -> Image:
    """Return the pixels as stored, in arrays of their own."""
    if picture.format == "PNG":  # the check sums of all chunks, which decoding alone does not look at
        PIL.Image.open(io.BytesIO(data), formats=("PNG",)).verify()
    turned = None
    if isinstance(picture, TiffImageFile):
        turned = _BACK_TO_STORED.get(picture.getexif().get(_TAG_ORIENTATION, 1))
    picture.load()
    if turned is not None:
        picture = picture.transpose(turned)
    if picture.format == "PNG" and data[_PNG_DEPTH] == 16:
        samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if samples is None or samples.dtype != np.uint16:
            raise ValueError("OpenCV does not decode it")
        samples = samples[..., _TO_BGR[samples.shape[2]]] if samples.ndim == 3 else samples
        if data[_PNG_DEPTH + 1] == 4:  # grey with alpha, which OpenCV makes RGB of
            samples = samples[..., 2:]
    else:
        mode = _COLOURS[picture.mode]
        if "transparency" in picture.info:
            mode = {"L": "LA", "RGB": "RGBA"}.get(mode, mode)  # a colour that is transparent
        if picture.mode in ("1", "P", "PA"):
            warnings.warn(f"it is in {_NAMES[picture.mode]} and taken as {mode} of 8 bits", stacklevel=2)
        samples = np.array(picture if picture.mode == mode else picture.convert(mode), dtype=np.uint8)
    if samples.ndim == 2:
        return Image(samples[..., None])
    if samples.shape[2] % 2:
        return Image(np.ascontiguousarray(samples))
    return Image(np.ascontiguousarray(samples[..., :-1]), alpha=samples[..., -1].copy())


def _read_by_gdal(data: bytes, tags: ImageFileDirectory_v2, name: str) -> Image:
    pixels, alpha, nodata, geo, notes = geotiff.decode(data, name, MAX_PIXELS, MAX_SAMPLES)
    if pixels.shape[2] > MAX_BANDS:
        raise ImageError(f"{name} has {pixels.shape[2]} bands; at most {MAX_BANDS} are coded")
    for note in notes:
        warnings.warn(note, stacklevel=2)
    icc, xmp = (tags.get(tag) for tag in (_TAG_ICC, _TAG_XMP))
    icc, xmp = (part if isinstance(part, bytes) else b"" for part in (icc, xmp))
    return Image(pixels, Metadata(icc, xmp=xmp, geo=geo), alpha, nodata)


def _metadata(picture: PIL.Image.Image, data: bytes) -> Metadata:
    """Return what a file says beside its pixels; the picture is loaded, and the PNG read to its end."""
    icc, exif, xmp = (picture.info.get(name) for name in ("icc_profile", "exif", "xmp"))
    if isinstance(picture, TiffImageFile):
        exif = _exif_of_tiff(data)
    icc, exif, xmp = (part if isinstance(part, bytes) else b"" for part in (icc, exif, xmp))
    return Metadata(icc, exif.removeprefix(_EXIF_START), xmp)


def _exif_of_tiff(data: bytes) -> bytes:
    try:
        tags = PIL.Image.open(io.BytesIO(data), formats=("TIFF",)).getexif()  # once loaded, Pillow drops some
        exif = _known_to_exif(tags)
        return exif.tobytes() if exif else b""
    except Exception as error:  # hostile bytes, of which the pixels are free
        warnings.warn(f"its EXIF is damaged and left out: {_reason(error)}", stacklevel=2)
        return b""


def _known_to_exif(tags: PIL.Image.Exif) -> PIL.Image.Exif:
    """Return the tags that EXIF has, without any that tell how a TIFF stores its pixels."""
    exif = PIL.Image.Exif()
    for tag in _TAGS_OF_EXIF:
        if tag not in tags:
            continue
        value = tags[tag]
        if tag in _SUB_DIRECTORIES:
            value = dict(tags.get_ifd(tag))
            value.pop(_TAG_INTEROP, None)  # a position in the file
        exif[tag] = value
    return exif


def _why_not_opened(data: bytes, name: str) -> str:
    kind = next((kind for offset, magic, kind in _SIGNATURES if data.startswith(magic, offset)), None)
    if kind is None:
        return f"{name} is not a picture; refscale reads PNG, JPEG, WebP and TIFF"
    if kind.upper() not in _READABLE:
        return (
            f"{name} is a {kind} file; refscale reads PNG, JPEG, WebP and TIFF: "
            f"convert it with {_convert(name + '[0]')}"
        )
    return f"{name} is a {kind} file, but damaged, truncated or of an unsupported kind"


def _tiff_tags(data: bytes) -> ImageFileDirectory_v2 | None:
    """Return the first directory of a TIFF; None for what is no TIFF, or not such that this can be read."""
    if data[:4] not in _TIFF_STARTS:
        return None
    try:
        tags = ImageFileDirectory_v2(data[: 16 if data[2:4] in (b"+\0", b"\0+") else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        with warnings.catch_warnings():  # Pillow will say them again, or the file is not read
            warnings.simplefilter("ignore")
            tags.load(file)
        bits, bands = _tiff_layout(tags)
        return tags if all(tag in tags for tag in _TAGS_OF_EVERY_TIFF) and 1 <= bits <= 64 and bands else None
    except Exception:  # hostile bytes
        return None


def _is_for_gdal(tags: ImageFileDirectory_v2, name: str) -> bool:
    """Return whether Pillow would not read a TIFF or not keep what it says; ImageError for samples of no good type."""
    bits, bands = _tiff_layout(tags)
    formats = tags.get(_TAG_SAMPLE_FORMAT, (1,))
    formats = set(formats) if isinstance(formats, tuple) else {formats}
    if bits > 16 or formats & set(_SAMPLE_FORMATS) and not (formats == {2} and bits == 16):
        values = _SAMPLE_FORMATS.get(max(formats), "")
        raise ImageError(
            f"{name} has samples that are {values}numbers of {bits} bits; refscale codes 8 and 16 bits: scale them "
            f"with `gdal_translate -ot UInt16 -scale {shlex.quote(name)} scaled.tif`"
        )
    if any(tag in tags for tag in _TAGS_OF_GDAL):
        return True
    usual = {0: 1, 1: 1, 2: 3}.get(tags[_TAG_PHOTOMETRIC])  # grey, grey, RGB
    extra = tags.get(_TAG_EXTRA, ())
    return usual is not None and not (bits <= 8 and (bands == usual or bands == usual + 1 and extra in ((1,), (2,))))


def _tiff_layout(tags: ImageFileDirectory_v2) -> tuple[int, int]:
    """Return the bits of the deepest sample and the number of samples a pixel."""
    bits = tags.get(_TAG_BITS, (1,))
    return max(bits), int(tags.get(_TAG_SAMPLES, len(bits)))


def format_named(name: str) -> str:
    """Return `png`, `webp` or `tiff` for a name in any case, `tif` among them; ImageError for any other."""
    kind = {"tif": "tiff"}.get(name.lower(), name.lower())
    if kind in _LOSSY_NAMES:
        raise ImageError("JPEG would lose detail a second time, so it is not written: use png, webp or tiff")
    if kind not in _SAVE_OPTIONS:
        raise ImageError(f"unknown picture format {name!r}: use png, webp or tiff")
    return kind


def format_of(path: Path) -> str:
    """Return `png`, `webp` or `tiff` for the suffix of a picture to be written; ImageError for any other suffix."""
    suffix = path.suffix.lower()
    if suffix.removeprefix(".") in _LOSSY_NAMES:
        raise ImageError(f"{path} would be a JPEG, which loses detail a second time: use .png, .webp or .tif")
    if suffix not in _FORMAT_OF_SUFFIX:
        raise ImageError(f"{path}: unknown suffix {suffix!r} for a picture: use .png, .webp, .tif or .tiff")
    return _FORMAT_OF_SUFFIX[suffix]


def _convert(name: str) -> str:
    # Not `-type TrueColor`: ImageMagick 6 then still writes a grey or palette PNG where that is smaller.
    return f"`convert {shlex.quote(name)} -colorspace sRGB -alpha off PNG24:rgb.png`"


def _with_alpha(image: Image) -> str:
    return "" if image.alpha is None else " with alpha"


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
