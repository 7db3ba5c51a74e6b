"""Results of `refscale rd-curve` -> one page, report.html, that is opened in a browser or sent to somebody.

The page holds everything: the curves as SVG, BD-rates and times as tables, every point of every picture, how it was
measured, and pictures to compare under a divider (`viewers`). It loads nothing, and its content security policy forbids
it to. What it looks like is in `templates`, which escape everything that comes from outside; this module works out what
they fill in.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from refscale_codec.errors import counted
from refscale_codec.picture.files import make_folder, write_atomically
from refscale_codec.study import plot
from refscale_codec.study.curves import METRICS, PSNR, Metric, mean_curves
from refscale_codec.study.results import ALL, BEST, JPEG, CoderInfo, Comparison, Results, Row, seconds_per_megapixel
from refscale_codec.study.styles import few, styles
from refscale_codec.study.viewers import Scene, viewers

_MOST_CURVES = 6  # that a reader tells apart; if there are more, a page begins with few


def write(
    results: Results,
    scenes: Sequence[Scene],
    folder: Path,
    percents: Mapping[tuple[str, str, str, str], float] = MappingProxyType({}),
) -> Path:
    """Write report.html and return its path.

    Args:
        results: of `refscale rd-curve`.
        scenes: pictures to compare, in the order of the page; may be empty.
        folder: where to; made if it is not there.
        percents: BD-rates of single pictures, by dataset, picture, coder and anchor, as far as there are any.

    Raises:
        UsageError: Matplotlib is not installed.
        ValueError: a layer is no PNG, WebP or JPEG. That is a mistake of the program, not of a user.
        OutputError: the file cannot be written.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"counted": counted, "signed": _signed, "seconds": _seconds, "fixed": _fixed}
    pictures = _pictures(results, percents)
    plots = _plots(results)
    page = templates.get_template("report.html").render(
        ALL=ALL,
        results=results,
        coders=results.coders,
        datasets=len({picture.dataset for picture in pictures}),
        lead=_lead(results),
        plots=plots,
        choices=_choices(plots),
        styles=styles(results.coders),
        summary=_summary(results),
        anchors=[anchor for anchor in (BEST, JPEG) if anchor in {c.anchor for c in results.comparisons}],
        tables=[_table(results, anchor) for anchor in dict.fromkeys(c.anchor for c in results.comparisons)],
        pictures=pictures,
        viewers=viewers(scenes),
    )
    make_folder(folder)
    path = folder / "report.html"
    write_atomically(path, page.encode())
    return path


def _over_everything(results: Results) -> dict[tuple[str, str], Comparison]:
    """Return the comparisons over all datasets, by coder and anchor."""
    datasets = {c.dataset for c in results.comparisons}
    total = datasets if len(datasets) == 1 else {ALL}
    return {(c.coder, c.anchor): c for c in results.comparisons if c.dataset in total}


def _lead(results: Results) -> list[Comparison]:
    """Return how the first refscale coder does against each anchor, over everything."""
    compared = _over_everything(results)
    ours = [coder.name for coder in results.coders if coder.is_refscale][:1]
    return [compared[name, anchor] for name in ours for anchor in (BEST, JPEG) if (name, anchor) in compared]


# --- curves ----------------------------------------------------------------------------------------------------------


class _Plot(NamedTuple):
    metric: str
    axis: str
    coders: str  # which of them are drawn
    drawn: frozenset[str]  # their names
    svg: Markup

    @property
    def id(self) -> str:
        """On the page."""
        return f"{self.metric}-{self.axis}-{self.coders}"


def _plots(results: Results) -> list[_Plot]:
    """Return a plot for each metric that was measured, either axis, and few and all coders if these differ much."""
    names = tuple(coder.name for coder in results.coders)
    selections = {"all": names}
    if len(names) > _MOST_CURVES and few(results.coders):
        selections = {"few": few(results.coders), **selections}
    made = []
    for metric in METRICS.values():
        for axis in ("linear", "log"):
            for selection, only in selections.items():
                drawn = frozenset(mean_curves(results, metric, only))
                if drawn or metric == PSNR:
                    plot_id = f"{metric.name}-{axis}-{selection}"
                    svg = _svg(results, plot_id, metric, axis == "log", only)
                    made.append(_Plot(metric.name, axis, selection, drawn, svg))
    return made


def _choices(plots: Sequence[_Plot]) -> dict[str, dict[str, str]]:
    """Return what can be chosen where there is more than one: a field of `_Plot`, and labels by its values."""
    labels = {
        "metric": {name: name.upper() for name in METRICS},
        "axis": {"linear": "Linear rate", "log": "Logarithmic rate"},
        "coders": {"few": "Few coders", "all": "All coders"},
    }
    there = {field: dict.fromkeys(getattr(plot, field) for plot in plots) for field in labels}
    return {
        field: {value: labels[field][value] for value in values} for field, values in there.items() if len(values) > 1
    }


def _svg(results: Results, prefix: str, metric: Metric, log: bool, only: Collection[str]) -> Markup:
    """Return a plot as an element of a page, where its ids may meet those of another one."""
    svg = plot.render(
        results, "svg", log=log, metric=metric, only=only, bands=True
    ).decode()  # escapes its texts itself
    svg = re.sub(r'(\sid="|xlink:href="#|url\(#)', rf"\1{prefix}-", svg[svg.index("<svg") :])
    axis = "logarithmic" if log else "linear"
    label = (
        f"{metric.name.upper()} over bits per pixel, {axis} rate, one line a coder: {', '.join(only)}; the figures are "
        "in the tables below"
    )
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))


# --- every coder and every picture -----------------------------------------------------------------------------------


class _Summary(NamedTuple):
    """One coder over everything."""

    coder: CoderInfo
    compared: dict[str, Comparison]  # by anchor
    seconds: dict[str, float]  # for a megapixel


def _summary(results: Results) -> list[_Summary]:
    compared, seconds = _over_everything(results), seconds_per_megapixel(results.rows)
    return [
        _Summary(
            coder,
            {anchor: compared[coder.name, anchor] for anchor in (BEST, JPEG) if (coder.name, anchor) in compared},
            seconds.get(coder.name, {}),
        )
        for coder in plot.by_family(results.coders)
    ]


class _Measured(NamedTuple):
    """One coder on one picture."""

    coder: CoderInfo
    percents: dict[str, float]  # by anchor
    rows: list[Row]


class _Picture(NamedTuple):
    dataset: str
    name: str
    measured: list[_Measured]


def _pictures(results: Results, percents: Mapping[tuple[str, str, str, str], float]) -> list[_Picture]:
    of_picture: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in results.rows:
        of_picture.setdefault((row.dataset, row.name), {}).setdefault(row.coder, []).append(row)
    return [
        _Picture(
            *picture,
            [
                _Measured(
                    coder,
                    {anchor: percents.get((*picture, coder.name, anchor), math.nan) for anchor in (BEST, JPEG)},
                    sorted(by_coder[coder.name], key=lambda row: row.quality),
                )
                for coder in plot.by_family(results.coders)
                if coder.name in by_coder
            ],
        )
        for picture, by_coder in of_picture.items()
    ]


def _seconds(seconds: Mapping[str, float], what: str) -> str:
    return f"{seconds[what]:.3f}" if what in seconds else "–"


def _fixed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "∞" if value > 0 else "–"


# --- BD-rates --------------------------------------------------------------------------------------------------------


class _Cell(NamedTuple):
    percent: float | None  # None where there is no figure, here and below
    bd_psnr: float | None
    counts: str | None  # how many pictures are in the mean, where it is not all
    stands_for_all: bool
    note: int | None  # its number


class _Row(NamedTuple):
    dataset: str
    pictures: int
    best: float | None  # percent
    cells: list[_Cell | None]  # one a coder; None where it was not compared


class _Table(NamedTuple):
    anchor: str
    label: str  # the anchor's
    coders: list[CoderInfo]
    rows: list[_Row]
    notes: list[str]


def _table(results: Results, anchor: str) -> _Table:
    """Return the table of one anchor: a row a dataset, a column a coder, and the notes below."""
    compared = {(c.dataset, c.coder): c for c in results.comparisons if c.anchor == anchor}
    names = {name for _, name in compared}
    coders = [coder for coder in plot.by_family(results.coders) if coder.name in names]
    notes: dict[str, int] = {}  # text: its number
    rows = []
    for dataset in sorted(dict.fromkeys(dataset for dataset, _ in compared), key=lambda dataset: dataset == ALL):
        of_dataset = [compared.get((dataset, coder.name)) for coder in coders]
        percents = [c.percent for c in of_dataset if c and math.isfinite(c.percent) and c.stands_for_all]
        most = max((c.of for c in of_dataset if c), default=0)
        rows.append(
            _Row(
                dataset, most, min(percents, default=None), [None if c is None else _cell(c, notes) for c in of_dataset]
            )
        )
    label = next((coder.label for coder in results.coders if coder.name == anchor), anchor)
    return _Table(anchor, label, coders, rows, list(notes))


def _cell(comparison: Comparison, notes: dict[str, int]) -> _Cell:
    """Return one BD-rate; its notes get a number in `notes` unless they have one."""
    texts = list(comparison.notes)
    if comparison.left_out:
        texts.insert(0, f"{comparison.left_out} of {counted(comparison.of, 'picture')} left out")
    number = notes.setdefault("; ".join(texts), len(notes) + 1) if texts else None
    percent, bd_psnr = (x if math.isfinite(x) else None for x in (comparison.percent, comparison.bd_psnr))
    counts = comparison.counts if comparison.left_out and percent is not None else None
    return _Cell(percent, None if percent is None else bd_psnr, counts, comparison.stands_for_all, number)


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")
