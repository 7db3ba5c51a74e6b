"""Settings of the whole process: the command line makes them, since it owns the process; the library makes none."""

import ctypes
import os
import sys
from contextlib import suppress
from typing import TextIO

from refscale_codec.errors import reason

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of <malloc.h>
_KEEP = 2**31 - 1  # bytes; mallopt takes an int


def open_closed_streams() -> None:
    """Open what is closed of stdin, stdout and stderr, so that no file gets its descriptor, and so the messages.

    Reading stdin and writing to stdout fail then, as they should; messages to a closed stderr are dropped.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free. Stdin is opened for writing and stdout for reading: using them fails.
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY if name == "stdout" else os.O_WRONLY), True)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def flush(stream: TextIO) -> str | None:
    """Flush stdout or stderr; return why that fails, if so, and let the interpreter's own flush at exit succeed."""
    try:
        stream.flush()
    except OSError as error:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        return reason(error)
    return None


def keep_freed_memory() -> None:
    """Have glibc reuse large buffers instead of returning them to the system; no effect on other systems.

    A net on a large picture allocates and frees hundreds of MiB per layer. By default each buffer is returned to the
    system, and mapping it again page by page can take longer than the arithmetic (see `benchmarks/throughput.py`).
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, _KEEP)


def limit_threads(count: int) -> None:
    """Let torch and OpenCV use at most so many threads."""
    import cv2
    import torch

    torch.set_num_threads(count)
    cv2.setNumThreads(count)


def lift_pillow_limit() -> None:
    """Let Pillow read pictures of any size: `picture.image.MAX_PIXELS` is a higher limit of its own."""
    import PIL.Image

    PIL.Image.MAX_IMAGE_PIXELS = None
