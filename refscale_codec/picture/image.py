"""Pictures: pixels in memory, and the files they come from and go to.

First and last station of the sentence *image -> align -> rescale -> lrcodec -> container*: everything between works on
`Image.pixels` and never sees a file. `pillow` knows PNG, JPEG, WebP and plain TIFF, `geotiff` any TIFF of 16 bits, of
other bands than grey or RGB, or with a georeference; `tiff` tells which, and `formats` what each format holds.

Pixels are taken **as stored**. An orientation tag (EXIF in JPEG, PNG and WebP, tag 274 in TIFF) is not applied: the
pixel grid is what a reference and a target share, and a viewer's rotation is metadata. Pillow does apply it to TIFF,
which is undone. So an orientation tag stays true of the pixels and comes back with the rest of the EXIF.

Colour profile, EXIF, XMP and georeference are kept as bytes. TIFF has no EXIF in one piece: there the tags that EXIF
knows are put together to one, and taken apart again. What a format cannot hold is found out by trying it on a single
pixel.

Deliberately absent: lossy output. A decoded picture that is saved as JPEG would be coded twice.
"""

import hashlib
import logging
import struct
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ImageError, reason
from refscale_codec.picture import files, formats, geotiff, pillow, tiff
from refscale_codec.picture.metadata import Metadata

MAX_PIXELS = 400_000_000
"""Largest picture that is read, in pixels; the container has the same limit."""

MAX_SIDE = 1 << 20
"""Longest side of a picture that is read, in pixels; the container has the same limit."""

MAX_BANDS = 255
"""Most bands, without alpha."""

MAX_SAMPLES = 3 * MAX_PIXELS
"""Most samples in all bands; the container has the same limit."""

_PARTS = {"icc": "colour profile", "exif": "EXIF", "xmp": "XMP", "geo": "georeference and tags"}

_log = logging.getLogger(__name__)


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
    def longest(self) -> int:
        """The longer side, in pixels."""
        return max(self.height, self.width)

    @property
    def bands(self) -> int:
        """Bands, without alpha."""
        return int(self.pixels.shape[2])

    @property
    def kind(self) -> str:
        """What a person calls such a picture, without its alpha: `8-bit RGB`."""
        return formats.kind_of(self.pixels.dtype, self.bands)

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


def read(path: Path, *, need_place: bool = True) -> Image:
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
        raise ImageError(f"cannot read {path}: {reason(error)}") from error
    return from_bytes(data, str(path), need_place=need_place)


def from_bytes(data: bytes, name: str, *, need_place: bool = True) -> Image:
    """Decode the bytes of a PNG, JPEG, WebP or TIFF file with one picture in it.

    The kind is told from the bytes, not from the name. Every truncated file is refused; a changed byte is noticed
    where the format has check sums (PNG, deflated TIFF) and may pass as other pixels where it has none. What Pillow
    warns about and the pixels survive (a damaged EXIF block, say) is passed on through `logging`, and so is what is not
    taken as it is: a palette becomes the colours that it stands for, and samples of 1 to 4 bits become 8 bits.

    Args:
        data: The whole file.
        name: What to call it in messages: its path, or `standard input`.
        need_place: Whether a georeference must come along. If not, one that only rasterio could read is left out where
            that is not installed: the pixels of an 8-bit GeoTIFF in grey or RGB are the same without it.

    Raises:
        ImageError: not such a file; damaged or truncated; more than `MAX_PIXELS` or `MAX_BANDS`; CMYK, CIELAB or YCbCr;
            samples of more than 16 bits or of floating point; animated or of several pages; or rasterio is needed and
            not installed.
    """
    if not data:
        raise ImageError(f"{name} is empty")
    try:
        with pillow.strict(MAX_PIXELS) as caught:
            tags = tiff.read_tags(data)
            if tags is not None and tiff.takes_gdal(tags, name) and _by_gdal(tags, name, need_place):
                read = _read_by_gdal(data, tiff.profile_and_xmp(tags), name)
            else:
                read = _read_by_pillow(data, name)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(
            f"{name} is too large to be decoded here ({reason(error)}); at most {MAX_PIXELS:,} pixels are read"
        ) from error
    except Exception as error:  # a decoder fed with hostile bytes raises nearly anything
        raise ImageError(f"{name} is damaged or truncated: {reason(error)}") from error
    if read.longest > MAX_SIDE:
        raise ImageError(f"{name} has a side of {read.longest:,} pixels; at most {MAX_SIDE:,} are read: cut it up")
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        _log.warning("%s: %s", name, message)
    return read


def _by_gdal(tags: tiff.Tags, name: str, need_place: bool) -> bool:
    """Return whether a TIFF that GDAL is for must be read by it; ImageError where it must and is not there."""
    if not tiff.differs_by_place_only(tags) or geotiff.installed():
        return True
    if need_place:
        raise ImageError(
            f"{name} is a GeoTIFF, and its georeference takes GDAL: {geotiff.INSTALL}; `encode --strip` does without it"
        )
    return False


def _read_by_pillow(data: bytes, name: str) -> Image:
    samples, metadata = pillow.decode(data, name, MAX_PIXELS)
    if samples.shape[2] % 2:
        return Image(np.ascontiguousarray(samples), metadata)
    return Image(np.ascontiguousarray(samples[..., :-1]), metadata, samples[..., -1].copy())


def _read_by_gdal(data: bytes, said: Metadata, name: str) -> Image:
    pixels, alpha, nodata, geo, notes = geotiff.decode(data, name, MAX_PIXELS, MAX_SAMPLES)
    if pixels.shape[2] > MAX_BANDS:
        raise ImageError(f"{name} has {pixels.shape[2]} bands; at most {MAX_BANDS} are coded")
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return Image(pixels, replace(said, geo=geo), alpha, nodata)


def read_rgb(path: Path) -> Image:
    """Read a picture that must be 8-bit RGB without alpha, see `read`: what measures and trains takes no other.

    Raises:
        ImageError: as `read`, and for any other kind.
    """
    image = read(path, need_place=False)
    if image.kind != "8-bit RGB" or image.alpha is not None:
        with_alpha = "" if image.alpha is None else " with alpha"
        raise ImageError(
            f"{path} is {image.kind}{with_alpha}; this command takes 8-bit RGB only: {formats.conversion(str(path))}"
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
    data = to_bytes(image, format if format is not None else formats.of_path(path))
    try:
        files.write_atomically(path, data)
    except FileNotFoundError as error:
        raise ImageError(f"cannot write {path}: there is no folder {path.parent}") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot write {path}: {reason(error)}") from error


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
    kind = formats.named(format)
    formats.require_holds(kind, image.pixels.dtype, image.bands, image.longest)
    if kind == "webp" and image.bands == 1:
        _log.warning("WebP has no grey pictures: this one becomes RGB; PNG and TIFF keep it grey")
    if kind == "png" and image.kind == "16-bit grey" and image.alpha is not None:
        _log.warning("PNG of 16-bit grey with alpha is not written here: it becomes RGB; TIFF keeps it grey")
    if kind in ("png", "webp") and image.nodata is not None:
        _log.warning(
            "%s cannot hold this picture's nodata value %d, which only its pixels keep; TIFF can",
            formats.NAMES[kind],
            image.nodata,
        )
    way = _way(image, kind)
    if way == "geotiff":
        geotiff.require_gdal("a TIFF of this picture")
    metadata = _what_fits(image, way)
    try:
        return _stored(replace(image, metadata=metadata), way)
    except (OSError, ValueError, MemoryError) as error:
        raise ImageError(
            f"cannot store a picture of {image.width} x {image.height} as {formats.NAMES[way]}: {reason(error)}"
        ) from error


def _way(image: Image, kind: str) -> str:
    """Return `geotiff` for a TIFF that takes GDAL, else the format."""
    gdal = kind == "tiff" and formats.takes_gdal(image.pixels.dtype, image.bands, image.nodata, image.metadata.geo)
    return "geotiff" if gdal else kind


def _stored(image: Image, way: str) -> bytes:
    said = image.metadata
    if way == "geotiff":
        return geotiff.encode(image.pixels, image.alpha, image.nodata, said.geo, said.icc, "the picture")
    samples = image.pixels if image.alpha is None else np.dstack([image.pixels, image.alpha])
    return pillow.encode(samples, way, said)


def _what_fits(image: Image, way: str) -> Metadata:
    """Return what of a picture's metadata a format can hold, and log what it cannot, or not as it is."""
    fitting = image.metadata
    ways = [_way(image, kind) for kind in formats.holding(image.pixels.dtype, image.bands, image.longest)]
    for name, part in asdict(fitting).items():
        back = _held(image, way, name) if part else part
        if part and not back:
            fitting = replace(fitting, **{name: b""})
            able = formats.listed([other for other in ways if other != way and _held(image, other, name)])
            _log.warning(
                f"{formats.NAMES[way]} cannot hold this picture's {_PARTS[name]} ({len(part):,} bytes), left out"
                + (f"; {able} can" if able else "")
            )
        elif back != part:
            _log.warning(
                f"{formats.NAMES[way]} holds this picture's {_PARTS[name]} as tags of its own, not byte for byte"
            )
    return fitting


def _held(image: Image, way: str, name: str) -> bytes:
    """Return what comes back of a part of the metadata from a file of one pixel."""
    alone = Metadata(**{name: getattr(image.metadata, name)})
    alpha = None if image.alpha is None else image.alpha[:1, :1]
    try:
        with pillow.strict(MAX_PIXELS):
            data = _stored(replace(image, pixels=image.pixels[:1, :1], alpha=alpha, metadata=alone), way)
        return bytes(getattr(from_bytes(data, way).metadata, name))
    except Exception:  # anything may be in it, and a file made of it may be one that is not read
        return b""
