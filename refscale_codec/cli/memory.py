"""Lack of memory: one message and the exit code of `OutOfMemory`, whoever notices it.

Most libraries raise an exception. Some in C end the process instead, so where memory is limited (`ulimit -v`), the
command runs in a child process, and its parent tells what became of it.
"""

import atexit
import errno
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from refscale_codec.cli import interrupt
from refscale_codec.errors import OutOfMemory, RefscaleError

_SIGNS = re.compile(  # as torch, oneDNN, OpenCV, C++, the system and the dynamic linker put it
    r"(out of|not enough|insufficient) memory|(can't|cannot|could not|failed to|unable to) allocate|bad_alloc"
    "|could not create a (primitive|memory)|failed to map segment|cannot map zero-fill pages",
    re.IGNORECASE,
)
_BY_OTHERS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGPIPE")  # signals that have nothing to do with memory


def is_lacking(error: BaseException) -> bool:
    """Return whether an error, or one that led to it, is a failed allocation."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:  # the dynamic linker's have none
            found = cause.errno == errno.ENOMEM
        else:
            vague = isinstance(cause, SystemError) or "can't start new thread" in str(
                cause
            )  # of C without an exception
            vague = vague and limit() is not None
            found = not isinstance(cause, RefscaleError) and (vague or _SIGNS.search(str(cause)) is not None)
        if found or isinstance(cause, MemoryError):
            return True
        cause = cause.__context__
    return False


def message(error: BaseException | None = None, advice: str = "") -> str:
    """Return what is told of a lack of memory: where, what limits it, and what can be done."""
    on_gpu = error is not None and re.search(r"\b(CUDA|MPS|HIP)\b", str(error)) is not None
    most = limit()
    limited = f": this process may have {most >> 20:,} MiB (ulimit)" if most is not None and not on_gpu else ""
    return f"there is not enough memory{' on the GPU' * on_gpu}{limited}{advice}"


def limit() -> int | None:
    """Return the most bytes of memory that the system lets this process have; None if it sets no limit."""
    if sys.platform == "win32":
        return None
    import resource

    soft = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min((bytes for bytes in soft if bytes != resource.RLIM_INFINITY), default=None)


@contextmanager
def told() -> Iterator[None]:
    """Have a lack of memory be one message and an exit code."""
    if sys.platform != "win32" and limit() is not None:
        _go_on_in_a_child()
    try:
        yield
    except Exception as error:
        if not is_lacking(error):
            raise
        _end()


def _go_on_in_a_child() -> None:
    """Return in a child process only; the parent waits for it and ends as it does."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        atexit.register(os.write, writing, b".")  # Python ends, and not a library
        _silence_libraries()
        return
    os.close(writing)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child tells of it
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: os.kill(child, number))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0 and signal.Signals(-code).name in _BY_OTHERS:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    if code == interrupt.EXIT_CODE or code >= 0 and os.read(reading, 1):
        os._exit(code)
    _end()


def _silence_libraries() -> None:
    """Let only Python write to stderr: libraries that end a process have messages of their own."""
    with suppress(OSError, AttributeError):  # it is closed
        sys.stderr = os.fdopen(os.dup(2), "w", encoding=sys.stderr.encoding, errors="backslashreplace", buffering=1)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)


def _end() -> NoReturn:
    with suppress(OSError, AttributeError):
        os.write(2, f"error: {message()}\n".encode())
    os._exit(OutOfMemory.exit_code)
