"""The learned codec's entropy model: from the trained net to integers, and from the integers of a weights file.

The integers are computed once, when a weights file is written (`to_integers`), and only read afterwards (`read`), so
that encoder and decoder agree on every machine. Shapes follow from the `GmmConfig` alone.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from refscale_codec.lrcodec.gmm import mixture
from refscale_codec.lrcodec.gmm.integers import CLAMP, FRACTION, Layer, exported
from refscale_codec.lrcodec.gmm.latents import HYPER, TAPS, Z_LARGEST, EntropyModel
from refscale_codec.lrcodec.gmm.mixture import Integers, Tables
from refscale_codec.lrcodec.gmm.net import Gmm, GmmConfig, companded, convolutions, quality_planes

_REFERENCE_PLACES = 7  # fractional bits of the low-res reference, in -1..1
_STEP_PLACES = 4  # of means and logits: `mixture.STEPS`
_ONE = 1 << 16  # sum of frequencies
_QUALITIES = 101


class _Shape(NamedTuple):
    """The part of a `Layer` that follows from the architecture."""

    weight: tuple[int, int, int, int]
    stride: int = 1
    leaky: bool = True
    shuffle: int = 1

    def filled(self, weight: Tensor, bias: Tensor, shift: Tensor) -> Layer:
        return Layer(weight.double(), bias.double(), shift.double(), self.stride, self.leaky, self.shuffle)


def _shapes(config: GmmConfig) -> dict[str, _Shape]:
    """Return the shapes of all layers by their names in a weights file."""
    n, w, r = config.channels, config.width, config.reference_channels
    shapes = {
        "hyper.0": _Shape((HYPER**2 * w, w // 2, 3, 3), shuffle=HYPER),
        "hyper.1": _Shape((w, w, 3, 3), leaky=False),
        "reference.0": _Shape((r, 3, 5, 5), stride=4),
        "reference.1": _Shape((r, r, 3, 3), stride=2),
        "context": _Shape((n, len(TAPS) * n, 1, 1), leaky=False),
        "slope": _Shape((n, len(TAPS), 1, 1), leaky=False),
    }
    for group, sizes in enumerate(config.perceptrons):
        for i, (before, after) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            shapes[f"parameters.{group}.{i}"] = _Shape((after, before, 1, 1), leaky=i < len(sizes) - 2)
    return shapes


def _tables(config: GmmConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tables by their names in a weights file."""
    return {
        "frequency": (config.width // 2, 2 * Z_LARGEST + 1),
        "quality": (2, _QUALITIES),
        "compand": (mixture.LARGEST + 1,),
    } | mixture.TABLE_SHAPES


def _assembled(layers: dict[str, Layer], tables: dict[str, Integers]) -> EntropyModel:
    """Return the entropy model of its layers and tables by name."""
    groups = sorted({name.rpartition(".")[0] for name in layers if name.startswith("parameters.")})
    own = {name: tables[name] for name in Tables._fields}
    return EntropyModel(
        hyper=[layers["hyper.0"], layers["hyper.1"]],
        reference=[layers["reference.0"], layers["reference.1"]],
        context=layers["context"],
        slope=layers["slope"],
        parameters=[[layers[name] for name in layers if name.startswith(f"{group}.")] for group in groups],
        frequency=tables["frequency"],
        quality=tables["quality"],
        compand=tables["compand"],
        tables=Tables(**own),
    )


def read(config: GmmConfig, tensors: dict[str, Tensor]) -> EntropyModel:
    """Return the entropy model with the integers of a weights file (`EntropyModel.tensors`).

    Raises:
        ValueError: an array is missing, superfluous, of another shape or kind, or with numbers out of range.
    """
    shapes = _shapes(config)
    wanted = {name: (size, torch.int32) for name, size in _tables(config).items()}
    for name, shape in shapes.items():
        wanted[f"{name}.weight"] = (shape.weight, torch.int16)
        wanted[f"{name}.bias"] = (shape.weight[:1], torch.int64)
        wanted[f"{name}.shift"] = (shape.weight[:1], torch.int16)
    if tensors.keys() != wanted.keys():
        raise ValueError(f"arrays differ: {', '.join(sorted(tensors.keys() ^ wanted.keys()))[:80]}")
    for name, tensor in tensors.items():
        if (tuple(tensor.shape), tensor.dtype) != wanted[name]:
            raise ValueError(f"its array {name} has another size or type than its description of the net says")
    layers = {
        name: shape.filled(*(tensors[f"{name}.{part}"] for part in ("weight", "bias", "shift")))
        for name, shape in shapes.items()
    }
    for name, layer in layers.items():
        try:
            layer.require_exact()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    tables = {name: tensors[name].numpy().astype(np.int64) for name in _tables(config)}
    if (tables["frequency"] < 1).any() or (tables["frequency"].sum(axis=1) != _ONE).any():
        raise ValueError("frequencies do not add up")
    for name in ("quality", "compand"):
        if tables[name].min() < 0 or tables[name].max() > CLAMP:
            raise ValueError(f"{name} is out of range")
    model = _assembled(layers, tables)
    model.tables.require_sound()
    return model


@torch.no_grad()
def to_integers(net: Gmm) -> EntropyModel:
    """Return the entropy model of a trained net in integers, for a new weights file."""
    shapes, n = _shapes(net.config), net.config.channels
    sources = {f"hyper.{i}": (x, FRACTION if i else 0, FRACTION) for i, x in enumerate(convolutions(net.hyper))}
    for i, x in enumerate(convolutions(net.reference)):
        sources[f"reference.{i}"] = (x, FRACTION if i else _REFERENCE_PLACES, FRACTION)
    sources["context"] = (_over_taps(net.context, n), FRACTION, FRACTION)
    sources["slope"] = (_over_taps(net.slope, 1), 0, _STEP_PLACES)
    layers = {
        name: exported(*source, leaky=shapes[name].leaky, shuffle=shapes[name].shuffle)
        for name, source in sources.items()
    }
    for group, perceptron in enumerate(net.mixture):
        *others, last = convolutions(perceptron)
        for i, x in enumerate(others):
            layers[f"parameters.{group}.{i}"] = exported(x, FRACTION, FRACTION)
        third = last.out_channels // 3  # scale indices, then means and logits
        places = torch.cat([torch.zeros(third), torch.full((2 * third,), float(_STEP_PLACES))])
        layers[f"parameters.{group}.{len(others)}"] = exported(last, FRACTION, places, leaky=False)
    planes = quality_planes(torch.arange(_QUALITIES) / 100)[..., 0, 0].T
    magnitudes = companded(torch.arange(mixture.LARGEST + 1).double())
    tables = {
        "frequency": _frequency(net),
        "quality": np.rint(planes.double().numpy() * 2**FRACTION).astype(np.int64),
        "compand": np.rint(magnitudes.numpy() * 2**FRACTION).astype(np.int64),
    }
    return _assembled(layers, tables | mixture.make_tables()._asdict())


def _frequency(net: Gmm) -> Integers:
    """Return how often each hyper-latent comes, [w/2, 2 Z_LARGEST + 1], in parts of 2^16."""
    channels, values = net.config.width // 2, 2 * Z_LARGEST + 1
    whole = torch.arange(values, device=net.gain.device).float() - Z_LARGEST
    share = net.bottleneck.likelihood(whole.expand(channels, 1, values))[:, 0].double().cpu().numpy()
    frequency = 1 + np.floor(share / share.sum(axis=1, keepdims=True) * (_ONE - values)).astype(np.int64)
    frequency[np.arange(channels), frequency.argmax(axis=1)] += _ONE - frequency.sum(axis=1)
    return np.asarray(frequency)


def _over_taps(convolution: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Return a masked convolution as one over the neighbours that it sees, of so many channels each."""
    assert convolution.bias is not None
    gathered = nn.Conv2d(len(TAPS) * channels, convolution.out_channels, 1)
    taps = [convolution.weight[:, :, dy + 2, dx + 2] for dy, dx in TAPS]
    gathered.weight.copy_(torch.stack(taps, dim=2).flatten(1)[:, :, None, None])
    assert gathered.bias is not None
    gathered.bias.copy_(convolution.bias)
    return gathered
