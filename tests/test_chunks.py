"""What PNG, JPEG and WebP say beside their pixels: kept, written again, or named as left out."""

import io
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL.PngImagePlugin import PngInfo

from refscale_codec.errors import ImageError
from refscale_codec.picture import metadata
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.io.chunks import of_png
from refscale_codec.picture.metadata import CENTIMETRE, INCH, METRE, RATIO, Metadata, packed_resolution, packed_texts

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
COLOURS = Metadata(
    gamma=struct.pack(">I", 100_000),
    chromaticities=struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000),
    intent=b"\2",
    cicp=bytes([12, 13, 0, 1]),
    resolution=packed_resolution(11811, 5906, METRE),
    texts=packed_texts([("Station", "km 12.4"), ("Station", "größer"), ("Title", "三 lines\nof text")]),
)


def chunk(kind: bytes, contents: bytes) -> bytes:
    return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))


def png_with(*chunks: tuple[bytes, bytes], after: bool = False) -> bytes:
    """Return a PNG with chunks before its pixels or after them, made without the module under test."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(RGB).save(buffer, "PNG")
    at = -12 if after else 33
    return buffer.getvalue()[:at] + b"".join(chunk(*each) for each in chunks) + buffer.getvalue()[at:]


def jpeg_with(*segments: tuple[int, bytes], **options: object) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(RGB).save(buffer, "JPEG", **options)
    more = b"".join(struct.pack(">BBH", 0xFF, kind, len(contents) + 2) + contents for kind, contents in segments)
    return buffer.getvalue()[:20] + more + buffer.getvalue()[20:]  # behind the JFIF segment


def test_png_as_other_programs_read_it() -> None:
    found = PIL.Image.open(io.BytesIO(pictures.to_bytes(Image(RGB, COLOURS), "png")))
    found.load()
    assert found.info["gamma"] == 1.0
    assert found.info["chromaticity"] == (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
    assert found.info["srgb"] == 2
    assert found.info["dpi"] == pytest.approx((300, 150), abs=0.02)
    assert found.text == {"Station": "größer", "Title": "三 lines\nof text"}  # the last one of a keyword
    assert np.array_equal(np.asarray(found), RGB)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_what_a_png_says_comes_back(dtype: str, caplog: pytest.LogCaptureFixture) -> None:
    data = pictures.to_bytes(Image(RGB.astype(dtype), replace(COLOURS, xmp=b"<x/>")), "png")
    assert pictures.from_bytes(data, "photo").metadata == replace(COLOURS, xmp=b"<x/>")
    assert caplog.messages == []


def test_what_other_programs_write_is_read() -> None:
    info = PngInfo()
    info.add_text("A", "deflated", zip=True)
    info.add_itxt("B", "überall", zip=True)
    buffer = io.BytesIO()
    PIL.Image.fromarray(RGB).save(buffer, "PNG", pnginfo=info, dpi=(72, 72))
    data = buffer.getvalue()
    said = pictures.from_bytes(data[:-12] + chunk(b"tEXt", b"C\0late") + data[-12:], "photo").metadata
    assert metadata.texts_of(said) == [("A", "deflated"), ("B", "überall"), ("C", "late")]
    assert metadata.resolution_of(said) == (2835, 2835, METRE)


def test_texts_of_any_size_are_kept() -> None:
    long = "ä" * 5_000_000  # Pillow refuses more than 1 MiB when it is deflated
    texts = chunk(b"zTXt", b"long\0\0" + zlib.compress(long.encode("latin-1")))
    profile = chunk(b"iCCP", b"wide\0\0" + zlib.compress(bytes(2_000_000)))
    plain = png_with()
    said = pictures.from_bytes(plain[:33] + texts + profile + plain[33:], "photo").metadata
    assert (metadata.texts_of(said), len(said.icc)) == ([("long", long)], 2_000_000)


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ([(b"bKGD", bytes(6)), (b"tIME", bytes(7)), (b"bKGD", bytes(6))], "left out: PNG chunks bKGD, tIME"),
        ([(b"zTXt", b"a\0\0damaged")], "left out: a chunk zTXt (damaged)"),
        ([(b"zTXt", b"a\0\0" + zlib.compress(bytes(99))[:-5])], "left out: a chunk zTXt (damaged)"),
        ([(b"zTXt", b"a\0\1" + zlib.compress(b"x"))], "left out: a chunk zTXt (of an unknown compression)"),
        ([(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 2**24))], "left out: a chunk zTXt (more than 16,777,215 bytes)"),
        ([(b"tEXt", b"no zero")], "left out: a chunk tEXt (damaged)"),
        ([(b"tEXt", b"a\0b\0c")], "left out: a chunk tEXt (damaged)"),
        ([(b"iTXt", b"a\0\0\0de")], "left out: a chunk iTXt (damaged)"),
        ([(b"iTXt", b"a\0\0\0de\0A\0x")], "left out: languages of texts"),
        ([(b"iCCP", b"a\0\0" + zlib.compress(name)) for name in (b"one", b"two")], "left out: a second colour profile"),
        ([(b"gAMA", b"xx"), (b"pHYs", bytes(9))], "left out: gamma of 2 bytes"),
    ],
)
def test_what_is_left_out_of_a_png_is_told(
    chunks: list[tuple[bytes, bytes]], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert np.array_equal(pictures.from_bytes(png_with(*chunks), "photo").pixels, RGB)
    assert caplog.messages == [f"photo: {said}"]


def test_a_damaged_text_is_damage() -> None:
    data = png_with((b"tEXt", b"key\0text")).replace(b"key\0text", b"key\0test")
    with pytest.raises(ImageError, match="damaged or truncated: the checksum of its chunk tEXt is wrong"):
        pictures.from_bytes(data, "photo")


@given(st.binary(max_size=60), st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"iCCP"]), st.booleans())
@settings(deadline=None)
def test_no_text_keeps_a_picture_from_being_read(contents: bytes, kind: bytes, after: bool) -> None:
    read = pictures.from_bytes(png_with((kind, contents), after=after), "photo")
    assert np.array_equal(read.pixels, RGB)
    assert np.array_equal(pictures.from_bytes(pictures.to_bytes(read, "png"), "photo").pixels, RGB)


def test_resolution_and_comments_of_a_jpeg_go_to_png(caplog: pytest.LogCaptureFixture) -> None:
    data = jpeg_with((0xFE, b"taken at noon"), (0xFE, "später".encode("latin-1")), dpi=(300, 150))
    read = pictures.from_bytes(data, "photo")
    assert metadata.resolution_of(read.metadata) == (300, 150, INCH)
    assert metadata.texts_of(read.metadata) == [("Comment", "taken at noon"), ("Comment", "später")]
    said = pictures.from_bytes(pictures.to_bytes(read, "png"), "photo").metadata
    assert metadata.resolution_of(said) == (11811, 5906, METRE)
    assert said.texts == read.metadata.texts
    assert caplog.messages == []


def test_a_jpeg_that_says_nothing_of_its_resolution_has_none() -> None:
    assert pictures.from_bytes(jpeg_with(), "photo").metadata == Metadata()


def test_what_is_left_out_of_a_jpeg_is_told(caplog: pytest.LogCaptureFixture) -> None:
    extended = b"http://ns.adobe.com/xmp/extension/\0" + bytes(40)
    pictures.from_bytes(jpeg_with((0xED, b"Photoshop 3.0\0x"), (0xE1, extended), (0xEB, b"\7")), "photo")
    assert caplog.messages == [
        "photo: left out: segment APP13 (Photoshop 3.0), "
        "segment APP1 (http://ns.adobe.com/xmp/extension/), segment APP11"
    ]


def test_what_is_left_out_of_a_webp_is_told(caplog: pytest.LogCaptureFixture) -> None:
    data = pictures.to_bytes(Image(RGB, Metadata(xmp=b"<x/>")), "webp") + b"mine\1\0\0\0x\0"
    pictures.from_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:], "photo")
    assert caplog.messages == ["photo: left out: WebP chunks mine"]


@pytest.mark.parametrize("more", [b"PK\3\4" + bytes(40), b"\0\0\0\x18ftypmp42", chunk(b"tEXt", b"a\0b")])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_what_is_behind_the_end_is_told_and_changes_nothing(
    format: str, more: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(RGB).save(buffer, format)
    plain = pictures.from_bytes(buffer.getvalue(), "x")
    found = pictures.from_bytes(buffer.getvalue() + more + b"\xff", "x")
    assert (found.fingerprint(), found.metadata) == (plain.fingerprint(), plain.metadata)
    assert caplog.messages == [f"x: left out: {len(more) + 1} bytes behind its end"]


@pytest.mark.parametrize(
    ("resolution", "found"),
    [
        ((300, 150, INCH), (300, 150, 2)),
        ((118, 59, CENTIMETRE), (118, 59, 3)),
        ((11811, 5906, METRE), (118.11, 59.06, 3)),
        ((2, 1, RATIO), (2, 1, 1)),
    ],
)
def test_a_tiff_has_the_resolution(
    resolution: tuple[int, int, int], found: tuple[float, float, int], caplog: pytest.LogCaptureFixture
) -> None:
    data = pictures.to_bytes(Image(RGB, Metadata(resolution=packed_resolution(*resolution))), "tiff")
    tags = PIL.Image.open(io.BytesIO(data)).tag_v2
    assert (tags[282], tags[283], tags[296]) == pytest.approx(found)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"dpi": (300, 150)}, (11811, 5906, METRE)),
        ({"resolution_unit": 3, "x_resolution": 118.0, "y_resolution": 59.5}, (11800, 5950, METRE)),
        ({"resolution_unit": 1, "x_resolution": 2.5, "y_resolution": 1.0}, (2500, 1000, RATIO)),
        ({"resolution_unit": 1, "x_resolution": 7.0, "y_resolution": 7.0}, None),  # says nothing
        ({}, None),
    ],
)
def test_a_png_has_the_resolution_of_a_tiff_and_the_tiff_of_it_the_same(
    said: dict[str, Any], wanted: tuple[int, int, int] | None, caplog: pytest.LogCaptureFixture
) -> None:
    file = io.BytesIO()
    PIL.Image.fromarray(RGB).save(file, "TIFF", **said)
    png = pictures.to_bytes(pictures.from_bytes(file.getvalue(), "x.tif"), "png")
    found = dict((kind, contents) for kind, contents, _ in of_png(png)).get(b"pHYs")
    assert found == (None if wanted is None else packed_resolution(*wanted))
    assert pictures.from_bytes(png, "x.png").metadata.resolution == b""  # EXIF says it
    tags, back = (
        {tag: PIL.Image.open(io.BytesIO(data)).getexif().get(tag) for tag in (282, 283, 296)}
        for data in (file.getvalue(), pictures.to_bytes(pictures.from_bytes(png, "x.png"), "tiff"))
    )
    assert back == tags
    assert caplog.messages == []


@pytest.mark.parametrize(("dots", "told"), [(300, False), (72, True)])
def test_a_resolution_of_exif_that_differs_is_told_where_there_is_one_place(
    dots: int, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    block = PIL.Image.Exif()
    block[282], block[283], block[296] = dots, dots, 2
    said = Metadata(exif=block.tobytes()[6:], resolution=packed_resolution(300, 300, INCH))
    assert pictures.from_bytes(pictures.to_bytes(Image(RGB, said), "png"), "photo").metadata.exif == said.exif
    data = pictures.to_bytes(Image(RGB, said), "tiff")
    assert PIL.Image.open(io.BytesIO(data)).tag_v2[282] == dots
    assert any("TIFF has one resolution" in message for message in caplog.messages) == told


def test_what_other_formats_cannot_hold_is_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    pictures.to_bytes(Image(RGB, COLOURS), "webp")
    assert caplog.messages == [
        "WebP cannot hold the gamma (4 bytes), the chromaticities (32 bytes), the sRGB rendering intent (1 bytes), "
        "the colour space by code points (cICP) (4 bytes), the texts (57 bytes), left out; PNG can",
        "WebP cannot hold the resolution (9 bytes), left out; PNG and TIFF can",
    ]
