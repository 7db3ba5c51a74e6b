"""`reader`, written from the documents, decodes what refscale writes: FORMAT.md and NETWORK.md are enough.

It gets golden files in a process of its own, in which neither refscale nor the libraries that it codes with can be
imported. What golden pictures do not show (escapes, many vectors, other configs) it gets here, part by part.

All integers must be equal: coefficients, maps, latents, warped references, and the upscaler of integers. What comes out
of floating point may differ by a level, of 8 or of 16 bits, since sums in another order round otherwise.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from refscale_codec import model

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"
TABLES = TESTS.parent / "refscale_codec" / "lrcodec" / "dct" / "tables.npz"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.rsc"))
FORBIDDEN = ("refscale_codec", "constriction", "safetensors", "cv2")

RUN = f"""
import sys
from pathlib import Path
for name in {FORBIDDEN}:
    sys.modules[name] = None  # importing it raises
sys.path.insert(0, {str(TESTS)!r})
import numpy as np
import torch
from reader.decode import decode
from reader.dct import Tables
from reader.weights import Weights
torch.set_num_threads(1)
tables, folder = Tables(Path(sys.argv[1])), Path(sys.argv[2])
weights = {{path.stem: Weights(path) for path in map(Path, sys.argv[3:])}}
by_name = {{weight.fingerprint: weight for weight in weights.values()}}
for file in sorted(Path({str(GOLDEN)!r}).glob("*.rsc")):
    data, older = file.read_bytes(), folder / f"{{file.stem}}-reference.npy"
    picture, bands = decode(data, by_name[data[16:22]], tables, np.load(older) if older.exists() else None)
    alpha = {{}} if bands.alpha is None else {{"alpha": bands.alpha}}
    np.savez(folder / f"{{file.stem}}.npz", pixels=picture, **alpha)
"""


def golden() -> ModuleType:
    """Import the program that made the golden files: it has their references."""
    found = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """What the reader makes of all golden files."""
    folder, make = tmp_path_factory.mktemp("reader"), golden()
    for name in NAMES:
        reference = make.reference(name)
        if reference is not None:
            np.save(folder / f"{name}-reference.npy", reference.pixels)
    weights = sorted({str(model.shipped_as((GOLDEN / f"{name}.rsc").read_bytes()[16:22])) for name in NAMES})
    subprocess.run([sys.executable, "-c", RUN, str(TABLES), str(folder), *weights], check=True)
    found = {}
    for name in NAMES:
        with np.load(folder / f"{name}.npz") as file:
            found[name] = dict(file)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_reader_decodes_a_golden_file(name: str, decoded: dict[str, dict[str, np.ndarray]]) -> None:
    with np.load(GOLDEN / f"{name}.npz") as file:
        expected = file["pixels"]
    pixels = decoded[name]["pixels"]
    assert (pixels.dtype, pixels.shape) == (expected.dtype, expected.shape)
    away = abs(pixels.astype(int) - expected)
    assert away.max() <= 1
    assert (away > 0).mean() < 0.01


def test_the_reader_keeps_alpha_and_nodata(decoded: dict[str, dict[str, np.ndarray]]) -> None:
    make = golden()
    target = make.cut("target")
    assert (decoded["alpha"]["alpha"] == target[..., 0]).all()
    assert ((decoded["nodata"]["pixels"] == 0) == (target < 60)).all()
