"""Files become pixels as stored or one clear error, and pixels become files whole or not at all."""

import csv
import hashlib
import io
import os
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.PngImagePlugin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refscale_codec.errors import ImageError, OutputError, UsageError
from refscale_codec.fileformat import container
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import formats, pictures
from refscale_codec.picture.metadata import Metadata

RGB = np.random.default_rng(7).integers(0, 256, (7, 5, 3), dtype=np.uint8)
GREY, ALPHA = RGB[..., 0], RGB[..., 1] * 2
PALETTE = PIL.Image.fromarray(RGB).quantize(64)
CMYK = PIL.Image.fromarray(RGB).convert("CMYK")
LOSSLESS = ["png", "webp", "tiff"]


def file_of(picture: PIL.Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def rgb_file(format: str, **options: object) -> bytes:
    return file_of(PIL.Image.fromarray(RGB), format, **options)


def png_file(
    depth: int, colour_type: int, row: bytes, width: int = 2, height: int = 1, trns: bytes | None = None
) -> bytes:
    """Return a PNG put together by hand, for the kinds that Pillow does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"\0" + row)
    transparent = b"" if trns is None else chunk(b"tRNS", trns)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + transparent + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiff_file(samples: NDArray[np.generic], photometric: int = 2, **tags: int) -> bytes:
    """Return an uncompressed little-endian TIFF of [h, w, bands] put together by hand."""
    height, width, bands = samples.shape
    body = samples.tobytes()
    sample_format = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    entries = {  # tag: (type, values); type 3 is u16, 4 is u32
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8 * samples.dtype.itemsize] * bands),
        259: (3, [1]),
        262: (3, [photometric]),
        273: (4, [8]),
        277: (3, [bands]),
        278: (4, [height]),
        279: (4, [len(body)]),
        339: (3, [sample_format] * bands),
    }
    if "orientation" in tags:
        entries[274] = (3, [tags["orientation"]])
    if "extra" in tags:
        entries[338] = (3, [tags["extra"]] * (bands - 3))
    body += b"\0" * (len(body) % 2)
    directory_at = 8 + len(body)
    overflow_at = directory_at + 2 + 12 * len(entries) + 4
    directory, overflow = struct.pack("<H", len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack("<" + "HI"[kind - 3] * len(values), *values)
        if len(packed) > 4:
            overflow, packed = overflow + packed, struct.pack("<I", overflow_at + len(overflow))
        directory += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", directory_at) + body + directory + struct.pack("<I", 0) + overflow


def refusal(data: bytes, name: str = "photo.png") -> str:
    with pytest.raises(ImageError) as caught:
        pictures.from_bytes(data, name)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    return message


# --- Image -----------------------------------------------------------------------------------------------------------


def test_image_knows_its_size() -> None:
    picture = Image(RGB)
    assert (picture.height, picture.width) == (7, 5)


@pytest.mark.parametrize(
    ("pixels", "value"),
    [
        (RGB.astype(np.float64), "float64"),
        (RGB.astype(np.int64), "int64"),
        (RGB[..., 0], r"\[7, 5\]"),
        (RGB[..., :0], r"\[7, 5, 0\]"),
        (RGB[:0], r"\[0, 5, 3\]"),
        (np.zeros((1, 1, 256), np.uint8), r"\[1, 1, 256\]"),
    ],
)
def test_an_array_of_another_kind_is_refused(pixels: NDArray[np.uint8], value: str) -> None:
    with pytest.raises(ImageError, match=value):
        Image(pixels)


def test_fingerprint_is_the_documented_hash() -> None:
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)  # one row of two pixels
    hashed = b"refscale-pixels-v1" + b"\1\0\0\0" + b"\2\0\0\0" + b"\3\0\0\0" + bytes([1, 2, 3, 4, 5, 6])
    assert Image(pixels).fingerprint() == hashlib.sha256(hashed).digest()[:6]
    assert Image(pixels).fingerprint().hex() == "10839d025d07"


def test_alpha_of_another_shape_or_type_is_refused() -> None:
    for alpha in (RGB[:2, :, 0], RGB[..., 0].astype(np.uint16), 255):
        with pytest.raises(ImageError, match="alpha must have the shape and type of a band"):
            Image(RGB, alpha=alpha)  # type: ignore[arg-type]


def test_a_nodata_value_that_no_sample_can_have_is_refused() -> None:
    for nodata in (-1, 256, 7.0, "7"):
        with pytest.raises(ImageError, match=r"nodata must be a whole number within 0\.\.255"):
            Image(RGB, nodata=nodata)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "name", "fingerprint"), [(np.uint16, b"u2", "58f68edafdc3"), (np.int16, b"i2", "e06c17999c81")]
)
def test_fingerprint_of_sixteen_bits_is_the_documented_hash(dtype: type, name: bytes, fingerprint: str) -> None:
    pixels = np.array([[[1, 2], [0x0304, 5]]], dtype)
    hashed = b"refscale-pixels-" + name + b"\1\0\0\0" + b"\2\0\0\0" + b"\2\0\0\0" + bytes([1, 0, 2, 0, 4, 3, 5, 0])
    assert Image(pixels).fingerprint() == hashlib.sha256(hashed).digest()[:6]
    assert Image(pixels).fingerprint().hex() == fingerprint
    assert Image(pixels.byteswap().view(pixels.dtype.newbyteorder()).astype(dtype)).fingerprint().hex() == fingerprint


def test_fingerprint_does_not_depend_on_memory_layout() -> None:
    assert Image(np.asfortranarray(RGB)).fingerprint() == Image(RGB).fingerprint()
    assert Image(RGB[:, ::-1][:, ::-1]).fingerprint() == Image(RGB).fingerprint()


def test_fingerprint_is_that_of_pixels_which_changed_in_place() -> None:
    picture = Image(RGB.copy())
    before = picture.fingerprint()
    picture.pixels[0, 0, 0] ^= 1
    assert picture.fingerprint() == Image(picture.pixels.copy()).fingerprint() != before


def test_fingerprint_does_not_depend_on_the_file_format() -> None:
    prints = {pictures.from_bytes(pictures.to_bytes(Image(RGB), kind), kind).fingerprint() for kind in LOSSLESS}
    assert prints == {Image(RGB).fingerprint()}


@given(height=st.integers(1, 5), width=st.integers(1, 5), data=st.data())
@settings(max_examples=50, deadline=None)
def test_fingerprint_depends_on_every_pixel_value_and_on_shape(height: int, width: int, data: st.DataObject) -> None:
    n = height * width * 3
    values = data.draw(st.binary(min_size=n, max_size=n))
    pixels = np.frombuffer(values, dtype=np.uint8).reshape(height, width, 3)
    changed = pixels.copy()
    changed.flat[data.draw(st.integers(0, n - 1))] ^= data.draw(st.integers(1, 255))
    assert Image(changed).fingerprint() != Image(pixels).fingerprint()
    if height != width:
        reshaped = pixels.reshape(width, height, 3)
        assert Image(reshaped).fingerprint() != Image(pixels).fingerprint()


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".tiff", ".PNG"])
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo{suffix}"
    pictures.write(Image(RGB), path)
    assert np.array_equal(pictures.read(path).pixels, RGB)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
@pytest.mark.parametrize("kind", LOSSLESS)
def test_the_smallest_pictures_survive(kind: str, shape: tuple[int, int]) -> None:
    pixels = np.arange(shape[0] * shape[1] * 3, dtype=np.uint8).reshape(*shape, 3)
    assert np.array_equal(pictures.from_bytes(pictures.to_bytes(Image(pixels), kind), kind).pixels, pixels)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_read(progressive: bool) -> None:
    grey_ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(16, axis=0)
    data = file_of(PIL.Image.fromarray(grey_ramp), "JPEG", quality=100, subsampling=0, progressive=progressive)
    pixels = pictures.from_bytes(data, "ramp.jpg").pixels
    assert np.abs(pixels.astype(int) - grey_ramp).max() <= 2


def test_read_pixels_are_writable_and_contiguous() -> None:
    pixels = pictures.from_bytes(rgb_file("PNG"), "photo.png").pixels
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


def test_the_kind_is_told_from_the_bytes_not_the_name() -> None:
    assert np.array_equal(pictures.from_bytes(rgb_file("TIFF"), "photo.png").pixels, RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_orientation_is_not_applied(format: str, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    turned = pictures.from_bytes(rgb_file(format, exif=exif.tobytes(), **options), "photo").pixels
    plain = pictures.from_bytes(rgb_file(format, **options), "photo").pixels
    assert np.array_equal(turned, plain)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_read_as_stored(orientation: int) -> None:
    assert np.array_equal(pictures.from_bytes(tiff_file(RGB, orientation=orientation), "photo.tif").pixels, RGB)


# --- metadata --------------------------------------------------------------------------------------------------------


def exif_block() -> bytes:
    """Return EXIF with tags of the first, the EXIF and the GPS directory."""
    exif = PIL.Image.Exif()
    exif[271], exif[274], exif[282] = "maker", 6, 72.0
    exif.get_ifd(34665)[36867] = "2020:01:02 03:04:05"
    exif.get_ifd(34853)[2] = (1.0, 2.0, 3.5)
    return exif.tobytes()[6:]


SAID = Metadata(icc=bytes(range(200)), exif=exif_block(), xmp=b"<x:xmpmeta>\xc3\xa4\xff</x:xmpmeta>")


def saying(format: str) -> bytes:
    """Return a file with all of `SAID`, made without the module under test."""
    exif = PIL.Image.Exif()
    exif.load(SAID.exif)
    options: dict[str, object] = {"icc_profile": SAID.icc, "exif": b"Exif\0\0" + SAID.exif, "xmp": SAID.xmp}
    if format == "PNG":
        options["pnginfo"] = PIL.PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", SAID.xmp)
    elif format == "TIFF":
        exif[700] = SAID.xmp
        options["exif"] = exif
    return rgb_file(format, **options)


def tags(data: bytes) -> dict[int, object]:
    exif = PIL.Image.open(io.BytesIO(data)).getexif()
    return {tag: exif[tag] for tag in (271, 274, 282)} | exif.get_ifd(34665) | exif.get_ifd(34853)


@pytest.mark.parametrize("kind", ["png", "webp"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_metadata_comes_back_byte_for_byte(format: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    read = pictures.from_bytes(saying(format), "photo")
    assert read.metadata == SAID
    written = pictures.to_bytes(read, kind)
    assert pictures.from_bytes(written, "photo").metadata == SAID
    assert tags(written) == tags(saying(format))
    assert caplog.messages == []


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_tiff_gets_exif_as_tags(format: str) -> None:
    written = pictures.to_bytes(pictures.from_bytes(saying(format), "photo"), "tiff")
    said = pictures.from_bytes(written, "photo").metadata
    assert (said.icc, said.xmp) == (SAID.icc, SAID.xmp)
    assert tags(written) == tags(saying(format))


@given(
    icc=st.binary(max_size=99), exif=st.binary(max_size=99), xmp=st.binary(max_size=99), kind=st.sampled_from(LOSSLESS)
)
@settings(max_examples=100, deadline=None)
def test_no_metadata_keeps_a_picture_from_being_written(icc: bytes, exif: bytes, xmp: bytes, kind: str) -> None:
    back = pictures.from_bytes(pictures.to_bytes(Image(RGB, Metadata(icc, exif, xmp)), kind), "photo")
    assert np.array_equal(back.pixels, RGB)


def test_what_a_format_cannot_hold_is_told_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    said = Metadata(icc=bytes(2_000_000), exif=b"no EXIF", xmp=b"x")  # Pillow refuses a PNG with such a profile
    assert pictures.from_bytes(pictures.to_bytes(Image(RGB, said), "png"), "photo").metadata == Metadata(
        b"", said.exif, b"x"
    )
    assert pictures.from_bytes(pictures.to_bytes(Image(RGB, said), "tiff"), "photo").metadata == Metadata(
        said.icc, b"", b"x"
    )
    assert caplog.messages == [
        "PNG cannot hold the colour profile (2,000,000 bytes), left out; WebP and TIFF can",
        "TIFF cannot hold the EXIF (7 bytes), left out; PNG and WebP can",
    ]


def profile(space: bytes) -> bytes:
    """Return the header of a colour profile of a colour space."""
    return bytes(16) + space + bytes(16) + b"acsp" + bytes(88)


@pytest.mark.parametrize(
    ("depth", "space", "kind", "kept"),
    [
        *[(3, b"RGB ", kind, True) for kind in LOSSLESS],
        *[(3, space, kind, False) for space in (b"GRAY", b"CMYK", b"Lab ") for kind in LOSSLESS],
        *[
            (1, b"GRAY", "png", True),
            (1, b"GRAY", "tiff", True),
            (1, b"GRAY", "webp", False),
            (1, b"RGB ", "png", False),
        ],
    ],
)
def test_a_colour_profile_of_another_colour_space_is_not_attached(
    depth: int, space: bytes, kind: str, kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    picture = Image(np.ascontiguousarray(RGB[..., :depth]), Metadata(profile(space)))
    found = PIL.Image.open(io.BytesIO(pictures.to_bytes(picture, kind))).info.get("icc_profile")
    assert (found == profile(space)) == kept
    assert any("left out: a colour profile of " in message for message in caplog.messages) == (not kept)


def test_a_colour_profile_of_another_colour_space_is_told_when_it_is_read(caplog: pytest.LogCaptureFixture) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(RGB).save(buffer, "PNG", icc_profile=profile(b"CMYK"))
    assert pictures.from_bytes(buffer.getvalue(), "photo.png").metadata == Metadata()
    assert caplog.messages == ["photo.png: left out: a colour profile of CMYK, on a picture of RGB"]


def test_tags_that_tell_how_a_tiff_is_stored_are_not_taken_over() -> None:
    exif = PIL.Image.Exif()
    exif[256], exif[262], exif[271] = 9, 0, "maker"  # width and photometric interpretation
    written = pictures.to_bytes(Image(RGB, Metadata(exif=exif.tobytes()[6:])), "tiff")
    assert np.array_equal(pictures.from_bytes(written, "photo").pixels, RGB)
    assert pictures.from_bytes(tiff_file(RGB), "photo.tif").metadata == Metadata()


def test_a_real_picture_keeps_its_metadata(data_folder: Path, tmp_path: Path) -> None:
    with (data_folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if row["split"] == "dev")
    picture = pictures.read(data_folder / row["target"])
    for suffix in (".png", ".webp"):
        pictures.write(replace(picture, metadata=SAID), tmp_path / f"photo{suffix}")
        back = pictures.read(tmp_path / f"photo{suffix}")
        assert back.metadata == SAID
        assert back.fingerprint() == picture.fingerprint()


# --- other kinds than 8-bit RGB --------------------------------------------------------------------------------------


def assert_is(data: bytes, pixels: NDArray[np.generic], alpha: NDArray[np.generic] | None = None) -> None:
    found = pictures.from_bytes(data, "photo")
    assert found.pixels.dtype == pixels.dtype
    assert np.array_equal(found.pixels, pixels if pixels.ndim == 3 else pixels[..., None])
    assert (found.alpha is None) == (alpha is None)
    assert alpha is None or np.array_equal(found.alpha, alpha)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_grey_and_alpha_are_read_as_they_are(format: str) -> None:
    assert_is(file_of(PIL.Image.fromarray(GREY), format), GREY)
    assert_is(file_of(PIL.Image.fromarray(np.dstack([GREY, ALPHA])), format), GREY, ALPHA)
    assert_is(file_of(PIL.Image.fromarray(np.dstack([RGB, ALPHA])), format), RGB, ALPHA)


def test_webp_has_alpha_and_jpeg_is_grey() -> None:
    data = file_of(PIL.Image.fromarray(np.dstack([RGB, ALPHA])), "WEBP", lossless=True, exact=True)
    assert_is(data, RGB, ALPHA)
    flat = np.full((16, 16), 77, np.uint8)
    assert_is(file_of(PIL.Image.fromarray(flat), "JPEG"), flat)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_a_palette_is_read_as_its_colours_and_told(format: str, caplog: pytest.LogCaptureFixture) -> None:
    colours = np.array(PALETTE.convert("RGB"))
    assert_is(file_of(PALETTE, format), colours)
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "palette picture, converted to " + {"PNG": "8-bit RGB", "TIFF": "its colours"}[format]
    ]


def test_a_palette_with_a_transparent_colour_has_alpha() -> None:
    assert_is(
        file_of(PALETTE, "PNG", transparency=0),
        np.array(PALETTE.convert("RGB")),
        np.where(np.array(PALETTE) == 0, 0, 255).astype(np.uint8),
    )


def test_a_transparent_colour_becomes_alpha() -> None:
    alpha = np.where((RGB[1, 2] == RGB).all(axis=2), 0, 255).astype(np.uint8)
    assert_is(rgb_file("PNG", transparency=tuple(map(int, RGB[1, 2]))), RGB, alpha)
    alpha = np.where(GREY[0, 0] == GREY, 0, 255).astype(np.uint8)
    assert_is(file_of(PIL.Image.fromarray(GREY), "PNG", transparency=int(GREY[0, 0])), GREY, alpha)


def test_samples_of_few_bits_become_eight() -> None:
    assert_is(png_file(2, 0, b"\x10"), np.array([[0, 85]], np.uint8))
    for format in ("PNG", "TIFF"):
        assert_is(file_of(PIL.Image.fromarray(GREY > 99), format), np.where(GREY > 99, 255, 0).astype(np.uint8))


def test_png_of_sixteen_bits_is_read_without_loss() -> None:
    samples = (np.arange(8).reshape(1, 2, 4) * 0x0203).astype(">u2")
    assert_is(png_file(16, 0, samples[..., 0].tobytes()), samples[..., 0].astype(np.uint16))
    assert_is(png_file(16, 2, samples[..., :3].tobytes()), samples[..., :3].astype(np.uint16))
    assert_is(png_file(16, 6, samples.tobytes()), *(x.astype(np.uint16) for x in (samples[..., :3], samples[..., 3])))
    assert_is(png_file(16, 4, samples[..., :2].tobytes()), *(samples[..., i].astype(np.uint16) for i in (0, 1)))


@pytest.mark.parametrize("with_alpha", [False, True], ids=["opaque", "alpha"])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(("dtype", "kind"), [("u1", "png"), ("u1", "webp"), ("u1", "tiff"), ("u2", "png")])
def test_what_is_written_of_any_kind_is_read_back(
    dtype: str, kind: str, depth: int, with_alpha: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, np.iinfo(dtype).max, (7, 5, depth), dtype, endpoint=True)
    alpha = rng.integers(0, np.iinfo(dtype).max, (7, 5), dtype, endpoint=True) if with_alpha else None
    data = pictures.to_bytes(Image(pixels, SAID, alpha), kind)
    becomes_rgb = depth == 1 and (kind == "webp" or dtype == "u2" and with_alpha)
    assert_is(data, pixels.repeat(3, axis=2) if becomes_rgb else pixels, alpha)
    assert any("as RGB" in message for message in caplog.messages) == becomes_rgb
    if kind != "tiff":
        assert pictures.from_bytes(data, "photo").metadata == SAID


@pytest.mark.parametrize(
    ("kind", "dtype", "depth", "said"),
    [
        (
            "png",
            "u1",
            4,
            "PNG cannot hold 8-bit 4-band pictures; TIFF can: name the output .tif, or give --format tiff",
        ),
        ("webp", "u1", 2, "WebP cannot hold 8-bit 2-band pictures; TIFF can"),
        ("webp", "u2", 3, "WebP cannot hold 16-bit RGB pictures; PNG and TIFF can: name the output .png or .tif, or"),
        ("png", "i2", 1, "PNG cannot hold 16-bit signed grey pictures; TIFF can"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_told_what_can(kind: str, dtype: str, depth: int, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        pictures.to_bytes(Image(np.zeros((2, 2, depth), dtype)), kind)
    assert str(caught.value).startswith(said)


@given(dtype=st.sampled_from(["u1", "u2", "i2"]), depth=st.integers(1, 5), kind=st.sampled_from(LOSSLESS), alpha=...)
@settings(max_examples=60, deadline=None)
def test_formats_hold_exactly_what_is_said(dtype: str, depth: int, kind: str, alpha: bool) -> None:
    pytest.importorskip("rasterio", reason="the extra geo is not installed")
    samples = np.arange(6 * depth, dtype=dtype).reshape(2, 3, depth)
    picture = Image(samples, alpha=samples[..., 0] if alpha else None)
    if kind in formats.supporting(samples.dtype, depth, 3):
        back = pictures.from_bytes(pictures.to_bytes(picture, kind), kind)
        assert np.array_equal(np.broadcast_to(samples, back.pixels.shape), back.pixels)
        assert (back.alpha is not None) == alpha
    else:
        with pytest.raises(UsageError, match="cannot hold"):
            pictures.to_bytes(picture, kind)


def test_a_nodata_value_that_is_lost_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert_is(pictures.to_bytes(Image(RGB, nodata=7), "png"), RGB)
    assert caplog.messages == ["PNG cannot hold the nodata value 7, left out; TIFF can"]


def test_who_takes_rgb_only_says_so(tmp_path: Path) -> None:
    for name, picture in (("grey", Image(RGB[..., :1])), ("alpha", Image(RGB, alpha=ALPHA))):
        pictures.write(picture, tmp_path / f"{name}.png")
        with pytest.raises(ImageError, match=r"but 8-bit RGB is needed here: `magick "):
            pictures.read_rgb(tmp_path / f"{name}.png")
    pictures.write(Image(RGB.astype(np.uint16) * 9), tmp_path / "deep.png")
    with pytest.raises(ImageError, match=r"is 16-bit RGB, but 8-bit RGB is needed here$"):  # no advice to lose bits
        pictures.read_rgb(tmp_path / "deep.png")
    pictures.write(Image(RGB), tmp_path / "rgb.png")
    assert np.array_equal(pictures.read_rgb(tmp_path / "rgb.png").pixels, RGB)


# --- what is refused -------------------------------------------------------------------------------------------------

SECOND = [PIL.Image.fromarray(RGB[::-1].copy())]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (tiff_file(RGB, photometric=6), "a YCbCr picture,"),
        (tiff_file(RGB, photometric=8), "a CIELAB picture,"),
        (tiff_file(RGB.astype(np.int64)), "integers of 64 bits;"),
        (file_of(CMYK, "JPEG"), "a CMYK picture,"),
        (file_of(CMYK, "TIFF"), "a CMYK picture,"),
        (rgb_file("GIF"), "a GIF file;"),
        (rgb_file("BMP"), "a BMP file;"),
        (rgb_file("PPM"), "a PPM file;"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",
)
def test_an_unsupported_kind_is_refused_by_name_with_a_way_out(data: bytes, said: str) -> None:
    message = refusal(data)
    assert said in message
    assert "`magick " in message or "`gdal_translate " in message


def test_the_advice_quotes_the_name() -> None:
    message = refusal(file_of(CMYK, "JPEG"), "my photo.jpg")
    assert message == (
        "my photo.jpg is a CMYK picture, which refscale does not code: "
        "convert it with `magick 'my photo.jpg' -colorspace sRGB picture.png`"
    )


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_truncated_file_is_never_half_read(format: str) -> None:
    data = rgb_file(format)
    whole = pictures.from_bytes(data, "whole").pixels
    spare = 4 if format == "PNG" else 0  # the check sum of PNG's empty last chunk
    for length in range(len(data) - spare):
        refusal(data[:length])
    for length in range(len(data) - spare, len(data)):
        assert np.array_equal(pictures.from_bytes(data[:length], "nearly whole").pixels, whole)


def test_reading_and_writing_change_nothing_global(monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> tuple[object, ...]:
        pillow = PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES, PIL.ImageFile.MAXBLOCK
        return *pillow, list(warnings.filters), warnings.showwarning

    before, opened, during = state(), PIL.Image.open, []

    def spied(*arguments: object, **options: object) -> PIL.Image.Image:
        during.append(state())
        return opened(*arguments, **options)

    monkeypatch.setattr(PIL.Image, "open", spied)
    described = Image(RGB, metadata=SAID)
    for kind in LOSSLESS:
        pictures.from_bytes(pictures.to_bytes(described, kind), "photo")
    assert len(during) >= 6
    assert all(found == before for found in [*during, state()])


def test_a_program_may_have_pillow_read_truncated_files(monkeypatch: pytest.MonkeyPatch) -> None:
    data = rgb_file("JPEG")[:-20]
    refusal(data)
    monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert pictures.from_bytes(data, "photo").height == 7


def test_every_changed_byte_of_png_pixels_is_noticed() -> None:
    data = rgb_file("PNG")
    for position in range(data.index(b"IDAT"), data.index(b"IEND") - 8):
        damaged = bytearray(data)
        damaged[position] ^= 1
        refusal(bytes(damaged))


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"RIFFaaaaWEBP"])
)
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_picture_or_an_image_error(noise: bytes, start: bytes) -> None:
    try:
        pictures.from_bytes(start + noise, "noise")
    except ImageError as error:
        assert str(error).startswith("noise ")


def test_no_picture_at_all_is_said_so(tmp_path: Path) -> None:
    assert "is empty" in refusal(b"")
    assert "is not a picture" in refusal(b"just some text\n")
    with pytest.raises(ImageError, match="does not exist"):
        pictures.read(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="is a folder"):
        pictures.read(tmp_path)
    with pytest.raises(ImageError, match="null"):
        pictures.read(Path("a\0b.png"))


def test_an_unreadable_file_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: str) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match=r"cannot read .*photo\.png: Permission denied"):
        pictures.read(tmp_path / "photo.png")


@pytest.mark.parametrize(("width", "height"), [(20_001, 20_000), (60_000, 60_000)])
def test_an_absurd_size_is_refused_before_anything_is_decoded(width: int, height: int) -> None:
    data = png_file(8, 2, b"", width, height)  # 400,020,000 pixels; far beyond Pillow's own limit
    assert "at most 400,000,000" in refusal(data)


def test_files_and_containers_have_the_same_limit() -> None:
    assert pictures.MAX_PIXELS == container.MAX_PIXELS


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_program_may_have_pillow_read_larger_pictures(monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)  # RGB has 35, more than twice as many: Pillow raises
    assert "PIL.Image.MAX_IMAGE_PIXELS" in refusal(rgb_file(format))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
    assert pictures.from_bytes(rgb_file(format), "photo").height == 7


def test_a_warning_of_pillow_remains_one() -> None:
    data = bytearray(tiff_file(RGB))
    entry = data.index(struct.pack("<HHI", 259, 3, 1))  # compression: one value; claim two
    data[entry + 4 : entry + 12] = struct.pack("<IHH", 2, 1, 1)
    with pytest.warns(UserWarning, match="tag 259 had too many entries"):
        assert np.array_equal(pictures.from_bytes(bytes(data), "odd.tif").pixels, RGB)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_an_explicit_format_overrides_the_suffix(tmp_path: Path) -> None:
    pictures.write(Image(RGB), tmp_path / "picture.dat", format="PNG")
    assert (tmp_path / "picture.dat").read_bytes().startswith(b"\x89PNG")


def test_jpeg_output_is_refused_because_it_is_lossy(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.JPEG"):
        with pytest.raises(UsageError, match="JPEG is lossy"):
            pictures.write(Image(RGB), tmp_path / name)
    with pytest.raises(UsageError, match="JPEG is lossy"):
        pictures.write(Image(RGB), tmp_path / "a.png", format="jpeg")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_suffix_or_format_is_refused(tmp_path: Path) -> None:
    for name, value in (("a.bmp", "'.bmp'"), ("a", "a has no suffix")):
        with pytest.raises(UsageError, match=value):
            pictures.write(Image(RGB), tmp_path / name)
    with pytest.raises(UsageError, match="'gif'"):
        pictures.to_bytes(Image(RGB), "gif")


def test_a_picture_too_wide_for_webp_is_refused() -> None:
    wide = Image(np.zeros((1, 16_384, 3), dtype=np.uint8))
    with pytest.raises(UsageError, match=r"WebP .* 16383 pixels a side, .* 16384; PNG and TIFF can: name the output"):
        pictures.to_bytes(wide, "webp")


def test_a_missing_folder_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"there is no folder .*absent"):
        pictures.write(Image(RGB), tmp_path / "absent" / "a.png")


def test_a_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*a\.png: Is a directory"):
        pictures.write(Image(RGB), tmp_path / "a.png")
    assert (tmp_path / "a.png").is_dir()


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    existing = tmp_path / "old.png"
    existing.write_bytes(b"the old one")
    monkeypatch.setattr(os, step, fail)
    for name in ("old.png", "new.png"):
        with pytest.raises(OutputError, match=rf"cannot write .*{name}: No space left on device"):
            pictures.write(Image(RGB), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]
    assert existing.read_bytes() == b"the old one"
