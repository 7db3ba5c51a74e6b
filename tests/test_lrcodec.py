"""Low-res codecs: ids are for ever, pictures come back in their size, and a bad payload is one named error."""

import io

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refscale_codec import cli, lrcodec
from refscale_codec.errors import ContainerError
from refscale_codec.lrcodec.jpeg import Jpeg

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
    assert lrcodec.JPEG == 1
    assert isinstance(lrcodec.CODECS[1], Jpeg)
    assert lrcodec.CODECS.keys() == cli.CODEC_NAMES.keys()
    assert 0 not in lrcodec.CODECS


def test_the_default_jpeg_keeps_all_chroma() -> None:
    assert lrcodec.CODECS[lrcodec.JPEG] == Jpeg("4:4:4")


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
    assert len(Jpeg().encode(lr, 75)) < len(Jpeg(optimize=False).encode(lr, 75))


@pytest.mark.parametrize("quality", [5, 40, 75, 100])
def test_standard_tables_are_pillows_own(quality: int) -> None:
    lr = picture(40, 40)
    plain = jpeg_of(lr, quality=quality, subsampling="4:4:4", optimize=True)
    assert Jpeg(standard=True).encode(lr, quality) == plain
    assert (Jpeg().encode(lr, quality) == plain) == (quality == 100)  # there all steps are 1


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_noise_of_the_best_quality_fits_the_buffer(monkeypatch: pytest.MonkeyPatch, subsampling: str) -> None:
    # Pillow writes a JPEG with fitted tables in one go, and its own guess of the buffer is too small for this one.
    monkeypatch.setattr(PIL.ImageFile, "MAXBLOCK", 65536)  # its default, which an earlier test may have raised
    lr = noise(300, 300)
    decoded = Jpeg(subsampling).decode(Jpeg(subsampling).encode(lr, 100), 300, 300)
    assert mean_error(decoded, lr) < (2 if subsampling == "4:4:4" else 80)


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
