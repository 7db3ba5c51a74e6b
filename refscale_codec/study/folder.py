"""The folder of the results of `rd-curve`, before anything is measured."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from refscale_codec import journal
from refscale_codec.errors import UsageError
from refscale_codec.study import plot
from refscale_codec.study.curves import Metric


def require_own(folder: Path, metrics: Iterable[Metric]) -> None:
    """Raise UsageError if a file that `output.write` writes is in a folder, and no earlier run has written it."""
    if any({"key", "coder"} <= row.keys() for row in journal.read(folder / "rows.jsonl")):
        return
    with suppress(OSError, ValueError, RecursionError):
        if {"convention", "rows"} <= set(json.loads((folder / "results.json").read_bytes())):
            return
    plots = [
        plot.file_name(metric, kind, log=log) for metric in metrics for kind in ("png", "svg") for log in (False, True)
    ]
    for path in (folder / name for name in ("rows.jsonl", "results.json", "summary.csv", "report.html", *plots)):
        if path.exists() and path.stat().st_size:
            raise UsageError(f"{path} exists, and no earlier run has written it: name another folder with -o")
