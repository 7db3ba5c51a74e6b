"""A step of training FGRN; equations are those of its paper, see `rescale.fgrn`.

With `rounded = 1` in the recipe it is the paper's: G_d and G_u learn together by Eq. 7, the L1 error of hr_hat made of
the representation in 8 bits, without the way through F and back; F learns by Eq. 9.

Else the low-res picture goes through the low-res codec at a random quality, as for the other nets, and the way through
F and back is taken. Then an error alone would let G_d outdo the quantiser by contrast, so Eq. 7 becomes what the other
nets minimise, bits and squared error. F learns by that, too, and by Eq. 9, which still does not reach G_d.
"""

import torch
from torch import Tensor
from torch.nn import functional

from refscale_codec.lrcodec.gmm.net import Gmm
from refscale_codec.rescale.fgrn import Fgrn
from refscale_codec.training import losses, low_res
from refscale_codec.training import step as steps
from refscale_codec.training.data import Mask, Pixels
from refscale_codec.training.recipe import TrainConfig

GAMMA = 1e-3  # of Eq. 9


def guidance(net: Fgrn, x: Tensor, hr: Tensor) -> Tensor:
    """Return Eq. 9 per crop [b], as a mean over samples; its gradient is for F alone.

    Args:
        net: with F.
        x: [b, 3, h/s, w/s], the representation in 8 bits.
        hr: [b, 3, h, w] in [0, 1].
    """
    lr, log_det = net.guidance(x.detach())
    bicubic = functional.interpolate(hr, size=lr.shape[-2:], mode="bicubic", antialias=True, align_corners=False)
    loss: Tensor = (lr - bicubic).abs().mean(dim=(1, 2, 3)) - GAMMA * log_det / lr[0].numel()
    return loss


def loss_of(
    net: Fgrn, gmm: Gmm | None, config: TrainConfig, batch: tuple[Pixels, Pixels, Mask], step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a batch down, through the low-res codec and up.

    Args:
        net: in training.
        gmm: the learned low-res codec; None for JPEG's quantiser.
        config: the recipe.
        batch: of `Crops.marked_batch`, of which only the targets are used.
        step: counted from 0.

    Returns:
        The mean loss and, for the log, figures of each crop [b].
    """
    rng, device = steps.random_of(config, step), net.device
    hr = steps.tensor(batch[0], device) / 255
    quality, rounded = steps.qualities(config, rng, len(hr), device)
    x = net.represent(hr)
    guided = guidance(net, x, hr)
    if config.rounded == 1:
        hr_hat = net.upscaler(x)
        loss = (hr_hat - hr).abs().mean(dim=(1, 2, 3)) + config.guidance * guided  # Eq. 7 and 9
        psnr = -10 * torch.log10((hr_hat - hr).square().mean(dim=(1, 2, 3)))
        figures = {"loss": loss, "psnr": psnr, "guidance": guided}
    else:
        lr = net.guidance(x)[0]
        received = low_res.received(lr, torch.zeros_like(lr), quality, rounded, gmm, config, step)
        hr_hat = net.reconstruct(received.lr_hat)
        error = (hr_hat - hr).square().mean(dim=(1, 2, 3))
        rate = received.bits / (hr.shape[-2] * hr.shape[-1]) + losses.HEADER_BPP
        loss, figures = steps.total(error, rate, guided, received, quality, config)
    return loss.mean(), {name: value.detach() for name, value in figures.items()}
