"""Packed levels: what comes back is what was packed, and a bad payload is one named error."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refscale_codec import model, weights_files
from refscale_codec.errors import ContainerError
from refscale_codec.lrcodec.dct import coefficients, entropy, scan
from refscale_codec.lrcodec.dct.coefficients import Floats, Indices
from refscale_codec.picture.io import pictures
from refscale_codec.rescale import tiled
from refscale_codec.study.coders import jpeg

ROOT = Path(__file__).resolve().parent.parent
KINDS = ["noise", "extremes", "waves", "outside", "flat", "black"]


def picture(kind: str, height: int, width: int) -> Floats:
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 3 + y / 7), np.cos(x / 5 - y / 4), np.sin((x + y) / 6)], axis=-1)
    made = {
        "noise": rng.uniform(0, 255, (height, width, 3)),
        "extremes": rng.integers(0, 2, (height, width, 3)) * 255,
        "waves": 127 + 120 * waves,
        "outside": 127 + 400 * waves,
        "flat": np.full((height, width, 3), 77.3),
        "black": np.zeros((height, width, 3)),
    }
    return made[kind].astype(np.float32)


def levels_of(kind: str, height: int, width: int, quality: int) -> Indices:
    return coefficients.quantise(picture(kind, height, width), quality)


def assert_comes_back(levels: Indices, quality: int) -> None:
    rows, columns = levels.shape[:2]
    payload = entropy.encode(levels, quality)
    found = entropy.decode(payload, 8 * rows - 7, 8 * columns, quality)
    assert found.dtype == np.int16
    assert np.array_equal(found, levels)


@given(kind=st.sampled_from(KINDS), height=st.integers(1, 41), width=st.integers(1, 41), quality=st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_the_levels_of_a_picture_come_back(kind: str, height: int, width: int, quality: int) -> None:
    assert_comes_back(levels_of(kind, height, width, quality), quality)


sizes = {"rows": st.integers(1, 6), "columns": st.integers(1, 6), "quality": st.integers(1, 100)}


@given(seed=st.integers(0, 2**32 - 1), **sizes)
@settings(max_examples=40, deadline=None)
def test_any_levels_come_back(seed: int, rows: int, columns: int, quality: int) -> None:
    rng = np.random.default_rng(seed)
    spread = 2 ** rng.uniform(-3, 11, 64)
    levels = np.rint(rng.normal(0, spread, (rows, columns, 3, 64))).clip(-1023, 1023).astype(np.int16)
    assert_comes_back(levels, quality)


@given(seed=st.integers(0, 2**32 - 1), **sizes)
@settings(max_examples=40, deadline=None)
def test_levels_at_the_bounds_come_back(seed: int, rows: int, columns: int, quality: int) -> None:
    rng = np.random.default_rng(seed)
    levels = rng.choice([-1023, 0, 1023], size=(rows, columns, 3, 64), p=rng.dirichlet([1, 1, 1]))
    assert_comes_back(levels.astype(np.int16), quality)


@pytest.mark.parametrize("fill", [0, 1, -1, 1023, -1023])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 2), (2, 1), (1, 9), (5, 3)])
def test_levels_that_are_all_the_same_come_back(rows: int, columns: int, fill: int) -> None:
    assert_comes_back(np.full((rows, columns, 3, 64), fill, np.int16), 50)


@given(
    block=st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 2), st.integers(0, 63)),
    level=st.integers(-1023, 1023),
    quality=st.integers(1, 100),
)
@settings(max_examples=40, deadline=None)
def test_a_single_level_comes_back(block: tuple[int, int, int, int], level: int, quality: int) -> None:
    levels = np.zeros((2, 3, 3, 64), np.int16)
    levels[block] = level
    assert_comes_back(levels, quality)


def test_a_grey_picture_takes_a_few_bytes() -> None:
    assert len(entropy.encode(np.zeros((1, 1, 3, 64), np.int16), 50)) <= 12
    assert len(entropy.encode(np.zeros((40, 40, 3, 64), np.int16), 50)) < 300


def made_up_levels() -> Indices:
    """Indices [3, 2, 3, 64] out of integers alone, so that no DCT's rounding is in the golden bytes."""
    place = np.arange(3 * 2 * 3 * 64).reshape(3, 2, 3, 64)
    k = np.arange(64)
    levels = (place * 7919 % 41 - 20) // (1 + k * k // 2)
    levels[1, 1, 0, 3] = -300
    return levels.astype(np.int16)


GOLDEN = (
    "3f3f3f80fbc77eff477aae162c340ecddd9c61d51fc8274468e669f33e98a37edf9eda97e92ef53141254676e4eede10f440"
    "587c01bdaf5e1b98d2b08800ce00f0ca8d57254c1e5950dda2d648fb179948c19e01036340ba63aa31f518f9d3c32c42132a"
    "00ce253953922d8dc12b8815e9a917a1bf933a3feda0dda8399591830a1be1b7c8da1da5f8bf98355d401c6ea0029203610d"
    "8aa74a2da28c295d84bc13555d4b5d0171171cca219c75a41a415048086c2a0aae3da3fce21fab768fa01396e97c0e32f117"
    "0dd02fd7738465e73df9b8facbfa62e11281794db455bb5af484cff6ad078f1fb1d3c0e8d3adfb39687a0df70b081f0af359"
    "8d7edac57ed2a9fe44e5fb9442a9862cff3f18fd60ece1d74938324d2a70d5c308fcebcc1effc3fcc4b142188befd0dc0dcc"
    "37faa36d52000253873040cde1a8dafd7530905eafb5e9f027bf18fb3cf98ca383df04508a3a66d86bc07c55d1d773"
)


def test_golden_bytes_both_ways() -> None:
    assert entropy.encode(made_up_levels(), 70).hex() == GOLDEN
    assert np.array_equal(entropy.decode(bytes.fromhex(GOLDEN), 20, 13, 70), made_up_levels())


def test_the_model_is_the_one_that_the_format_names() -> None:
    digest = hashlib.sha256((ROOT / "refscale_codec" / "lrcodec" / "dct" / "tables.npz").read_bytes()).hexdigest()
    assert digest in (ROOT / "docs" / "FORMAT.md").read_text(encoding="utf-8")


def test_sums_stay_exact_in_doubles() -> None:
    model = entropy.shipped()
    largest = coefficients.LARGEST * 255 * 2  # a difference of two amplitudes
    for key in model.mean:
        assert abs(model.mean[key]).sum() * largest < 2**52
        assert model.spread[key].min(initial=0) >= 0
        assert model.spread[key].sum() * largest < 2**52
    assert (model.frequency.sum(axis=-1) == 65536).all()
    assert model.frequency.min() > 0


@given(seed=st.integers(0, 2**32 - 1), **sizes, k=st.integers(1, 63), component=st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_sums_are_the_same_in_single_and_in_double_precision(
    seed: int, rows: int, columns: int, quality: int, k: int, component: int
) -> None:
    rng = np.random.default_rng(seed)
    steps = coefficients.steps(quality)
    widest = 1 << int(rng.integers(1, 11))
    levels = rng.integers(-widest + 1, widest, (rows, columns, 3, 64))
    amplitudes = (levels * steps).astype(np.float32).transpose(2, 3, 0, 1)
    coded = scan.CodedPlanes(amplitudes[:, 0].astype(np.float64))
    for phase, (row, column) in enumerate(scan.PHASES[: 1 + 3 * min(rows - 1, columns - 1, 1)]):
        for other in range(3):
            coded.put(other, k, phase, amplitudes[other, k, row::2, column::2])
        group = scan.ac_group(coded, steps, component, k, phase)
        mean, spread = (weights[group.key] for weights in entropy.shipped()[:2])
        single = entropy.context(group, mean, spread)
        double = entropy.context(group._replace(largest=2.0**53), mean, spread)
        assert all(piece.max(initial=0) <= group.largest for piece in group.sizes)
        assert all(np.array_equal(a, b) for a, b in zip(single, double, strict=True))


# --- bad payloads ----------------------------------------------------------------------------------------------------


def levels_or_error(payload: bytes, height: int, width: int, quality: int) -> Indices | None:
    try:
        found = entropy.decode(payload, height, width, quality)
    except ContainerError as error:
        assert str(error)
        return None
    assert (found.shape, found.dtype) == ((*coefficients.grid(height, width), 3, 64), np.int16)
    highest = np.array(list(payload[:3]))
    assert not found[..., np.arange(64) > highest[:, None]].any()
    return found


@given(data=st.data(), quality=st.sampled_from([30, 90]))
@settings(max_examples=60, deadline=None)
def test_a_damaged_payload_is_an_error_or_other_levels(data: st.DataObject, quality: int) -> None:
    levels = levels_of("waves", 40, 24, quality)
    packed = entropy.encode(levels, quality)
    broken = bytearray(packed)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(broken[: data.draw(st.integers(0, len(packed)))])
    for payload in (bytes(broken), cut, cut + b"\0\0\0\0"):
        found = levels_or_error(payload, 40, 24, quality)
        assert payload == packed or found is None or not np.array_equal(found, levels)


def test_a_cut_payload_never_gives_the_levels() -> None:
    levels = levels_of("waves", 40, 24, 60)
    packed = entropy.encode(levels, 60)
    refused = 0
    for size in range(len(packed)):
        found = levels_or_error(packed[:size], 40, 24, 60)
        assert found is None or not np.array_equal(found, levels)
        assert found is None or size % 4 == 3
        refused += found is None
    assert refused > 0.9 * len(packed)


def test_words_to_spare_are_refused() -> None:
    packed = entropy.encode(levels_of("waves", 40, 24, 80), 80)
    for words in (b"\1\2\3\4\5\6\7\10", bytes(8), bytes(400)):
        with pytest.raises(ContainerError, match="to spare"):
            entropy.decode(packed + words, 40, 24, 80)
    for size in (1, 2, 3, 5):
        with pytest.raises(ContainerError, match="is malformed"):
            entropy.decode(packed + bytes(size), 40, 24, 80)


@pytest.mark.parametrize(
    "place",
    [
        (0, 0, 1, 0),
        (1, 1, 1, 0),
        (0, 0, 1, 5),
        (1, 0, 2, 63),
    ],
    ids=str,
)
@pytest.mark.parametrize("level", [1024, -1024, 1500])
def test_a_level_out_of_range_is_refused(place: tuple[int, int, int, int], level: int) -> None:
    levels = np.zeros((2, 2, 3, 64), np.int16)
    levels[place] = level
    with pytest.raises(ContainerError, match="out of range"):
        entropy.decode(entropy.encode(levels, 50), 16, 16, 50)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\1",
        b"\1\0\0",
        b"\1\0\0\0\0\0\0\0",
        b"\0\100\0\0\0\0\0",
        b"\0\0\0" + b"\xff" * 8,
        b"\xff\xd8\xff\xe0",
    ],
)
def test_what_holds_no_coefficients_is_refused(payload: bytes) -> None:
    with pytest.raises(ContainerError, match="^the low-res payload is (malformed|damaged)"):
        entropy.decode(payload, 9, 9, 50)


def test_the_low_res_picture_of_the_example_takes_far_fewer_bytes() -> None:
    target, reference = (pictures.read(ROOT / "examples" / f"{name}.png") for name in ("target", "reference"))
    net = model.load(weights_files.shipped(2))
    low = tiled.downscale(target, tiled.map_reference(target, reference, net.rescaler), net.rescaler, 85)
    for quality in (30, 85):
        packed = entropy.encode(coefficients.quantise(low.lr, quality), quality)
        assert len(packed) < 0.85 * len(jpeg.encode(low.picture, quality, tables=coefficients.tables(quality)))
