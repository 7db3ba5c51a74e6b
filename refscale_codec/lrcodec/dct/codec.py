"""The low-res codec that needs no training: JPEG's transform and quantiser, entropy-coded by an adaptive model."""

from refscale_codec.lrcodec import JPEG
from refscale_codec.lrcodec.dct import coefficients, entropy
from refscale_codec.lrcodec.interface import ROUNDING, CodedLowRes, Floats, LowResReference


class DctCodec:
    """Codes low-res pictures without a reference; what it receives is the same on every machine."""

    id = JPEG
    exact = True
    conditional = False
    has_dead_zone = True

    def code(
        self, lr: Floats, reference: LowResReference | None, quality: int, dead_zone: float = ROUNDING
    ) -> CodedLowRes:
        """See `LowResCodec.code`."""
        indices = coefficients.quantise(lr, quality, dead_zone)
        received = coefficients.dequantise(indices, lr.shape[0], lr.shape[1], quality)
        return CodedLowRes(entropy.encode(indices, quality), received)

    def decode(self, payload: bytes, size: tuple[int, int], reference: LowResReference | None, quality: int) -> Floats:
        """See `LowResCodec.decode`."""
        return coefficients.dequantise(entropy.decode(payload, *size, quality), *size, quality)
