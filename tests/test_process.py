"""Freed buffers stay with the process."""

import platform
import subprocess
import sys

import pytest

RESIDENT = """
import sys
from pathlib import Path
import numpy as np
from refscale_codec.cli import process

if sys.argv[1] == "keep":
    process.keep_freed_memory()
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) // 256  # MiB, of 4 KiB pages
buffer = np.ones(2**27, np.uint8)
del buffer
print(resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_a_freed_buffer_is_kept() -> None:
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", RESIDENT, word], capture_output=True, check=True).stdout)
        for word in ("keep", "default")
    )
    assert kept - given_back > 100
