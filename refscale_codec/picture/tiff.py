"""The tags of a TIFF: whether Pillow or GDAL reads it, its orientation, and its EXIF, which a TIFF holds as tags.

`pillow` reads a TIFF unless Pillow could not, or would lose samples or metadata; then `geotiff` does.
"""

import io
import shlex

import PIL.Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from refscale_codec.errors import ImageError, reason
from refscale_codec.picture.metadata import Metadata

Tags = ImageFileDirectory_v2
"""The tags of one picture by their numbers."""

_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _SAMPLES, _SAMPLE_FORMAT, _ORIENTATION, _PHOTOMETRIC, _EXTRA = 258, 277, 339, 274, 262, 338
_XMP, _ICC, _INTEROP, _NODATA = 700, 34675, 40965, 42113
_MANDATORY = (256, 257, _PHOTOMETRIC)  # width, height, photometric interpretation
_GDAL = (33550, 33922, 34264, 34735, 42112, _NODATA, 50844)  # georeference, GDAL's metadata, nodata, RPC
_SUB_DIRECTORIES = (34665, 34853)  # EXIF and GPS
_EXIF = (  # tags of the first directory of EXIF, but for those that describe the storage of a TIFF's pixels
    *(270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 316, 318, 319, 18246, 33432),
    *range(40091, 40096),
    *_SUB_DIRECTORIES,
)
_SAMPLE_FORMATS = {2: "signed ", 3: "floating-point ", 5: "complex ", 6: "complex "}

_BACK_TO_STORED = {  # orientation: the inverse of the transposition that Pillow applies to such a TIFF
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_90,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_270,
}


def read_tags(data: bytes) -> Tags | None:
    """Return the first directory of a TIFF; None for another file, or if the directory cannot be read."""
    if data[:4] not in _STARTS:
        return None
    try:
        tags = ImageFileDirectory_v2(data[: 16 if data[2:4] in (b"+\0", b"\0+") else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        bits, bands = _layout(tags)
        return tags if all(tag in tags for tag in _MANDATORY) and 1 <= bits <= 64 and bands else None
    except Exception:  # hostile bytes
        return None


def needs_gdal(tags: Tags, name: str) -> bool:
    """Return whether Pillow cannot read a TIFF, or would lose samples or metadata.

    Raises:
        ImageError: samples of a type that is not coded.
    """
    bits, bands = _layout(tags)
    formats = tags.get(_SAMPLE_FORMAT, (1,))
    formats = set(formats) if isinstance(formats, tuple) else {formats}
    if bits > 16 or formats & set(_SAMPLE_FORMATS) and not (formats == {2} and bits == 16):
        values = _SAMPLE_FORMATS.get(max(formats), "")
        raise ImageError(
            f"{name} has samples that are {values}numbers of {bits} bits; refscale codes 8 and 16 bits: scale them "
            f"with `gdal_translate -ot UInt16 -scale {shlex.quote(name)} scaled.tif`"
        )
    if any(tag in tags for tag in _GDAL):
        return True
    usual = {0: 1, 1: 1, 2: 3}.get(tags[_PHOTOMETRIC])  # grey, grey, RGB
    extra = tags.get(_EXTRA, ())
    return usual is not None and not (bits <= 8 and (bands == usual or bands == usual + 1 and extra in ((1,), (2,))))


def pillow_reads_samples(tags: Tags) -> bool:
    """Return whether Pillow reads the same samples as GDAL, and the picture has no nodata value."""
    bits, bands = _layout(tags)
    usual = {1: 1, 2: 3}.get(tags[_PHOTOMETRIC])
    alpha = bands == (usual or 0) + 1 and tags.get(_EXTRA) == (2,)  # 1 is alpha with premultiplied colours
    return bits == 8 and (bands == usual or alpha) and _NODATA not in tags and not tags.next


def _layout(tags: Tags) -> tuple[int, int]:
    """Return the bits of the deepest sample, and the number of samples per pixel."""
    bits = tags.get(_BITS, (1,))
    return max(bits), int(tags.get(_SAMPLES, len(bits)))


def profile_and_xmp(tags: Tags) -> Metadata:
    """Return the colour profile and the XMP, each a tag."""
    icc, xmp = (tags.get(tag) for tag in (_ICC, _XMP))
    icc, xmp = (part if isinstance(part, bytes) else b"" for part in (icc, xmp))
    return Metadata(icc, xmp=xmp)


def read_exif(data: bytes) -> tuple[bytes, list[str]]:
    """Return the EXIF tags of a TIFF as a block of EXIF, and a note if they are damaged and left out."""
    try:
        tags = PIL.Image.open(io.BytesIO(data), formats=("TIFF",)).getexif()  # loading the picture drops some
        exif = _exif_tags(tags)
        return exif.tobytes() if exif else b"", []
    except Exception as error:  # hostile bytes; the pixels do not depend on them
        return b"", [f"damaged EXIF is left out: {reason(error)}"]


def exif_as_tags(exif: bytes) -> PIL.Image.Exif:
    """Return the tags of a block of EXIF that a TIFF can hold."""
    tags = PIL.Image.Exif()
    tags.load(exif)
    return _exif_tags(tags)


def with_xmp(tags: PIL.Image.Exif, xmp: bytes) -> bytes:
    """Return tags with XMP added, in the form that Pillow takes for a TIFF."""
    if xmp:
        tags[_XMP] = xmp
    return tags.tobytes() if tags else b""


def _exif_tags(tags: PIL.Image.Exif) -> PIL.Image.Exif:
    """Return the tags that belong to EXIF, without those that describe how a TIFF stores its pixels."""
    exif = PIL.Image.Exif()
    for tag in _EXIF:
        if tag not in tags:
            continue
        value = tags[tag]
        if tag in _SUB_DIRECTORIES:
            value = dict(tags.get_ifd(tag))
            value.pop(_INTEROP, None)  # an offset in the file
        exif[tag] = value
    return exif


def as_stored(picture: TiffImageFile) -> PIL.Image.Image:
    """Load a picture and undo the transposition that Pillow applies for its orientation tag."""
    inverse = _BACK_TO_STORED.get(picture.getexif().get(_ORIENTATION, 1))
    picture.load()
    return picture if inverse is None else picture.transpose(inverse)
