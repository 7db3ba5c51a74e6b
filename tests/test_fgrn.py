"""FGRN: its flow is invertible, it starts as mean and repetition, and codes pictures in tiles as a whole."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import sine_filled
from torch import Tensor
from torch.nn import functional

from refscale_codec.codec import decoder, encoder
from refscale_codec.codec.encoder import EncodeOptions
from refscale_codec.errors import WeightsError
from refscale_codec.model import Model, load, store
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import registration, warp
from refscale_codec.reference.source import Unused, Warped
from refscale_codec.rescale import tiled
from refscale_codec.rescale.fgrn import Fgrn, FgrnConfig, FlowCell, FlowGuidance, eight_bits
from refscale_codec.rescale.interface import Context

TINY = FgrnConfig(width=8, down_blocks=1, up_blocks=1, cells=1, growth=4)
SCALES = pytest.mark.parametrize("scale", [2, 4])


def net(scale: int = 2, cells: int = 1) -> Fgrn:
    """Return a net in which nothing is zero, yet whose pictures stay in range."""
    made = sine_filled(Fgrn(replace(TINY, scale=scale, cells=cells)))
    with torch.no_grad():
        for layer in (made.downscaler.output, made.upscaler.output):
            layer.weight.mul_(0.3)
    return made.requires_grad_(False)


def picture(height: int = 32, width: int = 48, batch: int = 2) -> Tensor:
    noise = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
    return (3 * functional.avg_pool2d(noise, 5, 1, 2) - 1).clamp(0, 1)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_flow_is_invertible(dtype: torch.dtype, within: float) -> None:
    flow = sine_filled(FlowGuidance(replace(TINY, cells=5))).to(dtype)
    x = 2 * picture().to(dtype) - 0.5
    lr, _ = flow(x)
    assert (lr - x).abs().mean() > 0.05
    assert (flow.inverse(lr) - x).abs().max() < within
    assert (flow(flow.inverse(x))[0] - x).abs().max() < within


def test_the_determinant_is_that_of_the_jacobian() -> None:
    cell = sine_filled(FlowCell(4)).double().requires_grad_(False)
    x = picture(3, 4, 1).double()
    jacobian = torch.autograd.functional.jacobian(lambda z: cell(z)[0], x).reshape(36, 36)
    assert torch.allclose(cell(x)[1][0], torch.linalg.slogdet(jacobian)[1], atol=1e-10)
    assert abs(float(cell(x)[1][0])) > 0.1


def test_a_cell_by_hand() -> None:
    cell, x = sine_filled(FlowCell(4)), picture(8, 8)
    first, rest = x[:, :1], x[:, 1:]
    moved = first + cell.alpha(rest)
    scale = 0.5 * torch.tanh(cell.beta(moved))
    wanted = torch.cat([moved, rest * scale.exp() + cell.phi(moved)], dim=1)
    found, log_det = cell(x)
    assert torch.allclose(found, wanted)
    assert torch.allclose(log_det, scale.sum(dim=(1, 2, 3)))


@SCALES
def test_a_fresh_net_is_mean_and_repetition(scale: int) -> None:
    fresh, hr = Fgrn(replace(TINY, scale=scale)), picture()
    x = fresh.represent(hr)
    assert torch.allclose(x, eight_bits(functional.avg_pool2d(hr, scale)), atol=1 / 255 + 1e-6)
    assert torch.equal(x * 255, (x * 255).round())
    lr, log_det = fresh.guidance(x)
    assert torch.allclose(lr, x, atol=1e-6) and not log_det.any()
    assert torch.allclose(fresh.reconstruct(lr), functional.interpolate(x, scale_factor=scale), atol=1e-5)


def test_eight_bits_pass_the_gradient_as_it_is() -> None:
    x = torch.tensor([-0.2, 0.0, 0.501, 1.0, 1.3], requires_grad=True)
    y = eight_bits(x)
    assert torch.allclose(y.detach() * 255, torch.tensor([0.0, 0, 128, 255, 255]), atol=1e-4)
    y.backward(torch.arange(5.0))
    assert x.grad is not None and torch.equal(x.grad, torch.arange(5.0))


def changed_beyond(x: Tensor, inner: int, reach: int) -> Tensor:
    """Return a square made something else but for an inner square in its middle and so much around it."""
    edge = (x.shape[-1] - inner) // 2 - reach
    kept, y = np.s_[..., edge : x.shape[-1] - edge, edge : x.shape[-1] - edge], 255 - x
    y[kept] = x[kept]
    return y


def middle(x: Tensor, inner: int) -> Tensor:
    edge = (x.shape[-1] - inner) // 2
    return x[..., edge : edge + inner, edge : edge + inner]


@SCALES
def test_the_halo_is_what_the_nets_look_at(scale: int) -> None:
    """In 64 bits, where samples between two levels of 8 bits are rounded alike in every tile."""
    made, quality = net(scale).double(), Context(50)
    halo, inner = made.halo, 16
    hr = 255 * picture(2 * halo + inner, 2 * halo + inner, 1).double()
    lr = made.down(hr, quality)
    for way, x, reach, kept, result in (
        (made.down, hr, halo, inner, inner // scale),
        (made.up, lr, halo // scale, inner // scale, inner),
    ):
        whole = middle(way(x, quality), result)
        assert torch.equal(middle(way(changed_beyond(x, kept, reach - 1), quality), result), whole)
        assert not torch.equal(middle(way(changed_beyond(x, kept, 2), quality), result), whole)


@pytest.fixture(params=[2, 4])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    store(net(request.param), tmp_path / "net.safetensors")
    return load(tmp_path / "net.safetensors")


def images(height: int = 70, width: int = 101) -> tuple[Image, Image]:
    first, second = (255 * picture(height, width)).byte().permute(0, 2, 3, 1).numpy()
    return Image(first), Image(second)


def test_a_stored_net_codes_pictures_and_leaves_the_reference_out(model: Model) -> None:
    assert isinstance(model.rescaler, Fgrn) and model.rescaler.config == replace(TINY, scale=model.scale)
    target, reference = images()
    plan = encoder.prepare(target, reference, model, EncodeOptions(tile=48), choose=lambda *_: Warped(None))
    coded = plan.code(80)
    assert coded.groups[0].low.similarity_map is None
    whole = decoder.decode(coded.file(), reference, model, tile=48)
    assert np.array_equal(whole.pixels, coded.picture().pixels)
    box = Box(20, 30, 61, 90)
    assert np.array_equal(
        decoder.decode(coded.file(), reference, model, tile=48, window=box).pixels, whole.pixels[box.slices]
    )
    alone = encoder.encode(target, None, model, EncodeOptions(quality=80, tile=48))
    assert np.array_equal(decoder.decode(alone, None, model, tile=48).pixels, whole.pixels)


def test_a_reference_that_has_no_effect_costs_no_work(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*_: object) -> None:
        raise AssertionError("a reference is looked at")

    six = [Image(np.dstack([each.pixels, each.pixels[..., ::-1]])) for each in images(40, 50)]
    for place, name in ((registration, "estimate"), (warp, "apply"), (tiled, "similarity"), (tiled, "upscale")):
        monkeypatch.setattr(place, name, unwanted)
    plan = encoder.prepare(*six, model, choose=unwanted)  # type: ignore[arg-type]
    assert [group.reference.source for group in plan.code(50).groups] == [Unused(), Unused()]


def test_tiles_equal_the_whole(model: Model) -> None:
    target, _ = images(150, 170)
    found = []
    for tile in (64, 512):
        low = tiled.downscale(target, None, model.rescaler, 50, tile)
        hr_hat = np.empty((150, 170, 3), np.float32)
        for box, part in tiled.upscale(low, None, (150, 170), model.rescaler, 50, tile=tile):
            hr_hat[box.slices] = part
        found.append((low.lr, hr_hat))
    for one, other in zip(*found, strict=True):  # but where a sample lies between two levels of 8 bits
        assert np.mean(np.abs(one - other) > 0.01) < 0.01


def test_a_file_that_does_not_fit_its_config_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    store(net(), path)
    data = path.read_bytes()
    for old, new in ((b'cells\\": 1', b'cells\\": 2'), (b'scale\\": 2', b'scale\\": 3'), (b"fgrn", b"fgrm")):
        assert data.count(old) == 1
        path.write_bytes(data.replace(old, new))
        with pytest.raises(WeightsError, match=str(path)):
            load(path)


@pytest.mark.parametrize("wrong", [{"scale": 3}, {"width": 2}, {"cells": 0}, {"growth": 1.5}, {"up_blocks": True}])
def test_config_refuses(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[-1]):
        FgrnConfig(**wrong)
