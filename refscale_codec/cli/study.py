"""The commands that train and measure; see `cli`."""

import io
import itertools
import json
import math
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refscale_codec.cli import process, terminal
from refscale_codec.cli.options import DeviceOption, QuietOption, WeightsOption
from refscale_codec.errors import UsageError, printable
from refscale_codec.study.qualities import DOWNSCALED

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from refscale_codec.study.results import Comparison, Results
    from refscale_codec.training.manifest import Pair


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The recipe; see weights/README.md.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Checkpoint, weights and log.")],
    minutes: Annotated[float, typer.Option(min=0, help="Stop after so long; run again to go on.")] = float("inf"),
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Train a net, or go on where the folder's checkpoint stopped."""
    with terminal.progress(quiet) as step:
        step("starting")
        from refscale_codec.training import loop as training
        from refscale_codec.training.recipe import TrainConfig

        recipe = TrainConfig.read(config)
        where = terminal.device_named(device)

        def report(line: dict[str, float]) -> None:
            terminal.write("-", json.dumps(line) + "\n")
            rate = f" at {line['bpp']} bpp" if "bpp" in line else ""
            step(f"step {line['step']} of {recipe.steps}: {line['psnr']} dB{rate}")

        path = training.train(recipe, config.parent, output, minutes=minutes, device=where, report=report)
    terminal.say(quiet, f"weights in {path}")


def evaluate_command(
    manifest: Annotated[
        Path, typer.Argument(metavar="PAIRS.csv", help="Columns target and reference; split, dataset.")
    ],
    split: Annotated[str | None, typer.Option(help="Only rows of this split.")] = None,
    scale: Annotated[int | None, typer.Option("--scale", help="2 (default) or 4; follows from --weights.")] = None,
    weights: WeightsOption = None,
    modes: Annotated[str, typer.Option(help="Any of reference,alone,unrelated.")] = "reference,alone,unrelated",
    qualities: Annotated[str, typer.Option(help="Qualities to code at.")] = ",".join(map(str, DOWNSCALED)),
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Results as JSON.")] = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Measure bits and quality on pairs: BD-rate against JPEG, with the reference, without, with an unrelated one."""
    if weights is not None and scale is not None:
        raise UsageError("--scale would have no effect: it follows from --weights")
    with terminal.progress(quiet) as step:
        step("starting")
        from refscale_codec import model as weights_files
        from refscale_codec.study import evaluate
        from refscale_codec.study import results as results_files
        from refscale_codec.study.coders.refscale import MODES, weights_names
        from refscale_codec.study.comparison import compare
        from refscale_codec.training.manifest import read_manifest

        if output not in (None, "-") and not Path(str(output)).parent.is_dir():
            raise UsageError(f"cannot write {output}: there is no folder {Path(str(output)).parent}")
        chosen = _choices(modes, MODES)
        wanted = [int(text) if text.isdecimal() else 0 for text in qualities.split(",")]
        if not all(1 <= quality <= 100 for quality in wanted):
            raise UsageError(f"--qualities must be numbers from 1 to 100, separated by commas, not {qualities}")
        pairs = read_manifest(manifest, None if split is None else (split,))
        path = weights or weights_files.shipped(scale or 2)
        model = terminal.load_model(path, device)
        finished = _lines(quiet, len(pairs))
        done = itertools.count(1)

        def report(pair: "Pair") -> None:
            step(f"{next(done)} of {len(pairs)}: {pair.dataset} {pair.name}")
            finished(pair)

        rows = evaluate.evaluate(
            pairs,
            model,
            qualities=wanted,
            modes=chosen,  # type: ignore[arg-type]
            report=report,
        )
        rounded = evaluate.rounded_psnr(pairs, model)
        comparisons = [c for mode in chosen for c in compare(rows, mode, "jpeg")]
        comparisons += compare(rows, "reference", "unrelated") + compare(rows, "unrelated", "alone")
        if output is not None:
            (name,) = weights_names([path])
            results = evaluate.results(rows, comparisons, rounded, model, name, _command())
            terminal.write(output, results_files.dumps(results).encode())
    from rich.table import Table

    table = Table("dataset", "coder", "against", "BD-rate %", "pictures", "left out")
    for c in comparisons:
        table.add_row(c.dataset, c.coder, c.anchor, _percent(c), str(c.pictures), str(c.left_out))
    _print(table, to_stderr=output == "-")
    per_dataset = ", ".join(f"{dataset} {psnr:.2f}" for dataset, psnr in rounded.items())
    terminal.say(
        quiet, f"mean PSNR in dB with the low-res picture rounded to 8 bits and not coded further: {per_dataset}"
    )
    terminal.say(quiet, f"mean cost of the similarity map: {evaluate.map_bpp(rows):.4f} bits per pixel")
    for note in sorted({f"{c.dataset} {c.coder}: {note}" for c in comparisons for note in c.notes}):
        terminal.say(quiet, note)


def _choices(text: str, allowed: tuple[str, ...]) -> list[str]:
    chosen = text.split(",")
    unknown = sorted(set(chosen) - set(allowed))
    if unknown:
        raise UsageError(f"unknown {', '.join(unknown)}; there are: {', '.join(allowed)}")
    return chosen


def rd_curve(
    source: Annotated[
        Path, typer.Argument(metavar="PAIRS", help="CSV with columns target,reference; a folder of targets; or one.")
    ],
    reference: Annotated[
        Path | None, typer.Argument(metavar="[REFERENCES]", help="Folder of references, same names; or one.")
    ] = None,
    folder: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Results, plots and report; a run resumes in it.")
    ] = Path("report"),
    split: Annotated[str | None, typer.Option(help="Only rows of this split of the CSV.")] = None,
    names: Annotated[
        str | None,
        typer.Option(
            "--coders",
            help="Names, separated by commas, or all; by default jpeg, avif, x265-reference and refscale-x2.",
        ),
    ] = None,
    weights: Annotated[
        list[Path] | None, typer.Option(help="Weights instead of those that ship; may be repeated.")
    ] = None,
    metrics: Annotated[str, typer.Option(help="Of the plots in files: any of psnr,ssim,ms-ssim.")] = "psnr",
    rate: Annotated[float, typer.Option(min=0, help="Bits per pixel of the pictures in the report.")] = 0.5,
    most: Annotated[int, typer.Option("--pictures", min=0, help="How many pairs the report shows.")] = 6,
    jobs: Annotated[int, typer.Option(min=0, help="Processes, a thread each; 0 is one a core.")] = 0,
    device: DeviceOption = "cpu",
    quiet: QuietOption = False,
) -> None:
    """Compare coders on your own pairs: curves, BD-rates, times, and a report to look at."""
    with terminal.progress(quiet) as step:
        step("starting")
        import torch

        from refscale_codec import model as weights_files
        from refscale_codec.study import environment, output, rdcurve
        from refscale_codec.study import pairs as study_pairs
        from refscale_codec.study.comparison import RANGE
        from refscale_codec.study.curves import METRICS
        from refscale_codec.study.results import BEST

        shown = [METRICS[name] for name in _choices(metrics, tuple(METRICS))]
        wanted = None if names is None else tuple(names.split(","))
        usual = [(2, "jpeg")] if wanted is None else [(2, "jpeg"), (4, "jpeg"), (2, "gmm")]
        chosen = tuple(weights or [weights_files.shipped(*of) for of in usual])
        setup = rdcurve.Setup(chosen, wanted, terminal.device_named(device))
        setup.coders()  # so that a wrong name is refused at once
        pairs = study_pairs.check(study_pairs.find(source, reference, split))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from None
        process.keep_freed_memory()
        torch.set_num_threads(1)
        jobs = jobs or environment.cores()
        begun = time.monotonic()
        first: list[int] = []

        def report(done: int, of: int) -> None:
            first.append(done)
            made = done - first[0]
            left = f", {_duration((time.monotonic() - begun) * (of - done) / made)} left" if made else ""
            step(f"{done} of {of} files coded{left}")

        finished = _lines(quiet, len(pairs))
        rows = rdcurve.measure(
            pairs, setup, folder, jobs=jobs, report=report, finished=lambda pair: finished(pair.pair)
        )
        step("drawing")
        results = output.results(rows, setup, _command(), jobs)
        written = output.write(results, output.scenes(pairs, rows, setup, rate, most), folder, shown)
    terminal.write(
        "-",
        f"BD-rate in % over {RANGE[0]} to {RANGE[1]} bits per pixel, against {BEST} wherever the curves overlap; in "
        "brackets how many pictures count; * has notes, see summary.csv. Times are seconds for a megapixel.\n",
    )
    _print(_bd_table(results))
    resampled = sum(pair.resampled for pair in pairs)
    others = ", ".join(c.name for c in results.coders if c.needs_reference and not c.is_refscale)
    if resampled and others:
        terminal.say(
            quiet,
            f"{resampled} of {len(pairs)} references have another size than their picture; refscale takes them as they "
            f"are, resampled (bicubic) for: {others}",
        )
    for name, line in results.missing.items():
        terminal.say(quiet, f"left out: {name} ({line})")
    terminal.say(quiet, f"written: {', '.join(str(path) for path in written)}")


def _bd_table(results: "Results") -> "Table":
    """Return coders by datasets: BD-rate in percent, - where there is none; and each coder's times."""
    from rich.table import Table

    from refscale_codec.study.results import seconds_per_megapixel

    datasets = list(dict.fromkeys(c.dataset for c in results.comparisons))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for c in results.comparisons:
        text = f"{_percent(c)} ({c.counts})" if math.isfinite(c.percent) else "-"
        cells.setdefault((c.coder, c.anchor), {})[c.dataset] = text + ("*" if c.notes else "")
    seconds = seconds_per_megapixel(results.rows)
    table = Table("coder", "against", *datasets, "encode", "decode", box=None)
    for (coder, anchor), by_dataset in cells.items():
        times = (f"{seconds[coder][what]:.3f}" if what in seconds[coder] else "-" for what in ("encode", "decode"))
        table.add_row(coder, anchor, *(by_dataset.get(dataset, "") for dataset in datasets), *times)
    return table


def _print(table: "Table", *, to_stderr: bool = False) -> None:
    """Print a table; into a file or pipe it is as wide as it needs to be."""
    from rich.console import Console

    stream = sys.stderr if to_stderr else sys.stdout
    text = io.StringIO()
    Console(file=text, markup=False, emoji=False, width=None if stream.isatty() else 1000).print(table)
    if to_stderr:
        stream.write(text.getvalue())
    else:
        terminal.write("-", text.getvalue().encode())


def _lines(quiet: bool, count: int) -> "Callable[[Pair], None]":
    """Return a function to call after each of so many pairs; where stderr is no terminal it writes a line there."""
    begun, numbers = time.monotonic(), itertools.count(1)

    def finished(pair: "Pair") -> None:
        line = f"{next(numbers)} of {count} pairs: {pair.dataset} {pair.name}, {_duration(time.monotonic() - begun)}"
        terminal.say(quiet or sys.stderr.isatty(), line)

    return finished


def _percent(comparison: "Comparison") -> str:
    return f"{comparison.percent:+.1f}" if math.isfinite(comparison.percent) else "-"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{round(seconds)} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _command() -> str:
    """Return the command line as it was given, but without folders."""
    return printable(" ".join(["refscale", *(re.sub(r"[^=]*/", "", word) for word in sys.argv[1:])]))
