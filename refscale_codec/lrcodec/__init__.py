"""Codecs of the low-res picture; files name them by their numbers.

A codec implements `interface.LowResCodec`. `dct` entropy-codes the coefficients of JPEG's transform, `gmm` is learned.
A new one needs a module that implements the interface, and a `Model` that holds it. For the command line it also needs
a number and a name here, a line in `model.LOW_RES_CODECS`, and weights that ship under its name.
"""

JPEG = 1
GMM = 2

NAMES = {JPEG: "jpeg", GMM: "gmm"}
"""Their names in options and messages."""
