"""Bands predicted from bands: the integers' laws, the fit, golden bytes, and every way a payload can be bad."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.reference import band_prediction
from refscale_codec.reference.band_prediction import ONE, Prediction, Row

U8, U16 = np.dtype("u1"), np.dtype("u2")
SAME = Row((ONE, 0, 0), 0), Row((0, ONE, 0), 0), Row((0, 0, ONE), 0)

numbers = st.integers(-(1 << 15), (1 << 15) - 1)
rows = st.builds(Row, st.tuples(numbers, numbers, numbers), st.integers(-(1 << 31), (1 << 31) - 1))
predictions = st.tuples(rows, rows, rows) | rows.map(lambda row: (row, row, row))


def noise(seed: int, dtype: np.dtype, height: int = 9, width: int = 7) -> NDArray[np.generic]:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True)


@given(predictions, st.integers(0, 99), st.sampled_from([U8, U16]))
@settings(max_examples=60, deadline=None)
def test_every_sample_is_what_the_format_says(rows: Prediction, seed: int, dtype: np.dtype) -> None:
    source = noise(seed, dtype, 3, 2)
    found = band_prediction.predict(source, rows)
    assert found.dtype == dtype
    for y, x, band in np.ndindex(found.shape):
        factors, offset = rows[band]
        total = sum(factor * int(sample) for factor, sample in zip(factors, source[y, x], strict=True))
        assert found[y, x, band] == min(max((total + 2048) // 4096 + offset, 0), np.iinfo(dtype).max)


@given(st.integers(0, 99), st.sampled_from([U8, U16]), st.integers(0, 8), st.integers(0, 6))
@settings(max_examples=30, deadline=None)
def test_a_part_is_predicted_as_in_the_whole(seed: int, dtype: np.dtype, top: int, left: int) -> None:
    source = noise(seed, dtype)
    rows = band_prediction.fit(source, noise(seed + 1, dtype))
    assert np.array_equal(
        band_prediction.predict(source[top:, left:], rows), band_prediction.predict(source, rows)[top:, left:]
    )


def test_strips_for_memory_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    source, rows = noise(1, U8), (Row((5000, -300, 77), -9),) * 3
    whole = band_prediction.predict(source, rows)
    monkeypatch.setattr(band_prediction, "_AT_ONCE", 10)
    assert np.array_equal(band_prediction.predict(source, rows), whole)


@pytest.mark.parametrize("dtype", [U8, U16])
def test_what_follows_from_the_source_is_found(dtype: np.dtype) -> None:
    full = np.iinfo(dtype).max
    source = (noise(3, dtype, 40, 40) // 2 + full // 8).astype(dtype)
    mixed = 0.5 * source[..., 0] + 0.75 * source[..., 1] - 0.25 * source[..., 2]
    group = np.rint(np.dstack([source[..., 2], full / 2 - 0.25 * source[..., 0], mixed])).astype(dtype)
    found = band_prediction.predict(source, band_prediction.fit(source, group))
    assert abs(found.astype(int) - group.astype(int)).max() <= full / 100  # what is added to the spread pulls a little


def test_flat_and_like_bands_give_moderate_factors() -> None:
    flat = np.full((8, 8, 3), 100, np.uint8)
    group = np.full((8, 8, 3), 30, np.uint8)
    assert np.array_equal(band_prediction.predict(flat, band_prediction.fit(flat, group)), group)
    like = noise(4, U8, 40, 40)[..., :1].repeat(3, axis=2)
    rows = band_prediction.fit(like, like)
    assert abs(np.array([row.factors for row in rows])).max() <= ONE
    assert abs(band_prediction.predict(like, rows).astype(int) - like).max() <= 1


@given(predictions)
def test_what_is_packed_comes_back(rows: Prediction) -> None:
    payload = band_prediction.pack(rows)
    assert band_prediction.unpack(payload) == rows
    assert len(payload) == 10 * (1 if rows[0] == rows[1] == rows[2] else 2 if rows[1] == rows[2] else 3)


def test_golden_bytes() -> None:
    row = Row((1, -2, 4096), -70_000)
    assert band_prediction.pack((row, row, row)) == bytes.fromhex("0100 feff 0010 90eefeff")
    assert band_prediction.pack(SAME) == bytes.fromhex(
        "0010 0000 0000 00000000  0000 0010 0000 00000000  0000 0000 0010 00000000"
    )


@pytest.mark.parametrize("payload", [b"", bytes(9), bytes(11), bytes(40), bytes(20), bytes(30), bytes(9) + b"\1" * 21])
def test_a_bad_payload_is_refused(payload: bytes) -> None:
    with pytest.raises(ContainerError, match="PREDICTION"):
        band_prediction.unpack(payload)
