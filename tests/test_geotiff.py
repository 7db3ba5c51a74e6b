"""GeoTIFF: bands, nodata, place and tags come back equal; what is written is a COG; without rasterio, a message."""

import csv
import io
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tiffs
from conftest import Outcome
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from refscale_codec.errors import ImageError, OutputError
from refscale_codec.picture import geo
from refscale_codec.picture.coded import bands
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import gdal_fields, pictures
from refscale_codec.picture.metadata import Metadata

rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.enums import ColorInterp  # noqa: E402
from rasterio.rpc import RPC  # noqa: E402
from rasterio.transform import Affine  # noqa: E402

PLACE = Affine(10.0, 0.5, 700_000.0, -0.25, -10.0, 4_970_000.0)


def raster(seed: int = 0, dtype: str = "u2", depth: int = 4, height: int = 20, width: int = 33) -> NDArray[np.generic]:
    y, x = np.mgrid[0:height, 0:width]
    waves = np.dstack([np.sin(x / (3 + band) + seed / 9) * np.cos(y / 4) for band in range(depth)])
    return (1000 + 20 * seed + 900 * waves).astype(dtype) if dtype != "u1" else (120 + 99 * waves).astype("u1")


def geotiff_file(pixels: NDArray[np.generic], say: Callable[..., None] | None = None, **options: object) -> bytes:
    """Return a GeoTIFF made without the module under test."""
    height, width, depth = pixels.shape
    usual = {"crs": "EPSG:32630", "transform": PLACE, "photometric": "MINISBLACK"} | options
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff", height=height, width=width, count=depth, dtype=pixels.dtype.name, **usual
        ) as file:
            if say is not None:
                say(file)
            file.write(pixels.transpose(2, 0, 1))
        return bytes(memory.read())


def say_all(file: object) -> None:
    file.descriptions = ["blue", "green", None, "nir"]
    file.update_tags(PRODUCT="L2A", AREA_OR_POINT="Point")
    file.update_tags(4, WAVELENGTH="842 nm")
    file.scales, file.offsets, file.units = [1e-4] * 4, [-0.1] * 4, ["reflectance", "", "", "K"]
    file.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]


def place(left: int, top: int) -> Affine:
    """Return where the part of a picture lies that begins at this column and row."""
    a, b, c, d, e, f, *_ = PLACE
    return Affine(a, b, a * left + b * top + c, d, e, d * left + e * top + f)


def said_by(data: bytes) -> dict[str, object]:
    with rasterio.MemoryFile(data) as memory, memory.open() as file:
        names = ("crs", "transform", "nodata", "descriptions", "scales", "offsets", "units", "colorinterp", "dtypes")
        tags = [file.tags(band) for band in range(file.count + 1)]
        return {name: getattr(file, name) for name in names} | {"tags": tags}


def layout_of(data: bytes) -> dict[str, object]:
    with rasterio.MemoryFile(data) as memory, memory.open() as file:
        return file.tags(ns="IMAGE_STRUCTURE") | {"overviews": file.overviews(1), "tiled": file.profile["tiled"]}


@pytest.mark.parametrize(("dtype", "nodata"), [("u1", None), ("u1", 0), ("u2", 0), ("u2", None), ("i2", -9999)])
def test_what_a_geotiff_says_comes_back_equal(dtype: str, nodata: int | None, caplog: pytest.LogCaptureFixture) -> None:
    pixels = raster(dtype=dtype)
    if nodata is not None:
        pixels[:5] = nodata
    data = geotiff_file(pixels, say_all, nodata=nodata)
    picture = pictures.from_bytes(data, "scene.tif")
    assert np.array_equal(picture.pixels, pixels)
    assert (picture.pixels.dtype, picture.nodata, picture.alpha) == (np.dtype(dtype), nodata, None)
    written = pictures.to_bytes(picture, "tiff")
    assert said_by(written) == said_by(data)
    back = pictures.from_bytes(written, "scene.tif")
    assert np.array_equal(back.pixels, pixels)
    assert (back.metadata, back.nodata) == (picture.metadata, nodata)
    assert caplog.messages == []


@pytest.mark.parametrize("depth", [1, 3])
def test_grey_and_rgb_geotiffs_too(depth: int) -> None:
    data = geotiff_file(raster(dtype="u1", depth=depth))
    picture = pictures.from_bytes(data, "scene.tif")
    assert picture.metadata.geo
    assert said_by(pictures.to_bytes(picture, "tiff"))["transform"] == PLACE


@pytest.mark.parametrize("text", ["EPSG:999999", "IAU_2015:99999999", 'PROJCS["x"', "PROJCRS[]"])
def test_an_unknown_coordinate_system_is_an_error_that_gdal_does_not_print(
    text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"unknown|could not be parsed"):
        gdal_fields.system_of(text)
    assert capfd.readouterr().err == ""


def test_a_coordinate_system_is_a_code_where_that_says_it_all() -> None:
    custom = rasterio.CRS.from_proj4("+proj=laea +lat_0=47 +lon_0=11.5 +ellps=bessel +units=m")
    for crs, said in (("EPSG:4326", "EPSG:4326"), (custom, "PROJCS[")):
        data = geotiff_file(raster(), crs=crs)
        picture = pictures.from_bytes(data, "scene.tif")
        assert json.loads(picture.metadata.geo)["crs"].startswith(said)
        assert said_by(pictures.to_bytes(picture, "tiff"))["crs"] == said_by(data)["crs"]


def test_alpha_of_a_geotiff_is_alpha() -> None:
    def say(file: object) -> None:
        file.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * 3 + [ColorInterp.alpha]

    data = geotiff_file(raster(depth=5), say)
    picture = pictures.from_bytes(data, "scene.tif")
    assert picture.bands == 4
    assert np.array_equal(picture.alpha, raster(depth=5)[..., 4])
    assert said_by(pictures.to_bytes(picture, "tiff")) == said_by(data)


@pytest.mark.parametrize("side", [40, 700])
def test_what_is_written_is_a_cog(side: int) -> None:
    pixels = raster(height=side, width=side + 9)
    written = pictures.to_bytes(pictures.from_bytes(geotiff_file(pixels), "scene.tif"), "tiff")
    found = layout_of(written)
    assert (found["LAYOUT"], found["COMPRESSION"], found["tiled"]) == ("COG", "DEFLATE", True)
    assert found["overviews"] == ([2] if side > 512 else [])
    assert b"LAYOUT=IFDS_BEFORE_DATA" in written[:300]


@pytest.mark.parametrize(
    ("height", "width", "dtype", "depth", "nodata", "alpha"),
    [
        (700, 900, "u1", 3, None, False),
        (80, 100, "u1", 3, None, False),
        (2000, 3000, "u1", 3, None, False),
        (700, 900, "u2", 4, 0, False),
        (700, 900, "i2", 1, -9999, False),
        (700, 900, "u1", 3, None, True),
        (700, 601, "u2", 4, None, True),
        (1, 1, "u2", 2, None, False),
        (600, 512, "u1", 1, None, False),  # as wide as a tile
        (1100, 1024, "u2", 1, None, False),  # an overview is
        (3000, 512, "u1", 1, None, True),
    ],
)
def test_rio_cogeo_finds_nothing_wrong(
    tmp_path: Path, height: int, width: int, dtype: str, depth: int, nodata: int | None, alpha: bool
) -> None:
    rio_cogeo = pytest.importorskip("rio_cogeo", reason="rio-cogeo is not installed")
    pixels = raster(dtype=dtype, depth=depth, height=height, width=width)
    if nodata is not None:
        pixels[:50] = nodata
    said = Metadata(geo=json.dumps({"crs": "EPSG:32630", "transform": list(PLACE)[:6]}).encode())
    path = tmp_path / "scene.tif"
    pictures.write(Image(pixels, said, pixels[..., 0] if alpha else None, nodata), path)
    assert rio_cogeo.cog_validate(path, strict=True, quiet=True) == (True, [], [])


def test_pictures_without_a_place_take_gdal_where_pillow_does_not_do() -> None:
    for picture in (Image(raster(dtype="u2", depth=3)), Image(raster(dtype="u1", depth=2)), Image(raster(depth=1))):
        back = pictures.from_bytes(pictures.to_bytes(picture, "tiff"), "photo.tif")
        assert np.array_equal(back.pixels, picture.pixels)
        assert back.metadata == Metadata()


def test_colour_profile_exif_and_xmp_go_along(caplog: pytest.LogCaptureFixture) -> None:
    from PIL import ImageCms

    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = PIL.Image.Exif()
    exif[271] = "maker"
    said = Metadata(icc, exif.tobytes()[6:], b"<x/>", b'{"tags":{"A":"b"}}')
    back = pictures.from_bytes(pictures.to_bytes(Image(raster(depth=3), said), "tiff"), "scene.tif")
    assert back.metadata == said
    assert caplog.messages == []


def test_what_png_cannot_hold_of_a_geotiff_is_told(caplog: pytest.LogCaptureFixture) -> None:
    picture = pictures.from_bytes(geotiff_file(raster(dtype="u1", depth=3), nodata=3), "scene.tif")
    pictures.to_bytes(picture, "png")
    assert [message.partition(" (")[0] for message in caplog.messages] == [
        "PNG cannot hold the nodata value 3, left out; TIFF can",
        "PNG cannot hold the georeference and tags",
    ]


def test_what_is_not_kept_of_a_geotiff_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def say(file: object) -> None:
        file.update_tags(ns="mine", A="b")
        file.write_mask(np.zeros(raster().shape[:2], np.uint8))

    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        data = geotiff_file(raster(), say)
    pictures.from_bytes(data, "scene.tif")
    assert caplog.messages == ["scene.tif: left out: tags in mine", "scene.tif: its mask becomes alpha"]


@pytest.mark.parametrize("internal", [True, False])
@pytest.mark.parametrize("nodata", [None, 7])
@pytest.mark.parametrize("depth", [1, 3, 4])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i1", "u4", "i4", "f4"])
def test_gdal_finds_the_same_samples_masked(
    dtype: str, depth: int, nodata: int | None, internal: bool, tmp_path: Path
) -> None:
    valid = np.arange(33) * np.ones((20, 1)) > 9

    def say(file: object) -> None:
        file.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * (depth - 1)
        file.write_mask(valid)

    samples = (raster(dtype="u1", depth=depth) // 2).astype(dtype)
    samples[:3, 15] = 7
    profile = {"width": 33, "height": 20, "count": depth, "dtype": samples.dtype.name, "nodata": nodata}
    path, back = tmp_path / "t.tif", tmp_path / "back.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(
        path, "w", driver="GTiff", photometric="MINISBLACK", crs="EPSG:32630", transform=PLACE, **profile
    ) as file:  # fmt: skip
        say(file)
        file.write(samples.transpose(2, 0, 1))
    picture = pictures.read(path)
    assert picture.nodata == nodata
    pictures.write(replace(picture, metadata=replace(picture.metadata, xmp=b"<x/>")), back)  # moves what is behind it
    with rasterio.open(back) as file:
        bands = file.indexes[:depth]
        assert all(np.array_equal(file.read_masks(band) > 0, valid) for band in bands)
        assert np.array_equal(file.read(bands).transpose(1, 2, 0), samples)
        assert file.nodata == nodata
        as_alpha = nodata is None and dtype in ("u1", "u2") and depth < 4
        assert file.count == depth + as_alpha
    again = pictures.read(back)
    assert (again.metadata.geo, again.nodata) == (picture.metadata.geo, nodata)
    assert np.array_equal(again.alpha, picture.alpha)


def test_alpha_that_gdal_does_not_take_for_a_mask_is_told(caplog: pytest.LogCaptureFixture) -> None:
    pixels, place = raster(dtype="f4", depth=1), Metadata(geo=b'{"crs":"EPSG:32630"}')
    for alpha, metadata, told in (
        (np.float32([[0, 0.5, 1]]), Metadata(geo=b'{"crs":"EPSG:32630","mask":true}'), True),
        (np.float32([[0, 1, 1]]), place, True),
        (np.float32([[0, 1, 1]]), Metadata(geo=b'{"mask":true}'), False),
    ):
        caplog.clear()
        data = pictures.to_bytes(Image(pixels[:1, :3], metadata, alpha), "tiff")
        assert (
            caplog.messages
            == ["alpha is a band like others for GDAL, unless it is beside 1 or 3 bands of uint8 or uint16"] * told
        )
        back = pictures.from_bytes(data, "x.tif")
        assert np.array_equal(back.alpha, alpha)


def test_the_first_tags_are_kept_and_the_others_counted(caplog: pytest.LogCaptureFixture) -> None:
    said = {f"T{number:04}": "x" for number in range(geo.MOST_TAGS + 904)}
    data = geotiff_file(raster(depth=1), lambda file: file.update_tags(**said))
    found = geo.parse(pictures.from_bytes(data, "scene.tif").metadata.geo)["tags"]
    assert list(found) == list(said)[: geo.MOST_TAGS]
    assert caplog.messages == ["scene.tif: left out: 904 of 5,000 tags"]


GCPS = [(0.0, 0.0, 700_000.0, 4_970_000.0, 12.0), (19.0, 32.0, 700_320.0, 4_969_810.0, 0.0)]


def say_gcps(file: object) -> None:
    file.gcps = [GroundControlPoint(*point) for point in GCPS], rasterio.CRS.from_epsg(32630)


def say_rpcs(file: object) -> None:
    lists = {f"{name}_coeff": [1.0, *[0.001] * 19] for name in ("line_num", "line_den", "samp_num", "samp_den")}
    offsets = {f"{name}_off": 5.0 for name in ("height", "lat", "line", "long", "samp")}
    scales = {f"{name}_scale": 0.5 for name in ("height", "lat", "line", "long", "samp")}
    file.rpcs = RPC(**lists, **offsets, **scales, err_bias=0.25)


@pytest.mark.parametrize("say", [say_gcps, say_rpcs])
def test_control_points_and_polynomials_come_back(say: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    data = geotiff_file(raster(dtype="u1", depth=3), say, crs=None, transform=None, photometric="RGB")
    picture = pictures.from_bytes(data, "scene.tif")
    back = pictures.to_bytes(picture, "tiff")
    assert pictures.from_bytes(back, "scene.tif").metadata == picture.metadata
    with rasterio.MemoryFile(back) as memory, memory.open() as file:
        if say is say_gcps:
            points, crs = file.gcps
            assert [(point.row, point.col, point.x, point.y, point.z) for point in points] == GCPS
            assert crs.to_epsg() == 32630
        else:
            assert (file.rpcs.lat_off, file.rpcs.line_num_coeff[:2], file.rpcs.err_bias) == (5.0, [1.0, 0.001], 0.25)
    assert caplog.messages == []


def test_only_what_gdal_does_not_take_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    fields = {"crs": 'NONSENSE["x"]', "transform": list(PLACE)[:6], "descriptions": ["a"], "tags": {"A": "b"}}
    written = pictures.to_bytes(Image(raster(), Metadata(geo=geo.dumped(fields))), "tiff")
    found = said_by(written)
    assert (found["crs"], found["transform"], found["tags"][0]["A"]) == (None, PLACE, "b")
    (message,) = caplog.messages
    assert message.startswith(
        "GeoTIFF: left out of the georeference and tags: coordinate reference system (The WKT could not be parsed."
    )
    assert ", descriptions (" in message


def test_statistics_are_not_kept_and_told(caplog: pytest.LogCaptureFixture) -> None:
    data = geotiff_file(raster(depth=1), lambda file: file.update_tags(1, STATISTICS_MAXIMUM="7", A="b"))
    assert geo.parse(pictures.from_bytes(data, "scene.tif").metadata.geo)["band_tags"] == [{"A": "b"}]
    assert caplog.messages == ["scene.tif: left out: statistics, which are those of the samples before coding"]


def test_a_nodata_value_that_no_sample_has_is_told(caplog: pytest.LogCaptureFixture) -> None:
    data = geotiff_file(raster(), nodata=12345).replace(b"12345\0", b"123.5\0")
    assert pictures.from_bytes(data, "scene.tif").nodata is None
    assert "nodata value 123.5 is left out" in caplog.text


@pytest.mark.parametrize(("value", "dtype"), [("-9999", "u1"), ("300", "u1"), ("nan", "u2"), ("70000", "u2")])
def test_a_nodata_value_beyond_the_type_is_told(value: str, dtype: str, caplog: pytest.LogCaptureFixture) -> None:
    tags: dict[int, tiffs.Values] = {42113: ("s", value.encode() + b"\0")}
    assert pictures.from_bytes(tiffs.file(tiffs.Picture(raster(dtype=dtype, depth=1), tags=tags)), "x").nodata is None
    assert caplog.messages == [f"x: nodata value {value} is left out: no sample can have it"]


@pytest.mark.parametrize(
    ("text", "value"), [("abc", 0), ("12abc", 12), ("1_000", 1), (" 5 ", 5), ("7", 7), ("2e1", 20), ("", None)]
)
def test_a_nodata_tag_is_read_as_gdal_does_and_told_if_it_is_no_number(
    caplog: pytest.LogCaptureFixture, text: str, value: int | None
) -> None:
    tags = ImageFileDirectory_v2()
    tags[42113] = text
    tags.tagtype[42113] = 2
    file = io.BytesIO()
    PIL.Image.fromarray(np.arange(20, dtype=np.uint16).reshape(4, 5)).save(file, "TIFF", tiffinfo=tags)
    with rasterio.MemoryFile(file.getvalue()) as memory, memory.open() as dataset:
        assert dataset.nodata == value
    assert pictures.from_bytes(file.getvalue(), "x").nodata == value
    told = f"x: nodata value {text!r} is no number; it is read as {value}, as GDAL does"
    assert caplog.messages == [told] * (text in ("abc", "12abc", "1_000"))


def test_what_is_said_of_the_indices_of_a_palette_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def say(file: Any) -> None:
        file.write_colormap(1, {index: (index, 0, 9, 255) for index in range(256)})
        file.update_tags(A="b")
        file.update_tags(1, CLASSES="wood,water")
        file.descriptions, file.units = ("land cover",), ("class",)

    data = geotiff_file(raster(dtype="u1", depth=1), say, photometric="palette")
    found = pictures.from_bytes(data, "x")
    assert geo.parse(found.metadata.geo).keys() == {"crs", "transform", "tags"}
    assert caplog.messages[0] == (
        "x: left out: tags of bands (of the palette's indices), descriptions (of the palette's indices), "
        "units (of the palette's indices)"
    )


def test_a_palette_is_expanded(caplog: pytest.LogCaptureFixture) -> None:
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff", height=1, width=3, count=1, dtype="uint8", photometric="palette", crs="EPSG:4326",
            transform=PLACE,
        ) as file:  # fmt: skip
            file.write(np.array([[[0, 2, 1]]], np.uint8))
            file.write_colormap(1, {0: (1, 2, 3, 255), 1: (4, 5, 6, 255), 2: (7, 8, 9, 255)})
        picture = pictures.from_bytes(memory.read(), "classes.tif")
    assert picture.pixels.tolist() == [[[1, 2, 3], [7, 8, 9], [4, 5, 6]]]
    assert picture.metadata.geo
    assert "palette" in caplog.text
    assert pictures.from_bytes(pictures.to_bytes(picture, "tiff"), "x").metadata == picture.metadata


def test_a_window_knows_its_place() -> None:
    moved = json.loads(geo.of_window(json.dumps({"transform": list(PLACE)[:6], "crs": "EPSG:4326"}).encode(), 7, 3))
    assert Affine(*moved["transform"]) == place(7, 3)
    assert moved["crs"] == "EPSG:4326"
    assert geo.of_window(b"", 7, 3) == b""


@pytest.mark.parametrize("geo", [b"{", b"[]", b'{"crs":"nonsense"}', b'{"descriptions":["a"]}', b'{"transform":[1]}'])
def test_a_damaged_georeference_is_left_out(geo: bytes, caplog: pytest.LogCaptureFixture) -> None:
    back = pictures.from_bytes(pictures.to_bytes(Image(raster(), Metadata(geo=geo)), "tiff"), "scene.tif")
    assert np.array_equal(back.pixels, raster())
    assert "georeference" in caplog.text


def test_a_truncated_geotiff_is_never_half_read() -> None:
    data = geotiff_file(raster())
    for length in range(0, len(data) - 1, 41):
        with pytest.raises(ImageError):
            pictures.from_bytes(data[:length], "scene.tif")


@pytest.mark.parametrize("dtype", ["float32", "uint32", "int32", "int8"])
def test_samples_of_any_type_are_read_and_written(dtype: str) -> None:
    pixels = (raster(dtype="u1") - np.uint8(100)).view("i1").astype(dtype)
    nodata = -9999.5 if dtype == "float32" else 7
    picture = pictures.from_bytes(geotiff_file(pixels, nodata=nodata), "scene.tif")
    assert (picture.pixels.dtype, picture.nodata) == (np.dtype(dtype), nodata)
    assert np.array_equal(picture.pixels, pixels)
    back = pictures.from_bytes(pictures.to_bytes(picture, "tiff"), "again.tif")
    assert (back.pixels.dtype, back.nodata) == (np.dtype(dtype), nodata)
    assert np.array_equal(back.pixels, pixels)


@pytest.mark.parametrize("nodata", [math.nan, -math.inf, -3.4028234663852886e38])
def test_any_nodata_value_of_floats_is_kept(nodata: float) -> None:
    pixels = raster(dtype="f4")
    pixels[3, 4], pixels[0, 0] = nodata, math.nan
    picture = pictures.from_bytes(geotiff_file(pixels, nodata=nodata), "scene.tif")
    back = pictures.from_bytes(pictures.to_bytes(picture, "tiff"), "again.tif")
    assert str(picture.nodata) == str(back.nodata) == str(nodata)
    assert np.array_equal(back.pixels, pixels, equal_nan=True)


def test_64_bit_floats_become_32_bits_and_so_does_their_nodata_value(caplog: pytest.LogCaptureFixture) -> None:
    pixels = raster(dtype="f8") + 0.1
    pixels[3, 4] = lowest = -1.7976931348623157e308
    picture = pictures.from_bytes(geotiff_file(pixels, nodata=lowest), "scene.tif")
    assert picture.nodata == np.finfo(np.float32).min
    assert np.array_equal(picture.pixels == picture.nodata, pixels == lowest)
    assert np.array_equal(picture.pixels[0], pixels[0].astype("f4"))
    assert "scene.tif: 64-bit samples are kept as 32-bit floating point, to 7 decimal digits" in caplog.messages
    assert "scene.tif: the nodata value becomes -3.40282e+38, as 32 bits can hold it" in caplog.messages


@pytest.mark.parametrize(("dtype", "said"), [("complex64", "complex"), ("int64", "integers of 64 bits")])
def test_other_samples_are_refused_by_name(dtype: str, said: str) -> None:
    with pytest.raises(ImageError, match=f"{said}; refscale codes uint8, .* float32"):
        pictures.from_bytes(geotiff_file(raster().astype(dtype)), "scene.tif")


@pytest.mark.parametrize(("depth", "say"), [(1, None), (3, None), (2, "alpha"), (4, "alpha")])
def test_without_rasterio_the_pixels_of_an_8_bit_geotiff_are_read_where_its_place_need_not_be(
    monkeypatch: pytest.MonkeyPatch, depth: int, say: str | None
) -> None:
    pixels = raster(dtype="u1", depth=depth)
    options = {"photometric": "RGB"} if depth > 2 else {}
    data = geotiff_file(pixels, alpha="unspecified" if say is None else "non-premultiplied", **options)
    by_gdal = pictures.from_bytes(data, "scene.tif", need_georeference=False)
    assert by_gdal.metadata.geo
    monkeypatch.setitem(sys.modules, "rasterio", None)
    found = pictures.from_bytes(data, "scene.tif", need_georeference=False)
    assert np.array_equal(found.pixels, by_gdal.pixels)
    assert (found.alpha is None) == (say is None)
    assert found.alpha is None or np.array_equal(found.alpha, by_gdal.alpha)
    assert (found.fingerprint(), found.metadata) == (by_gdal.fingerprint(), Metadata())
    with pytest.raises(
        ImageError,
        match=r"is a GeoTIFF, .* pip install .*; to encode it without, give --strip, or strip=True in Python",
    ):
        pictures.from_bytes(data, "scene.tif")


@pytest.mark.parametrize(
    ("dtype", "options", "said"),
    [
        ("u1", {"nodata": 0}, "nodata value"),
        ("u2", {}, "samples of 16 bits"),
        ("u1", {"alpha": "premultiplied"}, "premultiplied alpha"),
        ("u1", {"compress": "JPEG"}, "compression"),
        ("u1", {"interleave": "band"}, "separate planes"),
        ("u1", {"sparse_ok": True}, "blocks that are not stored"),
    ],
    ids=lambda value: str(value),
)
def test_without_rasterio_no_other_geotiff_is_read(
    monkeypatch: pytest.MonkeyPatch, dtype: str, options: dict[str, object], said: str
) -> None:
    pixels = raster(dtype=dtype, depth=3 + ("alpha" in options)) * ("sparse_ok" not in options)
    data = geotiff_file(pixels, photometric="RGB", **options)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ImageError) as caught:
        pictures.from_bytes(data, "scene.tif", need_georeference=False)
    assert str(caught.value) == f"scene.tif needs GDAL, for its {said}: pip install 'refscale-codec[geo]'"


def test_overviews_are_passed_over_with_and_without_rasterio(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = raster(dtype="u1", depth=3, height=700, width=701)
    data = pictures.to_bytes(pictures.from_bytes(geotiff_file(pixels, photometric="RGB"), "scene.tif"), "tiff")
    assert layout_of(data)["overviews"] == [2]
    assert np.array_equal(pictures.from_bytes(data, "scene.tif").pixels, pixels)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert np.array_equal(pictures.from_bytes(data, "scene.tif", need_georeference=False).pixels, pixels)


def test_without_rasterio_a_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = geotiff_file(raster(dtype="u1", depth=3))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    for given in (data, geotiff_file_of_pillow(raster(depth=1))):
        with pytest.raises(ImageError, match=r"scene.tif .*: pip install 'refscale-codec\[geo\]'"):
            pictures.from_bytes(given, "scene.tif")
    with pytest.raises(OutputError, match=r"pip install 'refscale-codec\[geo\]'"):
        pictures.to_bytes(Image(raster()), "tiff")
    assert np.array_equal(
        pictures.from_bytes(pictures.to_bytes(Image(raster(dtype="u1", depth=3)), "tiff"), "x").pixels,
        raster(dtype="u1", depth=3),
    )


def geotiff_file_of_pillow(pixels: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels[..., 0]).save(buffer, "TIFF")
    return buffer.getvalue()


def test_rasterio_is_imported_only_where_it_is_needed() -> None:
    loaded = "rasterio" in sys.modules
    assert loaded
    code = "import sys, refscale_codec.picture.image, refscale_codec.codec.encoder; sys.exit('rasterio' in sys.modules)"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, seed in (("new", 0), ("old", 3)):
        pixels = raster(seed)
        pixels[:6, 10:] = 0
        (tmp_path / f"{name}.tif").write_bytes(geotiff_file(pixels, say_all, nodata=0))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_geotiff_goes_to_another_machine(refscale: Callable[..., Outcome], scene: Path, tiny_weights: Path) -> None:
    for line in (
        "encode new.tif --ref old.tif -o new.rsc --range 0,3000 --weights W",
        "decode new.rsc --ref old.tif -o back.tif --weights W",
        "decode new.rsc --ref old.tif -o part.tif --window 5,3,20,11 --weights W",
        "encode new.tif --ref old.tif -o bare.rsc --strip --weights W",
        "decode bare.rsc --ref old.tif -o bare.tif --weights W",
    ):
        done = refscale(*line.replace("W", str(tiny_weights)).split())
        assert done.code == 0, done.err
        assert "left out" not in done.err
    target, back, part, bare = (pictures.read(scene / f"{name}.tif") for name in ("new", "back", "part", "bare"))
    assert said_by((scene / "back.tif").read_bytes()) == said_by((scene / "new.tif").read_bytes())
    assert np.array_equal(back.pixels == 0, target.pixels == 0)
    assert np.array_equal(part.pixels, back.pixels[3:14, 5:25])
    assert said_by((scene / "part.tif").read_bytes())["transform"] == place(5, 3)
    assert (bare.metadata, bare.nodata) == (Metadata(), 0)
    facts = json.loads(refscale("info", "new.rsc", "--json").text)
    assert {name: facts[name] for name in ("bands", "type", "alpha", "nodata", "metadata")} == {
        "bands": 4, "type": "uint16", "alpha": False, "nodata": 0, "metadata": "geo"
    }  # fmt: skip
    assert sum(facts["bytes_by_section"].values()) == facts["bytes"]
    assert facts["bytes_by_section"]["bands"] > 0 and facts["bytes_by_section"]["extra_bands"] > 0


def test_8_bit_geotiffs_without_rasterio(
    refscale: Callable[..., Outcome],
    tmp_path: Path,
    tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, seed in (("new", 0), ("old", 3)):
        (tmp_path / f"{name}.tif").write_bytes(geotiff_file(raster(seed, "u1", 3), photometric="RGB"))
    monkeypatch.chdir(tmp_path)
    both = ("--ref", "old.tif", "--weights", tiny_weights)
    assert refscale("encode", "new.tif", *both, "-o", "placed.rsc").code == 0
    monkeypatch.setitem(sys.modules, "rasterio", None)
    refused = refscale("encode", "new.tif", *both, "-o", "new.rsc")
    assert (refused.code, (tmp_path / "new.rsc").exists()) == (3, False)
    assert (
        "pip install 'refscale-codec[geo]'; to encode it without, give --strip, or strip=True in Python" in refused.err
    )
    assert refscale("encode", "new.tif", *both, "-o", "new.rsc", "--strip").code == 0
    for file in ("new.rsc", "placed.rsc"):
        decoded = refscale("decode", file, *both, "-o", "back.png")
        assert decoded.code == 0, decoded.err
        assert any("georeference and tags" in said for said in caplog.messages) == (file == "placed.rsc")
        assert refscale("diff", file, *both, "-o", "change.png").code == 0
    refused = refscale("decode", "placed.rsc", *both, "-o", "back.tif")
    assert (refused.code, (tmp_path / "back.tif").exists()) == (10, False)
    assert "a TIFF of this picture needs GDAL" in refused.err


def test_a_change_map_of_geotiffs_lies_where_they_lie(
    refscale: Callable[..., Outcome], scene: Path, tiny_weights: Path
) -> None:
    done = refscale("diff", "new.tif", "--ref", "old.tif", "-o", "change.tif", "--weights", tiny_weights)
    assert done.code == 0, done.err
    assert "geotiff" not in done.err
    drawn = pictures.read(scene / "change.tif")
    assert (drawn.kind, drawn.pixels.shape) == ("8-bit RGB", (20, 33, 3))
    assert json.loads(drawn.metadata.geo).keys() == {"crs", "transform"}
    found = said_by((scene / "change.tif").read_bytes())
    assert (found["crs"], found["transform"]) == (rasterio.CRS.from_epsg(32630), PLACE)


def test_a_format_that_does_not_hold_the_bands_is_refused_before_anything_is_decoded(
    refscale: Callable[..., Outcome], scene: Path, tiny_weights: Path
) -> None:
    assert refscale("encode", "new.tif", "-o", "new.rsc", "--weights", tiny_weights).code == 0
    done = refscale("decode", "new.rsc", "-o", "back.png", "--weights", tiny_weights)
    assert done.code == 2
    assert "PNG cannot hold 16-bit 4-band pictures; TIFF can: name the output .tif, or give --format tiff" in done.err
    assert not (scene / "back.png").exists()


@pytest.mark.parametrize("text", ["5", "a,b", "1,2,3", "0,70000", "9,3"])
def test_a_bad_range_is_refused(refscale: Callable[..., Outcome], scene: Path, tiny_weights: Path, text: str) -> None:
    done = refscale("encode", "new.tif", "-o", "new.rsc", "--range", text, "--weights", tiny_weights)
    assert done.code == 2
    assert "range" in done.err


def test_floats_and_ranges_on_the_command_line(
    refscale: Callable[..., Outcome], tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = (raster(dtype="f4", depth=2) - 1000) / 64
    pixels[2:5, 3:9], pixels[7, 7, 1] = math.nan, math.inf
    Path("new.tif").write_bytes(geotiff_file(pixels, nodata=math.nan))
    limits = "--range", "-16,16", "--range", "2:-20,20.5"
    done = refscale("encode", "new.tif", "-o", "new.rsc", *limits, "--weights", tiny_weights)
    assert done.code == 0, done.err
    found = json.loads(refscale("info", "new.rsc", "--json").out)
    assert (found["type"], found["nodata"], found["ranges"]) == ("float32", "nan", [[-16.0, 16.0], [-20.0, 20.5]])
    assert found["step"] == [0.000488289, 0.000617990]
    assert refscale("decode", "new.rsc", "-o", "hat.png", "--weights", tiny_weights).code == 2
    assert refscale("decode", "new.rsc", "-o", "hat.tif", "--weights", tiny_weights).code == 0
    with rasterio.open("hat.tif") as file:
        hat = file.read().transpose(1, 2, 0)
        assert math.isnan(file.nodata)
    assert hat.dtype == np.float32
    assert np.array_equal(np.isnan(hat), np.isnan(pixels))
    assert hat[7, 7, 1] == math.inf
    assert refscale("diff", "new.rsc", "--ref", "new.tif", "-o", "change.tif", "--weights", tiny_weights).code == 0


def test_a_real_pair_as_geotiffs(
    refscale: Callable[..., Outcome], data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (data_folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if (row["dataset"], row["split"]) == ("oscd", "dev"))
    for name in ("target", "reference"):
        rgb = pictures.read(data_folder / row[name]).pixels[40:136, 40:136].astype(np.uint16)
        pixels = np.dstack([16 * rgb, 12 * rgb[..., 1] + 9])
        pixels[:9, :50] = 0
        (tmp_path / f"{name}.tif").write_bytes(geotiff_file(pixels, say_all, nodata=0))
    monkeypatch.chdir(tmp_path)
    for line in ("encode target.tif --ref reference.tif -o a.rsc", "decode a.rsc --ref reference.tif -o a.tif"):
        outcome = refscale(*line.split())
        assert outcome.code == 0, outcome.err
    target, decoded = (pictures.read(tmp_path / name) for name in ("target.tif", "a.tif"))
    assert said_by((tmp_path / "a.tif").read_bytes()) == said_by((tmp_path / "target.tif").read_bytes())
    assert np.array_equal(decoded.pixels == 0, target.pixels == 0)
    assert bands.psnr(target, decoded, bands.describe(target)) > 23  # a busy town, of the full range of values
    assert (tmp_path / "a.rsc").stat().st_size < len(pictures.to_bytes(target, "tiff")) / 8
