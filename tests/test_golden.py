"""Golden files: what was written once decodes to the same pixels, up to a level of floating point."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from refscale_codec import model
from refscale_codec.codec import decoder
from refscale_codec.fileformat import container

GOLDEN = Path(__file__).parent / "golden"


def made() -> object:
    """Import the program that made them."""
    found = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


make = made()
NAMES: list[str] = sorted(make.NAMES)  # type: ignore[attr-defined]


def test_there_is_one_of_each() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.rsc")) == NAMES
    assert sorted(path.stem for path in GOLDEN.glob("*.npz")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_file_decodes_to_its_pixels(name: str) -> None:
    data = (GOLDEN / f"{name}.rsc").read_bytes()
    file = container.unpack(data)
    assert container.pack(file) == data
    net = model.load(model.shipped_as(file.header.weights))
    picture = decoder.decode(data, make.reference(name), net)  # type: ignore[attr-defined]
    with np.load(GOLDEN / f"{name}.npz") as expected:
        pixels = expected["pixels"]
    assert picture.pixels.dtype == pixels.dtype
    level = 1 if pixels.dtype == np.uint8 else 13  # a 255th of the range that is coded
    away = abs(picture.pixels.astype(int) - pixels)
    assert away.max() <= level
    assert away.mean() < 0.01 * level


def test_golden_files_show_each_section() -> None:
    files = {name: container.unpack((GOLDEN / f"{name}.rsc").read_bytes()) for name in NAMES}
    assert files["alone"].header.reference is None
    assert files["warped"].alignment is not None
    assert files["six-bands"].extra_bands is not None
    assert files["sixteen-bits"].bands is not None
    assert files["learned"].header.codec != files["warped"].header.codec
