"""`refscale rd-curve`: many coders on a user's own pairs, to rows, curves, BD-rates and a report.

Every pair goes through every coder at every quality of that coder; whole files are counted and every file is decoded
from its bytes (where something else is counted, the coder's label says so). Rows are kept in `rows.jsonl` as they are
made, each under a name for what it depends on: both pictures, coder, quality, weights and versions. A run that is
repeated measures only what is missing.

Conventions are those of `metrics` and `evaluate`: bits per high-res pixel, RGB PSNR, one BD-rate a picture, then means.
"""

import csv
import hashlib
import io
import json
import math
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

import refscale_codec
from refscale_codec import model
from refscale_codec.errors import UsageError
from refscale_codec.picture import image as pictures
from refscale_codec.picture.files import write_atomically
from refscale_codec.picture.image import Image
from refscale_codec.study import coders, evaluate, plot, report
from refscale_codec.study.coders import Coder
from refscale_codec.study.evaluate import Row
from refscale_codec.training.data import Pair, read_manifest

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
RANGE = 0.1, 1.0  # bits per pixel over which BD-rates are taken
ANCHOR = "jpeg"
PACKAGES = ("torch", "numpy", "pillow", "av", "pillow-jxl-plugin", "bjontegaard", "pytorch-msssim")


# --- what to measure -------------------------------------------------------------------------------------------------


def find_pairs(source: Path, reference: Path | None, split: str | None = None) -> list[Pair]:
    """Return the pairs to measure, each with a name of its own within its dataset.

    Args:
        source: a CSV (see `data.read_manifest`), a folder of targets, or one target.
        reference: nothing, a folder of references with the same file names, or one reference.
        split: only rows of this split of a CSV.

    Raises:
        UsageError: nothing to measure, or the two do not belong together.
    """
    if split is not None and source.suffix.lower() != ".csv":
        raise UsageError("--split goes with a CSV of pairs")
    if source.is_dir():
        if reference is None or not reference.is_dir():
            raise UsageError(f"{source} is a folder: give a folder of references with the same file names, too")
        found = _same_names(source, reference)
    elif source.suffix.lower() == ".csv":
        if reference is not None:
            raise UsageError(f"{source} names the references itself; {reference} would have no effect")
        found = read_manifest(source, None if split is None else (split,))
    else:
        found = [Pair(source.parent.name or "pictures", source.stem, source, reference)]
    for named in (lambda p: p.name, lambda p: f"{p.target.parent.name}/{p.target.stem}", lambda p: str(p.target)):
        renamed = [replace(pair, name=named(pair)) for pair in found]
        if max(Counter((pair.dataset, pair.name) for pair in renamed).values()) == 1:
            return renamed
    raise UsageError(f"{source} lists the same target more than once")


def _same_names(targets: Path, references: Path) -> list[Pair]:
    names = {
        folder: {path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES}
        for folder in (targets, references)
    }
    common = sorted(names[targets] & names[references])
    if not common:
        raise UsageError(f"{targets} and {references} have no picture of the same name")
    return [Pair(targets.name, Path(name).stem, targets / name, references / name) for name in common]


class Checked(NamedTuple):
    """A pair whose pictures can be read."""

    pair: Pair
    digest: str  # of both files' bytes
    unrelated: Path | None = None  # the reference of another place
    resampled: bool = False  # whether the reference has another size, which only refscale takes as it is


def check(pairs: Iterable[Pair]) -> list[Checked]:
    """Read every picture once, so that a bad one is told before hours of work.

    Raises:
        ImageError: a picture cannot be read.
    """
    pairs, checked = list(pairs), []
    for place, pair in enumerate(pairs):
        digest = hashlib.sha256()
        sizes = []
        for path in (pair.target, pair.reference):
            if path is not None:
                pixels = pictures.read_rgb(path).pixels
                digest.update(path.read_bytes())
                sizes.append(pixels.shape)
        digits, other = digest.hexdigest()[:16], evaluate.unrelated(pairs, place)
        checked.append(Checked(pair, digits, other, len(set(sizes)) > 1))
    return checked


@dataclass(frozen=True)
class Setup:
    """What to code with; small, so that it can be sent to another process."""

    weights: tuple[Path, ...]  # refscale's own coders, with and without reference, for each
    names: tuple[str, ...] | None = None  # of the coders wanted; None for all that work here but the unrelated ones
    device: str = "cpu"

    def coders(self) -> list[Coder]:
        """Build the coders wanted.

        Raises:
            UsageError: a name that is not known, or whose package is missing.
            WeightsError: weights that cannot be read.
        """
        known, missing = coders.baselines()
        unrelated: list[Coder] = []
        for path in self.weights:
            net = model.load(path).to(self.device)
            known += [coders.Refscale(net, "reference"), coders.Refscale(net, "alone")]
            unrelated.append(coders.Refscale(net, "unrelated"))
        by_name = {coder.name: coder for coder in [*known, *unrelated]}
        if len(by_name) < len(known) + len(unrelated):
            raise UsageError("give one file of weights for each scale")
        if self.names is None:
            return known
        for name in self.names:
            if name in missing:
                raise UsageError(f"the coder {name} is not installed: {missing[name]}")
            if name not in by_name:
                raise UsageError(f"unknown coder {name}; there are: {', '.join([*by_name, *missing])}")
        return [by_name[name] for name in dict.fromkeys(self.names)]


def versions() -> dict[str, str]:
    """Return the versions of everything that figures depend on, as far as it is installed."""
    found = {"refscale": refscale_codec.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


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
    known = setup.coders()
    wanted = [
        (pair, coder, [(quality, _key(pair, coder, quality)) for quality in coder.qualities])
        for pair in pairs
        for coder in known
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
        for finished in _run(tasks, setup, known, jobs):
            for key, row in finished:
                line = json.dumps({"key": key, **evaluate.finite(asdict(row))}, allow_nan=False)
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
    return isinstance(coder, coders.Refscale) and coder.mode == "unrelated"


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
    net = coder.net.fingerprint.hex() if isinstance(coder, coders.Refscale) else None
    other = str(pair.unrelated.resolve()) if pair.unrelated and _wants_unrelated(coder) else None
    depends = [pair.digest, coder.name, coder.label, quality, net, other, versions()]
    return hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:16]


def _kept(path: Path) -> dict[str, Row]:
    """Return the rows of an earlier run by their keys; a line cut short by its end is left out."""
    rows = {}
    with suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, TypeError, KeyError):
                fields: dict[str, Any] = json.loads(line)
                key = fields.pop("key")
                values: dict[str, Any] = {name: math.nan if fields[name] is None else fields[name] for name in fields}
                rows[key] = Row(**values)
    return rows


def _ends_with_a_line(path: Path) -> bool:
    return path.read_bytes()[-1:] in (b"", b"\n")


_CODERS: dict[str, Coder] = {}  # of this process


def _prepare(known: list[Coder]) -> None:
    _CODERS.clear()
    _CODERS.update({coder.name: coder for coder in known})


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
            reference = evaluate.cut_to(reference, target)
    return [
        (key, evaluate.measured(task.pair, task.coder, quality, target, coder.code(target, reference, quality)))
        for quality, key in task.settings
    ]


def _run(tasks: list[_Task], setup: Setup, known: list[Coder], jobs: int) -> Iterator[list[tuple[str, Row]]]:
    if jobs == 1 or len(tasks) < 2:
        _prepare(known)
        yield from map(_work, tasks)
    else:
        with ProcessPoolExecutor(jobs, get_context("spawn"), _prepare_worker, (setup,)) as pool:
            futures = [pool.submit(_work, task) for task in tasks]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


# --- reporting -------------------------------------------------------------------------------------------------------


def results(rows: list[Row], setup: Setup, command: str) -> dict[str, Any]:
    """Return everything for results.json: what was measured, with what, where and how."""
    used = {row.coder for row in rows}
    known = [coder for coder in setup.coders() if coder.name in used]
    comparisons = [
        comparison
        for coder in known
        if coder.name != ANCHOR and ANCHOR in used
        for comparison in evaluate.compare(rows, coder.name, ANCHOR, *RANGE)
    ]
    # against who else holds the reference; what it is worth; what a wrong one costs; what the learned codec brings
    for net in ("refscale-x2", "refscale-x4", "refscale-x2-gmm"):
        alone, unrelated, plain = f"{net}-alone", f"{net}-unrelated", net.removesuffix("-gmm")
        for pair in ((net, "x265-reference"), (net, alone), (net, unrelated), (unrelated, alone), (net, plain)):
            comparisons += evaluate.compare(rows, *pair, *RANGE) if pair[0] != pair[1] and used.issuperset(pair) else []
    return {
        "command": command,
        "convention": (
            "whole file, bits per high-res pixel, unless a coder's label says otherwise; RGB PSNR on 8 bits, no border "
            f"cropped; BD-rate and BD-PSNR (Akima) over {RANGE[0]} to {RANGE[1]} bits per pixel, picture by picture, "
            "then the mean; SI: Sobel magnitude of luma in [0, 1]; references of another size are resampled (bicubic) "
            "for all coders but refscale"
        ),
        "versions": versions(),
        "machine": {"system": platform.system(), "processor": platform.machine()},
        "weights": {path.stem: model.fingerprint(path).hex() for path in setup.weights},
        "coders": [{"name": c.name, "label": c.label, "needs_reference": c.needs_reference} for c in known],
        "missing": coders.baselines()[1] if setup.names is None else {},
        "comparisons": [evaluate.finite(asdict(comparison)) for comparison in comparisons],
        "rows": [evaluate.finite(asdict(row)) for row in rows],
    }


def write(found: dict[str, Any], scenes: list[report.Scene], folder: Path) -> list[Path]:
    """Write results.json, summary.csv, the plots and report.html; return their paths."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    columns = ("dataset", "coder", "anchor", "percent", "bd_psnr", "pictures", "left_out")
    table.writerow([*columns, "notes"])
    for comparison in found["comparisons"]:
        table.writerow([*(comparison[column] for column in columns), "; ".join(comparison["notes"])])
    # a row a line: such a file can be read, and compared by its lines
    listed = ",\n".join(json.dumps(row, allow_nan=False) for row in found["rows"])
    head = json.dumps({**found, "rows": []}, indent=1, allow_nan=False)
    document = head.replace('"rows": []', f'"rows": [\n{listed}\n]')
    write_atomically(folder / "results.json", (document + "\n").encode())
    write_atomically(folder / "summary.csv", text.getvalue().encode())
    return [
        folder / "results.json",
        folder / "summary.csv",
        *plot.save_curves(found, folder),
        report.write(found, scenes, folder),
    ]


def scenes(pairs: list[Checked], rows: list[Row], setup: Setup, rate: float, most: int) -> list[report.Scene]:
    """Code the first pairs again, near a rate in bits per pixel, for looking at them.

    The coder is refscale with its reference, or the last of those measured.
    """
    known = setup.coders()
    shown = next((c for c in known if isinstance(c, coders.Refscale) and c.needs_reference), known[-1])
    found = []
    for pair, *_ in pairs[:most]:
        own = [row for row in rows if (row.dataset, row.name, row.coder) == (pair.dataset, pair.name, shown.name)]
        if not own:
            continue
        nearest = min(own, key=lambda row: abs(row.bpp - rate))
        target = pictures.read_rgb(pair.target)
        reference = None if pair.reference is None else pictures.read_rgb(pair.reference)
        coded = shown.code(target, reference if shown.needs_reference else None, nearest.quality)
        layers = {"target": target, "reconstruction": Image(coded.decoded)}
        layers["error"] = report.error_heat_map(target.pixels, coded.decoded)
        if reference is not None:
            layers["reference"] = Image(coders.resized(reference.pixels, target.height, target.width))
        if coded.similarity is not None and isinstance(shown, coders.Refscale):
            layers["similarity"] = report.similarity_heat_map(
                coded.similarity, shown.net.config.map_levels, target.height, target.width
            )
        found.append(
            report.Scene(
                *(pair.dataset, pair.name, shown.name, nearest.bpp, nearest.psnr, nearest.bytes_total),
                {name: pictures.to_bytes(picture, "webp") for name, picture in layers.items()},
            )
        )
    return found
