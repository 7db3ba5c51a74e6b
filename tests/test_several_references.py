"""Several references: which are used, in which files, and how they are found again."""

import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from commands import assert_refusal
from conftest import Outcome
from hypothesis import given, settings
from hypothesis import strategies as st

import refscale_codec
from refscale_codec import model, weights_files
from refscale_codec.codec import decoder, encoder, trial
from refscale_codec.errors import ReferenceMismatch, UsageError
from refscale_codec.fileformat import container, references
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.tiles import Box
from refscale_codec.reference.source import Blend, Unused, Warped

SIZE = 128, 192


@pytest.fixture(autouse=True)
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let residual detail decide alone on blends: nets that are not trained make nothing of references."""
    monkeypatch.setattr(trial, "by_coding", lambda *_: lambda source: 0.0)


def detail(seed: int, height: int = SIZE[0], width: int = SIZE[1], bands: int = 3) -> np.ndarray:
    """Return detail of several sizes, as floats around 120."""
    rng = np.random.default_rng(seed)
    total = np.full((height, width, bands), 120.0)
    for side in (1, 3, 9):
        coarse = rng.normal(0, 14, (-(-height // side), -(-width // side), bands))
        total += coarse.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]
    return total


def image(pixels: np.ndarray, name: str | None = None) -> Image:
    return Image(pixels.round().clip(0, 255).astype(np.uint8), name=name)


def halves(bands: int = 3) -> tuple[Image, Image, Image, Image]:
    """Return a picture; one that shows its left part, one its right part; and one of another place."""
    whole, other = detail(1, bands=bands), detail(2, bands=bands)
    left, right = other.copy(), detail(3, bands=bands)
    left[:, :90], right[:, 90:] = whole[:, :90], whole[:, 90:]
    return image(whole), image(left, "left.png"), image(right, "right.png"), image(detail(4, bands=bands), "other.png")


@pytest.mark.parametrize("bands", [3, 5])
@pytest.mark.parametrize("codec", ["jpeg", "gmm"])
def test_each_part_is_taken_from_the_reference_that_shows_it(
    tiny_models: dict[str, Model], codec: str, bands: int
) -> None:
    target, left, right, other = halves(bands)
    net = tiny_models[codec]
    plan = encoder.prepare(target, [other, left, right], net, encoder.EncodeOptions(tile=64))
    coded = plan.code(60)
    for group in coded.groups:
        source = group.reference.source
        assert isinstance(source, Blend) and set(source.places) == {1, 2}
        weights = source.layers[1].weights
        assert weights.min() == 0 and weights.max() == 4
    data = coded.file()
    assert set(references.needed(container.unpack(data))) == {left.fingerprint(), right.fingerprint()}
    for given_ones in permutations([left, right, other]):
        assert np.array_equal(decoder.decode(data, given_ones, net, tile=64).pixels, coded.picture().pixels)
    box = Box(30, 60, 101, 171)
    part = decoder.decode(data, [right, left], net, tile=64, window=box)
    assert np.array_equal(part.pixels, coded.picture().pixels[box.slices])
    for missing, message in (([left], right), ([right, other], left)):
        with pytest.raises(ReferenceMismatch, match=message.fingerprint().hex()):
            decoder.decode(data, missing, net)
    with pytest.raises(ReferenceMismatch, match="its references"):
        decoder.decode(data, None, net)


def test_two_noisy_references_are_averaged(tiny_model: Model) -> None:
    whole, rng = detail(1), np.random.default_rng(0)
    noisy = [image(whole + rng.normal(0, 20, whole.shape)) for _ in range(3)]
    made = encoder.prepare(image(whole), noisy, tiny_model).groups[0].reference
    assert made is not None and isinstance(made.source, Blend) and len(made.source.places) == 3
    assert made.mapped is not None
    single = min(np.square(one.pixels - whole).mean() for one in noisy)
    assert np.square(made.mapped.picture.pixels - whole).mean() < 0.6 * single


@given(seed=st.integers(0, 99), count=st.integers(1, 3))
@settings(max_examples=4, deadline=None)
def test_pictures_of_other_places_change_nothing(tiny_model: Model, seed: int, count: int) -> None:
    whole = detail(seed)
    older = image(whole + np.random.default_rng(seed).normal(0, 5, whole.shape))
    others = [image(detail(100 + seed + at)) for at in range(count)]
    alone = encoder.encode(image(whole), older, tiny_model)
    assert encoder.encode(image(whole), [*others, older], tiny_model) == alone
    assert encoder.encode(image(whole), [older, older, *others], tiny_model) == alone


def test_one_of_several_references_and_none_of_them(tiny_model: Model) -> None:
    target, *_, other = halves()
    (group,) = encoder.prepare(target, [other, target], tiny_model).groups
    assert group.reference is not None and group.reference.source == Warped(None, place=1)
    (group,) = encoder.prepare(target, [other, image(detail(5))], tiny_model).groups
    assert group.reference is not None and group.reference.source == Unused()
    data = encoder.encode(target, [other, image(detail(5))], tiny_model)
    assert references.needed(container.unpack(data)) == []
    assert data == encoder.encode(target, None, tiny_model)


def test_references_of_any_size_and_at_most_eight(tiny_model: Model) -> None:
    target, left, _, _ = halves()
    large = image(np.pad(detail(1), ((20, 9), (11, 40), (0, 0)), "edge"))
    data = encoder.encode(target, [left, large], tiny_model)
    assert references.needed(container.unpack(data))[0] == large.fingerprint()
    many = [image(detail(seed, 16, 16)) for seed in range(9)]
    encoder.encode(target, many[:8], tiny_model)
    with pytest.raises(UsageError, match="9 references are more than a file can have, 8"):
        encoder.encode(target, many, tiny_model)


def test_python_takes_lists_of_anything(tiny_model: Model, tmp_path: Path) -> None:
    target, left, right, _ = halves()
    pictures.write(left, tmp_path / "left.png")
    data = refscale_codec.encode(
        target.pixels, [tmp_path / "left.png", right.pixels], model=tiny_model, reference_name=True
    )
    scene = refscale_codec.open(data, [right, left], model=tiny_model)
    assert scene.references == {left.fingerprint().hex(): "left.png", right.fingerprint().hex(): None}
    assert np.array_equal(scene.read(), refscale_codec.decode(data, (left, right), model=tiny_model))
    with pytest.raises(UsageError, match="reference_page has 1 numbers for 2 references"):
        refscale_codec.decode(data, [left, right], reference_page=1, model=tiny_model)


# --- command line ----------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_weights: Path) -> list[str]:
    """Write the pictures into the current folder; return the options with the weights."""
    monkeypatch.chdir(tmp_path)
    for name, picture in zip(("target", "left", "right", "other"), halves(), strict=True):
        pictures.write(picture, Path(f"{name}.png"))
    return ["--weights", str(tiny_weights)]


def test_the_commands_take_ref_several_times(refscale: Callable[..., Outcome], shown: list[str]) -> None:
    refs = "--ref", "left.png", "--ref", "right.png"
    outcome = refscale("encode", "target.png", *refs, "--ref", "other.png", "--ref-name", "yes", *shown, "--json")
    assert outcome.code == 0, outcome.err
    assert "references: 2 of 3 are used; decoding needs no other" in outcome.err
    facts = json.loads(outcome.text)
    assert sorted(facts["references"].values()) == ["left.png", "right.png"]
    assert json.loads(refscale("info", "target.rsc", "--json").text)["references"] == facts["references"]
    told = refscale("info", "target.rsc").text
    assert "\n  references  " in told
    assert all(f"{one} ({name})" in told for one, name in facts["references"].items())
    assert refscale("verify", "target.rsc", *refs, *shown).code == 0
    assert refscale("decode", "target.rsc", *refs, *shown, "-o", "hat.png").code == 0
    last = "--ref", "right.png", "--ref", "left.png"
    assert refscale("decode", "target.rsc", *last, *shown, "-o", "same.png").code == 0
    assert Path("hat.png").read_bytes() == Path("same.png").read_bytes()
    assert_refusal(
        refscale("decode", "target.rsc", *refs[:2], *shown, "-o", "x.png"), 6, "also needs the reference", "(right.png)"
    )
    assert_refusal(
        refscale("decode", "target.rsc", *shown, "-o", "x.png"), 6, "its references", "left.png", "right.png"
    )
    assert_refusal(refscale("encode", "target.png", *refs, "--ref-page", "1", *shown, "-f"), 2, "--ref-page is given 1")
    nine = [word for _ in range(9) for word in refs[:2]]
    assert_refusal(refscale("encode", "target.png", *nine, *shown, "-f"), 2, "9 references")


def test_an_index_finds_and_keeps_all_references_of_a_file(refscale: Callable[..., Outcome], shown: list[str]) -> None:
    index = "--refs", "i.sqlite"
    assert refscale("refs", "add", "left.png", "right.png", "other.png", *index).code == 0
    outcome = refscale("encode", "target.png", *index, "--max-refs", "3", *shown, "--json")
    assert outcome.code == 0, outcome.err
    names = {Path(path).name for path in json.loads(outcome.text)["reference_pictures"]}
    assert names == {"left.png", "right.png"}
    (line,) = refscale("refs", "list", "--files", "--json", *index).text.splitlines()
    assert len(json.loads(line)["needs"]) == 2
    assert len(refscale("refs", "find", "target.rsc", *index).text.splitlines()) == 2
    assert refscale("decode", "target.rsc", *index, *shown, "-o", "hat.png").code == 0
    assert_refusal(refscale("encode", "target.png", *index, "--max-refs", "9", *shown, "-f"), 2, "9 references")
    Path("right.png").unlink()
    assert_refusal(refscale("decode", "target.rsc", *index, *shown, "-o", "x.png"), 6, "missing", "right.png")
    assert refscale("refs", "check", *index).code != 0


# --- real pictures ---------------------------------------------------------------------------------------------------


def test_two_real_dates_are_better_than_one(data_folder: Path) -> None:
    net = model.load(weights_files.shipped(2))
    folder = data_folder / "naip_rgbn"
    target, newer, older = (
        Image(np.ascontiguousarray(pictures.read(folder / f"long_beach_092_{year}.tif").pixels[:128, :128, :3]))
        for year in (2020, 2018, 2016)
    )
    sizes = [len(encoder.encode(target, given_ones, net)) for given_ones in (newer, older, [newer, older])]
    assert sizes[2] <= 1.005 * min(sizes)
