"""Memory of the process: freed buffers are kept for the next layer instead of being given back to the system."""

import ctypes
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of <malloc.h>
_KEEP = 2**31 - 1  # bytes; mallopt takes an int


def keep_freed_memory() -> None:
    """Tell glibc to reuse large buffers; without effect on other systems.

    A net on a large picture allocates and frees hundreds of MiB a layer. By default each goes back to the system, and
    fetching it page by page again can take longer than the arithmetic (see `benchmarks/throughput.py`). It concerns the
    whole process, so the command line calls it and the library leaves the choice to its user.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, _KEEP)
