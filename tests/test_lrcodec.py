"""Low-res codecs: their table, whose ids are for ever."""

import pytest

from refscale_codec import lrcodec, weights_files
from refscale_codec.errors import UsageError
from refscale_codec.fileformat import container


def test_ids_in_files_never_change() -> None:
    assert {number: entry.name for number, entry in lrcodec.CODECS.items()} == {1: "jpeg", 2: "gmm"}
    assert (lrcodec.JPEG, lrcodec.GMM) == (1, 2)


@pytest.mark.parametrize("number", lrcodec.CODECS)
def test_an_entry_is_what_its_codec_says_and_what_ships(number: int) -> None:
    entry = lrcodec.CODECS[number]
    assert entry.codec().id == number
    assert lrcodec.named(entry.name) is entry
    for scale in container.SCALES:
        if scale in entry.scales:
            assert weights_files.shipped(scale, entry.name).name == f"refscale-x{scale}{entry.suffix}.safetensors"
        else:
            with pytest.raises(UsageError, match=f"the codec {entry.name} ships at scale 2 only"):
                weights_files.shipped(scale, entry.name)


def test_there_is_one_default() -> None:
    assert [entry.name for entry in lrcodec.CODECS.values() if not entry.suffix] == ["jpeg"]
    assert lrcodec.choices() == "jpeg (default) or gmm (only at scale 2)"
    with pytest.raises(UsageError, match="unknown codec 'webp': use jpeg or gmm"):
        lrcodec.named("webp")
