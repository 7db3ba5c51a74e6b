"""What the commands that code and decode many pictures share: the processes, progress, lists and summaries."""

import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from refscale_codec.cli import memory, options, process, terminal
from refscale_codec.errors import BatchError, RefscaleError, UsageError, counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from refscale_codec.archive.references import References
    from refscale_codec.batch.running import Processes
    from refscale_codec.batch.tasks import Item, Job, Task

AnyPath = TypeVar("AnyPath", Path, Path | None)

_BETWEEN_LINES = 30.0  # seconds, where stderr is no terminal


class Counts(NamedTuple):
    """What became of the tasks of a run."""

    all: int
    wanted: int
    failed: int
    alone: int  # without a reference, of those that did not fail
    size: int  # bytes that were written
    seconds: float


@contextmanager
def opened(
    index: str | None,
    weights: Path | None,
    scheduler: str | None,
    jobs: int | None,
    device: str,
    *,
    dry_run: bool,
    quiet: bool,
) -> "Iterator[tuple[Callable[[str], None], References | None, Any]]":
    """Yield a function that sets the progress text, the index of references, and the client of the scheduler.

    Args:
        index: its path; None for none.
        weights: those of coded pictures that are references, if they do not ship.
        scheduler: its address; None for none. It is not asked for a dry run.
        jobs: how many processes, if that is given.
        device: its name, as given.
        dry_run: whether stdout gets a list, so that there is no progress.
        quiet: whether nothing is told.

    Raises:
        UsageError, IndexFault, OutputError: of scheduler, index and stdout.
    """
    if dry_run:
        terminal.require_stdout()
    with (
        terminal.progress(quiet or dry_run) as step,
        terminal.index(index, weights) as references,
        connected(None if dry_run else scheduler, jobs, device, quiet=quiet) as client,
    ):
        yield step, references, client


def plan(
    items: "Sequence[Item]",
    job: "Job",
    folder: Path,
    index: str | None,
    unread: Sequence[str],
    *,
    dry_run: bool,
    json_output: bool,
) -> "list[Task] | None":
    """Return what is to be done with each item; for a dry run it is listed instead, and None returned.

    Args:
        items: to encode or decode.
        job: what is to be done with them.
        folder: of the output; need not exist.
        index: path of the index that is searched for references, if one is.
        unread: lines on files and folders that could not be read.
        dry_run: whether nothing is done.
        json_output: whether the list is of JSON.

    Raises:
        UsageError: the folder has the journal of another program, or an output would replace a reference or the index.
        BatchError: of a dry run, if something could not be read.
    """
    from refscale_codec.batch import tasks as planning

    if not dry_run:
        planning.require_journal(folder, replace=job.replace)
    tasks = planning.plan(items, job, folder)
    _require_others(tasks, *options.index_files(index))
    if not dry_run:
        return tasks
    _list(tasks, index, unread, json_output)
    return None


def _list(tasks: "Sequence[Task]", index: str | None, unread: Sequence[str], json_output: bool) -> None:
    """Write what would be done, a line each; BatchError if files or folders could not be read, as in `summarise`."""
    for state, item in ((task.state, task.item) for task in tasks):
        given, needs = [str(path) for path in item.references], list(item.needs)
        facts = {"state": state, "picture": str(item.picture), "reference_pictures": given, "file": item.file}
        if item.picture.suffix.lower() == ".rsc":
            facts["references"] = needs
            older = f"without its reference {', '.join(needs)}" if needs else "alone"
        else:
            older = "alone" if index is None else f"with the best of {index}"
        older = f"with {', '.join(given)}" if given else older
        text = terminal.as_json(facts) if json_output else f"{state}: {item.picture} {older} to {item.file}"
        terminal.write("-", text + "\n")
    if unread:
        raise BatchError(f"{len(unread)} files and folders could not be read")


@contextmanager
def connected(scheduler: str | None, jobs: int | None, device: str, *, quiet: bool) -> "Iterator[Any]":
    """Yield a client of a scheduler, None for none; tell if it has no worker yet.

    Args:
        scheduler: its address, if it is given.
        jobs: how many processes, if that is given.
        device: its name, as given.
        quiet: whether nothing is told.

    Raises:
        UsageError: there is no such scheduler, or both it and `jobs` are given.
    """
    if scheduler is None:
        yield None
        return
    if jobs is not None:
        raise UsageError("--jobs would have no effect: the workers are those of --scheduler")
    from refscale_codec import cluster

    with cluster.connected(scheduler) as client:
        for name in ("distributed", "distributed.client"):  # what they tell of a lost connection is an error, too
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if not cluster.count(client, _resources(device)):
            what = "worker with the resource GPU" if _resources(device) else "worker"
            terminal.say(quiet, f"{scheduler} has no {what} yet: waiting for one")
        yield client


def processes(client: Any, jobs: int | None, device: str, tasks: "Sequence[Task]") -> "Processes":
    """Return what does tasks: the workers of a scheduler, or processes of this machine that share its cores.

    Args:
        client: of the scheduler; None for this machine.
        jobs: how many processes here; None for as many as suit the device: one a core, on a GPU one.
        device: its name, as given; UsageError if there is none such here.
        tasks: of the run; if none is to be done, torch is not imported.
    """
    from refscale_codec import cluster, workers
    from refscale_codec.batch.tasks import DONE

    if client is not None:
        return partial(cluster.run, client, prepare, _resources(device))
    wanted = sum(task.state != DONE for task in tasks)
    on_cpu = not wanted or terminal.device_named(device) == "cpu"
    count = min(jobs or (workers.cores() if on_cpu else 1), max(1, wanted))
    threads = max(1, workers.cores() // count)
    return lambda work, tasks: workers.run(work, tasks, count, partial(_prepare_here, threads))


def _resources(device: str) -> dict[str, float]:
    """Return what a worker of a scheduler must have for a device."""
    return {"GPU": 1} if device == "cuda" else {}


def device_for(scheduler: str | None, device: str) -> str:
    """Return what `auto` is at a scheduler: the CPU, since workers have a GPU to themselves only if it is asked for."""
    return "cpu" if scheduler is not None and device == "auto" else device


def seen_by(scheduler: str | None, path: AnyPath) -> AnyPath:
    """Return a path as those see it that do the work: workers of a scheduler are in other folders."""
    return path if path is None or scheduler is None else path.absolute()


def prepare(threads: int) -> None:
    """Make the settings of a process that codes with so many threads."""
    terminal.show_warnings_as_lines()
    process.keep_freed_memory()
    process.lift_pillow_limit()
    process.limit_threads(threads)


def _prepare_here(threads: int) -> None:
    """Make them with as few threads as the environment says; that of a worker of Dask has one thread for all."""
    import torch

    prepare(min(threads, torch.get_num_threads()))


def run(
    tasks: "list[Task]",
    job: "Job",
    folder: Path,
    processes: "Processes",
    step: "Callable[[str], None]",
    *,
    index: "References | None" = None,
    quiet: bool,
) -> Counts:
    """Do the tasks, with progress and a line on stderr for each warning and failure; see `running.run`."""
    from refscale_codec.batch import running
    from refscale_codec.batch.tasks import DONE
    from refscale_codec.picture import files

    files.make_folder(folder)
    wanted = sum(task.state != DONE for task in tasks)
    begun = said = time.monotonic()
    failed = size = alone = 0
    results = running.run(tasks, job, folder, processes=processes, explain=_explained, index=index)
    with closing(results) as lines:
        for done, line in enumerate(lines, 1):
            for warning in line["warnings"]:
                terminal.say(quiet, f"{line['file']}: {warning}")
            if line["error"] is None:
                size += line["bytes"]
                alone += not line["references"]
            else:
                failed += 1
                terminal.say(False, f"{line['file']}: {line['error']}")
            now = time.monotonic()
            left = terminal.duration((now - begun) * (wanted - done) / done)
            told = f"{done} of {counted(wanted, 'picture')}, {left} left" + f", {failed} failed" * bool(failed)
            step(told)
            if now - said > _BETWEEN_LINES:
                said = now
                terminal.say(quiet or sys.stderr.isatty(), told)
    return Counts(len(tasks), wanted, failed, alone, size, round(time.monotonic() - begun, 3))


def summarise(
    counts: Counts, done: str, folder: Path, unread: Sequence[str], *, json_output: bool, quiet: bool
) -> None:
    """Tell what a run has done.

    Args:
        counts: of the run.
        done: `coded` or `decoded`.
        folder: of the output.
        unread: lines on files and folders that could not be read.
        json_output: whether a summary goes to stdout as JSON.
        quiet: whether none goes to stderr.

    Raises:
        BatchError: something has failed.
    """
    from refscale_codec.batch.tasks import JOURNAL

    unchanged, made = counts.all - counts.wanted, counts.wanted - counts.failed
    facts: dict[str, Any] = {
        "pictures": counts.all,
        done: made,
        "unchanged": unchanged,
        "failed": counts.failed,
        "without_reference": counts.alone,
        "bytes": counts.size,
        "seconds": counts.seconds,
    }
    told = f"{folder}: {made} of {counted(counts.all, 'picture')} {done}" + f", to {counts.size} bytes" * bool(made)
    told += f"; {unchanged} were {done} already" * bool(unchanged)
    told += f"; {counts.alone} without a reference" * bool(counts.alone)
    terminal.summarise([told], facts, json_output=json_output, quiet=quiet)
    why = f"; {folder / JOURNAL} has why"
    if unread:
        raise BatchError(
            f"{len(unread)} files and folders could not be read"
            + f", and {counts.failed} of {counts.all} pictures not {done}{why}" * bool(counts.failed)
        )
    if counts.failed:
        raise BatchError(f"{counts.failed} of {counted(counts.all, 'picture')} could not be {done}{why}")


def told_and_kept(lines: list[str]) -> "Callable[[str], None]":
    """Return a function that tells a line and puts it into a list."""

    def tell(line: str) -> None:
        lines.append(line)
        terminal.say(False, line)

    return tell


def _require_others(tasks: "Sequence[Task]", *held: str | Path) -> None:
    """Raise UsageError if an output is one of the references, or another file that must stay."""
    kept = {os.path.realpath(path) for path in (*held, *(path for task in tasks for path in task.item.references))}
    for task in tasks:
        output = task.folder / task.item.file
        if os.path.realpath(output) in kept:
            raise UsageError(f"{output} is also a reference; it would be overwritten")


def _explained(error: Exception) -> str:
    if isinstance(error, RefscaleError):
        return str(error)
    if memory.is_lacking(error):
        return memory.message(error, "; fewer processes at a time and smaller tiles (--tile) need less")
    return f"a fault of refscale: {type(error).__name__}: {error}"
