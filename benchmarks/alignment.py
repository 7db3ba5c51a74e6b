"""What the parts of an alignment gain on real pairs: transform, motion vectors, radiometric gain and offset.

    python benchmarks/alignment.py ../shared/data/manifest.csv --split test --datasets naip_chico naip_claremont

Each pair is coded with the x2 weights that ship: without a reference, against it as it is, warped by the transform
alone, and by transform and motion vectors, and each with the first fit of gain and offset. The bytes of the alignment
are counted. "Best" is the least ln(bytes) + SLOPE ln(squared error), by which the encoder chooses if its sample is the
whole picture. BD-rate over 0.1 to 1.0 bits per pixel against the reference as it is, mean of the pictures.

Writes benchmarks/results/alignment-SPLIT.json after each pair, goes on from there, and puts the table into
docs/TRAINING.md.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import tables
import torch

from refscale_codec import model
from refscale_codec.codec import encoder
from refscale_codec.model import Model
from refscale_codec.picture import image
from refscale_codec.picture.image import Image
from refscale_codec.reference import registration, warp
from refscale_codec.reference.source import Unused, Warped
from refscale_codec.reference.warp import Alignment
from refscale_codec.study import metrics
from refscale_codec.training import data
from refscale_codec.training.losses import SLOPE

ROOT = Path(__file__).resolve().parent.parent
QUALITIES = (10, 30, 55, 80)
NONE, STILL, MOVED, BENT, LIT, MOVED_LIT, BENT_LIT = (
    *("none", "as it is", "transform", "transform, vectors"),
    *("gain and offset", "transform, gain and offset", "transform, vectors, gain and offset"),
)
BEST = {
    "best without alignment": (NONE, STILL),
    "best without vectors, gain and offset": (NONE, STILL, MOVED),
    "best without vectors": (NONE, STILL, MOVED, LIT, MOVED_LIT),
    "best without gain and offset": (NONE, STILL, MOVED, BENT),
    "best": (NONE, STILL, MOVED, BENT, LIT, MOVED_LIT, BENT_LIT),
}
Tried = tuple[int, float]  # bytes, and mean squared error


def curves(pair: data.Pair, net: Model) -> dict[str, list[Tried]]:
    """Return what each way gives at each quality."""
    assert pair.reference is not None
    target, reference = image.read(pair.target), image.read(pair.reference)
    still = warp.still(target.height, target.width)
    found = registration.estimate(target, reference) or still
    ways: dict[str, Alignment] = {STILL: still, MOVED: found._replace(motion=still.motion), BENT: found}
    for name, lit in ((STILL, LIT), (MOVED, MOVED_LIT), (BENT, BENT_LIT)):
        fits = registration.radiometry(target, warp.apply(reference, ways[name]))
        ways[lit] = ways[name]._replace(radiometry=fits[0] if fits else None)
    result: dict[str, list[Tried]] = {}
    for quality in QUALITIES:
        known: dict[bytes, Tried] = {}
        for name, alignment in ways.items():
            told = warp.pack(alignment)
            if told not in known:
                warped = warp.apply(reference, alignment)
                known[told] = coded(target, warped, None if alignment.does_nothing else alignment, net, quality)
            result.setdefault(name, []).append(known[told])
        result.setdefault(NONE, []).append(coded(target, None, None, net, quality))
    return result


def coded(target: Image, warped: Image | None, alignment: Alignment | None, net: Model, quality: int) -> Tried:
    """Return bytes of the file, and the mean squared error of the decoded picture."""
    source = Unused() if warped is None else Warped(None)
    result = encoder.prepare(target, warped, net, choose=lambda *_: source).code(quality)
    size = result.size() + (0 if alignment is None else 6 + len(warp.pack(alignment)))
    return size, float(np.square(target.pixels.astype(float) - result.picture().pixels).mean())


def best(of: dict[str, list[Tried]], names: tuple[str, ...]) -> list[Tried]:
    """Return, at each quality, what codes best."""
    choices = zip(*(of[name] for name in names), strict=True)
    return [min(each, key=lambda x: math.log(x[0]) + SLOPE * math.log(x[1] + 0.25)) for each in choices]


def against(anchor: list[Tried], tried: list[Tried], pixels: int) -> float:
    """Return the BD-rate in percent."""
    (rates_a, psnrs_a), (rates, psnrs) = (
        ([8 * size / pixels for size, _ in way], [10 * math.log10(255**2 / error) for _, error in way])
        for way in (anchor, tried)
    )
    return metrics.bd_rate(rates_a, psnrs_a, rates, psnrs, 0.1, 1.0).percent


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description="Measure what the parts of an alignment gain.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--datasets", nargs="+", default=["naip_chico", "naip_claremont"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = model.load(model.shipped(2))
    path = ROOT / "benchmarks" / "results" / f"alignment-{args.split}.json"
    result: dict[str, Any] = {"command": "", "weights": net.fingerprint.hex(), "qualities": QUALITIES, "pairs": {}}
    if path.exists():
        result = json.loads(path.read_text())
        assert result["weights"] == net.fingerprint.hex(), f"{path} is of other weights"
    result["command"] = f"python benchmarks/alignment.py manifest.csv --split {args.split}"
    pairs = [pair for pair in data.read_manifest(args.manifest, (args.split,)) if pair.dataset in args.datasets]
    for pair in (*pairs[::3], *pairs[1::3], *pairs[2::3]):  # stopped early, it has seen some of everything
        if pair.name not in result["pairs"]:
            picture = image.read(pair.target)
            of = {"dataset": pair.dataset, "pixels": picture.height * picture.width, "ways": curves(pair, net)}
            result["pairs"][pair.name] = of
            path.write_text(json.dumps(result) + "\n")
    tables.replace_table("docs/TRAINING.md", "benchmarks/alignment.py", table(result["pairs"]).split("\n"))
    print(table(result["pairs"]))


def table(pairs: dict[str, Any]) -> str:
    """Return BD-rates by dataset and over all."""
    datasets = sorted({of["dataset"] for of in pairs.values()})
    lines = [
        "| bits, against the reference as it is | " + " | ".join((*datasets, "all")) + " |",
        "|---" * (len(datasets) + 2) + "|",
    ]
    for name in (NONE, MOVED, BENT, LIT, MOVED_LIT, BENT_LIT, *BEST):
        cells = []
        for wanted in (*((dataset,) for dataset in datasets), datasets):
            chosen = [of for of in pairs.values() if of["dataset"] in wanted]
            rates = [
                against(of["ways"][STILL], best(of["ways"], BEST.get(name, (name,))), of["pixels"]) for of in chosen
            ]
            cells.append(f"{np.nanmean(rates):+.1f} % ({len(chosen)})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
