"""The picture at the top of the README: the example pair, JPEG, AVIF and refscale at equal bytes, and what changed.

    python benchmarks/overview.py                 # writes docs/overview.png

Beneath each stand bytes and RGB PSNR as this program has just measured them. JPEG and AVIF (4:4:4) have, of all
their qualities, the one whose file is nearest to refscale's in bytes.
"""

import argparse
from bisect import bisect_right

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from common import ROOT
from numpy.typing import NDArray

import refscale_codec as refscale
from refscale_codec import model, weights_files
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.study import change, metrics
from refscale_codec.study.coders import baselines
from refscale_codec.study.coders.protocol import CodedPicture, Coder

Pixels = NDArray[np.uint8]
CROP = np.s_[128:384, 200:456]  # what is shown: houses, road, field and orchard


def told(size: int, target: Pixels, decoded: Pixels) -> str:
    """Return what stands beneath a decoded picture."""
    return f"{size:,} bytes, {metrics.psnr(target, decoded):.1f} dB"


def nearest(coder: Coder, target: Image, size: int) -> CodedPicture:
    """Return a picture coded by a still-picture coder at that of its qualities, 1..100, that is nearest to a size."""

    def code(quality: int) -> CodedPicture:
        (coded,) = coder.code(target, None, [quality])
        return coded

    above = bisect_right(range(1, 100), size, key=lambda quality: code(quality).bytes_total) + 1
    return min(map(code, (max(1, above - 1), above)), key=lambda coded: abs(coded.bytes_total - size))


def main() -> None:
    """Code the pair, and draw it."""
    parser = argparse.ArgumentParser(description="Draw the README's overview from the example pair.")
    parser.add_argument("--quality", type=int, default=60)
    quality = parser.parse_args().quality
    older, newer = (pictures.read(ROOT / "examples" / f"{name}.png") for name in ("reference", "target"))
    target = newer.pixels
    data = refscale.encode(target, reference=older.pixels, quality=quality)
    ours = refscale.decode(data, reference=older.pixels)
    rivals = []
    for coder in baselines.available()[0]:
        if coder.name in ("jpeg", "avif"):
            coded = nearest(coder, newer, len(data))
            rivals.append((coder.name.upper(), told(coded.bytes_total, target, coded.decoded), coded.decoded))
    heat = change.heat_map(change.change(newer, older, model.load(weights_files.shipped(2))), newer).pixels

    shown = (
        ("reference", "at sender and receiver", older.pixels),
        ("new picture", f"{target.nbytes:,} bytes of samples", target),
        *rivals,
        ("refscale", told(len(data), target, ours), ours),
        ("what changed", "refscale diff", heat),
    )
    figure, axes = plt.subplots(1, len(shown), figsize=(13, 2.75), layout="constrained")
    for axis, (title, line, pixels) in zip(axes, shown, strict=True):
        axis.imshow(pixels[CROP], interpolation="nearest")
        axis.set_title(title, fontsize=13)
        axis.set_xlabel(line, fontsize=10)
        axis.set(xticks=[], yticks=[])
    figure.savefig(ROOT / "docs" / "overview.png", dpi=100)


if __name__ == "__main__":
    main()
