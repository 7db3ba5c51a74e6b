"""The coded parts of a band group <-> its file.

An empty map means that the reference is not used; a file without a reference has no map.
"""

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.fileformat.container import Container, Header
from refscale_codec.lrcodec import CODECS
from refscale_codec.lrcodec.interface import LowResReference
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.reference import source as sources
from refscale_codec.reference.source import ReferenceSource
from refscale_codec.rescale import similarity_map
from refscale_codec.rescale.tiled import LowRes


def header(size: tuple[int, int], reference: bytes | None, model: Model, quality: int) -> Header:
    """Return the header of a file.

    Args:
        size: height and width of the picture in pixels.
        reference: fingerprint of the reference; None for none.
        model: with which the picture is coded.
        quality: 1..100.
    """
    return Header(
        width=size[1],
        height=size[0],
        scale=model.scale,
        codec=model.low_res.id,
        quality=quality,
        weights=model.fingerprint,
        reference=reference,
    )


def reference_sections(
    source: ReferenceSource, levels: NDArray[np.uint8] | None, model: Model, names: Sequence[bytes], base: int = 0
) -> dict[str, bytes]:
    """Return the payloads that say how a band group uses its reference, by the fields of `Container`.

    Args:
        source: of the reference.
        levels: the similarity map; None if and only if the source is not used.
        model: with which the group is coded.
        names: fingerprints of the references by their places; none if the header names no reference.
        base: the place of the one that the header names.
    """
    if levels is None:
        return {"similarity_map": b""} if names else {}
    payload = similarity_map.encode(levels, model.rescaler.map_levels)
    return source.sections(names, base) | ({} if payload is None else {"similarity_map": payload})


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
    size, levels = file.header.low_res_size, None
    if sources.is_used(file):
        rows, columns = (-(-model.scale * side // model.rescaler.cell) for side in size)
        levels = similarity_map.decode(file.similarity_map, rows, columns, model.rescaler.map_levels)
    return LowRes(model.low_res.decode(file.lr, size, reference, file.header.quality), levels)


def reference_name(reference: Image) -> bytes:
    """Return the name of a reference's file, at most 255 bytes; none if it has no name."""
    name = b"" if reference.name is None else os.fsencode(reference.name).decode("utf-8", "replace").encode()
    return name.replace(b"\0", b"")[:255].decode("utf-8", "ignore").encode()


def with_reference(file: Container, reference: bytes | None) -> Container:
    """Return the file of a band group with another reference in the header; None if no group needs one."""
    if reference is None and not sources.is_used(file):
        file = replace(file, similarity_map=None)
    return replace(file, header=replace(file.header, reference=reference))


def require_codec(file: Container, model: Model) -> None:
    """Raise ContainerError for a low-res codec that is not the model's."""
    wanted = file.header.codec
    if wanted == model.low_res.id:
        return
    if wanted in CODECS:
        raise ContainerError("malformed: the low-res codec is not the one of the file's weights")
    raise ContainerError(f"the file uses the low-res codec {wanted}, which this version does not know")
