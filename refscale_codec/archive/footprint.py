"""Footprints: where on Earth a picture lies, as longitudes and latitudes (EPSG:4326)."""

import logging
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ImageError
from refscale_codec.picture.image import Image
from refscale_codec.reference import georeference

_CRS = "EPSG:4326"
_DENSE = 9  # points along a side that bounds are taken over
_TURN = 360.0  # degrees
_WIDEST = 1.5 * _TURN  # of a footprint; grids of the whole Earth may show a part of it twice

_ROUNDING = 1e-6  # degrees

LONGITUDES = -180 - _ROUNDING, 180 + _WIDEST + _ROUNDING
LATITUDES = -90 - _ROUNDING, 90 + _ROUNDING
"""The bounds of all that a footprint has."""

_log = logging.getLogger(__name__)


class Footprint(NamedTuple):
    """A quadrilateral and its bounds, in degrees.

    West is in [-180, 180). East and the corners may exceed 180, where a picture crosses the antimeridian.
    """

    corners: tuple[tuple[float, float], ...]
    """Longitude and latitude of the four corners, from the first pixel's along the first row."""
    west: float
    south: float
    east: float
    north: float


def of_picture(image: Image) -> Footprint | None:
    """Return the footprint of a picture; None if it has no georeference, or one that cannot be placed on Earth."""
    try:
        border = georeference.outline(image, _CRS, _DENSE)
    except ImageError as error:
        _log.warning("its georeference is not used: %s", error)
        return None
    return None if border is None else around(border[0], border[1])


def around(longitudes: NDArray[Any], latitudes: NDArray[Any]) -> Footprint | None:
    """Return the footprint that a closed line of points [n], in degrees, encloses; n is a multiple of 4.

    None if it is no line on Earth: beyond a pole, two turns or more from the prime meridian, or wider than `_WIDEST`.
    """
    if not ((abs(latitudes) <= LATITUDES[1]) & (abs(longitudes) < 2 * _TURN)).all():  # nor not a number
        return None
    steps = np.diff(longitudes, append=longitudes[:1])
    steps -= _TURN * np.rint(steps / _TURN)  # the shorter way round
    south, north = float(latitudes.min()), float(latitudes.max())
    if abs(steps.sum()) > _TURN / 2:  # once around a pole
        pole = 90.0 if latitudes.mean() > 0 else -90.0
        corners = tuple((lon, lat) for lon in (-180.0, 180.0) for lat in (south, north))
        return Footprint(corners, -180.0, min(south, pole), 180.0, max(north, pole))
    unwrapped = longitudes[0] + np.concatenate([[0.0], np.cumsum(steps)[:-1]])
    unwrapped -= _TURN * np.floor((unwrapped.min() + 180) / _TURN)
    if np.ptp(unwrapped) > _WIDEST:
        return None
    every = len(unwrapped) // 4
    corners = tuple((float(x), float(y)) for x, y in zip(unwrapped[::every], latitudes[::every], strict=True))
    return Footprint(corners, float(unwrapped.min()), south, float(unwrapped.max()), north)


def overlap(of: Footprint, by: Footprint) -> float:
    """Return the share of a footprint's bounds that another's cover, 0..1; those of no area count as covered if met."""
    shared = 0.0
    for turn in (-_TURN, 0.0, _TURN):
        width = min(of.east, by.east + turn) - max(of.west, by.west + turn)
        height = min(of.north, by.north) - max(of.south, by.south)
        if width >= 0 and height >= 0:
            area = (of.east - of.west) * (of.north - of.south)
            shared = max(shared, width * height / area if area > 0 else 1.0)
    return min(1.0, shared)
