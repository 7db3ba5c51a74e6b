"""The learned codec's layers: what CompressAI's give, and CompressAI's bytes, where that is installed (extra `gmm`)."""

import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from refscale_codec import model, weights_files
from refscale_codec.lrcodec.gmm import export, layers
from refscale_codec.lrcodec.gmm import net as nets
from refscale_codec.lrcodec.gmm.codec import GmmCodec
from refscale_codec.lrcodec.gmm.net import Gmm

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def theirs() -> Iterator[types.SimpleNamespace]:
    """Return CompressAI's layers under the names of ours.

    Its package imports torchvision and torch-geometric, which these modules do not need; so a bare package of that name
    stands in for it while they are imported.
    """
    spec = importlib.util.find_spec("compressai")
    if spec is None or spec.submodule_search_locations is None:
        required = os.environ.get("REFSCALE_REQUIRE_COMPRESSAI")
        (pytest.fail if required else pytest.skip)("CompressAI is not installed (refscale-codec[gmm])")
    package = types.ModuleType("compressai")
    package.__path__ = list(spec.submodule_search_locations)
    package.__dict__.update(get_entropy_coder=lambda: "ans", available_entropy_coders=lambda: ["ans"])
    sys.modules["compressai"] = package
    found = importlib.import_module("compressai.layers.layers")
    entropy = importlib.import_module("compressai.entropy_models.entropy_models")
    gdn = importlib.import_module("compressai.layers.gdn")

    class EntropyBottleneck(entropy.EntropyBottleneck):  # type: ignore[misc, name-defined]
        def likelihood(self, values: torch.Tensor) -> torch.Tensor:
            mass: torch.Tensor = self._likelihood(values)[0]
            return mass

    yield types.SimpleNamespace(
        conv1x1=found.conv1x1,
        conv3x3=found.conv3x3,
        subpel_conv3x3=found.subpel_conv3x3,
        GDN=gdn.GDN,
        ResidualBlock=lambda channels: found.ResidualBlock(channels, channels),
        ResidualBlockWithStride=found.ResidualBlockWithStride,
        ResidualBlockUpsample=found.ResidualBlockUpsample,
        AttentionBlock=found.AttentionBlock,
        MaskedConv2d=found.MaskedConv2d,
        EntropyBottleneck=EntropyBottleneck,
    )
    for name in [name for name in sys.modules if name.partition(".")[0] == "compressai"]:
        del sys.modules[name]


def kinds(of: types.ModuleType | types.SimpleNamespace) -> dict[str, Callable[[], nn.Module]]:
    """Return one small layer of every kind."""
    return {
        "subpel_conv3x3": lambda: of.subpel_conv3x3(8, 6, 2),
        "GDN": lambda: of.GDN(8),
        "inverse GDN": lambda: of.GDN(8, inverse=True),
        "ResidualBlock": lambda: of.ResidualBlock(8),
        "ResidualBlockWithStride": lambda: of.ResidualBlockWithStride(8, 10),
        "ResidualBlockUpsample": lambda: of.ResidualBlockUpsample(8, 6),
        "AttentionBlock": lambda: of.AttentionBlock(8),
        "MaskedConv2d": lambda: of.MaskedConv2d(8, 8, kernel_size=5, padding=2),
        "grouped MaskedConv2d": lambda: of.MaskedConv2d(8, 8, kernel_size=5, padding=2, groups=8),
        "EntropyBottleneck": lambda: of.EntropyBottleneck(8),
    }


def copied(source: nn.Module, target: nn.Module) -> None:
    """Give a module another's parameters; of CompressAI's only buffers may have no counterpart."""
    missing, superfluous = target.load_state_dict(source.state_dict(), strict=False)
    assert superfluous == []
    assert set(missing).isdisjoint(dict(target.named_parameters()))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", kinds(layers))
def test_a_layer_and_its_gradients_are_those_of_compressai(
    theirs: types.SimpleNamespace, kind: str, training: bool
) -> None:
    torch.manual_seed(1)
    own, other = kinds(layers)[kind]().train(training), kinds(theirs)[kind]().train(training)
    with torch.no_grad():
        for parameter in own.parameters():  # some below their bounds
            parameter += 0.2 * torch.randn_like(parameter)
    copied(own, other)
    x = 3 * torch.randn(2, 8, 10, 12)
    results = []
    for layer in (own, other):
        torch.manual_seed(2)
        start = x.clone().requires_grad_()
        given = layer(start)
        outputs = given if isinstance(given, tuple) else (given,)
        weight = torch.linspace(-1, 2, outputs[-1].numel()).reshape(outputs[-1].shape)
        (weight * sum(outputs)).sum().backward()
        grads = {name: x.grad for name, x in layer.named_parameters() if x.grad is not None}
        if "Masked" in kind:
            grads["weight"] = grads["weight"].flatten(2)[:, :, :12]
        results.append((outputs, start.grad, grads))
    (own_outputs, own_grad, own_grads), (outputs, grad, grads) = results
    for a, b in zip(own_outputs, outputs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own_grad, grad, rtol=1e-4, atol=1e-4)
    assert own_grads.keys() == grads.keys()
    for name in grads:
        torch.testing.assert_close(own_grads[name], grads[name], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", kinds(layers))
def test_a_fresh_layer_starts_as_compressais(theirs: types.SimpleNamespace, kind: str) -> None:
    fresh = []
    for of in (layers, theirs):
        torch.manual_seed(4)
        fresh.append(dict(kinds(of)[kind]().named_parameters()))
    assert fresh[0].keys() == fresh[1].keys()
    for name, parameter in fresh[0].items():
        torch.testing.assert_close(parameter, fresh[1][name], rtol=1e-6, atol=1e-7)


@pytest.fixture(scope="module")
def shipped() -> Gmm:
    low_res = model.load(weights_files.shipped(2, "gmm")).low_res
    assert isinstance(low_res, GmmCodec)
    return low_res.net


@pytest.fixture(scope="module")
def counterpart(theirs: types.SimpleNamespace, shipped: Gmm) -> Gmm:
    """Return the shipped net out of CompressAI's layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nets, "layers", theirs)
        net = Gmm(shipped.config)
    copied(shipped, net)
    net.entropy_model = shipped.entropy_model
    return net.eval().requires_grad_(False)


def low_res_pair() -> tuple[np.ndarray, np.ndarray]:
    """Return a low-res picture and its reference, [90, 70, 3]."""
    halves = (PIL.Image.open(EXAMPLES / name).convert("RGB").reduce(2) for name in ("target.png", "reference.png"))
    target, reference = (np.asarray(half)[:90, :70] for half in halves)
    return target.astype(np.float32), reference


@pytest.mark.parametrize("quality", [15, 60, 95])
def test_the_shipped_net_codes_to_the_bytes_that_compressais_layers_give(
    counterpart: Gmm, shipped: Gmm, quality: int
) -> None:
    lr, reference = low_res_pair()
    own, other = GmmCodec(shipped), GmmCodec(counterpart)
    payload = own.code(lr, reference, quality).payload
    assert payload == other.code(lr, reference, quality).payload
    own_lr, other_lr = (x.decode(payload, lr.shape[:2], reference, quality) for x in (own, other))
    assert abs(own_lr - other_lr).max() <= 255 * 1e-5


def test_integers_made_of_compressais_layers_are_the_same(counterpart: Gmm, shipped: Gmm) -> None:
    own, other = (export.to_integers(net).tensors() for net in (shipped, counterpart))
    assert own.keys() == other.keys()
    for name, tensor in own.items():
        assert torch.equal(tensor, other[name])


# --- laws that need no counterpart -----------------------------------------------------------------------------------


def test_a_gdn_and_its_inverse_divide_and_multiply_by_the_same() -> None:
    torch.manual_seed(1)
    forward, inverse = layers.GDN(6), layers.GDN(6, inverse=True)
    inverse.load_state_dict(forward.state_dict())
    x = torch.randn(1, 6, 5, 5)
    torch.testing.assert_close(forward(x) * inverse(x), x * x)
    torch.testing.assert_close(forward(x), x / torch.sqrt(1 + 0.1 * x**2))


def test_a_masked_convolution_sees_only_what_came_before() -> None:
    x = torch.randn(1, 4, 9, 9, requires_grad=True)
    layers.MaskedConv2d(4, 4, kernel_size=5, padding=2)(x)[..., 4, 4].sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().sum(dim=(0, 1)).nonzero().tolist()
    assert seen == [[y, x] for y in (2, 3, 4) for x in range(2, 7) if (y, x) < (4, 4)]


def test_the_likelihoods_of_all_whole_numbers_add_up() -> None:
    torch.manual_seed(1)
    bottleneck = layers.EntropyBottleneck(3)
    whole = torch.arange(-2000.0, 2001).expand(3, 1, -1)
    torch.testing.assert_close(bottleneck.likelihood(whole).sum(dim=2), torch.ones(3, 1), rtol=1e-4, atol=1e-4)


def test_values_get_noise_in_training_and_are_rounded_otherwise() -> None:
    bottleneck, x = layers.EntropyBottleneck(3), 5 * torch.randn(2, 3, 4, 5)
    noisy, likelihood = bottleneck.train()(x)
    assert 0.3 < float((noisy - x).detach().abs().max()) <= 0.5
    assert likelihood.shape == x.shape
    assert torch.equal(bottleneck.eval()(x)[0], x.round())
