"""How good the encoder's choice of the reference's use is, on dev pairs.

    python benchmarks/reference_choice.py ../shared/data/manifest.csv            # goes on where it was
    python benchmarks/reference_choice.py ../shared/data/manifest.csv --every 4

The middle 256 x 256 pixels of every n-th dev pair at two qualities, with the pair's reference and with that of the pair
after it, of another place. Each candidate codes the whole picture; its cost is ln(bytes) + SLOPE ln(squared error), in
hundredths about percent of bits at equal quality. Reported is how far what the encoder takes lies above the best
candidate, and how far no reference does.

Writes benchmarks/results/reference-choice.json and the table in docs/TRAINING.md.
"""

import argparse
import platform
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS as FOLDER
from common import kept, middle, replace_table, write

from refscale_codec import model, weights_files
from refscale_codec.codec import encoder, reference_choice, trial
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import read_manifest
from refscale_codec.reference import registration
from refscale_codec.reference.source import ReferenceSource
from refscale_codec.study.pairs import cut_to, unrelated

RESULTS = FOLDER / "reference-choice.json"
SIDE = 256
QUALITIES = (40, 85)
FIELDS = ("dataset", "name", "quality", "unrelated", "candidates", "encoder", "none")  # of a row


def cost(target: Image, reference: Image, source: ReferenceSource, net: Model, quality: int) -> float:
    """Return what the whole file costs with a source."""
    coded = encoder.prepare(target, reference, net, choose=lambda *_: source).code(quality)
    error = np.square(target.pixels.astype(float) - coded.picture().pixels).mean()
    return trial.cost(coded.size(), error)


def measured(target: Image, reference: Image, net: Model, quality: int) -> dict[str, Any]:
    """Return how far what the encoder takes lies above the best candidate, and how far no reference does."""
    alignment = registration.estimate(target, reference)
    candidates = reference_choice.candidates(target, [reference], [alignment])
    costs = [cost(target, reference, candidate.source, net, quality) for candidate in candidates]
    chosen = min(range(len(candidates)), key=lambda at: candidates[at].cost)
    return {"candidates": len(candidates), "encoder": costs[chosen] - min(costs), "none": costs[0] - min(costs)}


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each dataset: means over pictures and qualities."""
    lines = ["| pairs | candidates | encoder | no reference | encoder, another place's |", "|---|---|---|---|---|"]
    groups = defaultdict(list)
    for row in rows:
        groups[row["dataset"]].append(row)
    for name, group in [*groups.items(), ("all", rows)]:
        own, other = ([row for row in group if row["unrelated"] is unrelated] for unrelated in (False, True))
        candidates, encoder_, none = (
            float(np.mean([row[key] for row in own])) for key in ("candidates", "encoder", "none")
        )
        elsewhere = float(np.mean([row["encoder"] for row in other]))
        lines.append(
            f"| {name} ({len(own) // len(QUALITIES)}) | {candidates:.1f} | {100 * encoder_:+.2f} | {100 * none:+.1f} "
            f"| {100 * elsewhere:+.2f} |"
        )
    return lines


def main() -> None:
    """Measure what is missing; write results and table after each pair."""
    parser = argparse.ArgumentParser(description="Measure the encoder's choice of the reference's use.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every n-th pair")
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = model.load(weights_files.shipped(2))
    weights = net.fingerprint.hex()
    rows = kept(RESULTS, FIELDS, weights=weights).get("rows", [])
    pairs = [pair for pair in read_manifest(args.manifest, ("dev",)) if pair.reference is not None]
    for place, pair in list(enumerate(pairs))[:: args.every]:
        if any((row["dataset"], row["name"]) == (pair.dataset, pair.name) for row in rows):
            continue
        assert pair.reference is not None
        other = unrelated(pairs, place)
        assert other is not None
        target = middle(pictures.read_rgb(pair.target), SIDE)
        for path in (pair.reference, other):
            reference = middle(pictures.read_rgb(path), SIDE)
            reference = cut_to(reference, target) if path is other else reference
            for quality in QUALITIES:
                row = {"dataset": pair.dataset, "name": pair.name, "quality": quality, "unrelated": path is other}
                rows.append(row | measured(target, reference, net, quality))
        machine = {"machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
        head = {
            "command": "python benchmarks/reference_choice.py manifest.csv",
            **machine,
            "weights": weights,
        }
        write(RESULTS, {**head, "rows": rows})
        replace_table("docs/TRAINING.md", "benchmarks/reference_choice.py", table(rows))
        print(pair.dataset, pair.name, [round(100 * row["encoder"], 2) for row in rows[-4:]], flush=True)


if __name__ == "__main__":
    main()
