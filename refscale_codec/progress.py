"""What is going on, on stderr, for whoever waits longer than a moment."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 2.0  # seconds without a word before progress is shown


@contextmanager
def shown(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that sets what is said to be going on; shown on stderr after `PATIENCE` seconds, if at all."""
    if quiet:
        yield lambda text: None
        return
    turning: list[tuple[Any, Any]] = []  # the spinner and what keeps it turning, once there is something to show
    said = ["starting"]
    lock = threading.Lock()

    def show() -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        with lock:
            if not finished.is_set():
                spinner = Spinner("dots", said[0])
                shared_terminal = sys.stdout.isatty()  # else what goes to stdout must go there untouched
                console = Console(stderr=True)
                display = Live(spinner, console=console, transient=True, redirect_stdout=shared_terminal)
                turning.append((spinner, display))
                display.start()

    def step(text: str) -> None:
        with lock:
            said[0] = text
            if turning:
                turning[0][0].update(text=text)

    finished = threading.Event()
    timer = threading.Timer(PATIENCE, show)
    timer.daemon = True
    timer.start()
    try:
        yield step
    finally:
        timer.cancel()
        with lock:
            finished.set()
            if turning:
                turning[0][1].stop()
