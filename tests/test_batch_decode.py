"""batch-decode: many files in one call, with their references, each once, and none that stops the others."""

import json
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from conftest import Outcome, without_torch

from refscale_codec import model, workers
from refscale_codec.batch import decoding
from refscale_codec.codec import encoder
from refscale_codec.errors import UsageError
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures

Run = Callable[..., tuple[Outcome, list[str]]]


def drawn(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :96]
    waves = 128 + 70 * np.sin(x[..., None] * rng.uniform(0.1, 0.5, 3) + y[..., None] * rng.uniform(0.1, 0.5, 3))
    return np.clip(waves + rng.normal(0, 5, waves.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def place(tmp_path: Path, tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files with references of their names, one that needs none, and one of float samples; the working folder."""
    for name, seed in (("a", 1), ("more/b", 2)):
        older = Image(drawn(seed))
        for folder in ("coded", "old"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        pictures.write(older, tmp_path / f"old/{name}.png")
        newer = Image(np.clip(drawn(seed) * 0.9 + 8, 0, 255).astype(np.uint8))
        data = encoder.encode(newer, older, tiny_model)
        assert decoding._File.of(data).needs == [older.fingerprint()]
        (tmp_path / f"coded/{name}.rsc").write_bytes(data)
    (tmp_path / "coded/alone.rsc").write_bytes(encoder.encode(Image(drawn(3)), None, tiny_model))
    deep = Image(drawn(4)[..., :1].astype(np.float32) / 7)
    (tmp_path / "coded/deep.RSC").write_bytes(encoder.encode(deep, None, tiny_model))
    monkeypatch.chdir(tmp_path)
    return tmp_path


FILES = ["a.png", "alone.png", "deep.tif", "more/b.png"]


@pytest.fixture
def run(refscale: Callable[..., Outcome], tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process; also returns which files were decoded."""
    done: list[str] = []

    def here(
        work: Callable[[Any], Any], tasks: Iterable[Any], jobs: int, prepare: Callable[[], None]
    ) -> Generator[tuple[Any, Any], None, None]:
        prepare()
        for task in tasks:
            done.append(task.item.file)
            yield task, work(task)

    def ran(*arguments: object) -> tuple[Outcome, list[str]]:
        done.clear()
        outcome = refscale("batch-decode", *arguments, "--weights", tiny_weights, "--device", "cpu")
        return outcome, [*done]

    monkeypatch.setattr(workers, "run", here)
    return ran


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "batch.jsonl").read_text().splitlines()]


def test_pictures_are_those_of_decode_and_lines_tell_of_them(
    place: Path, run: Run, refscale: Callable[..., Outcome], tiny_weights: Path
) -> None:
    outcome, done = run("coded", "--ref", "old", "-o", "out", "--json")
    assert (outcome.code, done) == (0, FILES), outcome.err
    told = {line["file"]: line for line in lines(place / "out")}
    assert list(told) == FILES
    for file, line in told.items():
        source = "coded/deep.RSC" if file == "deep.tif" else f"coded/{Path(file).with_suffix('.rsc')}"
        older = ["--ref", f"old/{file}"] if (place / "old" / file).exists() else []
        one = refscale("decode", source, *older, "-o", f"one{Path(file).suffix}", "--weights", tiny_weights)
        assert one.code == 0, one.err
        data = (place / "out" / file).read_bytes()
        assert data == (place / f"one{Path(file).suffix}").read_bytes()
        assert (line["picture"], line["bytes"], line["error"]) == (source, len(data), None)
        assert (line["width"], line["height"], line["reference_pictures"]) == (96, 64, older[1:])
        assert len(line["references"]) == len(older[1:]) and line["seconds"] > 0
    assert {key: json.loads(outcome.text)[key] for key in ("pictures", "decoded", "without_reference", "bytes")} == {
        **{"pictures": 4, "decoded": 4, "without_reference": 2, "bytes": sum(line["bytes"] for line in told.values())}
    }


@pytest.mark.parametrize(
    ("options", "told"),
    [((), "out: 0 of 4 pictures decoded; 4 were decoded already\n"), (("--dry-run",), "done: coded/a.rsc with old/a")],
)
def test_what_is_done_already_is_told_without_torch(place: Path, run: Run, options: tuple[str, ...], told: str) -> None:
    run("coded", "--ref", "old", "-o", "out")
    done = without_torch("batch-decode", "coded", "--ref", "old", "-o", "out", *options)
    assert (done.code, (done.text + done.err)[: len(told)]) == (0, told)


def test_an_index_finds_the_references_of_several_dates(
    place: Path, run: Run, refscale: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tiny_model: Model
) -> None:
    index = "--refs", "i.sqlite"
    assert refscale("refs", "add", "old", *index).code == 0
    newer = Image(np.clip(drawn(1) * 0.8, 0, 255).astype(np.uint8))
    (place / "coded" / "a_2.rsc").write_bytes(encoder.encode(newer, Image(drawn(1)), tiny_model))
    read, loaded = [], []
    for owner, name, seen in ((pictures, "read", read), (model, "load", loaded)):
        honest = getattr(owner, name)
        monkeypatch.setattr(
            owner,
            name,
            lambda path, *rest, honest=honest, seen=seen, **more: seen.append(path) or honest(path, *rest, **more),
        )
    model._kept_as.cache_clear()
    outcome, done = run("coded", *index, "-o", "out")
    assert (outcome.code, len(done)) == (0, 5), outcome.err
    assert sorted(path.name for path in read) == ["a.png", "b.png"]  # that of two neighbours once
    assert len(loaded) == 1
    assert [line["reference_pictures"] for line in lines(place / "out")][:2] == 2 * [[str(place / "old" / "a.png")]]
    (place / "old" / "a.png").unlink()
    assert run("coded", *index, "-o", "out")[1] == []  # what is decoded needs its reference no longer
    outcome, _ = run("coded", *index, "-o", "second")
    assert outcome.code == 9
    assert "a.png: coded/a.rsc: the reference" in outcome.err and "is missing" in outcome.err


def test_a_second_run_decodes_only_what_is_missing_or_has_changed(place: Path, run: Run, tiny_model: Model) -> None:
    line = "coded", "--ref", "old", "-o", "out"
    assert run(*line)[1] == FILES
    kept = (place / "out" / "batch.jsonl").read_bytes()
    outcome, done = run(*line)
    assert (outcome.code, done) == (0, [])
    assert "0 of 4 pictures decoded; 4 were decoded already" in outcome.err
    assert (place / "out" / "batch.jsonl").read_bytes() == kept
    (place / "out" / "a.png").unlink()
    assert run(*line)[1] == ["a.png"]
    (place / "coded" / "alone.rsc").write_bytes(encoder.encode(Image(drawn(5)), None, tiny_model))
    assert run(*line)[1] == ["alone.png"]


def test_a_bad_file_is_one_line_and_the_run_goes_on(place: Path, run: Run) -> None:
    (place / "coded" / "bad.rsc").write_bytes((place / "coded" / "a.rsc").read_bytes()[:-9])
    (place / "old" / "more" / "b.png").unlink()
    PIL.Image.fromarray(drawn(9)).save(place / "old" / "a.png")  # another picture
    outcome, done = run("coded", "--ref", "old", "-o", "out")
    assert (outcome.code, len(done)) == (9, 5)
    a, bad, b, told, error = outcome.err.splitlines()
    assert a.startswith("a.png: coded/a.rsc: the file was made with the reference ")
    assert bad.startswith("bad.png: coded/bad.rsc: ")
    assert b.startswith("more/b.png: coded/more/b.rsc: it needs the reference ") and b.endswith("--refs finds any")
    assert told.startswith("out: 2 of 5 pictures decoded, to ")
    assert error == "error: 3 of 5 pictures could not be decoded; out/batch.jsonl has why"
    assert not (place / "out" / "a.png").exists()
    PIL.Image.fromarray(drawn(1)).save(place / "old" / "a.png")
    assert run("coded", "--ref", "old", "-o", "out")[1] == ["a.png", "bad.png", "more/b.png"]
    assert (place / "out" / "a.png").exists()


def test_one_reference_may_be_that_of_all(place: Path, run: Run) -> None:
    (place / "coded" / "more" / "b.rsc").unlink()
    assert run("coded", "--ref", "old/a.png", "-o", "out")[0].code == 0


def test_no_reference_and_no_picture_of_another_origin_is_overwritten(place: Path, run: Run) -> None:
    before = (place / "old" / "a.png").read_bytes()
    for force in ([], ["-f"]):
        outcome, done = run("coded", "--ref", "old", "-o", "old", *force)
        assert (outcome.code, done) == (2, [])
        assert outcome.err == "error: old/a.png is also a reference; it would be overwritten\n"
    assert (place / "old" / "a.png").read_bytes() == before
    (place / "out").mkdir()
    (place / "out" / "a.png").write_bytes(b"precious")
    outcome, _ = run("coded", "--ref", "old", "-o", "out")
    assert (outcome.code, (place / "out" / "a.png").read_bytes()) == (9, b"precious")
    assert "a.png: out/a.png exists, and no earlier run has written it: -f overwrites it" in outcome.err
    assert run("coded", "--ref", "old", "-o", "out", "-f")[0].code == 0


def test_a_dry_run_lists_what_would_be_done_and_writes_nothing(
    place: Path, run: Run, refscale: Callable[..., Outcome]
) -> None:
    (place / "old" / "more" / "b.png").unlink()
    outcome, done = run("coded", "--ref", "old", "-o", "out", "--dry-run")
    assert (outcome.code, done, (place / "out").exists()) == (0, [], False)
    needed = refscale("info", "coded/more/b.rsc", "--json")
    (fingerprint,) = json.loads(needed.text)["references"]
    assert outcome.text.splitlines() == [
        "new: coded/a.rsc with old/a.png to a.png",
        "new: coded/alone.rsc alone to alone.png",
        "new: coded/deep.RSC alone to deep.tif",
        f"new: coded/more/b.rsc without its reference {fingerprint} to more/b.png",
    ]
    told = [json.loads(line) for line in run("coded", "-o", "out", "--dry-run", "--json")[0].text.splitlines()]
    assert [(len(line["references"]), line["reference_pictures"]) for line in told] == [
        (1, []),
        (0, []),
        (0, []),
        (1, []),
    ]


@pytest.mark.parametrize(
    ("source", "said"),
    [("nothing", "does not exist"), ("coded/a.rsc", "`refscale decode` decodes one"), ("old", "no file that ends in")],
)
def test_what_cannot_be_decoded_is_refused(place: Path, source: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        decoding.find(Path(source))


def test_two_files_that_would_be_one_picture_are_refused(place: Path) -> None:
    (place / "coded" / "a.RSC").write_bytes((place / "coded" / "a.rsc").read_bytes())
    with pytest.raises(UsageError, match=r"a\.RSC and .*a\.rsc would both be a\.png: rename one"):
        decoding.find(place / "coded")
