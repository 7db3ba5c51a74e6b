"""The coded parts of a band group <-> its file.

An empty map means that the reference is not used; a file without a reference has no map.
"""

from dataclasses import replace

from refscale_codec.errors import ContainerError
from refscale_codec.fileformat.container import Container, Header
from refscale_codec.lrcodec import NAMES
from refscale_codec.lrcodec.interface import LowResReference
from refscale_codec.model import Model
from refscale_codec.reference import band_prediction, warp
from refscale_codec.reference.source import Predicted, ReferenceSource, Unused, Warped
from refscale_codec.rescale import similarity_map
from refscale_codec.rescale.tiled import LowRes


def pack(
    payload: bytes,
    low: LowRes,
    source: ReferenceSource,
    size: tuple[int, int],
    reference: bytes | None,
    model: Model,
    quality: int,
) -> Container:
    """Return the file of one band group.

    Args:
        payload: of the low-res codec.
        low: only its map is used.
        source: of the reference; ignored if the map is None.
        size: height and width of the picture in pixels.
        reference: fingerprint of the reference; None for none.
        model: with which the group was coded.
        quality: 1..100.
    """
    header = Header(
        width=size[1],
        height=size[0],
        scale=model.scale,
        codec=model.low_res.id,
        quality=quality,
        weights=model.fingerprint,
        reference=reference,
    )
    file = Container(header, payload)
    if low.similarity_map is None or isinstance(source, Unused):
        return file if reference is None else replace(file, similarity_map=b"")
    file = replace(file, similarity_map=similarity_map.encode(low.similarity_map, model.rescaler.map_levels))
    if isinstance(source, Predicted):
        return replace(file, prediction=band_prediction.pack(source.prediction))
    return file if source.alignment is None else replace(file, alignment=warp.pack(source.alignment))


def source_of(file: Container) -> ReferenceSource:
    """Return the reference source of a file's band group.

    Raises:
        ContainerError: a payload does not fit the header.
    """
    if not _uses_reference(file):
        return Unused()
    if file.prediction is not None:
        return Predicted(band_prediction.unpack(file.prediction))
    if file.alignment is None:
        return Warped(None)
    return Warped(warp.unpack(file.alignment, file.header.height, file.header.width))


def low_res_of(file: Container, model: Model, reference: LowResReference | None) -> LowRes:
    """Decode the low-res picture and the map of a file.

    Args:
        file: see `container.unpack`.
        model: the one that its header names.
        reference: for a low-res codec that is conditional.

    Raises:
        ContainerError: the payloads do not fit the header.
    """
    require_codec(file, model)
    header, levels = file.header, None
    size = header.low_res_size
    if _uses_reference(file):
        cell = model.rescaler.cell
        rows, columns = (-(-header.scale * side // cell) for side in size)
        levels = similarity_map.decode(file.similarity_map, rows, columns, model.rescaler.map_levels)
    return LowRes(model.low_res.decode(file.lr, size, reference, header.quality), levels)


def _uses_reference(file: Container) -> bool:
    return (file.header.reference is not None or file.prediction is not None) and file.similarity_map != b""


def require_codec(file: Container, model: Model) -> None:
    """Raise ContainerError for a low-res codec that is not the model's."""
    wanted = file.header.codec
    if wanted == model.low_res.id:
        return
    if wanted in NAMES:
        raise ContainerError("malformed: the low-res codec is not the one of the file's weights")
    raise ContainerError(f"the file uses the low-res codec {wanted}, which this version does not know")
