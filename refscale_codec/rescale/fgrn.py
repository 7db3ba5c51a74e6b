"""FGRN, the flow guidance rescaling network.

Li et al., "Approaching the Limit of Image Rescaling via Flow Guidance", BMVC 2021, whose equations and names these are:

    hr ──G_d──> 8 bits ──> x ──F──> lr                    on board
    lr ──F inverse──> 8 bits ──> x ──G_u──> hr_hat        on the ground

G_d and G_u share no parameters and are trained for hr_hat alone. F, the flow guidance module, is invertible, and makes
a picture of the representation x that they agree upon. There is no reference.

The paper leaves open sizes, activations and initial values. Here: blocks and activations of the other nets (`blocks`);
beta bounded by `blocks.bounded`; of three channels, l1 is the first; G_d begins as the mean of s x s pixels, F as the
identity, G_u as repetition. The low-res picture is not rounded to 8 bits, since the low-res codec quantises it.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from refscale_codec.picture.tiles import STEP
from refscale_codec.rescale.blocks import DenseBlock, ResidualBlock, bounded
from refscale_codec.rescale.interface import Context
from refscale_codec.rescale.trained import BLOCKS, WIDTHS, NetConfig, TrainedRescaler, one_of

_LAYERS_OF_CELL = 2 * DenseBlock.LAYERS  # one after the other: alpha, then beta and phi
_CHANNELS = 3
_FIRST = 1  # channels of l1
_MID = 0.5


@dataclass(frozen=True)
class FgrnConfig(NetConfig):
    """Everything that fixes the architecture; stored in the weights file."""

    kind: ClassVar[str] = "fgrn"

    width: int = one_of(64, range(_CHANNELS, WIDTHS.stop))  # channels of G_d and G_u
    down_blocks: int = one_of(4, BLOCKS)  # residual blocks of G_d
    up_blocks: int = one_of(6, BLOCKS)  # residual blocks of G_u
    cells: int = one_of(2, BLOCKS)  # of F
    growth: int = one_of(32, WIDTHS)  # channels that a layer of a dense block adds


class Down(nn.Module):
    """The downscaling module G_d: squeeze, a shallow convolution, residual blocks."""

    def __init__(self, config: FgrnConfig) -> None:
        """Build it; it starts as the mean of scale x scale pixels."""
        super().__init__()
        self.scale, area = config.scale, config.scale**2
        self.input = nn.Conv2d(_CHANNELS * area, config.width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(config.width) for _ in range(config.down_blocks)))
        self.output = nn.Conv2d(config.width, _CHANNELS, 3, padding=1)
        with torch.no_grad():
            _copy(self.input, [(c, c * area + pixel, 1 / area) for c in range(_CHANNELS) for pixel in range(area)])
            _keep(self.blocks)
            self.output.weight.zero_()
            _copy(self.output, [(c, c, 1) for c in range(_CHANNELS)])

    def forward(self, hr: Tensor) -> Tensor:
        """Return x [b, 3, h/s, w/s] of hr [b, 3, h, w], both about [0, 1]."""
        down: Tensor = self.output(self.blocks(self.input(_centred(functional.pixel_unshuffle(hr, self.scale)))))
        return down.to(hr.dtype) + _MID


class Up(nn.Module):
    """The upscaling module G_u: residual blocks and pixel shuffle, as EDSR (Lim et al., 2017)."""

    def __init__(self, config: FgrnConfig) -> None:
        """Build it; it starts as repetition."""
        super().__init__()
        width, copies = config.width, [(c, c, 1.0) for c in range(_CHANNELS)]
        self.input = nn.Conv2d(_CHANNELS, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(config.up_blocks)))
        doublings = config.scale.bit_length() - 1
        self.doublings = nn.ModuleList(nn.Conv2d(width, 4 * width, 3, padding=1) for _ in range(doublings))
        self.output = nn.Conv2d(width, _CHANNELS, 3, padding=1)
        with torch.no_grad():
            _copy(self.input, copies)
            _keep(self.blocks)
            for convolution in self.doublings:
                assert isinstance(convolution, nn.Conv2d)
                _copy(convolution, [(4 * c + pixel, c, 1) for c in range(_CHANNELS) for pixel in range(4)])
            self.output.weight.zero_()
            _copy(self.output, copies)

    def forward(self, x: Tensor) -> Tensor:
        """Return hr_hat [b, 3, h, w] of x [b, 3, h/s, w/s], both about [0, 1]."""
        hidden = self.blocks(self.input(_centred(x)))
        for convolution in self.doublings:
            hidden = functional.pixel_shuffle(convolution(hidden), 2)
        up: Tensor = self.output(hidden)
        return up.to(x.dtype) + _MID


class FlowCell(nn.Module):
    """Eq. 5: l1' = l1 + alpha(l2);  l2' = l2 * exp(beta(l1')) + phi(l1')."""

    def __init__(self, growth: int) -> None:
        """Build it; it starts as the identity."""
        super().__init__()
        rest = _CHANNELS - _FIRST
        self.alpha = DenseBlock(rest, _FIRST, growth)
        self.beta = DenseBlock(_FIRST, rest, growth)
        self.phi = DenseBlock(_FIRST, rest, growth)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return l' [b, 3, h, w], and ln |det| of its derivative [b]."""
        first, rest = x[:, :_FIRST], x[:, _FIRST:]
        first = first + self.alpha(rest)
        log_scale = bounded(self.beta(first))
        rest = rest * torch.exp(log_scale) + self.phi(first)
        return torch.cat([first, rest], dim=1), log_scale.sum(dim=(1, 2, 3))

    def inverse(self, y: Tensor) -> Tensor:
        """Undo `forward`: Eq. 6."""
        first, rest = y[:, :_FIRST], y[:, _FIRST:]
        rest = (rest - self.phi(first)) * torch.exp(-bounded(self.beta(first)))
        return torch.cat([first - self.alpha(rest), rest], dim=1)


class FlowGuidance(nn.Module):
    """The flow guidance module F: representation x <-> picture, both [b, 3, h, w] in about [0, 1]."""

    def __init__(self, config: FgrnConfig) -> None:
        """Build it; it starts as the identity."""
        super().__init__()
        self.cells = nn.ModuleList(FlowCell(config.growth) for _ in range(config.cells))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the picture, and ln |det| of its derivative [b]."""
        y, log_det = _centred(x), x.new_zeros(len(x))
        for cell in self.cells:
            y, of_cell = cell(y)
            log_det = log_det + of_cell
        return y + _MID, log_det

    def inverse(self, lr: Tensor) -> Tensor:
        """Return the representation of a picture."""
        x = _centred(lr)
        for cell in reversed(self.cells):
            x = cell.inverse(x)  # type: ignore[operator]
        return x + _MID


class Fgrn(TrainedRescaler):
    """The three modules together, a `Rescaler`."""

    Config = FgrnConfig
    config: FgrnConfig
    uses_reference = False

    def __init__(self, config: FgrnConfig) -> None:
        """Build with fresh parameters."""
        super().__init__(config)
        self.cell, self.map_levels = STEP, 2  # of which only 0 is used
        self.downscaler, self.upscaler, self.guidance = Down(config), Up(config), FlowGuidance(config)

    def represent(self, hr: Tensor) -> Tensor:
        """Return x [b, 3, h/s, w/s] of hr [b, 3, h, w] in [0, 1]."""
        return eight_bits(self.downscaler(hr))

    def reconstruct(self, lr: Tensor) -> Tensor:
        """Return hr_hat [b, 3, h, w], about [0, 1], of a received low-res picture [b, 3, h/s, w/s]."""
        hr_hat: Tensor = self.upscaler(eight_bits(self.guidance.inverse(lr)))
        return hr_hat

    @property
    def halo(self) -> int:
        """See `Rescaler`: all that the nets look at."""
        down = 1 + 2 * self.config.down_blocks + 1
        up = 1 + 2 * self.config.up_blocks + 3  # the last layers' pixels are at most low-res ones
        reach = _LAYERS_OF_CELL * self.config.cells + max(down, up)
        return STEP * math.ceil(self.config.scale * reach / STEP)

    def similarity(self, hr: Tensor, reference: Tensor) -> Tensor:
        """See `Rescaler`: none."""
        rows, columns = (-(-side // STEP) for side in hr.shape[-2:])
        return hr.new_zeros(1, 1, rows, columns)

    def quantise_similarity(self, similarity: Tensor) -> Tensor:
        """See `Rescaler`: the reference is used nowhere."""
        return torch.zeros_like(similarity)

    def planes(self, levels: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """See `Rescaler`; not used."""
        return (torch.zeros(1, 1, height // self.scale, width // self.scale, device=levels.device),)

    def down(self, hr: Tensor, context: Context) -> Tensor:
        """See `Rescaler`."""
        lr: Tensor = 255 * self.guidance(self.represent(hr / 255))[0]
        return lr

    def up(self, lr: Tensor, context: Context) -> Tensor:
        """See `Rescaler`."""
        return 255 * self.reconstruct(lr / 255)


def eight_bits(x: Tensor) -> Tensor:
    """Return samples in [0, 1] clipped and rounded to 8 bits; the gradient is the identity's, as in IRN."""
    return x + ((x.clamp(0, 1) * 255).round() / 255 - x).detach()


def _centred(x: Tensor) -> Tensor:
    """Return samples about [0, 1] as convolutions take them, whose padding is 0: around 0, channels last."""
    return (x - _MID).contiguous(memory_format=torch.channels_last)


def _copy(convolution: nn.Conv2d, channels: list[tuple[int, int, float]]) -> None:
    """Make some outputs sums of inputs at the same pixel, listed as (output, input, factor), and nothing else."""
    assert convolution.bias is not None
    for output in {output for output, _, _ in channels}:
        convolution.weight[output] = 0
        convolution.bias[output] = 0
    for output, source, factor in channels:
        convolution.weight[output, source, 1, 1] = factor


def _keep(blocks: nn.Sequential) -> None:
    """Make residual blocks leave the first three channels as they are."""
    for block in blocks:
        assert isinstance(block, ResidualBlock) and block.second.bias is not None
        block.second.weight[:_CHANNELS] = 0
        block.second.bias[:_CHANNELS] = 0
