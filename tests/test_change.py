"""The change map: nothing for equal pictures, bright where one was altered, at the picture's size."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from refscale_codec import model, weights_files
from refscale_codec.errors import ImageError
from refscale_codec.model import Model
from refscale_codec.picture import manifest
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.reference import georeference, warp
from refscale_codec.study import change


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 3), (29, 37), (64, 40)])
def test_equal_pictures_have_no_change(tiny_model: Model, height: int, width: int) -> None:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = change.change(Image(pixels), Image(pixels.copy()), tiny_model)
    assert (found.shape, found.dtype) == ((height, width), np.float32)
    assert found.max() < 0.01


def test_the_altered_part_is_brightest(tiny_model: Model) -> None:
    rng = np.random.default_rng(7)
    before = np.clip(rng.normal(120, 40, (80, 96, 3)), 0, 255).astype(np.uint8)
    after = before.copy()
    after[40:64, 8:40] = rng.integers(0, 2, (24, 32, 1)) * 255
    found = change.change(Image(after), Image(before), tiny_model)
    inside = np.zeros((80, 96), bool)
    inside[40:64, 8:40] = True
    assert found[inside].mean() > 5 * found[~inside].mean()
    assert (found.min() >= 0, found.max() <= 1) == (True, True)


def test_floats_are_compared_in_the_range_of_the_newer(tiny_model: Model) -> None:
    before = cv2.GaussianBlur(np.random.default_rng(7).normal(0.3, 0.4, (80, 96)), (0, 0), 2)
    after = before.copy()
    after[40:64, 8:40] = before[:24, 60:92][::-1]
    before[3:9, 4:8] = after[3:9, 4:8] = np.nan
    new, old = (Image(pixels.astype(np.float32)[..., None]) for pixels in (after, before))
    assert change.change(new, Image(new.pixels.copy()), tiny_model).max() < 0.01
    found = change.change(new, old, tiny_model)
    inside = np.zeros((80, 96), bool)
    inside[40:64, 8:40] = True
    assert found[inside].mean() > 5 * found[~inside].mean()


def test_an_older_picture_of_another_size_is_brought_onto_the_grid(tiny_model: Model) -> None:
    rng = np.random.default_rng(7)
    before = cv2.GaussianBlur(rng.uniform(0, 255, (80, 96, 3)), (0, 0), 3).astype(np.uint8)
    larger = np.kron(before, np.ones((2, 2, 1), np.uint8))
    assert change.change(Image(before), Image(larger), tiny_model).max() < 0.05


def test_a_picture_that_cannot_be_brought_onto_the_grid_is_refused(tiny_model: Model) -> None:
    strip, dot = Image(np.zeros((1, 100_000, 3), np.uint8)), Image(np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(ImageError, match="100000x1"):
        change.change(dot, strip, tiny_model)


def test_places_are_not_asked_for_where_nothing_is_to_be_estimated(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("asked for the georeference")

    monkeypatch.setattr(georeference, "prior", refuse)
    pixels = np.random.default_rng(3).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    still = warp.still(24, 40)
    assert change.change(Image(pixels), Image(pixels.copy()), tiny_model, [still]).max() < 0.01
    with pytest.raises(AssertionError, match="georeference"):
        change.change(Image(pixels), Image(pixels.copy()), tiny_model)


def test_the_heat_map_gets_brighter() -> None:
    drawn = (
        change.heat_map(np.linspace(0, 1, 256, dtype=np.float32)[None], Image(np.zeros((1, 256, 3), np.uint8)))
        .pixels[0]
        .astype(int)
    )
    assert (drawn[0] < 10).all()
    assert drawn[-1].min() > 100
    luma = drawn @ [0.299, 0.587, 0.114]
    assert (np.diff(luma) >= -1).all()


def test_new_houses_are_found_on_a_real_pair(data_folder: Path) -> None:
    pairs = manifest.read_manifest(data_folder / "manifest.csv", ("dev",))
    pair = next(p for p in pairs if p.name == "chico_069_2020")
    assert pair.reference is not None
    target, reference = (Image(pictures.read(p).pixels[:160].copy()) for p in (pair.target, pair.reference))
    found = change.change(target, reference, model.load(weights_files.shipped(2)))
    assert found[80:140, 50:130].mean() > 3 * found[:, 160:].mean()  # houses built since; houses that stood before
