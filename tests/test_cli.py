"""The user's view: what the command line writes, says and returns, through `cli.main()`.

Typer's test runner is not used: it goes around `main`, where errors become one line and an exit code.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import typer
from conftest import ROOT, Outcome

import refscale_codec
from refscale_codec import model
from refscale_codec.cli import main, terminal
from refscale_codec.codec import decoder, encoder, payloads, rate_control
from refscale_codec.errors import RefscaleError
from refscale_codec.fileformat import container
from refscale_codec.model import Model
from refscale_codec.picture import image as pictures
from refscale_codec.picture import tiles
from refscale_codec.picture.image import Image
from refscale_codec.picture.metadata import Metadata
from refscale_codec.rescale import similarity_map
from refscale_codec.rescale.net import RescaleConfig, RescaleNet
from refscale_codec.study import metrics
from refscale_codec.training import loop as training

PRECIOUS = b"what was here before"
COMMANDS = ["encode", "decode", "info", "fingerprint", "verify", "diff", "extract-lr", "train", "eval", "rd-curve"]


def drawn(seed: int, height: int = 20, width: int = 33) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 128 + 70 * np.sin(x[..., None] * rng.uniform(0.1, 0.6, 3) + y[..., None] * rng.uniform(0.1, 0.6, 3))
    return np.clip(waves + rng.normal(0, 5, waves.shape), 0, 255).astype(np.uint8)


def older(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels * 0.9 + 8, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(8)
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    model.store(RescaleNet(RescaleConfig(blocks=1, width=8, ref_width=8)), path)
    return path


@pytest.fixture(scope="module")
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


# --- refusals --------------------------------------------------------------------------------------------------------

TINY = ("--weights", "tiny.safetensors")
REF = ("--ref", "ref.png")
NEEDS_REFERENCE = ("needs its reference", "with.rsc")
REFUSALS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    # references
    "wrong reference": ("decode with.rsc --ref other.png -o out.png -w", 6, ("with.rsc", "made with the reference")),
    "wrong reference, verify": ("verify with.rsc --ref other.png -w", 6, ("with.rsc", "made with the reference")),
    "missing reference": ("decode with.rsc -o out.png -w", 6, NEEDS_REFERENCE),
    "reference of another size, decode": ("decode with.rsc --ref small.png -o out.png -w", 6, ("with.rsc",)),
    # weights
    "wrong weights": ("decode with.rsc --ref ref.png -o out.png --weights other.safetensors", 5, ("with.rsc",)),
    "wrong weights, verify": ("verify alone.rsc --weights other.safetensors", 5, ("alone.rsc", "weights")),
    "weights not shipped": ("decode with.rsc --ref ref.png -o out.png", 5, ("fingerprint", "--weights")),
    "missing weights": ("decode with.rsc --ref ref.png -o out.png --weights no.safetensors", 5, ("no.safetensors",)),
    "missing weights, encode": ("encode target.png -o out.rsc --weights no.safetensors", 5, ("no.safetensors",)),
    "damaged weights": ("encode target.png -o out.rsc --weights junk.safetensors", 5, ("junk.safetensors",)),
    "weights are a picture": ("encode target.png -o out.rsc --weights target.png", 5, ("target.png",)),
    "weights are a folder": ("encode target.png -o out.rsc --weights folder.png", 5, ("folder.png",)),
    # files that are no .rsc
    "not an rsc": ("decode target.png -o out.png -w", 4, ("target.png: not a .rsc file",)),
    "not an rsc, info": ("info target.png", 4, ("target.png: not a .rsc file",)),
    "not an rsc, verify": ("verify target.png -w", 4, ("target.png: not a .rsc file",)),
    "not an rsc, extract-lr": ("extract-lr target.png -o out.jpg", 4, ("target.png: not a .rsc file",)),
    "empty rsc": ("info empty.png", 4, ("empty.png: truncated",)),
    "missing rsc": ("decode no.rsc -o out.png -w", 4, ("no.rsc",)),
    "missing rsc, info": ("info no.rsc", 4, ("no.rsc",)),
    "missing rsc, verify": ("verify no.rsc", 4, ("no.rsc",)),
    "missing rsc, extract-lr": ("extract-lr no.rsc -o out.jpg", 4, ("no.rsc",)),
    "rsc is a folder": ("info folder.png", 4, ("folder.png",)),
    # pictures
    "missing picture": ("encode no.png -o out.rsc -w", 3, ("no.png",)),
    "missing reference file": ("encode target.png --ref no.png -o out.rsc -w", 3, ("no.png",)),
    "missing reference file, decode": ("decode with.rsc --ref no.png -o out.png -w", 3, ("no.png",)),
    "picture is text": ("encode text.png -o out.rsc -w", 3, ("text.png",)),
    "picture is empty": ("encode empty.png -o out.rsc -w", 3, ("empty.png",)),
    "picture is truncated": ("encode cut.png -o out.rsc -w", 3, ("cut.png",)),
    "picture is a folder": ("encode folder.png -o out.rsc -w", 3, ("folder.png",)),
    "picture is an rsc": ("encode with.rsc -o out.rsc -w", 3, ("with.rsc",)),
    "CMYK picture": ("encode cmyk.jpg -o out.rsc -w", 3, ("cmyk.jpg", "CMYK")),
    "16-bit reference": ("encode target.png --ref deep.png -o out.rsc -w", 3, ("reference", "16-bit")),
    "range of no band": ("encode target.png -o out.rsc --range 4:0,9 -w", 2, ("range", "band 4", "has 3")),
    "range of one number": ("encode target.png -o out.rsc --range 9 -w", 2, ("--range", "low,high")),
    "range given twice": (
        "encode target.png -o out.rsc --range 1:0,9 --range 1:2,9 -w",
        2,
        ("--range", "twice", "band 1"),
    ),
    "ranges given twice": ("encode target.png -o out.rsc --range 0,9 --range 2,9 -w", 2, ("twice", "all bands")),
    "grey picture in eval": ("eval grey.csv -w", 3, ("grey.png", "8-bit RGB is needed")),
    # output
    "no folder for the output": ("encode target.png -o no/out.rsc -w", 3, ("no/out.rsc",)),
    "no folder, told before any work": ("encode no.png -o no/out.rsc -w", 3, ("cannot write no/out.rsc: there is no",)),
    "no folder for the picture": ("decode with.rsc --ref ref.png -o no/out.png -w", 3, ("no/out.png",)),
    "no folder for the low-res picture": ("extract-lr with.rsc -o no/out.jpg", 3, ("no/out.jpg",)),
    "output is a folder": ("encode target.png -o folder.png -w", 3, ("folder.png",)),
    "picture would be a folder": ("decode with.rsc --ref ref.png -o folder.png -w", 3, ("folder.png",)),
    "lossy output": ("decode with.rsc --ref ref.png -o out.jpg -w", 3, ("out.jpg", ".png")),
    "unknown suffix": ("decode with.rsc --ref ref.png -o out.xyz -w", 3, ("out.xyz", ".png")),
    "unknown format": ("decode with.rsc --ref ref.png -o out.png --format bmp -w", 3, ("bmp", "png")),
    "low-res under another name": ("extract-lr with.rsc -o out.png", 2, ("out.png", ".jpg")),
    "file under the name of a picture": ("encode target.png -o out.png -w", 2, ("out.png", ".rsc")),
    "output exists by default": ("encode grey.png -w", 2, ("grey.rsc exists", "-f")),
    "output exists by default, decode": ("decode grey.rsc -w", 2, ("grey.png exists", "-f")),
    "output is the picture": ("encode target.png -o target.png -w", 2, ("target.png", "input")),
    "output is the reference": ("encode target.png --ref ref.png -o ./ref.png -w", 2, ("ref.png", "input")),
    "output is the file": ("decode with.rsc --ref ref.png -o with.rsc -w", 2, ("with.rsc", "input")),
    "picture is the reference": ("decode with.rsc --ref ref.png -o ref.png -w", 2, ("ref.png", "input")),
    "low-res is the file": ("extract-lr with.rsc -o with.rsc", 2, ("with.rsc", "input")),
    # options
    "quality of nothing": ("encode target.png -o out.rsc --quality 0 -w", 2, ("--quality", "1..100", "not 0")),
    "quality beyond the highest": ("encode target.png -o out.rsc --quality 101 -w", 2, ("--quality", "101")),
    "no thread": ("encode target.png -o out.rsc --threads 0 -w", 2, ("--threads", "at least 1")),
    "too many threads": ("encode target.png -o out.rsc --threads 99999999999 -w", 2, ("--threads", "smaller")),
    "no thread, decode": ("decode alone.rsc -o out.png --threads -1 -w", 2, ("--threads", "at least 1")),
    "two things for stdout, decode": ("decode alone.rsc -o - --json -w", 2, ("--json", "stdout")),
    "two things for stdout, extract-lr": ("extract-lr alone.rsc -o - --json", 2, ("--json", "stdout")),
    "another reference, diff": ("diff with.rsc --ref other.png -o out.png -w", 6, ("with.rsc", "made with")),
    "not a picture, diff": ("diff text.png --ref ref.png -o out.png -w", 3, ("text.png",)),
    "lossy map": ("diff target.png --ref ref.png -o out.jpg -w", 3, ("out.jpg", ".png")),
    "two things from stdin, diff": ("diff - --ref - -o out.png -w", 2, ("stdin",)),
    "two things for stdout, diff": ("diff target.png --ref ref.png -o - --json -w", 2, ("--json", "stdout")),
    "two aims": ("encode target.png -o out.rsc --quality 3 --target-psnr 30 -w", 2, ("--quality", "--target-psnr")),
    "no size": ("encode target.png -o out.rsc --target-bpp 0 -w", 2, ("--target-bpp", "positive")),
    "no number": ("encode target.png -o out.rsc --target-psnr nan -w", 2, ("--target-psnr", "positive")),
    "size without end": ("encode target.png -o out.rsc --target-bpp 1e308 -w", 2, ("target", "at most")),
    "codec at another scale": ("encode target.png -o out.rsc --scale 4 --codec gmm", 2, ("gmm ships at scale 2 only",)),
    "size out of reach": ("encode target.png -o out.rsc --target-bytes 9 -w", 7, ("9 bytes", "quality 1 gives")),
    "quality out of reach": ("encode target.png -o out.rsc --target-psnr 80 -w", 7, ("80.00 dB", "quality 100")),
    "unknown codec": ("encode target.png -o out.rsc --codec webp -w", 2, ("webp", "jpeg")),
    "unknown scale": ("encode target.png -o out.rsc --scale 3", 2, ("--scale", "2 or 4")),
    "unknown device": ("encode target.png -o out.rsc --device gpu -w", 2, ("--device", "cuda")),
    "scale beside weights": ("encode target.png -o out.rsc --scale 2 -w", 2, ("--scale", "no effect")),
    "scale beside weights, eval": ("eval pairs.csv --scale 2 -w", 2, ("--scale", "no effect")),
    "tile beside memory": ("encode target.png -o out.rsc --tile 64 --max-memory 2G -w", 2, ("--tile", "no effect")),
    "tile of another size": ("decode with.rsc --ref ref.png -o out.png --tile 100 -w", 2, ("multiple of 16", "100")),
    "too little memory": ("encode target.png -o out.rsc --max-memory 100M -w", 2, ("33x20", "at least")),
    "more memory than a number holds": (
        f"encode target.png -o out.rsc --max-memory {'9' * 400}G -w",
        2,
        ("--max-memory", "too large"),
    ),
    "memory without a unit": ("decode alone.rsc -o out.png --max-memory 2 -w", 2, ("--max-memory", "1.5G", "'2'")),
    "window of three numbers": ("decode alone.rsc -o out.png --window 1,2,3 -w", 2, ("--window", "x,y,w,h", "'1,2,3'")),
    "window of nothing": ("decode alone.rsc -o out.png --window 1,2,3,0 -w", 2, ("--window", "x,y,w,h")),
    "window beyond the picture": (
        "decode alone.rsc -o out.png --window 9,9,25,5 -w",
        2,
        ("error: the window of 25x5 pixels at 9,9", "33x20"),
    ),
    "two things for stdout": ("encode target.png -o - --json -w", 2, ("--json", "stdout")),
    "two things from stdin": ("encode - --ref - -o out.rsc -w", 2, ("stdin",)),
    "two things from stdin, decode": ("decode - --ref - -o out.png -w", 2, ("stdin",)),
    "two things from stdin, verify": ("verify - --ref - -w", 2, ("stdin",)),
    "unknown mode": ("eval pairs.csv --modes alone,none -w", 2, ("none", "unrelated")),
    "unknown quality": ("eval pairs.csv --qualities 50,101 -w", 2, ("--qualities", "50,101")),
    "missing manifest": ("eval pairs.csv -w", 2, ("pairs.csv",)),
    "missing manifest, rd-curve": ("rd-curve pairs.csv -o run -w", 2, ("pairs.csv",)),
    "unknown coder": ("rd-curve target.png ref.png -o run --coders jpeg,jpg -w", 2, ("jpg", "jpeg2000")),
    "not an image, rd-curve": ("rd-curve target.png text.png -o run -w", 3, ("text.png",)),
    "no reference, rd-curve": ("rd-curve target.png -o run --coders refscale-tiny -w", 2, ("need a reference",)),
    "folder is a file": ("rd-curve target.png ref.png -o text.png --coders jpeg -w", 2, ("text.png", "folder")),
    "missing recipe": ("train no.toml -o run", 2, ("no.toml",)),
}


@pytest.mark.parametrize(("line", "code", "words"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_one_line_and_leaves_all_files_alone(
    refscale: Callable[..., Outcome], place: Path, line: str, code: int, words: tuple[str, ...]
) -> None:
    arguments = [*line.removesuffix(" -w").split(), *(TINY if line.endswith(" -w") else ())]
    for existing in (False, True):
        output = arguments[arguments.index("-o") + 1] if "-o" in arguments else "-"
        if existing and output.startswith("out."):
            (place / output).write_bytes(PRECIOUS)
        before = contents(place)
        assert_refusal(refscale(*arguments), code, *words)
        assert contents(place) == before


@pytest.mark.parametrize(
    ("line", "empty"),
    [
        (["encode", "target.png", "-o", ""], "--output"),
        (["encode", "target.png", "--ref", ""], "--ref"),
        (["encode", ""], "PICTURE"),
        (["decode", "with.rsc", "--weights="], "--weights"),
        (["info", ""], "FILE.rsc"),
        (["eval", "pairs.csv", "--split", ""], "--split"),
        (["rd-curve", "target.png", "", "-o", "report"], "[REFERENCES]"),
        (["rd-curve", "target.png", "ref.png", "-o", ""], "--output"),
    ],
    ids=" ".join,
)
def test_an_empty_argument_is_said_so(
    refscale: Callable[..., Outcome], place: Path, line: list[str], empty: str
) -> None:
    before = contents(place)
    assert_refusal(refscale(*line), 2, f"{empty} is empty")
    assert contents(place) == before


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("encode text.png", "ImageError"),
        ("encode target.png --ref no.png", "ImageError"),
        ("decode with.rsc --ref no.png", "ImageError"),
        ("decode alone.rsc --window 9,9,25,5", "UsageError"),
    ],
)
def test_what_cannot_be_opened_is_refused_before_torch_is_loaded(place: Path, line: str, error: str) -> None:
    program = "import sys; from refscale_codec.cli.main import app; sys.argv += sys.argv.pop().split(' ')\n"
    program += "try: app()\nexcept BaseException as error: print(type(error).__name__, 'torch' in sys.modules)"
    command = [sys.executable, "-c", program, line]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True)
    assert done.stdout == f"{error} False\n"


def test_a_folder_that_takes_no_files_is_told_before_any_work(
    refscale: Callable[..., Outcome], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # permissions do not bind a superuser
    before = contents(place)
    assert_refusal(refscale("encode", "no.png", "-o", "out.rsc", *TINY), 3, "out.rsc", "no permission")
    assert contents(place) == before
    assert refscale("encode", "target.png", "-o", os.devnull, *TINY).code == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("line", ["info with.rsc", "info with.rsc --json", "extract-lr with.rsc -o -", "--version"])
def test_a_full_disk_behind_stdout_is_said_so(place: Path, line: str) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "refscale_codec", *line.split()]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == "error: cannot write to stdout: No space left on device\n"


def test_what_becomes_of_alpha_is_said_before_anything_is_written(
    refscale: Callable[..., Outcome], place: Path
) -> None:
    alpha = np.full((20, 33), 99, np.uint8)
    alpha[:2, :10] = 0
    PIL.Image.fromarray(np.dstack([np.zeros((20, 33, 3), np.uint8), alpha])).save(place / "hidden.png")
    outcome = refscale("encode", "hidden.png", *TINY)
    said = "hidden.png: alpha is stored losslessly; the colours of 20 fully transparent pixels are not kept"
    assert outcome.err.splitlines()[0] == said
    assert refscale("encode", "alpha.png", *TINY).err.startswith("alpha.png: alpha is stored losslessly\n")


HOSTILE = {
    "a TIFF of five bands in planes, cut": ("planes.tif", "damaged or truncated: "),
    "an animated WebP": ("frames.webp", "2 pictures"),
    "an animated GIF": ("frames.gif", "a GIF file"),
    "an AVIF": ("heaven.png", "an AVIF file"),
    "a link to itself": ("circle.png", "cannot read circle.png: "),
    "complex samples": ("complex.tif", "complex"),
}


@pytest.mark.parametrize(("name", "said"), HOSTILE.values(), ids=HOSTILE)
def test_what_cannot_be_read_is_one_line_for_every_command(
    refscale: Callable[..., Outcome], place: Path, name: str, said: str
) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
    (place / "heaven.png").write_bytes(b"\0\0\0\x1cftypavif" + bytes(50))
    (place / "circle.png").symlink_to("circle.png")
    frames = [PIL.Image.fromarray(drawn(seed)) for seed in (1, 2)]
    for suffix in ("webp", "gif"):
        frames[0].save(place / f"frames.{suffix}", save_all=True, append_images=frames[1:])
    usual = {"driver": "GTiff", "height": 20, "width": 33, "transform": rasterio.Affine(1, 0, 9, 0, -1, 9)}
    with rasterio.open(place / "planes.tif", "w", count=5, dtype="uint16", interleave="band", **usual) as file:
        file.write(np.ones((5, 20, 33), np.uint16))
    with rasterio.open(place / "complex.tif", "w", count=1, dtype="complex64", **usual) as file:
        file.write(np.ones((1, 20, 33), np.complex64))
    os.truncate(place / "planes.tif", (place / "planes.tif").stat().st_size // 2)
    before = contents(place)
    for line in (f"encode {name}", f"encode target.png --ref {name}", f"decode with.rsc --ref {name}"):
        outcome = refscale(*line.split(), *TINY)
        assert_refusal(outcome, 3, name, said)
        assert "previous exception" not in outcome.err
        assert contents(place) == before


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("encode target.png -o out.rsc --quality high", "--quality"),
        ("encode target.png -o out.rsc --speed 3", "--speed"),
        ("diff target.png", "--ref"),
        ("encode -o out.rsc", "PICTURE"),
        ("info with.rsc alone.rsc", "alone.rsc"),
        ("explode with.rsc", "explode"),
    ],
)
def test_a_mistyped_command_gets_usage_on_stderr(
    refscale: Callable[..., Outcome], place: Path, line: str, word: str
) -> None:
    before = contents(place)
    outcome = refscale(*line.split())
    assert outcome.code == 2
    assert outcome.out == b""
    assert outcome.err.startswith("Usage: ")
    assert word in outcome.err
    assert contents(place) == before


def positions(data: bytes) -> dict[str, int]:
    """Return where the parts of a file with a map are; its length takes one byte, that of the LR section two."""
    lr_at = 38 + data[33]
    assert (data[32], data[lr_at]) == (1, 2)
    assert data[33] < 128 <= data[lr_at + 1]
    return {
        "magic": 1,
        "flags": 5,
        "width": 7,
        "weights fingerprint": 18,
        "reference fingerprint": 25,
        "header's CRC": 30,
        "map's type": 32,
        "map's length": 33,
        "map's CRC": 35,
        "map's start": 38,
        "LR's type": lr_at,
        "LR's length": lr_at + 1,
        "LR's length, last byte": lr_at + 2,
        "LR's CRC": lr_at + 5,
        "LR's start": lr_at + 7,
        "LR's middle": (lr_at + len(data)) // 2,
        "last byte": len(data) - 1,
    }


READERS = [
    ("info", "{}"),
    ("info", "{}", "--json"),
    ("verify", "{}", *REF, *TINY),
    ("decode", "{}", *REF, "-o", "out.png", *TINY),
    ("extract-lr", "{}", "-o", "out.jpg"),
]


@pytest.mark.parametrize("reader", READERS, ids=" ".join)
def test_a_damaged_file_is_refused_by_every_reader(
    refscale: Callable[..., Outcome], place: Path, reader: tuple[str, ...]
) -> None:
    assert refscale(*(word.format("mapped.rsc") for word in reader)).code == 0
    data = (place / "mapped.rsc").read_bytes()
    for part, at in positions(data).items():
        (place / "bad.rsc").write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        before = contents(place)
        assert_refusal(refscale(*(word.format("bad.rsc") for word in reader)), 4, "bad.rsc")
        assert contents(place) == before, part


@pytest.mark.parametrize("name", ["d", "damaged", "damaged: the header"])
def test_a_file_whose_name_begins_the_message_is_named_all_the_same(
    refscale: Callable[..., Outcome], place: Path, name: str
) -> None:
    data = (place / "mapped.rsc").read_bytes()
    (place / name).write_bytes(data[:9] + bytes([data[9] ^ 0x10]) + data[10:])
    assert refscale("info", name).err.startswith(f"error: {name}: damaged: the header, bytes 0 to ")


@pytest.mark.parametrize("reader", READERS, ids=" ".join)
def test_a_truncated_or_longer_file_is_refused_by_every_reader(
    refscale: Callable[..., Outcome], place: Path, reader: tuple[str, ...]
) -> None:
    data = (place / "mapped.rsc").read_bytes()
    lr_at = positions(data)["LR's type"]
    cuts = (0, 3, 31, 32, 33, 35, 38, lr_at, lr_at + 1, lr_at + 2, lr_at + 5, len(data) - 100, len(data) - 1)
    for cut in (*(data[:size] for size in cuts), data + b"\0"):
        (place / "bad.rsc").write_bytes(cut)
        assert_refusal(refscale(*(word.format("bad.rsc") for word in reader)), 4, "bad.rsc", "truncated")


def test_a_low_res_codec_that_is_not_known_is_refused_but_told(refscale: Callable[..., Outcome], place: Path) -> None:
    content = container.unpack((place / "alone.rsc").read_bytes())
    newer = container.pack(replace(content, header=replace(content.header, codec=9)))
    (place / "newer.rsc").write_bytes(newer)
    assert_refusal(refscale("decode", "newer.rsc", "-o", "out.png", *TINY), 4, "newer.rsc", "codec 9")
    assert_refusal(refscale("extract-lr", "newer.rsc", "-o", "out.jpg"), 4, "newer.rsc", "codec 9")
    assert json.loads(refscale("info", "newer.rsc", "--json").text)["codec"] == "unknown (9)"


def test_a_picture_that_decodes_to_something_else_than_its_hash_is_reported(
    refscale: Callable[..., Outcome], place: Path
) -> None:
    content = container.unpack((place / "with.rsc").read_bytes())
    (place / "drifted.rsc").write_bytes(container.pack(replace(content, output_hash=b"654321")))
    outcome = refscale("verify", "drifted.rsc", *REF, *TINY)
    assert_refusal(outcome, 4, "drifted.rsc", "decodes to another picture", b"654321".hex())


def test_verify_without_the_reference_still_refuses_wrong_weights(
    refscale: Callable[..., Outcome], place: Path
) -> None:
    assert_refusal(refscale("verify", "with.rsc", "--weights", "other.safetensors"), 5, "with.rsc", "weights")


@pytest.mark.parametrize("line", ["encode target.png", "decode with.rsc --ref ref.png --format png"])
def test_the_weights_are_not_overwritten(refscale: Callable[..., Outcome], place: Path, line: str) -> None:
    before = contents(place)
    assert_refusal(refscale(*line.split(), "-o", "tiny.safetensors", *TINY), 2, "tiny.safetensors", "input")
    assert contents(place) == before


def test_a_name_that_is_too_long_is_an_error_and_no_traceback(refscale: Callable[..., Outcome], place: Path) -> None:
    assert_refusal(refscale("encode", "target.png", "-o", 300 * "x" + ".rsc", *TINY), 3)


def test_a_superscript_quality_is_an_error_and_no_traceback(refscale: Callable[..., Outcome], place: Path) -> None:
    assert_refusal(refscale("eval", "pairs.csv", "--qualities", "5\u00b2", *TINY), 2, "--qualities")


# --- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_reference", [True, False], ids=["reference", "alone"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (5, 3), (33, 20)], ids=str)
def test_a_picture_goes_to_another_machine(
    refscale: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_weights: Path,
    tiny_model: Model,
    width: int,
    height: int,
    with_reference: bool,
) -> None:
    sender, receiver = tmp_path / "sender", tmp_path / "receiver"
    sender.mkdir()
    receiver.mkdir()
    target = Image(drawn(4, height, width))
    reference = Image(older(target.pixels)) if with_reference else None
    given: tuple[str, ...] = ()
    pictures.write(target, sender / "new.png")
    if reference is not None:
        pictures.write(reference, sender / "old.png")
        given = ("--ref", "old.png")
    tiny = ("--weights", tiny_weights)

    monkeypatch.chdir(sender)
    outcome = refscale("encode", "new.png", *given, "-o", "new.rsc", "--quality", 60, "--output-hash", *tiny)
    data = (sender / "new.rsc").read_bytes()
    sizes = container.bytes_by_section(container.unpack(data))
    shown = [(name.replace("_", " "), size) for name, size in sizes.items() if size]
    bpp = round(8 * len(data) / (width * height), 4)
    assert (outcome.code, outcome.out) == (0, b"")
    options = encoder.EncodeOptions(quality=60, output_hash=True)
    assert data == encoder.encode(target, reference, tiny_model, options)
    psnr = metrics.psnr(target.pixels, decoder.decode(data, reference, tiny_model).pixels)
    lines = [
        f"new.rsc: {len(data)} bytes, {bpp} bits per pixel, {psnr:.2f} dB "
        f"({', '.join(f'{part} {size}' for part, size in shown)})"
    ]
    named = container.unpack(data).header.reference
    if with_reference and named is None:
        lines.append("reference: does not help, so it is left out; decoding needs none")
    assert outcome.err.splitlines() == lines

    # only the file and the reference travel
    for name in ("new.rsc", *given[1:]):
        shutil.copy(sender / name, receiver / name)
    monkeypatch.chdir(receiver)
    shutil.rmtree(sender)

    hr_hat = decoder.decode(data, reference, tiny_model)
    facts = {
        "width": width,
        "height": height,
        "bands": 3,
        "type": "uint8",
        "alpha": False,
        "nodata": None,
        "band_names": None,
        "crs": None,
        "transform": None,
        "bounds": None,
        "tags": {},
        "date": None,
        "scale": 2,
        "codec": "jpeg",
        "quality": 60,
        "weights": tiny_model.fingerprint.hex(),
        "reference": None if named is None else reference.fingerprint().hex(),  # type: ignore[union-attr]
        "reference_name": None,
        "uses_of_reference": [float(named is not None)],
        "output_hash": hr_hat.fingerprint().hex(),
        "metadata": None,
        "bytes": len(data),
        "bytes_by_section": sizes,
        "bpp": bpp,
    }
    outcome = refscale("info", "new.rsc", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.text == json.dumps(facts) + "\n"
    outcome = refscale("info", "new.rsc", "--all")
    assert (outcome.code, outcome.err) == (0, "")
    assert [line.split()[0] for line in outcome.text.splitlines() if line[0] != " "] == [
        name for name in facts if name != "bytes_by_section"
    ]
    assert f"output_hash       {facts['output_hash']}\n" in outcome.text
    outcome = refscale("info", "new.rsc")
    assert (outcome.code, outcome.err) == (0, "")
    reference_line = "none" if named is None else f"{facts['reference']}, used in 100 % of the picture"
    assert (
        outcome.text
        == f"""\
new.rsc
  picture     {width}x{height}, 3 bands of uint8
  size        {len(data)} bytes, {bpp} bits per pixel ({", ".join(f"{part} {size}" for part, size in shown)})
  coding      scale 2, jpeg (DCT coefficients), quality 60
  weights     {facts["weights"]}
  reference   {reference_line}
  output hash {facts["output_hash"]}
"""
    )

    outcome = refscale("verify", "new.rsc", *given, *tiny)
    assert (outcome.code, outcome.out) == (0, b"")
    assert outcome.err == "new.rsc: proved: it decodes to the encoder's picture\n"

    outcome = refscale("extract-lr", "new.rsc", "-o", "small.jpg")
    assert outcome == Outcome(0, b"", f"small.jpg: {-(-width // 2)}x{-(-height // 2)}\n")
    with PIL.Image.open(receiver / "small.jpg") as small:
        small.load()
        assert (small.format, small.mode) == ("JPEG", "RGB")
        assert small.size == (-(-width // 2), -(-height // 2))
        low = payloads.low_res_of(container.unpack(data), tiny_model, None)
        assert abs(np.asarray(small).astype(int) - low.picture).max() <= 2  # viewers reckon in integers

    outcome = refscale("decode", "new.rsc", *given, "-o", "back.png", *tiny)
    assert outcome.err.splitlines() == [
        f"back.png: {width}x{height}",
        *(["new.rsc: needs no reference; old.png was not used"] if with_reference and named is None else []),
    ]
    assert np.array_equal(pictures.read(receiver / "back.png").pixels, hr_hat.pixels)
    assert sorted(contents(receiver)) == sorted(["new.rsc", "small.jpg", "back.png", *given[1:]])


@pytest.mark.parametrize(
    ("name", "kind"), [("grey.png", "8-bit grey"), ("deep.png", "16-bit grey"), ("alpha.png", "8-bit RGB")]
)
def test_other_kinds_go_to_another_machine(refscale: Callable[..., Outcome], place: Path, name: str, kind: str) -> None:
    for line in (
        f"encode {name} --ref {name} -o out.rsc --output-hash",
        f"verify out.rsc --ref {name}",
        "verify out.rsc --structure",
        f"decode out.rsc --ref {name} -o back.png",
        f"decode out.rsc --ref {name} -o part.png --window 3,4,5,6",
    ):
        outcome = refscale(*line.split(), *TINY)
        assert outcome.code == 0, outcome.err
    target, back, part = (pictures.read(place / x) for x in (name, "back.png", "part.png"))
    assert (target.kind, back.kind) == (kind, kind)
    assert np.array_equal(part.pixels, back.pixels[4:10, 3:8])
    facts = json.loads(refscale("info", "out.rsc", "--json").text)
    assert facts["alpha"] == (name == "alpha.png")
    assert (facts["bands"], facts["type"]) == (target.bands, target.pixels.dtype.name)
    if target.alpha is not None:
        assert np.array_equal(back.alpha, target.alpha)


def test_verify_says_what_it_proves_and_succeeds_only_then(refscale: Callable[..., Outcome], place: Path) -> None:
    decodes = "proved: it decodes; not proved: to the encoder's picture, of which it has no hash"
    for line, said in {
        "with.rsc --ref ref.png": decodes,
        "alone.rsc": decodes,
        "alone.rsc --ref ref.png": decodes,
        "hashed.rsc --ref ref.png": "proved: it decodes to the encoder's picture",
        "with.rsc --structure": "structure and checksums are intact; not tried: weights, reference, decoding",
    }.items():
        assert refscale("verify", *line.split(), *TINY) == Outcome(0, b"", f"{line.split()[0]}: {said}\n")
    for name in ("with.rsc", "hashed.rsc"):
        assert_refusal(refscale("verify", name, *TINY), 6, name, "intact; not proved: that it decodes", "--ref")
    outcome = refscale("verify", "hashed.rsc", *REF, "--json", "-q", *TINY)
    assert json.loads(outcome.text) == {"proved": ["structure", "weights", "reference", "decoding", "picture"]}
    assert outcome.err == ""
    assert json.loads(refscale("verify", "with.rsc", "--structure", "--json").text) == {"proved": ["structure"]}


def test_fingerprints_are_those_that_files_name(refscale: Callable[..., Outcome], place: Path) -> None:
    pictures.write(pictures.read(place / "ref.png"), place / "same.webp")
    wanted, other = (Image(pixels).fingerprint().hex() for pixels in (older(drawn(1)), drawn(2)))
    outcome = refscale("fingerprint", "ref.png", "other.png", "same.webp")
    assert outcome == Outcome(0, f"{wanted}  ref.png\n{other}  other.png\n{wanted}  same.webp\n".encode(), "")
    assert json.loads(refscale("info", "with.rsc", "--json").text)["reference"] == wanted
    outcome = refscale("fingerprint", "-", "--json", stdin=(place / "ref.png").read_bytes())
    assert json.loads(outcome.text) == {"stdin": wanted}
    assert_refusal(refscale("fingerprint", "text.png"), 3, "text.png")


def test_info_says_how_much_of_the_picture_uses_the_reference(
    refscale: Callable[..., Outcome], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"{older_fingerprint()}, used in part\n" in refscale("info", "mapped.rsc").text  # by unknown weights
    monkeypatch.setattr(model, "shipped_as", lambda _: place / "tiny.safetensors")
    [share] = json.loads(refscale("info", "mapped.rsc", "--json").text)["uses_of_reference"]
    content = container.unpack((place / "mapped.rsc").read_bytes())
    cell = model.load(place / "tiny.safetensors").rescaler.cell
    rows, columns = (-(-2 * side // cell) for side in (10, 17))
    levels = similarity_map.decode(content.similarity_map, rows, columns, 4)
    assert share == round(float((levels > 0).mean()), 4)
    assert 0 < share < 1
    assert f"used in {100 * share:.3g} % of the picture\n" in refscale("info", "mapped.rsc").text
    unused = container.pack(replace(content, similarity_map=b""))
    (place / "unused.rsc").write_bytes(unused)
    assert f"{older_fingerprint()}, not used\n" in refscale("info", "unused.rsc").text


def test_the_name_of_the_reference_is_a_hint(refscale: Callable[..., Outcome], place: Path, saying: Metadata) -> None:
    def name_in(*line: object) -> str | None:
        assert refscale("encode", *line, *REF, "-o", "out.rsc", *TINY).code == 0
        name = json.loads(refscale("info", "out.rsc", "--json").text)["reference_name"]
        assert name is None or isinstance(name, str)
        return name

    assert name_in("target.png") is None
    assert name_in("saying.jpg") is None  # more than 0.1 % of a small file
    assert name_in("saying.jpg", "--ref-name", "no") is None
    assert name_in("target.png", "--ref-name", "yes") == "ref.png"
    assert f"{older_fingerprint()} (ref.png), used" in refscale("info", "out.rsc").text
    other = f"{Image(drawn(2)).fingerprint().hex()} (other.png)"
    assert_refusal(
        refscale("decode", "out.rsc", "--ref", "other.png", "-o", "out.png", *TINY),
        6,
        f"reference {older_fingerprint()} (ref.png), this picture is {other}",
    )
    assert_refusal(refscale("decode", "out.rsc", "-o", "out.png", *TINY), 6, f"{older_fingerprint()} (ref.png)")
    assert_refusal(refscale("encode", "target.png", *REF, "--ref-name", "maybe"), 2, "--ref-name")


def older_fingerprint() -> str:
    return Image(older(drawn(1))).fingerprint().hex()


def test_info_shows_where_and_when_a_picture_was_taken(
    refscale: Callable[..., Outcome], place: Path, tiny_model: Model
) -> None:
    geo = {"crs": "EPSG:32630", "transform": [10.0, 0, 500000, 0, -10, 4600000], "descriptions": ["B04", None]}
    exif = PIL.Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2024:06:01 10:56:21"
    exif[0x0132] = "2025:01:01 00:00:00"
    said = Metadata(geo=json.dumps(geo).encode(), exif=exif.tobytes()[6:])
    picture = Image(np.dstack([drawn(1)[..., :2].astype(np.uint16) * 9]), said)
    (place / "placed.rsc").write_bytes(encoder.encode(picture, None, tiny_model))
    text = refscale("info", "placed.rsc").text
    for line in (
        "picture     33x20, 2 bands of uint16",
        "band names  B04, -",
        "crs         EPSG:32630",
        "bounds      500000, 4599800, 500330, 4600000",
        "date        2024:06:01 10:56:21",
    ):
        assert f"  {line}\n" in text
    found = json.loads(refscale("info", "placed.rsc", "--json").text)
    assert found["bounds"] == [500000, 4599800, 500330, 4600000]
    assert [low <= high for low, high in found["ranges"]] == [True, True]


@pytest.mark.parametrize(
    ("name", "suffix", "output"),
    [
        ("new.png", ".rsc", "new.rsc"),
        ("a/scene.2024.TIF", ".rsc", "a/scene.2024.rsc"),
        ("scene.2024", ".rsc", "scene.2024.rsc"),
        ("new.rsc", ".png", "new.png"),
        ("-", ".png", "-"),
    ],
)
def test_outputs_are_named_after_inputs(name: str, suffix: str, output: str) -> None:
    assert terminal.named_after(name, suffix) == str(Path(output))


def test_a_picture_is_encoded_and_decoded_without_naming_an_output(
    refscale: Callable[..., Outcome], place: Path
) -> None:
    for name, back in (("target.png", "target.png"), ("deep.png", "deep.png")):
        file = Path(name).with_suffix(".rsc").name
        assert refscale("encode", name, *TINY).err.startswith(f"{file}: ")
        outcome = refscale("decode", file, "-f", "--json", *TINY)
        assert json.loads(outcome.text) == {"output": back, "format": "png", "width": 33, "height": 20}
    assert refscale("decode", "deep.rsc", "--format", "tiff", *TINY).err == "deep.tif: 33x20\n"
    assert refscale("extract-lr", "deep.rsc").err == "deep.jpg: 17x10\n"


def test_a_dry_run_says_what_it_would_reach_and_writes_nothing(refscale: Callable[..., Outcome], place: Path) -> None:
    before = contents(place)
    outcome = refscale("encode", "target.png", "-o", "grey.rsc", "--target-psnr", 20, "--dry-run", "--json", *TINY)
    told = json.loads(outcome.text)
    assert told["psnr"] >= 20
    assert outcome.err.startswith(f"not written: grey.rsc: {told['bytes']} bytes")
    assert refscale("encode", "target.png", "-o", "-", "--dry-run", *TINY).out == b""
    assert contents(place) == before


def test_encode_tells_machines_what_it_made(refscale: Callable[..., Outcome], place: Path) -> None:
    outcome = refscale("encode", "target.png", *REF, "-o", "out.rsc", "--json", "--quiet", *TINY)
    data = (place / "out.rsc").read_bytes()
    sizes = container.bytes_by_section(container.unpack(data))
    assert outcome.err == ""
    assert json.loads(outcome.text) == {
        "bytes": len(data),
        "bytes_by_section": sizes,
        "bpp": round(8 * len(data) / (33 * 20), 4),
        "width": 33,
        "height": 20,
        "reference": Image(older(drawn(1))).fingerprint().hex(),
        "quality": 75,
    }
    assert outcome.text.count("\n") == 1


def test_a_target_is_told_with_what_was_reached(refscale: Callable[..., Outcome], place: Path) -> None:
    outcome = refscale("encode", "target.png", *REF, "-o", "out.rsc", "--target-bpp", "3", "--json", *TINY)
    size, told = len((place / "out.rsc").read_bytes()), json.loads(outcome.text)
    assert size <= 3 * 33 * 20 / 8
    assert (told["bytes"], told["quality"]) == (size, json.loads(refscale("info", "out.rsc", "--json").text)["quality"])
    assert 1 <= told["tries"] <= 6
    assert f"of 247 bytes, at quality {told['quality']} after {told['tries']} tries" in outcome.err
    outcome = refscale("encode", "target.png", *REF, "-o", "out.rsc", "--target-psnr", "20", "--json", *TINY)
    told = json.loads(outcome.text)
    assert told["psnr"] >= 20
    assert f"target: {told['psnr']:.2f} dB, at quality {told['quality']}" in outcome.err


def test_a_change_map_has_the_pictures_size(refscale: Callable[..., Outcome], place: Path) -> None:
    outcome = refscale("diff", "target.png", *REF, "-o", "out.png", "--json", *TINY)
    told = json.loads(outcome.text)
    assert (told["width"], told["height"]) == (33, 20)
    assert 0 <= told["changed"] <= 1
    assert outcome.err == f"out.png: 33x20, {100 * told['changed']:.1f} % changed\n"
    assert pictures.read(place / "out.png").pixels.shape == (20, 33, 3)
    piped = refscale("diff", "-", *REF, "-o", "-", *TINY, stdin=(place / "target.png").read_bytes())
    assert piped.out == (place / "out.png").read_bytes()
    for file in ("with.rsc", "alone.rsc"):
        assert refscale("diff", file, *REF, "-o", "out.tif", *TINY).code == 0
        assert pictures.read(place / "out.tif").pixels.shape == (20, 33, 3)


def test_a_reference_of_another_size_will_do(refscale: Callable[..., Outcome], place: Path) -> None:
    small = ("--ref", "small.png")
    assert refscale("encode", "target.png", *small, "-o", "small.rsc", *TINY).code == 0
    assert refscale("decode", "small.rsc", *small, "-o", "out.png", *TINY).code == 0
    assert pictures.read(place / "out.png").pixels.shape == (20, 33, 3)
    assert refscale("verify", "small.rsc", *small, *TINY).code == 0
    for file in ("target.png", "small.rsc"):
        assert refscale("diff", file, *small, "-o", "out.tif", *TINY).code == 0
        assert pictures.read(place / "out.tif").pixels.shape == (20, 33, 3)


def test_pages_of_picture_and_reference_are_chosen(refscale: Callable[..., Outcome], place: Path) -> None:
    target, reference, other = (PIL.Image.open(place / f"{name}.png") for name in ("target", "ref", "other"))
    other.save(place / "new.tif", save_all=True, append_images=[target])
    other.save(place / "old.tif", save_all=True, append_images=[target, reference])
    assert_refusal(refscale("encode", "new.tif", "-o", "out.rsc", *TINY), 3, "holds 2 pictures", "--page 1 to --page 2")
    pages = ("--ref", "old.tif", "--ref-page", 3, *TINY)
    assert refscale("encode", "new.tif", "--page", 2, *pages, "--quality", 60, "-o", "out.rsc").code == 0
    assert (place / "out.rsc").read_bytes() == (place / "with.rsc").read_bytes()
    for line in (("decode", "with.rsc", "-o", "out.png"), ("verify", "with.rsc"), ("diff", "with.rsc", "-o", "d.png")):
        assert refscale(*line, *pages).code == 0
    assert_refusal(refscale("decode", "with.rsc", "--ref", "old.tif", "-o", "no.png", *TINY), 3, "holds 3 pictures")
    no_effect = refscale("encode", "target.png", "--ref-page", 1, "-o", "no.rsc", *TINY)
    assert_refusal(no_effect, 2, "--ref-page would have no effect")
    given = refscale("diff", "with.rsc", "--page", 1, *pages, "-o", "no.png")
    assert_refusal(given, 2, "--page would have no effect: with.rsc is a .rsc file")


def test_a_grey_reference_serves_for_rgb_and_the_reverse(refscale: Callable[..., Outcome], place: Path) -> None:
    for target, reference, bands in (("target.png", "grey.png", 3), ("grey.png", "target.png", 1)):
        done = refscale("encode", target, "--ref", reference, "-o", "out.rsc", *TINY)
        assert done.code == 0, done.err
        assert refscale("decode", "out.rsc", "--ref", reference, "-o", "out.png", *TINY).code == 0
        assert pictures.read(place / "out.png").pixels.shape == (20, 33, bands)
        named = container.unpack((place / "out.rsc").read_bytes()).header.reference
        assert named == pictures.read(place / reference).fingerprint()


def test_options_of_encode_reach_the_file(refscale: Callable[..., Outcome], place: Path) -> None:
    sizes = []
    for options in (("--quality", "20"), ("--quality", "90")):
        assert refscale("encode", "target.png", "-o", "out.rsc", *options, *TINY).code == 0
        content = container.unpack((place / "out.rsc").read_bytes())
        assert content.header.quality == int(options[1])
        assert content.output_hash is None
        sizes.append(len(content.lr))
    assert sizes[0] < sizes[1]
    assert refscale("extract-lr", "out.rsc", "-o", "small.jpg").code == 0
    with PIL.Image.open(place / "small.jpg") as small:
        assert PIL.JpegImagePlugin.get_sampling(small) == 0  # 4:4:4


@pytest.mark.parametrize(("name", "kind"), [("out.png", "PNG"), ("out.webp", "WEBP"), ("out.tif", "TIFF")])
def test_the_suffix_chooses_the_format(refscale: Callable[..., Outcome], place: Path, name: str, kind: str) -> None:
    assert refscale("decode", "with.rsc", *REF, "-o", name, *TINY).code == 0
    with PIL.Image.open(place / name) as picture:
        assert (picture.format, picture.size) == (kind, (33, 20))


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


@pytest.mark.parametrize("name", ["out.png", "out.webp"])
def test_metadata_travels_and_is_counted(
    refscale: Callable[..., Outcome], place: Path, saying: Metadata, name: str
) -> None:
    outcome = refscale("encode", "saying.jpg", *REF, "-o", "out.rsc", *TINY)
    size = container.bytes_by_section(container.unpack((place / "out.rsc").read_bytes()))["metadata"]
    assert f", metadata {size})" in outcome.err
    told = json.loads(refscale("info", "out.rsc", "--json").text)
    assert (told["metadata"], told["bytes_by_section"]["metadata"]) == ("icc exif xmp", size)
    assert told["bytes"] == sum(told["bytes_by_section"].values())
    assert refscale("verify", "out.rsc", *REF, *TINY).code == 0
    outcome = refscale("decode", "out.rsc", *REF, "-o", name, *TINY)
    assert outcome == Outcome(0, b"", f"{name}: 33x20\n")
    assert pictures.read(place / name).metadata == saying
    assert refscale("decode", "out.rsc", *REF, "-o", name, "--window", "3,4,5,6", *TINY).code == 0
    assert pictures.read(place / name).metadata == saying


def test_stripped_metadata_leaves_no_trace(refscale: Callable[..., Outcome], place: Path, saying: Metadata) -> None:
    assert refscale("encode", "saying.jpg", "-o", "out.rsc", "--strip", *TINY).code == 0
    pictures.write(Image(pictures.read(place / "saying.jpg").pixels), place / "silent.png")
    assert refscale("encode", "silent.png", "-o", "silent.rsc", *TINY).code == 0
    assert (place / "out.rsc").read_bytes() == (place / "silent.rsc").read_bytes()


def test_metadata_counts_in_a_target(refscale: Callable[..., Outcome], place: Path, saying: Metadata) -> None:
    assert refscale("encode", "saying.jpg", "-o", "out.rsc", "--target-bytes", 600, *TINY).code == 0
    data = (place / "out.rsc").read_bytes()
    assert len(data) <= 600
    assert container.unpack(data).metadata is not None


def test_metadata_that_a_format_cannot_hold_is_told(
    refscale: Callable[..., Outcome], place: Path, saying: Metadata, caplog: pytest.LogCaptureFixture
) -> None:
    assert refscale("encode", "saying.jpg", "-o", "out.rsc", *TINY).code == 0
    assert refscale("decode", "out.rsc", "-o", "out.tif", *TINY).code == 0
    assert caplog.messages == ["TIFF holds the EXIF as tags, not byte for byte"]
    said = pictures.read(place / "out.tif").metadata
    assert (said.icc, said.xmp) == (saying.icc, saying.xmp)


def test_a_damaged_metadata_payload_is_refused(refscale: Callable[..., Outcome], place: Path) -> None:
    content = container.unpack((place / "alone.rsc").read_bytes())
    (place / "bad.rsc").write_bytes(container.pack(replace(content, metadata=bytes(12) + b"x")))
    for line in ("info bad.rsc", f"verify bad.rsc {' '.join(TINY)}", f"decode bad.rsc -o out.png {' '.join(TINY)}"):
        assert_refusal(refscale(*line.split()), 4, "bad.rsc", "METADATA")
    assert not (place / "out.png").exists()


@pytest.mark.parametrize("words", [("-o", "target.rsc"), ("-f",)])
def test_an_output_that_exists_is_replaced_where_it_is_named_or_by_force(
    refscale: Callable[..., Outcome], place: Path, words: tuple[str, ...]
) -> None:
    (place / "target.rsc").write_bytes(PRECIOUS)
    assert refscale("encode", "target.png", *REF, *words, "--quality", 60, *TINY).code == 0
    assert (place / "target.rsc").read_bytes() == (place / "with.rsc").read_bytes()


def test_a_reference_in_another_file_format_is_the_same_reference(
    refscale: Callable[..., Outcome], place: Path
) -> None:
    pictures.write(pictures.read(place / "ref.png"), place / "ref.webp")
    assert refscale("decode", "with.rsc", "--ref", "ref.webp", "-o", "out.png", *TINY).code == 0


def test_a_window_is_cut_out_of_the_whole(refscale: Callable[..., Outcome], place: Path) -> None:
    tile = ("--tile", "16", *TINY)
    assert refscale("decode", "with.rsc", *REF, "-o", "whole.png", *tile).code == 0
    outcome = refscale("decode", "with.rsc", *REF, "-o", "part.png", "--window", "7,3,20,11", *tile)
    assert (outcome.code, outcome.err) == (0, "part.png: 20x11\n")
    whole, part = (pictures.read(place / name).pixels for name in ("whole.png", "part.png"))
    assert np.array_equal(part, whole[3:14, 7:27])


@pytest.mark.parametrize(
    ("options", "expected"),
    [((), tiles.TILE), (("--tile", "48"), 48), (("--max-memory", "1.5G"), tiles.largest_within(3 << 29, 20, 33))],
)
def test_the_tile_reaches_encoder_and_decoder(
    refscale: Callable[..., Outcome],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    expected: int,
) -> None:
    sides, grid = set(), tiles.grid

    def spied(height: int, width: int, side: int, halo: int) -> Iterator[tiles.Tile]:
        sides.add(side)
        return grid(height, width, side, halo)

    monkeypatch.setattr(tiles, "grid", spied)
    for command in (("encode", "target.png", *REF, "-o", "out.rsc"), ("decode", "with.rsc", *REF, "-o", "out.png")):
        sides.clear()
        assert refscale(*command, "-f", *options, *TINY).code == 0
        assert sides == {expected}


def test_weights_that_ship_are_found_by_scale_and_by_fingerprint(
    refscale: Callable[..., Outcome], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place / "shipped"
    folder.mkdir()
    monkeypatch.setattr(model, "SHIPPED", folder)
    shutil.copy(place / "tiny.safetensors", folder / "refscale-x2.safetensors")
    assert refscale("encode", "target.png", *REF, "-o", "out.rsc", "--quality", 60).code == 0
    assert (place / "out.rsc").read_bytes() == (place / "with.rsc").read_bytes()
    assert_refusal(refscale("encode", "target.png", "-o", "four.rsc", "--scale", 4), 5, "scale 4")
    # newer weights come, the old ones stay under another name
    shutil.move(folder / "refscale-x2.safetensors", folder / "old.safetensors")
    shutil.copy(place / "other.safetensors", folder / "refscale-x2.safetensors")
    assert refscale("decode", "out.rsc", *REF, "-o", "out.png").code == 0
    assert refscale("verify", "out.rsc", *REF).code == 0


# --- streams ---------------------------------------------------------------------------------------------------------


def test_a_dash_is_stdin_or_stdout_wherever_a_file_is(refscale: Callable[..., Outcome], place: Path) -> None:
    target, reference, data = ((place / name).read_bytes() for name in ("target.png", "ref.png", "with.rsc"))
    sixty = ("--quality", 60, *TINY)
    outcome = refscale("encode", "-", *REF, "-o", "-", *sixty, stdin=target)
    assert (outcome.code, outcome.out) == (0, data)
    assert refscale("encode", "target.png", "--ref", "-", "-o", "-", *sixty, stdin=reference).out == data
    outcome = refscale("decode", "-", *REF, "-o", "-", *TINY, stdin=data)
    assert outcome.code == 0
    assert outcome.out.startswith(b"\x89PNG")
    assert refscale("decode", "with.rsc", "--ref", "-", "-o", "-", *TINY, stdin=reference).out == outcome.out
    webp = refscale("decode", "with.rsc", *REF, "-o", "-", "--format", "webp", *TINY).out
    assert np.array_equal(pictures.from_bytes(webp, "-").pixels, pictures.from_bytes(outcome.out, "-").pixels)
    refscale("extract-lr", "with.rsc", "-o", "small.jpg")
    jpeg = (place / "small.jpg").read_bytes()
    assert refscale("extract-lr", "-", "-o", "-", stdin=data) == Outcome(0, jpeg, "stdout: 17x10\n")
    assert refscale("info", "-", stdin=data).text == refscale("info", "with.rsc").text.replace("with.rsc", "stdin", 1)
    assert refscale("verify", "-", *REF, *TINY, stdin=data).err.startswith("stdin: proved: it decodes")


def test_a_bad_stream_is_named(refscale: Callable[..., Outcome], place: Path) -> None:
    assert_refusal(refscale("info", "-", stdin=b"nothing good"), 4, "stdin", "not a .rsc file")
    assert_refusal(refscale("encode", "-", "-o", "out.rsc", *TINY, stdin=b"nothing good"), 3, "stdin")
    assert_refusal(refscale("decode", "-", "-o", "-", *TINY, stdin=(place / "with.rsc").read_bytes()), 6, "stdin")


def shell(line: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in which `refscale` is this interpreter's; a pipe fails if any part of it does."""
    script = f'refscale() {{ {shlex.quote(sys.executable)} -m refscale_codec "$@"; }}; set -o pipefail; {line}'
    return subprocess.run(["bash", "-c", script], capture_output=True, timeout=120, check=False)


@pytest.mark.slow
def test_a_pipe_of_two_commands_gives_what_two_files_give(refscale: Callable[..., Outcome], place: Path) -> None:
    options = f"--ref ref.png {' '.join(TINY)}"
    done = shell(
        f"refscale encode - {options} --quality 60 -o - < target.png | refscale decode - {options} -o - > piped.png"
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout, b"33x20" in done.stderr) == (b"", True)
    assert refscale("decode", "with.rsc", *REF, "-o", "out.png", *TINY).code == 0
    assert (place / "piped.png").read_bytes() == (place / "out.png").read_bytes()


def test_a_pipe_whose_first_command_fails_writes_nothing(place: Path) -> None:
    tiny = " ".join(TINY)
    done = shell(f"refscale encode no.png {tiny} -o - | refscale decode - {tiny} -o out.png")
    assert done.returncode == 4
    assert sorted(line[:22] for line in done.stderr.decode().splitlines()) == [
        "error: no.png does not",
        "error: stdin: truncate",
    ]
    assert not (place / "out.png").exists()


@pytest.mark.parametrize("line", ["info with.rsc", "extract-lr with.rsc -o -"])
def test_a_reader_that_goes_away_ends_a_command_without_a_word(place: Path, line: str) -> None:
    done = shell(f"(sleep 0.2; refscale {line}) | true")
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    "line",
    [
        "encode target.png -o - -w",
        "decode alone.rsc -o - -w",
        "extract-lr alone.rsc -o -",
        "diff target.png --ref ref.png -o - -w",
    ],
)
def test_a_terminal_gets_no_binary_data(place: Path, line: str) -> None:
    terminals = os.openpty()
    command = [sys.executable, "-m", "refscale_codec", *line.replace("-w", " ".join(TINY)).split()]
    done = subprocess.run(command, stdout=terminals[1], stderr=subprocess.PIPE, timeout=120, check=False)
    os.write(terminals[1], b"end")
    assert os.read(terminals[0], 100) == b"end"
    for end in terminals:
        os.close(end)
    assert done.returncode == 2
    assert done.stderr.decode().startswith("error: binary data is not written to a terminal")


@pytest.mark.parametrize(
    "line",
    [
        "encode target.png --ref ref.png -o out.rsc",
        "decode with.rsc --ref ref.png -o out.png",
        "verify with.rsc --ref ref.png",
        "verify alone.rsc",
    ],
)
def test_quiet_is_silent_but_for_errors(
    refscale: Callable[..., Outcome], place: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(terminal, "PATIENCE", 0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert refscale(*line.split(), "--quiet", *TINY) == Outcome(0, b"", "")
    other = line.replace("ref.png", "other.png").replace("-o out", "-f -o out")
    assert_refusal(refscale(*other.split(), "-q", "--weights", "no.st"), 5)


def wait_for_status() -> None:
    """Wait until the timer that shows the progress has done so."""
    deadline = time.monotonic() + 20
    while any(isinstance(thread, threading.Timer) for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def impatient(refscale: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Show progress at once, and as on a terminal."""
    monkeypatch.setattr(terminal, "PATIENCE", 0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def slow(function: Callable[..., Any]) -> Callable[..., Any]:
    def waiting(*arguments: Any, **named: Any) -> Any:
        wait_for_status()
        return function(*arguments, **named)

    return waiting


def test_progress_goes_to_stderr_and_data_to_stdout(
    refscale: Callable[..., Outcome], place: Path, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    monkeypatch.setattr(rate_control, "encode", slow(rate_control.encode))
    monkeypatch.setattr(decoder, "decode", slow(decoder.decode))
    outcome = refscale("encode", "target.png", *REF, "-o", "-", "--quality", 60, *TINY)
    assert outcome.code == 0
    assert outcome.out == (place / "with.rsc").read_bytes()
    assert "coding" in outcome.err
    outcome = refscale("encode", "target.png", *REF, "-o", "out.rsc", "--json", *TINY)
    assert json.loads(outcome.text)["width"] == 33
    assert "coding" in outcome.err
    outcome = refscale("decode", "with.rsc", *REF, "-o", "-", *TINY)
    assert pictures.from_bytes(outcome.out, "-").width == 33
    assert "decoding" in outcome.err


def test_progress_makes_way_for_an_error(
    refscale: Callable[..., Outcome], place: Path, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    monkeypatch.setattr(decoder, "decode", slow(decoder.decode))
    streams = sys.stdout, sys.stderr
    outcome = refscale("decode", "with.rsc", "--ref", "other.png", "-o", "out.png", *TINY)
    assert (outcome.code, outcome.out) == (6, b"")
    assert outcome.err.splitlines()[-1].endswith(f"this picture is {Image(drawn(2)).fingerprint().hex()} (other.png)")
    assert (sys.stdout, sys.stderr) == streams
    assert not (place / "out.png").exists()


def test_there_is_no_progress_where_stderr_is_no_terminal(
    refscale: Callable[..., Outcome], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "PATIENCE", 0)
    monkeypatch.setattr(decoder, "decode", slow(decoder.decode))
    outcome = refscale("decode", "with.rsc", *REF, "-o", "out.png", *TINY)
    assert outcome == Outcome(0, b"", "out.png: 33x20\n")


@pytest.mark.parametrize("line", [{"step": 50, "psnr": 30.0, "bpp": 0.51}, {"step": 50, "psnr": 30.0}])
def test_the_log_of_training_stays_on_stdout_beside_the_progress(
    refscale: Callable[..., Outcome],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    impatient: None,
    line: dict[str, float],
) -> None:
    def trained(*arguments: object, report: Callable[[dict[str, float]], None], **named: object) -> Path:
        wait_for_status()
        report(line)
        return place / "run" / "weights.safetensors"

    monkeypatch.setattr(training, "train", trained)
    (place / "recipe.toml").write_text('manifest = "pairs.csv"\n')
    outcome = refscale("train", "recipe.toml", "-o", "run")
    assert outcome.text == json.dumps(line) + "\n"


# --- training and measuring ------------------------------------------------------------------------------------------


@pytest.fixture
def pairs_csv(place: Path) -> Path:
    for name, seed in (("second", 5), ("third", 6)):
        PIL.Image.fromarray(drawn(seed)).save(place / f"{name}.png")
        PIL.Image.fromarray(older(drawn(seed))).save(place / f"{name}_old.png")
    (place / "pairs.csv").write_text(
        "split,dataset,target,reference\n"
        "dev,town,target.png,ref.png\ndev,town,second.png,second_old.png\ntrain,field,third.png,third_old.png\n"
    )
    return place / "pairs.csv"


@pytest.mark.slow
def test_trained_weights_code_pictures(refscale: Callable[..., Outcome], place: Path, pairs_csv: Path) -> None:
    (place / "recipe.toml").write_text(
        'manifest = "pairs.csv"\nsteps = 2\nbatch = 2\ncrop = 16\n[flow]\nblocks = 1\nwidth = 8\nref_width = 8\n'
    )
    outcome = refscale("train", "recipe.toml", "-o", "run", "--device", "cpu")
    trained = Path("run", "weights.safetensors")
    assert outcome == Outcome(0, b"", f"weights in {trained}\n")
    before = trained.read_bytes()
    assert refscale("train", "recipe.toml", "-o", "run", "--device", "cpu", "--quiet") == Outcome(0, b"", "")
    assert trained.read_bytes() == before
    assert refscale("encode", "target.png", *REF, "-o", "out.rsc", "--weights", trained).code == 0
    assert refscale("decode", "out.rsc", *REF, "-o", "out.png", "--weights", trained).code == 0

    (place / "recipe.toml").write_text((place / "recipe.toml").read_text() + "blocs = 2\n")
    assert_refusal(refscale("train", "recipe.toml", "-o", "run"), 2, "recipe.toml", "unknown field blocs")


@pytest.mark.slow
def test_eval_measures_what_was_asked_for(refscale: Callable[..., Outcome], place: Path, pairs_csv: Path) -> None:
    arguments = ("--split", "dev", "--qualities", "30,70", "--modes", "reference,alone", *TINY)
    outcome = refscale("eval", pairs_csv, *arguments, "-o", "result.json", "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    assert "BD-rate" in outcome.text
    text = (place / "result.json").read_text()
    result = json.loads(text)
    assert {row["name"] for row in result["rows"]} == {"target", "second"}
    assert {(r["coder"], r["quality"]) for r in result["rows"] if r["coder"] != "jpeg"} == {
        (coder, quality) for coder in ("reference", "alone") for quality in (30, 70)
    }
    assert result["command"].startswith("refscale eval ")
    assert result["command"].endswith("-o result.json --quiet")
    assert str(place) not in text  # a results file is published
    assert {(c["coder"], c["anchor"]) for c in result["comparisons"]} == {("reference", "jpeg"), ("alone", "jpeg")}


def test_eval_says_why_a_figure_is_missing(refscale: Callable[..., Outcome], place: Path, pairs_csv: Path) -> None:
    arguments = ("--split", "train", "--qualities", "50", "--modes", "alone", *TINY)
    outcome = refscale("eval", pairs_csv, *arguments)
    assert outcome.code == 0
    assert "field alone: no BD-rate: usable points" in outcome.err
    assert_refusal(refscale("eval", pairs_csv, "--split", "test", *TINY), 2, "pairs.csv", "test")


def test_eval_writes_nothing_but_json_to_stdout(refscale: Callable[..., Outcome], place: Path, pairs_csv: Path) -> None:
    arguments = ("--split", "train", "--qualities", "50", "--modes", "alone", *TINY)
    assert json.loads(refscale("eval", pairs_csv, *arguments, "-o", "-").text)["rows"]


@pytest.mark.slow
def test_rd_curve_measures_a_pair_and_goes_on_where_it_stopped(refscale: Callable[..., Outcome], place: Path) -> None:
    line = ("rd-curve", "target.png", "ref.png", "-o", "report", "--coders", "jpeg,bicubic-x2,refscale-tiny", *TINY)
    outcome = refscale(*line, "--jobs", "1")
    assert outcome.code == 0, outcome.err
    assert "BD-rate in % over 0.1 to 1.0 bits per pixel" in outcome.text
    for name in ("bicubic-x2", "refscale-tiny"):
        assert name in outcome.text
    files = contents(place / "report")
    assert files.keys() == {
        *("rows.jsonl", "results.json", "summary.csv", "report.html"),
        *("rd.png", "rd.svg", "rd-log.png", "rd-log.svg"),
    }
    assert json.loads(files["results.json"])["command"].startswith("refscale rd-curve target.png ref.png")
    for name in files:
        assert name == "rows.jsonl" or name in outcome.err
    assert refscale(*line, "--jobs", "1").code == 0
    assert contents(place / "report")["rows.jsonl"] == files["rows.jsonl"]


# --- help, version, start --------------------------------------------------------------------------------------------


def test_every_command_is_in_the_help(refscale: Callable[..., Outcome]) -> None:
    outcome = refscale("--help")
    assert (outcome.code, outcome.err) == (0, "")
    listed = outcome.text.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == COMMANDS
    assert all(len(line.split()) > 3 for line in listed)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(refscale: Callable[..., Outcome], name: str) -> None:
    outcome = refscale(name, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.text.startswith("Usage: ")
    command = typer.main.get_command(main.app).commands[name]  # type: ignore[attr-defined]
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{name} {parameter.name}"
        shown = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar
        assert shown in outcome.text


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("train", "eval", "rd-curve")])
def test_options_take_one_line_each_in_groups(
    refscale: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = refscale(name, "-h").text
    assert max(map(len, text.splitlines())) < 80
    groups = re.split(
        r"^(\w[\w ]*):\n", text.partition("\nArguments:")[1] + text.partition("\nArguments:")[2], flags=re.M
    )
    assert [group for group in groups[1::2] if group in ("Arguments", "Other options")] == [
        "Arguments",
        "Other options",
    ]
    command = typer.main.get_command(main.app).commands[name]  # type: ignore[attr-defined]
    lines = [line for group in groups[2::2] for line in group.splitlines() if line.strip()]
    assert len(lines) == len(command.params) + 1  # and --help
    assert all(len(line.split("  ")) >= 3 for line in lines)


def test_shells_can_complete_commands_and_options(place: Path) -> None:
    def completed(line: str) -> list[str]:
        environment = os.environ | {"_REFSCALE_COMPLETE": "complete_bash", "COMP_WORDS": line}
        environment["COMP_CWORD"] = str(len(line.split()) - 1)
        program = "import sys; sys.argv[0] = 'refscale'; from refscale_codec.__main__ import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert completed("refscale en") == ["encode"]
    assert completed("refscale encode --target") == ["--target-bytes", "--target-bpp", "--target-psnr"]


def test_exit_codes_are_those_of_the_table_and_of_the_help(refscale: Callable[..., Outcome]) -> None:
    table = (
        (ROOT / "docs" / "FORMAT.md").read_text(encoding="utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    )
    documented = [int(code) for code in re.findall(r"^\| (\d+) \|", table, flags=re.M)]
    assert documented == [0, *sorted(error.exit_code for error in RefscaleError.__subclasses__())]
    told = refscale("--help").text.partition("Exit codes:")[2]
    assert [int(code) for code in re.findall(r"(\d+) [a-z.]", " ".join(told.split()))] == documented


def test_version_and_no_command(refscale: Callable[..., Outcome]) -> None:
    assert refscale("-V") == refscale("--version")
    assert refscale("--version") == Outcome(0, f"refscale {refscale_codec.__version__}\n".encode(), "")
    outcome = refscale()
    assert outcome.code in (0, 2)  # as Typer's version has it
    assert "Usage: " in outcome.text + outcome.err


def started(*arguments: str, stdin: bytes = b"", options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, *options, "-m", "refscale_codec", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize("line", ["--help", "encode --help", "--version", "info with.rsc", "info with.rsc --json"])
def test_what_needs_no_net_starts_without_torch_and_numpy(place: Path, line: str) -> None:
    done = started(*line.split(), options=("-X", "importtime"))
    assert done.returncode == 0
    assert done.stdout
    loaded = {row.rpartition("|")[2].strip() for row in done.stderr.decode().splitlines()}
    assert "refscale_codec.cli.main" in loaded
    assert not loaded & {"torch", "numpy", "PIL", "cv2", "constriction", "safetensors", "rich.console"}


def test_a_process_of_its_own_keeps_bytes_and_codes(place: Path) -> None:
    data = (place / "with.rsc").read_bytes()
    done = started("extract-lr", "-", "-q", stdin=data)
    assert (done.returncode, done.stdout[:3], done.stdout[-2:], done.stderr) == (0, b"\xff\xd8\xff", b"\xff\xd9", b"")
    done = started("info", "-", stdin=data[:-1])
    assert (done.returncode, done.stdout) == (4, b"")
    assert done.stderr.startswith(b"error: stdin: truncated")
    assert b"Traceback" not in done.stderr
