"""EXIF and XMP added to TIFFs of Pillow and GDAL: the rest of the file stays what it was."""

import io
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tiffs

from refscale_codec.errors import ImageError
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import exif, pictures
from refscale_codec.picture.metadata import Metadata

rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
from rasterio.transform import Affine  # noqa: E402
from rasterio.warp import Resampling  # noqa: E402

SCENE = np.random.default_rng(0).integers(0, 200, (3, 700, 601)).astype(np.uint8)
XMP = b"<x:xmpmeta>" + bytes(range(1, 200)) + b"</x:xmpmeta>"


def block() -> bytes:
    """Return EXIF with an orientation, a text beyond ASCII, and tags of the EXIF and the GPS directory."""
    tags = PIL.Image.Exif()
    tags[270], tags[271], tags[274] = "Müller €".encode(), "Maker", 6
    tags.get_ifd(34665)[33434] = 0.004
    tags.get_ifd(34853)[2] = (45.0, 1.0, 2.5)
    return tags.tobytes().removeprefix(b"Exif\0\0")


SAID = Metadata(exif=block(), xmp=XMP)


def by_gdal(**options: object) -> bytes:
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff", height=700, width=601, count=3, dtype="uint8", crs="EPSG:32630",
            transform=Affine(10, 0, 7e5, 0, -10, 5e6), photometric="RGB", **options,
        ) as file:  # fmt: skip
            file.write(SCENE)
            file.build_overviews([2, 4], Resampling.nearest)
            file.update_tags(NAME="Ä")
        return bytes(memory.read())


def by_pillow() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(SCENE.transpose(1, 2, 0)).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    return buffer.getvalue()


def contents(data: bytes) -> dict[str, object]:
    """Return what rasterio finds in a file, with the pixels of its overviews."""
    with rasterio.MemoryFile(data) as memory, memory.open() as file:
        found = {name: getattr(file, name) for name in ("crs", "transform", "colorinterp", "profile")}
        tags = {name: text for name, text in file.tags().items() if not name.startswith("TIFFTAG")}
        factors = file.overviews(1)
    pixels = []
    for level in [None, *range(len(factors))]:
        with (
            rasterio.MemoryFile(data) as memory,
            memory.open(**({} if level is None else {"overview_level": level})) as f,
        ):
            pixels.append(f.read().tolist())
    return found | {"tags": tags, "factors": factors, "pixels": pixels}


@pytest.mark.parametrize(
    "data",
    [
        by_pillow(),
        by_gdal(),
        by_gdal(tiled=True, blockxsize=256, blockysize=256, compress="DEFLATE"),
        by_gdal(BIGTIFF="YES"),
        by_gdal(BIGTIFF="YES", tiled=True, interleave="band"),
    ],
    ids=["pillow", "gdal", "tiles", "BigTIFF", "planes"],
)
def test_tags_are_added_and_nothing_else_changes(data: bytes) -> None:
    tagged = exif.with_tags(data, SAID)
    assert contents(tagged) == contents(data)
    found = pictures.from_bytes(tagged, "x").metadata
    assert (found.exif, found.xmp) == (SAID.exif, XMP)
    assert exif.with_tags(data, Metadata()) == data


def test_a_cloud_optimized_geotiff_remains_one(tmp_path: Path) -> None:
    rio_cogeo = pytest.importorskip("rio_cogeo", reason="rio-cogeo is not installed")
    georeference = Metadata(SAID.icc, SAID.exif, SAID.xmp, geo=b'{"crs":"EPSG:32630","transform":[10,0,7e5,0,-10,5e6]}')
    pictures.write(Image(SCENE.transpose(1, 2, 0).copy(), georeference), tmp_path / "x.tif")
    assert rio_cogeo.cog_validate(tmp_path / "x.tif", strict=True, quiet=True) == (True, [], [])


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_orientation_and_camera_of_a_tiff_come_back(dtype: str, caplog: pytest.LogCaptureFixture) -> None:
    pixels = np.arange(60, dtype=dtype).reshape(5, 4, 3)
    data = pictures.to_bytes(Image(pixels, SAID), "tiff")
    with PIL.Image.open(io.BytesIO(data)) as picture:
        tags = picture.tag_v2
        assert (tags[274], tags[271], tags[270].encode("latin-1").decode()) == (6, "Maker", "Müller €")
        assert picture.getexif().get_ifd(34853)[2] == (45.0, 1.0, 2.5)
    back = pictures.from_bytes(data, "x")
    assert np.array_equal(back.pixels, pixels)
    assert back.metadata == SAID
    assert caplog.messages == []


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # by Pillow
def test_damaged_exif_is_told_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    data = bytearray(exif.with_tags(by_pillow(), SAID))
    at = data.index(struct.pack("<HHI", 34665, 4, 1))
    data[at + 8 : at + 12] = b"\xff\xff\xff\x7f"
    found = pictures.from_bytes(bytes(data), "x")
    assert found.metadata == Metadata(xmp=XMP)
    assert caplog.messages[0].startswith("x: left out: damaged EXIF (")


PRIVATE = {33723: ("B", b"iptc"), 34377: ("B", b"8BIM"), 50706: ("B", b"\1\4\0\0"), 65000: ("H", [1])}
SILENT = {263: ("H", [1]), 280: ("H", [0]), 281: ("H", [255]), 297: ("H", [0, 1]), 59932: ("B", b"  ")}


@pytest.mark.parametrize(("order", "big"), [("<", False), ("<", True), (">", False)])
@pytest.mark.parametrize("place", [{}, tiffs.GEOREFERENCE], ids=["plain", "georeferenced"])
def test_each_tag_of_a_tiff_is_kept_or_told_or_says_nothing(
    order: str, big: bool, place: dict[int, tiffs.Values], caplog: pytest.LogCaptureFixture
) -> None:
    samples = SCENE.transpose(1, 2, 0)[:9, :11]
    kept = {269: ("s", b"name\0"), 306: ("s", b"2020:01:01 00:00:00\0"), 700: ("B", XMP)}
    data = tiffs.file(tiffs.Picture(samples, 2, tags=kept | SILENT | place), big=big, order=order)
    found = pictures.from_bytes(data, "x")
    assert caplog.messages == []
    assert found.metadata.xmp == XMP
    assert b"name\0" in found.metadata.exif and b"2020:01:01" in found.metadata.exif
    data = tiffs.file(tiffs.Picture(samples, 2, tags=kept | SILENT | PRIVATE | place), big=big, order=order)
    assert pictures.from_bytes(data, "x").metadata == found.metadata
    assert caplog.messages == [
        "x: left out: TIFF tags 33723 (IptcNaaInfo), 34377 (PhotoshopInfo), 50706 (DNGVersion), 65000"
    ]


def test_a_tag_that_cannot_be_read_is_told(caplog: pytest.LogCaptureFixture) -> None:
    data = tiffs.file(tiffs.Picture(SCENE.transpose(1, 2, 0)[:9, :11], 2, tags={305: ("H", [1, 2, 3])}))
    of_another_type = data.replace(struct.pack("<HHI", 305, 3, 3), struct.pack("<HHI", 305, 14, 3))
    pictures.from_bytes(of_another_type, "x")
    assert caplog.messages == ["x: left out: TIFF tag 305 (Software)"]


@pytest.mark.parametrize("made", [by_gdal, by_pillow])
def test_nothing_is_told_of_what_programs_write(made: Callable[[], bytes], caplog: pytest.LogCaptureFixture) -> None:
    pictures.from_bytes(made(), "x")
    assert caplog.messages == []


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_orientation_that_there_is_not_is_left_out_of_tiffs_and_told(
    value: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    samples = np.ascontiguousarray(SCENE.transpose(1, 2, 0)[:9, :11])
    data = tiffs.file(tiffs.Picture(samples, 2, tags={274: ("H", [value])}))
    assert pictures.from_bytes(data, "x").metadata == Metadata()
    assert caplog.messages == ["x: left out: TIFF tag 274 (Orientation)"]
    tags = PIL.Image.Exif()
    tags[274] = value
    caplog.clear()
    picture = Image(samples, Metadata(exif=tags.tobytes().removeprefix(b"Exif\0\0")))
    assert pictures.from_bytes(pictures.to_bytes(picture, "png"), "x").metadata == picture.metadata
    written = pictures.to_bytes(picture, "tiff")
    assert caplog.messages == ["TIFF cannot hold the EXIF (26 bytes), left out; PNG and WebP can"]
    pictures.from_bytes(written, "x")
    assert capfd.readouterr().err == ""  # of libtiff


@pytest.mark.filterwarnings("error:.*EXIF")
@pytest.mark.parametrize("block", [b"II*\0", b"nonsense", b"II*\0\x08\0\0\0\5\0", b"MM\0*\xff\xff\0\0"])
def test_damaged_exif_is_told_in_one_line(block: bytes, caplog: pytest.LogCaptureFixture) -> None:
    pictures.to_bytes(Image(SCENE.transpose(1, 2, 0)[:9, :11], Metadata(exif=block)), "tiff")
    assert caplog.messages == [f"TIFF cannot hold the EXIF ({len(block)} bytes), left out; PNG and WebP can"]


INTERNAL = re.compile(r"vsimem|picture\.tif[:,]|reshape|buffer|NoneType|b'|: \d+$|object|TIFF[A-Z]")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(6))
def test_messages_on_damaged_tiffs_are_for_people(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(seed)
    picture = tiffs.Picture(SCENE.transpose(1, 2, 0)[:9, :11], 2, tags=tiffs.GEOREFERENCE)
    files = [tiffs.file(picture), tiffs.file(picture, big=True, order=">"), tiffs.file(replace(picture, tags={}))]
    for data in (bytearray(file) for file in files for _ in range(12)):
        data[-rng.integers(1, 300)] = rng.integers(256)
        try:
            pictures.from_bytes(bytes(data), "x")
        except ImageError as error:
            assert not INTERNAL.search(str(error)), error
    told = [record.message for record in caplog.records if record.name.startswith("refscale")]
    assert not any(map(INTERNAL.search, told)), told
