"""Nets that do not ship, for benchmarks/nets.py.

The upscalers `Up` are of integers, as that of `rescale/untied.py`, and as exact. They work at the low-res size or,
folded by 2, at half of it: there each place has the values of 2 x 2 low-res ones as channels, so that a convolution of
twice the channels costs as much as before, sees twice as far and moves half the data.

With `rectified`, another rectifier, most channels of a trained net are 0 for all pictures.

With taps, the last convolution also predicts weights for the reference's pixels around each low-res pixel, as kernel
prediction networks do (Mildenhall et al., CVPR 2018): where the reference is well in place or off by up to a pixel, its
detail can be taken over as it is. `Guided` has FGRN's flow guidance module, which is not exact.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional

from refscale_codec.rescale import quantised, untied
from refscale_codec.rescale.blocks import HaarSplit
from refscale_codec.rescale.fgrn import FgrnConfig, FlowGuidance
from refscale_codec.rescale.quantised import (
    QuantisedBlock,
    QuantisedConv,
    carried,
    straight_through,
)
from refscale_codec.rescale.untied import (
    BLOCK,
    GRID,
    Untied,
    UntiedConfig,
    _coarse_and_fine,
    _integers,
)

_activations = quantised.activations
TAP_UNIT = 32  # steps of a weight of 1
DETAIL_UNIT = 2  # steps a level of what is weighted


class Up(untied.Up):
    """An upscaler with the trunk of `untied.Up`, in its place."""

    def __init__(self, width: int, blocks: int, fold: int, taps: int, full: int) -> None:
        """Build it; it starts as repetition of the low-res picture.

        Args:
            width: channels.
            blocks: residual ones.
            fold: 1 works at the low-res size, 2 at half of it.
            taps: side of the square of predicted weights in pixels, an odd number; 0 for none.
            full: features of the reference at full size, by a convolution before the folding; 0 for none.
        """
        nn.Module.__init__(self)  # none of the layers of `untied.Up`
        self.fold, self.taps, self.haar, area = fold, taps, HaarSplit(), fold * fold
        self.full: nn.Module | None = QuantisedConv(6, full, 1.7) if full else None
        self.ref_in: nn.Module = QuantisedConv((4 * full or 15) * area, width, 1.7, rectifies=full > 0)
        self.input: nn.Module = QuantisedConv(6 * area + 3, width)
        self.inject = nn.ModuleList(QuantisedConv(width, width, gain, rectifies=True) for gain in (1, 0.3))
        self.phase = nn.Parameter(torch.zeros(1, width, BLOCK // fold, BLOCK // fold))
        self.blocks = nn.ModuleList(QuantisedBlock(width) for _ in range(blocks))
        output = QuantisedConv(width, (12 + taps * taps) * area)
        nn.init.zeros_(output.weight)
        self.output: nn.Module = output

    def forward(self, lr: Tensor, ref: Tensor, planes: Tensor, gate: Tensor) -> Tensor:
        """Return the Haar coefficients of hr_hat as `untied.Up.forward` does, whose arguments these are."""
        height, width = lr.shape[-2:]
        own = self.folded(torch.cat(_coarse_and_fine(lr - 128), dim=1))
        own = torch.cat([own, planes.float()[..., :: self.fold, :: self.fold]], dim=1)
        if self.full is None:
            known = torch.cat([*_coarse_and_fine(ref[:, :3] - 128), _integers(2 * ref[:, 3:])], dim=1)
        else:
            pixels = torch.cat(_coarse_and_fine(self.haar.inverse(ref) - 128), dim=1)
            pixels = pixels.to(gate.dtype, memory_format=torch.channels_last)
            known = functional.pixel_unshuffle(self.full(pixels), 2)
        own, known = (x.to(gate.dtype, memory_format=torch.channels_last) for x in (own, self.folded(known)))
        features = carried(self.ref_in(known) * gate[..., :: self.fold, :: self.fold])
        result = self.trunk(own, features).float()
        result = functional.pixel_shuffle(result, self.fold)[..., :height, :width]
        residual = result[:, :12]
        if self.taps:
            residual = residual + self.taken_over(ref, result[:, 12:]) * gate.float()
        residual = straight_through((GRID * residual).round() / GRID, residual)
        return torch.cat([lr + residual[:, :3], residual[:, 3:]], dim=1)

    def folded(self, x: Tensor) -> Tensor:
        """Return `x` with `fold` x `fold` places as channels; sides that do not fit are continued."""
        right, lower = -x.shape[-1] % self.fold, -x.shape[-2] % self.fold
        return functional.pixel_unshuffle(functional.pad(x, (0, right, 0, lower), mode="replicate"), self.fold)

    def taken_over(self, ref: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of the shifted reference, less its mean in place: Haar coefficients in levels."""
        pixels, reach = self.haar.inverse(ref), self.taps // 2
        padded = functional.pad(pixels, (reach,) * 4, mode="replicate")
        height, width = pixels.shape[-2:]
        total = torch.zeros_like(ref)
        for place, weight in enumerate(torch.split(_activations(weights, rectifies=False), 1, dim=1)):
            y, x = divmod(place, self.taps)
            shifted = self.haar(padded[..., y : y + height, x : x + width])
            detail = torch.cat([shifted[:, :3] - ref[:, :3], shifted[:, 3:]], dim=1)
            total = total + weight * (DETAIL_UNIT * detail).round()
        return total / (TAP_UNIT * DETAIL_UNIT)


def rectified(x: Tensor, rectifies: bool) -> Tensor:
    """Return `x` as `quantised.activations` does, but with a slope of 0 below zero."""
    return _activations(x.clamp(min=0) if rectifies else x, rectifies)


@contextmanager
def plain_rectifier() -> Iterator[None]:
    """Build untied nets with it; activations are 0..255."""
    with patch.multiple(quantised, activations=rectified, LOWEST=0, HIGHEST=255):
        yield


def reach(net: Untied) -> int:
    """Return how many low-res pixels away from a low-res pixel either net looks."""
    up = net.upscaler
    assert isinstance(up, Up)
    upwards = up.fold * (2 + 2 * net.config.up_blocks + 1) + up.taps // 2 + 1
    return max(upwards, 2 + 2 * net.config.down_blocks)


class Guided(Untied):
    """Untied nets between which FGRN's flow guidance module makes the low-res picture, in floats."""

    exact = False

    def __init__(self, config: UntiedConfig) -> None:
        """Build with fresh parameters."""
        super().__init__(config)
        self.guidance = FlowGuidance(FgrnConfig())

    def downscale(self, hr: Tensor, ref: Tensor | None, s_map: Tensor | None, quality: Tensor) -> Tensor:
        """See `Untied`."""
        lr: Tensor = self.guidance(super().downscale(hr, ref, s_map, quality))[0]
        return lr

    def upscale(
        self, lr: Tensor, ref: Tensor | None, s_map: Tensor | None, quality: Tensor, carrier: torch.dtype
    ) -> Tensor:
        """See `Untied`."""
        lr = 255 * self.guidance.inverse(lr / 255).float()
        return super().upscale(lr.clamp(0, 255), ref, s_map, quality, carrier)
