"""`Bands` <-> the payload of the BANDS section; an 8-bit RGB picture has none."""

import math
import struct
import zlib
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.picture import levels
from refscale_codec.picture.coded import planes
from refscale_codec.picture.coded.bands import Bands, Kept
from refscale_codec.picture.coded.ranges import LEAST_PER_KEPT
from refscale_codec.picture.image import MAX_SAMPLES
from refscale_codec.picture.levels import TYPES, Number

_ALPHA, _NODATA, _MARKS, _KEPT, _RANGES, _FILLS, _REFERENCE = 1, 2, 4, 8, 16, 32, 64  # flags
_REFERENCE_TYPE = np.dtype("<f8")
_FARTHEST = 1 << 33  # end of the range of a reference of whole numbers
_HEAD = struct.Struct("<BBB")  # type, bands, flags
_COUNT = struct.Struct("<I")
_MOST_FILLS = 256 - levels.FIRST_FILL  # which marks of a byte can stand for


def pack(bands: Bands) -> bytes | None:
    """Return the payload; None for 8-bit RGB."""
    if bands.plain and bands.marks is None:
        return None
    flags = {
        _ALPHA: bands.alpha is not None,
        _NODATA: bands.nodata is not None,
        _MARKS: bands.marks is not None,
        _KEPT: bands.kept is not None,
        _RANGES: bands.dtype == np.uint8 and bool(bands.ranges),
        _FILLS: bool(bands.fills),
        _REFERENCE: bool(bands.reference_ranges),
    }
    little = bands.dtype.newbyteorder("<")
    parts = [
        _HEAD.pack(TYPES.index(bands.dtype), bands.depth, sum(flag for flag, there in flags.items() if there)),
        np.array(bands.ranges, little).tobytes(),
    ]
    if bands.nodata is not None:
        parts.append(np.array(bands.nodata, _nodata_type(bands.dtype)).tobytes())
    if bands.fills:
        parts.append(bytes([len(bands.fills)]) + np.array(bands.fills, little).tobytes())
    parts.append(np.array(bands.reference_ranges, _REFERENCE_TYPE).tobytes())
    if bands.alpha is not None:
        parts += planes.pack(bands.alpha)
    if bands.marks is not None:
        parts += planes.pack(_differences(bands.marks))
    if bands.kept is not None:
        parts.append(_packed(bands.kept))
    return b"".join(parts)


class Summary(NamedTuple):
    """What the BANDS section says of a picture before any plane is decoded."""

    dtype: np.dtype[Any]
    """Type of the samples."""
    depth: int
    """Number of bands, without alpha."""
    nodata: Number | None
    """The nodata value."""
    alpha: bool
    """Whether there is alpha."""
    ranges: tuple[tuple[Number, Number], ...]
    """As in `Bands`."""


def summary(payload: bytes | None, height: int, width: int) -> Summary:
    """Return what `unpack` would, but for the planes, which are not looked at; errors are the same but for theirs."""
    bands, flags, _ = _head(payload, height, width)
    return Summary(bands.dtype, bands.depth, bands.nodata, bool(flags & _ALPHA), bands.ranges)


def unpack(payload: bytes | None, height: int, width: int) -> Bands:
    """Return what a payload says of the bands of a picture of this size; None stands for 8-bit RGB.

    Raises:
        ContainerError: it is not such a payload.
    """
    bands, flags, rest = _head(payload, height, width)
    if flags & _ALPHA:
        alpha, rest = planes.unpack(rest, height, width, bands.dtype)
        bands = bands._replace(alpha=alpha)
    if flags & _MARKS:
        stacked, rest = planes.unpack(rest, bands.depth * height, width, np.dtype(np.uint8))
        marks = stacked.reshape(bands.depth, height, width)
        np.bitwise_xor.accumulate(marks, axis=0, out=marks)
        meant = np.zeros(256, bool)
        meant[[0, *bands.special]] = True
        if not all(meant[plane].all() for plane in marks):
            raise ContainerError("malformed: BANDS marks samples with a value that there is not")
        bands = bands._replace(marks=marks.transpose(1, 2, 0))
    if flags & _KEPT:
        return bands._replace(kept=_unpacked(rest, (height, width, bands.depth), bands.dtype))
    if rest:
        raise ContainerError(f"malformed: BANDS has {len(rest)} bytes after its end")
    return bands


def _head(payload: bytes | None, height: int, width: int) -> tuple[Bands, int, memoryview]:
    """Return what stands before the planes, the flags, and the bytes from the planes on; see `unpack`."""
    if payload is None:
        return Bands(TYPES[0], 3), 0, memoryview(b"")
    if len(payload) < _HEAD.size:
        raise ContainerError(f"malformed: BANDS of {len(payload)} bytes, expected at least {_HEAD.size}")
    type_id, count, flags = _HEAD.unpack_from(payload)
    dtype = TYPES[min(type_id, len(TYPES) - 1)]
    known = type_id < len(TYPES) and count and flags < 2 * _REFERENCE
    unmeant = flags & _MARKS and not flags & (_NODATA | _FILLS) and dtype.kind != "f"
    if not known or unmeant or flags & _RANGES and dtype != np.uint8:
        raise ContainerError(f"malformed: BANDS begins with {payload[: _HEAD.size].hex(' ')}")
    ranged = dtype != np.uint8 or flags & _RANGES
    if flags & (_KEPT | _FILLS) and not ranged:
        raise ContainerError("malformed: BANDS keeps samples beyond ranges that there are not")
    in_ranges, wide = (2 * count if ranged else 0), _nodata_type(dtype)
    after = _HEAD.size + in_ranges * dtype.itemsize
    last = after + wide.itemsize * bool(flags & _NODATA)
    fills = payload[last] if flags & _FILLS and last < len(payload) else 0
    beyond = last + bool(flags & _FILLS) * (1 + fills * dtype.itemsize)
    end = beyond + 2 * count * _REFERENCE_TYPE.itemsize * bool(flags & _REFERENCE)
    if flags & _REFERENCE and not ranged:
        raise ContainerError("malformed: BANDS has ranges of the reference alone")
    if len(payload) < end:
        raise ContainerError(f"malformed: BANDS of {len(payload)} bytes, expected at least {end}")
    if height * width * count > MAX_SAMPLES:
        raise ContainerError(f"over the size limit: {count} bands of {width}x{height}, expected {MAX_SAMPLES} samples")
    numbers = np.frombuffer(payload[_HEAD.size : after], dtype.newbyteorder("<")).tolist()
    pairs = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    if not all(math.isfinite(low) and math.isfinite(high) and low <= high for low, high in pairs):
        raise ContainerError("malformed: BANDS has a range whose lowest value is above the highest")
    nodata = np.frombuffer(payload[after:last], wide).tolist()
    values = np.frombuffer(payload[last + 1 : beyond], dtype.newbyteorder("<")).tolist()
    if not all(levels.can_be(dtype, value) for value in nodata):
        raise ContainerError("malformed: BANDS has a nodata value that no sample can have")
    rising = all(low < high for low, high in pairwise(values)) and all(map(math.isfinite, values))
    if flags & _FILLS and not (0 < fills <= _MOST_FILLS and rising):
        raise ContainerError("malformed: BANDS has fill values that do not rise")
    bands = Bands(dtype, count, pairs, nodata[0] if nodata else None, fills=tuple(values))
    bands = bands._replace(reference_ranges=_reference_ranges(payload[beyond:end], dtype))
    if bands.plain and not flags:
        raise ContainerError("malformed: BANDS of an 8-bit RGB picture, which has none")
    return bands, flags, memoryview(payload)[end:]


def _reference_ranges(data: bytes, dtype: np.dtype[Any]) -> tuple[tuple[Number, Number], ...]:
    """Return ranges of a reference; they are whole numbers unless the picture is of floats."""
    numbers = np.frombuffer(data, _REFERENCE_TYPE).tolist()
    pairs = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    if not all(math.isfinite(low) and math.isfinite(high) and low <= high for low, high in pairs):
        raise ContainerError("malformed: BANDS has a range of the reference whose lowest value is above the highest")
    if dtype.kind == "f":
        return pairs
    if any(not number.is_integer() or abs(number) > _FARTHEST for number in numbers):
        raise ContainerError("malformed: BANDS has a range of the reference that is not of whole numbers in reach")
    return tuple((int(low), int(high)) for low, high in pairs)


def _nodata_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that the nodata value of samples is stored in: picture files give it in double precision."""
    return np.dtype("<f8") if dtype.kind == "f" else dtype.newbyteorder("<")


def _differences(marks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the marks of the first band, and those of each other xor those of the one before, [bands * h, w]."""
    different = marks.copy()
    different[..., 1:] ^= marks[..., :-1]
    return np.concatenate(list(different.transpose(2, 0, 1)))


def _packed(kept: Kept) -> bytes:
    """Return samples that are kept as their number and a DEFLATE stream."""
    little = kept.samples.dtype.newbyteorder("<")
    down = np.diff(kept.rows, prepend=0).astype("<u4"), kept.columns.astype("<u4"), kept.bands.astype("u1")
    plain = b"".join(part.tobytes() for part in (*down, kept.samples.astype(little)))
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return _COUNT.pack(len(kept.samples)) + deflater.compress(plain) + deflater.flush()


def _unpacked(data: memoryview, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Kept:
    """Return the samples that are kept of a picture [h, w, bands].

    Raises:
        ContainerError: the bytes are something else. No more is inflated than a picture of this size can have.
    """
    if len(data) < _COUNT.size:
        raise ContainerError("malformed: BANDS ends before the samples that it keeps")
    (count,) = _COUNT.unpack_from(data)
    if not 0 < count <= math.prod(shape) // LEAST_PER_KEPT:
        raise ContainerError(f"malformed: BANDS keeps {count} samples of {math.prod(shape)}")
    ends = [0, *(count * np.cumsum([4, 4, 1, dtype.itemsize])).tolist()]
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(data[_COUNT.size :], ends[-1] + 1)
    except zlib.error as error:
        raise ContainerError(f"malformed: BANDS keeps samples that do not inflate: {error}") from None
    if len(plain) != ends[-1] or not inflater.eof or inflater.unused_data:
        raise ContainerError(f"malformed: BANDS keeps {count} samples, but not in so many bytes")
    kinds: tuple[np.dtype[Any], ...] = (np.dtype("<u4"), np.dtype("<u4"), np.dtype("u1"), dtype.newbyteorder("<"))
    down, columns, bands, samples = (np.frombuffer(plain[ends[i] : ends[i + 1]], kind) for i, kind in enumerate(kinds))
    kept = Kept(
        np.cumsum(down, dtype=np.int64), columns.astype(np.int64), bands.astype(np.int64), samples.astype(dtype)
    )
    if any(int(part.max()) >= side for part, side in zip(kept, shape, strict=False)) or np.any(
        np.diff(np.ravel_multi_index(kept[:3], shape)) <= 0
    ):
        raise ContainerError("malformed: BANDS keeps samples out of their order or beyond the picture")
    return kept
