"""Ctrl-C: one line and the exit code 130, at any moment, imports included.

SIGTERM and SIGHUP end the process as they do by default, but not before what is half-written is removed.

Imports nothing that takes time, so that the handler is there before anything else is imported.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

EXIT_CODE = 130

_IMPORTING = "<frozen importlib"  # how the file names of Python's own import code begin
_CLEAN_LINE = b"\r\x1b[2K\x1b[?25h"  # of a terminal: erase the line of a spinner, and show the cursor

_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]

_came = 0  # the number of the signal, if there was one


def came() -> bool:
    """Return whether the user has interrupted this process, or a signal ends it; nothing else is to be told then."""
    return _came != 0


@contextmanager
def told() -> Iterator[None]:
    """Let Ctrl-C end the process with a line on stderr, whatever a library makes of it.

    Where a signal is ignored, as SIGINT in the background of a shell, and SIGHUP with `nohup`, it stays so.
    """
    caught = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        caught.append(signal.SIGINT)
    for number in caught:
        signal.signal(number, _handle)
    try:
        yield
    except BaseException:
        if not _came:
            raise
    finally:  # all is done, and the interpreter only has to end
        for number in caught:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    if _came:
        _end()


def _handle(number: int, frame: FrameType | None) -> None:
    """Raise SystemExit, which neither Typer nor decoders of hostile bytes catch; within an import end at once.

    Nothing is to be cleaned up there, and libraries in C++ abort when an exception of Python reaches them.
    """
    global _came
    _came = number
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)  # a second one ends at once
    sys.unraisablehook = lambda _: None  # where the exception is ignored, in a finaliser for instance
    while frame is not None:
        if frame.f_code.co_filename.startswith(_IMPORTING):
            _end()
        frame = frame.f_back
    sys.exit(EXIT_CODE)


def _end() -> None:
    if _came != signal.SIGINT:
        signal.signal(_came, signal.SIG_DFL)
        os.kill(os.getpid(), _came)
    with suppress(OSError, AttributeError):  # a stderr that is closed
        number = sys.stderr.fileno()
        os.write(number, _CLEAN_LINE * os.isatty(number) + b"interrupted\n")
    os._exit(EXIT_CODE)
