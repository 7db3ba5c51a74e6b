"""The low-res codec that needs no training: JPEG's transform and quantiser, entropy-coded under a fixed model."""

from refscale_codec.lrcodec import JPEG
from refscale_codec.lrcodec.dct import coefficients, entropy
from refscale_codec.lrcodec.interface import USUAL, CodedLowRes, Floats, LowResReference

BIT_WORTH = 0.025
"""Squared error, in quantiser steps, that a bit is worth; `benchmarks/quantisation.py` measured it on `dev` pairs."""


class DctCodec:
    """Codes low-res pictures without a reference; what it receives is the same on every machine."""

    id = JPEG
    exact = True
    conditional = False
    has_thrift = True

    def code(self, lr: Floats, reference: LowResReference | None, quality: int, thrift: float = USUAL) -> CodedLowRes:
        """See `LowResCodec.code`."""
        exact = coefficients.in_steps(lr, quality)
        payload, indices = entropy.quantise_and_encode(exact, quality, BIT_WORTH * thrift)
        return CodedLowRes(payload, coefficients.dequantise(indices, lr.shape[0], lr.shape[1], quality))

    def decode(self, payload: bytes, size: tuple[int, int], reference: LowResReference | None, quality: int) -> Floats:
        """See `LowResCodec.decode`."""
        return coefficients.dequantise(entropy.decode(payload, *size, quality), *size, quality)
