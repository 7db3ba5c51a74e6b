"""Bytes <-> header and sections: the `.rsc` file, the last stage of encoding and the first of decoding.

`docs/FORMAT.md` is normative; this package is its code:

    | fixed header, 32 bytes | MAP, if any | LR | what the flags announce | unknown ancillary ... |

The table in `sections` lists the sections. The reader trusts nothing: magic, version, CRC-32, flags and size
limits are checked in that order, and every limit before a payload is copied. Any bytes at all give a `Container` or
raise `ContainerError`, nothing else.

Deliberately absent: the meaning of payloads (see `lrcodec` and `rescale`), the check of fingerprints (in `codec`),
files and streams (a container is held in memory whole), and anything outside the standard library, so that `refscale
info` starts fast.
"""

import zlib

from refscale_codec.errors import ContainerError, naming
from refscale_codec.fileformat import header as fixed_header
from refscale_codec.fileformat.header import (
    CRC,
    FINGERPRINT_SIZE,
    HEADER_SIZE,
    MAGIC,
    MAX_PIXELS,
    MAX_SIDE,
    SCALES,
    VERSION,
    Header,
)
from refscale_codec.fileformat.sections import (
    FIRST_ANCILLARY,
    MAX_UNANNOUNCED,
    TABLE,
    Container,
    Section,
    relation_problem,
)

__all__ = [
    "FINGERPRINT_SIZE",
    "HEADER_SIZE",
    "MAGIC",
    "MAX_PIXELS",
    "MAX_SIDE",
    "SCALES",
    "VERSION",
    "Container",
    "Header",
    "bytes_by_section",
    "has_hash",
    "most_bytes",
    "pack",
    "unpack",
]


_BY_NUMBER = {section.number: section for section in TABLE.values()}
_LONGEST_HEAD = 1 + 5 + CRC.size  # bytes of a section before its payload
_KNOWN_FLAGS = sum(1 << s.flag for s in TABLE.values() if s.flag is not None and not s.ancillary)


def pack(container: Container) -> bytes:
    """Return the container as the bytes of a `.rsc` file. Its flags follow from what is there.

    Raises:
        ValueError: A value is out of the range its field documents, or a section is given without what it needs: a
            mistake of the caller, never of a user.
    """
    header, present = container.header, list(container.sections())
    required = optional = 0
    for section, _ in present:
        if section.flag is not None and section.ancillary:
            optional |= 1 << section.flag
        elif section.flag is not None:
            required |= 1 << section.flag
    parts = [fixed_header.pack(header, required, optional)]
    if problem := relation_problem(header.reference is not None, [section.name for section, _ in present]):
        raise ValueError(problem)
    for section, payload in present:
        if problem := section.problem(len(payload), header):
            raise ValueError(problem)
        head = _section_head(section.number, len(payload))
        parts += [head, CRC.pack(zlib.crc32(payload, zlib.crc32(head))), payload]
    return b"".join(parts)


def unpack(data: bytes) -> Container:
    """Return the container that `data`, the bytes of a whole `.rsc` file, holds.

    Unknown ancillary sections and optional flags are skipped and not kept.

    Raises:
        ContainerError: The bytes are invalid. The message begins with the kind: `not a .rsc file`,
            `newer format version`, `truncated`, `damaged` (a CRC-32 does not fit), `unknown required feature`,
            `over the size limit`, or `malformed` (a writer broke the rules); then what, where and what was expected.
    """
    view = memoryview(data)
    header, required, optional = fixed_header.unpack(view, _KNOWN_FLAGS)
    sections = _announced(required, optional)
    if len(view) > (most := HEADER_SIZE + _at_most(header, sections)):
        raise ContainerError(f"over the size limit: {len(view)} bytes, expected up to {most}")
    announced = {section.name for section in sections}
    if problem := relation_problem(header.reference is not None, announced):
        raise ContainerError(problem)
    found = _read_sections(view, header, {section.number for section in sections})
    for section in TABLE.values():
        if section.name in announced and section.number not in found:
            raise ContainerError(f"truncated: the file ends at byte {len(view)} without its {section.name} section")
        if section.name not in announced and section.number in found:
            raise ContainerError(f"malformed: {section.name} section, but the header's flags do not announce one")
    payloads = {name: found[section.number] for name, section in TABLE.items() if section.number in found}
    return Container(header, **payloads)


def has_hash(head: bytes) -> bool:
    """Return whether a file has an OUTPUT_HASH section, by its fixed header; ContainerError for one that is invalid."""
    flag = TABLE["output_hash"].flag
    assert flag is not None
    return bool(fixed_header.unpack(memoryview(head), _KNOWN_FLAGS)[2] >> flag & 1)


def most_bytes(head: bytes, name: str) -> int:
    """Return the most bytes that a file can have, by its first ones: the header, and the heads of sections so far.

    Of sections whose length is not there yet, it is that of the largest one. ContainerError for a header that is not
    valid names the file. Where something is no section, the file ends.
    """
    view = memoryview(head)
    with naming(name):
        header, required, optional = fixed_header.unpack(view, _KNOWN_FLAGS)
    last, at = 0, HEADER_SIZE
    while at + _LONGEST_HEAD <= len(view):
        section = _BY_NUMBER.get(view[at])
        try:
            length, start = _read_length(view, at + 1)
        except ContainerError:
            return at
        if view[at] <= last or section is not None and section.problem(length, header):
            return at
        last, at = view[at], start + CRC.size + length
    announced = _announced(required, optional)
    to_come = [section for section in announced if section.number > last]
    return min(HEADER_SIZE + _at_most(header, announced), at + _at_most(header, to_come))


def _announced(required: int, optional: int) -> list[Section]:
    """Return the known sections that the flags of a header announce, and those that are always there."""
    return [
        section
        for section in TABLE.values()
        if section.flag is None or (optional if section.ancillary else required) >> section.flag & 1
    ]


def _at_most(header: Header, sections: list[Section]) -> int:
    """Return the most bytes of so many sections, and of others that no flag known here announces."""
    return sum(_LONGEST_HEAD + section.at_most(header) for section in sections) + MAX_UNANNOUNCED


def bytes_by_section(container: Container) -> dict[str, int]:
    """Return how many bytes of `pack(container)` its parts take; their sum is its length.

    The keys are "header" and what each section of the table counts as, whether or not it is there. A section counts
    with its type, length and CRC-32; EXTRA_BANDS, which is a file with parts of its own, as a whole.
    """
    sizes = {"header": HEADER_SIZE} | {section.counts_as: 0 for section in TABLE.values()}
    for section, payload in container.sections():
        sizes[section.counts_as] += len(_section_head(section.number, len(payload))) + CRC.size + len(payload)
    return sizes


def _section_head(number: int, length: int) -> bytes:
    """Return what stands before a section's CRC-32: its type, and its length in base 128, lowest digit first."""
    head = [number]
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
        raise ContainerError(f"truncated: {len(view) - at} bytes of a length at byte {at}")
    raise ContainerError(f"malformed: length at byte {at} of more than 5 bytes")


def _read_section(view: memoryview, at: int) -> memoryview:
    """Return the payload of the section at a position; ContainerError if it is not whole or does not fit its CRC-32."""
    where = f"{_name(view[at])} section at byte {at}"
    length, crc_at = _read_length(view, at + 1)
    start = crc_at + CRC.size
    if length > (present := len(view) - start):
        raise ContainerError(
            f"truncated: {where} has {present} bytes of payload, expected {length}"
            if present >= 0
            else f"truncated: {where} ends within its CRC-32"
        )
    payload = view[start : start + length]
    if zlib.crc32(payload, zlib.crc32(view[at:crc_at])) != CRC.unpack_from(view, crc_at)[0]:
        raise ContainerError(f"damaged: {where} does not fit its CRC-32")
    return payload


def _read_sections(view: memoryview, header: Header, announced: set[int]) -> dict[int, bytes]:
    """Return the payload of each known section by its type; the bytes after the header must be sections to the end.

    What follows the announced sections and is not another whole one is told as bytes after the end.
    """
    found: dict[int, bytes] = {}
    last, at = 0, HEADER_SIZE
    while at < len(view):
        number = view[at]
        where = f"{_name(number)} section at byte {at}"
        try:
            payload = _read_section(view, at)
        except ContainerError:
            if announced <= found.keys():
                count = len(view) - at
                raise ContainerError(
                    f"damaged: {count} byte{'s' * (count > 1)} after the end of the last section, at byte {at}"
                ) from None
            raise
        length = len(payload)
        start = at + len(_section_head(number, length)) + CRC.size
        if bytes(view[at : start - CRC.size]) != _section_head(number, length):
            raise ContainerError(f"malformed: {where} does not write its length in the shortest form")
        if number == 0:
            raise ContainerError(f"malformed: {where}, a type that is never used")
        if number <= last:
            raise ContainerError(f"malformed: {where} after {_name(last)}, expected each type once and in rising order")
        if section := _BY_NUMBER.get(number):
            if problem := section.problem(length, header):
                raise ContainerError(f"{problem}, at byte {at}")
            found[number] = bytes(payload)
        elif number < FIRST_ANCILLARY:
            raise ContainerError(f"unknown required feature: {where}; a newer refscale may know")
        last, at = number, start + length
    return found


def _name(number: int) -> str:
    """Return a section type as a message shows it."""
    return _BY_NUMBER[number].name if number in _BY_NUMBER else f"type-{number}"
