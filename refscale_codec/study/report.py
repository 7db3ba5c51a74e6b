"""Results of `refscale rd-curve` -> one page, report.html, that is opened in a browser or sent to somebody.

The page holds everything: the curves as SVG, BD-rates as tables, how it was measured, and pictures to compare under a
divider. It loads nothing, and its content security policy forbids it to. `report.html` beside this module is its frame
with `<!-- name -->` where this module puts something; whatever comes from outside is escaped on its way there.

Heat maps are for looking, with fixed scales, so that two of them can be compared:

- Error: mean absolute difference of R, G and B, black at 0, brightest at `ERROR_SCALE` levels of 255 and above.
- Similarity: the levels of the map as the net takes them, dark at 0 (not alike), yellow at the highest (alike).

Longer than most modules: one page, from its parts to its file.
"""

import base64
import io
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from refscale_codec.picture.files import write_atomically
from refscale_codec.picture.image import Image
from refscale_codec.study import plot

ERROR_SCALE = 32
"""Mean absolute RGB error, in levels of 255, that is drawn brightest."""

_ERROR_COLOURS, _SIMILARITY_COLOURS = "inferno", "viridis"
_LAYER_NAMES = {
    "target": "Target",
    "reference": "Reference",
    "reconstruction": "Reconstruction",
    "error": "Error heat map",
    "similarity": "Similarity map",
}
_OF_PICTURE = ("target", "reference")  # layers that are the same whatever the coder
_TOTAL = "all"  # the dataset that stands for all of them

Comparison = Mapping[str, Any]  # an item of results["comparisons"]


class Scene(NamedTuple):
    """One picture through one coder at one quality, to be looked at."""

    dataset: str
    name: str  # scenes of the same dataset and name share a viewer, where their coders can be compared
    coder: str
    bpp: float
    psnr: float | None  # dB; None or not finite where the picture came back unchanged
    bytes_total: int
    layers: Mapping[str, bytes]
    """A PNG, WebP or JPEG file for each of target, reference, reconstruction, error, similarity, or any of them."""


def write(results: Mapping[str, Any], scenes: Sequence[Scene], folder: Path) -> Path:
    """Write report.html and return its path.

    Args:
        results: what `refscale rd-curve` saves as results.json.
        scenes: pictures to compare, in the order of the page; may be empty.
        folder: where to; made if it is not there.

    Raises:
        UsageError: Matplotlib is not installed.
        ValueError: a layer is no PNG, WebP or JPEG. That is a mistake of the program, not of a user.
        OSError: the file cannot be written.
    """
    parts = {
        "summary": _summary(results),
        "lead": _lead(results),
        "curves": _curves(results),
        "chips": _chips(results),
        "tables": _tables(results),
        "viewers": _viewers(scenes),
        "measured": _measured(results),
    }
    frame = resources.files("refscale_codec").joinpath("report.html").read_text(encoding="utf-8")
    page = re.sub(
        r"<!-- (\w+) -->", lambda place: parts[place[1]], frame
    )  # one pass: nothing put in is looked at again
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    write_atomically(path, page.encode())
    return path


def error_heat_map(target: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> Image:
    """Return where two pictures differ: mean absolute RGB error, on a scale of 0 to `ERROR_SCALE`, and above alike.

    Args:
        target: picture, uint8 [h, w, 3].
        decoded: picture of the same shape.

    Raises:
        ValueError: another shape.
        UsageError: Matplotlib is not installed.
    """
    if target.shape != decoded.shape or target.ndim != 3:
        raise ValueError(f"pictures of different shape: {target.shape = }, {decoded.shape = }")
    error = np.abs(target.astype(np.int16) - decoded).mean(axis=2)  # [h, w]
    return Image(_palette(_ERROR_COLOURS)[_to_bytes(error / ERROR_SCALE)])


def similarity_heat_map(levels: NDArray[np.uint8], map_levels: int, height: int, width: int) -> Image:
    """Return the similarity map, enlarged to the picture; its cells stay visible.

    Args:
        levels: the map, uint8 [rows, columns], each 0 .. map_levels - 1.
        map_levels: number of levels, at least 2.
        height: rows of the result, in pixels.
        width: columns of the result, in pixels.

    Raises:
        ValueError: a map that is empty or has other levels.
        UsageError: Matplotlib is not installed.
    """
    if levels.ndim != 2 or levels.size == 0 or map_levels < 2 or levels.max() >= map_levels:
        raise ValueError(f"no map of levels 0 .. {map_levels - 1}: {levels.shape = }, {levels.max(initial=0) = }")
    rows = np.arange(height) * levels.shape[0] // height  # stretched over the picture, as the net does
    columns = np.arange(width) * levels.shape[1] // width
    similarity = levels[rows[:, None], columns] / (map_levels - 1)  # [h, w]
    return Image(_palette(_SIMILARITY_COLOURS)[_to_bytes(similarity)])


def _to_bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)


def _palette(name: str) -> NDArray[np.uint8]:
    """Return one of Matplotlib's colour maps as [256, 3]."""
    plot.require_matplotlib()
    import matplotlib

    colours: NDArray[np.uint8] = matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3]
    return colours


# --- what came out ---------------------------------------------------------------------------------------------------


def _summary(results: Mapping[str, Any]) -> str:
    pictures = {(row["dataset"], row["name"]) for row in results["rows"]}
    counts = (
        plot.counted(len(results["coders"]), "coder"),
        plot.counted(len(pictures), "picture"),
        plot.counted(len({dataset for dataset, _ in pictures}), "dataset"),
    )
    return ", ".join(counts)


def _lead(results: Mapping[str, Any]) -> str:
    """Return how the first refscale coder does against each anchor, over everything."""
    ours = [coder["name"] for coder in results["coders"] if plot.is_refscale(coder["name"])]
    datasets = {c["dataset"] for c in results["comparisons"]}
    total = datasets if len(datasets) == 1 else {_TOTAL}
    found = [c for c in results["comparisons"] if c["coder"] in ours[:1] and c["dataset"] in total]
    items = "".join(
        f"<li{_class('worse' if c['percent'] > 0 else '')}><strong>{abs(c['percent']):.1f} % "
        f"{'more' if c['percent'] > 0 else 'fewer'} bits</strong> <span>{escape(c['coder'])} against "
        f"{escape(c['anchor'])} at equal PSNR, mean of {plot.counted(c['pictures'], 'picture')}</span></li>"
        for c in found
        if plot.is_finite(c["percent"])
    )
    return f'<ul class="lead">{items}</ul>' if items else ""


def _curves(results: Mapping[str, Any]) -> str:
    plots = []
    for key, log, words in (("rd", False, "linear"), ("rd-log", True, "logarithmic")):
        svg = plot.render(results, "svg", log=log, all_bands=True).decode()
        label = f"PSNR over bits per pixel, {words} rate, one line a coder; the figures are in the table below"
        plots.append(f'<div class="plot" id="{key}"{" hidden" if log else ""}>{_inline(svg, key, label)}</div>')
    return "\n".join(plots)


def _inline(svg: str, prefix: str, label: str) -> str:
    """Return an SVG file as an element of a page, where its ids may meet those of another one."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(\sid="|xlink:href="#|url\(#)', rf"\1{prefix}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)


def _chips(results: Mapping[str, Any]) -> str:
    looks, drawn = plot.styles(results), plot.curves(results)
    return "".join(
        f'<button type="button" aria-pressed="false" data-coder="{index}" title="{escape(coder["label"])}">'
        f'<i style="background:{looks[coder["name"]].colour}"></i>{escape(coder["name"])}</button>'
        for index, coder in enumerate(results["coders"])
        if coder["name"] in drawn
    )


# --- BD-rates --------------------------------------------------------------------------------------------------------


def _tables(results: Mapping[str, Any]) -> str:
    anchors = dict.fromkeys(comparison["anchor"] for comparison in results["comparisons"])
    if not anchors:
        return "<p>Nothing was compared.</p>"
    return (
        "<p>The mean difference in bits between two curves at equal PSNR (BD-rate), a mean over pictures: "
        "<b>−30 %</b> is 30 % saved. Below it the difference in PSNR at equal bits (BD-PSNR). "
        '<span aria-hidden="true">▲</span> marks where a coder is worse than what it is compared with; bold is the '
        "best of a row.</p>"
        + "".join(
            _table(results, anchor, [c for c in results["comparisons"] if c["anchor"] == anchor]) for anchor in anchors
        )
    )


def _table(results: Mapping[str, Any], anchor: str, comparisons: Sequence[Comparison]) -> str:
    """Return the table of one anchor: a row a dataset, a column a coder, and the notes below."""
    found = {(c["dataset"], c["coder"]): c for c in comparisons}
    compared = {c["coder"] for c in comparisons}
    coders = [coder for coder in plot.by_family(results["coders"]) if coder["name"] in compared]
    datasets = sorted(dict.fromkeys(c["dataset"] for c in comparisons), key=lambda dataset: dataset == _TOTAL)
    notes: dict[str, int] = {}  # text: its number
    rows = []
    for dataset in datasets:
        row = [found.get((dataset, coder["name"])) for coder in coders]
        percents = [c["percent"] for c in row if c and plot.is_finite(c["percent"])]
        most = max((c["pictures"] for c in row if c), default=0)
        cells = "".join(_cell(c, anchor, min(percents, default=math.nan), most, notes) for c in row)
        rows.append(
            f'<tr{_class("all" if dataset == _TOTAL else "")}><th scope="row">{escape(dataset)}'
            f"<small>{plot.counted(most, 'picture')}</small></th>{cells}</tr>"
        )
    heads = "".join(
        f'<th scope="col"{_class("ours" if plot.is_refscale(coder["name"]) else "")} title="{escape(coder["label"])}">'
        f"{escape(coder['name'])}{'<small>uses the reference</small>' if coder['needs_reference'] else ''}</th>"
        for coder in coders
    )
    label = next((coder["label"] for coder in results["coders"] if coder["name"] == anchor), anchor)
    listed = "".join(f'<li value="{number}">{escape(text)}</li>' for text, number in notes.items())
    return (
        f"<h3>Against {escape(anchor)}{'' if label == anchor else f' <small>{escape(label)}</small>'}</h3>"
        f'<div class="wide" tabindex="0" role="region" aria-label="BD-rate against {escape(anchor)}"><table>'
        f'<thead><tr><th scope="col">Dataset</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        + (f'<div class="notes"><ol>{listed}</ol></div>' if listed else "")
    )


def _cell(comparison: Comparison | None, anchor: str, best: float, most: int, notes: dict[str, int]) -> str:
    """Return one BD-rate; its notes get a number each in `notes` unless they have one."""
    if comparison is None:
        return "<td>–</td>"
    texts = list(comparison["notes"])
    if comparison["left_out"]:
        of = plot.counted(comparison["pictures"] + comparison["left_out"], "picture")
        texts.insert(0, f"{comparison['left_out']} of {of} left out")
    mark = ""
    if texts:
        number = notes.setdefault("; ".join(texts), len(notes) + 1)
        mark = f'<sup aria-label="note {number}"> {number}</sup>'
    percent = comparison["percent"]
    if not plot.is_finite(percent):
        return f"<td>–{mark}</td>"
    worse = percent > 0
    kind = "worse" if worse else "best" if percent == best else ""
    value = f"<b>{_signed(percent, 1)} %</b>"
    if worse:
        value = f'<span aria-hidden="true">▲ </span>{value}<span class="unseen"> worse than {escape(anchor)}</span>'
    below = f"<small>{_signed(comparison['bd_psnr'], 2)} dB</small>" if plot.is_finite(comparison["bd_psnr"]) else ""
    count = f"<small>{plot.counted(comparison['pictures'], 'picture')}</small>" if comparison["pictures"] < most else ""
    return f"<td{_class(kind)}>{value}{mark}{below}{count}</td>"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


# --- pictures --------------------------------------------------------------------------------------------------------


class _Layer(NamedTuple):
    label: str
    kind: str  # a key of Scene.layers
    data: bytes


def _viewers(scenes: Sequence[Scene]) -> str:
    groups: dict[tuple[str, str], list[Scene]] = defaultdict(list)
    for scene in scenes:
        groups[scene.dataset, scene.name].append(scene)
    viewers = "\n".join(_viewer(place, group) for place, group in enumerate(groups.values()) if _layers(group))
    if not viewers:
        return ""
    return (
        '<section id="pictures" aria-labelledby="pictures-title"><h2 id="pictures-title">Pictures</h2>'
        "<p>Drag the divider, or move it with the arrow keys. At 100 % a pixel of the picture is one of the page.</p>"
        f"{viewers}</section>"
    )


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


def _viewer(place: int, scenes: Sequence[Scene]) -> str:
    layers = _layers(scenes)
    kinds = [layer.kind for layer in layers]
    left = kinds.index("target") if "target" in kinds else 0
    right = kinds.index("reconstruction") if "reconstruction" in kinds else len(layers) - 1
    sizes = [_picture_type(layer.data) for layer in layers]
    width, height = sizes[left][1:]
    images = "".join(
        f'<img alt="{escape(layer.label)}" decoding="async" draggable="false"{"" if index == left else " hidden"} '
        f'src="data:{kind};base64,{base64.b64encode(layer.data).decode()}">'
        for index, (layer, (kind, _, _)) in enumerate(zip(layers, sizes, strict=True))
    )
    title = f"{escape(scenes[0].name)} <small>{escape(scenes[0].dataset)}</small>"
    captions = "".join(f"<p>{_caption(scene)}</p>" for scene in scenes)
    scales = "".join(_scale(kind) for kind in ("error", "similarity") if kind in kinds)
    return f"""<article class="viewer" aria-labelledby="viewer-{place}">
<h3 id="viewer-{place}">{title}</h3>
<div class="bar">
<label><span>Left</span> {_select("left", layers, left)}</label>
<label><span>Right</span> {_select("right", layers, right)}</label>
<div class="choice" role="group" aria-label="Zoom"><button type="button" data-zoom="0" aria-pressed="true">Fit</button>\
<button type="button" data-zoom="1" aria-pressed="false">100 %</button>\
<button type="button" data-zoom="2" aria-pressed="false">200 %</button></div>
</div>
<figure>
<div class="frame" style="--ratio:{width / height:.6f}">
<div class="view"><div class="stage" data-width="{width}" data-height="{height}">{images}</div></div>
<span class="tag left" aria-hidden="true"></span><span class="tag right" aria-hidden="true"></span>
<div class="divider" role="slider" tabindex="0" aria-label="Divider between the left and the right picture" \
aria-orientation="horizontal" aria-valuemin="0" aria-valuemax="100" aria-valuenow="50"></div>
</div>
<figcaption>{captions}{scales}</figcaption>
</figure>
</article>"""


def _select(side: str, layers: Sequence[_Layer], chosen: int) -> str:
    options = "".join(
        f"<option{' selected' if index == chosen else ''}>{escape(layer.label)}</option>"
        for index, layer in enumerate(layers)
    )
    return f'<select class="{side}" autocomplete="off">{options}</select>'


def _caption(scene: Scene) -> str:
    psnr = f"PSNR {scene.psnr:.2f} dB" if scene.psnr is not None and math.isfinite(scene.psnr) else "lossless"
    return f"<b>{escape(scene.coder)}</b>: {scene.bytes_total:,} bytes, {scene.bpp:.3f} bits per pixel, {psnr}"


def _scale(kind: str) -> str:
    """Return the colour bar of a heat map."""
    if kind == "error":
        name, low, high = _ERROR_COLOURS, "Error: 0", f"{ERROR_SCALE} or more levels of 255 (mean of R, G, B)"
    else:
        name, low, high = _SIMILARITY_COLOURS, "Similarity: 0, not alike", "1, alike"
    colours = ",".join(f"#{bytes(colour).hex()}" for colour in _palette(name)[::17])
    return f'<span class="scale">{low} <i style="background:linear-gradient(90deg,{colours})"></i> {high}</span>'


def _picture_type(data: bytes) -> tuple[str, int, int]:
    """Return MIME type, width and height of a PNG, WebP or JPEG file."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=("PNG", "WEBP", "JPEG")) as picture:
            return PIL.Image.MIME[str(picture.format)], picture.width, picture.height
    except PIL.UnidentifiedImageError:
        raise ValueError(f"a layer must be a PNG, WebP or JPEG file, not {data[:12]!r}...") from None


# --- how it was measured ---------------------------------------------------------------------------------------------


def _measured(results: Mapping[str, Any]) -> str:
    facts = [("Convention", escape(str(results["convention"])))]
    for title, key in (("Machine", "machine"), ("Versions", "versions"), ("Weights", "weights")):
        if results[key]:
            facts.append((title, _joined(results[key])))
    facts.append(("Coders", "<br>".join(f"{escape(c['name'])}: {escape(c['label'])}" for c in results["coders"])))
    listed = "".join(f"<dt>{title}</dt><dd>{text}</dd>" for title, text in facts)
    missing = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td><code>{escape(remedy)}</code></td></tr>'
        for name, remedy in results["missing"].items()
    )
    if missing:
        missing = (
            "<h3>Left out, because something is not installed</h3>"
            f'<div class="wide"><table class="missing"><tbody>{missing}</tbody></table></div>'
        )
    return f"<pre>{escape(str(results['command']))}</pre><dl>{listed}</dl>{missing}"


def _joined(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{escape(str(name))} {escape(str(value))}" for name, value in facts.items())


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
