"""What all tests share: a tiny net, a pair of pictures, the real pairs, and the rules for GPU tests."""

import importlib.util
import io
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from refscale_codec import model
from refscale_codec.cli import main
from refscale_codec.codec import reference_choice
from refscale_codec.lrcodec.gmm.net import Gmm, GmmConfig
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.reference import warp
from refscale_codec.reference.source import Predicted, ReferenceSource, Unused
from refscale_codec.rescale.net import RescaleConfig, RescaleNet

ROOT = Path(__file__).parents[1]
TINY = RescaleConfig(scale=2, blocks=2, width=8, ref_width=8)
SMALL = GmmConfig(channels=16, width=8, reference_channels=4)

GOLDEN = ROOT / "tests" / "golden"

pytest_plugins = ["commands"]  # the fixtures of the command line

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def golden() -> ModuleType:
    """Return the program that made the golden files: it has their targets, references and weights."""
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sine_filled(module: AnyModule) -> AnyModule:
    """Overwrite all parameters with sines of fixed phases, so that a test depends on no weights file and no seed.

    Convolutions get an amplitude that keeps activations of order one, vectors a small one, square matrices stay near
    the identity. All values are exact in half precision. No coupling is trivial, as it is in a fresh net.
    """
    with torch.no_grad():
        for index, (name, parameter) in enumerate(module.named_parameters()):
            if name.endswith("ramp"):  # of the similarity map; its start is a fixed one
                continue
            count = torch.arange(parameter.numel(), dtype=torch.float64)
            values = torch.sin(0.01 * count**2 + count + index).reshape(parameter.shape)
            if parameter.dim() == 4 and parameter.shape[0] > 1:  # a convolution; [1, c, 1, 1] is ActNorm
                values = 1.5 * values / math.sqrt(parameter[0].numel())
            else:
                values = 0.1 * values
            if ".output." in f".{name}":  # the last convolution of a coupling's sub-net
                values = 0.1 * values
            if parameter.dim() == 2:
                values = values + torch.eye(len(values), dtype=torch.float64)
            parameter.copy_(values.half())
        for buffer in module.buffers():  # ActNorm's mark of being initialised
            buffer.fill_(1)
    return module


def stored_model(config: RescaleConfig, path: Path) -> Model:
    """Return a sine-filled net as it comes out of a weights file."""
    model.store(sine_filled(RescaleNet(config)), path)
    return model.load(path)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `cuda` where there is no device, or fail them when REFSCALE_REQUIRE_CUDA=1 promises one."""
    if item.get_closest_marker("cuda") is None or torch.cuda.is_available():
        return
    if os.environ.get("REFSCALE_REQUIRE_CUDA") == "1":
        pytest.fail("REFSCALE_REQUIRE_CUDA=1, but torch finds no CUDA device", pytrace=False)
    pytest.skip("no CUDA device")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Nets this small are slower on several threads, and other work may share the machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep nothing in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def restored_rng() -> Iterator[None]:
    """Leave the global random generators as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the weights file of a tiny x2 net."""
    path = tmp_path_factory.mktemp("weights") / "tiny-x2.safetensors"
    stored_model(TINY, path)
    return path


@pytest.fixture(scope="session")
def tiny_model(tiny_weights: Path) -> Model:
    """The model in `tiny_weights`; shared, so a test must not change it."""
    return model.load(tiny_weights)


@pytest.fixture(scope="session")
def learned_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the weights of a tiny net with a small learned codec, a little trained so that latents are not zero."""
    torch.manual_seed(1)
    net = sine_filled(RescaleNet(TINY))
    small = Gmm(SMALL)
    optimizer = torch.optim.Adam(small.parameters(), lr=5e-3)
    for _ in range(60):
        lr = 0.5 + 0.2 * torch.randn(4, 3, 16, 16)
        coded = small(lr, torch.zeros_like(lr), torch.ones(4))
        loss = coded.bits.mean() / 1024 + 300 * (coded.lr_hat - lr).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("gmm") / "tiny-gmm.safetensors"
    model.store(net, path, small)
    return path


@pytest.fixture(scope="session")
def tiny_models(tiny_model: Model, learned_weights: Path) -> dict[str, Model]:
    """A tiny model by its low-res codec; shared, so a test must not change them."""
    return {"jpeg": tiny_model, "gmm": model.load(learned_weights)}


@pytest.fixture(scope="session")
def pair() -> tuple[Image, Image]:
    """A picture of odd size, 37 wide and 29 high, and an older one of the same place; read-only."""
    y, x = np.mgrid[0:29, 0:37]
    rng = np.random.default_rng(2020)
    place = 120 + 50 * np.sin(x / 5)[..., None] * np.cos(y / 4 + np.arange(3)[:, None, None]).transpose(1, 2, 0)
    place = place + 40 * ((x // 6 + y // 7) % 2)[..., None]
    pictures = []
    for gain, noise in ((1.0, 6), (0.8, 8)):  # the older one is darker
        pixels = (gain * place + rng.normal(0, noise, place.shape)).clip(0, 255).astype(np.uint8)
        if not pictures:
            pixels[18:24, 20:30] = (200, 40, 30)  # what is new in it
        pixels.setflags(write=False)
        pictures.append(Image(pixels))
    return pictures[0], pictures[1]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of the real pairs and their manifest: $REFSCALE_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("REFSCALE_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "manifest.csv").is_file():
        pytest.skip(f"no manifest.csv in {folder}; set REFSCALE_DATA to the folder of the real pairs")
    return folder


def always_predicted(
    group: Image, older: Sequence[Image], alignments: Sequence[warp.Alignment | None], first: Image | None, *_: object
) -> ReferenceSource:
    """Choose the prediction for every further band group, whatever it costs, and no reference for the first one."""
    found = [candidate.source for candidate in reference_choice.candidates(group, older, alignments, first)]
    return next((source for source in found if isinstance(source, Predicted)), Unused())


@dataclass(frozen=True)
class Outcome:
    """What a run of the command line left on its standard streams."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()


@pytest.fixture
def refscale(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Outcome]:
    """Run the command line in this process; an exception that `main` lets through is a traceback and fails the test."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def run(*arguments: object, stdin: bytes | None = None) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["refscale", *map(str, arguments)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        capsysbinary.readouterr()
        with pytest.raises(SystemExit) as caught:
            main.main()
        captured = capsysbinary.readouterr()
        return Outcome(int(caught.value.code or 0), captured.out, captured.err.decode())

    return run


def without_torch(*arguments: object) -> Outcome:
    """Run the command line in a process of its own, in which importing torch fails."""
    program = "import sys; sys.modules['torch'] = None; from refscale_codec.__main__ import main; main()"
    line = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr.decode())
