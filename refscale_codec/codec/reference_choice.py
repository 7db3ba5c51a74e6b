"""Whether and how the reference is used for three bands.

The candidates are: no reference; the reference as it is; warped; warped with radiometric gain and offset; without block
motion vectors; and, for further bands, a prediction from the first ones. They are compared on a sample of the picture,
a regular grid of boxes, and only those boxes are warped. The cost is the residual detail (`detail`) with the bytes that
the candidate takes. Nothing is coded for it (benchmarks/reference_choice.py measures the loss against coding with every
candidate).

Of several references, each has these candidates. The best of all is the lowest layer of a blend (`blending`); those of
the other references are laid over it, the most useful first, as long as that lowers the cost. Residual detail takes a
mean of much the same pictures for better than it is, so a trial of coding decides between the best blend and the best
candidates of the two references that serve best alone (`trial`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from refscale_codec.fileformat.container import FINGERPRINT_SIZE
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import band_prediction, blending, detail, registration, warp
from refscale_codec.reference.source import Blend, Predicted, ReferenceSource, Unused, Warped

SAMPLE = 3, 64
"""The sample is at most 3 x 3 boxes of 64 x 64 pixels."""

_CHANCE = 0.003  # of ln(residual energy): what an unrelated reference may explain by chance
_SECTION = 6  # bytes around a short payload in the file
_BLENDED = "blended"
_LAYER = 1  # bytes that a layer takes more than its alignment as a section: a fingerprint in place of what is around it


class Candidate(NamedTuple):
    """A way of using the reference."""

    source: ReferenceSource
    warped: Image | None
    """The reference in the boxes of the sample; None for no reference, and for a blend."""
    cost: float = 0.0
    """ln(residual energy), including its own bytes."""

    @property
    def reference(self) -> Image:
        """The reference in the boxes of the sample, where there is one."""
        assert self.warped is not None
        return self.warped


def choose(
    image: Image,
    older: Sequence[Image],
    alignments: Sequence[warp.Alignment | None],
    first: Image | None = None,
    trial: Callable[[ReferenceSource], float] = lambda source: 0.0,
) -> ReferenceSource:
    """Return the candidate of the least cost; where there is a blend, the best in a trial of it and two others.

    Args:
        image: a group of three bands.
        older: the same bands of the references, of any size. One of another size is usable only if it is warped.
        alignments: of each, from `registration.estimate`.
        first: the decoded first group, from which a further one may be predicted; None for none.
        trial: what a source costs when it is tried; by default residual detail decides.
    """
    best: dict[Any, ReferenceSource] = {}  # of each kind, the most promising first
    for one in sorted(candidates(image, older, alignments, first), key=_cost):
        best.setdefault(_BLENDED if isinstance(one.source, Blend) else one.source.places, one.source)
    if _BLENDED not in best:
        return next(iter(best.values()))
    tried = [_BLENDED, *[kind for kind in best if kind != _BLENDED][:2]]
    return min((source for kind, source in best.items() if kind in tried), key=trial)


def candidates(
    image: Image, older: Sequence[Image], alignments: Sequence[warp.Alignment | None], first: Image | None = None
) -> list[Candidate]:
    """Return all candidates with their costs, no reference first; arguments as in `choose`."""
    sample = _Sample(image)
    single = [_of_one(sample, *each) for each in zip(range(len(older)), older, alignments, strict=True)]
    alone = sample.candidate(Unused(), None)
    tried = [candidate for each in single for candidate in each]
    useful = (
        min(map(_cost, tried), default=math.inf) < alone.cost
    )  # otherwise a mean of what is of no use might seem so
    tried += _blends(sample, single) if useful else []
    if first is not None:
        prediction = band_prediction.fit(first.pixels, image.pixels)
        predicted = Image(band_prediction.predict(sample.of(first).pixels, prediction))
        tried.append(sample.candidate(Predicted(prediction), predicted))
    return [alone, *tried]


class _Sample:
    """The sample of a picture, and what candidates cost on it."""

    def __init__(self, image: Image) -> None:
        self.size = image.height, image.width
        self.boxes = sample_boxes(*self.size)
        self.target = self.of(image)
        self.spectrum = detail.spectrum(self.target.pixels)
        self.share = 8 / (detail.WORTH * image.height * image.width)  # of a byte, in residual detail

    def of(self, image: Image) -> Image:
        return gathered(image, self.boxes)

    def candidate(self, source: ReferenceSource, warped: Image | None) -> Candidate:
        residual = detail.residual(self.spectrum, None if warped is None else detail.spectrum(warped.pixels))
        cost = float(residual.mean()) + self.share * size_of(source) + _CHANCE * (warped is not None)
        return Candidate(source, warped, cost)


def _of_one(sample: _Sample, place: int, older: Image, alignment: warp.Alignment | None) -> list[Candidate]:
    """Return the candidates of one reference."""

    def with_alignment(alignment: warp.Alignment) -> Candidate:
        return sample.candidate(Warped(alignment, place=place), _warped(older, alignment, sample.boxes))

    tried = []
    if (older.height, older.width) == sample.size:
        tried.append(sample.candidate(Warped(None, place=place), sample.of(older)))
    if alignment is not None:
        tried.append(with_alignment(alignment))
    if tried:
        best = min(tried, key=_cost)
        plain = best.source.alignment or warp.still(*sample.size)
        tried += [
            with_alignment(plain._replace(radiometry=lines))
            for lines in registration.radiometry(sample.target, best.reference)
        ]
        chosen = min(tried, key=_cost).source.alignment
        if chosen is not None and chosen.motion.any():
            unmoved = chosen._replace(motion=0 * chosen.motion)
            if not unmoved.does_nothing:
                tried.append(with_alignment(unmoved))
    return tried


def _blends(sample: _Sample, single: list[list[Candidate]]) -> list[Candidate]:
    """Return blends of the candidates of single references, each with one layer more than that before it.

    Each layer is the one that lowers the cost most; they end where none does, but the first is always there. The
    sample's squares stand for the blocks of the picture in what their weights cost.
    """
    lowest = min((candidate for tried in single for candidate in tried), key=_cost)
    (place,) = lowest.source.places
    below, fixed = detail.spectrum(lowest.reference.pixels), sample.share * size_of(lowest.source) + _CHANCE
    payload = lowest.source.sections([b""] * len(single), place).get("alignment")
    layers, found = [_layer(lowest, sample.size)], list[Candidate]()
    left = [
        [(one, detail.spectrum(one.reference.pixels)) for one in tried]
        for at, tried in enumerate(single)
        if tried and at != place
    ]
    while left:
        laid = [
            min((_laid(sample, below, *variant) for variant in variants), key=lambda one: one.cost) for variants in left
        ]
        best = min(laid, key=lambda one: one.cost)
        if found and best.cost + fixed >= found[-1].cost:
            break
        layers.append(_layer(best.candidate, sample.size))
        found.append(Candidate(Blend(tuple(layers), coded=payload), None, best.cost + fixed))
        below, fixed = best.spectrum, fixed + best.price
        left = [[one[:2]] for one in laid if one is not best]  # the variant of each that served best over the lowest
    return found


class _Laid(NamedTuple):
    """A candidate laid over what is below it, with the best weights."""

    candidate: Candidate
    own: detail.Spectrum
    cost: float
    """Of all, but for the bytes of what is below."""
    price: float
    """The part of the candidate's own bytes."""
    spectrum: detail.Spectrum
    """Of what results."""


def _laid(sample: _Sample, below: detail.Spectrum, candidate: Candidate, layer: detail.Spectrum) -> _Laid:
    costs = blending.trials(sample.spectrum, below, layer)
    squares = detail.by_squares(costs, SAMPLE[1])
    weighing = sample.share * math.prod(warp.grid(*sample.size)) * blending.BITS / 8
    same = int(costs.mean(axis=(1, 2)).argmin())
    by_square, alike = float(squares.min(axis=0).mean()) + weighing, float(costs[same].mean())
    weights: Any = same
    if by_square < alike:
        side = SAMPLE[1] // detail.BLOCK
        every = squares.argmin(axis=0).repeat(side, axis=0).repeat(side, axis=1)
        weights = every[: below.shape[0], : below.shape[1], None, None].astype(np.float32)
    price = sample.share * (_LAYER + size_of(candidate.source)) + _CHANCE
    result = below + weights * ((layer - below) / np.float32(blending.FULL))
    return _Laid(candidate, layer, min(by_square, alike) + price, price, result)


def _layer(candidate: Candidate, size: tuple[int, int]) -> blending.Layer:
    """Return a candidate as a layer, whose weights are not known yet."""
    (place,) = candidate.source.places
    alignment = candidate.source.alignment or warp.still(*size)
    return blending.Layer(place, alignment, blending.uniform(blending.FULL, *size))


def size_of(source: ReferenceSource) -> int:
    """Return the bytes of a source in the file, without the map."""
    base = (*source.places, 0)[0]
    names = [bytes(FINGERPRINT_SIZE)] * (1 + max(source.places, default=0))
    return sum(_SECTION + len(payload) for payload in source.sections(names, base).values())


def _cost(candidate: Candidate) -> float:
    return candidate.cost


def sample_boxes(height: int, width: int, side: int = SAMPLE[1]) -> list[list[Box]]:
    """Return the boxes of the sample, row by row; a single box for a picture that is not larger."""
    rows, columns = (_spans(length, SAMPLE[0], side) for length in (height, width))
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
