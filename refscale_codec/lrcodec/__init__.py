"""Codecs of the low-res picture, named in files by their number here.

A codec is whatever has the members of `interface.LowResCodec`. `dct` entropy-codes the coefficients of JPEG's
transform, `gmm` is learned. A new one needs a module here and, if weights are trained with it, a line in
`model.LOW_RES_CODECS`.
"""

JPEG = 1
GMM = 2

NAMES = {JPEG: "jpeg", GMM: "gmm"}
"""What people call them, in the same order."""
