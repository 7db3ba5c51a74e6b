"""Where a reference lies is found: shifted, turned, scaled, seen aslant, of another size, in other light."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from refscale_codec.picture import manifest
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.reference import registration, warp
from refscale_codec.reference.warp import Alignment, Transform

ROOT = Path(__file__).resolve().parent.parent
INNER = np.s_[128:-128, 128:-128]


@pytest.fixture(scope="module")
def target() -> Image:
    return pictures.read(ROOT / "examples" / "target.png")


def shifted(picture: Image, down: int, right: int) -> Image:
    """The picture's content moved down and right, its border repeated."""
    ys, xs = np.arange(picture.height) - down, np.arange(picture.width) - right
    cells = np.ix_(ys.clip(0, picture.height - 1), xs.clip(0, picture.width - 1))
    return Image(np.ascontiguousarray(picture.pixels[cells]))


def where(found: Alignment) -> NDArray[np.float64]:
    """Where the centres of a 512 x 512 picture's blocks lie in the reference, away from where they are, in pixels."""
    centres = np.stack(np.meshgrid(*[np.arange(8) * 64 + 31.5] * 2, indexing="ij"), axis=-1)
    y, x = np.moveaxis(centres + found.motion / 4, -1, 0)
    place = np.stack([x, y, np.ones_like(x)], axis=-1) @ found.transform.matrix(512, 512).T
    return place[..., 1::-1] / place[..., 2:] - centres


def away(picture: Image, target: Image, part: tuple[slice, slice] = INNER) -> float:
    return float(np.abs(picture.pixels.astype(int) - target.pixels)[part].mean())


@pytest.mark.parametrize(("down", "right"), [(3, -2), (0, 5), (-7, 0), (40, -60)])
def test_a_shift_is_found_and_undone(target: Image, down: int, right: int) -> None:
    reference = shifted(target, down, right)
    found = registration.estimate(target, reference)
    assert found is not None
    assert (abs(where(found)[1:-1, 1:-1] - [down, right]) <= 0.25).mean() > 0.9
    inner = np.s_[64:-64, 64:-64]
    assert away(warp.apply(reference, found), target, inner) < 0.2 * away(reference, target, inner)


def test_a_shift_is_found_under_other_light(target: Image) -> None:
    darker = Image((shifted(target, 4, 4).pixels * 0.6 + 20).astype(np.uint8))
    found = registration.estimate(target, darker)
    assert found is not None
    assert (abs(where(found)[1:-1, 1:-1] - 4) <= 0.25).mean() > 0.8


@pytest.mark.parametrize(("degrees", "scale"), [(3.0, 1.0), (-10.0, 1.0), (0.0, 1.03), (90.0, 1.0)])
def test_a_turn_and_a_scale_are_found_and_undone(target: Image, degrees: float, scale: float) -> None:
    matrix = cv2.getRotationMatrix2D((255.5, 255.5), degrees, scale)
    reference = Image(cv2.warpAffine(target.pixels, matrix, (512, 512), flags=cv2.INTER_CUBIC))
    found = registration.estimate(target, reference)
    assert found is not None
    assert found.transform.pairs == 2
    assert away(warp.apply(reference, found), target) < 0.3 * away(reference, target)


def test_a_view_from_aside_is_found_and_undone(target: Image) -> None:
    here = np.array([[0, 0], [511, 0], [0, 511], [511, 511]], np.float32)
    there = here + np.array([[0, 0], [-40, 30], [30, -10], [-60, -60]], np.float32)
    matrix = cv2.getPerspectiveTransform(here, there)
    reference = Image(cv2.warpPerspective(target.pixels, matrix, (512, 512), flags=cv2.INTER_CUBIC))
    found = registration.estimate(target, reference)
    assert found is not None
    assert found.transform.pairs == 4
    assert away(warp.apply(reference, found), target) < 0.3 * away(reference, target)


@pytest.mark.parametrize(
    ("height", "width", "factor"), [(256, 256, 1), (640, 512, 1), (1024, 1024, 2), (1500, 1600, 3)]
)
def test_a_reference_of_another_size_is_brought_onto_the_grid(
    target: Image, height: int, width: int, factor: int
) -> None:
    how = cv2.INTER_AREA if height < 512 else cv2.INTER_CUBIC
    reference = Image(cv2.resize(target.pixels, (width, height), interpolation=how))
    found = registration.estimate(target, reference)
    assert found is not None
    assert found.factor == factor
    moved = warp.apply(reference, found)
    assert (moved.height, moved.width) == (512, 512)
    blurred = Image(cv2.resize(cv2.resize(target.pixels, (256, 256), interpolation=cv2.INTER_AREA), (512, 512)))
    assert away(moved, target) < 1.1 * away(blurred, target)


def test_a_part_of_a_larger_and_finer_reference_is_found(target: Image) -> None:
    part = Image(cv2.resize(target.pixels[100:400, 150:450], (200, 200), interpolation=cv2.INTER_AREA))
    found = registration.estimate(part, target)
    assert found is not None
    blank = Image(np.full_like(part.pixels, part.pixels.mean(axis=(0, 1)).astype(np.uint8)))
    whole = np.s_[:, :]
    assert away(warp.apply(target, found), part, whole) < 0.3 * away(blank, part, whole)


def test_a_known_place_is_where_the_search_starts(target: Image) -> None:
    part = Image(np.ascontiguousarray(target.pixels[100:200, 150:214]))
    known = np.array([[1, 0, 150.0], [0, 1, 100.0], [0, 0, 1]])
    found = registration.estimate(part, target, known)
    assert found is not None
    assert found.transform == Transform(6400, 9600)
    assert np.array_equal(warp.apply(target, found).pixels, part.pixels)
    small = Image(np.ascontiguousarray(target.pixels[100:110, 150:164]))
    tiny = registration.estimate(small, target, known)
    assert tiny is not None
    assert np.array_equal(warp.apply(target, tiny).pixels, small.pixels)


@pytest.mark.slow
def test_a_large_picture_is_sought_on_a_reduced_one(target: Image) -> None:
    large = Image(np.ascontiguousarray(np.kron(target.pixels, np.ones((3, 3, 1), np.uint8))))
    found = registration.estimate(large, shifted(large, 100, -70))
    assert found is not None
    expected = [[1, 0, -70], [0, 1, 100], [0, 0, 1]]
    assert np.allclose(found.transform.matrix(large.height, large.width), expected, atol=0.5)


def test_what_lies_in_place_gets_no_vectors(target: Image) -> None:
    assert registration.estimate(target, target) is None
    assert registration.estimate(target, Image((target.pixels * 0.7 + 10).astype(np.uint8))) is None


@pytest.mark.parametrize(("height", "width"), [(1, 1), (31, 400), (8, 8), (1, 40_000)])
def test_small_and_long_pictures_are_left_where_they_are(height: int, width: int) -> None:
    picture = Image(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    assert registration.estimate(picture, shifted(picture, 1, 1)) is None


def test_pictures_longer_than_opencv_warps_are_left_where_they_are() -> None:
    long = Image(np.random.default_rng(0).integers(0, 256, (33, 32_768, 3), dtype=np.uint8))
    assert registration.estimate(long, shifted(long, 1, 1)) is None


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 65), (64, 300)])
def test_flat_and_odd_pictures_are_no_problem(height: int, width: int) -> None:
    flat = Image(np.full((height, width, 3), 90, np.uint8))
    noise = Image(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    other = Image(np.random.default_rng(0).integers(0, 256, (2 * height, width + 9, 3), dtype=np.uint8))
    assert registration.estimate(flat, flat) is None
    for pair in ((flat, noise), (noise, flat), (noise, noise), (noise, other), (flat, other), (other, flat)):
        found = registration.estimate(*pair)
        assert found is None or found.motion.shape == (*warp.grid(pair[0].height, pair[0].width), 2)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 50), (700, 2)])
def test_tiny_references_are_stretched(target: Image, height: int, width: int) -> None:
    reference = Image(np.full((height, width, 3), 7, np.uint8))
    found = registration.estimate(target, reference)
    assert found is not None
    assert (warp.apply(reference, found).pixels == 7).all()


# --- light -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gain", "offset"), [(1.3, 0), (0.77, 0), (0.6, 40), (1.0, -17)])
def test_another_light_is_found_and_undone(target: Image, gain: float, offset: float) -> None:
    other = Image(np.clip(np.rint(gain * target.pixels + offset), 0, 255).astype(np.uint8))
    found = registration.radiometry(target, other)[0]
    assert all(abs(tone.gain / warp.GAIN - 1 / gain) < 0.02 for tone in found)
    relit = warp.apply(other, warp.still(512, 512)._replace(radiometry=found))
    unclipped = (other.pixels > 0) & (other.pixels < 255)
    assert abs(relit.pixels.astype(int) - target.pixels)[unclipped].max() <= 4


def test_each_band_has_its_own_light(target: Image) -> None:
    other = Image((target.pixels * np.array([0.5, 0.8, 1.0])).astype(np.uint8))
    found = registration.radiometry(target, other)[0]
    assert np.allclose([tone.gain / warp.GAIN for tone in found], [2, 1.25, 1], atol=0.02)


def test_what_changed_hardly_counts_as_light(target: Image) -> None:
    other = Image((target.pixels * 0.8).astype(np.uint8))
    other.pixels[:170] = np.random.default_rng(1).integers(0, 256, (170, 512, 3))
    found = registration.radiometry(target, other)[0]
    assert np.allclose([tone.gain / warp.GAIN for tone in found], 1.25, atol=0.05)


def test_tones_by_spread_spread_more_about_the_same_middle(target: Image) -> None:
    mixed = Image(target.pixels // 2 + target.pixels[::-1] // 2)  # half of it is another picture
    fitted, spread = (
        warp.still(512, 512)._replace(radiometry=tones) for tones in registration.radiometry(target, mixed)
    )
    spreads = [warp.apply(mixed, lit).pixels.std(axis=(0, 1)) for lit in (fitted, spread)]
    assert (spreads[0] < 0.95 * spreads[1]).all()
    assert (spreads[1] < 1.05 * target.pixels.std(axis=(0, 1))).all()
    middles = [warp.apply(mixed, lit).pixels.mean(axis=(0, 1)) for lit in (fitted, spread)]
    assert np.allclose(*middles, atol=6)


def test_a_light_that_fits_has_no_other_tones(target: Image) -> None:
    assert len(registration.radiometry(target, Image((target.pixels * 0.8).astype(np.uint8)))) == 1


def test_the_same_light_has_no_tones(target: Image) -> None:
    assert registration.radiometry(target, target) == []
    flat = Image(np.full((40, 40, 3), 90, np.uint8))
    assert registration.radiometry(flat, flat) == []
    for level in (0, 255):
        assert registration.radiometry(flat, Image(np.full((40, 40, 3), level, np.uint8))) == []


def test_flow_in_tiles_finds_what_flow_in_one_piece_does(target: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = shifted(target, 3, -5)
    whole = registration.estimate(target, moved)
    monkeypatch.setattr(registration, "_FLOW_TILE", 256)
    tiled = registration.estimate(target, moved)
    assert whole is not None
    assert tiled is not None
    assert abs(where(whole) - where(tiled)).mean() < 0.25


@pytest.mark.slow
def test_a_real_pair_is_aligned(data_folder: Path) -> None:
    pairs = [pair for pair in manifest.read_manifest(data_folder / "manifest.csv", ("dev",)) if pair.dataset == "oscd"]
    for pair in pairs:
        assert pair.reference is not None
        target, reference = pictures.read(pair.target), pictures.read(pair.reference)
        moved = warp.apply(reference, registration.estimate(target, reference))
        errors = [np.square(x.pixels.astype(float) - target.pixels).mean() for x in (reference, moved)]
        assert errors[1] < 0.97 * errors[0]
