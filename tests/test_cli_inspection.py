"""`info`, `verify`, `fingerprint` and `diff`, as a user sees them, through `cli.main()`."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from commands import REF, TINY, assert_refusal, drawn, older
from conftest import Outcome
from hypothesis import given
from hypothesis import strategies as st

from refscale_codec import model, weights_files
from refscale_codec.cli import facts, terminal
from refscale_codec.codec import encoder
from refscale_codec.fileformat import container
from refscale_codec.model import Model
from refscale_codec.picture import metadata
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.metadata import Metadata
from refscale_codec.rescale import similarity_map


def test_verify_says_what_it_proves_and_succeeds_only_then(refscale: Callable[..., Outcome], place: Path) -> None:
    decodes = "proved: it decodes; not proved: to the encoder's picture, of which it has no hash"
    for line, said in {
        "with.rsc --ref ref.png": decodes,
        "alone.rsc": decodes,
        "alone.rsc --ref ref.png": decodes,
        "hashed.rsc --ref ref.png": "proved: it decodes to the encoder's picture",
        "with.rsc --structure": "structure and checksums are intact; not tried: weights, reference, decoding",
    }.items():
        assert refscale("verify", *line.split(), *TINY) == Outcome(0, b"", f"{line.split()[0]}: {said}\n")
    for name in ("with.rsc", "hashed.rsc"):
        assert_refusal(refscale("verify", name, *TINY), 6, name, "intact; not proved: that it decodes", "--ref")
    outcome = refscale("verify", "hashed.rsc", *REF, "--json", "-q", *TINY)
    assert json.loads(outcome.text) == {"proved": ["structure", "weights", "reference", "decoding", "picture"]}
    assert outcome.err == ""
    assert_refusal(refscale("verify", "with.rsc", "--structure", *REF), 2, "--structure")
    assert json.loads(refscale("verify", "with.rsc", "--structure", "--json").text) == {"proved": ["structure"]}


def test_fingerprints_are_those_that_files_name(refscale: Callable[..., Outcome], place: Path) -> None:
    pictures.write(pictures.read(place / "ref.png"), place / "same.webp")
    wanted, other = (Image(pixels).fingerprint().hex() for pixels in (older(drawn(1)), drawn(2)))
    outcome = refscale("fingerprint", "ref.png", "other.png", "same.webp")
    assert outcome == Outcome(0, f"{wanted}  ref.png\n{other}  other.png\n{wanted}  same.webp\n".encode(), "")
    assert json.loads(refscale("info", "with.rsc", "--json").text)["references"] == {wanted: None}
    outcome = refscale("fingerprint", "-", "--json", stdin=(place / "ref.png").read_bytes())
    assert json.loads(outcome.text) == {"stdin": wanted}
    assert_refusal(refscale("fingerprint", "text.png"), 3, "text.png")


def test_info_names_a_single_band_as_one() -> None:
    found = {"uses_of_reference": [1.0, "predicted", 0.0], "bands": 7, "references": {"ab12": None}}
    assert facts._reference(found) == (
        "ab12, bands 1 to 3 used in 100 % of the picture, bands 4 to 6 predicted from bands 1 to 3, band 7 not used"
    )


def test_info_says_how_much_of_the_picture_uses_the_reference(
    refscale: Callable[..., Outcome], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"{older_fingerprint()}, used in part\n" in refscale("info", "mapped.rsc").text  # by unknown weights
    cell = model.load(place / "tiny.safetensors").rescaler.cell
    monkeypatch.setattr(weights_files, "shipped_as", lambda *_: place / "tiny.safetensors")
    monkeypatch.setattr(model, "load", lambda *_: pytest.fail("a net is loaded"))
    [share] = json.loads(refscale("info", "mapped.rsc", "--json").text)["uses_of_reference"]
    content = container.unpack((place / "mapped.rsc").read_bytes())
    rows, columns = (-(-2 * side // cell) for side in (10, 17))
    levels = similarity_map.decode(content.similarity_map, rows, columns, 4)
    assert share == round(float((levels > 0).mean()), 4)
    assert 0 < share < 1
    assert f"used in {100 * share:.3g} % of the picture\n" in refscale("info", "mapped.rsc").text
    unused = container.pack(replace(content, similarity_map=b""))
    (place / "unused.rsc").write_bytes(unused)
    assert f"{older_fingerprint()}, not used\n" in refscale("info", "unused.rsc").text


def test_the_name_of_the_reference_is_a_hint(refscale: Callable[..., Outcome], place: Path, saying: Metadata) -> None:
    def name_in(*line: object) -> str | None:
        assert refscale("encode", *line, *REF, "-o", "out.rsc", *TINY).code == 0
        (name,) = json.loads(refscale("info", "out.rsc", "--json").text)["references"].values()
        assert name is None or isinstance(name, str)
        return name

    assert name_in("target.png") is None
    assert name_in("saying.jpg") is None  # more than 0.1 % of a small file
    assert name_in("saying.jpg", "--ref-name", "no") is None
    assert name_in("target.png", "--ref-name", "yes") == "ref.png"
    assert f"{older_fingerprint()} (ref.png), used" in refscale("info", "out.rsc").text
    other = f"{Image(drawn(2)).fingerprint().hex()} (other.png)"
    assert_refusal(
        refscale("decode", "out.rsc", "--ref", "other.png", "-o", "out.png", *TINY),
        6,
        f"reference {older_fingerprint()} (ref.png), this picture is {other}",
    )
    assert_refusal(refscale("decode", "out.rsc", "-o", "out.png", *TINY), 6, f"{older_fingerprint()} (ref.png)")
    assert_refusal(refscale("encode", "target.png", *REF, "--ref-name", "maybe"), 2, "--ref-name")


def older_fingerprint() -> str:
    return Image(older(drawn(1))).fingerprint().hex()


def test_info_shows_where_and_when_a_picture_was_taken(
    refscale: Callable[..., Outcome], place: Path, tiny_model: Model
) -> None:
    geo = {"crs": "EPSG:32630", "transform": [10.0, 0, 500000, 0, -10, 4600000], "descriptions": ["B04", None]}
    exif = PIL.Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2024:06:01 10:56:21"
    exif[0x0132] = "2025:01:01 00:00:00"
    said = Metadata(geo=json.dumps(geo).encode(), exif=exif.tobytes()[6:])
    picture = Image(np.dstack([drawn(1)[..., :2].astype(np.uint16) * 9]), said)
    (place / "placed.rsc").write_bytes(encoder.encode(picture, None, tiny_model))
    text = refscale("info", "placed.rsc").text
    for line in (
        "picture     33x20, 2 bands of uint16",
        "band names  B04, -",
        "crs         EPSG:32630",
        "bounds      500000, 4599800, 500330, 4600000",
        "date        2024:06:01 10:56:21",
    ):
        assert f"  {line}\n" in text
    found = json.loads(refscale("info", "placed.rsc", "--json").text)
    assert found["bounds"] == [500000, 4599800, 500330, 4600000]
    assert [low <= high for low, high in found["ranges"]] == [True, True]


def test_a_change_map_has_the_pictures_size(refscale: Callable[..., Outcome], place: Path) -> None:
    outcome = refscale("diff", "target.png", *REF, "-o", "out.png", "--json", *TINY)
    told = json.loads(outcome.text)
    assert (told["width"], told["height"]) == (33, 20)
    assert 0 <= told["changed"] <= 1
    assert outcome.err == f"out.png: 33x20, {100 * told['changed']:.1f} % changed\n"
    assert pictures.read(place / "out.png").pixels.shape == (20, 33, 3)
    piped = refscale("diff", "-", *REF, "-o", "-", *TINY, stdin=(place / "target.png").read_bytes())
    assert piped.out == (place / "out.png").read_bytes()
    for file in ("with.rsc", "alone.rsc"):
        assert refscale("diff", file, *REF, "-o", "out.tif", *TINY).code == 0
        assert pictures.read(place / "out.tif").pixels.shape == (20, 33, 3)


def strict(text: str) -> object:
    """Return what JSON holds; an error for what only Python reads."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    value = json.loads(text, parse_constant=refuse)
    assert json.dumps(value, ensure_ascii=False).encode()  # without lone surrogates
    return value


def test_json_of_any_file_is_read_by_every_program(refscale: Callable[..., Outcome], place: Path) -> None:
    far = Metadata(geo=b'{"transform":[1e308,0,1e308,0,-1e308,0]}')
    content = replace(container.unpack((place / "with.rsc").read_bytes()), metadata=metadata.pack(far))
    (place / "far.rsc").write_bytes(container.pack(content))
    assert strict(refscale("info", "far.rsc", "--json").text)["bounds"] is None  # type: ignore[index]
    name = os.fsdecode(b"caf\xe9.png")
    if os.name == "posix":
        (place / "target.png").rename(place / name)
        told = strict(refscale("fingerprint", name, "--json").text)
        assert told == {"caf\\xe9.png": Image(drawn(1)).fingerprint().hex()}
        back = os.fsdecode(b"b\xe9.png")
        assert strict(refscale("decode", "alone.rsc", "-o", back, "--json", *TINY).text)["output"] == "b\\xe9.png"  # type: ignore[index]


@given(st.recursive(st.none() | st.floats() | st.text(st.characters(exclude_categories=())), st.lists))
def test_json_holds_any_value(value: object) -> None:
    read = strict(terminal.as_json(value))
    if isinstance(value, float):
        assert read == value or read == str(value)
