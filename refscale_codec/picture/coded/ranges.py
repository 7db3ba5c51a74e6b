"""Which range of values of a band is coded: one that is declared, or that of the band's samples but for a few extremes.

Quality refers to the coded range, so one hot pixel in a range of its own would take the detail of all others. A few
samples far from the rest are therefore left out of the range, and kept exactly, and so are *fill values*: values that
many samples have, far from all others, such as a collar of 0 or saturation. What a picture loses in other ways is told:
samples that are clipped to a declared range, and a band whose samples lie in a sliver of the coded range.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import UsageError
from refscale_codec.picture.levels import FULL, Mask, Number, limits_of, number, step

Declared = tuple[Number, Number] | Mapping[int, tuple[Number, Number]]
"""Lowest and highest value of all bands, or of some, by their number from 1."""

_EXTREMES = ((1000, 1 / 2), (65, 1 / 10))  # one in so many samples, if the range of the rest is at most this part
_FEW = 500  # of so many samples, one may lie beyond a declared range and is kept exactly; or have a fill value
LEAST_PER_KEPT = 64
"""Samples of a picture, at least, for each that is kept exactly: a limit of the file format."""

_MANY = 16  # samples, at least, that have a fill value
_FILLS = 4  # fill values of a band, at most
_USED = 0.95  # the share of samples whose range is compared with what is coded
_SLIVER = 0.1  # of the coded range: less is told
_CLIPPED = 0.02  # share of a reference's samples that may be clipped to the picture's range
_ENDS = 0.05  # the quantile at each end that the spread of samples is taken between
_SAME_SCALE = 1.25  # a ratio of spreads up to this is taken for change in the scene, not for another unit
_SAMPLE = 1 << 22  # samples of a band that quantiles are taken from


def text(value: Any) -> str:
    """Return a value for messages; whole numbers up to those of 32 bits without a fraction or an exponent."""
    whole = isinstance(value, int) or abs(value) < 1 << 32 and value == int(value)
    return str(int(value)) if whole else f"{value:.6g}"


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
            raise UsageError(
                f"the range of values must rise within {text(lowest)}..{text(highest)}, not {text(low)},{text(high)}"
            )
        if dtype.kind != "f" and (int(low), int(high)) != (low, high):
            raise UsageError(
                f"the range of values must be of whole numbers for this picture, not {text(low)},{text(high)}"
            )
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
    beyond, share = _beyond(plane, valid, low, high)
    return Chosen(low, high, beyond) if 0 < share <= 1 / _FEW else Chosen(low, high, None, share)


def _beyond(plane: NDArray[Any], valid: Mask | None, low: Number, high: Number) -> tuple[Mask, float]:
    """Return which samples count and lie beyond a range, and their share of those that count."""
    beyond = (plane < low) | (plane > high)
    if valid is not None:
        beyond &= valid
    return beyond, int(beyond.sum()) / max(1, plane.size if valid is None else int(valid.sum()))


def measured(plane: NDArray[Any], valid: Mask | None) -> Chosen:
    """Return the range of a band's samples, without extremes if few of them make it much wider, see `_EXTREMES`.

    Arguments are those of `within`. A band without valid samples has the range 0..0.
    """
    low, high = extent(plane, valid)
    limits = _limits(_counted(plane, valid), low, high)
    if limits is not None:
        kept, share = _beyond(plane, valid, *limits)
        if 0 < share <= 1 / LEAST_PER_KEPT:
            return Chosen(*extent(plane, ~kept if valid is None else valid & ~kept), kept)
    return Chosen(low, high)


def fills(plane: NDArray[Any], valid: Mask | None) -> list[Number]:
    """Return the fill values of a band: those of many samples that lie far from all others.

    Each is at least as far from what is left as that is wide, but for a few extremes: without it, the range is at most
    half as wide.

    Arguments are those of `within`.
    """
    return _fills(_counted(plane, valid))


class _Counted(NamedTuple):
    """The samples of a band, or some of them."""

    values: NDArray[Any]
    """Their values, which rise, each once."""
    counts: NDArray[np.int64]
    """How many have it."""

    def without(self, values: list[Number]) -> "_Counted":
        """Return those with other values."""
        others = ~np.isin(self.values, values)
        return _Counted(self.values[others], self.counts[others])

    def between(self, low: Number, high: Number) -> "_Counted":
        """Return those from one value to another."""
        inside = (self.values >= low) & (self.values <= high)
        return _Counted(self.values[inside], self.counts[inside])

    @property
    def ends(self) -> tuple[Number, Number]:
        """Lowest and highest value."""
        return number(self.values[0]), number(self.values[-1])


def _counted(plane: NDArray[Any], valid: Mask | None) -> _Counted:
    """Return the samples that count; of a large plane those on a grid."""
    samples = _sorted(plane, valid)
    starts = np.flatnonzero(np.append(True, samples[1:] != samples[:-1])[: len(samples)])
    return _Counted(samples[starts], np.diff(starts, append=len(samples)))


def _limits(found: _Counted, low: Number, high: Number) -> tuple[Number, Number] | None:
    """Return limits beyond which samples of a band from low to high are extremes; None if there are none."""
    samples = int(found.counts.sum())
    for one_in, part in _EXTREMES:
        if samples >= one_in:
            first, last = _narrowest(found, samples // one_in)
            margin = (last - first) / 4
            if min(high, last + margin) - max(low, first - margin) <= part * (high - low):
                return first - margin, last + margin
    return None


def _narrowest(found: _Counted, beyond: int) -> tuple[Number, Number]:
    """Return the ends of the narrowest interval with all samples but for at most so many."""
    up_to = np.cumsum(found.counts)
    skipped = np.append(0, up_to[:-1])
    starts = np.flatnonzero(skipped <= beyond)
    ends = np.searchsorted(up_to, up_to[-1] - (beyond - skipped[starts]))
    values = found.values.astype(np.float64)
    at = int(np.argmin(values[ends] - values[starts]))
    return number(found.values[starts[at]]), number(found.values[ends[at]])


def _usual(found: _Counted) -> _Counted:
    """Return samples, of which there must be one, without a few extremes; see `_limits`."""
    limits = _limits(found, *found.ends)
    return found if limits is None else found.between(*limits)


def _fills(found: _Counted) -> list[Number]:
    enough = max(_MANY, found.counts.sum() / _FEW)
    chosen: list[Number] = []
    while more := _outermost(found, enough, _FILLS - len(chosen)):
        chosen += more
        found = found.without(more)
    return sorted(chosen)


def _outermost(found: _Counted, enough: float, most: int) -> list[Number]:
    """Return the fewest values of enough samples that are each at least as far from all others as these lie apart."""
    many = [number(value) for value in found.values[found.counts >= enough]]
    for count in range(1, min(len(many), most) + 1):
        for below in range(count + 1):
            chosen = many[:below] + many[len(many) - (count - below) :]
            rest = found.without(chosen)
            if len(rest.values):
                low, high = _usual(rest).ends
                if all(max(low - value, value - high) >= high - low for value in chosen):
                    return chosen
    return []


def extent(plane: NDArray[Any], valid: Mask | None) -> tuple[Number, Number]:
    """Return the lowest and the highest sample [h, w] that counts; zeros if none does."""
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
    """Return the range of a band of the reference: that of the picture's band, unless the reference does not fit it.

    If much would be clipped to it, or its samples spread over a sliver of what the picture's do, it is the range that
    the reference's median and the spread of its samples correspond to: values may have an offset or scale of their own,
    such as bytes beside floats, or those of Sentinel-2 before and after the processing baseline 04.00.

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
        fractions = older.dtype.kind == "f"
        low, high = (math.floor(low), math.ceil(high)) if fractions else (round(low), round(high))

    def clipped(low: Number, high: Number) -> float:
        return float(((others < low) | (others > high)).mean())

    before = clipped(*one)
    better = before > _CLIPPED and clipped(low, high) < before / 2
    return (low, high) if low < high and (better or scale < _SLIVER) else one


def sliver(band: int, plane: NDArray[Any], valid: Mask | None, low: Number, high: Number) -> str | None:
    """Return a message on a band of which nearly all samples lie in a sliver of its coded range, else None.

    Fill values and samples beyond the range do not count. The band's number is from 1; the other arguments are those of
    `within`.
    """
    counted = _counted(plane, valid)
    besides = _fills(counted)
    if len(counted.values) - len(besides) < 2:  # values of classes, say
        besides = []
    counted = counted.without(besides)
    samples = counted.counts.sum()
    counted = counted.between(low, high)
    if len(counted.values) < 2 or high <= low:
        return None
    first, last = _usual(counted).ends
    if last - first > _SLIVER * (high - low):
        first, last = _narrowest(counted, round(counted.counts.sum() * (1 - _USED)))
    part = (last - first) / (high - low)
    if first == last or part > _SLIVER:
        return None
    inside = float(counted.between(first, last).counts.sum() / samples)
    narrow, clipped = f"{text(first)},{text(last)}", "" if inside == 1 else ", but clips others"
    others = f" that are not {' or '.join(map(text, besides))}" if besides else ""
    return (
        f"band {band}: {100 * inside:.3g} % of the samples{others} lie within {text(first)}..{text(last)}, "
        f"{100 * part:.2g} % of the range {text(low)}..{text(high)} that is coded and that quality refers to; "
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
