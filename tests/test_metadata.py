"""Metadata <-> payload: golden bytes, the law, and every way a payload can be bad."""

import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale_codec.errors import ContainerError, ImageError
from refscale_codec.picture import metadata
from refscale_codec.picture.metadata import Metadata, pack, unpack

# Each part has a length of its own, so two swapped ones cannot pass.
SMALL = Metadata(icc=b"I", exif=b"EX", xmp=b"XMP", geo=b"PLAC")
SMALL_HEX = "010000 020000 030000 040000 49 4558 584d50 504c4143"
ZEROS = Metadata(xmp=bytes(1000))
ZEROS_HEX = "000000 000000 e80300 000000 63601805a360140c770000"


def payload(icc: int, exif: int, xmp: int, rest: bytes) -> bytes:
    """Return a payload, written without the module under test."""
    return b"".join(struct.pack("<I", length)[:3] for length in (icc, exif, xmp, 0)) + rest


def deflated(plain: bytes) -> bytes:
    return zlib.compress(plain, 9, wbits=-15)


def test_golden_bytes_both_ways() -> None:
    assert pack(SMALL) == bytes.fromhex(SMALL_HEX)
    assert unpack(bytes.fromhex(SMALL_HEX)) == SMALL
    assert unpack(bytes.fromhex(ZEROS_HEX)) == ZEROS  # only read: a deflater may find another stream
    assert len(pack(ZEROS) or b"") < 40


def test_no_metadata_is_no_payload() -> None:
    assert not Metadata()
    assert pack(Metadata()) is None
    assert unpack(None) == Metadata()


@given(*[st.one_of(st.binary(), st.builds(lambda n: bytes(n), st.integers(0, 999)))] * 4)
def test_what_is_packed_comes_back_in_no_more_bytes(icc: bytes, exif: bytes, xmp: bytes, geo: bytes) -> None:
    said = Metadata(icc, exif, xmp, geo)
    packed = pack(said)
    assert unpack(packed) == said
    assert packed is None or len(packed) <= 12 + len(icc) + len(exif) + len(xmp) + len(geo)


@given(st.binary(max_size=60))
def test_any_bytes_give_metadata_or_an_error(data: bytes) -> None:
    try:
        said = unpack(data)
    except ContainerError:
        return
    assert said
    assert len(said.icc) + len(said.exif) + len(said.xmp) + len(said.geo) <= metadata.MAX_BYTES


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "of 0 bytes, expected at least 13"),
        (bytes(11), "of 11 bytes, expected at least 13"),
        (bytes(12), "has 0 bytes for 0"),
        (payload(0, 0, 0, b"x"), "has 1 bytes for 0"),
        (payload(1, 0, 0, b""), "has 0 bytes for 1"),
        (payload(1, 1, 1, b"1234"), "has 4 bytes for 3"),
        (payload(100, 0, 0, b"\xff" * 9), "does not inflate: "),
        (payload(100, 0, 0, deflated(bytes(99))), "to the 100 bytes"),
        (payload(100, 0, 0, deflated(bytes(101))), "to the 100 bytes"),
        (payload(100, 0, 0, deflated(bytes(100)) + b"x"), "to the 100 bytes"),
        (payload(100, 0, 0, deflated(bytes(100))[:-1]), "to the 100 bytes"),
        (payload(0xFFFFFF, 1, 0, deflated(bytes(99))), "over the size limit: METADATA of 16777216 bytes"),
    ],
)
def test_a_bad_payload_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ContainerError, match=said):
        unpack(data)


def test_a_bomb_is_not_inflated() -> None:
    bomb = payload(10_000, 0, 0, deflated(bytes(8_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(ContainerError, match="to the 10000 bytes"):
            unpack(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_too_much_metadata_is_an_error_with_a_way_out() -> None:
    most = Metadata(icc=bytes(metadata.MAX_BYTES - 1), xmp=b"x")
    assert unpack(pack(most)) == most
    with pytest.raises(ImageError, match="16,777,216 bytes of metadata; .* --strip"):
        pack(Metadata(most.icc, b"y", most.xmp))
