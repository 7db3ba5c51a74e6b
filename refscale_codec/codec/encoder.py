"""The encoder: *prepare -> Plan -> code -> Coded -> bytes*.

    hr ──┐                      ┌─> similarity map ──────────────┐
         ├─ choose ─ rescaler ──┤                                ├─ container ──> bytes
    ref ─┘             down     └─> lr ── low-res codec ─────────┘

After RefScale (paper, Fig. 2). `prepare` does what does not depend on the quality: it fingerprints and registers the
reference (`registration`), decides whether and how it is used (`reference_choice`), warps it, and computes and codes
the similarity map, each once. `Plan.code` computes and codes the low-res picture, once for each quality.
`Coded.picture` gives the decoded picture without entropy decoding. The decoder is in `decoder`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from refscale_codec.codec import payloads, reference_choice, trial
from refscale_codec.codec.reconstruction import reconstruct
from refscale_codec.codec.timing import OnStage, untimed
from refscale_codec.errors import UsageError
from refscale_codec.fileformat import container, references
from refscale_codec.fileformat.container import Container
from refscale_codec.lrcodec.interface import USUAL, LowResReference
from refscale_codec.model import Model
from refscale_codec.picture import metadata, tiles
from refscale_codec.picture.coded import band_section, bands
from refscale_codec.picture.coded.bands import Bands
from refscale_codec.picture.coded.ranges import Declared
from refscale_codec.picture.image import Image
from refscale_codec.picture.metadata import Metadata
from refscale_codec.picture.tiles import TILE, Box
from refscale_codec.reference import georeference, registration, warp
from refscale_codec.reference.source import PicturePart, ReferenceSource, Unused
from refscale_codec.rescale import tiled
from refscale_codec.rescale.tiled import LowRes, MappedReference

Choose = Callable[
    [Image, Sequence[Image], Sequence[warp.Alignment | None], Image | None, Callable[[ReferenceSource], float]],
    ReferenceSource,
]
"""See `reference_choice.choose`."""

References = Image | Sequence[Image] | None
"""None, one or several pictures."""


@dataclass(frozen=True)
class EncodeOptions:
    """Choices of an encoder; none of them is needed to decode."""

    quality: int = 75  # 1..100, higher is better and larger
    output_hash: bool = False  # store a hash of the decoded picture; files of an exact model always have it
    tile: int = TILE  # largest side of a tile in pixels, a multiple of `tiles.STEP`; larger: more memory, less time
    value_range: Declared | None = None  # values that are coded; by default see `bands.describe`
    store_metadata: bool = True  # or use it alone: it says what bands mean, and where the picture lies
    reference_name: bool | None = None  # keep the name of the reference; None: beside metadata, if it takes < 0.1 %
    bounded: bool = False  # a level is a value as far as possible, so nothing is to be told about ranges

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        tiles.require_side(self.tile)
        if not 1 <= self.quality <= 100:
            raise UsageError(f"quality must be 1..100, not {self.quality}")


def encode(
    image: Image,
    reference: References,
    model: Model,
    options: EncodeOptions | None = None,
    *,
    on_stage: OnStage = untimed,
) -> bytes:
    """Return a complete `.rsc` file.

    Args:
        image: the picture, of any size from 1x1 and any bands. Alpha, nodata and metadata are stored losslessly.
        reference: an older picture of the same place and type, of any size, or up to `references.MOST` of them; None
            encodes without one. It has the same bands, or grey for any, RGB for grey, or one of RGB and four bands that
            begin with it for the other.
        model: from `model.load`; the computation runs on its device.
        options: see `EncodeOptions`.
        on_stage: timing hook, called when each of the stages "align", "choose", "net" and "entropy" is done.

    Raises:
        ImageError: the reference has other bands, or more metadata than `metadata.MAX_BYTES`.
        UsageError: a range of values of another band, or outside that of the picture's type; too many references.
    """
    options = options or EncodeOptions()
    plan = prepare(image, reference, model, options, on_stage=on_stage)
    return plan.code(options.quality, on_stage=on_stage).file()


@dataclass(frozen=True)
class GroupReference:
    """The reference of a band group; nothing of it depends on the quality, unless it is made of coded bands."""

    source: ReferenceSource
    mapped: MappedReference | None
    """The warped or predicted reference and its similarity map; None if and only if the source is not used."""
    low_res: LowResReference | None
    """What the low-res codec is given of it."""
    sections: dict[str, bytes]
    """What the file holds of it, see `payloads.reference_sections`."""


@dataclass(frozen=True)
class BandGroup:
    """Three bands of the picture, and how they use their reference."""

    image: Image
    older: list[Image]  # the same bands of the references, as far as they are still needed
    source: ReferenceSource  # as chosen
    reference: GroupReference | None  # None where it depends on the quality


@dataclass(frozen=True)
class Plan:
    """A picture ready to be coded at any quality; from `prepare`."""

    described: Bands
    metadata: Metadata
    size: tuple[int, int]  # height and width in pixels
    references: list[tuple[bytes, bytes]]  # fingerprint and name, in UTF-8 and none if there is none, of each
    model: Model
    options: EncodeOptions
    groups: list[BandGroup] = field(default_factory=list)
    _low: dict[tuple[int, int], LowRes] = field(default_factory=dict, repr=False)  # by quality and group
    _first: dict[tuple[int, float], "CodedGroup"] = field(default_factory=dict, repr=False)  # by quality and thrift

    def code(self, quality: int, thrift: float = USUAL, *, on_stage: OnStage = untimed) -> "Coded":
        """Return the picture coded at a quality of 1..100.

        Args:
            quality: higher is better and larger.
            thrift: see `LowResCodec.code`.
            on_stage: as in `encode`.
        """
        first = self._first_group(quality, thrift, on_stage)
        others = [self._group(index, quality, thrift, on_stage, first) for index in range(1, len(self.groups))]
        return Coded(self, quality, [first, *others])

    def forget(self, but: int | None = None) -> None:
        """Drop what is kept for coding again, but for the low-res pictures of one quality: it takes memory."""
        self._first.clear()
        for key in [key for key in self._low if key[0] != but]:
            del self._low[key]

    def _first_group(self, quality: int, thrift: float, on_stage: OnStage = untimed) -> "CodedGroup":
        key = quality, thrift
        if key not in self._first:
            self._first[key] = self._group(0, quality, thrift, on_stage, None)
        return self._first[key]

    def _group(
        self, index: int, quality: int, thrift: float, on_stage: OnStage, first: "CodedGroup | None"
    ) -> "CodedGroup":
        group = self.groups[index]
        reference = group.reference or self._reference(group.image, group.older, group.source, first)
        low = self._low_res(index, quality, reference)
        on_stage("net")
        coded = self.model.low_res.code(low.lr, reference.low_res, quality, thrift)
        header = payloads.header(self.size, self._named, self.model, quality)
        on_stage("entropy")
        file = Container(header, coded.payload, **reference.sections)
        return CodedGroup(self, file, low._replace(lr=coded.received), reference, first)

    @property
    def _fingerprints(self) -> list[bytes]:
        return [fingerprint for fingerprint, _ in self.references]

    def _base(self, *more: ReferenceSource) -> int:
        """Return the place of the reference that the header names: the first that a group uses."""
        used = (place for source in (*self.sources, *more) for place in source.places)
        return next(used, 0)

    @property
    def sources(self) -> list[ReferenceSource]:
        """How the band groups so far use the references, as far as that is known."""
        return [(group.reference or group).source for group in self.groups]

    @property
    def _named(self) -> bytes | None:
        return self._fingerprints[self._base()] if self.references else None

    def _low_res(self, index: int, quality: int, reference: GroupReference) -> LowRes:
        group, key = self.groups[index], (quality, index)
        if key in self._low:
            return self._low[key]
        low = tiled.downscale(group.image, reference.mapped, self.model.rescaler, quality, self.options.tile)
        if group.reference is not None:
            self._low[key] = low
        return low

    def _reference(
        self, image: Image, older: list[Image], source: ReferenceSource, first: "CodedGroup | None"
    ) -> GroupReference:
        """Make the whole reference and its map; one of no use counts as `Unused`."""
        decoded = first.decoded().pixels if first is not None and source.from_first else None
        made, picture = source.made(image, older, decoded)
        mapped = tiled.map_reference(image, picture, self.model.rescaler, self.options.tile)
        levels, low_res = None, None
        if mapped is None:
            made = Unused()
        else:
            levels = mapped.levels
            if made.exact and self.model.low_res.conditional:
                low_res = tiled.low_res_reference(mapped.picture, self.model.scale)
        sections = payloads.reference_sections(made, levels, self.model, self._fingerprints, self._base(made))
        return GroupReference(made, mapped, low_res, sections)


@dataclass(frozen=True)
class CodedGroup:
    """A coded band group."""

    plan: Plan
    file: Container
    low: LowRes  # as the decoder receives it
    reference: GroupReference
    first: "CodedGroup | None"  # the first group; None for itself
    _decoded: dict[int, Image] = field(default_factory=dict, repr=False)  # by the side of tiles

    def decoded(self, tile: int | None = None) -> Image:
        """Return the decoded group, in tiles of this side or the plan's; computed once."""
        plan, mapped = self.plan, self.reference.mapped
        tile = tile or plan.options.tile
        if tile not in self._decoded:
            warped = None if mapped is None else mapped.picture
            if self.reference.source.from_first and self.first is not None and tile != plan.options.tile:
                whole = Box(0, 0, *plan.size)
                first = PicturePart(self.first.decoded(tile).pixels, whole)
                warped = Image(self.reference.source.pixels([], first, whole))
            pixels = reconstruct(
                self.low,
                None if warped is None else tiled.reference_in_place(warped),
                plan.size,
                plan.model,
                self.file.header.quality,
                tile=tile,
                dtype=plan.described.group_dtype,
            )
            self._decoded[tile] = Image(pixels)
        return self._decoded[tile]


@dataclass(frozen=True)
class Coded:
    """A picture coded at one quality; from `Plan.code`."""

    plan: Plan
    quality: int
    groups: list[CodedGroup]

    def file(self) -> bytes:
        """Return the `.rsc` file. It names the reference only if a group uses it."""
        return self._packed if not self._hashed else self._with_hash(self.picture(TILE).fingerprint())

    def known_psnr(self, image: Image) -> float | None:
        """Return the PSNR in dB to the original picture, see `bands.psnr`; None if the file needs no decoding."""
        return bands.psnr(image, self.picture(TILE), self.plan.described) if self._hashed else None

    def size(self) -> int:
        """Return the size of the file in bytes, without decoding for its hash."""
        return len(self._packed if not self._hashed else self._with_hash(bytes(container.FINGERPRINT_SIZE)))

    @property
    def _hashed(self) -> bool:
        return self.plan.options.output_hash or self.plan.model.exact

    @cached_property
    def _assembled(self) -> Container:
        used = any(group.reference.source.places for group in self.groups)
        files = [payloads.with_reference(group.file, self.plan._named if used else None) for group in self.groups]
        return assemble(files, self.plan)

    @cached_property
    def _packed(self) -> bytes:
        return container.pack(self._assembled)

    def _with_hash(self, output_hash: bytes) -> bytes:
        return container.pack(replace(self._assembled, output_hash=output_hash))

    def picture(self, tile: int | None = None) -> Image:
        """Return the decoded picture without metadata; nothing is entropy-decoded for that.

        A tile other than the plan's may change the last bits of floating-point results, and so a sample by a level.
        """
        parts = (group.decoded(tile).pixels for group in self.groups)
        return bands.join_groups(parts, self.plan.described, Box(0, 0, *self.plan.size))


def prepare(
    image: Image,
    reference: References,
    model: Model,
    options: EncodeOptions | None = None,
    *,
    choose: Choose = reference_choice.choose,
    on_stage: OnStage = untimed,
) -> Plan:
    """Register the reference and decide how it is used; arguments and errors are those of `encode`.

    `options.quality` matters only where further bands may be predicted from the first three, at that quality, and where
    one of several references or a blend of them may be used, which is tried at it. `choose` decides how a band group
    uses its reference.
    """
    options = options or EncodeOptions()
    given = {one.fingerprint(): one for one in listed(reference)}
    older = list(given.values())
    references.require_count(len(older))
    for one in older:
        bands.require_related(image, one)
    described = _described(image, older, options)
    named = [(fingerprint, payloads.reference_name(one)) for fingerprint, one in given.items()]
    stored = image.metadata if options.store_metadata else Metadata()
    plan = Plan(described, stored, (image.height, image.width), named, model, options)
    priors = [georeference.prior(image, one) if model.rescaler.uses_reference else None for one in older]
    for group, others in band_groups(image, older, described):
        source: ReferenceSource = Unused()
        if model.rescaler.uses_reference:
            alignments = [registration.estimate(group, *each) for each in zip(others, priors, strict=True)]
            on_stage("align")
            first = plan._first_group(options.quality, USUAL).decoded() if plan.groups else None
            by_coding = trial.by_coding(group, others, first, model, options.quality, options.tile)
            source = choose(group, others, alignments, first, by_coding)
            on_stage("choose")
        made = None if source.from_first else plan._reference(group, others, source, None)
        on_stage("net")
        plan.groups.append(BandGroup(group, others if source.from_first else [], source, made))
    needed = any(source.places for source in plan.sources)
    return plan if needed else replace(plan, described=described._replace(reference_ranges=()))


def listed(reference: References) -> list[Image]:
    """Return the references that are given."""
    if reference is None or isinstance(reference, Image):
        return [] if reference is None else [reference]
    return list(reference)


def _described(image: Image, older: list[Image], options: EncodeOptions) -> Bands:
    """Return how the bands are stored, with one range of each for all references."""
    quiet: dict[str, Any] = {"tell": lambda line: None} if options.bounded else {}
    described = bands.describe(image, options.value_range, older=older, **quiet)
    found = [bands.with_reference(described, image, one).reference_ranges for one in older]
    if not any(found):
        return described
    each = zip(*(ranges or described.ranges for ranges in found), strict=True)
    widest = tuple((min(low for low, _ in band), max(high for _, high in band)) for band in each)
    return described._replace(reference_ranges=widest)


def band_groups(image: Image, older: list[Image], described: Bands) -> Iterator[tuple[Image, list[Image]]]:
    """Yield each band group of a picture with those of its references; ImageError if one has other bands."""
    split = [bands.split_groups(one, described, reference=True) for one in older]
    for group in bands.split_groups(image, described):
        yield group, [next(groups) for groups in split]


def assemble(files: list[Container], plan: Plan) -> Container:
    """Return the file of a picture from those of its band groups, of which each holds the next one."""
    extra_bands = None
    for file in reversed(files):
        whole = replace(file, extra_bands=extra_bands)
        extra_bands = container.pack(whole) if file is not files[0] else None
    whole = replace(whole, bands=band_section.pack(plan.described), metadata=metadata.pack(plan.metadata))
    known = dict(plan.references)
    name = b"\0".join(known[one] for one in references.of_groups(files)).rstrip(b"\0")
    if not name or plan.options.reference_name is False:
        return whole
    named = replace(whole, reference_name=name)
    if plan.options.reference_name or whole.metadata is not None and _adds_little(whole, named):
        return named
    return whole


def _adds_little(whole: Container, named: Container) -> bool:
    before, after = (sum(container.bytes_by_section(file).values()) for file in (whole, named))
    return 1000 * (after - before) <= before
