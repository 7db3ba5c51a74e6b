"""What several of these programs need: results files and tables, pictures cut to one size, BD-rates of curves."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refscale_codec.picture.image import Image
from refscale_codec.study import metrics
from refscale_codec.study.comparison import RANGE

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

Point = tuple[float, float]  # bits per pixel, and PSNR in dB


def replace_table(document: str, program: str, lines: list[str]) -> None:
    """Put a table into a document, such as docs/TRAINING.md, where `<!-- by PROGRAM -->` stands above and below."""
    path, mark = ROOT / document, f"<!-- by {program} -->"
    before, _, after = path.read_text(encoding="utf-8").split(mark)
    path.write_text(f"{before}{mark}\n{chr(10).join(lines)}\n{mark}{after}", encoding="utf-8")


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a results file."""
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def kept(path: Path, fields: Collection[str] = (), **same: object) -> dict[str, Any]:
    """Return the results of an earlier run, for a program that goes on from them; {} where there is none.

    Exits with a message if its rows have other fields than `fields`, or if it was measured with other weights,
    qualities, or whatever else `same` names.
    """
    if not path.exists():
        return {}
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    problems = [
        f"{name} {result.get(name)}, now {wanted}"
        for name, wanted in same.items()
        if result.get(name) != json.loads(json.dumps(wanted))
    ]
    for row in result.get("rows", []):
        if fields and row.keys() != set(fields) and not problems:
            problems.append(f"the fields {', '.join(row)} in a row, now {', '.join(fields)}")
    if problems:
        raise SystemExit(f"{path} was measured with {'; '.join(problems)}: remove it to measure again")
    return result


def middle(picture: Image, side: int) -> Image:
    """Return the middle of a picture, a square of a side in pixels, or less where the picture is smaller."""
    top, left = (max(0, (length - side) // 2) for length in (picture.height, picture.width))
    return Image(np.ascontiguousarray(picture.pixels[top : top + side, left : left + side]))


def point(target: Image, decoded: Image, size: int) -> Point:
    """Return bits per pixel and PSNR of a picture that took `size` bytes."""
    bpp = metrics.bits_per_pixel(size, target.height, target.width)
    return bpp, metrics.psnr(target.pixels, decoded.pixels)


def bd_rate(anchor: Sequence[Point], curve: Sequence[Point], between: tuple[float, float] = RANGE) -> metrics.BdRate:
    """Return the BD-rate of a curve against another over a range of rates, by default the one that counts mostly."""
    (rates_a, psnrs_a), (rates_b, psnrs_b) = zip(*anchor, strict=True), zip(*curve, strict=True)
    return metrics.bd_rate(rates_a, psnrs_a, rates_b, psnrs_b, *between)
