"""Latents of the GMM codec <-> bytes: lossless, and alike on every machine.

    z ──hyper──┐
    ref ───────┼─> fixed sums ──┐
    quality ───┘                ├─ parameters ──> mixture of each latent ──> range coder
    y, upper and left ─context──┘

The hyper-latents z come first, each channel under its own frequencies. The latents y follow in waves: a latent needs
those up to two rows above and two columns to the left (a 5x5 mask), so all positions with the same x + 3 y can be coded
at once. All networks are integer ones (`integers`).

After Minnen et al. (arXiv 1809.02736) and Cheng et al. (arXiv 2001.01568), the order aside.
"""

from collections.abc import Iterator
from typing import NamedTuple

import constriction
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from refscale_codec.errors import ContainerError
from refscale_codec.lrcodec import mixture
from refscale_codec.lrcodec.integers import FRACTION, Layer
from refscale_codec.lrcodec.mixture import Integers, Mixture, Tables

TAPS = [(dy, dx) for dy in (-2, -1, 0) for dx in (-2, -1, 0, 1, 2) if (dy, dx) < (0, 0)]
"""Rows and columns, from a latent, of those that its context sees."""

HYPER = 4  # latents a side that share a hyper-latent
Z_LARGEST = 15  # magnitude of a hyper-latent
_ONE = 1 << 16  # frequencies add up to that
_CATEGORICAL = constriction.stream.model.Categorical(perfect=False)


class EntropyModel(NamedTuple):
    """Everything integer in a weights file; n is the number of channels of y and of z."""

    hyper: list[Layer]  # z [n, h/4, w/4] -> [2n, h, w]
    reference: list[Layer]  # low-res reference [3, 16h, 16w], 7 binary places, -> [r, h, w]
    context: Layer  # 12n neighbours of a position, 1x1 -> 2n
    parameters: list[Layer]  # 2n + 2n + r + 2 for the quality, 1x1 -> 9n: scales, means, logits; components outermost
    frequency: Integers  # of z, [n, 2 Z_LARGEST + 1], each row adds up to 2^16
    tables: Tables

    @property
    def channels(self) -> int:
        """The number n of channels."""
        return len(self.frequency)

    def tensors(self) -> dict[str, Tensor]:
        """Return all integers by name, for a weights file; strides and the like follow from the architecture."""
        tables = {"frequency": self.frequency, "normal": self.tables.normal, "exponential": self.tables.exponential}
        found = {name: torch.from_numpy(table).to(torch.int32) for name, table in tables.items()}
        for name, layer in self._layers():
            found[f"{name}.weight"] = layer.weight.to(torch.int16)
            found[f"{name}.bias"] = layer.bias.to(torch.int64)
            found[f"{name}.shift"] = layer.shift.to(torch.int16)
        return found

    def _layers(self) -> list[tuple[str, Layer]]:
        lists = {"hyper": self.hyper, "reference": self.reference, "parameters": self.parameters}
        named = [(f"{name}.{i}", layer) for name, layers in lists.items() for i, layer in enumerate(layers)]
        return [*named, ("context", self.context)]

    def filled(self, given: dict[str, Tensor]) -> "EntropyModel":
        """Return a model of the same architecture with the integers of a weights file.

        Raises:
            ValueError: an array is missing, superfluous, or of another shape or kind.
        """
        own = self.tensors()
        if given.keys() != own.keys():
            raise ValueError(f"arrays differ: {', '.join(sorted(given.keys() ^ own.keys()))[:80]}")
        for name, tensor in own.items():
            if (tensor.shape, tensor.dtype) != (given[name].shape, given[name].dtype):
                raise ValueError(f"{name} is {given[name].dtype} of shape {tuple(given[name].shape)}")
        if (given["frequency"] < 1).any() or (given["frequency"].sum(dim=1) != _ONE).any():
            raise ValueError("frequencies do not add up")
        exact = {name: tensor.double() for name, tensor in given.items()}
        layers = {
            name: layer._replace(
                weight=exact[f"{name}.weight"], bias=exact[f"{name}.bias"], shift=exact[f"{name}.shift"]
            )
            for name, layer in self._layers()
        }
        normal, exponential, frequency = (
            given[name].numpy().astype(np.int64) for name in ("normal", "exponential", "frequency")
        )
        return EntropyModel(
            hyper=[layers[f"hyper.{i}"] for i in range(len(self.hyper))],
            reference=[layers[f"reference.{i}"] for i in range(len(self.reference))],
            context=layers["context"],
            parameters=[layers[f"parameters.{i}"] for i in range(len(self.parameters))],
            frequency=frequency,
            tables=Tables(normal, exponential),
        )


class Latents(NamedTuple):
    """What a low-res picture has become."""

    y: Integers  # [n, h, w] within mixture.LARGEST
    z: Integers  # [n, ceil(h / HYPER), ceil(w / HYPER)] within Z_LARGEST


def fixed_sums(model: EntropyModel, z: Integers, reference: Tensor, quality: int, height: int, width: int) -> Tensor:
    """Return what all but the context adds to the first layer of parameters, [c, height, width].

    Args:
        model: the integer networks.
        z: hyper-latents.
        reference: [3, 16 height, 16 width] integers within -128..127, zeros for none.
        quality: 1..100.
        height: of y.
        width: of y.
    """
    hyper = torch.from_numpy(z.astype(np.float64))[None]
    for layer in model.hyper:
        hyper = layer(hyper)
    reference = reference[None]
    for layer in model.reference:
        reference = layer(reference)
    one = 1 << FRACTION
    planes = torch.tensor([one * quality // 100, one * quality**4 // 100**4], dtype=torch.float64)
    context = torch.zeros(1, len(model.context.bias), height, width, dtype=torch.float64)
    parts = [context, hyper[..., :height, :width], reference, planes[None, :, None, None].expand(-1, -1, height, width)]
    return model.parameters[0].total(torch.cat(parts, dim=1))[0]


def _mixture(model: EntropyModel, padded: Tensor, fixed: Tensor, ys: Integers, xs: Integers) -> Mixture:
    """Return the mixtures of all channels at positions [p]: p * n of them, position by position.

    `padded` is y with two rows above it and two columns on either side.
    """
    y, x = torch.from_numpy(ys), torch.from_numpy(xs)
    around = torch.cat([padded[:, y + 2 + dy, x + 2 + dx] for dy, dx in TAPS])  # [12n, p]
    context = model.context(around[None, :, None])
    first, *others = model.parameters
    total = functional.conv2d(context, first.weight[:, : context.shape[1]])
    hidden = first.finish(total + fixed[:, y, x][None, :, None])
    for layer in others:
        hidden = layer(hidden)
    kinds = hidden[0, :, 0].numpy().astype(np.int64).reshape(3, mixture.COMPONENTS, model.channels, -1)
    scale, mean, logit = kinds.transpose(0, 1, 3, 2).reshape(3, mixture.COMPONENTS, -1)
    reach = mixture.STEPS * mixture.LARGEST
    return Mixture(np.clip(scale, 0, mixture.SCALES - 1), np.clip(mean, -reach, reach), logit)


def _waves(height: int, width: int) -> Iterator[tuple[Integers, Integers]]:
    """Yield rows and columns of the positions that can be coded at once, in their order."""
    time = np.arange(width) + 3 * np.arange(height)[:, None]
    order = np.argsort(time, axis=None, kind="stable")
    ends = np.flatnonzero(np.diff(time.ravel()[order])) + 1
    for positions in np.split(order, ends):
        yield tuple(np.divmod(positions, width))  # type: ignore[misc]


def encode(latents: Latents, reference: Tensor, quality: int, model: EntropyModel) -> bytes:
    """Return the latents as bytes; for the arguments see `fixed_sums`."""
    y, z = latents
    height, width = y.shape[1:]
    coder = constriction.stream.queue.RangeEncoder()
    rows = np.repeat(np.arange(len(z)), z[0].size)
    coder.encode((z.ravel() + Z_LARGEST).astype(np.int32), _CATEGORICAL, model.frequency[rows] / _ONE)

    fixed = fixed_sums(model, z, reference, quality, height, width)
    padded = functional.pad(torch.from_numpy(y.astype(np.float64)), (2, 2, 2, 0))
    waves = list(_waves(height, width))
    mixtures = [_mixture(model, padded, fixed, *wave) for wave in waves]
    values = [y[:, ys, xs].T.ravel() for ys, xs in waves]
    off = [v - mixture.middle(m, model.tables) for v, m in zip(values, mixtures, strict=True)]
    window = mixture.window_for(np.concatenate(off))
    for v, m in zip(values, mixtures, strict=True):
        mixture.encode(coder, v, m, window, model.tables)
    return bytes([mixture.WINDOWS.index(window)]) + bytes(coder.get_compressed().astype("<u4").tobytes())


def decode(payload: bytes, height: int, width: int, reference: Tensor, quality: int, model: EntropyModel) -> Latents:
    """Return the latents, y of [height, width], that `encode` was given.

    Raises:
        ContainerError: the payload holds no such latents.
    """
    if len(payload) < 5 or len(payload) % 4 != 1 or payload[0] >= len(mixture.WINDOWS):
        raise ContainerError("the low-res payload holds no latents")
    window = mixture.WINDOWS[payload[0]]
    coder = constriction.stream.queue.RangeDecoder(np.frombuffer(payload, "<u4", offset=1).astype(np.uint32))
    n = model.channels
    size = (-(-height // HYPER), -(-width // HYPER))
    padded = torch.zeros(n, height + 2, width + 4, dtype=torch.float64)
    try:
        rows = np.repeat(np.arange(n), size[0] * size[1])
        symbols = coder.decode(_CATEGORICAL, model.frequency[rows] / _ONE)
        z = symbols.astype(np.int64).reshape(n, *size) - Z_LARGEST
        fixed = fixed_sums(model, z, reference, quality, height, width)
        for ys, xs in _waves(height, width):
            values = mixture.decode(coder, _mixture(model, padded, fixed, ys, xs), window, model.tables)
            padded[:, torch.from_numpy(ys) + 2, torch.from_numpy(xs) + 2] = torch.from_numpy(
                values.reshape(-1, n).T.astype(np.float64)
            )
        if not coder.maybe_exhausted():
            raise ContainerError("the low-res payload is damaged: it has bytes to spare")
    except (AssertionError, ValueError):
        raise ContainerError("the low-res payload is damaged: it does not decode") from None
    return Latents(padded[:, 2:, 2:-2].numpy().astype(np.int64), z)
