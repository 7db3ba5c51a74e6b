"""Results of `refscale rd-curve` -> rate-distortion curves, as PNG for documents and SVG for pages.

Each coder is one line, the mean of `curves`, and looks as in `styles`; the title says of how many pictures, or the
legend where coders differ. Pages may shade where the middle 80 % of pictures lie (interpolated at common rates).

Matplotlib comes with the extra `rd` and is loaded only when something is drawn; neither its global figures nor a
user's settings file play a part. The same results give the same bytes.
"""

import importlib
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import UsageError, counted
from refscale_codec.picture.files import make_folder, write_atomically
from refscale_codec.study.curves import PSNR, Curve, Metric, band, differ, mean_curves
from refscale_codec.study.results import CoderInfo, Results
from refscale_codec.study.styles import Style, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HIGHEST = 2.0
"""Largest rate shown, bits per pixel."""

_INK, _GRID = "#333333", "#DDDDDD"
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # of the logarithmic axis

_WIDTH, _PLOT_HEIGHT, _ROW_HEIGHT = 9.8, 5.0, 0.185  # inches: the figure, the axes, a line of the legend
_LEFT, _RIGHT, _TOP, _UNDER = 0.62, 1.75, 0.42, 0.62  # inches around the axes; on the right are the labels
_LABEL_GAP = 10.5  # points from one label to the next
_LEGEND_COLUMNS = (0.62, 5.9)  # inches from the left
_DOTS = "dots: uses the reference"

_SETTINGS: dict[str, Any] = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],  # comes with Matplotlib
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text: it can be searched, and a page can set it in its own font
    "svg.hashsalt": "refscale",
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def save_curves(
    results: Results, folder: Path, metrics: Iterable[Metric] = (PSNR,), only: Collection[str] | None = None
) -> list[Path]:
    """Write `rd.png` and `rd.svg` with a linear, `rd-log.png` and `rd-log.svg` with a logarithmic rate.

    Those of another metric than PSNR are named after it, such as `rd-ssim.png` and `rd-ssim-log.png`.

    Args:
        results: of `refscale rd-curve`.
        folder: where to; made if it is not there.
        metrics: of the curves.
        only: names of the coders to draw; None for all.

    Raises:
        UsageError: Matplotlib is not installed.
        OutputError: a file cannot be written.
    """
    paths = []
    make_folder(folder)
    kinds: tuple[Literal["png", "svg"], ...] = ("png", "svg")
    for metric in metrics:
        for log in (False, True):
            for kind in kinds:
                paths.append(folder / file_name(metric, kind, log=log))
                write_atomically(paths[-1], render(results, kind, log=log, metric=metric, only=only))
    return paths


def file_name(metric: Metric, kind: str, *, log: bool) -> str:
    """Return the name of a plot's file."""
    return f"rd{'' if metric == PSNR else f'-{metric.name}'}{'-log' * log}.{kind}"


def render(
    results: Results,
    kind: Literal["png", "svg"],
    *,
    log: bool,
    metric: Metric = PSNR,
    only: Collection[str] | None = None,
    bands: bool = False,
) -> bytes:
    """Return the figure as a file, "png" or "svg".

    In an SVG the line, the label at its end, what leads there and the band of coder number i of `results` are groups
    with the ids `line-i`, `label-i`, `lead-i` and `band-i`, and the background is `background`.

    Args:
        results: as in `save_curves`.
        kind: of the file.
        log: logarithmic rate.
        metric: of the curves.
        only: as in `save_curves`.
        bands: shade the spread of every coder, for a page that shows one or the other.

    Raises:
        UsageError: Matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib import style

    file = io.BytesIO()
    with style.context(["default", _SETTINGS]):  # the process's settings again afterwards
        metadata = {"Software": None} if kind == "png" else dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure = _figure(results, mean_curves(results, metric, only), metric.axis, log, bands)
        figure.savefig(file, format=kind, dpi=200, bbox_inches="tight", pad_inches=0.12, metadata=metadata)
    return file.getvalue()


def require_matplotlib() -> None:
    """Raise a UsageError that says how to get Matplotlib where it is missing."""
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise UsageError(f"plots and reports need Matplotlib ({error}): pip install 'refscale-codec[rd]'") from error


def _figure(results: Results, drawn: Mapping[str, Curve], axis: str, log: bool, bands: bool) -> "Figure":
    """Draw everything; called with `_SETTINGS` in force."""
    from matplotlib.figure import Figure

    looks = styles(results.coders)
    legend_height = _legend_height(_legend_columns(results, drawn))
    height = _TOP + _PLOT_HEIGHT + _UNDER + legend_height
    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    figure.patch.set_gid("background")
    plot_width = _WIDTH - _LEFT - _RIGHT
    axes = figure.add_axes(
        (_LEFT / _WIDTH, (legend_height + _UNDER) / height, plot_width / _WIDTH, _PLOT_HEIGHT / height)
    )
    _prepare(axes, drawn, axis, log)
    for index, coder in enumerate(results.coders):
        if (name := coder.name) in drawn:
            _draw_curve(axes, drawn[name], looks[name], index, bands)
    _label_ends(axes, results, drawn, looks, log)
    _legend(figure, results, drawn, looks)
    figure.text(_LEFT / _WIDTH, 1 - 0.24 / height, _title(results, drawn), va="center", fontsize=9)
    return figure


def _title(results: Results, drawn: Mapping[str, Curve]) -> str:
    pictures = {(row.dataset, row.name) for row in results.rows}
    used = next(iter(drawn.values())).names if drawn and not differ(drawn) else ()
    if differ(drawn):
        return "Mean of each coder's own pictures"
    if 0 < len(used) < len(pictures):
        return f"Mean of the {counted(len(used), 'picture')}, out of {len(pictures)}, that all coders have"
    if len(pictures) == 1:
        return "One picture"
    datasets = {dataset for dataset, _ in pictures}
    return f"Mean of {counted(len(pictures), 'picture')}" + (
        f" in {len(datasets)} datasets" if len(datasets) > 1 else ""
    )


def _prepare(axes: "Axes", drawn: Mapping[str, Curve], label: str, log: bool) -> None:
    """Set scales and limits by the visible part of the mean curves."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.set_xlabel("Rate (bits per pixel" + (", logarithmic)" if log else ")"))
    axes.set_ylabel(label)
    if not drawn:
        axes.text(0.5, 0.5, "nothing with a finite value was measured", ha="center", transform=axes.transAxes)
    points = np.concatenate([_visible(curve, log) for curve in drawn.values()]) if drawn else np.array([[1.0, 30.0]])
    (low, bottom), (high, top) = points.min(axis=0), points.max(axis=0)
    if log:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.08, high * (1.0 if high > low else 1.08))
        axes.xaxis.set_major_locator(FixedLocator(_TICKS))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    else:
        axes.set_xlim(0, high)
    margin = max(0.03 * (top - bottom), 0.25)
    axes.set_ylim(bottom - margin, top + margin)


def _visible(curve: Curve, log: bool) -> NDArray[np.float64]:
    """Return the points of a curve up to `HIGHEST`, [n >= 1, 2], with one put there if the drawn line goes on."""
    points = np.column_stack([curve.rates, curve.values])
    inside = points[curve.rates <= HIGHEST]
    if len(inside) == len(points):
        return points
    if len(inside) == 0:
        return np.array([[HIGHEST, curve.values[0]]])
    end, rates = (np.log(x) if log else x for x in (HIGHEST, curve.rates))
    return np.vstack([inside, [HIGHEST, np.interp(end, rates, curve.values)]])


def _draw_curve(axes: "Axes", curve: Curve, style: Style, index: int, with_band: bool) -> None:
    spread = band(curve.pictures)
    if with_band and len(spread):
        area = axes.fill_between(*spread.T, color=style.colour, alpha=0.14, linewidth=0, zorder=1.5)
        area.set_gid(f"band-{index}")
    (line,) = axes.plot(curve.rates, curve.values, **_line(style, alone=len(curve.rates) == 1))
    line.set_gid(f"line-{index}")
    line.set_zorder(2 + style.width)


def _line(style: Style, alone: bool = False) -> dict[str, Any]:
    """Return Matplotlib's settings for a line; a single point needs a marker to be visible."""
    return {
        "color": style.colour,
        "linewidth": style.width,
        "linestyle": (0, style.dashes) if style.dashes else "-",
        "dash_capstyle": "butt",
        "marker": "o" if style.dots else "s" if alone else "",
        "markersize": 3.2 + style.width,
        "markeredgecolor": "white",
        "markeredgewidth": 0.7,
    }


def _label_ends(
    axes: "Axes", results: Results, drawn: Mapping[str, Curve], looks: Mapping[str, Style], log: bool
) -> None:
    """Write each coder's name to the right of the axes at the height where its line ends, none over another."""
    listed = [(index, coder) for index, coder in enumerate(results.coders) if coder.name in drawn]
    ends = np.array([_visible(drawn[coder.name], log)[-1] for _, coder in listed]).reshape(-1, 2)
    places = axes.transAxes.inverted().transform(axes.transData.transform(ends)) if len(ends) else ends
    gap = _LABEL_GAP / 72 / _PLOT_HEIGHT
    heights = spread_out([float(y) for _, y in places], gap)
    for (index, coder), (x, y), height in zip(listed, places, heights, strict=True):
        style = looks[coder.name]
        (lead,) = axes.plot(
            [x, 1.006, 1.036], [y, y, height], color=style.colour, linewidth=0.6, linestyle=(0, (1, 1.5)),
            transform=axes.transAxes, clip_on=False, zorder=1.6,
        )  # fmt: skip
        text = axes.text(
            1.042, height, coder.name, color=style.colour, transform=axes.transAxes, va="center_baseline", fontsize=8.5,
            fontweight="bold" if coder.is_refscale else "normal",
        )  # fmt: skip
        lead.set_gid(f"lead-{index}")
        text.set_gid(f"label-{index}")


def spread_out(heights: Sequence[float], gap: float) -> list[float]:
    """Return heights in the same order, within [0, 1] if they fit, each at least `gap` from the next.

    They are moved as little as that takes: neighbours that touch become a block around the mean of their own places.
    """

    def bottom(block: tuple[float, int]) -> float:
        wanted, count = block  # sum over the block of where each would have its bottom, and how many there are
        return max(min(wanted / count, 1 - (count - 1) * gap), 0)

    blocks: list[tuple[float, int]] = []
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    for index in order:
        blocks.append((heights[index], 1))
        while len(blocks) > 1 and bottom(blocks[-2]) + blocks[-2][1] * gap > bottom(blocks[-1]):
            (upper, more), (lower, count) = blocks.pop(), blocks.pop()
            blocks.append((lower + upper - more * count * gap, count + more))
    placed = [bottom(block) + place * gap for block in blocks for place in range(block[1])]
    return [height for _, height in sorted(zip(order, placed, strict=True))]


def _legend_columns(results: Results, drawn: Mapping[str, Curve]) -> list[list[CoderInfo]]:
    """Return the coders that are drawn: refscale and those that use the reference on the left, the others right."""
    coders = [coder for coder in results.coders if coder.name in drawn]
    left = [coder for coder in coders if coder.is_refscale or coder.needs_reference]
    right = [coder for coder in coders if coder not in left]
    return [column for column in (by_family(left), right) if column]


def by_family(coders: Iterable[CoderInfo]) -> list[CoderInfo]:
    """Return coders in another order: refscale, then those that use the reference, then the others."""
    return sorted(coders, key=lambda coder: (not coder.is_refscale, not coder.needs_reference))


def _legend(figure: "Figure", results: Results, drawn: Mapping[str, Curve], looks: Mapping[str, Style]) -> None:
    """Write below the axes what each line is, in the words of the coder's label."""
    from matplotlib.lines import Line2D

    total = len({(row.dataset, row.name) for row in results.rows})
    own_pictures = differ(drawn)
    height = figure.get_figheight()
    columns = _legend_columns(results, drawn)
    top = _legend_height(columns)
    for x, coders in zip(_LEGEND_COLUMNS, columns, strict=False):
        for row, coder in enumerate(coders):
            style, curve = looks[coder.name], drawn[coder.name]
            y = (top - _ROW_HEIGHT * (row + 0.5)) / height
            ends = np.array([x, x + 0.2, x + 0.4]) / _WIDTH
            figure.add_artist(Line2D(ends, [y, y, y], **{**_line(style), "markevery": [1]}))
            count = f" ({len(curve.pictures)} of {total} pictures)" if own_pictures else ""
            text = figure.text((x + 0.5) / _WIDTH, y, coder.label + count, va="center_baseline", fontsize=7.5)
            text.set_fontweight("bold" if coder.is_refscale else "normal")
    if any(coder.needs_reference for column in columns for coder in column):
        y = (top - _ROW_HEIGHT * (len(columns[0]) + 0.5)) / height
        figure.text(_LEGEND_COLUMNS[0] / _WIDTH, y, _DOTS, va="center_baseline", fontsize=7.5, color="#666666")


def _legend_height(columns: Sequence[Sequence[object]]) -> float:
    """Return inches; the left column has one more line, which explains the dots."""
    return _ROW_HEIGHT * max((len(column) + (place == 0) for place, column in enumerate(columns)), default=0) + 0.12
