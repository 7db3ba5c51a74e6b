"""The coefficient scan: quantised DCT coefficients in groups, and what the context of each group is.

The scan goes by groups that are coded as arrays: first all DC, hierarchically, on grids of blocks that double their
density; then frequency by frequency, component by component, in four polyphase passes over the blocks' rows and
columns. The context of a group is all that was coded before: lower frequencies of the block and of the blocks around
it, the other components, and the same frequency of neighbours from earlier passes.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.lrcodec.dct.coefficients import Indices

Integers = NDArray[np.int64]
Exact = NDArray[np.float64]  # of integers below 2^53
Short = NDArray[np.float32]  # of integers below 2^24

ONE = 4096  # weights are multiples of 1 / ONE
_SIDES = [(-1, 0), (1, 0), (0, -1), (0, 1)]
_CORNERS = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
PHASES = [(0, 0), (1, 1), (0, 1), (1, 0)]  # (row, column) parity of the blocks of each polyphase pass
_SAME = [[], _CORNERS, _SIDES, _SIDES + _CORNERS]  # neighbours whose same frequency a pass has in its context
_WINDOW = 6  # next lower frequencies of neighbouring blocks in a context, beside the lowest few
_AROUND = 8  # blocks around one
_LARGEST_EXACT = 2.0**53


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
