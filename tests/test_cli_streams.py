"""Standard input and output, pipes, progress and quiet, through `cli.main()` and in processes of their own."""

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import REF, TINY, assert_refusal, drawn
from conftest import Outcome

from refscale_codec.cli import terminal
from refscale_codec.codec import decoder, rate_control
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.training import loop as training


def test_a_dash_is_stdin_or_stdout_wherever_a_file_is(refscale: Callable[..., Outcome], place: Path) -> None:
    target, reference, data = ((place / name).read_bytes() for name in ("target.png", "ref.png", "with.rsc"))
    sixty = ("--quality", 60, *TINY)
    outcome = refscale("encode", "-", *REF, "-o", "-", *sixty, stdin=target)
    assert (outcome.code, outcome.out) == (0, data)
    assert refscale("encode", "target.png", "--ref", "-", "-o", "-", *sixty, stdin=reference).out == data
    outcome = refscale("decode", "-", *REF, "-o", "-", *TINY, stdin=data)
    assert outcome.code == 0
    assert outcome.out.startswith(b"\x89PNG")
    assert refscale("decode", "with.rsc", "--ref", "-", "-o", "-", *TINY, stdin=reference).out == outcome.out
    webp = refscale("decode", "with.rsc", *REF, "-o", "-", "--format", "webp", *TINY).out
    assert np.array_equal(pictures.from_bytes(webp, "-").pixels, pictures.from_bytes(outcome.out, "-").pixels)
    refscale("extract-lr", "with.rsc", "-o", "small.jpg")
    jpeg = (place / "small.jpg").read_bytes()
    assert refscale("extract-lr", "-", "-o", "-", stdin=data) == Outcome(0, jpeg, "stdout: 17x10\n")
    assert refscale("info", "-", stdin=data).text == refscale("info", "with.rsc").text.replace("with.rsc", "stdin", 1)
    assert refscale("verify", "-", *REF, *TINY, stdin=data).err.startswith("stdin: proved: it decodes")


def test_a_bad_stream_is_named(refscale: Callable[..., Outcome], place: Path) -> None:
    assert_refusal(refscale("info", "-", stdin=b"nothing good"), 4, "stdin", "not a .rsc file")
    assert_refusal(refscale("encode", "-", "-o", "out.rsc", *TINY, stdin=b"nothing good"), 3, "stdin")
    assert_refusal(refscale("decode", "-", "-o", "-", *TINY, stdin=(place / "with.rsc").read_bytes()), 6, "stdin")


def shell(line: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in which `refscale` is this interpreter's; a pipe fails if any part of it does."""
    script = f'refscale() {{ {shlex.quote(sys.executable)} -m refscale_codec "$@"; }}; set -o pipefail; {line}'
    return subprocess.run(["bash", "-c", script], capture_output=True, timeout=120, check=False)


@pytest.mark.slow
def test_a_pipe_of_two_commands_gives_what_two_files_give(refscale: Callable[..., Outcome], place: Path) -> None:
    options = f"--ref ref.png {' '.join(TINY)}"
    done = shell(
        f"refscale encode - {options} --quality 60 -o - < target.png | refscale decode - {options} -o - > piped.png"
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout, b"33x20" in done.stderr) == (b"", True)
    assert refscale("decode", "with.rsc", *REF, "-o", "out.png", *TINY).code == 0
    assert (place / "piped.png").read_bytes() == (place / "out.png").read_bytes()


def test_a_pipe_whose_first_command_fails_writes_nothing(place: Path) -> None:
    tiny = " ".join(TINY)
    done = shell(f"refscale encode no.png {tiny} -o - | refscale decode - {tiny} -o out.png")
    assert done.returncode == 4
    assert sorted(line[:22] for line in done.stderr.decode().splitlines()) == [
        "error: no.png does not",
        "error: stdin: truncate",
    ]
    assert not (place / "out.png").exists()


@pytest.mark.parametrize("line", ["info with.rsc", "extract-lr with.rsc -o -"])
def test_a_reader_that_goes_away_ends_a_command_without_a_word(place: Path, line: str) -> None:
    done = shell(f"(sleep 0.2; refscale {line}) | true")
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    "line",
    [
        "encode target.png -o - -w",
        "decode alone.rsc -o - -w",
        "extract-lr alone.rsc -o -",
        "diff target.png --ref ref.png -o - -w",
    ],
)
def test_a_terminal_gets_no_binary_data(place: Path, line: str) -> None:
    terminals = os.openpty()
    command = [sys.executable, "-m", "refscale_codec", *line.replace("-w", " ".join(TINY)).split()]
    done = subprocess.run(command, stdout=terminals[1], stderr=subprocess.PIPE, timeout=120, check=False)
    os.write(terminals[1], b"end")
    assert os.read(terminals[0], 100) == b"end"
    for end in terminals:
        os.close(end)
    assert done.returncode == 2
    assert done.stderr.decode().startswith("error: binary data is not written to a terminal")


@pytest.mark.parametrize(
    "line",
    [
        "encode target.png --ref ref.png -o out.rsc",
        "decode with.rsc --ref ref.png -o out.png",
        "verify with.rsc --ref ref.png",
        "verify alone.rsc",
    ],
)
def test_quiet_is_silent_but_for_errors(
    refscale: Callable[..., Outcome], place: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(terminal, "PATIENCE", 0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert refscale(*line.split(), "--quiet", *TINY) == Outcome(0, b"", "")
    other = line.replace("ref.png", "other.png").replace("-o out", "-f -o out")
    assert_refusal(refscale(*other.split(), "-q", "--weights", "no.st"), 5)


def wait_for_status() -> None:
    """Wait until the timer that shows the progress has done so."""
    deadline = time.monotonic() + 20
    while any(isinstance(thread, threading.Timer) for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def impatient(refscale: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Show progress at once, and as on a terminal."""
    monkeypatch.setattr(terminal, "PATIENCE", 0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def slow(function: Callable[..., Any]) -> Callable[..., Any]:
    def waiting(*arguments: Any, **named: Any) -> Any:
        wait_for_status()
        return function(*arguments, **named)

    return waiting


def test_progress_goes_to_stderr_and_data_to_stdout(
    refscale: Callable[..., Outcome], place: Path, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    monkeypatch.setattr(rate_control, "encode", slow(rate_control.encode))
    monkeypatch.setattr(decoder, "decode", slow(decoder.decode))
    outcome = refscale("encode", "target.png", *REF, "-o", "-", "--quality", 60, *TINY)
    assert outcome.code == 0
    assert outcome.out == (place / "with.rsc").read_bytes()
    assert "coding" in outcome.err
    outcome = refscale("encode", "target.png", *REF, "-o", "out.rsc", "--json", *TINY)
    assert json.loads(outcome.text)["width"] == 33
    assert "coding" in outcome.err
    outcome = refscale("decode", "with.rsc", *REF, "-o", "-", *TINY)
    assert pictures.from_bytes(outcome.out, "-").width == 33
    assert "decoding" in outcome.err


def test_progress_makes_way_for_an_error(
    refscale: Callable[..., Outcome], place: Path, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    monkeypatch.setattr(decoder, "decode", slow(decoder.decode))
    streams = sys.stdout, sys.stderr
    outcome = refscale("decode", "with.rsc", "--ref", "other.png", "-o", "out.png", *TINY)
    assert (outcome.code, outcome.out) == (6, b"")
    assert outcome.err.splitlines()[-1].endswith(f"this picture is {Image(drawn(2)).fingerprint().hex()} (other.png)")
    assert (sys.stdout, sys.stderr) == streams
    assert not (place / "out.png").exists()


def test_there_is_no_progress_where_stderr_is_no_terminal(
    refscale: Callable[..., Outcome], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "PATIENCE", 0)
    monkeypatch.setattr(decoder, "decode", slow(decoder.decode))
    outcome = refscale("decode", "with.rsc", *REF, "-o", "out.png", *TINY)
    assert outcome == Outcome(0, b"", "out.png: 33x20\n")


@pytest.mark.parametrize("line", [{"step": 50, "psnr": 30.0, "bpp": 0.51}, {"step": 50, "psnr": 30.0}])
def test_the_log_of_training_stays_on_stdout_beside_the_progress(
    refscale: Callable[..., Outcome],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    impatient: None,
    line: dict[str, float],
) -> None:
    def trained(*arguments: object, report: Callable[[dict[str, float]], None], **named: object) -> Path:
        wait_for_status()
        report(line)
        return place / "run" / "weights.safetensors"

    monkeypatch.setattr(training, "train", trained)
    (place / "recipe.toml").write_text('manifest = "pairs.csv"\n')
    (place / "pairs.csv").write_text("target,reference\ntarget.png,ref.png\n")
    outcome = refscale("train", "recipe.toml", "-o", "run")
    assert outcome.text == json.dumps(line) + "\n"
