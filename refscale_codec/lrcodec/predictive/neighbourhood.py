"""What a sample and its scale are predicted from: samples around it in its own plane, earlier planes and the reference.

All of it is whole numbers in doubles, and sums of products stay below 2^53: they are exact in any order.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Exact = NDArray[np.floating[Any]]
"""Whole numbers, in float64, or in float32 where they stay below 2^24."""
Place = tuple[int, int]
"""Rows down and columns to the right of a sample."""

ORDER = (1, 0, 2)
"""Bands of a picture, green first, in the order in which their planes are coded."""

FRACTION = 32
"""A level is so many units of a prediction, and of its error."""

OWN: tuple[Place, ...] = (
    *((0, -1), (0, -2), (0, -3)),
    *((-1, -2), (-1, -1), (-1, 0), (-1, 1)),
    *((-2, -2), (-2, -1), (-2, 0), (-2, 1), (-2, 2)),
    (-3, 0),
)
"""Samples of the same plane; all lie in earlier wavefronts."""
MISSED: tuple[Place, ...] = (
    *((0, -1), (-1, 0), (-1, -1), (-1, 1)),
    *((0, -2), (-2, 0), (-1, -2), (-2, -1), (-2, 1), (0, -3), (-2, 2), (-2, -2)),
)
"""Samples of the same plane whose errors tell about the scale, the nearest first."""
MATCHED: tuple[Place, ...] = ((0, -1), (-1, 0), (-1, -1), (-1, 1))
"""Samples of the same plane whose difference from the reference tells about the scale."""

AROUND: tuple[Place, ...] = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
"""Samples of all planes of the reference."""
WIDELY: tuple[Place, ...] = tuple((dy, dx) for dy in range(-2, 3) for dx in range(-2, 3))
"""Samples of earlier planes."""
CROSS: tuple[Place, ...] = ((0, -1), (-1, 0), (0, 1), (1, 0))

REACH = 2
"""Rows and columns that earlier planes and the reference are looked at around a sample."""

LG = 64
"""Units of a logarithm in an octave."""

_LEVELS, _UNITS = 0.5, 8.0  # added to differences and to errors before a logarithm


def lg(x: Exact) -> Exact:
    """Return 64 log2(x), linear between powers of two and rounded down, for x >= 1/2: the same on every machine."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.asarray(np.floor((exponent + 2 * mantissa - 2) * LG))


class Known(NamedTuple):
    """What is known of a plane before its first sample, [h, w] each."""

    values: list[Exact]
    """That its samples are predicted from; the first is 1."""
    activity: list[Exact]
    """Logarithms that their scales are predicted from."""


def known(size: Place, planes: list[Exact], errors: list[Exact], reference: list[Exact]) -> Known:
    """Return what earlier planes and the reference tell of the next plane.

    Args:
        size: h and w.
        planes: the earlier ones, [h, w] each.
        errors: of their predictions, in 1 / `FRACTION` levels.
        reference: its planes in `ORDER`; none without one.
    """
    values: list[Exact] = [np.ones(size)]
    activity: list[Exact] = []
    for plane, error in zip(planes, errors, strict=True):
        values += shifted(plane, WIDELY)
        magnitude = abs(error)
        activity += [lg(magnitude + _UNITS), lg(np.sum(shifted(magnitude, CROSS), axis=0) + _UNITS)]
        activity += [lg(abs(near - plane) + _LEVELS) for near in shifted(plane, CROSS)]
    for plane in reference:
        values += shifted(plane, AROUND)
    if reference:
        own = reference[len(planes)]
        left, above, right, below = shifted(own, CROSS)
        differences = right - left, below - above, 4 * own - above - below - left - right
        activity += [lg(abs(each) + _LEVELS) for each in differences]
    return Known(values, activity)


def shifted(plane: Exact, places: tuple[Place, ...]) -> list[Exact]:
    """Return the planes that have at each sample the one at a place from it; beyond the plane its edge is repeated."""
    (height, width), padded = plane.shape, np.pad(plane, REACH, "edge")
    return [padded[REACH + dy :, REACH + dx :][:height, :width] for dy, dx in places]


def activity(samples: Exact, missed: Exact, matched: Exact | None) -> Exact:
    """Return what the samples before tell about the scales of n samples: logarithms [count, n], the first of 2.

    Args:
        samples: those at `OWN`, [places, n].
        missed: the magnitudes of the errors at `MISSED`, likewise.
        matched: the differences from the reference at `MATCHED`, likewise; None without one.
    """
    west, far_west, _, _, north_west, north, north_east, _, _, far_north, *_ = samples
    differences = [
        abs(one - other)
        for one, other in (
            *((west, north_west), (north, north_west), (north, north_east)),
            *((west, north), (west, far_west), (north, far_north)),
        )
    ]
    differences.append(sum(differences))
    if matched is not None:
        west, north, north_west, north_east = matched
        differences.append(abs(west - north) + abs(west - north_west) + abs(north - north_east))
    errors = [*missed[:6], *(missed[:count].sum(axis=0) for count in (4, 10, 12))]
    magnitudes = np.stack([np.full(len(west), float(LG)), *differences, *errors])
    magnitudes[1 : 1 + len(differences)] += _LEVELS
    magnitudes[1 + len(differences) :] += _UNITS
    magnitudes[1:] = lg(magnitudes[1:])
    return magnitudes


class Counts(NamedTuple):
    """How many coefficients a plane has."""

    values: int
    """Beyond those of `OWN`."""
    own_activity: int
    activity: int
    """Beyond those."""


def counts(earlier: int, with_reference: bool) -> Counts:
    """Return the numbers for a plane after so many earlier ones."""
    values = 1 + earlier * len(WIDELY) + 3 * len(AROUND) * with_reference
    return Counts(values, 17 + with_reference, 6 * earlier + 3 * with_reference)


def wavefronts(height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Yield the number t of each wavefront with its first and last row: samples (y, x) of x + 2 y = t."""
    for t in range(width + 2 * (height - 1)):
        yield t, max(0, -(-(t - width + 1) // 2)), min(height - 1, t // 2)
