"""The commands that train and measure; see `cli`."""

import io
import itertools
import math
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refscale_codec import weights_files
from refscale_codec.cli import process, terminal
from refscale_codec.cli.options import COMPUTING, FILES, DeviceOption, QuietOption, WeightsOption, known_device, option
from refscale_codec.errors import UsageError, counted, printable
from refscale_codec.picture import files
from refscale_codec.study.qualities import DOWNSCALED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.table import Table

    from refscale_codec.picture.manifest import Pair
    from refscale_codec.study.results import Comparison, Results, Row


MEASURING = "Measuring"  # another group of options

SplitOption = Annotated[
    str | None, option("--split", metavar="NAME", help="Only rows of this split of the CSV.", group=FILES)
]


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The recipe; see docs/TRAINING.md.")],
    output: Annotated[
        Path, option("--output", "-o", metavar="FOLDER", help="Checkpoint, weights and log.", group=FILES)
    ],
    manifests: Annotated[
        list[Path] | None,
        option("--manifest", metavar="FILE", help="In place of the recipe's; may be repeated.", group=FILES),
    ] = None,
    minutes: Annotated[
        float, option("--minutes", metavar="N", help="Stop after so long; run again to go on.", group=COMPUTING)
    ] = float("inf"),
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Train a net, or go on where the folder's checkpoint stopped.

    A manifest is a CSV with the columns target and reference, and if need be split and dataset; paths are relative to
    it. docs/TRAINING.md has more, and the fields of a recipe.
    """
    if not minutes >= 0:
        raise UsageError(f"--minutes must be a number from 0 on, not {minutes}")
    terminal.require_stdout()
    with terminal.progress(quiet) as step:
        step("starting")
        from refscale_codec.training import recipe_file

        recipe_file.require_manifests(config, manifests or ())
        from refscale_codec.training import loop as training
        from refscale_codec.training.recipe import TrainConfig

        recipe = TrainConfig.read(config, manifests or ())
        where = terminal.device_named(device)

        def report(line: dict[str, float]) -> None:
            terminal.write("-", terminal.as_json(line) + "\n")
            rate = f" at {line['bpp']} bpp" if "bpp" in line else ""
            step(f"step {line['step']} of {recipe.steps}: {line['psnr']} dB{rate}")

        path = training.train(recipe, config.parent, output, minutes=minutes, device=where, report=report)
    terminal.say(quiet, f"weights in {path}")


def evaluate_command(
    manifest: Annotated[
        Path, typer.Argument(metavar="PAIRS.csv", help="Columns target and reference; split, dataset.")
    ],
    output: Annotated[
        str | None, option("--output", "-o", metavar="FILE", help="Results as JSON; - is stdout.", group=FILES)
    ] = None,
    split: SplitOption = None,
    modes: Annotated[
        str, option("--modes", metavar="NAMES", help="reference,alone,unrelated, or fewer of them.", group=MEASURING)
    ] = "reference,alone,unrelated",
    qualities: Annotated[
        str, option("--qualities", metavar="N,N...", help="Qualities to code at; several by default.", group=MEASURING)
    ] = ",".join(map(str, DOWNSCALED)),
    scale: Annotated[
        int | None,
        option("--scale", metavar="2|4", help="Downscaling factor; 2 by default.", group=MEASURING),
    ] = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Measure one file of weights on pairs, for who trains.

    BD-rates are against JPEG, with the reference, without, with an unrelated one.
    A pair without a reference is coded without one only.
    """
    if weights is not None and scale is not None:
        raise UsageError("--scale would have no effect: it follows from --weights")
    if output != "-":
        terminal.require_stdout()
    with terminal.progress(quiet) as step:
        step("starting")
        from refscale_codec.picture.manifest import read_manifest
        from refscale_codec.study.coders import names

        if output is not None:
            terminal.require_output(str(output), manifest, weights, replace=True)
        chosen = _choices(modes, names.MODES)
        wanted = [int(text) if text.isdecimal() and len(text) <= 3 else 0 for text in qualities.split(",")]
        if not all(1 <= quality <= 100 for quality in wanted):
            raise UsageError(f"--qualities must be numbers from 1 to 100, separated by commas, not {qualities}")
        pairs = read_manifest(manifest, None if split is None else (split,))
        path = weights or weights_files.shipped(scale or 2)
        from refscale_codec.study import evaluate
        from refscale_codec.study import results as results_files
        from refscale_codec.study.comparison import compare

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
            (name,) = names.of_weights([path])
            results = evaluate.results(rows, comparisons, rounded, model, name, _command())
            terminal.write(output, results_files.dumps(results).encode())
    from rich.table import Table

    table = Table("dataset", "coder", "against", "BD-rate %", "pictures", "left out")
    for c in comparisons:
        table.add_row(c.dataset, c.coder, c.anchor, _percent(c), str(c.pictures), str(c.left_out))
    _print(table, to_stderr=output == "-")
    _tell_single(pairs, quiet)
    per_dataset = ", ".join(f"{dataset} {psnr:.2f}" for dataset, psnr in rounded.items())
    terminal.say(
        quiet, f"mean PSNR in dB with the low-res picture rounded to 8 bits and not coded further: {per_dataset}"
    )
    if math.isfinite(cost := evaluate.map_bpp(rows)):
        terminal.say(quiet, f"mean cost of the similarity map: {cost:.4f} bits per pixel")
    for note in sorted({f"{c.dataset} {c.coder}: {note}" for c in comparisons for note in c.notes}):
        terminal.say(quiet, note)


def _tell_single(pairs: "list[Pair]", quiet: bool) -> None:
    if single := sum(pair.reference is None for pair in pairs):
        told = f"{single} of {counted(len(pairs), 'picture')}"
        terminal.say(quiet, f"without a reference, and coded without one: {told}")


def _choices(text: str, allowed: tuple[str, ...]) -> list[str]:
    chosen = text.split(",")
    unknown = sorted(set(chosen) - set(allowed))
    if unknown:
        raise UsageError(f"unknown {', '.join(unknown)}; there are: {', '.join(allowed)}")
    return chosen


def rd_curve(
    source: Annotated[
        Path, typer.Argument(metavar="PAIRS", help="A CSV (target,reference), a folder of targets, or a target.")
    ],
    reference: Annotated[
        Path | None,
        typer.Argument(metavar="[REFERENCES]", help="A folder of references with the same names, or a reference."),
    ] = None,
    folder: Annotated[
        Path,
        option("--output", "-o", metavar="FOLDER", help="Of the results; report by default. Runs resume.", group=FILES),
    ] = Path("report"),
    split: SplitOption = None,
    names: Annotated[
        str | None,
        option("--coders", metavar="NAMES", help="Separated by commas, or all; see above.", group=MEASURING),
    ] = None,
    metrics: Annotated[
        str,
        option("--metrics", metavar="NAMES", help="Of plots: psnr (default),ssim,ms-ssim.", group=MEASURING),
    ] = "psnr",
    rate: Annotated[
        float, option("--rate", metavar="BPP", help="Of pictures in the report; 0.5 by default.", group=MEASURING)
    ] = 0.5,
    most: Annotated[
        int, option("--pictures", metavar="N", help="How many pairs the report shows; 6.", group=MEASURING)
    ] = 6,
    weights: Annotated[
        list[Path] | None,
        option("--weights", metavar="FILE", help="Instead of those that ship; may be repeated.", group=COMPUTING),
    ] = None,
    jobs: Annotated[
        int, option("--jobs", metavar="N", help="Processes, a thread each; all cores by default.", group=COMPUTING)
    ] = 0,
    device: Annotated[
        str,
        option(
            "--device", metavar="NAME", help="cpu (default), auto, cuda or mps.", group=COMPUTING, check=known_device
        ),
    ] = "cpu",
    quiet: QuietOption = False,
) -> None:
    """Compare coders on your own pairs, with a report to look at.

    By default these are jpeg, avif, x265-reference and refscale-x2. A pair without a reference is coded only by coders
    that need none.
    """
    for name, number in (("--rate", rate), ("--pictures", most), ("--jobs", jobs)):
        if not 0 <= number < float("inf"):
            raise UsageError(f"{name} must be a number from 0 on, not {number}")
    terminal.require_stdout()
    with terminal.progress(quiet) as step:
        step("starting")
        from refscale_codec import workers
        from refscale_codec.study import folder as of_results
        from refscale_codec.study import pairs as study_pairs
        from refscale_codec.study.coders import names as coder_names
        from refscale_codec.study.curves import METRICS
        from refscale_codec.study.results import BEST, JPEG

        shown = [METRICS[name] for name in _choices(metrics, tuple(METRICS))]
        wanted = None if names is None else tuple(names.split(","))
        usual = [(2, "jpeg")] if wanted is None else [(2, "jpeg"), (4, "jpeg"), (2, "gmm")]
        chosen = tuple(weights or [weights_files.shipped(*of) for of in usual])
        for path in chosen:
            weights_files.require(path)
        coder_names.wanted(wanted, chosen)  # so that a wrong one is refused at once
        found = study_pairs.find(source, reference, split)
        of_results.require_own(folder, shown)
        pairs = study_pairs.check(found)
        import torch

        from refscale_codec.study import output, rdcurve
        from refscale_codec.study.comparison import RANGE

        setup = rdcurve.Setup(chosen, wanted, terminal.device_named(device))
        setup.coders()  # so that weights of another kind are refused before anything is measured
        files.make_folder(folder)
        process.keep_freed_memory()
        torch.set_num_threads(1)
        jobs = jobs or workers.cores()
        begun = time.monotonic()
        first: list[int] = []

        def report(done: int, of: int) -> None:
            first.append(done)
            made = done - first[0]
            left = f", {terminal.duration((time.monotonic() - begun) * (of - done) / made)} left" if made else ""
            step(f"{done} of {of} files coded{left}")

        finished = _lines(quiet, len(pairs))
        rows = rdcurve.measure(
            pairs, setup, folder, jobs=jobs, report=report, finished=lambda pair: finished(pair.pair)
        )
        step("drawing")
        results = output.results(rows, setup, _command(), jobs)
        written = output.write(results, output.scenes(pairs, rows, setup, rate, most), folder, shown)
    if results.comparisons:
        told = (
            f"BD-rate in % over {RANGE[0]} to {RANGE[1]} bits per pixel, against {BEST} wherever the curves overlap; "
        )
        told += (
            "in brackets how many pictures count; * has notes, see summary.csv. Times are seconds for a megapixel.\n"
        )
    else:
        told = f"No BD-rates: they compare coders with {JPEG} or {BEST}. Means over pictures, by the coder's quality; "
        told += "PSNR in dB; times are seconds for a megapixel, those of all qualities.\n"
    terminal.write("-", told)
    _print(_bd_table(results) if results.comparisons else _rate_table(results))
    _tell_single([pair.pair for pair in pairs], quiet)
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
    terminal.say(quiet, f"written: {', '.join(map(str, [folder / 'rows.jsonl', *written]))}")


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
        table.add_row(
            coder, anchor, *(by_dataset.get(dataset, "") for dataset in datasets), *_times(seconds.get(coder, {}))
        )
    return table


def _rate_table(results: "Results") -> "Table":
    """Return the mean rate and PSNR of each coder at each of its qualities, and its times."""
    from rich.table import Table

    from refscale_codec.study.results import seconds_per_megapixel

    rows: dict[tuple[str, int], list[Row]] = {}
    for row in results.rows:
        rows.setdefault((row.coder, row.quality), []).append(row)
    seconds = seconds_per_megapixel(results.rows)
    table = Table("coder", "quality", "bits per pixel", "PSNR", "pictures", "encode", "decode", box=None)
    for (coder, quality), of in rows.items():
        bpp, psnr = (sum(values) / len(of) for values in ((row.bpp for row in of), (row.psnr for row in of)))
        table.add_row(coder, str(quality), f"{bpp:.4f}", f"{psnr:.2f}", str(len(of)), *_times(seconds.get(coder, {})))
    return table


def _times(seconds: "Mapping[str, float]") -> list[str]:
    return [f"{seconds[what]:.3f}" if what in seconds else "-" for what in ("encode", "decode")]


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
        since = terminal.duration(time.monotonic() - begun)
        line = f"{next(numbers)} of {count} pairs: {pair.dataset} {pair.name}, {since}"
        terminal.say(quiet or sys.stderr.isatty(), line)

    return finished


def _percent(comparison: "Comparison") -> str:
    return f"{comparison.percent:+.1f}" if math.isfinite(comparison.percent) else "-"


def _command() -> str:
    """Return the command line as it was given, but of each path only the last name."""
    return printable(" ".join(["refscale", *(re.sub(r"[^=]*/(?=[^/])", "", word) for word in sys.argv[1:])]))
