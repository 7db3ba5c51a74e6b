"""What it costs when the reference is shifted, turned, brighter, darker, smaller, larger, clouded, of another place.

    python benchmarks/robustness.py ../shared/data/manifest.csv --jobs 2

The NAIP dev pairs, every third by default, with the x2 weights that ship. Of each pair the middle 176 x 176 pixels are
coded. The reference is moved before it is cut, so that no made-up pixels enter: a shift shows what lay beside, a turn
is about the middle (bicubic). "Without 40 columns" lies in place and shows nothing there, as a shift by 40 pixels does,
but for the mean of the rest: about the best that an alignment of that could give. Gains clip at 255. Clouds are drawn:
opaque white with soft edges over half or all of the picture. A reference of another place is that of another of these
pairs. BD-rate over 0.1 to 1.0 bits per pixel against the reference as it was and against none, BD-PSNR against the
former, means of the pictures. The encoder is the whole of `codec.encode`.

Writes benchmarks/results/robustness.json after each case of a pair, goes on from there, and at the end writes the table
in docs/TRAINING.md.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import RESULTS, Point, bd_rate, kept, point, replace_table

from refscale_codec import model, weights_files
from refscale_codec.codec import decoder, encoder
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import Pair, read_manifest
from refscale_codec.training.data import Pixels

NONE, FIRST = "none", "as it was"
QUALITIES = (10, 30, 55, 78, 92)
SIDE = 176
CASES: dict[str, Callable[[Pixels, Pixels], Pixels]] = {
    FIRST: lambda reference, other: middle(reference),
    "shifted by 40 pixels": lambda reference, other: middle(reference, shift=40),
    "brighter, gain 1.3": lambda reference, other: brighter(middle(reference), 1.3),
    "turned by 10 degrees": lambda reference, other: middle(turned(reference, 10)),
    "half the size": lambda reference, other: resized(middle(reference), SIDE // 2),
    "without 40 columns": lambda reference, other: without(middle(reference), 40),
    "darker, gain 0.77": lambda reference, other: brighter(middle(reference), 0.77),
    "shifted by 20 pixels": lambda reference, other: middle(reference, shift=20),
    "turned by 5 degrees": lambda reference, other: middle(turned(reference, 5)),
    "twice the size": lambda reference, other: resized(middle(reference), 2 * SIDE),
    "half under clouds": lambda reference, other: clouded(middle(reference), 0.5),
    "all under clouds": lambda reference, other: clouded(middle(reference), 1.0),
    "of another place": lambda reference, other: middle(other),
}


def middle(picture: Pixels, shift: int = 0) -> Pixels:
    """Return the middle of a picture, or what lies to the right of it."""
    top, left = (picture.shape[0] - SIDE) // 2, (picture.shape[1] - SIDE) // 2 + shift
    assert left + SIDE <= picture.shape[1], "there is nothing beside the picture"
    return np.ascontiguousarray(picture[top : top + SIDE, left : left + SIDE])


def turned(picture: Pixels, degrees: float) -> Pixels:
    """Return a picture turned about its middle."""
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(picture, turn, (width, height), flags=cv2.INTER_CUBIC), np.uint8)


def without(picture: Pixels, columns: int) -> Pixels:
    """Return a picture whose first columns are the mean of the others."""
    hidden = picture.copy()
    hidden[:, :columns] = picture[:, columns:].mean(axis=(0, 1)).round()
    return hidden


def resized(picture: Pixels, side: int) -> Pixels:
    """Return a picture with sides of so many pixels."""
    how = cv2.INTER_AREA if side < SIDE else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (side, side), interpolation=how), np.uint8)


def brighter(picture: Pixels, gain: float) -> Pixels:
    """Return a picture times a gain."""
    return np.asarray(np.clip(np.rint(gain * picture), 0, 255), np.uint8)


def clouded(picture: Pixels, share: float) -> Pixels:
    """Return a picture whose share lies under clouds: noise of four octaves, cut at its quantile."""
    rng = np.random.default_rng(5)
    noise = np.zeros((SIDE, SIDE), np.float32)
    for octave in range(4):
        coarse = rng.normal(size=(3 * 2**octave,) * 2).astype(np.float32)
        noise += cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) / 2**octave
    opacity = np.clip(0.5 + 2 * (noise - np.quantile(noise, 1 - share)), 0, 1)[..., None] if share < 1 else 1.0
    white = (225 + 8 * noise)[..., None]
    return np.asarray(np.clip(np.rint(picture * (1 - opacity) + white * opacity), 0, 255), np.uint8)


def curve(name: str, pair: Pair, other: Pair) -> list[Point]:
    """Return bits per pixel and PSNR at each quality, in a case."""
    torch.set_num_threads(1)
    assert pair.reference is not None and other.reference is not None
    net = model.load(weights_files.shipped(2))
    read = [pictures.read(path).pixels for path in (pair.target, pair.reference, other.reference)]
    target = Image(middle(read[0]))
    reference = None if name == NONE else Image(np.ascontiguousarray(CASES[name](read[1], read[2])))
    points = []
    for quality in QUALITIES:
        file = encoder.encode(target, reference, net, encoder.EncodeOptions(quality=quality))
        points.append(point(target, decoder.decode(file, reference, net), len(file)))
    return points


def compared(curves: dict[str, dict[str, list[Point]]], name: str, anchor: str) -> tuple[float, float]:
    """Return the means of BD-rate in % and BD-PSNR in dB of a case against another."""
    rates = [bd_rate(curves[anchor][pair], curves[name][pair]) for pair in curves[name]]
    return float(np.nanmean([rate.percent for rate in rates])), float(np.nanmean([rate.psnr for rate in rates]))


def main() -> None:
    """Measure what is missing, and write results and table."""
    parser = argparse.ArgumentParser(description="Measure what references cost that do not line up.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--every", type=int, default=3)
    args = parser.parse_args()
    pairs = [pair for pair in read_manifest(args.manifest, ("dev",)) if pair.dataset.startswith("naip")]
    pairs = pairs[:: args.every]
    others = pairs[3:] + pairs[:3]
    path = RESULTS / "robustness.json"
    weights = weights_files.fingerprint(weights_files.shipped(2)).hex()
    result: dict[str, Any] = {
        "command": f"python benchmarks/robustness.py manifest.csv --every {args.every}",
        "weights": weights,
        "versions": {"torch": torch.__version__, "opencv": cv2.__version__},
        "machine": platform.machine(),
        "curves": kept(path, weights=weights).get("curves", {}),
    }
    curves = result["curves"]
    missing = [
        (name, pair, other)
        for name in (*CASES, NONE)
        for pair, other in zip(pairs, others, strict=True)
        if pair.name not in curves.get(name, {})
    ]
    missing = list(dict.fromkeys(missing))
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        waiting = [(name, pair, pool.submit(curve, name, pair, other)) for name, pair, other in missing]
        for name, pair, points in waiting:
            curves.setdefault(name, {})[pair.name] = points.result()
            path.write_text(json.dumps(result) + "\n")
    replace_table("docs/TRAINING.md", "benchmarks/robustness.py", table(curves).split("\n"))
    print(table(curves))


def table(curves: dict[str, dict[str, list[Point]]]) -> str:
    """Return the comparison with the reference as it was, and with none, of the cases that were measured."""
    lines = ["| reference | pictures | bits, against as it was | PSNR | bits, against none |", "|---|---|---|---|---|"]
    for name in (*CASES, NONE):
        if name in curves:
            percent, gain = compared(curves, name, FIRST)
            over_none, _ = compared(curves, name, NONE)
            figures = f"{percent:+.1f} % | {gain:+.2f} dB | {over_none:+.1f} %"
            lines.append(f"| {name} | {len(curves[name])} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
