"""Journals: files of JSON lines, one for each thing that was done, so that a later run goes on where one stopped."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal, none if there is no such file; lines that were cut short are left out."""
    lines = []
    with suppress(FileNotFoundError):
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict):
                    lines.append(line)
    return lines


def line(fields: dict[str, Any]) -> bytes:
    """Return a line of a journal."""
    return json.dumps(fields, allow_nan=False).encode() + b"\n"


@contextmanager
def appending(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that appends a line, which is in the file when it returns."""
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":  # the last line was cut short
                file.write(b"\n")

        def append(fields: dict[str, Any]) -> None:
            file.write(line(fields))
            file.flush()

        yield append
