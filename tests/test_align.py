"""A reference that lies elsewhere is found and moved, both sides move it alike, and vectors come back as they were."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refscale_codec import align, data, image
from refscale_codec.errors import ContainerError
from refscale_codec.image import Image
from refscale_codec.tiles import Box

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def target() -> Image:
    return image.read(ROOT / "examples" / "target.png")


def shifted(picture: Image, down: int, right: int) -> Image:
    """The picture's content moved down and right, its border repeated."""
    ys, xs = np.arange(picture.height) - down, np.arange(picture.width) - right
    cells = np.ix_(ys.clip(0, picture.height - 1), xs.clip(0, picture.width - 1))
    return Image(np.ascontiguousarray(picture.pixels[cells]))


def constant(down: int, right: int, height: int = 512, width: int = 512) -> align.Alignment:
    return by_vectors(np.full((*align.grid(height, width), 2), (down, right), np.int16))


def by_vectors(vectors: align.Vectors) -> align.Alignment:
    return align.Alignment(align.IDENTITY, vectors)


def where(found: align.Alignment) -> NDArray[np.float64]:
    """Where the centres of a 512 x 512 picture's blocks lie in the reference, away from where they are, in pixels."""
    centres = np.stack(np.meshgrid(*[np.arange(8) * 64 + 31.5] * 2, indexing="ij"), axis=-1)
    y, x = np.moveaxis(centres + found.vectors / 4, -1, 0)
    right, down = np.moveaxis(np.stack([x, y, np.ones_like(x)], axis=-1) @ found.similarity.matrix().T, -1, 0)
    return np.stack([down, right], axis=-1) - centres


@pytest.mark.parametrize(("down", "right"), [(3, -2), (0, 5), (-7, 0), (40, -60)])
def test_a_shift_is_found_and_undone(target: Image, down: int, right: int) -> None:
    reference = shifted(target, down, right)
    found = align.estimate(target, reference)
    assert found is not None
    assert (abs(where(found)[1:-1, 1:-1] - [down, right]) <= 0.25).mean() > 0.9
    moved = align.move(reference, found)
    away = [np.abs(x.pixels.astype(int) - target.pixels)[64:-64, 64:-64].mean() for x in (reference, moved)]
    assert away[1] < 0.2 * away[0]


def test_a_shift_is_found_under_other_light(target: Image) -> None:
    darker = Image((shifted(target, 4, 4).pixels * 0.6 + 20).astype(np.uint8))
    found = align.estimate(target, darker)
    assert found is not None
    assert (abs(where(found)[1:-1, 1:-1] - 4) <= 0.25).mean() > 0.8


@pytest.mark.parametrize(("degrees", "scale"), [(3.0, 1.0), (-10.0, 1.0), (0.0, 1.03), (90.0, 1.0)])
def test_a_turn_and_a_scale_are_found_and_undone(target: Image, degrees: float, scale: float) -> None:
    matrix = cv2.getRotationMatrix2D((255.5, 255.5), degrees, scale)
    reference = Image(cv2.warpAffine(target.pixels, matrix, (512, 512), flags=cv2.INTER_CUBIC))
    found = align.estimate(target, reference)
    assert found is not None
    moved = align.move(reference, found)
    inner = np.s_[128:-128, 128:-128]
    away = [np.abs(x.pixels.astype(int) - target.pixels)[inner].mean() for x in (reference, moved)]
    assert away[1] < 0.3 * away[0]


def test_a_large_picture_is_sought_on_a_reduced_one(target: Image) -> None:
    large = Image(np.ascontiguousarray(np.kron(target.pixels, np.ones((3, 3, 1), np.uint8))))
    found = align.estimate(large, shifted(large, 100, -70))
    assert found is not None
    assert np.allclose(found.similarity.matrix(), [[1, 0, -70], [0, 1, 100]], atol=0.5)


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
    for found in (align.estimate(flat, noise), align.estimate(noise, flat), align.estimate(noise, noise)):
        assert found is None or found.vectors.shape == (*align.grid(height, width), 2)


def test_whole_pixels_are_copied(target: Image) -> None:
    moved = align.move(target, constant(12, -8))
    assert np.array_equal(moved.pixels, shifted(target, -3, 2).pixels)
    assert align.move(target, None) is target


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_part_is_moved_as_the_whole_is(data: st.DataObject) -> None:
    height, width = 70, 150
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    picture = Image(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    vectors = rng.integers(-64, 65, (*align.grid(height, width), 2)).astype(np.int16)
    similarity = align.Similarity(*(int(x) for x in rng.integers((align.ONE, -(1 << 20), -500, -500), align.ONE + 9)))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = Box(top, left, data.draw(st.integers(top + 1, height + 3)), data.draw(st.integers(left + 1, width + 3)))
    for alignment in (None, align.Alignment(similarity, vectors)):
        part = align.move(picture, alignment, box)
        assert np.array_equal(part.pixels, align.move(picture, alignment).pixels[box.slices])


def test_flow_in_tiles_finds_what_flow_in_one_piece_does(target: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = shifted(target, 3, -5)
    whole = align.estimate(target, moved)
    monkeypatch.setattr(align, "_FLOW_TILE", 256)
    tiled = align.estimate(target, moved)
    assert whole is not None
    assert tiled is not None
    assert abs(where(whole) - where(tiled)).mean() < 0.25


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
    moved = align.move(Image(np.ascontiguousarray(ramp)), by_vectors(vectors)).pixels[0, :, 0].astype(int) - np.arange(
        128
    )
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
    for similarity in (align.IDENTITY, align.Similarity(down=-7, right=seed % 9), align.Similarity(-5, 6, 7, -8)):
        for field in (vectors, 0 * vectors):
            made_of = align.Alignment(similarity, field)
            if similarity != align.IDENTITY or field.any():
                found = align.unpack(align.pack(made_of), rows * align.BLOCK - 5, columns * align.BLOCK)
                assert found.similarity == similarity
                assert np.array_equal(found.vectors, field)


def test_golden_bytes() -> None:
    vectors = (np.arange(3 * 4 * 2).reshape(3, 4, 2) * 37 % 23 - 11).astype(np.int16)
    assert align.pack(by_vectors(vectors)).hex() == GOLDEN
    similarity = align.Similarity(1, -2, 3, 1 << 20)
    for head, known in (("", align.IDENTITY), ("0401000000feffffff0300000000001000", similarity)):
        found = align.unpack(bytes.fromhex(head + GOLDEN), 150, 256)
        assert found.similarity == known
        assert np.array_equal(found.vectors, vectors)
    assert align.pack(align.Alignment(align.Similarity(down=-1), 0 * vectors)).hex() == "02ffffffff00000000"


GOLDEN = "e07fc31a1ab50cd4c3962dc5ca3af53d2fc3cec8"


def test_pixels_are_moved_as_the_format_says() -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (70, 100, 3), dtype=np.uint8)
    vectors = np.array([[[3, -9], [0, 5]], [[-2, 1], [64, -64]]], np.int16)
    found = align.Alignment(align.Similarity(16_000_000, -3_000_000, 130, -77), vectors)
    moved = align.move(Image(pixels), found).pixels
    for y, x in [(0, 0), (69, 99), (33, 50), (12, 71), (64, 5)]:
        assert moved[y, x].tolist() == by_hand(pixels, found, y, x)


def by_hand(pixels: NDArray[np.uint8], found: align.Alignment, y: int, x: int) -> list[int]:
    """One sample of a moved reference, in Python's integers, after docs/FORMAT.md."""
    (i, f), (j, g) = divmod(2 * y - 63, 128), divmod(2 * x - 63, 128)
    rows, columns = found.vectors.shape[:2]
    moved = []
    for part, place in ((0, y), (1, x)):
        total = 0
        for row, weight in ((i, 128 - f), (i + 1, f)):
            for column, share in ((j, 128 - g), (j + 1, g)):
                v = found.vectors[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1), part]
                total += weight * share * int(v)
        moved.append(4 * place + (2 * total + 16384) // 32768)
    along, across, down, right = found.similarity
    to = (
        (along * moved[0] + across * moved[1] + (down << 20) + (1 << 23)) >> 24,
        (along * moved[1] - across * moved[0] + (right << 20) + (1 << 23)) >> 24,
    )
    (r, a), (c, b) = divmod(to[0], 4), divmod(to[1], 4)

    def p(row: int, column: int) -> list[int]:
        height, width = pixels.shape[:2]
        return [int(v) for v in pixels[min(max(row, 0), height - 1), min(max(column, 0), width - 1)]]

    near = p(r, c), p(r, c + 1), p(r + 1, c), p(r + 1, c + 1)
    weights = (4 - a) * (4 - b), (4 - a) * b, a * (4 - b), a * b
    return [(sum(w * v[k] for w, v in zip(weights, near, strict=True)) + 8) // 16 for k in range(3)]


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
        align.unpack(align.pack(constant(0, 0, 128, 128)), 128, 128)


def test_a_real_pair_is_aligned(data_folder: Path) -> None:
    pairs = [pair for pair in data.read_manifest(data_folder / "manifest.csv", ("dev",)) if pair.dataset == "oscd"]
    for pair in pairs:
        assert pair.reference is not None
        target, reference = image.read(pair.target), image.read(pair.reference)
        moved = align.move(reference, align.estimate(target, reference))
        errors = [np.square(x.pixels.astype(float) - target.pixels).mean() for x in (reference, moved)]
        assert errors[1] < 0.97 * errors[0]
