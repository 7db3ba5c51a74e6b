"""Code the newer picture of the drawn pair against the older one, and set the JPEG nearest in PSNR beside it."""

from pathlib import Path

import numpy as np
import PIL.Image

import refscale_codec as refscale
from refscale_codec.study import metrics
from refscale_codec.study.coders import jpeg

folder = Path(__file__).parent
target, reference = (np.asarray(PIL.Image.open(folder / f"{name}.png")) for name in ("target", "reference"))
height, width, _ = target.shape

data = refscale.encode(target, reference=reference, quality=75)  # what a .rsc file holds
psnr = metrics.psnr(target, refscale.decode(data, reference=reference))

jpegs = [jpeg.encode(target, quality) for quality in range(1, 101)]
psnrs = [metrics.psnr(target, jpeg.decode(payload)) for payload in jpegs]
nearest = min(range(len(jpegs)), key=lambda place: abs(psnrs[place] - psnr))

for coder, size, quality in (("refscale", len(data), psnr), ("JPEG", len(jpegs[nearest]), psnrs[nearest])):
    bpp = metrics.bits_per_pixel(size, height, width)
    print(f"{coder:<8} {size:>7} bytes  {bpp:.3f} bpp  {quality:.2f} dB PSNR")
