"""Results of `refscale rd-curve` -> one page, report.html, that is opened in a browser or sent to somebody.

The page holds everything: the curves as SVG, BD-rates as tables, how it was measured, and pictures to compare under a
divider. It loads nothing, and its content security policy forbids it to. What it looks like is in `templates`, which
escape everything that comes from outside; this module works out what they fill in.
"""

import base64
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import jinja2
import PIL.Image
from markupsafe import Markup

from refscale_codec.picture.files import write_atomically
from refscale_codec.study import heatmaps, plot
from refscale_codec.study.curves import mean_curves
from refscale_codec.study.results import ALL, CoderInfo, Comparison, Results

_LAYER_NAMES = {
    "target": "Target",
    "reference": "Reference",
    "reconstruction": "Reconstruction",
    "error": "Error heat map",
    "similarity": "Similarity map",
}
_OF_PICTURE = ("target", "reference")  # layers that are the same whatever the coder


class Scene(NamedTuple):
    """One picture through one coder at one quality, to be looked at."""

    dataset: str
    name: str  # scenes of the same dataset and name share a viewer, where their coders can be compared
    coder: str
    bpp: float
    psnr: float  # dB; not finite where the picture came back unchanged
    bytes_total: int
    layers: Mapping[str, bytes]
    """A PNG, WebP or JPEG file for each of target, reference, reconstruction, error, similarity, or any of them."""

    @property
    def lossless(self) -> bool:
        """Whether the picture came back unchanged."""
        return not math.isfinite(self.psnr)


def write(results: Results, scenes: Sequence[Scene], folder: Path) -> Path:
    """Write report.html and return its path.

    Args:
        results: of `refscale rd-curve`.
        scenes: pictures to compare, in the order of the page; may be empty.
        folder: where to; made if it is not there.

    Raises:
        UsageError: Matplotlib is not installed.
        ValueError: a layer is no PNG, WebP or JPEG. That is a mistake of the program, not of a user.
        OSError: the file cannot be written.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"counted": plot.counted, "signed": _signed}
    pictures = {(row.dataset, row.name) for row in results.rows}
    drawn = mean_curves(results)
    page = templates.get_template("report.html").render(
        ALL=ALL,
        results=results,
        coders=results.coders,
        pictures=len(pictures),
        datasets=len({dataset for dataset, _ in pictures}),
        lead=_lead(results),
        plots=[_Plot("rd", _svg(results, "rd", "linear")), _Plot("rd-log", _svg(results, "rd-log", "logarithmic"))],
        styles={name: style for name, style in plot.styles(results).items() if name in drawn},
        tables=[_table(results, anchor) for anchor in dict.fromkeys(c.anchor for c in results.comparisons)],
        viewers=_viewers(scenes),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    write_atomically(path, page.encode())
    return path


def _lead(results: Results) -> list[Comparison]:
    """Return how the first refscale coder does against each anchor, over everything."""
    ours = [coder.name for coder in results.coders if coder.is_refscale]
    datasets = {c.dataset for c in results.comparisons}
    total = datasets if len(datasets) == 1 else {ALL}
    return [c for c in results.comparisons if c.coder in ours[:1] and c.dataset in total and math.isfinite(c.percent)]


# --- curves ----------------------------------------------------------------------------------------------------------


class _Plot(NamedTuple):
    id: str
    svg: Markup


def _svg(results: Results, prefix: str, axis: str) -> Markup:
    """Return a plot as an element of a page, where its ids may meet those of another one."""
    svg = plot.render(results, "svg", log=axis == "logarithmic", all_bands=True).decode()  # escapes its texts itself
    svg = re.sub(r'(\sid="|xlink:href="#|url\(#)', rf"\1{prefix}-", svg[svg.index("<svg") :])
    label = f"PSNR over bits per pixel, {axis} rate, one line a coder; the figures are in the table below"
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))


# --- BD-rates --------------------------------------------------------------------------------------------------------


class _Cell(NamedTuple):
    percent: float | None  # None where there is no figure, here and below
    bd_psnr: float | None
    pictures: int
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
        percents = [c.percent for c in of_dataset if c and math.isfinite(c.percent)]
        most = max((c.pictures for c in of_dataset if c), default=0)
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
        of = plot.counted(comparison.pictures + comparison.left_out, "picture")
        texts.insert(0, f"{comparison.left_out} of {of} left out")
    number = notes.setdefault("; ".join(texts), len(notes) + 1) if texts else None
    percent, bd_psnr = (x if math.isfinite(x) else None for x in (comparison.percent, comparison.bd_psnr))
    return _Cell(percent, None if percent is None else bd_psnr, comparison.pictures, number)


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


# --- pictures --------------------------------------------------------------------------------------------------------


class _Layer(NamedTuple):
    label: str
    kind: str  # a key of Scene.layers
    data: bytes

    @property
    def source(self) -> str:
        """The picture as an address."""
        kind, _, _ = _type_and_size(self.data)
        return f"data:{kind};base64,{base64.b64encode(self.data).decode()}"


class _Scale(NamedTuple):
    """The colour bar of a heat map."""

    low: str
    colours: str
    high: str


class _Viewer(NamedTuple):
    dataset: str
    name: str
    scenes: list[Scene]
    layers: list[_Layer]
    left: int  # index of the layer that it begins with
    right: int
    width: int
    height: int
    scales: list[_Scale]


def _viewers(scenes: Sequence[Scene]) -> list[_Viewer]:
    groups: dict[tuple[str, str], list[Scene]] = {}
    for scene in scenes:
        groups.setdefault((scene.dataset, scene.name), []).append(scene)
    return [_viewer(group, layers) for group in groups.values() if (layers := _layers(group))]


def _layers(scenes: Sequence[Scene]) -> list[_Layer]:
    """Return what can be looked at of one picture, the target and the reference once for all coders."""
    several = len({scene.coder for scene in scenes}) > 1
    layers: dict[tuple[str, bytes], _Layer] = {}
    for own in (False, True):  # the picture's layers first, then those of the coders
        for scene in scenes:
            for kind, data in scene.layers.items():
                if (kind not in _OF_PICTURE) == own:
                    label = _LAYER_NAMES.get(kind, kind) + (f", {scene.coder}" if own and several else "")
                    layers.setdefault((kind if not own else label, data), _Layer(label, kind, data))
    return list(layers.values())


def _viewer(scenes: list[Scene], layers: list[_Layer]) -> _Viewer:
    kinds = [layer.kind for layer in layers]
    left = kinds.index("target") if "target" in kinds else 0
    right = kinds.index("reconstruction") if "reconstruction" in kinds else len(layers) - 1
    _, width, height = _type_and_size(layers[left].data)
    return _Viewer(
        scenes[0].dataset, scenes[0].name, scenes, layers, left, right, width, height, _scales(frozenset(kinds))
    )


def _scales(kinds: Iterable[str]) -> list[_Scale]:
    bars = {
        "error": (
            "Error: 0",
            heatmaps.ERROR_COLOURS,
            f"{heatmaps.ERROR_SCALE} or more levels of 255 (mean of R, G, B)",
        ),
        "similarity": ("Similarity: 0, dissimilar", heatmaps.SIMILARITY_COLOURS, "1, similar"),
    }
    return [
        _Scale(low, ",".join(f"#{bytes(colour).hex()}" for colour in heatmaps.palette(name)[::17]), high)
        for kind, (low, name, high) in bars.items()
        if kind in kinds
    ]


def _type_and_size(data: bytes) -> tuple[str, int, int]:
    """Return MIME type, width and height of a PNG, WebP or JPEG file."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=("PNG", "WEBP", "JPEG")) as picture:
            return PIL.Image.MIME[str(picture.format)], picture.width, picture.height
    except PIL.UnidentifiedImageError:
        raise ValueError(f"a layer must be a PNG, WebP or JPEG file, not {data[:12]!r}...") from None
