"""Quantised coefficients of the low-res picture <-> bytes, lossless: under a fixed model instead of Huffman tables.

Coefficients come in groups, so that whole arrays are coded at once: first all DC, on grids of blocks that double their
density; then frequency by frequency, component by component, in the four phases of a 2x2 lattice of blocks. A group
knows everything before it: lower frequencies of the block and of its neighbours, from all sides, the other components,
and the neighbours of earlier phases. Weighted sums of these predict each coefficient and how far off that may be; the
two choose one of a few hundred distributions for constriction's range coder.

All arithmetic is exact: integers, or floats that hold integers, below 2^24 in single precision and 2^53 in double. So a
file decodes alike on every machine.
Weights and distributions are in `tables.npz`, fitted by `benchmarks/fit_packing.py`; they are part of the format.
"""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import constriction
import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.lrcodec.dct import coefficients
from refscale_codec.lrcodec.dct.coefficients import Levels

Integers = NDArray[np.int64]
Exact = NDArray[np.float64]  # of integers below 2^53
Short = NDArray[np.float32]  # of integers below 2^24

ONE = 4096  # weights are multiples of 1 / ONE
BINS = 48  # classes of the expected error, four an octave
FRACTIONS = 4  # classes of how far a prediction lies from its nearest level, up to a half
ESCAPE = 16  # an error of this magnitude or more is coded by its class, its bits following
_LOWEST = 7.125  # octaves below one level where the second class begins
_ROOT = 4096  # number of values of the very first DC level

_SIDES = [(-1, 0), (1, 0), (0, -1), (0, 1)]
_CORNERS = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
PHASES = [(0, 0), (1, 1), (0, 1), (1, 0)]  # (row, column) parity of blocks
_SAME = [[], _CORNERS, _SIDES, _SIDES + _CORNERS]  # neighbours of the same frequency that a phase knows
_WINDOW = 6  # frequencies below its own that a coefficient sees in neighbouring blocks, beside the lowest few
_AROUND = 8  # blocks around one
_AT_ONCE = 1024  # symbols that are handed to the range coder at once
_LARGEST_EXACT = 2.0**53
_MAGIC = 0x01  # first byte of packed levels; a JPEG has 0xFF

_BITS = constriction.stream.model.Uniform(16)
_CATEGORICAL = constriction.stream.model.Categorical(perfect=False)


class Group(NamedTuple):
    """Coefficients that are coded at once, and what they are predicted from. Amplitudes are levels times steps.

    Inputs are in pieces [j, m], so that they need not be copied together. Of m numbers, each row of blocks has the same
    share, in which the first n / rows stand for blocks of the group.
    """

    key: str  # names the weights
    kind: int  # which distributions: 0 and 1 for DC of Y and of the others, 2 and 3 for AC
    place: tuple[slice, slice, int, int]  # rows, columns, component, frequency
    shape: tuple[int, int]  # rows and columns
    step: int  # quantiser step
    base: Exact  # [m] amplitude times ONE that the weighted sum starts from
    signed: (
        list[Exact] | list[Short]
    )  # amplitudes with a weight for the prediction and one, by magnitude, for the error
    sizes: list[Exact] | list[Short]  # their magnitudes, then some that only tell the error: two constants follow
    largest: float  # no magnitude is above it

    def chosen(self, numbers: Exact) -> Exact:
        """Return those [..., n] of numbers [..., m] that stand for blocks of the group."""
        (rows, columns), (*before, m) = self.shape, numbers.shape
        return numbers.reshape(*before, rows, m // rows)[..., :columns].reshape(*before, rows * columns)


class Model(NamedTuple):
    """The content of `tables.npz`: integers."""

    mean: dict[str, Exact]  # by key, weights [j]
    spread: dict[str, Exact]  # by key, weights [j + i], none negative
    frequency: Integers  # [4, BINS * FRACTIONS, 2 * ESCAPE + 1], each row adds up to 2^16


@cache
def shipped() -> Model:
    """Return the model of the format."""
    with np.load(Path(__file__).with_name("tables.npz")) as file:
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
    dc = np.zeros((3, rows, columns))
    dc[:, 0, 0] = first * steps[:, 0]
    for group in dc_groups(dc, steps):
        ys, xs, component, _ = group.place
        levels[component, 0, ys, xs] = code(group).reshape(group.shape)
        dc[component, ys, xs] = levels[component, 0, ys, xs] * steps[component, 0]
    known = Known(dc)
    for k in range(1, max(highest) + 1):
        for component in (c for c in range(3) if k <= highest[c]):
            for phase, (row, column) in enumerate(PHASES):
                if row < rows and column < columns:
                    group = ac_group(known, steps, component, k, phase)
                    ys, xs, *_ = group.place
                    levels[component, k, ys, xs] = code(group).reshape(group.shape)
                    known.put(component, k, phase, levels[component, k, ys, xs] * np.float32(group.step))
    return levels.transpose(2, 3, 0, 1)


def dc_groups(dc: Exact, steps: Integers) -> Iterator[Group]:
    """Yield DC on grids of twice the density each: centres from four corners, then the rest from up to four sides.

    `dc`, amplitudes [3, rows, columns], must hold each group before the next one is asked for.
    """
    _, rows, columns = dc.shape
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
            place = slice(top, None, 2 * s), slice(left, None, 2 * s)
            off: list[Exact] = []  # errors of the components before
            for component in range(3):
                values, given = _at(dc[component], known, ys, xs, [(s * dy, s * dx) for dy, dx in around])
                count = given.sum(axis=0)
                base = (values * given).sum(axis=0) * ONE // count
                apart = (abs(values * ONE - base) * given).sum(axis=0) // (count * ONE)
                key = f"dc {component} {min(level, 3)} {min(part, 1)}"
                yield Group(
                    key,
                    min(component, 1),
                    (*place, component, 0),
                    (len(ys), len(xs)),
                    int(steps[component, 0]),
                    base,
                    list(off),
                    [*(abs(error) for error in off), apart[None]],
                    _LARGEST_EXACT,
                )
                off.append((dc[component][place].ravel() - base // ONE)[None])
            known[place] = True


def _at(
    plane: Exact, known: NDArray[np.bool_], ys: Integers, xs: Integers, offsets: list[tuple[int, int]]
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


class Known:
    """What is known when a frequency is coded: amplitudes of AC so far, and how DC differs from block to block.

    For each component, frequency and phase there is a plane of amplitudes and one of magnitudes; planes of DC hold in
    place of a frequency what one neighbour has more than the block. So what lies beside the blocks of a phase is a
    part of another phase's plane, and sums over it need no copies. Around the blocks is a margin of one that repeats
    the outermost blocks.
    """

    def __init__(self, dc: Exact) -> None:
        """Begin with the amplitudes of DC, [3, rows, columns]."""
        _, self.rows, self.columns = dc.shape
        self.pitch = (self.columns + 3) // 2
        size = ((self.rows + 3) // 2 + 1) * self.pitch  # a row to spare, since parts begin anywhere in a row
        self.planes = np.zeros((2, 3, _AROUND + 63, 2, 2, size), np.float32)
        self.largest = 0.0  # of all magnitudes
        padded = np.pad(dc.astype(np.float32), ((0, 0), (1, 1), (1, 1)), "edge")
        within = padded[:, 1:-1, 1:-1]
        for i, (dy, dx) in enumerate(_SIDES + _CORNERS):
            apart = padded[:, 1 + dy : 1 + dy + self.rows, 1 + dx : 1 + dx + self.columns] - within
            for (row, column), component in product(PHASES, range(3)):
                self._put(component, i, row, column, apart[component, row::2, column::2])

    def _put(self, component: int, index: int, row: int, column: int, numbers: Short) -> None:
        y, x = 1 + row, 1 + column
        height, width = numbers.shape
        planes = self.planes[:, component, index, y % 2, x % 2].reshape(2, -1, self.pitch)
        cells = planes[:, y // 2 : y // 2 + height, x // 2 : x // 2 + width]
        cells[0] = numbers
        np.abs(numbers, out=cells[1])
        self.largest = max(self.largest, float(cells[1].max(initial=0)))

    def put(self, component: int, k: int, phase: int, amplitudes: Short) -> None:
        """Put in a frequency of a phase, [rows, columns] of its blocks."""
        self._put(component, _AROUND - 1 + k, *PHASES[phase], amplitudes)
        planes = self.planes[:, component, _AROUND - 1 + k].reshape(2, 2, 2, -1, self.pitch)
        low, wide = 1 + self.rows, 1 + self.columns  # the margins; they go with the outermost blocks of any phase
        planes[:, 0, :, 0] = planes[:, 1, :, 0]
        planes[:, low % 2, :, low // 2] = planes[:, self.rows % 2, :, self.rows // 2]
        planes[:, :, 0, :, 0] = planes[:, :, 1, :, 0]
        planes[:, :, wide % 2, :, wide // 2] = planes[:, :, self.columns % 2, :, self.columns // 2]

    def beside(self, component: int, first: int, end: int, phase: int, offset: tuple[int, int] = (0, 0)) -> Short:
        """Return frequencies from `first` to before `end` of the block at an offset from each of a phase.

        It is a view, amplitudes and magnitudes, [2, end - first, m] as in `Group`.
        """
        (row, column), (dy, dx) = PHASES[phase], offset
        y, x = 1 + row + dy, 1 + column + dx
        start = y // 2 * self.pitch + x // 2
        m = len(range(row, self.rows, 2)) * self.pitch
        return self.planes[:, component, _AROUND - 1 + first : _AROUND - 1 + end, y % 2, x % 2, start : start + m]

    def slopes(self, component: int, phase: int) -> Short:
        """Return what the blocks around have more of DC than each of a phase, a view as `beside`, [2, 8, m]."""
        return self.beside(component, 1 - _AROUND, 1, phase)


def ac_group(known: Known, steps: Integers, component: int, k: int, phase: int) -> Group:
    """Return a frequency of a component in one phase of the lattice."""
    row, column = PHASES[phase]
    near, low = max(1, k - _WINDOW), max(1, min(k - _WINDOW, 6))
    parts = [known.beside(component, 1, k, phase), known.slopes(component, phase)]
    for offset in _SIDES:
        parts += [known.beside(component, near, k, phase, offset), known.beside(component, 1, low, phase, offset)]
    parts += [known.beside(component, k, k + 1, phase, offset) for offset in _SAME[phase]]
    parts += [known.beside(other, k, k + 1, phase) for other in range(component)]
    parts = [part for part in parts if part.shape[1]]
    plain = [known.beside(other, k, k + 1, phase, offset) for other in range(component) for offset in _SIDES]
    return Group(
        f"ac {component} {k} {phase}",
        2 + min(component, 1),
        (slice(row, None, 2), slice(column, None, 2), component, k),
        (len(range(row, known.rows, 2)), len(range(column, known.columns, 2))),
        int(steps[component, k]),
        np.zeros(parts[0].shape[2]),
        [amplitudes for amplitudes, _ in parts],
        [magnitudes for _, magnitudes in parts + plain],
        known.largest,
    )


@cache
def _classes() -> Integers:
    """Return the class of each expected error, in levels times ONE; the last one's class is that of all larger ones."""
    starts = [round(ONE * 2 ** (i / 4 - _LOWEST)) for i in range(BINS - 1)]
    return np.searchsorted(starts, np.arange(starts[-1] + 1), side="right")


class Context(NamedTuple):
    """Where a coefficient is expected, and how surely."""

    nearest: Integers  # [n] level
    sign: Integers  # [n] 1 or -1: errors are turned so that the prediction lies above the nearest level
    row: Integers  # [n] of the distributions


def context(group: Group, mean: Exact, spread: Exact) -> Context:
    """Return the contexts of a group under its weights."""
    one = ONE * group.step
    moved = group.base + _weighed(mean, group, group.signed)
    predicted = group.chosen(moved).astype(np.int64)
    nearest = (2 * predicted + one) // (2 * one)
    beyond = predicted - nearest * one
    of_step, of_constant = spread[-2:]
    error = _weighed(spread[:-2], group, group.sizes) + of_step * group.step + of_constant * 16
    classes = _classes()
    size = classes[np.minimum(group.chosen(error).astype(np.int64) // group.step, len(classes) - 1)]
    fraction = np.minimum(2 * FRACTIONS * abs(beyond) // one, FRACTIONS - 1)
    return Context(nearest, np.where(beyond < 0, -1, 1), size * FRACTIONS + fraction)


def _weighed(weights: Exact, group: Group, inputs: list[Exact] | list[Short]) -> Exact:
    """Return the sum [m] of inputs [j, m] under their weights, made in single precision if no sum can leave that."""
    short = abs(weights).sum() * group.largest < 1 << 24
    weights = weights.astype(np.float32) if short else weights
    total, at = np.zeros(group.base.size, weights.dtype), 0
    for piece in inputs:
        total += weights[at : at + len(piece)] @ piece
        at += len(piece)
    return total.astype(np.float64)


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
        values = levels[ys, xs, component, k].ravel().astype(np.int64)
        known = context(group, model.mean[group.key], model.spread[group.key])
        off = (values - known.nearest) * known.sign
        symbols = np.clip(off, -ESCAPE, ESCAPE) + ESCAPE
        for part in _parts(len(values)):
            coder.encode(symbols[part].astype(np.int32), _CATEGORICAL, probability[group.kind].take(known.row[part], 0))
        for far in abs(off[abs(off) >= ESCAPE]) - ESCAPE:
            bits = int(far + 1).bit_length() - 1
            coder.encode(bits, _BITS)
            if bits:
                coder.encode(int(far + 1) - (1 << bits), constriction.stream.model.Uniform(1 << bits))
        return values

    rows, columns = levels.shape[:2]
    walk(rows, columns, coefficients.steps(quality), first, highest, code)
    return bytes([_MAGIC, *highest]) + bytes(coder.get_compressed().astype("<u4").tobytes())


def _parts(n: int) -> Iterator[slice]:
    """Yield parts of a group whose distributions stay in the processor's cache."""
    return (slice(start, start + _AT_ONCE) for start in range(0, n, _AT_ONCE))


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
        off = np.empty_like(known.nearest)
        for part in _parts(len(off)):
            off[part] = coder.decode(_CATEGORICAL, probability[group.kind].take(known.row[part], 0))
        off -= ESCAPE
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
