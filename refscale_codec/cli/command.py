"""What all commands have in common: help in groups of options, and foreign errors as those of refscale."""

import errno
import os
from typing import Any

from typer.core import TyperCommand

from refscale_codec.cli import memory, terminal
from refscale_codec.errors import OutOfMemory, UsageError, reason

_LIMITS = errno.EMFILE, errno.ENFILE, errno.EAGAIN


def _has_current_folder() -> bool:
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False


class Command(TyperCommand):
    """A command of `refscale`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; UsageError for an empty one (an unset variable of a shell) or a file without --ref."""
        given, others, order = self.make_parser(ctx).parse_args(args=list(args))
        if others and "ref" in {parameter.name for parameter in self.params} and not given.get("ref"):
            raise UsageError(f"{others[0]} is one file too many; a reference is given with --ref")
        for parameter in order:
            value = given.get(parameter.name)
            if "" in (value if isinstance(value, list | tuple) else (value,)):
                raise UsageError(f"{parameter.opts[0] if parameter.opts[0][0] == '-' else parameter.metavar} is empty")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            OutputError: JSON is asked for, and stdout cannot be written to; before any work.
            OutOfMemory: an allocation failed, whoever reported it, or there may be no more open files or processes.
            UsageError: the current folder has been deleted, and is needed.
        """
        if ctx.params.get("json_output"):
            terminal.require_stdout()
        try:
            return super().invoke(ctx)
        except FileNotFoundError as error:
            if error.filename is None and not _has_current_folder():
                raise UsageError("the current folder has been deleted: change to another") from None
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _LIMITS and error.filename is None:
                raise OutOfMemory(f"the system gives no more: {reason(error)}; fewer --jobs need less") from None
            if not memory.is_lacking(error):
                if isinstance(error, OSError) and not isinstance(error, BrokenPipeError) and error.filename is None:
                    raise RuntimeError("a fault of the system that names no file") from error  # it is not of stdout
                raise
            tiled = any(parameter.name == "max_memory" for parameter in self.params)
            advice = "; smaller tiles need less: give --max-memory, such as 500M" if tiled else ""
            raise OutOfMemory(memory.message(error, advice)) from None

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, each group of them (`rich_help_panel`) under its name."""
        groups: dict[str, list[Any]] = {"Arguments": []}
        others: list[Any] = []
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "argument":
                groups["Arguments"].append((parameter.metavar, getattr(parameter, "help", "")))
            elif group := getattr(parameter, "rich_help_panel", None):
                groups.setdefault(group, []).append(parameter.get_help_record(ctx))
            else:
                others.append(parameter.get_help_record(ctx))
        for name, records in (groups | {"Other options": others}).items():
            if not records:
                continue
            with formatter.section(name):
                formatter.write_dl(records)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what the line of usage names after the command."""
        arguments = [p.metavar for p in self.params if p.param_type_name == "argument"]
        return ["[OPTIONS]", *map(str, arguments)]
