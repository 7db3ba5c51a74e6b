"""Low-res codecs: their table, whose ids are for ever."""

import pytest

from refscale_codec import lrcodec, weights_files
from refscale_codec.errors import UsageError
from refscale_codec.fileformat import container


def test_ids_in_files_never_change() -> None:
    assert {number: entry.name for number, entry in lrcodec.CODECS.items()} == {
        1: "jpeg",
        2: "gmm",
        3: "predictive",
    }
    assert (lrcodec.JPEG, lrcodec.GMM, lrcodec.PREDICTIVE) == (1, 2, 3)


@pytest.mark.parametrize("number", lrcodec.CODECS)
def test_an_entry_is_what_its_codec_says_and_what_ships(number: int) -> None:
    entry = lrcodec.CODECS[number]
    assert entry.codec().id == number
    assert lrcodec.named(entry.name) is entry
    for scale in container.SCALES:
        if scale in entry.scales:
            assert weights_files.shipped(scale, entry.name).name == f"refscale-x{scale}{entry.suffix}.safetensors"
        else:
            with pytest.raises(UsageError, match=f"the codec {entry.name} ships at scale .* only"):
                weights_files.shipped(scale, entry.name)


def test_there_is_one_default() -> None:
    assert [entry.name for entry in lrcodec.CODECS.values() if not entry.suffix] == ["jpeg"]
    assert lrcodec.choices() == "jpeg (default), gmm (scale 2) or predictive (scale 1)"
    with pytest.raises(UsageError, match="unknown codec 'webp': use one of jpeg, gmm, predictive"):
        lrcodec.named("webp")
