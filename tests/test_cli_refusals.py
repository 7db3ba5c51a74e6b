"""What the command line refuses: one line, an exit code, and no file changed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from commands import PRECIOUS, REF, TINY, assert_refusal, contents, drawn
from conftest import Outcome

from refscale_codec.fileformat import container

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
    # numbers beyond use
    "digits, window": (f"decode with.rsc -o out.png --window 0,0,{'9' * 5000},1 -w", 2, ("--window must be",)),
    "digits, range": (f"encode target.png -o out.rsc --range {'9' * 5000}:0,1 -w", 2, ("--range must be",)),
    "digits, low": (f"encode target.png -o out.rsc --range 0,{'9' * 5000} -w", 2, ("range",)),
    "digits, qualities": (f"eval grey.csv --qualities {'9' * 5000} -w", 2, ("--qualities must be",)),
    "digits, threads": (f"encode target.png -o out.rsc --threads {'9' * 5000} -w", 2, ("--threads",)),
    "too many threads": (
        "encode target.png -o out.rsc --threads 1025 -w",
        2,
        ("--threads must be at most 1024, not 1025",),
    ),
    "too many jobs": ("batch . -o out --jobs 1025 -w", 2, ("--jobs must be at most 1024, not 1025",)),
    "stdin twice": ("fingerprint - -", 2, ("- is given more than once", "stdin can be read only once")),
    # files that are no .rsc
    "not an rsc": ("decode target.png -o out.png -w", 4, ("target.png: not a .rsc file",)),
    "not an rsc, info": ("info target.png", 4, ("target.png: not a .rsc file, but a picture",)),
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
    "rsc for a picture, told before the output": ("encode grey.rsc -w", 3, ("grey.rsc is a .rsc file, not a picture",)),
    "rsc with a reference for a reference": (
        "encode grey.png --ref with.rsc -o out.rsc -w",
        6,
        ("with.rsc", "needs a reference itself"),
    ),
    "rsc of another net for a reference": (
        "encode grey.png --ref alone.rsc -o out.rsc -w",
        6,
        ("alone.rsc", "floating"),
    ),
    "no reference, told before the output": ("encode grey.png --ref no.png -w", 3, ("no.png does not exist",)),
    "reference without its option": ("encode target.png ref.png -w", 2, ("ref.png is one file too many", "--ref")),
    "fingerprint of an rsc": ("fingerprint with.rsc", 3, ("with.rsc is a .rsc file, not a picture",)),
    "CMYK picture": ("encode cmyk.jpg -o out.rsc -w", 3, ("cmyk.jpg", "CMYK")),
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
    "no folder for the output": ("encode target.png -o no/out.rsc -w", 10, ("no/out.rsc",)),
    "no folder, told before any work": (
        "encode cut.png -o no/out.rsc -w",
        10,
        ("cannot write no/out.rsc: there is no",),
    ),
    "no folder for the picture": ("decode with.rsc --ref ref.png -o no/out.png -w", 10, ("no/out.png",)),
    "no folder for the low-res picture": ("extract-lr with.rsc -o no/out.jpg", 10, ("no/out.jpg",)),
    "output is a folder": ("encode target.png -o folder.png -w", 10, ("folder.png",)),
    "picture would be a folder": ("decode with.rsc --ref ref.png -o folder.png -w", 10, ("folder.png",)),
    "lossy output": ("decode with.rsc --ref ref.png -o out.jpg -w", 2, ("out.jpg", ".png")),
    "no suffix": ("decode with.rsc --ref ref.png -o out -w", 2, ("out has no suffix", ".png")),
    "unknown suffix": ("decode with.rsc --ref ref.png -o out.xyz -w", 2, ("out.xyz", ".png")),
    "unknown format": ("decode with.rsc --ref ref.png -o out.png --format bmp -w", 2, ("bmp", "png")),
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
    "no thread, decode": ("decode alone.rsc -o out.png --threads -1 -w", 2, ("--threads", "at least 1")),
    "two things for stdout, decode": ("decode alone.rsc -o - --json -w", 2, ("--json", "stdout")),
    "two things for stdout, extract-lr": ("extract-lr alone.rsc -o - --json", 2, ("--json", "stdout")),
    "another reference, diff": ("diff with.rsc --ref other.png -o out.png -w", 6, ("with.rsc", "made with")),
    "not a picture, diff": ("diff text.png --ref ref.png -o out.png -w", 3, ("text.png",)),
    "lossy map": ("diff target.png --ref ref.png -o out.jpg -w", 2, ("out.jpg", ".png")),
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
    "folder is a file": ("rd-curve target.png ref.png -o text.png --coders jpeg -w", 10, ("text.png", "folder")),
    "missing recipe": ("train no.toml -o run", 2, ("no.toml",)),
    "missing manifest, train": ("train recipe.toml -o run", 2, ("pairs.csv", "recipe.toml names it", "--manifest")),
    "missing manifest that is named, train": ("train recipe.toml -o run --manifest no.csv", 2, ("no.csv",)),
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
        ("decode with.rsc", "ReferenceMismatch"),
        ("decode alone.rsc --tile 100", "UsageError"),
        ("encode target.png --tile 100", "UsageError"),
        ("encode target.png --max-memory 10M", "UsageError"),
        ("encode target.png --range 0,70000", "UsageError"),
        ("encode target.png -f --device gpu", "UsageError"),
        ("encode target.png -f --weights no.safetensors", "WeightsError"),
        ("batch folder.png -o run", "UsageError"),
        ("batch grey.csv -o run --device gpu", "UsageError"),
        ("batch grey.csv -o run --weights no.safetensors", "WeightsError"),
        ("rd-curve grey.csv --coders nonsense", "UsageError"),
        ("rd-curve grey.csv --coders jpeg --weights no.safetensors", "WeightsError"),
        ("rd-curve grey.csv --device gpu", "UsageError"),
        ("rd-curve text.png", "ImageError"),
        ("rd-curve target.png -o own", "UsageError"),
        ("eval grey.csv --modes nonsense", "UsageError"),
        ("eval no.csv", "UsageError"),
        ("verify alone.rsc --weights no.safetensors", "WeightsError"),
        ("train no.toml -o run", "UsageError"),
        ("train recipe.toml -o run", "UsageError"),
    ],
)
def test_what_cannot_be_opened_is_refused_before_torch_is_loaded(place: Path, line: str, error: str) -> None:
    (place / "own").mkdir()
    (place / "own" / "summary.csv").write_text("somebody's own")
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
    assert_refusal(refscale("encode", "cut.png", "-o", "out.rsc", *TINY), 10, "out.rsc", "no permission")
    assert contents(place) == before
    assert refscale("encode", "target.png", "-o", os.devnull, *TINY).code == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("line", ["info with.rsc", "info with.rsc --json", "extract-lr with.rsc -o -", "--version"])
def test_a_full_disk_behind_stdout_is_said_so(place: Path, line: str) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "refscale_codec", *line.split()]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 10
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
        ("info with.rsc -o", "-o"),
        ("--speed 3", "--speed"),
        ("refs explode", "explode"),
        ("refs --speed 3", "--speed"),
    ],
)
def test_a_mistyped_command_is_one_line(refscale: Callable[..., Outcome], place: Path, line: str, word: str) -> None:
    before = contents(place)
    assert_refusal(refscale(*line.split()), 2, word)
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
    for cut, told in (*((data[:size], "truncated") for size in cuts), (data + b"\0", "after the end")):
        (place / "bad.rsc").write_bytes(cut)
        assert_refusal(refscale(*(word.format("bad.rsc") for word in reader)), 4, "bad.rsc", told)


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
    assert_refusal(refscale("encode", "target.png", "-o", 300 * "x" + ".rsc", *TINY), 10)


def test_a_superscript_quality_is_an_error_and_no_traceback(refscale: Callable[..., Outcome], place: Path) -> None:
    assert_refusal(refscale("eval", "pairs.csv", "--qualities", "5\u00b2", *TINY), 2, "--qualities")


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_a_link_to_where_no_folder_is_is_told_as_one(refscale: Callable[..., Outcome], place: Path) -> None:
    (place / "out.rsc").symlink_to("absent/out.rsc")
    outcome = refscale("encode", "target.png", "-o", "out.rsc")
    absent = place.resolve() / "absent"
    assert outcome.err == (
        f"error: cannot write out.rsc: it is a link to {absent}/out.rsc, and there is no folder {absent}\n"
    )
    assert outcome.code == 10
