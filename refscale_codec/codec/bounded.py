"""Encode with a bound on the error of every sample: 0 for a lossless file.

Bands are coded in levels that are values of the samples, so that rounding to levels costs nothing, or in 65,536 levels
of their range where they spread wider. The bound is proved before the file is given away: it is decoded, as every
decoder does since the model is exact, and compared.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from refscale_codec.codec import encoder
from refscale_codec.codec.encoder import EncodeOptions, References
from refscale_codec.codec.rate_control import Reached
from refscale_codec.errors import UsageError
from refscale_codec.lrcodec.predictive.codec import quality_of
from refscale_codec.model import Model
from refscale_codec.picture.coded import bands, ranges
from refscale_codec.picture.image import Image
from refscale_codec.picture.levels import FULL, limits_of, step

_COARSE = 4  # levels: such an error disturbs predictions so much that half of it may take fewer bytes


class _Levels(NamedTuple):
    """How a band is told apart."""

    low: float
    high: float
    unit: float
    """Difference between two levels."""
    rounding: float
    """Error of the nearest level at most."""


def encode(
    image: Image,
    reference: References,
    model: Model,
    max_error: float,
    options: EncodeOptions,
    *,
    on_try: Callable[[str], None] = lambda text: None,
) -> Reached:
    """Return a file in which no sample that counts is further off than a bound.

    Args:
        image: the picture.
        reference: as for `encoder.encode`.
        model: of an exact rescaler of scale 1 and the predictive codec.
        max_error: the bound, in the units of the samples; 0 or more.
        options: as for `encoder.encode`; range and quality follow from the bound.
        on_try: called with a line on each try.

    Raises:
        UsageError: the bound is smaller than what 65,536 levels over a band's range tell apart.
        ImageError: as for `encoder.encode`.
    """
    each = _levels(image)
    largest = math.inf
    for number, one in enumerate(each, start=1):
        levels = (max_error - one.rounding) / one.unit
        if levels < 0:
            raise UsageError(
                f"band {number} spreads over {ranges.text(one.low)}..{ranges.text(one.high)}, in which 16 bits tell "
                f"values apart to {one.rounding:.3g}: the bound on the error must be that at least"
            )
        largest = min(largest, math.floor(levels))
    declared = {number: (one.low, one.high) for number, one in enumerate(each, start=1) if one.low < one.high}
    plain = image.pixels.dtype == np.uint8
    options = replace(options, value_range=None if plain else declared, bounded=True)
    wanted = int(min(largest, FULL))
    plan = encoder.prepare(image, reference, model, replace(options, quality=quality_of(wanted)))
    best: Reached | None = None
    for tries in itertools.count(1):
        quality = quality_of(wanted)
        coded = plan.code(quality)
        off = bands.largest_error(image, coded.picture(), plan.described)
        on_try(f"quality {quality}: {coded.size()} bytes, an error of {off:g} at most")
        if off <= max_error:
            if best is None or coded.size() < len(best.data):
                best = Reached(coded.file(), quality, coded.known_psnr(image), tries, off)
            if wanted < _COARSE or coded.size() > len(best.data):
                return best._replace(tries=tries)
        elif wanted == 0:
            break
        wanted //= 2  # also for 16-bit pictures of 8-bit levels, whose steps are of 257
    raise AssertionError(f"an error of {off:g} is left in a file without loss")


def _levels(image: Image) -> list[_Levels]:
    found, dtype = [], image.pixels.dtype
    if dtype == np.uint8:
        return [_Levels(0, 255, 1, 0)] * image.bands
    lowest, highest = limits_of(dtype)
    for low, high in bands.extents(image):
        if dtype.kind != "f" and high - low <= FULL:
            first = max(lowest, min(low, highest - FULL))  # of types of 8 bits there are not so many values
            found.append(_Levels(first, min(first + FULL, highest), 1, 0))
        else:
            unit = step(low, high) or 1
            found.append(_Levels(low, high, unit, unit / 2 if low < high else 0))
    return found
