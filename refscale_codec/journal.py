"""Journals: files of JSON lines, one for each thing that was done, so that a later run goes on where one stopped."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from refscale_codec.errors import OutputError, reason, writing


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal, none if there is no such file.

    Lines that were cut short, or are damaged so that `line` would not have written them, are left out.

    Raises:
        OutputError: it cannot be read, so it cannot be gone on with.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe or a device need not end
        raise OutputError(f"cannot read {path}: it is no file")
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise OutputError(f"cannot read {path}: {reason(error)}") from None
    lines = []
    for text in texts:
        with suppress(ValueError, RecursionError):
            fields = json.loads(text)
            if isinstance(fields, dict) and line(fields):
                lines.append(fields)
    return lines


def line(fields: dict[str, Any]) -> bytes:
    """Return a line of a journal; ValueError for a number that is not finite."""
    return json.dumps(fields, allow_nan=False).encode() + b"\n"


@contextmanager
def appending(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that appends a line, which is in the file when it returns.

    Raises:
        OutputError: the journal cannot be written; by that function, too.
    """
    with writing(path):
        file = path.open("a+b", buffering=0)
    with file:
        with writing(path):
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # the last line was cut short
                    file.write(b"\n")

        def append(fields: dict[str, Any]) -> None:
            with writing(path):
                data = line(fields)
                while data:  # a disk that is nearly full takes a part
                    data = data[file.write(data) :]

        yield append
