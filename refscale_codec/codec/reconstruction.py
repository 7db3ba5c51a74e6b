"""Received low-res picture -> samples; used by the decoder, and by the encoder, which knows what is received."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale_codec.model import Model
from refscale_codec.picture.tiles import Box
from refscale_codec.rescale import tiled
from refscale_codec.rescale.tiled import LowRes, Reference


def reconstruct(
    low: LowRes,
    reference: Reference | None,
    size: tuple[int, int],
    model: Model,
    quality: int,
    *,
    tile: int,
    window: Box | None = None,
    dtype: np.dtype[Any] | type[Any] = np.uint8,
) -> NDArray[Any]:
    """Return the samples [h, w, 3] of a band group, or of the part in a window, over the full scale of `dtype`.

    Arguments are those of `tiled.upscale`. Layers on top of the upscaled picture belong between its floats and the
    rounding.
    """
    window = window or Box(0, 0, *size)
    pixels, highest = np.empty((window.height, window.width, 3), dtype), np.iinfo(dtype).max
    for box, levels in tiled.upscale(low, reference, size, model.rescaler, quality, tile=tile, window=window):
        samples = np.float32(highest // 255) * levels
        pixels[box.within(window).slices] = np.clip(np.rint(samples), 0, highest).astype(dtype)
    return pixels
