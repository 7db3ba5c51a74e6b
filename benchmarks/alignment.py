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
import torch
from common import RESULTS, bd_rate, kept, replace_table

from refscale_codec import model, weights_files
from refscale_codec.codec import encoder, trial
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import Pair, read_manifest
from refscale_codec.reference import registration, warp
from refscale_codec.reference.source import Unused, Warped
from refscale_codec.reference.warp import Alignment

QUALITIES = (10, 30, 55, 80)
NONE, UNMOVED, GLOBAL, BLOCKS = "none", "as it is", "transform", "transform, vectors"
UNMOVED_GAIN, GLOBAL_GAIN, BLOCKS_GAIN = "gain and offset", f"{GLOBAL}, gain and offset", f"{BLOCKS}, gain and offset"
BEST = {
    "best without alignment": (NONE, UNMOVED),
    "best without vectors, gain and offset": (NONE, UNMOVED, GLOBAL),
    "best without vectors": (NONE, UNMOVED, GLOBAL, UNMOVED_GAIN, GLOBAL_GAIN),
    "best without gain and offset": (NONE, UNMOVED, GLOBAL, BLOCKS),
    "best": (NONE, UNMOVED, GLOBAL, BLOCKS, UNMOVED_GAIN, GLOBAL_GAIN, BLOCKS_GAIN),
}
Tried = tuple[int, float]  # bytes, and mean squared error


def curves(pair: Pair, net: Model) -> dict[str, list[Tried]]:
    """Return what each way gives at each quality."""
    assert pair.reference is not None
    target, reference = pictures.read(pair.target), pictures.read(pair.reference)
    still = warp.still(target.height, target.width)
    estimated = registration.estimate(target, reference) or still
    ways: dict[str, Alignment] = {
        UNMOVED: still,
        GLOBAL: estimated._replace(motion=still.motion),
        BLOCKS: estimated,
    }
    for name, with_gain in ((UNMOVED, UNMOVED_GAIN), (GLOBAL, GLOBAL_GAIN), (BLOCKS, BLOCKS_GAIN)):
        fits = registration.radiometry(target, warp.apply(reference, ways[name]))
        ways[with_gain] = ways[name]._replace(radiometry=fits[0] if fits else None)
    result: dict[str, list[Tried]] = {}
    for quality in QUALITIES:
        done: dict[bytes, Tried] = {}
        for name, alignment in ways.items():
            payload = warp.pack(alignment)
            if payload not in done:
                warped = warp.apply(reference, alignment)
                done[payload] = coded(target, warped, None if alignment.does_nothing else alignment, net, quality)
            result.setdefault(name, []).append(done[payload])
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
    return [min(each, key=lambda x: trial.cost(*x)) for each in choices]


def against(anchor: list[Tried], tried: list[Tried], pixels: int) -> float:
    """Return the BD-rate in percent."""
    a, b = ([(8 * size / pixels, 10 * math.log10(255**2 / error)) for size, error in way] for way in (anchor, tried))
    return bd_rate(a, b).percent


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description="Measure what the parts of an alignment gain.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--datasets", nargs="+", default=["naip_chico", "naip_claremont"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = model.load(weights_files.shipped(2))
    path = RESULTS / f"alignment-{args.split}.json"
    weights = net.fingerprint.hex()
    result: dict[str, Any] = {"command": "", "weights": weights, "qualities": QUALITIES, "pairs": {}}
    result |= kept(path, weights=weights, qualities=QUALITIES)
    result["command"] = f"python benchmarks/alignment.py manifest.csv --split {args.split}"
    pairs = [pair for pair in read_manifest(args.manifest, (args.split,)) if pair.dataset in args.datasets]
    for pair in (*pairs[::3], *pairs[1::3], *pairs[2::3]):  # stopped early, it has some of everything
        if pair.name not in result["pairs"]:
            picture = pictures.read(pair.target)
            of = {"dataset": pair.dataset, "pixels": picture.height * picture.width, "ways": curves(pair, net)}
            result["pairs"][pair.name] = of
            path.write_text(json.dumps(result) + "\n")
    replace_table("docs/TRAINING.md", "benchmarks/alignment.py", table(result["pairs"]).split("\n"))
    print(table(result["pairs"]))


def table(pairs: dict[str, Any]) -> str:
    """Return BD-rates by dataset and over all."""
    datasets = sorted({of["dataset"] for of in pairs.values()})
    lines = [
        "| bits, against the reference as it is | " + " | ".join((*datasets, "all")) + " |",
        "|---" * (len(datasets) + 2) + "|",
    ]
    for name in (NONE, GLOBAL, BLOCKS, UNMOVED_GAIN, GLOBAL_GAIN, BLOCKS_GAIN, *BEST):
        cells = []
        for wanted in (*((dataset,) for dataset in datasets), datasets):
            chosen = [of for of in pairs.values() if of["dataset"] in wanted]
            rates = [
                against(of["ways"][UNMOVED], best(of["ways"], BEST.get(name, (name,))), of["pixels"]) for of in chosen
            ]
            cells.append(f"{np.nanmean(rates):+.1f} % ({len(chosen)})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
