"""TIFFs of all kinds, put together by hand, for what Pillow and GDAL do not write."""

import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Values = tuple[str, list[int] | list[float] | bytes]
"""A type, see `CODES`, and values."""

CODES = {  # struct's letters, or names that begin with one: TIFF's types
    **{"B": 1, "s": 2, "H": 3, "I": 4, "b": 6, "h": 8, "i": 9, "d": 12, "I, of a directory": 13, "Q": 16, "q": 17},
    "Q, of a directory": 18,
}
GEOREFERENCE = {  # tag: (letter, values): EPSG:32630
    33550: ("d", [10.0, 10.0, 0.0]),
    33922: ("d", [0.0, 0.0, 0.0, 7e5, 4.97e6, 0.0]),
    34735: ("H", [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32630]),
}


@dataclass
class Picture:
    """An image of a TIFF: samples [h, w, bands], and how they are stored."""

    samples: NDArray[np.generic]
    photometric: int = 1
    bits: int = 0  # by default those of the type
    planar: int = 1
    tile: int = 0  # side; 0 for strips of 3 rows
    compression: int = 1  # or 8
    missing: tuple[int, ...] = ()  # blocks that are not stored
    tags: dict[int, Values] = field(default_factory=dict)
    children: tuple["Picture", ...] = ()
    kinds: dict[int, str] = field(default_factory=dict)  # by tags, other types than the usual ones

    def blocks(self, order: str) -> list[bytes]:
        height, width, _ = self.samples.shape
        planes = [self.samples] if self.planar == 1 else [self.samples[..., i : i + 1] for i in range(self.depth)]
        parts = []
        for plane in planes:
            if self.tile:
                plane = np.pad(plane, ((0, -height % self.tile), (0, -width % self.tile), (0, 0)))
            rows, columns = self.tile or 3, self.tile or width
            for top in range(0, plane.shape[0], rows):
                for left in range(0, plane.shape[1], columns):
                    parts.append(self.packed(plane[top : top + rows, left : left + columns], order))
        return [b"" if i in self.missing else part for i, part in enumerate(parts)]

    def packed(self, part: NDArray[np.generic], order: str) -> bytes:
        rows = part.reshape(part.shape[0], -1)
        bits = self.bits or 8 * part.itemsize
        if bits != 8 * part.itemsize:
            each = (rows[..., None].astype(int) >> np.arange(bits - 1, -1, -1)) & 1
            data = np.packbits(each.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()
        else:
            data = rows.astype(rows.dtype.newbyteorder(order)).tobytes()
        return zlib.compress(data) if self.compression == 8 else data

    @property
    def depth(self) -> int:
        return self.samples.shape[2]

    def entries(self, blocks: list[tuple[int, int]]) -> dict[int, Values]:
        height, width, depth = self.samples.shape
        kind = {"u": 1, "i": 2, "f": 3}[self.samples.dtype.kind]
        offsets, lengths = (list(part) for part in zip(*blocks, strict=True))
        found: dict[int, Values] = {
            256: ("I", [width]), 257: ("I", [height]), 258: ("H", [self.bits or 8 * self.samples.itemsize] * depth),
            259: ("H", [self.compression]), 262: ("H", [self.photometric]), 277: ("H", [depth]),
            284: ("H", [self.planar]), 339: ("H", [kind] * depth),
        }  # fmt: skip
        if self.tile:
            found |= {322: ("I", [self.tile]), 323: ("I", [self.tile]), 324: ("I", offsets), 325: ("I", lengths)}
        else:
            found |= {273: ("I", offsets), 278: ("I", [3]), 279: ("I", lengths)}
        return found | self.tags


def file(*pictures: Picture, big: bool = False, order: str = "<") -> bytes:
    """Return a TIFF of pictures, in a chain."""
    letter, size, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    inline = struct.calcsize(letter)
    body = bytearray((b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if big else 42))
    body += struct.pack(f"{order}HHQ", 8, 0, 0) if big else bytes(4)

    def add(data: bytes) -> int:
        body.extend(bytes(-len(body) % 8))
        body.extend(data)
        return len(body) - len(data)

    def directory(picture: Picture) -> tuple[int, int]:
        """Add one; return where it is and where the offset of the next one goes."""
        blocks = [(add(block) if block else 0, len(block)) for block in picture.blocks(order)]
        entries = picture.entries(blocks)
        if picture.children:
            entries[330] = ("I", [directory(child)[0] for child in picture.children])
        parts = []
        for tag, (usual, values) in sorted(entries.items()):
            kind = picture.kinds.get(tag, usual)
            data = values if isinstance(values, bytes) else struct.pack(f"{order}{len(values)}{kind[0]}", *values)
            data = data if len(data) <= inline else struct.pack(order + letter, add(data))
            parts.append(struct.pack(f"{order}HH{letter}", tag, CODES[kind], len(values)) + data.ljust(inline, b"\0"))
        at = add(struct.pack(order + size, len(parts)) + b"".join(parts) + bytes(inline))
        return at, at + struct.calcsize(order + size) + entry * len(parts)

    link = len(body) - inline
    for picture in pictures:
        at, following = directory(picture)
        struct.pack_into(order + letter, body, link, at)
        link = following
    return bytes(body)
