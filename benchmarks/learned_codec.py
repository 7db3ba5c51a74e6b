"""What the learned low-res codec costs: bytes with and without the reference, against the ideal, seconds.

    python benchmarks/learned_codec.py ../shared/data/manifest.csv weights/refscale-x2-gmm.safetensors

The low-res pictures are those of the net in the weights, on the dev pairs with their references. Ideal is the
cross-entropy of the entropy model in floating point, before it became integers. JPEG coefficients are those of the same
low-res picture at that quality, entropy-coded: the same latents, as long as the codec's transform is JPEG's. Seconds
are processor time of one thread, for a megapixel of the high-res picture.

Writes benchmarks/results/learned-codec.json and prints the table of docs/TRAINING.md.
"""

import argparse
import platform
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, write

from refscale_codec import model
from refscale_codec.lrcodec.dct import coefficients, entropy
from refscale_codec.lrcodec.gmm import latents
from refscale_codec.lrcodec.gmm.codec import GmmCodec, reference_samples
from refscale_codec.lrcodec.gmm.net import Gmm
from refscale_codec.lrcodec.interface import Floats, LowResReference
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import read_manifest
from refscale_codec.reference import registration, warp
from refscale_codec.rescale import tiled

QUALITIES = (35, 75)


@torch.inference_mode()
def ideal(gmm: Gmm, made: latents.Latents, reference: torch.Tensor, quality: int) -> float:
    """Return the bytes of latents by the entropy model in floating point; the reference is in -128..127."""
    y, z = (torch.from_numpy(x).float()[None] for x in made)
    mixtures = gmm.mixtures(y, z, reference.float()[None] / 128, torch.tensor([quality / 100]))
    bits = -torch.log2(gmm.likelihood(y, *mixtures).clamp(min=1e-9)).sum()  # as training counts
    bits -= torch.log2(gmm.bottleneck.likelihood(z[0].reshape(len(z[0]), 1, -1))).sum()
    return float(bits) / 8


def measured(codec: GmmCodec, lr: Floats, reference: LowResReference, quality: int) -> dict[str, Any]:
    """Return bytes and seconds for one low-res picture."""
    model = codec.entropy_model
    height, width = lr.shape[:2]
    made = codec.analyse(torch.from_numpy(lr.transpose(2, 0, 1) / 255), quality)
    rows, columns = made.y.shape[1:]
    samples, none = (reference_samples(given, rows, columns) for given in (reference, None))
    sizes: dict[str, float] = {"bytes_without": len(latents.encode(made, none, quality, model))}
    started = time.process_time()
    payload = latents.encode(made, samples, quality, model)
    halfway = time.process_time()
    latents.decode(payload, rows, columns, samples, quality, model)
    ended = time.process_time()
    sizes |= {"bytes": len(payload), "bytes_ideal": ideal(codec.net, made, samples, quality)}
    sizes |= {"bytes_dct": len(entropy.encode(coefficients.quantise(lr, quality), quality))}
    seconds = {"seconds_encode": halfway - started, "seconds_decode": ended - halfway}
    return {"height": height, "width": width, "quality": quality} | sizes | seconds


def main() -> None:
    """Measure, write the results, and print a table."""
    parser = argparse.ArgumentParser(description="Measure what the learned low-res codec costs.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("weights", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = model.load(args.weights)
    assert isinstance(net.low_res, GmmCodec)
    rows = []
    for pair in read_manifest(args.manifest, ("dev",)):
        if pair.reference is None:
            continue
        target, reference = pictures.read(pair.target), pictures.read(pair.reference)
        moved = warp.apply(reference, registration.estimate(target, reference))
        mapped = tiled.map_reference(target, moved, net.rescaler)
        for quality in QUALITIES:
            lr = tiled.downscale(target, mapped, net.rescaler, quality).lr
            figures = measured(net.low_res, lr, tiled.low_res_reference(moved, net.scale), quality)
            rows.append({"name": pair.name, "dataset": pair.dataset} | figures)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "weights": net.fingerprint.hex()}
    command = "python benchmarks/learned_codec.py manifest.csv weights.safetensors"
    result = {"command": command, "machine": platform.machine(), "versions": versions, "rows": rows}
    write(RESULTS / "learned-codec.json", result)
    print(table(rows, net.scale))


def table(rows: list[dict[str, Any]], scale: int) -> str:
    """Return a row for each dataset and quality: bytes, and others against them in percent; seconds a megapixel."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["dataset"], row["quality"]].append(row)
    lines = [
        "| pictures | quality | bytes | without reference | ideal | JPEG coefficients | encode, s | decode, s |",
        "|---" * 8 + "|",
    ]
    for (dataset, quality), of in sorted(groups.items()):
        names = "bytes_without", "bytes_ideal", "bytes_dct"
        others = [100 * np.mean([row[name] / row["bytes"] - 1 for row in of]) for name in names]
        megapixels = [scale**2 * row["height"] * row["width"] / 1e6 for row in of]
        seconds = [sum(row[name] for row in of) / sum(megapixels) for name in ("seconds_encode", "seconds_decode")]
        cells = [f"{dataset} ({len(of)})", f"{quality}", f"{np.mean([row['bytes'] for row in of]):,.0f}"]
        cells += [f"{percent:+.1f} %" for percent in others] + [f"{x:.1f}" for x in seconds]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
