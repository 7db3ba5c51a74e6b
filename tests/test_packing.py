"""Packed JPEGs: what comes back is the JPEG to the byte, and a bad payload is one named error."""

import hashlib
import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refscale_codec import codec, image
from refscale_codec.errors import ContainerError
from refscale_codec.lrcodec import coefficients, packing
from refscale_codec.lrcodec.jpeg import Jpeg
from refscale_codec.rescale import weights

ROOT = Path(__file__).resolve().parent.parent
KINDS = ["noise", "extremes", "waves", "flat", "black"]


def picture(kind: str, height: int, width: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 3 + y / 7), np.cos(x / 5 - y / 4), np.sin((x + y) / 6)], axis=-1)
    made = {
        "noise": rng.integers(0, 256, (height, width, 3)),
        "extremes": rng.integers(0, 2, (height, width, 3)) * 255,
        "waves": np.rint(127 + 120 * waves),
        "flat": np.full((height, width, 3), 77),
        "black": np.zeros((height, width, 3)),
    }
    return made[kind].astype(np.uint8)


def jpeg_of(pixels: NDArray[np.uint8], **options: object) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def standard(pixels: NDArray[np.uint8], quality: int) -> bytes:
    return Jpeg(optimize=False).encode(pixels, quality)


pictures = st.builds(picture, st.sampled_from(KINDS), st.integers(1, 41), st.integers(1, 41))

# --- coefficients ----------------------------------------------------------------------------------------------------


@given(pixels=pictures, quality=st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_a_jpeg_of_pillow_is_read_and_written_again_to_the_byte(pixels: NDArray[np.uint8], quality: int) -> None:
    size = pixels.shape[:2]
    jpeg = standard(pixels, quality)
    levels = coefficients.read(jpeg, *size, quality)
    assert levels is not None
    assert levels.shape == (-(-size[0] // 8), -(-size[1] // 8), 3, 64)
    assert coefficients.write(levels, *size, quality) == jpeg


def test_flat_picture_has_dc_alone() -> None:
    levels = coefficients.read(standard(np.full((8, 8, 3), 178, np.uint8), 50), 8, 8, 50)
    assert levels is not None
    assert levels[0, 0, 0, 0] == 22  # 8 * (178 - 128) / 18
    assert np.count_nonzero(levels) == 1


def test_zigzag_is_that_of_the_standard() -> None:
    assert coefficients.ZIGZAG[:10] == [0, 1, 8, 16, 9, 2, 3, 10, 17, 24]
    assert coefficients.ZIGZAG[-3:] == [55, 62, 63]
    assert sorted(coefficients.ZIGZAG) == list(range(64))


@pytest.mark.parametrize("quality", [1, 24, 25, 49, 50, 51, 85, 99, 100])
def test_quantiser_steps_are_those_in_the_file(quality: int) -> None:
    tables = PIL.Image.open(io.BytesIO(standard(picture("noise", 8, 8), quality))).quantization
    zigzag = coefficients.steps(quality)
    for component, table in ((0, 0), (1, 1), (2, 1)):
        assert [zigzag[component, coefficients.ZIGZAG.index(i)] for i in range(64)] == list(tables[table])


@pytest.mark.parametrize(
    "options",
    [
        {"optimize": True},
        {"subsampling": "4:2:0"},
        {"progressive": True},
        {"restart_marker_blocks": 1},
        {"qtables": coefficients.tables(50)},
        {"qtables": None, "quality": 60},
    ],
    ids=str,
)
def test_any_other_jpeg_is_left_alone(options: dict[str, object]) -> None:
    pixels = picture("waves", 33, 17)
    jpeg = jpeg_of(pixels, **{"qtables": coefficients.tables(60), "subsampling": "4:4:4"} | options)
    assert coefficients.read(jpeg, 33, 17, 60) is None
    assert packing.pack(jpeg, 33, 17, 60) is None


def test_a_cut_or_changed_jpeg_is_never_misread() -> None:
    pixels = picture("noise", 16, 16)
    jpeg = standard(pixels, 60)
    for end in range(len(jpeg)):
        assert coefficients.read(jpeg[:end], 16, 16, 60) is None
    for place in range(623, len(jpeg), 7):
        changed = jpeg[:place] + bytes([jpeg[place] ^ 0x10]) + jpeg[place + 1 :]
        levels = coefficients.read(changed, 16, 16, 60)
        assert levels is None or coefficients.write(levels, 16, 16, 60) == changed


@pytest.mark.parametrize(("k", "level"), [(0, 1025), (0, -1025), (5, 1024), (5, -1024)])
def test_levels_that_no_table_can_code_are_refused(k: int, level: int) -> None:
    levels = np.zeros((1, 1, 3, 64), np.int16)
    levels[0, 0, 1, k] = level
    with pytest.raises(ValueError, match="too large"):
        coefficients.write(levels, 8, 8, 50)


# --- packing ---------------------------------------------------------------------------------------------------------


@given(pixels=pictures, quality=st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_unpack_gives_the_jpeg_that_was_packed(pixels: NDArray[np.uint8], quality: int) -> None:
    size = pixels.shape[:2]
    jpeg = standard(pixels, quality)
    packed = packing.pack(jpeg, *size, quality)
    assert packed is not None
    assert packing.unpack(packed, *size, quality) == jpeg


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 6), columns=st.integers(1, 6), quality=st.integers(1, 100))
@settings(max_examples=40, deadline=None)
def test_any_levels_are_packed(seed: int, rows: int, columns: int, quality: int) -> None:
    rng = np.random.default_rng(seed)
    spread = 2 ** rng.uniform(-3, 11, 64)
    levels = np.rint(rng.normal(0, spread, (rows, columns, 3, 64))).clip(-1023, 1023).astype(np.int16)
    size = 8 * rows, 8 * columns
    jpeg = coefficients.write(levels, *size, quality)
    packed = packing.pack(jpeg, *size, quality)
    assert packed is not None
    assert packing.unpack(packed, *size, quality) == jpeg


def made_up_levels() -> NDArray[np.int16]:
    """Levels [3, 2, 3, 64] out of integers alone, so that no DCT's rounding is in the golden bytes."""
    place = np.arange(3 * 2 * 3 * 64).reshape(3, 2, 3, 64)
    k = np.arange(64)
    levels = (place * 7919 % 41 - 20) // (1 + k * k // 2)
    levels[1, 1, 0, 3] = -300
    return levels.astype(np.int16)


GOLDEN = (
    "013f3f3f80fbc77e06106aaeef2fade608e55ecb53c656ef57714d4da23ae99adf65571589bd278a654dd95fd2e8a4b1eb6f"
    "099fa413f6d1c231a631753accfd3bbbe1e52b8db0c69c7325a065c31d318193f3e55b1885d7db4f21c20ad05eac61e275c8"
    "0cfebc62bfb7e3d5457ac21d79fd0c2ca2ced6c885a27a52d183b93b598df2e7f48cbc1ccd6b04b884a05135257fbba1af44"
    "05ad0001cc52a406dd7a5c7feba04f884442965989f18604271e1594665914980e0e753ad37f4ddd38f61dc38fcf1181ce2e"
    "f2c6d58f01e37bdf63fb72ce2acfc8ed66eb96a2c64eb34c2bcd5fa007e224c11820baaebe6760263358d351f1e452eff8fa"
    "816f55ea90d41061dbc14670ee8ce013c9b67277fb0f702ef3cf65cc06fde7993eb6f6d1f5a9d1246050122f545fca4dd253"
    "135ee02bd703ec680a723c9104fab08b02a1041bbf075c5a552d783e570faa955afad9b7c324c19ad80b2d91"
)


def test_golden_bytes_both_ways() -> None:
    jpeg = coefficients.write(made_up_levels(), 20, 13, 70)
    packed = packing.pack(jpeg, 20, 13, 70)
    assert packed is not None
    assert packed.hex() == GOLDEN
    assert packing.unpack(bytes.fromhex(GOLDEN), 20, 13, 70) == jpeg


def test_the_model_is_the_one_that_the_format_names() -> None:
    digest = hashlib.sha256((ROOT / "refscale_codec" / "lrcodec" / "packing.npz").read_bytes()).hexdigest()
    assert digest in (ROOT / "docs" / "FORMAT.md").read_text(encoding="utf-8")


def test_sums_stay_exact_in_doubles() -> None:
    model = packing.shipped()
    largest = coefficients.LARGEST * 255 * 2  # a difference of two amplitudes
    for key in model.mean:
        assert abs(model.mean[key]).sum() * largest < 2**52
        assert model.spread[key].min(initial=0) >= 0
        assert model.spread[key].sum() * largest < 2**52
    assert (model.frequency.sum(axis=-1) == 65536).all()
    assert model.frequency.min() > 0


@given(data=st.data(), quality=st.sampled_from([30, 90]))
@settings(max_examples=60, deadline=None)
def test_a_damaged_payload_is_an_error_or_another_jpeg(data: st.DataObject, quality: int) -> None:
    packed = packing.pack(standard(picture("waves", 40, 24), quality), 40, 24, quality)
    assert packed is not None
    broken = bytearray(packed)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(broken[: data.draw(st.integers(0, len(packed)))])
    for payload in (bytes(broken), cut, cut + b"\0\0\0\0"):
        try:
            found = packing.unpack(payload, 40, 24, quality)
        except ContainerError:
            continue
        assert coefficients.read(found, 40, 24, quality) is not None


def test_words_to_spare_are_refused() -> None:
    packed = packing.pack(standard(picture("waves", 40, 24), 80), 40, 24, 80)
    assert packed is not None
    with pytest.raises(ContainerError, match="to spare"):
        packing.unpack(packed + b"\1\2\3\4\5\6\7\10", 40, 24, 80)


@pytest.mark.parametrize(
    "payload", [b"", b"\1", b"\1\0\0\0", b"\2\0\0\0\0\0\0\0", b"\1\100\0\0\0\0\0\0", b"\1\0\0\0\0\0\0"]
)
def test_what_is_no_packed_jpeg_is_refused(payload: bytes) -> None:
    with pytest.raises(ContainerError, match=r"^the low-res payload is not|^the packed JPEG is damaged"):
        packing.unpack(payload, 9, 9, 50)


def test_the_low_res_picture_of_the_example_takes_far_fewer_bytes() -> None:
    target, reference = (image.read(ROOT / "examples" / f"{name}.png") for name in ("target", "reference"))
    net = weights.load(weights.shipped(2))
    lr = codec.downscale(target, reference, net, 85).lr
    height, width = lr.shape[:2]
    for quality in (30, 85):
        packed = packing.pack(standard(lr, quality), height, width, quality)
        assert packed is not None
        assert len(packed) < 0.85 * len(Jpeg().encode(lr, quality))
