"""Whether and how the reference is used for three bands.

The candidates are: no reference; the reference as it is; warped; warped with radiometric gain and offset; without block
motion vectors; and, for further bands, a prediction from the first ones. They are compared on a sample of the picture,
a regular grid of boxes, and only those boxes are warped. The cost is the residual detail: the mean over the
coefficients of a block transform of ln(residual energy + noise), where each block may scale the candidate by its own
factor, as the net does. Nothing is coded for it (benchmarks/reference_choice.py measures the loss against
coding with every candidate).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.lrcodec.dct.coefficients import DCT
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import band_prediction, registration, warp
from refscale_codec.reference.source import Predicted, ReferenceSource, Unused, Warped

SAMPLE = 3, 64
"""The sample is at most 3 x 3 boxes of 64 x 64 pixels."""

_DCT = DCT.astype(np.float32)
_BLOCK = len(_DCT)  # side of the transform, in pixels
_NOISE = 128.0  # squared 8-bit levels that no reference can predict
_MOST = 1.3  # largest factor by which a block may scale a candidate
_PRIOR = 0.2  # regularisation of a block's factor towards 1, in units of the mean energy of blocks
_CHANCE = 0.003  # of ln(residual energy): what an unrelated reference may explain by chance
_TYPICAL = 0.4  # bits per pixel of a typical file, against which a byte of alignment is weighed
_SECTION = 6  # bytes around a short payload in the file


class Candidate(NamedTuple):
    """A way of using the reference."""

    source: ReferenceSource
    warped: Image | None
    """The reference in the boxes of the sample; None for no reference."""
    cost: float = 0.0
    """ln(residual energy), including its own bytes."""


def choose(
    image: Image, reference: Image | None, alignment: warp.Alignment | None, first: Image | None = None
) -> ReferenceSource:
    """Return the candidate of the least cost.

    Args:
        image: a group of three bands.
        reference: the same bands of the reference, of any size; None for none. One of another size is usable only
            if it is warped.
        alignment: from `registration.estimate`.
        first: the decoded first group, from which a further one may be predicted; None for none.
    """
    return min(candidates(image, reference, alignment, first), key=_cost).source


def candidates(
    image: Image, reference: Image | None, alignment: warp.Alignment | None, first: Image | None = None
) -> list[Candidate]:
    """Return all candidates with their costs, no reference first; arguments as in `choose`."""
    boxes = sample_boxes(image.height, image.width)
    target = gathered(image, boxes)
    spectrum = _spectrum(target)
    share = 1 / (_TYPICAL * image.height * image.width / 8)

    def candidate(source: ReferenceSource, warped: Image | None) -> Candidate:
        residual = _residual_detail(spectrum, None if warped is None else _spectrum(warped))
        return Candidate(source, warped, residual + share * _bytes(source) + _CHANCE * (warped is not None))

    def with_alignment(alignment: warp.Alignment) -> Candidate:
        assert reference is not None
        return candidate(Warped(alignment), _warped(reference, alignment, boxes))

    tried = []
    if reference is not None and (reference.height, reference.width) == (image.height, image.width):
        tried.append(candidate(Warped(None), gathered(reference, boxes)))
    if reference is not None and alignment is not None:
        tried.append(with_alignment(alignment))
    if tried:
        best = min(tried, key=_cost)
        assert best.warped is not None
        plain = best.source.alignment or warp.still(image.height, image.width)
        tried += [
            with_alignment(plain._replace(radiometry=lines)) for lines in registration.radiometry(target, best.warped)
        ]
        chosen = min(tried, key=_cost).source.alignment
        if chosen is not None and chosen.motion.any():
            unmoved = chosen._replace(motion=0 * chosen.motion)
            if not unmoved.does_nothing:
                tried.append(with_alignment(unmoved))
    if first is not None:
        prediction = band_prediction.fit(first.pixels, image.pixels)
        predicted = Image(band_prediction.predict(gathered(first, boxes).pixels, prediction))
        tried.append(candidate(Predicted(prediction), predicted))
    return [candidate(Unused(), None), *tried]


def _bytes(source: ReferenceSource) -> int:
    """Return the bytes of a source in the file, without the map."""
    return sum(_SECTION + len(payload) for payload in source.sections().values())


def _cost(candidate: Candidate) -> float:
    return candidate.cost


def sample_boxes(height: int, width: int) -> list[list[Box]]:
    """Return the boxes of the sample, row by row; a single box for a picture that is not larger."""
    rows, columns = (_spans(length, *SAMPLE) for length in (height, width))
    return [[Box(top, left, bottom, right) for left, right in columns] for top, bottom in rows]


def _spans(length: int, count: int, side: int) -> list[tuple[int, int]]:
    if length <= count * side:
        return [(0, length)]
    return [(int(start), int(start) + side) for start in np.linspace(0, length - side, count)]


def gathered(image: Image, boxes: list[list[Box]]) -> Image:
    """Return the boxes of a picture, joined to one."""
    return Image(np.concatenate([np.concatenate([image.pixels[box.slices] for box in row], axis=1) for row in boxes]))


def _warped(reference: Image, alignment: warp.Alignment, boxes: list[list[Box]]) -> Image:
    """Return the same boxes of the warped reference, without warping anything else."""
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


def _residual_detail(target: NDArray[np.float32], candidate: NDArray[np.float32] | None) -> float:
    """Return the mean of ln(residual energy + noise) over all coefficients."""
    residual: NDArray[Any] = target
    if candidate is not None:
        energy = np.square(candidate).sum(axis=(1, 2)) + 1e-3  # of a block
        prior = _PRIOR * energy.mean()
        factor = (((target * candidate).sum(axis=(1, 2)) + prior) / (energy + prior)).clip(0, _MOST)
        residual = target - factor[:, None, None] * candidate
    return float(np.log(np.square(residual) + _NOISE).mean())
