"""Registration: finds the alignment (`warp.Alignment`) that brings the reference onto the target; the encoder only.

Everything is estimated on locally normalised luma, so that illumination and season matter little. A reference of
another size is at first assumed to show the same extent, unless georeferences give its position (`georeference`). From
this prior on: a shift by phase correlation; similarity, affine transform and homography by RANSAC over matched SIFT
features; and for the best of these, and for the prior, block motion vectors by dense optical flow (DIS). The criterion
is the sum of the blocks' normalised cross-correlations, less a price for the bits that coding the alignment takes.
"""

import math
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from refscale_codec.picture import tiles
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import warp
from refscale_codec.reference.warp import BLOCK, LIMIT, Alignment, GainOffset, MotionVectors, Transform

Matrix = NDArray[np.float64]  # [3, 3], applied to (x, y, 1) of a pixel's centre; the centre of the first is (0, 0)
Luma = NDArray[np.float32]  # [h, w]

_SMALLEST = 32  # a picture with a shorter side is not registered
_LONGEST = 32_766  # nor one with a longer side, which OpenCV does not warp
_REDUCED = 1024  # global motion is estimated on pictures with sides reduced to this many pixels
_FINER = 1.5  # a reference that is finer than the target by more is averaged first
_FLOW_TILE, _FLOW_HALO = 2048, 128  # pixels; the halo is far more than the longest motion vector, 16
_BIT = 0.004  # the correlation of a block must rise by this for each bit that its motion vector costs
_FEATURES = 8  # least number of matched features
_SQUARE = 4  # side in pixels of the squares whose means radiometric gain and offset are fitted to
_POINTS, _FITS = 100_000, 20  # squares in a fit, about, and iterations of reweighted least squares
_GAINS = 1 / 8, 8.0  # lowest and highest radiometric gain
_APART = 1 / 16  # relative difference in gain above which the second candidate is worth a trial


def estimate(image: Image, reference: Image, prior: Matrix | None = None) -> Alignment | None:
    """Return the alignment of a reference onto a picture, without radiometric gains.

    Args:
        image: the target.
        reference: of any size.
        prior: an approximate matrix from the target's pixels to the reference's; by default both show the same
            extent.

    Returns:
        None if it is the identity, or if the reference cannot be warped onto the target's grid.
    """
    size = image.height, image.width
    base = scaling(reference.width / image.width, reference.height / image.height) if prior is None else prior
    first = _placed(base, size)
    if first is None:
        return None
    sides = *size, reference.height, reference.width
    if min(sides) < _SMALLEST or max(sides) > _LONGEST:
        return None if first.does_nothing else first
    lumas = [_luma(picture) for picture in (image, reference)]
    target = _normalised(lumas[0])
    highest, best = -math.inf, first
    for alignment in _candidates(lumas, target, base, first):
        vectors, correlation = _best_vectors(target, _warped(lumas[1], alignment))
        alignment = alignment._replace(motion=vectors)
        correlation -= _price(alignment)
        if correlation > highest:
            highest, best = correlation, alignment
    return None if best.does_nothing else best


def radiometry(image: Image, warped: Image) -> list[tuple[GainOffset, ...]]:
    """Return candidates for radiometric gain and offset of each band of a warped reference; none if nothing differs.

    Lines are fitted to means of squares of pixels by iteratively reweighted least squares (Cauchy weights), so that
    changed areas have little weight. Squares near the ends of the range, which may be clipped, are left out. Regression
    lines flatten where the pictures correlate weakly, so a second candidate, whose gain preserves the spread of the
    samples more, is returned if it differs enough.

    Args:
        image: the target.
        warped: the reference on the target's grid.
    """
    cells = Box(0, 0, *(-(-side // _SQUARE) for side in image.pixels.shape[:2]))
    target, older = (warp.averaged(picture.pixels, _SQUARE, cells) for picture in (image, warped))
    top = np.iinfo(older.dtype).max
    lines = [
        _lines(x[inside][::every].astype(np.float64), y[inside][::every].astype(np.float64))
        for x, y in zip(np.moveaxis(older, -1, 0), np.moveaxis(target, -1, 0), strict=True)
        for inside in [(x > 0) & (x < 0.97 * top)]
        for every in [1 + np.count_nonzero(inside) // _POINTS]
    ]
    fitted, spread = zip(*lines, strict=True)
    differ = any(abs(a.gain - b.gain) > _APART * a.gain for a, b in lines)
    return [of for of in (fitted, spread)[: 1 + differ] if any(line != GainOffset() for line in of)]


def _lines(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[GainOffset, GainOffset]:
    """Return a robust regression line of y over x, and one through the same centroid that preserves the spread more.

    Its slope is the geometric mean of the first and of the ratio of the median absolute deviations of y and x.
    """
    if x.size < 2 or np.ptp(x) == 0:
        return GainOffset(), GainOffset()
    gain, offset = 1.0, float(np.median(y) - np.median(x))
    for _ in range(_FITS):
        off = y - gain * x - offset
        weight = 1 / (1 + np.square(off / (1 + 1.5 * np.median(abs(off)))))
        mean_x, mean_y = (float(np.average(values, weights=weight)) for values in (x, y))
        spread = float(np.average(np.square(x - mean_x), weights=weight))
        gain = float(np.average((x - mean_x) * (y - mean_y), weights=weight)) / (spread + 1e-9)
        gain = min(max(gain, _GAINS[0]), _GAINS[1])
        offset = mean_y - gain * mean_x
    spread_x, spread_y = (float(np.median(abs(values - np.median(values)))) for values in (x, y))
    halfway = min(max(math.sqrt(gain * spread_y / max(spread_x, 1.0)), _GAINS[0]), _GAINS[1])
    fitted, other = (GainOffset(round(warp.GAIN * slope), round(mean_y - slope * mean_x)) for slope in (gain, halfway))
    return fitted, other


def scaling(x: float, y: float) -> Matrix:
    """Return the matrix from a picture's pixels to those of a version `x` times as wide and `y` times as high."""
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def _placed(matrix: Matrix, size: tuple[int, int]) -> Alignment | None:
    """Return the alignment for a matrix onto the reference; None for a degenerate or extreme one."""
    if not np.isfinite(matrix).all():
        return None
    height, width = size
    corners = np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1], [1, 1, 1, 1]])
    depths = (matrix @ corners)[2]
    if not depths.min() > 0.25 * depths.max() > 0:
        return None
    x, y, depth = matrix @ [(width - 1) / 2, (height - 1) / 2, 1]
    slope = (matrix[:2, :2] - np.outer([x / depth, y / depth], matrix[2, :2])) / depth  # at the middle
    finer = math.sqrt(abs(np.linalg.det(slope)))
    factor = min(warp.MAX_FACTOR, 1 if finer <= _FINER else round(finer))
    transform = Transform.nearest(scaling(1 / factor, 1 / factor) @ matrix, height, width)
    if transform is None:
        return None
    return warp.still(height, width)._replace(factor=factor, transform=transform)


def _price(alignment: Alignment) -> float:
    """Return by how much the sum of correlations must rise to pay for the bits of an alignment."""
    return 0.0 if alignment.does_nothing else 8 * _BIT * len(warp.pack(alignment))


def _candidates(lumas: list[NDArray[np.uint8]], target: Luma, base: Matrix, first: Alignment) -> list[Alignment]:
    """Return the first, and the one of highest correlation less its price if that is another."""
    highest, best = -math.inf, first
    for alignment in (first, *_proposed(lumas, target, base)):
        correlation = _correlation(target, _warped(lumas[1], alignment)) - _price(alignment)
        if correlation > highest:
            highest, best = correlation, alignment
    return [first] if best is first else [first, best]


def _warped(luma: NDArray[np.uint8], alignment: Alignment) -> Luma:
    """Return the reference's luma warped by an alignment's global motion, in floating point, and normalised."""
    height, width, factor = alignment[:3]
    cells = Box(0, 0, *(-(-side // factor) for side in luma.shape))
    coarse: NDArray[np.uint8] = warp.averaged(luma[..., None], factor, cells)[..., 0]
    if alignment.transform == warp.IDENTITY and coarse.shape == (height, width):
        return _normalised(coarse)
    matrix, flags = alignment.transform.matrix(height, width), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(coarse, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return _normalised(np.asarray(warped, np.uint8))


def _correlation(a: Luma, b: Luma) -> float:
    """Return the sum of the normalised cross-correlations of all blocks."""
    products = [_blocks(x * y).sum(axis=(1, 3)) for x, y in ((a, b), (a, a), (b, b))]
    return float((products[0] / np.sqrt(products[1] * products[2] + 1e-6)).sum())


def _blocks(plane: NDArray[np.float32], mode: str = "constant") -> NDArray[np.float32]:
    """Return [rows, BLOCK, columns, BLOCK, ...] of a plane [h, w, ...], padded."""
    height, width, *rest = plane.shape
    rows, columns = warp.grid(height, width)
    padding = (0, rows * BLOCK - height), (0, columns * BLOCK - width), *((0, 0) for _ in rest)
    padded = np.pad(plane, padding, mode=mode)  # type: ignore[call-overload]
    return np.asarray(padded.reshape(rows, BLOCK, columns, BLOCK, *rest))


def _proposed(lumas: list[NDArray[np.uint8]], target: Luma, base: Matrix) -> Iterator[Alignment]:
    """Yield alignments by phase correlation, starting from the base, and by matched features, without a start."""
    size = target.shape[0], target.shape[1]
    factors = [-(-max(luma.shape) // _REDUCED) for luma in lumas]
    small = [_normalised(_reduced(luma, factor)) for luma, factor in zip(lumas, factors, strict=True)]
    if min(*small[0].shape, *small[1].shape) < _SMALLEST:
        return
    to_small = [scaling(1 / factor, 1 / factor) for factor in factors]
    start = to_small[1] @ base @ np.linalg.inv(to_small[0])
    shape, flags = small[0].shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(small[1], start, shape, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    (right, down), _ = cv2.phaseCorrelate(small[0], warped, cv2.createHanningWindow(shape, cv2.CV_32F))
    shifted = start @ np.array([[1, 0, right], [0, 1, down], [0, 0, 1]])
    for matrix in (shifted, *_by_features(*small)):
        alignment = _placed(np.linalg.inv(to_small[1]) @ matrix @ to_small[0], size)
        if alignment is not None:
            yield alignment


def _by_features(target: Luma, reference: Luma) -> Iterator[Matrix]:
    """Yield a similarity, an affine transform and a homography by matched SIFT features."""
    sift = cv2.SIFT.create(2000, contrastThreshold=0.01)
    (places, features), (others, wanted) = (sift.detectAndCompute(_shades(x), None) for x in (target, reference))
    if min(len(places), len(others)) < _FEATURES:
        return
    pairs = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(features, wanted)
    if len(pairs) < _FEATURES:
        return
    here = np.array([places[pair.queryIdx].pt for pair in pairs])
    there = np.array([others[pair.trainIdx].pt for pair in pairs])
    for fit in (cv2.estimateAffinePartial2D, cv2.estimateAffine2D, cv2.findHomography):
        matrix, _ = fit(here, there, method=cv2.RANSAC, ransacReprojThreshold=2.0, maxIters=5000)
        if matrix is not None:
            yield np.concatenate([matrix, [[0, 0, 1]]])[:3]


def _best_vectors(target: Luma, warped: Luma) -> tuple[MotionVectors, float]:
    """Return block motion vectors, and the sum of the blocks' correlations under them.

    Each block takes the best of a few candidates: the median optical flow of the block and of its neighbours, the
    median of all blocks, the prediction (which costs least), and zero. Best is the correlation less a price for the
    bits.
    """
    flow = _flow(target, warped)
    median = np.median(flow.reshape(-1, 2), axis=0).astype(np.int16)
    vectors, statistics, total = np.zeros_like(flow), warp.Statistics(), 0.0
    for row, column in np.ndindex(flow.shape[:2]):
        expected = [statistics.expected(vectors, row, column, part) for part in (0, 1)]
        beside = flow[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].reshape(-1, 2)
        candidates = np.unique([*beside, median, [middle for middle, _ in expected], [0, 0]], axis=0)
        costs = sum(
            -np.log2(statistics.probabilities(context)[candidates[:, part] - middle + 2 * LIMIT])
            for part, (middle, context) in enumerate(expected)
        )
        correlations = np.array([_correlation_at(target, warped, row, column, vector) for vector in candidates])
        best = np.argmax(correlations - _BIT * costs)
        vectors[row, column] = candidates[best]
        total += float(correlations[best])
        for part, (middle, context) in enumerate(expected):
            statistics.update(context, int(vectors[row, column, part]) - middle + 2 * LIMIT)
    return vectors, total


def _flow(target: Luma, warped: Luma) -> MotionVectors:
    """Return block motion vectors by optical flow, in tiles, because it takes many times the picture's memory."""
    height, width = target.shape
    vectors = np.empty((*warp.grid(height, width), 2), np.int16)
    for tile, padded in tiles.grid(height, width, _FLOW_TILE, _FLOW_HALO, BLOCK):
        flow = np.zeros((padded.height, padded.width, 2), np.float32)  # right, down
        here, there = (_shades(luma[padded.slices]) for luma in (target, warped))
        cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(here, there, flow)
        vectors[tile.reduced(BLOCK).slices] = _by_block(flow[tile.within(padded).slices])
    return vectors


def _by_block(flow: NDArray[np.float32]) -> MotionVectors:
    """Return the median of a flow [h, w, (right, down)] in each block, as motion vectors."""
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
    """Return luma [h, w] less its local mean, over its local standard deviation, slightly blurred."""
    detail = luma.astype(np.float32)
    detail -= cv2.GaussianBlur(detail, (0, 0), 6)
    contrast = cv2.GaussianBlur(detail * detail, (0, 0), 12)
    np.sqrt(contrast, out=contrast)
    contrast += 3
    detail /= contrast
    return np.asarray(cv2.GaussianBlur(detail, (0, 0), 0.7))


def _shades(luma: Luma) -> NDArray[np.uint8]:
    """Return normalised luma in 8 bits, as features and optical flow need it."""
    return np.clip(128 + 40 * luma, 0, 255).astype(np.uint8)


def _correlation_at(a: Luma, b: Luma, row: int, column: int, vector: MotionVectors) -> float:
    """Return the normalised cross-correlation of a block of `a` with the block of `b` that a motion vector leads to."""
    top, left = row * BLOCK, column * BLOCK
    block = a[top : top + BLOCK, left : left + BLOCK]
    shift = np.array([[1, 0, left + vector[1] / 4], [0, 1, top + vector[0] / 4]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    other = cv2.warpAffine(b, shift, block.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return float((block * other).sum() / np.sqrt((block * block).sum() * (other * other).sum() + 1e-6))
