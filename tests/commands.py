"""What the tests of the command line share: a folder with good and bad files of every kind, and how to read an outcome.

Typer's test runner is not used: it goes around `main`, where errors become one line and an exit code.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import Outcome

from refscale_codec import model
from refscale_codec.codec import encoder
from refscale_codec.fileformat import container
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.metadata import Metadata
from refscale_codec.rescale import similarity_map
from refscale_codec.rescale.net import RescaleConfig, RescaleNet

PRECIOUS = b"what was here before"


def drawn(seed: int, height: int = 20, width: int = 33) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 128 + 70 * np.sin(x[..., None] * rng.uniform(0.1, 0.6, 3) + y[..., None] * rng.uniform(0.1, 0.6, 3))
    return np.clip(waves + rng.normal(0, 5, waves.shape), 0, 255).astype(np.uint8)


def older(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels * 0.9 + 8, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(8)
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    model.store(RescaleNet(RescaleConfig(blocks=1, width=8, ref_width=8)), path)
    return path


@pytest.fixture(scope="session")
def furnished(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Model, tiny_weights: Path, other_weights: Path
) -> Path:
    """Return a folder with good and bad files of every kind; tests get a copy."""
    folder = tmp_path_factory.mktemp("furnished")
    for name, pixels in {
        "target.png": drawn(1),
        "ref.png": older(drawn(1)),
        "other.png": drawn(2),
        "small.png": drawn(3, 20, 32),
        "grey.png": drawn(1)[..., 0],
        "deep.png": drawn(1)[..., 0].astype(np.uint16) * 257,
        "alpha.png": np.dstack([drawn(1), np.full((20, 33), 99, np.uint8)]),
    }.items():
        PIL.Image.fromarray(pixels).save(folder / name)
    PIL.Image.fromarray(drawn(1)).convert("CMYK").save(folder / "cmyk.jpg")
    (folder / "grey.csv").write_text("split,dataset,name,target,reference,width,height\ntest,d,n,grey.png,,33,20\n")
    (folder / "recipe.toml").write_text('manifest = "pairs.csv"\n')
    (folder / "text.png").write_text("not a picture\n")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "target.png").read_bytes()[:-40])
    (folder / "folder.png").mkdir()
    shutil.copy(tiny_weights, folder / "tiny.safetensors")
    shutil.copy(other_weights, folder / "other.safetensors")
    (folder / "junk.safetensors").write_text("not weights\n")
    target, reference = Image(drawn(1)), Image(older(drawn(1)))
    options = encoder.EncodeOptions(quality=60)
    (folder / "with.rsc").write_bytes(encoder.encode(target, reference, tiny_model, options))
    content = container.unpack((folder / "with.rsc").read_bytes())
    rows, columns = (-(-2 * side // tiny_model.rescaler.cell) for side in (10, 17))
    levels = np.arange(rows * columns, dtype=np.uint8).reshape(rows, columns) % 4
    (folder / "mapped.rsc").write_bytes(
        container.pack(replace(content, similarity_map=similarity_map.encode(levels, 4)))
    )
    (folder / "alone.rsc").write_bytes(encoder.encode(target, None, tiny_model, options))
    shutil.copy(folder / "alone.rsc", folder / "grey.rsc")
    hashed = encoder.EncodeOptions(quality=60, output_hash=True)
    (folder / "hashed.rsc").write_bytes(encoder.encode(target, reference, tiny_model, hashed))
    return folder


@pytest.fixture
def place(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that the command line runs in: a fresh copy of `furnished`."""
    shutil.copytree(furnished, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refusal(outcome: Outcome, code: int, *words: str) -> None:
    lines = outcome.err.splitlines()
    assert outcome.code == code, outcome.err
    assert outcome.out == b""
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


TINY = ("--weights", "tiny.safetensors")
REF = ("--ref", "ref.png")


@pytest.fixture
def saying(place: Path) -> Metadata:
    """Write `saying.jpg`, a picture with metadata of every kind, and return that."""
    exif = PIL.Image.Exif()
    exif[274] = 6  # orientation
    exif.get_ifd(34853)[1] = "N"  # position
    said = Metadata(icc=b"any profile" * 20, exif=exif.tobytes()[6:] + b"preview", xmp=b"<x:xmpmeta/>")
    options = {"icc_profile": said.icc, "exif": b"Exif\0\0" + said.exif, "xmp": said.xmp}
    PIL.Image.fromarray(drawn(1)).save(place / "saying.jpg", **options)
    return said
