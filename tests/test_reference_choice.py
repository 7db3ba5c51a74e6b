"""How the encoder decides on the reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale_codec.codec import reference_choice
from refscale_codec.codec.reference_choice import choose
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import band_prediction, detail, warp
from refscale_codec.reference.source import Predicted, Unused, Warped


def textured(height: int, width: int, seed: int = 0) -> Image:
    """Return detail at several sizes."""
    rng = np.random.default_rng(seed)
    total = np.full((height, width, 3), 120.0)
    for side in (1, 3, 9):
        coarse = rng.normal(0, 14, (-(-height // side), -(-width // side), 3))
        total += coarse.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]
    return Image(total.clip(0, 255).astype(np.uint8))


@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
def test_the_sample_is_the_whole_or_evenly_spaced_boxes(height: int, width: int) -> None:
    boxes = reference_choice.sample_boxes(height, width)
    count, side = reference_choice.SAMPLE
    assert (boxes[0][0].top, boxes[0][0].left) == (0, 0)
    assert (boxes[-1][-1].bottom, boxes[-1][-1].right) == (height, width)
    assert sum(box.width for box in boxes[0]) == min(width, count * side)
    assert sum(row[0].height for row in boxes) == min(height, count * side)
    assert all(a.right <= b.left for a, b in zip(boxes[0], boxes[0][1:], strict=False))


def test_the_same_picture_is_used_and_noise_is_not() -> None:
    target = textured(100, 130)
    assert choose(target, [target], [None]) == Warped(None)
    assert choose(target, [textured(100, 130, 1)], [None]) == Unused()
    assert choose(target, [], []) == Unused()


def test_what_moved_and_what_changed_light_is_found() -> None:
    target = textured(120, 200)
    moved = Image(np.roll(target.pixels, (3, -5), axis=(0, 1)))
    still = warp.still(120, 200)
    shift = still._replace(transform=warp.Transform(3 * warp.STEPS, -5 * warp.STEPS))
    chosen = choose(target, [moved], [shift])
    assert isinstance(chosen, Warped)
    assert chosen.alignment is not None
    assert chosen.alignment.transform == shift.transform
    dark = choose(target, [Image((target.pixels // 2).astype(np.uint8))], [None])
    assert isinstance(dark, Warped)
    assert dark.alignment is not None


def test_a_further_group_is_predicted_where_that_tells_more() -> None:
    target, other = textured(96, 96), textured(96, 96, 1)
    assert isinstance(choose(target, [other], [None], target), Predicted)
    assert choose(target, [target], [None], other) == Warped(None)


def test_what_a_source_takes_in_the_file_counts() -> None:
    target, alignment = textured(64, 64), warp.still(64, 64)
    nothing, in_place, moved, *_ = reference_choice.candidates(target, [target], [alignment])
    assert (nothing.source, in_place.source, moved.source) == (Unused(), Warped(None), Warped(alignment))
    assert in_place.cost < moved.cost < nothing.cost
    size = 6 + len(warp.pack(alignment))
    assert moved.cost - in_place.cost == pytest.approx(size / (detail.WORTH * 64 * 64 / 8))


def test_what_a_prediction_takes_in_the_file_counts() -> None:
    target, first = textured(64, 64), textured(64, 64, 1)
    *_, predicted = reference_choice.candidates(target, [], [], first)
    assert isinstance(predicted.source, Predicted)
    size = 6 + len(band_prediction.pack(predicted.source.prediction))
    boxes = reference_choice.sample_boxes(64, 64)
    spectra = (detail.spectrum(one.pixels) for one in (target, predicted.reference))
    residual = detail.residual(*spectra).mean() + reference_choice._CHANCE
    assert len(boxes) == 1
    assert predicted.cost - residual == pytest.approx(size / (detail.WORTH * 64 * 64 / 8))


def test_boxes_are_warped_as_in_the_whole() -> None:
    reference = textured(300, 400)
    alignment = warp.still(300, 400)._replace(motion=np.full((5, 7, 2), 9, np.int16))
    boxes = [[Box(0, 0, 90, 80), Box(0, 300, 90, 400)]]
    whole = warp.apply(reference, alignment).pixels
    found = reference_choice._warped(reference, alignment, boxes).pixels
    assert np.array_equal(found, np.concatenate([whole[box.slices] for box in boxes[0]], axis=1))
