"""Codecs of the low-res picture; files name them by their numbers.

A codec implements `interface.LowResCodec`. `dct` entropy-codes the coefficients of JPEG's
transform, `gmm` is learned. A new one needs a module here and, if weights are trained with it, a line in
`model.LOW_RES_CODECS`.
"""

JPEG = 1
GMM = 2

NAMES = {JPEG: "jpeg", GMM: "gmm"}
"""Their names in options and messages."""
