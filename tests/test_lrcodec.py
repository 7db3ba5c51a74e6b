"""Low-res codecs: ids are for ever, pictures come back in their size, and a bad payload is one named error.

The coefficients are held to the formulas of T.81 and to libjpeg, by way of Pillow.
"""

import io
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refscale_codec import lrcodec
from refscale_codec.errors import ContainerError
from refscale_codec.lrcodec.dct import coefficients
from refscale_codec.lrcodec.dct.coefficients import Floats, Levels
from refscale_codec.lrcodec.dct.jfif import Jpeg
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


def mean_error(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(int) - b).mean())


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


# --- the table -------------------------------------------------------------------------------------------------------


def test_ids_in_files_never_change() -> None:
    assert {lrcodec.JPEG: "jpeg", lrcodec.GMM: "gmm"} == lrcodec.NAMES
    assert (lrcodec.JPEG, lrcodec.GMM) == (1, 2)


def test_the_default_jpeg_keeps_all_chroma() -> None:
    assert Jpeg() == Jpeg("4:4:4")


# --- JPEG ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", SIZES)
def test_a_picture_of_any_size_comes_back_in_it(size: tuple[int, int], subsampling: str) -> None:
    lr = picture(*size)
    codec = Jpeg(subsampling)
    decoded = codec.decode(codec.encode(lr, 95), *size)
    assert (decoded.shape, decoded.dtype) == (lr.shape, np.uint8)
    assert mean_error(decoded, lr) < (3 if subsampling == "4:4:4" else 25)


def test_encoding_is_reproducible_and_takes_any_memory_layout() -> None:
    lr = picture(15, 31)
    assert Jpeg().encode(lr, 75) == Jpeg().encode(lr, 75) == Jpeg().encode(np.asfortranarray(lr), 75)
    assert Jpeg().encode(lr[:, ::-1][:, ::-1], 75) == Jpeg().encode(lr, 75)


def test_decoding_does_not_depend_on_the_subsampling_of_the_codec() -> None:
    lr = picture(15, 31)
    payload = Jpeg("4:2:0").encode(lr, 75)
    assert np.array_equal(Jpeg("4:4:4").decode(payload, 15, 31), Jpeg("4:2:0").decode(payload, 15, 31))


def test_higher_quality_is_bigger_and_better() -> None:
    lr = picture(48, 48)
    payloads = [Jpeg().encode(lr, quality) for quality in (1, 10, 30, 60, 90, 100)]
    sizes = [len(payload) for payload in payloads]
    errors = [mean_error(Jpeg().decode(payload, 48, 48), lr) for payload in payloads]
    assert sizes == sorted(set(sizes))
    assert errors == sorted(set(errors), reverse=True)
    assert errors[-1] < 1


@pytest.mark.parametrize(
    ("subsampling", "factors"),
    [
        ("4:4:4", [(1, 1), (1, 1), (1, 1)]),
        ("4:2:2", [(2, 1), (1, 1), (1, 1)]),
        ("4:2:0", [(2, 2), (1, 1), (1, 1)]),
    ],
)
@pytest.mark.parametrize("quality", [10, 75, 100])
def test_the_payload_is_an_ordinary_jpeg_of_the_subsampling_asked_for(
    quality: int, subsampling: str, factors: list[tuple[int, int]]
) -> None:
    payload = Jpeg(subsampling).encode(picture(15, 31), quality)
    assert sampling_factors(payload) == factors
    with PIL.Image.open(io.BytesIO(payload)) as opened:
        assert (opened.format, opened.mode, opened.size) == ("JPEG", "RGB", (31, 15))
        opened.load()


def test_huffman_tables_are_fitted() -> None:
    lr = picture(40, 40)
    assert len(Jpeg().encode(lr, 75)) < len(jpeg_of(lr, qtables=coefficients.tables(75), subsampling="4:4:4"))


@pytest.mark.parametrize("quality", [5, 40, 75, 100])
def test_standard_tables_are_pillows_own(quality: int) -> None:
    lr = picture(40, 40)
    plain = jpeg_of(lr, quality=quality, subsampling="4:4:4", optimize=True)
    assert Jpeg(standard=True).encode(lr, quality) == plain
    assert (Jpeg().encode(lr, quality) == plain) == (quality == 100)  # there all steps are 1


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_noise_of_the_best_quality_fits_the_buffer(subsampling: str) -> None:
    # Pillow writes a JPEG with fitted tables in one go, and its own guess of the buffer is too small for this one.
    assert PIL.ImageFile.MAXBLOCK == 65536
    lr = noise(300, 300)
    decoded = Jpeg(subsampling).decode(Jpeg(subsampling).encode(lr, 100), 300, 300)
    assert mean_error(decoded, lr) < (2 if subsampling == "4:4:4" else 80)


def test_pillow_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    before, during = PIL.ImageFile.MAXBLOCK, []
    save = PIL.Image.Image.save

    def watched(*arguments: object, **options: object) -> None:
        during.append(PIL.ImageFile.MAXBLOCK)
        save(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(PIL.Image.Image, "save", watched)
    lr = noise(300, 300)
    with ThreadPoolExecutor(4) as pool:
        payloads = list(pool.map(lambda quality: Jpeg().encode(lr, quality), [100, 99] * 4))
    assert payloads == [Jpeg().encode(lr, quality) for quality in [100, 99] * 4]
    assert set(during) == {2 * lr.size}
    assert before == PIL.ImageFile.MAXBLOCK
    with pytest.raises(TypeError):
        Jpeg("4:1:7").encode(lr, 100)
    assert before == PIL.ImageFile.MAXBLOCK


# --- coefficients ----------------------------------------------------------------------------------------------------


def levels_in(jpeg: bytes, rows: int, columns: int) -> Levels:
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

    levels, last = np.zeros((rows, columns, 3, 64), np.int16), [0, 0, 0]
    for row, column, component in np.ndindex(rows, columns, 3):
        dc, ac = tables[min(component, 1)], tables[0x10 + min(component, 1)]
        last[component] += value(symbol(dc))
        levels[row, column, component, 0] = last[component]
        k = 1
        while k < 64 and (found := symbol(ac)):
            k += found >> 4
            levels[row, column, component, k] = value(found & 15)
            k += 1
    assert set(rest := "".join(bits)) <= {"1"} and len(rest) < 8
    return levels


def random_levels(seed: int, rows: int, columns: int, largest: int = 1023) -> Levels:
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
        Jpeg().encode(noise(8, 8), quality),
        coefficients.write(np.zeros((1, 1, 3, 64), np.int16), 8, 8, quality),
    ):
        tables = PIL.Image.open(io.BytesIO(jpeg)).quantization  # type: ignore[attr-defined]
        for component, table in ((0, 0), (1, 1), (2, 1)):
            assert [zigzag[component, coefficients.ZIGZAG.index(i)] for i in range(64)] == list(tables[table])


def test_a_flat_picture_has_dc_alone() -> None:
    levels = coefficients.quantise(np.full((8, 8, 3), 178, np.float32), 50)
    assert levels[0, 0, 0, 0] == 22  # 8 * (178 - 128) / 18
    assert np.count_nonzero(levels) == 1


def test_restored_samples_are_those_of_the_formulas() -> None:
    levels = random_levels(1, 1, 1)
    a = np.zeros((3, 8, 8))
    for k, place in enumerate(coefficients.ZIGZAG):
        a[:, place // 8, place % 8] = (levels[0, 0] * coefficients.steps(70))[:, k]
    c = [1 / math.sqrt(2)] + 7 * [1]
    samples = np.zeros((8, 8, 3))
    for y, x, v, u in np.ndindex(8, 8, 8, 8):  # T.81, A.3.3
        wave = math.cos((2 * x + 1) * u * math.pi / 16) * math.cos((2 * y + 1) * v * math.pi / 16)
        samples[y, x] += c[u] * c[v] * wave / 4 * a[:, v, u]
    luma, cb, cr = np.moveaxis(samples, -1, 0)
    expected = np.stack([luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb], axis=-1) + 128
    found = coefficients.restore(levels, 8, 8, 70)
    assert found.dtype == np.float32
    assert np.allclose(found, expected, rtol=1e-4, atol=0.05)


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 4), columns=st.integers(1, 4), quality=st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_quantising_what_levels_restore_gives_them_back(seed: int, rows: int, columns: int, quality: int) -> None:
    for levels in (random_levels(seed, rows, columns), random_levels(seed, rows, columns, 20)):
        restored = coefficients.restore(levels, 8 * rows, 8 * columns, quality)
        assert np.array_equal(coefficients.quantise(restored, quality), levels)


@pytest.mark.parametrize("quality", [40, 90])
@pytest.mark.parametrize("size", SIZES)
def test_a_picture_is_filled_up_by_repeating_its_last_row_and_column(size: tuple[int, int], quality: int) -> None:
    height, width = size
    rows, columns = -(-height // 8), -(-width // 8)
    lr = wide(height, width)
    filled = np.pad(lr, ((0, 8 * rows - height), (0, 8 * columns - width), (0, 0)), mode="edge")
    levels = coefficients.quantise(lr, quality)
    assert (levels.shape, levels.dtype) == ((rows, columns, 3, 64), np.int16)
    assert np.array_equal(levels, coefficients.quantise(filled, quality))
    whole = coefficients.restore(levels, 8 * rows, 8 * columns, quality)
    restored = coefficients.restore(levels, height, width, quality)
    assert restored.shape == lr.shape
    assert np.allclose(restored, whole[:height, :width], atol=1e-3)


@pytest.mark.parametrize("size", [(8, 8), (15, 31), (48, 48)])
def test_nothing_is_clipped_or_rounded_to_8_bits(size: tuple[int, int]) -> None:
    lr = wide(*size)
    restored = coefficients.restore(coefficients.quantise(lr, 100), *size, 100)
    assert restored.min() < -250
    assert restored.max() > 550
    assert abs(restored - lr).max() < 2
    assert abs(restored - lr).mean() < 0.5
    # a change far below one level is there afterwards
    flat = np.full((8, 8, 3), 100, np.float32)
    shifted, plain = (coefficients.restore(coefficients.quantise(x, 100), 8, 8, 100) for x in (flat + 0.25, flat))
    assert np.allclose(shifted - plain, 0.25, atol=1e-3)


@pytest.mark.parametrize("quality", [1, 50, 100])
def test_levels_stay_within_their_bound(quality: int) -> None:
    lr = np.float32(1e7) * (wide(16, 16) - 150)
    levels = coefficients.quantise(lr, quality)
    assert coefficients.LARGEST == 1023
    assert (levels.min(), levels.max()) == (-1023, 1023)


def mild(height: int, width: int) -> list[NDArray[np.uint8]]:
    """Return waves and noise in the range 64..191: no decoder has to clip what quantising makes of them."""
    return [(64 + made(height, width) // 2).astype(np.uint8) for made in (picture, noise)]


@pytest.mark.parametrize("quality", [5, 50, 85])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (15, 31), (48, 48)])
def test_levels_are_those_of_libjpeg(size: tuple[int, int], quality: int) -> None:
    for lr in (picture(*size), noise(*size), *mild(*size)):
        levels = coefficients.quantise(lr.astype(np.float32), quality)
        theirs = levels_in(Jpeg().encode(lr, quality), *levels.shape[:2])
        assert abs(levels - theirs).max() <= 1
        assert (levels == theirs).mean() > 0.97


@pytest.mark.parametrize("quality", [5, 50, 85, 100])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (15, 31), (48, 48)])
def test_viewers_see_what_levels_restore(size: tuple[int, int], quality: int) -> None:
    for lr in mild(*size):
        levels = coefficients.quantise(lr.astype(np.float32), quality)
        restored = LowRes(coefficients.restore(levels, *size, quality), None).picture
        jpeg = coefficients.write(levels, *size, quality)
        assert sampling_factors(jpeg) == [(1, 1), (1, 1), (1, 1)]
        with PIL.Image.open(io.BytesIO(jpeg)) as opened:
            assert (opened.format, opened.mode, opened.size) == ("JPEG", "RGB", size[::-1])
            seen = np.array(opened)
        assert abs(seen.astype(int) - restored).max() <= 2  # libjpeg's DCT is one of integers
        assert np.array_equal(seen, Jpeg().decode(jpeg, *size))


@pytest.mark.parametrize("quality", [1, 10, 30, 50, 70])
@pytest.mark.parametrize("size", [(8, 8), (48, 48), (16, 40)])
def test_what_libjpeg_wrote_is_written_again_to_the_byte(size: tuple[int, int], quality: int) -> None:
    lr = mild(*size)[0]
    jpeg = jpeg_of(lr, qtables=coefficients.tables(quality), subsampling="4:4:4")  # not fitted
    decoded = Jpeg().decode(jpeg, *size).astype(np.float32)
    assert coefficients.write(coefficients.quantise(decoded, quality), *size, quality) == jpeg


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 4), columns=st.integers(1, 4), quality=st.integers(1, 100))
@settings(max_examples=40, deadline=None)
def test_any_levels_are_written(seed: int, rows: int, columns: int, quality: int) -> None:
    jpeg = coefficients.write(random_levels(seed, rows, columns), 8 * rows - 3, 8 * columns, quality)
    assert np.array_equal(levels_in(jpeg, rows, columns), random_levels(seed, rows, columns))
    with PIL.Image.open(io.BytesIO(jpeg)) as opened:
        assert opened.size == (8 * columns, 8 * rows - 3)
        opened.load()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_levels_at_the_bounds_are_written(share: float) -> None:
    rng = np.random.default_rng(7)
    signs = rng.choice([-1023, 1023], (3, 2, 3, 64)) * (rng.random((3, 2, 3, 64)) < share)
    levels = signs.astype(np.int16)
    levels[0, 0, :, 63] = levels[2, 1, :, 0] = -1023  # after as many zeros as there can be
    levels[2, 0, :, 0] = 1023  # DC differs by 2046, the most there can be
    assert np.array_equal(levels_in(coefficients.write(levels, 24, 16, 50), 3, 2), levels)


# --- bad payloads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(31, 15), (15, 30), (16, 31), (1, 1), (100_000, 100_000)])
def test_a_picture_of_another_size_is_refused_with_both_sizes(size: tuple[int, int]) -> None:
    height, width = size
    with pytest.raises(ContainerError, match=f"31x15 RGB.*{width}x{height} RGB"):
        Jpeg().decode(Jpeg().encode(picture(15, 31), 75), height, width)


def test_the_size_is_checked_before_pixels_are_decoded() -> None:
    payload = Jpeg().encode(picture(15, 31), 75)
    head = payload[: payload.index(b"\xff\xda")]  # up to where the pixels begin
    with pytest.raises(ContainerError, match="31x15 RGB.*header asks for 30x15"):
        Jpeg().decode(head + b"\xff\xda\0\x0c\3\1\0\2\x11\3\x11\0\x3f\0", 15, 30)


@pytest.mark.parametrize(("mode", "bands"), [("L", 1), ("CMYK", 4)])
def test_a_jpeg_of_another_colour_model_is_refused(mode: str, bands: int) -> None:
    pixels = noise(8, 8)[..., :1].repeat(bands, axis=2).squeeze()
    buffer = io.BytesIO()
    PIL.Image.frombytes(mode, (8, 8), pixels.tobytes()).save(buffer, "JPEG")
    with pytest.raises(ContainerError, match=f"8x8 {mode}"):
        Jpeg().decode(buffer.getvalue(), 8, 8)


def test_another_picture_format_is_refused() -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(noise(8, 8)).save(buffer, "PNG")
    with pytest.raises(ContainerError, match="not a readable JPEG"):
        Jpeg().decode(buffer.getvalue(), 8, 8)


def test_every_truncation_is_refused() -> None:
    payload = Jpeg().encode(picture(8, 8), 75)
    for size in range(len(payload) - 2):  # without its end marker alone it is whole
        with pytest.raises(ContainerError):
            Jpeg().decode(payload[:size], 8, 8)


def picture_or_error(payload: bytes) -> None:
    try:
        decoded = Jpeg().decode(payload, 8, 8)
    except ContainerError as error:
        assert str(error)
    else:
        assert (decoded.shape, decoded.dtype) == ((8, 8, 3), np.uint8)


@given(st.binary(max_size=64))
@settings(deadline=None)
def test_garbage_is_refused(payload: bytes) -> None:
    with pytest.raises(ContainerError, match="not a readable JPEG"):
        Jpeg().decode(payload, 8, 8)
    with pytest.raises(ContainerError, match="not a readable JPEG"):
        Jpeg().decode(b"\xff\xd8\xff" + payload, 8, 8)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damage that the pixels survive
def test_a_damaged_jpeg_gives_a_picture_of_the_size_or_a_container_error(damage: list[tuple[int, int]]) -> None:
    payload = bytearray(Jpeg().encode(picture(8, 8), 75))
    for position, flip in damage:
        payload[position % len(payload)] ^= flip
    picture_or_error(bytes(payload))
