"""The learned low-res codec's net and its passes in training.

    lr ──DCT + analysis──> y * gain ──round──> y_hat / gain ──inverse DCT + synthesis──> lr_hat
                              └─hyper-analysis──> z ──> entropy model of y_hat <── low-res reference, quality

Mixtures, attention and context are those of Cheng et al. (arXiv 2001.01568), but a latent stands for 8x8 pixels, since
low-res pictures are coded at up to about 4 bits per pixel, and the transform is initialised as JPEG's, so that it works
with a rescaler trained with JPEG from the first step. One net serves all qualities: each channel of y is scaled by
a learned gain before rounding (Cui et al., arXiv 2003.02012). The low-res reference, which the decoder has, is used
only to predict the latents: the rescaler has used it already.

Everything here is floating point. `export` turns the entropy model into integers, with which `codec` codes.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from refscale_codec.lrcodec import gradient
from refscale_codec.lrcodec.dct.coefficients import CHROMA, DCT, LUMA, YCBCR, step_percent
from refscale_codec.lrcodec.gmm import layers, mixture
from refscale_codec.lrcodec.gmm.integers import leaky
from refscale_codec.lrcodec.gmm.latents import HYPER, STRIDE, EntropyModel

_CONTRAST = 4.0  # low-res pictures of the rescaler have low contrast
_KNOTS = 9  # at which gains are learned, linear in between
_RANGE = 2500.0  # the coarsest quantiser of JPEG's, quality 1, over the finest here, quality 99


_WIDEST = 1024  # channels of a layer


@dataclass(frozen=True)
class GmmConfig:
    """The architecture; stored in the weights file."""

    channels: int = 192  # of the latents; 192 are all of the DCT, which the rescaler uses
    width: int = 64  # of the layers
    reference_channels: int = 32  # of the low-res reference's features

    def __post_init__(self) -> None:
        """Reject values that no net can be built for."""
        sizes = (self.channels, self.width, self.reference_channels)
        if not all(type(size) is int and 0 < size <= _WIDEST for size in sizes):
            raise ValueError(f"channels and widths must be whole numbers, 1 to {_WIDEST}, not {sizes}")
        if not 12 <= self.channels <= 192 or self.width % 2:
            raise ValueError(f"channels must be 12 to 192, not {self.channels}, and the width even, not {self.width}")

    @property
    def groups(self) -> list[int]:
        """Channels of each group that the entropy model codes in turn, low frequencies first."""
        first, second = self.channels // 12, self.channels // 4
        return [first, second, self.channels - first - second]

    @property
    def perceptrons(self) -> list[list[int]]:
        """Sizes of each group's layers, from what they take to scales, means and logits of its mixtures."""
        width, start = 2 * self.width, self.width + self.reference_channels + 2 + self.channels
        preceding = np.cumsum([0, *self.groups[:-1]]).tolist()
        each = 3 * mixture.COMPONENTS
        return [[start + n, width, width, each * group] for n, group in zip(preceding, self.groups, strict=True)]


class TrainingPass(NamedTuple):
    """The result of a pass in training."""

    lr_hat: Tensor  # [b, 3, h, w]
    bits: Tensor  # [b]


class Gmm(nn.Module):
    """The codec's net, built from a `GmmConfig`. Low-res pictures are [b, 3, h, w] in about [0, 1]."""

    entropy_model: EntropyModel | None = None  # in integers; a net has it when it comes out of a weights file

    def __init__(self, config: GmmConfig) -> None:
        """Build with initial parameters: the transform is the DCT alone."""
        super().__init__()
        n, w, r = config.channels, config.width, config.reference_channels
        self.config = config
        forward, inverse, steps = _dct(n)
        self.forward_dct = nn.Parameter(forward)
        self.inverse_dct = nn.Parameter(inverse)
        last_down, last_up = layers.conv3x3(w, n, 2), layers.subpel_conv3x3(w // 2, 3, 2)
        self.analysis = nn.Sequential(
            layers.ResidualBlockWithStride(3, w),
            layers.ResidualBlockWithStride(w, w),
            layers.AttentionBlock(w),
            layers.ResidualBlock(w),
            last_down,
        )
        self.synthesis = nn.Sequential(
            layers.conv3x3(n + 2, w),
            layers.ResidualBlock(w),
            layers.ResidualBlockUpsample(w, w),
            layers.AttentionBlock(w),
            layers.ResidualBlock(w),
            layers.ResidualBlockUpsample(w, w // 2),
            last_up,
        )
        places = torch.linspace(0, 1, _KNOTS)[:, None]
        self.gain = nn.Parameter(-torch.log(steps / 50) - math.log(_RANGE) * places)  # ln, at each knot
        self.hyper_analysis = nn.Sequential(
            layers.conv3x3(n, w), nn.LeakyReLU(), layers.conv3x3(w, w, 2), nn.LeakyReLU(), layers.conv3x3(w, w // 2)
        )
        self.bottleneck = layers.EntropyBottleneck(w // 2)
        self.hyper = nn.ModuleList([layers.conv3x3(w // 2, 4 * w), layers.conv3x3(w, w)])
        self.reference = nn.ModuleList([nn.Conv2d(3, r, 5, stride=4, padding=2), layers.conv3x3(r, r, 2)])
        self.context = layers.MaskedConv2d(n, n, kernel_size=5, padding=2)
        self.slope = layers.MaskedConv2d(n, n, kernel_size=5, padding=2, groups=n)
        self.mixture = nn.ModuleList(_perceptron(sizes) for sizes in config.perceptrons)
        with torch.no_grad():  # the net adds nothing to the DCT at first
            for convolution in (last_down, last_up[0], self.slope):
                for parameter in convolution.parameters():
                    parameter.zero_()

    def forward(self, lr: Tensor, reference: Tensor, quality: Tensor) -> TrainingPass:
        """Code and decode while training.

        Args:
            lr: sides multiples of `STRIDE`.
            reference: likewise, [b, 3, h, w] in [-1, 1), zeros for none.
            quality: [b] in [0, 1].
        """
        gain = self.gains(quality)
        y = self.forward_transform(lr) * gain
        return TrainingPass(self.inverse_transform(rounded(y) / gain, quality), self.bits(y, reference, quality))

    def bits(self, y: Tensor, reference: Tensor, quality: Tensor) -> Tensor:
        """Return the bits [b] of latents before they are rounded, [b, n, h, w]; for the others see `forward`.

        The bits are those of the rounded latents, which are closer to zero than with noise added. The gradient for y is
        that with noise, since rounding has none (Ballé et al., arXiv 1611.01704).
        """
        z_hat, z_likelihood = self.bottleneck(self.hyper_transform(y))
        mixtures = self.mixtures(rounded(y), z_hat, reference, quality)
        bits = _bits(z_likelihood) + _bits(self.likelihood(y.detach().round(), *mixtures))
        if y.requires_grad:
            fixed = (parameter.detach() for parameter in mixtures)
            noisy = _bits(self.likelihood(y + torch.rand_like(y) - 0.5, *fixed))
            bits = bits + noisy - noisy.detach()
        return bits

    def gains(self, quality: Tensor) -> Tensor:
        """Return the gains of y at qualities [b] in [0, 1], as [b, n, 1, 1]."""
        knot = _coarseness(quality) * (_KNOTS - 1)
        below = knot.floor().clamp(0, _KNOTS - 2).long()
        share = (knot - below)[:, None]
        return torch.exp(self.gain[below] * (1 - share) + self.gain[below + 1] * share)[:, :, None, None]

    def forward_transform(self, lr: Tensor) -> Tensor:
        """Return the latents y [b, n, h/8, w/8] before the gain; sides of lr are multiples of `STRIDE`."""
        x = (lr - 0.5).contiguous()
        net = self.analysis(_CONTRAST * x).float()
        with _whole_floats(x):
            y: Tensor = net + functional.conv2d(x, self.forward_dct, stride=STRIDE)
        return y

    def inverse_transform(self, y: Tensor, quality: Tensor) -> Tensor:
        """Return the picture [b, 3, 8h, 8w] of latents [b, n, h, w] divided by the gains of qualities [b]."""
        planes = quality_planes(quality).expand(-1, -1, *y.shape[-2:])
        net = self.synthesis(torch.cat([y / _CONTRAST, planes], dim=1)).float()
        with _whole_floats(y):
            lr: Tensor = net / _CONTRAST + functional.conv_transpose2d(y, self.inverse_dct, stride=STRIDE)
        return lr + 0.5

    def hyper_transform(self, y: Tensor) -> Tensor:
        """Return the hyper-latents z [b, w/2, ceil(h/2), ceil(w/2)] of latents times gain [b, n, h, w], not rounded."""
        z: Tensor = self.hyper_analysis(companded(padded(y, HYPER)))
        return z.float()

    def mixtures(
        self, y_hat: Tensor, z_hat: Tensor, reference: Tensor, quality: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return deviations, means and logits, [b, 3, n, h, w] each, as `latents` computes them in integers."""
        height, width = y_hat.shape[-2:]
        hyper = functional.pixel_shuffle(leaky(self.hyper[0](z_hat)), HYPER)
        hyper = self.hyper[1](hyper)[..., :height, :width]
        for convolution in self.reference:
            reference = leaky(convolution(reference))
        planes = quality_planes(quality).expand(-1, -1, height, width).to(hyper.dtype)
        y_companded = companded(y_hat)
        shared = torch.cat([hyper, reference, planes, self.context(y_companded)], dim=1)
        parts = []
        before = 0
        for perceptron, group in zip(self.mixture, self.config.groups, strict=True):
            hidden = torch.cat([shared, y_companded[:, :before].to(shared.dtype)], dim=1)
            *others, last = convolutions(perceptron)
            for convolution in others:
                hidden = leaky(convolution(hidden))
            size = (len(y_hat), 3, mixture.COMPONENTS, group, height, width)
            parts.append(last(hidden).float().reshape(size))
            before += group
        scale, mean, logit = torch.cat(parts, dim=3).unbind(dim=1)
        with _whole_floats(y_hat):
            mean = mean + self.slope(y_hat)[:, None]
        index = scale.clamp(0, mixture.SCALES - 1)
        return mixture.deviation(0) * torch.exp(index * mixture.RATIO), mean, logit

    @staticmethod
    def likelihood(y: Tensor, deviation: Tensor, mean: Tensor, logit: Tensor) -> Tensor:
        """Return the mass of mixtures from half below to half above each y, [b, n, h, w]."""
        away = (y[:, None] - mean).abs()
        inside = torch.special.ndtr((0.5 - away) / deviation) - torch.special.ndtr((-0.5 - away) / deviation)
        return torch.sum(logit.softmax(dim=1) * inside, dim=1)


def rounded(y: Tensor) -> Tensor:
    """Round latents of any shape, with the gradient that `gradient.share` lets pass."""
    near = y * gradient.share(y)
    return near + (y.round() - near).detach()


def quality_planes(quality: Tensor) -> Tensor:
    """Return the networks' inputs for qualities [b] in [0, 1]: the coarseness and its square, [b, 2, 1, 1]."""
    coarseness = _coarseness(quality)
    return torch.stack([coarseness, 4 * coarseness.square()], dim=1)[:, :, None, None]


def companded(y: Tensor) -> Tensor:
    """Return latents of any shape in logarithmic scale: they span four decades from lowest to highest quality."""
    return torch.sign(y) * torch.log2(1 + y.abs())


def padded(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column of [b, c, h, w] until the sides are multiples."""
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    return functional.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def convolutions(modules: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions right below a module, in order."""
    return [module for module in modules.children() if isinstance(module, nn.Conv2d)]


def _coarseness(quality: Tensor) -> Tensor:
    """Return ln of JPEG's quantiser at qualities in [0, 1], from 0 for the finest to 1 for the coarsest."""
    percent = step_percent(quality.clamp(min=0.01), highest=1)
    return torch.log(percent.clamp(min=2) / 2) / math.log(_RANGE)


def _bits(likelihood: Tensor) -> Tensor:
    """Return the bits [b] of latents [b, n, h, w]."""
    return -torch.log2(likelihood.clamp(min=1e-9)).sum(dim=(1, 2, 3))


def _whole_floats(x: Tensor) -> torch.autocast:
    """Keep computations that are linear in the samples in 32 bits while training in 16."""
    return torch.autocast(x.device.type, enabled=False)


def _dct(channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the initial transform: bases [n, 3, 8, 8] forward and inverse for RGB, and JPEG's quantiser at 50 [n].

    The frequencies are taken in the order of their wavelengths, chroma when luma has twice theirs.
    """
    tables = np.array([LUMA, CHROMA, CHROMA]).reshape(-1)
    along = np.add.outer(np.arange(8), np.arange(8)).reshape(-1)
    order = np.argsort(np.concatenate([along, 2 * along + 2.5, 2 * along + 2.6]), kind="stable")[:channels]
    forward, inverse = (
        np.einsum("cr,uy,vx->cuvryx", colours, DCT, DCT).reshape(-1, 3, STRIDE, STRIDE)[order]
        for colours in (np.array(YCBCR), np.linalg.inv(np.array(YCBCR)).T)
    )
    bases = torch.tensor(forward * 255 / STRIDE), torch.tensor(inverse / 255 * STRIDE)  # on the default device
    return bases[0].float(), bases[1].float(), torch.tensor(tables[order] / STRIDE).float()


def _perceptron(sizes: list[int]) -> nn.ModuleList:
    """Return the 1x1 convolutions that compute the mixtures of some latents of a position."""
    convolutions = [layers.conv1x1(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
    last = convolutions[-1]
    with torch.no_grad():  # narrow, medium and wide components at first
        assert last.bias is not None
        last.weight.mul_(0.1)
        last.bias.zero_()
        scales = last.bias[: len(last.bias) // 3]
        scales.copy_(torch.tensor([10.0, 20.0, 30.0]).repeat_interleave(len(scales) // mixture.COMPONENTS))
    return nn.ModuleList(convolutions)
