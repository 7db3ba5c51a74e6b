"""Work in other processes; one that ends by itself costs no more than what it was doing.

A pool of Python's gives up all of its processes when one of them dies, and does not tell which task was to blame. So
each process is a pool of its own here.
"""

import logging
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process, resource_tracker
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(
    work: Callable[[Task], Result], tasks: Iterable[Task], jobs: int, prepare: Callable[[], None]
) -> Generator[tuple[Task, Result | None], None, None]:
    """Yield each task with what `work` returns, in the order in which they are finished.

    The processes end when the generator is closed (`contextlib.closing`), or when this process ends. Ctrl-C does not
    reach them.

    Args:
        work: a function of a module; what it is given and returns can be pickled.
        tasks: what is to be done.
        jobs: how many processes at the same time.
        prepare: called first in each process; can be pickled, and must not fail.

    Yields:
        A task and its result; None if its process ended by itself, for lack of memory for instance, and then another
        one that got the same task did so too.

    Raises:
        Exception: what `work` raises.
    """
    waiting = deque((task, True) for task in tasks)  # with whether it may be tried again
    pools: list[ProcessPoolExecutor] = []  # all that were begun, for an interrupt may come between any two lines below
    idle: list[ProcessPoolExecutor] = []
    running: dict[Future[Result], tuple[ProcessPoolExecutor, Task, bool]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task, again = waiting.popleft()
                with _without_interrupts():
                    pool, future = _submit(pools, idle, prepare, work, task)
                    running[future] = pool, task, again
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                pool, task, again = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    pool.shutdown()
                    if again:
                        waiting.appendleft((task, False))
                    else:
                        yield task, None
                else:
                    idle.append(pool)
                    yield task, result
    except BaseException:
        for worker in active_children():
            worker.terminate()
        raise
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _submit(
    pools: list[ProcessPoolExecutor],
    idle: list[ProcessPoolExecutor],
    prepare: Callable[[], None],
    work: Callable[[Task], Result],
    task: Task,
) -> tuple[ProcessPoolExecutor, Future[Result]]:
    """Give a task to a process that is idle, or to a new one, which is added to `pools`."""
    while idle:
        pool = idle.pop()
        try:
            return pool, pool.submit(work, task)
        except BrokenProcessPool:  # it has ended meanwhile
            pool.shutdown()
    pool = ProcessPoolExecutor(1, get_context("spawn"), _begin, (prepare,))
    pools.append(pool)
    return pool, pool.submit(work, task)


def _begin(prepare: Callable[[], None]) -> None:
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    prepare()


def _end_with_the_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Have Ctrl-C wait, and never reach the processes that are started meanwhile: the first one ends the others."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # starting it lets Ctrl-C through at its end, whatever was so before
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def warnings_of(package: str) -> Iterator[list[str]]:
    """Collect what a package and Python warn of, instead of printing it without the name of what is being done."""
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(package)
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            yield told
        told += [str(warning.message) for warning in caught]
    finally:
        logger.removeHandler(handler)
