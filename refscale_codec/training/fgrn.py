"""A step of training FGRN; equations are those of its paper, see `rescale.fgrn`.

With `rounded = 1` in the recipe it is the paper's: G_d and G_u learn together by Eq. 7, the L1 error of hr_hat made of
the representation in 8 bits, without the way through F and back; F learns by Eq. 9.

With `rounded = 0` the low-res picture goes through the quantiser of the low-res codec at a random quality, as for the
other nets, and the way through F and back is taken. Then an error alone would let G_d outdo the quantiser by contrast,
so Eq. 7 becomes what the other nets minimise, bits and squared error. F learns by that, too, and by Eq. 9, which still
does not reach G_d.
"""

import torch
from torch import Tensor
from torch.nn import functional

from refscale_codec.rescale.fgrn import Fgrn
from refscale_codec.training import losses
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
    net: Fgrn, config: TrainConfig, batch: tuple[Pixels, Pixels, Mask], step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run the targets of a `Crops.marked_batch` down, through the JPEG's quantiser and up.

    Returns:
        The mean loss and, for the log, figures of each crop [b].
    """
    rng, device = steps.random_of(config, step), net.device
    hr = steps.tensor(batch[0], device) / 255
    quality, _ = steps.qualities(config, rng, len(hr), device)
    x = net.represent(hr)
    guidance_loss = config.guidance * guidance(net, x, hr)
    if config.rounded:
        hr_hat = net.upscaler(x)
        loss = comparable = (hr_hat - hr).abs().mean(dim=(1, 2, 3))  # Eq. 7
        figures = {}
    else:
        lr = net.guidance(x)[0]
        with torch.autocast(device.type, enabled=False):  # the quantiser as the codec has it
            lr_hat = losses.through_jpeg(lr, quality)
            rate = losses.coded_bits(lr, quality) / (hr.shape[-2] * hr.shape[-1]) + losses.HEADER_BPP
        hr_hat = net.reconstruct(lr_hat)
        loss, comparable = steps.rate_and_error(rate, (hr_hat - hr).square().mean(dim=(1, 2, 3)), quality, config.slope)
        figures = {"bpp": rate}
    psnr = -10 * torch.log10((hr_hat - hr).square().mean(dim=(1, 2, 3)))
    figures |= {"loss": comparable + guidance_loss, "psnr": psnr, "guidance": guidance_loss}
    return (loss + guidance_loss).mean(), {name: value.detach() for name, value in figures.items()}
