"""Coded pictures as references: chains of exact files decode by the index alone, are bounded, kept, and shortened."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from commands import assert_refusal, drawn
from conftest import GOLDEN, ROOT, Outcome
from hypothesis import given, settings
from hypothesis import strategies as st

import refscale_codec as refscale_api
from refscale_codec import model
from refscale_codec.archive import chains
from refscale_codec.archive.descriptor import SIZE
from refscale_codec.archive.references import References
from refscale_codec.codec import encoder
from refscale_codec.errors import ReferenceMismatch
from refscale_codec.fileformat import container, references
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures

Refscale = Callable[..., Outcome]
EXACT = ROOT / "benchmarks" / "weights" / "x2-untied.safetensors"
WEIGHTS = ("--weights", str(EXACT))
INDEX = ("--refs", "i.sqlite")
LINKS = references.LINKS


@pytest.fixture(scope="session")
def exact() -> Any:
    return model.load(EXACT)


def link(at: int) -> str:
    """Return the name of a link of the chain, 1..3; a folder lists them the wrong way round."""
    return f"{4 - at}.rsc"


CHAIN = [link(at) for at in (1, 2, 3)]


def scene(date: int) -> np.ndarray:
    """Return a picture of one place, a little different at each date."""
    rng = np.random.default_rng(date)
    pixels = drawn(1, 64, 64).astype(int) + rng.integers(-6, 7, (64, 64, 3))
    pixels[8 * (date % 6) :][:8, 20:40] = 40 + 20 * date % 200
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def chained(tmp_path_factory: pytest.TempPathFactory, exact: Any) -> Path:
    """Return a folder with a picture, and a chain of three files, each coded against what the one before decodes to."""
    folder = tmp_path_factory.mktemp("chained")
    PIL.Image.fromarray(scene(0)).save(folder / "base.png")
    older = pictures.read(folder / "base.png")
    for at in (1, 2, 3):
        plan = encoder.prepare(Image(scene(at)), older, exact)
        coded = plan.code(75)
        data = coded.file()
        assert container.unpack(data).header.reference == older.fingerprint()
        (folder / link(at)).write_bytes(data)
        older = coded.picture()
    return folder


@pytest.fixture
def place(chained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that the command line runs in: a copy of that."""
    shutil.copytree(chained, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture
def index(place: Path) -> Iterator[References]:
    """Return an index of the whole chain."""
    with References(place / "i.sqlite", create=True, model=EXACT) as opened:
        opened.add(place / "base.png", date="2001-01-01")
        assert [path for path, problem in opened.add_decoded(map(place.joinpath, CHAIN)) if problem is None]
        yield opened


def output_hash(path: Path) -> bytes:
    found = container.unpack(path.read_bytes()).output_hash
    assert found is not None
    return found


# --- decoding --------------------------------------------------------------------------------------------------------


def test_a_chain_decodes_through_the_index_alone_to_the_hashes_in_its_files(place: Path, refscale: Refscale) -> None:
    outcome = refscale("refs", "add", ".", *INDEX, *WEIGHTS, "--json")
    assert json.loads(outcome.text) == {"added": 4, "decoded": 3, "unchanged": 0, "failed": 0}
    assert refscale("refs", "add", ".", *INDEX, "--json").text.startswith('{"added": 0, "decoded": 0, "unchanged": 4')
    line = ("decode", link(3), *INDEX, *WEIGHTS, "-o", "hat.png", "-q")
    subprocess.run([sys.executable, "-m", "refscale_codec", *line], check=True, cwd=place)
    assert pictures.read(place / "hat.png").fingerprint() == output_hash(place / link(3))
    lines = [json.loads(line) for line in refscale("refs", "list", "--json", *INDEX).text.splitlines()]
    assert {Path(line["picture"]).name: line["links"] for line in lines} == {
        "base.png": 0,
        **{link(at): at for at in (1, 2, 3)},
    }
    (line,) = refscale("refs", "find", link(3), *INDEX, *WEIGHTS, "--json").text.splitlines()
    assert json.loads(line)["links"] == 2
    assert refscale("refs", "check", "--full", *INDEX, *WEIGHTS).code == 0
    assert refscale("verify", link(3), *INDEX, *WEIGHTS).code == 0


def test_diff_takes_a_coded_picture_as_the_older_one(place: Path, refscale: Refscale, index: References) -> None:
    line = ("diff", "base.png", "-o", "diff.png", *WEIGHTS, "--json", "--ref")
    assert refscale("decode", link(3), *INDEX, *WEIGHTS, "-o", "hat.png").code == 0
    told = [refscale(*line, older, *more) for older, more in (("hat.png", ()), (link(3), INDEX))]
    assert told[0].code == told[1].code == 0, told[1].err
    assert told[0].out == told[1].out
    assert_refusal(refscale(*line, link(3)), 6, "needs", "REFSCALE_REFS")
    assert_refusal(refscale(*line, link(3), *INDEX, "--ref-page", "1"), 2, "--ref-page")
    assert_refusal(refscale(*line, "hat.png", *INDEX), 2, "--ref and --refs exclude each other")


def test_a_missing_link_is_one_message_with_its_name(place: Path, refscale: Refscale, index: References) -> None:
    (place / "base.png").unlink()
    words = ["3.rsc needs", "is missing", "base.png does not exist"]
    assert_refusal(refscale("decode", link(3), *INDEX, *WEIGHTS, "-o", "hat.png"), 6, link(3), *words)
    lines = [json.loads(line) for line in refscale("refs", "check", "--json", *INDEX).text.splitlines()]
    assert {Path(line["file"]).name: line["reason"] for line in lines} == dict.fromkeys(CHAIN, "missing")
    shutil.move(place / link(1), place / "away")
    (place / link(1)).mkdir()
    assert_refusal(refscale("decode", link(3), *INDEX, *WEIGHTS, "-o", "hat.png"), 6, "2.rsc needs", "unreadable")


def test_what_cannot_be_decoded_yet_is_in_care_and_tried_again(place: Path, refscale: Refscale) -> None:
    outcome = refscale("refs", "add", link(2), *INDEX, *WEIGHTS)
    assert outcome.code == 0
    assert outcome.err.splitlines()[0].startswith(f"{link(2)}: in care, but no reference now: ")
    assert "is unknown" in outcome.err
    assert len(refscale("refs", "list", "--files", *INDEX).text.splitlines()) == 1
    assert "give their file (--weights" in refscale("refs", "add", "base.png", link(1), *INDEX).err
    outcome = refscale("refs", "add", link(2), link(1), *INDEX, *WEIGHTS, "--json")
    assert json.loads(outcome.text) == {"added": 0, "decoded": 2, "unchanged": 2, "failed": 0}


def test_files_of_other_models_are_in_care_only(place: Path, index: References) -> None:
    for name in ("alone", "everything"):  # the second one has a hash, but is not of an exact model
        assert list(index.add_decoded([GOLDEN / f"{name}.rsc"])) == []
        assert GOLDEN / f"{name}.rsc" in [path for path, _ in index.files()]
    assert len(index.entries()) == 4


def test_a_decoded_picture_is_found_as_a_reference_and_its_file_is_in_care(place: Path, refscale: Refscale) -> None:
    assert refscale("encode", "base.png", *WEIGHTS, "-o", "alone.rsc").code == 0
    (place / "base.png").rename(place / "new.png")
    assert refscale("refs", "add", "alone.rsc", *INDEX, *WEIGHTS).code == 0
    (found,) = refscale("refs", "find", "new.png", *INDEX, *WEIGHTS, "--json").text.splitlines()
    assert json.loads(found)["links"] == 1
    outcome = refscale("encode", "new.png", *INDEX, *WEIGHTS, "-o", "new.rsc", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.text)["reference_pictures"] == [str(place / "alone.rsc")]
    assert refscale("decode", "new.rsc", *INDEX, *WEIGHTS, "-o", "hat.png").code == 0
    assert pictures.read(place / "hat.png").fingerprint() == output_hash(place / "new.rsc")


# --- bounds ----------------------------------------------------------------------------------------------------------


def claim(index: References, name: str, fingerprint: bytes, *needs: bytes) -> None:
    """Write into an index that a file decodes to a picture and needs others."""
    store, stored = index._store, name.encode()
    columns = "width, height, bands, type, outline, west, south, east, north, date, sensor, nodata, cloud, descriptor"
    copy = f"INSERT INTO picture SELECT ?, 1, 1, ?, {columns} FROM picture WHERE path = ?"
    store.do(copy, (stored, fingerprint, b"base.png"))
    store.do("INSERT INTO file VALUES (?, 1, 1)", (stored,))
    for need in needs:
        store.do("INSERT INTO need VALUES (?, ?)", (stored, need))


def naming(reference: bytes, decoded: bytes) -> bytes:
    """Return an exact file that names a reference and a hash; it would not decode."""
    plain = container.unpack((GOLDEN / "exact.rsc").read_bytes())
    header = replace(plain.header, reference=reference)
    return container.pack(replace(plain, header=header, output_hash=decoded))


def test_a_circle_is_one_message(place: Path, refscale: Refscale, index: References) -> None:
    here, there = b"pixel1", b"pixel2"
    for name, own, other in (("here.rsc", here, there), ("there.rsc", there, here)):
        (place / name).write_bytes(naming(other, own))
        claim(index, name, own, other)
    (place / "x.rsc").write_bytes(naming(here, b"pixel3"))
    assert_refusal(refscale("decode", "x.rsc", *INDEX, *WEIGHTS, "-o", "hat.png"), 6, "x.rsc", "out of reach")
    index.add(place / "x.rsc")
    problems = {path.name: problem and problem.reason for path, problem in index.check()}
    assert problems == {"here.rsc": "too far", "there.rsc": "too far", "x.rsc": "too far", **dict.fromkeys(CHAIN)}
    assert list(index.add_decoded([place / "x.rsc"]))[0][0] == place / "x.rsc"
    assert index.find(Image(scene(3)))[0].entry.path.name not in ("here.rsc", "there.rsc")


def test_a_chain_is_of_at_most_so_many_links(place: Path, refscale: Refscale, index: References) -> None:
    before = output_hash(place / link(3))
    for at in range(4, LINKS + 1):
        (place / f"long{at}.rsc").write_bytes(naming(before, b"pixel%d" % at))
        claim(index, f"long{at}.rsc", b"pixel%d" % at, before)
        before = b"pixel%d" % at
    assert index.links(place / f"long{LINKS}.rsc") == LINKS
    (place / "x.rsc").write_bytes(naming(before, b"pixelX"))
    with pytest.raises(ReferenceMismatch, match=r"out of reach.*refs rebase"):
        index.references(place / "x.rsc")
    assert_refusal(refscale("decode", "x.rsc", *INDEX, *WEIGHTS, "-o", "hat.png"), 6, "x.rsc", f"more than {LINKS}")
    ((_, problem),) = index.add_decoded([place / "x.rsc"])
    assert "out of reach" in str(problem)
    assert [problem.reason for path, problem in index.check() if path.name == "x.rsc" and problem] == ["too far"]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sets(st.integers(0, 11), max_size=3), min_size=12, max_size=12), st.permutations(range(12)))
def test_chosen_references_never_make_a_file_of_more_links(needs: list[set[int]], order: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder, References(Path(folder) / "i.sqlite", create=True) as index:
        store, names = index._store, [b"pixel%c" % (65 + at) for at in range(12)]
        store.do("BEGIN")
        for at, some in enumerate(needs):
            row = (b"%d.rsc" % at, 1, 1, names[at], 1, 1, 1, "uint8", *(None,) * 7, 0.0, None, bytes(SIZE))
            store.do(f"INSERT INTO picture VALUES ({', '.join('?' * len(row))})", row)
            store.do("INSERT INTO file VALUES (?, 1, 1)", row[:1])
            for other in some:
                if other < at:
                    store.do("INSERT INTO need VALUES (?, ?)", (row[0], names[other]))
        store.do("COMMIT")
        near = chains.near(store, [names[at] for at in order])

        def behind(one: int) -> set[int]:
            return {one}.union(*(behind(other) for other in needs[one] if other < one))

        files = set().union(*(behind(names.index(one)) for one in near))
        assert len(files) < LINKS
        first = [at for at in order if len(behind(at)) < LINKS]
        assert not first or names[first[0]] in near


# --- keeping ---------------------------------------------------------------------------------------------------------


def test_gc_keeps_what_a_chain_needs_and_deletes_no_coded_picture(place: Path, index: References) -> None:
    everything = sorted(place.iterdir())
    (place / link(3)).rename(place / "away")
    assert list(index.collect("2100-01-01", delete=True, lost_files=True)) == [(place / link(3), "forgotten")] * 2
    (place / "away").rename(place / link(3))
    for _, problem in index.add_decoded([place / link(3)]):
        assert problem is None
    index._store.do("UPDATE picture SET date = '2001-01-01'")
    assert list(index.collect("2100-01-01", delete=True)) == [(place / link(3), "forgotten")]
    assert sorted(place.iterdir()) == everything
    assert index.references(place / link(3))
    (place / link(3)).unlink()
    done = list(index.collect("2100-01-01", delete=True, lost_files=True))
    assert (place / link(2), "forgotten") in done
    assert (place / link(2)).exists()
    assert len(index.references(place / link(2))) == 1


def test_a_file_that_others_need_is_not_overwritten(place: Path, index: References) -> None:
    data = (GOLDEN / "alone.rsc").read_bytes()
    with pytest.raises(ReferenceMismatch, match=r"2\.rsc is the reference of"), index.care(place / link(2), data):
        pytest.fail("written")
    with index.care(place / link(2), (place / link(2)).read_bytes()):  # the same again
        pass
    with index.care(place / link(3), data):
        (place / link(3)).write_bytes(data)
    assert place / link(3) not in [entry.path for entry in index.entries()]
    assert index.files()[0] == (place / link(3), [])


def test_after_a_rebase_older_links_may_be_lost(place: Path, refscale: Refscale, index: References) -> None:
    assert index.links(place / link(3)) == 3
    outcome = refscale("refs", "rebase", link(2), *INDEX, *WEIGHTS, "-o", "two.png", "--json")
    facts = {"output": "two.png", "fingerprint": output_hash(place / link(2)).hex(), "files": 1}
    assert (outcome.code, json.loads(outcome.text)) == (0, facts)
    assert index.links(place / link(3)) == 1
    for name in ("base.png", link(1), link(2)):
        (place / name).unlink()
    list(index.collect("2100-01-01", delete=True, lost_files=True))
    assert [entry.path.name for entry in index.entries() if entry.path.exists()] == [link(3), "two.png"]
    assert [problem for _, problem in index.check(full=True)] == [None]
    assert refscale("decode", link(3), *INDEX, *WEIGHTS, "-o", "hat.png").code == 0
    assert pictures.read(place / "hat.png").fingerprint() == output_hash(place / link(3))


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("-o base.png", 2, ["base.png", "overwritten"]),
        ("-o linked.png", 2, ["linked.png", "overwritten"]),
        ("-o -", 2, ["it is a file"]),
        ("-o two.jpg", 2, ["JPEG is lossy"]),
    ],
)
def test_a_rebase_overwrites_nothing_that_is_needed(
    place: Path, refscale: Refscale, index: References, line: str, code: int, words: list[str]
) -> None:
    (place / "linked.png").symlink_to("base.png")
    before = (place / "base.png").read_bytes()
    assert_refusal(refscale("refs", "rebase", link(2), *INDEX, *WEIGHTS, *line.split()), code, *words)
    assert (place / "base.png").read_bytes() == before


def test_only_exact_files_are_rebased(place: Path, refscale: Refscale, index: References) -> None:
    (place / "x.rsc").write_bytes((GOLDEN / "alone.rsc").read_bytes())
    assert_refusal(refscale("refs", "rebase", "x.rsc", *INDEX, "-o", "x.png"), 6, "x.rsc", "floating point")
    assert not (place / "x.png").exists()


# --- named references ------------------------------------------------------------------------------------------------


def test_a_file_may_be_named_as_a_reference(
    place: Path, refscale: Refscale, index: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    PIL.Image.fromarray(scene(4)).save(place / "new.png")
    line = ("encode", "new.png", "--ref", link(1), *WEIGHTS, "-o", "new.rsc")
    assert_refusal(refscale(*line), 6, link(1), "needs a reference itself", "--refs", "REFSCALE_REFS")
    assert_refusal(refscale(*line, *INDEX, "-o", "i.sqlite"), 2, "i.sqlite")
    outcome = refscale(*line, *INDEX, "--json")
    assert outcome.code == 0, outcome.err
    assert list(json.loads(outcome.text)["references"].items()) == [(output_hash(place / link(1)).hex(), None)]
    assert "new.rsc" not in refscale("refs", "list", "--files", *INDEX).text
    line = ("decode", "new.rsc", "--ref", link(1), *WEIGHTS, "-o", "hat.png")
    monkeypatch.setenv("REFSCALE_REFS", "i.sqlite")
    assert refscale(*line).code == 0
    assert pictures.read(place / "hat.png").fingerprint() == output_hash(place / "new.rsc")
    assert_refusal(refscale(*line, "--ref-page", "1"), 2, "--ref-page would have no effect")
    for at in range(4, LINKS + 1):
        claim(index, f"long{at}.rsc", b"pixel%d" % at, *([b"pixel%d" % (at - 1)] if at > 4 else []))
    (place / "long.rsc").write_bytes(naming(b"pixel%d" % LINKS, b"pixelX"))
    claim(index, "more1.rsc", b"pixelm")
    claim(index, "more2.rsc", b"pixeln", b"pixelm")
    (place / "more.rsc").write_bytes(naming(b"pixeln", b"pixelY"))
    both = ("--ref", "long.rsc", "--ref", "more.rsc")
    assert_refusal(
        refscale("encode", "new.png", *both, *WEIGHTS, "-o", "x.rsc"), 6, "long.rsc, more.rsc", "out of reach"
    )


def test_a_file_alone_may_be_a_reference_in_python(place: Path, exact: Any) -> None:
    new, old = scene(1), place / "alone.rsc"
    old.write_bytes(refscale_api.encode(scene(0), model=exact))
    data = refscale_api.encode(new, old, model=exact)
    assert list(container.unpack(data).header.reference or b"") == list(output_hash(old))
    decoded = refscale_api.decode(data, [old, new], model=exact)
    assert Image(decoded).fingerprint() == container.unpack(data).output_hash
    with pytest.raises(refscale_api.UsageError, match="a page of"):
        refscale_api.encode(new, old, model=exact, reference_page=1)
    with pytest.raises(ReferenceMismatch, match="needs a reference itself"):
        refscale_api.encode(new, place / link(1), model=exact)
    with pytest.raises(ReferenceMismatch, match="floating point"):
        refscale_api.encode(new, GOLDEN / "alone.rsc", model=exact)
    with pytest.raises(ReferenceMismatch, match="at most 7"):
        refscale_api.encode(new, [old] * LINKS, model=exact)
