"""What a use of the reference costs, by a trial: a sample of the picture is coded with it and decoded."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from refscale_codec.codec import reference_choice
from refscale_codec.codec.reconstruction import reconstruct
from refscale_codec.lrcodec.interface import USUAL
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.reference.source import ReferenceSource
from refscale_codec.rescale import tiled

SIDE = 128
"""The sample is 3 x 3 boxes of at most this side, in pixels."""

SLOPE = 1.45
"""How steep curves of refscale are: d ln(bytes) / -d ln(squared error). Training weighs errors by it, too."""

_ROUNDING = 0.25  # squared 8-bit levels that no one sees: lossless is not infinitely good


def cost(size: float, error: float) -> float:
    """Return what the encoder minimises: ln(bytes) + `SLOPE` ln(squared error), equal along a usual curve.

    Args:
        size: in bytes, above 0.
        error: mean squared error in 8-bit levels, 0 or more.
    """
    return math.log(size) + SLOPE * math.log(error + _ROUNDING)


def by_coding(
    group: Image, older: Sequence[Image], first: Image | None, model: Model, quality: int, tile: int
) -> Callable[[ReferenceSource], float]:
    """Return a function of the `cost` of a picture that is coded with a source, by that of the sample.

    Args:
        group: three bands.
        older: the same bands of the references.
        first: the decoded first group, for a source that is predicted from it.
        model: codes them.
        quality: at which; 1..100.
        tile: largest side of a tile in pixels.
    """
    boxes = reference_choice.sample_boxes(group.height, group.width, SIDE)
    sample = reference_choice.gathered(group, boxes)
    share = sample.height * sample.width / (group.height * group.width)

    def cost_with(source: ReferenceSource) -> float:
        made, picture = source.made(group, older, None if first is None else first.pixels)
        reference = None if picture is None else reference_choice.gathered(picture, boxes)
        mapped = tiled.map_reference(sample, reference, model.rescaler, tile)
        low = tiled.downscale(sample, mapped, model.rescaler, quality, tile)
        conditional = made.exact and model.low_res.conditional
        known = tiled.low_res_reference(mapped.picture, model.scale) if mapped is not None and conditional else None
        coded = model.low_res.code(low.lr, known, quality, USUAL)
        decoded = reconstruct(
            low._replace(lr=coded.received),
            None if mapped is None else tiled.reference_in_place(mapped.picture),
            (sample.height, sample.width),
            model,
            quality,
            tile=tile,
            dtype=sample.pixels.dtype,
        )
        levels = 255 / np.iinfo(sample.pixels.dtype).max
        error = np.square(levels * (sample.pixels.astype(np.float32) - decoded)).mean()
        size = len(coded.payload) + share * reference_choice.size_of(made)
        return cost(size, float(error))

    return cost_with
