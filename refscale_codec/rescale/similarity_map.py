"""The similarity map <-> bytes: lossless adaptive entropy coding.

Rows are coded from top to bottom with the range coder: in each row first the even columns, in the context of their
upper neighbours, then the odd columns, in the context of the two columns just coded. A context is a pair of values, and
counts the levels coded so far; encoder and decoder keep equal integer counts. A map of the highest level everywhere,
the most frequent one, has no section; one of zeros has an empty payload, another constant one a payload of one byte.

A map has few levels (4 by default). If there are many, the contexts are merged to at most 8 classes per neighbour.
"""

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.rangecoder import Coder, Decoder, Encoder

Levels = NDArray[np.uint8]  # [rows, columns], each 0 .. levels - 1

_INCREMENT = 16  # added to the count of a coded level; counts start at 1
_CLASSES = 8  # most classes of a neighbour's value


class _Counts:
    """Adaptive statistics: for each phase and pair of neighbour classes, the counts of each level."""

    def __init__(self, levels: int) -> None:
        self.levels = levels
        self.classes = min(levels, _CLASSES)
        self.table = np.ones((2 * self.classes * self.classes, levels), np.int64)

    def contexts(self, phase: int, first: Levels, second: Levels) -> NDArray[np.int64]:
        """Return the row of the table for each symbol."""
        a, b = (x.astype(np.int64) * self.classes // self.levels for x in (first, second))
        return (phase * self.classes + np.minimum(a, b)) * self.classes + np.maximum(a, b)

    def probabilities(self, contexts: NDArray[np.int64]) -> NDArray[np.float64]:
        counts = self.table.astype(np.float64)
        return np.asarray((counts / counts.sum(axis=1, keepdims=True))[contexts])

    def update(self, contexts: NDArray[np.int64], symbols: Levels) -> None:
        counts = np.bincount(contexts * self.levels + symbols, minlength=self.table.size)
        self.table += _INCREMENT * counts.reshape(self.table.shape)


def _neighbours(above: Levels, row: Levels, phase: int) -> tuple[Levels, Levels]:
    """Return two neighbours of each column of a phase: 0 for even columns (from above), 1 for odd (left and right)."""
    if phase == 0:
        right = np.append(above[1:], above[-1])
        left = np.insert(above[:-1], 0, above[0])
        return above[0::2], np.rint((left.astype(float) + right) / 2).astype(np.uint8)[0::2]
    left = row[0::2][: len(row) // 2]
    right = row[2::2]
    return left, np.append(right, above[-1:]) if len(right) < len(left) else right


def encode(smap: Levels, levels: int) -> bytes | None:
    """Return the payload of a map whose values are 0 .. levels - 1; None if all are levels - 1."""
    if (smap == smap[0, 0]).all():
        if smap[0, 0] == levels - 1:
            return None
        return bytes([smap[0, 0]]) if smap[0, 0] else b""
    coder = Encoder()
    _code(smap, levels, coder)
    return coder.payload()


def decode(payload: bytes | None, rows: int, columns: int, levels: int) -> Levels:
    """Return the map [rows, columns] in a payload.

    Raises:
        ContainerError: the payload cannot hold such a map.
    """
    if payload is None:
        return np.full((rows, columns), levels - 1, np.uint8)
    if not payload:
        return np.zeros((rows, columns), np.uint8)
    if len(payload) == 1 and 0 < payload[0] < levels - 1:
        return np.full((rows, columns), payload[0], np.uint8)
    smap = _code(np.zeros((rows, columns), np.uint8), levels, Decoder(payload, "the similarity map"))
    if encode(smap, levels) != payload:
        raise ContainerError("the similarity map is damaged: not the encoding of any map")
    return smap


def _code(source: Levels, levels: int, coder: Coder) -> Levels:
    """Encode a map, or decode one of the same size, with the same steps for both, and return it."""
    counts, smap = _Counts(levels), np.zeros_like(source)
    above = np.zeros_like(source[0])
    for row, values in zip(smap, source, strict=True):
        for phase in (0, 1):
            if row[phase::2].size:
                contexts = counts.contexts(phase, *_neighbours(above, row, phase))
                row[phase::2] = coder.symbols(counts.probabilities(contexts), values[phase::2].astype(np.int32))
                counts.update(contexts, row[phase::2])
        above = row
    return smap
