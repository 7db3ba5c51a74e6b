"""Files beside a picture: what GDAL sees of the picture with them is what refscale sees; what it does not is told."""

import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from refscale_codec.picture import geo
from refscale_codec.picture.io import pictures

rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")

RGB = np.random.default_rng(0).integers(1, 256, (6, 9, 3), np.uint8)
WORLD = "0.2\n0\n0\n-0.2\n250000.1\n5886999.9\n"
TRANSFORM = [0.2, 0.0, 250000.0, 0.0, -0.2, 5887000.0]
CRS = "<SRS>EPSG:32633</SRS>"
PLACED = f"<PAMDataset>{CRS}<GeoTransform>5e5, 10, 0, 4.1e6, 0, -10</GeoTransform></PAMDataset>"


def said_by_gdal(path: Path) -> tuple[object, ...]:
    with rasterio.open(path) as file:
        return file.crs, tuple(file.transform)[:6], file.nodata


def drawn(folder: Path, name: str, mode: str = "RGB") -> Path:
    PIL.Image.fromarray(RGB).convert(mode).save(folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        *[("a.tif", f"a.{world}") for world in ("tfw", "tifw", "wld", "TFW", "WLD")],
        *[("a.tiff", f"a.{world}") for world in ("tfw", "tiffw")],
        *[("a.png", f"a.{world}") for world in ("pgw", "pngw", "wld")],
        *[("a.jpg", f"a.{world}") for world in ("jgw", "jpgw", "wld")],
        *[("two words.v1.tif", "two words.v1.tfw"), ("größe.png", "größe.pgw"), ("A.TIF", "A.TFW")],
    ],
)
def test_a_world_file_is_the_georeference(
    tmp_path: Path, name: str, beside: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = drawn(tmp_path, name)
    (tmp_path / beside).write_text(WORLD)
    found = pictures.read(path)
    assert geo.parse(found.metadata.geo) == {"transform": pytest.approx(TRANSFORM)}
    assert tuple(geo.transform(found.metadata.geo)) == said_by_gdal(path)[1]
    pictures.write(found, tmp_path / "back.tif")
    assert said_by_gdal(tmp_path / "back.tif") == said_by_gdal(path)
    assert caplog.messages == []


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg", "a.webp"])
def test_what_gdal_writes_beside_a_picture_is_read(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    path = drawn(tmp_path, name)
    more = '<Metadata><MDI key="PRODUCT">ortho</MDI></Metadata><PAMRasterBand band="1"><NoDataValue>7</NoDataValue>'
    more += "<Description>first</Description></PAMRasterBand></PAMDataset>"
    (tmp_path / f"{name}.aux.xml").write_text(PLACED.replace("</PAMDataset>", more))
    found = pictures.read(path)
    fields = geo.parse(found.metadata.geo)
    assert (fields["crs"], fields["transform"]) == ("EPSG:32633", [10, 0, 5e5, 0, -10, 4.1e6])
    assert (fields["tags"], fields["descriptions"]) == ({"PRODUCT": "ortho"}, ["first", None, None])
    assert found.nodata == 7 == said_by_gdal(path)[2]
    assert caplog.messages == []


def test_a_palette_picture_gets_its_place_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = drawn(tmp_path, "a.png", "P")
    band = '<PAMRasterBand band="1"><NoDataValue>7</NoDataValue><UnitType>m</UnitType></PAMRasterBand></PAMDataset>'
    (tmp_path / "a.png.aux.xml").write_text(PLACED.replace("</PAMDataset>", band))
    found = pictures.read(path)
    assert (geo.parse(found.metadata.geo).keys(), found.nodata) == ({"crs", "transform"}, None)
    assert f"{path}: left out: units (of other bands), nodata value 7" in caplog.messages


@pytest.mark.parametrize(
    ("beside", "text", "told"),
    [
        ("a.tfw", "0.2\n0\n0\n-0.2\n250000.1\n", "a.tfw beside it (GDAL finds nothing in it that it uses)"),
        ("a.tfw", "", "a.tfw beside it (it is empty)"),
        ("a.tfw", "x\ny\nz\n1\n2\n3\n", "a.tfw beside it (GDAL finds nothing in it that it uses)"),
        ("a.tfw", "nan\n0\n0\n-1\n0\n0\n", "transform (it must be six finite numbers)"),
        ("a.tif.aux.xml", "<PAMDataset><SRS>", "a.tif.aux.xml beside it (GDAL finds nothing in it that it uses)"),
        ("a.tif.aux.xml", "<PAMDataset/>", "a.tif.aux.xml beside it (GDAL finds nothing in it that it uses)"),
        ("a.tif.msk", "no mask", "a.tif.msk beside it ("),
        ("a_RPC.TXT", "LINE_OFF: nonsense\n", "a_RPC.TXT beside it ("),
    ],
)
def test_what_gdal_does_not_use_is_told(
    tmp_path: Path, beside: str, text: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = drawn(tmp_path, "a.tif")
    (tmp_path / beside).write_text(text)
    assert np.array_equal(pictures.read(path).pixels, RGB)
    assert any("left out: " in message and told in message for message in caplog.messages), caplog.messages
    assert "vsimem" not in "".join(record.message for record in caplog.records if record.name.startswith("refscale"))


ESRI = (  # EPSG:32633 as ArcGIS writes it
    'PROJCS["WGS_1984_UTM_Zone_33N",GEOGCS["GCS_WGS_1984",DATUM["D_WGS_1984",SPHEROID["WGS_1984",6378137.0,'
    '298.257223563]],PRIMEM["Greenwich",0.0],UNIT["Degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],'
    'PARAMETER["False_Easting",500000.0],PARAMETER["False_Northing",0.0],PARAMETER["Central_Meridian",15.0],'
    'PARAMETER["Scale_Factor",0.9996],PARAMETER["Latitude_Of_Origin",0.0],UNIT["Meter",1.0]]'
)


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg"])
@pytest.mark.parametrize("beside", ["a.prj", "a.PRJ"])
def test_a_prj_is_the_reference_system(
    tmp_path: Path, name: str, beside: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = drawn(tmp_path, name)
    (tmp_path / beside).write_text(ESRI)
    (tmp_path / "a.wld").write_text(WORLD)
    found = geo.parse(pictures.read(path).metadata.geo)
    assert rasterio.CRS.from_user_input(found["crs"]).to_epsg() == 32633
    assert found["transform"] == pytest.approx(TRANSFORM)
    (tmp_path / f"{name}.aux.xml").write_text(PLACED)  # in the same system
    assert geo.crs(pictures.read(path).metadata.geo) == "EPSG:32633"
    assert caplog.messages == []
    (tmp_path / f"{name}.aux.xml").write_text(PLACED.replace("32633", "32634"))
    assert geo.crs(pictures.read(path).metadata.geo) == "EPSG:32634"
    assert f"left out: {beside} beside it (the picture has another coordinate reference system)" in caplog.text


@pytest.mark.parametrize(
    ("beside", "text", "told"),
    [
        ("a.prj", "nonsense", "a.prj beside it (The WKT could not be parsed"),
        ("a.xmp", "<x/>", "a.xmp beside it (refscale does not read it)"),
        ("a.png.xmp", "<x/>", "a.png.xmp beside it (refscale does not read it)"),
        ("a.hdr", "ENVI", "a.hdr beside it (refscale does not read it)"),
        ("a.XMP", "<x/>", "a.XMP beside it (refscale does not read it)"),
    ],
)
def test_other_files_beside_it_are_told(
    tmp_path: Path, beside: str, text: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = drawn(tmp_path, "a.png")
    (tmp_path / beside).write_text(text)
    assert pictures.read(path).metadata == pictures.from_bytes(path.read_bytes(), "x").metadata
    (message,) = caplog.messages
    assert message.startswith(f"{path}: left out: {told}")


def test_statistics_are_told_and_the_rest_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = drawn(tmp_path, "a.tif")
    band = '<PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MAXIMUM">255</MDI></Metadata></PAMRasterBand>'
    (tmp_path / "a.tif.aux.xml").write_text(PLACED.replace("</PAMDataset>", f"{band}</PAMDataset>"))
    assert geo.parse(pictures.read(path).metadata.geo).keys() == {"crs", "transform"}
    assert caplog.messages == [f"{path}: left out: statistics, which are those of the samples before coding"]


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_a_mask_becomes_alpha(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    path, mask = drawn(tmp_path, name), (RGB[..., 0] > 99).astype(np.uint8) * 255
    PIL.Image.fromarray(mask).save(tmp_path / f"{name}.msk", "TIFF")
    found = pictures.read(path)
    assert np.array_equal(found.alpha, mask)
    assert caplog.messages == [f"{path}: the mask {name}.msk beside it becomes alpha"]
    PIL.Image.fromarray(mask[:4]).save(tmp_path / f"{name}.msk", "TIFF")
    assert pictures.read(path).alpha is None
    assert caplog.messages[1] == f"{path}: left out: {name}.msk beside it (it has 9 x 4 pixels)"


def test_a_picture_with_a_place_of_its_own_has_precedence_over_a_world_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.tif"
    options = {"driver": "GTiff", "width": 9, "height": 6, "count": 3, "dtype": "uint8", "crs": "EPSG:32630"}
    with rasterio.open(path, "w", **options, transform=rasterio.Affine(10, 0, 7e5, 0, -10, 4.9e6)) as file:
        file.write(RGB.transpose(2, 0, 1))
    (tmp_path / "a.tfw").write_text(WORLD)
    assert geo.transform(pictures.read(path).metadata.geo) == (10, 0, 7e5, 0, -10, 4.9e6) == said_by_gdal(path)[1]
    assert caplog.messages == []
    (tmp_path / "a.tif.aux.xml").write_text(PLACED)  # which GDAL prefers
    assert geo.transform(pictures.read(path).metadata.geo) == (10, 0, 5e5, 0, -10, 4.1e6) == said_by_gdal(path)[1]


def test_bytes_folders_and_training_have_no_files_beside_them(tmp_path: Path) -> None:
    path = drawn(tmp_path, "a.png")
    (tmp_path / "a.wld").mkdir()
    assert not pictures.read(path).metadata.geo
    (tmp_path / "a.pgw").write_text(WORLD)
    assert pictures.read(path).metadata.geo
    assert not pictures.from_bytes(path.read_bytes(), str(path)).metadata.geo
    assert not pictures.read_rgb(path).metadata.geo


def test_without_rasterio_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = drawn(tmp_path, "a.png")
    (tmp_path / "a.pgw").write_text(WORLD)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert not pictures.read(path).metadata.geo
    assert caplog.messages == [f"{path}: left out: a.pgw beside it (GDAL is needed: pip install 'refscale-codec[geo]')"]


@pytest.mark.parametrize("internal", [True, False])
def test_a_mask_leaves_the_bands_their_scales_and_takes_the_place_of_nodata(tmp_path: Path, internal: bool) -> None:
    path, back = tmp_path / "t.tif", tmp_path / "back.tif"
    samples = np.arange(3 * 48 * 64, dtype=np.uint16).reshape(3, 48, 64)
    valid = np.broadcast_to(np.arange(64) > 20, (48, 64))
    profile = {"driver": "GTiff", "width": 64, "height": 48, "count": 3, "dtype": "uint16", "nodata": 7}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 4.1e6)}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "w", **profile, **place) as file:
        file.write(samples)
        file.write_mask((valid * 255).astype(np.uint8))
        file.scales, file.offsets, file.units = (1e-4,) * 3, (-0.1,) * 3, ("1",) * 3
        file.descriptions = ("B4", "B3", "B2")
    assert path.with_name("t.tif.msk").exists() != internal
    read = pictures.read(path)
    assert read.nodata is None and read.alpha is not None and ((read.alpha > 0) == valid).all()
    pictures.write(read, back)
    with rasterio.open(back) as file:
        assert (file.scales[:3], file.offsets[:3], file.units[:3]) == ((1e-4,) * 3, (-0.1,) * 3, ("1",) * 3)
        assert file.descriptions == ("B4", "B3", "B2", None)
        assert (file.read_masks(1) > 0).tolist() == valid.tolist()
