"""The package as a program uses it: arrays in and out, files opened, threads at once."""

import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray

import refscale_codec as refscale
from refscale_codec import errors, model, weights_files
from refscale_codec.codec import decoder, encoder
from refscale_codec.fileformat import container
from refscale_codec.model import Model
from refscale_codec.picture import geo
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.metadata import Metadata
from refscale_codec.rescale.net import RescaleNet

Array = NDArray[Any]


@pytest.fixture(scope="module")
def new(pair: tuple[Image, Image]) -> Array:
    return pair[0].pixels


@pytest.fixture(scope="module")
def old(pair: tuple[Image, Image]) -> Array:
    return pair[1].pixels


@pytest.fixture(scope="module")
def tiny(tiny_weights: Path) -> Model:
    return refscale.load_model(tiny_weights, device="cpu")


@pytest.fixture(scope="module")
def data(new: Array, old: Array, tiny: RescaleNet) -> bytes:
    return refscale.encode(new, reference=old, model=tiny)


# --- encode and decode -----------------------------------------------------------------------------------------------


def of_kind(pixels: Array, kind: str, bands: int | None) -> Array:
    """A picture of other bands and another type: [h, w] for None."""
    chosen = pixels[..., 1] if bands is None else pixels[..., [index % 3 for index in range(bands)]]
    return (chosen.astype(np.int32) * (257 if kind == "uint16" else 1)).astype(kind)


@pytest.mark.parametrize(
    ("kind", "bands"), [("uint8", None), ("uint8", 3), ("uint16", 2), ("uint16", 4), ("int16", None)]
)
def test_an_array_comes_back_in_its_shape_and_type(
    new: Array, old: Array, tiny: RescaleNet, kind: str, bands: int | None
) -> None:
    picture, reference = of_kind(new, kind, bands), of_kind(old, kind, bands)
    data = refscale.encode(picture, reference=reference, quality=90, model=tiny)
    hat = refscale.decode(data, reference=reference, model=tiny)
    assert (hat.shape, hat.dtype) == (picture.shape, picture.dtype)
    assert hat.flags.c_contiguous and hat.flags.writeable
    with refscale.open(data) as scene:
        assert (scene.shape, scene.dtype) == (picture.shape, picture.dtype)


def test_arrays_paths_and_images_give_one_file_which_is_the_encoders(
    new: Array, old: Array, pair: tuple[Image, Image], data: bytes, tiny: RescaleNet, tiny_weights: Path, tmp_path: Path
) -> None:
    for name, pixels in (("new.png", new), ("old.png", old)):
        PIL.Image.fromarray(pixels).save(tmp_path / name)
    assert data == encoder.encode(*pair, tiny, encoder.EncodeOptions(quality=75))
    kept = {"model": str(tiny_weights), "device": "cpu"}
    assert data == refscale.encode(str(tmp_path / "new.png"), tmp_path / "old.png", **kept)
    turned = np.asfortranarray(new), old[::-1].copy()[::-1]
    assert data == refscale.encode(*turned, quality=np.int64(75), model=tiny)
    hat = decoder.decode(data, pair[1], tiny).pixels
    (tmp_path / "new.rsc").write_bytes(data)
    assert np.array_equal(hat, refscale.decode(str(tmp_path / "new.rsc"), tmp_path / "old.png", **kept))


def test_without_a_reference(new: Array, tiny: RescaleNet) -> None:
    data = refscale.encode(new, model=tiny)
    assert refscale.decode(data, model=tiny).shape == new.shape
    assert refscale.open(data).references == {}


def test_options_are_those_of_the_encoder(new: Array, old: Array, tiny: RescaleNet) -> None:
    deep = of_kind(new, "uint16", None)
    data = refscale.encode(deep, quality=40, value_range=(0, 65535), output_hash=True, tile=16, model=tiny)
    options = encoder.EncodeOptions(quality=40, value_range=(0, 65535), output_hash=True, tile=16)
    assert data == encoder.encode(Image(deep[..., None]), None, tiny, options)
    small = refscale.encode(new, target_bytes=700, model=tiny)
    assert len(small) <= 700
    assert small == refscale.encode(new, target_bpp=8 * 700.5 / (29 * 37), model=tiny)
    with pytest.raises(errors.TargetError):
        refscale.encode(new[:9, :9], target_psnr=99.0, model=tiny)


def test_alpha_is_the_last_band_and_metadata_can_be_stripped(new: Array, tiny: RescaleNet) -> None:
    alpha = np.arange(new.shape[0] * new.shape[1], dtype=np.uint8).reshape(new.shape[:2])
    picture = Image(new, Metadata(xmp=b"<x/>"), alpha)
    data = refscale.encode(picture, model=tiny)
    hat = refscale.decode(data, model=tiny)
    assert np.array_equal(hat[..., 3], alpha)
    assert refscale.open(data).shape == (*new.shape[:2], 4)
    stripped = refscale.encode(picture, model=tiny, strip=True)
    assert container.unpack(data).metadata is not None and container.unpack(stripped).metadata is None


def test_a_fingerprint_is_what_files_name_their_reference_by(old: Array, data: bytes, tmp_path: Path) -> None:
    PIL.Image.fromarray(old).save(tmp_path / "old.webp", lossless=True)
    named = refscale.fingerprint(old)
    assert named == refscale.fingerprint(tmp_path / "old.webp")
    assert refscale.open(data).references == {named: None}
    assert refscale.fingerprint(old[..., 0]) == refscale.fingerprint(old[..., :1]) != named


# --- open ------------------------------------------------------------------------------------------------------------


def test_a_window_has_the_pixels_of_the_whole(data: bytes, old: Array, tiny: RescaleNet) -> None:
    with refscale.open(data, reference=old, model=tiny, tile=16) as scene:
        whole = scene.read()
        for x, y, w, h in ((0, 0, 37, 29), (5, 3, 20, 17), (36, 28, 1, 1), (16, 16, 16, 13)):
            assert np.array_equal(scene.read(window=(x, y, w, h)), whole[y : y + h, x : x + w])
        assert np.array_equal(whole, refscale.decode(data, old, model=tiny, tile=16))
        part = refscale.decode(data, old, model=tiny, tile=16, window=(5, 3, 20, 17))
        assert np.array_equal(part, whole[3:20, 5:25])


def test_a_window_may_be_rasterios(data: bytes, old: Array, tiny: RescaleNet) -> None:
    windows = pytest.importorskip("rasterio.windows", reason="the extra geo is not installed")
    scene = refscale.open(data, reference=old, model=tiny)
    assert np.array_equal(scene.read(window=windows.Window(4, 3, 2, 1)), scene.read(window=(4, 3, 2, 1)))


def test_what_a_geotiff_says_is_there_before_anything_is_decoded(new: Array, tiny: RescaleNet, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
    said = geo.dumped({"crs": "EPSG:32633", "transform": [10.0, 0, 500, 0, -10, 900], "tags": {"season": "wet"}})
    picture = Image(of_kind(new, "uint16", 4), Metadata(geo=said), nodata=0)
    path = tmp_path / "scene.tif"
    pictures.write(picture, path)
    scene_path = tmp_path / "scene.rsc"
    scene_path.write_bytes(refscale.encode(path, model=tiny))
    with refscale.open(scene_path) as scene, rasterio.open(path) as dataset:
        assert (scene.height, scene.width, scene.count) == (dataset.height, dataset.width, dataset.count)
        assert scene.shape == (29, 37, 4)
        assert scene.dtype == dataset.dtypes[0]
        assert scene.nodata == dataset.nodata == 0
        assert scene.crs == dataset.crs.to_string()
        assert rasterio.Affine(*scene.transform or ()) == dataset.transform
        assert scene.tags.items() <= dataset.tags().items() and scene.tags == {"season": "wet"}
        assert (scene.references, scene.quality) == ({}, 75)
        assert repr(scene) == f"<refscale reader {scene_path}: 29 x 37 x 4 uint16>"


def test_a_picture_that_is_nowhere_says_so(data: bytes, tiny: RescaleNet) -> None:
    scene = refscale.open(data)
    assert (scene.crs, scene.transform, scene.tags, scene.nodata) == (None, None, {}, None)


@pytest.mark.parametrize(
    "geo", [b"{", b"[]", b'{"crs":5,"transform":[1,2],"tags":[1]}', b'{"transform":["a",0,0,0,0,0]}']
)
def test_a_damaged_georeference_says_nothing(new: Array, tiny: RescaleNet, geo: bytes) -> None:
    scene = refscale.open(refscale.encode(Image(new, Metadata(geo=geo)), model=tiny))
    assert (scene.crs, scene.transform, scene.tags) == (None, None, {})


def test_a_closed_scene_is_not_read(data: bytes, old: Array, tiny: RescaleNet) -> None:
    with refscale.open(data, old, model=tiny) as scene:
        pass
    assert scene.shape == (29, 37, 3)
    with pytest.raises(errors.UsageError, match="closed"):
        scene.read()


# --- errors ----------------------------------------------------------------------------------------------------------

PICTURE = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"picture": None}, errors.UsageError, ("the picture", "array, a path or an Image", "NoneType")),
        ({"picture": [[1, 2]]}, errors.UsageError, ("list",)),
        ({"picture": PICTURE * 0.5j}, errors.ImageError, ("the picture", "complex128")),
        ({"picture": "nowhere.png"}, errors.ImageError, ("nowhere.png does not exist",)),
        ({"reference": 7}, errors.UsageError, ("the reference", "int")),
        ({"reference": PICTURE[..., :2]}, errors.ImageError, ("8-bit 2-band", "8-bit RGB")),
        ({"quality": 0}, errors.UsageError, ("quality", "1..100", "0")),
        ({"quality": 75.0}, errors.UsageError, ("quality", "whole number", "75.0")),
        ({"quality": 75, "target_bpp": 1.0}, errors.UsageError, ("quality and target_bpp", "exclude")),
        ({"target_psnr": float("nan")}, errors.UsageError, ("target_psnr", "positive", "nan")),
        ({"target_bytes": 0}, errors.UsageError, ("target_bytes", "positive")),
        ({"target_bytes": 7.5}, errors.UsageError, ("target_bytes", "whole")),
        ({"target_bpp": "1"}, errors.UsageError, ("target_bpp", "'1'")),
        ({"tile": 17}, errors.UsageError, ("tile", "17")),
        ({"value_range": {4: (0, 9)}}, errors.UsageError, ("range", "band 4")),
        ({"value_range": {1.5: (0, 9)}}, errors.UsageError, ("band", "1.5")),
        ({"value_range": {1: 9}}, errors.UsageError, ("value_range must be two numbers", "9")),
        *(
            ({"value_range": wrong}, errors.UsageError, ("value_range must be two numbers", repr(wrong)))
            for wrong in ((0, 1, 2), ("a", "b"), "0,10", 7)
        ),
        ({"target_bpp": 1e308}, errors.UsageError, ("a target must be at most",)),
        ({"target_bytes": 10**400}, errors.UsageError, ("a target must be at most",)),
        ({"target_psnr": 10**400}, errors.UsageError, ("a target must be at most",)),
        ({"scale": 2}, errors.UsageError, ("scale would have no effect: it follows from model",)),
        ({"model": "nowhere.safetensors"}, errors.WeightsError, ("nowhere.safetensors",)),
        ({"model": 5}, errors.UsageError, ("model must be", "int")),
        ({"model": None, "device": "gpu"}, errors.UsageError, ("device must be auto, cpu, cuda or mps, not gpu",)),
        ({"model": None, "scale": 3}, errors.UsageError, ("scale must be 1, 2 or 4, not 3",)),
        ({"model": None, "scale": 2.0}, errors.UsageError, ("scale must be a whole number, not 2.0",)),
        ({"model": None, "scale": True}, errors.UsageError, ("scale must be a whole number, not True",)),
        ({"model": None, "scale": 0}, errors.UsageError, ("scale must be 1, 2 or 4, not 0",)),
        ({"model": None, "codec": ""}, errors.UsageError, ("unknown codec ''",)),
        ({"model": None, "scale": np.array([2])}, errors.UsageError, ("scale must be a whole number",)),
        ({"model": SimpleNamespace(fingerprint=b"123456")}, errors.UsageError, ("model must be", "SimpleNamespace")),
        ({"quality": True}, errors.UsageError, ("quality must be a whole number, not True",)),
        ({"quality": np.array([75])}, errors.UsageError, ("quality must be a whole number",)),
        ({"tile": True}, errors.UsageError, ("tile must be a whole number, not True",)),
        ({"target_bytes": True}, errors.UsageError, ("target_bytes", "positive number, not True")),
        ({"target_bpp": True}, errors.UsageError, ("target_bpp", "positive number, not True")),
        ({"target_psnr": np.True_}, errors.UsageError, ("target_psnr", "positive number")),
        ({"model": None, "scale": 4, "codec": "gmm"}, errors.UsageError, ("the codec gmm ships at scale 2 only",)),
        ({"model": None, "codec": "jpg"}, errors.UsageError, ("jpg", "one of jpeg, gmm, predictive")),
        ({"output_hash": "yes"}, errors.UsageError, ("output_hash must be True or False, not 'yes'",)),
        ({"strip": None}, errors.UsageError, ("strip must be True or False, not None",)),
        ({"reference_name": 3}, errors.UsageError, ("reference_name must be None, True or False, not 3",)),
    ],
)
def test_a_mistake_is_one_line_of_the_packages_own(
    tiny: RescaleNet, arguments: dict[str, Any], error: type[Exception], words: tuple[str, ...]
) -> None:
    with pytest.raises(error) as caught:
        refscale.encode(**{"picture": PICTURE, "model": tiny, **arguments})
    assert isinstance(caught.value, refscale.RefscaleError)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_loaded_model_has_its_device(tiny: RescaleNet) -> None:
    with pytest.raises(errors.UsageError, match="device would have no effect"):
        refscale.encode(PICTURE, model=tiny, device="cpu")


def test_what_does_not_fit_a_file_is_refused(
    data: bytes, new: Array, old: Array, tiny: RescaleNet, tmp_path: Path
) -> None:
    with pytest.raises(errors.ReferenceMismatch, match="needs its reference"):
        refscale.decode(data, model=tiny)
    with pytest.raises(errors.ReferenceMismatch, match="this picture is"):
        refscale.decode(data, new, model=tiny)
    with pytest.raises(errors.WeightsError, match="come with this installation; give model"):
        refscale.decode(data, old)
    with pytest.raises(errors.ContainerError, match="not a .rsc file"):
        refscale.open(b"GIF89a")
    with pytest.raises(errors.ContainerError, match="cannot read .*nowhere.rsc: No such file"):
        refscale.open(tmp_path / "nowhere.rsc")
    PIL.Image.fromarray(new).save(tmp_path / "new.png")
    with pytest.raises(errors.ContainerError, match="new.png: not a .rsc file"):
        refscale.decode(tmp_path / "new.png")
    (tmp_path / "scene.rsc").write_bytes(data)
    with pytest.raises(errors.ReferenceMismatch, match="scene.rsc: the file needs its reference"):
        refscale.decode(tmp_path / "scene.rsc", model=tiny)
    with pytest.raises(errors.UsageError, match="not as ndarray"):
        refscale.open(new)  # type: ignore[arg-type]


@pytest.mark.parametrize("window", [(0, 0, 38, 29), (-1, 0, 5, 5), (0, 0, 0, 5), (1.5, 0, 2, 2), (1, 2, 3), "abcd", 7])
def test_a_window_that_is_none_is_refused(data: bytes, old: Array, tiny: RescaleNet, window: Any) -> None:
    with pytest.raises(errors.UsageError, match="window"):
        refscale.open(data, old, model=tiny).read(window=window)


def test_a_closed_file_is_not_entered_again(data: bytes, old: Array) -> None:
    with refscale.open(data, old) as reader:
        pass
    with pytest.raises(errors.UsageError, match="the file is closed"), reader:
        pytest.fail("entered")


def test_a_window_outside_the_picture_is_refused_before_weights_are_looked_for(data: bytes) -> None:
    with pytest.raises(errors.UsageError, match="is not inside the picture of"):
        refscale.open(data).read(window=(0, 0, 999, 1))


def test_a_range_of_values_may_be_any_two_numbers_for_all_bands_or_some(new: Array, tiny: RescaleNet) -> None:
    deep = of_kind(new, "uint16", None)
    every = {1: (0, 4000.0)}
    files = [
        refscale.encode(deep, value_range=limits, model=tiny) for limits in ((0, 4000), np.array([0, 4000]), every)
    ]
    assert files[0] == files[1] == files[2]
    assert refscale.encode(deep, value_range={1: (0, 9000)}, model=tiny) != files[0]


def test_floats_come_back_as_floats_in_their_units(new: Array, old: Array, tiny: RescaleNet) -> None:
    older = (old[..., 0] / 1000.0).astype(np.float32)
    reflectance = new[..., 0] / 1000.0
    reflectance[3:5, 7] = np.nan
    data = refscale.encode(reflectance, older, model=tiny, quality=95)
    with refscale.open(data, older, model=tiny) as scene:
        assert (scene.dtype, scene.nodata) == (np.float32, None)
        part = scene.read(window=(4, 2, 9, 8))
    hat = refscale.decode(data, older, model=tiny)
    assert (hat.dtype, hat.shape) == (np.float32, reflectance.shape)
    assert np.array_equal(np.isnan(hat), np.isnan(reflectance))
    assert np.nanmax(abs(hat - reflectance)) < 0.3  # the net is not trained
    assert np.array_equal(part, hat[2:10, 4:13], equal_nan=True)


# --- models, imports and threads -------------------------------------------------------------------------------------


def test_a_model_is_loaded_once_even_by_threads_that_ask_together(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own.safetensors"
    path.write_bytes(tiny_weights.read_bytes())
    loads, load = [], model.load
    monkeypatch.setattr(model, "load", lambda path, device: loads.append(path) or load(path, device))
    together = threading.Barrier(4)

    def ask(_: int) -> object:
        together.wait()
        return refscale.load_model(path)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    assert len(loads) == 1 and len(set(map(id, found))) == 1
    assert refscale.load_model(path, device="cpu") is refscale.load_model(str(path), device="cpu")
    path.write_bytes(b"changed")
    with pytest.raises(errors.WeightsError):
        refscale.load_model(path)


def test_what_ships_is_found_by_scale_and_codec() -> None:
    assert refscale.load_model(device="cpu") is refscale.load_model(weights_files.shipped(2), device="cpu")
    assert refscale.load_model(scale=4, device="cpu") is refscale.load_model(weights_files.shipped(4), device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["jpeg", "gmm"])
def test_four_threads_at_once_give_what_one_gives_after_the_other(
    new: Array, old: Array, tiny: RescaleNet, tmp_path: Path, codec: str
) -> None:
    path = tmp_path / "old.png"
    PIL.Image.fromarray(old).save(path)
    net = tiny if codec == "jpeg" else refscale.load_model(codec="gmm", device="cpu")
    threads = torch.get_num_threads()

    def work(index: int) -> tuple[bytes, bytes]:
        picture, reference = new[: 20 + 3 * index, : 31 + 2 * index], [old, path][index % 2]
        if index == 3:
            picture, reference = of_kind(picture, "uint16", None), of_kind(old, "uint16", None)
        data = refscale.encode(picture, reference, quality=30 + 20 * index, tile=16, model=net)
        return data, refscale.decode(data, reference, tile=16, model=net).tobytes()

    expected = [work(index) for index in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == expected
    assert torch.get_num_threads() == threads


def test_importing_the_package_and_looking_into_a_file_are_cheap(data: bytes, old: Array, tmp_path: Path) -> None:
    (tmp_path / "scene.rsc").write_bytes(data)
    PIL.Image.fromarray(old).save(tmp_path / "old.png")
    program = """
import sys
import refscale_codec as refscale
assert {"encode", "decode", "open", "fingerprint", "load_model", "Image", "Reader"} <= set(dir(refscale))
assert not {"numpy", "torch", "PIL", "cv2"} & set(sys.modules), "import"
scene = refscale.open("scene.rsc", reference="old.png")
assert scene.shape == (29, 37, 3) and refscale.fingerprint("old.png") in scene.references
try:
    refscale.encode("nowhere.png")
except refscale.RefscaleError as error:
    print(error)
try:
    refscale.nothing
except AttributeError as error:
    print(error)
assert "torch" not in sys.modules, "looking"
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "nowhere.png does not exist",
        "module 'refscale_codec' has no attribute 'nothing'",
    ]


def test_errors_and_metadata_are_public() -> None:
    names = "UsageError", "ImageError", "ContainerError", "WeightsError", "ReferenceMismatch", "TargetError"
    assert {"Metadata", "RefscaleError", *names} <= set(refscale.__all__)
    assert all(getattr(refscale, name) is getattr(errors, name) for name in names)


def test_every_public_name_is_there_and_says_what_it_is() -> None:
    for name in refscale.__all__:
        assert getattr(refscale, name).__doc__, name


def test_what_is_left_out_is_logged_not_printed(
    new: Array, tiny: RescaleNet, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.WARNING, "refscale_codec"):
        refscale.encode(of_kind(new, "uint16", None), value_range=(0, 30000), model=tiny)
    assert "clipped" in caplog.text
    assert capsys.readouterr() == ("", "")


def test_pages_are_keywords(tmp_path: Path, new: Array, old: Array, data: bytes, tiny: Model) -> None:
    path = tmp_path / "both.tif"
    PIL.Image.fromarray(new).save(path, save_all=True, append_images=[PIL.Image.fromarray(old)])
    assert refscale.encode(path, path, page=1, reference_page=2, model=tiny) == data
    assert refscale.fingerprint(path, page=2) == refscale.fingerprint(old)
    assert np.array_equal(
        refscale.decode(data, path, reference_page=2, model=tiny), refscale.decode(data, old, model=tiny)
    )
    with pytest.raises(errors.ImageError, match="holds 2 pictures"):
        refscale.encode(path, model=tiny)
    for options in ({"page": 1}, {"reference_page": 1}):
        with pytest.raises(errors.UsageError, match="would have no effect"):
            refscale.encode(new, model=tiny, **options)
