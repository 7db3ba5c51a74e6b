"""FORMAT.md, "Samples": payload of codec 3 -> samples, one after the other."""

from math import floor, log2

import numpy as np

from reader.rangecoder import ONE, RangeDecoder

ORDER = 1, 0, 2
OWN = [(0, -1), (0, -2), (0, -3), (-1, -2), (-1, -1), (-1, 0), (-1, 1)]
OWN += [(-2, -2), (-2, -1), (-2, 0), (-2, 1), (-2, 2), (-3, 0)]
MISSED = [(0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0)]
MISSED += [(-1, -2), (-2, -1), (-2, 1), (0, -3), (-2, 2), (-2, -2)]
CROSS = [(0, -1), (-1, 0), (0, 1), (1, 0)]
LARGEST = 1 << 18


def lg(halves: int) -> int:
    """Return that of halves / 2."""
    k = halves.bit_length() - 1
    return 64 * (k - 1) + (64 * (halves - (1 << k)) >> k)


def of_levels(levels: int) -> int:
    return lg(2 * abs(levels) + 1)


def of_errors(error: int) -> int:
    return lg(2 * abs(error) + 16)


def limits() -> list[list[int]]:
    """Return those of the 48 symbols for each of 56 * 32 distributions."""
    scale, phase = np.divmod(np.arange(56 * 32), 32)
    edges = np.arange(1, 48) - 24.5 - ((phase[:, None] + 0.5) / 32 - 0.5)
    away = edges / 2.0 ** ((scale[:, None] - 40) / 8)
    below = sum(
        share / (1 + np.exp(-np.clip(away / wide, -500, 500))) for share, wide in ((1 - 0.03, 1.0), (0.03, 3.0))
    )
    parts = np.maximum(np.rint((1 << 22) * np.diff(below, axis=1, prepend=0.0, append=1.0)), 2)
    before = np.cumsum(parts, axis=1)
    ends = np.floor(before[:, :-1] / (1 << 22) * ((ONE - 48) / (before[:, -1:] / (1 << 22)))).astype(int)
    return [[0, *(end + 1 + i for i, end in enumerate(row)), ONE] for row in ends.tolist()]


class Samples:
    """The planes of one payload, as they are decoded."""

    def __init__(self, payload: bytes, size: tuple[int, int], reference: np.ndarray | None, quality: int) -> None:
        self.height, self.width = size
        self.coder = RangeDecoder(payload)
        self.full = 65535 if self.coder.uniform(2) else 255
        self.step = 1
        for _ in range(100 - quality):
            self.step = max(self.step + 1, (109 * self.step + 50) // 100)
        self.limits = limits()
        self.planes: list[np.ndarray] = []
        self.errors: list[np.ndarray] = []
        self.references: list[np.ndarray] = []
        if reference is not None:
            levels = reference.astype(np.int64)
            if reference.dtype == np.uint8 and self.full > 255:
                levels = 257 * levels
            elif reference.dtype != np.uint8 and self.full == 255:
                levels = (2 * levels + 257) // 514
            self.references = [levels[..., band] for band in ORDER]

    def decode(self) -> np.ndarray:
        """Return levels [h, w, 3], 0 to `full`."""
        for _ in ORDER:
            self._plane()
        self.coder.require_end()
        found = np.empty((self.height, self.width, 3), np.int64)
        for band, plane in zip(ORDER, self.planes, strict=True):
            found[..., band] = plane
        return found

    def _coefficients(self, count: int) -> list[int]:
        bits, found = self.coder.uniform(16), []
        for _ in range(count):
            folded = 0
            while not self.coder.uniform(2):
                folded += 1
                if folded << bits > 2 * LARGEST:
                    raise ValueError("a coefficient out of range")
            for _ in range(bits):
                folded = 2 * folded + self.coder.uniform(2)
            found.append(-(folded + 1) // 2 if folded % 2 else folded // 2)
            if abs(found[-1]) > LARGEST:
                raise ValueError("a coefficient out of range")
        return found

    def _plane(self) -> None:
        before, referenced = len(self.planes), bool(self.references)
        self.outside = self.coder.unsigned()
        if self.outside > self.full:
            raise ValueError("a level out of range")
        offset = self.coder.signed()
        if abs(offset) > 1 << 30:
            raise ValueError("an offset out of range")
        counts = 13, 25 * before + 27 * referenced, 17 + referenced, 6 * before + 3 * referenced
        own, values, own_activity, activity = map(self._coefficients, counts)
        self.plane = np.zeros((self.height, self.width), np.int64)
        self.error = np.zeros((self.height, self.width), np.int64)
        for t in range(self.width + 2 * (self.height - 1)):
            places = [(y, t - 2 * y) for y in range(self.height) if 0 <= t - 2 * y < self.width]
            means, scales = [], []
            for y, x in places:
                near = [self._sample(y + dy, x + dx) for dy, dx in OWN]
                mean = offset + _sum(own, near) + _sum(values, self._values(y, x))
                means.append(min(max((32 * mean + 2048) // 4096, 0), 32 * self.full))
                scale = _sum(own_activity, self._own_activity(y, x)) + _sum(activity, self._activity(y, x))
                scales.append(scale // 4096)
            for (y, x), mean, level in zip(places, means, self._levels(means, scales), strict=True):
                self.plane[y, x], self.error[y, x] = level, 32 * level - mean
        self.planes.append(self.plane)
        self.errors.append(self.error)

    def _inside(self, y: int, x: int) -> bool:
        return 0 <= y < self.height and 0 <= x < self.width

    def _sample(self, y: int, x: int) -> int:
        """Return a sample of the plane, or what stands for it outside."""
        if y < 0 or (y == 0 and x < 0):
            return self.outside
        return int(self.plane[y - 1, 0] if x < 0 else self.plane[y, min(x, self.width - 1)])

    def _near(self, plane: np.ndarray, y: int, x: int) -> int:
        return int(plane[min(max(y, 0), self.height - 1), min(max(x, 0), self.width - 1)])

    def _values(self, y: int, x: int) -> list[int]:
        found = []
        for plane in self.planes:
            found += [self._near(plane, y + dy, x + dx) for dy in range(-2, 3) for dx in range(-2, 3)]
        for plane in self.references:
            found += [self._near(plane, y + dy, x + dx) for dy in range(-1, 2) for dx in range(-1, 2)]
        return found

    def _activity(self, y: int, x: int) -> list[int]:
        found = []
        for plane, error in zip(self.planes, self.errors, strict=True):
            found += [of_errors(int(error[y, x]))]
            found += [of_errors(sum(abs(self._near(error, y + dy, x + dx)) for dy, dx in CROSS))]
            found += [of_levels(self._near(plane, y + dy, x + dx) - int(plane[y, x])) for dy, dx in CROSS]
        if self.references:
            own = self.references[len(self.planes)]
            left, above, right, below = (self._near(own, y + dy, x + dx) for dy, dx in CROSS)
            found += map(of_levels, (right - left, below - above, 4 * int(own[y, x]) - left - above - right - below))
        return found

    def _own_activity(self, y: int, x: int) -> list[int]:
        def of(places: list[tuple[int, int]], plane: np.ndarray) -> list[int]:
            return [int(plane[y + dy, x + dx]) if self._inside(y + dy, x + dx) else 0 for dy, dx in places]

        w, n, nw, ne, ww, nn = (self._sample(y + dy, x + dx) for dy, dx in MISSED[:6])
        differences = [abs(d) for d in (w - nw, n - nw, n - ne, w - n, w - ww, n - nn)]
        differences.append(sum(differences))
        if self.references:
            w, n, nw, ne = of(MISSED[:4], self.plane - self.references[len(self.planes)])
            differences.append(abs(w - n) + abs(w - nw) + abs(n - ne))
        missed = [abs(error) for error in of(MISSED, self.error)]
        missed = [*missed[:6], sum(missed[:4]), sum(missed[:10]), sum(missed)]
        return [64, *map(of_levels, differences), *map(of_errors, missed)]

    def _levels(self, means: list[int], scales: list[int]) -> list[int]:
        """Return the levels of a wavefront."""
        middles = [(mean + 16) // 32 for mean in means]
        shifts, cells = [], []
        for mean, middle, scale in zip(means, middles, scales, strict=True):
            s = scale // 8 + 40 - floor(8 * log2(self.step) + 0.5)
            shifts.append(min(max(-((55 - s) // 8), 0), 16))
            off = mean - 32 * middle + (16 * self.step if shifts[-1] else 0)
            phase = 16 + off // (self.step << shifts[-1])
            row = 32 * min(max(s - 8 * shifts[-1], 0), 55) + phase
            cells.append(self.coder.symbol(self.limits[row]) - 24)
        for i, cell in enumerate(cells):
            if cell in (-24, 23):
                further = self.coder.unsigned()
                cells[i] += further if cell > 0 else -further
        steps = list(cells)
        for bits in sorted(set(shifts) - {0}):
            for i in (i for i, shift in enumerate(shifts) if shift == bits):
                steps[i] = (cells[i] << bits) + self.coder.uniform(1 << bits) - (1 << bits - 1)
        found = zip(middles, steps, strict=True)
        return [min(max(middle + self.step * steps, 0), self.full) for middle, steps in found]


def _sum(weights: list[int], values: list[int]) -> int:
    return sum(weight * value for weight, value in zip(weights, values, strict=True))
