import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refscale_codec.lrcodec.dct import coefficients
from refscale_codec.lrcodec.dct.coefficients import DCT, LARGEST, YCBCR, ZIGZAG


def random_levels(seed: int, rows: int, columns: int, largest: int) -> coefficients.Levels:
    return np.random.default_rng(seed).integers(-largest, largest + 1, (rows, columns, 3, 64)).astype(np.int16)


def by_whole_numbers(levels: coefficients.Levels, quality: int) -> np.ndarray:
    """The picture, times 16, by Python's own integers."""
    rows, columns = levels.shape[:2]
    idct = [[round(2**20 * x) for x in row] for row in DCT.T.tolist()]
    to_rgb = [[262144, 262144, 262144], [0, -90213, 464519], [367526, -187206, 0]]
    amplitudes = (levels.astype(int) * coefficients.steps(quality))[..., np.argsort(ZIGZAG)].astype(object)
    idct, to_rgb = np.array(idct, object), np.array(to_rgb, object)
    picture = np.empty((8 * rows, 8 * columns, 3), object)
    for row, column in np.ndindex(rows, columns):
        half_way = [((idct @ amplitudes[row, column, c].reshape(8, 8)) + 512) >> 10 for c in range(3)]
        ycbcr = np.stack([((x @ idct.T) + (1 << 19)) >> 20 for x in half_way], axis=-1)
        picture[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = ((ycbcr @ to_rgb + (1 << 23)) >> 24) + 16 * 128
    return picture


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 30, LARGEST]), st.integers(1, 100))
def test_restored_pictures_are_whole_numbers_of_sixteenths(seed, rows, columns, largest, quality):
    levels = random_levels(seed, rows, columns, largest)
    restored = coefficients.restore(levels, 8 * rows, 8 * columns, quality)
    wanted = by_whole_numbers(levels, quality).astype(np.int64)
    assert np.array_equal(restored, (wanted / 16).astype(np.float32))


@pytest.mark.parametrize("quality", [10, 75, 98])
def test_restored_pictures_are_near_the_real_transform(quality):
    levels = random_levels(quality, 4, 5, 3)
    amplitudes = (levels * coefficients.steps(quality))[..., np.argsort(ZIGZAG)].reshape(4, 5, 3, 8, 8)
    blocks = (DCT.T @ amplitudes @ DCT).transpose(0, 3, 1, 4, 2).reshape(32, 40, 3)
    wanted = blocks @ np.linalg.inv(np.array(YCBCR)).T + 128
    restored = coefficients.restore(levels, 32, 40, quality)
    assert (abs(restored - wanted) < 1 / 30 + 2e-6 * abs(wanted).max()).all()
    assert np.array_equal(coefficients.restore(levels, 27, 33, quality), restored[:27, :33])
