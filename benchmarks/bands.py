"""What it saves to predict infrared from the decoded red, green and blue: bytes with and without, at equal PSNR.

    python benchmarks/bands.py ../shared/data/naip_rgbn.csv

Dev pairs of four bands and two dates: the further band group is near infrared. It is predicted from the older picture's
infrared or from the first three bands as decoded, whichever the encoder finds better.

Bytes without, at the PSNR that the band has with the prediction, are read off the straight line through what two
qualities give, ln(bytes) over dB. Writes benchmarks/results/bands.json and the table of docs/TRAINING.md.
"""

import argparse
import math
import platform
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, replace_table, write

from refscale_codec import model, weights_files
from refscale_codec.codec import encoder, reference_choice
from refscale_codec.fileformat import container
from refscale_codec.model import Model
from refscale_codec.picture.coded import bands
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import read_manifest
from refscale_codec.reference.source import ReferenceSource
from refscale_codec.reference.warp import Alignment

QUALITIES = (35, 75)


def unpredicted(
    group: Image, older: Sequence[Image], alignments: Sequence[Alignment | None], *_: object
) -> ReferenceSource:
    """Choose as where no group can be predicted."""
    return reference_choice.choose(group, older, alignments)


def measured(picture: Image, older: Image, net: Model) -> list[dict[str, Any]]:
    """Return bytes and PSNR of the second band group at each quality, with and without the prediction."""
    described = bands.describe(picture)
    second = list(bands.split_groups(picture, described))[1]
    rows: list[dict[str, Any]] = []
    for quality in QUALITIES:
        plan = encoder.prepare(picture, older, net, encoder.EncodeOptions(quality=quality))
        groups = {"with": plan.code(quality).groups[1]}
        plain = encoder.prepare(picture, older, net, plan.options, choose=unpredicted)
        groups["without"] = plain.code(quality).groups[1]
        row: dict[str, Any] = {
            "quality": quality,
            "bytes_first": len(container.pack(plan.code(quality).groups[0].file)),
        }
        for way, group in groups.items():
            error = np.square(second.pixels.astype(float) - group.decoded().pixels).mean()
            row |= {f"bytes_{way}": len(container.pack(group.file)), f"psnr_{way}": 10 * math.log10(255**2 / error)}
        row["predicted"] = groups["with"].file.prediction is not None
        rows.append(row)
    low, high = (math.log(row["bytes_without"]) for row in rows)
    slope = (high - low) / (rows[1]["psnr_without"] - rows[0]["psnr_without"])
    for row in rows:
        more = slope * (row["psnr_with"] - row["psnr_without"])
        row["bytes_equal"] = row["bytes_without"] * math.exp(more)  # without, at the PSNR with
    return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each dataset and quality: what is saved, mean of the pictures."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["dataset"], row["quality"]].append(row)
    lines = [
        "| pictures | quality | RGB, bytes | infrared, bytes | predicted | infrared, with | whole, with |",
        "|---" * 7 + "|",
    ]
    for (dataset, quality), of in groups.items():
        further = np.mean([row["bytes_with"] / row["bytes_equal"] - 1 for row in of])
        whole = [(row["bytes_with"] - row["bytes_equal"]) / (row["bytes_first"] + row["bytes_equal"]) for row in of]
        first, without = (np.mean([row[name] for row in of]) for name in ("bytes_first", "bytes_without"))
        cells = [f"{dataset} ({len(of)})", f"{quality}", f"{first:,.0f}", f"{without:,.0f}"]
        cells += [f"{sum(row['predicted'] for row in of)}", f"{100 * further:+.1f} %", f"{100 * np.mean(whole):+.1f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure, write the results and the table."""
    parser = argparse.ArgumentParser(description="Measure what predicting infrared saves.")
    parser.add_argument("manifest", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = model.load(weights_files.shipped(2))
    rows = []
    for pair in read_manifest(args.manifest, ("dev",)):
        assert pair.reference is not None
        found = measured(pictures.read(pair.target), pictures.read(pair.reference), net)
        rows += [{"dataset": pair.dataset, "name": pair.name} | row for row in found]
        print(*rows[-len(QUALITIES) :], sep="\n", flush=True)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "weights": net.fingerprint.hex()}
    command = "python benchmarks/bands.py naip_rgbn.csv"
    result = {"command": command, "machine": platform.machine(), "versions": versions, "rows": rows}
    write(RESULTS / "bands.json", result)
    lines = table(rows)
    print(*lines, sep="\n")
    replace_table("docs/TRAINING.md", "benchmarks/bands.py", lines)


if __name__ == "__main__":
    main()
