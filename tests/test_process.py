"""The settings that the command line makes for its process."""

import platform
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest
from conftest import Outcome

from refscale_codec.cli import terminal

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


def test_the_command_line_reads_pictures_beyond_pillows_limit(
    refscale: Callable[..., Outcome], tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "new.png"
    PIL.Image.new("RGB", (20, 20)).save(picture)
    for line in (("encode", picture), ("diff", picture, "--ref", picture, "-o", tmp_path / "out.tif")):
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
        outcome = refscale(*line, "--weights", tiny_weights)
        assert outcome.code == 0, outcome.err


def test_a_warning_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        terminal.show_warnings_as_lines()
        warnings.warn("damaged EXIF", stacklevel=1)
        warnings.warn("Dataset has no geotransform, gcps, or rpcs.", stacklevel=1)
    assert capsys.readouterr().err == "warning: damaged EXIF\n"
