"""What rate-distortion optimised quantisation of the low-res picture's DCT coefficients gains, by the worth of a bit.

    python benchmarks/quantisation.py ../shared/data/manifest.csv --every 3

The middle 192 x 192 pixels of dev pairs, with the x2 weights that ship: BD-rate against plain rounding over all
qualities tried, and bytes at equal quality. Writes benchmarks/results/quantisation.json, and the table in
docs/decisions/quantisation.md.
"""

import argparse
import platform
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from common import RESULTS, middle, replace_table, write

from refscale_codec import model, weights_files
from refscale_codec.codec import encoder
from refscale_codec.lrcodec.dct import codec
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import read_manifest
from refscale_codec.study import metrics

SIDE = 192
QUALITIES = (15, 35, 60, 80, 93)
WORTHS = (0.0, 0.015, 0.025, 0.035, 0.05)


def curve(plan: encoder.Plan, target: Image, worth: float) -> list[tuple[float, float]]:
    """Return ln(bytes) and PSNR at each quality."""
    points = []
    with patch.object(codec, "BIT_WORTH", worth):
        for quality in QUALITIES:
            coded = plan.code(quality)
            points.append((float(np.log(coded.size())), metrics.psnr(target.pixels, coded.picture().pixels)))
            plan.forget()
    return points


def percent(plain: list[tuple[float, float]], other: list[tuple[float, float]]) -> float:
    """Return the difference in bytes at equal PSNR, of straight lines between points, over the PSNRs of both."""
    (bytes_plain, psnr_plain), (bytes_other, psnr_other) = np.array(plain).T, np.array(other).T
    at = np.linspace(max(psnr_plain[0], psnr_other[0]), min(psnr_plain[-1], psnr_other[-1]), 100)
    apart = np.interp(at, psnr_other, bytes_other) - np.interp(at, psnr_plain, bytes_plain)
    return float(100 * np.expm1(apart.mean()))


def main() -> None:
    """Measure, and write results and table."""
    parser = argparse.ArgumentParser(description="Measure rate-distortion optimised quantisation.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every so many pairs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = model.load(weights_files.shipped(2))
    pairs = [pair for pair in read_manifest(args.manifest, ("dev",)) if pair.reference is not None][:: args.every]
    rows = []
    for pair in pairs:
        assert pair.reference is not None
        target, reference = (middle(pictures.read(path), SIDE) for path in (pair.target, pair.reference))
        plan = encoder.prepare(target, reference, net)
        plain, *others = [curve(plan, target, worth) for worth in WORTHS]
        row: dict[str, str | float] = {"dataset": pair.dataset, "name": pair.name}
        row |= {f"percent_{worth}": percent(plain, of) for worth, of in zip(WORTHS[1:], others, strict=True)}
        row |= {
            f"bytes_{worth}": float(100 * np.expm1(np.mean(np.array(of)[:, 0] - np.array(plain)[:, 0])))
            for worth, of in zip(WORTHS[1:], others, strict=True)
        }
        rows.append(row)
        print(row, flush=True)
    result = {
        "command": f"python benchmarks/quantisation.py manifest.csv --every {args.every}",
        "weights": net.fingerprint.hex(),
        "versions": {"torch": torch.__version__},
        "machine": platform.machine(),
        "rows": rows,
    }
    write(RESULTS / "quantisation.json", result)
    lines = [
        "| worth of a bit, steps squared | bytes at equal PSNR | worst pair | bytes at equal quality |",
        "|---|---|---|---|",
    ]
    for worth in WORTHS[1:]:
        equal, same = ([float(row[f"{name}_{worth}"]) for row in rows] for name in ("percent", "bytes"))
        lines.append(f"| {worth} | {np.mean(equal):+.2f} % | {max(equal):+.2f} % | {np.mean(same):+.1f} % |")
    replace_table("docs/decisions/quantisation.md", "benchmarks/quantisation.py", lines)


if __name__ == "__main__":
    main()
