"""The similarity map survives its coder, costs little where it says little, and hostile bytes have one way to fail."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.rescale import similarity_map

SMALL = np.array([[0, 1, 2, 3, 3], [0, 1, 1, 2, 3], [0, 0, 1, 2, 2], [3, 0, 0, 1, 1]], np.uint8)
FEW = np.array([[3, 3, 3, 2], [3, 3, 2, 1], [3, 2, 1, 0]], np.uint8)
MANY = np.array([[0, 17, 34, 255], [16, 33, 50, 67], [128, 1, 254, 3]], np.uint8)


def noise(rows: int, columns: int, levels: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, levels, (rows, columns), dtype=np.uint8)


def raw_size(x: NDArray[np.uint8], levels: int) -> float:
    """Bytes of a map without any coder, each level in log2(levels) bits."""
    return x.size * math.log2(levels) / 8


# --- round trip ------------------------------------------------------------------------------------------------------


@st.composite
def maps(draw: st.DrawFn) -> tuple[NDArray[np.uint8], int]:
    levels = draw(st.integers(2, 256))
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    return draw(arrays(np.uint8, shape, elements=st.integers(0, levels - 1))), levels


@given(maps())
@settings(max_examples=60, deadline=None)
def test_a_map_survives_the_round_trip(drawn: tuple[NDArray[np.uint8], int]) -> None:
    x, levels = drawn
    decoded = similarity_map.decode(similarity_map.encode(x, levels), *x.shape, levels)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, x)


@pytest.mark.parametrize("levels", [2, 3, 4, 8, 9, 255, 256])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 40), (40, 1), (2, 2), (31, 40)])
def test_noise_survives_the_round_trip(shape: tuple[int, int], levels: int) -> None:
    x = noise(*shape, levels)
    assert np.array_equal(similarity_map.decode(similarity_map.encode(x, levels), *shape, levels), x)


def test_encoding_leaves_its_argument_alone_and_takes_any_memory_layout() -> None:
    x = noise(9, 7, 4)
    kept = x.copy()
    payload = similarity_map.encode(x, 4)
    assert np.array_equal(x, kept)
    assert similarity_map.encode(np.asfortranarray(x), 4) == payload
    assert similarity_map.encode(x[::-1, ::-1][::-1, ::-1], 4) == payload


# --- what it costs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "levels"), [(1, 4), (2, 4), (1, 3), (254, 256)])
def test_a_constant_map_costs_one_byte(level: int, levels: int) -> None:
    constant = np.full((64, 63), level, np.uint8)
    assert similarity_map.encode(constant, levels) == bytes([level])
    assert np.array_equal(similarity_map.decode(bytes([level]), 64, 63, levels), constant)


@pytest.mark.parametrize(("level", "levels"), [(0, 4), (3, 4), (4, 4), (255, 4), (1, 2), (255, 256)])
def test_a_single_byte_must_be_a_level_that_needs_it(level: int, levels: int) -> None:
    with pytest.raises(ContainerError, match="1 bytes"):
        similarity_map.decode(bytes([level]), 64, 63, levels)


@pytest.mark.parametrize("levels", [2, 4, 256])
@pytest.mark.parametrize("shape", [(1, 1), (64, 63)])
def test_a_map_of_the_highest_level_has_no_payload(shape: tuple[int, int], levels: int) -> None:
    highest = np.full(shape, levels - 1, np.uint8)
    assert similarity_map.encode(highest, levels) is None
    decoded = similarity_map.decode(None, *shape, levels)
    assert (decoded.dtype, decoded.shape) == (np.uint8, shape)
    assert np.array_equal(decoded, highest)


@pytest.mark.parametrize("word", ["00000000", "ffffff3f", "ffffff7f", "ffffffff"])
def test_a_map_that_is_the_same_everywhere_is_not_coded_in_words(word: str) -> None:
    with pytest.raises(ContainerError, match="not the encoding of any map"):
        similarity_map.decode(bytes.fromhex(word), 1, 1, 4)  # one of the four levels each


def test_a_map_of_zeros_costs_nothing() -> None:
    assert similarity_map.encode(np.zeros((3, 5), np.uint8), 4) == b""
    assert not similarity_map.decode(b"", 3, 5, 4).any()


@pytest.mark.parametrize(("levels", "share"), [(4, 0.3), (16, 0.5), (256, 0.9)])
def test_a_smooth_map_costs_clearly_less_than_its_raw_size(levels: int, share: float) -> None:
    y, x = np.mgrid[0:64, 0:64]
    smooth = np.clip(np.hypot(y - 30, x - 20) / 64 * levels, 0, levels - 1).astype(np.uint8)
    assert len(similarity_map.encode(smooth, levels)) < share * raw_size(smooth, levels)


def test_noise_costs_little_more_than_its_raw_size() -> None:
    x = noise(64, 64, 4)
    assert len(similarity_map.encode(x, 4)) < 1.1 * raw_size(x, 4)


# --- golden bytes: files written by any version decode for ever ------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "levels", "golden"),
    [
        (SMALL, 4, "c0a8c92d a886a9a0"),
        (FEW, 4, "0078edfe"),
        (MANY, 256, "ff112200 3c366c1b 577b4f7a 00005a33"),
    ],
    ids=["4 levels", "4 levels, mostly the top one", "256 levels"],
)
def test_golden_bytes_both_ways(x: NDArray[np.uint8], levels: int, golden: str) -> None:
    payload = bytes.fromhex(golden)
    assert similarity_map.encode(x, levels).hex() == payload.hex()
    assert np.array_equal(similarity_map.decode(payload, *x.shape, levels), x)


# --- damage ----------------------------------------------------------------------------------------------------------


def map_or_error(payload: bytes, rows: int, columns: int, levels: int) -> NDArray[np.uint8] | None:
    try:
        decoded = similarity_map.decode(payload, rows, columns, levels)
    except ContainerError as error:
        assert "map" in str(error)
        return None
    assert (decoded.shape, decoded.dtype) == ((rows, columns), np.uint8)
    assert decoded.max() < levels
    return decoded


@pytest.mark.parametrize("extra", [b"\0", b"\0\0", b"abc"])
def test_a_length_that_is_no_multiple_of_4_is_refused(extra: bytes) -> None:
    payload = similarity_map.encode(SMALL, 4)
    with pytest.raises(ContainerError, match=f"{len(payload) + len(extra)} bytes"):
        similarity_map.decode(payload + extra, *SMALL.shape, 4)
    with pytest.raises(ContainerError, match=f"{len(payload) - len(extra)} bytes"):
        similarity_map.decode(payload[: -len(extra)], *SMALL.shape, 4)


def test_a_truncated_map_is_an_error_or_another_map_in_range() -> None:
    x = noise(16, 16, 4)
    payload = similarity_map.encode(x, 4)
    for size in range(0, len(payload), 4):
        decoded = map_or_error(payload[:size], 16, 16, 4)
        assert decoded is None or not np.array_equal(decoded, x)


@pytest.mark.parametrize("word", [b"\0\0\0\0", b"\1\2\3\4", b"\xff\xff\xff\xff"])
@pytest.mark.parametrize("words", [1, 2, 3, 50])
def test_extra_words_are_refused_or_change_nothing(words: int, word: bytes) -> None:
    decoded = map_or_error(similarity_map.encode(SMALL, 4) + words * word, *SMALL.shape, 4)
    assert decoded is None or np.array_equal(decoded, SMALL)
    assert decoded is None or words == 1  # the coder reads one word ahead and cannot tell


def test_a_map_of_another_size_does_not_pass_for_a_smaller_one() -> None:
    payload = similarity_map.encode(noise(20, 20, 4), 4)
    with pytest.raises(ContainerError, match="not the encoding of any map"):
        similarity_map.decode(payload, 3, 3, 4)


@given(
    payload=st.binary(max_size=64) | st.binary(max_size=16).map(lambda words: 4 * words),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    levels=st.integers(2, 256),
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_a_map_in_range_or_a_container_error(
    payload: bytes, rows: int, columns: int, levels: int
) -> None:
    found = map_or_error(payload, rows, columns, levels)
    assert found is None or similarity_map.encode(found, levels) == payload


@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_gives_a_map_in_range_or_a_container_error(position: int, flip: int) -> None:
    smap = noise(12, 12, 4)
    payload = bytearray(similarity_map.encode(smap, 4))
    payload[position % len(payload)] ^= flip
    found = map_or_error(bytes(payload), 12, 12, 4)
    assert found is None or not np.array_equal(found, smap)
