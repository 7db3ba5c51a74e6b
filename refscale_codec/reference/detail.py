"""Residual detail: about what a picture costs beside a reference, without coding anything.

It is the mean over the coefficients of a block transform of ln(residual energy + noise), where each block may scale the
reference by its own factor, as the net does.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Spectrum = NDArray[np.float32]  # [rows, columns, coefficients, 3] of blocks, in 8-bit levels

BLOCK = 8
"""Side of the transform, in pixels."""

WORTH = 0.4
"""Bits per pixel that one in residual detail costs: what the bytes of a reference are weighed against."""

_NOISE = 128.0  # squared 8-bit levels that no reference can predict
_MOST = 1.3  # largest factor by which a block may scale a reference
_PRIOR = 0.2  # regularisation of a block's factor towards 1, in units of the mean energy of blocks

_DCT = np.ascontiguousarray(cv2.dct(np.eye(BLOCK), flags=cv2.DCT_ROWS).T, np.float32)


def spectrum(pixels: NDArray[Any]) -> Spectrum:
    """Return the AC coefficients of an orthonormal DCT of a picture [h, w, 3] of 8 or 16 bits."""
    levels = pixels.astype(np.float32) * np.float32(255 / np.iinfo(pixels.dtype).max)
    height, width = (-(-side // BLOCK) * BLOCK for side in pixels.shape[:2])
    padded = np.pad(levels, ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0)), "edge")
    blocks = padded.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3).transpose(0, 2, 4, 1, 3)
    coefficients = (_DCT @ blocks @ _DCT.T).reshape(*blocks.shape[:3], BLOCK * BLOCK)[..., 1:]
    return np.ascontiguousarray(coefficients.swapaxes(2, 3))


def residual(target: Spectrum, reference: Spectrum | None) -> NDArray[np.float32]:
    """Return the residual detail of each block, [rows, columns]; None is no reference."""
    left: NDArray[Any] = target
    if reference is not None:
        energy = np.square(reference).sum(axis=(2, 3)) + 1e-3
        prior = _PRIOR * energy.mean()
        factor = (((target * reference).sum(axis=(2, 3)) + prior) / (energy + prior)).clip(0, _MOST)
        left = target - factor[..., None, None] * reference
    return np.asarray(np.log(np.square(left) + _NOISE).mean(axis=(2, 3)))


def by_squares(costs: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return the means [..., rows, columns] of blocks' costs in squares of a side in pixels, a multiple of `BLOCK`."""
    step = side // BLOCK
    starts = [np.arange(0, length, step) for length in costs.shape[-2:]]
    sums = np.add.reduceat(np.add.reduceat(costs, starts[0], axis=-2), starts[1], axis=-1)
    counts = [np.diff([*start, length]) for start, length in zip(starts, costs.shape[-2:], strict=True)]
    return np.asarray(sums / np.outer(*counts), np.float32)
