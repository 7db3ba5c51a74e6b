"""Metrics against values worked out by hand."""

import importlib
import math
import types
import warnings

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refscale_codec.errors import UsageError
from refscale_codec.study import metrics


def flat(value: int | tuple[int, int, int], height: int = 4, width: int = 5) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, dtype=np.uint8)


# --- PSNR, bits per pixel --------------------------------------------------------------------------------------------


def test_psnr_of_a_constant_difference_by_hand() -> None:
    # mean squared error 5^2 = 25: 10 log10(65025 / 25) = 10 log10(2601) = 34.1514
    assert metrics.psnr(flat(100), flat(105)) == pytest.approx(34.15140352195873, abs=1e-12)
    assert metrics.psnr(flat(105), flat(100)) == metrics.psnr(flat(100), flat(105))
    assert metrics.psnr(flat(0), flat(255)) == 0.0


def test_psnr_counts_every_channel_alike() -> None:
    # a difference of 3 in one channel of three: mean squared error 9 / 3 = 3
    for changed in ((3, 0, 0), (0, 3, 0), (0, 0, 3)):
        assert metrics.psnr(flat(0), flat(changed)) == pytest.approx(10 * math.log10(65025 / 3))


def test_psnr_of_equal_pictures_is_infinite() -> None:
    assert metrics.psnr(flat(7), flat(7)) == math.inf
    assert metrics.psnr_y(flat(7), flat(7)) == math.inf


def test_luma_psnr_uses_unrounded_bt601_full_range() -> None:
    # one step of red is 0.299 of luma: 20 log10(255 / 0.299)
    assert metrics.psnr_y(flat(0), flat((1, 0, 0))) == pytest.approx(20 * math.log10(255 / 0.299))
    assert metrics.psnr_y(flat(0), flat((0, 1, 0))) == pytest.approx(20 * math.log10(255 / 0.587))
    assert metrics.psnr_y(flat(0), flat((0, 0, 1))) == pytest.approx(20 * math.log10(255 / 0.114))
    assert metrics.psnr_y(flat(0), flat(255)) == 0.0


def test_colours_of_exactly_equal_luma_have_infinite_luma_psnr() -> None:
    # 299 * 1 + 114 * 157 = 587 * 31
    assert metrics.psnr_y(flat((1, 0, 157)), flat((0, 31, 0))) == math.inf
    assert metrics.psnr(flat((1, 0, 157)), flat((0, 31, 0))) < 10


@pytest.mark.parametrize("measure", [metrics.psnr, metrics.psnr_y])
def test_pictures_that_cannot_be_compared_are_a_programming_error(measure: types.FunctionType) -> None:
    with pytest.raises(ValueError, match=r"\(4, 5, 3\).*\(5, 4, 3\)"):
        measure(flat(0), flat(0, 5, 4))
    with pytest.raises(ValueError, match="float64"):
        measure(flat(0), flat(0) / 255)
    with pytest.raises(ValueError, match=r"\(4, 5\)"):
        measure(flat(0)[..., 0], flat(0)[..., 0])


def test_bits_per_pixel_by_hand() -> None:
    assert metrics.bits_per_pixel(1500, 100, 60) == 2.0
    assert metrics.bits_per_pixel(0, 1, 1) == 0.0


@pytest.mark.parametrize("numbers", [(-1, 4, 4), (1, 0, 4), (1, 4, 0)])
def test_bits_per_pixel_of_nothing_is_a_programming_error(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no bits per pixel"):
        metrics.bits_per_pixel(*numbers)


# --- spatial information ---------------------------------------------------------------------------------------------


def test_spatial_information_of_a_step_edge_by_hand() -> None:
    # Columns 0 0 0 1 1 1. Inside the border are columns 1 to 4; the Sobel magnitude there is 0 4 4 0.
    picture = flat(0, 5, 6)
    picture[:, 3:] = 255
    assert metrics.spatial_information(picture) == pytest.approx((2.0, 2.0))
    assert metrics.spatial_information(picture.transpose(1, 0, 2)) == pytest.approx((2.0, 2.0))


def test_spatial_information_of_a_corner_by_hand() -> None:
    # One white pixel in the corner of 3 x 3: both gradients are 1, and the magnitude of the one pixel is sqrt 2.
    picture = flat(0, 3, 3)
    picture[0, 0] = 255
    assert metrics.spatial_information(picture) == pytest.approx((math.sqrt(2), 0.0))


def test_spatial_information_weighs_colours_as_luma() -> None:
    picture = flat(0, 5, 6)
    picture[:, 3:, 1] = 255  # green alone: 0.587 of the white edge
    assert metrics.spatial_information(picture) == pytest.approx((2 * 0.587, 2 * 0.587))


def test_spatial_information_of_a_ramp_has_no_spread() -> None:
    picture = np.repeat(np.arange(0, 80, 10, dtype=np.uint8)[None, :, None], 6, axis=0).repeat(3, axis=2)
    assert metrics.spatial_information(picture) == pytest.approx((8 * 10 / 255, 0.0))  # (1 + 2 + 1) * 2 steps of 10


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (9, 2)])
def test_spatial_information_without_inner_pixels_is_zero(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert metrics.spatial_information(noise) == (0.0, 0.0)


# --- BD-rate ---------------------------------------------------------------------------------------------------------

RATES = [0.1, 0.2, 0.4, 0.8, 1.6]
PSNRS = [28.0, 31.0, 34.5, 37.0, 41.0]


def scaled(factor: float) -> list[float]:
    return [factor * rate for rate in RATES]


@pytest.mark.parametrize(("factor", "percent"), [(0.5, -50), (1, 0), (2, 100), (0.9, -10)])
def test_bd_rate_of_a_scaled_curve_is_the_scale(factor: float, percent: float) -> None:
    result = metrics.bd_rate(RATES, PSNRS, scaled(factor), PSNRS)
    assert result.percent == pytest.approx(percent, abs=1e-9)
    assert (result.overlap, result.dropped, result.note) == (1.0, 0, "")


@given(st.permutations(range(5)), st.permutations(range(5)))
@settings(max_examples=25, deadline=None)
def test_bd_rate_does_not_depend_on_the_order_of_points(a: list[int], b: list[int]) -> None:
    shuffled = metrics.bd_rate(
        [RATES[i] for i in a], [PSNRS[i] for i in a], [0.7 * RATES[i] for i in b], [PSNRS[i] for i in b]
    )
    assert shuffled == metrics.bd_rate(RATES, PSNRS, scaled(0.7), PSNRS)


def test_curves_may_have_different_numbers_of_points() -> None:
    # On straight lines of PSNR over log rate the spline is exact, wherever the points lie: 10 dB a decade.
    rates_b = [0.05, 0.1, 0.3, 0.5, 0.7, 2.0]
    result = metrics.bd_rate(
        RATES,
        [40 + 10 * math.log10(rate) for rate in RATES],
        rates_b,
        [42 + 10 * math.log10(rate) for rate in rates_b],
    )
    assert result.percent == pytest.approx(100 * (10**-0.2 - 1))


def test_the_range_cuts_both_curves_and_nothing_is_extrapolated() -> None:
    # Straight lines again. In 0.2..0.8 bpp, at 10 dB a decade and b 1 dB above a.
    def line(rates: list[float], top: float) -> list[float]:
        return [top + 10 * math.log10(rate) for rate in rates]

    rates_b = [0.15, 0.3, 0.45, 0.6, 1.0]
    result = metrics.bd_rate(RATES, line(RATES, 40), rates_b, line(rates_b, 41), 0.2, 0.8)
    assert result.percent == pytest.approx(100 * (10**-0.1 - 1))
    # a spans 10 log10(0.8 / 0.2) = 6.02 dB, b the same 1 dB higher
    span = 10 * math.log10(4)
    assert result.overlap == pytest.approx((span - 1) / (span + 1))
    assert "share only 72 %" in result.note
    # a range beyond the points changes nothing
    wide = metrics.bd_rate(RATES, PSNRS, scaled(0.5), PSNRS, 0.001, 100)
    assert wide == metrics.bd_rate(RATES, PSNRS, scaled(0.5), PSNRS)


def test_points_outside_the_range_do_not_count_beyond_the_crossing() -> None:
    # Both curves agree up to 0.4 bpp; only above does b fall behind.
    worse = [28.0, 31.0, 34.5, 35.0, 36.0]
    assert metrics.bd_rate(RATES, PSNRS, RATES, worse, 0.1, 0.4).percent == pytest.approx(0, abs=1e-9)
    assert metrics.bd_rate(RATES, PSNRS, RATES, worse).percent > 1


def test_disjoint_curves_have_no_bd_rate_and_say_why() -> None:
    result = metrics.bd_rate(RATES, PSNRS, RATES, [quality + 20 for quality in PSNRS])
    assert math.isnan(result.percent)
    assert (result.overlap, result.dropped) == (0.0, 0)
    assert result.note == "no BD-rate: no PSNR in common, anchor 28.00 to 41.00 dB, test 48.00 to 61.00 dB"


def test_curves_that_only_touch_have_no_bd_rate() -> None:
    result = metrics.bd_rate(RATES, PSNRS, RATES, [quality + 13 for quality in PSNRS])
    assert math.isnan(result.percent)
    assert "no PSNR in common" in result.note


def test_points_that_do_not_improve_are_dropped_and_counted() -> None:
    rates = [*scaled(0.5), 0.3, 0.3, 0.9]
    psnrs = [*PSNRS, 30.0, 34.5, 41.0]  # at 0.15 bpp PSNR is 34.5 already, at 0.8 bpp 41
    result = metrics.bd_rate(RATES, PSNRS, rates, psnrs)
    assert result.percent == pytest.approx(-50)
    assert result.dropped == 3
    assert "anchor 0, test 3" in result.note


def test_of_two_points_at_one_rate_the_better_stays() -> None:
    result = metrics.bd_rate([*RATES, 0.4], [*PSNRS, 33.0], RATES, PSNRS)
    assert result.percent == pytest.approx(0, abs=1e-9)
    assert result.dropped == 1


@pytest.mark.parametrize("value", [math.inf, math.nan, -math.inf])
def test_points_without_a_finite_psnr_are_dropped(value: float) -> None:
    result = metrics.bd_rate([*RATES, 3.0], [*PSNRS, value], [0.01, *scaled(0.5)], [value, *PSNRS])
    assert result.percent == pytest.approx(-50)
    assert result.dropped == 2
    assert "anchor 1, test 1" in result.note


def test_three_points_are_enough_and_noted() -> None:
    result = metrics.bd_rate(RATES[:3], PSNRS[:3], scaled(0.5)[:3], PSNRS[:3])
    assert result.percent == pytest.approx(-50)
    assert result.note == "few points: anchor 3, test 3"


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_points_have_no_bd_rate_and_say_why(n: int) -> None:
    result = metrics.bd_rate(RATES, PSNRS, RATES[:n], PSNRS[:n])
    assert math.isnan(result.percent)
    assert result.note == f"no BD-rate: usable points in the range: anchor 5, test {n}; each needs 3"


def test_a_range_that_no_curve_enters_has_no_bd_rate() -> None:
    result = metrics.bd_rate(RATES, PSNRS, RATES, PSNRS, 5, 9)
    assert math.isnan(result.percent)
    assert "anchor 0, test 0" in result.note


def test_one_decibel_more_at_every_rate_is_a_bd_psnr_of_one() -> None:
    better = [psnr + 1 for psnr in PSNRS]
    assert metrics.bd_rate(RATES, PSNRS, RATES, better).psnr == pytest.approx(1, abs=1e-6)
    assert metrics.bd_rate(RATES, better, RATES, PSNRS).psnr == pytest.approx(-1, abs=1e-6)
    assert math.isnan(metrics.bd_rate(RATES, PSNRS, [100 * rate for rate in RATES], PSNRS).psnr)  # no rate in common


# --- structural similarity -------------------------------------------------------------------------------------------


def test_ssim_of_flat_pictures_is_that_of_their_means() -> None:
    a, b, c1 = (
        80,
        120,
        (0.01 * 255) ** 2,
    )  # contrast and structure are 1; luminance counts at the last scale
    luminance = (2 * a * b + c1) / (a**2 + b**2 + c1)
    assert metrics.ssim(flat(a, 176, 176), flat(b, 176, 176)) == pytest.approx(luminance, abs=1e-4)
    assert metrics.ms_ssim(flat(a, 176, 176), flat(b, 176, 176)) == pytest.approx(luminance**0.1333, abs=1e-4)


def by_the_papers(a: NDArray[np.uint8], b: NDArray[np.uint8], scales: int) -> float:
    """SSIM (Wang et al. 2004, Eq. 13) or, of five scales, MS-SSIM (Wang et al. 2003, Eq. 7), in float64 by OpenCV."""
    weights = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333] if scales == 5 else [1.0]
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    x, y = a.astype(np.float64), b.astype(np.float64)
    value = np.ones(3)
    for scale, weight in enumerate(weights):
        inside = np.s_[5:-5, 5:-5]  # the windows of 11 pixels a side that lie within the picture

        def mean(z: NDArray[np.float64], inside: tuple[slice, slice] = inside) -> NDArray[np.float64]:
            return cv2.GaussianBlur(z, (11, 11), 1.5)[inside]

        mx, my = mean(x), mean(y)
        structure = (2 * (mean(x * y) - mx * my) + c2) / (mean(x * x) - mx**2 + mean(y * y) - my**2 + c2)
        if scale == len(weights) - 1:
            structure = structure * (2 * mx * my + c1) / (mx**2 + my**2 + c1)
        value *= structure.mean(axis=(0, 1)).clip(0) ** weight
        even = np.s_[: len(x) // 2 * 2, : x.shape[1] // 2 * 2]
        x, y = (z[even].reshape(len(z) // 2, 2, z.shape[1] // 2, 2, 3).mean(axis=(1, 3)) for z in (x, y))
    return float(value.mean())


@pytest.mark.parametrize(("height", "width"), [(176, 192), (240, 208)])
@pytest.mark.parametrize("sigma", [3, 20, 80])
def test_ssim_is_that_of_the_papers(sigma: int, height: int, width: int) -> None:
    rng = np.random.default_rng(sigma)
    rough = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    picture = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
    other = (0.9 * picture + rng.normal(5, sigma, picture.shape)).clip(0, 255).astype(np.uint8)
    assert metrics.ssim(picture, other) == pytest.approx(by_the_papers(picture, other, 1), abs=1e-4)
    assert metrics.ms_ssim(picture, other) == pytest.approx(by_the_papers(picture, other, 5), abs=1e-4)


def test_ssim_falls_with_noise_and_is_one_for_equal_pictures() -> None:
    rng = np.random.default_rng(1)
    picture = rng.integers(60, 190, (176, 192, 3), dtype=np.uint8)
    for metric in (metrics.ssim, metrics.ms_ssim):
        near, far = (
            metric(picture, (picture + rng.normal(0, sigma, picture.shape)).clip(0, 255).astype(np.uint8))
            for sigma in (4, 24)
        )
        assert metric(picture, picture) == pytest.approx(1)
        assert far < near < 1


def test_ssim_of_a_picture_too_small_for_it_is_undefined() -> None:
    assert math.isnan(metrics.ssim(flat(9, 10, 10), flat(9, 10, 10)))
    assert math.isnan(metrics.ms_ssim(flat(9, 160, 160), flat(9, 160, 160)))
    assert metrics.ssim(flat(9, 11, 11), flat(9, 11, 11)) == pytest.approx(1)
    assert metrics.ms_ssim(flat(9, 161, 161), flat(9, 161, 161)) == pytest.approx(1)
    with pytest.raises(ValueError, match="different shape"):
        metrics.ssim(flat(9, 11, 11), flat(9, 11, 12))


def test_impossible_arguments_are_programming_errors() -> None:
    with pytest.raises(ValueError, match="one PSNR for each rate"):
        metrics.bd_rate(RATES, PSNRS[1:], RATES, PSNRS)
    for rate in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="positive and finite"):
            metrics.bd_rate(RATES, PSNRS, [rate, *RATES[1:]], PSNRS)
    with pytest.raises(ValueError, match="must rise"):
        metrics.bd_rate(RATES, PSNRS, RATES, PSNRS, 1, 1)


def test_a_warning_of_the_package_becomes_part_of_the_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*_: object, **__: object) -> float:
        warnings.warn("something odd", stacklevel=1)
        return 1.0

    fake = types.SimpleNamespace(bd_rate=warn, bd_psnr=warn)
    monkeypatch.setattr(importlib, "import_module", lambda _: fake)
    assert metrics.bd_rate(RATES, PSNRS, RATES, PSNRS) == metrics.BdRate(1.0, 1.0, 0, "something odd", 1.0)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(UsageError, match=r"pip install 'refscale-codec\[rd\]'"):
        metrics.bd_rate(RATES, PSNRS, RATES, PSNRS)
