"""batch: many pictures in one call, each once, and none that stops the others."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from conftest import Outcome, without_torch

from refscale_codec import __version__, workers
from refscale_codec.archive import disk
from refscale_codec.batch import encoding, running, tasks
from refscale_codec.cli import terminal
from refscale_codec.errors import UsageError
from refscale_codec.study import pairs


def drawn(seed: int, side: int = 32) -> PIL.Image.Image:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, : side * 3 // 2]
    waves = 128 + 70 * np.sin(x[..., None] * rng.uniform(0.1, 0.5, 3) + y[..., None] * rng.uniform(0.1, 0.5, 3))
    return PIL.Image.fromarray(np.clip(waves + rng.normal(0, 5, waves.shape), 0, 255).astype(np.uint8))


@pytest.fixture
def place(tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures, one of them without a reference; the command line runs there."""
    for name, seed in (("new/a", 1), ("new/more/b", 2), ("new/c", 3), ("old/a", 1), ("old/more/b", 2)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        drawn(seed).save(tmp_path / f"{name}.png")
    (tmp_path / "pairs.csv").write_text("target,reference\nnew/a.png,old/a.png\nnew/more/b.png,old/more/b.png\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(
    refscale: Callable[..., Outcome], tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Outcome, list[str]]]:
    """Run the command in this process; also returns which files were coded."""
    coded: list[str] = []

    def here(
        work: Callable[[Any], Any], tasks: Iterable[Any], jobs: int, prepare: Callable[[], None]
    ) -> Generator[tuple[Any, Any], None, None]:
        prepare()
        for task in tasks:
            coded.append(task.item.file)
            yield task, work(task)

    def ran(*arguments: object) -> tuple[Outcome, list[str]]:
        coded.clear()
        outcome = refscale("batch", *arguments, "--weights", tiny_weights, "--device", "cpu")
        return outcome, [*coded]

    monkeypatch.setattr(workers, "run", here)
    return ran


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "batch.jsonl").read_text().splitlines()]


def encoded(refscale: Callable[..., Outcome], weights: Path, *arguments: object) -> bytes:
    outcome = refscale("encode", *arguments, "--weights", weights, "--device", "cpu", "-o", "one.rsc")
    assert outcome.code == 0, outcome.err
    return Path("one.rsc").read_bytes()


# --- what is to be done ----------------------------------------------------------------------------------------------


def test_files_have_the_paths_of_their_pictures(place: Path) -> None:
    def found(*arguments: Any) -> list[tuple[str, ...]]:
        return [
            (item.file, *(one.relative_to(place).as_posix() for one in item.references))
            for item in encoding.find(*arguments)
        ]

    assert found(place / "new") == [("a.rsc",), ("c.rsc",), ("more/b.rsc",)]
    assert found(place / "new", place / "old") == [
        ("a.rsc", "old/a.png"),
        ("c.rsc",),
        ("more/b.rsc", "old/more/b.png"),
    ]
    one = place / "old" / "a.png"
    assert found(place / "new", one) == [(file, "old/a.png") for file in ("a.rsc", "c.rsc", "more/b.rsc")]
    assert found(place / "pairs.csv") == [("new/a.rsc", "old/a.png"), ("new/more/b.rsc", "old/more/b.png")]
    (place / "old" / "list.csv").write_text(f"target,reference\n../new/a.png,\n{place}/new/c.png,\n")
    assert found(place / "old" / "list.csv") == [("new/a.rsc",), ("new/c.rsc",)]


@pytest.mark.parametrize("suffix", [".jpe", ".JFIF", ".jpeg"])
def test_folders_are_searched_for_pictures_by_every_suffix_of_them(tmp_path: Path, suffix: str) -> None:
    folders = [tmp_path / "new", tmp_path / "old"]
    for folder in folders:
        folder.mkdir()
        drawn(1).save(folder / f"a{suffix}", "JPEG")
    new, old = (folder / f"a{suffix}" for folder in folders)
    assert [(item.picture, item.references) for item in encoding.find(*folders)] == [(new, (old,))]
    assert list(disk.listed(folders, pytest.fail)) == [new, old]
    assert [(pair.target, pair.reference) for pair in pairs.find(*folders)] == [(new, old)]
    assert terminal.named_after(str(new), ".rsc") == str(tmp_path / "new" / "a.rsc")


@pytest.mark.parametrize(
    ("source", "reference", "split", "said"),
    [
        ("nothing", None, None, "does not exist"),
        ("new/a.png", None, None, "`refscale encode` codes one"),
        ("empty", None, None, "no picture"),
        ("new", "empty", None, "no picture of the same name"),
        ("new", None, "dev", "--split"),
        ("pairs.csv", "old", None, "--ref would have no effect"),
        ("twice.csv", None, None, "more than once"),
        ("folder.csv", None, None, "is a folder, not a picture"),
        ("alike", None, None, r"a\.png and .*a\.webp would both be a\.rsc"),
    ],
)
def test_what_cannot_be_a_batch_is_refused(
    place: Path, source: str, reference: str | None, split: str | None, said: str
) -> None:
    (place / "empty").mkdir()
    (place / "twice.csv").write_text("target,reference\nnew/a.png,\nnew/a.png,old/a.png\n")
    (place / "folder.csv").write_text("target,reference\n.,old/a.png\n")
    (place / "alike").mkdir()
    for suffix in ("png", "webp"):
        drawn(1).save(place / "alike" / f"a.{suffix}")
    with pytest.raises(UsageError, match=said):
        encoding.find(place / source, None if reference is None else place / reference, split)


# --- coding ----------------------------------------------------------------------------------------------------------


def test_files_are_those_of_encode_and_lines_tell_of_them(
    place: Path, run: Callable[..., tuple[Outcome, list[str]]], refscale: Callable[..., Outcome], tiny_weights: Path
) -> None:
    outcome, coded = run("new", "--ref", "old", "-o", "out", "--quality", "60", "--output-hash", "--json")
    assert (outcome.code, coded) == (0, ["a.rsc", "c.rsc", "more/b.rsc"]), outcome.err
    for name in ("a", "more/b", "c"):
        older = [] if name == "c" else ["--ref", f"old/{name}.png"]
        options = [*older, "--quality", "60", "--output-hash"]
        assert (place / "out" / f"{name}.rsc").read_bytes() == encoded(
            refscale, tiny_weights, f"new/{name}.png", *options
        )
    summary, told = json.loads(outcome.text), lines(place / "out")
    alone = sum(not line["references"] for line in told)
    assert {key: summary[key] for key in ("pictures", "coded", "unchanged", "failed", "without_reference")} == {
        **{"pictures": 3, "coded": 3, "unchanged": 0, "failed": 0, "without_reference": alone}
    }
    assert [(line["name"], line["file"], line["error"]) for line in told] == [
        ("a", "a.rsc", None),
        ("c", "c.rsc", None),
        ("b", "more/b.rsc", None),
    ]
    for line in told:
        size = (place / "out" / line["file"]).stat().st_size
        assert (line["bytes"], line["bpp"], line["quality"]) == (size, round(8 * size / (32 * 48), 4), 60)
        assert line["psnr"] > 10 and line["seconds"] > 0
        older = [str(Path("old", line["file"]).with_suffix(".png"))] if line["references"] else []
        assert line["reference_pictures"] == older
        assert list(line["references"]) == [refscale("fingerprint", path).text.split()[0] for path in older]
    assert summary["bytes"] == sum(line["bytes"] for line in told)


def test_an_index_finds_references_and_cares_for_the_files(
    place: Path, run: Callable[..., tuple[Outcome, list[str]]], refscale: Callable[..., Outcome], tiny_weights: Path
) -> None:
    index = "--refs", "i.sqlite"
    for seed in (1, 2):  # large enough that a reference pays
        drawn(seed, 160).save(place / f"old/{seed}.png")
        drawn(seed, 160).point(lambda level: level * 15 // 16).save(place / f"new/{seed}.png")
    assert refscale("refs", "add", "old", *index).code == 0
    assert "with the best of i.sqlite" in run("new", "-o", "out", *index, "--dry-run")[0].text
    (place / "some.csv").write_text("target,reference\nnew/1.png,\nnew/2.png,old/2.png\n")
    outcome, coded = run("some.csv", "-o", "out", *index, "--max-refs", "2")
    assert (outcome.code, len(coded)) == (0, 2), outcome.err
    assert [[Path(path).name for path in line["reference_pictures"]] for line in lines(place / "out")] == [
        ["1.png"],
        ["2.png"],
    ]
    options = *index, "--max-refs", "2", "--weights", tiny_weights
    assert refscale("encode", "new/1.png", *options, "-o", "one.rsc").code == 0
    assert (place / "one.rsc").read_bytes() == (place / "out" / "new" / "1.rsc").read_bytes()
    assert len(refscale("refs", "list", "--files", *index).text.splitlines()) == 3
    assert run("some.csv", "-o", "out", *index, "--max-refs", "2")[1] == []
    assert len(run("some.csv", "-o", "out", *index)[1]) == 2
    for words in ("--refs i.sqlite --ref old", "--max-refs 2", "--refs nowhere.sqlite"):
        outcome, coded = run("new", "-o", "out2", *words.split())
        assert (outcome.code, coded) in ((2, []), (11, [])) and not (place / "out2").exists()


def test_values_to_code_are_those_of_encode(
    place: Path, run: Callable[..., tuple[Outcome, list[str]]], refscale: Callable[..., Outcome], tiny_weights: Path
) -> None:
    (place / "deep").mkdir()
    PIL.Image.fromarray(np.asarray(drawn(1))[..., 0].astype(np.uint16) * 30).save(place / "deep" / "a.png")
    outcome, coded = run("deep", "-o", "out", "--range", "0,5000")
    assert (outcome.code, coded) == (0, ["a.rsc"]), outcome.err
    data = (place / "out" / "a.rsc").read_bytes()
    assert data == encoded(refscale, tiny_weights, "deep/a.png", "--range", "0,5000")
    assert run("deep", "-o", "out", "--range", "0, 5000")[1] == []  # which says the same
    outcome, coded = run("deep", "-o", "out", "--range", "0,5500")
    assert coded == ["a.rsc"]
    (line,) = lines(place / "out")
    (warning,) = line["warnings"]
    assert "lie beyond the range 0..5500: clipped" in warning
    assert outcome.err.splitlines()[0] == f"a.rsc: {warning}"
    outcome, coded = run("deep", "-o", "out", "--range", "0;6000")
    assert (outcome.code, coded) == (2, [])


def test_a_second_run_codes_only_what_is_missing_or_has_changed(
    place: Path, run: Callable[..., tuple[Outcome, list[str]]]
) -> None:
    line = ("new", "--ref", "old", "-o", "out", "--quality", "60")
    assert run(*line)[1] == ["a.rsc", "c.rsc", "more/b.rsc"]
    kept = (place / "out" / "batch.jsonl").read_bytes()
    outcome, coded = run(*line)
    assert (outcome.code, coded) == (0, [])
    assert "0 of 3 pictures coded" in outcome.err
    assert (place / "out" / "batch.jsonl").read_bytes() == kept

    (place / "out" / "a.rsc").unlink()
    assert run(*line)[1] == ["a.rsc"]
    drawn(9).save(place / "old" / "more" / "b.png")  # another reference
    assert run(*line)[1] == ["more/b.rsc"]
    (place / "new" / "c.pgw").write_text("1\n0\n0\n-1\n0\n0\n")  # the picture's place
    assert run(*line)[1] == ["c.rsc"]
    (place / "out" / "batch.jsonl").write_bytes(
        (place / "out" / "batch.jsonl").read_bytes()[:-9]
    )  # as a kill leaves it
    assert run(*line)[1] == ["more/b.rsc"]  # with the same bytes, so it may be written
    assert run(*line[:-1], "70")[1] == ["a.rsc", "c.rsc", "more/b.rsc"]
    assert [line["file"] for line in lines(place / "out")] == ["a.rsc", "c.rsc", "more/b.rsc"]  # one each
    drawn(5).save(place / "new" / "d.png")
    assert run(*line[:-1], "70")[1] == ["d.rsc"]


def test_a_bad_picture_is_one_line_and_the_run_goes_on(
    place: Path, run: Callable[..., tuple[Outcome, list[str]]]
) -> None:
    (place / "new" / "b.png").write_text("nothing to see")
    outcome, coded = run("new", "-o", "out")
    assert (outcome.code, coded) == (9, ["a.rsc", "b.rsc", "c.rsc", "more/b.rsc"])
    bad, told, error = outcome.err.splitlines()
    assert bad.startswith("b.rsc: new/b.png") and told.startswith("out: 3 of 4 pictures coded")
    assert error == "error: 1 of 4 pictures could not be coded; out/batch.jsonl has why"
    assert [line["error"] is None for line in lines(place / "out")] == [True, False, True, True]
    assert not (place / "out" / "b.rsc").exists()
    drawn(4).save(place / "new" / "b.png")
    assert run("new", "-o", "out")[1] == ["b.rsc"]
    (place / "new" / "b.png").unlink()
    (place / "list.csv").write_text("target,reference\nnew/b.png,\nnew/a.png,no.png\n")
    outcome, _ = run("list.csv", "-o", "second")
    assert outcome.code == 9
    assert [line["error"] for line in lines(place / "second")] == ["new/b.png does not exist", "no.png does not exist"]


def test_a_file_of_another_origin_is_left_alone(place: Path, run: Callable[..., tuple[Outcome, list[str]]]) -> None:
    (place / "out").mkdir()
    (place / "out" / "a.rsc").write_bytes(b"precious")
    for _ in range(2):  # a failure does not make it ours
        outcome, _ = run("new", "-o", "out")
        assert (outcome.code, (place / "out" / "a.rsc").read_bytes()) == (9, b"precious")
        assert "a.rsc: out/a.rsc exists, and no earlier run has written it: -f overwrites it" in outcome.err
    assert run("new", "-o", "out", "-f")[0].code == 0
    assert (place / "out" / "a.rsc").read_bytes() != b"precious"


@pytest.mark.parametrize("precious", ["mine", '{"a": 1}\n{"name": "b"}\n', "\x00\n"])
def test_a_journal_of_another_origin_is_left_alone(
    place: Path, run: Callable[..., tuple[Outcome, list[str]]], precious: str
) -> None:
    journal = place / "out" / "batch.jsonl"
    journal.parent.mkdir()
    journal.write_text(precious)
    outcome, coded = run("new", "-o", "out")
    assert (outcome.code, coded, journal.read_text()) == (2, [], precious)
    assert "batch.jsonl exists, and no earlier run has written it: -f overwrites it" in outcome.err
    assert run("new", "-o", "out", "-f")[0].code == 0
    assert [line["error"] for line in lines(place / "out")] == [None] * 3


@pytest.mark.parametrize("text", ["", '{"na', '{"name": "a", "fi'])
def test_a_journal_that_was_cut_short_in_its_first_line_is_gone_on_with(
    place: Path, run: Callable[..., tuple[Outcome, list[str]]], text: str
) -> None:
    (place / "out").mkdir()
    (place / "out" / "batch.jsonl").write_text(text)
    assert run("new", "-o", "out")[0].code == 0


DAMAGED = [
    '{"name": "t", "file": [], "key": "1"}',
    '{"name": "t", "file": {}, "key": "1", "error": null}',
    "[" * 200_000,
    '{"a": ' * 200_000,
    '{"name": "a", "file": "a.rsc", "key": "1", "bpp": NaN}',
    '{"name": "a", "file": "a.rsc", "key": "1", "bpp": 1e999}',
    '{"name": "a", "file": "a.rsc", "key": "1", "error": null, "bytes": "x", "sha256": 5}',
]


@pytest.mark.parametrize("damaged", DAMAGED, ids=lambda text: text[:60])
def test_lines_of_a_journal_that_are_damaged_are_passed_over(
    place: Path, run: Callable[..., tuple[Outcome, list[str]]], damaged: str
) -> None:
    run("new", "-o", "out")
    journal = place / "out" / "batch.jsonl"
    sound = journal.read_text()
    journal.write_text(f"{damaged}\n{sound}{damaged}\n")
    outcome, coded = run("new", "-o", "out")
    assert (outcome.code, coded, journal.read_text()) == (0, [], sound)


def test_a_coded_file_that_was_damaged_is_no_longer_done(
    place: Path, run: Callable[..., tuple[Outcome, list[str]]]
) -> None:
    run("new", "-o", "out")
    path = place / "out" / "a.rsc"
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    outcome, coded = run("new", "-o", "out")
    assert (outcome.code, coded) == (9, ["a.rsc"])
    assert "out/a.rsc exists, and it is not what was written: -f overwrites it" in outcome.err
    assert run("new", "-o", "out", "-f")[1] == ["a.rsc"]
    assert path.read_bytes() == sound
    assert run("new", "-o", "out")[1] == []


def test_a_dry_run_lists_what_would_be_done_and_writes_nothing(
    place: Path, run: Callable[..., tuple[Outcome, list[str]]]
) -> None:
    outcome, coded = run("pairs.csv", "-o", "out", "--dry-run")
    assert (outcome.code, coded, (place / "out").exists()) == (0, [], False)
    assert outcome.text.splitlines() == [
        "new: new/a.png with old/a.png to new/a.rsc",
        "new: new/more/b.png with old/more/b.png to new/more/b.rsc",
    ]
    run("pairs.csv", "-o", "out")
    drawn(7).save(place / "new" / "a.png")
    told = [json.loads(line) for line in run("pairs.csv", "-o", "out", "--dry-run", "--json")[0].text.splitlines()]
    assert [(line["file"], line["state"]) for line in told] == [("new/a.rsc", "changed"), ("new/more/b.rsc", "done")]


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes by name there")
def test_a_pipe_where_a_file_or_the_journal_would_be_is_told(
    place: Path, run: Callable[..., tuple[Outcome, list[str]]]
) -> None:
    (place / "out").mkdir()
    os.mkfifo(place / "out" / "a.rsc")
    outcome = run("new", "-o", "out")[0]
    assert outcome.code == 9
    assert outcome.err.startswith("a.rsc: out/a.rsc exists, and no earlier run has written it: -f overwrites it\n")
    assert (place / "out" / "c.rsc").is_file()
    (place / "other").mkdir()
    os.mkfifo(place / "other" / "batch.jsonl")
    outcome = run("new", "-o", "other")[0]
    assert (outcome.code, outcome.err) == (10, "error: cannot read other/batch.jsonl: it is no file\n")


LONG = "x" * 300


@pytest.mark.parametrize(
    "line",
    [
        f"batch {LONG} -o out",
        f"batch {LONG}.json -o out",
        f"batch-decode {LONG} -o out",
        f"rd-curve {LONG} -o out",
        f"rd-curve {LONG} {LONG} -o out",
        f"rd-curve new {LONG} -o out",
    ],
)
def test_a_source_whose_name_is_too_long_is_one_message(
    place: Path, refscale: Callable[..., Outcome], line: str
) -> None:
    outcome = refscale(*line.split())
    assert (outcome.code, outcome.err.count("\n")) in ((2, 1), (3, 1)), outcome.err
    assert outcome.err.startswith("error: ")
    assert ("File name too long" in outcome.err) == ("new" not in line)
    assert not (place / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="a link needs a privilege there")
def test_a_dry_run_has_the_exit_code_of_what_cannot_be_read(
    place: Path, run: Callable[..., tuple[Outcome, list[str]]], refscale: Callable[..., Outcome]
) -> None:
    (place / "new" / "gone.png").symlink_to("nowhere")
    outcome = run("new", "-o", "out", "--dry-run")[0]
    assert (outcome.code, len(outcome.text.splitlines())) == (9, 3)
    assert outcome.err.splitlines()[1:] == ["error: 1 files and folders could not be read"]
    run("new", "-o", "out", "--ref", "old")
    (place / "out" / "gone.rsc").symlink_to("nowhere")
    outcome = refscale("batch-decode", "out", "-o", "back", "--dry-run")
    assert (outcome.code, len(outcome.text.splitlines())) == (9, 3)
    assert outcome.err.splitlines()[1:] == ["error: 1 files and folders could not be read"]


@pytest.mark.parametrize(
    ("options", "told"),
    [((), "out: 0 of 3 pictures coded; 3 were coded already\n"), (("--dry-run",), "done: new/a.png alone to a.rsc\n")],
)
def test_what_is_done_already_is_told_without_torch(
    place: Path,
    run: Callable[..., tuple[Outcome, list[str]]],
    tiny_weights: Path,
    options: tuple[str, ...],
    told: str,
) -> None:
    run("new", "-o", "out")
    done = without_torch("batch", "new", "-o", "out", "--weights", tiny_weights, *options)
    assert (done.code, (done.text + done.err)[: len(told)]) == (0, told)


def test_wrong_weights_are_refused_before_anything_is_written(place: Path, refscale: Callable[..., Outcome]) -> None:
    (place / "junk.safetensors").write_text("not weights")
    outcome = refscale("batch", "new", "-o", "out", "--weights", "junk.safetensors")
    assert (outcome.code, (place / "out").exists()) == (5, False)
    assert "junk.safetensors" in outcome.err


def test_a_process_that_dies_twice_is_the_error_of_its_picture(
    place: Path, run: Callable[..., tuple[Outcome, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "run", lambda _, tasks, *rest: ((task, None) for task in tasks))
    outcome, _ = run("new", "-o", "out")
    assert outcome.code == 9
    assert {line["error"] for line in lines(place / "out")} == {
        "its process ended by itself each time, perhaps for lack of memory; fewer at a time need less"
    }


def test_a_process_of_another_version_does_nothing(place: Path) -> None:
    item = tasks.Item("a", Path("new/a.png"), (), "a.rsc")
    task = tasks.Task(item, Path("out"), "key", "new", None)
    line, data = running._work("0.0", encoding.Encoding(None, "of no weights"), str, task)
    assert (line["error"], data) == (f"its process has refscale {__version__}, and 0.0 is wanted", b"")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a process group is interrupted")
def test_an_interrupt_ends_all_processes_and_a_later_run_goes_on(
    place: Path, tiny_weights: Path, run: Callable[..., tuple[Outcome, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        drawn(number).save(place / "new" / f"{number:02}.png")
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from refscale_codec.__main__ import main; main()"
    line = ["batch", "new", "-o", "out", "--jobs", "2", "--device", "cpu", "--weights", str(tiny_weights)]
    running = subprocess.Popen([sys.executable, "-c", program, *line], stdout=-1, stderr=-1, start_new_session=True)
    told = place / "out" / "batch.jsonl"
    while running.poll() is None and not (told.exists() and told.read_bytes()):
        time.sleep(0.005)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=60)  # a process that is left would keep them open
    assert (running.returncode, out, err) == (130, b"", b"interrupted\n")
    before = [line["file"] for line in lines(place / "out")]
    assert 0 < len(before) < 43
    assert not list((place / "out").rglob("*.part"))
    outcome, coded = run("new", "-o", "out")
    assert (outcome.code, len(coded)) == (0, 43 - len(before))
    assert not set(coded) & set(before)
    assert len(list((place / "out").rglob("*.rsc"))) == 43
