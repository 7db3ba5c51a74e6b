"""The project's own figures: `refscale rd-curve` on a manifest's dev and test pairs, to docs/RESULTS.md.

    python benchmarks/rd.py ../shared/data/manifest.csv              # measures what is missing, then writes the page
    python benchmarks/rd.py ../shared/data/manifest.csv --splits test --coders jpeg,refscale-x2
    python benchmarks/rd.py ../shared/data/manifest.csv --splits     # only writes the page again

Rows are kept under build/rd, so it can be stopped and started again. Choices are made on dev; test is only reported.
"""

import argparse
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from common import RESULTS, ROOT, replace_table
from rich.progress import Progress

from refscale_codec import weights_files
from refscale_codec.cli import process
from refscale_codec.errors import RefscaleError
from refscale_codec.study import output, pairs, plot, rdcurve
from refscale_codec.study import results as results_files
from refscale_codec.study.coders import baselines
from refscale_codec.study.coders.names import of_weights
from refscale_codec.study.comparison import compare
from refscale_codec.study.results import ALL, JPEG, Comparison, Results
from refscale_codec.study.styles import few

OURS = "refscale-x2"
WEIGHTS = (weights_files.shipped(2), weights_files.shipped(4), weights_files.shipped(2, "gmm"))


def measured(manifest: Path, split: str, names: tuple[str, ...], jobs: int, folder: Path) -> Results:
    """Measure a split, or what is missing of it, and return its results."""
    folder.mkdir(parents=True, exist_ok=True)
    setup = rdcurve.Setup(WEIGHTS, names)
    checked = pairs.check(pairs.find(manifest, None, split))
    with Progress(redirect_stdout=False) as progress:
        task = progress.add_task(split, total=None)
        rows = rdcurve.measure(
            checked, setup, folder, jobs=jobs, report=lambda done, of: progress.update(task, completed=done, total=of)
        )
    command = f"python benchmarks/rd.py {manifest.name} {' '.join(word for word in sys.argv[2:])}".rstrip()
    return output.results(rows, setup, command, jobs)


def everything() -> tuple[str, ...]:
    """Return the names of all coders that work here."""
    others = [coder.name for coder in baselines.available()[0]]
    ours = of_weights(WEIGHTS)
    return (*others, *(f"{name}{mode}" for name in ours for mode in ("", "-alone", "-unrelated")))


def table(results: Results) -> list[str]:
    """Return a table of BD-rates: a row a coder and what it is compared with, a column a dataset."""
    by_coder: dict[tuple[str, str], dict[str, Comparison]] = {}
    for comparison in results.comparisons:
        by_coder.setdefault((comparison.coder, comparison.anchor), {})[comparison.dataset] = comparison
    datasets = list(dict.fromkeys(c.dataset for c in results.comparisons))

    def cell(comparison: Comparison | None) -> str:
        if comparison is None or math.isnan(comparison.percent):
            return "–"
        return f"{comparison.percent:+.1f} ({comparison.counts})"

    def gain(comparison: Comparison | None) -> str:
        return "–" if comparison is None or math.isnan(comparison.bd_psnr) else f"{comparison.bd_psnr:+.2f}"

    lines = [f"| coder | against | {' | '.join(datasets)} | dB, all |", "|---" * (len(datasets) + 3) + "|"]
    for (coder, anchor), of in by_coder.items():
        cells = " | ".join(cell(of.get(dataset)) for dataset in datasets)
        lines.append(f"| {coder} | {anchor} | {cells} | {gain(of.get(ALL))} |")
    return lines


def losses(results: Results) -> list[str]:
    """Return where another coder takes fewer bits than ours, by dataset."""
    ours = {coder.name for coder in results.coders if coder.is_refscale}
    percent = {(c.coder, c.dataset): c.percent for c in results.comparisons if c.anchor == JPEG}
    lines = []
    for dataset in dict.fromkeys(c.dataset for c in results.comparisons):
        own = percent.get((OURS, dataset), math.nan)
        better = {
            coder: value
            for (coder, where), value in percent.items()
            if where == dataset and value < own and coder not in ours  # false where either is NaN
        }
        if better:
            named = ", ".join(f"{coder} {value:+.1f}" for coder, value in sorted(better.items(), key=lambda x: x[1]))
            lines.append(f"- **{dataset}** ({OURS} {own:+.1f}): {named}")
    return lines or ["- nowhere, on these datasets"]


LISTED = (  # in the README
    *("refscale-x2", "refscale-x2-gmm", "refscale-x2-alone", "refscale-x4"),
    *("webp", "avif", "x265", "x265-reference"),
)


def summary(results: Results) -> list[str]:
    """Return the README's table: a row a dataset, a column a coder, BD-rate against JPEG.

    "all pairs" is over the same pictures in every column: those that all coders were run on, some of which need a
    reference.
    """
    listed = [coder for coder in LISTED if any((c.coder, c.anchor) == (coder, JPEG) for c in results.comparisons)]
    curves: dict[str, set[tuple[str, str]]] = {coder: set() for coder in (JPEG, *listed)}
    for row in results.rows:
        if row.coder in curves:
            curves[row.coder].add((row.dataset, row.name))
    pairs = set.intersection(*curves.values())
    of_pairs = [row for row in results.rows if (row.dataset, row.name) in pairs]
    own = [c for c in results.comparisons if c.anchor == JPEG and c.dataset != ALL]
    shared = [c for coder in listed for c in compare(of_pairs, coder, JPEG) if c.dataset == ALL]
    percent = {(c.dataset, c.coder): c.percent for c in (*own, *shared) if c.stands_for_all}
    pictures: dict[str, int] = {}
    for c in (*own, *shared):
        pictures[c.dataset] = max(pictures.get(c.dataset, 0), c.of)
    lines = [f"| pictures | {' | '.join(listed)} |", "|---" * (len(listed) + 1) + "|"]
    first = {ALL, *(dataset for dataset, _ in pairs)}
    for dataset, count in sorted(pictures.items(), key=lambda of: of[0] not in first):
        values = (percent.get((dataset, coder), math.nan) for coder in listed)
        name = "all pairs" if dataset == ALL else dataset
        lines.append(f"| {name} ({count}) | {' | '.join('–' if math.isnan(v) else f'{v:+.1f} %' for v in values)} |")
    return lines


def page(by_split: Mapping[str, Results]) -> list[str]:
    """Return what stands in docs/RESULTS.md between this program's marks."""
    lines = ["Written by `benchmarks/rd.py` from `benchmarks/results/rd-*.json`; do not edit.", ""]
    for split, results in by_split.items():
        versions = ", ".join(f"{name} {number}" for name, number in results.versions.items())
        named = ", ".join(f"{name} {fingerprint}" for name, fingerprint in results.weights.items())
        machine = ", ".join(str(value) for value in results.machine.values())
        notes = [f"- {c.dataset}, {c.coder}: {'; '.join(c.notes)}" for c in results.comparisons if c.notes]
        lines += [
            *(f"## {split}", ""),
            *(f"![Rate-distortion curves, {split}](rd-{split}.png)", ""),
            *("BD-rate in %, in brackets the number of pictures that count; negative saves bits.", ""),
            *(*table(results), ""),
            *("Where another coder needs fewer bits than refscale ×2 + JPEG with its reference:", ""),
            *(*losses(results), ""),
            *(f"Convention: {results.convention}.", ""),
            *(f"`{results.command}`; weights {named}; {versions}; {machine}.", ""),
            *("<details><summary>Notes on single figures</summary>", "", *(notes or ["- none"]), "", "</details>", ""),
        ]
    labels = {coder.name: coder.label for results in by_split.values() for coder in results.coders}
    return [*lines, "## Coders", "", *(f"- `{name}`: {label}" for name, label in labels.items())]


def main() -> None:
    """Measure, and write results, plots and the page."""
    parser = argparse.ArgumentParser(description="Measure the project's own figures and write docs/RESULTS.md.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--splits", nargs="*", default=["dev", "test"], help="none only writes the page")
    parser.add_argument(
        "--coders", help="names, separated by commas; by default all that work here, and unrelated ones"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    process.keep_freed_memory()
    names = everything() if args.coders is None else tuple(args.coders.split(","))
    for split in args.splits:
        folder = ROOT / "build" / "rd" / split
        results = measured(args.manifest, split, names, args.jobs, folder)
        output.write(results, [], folder)
        results_files.write(results, RESULTS / f"rd-{split}.json")
    try:
        by_split = {path.stem[3:]: results_files.read(path) for path in sorted(RESULTS.glob("rd-*.json"))}
    except RefscaleError as error:
        raise SystemExit(f"{error}; docs/RESULTS.md stays as it is") from None
    for split, results in by_split.items():
        plots = plot.save_curves(results, ROOT / "build" / "rd", only=few(results.coders))
        (ROOT / "docs" / f"rd-{split}.png").write_bytes(next(p for p in plots if p.name == "rd.png").read_bytes())
    replace_table("docs/RESULTS.md", "benchmarks/rd.py", page(by_split))
    replace_table("README.md", "benchmarks/rd.py", summary(by_split["test"]))


if __name__ == "__main__":
    main()
