"""Choosing a reference from an index: what it costs, how often it is the best one, and what descriptors find.

    python benchmarks/refs.py ../shared/data/manifest.csv            # goes on where it was
    python benchmarks/refs.py ../shared/data/manifest.csv --every 8

**The choice.** The middle of every n-th dev pair, and an index of 20 candidates: its older picture; the same in five
conditions that make it worse, each in its own way (shifted, under a cloud, hazy, darkened and blurred, of half the
resolution); and 14 older pictures of other places of the dataset. All candidates that show the place, and one that does
not, are encoded against at the default quality. Reported is how often the smallest file is that of the first candidate
that the index finds, or among the first two or three, and how many bits more than the smallest that of the first
takes.

**The cost.** Processor seconds of finding, with reading the 20 candidates, and of encoding without reference.

**The descriptors.** Each second picture of the datasets is looked for among the older pictures of all of them, as it
is and with a tenth of its sides cut off: how often one of its place is the first, and its own among the first 20.

**The index.** Processor milliseconds of adding a picture and of adding it again, of 100 older pictures; and of a search
among the rows of 100,000 made-up pictures, half of them with a place, by place and by looks, before the 20 candidates
are read; and its megabytes.

Writes benchmarks/results/refs.json and the tables in docs/ARCHIVES.md.
"""

import argparse
import platform
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import RESULTS as FOLDER
from common import kept, middle, replace_table, write

from refscale_codec import model, weights_files
from refscale_codec.archive import descriptor, search
from refscale_codec.archive.description import Description
from refscale_codec.archive.footprint import Footprint
from refscale_codec.archive.references import References
from refscale_codec.archive.search import CANDIDATES
from refscale_codec.archive.store import Store
from refscale_codec.codec import encoder
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import Pair, read_manifest

RESULTS = FOLDER / "refs.json"
ROWS = 100_000
SIDE = 160  # of the middle, in pixels
FIELDS = ("dataset", "name", "found", "sizes", "alone", "find_seconds", "encode_seconds")  # of a row


def shifted(pixels: Image) -> Image:
    """Return a picture shifted by 6 and 4 pixels."""
    return Image(np.roll(pixels.pixels, (6, 4), (0, 1)))


def clouded(picture: Image) -> Image:
    """Return a picture with a white cloud over about a third of it."""
    y, x = np.mgrid[: picture.height, : picture.width]
    far = np.hypot(y / picture.height - 0.4, x / picture.width - 0.4)
    cloud = np.clip((0.4 - far) * 10, 0, 1)[..., None]
    return Image((picture.pixels * (1 - cloud) + 240 * cloud).astype(np.uint8))


def hazy(picture: Image) -> Image:
    """Return a picture of a third of its contrast, and noisy."""
    noise = np.random.default_rng(0).normal(0, 4, picture.pixels.shape)
    return Image(np.clip(picture.pixels / 3 + 120 + noise, 0, 255).astype(np.uint8))


def dark(picture: Image) -> Image:
    """Return a picture darkened and blurred."""
    return Image((cv2.GaussianBlur(picture.pixels, (0, 0), 1.2) * 0.5).astype(np.uint8))


def coarse(picture: Image) -> Image:
    """Return a picture of half the resolution."""
    return Image(cv2.resize(picture.pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))


CONDITIONS: dict[str, Callable[[Image], Image]] = {
    "older": lambda picture: picture,
    "shifted": shifted,
    "clouded": clouded,
    "hazy": hazy,
    "dark": dark,
    "coarse": coarse,
}


def seconds(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns, and its processor seconds."""
    begun = time.process_time()
    return work(), time.process_time() - begun


def chosen(pair: Pair, others: list[Path], net: Model) -> dict[str, Any]:
    """Return the order in which an index finds 20 candidates, their sizes when coded, and seconds."""
    assert pair.reference is not None
    target, older = (middle(pictures.read_rgb(path), SIDE) for path in (pair.target, pair.reference))
    options = encoder.EncodeOptions()
    with tempfile.TemporaryDirectory() as folder, References(Path(folder) / "index", create=True) as index:
        candidates = {name: make(older) for name, make in CONDITIONS.items()}
        for path in others[: CANDIDATES - len(candidates)]:
            candidates[path.stem] = middle(pictures.read_rgb(path), SIDE)
        for name, candidate in candidates.items():
            path = Path(folder) / f"{name}.png"
            pictures.write(candidate, path)
            index.add(path)
        index.find(target)  # to warm up
        found, find_seconds = seconds(lambda: index.find(target, CANDIDATES))
    coded = [*CONDITIONS, others[0].stem]
    sizes = {name: len(encoder.encode(target, candidates[name], net, options)) for name in coded}
    alone, encode_seconds = seconds(lambda: encoder.encode(target, None, net, options))
    return {
        "found": [[candidate.entry.path.stem, round(candidate.gain, 4)] for candidate in found],
        "sizes": sizes,
        "alone": len(alone),
        "find_seconds": round(find_seconds, 3),
        "encode_seconds": round(encode_seconds, 3),
    }


def choice_table(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each dataset."""
    lines = [
        "| dev pairs | best is first | in 2 | in 3 | first, bits over the best | no reference | finding, CPU s "
        "| encoding alone, CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups = defaultdict(list)
    for row in rows:
        groups[row["dataset"]].append(row)
    for name, group in [*groups.items(), ("all", rows)]:
        within, over, alone = Counter[int](), [], []
        for row in group:
            sizes, order = row["sizes"], [found for found, _ in row["found"]]
            best = min(sizes, key=sizes.__getitem__)
            for first in (1, 2, 3):
                within[first] += any(sizes.get(found) == sizes[best] for found in order[:first])
            over.append(100 * sizes.get(order[0], row["alone"]) / sizes[best] - 100 if order else 0.0)
            alone.append(100 * row["alone"] / sizes[best] - 100)
        finding, encoding = (float(np.mean([row[key] for row in group])) for key in ("find_seconds", "encode_seconds"))
        lines.append(
            f"| {name} ({len(group)}) | {within[1]} | {within[2]} | {within[3]} | {np.mean(over):+.1f} % "
            f"| {np.mean(alone):+.1f} % | {finding:.2f} | {encoding:.2f} |"
        )
    return lines


def indexed(paths: list[Path]) -> dict[str, float]:
    """Return what an index costs: milliseconds of adding a picture, and of a search among many, and megabytes."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "index"
        with References(where, create=True) as index:
            for name in ("add_ms", "again_ms"):
                _, total = seconds(lambda: [index.add(path) for path in paths])
                found[name] = round(1000 * total / len(paths), 2)
        store, rng = Store(where), np.random.default_rng(0)
        with store.writing():
            for at in range(ROWS):
                west, south = rng.uniform(-180, 180), rng.uniform(-60, 70)
                corners = tuple((west + x, south + y) for x, y in ((0, 0.1), (0.1, 0.1), (0.1, 0), (0, 0)))
                place = Footprint(corners, west, south, west + 0.1, south + 0.1) if at % 2 else None
                looks = rng.integers(-100, 100, descriptor.SIZE).astype(np.int8).tobytes()
                made = Description(rng.bytes(6), 256, 256, 3, "uint8", place, "2020-05-03", None, 0.0, None, looks)
                values = b"%d" % at, 1, 1, *search.columns(made)
                store.do(f"INSERT INTO picture VALUES ({', '.join('?' * len(values))})", values)
        for name, where_it_is in (("by_place_ms", place), ("by_looks_ms", None)):
            wanted = made._replace(fingerprint=bytes(6), footprint=where_it_is)
            search.shortlist(store, wanted)  # to warm up
            found[name] = round(1000 * seconds(partial(search.shortlist, store, wanted))[1], 1)
        store.close()
        found["megabytes"] = round(where.stat().st_size / 1e6, 1)
    return found


def index_table(found: dict[str, float]) -> list[str]:
    """Return a line on the index."""
    return [
        f"| adding a picture, CPU ms | again | searching {ROWS:,} by place | by looks | size of the index |",
        "|---|---|---|---|---|",
        f"| {found['add_ms']} | {found['again_ms']} | {found['by_place_ms']} | {found['by_looks_ms']} "
        f"| {found['megabytes']} MB |",
    ]


def cut(picture: Image) -> Image:
    """Return a picture without a tenth of its sides."""
    y, x = picture.height // 20, picture.width // 20
    return Image(np.ascontiguousarray(picture.pixels[y : picture.height - y, x : picture.width - x]))


def place(pair: Pair) -> str:
    """Return the name of a pair's place: NAIP has some at two pairs of dates."""
    return re.sub(r"_20\d\d$", "", pair.name)


def described(pairs: list[Pair]) -> list[dict[str, Any]]:
    """Return for each pair how many older pictures of other places are more alike than its own."""

    def of(picture: Image) -> bytes:
        return descriptor.of_preview(descriptor.preview(picture))

    older = [of(pictures.read_rgb(pair.reference)) for pair in pairs if pair.reference is not None]
    rows = []
    for at, pair in enumerate(pairs):
        target = pictures.read_rgb(pair.target)
        same = {other for other, known in enumerate(pairs) if place(known) == place(pair)}
        row: dict[str, Any] = {"dataset": pair.dataset, "name": pair.name}
        for key, picture in (("whole", target), ("cut", cut(target))):
            alike = descriptor.similarities(of(picture), older)
            row[key] = sum(other not in same for other in np.flatnonzero(alike > alike[at]))
            row[f"{key}_alike"] = round(float(alike[at]), 3)
        rows.append(row)
    return rows


def descriptor_table(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each dataset."""
    lines = [
        f"| pictures, among {len(rows)} | first | in 20 | cut: first | cut: in 20 |",
        "|---|---|---|---|---|",
    ]
    groups = defaultdict(list)
    for row in rows:
        groups[row["dataset"]].append(row)
    for name, group in [*sorted(groups.items()), ("all", rows)]:
        shares = [
            f"{100 * np.mean([row[key] < first for row in group]):.0f} %"
            for key in ("whole", "cut")
            for first in (1, 20)
        ]
        lines.append(f"| {name} ({len(group)}) | {' | '.join(shares)} |")
    return lines


def main() -> None:
    """Measure what is missing; write results and tables after each pair."""
    parser = argparse.ArgumentParser(description="Measure the choice of references.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every n-th dev pair")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    net = model.load(weights_files.shipped(2))
    weights = net.fingerprint.hex()
    before = kept(RESULTS, FIELDS, weights=weights)
    rows, looks = before.get("rows", []), before.get("descriptors", [])
    pairs = [pair for pair in read_manifest(args.manifest) if pair.reference is not None]
    looks = looks or described(pairs)
    costs = before.get("index") or indexed([pair.reference for pair in pairs if pair.reference is not None][:100])
    dev = [pair for pair in read_manifest(args.manifest, ("dev",)) if pair.reference is not None]
    for pair in [None, *dev[:: args.every]]:
        if any(pair and (row["dataset"], row["name"]) == (pair.dataset, pair.name) for row in rows):
            continue
        if pair is not None:
            others = [
                other.reference
                for other in pairs
                if other.dataset == pair.dataset and other.reference not in (None, pair.reference)
            ]
            rows.append({"dataset": pair.dataset, "name": pair.name} | chosen(pair, others, net))
            print(pair.dataset, pair.name, rows[-1]["sizes"], rows[-1]["found"][:3], flush=True)
        head = {
            "command": "python benchmarks/refs.py manifest.csv",
            "machine": platform.machine(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "weights": weights,
        }
        write(RESULTS, {**head, "rows": rows, "index": costs, "descriptors": looks})
        tables = [*(choice_table(rows) if rows else []), "", *descriptor_table(looks), "", *index_table(costs)]
        replace_table("docs/ARCHIVES.md", "benchmarks/refs.py", tables)


if __name__ == "__main__":
    main()
