"""The commands of an index of references, and encode and decode with one."""

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from commands import TINY, assert_refusal, contents
from conftest import Outcome

from refscale_codec.archive import store
from refscale_codec.archive.references import References
from refscale_codec.errors import IndexFault

Refscale = Callable[..., Outcome]
INDEX = ("--refs", "i.sqlite")


@pytest.fixture
def indexed(place: Path, refscale: Refscale) -> Path:
    """Return the folder with an index of two pictures."""
    assert refscale("refs", "add", "ref.png", "other.png", *INDEX, "-q").code == 0
    return place


def test_a_picture_is_coded_against_the_best_and_decoded_by_the_index_alone(indexed: Path, refscale: Refscale) -> None:
    outcome = refscale("encode", "target.png", *INDEX, "--max-refs", "2", *TINY, "-o", "x.rsc", "--json")
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.text)
    assert facts["reference_pictures"] == [str(indexed / "ref.png")]
    assert "ref.png (of " in outcome.err
    outcome = refscale("decode", "x.rsc", *INDEX, *TINY, "-o", "found.png")
    assert outcome.code == 0, outcome.err
    assert refscale("decode", "x.rsc", "--ref", "ref.png", *TINY, "-o", "named.png").code == 0
    assert refscale("verify", "x.rsc", *INDEX, *TINY).code == 0
    assert (indexed / "found.png").read_bytes() == (indexed / "named.png").read_bytes()
    (line,) = refscale("refs", "list", "--files", "--json", *INDEX).text.splitlines()
    assert json.loads(line) == {"file": str(indexed / "x.rsc"), "needs": list(facts["references"])}
    assert refscale("refs", "find", "x.rsc", *INDEX).text == f"{indexed / 'ref.png'}\n"


def test_the_environment_names_the_index_where_nothing_else_does(
    indexed: Path, refscale: Refscale, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_refusal(refscale("refs", "list"), 2, "--refs", "REFSCALE_REFS")
    monkeypatch.setenv("REFSCALE_REFS", "i.sqlite")
    assert len(refscale("refs", "list").text.splitlines()) == 2
    assert refscale("decode", "with.rsc", *TINY, "-o", "a.png").code == 0
    assert refscale("decode", "with.rsc", "--ref", "ref.png", *TINY, "-o", "a.png").code == 0


def test_find_lists_candidates_the_best_first(indexed: Path, refscale: Refscale) -> None:
    lines = [json.loads(line) for line in refscale("refs", "find", "target.png", *INDEX, "--json").text.splitlines()]
    assert lines[0]["picture"] == str(indexed / "ref.png")
    assert [line["gain"] for line in lines] == sorted((line["gain"] for line in lines), reverse=True)
    assert refscale("refs", "find", "target.png", *INDEX).text.splitlines()[0].endswith("ref.png")
    assert "no picture of the same place" in refscale("refs", "find", "deep.png", *INDEX).err


def test_people_are_told_what_the_columns_are(indexed: Path, refscale: Refscale) -> None:
    listed, found = refscale("refs", "list", *INDEX), refscale("refs", "find", "target.png", *INDEX)
    for outcome, columns in ((listed, ["fingerprint", "taken", "size", "picture"]), (found, ["saves", "taken"])):
        (heading,) = outcome.err.splitlines()
        assert all(column in heading for column in columns)
        first = outcome.text.splitlines()[0]
        assert first[heading.index("taken")] == "-"
        assert first[heading.index("picture") :].startswith(str(indexed))
    for silent in ("--json", "-q"):
        assert refscale("refs", "list", *INDEX, silent).err == ""
    (facts, _) = map(json.loads, refscale("refs", "list", *INDEX, "--json").text.splitlines())
    assert facts["nodata_share"] == 0


def test_adding_tells_what_is_new_and_a_bad_file_is_one_line(indexed: Path, refscale: Refscale) -> None:
    outcome = refscale("refs", "add", "ref.png", "text.png", "with.rsc", *INDEX, "--json")
    assert (outcome.code, json.loads(outcome.text)) == (9, {"added": 1, "decoded": 0, "unchanged": 1, "failed": 1})
    for added in (1, 0):  # a date that is given later counts as a change, once
        told = json.loads(refscale("refs", "add", "ref.png", *INDEX, "--json", "--date", "2021-05-03").text)
        assert (told["added"], told["unchanged"]) == (added, 1 - added)
    assert [line for line in outcome.err.splitlines() if "text.png" in line]
    for bad in ("May", "2021-05-033", "2021-05-03 10:11"):
        assert_refusal(refscale("refs", "add", "ref.png", *INDEX, "--date", bad), 2, "--date must be a date")


def test_a_full_disk_of_an_index_is_told_though_sqlite_has_rolled_back(
    indexed: Path, refscale: Refscale, monkeypatch: pytest.MonkeyPatch
) -> None:
    do = store.Store.do

    def full(self: store.Store, statement: str, values: Any = ()) -> int:
        if statement.startswith("PRAGMA user_version ="):
            do(self, "ROLLBACK")
            raise IndexFault("i.sqlite cannot be used: database or disk is full")
        return do(self, statement, values)

    monkeypatch.setattr(store.Store, "do", full)
    assert_refusal(refscale("encode", "target.png", *INDEX, *TINY, "-o", "x.rsc"), 11, "database or disk is full")


def test_a_damaged_index_is_one_message_without_a_heading(indexed: Path, refscale: Refscale) -> None:
    with sqlite3.connect("i.sqlite") as file:
        file.execute("UPDATE picture SET width = 0")
    file.close()
    assert_refusal(refscale("refs", "list", *INDEX), 11, "is damaged (a wrong width)")


def test_a_date_that_is_not_used_is_told(indexed: Path, refscale: Refscale, caplog: pytest.LogCaptureFixture) -> None:
    exif = PIL.Image.Exif()
    exif[0x0110] = "X100"
    exif.get_ifd(0x8769)[0x9003] = "2019:07:08 10:11:12"
    PIL.Image.open("target.png").save("dated.png", exif=exif)
    for line in (("ref.png", "--date", "2021-05-03"), ("ref.png", "--date", "2021-05-03"), ("dated.png",)):
        assert refscale("refs", "add", *line, *INDEX).code == 0
    assert caplog.messages == []
    for name, options, known in (("ref.png", (), "2021-05-03"), ("dated.png", ("-f",), "2019-07-08T10:11:12")):
        assert refscale("refs", "add", name, *INDEX, "--date", "2022-01-01", *options).code == 0
        said = caplog.messages.pop()
        caplog.clear()
        assert said.endswith(f"{name}: the date 2022-01-01 is not used: it has one already, {known}")
        assert f"  {known}  " in refscale("refs", "list", *INDEX).text
    assert refscale("refs", "add", "ref.png", *INDEX, "--date", "2022-01-01", "-f").code == 0
    assert caplog.messages == []
    assert "  2022-01-01  " in refscale("refs", "list", *INDEX).text


def test_check_gc_and_move(indexed: Path, refscale: Refscale) -> None:
    refscale("refs", "add", "with.rsc", *INDEX, "-q")
    assert refscale("refs", "check", *INDEX) == Outcome(0, b"", "1 file in care, and nothing is missing\n")
    assert refscale("refs", "gc", *INDEX, "--before", "2100-01-01", "--delete").text == ""
    (indexed / "other.png").unlink()
    assert refscale("refs", "gc", *INDEX, "--dry-run").text == f"forgotten: {indexed / 'other.png'}\n"
    assert refscale("refs", "gc", *INDEX).text == f"forgotten: {indexed / 'other.png'}\n"
    (indexed / "away").mkdir()
    (indexed / "ref.png").rename(indexed / "away" / "ref.png")
    outcome = refscale("refs", "check", *INDEX, "--json")
    assert (outcome.code, json.loads(outcome.text)["reason"]) == (6, "missing")
    assert_refusal(refscale("decode", "with.rsc", *INDEX, *TINY, "-o", "a.png"), 6, "with.rsc", "missing")
    assert refscale("refs", "gc", *INDEX).text == ""
    (indexed / "away" / "ref.png").rename(indexed / "ref.png")
    (indexed / "pictures").mkdir()
    (indexed / "ref.png").rename(indexed / "pictures" / "ref.png")
    assert_refusal(refscale("refs", "move", "nowhere", "pictures", *INDEX), 2, "i.sqlite has nothing below nowhere")
    assert json.loads(refscale("refs", "move", ".", "pictures", *INDEX, "--json").text) == {"moved": 2}
    (indexed / "with.rsc").rename(indexed / "pictures" / "with.rsc")
    assert refscale("refs", "check", *INDEX).code == 0


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("encode target.png --ref ref.png --refs i.sqlite", 2, ["--ref and --refs exclude each other"]),
        ("encode target.png --max-refs 2", 2, ["--max-refs would have no effect"]),
        ("encode target.png --refs none.sqlite -o x.rsc", 11, ["no index none.sqlite", "refs add"]),
        ("decode with.rsc --refs ref.png -o x.png", 11, ["ref.png is not an index"]),
        ("refs list --refs ref.png", 11, ["ref.png is not an index"]),
        ("refs add ref.png --refs other.png", 11, ["other.png is not an index"]),
        ("refs gc --before soon --refs i.sqlite", 2, ["--before must be a date"]),
    ],
)
def test_refusals(place: Path, refscale: Refscale, line: str, code: int, words: list[str]) -> None:
    before = contents(place)
    assert_refusal(refscale(*line.split()), code, *words)
    assert contents(place) == before


def test_a_file_alone_is_in_care_too_and_stdout_is_not(indexed: Path, refscale: Refscale) -> None:
    outcome = refscale("encode", "grey.png", *INDEX, *TINY, "-o", "alone.rsc", "--json")
    assert (outcome.code, json.loads(outcome.text)["reference_pictures"]) == (0, [])
    assert refscale("encode", "target.png", *INDEX, *TINY, "-o", "-").code == 0
    assert len(refscale("refs", "list", "--files", *INDEX).text.splitlines()) == 1


@pytest.mark.parametrize(
    "line",
    [
        "decode with.rsc --refs i.sqlite -o ref.png",
        "decode with.rsc --refs i.sqlite -o linked.png",
        "decode with.rsc --refs i.sqlite -f --format png -o i.sqlite",
        "decode with.rsc --refs i.sqlite --format png -o i.sqlite-journal",
        "encode target.png --refs i.rsc -o i.rsc",
        "encode target.png --refs i.sqlite -o bare",
        "decode with.rsc --refs i.sqlite -o other.png",  # which this file does not need
        "decode alone.rsc --refs i.sqlite -o other.png",
        "encode grey.png --refs i.sqlite -o bare",
    ],
)
def test_no_output_goes_over_the_index_or_what_it_supplies(indexed: Path, refscale: Refscale, line: str) -> None:
    (indexed / "linked.png").symlink_to("ref.png")
    (indexed / "ref.png").rename(indexed / "bare")
    (indexed / "ref.png").symlink_to("bare")
    (indexed / "i.rsc").write_bytes((indexed / "i.sqlite").read_bytes())
    before = contents(indexed)
    assert_refusal(refscale(*line.split(), *TINY), 2, "is also an input")
    assert contents(indexed) == before


def test_no_output_goes_over_the_index_of_the_environment(
    indexed: Path, refscale: Refscale, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFSCALE_REFS", "i.sqlite")
    before = contents(indexed)
    for line in ("decode with.rsc", "decode with.rsc --ref ref.png", "diff target.png --ref ref.png"):
        assert_refusal(refscale(*line.split(), *TINY, "--format", "png", "-o", "i.sqlite"), 2, "is also an input")
    assert contents(indexed) == before


def test_an_index_that_cannot_be_written_to_is_told_before_any_work(
    indexed: Path, refscale: Refscale, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_PATIENCE", 0.01)
    monkeypatch.setattr(References, "find", lambda *_: pytest.fail("looked for references"))
    with sqlite3.connect(indexed / "i.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        assert_refusal(refscale("encode", "target.png", *INDEX, *TINY, "-o", "x.rsc"), 11, "is busy")
    other.close()
    assert not (indexed / "x.rsc").exists()


def test_a_device_is_in_nobodys_care(indexed: Path, refscale: Refscale) -> None:
    assert refscale("encode", "target.png", *INDEX, *TINY, "-o", "/dev/null").code == 0
    if Path("/dev/full").exists():
        (indexed / "full.rsc").symlink_to("/dev/full")
        assert_refusal(refscale("encode", "target.png", *INDEX, *TINY, "-o", "full.rsc"), 10, "full.rsc")
    assert refscale("refs", "list", "--files", *INDEX).text == ""


def test_folders_that_cannot_be_read_are_told(
    indexed: Path, refscale: Refscale, monkeypatch: pytest.MonkeyPatch
) -> None:
    (indexed / "many" / "locked").mkdir(parents=True)
    (indexed / "target.png").rename(indexed / "many" / "a.png")
    scan = os.scandir

    def denied(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    for line in ("refs add many --refs i.sqlite", "batch many -o out --jobs 1"):
        outcome = refscale(*line.split(), *(TINY if "batch" in line else ()), "--json")
        assert outcome.code == 9
        assert "cannot read the folder many/locked: Permission denied" in outcome.err
        facts = json.loads(outcome.text)
        assert facts.get("added", facts.get("coded")) == 1


@pytest.mark.parametrize(
    "line", ["refs add in --refs i.sqlite", "batch in -o b --jobs 1", "batch-decode in -o b --jobs 1"]
)
def test_a_link_to_nothing_is_told(indexed: Path, refscale: Refscale, line: str) -> None:
    (indexed / "in").mkdir()
    kind = ".rsc" if "decode" in line else ".png"
    (indexed / "in" / f"x{kind}").symlink_to("nowhere")
    outcome = refscale(*line.split(), *(TINY if "batch" in line else ()))
    assert outcome.err.startswith(f"cannot read in/x{kind}: it is a link, and No such file or directory\n")
    assert (outcome.code, "Traceback" in outcome.err) == (9 if "add" in line else 2, False)
    (indexed / ("alone.rsc" if "decode" in line else "target.png")).rename(indexed / "in" / f"a{kind}")
    outcome = refscale(*line.split(), *(TINY if "batch" in line else ()))
    assert outcome.code == 9 and f"cannot read in/x{kind}: it is a link" in outcome.err


def test_a_reference_that_is_a_link_to_nothing_fails_its_picture(indexed: Path, refscale: Refscale) -> None:
    for folder in ("in", "old"):
        (indexed / folder).mkdir()
    (indexed / "target.png").rename(indexed / "in" / "a.png")
    (indexed / "old" / "a.png").symlink_to("nowhere")
    outcome = refscale("batch", "in", "--ref", "old", "-o", "b", "--jobs", "1", *TINY)
    assert outcome.code == 9 and "old/a.png" in outcome.err
