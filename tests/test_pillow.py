"""PNG, JPEG and WebP: data that end early, transparent colours, and several pictures in a file."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from refscale_codec.errors import ImageError
from refscale_codec.picture.io import jpeg, pictures

DRAWN = np.kron(np.random.default_rng(0).integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
PICTURE = PIL.Image.fromarray(DRAWN)


def file_of(picture: PIL.Image.Image, format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def refusal(data: bytes, page: int | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        pictures.from_bytes(data, "x", page=page)
    return str(caught.value)


KINDS = [
    {},
    {"quality": 95, "subsampling": 0},
    {"progressive": True},
    {"restart_marker_blocks": 2},
    {"progressive": True, "restart_marker_rows": 1},
]


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_jpeg_whose_data_end_early_is_noticed(options: dict[str, object], mode: str) -> None:
    data = file_of(PICTURE.convert(mode), **options)
    whole = pictures.from_bytes(data, "x").pixels
    begin = data.index(b"\xff\xda") + 20
    for end in [*range(begin, len(data) - 2, (len(data) - begin) // 12), len(data) - 4]:
        try:
            assert np.array_equal(pictures.from_bytes(data[:end] + b"\xff\xd9", "x").pixels, whole), end
        except ImageError as error:
            assert "truncated" in str(error)


def test_large_jpegs_are_compared_at_an_eighth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "_SMALL", 1)
    data = file_of(PICTURE)
    assert not jpeg.ends_early(data)
    assert jpeg.ends_early(data[: len(data) - 60] + b"\xff\xd9")


def test_a_jpeg_of_few_data_and_a_large_header_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = bytearray(file_of(PICTURE.resize((8, 8))))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 19_000, 19_000)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(PIL.Image.Image, "load", lambda _: pytest.fail("it is decoded"))
    assert refusal(bytes(data)) == "x is damaged or truncated: its data end before the last of its pixels"


def png_file(samples: NDArray[np.generic], depth: int, colour: int, **more: object) -> bytes:
    """Return a PNG of samples [h, w, channels]; more: `trns`, a `height` other than theirs, `interlaced` data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = samples.shape
    rows = samples.reshape(height, -1)
    if depth < 8:
        each = (rows[..., None].astype(int) >> np.arange(depth - 1, -1, -1)) & 1
        packed = np.packbits(each.reshape(height, -1).astype(np.uint8), axis=1)
    else:
        packed = rows.astype(f">u{depth // 8}").view(np.uint8)
    data = np.pad(packed, ((0, 0), (1, 0))).tobytes()
    header = struct.pack(">IIBBBBB", width, more.get("height", height), depth, colour, 0, 0, 0)
    trns = chunk(b"tRNS", np.array(more["trns"], ">u2").tobytes()) if "trns" in more else b""
    body = chunk(b"IHDR", header) + trns + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_colour_of_any_depth_becomes_alpha(depth: int, channels: int) -> None:
    if channels == 3 and depth < 8:
        return
    rng = np.random.default_rng(1)
    samples = rng.integers(0, 1 << depth, (9, 13, channels)).astype(np.uint16 if depth == 16 else np.uint8)
    found = pictures.from_bytes(png_file(samples, depth, channels - 1, trns=samples[2, 3].tolist()), "x")
    full = 255 if depth <= 8 else 65535
    assert np.array_equal(found.pixels, samples.astype(int) * full // ((1 << depth) - 1))
    assert np.array_equal(found.alpha, np.where((samples == samples[2, 3]).all(axis=2), 0, full))


@pytest.mark.parametrize("depth", [2, 8, 16])
def test_a_png_with_fewer_rows_than_it_says_is_refused(depth: int) -> None:
    samples = np.zeros((30, 20, 1), np.uint16)
    assert pictures.from_bytes(png_file(samples, depth, 0), "x").height == 30
    for height in (31, 400_000):
        assert "end before the last of its pixels" in refusal(png_file(samples, depth, 0, height=height))


def test_the_primary_picture_of_a_jpeg_is_coded_and_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    data = file_of(PICTURE, "MPO", save_all=True, append_images=[PICTURE.resize((16, 16)), PICTURE.rotate(180)])
    assert np.array_equal(pictures.from_bytes(data, "x").pixels, np.array(PIL.Image.open(io.BytesIO(file_of(PICTURE)))))
    said = "x: left out: 2 more pictures in it (previews, views or a gain map)"
    assert caplog.messages == [said]
    segment = b'<x hdrgm:Version="1.0"/>'
    gain_map = data[:2] + b"\xff\xe1" + (2 + len(segment)).to_bytes(2, "big") + segment + data[2:]
    assert pictures.from_bytes(gain_map, "x").width == 64  # Pillow takes it for a JPEG of one picture
    assert said in caplog.messages[1:]
    assert pictures.from_bytes(data, "x", page=2).width == 16
    assert refusal(data, 4) == "x has no page 4: it holds 3 pictures"
    caplog.clear()
    pictures.from_bytes(data + bytes(9) + b"ftyp a video", "x")  # of a motion photo
    assert caplog.messages == [said, "x: left out: 21 bytes behind its end"]


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_a_frame_is_chosen_by_its_page(format: str, options: dict[str, object]) -> None:
    turned = PICTURE.rotate(180)
    data = file_of(PICTURE, format, save_all=True, append_images=[turned], **options)
    assert "holds 2 pictures; refscale codes one: choose it with --page 1 to --page 2" in refusal(data)
    assert np.array_equal(pictures.from_bytes(data, "x", page=2).pixels, np.array(turned))


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\0\0\0\x0cjP  \r\n", "is a JPEG 2000 file; .*: convert it with `gdal_translate x picture.tif`"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file; .*`gdal_translate` to TIFF; `gdalinfo x` lists the names"),
        (b"8BPS\0\1", "is a Photoshop file; .*: convert it with `magick x -colorspace sRGB picture.png`"),
    ],
)
def test_advice_loses_neither_bits_nor_place(start: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        pictures.from_bytes(start + bytes(40), "x")
