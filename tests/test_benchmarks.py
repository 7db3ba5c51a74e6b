"""The programs in `benchmarks/` can be started, and go on only from results that were measured with the same."""

import math
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refscale_codec.picture.image import Image
from refscale_codec.study import results
from refscale_codec.study.coders.protocol import CodedPicture
from refscale_codec.study.comparison import compare

FOLDER = Path(__file__).parents[1] / "benchmarks"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("common", "net_variants"))


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))  # as it is for a program there
    import common

    return common


@pytest.mark.slow
def test_every_program_can_be_imported_and_has_a_main() -> None:
    code = (
        "import importlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "for name in sys.argv[2:]: assert callable(importlib.import_module(name).main), name"
    )
    done = subprocess.run([sys.executable, "-c", code, FOLDER, *PROGRAMS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", PROGRAMS)
def test_results_that_a_program_names_are_there(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    for table in re.findall(rf'replace_table\("([^"]+)", "benchmarks/{name}.py"', text):
        assert (FOLDER.parent / table).read_text(encoding="utf-8").count(f"<!-- by benchmarks/{name}.py -->") == 2


def test_results_are_gone_on_from_only_with_the_same_settings_and_fields(common: Any, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert common.kept(path, ("name",), weights="a") == {}
    result = {"weights": "a", "qualities": [1, 2], "rows": [{"name": "x", "percent": 1.0}]}
    common.write(path, result)
    assert common.kept(path, ("name", "percent"), weights="a", qualities=(1, 2)) == result
    with pytest.raises(SystemExit, match=r"results\.json was measured with weights a, now b: remove it"):
        common.kept(path, weights="b")
    with pytest.raises(SystemExit, match="the fields name, percent in a row, now name, dB"):
        common.kept(path, ("name", "dB"), weights="a")


@pytest.mark.parametrize(("height", "width"), [(9, 12), (4, 12), (3, 3)])
def test_the_middle_of_a_picture(common: Any, height: int, width: int) -> None:
    pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    found = common.middle(Image(pixels), 4).pixels
    top, left = max(0, (height - 4) // 2), max(0, (width - 4) // 2)
    assert np.array_equal(found, pixels[top : top + 4, left : left + 4])


def test_the_mean_of_all_pairs_is_over_the_same_pictures_in_every_column(common: Any) -> None:
    summary = runpy.run_path(str(FOLDER / "rd.py"))["summary"]
    measured = results.read(common.RESULTS / "rd-test.json")
    coders = ("jpeg", "refscale-x2", "refscale-x2-alone", "webp")

    def table(*datasets: str) -> list[str]:
        rows = [row for row in measured.rows if row.dataset in datasets and row.coder in coders]
        comparisons = [each for coder in coders[1:] for each in compare(rows, coder, "jpeg")]
        lines: list[str] = summary(replace(measured, rows=tuple(rows), comparisons=tuple(comparisons)))
        return lines

    *pairs, last = table("oscd", "sztaki")
    assert last.startswith("| all pairs (10) | -") and "–" not in last
    *same, kodak = table("oscd", "kodak", "sztaki")
    assert same == [*pairs, last]
    assert kodak.startswith("| kodak (12) | – | -")


@pytest.mark.parametrize("size", [0, 100, 105, 110, 5000, 5150, 10**6])
def test_the_overview_shows_of_all_qualities_the_nearest_in_bytes(common: Any, size: int) -> None:
    import overview

    class Stepped:
        def code(self, target: Image, reference: None, qualities: list[int]) -> Iterator[CodedPicture]:
            yield from (CodedPicture(target.pixels, {"picture": 100 * quality}, {}) for quality in qualities)

    found = overview.nearest(Stepped(), Image(np.zeros((1, 1, 3), np.uint8)), size).bytes_total
    assert abs(found - size) == min(abs(100 * quality - size) for quality in range(1, 101))


def test_a_simulated_run_takes_its_work_and_the_time_in_which_tasks_are_handed_out(common: Any) -> None:
    simulated = runpy.run_path(str(FOLDER / "batch.py"))["simulated"]
    assert simulated([2.0], 100, 10, 0.0) == (20.0, 20.0)
    assert simulated([2.0], 101, 10, 0.0) == (22.0, 20.2)
    seconds, least = simulated([2.0], 1000, 100, 0.1)  # the client is the bottleneck
    assert seconds == pytest.approx(1000 * 0.1 + 2) and least == pytest.approx(20)


def test_lossless_files_are_compared_picture_by_picture_with_the_smallest(common: Any) -> None:
    import lossless

    def rows(name: str, sizes: dict[str, int]) -> list[dict[str, Any]]:
        head = {"dataset": "set", "name": name, "bands": 3, "pixels": 800, "psnr": None, "encode": 1.0, "decode": 0.5}
        return [head | {"coder": coder, "setting": 0, "bytes": size} for coder, size in sizes.items()]

    first = rows("a", {"refscale": 90, "refscale-alone": 99, "jxl": 100, "webp": 120, "jpeg2000": 180})
    second = rows("b", {"refscale-alone": 210, "jxl": 300, "webp": 200, "jpeg2000": 250})
    _, _, line, _, *rest = lossless.sizes(first + second)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:3] == ["set, 3 bands (2)", "0.90 (1)", "1.54"]
    assert cells[3:8] == ["-10.0 (1)", "-10.0 (1)", "-25.0 (1)", "-50.0 (1)", "+2.0"]
    assert cells[8:] == ["–"] * 4
    assert rest[-2:] == [f"- {name}, 3 bands: alone, against the smallest: +2.0" for name in ("set", "all")]
    assert "| refscale-alone | 0 | 1250.00 | 625.00 |" in lossless.seconds(first + second)


def test_a_file_that_breaks_its_bound_ends_the_measurement(common: Any) -> None:
    import lossless

    target = Image(np.full((2, 2, 3), 7, np.uint8))
    coder = lossless.Coder(lambda pixels: b"file", lambda data: target.pixels + np.uint8(2))
    row = lossless.through(coder, target, 2, "x")
    assert (row["bytes"], row["setting"], row["psnr"]) == (4, 2, pytest.approx(42.11, abs=0.01))
    with pytest.raises(SystemExit, match="x: a sample is off by 2, the bound is 1"):
        lossless.through(coder, target, 1, "x")


def test_what_a_comparison_lacks_is_named_with_how_to_install_it(common: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import lossless

    monkeypatch.setattr(lossless, "NEEDED", {"json": "json", "no_such_module": "such-a-package"})
    with pytest.raises(SystemExit, match="not installed here: pip install such-a-package"):
        lossless.require()


def test_a_bd_rate_counts_only_between_two_rates(common: Any) -> None:
    anchor = [(rate, 30 + 6 * math.log2(rate)) for rate in (1.0, 2, 4, 8)]
    curve = [(rate * (1.5 if rate < 2 else 0.8), psnr) for rate, psnr in anchor]
    assert common.bd_rate(anchor, curve, (2.0, 8.0)).percent == pytest.approx(-20, abs=0.1)
    assert common.bd_rate(anchor, curve, (1.0, 8.0)).percent > -19
