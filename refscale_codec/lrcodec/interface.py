"""The interface of low-res codecs, `LowResCodec`. `model.Model` holds one."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import WeightsError

Floats = NDArray[np.float32]
"""A low-res picture [h, w, 3]: RGB on 0..255, real-valued; samples may lie outside."""
LowResReference = NDArray[Any]
"""The warped reference at the size of the low-res picture, [h, w, 3] RGB: uint8; of 16 bits only at scale 1."""

USUAL = 1.0
"""The thrift of a file of a quality."""


def finite(numbers: Floats) -> Floats:
    """Return what a net made, of any shape; WeightsError for NaN or infinity, which no sound weights give."""
    if not np.isfinite(numbers).all():
        raise WeightsError("the weights are unsound: a net gives numbers that are not finite")
    return numbers


class CodedLowRes(NamedTuple):
    """A coded low-res picture."""

    payload: bytes
    received: Floats
    """[h, w, 3], what `decode` returns for the payload, on this machine."""


class LowResCodec(Protocol):
    """Codes low-res pictures of any size from 1x1 at qualities of 1..100. Several threads may use one object."""

    @property
    def id(self) -> int:
        """The number in the header of a file, 1..255; those in `lrcodec.CODECS` are taken."""

    @property
    def exact(self) -> bool:
        """Whether `decode` gives the same on every machine."""

    @property
    def conditional(self) -> bool:
        """Whether a low-res reference makes payloads smaller; if not, none is given."""

    @property
    def has_thrift(self) -> bool:
        """Whether `thrift` has an effect."""

    def code(self, lr: Floats, reference: LowResReference | None, quality: int, thrift: float = USUAL) -> CodedLowRes:
        """Code a picture.

        Args:
            lr: the picture [h, w, 3] in levels on about 0..255.
            reference: of the same size, in 0..255; None for none, or if it is not used.
            quality: higher is better and larger.
            thrift: how much more than usual a bit is worth when an index is chosen, `USUAL` or more; what is given
                up for it makes the payload smaller at the same quality.
        """

    def decode(self, payload: bytes, size: tuple[int, int], reference: LowResReference | None, quality: int) -> Floats:
        """Return the picture [h, w, 3] in a payload.

        Args:
            payload: of `code`.
            size: h and w.
            reference: the one that `code` was given, or None.
            quality: likewise.

        Raises:
            ContainerError: not the payload of such a picture, or coded with another reference.
        """
