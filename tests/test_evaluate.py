"""Figures mean what they say: rows worked out by hand, whole files counted, nothing left out in silence."""

import json
import math
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import Outcome

import refscale_codec
from refscale_codec.codec import decoder, encoder
from refscale_codec.fileformat import container
from refscale_codec.lrcodec.dct.codec import DctCodec
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.manifest import Pair, read_manifest
from refscale_codec.rescale.net import RescaleConfig, RescaleNet
from refscale_codec.study import evaluate, metrics
from refscale_codec.study import results as results_files
from refscale_codec.study.coders import jpeg
from refscale_codec.study.coders.names import MODES
from refscale_codec.study.coders.protocol import Coder
from refscale_codec.study.comparison import compare
from refscale_codec.study.results import Row


@pytest.fixture(scope="module")
def net() -> Model:
    torch.manual_seed(3)
    fresh = RescaleNet(RescaleConfig(blocks=1, width=8, ref_width=8)).eval().requires_grad_(False)
    return Model(fresh, DctCodec(), b"tested")


def drawn(seed: int, height: int = 24, width: int = 20) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 128 + 80 * np.sin(x[..., None] * rng.uniform(0.2, 0.8, 3) + y[..., None] * rng.uniform(0.2, 0.8, 3))
    return np.clip(waves + rng.normal(0, 6, waves.shape), 0, 255).astype(np.uint8)


def saved(path: Path, pixels: np.ndarray) -> Path:
    PIL.Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    """Return two pairs of two places, and one picture alone; all of one size."""
    named = []
    for seed, name in ((1, "a"), (2, "b")):
        old = np.clip(drawn(seed).astype(int) + 9, 0, 255).astype(np.uint8)
        target, reference = saved(tmp_path / f"{name}.png", drawn(seed)), saved(tmp_path / f"{name}_old.png", old)
        named.append(Pair("waves", name, target, reference))
    return [*named, Pair("single", "c", saved(tmp_path / "c.png", drawn(3)), None)]


def only(rows: list[Row], coder: str, quality: int) -> Row:
    (row,) = [row for row in rows if row.coder == coder and row.quality == quality]
    return row


# --- rows ------------------------------------------------------------------------------------------------------------


def test_rows_of_one_pair_by_hand(pairs: list[Pair], net: Model) -> None:
    pair = pairs[0]
    rows = evaluate.evaluate([pair], net, qualities=(40,), modes=("reference", "alone"))
    target, reference = Image(drawn(1)), Image(np.array(PIL.Image.open(str(pair.reference))))

    for coder, given in (("reference", reference), ("alone", None)):
        data = encoder.encode(target, given, net, encoder.EncodeOptions(quality=40))
        sizes = container.bytes_by_section(container.unpack(data))
        decoded = decoder.decode(data, given, net).pixels
        error = np.mean((decoded.astype(float) - target.pixels) ** 2)
        row = only(rows, coder, 40)
        assert (row.dataset, row.name) == ("waves", "a")
        assert (row.bytes_total, row.bytes_by_section) == (len(data), sizes)
        assert row.bpp == 8 * len(data) / (24 * 20)
        assert row.psnr == pytest.approx(10 * math.log10(255**2 / error))
        assert row.psnr_y == metrics.psnr_y(target.pixels, decoded)
        assert row.seconds["encode"] > 0
        assert row.seconds["decode"] > 0  # of the first quality
    assert only(rows, "alone", 40).bytes_by_section["map"] == 0

    payload = jpeg.encode(target.pixels, 50)
    row = only(rows, "jpeg", 50)
    assert (row.bytes_total, row.bytes_by_section) == (len(payload), {"picture": len(payload)})
    assert row.bpp == 8 * len(payload) / (24 * 20)
    assert row.psnr == metrics.psnr(target.pixels, jpeg.decode(payload))


@pytest.mark.slow
def test_every_coder_has_a_row_for_every_quality(pairs: list[Pair], net: Model) -> None:
    seen: list[Pair] = []
    rows = evaluate.evaluate(pairs, net, qualities=iter((20, 80)), modes=iter(MODES), report=seen.append)
    assert seen == pairs
    for name, coders in (("a", {"reference", "alone", "unrelated"}), ("b", {"reference", "alone", "unrelated"})):
        for coder in coders:
            assert [row.quality for row in rows if (row.name, row.coder) == (name, coder)] == [20, 80]
    assert {row.coder for row in rows if row.name == "c"} == {"jpeg", "alone"}  # there is no reference to use
    for name in "abc":
        jpeg = [row.quality for row in rows if (row.name, row.coder) == (name, "jpeg")]
        assert jpeg == list(evaluate.JPEG_DENSE)


def test_a_reference_of_another_size_is_used_as_it_is(tmp_path: Path, net: Model) -> None:
    older = np.kron(drawn(1), np.ones((2, 2, 1), np.uint8))
    pair = Pair("d", "a", saved(tmp_path / "a.png", drawn(1)), saved(tmp_path / "b.png", older))
    rows = evaluate.evaluate([pair], net, qualities=(50,), modes=("reference",))
    data = encoder.encode(Image(drawn(1)), Image(older), net, encoder.EncodeOptions(quality=50))
    assert only(rows, "reference", 50).bytes_total == len(data)
    assert np.isfinite(evaluate.rounded_psnr([pair], net)["d"])


def test_a_reference_that_cannot_be_brought_onto_the_grid_is_left_out(tmp_path: Path, net: Model) -> None:
    strip = saved(tmp_path / "b.png", np.zeros((1, 100_000, 3), np.uint8))
    pair = Pair("d", "a", saved(tmp_path / "a.png", drawn(1)), strip)
    (row,) = (row for row in evaluate.evaluate([pair], net, qualities=(50,)) if row.coder == "reference")
    alone = decoder.decode(encoder.encode(Image(drawn(1)), None, net, encoder.EncodeOptions(quality=50)), None, net)
    assert row.psnr == metrics.psnr(drawn(1), alone.pixels)
    assert evaluate.rounded_psnr([pair], net) == evaluate.rounded_psnr([pair], net, mode="alone")


@pytest.mark.slow
def test_a_real_pair_with_a_reference_of_half_its_size(
    refscale: Callable[..., Outcome], data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = next(p for p in read_manifest(data_folder / "manifest.csv", ("dev",)) if p.dataset == "naip_chico")
    target, older = (np.array(PIL.Image.open(str(path)))[:128, :128] for path in (pair.target, pair.reference))
    small = PIL.Image.fromarray(older).resize((64, 64), PIL.Image.Resampling.BOX)
    saved(tmp_path / "target.png", target), saved(tmp_path / "small.png", np.array(small))
    (tmp_path / "pairs.csv").write_text("target,reference\ntarget.png,small.png\n")
    monkeypatch.chdir(tmp_path)
    done = refscale("eval", "pairs.csv", "--qualities", "60,90", "--modes", "reference,alone", "-o", "eval.json")
    assert done.code == 0, done.err
    own = {row["coder"]: row for row in json.loads((tmp_path / "eval.json").read_text())["rows"]}
    coders = "jpeg,refscale-x2,x265,x265-reference"
    done = refscale("rd-curve", "pairs.csv", "-o", "run", "--coders", coders, "--jobs", "1")
    assert done.code == 0, done.err
    assert "1 of 1 references have another size" in done.err
    assert "resampled (bicubic) for: x265-reference" in done.err
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    at_equal_quality = {
        (c["coder"], c["anchor"]): c["percent"] for c in found["comparisons"] if c["percent"] is not None
    }
    assert at_equal_quality["refscale-x2", "jpeg"] < -30
    assert own["reference"]["bytes_total"] > 0
    assert (tmp_path / "run" / "report.html").exists()


def test_rounded_psnr_is_that_of_a_low_res_picture_that_is_not_coded(pairs: list[Pair], net: Model) -> None:
    found = evaluate.rounded_psnr(pairs, net)
    coded = evaluate.evaluate(pairs, net, qualities=(30,), modes=("reference", "alone"))
    assert found.keys() == {"waves", "single"}
    assert found["waves"] > np.mean([row.psnr for row in coded if row.coder == "reference"])
    # an untrained net keeps the 2x2 mean, rounded, and repeats it
    blocks = drawn(3).reshape(12, 2, 10, 2, 3).astype(float)
    repeated = np.broadcast_to(np.rint(blocks.mean(axis=(1, 3), keepdims=True)), blocks.shape)
    expected = 10 * math.log10(255**2 / np.mean((blocks - repeated) ** 2))
    assert found["single"] == pytest.approx(expected, abs=0.05)


# --- unrelated references --------------------------------------------------------------------------------------------


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[tuple[str, str], Image | None]]:
    """Record which reference each picture is coded against, without coding anything."""
    found: dict[tuple[str, str], Image | None] = {}

    def record(pair: Pair, name: str, coder: Coder, target: Image, reference: Image | None, *_: object) -> list[Row]:
        if name != "jpeg":
            found[pair.name, name] = reference
        return []

    monkeypatch.setattr(evaluate, "_rows", record)
    yield found


def test_each_mode_gets_its_reference(pairs: list[Pair], net: Model, used: dict[tuple[str, str], Image | None]) -> None:
    evaluate.evaluate(pairs, net, qualities=(50,))
    old = {pair.name: np.array(PIL.Image.open(str(pair.reference))) for pair in pairs[:2]}
    for name, other in (("a", "b"), ("b", "a")):
        reference, unrelated = used[name, "reference"], used[name, "unrelated"]
        assert reference is not None and np.array_equal(reference.pixels, old[name])
        assert unrelated is not None and np.array_equal(unrelated.pixels, old[other])
        assert used[name, "alone"] is None
    assert [name for name, mode in used if mode != "alone"].count("c") == 0


@pytest.mark.parametrize("size", [(30, 33), (7, 9), (24, 9), (7, 33), (1, 1)])
def test_an_unrelated_reference_of_another_size_is_repeated_or_cropped(
    tmp_path: Path, net: Model, used: dict[tuple[str, str], Image | None], size: tuple[int, int]
) -> None:
    pairs = []
    for seed, (name, shape) in enumerate({"a": (24, 20), "b": size}.items()):
        target, old = saved(tmp_path / f"{name}.png", drawn(seed, *shape)), drawn(seed + 10, *shape)
        pairs.append(Pair("d", name, target, saved(tmp_path / f"{name}_old.png", old)))
    evaluate.evaluate(pairs, net, qualities=(50,), modes=("unrelated",))
    for name, own, other, (height, width) in (("a", 10, 11, (24, 20)), ("b", 11, 10, size)):
        found, source = used[name, "unrelated"], drawn(other, *(size if other == 11 else (24, 20)))
        assert found is not None
        assert found.pixels.shape == (height, width, 3)
        rows, columns = np.arange(height) % source.shape[0], np.arange(width) % source.shape[1]
        assert np.array_equal(found.pixels, source[rows][:, columns])
        assert not np.array_equal(found.pixels, drawn(own, height, width))


def test_a_reference_shared_by_two_rows_is_not_unrelated(
    pairs: list[Pair], net: Model, used: dict[tuple[str, str], Image | None]
) -> None:
    later = Pair("waves", "a2", pairs[1].target, pairs[0].reference)
    evaluate.evaluate([pairs[0], later, pairs[1]], net, qualities=(50,), modes=("unrelated",))
    unrelated = used["a", "unrelated"]
    assert unrelated is not None
    assert np.array_equal(unrelated.pixels, np.array(PIL.Image.open(str(pairs[1].reference))))


def test_the_other_direction_of_a_pair_is_not_unrelated(
    pairs: list[Pair], net: Model, used: dict[tuple[str, str], Image | None]
) -> None:
    there = pairs[0]
    assert there.reference is not None
    back = Pair("waves", "a back", there.reference, there.target)
    evaluate.evaluate([there, back, pairs[1]], net, qualities=(50,), modes=("unrelated",))
    unrelated = used["a", "unrelated"]
    assert unrelated is not None
    assert not np.array_equal(unrelated.pixels, drawn(1))


def test_a_single_pair_has_no_unrelated_reference(
    pairs: list[Pair], net: Model, used: dict[tuple[str, str], Image | None]
) -> None:
    evaluate.evaluate([pairs[0], pairs[2]], net, qualities=(50,))
    assert set(used) == {("a", "reference"), ("a", "alone"), ("c", "alone")}


# --- comparisons -----------------------------------------------------------------------------------------------------


def row_of(name: str, coder: str, quality: int, bpp: float, psnr: float, dataset: str = "d", n_map: int = 0) -> Row:
    sizes = {"header": 100, "map": n_map, "low_res": 900 - n_map}
    return Row(
        *(dataset, name, coder, quality, 1000, sizes, bpp, psnr, psnr, 0.9, 0.95, 0.1, 0.1),
        {"encode": 0.5, "decode": 0.25},
    )


def curve(name: str, coder: str, factor: float = 1.0, lift: float = 0.0, dataset: str = "d") -> list[Row]:
    rates = (0.1, 0.2, 0.35, 0.6, 1.0)
    return [
        row_of(name, coder, number, factor * rate, 40 + lift + 6 * math.log2(rate), dataset)
        for number, rate in enumerate(rates)
    ]


def test_half_the_rate_at_every_quality_is_minus_50_percent() -> None:
    # the range is wide enough for both curves whole
    rows = curve("a", "jpeg") + curve("a", "reference", 0.5)
    (found,) = compare(rows, "reference", "jpeg", 0.01, 2.0)
    assert (found.dataset, found.coder, found.anchor) == ("d", "reference", "jpeg")
    assert found.percent == pytest.approx(-50, abs=0.01)
    assert (found.pictures, found.left_out, found.notes) == (1, 0, ())
    (back,) = compare(rows, "jpeg", "reference", 0.01, 2.0)
    assert back.percent == pytest.approx(100, abs=0.01)
    (cut,) = compare(rows, "reference", "jpeg")  # the same when only 0.1 to 1 bits per pixel count
    assert cut.percent == pytest.approx(-50, abs=0.1)
    (same,) = compare(rows, "jpeg", "jpeg")
    assert same.percent == pytest.approx(0, abs=1e-9)


def test_rates_outside_the_range_do_not_count() -> None:
    # below 0.3 bits per pixel the coder is far better, above it equal
    jpeg = [row_of("a", "jpeg", n, 0.1 * 2**n, 30 + 3 * n) for n in range(5)]
    better = [row_of("a", "reference", n, 0.1 * 2**n, 30 + 3 * max(n, 1.5)) for n in range(5)]
    (found,) = compare(jpeg + better[2:] + better[:1], "reference", "jpeg", 0.4, 1.6)
    assert found.percent == pytest.approx(0, abs=1e-6)


def test_the_mean_is_over_pictures_by_dataset_and_over_all() -> None:
    rows = curve("a", "jpeg") + curve("a", "reference", 0.5)
    rows += curve("b", "jpeg") + curve("b", "reference", 0.75)
    rows += curve("a", "jpeg", dataset="e") + curve("a", "reference", 1.0, dataset="e")
    found = {c.dataset: c for c in compare(rows, "reference", "jpeg", 0.01, 2.0)}
    assert found.keys() == {"d", "e", "all"}
    assert found["d"].percent == pytest.approx(-37.5, abs=0.01)
    assert found["e"].percent == pytest.approx(0, abs=0.01)
    assert found["all"].percent == pytest.approx(-25, abs=0.01)  # of three pictures, not of two datasets
    assert [found[name].pictures for name in ("d", "e", "all")] == [2, 1, 3]


def test_a_picture_without_overlap_is_counted_as_left_out_with_its_note() -> None:
    rows = curve("a", "jpeg") + curve("a", "reference", 0.5)
    rows += curve("b", "jpeg") + curve("b", "reference", lift=60)
    (found,) = compare(rows, "reference", "jpeg", 0.01, 2.0)
    assert found.percent == pytest.approx(-50, abs=0.01)
    assert (found.pictures, found.left_out) == (1, 1)
    (note,) = found.notes
    assert note.startswith("no BD-rate: no PSNR in common")


def test_without_any_overlap_there_is_no_figure() -> None:
    (found,) = compare(curve("a", "jpeg") + curve("a", "reference", lift=60), "reference", "jpeg", 0.01, 2.0)
    assert math.isnan(found.percent)
    assert (found.pictures, found.left_out) == (0, 1)
    assert found.notes


def test_too_few_points_in_the_range_are_left_out_with_a_note() -> None:
    (found,) = compare(curve("a", "jpeg") + curve("a", "reference", 30), "reference", "jpeg")
    assert (found.pictures, found.left_out) == (0, 1)
    assert "usable points" in found.notes[0]


def test_a_coder_that_was_not_run_is_not_compared() -> None:
    rows = curve("a", "jpeg") + curve("a", "alone", 0.5) + curve("b", "jpeg")
    assert compare(rows, "reference", "jpeg") == []
    assert compare(rows, "alone", "unrelated") == []
    (found,) = compare(rows, "alone", "jpeg", 0.01, 2.0)
    assert (found.pictures, found.left_out) == (1, 0)


def test_the_share_of_the_map_by_hand() -> None:
    rows = [
        row_of("a", "reference", 30, 0.5, 30, n_map=200),  # 0.5 bits * 200 of 1000 bytes
        row_of("a", "reference", 70, 1.0, 36, n_map=50),
        row_of("a", "unrelated", 30, 0.5, 30, n_map=900),
        row_of("a", "jpeg", 30, 0.5, 30),
    ]
    assert evaluate.map_bpp(rows) == pytest.approx((0.1 + 0.05) / 2)
    assert math.isnan(evaluate.map_bpp(rows[2:]))


# --- results files ---------------------------------------------------------------------------------------------------


def test_a_results_file_holds_what_was_measured_with_what_and_how(net: Model, tmp_path: Path) -> None:
    rows = curve("a", "jpeg") + curve("a", "reference", 0.5)
    comparisons = compare(rows, "reference", "jpeg", 0.01, 2.0)
    result = evaluate.results(rows, comparisons, {"a": 40.0}, net, "refscale-mine", "refscale eval pairs.csv")
    results_files.write(result, tmp_path / "results.json")
    assert results_files.read(tmp_path / "results.json") == result
    assert result.figures == {
        "map_bpp": pytest.approx(evaluate.map_bpp(rows)),
        "rounded_psnr": {"a": 40.0},
    }
    assert result.command == "refscale eval pairs.csv"
    assert result.weights == {"refscale-mine": b"tested".hex()}
    assert [(coder.name, coder.is_refscale) for coder in result.coders] == [("jpeg", False), ("reference", True)]
    assert result.versions.keys() >= {"refscale", "python", "torch", "pillow", "numpy"}
    assert result.versions["refscale"] == refscale_codec.__version__
    assert result.versions["torch"] == torch.__version__
    assert result.machine["system"] == platform.system()
    assert result.machine["cpu"]
    assert result.machine["threads"] == torch.get_num_threads()
    for part in ("whole file", "high-res pixel", "RGB PSNR", "BD-rate"):
        assert part in result.convention
    assert result.rows == tuple(rows)
    assert result.comparisons[0].percent == pytest.approx(-50, abs=0.01)


def test_figures_that_are_not_finite_can_be_written_as_json(net: Model) -> None:
    rows = curve("a", "jpeg") + curve("a", "reference", lift=60)
    rows.append(row_of("a", "jpeg", 97, 2.0, math.inf))
    comparisons = compare(rows, "reference", "jpeg", 0.01, 2.0)
    result = evaluate.results(rows, comparisons, {"a": math.inf}, net, "refscale-x2", "refscale eval pairs.csv")
    stored = json.loads(results_files.dumps(result))
    assert stored["figures"]["rounded_psnr"] == {"a": None}
    assert stored["rows"][-1]["psnr"] is None
