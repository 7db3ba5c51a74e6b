"""Where a picture differs from an older one: the similarity behind the net's map, as a heat map.

The similarity map in a file has few levels and is trained to save bits, not to show changes: the nets that ship call
nearly everything similar. The cosine similarity of the features underneath (RefScale, Eq. 3) does separate changes from
illumination and season. Its angle has no unit of its own, so the picture gives one: the angle between the picture and
itself rotated by 180 degrees, where nothing corresponds.

Deliberately absent: a decision what is a change. `CHANGED` only serves to state a share.
"""

from collections.abc import Iterable
from functools import cache, reduce
from itertools import chain, repeat

import cv2
import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ImageError
from refscale_codec.model import Model
from refscale_codec.picture import geo
from refscale_codec.picture.coded import bands
from refscale_codec.picture.image import Image
from refscale_codec.picture.metadata import Metadata
from refscale_codec.reference import georeference, registration, warp
from refscale_codec.rescale import tiled

CHANGED = 0.5
"""A change above this counts where one figure is wanted."""

_QUANTILE = 0.95  # of the angles to the rotated picture: that angle is a change of 1
_SMALLEST = 1e-3  # radians; so that a picture that is the same everywhere does not show rounding


def change(
    image: Image, reference: Image, model: Model, alignments: Iterable[warp.Alignment | None] = ()
) -> NDArray[np.float32]:
    """Return how much each pixel's surroundings changed, [h, w] in [0, 1].

    0 is unchanged; 1 is as dissimilar as different places of the picture, or more. The reference is warped into place
    first. Of more than three bands, those three that changed most count.

    Args:
        image: the newer picture, or what a file decodes to.
        reference: the older picture, of any size and of the same bands.
        model: from `model.load`; the result has the resolution of its similarity map, 4 x 4 pixels by default at x2.
        alignments: where the reference lies for each band group, see `decoder.alignments`; a missing one is estimated.

    Raises:
        ImageError: the reference has other bands, or cannot be brought onto the picture's grid.
    """
    bands.require_related(image, reference)
    described = bands.describe(image, tell=lambda text: None, older=[reference])
    described = bands.with_reference(described, image, reference)
    where = cache(lambda: georeference.prior(image, reference))  # asked for only where something is to be estimated
    older = bands.split_groups(reference, described, reference=True)
    by_group = (
        _change(new, old, model, alignment or registration.estimate(new, old, where()))
        for new, old, alignment in zip(
            bands.split_groups(image, described), older, chain(alignments, repeat(None)), strict=False
        )
    )
    return np.asarray(reduce(np.maximum, by_group))


def _change(image: Image, reference: Image, model: Model, alignment: warp.Alignment | None) -> NDArray[np.float32]:
    """Return how much a band group changed."""
    if alignment is None and (reference.height, reference.width) != (image.height, image.width):
        raise ImageError(
            f"the reference of {reference.width}x{reference.height} pixels cannot be brought onto the grid of the "
            f"picture, {image.width}x{image.height}"
        )
    warped = warp.apply(reference, alignment)
    rotated = Image(np.ascontiguousarray(image.pixels[::-1, ::-1]))
    angle, largest = (
        np.arccos(tiled.similarity(image, other, model.rescaler).clip(-1, 1)) for other in (warped, rotated)
    )
    cells = (angle / max(np.quantile(largest, _QUANTILE), _SMALLEST)).clip(0, 1).astype(np.float32)
    side = model.rescaler.cell
    size = cells.shape[1] * side, cells.shape[0] * side
    return np.asarray(cv2.resize(cells, size, interpolation=cv2.INTER_LINEAR)[: image.height, : image.width])


def heat_map(values: NDArray[np.float32], image: Image) -> Image:
    """Return values in [0, 1], [h, w], as a picture: black is 0, pale yellow 1 (inferno, perceptually uniform).

    It has the georeference of the given picture.
    """
    intensity = np.rint(255 * values).astype(np.uint8)
    colours = np.ascontiguousarray(cv2.applyColorMap(intensity, cv2.COLORMAP_INFERNO)[..., ::-1])
    return Image(colours, Metadata(geo=geo.without_tags(image.metadata.geo)))
