"""Where a measurement runs: the machine, and the versions of what its figures depend on."""

import platform
import re
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import refscale_codec
from refscale_codec import workers

PACKAGES = ("torch", "numpy", "pillow", "av", "pillow-jxl-plugin", "bjontegaard", "pytorch-msssim")


def versions() -> dict[str, str]:
    """Return the versions of everything that figures depend on, as far as it is installed."""
    numbers = {"refscale": refscale_codec.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            numbers[package] = version(package)
    return numbers


def machine(processes: int, threads: int) -> dict[str, Any]:
    """Return what times depend on: the system, the CPU and its cores, and how many processes and threads measured.

    Args:
        processes: that measured at the same time.
        threads: that each of them used.
    """
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cpu": cpu(),
        "cores": workers.cores(),
        "processes": processes,
        "threads": threads,
    }


def cpu() -> str:
    """Return the model of the CPU, as the system names it; "unknown" where it does not."""
    with suppress(OSError):
        if model := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.M):
            return model[1].strip()
    with suppress(OSError):
        asked = ("sysctl", "-n", "machdep.cpu.brand_string")
        if platform.system() == "Darwin" and (said := subprocess.run(asked, capture_output=True, text=True).stdout):
            return said.strip()
    return platform.processor() or "unknown"
