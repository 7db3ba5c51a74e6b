"""The encoder: *prepare -> Plan -> code -> Coded -> bytes*.

    hr ──┐                        ┌─> similarity map ──────────────┐
         ├─ choose ─ RescaleNet ──┤                                ├─ container ──> bytes
    ref ─┘           down         └─> lr ── low-res codec ─────────┘

After RefScale (paper, Fig. 2). `prepare` does what no quality changes: it fingerprints the reference, finds where it
lies (`registration`), decides whether and how it is used (`reference_choice`), and warps it once. `Plan.code` runs the
net down and codes what it leaves, once for each quality asked for. What the decoder will make of that is known without
decoding anything: `Coded.picture`. The decoder is in `decoder`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from typing import NamedTuple

import numpy as np

from refscale_codec.codec import payloads, reference_choice
from refscale_codec.codec.reference_choice import Candidate, Choice
from refscale_codec.errors import UsageError
from refscale_codec.fileformat import container
from refscale_codec.fileformat.container import Container
from refscale_codec.lrcodec.dct.coefficients import ROUNDING
from refscale_codec.picture import bands, metadata, tiles
from refscale_codec.picture.bands import Bands
from refscale_codec.picture.image import Image
from refscale_codec.picture.metadata import Metadata
from refscale_codec.picture.tiles import TILE, Box
from refscale_codec.reference import band_prediction, georeference, registration, warp
from refscale_codec.rescale import tiled
from refscale_codec.rescale.net import RescaleNet
from refscale_codec.rescale.tiled import LowRes

Shortlist = Callable[[Image, Image | None, warp.Alignment | None, Image | None], list[Candidate]]
SLOPE = 1.45  # d ln(bits) / -d ln(squared error) on refscale's own curves; training weighs the two alike


@dataclass(frozen=True)
class EncodeOptions:
    """Choices of an encoder; none of them is needed to decode."""

    quality: int = 75  # 1..100, higher is better and bigger
    output_hash: bool = False  # store the hash of what the file decodes to, in tiles of `TILE`
    tile: int = TILE  # largest side of a tile in pixels, a multiple of `tiles.STEP`: takes memory, saves time
    value_range: tuple[int, int] | None = None  # of all bands, for 16 bits; None takes each band's own, see `bands`

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        tiles.require_side(self.tile)
        if not 1 <= self.quality <= 100:
            raise UsageError(f"quality must be 1..100, not {self.quality}")


def untimed(stage: str) -> None:
    """Take no times."""


def encode(
    image: Image,
    reference: Image | None,
    net: RescaleNet,
    options: EncodeOptions | None = None,
    *,
    lap: Callable[[str], None] = untimed,
) -> bytes:
    """Return a complete `.rsc` file.

    Args:
        image: the picture, any size from 1x1 and of any bands. Alpha, nodata and metadata go into the file as they are.
        reference: an older picture of the same place and the same bands, of any size; None codes without one.
        net: from `model.load`; the computation runs on its device.
        options: see `EncodeOptions`.
        lap: for timing, called when each of the stages "align", "choose", "net" and "entropy" is done.

    Raises:
        ImageError: the reference has other bands, both are georeferenced but not with places in common, or there is
            more metadata than `metadata.MAX_BYTES`.
        UsageError: a range of values that the picture's type does not hold.
    """
    options = options or EncodeOptions()
    return prepare(image, reference, net, options, lap=lap).code(options.quality, lap=lap).file()


class BandGroup(NamedTuple):
    """Three bands of the picture, and how they use their reference."""

    image: Image
    warped: Image | None  # the reference in place; None if it is not used, or if the group is predicted
    alignment: warp.Alignment | None  # that put it there, with the checksum of `warped`; None for as it lies
    predicted: bool = False  # from the picture's first group as it decodes


@dataclass(frozen=True)
class Plan:
    """A picture ready to be coded at any quality; from `prepare`."""

    described: Bands
    metadata: Metadata
    size: tuple[int, int]  # height and width in pixels
    fingerprint: bytes | None  # of the reference
    net: RescaleNet
    options: EncodeOptions
    groups: list[BandGroup] = field(default_factory=list)
    _low: dict[tuple[int, int], LowRes] = field(default_factory=dict, repr=False)  # by group and quality
    _coded: dict[tuple[int, int, float], "CodedGroup"] = field(default_factory=dict, repr=False)

    def code(self, quality: int, dead_zone: float = ROUNDING, *, lap: Callable[[str], None] = untimed) -> "Coded":
        """Return the picture coded at a quality of 1..100.

        Args:
            quality: higher is better and bigger.
            dead_zone: see `coefficients.quantise`; no effect with the learned codec.
            lap: as in `encode`.
        """
        groups = [self._group(index, quality, dead_zone, lap) for index in range(len(self.groups))]
        return Coded(self, quality, groups)

    def _group(self, index: int, quality: int, dead_zone: float, lap: Callable[[str], None] = untimed) -> "CodedGroup":
        key = index, quality, dead_zone
        if key not in self._coded:
            warped, low = self._low_res(index, quality, dead_zone)
            lap("net")
            file = payloads.pack_low_res(low, self.size, self.fingerprint, self.net, quality, dead_zone)
            lap("entropy")
            self._coded[key] = CodedGroup(self, file, low, warped, dead_zone)
        return self._coded[key]

    def _choose(self, group: Image, older: Image | None, found: list[Candidate]) -> None:
        """Take the candidate that codes the sample best: that of the least ln(bytes) + SLOPE ln(squared error)."""
        boxes = reference_choice.sample_boxes(*self.size)
        whole = len(boxes) == len(boxes[0]) == 1
        sample = reference_choice.gathered(group, boxes)
        trials = [self._trial(sample, candidate) for candidate in found] if len(found) > 1 else []
        best = min(range(len(trials)), key=lambda at: trials[at][0], default=0)
        self.groups.append(_prepared(group, older, found[best].choice))
        if whole and trials:
            coded = trials[best][1]
            index, quality = len(self.groups) - 1, self.options.quality
            if coded.low.prediction is None:
                self._low[index, quality] = coded.low
            self._coded[index, quality, ROUNDING] = coded

    def _trial(self, sample: Image, candidate: Candidate) -> tuple[float, "CodedGroup"]:
        """Code the sample as one candidate has it; return the cost, and what was coded."""
        choice, quality = candidate.choice, self.options.quality
        low = tiled.downscale(sample, candidate.warped, self.net, quality, self.options.tile, choice.prediction)
        size, share = (sample.height, sample.width), sample.height * sample.width / (self.size[0] * self.size[1])
        if choice.alignment is not None and candidate.warped is not None and share == 1:
            low = low._replace(alignment=choice.alignment._replace(check=warp.checksum(candidate.warped)))
        file = payloads.pack_low_res(low, size, self.fingerprint, self.net, quality)
        coded = CodedGroup(self, file, low, candidate.warped, ROUNDING)
        decoded = coded.picture()
        levels = 255 / np.iinfo(sample.pixels.dtype).max
        error = np.square((sample.pixels.astype(np.float64) - decoded.pixels) * levels).mean()
        total: float = len(container.pack(file))
        if share < 1:  # what is sent once for the whole picture counts by the sample's share
            if choice.alignment is not None:
                total += (reference_choice.SECTION + len(warp.pack(choice.alignment))) * share
            if choice.prediction is not None:
                total -= (reference_choice.SECTION + len(band_prediction.pack(choice.prediction))) * (1 - share)
        return math.log(total) + SLOPE * math.log(error + 0.25), coded  # levels; rounding limits the error anyway

    def _low_res(self, index: int, quality: int, dead_zone: float) -> tuple[Image | None, LowRes]:
        """Run the net down; return the reference that it saw, too."""
        group = self.groups[index]
        if group.predicted:
            first = self._group(0, quality, dead_zone).picture()
            rows = band_prediction.fit(first.pixels, group.image.pixels)
            warped = Image(band_prediction.predict(first.pixels, rows))
            return warped, tiled.downscale(group.image, warped, self.net, quality, self.options.tile, rows)
        if (index, quality) not in self._low:
            low = tiled.downscale(group.image, group.warped, self.net, quality, self.options.tile)
            self._low[index, quality] = low._replace(alignment=group.alignment)
        return group.warped, self._low[index, quality]


class CodedGroup(NamedTuple):
    """Three bands as they are in a file."""

    plan: Plan
    file: Container
    low: LowRes  # before it was coded
    warped: Image | None  # the reference that the net saw
    dead_zone: float

    def picture(self, tile: int | None = None, first: Image | None = None) -> Image:
        """Return what the group decodes to.

        Args:
            tile: side of tiles in pixels; the plan's by default.
            first: the picture's first group in such tiles, for a group that is predicted from it; as coded by default.
        """
        net, header, plan = self.plan.net, self.file.header, self.plan
        received = payloads.as_received(self.low, net, header.quality, self.dead_zone)
        warped = self.warped
        if first is not None and self.low.prediction is not None:
            warped = Image(band_prediction.predict(first.pixels, self.low.prediction))
        dtype = plan.described.group_dtype
        return tiled.upscale(received, warped, header, net, tile=tile or plan.options.tile, dtype=dtype)


@dataclass(frozen=True)
class Coded:
    """A picture coded at one quality; from `Plan.code`."""

    plan: Plan
    quality: int
    groups: list[CodedGroup]

    def file(self) -> bytes:
        """Return the `.rsc` file."""
        whole = assemble([group.file for group in self.groups], self.plan)
        if self.plan.options.output_hash:
            whole = replace(whole, output_hash=self.picture(TILE).fingerprint())
        return container.pack(whole)

    def size(self) -> int:
        """Return the bytes of the file, without decoding for its hash."""
        whole = assemble([group.file for group in self.groups], self.plan)
        if self.plan.options.output_hash:
            whole = replace(whole, output_hash=bytes(container.FINGERPRINT_SIZE))
        return len(container.pack(whole))

    def picture(self, tile: int | None = None) -> Image:
        """Return what the file decodes to, but for metadata; nothing is entropy-decoded for that.

        A tile other than the plan's may change the last bits of floating point, and so a sample by a level.
        """
        first = self.groups[0].picture(tile)
        parts = (group.picture(tile, first).pixels for group in self.groups[1:])
        return bands.join_groups(chain([first.pixels], parts), self.plan.described, Box(0, 0, *self.plan.size))


def prepare(
    image: Image,
    reference: Image | None,
    net: RescaleNet,
    options: EncodeOptions | None = None,
    *,
    shortlist: Shortlist = reference_choice.shortlist,
    lap: Callable[[str], None] = untimed,
) -> Plan:
    """Find where the reference lies and decide how it is used; arguments and errors are those of `encode`.

    `options.quality` matters only for further bands, which may be predicted from the first three at that quality.
    `shortlist` says which ways of using its reference a band group is tried with, see `reference_choice.shortlist`.
    """
    options = options or EncodeOptions()
    described = bands.describe(image, options.value_range)
    fingerprint = None if reference is None else reference.fingerprint()
    plan = Plan(described, image.metadata, (image.height, image.width), fingerprint, net, options)
    where = georeference.prior(image, reference)
    for group, older in band_groups(image, reference, described):
        alignment = None if older is None else registration.estimate(group, older, where)
        lap("align")
        first = plan._group(0, options.quality, ROUNDING).picture() if plan.groups else None
        plan._choose(group, older, shortlist(group, older, alignment, first))
        lap("choose")
    return plan


def _prepared(group: Image, older: Image | None, chosen: Choice) -> BandGroup:
    """Warp the whole reference, once, as chosen."""
    if chosen.prediction is not None:
        return BandGroup(group, None, None, predicted=True)
    if not chosen.used or older is None:
        return BandGroup(group, None, None)
    if chosen.alignment is None:
        return BandGroup(group, older, None)
    warped = warp.apply(older, chosen.alignment)
    return BandGroup(group, warped, chosen.alignment._replace(check=warp.checksum(warped)))


def band_groups(image: Image, reference: Image | None, described: Bands) -> Iterator[tuple[Image, Image | None]]:
    """Yield each band group of a picture with that of its reference; ImageError if the reference has other bands."""
    return zip(bands.split_groups(image, described), reference_groups(reference, described), strict=False)


def reference_groups(reference: Image | None, described: Bands) -> Iterator[Image | None]:
    """Yield the band groups of a reference; None, endlessly, if there is none."""
    return repeat(None) if reference is None else bands.split_groups(reference, described, reference=True)


def assemble(files: list[Container], plan: Plan) -> Container:
    """Return the file of a picture from those of its band groups, of which each holds the next one."""
    extra_bands = None
    for file in reversed(files):
        whole = replace(file, extra_bands=extra_bands)
        extra_bands = container.pack(whole) if file is not files[0] else None
    return replace(whole, bands=bands.pack(plan.described), metadata=metadata.pack(plan.metadata))
