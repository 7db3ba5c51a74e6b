"""Seconds per megapixel and peak memory of encode and decode, with the weights that ship.

The pictures are the drawn example pair, repeated to the size asked for. Each measurement has a process of its own, so
that the peak of its resident memory is its own. A first run is not timed: it warms up, and the peak is that of this
run. Then come `--repeat` timed ones, which on the CPU must give the same bytes. As in the command, freed buffers are
kept (`cli.process`). A stage ends when the device has finished:

    load     weights, from their file onto the device
    read     pictures, or the `.rsc` and its reference
    align    encode only: where the reference lies
    choose   encode only: whether and how the reference is used; on a sample, so the same for all but small pictures
    net      down or up, with the copies to and from the device; decode: moving the reference, too
    entropy  the low-res JPEG and the similarity map; fingerprints
    write    container, or PNG; the file, until it is on the disk
"""

import argparse
import os
import platform
import re
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from common import RESULTS, ROOT, replace_table, write
from rich.console import Console
from rich.table import Table

import refscale_codec
from refscale_codec import model, weights_files
from refscale_codec.cli import process
from refscale_codec.codec import decoder, encoder
from refscale_codec.fileformat import container
from refscale_codec.picture import files
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures

STAGES = ("load", "read", "align", "choose", "net", "entropy", "write")
QUALITY = 75


class Job(NamedTuple):
    """One measurement, as a fresh process has to know it."""

    direction: str  # "encode", or "decode", which needs what encode has written
    scale: int  # 2 or 4
    size: int  # side of the square picture, in pixels
    repeat: int  # number of timed runs
    threads: int  # of torch on the CPU
    device: str  # "cpu" or "cuda"


def clock_of(threads: int, device: str) -> Callable[[], float]:
    """Return what seconds are read from: processor time on one thread of the CPU, so that others do not count."""
    return time.process_time if (threads, device) == (1, "cpu") else time.perf_counter


def timed(job: Job, folder: Path) -> tuple[bytes, dict[str, float]]:
    """Encode or decode as a caller of the library does; return the file's bytes and the seconds of each stage."""
    seconds: dict[str, float] = {}
    clock = clock_of(job.threads, job.device)
    start = clock()

    def on_stage(stage: str) -> None:
        if job.device == "cuda":
            torch.cuda.synchronize()
        seconds[stage] = seconds.get(stage, 0.0) + clock() - start - sum(seconds.values())

    net = model.load(weights_files.shipped(job.scale), job.device)
    on_stage("load")
    reference = pictures.read(folder / "reference.png")
    if job.direction == "encode":
        target = pictures.read(folder / "target.png")
        on_stage("read")
        data = encoder.encode(target, reference, net, encoder.EncodeOptions(QUALITY), on_stage=on_stage)
        files.write_atomically(folder / "coded.rsc", data)
    else:
        coded = (folder / "coded.rsc").read_bytes()
        on_stage("read")
        data = pictures.to_bytes(decoder.decode(coded, reference, net, on_stage=on_stage), "png")
        files.write_atomically(folder / "decoded.png", data)
    on_stage("write")
    return data, {stage: seconds.get(stage, 0.0) for stage in STAGES}


def measure(job: Job, folder: Path) -> dict[str, Any]:
    """Return a row of the results, measured in a fresh process and a folder with target.png and reference.png."""
    torch.set_num_threads(job.threads)
    process.keep_freed_memory()
    memory = {"start_mib": peak_mib()}
    expected, _ = timed(job, folder)
    memory["peak_mib"] = peak_mib()
    if job.device == "cuda":
        memory["device_mib"] = torch.cuda.max_memory_allocated() / 2**20
    runs = []
    for _ in range(job.repeat):
        data, seconds = timed(job, folder)
        runs.append(seconds)
        if data != expected and job.device == "cpu":  # rounding on an accelerator is not repeatable
            raise RuntimeError(f"{job.direction} gives another result the second time")
    seconds = {stage: median(run[stage] for run in runs) for stage in STAGES}
    total = median(sum(run.values()) - run["load"] for run in runs)
    return {
        **job._asdict(),
        "weights": weights_files.fingerprint(weights_files.shipped(job.scale)).hex(),
        "file_bytes": (folder / "coded.rsc").stat().st_size,
        "seconds": seconds,
        "seconds_per_megapixel": {"total": 1e6 * total / job.size**2, "net": 1e6 * seconds["net"] / job.size**2},
        **memory,
        "runs": runs,
    }


def peak_mib() -> float:
    """Return the peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)


def repeat_pair(folder: Path, size: int) -> None:
    """Write target.png and reference.png: the example pair, repeated and cropped to a square of `size` pixels."""
    for name in ("target.png", "reference.png"):
        rows = pictures.read(ROOT / "examples" / name).pixels.take(range(size), 0, mode="wrap")
        pictures.write(Image(rows.take(range(size), 1, mode="wrap")), folder / name)


def in_fresh_process(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function in a new process. On Linux that inherits the peak memory of this one, so nothing is held here."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def machine(device: str) -> dict[str, Any]:
    """Return what the figures depend on, and nothing that identifies the machine."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return {
        "system": platform.system(),
        "processor": named[1] if named else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "accelerator": in_fresh_process(torch.cuda.get_device_name) if device == "cuda" else None,
        "load_before": round(os.getloadavg()[0], 2),  # mean of the last minute; near 0 on a quiet machine
    }


def page(result: dict[str, Any]) -> list[str]:
    """Return the table of docs/SPEED.md, and what it was measured with."""
    shown = [stage for stage in STAGES if stage != "load"]
    lines = [f"| | {' | '.join(shown)} | s/MP | peak MiB |", "|---" * (len(shown) + 3) + "|"]
    for row in result["rows"]:
        cells = [f"{row['seconds'][stage]:.2f}" for stage in shown]
        cells += [f"{row['seconds_per_megapixel']['total']:.1f}", f"{row['peak_mib']:.0f}"]
        lines.append(f"| {row['direction']} x{row['scale']}, {row['size']}² | {' | '.join(cells)} |")
    told = [f"{name} {value}" for part in ("machine", "versions") for name, value in result[part].items() if value]
    return [*lines, "", f"{', '.join(told)}."]


def main() -> None:
    """Measure, print a table, write the results file."""
    parser = argparse.ArgumentParser(description="Seconds per megapixel and peak memory of encode and decode.")
    parser.add_argument("--size", type=int, nargs="+", default=[1024, 2048], help="sides of the square pictures")
    parser.add_argument("--repeat", type=int, default=5, help="timed runs, of which the median counts")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: one a core")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--output", type=Path, default=RESULTS / "throughput.json")
    args = parser.parse_args()
    scales = [s for s in container.SCALES if (weights_files.shipped(2).parent / f"refscale-x{s}.safetensors").is_file()]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    words = f"--repeat {args.repeat} --threads {args.threads} --device {args.device}"
    versions = {name: version(name) for name in ("torch", "numpy", "pillow")}
    result: dict[str, Any] = {
        "command": f"python benchmarks/throughput.py --size {' '.join(map(str, args.size))} {words}",
        "convention": "medians of warm runs, processor time with one thread; "
        "a megapixel is 10**6 high-res pixels, load not counted; MiB are resident",
        "machine": machine(args.device),
        "versions": {"refscale": refscale_codec.__version__, "python": platform.python_version(), **versions},
        "rows": [],
    }
    table = Table("", *STAGES, "s/MP", "net/MP", "MiB", box=None, title="seconds, seconds per megapixel, peak memory")
    for size in args.size:
        with tempfile.TemporaryDirectory() as name, Console(stderr=True).status(f"{size} x {size}"):
            in_fresh_process(repeat_pair, Path(name), size)
            for scale, direction in product(scales, ("encode", "decode")):
                job = Job(direction, scale, size, args.repeat, args.threads, args.device)
                row = in_fresh_process(measure, job, Path(name))
                result["rows"].append(row)
                cells = (f"{x:.3f}" for x in (*row["seconds"].values(), *row["seconds_per_megapixel"].values()))
                table.add_row(f"{direction} x{scale} {size}", *cells, f"{row['peak_mib']:.0f}")
    Console().print(table)
    write(args.output, result)
    if args.output == RESULTS / "throughput.json":
        replace_table("docs/SPEED.md", "benchmarks/throughput.py", page(result))


if __name__ == "__main__":
    main()
