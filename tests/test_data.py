"""Crops and simulated revisits: the same crops for the same step, and the shares that were asked for."""

from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from refscale_codec.errors import ImageError
from refscale_codec.picture.manifest import Pair
from refscale_codec.training import data
from refscale_codec.training.data import Crops

CROP = 16


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
    return path


def ramp(height: int = 40, width: int = 32) -> np.ndarray:
    """Return a picture none of whose pixels or small crops occur twice: red is the row, green the column."""
    y, x = np.mgrid[:height, :width]
    return np.stack([3 * y, 5 * x, 255 - 2 * y - 2 * x], axis=-1).astype(np.uint8)


def flat(value: int | tuple[int, int, int], height: int = 40, width: int = 32) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def pair_of(
    folder: Path, target: np.ndarray, reference: np.ndarray | None, name: str = "a", dataset: str = "d"
) -> Pair:
    beside = None if reference is None else save(folder / f"{name}_ref.png", reference)
    return Pair(dataset, name, save(folder / f"{name}.png", target), beside)


def crops_of(pairs: list[Pair], *, simulated: float = 0, unrelated: float = 0, changed: float = 0) -> Crops:
    return Crops(pairs, CROP, simulated, unrelated, changed)


# --- crops -----------------------------------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_seed_and_step(tmp_path: Path) -> None:
    pairs = [
        pair_of(tmp_path, ramp(), 255 - ramp(), "a"),
        pair_of(tmp_path, ramp(20, 50), None, "b", "single"),
    ]
    first, second = (crops_of(pairs, simulated=0.3, unrelated=0.2, changed=0.3) for _ in range(2))
    expected = first.batch(7, 3, 6)
    first.batch(7, 4, 6)
    for again in (first.batch(7, 3, 6), second.batch(7, 3, 6)):
        assert all(np.array_equal(a, b) for a, b in zip(expected, again, strict=True))
    assert all(np.array_equal(a[:2], b) for a, b in zip(expected, first.batch(7, 3, 2), strict=True))
    for other in (first.batch(7, 4, 6), first.batch(8, 3, 6)):
        assert not np.array_equal(expected[0], other[0])


def test_a_batch_has_the_size_that_was_asked_for(tmp_path: Path) -> None:
    pairs = [pair_of(tmp_path, ramp(), ramp()), pair_of(tmp_path, ramp(CROP, CROP), None, "b")]
    targets, references = crops_of(pairs, simulated=0.5, unrelated=0.2, changed=0.5).batch(1, 0, 5)
    for crops in (targets, references):
        assert crops.shape == (5, CROP, CROP, 3)
        assert crops.dtype == np.uint8
        assert crops.flags.c_contiguous


def test_target_and_reference_are_cut_and_turned_alike(tmp_path: Path) -> None:
    targets, references = crops_of([pair_of(tmp_path, ramp(), ramp())]).batch(1, 0, 24)
    assert np.array_equal(targets, references)
    orientations = {
        (
            bool(np.ptp(crop[:, 0, 0])),
            int(crop[-1, -1, 0]) > int(crop[0, 0, 0]),
            int(crop[-1, -1, 1]) > int(crop[0, 0, 1]),
        )
        for crop in targets
    }
    assert len(orientations) == 8  # four quarter turns, each also mirrored


def test_crops_are_pieces_of_the_picture(tmp_path: Path) -> None:
    picture = ramp()
    rows = set()
    for crop in crops_of([pair_of(tmp_path, picture, picture)]).batch(2, 0, 24)[0]:
        y, x = int(crop[..., 0].min()) // 3, int(crop[..., 1].min()) // 5
        window = picture[y : y + CROP, x : x + CROP]
        turned = [np.rot90(window, turns) for turns in range(4)]
        assert any(np.array_equal(crop, way) or np.array_equal(crop, way[:, ::-1]) for way in turned)
        rows.add(y)
    assert len(rows) > 6  # of 25


def test_both_directions_of_a_pair_are_used(tmp_path: Path) -> None:
    targets, references = crops_of([pair_of(tmp_path, flat(10), flat(200))]).batch(1, 0, 32)
    assert {int(crop[0, 0, 0]) for crop in targets} == {10, 200}
    assert np.array_equal(targets.astype(int) + references, np.full_like(targets, 210))


def test_a_reference_is_moved_into_place(tmp_path: Path) -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8), (0, 0), 1)
    pair = pair_of(tmp_path, noise, np.roll(noise, 3, axis=1))
    for target, reference in crops_of([pair]).pictures:
        assert reference is not None
        assert np.array_equal(target[:, 8:-8], reference[:, 8:-8])


def test_alignments_are_estimated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "_kept", data._kept.__wrapped__)  # the folder of this environment
    picture = np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = cv2.GaussianBlur(picture, (0, 0), 2) * 3
    pair = pair_of(tmp_path, picture, np.roll(picture, 5, axis=1))
    first = crops_of([pair]).pictures
    assert not np.array_equal(first[0][1], np.roll(picture, 5, axis=1))  # it was moved
    assert len(list((tmp_path / "cache").rglob("*-*"))) == 3  # the folder, and a file for each direction
    monkeypatch.setattr(data.registration, "estimate", None)
    for before, again in zip(first, crops_of([pair]).pictures, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(before, again, strict=True))


def test_a_cache_that_cannot_be_written_to_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_kept", lambda: save(tmp_path / "file.png", flat(0)) / "folder")
    assert len(crops_of([pair_of(tmp_path, ramp(), ramp())]).pictures) == 2


def test_smaller_crops_are_of_the_same_pictures(tmp_path: Path) -> None:
    crops = crops_of([pair_of(tmp_path, ramp(), ramp())])
    smaller = crops.smaller(8)
    assert smaller.pictures is crops.pictures and crops.crop == CROP
    assert [x.shape for x in smaller.marked_batch(1, 2, 3)] == [(3, 8, 8, 3), (3, 8, 8, 3), (3, 8, 8)]


def test_unrelated_references_are_crops_of_the_pictures(tmp_path: Path) -> None:
    pairs = [pair_of(tmp_path, flat(value), flat(value + 1), str(value)) for value in (10, 90, 170)]
    targets, references = (x[:, 0, 0, 0].astype(int) for x in crops_of(pairs, unrelated=1).batch(1, 0, 48))
    assert set(targets) == set(references) == {10, 11, 90, 91, 170, 171}
    assert np.mean(targets != references) > 0.5  # it may draw the same picture by chance
    targets, references = (x[:, 0, 0, 0].astype(int) for x in crops_of(pairs).batch(1, 0, 48))
    assert set(np.abs(targets - references)) == {1}


def test_the_share_of_unrelated_references_is_the_one_asked_for(tmp_path: Path) -> None:
    pairs = [pair_of(tmp_path, flat(value), flat(value + 1), str(value)) for value in range(0, 200, 10)]
    targets, references = (x[:, 0, 0, 0].astype(int) for x in crops_of(pairs, unrelated=0.25).batch(1, 0, 400))
    share = np.mean(np.abs(targets - references) != 1)
    assert 0.17 < share < 0.33


def test_changed_references_show_another_place_in_some_rectangles(tmp_path: Path) -> None:
    pairs = [pair_of(tmp_path, flat(value), flat(value), str(value)) for value in (10, 90, 170)]
    targets, references = crops_of(pairs, changed=1).batch(1, 0, 40)
    assert all(np.ptp(target) == 0 for target in targets)  # only the reference changes
    shares = np.mean(np.any(targets != references, axis=-1), axis=(1, 2))
    assert np.mean(shares > 0) > 0.4
    assert shares.max() < 1
    assert {int(value) for value in np.unique(references)} <= {10, 11, 90, 91, 170, 171}


def test_a_picture_in_memory_is_never_changed(tmp_path: Path) -> None:
    pairs = [pair_of(tmp_path, flat(value), flat(value + 1), str(value)) for value in (10, 90)]
    crops = crops_of(pairs, simulated=0.3, unrelated=0.3, changed=1)
    crops.batch(1, 0, 20)
    for value, (target, reference) in zip((10, 11, 90, 91), crops.pictures, strict=True):
        assert np.array_equal(target, flat(value))
        assert reference is not None
        assert np.array_equal(reference, flat(value ^ 1))


def test_singles_get_simulated_references_and_pairs_the_share_asked_for(tmp_path: Path) -> None:
    (single,) = crops_of([pair_of(tmp_path, ramp(), None)]).pictures
    assert single[1] is None
    targets, references = crops_of([pair_of(tmp_path, ramp(), None)]).batch(1, 0, 8)
    assert all(not np.array_equal(t, r) for t, r in zip(targets, references, strict=True))
    alike = [np.corrcoef(t.ravel(), r.ravel())[0, 1] for t, r in zip(targets, references, strict=True)]
    assert np.median(alike) > 0.8  # of the same place
    targets, references = crops_of([pair_of(tmp_path, ramp(), ramp())], simulated=1).batch(1, 0, 8)
    assert all(not np.array_equal(t, r) for t, r in zip(targets, references, strict=True))


def test_datasets_are_drawn_by_the_square_root_of_their_area(tmp_path: Path) -> None:
    pairs = [
        pair_of(tmp_path, flat(0, 32, 32), None, "a", "small"),
        pair_of(tmp_path, flat(0, 64, 32), None, "b", "large"),
        pair_of(tmp_path, flat(0, 64, 32), None, "c", "large"),
    ]
    # areas 1 : (2 + 2), so the datasets are drawn 1 : 2, and the two large pictures alike
    assert crops_of(pairs).weight.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    pairs[2] = pair_of(tmp_path, flat(0, 64, 112), None, "d", "large")  # 1 : (2 + 7)
    assert crops_of(pairs).weight.tolist() == pytest.approx([1 / 4, 3 / 4 * 2 / 9, 3 / 4 * 7 / 9])


def test_pictures_smaller_than_a_crop_are_left_out(tmp_path: Path) -> None:
    small, wide, fits = flat(0, CROP - 1, 60), flat(1, 60, CROP - 1), flat(2, CROP, CROP)
    pairs = [pair_of(tmp_path, picture, None, str(place)) for place, picture in enumerate((small, wide, fits))]
    assert len(crops_of(pairs).pictures) == 1
    with pytest.raises(ImageError, match=f"at least {CROP} pixels"):
        crops_of(pairs[:2])


def test_a_reference_of_another_size_or_a_missing_picture_is_refused(tmp_path: Path) -> None:
    other = pair_of(tmp_path, flat(0), flat(0, 40, 31))
    with pytest.raises(ImageError, match="differ in size"):
        crops_of([other])
    missing = Pair("d", "m", tmp_path / "missing.png", None)
    with pytest.raises(ImageError, match="missing.png"):
        crops_of([missing])


# --- the simulator ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 16), (48, 33), (8, 40)])
def test_a_simulated_revisit_keeps_shape_type_and_range(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(3).random((*shape, 3), dtype=np.float32)
    given = picture.copy()
    for seed in range(12):
        old = data.simulate_revisit(picture, np.random.default_rng(seed))
        assert old.shape == picture.shape
        assert old.dtype == np.float32
        assert 0 <= old.min() <= old.max() <= 1
    assert np.array_equal(picture, given)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_simulated_revisit_of_black_or_white_is_finite(value: float) -> None:
    picture = np.full((16, 16, 3), value, np.float32)
    assert all(np.isfinite(data.simulate_revisit(picture, np.random.default_rng(seed))).all() for seed in range(12))


def test_a_simulated_revisit_is_a_function_of_its_generator() -> None:
    picture = np.random.default_rng(3).random((24, 24, 3), dtype=np.float32)
    first, again, other = (data.simulate_revisit(picture, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_simulated_revisit_shows_the_same_place() -> None:
    picture = ramp(48, 48).astype(np.float32) / 255
    alike = [
        np.corrcoef(picture.ravel(), data.simulate_revisit(picture, np.random.default_rng(seed)).ravel())[0, 1]
        for seed in range(24)
    ]
    assert np.median(alike) > 0.9
