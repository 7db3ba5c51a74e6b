"""refs bundle: references coded for another place, which takes them, and what is coded there decodes here."""

import json
import shutil
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from commands import assert_refusal, drawn
from conftest import ROOT, Outcome

from refscale_codec import model, workers
from refscale_codec.archive.references import References
from refscale_codec.codec import encoder
from refscale_codec.fileformat import container
from refscale_codec.fileformat.references import LINKS
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures

EXACT = ROOT / "benchmarks" / "weights" / "x2-untied.safetensors"
WEIGHTS = ("--weights", str(EXACT), "--device", "cpu")
TO = ("--to", "ground/there.sqlite")


def scene(date: int) -> np.ndarray:
    """Return a picture of one place, a little different at each date."""
    noise = np.random.default_rng(date).integers(-6, 7, (64, 64, 3))
    return np.clip(drawn(1, 64, 64).astype(int) + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two places, ground and board, each with pictures; files are coded in this process."""

    def here(
        work: Callable[[Any], Any], tasks: Iterable[Any], jobs: int, prepare: Callable[[], None]
    ) -> Generator[tuple[Any, Any], None, None]:
        for task in tasks:
            yield task, work(task)

    monkeypatch.setattr(workers, "run", here)
    for name, date in (("ground/old/a", 0), ("ground/more/b", 1), ("board/new", 2)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(scene(date)).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def send(source: str, target: str) -> None:
    """Copy .rsc files to the other place, which has nothing else of this one."""
    for path in Path(source).glob("*.rsc"):
        Path(target).mkdir(exist_ok=True)
        shutil.copy(path, target)


def needs(path: str) -> bytes | None:
    return container.unpack(Path(path).read_bytes()).header.reference


def test_the_five_steps(place: Path, refscale: Callable[..., Outcome]) -> None:
    line = ("refs", "bundle", "ground/old", "-o", "ground/up", *TO, *WEIGHTS)
    outcome = refscale(*line, "--dry-run")
    assert outcome.text == "new: ground/old/a.png with the best of ground/there.sqlite to a.rsc\n"
    assert not Path("ground/up").exists() and not Path("ground/there.sqlite").exists()
    outcome = refscale(*line, "--quality", "60", "--json")
    assert outcome.code == 0, outcome.err
    assert {**json.loads(outcome.text), "seconds": 0} == {
        **{"pictures": 1, "coded": 1, "unchanged": 0, "failed": 0, "without_reference": 1, "seconds": 0},
        "bytes": Path("ground/up/a.rsc").stat().st_size,
    }
    assert json.loads(refscale(*line, "--quality", "60", "--json").text)["unchanged"] == 1
    send("ground/up", "board/up")
    assert refscale("refs", "add", "board/up", "--refs", "board/r.sqlite", *WEIGHTS[:2]).code == 0
    assert refscale("encode", "board/new.png", "--refs", "board/r.sqlite", *WEIGHTS, "-o", "board/new.rsc").code == 0
    send("board", "ground/down")
    assert needs("ground/down/new.rsc") == container.unpack(Path("ground/up/a.rsc").read_bytes()).output_hash
    line = ("decode", "ground/down/new.rsc", "--refs", "ground/there.sqlite", *WEIGHTS, "-o", "hat.png")
    shutil.rmtree("board")
    assert refscale(*line).code == 0
    decoded = pictures.read(Path("hat.png")).fingerprint()
    assert decoded == container.unpack(Path("ground/down/new.rsc").read_bytes()).output_hash


def test_a_bundle_leaves_a_link_for_what_is_coded_against_it(place: Path, refscale: Callable[..., Outcome]) -> None:
    net, picture, references = model.load(EXACT), Image(scene(0)), []
    for at in range(1, LINKS):
        coded = encoder.prepare(picture, references, net).code(75)
        Path(f"ground/{at}.rsc").write_bytes(coded.file())
        references = [coded.picture()]
        picture = Image(references[0].pixels ^ (np.arange(64) % 7 == at - 1)[:, None].astype(np.uint8))
    PIL.Image.fromarray(picture.pixels).save("next.png")  # next to the last link
    assert refscale("refs", "add", "ground", "--refs", "ground/there.sqlite", *WEIGHTS[:2]).code == 0
    with References("ground/there.sqlite", model=EXACT) as index:
        last = Path("ground", f"{LINKS - 1}.rsc").resolve()
        assert index.links(last) == LINKS - 1
        assert index.find(picture)[0].entry.path == last
        assert refscale("refs", "bundle", "next.png", "-o", "up", *TO, *WEIGHTS).code == 0
        assert 1 < index.links("up/next.rsc") < LINKS
    line = ("encode", "next.png", "--ref", "up/next.rsc", "--refs", "ground/there.sqlite", *WEIGHTS, "-o", "x.rsc")
    assert refscale(*line).code == 0
    assert needs("x.rsc") == container.unpack(Path("up/next.rsc").read_bytes()).output_hash


def test_what_cannot_be_a_reference_there_is_not_coded(
    place: Path, refscale: Callable[..., Outcome], tiny_weights: Path
) -> None:
    line = ("refs", "bundle", "ground/old", "ground/more/b.png", "-o", "up", *TO)
    Path("up").mkdir()
    Path("up/batch.jsonl").write_text("of others\n")
    wrong = refscale(*line, "--weights", tiny_weights, "-f")
    assert_refusal(wrong, 5, str(tiny_weights), "floating point", "--weights")
    assert Path("up/batch.jsonl").read_text() == "of others\n" and not Path("ground/there.sqlite").exists()
    Path("up/batch.jsonl").unlink()
    assert_refusal(refscale(*line, *WEIGHTS, "ground/old/a.png"), 2, "lists", "a.png", "more than once")
    Path("ground/old/bad.png").write_bytes(b"no picture")
    outcome = refscale(*line, *WEIGHTS)
    assert outcome.code == 9
    assert "bad.rsc: " in outcome.err
    assert sorted(path.name for path in Path("up").glob("*.rsc")) == ["a.rsc", "b.rsc"]
    with References("ground/there.sqlite") as index:
        assert [entry.path.name for entry in index.entries()] == ["a.rsc", "b.rsc"]
