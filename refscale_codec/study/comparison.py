"""BD-rates from rows: one a picture, then the mean over a dataset; and the anchors that coders are compared with."""

import math
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from refscale_codec.study import metrics
from refscale_codec.study.results import ALL, BEST, Comparison, Row

RANGE = 0.1, 1.0
"""Bits per pixel over which BD-rates are taken, unless `RANGES` says otherwise."""

RANGES = {BEST: (0.0, math.inf)}
"""Other ranges, by anchor: the curves of coders that are about as good are compared wherever they overlap."""

_FAIR_OVERLAP = 0.5  # of the PSNR that two whole curves span; below that their BD-rate gets a note


def bd_rates(
    rows: Iterable[Row], coder: str, anchor: str, low: float | None = None, high: float | None = None
) -> dict[tuple[str, str], metrics.BdRate]:
    """Return the BD-rate for each picture, (dataset, name), that two coders were run on.

    Args:
        rows: of any coders.
        coder: name of the one that is judged.
        anchor: name of the other.
        low: in bits per pixel; None for that of the anchor's range, see `RANGES`.
        high: likewise.

    Raises:
        UsageError: the package bjontegaard is missing.
    """
    least, most = RANGES.get(anchor, RANGE)
    low, high = least if low is None else low, most if high is None else high
    curves: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.coder in (coder, anchor):
            curves[row.dataset, row.name][row.coder].append(row)
    return {
        picture: metrics.bd_rate(
            *([row.bpp for row in by_coder[anchor]], [row.psnr for row in by_coder[anchor]]),
            *([row.bpp for row in by_coder[coder]], [row.psnr for row in by_coder[coder]]),
            low=low,
            high=high,
        )
        for picture, by_coder in curves.items()
        if coder in by_coder and anchor in by_coder
    }


def compare(
    rows: Iterable[Row], coder: str, anchor: str, low: float | None = None, high: float | None = None
) -> list[Comparison]:
    """Return the means of `bd_rates`, whose arguments and errors these are, by dataset and for `ALL`.

    There is none for `ALL` where there is one dataset, and none at all where no picture has both coders.
    """
    by_dataset: dict[str, list[metrics.BdRate]] = defaultdict(list)
    for (dataset, _), rate in bd_rates(rows, coder, anchor, low, high).items():
        by_dataset[dataset].append(rate)
    if len(by_dataset) > 1:
        by_dataset[ALL] = [rate for rates in by_dataset.values() for rate in rates]
    return [_mean(dataset, coder, anchor, rates) for dataset, rates in by_dataset.items()]


def _mean(dataset: str, coder: str, anchor: str, rates: list[metrics.BdRate]) -> Comparison:
    percents = [rate.percent for rate in rates if np.isfinite(rate.percent)]
    decibels = [rate.psnr for rate in rates if np.isfinite(rate.psnr)]
    mean, gain = (float(np.mean(values)) if values else math.nan for values in (percents, decibels))
    used = [rate for rate in rates if np.isfinite(rate.percent)]
    notes = sorted({rate.note for rate in rates if not np.isfinite(rate.percent)})
    for count, what in (
        (sum(rate.whole_overlap < _FAIR_OVERLAP for rate in used), "curves with little PSNR in common"),
        (sum(rate.dropped > 0 for rate in used), "curves with points whose PSNR does not rise with the rate, left out"),
    ):
        notes += [f"{count} of {len(rates)} pictures: {what}"] if count else []
    return Comparison(dataset, coder, anchor, mean, gain, len(percents), len(rates) - len(percents), tuple(notes))
