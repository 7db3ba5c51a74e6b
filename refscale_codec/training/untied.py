"""A step of training an untied rescaler, and the maps that it sees.

The map is not learned: the encoder decides it, and training shows the nets what an encoder may decide. It is highest
but for samples without a reference, for cells where the reference was made to show another place, in a share of the
samples, and for random rectangles in others.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refscale_codec.lrcodec.gmm.net import Gmm
from refscale_codec.rescale.quantised import faster_float
from refscale_codec.rescale.untied import Untied, spread
from refscale_codec.training import losses, low_res
from refscale_codec.training import step as steps
from refscale_codec.training.data import Mask, Pixels
from refscale_codec.training.recipe import TrainConfig


def maps(elsewhere: Mask, config: TrainConfig, cell: int, highest: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw similarity maps.

    Args:
        elsewhere: [b, h, w], where references show another place.
        config: its `map_off` is the share of samples whose map is 0 there, `weakened` the share with random rectangles
            of less than `highest`, `alone` the share whose map is 0 everywhere.
        cell: side of a cell in pixels of the picture.
        highest: level.
        rng: where from.

    Returns:
        Levels [b, 1, h / cell, w / cell].
    """
    size, rows, columns = len(elsewhere), elsewhere.shape[1] // cell, elsewhere.shape[2] // cell
    mostly = elsewhere.reshape(size, rows, cell, columns, cell).mean(axis=(2, 4)) > 0.5
    levels = np.where(mostly & (rng.random(size) < config.map_off)[:, None, None], 0, highest)
    for sample in np.flatnonzero(rng.random(size) < config.weakened):
        for _ in range(int(rng.integers(1, 4))):
            (y, x), (height, width) = rng.integers(0, (rows, columns)), rng.integers(1, (rows + 1, columns + 1))
            levels[sample, y : y + height, x : x + width] = rng.integers(highest) if rng.random() < 0.5 else 0
    levels[rng.random(size) < config.alone] = 0
    return levels[:, None]


def loss_of(
    net: Untied, gmm: Gmm | None, config: TrainConfig, batch: tuple[Pixels, Pixels, Mask], step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a batch down, through the low-res codec and up.

    Args:
        net: in training.
        gmm: the learned low-res codec; None for JPEG's quantiser.
        config: the recipe.
        batch: of `Crops.marked_batch`.
        step: counted from 0.

    Returns:
        The mean loss and, for the log, figures of each crop [b].
    """
    rng, device = steps.random_of(config, step), net.device
    hr, ref = (steps.tensor(x, device) for x in batch[:2])  # [b, 3, h, w]
    height, width = hr.shape[-2] // 2, hr.shape[-1] // 2
    quality, rounded = steps.qualities(config, rng, len(hr), device)
    divisor, highest = net.config.map_divisor, net.config.map_levels - 1
    levels = torch.from_numpy(maps(batch[2], config, 2 * divisor, highest, rng)).to(device)
    s_map = spread(levels, divisor, height, width)

    lr = net.downscale(hr / 255, ref / 255, s_map, quality)
    used = (levels > 0).flatten(1).any(dim=1)[:, None, None, None]  # the codec has the reference, or has it not
    received = low_res.received(
        lr, low_res.normalised_reference(ref / 255, 2) * used, quality, rounded, gmm, config, step
    )
    hr_hat = net.upscale(255 * received.lr_hat.float(), ref, s_map, quality, faster_float(device))

    error = ((hr_hat - hr) / 255).square().mean(dim=(1, 2, 3))
    rate = received.bits / (4 * height * width) + losses.HEADER_BPP
    guidance = losses.guidance(lr, hr / 255, levels / highest)
    loss, figures = steps.total(error, rate, guidance, received, quality, config)
    return loss.mean(), {name: value.detach() for name, value in figures.items()}
