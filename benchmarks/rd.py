"""The project's own figures: `refscale rd-curve` on a manifest's dev and test pairs, to docs/RESULTS.md.

    python benchmarks/rd.py ../shared/data/manifest.csv              # measures what is missing, then writes the page
    python benchmarks/rd.py ../shared/data/manifest.csv --splits test --coders jpeg,refscale-x2

Rows are kept under build/rd, so it can be stopped and started again. Choices are made on dev; test is only reported.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import tables
from rich.progress import Progress

from refscale_codec import model
from refscale_codec.cli import process
from refscale_codec.study import coders, plot, rdcurve

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
OURS = "refscale-x2"


def measured(manifest: Path, split: str, names: tuple[str, ...], jobs: int, folder: Path) -> dict[str, Any]:
    """Measure a split, or what is missing of it, and return its results."""
    folder.mkdir(parents=True, exist_ok=True)
    setup = rdcurve.Setup((model.shipped(2), model.shipped(4), model.shipped(2, "gmm")), names)
    pairs = rdcurve.check(rdcurve.find_pairs(manifest, None, split))
    with Progress(redirect_stdout=False) as progress:
        task = progress.add_task(split, total=None)
        rows = rdcurve.measure(
            pairs, setup, folder, jobs=jobs, report=lambda done, of: progress.update(task, completed=done, total=of)
        )
    command = f"python benchmarks/rd.py {manifest.name} {' '.join(word for word in sys.argv[2:])}".rstrip()
    return rdcurve.results(rows, setup, command)


def everything() -> tuple[str, ...]:
    """Return the names of all coders that work here."""
    known = [coder.name for coder in coders.baselines()[0]]
    ours = ("refscale-x2", "refscale-x4", "refscale-x2-gmm")
    return (*known, *(f"{name}{mode}" for name in ours for mode in ("", "-alone", "-unrelated")))


def table(found: dict[str, Any]) -> list[str]:
    """Return a table of BD-rates: a row a coder and what it is compared with, a column a dataset."""
    by_coder: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for comparison in found["comparisons"]:
        named = comparison["coder"], comparison["anchor"]
        by_coder.setdefault(named, {})[comparison["dataset"]] = comparison
    datasets = list(dict.fromkeys(c["dataset"] for c in found["comparisons"]))

    def cell(comparison: dict[str, Any] | None) -> str:
        if comparison is None or comparison["percent"] is None:
            return "–"
        return f"{comparison['percent']:+.1f} ({comparison['pictures']})"

    def gain(comparison: dict[str, Any] | None) -> str:
        return "–" if comparison is None or comparison["bd_psnr"] is None else f"{comparison['bd_psnr']:+.2f}"

    lines = [f"| coder | against | {' | '.join(datasets)} | dB, all |", "|---" * (len(datasets) + 3) + "|"]
    for (coder, anchor), of in by_coder.items():
        cells = " | ".join(cell(of.get(dataset)) for dataset in datasets)
        lines.append(f"| {coder} | {anchor} | {cells} | {gain(of.get('all'))} |")
    return lines


def losses(found: dict[str, Any]) -> list[str]:
    """Return where another coder takes fewer bits than ours, by dataset."""
    against = [c for c in found["comparisons"] if c["anchor"] == rdcurve.ANCHOR]
    percent = {(c["coder"], c["dataset"]): c["percent"] for c in against}
    lines = []
    for dataset in dict.fromkeys(c["dataset"] for c in found["comparisons"]):
        own = percent.get((OURS, dataset))
        better = {
            coder: value
            for (coder, where), value in percent.items()
            if where == dataset
            and value is not None
            and own is not None
            and value < own
            and not coder.startswith("refscale-")
        }
        if better:
            named = ", ".join(f"{coder} {value:+.1f}" for coder, value in sorted(better.items(), key=lambda x: x[1]))
            lines.append(f"- **{dataset}** ({OURS} {own:+.1f}): {named}")
    return lines or ["- nowhere, on these datasets"]


SHOWN = (  # in the README
    *("refscale-x2", "refscale-x2-gmm", "refscale-x2-alone", "refscale-x4"),
    *("webp", "avif", "x265", "x265-reference"),
)


def summary(found: dict[str, Any]) -> list[str]:
    """Return the README's table: a row a dataset, a column a coder, BD-rate against JPEG."""
    percent = {(c["dataset"], c["coder"]): c["percent"] for c in found["comparisons"] if c["anchor"] == rdcurve.ANCHOR}
    pictures: dict[str, int] = {}
    for c in found["comparisons"]:
        pictures[c["dataset"]] = max(pictures.get(c["dataset"], 0), c["pictures"] + c["left_out"])
    shown = [coder for coder in SHOWN if any(coder == of for _, of in percent)]
    lines = [f"| pictures | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    for dataset, count in pictures.items():
        values = (percent.get((dataset, coder)) for coder in shown)
        lines.append(f"| {dataset} ({count}) | {' | '.join('–' if v is None else f'{v:+.1f} %' for v in values)} |")
    return lines


def page(by_split: dict[str, dict[str, Any]]) -> str:
    """Return docs/RESULTS.md."""
    lines = ["# Results", "", "Written by `benchmarks/rd.py` from `benchmarks/results/rd-*.json`; do not edit.", ""]
    for split, found in by_split.items():
        versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
        named = ", ".join(f"{name} {fingerprint}" for name, fingerprint in found["weights"].items())
        machine = ", ".join(str(value) for value in found["machine"].values())
        notes = [f"- {c['dataset']}, {c['coder']}: {'; '.join(c['notes'])}" for c in found["comparisons"] if c["notes"]]
        lines += [
            *(f"## {split}", ""),
            *(f"![Rate-distortion curves, {split}](rd-{split}.png)", ""),
            *("BD-rate in %, in brackets the number of pictures; negative saves bits.", ""),
            *(*table(found), ""),
            *("Where another coder needs fewer bits than refscale ×2 + JPEG with its reference:", ""),
            *(*losses(found), ""),
            *(f"Convention: {found['convention']}.", ""),
            *(f"`{found['command']}`; weights {named}; {versions}; {machine}.", ""),
            *("<details><summary>Notes on single figures</summary>", "", *(notes or ["- none"]), "", "</details>", ""),
        ]
    labels = {coder["name"]: coder["label"] for found in by_split.values() for coder in found["coders"]}
    lines += ["## Coders", "", *(f"- `{name}`: {label}" for name, label in labels.items()), ""]
    return "\n".join(lines)


def main() -> None:
    """Measure, and write results, plots and the page."""
    parser = argparse.ArgumentParser(description="Measure the project's own figures and write docs/RESULTS.md.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--splits", nargs="+", default=["dev", "test"])
    parser.add_argument(
        "--coders", help="names, separated by commas; by default all that work here, and unrelated ones"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    process.keep_freed_memory()
    names = everything() if args.coders is None else tuple(args.coders.split(","))
    for split in args.splits:
        found = measured(args.manifest, split, names, args.jobs, ROOT / "build" / "rd" / split)
        folder = ROOT / "build" / "rd" / split
        rdcurve.write(found, [], folder)
        (RESULTS / f"rd-{split}.json").write_bytes((folder / "results.json").read_bytes())
    by_split = {path.stem[3:]: json.loads(path.read_text()) for path in sorted(RESULTS.glob("rd-*.json"))}
    for split, found in by_split.items():
        plots = plot.save_curves(found, ROOT / "build" / "rd")
        (ROOT / "docs" / f"rd-{split}.png").write_bytes(next(p for p in plots if p.name == "rd.png").read_bytes())
    (ROOT / "docs" / "RESULTS.md").write_text(page(by_split), encoding="utf-8")
    tables.replace_table("README.md", "benchmarks/rd.py", summary(by_split["test"]))


if __name__ == "__main__":
    main()
