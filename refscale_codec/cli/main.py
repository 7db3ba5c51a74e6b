"""The command line `refscale`: one function a command, in `coding`, `inspection` and `study`.

Each parses, calls the library and prints. Results go to stdout or files, everything else to stderr. Torch, numpy and
Pillow are imported inside the commands that need them, so that `--help` and `info` start at once.
"""

import sys
from typing import Annotated, NoReturn

import typer

from refscale_codec import __version__
from refscale_codec.cli import coding, inspection, process, study, terminal
from refscale_codec.errors import RefscaleError, printable

app = typer.Typer(
    name="refscale",
    help="Compress pictures of a place against an older picture of the same place.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        terminal.tell(f"refscale {__version__}")
        raise typer.Exit


app.command("encode")(coding.encode)
app.command("decode")(coding.decode)
app.command("info")(inspection.info)
app.command("verify")(inspection.verify)
app.command("diff")(inspection.diff)
app.command("extract-lr")(inspection.extract_lr)
app.command("train")(study.train)
app.command("eval")(study.evaluate_command)
app.command("rd-curve")(study.rd_curve)


def main() -> NoReturn:
    """Run the command line; an error that a user can cause is printed as one line and gives its exit code."""
    process.show_warnings_as_lines()
    try:
        app()
    except RefscaleError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    sys.exit(0)
