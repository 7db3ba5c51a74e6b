"""The engine `refscale` of xarray: what rioxarray makes of the decoded GeoTIFF, decoded where it is looked at."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import refscale_codec as refscale
from refscale_codec.picture import geo
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.metadata import Metadata

xr = pytest.importorskip("xarray", reason="the extra xarray is not installed")
pytest.importorskip("dask", reason="the extra xarray is not installed")

PLACE = {"crs": "EPSG:32630", "transform": [10.0, 0.0, 700_000.0, 0.0, -10.0, 4_970_000.0]}
HEIGHT, WIDTH, TILE = 70, 90, 32


def drawn(seed: int, kind: str = "uint16", bands: int = 4) -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = np.dstack([np.sin(x / (5 + band)) * np.cos(y / 6 + seed / 9) for band in range(bands)])
    return (120 + 99 * waves + seed).astype(kind)


def coded(folder: Path, weights: Path, image: Image, older: np.ndarray) -> tuple[Path, Path]:
    """Write a file and its reference."""
    file, reference = folder / "scene.rsc", folder / "old.tif"
    pictures.write(Image(older), reference)
    file.write_bytes(refscale.encode(image, reference, model=weights, tile=TILE))
    return file, reference


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> tuple[Path, dict[str, Any], np.ndarray]:
    """A file, how it is opened, and its pixels [bands, h, w]."""
    folder, image = tmp_path_factory.mktemp("scene"), Image(drawn(1), Metadata(geo=geo.dumped(PLACE)))
    file, reference = coded(folder, tiny_weights, image, drawn(0))
    how = {"reference": reference, "model": tiny_weights, "tile": TILE}
    return file, {"engine": "refscale", **how}, np.moveaxis(refscale.decode(file, **how), 2, 0)


# --- what a data set has ---------------------------------------------------------------------------------------------

SAID = {"tags": {"PRODUCT": "L2A"}, "descriptions": ["blue", None, "red", "nir"], "units": ["K"] * 4}


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # by rioxarray
@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    ("kind", "nodata", "said"),
    [
        ("uint8", None, PLACE),
        ("uint8", 0, PLACE),
        ("uint16", 0, PLACE | SAID),
        ("int16", -9999, PLACE | {"scales": [1e-4] * 4, "offsets": [-0.1] * 4}),
        ("float32", float("nan"), PLACE),
        ("float32", -1.0, PLACE | {"crs": "EPSG:4326", "transform": [1e-4, 0.0, 8.0, 0.0, 1e-4, 47.0]}),
        ("uint16", None, {"transform": PLACE["transform"]}),
    ],
)
def test_a_data_set_is_that_of_the_decoded_geotiff(
    tmp_path: Path, tiny_weights: Path, kind: str, nodata: float | None, said: dict[str, Any], masked: bool
) -> None:
    pytest.importorskip("rioxarray")
    pixels = drawn(1, kind)
    if nodata is not None:
        pixels[10:30, 20:50] = nodata
    image = Image(pixels, Metadata(geo=geo.dumped(said)), nodata=nodata)
    file, reference = coded(tmp_path, tiny_weights, image, drawn(0, kind))
    how = {"reference": reference, "model": tiny_weights}
    back = refscale.decode(file, **how)
    pictures.write(Image(back, image.metadata, nodata=nodata), tmp_path / "back.tif")
    with (
        xr.open_dataset(file, engine="refscale", mask_and_scale=masked, **how) as mine,
        xr.open_dataset(tmp_path / "back.tif", engine="rasterio", mask_and_scale=masked) as wanted,
    ):
        xr.testing.assert_allclose(mine, wanted, rtol=1e-7, atol=1e-7)
        here, there = mine["band_data"], wanted["band_data"]
        assert here.dims == there.dims
        as_stored = not masked or nodata is None and "scales" not in said
        assert here.dtype == kind if as_stored else here.dtype.kind == "f"
        found, kept = (here.encoding, there.encoding) if masked else (here.attrs, there.attrs)
        for name, usual in (("scale_factor", 1.0), ("add_offset", 0.0)):
            assert found.get(name, usual) == kept.get(name, usual)
        assert np.array_equal([found.get("_FillValue", 7)], [kept.get("_FillValue", 7)], equal_nan=True)
        told = "units" in said
        assert here.attrs.get("long_name") == (("blue", "", "red", "nir") if told else None)
        assert here.attrs.get("units") == ("K" if told else None)
        assert here.rio.crs == there.rio.crs
        assert here.rio.transform() == there.rio.transform()
        assert here.rio.bounds() == there.rio.bounds()
        assert mine.attrs == said.get("tags", {})


def test_samples_keep_their_type_where_nothing_is_masked(scene: tuple[Path, dict[str, Any], np.ndarray]) -> None:
    file, how, pixels = scene
    with xr.open_dataset(file, **how) as found:
        assert found["band_data"].dtype == pixels.dtype
        assert np.array_equal(found["band_data"], pixels)


@pytest.mark.parametrize("transform", [None, [10.0, 0.5, 7e5, -0.25, -10.0, 4.97e6]])
def test_a_picture_without_a_grid_of_x_and_y_has_no_such_coordinates(
    tmp_path: Path, tiny_weights: Path, transform: list[float] | None
) -> None:
    said = {} if transform is None else {"crs": "EPSG:32630", "transform": transform}
    image = Image(drawn(1, "uint8", 1), Metadata(geo=geo.dumped(said)))
    file, reference = coded(tmp_path, tiny_weights, image, drawn(0, "uint8", 1))
    with xr.open_dataset(file, engine="refscale", reference=reference, model=tiny_weights) as found:
        assert found["band_data"].shape == (1, HEIGHT, WIDTH)
        assert set(found.coords) == {"band"} | ({"spatial_ref"} if said else set())
        if transform is not None:
            assert found["spatial_ref"].attrs["GeoTransform"] == "700000.0 10.0 0.5 4970000.0 -0.25 -10.0"


def test_scales_that_differ_are_told_and_not_applied(tmp_path: Path, tiny_weights: Path) -> None:
    image = Image(drawn(1), Metadata(geo=geo.dumped({"scales": [1.0, 2.0, 1.0, 1.0]})))
    file, reference = coded(tmp_path, tiny_weights, image, drawn(0))
    with xr.open_dataset(file, engine="refscale", reference=reference, model=tiny_weights) as found:
        assert found["band_data"].attrs["scale_factors"] == (1.0, 2.0, 1.0, 1.0)
        assert found["band_data"].dtype == np.uint16


def test_it_can_be_saved_as_netcdf(scene: tuple[Path, dict[str, Any], np.ndarray], tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    file, how, pixels = scene
    with xr.open_dataset(file, **how) as found:
        found.astype({"band_data": "int32"}).to_netcdf(tmp_path / "scene.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "scene.nc", engine="scipy", decode_coords="all") as back:
        assert np.array_equal(back["band_data"], pixels)
        assert "spatial_ref" in back.coords


# --- what is decoded, and when ---------------------------------------------------------------------------------------


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int, int]]:
    """The windows that are decoded."""
    read, asked = refscale.Reader.read, list[tuple[int, int, int, int]]()

    def recorded(self: refscale.Reader, *, window: tuple[int, int, int, int]) -> np.ndarray:
        asked.append(tuple(map(int, window)))
        return read(self, window=window)

    monkeypatch.setattr(refscale.Reader, "read", recorded)
    return asked


def test_chunks_are_tiles_and_only_those_asked_for_are_decoded(
    scene: tuple[Path, dict[str, Any], np.ndarray], windows: list[tuple[int, int, int, int]]
) -> None:
    file, how, pixels = scene
    with xr.open_dataset(file, **how, chunks={}) as found:
        assert found["band_data"].chunks == ((4,), (32, 16, 22), (32, 32, 26))
        assert not windows
        part = found["band_data"].isel(y=slice(50, 60), x=slice(10, 40)).compute()
        assert np.array_equal(part, pixels[:, 50:60, 10:40])
        assert all(48 <= y < 60 and x + width <= 64 for x, y, width, _ in windows) and len(windows) == 2
        windows.clear()
        assert np.array_equal(found["band_data"].compute(scheduler="threads"), pixels)
        rows, columns = ((0, 32), (32, 16), (48, 22)), ((0, 32), (32, 32), (64, 26))
        assert sorted(windows) == sorted((x, y, width, height) for y, height in rows for x, width in columns)


def positions(length: int) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.integers(-length, length - 1),
        st.slices(length).filter(lambda part: (part.step or 1) > 0 or range(length)[part]),  # others fail in xarray
        st.lists(st.integers(-length, length - 1), min_size=1, max_size=3).map(np.array),
    )


@pytest.mark.slow
@given(key=st.tuples(positions(4), positions(HEIGHT), positions(WIDTH)))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_selected_is_that_of_the_whole(
    scene: tuple[Path, dict[str, Any], np.ndarray], key: tuple[Any, Any, Any]
) -> None:
    file, how, pixels = scene
    with xr.open_dataset(file, **how, cache=False) as found:
        selected = found["band_data"].isel(dict(zip(("band", "y", "x"), key, strict=True))).to_numpy()
    axes = [np.arange(length)[part] for part, length in zip(key, pixels.shape, strict=True)]
    wanted = pixels[np.ix_(*map(np.atleast_1d, axes))].reshape([len(axis) for axis in axes if np.ndim(axis)])
    assert np.array_equal(selected, wanted)


def test_threads_and_other_processes_read_the_same(scene: tuple[Path, dict[str, Any], np.ndarray]) -> None:
    file, how, pixels = scene
    with xr.open_dataset(file, **how, cache=False) as found:
        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(lambda y: found["band_data"].isel(y=y).values, range(0, HEIGHT, 9)))
        assert np.array_equal(np.stack(parts, 1), pixels[:, ::9])
        with pickle.loads(pickle.dumps(found)) as again:
            assert np.array_equal(again["band_data"], pixels)


def test_dates_of_a_place_become_one_data_set(scene: tuple[Path, dict[str, Any], np.ndarray]) -> None:
    file, how, pixels = scene
    with xr.open_mfdataset([file, file], combine="nested", concat_dim="time", **how) as found:
        assert np.array_equal(found["band_data"], np.stack([pixels, pixels]))


# --- what is refused -------------------------------------------------------------------------------------------------


def test_attributes_need_no_reference_and_pixels_do(scene: tuple[Path, dict[str, Any], np.ndarray]) -> None:
    file, how, pixels = scene
    without = how | {"reference": None}
    with (
        xr.open_dataset(file, **without) as found,
        pytest.raises(refscale.ReferenceMismatch, match="needs its reference"),
    ):
        assert found["band_data"].shape == pixels.shape
        found.load()
    with xr.open_dataset(file, **how | {"reference": drawn(5)}) as found, pytest.raises(refscale.ReferenceMismatch):
        found.load()


def broken(data: bytes) -> bytes:
    return data[:-3]


@pytest.mark.parametrize(
    ("change", "more", "error"),
    [
        (broken, {}, refscale.ContainerError),
        (lambda data: b"no such file", {}, refscale.ContainerError),
        (bytes, {"tile": 33}, refscale.UsageError),
    ],
)
def test_what_cannot_be_opened_is_refused_at_once(
    scene: tuple[Path, dict[str, Any], np.ndarray],
    tmp_path: Path,
    change: Callable[[bytes], bytes],
    more: dict[str, Any],
    error: type[Exception],
) -> None:
    file, how, _ = scene
    (tmp_path / "other.rsc").write_bytes(change(file.read_bytes()))
    with pytest.raises(error):
        xr.open_dataset(tmp_path / "other.rsc", **how | more)


def test_bytes_are_a_file_too_and_the_suffix_suffices(scene: tuple[Path, dict[str, Any], np.ndarray]) -> None:
    file, how, pixels = scene
    with xr.open_dataset(file.read_bytes(), **how) as found:
        assert np.array_equal(found["band_data"], pixels)
    with xr.open_dataset(file) as found:  # no engine is named
        assert found["band_data"].shape == pixels.shape
    with xr.open_dataset(file, **how, drop_variables="band_data") as found:
        assert "band_data" not in found


def test_listing_the_engines_is_cheap() -> None:
    program = (
        "import sys, xarray; print('refscale' in xarray.backends.list_engines(), {'torch', 'cv2'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True set()\n"
