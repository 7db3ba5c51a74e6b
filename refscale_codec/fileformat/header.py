"""The fixed header of a `.rsc` file: its fields, their ranges, and its 32 bytes.

`docs/FORMAT.md`, *Fixed header*, is normative. One `struct` layout serves writer and reader, so that they cannot drift
apart. `REFERENCE` is the one flag about the header itself; the others announce sections (`sections`).
"""

import struct
import zlib
from dataclasses import dataclass

from refscale_codec.errors import ContainerError

MAGIC = b"\x89RSC"
VERSION = 1
MAX_SIDE = 1 << 20  # pixels
MAX_PIXELS = 400_000_000  # width * height
SCALES = (1, 2, 4)
REFERENCE = 1 << 0  # required flag: coded against a reference, whose fingerprint the header has
FINGERPRINT_SIZE = 6  # bytes, of weights, reference and output alike

# magic | version | required, optional flags | width, height | scale, codec, quality | weights, reference
_LAYOUT = struct.Struct("<4sBBB3s3sBBB6s6s")
CRC = struct.Struct("<I")  # at the header's end over all before it; in a section over type, length and payload

HEADER_SIZE = _LAYOUT.size + CRC.size
"""Bytes of the fixed header, its CRC-32 included: 32."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a decoder must know before it looks at a payload."""

    width: int
    """Width of the decoded picture in pixels, 1..`MAX_SIDE`; width * height is at most `MAX_PIXELS`."""
    height: int
    """Height of the decoded picture in pixels, 1..`MAX_SIDE`."""
    scale: int
    """Ratio of high-res to low-res side, one of `SCALES`."""
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


def pack(header: Header, required: int, optional: int) -> bytes:
    """Return the 32 bytes of a header.

    Args:
        header: its fields.
        required: flags of the sections without which the picture cannot be decoded.
        optional: flags of the other sections.

    Raises:
        ValueError: a field is out of the range that it documents.
    """
    if problem := _problem(header):
        raise ValueError(problem)
    fixed = _LAYOUT.pack(
        MAGIC,
        VERSION,
        required | REFERENCE * (header.reference is not None),
        optional,
        header.width.to_bytes(3, "little"),
        header.height.to_bytes(3, "little"),
        header.scale,
        header.codec,
        header.quality,
        header.weights,
        bytes(FINGERPRINT_SIZE) if header.reference is None else header.reference,
    )
    return fixed + CRC.pack(zlib.crc32(fixed))


def unpack(view: memoryview, known: int) -> tuple[Header, int, int]:
    """Return the header at the beginning of a file, and its required and optional flags.

    Args:
        view: the file, or as much of it as there is.
        known: the required flags of the sections that this reader knows; a file with any other is refused.

    Raises:
        ContainerError: see `container.unpack`.
    """
    start = bytes(view[: len(MAGIC)])
    if not MAGIC.startswith(start):
        raise ContainerError(f"not a .rsc file: it begins with {start.hex(' ')}, expected {MAGIC.hex(' ')}")
    if len(view) > len(MAGIC) and view[len(MAGIC)] > VERSION:  # before the size: a later header may be shorter
        with_ours = bytes(view[: len(MAGIC)]) + bytes([VERSION]) + bytes(view[len(MAGIC) + 1 : _LAYOUT.size])
        if len(view) >= HEADER_SIZE and zlib.crc32(with_ours) == CRC.unpack_from(view, _LAYOUT.size)[0]:
            raise ContainerError(f"damaged: the header fits its CRC-32 with version {VERSION}, but has {view[4]}")
        raise ContainerError(
            f"newer format version: {view[4]}, this refscale reads up to {VERSION}; or the file is damaged"
        )
    if len(view) < HEADER_SIZE:
        raise ContainerError(f"truncated: {len(view)} bytes, expected at least the {HEADER_SIZE} of the header")
    if zlib.crc32(view[: _LAYOUT.size]) != CRC.unpack_from(view, _LAYOUT.size)[0]:
        raise ContainerError(f"damaged: the header, bytes 0 to {HEADER_SIZE - 1}, does not fit its CRC-32")

    _, version, required, optional, *size, scale, codec, quality, weights, reference = _LAYOUT.unpack_from(view)
    if version != VERSION:
        raise ContainerError(f"malformed: format version {version}, which was never used")
    if unknown := required & ~(known | REFERENCE):
        bits = ", ".join(str(bit) for bit in range(8) if unknown >> bit & 1)
        raise ContainerError(f"unknown required feature: bit {bits} of the required flags; a newer refscale may know")
    has_reference = bool(required & REFERENCE)
    if not has_reference and any(reference):
        raise ContainerError(f"malformed: reference fingerprint {reference.hex()} without the REFERENCE flag")
    width, height = (int.from_bytes(side, "little") for side in size)
    header = Header(width, height, scale, codec, quality, weights, reference if has_reference else None)
    if problem := _problem(header):
        raise ContainerError(problem)
    return header, required, optional


def _problem(header: Header) -> str | None:
    """Return what is out of range in a header, worded for a user, or None."""
    width, height = header.width, header.height
    if width < 1 or height < 1:
        return f"malformed: picture of {width}x{height} pixels, expected at least 1x1"
    if width > MAX_SIDE or height > MAX_SIDE:
        return f"over the size limit: picture of {width}x{height} pixels, expected sides up to {MAX_SIDE}"
    if width * height > MAX_PIXELS:
        return f"over the size limit: {width}x{height} = {width * height} pixels, expected up to {MAX_PIXELS}"
    if header.scale not in SCALES:
        return f"malformed: scale {header.scale}, expected {', '.join(map(str, SCALES[:-1]))} or {SCALES[-1]}"
    if not 1 <= header.codec <= 255:
        return f"malformed: low-res codec {header.codec}, expected 1..255"
    if not 1 <= header.quality <= 100:
        return f"malformed: quality {header.quality}, expected 1..100"
    for what, fingerprint in (("weights", header.weights), ("reference", header.reference)):
        if fingerprint is not None and len(fingerprint) != FINGERPRINT_SIZE:
            return f"malformed: {what} fingerprint of {len(fingerprint)} bytes, expected {FINGERPRINT_SIZE}"
    return None
