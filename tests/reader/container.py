"""FORMAT.md, from "Overview" to "Sections": bytes -> header and payloads."""

import struct
import zlib
from dataclasses import dataclass

MAP, LR, ALIGNMENT, BANDS, EXTRA_BANDS, PREDICTION, REFERENCES = 1, 2, 4, 5, 6, 7, 8
METADATA, OUTPUT_HASH, NAME = 128, 129, 130
REQUIRED = {2: ALIGNMENT, 3: MAP, 4: BANDS, 5: EXTRA_BANDS, 6: PREDICTION, 7: REFERENCES}
OPTIONAL = {0: OUTPUT_HASH, 1: METADATA, 2: NAME}


@dataclass
class File:
    """A file taken apart."""

    header: bytes
    width: int
    height: int
    scale: int
    codec: int
    quality: int
    weights: bytes
    reference: bytes | None
    payloads: dict[int, bytes]

    @property
    def low_res(self) -> tuple[int, int]:
        """Rows and columns of the low-res picture."""
        return -(-self.height // self.scale), -(-self.width // self.scale)

    @property
    def uses_reference(self) -> bool:
        """Whether there is a reference or a prediction, and a map that does not leave it out."""
        there = self.reference is not None or PREDICTION in self.payloads
        return there and self.payloads.get(MAP) != b""


def parse(data: bytes) -> File:
    """Return the file in these bytes."""
    if data[:4] != b"\x89RSC" or data[4] != 1 or len(data) < 32:
        raise ValueError("not a .rsc file, a newer version, or truncated")
    if zlib.crc32(data[:28]) != struct.unpack_from("<I", data, 28)[0]:
        raise ValueError("damaged header")
    required, optional = data[5], data[6]
    if required & 0b10:
        raise ValueError("unknown required feature")
    width, height = (int.from_bytes(data[at : at + 3], "little") for at in (7, 10))
    reference = data[22:28] if required & 1 else None
    payloads: dict[int, bytes] = {}
    at, last = 32, 0
    while at < len(data):
        kind, start = data[at], at + 1
        length = shift = 0
        while True:
            digit = data[start]
            length |= (digit & 127) << shift
            start, shift = start + 1, shift + 7
            if digit < 128:
                break
        payload = data[start + 4 : start + 4 + length]
        crc = zlib.crc32(payload, zlib.crc32(data[at:start]))
        if len(payload) != length or crc != struct.unpack_from("<I", data, start)[0] or kind <= last:
            raise ValueError("damaged section")
        payloads[kind] = payload
        at, last = start + 4 + length, kind
    announced = {LR, *(kind for bit, kind in REQUIRED.items() if required >> bit & 1)}
    announced |= {kind for bit, kind in OPTIONAL.items() if optional >> bit & 1}
    if announced != {kind for kind in payloads if kind <= NAME}:
        raise ValueError("sections are not those that the flags announce")
    fields = data[13], data[14], data[15], data[16:22]
    return File(data[:32], width, height, *fields, reference, payloads)


def metadata(payload: bytes) -> dict[int, bytes]:
    """Return the parts by their types, FORMAT.md, "METADATA section"."""
    lengths: dict[int, int] = {}
    more, at = True, 0
    while more:
        if at + 4 > len(payload):
            raise ValueError("METADATA ends in its table")
        more, kind, length = payload[at] > 127, payload[at] % 128, int.from_bytes(payload[at + 1 : at + 4], "little")
        if kind <= max(lengths, default=0) or not length:
            raise ValueError("METADATA has a table of another order")
        lengths[kind] = length
        at += 4
    total, body = sum(lengths.values()), payload[at:]
    if not 0 < len(body) <= total < 1 << 24:
        raise ValueError("METADATA of no such length")
    if len(body) < total:
        inflater = zlib.decompressobj(-15)
        body = inflater.decompress(body, total + 1)
        if len(body) != total or not inflater.eof or inflater.unused_data:
            raise ValueError("METADATA does not inflate to its length")
    parts = {}
    for kind, length in lengths.items():
        parts[kind], body = body[:length], body[length:]
        if length != {5: 4, 6: 32, 7: 1, 8: 4, 9: 9}.get(kind, length):
            raise ValueError("METADATA has a part of another length")
    return parts
