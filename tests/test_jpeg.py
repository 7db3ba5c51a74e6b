"""JPEG to compare with: an ordinary one, as small as Pillow makes it, and nothing of Pillow stays changed."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest
from numpy.typing import NDArray
from test_coefficients import SIZES, jpeg_of, noise, picture, sampling_factors

from refscale_codec.lrcodec.dct import coefficients
from refscale_codec.study.coders import jpeg


def mean_error(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", SIZES)
def test_a_picture_of_any_size_comes_back_in_it(size: tuple[int, int], subsampling: str) -> None:
    lr = picture(*size)
    decoded = jpeg.decode(jpeg.encode(lr, 95, subsampling))
    assert (decoded.shape, decoded.dtype) == (lr.shape, np.uint8)
    assert mean_error(decoded, lr) < (3 if subsampling == "4:4:4" else 25)


def test_encoding_is_reproducible_and_takes_any_memory_layout() -> None:
    lr = picture(15, 31)
    assert jpeg.encode(lr, 75) == jpeg.encode(lr, 75) == jpeg.encode(np.asfortranarray(lr), 75)
    assert jpeg.encode(lr[:, ::-1][:, ::-1], 75) == jpeg.encode(lr, 75)


def test_higher_quality_is_bigger_and_better() -> None:
    lr = picture(48, 48)
    payloads = [jpeg.encode(lr, quality) for quality in (1, 10, 30, 60, 90, 100)]
    sizes = [len(payload) for payload in payloads]
    errors = [mean_error(jpeg.decode(payload), lr) for payload in payloads]
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
    payload = jpeg.encode(picture(15, 31), quality, subsampling)
    assert sampling_factors(payload) == factors
    with PIL.Image.open(io.BytesIO(payload)) as opened:
        assert (opened.format, opened.mode, opened.size) == ("JPEG", "RGB", (31, 15))
        opened.load()


def test_huffman_tables_are_fitted() -> None:
    lr = picture(40, 40)
    assert len(jpeg.encode(lr, 75)) < len(jpeg_of(lr, quality=75, subsampling="4:4:4"))


@pytest.mark.parametrize("quality", [5, 40, 75, 100])
def test_tables_are_pillows_own_or_as_given(quality: int) -> None:
    lr = picture(40, 40)
    plain = jpeg_of(lr, quality=quality, subsampling="4:4:4", optimize=True)
    assert jpeg.encode(lr, quality) == plain
    own = jpeg.encode(lr, quality, tables=coefficients.tables(quality))
    assert own == jpeg_of(lr, qtables=coefficients.tables(quality), subsampling="4:4:4", optimize=True)
    assert (own == plain) == (quality == 100)  # there all steps are 1


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_noise_of_the_best_quality_fits_the_buffer(subsampling: str) -> None:
    # Pillow writes a JPEG with fitted tables in one go, and its own guess of the buffer is too small for this one.
    assert PIL.ImageFile.MAXBLOCK == 65536
    lr = noise(300, 300)
    decoded = jpeg.decode(jpeg.encode(lr, 100, subsampling))
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
        payloads = list(pool.map(lambda quality: jpeg.encode(lr, quality), [100, 99] * 4))
    assert payloads == [jpeg.encode(lr, quality) for quality in [100, 99] * 4]
    assert set(during) == {2 * lr.size}
    assert before == PIL.ImageFile.MAXBLOCK
    with pytest.raises(TypeError):
        jpeg.encode(lr, 100, "4:1:7")
    assert before == PIL.ImageFile.MAXBLOCK
