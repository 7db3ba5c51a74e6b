"""The low-res codec in a training step: the JPEG's quantiser, or with `[gmm]` in the recipe the learned codec.

The gradient passes the quantiser as far as coefficients survive (a plain straight-through one makes the net hide detail
that dies there). For the first `gmm_first` steps, the rescaler learns with JPEG's quantiser all the same, and the
learned codec's entropy model beside it: to code what the rescaler leaves. The codec's transform, which is JPEG's to
begin with, learns from then on, and everything together. To teach it earlier, on the error of the low-res picture, does
not serve: such a codec has a lower error at equal bits than JPEG, and yet much the worse high-res picture, since what
the rescaler leaves to JPEG's quantiser to drop counts as much as what it means to send.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from refscale_codec.lrcodec.gmm.latents import STRIDE
from refscale_codec.lrcodec.gmm.net import Gmm, TrainingPass
from refscale_codec.training import losses
from refscale_codec.training.recipe import TrainConfig

_LEAST_BPP = 0.02  # bits per low-res pixel, added where only the entropy model learns: almost flat crops count little


class Received(NamedTuple):
    """Low-res pictures after their codec."""

    lr_hat: Tensor
    """[b, 3, h, w], about [0, 1]."""
    bits: Tensor
    """[b]; 0 where the picture is only rounded."""
    beside: Tensor | None
    """What the entropy model alone learns from, [b], to be added to the loss; None if it does not learn alone."""


def received(
    lr: Tensor,
    reference: Tensor,
    quality: Tensor,
    rounded: Tensor,
    gmm: Gmm | None,
    config: TrainConfig,
    step: int,
) -> Received:
    """Code low-res pictures as the recipe says.

    Args:
        lr: [b, 3, h, w], about [0, 1].
        reference: as `normalised_reference` gives it, zeros where none is used.
        quality: [b] in 1..100.
        rounded: [b], which pictures are only rounded to 8 bits.
        gmm: the learned codec, if the recipe has one.
        config: the recipe.
        step: counted from 0.
    """
    used = torch.where(rounded, 101, quality)
    if gmm is not None and step >= config.gmm_first:
        return Received(*through_gmm(gmm, lr, reference, used), None)
    with torch.autocast(lr.device.type, enabled=False):  # the quantiser as the codec has it
        lr_hat = losses.through_jpeg(lr, used)
        bits = losses.coded_bits(lr, quality) * ~rounded
    return Received(lr_hat, bits, None if gmm is None else entropy_loss(gmm, lr, reference, quality))


def through_gmm(gmm: Gmm, lr: Tensor, reference: Tensor, quality: Tensor) -> TrainingPass:
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
    return TrainingPass(torch.where(used[:, None, None, None], coded.lr_hat, rounded), coded.bits * used)


def entropy_loss(gmm: Gmm, lr: Tensor, reference: Tensor, quality: Tensor) -> Tensor:
    """Return about ln(bits per pixel) [b] of low-res pictures as JPEG's transform and quantiser leave them.

    Only the entropy model learns from it. Arguments are those of `through_gmm`.
    """
    share = quality.clamp(max=100) / 100
    with torch.no_grad(), torch.autocast(lr.device.type, enabled=False):
        y = functional.conv2d(lr.detach() - 0.5, gmm.forward_dct, stride=STRIDE) * gmm.gains(share)
    bpp = gmm.bits(y, reference, share) / (lr.shape[-2] * lr.shape[-1])
    return torch.log(bpp + _LEAST_BPP)


def normalised_reference(reference: Tensor, scale: int) -> Tensor:
    """Return references [b, 3, h, w] in [0, 1] as the low-res codec sees them: rounded means, in [-1, 1)."""
    return ((functional.avg_pool2d(255 * reference, scale) + 0.5).floor() - 128) / 128
