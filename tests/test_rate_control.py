"""Targets: never above in bytes, never below in dB, few tries, and an error where no quality gives it."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refscale_codec import model, weights_files
from refscale_codec.codec import decoder, encoder, rate_control
from refscale_codec.codec.rate_control import Target
from refscale_codec.errors import TargetError
from refscale_codec.fileformat import container
from refscale_codec.lrcodec.dct import coefficients, entropy
from refscale_codec.model import Model
from refscale_codec.picture import manifest
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.rescale import tiled
from refscale_codec.study import metrics


def coder(level: float, slope: float, thrift_slope: float, tried: list[tuple[int, float]]):
    """Return what codes a made-up picture: its values are nearly straight over the abscissa, and fall with thrift."""

    def one(quality: int, thrift: float) -> rate_control._Try:
        tried.append((quality, thrift))
        value = level + slope * rate_control._ABSCISSA[quality] + 0.1 * math.sin(quality / 7)
        return rate_control._Try(quality, thrift, value - thrift_slope * (thrift - 1), None)  # type: ignore[arg-type]

    return one


@settings(deadline=None)
@given(
    wanted=st.floats(2000, 1e6),
    level=st.floats(11, 14),
    slope=st.floats(0.8, 1.6),
    thrift_slope=st.floats(0.02, 0.2),
    start=st.integers(5, 97),
    finer=st.booleans(),
)
def test_a_size_is_not_exceeded(
    wanted: float, level: float, slope: float, thrift_slope: float, start: int, finer: bool
) -> None:
    tried: list[tuple[int, float]] = []
    one = coder(level, slope, thrift_slope, tried)
    target = Target("bytes", wanted)
    try:
        best, count = rate_control._search(one, lambda but: None, target, start, finer)
    except TargetError:
        assert one(1, 1.0).value > math.log(wanted)
        return
    assert best.value <= math.log(wanted)
    assert count == len(tried) <= rate_control.TRIES
    assert finer or all(thrift == 1.0 for _, thrift in tried)


@settings(deadline=None)
@given(wanted=st.floats(22, 45), level=st.floats(42, 52), slope=st.floats(2.5, 5), start=st.integers(5, 97))
def test_a_psnr_is_reached(wanted: float, level: float, slope: float, start: int) -> None:
    tried: list[tuple[int, float]] = []
    one = coder(level, slope, 0.2, tried)
    try:
        best, count = rate_control._search(one, lambda but: None, Target("psnr", wanted), start, True)
    except TargetError:
        assert one(100, 1.0).value < wanted
        return
    assert best.value >= wanted
    assert count == len(tried) <= rate_control.TRIES


def test_thrift_takes_indices_nearer_to_zero_only_and_makes_payloads_smaller(
    tiny_model: Model, pair: tuple[Image, Image]
) -> None:
    low = tiled.downscale(pair[0], None, tiny_model.rescaler, 80)
    exact = coefficients.in_steps(low.lr, 80)
    coded = [entropy.quantise_and_encode(exact, 80, worth) for worth in (0, 0.02, 0.1)]
    payloads, (plain, *others) = zip(*coded, strict=True)
    assert np.array_equal(plain, coefficients.quantise(low.lr, 80))
    for other in others:
        changed = plain != other
        assert changed.any()
        assert not changed[..., 0].any()
        assert np.array_equal(other[changed], (plain - np.sign(plain))[changed])
    assert len(payloads[0]) > len(payloads[1]) > len(payloads[2])


@pytest.mark.parametrize("with_reference", [True, False])
def test_a_file_of_a_size_decodes_and_holds_the_hash(
    tiny_model: Model, pair: tuple[Image, Image], with_reference: bool
) -> None:
    picture, reference = pair[0], pair[1] if with_reference else None
    options = encoder.EncodeOptions(output_hash=True)
    reached = rate_control.encode(picture, reference, tiny_model, Target("bytes", 350), options)
    assert 0.9 * 350 <= len(reached.data) <= 350  # the curves of an untrained net are rough
    assert reached.tries <= rate_control.TRIES
    content = container.unpack(reached.data)
    assert content.header.quality == reached.quality
    assert content.output_hash == decoder.decode(reached.data, reference, tiny_model).fingerprint()


def test_a_psnr_is_that_of_what_the_file_decodes_to(tiny_model: Model, pair: tuple[Image, Image]) -> None:
    reached = rate_control.encode(*pair, tiny_model, Target("psnr", 20.0))
    assert reached.psnr == metrics.psnr(pair[0].pixels, decoder.decode(reached.data, pair[1], tiny_model).pixels)
    assert reached.psnr >= 20.0


@pytest.mark.parametrize("target", [Target("bytes", 40), Target("psnr", 90)], ids=str)
def test_what_no_quality_gives_is_an_error(tiny_model: Model, pair: tuple[Image, Image], target: Target) -> None:
    with pytest.raises(TargetError, match=r"cannot be reached: quality (1|100) gives"):
        rate_control.encode(*pair, tiny_model, target)


@pytest.mark.parametrize(("target", "quality"), [(Target("bytes", 10**20), 100), (Target("psnr", 0.5), 1)], ids=str)
def test_what_every_quality_gives_is_the_end_of_the_scale(
    tiny_model: Model, pair: tuple[Image, Image], target: Target, quality: int
) -> None:
    reached = rate_control.encode(*pair, tiny_model, target)
    assert reached.quality == quality
    assert reached.data == encoder.encode(*pair, tiny_model, encoder.EncodeOptions(quality))


def test_a_real_picture_comes_within_two_percent(data_folder: Path) -> None:
    pair = next(p for p in manifest.read_manifest(data_folder / "manifest.csv", ("dev",)) if p.reference is not None)
    assert pair.reference is not None
    cut = [Image(np.ascontiguousarray(pictures.read(p).pixels[:96, :96])) for p in (pair.target, pair.reference)]
    net = model.load(weights_files.shipped(2))
    reached = rate_control.encode(*cut, net, Target("bytes", 1500))
    assert 0.98 * 1500 <= len(reached.data) <= 1500
