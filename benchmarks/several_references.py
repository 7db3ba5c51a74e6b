"""What a second reference saves: files of pictures of which two older dates are at hand.

    python benchmarks/several_references.py ../shared/data/naip_rgbn.csv    # goes on where it was

The middle of each dev picture whose row has an `older_reference` is encoded as RGB, with the weights that ship, against
each of the two older pictures and against both, each quality on its own. The better single one is that of the lower
BD-rate against JPEG after the fact, which an encoder cannot know. Reported is the BD-rate (PSNR) of the files with both
against that, the worst picture's, how many layers the files have, and processor seconds of decoding on one thread
against those with one.

Writes benchmarks/results/several-references.json and the table in docs/ARCHIVES.md.
"""

import argparse
import csv
import math
import platform
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS as FOLDER
from common import Point, bd_rate, kept, middle, point, replace_table, write

from refscale_codec import model, weights_files
from refscale_codec.codec import decoder, encoder
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures

RESULTS = FOLDER / "several-references.json"
QUALITIES = (10, 25, 45, 65, 80)
SIDE = 256  # of the middle, in pixels
FIELDS = ("dataset", "name", "newer", "older", "both", "layers", "seconds")  # of a row


def rgb(path: Path) -> Image:
    """Return the middle of a picture, its first three bands."""
    return middle(Image(np.ascontiguousarray(pictures.read(path).pixels[..., :3])), SIDE)


def curve(target: Image, references: list[Image], net: Model) -> tuple[list[Point], list[bytes], list[int]]:
    """Return the rate-distortion curve, the files, and how many references each uses; each file is prepared anew."""
    points, files, layers = [], [], []
    for quality in QUALITIES:
        coded = encoder.prepare(target, references, net, encoder.EncodeOptions(quality=quality)).code(quality)
        files.append(coded.file())
        points.append(point(target, coded.picture(), len(files[-1])))
        layers.append(len(coded.groups[0].reference.source.places))
    return points, files, layers


def decode_seconds(data: bytes, references: list[Image], net: Model) -> float:
    """Return the processor seconds of the faster of two decodings."""
    found = []
    for _ in range(2):
        begun = time.process_time()
        decoder.decode(data, references, net)
        found.append(time.process_time() - begun)
    return min(found)


def measured(images: list[Image], net: Model) -> dict[str, Any]:
    """Return the curves with each reference and with both, layers by quality, and seconds with one and with both.

    Args:
        images: the picture, and the newer and the older reference.
        net: the weights.
    """
    target, newer, older = images
    row: dict[str, Any] = {}
    data: dict[str, bytes] = {}
    for name, references in {"newer": [newer], "older": [older], "both": [newer, older]}.items():
        row[name], files, layers = curve(target, references, net)
        data[name] = files[len(QUALITIES) // 2]
    seconds = {name: decode_seconds(data[name], [newer, older], net) for name in ("newer", "both")}
    return row | {"layers": layers, "seconds": seconds}


def saved(row: dict[str, Any]) -> float:
    """Return the BD-rate in percent with both references against the better one; NaN where there is none."""
    return float(np.max([bd_rate(row[name], row["both"]).percent for name in ("newer", "older")]))


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each dataset: means over pictures."""
    lines = [
        "| pictures | both references, bits against the better one | worst picture | files of two layers | decoding |",
        "|---" * 5 + "|",
    ]
    groups = defaultdict(list)
    for row in rows:
        groups[row["dataset"]].append(row)
    for name, group in [*groups.items(), ("all", rows)]:
        rates = [rate for row in group if not math.isnan(rate := saved(row))]
        layers = [layer for row in group for layer in row["layers"]]
        two = [row["seconds"] for row in group if row["layers"][len(QUALITIES) // 2] > 1]
        slower = [seconds["both"] / seconds["newer"] - 1 for seconds in two]
        cells = [f"{name} ({len(rates)})", f"{np.mean(rates):+.1f} %", f"{max(rates):+.1f} %"]
        cells += [f"{np.mean([layer > 1 for layer in layers]):.0%}", f"{np.mean(slower):+.0%}" if slower else "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure what is missing, write the results and the table."""
    parser = argparse.ArgumentParser(description="Measure what a second reference saves.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--every", type=int, default=1, help="only each n-th picture")
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = model.load(weights_files.shipped(2))
    versions = {"python": platform.python_version(), "torch": torch.__version__, "weights": net.fingerprint.hex()}
    command = "python benchmarks/several_references.py naip_rgbn.csv"
    result = {"command": command, "machine": platform.machine(), "versions": versions, "qualities": QUALITIES}
    rows = kept(RESULTS, FIELDS, qualities=QUALITIES, versions=versions).get("rows", [])
    done = {row["name"] for row in rows}
    with args.manifest.open(newline="", encoding="utf-8") as file:
        wanted = [row for row in csv.DictReader(file) if row["split"] == "dev" and row["older_reference"]]
    for row in wanted[:: args.every]:
        if row["name"] in done:
            continue
        columns = ("target", "reference", "older_reference")
        images = [rgb(args.manifest.parent / row[column]) for column in columns]
        rows.append({"dataset": row["dataset"], "name": row["name"]} | measured(images, net))
        print(row["name"], saved(rows[-1]), rows[-1]["layers"], rows[-1]["seconds"], flush=True)
        write(RESULTS, result | {"rows": rows})
    lines = table(rows)
    print(*lines, sep="\n")
    replace_table("docs/ARCHIVES.md", "benchmarks/several_references.py", lines)


if __name__ == "__main__":
    main()
