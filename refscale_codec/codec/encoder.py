"""The encoder: *prepare -> Plan -> code -> Coded -> bytes*.

    hr ──┐                      ┌─> similarity map ──────────────┐
         ├─ choose ─ rescaler ──┤                                ├─ container ──> bytes
    ref ─┘             down     └─> lr ── low-res codec ─────────┘

After RefScale (paper, Fig. 2). `prepare` does what does not depend on the quality: it fingerprints and registers the
reference (`registration`), decides whether and how it is used (`reference_choice`), and warps it once. `Plan.code`
computes and codes the low-res picture, once for each quality. `Coded.picture` gives the decoded picture without entropy
decoding. The decoder is in `decoder`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain

from refscale_codec.codec import payloads, reference_choice
from refscale_codec.codec.reconstruction import reconstruct
from refscale_codec.codec.timing import OnStage, untimed
from refscale_codec.errors import UsageError
from refscale_codec.fileformat import container
from refscale_codec.fileformat.container import Container
from refscale_codec.lrcodec.interface import ROUNDING
from refscale_codec.model import Model
from refscale_codec.picture import band_section, bands, metadata, tiles
from refscale_codec.picture.bands import Bands
from refscale_codec.picture.image import Image
from refscale_codec.picture.metadata import Metadata
from refscale_codec.picture.ranges import Declared
from refscale_codec.picture.tiles import TILE, Box
from refscale_codec.reference import band_prediction, georeference, registration, warp
from refscale_codec.reference.source import Predicted, ReferenceSource, Warped
from refscale_codec.rescale import tiled
from refscale_codec.rescale.tiled import LowRes

Choose = Callable[[Image, Image | None, warp.Alignment | None, Image | None], ReferenceSource]
"""See `reference_choice.choose`."""


@dataclass(frozen=True)
class EncodeOptions:
    """Choices of an encoder; none of them is needed to decode."""

    quality: int = 75  # 1..100, higher is better and larger
    output_hash: bool = False  # store a hash of the decoded picture; files of an exact model always have it
    tile: int = TILE  # largest side of a tile in pixels, a multiple of `tiles.STEP`; larger: more memory, less time
    value_range: Declared | None = None  # values that are coded; by default see `bands.describe`

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        tiles.require_side(self.tile)
        if not 1 <= self.quality <= 100:
            raise UsageError(f"quality must be 1..100, not {self.quality}")


def encode(
    image: Image,
    reference: Image | None,
    model: Model,
    options: EncodeOptions | None = None,
    *,
    on_stage: OnStage = untimed,
) -> bytes:
    """Return a complete `.rsc` file.

    Args:
        image: the picture, of any size from 1x1 and any bands. Alpha, nodata and metadata are stored losslessly.
        reference: an older picture of the same place and type, of any size; None encodes without one. It has the same
            bands, or grey for any, RGB for grey, or one of RGB and four bands that begin with it for the other.
        model: from `model.load`; the computation runs on its device.
        options: see `EncodeOptions`.
        on_stage: timing hook, called when each of the stages "align", "choose", "net" and "entropy" is done.

    Raises:
        ImageError: the reference has other bands, or more metadata than `metadata.MAX_BYTES`.
        UsageError: a range of values of another band, or outside that of the picture's type.
    """
    options = options or EncodeOptions()
    plan = prepare(image, reference, model, options, on_stage=on_stage)
    return plan.code(options.quality, on_stage=on_stage).file()


@dataclass(frozen=True)
class BandGroup:
    """Three bands of the picture, and how they use their reference."""

    image: Image
    source: ReferenceSource  # a prediction is fitted again at each quality
    warped: Image | None  # the warped reference; None if it is not used, or if the group is predicted


@dataclass(frozen=True)
class Plan:
    """A picture ready to be coded at any quality; from `prepare`."""

    described: Bands
    metadata: Metadata
    size: tuple[int, int]  # height and width in pixels
    fingerprint: bytes | None  # of the reference
    model: Model
    options: EncodeOptions
    groups: list[BandGroup] = field(default_factory=list)
    _low: dict[tuple[int, int], LowRes] = field(default_factory=dict, repr=False)  # by group and quality
    _coded: dict[tuple[int, int, float], "CodedGroup"] = field(default_factory=dict, repr=False)

    def code(self, quality: int, dead_zone: float = ROUNDING, *, on_stage: OnStage = untimed) -> "Coded":
        """Return the picture coded at a quality of 1..100.

        Args:
            quality: higher is better and larger.
            dead_zone: see `LowResCodec.code`.
            on_stage: as in `encode`.
        """
        groups = [self._group(index, quality, dead_zone, on_stage) for index in range(len(self.groups))]
        return Coded(self, quality, groups)

    def _group(self, index: int, quality: int, dead_zone: float, on_stage: OnStage = untimed) -> "CodedGroup":
        key = index, quality, dead_zone
        if key not in self._coded:
            source, warped = self._reference(index, quality, dead_zone)
            low, low_res = self._low_res(index, quality, warped), self.model.low_res
            on_stage("net")
            reference = None
            if low_res.conditional and isinstance(source, Warped) and warped and low.similarity_map is not None:
                reference = tiled.low_res_reference(warped, self.model.scale)
            coded = low_res.code(low.lr, reference, quality, dead_zone)
            file = payloads.pack(coded.payload, low, source, self.size, self.fingerprint, self.model, quality)
            on_stage("entropy")
            self._coded[key] = CodedGroup(self, file, low._replace(lr=coded.received), source, warped)
        return self._coded[key]

    def _reference(self, index: int, quality: int, dead_zone: float) -> tuple[ReferenceSource, Image | None]:
        """Return the reference of a group at a quality."""
        group = self.groups[index]
        if not isinstance(group.source, Predicted):
            return group.source, group.warped
        first = self._group(0, quality, dead_zone).decoded
        prediction = band_prediction.fit(first.pixels, group.image.pixels)
        return Predicted(prediction), Image(band_prediction.predict(first.pixels, prediction))

    def _low_res(self, index: int, quality: int, warped: Image | None) -> LowRes:
        group, tile = self.groups[index], self.options.tile
        if isinstance(group.source, Predicted):  # the reference follows from what was coded
            return tiled.downscale(group.image, warped, self.model.rescaler, quality, tile)
        if (index, quality) not in self._low:
            self._low[index, quality] = tiled.downscale(group.image, warped, self.model.rescaler, quality, tile)
        return self._low[index, quality]


@dataclass(frozen=True)
class CodedGroup:
    """A coded band group."""

    plan: Plan
    file: Container
    low: LowRes  # as the decoder receives it
    source: ReferenceSource
    warped: Image | None  # the reference

    @cached_property
    def decoded(self) -> Image:
        """The decoded group in the plan's tiles, computed once: what further groups are predicted from."""
        return self.picture()

    def picture(self, tile: int | None = None, first: Image | None = None) -> Image:
        """Return the decoded group.

        Args:
            tile: side of tiles in pixels; the plan's by default.
            first: the decoded first group in such tiles, for a group predicted from it; in the plan's by default.
        """
        plan, warped = self.plan, self.warped
        if first is not None and isinstance(self.source, Predicted):
            warped = Image(band_prediction.predict(first.pixels, self.source.prediction))
        if self.low.similarity_map is None:
            warped = None
        return Image(
            reconstruct(
                self.low,
                None if warped is None else tiled.reference_in_place(warped),
                plan.size,
                plan.model,
                self.file.header.quality,
                tile=tile or plan.options.tile,
                dtype=plan.described.group_dtype,
            )
        )


@dataclass(frozen=True)
class Coded:
    """A picture coded at one quality; from `Plan.code`."""

    plan: Plan
    quality: int
    groups: list[CodedGroup]

    def file(self) -> bytes:
        """Return the `.rsc` file."""
        whole = assemble([group.file for group in self.groups], self.plan)
        if self._hashed:
            whole = replace(whole, output_hash=self.picture(TILE).fingerprint())
        return container.pack(whole)

    def size(self) -> int:
        """Return the size of the file in bytes, without decoding for its hash."""
        whole = assemble([group.file for group in self.groups], self.plan)
        if self._hashed:
            whole = replace(whole, output_hash=bytes(container.FINGERPRINT_SIZE))
        return len(container.pack(whole))

    @property
    def _hashed(self) -> bool:
        return self.plan.options.output_hash or self.plan.model.exact

    def picture(self, tile: int | None = None) -> Image:
        """Return the decoded picture without metadata; nothing is entropy-decoded for that.

        A tile other than the plan's may change the last bits of floating-point results, and so a sample by a level.
        """
        first = self.groups[0].picture(tile)
        parts = (group.picture(tile, first).pixels for group in self.groups[1:])
        return bands.join_groups(chain([first.pixels], parts), self.plan.described, Box(0, 0, *self.plan.size))


def prepare(
    image: Image,
    reference: Image | None,
    model: Model,
    options: EncodeOptions | None = None,
    *,
    choose: Choose = reference_choice.choose,
    on_stage: OnStage = untimed,
) -> Plan:
    """Register the reference and decide how it is used; arguments and errors are those of `encode`.

    `options.quality` matters only for further bands, which may be predicted from the first three at that quality.
    `choose` decides how a band group uses its reference.
    """
    options = options or EncodeOptions()
    bands.require_related(image, reference)
    described = bands.describe(image, options.value_range)
    fingerprint = None if reference is None else reference.fingerprint()
    plan = Plan(described, image.metadata, (image.height, image.width), fingerprint, model, options)
    prior = georeference.prior(image, reference)
    for group, older in band_groups(image, reference, described):
        alignment = None if older is None else registration.estimate(group, older, prior)
        on_stage("align")
        first = plan._group(0, options.quality, ROUNDING).decoded if plan.groups else None
        plan.groups.append(_in_place(group, older, choose(group, older, alignment, first)))
        on_stage("choose")
    return plan


def _in_place(group: Image, reference: Image | None, source: ReferenceSource) -> BandGroup:
    """Warp the whole reference, as chosen."""
    if not isinstance(source, Warped) or reference is None:
        return BandGroup(group, source, None)
    if source.alignment is None:
        return BandGroup(group, source, reference)
    warped = warp.apply(reference, source.alignment)
    checked = source.alignment._replace(check=warp.checksum(warped))
    return BandGroup(group, Warped(checked), warped)


def band_groups(image: Image, reference: Image | None, described: Bands) -> Iterator[tuple[Image, Image | None]]:
    """Yield each band group of a picture with that of its reference; ImageError if the reference has other bands."""
    return zip(bands.split_groups(image, described), bands.split_reference(reference, described), strict=False)


def assemble(files: list[Container], plan: Plan) -> Container:
    """Return the file of a picture from those of its band groups, of which each holds the next one."""
    extra_bands = None
    for file in reversed(files):
        whole = replace(file, extra_bands=extra_bands)
        extra_bands = container.pack(whole) if file is not files[0] else None
    return replace(whole, bands=band_section.pack(plan.described), metadata=metadata.pack(plan.metadata))
