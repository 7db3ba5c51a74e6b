"""The low-res picture <-> quantised DCT coefficients, as in a baseline 4:4:4 JPEG (ITU-T T.81, JFIF).

Quantisation indices are int16 [rows, columns, 3, 64]: blocks of 8x8 pixels, components Y, Cb, Cr, zigzag order. Times
its step size, an index is a coefficient. In both directions the picture is real-valued, neither rounded to 8 bits nor
clipped to 0..255: the net gives it low contrast to save bits, in which rounding would show. `jfif` makes a JPEG of
the same indices, for viewers.

The quantiser tables are scaled as libjpeg scales the standard ones. They are flatter than those, because the error that
counts is that of the high-res picture.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from refscale_codec.lrcodec.interface import Floats

Indices = NDArray[np.int16]  # [rows, columns, 3, 64]

ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, (i // 8 if (i // 8 + i % 8) % 2 else i % 8)))
"""Position in an 8x8 block, row by row, of each coefficient (T.81, Figure 5)."""

LUMA = [
    [18, 14, 14, 18, 22, 29, 33, 37],
    [15, 15, 16, 19, 23, 36, 37, 35],
    [16, 16, 18, 22, 29, 36, 40, 35],
    [16, 18, 21, 25, 33, 45, 43, 37],
    [19, 21, 28, 35, 39, 51, 49, 42],
    [22, 27, 35, 38, 43, 50, 52, 46],
    [33, 38, 42, 45, 49, 54, 54, 49],
    [40, 46, 47, 48, 52, 48, 49, 48],
]
"""Quantiser steps of Y at quality 50: 20 (K / 20)^0.55 of T.81's Table K.1, which is weighted by visual sensitivity."""
CHROMA = [
    [18, 19, 23, 38, 67, 67, 67, 67],
    [19, 21, 24, 49, 67, 67, 67, 67],
    [23, 24, 43, 67, 67, 67, 67, 67],
    [38, 49, 67, 67, 67, 67, 67, 67],
    [67, 67, 67, 67, 67, 67, 67, 67],
    [67, 67, 67, 67, 67, 67, 67, 67],
    [67, 67, 67, 67, 67, 67, 67, 67],
    [67, 67, 67, 67, 67, 67, 67, 67],
]
"""Quantiser steps of Cb and Cr at quality 50: 23.75 (K / 25)^0.75 of Table K.2."""

_STRIP = 512  # rows of a picture that are transformed at once, to bound memory
LARGEST = 1023
"""Largest magnitude of an index; the Huffman tables of a JPEG for AC have the same limit."""

YCBCR = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
"""RGB to Y, Cb and Cr (JFIF)."""
DCT = np.cos(np.pi / 8 * (np.arange(8) + 0.5) * np.arange(8)[:, None]) / 2
DCT[0] /= np.sqrt(2)
"""The orthonormal DCT of 8 samples, [8, 8]: rows are frequencies."""
GRID_BITS = 4  # a dequantised picture is in multiples of 2^-GRID_BITS
_DCT_BITS, _INNER_BITS, _RGB_BITS = (
    20,
    10,
    18,
)  # fractional bits: of the transform, between its passes, of the conversion to RGB
_IDCT = np.rint(2**_DCT_BITS * DCT.T)
_TO_RGB = np.rint(2**_RGB_BITS * np.array([[1, 1, 1], [0, -0.344136, 1.772], [1.402, -0.714136, 0]]))
"""Y, Cb and Cr to RGB (JFIF)."""

_AT_ONCE = 16  # rows of blocks that are dequantised at once, to bound memory


Quality = TypeVar("Quality", bound=Any)


def step_percent(quality: Quality, highest: int = 100) -> Quality:
    """Return quantiser steps in percent of those at quality 50, as libjpeg scales them but not rounded down.

    Args:
        quality: a number, array or tensor of them, above 0 and up to `highest`.
        highest: the highest quality; 1 for qualities in 0..1.
    """
    half = highest / 2
    percent: Quality = (quality < half) * (50 * highest / quality) + (quality >= half) * (200 - 200 / highest * quality)
    return percent


def steps(quality: int) -> NDArray[np.int64]:
    """Return the quantiser steps [3, 64] in zigzag order for Y, Cb, Cr at a quality of 1..100, scaled as by libjpeg."""
    percent = int(step_percent(quality))
    tables = np.array([LUMA, CHROMA, CHROMA], np.int64).reshape(3, 64)[:, ZIGZAG]
    return np.clip((tables * percent + 50) // 100, 1, 255)


def tables(quality: int) -> list[list[int]]:
    """Return the quantiser tables of Y and of Cb and Cr at a quality of 1..100, row by row, for Pillow."""
    by_row: list[list[int]] = steps(quality)[:2, np.argsort(ZIGZAG)].tolist()
    return by_row


def grid(height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of blocks in a picture."""
    return -(-height // 8), -(-width // 8)


def quantise(lr: Floats, quality: int) -> Indices:
    """Return the indices of a picture [h, w, 3] at a quality of 1..100, as in T.81 (A.3) but unrounded before.

    The last column and row are repeated to fill the blocks; indices are clipped to `LARGEST`.
    """
    return np.rint(in_steps(lr, quality)).astype(np.int16)


def in_steps(lr: Floats, quality: int) -> Floats:
    """Return the same unrounded: coefficients in quantiser steps, [rows, columns, 3, 64], clipped to `LARGEST`."""
    strips = range(0, len(lr), _STRIP)
    return np.concatenate([_in_steps(lr[top : top + _STRIP], quality) for top in strips])


def _in_steps(lr: Floats, quality: int) -> Floats:
    height, width = lr.shape[:2]
    rows, columns = grid(height, width)
    padded = np.pad(lr, ((0, 8 * rows - height), (0, 8 * columns - width), (0, 0)), mode="edge")
    ycbcr = (padded - 128) @ np.array(YCBCR, np.float32).T
    blocks = ycbcr.reshape(rows, 8, columns, 8, 3).transpose(0, 2, 4, 1, 3)
    dct = DCT.astype(np.float32)
    transformed = (dct @ blocks @ dct.T).reshape(rows, columns, 3, 64)[..., ZIGZAG]
    exact: Floats = transformed / steps(quality).astype(np.float32)
    return np.clip(exact, -LARGEST, LARGEST)


def dequantise(indices: Indices, height: int, width: int, quality: int) -> Floats:
    """Return the picture [height, width, 3] on about 0..255 of indices of a quality of 1..100.

    The inverse transform is integer arithmetic (`_IDCT`, `_TO_RGB`), so that the picture, in multiples of 1/16, is the
    same on every machine: float64 holds every sum exactly, in any order of summation.
    """
    rows, columns = indices.shape[:2]
    lr = np.empty((height, width, 3), np.float32)
    for top in range(0, rows, _AT_ONCE):
        part = indices[top : top + _AT_ONCE]
        values = (part * steps(quality))[..., np.argsort(ZIGZAG)].astype(np.float64)
        half_way = _shifted(_IDCT @ values.reshape(-1, columns, 3, 8, 8), _DCT_BITS - _INNER_BITS)
        blocks = _shifted(half_way @ _IDCT.T, _DCT_BITS)  # [rows, columns, 3, 8, 8]
        ycbcr = blocks.transpose(0, 3, 1, 4, 2).reshape(-1, 8 * columns, 3)
        at = slice(8 * top, min(8 * top + len(ycbcr), height))
        rgb = _shifted(ycbcr[: at.stop - at.start, :width] @ _TO_RGB, _INNER_BITS + _RGB_BITS - GRID_BITS)
        lr[at] = rgb / 2**GRID_BITS + 128
    return lr


def _shifted(x: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """Return whole numbers divided by 2^bits, rounded half up."""
    return np.asarray(np.floor(x * 2.0**-bits + 0.5))
