"""`train`, `eval` and `rd-curve`, as a user sees them, through `cli.main()`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest
from commands import REF, TINY, assert_refusal, contents, drawn, older
from conftest import Outcome

from refscale_codec.cli import study


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
    pairs_csv.write_text(pairs_csv.read_text().replace(",third_old.png", ","))
    outcome = refscale("eval", pairs_csv, *arguments)
    assert outcome.code == 0
    assert "nan" not in outcome.err
    assert "field alone: no BD-rate: usable points" in outcome.err
    assert "without a reference, and coded without one: 1 of 1 picture\n" in outcome.err
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
        assert name in outcome.err
    assert refscale(*line, "--jobs", "1").code == 0
    assert contents(place / "report")["rows.jsonl"] == files["rows.jsonl"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("pairs.csv -o report/", "pairs.csv -o report/"),
        ("/a/b/pairs.csv -o ../c/report//", "pairs.csv -o report//"),
        ("--output=/a/b/report/ new/ /", "--output=report/ new/ /"),
        ("a/b.png --weights=a/c.safetensors -q", "b.png --weights=c.safetensors -q"),
    ],
)
def test_a_command_is_recorded_with_the_last_name_of_each_path(
    monkeypatch: pytest.MonkeyPatch, given: str, told: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["refscale", "rd-curve", *given.split()])
    assert study._command() == f"refscale rd-curve {told}"


@pytest.mark.parametrize("text", ['{"precious": 1}\n', "[" * 100_000])
@pytest.mark.parametrize("name", ["results.json", "report.html", "rows.jsonl", "summary.csv", "rd-log.svg"])
def test_rd_curve_leaves_files_of_another_origin_alone(
    refscale: Callable[..., Outcome], place: Path, name: str, text: str
) -> None:
    (place / "report").mkdir()
    (place / "report" / name).write_text(text)
    before = contents(place)
    outcome = refscale("rd-curve", "target.png", "ref.png", "-o", "report", "--coders", "jpeg", "--jobs", "1")
    assert_refusal(outcome, 2, f"{name} exists, and no earlier run has written it")
    assert contents(place) == before
