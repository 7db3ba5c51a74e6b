"""How close `encode --target-bpp` comes, in how many tries, and what thrift costs.

    python benchmarks/targets.py ../shared/data/manifest.csv

One dev pair of each dataset, the middle 128 x 128 pixels, with the x2 weights that ship. For each size: the file
against the target in percent, the tries, and the same with integer qualities only (the largest file not above the
target). What thrift costs: PSNR of the file against the line through the two integer qualities around it, over
ln(bytes).

Writes benchmarks/results/targets.json, and the table in docs/TRAINING.md.
"""

import argparse
import math
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, middle, replace_table, write

from refscale_codec import model, weights_files
from refscale_codec.codec import decoder, encoder, rate_control
from refscale_codec.errors import TargetError
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import Pair, read_manifest
from refscale_codec.study import metrics

SIDE = 128
SIZES = (0.25, 0.5, 1.0, 1.5)  # bits per pixel


def measured(target: Image, reference: Image, net: Model, bpp: float) -> dict[str, Any]:
    """Return what one target gives, in percent of its bytes and in dB."""
    size = int(bpp * SIDE**2 / 8)
    reached = rate_control.encode(target, reference, net, rate_control.Target("bytes", size))
    quality = reached.quality
    files = [encoder.encode(target, reference, net, encoder.EncodeOptions(quality=quality))]
    while len(files) < 2 or len(files[0]) > size:
        quality -= 1
        files.insert(0, encoder.encode(target, reference, net, encoder.EncodeOptions(quality=quality)))
    around = [files[0], reached.data, files[1]]  # the last and the first are of integer qualities, one apart
    below, psnr, above = (metrics.psnr(target.pixels, decoder.decode(file, reference, net).pixels) for file in around)
    sizes = [len(file) for file in around]
    part = math.log(sizes[1] / sizes[0]) / math.log(sizes[2] / sizes[0]) if sizes[2] > sizes[0] else 1.0
    return {
        "bpp": bpp,
        "percent": 100 * sizes[1] / size - 100,
        "percent_whole": 100 * max(s for s in (sizes[0], sizes[2]) if s <= size) / size - 100,
        "tries": reached.tries,
        "quality": reached.quality,
        "step_percent": 100 * sizes[2] / sizes[0] - 100,
        "db_beside_the_line": psnr - (below + part * (above - below)),
    }


def main() -> None:
    """Measure, and write results and table."""
    parser = argparse.ArgumentParser(description="Measure how close targets are reached.")
    parser.add_argument("manifest", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = model.load(weights_files.shipped(2))
    firsts: dict[str, Pair] = {}
    for pair in read_manifest(args.manifest, ("dev",)):
        if pair.reference is not None:
            firsts.setdefault(pair.dataset, pair)
    rows: list[dict[str, Any]] = []
    for pair in firsts.values():
        assert pair.reference is not None
        target, reference = (middle(pictures.read(path), SIDE) for path in (pair.target, pair.reference))
        for bpp in SIZES:
            try:
                row = measured(target, reference, net, bpp)
            except TargetError as error:
                row = {"bpp": bpp, "error": str(error)}
            rows.append({"dataset": pair.dataset, "name": pair.name} | row)
            print(rows[-1], flush=True)
    result = {
        "command": "python benchmarks/targets.py manifest.csv",
        "weights": net.fingerprint.hex(),
        "versions": {"torch": torch.__version__},
        "machine": platform.machine(),
        "rows": rows,
    }
    write(RESULTS / "targets.json", result)
    lines = [
        "| bits per pixel | files | off target, mean | worst | worst, integer qualities | tries | beside the line |",
        "|---|---|---|---|---|---|---|",
    ]
    for bpp in SIZES:
        reached = [row for row in rows if row["bpp"] == bpp and "error" not in row]
        off, whole, tries, beside = (
            [row[key] for row in reached] for key in ("percent", "percent_whole", "tries", "db_beside_the_line")
        )
        lines.append(
            f"| {bpp} | {len(reached)} | {np.mean(off):+.1f} % | {min(off):+.1f} % | {min(whole):+.1f} % "
            f"| {np.mean(tries):.1f} | {np.mean(beside):+.2f} dB |"
        )
    replace_table("docs/TRAINING.md", "benchmarks/targets.py", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
