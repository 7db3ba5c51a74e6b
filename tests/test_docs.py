"""What the documents say is tried: the README's commands and snippet run as they stand there."""

import inspect
import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from typer.main import get_command

import refscale_codec as refscale
from refscale_codec.cli.main import app
from refscale_codec.picture import levels
from refscale_codec.study import results

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def masked(text: str) -> str:
    """Figures may differ in the last digit between machines; words and layout may not."""
    return re.sub(r"[0-9a-f]{12}|[0-9.]+", "#", text).strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


@pytest.mark.slow
def test_the_commands_print_what_the_readme_shows(checkout: Path) -> None:
    (session,) = blocks("console")
    parts = re.split(r"^\$ (.*)\n", session, flags=re.MULTILINE)[1:]
    commands = list(zip(parts[::2], parts[1::2], strict=True))
    assert [shlex.split(command)[:2] for command, _ in commands] == [
        ["refscale", "encode"],
        ["refscale", "decode"],
        ["refscale", "info"],
    ]
    for command, shown in commands:
        arguments = [sys.executable, "-m", "refscale_codec", *shlex.split(command)[1:]]
        done = subprocess.run(arguments, cwd=checkout, capture_output=True, text=True, check=True)
        assert masked(done.stdout + done.stderr) == masked(shown)
        for found, told in zip(
            *(re.findall(r"(\d+) bytes", text) for text in (done.stdout + done.stderr, shown)), strict=True
        ):
            assert int(found) == pytest.approx(int(told), rel=0.01)  # the net's floats differ a little by machine


def runnable(block: str) -> str:
    """Leave out what needs the network, and start the console command as a module."""
    kept = [line for line in block.splitlines() if not line.startswith("pip ")]
    return re.sub(
        r"(^|\| )refscale ", rf"\g<1>{shlex.quote(sys.executable)} -m refscale_codec ", "\n".join(kept), flags=re.M
    )


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the files that the README's commands name."""
    target, reference = (PIL.Image.open(ROOT / "examples" / f"{name}.png") for name in ("target", "reference"))
    for folder in ("new", "old"):
        (tmp_path / folder).mkdir()
    for picture, name, place in (
        (target, "new.png", (200, 200, 296, 272)),
        (reference, "old.png", (200, 200, 296, 272)),
        (reference, "other.png", (202, 197, 298, 269)),
        (target, "new/a.png", (200, 200, 248, 248)),
        (reference, "old/a.png", (200, 200, 248, 248)),
        (target, "scene.png", (0, 0, 448, 288)),
        (reference, "older.png", (0, 0, 448, 288)),
    ):
        picture.crop(place).save(tmp_path / name)
    for name in ("new", "old"):
        geotiff(tmp_path / f"{name}.png", tmp_path / f"{name}.tif")
    (tmp_path / "pairs.csv").write_text("target,reference\nnew/a.png,old/a.png\n")
    return tmp_path


def geotiff(source: Path, path: Path) -> None:
    """Write a picture as four bands of 16 bits with a place."""
    rasterio = pytest.importorskip("rasterio")
    samples = np.asarray(PIL.Image.open(source)).astype(np.uint16) * 30 + 400
    bands = np.moveaxis(np.dstack([samples, samples[..., :1]]), 2, 0)
    transform = rasterio.Affine(10, 0, 500000, 0, -10, 4100000)
    profile = {"driver": "GTiff", "dtype": "uint16", "crs": "EPSG:32633", "transform": transform}
    with rasterio.open(path, "w", **profile, count=4, height=bands.shape[1], width=bands.shape[2]) as file:
        file.write(bands)


@pytest.mark.slow
def test_every_command_runs_in_the_order_of_the_readme(desk: Path) -> None:
    rest = README.partition("## Quick start")[2].partition("\n## ")[2]
    assert len(blocks("sh", rest)) == 11
    for block in blocks("sh", rest):
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", runnable(block)], cwd=desk, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"


@pytest.mark.slow
def test_the_snippets_run(desk: Path) -> None:
    (desk / "examples").symlink_to(ROOT / "examples")
    subprocess.run([sys.executable, "-c", "\n".join(blocks("python"))], cwd=desk, check=True)
    assert (desk / "hr_hat.png").stat().st_size > 0
    assert (desk / "new" / "a.rsc").read_bytes().startswith(b"\x89RSC")


@pytest.mark.slow
def test_the_api_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name, example in (("new.png", "target.png"), ("old.png", "reference.png")):
        PIL.Image.open(ROOT / "examples" / example).crop((200, 200, 264, 248)).save(name)
    page = (ROOT / "docs" / "API.md").read_text(encoding="utf-8")
    exec("\n".join(blocks("python", page)), {"__name__": "api_page"})
    assert capsys.readouterr().out.splitlines() == [
        "(48, 64, 3) uint8 None 75",
        "None None {}",
        f"ImageError: the picture is an array of complex128; {levels.NAMES} are coded",
    ]
    arguments = re.findall(r"^\| (`[a-z_`, ]+`) \|", page, flags=re.MULTILINE)
    named = {name for cell in arguments for name in re.findall(r"`([a-z_]+)`", cell)}
    assert named == set(inspect.signature(refscale.encode).parameters) - {"picture", "reference"}


@pytest.mark.slow
def test_the_page_on_other_libraries_runs(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("xarray", "dask", "rasterio", "pystac"):
        pytest.importorskip(name)
    monkeypatch.chdir(desk)
    items = [
        {
            "type": "Feature",
            "stac_version": "1.1.0",
            "id": name,
            "bbox": [11, 46, 12, 47],
            "geometry": None,
            "links": [],
        }
        | {"properties": {"datetime": f"202{year}-05-03T00:00:00Z"}, "assets": {"data": {"href": f"{name}.tif"}}}
        for year, name in enumerate(("old", "new"))
    ]
    Path("items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    Path("scene.rsc").write_bytes(refscale.encode("new.tif", "old.tif"))
    page = (ROOT / "docs" / "ECOSYSTEM.md").read_text(encoding="utf-8")
    exec("\n".join(blocks("python", page)), {"__name__": "ecosystem_page"})
    assert capsys.readouterr().out == "old old.tif None\nnew new.tif old.tif\n"


def test_every_command_is_named() -> None:
    named = re.search(r"for every command: `([^`]*)`", README)
    assert named is not None
    commands: Any = get_command(app)
    assert named[1].split() == commands.list_commands(None)


def test_the_quick_start_is_two_commands() -> None:
    install_and_use, install_and_test = blocks("sh", README.partition("## Quick start")[2].partition("\n## ")[0])
    assert "pip install ." in install_and_use and "refscale encode" in install_and_use
    assert "pytest" in install_and_test
    assert install_and_use.count("\n") == install_and_test.count("\n") == 1


def test_the_tables_are_those_of_the_results_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # as it is for a program there
    rd = runpy.run_path(str(ROOT / "benchmarks" / "rd.py"))
    paths = sorted((ROOT / "benchmarks" / "results").glob("rd-*.json"))
    by_split = {path.stem[3:]: results.read(path) for path in paths}
    assert README.split("<!-- by benchmarks/rd.py -->")[1].strip().splitlines() == rd["summary"](by_split["test"])
    page = (ROOT / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    assert page.split("<!-- by benchmarks/rd.py -->")[1].strip().splitlines() == rd["page"](by_split)
    lossless = runpy.run_path(str(ROOT / "benchmarks" / "lossless.py"))
    lines = lossless["section"](lossless["measured_splits"]())
    assert page.split("<!-- by benchmarks/lossless.py -->")[1].strip().splitlines() == lines


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_changelog_tells_of_the_format() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert releases[0].startswith("[Unreleased]")
    assert all("### Format" in release for release in releases)
