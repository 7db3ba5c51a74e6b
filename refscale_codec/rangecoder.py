"""The range coder of similarity map, alignment and low-res picture: constriction's, extended to integers of any size.

A `Coder` is an encoder or a decoder, so that one function serves both: it passes each value and continues with the one
that is returned. An `Encoder` appends the value and returns it; a `Decoder` ignores it and returns the one it reads.

Symbols have given probabilities, or are equally likely. Unbounded integers have the Exp-Golomb code, whose bits are
equally likely symbols (as motion vectors in H.264 and HEVC). `docs/FORMAT.md`, *Range coder*, is normative.
"""

import math
from abc import ABC, abstractmethod

import constriction
import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError

Symbols = NDArray[np.int32]

ORDER = 3
"""Of the Exp-Golomb code: so many bits of an integer come as they are."""

LONGEST = 31
"""Most leading zeros of an Exp-Golomb code."""

_CATEGORICAL = constriction.stream.model.Categorical(perfect=False)
_BIT = constriction.stream.model.Uniform(2)
_PLACES = 24  # binary places of a symbol's share
_EXACT = 0.9  # what a symbol takes is at least this part of what its given probability says: that is rounded


class Coder(ABC):
    """An encoder or a decoder."""

    _what = "the payload"  # in messages

    @abstractmethod
    def symbols(self, probabilities: NDArray[np.float64], values: Symbols) -> Symbols:
        """Code the values [n], each in 0 .. m - 1 under its row of probabilities [n, m]."""

    @abstractmethod
    def uniform(self, size: int, value: int) -> int:
        """Code a value of 0 .. size - 1, all equally likely; at most 2^24 of them."""

    @abstractmethod
    def uniforms(self, size: int, values: Symbols) -> Symbols:
        """Code the values [n], each as `uniform` does."""

    @abstractmethod
    def bit(self, value: int) -> int:
        """Code a bit, 0 and 1 equally likely."""

    def unsigned(self, value: int = 0) -> int:
        """Code a value of 0 or more, below 2^(`LONGEST` + `ORDER`), by the Exp-Golomb code.

        The bits of (value >> ORDER) + 1, after one zero for each but the first, then the `ORDER` lowest bits of value.

        Raises:
            ContainerError: not such a code.
        """
        above = (value >> ORDER) + 1
        zeros = above.bit_length() - 1
        if zeros > LONGEST:
            raise ValueError(f"{value} is too large to be coded")
        count, read = 0, 1
        while not self.bit(int(count == zeros)):
            count += 1
            if count > LONGEST:
                raise self._damaged("a number is out of range")
        for shift in reversed(range(count)):
            read = 2 * read + self.bit(above >> shift & 1)
        read -= 1
        for shift in reversed(range(ORDER)):
            read = 2 * read + self.bit(value >> shift & 1)
        return read

    def signed(self, value: int = 0) -> int:
        """Code a value of any sign as an unsigned one: 0, -1, 1, -2, 2 ... as 0, 1, 2, 3, 4 ..."""
        folded = self.unsigned(2 * value if value >= 0 else -2 * value - 1)
        return -(folded + 1) // 2 if folded % 2 else folded // 2

    def _damaged(self, problem: str) -> ContainerError:
        return ContainerError(f"{self._what} is damaged: {problem}")


class Encoder(Coder):
    """Appends to a payload."""

    def __init__(self) -> None:
        """Start with none."""
        self._coder = constriction.stream.queue.RangeEncoder()

    def symbols(self, probabilities: NDArray[np.float64], values: Symbols) -> Symbols:
        """See `Coder`."""
        self._coder.encode(values, _CATEGORICAL, probabilities)
        return values

    def uniform(self, size: int, value: int) -> int:
        """See `Coder`."""
        self._coder.encode(value, constriction.stream.model.Uniform(size))
        return value

    def uniforms(self, size: int, values: Symbols) -> Symbols:
        """See `Coder`."""
        self._coder.encode(values, constriction.stream.model.Uniform(size))
        return values

    def bit(self, value: int) -> int:
        """See `Coder`."""
        self._coder.encode(value, _BIT)
        return value

    def payload(self) -> bytes:
        """Return the coded symbols, as 32-bit words."""
        return bytes(self._coder.get_compressed().astype("<u4").tobytes())


_NONE = np.zeros(0, np.int32)


class Decoder(Coder):
    """Reads a payload; the values that its methods take are ignored.

    It counts the information in the symbols. No encoder puts more into a payload than its bits, so one that has given
    more is refused at once: what is read of any payload, and the memory for it, is bounded by its length.
    """

    def __init__(self, payload: bytes, what: str) -> None:
        """Start at the beginning.

        Args:
            payload: of an encoder.
            what: its name in messages.

        Raises:
            ContainerError: it is not a positive number of words.
        """
        self._what = what
        if not payload or len(payload) % 4:
            raise ContainerError(f"{what} is malformed: {len(payload)} bytes of coded symbols, expected words of 4")
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(payload, "<u4").astype(np.uint32))
        self._left = 8.0 * len(payload)  # bits

    def symbols(self, probabilities: NDArray[np.float64], values: Symbols = _NONE) -> Symbols:
        """See `Coder`; ContainerError if the payload is invalid."""
        try:
            found = np.asarray(self._coder.decode(_CATEGORICAL, probabilities))
        except (AssertionError, ValueError):
            raise self._damaged("it does not decode") from None
        count, size = probabilities.shape
        likely = probabilities.ravel().take(np.arange(0, count * size, size) + found)
        self._take(-_EXACT * float(np.log2(np.maximum(likely, 2.0**-_PLACES)).sum()))
        return found

    def uniform(self, size: int, value: int = 0) -> int:
        """See `Coder`; ContainerError if the payload is invalid."""
        found, each = self._next(constriction.stream.model.Uniform(size)), (1 << _PLACES) // size
        share = each if found < size - 1 else (1 << _PLACES) - each * found  # the last one has the rest
        self._take(_PLACES - math.log2(share))
        return found

    def uniforms(self, size: int, values: Symbols) -> Symbols:
        """See `Coder`; ContainerError if the payload is invalid."""
        try:
            found = np.asarray(self._coder.decode(constriction.stream.model.Uniform(size), len(values)))
        except (AssertionError, ValueError):
            raise self._damaged("it does not decode") from None
        self._take(_EXACT * len(values) * math.log2(size))
        return found

    def bit(self, value: int = 0) -> int:
        """See `Coder`; ContainerError if the payload is invalid."""
        found = self._next(_BIT)
        self._take(1)
        return found

    def _next(self, model: object) -> int:
        try:
            return int(self._coder.decode(model))
        except (AssertionError, ValueError):
            raise self._damaged("it does not decode") from None

    def _take(self, bits: float) -> None:
        self._left -= bits
        if self._left < -1:  # far more than sums of floats are off
            raise self._damaged("it ends before the last symbol")

    def require_end(self) -> None:
        """Raise a ContainerError if words are left over."""
        if not self._coder.maybe_exhausted():
            raise self._damaged("it has bytes to spare")
