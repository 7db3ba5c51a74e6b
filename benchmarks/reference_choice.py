"""How good and how dear the encoder's choice of the reference's use is, on dev pairs.

    python benchmarks/reference_choice.py ../shared/data/manifest.csv            # goes on where it was
    python benchmarks/reference_choice.py ../shared/data/manifest.csv --every 4

The middle 256 x 256 pixels of every n-th dev pair at two qualities. Each candidate codes the whole picture; its cost is
ln(bytes) + SLOPE ln(squared error), in hundredths about percent of bits at equal quality. Reported is how far what
the encoder takes, and what the measure of unexplained detail alone would take, lie above the best candidate, and how
far no reference does. Writes benchmarks/results/reference-choice.json and the table in docs/TRAINING.md.
"""

import argparse
import json
import math
import platform
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablations import cut
from tables import replace_table

from refscale_codec import model
from refscale_codec.codec import encoder, reference_choice
from refscale_codec.codec.encoder import SLOPE, EncodeOptions
from refscale_codec.codec.reference_choice import Candidate
from refscale_codec.picture import image
from refscale_codec.picture.image import Image
from refscale_codec.reference import registration
from refscale_codec.rescale.net import RescaleNet
from refscale_codec.training import data

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "reference-choice.json"
QUALITIES = (40, 85)


def cost(target: Image, reference: Image, candidates: list[Candidate], net: RescaleNet, quality: int) -> float:
    """Return what the file costs if the encoder may choose among these candidates."""
    options = EncodeOptions(quality=quality)
    coded = encoder.prepare(target, reference, net, options, shortlist=lambda *_: candidates).code(quality)
    error = np.square(target.pixels.astype(float) - coded.picture().pixels).mean()
    return math.log(coded.size()) + SLOPE * math.log(error + 0.25)


def measured(target: Image, reference: Image, net: RescaleNet, quality: int) -> dict[str, Any]:
    """Return how far each way of choosing lies above the best candidate."""
    alignment = registration.estimate(target, reference)
    found = reference_choice.candidates(target, reference, alignment)
    costs = [cost(target, reference, [candidate], net, quality) for candidate in found]
    tried = reference_choice.shortlist(target, reference, alignment)
    first = min(range(len(found)), key=lambda at: found[at].cost)
    return {
        "candidates": len(found),
        "tried": len(tried),
        "encoder": cost(target, reference, tried, net, quality) - min(costs),
        "unexplained": costs[first] - min(costs),
        "none": costs[0] - min(costs),
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each dataset: means over pictures and qualities."""
    lines = [
        "| pairs | candidates | coded to choose | encoder | unexplained detail alone | no reference |",
        "|---|---|---|---|---|---|",
    ]
    groups = defaultdict(list)
    for row in rows:
        groups[row["dataset"]].append(row)
    for name, group in [*groups.items(), ("all", rows)]:
        mean = {
            key: float(np.mean([row[key] for row in group])) for key in ("candidates", "encoder", "unexplained", "none")
        }
        coded = float(np.mean([row["tried"] if row["tried"] > 1 else 0 for row in group]))
        lines.append(
            f"| {name} ({len(group) // len(QUALITIES)}) | {mean['candidates']:.1f} | {coded:.1f} "
            f"| {100 * mean['encoder']:+.2f} | {100 * mean['unexplained']:+.2f} | {100 * mean['none']:+.1f} |"
        )
    return lines


def main() -> None:
    """Measure what is missing; write results and table after each pair."""
    parser = argparse.ArgumentParser(description="Measure the encoder's choice of the reference's use.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every n-th pair")
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = model.load(model.shipped(2))
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    for pair in data.read_manifest(args.manifest, ("dev",))[:: args.every]:
        if pair.reference is None or any((row["dataset"], row["name"]) == (pair.dataset, pair.name) for row in rows):
            continue
        target, reference = (cut(image.read(path)) for path in (pair.target, pair.reference))
        for quality in QUALITIES:
            found = measured(target, reference, net, quality)
            rows.append({"dataset": pair.dataset, "name": pair.name, "quality": quality, **found})
        machine = {"machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
        head = {
            "command": "python benchmarks/reference_choice.py manifest.csv",
            **machine,
            "weights": net.fingerprint.hex(),
        }
        RESULTS.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")
        replace_table("docs/TRAINING.md", "benchmarks/reference_choice.py", table(rows))
        print(pair.dataset, pair.name, [round(100 * row["encoder"], 2) for row in rows[-len(QUALITIES) :]], flush=True)


if __name__ == "__main__":
    main()
