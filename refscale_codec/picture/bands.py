"""Pictures of any number of bands <-> band groups, the only pictures that the net codes; and the BANDS payload.

A band group is an 8-bit or 16-bit picture of three bands over the full range of its type. Bands are grouped three by
three; if one or two are left over, the last is repeated to fill the last group, and decodes to the mean of its copies.
Samples of 16 bits are scaled, band by band, from the range of their values. The reference is treated in the same way,
with the picture's ranges. All of it is integer arithmetic, so that encoder and decoder give their nets equal inputs.

Alpha and the nodata mask are not coded by the net but stored losslessly. Nodata and fully transparent samples are
replaced by local means before the net runs, because these cost few bytes.

An 8-bit RGB picture is its own only band group, and its file has no BANDS section.
"""

import logging
import math
import struct
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError, ImageError, UsageError
from refscale_codec.picture import geotiff, planes
from refscale_codec.picture.formats import kind_of
from refscale_codec.picture.image import MAX_SAMPLES, Image
from refscale_codec.picture.tiles import Box

Mask = NDArray[np.bool_]

FULL = 0xFFFF
"""What the highest value of a 16-bit band is stretched to; the lowest goes to 0."""

_log = logging.getLogger(__name__)
_TYPES: dict[int, np.dtype[Any]] = {0: np.dtype("u1"), 1: np.dtype("u2"), 2: np.dtype("i2")}  # by their ids in the file
_ALPHA, _NODATA, _NODATA_MASK = 1, 2, 4  # flags
_SERVED = {1: range(1, 256), 3: (1, 4), 4: (1, 3)}  # by bands of a reference: other numbers of bands it serves for
_RGB = ["red", "green", "blue"]
_HEAD = struct.Struct("<BBB")  # type, bands, flags


class Bands(NamedTuple):
    """How the bands of a picture are stored: the contents of the BANDS section."""

    dtype: np.dtype[Any]
    """Type of the samples: uint8, uint16 or int16."""
    depth: int
    """Number of bands, without alpha."""
    ranges: tuple[tuple[int, int], ...] = ()
    """For each band the values that are coded as 0 and as `FULL`; empty for 8 bits."""
    nodata: int | None = None
    """The nodata value."""
    alpha: NDArray[Any] | None = None
    """[h, w], of the samples' type."""
    nodata_mask: Mask | None = None
    """[h, w, bands]: which samples are nodata; None if no sample is."""

    @property
    def plain(self) -> bool:
        """Whether it is 8-bit RGB and nothing else."""
        return self.dtype == np.uint8 and self.depth == 3 and self.nodata is None and self.alpha is None

    @property
    def group_dtype(self) -> np.dtype[Any]:
        """Type of the samples in band groups: uint8 or uint16."""
        return np.dtype(np.uint8 if self.dtype == np.uint8 else np.uint16)

    def group_bands(self) -> list[list[int]]:
        """Return the three band indices of each group; the last band is repeated to fill the last group."""
        last = self.depth - 1
        return [[first, min(first + 1, last), min(first + 2, last)] for first in range(0, self.depth, 3)]


def describe(image: Image, declared: tuple[int, int] | None = None) -> Bands:
    """Return how the bands of a picture are to be stored.

    Args:
        image: the picture.
        declared: lowest and highest value in all bands; values outside are clipped, with a warning through `logging`.
            None takes for each band those of its own samples, without nodata and transparent ones.

    Raises:
        UsageError: a range for an 8-bit picture, or one that its type does not hold.
    """
    dtype = image.pixels.dtype
    if declared is not None:
        if dtype == np.uint8:
            raise UsageError("a range of values would have no effect: it is for 16-bit pictures")
        limits = np.iinfo(dtype)
        if not limits.min <= declared[0] < declared[1] <= limits.max:
            raise UsageError(
                f"the range of values must rise within {limits.min}..{limits.max}, not {declared[0]},{declared[1]}"
            )
        _warn_of_clipping(image, *declared)
    ranges = () if dtype == np.uint8 else tuple(declared or _measured(image, band) for band in range(image.bands))
    nodata_mask = None if image.nodata is None else image.pixels == image.nodata
    return Bands(dtype, image.bands, ranges, image.nodata, image.alpha, nodata_mask if np.any(nodata_mask) else None)


def _warn_of_clipping(image: Image, low: int, high: int) -> None:
    for band in range(image.bands):
        plane = image.pixels[..., band]
        beyond = (plane < low) | (plane > high)
        if image.nodata is not None:
            beyond &= plane != image.nodata
        if share := float(beyond.mean()):
            _log.warning("%.3g %% of band %d lie beyond the range %d..%d: clipped", 100 * share, band + 1, low, high)


def _measured(image: Image, band: int) -> tuple[int, int]:
    """Return the lowest and the highest value that counts, twice the highest of the type if none does."""
    plane = image.pixels[..., band]
    valid = np.ones(plane.shape, bool) if image.nodata is None else plane != image.nodata
    if image.alpha is not None:
        valid &= image.alpha != 0
    limits = np.iinfo(plane.dtype)
    low = int(plane.min(initial=limits.max, where=valid))
    return low, max(low, int(plane.max(initial=limits.min, where=valid)))


def require_related(image: Image, reference: Image | None) -> None:
    """Check that a reference with another number of bands serves for a picture, and log how.

    Raises:
        ImageError: it is not known which of three or four bands are red, green and blue.
    """
    if reference is None or reference.bands == image.bands or image.bands not in _SERVED.get(reference.bands, ()):
        return
    for what, picture in (("reference", reference), ("picture", image)):
        if picture.bands in (3, 4) and geotiff.interpretations(picture.metadata.geo, picture.bands)[:3] != _RGB:
            raise ImageError(
                f"the reference is {reference.kind} and the picture {image.kind}, and it is not known which bands of "
                f"the {what} are red, green and blue: tell it of the file with "
                "`gdal_edit.py -colorinterp_1 red -colorinterp_2 green -colorinterp_3 blue`"
            )
    how = "its luma" if image.bands == 1 else "its band for all" if reference.bands == 1 else "its bands in their order"
    _log.warning("the reference is %s and the picture %s: %s is used", reference.kind, image.kind, how)


def split_groups(image: Image, bands: Bands, *, reference: bool = False) -> Iterator[Image]:
    """Yield the band groups of a picture, or of a reference.

    Args:
        image: the picture, or its reference.
        bands: of the picture, in both cases.
        reference: whether it is the reference: its alpha is ignored, and its nodata value is the picture's.

    Raises:
        ImageError: the reference has bands that do not serve for the picture's, or samples of another type.
    """
    if image.pixels.dtype != bands.dtype or bands.depth not in (image.bands, *_SERVED.get(image.bands, ())):
        raise ImageError(
            f"the reference is {image.kind} and the picture {kind_of(bands.dtype, bands.depth)}: bring both to the same"
        )
    if image.bands != bands.depth:
        image = Image(_in_bands(image.pixels, bands.depth))
    if bands.plain:
        yield image
        return
    transparent = None if reference or image.alpha is None else image.alpha == 0
    for chosen in bands.group_bands():
        cut = image.pixels[..., chosen]
        hidden = None if bands.nodata is None else cut == bands.nodata
        if transparent is not None:
            hidden = transparent[..., None] | (np.zeros(cut.shape, bool) if hidden is None else hidden)
        if bands.ranges:
            cut = np.dstack([_stretched(cut[..., i], *bands.ranges[band]) for i, band in enumerate(chosen)])
        yield Image(cut if hidden is None else _filled(cut, hidden))


def _in_bands(pixels: NDArray[Any], depth: int) -> NDArray[Any]:
    """Return a reference in so many bands as a picture has: grey from the first three, or the last band repeated."""
    last = pixels.shape[2] - 1
    if depth > 1:
        return pixels[..., [min(band, last) for band in range(depth)]]
    red, green, blue = (pixels[..., band].astype(np.int32) for band in range(3))
    return ((77 * red + 150 * green + 29 * blue + 128) >> 8).astype(pixels.dtype)[..., None]  # luma of BT.601


def split_reference(reference: Image | None, bands: Bands) -> Iterator[Image | None]:
    """Yield the band groups of a reference; None, endlessly, if there is none. Errors are those of `split_groups`."""
    return repeat(None) if reference is None else split_groups(reference, bands, reference=True)


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
            pixels[..., band] = _unstretched(mean, bands.dtype, *bands.ranges[band]) if bands.ranges else mean
    if bands.nodata is not None:
        beside = bands.nodata + (1 if bands.nodata < np.iinfo(bands.dtype).max else -1)
        pixels[pixels == bands.nodata] = beside
        if bands.nodata_mask is not None:
            pixels[bands.nodata_mask[window.slices]] = bands.nodata
    alpha = None if bands.alpha is None else bands.alpha[window.slices].copy()
    return Image(pixels, alpha=alpha, nodata=bands.nodata)


def psnr(image: Image, decoded: Image, bands: Bands) -> float:
    """Return the peak signal-to-noise ratio over all samples that count, in dB; infinity where these are equal.

    The peak is the width of a band's range, or 255. Nodata and fully transparent pixels do not count.
    """
    total, count = 0.0, 0
    for band in range(bands.depth):
        low, high = bands.ranges[band] if bands.ranges else (0, 255)
        counts = np.ones(image.pixels.shape[:2], bool) if bands.nodata_mask is None else ~bands.nodata_mask[..., band]
        if bands.alpha is not None:
            counts &= bands.alpha != 0
        error = image.pixels[..., band].astype(np.int32) - decoded.pixels[..., band]
        total += int(np.sum(np.square(error, dtype=np.int64), where=counts)) / max(high - low, 1) ** 2
        count += int(counts.sum())
    return 10 * math.log10(count / total) if total else math.inf


def _stretched(plane: NDArray[Any], low: int, high: int) -> NDArray[np.uint16]:
    """Return a plane of 16-bit samples with low at 0 and high at `FULL`, rounded; what lies beyond is clipped."""
    values = np.arange(1 << 16, dtype=np.uint16).view(plane.dtype).astype(np.int64)
    table = (2 * FULL * (values.clip(low, high) - low) + (high - low)) // max(2 * (high - low), 1)
    return np.asarray(table.astype(np.uint16)[plane.view(np.uint16)])


def _unstretched(plane: NDArray[Any], dtype: np.dtype[Any], low: int, high: int) -> NDArray[Any]:
    """Return the nearest values; the inverse of `_stretched` within the range."""
    table = low + (2 * (high - low) * np.arange(1 << 16, dtype=np.int64) + FULL) // (2 * FULL)
    return np.asarray(table.astype(dtype)[plane])


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


def pack(bands: Bands) -> bytes | None:
    """Return the payload; None for 8-bit RGB."""
    if bands.plain:
        return None
    flags = {
        _ALPHA: bands.alpha is not None,
        _NODATA: bands.nodata is not None,
        _NODATA_MASK: bands.nodata_mask is not None,
    }
    type_id = next(key for key, dtype in _TYPES.items() if dtype == bands.dtype)
    numbers = [number for pair in bands.ranges for number in pair]
    if bands.nodata is not None:
        numbers.append(bands.nodata)
    parts = [
        _HEAD.pack(type_id, bands.depth, sum(flag for flag, there in flags.items() if there)),
        np.array(numbers, bands.dtype).astype(bands.dtype.newbyteorder("<")).tobytes(),
    ]
    if bands.alpha is not None:
        parts += planes.pack(bands.alpha.view(bands.group_dtype))
    if bands.nodata_mask is not None:
        parts += planes.pack(_differences(bands.nodata_mask))
    return b"".join(parts)


class Summary(NamedTuple):
    """What the BANDS section says of a picture before any plane is decoded."""

    dtype: np.dtype[Any]
    """Type of the samples."""
    depth: int
    """Number of bands, without alpha."""
    nodata: int | None
    """The nodata value."""
    alpha: bool
    """Whether there is alpha."""


def summary(payload: bytes | None, height: int, width: int) -> Summary:
    """Return what `unpack` would, but for the planes, which are not looked at; errors are the same but for theirs."""
    bands, flags, _ = _head(payload, height, width)
    return Summary(bands.dtype, bands.depth, bands.nodata, bool(flags & _ALPHA))


def unpack(payload: bytes | None, height: int, width: int) -> Bands:
    """Return what a payload says of the bands of a picture of this size; None stands for 8-bit RGB.

    Raises:
        ContainerError: it is not such a payload.
    """
    bands, flags, rest = _head(payload, height, width)
    if flags & _ALPHA:
        alpha, rest = planes.unpack(rest, height, width, bands.group_dtype)
        bands = bands._replace(alpha=alpha.view(bands.dtype))
    if flags & _NODATA_MASK:
        stacked, rest = planes.unpack(rest, bands.depth * height, width, np.dtype(np.uint8))
        mask = stacked.view(np.bool_).reshape(bands.depth, height, width)
        np.not_equal(stacked, 0, out=stacked.view(np.bool_))
        np.logical_xor.accumulate(mask, axis=0, out=mask)
        bands = bands._replace(nodata_mask=mask.transpose(1, 2, 0))
    if rest:
        raise ContainerError(f"malformed: BANDS has {len(rest)} bytes after its end")
    return bands


def _head(payload: bytes | None, height: int, width: int) -> tuple[Bands, int, memoryview]:
    """Return what stands before the planes, the flags, and the bytes of the planes; see `unpack`."""
    if payload is None:
        return Bands(_TYPES[0], 3), 0, memoryview(b"")
    if len(payload) < _HEAD.size:
        raise ContainerError(f"malformed: BANDS of {len(payload)} bytes, expected at least {_HEAD.size}")
    type_id, count, flags = _HEAD.unpack_from(payload)
    if type_id not in _TYPES or not count or flags >= 2 * _NODATA_MASK or flags & _NODATA_MASK and not flags & _NODATA:
        raise ContainerError(f"malformed: BANDS begins with {payload[: _HEAD.size].hex(' ')}")
    dtype = _TYPES[type_id]
    in_ranges = 0 if dtype == np.uint8 else 2 * count
    at = _HEAD.size + (in_ranges + bool(flags & _NODATA)) * dtype.itemsize
    if len(payload) < at:
        raise ContainerError(f"malformed: BANDS of {len(payload)} bytes, expected at least {at}")
    if height * width * count > MAX_SAMPLES:
        raise ContainerError(f"over the size limit: {count} bands of {width}x{height}, expected {MAX_SAMPLES} samples")
    numbers = np.frombuffer(payload[_HEAD.size : at], dtype.newbyteorder("<")).tolist()
    ranges = tuple(zip(numbers[:in_ranges:2], numbers[1:in_ranges:2], strict=True))
    if any(low > high for low, high in ranges):
        raise ContainerError("malformed: BANDS has a range whose lowest value is above the highest")
    bands = Bands(dtype, count, ranges, numbers[-1] if flags & _NODATA else None)
    if bands.plain and not flags:
        raise ContainerError("malformed: BANDS of an 8-bit RGB picture, which has none")
    return bands, flags, memoryview(payload)[at:]


def _differences(nodata_mask: Mask) -> NDArray[np.uint8]:
    """Return the mask of the first band, and where each other differs from the one before, [bands * h, w]."""
    different = nodata_mask.copy()
    different[..., 1:] ^= nodata_mask[..., :-1]
    return np.concatenate(list(different.transpose(2, 0, 1))).astype(np.uint8)
