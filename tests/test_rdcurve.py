"""rd-curve: it finds pairs, measures each thing once, and writes what it measured."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import TINY, Outcome, stored_model

from refscale_codec import model, workers
from refscale_codec.codec import encoder
from refscale_codec.errors import ImageError, OutOfMemory, UsageError
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import Pair
from refscale_codec.study import evaluate, output, rdcurve
from refscale_codec.study import pairs as study_pairs
from refscale_codec.study import results as results_files
from refscale_codec.study.coders import baselines
from refscale_codec.study.coders.names import EVERYTHING
from refscale_codec.study.rdcurve import Setup
from refscale_codec.study.results import Row


def drawn(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 128 + 70 * np.sin(x[..., None] * rng.uniform(0.1, 0.5, 3) + y[..., None] * rng.uniform(0.1, 0.5, 3))
    return np.clip(waves + rng.normal(0, 5, waves.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two folders with pictures of the names a and b, and one that only one of them has; a CSV of them."""
    for folder, change in (("new", 0), ("old", 9)):
        (tmp_path / folder).mkdir()
        for seed, name in enumerate("ab"):
            pixels = np.clip(drawn(seed).astype(int) + change, 0, 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    PIL.Image.fromarray(drawn(7)).save(tmp_path / "new" / "alone.png")
    (tmp_path / "pairs.csv").write_text(
        "target,reference,more,split\nnew/a.png,old/a.png,x,dev\nnew/b.png,old/b.png,y,test\nnew/alone.png,,z,test\n"
    )
    (tmp_path / "out").mkdir()
    return tmp_path


def names(pairs: list[Pair]) -> list[tuple[str, str]]:
    return [(pair.dataset, pair.name) for pair in pairs]


def test_lines_that_are_damaged_are_left_out_of_the_rows_of_an_earlier_run(tmp_path: Path) -> None:
    row = Row("d", "n", "c", 1, 9, {"picture": 9}, 1.5, 30.0, 30.0, 0.9, 0.9, float("nan"), 1.0, {"encode": 1})
    sound = {"key": "k", **results_files.to_fields(row)}
    damage: list[dict[str, object]] = [
        {"key": ["k"]},
        {"key": 5},
        {"bpp": "x"},
        {"seconds": {"encode": []}},
        {"name": 1},
    ]
    lines = [*(json.dumps(sound | change) for change in damage), "[" * 200_000, json.dumps(sound).replace("1.5", "NaN")]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, json.dumps(sound)]))
    assert str(rdcurve._kept(tmp_path / "rows.jsonl")) == str({"k": row})
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    assert rdcurve._kept(tmp_path / "rows.jsonl") == {}


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_pairs_come_from_a_csv_from_two_folders_or_from_two_pictures(place: Path) -> None:
    listed = study_pairs.find(place / "pairs.csv", None)
    assert names(listed) == [("pictures", "a"), ("pictures", "b"), ("pictures", "alone")]
    assert names(study_pairs.find(place / "pairs.csv", None, "dev")) == [("pictures", "a")]
    folders = study_pairs.find(place / "new", place / "old")
    assert folders == [Pair("new", name, place / "new" / f"{name}.png", place / "old" / f"{name}.png") for name in "ab"]
    one = study_pairs.find(place / "new" / "a.png", place / "old" / "a.png")
    assert one == folders[:1]


def test_targets_of_equal_names_are_told_apart_by_their_folders(place: Path) -> None:
    (place / "pairs.csv").write_text("target,reference\nnew/a.png,old/a.png\nold/a.png,new/a.png\n")
    assert names(study_pairs.find(place / "pairs.csv", None)) == [("pictures", "new/a"), ("pictures", "old/a")]
    (place / "pairs.csv").write_text("target,reference\nnew/a.png,old/a.png\nnew/a.png,old/b.png\n")
    with pytest.raises(UsageError, match="more than once"):
        study_pairs.find(place / "pairs.csv", None)


@pytest.mark.parametrize(
    ("source", "reference", "split", "said"),
    [
        ("new", None, None, "folder of references"),
        ("new", "out", None, "no picture of the same name"),
        ("pairs.csv", "old", None, "no effect"),
        ("new", "old", "test", "--split"),
        ("pairs.csv", None, "train", "train"),
    ],
)
def test_sources_that_do_not_fit_are_refused(
    place: Path, source: str, reference: str | None, split: str | None, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        study_pairs.find(place / source, None if reference is None else place / reference, split)


def test_a_bad_picture_is_told_before_anything_is_measured(place: Path) -> None:
    pairs = study_pairs.find(place / "new", place / "old")
    (place / "old" / "b.png").write_text("nothing to see")
    with pytest.raises(ImageError, match=r"b\.png"):
        study_pairs.check(pairs)


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def setup(tiny_weights: Path) -> Setup:
    return Setup((tiny_weights,), ("jpeg", "refscale-tiny-x2"))


def without_seconds(rows: list[Row]) -> list[Row]:
    return [replace(row, seconds={}) for row in rows]


@pytest.mark.slow
def test_a_reference_of_another_size_is_measured_and_shown(place: Path, setup: Setup) -> None:
    PIL.Image.fromarray(drawn(1, 20, 24)).save(place / "old" / "b.png")
    pairs = study_pairs.check(study_pairs.find(place / "new", place / "old"))
    assert [pair.resampled for pair in pairs] == [False, True]
    rows = rdcurve.measure(pairs[1:], setup, place / "out")
    plan = encoder.prepare(
        pictures.read(place / "new" / "b.png"),
        pictures.read(place / "old" / "b.png"),
        model.load(setup.weights[0]),
    )
    assert [row.bytes_total for row in rows if (row.coder, row.quality) == ("refscale-tiny-x2", 60)] == [
        plan.code(60).size()
    ]
    (scene,) = output.scenes(pairs[1:], rows, setup, 1.0, 1)
    assert pictures.from_bytes(scene.layers["reference"], "reference").pixels.shape == (40, 48, 3)


@pytest.mark.slow
def test_every_pair_goes_through_every_coder_that_it_can(place: Path, setup: Setup) -> None:
    progress: list[tuple[int, int]] = []
    pairs = study_pairs.check(study_pairs.find(place / "pairs.csv", None))
    rows = rdcurve.measure(pairs, setup, place / "out", report=lambda done, of: progress.append((done, of)))
    jpeg, refscale = setup.coders()
    expected = [(name, "jpeg", quality) for name in ("a", "b", "alone") for quality in jpeg.qualities]
    expected += [(name, "refscale-tiny-x2", quality) for name in ("a", "b") for quality in refscale.qualities]
    assert sorted((row.name, row.coder, row.quality) for row in rows) == sorted(expected)
    assert progress[0] == (0, len(expected))
    assert progress[-1] == (len(expected), len(expected))
    for row in rows:
        assert row.bytes_total == sum(row.bytes_by_section.values())
        assert row.bpp == 8 * row.bytes_total / (40 * 48)
        assert np.isfinite(row.si_lr_std) == (row.coder != "jpeg")


@pytest.mark.slow
def test_a_second_run_measures_only_what_is_missing(place: Path, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = study_pairs.check(study_pairs.find(place / "new", place / "old"))
    rows = rdcurve.measure(pairs, setup, place / "out")
    kept = (place / "out" / "rows.jsonl").read_text().splitlines()
    assert len(kept) == len(rows)

    measured: list[tuple[str, str, int]] = []
    original = evaluate.measured

    def counted(pair: Pair, coder: str, quality: int, *rest: object) -> Row:
        measured.append((pair.name, coder, quality))
        return original(pair, coder, quality, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluate, "measured", counted)
    again = rdcurve.measure(pairs, setup, place / "out")
    assert measured == []
    assert [str(asdict(row)) for row in again] == [str(asdict(row)) for row in rows]

    lost = json.loads(kept[-1])
    (place / "out" / "rows.jsonl").write_text("\n".join([*kept[:-1], kept[-1][:30]]))  # as a killed run leaves it
    rdcurve.measure(pairs, setup, place / "out")
    assert measured == [(lost["name"], lost["coder"], lost["quality"])]
    measured.clear()
    assert len(rdcurve.measure(pairs, setup, place / "out")) == len(rows)
    assert measured == []

    PIL.Image.fromarray(drawn(5)).save(place / "new" / "a.png")  # another picture of the same name
    rdcurve.measure(study_pairs.check([pair.pair for pair in pairs]), setup, place / "out")
    assert {name for name, _, _ in measured} == {"a"}


@pytest.mark.slow
def test_two_processes_measure_what_one_does(place: Path, setup: Setup) -> None:
    pairs = study_pairs.check(study_pairs.find(place / "new", place / "old"))
    one = rdcurve.measure(pairs, setup, place / "out")
    (place / "two").mkdir()
    two = rdcurve.measure(pairs, setup, place / "two", jobs=2)
    assert str(without_seconds(one)) == str(without_seconds(two))  # as text, since NaN differs from itself


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a process group is interrupted")
def test_an_interrupt_ends_all_processes_with_one_line(place: Path, tiny_weights: Path) -> None:
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from refscale_codec.__main__ import main; main()"
    line = ["rd-curve", "new", "old", "-o", "out", "--weights", str(tiny_weights), "--jobs", "2", "--coders"]
    line += ["jpeg,webp,refscale-tiny-x2"]
    command = [sys.executable, "-c", program, *line]
    running = subprocess.Popen(command, cwd=place, stdout=-1, stderr=-1, start_new_session=True)
    rows = place / "out" / "rows.jsonl"
    while running.poll() is None and (not rows.exists() or not rows.read_bytes().strip()):
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=60)  # a process that is left would keep them open
    assert (running.returncode, out) == (130, b"")
    assert err.endswith(b"interrupted\n")
    assert b"Traceback" not in err


def test_a_process_that_dies_is_one_clear_message(place: Path, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def died(work: object, tasks: list[object], *_: object) -> Generator[tuple[object, None], None, None]:
        yield tasks[0], None

    monkeypatch.setattr(workers, "run", died)
    pairs = study_pairs.check(study_pairs.find(place / "new", place / "old"))
    with pytest.raises(OutOfMemory, match=r"^a, jpeg: .*fewer --jobs"):
        rdcurve.measure(pairs, setup, place / "out", jobs=2)


@pytest.mark.slow
def test_an_unrelated_reference_is_that_of_another_place(place: Path, tiny_weights: Path) -> None:
    pairs = study_pairs.check(study_pairs.find(place / "pairs.csv", None))
    assert [pair.unrelated and pair.unrelated.parent.name + pair.unrelated.name for pair in pairs] == [
        *("oldb.png", "olda.png", "olda.png")
    ]
    setup = Setup((tiny_weights,), ("refscale-tiny-x2-unrelated",))
    rows = rdcurve.measure(pairs[:1], setup, place / "out")
    target, other = (pictures.read(place / name / file) for name, file in (("new", "a.png"), ("old", "b.png")))
    (coder,) = setup.coders()
    for row in rows:
        (coded,) = coder.code(target, other, [row.quality])
        assert (row.name, row.bytes_total, row.bytes_by_section) == ("a", coded.bytes_total, coded.bytes_by_section)
    assert all(coder.name != "refscale-tiny-x2-unrelated" for coder in Setup((tiny_weights,), EVERYTHING).coders())


def test_unknown_and_missing_coders_are_refused_by_name(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"unknown coder jpg; there are: .*refscale-tiny-x2"):
        Setup((tiny_weights,), ("jpg",)).coders()
    monkeypatch.setattr(baselines, "available", lambda: ([], {"jxl": "pip install pillow-jxl-plugin"}))
    with pytest.raises(UsageError, match="jxl is not installed: pip install pillow-jxl-plugin"):
        Setup((tiny_weights,), ("jxl",)).coders()


def test_few_coders_are_the_default_and_all_can_be_had(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "available", lambda: (list(baselines.BASELINES), {}))
    assert [coder.name for coder in Setup((tiny_weights,)).coders()] == [
        *("jpeg", "avif", "x265-reference", "refscale-tiny-x2")
    ]
    everything = [coder.name for coder in Setup((tiny_weights,), EVERYTHING).coders()]
    assert everything == [c.name for c in baselines.BASELINES] + ["refscale-tiny-x2", "refscale-tiny-x2-alone"]
    here, missing = list(baselines.BASELINES[:5]), {"jxl": "pip install jxl", "x265-reference": "pip install av"}
    monkeypatch.setattr(baselines, "available", lambda: (here, missing))
    assert [coder.name for coder in Setup((), None).coders()] == ["jpeg", "avif"]
    assert Setup((), None).missing() == {"x265-reference": "pip install av"}
    assert Setup((), EVERYTHING).missing() == missing
    assert Setup((), ("jpeg",)).missing() == {}


def test_a_line_a_pair_goes_to_a_file(refscale: Callable[..., Outcome], place: Path) -> None:
    outcome = refscale("rd-curve", place / "pairs.csv", "-o", place / "out", "--coders", "jpeg", "--jobs", "1")
    lines = outcome.err.splitlines()
    assert [line.rpartition(",")[0] for line in lines[:3]] == [
        f"{number} of 3 pairs: pictures {name}" for number, name in enumerate(("a", "b", "alone"), 1)
    ]
    assert lines[3] == "without a reference, and coded without one: 1 of 3 pictures"
    assert len(lines) == 5  # and what was written
    assert "\x1b" not in outcome.err + outcome.text
    again = refscale("rd-curve", place / "pairs.csv", "-o", place / "out", "--coders", "jpeg", "--metrics", "psnr,ssim")
    assert again.code == 0
    assert len(again.err.splitlines()) == 5  # nothing is measured again, and all is there
    assert (place / "out" / "rd-ssim.png").exists()
    refused = refscale("rd-curve", place / "pairs.csv", "-o", place / "out", "--metrics", "vmaf")
    assert (refused.code, refused.err) == (2, "error: unknown vmaf; there are: psnr, ssim, ms-ssim\n")


def test_where_nothing_is_compared_rates_and_psnr_are_printed(refscale: Callable[..., Outcome], place: Path) -> None:
    outcome = refscale("rd-curve", place / "pairs.csv", "-o", place / "out", "--coders", "webp", "--jobs", 1, "-q")
    note, head, *lines = outcome.text.splitlines()
    assert note.startswith("No BD-rates: they compare coders with jpeg or x265-reference. Means over pictures")
    assert head.split() == ["coder", "quality", "bits", "per", "pixel", "PSNR", "pictures", "encode", "decode"]
    rows = json.loads((place / "out" / "results.json").read_text())["rows"]
    for line, quality in zip(lines, dict.fromkeys(row["quality"] for row in rows), strict=True):
        of = [row for row in rows if row["quality"] == quality]
        bpp, psnr = (sum(row[name] for row in of) / 3 for name in ("bpp", "psnr"))
        assert line.split()[:5] == ["webp", str(quality), f"{bpp:.4f}", f"{psnr:.2f}", "3"]


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_results_tables_plots_and_report_are_written(place: Path, setup: Setup) -> None:
    pairs = study_pairs.check(study_pairs.find(place / "pairs.csv", None))
    rows = rdcurve.measure(pairs, setup, place / "out")
    results = output.results(rows, setup, "refscale rd-curve pairs.csv")
    scenes = output.scenes(pairs, rows, setup, 1.0, 2)
    assert [(scene.name, scene.coder) for scene in scenes] == [("a", "refscale-tiny-x2"), ("b", "refscale-tiny-x2")]
    assert set(scenes[0].layers) == {"target", "reference", "reconstruction", "error", "similarity"}
    nearest = min(
        (row for row in rows if (row.name, row.coder) == ("a", "refscale-tiny-x2")), key=lambda r: abs(r.bpp - 1)
    )
    assert (scenes[0].bpp, scenes[0].psnr) == (nearest.bpp, nearest.psnr)

    written = output.write(results, scenes, place / "out")
    assert {path.name for path in written} >= {"results.json", "summary.csv", "rd.png", "rd.svg", "report.html"}
    stored = results_files.read(place / "out" / "results.json")
    assert str(stored) == str(results)  # as text, since NaN differs from itself
    assert len(stored.rows) == len(rows)
    assert stored.versions["refscale"]
    assert stored.machine["cpu"] and stored.machine["cores"] >= 1
    assert (stored.machine["processes"], stored.machine["threads"]) == (1, 1)
    with (place / "out" / "summary.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(line["coder"], line["anchor"]) for line in table] == [("refscale-tiny-x2", "jpeg")]
    assert "a" in (place / "out" / "report.html").read_text()


@pytest.mark.slow
def test_two_files_of_weights_of_one_scale_are_compared(place: Path, tiny_weights: Path) -> None:
    other = place / "other.safetensors"
    stored_model(replace(TINY, width=4), other)
    setup = Setup((tiny_weights, other), ("jpeg", "refscale-tiny-x2", "refscale-other"))
    pairs = study_pairs.check(study_pairs.find(place / "new" / "a.png", place / "old" / "a.png"))
    results = output.results(rdcurve.measure(pairs, setup, place / "out"), setup, "refscale rd-curve")
    assert list(results.weights) == ["refscale-tiny-x2", "refscale-other"]
    assert len(set(results.weights.values())) == 2
    assert ("refscale-other", "refscale-tiny-x2") in [(c.coder, c.anchor) for c in results.comparisons]
    assert len({coder.label for coder in results.coders}) == 3


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes")
def test_names_of_any_bytes_reach_all_files(refscale: Callable[..., Outcome], tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n[b]")
    for folder in ("[red]", "old"):
        (tmp_path / folder).mkdir()
        PIL.Image.fromarray(drawn(1)).save(tmp_path / folder / f"{name}.png")
    outcome = refscale("rd-curve", tmp_path / "[red]", tmp_path / "old", "-o", tmp_path / name, "--coders", "jpeg,webp")
    assert outcome.code == 0, outcome.err
    assert "[red]" in outcome.text
    assert r"caf\xe9\n[b]/report.html" in outcome.err
    results = results_files.read(tmp_path / name / "results.json")
    assert {row.name for row in results.rows} == {r"caf\xe9\n[b]"}
    assert "[red]" in (tmp_path / name / "summary.csv").read_text(encoding="utf-8")
    os.remove(tmp_path / "old" / f"{name}.png")
    outcome = refscale(
        "rd-curve", tmp_path / "[red]" / f"{name}.png", tmp_path / "old" / f"{name}.png", "--coders", "jpeg"
    )
    assert (outcome.code, outcome.err.count("\n")) == (3, 1)
    assert r"caf\xe9\n[b].png" in outcome.err
