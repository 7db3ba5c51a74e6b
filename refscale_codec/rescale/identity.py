"""The rescaler that leaves pictures as they are, for a low-res codec that codes all samples itself: scale 1."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from refscale_codec.picture import tiles
from refscale_codec.rescale.interface import Context
from refscale_codec.rescale.trained import NetConfig, TrainedRescaler, one_of


@dataclass(frozen=True)
class IdentityConfig(NetConfig):
    """There is one."""

    kind: ClassVar[str] = "identity"

    scale: int = one_of(1, (1,))


class Identity(TrainedRescaler):
    """See `Rescaler`. It has no parameters; the similarity map is one everywhere, so a file has none."""

    Config = IdentityConfig
    exact = True
    halo = 0
    cell = tiles.STEP
    map_levels = 2

    @property
    def device(self) -> torch.device:
        """See `Rescaler`: there is nothing to compute elsewhere."""
        return torch.device("cpu")

    def similarity(self, hr: Tensor, reference: Tensor) -> Tensor:
        """See `Rescaler`."""
        return torch.ones(1, 1, *(-(-side // self.cell) for side in hr.shape[-2:]))

    def quantise_similarity(self, similarity: Tensor) -> Tensor:
        """See `Rescaler`."""
        return similarity

    def planes(self, levels: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """See `Rescaler`."""
        return ()

    def down(self, hr: Tensor, context: Context) -> Tensor:
        """See `Rescaler`."""
        return hr

    def up(self, lr: Tensor, context: Context) -> Tensor:
        """See `Rescaler`."""
        return lr
