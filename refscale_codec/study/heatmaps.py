"""Heat maps of a coded picture, with fixed scales, so that two of them can be compared.

- Error: mean absolute difference of R, G and B, black at 0, brightest at `ERROR_SCALE` levels of 255 and above.
- Similarity: the levels of the map as the net takes them, dark at 0 (dissimilar), yellow at the highest (similar).
"""

import numpy as np
from numpy.typing import NDArray

from refscale_codec.picture.image import Image
from refscale_codec.study import plot

ERROR_SCALE = 32
"""Mean absolute RGB error, in levels of 255, that is drawn brightest."""

ERROR_COLOURS, SIMILARITY_COLOURS = "inferno", "viridis"
"""Matplotlib's names of the colour maps."""


def error(target: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> Image:
    """Return where two pictures differ: mean absolute RGB error, on a scale of 0 to `ERROR_SCALE`.

    Args:
        target: picture, uint8 [h, w, 3].
        decoded: picture of the same shape.

    Raises:
        ValueError: another shape.
        UsageError: Matplotlib is not installed.
    """
    if target.shape != decoded.shape or target.ndim != 3:
        raise ValueError(f"pictures of different shape: {target.shape = }, {decoded.shape = }")
    difference = np.abs(target.astype(np.int16) - decoded).mean(axis=2)  # [h, w]
    return Image(palette(ERROR_COLOURS)[_to_bytes(difference / ERROR_SCALE)])


def similarity(levels: NDArray[np.uint8], map_levels: int, height: int, width: int) -> Image:
    """Return the similarity map, enlarged to the picture; its cells stay visible.

    Args:
        levels: the map, uint8 [rows, columns], each 0 .. map_levels - 1.
        map_levels: number of levels, at least 2.
        height: rows of the result, in pixels.
        width: columns of the result, in pixels.

    Raises:
        ValueError: a map that is empty or has other levels.
        UsageError: Matplotlib is not installed.
    """
    if levels.ndim != 2 or levels.size == 0 or map_levels < 2 or levels.max() >= map_levels:
        raise ValueError(f"no map of levels 0 .. {map_levels - 1}: {levels.shape = }, {levels.max(initial=0) = }")
    rows = np.arange(height) * levels.shape[0] // height  # stretched over the picture, as the net does
    columns = np.arange(width) * levels.shape[1] // width
    return Image(palette(SIMILARITY_COLOURS)[_to_bytes(levels[rows[:, None], columns] / (map_levels - 1))])


def _to_bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)


def palette(name: str) -> NDArray[np.uint8]:
    """Return one of Matplotlib's colour maps as [256, 3], black or dark first.

    Raises:
        UsageError: Matplotlib is not installed.
    """
    plot.require_matplotlib()
    import matplotlib

    colours: NDArray[np.uint8] = matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3]
    return colours
