"""Blending of several warped references, in integers: the REFERENCES section.

The references that a band group uses are layers. From the second on, each is laid over what is below it with a weight
for each block, in quarters, interpolated between the blocks' centres as motion vectors are: 0 leaves what is below, 4
is the layer alone. So one weight for the whole picture is a mean, and weights of 0 and 4 choose one reference for each
block. The encoder finds the weights of the least residual detail (`detail`), a layer at a time.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.fileformat import references
from refscale_codec.picture.tiles import Box
from refscale_codec.rangecoder import Coder, Decoder, Encoder
from refscale_codec.reference import detail, warp
from refscale_codec.reference.warp import BLOCK, Alignment

Weights = NDArray[np.int16]  # [rows, columns] of blocks, 0..`FULL`

FULL = 4
"""The weight of a layer that covers what is below it."""

BITS = 3.0
"""Of a weight about, before the weights are known."""

_UNIT = 256 // FULL  # of a weight: 256 is 1
_START = np.array([[1 + int(32 * 0.6 ** abs(to - at)) for to in range(FULL + 1)] for at in range(FULL + 1)])
_INCREMENT = 12
_BANDS = 3  # of a group


class Layer(NamedTuple):
    """A warped reference, and how much of what is below it covers."""

    place: int
    """Which of the references."""
    alignment: Alignment
    weights: Weights
    """Not zero everywhere; of the lowest layer they say nothing."""


def uniform(weight: int, height: int, width: int) -> Weights:
    """Return the same weight everywhere, for a picture of this size."""
    return np.full(warp.grid(height, width), weight, np.int16)


def mixed(below: NDArray[Any], layer: NDArray[Any], weights: Weights, part: Box) -> NDArray[Any]:
    """Return a layer laid over what is below it.

    Args:
        below: the part of what is below, [h, w, 3] of 8 or 16 bits.
        layer: the same part of the warped reference.
        weights: of the whole picture.
        part: which it is.
    """
    made = np.empty_like(below)
    for top in range(0, part.height, BLOCK):  # to bound memory
        strip = slice(top, min(top + BLOCK, part.height))
        ys, xs = np.arange(part.top + strip.start, part.top + strip.stop), np.arange(part.left, part.right)
        share = warp.interpolated(_UNIT * weights[..., None], ys, xs).astype(np.int32)
        under, over = below[strip].astype(np.int32), layer[strip].astype(np.int32)
        made[strip] = (256 * under + share * (over - under) + 128) >> 8
    return made


def fit(target: NDArray[Any], below: NDArray[Any], layer: NDArray[Any]) -> Weights:
    """Return the weights of the least residual detail, with the bits that they take counted.

    Args:
        target: the picture [h, w, 3] of 8 or 16 bits.
        below: what the layer is laid over.
        layer: the warped reference.
    """
    height, width = target.shape[:2]
    costs = np.concatenate(
        [
            detail.by_squares(
                trials(*(detail.spectrum(pixels[top : top + BLOCK]) for pixels in (target, below, layer))), BLOCK
            )
            for top in range(0, height, BLOCK)
        ],
        axis=1,
    )
    price = costs.shape[1] * costs.shape[2] / (detail.WORTH * height * width)  # of a bit, in a block's cost
    best = int(costs.mean(axis=(1, 2)).argmin())
    same, found = uniform(best, height, width), _chosen(costs, price)
    return found if _total(found, costs, price) < _total(same, costs, price) else same


def trials(target: detail.Spectrum, below: detail.Spectrum, layer: detail.Spectrum) -> NDArray[np.float32]:
    """Return the residual detail of each block at each weight, [`FULL` + 1, rows, columns]."""
    step = (layer - below) / np.float32(FULL)
    return np.stack([detail.residual(target, below + np.float32(weight) * step) for weight in range(FULL + 1)])


def _chosen(costs: NDArray[np.float32], price: float) -> Weights:
    """Return the best weight of each block in turn, given those before it."""
    weights, statistics = np.zeros(costs.shape[1:], np.int16), _Statistics()
    for row, column in np.ndindex(weights.shape):
        at = statistics.expected(weights, row, column)
        bits = -np.log2(statistics.probabilities(at))
        weights[row, column] = weight = int((costs[:, row, column] + price * bits).argmin())
        statistics.update(at, weight)
    return weights


def _total(weights: Weights, costs: NDArray[np.float32], price: float) -> float:
    coder = Encoder()
    _code_weights(weights, coder)
    return float(np.take_along_axis(costs, weights[None].astype(int), 0).sum()) + 8 * price * len(coder.payload())


class _Statistics:
    """Adaptive counts of weights, for each mean of the left and the upper neighbour."""

    def __init__(self) -> None:
        self.counts = _START.copy()

    def expected(self, weights: Weights, row: int, column: int) -> int:
        """Return the mean of the neighbours that there are, rounded up; of none half of `FULL`."""
        around = [int(weights[row, column - 1])] * (column > 0) + [int(weights[row - 1, column])] * (row > 0)
        return -(-sum(around) // len(around)) if around else FULL // 2

    def probabilities(self, at: int) -> NDArray[np.float64]:
        return np.asarray(self.counts[at] / self.counts[at].sum())

    def update(self, at: int, weight: int) -> None:
        self.counts[at, weight] += _INCREMENT


def pack(lowest: bytes | None, layers: Sequence[tuple[bytes, Alignment, Weights]]) -> bytes:
    """Return the payload of a REFERENCES section.

    Args:
        lowest: fingerprint of the lowest layer's reference; None for that in the header.
        layers: fingerprint, alignment and weights of each layer above.
    """
    names = [*([] if lowest is None else [lowest]), *(name for name, *_ in layers)]
    coder = Encoder()
    for _, alignment, weights in layers:
        warp.code(alignment, _bands_of(alignment), coder)
        _code_weights(weights, coder)
    words = coder.payload() if layers else b""
    return bytes([len(layers) | references.FIRST * (lowest is not None)]) + b"".join(names) + words


def unpack(payload: bytes, height: int, width: int) -> tuple[bytes | None, list[tuple[bytes, Alignment, Weights]]]:
    """Return what `pack` was given, for a picture of this size; ContainerError if a payload holds no such thing."""
    lowest, names, words = references.parse(payload)
    layers = []
    if names:
        coder = Decoder(words, "the blending")
        for name in names:
            alignment = warp.code(warp.still(height, width), _BANDS, coder)
            layers.append((name, alignment, _code_weights(uniform(0, height, width), coder)))
            if not alignment.transform.in_range(height, width):
                raise ContainerError("the blending is damaged: a transform is out of range")
    if pack(lowest, layers) != payload:
        raise ContainerError("the blending is damaged: nothing is coded like that")
    return lowest, layers


def _bands_of(alignment: Alignment) -> int:
    return 0 if alignment.radiometry is None else len(alignment.radiometry)


def _code_weights(source: Weights, coder: Coder) -> Weights:
    """Encode or decode weights, with the same steps for both."""
    if coder.bit(int((source == source[0, 0]).all())):
        return np.full_like(source, 1 + coder.uniform(FULL, max(int(source[0, 0]) - 1, 0)))
    weights, statistics = np.zeros_like(source), _Statistics()
    for row, column in np.ndindex(weights.shape):
        at = statistics.expected(weights, row, column)
        wanted = np.array([source[row, column]], np.int32)
        weights[row, column] = weight = int(coder.symbols(statistics.probabilities(at)[None], wanted)[0])
        statistics.update(at, weight)
    return weights
