"""A step of training the flow: crops -> downscale -> the JPEG's quantiser at a random quality -> upscale -> loss.

The gradient passes the quantiser as far as coefficients survive (a plain straight-through one makes the net hide detail
that dies there). The similarity map is learned.

With `[gmm]` in the recipe the learned low-res codec takes the JPEG's place. For the first `gmm_first` steps, the
rescaler learns with JPEG's quantiser all the same, and the codec's entropy model beside it: to code what the rescaler
leaves. The codec's transform, which is JPEG's to begin with, learns from then on, and everything together. To teach it
earlier, on the error of the low-res picture, does not serve: such a codec has a lower error at equal bits than JPEG,
and yet much the worse high-res picture, since what the rescaler leaves to JPEG's quantiser to drop counts as much as
what it means to send.
"""

import torch
from torch import Tensor
from torch.nn import functional

from refscale_codec.lrcodec.gmm.latents import STRIDE
from refscale_codec.lrcodec.gmm.net import Coded, Gmm
from refscale_codec.rescale import similarity_map
from refscale_codec.rescale.net import RescaleNet
from refscale_codec.training import losses
from refscale_codec.training import step as steps
from refscale_codec.training.data import Mask, Pixels
from refscale_codec.training.recipe import TrainConfig

_LEAST_BPP = 0.02  # bits per low-res pixel, added where only the entropy model learns: almost flat crops count little


def through_gmm(gmm: Gmm, lr: Tensor, reference: Tensor, quality: Tensor) -> Coded:
    """Code low-res pictures with the learned codec; above a quality of 100 only round them, as `through_jpeg` does.

    Args:
        gmm: the codec.
        lr: [b, 3, h, w], about [0, 1]; sides multiples of `STRIDE`.
        reference: as `Gmm.forward` takes it.
        quality: [b].
    """
    coded = gmm(lr, reference, quality.clamp(max=100) / 100)
    used = quality <= 100
    rounded = lr + ((lr.detach().clamp(0, 1) * 255).round() / 255 - lr.detach())
    return Coded(torch.where(used[:, None, None, None], coded.lr_hat, rounded), coded.bits * used)


def entropy_loss(gmm: Gmm, lr: Tensor, reference: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    """Return ln(bits) [b] of low-res pictures as JPEG's transform and quantiser leave them, and the bits per pixel.

    Only the entropy model learns from it. Arguments are those of `through_gmm`.
    """
    share = quality.clamp(max=100) / 100
    with torch.no_grad(), torch.autocast(lr.device.type, enabled=False):
        y = functional.conv2d(lr.detach() - 0.5, gmm.forward_dct, stride=STRIDE) * gmm.gains(share)
    bpp = gmm.bits(y, reference, share) / (lr.shape[-2] * lr.shape[-1])
    return torch.log(bpp + _LEAST_BPP), bpp


def low_res_reference(reference: Tensor, scale: int) -> Tensor:
    """Return references [b, 3, h, w] in [0, 1] as the low-res codec sees them: rounded means, in [-1, 1)."""
    return ((functional.avg_pool2d(255 * reference, scale) + 0.5).floor() - 128) / 128


def coded_map_bits(exact: Tensor, map_levels: int) -> Tensor:
    """Return the bits [b] that the real coder spends on maps [b, 1, h, w], given before rounding."""
    levels = exact.detach().round().to(torch.uint8)[:, 0].cpu().numpy()
    bits = [8.0 * len(similarity_map.encode(x, map_levels) or b"") for x in levels]
    return torch.tensor(bits, device=exact.device)


def loss_of(
    net: RescaleNet, gmm: Gmm | None, config: TrainConfig, batch: tuple[Pixels, Pixels, Mask], step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a `Crops.marked_batch` down, through the low-res codec and up; the marks are not used.

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
    low_reference = low_res_reference(ref, net.config.scale) * referenced
    if gmm is not None and step >= config.gmm_first:
        lr_hat, lr_bits = through_gmm(gmm, lr, low_reference, torch.where(rounded, 101, quality))
    else:
        with torch.autocast(device.type, enabled=False):  # the quantiser as the codec has it
            lr_hat = losses.through_jpeg(lr, torch.where(rounded, 101, quality))
            lr_bits = losses.packed_bits(lr, quality) * ~rounded
    hr_hat = net.upscale(lr_hat, condition)

    pixels = hr.shape[-2] * hr.shape[-1]
    error = (hr_hat.float() - hr).square().mean(dim=(1, 2, 3))
    rate_lr = lr_bits / pixels
    exact = similarity * (net.map_levels - 1)
    map_bits = losses.with_gradient_of(coded_map_bits(exact, net.map_levels), losses.map_bits(levels, exact))
    rate = rate_lr + map_bits / pixels + losses.HEADER_BPP
    guide = losses.guidance(lr, hr, similarity)
    loss, comparable = steps.rate_and_error(rate, error, quality, config.slope)
    figures = {
        "loss": comparable + config.guidance * guide,
        "psnr": -10 * torch.log10(error),
        "bpp": rate,
        "bpp_lr": rate_lr,
        "bpp_map": map_bits / pixels,
        "similarity": similarity.mean(dim=(1, 2, 3)),
        "guidance": guide,
    }
    loss = loss + config.guidance * guide
    if gmm is not None and step < config.gmm_first:
        beside, figures["bpp_gmm"] = entropy_loss(gmm, lr, low_reference, quality)
        loss = loss + beside
    return loss.mean(), {name: value.detach() for name, value in figures.items()}
