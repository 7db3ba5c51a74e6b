"""`encode` and `decode`, as a user sees them, through `cli.main()`."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from commands import PRECIOUS, REF, TINY, assert_refusal, contents, drawn, older
from conftest import Outcome

from refscale_codec import weights_files
from refscale_codec.cli import coding, terminal
from refscale_codec.codec import decoder, encoder, payloads
from refscale_codec.codec.rate_control import Reached, Target
from refscale_codec.fileformat import container
from refscale_codec.model import Model
from refscale_codec.picture import tiles
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.metadata import Metadata
from refscale_codec.study import metrics

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("with_reference", [True, False], ids=["reference", "alone"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (5, 3), (33, 20)], ids=str)
def test_a_picture_goes_to_another_machine(
    refscale: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_weights: Path,
    tiny_model: Model,
    width: int,
    height: int,
    with_reference: bool,
) -> None:
    sender, receiver = tmp_path / "sender", tmp_path / "receiver"
    sender.mkdir()
    receiver.mkdir()
    target = Image(drawn(4, height, width))
    reference = Image(older(target.pixels)) if with_reference else None
    given: tuple[str, ...] = ()
    pictures.write(target, sender / "new.png")
    if reference is not None:
        pictures.write(reference, sender / "old.png")
        given = ("--ref", "old.png")
    tiny = ("--weights", tiny_weights)

    monkeypatch.chdir(sender)
    outcome = refscale("encode", "new.png", *given, "-o", "new.rsc", "--quality", 60, "--output-hash", *tiny)
    data = (sender / "new.rsc").read_bytes()
    sizes = container.bytes_by_section(container.unpack(data))
    shown = [(name.replace("_", " "), size) for name, size in sizes.items() if size]
    bpp = round(8 * len(data) / (width * height), 4)
    assert (outcome.code, outcome.out) == (0, b"")
    options = encoder.EncodeOptions(quality=60, output_hash=True)
    assert data == encoder.encode(target, reference, tiny_model, options)
    psnr = metrics.psnr(target.pixels, decoder.decode(data, reference, tiny_model).pixels)
    lines = [
        f"new.rsc: {len(data)} bytes, {bpp} bits per pixel, {psnr:.2f} dB "
        f"({', '.join(f'{part} {size}' for part, size in shown)})"
    ]
    named = container.unpack(data).header.reference
    if with_reference and named is None:
        lines.append("reference: does not help, so it is left out; decoding needs none")
    assert outcome.err.splitlines() == lines

    # only the file and the reference travel
    for name in ("new.rsc", *given[1:]):
        shutil.copy(sender / name, receiver / name)
    monkeypatch.chdir(receiver)
    shutil.rmtree(sender)

    hr_hat = decoder.decode(data, reference, tiny_model)
    facts = {
        "width": width,
        "height": height,
        "bands": 3,
        "type": "uint8",
        "alpha": False,
        "nodata": None,
        "band_names": None,
        "crs": None,
        "transform": None,
        "bounds": None,
        "tags": {},
        "date": None,
        "scale": 2,
        "codec": "jpeg",
        "quality": 60,
        "weights": tiny_model.fingerprint.hex(),
        "references": {} if named is None else {named.hex(): None},
        "uses_of_reference": [float(named is not None)],
        "output_hash": hr_hat.fingerprint().hex(),
        "metadata": None,
        "bytes": len(data),
        "bytes_by_section": sizes,
        "bpp": bpp,
    }
    outcome = refscale("info", "new.rsc", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.text == json.dumps(facts) + "\n"
    outcome = refscale("info", "new.rsc", "--all")
    assert (outcome.code, outcome.err) == (0, "")
    assert [line.split()[0] for line in outcome.text.splitlines() if line[0] != " "] == [
        name for name in facts if name != "bytes_by_section"
    ]
    assert f"output_hash       {facts['output_hash']}\n" in outcome.text
    outcome = refscale("info", "new.rsc")
    assert (outcome.code, outcome.err) == (0, "")
    reference_line = "none" if named is None else f"{named.hex()}, used in 100 % of the picture"
    assert (
        outcome.text
        == f"""\
new.rsc
  picture     {width}x{height}, 3 bands of uint8
  size        {len(data)} bytes, {bpp} bits per pixel ({", ".join(f"{part} {size}" for part, size in shown)})
  coding      scale 2, jpeg (DCT coefficients), quality 60
  weights     {facts["weights"]}
  reference   {reference_line}
  output hash {facts["output_hash"]}
"""
    )

    outcome = refscale("verify", "new.rsc", *given, *tiny)
    assert (outcome.code, outcome.out) == (0, b"")
    assert outcome.err == "new.rsc: proved: it decodes to the encoder's picture\n"

    outcome = refscale("extract-lr", "new.rsc", "-o", "small.jpg")
    assert outcome == Outcome(0, b"", f"small.jpg: {-(-width // 2)}x{-(-height // 2)}\n")
    with PIL.Image.open(receiver / "small.jpg") as small:
        small.load()
        assert (small.format, small.mode) == ("JPEG", "RGB")
        assert small.size == (-(-width // 2), -(-height // 2))
        low = payloads.low_res_of(container.unpack(data), tiny_model, None)
        assert abs(np.asarray(small).astype(int) - low.picture).max() <= 2  # viewers reckon in integers

    outcome = refscale("decode", "new.rsc", *given, "-o", "back.png", *tiny)
    assert outcome.err.splitlines() == [
        f"back.png: {width}x{height}",
        *(["new.rsc: needs no reference; old.png was not used"] if with_reference and named is None else []),
    ]
    assert np.array_equal(pictures.read(receiver / "back.png").pixels, hr_hat.pixels)
    assert sorted(contents(receiver)) == sorted(["new.rsc", "small.jpg", "back.png", *given[1:]])


@pytest.mark.parametrize(
    ("name", "kind"), [("grey.png", "8-bit grey"), ("deep.png", "16-bit grey"), ("alpha.png", "8-bit RGB")]
)
def test_other_kinds_go_to_another_machine(refscale: Callable[..., Outcome], place: Path, name: str, kind: str) -> None:
    for line in (
        f"encode {name} --ref {name} -o out.rsc --output-hash",
        f"verify out.rsc --ref {name}",
        "verify out.rsc --structure",
        f"decode out.rsc --ref {name} -o back.png",
        f"decode out.rsc --ref {name} -o part.png --window 3,4,5,6",
    ):
        outcome = refscale(*line.split(), *TINY)
        assert outcome.code == 0, outcome.err
    target, back, part = (pictures.read(place / x) for x in (name, "back.png", "part.png"))
    assert (target.kind, back.kind) == (kind, kind)
    assert np.array_equal(part.pixels, back.pixels[4:10, 3:8])
    facts = json.loads(refscale("info", "out.rsc", "--json").text)
    assert facts["alpha"] == (name == "alpha.png")
    assert (facts["bands"], facts["type"]) == (target.bands, target.pixels.dtype.name)
    if target.alpha is not None:
        assert np.array_equal(back.alpha, target.alpha)


@pytest.mark.parametrize(
    ("name", "suffix", "output"),
    [
        ("new.png", ".rsc", "new.rsc"),
        ("a/scene.2024.TIF", ".rsc", "a/scene.2024.rsc"),
        ("scene.2024", ".rsc", "scene.2024.rsc"),
        ("new.rsc", ".png", "new.png"),
        ("-", ".png", "-"),
    ],
)
def test_outputs_are_named_after_inputs(name: str, suffix: str, output: str) -> None:
    assert terminal.named_after(name, suffix) == str(Path(output))


def test_a_picture_is_encoded_and_decoded_without_naming_an_output(
    refscale: Callable[..., Outcome], place: Path
) -> None:
    for name, back in (("target.png", "target.png"), ("deep.png", "deep.png")):
        file = Path(name).with_suffix(".rsc").name
        assert refscale("encode", name, *TINY).err.startswith(f"{file}: ")
        outcome = refscale("decode", file, "-f", "--json", *TINY)
        assert json.loads(outcome.text) == {"output": back, "format": "png", "width": 33, "height": 20}
    assert refscale("decode", "deep.rsc", "--format", "tiff", *TINY).err == "deep.tif: 33x20\n"
    for name in ("other.png", "other.jpg", "other.TIF", "other.dat"):
        said = refscale("decode", "deep.rsc", "--format", "tiff", "-o", name, *TINY).err
        told = f"{name}: what is written is a TIFF file, by --format\n" if name in ("other.png", "other.jpg") else ""
        assert said == f"{told}{name}: 33x20\n"
    assert refscale("extract-lr", "deep.rsc").err == "deep.jpg: 17x10\n"


def test_a_dry_run_says_what_it_would_reach_and_writes_nothing(refscale: Callable[..., Outcome], place: Path) -> None:
    before = contents(place)
    outcome = refscale("encode", "target.png", "-o", "grey.rsc", "--target-psnr", 20, "--dry-run", "--json", *TINY)
    told = json.loads(outcome.text)
    assert told["psnr"] >= 20
    assert outcome.err.startswith(f"not written: grey.rsc: {told['bytes']} bytes")
    assert refscale("encode", "target.png", "-o", "-", "--dry-run", *TINY).out == b""
    assert contents(place) == before


def test_encode_tells_machines_what_it_made(refscale: Callable[..., Outcome], place: Path) -> None:
    outcome = refscale("encode", "target.png", *REF, "-o", "out.rsc", "--json", "--quiet", *TINY)
    data = (place / "out.rsc").read_bytes()
    sizes = container.bytes_by_section(container.unpack(data))
    assert outcome.err == ""
    assert json.loads(outcome.text) == {
        "bytes": len(data),
        "bytes_by_section": sizes,
        "bpp": round(8 * len(data) / (33 * 20), 4),
        "width": 33,
        "height": 20,
        "references": {Image(older(drawn(1))).fingerprint().hex(): None},
        "quality": 75,
        "psnr": None,  # nothing was decoded
    }
    assert outcome.text.count("\n") == 1


def test_encode_tells_the_psnr_where_the_picture_was_decoded(refscale: Callable[..., Outcome], place: Path) -> None:
    outcome = refscale("encode", "target.png", "-o", "out.rsc", "--output-hash", "--json", *TINY)
    assert refscale("decode", "out.rsc", "-o", "back.png", *TINY).code == 0
    error = pictures.read(place / "back.png").pixels.astype(float) - pictures.read(place / "target.png").pixels
    told = json.loads(outcome.text)["psnr"]
    assert told == pytest.approx(10 * np.log10(255**2 / np.mean(error**2)), abs=1e-3)
    assert f", {told:.2f} dB" in outcome.err


@pytest.mark.parametrize(("tries", "told"), [(1, "after 1 try"), (2, "after 2 tries")])
def test_tries_are_counted_in_words(tries: int, told: str) -> None:
    reached = Reached((GOLDEN / "alone.rsc").read_bytes(), 75, 31.05, tries)
    facts, lines = coding._summary("out.rsc", reached, Target("psnr", 31.0))
    assert facts["tries"] == tries
    assert lines[1] == f"target: 31.05 dB, at quality 75 {told}"


def test_a_target_is_told_with_what_was_reached(refscale: Callable[..., Outcome], place: Path) -> None:
    outcome = refscale("encode", "target.png", *REF, "-o", "out.rsc", "--target-bpp", "3", "--json", *TINY)
    size, told = len((place / "out.rsc").read_bytes()), json.loads(outcome.text)
    assert size <= 3 * 33 * 20 / 8
    assert (told["bytes"], told["quality"]) == (size, json.loads(refscale("info", "out.rsc", "--json").text)["quality"])
    assert 1 <= told["tries"] <= 6
    assert f"of 247 bytes, at quality {told['quality']} after {told['tries']} tr" in outcome.err
    outcome = refscale("encode", "target.png", *REF, "-o", "out.rsc", "--target-psnr", "20", "--json", *TINY)
    told = json.loads(outcome.text)
    assert told["psnr"] >= 20
    assert f"target: {told['psnr']:.2f} dB, at quality {told['quality']}" in outcome.err


def test_a_reference_of_another_size_will_do(refscale: Callable[..., Outcome], place: Path) -> None:
    small = ("--ref", "small.png")
    assert refscale("encode", "target.png", *small, "-o", "small.rsc", *TINY).code == 0
    assert refscale("decode", "small.rsc", *small, "-o", "out.png", *TINY).code == 0
    assert pictures.read(place / "out.png").pixels.shape == (20, 33, 3)
    assert refscale("verify", "small.rsc", *small, *TINY).code == 0
    for file in ("target.png", "small.rsc"):
        assert refscale("diff", file, *small, "-o", "out.tif", *TINY).code == 0
        assert pictures.read(place / "out.tif").pixels.shape == (20, 33, 3)


def test_pages_of_picture_and_reference_are_chosen(refscale: Callable[..., Outcome], place: Path) -> None:
    target, reference, other = (PIL.Image.open(place / f"{name}.png") for name in ("target", "ref", "other"))
    other.save(place / "new.tif", save_all=True, append_images=[target])
    other.save(place / "old.tif", save_all=True, append_images=[target, reference])
    assert_refusal(refscale("encode", "new.tif", "-o", "out.rsc", *TINY), 3, "holds 2 pictures", "--page 1 to --page 2")
    pages = ("--ref", "old.tif", "--ref-page", 3, *TINY)
    assert refscale("encode", "new.tif", "--page", 2, *pages, "--quality", 60, "-o", "out.rsc").code == 0
    assert (place / "out.rsc").read_bytes() == (place / "with.rsc").read_bytes()
    for line in (("decode", "with.rsc", "-o", "out.png"), ("verify", "with.rsc"), ("diff", "with.rsc", "-o", "d.png")):
        assert refscale(*line, *pages).code == 0
    assert_refusal(refscale("decode", "with.rsc", "--ref", "old.tif", "-o", "no.png", *TINY), 3, "holds 3 pictures")
    no_effect = refscale("encode", "target.png", "--ref-page", 1, "-o", "no.rsc", *TINY)
    assert_refusal(no_effect, 2, "--ref-page would have no effect")
    given = refscale("diff", "with.rsc", "--page", 1, *pages, "-o", "no.png")
    assert_refusal(given, 2, "--page would have no effect: with.rsc is a .rsc file")


def test_a_grey_reference_serves_for_rgb_and_the_reverse(refscale: Callable[..., Outcome], place: Path) -> None:
    for target, reference, bands in (("target.png", "grey.png", 3), ("grey.png", "target.png", 1)):
        done = refscale("encode", target, "--ref", reference, "-o", "out.rsc", *TINY)
        assert done.code == 0, done.err
        assert refscale("decode", "out.rsc", "--ref", reference, "-o", "out.png", *TINY).code == 0
        assert pictures.read(place / "out.png").pixels.shape == (20, 33, bands)
        named = container.unpack((place / "out.rsc").read_bytes()).header.reference
        assert named == pictures.read(place / reference).fingerprint()


def test_options_of_encode_reach_the_file(refscale: Callable[..., Outcome], place: Path) -> None:
    sizes = []
    for options in (("--quality", "20"), ("--quality", "90")):
        assert refscale("encode", "target.png", "-o", "out.rsc", *options, *TINY).code == 0
        content = container.unpack((place / "out.rsc").read_bytes())
        assert content.header.quality == int(options[1])
        assert content.output_hash is None
        sizes.append(len(content.lr))
    assert sizes[0] < sizes[1]
    assert refscale("extract-lr", "out.rsc", "-o", "small.jpg").code == 0
    with PIL.Image.open(place / "small.jpg") as small:
        assert PIL.JpegImagePlugin.get_sampling(small) == 0  # 4:4:4


@pytest.mark.parametrize(("name", "kind"), [("out.png", "PNG"), ("out.webp", "WEBP"), ("out.tif", "TIFF")])
def test_the_suffix_chooses_the_format(refscale: Callable[..., Outcome], place: Path, name: str, kind: str) -> None:
    assert refscale("decode", "with.rsc", *REF, "-o", name, *TINY).code == 0
    with PIL.Image.open(place / name) as picture:
        assert (picture.format, picture.size) == (kind, (33, 20))


@pytest.mark.parametrize("name", ["out.png", "out.webp"])
def test_metadata_travels_and_is_counted(
    refscale: Callable[..., Outcome], place: Path, saying: Metadata, name: str
) -> None:
    outcome = refscale("encode", "saying.jpg", *REF, "-o", "out.rsc", *TINY)
    size = container.bytes_by_section(container.unpack((place / "out.rsc").read_bytes()))["metadata"]
    assert f", metadata {size})" in outcome.err
    told = json.loads(refscale("info", "out.rsc", "--json").text)
    assert (told["metadata"], told["bytes_by_section"]["metadata"]) == ("icc exif xmp", size)
    assert told["bytes"] == sum(told["bytes_by_section"].values())
    assert refscale("verify", "out.rsc", *REF, *TINY).code == 0
    outcome = refscale("decode", "out.rsc", *REF, "-o", name, *TINY)
    assert outcome == Outcome(0, b"", f"{name}: 33x20\n")
    assert pictures.read(place / name).metadata == saying
    assert refscale("decode", "out.rsc", *REF, "-o", name, "--window", "3,4,5,6", *TINY).code == 0
    assert pictures.read(place / name).metadata == saying


def test_stripped_metadata_leaves_no_trace(refscale: Callable[..., Outcome], place: Path, saying: Metadata) -> None:
    assert refscale("encode", "saying.jpg", "-o", "out.rsc", "--strip", *TINY).code == 0
    pictures.write(Image(pictures.read(place / "saying.jpg").pixels), place / "silent.png")
    assert refscale("encode", "silent.png", "-o", "silent.rsc", *TINY).code == 0
    assert (place / "out.rsc").read_bytes() == (place / "silent.rsc").read_bytes()


def test_metadata_counts_in_a_target(refscale: Callable[..., Outcome], place: Path, saying: Metadata) -> None:
    assert refscale("encode", "saying.jpg", "-o", "out.rsc", "--target-bytes", 600, *TINY).code == 0
    data = (place / "out.rsc").read_bytes()
    assert len(data) <= 600
    assert container.unpack(data).metadata is not None


def test_metadata_that_a_format_cannot_hold_is_told(
    refscale: Callable[..., Outcome], place: Path, saying: Metadata, caplog: pytest.LogCaptureFixture
) -> None:
    assert refscale("encode", "saying.jpg", "-o", "out.rsc", *TINY).code == 0
    assert refscale("decode", "out.rsc", "-o", "out.tif", *TINY).code == 0
    assert caplog.messages == ["TIFF holds the EXIF as tags, not byte for byte"]
    said = pictures.read(place / "out.tif").metadata
    assert (said.icc, said.xmp) == (saying.icc, saying.xmp)


def test_a_damaged_metadata_payload_is_refused(refscale: Callable[..., Outcome], place: Path) -> None:
    content = container.unpack((place / "alone.rsc").read_bytes())
    (place / "bad.rsc").write_bytes(container.pack(replace(content, metadata=bytes(12) + b"x")))
    for line in ("info bad.rsc", f"verify bad.rsc {' '.join(TINY)}", f"decode bad.rsc -o out.png {' '.join(TINY)}"):
        assert_refusal(refscale(*line.split()), 4, "bad.rsc", "METADATA")
    assert not (place / "out.png").exists()


@pytest.mark.parametrize("words", [("-o", "target.rsc"), ("-f",)])
def test_an_output_that_exists_is_replaced_where_it_is_named_or_by_force(
    refscale: Callable[..., Outcome], place: Path, words: tuple[str, ...]
) -> None:
    (place / "target.rsc").write_bytes(PRECIOUS)
    assert refscale("encode", "target.png", *REF, *words, "--quality", 60, *TINY).code == 0
    assert (place / "target.rsc").read_bytes() == (place / "with.rsc").read_bytes()


def test_a_reference_in_another_file_format_is_the_same_reference(
    refscale: Callable[..., Outcome], place: Path
) -> None:
    pictures.write(pictures.read(place / "ref.png"), place / "ref.webp")
    assert refscale("decode", "with.rsc", "--ref", "ref.webp", "-o", "out.png", *TINY).code == 0


def test_a_window_is_cut_out_of_the_whole(refscale: Callable[..., Outcome], place: Path) -> None:
    tile = ("--tile", "16", *TINY)
    assert refscale("decode", "with.rsc", *REF, "-o", "whole.png", *tile).code == 0
    outcome = refscale("decode", "with.rsc", *REF, "-o", "part.png", "--window", "7,3,20,11", *tile)
    assert (outcome.code, outcome.err) == (0, "part.png: 20x11\n")
    whole, part = (pictures.read(place / name).pixels for name in ("whole.png", "part.png"))
    assert np.array_equal(part, whole[3:14, 7:27])


@pytest.mark.parametrize(
    ("options", "expected"),
    [((), tiles.TILE), (("--tile", "48"), 48), (("--max-memory", "1.5G"), tiles.largest_within(3 << 29, 20, 33))],
)
def test_the_tile_reaches_encoder_and_decoder(
    refscale: Callable[..., Outcome],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    expected: int,
) -> None:
    sides, grid = set(), tiles.grid

    def spied(height: int, width: int, side: int, halo: int) -> Iterator[tiles.Tile]:
        sides.add(side)
        return grid(height, width, side, halo)

    monkeypatch.setattr(tiles, "grid", spied)
    for command in (("encode", "target.png", *REF, "-o", "out.rsc"), ("decode", "with.rsc", *REF, "-o", "out.png")):
        sides.clear()
        assert refscale(*command, "-f", *options, *TINY).code == 0
        assert sides == {expected}


def test_weights_that_ship_are_found_by_scale_and_by_fingerprint(
    refscale: Callable[..., Outcome], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place / "shipped"
    folder.mkdir()
    monkeypatch.setattr(weights_files, "SHIPPED", folder)
    shutil.copy(place / "tiny.safetensors", folder / "refscale-x2.safetensors")
    assert refscale("encode", "target.png", *REF, "-o", "out.rsc", "--quality", 60).code == 0
    assert (place / "out.rsc").read_bytes() == (place / "with.rsc").read_bytes()
    assert_refusal(refscale("encode", "target.png", "-o", "four.rsc", "--scale", 4), 5, "scale 4")
    # newer weights come, the old ones stay under another name
    shutil.move(folder / "refscale-x2.safetensors", folder / "old.safetensors")
    shutil.copy(place / "other.safetensors", folder / "refscale-x2.safetensors")
    assert refscale("decode", "out.rsc", *REF, "-o", "out.png").code == 0
    assert refscale("verify", "out.rsc", *REF).code == 0
