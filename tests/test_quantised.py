import logging
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refscale_codec.rescale import quantised
from refscale_codec.rescale.quantised import HIGHEST, IntegerConv, QuantisedBlock, QuantisedConv, make_exact

CARRIERS = (torch.bfloat16, torch.float32, torch.float64)


def activations(*shape: int, seed: int = 0, low: int = 0) -> torch.Tensor:
    return torch.randint(low, HIGHEST + 1, shape, generator=torch.Generator().manual_seed(seed)).float()


def by_integers(layer: IntegerConv, x: torch.Tensor) -> torch.Tensor:
    """The layer's sums in 64-bit integers, scaled and rounded to bfloat16."""
    windows = torch.nn.functional.unfold(x.double(), 3, padding=1).long()  # [b, in * 9, h * w]
    sums = torch.einsum("oi,bix->box", layer.weight.long().flatten(1), windows) + layer.bias.long()[:, None]
    scaled = sums.double() * torch.tensor([2.0**e for e in layer.exponent.tolist()], dtype=torch.float64)[:, None]
    return scaled.float().bfloat16().float().unflatten(-1, x.shape[-2:])


@settings(max_examples=30, deadline=None)
@given(
    *(st.integers(0, 1000), st.sampled_from([3, 32, 64, 96]), st.sampled_from([1, 32, 64])),
    *(st.floats(0.01, 30), st.booleans(), st.booleans()),
)
def test_convolution_equals_its_integers_in_every_carrier(seed, channels_in, channels_out, gain, rectifies, strided):
    torch.manual_seed(seed)
    layer = QuantisedConv(channels_in, channels_out, gain, rectifies=rectifies)
    torch.nn.init.normal_(layer.bias)
    x = activations(2, channels_in, 9, 11, seed=seed, low=-HIGHEST)
    x = x if strided else x.contiguous(memory_format=torch.channels_last)
    given = quantised.activations(x, rectifies)
    assert given.min() >= (-64 if rectifies else -127)
    exact = layer.exact()
    wanted = by_integers(exact, given)
    for carrier in CARRIERS:
        assert torch.equal(exact(x.to(carrier)).float(), wanted)
        assert torch.equal(layer(x.to(carrier)).float(), wanted)  # what is trained is what is used
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantised, "in_eight_bits", lambda device: False)
        assert torch.equal(layer.exact()(x.bfloat16()).float(), wanted)


@pytest.mark.parametrize("carrier", [torch.bfloat16, torch.float32])
def test_gradients_are_those_of_the_convolution_of_floats(monkeypatch, carrier):
    gradients = []
    for eight_bits in (True, False):
        monkeypatch.setattr(quantised, "in_eight_bits", lambda device, chosen=eight_bits: chosen)
        torch.manual_seed(4)
        layer = QuantisedConv(32, 16)
        x = (activations(2, 32, 8, 8, low=-HIGHEST) / 2).to(carrier).requires_grad_()
        (layer(x).float() * torch.randn(2, 16, 8, 8)).sum().backward()
        gradients.append((x.grad, layer.weight.grad, layer.bias.grad))
    for ours, wanted in zip(*gradients, strict=True):
        assert ours is not None and ours.abs().max() > 0
        assert torch.allclose(ours.float(), wanted.float(), rtol=1e-5 if carrier == torch.float32 else 0.02)


def test_saturating_or_missing_convolutions_of_eight_bits_are_not_used(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    device, usual = torch.device("cpu"), quantised.EightBits.__call__
    look = quantised.exact_in_eight_bits
    monkeypatch.setattr(quantised.EightBits, "__call__", lambda layer, x: usual(layer, x).clamp(max=2.0**14))
    assert not look(device)

    def missing(*arguments):
        raise AttributeError("no such operator")

    monkeypatch.setattr(quantised.EightBits, "__init__", missing)
    assert not look(device)
    assert caplog.messages == ["no convolutions of 8-bit integers: no such operator"]
    assert not look(torch.device("meta"))


def test_slow_convolutions_of_eight_bits_are_not_used(monkeypatch):
    look, usual = quantised.in_eight_bits.__wrapped__, quantised.EightBits.__call__
    monkeypatch.setattr(quantised, "exact_in_eight_bits", lambda device: True)
    monkeypatch.setattr(quantised.EightBits, "__call__", lambda layer, x: (time.sleep(0.02), usual(layer, x))[1])
    assert not look(torch.device("cpu"))
    monkeypatch.setattr(quantised.EightBits, "__call__", lambda layer, x: x)
    assert look(torch.device("cpu"))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([1, 27, 64, 96, 160]), st.floats(1e-6, 100), st.floats(0, 1), st.floats(-500, 500))
def test_trained_weights_are_never_refused(channels_in, size, spread, bias):
    layer = QuantisedConv(channels_in, 4)
    with torch.no_grad():  # at a spread of 0 all as large as the largest, where sums are highest
        signs = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1)).sign()
        layer.weight.copy_(size * signs * (1 - spread * torch.rand(layer.weight.shape)))
        layer.bias.fill_(bias)
    assert layer.exact().largest_sum() <= quantised.EXACT_SUM


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # by torch, of its own flags
@pytest.mark.parametrize("threads", [1, 2])
def test_block_is_the_same_without_onednn_and_with_more_threads(threads):
    torch.manual_seed(3)
    block = QuantisedBlock(32)
    make_exact(block)
    x = (activations(1, 32, 40, 40, low=-HIGHEST) / 4).bfloat16()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        wanted = block(x.float())
        assert torch.equal(block(x).float(), wanted)
        with torch.backends.mkldnn.flags(enabled=False):
            assert torch.equal(block(x.float()), wanted)
    finally:
        torch.set_num_threads(before)
    assert not torch.equal(wanted, x.float())


def test_all_at_their_highest_is_exact_or_refused():
    layer = IntegerConv(96, 32, rectifies=True)
    layer.weight.fill_(127)
    with pytest.raises(ValueError, match="not exact"):
        layer(activations(1, 96, 4, 4))
    layer.weight.fill_(101)
    assert layer.largest_sum() <= quantised.EXACT_SUM
    x = torch.full((1, 96, 8, 8), float(HIGHEST))
    for carrier in CARRIERS:
        assert torch.equal(layer(x.to(carrier)).float(), by_integers(layer, x))


def test_integers_are_near_what_they_stand_for():
    layer = QuantisedConv(64, 64)
    whole, _, exponent = quantised.integers(layer.weight.detach(), layer.bias.detach())
    step = torch.exp2(exponent)[:, None, None, None]
    assert whole.abs().max() <= 127 and whole.abs().amax(dim=(1, 2, 3)).min() >= 63
    assert ((whole * step - layer.weight).abs() <= step / 2).all()


def test_gradient_passes_inside_of_the_range_only():
    x = torch.tensor([-400.0, -14.0, 0.4, 7.6, 190.7, 400.0], requires_grad=True)
    y = quantised.activations(x, rectifies=True)
    y.sum().backward()
    assert y.tolist() == [-64, -4, 0, 8, 191, 191]
    assert x.grad is not None and x.grad.tolist() == [0, 0.25, 1, 1, 0, 0]
