"""Many pictures in one call: pictures per minute, overhead and memory of local processes, and scheduling on a cluster.

    python benchmarks/batch.py ../shared/data/manifest.csv

**Local processes.** `refscale batch` encodes dev pairs, and `refscale batch-decode` decodes the files, by 1 and by 2
processes of one thread each, on a machine that does nothing else. `seconds` are those of the whole command, with the
imports and the loading of the nets; `busy` the sum of those that the lines tell of, of reading, encoding and so on; so
the overhead is what the processes' time exceeds that by: `processes * seconds / busy - 1`. Memory is the largest
resident set of a process.

**Scheduling.** Tasks that do nothing go through `cluster.run` to a Dask scheduler and its workers, all in this one
process: seconds for each, of the client, the scheduler and the workers together, which a real cluster shares out. Then
a run of `--tasks` pictures on as many workers is simulated: each takes the seconds of one of the pictures above, drawn
at random, and the client hands out one task after another, each with those seconds of scheduling. Its hours are
compared with those of workers that are never idle.

Writes benchmarks/results/batch.json and the tables in docs/ARCHIVES.md.
"""

import argparse
import csv
import heapq
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS as FOLDER
from common import replace_table, write

from refscale_codec import cluster
from refscale_codec.picture.manifest import Pair, read_manifest
from refscale_codec.study import environment

RESULTS = FOLDER / "batch.json"
PROCESSES = (1, 2)

_MEASURED = """
import json, resource, subprocess, sys, time
begun = time.monotonic()
subprocess.run([sys.executable, "-m", "refscale_codec", *sys.argv[1:], "-q"], check=True)
seconds, most = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([seconds, most * (1 if sys.platform == "darwin" else 1024)]))
"""


def measured(output: Path, processes: int, *words: object) -> dict[str, Any]:
    """Run a command that does many pictures; return its seconds, those of each picture, and its memory."""
    line = [*map(str, words), "-o", str(output), "--jobs", str(processes), "--device", "cpu"]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", _MEASURED, *line], env=environ, check=True, stdout=subprocess.PIPE)
    seconds, most = json.loads(done.stdout)
    told = [json.loads(text) for text in (output / "batch.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "command": str(words[0]),
        "processes": processes,
        "pictures": len(told),
        "seconds": round(seconds, 1),
        "megabytes": round(most / 1e6),
        "each": [each["seconds"] for each in told],
    }


def local_rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return a row for each command and number of processes."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
            names = [(str(pair.target.absolute()), str(pair.reference and pair.reference.absolute())) for pair in pairs]
            csv.writer(file).writerows([("target", "reference"), *names])
        index = "--refs", folder / "references.sqlite"
        refs = [str(pair.reference) for pair in pairs]
        subprocess.run(
            [sys.executable, "-m", "refscale_codec", "refs", "add", *refs, *map(str, index), "-q"], check=True
        )
        for processes in PROCESSES:
            rows.append(measured(folder / f"coded{processes}", processes, "batch", folder / "pairs.csv"))
        for processes in PROCESSES:
            rows.append(measured(folder / f"hat{processes}", processes, "batch-decode", folder / "coded1", *index))
    return rows


def nothing(task: object) -> None:
    """Be a task, or what is prepared for it, that takes no time."""


def scheduling_seconds(tasks: int, workers: int) -> float:
    """Return the seconds that the scheduling of a task takes, measured with workers in this process."""
    import distributed

    local = {"n_workers": workers, "threads_per_worker": 1, "processes": False, "dashboard_address": ":0"}
    with distributed.LocalCluster(**local) as there, cluster.connected(there.scheduler_address) as client:
        begun = time.perf_counter()
        with closing(cluster.run(client, nothing, {}, nothing, range(tasks))) as results:
            done = sum(1 for _ in results)
        assert done == tasks
        return (time.perf_counter() - begun) / tasks


def simulated(each: Sequence[float], tasks: int, workers: int, scheduling: float) -> tuple[float, float]:
    """Return the seconds of a run, and those of workers that are never idle.

    Args:
        each: seconds of pictures, of which those of the run are drawn.
        tasks: how many pictures.
        workers: how many there are.
        scheduling: seconds until a task that is next is with a worker; one task after another.
    """
    drawn = np.random.default_rng(0).choice(each, tasks)
    free = [0.0] * workers  # when each worker is
    client = 0.0  # when the client is
    for seconds in drawn:
        client = max(client, heapq.heappop(free)) + scheduling
        heapq.heappush(free, client + float(seconds))
    return max(free), float(drawn.sum()) / workers


def local_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for each row."""
    lines = ["| | processes | pictures a minute | overhead | memory of a process |", "|---|---|---|---|---|"]
    for row in rows:
        rate, over = 60 * row["pictures"] / row["seconds"], row["processes"] * row["seconds"] / sum(row["each"]) - 1
        name = f"`{row['command']}`, {row['pictures']} pictures"
        lines.append(f"| {name} | {row['processes']} | {rate:.1f} | {100 * over:+.1f} % | {row['megabytes']} MB |")
    return lines


def cluster_table(found: dict[str, Any]) -> list[str]:
    """Return a line on the simulated run."""
    return [
        "| pictures | workers | scheduling one | hours | workers never idle |",
        "|---|---|---|---|---|",
        f"| {found['tasks']:,} | {found['workers']} | {1000 * found['scheduling_seconds']:.1f} ms "
        f"| {found['seconds'] / 3600:.2f} | {found['least_seconds'] / 3600:.2f} |",
    ]


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description="Measure batches.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--pictures", type=int, default=200, help="dev pairs to encode and decode")
    parser.add_argument("--tasks", type=int, default=100_000, help="pictures of the run on a cluster")
    parser.add_argument("--workers", type=int, default=100, help="workers of that cluster")
    args = parser.parse_args()
    pairs = [pair for pair in read_manifest(args.manifest, ("dev",)) if pair.reference is not None]
    every = max(1, len(pairs) // args.pictures)
    rows = local_rows(pairs[::every][: args.pictures])
    each, scheduling = rows[0]["each"], scheduling_seconds(args.tasks, args.workers)
    seconds, least = simulated(each, args.tasks, args.workers, scheduling)
    found = {
        "tasks": args.tasks,
        "workers": args.workers,
        "scheduling_seconds": round(scheduling, 6),
        "seconds": round(seconds, 1),
        "least_seconds": round(least, 1),
    }
    head = {
        "command": f"python benchmarks/batch.py manifest.csv --pictures {args.pictures} --tasks {args.tasks}",
        "versions": environment.versions(),
        "machine": environment.machine(max(PROCESSES), 1),
    }
    write(RESULTS, {**head, "rows": rows, "cluster": found})
    tables = [*local_table(rows), "", *cluster_table(found)]
    replace_table("docs/ARCHIVES.md", "benchmarks/batch.py", tables)
    print("\n".join(tables))


if __name__ == "__main__":
    main()
