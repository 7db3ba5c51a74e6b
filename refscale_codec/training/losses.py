"""What training minimises: bits and squared error of a whole file, each on a log scale.

BD-rate compares curves in log rate against log error, picture by picture, so each crop's loss is

    ln(bits of low-res picture and map) + weight * ln(squared error) + guidance

with a `weight` (`error_weight`) near the usual steepness of a rate-distortion curve. With that steepness alone nothing
would tell where on its curve a crop shall lie, and nets drift along it for hundreds of steps; so the weight leans
towards what holds each quality to its own exchange of error for bits.

Bits of the low-res picture are estimated from its DCT coefficients (`coded_bits`), closely and with the right slope:
`benchmarks/entropy_coding.py` compares. Bits of the map are those of the real coder, whose gradient is that of the
Laplace likelihood of each level given its left and upper neighbours, scaled by the crop's own mean deviation
(`map_bits`).

Guidance is RefScale's Eq. 5 (bicubic where dissimilar, blurred where similar), weakly: it keeps the low-res picture a
picture.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from refscale_codec.lrcodec import gradient
from refscale_codec.lrcodec.dct import coefficients
from refscale_codec.lrcodec.dct.coefficients import DCT, LARGEST, YCBCR

BITS_A_UNIT, BITS_A_BLOCK = 2.24, 1.27  # by least squares on low-res pictures of qualities 15 to 95
BIT_WORTH = 0.006  # squared error of a bit per pixel at quality 50, but for the factor in `error_weight`
GREY = 128 / 255  # what a JPEG codes as 0
HEADER_BPP = 0.009  # bits per high-res pixel of the container and of vectors on a 256x256 picture; not trainable


def error_weight(error: Tensor, bpp: Tensor, quality: Tensor, slope: float) -> Tensor:
    """Return the weight [b] of ln(error) beside ln(bpp), without a gradient.

    It is the geometric mean of `slope`, how steep rate-distortion curves usually are, and of error / (worth * bpp),
    how steep the curve is where a crop's error plus `worth` times its bits is least; within a factor of 3 of `slope`.
    The worth of a bit goes with the square of the quantiser steps, as at high rates, and less so where they are coarse.

    Args:
        error: [b] mean squared error of samples in [0, 1].
        bpp: [b] bits per high-res pixel.
        quality: [b] in 1..100.
        slope: d ln(bits) / -d ln(squared error).
    """
    steps = coefficients.step_percent(quality).floor() / 100
    worth = BIT_WORTH * steps.square() / (1 + steps / 2)
    return torch.sqrt(slope * error / (worth * bpp)).clamp(slope / 3, slope * 3).detach()


def jpeg_tables(quality: Tensor) -> Tensor:
    """Return the low-res JPEG's quantiser steps for qualities [b], whole numbers in 1..100.

    They are [b, 3, 8, 8] for Y, Cb, Cr on 0..255.
    """
    return _jpeg_tables().to(quality.device)[quality.long() - 1]


@cache
def _jpeg_tables() -> Tensor:
    """Return the quantiser steps of all qualities, [100, 3, 8, 8]."""
    tables = torch.tensor([coefficients.tables(quality) for quality in range(1, 101)], dtype=torch.float32)
    return tables[:, [0, 1, 1]].reshape(100, 3, 8, 8)


def coded_bits(lr: Tensor, quality: Tensor) -> Tensor:
    """Estimate the bits [b] that entropy coding `lr` [b, 3, h, w] takes at `quality` [b] in 1..100.

    A coefficient of v quantiser steps counts log2(1 + 4 v^2) / 2: nothing where it will be rounded away, one unit more
    for each doubling where it is large. Of DC, v is the difference from the blocks at the left and above, so that it
    costs nothing to be dark or bright. A unit is `BITS_A_UNIT`, and each block adds `BITS_A_BLOCK`.
    """
    steps = jpeg_steps(lr, quality)
    dc = steps[..., 0, 0]
    padded = functional.pad(dc, (1, 0, 1, 0), mode="replicate")
    apart = dc - (padded[..., 1:, :-1] + padded[..., :-1, 1:]) / 2
    steps = torch.cat([apart[..., None], steps.flatten(4)[..., 1:]], dim=-1)
    units = torch.log2(1 + 4 * steps.square()).sum(dim=(1, 2, 3, 4)) / 2
    return BITS_A_UNIT * units + BITS_A_BLOCK * dc[0, 0].numel()


def through_jpeg(lr: Tensor, quality: Tensor) -> Tensor:
    """Quantise low-res pictures as the codec does.

    Args:
        lr: [b, 3, h, w], about [0, 1]; sides multiples of 8.
        quality: [b], 1..100 for the JPEG's quantiser at that quality, above 100 for rounding to 8 bits only.

    Returns:
        What the coefficients restore, neither clipped nor rounded to the decoder's grid of 1/16 of a level, with the
        gradient of `surviving`; above 100 the picture rounded to 8 bits, clipped, with that of the identity.
    """
    exact, asked = lr.detach(), quality.clamp(max=100)
    steps = jpeg_steps(exact - GREY, asked).round().clamp(-LARGEST, LARGEST)
    coded = (quality <= 100)[:, None, None, None]
    lr_hat = torch.where(coded, of_jpeg_steps(steps, asked) + GREY, (exact.clamp(0, 1) * 255).round() / 255)
    near = torch.where(coded, surviving(lr, asked), lr)
    return near + (lr_hat - near).detach()


def surviving(lr: Tensor, quality: Tensor) -> Tensor:
    """Return a picture like `lr` whose gradient passes only what a JPEG of `quality` [b] in 1..100 lets through.

    Each AC coefficient keeps the share that `gradient.share` tells: almost nothing where it is rounded
    away, almost all where it is large. DC, which is never rounded away, keeps all. The share decides how strongly the
    error pulls against the bits: where less passes than a change of the picture really does to the error, the net goes
    too faint (`dead-wider` in benchmarks/ablations.py). The sides of `lr` [b, 3, h, w] must be multiples of 8.
    """
    steps = jpeg_steps(lr, quality)
    share = gradient.share(steps)
    share[..., 0, 0] = 1
    return of_jpeg_steps(steps * share, quality)


def jpeg_steps(lr: Tensor, quality: Tensor) -> Tensor:
    """Return the DCT coefficients in quantiser steps, [b, 3, h/8, w/8, 8, 8], without partial blocks at the sides."""
    height, width = lr.shape[-2] // 8 * 8, lr.shape[-1] // 8 * 8
    matrix, dct = (torch.tensor(x, dtype=torch.float32, device=lr.device) for x in (YCBCR, DCT))
    ycbcr = torch.einsum("ij,bjhw->bihw", matrix, lr[..., :height, :width].float() * 255)
    blocks = ycbcr.reshape(len(lr), 3, height // 8, 8, width // 8, 8).transpose(-3, -2)
    return dct @ blocks @ dct.T / jpeg_tables(quality)[:, :, None, None]


def of_jpeg_steps(steps: Tensor, quality: Tensor) -> Tensor:
    """Return the picture [b, 3, h, w] of DCT coefficients as `jpeg_steps` gives them."""
    b, _, rows, columns = steps.shape[:4]
    matrix, dct = (torch.tensor(x, dtype=torch.float32, device=steps.device) for x in (YCBCR, DCT))
    blocks = dct.T @ (steps * jpeg_tables(quality)[:, :, None, None]) @ dct
    ycbcr = blocks.transpose(-3, -2).reshape(b, 3, 8 * rows, 8 * columns)
    return torch.einsum("ij,bjhw->bihw", matrix.inverse(), ycbcr) / 255


def with_gradient_of(value: Tensor, estimate: Tensor) -> Tensor:
    """Return `value`, whose gradient is that of `estimate` scaled to the same size."""
    ratio = (value / estimate.clamp(min=1e-6)).detach()
    return value.detach() + ratio * (estimate - estimate.detach())


def map_bits(levels: Tensor, exact: Tensor) -> Tensor:
    """Return an estimate [b] of the bits that a map costs, each level predicted from its left and upper neighbours.

    Args:
        levels: the map as used, [b, 1, h, w], with uniform noise in place of rounding.
        exact: the same before the noise; it makes the prediction and its spread, so that an even map costs nothing.
    """
    left = functional.pad(exact, (1, 0, 0, 0))[..., :-1]
    upper = functional.pad(exact, (0, 0, 1, 0))[..., :-1, :]
    predicted = (left + upper) / 2
    spread = (exact - predicted)[..., 1:, 1:].abs().mean(dim=(1, 2, 3), keepdim=True) + 0.02
    away = levels - predicted

    def cumulative(x: Tensor) -> Tensor:
        tail = 0.5 * torch.exp(-x.abs() / spread)
        return torch.where(x < 0, tail, 1 - tail)

    likelihood = cumulative(away + 0.5) - cumulative(away - 0.5)
    return -torch.log2(likelihood[..., 1:, 1:].clamp(min=1e-6)).sum(dim=(1, 2, 3))


def guidance(lr: Tensor, hr: Tensor, similarity: Tensor | None) -> Tensor:
    """Return Eq. 5 per crop [b] as a mean over pixels: towards bicubic, or towards blurred where similar.

    Args:
        lr: [b, 3, h/s, w/s].
        hr: [b, 3, h, w].
        similarity: [b, 1, any size] in [0, 1]; None for no reference.
    """
    size = lr.shape[-2:]
    bicubic = functional.interpolate(hr, size=size, mode="bicubic", antialias=True, align_corners=False)
    if similarity is None:
        return (bicubic - lr).square().mean(dim=(1, 2, 3))
    tap = torch.exp(-torch.arange(-3, 4, device=lr.device).float().square() / 2)  # sigma: 1 low-res pixel
    tap = (tap / tap.sum()).expand(3, 1, 1, 7)
    blurred = functional.conv2d(functional.pad(bicubic, (3, 3, 3, 3), mode="reflect"), tap, groups=3)
    blurred = functional.conv2d(blurred, tap.transpose(-1, -2), groups=3)
    weight = functional.interpolate(similarity.float(), size=size, mode="bilinear", align_corners=False)
    error = ((bicubic - lr) * (1 - weight)).square() + ((blurred - lr) * weight).square()
    return error.mean(dim=(1, 2, 3))
