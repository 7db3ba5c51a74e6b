"""Codecs of the low-res picture, named in files by their number here.

`jpeg` is JPEG by Pillow; `coefficients` and `packing` are JPEG's coefficients without a JPEG around them, which is what
files hold. `gmm` is the learned codec, with `latents`, `mixture` and `integers` below it.
"""

JPEG = 1
GMM = 2
