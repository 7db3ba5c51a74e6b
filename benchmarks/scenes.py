"""Big scenes: peak memory and seconds of the command by size, a window against the whole, and what tiles change.

The scenes are a pair of pictures, mirrored until they fill the size asked for: the drawn example pair, or one's own
(`--pair`). Each command is a process of its own under GNU `time -v`, which reports its peak resident memory and its
wall-clock time, start of Python included. What tiles change, against coding and decoding in one piece:

    tiled, whole   bytes, PSNR, and PSNR of what lies within 8 pixels of an edge between tiles
    same file      one file decoded both ways: how far samples are apart, in 8-bit levels
    halo           what the net makes of the same input, both ways, for halos of several widths in pixels
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import throughput
from common import RESULTS, ROOT, write

import refscale_codec
from refscale_codec import model, weights_files
from refscale_codec.codec import decoder, encoder
from refscale_codec.codec.reconstruction import reconstruct
from refscale_codec.fileformat import container
from refscale_codec.picture import tiles
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.rescale import tiled
from refscale_codec.study import metrics

SIZES = ("1024x1024", "1448x1448", "2048x2048", "2896x2896", "4096x4096", "6264x3456", "8192x8192")
HALOS = (0, 16, 32, 48, 64)
WINDOW = 512  # side in pixels


def mirrored(pixels: np.ndarray[Any, Any], height: int, width: int) -> Image:
    """Return a picture continued by its mirror images, or cut off."""
    below, beside = (max(0, want - have) for want, have in zip((height, width), pixels.shape, strict=False))
    filled = np.pad(pixels, ((0, below), (0, beside), (0, 0)), "symmetric")
    return Image(np.ascontiguousarray(filled[:height, :width]))


def run(folder: Path, *arguments: object) -> dict[str, float]:
    """Run refscale in a folder; return its peak memory in MiB and wall-clock seconds."""
    command = ["/usr/bin/time", "-v", sys.executable, "-m", "refscale_codec", *map(str, arguments), "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    peak = re.search(r"Maximum resident set size \(kbytes\): (\d+)", done.stderr)
    clock = re.search(r"Elapsed .*: (?:(\d+):)?(\d+):([\d.]+)\n", done.stderr)
    if peak is None or clock is None:
        raise RuntimeError(f"/usr/bin/time is not GNU time: {done.stderr}")
    hours, minutes, seconds = (float(part or 0) for part in clock.groups())
    return {"peak_mib": round(int(peak[1]) / 1024), "seconds": round(3600 * hours + 60 * minutes + seconds, 2)}


def measured(folder: Path, width: int, height: int, options: list[str]) -> dict[str, Any]:
    """Return the row of one size, for a folder with target.png and reference.png."""
    row: dict[str, Any] = {"width": width, "height": height, "megapixels": round(width * height / 1e6, 2)}
    row["encode"] = run(folder, "encode", "target.png", "--ref", "reference.png", "-o", "coded.rsc", *options)
    row["file_bytes"] = (folder / "coded.rsc").stat().st_size
    decode = ["decode", "coded.rsc", "--ref", "reference.png", *options]
    row["decode"] = run(folder, *decode, "-o", "whole.png")
    if min(width, height) >= 2 * WINDOW:
        top, left = (side // 2 - WINDOW // 2 for side in (height, width))
        box = tiles.Box(top, left, top + WINDOW, left + WINDOW)
        place = f"{box.left},{box.top},{WINDOW},{WINDOW}"
        row["window"] = run(folder, *decode, "--window", place, "-o", "window.png")
        whole, part = (pictures.read(folder / name).pixels for name in ("whole.png", "window.png"))
        row["window"] |= {
            "place": place,
            "exact": bool(np.array_equal(whole[box.slices], part)),
            "times_faster": round(row["decode"]["seconds"] / row["window"]["seconds"], 2),
        }
    return row


def seams(target: Image, reference: Image, folder: Path) -> dict[str, Any]:
    """Return what tiles change, by scale; write the differences, times 8, as pictures."""
    result: dict[str, Any] = {}
    whole = -(-max(target.height, target.width) // tiles.STEP) * tiles.STEP
    beside = near_edges(target.height, target.width)
    for scale in container.SCALES:
        net = model.load(weights_files.shipped(scale))
        row: dict[str, Any] = {}
        decoded = {}
        for name, side in (("tiled", tiles.TILE), ("whole", whole)):
            data = encoder.encode(target, reference, net, encoder.EncodeOptions(tile=side))
            decoded[name] = decoder.decode(data, reference, net, tile=side).pixels
            row[name] = {
                "bytes": len(data),
                "psnr": metrics.psnr(target.pixels, decoded[name]),
                "psnr_at_edges": metrics.psnr(target.pixels[beside][None], decoded[name][beside][None]),
            }
        row["same file"] = apart(decoder.decode(data, reference, net).pixels, decoded["whole"])
        difference = 8 * abs(decoded["tiled"].astype(int) - decoded["whole"])
        pictures.write(Image(difference.clip(0, 255).astype(np.uint8)), folder / f"tiles-x{scale}-difference-8.png")
        low = tiled.downscale(
            target, tiled.map_reference(target, reference, net.rescaler, whole), net.rescaler, 75, whole
        )
        size, warped = (target.height, target.width), tiled.reference_in_place(reference)
        made = reconstruct(low, warped, size, net, 75, tile=whole)
        row["halo"] = {}
        for halo in HALOS:
            with patch.object(type(net.rescaler), "halo", halo):
                mapped = tiled.map_reference(target, reference, net.rescaler)
                away = abs(tiled.downscale(target, mapped, net.rescaler, 75).lr - low.lr)
                row["halo"][halo] = {
                    "low_res_largest": float(away.max()),
                    **apart(reconstruct(low, warped, size, net, 75, tile=tiles.TILE), made),
                }
        result[f"x{scale}"] = row
    return result


def near_edges(height: int, width: int, distance: int = 8) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which pixels [height, width] lie so near an edge between two tiles."""
    near = np.zeros((height, width), bool)
    for own, _ in tiles.grid(height, width, tiles.TILE, 0):
        if own.top:
            near[own.top - distance : own.top + distance] = True
        if own.left:
            near[:, own.left - distance : own.left + distance] = True
    return near


def apart(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return the largest difference of samples in levels, and the share that differs."""
    away = abs(a.astype(int) - b)
    return {"largest": int(away.max()), "share": float((away > 0).mean())}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot seconds and peak memory over megapixels."""
    rows = sorted(rows, key=lambda row: row["megapixels"])
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, what, label in zip(axes, ("seconds", "peak_mib"), ("seconds", "peak memory, MiB"), strict=True):
        for direction in ("encode", "decode", "window"):
            points = [(row["megapixels"], row[direction][what]) for row in rows if direction in row]
            name = f"decode --window of {WINDOW}x{WINDOW}" if direction == "window" else direction
            axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set(xlabel="megapixels", ylabel=label, xlim=0, ylim=0)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=120)


def report(result: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    versions = ", ".join(f"{name} {value}" for name, value in result["versions"].items())
    lines = [
        "# Big scenes",
        "",
        f"By `{result['command']}`: {result['convention']}.",
        "",
        machine + "; " + versions + ".",
    ]
    lines += [
        "",
        "| scene | encode | | decode | | window | | times faster, exact |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = [f"{row['width']}x{row['height']} ({row['megapixels']} MP)"]
        for direction in ("encode", "decode", "window"):
            cost = row.get(direction)
            cells += ["–", "–"] if cost is None else [f"{cost['peak_mib']} MiB", f"{cost['seconds']:.1f} s"]
        window = row.get("window")
        cells.append("–" if window is None else f"{window['times_faster']:.1f}, {'yes' if window['exact'] else 'NO'}")
        lines.append(f"| {' | '.join(cells)} |")
    seams = result["seams"]
    lines += [
        "",
        "![Seconds and memory](scenes.png)",
        "",
        f"What tiles change ({seams['width']}x{seams['height']}):",
        "",
    ]
    lines += [
        "| | PSNR, tiled | whole | at edges, tiled | whole | one file decoded both ways: largest difference, share |"
    ]
    lines += ["|---|---|---|---|---|---|"]
    for scale in container.SCALES:
        row = seams[f"x{scale}"]
        figures = [row[name][what] for what in ("psnr", "psnr_at_edges") for name in ("tiled", "whole")]
        same = row["same file"]
        lines.append(
            f"| x{scale} | {' | '.join(f'{x:.3f}' for x in figures)} | {same['largest']}, {same['share']:.1e} |"
        )
    lines += ["", "| halo, pixels | scale | low-res samples, largest difference | decoded, largest | share |"]
    lines += ["|---|---|---|---|---|"]
    for scale in container.SCALES:
        for halo, away in seams[f"x{scale}"]["halo"].items():
            values = f"{away['low_res_largest']:.1e} | {away['largest']} | {away['share']:.1e}"
            lines.append(f"| {halo} | x{scale} | {values} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write the results file, docs/SCENES.md and its plot."""
    parser = argparse.ArgumentParser(description="Memory and time of big scenes, windows, and what tiles change.")
    parser.add_argument("--size", nargs="*", default=SIZES, metavar="WxH", help="sizes of the scenes in pixels")
    parser.add_argument("--seams", metavar="WxH", default="1280x1024", help="size of the scene that shows what changes")
    parser.add_argument("--pair", type=Path, nargs=2, metavar=("TARGET", "REFERENCE"), help="what the scenes are of")
    parser.add_argument("--options", default="", help="further options of encode and decode, such as '--tile 1024'")
    parser.add_argument("--output", type=Path, default=RESULTS / "scenes.json")
    parser.add_argument("--pictures", type=Path, default=ROOT / "build", help="folder for the difference pictures")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder for SCENES.md and scenes.png")
    args = parser.parse_args()
    pair = args.pair or [ROOT / "examples" / name for name in ("target.png", "reference.png")]
    args.pictures.mkdir(parents=True, exist_ok=True)
    words = [f"--size {' '.join(args.size)}", f"--seams {args.seams}"]
    words += ["--pair TARGET REFERENCE"] * bool(args.pair) + [f"--options '{args.options}'"] * bool(args.options)
    result: dict[str, Any] = {
        "command": f"python benchmarks/scenes.py {' '.join(words)}",
        "convention": "seconds of whole processes, start included; MiB are resident, by GNU time -v",
        "machine": throughput.machine("cpu") | {"threads": os.environ.get("OMP_NUM_THREADS", "one a core")},
        "versions": {
            "refscale": refscale_codec.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "opencv-python-headless")},
        },
        "weights": {
            f"x{scale}": weights_files.fingerprint(weights_files.shipped(scale)).hex() for scale in container.SCALES
        },
        "rows": [],
    }
    for size in args.size:
        width, height = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as name:
            throughput.in_fresh_process(lay_out, Path(name), pair, width, height)
            row = measured(Path(name), width, height, args.options.split())
        print(json.dumps(row), flush=True)
        result["rows"].append(row)
        write(args.output, result)
    width, height = map(int, args.seams.split("x"))
    target, reference = (mirrored(pictures.read(path).pixels, height, width) for path in pair)
    result["seams"] = {"width": width, "height": height} | seams(target, reference, args.pictures)
    print(json.dumps(result["seams"], indent=1))
    write(args.output, result)
    if args.size:
        args.docs.mkdir(parents=True, exist_ok=True)
        draw(result["rows"], args.docs / "scenes.png")
        (args.docs / "SCENES.md").write_text(report(result), encoding="utf-8")


def lay_out(folder: Path, pair: list[Path], width: int, height: int) -> None:
    """Write target.png and reference.png."""
    for path, name in zip(pair, ("target.png", "reference.png"), strict=True):
        pictures.write(mirrored(pictures.read(path).pixels, height, width), folder / name)


if __name__ == "__main__":
    main()
