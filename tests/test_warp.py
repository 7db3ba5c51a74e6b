"""Both sides move a reference alike, as the format says, and an alignment comes back from its bytes as it was."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.tiles import Box
from refscale_codec.rangecoder import Encoder
from refscale_codec.reference import warp
from refscale_codec.reference.warp import Alignment, GainOffset, Transform

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def target() -> Image:
    return pictures.read(ROOT / "examples" / "target.png")


def constant(down: int, right: int, height: int = 512, width: int = 512) -> Alignment:
    vectors = np.full((*warp.grid(height, width), 2), (down, right), np.int16)
    return warp.still(height, width)._replace(motion=vectors)


@st.composite
def alignments(draw: st.DrawFn, largest: int = 200) -> Alignment:
    """Any alignment that is in range, often with few numbers that are not zero."""
    height, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    one = 1 << Transform.bits(height, width)
    limits = [1 << 30] * 2 + [64 * one] * 4 + [4 * one] * 2
    pairs = draw(st.integers(0, 4))
    near = [min(300, limit) for limit in limits]
    numbers = [
        draw(st.integers(-x, x) | st.integers(-y, y)) for x, y in list(zip(near, limits, strict=True))[: 2 * pairs]
    ]
    if pairs == 2:
        numbers += [-numbers[3], numbers[2]]
    rng, reach = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.sampled_from([0, 1, 5, 64]))
    vectors = rng.integers(-reach, reach + 1, (*warp.grid(height, width), 2)).astype(np.int16)
    tones = draw(st.none() | st.tuples(*[st.builds(GainOffset, st.integers(0, 600), st.integers(-300, 300))] * 3))
    factor, check = draw(st.integers(1, 64)), draw(st.integers(0, 2**32 - 1))
    return Alignment(height, width, factor, Transform(*numbers), vectors, tones, check)


# --- moving ----------------------------------------------------------------------------------------------------------


def test_whole_pixels_are_copied(target: Image) -> None:
    moved = warp.apply(target, constant(12, -8))
    assert np.array_equal(moved.pixels[:-3, 2:], target.pixels[3:, :-2])
    assert warp.apply(target, None) is target


@settings(max_examples=30, deadline=None)
@given(draws=st.data(), alignment=alignments())
def test_a_part_is_moved_as_the_whole_is(draws: st.DataObject, alignment: Alignment) -> None:
    height, width = alignment[:2]
    rng = np.random.default_rng(draws.draw(st.integers(0, 99)))
    reference = Image(rng.integers(0, 256, (*rng.integers(1, 150, 2), 3), dtype=np.uint8))
    whole = warp.apply(reference, alignment)
    assert (whole.height, whole.width) == (height, width)
    top, left = draws.draw(st.integers(0, height - 1)), draws.draw(st.integers(0, width - 1))
    box = Box(top, left, draws.draw(st.integers(top + 1, height + 3)), draws.draw(st.integers(left + 1, width + 3)))
    assert np.array_equal(warp.apply(reference, alignment, box).pixels, whole.pixels[box.slices])


def test_what_the_reference_does_not_show_fades_to_its_mean() -> None:
    pixels = np.full((40, 300, 3), 200, np.uint8)
    pixels[:, 0] = 100
    pixels[:, 1] = 7  # the mean is over every other row and column, so without these
    moved = warp.apply(Image(pixels), warp.still(40, 300)._replace(transform=Transform(right=-20 * 64)))
    assert np.array_equal(moved.pixels[5, 20:, 0], pixels[5, :-20, 0])
    mean = (149 * 200 + 100) // 150
    assert np.allclose(moved.pixels[5, 12:20, 0], 100 + (mean - 100) * np.arange(8, 0, -1) / 8, atol=0.51)
    assert (moved.pixels[:, :12] == mean).all()


def test_parts_of_a_pixel_are_rounded_half_up() -> None:
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, ::2] = 101
    moved = warp.apply(Image(pixels), constant(0, 2, 32, 64))
    assert np.array_equal(moved.pixels[:, :63], np.full((32, 63, 3), 51))  # 50.5
    assert np.array_equal(warp.apply(Image(pixels), constant(0, 1, 32, 64)).pixels[0, :2, 0], [76, 25])  # 75.75, 25.25


def test_vectors_are_interpolated_between_the_centres_of_blocks() -> None:
    ramp = np.repeat(np.arange(128, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    vectors = np.zeros((1, 2, 2), np.int16)
    vectors[0, 1, 1] = 32  # 8 pixels, at column 95.5
    moved = warp.apply(Image(np.ascontiguousarray(ramp)), warp.still(64, 128)._replace(motion=vectors))
    away = moved.pixels[0, :, 0].astype(int) - np.arange(128)
    assert (away[:31] == 0).all()
    assert (away[96:119] == 8).all()
    assert (np.diff(away[31:96]) >= 0).all()
    assert abs(away[63] - 4) <= 1


@settings(max_examples=30, deadline=None)
@given(draws=st.data(), alignment=alignments())
def test_pixels_are_moved_as_the_format_says(draws: st.DataObject, alignment: Alignment) -> None:
    height, width = alignment[:2]
    rng = np.random.default_rng(draws.draw(st.integers(0, 99)))
    pixels = rng.integers(0, 256, (*rng.integers(1, 150, 2), 3), dtype=np.uint8)
    moved = warp.apply(Image(pixels), alignment).pixels
    for y, x in [(0, 0), (height - 1, width - 1), (height // 2, width // 3)]:
        assert moved[y, x].tolist() == by_hand(pixels, alignment, y, x)


@pytest.mark.parametrize("height", [1 << 20, 381])
def test_sums_fit_63_bits_in_the_largest_picture(height: int) -> None:
    width = 400_000_000 // height
    one = 1 << Transform.bits(height, width)
    extreme = Transform(1 << 30, 1 << 30, *[64 * one] * 4, 4 * one, 4 * one)
    y, x = height - 1, width - 1
    places = extreme.applied(np.array([4 * y + 64]), np.array([4 * x + 64]), Transform.bits(height, width))
    expected = placed_by_hand(extreme, 4 * y + 64, 4 * x + 64, Transform.bits(height, width))
    assert (int(places[0][0]), int(places[1][0])) == expected


def placed_by_hand(transform: Transform, y: int, x: int, bits: int) -> tuple[int, int]:
    """Where a place in quarters of a pixel lies, in Python's integers, after docs/FORMAT.md."""
    down, right, yy, yx, xy, xx, tilt_y, tilt_x = transform
    one = 2**bits
    depth = max(one + (tilt_y * y + tilt_x * x) // 2 ** (bits - 4), one // 16)
    to = (one + yy) * y + yx * x + down * 2 ** (bits - 4), xy * y + (one + xx) * x + right * 2 ** (bits - 4)
    return (to[0] + depth // 2) // depth, (to[1] + depth // 2) // depth


def by_hand(pixels: NDArray[np.uint8] | NDArray[np.uint16], found: Alignment, y: int, x: int) -> list[int]:
    """One sample of a warped reference, in Python's integers, after docs/FORMAT.md."""
    (i, f), (j, g) = divmod(2 * y - 63, 128), divmod(2 * x - 63, 128)
    rows, columns = found.motion.shape[:2]
    led = []
    for part, place in ((0, y), (1, x)):
        total = 0
        for row, weight in ((i, 128 - f), (i + 1, f)):
            for column, share in ((j, 128 - g), (j + 1, g)):
                v = found.motion[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1), part]
                total += weight * share * int(v)
        led.append(4 * place + (2 * total + 16384) // 32768)
    to = placed_by_hand(found.transform, led[0], led[1], 6 + (max(found.height, found.width) - 1).bit_length())
    (r, m), (c, n) = divmod(to[0], 4), divmod(to[1], 4)
    k = found.factor
    height, width = pixels.shape[:2]

    def p(row: int, column: int) -> list[int]:
        row, column = min(max(row, 0), -(-height // k) - 1), min(max(column, 0), -(-width // k) - 1)
        square = np.ix_(
            *([min(k * at + i, side - 1) for i in range(k)] for at, side in ((row, height), (column, width)))
        )
        return [(2 * int(v) + k * k) // (2 * k * k) for v in pixels[square].sum(axis=(0, 1), dtype=int)]

    near = p(r, c), p(r, c + 1), p(r + 1, c), p(r + 1, c + 1)
    weights = (4 - m) * (4 - n), (4 - m) * n, m * (4 - n), m * n
    sums = [sum(w * v[k] for w, v in zip(weights, near, strict=True)) for k in range(3)]
    step, last = -(-max(height, width) // 256), (-(-height // k) - 1, -(-width // k) - 1)
    looks = pixels[::step, ::step].reshape(-1, 3).astype(int)
    beyond = max(0, *(max(-at, at - 4 * end) for at, end in zip(to, last, strict=True)))
    shown = max(0, 32 - beyond)
    sums = [
        (shown * v + 16 * (32 - shown) * (int(m) // len(looks)) + 16) // 32
        for v, m in zip(sums, looks.sum(0), strict=True)
    ]
    tones = found.radiometry or (GainOffset(),) * 3
    toned = [(g * v + 4096 * o + 2048) // 4096 for v, (g, o) in zip(sums, tones, strict=True)]
    return [min(max(v, 0), int(np.iinfo(pixels.dtype).max)) for v in toned]


# --- the proof -------------------------------------------------------------------------------------------------------


@given(rows=st.sets(st.integers(0, 5)), columns=st.sets(st.integers(0, 7)))
@settings(max_examples=20, deadline=None)
def test_checksums_of_parts_add_up(rows: set[int], columns: set[int]) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (90, 117, 3), dtype=np.uint8)
    ys, xs = (sorted({0, end} | {16 * at for at in cuts}) for cuts, end in ((rows, 90), (columns, 117)))
    total = 0
    for top, bottom in zip(ys, ys[1:], strict=False):
        for left, right in zip(xs, xs[1:], strict=False):
            box = Box(top, left, bottom, right)
            total += warp.checksum(Image(np.ascontiguousarray(pixels[box.slices])), box)
    assert total % 2**32 == warp.checksum(Image(pixels))


def test_a_checksum_knows_every_pixel_and_its_place() -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[3, 3] = 9
    found = {warp.checksum(Image(pixels))}
    for y, x in [(0, 0), (39, 39), (20, 17)]:
        other = pixels.copy()
        other[y, x, 1] += 1
        found.add(warp.checksum(Image(other)))
    found.add(warp.checksum(Image(np.roll(pixels, 16, axis=0))))
    assert len(found) == 5
    assert warp.checksum(Image(np.zeros((1, 1, 3), np.uint8))) == 0x6B87B1EC


# --- bytes -----------------------------------------------------------------------------------------------------------


@given(made=alignments(1000))
@settings(deadline=None)
def test_an_alignment_comes_back(made: Alignment) -> None:
    found = warp.unpack(warp.pack(made), made.height, made.width)
    assert found._replace(motion=made.motion) == made
    assert np.array_equal(found.motion, made.motion)


def test_golden_bytes() -> None:
    vectors = (np.arange(3 * 4 * 2).reshape(3, 4, 2) * 37 % 23 - 11).astype(np.int16)
    bent = Transform(-700, 3, 12, -345, 6, 7, -8, 60_000)
    tones = GainOffset(300, -9), GainOffset(255, 0), GainOffset(256, 1000)
    whole = Alignment(150, 256, 3, bent, vectors, tones, 0x01020304)
    turned = warp.still(150, 256)._replace(transform=Transform(-700, 3, 12, -345, 345, 12))
    for made, golden in ((whole, GOLDEN), (turned, GOLDEN_TURN), (constant(8, 0, 150, 256), GOLDEN_SHIFT)):
        assert warp.pack(made).hex() == golden
        found = warp.unpack(bytes.fromhex(golden), 150, 256)
        assert found._replace(motion=made.motion) == made
        assert np.array_equal(found.motion, made.motion)


GOLDEN = "04030201c34c340b5ae7f398d9851f17e480cfe8e723b2a4699cae84a8af8d3f564cfa4eb9b384ed6264b184"
GOLDEN_TURN = "000000002bb39a01bc4c6294"
GOLDEN_SHIFT = "0000000051d86000825934062d1b1ef8"


def test_little_is_written_for_little() -> None:
    assert len(warp.pack(warp.still(1024, 1024)._replace(transform=Transform(2560, 0)))) == 12
    assert len(warp.pack(constant(9, -6, 1024, 1024))) <= 44


@given(draws=st.data())
@settings(deadline=None)
def test_a_damaged_payload_is_an_error_or_another_alignment(draws: st.DataObject) -> None:
    payload = bytearray(warp.pack(draws.draw(alignments(300))))
    for _ in range(draws.draw(st.integers(1, 3))):
        payload[draws.draw(st.integers(0, len(payload) - 1))] = draws.draw(st.integers(0, 255))
    cut = bytes(payload[: draws.draw(st.integers(0, len(payload)))])
    for broken in (bytes(payload), cut, bytes(payload) + bytes(4)):
        try:
            found = warp.unpack(broken, 300, 300)
        except ContainerError:
            continue
        assert warp.pack(found) == broken
        assert found.transform.in_range(300, 300)


@pytest.mark.parametrize("bent", [Transform(xx=-(65 << 15)), Transform(down=1 << 31), Transform(tilt_x=5 << 15)])
def test_what_would_leave_the_range_is_refused(bent: Transform) -> None:
    with pytest.raises(ContainerError, match="alignment"):
        warp.unpack(warp.pack(warp.still(300, 300)._replace(transform=bent)), 300, 300)


@pytest.mark.parametrize("vector", [warp.LIMIT + 1, -warp.LIMIT - 1, 32_767, -32_768])
def test_motion_vectors_out_of_range_are_not_coded(vector: int) -> None:
    with pytest.raises(ValueError, match="within -64..64"):
        warp.pack(warp.still(70, 70)._replace(motion=np.full((2, 2, 2), vector, np.int16)))


def test_motion_vectors_that_run_away_are_refused() -> None:
    coder, statistics = Encoder(), warp.Statistics()
    for size, value in ((warp.MAX_FACTOR, 0), (5, 0), (2, 0), (2, 1)):
        coder.uniform(size, value)
    vectors = np.zeros((1, 300, 2), np.int64)
    for column in range(300):  # each 128 quarters of a pixel further down than the one before
        for part, further in ((0, 2 * warp.LIMIT), (1, 0)):
            middle, context = statistics.expected(vectors, 0, column, part)
            symbol = further + 2 * warp.LIMIT
            coder.symbols(statistics.probabilities(context)[None], np.array([symbol], np.int32))
            statistics.update(context, symbol)
            vectors[0, column, part] = middle + further
    with pytest.raises(ContainerError, match="a motion vector is out of range"):
        warp.unpack(bytes(4) + coder.payload(), warp.BLOCK, 300 * warp.BLOCK)


def test_a_wild_matrix_has_no_transform() -> None:
    for matrix in (np.diag([100.0, 1, 1]), np.diag([1.0, 1, 0]), np.full((3, 3), np.nan)):
        assert Transform.nearest(matrix, 300, 300) is None


@given(made=alignments(1000))
def test_a_transform_is_nearest_to_its_own_matrix(made: Alignment) -> None:
    size = made.height, made.width
    assert Transform.nearest(made.transform.matrix(*size), *size) == made.transform


def test_samples_of_16_bits_are_moved_alike() -> None:
    rng = np.random.default_rng(8)
    deep = SimpleNamespace(pixels=rng.integers(0, 65536, (50, 60, 3), dtype=np.uint16), height=50, width=60)
    tones = (GainOffset(300, 700), GainOffset(200, -30_000), GainOffset(256, 0))
    alignment = warp.still(40, 70)._replace(transform=Transform(-130, 77, tilt_x=300), radiometry=tones, factor=2)
    moved = warp._warped(deep.pixels, alignment, Box(0, 0, 40, 70))
    for y, x in [(0, 0), (39, 69), (20, 5)]:
        assert moved[y, x].tolist() == by_hand(deep.pixels, alignment, y, x)


def test_what_is_moved_at_once_makes_no_difference(target: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    alignment = warp.still(300, 220)._replace(transform=Transform(100, -900, 30, -2000, 2000, 30), factor=2)
    whole = warp.apply(target, alignment)
    monkeypatch.setattr(warp, "_AT_ONCE", 1000)
    assert np.array_equal(warp.apply(target, alignment).pixels, whole.pixels)
