"""Coders: each gives back the target's shape, more bits buy more quality, and what counts is what a receiver needs."""

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL.features
import PIL.Image
import pytest

from refscale_codec.codec import decoder, encoder, payloads
from refscale_codec.errors import UsageError
from refscale_codec.fileformat import container
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.study import metrics, qualities
from refscale_codec.study.coders import baselines, jpeg, names, video
from refscale_codec.study.coders.protocol import CodedPicture, Coder
from refscale_codec.study.coders.refscale import Refscale

HERE = baselines.available()[0]
NAMES = {coder.name: coder for coder in HERE}
VIDEO = ("x265", "x265-reference", "av1", "av1-reference")


def picture(height: int, width: int, seed: int = 0, noise: float = 2) -> Image:
    """Waves, edges and noise of a standard deviation in levels, which differs by seed and is all that does."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 3 + y / 7), np.cos(x / 5 - y / 4), np.sin((x + y) / 6)], axis=-1)
    edges = ((x // 5 + y // 6) % 2)[..., None]
    grain = np.random.default_rng(seed).normal(0, noise, waves.shape)
    return Image(np.rint(100 + 50 * waves + 40 * edges + grain).clip(0, 255).astype(np.uint8))


def known(name: str) -> Coder:
    if name not in NAMES:
        pytest.skip(f"{name}: {baselines.available()[1][name]}")
    return NAMES[name]


def coded_by(coder: Coder, target: Image, reference: Image | None, quality: int) -> CodedPicture:
    (coded,) = coder.code(target, reference, [quality])
    return coded


def assert_sound(coded: CodedPicture, target: Image) -> None:
    assert (coded.decoded.shape, coded.decoded.dtype) == (target.pixels.shape, np.uint8)
    assert coded.bytes_total == sum(coded.bytes_by_section.values())
    assert coded.bytes_by_section.get("picture", coded.bytes_by_section.get("low_res", 0)) > 0
    assert set(coded.seconds) >= {"encode", "decode"}
    assert all(seconds > 0 for seconds in coded.seconds.values())


def assert_more_bits_buy_quality(coder: Coder, target: Image, reference: Image) -> None:
    lowest, highest = (coded_by(coder, target, reference, coder.qualities[end]) for end in (0, -1))
    assert_sound(lowest, target)
    assert_sound(highest, target)
    assert lowest.bytes_total < highest.bytes_total
    assert metrics.psnr(target.pixels, lowest.decoded) < metrics.psnr(target.pixels, highest.decoded) - 1


# --- all of them -----------------------------------------------------------------------------------------------------


def test_names_are_distinct_and_qualities_rise() -> None:
    names = [coder.name for coder in baselines.BASELINES]
    assert len(set(names)) == len(names)
    assert {"jpeg", "webp", "x265", "x265-reference", "bicubic-x2", "bicubic-x4"} <= set(names)
    for coder in baselines.BASELINES:
        assert list(coder.qualities) == sorted(set(coder.qualities))
        assert len(coder.qualities) >= 6
        assert coder.needs_reference == coder.name.endswith("-reference")


@pytest.mark.parametrize("size", [(48, 64), (29, 37)], ids=["48x64", "29x37"])
@pytest.mark.parametrize("name", [coder.name for coder in baselines.BASELINES])
def test_more_bits_buy_quality_and_the_size_stays(name: str, size: tuple[int, int]) -> None:
    assert_more_bits_buy_quality(known(name), picture(*size), picture(*size, seed=1, noise=15))


@pytest.mark.parametrize("name", [c.name for c in baselines.BASELINES if not c.name.startswith("bicubic")])
def test_the_best_quality_differs_little(name: str) -> None:
    coder, target = known(name), picture(48, 64)
    coded = coded_by(coder, target, picture(48, 64, seed=1), coder.qualities[-1])
    colour_is_halved = name in ("jpeg-420", "webp", "av1", "av1-reference")
    assert metrics.psnr(target.pixels, coded.decoded) > (30 if colour_is_halved else 37)


@pytest.mark.parametrize("name", [coder.name for coder in baselines.BASELINES])
def test_coding_twice_gives_the_same(name: str) -> None:
    coder, target, reference = known(name), picture(29, 37), picture(29, 37, seed=1)
    first, second = (coded_by(coder, target, reference, coder.qualities[3]) for _ in range(2))
    assert first.bytes_total == second.bytes_total
    assert np.array_equal(first.decoded, second.decoded)


@pytest.mark.parametrize("name", [c.name for c in baselines.BASELINES if not c.needs_reference])
def test_only_those_that_need_a_reference_look_at_it(name: str) -> None:
    coder, target = known(name), picture(29, 37)
    with_it, without = (
        coded_by(coder, target, reference, coder.qualities[3]) for reference in (picture(29, 37, 1), None)
    )
    assert with_it.bytes_total == without.bytes_total
    assert np.array_equal(with_it.decoded, without.decoded)


# --- JPEG and bicubic ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "subsampling"), [("jpeg", "4:4:4"), ("jpeg-420", "4:2:0")])
def test_jpeg_is_one_with_standard_tables(name: str, subsampling: Any) -> None:
    target = picture(29, 37)
    payload = jpeg.encode(target.pixels, 65, subsampling)
    coded = coded_by(known(name), target, None, 65)
    assert coded.bytes_total == len(payload)
    assert np.array_equal(coded.decoded, jpeg.decode(payload))
    assert coded.lr is None


@pytest.mark.parametrize(("name", "size"), [("bicubic-x2", (15, 19)), ("bicubic-x4", (8, 10))])
def test_bicubic_codes_a_reduction_rounded_up(name: str, size: tuple[int, int]) -> None:
    target = picture(29, 37)
    coded = coded_by(known(name), target, None, 97)
    reduced = PIL.Image.fromarray(target.pixels).resize(size[::-1], PIL.Image.Resampling.BICUBIC)
    payload = jpeg.encode(np.array(reduced), 97)
    assert coded.lr is not None
    assert coded.bytes_total == len(payload)
    assert np.array_equal(coded.lr, jpeg.decode(payload))


# --- video -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec_name", ["x265", "av1"])
def test_a_like_reference_saves_bits_at_no_less_quality_and_an_unlike_one_does_not(codec_name: str) -> None:
    alone, after = known(codec_name), known(f"{codec_name}-reference")
    target, like = picture(48, 64), picture(48, 64, seed=1)
    unlike = Image(np.random.default_rng(2).integers(0, 256, target.pixels.shape, dtype=np.uint8))
    quality = alone.qualities[4]
    intra, helped, misled = (
        coded_by(alone, target, None, quality),
        *(coded_by(after, target, r, quality) for r in (like, unlike)),
    )
    assert helped.bytes_total < 0.3 * intra.bytes_total
    assert metrics.psnr(target.pixels, helped.decoded) > metrics.psnr(target.pixels, intra.decoded)
    assert misled.bytes_total > 3 * helped.bytes_total


@pytest.mark.parametrize("name", ["x265-reference", "av1-reference"])
def test_a_repeated_picture_costs_next_to_nothing_because_its_reference_is_coded_well(name: str) -> None:
    coder, target = known(name), picture(48, 64)
    coded = coded_by(coder, target, target, coder.qualities[1])
    assert coded.bytes_total < 60
    assert metrics.psnr(target.pixels, coded.decoded) > (45 if name.startswith("x265") else 31)


@pytest.mark.parametrize("name", ["x265-reference", "av1-reference"])
def test_a_reference_must_be_there(name: str) -> None:
    coder = known(name)
    with pytest.raises(ValueError, match="needs a reference"):
        coded_by(coder, picture(29, 37), None, coder.qualities[0])


@pytest.mark.parametrize("name", ["x265-reference", "av1-reference"])
def test_a_reference_of_another_size_is_resampled_for_a_video_codec(name: str) -> None:
    coder, target = known(name), picture(48, 64, noise=0)
    larger = Image(np.array(PIL.Image.fromarray(target.pixels).resize((128, 96), PIL.Image.Resampling.BICUBIC)))
    alone = coded_by(known(name.removesuffix("-reference")), target, None, 20)
    with_larger, with_another = (coded_by(coder, target, older, 20) for older in (larger, picture(30, 90, 5, 40)))
    assert_sound(with_larger, target)
    assert with_larger.bytes_total < with_another.bytes_total
    assert with_larger.bytes_total < alone.bytes_total


@pytest.mark.parametrize("name", VIDEO)
def test_a_single_pixel_is_a_picture_too(name: str) -> None:
    coder, target = known(name), Image(np.array([[[200, 40, 90]]], np.uint8))
    coded = coded_by(coder, target, target, coder.qualities[-1])
    assert np.abs(coded.decoded.astype(int) - target.pixels).max() <= 4


def test_x265_streams_begin_with_parameter_sets_and_carry_no_text() -> None:
    known("x265")
    planes = video._planes_444(video._padded(picture(48, 64).pixels))
    (packet,) = video._encoded("libx265", "yuv444p", video._x265_options(30, 1), [planes])
    kinds = [(part[0] >> 1) & 63 for part in packet.split(b"\0\0\1")[1:]]
    assert kinds[:3] == [32, 33, 34]  # VPS, SPS, PPS
    assert not {39, 40} & set(kinds)  # SEI


def test_the_colours_of_video_come_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.abs(video._pixels(video._planes_444(pixels)).astype(int) - pixels).max() <= 2
    flat = pixels.reshape(8, 8, 8, 8, 3)[:, :1, :, :1].repeat(8, 1).repeat(8, 3).reshape(64, 64, 3)
    inner = np.abs(video._pixels(video._planes_420(flat)).astype(int) - flat)[4::8, 4::8]
    assert inner.max() <= 12  # bicubic interpolation overshoots from neighbour to neighbour
    grey = np.full((64, 64, 3), 77, np.uint8)
    assert np.array_equal(video._pixels(video._planes_420(grey)), grey)


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="no such scheduling here")
def test_video_coders_leave_the_scheduling_of_the_process_alone() -> None:
    pytest.importorskip("av")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    before = os.sched_getscheduler(0)
    for coder in baselines.available()[0]:
        if isinstance(coder, video.VideoCoder):
            next(iter(coder.code(Image(pixels), Image(pixels), coder.qualities[:1])))
            assert os.sched_getscheduler(0) == before, coder.name


# --- refscale --------------------------------------------------------------------------------------------------------


def test_refscale_counts_the_whole_file_by_part(pair: tuple[Image, Image], tiny_model: Model) -> None:
    target, reference = pair
    coded = coded_by(Refscale(tiny_model, "refscale-x2"), target, reference, 70)
    data = encoder.encode(target, reference, tiny_model, encoder.EncodeOptions(quality=70))
    sizes = container.bytes_by_section(container.unpack(data))
    assert_sound(coded, target)
    assert (coded.bytes_total, coded.bytes_by_section) == (len(data), sizes)
    assert np.array_equal(coded.decoded, decoder.decode(data, reference, tiny_model).pixels)
    low = payloads.low_res_of(container.unpack(data), tiny_model, None)
    assert coded.lr is not None
    assert np.array_equal(coded.lr, low.picture)
    assert (coded.similarity is None) == (low.similarity_map is None)


def test_refscale_alone_uses_no_reference(pair: tuple[Image, Image], tiny_model: Model) -> None:
    target, reference = pair
    coder = Refscale(tiny_model, "refscale-x2", "alone")
    coded = coded_by(coder, target, reference, 70)
    data = encoder.encode(target, None, tiny_model, encoder.EncodeOptions(quality=70))
    assert (coded.bytes_total, coded.bytes_by_section["map"], coded.similarity) == (len(data), 0, None)
    assert (coder.name, coder.needs_reference) == ("refscale-x2-alone", False)
    assert Refscale(tiny_model, "refscale-x2").name == "refscale-x2"
    with pytest.raises(ValueError, match="needs a reference"):
        coded_by(Refscale(tiny_model, "refscale-x2"), target, None, 70)


def test_refscale_prepares_a_picture_once_and_decodes_one_of_its_files(
    pair: tuple[Image, Image], tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(module: Any, name: str) -> None:
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **named: calls.append(name) or original(*args, **named))

    counted(encoder, "prepare")
    counted(decoder, "decode")
    coder = Refscale(tiny_model, "refscale-x2")
    first, *others = coder.code(*pair, [20, 50, 80])
    assert calls == ["prepare", "decode"]
    assert first.seconds.keys() == {"encode", "decode"}
    assert [coded.seconds.keys() for coded in others] == [{"encode"}] * 2
    assert first.bytes_total < others[0].bytes_total < others[1].bytes_total


def test_a_file_that_decodes_to_something_else_is_no_result(
    pair: tuple[Image, Image], tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = decoder.decode

    def off_by_one(*args: Any) -> Image:
        pixels = original(*args).pixels.copy()
        pixels[0, 0, 0] ^= 1
        return Image(pixels)

    monkeypatch.setattr(decoder, "decode", off_by_one)
    with pytest.raises(RuntimeError, match="1 levels off"):
        list(Refscale(tiny_model, "refscale-x2").code(*pair, [50]))


def test_the_map_is_only_the_map_though_the_reference_is_moved(tiny_model: Model) -> None:
    y, x = np.mgrid[0:96, 0:96]
    place = 128 + 60 * np.sin(x / 3)[..., None] * np.cos(y / 5 + np.arange(3)[:, None, None]).transpose(1, 2, 0)
    place = place + np.random.default_rng(0).normal(0, 12, place.shape)
    older, target = (Image(place[top : top + 80, :80].clip(0, 255).astype(np.uint8)) for top in (0, 6))
    coded = coded_by(Refscale(tiny_model, "refscale-x2"), target, older, 50)
    file = container.unpack(encoder.prepare(target, older, tiny_model).code(50).file())
    assert file.alignment is not None, "the test needs a reference that is moved"
    assert file.similarity_map is not None
    assert 0 < coded.bytes_by_section["map"] - len(file.similarity_map) < 10  # around a payload
    assert coded.bytes_by_section["alignment"] > len(file.alignment)


def test_weights_name_their_coders(tmp_path: Path, tiny_model: Model) -> None:
    paths = [tmp_path / name for name in ("refscale-x2.safetensors", "mine.safetensors")]
    assert names.of_weights(paths) == ["refscale-x2", "refscale-mine"]
    runs = [tmp_path / run / "weights.safetensors" for run in ("a", "b")]
    assert names.of_weights(runs) == ["refscale-a-weights", "refscale-b-weights"]
    with pytest.raises(UsageError, match="one name"):
        names.of_weights([runs[0], runs[0]])
    assert Refscale(tiny_model, "refscale-x2").label == "refscale ×2 with reference"
    assert Refscale(tiny_model, "refscale-mine", "alone").label == "refscale ×2 (refscale-mine) without reference"


# --- what is not installed -------------------------------------------------------------------------------------------


def test_missing_packages_are_named_with_the_line_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = importlib.import_module

    def without(name: str, package: str | None = None) -> Any:
        if name in ("av", "pillow_jxl"):
            raise ImportError(name)
        return imported(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    monkeypatch.setattr(PIL.features, "get_supported", lambda: ["webp"])
    here, lines = baselines.available()
    assert [coder.name for coder in here] == ["jpeg", "jpeg-420", "webp", "bicubic-x2", "bicubic-x4"]
    assert lines == {
        "jpeg2000": "pip install --upgrade pillow",
        "avif": "pip install --upgrade pillow",
        "jxl": "pip install pillow-jxl-plugin",
        **{name: "pip install --upgrade av" for name in VIDEO},
    }


def test_pyav_without_an_encoder_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")
    monkeypatch.setattr(av, "codecs_available", {"libx265"})
    assert set(baselines.available()[1]) >= {"av1", "av1-reference"}
    assert not {"x265", "x265-reference"} & set(baselines.available()[1])


def test_curves_have_rising_qualities_at_every_scale() -> None:
    assert qualities.REFSCALE.keys() == set(container.SCALES)
    assert all(list(some) == sorted(set(some)) for some in qualities.REFSCALE.values())
