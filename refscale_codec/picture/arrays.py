"""Arrays [h, w] or [h, w, bands] <-> `Image`."""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ImageError
from refscale_codec.picture import levels
from refscale_codec.picture.image import MAX_BANDS, MAX_PIXELS, MAX_SAMPLES, MAX_SIDE, Image

_log = logging.getLogger(__name__)
_FEW = 4  # more rows than this, and the first axis is not bands


def to_image(array: NDArray[Any], what: str) -> Image:
    """Return an array [h, w] or [h, w, bands], which need not be contiguous, as `Image`.

    Args:
        array: of a type in `levels.READ`, of any byte order; 64-bit floats become 32-bit, which is told.
        what: name of the array in messages.

    Raises:
        ImageError: another type or rank, empty, masked or too large.
    """
    kind, shape = array.dtype.newbyteorder("="), array.shape
    if isinstance(array, np.ma.MaskedArray):
        raise ImageError(f"{what} is a masked array: give an Image with a nodata value")
    if kind not in levels.READ:
        advice = ": astype(np.int32) keeps whole numbers below 2,147,483,648" if kind.kind in "iu" else ""
        raise ImageError(f"{what} is an array of {kind.name}; {levels.NAMES} are coded{advice}")
    if array.ndim not in (2, 3) or 0 in shape:
        raise ImageError(f"{what} is an array of shape {shape}; expected [h, w] or [h, w, bands], each at least 1")
    height, width, bands = shape if array.ndim == 3 else (*shape, 1)
    if bands > MAX_BANDS:
        order = ": bands are last here, see np.moveaxis(array, 0, -1)" if height <= _FEW else ""
        raise ImageError(f"{what} is an array of shape {shape}, {bands} bands; at most {MAX_BANDS} are coded{order}")
    if height * width > MAX_PIXELS or array.size > MAX_SAMPLES or max(height, width) > MAX_SIDE:
        raise ImageError(
            f"{what} is an array of shape {shape}; at most {MAX_PIXELS:,} pixels, {MAX_SIDE:,} a side, and "
            f"{MAX_SAMPLES:,} samples are coded"
        )
    samples, _, notes = levels.narrowed(np.ascontiguousarray(array, kind), None)
    for note in notes:
        _log.warning("%s: %s", what, note)
    return Image(samples.reshape(height, width, bands))


def of_image(image: Image) -> NDArray[Any]:
    """Return a picture as an array [h, w, bands], alpha as the last band, or [h, w] for a single band."""
    samples = image.pixels if image.alpha is None else np.dstack([image.pixels, image.alpha])
    return samples[..., 0] if samples.shape[2] == 1 else samples
