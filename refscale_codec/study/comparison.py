"""BD-rates from rows: one a picture, then the mean over a dataset."""

import math
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from refscale_codec.study import metrics
from refscale_codec.study.results import ALL, Comparison, Row

RANGE = 0.1, 1.0
"""Bits per pixel over which BD-rates are taken."""


def compare(
    rows: Iterable[Row], coder: str, anchor: str, low: float = RANGE[0], high: float = RANGE[1]
) -> list[Comparison]:
    """Return the BD-rate of `coder` against `anchor` over [low, high] bits per pixel, by dataset and for `ALL`.

    Only pictures count that both were run on; empty where there is none.
    """
    curves: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        curves[row.dataset, row.name][row.coder].append(row)
    by_dataset: dict[str, list[metrics.BdRate]] = defaultdict(list)
    for (dataset, _), by_coder in curves.items():
        if coder in by_coder and anchor in by_coder:
            a, b = by_coder[anchor], by_coder[coder]
            rate = metrics.bd_rate(
                [r.bpp for r in a], [r.psnr for r in a], [r.bpp for r in b], [r.psnr for r in b], low, high
            )
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
        (sum(rate.overlap < metrics.GOOD_OVERLAP for rate in used), "curves with little PSNR in common"),
        (sum(rate.dropped > 0 for rate in used), "curves with points whose PSNR does not rise with the rate, left out"),
    ):
        notes += [f"{count} of {len(rates)} pictures: {what}"] if count else []
    return Comparison(dataset, coder, anchor, mean, gain, len(percents), len(rates) - len(percents), tuple(notes))
