"""Metadata of a picture file, and the METADATA payload of a `.rsc` file. Standard library only.

Each part is bytes here; modules of `io` read parts from files and write them, `geo` has the fields of a
georeference. `docs/FORMAT.md` has the layout of the payload.
"""

import logging
import struct
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate

from refscale_codec.errors import ContainerError
from refscale_codec.picture import geo

MAX_BYTES = 0xFF_FFFF
"""Most bytes of all parts together, before compression."""

_MOST_TEXTS = 1 << 14  # pairs of keyword and text
_ENTRY = 4  # bytes of an entry: type and length
_MORE = 0x80  # in a type: another entry follows
SIZES = {"gamma": 4, "chromaticities": 32, "intent": 1, "cicp": 4, "resolution": 9}
"""Bytes of the parts that have one size."""
EXIF_DATES = (0x9003, 0x0132)
"""EXIF's tags of when a picture was taken and when it was changed."""
_DETAILS = 0x8769  # EXIF's tag of the directory of details

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Metadata:
    """The bytes of each part, without the framing of the picture format; empty for none.

    The order of the parts is that of their types in the file, from 1 on.
    """

    icc: bytes = field(default=b"", repr=False)
    """ICC colour profile."""
    exif: bytes = field(default=b"", repr=False)
    """EXIF, starting with its byte order mark, `II` or `MM`."""
    xmp: bytes = field(default=b"", repr=False)
    """XMP packet."""
    geo: bytes = field(default=b"", repr=False)
    """Georeference and tags of a GeoTIFF, as the JSON of `geo`."""
    gamma: bytes = b""
    """The contents of PNG's gAMA chunk."""
    chromaticities: bytes = b""
    """The contents of PNG's cHRM chunk."""
    intent: bytes = b""
    """The contents of PNG's sRGB chunk: the rendering intent of a picture in the sRGB colour space."""
    cicp: bytes = b""
    """The contents of PNG's cICP chunk: coding-independent code points of the colour space."""
    resolution: bytes = b""
    """Resolution, see `packed_resolution`."""
    texts: bytes = field(default=b"", repr=False)
    """Texts with keywords, see `packed_texts`."""

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return any(parts_of(self).values())


NAMES = {
    "icc": "colour profile",
    "exif": "EXIF",
    "xmp": "XMP",
    "geo": "georeference and tags",
    "gamma": "gamma",
    "chromaticities": "chromaticities",
    "intent": "sRGB rendering intent",
    "cicp": "colour space by code points (cICP)",
    "resolution": "resolution",
    "texts": "texts",
}
"""The parts in messages."""

_TYPES = {part.name: number for number, part in enumerate(fields(Metadata), start=1)}


def parts_of(metadata: Metadata) -> dict[str, bytes]:
    """Return all parts by their names, in order."""
    return {name: getattr(metadata, name) for name in _TYPES}


RATIO, METRE, INCH, CENTIMETRE = range(4)
"""Units of a resolution; as a ratio, it says only the shape of a pixel."""

_RESOLUTION = struct.Struct(">IIB")


def packed_resolution(across: int, down: int, unit: int) -> bytes:
    """Return a resolution as the contents of PNG's pHYs chunk, with further units: pixels per unit across and down."""
    return _RESOLUTION.pack(across, down, unit)


def resolution_of(metadata: Metadata) -> tuple[int, int, int] | None:
    """Return pixels per unit across and down, and the unit; None if there is no resolution."""
    if len(metadata.resolution) != _RESOLUTION.size:
        return None
    across, down, unit = _RESOLUTION.unpack(metadata.resolution)
    return across, down, unit


def packed_texts(texts: list[tuple[str, str]]) -> bytes:
    """Return keywords and texts in UTF-8, each with a zero behind it."""
    return b"".join(text.encode("utf-8", "replace") + b"\0" for pair in texts for text in pair)


def texts_of(metadata: Metadata) -> list[tuple[str, str]]:
    """Return keywords and texts; what is not UTF-8 is replaced."""
    *texts, _ = metadata.texts.decode("utf-8", "replace").split("\0")
    return list(zip(texts[::2], texts[1::2], strict=False))


def without_other_profile(metadata: Metadata, bands: int, where: str) -> Metadata:
    """Return metadata without a colour profile of another colour space than that of so many bands, which is logged."""
    icc = metadata.icc
    space, wanted = icc[16:20], b"GRAY" if bands < 3 else b"RGB "  # ICC.1, 7.2.6
    if icc[36:40] != b"acsp" or space == wanted:
        return metadata
    named = [code.decode("latin-1").strip() for code in (space, wanted)]
    _log.warning("%s: left out: a colour profile of %s, on a picture of %s", where, *named)
    return replace(metadata, icc=b"")


def _fault(name: str, part: bytes) -> str:
    """Return what is wrong with a part; empty for nothing."""
    if len(part) != SIZES.get(name, len(part)):
        return f"it has {len(part)} bytes, expected {SIZES[name]}"
    if name == "texts" and (part[-1] or part.count(0) % 2):
        return "a keyword has no text"
    if name == "texts" and part.count(0) > 2 * _MOST_TEXTS:
        return f"more than {_MOST_TEXTS:,} texts"
    if name == "geo":
        try:
            geo.parse(part)
        except ValueError as error:
            return str(error)
    return ""


def pack(metadata: Metadata) -> bytes | None:
    """Return the payload, deflated if that is smaller; None if there is no metadata.

    Parts that are malformed are left out, and the largest ones of more than `MAX_BYTES`, with a warning through
    `logging`.
    """
    parts = {name: part for name, part in parts_of(metadata).items() if part}
    faults = {name: _fault(name, part) for name, part in parts.items()}
    total = sum(len(part) for name, part in parts.items() if not faults[name])
    for name in sorted(parts, key=lambda name: -len(parts[name])):
        if not faults[name] and total > MAX_BYTES:
            faults[name] = f"at most {MAX_BYTES:,} bytes of metadata are kept"
            total -= len(parts[name])
        if faults[name]:
            _log.warning("left out: the %s (%s bytes): %s", NAMES[name], f"{len(parts.pop(name)):,}", faults[name])
    if not parts:
        return None
    more = [_MORE] * (len(parts) - 1) + [0]
    entries = (
        bytes([_TYPES[name] | flag]) + len(part).to_bytes(_ENTRY - 1, "little")
        for (name, part), flag in zip(parts.items(), more, strict=True)
    )
    plain = b"".join(parts.values())
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = deflater.compress(plain) + deflater.flush()
    return b"".join(entries) + min(plain, deflated, key=len)


def unpack(payload: bytes | None) -> Metadata:
    """Return the metadata in a payload; None is no payload. Parts of unknown types are skipped.

    Raises:
        ContainerError: not a valid payload. No more than `MAX_BYTES` is ever inflated.
    """
    if payload is None:
        return Metadata()
    lengths = _lengths(payload)
    size, plain = sum(lengths.values()), payload[_ENTRY * len(lengths) :]
    if size > MAX_BYTES:
        raise ContainerError(f"over the size limit: METADATA of {size} bytes, expected up to {MAX_BYTES}")
    if not 0 < len(plain) <= size:
        raise ContainerError(f"malformed: METADATA has {len(plain)} bytes for {size}")
    if len(plain) < size:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            plain = inflater.decompress(plain, size + 1)
        except zlib.error as error:
            raise ContainerError(f"malformed: METADATA does not inflate: {error}") from None
        if len(plain) != size or not inflater.eof or inflater.unused_data:
            raise ContainerError(f"malformed: METADATA does not inflate to the {size} bytes that it names")
    ends = accumulate(lengths.values())
    by_type = {kind: plain[end - lengths[kind] : end] for kind, end in zip(lengths, ends, strict=True)}
    parts = {name: by_type[kind] for name, kind in _TYPES.items() if kind in by_type}
    for name, part in parts.items():
        if fault := _fault(name, part):
            raise ContainerError(f"malformed: METADATA, {NAMES[name]}: {fault}")
    return Metadata(**parts)


def _lengths(payload: bytes) -> dict[int, int]:
    """Return the lengths of the parts by their types, from the table that a payload begins with."""
    found: dict[int, int] = {}
    for at in range(0, len(payload) - _ENTRY + 1, _ENTRY):
        kind, length = payload[at] & ~_MORE, int.from_bytes(payload[at + 1 : at + _ENTRY], "little")
        if kind <= max(found, default=0) or not length:
            raise ContainerError(f"malformed: METADATA has a part of type {kind} and {length} bytes in its table")
        found[kind] = length
        if not payload[at] & _MORE:
            return found
    raise ContainerError(f"malformed: METADATA of {len(payload)} bytes ends within its table")


def exif_text(exif: bytes, *tags: int) -> str | None:
    """Return the text of the first of some tags that EXIF has, in its directory of details or the main one."""
    if exif:
        import PIL.Image

        with suppress(Exception), warnings.catch_warnings():  # any bytes may be there
            warnings.simplefilter("ignore")
            block = PIL.Image.Exif()
            block.load(exif)
            for tag in tags:
                if found := block.get_ifd(_DETAILS).get(tag) or block.get(tag):
                    return str(found).strip("\0 ")
    return None
