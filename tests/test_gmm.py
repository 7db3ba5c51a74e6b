"""The learned low-res codec: integers follow what was trained, and latents and pictures come back."""

import copy

import numpy as np
import pytest
import torch

from refscale_codec.lrcodec.gmm import codec, export, latents, mixture
from refscale_codec.lrcodec.gmm.codec import GmmCodec
from refscale_codec.lrcodec.gmm.net import Gmm, GmmConfig, rounded

QUALITY = 80


@pytest.fixture(scope="module")
def net() -> Gmm:
    """Return a small net, a little trained, so that latents are not all zero and every part has a say."""
    torch.manual_seed(1)
    small = Gmm(GmmConfig(channels=24, width=16, reference_channels=8))
    optimizer = torch.optim.Adam(small.parameters(), lr=2e-3)
    for _ in range(20):
        lr, reference = 0.5 + 0.2 * torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
        coded = small(lr, reference, torch.rand(2))
        loss = coded.bits.mean() / 1024 + 100 * (coded.lr_hat - lr).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    small.entropy_model = export.to_integers(small)
    return small.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def coder(net: Gmm) -> GmmCodec:
    return GmmCodec(net)


def picture(height: int, width: int) -> torch.Tensor:
    return 0.5 + 0.2 * torch.randn(3, height, width, generator=torch.Generator().manual_seed(2))


def low_res_reference(height: int, width: int) -> torch.Tensor:
    """Return a low-res reference in integers for latents of this size."""
    drawn = torch.randint(-128, 128, (3, 8 * height, 8 * width), generator=torch.Generator().manual_seed(3))
    return drawn.double()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (16, 16), (70, 90)])
def test_latents_come_back_and_make_a_picture_of_the_size(coder: GmmCodec, height: int, width: int) -> None:
    rows, columns = -(-height // codec.STRIDE), -(-width // codec.STRIDE)
    made = coder.analyse(picture(height, width), QUALITY)
    model, reference = coder.entropy_model, low_res_reference(rows, columns)
    payload = latents.encode(made, reference, QUALITY, model)
    found = latents.decode(payload, rows, columns, reference, QUALITY, model)
    assert (found.y == made.y).all()
    assert (found.z == made.z).all()
    assert coder.synthesise(found.y, height, width, QUALITY).shape == (3, height, width)


def test_integers_cost_within_one_percent_of_what_training_counts(net: Gmm) -> None:
    made = GmmCodec(net).analyse(picture(320, 320), QUALITY)
    reference = low_res_reference(40, 40)
    payload = latents.encode(made, reference, QUALITY, export.to_integers(net))
    y, z = (torch.from_numpy(x).float()[None] for x in made)
    parameters = net.mixtures(y, z, reference.float()[None] / 128, torch.tensor([QUALITY / 100]))
    bits = -torch.log2(net.likelihood(y, *parameters)).sum()
    bits -= torch.log2(net.bottleneck.likelihood(z[0].reshape(8, 1, -1))).sum()
    assert abs(made.y).sum() > 100
    assert 8 * len(payload) <= 1.01 * float(bits) + 40  # the last word of the range coder, and the window's byte


def test_training_knows_of_every_input(net: Gmm) -> None:
    lr, reference = picture(32, 32)[None], low_res_reference(4, 4)[None].float() / 128

    def bits(lr: torch.Tensor, reference: torch.Tensor, quality: float) -> float:
        torch.manual_seed(4)
        return float(net(lr, reference, torch.tensor([quality])).bits)

    usual = bits(lr, reference, 0.5)
    assert bits(lr, reference, 0.5) == usual
    assert bits(lr, torch.zeros_like(reference), 0.5) != usual
    assert bits(lr, reference, 0.9) > usual
    assert bits(0.5 + 0 * lr, reference, 0.5) != usual


def test_gains_lie_on_the_line_between_their_knots(net: Gmm) -> None:
    percent = 2 * 2500 ** (torch.tensor([0, 0.5, 1, 8]) / 8)  # of the quantiser at 50
    quality = torch.where(percent > 100, 50 / percent, (200 - percent) / 200)
    found = torch.log(net.gains(quality))[:, :, 0, 0]
    expected = [net.gain[0], (net.gain[0] + net.gain[1]) / 2, net.gain[1], net.gain[8]]
    assert torch.allclose(found, torch.stack(expected), atol=1e-4)


def test_fresh_it_is_the_dct() -> None:
    fresh = Gmm(GmmConfig(channels=192, width=8, reference_channels=8))
    lr = picture(32, 40)[None]
    with torch.no_grad():
        x = torch.nn.functional.conv2d(lr, fresh.forward_dct, stride=8)
        assert torch.allclose(torch.nn.functional.conv_transpose2d(x, fresh.inverse_dct, stride=8), lr, atol=1e-5)


def test_extreme_pictures_have_latents_in_range(coder: GmmCodec) -> None:
    for lr in (torch.full((3, 16, 16), 1e6), torch.zeros(3, 16, 16)):
        made = coder.analyse(lr, 100)
        assert abs(made.y).max() <= mixture.LARGEST
        assert abs(made.z).max() <= latents.Z_LARGEST
        payload = latents.encode(made, low_res_reference(2, 2), 100, coder.entropy_model)
        assert np.array_equal(
            latents.decode(payload, 2, 2, low_res_reference(2, 2), 100, coder.entropy_model).y, made.y
        )


@pytest.fixture(scope="module")
def wide(net: Gmm) -> Gmm:
    """Return the net in double precision, with other kernels, since its last ones began as zeros."""
    other = copy.deepcopy(net).double()
    generator = torch.Generator().manual_seed(5)
    for parameter in other.parameters():
        if parameter.dim() == 4:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return other


def test_tiles_make_what_the_whole_makes(wide: Gmm, monkeypatch: pytest.MonkeyPatch) -> None:
    lr, coder = picture(110, 150).double(), GmmCodec(wide)
    made = coder.analyse(lr, QUALITY)
    whole = coder.synthesise(made.y, 110, 150, QUALITY)
    monkeypatch.setattr(codec.tiles, "TILE", 32)  # type: ignore[attr-defined]
    tiled = coder.analyse(lr, QUALITY)
    assert abs(made.y).max() > 10
    assert np.array_equal(tiled.y, made.y)
    assert np.array_equal(tiled.z, made.z)
    assert torch.allclose(coder.synthesise(made.y, 110, 150, QUALITY), whole, atol=1e-6)


def test_the_halo_is_what_the_nets_look_at(wide: Gmm) -> None:
    lr = torch.rand(1, 3, 160, 160, dtype=torch.float64, requires_grad=True)
    latents_ = torch.rand(1, 26, 20, 20, dtype=torch.float64, requires_grad=True)
    made = wide.analysis(lr)[..., 10, 10], wide.synthesis(latents_)[..., 80:88, 80:88]
    first, last = torch.tensor([80 - codec._HALO] * 2), torch.tensor([87 + codec._HALO] * 2)
    seen = [x.abs().amax(dim=(0, 1)).nonzero() for x in torch.autograd.grad([x.sum() for x in made], [lr, latents_])]
    assert (seen[0].amin(0) >= first).all()
    assert (seen[0].amax(0) <= last).all()
    assert torch.equal(codec.STRIDE * seen[1].amin(0), first)
    assert torch.equal(codec.STRIDE * seen[1].amax(0) + codec.STRIDE - 1, last)


def test_a_gradient_passes_what_survives_rounding() -> None:
    y = torch.tensor([0.0, 0.05, 0.4, 3.3], requires_grad=True)
    rounded(y).sum().backward()
    assert y.grad is not None
    assert rounded(y).tolist() == [0, 0, 0, 3]
    assert y.grad[0] == 0
    assert (y.grad[1:].diff() > 0).all()
    assert 0.99 < y.grad[3] < 1
