"""`refscale rd-curve`: many coders on a user's own pairs, to rows, curves, BD-rates and a report.

Every pair goes through every coder at every quality of that coder; whole files are counted (where something else is
counted, the coder's label says so). Files of other codecs are decoded from their bytes; of refscale's only the first of
each picture, which must give what the encoder predicts (`coders.refscale`). Rows are kept in `rows.jsonl` as they are
made, each under a name for what it depends on: both pictures, coder, quality, weights and versions. A run that is
repeated measures only what is missing.

Conventions are those of `metrics` and `evaluate`: bits per high-res pixel, RGB PSNR, one BD-rate a picture, then means.
"""

import csv
import hashlib
import io
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch

import refscale_codec
from refscale_codec import model
from refscale_codec.errors import RefscaleError, UsageError
from refscale_codec.picture import image as pictures
from refscale_codec.picture.files import write_atomically
from refscale_codec.picture.image import Image
from refscale_codec.study import evaluate, heatmaps, plot, report
from refscale_codec.study import results as results_files
from refscale_codec.study.coders import baselines
from refscale_codec.study.coders.protocol import Coder, resized
from refscale_codec.study.coders.refscale import MODES, Refscale, weights_names
from refscale_codec.study.comparison import RANGE, compare
from refscale_codec.study.pairs import Checked, cut_to
from refscale_codec.study.results import CoderInfo, Comparison, Results, Row, from_fields, to_fields
from refscale_codec.training.manifest import Pair

ANCHOR = "jpeg"
PACKAGES = ("torch", "numpy", "pillow", "av", "pillow-jxl-plugin", "bjontegaard", "pytorch-msssim")


# --- the coders ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """What to code with; small, so that it can be sent to another process."""

    weights: tuple[Path, ...]  # refscale's own coders, with and without reference, for each
    names: tuple[str, ...] | None = None  # of the coders wanted; None for all that work here but the unrelated ones
    device: str = "cpu"

    def coders(self) -> list[Coder]:
        """Build the coders wanted.

        Raises:
            UsageError: a name that no coder has, or whose package is missing; weights of equal names.
            WeightsError: weights that cannot be read.
        """
        usual, missing = baselines.available()
        unrelated: list[Coder] = []
        for path, name in zip(self.weights, weights_names(self.weights), strict=True):
            loaded = model.kept(path, self.device)
            *own, other = (Refscale(loaded, name, mode) for mode in MODES)
            usual += own
            unrelated.append(other)
        if self.names is None:
            return usual
        by_name = {coder.name: coder for coder in [*usual, *unrelated]}
        for name in self.names:
            if name in missing:
                raise UsageError(f"the coder {name} is not installed: {missing[name]}")
            if name not in by_name:
                raise UsageError(f"unknown coder {name}; there are: {', '.join([*by_name, *missing])}")
        return [by_name[name] for name in dict.fromkeys(self.names)]


def versions() -> dict[str, str]:
    """Return the versions of everything that figures depend on, as far as it is installed."""
    numbers = {"refscale": refscale_codec.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            numbers[package] = version(package)
    return numbers


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(
    pairs: list[Checked],
    setup: Setup,
    folder: Path,
    *,
    jobs: int = 1,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> list[Row]:
    """Return a row for each pair, coder and quality; those in `folder/rows.jsonl` are not measured again.

    Args:
        pairs: from `check`. A pair without a reference goes only through coders that need none.
        setup: the coders.
        folder: exists; gets rows.jsonl.
        jobs: processes, each on one thread; 1 measures in this one.
        report: called with the number of rows done and the number of all.

    Raises:
        UsageError: no coder can code any of the pairs.
    """
    coders = setup.coders()
    wanted = [
        (pair, coder, [(quality, _key(pair, coder, quality)) for quality in coder.qualities])
        for pair in pairs
        for coder in coders
        if not coder.needs_reference or _reference(pair, coder)
    ]
    if not wanted:
        raise UsageError("nothing to measure: these coders need a reference, and no pair has one")
    total = sum(len(settings) for _, _, settings in wanted)
    done = _kept(folder / "rows.jsonl")
    done = {key: done[key] for _, _, settings in wanted for _, key in settings if key in done}
    tasks = []
    for pair, coder, settings in wanted:
        left = tuple(setting for setting in settings if setting[1] not in done)
        if left:
            tasks.append(_Task(pair.pair, _reference(pair, coder), coder.name, left))
    report(len(done), total)
    with (folder / "rows.jsonl").open("ab") as log:
        log.write(b"" if _ends_with_a_line(folder / "rows.jsonl") else b"\n")
        for finished in _run(tasks, setup, coders, jobs):
            for key, row in finished:
                line = json.dumps({"key": key, **to_fields(row)}, allow_nan=False)
                log.write(line.encode() + b"\n")
                done[key] = row
            log.flush()
            report(len(done), total)
    return [
        replace(done[key], dataset=pair.pair.dataset, name=pair.pair.name)
        for pair, _, settings in wanted
        for _, key in settings
    ]


def _wants_unrelated(coder: Coder) -> bool:
    return isinstance(coder, Refscale) and coder.mode == "unrelated"


def _reference(pair: Checked, coder: Coder) -> Path | None:
    """Return the reference that a coder is to be given."""
    if not coder.needs_reference:
        return None
    return pair.unrelated if _wants_unrelated(coder) else pair.pair.reference


class _Task(NamedTuple):
    pair: Pair
    reference: Path | None
    coder: str
    settings: tuple[tuple[int, str], ...]  # (quality, key)


def _key(pair: Checked, coder: Coder, quality: int) -> str:
    """Name everything that a row depends on but the machine."""
    weights = coder.model.fingerprint.hex() if isinstance(coder, Refscale) else None
    other = str(pair.unrelated.resolve()) if pair.unrelated and _wants_unrelated(coder) else None
    depends = [pair.digest, coder.name, coder.label, quality, weights, other, versions()]
    return hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:16]


def _kept(path: Path) -> dict[str, Row]:
    """Return the rows of an earlier run by their keys; lines cut short, or of another schema, are left out."""
    rows = {}
    with suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, AttributeError, KeyError):
                row = json.loads(line)
                key = row.pop("key")
                rows[key] = from_fields(Row, row)
    return rows


def _ends_with_a_line(path: Path) -> bool:
    return path.read_bytes()[-1:] in (b"", b"\n")


_CODERS: dict[str, Coder] = {}  # of this process


def _prepare(coders: list[Coder]) -> None:
    _CODERS.clear()
    _CODERS.update({coder.name: coder for coder in coders})


def _prepare_worker(setup: Setup) -> None:
    torch.set_num_threads(1)
    _prepare(setup.coders())


def _work(task: _Task) -> list[tuple[str, Row]]:
    coder = _CODERS[task.coder]
    target = pictures.read_rgb(task.pair.target)
    reference = None
    if task.reference is not None:
        reference = pictures.read_rgb(task.reference)
        if _wants_unrelated(coder):
            reference = cut_to(reference, target)
    coded = coder.code(target, reference, [quality for quality, _ in task.settings])
    return [
        (key, evaluate.measured(task.pair, task.coder, quality, target, each))
        for (quality, key), each in zip(task.settings, coded, strict=True)
    ]


def _run(tasks: list[_Task], setup: Setup, coders: list[Coder], jobs: int) -> Iterator[list[tuple[str, Row]]]:
    if jobs == 1 or len(tasks) < 2:
        _prepare(coders)
        yield from map(_work, tasks)
    else:
        with ProcessPoolExecutor(jobs, get_context("spawn"), _prepare_worker, (setup,)) as pool:
            futures = [pool.submit(_work, task) for task in tasks]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BrokenProcessPool:
                raise RefscaleError(
                    "a process that measured ended by itself, perhaps for lack of memory; what was measured is kept: "
                    "start again, with fewer --jobs"
                ) from None
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


# --- reporting -------------------------------------------------------------------------------------------------------


def results(rows: Sequence[Row], setup: Setup, command: str) -> Results:
    """Return everything for results.json: what was measured, with what, where and how."""
    used = {row.coder for row in rows}
    coders = [coder for coder in setup.coders() if coder.name in used]
    names = weights_names(setup.weights)
    compared = [(coder.name, ANCHOR) for coder in coders]
    for weights, first in zip(names, _first_of_scale(setup, names), strict=True):
        alone, unrelated = f"{weights}-alone", f"{weights}-unrelated"
        # against who else holds the reference; what it is worth; what a wrong one costs; what other weights bring
        compared += [(weights, "x265-reference"), (weights, alone), (weights, unrelated), (unrelated, alone)]
        compared.append((weights, first))
    return Results(
        command=command,
        convention="whole file, bits per high-res pixel, unless a coder's label says otherwise; RGB PSNR on 8 bits, no "
        f"border cropped; BD-rate and BD-PSNR (Akima) over {RANGE[0]} to {RANGE[1]} bits per pixel, picture by picture "
        "and then the mean; SI: Sobel magnitude of luma in [0, 1]; references of another size are resampled (bicubic) "
        "for all coders but refscale",
        versions=versions(),
        machine={"system": platform.system(), "processor": platform.machine()},
        weights={name: model.fingerprint(path).hex() for name, path in zip(names, setup.weights, strict=True)},
        coders=tuple(_info(coder) for coder in coders),
        comparisons=tuple(
            comparison
            for coder, anchor in dict.fromkeys(compared)
            if coder != anchor and used.issuperset((coder, anchor))
            for comparison in compare(rows, coder, anchor)
        ),
        rows=tuple(rows),
        missing=baselines.available()[1] if setup.names is None else {},
    )


def _first_of_scale(setup: Setup, names: Sequence[str]) -> list[str]:
    """Return for each file of weights the name of the first one of its scale."""
    scales = [model.kept(path, setup.device).scale for path in setup.weights]
    return [names[scales.index(scale)] for scale in scales]


def _info(coder: Coder) -> CoderInfo:
    weights = coder.weights if isinstance(coder, Refscale) else None
    return CoderInfo(coder.name, coder.label, coder.needs_reference, weights)


def write(results: Results, scenes: list[report.Scene], folder: Path) -> list[Path]:
    """Write results.json, summary.csv, the plots and report.html; return their paths."""
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
        *plot.save_curves(results, folder),
        report.write(results, scenes, folder),
    ]


def scenes(pairs: list[Checked], rows: Sequence[Row], setup: Setup, rate: float, most: int) -> list[report.Scene]:
    """Code the first pairs again, near a rate in bits per pixel, for looking at them.

    The coder is refscale with its reference, or the last of those measured.
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
            report.Scene(
                *(pair.dataset, pair.name, coder.name, nearest.bpp, nearest.psnr, nearest.bytes_total),
                {name: pictures.to_bytes(picture, "webp") for name, picture in layers.items()},
            )
        )
    return made
