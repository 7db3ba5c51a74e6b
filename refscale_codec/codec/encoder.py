"""The sentence: *image -> align -> rescale -> lrcodec -> container*, and back.

    hr ──┐                    ┌─> levels ──smap──────────────┐
         ├─ RescaleNet down ──┤                              ├─ container ──> bytes
    ref ─┘                    └─> lr ──lrcodec───────────────┘
                                                                bytes ──> levels, lr_hat ──┐
                                                                                           ├─ RescaleNet up ──> hr_hat
                                                                                    ref ───┘

After RefScale (paper, Fig. 2). `registration` finds where the reference lies on the picture, `align` moves it there,
and the file holds how. The encoder tries on a sample of the picture whether the reference helps, and whether moving it
does; one that does not help is left unused, by a map of zeros. Weights with a learned low-res codec (`lrcodec.gmm`) use
that in place of JPEG's coefficients; it makes use of the reference, too.

Longer than most modules, because what the encoder writes and what the decoder reads of it should be read side by side.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec import lrcodec
from refscale_codec.errors import ContainerError, ReferenceMismatch, UsageError, WeightsError
from refscale_codec.fileformat import container
from refscale_codec.fileformat.container import Container, Header
from refscale_codec.lrcodec.dct import coefficients, entropy
from refscale_codec.lrcodec.dct.coefficients import Floats
from refscale_codec.lrcodec.dct.jfif import Jpeg, Subsampling
from refscale_codec.lrcodec.gmm.codec import GmmCodec
from refscale_codec.lrcodec.gmm.net import Gmm
from refscale_codec.picture import bands, geotiff, metadata, tiles
from refscale_codec.picture.bands import Bands
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import TILE, Box
from refscale_codec.reference import band_prediction, georeference, registration, warp
from refscale_codec.reference.band_prediction import Prediction
from refscale_codec.rescale import similarity_map, tiled
from refscale_codec.rescale.net import RescaleNet
from refscale_codec.rescale.tiled import LowRes

SLOPE = 1.45  # d ln(bits) / -d ln(squared error) on refscale's own curves; training weighs the two alike
SAMPLE = 3, 96  # the sample is at most 3 x 3 tiles of 96 x 96 pixels
_SECTION = 6  # bytes around a short payload in the file


@dataclass(frozen=True)
class EncodeOptions:
    """Choices of an encoder; none of them is needed to decode."""

    quality: int = 75  # 1..100, higher is better and bigger
    subsampling: Subsampling = "4:4:4"  # of the low-res JPEG's chroma
    output_hash: bool = False  # also decode, in tiles of `TILE`, and store the hash of what comes out
    tile: int = TILE  # largest side of a tile in pixels, a multiple of `tiles.STEP`: takes memory, saves time
    value_range: tuple[int, int] | None = None  # of all bands, for 16 bits; None takes each band's own, see `bands`
    dead_zone: float = 0.5  # AC coefficients closer to zero, in quantiser steps, become zero; 0.5 is plain rounding

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        tiles.require_side(self.tile)
        if not 1 <= self.quality <= 100:
            raise UsageError(f"quality must be 1..100, not {self.quality}")
        if self.subsampling not in ("4:4:4", "4:2:2", "4:2:0"):
            raise UsageError(f"subsampling must be 4:4:4, 4:2:2 or 4:2:0, not {self.subsampling}")
        if not self.dead_zone >= 0.5:
            raise UsageError(f"dead_zone must be at least 0.5, not {self.dead_zone}")


def no_lap(stage: str) -> None:
    """Take no times."""


def encode(
    image: Image,
    reference: Image | None,
    net: RescaleNet,
    options: EncodeOptions | None = None,
    *,
    lap: Callable[[str], None] = no_lap,
) -> bytes:
    """Return a complete `.rsc` file.

    Args:
        image: the picture, any size from 1x1 and of any bands. Alpha, nodata and metadata go into the file as they are.
        reference: an older picture of the same place and the same bands, of any size; None codes without one.
        net: from `weights.load`; the computation runs on its device.
        options: see `EncodeOptions`.
        lap: for timing, called when each of the stages "align", "choose", "net" and "entropy" is done.

    Raises:
        ImageError: the reference has other bands, both are georeferenced but not with places in common, or there is
            more metadata than `metadata.MAX_BYTES`.
        UsageError: a range of values that the picture's type does not hold.
    """
    options = options or EncodeOptions()
    described = bands.describe(image, options.value_range)
    known = georeference.known(image, reference)
    files: list[Container] = []
    first = None
    for triple, older in triples(image, reference, described):
        low = prepare(triple, older, net, options, known, lap, first)
        lap("net")
        files.append(pack_low_res(low, triple, older, net, options))
        lap("entropy")
        if described.depth > 3 and first is None:
            first = rebuilt(files[0], older, None, net, options.tile, described.triple_type)
    file = assemble(files, image, reference, described)
    if options.output_hash:
        file = with_output_hash(file, reference, net)
    return container.pack(file)


def triples(image: Image, reference: Image | None, described: Bands) -> Iterator[tuple[Image, Image | None]]:
    """Yield what the net codes of a picture, each with that of the reference; ImageError for other bands in it."""
    return zip(bands.split(image, described), _older_triples(reference, described), strict=False)


def _older_triples(reference: Image | None, described: Bands) -> Iterator[Image | None]:
    return repeat(None) if reference is None else bands.split(reference, described, reference=True)


def assemble(files: list[Container], image: Image, reference: Image | None, described: Bands) -> Container:
    """Return the file of a picture from those of its triples, of which each holds the next one."""
    if described.plain:
        return files[0]
    fingerprint = None if reference is None else reference.fingerprint()
    extra_bands = None
    for file in reversed(files):
        whole = replace(file, header=replace(file.header, reference=fingerprint), extra_bands=extra_bands)
        extra_bands = container.pack(whole)
    return replace(whole, bands=bands.pack(described), metadata=metadata.pack(image.metadata))


def disassemble(file: Container) -> tuple[Bands, list[Container]]:
    """Return what a file says of the picture's bands, and the files of its triples.

    Raises:
        ContainerError: they do not fit each other.
    """
    described = bands.unpack(file.bands, file.header.height, file.header.width)
    files, extra_bands = [file], file.extra_bands
    while extra_bands is not None and len(files) < len(described.triples()):
        files.append(container.unpack(extra_bands))
        extra_bands = files[-1].extra_bands
    if extra_bands is not None or len(files) < len(described.triples()):
        raise ContainerError(f"malformed: EXTRA_BANDS sections for other than {described.depth} bands")
    for inner in files[1:]:
        if inner.header != file.header or (inner.bands, inner.output_hash, inner.metadata) != (None, None, None):
            raise ContainerError("malformed: an EXTRA_BANDS section holds a file that is not of the same picture")
    if file.prediction is not None:
        raise ContainerError("malformed: the first bands are predicted from themselves")
    return described, files


def prepare(
    image: Image,
    reference: Image | None,
    net: RescaleNet,
    options: EncodeOptions,
    known: NDArray[np.float64] | None = None,
    lap: Callable[[str], None] = no_lap,
    first: Image | None = None,
) -> LowRes:
    """Align the reference, choose how to use it, and run the net down; arguments and errors are those of `encode`.

    With the first triple of the picture, as it decodes, a prediction from that is tried in the reference's place.
    """
    if reference is None and first is None:
        return tiled.downscale(image, None, net, options.quality, options.tile)
    alignment = None if reference is None else registration.estimate(image, reference, known)
    lap("align")
    return downscale_best(image, reference, alignment, net, options, lap, first)


def rebuilt(
    file: Container,
    reference: Image | None,
    first: Image | None,
    net: RescaleNet,
    tile: int = TILE,
    dtype: np.dtype[Any] | type[Any] = np.uint8,
) -> Image:
    """Return what the file of a triple decodes to, in the encoder.

    `reference` is the triple's; `first` is the picture's first triple as it decodes, None for that triple itself.
    """
    whole = Box(0, 0, file.header.height, file.header.width)
    low, older, place = _unpacked(file, reference, None if first is None else first.pixels, whole, net)
    return tiled.upscale(low, older, file.header, net, alignment=low.alignment, tile=tile, dtype=dtype, place=place)


def with_output_hash(file: Container, reference: Image | None, net: RescaleNet) -> Container:
    """Return the same file with the hash of what it decodes to; a hash in it is replaced."""
    return replace(file, output_hash=decode(container.pack(file), reference, net).fingerprint())


def downscale_best(
    image: Image,
    reference: Image | None,
    alignment: warp.Alignment | None,
    net: RescaleNet,
    options: EncodeOptions,
    lap: Callable[[str], None] = no_lap,
    first: Image | None = None,
) -> LowRes:
    """Run the net down against the moved reference, against it as it lies, or without: what codes a sample best.

    If it is with the reference, that is tried in the picture's light, too, and without the vectors of blocks. Better is
    less ln(bytes) + SLOPE ln(squared error). The sample is a regular grid of tiles, put together into one picture; a
    picture no larger than that is its own sample. A reference of another size is of use only if it is moved. At last
    the first triple of the picture, as it decodes, is tried as what to predict this one from. `lap` is called as in
    `encode`.
    """
    sample = _sample(image)

    def trial(
        guide: Image | None, alignment: warp.Alignment | None = None, predicted: Prediction | None = None
    ) -> _Trial:
        if guide is not None and alignment is not None:
            guide = warp.move(guide, alignment)
        return _trial(sample, guide, alignment, predicted, image, net, options)

    def cheapest(*trials: _Trial) -> _Trial:
        return min(trials, key=lambda tried: tried.cost)

    best = trial(None)
    if reference is not None and (reference.height, reference.width) == (image.height, image.width):
        best = cheapest(best, trial(reference))
    if reference is not None and alignment is not None:
        best = cheapest(best, trial(reference, alignment))
    if best.guide is not None:
        found = best.alignment or warp.still(image.height, image.width)
        lit = (found._replace(tones=tones) for tones in registration.tones(image, best.guide))
        best = cheapest(best, *(trial(reference, alignment) for alignment in lit))
    if best.alignment is not None and best.alignment.vectors.any():
        plain = best.alignment._replace(vectors=0 * best.alignment.vectors)
        if not plain.does_nothing:
            best = cheapest(best, trial(reference, plain))
    if first is not None:
        predicted = band_prediction.fit(first.pixels, image.pixels)
        best = cheapest(best, trial(Image(band_prediction.predict(first.pixels, predicted)), None, predicted))
    lap("choose")
    low = best.low
    if sample.pixels.shape != image.pixels.shape:
        low = tiled.downscale(image, best.guide, net, options.quality, options.tile, best.low.prediction)
    if best.guide is None or best.alignment is None:
        return low
    return low._replace(alignment=best.alignment._replace(check=warp.checksum(best.guide)))


class _Trial(NamedTuple):
    guide: Image | None  # the reference, in place
    alignment: warp.Alignment | None  # that moved it there
    cost: float
    low: LowRes


def _trial(
    sample: Image,
    guide: Image | None,
    alignment: warp.Alignment | None,
    predicted: Prediction | None,
    image: Image,
    net: RescaleNet,
    options: EncodeOptions,
) -> _Trial:
    shown = None if guide is None else _sample(guide)
    low = tiled.downscale(sample, shown, net, options.quality, options.tile, predicted)
    file = pack_low_res(low, sample, shown, net, options)
    dtype = sample.pixels.dtype
    received = as_received(low, net, options)
    decoded = tiled.upscale(received, shown, file.header, net, tile=options.tile, dtype=dtype)
    error = np.square((sample.pixels.astype(np.float64) - decoded.pixels) * (255 / np.iinfo(dtype).max)).mean()
    size: float = len(container.pack(file))
    if alignment is not None:  # the sample bears its share
        size += (_SECTION + len(warp.pack(alignment))) * sample.pixels.size / image.pixels.size
    cost = math.log(size) + SLOPE * math.log(error + 0.25)  # levels; rounding limits the error anyway
    return _Trial(guide, alignment, cost, low)


def _sample(image: Image) -> Image:
    count, side = SAMPLE
    rows, columns = (_tiles(length, count, side) for length in (image.height, image.width))
    return Image(np.ascontiguousarray(image.pixels[rows][:, columns]))


def _tiles(length: int, count: int, side: int) -> NDArray[np.int64]:
    """Return which of `length` positions lie in `count` evenly spaced tiles; all positions if they are so few."""
    if length <= count * side:
        return np.arange(length)
    starts = np.linspace(0, length - side, count).astype(np.int64)
    return (starts[:, None] + np.arange(side)).ravel()


def pack_low_res(
    low: LowRes, image: Image, reference: Image | None, net: RescaleNet, options: EncodeOptions
) -> Container:
    """Code the integers into the parts of a file; a reference that `low` was made without gets an empty map."""
    header = Header(
        width=image.width,
        height=image.height,
        scale=net.config.scale,
        codec=lrcodec.JPEG if net.low_res is None else lrcodec.GMM,
        quality=options.quality,
        weights=net.fingerprint,
        reference=None if reference is None else reference.fingerprint(),
    )
    payload, packed = _coded(low, net, options)
    coded_map = None
    if reference is not None or low.prediction is not None:
        coded_map = b"" if low.levels is None else similarity_map.encode(low.levels, net.config.map_levels)
    alignment = None if low.alignment is None else warp.pack(low.alignment)
    predicted = None if low.prediction is None else band_prediction.pack(low.prediction)
    said = metadata.pack(image.metadata)
    return Container(
        header, payload, coded_map, packed=packed, alignment=alignment, metadata=said, prediction=predicted
    )


def _coded(low: LowRes, net: RescaleNet, options: EncodeOptions) -> tuple[bytes, bool]:
    """Return the payload of a low-res picture, and whether it is a packed JPEG: one with subsampling is not."""
    if isinstance(net.low_res, Gmm):
        if options.subsampling != "4:4:4":
            raise UsageError(f"subsampling {options.subsampling} goes with the jpeg codec only")
        return GmmCodec(net.low_res).encode(low.lr, low.guide, options.quality), False
    if options.subsampling == "4:4:4":
        return entropy.pack(_levels(low.lr, options), options.quality), True
    return Jpeg(options.subsampling).encode(tiled.to_8_bits(low.lr), options.quality), False


def as_received(low: LowRes, net: RescaleNet, options: EncodeOptions) -> LowRes:
    """Return what `unpack_low_res` gives after `pack_low_res`, without the entropy coding between."""
    height, width = low.lr.shape[:2]
    if isinstance(net.low_res, Gmm):
        return low._replace(lr=GmmCodec(net.low_res).quantised(low.lr, options.quality))
    if options.subsampling == "4:4:4":
        return low._replace(lr=coefficients.restore(_levels(low.lr, options), height, width, options.quality))
    jpeg, _ = _coded(low, net, options)
    return low._replace(lr=Jpeg().decode(jpeg, height, width).astype(np.float32))


def _levels(lr: Floats, options: EncodeOptions) -> coefficients.Levels:
    """Quantise a low-res picture; what of its AC lies in the dead zone is what vanishes from a fainter picture."""
    levels = coefficients.quantise(lr, options.quality)
    if options.dead_zone > 0.5:
        fainter = coefficients.quantise(128 + 0.5 / options.dead_zone * (lr - 128), options.quality)
        levels[..., 1:][fainter[..., 1:] == 0] = 0
    return levels


def decode(
    data: bytes,
    reference: Image | None,
    net: RescaleNet,
    *,
    z_scale: float = 0.0,
    z_seed: int = 0,
    tile: int = TILE,
    window: Box | None = None,
    lap: Callable[[str], None] = no_lap,
) -> Image:
    """Return the picture in a `.rsc` file with its metadata, or a window of it.

    A window has the whole's metadata, but for a transform to places, which is moved along.

    Args:
        data: the file's bytes.
        reference: the very picture the file was made with; None if it was made without.
        net: the very weights the file was made with, see `weights.load`.
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
    wide = tiled.seen_of(shown, file.header, tile) if predicted else shown  # of the first triple

    def parts() -> Iterator[NDArray[Any]]:
        first: NDArray[Any] | None = None
        for inner, older in zip(files, _older_triples(reference, described), strict=False):
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
                dtype=described.triple_type,
                place=place,
            ).pixels
            lap("net")
            if first is None:
                first, part = part, part[shown.within(wide).slices]
            yield part

    said = replace(said, geo=geotiff.moved(said.geo, shown.left, shown.top))
    return replace(bands.join(parts(), described, shown), metadata=said)


def _unpacked(
    file: Container, reference: Image | None, first: NDArray[Any] | None, wide: Box, net: RescaleNet
) -> tuple[LowRes, Image | None, Box | None]:
    """Return the payloads of a triple, the reference that its net needs, and where that lies, as `upscale` has it.

    `reference` is the triple's. `first` is the part of the first triple in the box `wide`, None for that triple itself.
    """
    if file.prediction is not None and first is not None:
        low = unpack_low_res(file, net, None)
        if low.prediction is None or not _guided(file):
            return low, None, None
        return low, Image(band_prediction.predict(first, low.prediction)), wide
    older = reference if _guided(file) else None
    size = file.header.height, file.header.width
    if older is not None and file.alignment is None and size != (older.height, older.width):
        raise ContainerError("the file says that its reference lies in place, but it has another size")
    if older is not None and file.header.codec != lrcodec.JPEG:  # elsewhere it is moved tile by tile
        older, file = _moved(older, unpack_alignment(file)), replace(file, alignment=None)
    return unpack_low_res(file, net, older), older, None


def _moved(reference: Image, alignment: warp.Alignment | None) -> Image:
    """Return the reference in place, all of it; ReferenceMismatch if it is not the one that the alignment tells."""
    guide = warp.move(reference, alignment)
    if alignment is not None:
        tiled.require_check(warp.checksum(guide), alignment)
    return guide


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


def unpack_alignment(file: Container) -> warp.Alignment | None:
    """Decode where the reference lies; ContainerError when the payload does not fit the header."""
    if file.alignment is None:
        return None
    return warp.unpack(file.alignment, file.header.height, file.header.width)


def alignments(file: Container) -> list[warp.Alignment | None]:
    """Return where the reference lies for each triple of bands; ContainerError when a payload does not fit."""
    return [unpack_alignment(inner) for inner in disassemble(file)[1]]


def unpack_low_res(file: Container, net: RescaleNet, reference: Image | None) -> LowRes:
    """Decode the payloads of a container.

    Args:
        file: see `container.unpack`.
        net: the weights that its header names.
        reference: moved into place. Codec 1 does without.

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
    guide = None
    if header.codec == lrcodec.JPEG and file.packed:
        levels = entropy.unpack(file.lr, height, width, header.quality)
        lr = coefficients.restore(levels, height, width, header.quality)
    elif header.codec == lrcodec.JPEG:
        lr = Jpeg().decode(file.lr, height, width).astype(np.float32)
    elif header.codec == lrcodec.GMM and isinstance(net.low_res, Gmm) and not file.packed:
        if _guided(file) and file.prediction is None:
            if reference is None:
                raise ReferenceMismatch("the low-res picture does not decode without the reference")
            guide = tiled.low_res_reference(reference, net)
        lr = GmmCodec(net.low_res).decode(file.lr, height, width, guide, header.quality)
    elif header.codec == lrcodec.GMM:
        raise ContainerError("the file uses the gmm codec, but its weights hold none, or it is marked as packed")
    else:
        raise ContainerError(f"the file uses the low-res codec {header.codec}, which this version does not know")
    predicted = None if file.prediction is None else band_prediction.unpack(file.prediction)
    return LowRes(lr, similarity, unpack_alignment(file), guide, predicted)


def _guided(file: Container) -> bool:
    """Return whether the reference, or a prediction, was used: a map of zeros leaves it out everywhere."""
    return (file.header.reference is not None or file.prediction is not None) and file.similarity_map != b""
