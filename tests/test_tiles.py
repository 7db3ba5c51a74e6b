"""Tiles cover a picture once, are padded by their halo, and fit the memory that is allowed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale_codec.errors import UsageError
from refscale_codec.picture import tiles
from refscale_codec.picture.tiles import STEP, Box

sides = st.integers(1, 400)
multiples = st.integers(2, 20).map(lambda count: STEP * count)


@given(height=sides, width=sides, side=multiples, halo=st.integers(0, 6).map(lambda count: STEP * count))
def test_tiles_cover_the_picture_once_and_are_about_equal(height: int, width: int, side: int, halo: int) -> None:
    covered = np.zeros((height, width), np.uint8)
    for tile, padded in tiles.grid(height, width, side, halo):
        covered[tile.slices] += 1
        assert tile.top % STEP == tile.left % STEP == 0
        assert max(tile.height, tile.width) <= side
        assert padded == Box(
            max(0, tile.top - halo),
            max(0, tile.left - halo),
            min(height, tile.bottom + halo),
            min(width, tile.right + halo),
        )
    assert (covered == 1).all()
    for length in (height, width):
        lengths = np.diff(tiles._edges(length, side, STEP))
        assert len(lengths) == -(-length // side)
        assert lengths.max() - lengths.min() < 2 * STEP


@given(a=st.tuples(*[sides] * 4), b=st.tuples(*[sides] * 4))
def test_what_boxes_share_is_in_both(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    one, other = (Box(y, x, y + height, x + width) for y, x, height, width in (a, b))
    cells = set(range(one.top, one.bottom)) & set(range(other.top, other.bottom))
    columns = set(range(one.left, one.right)) & set(range(other.left, other.right))
    shared = one.overlap(other)
    assert shared == other.overlap(one)
    if not cells or not columns:
        assert shared is None
    else:
        assert shared == Box(min(cells), min(columns), max(cells) + 1, max(columns) + 1)
        assert (shared.within(one).height, shared.within(one).width) == (len(cells), len(columns))


def test_a_coarser_box_holds_all_of_the_finer() -> None:
    assert Box(16, 32, 48, 71).reduced(8) == Box(2, 4, 6, 9)


@given(height=sides, width=sides, more=st.integers(0, 1 << 33))
def test_more_memory_gives_a_larger_tile_and_too_little_says_how_much_it_takes(
    height: int, width: int, more: int
) -> None:
    with pytest.raises(UsageError, match=rf"{width}x{height} pixels takes at least \d+M") as caught:
        tiles.largest_within(0, height, width)
    least = int(str(caught.value).partition("at least ")[2].partition("M")[0]) << 20
    with pytest.raises(UsageError):
        tiles.largest_within(least - (1 << 20), height, width)
    smallest, side = (tiles.largest_within(memory, height, width) for memory in (least, least + more))
    tiles.require_side(side)
    assert side >= smallest >= 128
    with pytest.raises(UsageError):
        tiles.largest_within(least - (1 << 20) + 5 * height * width, height, width, 8)


@given(height=sides, width=sides, depth=st.integers(3, 24))
def test_a_search_leaves_less_memory_to_tiles(height: int, width: int, depth: int) -> None:
    kept = 4 * depth * height * width
    plain = tiles.largest_within(1 << 45, height, width, depth)
    assert tiles.largest_within((1 << 45) + kept, height, width, depth, searched=True) == plain


@pytest.mark.parametrize("side", [-16, 0, 8, 500])
def test_a_side_that_is_no_multiple_is_refused(side: int) -> None:
    with pytest.raises(UsageError, match=f"multiple of 16 pixels, not {side}"):
        tiles.require_side(side)
