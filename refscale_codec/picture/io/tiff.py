"""The structure of a TIFF: its pictures by their roles, which kinds are coded, and whether GDAL must decode one.

A TIFF is a chain of directories, each with an image; a directory may have children (SubIFDs). Which of them are
pictures follows from their roles (NewSubfileType, SubfileType, photometric interpretation), never from their number or
order: overviews and previews are passed over, and a mask belongs to the picture before it. What follows from the tags
alone is decided here, so it is the same with and without a georeference, and whatever is installed.
"""

import io
import math
import re
import shlex
from collections.abc import Container, Iterator
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from refscale_codec.errors import ImageError, reason
from refscale_codec.picture import levels
from refscale_codec.picture.io import formats, jpeg


class Tags(ImageFileDirectory_v2):
    """The tags of one image by their numbers."""

    _load_dispatch = ImageFileDirectory_v2._load_dispatch | {
        kind: (8, lambda tags, data, legacy, letter=letter: tags._unpack(f"{len(data) // 8}{letter}", data))
        for kind, letter in ((17, "q"), (18, "Q"))  # signed integers of 64 bits, and offsets of directories
    }
    """Pillow's readers of values by their types, and those of BigTIFF's types that it lacks."""

    def __init__(self, header: bytes) -> None:
        """Read nothing yet but where the first directory is, by the header of the file."""
        big = header[:4] == b"MM\0+"  # which Pillow takes for the form of 32 bits
        super().__init__(header[:8] if big else header)
        if big:
            self._bigtiff, self.next = True, int.from_bytes(header[8:16], "big")

    def __getitem__(self, tag: int) -> Any:
        """Return a value; one that is to be numbers is so of type BYTE, too, which Pillow takes for bytes."""
        value = super().__getitem__(tag)
        if tag in _NUMBERS and isinstance(value, bytes):
            return value[0] if len(value) == 1 else tuple(value)
        return value


_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR = 256, 257, 258, 259, 262, 277, 284
_STRIPS, _ROWS, _STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 273, 278, 279, 322, 323, 324, 325
_SUBFILE, _OLD_SUBFILE, _FILL_ORDER, _CHILDREN, _EXTRA, _SAMPLE_FORMAT = 254, 255, 266, 330, 338, 339
_COLOUR_MAP, _JPEG_TABLES, _THUMBNAIL, _NODATA, _DESCRIPTION, _DEPTH = 320, 347, 513, 42113, 270, 32997
_NUMBERS = (  # that say how pixels are stored
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _STRIPS, _ROWS, _STRIP_BYTES, _TILE_WIDTH),
    *(_TILE_HEIGHT, _TILES, _TILE_BYTES, _SUBFILE, _OLD_SUBFILE, _FILL_ORDER, _EXTRA, _SAMPLE_FORMAT),
)
_PIXELS = {  # how pixels are stored; and what says nothing of them: hints for fax and printers, ranges, padding
    *(*_NUMBERS, _CHILDREN, _COLOUR_MAP, _JPEG_TABLES, 292, 293, 317, *range(512, 522), *range(529, 533), 50674),
    *(263, 264, 265, 280, 281, 288, 289, 297, 326, 327, 328, 340, 341, 59932),
}
_GDAL = {33550, 33920, 33922, 34264, 34735, 34736, 34737, 42112, _NODATA, 50844}
"""Georeference, GDAL's metadata, nodata, RPC."""
_BLOCK_TYPES = (3, 4, 16, 17)  # of a block's offset and length, as GDAL reads them: 16, 32 and 64 bits
_GDAL_TYPES = (1, 17, 18)  # of numbers that Pillow does not read: bytes, and BigTIFF's but for unsigned ones of 64 bits
_UNSIGNED, _SIGNED, _FLOAT, _VOID, _COMPLEX = 1, 2, 3, 4, {5, 6}  # sample formats; GDAL takes void for unsigned
_WHITE_IS_ZERO, _GREY, _RGB, _PALETTE, _MASK, _YCBCR = 0, 1, 2, 3, 4, 6
_COLOURS = {_WHITE_IS_ZERO: 1, _GREY: 1, _RGB: 3, _PALETTE: 1, _YCBCR: 3}  # samples per pixel without extra ones
_KINDS = {  # photometric interpretations that are not coded
    _MASK: "a mask", 5: "a CMYK picture", _YCBCR: "a YCbCr picture", 8: "a CIELAB picture", 9: "a CIELAB picture",
    10: "a CIELAB picture", 32803: "a raw picture of a colour filter array", 32844: "a LogL picture",
    32845: "a LogLuv picture", 34892: "a linear raw picture",
}  # fmt: skip
_PREMULTIPLIED, _ALPHA = 1, 2  # in ExtraSamples
_FAX, JPEG = (2, 3, 4), 7  # compressions
_LOSSLESS = (1, 5, 8, 32773, 32946)  # compressions that Pillow decodes always: none, LZW, deflate, PackBits, deflate


class Page(NamedTuple):
    """A picture in a TIFF."""

    tags: Tags
    offset: int
    """Where its directory is in the file, in bytes."""
    first: bool
    """Whether that is the first directory."""
    big_endian: bool
    """Whether the file is a BigTIFF of big-endian order, which Pillow does not open."""
    masks: tuple["Page", ...] = ()
    """The masks that belong to it."""
    notes: tuple[str, ...] = ()
    """For people: what is left out."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return int(self.tags[_WIDTH]), int(self.tags[_HEIGHT])

    @property
    def bits(self) -> int:
        """Bits of a sample; of the deepest one if they differ."""
        return int(max(self.tags.get(_BITS, (1,))))

    @property
    def samples(self) -> int:
        """Samples per pixel."""
        return int(self.tags.get(_SAMPLES, len(self.tags.get(_BITS, (1,)))))

    @property
    def extra(self) -> tuple[int, ...]:
        """The meaning of the last samples of a pixel: 0 is not specified, 1 is premultiplied alpha, 2 is alpha."""
        return tuple(self.tags.get(_EXTRA, ()))

    def premultiplied(self, band: int) -> bool:
        """Return whether a band, from 0, is alpha by which the colours have been multiplied."""
        place = band - (self.samples - len(self.extra))
        return place >= 0 and self.extra[place] == _PREMULTIPLIED

    @property
    def photometric(self) -> int:
        """What its colours are; grey if the file does not say, as for GDAL."""
        return int(self.tags.get(_PHOTOMETRIC, _GREY))

    @property
    def compression(self) -> int:
        """By what its blocks are compressed."""
        return int(self.tags.get(_COMPRESSION, 1))

    @property
    def white_is_zero(self) -> bool:
        """Whether 0 is white, so that samples have to be inverted."""
        return self.photometric == _WHITE_IS_ZERO

    @property
    def fax(self) -> bool:
        """Whether it is compressed as fax is: CCITT's one- or two-dimensional codes."""
        return self.compression in _FAX

    @property
    def palette(self) -> bool:
        """Whether the first sample of a pixel is an index of `colours`."""
        return self.photometric == _PALETTE

    @property
    def colours(self) -> NDArray[np.uint8]:
        """The palette, [colours, 3]."""
        table = np.array(self.tags[_COLOUR_MAP], np.uint16).reshape(3, 1 << self.bits).T
        return (table >> 8 if table.max() > 255 else table).astype(np.uint8)  # some writers use 8 of the 16 bits

    @property
    def conversions(self) -> list[str]:
        """For people: how its samples become those of grey or RGB of at least 8 bits, by what they mean."""
        if self.palette:
            return ["palette picture, converted to its colours"]
        few = f"samples of {self.bits} bit{'s' * (self.bits > 1)}, scaled to 8 bits"
        return [few] * (self.bits < 8) + ["0 is white in it: samples are inverted"] * self.white_is_zero

    @property
    def nodata(self) -> str:
        """The nodata value, as the file says it; empty for none."""
        return str(self.tags.get(_NODATA, "")).strip()

    @property
    def georeferenced(self) -> bool:
        """Whether there are tags that only GDAL reads."""
        return any(tag in self.tags for tag in _GDAL)


def is_tiff(data: bytes) -> bool:
    """Return whether a file is a TIFF by its first bytes."""
    return data[:4] in _STARTS


def read_page(data: bytes, name: str, number: int | None) -> Page:
    """Return the picture to read.

    Args:
        data: the whole file.
        name: of the file, for messages.
        number: which picture, from 1; None for the only one.

    Raises:
        ImageError: there are several pictures, or no such one; the picture is a volume, or of a kind that is not coded;
            damaged.
    """
    try:
        found = _pages(data)
    except Exception as error:  # hostile bytes
        raise ImageError(f"{name} is damaged or truncated: {reason(error)}") from error
    if not found:
        raise ImageError(f"{name} is damaged or truncated: no picture in it")
    if number is None and len(found) > 1:
        raise ImageError(formats.several(name, len(found)))
    if number is not None:
        formats.require_page(name, number, len(found))
    page = found[(number or 1) - 1]
    if (slices := _slices(page, data, len(found))) > 1:
        raise ImageError(
            f"{name} is a volume of {slices} slices in one image, which refscale does not code: write each as an image "
            "of its own, for instance with tifffile"
        )
    _require_coded(page, name)
    return page


def _slices(page: Page, data: bytes, pictures: int) -> int:
    """Return how many images lie one behind the other in a picture of a file that has so many pictures."""
    said = re.match(r"ImageJ=.*?^images=(\d{1,9})\b", str(page.tags.get(_DESCRIPTION, "")), re.DOTALL | re.MULTILINE)
    stack = int(said[1]) if said and pictures == 1 else 1  # the text stays where one image is taken out of a stack
    whole = stack * math.prod(page.size) * page.samples * page.bits // 8 <= len(data)
    return max(*_tuple(page.tags.get(_DEPTH, 1)), stack if whole else 1)


def _pages(data: bytes) -> list[Page]:
    """Return the pictures, each with the masks that follow it, the first one also with those before it."""
    pages: list[Page] = []
    reduced: list[Page] = []
    masks: list[tuple[int, Page]] = []  # with the index of the picture
    for page in _directories(data):
        kind = int(page.tags.get(_SUBFILE, 0))
        overview = kind & 1 or page.tags.get(_OLD_SUBFILE) == 2
        if kind & 4 or page.photometric == _MASK:
            masks += [] if overview else [(max(len(pages) - 1, 0), page)]
        else:
            (reduced if overview else pages).append(page)
    pages = pages or reduced
    for index, mask in masks:
        page = pages[index]
        if mask.size == page.size:
            pages[index] = page._replace(masks=(*page.masks, mask))
        else:
            pages[index] = page._replace(notes=(*page.notes, "a mask of another size is left out"))
    return pages


def _directories(data: bytes) -> Iterator[Page]:
    """Yield the images in the order of the chain, each followed by its children; EXIF's thumbnails are passed over."""
    offset, seen = Tags(_header(data)).next, set[int]()
    while offset:
        first = not seen
        tags = read_directory(data, offset)
        for at, child in ((offset, tags), *((at, read_directory(data, at)) for at in _tuple(tags.get(_CHILDREN, ())))):
            if at in seen:
                raise ValueError("its directories form a loop")
            seen.add(at)
            if _THUMBNAIL in child and _STRIPS not in child:  # EXIF's, a JPEG
                continue
            if not all(isinstance(child.get(tag), int) for tag in (_WIDTH, _HEIGHT)):
                raise ValueError(f"the directory at byte {at} has no width or height")
            yield Page(child, at, first and at == offset, data[:4] == _STARTS[3])
        offset = tags.next


def _header(data: bytes) -> bytes:
    return data[: 16 if b"+" in data[2:4] else 8]


def read_directory(data: bytes, offset: int) -> Tags:
    """Return the tags of the directory at an offset; a ValueError if that is not in the file."""
    if not 8 <= offset < len(data):
        raise ValueError(f"a directory at byte {offset} of {len(data)}")
    tags = Tags(_header(data))
    file = io.BytesIO(data)
    file.seek(offset)
    tags.load(file)
    return tags


def unknown_tags(data: bytes, offset: int, read: Container[int]) -> list[int]:
    """Return the tags of the directory at an offset that neither are read nor say how its pixels are stored."""
    return [tag for tag in tags_at(data, offset) if tag not in _PIXELS and tag not in _GDAL and tag not in read]


def tags_at(data: bytes, offset: int) -> list[int]:
    """Return the numbers of the tags in the directory at an offset; a ValueError if that is not whole."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    pointer, entry = (8, 20) if b"+" in data[2:4] else (2, 12)
    first, count = offset + pointer, int.from_bytes(data[offset : offset + pointer], order)
    if offset < 8 or first > len(data) or first + count * entry > len(data):
        raise ValueError(f"a directory at byte {offset} of {len(data)} ends early")
    places = range(first, first + count * entry, entry)
    return list(dict.fromkeys(int.from_bytes(data[place : place + 2], order) for place in places))


def _tuple(value: object) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (int(value),)  # type: ignore[call-overload]


def _require_coded(page: Page, name: str) -> None:
    """Raise an ImageError if a picture is of a kind that is not coded."""
    tags = page.tags
    types = {_UNSIGNED if kind == _VOID else kind for kind in _tuple(tags.get(_SAMPLE_FORMAT, _UNSIGNED))}
    bits, photometric = page.bits, page.photometric
    if any(tags.tagtype.get(tag, 4) not in _BLOCK_TYPES for tag in (_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES)):
        raise ImageError(f"{name} is damaged: the places of its blocks are no integers of 16, 32 or 64 bits")
    if types & _COMPLEX or bits > 32 and types != {_FLOAT}:
        values = "complex" if types & _COMPLEX else f"integers of {bits} bits"
        advice = "" if types & _COMPLEX else ": `gdal_translate -ot Int32` keeps those below 2,147,483,648"
        raise ImageError(f"{name} has samples that are {values}; refscale codes {levels.NAMES}{advice}")
    if len(set(_tuple(tags.get(_BITS, 1)))) > 1:
        raise ImageError(f"{name} has bands of different depths, {_tuple(tags[_BITS])} bits: bring all to one depth")
    if photometric == _YCBCR and page.compression == JPEG and bits == 8:
        return
    if photometric in _KINDS or photometric not in _COLOURS:
        kind = _KINDS.get(photometric, f"a picture of photometric interpretation {photometric}")
        advice = formats.conversion(name, "picture.tif")
        raise ImageError(
            f"{name} is {kind}, which refscale does not code: convert it with {advice}, which leaves out a georeference"
        )
    if page.samples < _COLOURS[photometric]:
        raise ImageError(f"{name} is damaged: {page.samples} samples per pixel, expected {_COLOURS[photometric]}")
    if page.palette and (found := len(_tuple(tags.get(_COLOUR_MAP, ())))) != 3 << bits:
        raise ImageError(f"{name} is damaged: its palette has {found} values, expected {3 << bits}")
    straight = page.extra in ((), (_ALPHA,)) and page.samples == 1 + len(page.extra)
    if page.palette and not straight or page.white_is_zero and page.extra != (_PREMULTIPLIED,) and not straight:
        kind = "a palette" if page.palette else "grey in which 0 is white"
        raise ImageError(
            f"{name} has {kind} beside bands other than alpha: write its bands to files of their own with "
            f"`gdal_translate -b 1 {shlex.quote(name)} band1.tif`"
        )
    if page.white_is_zero and (types != {_UNSIGNED} or bits > 16):
        raise ImageError(f"{name} has grey in which 0 is white, of other samples than 1 to 16 bits without sign")


def gdal_reason(page: Page) -> str:
    """Return what of a picture needs GDAL to be decoded; empty if Pillow decodes it to the same samples."""
    tags, blocks = page.tags, _blocks(page)
    photometric, types = page.photometric, _tuple(tags.get(_SAMPLE_FORMAT, _UNSIGNED))
    extra = page.samples - _COLOURS[photometric]
    reasons = (
        (not page.first, "place behind another image"),
        (page.big_endian, "form, a BigTIFF of big-endian order"),
        (any(tags.tagtype.get(tag) in _GDAL_TYPES for tag in _NUMBERS), "types of numbers"),
        (page.bits not in (1, 2, 4, 8) or page.bits < 8 and page.samples > 1, f"samples of {page.bits} bits"),
        (_SIGNED in types, "signed samples"),
        (_VOID in types, "samples of no type"),
        (
            _PHOTOMETRIC not in tags or photometric == _YCBCR or page.white_is_zero and page.samples > 1,
            "photometric interpretation",
        ),
        (extra == 1 and page.extra == (_PREMULTIPLIED,), "premultiplied alpha"),
        (extra and page.extra != (_ALPHA,), f"{page.samples} bands"),
        (tags.get(_PLANAR, 1) != 1, "separate planes"),
        (page.compression not in _LOSSLESS, "compression"),
        (tags.get(_FILL_ORDER, 1) != 1, "order of bits"),
        (_NODATA in tags, "nodata value"),
        (bool(page.masks), "mask"),
        (blocks is None or not blocks[:, 1].all(), "blocks that are not stored"),
    )
    return next((what for needed, what in reasons if needed), "")


def require_blocks(page: Page, data: bytes, name: str) -> None:
    """Raise an ImageError if blocks (strips or tiles) lie beyond the file, or are too short for their pixels.

    Blocks that are not stored at all are allowed. It takes no memory for the pixels.
    """
    blocks = _blocks(page)
    if blocks is None:
        return
    (width, height), tags = page.size, page.tags
    planes = page.samples if tags.get(_PLANAR, 1) == 2 else 1
    if _TILES in tags:
        columns, rows = int(tags[_TILE_WIDTH]), int(tags[_TILE_HEIGHT])
    else:
        columns, rows = width, min(int(tags.get(_ROWS, height)), height)
    down = -(-height // rows)
    count = planes * down * -(-width // columns)
    if len(blocks) < count:
        raise ImageError(f"{name} is damaged or truncated: {len(blocks)} of {count} blocks")
    size = np.full(count, -(-columns * page.bits * (page.samples // planes) // 8) * rows)
    if _TILES not in tags:
        size[down - 1 :: down] = size[0] // rows * (height - (down - 1) * rows)
    offsets, lengths = blocks[:count].T
    least = size // formats.MOST_BYTES.get(page.compression, 1 << 62)
    damaged = (lengths > 0) & ((offsets + lengths > len(data)) | (offsets < 8) | (lengths < least))
    if page.photometric == _YCBCR or page.compression == JPEG:
        tables = bytes(tags.get(_JPEG_TABLES, b""))
        for index in np.flatnonzero(~damaged & (lengths > 0)):
            block = data[offsets[index] : offsets[index] + lengths[index]]
            with suppress(PIL.UnidentifiedImageError):  # GDAL decodes more kinds
                damaged[index] = jpeg.ends_early(tables[:-2] + block[2:] if tables else block)
            if damaged[index]:
                break
    if damaged.any():
        raise ImageError(f"{name} is damaged or truncated: the data of block {int(damaged.argmax())} end early")


def _blocks(page: Page) -> NDArray[np.int64] | None:
    """Return offset and length of each block, in bytes; None if the file does not say."""
    tags = page.tags
    offsets, lengths = (_tuple(tags.get(tile, tags.get(strip, ()))) for tile, strip in ((324, 273), (325, 279)))
    if not lengths or len(offsets) != len(lengths):
        return None
    blocks = np.array([offsets, lengths], np.int64).T
    blocks[blocks[:, 0] == 0] = 0
    return blocks
