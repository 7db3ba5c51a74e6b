"""Finds where the reference lies on the target: the encoder's half of `align`.

All is sought on locally normalised luma, so that light and season matter little. A reference of another size is first
taken to show the same extent, unless its place is known (`georeference`). From there on: a shift by phase correlation;
similarity, affine transform and homography by matched SIFT features; and for the blocks of the best of these, and of
what was taken at first, vectors by dense optical flow. What an alignment costs in bits counts against how alike it
makes the blocks.
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
from refscale_codec.reference.warp import BLOCK, LIMIT, Alignment, Tone, Transform, Vectors

Matrix = NDArray[np.float64]  # [3, 3], takes (x, y, 1) of a pixel's centre; the centre of the first is (0, 0)
Luma = NDArray[np.float32]  # [h, w]

_SMALLEST = 32  # a picture with a shorter side is not aligned
_LONGEST = 32_766  # nor one with a longer side, which OpenCV does not warp
_REDUCED = 1024  # transforms are sought on pictures with sides reduced to this many pixels
_FINER = 1.5  # a reference that is finer than the target by more is averaged first
_FLOW_TILE, _FLOW_HALO = 2048, 128  # pixels; far more than a vector's 16
_BIT = 0.004  # by so much the correlation of a block must rise for each bit that its vector costs
_FEATURES = 8  # matched ones, at least
_SQUARE = 4  # pixels a side that tones are fitted to the means of
_POINTS, _FITS = 100_000, 20  # squares that a tone is fitted to, about, and how often
_GAINS = 1 / 8, 8.0  # of tones
_APART = 1 / 16  # other tones are worth a trial if a gain differs by more, as a share


def estimate(image: Image, reference: Image, known: Matrix | None = None) -> Alignment | None:
    """Return where in the reference a picture is found.

    Args:
        image: the target.
        reference: of any size.
        known: where the target's pixels lie in the reference, if that is known, at least about; by default both show
            the same extent.

    Returns:
        None if nothing moved, or if the reference cannot be brought onto the target's grid.
    """
    size = image.height, image.width
    base = scaling(reference.width / image.width, reference.height / image.height) if known is None else known
    first = _placed(base, size)
    if first is None:
        return None
    sides = *size, reference.height, reference.width
    if min(sides) < _SMALLEST or max(sides) > _LONGEST:
        return None if first.does_nothing else first
    lumas = [_luma(picture) for picture in (image, reference)]
    target = _normalised(lumas[0])
    best, found = -math.inf, first
    for alignment in _candidates(lumas, target, base, first):
        vectors, likeness = _best_vectors(target, _seen(lumas[1], alignment))
        alignment = alignment._replace(vectors=vectors)
        likeness -= _price(alignment)
        if likeness > best:
            best, found = likeness, alignment
    return None if found.does_nothing else found


def tones(image: Image, guide: Image) -> list[tuple[Tone, ...]]:
    """Return what may take each band of a reference that lies in place to the picture's light; nothing if it does.

    Lines are fitted to means of squares of pixels, so that what changed counts little: each counts the less the farther
    it lies from the line. Squares with samples at the end of the range, which may be cut off, do not count at all.
    Such lines are the flatter the less alike the pictures are, so others, which spread samples about as much as the
    picture does, are returned, too, if they differ.
    """
    cells = Box(0, 0, *(-(-side // _SQUARE) for side in image.pixels.shape[:2]))
    wanted, given = (warp.averaged(picture.pixels, _SQUARE, cells) for picture in (image, guide))
    top = np.iinfo(given.dtype).max
    found = [
        _lines(x[inside][::every].astype(np.float64), y[inside][::every].astype(np.float64))
        for x, y in zip(np.moveaxis(given, -1, 0), np.moveaxis(wanted, -1, 0), strict=True)
        for inside in [(x > 0) & (x < 0.97 * top)]
        for every in [1 + np.count_nonzero(inside) // _POINTS]
    ]
    fitted, spread = zip(*found, strict=True)
    differ = any(abs(a.gain - b.gain) > _APART * a.gain for a, b in found)
    return [of for of in (fitted, spread)[: 1 + differ] if any(tone != Tone() for tone in of)]


def _lines(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[Tone, Tone]:
    """Return the line through points that lies near most of them, and one halfway from its slope to that of spreads.

    The first is by least squares with weights from the last fit. The other has the same middle. The slope of spreads
    is how much farther the points lie apart in y than in x, and halfway is the geometric mean.
    """
    if x.size < 2 or np.ptp(x) == 0:
        return Tone(), Tone()
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
    fitted, other = (Tone(round(warp.GAIN * slope), round(mean_y - slope * mean_x)) for slope in (gain, halfway))
    return fitted, other


def scaling(x: float, y: float) -> Matrix:
    """Return the matrix that takes a picture's pixels to those of the same picture, so many times as wide and high."""
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def _placed(matrix: Matrix, size: tuple[int, int]) -> Alignment | None:
    """Return the alignment for a matrix onto the reference; None for a wild one."""
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
    """Return by how much blocks must become more alike for the bits that an alignment takes."""
    return 0.0 if alignment.does_nothing else 8 * _BIT * len(warp.pack(alignment))


def _candidates(lumas: list[NDArray[np.uint8]], target: Luma, base: Matrix, first: Alignment) -> list[Alignment]:
    """Return the first, and the one that makes blocks most alike for its price if that is another."""
    likeness = -math.inf
    best = first
    for alignment in (first, *_proposed(lumas, target, base)):
        alike = _likeness(target, _seen(lumas[1], alignment)) - _price(alignment)
        if alike > likeness:
            likeness, best = alike, alignment
    return [first] if best is first else [first, best]


def _seen(luma: NDArray[np.uint8], alignment: Alignment) -> Luma:
    """Return the reference's luma as an alignment's transform moves it, about, and normalised."""
    height, width, factor = alignment[:3]
    cells = Box(0, 0, *(-(-side // factor) for side in luma.shape))
    moved: NDArray[np.uint8] = warp.averaged(luma[..., None], factor, cells)[..., 0]
    if alignment.transform == warp.IDENTITY and moved.shape == (height, width):
        return _normalised(moved)
    matrix, flags = alignment.transform.matrix(height, width), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(moved, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return _normalised(np.asarray(warped, np.uint8))


def _likeness(a: Luma, b: Luma) -> float:
    """Return the sum of the correlations of all blocks."""
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
    """Yield alignments by phase correlation, from the base on, and by matched features, from nothing."""
    size = target.shape[0], target.shape[1]
    factors = [-(-max(luma.shape) // _REDUCED) for luma in lumas]
    small = [_normalised(_reduced(luma, factor)) for luma, factor in zip(lumas, factors, strict=True)]
    if min(*small[0].shape, *small[1].shape) < _SMALLEST:
        return
    to_small = [scaling(1 / factor, 1 / factor) for factor in factors]
    start = to_small[1] @ base @ np.linalg.inv(to_small[0])
    shape, flags = small[0].shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpPerspective(small[1], start, shape, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    (right, down), _ = cv2.phaseCorrelate(small[0], moved, cv2.createHanningWindow(shape, cv2.CV_32F))
    shifted = start @ np.array([[1, 0, right], [0, 1, down], [0, 0, 1]])
    for matrix in (shifted, *_by_features(*small)):
        alignment = _placed(np.linalg.inv(to_small[1]) @ matrix @ to_small[0], size)
        if alignment is not None:
            yield alignment


def _by_features(target: Luma, before: Luma) -> Iterator[Matrix]:
    """Yield a similarity, an affine transform and a homography by matched SIFT features."""
    sift = cv2.SIFT.create(2000, contrastThreshold=0.01)
    (places, features), (others, wanted) = (sift.detectAndCompute(_shades(x), None) for x in (target, before))
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


def _best_vectors(target: Luma, before: Luma) -> tuple[Vectors, float]:
    """Return the vectors of blocks, and the sum of the correlations that they give.

    Each block takes the best of a few vectors: that of the optical flow there, those of its neighbours, the usual one,
    none, and the one that costs least; what a vector costs in bits counts against the likeness that it brings.
    """
    found = _flow(target, before)
    usual = np.median(found.reshape(-1, 2), axis=0).astype(np.int16)
    vectors, statistics, likeness = np.zeros_like(found), warp.Statistics(), 0.0
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
    found = np.empty((*warp.grid(height, width), 2), np.int16)
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
