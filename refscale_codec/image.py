"""Pictures: pixels in memory, and the files they come from and go to.

First and last station of the sentence *image -> align -> rescale -> lrcodec -> container*: everything between works on
`Image.pixels` and never sees a file. Numpy and Pillow only.

One kind of picture is coded, 8-bit RGB, and one that is not is refused with its name and a way out. Pillow would open
many of them and change them quietly on the way: it halves 16-bit RGB to 8 bits, drops the fourth band of a TIFF that
does not say what the band is, and decodes the first page of many. All of that is looked for here.

Pixels are taken **as stored**. An orientation tag (EXIF in JPEG, PNG and WebP, tag 274 in TIFF) is not applied: the
pixel grid is what a reference and a target share, and a viewer's rotation is metadata. Pillow does apply it to TIFF,
which is undone here. So an orientation tag stays true of the pixels and comes back with the rest of the EXIF.

Colour profile, EXIF and XMP are kept as bytes. TIFF has no EXIF in one piece: there the tags that EXIF knows are put
together to one, and taken apart again. What a format cannot hold is found out by trying it on a single pixel.

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

import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.PngImagePlugin
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from refscale_codec.errors import ImageError
from refscale_codec.metadata import Metadata

MAX_PIXELS = 400_000_000
"""Largest picture that is read, in pixels; the container has the same limit."""

_READABLE = ("PNG", "JPEG", "WEBP", "TIFF")
_FORMAT_OF_SUFFIX = {".png": "png", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}
_LOSSY_NAMES = {"jpg", "jpeg", "jpe", "jfif"}
_MAX_WEBP_SIDE = 16_383

_SAVE_OPTIONS: dict[str, dict[str, object]] = {
    "png": {},
    "webp": {"lossless": True},
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

_COLOUR_OF_MODE = {  # Pillow's mode without its alpha: what a person calls it
    "1": "black-and-white",
    "L": "grey",
    "P": "palette",
    "RGB": "RGB",
    "RGBX": "RGB",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    "LAB": "CIELAB",
    "I": "integer grey",
    "F": "floating-point grey",
}
_MODES_WITH_ALPHA = {"LA": "L", "La": "L", "PA": "P", "RGBA": "RGB", "RGBa": "RGB"}

_TAG_BITS, _TAG_SAMPLES, _TAG_SAMPLE_FORMAT, _TAG_ORIENTATION = 258, 277, 339, 274
_TAGS_OF_EVERY_TIFF = (256, 257, 258, 262, 277)  # width, height, bits, photometric, samples a pixel
_TAG_XMP, _TAG_INTEROP = 700, 40965
_SUB_DIRECTORIES = (34665, 34853)  # those of EXIF and GPS
_TAGS_OF_EXIF = (  # what EXIF has in its first directory that does not tell how a TIFF stores its pixels
    *(270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 316, 318, 319, 18246, 33432),
    *range(40091, 40096),
    *_SUB_DIRECTORIES,
)
_EXIF_START = b"Exif\0\0"  # what JPEG has before the EXIF, and Pillow at times for other formats
_SAMPLE_FORMATS = {2: "signed ", 3: "floating-point ", 5: "complex ", 6: "complex "}

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
        ValueError: the array is not uint8 [h, w, 3] with h, w >= 1. That is a mistake of the program, not of a user.
    """

    pixels: NDArray[np.uint8]  # [h, w, 3]
    """RGB, 0..255, row by row from the top left, as stored in the file."""
    metadata: Metadata = Metadata()
    """What the file says beside them."""

    def __post_init__(self) -> None:
        """Refuse any other array."""
        if self.pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be uint8, got {self.pixels.dtype = !s}")
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise ValueError(f"pixels must be [h, w, 3], got {self.pixels.shape = }")
        if 0 in self.pixels.shape:
            raise ValueError(f"pixels must not be empty, got {self.pixels.shape = }")

    @property
    def height(self) -> int:
        """Rows, in pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns, in pixels."""
        return int(self.pixels.shape[1])

    def fingerprint(self) -> bytes:
        """Return 6 bytes that stand for these pixels and their shape.

        They are the first 6 of SHA-256 over `refscale-pixels-v1`, height, width and 3 (the channels) as u32 little
        endian, then the pixels in row-major order. The same picture in another file format has the same fingerprint.
        """
        digest = hashlib.sha256(b"refscale-pixels-v1")
        digest.update(struct.pack("<III", self.height, self.width, 3))
        digest.update(np.ascontiguousarray(self.pixels).data)
        return digest.digest()[:6]


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
    """Decode the bytes of a PNG, JPEG, WebP or TIFF file with one 8-bit RGB picture in it.

    The kind is told from the bytes, not from the name. Every truncated file is refused; a changed byte is noticed
    where the format has check sums (PNG, deflated TIFF) and may pass as other pixels where it has none. What Pillow
    warns about and the pixels survive (a damaged EXIF block, say) is passed on through `logging`.

    Args:
        data: The whole file.
        name: What to call it in messages: its path, or `standard input`.

    Raises:
        ImageError: not such a file; damaged or truncated; more than `MAX_PIXELS`; or grey, palette, CMYK, with
            transparency, more than 8 bits, more than three bands, animated or of several pages.
    """
    if not data:
        raise ImageError(f"{name} is empty")
    try:
        with _strict_pillow() as caught:
            picture = PIL.Image.open(io.BytesIO(data), formats=_READABLE)
            _require_size(picture.width, picture.height, name)
            _require_rgb8(picture, data, name)
            pixels = _decode(picture, data)
            metadata = _metadata(picture, data)
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
    return Image(pixels, metadata)


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

    Metadata that the format cannot hold is told through `logging` and left out. TIFF holds EXIF as tags of its own:
    numbers and plain text stay, but not every byte, nor an embedded preview; that is told, too. Such a TIFF is not
    compressed.

    Args:
        image: The picture.
        format: `png`, `webp` (lossless) or `tiff`; case does not matter.

    Raises:
        ImageError: an unknown or lossy format, or a picture too large for it.
    """
    kind = format_named(format)
    if kind == "webp" and max(image.height, image.width) > _MAX_WEBP_SIDE:
        raise ImageError(
            f"WebP holds at most {_MAX_WEBP_SIDE} pixels a side and this picture has {image.width} x {image.height}: "
            "use png or tiff"
        )
    metadata = _what_fits(image.metadata, kind)
    try:
        return _saved(Image(image.pixels, metadata), kind)
    except (OSError, ValueError, MemoryError) as error:
        raise ImageError(
            f"cannot store a picture of {image.width} x {image.height} as {kind}: {_reason(error)}"
        ) from error


def _saved(image: Image, kind: str) -> bytes:
    icc, exif, xmp = image.metadata.icc, image.metadata.exif, image.metadata.xmp
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
    PIL.Image.fromarray(image.pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


def _what_fits(metadata: Metadata, kind: str) -> Metadata:
    """Return what of some metadata a format can hold, and log what it cannot, or not as it is."""
    for name, part in asdict(metadata).items():
        alone = Metadata(**{name: part})
        try:
            with _strict_pillow():
                data = _saved(Image(np.zeros((1, 1, 3), np.uint8), alone), kind)
            back = from_bytes(data, kind).metadata
        except Exception:  # anything may be in it, and a file made of it may be one that is not read
            back = Metadata()
        if not back and part:
            metadata = replace(metadata, **{name: b""})
            _log.warning("%s cannot hold this picture's %s (%d bytes): it is left out", kind, name.upper(), len(part))
        elif back != alone:
            _log.warning("%s holds this picture's %s as tags of its own, not byte for byte", kind, name.upper())
    return metadata


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


def _require_rgb8(picture: PIL.Image.Image, data: bytes, name: str) -> None:
    """Raise an ImageError that says what the picture is, unless it is a single one in 8-bit RGB."""
    frames = int(getattr(picture, "n_frames", 1))
    if frames > 1:
        raise ImageError(
            f"{name} holds {frames} pictures (pages, previews or frames of an animation); refscale codes one: "
            f"take the first with {_convert(name + '[0]', '-alpha off')}"
        )
    bits, bands = 8, 3
    mode = _MODES_WITH_ALPHA.get(picture.mode, picture.mode.partition(";")[0])
    if picture.format == "PNG":
        bits, colour_type = data[24], data[25]  # in the IHDR chunk that every PNG begins with
        if colour_type == 4:
            mode = "L"  # grey + alpha, which Pillow makes RGBA of where it has 16 bits
    elif isinstance(picture, TiffImageFile):
        bits, bands = _tiff_layout(picture.tag_v2)
    alpha = picture.mode in _MODES_WITH_ALPHA or "transparency" in picture.info
    if mode == "RGB" and bits == 8 and bands > 3 and not alpha:
        raise ImageError(
            f"{name} has {bands} bands; refscale codes 8-bit RGB for now: pick three with "
            f"`gdal_translate -b 1 -b 2 -b 3 -co PHOTOMETRIC=RGB {shlex.quote(name)} rgb.tif`"
        )
    if mode == "RGB" and bits == 8 and not alpha:
        return
    colour = _COLOUR_OF_MODE.get(mode, picture.mode)
    if mode == "I" and bits == 16:
        colour = "grey"
    what = f"{_a_bits(bits)} {colour} picture{' with transparency' if alpha else ''}"
    if bits > 16:
        remedy = "bring its values to 0..255 and save it as RGB"
    else:
        options = "-colorspace sRGB" if mode in ("CMYK", "YCbCr", "LAB") else "-alpha off" if alpha else ""
        lost = " (which drops the transparency)" if alpha else " (which drops the lower bits)" if bits > 8 else ""
        remedy = f"convert it with {_convert(name, options)}{lost}"
    raise ImageError(f"{name} is {what}; refscale codes 8-bit RGB for now: {remedy}")


def _decode(picture: PIL.Image.Image, data: bytes) -> NDArray[np.uint8]:
    """Return the pixels as stored, [h, w, 3], a writable array of their own."""
    if picture.format == "PNG":  # the check sums of all chunks, which decoding alone does not look at
        PIL.Image.open(io.BytesIO(data), formats=("PNG",)).verify()
    turned = None
    if isinstance(picture, TiffImageFile):
        turned = _BACK_TO_STORED.get(picture.getexif().get(_TAG_ORIENTATION, 1))
    picture.load()
    if turned is not None:
        picture = picture.transpose(turned)
    return np.array(picture, dtype=np.uint8)


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
            f"convert it with {_convert(name + '[0]', '-alpha off')}"
        )
    layout = _describe_tiff(data) if kind == "TIFF" else ""
    return f"{name} is {layout or f'a {kind} file, but damaged, truncated or of an unsupported kind'}"


def _describe_tiff(data: bytes) -> str:
    """Say what a TIFF holds whose layout Pillow does not know, or nothing where even that cannot be read."""
    try:
        tags = ImageFileDirectory_v2(data[: 16 if data[2:4] in (b"+\0", b"\0+") else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        with _strict_pillow():  # its warnings go nowhere: the message that is being written says it all
            tags.load(file)
        bits, bands = _tiff_layout(tags)
        formats = tags.get(_TAG_SAMPLE_FORMAT, (1,))
        plausible = all(tag in tags for tag in _TAGS_OF_EVERY_TIFF) and 1 <= bits <= 64
    except Exception:  # hostile bytes again; the plain message does for them
        return ""
    if not plausible:
        return ""
    values = _SAMPLE_FORMATS.get(max(formats), "")
    return (
        f"{_a_bits(bits)} {values}TIFF with {bands} band{'s' if bands > 1 else ''} in a layout that is not supported; "
        "refscale codes 8-bit RGB for now: bring its values to 0..255 and save three bands as RGB"
    )


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


def _convert(name: str, options: str) -> str:
    # Not `-type TrueColor`: ImageMagick 6 then still writes a grey or palette PNG where that is smaller.
    return "`" + " ".join(filter(None, ["convert", shlex.quote(name), options, "PNG24:rgb.png"])) + "`"


def _a_bits(bits: int) -> str:
    return f"{'an' if bits == 8 else 'a'} {bits}-bit"


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
