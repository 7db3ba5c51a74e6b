"""RescaleNet: the conditional invertible network, downwards and upwards.

Notation in all nets: `b` batch, `c` channels, `h w` high-res size, `s` scale; pictures are float in [0, 1], RGB,
[b, 3, h, w], named `hr`, `ref`, `lr`, with a hat for everything reconstructed. `levels` is the quantised similarity
map, [b, 1, ceil(h/s/d), ceil(w/s/d)] with d the map divisor. `quality` is [b] in [0, 1]: that of the low-res codec,
divided by 100; 1 means that the low-res picture is only rounded to 8 bits.

    hr ──features──┐                                      ref ──features─┐
    ref ─features──┴─> levels ─> f_c       levels ───────────────────────┴─> f_c
    hr ──stage 1 .. n | f_c──> lr, z       lr_hat ──restore | f_c──> lr, z = 0 ──stage n .. 1 | f_c──> hr_hat

A scale of 4 is two stages, the second on the first one's low-res picture. The latent z of a stage is everything that
is not its low-res picture; zeros replace it on the way up (samples add only noise, says the supplement of the RefScale
paper). The stages are exactly invertible; before them a sub-net of the decoder's own,
`restore`, adds to the low-res picture what it can tell of the low-res codec's loss.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from refscale_codec.rescale.blocks import SubNet, haar_stage, paper_stage
from refscale_codec.rescale.interface import Context
from refscale_codec.rescale.refnet import RefNet
from refscale_codec.rescale.trained import BLOCKS, DIVISORS, LEVELS, WIDTHS, NetConfig, TrainedRescaler, one_of


@dataclass(frozen=True)
class RescaleConfig(NetConfig):
    """Everything that fixes the architecture; stored in the weights file."""

    kind: ClassVar[str] = "flow"

    flow: Literal["haar", "paper"] = one_of("haar", ("haar", "paper"))
    blocks: int = one_of(8, BLOCKS)  # couplings in a stage
    width: int = one_of(48, WIDTHS)  # hidden channels of a sub-net
    ref_width: int = one_of(32, WIDTHS)  # feature channels of the Ref-Net
    map_divisor: int = one_of(2, DIVISORS)  # low-res side over map side
    map_levels: int = one_of(4, LEVELS)  # integer levels of the map


class RescaleNet(TrainedRescaler):
    """Ref-Net and flow together, a `Rescaler`. Built from a `RescaleConfig`; loaded from a file by `model.load`.

    The methods of a `Rescaler` take levels on 0..255, the others, which training uses, samples in [0, 1].
    """

    Config = RescaleConfig
    config: RescaleConfig

    def __init__(self, config: RescaleConfig) -> None:
        """Build with fresh parameters: the haar flow starts as plain 2x2 averaging."""
        super().__init__(config)
        self.cell, self.map_levels = config.scale * config.map_divisor, config.map_levels
        stages = config.scale.bit_length() - 1
        self.refnet = RefNet(stages, config.ref_width, config.map_divisor, config.map_levels)
        stage = {"haar": haar_stage, "paper": paper_stage}[config.flow]
        self.stages = nn.ModuleList(
            stage(config.blocks, self.refnet.condition_channels, config.width) for _ in range(stages)
        )
        self.restore = SubNet(3, 3, self.refnet.condition_channels, config.width)  # low-res enhancement

    @property
    def halo(self) -> int:
        """See `Rescaler`. The flow looks further, but what lies beyond hardly matters."""
        return {2: 32, 4: 48}[self.config.scale]

    def similarity(self, hr: Tensor, reference: Tensor) -> Tensor:
        """See `Rescaler`: RefScale, Eq. 3."""
        return self.refnet.cosine(self.refnet.features(hr / 255), self.refnet.features(reference / 255))

    def quantise_similarity(self, similarity: Tensor) -> Tensor:
        """See `Rescaler`."""
        return self.refnet.quantise(self.refnet.ramped(similarity))

    def planes(self, levels: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """See `Rescaler`: one for each x2 stage."""
        return tuple(self.refnet.spread(levels.float(), height, width))

    def down(self, hr: Tensor, context: Context) -> Tensor:
        """See `Rescaler`."""
        return 255 * self.forward(hr / 255, self._condition_of_tile(context, *hr.shape[-2:]))[0]

    def up(self, lr: Tensor, context: Context) -> Tensor:
        """See `Rescaler`."""
        height, width = (self.config.scale * side for side in lr.shape[-2:])
        return 255 * self.upscale(lr / 255, self._condition_of_tile(context, height, width))

    def _condition_of_tile(self, context: Context, height: int, width: int) -> list[Tensor]:
        features = None if context.reference is None else self.refnet.features(context.reference / 255)
        quality = torch.tensor([context.quality / 100], device=self.device)
        return self.refnet.condition(features, list(context.similarity_map), quality, height, width)

    def forward(self, hr: Tensor, condition: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Run the flow down.

        Args:
            hr: [b, 3, h, w] in [0, 1], h and w multiples of the scale.
            condition: of `RefNet.condition`.

        Returns:
            lr [b, 3, h/s, w/s], about [0, 1], and the latents, one [b, 9, h/2^k, w/2^k] a stage.
        """
        lr, z = hr, []
        for stage, f_c in zip(self.stages, condition, strict=True):
            split = stage(lr, f_c)  # [b, 12, h/2^k, w/2^k]
            lr = split[:, :3]
            z.append(split[:, 3:])
        return lr, z

    def upscale(self, lr_hat: Tensor, condition: list[Tensor]) -> Tensor:
        """Make the high-res picture of a decoded low-res one.

        Args:
            lr_hat: [b, 3, h/s, w/s] in [0, 1].
            condition: of `RefNet.condition`.

        Returns:
            [b, 3, h, w], about [0, 1], not clamped.
        """
        return self.inverse(lr_hat + self.restore(lr_hat, condition[-1]), condition)

    def inverse(self, lr: Tensor, condition: list[Tensor], z: list[Tensor] | None = None) -> Tensor:
        """Run the flow up, [b, 3, h/s, w/s] -> [b, 3, h, w]: with the z of `forward` its inverse, up to rounding.

        None is zeros for z.
        """
        latents: list[Tensor | None] = [None] * len(self.stages) if z is None else list(z)
        for stage, f_c, latent in zip(reversed(self.stages), reversed(condition), reversed(latents), strict=True):
            if latent is None:
                latent = lr.new_zeros(lr.shape[0], 9, *lr.shape[-2:])
            lr = stage.inverse(torch.cat([lr, latent], dim=1), f_c)  # type: ignore[operator]
        return lr
