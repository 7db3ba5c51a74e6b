"""Pillow opens `.rsc` files: modes, metadata, references by an index, and errors that are its own."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import refscale_codec as refscale
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.metadata import Metadata
from refscale_codec.plugins import pillow_plugin


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch, tiny_model: Model) -> Iterator[None]:
    """Register the plugin for a test; files of the tests' weights decode."""
    decode = refscale.decode
    PIL.Image.init()  # what Pillow registers later would be lost with the copies
    monkeypatch.delenv("REFSCALE_REFS", raising=False)
    monkeypatch.setattr(refscale, "decode", lambda data, *reference: decode(data, *reference, model=tiny_model))
    for registry in (PIL.Image.OPEN, PIL.Image.EXTENSION):
        monkeypatch.setattr(PIL.Image, "OPEN" if registry is PIL.Image.OPEN else "EXTENSION", dict(registry))
    monkeypatch.setattr(PIL.Image, "ID", [*PIL.Image.ID])
    pillow_plugin.register()
    yield
    pillow_plugin._index.clear()


def drawn(kind: str, bands: int) -> np.ndarray:
    y, x = np.mgrid[:24, :40]
    waves = np.dstack([np.sin(x / (5 + band)) * np.cos(y / 6) for band in range(bands)])
    return (120 + 99 * waves).astype(kind)


@pytest.mark.parametrize(
    ("mode", "kind", "bands", "alpha"),
    [
        ("L", "uint8", 1, False),
        ("LA", "uint8", 1, True),
        ("RGB", "uint8", 3, False),
        ("RGBA", "uint8", 3, True),
        ("I;16", "uint16", 1, False),
        ("I", "int32", 1, False),
        ("F", "float32", 1, False),
    ],
)
def test_a_file_opens_in_its_mode(tiny_model: Model, mode: str, kind: str, bands: int, alpha: bool) -> None:
    opaque = np.full((24, 40), 99, kind) if alpha else None
    data = refscale.encode(Image(drawn(kind, bands), Metadata(xmp=b"<x/>"), alpha=opaque), model=tiny_model)
    with PIL.Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.mode, picture.size) == ("RSC", mode, (40, 24))
        assert picture.info == {"xmp": b"<x/>"}
        assert np.array_equal(np.asarray(picture), refscale.decode(data))
        assert np.array_equal(np.asarray(picture.crop((3, 2, 20, 9))), refscale.decode(data)[2:9, 3:20])


@pytest.fixture
def pair_of_files(tmp_path: Path, pair: tuple[Image, Image], tiny_model: Model) -> tuple[Path, np.ndarray]:
    """A file, and its pixels; its reference is in an index."""
    new, old = pair[0].pixels, pair[1].pixels
    PIL.Image.fromarray(old).save(tmp_path / "old.png")
    data = refscale.encode(new, old, model=tiny_model)
    (tmp_path / "new.rsc").write_bytes(data)
    with refscale.References(tmp_path / "refs.sqlite", create=True) as index:
        index.add(tmp_path / "old.png")
    assert refscale.open(data).references
    return tmp_path / "new.rsc", refscale.decode(data, old)


@pytest.mark.parametrize("by_environment", [False, True])
def test_an_index_finds_the_reference(
    pair_of_files: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    file, pixels = pair_of_files
    index = file.parent / "refs.sqlite"
    if by_environment:
        monkeypatch.setenv("REFSCALE_REFS", str(index))
    else:
        pillow_plugin.register(index)
    with PIL.Image.open(file) as picture:
        assert np.array_equal(np.asarray(picture), pixels)
    with PIL.Image.open(file) as picture:
        assert picture.copy().resize((5, 4)).size == (5, 4)


def test_errors_are_those_that_programs_expect(
    pair_of_files: tuple[Path, np.ndarray], tmp_path: Path, tiny_model: Model
) -> None:
    file, _ = pair_of_files
    with PIL.Image.open(file) as picture:
        assert picture.size == (37, 29)  # the header needs no reference
        with pytest.raises(OSError, match="needs its reference .*REFSCALE_REFS"):
            picture.load()
    (tmp_path / "old.png").unlink()
    pillow_plugin.register(tmp_path / "refs.sqlite")
    with PIL.Image.open(file) as picture, pytest.raises(OSError, match="missing"):
        picture.load()
    pillow_plugin.register(tmp_path / "none.sqlite")
    with PIL.Image.open(file) as picture, pytest.raises(OSError):
        picture.load()
    with pytest.raises(OSError, match="truncated"):
        PIL.Image.open(io.BytesIO(file.read_bytes()[:-9]))
    with pytest.raises(OSError, match="no mode for 4 bands of uint16"):
        PIL.Image.open(io.BytesIO(refscale.encode(drawn("uint16", 4), model=tiny_model)))


def test_refscale_itself_still_refuses_a_coded_file_as_a_picture(pair_of_files: tuple[Path, np.ndarray]) -> None:
    with pytest.raises(refscale.ImageError):
        refscale.encode(pair_of_files[0])
