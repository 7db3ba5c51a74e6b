"""A step of training the flow: crops -> downscale -> low-res codec at a random quality -> upscale -> loss.

The similarity map is learned.
"""

import torch
from torch import Tensor

from refscale_codec.lrcodec.gmm.net import Gmm
from refscale_codec.rescale import similarity_map
from refscale_codec.rescale.net import RescaleNet
from refscale_codec.training import losses, low_res
from refscale_codec.training import step as steps
from refscale_codec.training.data import Mask, Pixels
from refscale_codec.training.recipe import TrainConfig


def coded_map_bits(exact: Tensor, map_levels: int) -> Tensor:
    """Return the bits [b] that the real coder spends on maps [b, 1, h, w], given before rounding."""
    levels = exact.detach().round().to(torch.uint8)[:, 0].cpu().numpy()
    bits = [8.0 * len(similarity_map.encode(x, map_levels) or b"") for x in levels]
    return torch.tensor(bits, device=exact.device)


def loss_of(
    net: RescaleNet, gmm: Gmm | None, config: TrainConfig, batch: tuple[Pixels, Pixels, Mask], step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a batch down, through the low-res codec and up.

    Args:
        net: in training.
        gmm: the learned low-res codec; None for JPEG's quantiser.
        config: the recipe.
        batch: of `Crops.marked_batch`; its marks are not used.
        step: counted from 0.

    Returns:
        The mean loss and, for the log, figures of each crop [b].
    """
    rng, device = steps.random_of(config, step), net.device
    hr, ref = (steps.tensor(x, device) / 255 for x in batch[:2])  # [b, 3, h, w]
    quality, rounded = steps.qualities(config, rng, len(hr), device)
    referenced = torch.from_numpy(rng.random(len(hr)) >= config.alone).float().to(device)[:, None, None, None]

    features = net.refnet.features(ref)
    similarity = net.refnet.similarity(net.refnet.features(hr), features) * referenced
    levels = net.refnet.quantise(similarity) * referenced
    maps = net.refnet.spread(levels, *hr.shape[-2:])
    condition = net.refnet.condition(features, maps, quality / 100, *hr.shape[-2:])
    lr = net(hr, condition)[0].float()
    low_reference = low_res.normalised_reference(ref, net.config.scale) * referenced
    received = low_res.received(lr, low_reference, quality, rounded, gmm, config, step)
    hr_hat = net.upscale(received.lr_hat, condition)

    pixels = hr.shape[-2] * hr.shape[-1]
    error = (hr_hat.float() - hr).square().mean(dim=(1, 2, 3))
    rate_lr = received.bits / pixels
    exact = similarity * (net.map_levels - 1)
    map_bits = losses.with_gradient_of(coded_map_bits(exact, net.map_levels), losses.map_bits(levels, exact))
    rate = rate_lr + map_bits / pixels + losses.HEADER_BPP
    loss, figures = steps.total(error, rate, losses.guidance(lr, hr, similarity), received, quality, config)
    figures |= {"bpp_lr": rate_lr, "bpp_map": map_bits / pixels, "similarity": similarity.mean(dim=(1, 2, 3))}
    return loss.mean(), {name: value.detach() for name, value in figures.items()}
