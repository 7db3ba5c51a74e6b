"""Files beside a picture: what GDAL sees of the picture with them is what refscale sees; what it does not is told."""

import logging
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from refscale_codec.errors import ImageError
from refscale_codec.picture import geo
from refscale_codec.picture.io import pictures, sidecars

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
        *[("a.tif", f"a.{world}") for world in ("Tfw", "tFW", "Wld", "TifW")],
        *[("a.png", "a.PGw"), ("a.jpg", "a.Jgw"), ("a.tif", "A.tfw")],
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
    more = '<Metadata><MDI key="PRODUCT">ortho</MDI></Metadata>'
    more += "".join(f'<PAMRasterBand band="{n}"><NoDataValue>7</NoDataValue></PAMRasterBand>' for n in (2, 3))
    more += '<PAMRasterBand band="1"><NoDataValue>7</NoDataValue><Description>first</Description></PAMRasterBand>'
    more += "</PAMDataset>"
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
    assert f"{path}: left out: nodata value 7, units (of other bands)" in caplog.messages


@pytest.mark.parametrize(
    ("beside", "text", "told"),
    [
        ("a.tfw", "0.2\n0\n0\n-0.2\n250000.1\n", "a.tfw beside it (GDAL reads nothing new in it)"),
        ("a.tfw", "", "a.tfw beside it (it is empty)"),
        ("a.tfw", "x\ny\nz\n1\n2\n3\n", "a.tfw beside it (GDAL reads nothing new in it)"),
        ("a.tfw", "nan\n0\n0\n-1\n0\n0\n", "transform (it must be six finite numbers)"),
        ("a.tif.aux.xml", "<PAMDataset><SRS>", "a.tif.aux.xml beside it (it is damaged: no element found: line 1"),
        ("a.tif.aux.xml", '<?xml version="1.0" encoding="klingon"?><PAMDataset/>', "it is damaged: unknown encoding"),
        ("a.tif.aux.xml", PLACED[:-9], "a.tif.aux.xml beside it (it is damaged: "),
        ("a.tif.aux.xml", "<PAMDataset/>", "a.tif.aux.xml beside it (GDAL reads nothing new in it)"),
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


@pytest.mark.parametrize("coding", ["utf-8-sig", "latin-1", "utf-8"])
def test_a_prj_may_have_a_byte_order_mark_and_names_in_latin_1(
    tmp_path: Path, coding: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = drawn(tmp_path, "a.png")
    (tmp_path / "a.prj").write_bytes(ESRI.replace("WGS_1984_UTM_Zone_33N", "Système", 1).encode(coding))
    found = geo.crs(pictures.read(path).metadata.geo)
    assert found is not None and "Système" in found
    assert caplog.messages == []


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
    tmp_path: Path,
    beside: str,
    text: str,
    told: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = drawn(tmp_path, "a.png")
    (tmp_path / beside).write_text(text)
    assert pictures.read(path).metadata == pictures.from_bytes(path.read_bytes(), "x").metadata
    (message,) = caplog.messages
    assert message.startswith(f"{path}: left out: {told}")
    assert capfd.readouterr().err == ""  # nothing of GDAL itself


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
def test_a_mask_leaves_the_bands_their_scales_and_nodata_value(tmp_path: Path, internal: bool) -> None:
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
    assert read.nodata == 7 and read.alpha is not None and ((read.alpha > 0) == valid).all()
    pictures.write(read, back)
    with rasterio.open(back) as file:
        assert (file.scales, file.offsets, file.units) == ((1e-4,) * 3, (-0.1,) * 3, ("1",) * 3)
        assert file.descriptions == ("B4", "B3", "B2")
        assert file.nodata == 7
        assert (file.read_masks(1) > 0).tolist() == valid.tolist()


def raster(path: Path, samples: np.ndarray, **options: object) -> Path:
    """Write a GeoTIFF of samples [h, w, bands], without the file that GDAL writes beside it."""
    height, width, count = samples.shape
    size = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": samples.dtype.name}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 4.1e6)}
    with rasterio.open(path, "w", **size, **place, **options) as file:
        file.write(samples.transpose(2, 0, 1))
    path.with_name(f"{path.name}.aux.xml").unlink(missing_ok=True)
    return path


def say(path: Path, *bands: str) -> None:
    """Write an `.aux.xml` with XML for the first bands."""
    each = "".join(f'<PAMRasterBand band="{band}">{text}</PAMRasterBand>' for band, text in enumerate(bands, start=1))
    path.with_name(f"{path.name}.aux.xml").write_text(f"<PAMDataset>{each}</PAMDataset>")


def kinds(*names: str) -> list[str]:
    return [f"<ColorInterp>{name}</ColorInterp>" if name else "" for name in names]


def written(path: Path) -> Path:
    """Return a file with what is read of another one."""
    pictures.write(pictures.read(path), path.with_name("back.tif"))
    return path.with_name("back.tif")


ALPHA = np.where(np.arange(54).reshape(6, 9, 1) % 3 > 0, 255, np.arange(54).reshape(6, 9, 1)).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(
    ("bands", "said"),
    [
        (3, ["Red", "Green", "Blue", "Alpha"]),
        (3, ["", "", "", "Alpha"]),
        (1, ["Gray", "Alpha"]),
        (5, ["", "", "NIR", "", "", "Alpha"]),
        (3, ["", "Alpha", "", ""]),
        (3, ["Red", "Green", "Blue"]),
        (4, ["Blue", "Green", "Red", "NIR"]),
    ],
)
@pytest.mark.parametrize("usual", ["RGB", "MINISBLACK"])
def test_bands_mean_what_gdal_says(
    tmp_path: Path, dtype: type, bands: int, said: list[str], usual: str, caplog: pytest.LogCaptureFixture
) -> None:
    count = len(said)
    samples = np.dstack([RGB, RGB, ALPHA])[..., [*range(count - 1), 6]].astype(dtype)
    photometric = usual if count > 2 else "MINISBLACK"
    path = raster(tmp_path / "a.tif", samples, photometric=photometric, **({"ALPHA": "NO"} if count > 3 else {}))
    say(path, *kinds(*said))
    found = pictures.read(path)
    with rasterio.open(path) as file, rasterio.open(written(path)) as back:
        names = [kind.name for kind in file.colorinterp]
        order = sorted(range(count), key=lambda band: names[band] == "alpha")
        assert [kind.name for kind in back.colorinterp] == [names[band] for band in order]
        assert np.array_equal(back.read(), file.read()[order])
        assert (found.alpha is not None) == ("alpha" in names) == ("Alpha" in said)
        if found.alpha is not None:
            assert np.array_equal(found.alpha, file.read(order[-1] + 1))
    same = photometric == "RGB" and said == ["Red", "Green", "Blue"]
    told = [message for message in caplog.messages if not message.startswith("alpha is a band like others for GDAL")]
    assert told == [f"{path}: left out: a.tif.aux.xml beside it (GDAL reads nothing new in it)"] * (
        2 * same
    )  # it is read twice


def test_descriptions_follow_their_bands(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", np.dstack([RGB, ALPHA]), photometric="MINISBLACK")
    names = [f"<Description>{name}</Description><Scale>{name}</Scale>" for name in "1234"]
    say(path, *(text + kind for text, kind in zip(names, kinds("", "Alpha", "", ""), strict=True)))
    with rasterio.open(written(path)) as file:
        assert file.descriptions == ("1", "3", "4", "2")
        assert file.scales == (1, 3, 4, 2)


@pytest.mark.parametrize("said", [["Gray", "Alpha", "Alpha"], ["Alpha"]])
def test_bands_of_alpha_alone_are_refused(tmp_path: Path, said: list[str]) -> None:
    path = raster(tmp_path / "a.tif", RGB[..., : len(said)], photometric="MINISBLACK")
    say(path, *kinds(*said))
    with pytest.raises(ImageError, match=r"alpha by a\.tif\.aux\.xml beside it: correct its colour interpretations"):
        pictures.read(path)


def test_alpha_is_joined_to_a_mask(tmp_path: Path) -> None:
    path, valid = tmp_path / "a.tif", np.broadcast_to(np.arange(9) > 3, (6, 9))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        raster(path, np.dstack([RGB, ALPHA]), photometric="RGB", ALPHA="NO")
        with rasterio.open(path, "r+") as file:
            file.write_mask((valid * 255).astype(np.uint8))
    say(path, *kinds("", "", "", "Alpha"))
    found = pictures.read(path)
    assert (found.bands, geo.interpretations(found.metadata.geo, 3)) == (3, ["red", "green", "blue"])
    assert np.array_equal(found.alpha, np.where(valid, ALPHA[..., 0], 0))
    say(path, "<Scale>2</Scale><Description>first</Description>")  # there is a band more, of the mask
    fields = geo.fields_of(pictures.read(path).metadata.geo)
    assert (fields["scales"], fields["descriptions"]) == ([2, 1, 1, 1, 1], ["first", None, None, None, None])


def test_what_a_file_beside_it_takes_back_is_not_kept(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", RGB)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (2, 1, 1), (0, 0, 5)
    say(path, "<Scale>1</Scale>", "", "<Offset>0</Offset>")
    with rasterio.open(path) as file, rasterio.open(written(path)) as back:
        assert (back.scales, back.offsets) == (file.scales, file.offsets) == ((1, 1, 1), (0, 0, 0))


def table(colours: int, opacity: int = 255) -> str:
    entries = [f'<Entry c1="{30 * n}" c2="9" c3="{n}" c4="{opacity if n else 255}"/>' for n in range(colours)]
    return f"<ColorInterp>Palette</ColorInterp><ColorTable>{''.join(entries)}</ColorTable>"


CLASSES = (RGB[..., :1] % 9).astype(np.uint8)


@pytest.mark.parametrize("opacity", [255, 99])
@pytest.mark.parametrize("nodata", [None, 4, 200])
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        *[(dtype, {}) for dtype in (np.uint8, np.uint16, np.int16, np.float32)],
        *[(np.uint8, {"nbits": 4}), (np.uint8, {"photometric": "MINISWHITE"})],
    ],
)
def test_a_palette_is_applied(
    tmp_path: Path,
    dtype: type,
    options: dict[str, object],
    nodata: int | None,
    opacity: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    samples = CLASSES.astype(dtype)
    if nodata == 200 and "nbits" not in options:
        samples[0, :4] = 200  # beyond the palette
    path = raster(tmp_path / "a.tif", samples, **options)
    say(path, table(9, opacity) + (f"<NoDataValue>{nodata}</NoDataValue><UnitType>m</UnitType>" if nodata else ""))
    found = pictures.read(path)
    with rasterio.open(path) as file:
        colours = np.array([file.colormap(1).get(index, (0,) * 4) for index in file.read(1).ravel()]).reshape(6, 9, 4)
        opaque = np.where(file.read_masks(1) > 0, colours[..., 3], 0)
    assert np.array_equal(found.pixels[opaque > 0], colours[..., :3][opaque > 0])
    assert np.array_equal(found.alpha if found.alpha is not None else np.full((6, 9), 255), opaque)
    assert (found.nodata, geo.parse(found.metadata.geo).keys()) == (None, {"crs", "transform"})
    applied = f"{path}: the palette in a.tif.aux.xml beside it is applied: indices are converted to its colours"
    assert applied in caplog.messages
    assert (f"{path}: left out: units (of the palette's indices)" in caplog.messages) == bool(nodata)


def test_another_palette_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    PIL.Image.fromarray(CLASSES[..., 0]).convert("P").save(path)
    say(path, table(9))
    assert np.array_equal(pictures.read(path).pixels[..., 0], 30 * CLASSES[..., 0])


def test_a_palette_with_alpha_is_applied(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", np.dstack([CLASSES, ALPHA]))
    say(path, table(9), *kinds("Alpha"))
    found = pictures.read(path)
    assert np.array_equal(found.alpha, ALPHA[..., 0])
    assert np.array_equal(found.pixels[..., 0], 30 * CLASSES[..., 0])


@pytest.mark.parametrize(
    ("bands", "said", "told"),
    [
        (1, table(8), r"has samples of 8, and the palette in a\.tif\.aux\.xml beside it ends at 7"),
        (1, *kinds("Palette"), "which has no colours: correct it there"),
        (2, table(9), "has a palette beside bands other than alpha"),
    ],
)
def test_indices_without_colours_are_refused(tmp_path: Path, bands: int, said: str, told: str) -> None:
    path = raster(tmp_path / "a.tif", np.dstack([CLASSES] * bands))
    say(path, said)
    with pytest.raises(ImageError, match=told):
        pictures.read(path)


def none_of(*values: object) -> list[str]:
    return ["" if value is None else f"<NoDataValue>{value}</NoDataValue>" for value in values]


@pytest.mark.parametrize("own", [None, 3])
@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (np.uint8, (0, 100, 200)),
        (np.uint8, (None, 100, None)),
        (np.int16, (-5, None, 7)),
        (np.float32, ("nan", -9999, 0)),
        (np.float32, (None, "nan", None)),
    ],
)
def test_nodata_values_of_bands_become_one(
    tmp_path: Path, dtype: type, values: tuple[object, ...], own: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    samples = (RGB % 90 + 1).astype(dtype)
    for band, value in enumerate(values):
        samples[band : band + 2, :, band] = 3 if value is None else value
    samples[5] = 100 if dtype == np.uint8 else -5  # valid in others
    path = raster(tmp_path / "a.tif", samples, nodata=own)
    say(path, *none_of(*values))
    with rasterio.open(path) as file, rasterio.open(written(path)) as back:
        assert len(set(file.nodatavals)) > 1
        masks = file.read_masks()
        assert 0 < (masks == 0).sum() < masks.size
        assert np.array_equal(back.read_masks(), masks)
        assert np.array_equal(back.read()[masks > 0], file.read()[masks > 0])
    assert sum("become" in message and "which no valid sample has" in message for message in caplog.messages) == 1


@settings(max_examples=25, deadline=None)
@given(
    arrays(np.uint8, (2, 3, 2), elements=st.sampled_from([0, 1, 2, 3, 255])),
    st.tuples(*[st.sampled_from([None, 1, 2, 3, 255])] * 2),
)
def test_what_is_valid_by_any_nodata_values_stays_so_or_is_told(
    tmp_path_factory: pytest.TempPathFactory, samples: np.ndarray, values: tuple[int | None, ...]
) -> None:
    path = raster(tmp_path_factory.mktemp("any") / "a.tif", samples)
    say(path, *none_of(*values))
    messages = list[str]()
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("refscale_codec").addHandler(handler)
    try:
        back = written(path)
    finally:
        logging.getLogger("refscale_codec").removeHandler(handler)
    if any("since bands differ in what is valid" in message for message in messages):
        assert {0, 255} <= set(samples.ravel().tolist())  # the lowest and the highest value are tried
        return
    with rasterio.open(path) as file, rasterio.open(back) as found:
        masks = file.read_masks()
        assert np.array_equal(found.read_masks([1, 2]), masks)
        assert np.array_equal(found.read([1, 2])[masks > 0], file.read()[masks > 0])


def test_nodata_values_of_bands_become_alpha_or_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = np.dstack([np.arange(54, dtype=np.uint8).reshape(6, 9)] * 3)
    samples[:2] = 1, 2, 3
    samples[5, :6] = [[1] * 3, [2] * 3, [3] * 3, [0] * 3, [255] * 3, [9] * 3]
    samples[5, 0], samples[5, 1], samples[5, 2] = (2, 3, 1), (3, 1, 2), (0, 0, 0)
    path = raster(tmp_path / "a.tif", samples)
    say(path, *none_of(1, 2, 3))
    with rasterio.open(path) as file:
        assert np.array_equal(pictures.read(path).alpha, file.read_masks(1))
        assert (file.read_masks() == file.read_masks(1)).all()
    assert caplog.messages == [f"{path}: nodata values 1, 2, 3 of bands become alpha"]
    samples[4, 0, 0] = 1
    raster(path, samples)
    say(path, *none_of(1, 2, 3))
    found = pictures.read(path)
    assert (found.alpha, found.nodata) == (None, None)
    assert "left out: nodata values 1, 2, 3 of bands, since bands differ in what is valid" in caplog.messages[-1]


def test_a_nodata_value_beyond_32_bits_is_that_of_its_samples(tmp_path: Path) -> None:
    samples, lowest = RGB.astype(np.float64), float(np.finfo(np.float64).min)
    samples[2:4, 1:5] = lowest
    path = raster(tmp_path / "a.tif", samples)
    say(path, *none_of(lowest, lowest, lowest))
    with rasterio.open(path) as file, rasterio.open(written(path)) as back:
        assert back.nodata == -np.inf
        assert np.array_equal(back.read_masks(), file.read_masks())


def test_a_nodata_value_of_converted_samples_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = raster(tmp_path / "a.tif", CLASSES, nbits=4)
    say(path, *none_of(4))
    assert pictures.read(path).nodata is None
    assert f"{path}: left out: nodata value 4 (of samples before they are converted)" in caplog.messages


def test_what_gdal_reads_and_rasterio_does_not_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = raster(tmp_path / "a.tif", RGB)
    say(path, "<CategoryNames><Category>wood</Category></CategoryNames><Histograms/><Description>d</Description>")
    assert geo.fields_of(pictures.read(path).metadata.geo)["descriptions"] == ["d", None, None]
    assert caplog.messages == [
        f"{path}: left out: names of categories in a.tif.aux.xml beside it, histograms in a.tif.aux.xml beside it"
    ]


@pytest.mark.parametrize("beside", ["a.tif.MSK", "a.tif.Msk"])
def test_a_mask_is_found_in_any_case(tmp_path: Path, beside: str) -> None:
    path = raster(tmp_path / "a.tif", RGB)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
        file.write_mask(ALPHA[..., 0])
    (tmp_path / "a.tif.msk").rename(tmp_path / beside)
    with rasterio.open(path) as file:
        assert np.array_equal(pictures.read(path).alpha > 0, file.read_masks(1) > 0)


def test_a_large_folder_is_not_listed(tmp_path: Path) -> None:
    path = drawn(tmp_path, "a.tif")
    (tmp_path / "a.TFW").write_text(WORLD)
    for number in range(1000):
        (tmp_path / str(number)).touch()
    assert [sidecar.name for sidecar in sidecars.beside(path)] == ["a.TFW"]
    (tmp_path / "a.TFW").rename(tmp_path / "a.Tfw")
    assert sidecars.beside(path) == []
    assert said_by_gdal(path)[1] == (1, 0, 0, 0, 1, 0)  # GDAL does the same
