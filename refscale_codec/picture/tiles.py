"""The grid of tiles in which the net processes a picture; each is padded by a halo of its surroundings.

The tiles partition the picture. The net is convolutional and the influence of a pixel decays with distance, so with the
halo a tile's result equals that of the whole picture at once, up to rounding. The grid is a function of the picture's
size and the tile's side alone: a window of a picture is computed in the same tiles as the whole, and has equal pixels.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from refscale_codec.errors import UsageError

TILE = 512
"""Largest side of a tile by default, without its halo, in pixels."""

STEP = 16
"""Edges between tiles lie on multiples of it, in pixels, and so between cells of every similarity map."""

_SMALLEST = 128  # side in pixels that `largest_within` still gives: below, a tile is mostly halo
# Peak memory in bytes, rounded up from benchmarks/scenes.py: of the process, per pixel, per pixel of a padded tile
_BASE, _PIXEL, _TILE_PIXEL = 300 << 20, 32, 700
_BYTE = 14  # per byte of a pixel beyond 8-bit RGB; the first 6 include a predicted band group and its source
_SEARCHED = 4  # per byte of a pixel: what a search keeps of its best try, and a low-res picture (tests/test_work.py)
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
        """Return it on a grid that is coarser by a factor, rounded outwards at the bottom and right."""
        return Box(self.top // factor, self.left // factor, -(-self.bottom // factor), -(-self.right // factor))

    def within(self, other: "Box") -> "Box":
        """Return it in the coordinates of a box that holds it."""
        return Box(self.top - other.top, self.left - other.left, self.bottom - other.top, self.right - other.left)

    def overlap(self, other: "Box") -> "Box | None":
        """Return the intersection of two boxes, None if it is empty."""
        shared = Box(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )
        return shared if shared.height > 0 and shared.width > 0 else None

    def require_inside(self, height: int, width: int) -> None:
        """Raise UsageError for a window that is not inside a picture of this size."""
        if self.overlap(Box(0, 0, height, width)) != self:
            raise UsageError(
                f"the window of {self.width}x{self.height} pixels at {self.left},{self.top} is not inside the "
                f"picture of {width}x{height}"
            )


class Tile(NamedTuple):
    """A tile of a picture."""

    box: Box  # without the halo
    padded: Box  # with the halo, as far as the picture reaches


def require_side(tile: int) -> None:
    """Raise UsageError for a side that is not a positive multiple of `STEP`."""
    if tile < STEP or tile % STEP:
        raise UsageError(f"a tile must be a multiple of {STEP} pixels, not {tile}")


def largest_within(memory: int, height: int, width: int, depth: int = 3, *, searched: bool = False) -> int:
    """Return the largest side of a tile, in pixels, with which coding a picture takes about `memory` bytes at most.

    Args:
        memory: in bytes.
        height: of the picture, in pixels.
        width: likewise.
        depth: size of a pixel in bytes, 3 for 8-bit RGB.
        searched: whether the picture is encoded to a target.

    Raises:
        UsageError: even the smallest tile takes more.
    """
    whole = _BASE + (_PIXEL + _BYTE * max(0, depth - 3) + searched * _SEARCHED * depth) * height * width
    side = math.isqrt(max(0, memory - whole) // _TILE_PIXEL) - _MARGIN
    if side < _SMALLEST:
        least = whole + _TILE_PIXEL * (_SMALLEST + _MARGIN) ** 2
        raise UsageError(f"coding {width}x{height} pixels takes at least {-(-least >> 20)}M of memory")
    return side // STEP * STEP


def grid(height: int, width: int, side: int, halo: int, step: int = STEP) -> Iterator[Tile]:
    """Yield the tiles of a picture, row by row, of about equal size.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        side: largest side of a tile in pixels, a multiple of `step`.
        halo: in pixels, a multiple of `step`.
        step: tiles begin at multiples of it, in pixels.
    """
    rows, columns = (_edges(length, side, step) for length in (height, width))
    for top, bottom in zip(rows[:-1], rows[1:], strict=True):
        for left, right in zip(columns[:-1], columns[1:], strict=True):
            padded = Box(max(0, top - halo), max(0, left - halo), min(height, bottom + halo), min(width, right + halo))
            yield Tile(Box(top, left, bottom, right), padded)


def _edges(length: int, side: int, step: int) -> list[int]:
    count = -(-length // side)
    return [-(-i * length // (count * step)) * step for i in range(count)] + [length]
