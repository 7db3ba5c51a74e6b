"""FORMAT.md, "Range coder": u32 words -> symbols."""

from bisect import bisect_right
from itertools import accumulate

import numpy as np

WORD, ALL = 1 << 32, (1 << 64) - 1
ONE = 1 << 24


class RangeDecoder:
    """Reads symbols from words, each under a distribution of its own."""

    def __init__(self, payload: bytes) -> None:
        if len(payload) % 4:
            raise ValueError("not whole words")
        self.words = np.frombuffer(payload, "<u4").tolist()
        self.low, self.range, self.point, self.read = 0, ALL, 0, 0
        for _ in range(2):
            self._next()

    def _next(self) -> None:
        word = self.words[self.read] if self.read < len(self.words) else 0
        self.read += 1
        self.point = (self.point << 32 | word) & ALL

    def _quantile(self) -> int:
        self.scale = self.range >> 24
        quantile = ((self.point - self.low) & ALL) // self.scale
        if quantile >= ONE:
            raise ValueError("nothing is coded like that")
        return quantile

    def _take(self, start: int, end: int) -> None:
        self.low = (self.low + self.scale * start) & ALL
        self.range = self.scale * (end - start)
        if self.range < WORD:
            self.low = (self.low << 32) & ALL
            self.range <<= 32
            self._next()

    def symbol(self, cumulative: list[int]) -> int:
        """Return the next symbol; `cumulative` are the n + 1 limits, from 0 to 2^24."""
        symbol = bisect_right(cumulative, self._quantile()) - 1
        self._take(cumulative[symbol], cumulative[symbol + 1])
        return symbol

    def uniform(self, n: int) -> int:
        """Return the next of n equally likely symbols."""
        each = ONE // n
        symbol = min(self._quantile() // each, n - 1)
        self._take(symbol * each, ONE if symbol == n - 1 else (symbol + 1) * each)
        return symbol

    def unsigned(self) -> int:
        """Return the next unsigned integer."""
        zeros = 0
        while not self.uniform(2):
            zeros += 1
            if zeros > 31:
                raise ValueError("no such integer")
        m = 1
        for _ in range(zeros):
            m = 2 * m + self.uniform(2)
        n = m - 1
        for _ in range(3):
            n = 2 * n + self.uniform(2)
        return n

    def signed(self) -> int:
        """Return the next signed integer."""
        n = self.unsigned()
        return -(n + 1) // 2 if n % 2 else n // 2

    def require_end(self) -> None:
        """Refuse words to spare."""
        rest = (self.point - self.low) & ALL
        if self.read < len(self.words) or (self.range != ALL and rest >= 2 * WORD - 1):
            raise ValueError("words to spare")


def of_frequencies(frequencies: np.ndarray) -> list[list[int]]:
    """Return limits for rows of frequencies that add up to 65,536."""
    rows, n = frequencies.shape
    before = np.zeros((rows, n + 1), np.int64)
    np.cumsum(frequencies, axis=1, out=before[:, 1:])
    limits = (before * (ONE - n) >> 16) + np.arange(n + 1)
    return limits.tolist()  # type: ignore[no-any-return]


def of_counts(counts: list[int]) -> list[int]:
    """Return limits for counts, in IEEE 754 double precision, in this order of operations."""
    total, n = float(sum(counts)), len(counts)
    shares = [count / total for count in counts]
    sums = list(accumulate(shares, initial=0.0))
    scale = (ONE - n) / sums[-1]
    return [*(int(x * scale) + i for i, x in enumerate(sums[:-1])), ONE]
