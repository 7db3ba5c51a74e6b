"""Golden files: what was written once decodes to the same pixels, up to a level of floating point."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from refscale_codec import model
from refscale_codec.codec import decoder
from refscale_codec.fileformat import container
from refscale_codec.fileformat.sections import TABLE

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


def test_golden_files_show_each_section_and_codec() -> None:
    files = [container.unpack((GOLDEN / f"{name}.rsc").read_bytes()) for name in NAMES]
    files += [container.unpack(file.extra_bands) for file in files if file.extra_bands is not None]
    shown = {section.name for file in files for section, _ in file.sections()}
    assert shown == {section.name for section in TABLE.values()}
    assert {(file.header.codec, file.header.scale, file.header.reference is None) for file in files} >= {
        (1, 2, True),
        (1, 2, False),
        (1, 4, False),
        (2, 2, True),
        (2, 2, False),
    }
    assert any(file.similarity_map == b"" for file in files)
    assert any(file.similarity_map for file in files)
