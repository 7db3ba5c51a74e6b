"""Processor seconds of refscale beside those of other coders, on one picture, in one process.

    python benchmarks/peers.py                                      # the weights that ship
    python benchmarks/peers.py --weights FILE ... --size 512 1024

The example pair, repeated and cropped to a square. Each coder works at that of its qualities whose bits are nearest to
0.4 per pixel. A picture has been coded before the clock starts. Seconds are the processor's, of all threads together,
so that other work on the machine counts little; those of a video coder are of both frames, since it cannot begin with
a decoded reference. Of refscale, encoding includes the search for the reference's place and, if the model is exact, the
hash of the decoded picture.

Prints a table with ratios to x265 after the reference, and writes benchmarks/results/peers.json.
"""

import argparse
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from common import RESULTS, ROOT, replace_table, write

from refscale_codec import model, weights_files
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.study.coders import baselines
from refscale_codec.study.coders.names import of_weights
from refscale_codec.study.coders.protocol import Coder
from refscale_codec.study.coders.refscale import Refscale

PEERS = ("x265-reference", "av1-reference", "x265", "avif", "webp", "jpeg")
BPP = 0.4
ANCHOR = "x265-reference"


def square(name: str, side: int) -> Image:
    """Return an example picture, repeated and cropped."""
    pixels = pictures.read(ROOT / "examples" / f"{name}.png").pixels
    return Image(pixels.take(range(side), 0, mode="wrap").take(range(side), 1, mode="wrap"))


def measured(coder: Coder, target: Image, reference: Image, repeat: int) -> dict[str, Any]:
    """Return the least seconds of a coder at the quality nearest to `BPP`."""
    pixels = target.height * target.width
    tried = zip(coder.qualities, coder.code(target, reference, coder.qualities), strict=True)
    bits = {quality: 8 * coded.bytes_total / pixels for quality, coded in tried}
    quality = min(bits, key=lambda q: abs(bits[q] - BPP))
    runs = [next(iter(coder.code(target, reference, [quality]))).seconds for _ in range(repeat)]
    seconds = {way: min(run[way] for run in runs) for way in ("encode", "decode")}
    return {"coder": coder.name, "size": target.height, "quality": quality, "bpp": bits[quality]} | seconds


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each coder and size."""
    lines = ["| coder | side | bpp | encode, s/MP | × | decode, s/MP | × |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        anchor = next(r for r in rows if (r["coder"], r["size"]) == (ANCHOR, row["size"]))
        cells = [
            f"{1e6 * row[way] / row['size'] ** 2:.2f} | {row[way] / anchor[way]:.2f}" for way in ("encode", "decode")
        ]
        lines.append(f"| {row['coder']} | {row['size']} | {row['bpp']:.2f} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure, print the table, write the results."""
    parser = argparse.ArgumentParser(description="Compare refscale's processor seconds with those of other coders.")
    parser.add_argument(
        "--weights", type=Path, nargs="+", default=[weights_files.shipped(2), weights_files.shipped(2, "gmm")]
    )
    parser.add_argument("--size", type=int, nargs="+", default=[512])
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "peers.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = of_weights(args.weights)
    coders: list[Coder] = [coder for coder in baselines.available()[0] if coder.name in PEERS]
    coders += [Refscale(model.load(path), name) for path, name in zip(args.weights, names, strict=True)]
    rows = []
    with patch.object(time, "perf_counter", time.process_time):  # what coders read
        for side in args.size:
            target, reference = square("target", side), square("reference", side)
            rows += [measured(coder, target, reference, args.repeat) for coder in coders]
    print("\n".join(table(rows)))
    result: dict[str, Any] = {
        "command": f"python benchmarks/peers.py --weights {' '.join(path.name for path in args.weights)} "
        f"--size {' '.join(map(str, args.size))} --repeat {args.repeat}",
        "weights": {
            name: weights_files.fingerprint(path).hex() for name, path in zip(names, args.weights, strict=True)
        },
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
        "versions": {name: version(name) for name in ("torch", "numpy", "pillow", "av")},
        "rows": rows,
    }
    write(args.output, result)
    if args.output == RESULTS / "peers.json":
        told = [f"{name} {value}" for part in ("machine", "versions") for name, value in result[part].items()]
        replace_table("docs/SPEED.md", "benchmarks/peers.py", [*table(rows), "", f"{', '.join(told)}."])


if __name__ == "__main__":
    main()
