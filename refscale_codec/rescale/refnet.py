"""Ref-Net: the similarity of reference and picture, and the conditioning of the flow by it.

    hr  -> features ─┐
                     ├─ cosine (Eq. 3) -> [0, 1] -> levels -> s_map  (transmitted)
    ref -> features ─┘                               │
             └───────────────────────────────────────⊙ (Eq. 4) -> f_c, one per x2 stage

The cosine is mapped to [0, 1] by a learned ramp, clamp(gain * cosine + offset), because features of any two pictures
point in similar directions. Encoder and decoder both build f_c from the quantised map. A picture without a reference is
one whose map is zero everywhere.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from refscale_codec.rescale.blocks import HaarSplit, ResidualBlock, leaky_


class ResidualGroup(nn.Module):
    """Residual-in-residual: residual blocks inside one more identity, [b, width, h, w] -> the same shape."""

    def __init__(self, width: int, blocks: int = 2) -> None:
        """Build with `blocks` residual blocks of `width` channels."""
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus a fifth of the output of the blocks."""
        residual: Tensor = self.blocks(x)
        return residual.mul_(0.2).add_(x)


def quality_channels(quality: Tensor, like: Tensor) -> Tensor:
    """Spread the quality [b] in [0, 1] over planes [b, 2, h, w]; the fourth power resolves the high end."""
    planes = torch.stack([quality, quality**4], dim=1)[:, :, None, None]
    return planes.to(like.dtype).expand(-1, -1, *like.shape[-2:])


class RefNet(nn.Module):
    """Features of a picture at the size of each stage, the similarity map, and the condition.

    Args of the constructor: `stages` (1 for x2, 2 for x4), `width` of the features, `map_divisor` (low-res side over
    map side: 1, 2 or 4; the paper's cases 4 to 6), `map_levels` (number of integer levels, at least 2).
    """

    def __init__(self, stages: int, width: int, map_divisor: int, map_levels: int) -> None:
        """Build the encoder and the bottleneck."""
        super().__init__()
        self.map_levels = map_levels
        self.map_divisor = map_divisor
        self.haar = HaarSplit()
        self.inputs = nn.ModuleList(
            nn.Conv2d(12 if stage == 0 else 12 + 4 * width, width, 3, padding=1) for stage in range(stages)
        )
        self.groups = nn.ModuleList(nn.Sequential(ResidualGroup(width), ResidualGroup(width)) for _ in range(stages))
        strides = {1: [1], 2: [2], 4: [2, 2]}[map_divisor]
        self.bottleneck = nn.ModuleList(nn.Conv2d(width, width, 3, stride=stride, padding=1) for stride in strides)
        self.ramp = nn.Parameter(torch.tensor([2.0, -1.0]))  # gain, offset: dissimilar up to a cosine of 0.5 at first
        self.condition_channels = width + 12 + 3  # learned features, Haar coefficients, map, quality planes

    def features(self, x: Tensor) -> list[Tensor]:
        """Return learned features beside Haar coefficients, stage by stage.

        Args:
            x: [b, 3, h, w] in [0, 1], sides multiples of the scale.

        Returns:
            One [b, width + 12, h/2^k, w/2^k] for each stage k = 1, 2.
        """
        result: list[Tensor] = []
        mean = x
        hidden: Tensor | None = None
        for convolution, group in zip(self.inputs, self.groups, strict=True):
            split = self.haar(mean)  # [b, 12, h/2, w/2]
            mean = split[:, :3]
            below = split if hidden is None else torch.cat([split, functional.pixel_unshuffle(hidden, 2)], dim=1)
            hidden = group(leaky_(convolution(below)))
            result.append(torch.cat([hidden.to(split.dtype), split], dim=1))
        return result

    def similarity(self, hr: list[Tensor], ref: list[Tensor]) -> Tensor:
        """Return the map before quantisation, [b, 1, ceil(h/s/d), ceil(w/s/d)] in [0, 1], from both's features."""
        return self.ramped(self.cosine(hr, ref))

    def ramped(self, cosine: Tensor) -> Tensor:
        """Return the map before quantisation, in [0, 1], of cosines."""
        return (self.ramp[0] * cosine + self.ramp[1]).clamp(0, 1)

    def cosine(self, hr: list[Tensor], ref: list[Tensor]) -> Tensor:
        """Return the map before its ramp, in [-1, 1]."""
        a, b = (self._narrow(features[-1][:, :-12]) for features in (hr, ref))
        return functional.cosine_similarity(a.float(), b.float(), dim=1, eps=1e-6)[:, None]

    def _narrow(self, features: Tensor) -> Tensor:
        for convolution in self.bottleneck:
            features = convolution(leaky_(features.clone()))
        return features

    def quantise(self, similarity: Tensor) -> Tensor:
        """Turn [0, 1] into levels 0 .. map_levels - 1: rounded, or with uniform noise instead while training."""
        levels = similarity * (self.map_levels - 1)
        if self.training:
            return (levels + torch.rand_like(levels) - 0.5).clamp(0, self.map_levels - 1)
        return levels.round()

    def spread(self, levels: Tensor, height: int, width: int) -> list[Tensor]:
        """Return the map at the size of each stage, [b, 1, h/2^k, w/2^k] in [0, 1].

        If the sides are not multiples of the map's cells, the cells are stretched a little, so this needs the whole
        picture, not a tile.

        Args:
            levels: the quantised map.
            height: of the high-res picture, a multiple of the scale, in pixels.
            width: likewise.
        """
        s_map = levels / (self.map_levels - 1)
        sizes = [(height >> stage, width >> stage) for stage in range(1, len(self.inputs) + 1)]
        return [functional.interpolate(s_map, size=size, mode="bilinear", align_corners=False) for size in sizes]

    def condition(
        self, ref: list[Tensor] | None, maps: list[Tensor] | None, quality: Tensor, height: int, width: int
    ) -> list[Tensor]:
        """Return the condition f_c of each stage, [b, condition_channels, h/2^k, w/2^k].

        Args:
            ref: features of the reference; None for none.
            maps: the quantised map by `spread`; None if and only if `ref` is None.
            quality: [b] in [0, 1].
            height: of the high-res picture or tile, a multiple of the scale, in pixels.
            width: likewise.
        """
        result = []
        for stage in range(1, len(self.inputs) + 1):
            if ref is None or maps is None:
                size = (height >> stage, width >> stage)
                features = quality.new_zeros(len(quality), self.condition_channels - 2, *size)
            else:
                s_map = maps[stage - 1].to(quality.dtype)
                features = torch.cat([ref[stage - 1] * s_map, s_map], dim=1)
            result.append(torch.cat([features, quality_channels(quality, features)], dim=1))
        return result
