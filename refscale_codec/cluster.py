"""Work on a cluster of Dask, as `workers` does it in processes of this machine.

Dask gives the tasks of a worker that died to others. It gives up when that has happened to a task four times (its
setting `allowed-failures`), and does not tell what was to blame from what merely waited at that worker. So the cluster
has no more tasks at a time than workers.
"""

import math
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from refscale_codec.errors import BatchError, UsageError

Task = TypeVar("Task")
Result = TypeVar("Result")

PATIENCE = 5.0  # seconds until a scheduler must have answered
_BETWEEN_COUNTS = 2.0  # seconds, of workers

_AGAIN = "the same command goes on where this one stopped"

_alone = threading.Lock()  # what a task sets up, and collects of warnings, is of the whole process


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Yield a client of a scheduler.

    Raises:
        UsageError: Dask is not installed, or there is no scheduler at that address.
    """
    try:
        from distributed import Client
    except ImportError as error:
        why = f"a scheduler needs Dask's distributed ({error}): pip install 'refscale-codec[dask]'"
        raise UsageError(why) from error

    # It is closed below. The finaliser of one that never connected would wait, and complain.
    closed: Any = type("Closed", (Client,), {"__del__": lambda self: None})
    made: Future[Client] = Future()

    def connect() -> None:
        try:
            made.set_result(closed(address, timeout=PATIENCE, set_as_default=False))
        except Exception as error:
            made.set_exception(error)

    threading.Thread(target=connect, daemon=True).start()  # a server of another kind keeps Dask waiting for ever
    try:
        client = made.result(1.5 * PATIENCE)
    except Exception as error:
        raise UsageError(f"there is no Dask scheduler at {address}: {_why(error)}") from None
    with client:
        yield client


def count(client: Any, resources: Mapping[str, float]) -> int:
    """Return how many workers there are that have resources."""
    workers = client.scheduler_info()["workers"].values()
    return sum(all(worker["resources"].get(name, 0) >= need for name, need in resources.items()) for worker in workers)


def run(
    client: Any,
    prepare: Callable[[int], None],
    resources: Mapping[str, float],
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
) -> Generator[tuple[Task, Result | None], None, None]:
    """Yield each task with what `work` returns, in the order in which they are finished.

    A worker does one task at a time, whatever its threads. Workers may come and go.

    Args:
        client: see `connected`.
        prepare: called in the worker before each task, with the number of its threads; can be pickled.
        resources: that a worker must have, by Dask's names, and that a task takes.
        work: as for `workers.run`.
        tasks: as for `workers.run`.

    Yields:
        A task and its result; None if its worker ended by itself each time.

    Raises:
        BatchError: the scheduler has gone, or a worker cannot do it, since it lacks refscale for instance.
    """
    from distributed import KilledWorker, as_completed

    waiting, completed = iter(tasks), as_completed(loop=client.loop)
    running: dict[Any, Task] = {}
    room, counted, address = 0, -math.inf, client.scheduler.address

    def submit() -> None:
        nonlocal room, counted
        if time.monotonic() - counted > _BETWEEN_COUNTS:
            room, counted = max(1, count(client, resources)), time.monotonic()
        for task in islice(waiting, max(0, room - len(running))):
            future = client.submit(_do, prepare, work, task, pure=False, resources=resources)
            running[future] = task
            completed.add(future)

    while True:
        try:
            submit()
            if not running:
                return
            future = next(completed)
            task = running.pop(future)
            submit()  # before the result is fetched and written, so that no worker is idle meanwhile
            result = future.result()
        except KilledWorker:
            result = None
        except (CancelledError, OSError) as error:
            raise BatchError(f"the scheduler {address} has gone; {_AGAIN}") from error
        except Exception as error:
            raise BatchError(f"a worker of {address} cannot work: {_why(error)}; {_AGAIN}") from error
        del future
        yield task, result


def _why(error: Exception) -> str:
    """Return what Dask says in one line, even of a type that `reason` takes for a fault of hostile bytes."""
    return " ".join(str(error).split()) or type(error).__name__


def _do(prepare: Callable[[int], None], work: Callable[[Task], Result], task: Task) -> Result:
    from distributed import get_worker

    with _alone:
        prepare(get_worker().state.nthreads)
        return work(task)
