"""What a training step of every family of nets draws and minimises; the rest is in `flow`, `untied` and `fgrn`."""

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from refscale_codec.training import losses
from refscale_codec.training.data import Pixels
from refscale_codec.training.low_res import Received
from refscale_codec.training.recipe import TrainConfig


def random_of(config: TrainConfig, step: int) -> Generator:
    """Return where the random numbers of a step, counted from 0, come from, beside those of its crops and torch's."""
    return np.random.default_rng([config.seed, step])


def tensor(pictures: Pixels, device: torch.device) -> Tensor:
    """Return pictures [b, h, w, 3] as [b, 3, h, w] in levels."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float()


def qualities(config: TrainConfig, rng: Generator, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw the qualities of a batch.

    Args:
        config: the recipe, with the range of qualities and the share of low-res pictures that are only rounded.
        rng: see `random_of`.
        size: b, crops in the batch.
        device: of the result.

    Returns:
        Qualities [b] in 1..100; and [b] whose low-res picture is only rounded to 8 bits, where the quality is 100.
    """
    quality = torch.from_numpy(rng.integers(config.quality[0], config.quality[1] + 1, size)).float().to(device)
    rounded = torch.from_numpy(rng.random(size) < config.rounded).to(device)
    return torch.where(rounded, 100, quality), rounded


def rate_and_error(rate: Tensor, error: Tensor, quality: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    """Return ln(rate) + weight * ln(error) of each crop [b].

    Args:
        rate: [b] bits per high-res pixel.
        error: [b] mean squared error of samples in [0, 1].
        quality: [b] in 1..100.
        slope: about the weight, see `losses.error_weight`.

    Returns:
        To train on; and for the log, with the slope as the weight of all, so that crops compare.
    """
    bounded = error + 4e-6  # rounding limits it anyway
    weight = losses.error_weight(bounded, rate, quality, slope)
    return torch.log(rate) + weight * torch.log(bounded), torch.log(rate) + slope * torch.log(bounded)


def total(
    error: Tensor, rate: Tensor, guidance: Tensor, received: Received, quality: Tensor, config: TrainConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of each crop [b] and figures [b] of it for the log.

    Args:
        error: [b] mean squared error of samples in [0, 1].
        rate: [b] bits per high-res pixel.
        guidance: [b], what the recipe's `guidance` weighs.
        received: the low-res pictures.
        quality: [b] in 1..100.
        config: the recipe.
    """
    loss, comparable = rate_and_error(rate, error, quality, config.slope)
    weighted = config.guidance * guidance
    figures = {"loss": comparable + weighted, "psnr": -10 * torch.log10(error), "bpp": rate, "guidance": guidance}
    loss = loss + weighted
    if received.beside is not None:
        loss, figures["entropy"] = loss + received.beside, received.beside
    return loss, figures
