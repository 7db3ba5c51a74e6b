"""Bytes <-> header and sections: the last noun of *image → align → rescale → lrcodec → container*, and back.

`docs/FORMAT.md` is normative; this module is its code. One `struct` layout is used both ways, so that writer and reader
cannot drift apart:

    | fixed header, 32 bytes | MAP, if any | LR | what the flags announce | unknown ancillary ... |

The reader trusts nothing: magic, version, CRC-32, flags and size limits are checked in that order, and a length is
compared with the bytes that are left before a payload is copied. Any bytes at all give a `Container` or raise
`ContainerError`, nothing else.

Deliberately absent: what a payload means (`lrcodec` and `rescale` know), whether the fingerprints are the right ones
(`codec` compares them), files and streams (a container is held in memory whole), and anything outside the standard
library, so that `refscale info` starts fast.

Longer than most modules, because writer and reader of the one layout should be read side by side.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum, unique

from refscale_codec.errors import ContainerError

MAGIC = b"\x89RSC"
VERSION = 1
MAX_SIDE = 1 << 20  # pixels
MAX_PIXELS = 400_000_000  # width * height
SCALES = (2, 4)
FINGERPRINT_SIZE = 6  # bytes, of weights, reference and output alike

# magic | version | required, optional features | width, height | scale, codec, quality | weights, reference
_HEADER = struct.Struct("<4sBBB3s3sBBB6s6s")
_CRC = struct.Struct("<I")  # at the header's end over all before it; in a section over type, length and payload
_MAX_PAYLOAD = 0xFFFF_FFFF  # bytes
_FIRST_ANCILLARY = 128  # a reader skips an unknown section of this type or above, and refuses one below

HEADER_SIZE = _HEADER.size + _CRC.size
"""Bytes of the fixed header, its CRC-32 included: 32."""


@unique
class RequiredFeature(IntEnum):
    """Bits of the required flags: a reader refuses a file with a bit that is not listed here."""

    REFERENCE = 1 << 0
    """Coded against a reference: its fingerprint is meaningful."""
    PACKED = 1 << 1
    """The LR payload is a packed form of what the codec wrote."""
    ALIGNED = 1 << 2
    """An ALIGNMENT section is present; only together with REFERENCE."""
    MAPPED = 1 << 3
    """A MAP section is present; only together with REFERENCE or PREDICTED."""
    BANDS = 1 << 4
    """A BANDS section is present: the picture is another than 8-bit RGB."""
    FURTHER = 1 << 5
    """A FURTHER section is present: there are more than three bands."""
    PREDICTED = 1 << 6
    """A PREDICTION section is present: the bands of an earlier file take the reference's place."""


@unique
class OptionalFeature(IntEnum):
    """Bits of the optional flags: a reader ignores a bit that is not listed here."""

    OUTPUT_HASH = 1 << 0
    """An OUTPUT_HASH section is present."""
    METADATA = 1 << 1
    """A METADATA section is present."""


@unique
class SectionType(IntEnum):
    """Types of the sections read and written here; 0 is never used."""

    MAP = 1
    """The similarity map."""
    LR = 2
    """The low-res picture, as the codec named in the header wrote it."""
    OUTPUT_HASH = 3
    """Fingerprint of the decoded picture."""
    ALIGNMENT = 4
    """Where the reference lies on the picture."""
    BANDS = 5
    """Which bands the picture has, of what type, and what of them is kept without loss."""
    FURTHER = 6
    """A complete `.rsc` file with the bands that are left."""
    PREDICTION = 7
    """How the bands follow from the first three of the picture."""
    METADATA = 128
    """What the picture file said beside its pixels."""


_KNOWN: frozenset[int] = frozenset(SectionType)


@dataclass(frozen=True, slots=True)
class Header:
    """What a decoder must know before it looks at a payload."""

    width: int
    """Width of the decoded picture in pixels, 1..`MAX_SIDE`; width * height is at most `MAX_PIXELS`."""
    height: int
    """Height of the decoded picture in pixels, 1..`MAX_SIDE`."""
    scale: int
    """Ratio of high-res to low-res side, 2 or 4."""
    codec: int
    """Id of the low-res codec, 1..255. Which of them exist is `lrcodec`'s business."""
    quality: int
    """Quality the low-res codec was asked for, 1..100; higher is better and bigger."""
    weights: bytes
    """Fingerprint of the weights file, 6 bytes."""
    reference: bytes | None
    """Fingerprint of the reference picture, 6 bytes; None for a picture coded without a reference."""

    @property
    def low_res_size(self) -> tuple[int, int]:
        """Height and width of the low-res picture in pixels."""
        return -(-self.height // self.scale), -(-self.width // self.scale)


@dataclass(frozen=True, slots=True)
class Container:
    """A whole `.rsc` file, taken apart. Payloads are opaque here."""

    header: Header
    lr: bytes = field(repr=False)
    """Low-res payload, at least 1 byte; for codec 1 a complete JPEG unless `packed`."""
    similarity_map: bytes | None = field(default=None, repr=False)
    """Similarity-map payload; only with a reference or a prediction. None there means the highest level everywhere."""
    output_hash: bytes | None = None
    """Fingerprint of the decoded picture, 6 bytes; None where the writer gave none."""
    packed: bool = False
    """Whether `lr` is the packed form of what the codec wrote."""
    alignment: bytes | None = field(default=None, repr=False)
    """Alignment payload, at least 1 byte; only with a reference."""
    metadata: bytes | None = field(default=None, repr=False)
    """Metadata payload, at least 1 byte; None for a picture without."""
    bands: bytes | None = field(default=None, repr=False)
    """Bands payload, at least 1 byte; None for an 8-bit RGB picture."""
    further: bytes | None = field(default=None, repr=False)
    """A complete `.rsc` file with the bands that are left, at least 1 byte; None if these are all."""
    prediction: bytes | None = field(default=None, repr=False)
    """Prediction payload, at least 1 byte; not with an alignment. None where the bands are not predicted."""


@dataclass(frozen=True, slots=True)
class PartSizes:
    """Bytes by part. A section counts with its type, length and CRC-32, so the parts add up to the whole file."""

    header: int
    """The fixed header: always `HEADER_SIZE`."""
    map: int
    """The MAP, ALIGNMENT and PREDICTION sections, if any."""
    lr: int
    """The LR section."""
    metadata: int
    """The METADATA section, if any."""
    other: int
    """All other sections."""
    bands: int = 0
    """The BANDS section, if any."""
    further: int = 0
    """The FURTHER section, if any, which is a file with parts of its own."""

    @property
    def total(self) -> int:
        """Bytes of the whole file."""
        return self.header + self.map + self.lr + self.metadata + self.other + self.bands + self.further


def pack(container: Container) -> bytes:
    """Return the container as the bytes of a `.rsc` file.

    The flags follow from what is there: REFERENCE from `header.reference`, PACKED from `packed`, ALIGNED from
    `alignment`, MAPPED from `similarity_map`, PREDICTED from `prediction`, and the others from the field of their name.

    Raises:
        ValueError: A value is out of the range its field documents, or a similarity map or an alignment is given
            without what it is for: a mistake of the caller, never of a user.
    """
    header = container.header
    if problem := _header_problem(header):
        raise ValueError(problem)
    predicted = container.prediction is not None
    if container.similarity_map is not None and header.reference is None and not predicted:
        raise ValueError("similarity map without a reference")
    if container.alignment is not None and (header.reference is None or predicted):
        raise ValueError("alignment without a reference, or of one that is not used")

    required = {
        RequiredFeature.REFERENCE: header.reference is not None,
        RequiredFeature.PACKED: container.packed,
        RequiredFeature.ALIGNED: container.alignment is not None,
        RequiredFeature.MAPPED: container.similarity_map is not None,
        RequiredFeature.BANDS: container.bands is not None,
        RequiredFeature.FURTHER: container.further is not None,
        RequiredFeature.PREDICTED: predicted,
    }
    optional = {
        OptionalFeature.OUTPUT_HASH: container.output_hash is not None,
        OptionalFeature.METADATA: container.metadata is not None,
    }
    fixed = _HEADER.pack(
        MAGIC,
        VERSION,
        sum(flag for flag, there in required.items() if there),
        sum(flag for flag, there in optional.items() if there),
        header.width.to_bytes(3, "little"),
        header.height.to_bytes(3, "little"),
        header.scale,
        header.codec,
        header.quality,
        header.weights,
        bytes(FINGERPRINT_SIZE) if header.reference is None else header.reference,
    )
    parts = [fixed, _CRC.pack(zlib.crc32(fixed))]
    for kind, payload in _sections(container):
        if problem := _payload_problem(kind, len(payload)):
            raise ValueError(problem)
        head = _section_head(kind, len(payload))
        parts += [head, _CRC.pack(zlib.crc32(payload, zlib.crc32(head))), payload]
    return b"".join(parts)


def unpack(data: bytes) -> Container:
    """Return the container that `data`, the bytes of a whole `.rsc` file, holds.

    Ancillary sections and optional flags that are not known here are skipped and kept nowhere.

    Raises:
        ContainerError: Anything is wrong with the bytes. The message begins with the kind: `not a .rsc file`,
            `newer format version`, `truncated`, `damaged` (a CRC-32 does not fit), `unknown required feature`,
            `over the size limit`, or `malformed` (a writer broke the rules); then what, where and what was expected.
    """
    view = memoryview(data)
    header, packed, announced = _read_header(view)
    found = _read_sections(view)
    for kind in SectionType:
        if kind in announced and kind not in found:
            raise ContainerError(f"truncated: the file ends at byte {len(view)} without its {kind.name} section")
        if kind in found and kind not in announced:
            raise ContainerError(f"malformed: {_name(kind)} section, but the header's flags do not announce one")
    return Container(
        header=header,
        lr=found[SectionType.LR],
        similarity_map=found.get(SectionType.MAP),
        output_hash=found.get(SectionType.OUTPUT_HASH),
        packed=packed,
        alignment=found.get(SectionType.ALIGNMENT),
        metadata=found.get(SectionType.METADATA),
        bands=found.get(SectionType.BANDS),
        further=found.get(SectionType.FURTHER),
        prediction=found.get(SectionType.PREDICTION),
    )


def part_sizes(container: Container) -> PartSizes:
    """Return how many bytes of `pack(container)` each part takes; their sum is its length."""
    size = {
        kind: len(_section_head(kind, len(payload))) + _CRC.size + len(payload)
        for kind, payload in _sections(container)
    }
    lr = size.pop(SectionType.LR)
    related = sum(size.pop(kind, 0) for kind in (SectionType.MAP, SectionType.ALIGNMENT, SectionType.PREDICTION))
    metadata, bands = size.pop(SectionType.METADATA, 0), size.pop(SectionType.BANDS, 0)
    further = size.pop(SectionType.FURTHER, 0)
    other = sum(size.values())
    return PartSizes(
        header=HEADER_SIZE, map=related, lr=lr, metadata=metadata, other=other, bands=bands, further=further
    )


def _sections(container: Container) -> Iterator[tuple[SectionType, bytes]]:
    """Yield the sections that are there, in file order."""
    if container.similarity_map is not None:
        yield SectionType.MAP, container.similarity_map
    yield SectionType.LR, container.lr
    if container.output_hash is not None:
        yield SectionType.OUTPUT_HASH, container.output_hash
    if container.alignment is not None:
        yield SectionType.ALIGNMENT, container.alignment
    if container.bands is not None:
        yield SectionType.BANDS, container.bands
    if container.further is not None:
        yield SectionType.FURTHER, container.further
    if container.prediction is not None:
        yield SectionType.PREDICTION, container.prediction
    if container.metadata is not None:
        yield SectionType.METADATA, container.metadata


def _section_head(kind: int, length: int) -> bytes:
    """Return what stands before a section's CRC-32: its type, and its length in base 128, lowest digit first."""
    head = [kind]
    while length >= 128:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes([*head, length])


def _read_length(view: memoryview, at: int) -> tuple[int, int]:
    """Return the length that is written at a position, and the position after it."""
    length = 0
    for i, byte in enumerate(view[at : at + 5]):
        length |= (byte & 127) << 7 * i
        if byte < 128:
            return length, at + i + 1
    if len(view) - at < 5:
        raise ContainerError(f"truncated or with trailing bytes: {len(view) - at} bytes of a length at byte {at}")
    raise ContainerError(f"malformed: length at byte {at} of more than 5 bytes")


def _read_header(view: memoryview) -> tuple[Header, bool, set[SectionType]]:
    """Return the header, whether the LR payload is packed, and the sections that the flags announce."""
    start = bytes(view[: len(MAGIC)])
    if not MAGIC.startswith(start):
        raise ContainerError(f"not a .rsc file: it begins with {start.hex(' ')}, expected {MAGIC.hex(' ')}")
    if len(view) > len(MAGIC) and view[len(MAGIC)] > VERSION:  # before the size: a later header may be shorter
        raise ContainerError(f"newer format version: {view[len(MAGIC)]}, this refscale reads up to {VERSION}")
    if len(view) < HEADER_SIZE:
        raise ContainerError(f"truncated: {len(view)} bytes, expected at least the {HEADER_SIZE} of the header")
    if zlib.crc32(view[: _HEADER.size]) != _CRC.unpack_from(view, _HEADER.size)[0]:
        raise ContainerError(f"damaged: the header, bytes 0 to {HEADER_SIZE - 1}, does not fit its CRC-32")

    _, version, required, optional, *size, scale, codec, quality, weights, reference = _HEADER.unpack_from(view)
    if version != VERSION:
        raise ContainerError(f"malformed: format version {version}, which was never used")
    if unknown := required & ~sum(RequiredFeature):
        bits = ", ".join(str(bit) for bit in range(8) if unknown >> bit & 1)
        raise ContainerError(f"unknown required feature: bit {bits} of the required flags; a newer refscale may know")
    has_reference = bool(required & RequiredFeature.REFERENCE)
    if not has_reference and any(reference):
        raise ContainerError(f"malformed: reference fingerprint {reference.hex()} without the REFERENCE flag")
    predicted = bool(required & RequiredFeature.PREDICTED)
    if required & RequiredFeature.ALIGNED and not has_reference:
        raise ContainerError("malformed: ALIGNED flag without the REFERENCE flag")
    if required & RequiredFeature.ALIGNED and predicted:
        raise ContainerError("malformed: ALIGNED flag together with the PREDICTED flag")
    if required & RequiredFeature.MAPPED and not has_reference and not predicted:
        raise ContainerError("malformed: MAPPED flag without the REFERENCE flag")
    width, height = (int.from_bytes(side, "little") for side in size)
    header = Header(width, height, scale, codec, quality, weights, reference if has_reference else None)
    if problem := _header_problem(header):
        raise ContainerError(problem)

    announced = {SectionType.LR}
    if required & RequiredFeature.MAPPED:
        announced.add(SectionType.MAP)
    if required & RequiredFeature.ALIGNED:
        announced.add(SectionType.ALIGNMENT)
    if required & RequiredFeature.BANDS:
        announced.add(SectionType.BANDS)
    if required & RequiredFeature.FURTHER:
        announced.add(SectionType.FURTHER)
    if predicted:
        announced.add(SectionType.PREDICTION)
    if optional & OptionalFeature.OUTPUT_HASH:
        announced.add(SectionType.OUTPUT_HASH)
    if optional & OptionalFeature.METADATA:
        announced.add(SectionType.METADATA)
    return header, bool(required & RequiredFeature.PACKED), announced


def _read_sections(view: memoryview) -> dict[int, bytes]:
    """Return the payload of each known section by its type; the bytes after the header must be sections to the end."""
    found: dict[int, bytes] = {}
    last, at = 0, HEADER_SIZE
    while at < len(view):
        kind = view[at]
        where = f"{_name(kind)} section at byte {at}"
        length, start = _read_length(view, at + 1)
        start += _CRC.size
        if length > (present := len(view) - start):
            raise ContainerError(
                f"truncated or with trailing bytes: {where} has {present} bytes of payload, expected {length}"
                if present >= 0
                else f"truncated or with trailing bytes: {where} ends within its CRC-32"
            )
        payload = view[start : start + length]
        crc_at = start - _CRC.size
        if zlib.crc32(payload, zlib.crc32(view[at:crc_at])) != _CRC.unpack_from(view, crc_at)[0]:
            raise ContainerError(f"damaged: {where} does not fit its CRC-32")
        if _section_head(kind, length) != view[at:crc_at]:
            raise ContainerError(f"malformed: {where} does not write its length in the shortest form")
        if kind == 0:
            raise ContainerError(f"malformed: {where}, a type that is never used")
        if kind <= last:
            raise ContainerError(f"malformed: {where} after {_name(last)}, expected each type once and in rising order")
        if kind in _KNOWN:
            if problem := _payload_problem(kind, length):
                raise ContainerError(f"{problem}, at byte {at}")
            found[kind] = bytes(payload)
        elif kind < _FIRST_ANCILLARY:
            raise ContainerError(f"unknown required feature: {where}; a newer refscale may know")
        last, at = kind, start + length
    return found


def _header_problem(header: Header) -> str | None:
    """Return what is out of range in a header, worded for a user, or None."""
    width, height = header.width, header.height
    if width < 1 or height < 1:
        return f"malformed: picture of {width}x{height} pixels, expected at least 1x1"
    if width > MAX_SIDE or height > MAX_SIDE:
        return f"over the size limit: picture of {width}x{height} pixels, expected sides up to {MAX_SIDE}"
    if width * height > MAX_PIXELS:
        return f"over the size limit: {width}x{height} = {width * height} pixels, expected up to {MAX_PIXELS}"
    if header.scale not in SCALES:
        return f"malformed: scale {header.scale}, expected {' or '.join(map(str, SCALES))}"
    if not 1 <= header.codec <= 255:
        return f"malformed: low-res codec {header.codec}, expected 1..255"
    if not 1 <= header.quality <= 100:
        return f"malformed: quality {header.quality}, expected 1..100"
    for what, fingerprint in (("weights", header.weights), ("reference", header.reference)):
        if fingerprint is not None and len(fingerprint) != FINGERPRINT_SIZE:
            return f"malformed: {what} fingerprint of {len(fingerprint)} bytes, expected {FINGERPRINT_SIZE}"
    return None


def _payload_problem(kind: int, length: int) -> str | None:
    """Return what is wrong with a payload's length in bytes, worded for a user, or None."""
    if length > _MAX_PAYLOAD:
        return f"over the size limit: {_name(kind)} section of {length} bytes, expected up to {_MAX_PAYLOAD}"
    if kind not in (SectionType.MAP, SectionType.OUTPUT_HASH) and length == 0:
        return f"malformed: {_name(kind)} section is empty, expected at least 1 byte"
    if kind == SectionType.OUTPUT_HASH and length != FINGERPRINT_SIZE:
        return f"malformed: {_name(kind)} section of {length} bytes, expected {FINGERPRINT_SIZE}"
    return None


def _name(kind: int) -> str:
    """Return a section type as a message shows it."""
    return SectionType(kind).name if kind in _KNOWN else f"type-{kind}"
