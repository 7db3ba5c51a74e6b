"""Lossless files and bounds on the error: bytes against those of other codecs, rates above 1 bit per pixel, and time.

    python benchmarks/lossless.py ../shared/data/manifest.csv ../shared/data/naip_rgbn.csv --splits dev --every 6
    python benchmarks/lossless.py --splits    # only writes the tables again

The middle of each picture, its bands as the manifest has them, is encoded

- without loss, with its reference and without, and by JPEG XL, WebP and JPEG 2000,
- with a bound of 2 levels, and by JPEG-LS with the same,
- in red, green and blue with further bounds, and by x265 after the reference, for the BD-rate.

Every file of a bound is decoded and compared. Pictures of four bands are one file in every format, with infrared in the
place of alpha; WebP keeps it, JPEG-LS is not measured on them. Rows are kept, so it can be stopped and started again.

Writes benchmarks/results/lossless-SPLIT.json and the tables of docs/RESULTS.md. It needs `pip install pillow-jxl-plugin
imagecodecs` and the extra rd.
"""

import argparse
import importlib
import io
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from common import RESULTS, Point, bd_rate, kept, middle, replace_table, write
from numpy.typing import NDArray

from refscale_codec import model, weights_files
from refscale_codec.codec import bounded, decoder
from refscale_codec.codec.encoder import EncodeOptions
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import Pair, read_manifest
from refscale_codec.study import environment, metrics
from refscale_codec.study.coders.baselines import BASELINES
from refscale_codec.study.results import ALL, BEST

NEEDED = {"pillow_jxl": "pillow-jxl-plugin", "imagecodecs": "imagecodecs", "av": "av", "bjontegaard": "bjontegaard"}
SIDE = 256  # of the middle, in pixels
NEAR = 2  # the bound against JPEG-LS, in levels
BOUNDS = (0, 1, 2, 3, 4, 6, 9)  # 0 is lossless; up to what reaches 2 bits per pixel
QPS = (2, 6, 10, 14, 18, 22, 27)  # of x265, for as many
RANGES = ((2.0, 6.0), (1.0, 2.0))  # of the BD-rates, in bits per pixel
OURS, ALONE, JPEG_LS = "refscale", "refscale-alone", "jpeg-ls"
LOSSLESS = ("jxl", "webp", "jpeg2000")
FIELDS = ("dataset", "name", "bands", "coder", "setting", "bytes", "pixels", "psnr", "encode", "decode")  # of a row
CONVENTION = (
    f"middle {SIDE} x {SIDE} pixels, no metadata; whole files, of x265 the packet after the reference; percentages of "
    "bytes and BD-rates picture by picture, then the mean; PSNR over all bands; CPU seconds of one thread"
)

Pixels = NDArray[np.uint8]
Row = dict[str, Any]


class Coder(NamedTuple):
    """A way to code pictures with a bound on the error."""

    encode: Callable[[Pixels], bytes]
    decode: Callable[[bytes], Pixels]


def require() -> None:
    """Exit with a message unless all that is compared with is installed."""
    missing = []
    for module, package in NEEDED.items():
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(package)
    if missing:
        raise SystemExit(f"lossless.py needs what is not installed here: pip install {' '.join(missing)}")


def _pillow(format_: str, **options: Any) -> Coder:
    def encode(pixels: Pixels) -> bytes:
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels).save(buffer, format_, **options)
        return buffer.getvalue()

    return Coder(encode, lambda data: np.array(PIL.Image.open(io.BytesIO(data), formats=[format_])))


def _jpegls(near: int) -> Coder:
    codecs = importlib.import_module("imagecodecs")
    return Coder(lambda pixels: bytes(codecs.jpegls_encode(pixels, level=near)), codecs.jpegls_decode)


def _refscale(bound: int, reference: Image | None, net: Model) -> Coder:
    return Coder(
        lambda pixels: bounded.encode(Image(pixels), reference, net, bound, EncodeOptions()).data,
        lambda data: decoder.decode(data, reference, net).pixels,
    )


def lossless_peers() -> dict[str, Coder]:
    """Return the formats that lossless files are compared with, each at its smallest."""
    return {
        "jxl": _pillow("JXL", lossless=True, effort=9, num_threads=1),
        "webp": _pillow("WEBP", lossless=True, quality=100, method=6, exact=True),
        "jpeg2000": _pillow("JPEG2000", irreversible=False, no_jp2=True, mct=1),  # Pillow's own default is no mct
    }


def through(coder: Coder, target: Image, bound: int, what: str) -> Row:
    """Return size, PSNR and times of a picture coded and decoded; SystemExit if a sample is off by more than a bound.

    Args:
        coder: the coder.
        target: the picture.
        bound: in levels.
        what: the coder and picture, for the message.
    """
    begun = time.process_time()
    data = coder.encode(target.pixels)
    encoded = time.process_time()
    decoded = coder.decode(data)
    seconds = {"encode": encoded - begun, "decode": time.process_time() - encoded}
    if decoded.shape != target.pixels.shape:
        raise SystemExit(f"{what}: {decoded.shape} is decoded of {target.pixels.shape}")
    off = np.abs(decoded.astype(int) - target.pixels)
    if off.max() > bound:
        raise SystemExit(f"{what}: a sample is off by {off.max()}, the bound is {bound}")
    psnr = 10 * math.log10(255**2 / np.square(off).mean()) if off.any() else None
    return {"setting": bound, "bytes": len(data), "psnr": psnr} | seconds


def measured(target: Image, reference: Image | None, net: Model, what: str) -> list[Row]:
    """Return what each coder does to a picture, of three bands or more; `what` is the picture, for messages."""
    runs = [(ALONE, 0, _refscale(0, None, net))]
    runs += [(name, 0, peer) for name, peer in lossless_peers().items()]
    if target.bands == 3:
        runs += [(ALONE, NEAR, _refscale(NEAR, None, net)), (JPEG_LS, NEAR, _jpegls(NEAR))]
    if reference is not None:
        bounds = BOUNDS if target.bands == 3 else (0,)
        runs += [(OURS, bound, _refscale(bound, reference, net)) for bound in bounds]
    rows: list[Row] = [
        {"coder": name} | through(coder, target, bound, f"{name}, {what}") for name, bound, coder in runs
    ]
    if target.bands == 3 and reference is not None:
        x265 = next(coder for coder in BASELINES if coder.name == BEST)
        for qp, coded in zip(QPS, x265.code(target, reference, [51 - qp for qp in QPS]), strict=True):
            psnr = metrics.psnr(target.pixels, coded.decoded)
            rows.append({"coder": BEST, "setting": qp, "bytes": coded.bytes_total, "psnr": psnr})
            rows[-1] |= {"encode": None, "decode": None}  # what it tells is wall-clock
    return rows


def chosen(manifest: Path, split: str, every: int) -> list[Pair]:
    """Return the first pair of every dataset and each n-th after it."""
    of_dataset: dict[str, list[Pair]] = defaultdict(list)
    for pair in read_manifest(manifest, (split,)):
        of_dataset[pair.dataset].append(pair)
    return [pair for pairs in of_dataset.values() for pair in pairs[::every]]


@dataclass(frozen=True)
class Picture:
    """The rows of a picture, compared."""

    rows: list[Row]

    def size(self, coder: str, bound: int = 0) -> float:
        """Return the bytes of a file; NaN where there is none."""
        found = (row["bytes"] for row in self.rows if (row["coder"], row["setting"]) == (coder, bound))
        return float(next(found, math.nan))

    def against(self, peers: Iterable[str], bound: int = 0, coder: str = OURS) -> float:
        """Return what a coder takes more than the smallest of others, in percent; NaN where one is missing."""
        return 100 * (self.size(coder, bound) / min(self.size(peer, bound) for peer in peers) - 1)

    def bd(self, between: tuple[float, float]) -> float:
        """Return the BD-rate in percent against x265 after the reference; NaN where there is none."""
        curves: dict[str, list[Point]] = {BEST: [], OURS: []}
        for row in self.rows:
            if row["coder"] in curves:
                psnr = math.inf if row["psnr"] is None else row["psnr"]
                curves[row["coder"]].append((8 * row["bytes"] / row["pixels"], psnr))
        return bd_rate(curves[BEST], curves[OURS], between).percent if all(curves.values()) else math.nan


COMPARISONS: dict[str, Callable[[Picture], float]] = {
    "lossless, against the smallest": partial(Picture.against, peers=LOSSLESS),
    **{f"against {peer}": partial(Picture.against, peers=(peer,)) for peer in LOSSLESS},
    "alone, against the smallest": partial(Picture.against, peers=LOSSLESS, coder=ALONE),
    f"bound {NEAR}, against {JPEG_LS}": partial(Picture.against, peers=(JPEG_LS,), bound=NEAR),
    f"bound {NEAR}, alone, against {JPEG_LS}": partial(Picture.against, peers=(JPEG_LS,), bound=NEAR, coder=ALONE),
    **{
        f"BD-rate against {BEST}, {low:g} to {high:g} bpp": partial(Picture.bd, between=(low, high))
        for low, high in RANGES
    },
}
"""Percentages of a picture, by head of a column."""


def by_dataset(rows: list[Row]) -> dict[str, list[Picture]]:
    """Return the pictures of each dataset, and of all with as many bands."""
    of_picture: dict[tuple[int, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        of_picture[row["bands"], row["dataset"], row["name"]].append(row)
    found: dict[str, list[Picture]] = defaultdict(list)
    for (bands, dataset, _), of in sorted(of_picture.items()):
        found[f"{dataset}, {bands} bands"].append(Picture(of))
    for count in sorted({bands for bands, *_ in of_picture}):
        found[f"{ALL}, {count} bands"] = [Picture(of) for (bands, *_), of in of_picture.items() if bands == count]
    return found


def mean(values: Iterable[float], form: str = "+.1f") -> str:
    """Return the mean of what is a number, as a cell, with how many these are if not all."""
    given = list(values)
    finite = [value for value in given if math.isfinite(value)]
    return f"{np.mean(finite):{form}}" + (f" ({len(finite)})" if len(finite) < len(given) else "") if finite else "–"


def bits(of: list[Picture], coder: str) -> str:
    """Return the mean bits per pixel of lossless files, as a cell."""
    return mean((8 * one.size(coder) / one.rows[0]["pixels"] for one in of), ".2f")


def sizes(rows: list[Row]) -> list[str]:
    """Return the table of bytes, a line a dataset, means over its pictures; and where refscale takes more."""
    heads = ["pictures", "bits per pixel, lossless", "alone", *COMPARISONS]
    lines, worse = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"], []
    for name, of in by_dataset(rows).items():
        cells = [f"{name} ({len(of)})", *(bits(of, coder) for coder in (OURS, ALONE))]
        found = {head: mean(map(compared, of)) for head, compared in COMPARISONS.items()}
        lines.append(f"| {' | '.join([*cells, *found.values()])} |")
        worse += [f"- {name}: {head}: {cell}" for head, cell in found.items() if cell.startswith("+")]
    return [*lines, "", "Where refscale takes more bytes, in %:", "", *(worse or ["- nowhere"])]


def seconds(rows: list[Row]) -> list[str]:
    """Return the table of CPU seconds per megapixel, a line for each coder and bound, over all pictures of 3 bands."""
    lines = ["| coder | bound | encode | decode |", "|---" * 4 + "|"]
    groups: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        if row["bands"] == 3 and row["encode"] is not None:
            groups[row["coder"], row["setting"]].append(row)
    for (coder, bound), of in groups.items():
        million = sum(row["pixels"] for row in of) / 1e6
        times = (f"{sum(row[way] for row in of) / million:.2f}" for way in ("encode", "decode"))
        lines.append(f"| {coder} | {bound} | {' | '.join(times)} |")
    return lines


def section(results: dict[str, dict[str, Any]]) -> list[str]:
    """Return what stands in docs/RESULTS.md, of each split."""
    lines = []
    for split, result in results.items():
        versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
        machine = ", ".join(str(value) for value in result["machine"].values())
        lines += [f"### Lossless and bounded, {split}", "", "In %, negative saves bytes.", ""]
        lines += [*sizes(result["rows"]), "", "CPU seconds per megapixel:", "", *seconds(result["rows"]), ""]
        lines += [f"Convention: {result['convention']}.", "", f"`{result['command']}`; {versions}; {machine}.", ""]
    return lines[:-1]


def measured_splits() -> dict[str, dict[str, Any]]:
    """Return the results files by split."""
    paths = {path.stem.partition("-")[2]: path for path in sorted(RESULTS.glob("lossless-*.json"))}
    return {split: json.loads(path.read_text(encoding="utf-8")) for split, path in paths.items()}


def main() -> None:
    """Measure what is missing, write the results and the tables."""
    parser = argparse.ArgumentParser(description="Measure lossless files and bounds on the error.")
    parser.add_argument("manifest", type=Path, nargs="*")
    parser.add_argument("--splits", nargs="*", default=["dev", "test"], help="none only writes the tables")
    parser.add_argument("--every", type=int, default=1, help="only each n-th picture of a dataset")
    args = parser.parse_args()
    require()
    torch.set_num_threads(1)
    net = model.load(weights_files.shipped(1, "predictive"))
    versions = environment.versions() | {"imagecodecs": version("imagecodecs"), "weights": net.fingerprint.hex()}
    named = " ".join(manifest.name for manifest in args.manifest)
    for split in args.splits:
        path = RESULTS / f"lossless-{split}.json"
        rows = kept(path, FIELDS, versions=versions, convention=CONVENTION).get("rows", [])
        command = f"python benchmarks/lossless.py {named} --splits {split} --every {args.every}"
        result = {"command": command, "machine": environment.machine(1, 1), "versions": versions}
        result |= {"convention": CONVENTION, "rows": rows}
        done = {(row["bands"], row["dataset"], row["name"]) for row in rows}
        for pair in (pair for manifest in args.manifest for pair in chosen(manifest, split, args.every)):
            target = middle(pictures.read(pair.target), SIDE)
            if (target.bands, pair.dataset, pair.name) in done:
                continue
            reference = None if pair.reference is None else middle(pictures.read(pair.reference), SIDE)
            head = {"dataset": pair.dataset, "name": pair.name, "bands": target.bands}
            found = measured(target, reference, net, pair.name)
            rows += [head | {"pixels": target.height * target.width} | row for row in found]
            print(split, pair.dataset, pair.name, *sizes(rows[-len(found) :])[2:3], flush=True)
            write(path, result)
    replace_table("docs/RESULTS.md", "benchmarks/lossless.py", section(measured_splits()))


if __name__ == "__main__":
    main()
