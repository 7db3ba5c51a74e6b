"""What training minimises: bits and squared error of a whole file, each on a log scale.

BD-rate compares curves in log rate against log error, picture by picture, so each crop's loss is

    ln(bits of low-res picture and map) + slope * ln(squared error) + guidance

with `slope` the usual steepness of a rate-distortion curve. It needs no weight that depends on quality or content.

Bits are those of the real coders: the size of the JPEG, whose gradient is that of a smooth estimate in the same DCT
domain (`jpeg_activity`), and the size of the coded map, whose gradient is that of the Laplace likelihood of each level
given its left and upper neighbours, scaled by the crop's own mean deviation (`map_bits`).

Guidance is RefScale's Eq. 5 (bicubic where dissimilar, blurred where similar), weakly: it keeps the low-res picture a
picture.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from refscale_codec.lrcodec.coefficients import CHROMA, LUMA

_YCBCR = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]  # JFIF


def _dct_matrix(device: torch.device) -> Tensor:
    k = torch.arange(8, device=device, dtype=torch.float32)
    matrix = torch.cos(math.pi / 8 * (k[None] + 0.5) * k[:, None]) / 2
    matrix[0] /= math.sqrt(2)
    return matrix  # [8, 8], orthonormal


def jpeg_tables(quality: Tensor) -> Tensor:
    """Return the low-res JPEG's quantiser steps for qualities [b] in 1..100 as [b, 3, 8, 8] for Y, Cb, Cr on 0..255."""
    base = torch.tensor([LUMA, CHROMA, CHROMA], dtype=torch.float32, device=quality.device)
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    return ((base * percent[:, None, None, None] + 50) / 100).floor().clamp(1, 255)


def jpeg_activity(lr: Tensor, quality: Tensor) -> Tensor:
    """Return a smooth stand-in [b] for the size of `lr` [b, 3, h, w] as a JPEG of `quality` [b] in 1..100.

    A coefficient of v quantiser steps counts log2(1 + 4 v^2) / 2: nothing where it will be rounded away, one unit more
    for each doubling where it is large. Proportional to bits, not bits.
    """
    steps = _jpeg_steps(lr, quality)
    return torch.log2(1 + 4 * steps.square()).sum(dim=(1, 2, 3, 4, 5)) / 2


def surviving(lr: Tensor, quality: Tensor) -> Tensor:
    """Return a picture like `lr` whose gradient passes only what a JPEG of `quality` [b] in 1..100 lets through.

    Each DCT coefficient of v quantiser steps keeps the share v^2 / (v^2 + 1/4): almost nothing where it is rounded
    away, almost all where it is large. The sides of `lr` [b, 3, h, w] must be multiples of 8.
    """
    b, _, height, width = lr.shape
    tables = jpeg_tables(quality)[:, :, None, None]
    steps = _jpeg_steps(lr, quality)
    kept = steps * (steps.square() / (steps.square() + 0.25)).detach()
    dct = _dct_matrix(lr.device)
    blocks = dct.T @ (kept * tables) @ dct
    ycbcr = blocks.transpose(-3, -2).reshape(b, 3, height, width)
    return torch.einsum("ij,bjhw->bihw", torch.tensor(_YCBCR, device=lr.device).inverse(), ycbcr) / 255


def _jpeg_steps(lr: Tensor, quality: Tensor) -> Tensor:
    """Return the DCT coefficients in quantiser steps, [b, 3, h/8, w/8, 8, 8], without partial blocks at the sides."""
    height, width = lr.shape[-2] // 8 * 8, lr.shape[-1] // 8 * 8
    matrix = torch.tensor(_YCBCR, device=lr.device)
    ycbcr = torch.einsum("ij,bjhw->bihw", matrix, lr[..., :height, :width].float() * 255)
    blocks = ycbcr.reshape(len(lr), 3, height // 8, 8, width // 8, 8).transpose(-3, -2)
    dct = _dct_matrix(lr.device)
    return dct @ blocks @ dct.T / jpeg_tables(quality)[:, :, None, None]


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
