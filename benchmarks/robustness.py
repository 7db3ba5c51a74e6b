"""What it costs when the reference does not line up: shifted by 20 and 32 pixels, turned by 5 and 10 degrees.

    python benchmarks/robustness.py ../shared/data/manifest.csv --jobs 2

The NAIP dev pairs, every third, with the x2 weights that ship. Of each pair the middle 192 x 192 pixels are coded. The
reference is moved before it is cut, so that no made-up pixels enter: a shift shows what lay beside, a turn is about the
middle (bicubic). Against the reference as it was, BD-rate and BD-PSNR over 0.1 to 1.0 bits per pixel, mean of the
pictures; likewise with no reference at all. The encoder is the whole of `codec.encode`.

Writes benchmarks/results/robustness.json, and the table in docs/TRAINING.md.
"""

import argparse
import json
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch

from refscale_codec import codec, data, image, metrics
from refscale_codec.image import Image
from refscale_codec.rescale import weights

ROOT = Path(__file__).resolve().parent.parent
MARK = "<!-- by benchmarks/robustness.py -->"
QUALITIES = (10, 30, 55, 78, 92)
SIDE = 192
CASES = {
    "as it was": (0, 0.0),
    "shifted by 20 pixels": (20, 0.0),
    "shifted by 32 pixels": (32, 0.0),
    "turned by 5 degrees": (0, 5.0),
    "turned by 10 degrees": (0, 10.0),
    "none": None,
}


def displaced(reference: Image, shift: int, degrees: float) -> Image:
    """Return the middle of a reference that was shifted to the left and turned."""
    height, width = reference.height, reference.width
    top, left = (height - SIDE) // 2, (width - SIDE) // 2
    pixels = reference.pixels
    if degrees:
        turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
        pixels = np.asarray(cv2.warpAffine(pixels, turn, (width, height), flags=cv2.INTER_CUBIC), np.uint8)
    assert left + shift + SIDE <= width, "there is nothing beside the picture"
    left += shift
    return Image(np.ascontiguousarray(pixels[top : top + SIDE, left : left + SIDE]))


def curves(pair: data.Pair) -> dict[str, list[tuple[float, float]]]:
    """Return bits per pixel and PSNR at each quality, by case."""
    torch.set_num_threads(1)
    assert pair.reference is not None
    net = weights.load(weights.shipped(2))
    target, reference = displaced(image.read(pair.target), 0, 0), image.read(pair.reference)
    found = {}
    for name, case in CASES.items():
        given = None if case is None else displaced(reference, *case)
        files = [codec.encode(target, given, net, codec.EncodeOptions(quality=quality)) for quality in QUALITIES]
        psnrs = [metrics.psnr(target.pixels, codec.decode(file, given, net).pixels) for file in files]
        found[name] = [(8 * len(file) / SIDE**2, psnr) for file, psnr in zip(files, psnrs, strict=True)]
    return found


def main() -> None:
    """Measure, and write results and table."""
    parser = argparse.ArgumentParser(description="Measure what references cost that do not line up.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    pairs = [pair for pair in data.read_manifest(args.manifest, ("dev",)) if pair.dataset.startswith("naip")][::3]
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        by_pair = list(pool.map(curves, pairs))
    rows = []
    for name in CASES:
        rates = []
        for of in by_pair:
            (rates_a, psnrs_a), (rates_b, psnrs_b) = (zip(*of[case], strict=True) for case in ("as it was", name))
            rates.append(metrics.bd_rate(rates_a, psnrs_a, rates_b, psnrs_b, 0.1, 1.0))
        percent, gain = (float(np.nanmean([getattr(rate, of) for rate in rates])) for of in ("percent", "psnr"))
        rows.append({"reference": name, "percent": percent, "bd_psnr": gain})
    result = {
        "command": "python benchmarks/robustness.py manifest.csv",
        "weights": weights.load(weights.shipped(2)).fingerprint.hex(),
        "versions": {"torch": torch.__version__, "opencv": cv2.__version__},
        "machine": platform.machine(),
        "pictures": [f"{pair.dataset} {pair.name}" for pair in pairs],
        "rows": rows,
        "curves": by_pair,
    }
    (ROOT / "benchmarks" / "results" / "robustness.json").write_text(json.dumps(result, indent=1) + "\n")
    lines = ["| reference | bits at equal PSNR | PSNR at equal bits |", "|---|---|---|"]
    lines += [f"| {row['reference']} | {row['percent']:+.1f} % | {row['bd_psnr']:+.2f} dB |" for row in rows[1:]]
    page = ROOT / "docs" / "TRAINING.md"
    parts = page.read_text(encoding="utf-8").split(MARK)
    parts[1] = "\n" + "\n".join(lines) + "\n"
    page.write_text(MARK.join(parts), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
