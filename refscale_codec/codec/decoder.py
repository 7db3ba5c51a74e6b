"""The decoder: a file and its reference -> the picture, or a window of it.

bytes ── container ──> similarity map, lr_hat ──┐
                                                ├─ RescaleNet up ──> hr_hat
                           warped reference ────┘
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from refscale_codec import lrcodec
from refscale_codec.codec import payloads
from refscale_codec.codec.encoder import reference_groups, untimed
from refscale_codec.errors import ContainerError, ReferenceMismatch, UsageError, WeightsError
from refscale_codec.fileformat import container
from refscale_codec.fileformat.container import Container, Header
from refscale_codec.picture import bands, geotiff, metadata, tiles
from refscale_codec.picture.bands import Bands
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import TILE, Box
from refscale_codec.reference import band_prediction, warp
from refscale_codec.rescale import tiled
from refscale_codec.rescale.net import RescaleNet
from refscale_codec.rescale.tiled import LowRes


def decode(
    data: bytes,
    reference: Image | None,
    net: RescaleNet,
    *,
    z_scale: float = 0.0,
    z_seed: int = 0,
    tile: int = TILE,
    window: Box | None = None,
    lap: Callable[[str], None] = untimed,
) -> Image:
    """Return the picture in a `.rsc` file with its metadata, or a window of it.

    A window has the whole's metadata, but for a transform to places, which is moved along.

    Args:
        data: the file's bytes.
        reference: the very picture the file was made with; None if it was made without.
        net: the very weights the file was made with, see `model.load`.
        z_scale: standard deviation of the latent; 0, the default, is best and deterministic (supplement, section 2.1).
        z_seed: seed of the latent, drawn on the CPU.
        tile: largest side of a tile in pixels, a multiple of `tiles.STEP`; it decides on memory and time, and on the
            last bits of floating point.
        window: the part of the picture that is wanted; exactly the same pixels as in the whole in tiles of this size.
        lap: for timing, called when each of the stages "entropy" and "net" is done; "net" moves the reference, too.

    Raises:
        UsageError: such a tile cannot be, or the window reaches beyond the picture.
        ContainerError: not a valid file, or its payloads do not fit its header.
        WeightsError: other weights than the file asks for.
        ReferenceMismatch: no reference, a superfluous one, another one than the file asks for, or one that is moved to
            other pixels than the encoder's. With codec 1, a window is not enough to tell the last.
    """
    file = container.unpack(data)
    require_same(file.header, reference, net)
    tiles.require_side(tile)
    if window is not None:
        _require_inside(window, file.header)
    said = metadata.unpack(file.metadata)
    described, files = disassemble(file)
    shown = window or Box(0, 0, file.header.height, file.header.width)

    predicted = any(inner.prediction is not None for inner in files)
    wide = tiled.padded_window(shown, file.header, tile) if predicted else shown  # of the first band group

    def parts() -> Iterator[NDArray[Any]]:
        first: NDArray[Any] | None = None
        for inner, older in zip(files, reference_groups(reference, described), strict=False):
            low, older, place = _unpacked(inner, older, first, wide, net)
            lap("entropy")
            part = tiled.upscale(
                low,
                older,
                inner.header,
                net,
                alignment=low.alignment,
                z_scale=z_scale,
                z_seed=z_seed,
                tile=tile,
                window=wide if first is None else shown,
                dtype=described.group_dtype,
                place=place,
            ).pixels
            lap("net")
            if first is None:
                first, part = part, part[shown.within(wide).slices]
            yield part

    said = replace(said, geo=geotiff.of_window(said.geo, shown.left, shown.top))
    return replace(bands.join_groups(parts(), described, shown), metadata=said)


def _unpacked(
    file: Container, reference: Image | None, first: NDArray[Any] | None, wide: Box, net: RescaleNet
) -> tuple[LowRes, Image | None, Box | None]:
    """Return the payloads of a band group, the reference that its net needs, and where that lies, as for `upscale`.

    `reference` is the group's. `first` is the part of the first group in the box `wide`, None for that group itself.
    """
    if file.prediction is not None and first is not None:
        low = payloads.unpack_low_res(file, net, None)
        if low.prediction is None or not payloads.uses_reference(file):
            return low, None, None
        return low, Image(band_prediction.predict(first, low.prediction)), wide
    older = reference if payloads.uses_reference(file) else None
    size = file.header.height, file.header.width
    if older is not None and file.alignment is None and size != (older.height, older.width):
        raise ContainerError("the file says that its reference lies in place, but it has another size")
    if older is not None and file.header.codec != lrcodec.JPEG:  # elsewhere it is moved tile by tile
        older, file = _moved(older, payloads.unpack_alignment(file)), replace(file, alignment=None)
    return payloads.unpack_low_res(file, net, older), older, None


def _moved(reference: Image, alignment: warp.Alignment | None) -> Image:
    """Return the reference in place, all of it; ReferenceMismatch if it is not the one that the alignment tells."""
    guide = warp.apply(reference, alignment)
    if alignment is not None:
        tiled.require_check(warp.checksum(guide), alignment)
    return guide


def disassemble(file: Container) -> tuple[Bands, list[Container]]:
    """Return what a file says of the picture's bands, and the files of its band groups.

    Raises:
        ContainerError: they do not fit each other.
    """
    described = bands.unpack(file.bands, file.header.height, file.header.width)
    files, extra_bands = [file], file.extra_bands
    while extra_bands is not None and len(files) < len(described.group_bands()):
        files.append(container.unpack(extra_bands))
        extra_bands = files[-1].extra_bands
    if extra_bands is not None or len(files) < len(described.group_bands()):
        raise ContainerError(f"malformed: EXTRA_BANDS sections for other than {described.depth} bands")
    for inner in files[1:]:
        if inner.header != file.header or (inner.bands, inner.output_hash, inner.metadata) != (None, None, None):
            raise ContainerError("malformed: an EXTRA_BANDS section holds a file that is not of the same picture")
    if file.prediction is not None:
        raise ContainerError("malformed: the first bands are predicted from themselves")
    return described, files


def require_same(header: Header, reference: Image | None, net: RescaleNet) -> None:
    """Check that weights and reference are those that a file names; see `decode` for what is raised."""
    require_same_weights(header, net)
    if header.reference is None and reference is not None:
        raise ReferenceMismatch("the file was made without a reference; decode it without one")
    if header.reference is not None and reference is None:
        raise ReferenceMismatch(f"the file needs its reference {header.reference.hex()}; none was given")
    if reference is not None and header.reference != reference.fingerprint():
        wanted = "" if header.reference is None else header.reference.hex()
        raise ReferenceMismatch(
            f"the file was made with the reference {wanted}, this picture is {reference.fingerprint().hex()}"
        )


def _require_inside(window: Box, header: Header) -> None:
    whole = Box(0, 0, header.height, header.width)
    if window.overlap(whole) != window:
        raise UsageError(
            f"the window of {window.width}x{window.height} pixels at {window.left},{window.top} is not inside the "
            f"picture of {header.width}x{header.height}"
        )


def require_same_weights(header: Header, net: RescaleNet) -> None:
    """Check that the weights are those that a file names: else WeightsError, or ContainerError for another scale."""
    if header.weights != net.fingerprint:
        raise WeightsError(
            f"the file was made with the weights {header.weights.hex()}, these are {net.fingerprint.hex()}"
        )
    if header.scale != net.config.scale:
        raise ContainerError(f"the header says scale {header.scale}, but its weights have scale {net.config.scale}")


def alignments(file: Container) -> list[warp.Alignment | None]:
    """Return where the reference lies for each band group; ContainerError when a payload does not fit."""
    return [payloads.unpack_alignment(inner) for inner in disassemble(file)[1]]
