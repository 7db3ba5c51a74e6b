"""The integers of a group of three bands <-> the sections of a file that hold them.

Weights that were trained with the learned low-res codec (`lrcodec.gmm`) use that; all others code the low-res picture's
quantised DCT coefficients (`lrcodec.dct`).
"""

from refscale_codec import lrcodec
from refscale_codec.errors import ContainerError, ReferenceMismatch
from refscale_codec.fileformat.container import Container, Header
from refscale_codec.lrcodec.dct import coefficients, entropy
from refscale_codec.lrcodec.dct.coefficients import Floats
from refscale_codec.lrcodec.gmm.codec import GmmCodec
from refscale_codec.lrcodec.gmm.net import Gmm
from refscale_codec.picture.image import Image
from refscale_codec.reference import band_prediction, warp
from refscale_codec.rescale import similarity_map, tiled
from refscale_codec.rescale.net import RescaleNet
from refscale_codec.rescale.tiled import LowRes


def pack_low_res(
    low: LowRes,
    size: tuple[int, int],
    fingerprint: bytes | None,
    net: RescaleNet,
    quality: int,
    dead_zone: float = coefficients.ROUNDING,
) -> Container:
    """Return the file of one group of bands.

    Args:
        low: what the net leaves of the group.
        size: height and width of the picture in pixels.
        fingerprint: of the reference; None for none. A reference that `low` was made without gets an empty map.
        net: the weights that made `low`.
        quality: 1..100.
        dead_zone: see `coefficients.quantise`; the learned codec has none.
    """
    header = Header(
        width=size[1],
        height=size[0],
        scale=net.config.scale,
        codec=lrcodec.JPEG if net.low_res is None else lrcodec.GMM,
        quality=quality,
        weights=net.fingerprint,
        reference=fingerprint,
    )
    coded_map = None
    if fingerprint is not None or low.prediction is not None:
        coded_map = b"" if low.levels is None else similarity_map.encode(low.levels, net.config.map_levels)
    if isinstance(net.low_res, Gmm):
        payload = GmmCodec(net.low_res).encode(low.lr, low.guide, quality)
    else:
        payload = entropy.encode(coefficients.quantise(low.lr, quality, dead_zone), quality)
    return Container(
        header,
        payload,
        coded_map,
        alignment=None if low.alignment is None else warp.pack(low.alignment),
        prediction=None if low.prediction is None else band_prediction.pack(low.prediction),
    )


def as_received(low: LowRes, net: RescaleNet, quality: int, dead_zone: float = coefficients.ROUNDING) -> LowRes:
    """Return what `unpack_low_res` gives after `pack_low_res`, without the entropy coding between."""
    height, width = low.lr.shape[:2]
    if isinstance(net.low_res, Gmm):
        return low._replace(lr=GmmCodec(net.low_res).quantised(low.lr, quality))
    levels = coefficients.quantise(low.lr, quality, dead_zone)
    return low._replace(lr=coefficients.restore(levels, height, width, quality))


def unpack_low_res(file: Container, net: RescaleNet, reference: Image | None) -> LowRes:
    """Decode the payloads of a group of bands.

    Args:
        file: see `container.unpack`.
        net: the weights that its header names.
        reference: the warped reference. Codec 1 does without.

    Raises:
        ContainerError: the payloads do not fit the header.
        ReferenceMismatch: the low-res codec needs the reference, and it is not given.
    """
    header = file.header
    height, width = header.low_res_size
    similarity = None
    if header.reference is not None or file.prediction is not None:
        similarity = similarity_map.decode(
            file.similarity_map, *net.config.map_size(height, width), net.config.map_levels
        )
    lr, guide = _low_res_picture(file, net, reference)
    predicted = None if file.prediction is None else band_prediction.unpack(file.prediction)
    return LowRes(lr, similarity, unpack_alignment(file), guide, predicted)


def _low_res_picture(file: Container, net: RescaleNet, reference: Image | None) -> tuple[Floats, tiled.Guide | None]:
    """Return the low-res picture of a file, and the low-res reference that its entropy model saw."""
    header = file.header
    height, width = header.low_res_size
    if header.codec == lrcodec.JPEG and net.low_res is None:
        levels = entropy.decode(file.lr, height, width, header.quality)
        return coefficients.restore(levels, height, width, header.quality), None
    if header.codec == lrcodec.GMM and isinstance(net.low_res, Gmm):
        guide = None
        if uses_reference(file) and file.prediction is None:
            if reference is None:
                raise ReferenceMismatch("the low-res picture does not decode without the reference")
            guide = tiled.low_res_reference(reference, net)
        return GmmCodec(net.low_res).decode(file.lr, height, width, guide, header.quality), guide
    if header.codec in (lrcodec.JPEG, lrcodec.GMM):
        raise ContainerError("the file's low-res codec is not the one that its weights were trained with")
    raise ContainerError(f"the file uses the low-res codec {header.codec}, which this version does not know")


def unpack_alignment(file: Container) -> warp.Alignment | None:
    """Decode where the reference lies; ContainerError when the payload does not fit the header."""
    if file.alignment is None:
        return None
    return warp.unpack(file.alignment, file.header.height, file.header.width)


def uses_reference(file: Container) -> bool:
    """Return whether a reference, or a prediction, was used: an empty map leaves it out everywhere."""
    return (file.header.reference is not None or file.prediction is not None) and file.similarity_map != b""
