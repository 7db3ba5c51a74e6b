"""EXIF and XMP of a TIFF, which holds both as tags, and EXIF's tags among those of the picture.

They are collected into a block of EXIF as other formats have it, and written as tags again. Pillow reads and writes the
directories; here tags are selected, and added to a file that Pillow or GDAL has written.
"""

import struct
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import PIL.Image
from PIL import TiffTags
from PIL.TiffImagePlugin import IFDRational

from refscale_codec.errors import reason
from refscale_codec.picture.io.tiff import Page, Tags, read_directory, tags_at, unknown_tags
from refscale_codec.picture.metadata import CENTIMETRE, INCH, METRE, RATIO, Metadata, packed_resolution, resolution_of

_START = b"Exif\0\0"  # with which Pillow precedes EXIF
_XMP, _ICC, _INTEROP = 700, 34675, 40965
_SUB_DIRECTORIES = (34665, 34853)  # EXIF and GPS
_RESOLUTION = (282, 283, 296)  # across, down and unit
_ORIENTATION, _ORIENTATIONS = 274, range(1, 9)
_UNITS = {RATIO: 1, INCH: 2, CENTIMETRE: 3, METRE: 3}  # of a TIFF; there is no metre
_PER_METRE = {_UNITS[RATIO]: 1000, _UNITS[INCH]: 1 / 0.0254, _UNITS[CENTIMETRE]: 100}  # of a ratio, thousandths
_MOST = 0xFFFF_FFFF  # pixels a metre
TAGS = (  # of the first directory of EXIF, but for those that describe the storage of a TIFF's pixels
    *(269, 270, 271, 272, 274, 282, 283, 285, 296, 305, 306, 315, 316, 318, 319, 18246, 33432),
    *range(40091, 40096),
    *_SUB_DIRECTORIES,
)
"""Tags of a TIFF's directory that belong to EXIF."""


def of_page(page: Page, data: bytes) -> tuple[Metadata, list[str]]:
    """Return colour profile, EXIF and XMP of a picture in a TIFF, and notes for people on tags that are left out."""
    icc, xmp = (_bytes(page.tags.get(tag)) for tag in (_ICC, _XMP))
    try:
        found = {tag: page.tags[tag] for tag in TAGS if tag in page.tags}
        if found.get(_ORIENTATION, 1) not in _ORIENTATIONS:
            del found[_ORIENTATION]
        unknown = unknown_tags(data, page.offset, {*found, *[_ICC] * bool(icc), *[_XMP] * bool(xmp)})
        for tag in _SUB_DIRECTORIES:
            if tag in found:
                at, found[tag] = found[tag], dict(read_directory(data, found[tag]))
                unknown += unknown_tags(data, at, {*found[tag], _INTEROP})
        block = _selected(found)
        names = [f"{tag} ({TiffTags.lookup(tag).name})".removesuffix(" (unknown)") for tag in unknown]
        notes = [f"left out: TIFF tag{'s' * (len(names) > 1)} {', '.join(names)}"] if names else []
        return Metadata(icc, block.tobytes().removeprefix(_START) if block else b"", xmp), notes
    except Exception as error:  # hostile bytes; the pixels do not depend on them
        return Metadata(icc, xmp=xmp), [f"left out: damaged EXIF ({reason(error)})"]


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1") if isinstance(value, str) else b""


def with_tags(tiff: bytes, metadata: Metadata) -> bytes:
    """Return a TIFF with EXIF, XMP and resolution as tags of its first directory; EXIF's resolution has precedence.

    The directory stays where it is, and the rest of the file moves behind it, so that a Cloud Optimized GeoTIFF remains
    one.

    Args:
        tiff: a little-endian file as Pillow or GDAL writes it, without SubIFDs.
        metadata: of which these are written.

    Raises:
        Exception: nearly any, for EXIF that cannot be written.
    """
    block = _loaded(metadata.exif)
    block = _selected({tag: block.get_ifd(tag) if tag in _SUB_DIRECTORIES else block[tag] for tag in block})
    resolution = resolution_of(metadata)
    if resolution is not None and _RESOLUTION[0] not in block:
        across, down, unit = resolution
        sides = (IFDRational(side, 100 if unit == METRE else 1) for side in (across, down))
        for tag, value in zip(_RESOLUTION, (*sides, _UNITS[unit]), strict=True):
            block[tag] = value
    if metadata.xmp:
        block[_XMP] = metadata.xmp
    if not block:
        return tiff
    file = bytearray(tiff)
    form = _BIG if tiff[2:4] == b"+\0" else _CLASSIC
    (first,) = struct.unpack_from(form.pointer, file, form.start)
    tags = Tags(bytes(file[: 2 * form.start]))
    tags.update(block)
    old = form.entries(file, first)
    most = struct.calcsize(form.number) + form.entry * (len(old) + len(tags)) + struct.calcsize(form.pointer)
    added = tags.tobytes(first + most)
    new = form.entries(added, 0)
    _move(file, form, first, by := -(-(most + len(added)) // 16) * 16)
    old = form.entries(file, first)
    both = {entry[:2]: entry for entry in (*old, *new)}
    following = form.after(first, len(old))
    directory = b"".join(
        [
            struct.pack(form.number, len(both)),
            *(both[tag] for tag in sorted(both, key=lambda tag: int.from_bytes(tag, "little"))),
            file[following : following + struct.calcsize(form.pointer)],
        ]
    )
    return b"".join([file[:first], (directory.ljust(most, b"\0") + added).ljust(by, b"\0"), file[first:]])


def other_resolution(metadata: Metadata) -> bool:
    """Return whether EXIF has another resolution than the picture, up to PNG's rounding; a TIFF has only one."""
    found, said = resolution_of(metadata), _resolution(metadata.exif)
    if found is None or said is None:
        return False
    per = 100 if found[2] == METRE else 1
    rounded = with_resolution(Metadata(exif=metadata.exif)).resolution
    return metadata.resolution != rounded and said != (found[0] / per, found[1] / per, _UNITS[found[2]])


def with_resolution(metadata: Metadata) -> Metadata:
    """Return metadata with the resolution that only EXIF says, as PNG has it: whole pixels a metre, or a ratio.

    A TIFF has its resolution among its tags, which are EXIF here; programs that read a PNG look for its own chunk.
    """
    said = _resolution(metadata.exif)
    if metadata.resolution or said is None:
        return metadata
    across, down, unit = said
    if unit not in _PER_METRE or unit == _UNITS[RATIO] and across == down:
        return metadata
    across, down = (round(side * _PER_METRE[unit]) for side in (across, down))
    if not 0 < min(across, down) <= max(across, down) <= _MOST:
        return metadata
    packed = packed_resolution(across, down, RATIO if unit == _UNITS[RATIO] else METRE)
    return replace(metadata, resolution=packed)


def without_same_resolution(metadata: Metadata) -> Metadata:
    """Return metadata without a resolution that `with_resolution` gives again."""
    bare = replace(metadata, resolution=b"")
    return bare if with_resolution(bare).resolution == metadata.resolution else metadata


def _resolution(exif: bytes) -> tuple[float, float, int] | None:
    """Return EXIF's resolution across and down, and its unit; None if it has none."""
    with suppress(Exception):  # hostile bytes
        block = _loaded(exif)
        across, down, unit = _RESOLUTION
        if across in block:
            return float(block[across]), float(block.get(down, block[across])), int(block.get(unit, 2))
    return None


def _loaded(exif: bytes) -> PIL.Image.Exif:
    """Return the tags of EXIF; a ValueError if its directory is not whole, of which Pillow would only warn."""
    if exif:
        tags_at(exif, Tags(exif[:8]).next)
    block = PIL.Image.Exif()
    block.load(exif)
    return block


class _Form(NamedTuple):
    """The numbers of a little-endian TIFF, as `struct` names them."""

    start: int  # where the offset of the first directory is
    pointer: str
    number: str  # of a directory's entries
    entry: int  # bytes of one

    def entries(self, file: bytes | bytearray, directory: int) -> list[bytes]:
        """Return the entries of a directory."""
        (count,) = struct.unpack_from(self.number, file, directory)
        at = directory + struct.calcsize(self.number)
        return [bytes(file[place : place + self.entry]) for place in range(at, at + self.entry * count, self.entry)]

    def after(self, directory: int, entries: int) -> int:
        """Return where the offset of the next directory is."""
        return directory + struct.calcsize(self.number) + self.entry * entries


_CLASSIC, _BIG = _Form(4, "<I", "<H", 12), _Form(8, "<Q", "<Q", 20)
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_BLOCK_OFFSETS = (273, 324)  # of strips and tiles


def _move(file: bytearray, form: _Form, first: int, by: int) -> None:
    """Raise all offsets from `first` on, from its directory on, by a number of bytes."""
    pointer_size = struct.calcsize(form.pointer)

    def moved(place: int, kind: str) -> int:
        (offset,) = struct.unpack_from(kind, file, place)
        struct.pack_into(kind, file, place, offset + by * (offset >= first))
        return int(offset)

    directory = first
    while directory:
        entries = form.entries(file, directory)
        for index, entry in enumerate(entries):
            tag, kind = struct.unpack_from("<HH", entry)
            (count,) = struct.unpack_from(form.pointer, entry, 4)
            place = form.after(directory, index + 1) - pointer_size
            if count * _TYPE_SIZES[kind] > pointer_size:
                place = moved(place, form.pointer)
            if tag in _BLOCK_OFFSETS:
                offsets = np.frombuffer(file, f"<u{_TYPE_SIZES[kind]}", count, place)
                offsets[offsets >= first] += offsets.dtype.type(by)
        directory = moved(form.after(directory, len(entries)), form.pointer)


def _selected(tags: dict[int, object]) -> PIL.Image.Exif:
    """Return the tags that belong to EXIF."""
    block = PIL.Image.Exif()
    for tag in TAGS:
        value = tags.get(tag)
        if isinstance(value, dict):
            block[tag] = {name: part for name, part in value.items() if name != _INTEROP}  # an offset in the file
        elif isinstance(value, str):
            block[tag] = value.encode("latin-1", "replace")  # of which Pillow would keep ASCII only
        elif value is not None and not (tag == _ORIENTATION and value not in _ORIENTATIONS):  # libtiff reads no other
            block[tag] = value
    return block
