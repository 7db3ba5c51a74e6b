"""Settings of the whole process: the command line makes them, since it owns the process; the library makes none."""

import ctypes
import sys
import warnings
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of <malloc.h>
_KEEP = 2**31 - 1  # bytes; mallopt takes an int


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


def lift_pillow_limit() -> None:
    """Let Pillow read pictures of any size: `picture.image` has a higher limit of its own."""
    import PIL.Image

    PIL.Image.MAX_IMAGE_PIXELS = None


def show_warnings_as_lines() -> None:
    """Print Python warnings, of Pillow or rasterio, as one line each, and not that a TIFF has no georeference."""
    warnings.filterwarnings("ignore", "Dataset has no geotransform")
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
