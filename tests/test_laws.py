"""What holds for every low-res codec: quality costs bytes and buys PSNR, a target is a setting, a window is a part."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, always_predicted
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refscale_codec import model, weights_files
from refscale_codec.codec import decoder, encoder, rate_control
from refscale_codec.codec.encoder import EncodeOptions, Plan
from refscale_codec.codec.rate_control import Target
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import warp
from refscale_codec.reference.source import ReferenceSource, Unused, Warped
from refscale_codec.study import metrics


@pytest.fixture(scope="session")
def drawn_pair() -> tuple[Image, Image]:
    """A cut of 128 x 128 pixels of the example pair, with old and new buildings."""
    whole = [pictures.read(ROOT / "examples" / f"{name}.png").pixels for name in ("target", "reference")]
    target, reference = (Image(np.ascontiguousarray(pixels[200:328, 120:248])) for pixels in whole)
    return target, reference


# --- quality ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("with_reference", [True, False], ids=["reference", "alone"])
@pytest.mark.parametrize(("scale", "codec"), [(2, "jpeg"), (2, "gmm"), (4, "jpeg")])
def test_more_quality_is_more_bytes_and_more_psnr(
    scale: int, codec: str, drawn_pair: tuple[Image, Image], with_reference: bool
) -> None:
    target, reference = drawn_pair[0], drawn_pair[1] if with_reference else None
    plan = encoder.prepare(target, reference, model.load(weights_files.shipped(scale, codec)))
    coded = [plan.code(quality) for quality in (4, 25, 50, 70, 85, 97)]
    sizes = [each.size() for each in coded]
    psnrs = [metrics.psnr(target.pixels, each.picture().pixels) for each in coded]
    assert sizes == sorted(set(sizes))
    assert psnrs == sorted(set(psnrs))


# --- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [Target("bytes", 250), Target("psnr", 26.0)], ids=["bytes", "psnr"])
@pytest.mark.parametrize("codec", ["jpeg", "gmm"])
def test_a_target_is_what_encode_gives_at_its_settings(
    codec: str,
    target: Target,
    pair: tuple[Image, Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, settings, code = model.load(weights_files.shipped(2, codec)), [], Plan.code

    def watched(self: Plan, *arguments: Any) -> encoder.Coded:
        settings.append(arguments)
        return code(self, *arguments)

    monkeypatch.setattr(Plan, "code", watched)
    reached = rate_control.encode(*pair, net, target)
    monkeypatch.undo()
    (setting,) = {each for each in settings if code_again(pair, net, each) == reached.data}
    assert setting[0] == reached.quality
    if codec == "gmm":  # no thrift: a whole quality, as for `encode`
        assert encoder.encode(*pair, net, EncodeOptions(reached.quality)) == reached.data


def code_again(pair: tuple[Image, Image], net: Model, setting: tuple[Any, ...]) -> bytes:
    return encoder.prepare(*pair, net, EncodeOptions(setting[0])).code(*setting).file()


# --- windows ---------------------------------------------------------------------------------------------------------


def made(bands: int, dtype: type, seed: int) -> NDArray[Any]:
    """Waves and noise, 40 rows and 70 columns, bands that follow from one another about."""
    y, x = np.mgrid[0:40, 0:70]
    rng = np.random.default_rng(seed)
    waves = np.sin(x / 5)[..., None] * np.cos(y[..., None] / 4 + np.arange(bands)) + rng.normal(0, 0.1, (40, 70, bands))
    return np.asarray((128 + 60 * waves).clip(0, 255) * (np.iinfo(dtype).max // 255), dtype)


KINDS = {"1": (1, np.uint8), "3": (3, np.uint8), "4": (4, np.uint8), "6": (6, np.uint8), "4 of 16 bits": (4, np.uint16)}


def moved(*_: object) -> ReferenceSource:
    """Put every band group's reference some pixels aside, differently for each block, and change its light."""
    alignment = warp.still(40, 70)
    vectors = np.array([[[5, -9], [12, 3]]], np.int16)
    light = (warp.GainOffset(240, 3),) * 3
    return Warped(alignment._replace(transform=warp.Transform(70, -40), motion=vectors, radiometry=light))


CHOICES: dict[str, Callable[..., ReferenceSource]] = {
    "alone": lambda *_: Unused(),
    "moved": moved,
    "predicted": always_predicted,
}


@pytest.fixture(scope="module")
def files(tiny_models: dict[str, Model]) -> Callable[[str, str, str], tuple[bytes, Image | None, Image]]:
    """Give a file of a codec, a kind and a choice, its reference, and all that it decodes to; each made once."""
    found: dict[tuple[str, str, str], tuple[bytes, Image | None, Image]] = {}

    def of(codec: str, kind: str, choice: str) -> tuple[bytes, Image | None, Image]:
        if (codec, kind, choice) not in found:
            target, older = (Image(made(*KINDS[kind], seed)) for seed in (1, 2))
            reference = None if choice == "alone" else older
            net = tiny_models[codec]
            data = encoder.prepare(target, reference, net, choose=CHOICES[choice]).code(85).file()
            found[codec, kind, choice] = data, reference, decoder.decode(data, reference, net, tile=32)
        return found[codec, kind, choice]

    return of


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("codec", ["jpeg", "gmm"])
@settings(max_examples=3, deadline=None)
@given(corners=st.tuples(st.integers(0, 39), st.integers(0, 69), st.integers(1, 40), st.integers(1, 70)))
def test_a_window_is_the_same_part_of_the_whole(
    codec: str, kind: str, choice: str, files: Any, tiny_models: dict[str, Model], corners: tuple[int, ...]
) -> None:
    data, reference, whole = files(codec, kind, choice)
    top, left, height, width = corners
    window = Box(top, left, min(top + height, 40), min(left + width, 70))
    part = decoder.decode(data, reference, tiny_models[codec], tile=32, window=window)
    assert np.array_equal(part.pixels, whole.pixels[window.slices])


@pytest.mark.parametrize("codec", ["jpeg", "gmm"])
def test_files_of_windows_show_what_they_are_to_show(codec: str, files: Any) -> None:
    """What the references of the test above are: none, in place by an alignment, and a prediction."""
    for kind, (bands, _) in KINDS.items():
        for choice in CHOICES:
            data, _, _ = files(codec, kind, choice)
            _, groups = decoder.disassemble(decoder.container.unpack(data))
            assert len(groups) == -(-bands // 3)
            used = [group.prediction is not None for group in groups]
            assert used == [choice == "predicted" and i > 0 for i in range(len(groups))]
            assert all((group.alignment is not None) == (choice == "moved") for group in groups)
