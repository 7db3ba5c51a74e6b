"""The curves are those of the rows, everything that was measured is in the picture, and it is drawn the same again."""

import io
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale_codec.errors import UsageError
from refscale_codec.study import plot, styles
from refscale_codec.study.coders import baselines
from refscale_codec.study.curves import METRICS, PSNR, Metric, mean_curves
from refscale_codec.study.curves import band as spread
from refscale_codec.study.results import CoderInfo, Results, Row

LABELS = {
    "jpeg": "JPEG 4:4:4",
    "x265": "x265 intra",
    "x265-reference": "x265 after the reference",
    "refscale-x2": "refscale x2 <with> $a$ & reference",
}
FILES = ["rd.png", "rd.svg", "rd-log.png", "rd-log.svg"]


def row(name: str, coder: str, quality: int, bpp: float, psnr: float, dataset: str = "waves") -> Row:
    nothing = [math.nan] * 5
    return Row(dataset, name, coder, quality, 1000, {"picture": 1000}, bpp, psnr, *nothing, {"encode": 1.0})


def coder(name: str, label: str = "") -> CoderInfo:
    """Return a coder that needs a reference if its name says so, and is refscale likewise."""
    return CoderInfo(name, label or name, "ref" in name, name if name.startswith("refscale") else None)


def results(pictures: int = 3, coders: dict[str, str] = LABELS, **changed: Any) -> Results:
    """Return results with three qualities; rates differ by picture, PSNR by coder."""
    rows = tuple(
        row(f"wave_{picture}", name, quality, 0.2 * 2**place * (1 + 0.1 * picture), 30.0 + 3 * place + index + picture)
        for picture in range(pictures)
        for index, name in enumerate(coders)
        for place, quality in enumerate((10, 50, 90))
    )
    parts = {"coders": tuple(coder(*item) for item in coders.items()), "rows": rows, "comparisons": ()}
    return Results("refscale rd-curve", "whole file", {}, {}, {}, **(parts | changed))


def changed_rows(of: Results, change: Callable[[Row], Row]) -> Results:
    return replace(of, rows=tuple(map(change, of.rows)))


def texts(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


def pixels_of_colour(png: bytes, colour: str) -> int:
    pixels = np.array(PIL.Image.open(io.BytesIO(png)).convert("RGB"))
    wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return int((pixels == wanted).all(axis=2).sum())


# --- files -----------------------------------------------------------------------------------------------------------


def test_all_four_files_show_every_coder(tmp_path: Path) -> None:
    given_results = results()
    paths = plot.save_curves(given_results, tmp_path / "new" / "report")
    assert [path.name for path in paths] == FILES
    looks = styles.styles(given_results.coders)
    for path in paths:
        data = path.read_bytes()
        if path.suffix == ".png":
            for style in looks.values():
                assert pixels_of_colour(data, style.colour) > 500
        else:
            for name, label in LABELS.items():
                assert name in texts(data)
                assert label in texts(data)
            lines = [e for e in ElementTree.fromstring(data).iter() if e.get("id", "").startswith("line-")]
            assert len(lines) == len(LABELS)
            assert ("Rate (bits per pixel, logarithmic)" in texts(data)) == (path.stem == "rd-log")
    assert paths[0].read_bytes() != paths[2].read_bytes()


def test_same_results_give_the_same_bytes_whatever_the_settings(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in plot.save_curves(results(), tmp_path)]
    with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": "another", "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        second = [path.read_bytes() for path in plot.save_curves(results(), tmp_path)]
        assert dict(matplotlib.rcParams) == before
    assert first == second


def test_svg_names_no_date_and_no_version() -> None:
    svg = plot.render(results(), "svg", log=False).decode()
    assert "<metadata" not in svg
    assert "Matplotlib" not in svg
    assert matplotlib.__version__ not in svg


def test_neither_torch_nor_global_figures_are_loaded() -> None:
    program = (
        "import sys; from refscale_codec.study import plot, results; print('matplotlib' in sys.modules);"
        "plot.render(results.Results('', '', {}, {}, {}, (), (), ()), 'svg', log=True);"
        "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False", "False"]


def test_without_matplotlib_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'refscale-codec\[rd\]'"):
        plot.save_curves(results(), tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_curve_is_the_mean_over_pictures_at_each_quality() -> None:
    curve = mean_curves(results(pictures=3))["x265"]
    assert curve.rates == pytest.approx([0.22, 0.44, 0.88])
    assert curve.values == pytest.approx([32, 35, 38])
    assert len(curve.pictures) == 3
    assert curve.pictures[2] == pytest.approx(np.array([[0.24, 33], [0.48, 36], [0.96, 39]]))


def test_picture_without_a_psnr_is_left_out_of_all_curves_and_the_title_says_so() -> None:
    def lossless(row: Row) -> Row:
        return replace(row, psnr=math.inf) if (row.name, row.coder, row.quality) == ("wave_2", "jpeg", 90) else row

    holed = changed_rows(results(pictures=3), lossless)
    curves = mean_curves(holed)
    assert curves["jpeg"].values == pytest.approx([30.5, 33.5, 36.5])
    assert curves["x265"].values == pytest.approx([31.5, 34.5, 37.5])
    written = texts(plot.render(holed, "svg", log=False))
    assert "Mean of the 2 pictures, out of 3, that all coders have" in written
    assert "JPEG 4:4:4" in written


def test_coders_without_a_common_picture_have_their_own_and_the_legend_says_so() -> None:
    parted = results(pictures=2, coders={"jpeg": "JPEG 4:4:4", "x265": "x265 intra"})
    parted = replace(parted, rows=[row for row in parted.rows if (row.coder == "jpeg") == (row.name == "wave_1")])
    curves = mean_curves(parted)
    assert curves["jpeg"].values == pytest.approx([31, 34, 37])
    assert curves["x265"].values == pytest.approx([31, 34, 37])
    written = texts(plot.render(parted, "svg", log=False))
    assert "Mean of each coder's own pictures" in written
    assert "JPEG 4:4:4 (1 of 2 pictures)" in written
    assert "x265 intra (1 of 2 pictures)" in written


def test_qualities_that_give_unordered_rates_are_drawn_by_rate() -> None:
    turned = changed_rows(results(pictures=1), lambda row: replace(row, quality=-row.quality))
    assert mean_curves(turned)["jpeg"].rates == pytest.approx([0.2, 0.4, 0.8])


@pytest.mark.parametrize("log", [False, True])
def test_one_coder_with_one_quality_gets_a_mark_where_a_curve_has_none(log: bool) -> None:
    curve = results(pictures=1, coders={"jpeg": "JPEG"})
    point = replace(curve, rows=curve.rows[:1])
    for drawn, marks in ((curve, 0), (point, 1)):
        svg = plot.render(drawn, "svg", log=log)
        (line,) = [element for element in ElementTree.fromstring(svg).iter() if element.get("id") == "line-0"]
        assert len(list(line.iter("{http://www.w3.org/2000/svg}use"))) == marks
        assert "jpeg" in texts(svg)


@pytest.mark.parametrize("log", [False, True])
def test_nothing_finite_is_reported_and_breaks_nothing(log: bool) -> None:
    empty = changed_rows(results(pictures=1), lambda row: replace(row, psnr=math.nan))
    assert mean_curves(empty) == {}
    written = texts(plot.render(empty, "svg", log=log))
    assert "nothing with a finite value was measured" in written
    assert "jpeg" not in written


def test_rates_beyond_two_bits_per_pixel_are_not_shown() -> None:
    large = changed_rows(results(), lambda row: replace(row, bpp=8 * row.bpp))
    numbers = [float(text) for text in texts(plot.render(large, "svg", log=False)) if text.replace(".", "").isdigit()]
    rates = [number for number in numbers if number < 20]  # PSNR begins at 30
    assert max(rates) == plot.HIGHEST


@pytest.mark.parametrize("log", [False, True])
def test_what_leads_to_a_label_begins_on_its_line(log: bool) -> None:
    large = changed_rows(results(), lambda row: replace(row, bpp=4 * row.bpp))  # each goes on beyond the axes
    curves = mean_curves(large)
    figure = plot._figure(large, curves, "PSNR", log, False)
    (axes,) = figure.axes
    parts = {part.get_gid(): part for part in axes.lines}
    for index, curve in enumerate(curves.values()):
        on_axes = axes.transAxes.inverted().transform(axes.transData.transform(np.column_stack(curve[:2])))
        (x, *_), (y, *_) = parts[f"lead-{index}"].get_data()
        assert x == pytest.approx(1)
        assert y == pytest.approx(np.interp(x, *on_axes.T))


def test_spread_is_shaded_for_pages_only() -> None:
    for bands, expected in ((False, set()), (True, {f"band-{index}" for index in range(4)})):
        root = ElementTree.fromstring(plot.render(results(), "svg", log=False, bands=bands))
        assert {element.get("id") for element in root.iter() if element.get("id", "").startswith("band-")} == expected


def test_only_the_coders_asked_for_are_drawn_and_averaged() -> None:
    holed = results(coders=LABELS)
    holed = replace(holed, rows=tuple(r for r in holed.rows if (r.coder, r.name) != ("x265", "wave_0")))
    assert len(mean_curves(holed)["jpeg"].names) == 2
    only = ("jpeg", "refscale-x2")
    assert {name: len(curve.names) for name, curve in mean_curves(holed, only=only).items()} == dict.fromkeys(only, 3)
    svg = plot.render(holed, "svg", log=False, only=only)
    assert [name for name in LABELS if name in texts(svg)] == list(only)
    assert "Mean of 3 pictures" in texts(svg)


@pytest.mark.parametrize("metric", [METRICS["ssim"], METRICS["ms-ssim"]])
def test_similarities_are_drawn_in_decibels(tmp_path: Path, metric: Metric) -> None:
    similar = changed_rows(results(pictures=1), lambda row: replace(row, **{metric.field: 1 - 10 ** (-row.psnr / 10)}))
    assert mean_curves(similar, metric)["jpeg"].values == pytest.approx([30, 33, 36])
    assert metric.axis in texts(plot.render(similar, "svg", log=False, metric=metric))
    paths = plot.save_curves(similar, tmp_path, (PSNR, metric))
    assert [path.name for path in paths][:4] == FILES
    assert [path.name for path in paths[4:]] == [
        f"rd-{metric.name}{end}" for end in (".png", ".svg", "-log.png", "-log.svg")
    ]
    equal = changed_rows(similar, lambda row: replace(row, **{metric.field: 1.0}))
    assert mean_curves(equal, metric) == {}


def test_band_is_the_percentiles_at_rates_that_all_pictures_reach() -> None:
    pictures = [np.array([[0.1, 20.0 + shift], [1.6, 28.0 + shift]]) for shift in range(11)]
    pictures[0] = np.array([[0.2, 22.0], [0.8, 26.0]])  # on the same line as it would be, but shorter
    band = spread(pictures)
    assert band[0, 0] == pytest.approx(0.2)
    assert band[-1, 0] == pytest.approx(0.8)
    assert band[0, 1:] == pytest.approx([23, 31])
    assert band[-1, 1:] == pytest.approx([27, 35])
    assert len(spread([pictures[0], pictures[0] + 1])) == 0  # no rate in common
    assert len(spread(pictures[:1])) == 0


# --- how it is drawn -------------------------------------------------------------------------------------------------


def contrast_to_white(colour: str) -> float:
    """Return the contrast ratio of WCAG 2.1."""
    values = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(1.05 / (linear @ (0.2126, 0.7152, 0.0722) + 0.05))


def test_every_coder_has_a_colour_of_its_own_that_can_be_read_on_white() -> None:
    named = {coder.name for coder in baselines.BASELINES}
    named |= {f"refscale-{w}{mode}" for w in ("x2", "x4", "x2-gmm") for mode in ("", "-alone", "-unrelated")}
    assert set(styles.COLOURS) == named
    assert len(set(styles.COLOURS.values())) == len(named)
    for colour in styles.COLOURS.values():
        assert contrast_to_white(colour) >= 3


def test_styles_tell_families_and_coders_apart() -> None:
    names = ["jpeg", "x265", "x265-reference", "av1", "av1-reference", "vvc", "vvc-reference"]
    names += ["refscale-x2", "refscale-x4", "refscale-mine", "refscale-other"]
    looks = styles.styles(results(0, {name: name for name in names}).coders)
    ours = [looks[name] for name in names if name.startswith("refscale")]
    others = [looks[name] for name in names if not name.startswith("refscale")]
    assert min(style.width for style in ours) >= 2 * max(style.width for style in others)
    assert len({style.colour for style in looks.values()}) == len(names)
    assert looks["x265-reference"].dashes
    assert not looks["x265"].dashes
    assert styles.styles([coder("x265")])["x265"] == looks["x265"]  # whatever else is drawn


def test_few_are_those_that_users_know_and_refscale_with_its_reference() -> None:
    names = [coder.name for coder in baselines.BASELINES] + ["refscale-x2"]
    coders = [coder(name) for name in names] + [CoderInfo("refscale-x2-alone", "", False, "refscale-x2")]
    assert styles.few(coders) == ("jpeg", "avif", "x265-reference", "refscale-x2")


@given(st.lists(st.floats(0, 1), max_size=20))
def test_labels_keep_their_order_and_distance_within_the_axes(heights: list[float]) -> None:
    gap = 0.05
    placed = plot.spread_out(heights, gap)
    assert len(placed) == len(heights)
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    for lower, upper in zip(order, order[1:], strict=False):
        assert placed[upper] - placed[lower] > gap - 1e-9
    assert all(-1e-9 < height < 1 + 1e-9 for height in placed)


def test_labels_with_room_stay_where_they_are_and_two_in_one_place_part() -> None:
    assert plot.spread_out([0.9, 0.1, 0.5], 0.1) == [0.9, 0.1, 0.5]
    assert plot.spread_out([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    assert plot.spread_out([1.0, 1.0, 0.2], 0.1) == pytest.approx([0.9, 1.0, 0.2])
