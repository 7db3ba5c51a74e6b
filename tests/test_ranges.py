"""Which range of a band is coded, and samples to levels and back: bounds, extremes that are kept, and what is told."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refscale_codec.errors import UsageError
from refscale_codec.picture import levels
from refscale_codec.picture.coded import band_section, bands, ranges
from refscale_codec.picture.image import Image

U8, U16, I16, I32, F32 = (np.dtype(name) for name in ("u1", "u2", "i2", "i4", "f4"))
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def noisy(low: float, high: float, dtype: np.dtype = U16, shape: tuple[int, int] = (64, 64)) -> NDArray[np.generic]:
    return np.random.default_rng(1).uniform(low, high, shape).astype(dtype)


def told(pixels: NDArray[np.generic], declared: ranges.Declared | None = None, **kept: object) -> list[str]:
    """Return what is told of a picture."""
    lines: list[str] = []
    bands.describe(Image(pixels if pixels.ndim == 3 else pixels[..., None], **kept), declared, lines.append)  # type: ignore[arg-type]
    return lines


# --- levels ----------------------------------------------------------------------------------------------------------


@given(st.sampled_from([dtype for dtype in levels.TYPES if dtype != F32]), st.data())
@settings(max_examples=60, deadline=None)
def test_integers_have_the_nearest_level_and_the_nearest_value(dtype: np.dtype, data: st.DataObject) -> None:
    limits = np.iinfo(dtype)
    low = data.draw(st.integers(limits.min, limits.max))
    high = data.draw(st.integers(low, limits.max))
    plane = np.linspace(limits.min, limits.max, 1000).astype(dtype)[None]
    level = levels.of_samples(plane, low, high)
    value = levels.values(dtype, low, high)
    expected = (plane.astype(float).clip(low, high) - low) / max(high - low, 1) * levels.FULL
    assert abs(level - expected).max() <= 0.5
    error = abs(value[level].astype(np.int64) - plane.astype(np.int64).clip(low, high))
    assert error.max() <= levels.step(low, high) / 2 + 0.5
    if high - low <= levels.FULL:
        assert error.max() == 0
    assert (value[0], value[-1]) == (low, high)


@given(FLOATS, FLOATS, st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_floats_come_back_within_half_a_step(one: float, other: float, shares: list[float]) -> None:
    low, high = sorted((one, other))
    plane = np.array([[low * (1 - share) + high * share for share in shares]], F32).clip(low, high)
    value = levels.values(F32, low, high)
    assert (value[0], value[-1]) == (low, high)
    assert np.all(np.diff(value.astype(float)) >= 0)
    for sample, back in zip(plane[0].tolist(), value[levels.of_samples(plane, low, high)][0].tolist(), strict=True):
        half = (Fraction(high) - Fraction(low)) / levels.FULL / 2
        rounding = Fraction(abs(back)) / 2**23 + Fraction(1, 2**149)
        assert abs(Fraction(back) - Fraction(sample)) <= half * Fraction(1 + 1e-9) + rounding


@pytest.mark.parametrize(
    ("low", "high"),
    [(1e-45, 3e-45), (-1e30, 1e-30), (-3.4028235e38, 3.4028235e38), (0.0, 1e-38), (-0.0, 0.0), (7.5, 7.5)],
)
def test_the_ends_of_any_range_of_floats_are_exact(low: float, high: float) -> None:
    low, high = float(np.float32(low)), float(np.float32(high))
    plane = np.array([[low, high, -math.inf, math.inf, math.nan]], F32)
    with np.errstate(all="raise", under="ignore"):
        level = levels.of_samples(plane, low, high)[0]
        back = levels.values(F32, low, high)[level]
    assert level[:4].tolist() == ([0, levels.FULL] * 2 if low < high else [0] * 4)
    assert back[:4].tolist() == [low, high, low, high]


def test_samples_of_another_type_have_the_levels_of_their_values() -> None:
    whole = np.array([[-50, 0, 7, 100, 200]], I16)
    expected = levels.of_samples(whole, 0, 150)
    assert np.array_equal(levels.of_samples(whole.astype(F32), 0, 150), expected)
    assert np.array_equal(levels.of_samples(whole.astype(I32), 0, 150), expected)
    assert np.array_equal(levels.of_samples(whole, 0.0, 150.0), expected)
    assert levels.of_samples(np.array([[2**32 - 1]], "u4"), 0.0, 1e12).tolist() == [[281]]


def test_golden_levels_of_floats() -> None:
    plane = np.array([[0.1, 0.2, 0.30000001192, -0.7, 1.25]], F32)
    level = levels.of_samples(plane, -0.75, 1.25)
    assert level.tolist() == [[27852, 31129, 34406, 1638, 65535]]
    value = levels.values(F32, -0.75, 1.25)
    assert value[[0, 1, 27852, 65535]].view(np.uint32).tolist() == [0xBF400000, 0xBF3FFE00, 0x3DCCC6CD, 0x3FA00000]


def test_a_value_is_replaced_by_the_next_above_or_else_below() -> None:
    assert levels.without(np.array([1, 2, 2, 3]), 2).tolist() == [1, 3, 3, 3]
    assert levels.without(np.array([1, 2, 3, 3]), 3).tolist() == [1, 2, 2, 2]
    assert levels.without(np.array([3, 3]), 3).tolist() == [3, 3]
    assert levels.without(np.array([1, 2]), 9).tolist() == [1, 2]


@given(FLOATS, FLOATS, st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_no_level_is_nodata(one: float, other: float, share: float) -> None:
    low, high = sorted((one, other))
    assume(low < high)
    nodata = float(np.float32(low * (1 - share) + high * share))
    table = bands.Bands(F32, 1, ((low, high),), nodata).table(0)
    assert not np.any(table == np.float32(nodata))
    assert np.all(np.diff(table.astype(float)) >= 0)


# --- the choice ------------------------------------------------------------------------------------------------------


def test_what_is_transparent_or_nodata_has_no_say() -> None:
    pixels = np.array([[[5], [900], [7], [60_000]]], np.uint16)
    alpha = np.array([[1, 1, 0, 0]], np.uint16)
    assert bands.describe(Image(pixels, alpha=alpha)).ranges == ((5, 900),)
    assert bands.describe(Image(pixels, nodata=60_000)).ranges == ((5, 900),)
    assert bands.describe(Image(pixels), (0, 10_000)).ranges == ((0, 10_000),)


@pytest.mark.parametrize("nothing", [np.full((2, 2, 1), np.nan, F32), np.full((2, 2, 1), -np.inf, F32)])
def test_a_band_without_a_valid_sample_has_a_range_of_zero(nothing: NDArray[np.float32]) -> None:
    described = bands.describe(Image(nothing))
    assert described.ranges == ((0, 0),)
    back = bands.join_groups([np.zeros((2, 2, 3), U16)], described, bands.Box(0, 0, 2, 2))
    assert np.array_equal(back.pixels, nothing, equal_nan=True)


@pytest.mark.parametrize("dtype", [U16, I16, I32, F32])
@pytest.mark.parametrize("extreme", [-30_000, 30_000])
def test_an_extreme_is_kept_and_has_no_say(dtype: np.dtype, extreme: int) -> None:
    pixels = noisy(440, 2960, dtype)
    plain = ranges.measured(pixels, None)
    pixels[5, 5] = extreme if dtype != U16 or extreme > 0 else 65535
    chosen = ranges.measured(pixels, None)
    assert chosen[:2] == plain[:2]
    assert chosen.kept is not None
    assert np.argwhere(chosen.kept).tolist() == [[5, 5]]
    assert told(pixels)[0] == "samples far beyond the range of their band, kept exactly: 1"


@pytest.mark.parametrize("share", [0.003, 0.008, 0.015])
@pytest.mark.parametrize("dtype", [U16, F32])
def test_more_extremes_are_kept_where_they_make_the_range_ten_times_as_wide(dtype: np.dtype, share: float) -> None:
    pixels = noisy(440, 2960, dtype)
    places = np.random.default_rng(2).permutation(pixels.size)[: round(share * pixels.size)]
    pixels.flat[places] = np.linspace(6000, 65535, len(places))
    chosen = ranges.measured(pixels, None)
    assert chosen.low >= 440 and chosen.high < 2960
    assert chosen.kept is not None
    assert np.array_equal(np.flatnonzero(chosen.kept), np.sort(places))
    pixels.flat[places] = np.linspace(6000, 20_000, len(places))  # seven times
    assert ranges.measured(pixels, None).kept is None
    described = bands.describe(Image(pixels[..., None]))
    assert band_section.pack(described) is not None


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.integers(0, 39))
def test_the_narrowest_range_is_that_of_all_intervals(samples: list[int], beyond: int) -> None:
    beyond = min(beyond, len(samples) - 1)
    found = ranges._narrowest(ranges._counted(np.array([samples], U16), None), beyond)
    rising = sorted(samples)
    inside = len(samples) - beyond
    widths = [rising[at + inside - 1] - rising[at] for at in range(beyond + 1)]
    assert found[1] - found[0] == min(widths)
    assert sum(found[0] <= sample <= found[1] for sample in samples) >= inside


def test_extremes_that_are_many_or_near_are_in_the_range() -> None:
    many = noisy(440, 2960)
    many[:, 0] = np.linspace(20_000, 60_000, 64)
    assert ranges.measured(many, None) == (440, 60_000, None, 0)
    near = noisy(440, 2960)
    near[0, 0] = 5000
    assert ranges.measured(near, None).kept is None
    assert ranges.measured(near, None).high == 5000


@pytest.mark.parametrize(("dtype", "value"), [(U16, 65535), (I16, -9999), (F32, -(2.0**127)), (I32, -(2**31))])
def test_a_value_far_from_all_others_is_marked(dtype: np.dtype, value: float) -> None:
    pixels = np.dstack([noisy(440, 2960, dtype), noisy(300, 9000, dtype)])
    pixels[5:30, 7:40] = value
    pixels[60, 60] = -30_000 if dtype != U16 else 40_000
    described = bands.describe(Image(pixels))
    assert described.fills == (value,)
    assert described.nodata is None
    assert described.kept is not None
    assert np.array_equal(described.marks == 5, pixels == value)
    assert described.ranges == bands.describe(Image(pixels, nodata=value)).ranges
    assert told(pixels)[0] == f"samples with the value {ranges.text(value)}, far from all others, kept exactly: 20.142%"
    ((older),) = bands.split_groups(Image(pixels), described, reference=True)
    assert older.pixels[10, 10, 0] not in (0, levels.FULL)  # filled with what lies around it
    back = bands.join_groups([older.pixels], described, bands.Box(0, 0, 64, 64))
    assert np.array_equal(back.pixels == value, pixels == value)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [(U16, [0, 65535]), (U16, [0, 65534, 65535]), (I16, [-9999, -9998]), (F32, [-(2.0**127), 2.0**127]), (I32, [0, 9])],
)
def test_several_values_far_from_all_others_are_marked(dtype: np.dtype, values: list[float]) -> None:
    pixels = noisy(20_000, 22_000, dtype)[..., None]
    for row, value in enumerate(values):
        pixels[8 * row : 8 * row + 5, 7:40] = value
    pixels[60, 60] = 31_000
    described = bands.describe(Image(pixels))
    assert described.fills == tuple(values)
    assert described.ranges[0][0] >= 20_000 and described.ranges[0][1] < 22_000
    ((coded),) = bands.split_groups(Image(pixels), described)
    back = bands.join_groups([coded.pixels], described, bands.Box(0, 0, 64, 64))
    for value in values:
        assert np.array_equal(back.pixels == value, pixels == value)
    named = ", ".join(map(ranges.text, values))
    assert told(pixels)[0].startswith(f"samples with the values {named}, far from all others, kept exactly: ")


def test_a_value_beyond_a_declared_range_is_marked_if_it_is_far_from_all_others() -> None:
    pixels = noisy(118, 132, U8)
    pixels[5:30, 7:40] = 0
    assert bands.describe(Image(pixels[..., None]), (118, 131)).fills == (0,)
    assert bands.describe(Image(pixels[..., None]), (0, 131)).fills == ()
    assert bands.describe(Image(pixels[..., None])).fills == ()


def test_a_value_near_the_others_or_of_few_samples_is_not_marked() -> None:
    for value, rows in ((0, 9), (6000, 9)):
        pixels = noisy(440, 9000)
        pixels[:rows] = value
        assert bands.describe(Image(pixels[..., None])).fills == ()
    points = noisy(440, 2960)
    points[3, :3] = 65535
    assert bands.describe(Image(points[..., None])).fills == ()


def test_a_band_of_one_value_but_for_a_few_is_exact() -> None:
    points = np.full((64, 64), 7.25, F32)
    points[3, 4] = 1e20
    chosen = ranges.measured(points, None)
    assert chosen[:2] == (7.25, 7.25)
    assert chosen.kept is not None


def test_declared_ranges_are_for_all_bands_or_some() -> None:
    assert ranges.by_band((0, 9), U16, 2) == {0: (0, 9), 1: (0, 9)}
    assert ranges.by_band({2: (0.5, 9)}, F32, 2) == {1: (0.5, 9)}
    eight = bands.describe(Image(np.zeros((4, 4, 3), U8)), {2: (3, 9)})
    assert eight.ranges == ((0, 255), (3, 9), (0, 255))
    assert eight.group_dtype == U16


@pytest.mark.parametrize(
    ("dtype", "declared", "said"),
    [
        (U16, (5, 5), "rise within 0..65535, not 5,5"),
        (U16, (-1, 5), "0..65535"),
        (U16, (0.0, 70_000.0), "rise within 0..65535, not 0,70000"),
        (I16, (0, 40_000), "-32768..32767"),
        (U8, (0.5, 7), "whole numbers"),
        (F32, (0, 1e39), "rise within"),
        (F32, (0, math.nan), "rise within"),
        (U16, {4: (0, 9)}, "band 4, but the picture has 3"),
        (U16, {0: (0, 9)}, "band 0"),
    ],
)
def test_a_range_that_is_none_is_refused(dtype: np.dtype, declared: ranges.Declared, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        bands.describe(Image(np.zeros((4, 4, 3), dtype)), declared)


def test_samples_beyond_a_declared_range_are_kept_if_few_and_else_clipped_and_told() -> None:
    pixels = np.array([[[5, 50], [900, 20], [7, 0], [60, 30]]], np.uint16)
    assert told(pixels, (10, 100), nodata=0) == ["band 1: 75 % of the samples lie beyond the range 10..100: clipped"]
    pixels = noisy(10, 100)
    pixels[:2, 2] = 7, 101
    described = bands.describe(Image(pixels[..., None]), (8, 100))
    assert described.kept is not None
    assert described.kept.samples.tolist() == [7, 101]


# --- what is told ----------------------------------------------------------------------------------------------------


def test_a_sliver_of_the_coded_range_is_told() -> None:
    low = np.dstack([noisy(0, 256, U8), noisy(118, 132, U8)])
    (line,) = told(low)
    assert line.startswith("band 2: ")
    assert "within 118..131, 5.1 % of the range 0..255 that is coded" in line
    assert line.endswith("; --range 2:118,131 (value_range in Python) codes these finer")
    assert told(low, {2: (118, 131)}) == []
    land = noisy(440, 2960)
    land[:, :2] = noisy(20_000, 60_000, shape=(64, 2))
    assert "% of the range 440.." in told(land)[0]
    assert told(land)[0].endswith("codes these finer, but clips others")
    assert told(noisy(0, 256, U8)) == told(np.full((9, 9), 7, U8)) == []
    assert told(np.dstack([noisy(1, 3, U8)] * 5))[-1] == "likewise 4 more bands"


def test_a_sliver_of_a_declared_range_is_told() -> None:
    land = noisy(440, 2960)
    (line,) = told(land, (0, 65_535))
    assert "within 440..2959, 3.8 % of the range 0..65535 that is coded" in line
    assert line.endswith("; --range 1:440,2959 (value_range in Python) codes these finer")
    assert told(land, (440, 2959)) == told(land, (0, 10_000)) == []
    land[:30] = 40_000 + land[:30] // 100
    clipped, line = told(land, (40_000, 60_000))
    assert clipped.startswith("band 1: 53.1 % of the samples lie beyond the range 40000..60000: clipped")
    assert "46.9 % of the samples lie within 40004..40029, 0.12 % of the range 40000..60000 that is coded" in line
    assert line.endswith("codes these finer, but clips others")


@pytest.mark.parametrize("values", [(0,), (0, 255), (0, 1), (255,)])
def test_a_collar_does_not_hide_a_sliver(values: tuple[int, ...]) -> None:
    pixels = noisy(118, 132, U8)
    pixels[:20] = values[0]
    pixels[20:30, :30] = values[-1]
    (line,) = told(pixels)
    besides = " or ".join(map(str, values))
    assert line.startswith(f"band 1: 100 % of the samples that are not {besides} lie within 118..131, 5.1 % of the")
    assert line.endswith("--range 1:118,131 (value_range in Python) codes these finer")
    assert bands.describe(Image(pixels[..., None]), (118, 131)).fills == values


def test_the_range_that_is_named_clips_nothing_where_it_can() -> None:
    assert told(noisy(118, 134, U8))[0].endswith("--range 1:118,133 (value_range in Python) codes these finer")
    spoilt = noisy(118, 134, U8)
    spoilt[3, 4] = 255
    assert "--range 1:118,133 " in told(spoilt)[0]
    assert told(spoilt, {1: (118, 133)}) == ["samples far beyond the range of their band, kept exactly: 1"]
    classes = np.zeros((64, 64), U8)
    classes[:2] = 1
    assert "within 0..1, 0.39 % of the range 0..255" in told(classes)[0]


def test_the_step_of_floats_and_of_wide_integers_is_told() -> None:
    assert told(noisy(0, 65535, I32)) == []
    (line,) = told(np.dstack([noisy(0, 10, I32), noisy(-1e6, 1e6, I32)]))
    assert "65,536 levels" in line
    assert "up to 15.2" in line
    assert "(band 2)" in line
    assert "up to 7.6" in told(noisy(0, 1, F32))[0]
