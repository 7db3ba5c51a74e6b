"""Low-res codecs: an 8-bit RGB picture <-> bytes, one module each, named in files by their number here.

Beside them, JPEG's coefficients without a JPEG around them: `coefficients` and `packing`.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from refscale_codec.lrcodec.jpeg import Jpeg


class LrCodec(Protocol):
    """What every low-res codec can do. Pictures are [h, w, 3] RGB; quality is 1..100, higher is better and bigger."""

    def encode(self, lr: NDArray[np.uint8], quality: int) -> bytes:
        """Return the payload."""

    def decode(self, payload: bytes, height: int, width: int) -> NDArray[np.uint8]:
        """Return the picture; ContainerError when the payload does not hold one of this size."""


JPEG = 1
CODECS: dict[int, LrCodec] = {JPEG: Jpeg()}  # 2 is kept for the Gaussian-mixture codec
