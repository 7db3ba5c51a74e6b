"""Where the tiles of a picture lie: each a core, and around it a halo that the net looks at as well.

The cores cover the picture once. The net is convolutional and what it sees fades with distance: with the halo, a core
comes out as in one piece with the rest, up to rounding. The grid follows from the picture's size and the tile's alone,
so a window of a picture is made of the very tiles that the whole is made of, and has the same pixels.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from refscale_codec.errors import UsageError

TILE = 512
"""Largest side of a core by default, in pixels."""

STEP = 16
"""Edges between tiles lie on multiples of it, in pixels, and so between cells of every similarity map."""

_SMALLEST = 128  # side in pixels that `largest_within` still gives: below, a tile is mostly halo
# Peak memory in bytes, rounded up from benchmarks/scenes.py: of the process, of a pixel, of one in a tile and its halo
_BASE, _PIXEL, _TILE_PIXEL = 300 << 20, 32, 700
_BYTE = 14  # for each byte of a pixel beyond 8-bit RGB; 6 of the first are a prediction and what it is made from
_MARGIN = 2 * 64  # pixels of halo beside a tile's side, at most


class Box(NamedTuple):
    """A rectangle of pixels: rows from top to bottom, columns from left to right, both ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows, in pixels."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns, in pixels."""
        return self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, as an array takes them."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def reduced(self, factor: int) -> "Box":
        """Return it on a grid that is coarser by a factor; what is cut is kept whole at the bottom and right."""
        return Box(self.top // factor, self.left // factor, -(-self.bottom // factor), -(-self.right // factor))

    def within(self, other: "Box") -> "Box":
        """Return it in the coordinates of a box that holds it."""
        return Box(self.top - other.top, self.left - other.left, self.bottom - other.top, self.right - other.left)

    def overlap(self, other: "Box") -> "Box | None":
        """Return what two boxes share, None for nothing."""
        shared = Box(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )
        return shared if shared.height > 0 and shared.width > 0 else None


class Tile(NamedTuple):
    """A part of a picture."""

    core: Box  # what is made of it
    seen: Box  # what it is made from: the core and its halo, as far as the picture reaches


def require_side(tile: int) -> None:
    """Refuse what cannot be a tile's side: UsageError."""
    if tile < STEP or tile % STEP:
        raise UsageError(f"a tile must be a multiple of {STEP} pixels, not {tile}")


def largest_within(memory: int, height: int, width: int, depth: int = 3) -> int:
    """Return the largest tile's side with which coding a picture takes at most so many bytes, about.

    `depth` is what a pixel takes in memory, in bytes: 3 for 8-bit RGB.

    Raises:
        UsageError: even the smallest tile takes more.
    """
    whole = _BASE + (_PIXEL + _BYTE * max(0, depth - 3)) * height * width
    side = math.isqrt(max(0, memory - whole) // _TILE_PIXEL) - _MARGIN
    if side < _SMALLEST:
        least = whole + _TILE_PIXEL * (_SMALLEST + _MARGIN) ** 2
        raise UsageError(f"coding {width}x{height} pixels takes at least {-(-least >> 20)}M of memory")
    return side // STEP * STEP


def grid(height: int, width: int, side: int, halo: int, step: int = STEP) -> Iterator[Tile]:
    """Yield the tiles of a picture, row by row, about equally large.

    Args:
        height: of the picture, in pixels.
        width: likewise.
        side: largest side of a core in pixels, a multiple of `step`.
        halo: in pixels, a multiple of `step`.
        step: cores begin at multiples of it.
    """
    rows, columns = (_edges(length, side, step) for length in (height, width))
    for top, bottom in zip(rows[:-1], rows[1:], strict=True):
        for left, right in zip(columns[:-1], columns[1:], strict=True):
            seen = Box(max(0, top - halo), max(0, left - halo), min(height, bottom + halo), min(width, right + halo))
            yield Tile(Box(top, left, bottom, right), seen)


def _edges(length: int, side: int, step: int) -> list[int]:
    count = -(-length // side)
    return [-(-i * length // (count * step)) * step for i in range(count)] + [length]
