"""How the encoder decides on the reference, and that it does each piece of work once."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import always_predicted
from hypothesis import given
from hypothesis import strategies as st

from refscale_codec.codec import encoder, rate_control, reference_choice
from refscale_codec.codec.encoder import EncodeOptions
from refscale_codec.codec.rate_control import Target
from refscale_codec.codec.reference_choice import choose
from refscale_codec.fileformat import container
from refscale_codec.lrcodec.dct import coefficients, entropy
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import warp
from refscale_codec.reference.source import Predicted, Unused, Warped
from refscale_codec.rescale import tiled


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
    assert choose(target, target, None) == Warped(None)
    assert choose(target, textured(100, 130, 1), None) == Unused()
    assert choose(target, None, None) == Unused()


def test_what_moved_and_what_changed_light_is_found() -> None:
    target = textured(120, 200)
    moved = Image(np.roll(target.pixels, (3, -5), axis=(0, 1)))
    still = warp.still(120, 200)
    shift = still._replace(transform=warp.Transform(3 * warp.STEPS, -5 * warp.STEPS))
    chosen = choose(target, moved, shift)
    assert isinstance(chosen, Warped)
    assert chosen.alignment is not None
    assert chosen.alignment.transform == shift.transform
    dark = choose(target, Image((target.pixels // 2).astype(np.uint8)), None)
    assert isinstance(dark, Warped)
    assert dark.alignment is not None


def test_a_further_group_is_predicted_where_that_tells_more() -> None:
    target, other = textured(96, 96), textured(96, 96, 1)
    assert isinstance(choose(target, other, None, target), Predicted)
    assert choose(target, target, None, other) == Warped(None)


def test_what_a_source_takes_in_the_file_counts() -> None:
    target, alignment = textured(64, 64), warp.still(64, 64)
    nothing, in_place, moved, *_ = reference_choice.candidates(target, target, alignment)
    assert (nothing.source, in_place.source, moved.source) == (Unused(), Warped(None), Warped(alignment))
    assert in_place.cost < moved.cost < nothing.cost
    size = 6 + len(warp.pack(alignment))  # against 0.4 bits per pixel
    assert moved.cost - in_place.cost == pytest.approx(size / (0.4 * 64 * 64 / 8))


# --- each piece of work once -----------------------------------------------------------------------------------------


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[Any]:
    """Count calls of what costs time, with what tells them apart."""
    found: Counter[Any] = Counter()

    def count(place: Any, name: str, key: Callable[..., Any]) -> None:
        plain = getattr(place, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            found[(name, key(*arguments, **named))] += 1
            return plain(*arguments, **named)

        monkeypatch.setattr(place, name, counted)

    count(Image, "fingerprint", lambda image: image.pixels.shape)
    count(warp, "apply", lambda reference, alignment, box=None: box)
    count(entropy, "encode", lambda levels, quality: (levels.tobytes(), quality))
    count(entropy, "decode", lambda *_: None)

    def seen(reference: Image | None) -> bytes | None:
        return None if reference is None else reference.pixels.tobytes()

    count(tiled, "downscale", lambda image, ref, rescaler, quality, *_: (image.pixels.tobytes(), seen(ref), quality))
    count(tiled, "upscale", lambda *_, **__: None)
    count(coefficients, "quantise", lambda lr, quality, dead_zone=0.5: (lr.tobytes(), quality, dead_zone))
    return found


def calls(counts: Counter[Any], name: str) -> list[tuple[Any, int]]:
    """Return what a function was called with, and how often."""
    return [(key, count) for (called, key), count in counts.items() if called == name]


@pytest.mark.parametrize("bands", [3, 6])
def test_an_encode_does_each_piece_of_work_once(counts: Counter[Any], tiny_model: Model, bands: int) -> None:
    target, older = (np.dstack([textured(300, 310, seed).pixels for seed in range(bands // 3)]) for _ in range(2))
    older = np.roll(older, (2, 3), axis=(0, 1))
    encoder.encode(Image(target), Image(older), tiny_model)
    groups = bands // 3
    assert [count for _, count in calls(counts, "fingerprint")] == [1]
    assert [count for _, count in calls(counts, "downscale")] == [1] * groups
    assert sum(count for _, count in calls(counts, "encode")) == groups
    assert sum(count for _, count in calls(counts, "quantise")) == groups
    assert not calls(counts, "decode")
    assert sum(count for box, count in calls(counts, "apply") if box is None) <= groups
    area = sum(count * box.height * box.width for box, count in calls(counts, "apply") if box is not None)
    side = reference_choice.SAMPLE[0] * reference_choice.SAMPLE[1]
    assert area <= 6 * groups * side * side  # six candidates at most, in the sample's boxes only


def test_the_first_group_is_decoded_once_for_all_that_are_predicted_from_it(
    counts: Counter[Any], tiny_model: Model
) -> None:
    target = Image(np.dstack([textured(40, 50, seed).pixels for seed in range(3)]))
    data = encoder.prepare(target, None, tiny_model, choose=always_predicted).code(75).file()
    assert container.unpack(data).extra_bands is not None
    assert sum(count for _, count in calls(counts, "upscale")) == 1


def test_a_target_does_each_piece_of_work_once_a_quality(counts: Counter[Any], tiny_model: Model) -> None:
    target, older = textured(60, 70), textured(60, 70, 2)
    reached = rate_control.encode(target, older, tiny_model, Target("bytes", 900), EncodeOptions(output_hash=True))
    assert reached.tries > 1
    assert all(count == 1 for _, count in calls(counts, "downscale"))
    assert all(count == 1 for _, count in calls(counts, "encode"))
    assert not calls(counts, "decode")
    by_shape = dict(calls(counts, "fingerprint"))
    assert sum(by_shape.values()) == 2  # the reference, and what the file decodes to


def test_a_target_equals_an_encode_at_its_settings(tiny_model: Model) -> None:
    target, older = textured(60, 70), textured(60, 70)
    reached = rate_control.encode(target, older, tiny_model, Target("psnr", 20.0))
    assert reached.psnr is not None
    plan = encoder.prepare(target, older, tiny_model)
    coded = plan.code(reached.quality)
    assert coded.size() == len(coded.file())
    if coded.file() != reached.data:  # a wider dead zone was taken
        assert len(coded.file()) > len(reached.data)


def test_boxes_are_warped_as_in_the_whole() -> None:
    reference = textured(300, 400)
    alignment = warp.still(300, 400)._replace(motion=np.full((5, 7, 2), 9, np.int16))
    boxes = [[Box(0, 0, 90, 80), Box(0, 300, 90, 400)]]
    whole = warp.apply(reference, alignment).pixels
    found = reference_choice._warped(reference, alignment, boxes).pixels
    assert np.array_equal(found, np.concatenate([whole[box.slices] for box in boxes[0]], axis=1))
