"""Codecs of the low-res picture, named in files by their number here.

`dct` is JPEG's transform: its coefficients under an entropy coding of our own, which is what files hold, or in a JPEG
by Pillow. `gmm` is the learned codec.
"""

JPEG = 1
GMM = 2

NAMES = {JPEG: "jpeg", GMM: "gmm"}
"""What people call them, in the same order."""
