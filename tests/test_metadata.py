"""Metadata <-> payload: golden bytes, the law, and every way a payload can be bad."""

import struct
import tracemalloc
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale_codec.errors import ContainerError
from refscale_codec.picture import metadata
from refscale_codec.picture.metadata import Metadata, pack, unpack

# Each part has a length of its own, so two swapped ones cannot pass.
SMALL = Metadata(icc=b"I", exif=b"EX", xmp=b"XMP", geo=b"{  }", intent=b"\1", texts=b"k\0texts\0")
SMALL_HEX = "81 010000 82 020000 83 030000 84 040000 87 010000 0a 080000 49 4558 584d50 7b20207d 01 6b00746578747300"
ZEROS = Metadata(xmp=bytes(1000))
ZEROS_HEX = "03 e80300 63601805a360140c770000"


def payload(*parts: tuple[int, int], rest: bytes) -> bytes:
    """Return a payload of parts by type and length, written without the module under test."""
    table = [struct.pack("<BI", kind | 0x80, length)[:4] for kind, length in parts]
    return b"".join(table)[:-4] + bytes([parts[-1][0]]) + table[-1][1:] + rest


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


BYTES = st.one_of(st.binary(), st.builds(bytes, st.integers(0, 999)))
PARTS = {name: BYTES for name in ("icc", "exif", "xmp")} | {
    name: st.one_of(st.just(b""), st.binary(min_size=size, max_size=size)) for name, size in metadata.SIZES.items()
}
TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"))


@given(st.builds(Metadata, **PARTS), st.lists(st.tuples(TEXT, TEXT)))
def test_what_is_packed_comes_back_in_few_more_bytes(said: Metadata, texts: list[tuple[str, str]]) -> None:
    said = replace(said, texts=metadata.packed_texts(texts))
    packed = pack(said)
    assert unpack(packed) == said
    assert metadata.texts_of(unpack(packed)) == texts
    lengths = [len(part) for part in metadata.parts_of(said).values() if part]
    assert packed is None or len(packed) <= sum(lengths) + 4 * len(lengths)


@given(st.tuples(*[st.integers(0, 2**32 - 1)] * 2), st.integers(0, 3))
def test_a_resolution_comes_back(sides: tuple[int, int], unit: int) -> None:
    assert metadata.resolution_of(Metadata(resolution=metadata.packed_resolution(*sides, unit))) == (*sides, unit)


def test_a_part_of_a_type_that_is_not_known_is_skipped() -> None:
    assert unpack(payload((1, 1), (90, 3), rest=b"Inew")) == Metadata(icc=b"I")
    assert unpack(payload((127, 3), rest=b"new")) == Metadata()


@given(st.binary(max_size=60))
def test_any_bytes_give_metadata_or_an_error(data: bytes) -> None:
    try:
        said = unpack(data)
    except ContainerError:
        return
    assert sum(map(len, metadata.parts_of(said).values())) <= metadata.MAX_BYTES


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "of 0 bytes ends within its table"),
        (bytes(3), "of 3 bytes ends within its table"),
        (bytes(4), "a part of type 0 and 0 bytes"),
        (payload((1, 0), rest=b"x"), "a part of type 1 and 0 bytes"),
        (payload((2, 1), (1, 1), rest=b"xy"), "a part of type 1 and 1 bytes"),
        (payload((2, 1), (2, 1), rest=b"xy"), "a part of type 2 and 1 bytes"),
        (payload((1, 1), rest=b"")[:4].replace(b"\1", b"\x81", 1), "of 4 bytes ends within its table"),
        (payload((1, 1), rest=b""), "has 0 bytes for 1"),
        (payload((1, 1), (2, 1), (3, 1), rest=b"1234"), "has 4 bytes for 3"),
        (payload((1, 100), rest=b"\xff" * 9), "does not inflate: "),
        (payload((1, 100), rest=deflated(bytes(99))), "to the 100 bytes"),
        (payload((1, 100), rest=deflated(bytes(101))), "to the 100 bytes"),
        (payload((1, 100), rest=deflated(bytes(100)) + b"x"), "to the 100 bytes"),
        (payload((1, 100), rest=deflated(bytes(100))[:-1]), "to the 100 bytes"),
        (payload((1, 0xFFFFFF), (2, 1), rest=deflated(bytes(99))), "over the size limit: METADATA of 16777216 bytes"),
        (payload((5, 3), rest=b"abc"), "gamma: it has 3 bytes, expected 4"),
        (payload((9, 8), rest=bytes(8)), "resolution: it has 8 bytes, expected 9"),
        (payload((4, 2), rest=b"[]"), "georeference and tags: not a JSON object"),
        (payload((10, 2), rest=b"k\0"), "a keyword has no text"),
        (payload((10, 3), rest=b"k\0t"), "a keyword has no text"),
        (payload((10, 4 * 16385), rest=b"k\0t\0" * 16385), "more than 16,384 texts"),
    ],
)
def test_a_bad_payload_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ContainerError, match=said):
        unpack(data)


def test_a_bomb_is_not_inflated() -> None:
    bomb = payload((1, 10_000), rest=deflated(bytes(8_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(ContainerError, match="to the 10000 bytes"):
            unpack(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_of_too_much_metadata_the_largest_part_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    most = Metadata(icc=bytes(metadata.MAX_BYTES - 1), xmp=b"x")
    assert unpack(pack(most)) == most
    assert caplog.messages == []
    more = replace(most, exif=b"y")
    assert unpack(pack(more)) == Metadata(exif=b"y", xmp=b"x")
    assert caplog.messages == [
        "left out: the colour profile (16,777,214 bytes): at most 16,777,215 bytes of metadata are kept"
    ]


def test_a_malformed_part_is_left_out_alone(caplog: pytest.LogCaptureFixture) -> None:
    assert unpack(pack(Metadata(icc=b"I", gamma=b"xx", texts=b"k\0"))) == Metadata(icc=b"I")
    assert sorted(caplog.messages) == [
        "left out: the gamma (2 bytes): it has 2 bytes, expected 4",
        "left out: the texts (2 bytes): a keyword has no text",
    ]
