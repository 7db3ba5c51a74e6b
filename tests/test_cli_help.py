"""Help, version, completion and what starts without torch."""

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import ROOT, Outcome

import refscale_codec
from refscale_codec.cli import batch, coding, interrupt, main
from refscale_codec.errors import RefscaleError

COMMANDS = [
    "encode",
    "decode",
    "batch",
    "batch-decode",
    "info",
    "fingerprint",
    "verify",
    "diff",
    "extract-lr",
    "train",
    "eval",
    "rd-curve",
]
REFS = ["add", "list", "find", "check", "gc", "rebase", "move", "bundle"]
ALL = [*COMMANDS, *(f"refs {name}" for name in REFS)]


def declared(name: str) -> Any:
    """Return the declaration of a command."""
    command: Any = typer.main.get_command(main.app)
    for part in name.split():
        command = command.commands[part]
    return command


def test_every_command_is_in_the_help(refscale: Callable[..., Outcome]) -> None:
    outcome = refscale("--help")
    assert (outcome.code, outcome.err) == (0, "")
    listed = outcome.text.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == [*COMMANDS, "refs"]
    listed += refscale("refs", "--help").text.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed[-len(REFS) :]] == REFS
    assert all(len(line.split()) > 3 for line in listed)
    assert [line for line in listed if line.endswith("...")] == []


@pytest.mark.parametrize("name", ALL)
def test_every_option_is_explained(refscale: Callable[..., Outcome], name: str) -> None:
    outcome = refscale(*name.split(), "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.text.startswith("Usage: ")
    command = declared(name)
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{name} {parameter.name}"
        shown = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar
        assert shown in outcome.text


@pytest.mark.parametrize("name", ALL)
def test_options_take_one_line_each_in_groups(
    refscale: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = refscale(*name.split(), "-h").text
    assert max(map(len, text.splitlines())) < 80
    groups = re.split(r"^(\w[\w ]*):\n", text.partition("\n\n")[2], flags=re.M)
    arguments = any(parameter.param_type_name == "argument" for parameter in declared(name).params)
    assert groups[1] == ("Arguments" if arguments else "Files")
    assert groups[-2] == "Other options"
    command = declared(name)
    lines = [line for group in groups[2::2] for line in group.splitlines() if line.strip()]
    assert len(lines) == len(command.params) + 1  # and --help
    assert all(len(line.split("  ")) >= 3 for line in lines)


def test_every_command_can_be_quiet() -> None:
    for name in ALL:
        assert "-q" in [option for parameter in declared(name).params for option in parameter.opts], name


def test_encode_and_batch_share_the_options_of_coding() -> None:
    one, many = (inspect.signature(command).parameters for command in (coding.encode, batch.batch))
    of_their_own = {"ref", "output", "folder", "force", "dry_run"}  # of one file, and of a folder of files
    shared = one.keys() & many.keys() - of_their_own
    assert {"quality", "target_psnr", "value_range", "ref_name", "tile", "weights"} <= shared
    assert [name for name in shared if one[name].annotation is not many[name].annotation] == []


def test_shells_can_complete_commands_and_options(place: Path) -> None:
    def completed(line: str) -> list[str]:
        environment = os.environ | {"_REFSCALE_COMPLETE": "complete_bash", "COMP_WORDS": line}
        environment["COMP_CWORD"] = str(len(line.split()) - 1)
        program = "import sys; sys.argv[0] = 'refscale'; from refscale_codec.__main__ import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert completed("refscale en") == ["encode"]
    assert completed("refscale encode --target") == ["--target-bytes", "--target-bpp", "--target-psnr"]


def test_exit_codes_are_those_of_the_table_and_of_the_help(refscale: Callable[..., Outcome]) -> None:
    table = (
        (ROOT / "docs" / "FORMAT.md").read_text(encoding="utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    )
    documented = [int(code) for code in re.findall(r"^\| (\d+) \|", table, flags=re.M)]
    errors = sorted(error.exit_code for error in RefscaleError.__subclasses__())
    assert documented == [0, *errors, interrupt.EXIT_CODE]
    told = refscale("--help").text.partition("Exit codes:")[2]
    assert [int(code) for code in re.findall(r"(\d+) [a-z.]", " ".join(told.split()))] == documented


def test_version_and_no_command(refscale: Callable[..., Outcome]) -> None:
    assert refscale("-V") == refscale("--version")
    assert refscale("--version") == Outcome(0, f"refscale {refscale_codec.__version__}\n".encode(), "")
    outcome = refscale()
    assert outcome.code in (0, 2)  # as Typer's version has it
    assert "Usage: " in outcome.text + outcome.err


def started(*arguments: str, stdin: bytes = b"", options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, *options, "-m", "refscale_codec", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize("line", ["--help", "encode --help", "--version", "info with.rsc", "info with.rsc --json"])
def test_what_needs_no_net_starts_without_torch_and_numpy(place: Path, line: str) -> None:
    done = started(*line.split(), options=("-X", "importtime"))
    assert done.returncode == 0
    assert done.stdout
    loaded = {row.rpartition("|")[2].strip() for row in done.stderr.decode().splitlines()}
    assert "refscale_codec.cli.main" in loaded
    assert not loaded & {"torch", "numpy", "PIL", "cv2", "constriction", "safetensors", "rich.console"}


def test_a_process_of_its_own_keeps_bytes_and_codes(place: Path) -> None:
    data = (place / "with.rsc").read_bytes()
    done = started("extract-lr", "-", "-q", stdin=data)
    assert (done.returncode, done.stdout[:3], done.stdout[-2:], done.stderr) == (0, b"\xff\xd8\xff", b"\xff\xd9", b"")
    done = started("info", "-", stdin=data[:-1])
    assert (done.returncode, done.stdout) == (4, b"")
    assert done.stderr.startswith(b"error: stdin: truncated")
    assert b"Traceback" not in done.stderr
