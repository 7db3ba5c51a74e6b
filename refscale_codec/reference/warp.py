"""The warp of the reference onto the target's grid: estimated by the encoder (`registration`), applied by both sides.

The reference may have any size. A finer one is averaged first, by a whole factor. Then comes global motion (shift,
similarity, affine transform or homography), and on top of it block motion vectors in quarters of a pixel, interpolated
between the blocks' centres. Outside the reference its mean colour is used, blended at the border. Last come radiometric
gain and offset of each band. All of it is integer arithmetic, so that encoder and decoder get the same pixels, in tiles
as in the whole; a checksum in the file lets the decoder verify that. An `Alignment` holds the parameters and is
coded as one stream, with the motion vectors under adaptive statistics, each predicted from its neighbours.
"""

import struct
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.picture import tiles
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import Box
from refscale_codec.rangecoder import Coder, Decoder, Encoder

MotionVectors = NDArray[np.int16]  # block motion vectors [rows, columns, 2]: down and right, in quarters of a pixel
Integers = NDArray[np.int64]

BLOCK = 64  # side in pixels
LIMIT = 64  # largest magnitude of a motion vector's component, in quarters of a pixel
STEPS = 64  # in a pixel, of a transform's shift
GAIN = 256  # a radiometric gain of 1
MAX_FACTOR = 64
FADE = 32  # width in quarters of a pixel of the blending from the border to the mean
_MEAN_SAMPLES = 256  # most rows and columns that the mean is taken over
_MAX_SHIFT, _MAX_STRETCH, _MAX_TILT = 1 << 30, 64, 4  # in steps; in units; in units
_AT_ONCE = 1 << 19  # about so many pixels are warped at once, to bound memory

_START = [1 + int(256 * 0.55 ** abs(x)) for x in range(-2 * LIMIT, 2 * LIMIT + 1)]  # counts before the first vector
_INCREMENT = 24
_CHECK = struct.Struct("<I")


class Transform(NamedTuple):
    """Global motion of (y, x), in pixels.

    To (y + yy y + yx x + down, x + xy y + xx x + right) / (1 + tilt_y y + tilt_x x).

    The numbers are integers: down and right in 1/`STEPS` pixel, the next four in units of 2^-bits, the last two in
    units of 2^-(2 bits - 6), where `bits` follow from the picture's size: a step of any number moves no pixel of the
    picture by more than about 1/64 pixel.
    """

    down: int = 0
    right: int = 0
    yy: int = 0
    yx: int = 0
    xy: int = 0
    xx: int = 0
    tilt_y: int = 0
    tilt_x: int = 0

    @staticmethod
    def bits(height: int, width: int) -> int:
        """Return the fractional bits of the factors, for a picture of this size: 6 to 26."""
        return 6 + (max(height, width) - 1).bit_length()

    @classmethod
    def nearest(cls, matrix: NDArray[np.float64], height: int, width: int) -> "Transform | None":
        """Return the transform nearest to a 3x3 matrix for (x, y, 1); None for one that is out of range."""
        bits = cls.bits(height, width)
        if not np.isfinite(matrix).all() or abs(matrix[2, 2]) < 1e-9:
            return None
        (xx, xy, right), (yx, yy, down), (tilt_x, tilt_y, _) = (matrix / matrix[2, 2]).tolist()
        units = STEPS, STEPS, *(1 << bits,) * 4, *(1 << 2 * bits - 6,) * 2
        numbers = down, right, yy - 1, yx, xy, xx - 1, tilt_y, tilt_x
        transform = cls(*(round(number * unit) for number, unit in zip(numbers, units, strict=True)))
        return transform if transform.in_range(height, width) else None

    def matrix(self, height: int, width: int) -> NDArray[np.float64]:
        """Return it as a 3x3 matrix for (x, y, 1), for a picture of this size."""
        one = 1 << self.bits(height, width)
        down, right = self.down / STEPS, self.right / STEPS
        tilt = one * one / STEPS
        return np.array(
            [
                [1 + self.xx / one, self.xy / one, right],
                [self.yx / one, 1 + self.yy / one, down],
                [self.tilt_x / tilt, self.tilt_y / tilt, 1],
            ]
        )

    def in_range(self, height: int, width: int) -> bool:
        """Return whether no sum in `applied` exceeds 63 bits."""
        one = 1 << self.bits(height, width)
        limits = _MAX_SHIFT, _MAX_SHIFT, *(_MAX_STRETCH * one,) * 4, *(_MAX_TILT * one,) * 2
        return all(abs(number) <= limit for number, limit in zip(self, limits, strict=True))

    def applied(self, y: Integers, x: Integers, bits: int) -> tuple[Integers, Integers]:
        """Apply it to coordinates in quarters of a pixel, below 2^22 + `LIMIT`.

        A factor is at most 2^32, so products stay below 2^55, and shifts below 2^52.
        """
        one = 1 << bits
        to_y = (one + self.yy) * y + self.yx * x + (self.down << bits - 4)
        to_x = (one + self.xx) * x + self.xy * y + (self.right << bits - 4)
        if not self.tilt_y and not self.tilt_x:
            return (to_y + one // 2) >> bits, (to_x + one // 2) >> bits
        depth = np.maximum(one + ((self.tilt_y * y + self.tilt_x * x) >> bits - 4), one >> 4)
        return (to_y + depth // 2) // depth, (to_x + depth // 2) // depth

    @property
    def pairs(self) -> int:
        """Pairs of numbers that determine it: 0, 1 (shift), 2 (similarity), 3 (affine transform) or 4 (homography)."""
        models = [self[:0], self[:2], (*self[:4], -self.yx, self.yy), self[:6], self[:8]]
        return next(count for count, numbers in enumerate(models) if self == Transform(*numbers))


IDENTITY = Transform()


class GainOffset(NamedTuple):
    """Radiometric gain and offset of a band of the reference: gain / `GAIN` times the sample, plus the offset."""

    gain: int = GAIN
    offset: int = 0  # levels


class Alignment(NamedTuple):
    """A warp: a pixel of the target is displaced by its motion vector, then taken to the reference by the transform."""

    height: int  # of the target, in pixels
    width: int
    factor: int  # side in pixels of the squares that the reference is averaged over first; 1..`MAX_FACTOR`
    transform: Transform  # global motion, from the target to the averaged reference
    motion: MotionVectors
    radiometry: tuple[GainOffset, ...] | None = None  # of each band; None leaves samples as they are
    check: int = 0  # `checksum` of the warped reference

    @property
    def does_nothing(self) -> bool:
        """Whether it is the identity for a reference of the target's size."""
        still = self.factor == 1 and self.transform == IDENTITY and not self.motion.any()
        return still and self.radiometry is None


def grid(height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of blocks."""
    return -(-height // BLOCK), -(-width // BLOCK)


def still(height: int, width: int) -> Alignment:
    """Return the identity for a picture of this size."""
    return Alignment(height, width, 1, IDENTITY, np.zeros((*grid(height, width), 2), np.int16))


def apply(reference: Image, alignment: Alignment | None, box: Box | None = None) -> Image:
    """Return the reference warped onto the target's grid; no alignment leaves it as it is.

    Args:
        reference: of 8 or 16 bits and any size.
        alignment: with `radiometry` for each band of the reference, or none.
        box: warps only this part of the target's grid, cut to the picture; pixels equal those of the whole.

    Raises:
        ValueError: the box does not overlap the picture.
    """
    size = (reference.height, reference.width) if alignment is None else alignment[:2]
    whole = Box(0, 0, *size)
    part = (box or whole).overlap(whole)
    if part is None:
        raise ValueError(f"{box} is outside the picture")
    if alignment is None:
        return reference if part == whole else Image(reference.pixels[part.slices])
    warped = np.empty((part.height, part.width, *reference.pixels.shape[2:]), reference.pixels.dtype)
    rows = max(1, _AT_ONCE // part.width)
    for top in range(part.top, part.bottom, rows):
        strip = Box(top, part.left, min(top + rows, part.bottom), part.right)
        warped[strip.within(part).slices] = _warped(reference.pixels, alignment, strip)
    return Image(warped)


def _warped(pixels: NDArray[np.uint8], alignment: Alignment, part: Box) -> Integers:
    """Return a part of the warped reference [h, w, bands]."""
    ys, xs = np.arange(part.top, part.bottom), np.arange(part.left, part.right)
    field = interpolated(alignment.motion, ys, xs)
    y, x = alignment.transform.applied(
        4 * ys[:, None] + field[..., 0], 4 * xs + field[..., 1], Transform.bits(*alignment[:2])
    )
    (row, down), (column, right) = np.divmod(y, 4), np.divmod(x, 4)
    last_row, last_column = (-(-side // alignment.factor) - 1 for side in pixels.shape[:2])
    rows, columns = np.clip(row, 0, last_row), np.clip(column, 0, last_column)
    below, beside = np.clip(row + 1, 0, last_row), np.clip(column + 1, 0, last_column)
    needed = Box(int(rows.min()), int(columns.min()), int(below.max()) + 1, int(beside.max()) + 1)
    cells = averaged(pixels, alignment.factor, needed)
    total = np.zeros((*row.shape, pixels.shape[2]), np.int64)  # bilinear interpolation, in sixteenths
    for from_row, weight_y in ((rows, 4 - down), (below, down)):
        for from_column, weight_x in ((columns, 4 - right), (beside, right)):
            total += (weight_y * weight_x)[..., None] * cells[from_row - needed.top, from_column - needed.left]
    beyond = np.maximum(np.maximum(-y, y - 4 * last_row), np.maximum(-x, x - 4 * last_column))
    if (beyond > 0).any():
        near = np.clip(FADE - beyond, 0, FADE)[..., None]
        total = (near * total + 16 * (FADE - near) * _mean(pixels) + FADE // 2) // FADE
    if alignment.radiometry is None:
        return (total + 8) >> 4
    gains, offsets = np.array(alignment.radiometry, np.int64).T
    adjusted: Integers = (gains * total + 16 * GAIN * offsets + 8 * GAIN) // (16 * GAIN)
    return np.clip(adjusted, 0, np.iinfo(pixels.dtype).max)


def _mean(pixels: NDArray[np.uint8]) -> Integers:
    """Return the mean of each band, rounded down, over every n-th row and column."""
    step = -(-max(pixels.shape[:2]) // _MEAN_SAMPLES)
    samples = pixels[::step, ::step].reshape(-1, pixels.shape[2])
    return np.asarray(samples.sum(axis=0, dtype=np.int64) // len(samples))


def averaged(pixels: NDArray[np.uint8], factor: int, part: Box) -> NDArray[np.uint8]:
    """Return a part of a picture whose sides are divided by a whole factor: rounded means of squares of pixels.

    Beyond the picture its last row and column are repeated.
    """
    if factor == 1:
        return pixels[part.slices]
    height, width = pixels.shape[:2]
    fine = Box(*(factor * side for side in part))
    cut = pixels[fine.slices]
    if fine.bottom > height or fine.right > width:
        cut = np.pad(cut, ((0, max(0, fine.bottom - height)), (0, max(0, fine.right - width)), (0, 0)), "edge")
    sums = cut.reshape(part.height, factor, part.width, factor, -1).sum(axis=(1, 3), dtype=np.int64)
    return np.asarray((2 * sums + factor**2) // (2 * factor**2), pixels.dtype)


def interpolated(vectors: MotionVectors, ys: Integers, xs: Integers) -> Integers:
    """Return vectors [y, x, n] of pixels, interpolated bilinearly between centres of blocks, rounded half up.

    Args:
        vectors: of the blocks, [rows, columns, n].
        ys: rows of pixels.
        xs: columns of pixels.
    """

    def along(axis: Integers, blocks: int) -> tuple[Integers, ...]:
        first, part = np.divmod(2 * axis + 1 - BLOCK, 2 * BLOCK)
        return np.clip(first, 0, blocks - 1), np.clip(first + 1, 0, blocks - 1), part

    (top, bottom, down), (left, right, across) = along(ys, vectors.shape[0]), along(xs, vectors.shape[1])
    v, side = vectors.astype(np.int64), 2 * BLOCK
    rows = (side - down)[:, None, None] * v[top] + down[:, None, None] * v[bottom]
    cells = (side - across)[:, None] * rows[:, left] + across[:, None] * rows[:, right]
    return np.asarray((2 * cells + side * side) // (2 * side * side))


def checksum(warped: Image, place: Box | None = None) -> int:
    """Return the sum, modulo 2^32, of the CRC-32s of the squares of `tiles.STEP` pixels a side in a warped reference.

    Each is taken over row and column of its first pixel (u32) and its samples. So the sums of parts add up to that of
    the whole, if the parts' edges lie on multiples of `tiles.STEP`.

    Args:
        warped: the warped reference, or a part.
        place: the box of the part in the whole.
    """
    total, side = 0, tiles.STEP
    top, left = (0, 0) if place is None else place[:2]
    for y in range(0, warped.height, side):
        for x in range(0, warped.width, side):
            square = warped.pixels[y : y + side, x : x + side]
            square = np.ascontiguousarray(square, square.dtype.newbyteorder("<"))
            total += zlib.crc32(square.data, zlib.crc32(struct.pack("<II", top + y, left + x)))
    return total & 0xFFFFFFFF


class Statistics:
    """Adaptive counts of the differences of motion vectors from their prediction, in three contexts.

    The context is how much the neighbours differ: not at all, by up to 3 quarters of a pixel, or by more.
    """

    def __init__(self) -> None:
        """Start with counts that fall off geometrically from zero."""
        self.counts = np.array([_START] * 3, np.int64)

    def expected(self, vectors: MotionVectors, row: int, column: int, part: int) -> tuple[int, int]:
        """Return the median of the left, upper and upper right neighbour, and the context."""
        plane = vectors[..., part]
        up = plane[row - 1] if row else np.zeros_like(plane[0])
        around = [
            int(plane[row, column - 1]) if column else int(up[column]),
            int(up[column]),
            int(up[min(column + 1, len(up) - 1)]),
        ]
        apart = max(around) - min(around)
        return sorted(around)[1], 0 if apart == 0 else 1 if apart <= 3 else 2

    def probabilities(self, context: int) -> NDArray[np.float64]:
        """Return the probability of each difference, from -2 `LIMIT` to 2 `LIMIT`."""
        return np.asarray(self.counts[context] / self.counts[context].sum())

    def update(self, context: int, symbol: int) -> None:
        """Count a difference, given as its index from -2 `LIMIT` on."""
        self.counts[context, symbol] += _INCREMENT


def pack(alignment: Alignment) -> bytes:
    """Return an alignment as bytes, without the picture's size, which the file's header holds.

    Raises:
        ValueError: a motion vector is out of range.
    """
    if alignment.motion.min() < -LIMIT or alignment.motion.max() > LIMIT:
        raise ValueError(f"motion vectors must be within -{LIMIT}..{LIMIT}")
    coder = Encoder()
    code(alignment, 0 if alignment.radiometry is None else len(alignment.radiometry), coder)
    return _CHECK.pack(alignment.check) + coder.payload()


def with_check(payload: bytes, check: int) -> bytes:
    """Return what `pack` returns for the same alignment with another checksum."""
    return _CHECK.pack(check) + payload[_CHECK.size :]


def unpack(payload: bytes, height: int, width: int, bands: int = 3) -> Alignment:
    """Return the alignment in a payload.

    Args:
        payload: of `pack`.
        height: of the picture, in pixels.
        width: likewise.
        bands: of the reference.

    Raises:
        ContainerError: the payload holds none.
    """
    alignment = code(still(height, width), bands, Decoder(payload[_CHECK.size :], "the alignment"))
    alignment = alignment._replace(check=_CHECK.unpack_from(payload)[0])
    if not alignment.transform.in_range(height, width) or pack(alignment) != payload:
        raise ContainerError("the alignment is damaged: nothing is coded like that")
    return alignment


def code(source: Alignment, bands: int, coder: Coder) -> Alignment:
    """Encode or decode an alignment, with the same steps for both.

    Args:
        source: the alignment to encode; for decoding, any alignment of the target's size.
        bands: of the reference.
        coder: either end.

    Returns:
        The alignment without its checksum.
    """
    factor = 1 + coder.uniform(MAX_FACTOR, source.factor - 1)
    pairs = coder.uniform(5, source.transform.pairs)
    numbers = [coder.signed(number) for number in source.transform[: 2 * pairs]]
    if pairs == 2:  # a similarity
        numbers += [-numbers[3], numbers[2]]
    radiometry = None
    if coder.bit(int(source.radiometry is not None)):
        radiometry = tuple(
            GainOffset(GAIN + coder.signed(gain - GAIN), coder.signed(offset))
            for gain, offset in source.radiometry or (GainOffset(),) * bands
        )
    vectors = source.motion
    if coder.bit(int(vectors.any())):
        vectors = _code_vectors(vectors, coder)
    return Alignment(source.height, source.width, factor, Transform(*numbers), vectors, radiometry)


def _code_vectors(source: MotionVectors, coder: Coder) -> MotionVectors:
    """Encode or decode motion vectors, block by block, see `code`."""
    vectors, statistics = np.zeros_like(source), Statistics()
    for row, column, part in np.ndindex(vectors.shape):
        middle, context = statistics.expected(vectors, row, column, part)
        wanted = np.array([int(source[row, column, part]) - middle + 2 * LIMIT], np.int32)
        symbol = int(coder.symbols(statistics.probabilities(context)[None], wanted)[0])
        statistics.update(context, symbol)
        component = middle + symbol - 2 * LIMIT
        if abs(component) > LIMIT:
            raise ContainerError("the alignment is damaged: a motion vector is out of range")
        vectors[row, column, part] = component
    return vectors
