"""Pictures of any number of bands <-> band groups, the only pictures that the net codes.

A band group is an 8-bit or 16-bit picture of three bands over the full range of its type. Bands are grouped three by
three; if one or two are left over, the last is repeated to fill the last group, and decodes to the mean of its copies.
Samples of 8 bits are coded as they are unless a range is declared for them. All others become 16-bit levels, band by
band, of the range of their values (`ranges`, `levels`). The reference is treated in the same way, with the picture's
ranges or some of its own. Encoder and decoder give their nets equal inputs.

Not coded by the net but stored losslessly: alpha; which samples have a special value, which is the nodata value, NaN
or an infinity; and the few samples far beyond their band's range. All these, and fully transparent samples, are
replaced by local means before the net runs, because these cost few bytes.

An 8-bit RGB picture is its own only band group.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ImageError
from refscale_codec.picture import geo, levels
from refscale_codec.picture.coded import ranges
from refscale_codec.picture.image import Image, kind_of
from refscale_codec.picture.levels import Mask, Number
from refscale_codec.picture.tiles import Box

_log = logging.getLogger(__name__)
_SERVED = {1: range(1, 256), 3: (1, 4), 4: (1, 3)}  # by bands of a reference: other numbers of bands it serves for
_RGB = ["red", "green", "blue"]
_MOST_FILLS = 64  # of a picture


class Kept(NamedTuple):
    """Samples beyond the range of their band; in order of their rows, in a row of columns, in a pixel of bands."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    bands: NDArray[np.int64]
    samples: NDArray[Any]
    """Their values, of the samples' type."""

    def within(self, box: Box) -> "Kept":
        """Return those in a box, with their rows and columns there."""
        inside = (self.rows >= box.top) & (self.rows < box.bottom)
        inside &= (self.columns >= box.left) & (self.columns < box.right)
        rows, columns, bands, samples = (part[inside] for part in self)
        return Kept(rows - box.top, columns - box.left, bands, samples)


class Bands(NamedTuple):
    """How the bands of a picture are stored: the contents of the BANDS section."""

    dtype: np.dtype[Any]
    """Type of the samples, one of `levels.TYPES`."""
    depth: int
    """Number of bands, without alpha."""
    ranges: tuple[tuple[Number, Number], ...] = ()
    """For each band the values that are coded as 0 and as `levels.FULL`; empty for 8 bits coded as they are."""
    nodata: Number | None = None
    """The nodata value."""
    alpha: NDArray[Any] | None = None
    """[h, w], of the samples' type."""
    marks: NDArray[np.uint8] | None = None
    """[h, w, bands]: 0 for a sample that is coded, else the mark of its value in `special`; None if all are coded."""
    kept: Kept | None = None
    """Samples that are kept exactly; None for none."""
    fills: tuple[Number, ...] = ()
    """Values that many samples have, far from all others, as if they were nodata; rising."""
    reference_ranges: tuple[tuple[Number, Number], ...] = ()
    """The same as `ranges` for the bands of the reference; empty if they have the picture's."""

    @property
    def plain(self) -> bool:
        """Whether it is 8-bit RGB and nothing else."""
        return self.depth == 3 and self.group_dtype == np.uint8 and self.nodata is None and self.alpha is None

    @property
    def group_dtype(self) -> np.dtype[Any]:
        """Type of the samples in band groups: uint8 or uint16."""
        return np.dtype(np.uint16 if self.ranges else np.uint8)

    @property
    def special(self) -> dict[int, Number]:
        """The values that marks stand for; see `levels.special`."""
        return levels.special(self.dtype, self.nodata, self.fills)

    def table(self, band: int) -> NDArray[Any]:
        """Return the value of each level of a band, [256] or [65536] in the type of the picture; none is nodata."""
        table = levels.values(self.dtype, *self.ranges[band]) if self.ranges else np.arange(256, dtype=np.uint8)
        return table if self.nodata is None else levels.without(table, self.nodata)

    def group_bands(self) -> list[list[int]]:
        """Return the three band indices of each group; the last band is repeated to fill the last group."""
        last = self.depth - 1
        return [[first, min(first + 1, last), min(first + 2, last)] for first in range(0, self.depth, 3)]


def describe(
    image: Image,
    declared: ranges.Declared | None = None,
    tell: Callable[[str], None] = _log.warning,
    older: Sequence[Image] = (),
) -> Bands:
    """Return how the bands of a picture are to be stored.

    Args:
        image: the picture.
        declared: lowest and highest value of all or some bands. Otherwise 8 bits are coded as they are, and other
            samples in the range of those in their band that count, without nodata and transparent ones.
        older: its references: where one has not 8 bits, those of a picture have the range 0..255.
        tell: called with each line for people: on what is clipped or kept exactly, how finely values are told apart,
            and bands that use a sliver of their range.

    Raises:
        UsageError: a range of another band, or one that the type does not hold.
    """
    dtype = image.pixels.dtype
    given = ranges.by_band(declared, dtype, image.bands)
    marks = _marks(image.pixels, levels.special(dtype, image.nodata))
    fills = tuple(sorted(set(_fills(image, marks, given))))[:_MOST_FILLS]
    if fills:
        marks = _marks(image.pixels, levels.special(dtype, image.nodata, fills))
        assert marks is not None  # some samples have one
        named = f"value{'s' * (len(fills) > 1)} {', '.join(map(ranges.text, fills))}"
        tell(f"samples with the {named}, far from all others, kept exactly: {(marks >= levels.FIRST_FILL).mean():.3%}")
    chosen, slivers = [], []
    for band, (plane, valid) in enumerate(_valid(image, marks)):
        if band in given:
            one = ranges.within(plane, valid, *given[band])
        elif dtype == np.uint8:
            one = ranges.Chosen(0, 255)
        else:
            one = ranges.measured(plane, valid)
        sliver = ranges.sliver(band + 1, plane, valid, one.low, one.high)
        if sliver is not None:
            slivers.append(sliver)
        chosen.append(one)
    for line in [*ranges.losses(chosen, dtype), *slivers[:1]]:
        tell(line)
    if len(slivers) > 1:
        tell(f"likewise {len(slivers) - 1} more band{'s' * (len(slivers) > 2)}")
    as_they_are = dtype == np.uint8 and not given and all(one.pixels.dtype == np.uint8 for one in older)
    return Bands(
        dtype,
        image.bands,
        () if as_they_are else tuple((one.low, one.high) for one in chosen),
        image.nodata,
        image.alpha,
        marks,
        _kept(image, [one.kept for one in chosen]),
        fills,
    )


def _fills(image: Image, marks: NDArray[np.uint8] | None, given: dict[int, tuple[Number, Number]]) -> Iterator[Number]:
    """Yield fill values of the bands that have a range of their samples, or that lie beyond the one that is given."""
    for band, (plane, valid) in enumerate(_valid(image, marks)):
        if band in given:
            low, high = given[band]
            yield from (value for value in ranges.fills(plane, valid) if not low <= value <= high)
        elif image.pixels.dtype != np.uint8:
            yield from ranges.fills(plane, valid)


def extents(image: Image) -> list[tuple[Number, Number]]:
    """Return the lowest and the highest sample that counts of each band, without nodata and transparent ones."""
    marks = _marks(image.pixels, levels.special(image.pixels.dtype, image.nodata))
    return [ranges.extent(plane, valid) for plane, valid in _valid(image, marks)]


def _valid(image: Image, marks: NDArray[np.uint8] | None) -> Iterator[tuple[NDArray[Any], Mask | None]]:
    """Yield each band, and which of its samples count: neither marked nor fully transparent; None for all."""
    for band in range(image.bands):
        valid = None if marks is None else marks[..., band] == 0
        if image.alpha is not None:
            valid = image.alpha != 0 if valid is None else valid & (image.alpha != 0)
        yield image.pixels[..., band], valid


def with_reference(described: Bands, image: Image, reference: Image | None) -> Bands:
    """Return how bands are stored, with ranges of the reference's own if much of it would be clipped otherwise.

    Nothing changes without ranges, or for a reference that does not serve for the picture.
    """
    if reference is None or not described.ranges or not _serves(reference, described):
        return described
    older = reference.pixels if reference.bands == image.bands else _in_bands(reference.pixels, image.bands)
    mine, others = (_valid(one, _marks(one.pixels, described.special)) for one in (image, Image(older)))
    found = tuple(
        ranges.of_reference(plane, counts, other, counted, one)
        for (plane, counts), (other, counted), one in zip(mine, others, described.ranges, strict=True)
    )
    return described if found == described.ranges else described._replace(reference_ranges=found)


def _serves(reference: Image, bands: Bands) -> bool:
    """Return whether the bands of a reference serve for those of a picture; without ranges, only 8 bits do."""
    if not bands.ranges and reference.pixels.dtype != np.uint8:
        return False
    return bands.depth in (reference.bands, *_SERVED.get(reference.bands, ()))


def _marks(samples: NDArray[Any], special: dict[int, Number]) -> NDArray[np.uint8] | None:
    """Return the marks of samples, see `Bands`; None if all are coded."""
    marks: NDArray[np.uint8] | None = None
    for mark, value in special.items():
        if (same := levels.equal(samples, value)).any():
            marks = np.zeros(samples.shape, np.uint8) if marks is None else marks
            marks[same & (marks == 0)] = mark
    return marks


def _kept(image: Image, masks: list[Mask | None]) -> Kept | None:
    """Return the samples that are kept exactly, by the masks of the bands."""
    places = [np.flatnonzero(mask) * image.bands + band for band, mask in enumerate(masks) if mask is not None]
    if not places:
        return None
    where = np.unravel_index(np.sort(np.concatenate(places)), image.pixels.shape)
    return Kept(where[0], where[1], where[2], image.pixels[where])


def require_related(image: Image, reference: Image | None) -> None:
    """Check that a reference with another number of bands serves for a picture, and log how.

    Raises:
        ImageError: it is not known which of three or four bands are red, green and blue.
    """
    if reference is None or reference.bands == image.bands or image.bands not in _SERVED.get(reference.bands, ()):
        return
    kinds = f"the reference is {_kind(reference)} and the picture {_kind(image)}"
    if reference.bands == 1:
        _log.warning("%s: its band is used for all", kinds)
        return
    for what, picture in (("reference", reference), ("picture", image)):
        if picture.bands > 1 and not _begins_with_rgb(picture):
            raise ImageError(
                f"{kinds}, and it is not known which bands of the {what} are red, green and blue: tell it of the file "
                "with `gdal_edit.py -colorinterp_1 red -colorinterp_2 green -colorinterp_3 blue`"
            )
    _log.warning("%s: %s", kinds, "its luma is used" if image.bands == 1 else "its bands are used in their order")


def _begins_with_rgb(picture: Image) -> bool:
    return geo.interpretations(picture.metadata.geo, picture.bands)[:3] == _RGB


def _kind(picture: Image) -> str:
    """Return the name of a picture's kind, by what is known of its bands."""
    return picture.kind if picture.bands != 3 or _begins_with_rgb(picture) else picture.kind.replace("RGB", "3-band")


def split_groups(image: Image, bands: Bands, *, reference: bool = False) -> Iterator[Image]:
    """Yield the band groups of a picture, or of a reference.

    Args:
        image: the picture, or its reference.
        bands: of the picture, in both cases.
        reference: whether it is the reference: its alpha is ignored, and its nodata value is the picture's.

    Raises:
        ImageError: the reference has bands that do not serve for the picture's, or not 8 bits where that has no ranges.
    """
    if not _serves(image, bands):
        raise ImageError(
            f"the reference is {image.kind} and the picture {kind_of(bands.dtype, bands.depth)}: "
            "bring both to the same bands, for instance with `gdal_translate -b 1 -b 2`"
        )
    if image.bands != bands.depth:
        image = Image(_in_bands(image.pixels, bands.depth))
    if bands.plain:
        yield image
        return
    transparent = None if reference or image.alpha is None else image.alpha == 0
    kept = None
    if bands.kept is not None and not reference:
        kept = np.zeros(image.pixels.shape, bool)
        kept[bands.kept.rows, bands.kept.columns, bands.kept.bands] = True
    of_bands = (reference and bands.reference_ranges) or bands.ranges
    for chosen in bands.group_bands():
        cut = image.pixels[..., chosen]
        marks = _marks(cut, bands.special)
        hidden = np.zeros(cut.shape, bool) if marks is None else marks != 0
        if transparent is not None:
            hidden |= transparent[..., None]
        if kept is not None:
            hidden |= kept[..., chosen]
        if of_bands:
            cut = np.dstack([levels.of_samples(cut[..., i], *of_bands[band]) for i, band in enumerate(chosen)])
        yield Image(_filled(cut, hidden) if hidden.any() else cut)


def _in_bands(pixels: NDArray[Any], depth: int) -> NDArray[Any]:
    """Return a reference in so many bands as a picture has: grey from the first three, or the last band repeated."""
    last = pixels.shape[2] - 1
    if depth > 1:
        return pixels[..., [min(band, last) for band in range(depth)]]
    real = pixels.dtype.kind == "f"
    red, green, blue = (pixels[..., band].astype(np.float64 if real else np.int64) for band in range(3))
    with np.errstate(invalid="ignore"):  # infinities of either sign
        luma: NDArray[Any] = 77 * red + 150 * green + 29 * blue  # of BT.601
    return np.asarray((luma / 256 if real else (luma + 128) // 256).astype(pixels.dtype)[..., None])


def join_groups(parts: Iterable[NDArray[Any]], bands: Bands, window: Box) -> Image:
    """Return a window of a picture, without metadata, from its band groups in that window, each [h, w, 3].

    It is the inverse of `split_groups` up to the rounding of 16-bit samples and of repeated bands.
    """
    if bands.plain:
        (pixels,) = parts
        return Image(pixels)
    pixels = np.empty((window.height, window.width, bands.depth), bands.dtype)
    for part, chosen in zip(parts, bands.group_bands(), strict=True):
        for band in set(chosen):
            copies = [part[..., i] for i, other in enumerate(chosen) if other == band]
            sums = copies[0] if len(copies) == 1 else np.sum(copies, axis=0, dtype=np.uint32)
            mean = np.asarray((2 * sums + len(copies)) // (2 * len(copies)) if len(copies) > 1 else sums)
            pixels[..., band] = bands.table(band)[mean]
    if bands.marks is not None:
        marks = bands.marks[window.slices]
        for mark, value in bands.special.items():
            pixels[marks == mark] = value
    if bands.kept is not None:
        kept = bands.kept.within(window)
        pixels[kept.rows, kept.columns, kept.bands] = kept.samples
    alpha = None if bands.alpha is None else bands.alpha[window.slices].copy()
    return Image(pixels, alpha=alpha, nodata=bands.nodata)


def psnr(image: Image, decoded: Image, bands: Bands) -> float:
    """Return the peak signal-to-noise ratio over all samples that count, in dB; infinity where these are equal.

    The peak is the width of a band's range, or 255: all bands count alike, whatever their unit. Samples with a special
    value and fully transparent pixels do not count.
    """
    total, count = 0.0, 0
    for band, error in enumerate(_errors(image, decoded, bands)):
        low, high = bands.ranges[band] if bands.ranges else (0, 255)
        total += float(np.square(error).sum()) / ((high - low) or 1) ** 2
        count += len(error)
    return 10 * math.log10(count / total) if total else math.inf


def largest_error(image: Image, decoded: Image, bands: Bands) -> float:
    """Return how far the samples that count are off at most, see `psnr`, in their units."""
    return max(float(abs(error).max(initial=0)) for error in _errors(image, decoded, bands))


def _errors(image: Image, decoded: Image, bands: Bands) -> Iterator[NDArray[np.float64]]:
    """Yield the errors of all samples that count, of one band after another."""
    for band in range(bands.depth):
        counts = np.ones(image.pixels.shape[:2], bool) if bands.marks is None else bands.marks[..., band] == 0
        if bands.alpha is not None:
            counts &= bands.alpha != 0
        yield image.pixels[..., band][counts].astype(np.float64) - decoded.pixels[..., band][counts]


def _filled(pixels: NDArray[Any], hidden: Mask) -> NDArray[Any]:
    """Return pixels [h, w, 3] with each hidden sample replaced by the mean of the smallest square with a valid one.

    Squares have sides of 2, 4, 8, ... and lie on a grid; a square's mean is that of its four quarters, rounded. If no
    sample is valid, all become 0.
    """
    height, width, depth = pixels.shape
    if not hidden.any() or height == width == 1:
        return np.where(hidden, pixels.dtype.type(0), pixels)
    rows, columns = -(-height // 2), -(-width // 2)
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    shape = (rows, 2, columns, 2, depth)
    valid = np.pad(~hidden, padding).reshape(shape)
    count = valid.sum(axis=(1, 3), dtype=np.uint32)
    sums = np.pad(pixels, padding).reshape(shape).sum(axis=(1, 3), dtype=np.uint32, where=valid)
    means = ((2 * sums + count) // np.maximum(2 * count, 1)).astype(pixels.dtype)
    means = _filled(means, count == 0).repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return np.where(hidden, means, pixels)
