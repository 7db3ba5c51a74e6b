"""The training loss against what it stands for: real JPEG tables and sizes, and values worked out by hand."""

import io
import math
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from refscale_codec import model, weights_files
from refscale_codec.lrcodec.dct import coefficients, entropy
from refscale_codec.picture.io import pictures
from refscale_codec.rescale import tiled
from refscale_codec.study.coders import jpeg
from refscale_codec.training import losses

ROOT = Path(__file__).parents[1]


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(deviation: float, side: int = 32) -> Tensor:
    """Return a grey picture [1, 3, side, side] with noise of this deviation."""
    return (0.5 + deviation * torch.randn(1, 3, side, side, generator=seeded())).clamp(0, 1)


def drawn(smoothness: float, contrast: float, seed: int, side: int = 48) -> np.ndarray:
    """Return an 8-bit picture [side, side, 3] of smooth, partly coloured noise with an edge through it."""
    rng = np.random.default_rng(seed)
    grey, colour = rng.normal(size=(side, side, 1)), rng.normal(size=(side, side, 3))
    field = cv2.GaussianBlur(grey + 0.4 * colour, (0, 0), smoothness)
    field = field / field.std() * contrast
    field[:, seed * 5 % side :] += contrast
    return np.clip(128 + field, 0, 255).astype(np.uint8)


def tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def bits(lr: Tensor, quality: float) -> float:
    return float(losses.coded_bits(lr, torch.tensor([quality])))


# --- JPEG ------------------------------------------------------------------------------------------------------------


def tables_in_a_file(quality: int) -> list[np.ndarray]:
    """Return the tables for luma and chroma of the codec's JPEG, [8, 8] with the lowest frequency first."""
    payload = jpeg.encode(np.zeros((8, 8, 3), np.uint8), quality, tables=coefficients.tables(quality))
    with PIL.Image.open(io.BytesIO(payload)) as picture:
        found: dict[int, list[int]] = picture.quantization  # type: ignore[attr-defined]
    return [np.array(found[place]).reshape(8, 8) for place in (0, 1)]


@pytest.mark.parametrize(
    "quality",
    [
        *(1, 2, 5, 10, 25, 49, 50, 51, 75, 90, 95, 99, 100),
        *(9, 16, 28, 36, 41, 46),  # 5000 / quality is no whole number
    ],
)
def test_tables_are_those_in_the_codecs_files(quality: int) -> None:
    ours = losses.jpeg_tables(torch.tensor([float(quality)]))
    luma, chroma = tables_in_a_file(quality)
    assert np.array_equal(ours[0, 0], luma)
    assert np.array_equal(ours[0, 1], chroma)
    assert np.array_equal(ours[0, 2], chroma)


def test_each_picture_of_a_batch_has_the_tables_of_its_own_quality() -> None:
    both = losses.jpeg_tables(torch.tensor([20.0, 80.0]))
    assert both.shape == (2, 3, 8, 8)
    for place, quality in enumerate((20.0, 80.0)):
        assert torch.equal(both[place], losses.jpeg_tables(torch.tensor([quality]))[0])


def test_tables_are_not_transposed() -> None:
    # like Table K.1 it is finer to the right of its corner than below it, at the upper right than at the lower left
    luma = losses.jpeg_tables(torch.tensor([50.0]))[0, 0]
    assert luma[0, :2].tolist() == [18, 14]
    assert luma[:2, 0].tolist() == [18, 15]
    assert (luma[0, 7], luma[7, 0]) == (37, 40)


def test_pictures_come_back_from_their_steps_and_steps_from_their_picture() -> None:
    quality = torch.tensor([15.0, 60.0, 100.0])
    lr = 0.5 + torch.randn(3, 3, 16, 24, generator=seeded())  # far outside [0, 1], too
    steps = losses.jpeg_steps(lr, quality)
    assert steps.shape == (3, 3, 2, 3, 8, 8)
    assert torch.allclose(losses.of_jpeg_steps(steps, quality), lr, atol=1e-4)
    some = 20 * torch.randn(3, 3, 2, 3, 8, 8, generator=seeded(2))
    picture = losses.of_jpeg_steps(some, quality)
    assert picture.shape == (3, 3, 16, 24)
    assert torch.allclose(losses.jpeg_steps(picture, quality), some, atol=1e-2)
    partial = functional.pad(lr, (0, 5, 0, 7))  # blocks that are not whole are left out
    assert torch.allclose(losses.jpeg_steps(partial, quality), steps, atol=1e-4)


@pytest.mark.parametrize("quality", [15, 60, 100])
def test_steps_are_those_that_the_codec_rounds(quality: int) -> None:
    lr = 0.5 + 0.5 * torch.randn(1, 3, 16, 24, generator=seeded())
    steps = losses.jpeg_steps(lr - 128 / 255, torch.tensor([float(quality)]))
    in_order = steps[0].flatten(3)[..., coefficients.ZIGZAG].permute(1, 2, 0, 3).numpy()  # [rows, columns, 3, 64]
    levels = coefficients.quantise(255 * lr[0].permute(1, 2, 0).numpy(), quality)
    assert abs(in_order - levels).max() < 0.5 + 1e-3
    grid = (0.5 / 16 + 0.01) / 255  # the decoder restores sixteenths of a level
    restored = losses.of_jpeg_steps(steps.round(), torch.tensor([float(quality)])) + 128 / 255
    expected = coefficients.dequantise(np.rint(in_order).astype(np.int16), 16, 24, quality) / 255
    assert np.allclose(restored[0].permute(1, 2, 0).numpy(), expected, atol=grid)


def test_bits_grow_with_detail() -> None:
    values = [bits(noise(deviation), 75) for deviation in (0.0, 0.01, 0.03, 0.1, 0.3)]
    assert values == sorted(values)
    assert len(set(values)) == len(values)


def test_bits_fall_with_coarser_quality() -> None:
    values = [bits(noise(0.1), quality) for quality in (98, 90, 70, 40, 15, 5)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)


def test_bits_of_flat_pictures_by_hand() -> None:
    assert bits(torch.full((1, 3, 16, 24), 0.3), 50) == pytest.approx(6 * losses.BITS_A_BLOCK, abs=1e-3)
    # a step of 16 grey levels between two blocks: of luma's DC, 8 * 16 = 128 = 64 / 9 steps of 18 at quality 50. The
    # mean of what lies left and above, itself at the border, is half of that away.
    step = torch.full((1, 3, 16, 8), 0.3)
    step[..., 8:, :] += 16 / 255
    expected = 2 * losses.BITS_A_BLOCK + losses.BITS_A_UNIT * math.log2(1 + 4 * (32 / 9) ** 2) / 2
    assert bits(step, 50) == pytest.approx(expected, rel=1e-3)


def test_bits_of_one_cosine_by_hand() -> None:
    # the horizontal cosine of index 1 with amplitude 32 levels: its coefficient is 32 * sqrt(8 * 4) = 181.02,
    # and its step at quality 50 is 14, upright 15
    wave = 64 + 32 * torch.cos(math.pi / 8 * (torch.arange(8) + 0.5))
    picture = (wave / 255).expand(1, 3, 8, 8)
    for turned, step in ((picture, 14), (picture.transpose(2, 3), 15)):
        units = math.log2(1 + 4 * (32 * math.sqrt(32) / step) ** 2) / 2
        expected = losses.BITS_A_BLOCK + losses.BITS_A_UNIT * units
        assert bits(turned, 50) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 92])
def test_bits_rank_pictures_as_packing_does(quality: int) -> None:
    kinds = [(smooth, contrast) for smooth in (0.6, 1.2, 2.5, 6.0) for contrast in (6, 20, 50)]
    pictures = [drawn(smooth, contrast, seed) for seed, (smooth, contrast) in enumerate(kinds)]
    levels = [coefficients.quantise(picture.astype(np.float32), quality) for picture in pictures]
    real = [len(entropy.encode(of, quality)) for of in levels]
    estimated = [bits(tensor(picture), quality) for picture in pictures]
    ranks = [np.argsort(np.argsort(values)) for values in (real, estimated)]
    assert np.corrcoef(*ranks)[0, 1] > 0.9


@pytest.mark.parametrize("quality", [20, 50, 80, 92])
def test_bits_are_about_those_of_a_packed_low_res_picture(quality: int) -> None:
    target, reference = (pictures.read(ROOT / "examples" / f"{name}.png") for name in ("target", "reference"))
    net = model.load(weights_files.shipped(2)).rescaler
    lr = tiled.downscale(target, tiled.map_reference(target, reference, net), net, quality).lr
    real = 8 * len(entropy.encode(coefficients.quantise(lr, quality), quality))
    estimated = bits(torch.from_numpy(lr).permute(2, 0, 1)[None] / 255, quality)
    assert 0.8 < estimated / real < 1.25


def test_bits_are_per_picture_and_have_a_gradient_where_there_is_detail() -> None:
    lr = torch.cat([noise(0.1), torch.full((1, 3, 32, 32), 0.5)]).requires_grad_()
    values = losses.coded_bits(lr, torch.tensor([75.0, 75.0]))
    assert values.shape == (2,)
    assert float(values[0].detach()) == pytest.approx(bits(noise(0.1), 75), rel=1e-5)
    (gradient,) = torch.autograd.grad(values[0], lr)
    assert gradient[0].abs().max() > 0
    assert gradient[1].abs().max() == 0
    smoother = noise(0.1) - 0.01 * gradient[:1] / gradient[0].abs().max()
    assert bits(smoother.detach(), 75) < bits(noise(0.1), 75)


def test_what_survives_a_fine_jpeg_is_the_picture_and_a_coarse_one_its_mean() -> None:
    lr = noise(0.2, 16)
    fine, coarse = (losses.surviving(lr, torch.tensor([quality])) for quality in (100.0, 1.0))
    assert torch.allclose(fine, lr, atol=0.01)
    assert (coarse - lr).square().mean() > 20 * (fine - lr).square().mean()
    flat = torch.full((1, 3, 8, 16), 0.5)
    assert torch.allclose(losses.surviving(flat, torch.tensor([50.0])), flat, atol=1e-3)


def test_the_gradient_of_what_survives_by_hand() -> None:
    # a grey cosine of v steps keeps v^2 / (v^2 + 1/32) of its gradient; grey has no chroma to keep
    wave = torch.cos(math.pi / 8 * (torch.arange(8) + 0.5)).expand(1, 3, 8, 8)
    for amplitude in (0.5, 2, 30):  # levels; the step at quality 50 is 14
        steps = amplitude * math.sqrt(32) / 14
        lr = ((64 + amplitude * wave) / 255).requires_grad_()
        (gradient,) = torch.autograd.grad(losses.surviving(lr, torch.tensor([50.0])), lr, wave)
        share = steps**2 / (steps**2 + 1 / 32)
        assert torch.allclose(gradient.sum(dim=1), 3 * share * wave[:, 0], atol=2e-3)
        luma = torch.tensor([0.299, 0.587, 0.114])[None, :, None, None]
        assert torch.allclose(gradient, 3 * share * wave * luma, atol=2e-3)


# --- weight of the error ---------------------------------------------------------------------------------------------


def test_the_weight_is_the_slope_where_error_and_bits_are_exchanged_at_their_worth() -> None:
    bpp, quality = torch.tensor([0.5, 0.5]), torch.tensor([50.0, 75.0])
    worth = losses.BIT_WORTH * torch.tensor([1 / 1.5, 0.25 / 1.25])  # steps of 1 and 1/2
    weight = losses.error_weight(1.45 * worth * bpp, bpp, quality, 1.45)
    assert torch.allclose(weight, torch.tensor(1.45))


@given(
    st.floats(4e-6, 0.1),
    st.floats(0.01, 4),
    st.integers(1, 100),
    st.floats(1.01, 10),
    st.sampled_from(["error", "bpp"]),
)
def test_more_error_weighs_more_and_more_bits_less_within_a_factor_of_three(
    error: float, bpp: float, quality: int, factor: float, what: str
) -> None:
    def weight(error: float, bpp: float) -> float:
        return float(losses.error_weight(*(torch.tensor([x]) for x in (error, bpp, float(quality))), 1.45))

    usual = weight(error, bpp)
    more = weight(error * factor, bpp) if what == "error" else weight(error, bpp / factor)
    assert 1.45 / 3 - 1e-6 <= usual <= more <= 1.45 * 3 + 1e-6
    assert more == pytest.approx(min(usual * math.sqrt(factor), 1.45 * 3), rel=1e-4) or usual == pytest.approx(1.45 / 3)


def test_the_weight_has_no_gradient() -> None:
    error = torch.tensor([0.01], requires_grad=True)
    assert not losses.error_weight(error, torch.tensor([0.3]), torch.tensor([60.0]), 1.45).requires_grad


# --- value with another gradient ------------------------------------------------------------------------------------


def test_with_gradient_of_has_the_value_of_one_and_the_scaled_gradient_of_the_other() -> None:
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    estimate = x.square()  # 4, 9, with the gradients 4 and 6
    mixed = losses.with_gradient_of(torch.tensor([40.0, 4.5]), estimate)
    assert mixed.tolist() == pytest.approx([40.0, 4.5])
    (gradient,) = torch.autograd.grad(mixed.sum(), x)
    assert gradient.tolist() == pytest.approx([4 * 40 / 4, 6 * 4.5 / 9])


def test_with_gradient_of_a_value_that_has_a_gradient_does_not_use_it() -> None:
    x = torch.tensor([5.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.with_gradient_of(x * 3, x * 1).sum(), x)
    assert gradient.tolist() == pytest.approx([3.0])


def test_a_zero_value_stays_zero_and_finite() -> None:
    x = torch.tensor([0.0, 2.0], requires_grad=True)
    mixed = losses.with_gradient_of(torch.tensor([0.0, 0.0]), x)
    assert mixed.tolist() == [0.0, 0.0]
    (gradient,) = torch.autograd.grad(mixed.sum(), x)
    assert torch.isfinite(gradient).all()


# --- the map ---------------------------------------------------------------------------------------------------------


def test_an_even_map_costs_nothing_and_a_noisy_one_something() -> None:
    even = torch.full((1, 1, 16, 16), 2.0)
    noisy = torch.randint(0, 4, (1, 1, 16, 16), generator=seeded()).float()
    assert float(losses.map_bits(even, even)) < 0.01
    assert float(losses.map_bits(noisy, noisy)) > 15 * 15  # over a bit a level


def test_busier_maps_cost_more() -> None:
    base = torch.rand(1, 1, 16, 16, generator=seeded())
    costs = [float(losses.map_bits(1.5 + a * base, 1.5 + a * base)) for a in (0.0, 0.5, 1.0, 2.0)]
    assert costs == sorted(costs)
    assert len(set(costs)) == len(costs)


def test_an_even_map_costs_next_to_nothing_under_the_noise_of_training() -> None:
    even = torch.full((1, 1, 16, 16), 2.0)
    noise = 0.96 * (torch.rand(even.shape, generator=seeded()) - 0.5)
    assert float(losses.map_bits(even + noise, even)) < 0.5 * 15 * 15


def test_bits_of_one_level_that_sticks_out_by_hand() -> None:
    # 3 x 3 map with a 1 in its middle. Four levels are predicted: the middle with 0 (off by 1), its right and lower
    # neighbours with 0.5 (off by -0.5), the corner right. The spread is (1 + 0.5 + 0.5 + 0) / 4 + 0.02 = 0.52.
    levels = torch.zeros(1, 1, 3, 3)
    levels[..., 1, 1] = 1
    tail = [0.5 * math.exp(-away / 0.52) for away in (0.5, 1.0, 1.5)]
    likelihoods = [tail[0] - tail[2], 0.5 - tail[1], 0.5 - tail[1], 1 - 2 * tail[0]]
    expected = -sum(math.log2(likelihood) for likelihood in likelihoods)
    assert float(losses.map_bits(levels, levels)) == pytest.approx(expected, rel=1e-4)


def test_map_bits_are_per_picture_and_pull_towards_an_even_map() -> None:
    noisy = 3 * torch.rand(1, 1, 16, 16, generator=seeded())
    both = torch.cat([noisy, torch.full_like(noisy, 1.0)])
    assert losses.map_bits(both, both).tolist() == pytest.approx([float(losses.map_bits(noisy, noisy)), 0], abs=0.01)
    exact = noisy.clone().requires_grad_()
    losses.map_bits(exact, exact).sum().backward()
    assert exact.grad is not None
    flatter = (exact - 0.5 * exact.grad / exact.grad.abs().max()).detach()
    assert float(losses.map_bits(flatter, flatter)) < float(losses.map_bits(noisy, noisy))


# --- guidance --------------------------------------------------------------------------------------------------------


def bicubic(hr: Tensor) -> Tensor:
    size = (hr.shape[-2] // 2, hr.shape[-1] // 2)
    return functional.interpolate(hr, size=size, mode="bicubic", antialias=True, align_corners=False)


def test_guidance_is_zero_at_the_bicubic_picture_without_similarity() -> None:
    hr = tensor(drawn(1.0, 40, 3))
    nowhere = torch.zeros(1, 1, 6, 6)
    assert float(losses.guidance(bicubic(hr), hr, None)) == 0
    assert float(losses.guidance(bicubic(hr), hr, nowhere)) == pytest.approx(0, abs=1e-12)


def test_guidance_is_the_mean_squared_distance_by_hand() -> None:
    hr = tensor(drawn(1.0, 40, 3))
    assert float(losses.guidance(bicubic(hr) + 0.1, hr, None)) == pytest.approx(0.01, rel=1e-4)
    # on a flat picture blurred and bicubic are equal: 0.1^2 * (0.25^2 + 0.75^2)
    flat = torch.full((1, 3, 16, 16), 0.4)
    quarter = torch.full((1, 1, 4, 4), 0.25)
    assert float(losses.guidance(bicubic(flat) + 0.1, flat, quarter)) == pytest.approx(0.00625, rel=1e-4)


def test_guidance_wants_a_blurred_picture_where_the_reference_is_alike() -> None:
    hr = tensor(drawn(0.6, 40, 3))
    everywhere = torch.ones(1, 1, 6, 6)
    small = bicubic(hr)[0].permute(1, 2, 0).numpy()
    blurred = cv2.GaussianBlur(small, (7, 7), 1.0, borderType=cv2.BORDER_REFLECT_101)
    blurred = torch.from_numpy(blurred).permute(2, 0, 1)[None]
    assert float(losses.guidance(blurred, hr, everywhere)) == pytest.approx(0, abs=1e-8)
    assert float(losses.guidance(bicubic(hr), hr, everywhere)) > 1e-4
    assert float(losses.guidance(blurred, hr, None)) > 1e-4


def test_guidance_is_per_picture() -> None:
    hr = torch.cat([tensor(drawn(1.0, 40, 3)), tensor(drawn(2.0, 30, 4))])
    off = bicubic(hr) + torch.tensor([0.0, 0.2])[:, None, None, None]
    assert losses.guidance(off, hr, None).tolist() == pytest.approx([0, 0.04], rel=1e-4, abs=1e-12)
