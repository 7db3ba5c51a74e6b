"""Doing what is to be done: each item's file and line, by whatever processes there are."""

import hashlib
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from refscale_codec import __version__, journal, workers
from refscale_codec.archive.references import References
from refscale_codec.batch.tasks import DONE, JOURNAL, Job, Task, told
from refscale_codec.errors import OutputError, ReferenceMismatch, printable, writing
from refscale_codec.picture import files

Line = dict[str, Any]
Made = tuple[Line, bytes]
Results = Generator[tuple[Task, Made | None], None, None]
Processes = Callable[[Callable[[Task], Made], Sequence[Task]], Results]
"""Yields each task with what a function makes of it, in other processes: `workers.run` or `cluster.run` in part."""


def run(
    tasks: list[Task],
    job: Job,
    folder: Path,
    *,
    processes: Processes,
    explain: Callable[[Exception], str],
    index: References | None = None,
) -> Generator[Line, None, None]:
    """Do what is to be done, and yield the line of each item when it is in the journal.

    At the end the journal has one line for each item, the last one, in the order of the tasks and behind those of
    items that are no longer among them.

    Args:
        tasks: from `plan`.
        job: the same.
        folder: exists; gets the files and the journal.
        processes: do the tasks.
        explain: turns an exception into the line of an error; can be pickled.
        index: takes the files into care.

    Raises:
        OutputError: the journal cannot be written.
    """
    wanted = [task for task in tasks if task.state != DONE]
    with (
        journal.appending(folder / JOURNAL) as append,
        closing(processes(partial(_work, __version__, job, explain), wanted)) as results,
    ):
        for task, made in results:
            if made is None:
                why = "its process ended by itself each time, perhaps for lack of memory; fewer at a time need less"
                line = _failed(task, job, why)
            else:
                line = _saved(task, job, *made, index)
            append(line)
            yield line
    last = told(folder)
    order = [last.pop(task.item.file) for task in tasks if task.item.file in last]
    text = b"".join(map(journal.line, [*last.values(), *order]))
    with writing(folder / JOURNAL):
        if text != (folder / JOURNAL).read_bytes():
            files.write_atomically(folder / JOURNAL, text)


def _work(version: str, job: Job, explain: Callable[[Exception], str], task: Task) -> Made:
    if version != __version__:
        return _failed(task, job, f"its process has refscale {__version__}, and {version} is wanted"), b""
    begun = time.monotonic()
    with workers.warnings_of("refscale_codec") as warned:
        try:
            facts, data = job.do(task)
        except Exception as error:
            line, data = _failed(task, job, explain(error)), b""
        else:
            sha256, seconds = hashlib.sha256(data).hexdigest(), round(time.monotonic() - begun, 3)
            line = _line(task, job) | facts | {"bytes": len(data), "sha256": sha256, "seconds": seconds}
    return line | {"warnings": [printable(text) for text in warned]}, data


def _saved(task: Task, job: Job, line: Line, data: bytes, index: References | None) -> Line:
    """Write a file, here and not in the worker, which ends in the middle of it when the run is interrupted."""
    output = task.folder / task.item.file
    if line["error"] is not None:
        return line
    try:
        with writing(output):
            if output.exists():
                readable = output.is_file() or output.is_dir()  # a pipe or a device need not end
                there = hashlib.sha256(output.read_bytes()).hexdigest() if readable else ""
                if not (job.replace or there in (line["sha256"], task.written)):
                    who = "no earlier run has written it" if task.written is None else "it is not what was written"
                    return _failed(task, job, f"{output} exists, and {who}: -f overwrites it")
        files.make_folder(output.parent)
        with nullcontext() if index is None else index.care(output, data):
            files.write_atomically(output, data)
    except (OutputError, ReferenceMismatch) as error:
        return _failed(task, job, str(error))
    return line


def _failed(task: Task, job: Job, why: str) -> Line:
    return _line(task, job) | {"error": printable(why)}


def _line(task: Task, job: Job) -> Line:
    """Return the line of an item of which no more is known than the task: null for the rest."""
    item = task.item
    return {
        "name": item.name,
        "file": item.file,
        "picture": printable(str(item.picture)),
        "reference_pictures": [],
        **dict.fromkeys(("bytes", *job.fields, "seconds", "error")),
        "warnings": [],
        "sha256": task.written,
        "key": task.key,
    }
