"""Quantised DCT coefficients: held to the formulas of T.81, to whole numbers, and to libjpeg by way of Pillow."""

import io
import math

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refscale_codec.lrcodec.dct import coefficients, jfif
from refscale_codec.lrcodec.dct.coefficients import DCT, LARGEST, YCBCR, ZIGZAG, Floats, Indices
from refscale_codec.rescale.tiled import LowRes

SIZES = [(1, 1), (1, 2), (1, 17), (9, 1), (2, 3), (8, 8), (15, 31), (33, 17)]


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """A colourful picture with edges, in the range 20..235."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 3 + y / 7), np.cos(x / 5 - y / 4), np.sin((x + y) / 6)]
    edges = ((x // 5 + y // 6) % 2)[..., None]
    return np.rint(100 + 70 * np.stack(waves, axis=-1) + 50 * edges).clip(20, 235).astype(np.uint8)


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def jpeg_of(pixels: NDArray[np.uint8], **options: object) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def sampling_factors(payload: bytes) -> list[tuple[int, int]]:
    """Horizontal and vertical sampling factors of Y, Cb and Cr, out of the frame header and not by Pillow."""
    at = 2
    while payload[at + 1] not in (0xC0, 0xC1, 0xC2):  # SOF0 to SOF2
        assert payload[at] == 0xFF
        at += 2 + int.from_bytes(payload[at + 2 : at + 4], "big")
    components = payload[at + 10 : at + 10 + 3 * payload[at + 9]]
    return [(factors >> 4, factors & 15) for factors in components[1::3]]


def uniform_indices(seed: int, rows: int, columns: int, largest: int) -> Indices:
    return np.random.default_rng(seed).integers(-largest, largest + 1, (rows, columns, 3, 64)).astype(np.int16)


def indices_in(jpeg: bytes, rows: int, columns: int) -> Indices:
    """Return what a baseline 4:4:4 JPEG holds, read bit by bit with the Huffman tables in its headers."""
    tables: dict[int, dict[str, int]] = {}
    at, marker = 2, 0
    while marker != 0xDA:
        marker, size = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        segment, at = jpeg[at + 4 : at + 2 + size], at + 2 + size
        while marker == 0xC4 and segment:
            counts, table, code = segment[1:17], tables.setdefault(segment[0], {}), 0
            symbols = iter(segment[17:])
            for length, count in enumerate(counts, 1):
                for _ in range(count):
                    table[f"{code:0{length}b}"] = next(symbols)
                    code += 1
                code <<= 1
            segment = bytes(symbols)
    bits = iter("".join(f"{byte:08b}" for byte in jpeg[at:-2].replace(b"\xff\0", b"\xff")))

    def symbol(table: dict[str, int]) -> int:
        code = ""
        while code not in table:
            code += next(bits)
        return table[code]

    def value(size: int) -> int:
        text = "".join(next(bits) for _ in range(size))
        return 0 if not text else int(text, 2) - (0 if text[0] == "1" else (1 << size) - 1)

    indices, last = np.zeros((rows, columns, 3, 64), np.int16), [0, 0, 0]
    for row, column, component in np.ndindex(rows, columns, 3):
        dc, ac = tables[min(component, 1)], tables[0x10 + min(component, 1)]
        last[component] += value(symbol(dc))
        indices[row, column, component, 0] = last[component]
        k = 1
        while k < 64 and (found := symbol(ac)):
            k += found >> 4
            indices[row, column, component, k] = value(found & 15)
            k += 1
    assert set(rest := "".join(bits)) <= {"1"} and len(rest) < 8
    return indices


def random_indices(seed: int, rows: int, columns: int, largest: int = 1023) -> Indices:
    rng = np.random.default_rng(seed)
    spread = 2 ** rng.uniform(-3, math.log2(2 * largest), 64)
    return np.rint(rng.normal(0, spread, (rows, columns, 3, 64))).clip(-largest, largest).astype(np.int16)


def wide(height: int, width: int) -> Floats:
    """Real-valued noise far beyond 0..255."""
    return np.random.default_rng(3).uniform(-300, 600, (height, width, 3)).astype(np.float32)


def test_zigzag_is_that_of_the_standard() -> None:
    assert coefficients.ZIGZAG[:10] == [0, 1, 8, 16, 9, 2, 3, 10, 17, 24]
    assert coefficients.ZIGZAG[-3:] == [55, 62, 63]
    assert sorted(coefficients.ZIGZAG) == list(range(64))


@pytest.mark.parametrize("quality", [1, 24, 25, 49, 50, 51, 85, 99, 100])
def test_quantiser_steps_are_those_in_the_file(quality: int) -> None:
    zigzag = coefficients.steps(quality)
    for jpeg in (
        jpeg_of(noise(8, 8), qtables=coefficients.tables(quality)),
        jfif.write(np.zeros((1, 1, 3, 64), np.int16), 8, 8, quality),
    ):
        tables = PIL.Image.open(io.BytesIO(jpeg)).quantization  # type: ignore[attr-defined]
        for component, table in ((0, 0), (1, 1), (2, 1)):
            assert [zigzag[component, coefficients.ZIGZAG.index(i)] for i in range(64)] == list(tables[table])


def test_step_sizes_are_one_law_for_numbers_arrays_and_tensors() -> None:
    wanted = [5000 / q if q < 50 else 200 - 2 * q for q in range(1, 101)]
    assert [coefficients.step_percent(q) for q in range(1, 101)] == wanted
    qualities = np.arange(1, 101)
    assert coefficients.step_percent(qualities).tolist() == wanted
    assert coefficients.step_percent(torch.from_numpy(qualities).double()).tolist() == pytest.approx(wanted)
    assert coefficients.step_percent(qualities / 100, highest=1) == pytest.approx(wanted)


def test_a_flat_picture_has_dc_alone() -> None:
    indices = coefficients.quantise(np.full((8, 8, 3), 178, np.float32), 50)
    assert indices[0, 0, 0, 0] == 22  # 8 * (178 - 128) / 18
    assert np.count_nonzero(indices) == 1


def test_dequantised_samples_are_those_of_the_formulas() -> None:
    indices = random_indices(1, 1, 1)
    a = np.zeros((3, 8, 8))
    for k, place in enumerate(coefficients.ZIGZAG):
        a[:, place // 8, place % 8] = (indices[0, 0] * coefficients.steps(70))[:, k]
    c = [1 / math.sqrt(2)] + 7 * [1]
    samples = np.zeros((8, 8, 3))
    for y, x, v, u in np.ndindex(8, 8, 8, 8):  # T.81, A.3.3
        wave = math.cos((2 * x + 1) * u * math.pi / 16) * math.cos((2 * y + 1) * v * math.pi / 16)
        samples[y, x] += c[u] * c[v] * wave / 4 * a[:, v, u]
    luma, cb, cr = np.moveaxis(samples, -1, 0)
    expected = np.stack([luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb], axis=-1) + 128
    found = coefficients.dequantise(indices, 8, 8, 70)
    assert found.dtype == np.float32
    assert np.allclose(found, expected, rtol=1e-4, atol=0.05)


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 4), columns=st.integers(1, 4), quality=st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_quantising_dequantised_indices_gives_them_back(seed: int, rows: int, columns: int, quality: int) -> None:
    for indices in (random_indices(seed, rows, columns), random_indices(seed, rows, columns, 20)):
        dequantised = coefficients.dequantise(indices, 8 * rows, 8 * columns, quality)
        assert np.array_equal(coefficients.quantise(dequantised, quality), indices)


@pytest.mark.parametrize("quality", [40, 90])
@pytest.mark.parametrize("size", SIZES)
def test_a_picture_is_filled_up_by_repeating_its_last_row_and_column(size: tuple[int, int], quality: int) -> None:
    height, width = size
    rows, columns = -(-height // 8), -(-width // 8)
    lr = wide(height, width)
    filled = np.pad(lr, ((0, 8 * rows - height), (0, 8 * columns - width), (0, 0)), mode="edge")
    indices = coefficients.quantise(lr, quality)
    assert (indices.shape, indices.dtype) == ((rows, columns, 3, 64), np.int16)
    assert np.array_equal(indices, coefficients.quantise(filled, quality))
    whole = coefficients.dequantise(indices, 8 * rows, 8 * columns, quality)
    dequantised = coefficients.dequantise(indices, height, width, quality)
    assert dequantised.shape == lr.shape
    assert np.allclose(dequantised, whole[:height, :width], atol=1e-3)


@pytest.mark.parametrize("size", [(8, 8), (15, 31), (48, 48)])
def test_nothing_is_clipped_or_rounded_to_8_bits(size: tuple[int, int]) -> None:
    lr = wide(*size)
    dequantised = coefficients.dequantise(coefficients.quantise(lr, 100), *size, 100)
    assert dequantised.min() < -250
    assert dequantised.max() > 550
    assert abs(dequantised - lr).max() < 2
    assert abs(dequantised - lr).mean() < 0.5
    # a change far below one level is there afterwards
    flat = np.full((8, 8, 3), 100, np.float32)
    shifted, plain = (coefficients.dequantise(coefficients.quantise(x, 100), 8, 8, 100) for x in (flat + 0.25, flat))
    assert np.allclose(shifted - plain, 0.25, atol=1e-3)


@pytest.mark.parametrize("quality", [1, 50, 100])
def test_indices_stay_within_their_bound(quality: int) -> None:
    lr = np.float32(1e7) * (wide(16, 16) - 150)
    indices = coefficients.quantise(lr, quality)
    assert coefficients.LARGEST == 1023
    assert (indices.min(), indices.max()) == (-1023, 1023)


def mild(height: int, width: int) -> list[NDArray[np.uint8]]:
    """Return waves and noise in the range 64..191: no decoder has to clip what quantising makes of them."""
    return [(64 + made(height, width) // 2).astype(np.uint8) for made in (picture, noise)]


@pytest.mark.parametrize("quality", [5, 50, 85])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (15, 31), (48, 48)])
def test_indices_are_those_of_libjpeg(size: tuple[int, int], quality: int) -> None:
    for lr in (picture(*size), noise(*size), *mild(*size)):
        indices = coefficients.quantise(lr.astype(np.float32), quality)
        theirs = indices_in(jpeg_of(lr, qtables=coefficients.tables(quality), subsampling="4:4:4"), *indices.shape[:2])
        assert abs(indices - theirs).max() <= 1
        assert (indices == theirs).mean() > 0.97


@pytest.mark.parametrize("quality", [5, 50, 85, 100])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (15, 31), (48, 48)])
def test_viewers_see_what_indices_dequantise_to(size: tuple[int, int], quality: int) -> None:
    for lr in mild(*size):
        indices = coefficients.quantise(lr.astype(np.float32), quality)
        dequantised = LowRes(coefficients.dequantise(indices, *size, quality), None).picture
        jpeg = jfif.write(indices, *size, quality)
        assert sampling_factors(jpeg) == [(1, 1), (1, 1), (1, 1)]
        with PIL.Image.open(io.BytesIO(jpeg)) as opened:
            assert (opened.format, opened.mode, opened.size) == ("JPEG", "RGB", size[::-1])
            seen = np.array(opened)
        assert abs(seen.astype(int) - dequantised).max() <= 2  # libjpeg's DCT is one of integers


@pytest.mark.parametrize("quality", [1, 10, 30, 50, 70])
@pytest.mark.parametrize("size", [(8, 8), (48, 48), (16, 40)])
def test_what_libjpeg_wrote_is_written_again_to_the_byte(size: tuple[int, int], quality: int) -> None:
    lr = mild(*size)[0]
    jpeg = jpeg_of(lr, qtables=coefficients.tables(quality), subsampling="4:4:4")  # not fitted
    decoded = np.array(PIL.Image.open(io.BytesIO(jpeg)), np.float32)
    assert jfif.write(coefficients.quantise(decoded, quality), *size, quality) == jpeg


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 4), columns=st.integers(1, 4), quality=st.integers(1, 100))
@settings(max_examples=40, deadline=None)
def test_any_indices_are_written(seed: int, rows: int, columns: int, quality: int) -> None:
    jpeg = jfif.write(random_indices(seed, rows, columns), 8 * rows - 3, 8 * columns, quality)
    assert np.array_equal(indices_in(jpeg, rows, columns), random_indices(seed, rows, columns))
    with PIL.Image.open(io.BytesIO(jpeg)) as opened:
        assert opened.size == (8 * columns, 8 * rows - 3)
        opened.load()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_indices_at_the_bounds_are_written(share: float) -> None:
    rng = np.random.default_rng(7)
    signs = rng.choice([-1023, 1023], (3, 2, 3, 64)) * (rng.random((3, 2, 3, 64)) < share)
    indices = signs.astype(np.int16)
    indices[0, 0, :, 63] = indices[2, 1, :, 0] = -1023  # after as many zeros as there can be
    indices[2, 0, :, 0] = 1023  # DC differs by 2046, the most there can be
    assert np.array_equal(indices_in(jfif.write(indices, 24, 16, 50), 3, 2), indices)


# --- whole numbers ---------------------------------------------------------------------------------------------------


def by_whole_numbers(indices: Indices, quality: int) -> np.ndarray:
    """The picture, times 16, by Python's own integers."""
    rows, columns = indices.shape[:2]
    idct = [[round(2**20 * x) for x in row] for row in DCT.T.tolist()]
    to_rgb = [[262144, 262144, 262144], [0, -90213, 464519], [367526, -187206, 0]]
    dequantised_coefficients = (indices.astype(int) * coefficients.steps(quality))[..., np.argsort(ZIGZAG)].astype(
        object
    )
    idct, to_rgb = np.array(idct, object), np.array(to_rgb, object)
    picture = np.empty((8 * rows, 8 * columns, 3), object)
    for row, column in np.ndindex(rows, columns):
        half_way = [((idct @ dequantised_coefficients[row, column, c].reshape(8, 8)) + 512) >> 10 for c in range(3)]
        ycbcr = np.stack([((x @ idct.T) + (1 << 19)) >> 20 for x in half_way], axis=-1)
        picture[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = ((ycbcr @ to_rgb + (1 << 23)) >> 24) + 16 * 128
    return picture


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 30, LARGEST]), st.integers(1, 100))
def test_dequantised_pictures_are_whole_numbers_of_sixteenths(
    seed: int, rows: int, columns: int, largest: int, quality: int
) -> None:
    indices = uniform_indices(seed, rows, columns, largest)
    dequantised = coefficients.dequantise(indices, 8 * rows, 8 * columns, quality)
    wanted = by_whole_numbers(indices, quality).astype(np.int64)
    assert np.array_equal(dequantised, (wanted / 16).astype(np.float32))


@pytest.mark.parametrize("quality", [10, 75, 98])
def test_dequantised_pictures_are_near_the_real_transform(quality: int) -> None:
    indices = uniform_indices(quality, 4, 5, 3)
    dequantised_coefficients = (indices * coefficients.steps(quality))[..., np.argsort(ZIGZAG)].reshape(4, 5, 3, 8, 8)
    blocks = (DCT.T @ dequantised_coefficients @ DCT).transpose(0, 3, 1, 4, 2).reshape(32, 40, 3)
    wanted = blocks @ np.linalg.inv(np.array(YCBCR)).T + 128
    dequantised = coefficients.dequantise(indices, 32, 40, quality)
    assert (abs(dequantised - wanted) < 1 / 30 + 2e-6 * abs(wanted).max()).all()
    assert np.array_equal(coefficients.dequantise(indices, 27, 33, quality), dequantised[:27, :33])
