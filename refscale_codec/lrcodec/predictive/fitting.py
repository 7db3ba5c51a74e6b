"""Coefficients of a plane, fitted by the encoder: those under which its samples take the fewest bits.

Errors are taken to have logistic distributions, rounded to whole levels. Means and scales are fitted in turn, each by
steps of Fisher scoring (a least-squares problem each), to what the scan of the step before has seen.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.lrcodec.predictive import neighbourhood
from refscale_codec.lrcodec.predictive.neighbourhood import FRACTION, LG, OWN, Exact, Known
from refscale_codec.lrcodec.predictive.scan import LARGEST, LARGEST_OFFSET, PLACES, Coefficients, Front, run

Floats = NDArray[np.float64]

_SIDE = 224  # of the parts of a picture that coefficients are fitted to, at most 2 x 2 of them
_RIDGE = 1e-4
_PASSES = 2
_STEPS = 6
_LOWEST, _HIGHEST = -3.5, 11.0  # ln of scales in steps
_SHARES = (1.0, 0.5, 0.2, 0.05, 0.0)  # of a step of scoring that are tried


class Sample(NamedTuple):
    """A part of a plane with what is known of it."""

    plane: Exact
    known: Known
    reference: Exact | None


class _Seen(NamedTuple):
    """All samples of a plane: what they are predicted from, themselves, and what their ln scales are."""

    x: Floats
    y: Floats
    s: Floats


def boxes(height: int, width: int) -> list[tuple[slice, slice]]:
    """Return the parts of a picture that coefficients are fitted to: all of it, or squares around its quarters."""

    def along(side: int) -> list[slice]:
        if side <= 2 * _SIDE:
            return [slice(0, side)]
        return [slice(middle - _SIDE // 2, middle + _SIDE // 2) for middle in (side // 4, side - side // 4)]

    return [(rows, columns) for rows in along(height) for columns in along(width)]


def fit(samples: list[Sample], outside: float, highest: int, step: int) -> Coefficients:
    """Return the coefficients of a plane.

    Args:
        samples: parts of it.
        outside: the level above the picture.
        highest: the highest level.
        step: between the levels that the decoder can have.
    """
    known = samples[0].known
    mean = np.zeros(len(OWN) + len(known.values))
    for place, weight in (((0, -1), 1.0), ((-1, 0), 1.0), ((-1, -1), -1.0)):
        mean[OWN.index(place)] = weight
    scale, with_reference = None, samples[0].reference is not None
    for _ in range(_PASSES):
        found = _rounded(mean, np.zeros(0) if scale is None else scale, known, with_reference)
        seen = _observed(samples, found, outside, highest, step)
        mean, scale = _improved(seen, mean, scale, step)
    assert scale is not None
    return _rounded(mean, scale, known, with_reference)


def _observed(samples: list[Sample], coefficients: Coefficients, outside: float, highest: int, step: int) -> _Seen:
    parts = []
    for plane, known, reference in samples:
        size = plane.size
        values, activity = (np.reshape(each, (len(each), size)).T for each in known)
        own, own_activity = np.empty((size, len(OWN))), np.empty((size, len(coefficients.own_activity)))
        before, active = (
            np.reshape(each @ weights, plane.shape)
            for each, weights in ((values, coefficients.values), (activity, coefficients.activity))
        )
        visit = partial(_noted, plane.ravel(), own, own_activity, step, highest)
        run(plane.shape, coefficients, before, active, reference, outside, highest, visit)
        logarithms = np.hstack([own_activity, activity]) * (np.log(2) / LG)
        parts.append((np.hstack([own, values]), plane.ravel(), logarithms))
    return _Seen(*(np.concatenate(each).astype(np.float64) for each in zip(*parts, strict=True)))


def _noted(plane: Exact, own: Floats, own_activity: Floats, step: int, highest: int, front: Front) -> Exact:
    """Note what a wavefront sees, and return the samples that the decoder would have."""
    own[front.at], own_activity[front.at] = front.own.T, front.activity.T
    middle = np.floor(front.mean / FRACTION + 0.5)
    nearest = middle + step * np.floor((plane[front.at] - middle) / step + 0.5)
    return np.asarray(np.clip(nearest, 0, highest))


def _improved(seen: _Seen, mean: Floats, scale: Floats | None, step: int) -> tuple[Floats, Floats]:
    """Return coefficients of means and ln scales under which the samples are more likely."""
    x, y, s = seen
    if scale is None:
        mean = mean + _solved(x, np.ones(len(y)), y - x @ mean)
    coded = _coded(y, x @ mean, step)
    afresh = _solved(s, np.ones(len(y)), np.log(abs(coded) + 0.4 * step)) - 0.4 * (np.arange(s.shape[1]) == 0)
    starts = [afresh] if scale is None else [scale, afresh]
    scale = min(starts, key=partial(_bits_of_scale, s, coded, step))
    for _ in range(_STEPS):
        wide = np.exp(2 * _ln(s, scale, step)) + (step * step - 1) / 12  # with what steps add to what is predicted from
        ln = np.log(wide) / 2
        by_mean = _Likelihood(y - x @ mean, ln, 1).by_mean()
        towards = _solved(x, 1 / (3 * wide + 0.25), by_mean, scored=True)
        mean = _stepped(mean, towards, partial(_bits_of_mean, x, y, ln))
        coded, ln = _coded(y, x @ mean, step), _ln(s, scale, step)
        wide = np.exp(2 * ln)
        by_scale = _Likelihood(coded, ln, step).by_scale()
        towards = _solved(s, 1.43 * wide / (wide + step * step / 10) + 0.05, by_scale, scored=True)
        scale = _stepped(scale, towards, partial(_bits_of_scale, s, coded, step))
    return _whole(mean, x, 1 / (3 * np.exp(2 * _ln(s, scale, step)) + step * step / 4)), scale


def _coded(y: Floats, mean: Floats, step: int) -> Floats:
    """Return how far the levels that are coded lie from the predictions."""
    middle = np.rint(mean)
    return np.asarray(middle + step * np.rint((y - middle) / step) - mean)


def _bits_of_mean(x: Floats, y: Floats, ln: Floats, mean: Floats) -> float:
    return _Likelihood(y - x @ mean, ln, 1).bits()


def _bits_of_scale(s: Floats, coded: Floats, step: int, scale: Floats) -> float:
    return _Likelihood(coded, _ln(s, scale, step), step).bits()


def _stepped(start: Floats, step: Floats, cost: Callable[[Floats], float]) -> Floats:
    """Return the point of the least cost along a step of scoring: far from the optimum, a whole one can miss it."""
    return min((start + share * step for share in _SHARES), key=cost)


def _ln(s: Floats, scale: Floats, step: int) -> Floats:
    return np.asarray(np.clip(s @ scale, _LOWEST + np.log(step), _HIGHEST + np.log(step)))


class _Likelihood:
    """The probability that errors, of logistic distributions, lie within half a step of where they do.

    It works with the ln of the tails beyond the near and the far end of the step, so that nothing vanishes far out.
    """

    def __init__(self, error: Floats, ln: Floats, step: int) -> None:
        """Take n errors, the ln of their scales, and the step."""
        self.sign, self.per = np.sign(error), np.exp(-ln)
        self.to_far, self.to_near = ((abs(error) + half * step) * self.per for half in (0.5, -0.5))
        self.ln_far, self.ln_near = (-np.logaddexp(0, end) for end in (self.to_far, self.to_near))
        self.inside = -np.expm1(self.ln_far - self.ln_near)  # share of the near tail

    def bits(self) -> float:
        """Return what all of them take."""
        return -float((self.ln_near + np.log(self.inside)).sum()) / float(np.log(2))

    def by_mean(self) -> Floats:
        """Return the derivatives of the ln of each probability by the mean."""
        return np.asarray(self.sign * self.per * (1 - np.exp(self.ln_near) - np.exp(self.ln_far)))

    def by_scale(self) -> Floats:
        """Return the derivatives of the ln of each probability by the ln of its scale."""
        near = self.to_near * -np.expm1(self.ln_near)
        far = self.to_far * -np.expm1(self.ln_far) * (1 - self.inside)
        return np.asarray((near - far) / self.inside)


def _solved(x: Floats, weight: Floats, y: Floats, scored: bool = False) -> Floats:
    """Return the coefficients of least squares; of a scoring step, if `y` are scores and not values."""
    return np.asarray(np.linalg.solve(_gram(x, weight), x.T @ (y if scored else weight * y)))


def _gram(x: Floats, weight: Floats) -> Floats:
    gram = (x * weight[:, None]).T @ x
    gram[np.diag_indices_from(gram)] += _RIDGE * len(x) * weight.mean()
    return np.asarray(gram)


def _rounded(mean: Floats, scale: Floats, known: Known, with_reference: bool) -> Coefficients:
    """Return coefficients as whole numbers."""
    count = neighbourhood.counts(0, with_reference).own_activity
    whole = np.zeros(count + len(known.activity))
    whole[: len(scale)] = scale
    most = np.full(len(mean), LARGEST)
    most[len(OWN)] = LARGEST_OFFSET
    mean = np.clip(np.rint(mean * (1 << PLACES)), -most, most)
    whole = np.clip(np.rint(whole * (1 << PLACES)), -LARGEST, LARGEST)
    return Coefficients(mean[: len(OWN)], mean[len(OWN) :], whole[:count], whole[count:])


def _whole(mean: Floats, x: Floats, weight: Floats) -> Floats:
    """Return coefficients rounded one after another, each time with the others fitted anew to what that changes.

    Neighbours are alike, so errors of rounding would add up to a large part of a level (Babai 1986; GPTQ, Frantar et
    al. 2023, with the same arithmetic for nets).
    """
    inverse = np.linalg.inv(_gram(x, weight))
    found = mean * (1 << PLACES)
    for index in range(len(found)):
        off = found[index] - np.rint(found[index])
        found[index:] -= off / inverse[index, index] * inverse[index, index:]
        rest = inverse[index + 1 :, index + 1 :]
        rest -= np.outer(inverse[index + 1 :, index], inverse[index, index + 1 :]) / inverse[index, index]
    return np.rint(found) / (1 << PLACES)
