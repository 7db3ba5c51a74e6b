"""Code the newer picture of the drawn pair against the older one, and set the JPEG nearest in PSNR beside it."""

from pathlib import Path

from refscale_codec import model
from refscale_codec.codec import encoder
from refscale_codec.lrcodec.dct.jfif import Jpeg
from refscale_codec.picture import image as pictures
from refscale_codec.study import metrics

folder = Path(__file__).parent
target, reference = pictures.read(folder / "target.png"), pictures.read(folder / "reference.png")
net = model.load(model.shipped(scale=2))

data = encoder.encode(target, reference, net, encoder.EncodeOptions(quality=75))  # what a .rsc file holds
decoded = encoder.decode(data, reference, net)
psnr = metrics.psnr(target.pixels, decoded.pixels)

jpegs = [Jpeg().encode(target.pixels, quality) for quality in range(1, 101)]
psnrs = [metrics.psnr(target.pixels, Jpeg().decode(jpeg, target.height, target.width)) for jpeg in jpegs]
nearest = min(range(len(jpegs)), key=lambda place: abs(psnrs[place] - psnr))

for coder, size, quality in (("refscale", len(data), psnr), ("JPEG", len(jpegs[nearest]), psnrs[nearest])):
    bpp = metrics.bits_per_pixel(size, target.height, target.width)
    print(f"{coder:<8} {size:>7} bytes  {bpp:.3f} bpp  {quality:.2f} dB PSNR")
