"""FORMAT.md, "ALIGNMENT section": symbols and reference -> warped reference."""

import struct
import zlib

import numpy as np

from reader.rangecoder import RangeDecoder, of_counts


def of_payload(payload: bytes, height: int, width: int) -> tuple["Alignment", int]:
    """Return the alignment of an ALIGNMENT section, and its check."""
    coder = RangeDecoder(payload[4:])
    found = Alignment(coder, height, width)
    coder.require_end()
    return found, struct.unpack_from("<I", payload)[0]


class Alignment:
    """The integers of an alignment."""

    def __init__(self, coder: RangeDecoder, height: int, width: int, bands: int = 3) -> None:
        self.coder = coder
        self.height, self.width = height, width
        self.k = 1 + coder.uniform(64)
        pairs = coder.uniform(5)
        numbers = [coder.signed() for _ in range(2 * pairs)]
        if pairs == 2:
            numbers += [-numbers[3], numbers[2]]
        numbers += [0] * (8 - len(numbers))
        self.t, self.u, self.yy, self.yx, self.xy, self.xx, self.ty, self.tx = numbers
        self.gains: list[tuple[int, int]] | None = None
        if coder.uniform(2):
            self.gains = [(256 + coder.signed(), coder.signed()) for _ in range(bands)]
        self.vectors = np.zeros((-(-height // 64), -(-width // 64), 2), np.int64)
        if coder.uniform(2):
            self._read_vectors()

    def _read_vectors(self) -> None:
        counts = [[1 + int(256 * 0.55 ** abs(x)) for x in range(-128, 129)] for _ in range(3)]
        rows, columns, _ = self.vectors.shape
        for row in range(rows):
            for column in range(columns):
                for part in range(2):
                    plane = self.vectors[..., part]
                    up = plane[row - 1] if row else np.zeros(columns, np.int64)
                    above = int(up[column])
                    right = int(up[min(column + 1, columns - 1)])
                    left = int(plane[row, column - 1]) if column else above
                    _, m, _ = sorted((left, above, right))
                    apart = max(left, above, right) - min(left, above, right)
                    context = 0 if apart == 0 else 1 if apart <= 3 else 2
                    symbol = self.coder.symbol(of_counts(counts[context]))
                    counts[context][symbol] += 24
                    self.vectors[row, column, part] = m + symbol - 128

    def apply(self, reference: np.ndarray) -> np.ndarray:
        """Return the warped reference [height, width, bands]."""
        tall, wide, _ = reference.shape
        k, p = self.k, reference.astype(np.int64)
        rows, columns = -(-tall // k), -(-wide // k)
        padded = np.pad(p, ((0, k * rows - tall), (0, k * columns - wide), (0, 0)), "edge")
        sums = padded.reshape(rows, k, columns, k, -1).sum(axis=(1, 3))
        averaged = (2 * sums + k * k) // (2 * k * k)
        a, b = self._places()
        (r, m), (c, n) = np.divmod(a, 4), np.divmod(b, 4)

        def at(row: np.ndarray, column: np.ndarray) -> np.ndarray:
            return averaged[row.clip(0, rows - 1), column.clip(0, columns - 1)]

        m, n = m[..., None], n[..., None]
        e = (
            (4 - m) * (4 - n) * at(r, c)
            + (4 - m) * n * at(r, c + 1)
            + m * (4 - n) * at(r + 1, c)
            + m * n * at(r + 1, c + 1)
        )
        d = np.max([-a, a - 4 * (rows - 1), -b, b - 4 * (columns - 1)], axis=0)[..., None]
        s = -(-max(tall, wide) // 256)
        few = p[::s, ::s].reshape(-1, p.shape[2])
        w = np.maximum(0, 32 - d)
        e = np.where(d > 0, (w * e + 16 * (32 - w) * (few.sum(axis=0) // len(few)) + 16) // 32, e)
        if self.gains is None:
            warped = (e + 8) // 16
        else:
            gain, offset = np.array(self.gains).T
            warped = ((gain * e + 4096 * offset + 2048) // 4096).clip(0, np.iinfo(reference.dtype).max)
        return warped.astype(reference.dtype)

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return A and B, [height, width]."""
        y, x = np.mgrid[: self.height, : self.width]
        moved = interpolated(self.vectors, y, x)
        y, x = 4 * y + moved[..., 0], 4 * x + moved[..., 1]
        bits = 6 + (max(self.height, self.width) - 1).bit_length()
        o = 1 << bits
        d = np.maximum(o + ((self.ty * y + self.tx * x) >> bits - 4), o // 16)
        a = ((o + self.yy) * y + self.yx * x + (self.t << bits - 4) + d // 2) // d
        b = (self.xy * y + (o + self.xx) * x + (self.u << bits - 4) + d // 2) // d
        return a, b


def interpolated(v: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the vectors v [rows, columns, n] of blocks at pixels, interpolated between the blocks' centres."""
    blocks_down, blocks_right, _ = v.shape
    (i, f), (j, g) = (np.divmod(2 * axis - 63, 128) for axis in (y, x))

    def vector(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        return v[row.clip(0, blocks_down - 1), column.clip(0, blocks_right - 1)]

    f, g = f[..., None], g[..., None]
    s = (128 - f) * ((128 - g) * vector(i, j) + g * vector(i, j + 1))
    s = s + f * ((128 - g) * vector(i + 1, j) + g * vector(i + 1, j + 1))
    return (2 * s + 16384) // 32768


def require_check(warped: np.ndarray, check: int) -> None:
    """Refuse a warped or blended reference that is not the writer's."""
    if checksum(warped) != check:
        raise ValueError("the warped reference is not the writer's")


def checksum(warped: np.ndarray) -> int:
    """Return the sum of the CRC-32s of squares of 16 x 16 pixels."""
    total = 0
    for row in range(0, warped.shape[0], 16):
        for column in range(0, warped.shape[1], 16):
            square = warped[row : row + 16, column : column + 16]
            samples = square.astype(square.dtype.newbyteorder("<")).tobytes()
            total += zlib.crc32(struct.pack("<II", row, column) + samples)
    return total % (1 << 32)
