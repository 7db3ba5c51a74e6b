"""The layers that the learned codec is built of, in plain torch: residual blocks, GDN, attention, entropy bottleneck.

They are those of CompressAI 1.2.8 (Bégaint et al., arXiv 2011.03029), written out, so that neither coding nor training
needs that package: parameters have its names and shapes, results and gradients are its own (`tests/test_gmm_layers.py`
holds them to it). All map [b, channels, h, w] floats; a kernel of 3 is padded by 1.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_PEDESTAL = 2.0**-36  # keeps the square roots below away from zero
_BETA_LEAST = 1e-6  # of a GDN
_LIKELIHOOD_LEAST = 1e-9


class _LowerBound(torch.autograd.Function):
    """The larger of x and a bound; a gradient that lifts x passes below the bound, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        return gradient * ((x >= ctx.bound) | (gradient < 0)), None


def _at_least(x: Tensor, bound: float) -> Tensor:
    bounded: Tensor = _LowerBound.apply(x, bound)  # type: ignore[no-untyped-call]
    return bounded


def conv1x1(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution of kernel 1 from `before` to `after` channels."""
    return nn.Conv2d(before, after, 1, stride)


def conv3x3(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution of kernel 3, padded by zeros, from `before` to `after` channels."""
    return nn.Conv2d(before, after, 3, stride, padding=1)


def subpel_conv3x3(before: int, after: int, factor: int) -> nn.Sequential:
    """Return an upsampling: a convolution of kernel 3, then a pixel shuffle (Shi et al., arXiv 1609.05158)."""
    return nn.Sequential(conv3x3(before, after * factor**2), nn.PixelShuffle(factor))


class GDN(nn.Module):
    """Generalised divisive normalisation: x_i / sqrt(beta_i + sum_j gamma_ij x_j^2); inverse: x_i times that root.

    Ballé et al., arXiv 1511.06281. Parameters are kept as square roots, bounded from below: beta is at least 1e-6,
    gamma not negative.
    """

    def __init__(self, channels: int, inverse: bool = False) -> None:
        """Build with beta 1 and gamma a tenth of the identity."""
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.sqrt(torch.ones(channels) + _PEDESTAL))
        self.gamma = nn.Parameter(torch.sqrt(0.1 * torch.eye(channels) + _PEDESTAL))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the channels of [b, c, h, w] at each position by each other, or undo it."""
        beta = _at_least(self.beta, math.sqrt(_BETA_LEAST + _PEDESTAL)) ** 2 - _PEDESTAL
        gamma = _at_least(self.gamma, math.sqrt(_PEDESTAL)) ** 2 - _PEDESTAL
        norm = functional.conv2d(x**2, gamma[:, :, None, None], beta)
        return x * (torch.sqrt(norm) if self.inverse else torch.rsqrt(norm))


class ResidualBlock(nn.Module):
    """Two convolutions of kernel 3, a leaky rectifier of slope 0.01 after each, beside the input itself."""

    def __init__(self, channels: int) -> None:
        """Build with fresh parameters."""
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        self.conv2 = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return as many channels, of the same size."""
        residual: Tensor = self.conv2(functional.leaky_relu(self.conv1(x)))
        return x + functional.leaky_relu(residual)


class ResidualBlockWithStride(nn.Module):
    """Two convolutions of kernel 3 and a GDN, beside a convolution of kernel 1; the first ones have the stride 2."""

    def __init__(self, before: int, after: int) -> None:
        """Build with fresh parameters."""
        super().__init__()
        self.conv1 = conv3x3(before, after, 2)
        self.conv2 = conv3x3(after, after)
        self.gdn = GDN(after)
        self.skip = conv1x1(before, after, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, before, h, w] to [b, after, ceil(h / 2), ceil(w / 2)]."""
        residual: Tensor = self.gdn(self.conv2(functional.leaky_relu(self.conv1(x))))
        identity: Tensor = self.skip(x)
        return residual + identity


class ResidualBlockUpsample(nn.Module):
    """An upsampling by 2, a convolution of kernel 3 and an inverse GDN, beside another upsampling."""

    def __init__(self, before: int, after: int) -> None:
        """Build with fresh parameters."""
        super().__init__()
        self.subpel_conv = subpel_conv3x3(before, after, 2)
        self.conv = conv3x3(after, after)
        self.igdn = GDN(after, inverse=True)
        self.upsample = subpel_conv3x3(before, after, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, before, h, w] to [b, after, 2h, 2w]."""
        residual: Tensor = self.igdn(self.conv(functional.leaky_relu(self.subpel_conv(x))))
        identity: Tensor = self.upsample(x)
        return residual + identity


class _ResidualUnit(nn.Module):
    """Convolutions of kernels 1, 3 and 1 over half of the channels, beside the input, all rectified."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv = nn.Sequential(
            conv1x1(channels, half), nn.ReLU(), conv3x3(half, half), nn.ReLU(), conv1x1(half, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv(x)
        return functional.relu(x + residual)


class AttentionBlock(nn.Module):
    """x + a(x) sigmoid(b(x)), where a and b are three residual units each (Cheng et al., arXiv 2001.01568, Fig. 6)."""

    def __init__(self, channels: int) -> None:
        """Build with fresh parameters for an even number of channels."""
        super().__init__()
        self.conv_a = nn.Sequential(*(_ResidualUnit(channels) for _ in range(3)))
        self.conv_b = nn.Sequential(*(_ResidualUnit(channels) for _ in range(3)), conv1x1(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return as many channels, of the same size."""
        attended: Tensor = self.conv_a(x) * torch.sigmoid(self.conv_b(x))
        return x + attended


class MaskedConv2d(nn.Conv2d):
    """A convolution that sees only what comes before a position in raster order (van den Oord et al., 1606.05328)."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the weights of the rows above and of the row's left part."""
        height, width = self.kernel_size
        before = torch.arange(height * width, device=x.device).reshape(height, width) < height * width // 2
        y: Tensor = self._conv_forward(x, self.weight * before, self.bias)
        return y


class EntropyBottleneck(nn.Module):
    """A learned distribution for each channel: the fully factorised prior of Ballé et al. (arXiv 1802.01436, 6.1).

    The cumulative distribution is the sigmoid of a small monotonic network: matrices that softplus makes positive, with
    x + tanh(factor) tanh(x) between them.
    """

    _SIZES = (1, 3, 3, 3, 3, 1)
    _SPREAD = 10.0  # of a fresh distribution

    def __init__(self, channels: int) -> None:
        """Build with fresh parameters."""
        super().__init__()
        scale = self._SPREAD ** (1 / (len(self._SIZES) - 1))
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for before, after in zip(self._SIZES[:-1], self._SIZES[1:], strict=True):
            start = math.log(math.expm1(1 / scale / after))
            self.matrices.append(nn.Parameter(torch.full((channels, after, before), start)))
            self.biases.append(nn.Parameter(torch.empty(channels, after, 1).uniform_(-0.5, 0.5)))
            if after > 1:
                self.factors.append(nn.Parameter(torch.zeros(channels, after, 1)))
        # Lower tail, median and upper tail. The codec learns none of them: the median stays 0.
        self.quantiles = nn.Parameter(torch.tensor([-self._SPREAD, 0, self._SPREAD]).repeat(channels, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return values with noise, or rounded about the median when not training, and their likelihoods.

        Args:
            x: [b, channels, h, w].

        Returns:
            Both [b, channels, h, w]; likelihoods are at least 1e-9.
        """
        by_channel = x.transpose(0, 1)
        values = by_channel.reshape(len(by_channel), 1, -1)
        if self.training:
            values = values + torch.empty_like(values).uniform_(-0.5, 0.5)
        else:
            median = self.quantiles[:, :, 1:2]
            values = (values - median).round() + median
        likelihood = _at_least(self.likelihood(values), _LIKELIHOOD_LEAST)
        both = (values.reshape(by_channel.shape), likelihood.reshape(by_channel.shape))
        return both[0].transpose(0, 1).contiguous(), both[1].transpose(0, 1).contiguous()

    def likelihood(self, values: Tensor) -> Tensor:
        """Return the mass from half below to half above each value, [channels, 1, n] of [channels, 1, n]."""
        return torch.sigmoid(self._logits(values + 0.5)) - torch.sigmoid(self._logits(values - 0.5))

    def _logits(self, x: Tensor) -> Tensor:
        """Return the logits of the cumulative distribution."""
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = torch.matmul(functional.softplus(matrix), x) + bias
            if i < len(self.factors):
                x = x + torch.tanh(self.factors[i]) * torch.tanh(x)
        return x
