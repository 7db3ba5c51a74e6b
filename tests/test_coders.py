"""Coders: each gives back the target's shape, more bits buy more quality, and what counts is what a receiver needs."""

import importlib
from typing import Any

import numpy as np
import PIL.features
import PIL.Image
import pytest

from refscale_codec.codec import decoder, encoder, payloads
from refscale_codec.fileformat import container
from refscale_codec.lrcodec.dct.jfif import Jpeg
from refscale_codec.picture.image import Image
from refscale_codec.rescale.net import RescaleNet
from refscale_codec.study import coders, metrics
from refscale_codec.study.coders import Coded, Coder

HERE = coders.baselines()[0]
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
        pytest.skip(f"{name}: {coders.baselines()[1][name]}")
    return NAMES[name]


def assert_sound(coded: Coded, target: Image) -> None:
    assert (coded.decoded.shape, coded.decoded.dtype) == (target.pixels.shape, np.uint8)
    assert coded.bytes_total == sum(coded.bytes_by_section.values())
    assert coded.bytes_by_section.get("picture", coded.bytes_by_section.get("low_res", 0)) > 0
    assert set(coded.seconds) >= {"encode", "decode"}
    assert all(seconds > 0 for seconds in coded.seconds.values())


def assert_more_bits_buy_quality(coder: Coder, target: Image, reference: Image) -> None:
    lowest, highest = (coder.code(target, reference, coder.qualities[end]) for end in (0, -1))
    assert_sound(lowest, target)
    assert_sound(highest, target)
    assert lowest.bytes_total < highest.bytes_total
    assert metrics.psnr(target.pixels, lowest.decoded) < metrics.psnr(target.pixels, highest.decoded) - 1


# --- all of them -----------------------------------------------------------------------------------------------------


def test_names_are_distinct_and_qualities_rise() -> None:
    names = [coder.name for coder in coders.BASELINES]
    assert len(set(names)) == len(names)
    assert {"jpeg", "webp", "x265", "x265-reference", "bicubic-x2", "bicubic-x4"} <= set(names)
    for coder in coders.BASELINES:
        assert list(coder.qualities) == sorted(set(coder.qualities))
        assert len(coder.qualities) >= 6
        assert coder.needs_reference == coder.name.endswith("-reference")


@pytest.mark.parametrize("size", [(48, 64), (29, 37)], ids=["48x64", "29x37"])
@pytest.mark.parametrize("name", [coder.name for coder in coders.BASELINES])
def test_more_bits_buy_quality_and_the_size_stays(name: str, size: tuple[int, int]) -> None:
    assert_more_bits_buy_quality(known(name), picture(*size), picture(*size, seed=1, noise=15))


@pytest.mark.parametrize("name", [c.name for c in coders.BASELINES if not c.name.startswith("bicubic")])
def test_the_best_quality_differs_little(name: str) -> None:
    coder, target = known(name), picture(48, 64)
    coded = coder.code(target, picture(48, 64, seed=1), coder.qualities[-1])
    colour_is_halved = name in ("jpeg-420", "webp", "av1", "av1-reference")
    assert metrics.psnr(target.pixels, coded.decoded) > (30 if colour_is_halved else 37)


@pytest.mark.parametrize("name", [coder.name for coder in coders.BASELINES])
def test_coding_twice_gives_the_same(name: str) -> None:
    coder, target, reference = known(name), picture(29, 37), picture(29, 37, seed=1)
    first, second = (coder.code(target, reference, coder.qualities[3]) for _ in range(2))
    assert first.bytes_total == second.bytes_total
    assert np.array_equal(first.decoded, second.decoded)


@pytest.mark.parametrize("name", [c.name for c in coders.BASELINES if not c.needs_reference])
def test_only_those_that_need_a_reference_look_at_it(name: str) -> None:
    coder, target = known(name), picture(29, 37)
    with_it, without = (coder.code(target, reference, coder.qualities[3]) for reference in (picture(29, 37, 1), None))
    assert with_it.bytes_total == without.bytes_total
    assert np.array_equal(with_it.decoded, without.decoded)


# --- JPEG and bicubic ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "subsampling"), [("jpeg", "4:4:4"), ("jpeg-420", "4:2:0")])
def test_jpeg_is_one_with_standard_tables(name: str, subsampling: Any) -> None:
    target = picture(29, 37)
    payload = Jpeg(subsampling, standard=True).encode(target.pixels, 65)
    coded = known(name).code(target, None, 65)
    assert coded.bytes_total == len(payload)
    assert np.array_equal(coded.decoded, Jpeg().decode(payload, 29, 37))
    assert coded.lr is None


@pytest.mark.parametrize(("name", "size"), [("bicubic-x2", (15, 19)), ("bicubic-x4", (8, 10))])
def test_bicubic_codes_a_reduction_rounded_up(name: str, size: tuple[int, int]) -> None:
    target = picture(29, 37)
    coded = known(name).code(target, None, 97)
    reduced = PIL.Image.fromarray(target.pixels).resize(size[::-1], PIL.Image.Resampling.BICUBIC)
    payload = Jpeg(standard=True).encode(np.array(reduced), 97)
    assert coded.lr is not None
    assert coded.bytes_total == len(payload)
    assert np.array_equal(coded.lr, Jpeg().decode(payload, *size))


# --- video -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec_name", ["x265", "av1"])
def test_a_like_reference_saves_bits_at_no_less_quality_and_an_unlike_one_does_not(codec_name: str) -> None:
    alone, after = known(codec_name), known(f"{codec_name}-reference")
    target, like = picture(48, 64), picture(48, 64, seed=1)
    unlike = Image(np.random.default_rng(2).integers(0, 256, target.pixels.shape, dtype=np.uint8))
    quality = alone.qualities[4]
    intra, helped, misled = alone.code(target, None, quality), *(after.code(target, r, quality) for r in (like, unlike))
    assert helped.bytes_total < 0.3 * intra.bytes_total
    assert metrics.psnr(target.pixels, helped.decoded) > metrics.psnr(target.pixels, intra.decoded)
    assert misled.bytes_total > 3 * helped.bytes_total


@pytest.mark.parametrize("name", ["x265-reference", "av1-reference"])
def test_a_repeated_picture_costs_next_to_nothing_because_its_reference_is_coded_well(name: str) -> None:
    coder, target = known(name), picture(48, 64)
    coded = coder.code(target, target, coder.qualities[1])
    assert coded.bytes_total < 60
    assert metrics.psnr(target.pixels, coded.decoded) > (45 if name.startswith("x265") else 31)


@pytest.mark.parametrize("name", ["x265-reference", "av1-reference"])
def test_a_reference_must_be_there(name: str) -> None:
    coder = known(name)
    with pytest.raises(ValueError, match="needs a reference"):
        coder.code(picture(29, 37), None, coder.qualities[0])


@pytest.mark.parametrize("name", ["x265-reference", "av1-reference"])
def test_a_reference_of_another_size_is_resampled_for_a_video_codec(name: str) -> None:
    coder, target = known(name), picture(48, 64, noise=0)
    larger = Image(np.array(PIL.Image.fromarray(target.pixels).resize((128, 96), PIL.Image.Resampling.BICUBIC)))
    alone = known(name.removesuffix("-reference")).code(target, None, 20)
    with_larger, with_another = (coder.code(target, older, 20) for older in (larger, picture(30, 90, 5, 40)))
    assert_sound(with_larger, target)
    assert with_larger.bytes_total < with_another.bytes_total
    assert with_larger.bytes_total < alone.bytes_total


@pytest.mark.parametrize("name", VIDEO)
def test_a_single_pixel_is_a_picture_too(name: str) -> None:
    coder, target = known(name), Image(np.array([[[200, 40, 90]]], np.uint8))
    coded = coder.code(target, target, coder.qualities[-1])
    assert np.abs(coded.decoded.astype(int) - target.pixels).max() <= 4


def test_x265_streams_begin_with_parameter_sets_and_carry_no_text() -> None:
    known("x265")
    planes = coders._planes_444(coders._padded(picture(48, 64).pixels))
    (packet,) = coders._encoded("libx265", "yuv444p", coders._x265_options(30, 1), [planes])
    kinds = [(part[0] >> 1) & 63 for part in packet.split(b"\0\0\1")[1:]]
    assert kinds[:3] == [32, 33, 34]  # VPS, SPS, PPS
    assert not {39, 40} & set(kinds)  # SEI


def test_the_colours_of_video_come_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.abs(coders._pixels(coders._planes_444(pixels)).astype(int) - pixels).max() <= 2
    flat = pixels.reshape(8, 8, 8, 8, 3)[:, :1, :, :1].repeat(8, 1).repeat(8, 3).reshape(64, 64, 3)
    inner = np.abs(coders._pixels(coders._planes_420(flat)).astype(int) - flat)[4::8, 4::8]
    assert inner.max() <= 12  # bicubic interpolation overshoots from neighbour to neighbour
    grey = np.full((64, 64, 3), 77, np.uint8)
    assert np.array_equal(coders._pixels(coders._planes_420(grey)), grey)


# --- refscale --------------------------------------------------------------------------------------------------------


def test_refscale_counts_the_whole_file_by_part(pair: tuple[Image, Image], tiny_net: RescaleNet) -> None:
    target, reference = pair
    coded = coders.Refscale(tiny_net).code(target, reference, 70)
    data = encoder.encode(target, reference, tiny_net, encoder.EncodeOptions(quality=70))
    sizes = container.bytes_by_section(container.unpack(data))
    assert_sound(coded, target)
    assert (coded.bytes_total, coded.bytes_by_section) == (len(data), sizes)
    assert np.array_equal(coded.decoded, decoder.decode(data, reference, tiny_net).pixels)
    low = payloads.unpack_low_res(container.unpack(data), tiny_net, None)
    assert coded.lr is not None
    assert np.array_equal(coded.lr, low.picture)
    assert (coded.similarity is None) == (low.levels is None)


def test_refscale_alone_uses_no_reference(pair: tuple[Image, Image], tiny_net: RescaleNet) -> None:
    target, reference = pair
    coder = coders.Refscale(tiny_net, "alone")
    coded = coder.code(target, reference, 70)
    data = encoder.encode(target, None, tiny_net, encoder.EncodeOptions(quality=70))
    assert (coded.bytes_total, coded.bytes_by_section["map"], coded.similarity) == (len(data), 0, None)
    assert (coder.name, coder.needs_reference) == ("refscale-x2-alone", False)
    assert coders.Refscale(tiny_net).name == "refscale-x2"
    with pytest.raises(ValueError, match="needs a reference"):
        coders.Refscale(tiny_net).code(target, None, 70)


# --- what is not installed -------------------------------------------------------------------------------------------


def test_missing_packages_are_named_with_the_line_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = importlib.import_module

    def without(name: str, package: str | None = None) -> Any:
        if name in ("av", "pillow_jxl"):
            raise ImportError(name)
        return imported(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    monkeypatch.setattr(PIL.features, "get_supported", lambda: ["webp"])
    here, lines = coders.baselines()
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
    assert set(coders.baselines()[1]) >= {"av1", "av1-reference"}
    assert not {"x265", "x265-reference"} & set(coders.baselines()[1])
