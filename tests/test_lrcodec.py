"""Low-res codecs: ids are for ever."""

from refscale_codec import lrcodec


def test_ids_in_files_never_change() -> None:
    assert {lrcodec.JPEG: "jpeg", lrcodec.GMM: "gmm"} == lrcodec.NAMES
    assert (lrcodec.JPEG, lrcodec.GMM) == (1, 2)
