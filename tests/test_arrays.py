"""Arrays become pictures and come back; what is no picture is refused in one line."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray

from refscale_codec.errors import ImageError
from refscale_codec.picture import arrays
from refscale_codec.picture.image import Image


@given(
    arrays_of.arrays(
        st.sampled_from(["u1", "<u2", ">u2", "<i2", ">i2"]),
        st.one_of(
            st.tuples(st.integers(1, 5), st.integers(1, 5)),
            st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(2, 6)),
        ),
    ),
    st.booleans(),
)
def test_an_array_comes_back_as_it_was(array: NDArray[Any], turned: bool) -> None:
    if turned:
        array = array[::-1].swapaxes(0, 1)  # no longer contiguous
    image = arrays.to_image(array, "it")
    back = arrays.of_image(image)
    assert np.array_equal(back, array) and back.dtype == array.dtype.newbyteorder("=")
    assert image.pixels.flags.c_contiguous and image.pixels.ndim == 3


def test_a_single_band_is_grey_and_alpha_is_the_last_band() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    assert arrays.of_image(arrays.to_image(pixels, "it")).shape == (3, 4)
    with_alpha = arrays.of_image(Image(pixels, alpha=pixels[..., 0] + np.uint8(1)))
    assert np.array_equal(with_alpha, np.dstack([pixels, pixels + 1]))


@pytest.mark.parametrize("dtype", [">f8", "<f8", ">f4", "f2"])
def test_floats_of_any_size_become_32_bits(dtype: str, caplog: pytest.LogCaptureFixture) -> None:
    array = np.array([[0.1, -2.5], [np.nan, np.inf]], dtype)
    picture = arrays.to_image(array, "it")
    assert picture.pixels.dtype == np.float32
    assert np.array_equal(picture.pixels[..., 0], array.astype("f4"), equal_nan=True)
    assert [("64-bit samples are kept as 32-bit" in line) for line in caplog.messages] == [True] * (array.itemsize == 8)


def test_floats_beyond_32_bits_are_told(caplog: pytest.LogCaptureFixture) -> None:
    assert np.isinf(arrays.to_image(np.array([[1e300, -1e300, np.inf]]), "it").pixels).all()
    assert caplog.messages[1] == "it: 2 samples are beyond 32-bit floating point and become infinite"


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 2, 3), complex), ("complex128", "uint8, uint16, int16, int8, uint32, int32 and float32")),
        (np.zeros((2, 2), bool), ("bool",)),
        (np.zeros((2, 2), np.int64), ("int64", "astype(np.int32) keeps whole numbers below 2,147,483,648")),
        (np.zeros((2, 2), "M8[s]"), ("datetime64",)),
        (np.array([["a"]]), ("str",)),
        (np.array([[None]]), ("object",)),
        (np.zeros(5, np.uint8), ("(5,)", "[h, w] or [h, w, bands]")),
        (np.zeros((1, 2, 3, 4), np.uint8), ("(1, 2, 3, 4)",)),
        (np.zeros((), np.uint8), ("()",)),
        (np.zeros((0, 4, 3), np.uint8), ("(0, 4, 3)", "at least 1")),
        (np.zeros((4, 4, 0), np.uint8), ("(4, 4, 0)",)),
        (np.zeros((3, 300, 300), np.uint8), ("(3, 300, 300)", "300 bands", "255", "np.moveaxis")),
        (np.ma.masked_equal(np.zeros((2, 2), np.uint8), 0), ("masked", "nodata")),
        (np.broadcast_to(np.uint8(0), (30_000, 30_000)), ("400,000,000 pixels",)),
        (np.broadcast_to(np.uint8(0), (1, (1 << 20) + 1)), ("1,048,576 a side",)),
    ],
)
def test_what_is_no_picture_is_refused_by_name(array: NDArray[Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ImageError) as caught:
        arrays.to_image(array, "the reference")
    for word in ("the reference", *words):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
