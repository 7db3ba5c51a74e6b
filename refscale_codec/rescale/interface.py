"""What a rescaler is: `Rescaler`. `model.Model` holds one."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Context(NamedTuple):
    """What a padded tile is rescaled with, beside the tile itself."""

    quality: int
    """Of the low-res codec, 1..100."""
    reference: Tensor | None = None
    """The warped reference over the tile, [1, 3, h, w] in levels on 0..255; None for no reference."""
    similarity_map: tuple[Tensor, ...] = ()
    """The planes of `Rescaler.planes` over the tile; empty if and only if there is no reference."""


class Rescaler(Protocol):
    """Rescales padded tiles. Several threads may use one object.

    Tensors are float32 on `device`. A tile's sides are multiples of `scale`; it begins at multiples of `tiles.STEP`
    pixels.
    """

    @property
    def scale(self) -> int:
        """High-res side over low-res side, one of `container.SCALES`."""

    @property
    def halo(self) -> int:
        """Pixels around a tile that its result depends on, a multiple of `tiles.STEP`."""

    @property
    def cell(self) -> int:
        """Side of a cell of the similarity map in high-res pixels; divides `tiles.STEP`."""

    @property
    def map_levels(self) -> int:
        """Integer levels of the similarity map, 2..256; at 0 the reference is not used."""

    @property
    def uses_reference(self) -> bool:
        """Whether a reference has any effect; if not, there is never one, and `similarity` is not called."""

    @property
    def exact(self) -> bool:
        """Whether `up` gives the same on every machine, with any number of threads and in tiles of any size."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def similarity(self, hr: Tensor, reference: Tensor) -> Tensor:
        """Return how similar the reference is, [1, 1, rows, columns] of cells in [-1, 1], from two [1, 3, h, w]."""

    def quantise_similarity(self, similarity: Tensor) -> Tensor:
        """Return the levels of the map, whole numbers of the same shape, for similarities."""

    def planes(self, levels: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """Return the map interpolated for a whole picture: planes [1, 1, height / d, width / d], each of its own d.

        Args:
            levels: [1, 1, rows, columns], whole numbers.
            height: of the picture in pixels, a multiple of the scale.
            width: likewise.
        """

    def down(self, hr: Tensor, context: Context) -> Tensor:
        """Return the low-res picture [1, 3, h / scale, w / scale] of [1, 3, h, w], both in levels on about 0..255."""

    def up(self, lr: Tensor, context: Context) -> Tensor:
        """Return the high-res picture [1, 3, h, w] of a received low-res one, neither rounded nor clipped."""
