"""What gains and offsets that vary over the picture would bring, on top of what an alignment can hold today.

    python benchmarks/local_gain_offset.py ../shared/data/manifest.csv

Of the dev pairs that are not NAIP, the middle 256 x 256 pixels are coded with the x2 weights that ship. First come the
candidates of the encoder: without the reference, with it as it is or warped, each with the fitted global gain and
offset and without. The best is then compared with the second global fit, by spread, and corrected by fields: for each
block a gain and an offset, or an offset alone, of each band or of the mean of the bands. They are robust fits around
the block's centre, regularised towards no correction, rounded to steps of 1/16 and of 2 levels, interpolated as motion
vectors are, and counted as if coded like them. Bytes at equal quality are ln(bytes) + SLOPE ln(squared error).

Writes benchmarks/results/local-gain-offset.json after each pair and quality, resumes from there, and puts the table
into docs/TRAINING.md.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import alignment
import cv2
import numpy as np
import torch
from common import RESULTS, kept, middle, replace_table
from numpy.typing import NDArray

from refscale_codec import model, weights_files
from refscale_codec.codec.trial import cost
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import Pair, read_manifest
from refscale_codec.reference import registration, warp

SIDE = 256
QUALITIES = (35, 70)
PAIRS = 2  # of a dataset, at most
GAINS, OFFSETS = 16, 2  # steps in a gain of 1; 8-bit levels in a step of an offset
HOLD = 40.0  # squared levels of contrast that speak for a gain of 1
FITS = 8
Plane = NDArray[Any]  # [h, w, bands], floats


class Design(NamedTuple):
    """A field of gains and offsets."""

    block: int  # pixels a side
    gains: bool
    each_band: bool


BEST, SPREAD = "best", "whole picture, each band, by spread"
DESIGNS = {
    "64 pixels, each band, gain and offset": Design(64, True, True),
    "64 pixels, together, gain and offset": Design(64, True, False),
    "64 pixels, together, offset": Design(64, False, False),
    "128 pixels, each band, offset": Design(128, False, True),
    "128 pixels, together, gain and offset": Design(128, True, False),
}


def corrected(target: Image, warped: Image, design: Design) -> tuple[Image, float]:
    """Return the warped reference with a field of gains and offsets applied, and the bytes of the field."""
    wanted, given = (picture.pixels.astype(np.float32) for picture in (target, warped))
    centre = given.mean(axis=(0, 1)) if design.each_band else given.mean(keepdims=True)[0]
    fitted_on = [x if design.each_band else x.mean(axis=2, keepdims=True) for x in (wanted, given)]
    gain, offset = fitted(fitted_on[0] - centre, fitted_on[1] - centre, design)
    steps = [np.rint(plane).astype(np.int16) for plane in (GAINS * (gain - 1), offset / OFFSETS)]
    size = coded_size(np.concatenate(steps if design.gains else steps[1:], axis=2)) / 8
    gains, offsets = (stretched(of, design.block, *given.shape[:2]) for of in steps)
    out = (1 + gains / GAINS) * (given - centre) + centre + OFFSETS * offsets
    return Image(np.clip(np.rint(out), 0, 255).astype(np.uint8)), size


def fitted(y: Plane, x: Plane, design: Design) -> tuple[Plane, Plane]:
    """Return gain and offset at the centres of blocks: lines through the pixels around, robustly weighted."""

    def around(plane: Plane, reach: float) -> Plane:
        return np.asarray(cv2.GaussianBlur(plane, (0, 0), reach, borderType=cv2.BORDER_REFLECT).reshape(x.shape))

    gain, offset = np.ones_like(x), np.zeros_like(x)
    for _ in range(FITS):
        off = y - gain * x - offset
        weight = around(1 / (1 + np.square(off / (1 + 1.5 * np.median(abs(off), axis=(0, 1))))), 1.5)
        total = around(weight, design.block / 2) + 1e-4
        mean_x, mean_y, square, product = (
            around(weight * plane, design.block / 2) / total for plane in (x, y, x * x, x * y)
        )
        if design.gains:
            gain = (product - mean_x * mean_y + HOLD) / (square - mean_x * mean_x + HOLD)
            gain = np.clip(gain, 1 / 4, 4)
        offset = mean_y - gain * mean_x
    centres = [
        np.minimum(np.arange(design.block // 2, side + design.block // 2, design.block), side - 1)
        for side in x.shape[:2]
    ]
    return gain[np.ix_(*centres)], offset[np.ix_(*centres)]


def stretched(field: NDArray[np.int16], block: int, height: int, width: int) -> Plane:
    """Return a field at every pixel, interpolated between the blocks' centres."""
    rows, columns = (np.clip((np.arange(side) + 0.5) / block - 0.5, 0, None) for side in (height, width))
    x, y = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    planes = [
        cv2.remap(plane, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for plane in np.moveaxis(field.astype(np.float32), 2, 0)
    ]
    return np.stack(planes, axis=2)


def coded_size(field: NDArray[np.int16]) -> float:
    """Return the bits of a field [rows, columns, numbers] if it is coded as block motion is."""
    statistics, bits = warp.Statistics(), 0.0
    for row, column, part in np.ndindex(field.shape):
        expected, context = statistics.expected(field, row, column, part)
        symbol = min(max(int(field[row, column, part]) - expected, -2 * warp.LIMIT), 2 * warp.LIMIT) + 2 * warp.LIMIT
        bits -= math.log2(statistics.probabilities(context)[symbol])
        statistics.update(context, symbol)
    return bits


def measured(
    target: Image, reference: Image, net: Model, quality: int, wanted: list[str]
) -> dict[str, tuple[float, ...]]:
    """Return bytes and squared error of what is wanted and of the best without; of designs the field's bytes, too."""
    still = warp.still(target.height, target.width)
    estimated = registration.estimate(target, reference) or still
    ways = [still] if estimated.does_nothing else [still, estimated]
    by_spread = []
    for way in tuple(ways):
        fits = registration.radiometry(target, warp.apply(reference, way))
        with_gain = [way._replace(radiometry=fit) for fit in fits]
        ways += with_gain[:1]
        by_spread += with_gain[1:]

    def coded(way: warp.Alignment) -> tuple[float, float]:
        used = None if way.does_nothing else way
        return alignment.coded(target, warp.apply(reference, way), used, net, quality)

    tried = [coded(way) for way in ways]
    best = ways[min(range(len(ways)), key=lambda at: cost(*tried[at]))]
    without = alignment.coded(target, None, None, net, quality)
    result: dict[str, tuple[float, ...]] = {BEST: min(without, *tried, key=lambda x: cost(*x))}
    warped = warp.apply(reference, best)
    used = best._replace(radiometry=best.radiometry or (warp.GainOffset(),) * 3)  # a field needs the section, too
    for name in wanted:
        if name == SPREAD:
            result[name] = min(map(coded, by_spread), key=lambda x: cost(*x), default=result[BEST])
        else:
            changed, size = corrected(target, warped, DESIGNS[name])
            result[name] = (*alignment.coded(target, changed, used, net, quality), size)
    return result


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description="Measure what gains and offsets that vary over the picture gain.")
    parser.add_argument("manifest", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = model.load(weights_files.shipped(2))
    path, weights = RESULTS / "local-gain-offset.json", net.fingerprint.hex()
    result: dict[str, Any] = {"weights": weights, "pairs": {}} | kept(path, weights=weights)
    result["command"] = "python benchmarks/local_gain_offset.py manifest.csv"
    by_dataset: dict[str, list[Pair]] = {}
    for pair in read_manifest(args.manifest, ("dev",)):
        if not pair.dataset.startswith("naip"):
            by_dataset.setdefault(pair.dataset, []).append(pair)
    for at in range(PAIRS):  # stopped early, it has some of everything
        for dataset, pairs in by_dataset.items():
            for pair in pairs[at : at + 1]:
                of = result["pairs"].setdefault(pair.name, {"dataset": dataset, "qualities": {}})
                for quality in QUALITIES:
                    done = of["qualities"].setdefault(str(quality), {})
                    if missing := [name for name in (SPREAD, *DESIGNS) if name not in done]:
                        assert pair.reference is not None
                        target, reference = (middle(pictures.read(x), SIDE) for x in (pair.target, pair.reference))
                        done |= measured(target, reference, net, quality, missing)
                        path.write_text(json.dumps(result) + "\n")
    replace_table("docs/TRAINING.md", "benchmarks/local_gain_offset.py", table(result["pairs"]).split("\n"))
    print(table(result["pairs"]))


def table(pairs: dict[str, Any]) -> str:
    """Return means over pairs and qualities, by dataset and of all."""
    datasets = sorted({of["dataset"] for of in pairs.values()})
    counts = [sum(of["dataset"] == dataset for of in pairs.values()) for dataset in datasets]
    heads = [f"{dataset} ({count})" for dataset, count in zip(datasets, counts, strict=True)]
    lines = [f"| field | {' | '.join((*heads, f'all ({len(pairs)})'))} |", "|---" * (len(datasets) + 2) + "|"]
    for name in (SPREAD, *DESIGNS):
        cells = []
        for wanted in (*((dataset,) for dataset in datasets), datasets):
            free, paid, chosen = np.mean(
                [
                    differences(of, name)
                    for pair in pairs.values()
                    if pair["dataset"] in wanted
                    for of in pair["qualities"].values()
                ],
                axis=0,
            )
            cells.append(f"{free:+.1f} / {paid:+.1f} / {chosen:+.1f} %")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(of: dict[str, Any], name: str) -> tuple[float, float, float]:
    """Return by how many percent bytes differ: if the field costs nothing, if it is paid for, and if one may choose."""
    size, error, field = (*of[name], 0.0)[:3]
    free, paid = (100 * math.expm1(cost(total, error) - cost(*of[BEST])) for total in (size, size + field))
    return free, paid, min(paid, 0.0)


if __name__ == "__main__":
    main()
