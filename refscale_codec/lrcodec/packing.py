"""Quantised coefficients of the low-res picture <-> bytes, lossless: under a fixed model instead of Huffman tables.

Coefficients come in groups, so that whole arrays are coded at once: first all DC, on grids of blocks that double their
density; then frequency by frequency, component by component, in the four phases of a 2x2 lattice of blocks. A group
knows everything before it: lower frequencies of the block and of its neighbours, from all sides, the other components,
and the neighbours of earlier phases. Weighted sums of these predict each coefficient and how far off that may be; the
two choose one of a few hundred distributions for constriction's range coder.

All arithmetic is exact: integers, or doubles that hold integers below 2^53. So a file decodes alike on every machine.
Weights and distributions are in `packing.npz`, fitted by `benchmarks/fit_packing.py`; they are part of the format.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import constriction
import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.lrcodec import coefficients
from refscale_codec.lrcodec.coefficients import Levels

Integers = NDArray[np.int64]
Exact = NDArray[np.float64]  # of integers below 2^53

ONE = 4096  # weights are multiples of 1 / ONE
BINS = 48  # classes of the expected error, four an octave
FRACTIONS = 4  # classes of how far a prediction lies from its nearest level, up to a half
ESCAPE = 16  # an error of this magnitude or more is coded by its class, its bits following
_LOWEST = 7.125  # octaves below one level where the second class begins
_ROOT = 4096  # number of values of the very first DC level

_SIDES = [(-1, 0), (1, 0), (0, -1), (0, 1)]
_CORNERS = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
_PHASES = [(0, 0), (1, 1), (0, 1), (1, 0)]  # (row, column) parity of blocks
_SAME = [[], _CORNERS, _SIDES, _SIDES + _CORNERS]  # neighbours of the same frequency that a phase knows
_WINDOW = 6  # frequencies below its own that a coefficient sees in neighbouring blocks, beside the lowest few
_AT_ONCE = 1024  # coefficients that are weighed at once
_MAGIC = 0x01  # first byte of packed levels; a JPEG has 0xFF

_BITS = constriction.stream.model.Uniform(16)
_CATEGORICAL = constriction.stream.model.Categorical(perfect=False)


class Group(NamedTuple):
    """Coefficients that are coded at once, and what they are predicted from. Amplitudes are levels times steps."""

    key: str  # names the weights
    kind: int  # which distributions: 0 and 1 for DC of Y and of the others, 2 and 3 for AC
    place: tuple[NDArray[np.int64], NDArray[np.int64], int, int]  # rows, columns, component, frequency
    step: int  # quantiser step
    base: Exact  # [n] amplitude times ONE that the weighted sum starts from
    signed: Exact  # [j, n] amplitudes, each with a weight for the prediction and one, by magnitude, for the error
    plain: Exact  # [i, n] magnitudes with a weight for the error only


class Model(NamedTuple):
    """The content of `packing.npz`: integers."""

    mean: dict[str, Exact]  # by key, weights [j]
    spread: dict[str, Exact]  # by key, weights [j + i], none negative
    frequency: Integers  # [4, BINS * FRACTIONS, 2 * ESCAPE + 1], each row adds up to 2^16


@cache
def shipped() -> Model:
    """Return the model of the format."""
    with np.load(Path(__file__).with_name("packing.npz")) as file:
        sizes = zip(file["keys"].tolist(), file["signed"].tolist(), file["plain"].tolist(), strict=True)
        mean, spread = file["mean"].astype(np.float64), file["spread"].astype(np.float64)
        means, spreads = {}, {}
        for key, signed, plain in sizes:
            means[key], mean = mean[:signed], mean[signed:]
            spreads[key], spread = spread[: signed + plain], spread[signed + plain :]
        return Model(means, spreads, file["frequency"].astype(np.int64))


def walk(
    rows: int,
    columns: int,
    steps: Integers,
    first: Integers,
    highest: list[int],
    code: Callable[[Group], Integers],
) -> Levels:
    """Go through the coefficients in their order and return them all.

    Args:
        rows: of blocks.
        columns: of blocks.
        steps: quantiser steps [3, 64].
        first: the DC levels [3] of the first block.
        highest: of each component the highest frequency that occurs; those above are zero and left out.
        code: gets each group and returns its levels [n]: a decoder finds them out, an encoder knows them.
    """
    levels = np.zeros((3, 64, rows, columns), np.int16)
    levels[:, 0, 0, 0] = first
    amplitudes = np.zeros((3, 64, rows + 2, columns + 2), np.float32)
    amplitudes[:, 0, :3, :3] = (first * steps[:, 0])[:, None, None]

    def put_in(group: Group) -> None:
        ys, xs, component, k = group.place
        found = code(group)
        levels[component, k][np.ix_(ys, xs)] = found.reshape(len(ys), len(xs))
        fill(amplitudes, group, found)

    for group in dc_groups(amplitudes, steps):
        put_in(group)
    for k in range(1, max(highest) + 1):
        for component in (c for c in range(3) if k <= highest[c]):
            for phase, (row, column) in enumerate(_PHASES):
                if row < rows and column < columns:
                    put_in(ac_group(amplitudes, steps, component, k, phase))
    return levels.transpose(2, 3, 0, 1)


def fill(amplitudes: NDArray[np.float32], group: Group, levels: Integers) -> None:
    """Put in the levels [n] of a group. Around the blocks is a margin of one that repeats the outermost blocks."""
    ys, xs, component, k = group.place
    plane = amplitudes[component, k]  # [1 + rows + 1, 1 + columns + 1]
    plane[np.ix_(ys + 1, xs + 1)] = (levels * group.step).reshape(len(ys), len(xs))
    plane[0], plane[-1] = plane[1], plane[-2]
    plane[:, 0], plane[:, -1] = plane[:, 1], plane[:, -2]


def dc_groups(amplitudes: NDArray[np.float32], steps: Integers) -> Iterator[Group]:
    """Yield DC on grids of twice the density each: centres from four corners, then the rest from up to four sides.

    `amplitudes`, as `fill` leaves them, must hold each group before the next one is asked for.
    """
    amplitudes = amplitudes[:, :, 1:-1, 1:-1]
    rows, columns = amplitudes.shape[2:]
    known = np.zeros((rows, columns), bool)
    known[0, 0] = True
    octave = (max(rows, columns) - 1).bit_length()
    for level in reversed(range(octave)):
        s = 1 << level
        starts = [((s, s), _CORNERS), ((0, s), _SIDES), ((s, 0), _SIDES)]
        for part, ((top, left), around) in enumerate(starts):
            ys, xs = np.arange(top, rows, 2 * s), np.arange(left, columns, 2 * s)
            if not len(ys) or not len(xs):
                continue
            off: list[Exact] = []  # errors of the components before
            for component in range(3):
                values, given = _at(amplitudes[component, 0], known, ys, xs, [(s * dy, s * dx) for dy, dx in around])
                count = given.sum(axis=0)
                base = (values * given).sum(axis=0) * ONE // count
                apart = (abs(values * ONE - base) * given).sum(axis=0) // (count * ONE)
                q = int(steps[component, 0])
                key = f"dc {component} {min(level, 3)} {min(part, 1)}"
                signed = np.array(off).reshape(len(off), base.size)
                yield Group(
                    key, min(component, 1), (ys, xs, component, 0), q, base, signed, _plain([apart], q, base.size)
                )
                off.append(amplitudes[component, 0][np.ix_(ys, xs)].ravel() - base // ONE)
            known[np.ix_(ys, xs)] = True


def _at(
    plane: NDArray[np.float32], known: NDArray[np.bool_], ys: Integers, xs: Integers, offsets: list[tuple[int, int]]
) -> tuple[Exact, Exact]:
    """Return values [offsets, n] at an offset from each place, and where there is one already, 1 or 0."""
    values, given = [], []
    for dy, dx in offsets:
        y, x = ys + dy, xs + dx
        inside = np.outer((y >= 0) & (y < plane.shape[0]), (x >= 0) & (x < plane.shape[1]))
        cells = np.ix_(np.clip(y, 0, plane.shape[0] - 1), np.clip(x, 0, plane.shape[1] - 1))
        values.append(plane[cells].ravel())
        given.append((inside & known[cells]).ravel())
    return np.array(values, np.float64), np.array(given, np.float64)


def _plain(magnitudes: list[Exact] | list[NDArray[np.float32]], step: int, n: int) -> Exact:
    """Return magnitudes [i, n] with two constants below them: one step, and an amplitude of 16."""
    return np.array([*magnitudes, np.full(n, step), np.full(n, 16)], np.float64)


def ac_group(amplitudes: NDArray[np.float32], steps: Integers, component: int, k: int, phase: int) -> Group:
    """Return a frequency of a component in one phase of the lattice; `amplitudes` are those so far, as in `fill`."""
    rows, columns = amplitudes.shape[2] - 2, amplitudes.shape[3] - 2
    row, column = _PHASES[phase]
    ys, xs = np.arange(row, rows, 2), np.arange(column, columns, 2)
    n = len(ys) * len(xs)

    def beside(planes: NDArray[np.float32], offset: tuple[int, int] = (0, 0)) -> NDArray[np.float32]:
        """Return of each block of the phase the one at an offset, a view."""
        top, left = 1 + offset[0], 1 + offset[1]
        return planes[..., top + row : top + rows : 2, left + column : left + columns : 2]

    own = amplitudes[component]
    low = own[1 : max(1, min(k - _WINDOW, 6))]
    parts = [beside(own[1:k]), np.stack([beside(own[0], offset) for offset in _SIDES + _CORNERS]) - beside(own[0])]
    for offset in _SIDES:
        parts += [beside(own[max(1, k - _WINDOW) : k], offset), beside(low, offset)]
    parts += [beside(own[k : k + 1], offset) for offset in _SAME[phase]]
    parts += [beside(amplitudes[:component, k])]
    signed = np.concatenate(parts, dtype=np.float64).reshape(-1, n)
    q = int(steps[component, k])
    magnitudes = [abs(beside(amplitudes[other, k], offset)).ravel() for other in range(component) for offset in _SIDES]
    return Group(
        f"ac {component} {k} {phase}",
        2 + min(component, 1),
        (ys, xs, component, k),
        q,
        np.zeros(n),
        signed,
        _plain(magnitudes, q, n),
    )


@cache
def _thresholds() -> Integers:
    """Return where the classes of the expected error begin, in levels times ONE, but for the first."""
    return np.array([round(ONE * 2 ** (i / 4 - _LOWEST)) for i in range(BINS - 1)], np.int64)


class Context(NamedTuple):
    """Where a coefficient is expected, and how surely."""

    nearest: Integers  # [n] level
    sign: Integers  # [n] 1 or -1: errors are turned so that the prediction lies above the nearest level
    row: Integers  # [n] of the distributions


def context(group: Group, mean: Exact, spread: Exact) -> Context:
    """Return the contexts of a group under its weights."""
    one, error = ONE * group.step, spread[len(mean) :] @ group.plain
    moved = group.base.copy()
    for start in range(0, len(moved), _AT_ONCE):  # which the processor's cache holds
        part = slice(start, start + _AT_ONCE)
        signed = group.signed[:, part]
        moved[part] += mean @ signed
        error[part] += spread[: len(mean)] @ abs(signed)
    predicted = moved.astype(np.int64)
    nearest = (2 * predicted + one) // (2 * one)
    beyond = predicted - nearest * one
    size = np.searchsorted(_thresholds(), error.astype(np.int64) // group.step, side="right")
    fraction = np.minimum(2 * FRACTIONS * abs(beyond) // one, FRACTIONS - 1)
    return Context(nearest, np.where(beyond < 0, -1, 1), size * FRACTIONS + fraction)


def pack(levels: Levels, quality: int) -> bytes:
    """Return levels of a quality, each within `coefficients.LARGEST`, as bytes."""
    model, coder = shipped(), constriction.stream.queue.RangeEncoder()
    probability = model.frequency / 65536
    used = (levels != 0).any(axis=(0, 1))  # [3, 64]
    highest = [int(np.flatnonzero(of).max(initial=0)) for of in used]
    first = levels[0, 0, :, 0].astype(np.int64)
    for level in first:
        coder.encode(int(level) + _ROOT // 2, constriction.stream.model.Uniform(_ROOT))

    def code(group: Group) -> Integers:
        ys, xs, component, k = group.place
        values = levels[:, :, component, k][np.ix_(ys, xs)].ravel().astype(np.int64)
        known = context(group, model.mean[group.key], model.spread[group.key])
        off = (values - known.nearest) * known.sign
        symbols = np.clip(off, -ESCAPE, ESCAPE) + ESCAPE
        coder.encode(symbols.astype(np.int32), _CATEGORICAL, probability[group.kind][known.row])
        for far in abs(off[abs(off) >= ESCAPE]) - ESCAPE:
            bits = int(far + 1).bit_length() - 1
            coder.encode(bits, _BITS)
            if bits:
                coder.encode(int(far + 1) - (1 << bits), constriction.stream.model.Uniform(1 << bits))
        return values

    rows, columns = levels.shape[:2]
    walk(rows, columns, coefficients.steps(quality), first, highest, code)
    return bytes([_MAGIC, *highest]) + bytes(coder.get_compressed().astype("<u4").tobytes())


def unpack(payload: bytes, height: int, width: int, quality: int) -> Levels:
    """Return the levels that `pack` was given, of a picture [height, width].

    Raises:
        ContainerError: the payload holds no levels of this size and quality.
    """
    highest = list(payload[1:4])
    if len(payload) < 4 or payload[0] != _MAGIC or len(payload) % 4 or max(highest) > 63:
        raise ContainerError("the low-res payload is no packed picture")
    model, coder = shipped(), constriction.stream.queue.RangeDecoder(np.frombuffer(payload, "<u4", offset=4))
    probability = model.frequency / 65536

    def in_range(values: Integers) -> Integers:
        if abs(values).max(initial=0) > coefficients.LARGEST:
            raise ContainerError("the packed low-res picture is damaged: a coefficient is out of range")
        return values

    def code(group: Group) -> Integers:
        known = context(group, model.mean[group.key], model.spread[group.key])
        symbols = coder.decode(_CATEGORICAL, probability[group.kind][known.row])
        off: Integers = symbols.astype(np.int64) - ESCAPE
        for i in np.flatnonzero(abs(off) == ESCAPE):
            bits = int(coder.decode(_BITS))
            far = (1 << bits) + (int(coder.decode(constriction.stream.model.Uniform(1 << bits))) if bits else 0) - 1
            off[i] = np.sign(off[i]) * (ESCAPE + far)
        values: Integers = known.nearest + known.sign * off
        return in_range(values)

    try:
        uniform = constriction.stream.model.Uniform(_ROOT)
        first = in_range(np.array([int(coder.decode(uniform)) - _ROOT // 2 for _ in range(3)]))
        levels = walk(*coefficients.grid(height, width), coefficients.steps(quality), first, highest, code)
        if not coder.maybe_exhausted():
            raise ContainerError("the packed low-res picture is damaged: it has bytes to spare")
        return levels
    except (AssertionError, ValueError):
        raise ContainerError("the packed low-res picture is damaged: it does not decode") from None
