"""The command line `refscale`: one function a command, in `coding`, `batch`, `inspection` and `study`.

Each parses, calls the library and prints. Results go to stdout or files, everything else to stderr. Torch, numpy and
Pillow are imported inside the commands that need them, so that `--help` and `info` start at once.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from refscale_codec import __version__
from refscale_codec.cli import batch, bundle, coding, inspection, interrupt, process, refs, study, terminal
from refscale_codec.cli.command import Command
from refscale_codec.errors import OutputError, RefscaleError, UsageError, reason

EXIT_CODES = """
Exit codes: 0 done, 2 usage, 3 a picture, 4 a .rsc file, 5 weights, 6 the reference, 7 a target out of reach, 8 memory,
9 pictures of a batch, 10 the output, 11 an index of references, 130 interrupted.
"""

_SETTINGS: dict[str, Any] = {
    "no_args_is_help": True,
    "context_settings": {"help_option_names": ["-h", "--help"]},
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}


class _Commands(TyperGroup):
    """The commands, in the order in which they are declared; those that have commands of their own are the last."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return their names."""
        return sorted(self.commands, key=lambda name: isinstance(self.commands[name], TyperGroup))

    def make_context(self, *args: Any, **named: Any) -> Any:
        """Parse what is before a command; UsageError for what is not understood."""
        with _in_one_line():
            return super().make_context(*args, **named)

    def invoke(self, ctx: Any) -> Any:
        """Parse the rest and run the command; UsageError for what is not understood."""
        with _in_one_line():
            return super().invoke(ctx)


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Turn errors of Typer's parser, which come with lines of usage, into those of refscale."""
    try:
        yield
    except _NOT_UNDERSTOOD as error:
        message = getattr(error, "format_message", lambda: "")()
        if not message or message.startswith("Usage: "):  # the help, where there are no arguments
            raise
        context = getattr(error, "ctx", None)
        hint = f"; see {context.command_path} -h" if context else ""
        raise UsageError(f"{message[:1].lower()}{message[1:].rstrip('.')}{hint}") from None


_NOT_UNDERSTOOD: Any = typer.BadParameter.__base__  # Typer's own or Click's `UsageError`, by its version


app = typer.Typer(
    name="refscale",
    cls=_Commands,
    help="Compress pictures of a place against an older picture of the same place.",
    epilog=EXIT_CODES,
    **_SETTINGS,
)


def _print_version(asked: bool) -> None:
    if asked:
        terminal.write("-", f"refscale {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


_command = partial(app.command, cls=Command)
_command("encode")(coding.encode)
_command("decode")(coding.decode)
_command("batch")(batch.batch)
_command("batch-decode")(batch.batch_decode)
_command("info")(inspection.info)
_command("fingerprint")(inspection.fingerprint)
_command("verify")(inspection.verify)
_command("diff")(inspection.diff)
_command("extract-lr")(inspection.extract_lr)
_command("train")(study.train)
_command("eval")(study.evaluate_command)
_command("rd-curve")(study.rd_curve)

_refs = typer.Typer(name="refs", help="Keep an index of references, and of files that need them.", **_SETTINGS)
app.add_typer(_refs)
_command = partial(_refs.command, cls=Command)
_command("add")(refs.add)
_command("list")(refs.list_pictures)
_command("find")(refs.find)
_command("check")(refs.check)
_command("gc")(refs.collect)
_command("rebase")(refs.rebase)
_command("move")(refs.move)
_command("bundle")(bundle.bundle)


def main() -> NoReturn:
    """Run the command line; an error that a user can cause is printed as one line and gives its exit code."""
    process.open_closed_streams()
    terminal.show_warnings_as_lines()
    code, unwritable = 0, None
    try:
        app()
    except SystemExit as end:
        code = int(end.code or 0)
    except RefscaleError as error:
        terminal.say(interrupt.came(), f"error: {error}")
        code = error.exit_code
    except BrokenPipeError:  # who reads stdout has gone
        code = 1
    except OSError as error:  # of help or completion, which Typer writes; see `Command.invoke`
        if error.filename is not None or error.errno is None:  # a bug, or lack of memory: see `memory.told`
            raise
        unwritable = reason(error)
    unflushed, _ = process.flush(sys.stdout), process.flush(sys.stderr)
    unwritable = unwritable or unflushed
    if unwritable is not None and code == 0:
        terminal.say(False, f"error: cannot write to stdout: {unwritable}")
        code = OutputError.exit_code
    sys.exit(code)
