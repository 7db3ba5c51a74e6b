"""Small networks whose results are the same integers on every machine.

Weights, activations and results are integers that float64 holds exactly: every sum stays below 2^53, so the order of
additions, threads, vector widths and libraries cannot matter. A layer is a convolution, a division by a power of two
with rounding, a clamp to 16 bits and, where asked, a leaky rectifier of slope 2^-7.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

CLAMP = 32767  # of weights and activations
SLOPE = 2.0**-7  # of the rectifier
FRACTION = 8  # binary places of activations between layers


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
        return self.finish(self.total(x))

    def total(self, x: Tensor) -> Tensor:
        """Return the sums, before they are divided."""
        return functional.conv2d(x, self.weight, self.bias, self.stride, self.weight.shape[-1] // 2)

    def finish(self, total: Tensor) -> Tensor:
        """Turn sums [b, out, h, w] into activations."""
        unit = torch.from_numpy(np.ldexp(1.0, -self.shift.numpy().astype(int)))  # exact, which no exp2 need be
        y = torch.floor(total * unit[:, None, None] + 0.5).clamp(-CLAMP, CLAMP)
        if self.leaky:
            y = torch.maximum(y, torch.floor(y * SLOPE))
        return functional.pixel_shuffle(y, self.shuffle)


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
