"""Rows -> one mean rate-distortion curve for each coder, and how pictures spread around it.

Bits per pixel and PSNR at each quality are both averaged over pictures. Curves can only be compared if they are means
of the same pictures, so a picture that some coder was not run on (no reference), or that has no finite PSNR at one of
its settings (lossless there), is left out of all of them. Only where that would leave none, each coder has the mean of
its own pictures.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.study.results import Results

Picture = tuple[str, str]  # dataset and name


class Curve(NamedTuple):
    """One coder over all pictures."""

    rates: NDArray[np.float64]  # mean bits per pixel at each quality, rising
    psnrs: NDArray[np.float64]  # mean PSNR there, dB
    names: tuple[Picture, ...]  # dataset and name of each picture in the mean
    pictures: list[NDArray[np.float64]]  # of each picture in the mean: [qualities, 2], rate and PSNR, by rising rate


def mean_curves(results: Results) -> dict[str, Curve]:
    """Return the mean curve of each coder that has one, in the order of `results.coders`.

    They are over the same pictures where there are such; see the module's docstring.
    """
    points: dict[str, dict[Picture, dict[int, tuple[float, float]]]] = defaultdict(lambda: defaultdict(dict))
    for row in results.rows:
        of_picture = points[row.coder][row.dataset, row.name]
        if math.isfinite(row.bpp) and math.isfinite(row.psnr):
            of_picture[row.quality] = (row.bpp, row.psnr)
    complete: dict[str, dict[Picture, NDArray[np.float64]]] = {}
    for coder in results.coders:
        pictures = points.get(coder.name, {})
        qualities = sorted({quality for of_picture in pictures.values() for quality in of_picture})
        whole = {
            picture: np.array([of_picture[quality] for quality in qualities], np.float64)
            for picture, of_picture in pictures.items()
            if qualities and len(of_picture) == len(qualities)
        }
        if whole:
            complete[coder.name] = whole
    common = set.intersection(*(set(whole) for whole in complete.values())) if complete else set()
    result = {}
    for name, whole in complete.items():
        names = tuple(picture for picture in whole if picture in common or not common)
        mean = _by_rate(np.mean([whole[picture] for picture in names], axis=0))
        result[name] = Curve(mean[:, 0], mean[:, 1], names, [_by_rate(whole[picture]) for picture in names])
    return result


def band(pictures: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return [rates, 3]: a rate and the 10th and 90th percentile of PSNR there, at rates that all pictures reach.

    PSNR is interpolated linearly over log rate and never continued beyond a picture's own points. Empty where no rate
    is common, or with fewer than two pictures.
    """
    low = max(points[0, 0] for points in pictures)
    high = min(points[-1, 0] for points in pictures)
    if len(pictures) < 2 or not low < high:
        return np.empty((0, 3))
    rates = np.geomspace(low, high, 40)
    psnrs = [np.interp(np.log(rates), np.log(points[:, 0]), points[:, 1]) for points in pictures]
    return np.column_stack([rates, *np.percentile(psnrs, (10, 90), axis=0)])


def _by_rate(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points[np.argsort(points[:, 0], kind="stable")]


def differ(drawn: Mapping[str, Curve]) -> bool:
    """Tell whether the curves are means of different pictures."""
    return len({frozenset(curve.names) for curve in drawn.values()}) > 1
