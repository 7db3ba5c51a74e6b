"""A reference that lies elsewhere is found and moved, both sides move it alike, and vectors come back as they were."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refscale_codec import align, data, image
from refscale_codec.errors import ContainerError
from refscale_codec.image import Image

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def target() -> Image:
    return image.read(ROOT / "examples" / "target.png")


def shifted(picture: Image, down: int, right: int) -> Image:
    """The picture's content moved down and right, its border repeated."""
    ys, xs = np.arange(picture.height) - down, np.arange(picture.width) - right
    cells = np.ix_(ys.clip(0, picture.height - 1), xs.clip(0, picture.width - 1))
    return Image(np.ascontiguousarray(picture.pixels[cells]))


def constant(down: int, right: int, height: int = 512, width: int = 512) -> align.Vectors:
    return np.full((*align.grid(height, width), 2), (down, right), np.int16)


@pytest.mark.parametrize(("down", "right"), [(3, -2), (0, 5), (-7, 0)])
def test_a_shift_is_found_and_undone(target: Image, down: int, right: int) -> None:
    reference = shifted(target, down, right)
    vectors = align.estimate(target, reference)
    assert vectors is not None
    inner = vectors[1:-1, 1:-1]
    assert (abs(inner - [4 * down, 4 * right]) <= 1).mean() > 0.9
    moved = align.move(reference, vectors)
    away = [np.abs(x.pixels.astype(int) - target.pixels)[16:-16, 16:-16].mean() for x in (reference, moved)]
    assert away[1] < 0.2 * away[0]


def test_a_shift_is_found_under_other_light(target: Image) -> None:
    darker = Image((shifted(target, 4, 4).pixels * 0.6 + 20).astype(np.uint8))
    vectors = align.estimate(target, darker)
    assert vectors is not None
    assert (abs(vectors[1:-1, 1:-1] - 16) <= 1).mean() > 0.8


def test_what_lies_in_place_gets_no_vectors(target: Image) -> None:
    assert align.estimate(target, target) is None
    assert align.estimate(target, Image((target.pixels * 0.7 + 10).astype(np.uint8))) is None


@pytest.mark.parametrize(("height", "width"), [(1, 1), (31, 400), (8, 8)])
def test_small_pictures_are_left_where_they_are(height: int, width: int) -> None:
    picture = Image(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    assert align.estimate(picture, shifted(picture, 1, 1)) is None


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 65), (64, 300)])
def test_flat_and_odd_pictures_are_no_problem(height: int, width: int) -> None:
    flat = Image(np.full((height, width, 3), 90, np.uint8))
    noise = Image(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    assert align.estimate(flat, flat) is None
    for vectors in (align.estimate(flat, noise), align.estimate(noise, flat), align.estimate(noise, noise)):
        assert vectors is None or vectors.shape == (*align.grid(height, width), 2)


def test_whole_pixels_are_copied(target: Image) -> None:
    moved = align.move(target, constant(12, -8))
    assert np.array_equal(moved.pixels, shifted(target, -3, 2).pixels)
    assert align.move(target, None) is target


def test_parts_of_a_pixel_are_rounded_half_up() -> None:
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, ::2] = 101
    moved = align.move(Image(pixels), constant(0, 2, 32, 64))
    assert np.array_equal(moved.pixels[:, :63], np.full((32, 63, 3), 51))  # 50.5
    assert np.array_equal(align.move(Image(pixels), constant(0, 1, 32, 64)).pixels[0, :2, 0], [76, 25])  # 75.75, 25.25


def test_vectors_are_interpolated_between_the_centres_of_blocks() -> None:
    ramp = np.repeat(np.arange(128, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    vectors = np.zeros((1, 2, 2), np.int16)
    vectors[0, 1, 1] = 32  # 8 pixels, at column 95.5
    moved = align.move(Image(np.ascontiguousarray(ramp)), vectors).pixels[0, :, 0].astype(int) - np.arange(128)
    assert (moved[:31] == 0).all()
    assert (moved[96:119] == 8).all()
    assert (np.diff(moved[31:96]) >= 0).all()
    assert abs(moved[63] - 4) <= 1


vectors_of = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 64]))


@given(made=vectors_of)
@settings(deadline=None)
def test_vectors_come_back(made: tuple[int, int, int, int]) -> None:
    rows, columns, seed, largest = made
    vectors = np.random.default_rng(seed).integers(-largest, largest + 1, (rows, columns, 2)).astype(np.int16)
    vectors[0, 0, 0] = 1
    payload = align.pack(vectors)
    assert np.array_equal(align.unpack(payload, rows * align.BLOCK - 5, columns * align.BLOCK), vectors)


def test_golden_bytes() -> None:
    vectors = (np.arange(3 * 4 * 2).reshape(3, 4, 2) * 37 % 23 - 11).astype(np.int16)
    assert align.pack(vectors).hex() == GOLDEN
    assert np.array_equal(align.unpack(bytes.fromhex(GOLDEN), 150, 256), vectors)


GOLDEN = "e07fc31a1ab50cd4c3962dc5ca3af53d2fc3cec8"


def test_even_vectors_cost_little() -> None:
    assert len(align.pack(constant(9, -6, 1024, 1024))) <= 36


@given(draws=st.data())
@settings(deadline=None)
def test_a_damaged_payload_is_an_error_or_other_vectors(draws: st.DataObject) -> None:
    payload = bytearray(align.pack(constant(9, -6, 300, 300)))
    for _ in range(draws.draw(st.integers(1, 3))):
        payload[draws.draw(st.integers(0, len(payload) - 1))] = draws.draw(st.integers(0, 255))
    cut = bytes(payload[: draws.draw(st.integers(0, len(payload)))])
    for broken in (bytes(payload), cut, bytes(payload) + bytes(4)):
        try:
            found = align.unpack(broken, 300, 300)
        except ContainerError:
            continue
        assert align.pack(found) == broken


def test_vectors_of_zero_are_refused() -> None:
    with pytest.raises(ContainerError, match="alignment"):
        align.unpack(align.pack(np.zeros((2, 2, 2), np.int16)), 128, 128)


def test_a_real_pair_is_aligned(data_folder: Path) -> None:
    pairs = [pair for pair in data.read_manifest(data_folder / "manifest.csv", ("dev",)) if pair.dataset == "oscd"]
    for pair in pairs:
        assert pair.reference is not None
        target, reference = image.read(pair.target), image.read(pair.reference)
        vectors = align.estimate(target, reference)
        moved = align.move(reference, vectors)
        errors = [np.square(x.pixels.astype(float) - target.pixels).mean() for x in (reference, moved)]
        assert errors[1] < 0.97 * errors[0]
