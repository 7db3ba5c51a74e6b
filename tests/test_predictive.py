"""The predictive codec: what is decoded is what was coded, within the bound, for any samples; damage is named."""

import decimal
import hashlib
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.lrcodec.predictive import (
    codec,
    coefficients,
    distributions,
    fitting,
    neighbourhood,
    residuals,
    scan,
)
from refscale_codec.lrcodec.predictive.codec import PredictiveCodec, quality_of, step_of
from refscale_codec.lrcodec.predictive.neighbourhood import FRACTION, MISSED, OWN, Counts
from refscale_codec.lrcodec.predictive.scan import LARGEST, LARGEST_OFFSET, Coefficients, Front
from refscale_codec.picture.image import Image
from refscale_codec.rangecoder import Decoder, Encoder
from refscale_codec.rescale import tiled

Pixels = NDArray[Any]
CODEC = PredictiveCodec()
SIZES = [(1, 1), (1, 2), (1, 9), (2, 1), (7, 1), (2, 2), (2, 11), (3, 3), (9, 2), (5, 4), (13, 17), (4, 40), (40, 3)]


def levels(pixels: Pixels) -> NDArray[np.float32]:
    """Samples as the rescaler of scale 1 hands them over."""
    return np.asarray(pixels / np.float32(np.iinfo(pixels.dtype).max // 255), np.float32)


def back(received: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[np.int64]:
    """Samples of received levels, as the decoder rounds them."""
    return np.rint(received * np.float32(np.iinfo(dtype).max // 255)).astype(np.int64)


def drawn(kind: str, size: tuple[int, int], dtype: str, seed: int) -> Pixels:
    """Samples of a kind of content, [h, w, 3]."""
    rng, full = np.random.default_rng(seed), int(np.iinfo(dtype).max)
    shape, (y, x) = (*size, 3), np.mgrid[: size[0], : size[1]][..., None]
    return np.asarray(
        {
            "zeros": lambda: np.zeros(shape),
            "highest": lambda: np.full(shape, full),
            "constants": lambda: np.broadcast_to(rng.integers(0, full + 1, 3), shape),
            "noise": lambda: rng.integers(0, full + 1, shape),
            "saturated": lambda: full * rng.integers(0, 2, shape),
            "spikes": lambda: np.where(rng.random(shape) < 0.02, full, rng.integers(0, 3, shape)),
            "edges": lambda: full * ((x // 3 + y // 2 + np.arange(3)) % 2),
            "smooth": lambda: full * (0.5 + 0.4 * np.sin(x / 9 + seed) * np.cos(y / 7) + rng.normal(0, 0.004, shape)),
            "bands alike": lambda: rng.integers(0, full + 1, size)[..., None] // (1 + np.arange(3)),
        }[kind](),
        dtype,
    )


KINDS = "zeros", "highest", "constants", "noise", "saturated", "spikes", "edges", "smooth", "bands alike"


@st.composite
def cases(draw: st.DrawFn) -> tuple[Pixels, Pixels | None, int]:
    """A picture, a reference or none, and a quality."""
    size, seed = draw(st.sampled_from(SIZES)), draw(st.integers(0, 1000))
    picture = drawn(draw(st.sampled_from(KINDS)), size, draw(st.sampled_from(["u1", "u2"])), seed)
    older = draw(st.sampled_from([None, "u1", "u2", "same"]))
    if older == "same":
        reference = picture
    elif older is not None:
        reference = drawn(draw(st.sampled_from(KINDS)), size, older, draw(st.sampled_from([seed, seed + 1])))
    return picture, None if older is None else reference, draw(st.sampled_from([100, 99, 98, 95, 75, 40, 1]))


@settings(max_examples=80, deadline=None)
@given(case=cases())
def test_what_is_decoded_is_what_was_coded_within_the_bound(case: tuple[Pixels, Pixels | None, int]) -> None:
    picture, reference, quality = case
    coded = CODEC.code(levels(picture), reference, quality)
    decoded = CODEC.decode(coded.payload, picture.shape[:2], reference, quality)
    assert decoded.dtype == np.float32 and np.array_equal(decoded, coded.received)
    received = back(decoded, picture.dtype)
    whole = picture.dtype == np.uint8 or not (picture % 257).any()  # 8 bits hold it
    unit = np.iinfo(picture.dtype).max // 255 if whole else 1
    assert abs(received - picture).max() <= step_of(quality) // 2 * unit
    assert received.min() >= 0 and received.max() <= np.iinfo(picture.dtype).max
    if quality == 100:
        assert (received == picture).all()


@pytest.mark.parametrize(
    ("size", "dtype", "with_reference"),
    [((300, 7), "u1", False), ((300, 7), "u2", True), ((5, 460), "u2", False), ((5, 460), "u1", True)],
)
def test_pictures_beyond_a_strip_and_a_part(size: tuple[int, int], dtype: str, with_reference: bool) -> None:
    assert max(size) > codec._STRIP and (max(size) > 2 * fitting._SIDE or size[0] > 2 * codec._STRIP)
    picture = drawn("smooth", size, dtype, 1)
    reference = drawn("smooth", size, dtype, 1)[:, ::-1] if with_reference else None
    coded = CODEC.code(levels(picture), reference, 100)
    assert np.array_equal(CODEC.decode(coded.payload, size, reference, 100), levels(picture))
    assert len(coded.payload) < 0.8 * picture.nbytes


def test_samples_beyond_the_scale_are_taken_to_its_ends() -> None:
    lr = np.array([[[-3.0, 260.0, 7.0], [0.0, 255.0, 1e6]]], np.float32)
    coded = CODEC.code(lr, None, 100)
    assert np.array_equal(coded.received, lr.clip(0, 255))
    assert np.array_equal(CODEC.decode(coded.payload, (1, 2), None, 100), coded.received)


def test_a_reference_that_is_the_picture_takes_most_of_the_bytes() -> None:
    picture = drawn("noise", (40, 40), "u1", 3)
    alone, known = (len(CODEC.code(levels(picture), reference, 100).payload) for reference in (None, picture))
    assert known < 0.1 * alone
    other = drawn("noise", (40, 40), "u1", 4)
    coded = CODEC.code(levels(picture), picture, 100)
    try:
        wrong = CODEC.decode(coded.payload, (40, 40), other, 100)
    except ContainerError:
        return
    assert not np.array_equal(wrong, levels(picture))


def test_a_reference_of_another_depth_tells_as_much() -> None:
    picture = drawn("smooth", (30, 40), "u1", 5)
    same, deep = (CODEC.code(levels(picture), each, 100) for each in (picture, picture.astype(np.uint16) * 257))
    assert same.payload == deep.payload
    wide = picture.astype(np.uint16) * 257 + np.uint16(1)
    wide[wide == 0] = 0
    assert len(CODEC.code(levels(wide), picture, 100).payload) < 0.2 * wide.nbytes


def test_the_low_res_reference_at_scale_1_is_the_picture_with_all_its_bits() -> None:
    for dtype in ("u1", "u2"):
        pixels = drawn("noise", (5, 7), dtype, 1)
        found = tiled.low_res_reference(Image(pixels), 1)
        assert found.dtype == pixels.dtype and np.array_equal(found, pixels)


def test_several_threads_may_use_one_codec() -> None:
    pictures = [drawn("smooth", (20, 20 + i), "u1", i) for i in range(4)]
    found: dict[int, bool] = {}

    def run(index: int) -> None:
        coded = CODEC.code(levels(pictures[index]), None, 100)
        decoded = CODEC.decode(coded.payload, pictures[index].shape[:2], None, 100)
        found[index] = np.array_equal(decoded, levels(pictures[index]))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), True)


# --- steps -----------------------------------------------------------------------------------------------------------


def test_steps_of_qualities_by_hand() -> None:
    steps = [step_of(quality) for quality in range(100, 0, -1)]
    assert steps[:20] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 19, 21, 23]
    assert all(a < b for a, b in zip(steps, steps[1:], strict=False))
    assert steps[-1] == 22102


@given(st.integers(0, 65535))
@example(0)
@example(3)
def test_the_quality_of_a_bound_is_the_lowest_that_keeps_it(largest: int) -> None:
    quality = quality_of(largest)
    assert step_of(quality) // 2 <= largest
    assert quality == 1 or step_of(quality - 1) // 2 > largest


# --- integers --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 30))
@example(0)
@example((1 << 26) - 1)
def test_lg_is_that_of_whole_numbers(d: int) -> None:
    """Of d + 1/2 and of d + 8, for doubles and for 32-bit floats that hold them."""
    for halves in (2 * d + 1, 2 * (d + 8)):
        k = halves.bit_length() - 1
        expected = 64 * (k - 1) + (64 * (halves - (1 << k)) >> k)
        assert neighbourhood.lg(np.array([halves / 2]))[0] == expected
        if halves < 1 << 24:
            assert neighbourhood.lg(np.array([halves / 2], np.float32))[0] == expected


def test_no_entry_of_the_tables_hangs_on_the_last_bits_of_exp() -> None:
    """Doubles are off by 1e-8 of a part at most; whether one below 2 1/2 is rounded to 1 or 2 does not matter."""
    parts = distributions._masses() * distributions._ONE
    parts = parts[parts > distributions._FLOOR + 0.25]
    assert len(parts) > 40_000
    assert abs(parts - np.floor(parts) - 0.5).min() > 1e-5


def test_the_tables_are_those_of_exact_arithmetic() -> None:
    """A sample of entries with 60 digits, and all by their hash in docs/FORMAT.md."""
    decimal.getcontext().prec = 60
    one, tail, wider = decimal.Decimal(1), decimal.Decimal("0.03"), decimal.Decimal(3)

    def below(edge: decimal.Decimal, scale: decimal.Decimal) -> decimal.Decimal:
        return sum(
            share / (one + (-edge / (scale * times)).exp()) for share, times in ((one - tail, one), (tail, wider))
        ) or decimal.Decimal(0)

    found = distributions.probabilities() * 2**22
    assert found.shape == (56 * 32, 48) and (found == np.floor(found)).all()
    for row, symbol in [(0, 24), (5, 23), (700, 25), (1001, 24), (1234, 20), (1500, 30), (1791, 1), (1791, 46)]:
        scale = decimal.Decimal(2) ** (decimal.Decimal(row // 32 - 40) / 8)
        mean = (decimal.Decimal(row % 32) + decimal.Decimal("0.5")) / 32 - decimal.Decimal("0.5")
        low, high = (decimal.Decimal(symbol + more - 24) - decimal.Decimal("0.5") - mean for more in (0, 1))
        mass = 2**22 * (below(high, scale) - below(low, scale))
        assert found[row, symbol] == max(2, int(mass.to_integral_value()))
    assert hashlib.sha256(found.astype("<u4").tobytes()).hexdigest() in (ROOT / "docs" / "FORMAT.md").read_text("utf-8")


def test_no_symbol_is_counted_for_more_than_it_takes() -> None:
    """What the decoder counts of a payload, see `rangecoder.Decoder`: 9/10 of what a probability says."""
    given = distributions.probabilities()
    count = given.shape[1]
    before = np.cumsum(given, axis=1) - given
    limits = np.floor(before * ((2**24 - count) / given.sum(axis=1, keepdims=True))) + np.arange(count)
    shares = np.diff(limits, axis=1, append=2.0**24)
    assert (24 - np.log2(shares) >= -0.95 * np.log2(given)).all()


def test_wavefronts_come_after_what_they_look_at() -> None:
    for height, width in SIZES:
        order = {}
        for t, top, bottom in neighbourhood.wavefronts(height, width):
            for y in range(top, bottom + 1):
                assert 0 <= t - 2 * y < width
                order[y, t - 2 * y] = t
        assert len(order) == height * width
        for (y, x), t in order.items():
            for dy, dx in (*OWN, *MISSED):
                assert order.get((y + dy, x + dx), -1) < t


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(SIZES), st.integers(0, 1000), st.booleans())
def test_neighbours_are_those_of_the_plane_with_its_border(
    size: tuple[int, int], seed: int, with_reference: bool
) -> None:
    rng = np.random.default_rng(seed)
    wanted, reference = rng.integers(0, 256, size).astype(float), rng.integers(0, 256, size).astype(float)
    used = random_coefficients(rng, with_reference)
    seen = {}

    def visit(front: Front) -> NDArray[np.float64]:
        for at, *each in zip(front.at, front.mean, front.scale, front.own.T, front.activity.T, strict=True):
            seen[int(at)] = each
        return wanted.ravel()[front.at]

    known = rng.integers(-(1 << 22), 1 << 22, (2, *size)).astype(float)
    plane, errors = scan.run(size, used, *known, reference if with_reference else None, 77, 255, visit)
    assert np.array_equal(plane, wanted)

    def place(y: int, x: int) -> tuple[float, bool]:
        """The sample and whether it lies in the picture."""
        if 0 <= y < size[0] and 0 <= x < size[1]:
            return wanted[y, x], True
        if y < 0 or (x < 0 and y == 0):
            return 77, False
        return (wanted[y - 1, 0] if x < 0 else wanted[y, -1]), False

    for at, (mean, scale, own, activity) in seen.items():
        y, x = divmod(at, size[1])
        assert own.tolist() == [place(y + dy, x + dx)[0] for dy, dx in OWN]
        total = int(used.own @ own + known[0, y, x])
        assert mean == min(max((total * FRACTION + 2048) // 4096, 0), 255 * FRACTION)
        assert errors[y, x] == FRACTION * wanted[y, x] - mean
        assert scale == int(used.own_activity @ activity + known[1, y, x]) // 4096
        for column, (dy, dx) in enumerate(MISSED[:6]):
            missed = abs(errors[y + dy, x + dx]) if place(y + dy, x + dx)[1] else 0
            assert activity[len(activity) - 9 + column] == neighbourhood.lg(np.array([missed + 8.0]))[0]


def random_coefficients(rng: np.random.Generator, with_reference: bool) -> Coefficients:
    return Coefficients(
        rng.integers(-2000, 2800, len(OWN)).astype(float),
        np.zeros(1),
        rng.integers(-1200, 1200, 17 + with_reference).astype(float),
        np.zeros(0),
    )


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("highest", [255, 65535])
def test_coefficients_at_their_limits_do_not_overflow(highest: int, sign: int) -> None:
    """Sums of a plane with all that it can be predicted from, of samples at their highest."""
    counts, size = neighbourhood.counts(2, True), (6, 9)
    most = Coefficients(*(np.full(count, float(sign * LARGEST)) for count in (len(OWN), *counts)))
    most.values[0] = sign * LARGEST_OFFSET
    full = np.full(size, highest, np.float32)
    wrong = np.full(size, FRACTION * highest, np.float32)
    values, activity = codec._totals(size, most, [full, full], [wrong, wrong], [full, full, full])
    assert (values == sign * (LARGEST_OFFSET + LARGEST * 77 * highest)).all()
    assert abs(values).max() * FRACTION < 2**53 and abs(activity).max() < 2**53
    plane = highest * np.random.default_rng(1).integers(0, 2, 54).astype(np.float64)
    coded, payload = [], b""
    for step in (1, step_of(1)):
        coder = Encoder()
        visit = residuals.ResidualCoder(coder, step, highest, plane)
        coded = scan.run(size, most, values, activity, full, highest, highest, visit)
        payload = coder.payload()
        again = residuals.ResidualCoder(Decoder(payload, "it"), step, highest)
        decoded = scan.run(size, most, values, activity, full, highest, highest, again)
        assert np.array_equal(coded[0], decoded[0]) and abs(coded[0].ravel() - plane).max() <= step // 2


@given(
    st.lists(st.integers(-LARGEST, LARGEST) | st.integers(-40, 40) | st.just(0), min_size=30, max_size=30),
    st.integers(-LARGEST_OFFSET, LARGEST_OFFSET),
)
def test_coefficients_come_back(values: list[int], offset: int) -> None:
    each = np.array(values, float)
    fitted = Coefficients(each[:13], np.array([float(offset)]), each[14:], np.zeros(0))
    coder = Encoder()
    coefficients.code(coder, Counts(1, 16, 0), fitted)
    found = coefficients.code(Decoder(coder.payload(), "it"), Counts(1, 16, 0), None)
    for a, b in zip(fitted, found, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize(
    ("parameter", "folded"), [(15, 2 * LARGEST + 1), (15, 2 * LARGEST + 20_000), (4, 2 * LARGEST + 1)]
)
def test_a_coefficient_beyond_the_limit_is_refused(parameter: int, folded: int) -> None:
    coder = Encoder()
    coder.signed(0)
    coder.uniform(16, parameter)
    for _ in range(folded >> parameter):
        coder.bit(0)
    coder.bit(1)
    for place in reversed(range(parameter)):
        coder.bit(folded >> place & 1)
    payload = coder.payload() + bytes(400)
    with pytest.raises(ContainerError, match="a coefficient is out of range"):
        coefficients.code(Decoder(payload, "it"), Counts(1, 16, 0), None)


@pytest.mark.parametrize("offset", [-LARGEST_OFFSET - 1, LARGEST_OFFSET + 1])
def test_an_offset_beyond_the_limit_is_refused(offset: int) -> None:
    coder = Encoder()
    coder.signed(offset)
    with pytest.raises(ContainerError, match="a coefficient is out of range"):
        coefficients.code(Decoder(coder.payload() + bytes(400), "it"), Counts(1, 16, 0), None)


# --- fits ------------------------------------------------------------------------------------------------------------


def scene(levels: int) -> NDArray[np.uint16]:
    """Samples of a narrow range far from 0, with noise, [48, 64, 3]."""
    rng, (y, x) = np.random.default_rng(2), np.mgrid[:48, :64][..., None]
    waves = np.sin(x / 9) * np.cos(y / 7) + rng.normal(0, 0.1, (48, 64, 1)) + np.arange(3) / 9
    return np.asarray(levels + 150 * waves + rng.normal(0, 4, (48, 64, 3)), np.uint16)


@pytest.mark.parametrize("level", [400, 40_000])
def test_noise_around_a_level_is_predicted_by_the_level(level: int) -> None:
    """It has an entropy of log2(50 sqrt(2 pi e)) = 7.7 bits a sample, from neighbours alone it is further off."""
    noise = np.random.default_rng(1).normal(level, 50, (64, 64, 3)).clip(0).astype(np.uint16)
    assert 8 * len(CODEC.code(levels(noise), None, 100).payload) / noise.size < 8


def test_bands_that_are_alike_are_coded_once_about() -> None:
    """As in a group whose last band stands in several places; fits must not run away where errors are nearly 0."""
    alike, other = scene(2000)[..., [1, 1, 1]], scene(2000)
    for quality in (100, 94, 80):
        size, all_of_it = (len(CODEC.code(levels(each), None, quality).payload) for each in (alike, other))
        assert size < 0.85 * all_of_it


# --- damage ----------------------------------------------------------------------------------------------------------


def payloads() -> Iterator[tuple[bytes, Pixels, Pixels | None, int]]:
    for kind, dtype, older, quality in [
        ("smooth", "u1", None, 100),
        ("smooth", "u2", "u2", 97),
        ("noise", "u1", "u1", 90),
        ("zeros", "u2", None, 100),
        ("saturated", "u2", "u1", 1),
    ]:
        picture = drawn(kind, (12, 15), dtype, 1)
        reference = None if older is None else drawn("smooth", (12, 15), older, 1)
        yield CODEC.code(levels(picture), reference, quality).payload, picture, reference, quality


CODED = list(payloads())


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_payloads_are_refused_or_give_a_picture(data: st.DataObject) -> None:
    payload, picture, reference, quality = data.draw(st.sampled_from(CODED))
    kind = data.draw(st.sampled_from(["noise", "bytes", "truncated", "flipped", "inserted", "longer"]))
    at = data.draw(st.integers(0, len(payload) - 1))
    damaged = {
        "noise": np.random.default_rng(at).bytes(4 * (at // 4)),
        "bytes": data.draw(st.binary(max_size=64)),
        "truncated": payload[:at],
        "flipped": payload[:at] + bytes([payload[at] ^ 1 << data.draw(st.integers(0, 7))]) + payload[at + 1 :],
        "inserted": payload[: at // 4 * 4] + data.draw(st.binary(min_size=4, max_size=4)) + payload[at // 4 * 4 :],
        "longer": payload + bytes(4) * data.draw(st.integers(3, 5)),
    }[kind]
    try:
        found = CODEC.decode(damaged, picture.shape[:2], reference, quality)
    except ContainerError as error:
        assert len(str(error).splitlines()) == 1
        return
    assert found.shape == picture.shape and np.isfinite(found).all()
    assert found.min() >= 0 and found.max() <= 255
    assert kind != "longer"


def test_a_payload_that_ends_early_is_refused() -> None:
    """It does not go on in the zeros that follow, whatever the picture's size."""
    picture = drawn("noise", (30, 40), "u1", 1)
    payload = CODEC.code(levels(picture), None, 100).payload
    for size, length in (((30, 40), len(payload) // 8 * 4), ((300, 400), len(payload))):
        with pytest.raises(ContainerError, match="ends before the last symbol"):
            CODEC.decode(payload[:length], size, None, 100)


@pytest.mark.parametrize("with_reference", [False, True])
def test_decoding_takes_memory_in_proportion_to_the_picture(with_reference: bool) -> None:
    peaks = []
    for side in (32, 64):
        picture = drawn("smooth", (side, 4 * side), "u1", 1)
        reference = picture if with_reference else None
        payload = CODEC.code(levels(picture), reference, 60).payload
        tracemalloc.start()
        CODEC.decode(payload, picture.shape[:2], reference, 60)
        peaks.append(tracemalloc.get_traced_memory()[1] / (side * 4 * side))
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_a_payload_too_short_for_the_size_is_refused_before_memory_is_taken() -> None:
    flat = np.full((160, 200, 3), 77, np.uint8)
    payload = CODEC.code(levels(flat), None, 100).payload
    assert np.array_equal(CODEC.decode(payload, (160, 200), None, 100), levels(flat))
    tracemalloc.start()
    with pytest.raises(ContainerError, match=f"^the LR payload is damaged: {len(payload)} bytes are too few for the "):
        CODEC.decode(payload, (20_000, 20_000), None, 100)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()
