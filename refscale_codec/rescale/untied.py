"""Untied rescaler: a light downscaler for the satellite, a deeper upscaler of integers for the ground.

After FGRN (Li et al., BMVC 2021) downscaler and upscaler share no parameters, so each has the size that its place
allows. Both work on the Haar coefficients of the picture at the low-res size and are conditioned on those of the warped
reference, the similarity map and the quality.

    hr ──Haar──> 12 ┐
    ref ─Haar──> 12 ┼─> residual stack ─> + mean ─> lr          (float: an encoder may differ by machine)
    map, quality    ┘
    lr, map, quality ──┐
    ref ─Haar─> features * map ─> residual stack ─> 12 + lr ─inverse Haar─> hr_hat     (integers: exact)

The upscaler's arithmetic is that of `quantised`: one low-res picture, reference and map give the same picture on every
machine. Its low-res picture, in and out, lies on a grid of 1/16 level, fine beside the steps of any low-res codec. The
downscaler starts as the 2x2 mean, the upscaler as repetition.

The low-res codec works in blocks of 8x8, and a learned table tells the upscaler where in a block a pixel lies: the
padded tiles must begin at multiples of 8 low-res pixels.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from refscale_codec.picture.tiles import STEP
from refscale_codec.rescale.blocks import HaarSplit, ResidualBlock, leaky_
from refscale_codec.rescale.interface import Context
from refscale_codec.rescale.quantised import (
    LIMIT,
    QuantisedBlock,
    QuantisedConv,
    carried,
    fastest_carrier,
    make_exact,
    straight_through,
)
from refscale_codec.rescale.trained import BLOCKS, DIVISORS, LEVELS, WIDTHS, NetConfig, TrainedRescaler, one_of

GRID = 16  # steps a level of the low-res picture and of Haar coefficients
BLOCK = 8  # side of the low-res codec's blocks
MAP_FULL = 64  # what `spread` makes of a level of 1
MAP_UNIT = 16  # steps of the map that multiplies features
PHASE_UNIT = 32  # activation units of a parameter of 1 in the table of places in a block


@dataclass(frozen=True)
class UntiedConfig(NetConfig):
    """Everything that fixes the architecture; stored in the weights file."""

    kind: ClassVar[str] = "untied"

    scale: int = one_of(2, (2,))
    down_width: int = one_of(32, WIDTHS)  # channels of the downscaler; multiples of 32 are fast
    down_blocks: int = one_of(3, BLOCKS)
    up_width: int = one_of(64, WIDTHS)  # channels of the upscaler
    up_blocks: int = one_of(8, BLOCKS)
    map_divisor: int = one_of(4, DIVISORS)  # low-res side over map side
    map_levels: int = one_of(4, LEVELS)  # integer levels of the map


class Down(nn.Module):
    """The downscaler, in floats."""

    def __init__(self, width: int, blocks: int) -> None:
        """Build it; it starts as the 2x2 mean."""
        super().__init__()
        self.input = nn.Conv2d(12 + 12 + 3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.output = nn.Conv2d(width, 3, 3, padding=1)
        with torch.no_grad():
            for block in self.blocks:
                block.second.weight.mul_(0.3)  # type: ignore[operator, union-attr]
            self.output.weight.zero_()
            self.output.bias.zero_()  # type: ignore[union-attr]

    def forward(self, hr: Tensor, ref: Tensor, planes: Tensor) -> Tensor:
        """Return lr [b, 3, h, w] from Haar coefficients [b, 12, h, w] and planes [b, 3, h, w], all about [0, 1]."""
        x = torch.cat([hr, ref * planes[:, :1], planes], dim=1).contiguous(memory_format=torch.channels_last)
        change: Tensor = self.output(self.blocks(leaky_(self.input(x)))).float()
        return hr[:, :3] + change


class Up(nn.Module):
    """The upscaler, of integers."""

    def __init__(self, width: int, blocks: int) -> None:
        """Build it; it starts as repetition of the low-res picture."""
        super().__init__()
        self.ref_in: nn.Module = QuantisedConv(15, width, 1.7)
        self.input: nn.Module = QuantisedConv(9, width)
        self.inject = nn.ModuleList(QuantisedConv(width, width, gain, rectifies=True) for gain in (1, 0.3))
        self.phase = nn.Parameter(torch.zeros(1, width, BLOCK, BLOCK))
        self.blocks = nn.ModuleList(QuantisedBlock(width) for _ in range(blocks))
        output = QuantisedConv(width, 12)
        nn.init.zeros_(output.weight)
        self.output: nn.Module = output

    def forward(self, lr: Tensor, ref: Tensor, planes: Tensor, gate: Tensor) -> Tensor:
        """Return the Haar coefficients of hr_hat in levels, multiples of 1 / `GRID`.

        Args:
            lr: [b, 3, h, w] in levels, 0..255, multiples of 1 / `GRID`.
            ref: Haar coefficients of the reference [b, 12, h, w] in levels.
            planes: [b, 3, h, w], integers in -127..127, in the type that carries the integers.
            gate: [b, 1, h, w], the map in 0..1, multiples of 1 / `MAP_UNIT`, likewise.
        """
        low = torch.cat([*_coarse_and_fine(lr - 128), planes.float()], dim=1)
        older = [*_coarse_and_fine(ref[:, :3] - 128), _integers(2 * ref[:, 3:])]
        low, older_in = (x.to(gate.dtype, memory_format=torch.channels_last) for x in (low, torch.cat(older, dim=1)))
        features = carried(self.ref_in(older_in) * gate)
        residual = self.trunk(low, features).float()
        residual = straight_through((GRID * residual).round() / GRID, residual)
        return torch.cat([lr + residual[:, :3], residual[:, 3:]], dim=1)

    def trunk(self, low: Tensor, features: Tensor) -> Tensor:
        """Return the output of the last convolution, [b, 12, h, w].

        Args:
            low: [b, 9, h, w], the inputs of the first one.
            features: [b, width, h, w] of the reference.
        """
        x = carried(self.input(low) + self.inject[0](features))
        side = self.phase.shape[-1]
        rows, columns = -(-x.shape[-2] // side), -(-x.shape[-1] // side)
        phase = (PHASE_UNIT * self.phase).bfloat16().to(x.dtype).repeat(1, 1, rows, columns)
        x = carried(x + phase[..., : x.shape[-2], : x.shape[-1]])
        for index, block in enumerate(self.blocks):
            if index == len(self.blocks) // 2:
                x = carried(x + self.inject[1](features))
            x = block(x)
        output: Tensor = self.output(x)
        return output


def _integers(x: Tensor) -> Tensor:
    return x.round().clamp(-LIMIT, LIMIT)


def _coarse_and_fine(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split levels about 0 into whole ones and the rest in 1/127; the gradient is the whole ones'."""
    coarse = _integers(x)
    return straight_through(coarse, x), _integers(LIMIT * (x - coarse)).detach()


U = TypeVar("U", bound="Untied")


class Untied(TrainedRescaler):
    """Both nets, a `Rescaler`. After `for_inference` the upscaler's state is integers."""

    Config = UntiedConfig
    config: UntiedConfig
    exact = True

    def __init__(self, config: UntiedConfig) -> None:
        """Build with fresh parameters."""
        super().__init__(config)
        self.cell, self.map_levels = config.scale * config.map_divisor, config.map_levels
        self.haar = HaarSplit()
        self.downscaler = Down(config.down_width, config.down_blocks)
        self.upscaler = Up(config.up_width, config.up_blocks)

    def for_inference(self: U) -> U:
        """Turn the trained upscaler into integers, too."""
        make_exact(self.upscaler)
        with torch.no_grad():  # so that the table is the same in half precision and out of it
            self.upscaler.phase.copy_((PHASE_UNIT * self.upscaler.phase).bfloat16().float() / PHASE_UNIT)
        return super().for_inference()

    def downscale(self, hr: Tensor, ref: Tensor | None, s_map: Tensor | None, quality: Tensor) -> Tensor:
        """Return the low-res picture [b, 3, h/2, w/2], about [0, 1].

        Args:
            hr: [b, 3, h, w] in [0, 1], with even sides.
            ref: likewise; None codes without one.
            s_map: the map as `spread` returns it, [b, 1, h/2, w/2]; None if and only if `ref` is None.
            quality: [b], whole numbers in 1..100.
        """
        haar = self.haar(hr)
        ref_haar = torch.zeros_like(haar) if ref is None else self.haar(ref)
        if s_map is None:
            s_map = haar.new_zeros(len(hr), 1, *haar.shape[-2:])
        q = (quality / 100)[:, None, None, None].expand(-1, 1, *haar.shape[-2:])
        return self.downscaler(haar, ref_haar, torch.cat([s_map / self._full, q, q**4], dim=1))  # type: ignore[no-any-return]

    def upscale(
        self, lr: Tensor, ref: Tensor | None, s_map: Tensor | None, quality: Tensor, carrier: torch.dtype
    ) -> Tensor:
        """Return the high-res picture [b, 3, h, w] in levels, about 0..255, multiples of 1/16, not clamped.

        Args:
            lr: [b, 3, h/2, w/2] in levels, 0..255; taken to the nearest multiple of 1/16.
            ref: [b, 3, h, w] in levels; likewise.
            s_map: see `downscale`.
            quality: likewise.
            carrier: the type that carries the integers, bfloat16, float32 or float64: the result is the same.
        """
        lr = straight_through(_on_grid(lr), lr)
        if ref is None or s_map is None:
            s_map = torch.zeros(len(lr), 1, *lr.shape[-2:], dtype=torch.int64, device=lr.device)
            ref_haar = lr.new_zeros(len(lr), 12, *lr.shape[-2:])
        else:
            ref_haar = self.haar(_on_grid(ref))
        q = quality.long()[:, None, None, None].expand(-1, 1, *lr.shape[-2:])
        s_map = s_map.long()
        planes = [_ratio(s_map, LIMIT, self._full), _ratio(q, LIMIT, 100), _ratio(q**4, LIMIT, 100**4)]
        gate = _ratio(s_map, MAP_UNIT, self._full).to(carrier) / MAP_UNIT
        picture: Tensor = self.haar.inverse(self.upscaler(lr, ref_haar, torch.cat(planes, dim=1), gate))
        return picture

    @property
    def reach(self) -> int:
        """How many low-res pixels away from a low-res pixel either net looks."""
        return 2 + 2 * max(self.config.up_blocks, self.config.down_blocks) + 1

    @property
    def halo(self) -> int:
        """See `Rescaler`: all that the nets look at, so that tiles change nothing."""
        return STEP * math.ceil(self.config.scale * self.reach / STEP)

    def similarity(self, hr: Tensor, reference: Tensor) -> Tensor:
        """See `Rescaler`: the correlation of the pictures' Haar details in a cell."""
        a, b = (self.haar(x)[:, 3:] for x in (hr, reference))
        divisor = self.config.map_divisor
        products = torch.stack([(x * y).sum(dim=1) for x, y in ((a, b), (a, a), (b, b))], dim=1)
        both, own, other = functional.avg_pool2d(products, divisor, ceil_mode=True)[0]
        correlation: Tensor = both / (own * other + 1e-3).sqrt()
        return correlation[None, None]

    def quantise_similarity(self, similarity: Tensor) -> Tensor:
        """See `Rescaler`: the reference is used everywhere."""
        return torch.full_like(similarity, self.config.map_levels - 1)

    def planes(self, levels: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """See `Rescaler`."""
        return (spread(levels, self.config.map_divisor, height // self.scale, width // self.scale),)

    def down(self, hr: Tensor, context: Context) -> Tensor:
        """See `Rescaler`."""
        reference = None if context.reference is None else context.reference / 255
        s_map = context.similarity_map[0] if context.similarity_map else None
        quality = torch.tensor([context.quality], device=self.device)
        lr: Tensor = 255 * self.downscale(hr / 255, reference, s_map, quality)
        return lr

    def up(self, lr: Tensor, context: Context) -> Tensor:
        """See `Rescaler`: multiples of 1 / `GRID`, the same on every machine."""
        s_map = context.similarity_map[0] if context.similarity_map else None
        quality = torch.tensor([context.quality], device=self.device)
        hr_hat: Tensor = self.upscale(lr, context.reference, s_map, quality, fastest_carrier(self.device))
        return hr_hat

    @property
    def _full(self) -> int:
        """What `spread` returns where the map is highest."""
        return MAP_FULL * (self.config.map_levels - 1)


def spread(levels: Tensor, divisor: int, height: int, width: int) -> Tensor:
    """Return the map at the low-res size, in integers: bilinear between the cells' centres.

    Args:
        levels: [b, 1, rows, columns], whole numbers.
        divisor: side of a cell in low-res pixels, 1, 2 or 4.
        height: of the low-res picture.
        width: likewise.

    Returns:
        `MAP_FULL` times the map, [b, 1, height, width] in int64.
    """
    x = levels.long()
    for _ in range(2):  # columns, then rows
        x = _stretched(x, divisor).mT
    return (x * (MAP_FULL // (4 * divisor * divisor)))[..., :height, :width]


def _stretched(x: Tensor, divisor: int) -> Tensor:
    """Interpolate along the last axis: 2 * divisor times the values, at divisor times as many places."""
    left, right = torch.cat([x[..., :1], x[..., :-1]], dim=-1), torch.cat([x[..., 1:], x[..., -1:]], dim=-1)
    places = []
    for offset in range(divisor):
        away = 2 * offset + 1 - divisor  # from the cell's centre, in half pixels
        places.append((2 * divisor - abs(away)) * x + abs(away) * (left if away < 0 else right))
    return torch.stack(places, dim=-1).flatten(-2)


def _on_grid(x: Tensor) -> Tensor:
    return (GRID * x.detach()).round() / GRID


def _ratio(numerator: Tensor, unit: int, denominator: int) -> Tensor:
    """Return unit * numerator / denominator of whole numbers, rounded half up."""
    return torch.div(2 * unit * numerator + denominator, 2 * denominator, rounding_mode="floor")
