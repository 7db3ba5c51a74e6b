"""Results files of `refscale eval` -> the figure and the table of the README.

python benchmarks/figures.py benchmarks/results/eval-x2-test.json -o docs/rd-x2.png
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

STYLES = {
    "jpeg": ("JPEG 4:4:4", "0.45", "--"),
    "unrelated": ("refscale, unrelated reference", "tab:orange", ":"),
    "alone": ("refscale, no reference", "tab:blue", "-"),
    "reference": ("refscale, older picture as reference", "tab:red", "-"),
}
HIGHEST = 1.2  # bits per pixel shown


def curves(rows: list[dict[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return dataset -> coder -> mean (bpp, PSNR) at each quality, over the pictures of the dataset."""
    groups: dict[tuple[str, str, int], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        groups[row["dataset"], row["coder"], row["quality"]].append((row["bpp"], row["psnr"]))
    result: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for (dataset, coder, _), points in sorted(groups.items()):
        bpp, psnr = np.mean(points, axis=0)
        result[dataset][coder].append((float(bpp), float(psnr)))
    return result


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw one panel a dataset."""
    by_dataset = curves(rows)
    columns = 3
    lines = -(-len(by_dataset) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4 * columns, 3.1 * lines), squeeze=False, layout="constrained")
    for axis in axes.flat[len(by_dataset) :]:
        axis.set_axis_off()
    for axis, (dataset, coders) in zip(axes.flat, sorted(by_dataset.items()), strict=False):
        pictures = len({row["name"] for row in rows if row["dataset"] == dataset})
        for coder, (label, colour, line) in STYLES.items():
            points = np.array(sorted(coders.get(coder, []))).reshape(-1, 2)
            shown = points[points[:, 0] <= HIGHEST]
            if len(shown):
                axis.plot(shown[:, 0], shown[:, 1], line, color=colour, label=label, marker=".", markersize=4)
        axis.set_title(f"{dataset} ({pictures} pictures)", fontsize=10)
        axis.set_xlabel("bits per pixel, whole file")
        axis.set_ylabel("RGB PSNR (dB)")
        axis.grid(alpha=0.3)
    drawn = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=4, fontsize=9)
    figure.savefig(path, dpi=110)


def table(results: dict[str, Any]) -> str:
    """Return BD-rates as a Markdown table, a row a dataset."""
    columns = list(dict.fromkeys((c["coder"], c["anchor"]) for c in results["comparisons"]))
    found = {(c["dataset"], c["coder"], c["anchor"]): c for c in results["comparisons"]}
    datasets = sorted({c["dataset"] for c in results["comparisons"]} - {"all"}) + ["all"]
    lines = ["| | " + " | ".join(f"{coder} against {anchor}" for coder, anchor in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for dataset in datasets:
        cells = []
        for coder, anchor in columns:
            c = found.get((dataset, coder, anchor))
            cells.append(f"{c['percent']:+.1f} % ({c['pictures']})" if c and c["pictures"] else "–")
        lines.append(f"| {dataset} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Draw the figure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text())
    draw(results["rows"], arguments.output)
    print(table(results))


if __name__ == "__main__":
    main()
