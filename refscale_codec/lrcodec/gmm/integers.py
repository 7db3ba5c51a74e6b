"""Small networks whose results are the same integers on every machine.

Weights, activations and results are integers that float64 holds exactly: every sum stays below 2^53, so the order of
additions, threads, vector widths and libraries cannot matter. A layer is a convolution, a division by a power of two
with rounding, a clamp to 16 bits and, where asked, a leaky rectifier of slope 2^-7. The division comes first, that of
the weights, which changes exponents only.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

CLAMP = 32767  # of weights and activations
SLOPE = 2.0**-7  # of the rectifier
FRACTION = 8  # binary places of activations between layers
_EXACT = 53  # bits of float64


class Layer(NamedTuple):
    """A convolution over integers in float64."""

    weight: Tensor  # [out, in, k, k], within CLAMP
    bias: Tensor  # [out]
    shift: Tensor  # [out] binary places that a sum has more than a result
    stride: int = 1
    leaky: bool = True
    shuffle: int = 1  # factor of a pixel shuffle at the end

    def __call__(self, x: Tensor) -> Tensor:
        """Map [b, in, h, w] to [b, out, h', w']."""
        weight, bias = self.divided()
        total = functional.conv2d(x, weight, bias, self.stride, weight.shape[-1] // 2)
        return functional.pixel_shuffle(_finished(total, self.leaky), self.shuffle)

    def divided(self) -> tuple[Tensor, Tensor]:
        """Return weights and biases over 2^shift, a half in the latter, so that a sum has only to be rounded down.

        Exact: a power of two changes exponents only.
        """
        unit = torch.from_numpy(np.ldexp(1.0, -self.shift.numpy().astype(int)))  # exact, which no exp2 need be
        return self.weight * unit[:, None, None, None], self.bias * unit + 0.5

    def require_exact(self) -> None:
        """Raise a ValueError unless every sum is exact: below 2^53, of inputs within CLAMP, and shifted by less."""
        sums = CLAMP * self.weight.abs().sum(dim=(1, 2, 3)) + self.bias.abs()
        if (sums >= 2.0**_EXACT).any() or (self.shift.abs() >= _EXACT).any():
            raise ValueError("sums are not exact")


class Dense(NamedTuple):
    """A layer of kernel 1 as a matrix, for a few positions at a time."""

    weight: Tensor  # [in, out], divided
    bias: Tensor  # [out], likewise
    leaky: bool

    @classmethod
    def of(cls, layer: Layer) -> "Dense":
        """Return a layer so."""
        weight, bias = layer.divided()
        return cls(weight[..., 0, 0].T.contiguous(), bias, layer.leaky)

    def __call__(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        """Map [p, in] to [p, out]; with a start [p, out], sums begin there and not with the biases."""
        return _finished(torch.addmm(self.bias if start is None else start, x, self.weight), self.leaky)


def _finished(total: Tensor, leaky: bool) -> Tensor:
    """Turn divided sums into activations, in place."""
    y = total.floor_().clamp_(-CLAMP, CLAMP)
    return torch.maximum(y, torch.floor(y * SLOPE)) if leaky else y


def leaky(x: Tensor) -> Tensor:
    """The same rectifier for training."""
    return functional.leaky_relu(x, SLOPE)


def exported(
    convolution: nn.Conv2d, before: int, after: Tensor | int, *, leaky: bool = True, shuffle: int = 1
) -> Layer:
    """Return the layer of a trained convolution.

    Args:
        convolution: square, padded by half its size.
        before: binary places of its inputs.
        after: of its results, for all or for each [out].
        leaky: whether the rectifier follows.
        shuffle: see `Layer`.
    """
    assert convolution.bias is not None
    weight = convolution.weight.detach().double()
    after = torch.as_tensor(after, dtype=torch.float64).broadcast_to(weight.shape[:1])
    largest = weight.abs().amax(dim=(1, 2, 3)).clamp(min=2.0**-10)
    places = torch.log2(CLAMP / largest).floor().clamp(max=20)  # of the weights
    bias = torch.round(convolution.bias.detach().double() * torch.exp2(places + before))
    return Layer(
        torch.round(weight * torch.exp2(places)[:, None, None, None]),
        bias,
        places + before - after,
        convolution.stride[0],
        leaky,
        shuffle,
    )
