"""Each piece of work is done once: exact counts of calls, with a reference that is used, for both low-res codecs."""

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import always_predicted

from refscale_codec.codec import decoder, encoder, rate_control, reference_choice
from refscale_codec.codec.encoder import EncodeOptions
from refscale_codec.codec.rate_control import Target
from refscale_codec.fileformat import container
from refscale_codec.lrcodec.dct import coefficients, entropy
from refscale_codec.lrcodec.gmm import latents
from refscale_codec.lrcodec.gmm.codec import GmmCodec
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.reference import registration, warp
from refscale_codec.rescale import similarity_map, tiled

CODED = {"jpeg": ("in_steps", "dct.encode"), "gmm": ("analyse", "gmm.encode")}
"""What each low-res codec does for every picture that it codes."""


class Calls:
    """Counts calls of what costs time, with what tells them apart."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: Counter[tuple[str, Any]] = Counter()
        self.patch = monkeypatch
        self.muted = False

    def count(
        self,
        place: Any,
        name: str,
        key: Callable[..., Any] = lambda *_, **__: None,
        label: str = "",
        alone: bool = False,
    ) -> None:
        plain = getattr(place, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            self.found[label or name, key(*arguments, **named)] += not self.muted
            before, self.muted = self.muted, self.muted or alone
            try:
                return plain(*arguments, **named)
            finally:
                self.muted = before

        self.patch.setattr(place, name, counted)

    def of(self, name: str) -> int:
        """Return the number of all calls."""
        return sum(count for (called, _), count in self.found.items() if called == name)

    def repeated(self) -> list[tuple[str, Any]]:
        """Return the calls that did the same work again."""
        return [key for key, count in self.found.items() if count > 1 and key[1] is not None]


def same(alignment: warp.Alignment) -> tuple[Any, ...]:
    """Return what tells alignments apart: all but the checksum."""
    return *alignment[:4], alignment.motion.tobytes(), alignment.radiometry


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    found = Calls(monkeypatch)
    found.count(Image, "fingerprint", lambda image: image.pixels.tobytes())
    found.count(registration, "estimate", alone=True)  # within it alignments are warped and coded, to compare them
    found.count(warp, "apply", lambda older, alignment, box=None: older.pixels.tobytes() if box is None else None)
    found.count(warp, "pack", same, "warp.pack")
    found.count(similarity_map, "encode", lambda levels, _: levels.tobytes(), "map.encode")
    found.count(tiled, "similarity", lambda image, reference, *_: (image.pixels.tobytes(), reference.pixels.tobytes()))
    found.count(tiled, "downscale")
    found.count(tiled, "upscale")
    found.count(coefficients, "in_steps", lambda lr, quality: None)  # once for each thrift
    found.count(entropy, "quantise_and_encode", lambda exact, *how: (exact.tobytes(), *how), "dct.encode")
    found.count(entropy, "decode", label="decode")
    found.count(GmmCodec, "analyse")
    found.count(latents, "encode", label="gmm.encode")
    found.count(latents, "decode", label="decode")
    found.count(container, "pack", label="container.pack")
    return found


def scene(bands: int) -> tuple[Image, Image]:
    """Return unrelated groups of three bands with detail, and the same place some pixels aside in another light."""
    rng = np.random.default_rng(bands)
    detail = sum(
        rng.normal(0, 14, (-(-100 // side), -(-140 // side), bands)).repeat(side, 0).repeat(side, 1)[:100, :140]
        for side in (1, 3, 9)
    )
    old = (120 + detail).clip(0, 255)
    new = np.roll(old, (2, 3), axis=(0, 1)) * 0.9
    return Image(new.astype(np.uint8)), Image(old.astype(np.uint8))


def warped_whole(calls: Calls) -> int:
    return calls.of("apply") - calls.found["apply", None]


@pytest.mark.parametrize("bands", [3, 6])
@pytest.mark.parametrize("codec", CODED)
def test_what_does_not_depend_on_the_quality_is_done_by_prepare(
    calls: Calls, tiny_models: dict[str, Model], codec: str, bands: int
) -> None:
    groups, model = bands // 3, tiny_models[codec]
    plan = encoder.prepare(*scene(bands), model, EncodeOptions(quality=60))
    once = ("estimate", "similarity", "map.encode")
    assert {name: calls.of(name) for name in once} == dict.fromkeys(once, groups)
    assert (calls.of("fingerprint"), warped_whole(calls)) == (1, groups)
    assert calls.of("warp.pack") >= 2 * groups  # of each candidate, of which the file holds one
    assert not calls.repeated()
    first = groups - 1  # the first group is coded and decoded, since others might be predicted from it
    assert (calls.of("downscale"), calls.of("upscale")) == (first, first)

    qualities = 30, 60, 90
    files = [plan.code(quality).file() for quality in qualities]
    for file in map(container.unpack, files):
        for group in decoder.disassemble(file)[1]:
            assert group.alignment is not None and group.similarity_map != b""
    assert {name: calls.of(name) for name in once} == dict.fromkeys(once, groups)
    assert (calls.of("fingerprint"), warped_whole(calls)) == (1, groups)
    assert calls.of("downscale") == len(qualities) * groups
    for name in CODED[codec]:
        assert calls.of(name) == len(qualities) * groups
    assert calls.of("container.pack") == len(qualities) * groups
    assert (calls.of("upscale"), calls.of("decode")) == (first, 0)
    assert not calls.repeated()


@pytest.mark.parametrize("codec", CODED)
def test_trials_warp_the_boxes_of_the_sample_alone(calls: Calls, tiny_models: dict[str, Model], codec: str) -> None:
    target, older = scene(3)
    encoder.encode(
        Image(np.tile(target.pixels, (5, 5, 1))), Image(np.tile(older.pixels, (5, 5, 1))), tiny_models[codec]
    )
    assert warped_whole(calls) == 1
    boxes = calls.found["apply", None]
    count = reference_choice.SAMPLE[0] ** 2
    assert boxes >= 2 * count and boxes % count == 0


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("bands", [3, 6])
@pytest.mark.parametrize("codec", CODED)
def test_a_target_in_bytes_decodes_only_what_is_asked_for(
    calls: Calls, tiny_models: dict[str, Model], codec: str, bands: int, hashed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_control, "CLOSE", 1e-6)
    pair, model, groups = scene(bands), tiny_models[codec], bands // 3
    options, lines = EncodeOptions(output_hash=hashed), list[str]()
    reached = rate_control.encode(*pair, model, Target("bytes", 1500 * groups), options, step=lines.append)
    tries, first = reached.tries, groups - 1
    assert tries > 2
    assert all(group.alignment for group in decoder.disassemble(container.unpack(reached.data))[1])
    once = ("estimate", "similarity", "map.encode")
    assert {name: calls.of(name) for name in once} == dict.fromkeys(once, groups)
    assert calls.of("fingerprint") == 1 + hashed  # of the reference, and of what the file decodes to
    assert warped_whole(calls) == groups
    for name in CODED[codec]:
        assert calls.of(name) == tries * groups
    qualities = {line.split(":")[0] for line in lines}  # fewer than tries where more thrift was tried
    assert (len(lines), calls.of("downscale")) == (tries, len(qualities) * groups)
    assert (calls.of("upscale"), calls.of("decode")) == (first + hashed * groups, 0)
    assert calls.of("container.pack") == tries * groups + hashed
    assert not calls.repeated()


@pytest.mark.parametrize("bands", [3, 6])
@pytest.mark.parametrize("codec", CODED)
def test_a_target_in_db_decodes_every_try_once(
    calls: Calls, tiny_models: dict[str, Model], codec: str, bands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_control, "CLOSE_DB", 1e-6)
    pair, model, groups = scene(bands), tiny_models[codec], bands // 3
    wanted = {"jpeg": 22.0, "gmm": 15.9}[codec]  # what these untrained nets reach
    options, lines = EncodeOptions(output_hash=True), list[str]()
    reached = rate_control.encode(*pair, model, Target("psnr", wanted), options, step=lines.append)
    assert reached.tries > 1
    assert calls.of("downscale") == len({line.split(":")[0] for line in lines}) * groups
    assert (calls.of("upscale"), calls.of("decode")) == (reached.tries * groups, 0)
    assert calls.of("container.pack") == groups
    assert calls.of("map.encode") == groups
    assert not calls.repeated()


@pytest.mark.parametrize("codec", CODED)
def test_the_first_group_is_decoded_once_for_all_that_are_predicted_from_it(
    calls: Calls, tiny_models: dict[str, Model], codec: str
) -> None:
    target = scene(9)[0]
    coded = encoder.prepare(target, None, tiny_models[codec], choose=always_predicted).code(75)
    file = container.unpack(coded.file())
    assert all(group.prediction for group in decoder.disassemble(file)[1][1:])
    assert calls.of("upscale") == 1
    coded.picture()
    assert calls.of("upscale") == 3
    coded.picture()
    assert (calls.of("upscale"), calls.of("downscale")) == (3, 3)
    assert not calls.repeated()


def test_a_picture_that_is_hashed_and_looked_at_is_decoded_once(calls: Calls, tiny_model: Model) -> None:
    coded = encoder.prepare(*scene(6), tiny_model, EncodeOptions(output_hash=True)).code(75)
    file, picture = coded.file(), coded.picture()
    assert container.unpack(file).output_hash == picture.fingerprint()
    assert coded.size() == len(coded.file()) == len(file)
    assert calls.of("upscale") == 2


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [Target("bytes", 1100), Target("psnr", 22.4)], ids=["bytes", "psnr"])
def test_a_search_keeps_the_best_try_and_what_may_be_coded_again(
    tiny_model: Model, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: dict[str, list[weakref.ref[Any]]] = {"low": [], "received": [], "decoded": []}
    most: Counter[str] = Counter()

    def watch(place: Any, name: str, kind: str, array: Callable[[Any], Any] = lambda made: made) -> None:
        plain = getattr(place, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            made = plain(*arguments, **named)
            alive[kind].append(weakref.ref(array(made)))
            most[kind] = max(most[kind], sum(one() is not None for one in alive[kind]))
            return made

        monkeypatch.setattr(place, name, watched)

    watch(tiled, "downscale", "low", lambda made: made.lr)
    watch(coefficients, "dequantise", "received")
    watch(encoder, "reconstruct", "decoded")
    monkeypatch.setattr(rate_control, "CLOSE", 1e-6)
    monkeypatch.setattr(rate_control, "CLOSE_DB", 1e-6)
    reached = rate_control.encode(*scene(3), tiny_model, target)
    assert reached.tries > 3
    assert len(alive["low"]) > 2 and len(alive["received"]) == reached.tries
    assert most["low"] == 2 and most["received"] == 2 and most["decoded"] == (2 if target.measure == "psnr" else 0)
