"""A small descriptor of what a picture shows, by which pictures of one place are found without georeference.

It is made of luma at low resolution: means of locally normalised luma, as in SeqSLAM (Milford and Wyeth, 2012), and
how strong horizontal and vertical edges are in each part, a coarse GIST (Oliva and Torralba, 2001). Light and season
change it little, other places much; pictures must show about the same part of the place.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from refscale_codec.picture.image import Image

Luma = NDArray[np.float32]  # [h, w], about 0..255

SIDE = 256
"""Longest side of a preview, in pixels."""

_SIDE = 64  # of the luma that it is made of
_MEANS, _EDGES, _DIRECTIONS = 6, 4, 2  # squares along a side, and directions of edges modulo 180 degrees
SIZE = _MEANS**2 + _DIRECTIONS * _EDGES**2
"""Bytes of a descriptor."""

_RESIZED = (np.uint8, np.uint16, np.int16)  # types that OpenCV reduces
_UNIT = 40  # of the integers: one standard deviation


def preview(image: Image) -> Luma:
    """Return the luma of a picture at low resolution, its longer side at most `SIDE` pixels.

    Samples other than 8 bits are scaled, so that nearly all are in 0..255. Missing ones are the mean of the others.
    """
    factor = max(1.0, image.longest / SIDE)
    height, width = (max(1, round(side / factor)) for side in (image.height, image.width))
    bands = image.pixels[..., :3]
    missing = missing_of(image)
    if missing is None:
        luma = _reduced(bands, height, width)
    else:
        share = _reduced(~missing[..., None] * 1.0, height, width)
        luma = _reduced(np.where(missing[..., None], 0, bands), height, width) / np.maximum(share, 1e-6)
        known = share >= 0.5
        luma[~known] = luma[known].mean() if known.any() else 0
    if image.pixels.dtype != np.uint8:
        low, high = np.percentile(luma, (2, 98))
        luma = ((luma - low) * (255 / max(high - low, 1e-9))).clip(-64, 319)
    return np.ascontiguousarray(luma, np.float32)


def missing_of(image: Image) -> NDArray[np.bool_] | None:
    """Return which pixels [h, w] are nodata in all bands, not finite or transparent; None if there can be none."""
    pixels = image.pixels
    parts: list[NDArray[Any]] = []
    if pixels.dtype.kind == "f":
        parts.append((~np.isfinite(pixels)).any(axis=2))
    if image.nodata is not None and image.nodata == image.nodata:
        parts.append((pixels == image.nodata).all(axis=2))
    if image.alpha is not None:
        parts.append(image.alpha == 0)
    return np.logical_or.reduce(parts) if parts else None


def _reduced(bands: NDArray[Any], height: int, width: int) -> NDArray[np.float64]:
    """Return the mean of bands [h, w, n], reduced by averaging."""
    plane = bands if bands.dtype in _RESIZED else bands.mean(axis=2, dtype=np.float64)
    small = cv2.resize(np.ascontiguousarray(plane), (width, height), interpolation=cv2.INTER_AREA).astype(np.float64)
    return np.asarray(small if small.ndim == 2 else small.mean(axis=2))


def of_preview(luma: Luma) -> bytes:
    """Return the descriptor of a preview: `SIZE` signed bytes."""
    small: Luma = np.asarray(cv2.resize(luma, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.float32)
    means = cv2.resize(normalised(small, 8), (_MEANS, _MEANS), interpolation=cv2.INTER_AREA)
    across, down = cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1)
    strength = np.hypot(across, down)
    strength /= cv2.GaussianBlur(strength, (0, 0), 8) + 2
    steep = np.mod(np.arctan2(down, across), np.pi) >= np.pi / 2
    square = _SIDE // _EDGES
    edges = [(strength * which).reshape(_EDGES, square, _EDGES, square).mean(axis=(1, 3)) for which in (~steep, steep)]
    return _integers(means) + _integers(np.stack(edges))


def _integers(values: NDArray[Any]) -> bytes:
    values = values.ravel() - values.mean()
    scaled = np.rint(values * (_UNIT / (values.std() + 1e-6)))
    return bytes(scaled.clip(-127, 127).astype(np.int8))


def similarities(descriptor: bytes, others: list[bytes]) -> NDArray[np.float32]:
    """Return how similar n others are, [n] in -1..1: the mean of the correlations of the two parts."""
    rows = np.frombuffer(b"".join((descriptor, *others)), np.int8).reshape(-1, SIZE).astype(np.float32)
    total = np.zeros(len(others), np.float32)
    for part in (rows[:, : _MEANS**2], rows[:, _MEANS**2 :]):
        units = part / (np.linalg.norm(part, axis=1, keepdims=True) + 1e-6)
        total += units[1:] @ units[0] / 2
    return total


def normalised(luma: Luma, sigma: float) -> Luma:
    """Return luma less its local mean, over its local standard deviation."""
    detail = luma - cv2.GaussianBlur(luma, (0, 0), sigma)
    return np.asarray(detail / (np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 2 * sigma)) + 2), np.float32)
