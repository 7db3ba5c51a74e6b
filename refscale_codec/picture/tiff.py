"""What the tags of a TIFF say: who is to read it, how it lies, and its EXIF, which there is no block but tags.

Reading is `pillow`'s, or `geotiff`'s where Pillow would not read a file or not keep what it says.
"""

import io
import shlex
import warnings

import PIL.Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from refscale_codec.errors import ImageError, reason
from refscale_codec.picture.metadata import Metadata

Tags = ImageFileDirectory_v2
"""The tags of one picture by their numbers."""

_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _SAMPLES, _SAMPLE_FORMAT, _ORIENTATION, _PHOTOMETRIC, _EXTRA = 258, 277, 339, 274, 262, 338
_XMP, _ICC, _INTEROP, _NODATA = 700, 34675, 40965, 42113
_OF_EVERY_TIFF = (256, 257, _PHOTOMETRIC)  # width and height among them
_OF_GDAL = (33550, 33922, 34264, 34735, 42112, _NODATA, 50844)  # place, its own metadata, nodata
_SUB_DIRECTORIES = (34665, 34853)  # those of EXIF and GPS
_OF_EXIF = (  # what EXIF has in its first directory that does not tell how a TIFF stores its pixels
    *(270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 316, 318, 319, 18246, 33432),
    *range(40091, 40096),
    *_SUB_DIRECTORIES,
)
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


def read_tags(data: bytes) -> Tags | None:
    """Return the first directory of a TIFF; None for what is no TIFF, or not such that this can be read."""
    if data[:4] not in _STARTS:
        return None
    try:
        tags = ImageFileDirectory_v2(data[: 16 if data[2:4] in (b"+\0", b"\0+") else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        with warnings.catch_warnings():  # Pillow will say them again, or the file is not read
            warnings.simplefilter("ignore")
            tags.load(file)
        bits, bands = _layout(tags)
        return tags if all(tag in tags for tag in _OF_EVERY_TIFF) and 1 <= bits <= 64 and bands else None
    except Exception:  # hostile bytes
        return None


def takes_gdal(tags: Tags, name: str) -> bool:
    """Return whether Pillow would not read a TIFF or not keep what it says; ImageError for samples of no good type."""
    bits, bands = _layout(tags)
    formats = tags.get(_SAMPLE_FORMAT, (1,))
    formats = set(formats) if isinstance(formats, tuple) else {formats}
    if bits > 16 or formats & set(_SAMPLE_FORMATS) and not (formats == {2} and bits == 16):
        values = _SAMPLE_FORMATS.get(max(formats), "")
        raise ImageError(
            f"{name} has samples that are {values}numbers of {bits} bits; refscale codes 8 and 16 bits: scale them "
            f"with `gdal_translate -ot UInt16 -scale {shlex.quote(name)} scaled.tif`"
        )
    if any(tag in tags for tag in _OF_GDAL):
        return True
    usual = {0: 1, 1: 1, 2: 3}.get(tags[_PHOTOMETRIC])  # grey, grey, RGB
    extra = tags.get(_EXTRA, ())
    return usual is not None and not (bits <= 8 and (bands == usual or bands == usual + 1 and extra in ((1,), (2,))))


def differs_by_place_only(tags: Tags) -> bool:
    """Return whether Pillow reads the very samples that GDAL does, and the picture has no nodata value."""
    bits, bands = _layout(tags)
    usual = {1: 1, 2: 3}.get(tags[_PHOTOMETRIC])
    alpha = bands == (usual or 0) + 1 and tags.get(_EXTRA) == (2,)  # by 1, colours would be times alpha
    return bits == 8 and (bands == usual or alpha) and _NODATA not in tags and not tags.next


def _layout(tags: Tags) -> tuple[int, int]:
    """Return the bits of the deepest sample and the number of samples a pixel."""
    bits = tags.get(_BITS, (1,))
    return max(bits), int(tags.get(_SAMPLES, len(bits)))


def profile_and_xmp(tags: Tags) -> Metadata:
    """Return the colour profile and the XMP, which are tags as they are."""
    icc, xmp = (tags.get(tag) for tag in (_ICC, _XMP))
    icc, xmp = (part if isinstance(part, bytes) else b"" for part in (icc, xmp))
    return Metadata(icc, xmp=xmp)


def read_exif(data: bytes) -> bytes:
    """Return the tags of a TIFF that EXIF has as a block of EXIF; damaged ones are warned of and left out."""
    try:
        tags = PIL.Image.open(io.BytesIO(data), formats=("TIFF",)).getexif()  # once loaded, Pillow drops some
        exif = _known_to_exif(tags)
        return exif.tobytes() if exif else b""
    except Exception as error:  # hostile bytes, of which the pixels are free
        warnings.warn(f"its EXIF is damaged and left out: {reason(error)}", stacklevel=2)
        return b""


def exif_as_tags(exif: bytes) -> PIL.Image.Exif:
    """Return the tags that a TIFF may have of a block of EXIF."""
    tags = PIL.Image.Exif()
    tags.load(exif)
    return _known_to_exif(tags)


def with_xmp(tags: PIL.Image.Exif, xmp: bytes) -> bytes:
    """Return tags, and XMP as one of them, as Pillow wants them for a TIFF."""
    if xmp:
        tags[_XMP] = xmp
    return tags.tobytes() if tags else b""


def _known_to_exif(tags: PIL.Image.Exif) -> PIL.Image.Exif:
    """Return the tags that EXIF has, without any that tell how a TIFF stores its pixels."""
    exif = PIL.Image.Exif()
    for tag in _OF_EXIF:
        if tag not in tags:
            continue
        value = tags[tag]
        if tag in _SUB_DIRECTORIES:
            value = dict(tags.get_ifd(tag))
            value.pop(_INTEROP, None)  # a position in the file
        exif[tag] = value
    return exif


def as_stored(picture: TiffImageFile) -> PIL.Image.Image:
    """Load a picture and undo the turn that Pillow gives it for its orientation tag."""
    turned = _BACK_TO_STORED.get(picture.getexif().get(_ORIENTATION, 1))
    picture.load()
    return picture if turned is None else picture.transpose(turned)
