"""Whether and how the reference is used for three bands.

The candidates are: no reference; the reference as it lies; moved into place; that with a radiometric gain and offset;
and without block motion vectors. They are compared on a sample of the picture, a regular grid of boxes, and only those
boxes are warped. What counts is the detail that a candidate leaves unexplained: the mean over the coefficients of a
block transform of ln(residual energy + noise), where each block of each band may weaken the candidate by a factor of
its own, as the net does. That tells far from near, but
not a gain of a few percent: of those that are close, at most three are left for the encoder to code the sample with
(benchmarks/reference_choice.py measures what that loses).
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import band_prediction, registration, warp
from refscale_codec.reference.band_prediction import Prediction

SAMPLE = 3, 64
"""The sample is at most 3 x 3 boxes of 64 x 64 pixels."""

_BLOCK = 8  # side of the transform, in pixels
_NOISE = 64.0  # squared 8-bit levels that no reference explains
_MOST = 1.2  # by so much at most may a block strengthen a candidate
_PRIOR = 0.3  # how strongly a block's factor is drawn to 1, in units of the mean energy of blocks
_CLOSE = 0.1  # of ln(residual energy): candidates are kept that leave no more than that beyond the best
_KEPT = 3  # candidates at most
_TYPICAL = 0.4  # bits per pixel of a usual file: what a byte of alignment is weighed against
SECTION = 6
"""Bytes around a short payload in the file."""


class Choice(NamedTuple):
    """How a group of bands uses its reference."""

    used: bool
    """Whether it does."""
    alignment: warp.Alignment | None = None
    """That brings the reference into place; None for as it lies."""
    prediction: Prediction | None = None
    """That makes the group from the picture's first one, in the place of the reference; None for none."""


class Candidate(NamedTuple):
    """A choice, and the reference in the boxes of the sample as it would have it."""

    choice: Choice
    warped: Image | None
    """None for no reference."""
    cost: float = 0.0
    """ln(residual energy) that it leaves, its own bytes counted."""


def shortlist(
    image: Image, reference: Image | None, alignment: warp.Alignment | None, first: Image | None = None
) -> list[Candidate]:
    """Return the candidate that leaves the least unexplained, and those that are close, at most three in all.

    Args:
        image: a group of three bands.
        reference: the same bands of the reference, of any size; None for none. One of another size is of use only if
            it is moved.
        alignment: from `registration.estimate`.
        first: the picture's first group as it decodes, for a further one to be predicted from; None for none.
    """
    found = sorted(candidates(image, reference, alignment, first), key=_cost)
    return [candidate for candidate in found[:_KEPT] if candidate.cost <= found[0].cost + _CLOSE]


def candidates(
    image: Image, reference: Image | None, alignment: warp.Alignment | None, first: Image | None = None
) -> list[Candidate]:
    """Return all candidates with their costs; arguments as in `shortlist`."""
    boxes = sample_boxes(image.height, image.width)
    target = gathered(image, boxes)
    spectrum = _spectrum(target)
    share = 1 / (_TYPICAL * image.height * image.width / 8)

    def candidate(choice: Choice, warped: Image | None) -> Candidate:
        unexplained = _unexplained(spectrum, None if warped is None else _spectrum(warped))
        size = 0 if choice.alignment is None else SECTION + len(warp.pack(choice.alignment))
        return Candidate(choice, warped, unexplained + share * size)

    def moved(alignment: warp.Alignment) -> Candidate:
        assert reference is not None
        return candidate(Choice(True, alignment), _warped(reference, alignment, boxes))

    tried = []
    if reference is not None and (reference.height, reference.width) == (image.height, image.width):
        tried.append(candidate(Choice(True), gathered(reference, boxes)))
    if reference is not None and alignment is not None:
        tried.append(moved(alignment))
    if tried:
        best = min(tried, key=_cost)
        assert best.warped is not None
        found = best.choice.alignment or warp.still(image.height, image.width)
        tried += [moved(found._replace(radiometry=tones)) for tones in registration.radiometry(target, best.warped)]
        chosen = min(tried, key=_cost).choice.alignment
        if chosen is not None and chosen.motion.any():
            plain = chosen._replace(motion=0 * chosen.motion)
            if not plain.does_nothing:
                tried.append(moved(plain))
    if first is not None:
        rows = band_prediction.fit(first.pixels, image.pixels)
        shown = Image(band_prediction.predict(gathered(first, boxes).pixels, rows))
        tried.append(candidate(Choice(True, prediction=rows), shown))
    return [candidate(Choice(False), None), *tried]


def _cost(candidate: Candidate) -> float:
    return candidate.cost


def sample_boxes(height: int, width: int) -> list[list[Box]]:
    """Return the boxes of the sample, row by row; one box of the whole for a picture that is no larger."""
    rows, columns = (_spans(length, *SAMPLE) for length in (height, width))
    return [[Box(top, left, bottom, right) for left, right in columns] for top, bottom in rows]


def _spans(length: int, count: int, side: int) -> list[tuple[int, int]]:
    if length <= count * side:
        return [(0, length)]
    return [(int(start), int(start) + side) for start in np.linspace(0, length - side, count)]


def gathered(image: Image, boxes: list[list[Box]]) -> Image:
    """Return the boxes put together into one picture."""
    return Image(np.concatenate([np.concatenate([image.pixels[box.slices] for box in row], axis=1) for row in boxes]))


def _warped(reference: Image, alignment: warp.Alignment, boxes: list[list[Box]]) -> Image:
    """Return the same of the warped reference; nothing else of it is warped."""
    rows = (np.concatenate([warp.apply(reference, alignment, box).pixels for box in row], axis=1) for row in boxes)
    return Image(np.concatenate(list(rows)))


def _spectrum(image: Image) -> NDArray[np.float32]:
    """Return the AC coefficients [blocks, coefficients, 3] of an orthonormal DCT, in 8-bit levels."""
    pixels = image.pixels.astype(np.float32) * np.float32(255 / np.iinfo(image.pixels.dtype).max)
    height, width = (-(-side // _BLOCK) * _BLOCK for side in pixels.shape[:2])
    padded = np.pad(pixels, ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0)), "edge")
    blocks = padded.reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK, 3).transpose(0, 2, 4, 1, 3)
    spectrum = (_DCT @ blocks @ _DCT.T).reshape(-1, 3, _BLOCK * _BLOCK)[..., 1:]
    return np.ascontiguousarray(spectrum.swapaxes(1, 2))


def _dct() -> NDArray[np.float32]:
    k, n = np.arange(_BLOCK)[:, None], np.arange(_BLOCK)[None]
    matrix = math.sqrt(2 / _BLOCK) * np.cos(math.pi * (2 * n + 1) * k / (2 * _BLOCK))
    matrix[0] /= math.sqrt(2)
    return matrix.astype(np.float32)


_DCT = _dct()


def _unexplained(target: NDArray[np.float32], candidate: NDArray[np.float32] | None) -> float:
    """Return the mean of ln(residual energy + noise) over all coefficients."""
    residual: NDArray[Any] = target
    if candidate is not None:
        energy = np.square(candidate).sum(axis=1) + 1e-3
        prior = _PRIOR * energy.mean(axis=0)
        factor = (((target * candidate).sum(axis=1) + prior) / (energy + prior)).clip(0, _MOST)
        residual = target - factor[:, None] * candidate
    return float(np.log(np.square(residual) + _NOISE).mean())
