"""Where the reference lies on the target: a similarity and a field of vectors.

The similarity (shift, turn, scale) takes the whole picture along. For what it leaves, each block of the picture has a
vector, in quarters of a pixel; between the blocks' centres vectors are interpolated. The encoder finds them on locally
normalised luma, so that light and season matter little: similarities by phase correlation and by matched SIFT features,
vectors by dense optical flow. It keeps what makes blocks clearly more alike. Moving a reference is integer arithmetic,
so both sides get the same pixels. Vectors are coded one after the other under adaptive statistics, each predicted from
its neighbours.
"""

import math
import struct
from collections.abc import Iterator
from typing import NamedTuple

import constriction
import cv2
import numpy as np
from numpy.typing import NDArray

from refscale_codec import tiles
from refscale_codec.errors import ContainerError
from refscale_codec.image import Image
from refscale_codec.tiles import Box

Vectors = NDArray[np.int16]  # [rows, columns, 2] of blocks: down and right, in quarters of a pixel
Luma = NDArray[np.float32]  # [h, w], locally normalised

BLOCK = 64  # side in pixels
LIMIT = 64  # largest magnitude of a vector's component
ONE = 1 << 24  # of a similarity's factors
STEPS = 64  # of a similarity's shift, in a pixel
_SMALLEST = 32  # a picture with a shorter side is not aligned
_LARGEST = 1024  # similarities are sought on pictures with sides reduced to this many pixels
_FLOW_TILE, _FLOW_HALO = 2048, 128  # pixels; far more than a vector's 16
_BIT = 0.004  # by so much the correlation of a block must rise for each bit that its vector costs

_CATEGORICAL = constriction.stream.model.Categorical(perfect=False)
_START = [1 + int(256 * 0.55 ** abs(x)) for x in range(-2 * LIMIT, 2 * LIMIT + 1)]  # counts before the first vector
_INCREMENT = 24
_SHIFT = 4 * ONE // STEPS  # a step of a similarity's shift, in quarters times ONE


class Similarity(NamedTuple):
    """Takes (y, x) to (along * y + across * x) / ONE + down / STEPS, (along * x - across * y) / ONE + right / STEPS."""

    along: int = ONE
    across: int = 0
    down: int = 0
    right: int = 0

    def matrix(self) -> NDArray[np.float64]:
        """Return it as OpenCV takes it, for (x, y)."""
        return np.array(
            [
                [self.along / ONE, -self.across / ONE, self.right / STEPS],
                [self.across / ONE, self.along / ONE, self.down / STEPS],
            ]
        )


IDENTITY = Similarity()


class Alignment(NamedTuple):
    """A pixel of the target lies, in the reference, where the similarity takes it from where its vector leads."""

    similarity: Similarity
    vectors: Vectors


def grid(height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of blocks."""
    return -(-height // BLOCK), -(-width // BLOCK)


def estimate(image: Image, reference: Image) -> Alignment | None:
    """Return where in the reference a picture of the same size is found; None if nothing moved."""
    if min(image.height, image.width) < _SMALLEST:
        return None
    lumas = [_luma(picture) for picture in (image, reference)]
    target, before = (_normalised(luma) for luma in lumas)
    best, found = -math.inf, Alignment(IDENTITY, np.zeros((*grid(image.height, image.width), 2), np.int16))
    for similarity in _candidates(lumas, target, before):
        moved = _moved(before, similarity)
        vectors, likeness = _best_vectors(target, moved)
        alignment = Alignment(similarity, vectors)
        likeness -= 8 * _BIT * len(pack(alignment))
        if likeness > best:
            best, found = likeness, alignment
    return found if found.similarity != IDENTITY or found.vectors.any() else None


def _candidates(lumas: list[NDArray[np.uint8]], target: Luma, before: Luma) -> list[Similarity]:
    """Return the identity, and the proposed similarity that alone makes blocks most alike if it does so at all."""
    likeness = {IDENTITY: _likeness(target, before)}
    factor = -(-max(target.shape) // _LARGEST)
    small = [target, before] if factor == 1 else [_normalised(_reduced(luma, factor)) for luma in lumas]
    for similarity in _proposed(small, factor):
        likeness[similarity] = _likeness(target, _moved(before, similarity))
    return list(dict.fromkeys([IDENTITY, max(likeness, key=lambda similarity: likeness[similarity])]))


def _moved(before: Luma, similarity: Similarity) -> Luma:
    """Return a luma as a similarity moves it, about."""
    if similarity == IDENTITY:
        return before
    size, flags = before.shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(before, similarity.matrix(), size, flags=flags, borderMode=cv2.BORDER_REPLICATE))


def _likeness(a: Luma, b: Luma) -> float:
    """Return the sum of the correlations of all blocks."""
    products = [_blocks(x * y).sum(axis=(1, 3)) for x, y in ((a, b), (a, a), (b, b))]
    return float((products[0] / np.sqrt(products[1] * products[2] + 1e-6)).sum())


def _blocks(plane: NDArray[np.float32], mode: str = "constant") -> NDArray[np.float32]:
    """Return [rows, BLOCK, columns, BLOCK, ...] of a plane [h, w, ...], padded."""
    height, width, *rest = plane.shape
    rows, columns = grid(height, width)
    padding = (0, rows * BLOCK - height), (0, columns * BLOCK - width), *((0, 0) for _ in rest)
    padded = np.pad(plane, padding, mode=mode)  # type: ignore[call-overload]
    return np.asarray(padded.reshape(rows, BLOCK, columns, BLOCK, *rest))


def _proposed(small: list[Luma], factor: int) -> Iterator[Similarity]:
    """Yield a shift by phase correlation and a similarity by matched features, from pictures reduced by a factor."""
    if min(small[0].shape) < _SMALLEST:
        return
    window = cv2.createHanningWindow(small[0].shape[::-1], cv2.CV_32F)
    (right, down), _ = cv2.phaseCorrelate(small[0], small[1], window)
    yield from _whole(np.array([[1, 0, right], [0, 1, down]]), factor)
    sift = cv2.SIFT.create(2000, contrastThreshold=0.01)
    (places, features), (others, wanted) = (sift.detectAndCompute(_shades(x), None) for x in small)
    if min(len(places), len(others)) < 8:
        return
    pairs = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(features, wanted)
    if len(pairs) >= 8:
        here = np.array([places[pair.queryIdx].pt for pair in pairs])
        there = np.array([others[pair.trainIdx].pt for pair in pairs])
        matrix, _ = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=2.0, maxIters=5000)
        if matrix is not None:
            yield from _whole(np.asarray(matrix, np.float64), factor)


def _whole(matrix: NDArray[np.float64], factor: int) -> Iterator[Similarity]:
    """Yield the similarity [2, 3] on pictures reduced by a factor as one on the whole; none for a wild one."""
    turn, middle = matrix[:, :2], np.full(2, (factor - 1) / 2)
    shift = factor * matrix[:, 2] + middle - turn @ middle
    if np.isfinite(matrix).all() and 0.5 < math.hypot(*turn[:, 0]) < 2 and abs(shift).max() < 1 << 20:
        along, across = (round(ONE * float(x)) for x in turn[:, 0])
        right, down = (round(STEPS * float(x)) for x in shift)
        yield Similarity(along, across, down, right)


def _best_vectors(target: Luma, before: Luma) -> tuple[Vectors, float]:
    """Return the vectors of blocks, and the sum of the correlations that they give.

    Each block takes the best of a few vectors: that of the optical flow there, those of its neighbours, the usual one,
    none, and the one that costs least; what a vector costs in bits counts against the likeness that it brings.
    """
    found = _flow(target, before)
    usual = np.median(found.reshape(-1, 2), axis=0).astype(np.int16)
    vectors, statistics, likeness = np.zeros_like(found), _Statistics(), 0.0
    for row, column in np.ndindex(found.shape[:2]):
        expected = [statistics.expected(vectors, row, column, part) for part in (0, 1)]
        beside = found[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].reshape(-1, 2)
        proposed = np.unique([*beside, usual, [middle for middle, _ in expected], [0, 0]], axis=0)
        costs = sum(
            -np.log2(statistics.probabilities(context)[proposed[:, part] - middle + 2 * LIMIT])
            for part, (middle, context) in enumerate(expected)
        )
        alike = np.array([_alike(target, before, row, column, vector) for vector in proposed])
        best = np.argmax(alike - _BIT * costs)
        vectors[row, column] = proposed[best]
        likeness += float(alike[best])
        for part, (middle, context) in enumerate(expected):
            statistics.update(context, int(vectors[row, column, part]) - middle + 2 * LIMIT)
    return vectors, likeness


def _flow(target: Luma, before: Luma) -> Vectors:
    """Return the vectors of blocks by optical flow, which takes many times the picture's memory: by tiles."""
    height, width = target.shape
    found = np.empty((*grid(height, width), 2), np.int16)
    for core, seen in tiles.grid(height, width, _FLOW_TILE, _FLOW_HALO, BLOCK):
        flow = np.zeros((seen.height, seen.width, 2), np.float32)  # right, down
        here, there = (_shades(luma[seen.slices]) for luma in (target, before))
        cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(here, there, flow)
        found[core.reduced(BLOCK).slices] = _by_block(flow[core.within(seen).slices])
    return found


def _by_block(flow: NDArray[np.float32]) -> Vectors:
    """Return the median of a flow [h, w, (right, down)] in each block."""
    middle = np.median(_blocks(flow, "edge"), axis=(1, 3))
    return np.rint(4 * middle[..., ::-1]).clip(-LIMIT, LIMIT).astype(np.int16)


def _luma(picture: Image) -> NDArray[np.uint8]:
    luma = np.asarray(cv2.cvtColor(picture.pixels, cv2.COLOR_RGB2GRAY))
    return np.asarray(luma if luma.dtype == np.uint8 else luma // 256, np.uint8)


def _reduced(luma: NDArray[np.uint8], factor: int) -> NDArray[np.float32]:
    """Return a luma with both sides divided by a whole number, what is left over cut off."""
    height, width = (side // factor for side in luma.shape)
    cells = luma[: height * factor, : width * factor].reshape(height, factor, width, factor)
    return np.asarray(cells.mean(axis=(1, 3), dtype=np.float32))


def _normalised(luma: NDArray[np.uint8] | NDArray[np.float32]) -> Luma:
    """Return luma [h, w] without its local mean and contrast."""
    detail = luma.astype(np.float32)
    detail -= cv2.GaussianBlur(detail, (0, 0), 6)
    contrast = cv2.GaussianBlur(detail * detail, (0, 0), 12)
    np.sqrt(contrast, out=contrast)
    contrast += 3
    detail /= contrast
    return np.asarray(cv2.GaussianBlur(detail, (0, 0), 0.7))


def _shades(luma: Luma) -> NDArray[np.uint8]:
    return np.clip(128 + 40 * luma, 0, 255).astype(np.uint8)


def _alike(a: NDArray[np.float32], b: NDArray[np.float32], row: int, column: int, vector: Vectors) -> float:
    """Return the correlation of a block of one picture with where a vector leads in the other."""
    top, left = row * BLOCK, column * BLOCK
    block = a[top : top + BLOCK, left : left + BLOCK]
    shift = np.array([[1, 0, left + vector[1] / 4], [0, 1, top + vector[0] / 4]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(b, shift, block.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return float((block * moved).sum() / np.sqrt((block * block).sum() * (moved * moved).sum() + 1e-6))


def move(reference: Image, alignment: Alignment | None, box: Box | None = None) -> Image:
    """Return the reference as seen from the target; no alignment leaves it as it is.

    With a box, only the part in it is made, as far as the picture reaches: the same pixels as in the whole.
    """
    whole = Box(0, 0, reference.height, reference.width)
    part = (box or whole).overlap(whole)
    if part is None:
        raise ValueError(f"{box} lies beyond the picture")
    if alignment is None:
        return reference if part == whole else Image(reference.pixels[part.slices])
    along, across, shift_down, shift_right = alignment.similarity
    moved = np.empty((part.height, part.width, 3), reference.pixels.dtype)
    for top in range(part.top, part.bottom, 256):  # in strips, for memory
        ys, xs = np.arange(top, min(top + 256, part.bottom)), np.arange(part.left, part.right)
        field = _field(alignment.vectors, ys, xs)
        y, x = 4 * ys[:, None] + field[..., 0], 4 * xs + field[..., 1]  # in quarters
        y, x = (
            (along * y + across * x + shift_down * _SHIFT + ONE // 2) // ONE,
            (along * x - across * y + shift_right * _SHIFT + ONE // 2) // ONE,
        )
        (row, down), (column, right) = np.divmod(y, 4), np.divmod(x, 4)
        total = np.full((*field.shape[:2], 3), 8)
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            weight = (down if dy else 4 - down) * (right if dx else 4 - right)
            cells = np.clip(row + dy, 0, whole.bottom - 1), np.clip(column + dx, 0, whole.right - 1)
            total += weight[..., None] * reference.pixels[cells]
        moved[ys - part.top] = total // 16
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


def _head(similarity: Similarity) -> bytes:
    """Return a similarity as bytes, one more than a multiple of 4: the count of numbers, and the shift alone or all."""
    if similarity == IDENTITY:
        return b""
    count = 2 if similarity[:2] == IDENTITY[:2] else 4
    return struct.pack(f"<B{count}i", count, *similarity[4 - count :])


def pack(alignment: Alignment) -> bytes:
    """Return an alignment as bytes."""
    vectors = alignment.vectors
    head = _head(alignment.similarity)
    if not vectors.any():
        return head
    coder, statistics = constriction.stream.queue.RangeEncoder(), _Statistics()
    for row, column, part in np.ndindex(vectors.shape):
        middle, context = statistics.expected(vectors, row, column, part)
        symbol = int(vectors[row, column, part]) - middle + 2 * LIMIT
        coder.encode(np.array([symbol], np.int32), _CATEGORICAL, statistics.probabilities(context)[None])
        statistics.update(context, symbol)
    return head + bytes(coder.get_compressed().astype("<u4").tobytes())


def unpack(payload: bytes, height: int, width: int) -> Alignment:
    """Return the alignment of a picture of this size.

    Raises:
        ContainerError: the payload holds none.
    """
    count = payload[0] if len(payload) % 4 == 1 else 0
    length = 1 + 4 * count if count else 0
    if not payload or len(payload) < length or (len(payload) - length) % 4 or count > 4:
        raise ContainerError(f"the alignment of {len(payload)} bytes is malformed")
    numbers: tuple[int, ...] = struct.unpack_from(f"<{count}i", payload, 1)
    similarity = Similarity(*(IDENTITY[: 4 - count] + numbers))
    vectors = np.zeros((*grid(height, width), 2), np.int16)
    if len(payload) > length:
        _unpack_vectors(np.frombuffer(payload, "<u4", offset=length).astype(np.uint32), vectors)
    alignment = Alignment(similarity, vectors)
    if abs(vectors).max() > LIMIT or max(abs(x) for x in similarity[:2]) > 4 * ONE or pack(alignment) != payload:
        raise ContainerError("the alignment is damaged: nothing is coded like that")
    if similarity == IDENTITY and not vectors.any():
        raise ContainerError("the alignment is damaged: nothing is moved")
    return alignment


def _unpack_vectors(words: NDArray[np.uint32], vectors: Vectors) -> None:
    coder, statistics = constriction.stream.queue.RangeDecoder(words), _Statistics()
    try:
        for row, column, part in np.ndindex(vectors.shape):
            middle, context = statistics.expected(vectors, row, column, part)
            (symbol,) = coder.decode(_CATEGORICAL, statistics.probabilities(context)[None])
            statistics.update(context, int(symbol))
            vectors[row, column, part] = middle + int(symbol) - 2 * LIMIT
    except AssertionError:
        raise ContainerError("the alignment is damaged: it does not decode") from None
