"""Where the reference lies on the target: a field of vectors, found by the encoder, applied by both sides.

Blocks of the picture have a vector each, in quarters of a pixel; between their centres vectors are interpolated. The
encoder finds them by dense optical flow on locally normalised luma, so that light and season matter little, and keeps
those that make a block clearly more alike. Moving a reference is integer arithmetic: both sides get the same pixels.
Vectors are coded one after the other under adaptive statistics, each predicted from its neighbours.
"""

import constriction
import cv2
import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.image import Image

Vectors = NDArray[np.int16]  # [rows, columns, 2] of blocks: down and right, in quarters of a pixel

BLOCK = 64  # side in pixels
LIMIT = 64  # largest magnitude of a vector's component
_SMALLEST = 32  # a picture with a shorter side is not aligned
_BIT = 0.004  # by so much the correlation of a block must rise for each bit that its vector costs

_CATEGORICAL = constriction.stream.model.Categorical(perfect=False)
_START = [1 + int(256 * 0.55 ** abs(x)) for x in range(-2 * LIMIT, 2 * LIMIT + 1)]  # counts before the first vector
_INCREMENT = 24


def grid(height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of blocks."""
    return -(-height // BLOCK), -(-width // BLOCK)


def estimate(image: Image, reference: Image) -> Vectors | None:
    """Return where in the reference each block of a picture of the same size is found; None if nothing moved.

    Each block takes the best of a few vectors: that of the optical flow there, those of its neighbours, the usual one,
    none, and the one that costs least; what a vector costs in bits counts against the likeness that it brings.
    """
    if min(image.height, image.width) < _SMALLEST:
        return None
    target, before = (_normalised(picture) for picture in (image, reference))
    shades = [np.clip(128 + 40 * x, 0, 255).astype(np.uint8) for x in (target, before)]
    flow = np.zeros((*shades[0].shape, 2), np.float32)  # right, down
    cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(shades[0], shades[1], flow)
    found = _by_block(flow)
    usual = np.median(found.reshape(-1, 2), axis=0).astype(np.int16)
    vectors, statistics = np.zeros_like(found), _Statistics()
    for row, column in np.ndindex(found.shape[:2]):
        expected = [statistics.expected(vectors, row, column, part) for part in (0, 1)]
        beside = found[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].reshape(-1, 2)
        proposed = np.unique([*beside, usual, [middle for middle, _ in expected], [0, 0]], axis=0)
        costs = sum(
            -np.log2(statistics.probabilities(context)[proposed[:, part] - middle + 2 * LIMIT])
            for part, (middle, context) in enumerate(expected)
        )
        gains = [_alike(target, before, row, column, vector) for vector in proposed] - _BIT * costs
        vectors[row, column] = proposed[np.argmax(gains)]
        for part, (middle, context) in enumerate(expected):
            statistics.update(context, int(vectors[row, column, part]) - middle + 2 * LIMIT)
    return vectors if vectors.any() else None


def _by_block(flow: NDArray[np.float32]) -> Vectors:
    """Return the median of a flow [h, w, (right, down)] in each block."""
    height, width = flow.shape[:2]
    rows, columns = grid(height, width)
    padding = (0, rows * BLOCK - height), (0, columns * BLOCK - width), (0, 0)
    blocks = np.pad(flow, padding, mode="edge").reshape(rows, BLOCK, columns, BLOCK, 2)
    return np.rint(4 * np.median(blocks, axis=(1, 3))[..., ::-1]).clip(-LIMIT, LIMIT).astype(np.int16)


def _normalised(picture: Image) -> NDArray[np.float32]:
    """Return luma [h, w] without its local mean and contrast."""
    luma = cv2.cvtColor(picture.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    luma -= cv2.GaussianBlur(luma, (0, 0), 6)
    contrast = np.sqrt(cv2.GaussianBlur(luma * luma, (0, 0), 12)) + 3
    return np.asarray(cv2.GaussianBlur(luma / contrast, (0, 0), 0.7))


def _alike(a: NDArray[np.float32], b: NDArray[np.float32], row: int, column: int, vector: Vectors) -> float:
    """Return the correlation of a block of one picture with where a vector leads in the other."""
    top, left = row * BLOCK, column * BLOCK
    block = a[top : top + BLOCK, left : left + BLOCK]
    shift = np.array([[1, 0, left + vector[1] / 4], [0, 1, top + vector[0] / 4]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(b, shift, block.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return float((block * moved).sum() / np.sqrt((block * block).sum() * (moved * moved).sum() + 1e-6))


def move(reference: Image, vectors: Vectors | None) -> Image:
    """Return the reference as seen from the target; None for vectors leaves it as it is."""
    if vectors is None:
        return reference
    height, width = reference.height, reference.width
    moved = np.empty_like(reference.pixels)
    for top in range(0, height, 256):  # in strips, for memory
        ys, xs = np.arange(top, min(top + 256, height)), np.arange(width)
        field = _field(vectors, ys, xs)
        y, x = 4 * ys[:, None] + field[..., 0], 4 * xs + field[..., 1]
        (row, down), (column, right) = np.divmod(y, 4), np.divmod(x, 4)
        total = np.full((*field.shape[:2], 3), 8)
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            weight = (down if dy else 4 - down) * (right if dx else 4 - right)
            cells = np.clip(row + dy, 0, height - 1), np.clip(column + dx, 0, width - 1)
            total += weight[..., None] * reference.pixels[cells]
        moved[ys] = total // 16
    return Image(moved)


def _field(vectors: Vectors, ys: NDArray[np.int64], xs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return vectors [y, x, 2] for pixels, interpolated between the centres of blocks, and rounded half up."""

    def along(axis: NDArray[np.int64], blocks: int) -> tuple[NDArray[np.int64], ...]:
        first, part = np.divmod(2 * axis + 1 - BLOCK, 2 * BLOCK)
        return np.clip(first, 0, blocks - 1), np.clip(first + 1, 0, blocks - 1), part

    (top, bottom, down), (left, right, across) = along(ys, vectors.shape[0]), along(xs, vectors.shape[1])
    v, side = vectors.astype(np.int64), 2 * BLOCK
    rows = (side - down)[:, None, None] * v[top] + down[:, None, None] * v[bottom]
    cells = (side - across)[:, None] * rows[:, left] + across[:, None] * rows[:, right]
    return np.asarray((2 * cells + side * side) // (2 * side * side))


class _Statistics:
    """How often each difference from the prediction came, by how much the neighbours differ."""

    def __init__(self) -> None:
        self.counts = np.array([_START] * 3, np.int64)

    def expected(self, vectors: Vectors, row: int, column: int, part: int) -> tuple[int, int]:
        """Return the median of the left, upper and upper right neighbour, and the context."""
        plane = vectors[..., part]
        up = plane[row - 1] if row else np.zeros_like(plane[0])
        around = [
            int(plane[row, column - 1]) if column else int(up[column]),
            int(up[column]),
            int(up[min(column + 1, len(up) - 1)]),
        ]
        apart = max(around) - min(around)
        return sorted(around)[1], 0 if apart == 0 else 1 if apart <= 3 else 2

    def probabilities(self, context: int) -> NDArray[np.float64]:
        return np.asarray(self.counts[context] / self.counts[context].sum())

    def update(self, context: int, symbol: int) -> None:
        self.counts[context, symbol] += _INCREMENT


def pack(vectors: Vectors) -> bytes:
    """Return vectors as bytes."""
    coder, statistics = constriction.stream.queue.RangeEncoder(), _Statistics()
    for row, column, part in np.ndindex(vectors.shape):
        middle, context = statistics.expected(vectors, row, column, part)
        symbol = int(vectors[row, column, part]) - middle + 2 * LIMIT
        coder.encode(np.array([symbol], np.int32), _CATEGORICAL, statistics.probabilities(context)[None])
        statistics.update(context, symbol)
    return bytes(coder.get_compressed().astype("<u4").tobytes())


def unpack(payload: bytes, height: int, width: int) -> Vectors:
    """Return the vectors of a picture of this size.

    Raises:
        ContainerError: the payload holds no such vectors.
    """
    if not payload or len(payload) % 4:
        raise ContainerError(f"the alignment has {len(payload)} bytes, expected a multiple of 4")
    coder = constriction.stream.queue.RangeDecoder(np.frombuffer(payload, "<u4").astype(np.uint32))
    statistics, vectors = _Statistics(), np.zeros((*grid(height, width), 2), np.int16)
    try:
        for row, column, part in np.ndindex(vectors.shape):
            middle, context = statistics.expected(vectors, row, column, part)
            (symbol,) = coder.decode(_CATEGORICAL, statistics.probabilities(context)[None])
            statistics.update(context, int(symbol))
            vectors[row, column, part] = middle + int(symbol) - 2 * LIMIT
    except AssertionError:
        raise ContainerError("the alignment is damaged: it does not decode") from None
    if abs(vectors).max() > LIMIT or not vectors.any() or pack(vectors) != payload:
        raise ContainerError("the alignment is damaged: no vectors are coded like that")
    return vectors
