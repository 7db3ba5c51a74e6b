"""What references cost on the way up and save on the way down, by the quality that they are coded at.

    python benchmarks/uplink.py ../shared/data/naip_rgbn.csv ../shared/data/manifest.csv    # goes on where it was

The oldest picture of a site is coded alone, as `refs bundle` does first, at each of `UPLINK`. The later ones, one or
two revisits, are coded against what that decodes to; against the picture itself, as if the uplink were free; and
alone. A second revisit is also coded against what the first one, coded alone, decodes to. Sites are those of three
dates in the first manifest, which are all dev, every second one, and those of OSCD in the second one, which have two
dates. All are coded as RGB, the middle of each, with the exact weights in benchmarks/weights.

Bytes are of whole files. Those down are compared at equal PSNR, that of the picture alone at the qualities `DOWN`,
by the logarithm of the bytes, linear in PSNR between measured points. More revisits than were measured are
extrapolated: each costs their mean.

Writes benchmarks/results/uplink.json and the tables in docs/ARCHIVES.md.
"""

import argparse
import csv
import math
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS as FOLDER
from common import ROOT, kept, middle, replace_table, write

from refscale_codec import model
from refscale_codec.codec import encoder
from refscale_codec.errors import counted
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.study import metrics

RESULTS = FOLDER / "uplink.json"
WEIGHTS = ROOT / "benchmarks" / "weights" / "x2-untied.safetensors"
UPLINK = (15, 30, 50, 70, 85, 95)
QUALITIES = (20, 40, 50, 60, 70, 80)
DOWN = (50, 70)  # of QUALITIES, with a lower and a higher one each
REVISITS = (1, 2, 5, 10, 30)
SIDE = 256  # of the middle, in pixels
EARTH = 1 / 3.3  # downlink of Earth+ over that of coding on board, as its abstract has it
DATES = "older_reference", "reference", "target"  # columns of the manifests
FIELDS = ("group", "name", "up", "down")  # of a row

Points = list[tuple[int, float]]  # bytes and PSNR, by QUALITIES


def rgb(path: Path) -> Image:
    """Return the middle of a picture, its first three bands."""
    return middle(Image(np.ascontiguousarray(pictures.read(path).pixels[..., :3])), SIDE)


def coded(target: Image, older: list[Image], net: Model, quality: int) -> tuple[int, Image]:
    """Return the bytes of a picture's file, and what it decodes to."""
    done = encoder.prepare(target, older, net).code(quality)
    return len(done.file()), done.picture()


def points(target: Image, older: list[Image], net: Model) -> Points:
    """Return bytes and PSNR at each quality."""
    plan, found = encoder.prepare(target, older, net), []
    for quality in QUALITIES:
        done = plan.code(quality)
        found.append((len(done.file()), metrics.psnr(target.pixels, done.picture().pixels)))
    return found


def measured(images: list[Image], net: Model) -> dict[str, Any]:
    """Return bytes up by quality, and of each revisit the points by what it is coded against.

    Args:
        images: of a site, the oldest first.
        net: the exact weights.
    """
    oldest, *revisits = images
    bundles = {str(quality): coded(oldest, [], net, quality) for quality in UPLINK}
    older = {"alone": [], "original": [oldest]} | {name: [picture] for name, (_, picture) in bundles.items()}
    down = [{name: points(target, given, net) for name, given in older.items()} for target in revisits]
    for before, target, row in zip(revisits[:-1], revisits[1:], down[1:], strict=True):
        row["before"] = points(target, [coded(before, [], net, DOWN[-1])[1]], net)
    return {"up": {name: size for name, (size, _) in bundles.items()}, "down": down}


def at_equal_psnr(curves: dict[str, Points], quality: int) -> dict[str, float]:
    """Return bytes by reference, at the PSNR of the picture alone at a quality."""
    wanted = curves["alone"][QUALITIES.index(quality)][1]
    found = {}
    for name, curve in curves.items():
        sizes, psnrs = zip(*curve, strict=True)
        if not psnrs[0] <= wanted <= psnrs[-1]:
            raise SystemExit(f"{name} does not reach {wanted:.2f} dB within {QUALITIES}")
        found[name] = math.exp(np.interp(wanted, psnrs, np.log(sizes)))
    return found


def means(rows: list[dict[str, Any]], quality: int) -> dict[str, tuple[float, float]]:
    """Return mean bytes up and down a revisit, by reference; of `before` down alone over the same revisits as well."""
    down = [at_equal_psnr(curves, quality) for row in rows for curves in row["down"]]
    up = {"alone": 0.0, "original": 0.0} | {
        name: float(np.mean([row["up"][name] for row in rows])) for name in map(str, UPLINK)
    }
    found = {name: (size, float(np.mean([one[name] for one in down]))) for name, size in up.items()}
    second = [one for one in down if "before" in one]
    if second:
        against = float(np.sum([one["before"] for one in second]) / np.sum([one["alone"] for one in second]))
        found["before"] = 0.0, against * found["alone"][1]
    return found


def best(found: dict[str, tuple[float, float]], revisits: int) -> str:
    """Return the uplink quality of the fewest bytes up and down, `alone` where no reference pays."""
    return min(("alone", *map(str, UPLINK)), key=lambda name: found[name][0] + revisits * found[name][1])


def share(found: dict[str, tuple[float, float]], name: str, revisits: int) -> float:
    """Return bytes up and down over those of pictures alone."""
    return (found[name][0] / revisits + found[name][1]) / found["alone"][1]


def grouped(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows by group, in the order of the first ones."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["group"], []).append(row)
    return found


def by_reference(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of bytes up and down, at the last quality of DOWN."""
    lines = [
        "| pictures | reference | bytes up | bytes down, a revisit | against alone | pays from revisits |",
        "|---" * 6 + "|",
    ]
    names = {
        "alone": "none",
        "original": "the picture itself",
        "before": "the revisit before, as it came down at quality 70",
    }
    for group, some in grouped(rows).items():
        found = means(some, DOWN[-1])
        for name, (up, down) in found.items():
            saved = found["alone"][1] - down
            pays = "-" if not up else f"{math.ceil(up / saved)}" if saved > 0 else "never"
            cells = [f"{group} ({len(some)})", names.get(name, f"coded, quality {name}")]
            cells += [f"{up:.0f}" if up or name != "original" else "not counted", f"{down:.0f}"]
            cells += [f"{down / found['alone'][1] - 1:+.1%}", pays]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def by_revisits(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of the best quality up, chosen on dev, and of what goes both ways with it."""
    lines = [
        f"| pictures, quality down | {' | '.join(counted(count, 'revisit') for count in REVISITS)} |",
        "|---" * (1 + len(REVISITS)) + "|",
    ]
    groups = grouped(rows)
    for quality in DOWN:
        for group, some in groups.items():
            found, chosen = means(some, quality), means(groups[group.replace("test", "dev")], quality)
            cells = []
            for count in REVISITS:
                name = best(chosen, count)
                told = "none" if name == "alone" else f"quality {name}"
                cells.append(f"{told}: {share(found, name, count):.1%}")
            lines.append(f"| {group}, {quality} | {' | '.join(cells)} |")
    lines.append(f"| Earth+, quoted: down alone | {' | '.join([f'{EARTH:.0%}'] * len(REVISITS))} |")
    return lines


def sites(three: Path, two: Path, every: int) -> list[tuple[str, str, list[Path]]]:
    """Return groups, names and the paths of the pictures, the oldest first; test sites are behind the others."""
    found = []
    for manifest, columns in ((two, DATES[1:]), (three, DATES)):
        with manifest.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if manifest is three:
            rows = [row for row in rows if row["older_reference"]][::every]
        else:
            rows = [row for row in rows if row["dataset"] == "oscd" and row["split"] in ("dev", "test")]
        for row in rows:
            group = f"{row['dataset'].partition('_')[0]}, {row['split']}"
            found.append((group, row["name"], [manifest.parent / row[column] for column in columns]))
    return sorted(found, key=lambda site: site[0].endswith("test"))


def main() -> None:
    """Measure what is missing, write the results and the tables."""
    parser = argparse.ArgumentParser(description="Measure bytes up and down.")
    parser.add_argument("three", type=Path, help="manifest of sites with three dates")
    parser.add_argument("two", type=Path, help="manifest of sites with two dates")
    parser.add_argument("--every", type=int, default=2, help="only each n-th site with three dates")
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = model.load(WEIGHTS)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "weights": net.fingerprint.hex()}
    result = {
        "command": "python benchmarks/uplink.py naip_rgbn.csv manifest.csv" + f" --every {args.every}",
        "machine": platform.machine(),
        "versions": versions,
        "uplink": UPLINK,
        "qualities": QUALITIES,
    }
    rows = kept(RESULTS, FIELDS, uplink=UPLINK, qualities=QUALITIES, versions=versions).get("rows", [])
    done = {row["name"] for row in rows}
    for group, name, paths in sites(args.three, args.two, args.every):
        if name in done:
            continue
        rows.append({"group": group, "name": name} | measured([rgb(path) for path in paths], net))
        write(RESULTS, result | {"rows": rows})
        print(name, means(rows[-1:], DOWN[-1]), flush=True)
    lines = [*by_reference(rows), "", *by_revisits(rows)]
    print(*lines, sep="\n")
    replace_table("docs/ARCHIVES.md", "benchmarks/uplink.py", lines)


if __name__ == "__main__":
    main()
