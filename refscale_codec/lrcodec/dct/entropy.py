"""Lossless entropy coding of the low-res picture's quantised DCT coefficients, under a fixed context model.

A coefficient is its quantisation index times its step size. The coefficient scan goes by groups that are coded as
arrays: first all DC, hierarchically, on grids of blocks that double their density; then frequency by frequency,
component by component, in four polyphase passes over the blocks' rows and columns. The context of a group is all that
was coded before: lower frequencies of the block and of the blocks around it, the other components, and the same
frequency of neighbours from earlier passes. One weighted sum of these predicts the coefficient, another its expected
error; both select one of a few hundred distributions for the range coder.

All arithmetic is exact: integers, or floats that hold integers, below 2^24 in single precision and 2^53 in double. So a
file decodes the same on every machine.
Weights and distributions are in `tables.npz`, fitted by `benchmarks/fit_entropy_model.py`; they are part of the format.

The module is longer than others are: scan, contexts and coding are one description of one payload.
"""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.lrcodec.dct import coefficients
from refscale_codec.lrcodec.dct.coefficients import Indices
from refscale_codec.lrcodec.interface import Floats
from refscale_codec.rangecoder import Decoder, Encoder

Integers = NDArray[np.int64]
Exact = NDArray[np.float64]  # of integers below 2^53
Short = NDArray[np.float32]  # of integers below 2^24

ONE = 4096  # weights are multiples of 1 / ONE
BINS = 48  # classes of the expected error, four to an octave
FRACTIONS = 4  # classes of the distance between a prediction and its nearest index, 0 to 1/2
ESCAPE = 16  # errors of this magnitude or more are escaped: the excess follows
_LOWEST = 7.125  # octaves below one step where the second class of expected errors begins
_ROOT = 4096  # number of values of the first block's DC indices, coded uniformly

_SIDES = [(-1, 0), (1, 0), (0, -1), (0, 1)]
_CORNERS = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
PHASES = [(0, 0), (1, 1), (0, 1), (1, 0)]  # (row, column) parity of the blocks of each polyphase pass
_SAME = [[], _CORNERS, _SIDES, _SIDES + _CORNERS]  # neighbours whose same frequency a pass has in its context
_WINDOW = 6  # next lower frequencies of neighbouring blocks in a context, beside the lowest few
_AROUND = 8  # blocks around one
_AT_ONCE = 1024  # symbols that are passed to the range coder at once
_LARGEST_EXACT = 2.0**53
_LEAST = 2.0**-17  # probability that a length is taken of


class Group(NamedTuple):
    """Coefficients that are coded as one array of n, and their contexts.

    Inputs of the weighted sums are in pieces [j, m], so that they need not be copied together. The m columns are the
    rows of blocks one after the other; of each row, the first n / rows are blocks of the group and the rest is padding.
    """

    key: str  # names the weights
    kind: int  # which distributions: 0 and 1 for DC of Y and of the others, 2 and 3 for AC
    positions: tuple[slice, slice, int, int]  # rows, columns, component, frequency
    shape: tuple[int, int]  # rows and columns
    step: int  # quantiser step
    base: Exact  # [m] coefficient times ONE that the prediction starts from
    signed: list[Exact] | list[Short]  # coefficients, the inputs of the prediction
    sizes: (
        list[Exact] | list[Short]
    )  # inputs of the expected error: magnitudes of these, then others; two constants follow
    largest: float  # bound on all magnitudes

    def chosen(self, numbers: Exact) -> Exact:
        """Return the values [..., n] of the group's blocks among [..., m]."""
        (rows, columns), (*before, m) = self.shape, numbers.shape
        return numbers.reshape(*before, rows, m // rows)[..., :columns].reshape(*before, rows * columns)


class EntropyTables(NamedTuple):
    """The content of `tables.npz`: integers."""

    mean: dict[str, Exact]  # by key, weights [j] of the prediction
    spread: dict[str, Exact]  # by key, weights [j + i] of the expected error, none negative
    frequency: Integers  # [4, BINS * FRACTIONS, 2 * ESCAPE + 1], each row adds up to 2^16


@cache
def shipped() -> EntropyTables:
    """Return the model of the format."""
    with np.load(Path(__file__).with_name("tables.npz")) as file:
        sizes = zip(file["keys"].tolist(), file["signed"].tolist(), file["plain"].tolist(), strict=True)
        mean, spread = file["mean"].astype(np.float64), file["spread"].astype(np.float64)
        means, spreads = {}, {}
        for key, signed, plain in sizes:
            means[key], mean = mean[:signed], mean[signed:]
            spreads[key], spread = spread[: signed + plain], spread[signed + plain :]
        return EntropyTables(means, spreads, file["frequency"].astype(np.int64))


def scan(
    rows: int,
    columns: int,
    steps: Integers,
    first: Integers,
    highest: list[int],
    code: Callable[[Group], Integers],
) -> Indices:
    """Run the coefficient scan, for encoding and decoding, and return all indices.

    Args:
        rows: of blocks.
        columns: of blocks.
        steps: quantiser steps [3, 64].
        first: the DC indices [3] of the first block.
        highest: for each component the highest frequency that occurs; those above are zero and omitted.
        code: called with each group in turn; encodes or decodes it, and returns its indices [n].
    """
    indices = np.zeros((3, 64, rows, columns), np.int16)
    indices[:, 0, 0, 0] = first
    dc = np.zeros((3, rows, columns))
    dc[:, 0, 0] = first * steps[:, 0]
    for group in dc_groups(dc, steps):
        ys, xs, component, _ = group.positions
        indices[component, 0, ys, xs] = code(group).reshape(group.shape)
        dc[component, ys, xs] = indices[component, 0, ys, xs] * steps[component, 0]
    coded = CodedPlanes(dc)
    for k in range(1, max(highest) + 1):
        for component in (c for c in range(3) if k <= highest[c]):
            for phase, (row, column) in enumerate(PHASES):
                if row < rows and column < columns:
                    group = ac_group(coded, steps, component, k, phase)
                    ys, xs, *_ = group.positions
                    indices[component, k, ys, xs] = code(group).reshape(group.shape)
                    coded.put(component, k, phase, indices[component, k, ys, xs] * np.float32(group.step))
    return indices.transpose(2, 3, 0, 1)


def dc_groups(dc: Exact, steps: Integers) -> Iterator[Group]:
    """Yield groups of DC on grids of doubling density: centres from four corners, then the rest from up to four sides.

    `dc`, coefficients [3, rows, columns], must hold each group before the next one is requested.
    """
    _, rows, columns = dc.shape
    available = np.zeros((rows, columns), bool)
    available[0, 0] = True
    octave = (max(rows, columns) - 1).bit_length()
    for level in reversed(range(octave)):
        s = 1 << level
        starts = [((s, s), _CORNERS), ((0, s), _SIDES), ((s, 0), _SIDES)]
        for part, ((top, left), around) in enumerate(starts):
            ys, xs = np.arange(top, rows, 2 * s), np.arange(left, columns, 2 * s)
            if not len(ys) or not len(xs):
                continue
            positions = slice(top, None, 2 * s), slice(left, None, 2 * s)
            off: list[Exact] = []  # errors of the components before
            for component in range(3):
                values, present = _at(dc[component], available, ys, xs, [(s * dy, s * dx) for dy, dx in around])
                count = present.sum(axis=0)
                base = (values * present).sum(axis=0) * ONE // count
                apart = (abs(values * ONE - base) * present).sum(axis=0) // (count * ONE)
                key = f"dc {component} {min(level, 3)} {min(part, 1)}"
                yield Group(
                    key,
                    min(component, 1),
                    (*positions, component, 0),
                    (len(ys), len(xs)),
                    int(steps[component, 0]),
                    base,
                    list(off),
                    [*(abs(error) for error in off), apart[None]],
                    _LARGEST_EXACT,
                )
                off.append((dc[component][positions].ravel() - base // ONE)[None])
            available[positions] = True


def _at(
    plane: Exact, available: NDArray[np.bool_], ys: Integers, xs: Integers, offsets: list[tuple[int, int]]
) -> tuple[Exact, Exact]:
    """Return values [offsets, n] at offsets from each block, and whether they are available [offsets, n], 1 or 0."""
    values, present = [], []
    for dy, dx in offsets:
        y, x = ys + dy, xs + dx
        inside = np.outer((y >= 0) & (y < plane.shape[0]), (x >= 0) & (x < plane.shape[1]))
        cells = np.ix_(np.clip(y, 0, plane.shape[0] - 1), np.clip(x, 0, plane.shape[1] - 1))
        values.append(plane[cells].ravel())
        present.append((inside & available[cells]).ravel())
    return np.array(values, np.float64), np.array(present, np.float64)


class CodedPlanes:
    """The source of contexts: AC coefficients coded so far, and differences of DC between neighbouring blocks.

    For each component, frequency and polyphase component there is a plane of coefficients and one of magnitudes; for DC
    there is one for each of the eight neighbours, with its difference from the block. So the neighbours of a pass's
    blocks are a shifted view of another plane, and sums over them need no copies. Around the blocks is a margin of one
    that repeats the outermost blocks.
    """

    def __init__(self, dc: Exact) -> None:
        """Start with the coefficients of DC, [3, rows, columns]."""
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

    def put(self, component: int, k: int, phase: int, values: Short) -> None:
        """Store the coefficients [rows, columns] of a frequency in a pass."""
        self._put(component, _AROUND - 1 + k, *PHASES[phase], values)
        planes = self.planes[:, component, _AROUND - 1 + k].reshape(2, 2, 2, -1, self.pitch)
        low, wide = 1 + self.rows, 1 + self.columns  # the margins; they go with the outermost blocks of any phase
        planes[:, 0, :, 0] = planes[:, 1, :, 0]
        planes[:, low % 2, :, low // 2] = planes[:, self.rows % 2, :, self.rows // 2]
        planes[:, :, 0, :, 0] = planes[:, :, 1, :, 0]
        planes[:, :, wide % 2, :, wide // 2] = planes[:, :, self.columns % 2, :, self.columns // 2]

    def beside(self, component: int, first: int, end: int, phase: int, offset: tuple[int, int] = (0, 0)) -> Short:
        """Return frequencies from `first` to before `end` of the block at an offset from each block of a pass.

        It is a view of coefficients and magnitudes, [2, end - first, m] as in `Group`.
        """
        (row, column), (dy, dx) = PHASES[phase], offset
        y, x = 1 + row + dy, 1 + column + dx
        start = y // 2 * self.pitch + x // 2
        m = len(range(row, self.rows, 2)) * self.pitch
        return self.planes[:, component, _AROUND - 1 + first : _AROUND - 1 + end, y % 2, x % 2, start : start + m]

    def slopes(self, component: int, phase: int) -> Short:
        """Return how DC of the eight neighbours differs from each block of a pass, a view as `beside`, [2, 8, m]."""
        return self.beside(component, 1 - _AROUND, 1, phase)


def ac_group(coded: CodedPlanes, steps: Integers, component: int, k: int, phase: int) -> Group:
    """Return the group of a frequency of a component in one polyphase pass.

    Args:
        coded: what precedes it.
        steps: the quantiser steps [3, 64].
        component: 0..2.
        k: frequency, 1..63, in zigzag order.
        phase: index of `PHASES`.
    """
    row, column = PHASES[phase]
    near, low = max(1, k - _WINDOW), max(1, min(k - _WINDOW, 6))
    parts = [coded.beside(component, 1, k, phase), coded.slopes(component, phase)]
    for offset in _SIDES:
        parts += [coded.beside(component, near, k, phase, offset), coded.beside(component, 1, low, phase, offset)]
    parts += [coded.beside(component, k, k + 1, phase, offset) for offset in _SAME[phase]]
    parts += [coded.beside(other, k, k + 1, phase) for other in range(component)]
    parts = [part for part in parts if part.shape[1]]
    plain = [coded.beside(other, k, k + 1, phase, offset) for other in range(component) for offset in _SIDES]
    return Group(
        f"ac {component} {k} {phase}",
        2 + min(component, 1),
        (slice(row, None, 2), slice(column, None, 2), component, k),
        (len(range(row, coded.rows, 2)), len(range(column, coded.columns, 2))),
        int(steps[component, k]),
        np.zeros(parts[0].shape[2]),
        [values for values, _ in parts],
        [magnitudes for _, magnitudes in parts + plain],
        coded.largest,
    )


@cache
def _classes() -> Integers:
    """Return the class of each expected error, in steps times ONE; larger ones have the class of the last one."""
    starts = [round(ONE * 2 ** (i / 4 - _LOWEST)) for i in range(BINS - 1)]
    return np.searchsorted(starts, np.arange(starts[-1] + 1), side="right")


class Context(NamedTuple):
    """The prediction of each coefficient and its distribution."""

    nearest: Integers  # [n] index nearest to the prediction
    sign: Integers  # [n] 1 or -1: errors are mirrored so that the prediction is above the nearest index
    row: Integers  # [n] of `EntropyTables.frequency`


def context(group: Group, mean: Exact, spread: Exact) -> Context:
    """Return the contexts of a group under its weights."""
    one = ONE * group.step
    sums = group.base + _weighed(mean, group, group.signed)
    predicted = group.chosen(sums).astype(np.int64)
    nearest = (2 * predicted + one) // (2 * one)
    beyond = predicted - nearest * one
    of_step, of_constant = spread[-2:]
    error = _weighed(spread[:-2], group, group.sizes) + of_step * group.step + of_constant * 16
    classes = _classes()
    size = classes[np.minimum(group.chosen(error).astype(np.int64) // group.step, len(classes) - 1)]
    fraction = np.minimum(2 * FRACTIONS * abs(beyond) // one, FRACTIONS - 1)
    return Context(nearest, np.where(beyond < 0, -1, 1), size * FRACTIONS + fraction)


def _weighed(weights: Exact, group: Group, inputs: list[Exact] | list[Short]) -> Exact:
    """Return the weighted sum [m] of inputs [j, m], in single precision if no partial sum can exceed 2^24."""
    short = abs(weights).sum() * group.largest < 1 << 24
    weights = weights.astype(np.float32) if short else weights
    total, at = np.zeros(group.base.size, weights.dtype), 0
    for piece in inputs:
        total += weights[at : at + len(piece)] @ piece
        at += len(piece)
    return total.astype(np.float64)


def encode(indices: Indices, quality: int) -> bytes:
    """Return indices [rows, columns, 3, 64] of a quality of 1..100, each within `coefficients.LARGEST`, as bytes."""
    payload, _ = quantise_and_encode(indices, quality, 0.0)
    return payload


def quantise_and_encode(exact: Floats | Indices, quality: int, bit_worth: float) -> tuple[bytes, Indices]:
    """Choose the indices of coefficients and return them as bytes, and as they are.

    Rate-distortion optimised quantisation: of each AC coefficient, in the order of the scan, the nearest index or the
    next one towards zero is taken, whichever has the less squared error plus worth of its bits. Bits are counted under
    the model, in the context of the indices chosen before.

    Args:
        exact: coefficients in quantiser steps, [rows, columns, 3, 64], each within `coefficients.LARGEST`.
        quality: 1..100.
        bit_worth: in quantiser steps squared, 0 or more; 0 takes the nearest index always.
    """
    model, coder = shipped(), Encoder()
    probability = model.frequency / 65536
    lengths = -np.log2(np.maximum(probability, _LEAST))
    rounded = np.rint(exact).astype(np.int16)
    used = (rounded != 0).any(axis=(0, 1))  # [3, 64]
    highest = [int(np.flatnonzero(of).max(initial=0)) for of in used]
    first = rounded[0, 0, :, 0].astype(np.int64)
    for index in first:
        coder.uniform(_ROOT, int(index) + _ROOT // 2)

    def code(group: Group) -> Integers:
        ys, xs, component, k = group.positions
        values = rounded[ys, xs, component, k].ravel().astype(np.int64)
        contexts = context(group, model.mean[group.key], model.spread[group.key])

        def symbols_of(values: Integers) -> tuple[Integers, NDArray[np.int32]]:
            off = (values - contexts.nearest) * contexts.sign
            return off, (np.clip(off, -ESCAPE, ESCAPE) + ESCAPE).astype(np.int32)

        off, symbols = symbols_of(values)
        if bit_worth and k:
            wanted, lower = exact[ys, xs, component, k].ravel(), values - np.sign(values)
            cost, cost_lower = (
                (wanted - tried) ** 2 + bit_worth * lengths[group.kind][contexts.row, symbols_of(tried)[1]]
                for tried in (values, lower)
            )
            values = np.where(cost_lower < cost, lower, values)
            off, symbols = symbols_of(values)
        for part in _parts(len(values)):
            coder.symbols(probability[group.kind].take(contexts.row[part], 0), symbols[part])
        for excess in abs(off[abs(off) >= ESCAPE]) - ESCAPE:
            coder.unsigned(int(excess))
        return values

    rows, columns = rounded.shape[:2]
    indices = scan(rows, columns, coefficients.steps(quality), first, highest, code)
    return bytes(highest) + coder.payload(), indices


def _parts(n: int) -> Iterator[slice]:
    """Yield slices of a group, so that their distributions fit into the processor's cache."""
    return (slice(start, start + _AT_ONCE) for start in range(0, n, _AT_ONCE))


def decode(payload: bytes, height: int, width: int, quality: int) -> Indices:
    """Return the indices in a payload, of a picture [height, width].

    Raises:
        ContainerError: not the payload of a picture of this size and quality.
    """
    model, coder, highest = shipped(), Decoder(payload[3:], "the low-res payload"), list(payload[:3])
    if max(highest) > 63:
        raise ContainerError("the low-res payload is damaged: a frequency is out of range")
    probability = model.frequency / 65536

    def in_range(values: Integers) -> Integers:
        if abs(values).max(initial=0) > coefficients.LARGEST:
            raise ContainerError("the low-res payload is damaged: a coefficient is out of range")
        return values

    def code(group: Group) -> Integers:
        contexts = context(group, model.mean[group.key], model.spread[group.key])
        off = np.empty_like(contexts.nearest)
        for part in _parts(len(off)):
            off[part] = coder.symbols(probability[group.kind].take(contexts.row[part], 0))
        off -= ESCAPE
        for i in np.flatnonzero(abs(off) == ESCAPE):
            off[i] = np.sign(off[i]) * (ESCAPE + coder.unsigned())
        values: Integers = contexts.nearest + contexts.sign * off
        return in_range(values)

    first = in_range(np.array([coder.uniform(_ROOT) - _ROOT // 2 for _ in range(3)]))
    indices = scan(*coefficients.grid(height, width), coefficients.steps(quality), first, highest, code)
    coder.require_end()
    return indices
