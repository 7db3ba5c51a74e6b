"""bytes <-> header and sections: golden bytes, properties, and every way a file can be bad."""

import hashlib
import math
import re
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale_codec.errors import ContainerError
from refscale_codec.fileformat import container
from refscale_codec.fileformat.container import Container, Header, bytes_by_section, pack, unpack
from refscale_codec.fileformat.sections import MAX_PAYLOAD, TABLE

ROOT = Path(__file__).parents[1]

# Every field has a value of its own, so two swapped fields cannot pass.
FULL = Container(
    header=Header(
        width=0x070605,
        height=0x0201,
        scale=4,
        codec=9,
        quality=90,
        weights=bytes.fromhex("a1a2a3a4a5a6"),
        reference=bytes.fromhex("b1b2b3b4b5b6"),
    ),
    lr=b"low-res",
    similarity_map=b"\xc1\xc2\xc3",
    output_hash=bytes.fromhex("d1d2d3d4d5d6"),
)
FULL_HEX = """
    89525343 01 09 01 050607 010200 04 09 5a a1a2a3a4a5a6 b1b2b3b4b5b6 83042ebd
    01 03 f2ab3b82 c1c2c3
    02 07 49e6d7e8 6c6f772d726573
    81 06 8441aa9e d1d2d3d4d5d6
"""

# Without a reference: the required flags differ from the optional ones.
PLAIN = Container(
    header=Header(width=1, height=0x0D0C0B, scale=2, codec=3, quality=100, weights=b"weight", reference=None),
    lr=b"\x00",
    output_hash=b"123456",
)
PLAIN_HEX = """
    89525343 01 00 01 010000 0b0c0d 02 03 64 776569676874 000000000000 2a073368
    02 01 3d3cdee5 00
    81 06 d51dd321 313233343536
"""

LONG = replace(FULL, lr=b"low-res" * 20)  # its length takes two bytes
SAYING = replace(FULL, metadata=b"metadata of it")  # with an ancillary section that is announced
SAYING_HEX = """
    89525343 01 09 03 050607 010200 04 09 5a a1a2a3a4a5a6 b1b2b3b4b5b6 03cd7e93
    01 03 f2ab3b82 c1c2c3
    02 07 49e6d7e8 6c6f772d726573
    80 0e 105c8e8c 6d65746164617461206f66206974
    81 06 8441aa9e d1d2d3d4d5d6
"""


def header_bytes(
    magic=b"\x89RSC",
    version=1,
    required=0,
    optional=0,
    width=6,
    height=5,
    scale=2,
    codec=1,
    quality=50,
    weights=b"weight",
    reference=bytes(6),
):
    """A fixed header with a CRC that fits, written without the module under test."""
    size = width.to_bytes(3, "little") + height.to_bytes(3, "little")
    body = magic + bytes([version, required, optional]) + size + bytes([scale, codec, quality]) + weights + reference
    return body + struct.pack("<I", zlib.crc32(body))


def length_bytes(length):
    """A length in base 128, lowest digit first, written without the module under test."""
    digits = [length >> shift & 127 for shift in range(0, length.bit_length(), 7)] or [0]
    return bytes([digit + 128 for digit in digits[:-1]] + digits[-1:])


def section(kind, payload=b"payload", length=None):
    """A section with a CRC that fits, its length as given or as it should be, written without the module under test."""
    head = bytes([kind]) + (length_bytes(len(payload)) if length is None else length)
    return head + struct.pack("<I", zlib.crc32(head + payload)) + payload


def sizes(**present):
    """Bytes by section: the header, those given, and zero for each other."""
    return {"header": 32, **{entry.counts_as: 0 for entry in TABLE.values()}, **present}


MAP, LR, OUTPUT_HASH = section(1), section(2), section(129, b"123456")
REFERENCE, MAP_FLAG = 1, 8  # required flags


def assert_refused(data, pattern):
    with pytest.raises(ContainerError, match=pattern):
        unpack(data)


# ---- golden bytes


@pytest.mark.parametrize(
    ("value", "data"), [(FULL, FULL_HEX), (PLAIN, PLAIN_HEX), (SAYING, SAYING_HEX)], ids=["full", "plain", "saying"]
)
def test_golden_bytes_both_ways(value, data):
    golden = bytes.fromhex(data)
    assert pack(value) == golden
    assert unpack(golden) == value


def test_smallest_file():
    value = replace(PLAIN, output_hash=None)
    data = pack(value)
    assert len(data) == 32 + 6 + 1
    assert unpack(data) == value


def test_overhead_is_small():
    assert container.HEADER_SIZE == 32
    assert len(pack(FULL)) == 32 + 3 * 6 + 3 + 7 + 6


@pytest.mark.parametrize(
    ("size", "length"),
    [
        (1, "01"),
        (127, "7f"),
        (128, "8001"),
        (300, "ac02"),
        (16_383, "ff7f"),
        (16_384, "808001"),
        (2_097_151, "ffff7f"),
        (2_097_152, "80808001"),
    ],
)
def test_a_length_takes_one_byte_for_each_7_bits(size, length):
    value = replace(PLAIN, lr=bytes(size), output_hash=None)
    data = pack(value)
    head = bytes.fromhex("02" + length)
    assert data[32:] == head + struct.pack("<I", zlib.crc32(head + bytes(size))) + bytes(size)
    assert unpack(data) == value
    assert bytes_by_section(value) == sizes(low_res=len(head) + 4 + size)


@pytest.mark.parametrize(("size", "digits"), [((1 << 28) - 1, 4), (1 << 28, 5), ((1 << 32) - 1, 5)])
def test_a_length_takes_at_most_five_bytes(size, digits):
    huge = replace(PLAIN, lr=range(size))  # only its length is looked at
    assert bytes_by_section(huge)["low_res"] == 1 + digits + 4 + size


def test_helpers_of_this_file_agree_with_pack():
    expected = Container(Header(6, 5, 2, 1, 50, b"weight", b"before"), b"payload", b"payload", b"123456")
    data = header_bytes(required=REFERENCE | MAP_FLAG, optional=1, reference=b"before") + MAP + LR + OUTPUT_HASH
    assert unpack(data) == expected
    assert pack(expected) == data
    assert pack(replace(expected, lr=b"long" * 99)) == data.replace(LR, section(2, b"long" * 99))


# ---- docs/FORMAT.md


def test_worked_example_of_the_format_document_is_what_pack_gives():
    block = re.search(r"```hex\n(.*?)```", (ROOT / "docs" / "FORMAT.md").read_text(encoding="utf-8"), re.S)
    data = b""
    for line in block[1].splitlines():
        row, offset, _ = line.split("|")
        assert int(offset) == len(data), line
        data += bytes.fromhex(row)
    header = Header(5, 3, 2, 1, 50, bytes(range(0x10, 0x16)), bytes(range(0x20, 0x26)))
    example = Container(header, b"lr-jpg", b"map", bytes(range(0x30, 0x36)))
    assert pack(example) == data
    assert unpack(data) == example


def rows_under(heading):
    """The cells of the table rows under a heading of the format document, but for the table's head."""
    text = (ROOT / "docs" / "FORMAT.md").read_text(encoding="utf-8").split(f"\n{heading}\n")[1].split("\n#")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_the_format_document_lists_exactly_the_table_of_sections():
    rows = [row for row in rows_under("## Sections") if len(row) == 6 and row[0].isdecimal()]
    listed = [(int(row[0]), row[1], row[2], int(row[3]), row[5]) for row in rows]
    flags = {None: "always there"} | {
        (a, b): f"{'optional' if a else 'required'} {b}" for a in (0, 1) for b in range(8)
    }
    assert listed == [
        (x.number, x.name, flags[x.flag if x.flag is None else (x.ancillary, x.flag)], x.smallest, x.counts_as)
        for x in TABLE.values()
    ]


@given(st.integers(1, 1 << 20), st.integers(1, 381), st.sampled_from([2, 4]))
def test_the_format_document_says_how_long_a_payload_may_be(width, height, scale):
    header = Header(width, height, scale, 1, 50, b"weight", None)
    lh, lw = header.low_res_size
    values = {"w": width, "h": height, "lw": lw, "lh": lh, "ceil": math.ceil}
    values |= {entry.name: entry.largest(header) for entry in TABLE.values()}
    for row in rows_under("## Sections"):
        if len(row) == 6 and row[0].isdecimal():
            assert eval(row[4].replace("·", "*"), {}, values) == values[row[1]], row


def test_the_format_document_lists_exactly_the_flags():
    for heading, ancillary in (("### Required flags", False), ("### Optional flags", True)):
        listed = {row[1]: int(row[0]) for row in rows_under(heading)[2:] if row[1]}
        flags = {entry.name: entry.flag for entry in TABLE.values() if entry.ancillary == ancillary}
        flags = {name: flag for name, flag in flags.items() if flag is not None}
        if not ancillary:
            flags["REFERENCE"] = 0
        assert listed == flags


def test_fingerprint_example_of_the_format_document():
    pixels = b"refscale-pixels-v1" + struct.pack("<III", 1, 2, 3) + bytes(range(6))
    fingerprint = hashlib.sha256(pixels).digest()[:6]
    assert f"`{fingerprint.hex(' ')}`" in (ROOT / "docs" / "FORMAT.md").read_text(encoding="utf-8")


def test_crc_check_value_of_the_format_document():
    assert zlib.crc32(b"123456789") == 0xCBF43926


# ---- properties

fingerprints = st.binary(min_size=6, max_size=6)
long_payloads = st.integers(65, 20_000).map(bytes)  # with a length of one to three bytes


@st.composite
def containers(draw):
    width = draw(st.integers(1, 1 << 20))
    height = draw(st.integers(1, min(1 << 20, 400_000_000 // width)))
    reference = draw(st.none() | fingerprints)
    header = Header(
        width=width,
        height=height,
        scale=draw(st.sampled_from([2, 4])),
        codec=draw(st.integers(1, 255)),
        quality=draw(st.integers(1, 100)),
        weights=draw(fingerprints),
        reference=reference,
    )
    prediction = draw(st.none() | st.binary(min_size=10, max_size=30))
    aligned = reference is not None and prediction is None
    return Container(
        header=header,
        lr=draw(st.binary(min_size=1, max_size=64) | long_payloads),
        similarity_map=None
        if reference is prediction is None
        else draw(st.none() | st.binary(max_size=64) | long_payloads),
        output_hash=draw(st.none() | fingerprints),
        alignment=draw(st.none() | st.binary(min_size=8, max_size=64) | long_payloads) if aligned else None,
        bands=draw(st.none() | st.binary(min_size=3, max_size=64) | long_payloads),
        extra_bands=draw(st.none() | st.binary(min_size=39, max_size=64) | long_payloads),
        metadata=draw(st.none() | st.binary(min_size=5, max_size=64) | long_payloads),
        prediction=prediction,
    )


@given(containers())
def test_unpack_gives_back_what_pack_was_given(value):
    data = pack(value)
    assert unpack(data) == value
    assert sum(bytes_by_section(value).values()) == len(data)


def assert_container_or_error(data):
    try:
        value = unpack(data)
    except ContainerError as error:
        assert str(error)
        return None
    assert isinstance(value, Container)
    return value


@given(st.binary(max_size=128))
def test_any_bytes_give_a_container_or_a_container_error(data):
    assert_container_or_error(data)


@given(st.binary(max_size=128))
def test_any_bytes_after_a_good_header_give_a_container_or_a_container_error(data):
    assert_container_or_error(header_bytes() + data)
    assert_container_or_error(header_bytes() + LR + data)


@given(
    st.builds(
        header_bytes,
        version=st.integers(0, 2),
        required=st.integers(0, 15) | st.integers(0, 0xFF),
        optional=st.integers(0, 7) | st.integers(0, 0xFF),
        width=st.integers(0, 9) | st.integers(0, 0xFFFFFF),
        height=st.integers(0, 9) | st.integers(0, 0xFFFFFF),
        scale=st.integers(0, 5),
        codec=st.integers(0, 255),
        quality=st.integers(0, 255),
        weights=fingerprints,
        reference=st.just(bytes(6)) | fingerprints,
    ),
    st.lists(
        st.builds(section, st.integers(0, 7) | st.integers(127, 131) | st.integers(0, 255), st.binary(max_size=40)),
        max_size=5,
    ),
)
def test_any_parts_with_fitting_crcs_give_a_container_or_a_container_error(header, sections):
    value = assert_container_or_error(header + b"".join(sections))
    if value is not None:  # what was accepted is what the format document says, but for what a reader skips
        assert unpack(pack(value)) == value
        known = [part for part in sections if part[0] <= 129]
        assert pack(value)[:6] == header[:6]  # then come the optional flags
        assert pack(value)[7:28] == header[7:28]
        assert pack(value)[32:] == b"".join(known)


# ---- cut off and damaged


@pytest.mark.parametrize("value", [FULL, PLAIN, LONG, SAYING], ids=["full", "plain", "long", "saying"])
def test_truncation_at_every_byte_is_noticed(value):
    data = pack(value)
    for size in range(len(data)):
        assert_refused(data[:size], "^truncated")


@pytest.mark.parametrize("value", [FULL, PLAIN, LONG, SAYING], ids=["full", "plain", "long", "saying"])
def test_every_change_of_a_single_byte_is_noticed(value):
    data = bytearray(pack(value))
    for at, original in enumerate(data):
        for byte in set(range(256)) - {original}:
            data[at] = byte
            with pytest.raises(ContainerError):
                unpack(bytes(data))
        data[at] = original


def test_damaged_header_says_so():
    data = bytearray(pack(FULL))
    data[20] ^= 1
    assert_refused(bytes(data), "^damaged: the header")


@pytest.mark.parametrize(("at", "name"), [(38, "MAP"), (50, "LR"), (65, "OUTPUT_HASH")])
def test_damaged_payload_names_its_section(at, name):
    data = bytearray(pack(FULL))
    data[at] ^= 1
    assert_refused(bytes(data), f"^damaged: {name} section at byte ")


def test_swapped_section_type_is_damage():
    data = bytearray(header_bytes() + LR)
    data[32] = 200  # an ancillary type would be skipped, were the type not under the CRC
    assert_refused(bytes(data), "^damaged: type-200 section at byte 32")


# ---- each way a header can be bad


def test_empty_file_is_refused():
    assert_refused(b"", "^truncated: 0 bytes")


def test_wrong_magic_is_refused():
    assert_refused(
        header_bytes(magic=b"\x89PNG") + LR, r"^not a .rsc file: it begins with 89 50 4e 47, expected 89 52 53 43$"
    )
    assert_refused(b"\x89R\n", "^not a .rsc file")


def test_newer_version_is_refused_whatever_its_length():
    assert_refused(
        header_bytes(version=2) + LR, "^newer format version: 2, this refscale reads up to 1; or the file is damaged$"
    )
    assert_refused(b"\x89RSC\xff", "^newer format version: 255")


@pytest.mark.parametrize("bit", range(1, 8))
def test_a_flipped_bit_of_the_version_is_damage(bit):
    data = bytearray(pack(FULL))
    data[4] ^= 1 << bit
    assert_refused(bytes(data), f"^damaged: the header fits its CRC-32 with version 1, but has {data[4]}$")


def test_version_zero_is_refused():
    assert_refused(header_bytes(version=0) + LR, "^malformed: format version 0")


@pytest.mark.parametrize("others", [0, 0b1001_1100])
def test_required_flag_that_early_files_had_is_refused(others):
    assert_refused(header_bytes(required=others | 0b10) + LR, "^unknown required feature: bit 1 of")


HEADER = Header(6, 5, 2, 1, 50, b"weight", None)
REFERRING = replace(HEADER, reference=b"before")


@pytest.mark.parametrize(
    ("field", "name", "number", "required", "optional", "smallest"),
    [
        ("similarity_map", "MAP", 1, 1 << 3, 0, 0),
        ("alignment", "ALIGNMENT", 4, 1 << 2, 0, 8),
        ("bands", "BANDS", 5, 1 << 4, 0, 3),
        ("extra_bands", "EXTRA_BANDS", 6, 1 << 5, 0, 39),
        ("prediction", "PREDICTION", 7, 1 << 6, 0, 10),
        ("references", "REFERENCES", 8, 1 << 7, 0, 7),
        ("metadata", "METADATA", 128, 0, 1 << 1, 5),
        ("output_hash", "OUTPUT_HASH", 129, 0, 1 << 0, 6),
    ],
)
def test_a_flag_announces_its_section(field, name, number, required, optional, smallest):
    def data(number_of_bytes=None, flagged=True):
        head = header_bytes(required=REFERENCE | required * flagged, optional=optional * flagged, reference=b"before")
        if number_of_bytes is None:
            return head + LR
        return head + b"".join(sorted((LR, section(number, bytes(number_of_bytes)))))

    size = max(smallest, 6)
    value = Container(REFERRING, b"payload", **{field: bytes(size)})
    assert unpack(data(size)) == value
    assert pack(value) == data(size)
    assert bytes_by_section(value) == sizes(low_res=13, **{TABLE[field].counts_as: 6 + size})
    assert_refused(data(), f"^truncated: .* without its {name} section$")
    assert_refused(data(size, flagged=False), f"^malformed: {name} section, but the header's flags")
    if smallest:
        wrong = f"malformed: {name} section of {smallest - 1} bytes, expected at least {smallest}"
        assert_refused(data(smallest - 1), f"^{wrong}, at byte ")
        with pytest.raises(ValueError, match=f"^{wrong}$"):
            pack(replace(value, **{field: bytes(smallest - 1)}))


@pytest.mark.parametrize("field", TABLE)
@pytest.mark.parametrize("size", [(1, 1), (300, 200)])
def test_no_payload_is_longer_than_its_limit(field, size, monkeypatch):
    class Counted(bytes):
        """A payload whose length is told, for sizes that would take long to make."""

        def __len__(self):
            return told

    header = replace(REFERRING, width=size[0], height=size[1])
    limit = TABLE[field].largest(header)
    lr, told = {"lr": b"payload"}, min(limit, MAX_PAYLOAD) + 1
    with pytest.raises(
        ValueError, match=f"^over the size limit: {TABLE[field].name} section of {told} bytes, expected"
    ):
        pack(Container(header, **lr | {field: Counted()}))
    if limit < 1_000_000:
        exact = Container(header, **lr | {field: bytes(limit)})
        assert unpack(pack(exact)) == exact
        over = pack(exact)[:32]
        for entry, payload in Container(header, **lr | {field: bytes(limit + 1)}).sections():
            over += section(entry.number, payload)
        assert_refused(over, f"^over the size limit: {TABLE[field].name} section of {limit + 1} bytes, .*, at byte ")


def test_limits_grow_with_the_picture_up_to_that_of_a_length():
    largest = replace(HEADER, width=20_000, height=20_000)
    for entry in TABLE.values():
        assert entry.smallest <= entry.largest(HEADER) <= entry.largest(largest)
        assert entry.problem(MAX_PAYLOAD + 1, largest)
    assert TABLE["similarity_map"].largest(HEADER) == 65536 + 4 * 3 * 3


@pytest.mark.parametrize("before", [None, b"before"])
def test_a_prediction_may_have_a_map_with_and_without_a_reference(before):
    value = Container(replace(HEADER, reference=before), b"payload", b"payload", prediction=b"prediction")
    required, reference = (64, bytes(6)) if before is None else (64 | REFERENCE, before)
    head = header_bytes(required=required | MAP_FLAG, reference=reference)
    data = head + MAP + LR + section(7, b"prediction")
    assert unpack(data) == value
    assert pack(value) == data
    without = header_bytes(required=required, reference=reference) + LR + section(7, b"prediction")
    assert unpack(without).similarity_map is None


def test_what_is_predicted_has_no_alignment():
    data = header_bytes(required=64 | 4 | REFERENCE, reference=b"before") + LR
    data += section(4, b"alignment") + section(7, b"prediction")
    assert_refused(data, "^malformed: ALIGNMENT together with PREDICTION$")
    both = Container(REFERRING, b"payload", alignment=b"alignment", prediction=b"prediction")
    with pytest.raises(ValueError, match="ALIGNMENT together with PREDICTION"):
        pack(both)


@pytest.mark.parametrize(
    ("field", "name", "bit", "number"), [("similarity_map", "MAP", 8, 1), ("alignment", "ALIGNMENT", 4, 4)]
)
def test_map_and_alignment_need_a_reference(field, name, bit, number):
    wrong = f"^malformed: {name} without a reference$"
    assert_refused(header_bytes(required=bit) + b"".join(sorted((LR, section(number, b"alignment")))), wrong)
    assert_refused(header_bytes(required=bit) + LR, wrong)
    with pytest.raises(ValueError, match=wrong):
        pack(Container(HEADER, b"payload", **{field: b"alignment"}))


def test_a_reference_needs_no_map():
    plain = Container(REFERRING, b"payload")
    data = header_bytes(required=REFERENCE, reference=b"before") + LR
    assert unpack(data) == plain
    assert unpack(data).similarity_map is None
    assert pack(plain) == data
    assert bytes_by_section(plain) == sizes(low_res=13)


def test_unknown_optional_flag_is_ignored():
    assert unpack(header_bytes(optional=0xF8) + LR) == unpack(header_bytes() + LR)


def test_reference_fingerprint_without_its_flag_is_refused():
    data = header_bytes(reference=b"before") + LR
    assert_refused(data, "^malformed: reference fingerprint 6265666f7265 without the REFERENCE flag")


def test_reference_fingerprint_may_be_zero():
    assert unpack(header_bytes(required=REFERENCE) + LR).header.reference == bytes(6)


@pytest.mark.parametrize("field", ["width", "height"])
def test_side_of_zero_is_refused(field):
    assert_refused(header_bytes(**{field: 0}) + LR, "^malformed: picture of")


@pytest.mark.parametrize("size", [((1 << 20) + 1, 1), (1, (1 << 20) + 1), (0xFFFFFF, 0xFFFFFF)])
def test_side_over_the_limit_is_refused(size):
    assert_refused(header_bytes(width=size[0], height=size[1]) + LR, "^over the size limit: .* sides up to 1048576$")


@pytest.mark.parametrize("size", [(20_000, 20_001), (1 << 20, 382)])
def test_area_over_the_limit_is_refused(size):
    assert_refused(header_bytes(width=size[0], height=size[1]) + LR, "^over the size limit: .* up to 400000000$")


@pytest.mark.parametrize("size", [(20_000, 20_000), (1 << 20, 381), (1, 1 << 20), (1, 1)])
def test_sizes_at_the_limit_are_accepted(size):
    header = unpack(header_bytes(width=size[0], height=size[1]) + LR).header
    assert (header.width, header.height) == size


@pytest.mark.parametrize("scale", [0, 3, 5, 8, 255])
def test_unknown_scale_is_refused(scale):
    assert_refused(header_bytes(scale=scale) + LR, f"^malformed: scale {scale}, expected 1, 2 or 4$")


def test_codec_zero_is_refused():
    assert_refused(header_bytes(codec=0) + LR, "^malformed: low-res codec 0, expected 1..255$")


@pytest.mark.parametrize("codec", [1, 2, 255])
def test_which_codecs_exist_is_not_the_containers_business(codec):
    assert unpack(header_bytes(codec=codec) + LR).header.codec == codec


@pytest.mark.parametrize("quality", [0, 101, 255])
def test_quality_out_of_range_is_refused(quality):
    assert_refused(header_bytes(quality=quality) + LR, f"^malformed: quality {quality}, expected 1..100$")


# ---- each way the sections can be bad


def test_missing_lr_is_refused():
    assert_refused(header_bytes(), "^truncated: .* without its LR section$")


def test_missing_map_is_refused():
    assert_refused(header_bytes(required=REFERENCE | MAP_FLAG) + LR, "^truncated: .* without its MAP section$")


def test_missing_output_hash_is_refused():
    assert_refused(header_bytes(optional=1) + LR, "^truncated: .* without its OUTPUT_HASH section$")


def test_map_without_its_flag_is_refused():
    assert_refused(header_bytes() + MAP + LR, "^malformed: MAP section, but")
    assert_refused(header_bytes(required=REFERENCE) + MAP + LR, "^malformed: MAP section, but")


def test_output_hash_without_its_flag_is_refused():
    assert_refused(header_bytes() + LR + OUTPUT_HASH, "^malformed: OUTPUT_HASH section, but")


def test_wrong_order_is_refused():
    assert_refused(
        header_bytes(required=REFERENCE | MAP_FLAG) + LR + MAP, "^malformed: MAP section at byte 45 after LR"
    )
    assert_refused(header_bytes() + section(131) + LR, "^malformed: LR section at byte 45 after type-131")


@pytest.mark.parametrize("kind", [2, 131])
def test_duplicate_section_is_refused(kind):
    name = {2: "LR", 131: "type-131"}[kind]
    twice = section(2) * (kind != 2) + section(kind) * 2
    assert_refused(
        header_bytes() + twice, f"^malformed: {name} section at byte .* after {name}, expected each type once"
    )


def test_empty_lr_is_refused():
    assert_refused(
        header_bytes() + section(2, b""), "^malformed: LR section of 0 bytes, expected at least 1, at byte 32$"
    )


def test_empty_map_is_accepted_and_is_not_no_map():
    assert unpack(header_bytes(required=REFERENCE | MAP_FLAG) + section(1, b"") + LR).similarity_map == b""


@pytest.mark.parametrize("size", [0, 5, 7, 8])
def test_output_hash_of_wrong_length_is_refused(size):
    data = header_bytes(optional=1) + LR + section(129, bytes(size))
    kind, limit = ("malformed", "at least") if size < 6 else ("over the size limit", "up to")
    assert_refused(data, f"^{kind}: OUTPUT_HASH section of {size} bytes, expected {limit} 6, at byte 45$")


def test_section_type_zero_is_refused():
    assert_refused(header_bytes() + section(0) + LR, "^malformed: type-0 section at byte 32, a type that is never used")


@pytest.mark.parametrize("kind", [9, 127])
def test_unknown_critical_section_is_refused(kind):
    assert_refused(header_bytes() + LR + section(kind), f"^unknown required feature: type-{kind} section at byte 45")


@pytest.mark.parametrize("kind", [131, 255])
def test_unknown_ancillary_section_is_skipped(kind):
    assert unpack(header_bytes() + LR + section(kind)) == unpack(header_bytes() + LR)


def test_damaged_ancillary_section_is_refused():
    data = bytearray(header_bytes() + LR + section(131))
    data[-1] ^= 1
    assert_refused(bytes(data), "^damaged: 13 bytes after the end of the last section, at byte 45$")
    announced = header_bytes(optional=1) + bytes(data[32:]) + OUTPUT_HASH
    assert_refused(announced, "^damaged: type-131 section at byte 45 does not fit its CRC-32$")


def test_length_beyond_the_end_is_refused():
    data = header_bytes() + section(2, b"lr", length=b"\xff\xff\xff\xff\x0f")
    assert_refused(data, "^truncated: LR section at byte 32 has 2 bytes of payload, expected 4294967295$")
    for size in range(5):
        cut = data[: 33 + size]
        assert_refused(cut, f"^truncated: {size} bytes of a length at byte 33$")
    for size in range(4):
        assert_refused(data[: 38 + size], "^truncated: LR section at byte 32 ends within its CRC-32$")
    assert_refused(
        data[:42],
        "^truncated: LR section at byte 32 has 0 bytes of payload, expected 4294967295$",
    )


NAMES = {2: "LR", 127: "type-127", 131: "type-131"}


@pytest.mark.parametrize("kind", [2, 127, 131])  # checked before the type: of a section to be skipped, too
@pytest.mark.parametrize("length", ["8700", "878000", "87808000", "8780808000"])
def test_length_not_in_its_shortest_form_is_refused(length, kind):
    data = header_bytes() + section(kind, length=bytes.fromhex(length))
    where = f"{NAMES[kind]} section at byte 32"
    assert_refused(data, f"^malformed: {where} does not write its length in the shortest form$")
    assert_refused(data[:-1] + b"D", f"^damaged: {where} does not fit its CRC-32$")  # a writer's fault only if it fits


def test_length_of_zero_has_one_form_too():
    data = header_bytes(required=REFERENCE | MAP_FLAG) + section(1, b"", length=b"\x80\0") + LR
    assert_refused(data, "^malformed: MAP section at byte 32 does not write its length in the shortest form$")


@pytest.mark.parametrize("kind", [2, 131])
@pytest.mark.parametrize("length", ["878080808000", "808080808001", "ffffffffffffffffff01"])
def test_length_over_five_bytes_is_refused(length, kind):
    data = header_bytes() + section(kind, length=bytes.fromhex(length))
    assert_refused(data, "^malformed: length at byte 33 of more than 5 bytes$")
    assert_refused(data[:38], "^malformed: length at byte 33 of more than 5 bytes$")


@pytest.mark.parametrize("kind", [2, 131])
@pytest.mark.parametrize(
    ("length", "expected"), [("8080808010", 1 << 32), ("8780808010", (1 << 32) + 7), ("ffffffff7f", (1 << 35) - 1)]
)
def test_length_beyond_32_bits_is_beyond_the_end(length, expected, kind):
    data = header_bytes() + section(kind, length=bytes.fromhex(length))
    where = f"{NAMES[kind]} section at byte 32"
    assert_refused(data, f"^truncated: {where} has 7 bytes of payload, expected {expected}$")


@pytest.mark.parametrize("size", range(1, 12))
def test_trailing_zeros_are_refused(size):
    data = pack(FULL)
    end = len(data)
    told = f"^damaged: {size} byte{'s' * (size > 1)} after the end of the last section, at byte {end}$"
    assert_refused(data + bytes(size), told)
    assert_refused(data + b"\n" * size, told)


def test_a_second_file_behind_the_first_is_refused():
    size = len(pack(FULL))
    assert_refused(
        pack(FULL) + pack(FULL), f"^damaged: {size} bytes after the end of the last section, at byte {size}$"
    )


# ---- mistakes of a caller of pack


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"height": -1},
        {"width": (1 << 20) + 1},
        {"width": 20_000, "height": 20_001},
        {"scale": 3},
        {"codec": 0},
        {"codec": 256},
        {"quality": 0},
        {"quality": 101},
        {"weights": b"five5"},
        {"weights": b"seven b"},
        {"reference": b""},
    ],
    ids=str,
)
def test_pack_refuses_a_header_out_of_range(change):
    with pytest.raises(ValueError, match="expected"):
        pack(replace(FULL, header=replace(FULL.header, **change)))


@pytest.mark.parametrize(
    "change",
    [{"lr": b""}, {"alignment": b"seven b"}, {"metadata": b""}, {"output_hash": b""}, {"output_hash": b"seven b"}],
    ids=str,
)
def test_pack_refuses_sections_out_of_range(change):
    with pytest.raises(ValueError, match="expected"):
        pack(replace(FULL, **change))


# ---- sizes and imports


def test_bytes_by_section_by_hand():
    assert bytes_by_section(FULL) == sizes(map=6 + 3, low_res=6 + 7, output_hash=6 + 6)
    assert bytes_by_section(LONG) == sizes(map=6 + 3, low_res=7 + 140, output_hash=6 + 6)
    assert bytes_by_section(replace(PLAIN, output_hash=None)) == sizes(low_res=7)


def test_a_container_shows_sizes_in_place_of_payloads():
    assert repr(LONG).endswith(", MAP 3, LR 140, OUTPUT_HASH 6)")
    assert repr(LONG).startswith("Container(Header(width=460293, ")


def test_importing_container_loads_the_standard_library_only():
    code = "import sys, refscale_codec.fileformat.container; print(*({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_a_file_is_no_longer_than_its_known_sections_can_be() -> None:
    smallest = pack(Container(replace(PLAIN.header, width=1, height=1), b"x"))
    most = container.most_bytes(smallest[:32], "x")
    with_filler = smallest + section(200, bytes(most - len(smallest) - 9))  # of which 4 are its length
    assert len(with_filler) == most
    assert unpack(with_filler) == unpack(smallest)
    assert_refused(with_filler + b"x", f"over the size limit: {most + 1} bytes, expected up to {most}")


def test_a_file_that_goes_on_ends_where_something_is_no_section() -> None:
    data = pack(LONG)
    assert container.most_bytes(data + bytes(20), "x") == len(data)
    assert container.most_bytes(data + section(200, bytes(9)) + bytes(20), "x") == len(data) + len(
        section(200, bytes(9))
    )
    bounds = [container.most_bytes(data[:end], "x") for end in range(32, len(data) + 10)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[-1] >= len(data)


@pytest.mark.parametrize("head", [b"", b"\x89RSC", header_bytes(width=0), header_bytes()[:-1]])
def test_a_bad_header_is_named_with_the_file(head: bytes) -> None:
    with pytest.raises(ContainerError, match="^some.rsc: "):
        container.most_bytes(head, "some.rsc")
