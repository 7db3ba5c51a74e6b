"""How the encoder decides on the reference."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale_codec.codec import encoder, reference_choice, trial
from refscale_codec.codec.reference_choice import choose
from refscale_codec.fileformat import container
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import band_prediction, blending, detail, warp
from refscale_codec.reference.source import Blend, Predicted, ReferenceSource, Unused, Warped


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


def halves() -> tuple[Image, list[Image]]:
    """Return a picture and two references, one of its left and one of its right part."""
    target, left, right = textured(128, 192), textured(128, 192, 1), textured(128, 192, 2)
    left.pixels[:, :90], right.pixels[:, 90:] = target.pixels[:, :90], target.pixels[:, 90:]
    return target, [left, right]


def test_a_trial_decides_between_one_reference_and_a_blend() -> None:
    target, older = halves()
    tried: list[ReferenceSource] = []

    def against(kind: type) -> Callable[[ReferenceSource], float]:
        return lambda source: tried.append(source) or float(isinstance(source, kind))  # type: ignore[func-returns-value]

    assert isinstance(choose(target, older, [None, None]), Blend)
    assert isinstance(choose(target, older, [None, None], None, against(Warped)), Blend)
    assert isinstance(choose(target, older, [None, None], None, against(Blend)), Warped)
    assert [type(source) for source in tried] == [Blend, Warped, Warped] * 2
    assert {source.places for source in tried if isinstance(source, Warped)} == {(0,), (1,)}
    tried.clear()
    for few in (older[:1], [textured(128, 192, 3), textured(128, 192, 4)]):  # nothing to try: no blend, or no use
        choose(target, few, [None] * len(few), None, against(Blend))
    assert not tried


def test_a_layer_is_the_variant_that_serves_best_over_the_lowest() -> None:
    target, (left, right) = halves()
    moved = warp.still(128, 192)
    moved = moved._replace(motion=np.full_like(moved.motion, 3), radiometry=None)
    found = reference_choice.candidates(target, [left, right], [moved, moved])
    blend = next(one for one in found if isinstance(one.source, Blend))
    assert isinstance(blend.source, Blend)
    assert [layer.alignment.does_nothing for layer in blend.source.layers] == [True, True]


def blend(height: int, width: int) -> Blend:
    layers = (blending.Layer(place, warp.still(height, width), blending.uniform(2, height, width)) for place in (0, 1))
    return Blend(tuple(layers))


@pytest.mark.parametrize("codec", ["jpeg", "gmm"])
@pytest.mark.parametrize("source", [Unused(), Warped(None), Warped(warp.still(96, 128), place=1), blend(96, 128)])
def test_a_trial_of_a_small_picture_costs_what_its_file_does(
    tiny_models: dict[str, Model], codec: str, source: ReferenceSource
) -> None:
    target, noise = textured(96, 128), np.random.default_rng(0).integers(-9, 10, (2, 96, 128, 3))
    older = [Image((target.pixels + each).clip(0, 255).astype(np.uint8)) for each in noise]
    net = tiny_models[codec]
    coded = encoder.prepare(target, older, net, choose=lambda *_: source).code(60)
    (group,) = coded.groups
    assert isinstance(group.reference.source, type(source))
    error = np.square(target.pixels.astype(float) - coded.picture().pixels).mean()
    parts = container.bytes_by_section(container.unpack(coded.file()))
    own = sum(parts.get(name, 0) for name in ("alignment", "references"))
    size = len(group.file.lr) + own
    cost = trial.by_coding(target, older, None, net, 60, 512)(source)
    assert cost == pytest.approx(trial.cost(size, error), abs=0.01)


def test_a_trial_of_16_bits_and_of_a_large_picture(tiny_model: Model) -> None:
    target, older = textured(500, 700), textured(500, 700, 1)
    wide = [Image(one.pixels.astype(np.uint16) * 257) for one in (target, older)]
    costs = [
        trial.by_coding(group, [other], None, tiny_model, 60, 512)(Warped(None))
        for group, other in ((target, older), (wide[0], wide[1]))
    ]
    assert costs[0] == pytest.approx(costs[1], abs=1e-2)
    boxes = reference_choice.sample_boxes(500, 700, trial.SIDE)
    assert reference_choice.gathered(target, boxes).pixels.shape == (384, 384, 3)
