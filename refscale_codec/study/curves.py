"""Rows -> one mean rate-distortion curve for each coder, and how pictures spread around it.

Bits per pixel and a metric, mostly PSNR, are both averaged over pictures at each quality. Curves can only be compared
if they are means of the same pictures, so a picture that some coder was not run on (no reference), or that has no
finite value at one of its settings (lossless there), is left out of all of them. Only where that would leave none, each
coder has the mean of its own pictures.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.study.results import Results, Row

Picture = tuple[str, str]  # dataset and name


class Metric(NamedTuple):
    """What a curve has over the rate."""

    name: str  # in options, file names and texts
    field: str  # of `Row`
    axis: str  # with its unit
    is_similarity: bool  # up to 1, drawn in decibels: most of a curve is close to 1

    def of(self, row: Row) -> float:
        """Return a row's value; NaN or infinite where there is none."""
        value = float(getattr(row, self.field))
        if not self.is_similarity or math.isnan(value):
            return value
        return -10 * math.log10(1 - value) if value < 1 else math.inf


PSNR = Metric("psnr", "psnr", "PSNR, RGB (dB)", False)
METRICS = {
    metric.name: metric
    for metric in (
        PSNR,
        Metric("ssim", "ssim", "SSIM as −10 log₁₀(1 − SSIM) (dB)", True),
        Metric("ms-ssim", "ms_ssim", "MS-SSIM as −10 log₁₀(1 − MS-SSIM) (dB)", True),
    )
}


class Curve(NamedTuple):
    """One coder over all pictures."""

    rates: NDArray[np.float64]  # mean bits per pixel at each quality, rising
    values: NDArray[np.float64]  # mean of the metric there, dB
    names: tuple[Picture, ...]  # dataset and name of each picture in the mean
    pictures: list[NDArray[np.float64]]  # of each picture in the mean: [qualities, 2], rate and value, by rising rate


def mean_curves(results: Results, metric: Metric = PSNR, only: Collection[str] | None = None) -> dict[str, Curve]:
    """Return the mean curve of each coder that has one, in the order of `results.coders`.

    They are over the same pictures where there are such; see the module's docstring.

    Args:
        results: with rows.
        metric: of the curves.
        only: names of coders; None for all.
    """
    points: dict[str, dict[Picture, dict[int, tuple[float, float]]]] = defaultdict(lambda: defaultdict(dict))
    for row in results.rows:
        of_picture = points[row.coder][row.dataset, row.name]
        value = metric.of(row)
        if math.isfinite(row.bpp) and math.isfinite(value):
            of_picture[row.quality] = (row.bpp, value)
    complete: dict[str, dict[Picture, NDArray[np.float64]]] = {}
    for coder in results.coders:
        pictures = points.get(coder.name, {}) if only is None or coder.name in only else {}
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
    """Return [rates, 3]: a rate and the 10th and 90th percentile of the metric there, at rates that all pictures reach.

    It is interpolated linearly over log rate and never continued beyond a picture's own points. Empty where no rate
    is common, or with fewer than two pictures.
    """
    low = max(points[0, 0] for points in pictures)
    high = min(points[-1, 0] for points in pictures)
    if len(pictures) < 2 or not low < high:
        return np.empty((0, 3))
    rates = np.geomspace(low, high, 24)
    values = [np.interp(np.log(rates), np.log(points[:, 0]), points[:, 1]) for points in pictures]
    return np.column_stack([rates, *np.percentile(values, (10, 90), axis=0)])


def _by_rate(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points[np.argsort(points[:, 0], kind="stable")]


def differ(drawn: Mapping[str, Curve]) -> bool:
    """Tell whether the curves are means of different pictures."""
    return len({frozenset(curve.names) for curve in drawn.values()}) > 1
