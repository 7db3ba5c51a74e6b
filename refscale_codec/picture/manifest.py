"""Manifests: lists of picture pairs, as people and spreadsheets save them.

A manifest is a table as text, a pair a row. Its columns are `target` and `reference`, which are paths, relative to the
manifest's folder; an empty reference means a single picture. Columns `split`, `dataset` and `name` may be there, and
others, which are ignored.

Commas, semicolons or tabs separate cells, which may be in quotes. The order of the columns, upper and lower case in
their names, blanks around cells, empty rows and the kind of line ends make no difference. The text is UTF-8 or UTF-16,
with a byte order mark or without. Bytes that are not UTF-8 are those of a file name, as in a list that a shell writes.
A backslash separates folders, as on Windows, where there is no file with one in its name.
"""

import codecs
import csv
import io
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from refscale_codec.errors import UsageError, naming, printable, reason
from refscale_codec.picture import files

SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".xlsx", ".xls", ".ods")
"""Of files that are manifests where a picture may be given, too; those of spreadsheets themselves are refused."""

_MOST_BYTES = 1 << 28  # a device need not end
_SEPARATORS = ",;\t"
_NEEDED = ("target", "reference")
_END = ["\x03end"]  # a row put behind the last one: a quote that is never closed swallows it


@dataclass(frozen=True)
class Pair:
    """One row of a manifest; dataset and name can be printed, see `errors.printable`."""

    dataset: str
    name: str
    target: Path
    reference: Path | None
    row: str = field(default="", compare=False)  # where it is from, for messages: "pairs.csv, row 2"

    def named_in_errors(self) -> AbstractContextManager[None]:
        """Return a context in which errors begin with the row that the pair is from."""
        return naming(self.row) if self.row else nullcontext()


class _Row(NamedTuple):
    number: int  # as a spreadsheet counts: the first is 1, and empty ones count
    cells: list[str]


def read_manifest(path: Path, splits: tuple[str, ...] | None = None) -> list[Pair]:
    """Return the pairs of a manifest; `splits` None takes all rows, as does a manifest without a column split.

    Raises:
        UsageError: a file that cannot be read or is no such table, a missing column, a row without a target, or no row
            of these splits.
    """
    text, separators = _text(path), _SEPARATORS
    if hint := re.match(r'"?sep=(.)"?[ \t]*(\r\n|\r|\n|$)', text):  # tells spreadsheets the separator
        text, separators = text[hint.end() :], hint[1]
    try:
        separator = max(separators, key=lambda separator: _columns_known(next(_rows(text, separator)).cells))
        *rows, last = _rows(text, separator)
    except (csv.Error, ValueError) as error:  # the latter for a separator that cannot be one
        raise UsageError(f"cannot read the manifest {path}: {error}") from None
    if last.cells != _END:
        raise UsageError(f"{path}, row {last.number}: a quote is opened and never closed")
    columns = [cell.casefold() for cell in rows[0].cells] if rows else []
    if len(rows) < 2 or not set(_NEEDED) <= set(columns):
        found = f"it has the columns {', '.join(map(repr, rows[0].cells))}" if rows else "it is empty"
        found += " and no row below them" if len(rows) == 1 else ""
        raise UsageError(f"{path} needs the columns 'target' and 'reference' and at least one row; {found}")
    twice = [name for name in columns if name and columns.count(name) > 1]
    if twice:
        raise UsageError(f"{path} has the column {twice[0]!r} twice")
    pairs = [
        _pair(row, columns, path)
        for row in rows[1:]
        if splits is None or "split" not in columns or _cell(row, columns, "split") in splits
    ]
    if not pairs:
        raise UsageError(f"{path} has no row of the split {' or '.join(splits or ())}")
    return pairs


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = files.contents(file, str(path), lambda head, name: _MOST_BYTES)
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")
        elif b"\0" in data:
            at = data.lower().find(_NEEDED[0].encode("utf-16-le"))  # odd in the other order of bytes
            text = data.decode("utf-16-be" if at % 2 else "utf-16-le")
        else:
            text = data.decode("utf-8-sig", "surrogateescape")
    except UnicodeDecodeError:
        text = "\0"
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the manifest {path}: {reason(error)}") from None
    if "\0" in text:
        raise UsageError(f"cannot read the manifest {path}: it is not text; save the table as CSV")
    return text


def _rows(text: str, separator: str) -> Iterator[_Row]:
    """Yield the rows that are not empty, and `_END`."""
    file = io.StringIO(f"{text}\n{_END[0]}", newline="")
    for number, row in enumerate(csv.reader(file, delimiter=separator, skipinitialspace=True), 1):
        cells = row if row == _END else [cell.strip() for cell in row]
        if any(cells):
            yield _Row(number, cells)


def _columns_known(header: list[str]) -> tuple[int, int]:
    """Return how many of the needed columns there are, and how many at all."""
    return len({cell.casefold() for cell in header}.intersection(_NEEDED)), len(header)


def _cell(row: _Row, columns: list[str], name: str) -> str:
    """Return a cell; spreadsheets leave out separators of empty cells at the end of a row."""
    column = columns.index(name) if name in columns else len(row.cells)
    return row.cells[column] if column < len(row.cells) else ""


def _pair(row: _Row, columns: list[str], path: Path) -> Pair:
    target, reference, dataset, name = (_cell(row, columns, name) for name in (*_NEEDED, "dataset", "name"))
    where = f"{path}, row {row.number}"
    if not target:
        raise UsageError(f"{where}: there is no target")
    if any(row.cells[len(columns) :]):
        raise UsageError(
            f"{where}: {len(row.cells)} cells for {len(columns)} columns; put cells that hold a separator in quotes"
        )
    for file in filter(None, (target, reference)):
        if not _is_utf8(file) and not os.path.exists(path.parent / file):
            raise UsageError(f"{where}: there is no file {file}; if it is named otherwise, save the table as UTF-8")
    target, reference = (_with_separators(file, path.parent) for file in (target, reference))
    return Pair(
        dataset=printable(dataset) or "pictures",
        name=printable(name or Path(target).stem),
        target=path.parent / target,
        reference=path.parent / reference if reference else None,
        row=where,
    )


def _with_separators(file: str, folder: Path) -> str:
    """Return a path, with Windows' separators replaced where only then there is such a file."""
    other = file.replace("\\", "/")
    return other if not os.path.exists(folder / file) and os.path.exists(folder / other) else file


def _is_utf8(name: str) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for letter in name)
