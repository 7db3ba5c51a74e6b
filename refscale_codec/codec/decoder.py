"""The decoder: a file and its reference -> the picture, or a window of it.

bytes ── container ──> similarity map, lr_hat ──┐
                                                ├─ rescaler up ──> hr_hat
                           warped reference ────┘
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from refscale_codec.codec import payloads
from refscale_codec.codec.reconstruction import reconstruct
from refscale_codec.codec.timing import OnStage, untimed
from refscale_codec.errors import ContainerError, ReferenceMismatch, WeightsError
from refscale_codec.fileformat import container, references
from refscale_codec.fileformat.container import Container, Header
from refscale_codec.model import Model
from refscale_codec.picture import geo, metadata, tiles
from refscale_codec.picture.coded import band_section, bands
from refscale_codec.picture.coded.bands import Bands
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import TILE, Box, Tile
from refscale_codec.reference import source as sources
from refscale_codec.reference import warp
from refscale_codec.reference.source import PicturePart, ReferenceSource
from refscale_codec.rescale import tiled
from refscale_codec.rescale.tiled import LowRes


def decode(
    data: bytes,
    reference: Image | Sequence[Image] | None,
    model: Model,
    *,
    tile: int = TILE,
    window: Box | None = None,
    on_stage: OnStage = untimed,
) -> Image:
    """Return the picture in a `.rsc` file with its metadata, or a window of it.

    Args:
        data: the file's bytes.
        reference: the one that the file was encoded with, with equal pixels, or several, in any order; those that the
            file does not need are ignored.
        model: the one that the file was encoded with, see `model.load`.
        tile: largest side of a tile in pixels, a multiple of `tiles.STEP`; it determines memory and time, and
            the last bits of floating-point results.
        window: see `Decoder.read`.
        on_stage: timing hook, called when each of the stages "entropy" and "net" is done; "net" warps, too.

    Raises:
        UsageError, ContainerError, WeightsError, ReferenceMismatch: see `Decoder` and `Decoder.read`.
    """
    return Decoder(data, reference, model).read(window, tile=tile, on_stage=on_stage)


class Decoder:
    """A file with its references and model; work that windows have in common is done once.

    It is thread-safe.
    """

    def __init__(self, data: bytes, reference: Image | Sequence[Image] | None, model: Model) -> None:
        """Parse the file.

        Args:
            data: the file's bytes.
            reference: as for `decode`.
            model: the one that the file was encoded with, see `model.load`.

        Raises:
            ContainerError: not a valid file.
            WeightsError: another model than the file names.
            ReferenceMismatch: a reference that the file names is missing, or another one was given.
        """
        self.file = container.unpack(data)
        require_same_model(self.file.header, model)
        self.model = model
        self.metadata = metadata.unpack(self.file.metadata)
        self.described, self.files = disassemble(self.file)
        named = references.of_groups(self.files)
        self._references = found_references(self.file, named, reference)
        self.sources = [sources.of_file(file, named) for file in self.files]
        self._size = self.file.header.height, self.file.header.width
        self._groups: dict[int, _Group] = {}
        self._lock = threading.Lock()

    def read(self, window: Box | None = None, *, tile: int = TILE, on_stage: OnStage = untimed) -> Image:
        """Return the picture, or a window of it, with the metadata of the whole and the transform of the window.

        Args:
            window: the part to decode, to the same pixels as in the whole in tiles of this size.
            tile: largest side of a tile in pixels, a multiple of `tiles.STEP`.
            on_stage: as in `decode`.

        Raises:
            UsageError: an invalid tile, or a window outside the picture.
            ContainerError: payloads do not fit the header, or the whole picture does not match the hash in the file
                although the model is exact.
            ReferenceMismatch: the warped reference differs from the encoder's. If the low-res codec is not
                conditional, this is detected only when the whole picture is decoded.
        """
        tiles.require_side(tile)
        size = self._size
        if window is not None:
            window.require_inside(*size)
        window = window or Box(0, 0, *size)
        whole = Box(0, 0, *size)
        from_first = any(source.from_first for source in self.sources)
        wide = tiled.padded_window(window, *size, self.model.rescaler, tile) if from_first else window

        def parts() -> Iterator[NDArray[Any]]:
            first: PicturePart | None = None
            for index in range(len(self.files)):
                group = self._group(index)
                on_stage("entropy")
                reference = _CheckedTiles(self.sources[index], group, first) if self.sources[index].used else None
                box = wide if first is None else window
                pixels = reconstruct(
                    group.low,
                    reference,
                    size,
                    self.model,
                    self.file.header.quality,
                    tile=tile,
                    window=box,
                    dtype=self.described.group_dtype,
                )
                if reference is not None and window == whole:
                    reference.require_same()
                on_stage("net")
                part = PicturePart(pixels, box)
                first = first or part
                yield part.cut(window)

        decoded = bands.join_groups(parts(), self.described, window)
        if self.model.exact and window == whole:
            self._require_hash(decoded)
        cut = replace(self.metadata, geo=geo.of_window(self.metadata.geo, window.left, window.top))
        return replace(decoded, metadata=cut)

    def _require_hash(self, decoded: Image) -> None:
        wanted = self.file.output_hash
        if wanted is None:
            raise ContainerError("malformed: no OUTPUT_HASH, which files of exact models have")
        if decoded.fingerprint() != wanted:
            raise ContainerError(
                f"the file decodes to the picture {decoded.fingerprint().hex()}, not to {wanted.hex()} as its encoder "
                "says; its model computes exactly, so this machine or this version is at fault"
            )

    @property
    def low_res(self) -> LowRes:
        """The low-res picture and the map of the first band group."""
        return self._group(0).low

    def _group(self, index: int) -> "_Group":
        """Return a group's payloads, entropy-decoded once."""
        with self._lock:
            if index not in self._groups:
                self._groups[index] = self._decoded(index)
            return self._groups[index]

    @cached_property
    def _older(self) -> list[list[Image]]:
        """Of each band group, the same bands of the references."""
        split = [bands.split_groups(one, self.described, reference=True) for one in self._references]
        return [[next(groups) for groups in split] for _ in self.files]

    def _decoded(self, index: int) -> "_Group":
        source, file, model = self.sources[index], self.files[index], self.model
        if not source.used:
            return _Group(payloads.low_res_of(file, model, None), [], None)
        older = self._older[index]
        source.require_fit(older, *self._size)
        if not (source.exact and model.low_res.conditional):
            return _Group(payloads.low_res_of(file, model, None), older, None)
        whole = Box(0, 0, *self._size)
        warped = Image(source.pixels(older, None, whole))
        if source.check is not None:
            _require_check(warp.checksum(warped), source.check)
        low = payloads.low_res_of(file, model, tiled.low_res_reference(warped, model.scale))
        return _Group(low, [], PicturePart(warped.pixels, whole))


@dataclass(frozen=True)
class _Group:
    """A band group as it was received."""

    low: LowRes
    older: list[Image]  # the same bands of the references, if they are still needed
    warped: PicturePart | None  # the whole reference, if the low-res codec has needed it


class _CheckedTiles:
    """A reference that is made tile by tile, with the checksum of the whole."""

    def __init__(self, source: ReferenceSource, group: _Group, first: PicturePart | None) -> None:
        self.source, self.group, self.first, self.check = source, group, first, 0

    def __call__(self, tile: Tile) -> NDArray[Any]:
        if self.group.warped is not None:
            return self.group.warped.cut(tile.padded)
        pixels = self.source.pixels(self.group.older, self.first, tile.padded)
        if self.source.check is not None:
            self.check += warp.checksum(Image(pixels[tile.box.within(tile.padded).slices]), tile.box)
        return pixels

    def require_same(self) -> None:
        """Raise ReferenceMismatch if the whole differs from the encoder's."""
        if self.source.check is not None and self.group.warped is None:
            _require_check(self.check, self.source.check)


def _require_check(computed: int, wanted: int) -> None:
    if computed % (1 << 32) != wanted:
        raise ReferenceMismatch("the warped reference differs from the one that the encoder used")


def disassemble(file: Container) -> tuple[Bands, list[Container]]:
    """Return how the bands are stored, and the files of the band groups.

    Raises:
        ContainerError: they are inconsistent.
    """
    described = band_section.unpack(file.bands, file.header.height, file.header.width)
    files, extra_bands = [file], file.extra_bands
    while extra_bands is not None and len(files) < len(described.group_bands()):
        inner = container.unpack(extra_bands)
        extra_bands = inner.extra_bands
        files.append(replace(inner, extra_bands=None))  # each holds all that follow: 84 times as much memory
    if extra_bands is not None or len(files) < len(described.group_bands()):
        raise ContainerError(f"malformed: EXTRA_BANDS sections for other than {described.depth} bands")
    for inner in files[1:]:
        if inner.header != file.header or any((inner.bands, inner.output_hash, inner.metadata, inner.reference_name)):
            raise ContainerError("malformed: an EXTRA_BANDS section holds a file that is not of the same picture")
    if file.prediction is not None:
        raise ContainerError("malformed: the first bands are predicted from themselves")
    return described, files


def check_without_reference(file: Container, model: Model) -> None:
    """Check whatever of a file does not depend on its reference.

    Args:
        file: see `container.unpack`.
        model: the one that its header names.

    Raises:
        ContainerError: a part is invalid.
        WeightsError: another model than the file names.
    """
    require_same_model(file.header, model)
    metadata.unpack(file.metadata)
    for group in disassemble(file)[1]:
        if not (sources.of_file(group).exact and model.low_res.conditional):
            payloads.low_res_of(group, model, None)


def found_references(file: Container, named: list[bytes], given: Image | Sequence[Image] | None) -> list[Image]:
    """Return the references that a file names, in that order, among those that are given.

    Raises:
        ReferenceMismatch: one is missing.
    """
    pictures = [given] if isinstance(given, Image) else list(given or ())
    by_fingerprint = {one.fingerprint(): one for one in pictures} if named else {}
    missing = [wanted for wanted in named if wanted not in by_fingerprint]
    if not missing:
        return [by_fingerprint[wanted] for wanted in named]
    wanted = references.named(file, missing)
    if not pictures:
        what = "its reference" if len(missing) == 1 else "its references"
        raise ReferenceMismatch(f"the file needs {what} {wanted}; none was given")
    given_ones = ", ".join(
        name.hex() + ("" if one.name is None else f" ({one.name})") for name, one in by_fingerprint.items()
    )
    if len(named) == len(pictures) == 1:
        raise ReferenceMismatch(f"the file was made with the reference {wanted}, this picture is {given_ones}")
    what = "the reference" if len(missing) == 1 else "the references"
    raise ReferenceMismatch(f"the file also needs {what} {wanted}; given: {given_ones}")


def require_same_model(header: Header, model: Model) -> None:
    """Check that the weights are those that a file names: else WeightsError, or ContainerError for another scale."""
    if header.weights != model.fingerprint:
        raise WeightsError(
            f"the file was made with the weights {header.weights.hex()}, these are {model.fingerprint.hex()}"
        )
    if header.scale != model.scale:
        raise ContainerError(f"the header says scale {header.scale}, but its weights have scale {model.scale}")


def alignments(file: Container) -> list[warp.Alignment | None]:
    """Return the alignment of each band group, None for none; ContainerError if a payload is invalid."""
    return [sources.of_file(group).alignment for group in disassemble(file)[1]]
