"""A run through a plane in wavefronts, in which all samples are predicted from what lies before them.

Samples (y, x) of equal x + 2 y do not depend on each other, so a wavefront takes one call of each operation. The last
wavefronts lie in rings, a row for each, where neighbours of a wavefront are slices.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.lrcodec.predictive import neighbourhood
from refscale_codec.lrcodec.predictive.neighbourhood import FRACTION, MATCHED, MISSED, OWN, Exact, Place

PLACES = 12
"""Binary places of coefficients."""
LARGEST = 1 << 18
"""Magnitude of a coefficient at most: 64."""
LARGEST_OFFSET = 1 << 30
"""Likewise of an offset: 2^18 levels."""

_RING = 16  # wavefronts: 7 before the current one, and 3 after it
_REACH = 3  # rows and columns


class Coefficients(NamedTuple):
    """Of a plane, whole numbers in 2^-`PLACES`; they are multiplied with what `neighbourhood` gives, in its order."""

    own: Exact
    """Of the samples at `OWN`."""
    values: Exact
    """Of what is known of values before the plane; the first, of 1, is the offset."""
    own_activity: Exact
    """Of `neighbourhood.activity`."""
    activity: Exact
    """Of what is known of activity before the plane."""


class Front(NamedTuple):
    """The n samples of a wavefront."""

    at: NDArray[np.int64]
    """Where they lie in the flattened plane."""
    mean: Exact
    """Predictions in 1 / `FRACTION` levels, from 0 to those of the highest level."""
    scale: Exact
    """64 log2 of the scale in levels."""
    own: Exact
    """The samples at `OWN`, [places, n]."""
    activity: Exact
    """See `neighbourhood.activity`."""


Visit = Callable[[Front], Exact]
"""Gives the samples of a wavefront as the decoder has them."""


def run(
    size: Place,
    coefficients: Coefficients,
    values: Exact,
    activity: Exact,
    reference: Exact | None,
    outside: float,
    highest: int,
    visit: Visit,
) -> tuple[Exact, Exact]:
    """Return a plane [h, w] and the errors of its predictions in 1 / `FRACTION` levels.

    Args:
        size: h and w.
        coefficients: of the plane.
        values: what is known before adds so much to each prediction, in 2^-`PLACES` levels, [h, w].
        activity: likewise to each scale.
        reference: its plane of the same band; None without one.
        outside: the level above the picture. To the left of it lies the first sample of the row above, to the right
            the last one of the row.
        highest: the highest level; the lowest is 0.
        visit: called for each wavefront in turn.
    """
    height, width = size
    values, activity = values.ravel(), activity.ravel()
    level = None if reference is None else np.ascontiguousarray(reference).ravel()
    rings = [np.full((_RING, _REACH + height), float(start)) for start in (outside, 0, 0)]
    samples, missed, matched = rings
    plane, errors = np.empty(height * width, np.float32), np.empty(height * width, np.float32)
    beginnings = np.arange(height) * (width - 2)
    for t, top, bottom in neighbourhood.wavefronts(height, width):
        rows = slice(_REACH + top, _REACH + bottom + 1)
        at = beginnings[top : bottom + 1] + t
        own = _near(samples, OWN, t, rows)
        of_match = None if level is None else _near(matched, MATCHED, t, rows)
        active = neighbourhood.activity(own, _near(missed, MISSED, t, rows), of_match)
        total = coefficients.own @ own + values[at]
        mean = np.clip(np.floor(total * FRACTION / (1 << PLACES) + 0.5), 0, FRACTION * highest)
        scale = np.floor((coefficients.own_activity @ active + activity[at]) / (1 << PLACES))
        found = visit(Front(at, mean, scale, own, active))
        plane[at], errors[at] = found, FRACTION * found - mean
        samples[t % _RING, rows], missed[t % _RING, rows] = found, abs(FRACTION * found - mean)
        matched[t % _RING, rows] = 0 if level is None else found - level[at]
        if t % 2 == 0 and t // 2 < height - 1:  # the first sample of a row lies to the left of the next one
            for column in (-1, -2, -3):
                _put(rings, t + 2 + column, t // 2 + 1, found[-1])
        if t >= width - 1 and (t - width) % 2:  # the last one of a row
            for column in (1, 2, 3):
                _put(rings, t + column, (t - width + 1) // 2, found[0])
    return plane.reshape(size), errors.reshape(size)


def _near(ring: Exact, places: tuple[Place, ...], t: int, rows: slice) -> Exact:
    near = np.empty((len(places), rows.stop - rows.start))
    for (dy, dx), into in zip(places, near, strict=True):
        into[:] = ring[(t + dx + 2 * dy) % _RING, rows.start + dy : rows.stop + dy]
    return near


def _put(rings: list[Exact], t: int, row: int, sample: float) -> None:
    for ring, value in zip(rings, (sample, 0.0, 0.0), strict=True):
        ring[t % _RING, _REACH + row] = value
