"""What `refscale rd-curve` writes of its rows: results.json, summary.csv, plots and report.html."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from refscale_codec import model, weights_files
from refscale_codec.picture.files import write_atomically
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.study import environment, heatmaps, plot, report
from refscale_codec.study import results as results_files
from refscale_codec.study.coders import names as coder_names
from refscale_codec.study.coders.protocol import Coder, resized
from refscale_codec.study.coders.refscale import Refscale
from refscale_codec.study.comparison import RANGE, bd_rates, compare
from refscale_codec.study.curves import PSNR, Metric
from refscale_codec.study.pairs import Checked
from refscale_codec.study.rdcurve import Setup
from refscale_codec.study.results import BEST, JPEG, CoderInfo, Comparison, Results, Row, to_fields
from refscale_codec.study.viewers import Scene


def results(rows: Sequence[Row], setup: Setup, command: str, jobs: int = 1) -> Results:
    """Return everything for results.json: what was measured, with what, where and how.

    Args:
        rows: of `rdcurve.measure`.
        setup: what they were measured with.
        command: that did it, for people.
        jobs: processes that measured, each with a thread.
    """
    used = {row.coder for row in rows}
    coders = [coder for coder in setup.coders() if coder.name in used]
    names = coder_names.of_weights(setup.weights)
    compared = [(coder.name, anchor) for anchor in (BEST, JPEG) for coder in coders]
    for weights, first in zip(names, _first_of_scale(setup, names), strict=True):
        alone, unrelated = f"{weights}-alone", f"{weights}-unrelated"
        # what the reference is worth; what a wrong one costs; what other weights bring
        compared += [(weights, alone), (weights, unrelated), (unrelated, alone), (weights, first)]
    return Results(
        command=command,
        convention="whole file, bits per high-res pixel, unless a coder's label says otherwise; RGB PSNR on 8 bits, no "
        "border cropped; BD-rate and BD-PSNR (Akima), picture by picture and then the mean: against "
        f"{BEST} wherever the curves overlap, against others over {RANGE[0]} to {RANGE[1]} bits per pixel of both; SI: "
        "Sobel magnitude of luma in [0, 1]; references of another size are resampled (bicubic) for all coders but "
        "refscale; times are wall-clock, and those of rows that were kept are of the run that made them",
        versions=environment.versions(),
        machine=environment.machine(jobs, threads=1),
        weights={name: weights_files.fingerprint(path).hex() for name, path in zip(names, setup.weights, strict=True)},
        coders=tuple(_info(coder) for coder in coders),
        comparisons=tuple(
            comparison
            for coder, anchor in dict.fromkeys(compared)
            if coder != anchor and used.issuperset((coder, anchor))
            for comparison in compare(rows, coder, anchor)
        ),
        rows=tuple(rows),
        missing=setup.missing(),
    )


def _first_of_scale(setup: Setup, names: Sequence[str]) -> list[str]:
    """Return for each file of weights the name of the first one of its scale."""
    scales = [model.kept(path, setup.device).scale for path in setup.weights]
    return [names[scales.index(scale)] for scale in scales]


def _info(coder: Coder) -> CoderInfo:
    weights = coder.weights if isinstance(coder, Refscale) else None
    return CoderInfo(coder.name, coder.label, coder.needs_reference, weights)


def write(results: Results, scenes: Sequence[Scene], folder: Path, metrics: Iterable[Metric] = (PSNR,)) -> list[Path]:
    """Write results.json, summary.csv, plots and report.html.

    Args:
        results: of `results`.
        scenes: pictures to look at in the report; may be empty.
        folder: exists; files of these names are replaced.
        metrics: of the plots.

    Returns:
        The paths of the files.

    Raises:
        UsageError: Matplotlib is not installed.
        OutputError: a file cannot be written.
    """
    results_files.write(results, folder / "results.json")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(column.name for column in fields(Comparison))
    for comparison in results.comparisons:
        table.writerow({**to_fields(comparison), "notes": "; ".join(comparison.notes)}.values())
    write_atomically(folder / "summary.csv", text.getvalue().encode())
    return [
        folder / "results.json",
        folder / "summary.csv",
        *plot.save_curves(results, folder, metrics),
        report.write(results, scenes, folder, _by_picture(results)),
    ]


def _by_picture(results: Results) -> Mapping[tuple[str, str, str, str], float]:
    """Return BD-rates in percent by dataset, picture, coder and anchor, where there is one."""
    return {
        (*picture, coder.name, anchor): rate.percent
        for coder in results.coders
        for anchor in (BEST, JPEG)
        if coder.name != anchor
        for picture, rate in bd_rates(results.rows, coder.name, anchor).items()
        if math.isfinite(rate.percent)
    }


def scenes(pairs: list[Checked], rows: Sequence[Row], setup: Setup, rate: float, most: int) -> list[Scene]:
    """Code the first pairs again, near a rate in bits per pixel, for looking at them.

    The coder is refscale with its reference, or the last of those measured.

    Args:
        pairs: see `pairs.check`.
        rows: of `rdcurve.measure`, for which quality is nearest to the rate.
        setup: what they were measured with.
        rate: in bits per pixel.
        most: how many pairs.

    Raises:
        ImageError: a picture cannot be read any more.
    """
    coders = setup.coders()
    coder = next((c for c in coders if isinstance(c, Refscale) and c.needs_reference), coders[-1])
    made = []
    for pair, *_ in pairs[:most]:
        own = [row for row in rows if (row.dataset, row.name, row.coder) == (pair.dataset, pair.name, coder.name)]
        if not own:
            continue
        nearest = min(own, key=lambda row: abs(row.bpp - rate))
        target = pictures.read_rgb(pair.target)
        reference = None if pair.reference is None else pictures.read_rgb(pair.reference)
        (coded,) = coder.code(target, reference if coder.needs_reference else None, [nearest.quality])
        layers = {"target": target, "reconstruction": Image(coded.decoded)}
        layers["error"] = heatmaps.error(target.pixels, coded.decoded)
        if reference is not None:
            layers["reference"] = Image(resized(reference.pixels, target.height, target.width))
        if coded.similarity is not None and isinstance(coder, Refscale):
            layers["similarity"] = heatmaps.similarity(
                coded.similarity, coder.model.rescaler.map_levels, target.height, target.width
            )
        made.append(
            Scene(
                *(pair.dataset, pair.name, coder.name, nearest.bpp, nearest.psnr, nearest.bytes_total),
                {name: pictures.to_bytes(picture, "webp") for name, picture in layers.items()},
            )
        )
    return made
