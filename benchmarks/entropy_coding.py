"""What entropy coding under the format's model saves of low-res JPEGs, beside JPEG XL's lossless transcoding.

    python benchmarks/entropy_coding.py ../shared/data/manifest.csv        # to benchmarks/results/entropy-coding.json

The low-res pictures are those of the shipped x2 net on the dev pairs with their references. JPEG XL needs
`pip install pillow-jxl-plugin`; it transcodes the 8-bit JPEG. Estimated is what training takes the bytes for.
Seconds are those of coding and decoding the coefficients on one core.
"""

import argparse
import io
import platform
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import PIL
import PIL.Image
import torch
from common import RESULTS, ROOT, write
from numpy.typing import NDArray

from refscale_codec import model, weights_files
from refscale_codec.lrcodec.dct import coefficients, entropy
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import read_manifest
from refscale_codec.rescale import tiled
from refscale_codec.study.coders import jpeg
from refscale_codec.training import losses

QUALITIES = (30, 75, 92)


def transcoded(jpeg: bytes) -> int:
    """Return the bytes of a JPEG as JPEG XL, losslessly, container left out."""
    import pillow_jxl  # noqa: F401  registers the format

    (ROOT / "build").mkdir(exist_ok=True)
    source = ROOT / "build" / "entropy-coding.jpg"
    source.write_bytes(jpeg)
    buffer = io.BytesIO()
    with PIL.Image.open(source) as opened:
        opened.save(buffer, "JXL", lossless_jpeg=True, effort=9)
    return len(buffer.getvalue())


def estimated(lr: NDArray[np.float32], quality: int) -> float:
    """Return the bytes that training takes a picture for."""
    bits = losses.coded_bits(torch.from_numpy(lr / 255).permute(2, 0, 1)[None], torch.tensor([float(quality)]))
    return float(bits) / 8


def main() -> None:
    """Measure, print a table, and write the results."""
    parser = argparse.ArgumentParser(description="Measure what entropy coding saves of low-res JPEGs.")
    parser.add_argument("manifest", type=Path)
    args = parser.parse_args()
    net = model.load(weights_files.shipped(2))
    rows = []
    for pair in read_manifest(args.manifest, ("dev",)):
        target = pictures.read(pair.target)
        reference = None if pair.reference is None else pictures.read(pair.reference)
        mapped = tiled.map_reference(target, reference, net.rescaler)
        for quality in QUALITIES:
            low = tiled.downscale(target, mapped, net.rescaler, quality)
            lr, (height, width) = low.lr, low.lr.shape[:2]
            plain = jpeg.encode(low.picture, quality, tables=coefficients.tables(quality))
            started = time.perf_counter()
            coded = entropy.encode(coefficients.quantise(lr, quality), quality)
            halfway = time.perf_counter()
            entropy.decode(coded, height, width, quality)
            ended = time.perf_counter()
            rows.append(
                {
                    "name": pair.name,
                    "quality": quality,
                    "height": height,
                    "width": width,
                    "bytes_jpeg": len(plain),
                    "bytes_jxl": transcoded(plain),
                    "bytes_coded": len(coded),
                    "bytes_estimated": estimated(lr, quality),
                    "seconds_encode": halfway - started,
                    "seconds_decode": ended - halfway,
                }
            )
    versions = {"python": platform.python_version(), "pillow": PIL.__version__, "weights": net.fingerprint.hex()}
    result = {"command": "python benchmarks/entropy_coding.py manifest.csv", "versions": versions, "rows": rows}
    write(RESULTS / "entropy-coding.json", result)
    print(table(rows))


def table(rows: list[dict[str, float]]) -> str:
    """Return the table of docs/decisions/dct-entropy-coding.md: a row for each quality and class of size."""
    groups = defaultdict(list)
    for row in rows:
        groups["128x128" if row["height"] * row["width"] == 128 * 128 else "larger", row["quality"]].append(row)
    lines = ["| low-res pictures | quality | JPEG, bytes | JPEG XL transcoding | entropy-coded | as estimated |"]
    lines.append("|---" * 6 + "|")
    for (size, quality), of in sorted(groups.items()):
        jpeg = np.mean([row["bytes_jpeg"] for row in of])
        names = "bytes_jxl", "bytes_coded", "bytes_estimated"
        saved = [np.mean([100 * (row[name] / row["bytes_jpeg"] - 1) for row in of]) for name in names]
        cells = " | ".join(f"{percent:+.1f} %" for percent in saved)
        lines.append(f"| {size} ({len(of)}) | {quality} | {jpeg:,.0f} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
