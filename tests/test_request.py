"""What an encoder is asked for: one check for the API and the command line, each with its own names."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale_codec.api.request import Rate, rate_of, shipping_of
from refscale_codec.cli.options import named
from refscale_codec.codec.rate_control import Target
from refscale_codec.errors import UsageError
from refscale_codec.picture.image import Image

ARGUMENTS = ("quality", "target_bytes", "target_bpp", "target_psnr")


@given(st.dictionaries(st.sampled_from((*ARGUMENTS, "max_error")), st.integers(1, 100)))
def test_one_rate_is_asked_for(given: dict[str, int]) -> None:
    if len(given) > 1:
        for name in (str, named):
            with pytest.raises(UsageError) as caught:
                rate_of(**given, name=name)
            assert str(caught.value).endswith(" exclude each other: give one")
            assert all(name(argument) in str(caught.value) for argument in given)
    else:
        assert rate_of(**given) == Rate(**given)


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("wrong", [True, np.True_, np.array([1]), "1", -1, 0, 1 << 54, float("nan"), 10**400], ids=repr)
def test_other_values_are_refused_under_the_callers_name(argument: str, wrong: object) -> None:
    with pytest.raises(UsageError) as caught:
        rate_of(**{argument: wrong}, name=named)
    assert str(caught.value).startswith((f"--{argument.replace('_', '-')} must be ", "a target must be at most "))


def test_lossless_is_a_bound_of_nothing() -> None:
    assert rate_of(lossless=True) == rate_of(max_error=0) == Rate(max_error=0)
    with pytest.raises(UsageError, match="^--max-error and --lossless exclude each other: give one$"):
        rate_of(max_error=1, lossless=True, name=named)
    for wrong in (-1, float("nan"), float("inf"), True, "1"):
        with pytest.raises(UsageError, match="^--max-error must be a number from 0 on, not "):
            rate_of(max_error=wrong, name=named)


def test_a_target_is_that_of_a_picture() -> None:
    picture = Image(np.zeros((10, 20, 3), np.uint8))
    assert rate_of(80).target(picture) is None
    assert not rate_of(80).searched and not rate_of().searched
    assert all(rate_of(**{argument: 9}).searched for argument in ARGUMENTS[1:])
    assert rate_of(target_bytes=np.int64(99)).target(picture) == Target("bytes", 99)
    assert rate_of(target_bpp=np.float32(1.5)).target(picture) == Target("bytes", 37)
    assert rate_of(target_psnr=30).target(picture) == Target("psnr", 30)


def test_weights_that_ship() -> None:
    assert shipping_of(None, None) == (2, "jpeg")
    assert shipping_of(np.int64(4), "jpeg") == (4, "jpeg")
    assert shipping_of(None, "gmm") == (2, "gmm")
    assert shipping_of(1, None) == shipping_of(None, "predictive") == (1, "predictive")
    assert shipping_of(None, None, None, Rate(max_error=0)) == (1, "predictive")
    for arguments, words in (
        ((3, None), "--scale must be 1, 2 or 4, not 3"),
        ((True, None), "--scale must be a whole number, not True"),
        ((None, "webp"), "unknown codec 'webp'"),
        ((4, "gmm"), "the codec gmm ships at scale 2 only"),
        ((2, None, "--weights"), "--scale would have no effect: it follows from --weights"),
        ((2, None, None, Rate(max_error=1)), "--scale would have no effect: it follows from the bound on the error"),
        ((None, None, "--weights", Rate(max_error=1)), "--weights would have no effect: with a bound on the error no "),
        ((None, "gmm", "--weights"), "--codec would have no effect: it follows from --weights"),
    ):
        with pytest.raises(UsageError, match=words):
            shipping_of(*arguments, name=named)
