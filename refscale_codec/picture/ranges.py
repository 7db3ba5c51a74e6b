"""Which range of values of a band is coded: one that is declared, or that of the band's samples but for a few extremes.

Quality refers to the coded range, so one hot pixel in a range of its own would take the detail of all others. A few
samples far from the rest are therefore left out of the range, and kept exactly. What a picture loses in other ways is
told: samples that are clipped to a declared range, and a band whose samples lie in a sliver of the coded range.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import UsageError
from refscale_codec.picture.levels import FULL, Mask, Number, limits_of, number, step

Declared = tuple[Number, Number] | Mapping[int, tuple[Number, Number]]
"""Lowest and highest value of all bands, or of some, by their number from 1."""

_RARE = 2000  # of so many samples, one at each end may be an extreme
_KEPT = 500  # of so many samples, one at most is kept exactly
_MANY = 16  # samples, at least, that have a fill value
_USED = 0.95  # the share of samples whose range is compared with what is coded
_SLIVER = 0.1  # of the coded range: less is told
_CLIPPED = 0.02  # share of a reference's samples that may be clipped to the picture's range
_ENDS = 0.05  # the quantile at each end that the spread of samples is taken between
_SAME_SCALE = 1.25  # a ratio of spreads up to this is taken for change in the scene, not for another unit
_SAMPLE = 1 << 22  # samples of a band that quantiles are taken from


def text(value: Any) -> str:
    """Return a value for messages."""
    return str(value) if isinstance(value, int) else f"{value:.6g}"


class Chosen(NamedTuple):
    """The range of a band."""

    low: Number
    """The value that is coded as level 0."""
    high: Number
    """The value that is coded as the highest level."""
    kept: Mask | None = None
    """[h, w]: samples beyond the range that are kept exactly; None for none."""
    clipped: float = 0
    """Share of the samples that are clipped to the range."""


def by_band(declared: Declared | None, dtype: np.dtype[Any], bands: int) -> dict[int, tuple[Number, Number]]:
    """Return the declared ranges by band, counted from 0.

    Raises:
        UsageError: there is no such band, or a range is not one of the type.
    """
    if declared is None:
        return {}
    if not isinstance(declared, Mapping):
        declared = dict.fromkeys(range(1, bands + 1), declared)
    lowest, highest = limits_of(dtype)
    for band, (low, high) in declared.items():
        if not 1 <= band <= bands:
            raise UsageError(f"a range is given for band {band}, but the picture has {bands}")
        if not lowest <= low < high <= highest:
            raise UsageError(f"the range of values must rise within {text(lowest)}..{text(highest)}, not {low},{high}")
        if dtype.kind != "f" and (int(low), int(high)) != (low, high):
            raise UsageError(f"the range of values must be of whole numbers for this picture, not {low},{high}")
    cast = dtype.type
    return {band - 1: (number(cast(low)), number(cast(high))) for band, (low, high) in declared.items()}


def within(plane: NDArray[Any], valid: Mask | None, low: Number, high: Number) -> Chosen:
    """Return a declared range of a band; samples beyond it are kept exactly if they are few, and else clipped.

    Args:
        plane: [h, w] the samples.
        valid: [h, w] which of them count; None for all.
        low: lowest value of the range.
        high: highest value of the range.
    """
    beyond = (plane < low) | (plane > high)
    if valid is not None:
        beyond &= valid
    count, whole = int(beyond.sum()), plane.size if valid is None else int(valid.sum())
    if not count:
        return Chosen(low, high)
    return Chosen(low, high, beyond) if count * _KEPT <= whole else Chosen(low, high, None, count / whole)


def measured(plane: NDArray[Any], valid: Mask | None) -> Chosen:
    """Return the range of a band's samples, without a few extremes if the rest then takes at most half of it.

    Arguments are those of `within`. A band without valid samples has the range 0..0.
    """
    low, high = _extent(plane, valid)
    sample = _sorted(plane, valid)
    rare = len(sample) // _RARE
    if rare:
        first, last = number(sample[rare]), number(sample[-1 - rare])
        margin = (last - first) / 4
        if 2 * (min(high, last + margin) - max(low, first - margin)) <= high - low:
            chosen = within(plane, valid, first - margin, last + margin)
            if chosen.kept is not None:
                inside = ~chosen.kept if valid is None else valid & ~chosen.kept
                return Chosen(*_extent(plane, inside), chosen.kept)
    return Chosen(low, high)


def fill(bands: list[tuple[NDArray[Any], Mask | None]]) -> Number | None:
    """Return the value that many samples have and that is far from all others in most bands; None if there is none.

    It is a value of at least `_MANY` samples, and one in `_KEPT`, without which the range is at most half as wide.

    Args:
        bands: of each, arguments of `measured`.
    """
    found: list[Number] = []
    for plane, valid in bands:
        low, high, *_ = measured(plane, valid)
        for value in {low, high} if low < high else ():
            same = plane == value if valid is None else valid & (plane == value)
            others = ~same if valid is None else valid & ~same
            count, rest_count = int(same.sum()), int(others.sum())
            if rest_count and count >= max(_MANY, (count + rest_count) / _KEPT):
                rest = measured(plane, others)
                if 2 * (rest.high - rest.low) <= high - low:
                    found.append(value)
    return max(sorted(set(found)), key=found.count, default=None)


def _extent(plane: NDArray[Any], valid: Mask | None) -> tuple[Number, Number]:
    if valid is None:
        return number(plane.min()), number(plane.max())
    if not valid.any():
        return number(plane.dtype.type(0)), number(plane.dtype.type(0))
    lowest, highest = limits_of(plane.dtype)
    return number(plane.min(initial=highest, where=valid)), number(plane.max(initial=lowest, where=valid))


def _sorted(plane: NDArray[Any], valid: Mask | None) -> NDArray[Any]:
    """Return the samples that count, sorted; of a large plane those on a grid."""
    apart = max(1, round((plane.size / _SAMPLE) ** 0.5))
    grid = plane[::apart, ::apart]
    return np.sort(grid.ravel() if valid is None else grid[valid[::apart, ::apart]])


def of_reference(
    plane: NDArray[Any], valid: Mask | None, older: NDArray[Any], older_valid: Mask | None, one: tuple[Number, Number]
) -> tuple[Number, Number]:
    """Return the range of a band of the reference: that of the picture's band, unless much would be clipped to it.

    Then it is the range that the reference's median and the spread of its samples correspond to: values may have an
    offset or scale of their own, such as those of Sentinel-2 before and after the processing baseline 04.00.

    Args:
        plane: [h, w] the band of the picture.
        valid: [h, w] which of its samples count; None for all.
        older: [h, w] the same of the reference.
        older_valid: likewise.
        one: the range of the picture's band.
    """
    mine, others = (_sorted(*pair).astype(np.float64) for pair in ((plane, valid), (older, older_valid)))
    if not len(mine) or not len(others):
        return one
    ends = [np.quantile(samples, (_ENDS, 0.5, 1 - _ENDS)) for samples in (mine, others)]
    widths = [float(quantiles[2] - quantiles[0]) for quantiles in ends]
    scale = widths[1] / widths[0] if min(widths) > 0 else 1.0
    if 1 / _SAME_SCALE < scale < _SAME_SCALE:
        scale = 1.0
    middle, there = float(ends[0][1]), float(ends[1][1])
    low, high = (there + scale * (value - middle) for value in one)
    if plane.dtype.kind != "f":
        low, high = round(low), round(high)

    def clipped(low: Number, high: Number) -> float:
        return float(((others < low) | (others > high)).mean())

    before = clipped(*one)
    return (low, high) if before > _CLIPPED and clipped(low, high) < before / 2 else one


def sliver(band: int, plane: NDArray[Any], valid: Mask | None, low: Number, high: Number) -> str | None:
    """Return a message on a band of which nearly all samples lie in a sliver of its coded range, else None.

    The band's number is from 1; the other arguments are those of `within`.
    """
    sample = _sorted(plane, valid)
    if not len(sample) or sample[0] == sample[-1]:
        return None
    if high <= low:
        return None
    first, last, *_ = measured(plane, valid)
    if last - first > _SLIVER * (high - low):
        beyond = round(len(sample) * (1 - _USED))
        ends = sample.astype(np.float64)
        at = int(np.argmin(ends[len(ends) - 1 - beyond :] - ends[: beyond + 1]))  # the narrowest that holds so many
        first, last = number(sample[at]), number(sample[at + len(sample) - 1 - beyond])
    part = (last - first) / (high - low)
    if first == last or part > _SLIVER:
        return None
    inside = float(((sample >= first) & (sample <= last)).mean())
    narrow, clipped = f"{text(first)},{text(last)}", "" if inside == 1 else ", but clips others"
    return (
        f"band {band}: {100 * inside:.3g} % of the samples lie within {text(first)}..{text(last)}, {100 * part:.2g} % "
        f"of the range {text(low)}..{text(high)} that is coded and that quality refers to; "
        f"--range {band}:{narrow} (value_range in Python) codes these finer{clipped}"
    )


def losses(chosen: list[Chosen], dtype: np.dtype[Any]) -> list[str]:
    """Return messages on what the ranges of a picture's bands lose, and keep, of its samples."""
    found = [
        f"band {band}: {100 * one.clipped:.3g} % of the samples lie beyond the range "
        f"{text(one.low)}..{text(one.high)}: clipped"
        for band, one in enumerate(chosen, start=1)
        if one.clipped
    ]
    if count := sum(int(one.kept.sum()) for one in chosen if one.kept is not None):
        found.append(f"samples far beyond the range of their band, kept exactly: {count:,}")
    widest, band = max((step(one.low, one.high), -band) for band, one in enumerate(chosen, start=1))
    if widest > (0 if dtype.kind == "f" else 1):
        found.append(
            f"values are coded in {FULL + 1:,} levels of each band's range: an error of up to {text(widest / 2)} "
            f"(band {-band}) before lossy coding"
        )
    return found
