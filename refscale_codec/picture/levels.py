"""Samples of any type <-> 16-bit levels: the affine map of a band's range of values.

Level 0 stands for the lowest value of the range and level `FULL` for the highest; level s is the value
(low (FULL - s) + high s) / FULL, rounded to the samples' type. Encoder and decoder must compute equal levels and values
on every machine: integers take integer arithmetic; floats take IEEE double precision, one operation at a time, where
both products are exact (24 and 16 bits of 53).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Number = int | float
"""A value of a sample: int for integer types, float for float32."""

FULL = 0xFFFF
"""The highest level."""

TYPES: tuple[np.dtype[Any], ...] = tuple(map(np.dtype, ("u1", "u2", "i2", "i1", "u4", "i4", "f4")))
"""Types of samples that are coded, in the order of their ids in the file."""

NAMES = "uint8, uint16, int16, int8, uint32, int32 and float32"
"""Their names, for messages."""

_NARROWED = (np.dtype("f2"), np.dtype("f8"))

READ = (*TYPES, *_NARROWED)
"""Types of samples that are read; floats of other sizes become float32."""

FIRST_FILL = 5
"""The mark of the first fill value, see `special`."""

QUIET_NAN = 0x7FC00000
"""The bits of the NaN that stands for all in what is hashed and decoded."""

_NOT_FINITE = (math.nan, math.inf, -math.inf)


def number(value: Any) -> Number:
    """Return a numpy scalar as int or float."""
    return value if isinstance(value, int | float) else value.item()


def limits_of(dtype: np.dtype[Any]) -> tuple[Number, Number]:
    """Return the lowest and the highest finite value of a type."""
    limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return number(limits.min), number(limits.max)


def narrowed(samples: NDArray[Any], nodata: Number | None) -> tuple[NDArray[Any], Number | None, list[str]]:
    """Return samples of any shape in a type of `READ`, their nodata value, and notes for people; floats become float32.

    A nodata value beyond float32 becomes its lowest or highest value, other samples there become infinite.
    """
    if samples.dtype not in _NARROWED:
        return samples, nodata, []
    notes, (lowest, highest) = [], limits_of(TYPES[-1])
    with np.errstate(over="ignore"):
        found = samples.astype(np.float32)
    if samples.itemsize > found.itemsize:
        notes.append("64-bit samples are kept as 32-bit floating point, to 7 decimal digits")
        beyond = np.isinf(found) & np.isfinite(samples)
        if nodata is not None and math.isfinite(nodata) and abs(nodata) > highest:
            same = samples == nodata
            beyond &= ~same
            nodata = highest if nodata > 0 else lowest
            found[same] = nodata
            notes.append(f"the nodata value becomes {nodata:g}, as 32 bits can hold it")
        if count := int(beyond.sum()):
            notes.append(f"{count:,} samples are beyond 32-bit floating point and become infinite")
    return found, nodata, notes


def can_be(dtype: np.dtype[Any], value: Any) -> bool:
    """Return whether samples of a type can have a value: a whole number, or for floats any number, once rounded."""
    lowest, highest = limits_of(dtype)
    if dtype.kind != "f":
        return hasattr(value, "__index__") and bool(lowest <= value <= highest)
    return isinstance(value, int | float | np.number) and not highest < abs(float(value)) < math.inf


def equal(samples: NDArray[Any], value: Number) -> Mask:
    """Return where samples of any shape have a value, which may be NaN; for floats it is rounded to their type."""
    if samples.dtype.kind == "f":
        value = np.float32(value)  # type: ignore[assignment]
        if np.isnan(value):
            return np.asarray(np.isnan(samples))
    return np.asarray(samples == value)


def special(dtype: np.dtype[Any], nodata: Number | None, fills: tuple[Number, ...] = ()) -> dict[int, Number]:
    """Return the values that no range holds, by their marks in the file.

    1 is the nodata value, 2 to 4 are NaN, infinity and -infinity of floats, and from 5 on there are the fill values.
    """
    values = nodata, *(_NOT_FINITE if dtype.kind == "f" else (None,) * 3), *fills
    return {mark: value for mark, value in enumerate(values, start=1) if value is not None}


def opaque(dtype: np.dtype[Any]) -> Any:
    """Return the alpha of opaque pixels, of the samples' type: its highest value, or 1 for floats."""
    return dtype.type(1 if dtype.kind == "f" else limits_of(dtype)[1])


def step(low: Number, high: Number) -> float:
    """Return the difference between the values of two levels, without rounding."""
    return (high - low) / FULL


def of_samples(plane: NDArray[Any], low: Number, high: Number) -> NDArray[np.uint16]:
    """Return the nearest levels of samples of any shape; beyond the range they are clipped to it, NaN has any level.

    The samples may be of another type than the range.
    """
    if plane.dtype.kind == "f" or isinstance(low, float):
        low, high = float(low), float(high)
        wide = (high - low) or 1.0
        off = np.fmax(np.fmin(plane, high, dtype=np.float64), low) - low
        off *= FULL
        with np.errstate(over="ignore"):  # numpy 1.26 warns of lanes that are not samples
            off /= wide
        off += 0.5
        return np.asarray(np.floor(off).astype(np.uint16))
    if plane.itemsize > 2:
        return _of_integers(plane.astype(np.int64), int(low), int(high))
    unsigned = f"u{plane.itemsize}"
    every = np.arange(1 << 8 * plane.itemsize, dtype=unsigned).view(plane.dtype).astype(np.int64)
    return np.asarray(_of_integers(every, int(low), int(high))[plane.view(unsigned)])


def _of_integers(values: NDArray[np.int64], low: int, high: int) -> NDArray[np.uint16]:
    rising = 2 * FULL * (values.clip(low, high) - low) + (high - low)
    return np.asarray((rising // max(2 * (high - low), 1)).astype(np.uint16))


def values(dtype: np.dtype[Any], low: Number, high: Number) -> NDArray[Any]:
    """Return the value of each level, [FULL + 1]; it rises, and its ends are those of the range."""
    if dtype.kind == "f":
        up = np.arange(FULL + 1, dtype=np.float64)
        return np.asarray(((float(low) * (FULL - up) + float(high) * up) / FULL).astype(dtype))
    above = 2 * (int(high) - int(low)) * np.arange(FULL + 1, dtype=np.int64)
    return np.asarray((int(low) + (above + FULL) // (2 * FULL)).astype(dtype))


def without(table: NDArray[Any], value: Number) -> NDArray[Any]:
    """Return a rising table [n] of values in which one, if it is there, is replaced by the next one above, or below."""
    same = equal(table, value)
    others = np.flatnonzero(~same)
    if len(others) in (0, len(table)):
        return table
    nearest = np.searchsorted(others, np.arange(len(table))).clip(max=len(others) - 1)
    return np.asarray(table[others[nearest]])
