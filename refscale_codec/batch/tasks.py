"""What is to be done, by what earlier runs have done; nothing is decoded or written here."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from refscale_codec import journal
from refscale_codec.errors import UsageError, writing
from refscale_codec.picture import files

JOURNAL = "batch.jsonl"
DONE = "done"
"""The state of an item that is coded or decoded already; the others are new, changed and failed."""

_TYPES: dict[str, Any] = {  # of what is read in a line
    **dict.fromkeys(("file", "key"), str),
    **dict.fromkeys(("error", "sha256"), str | None),
    **{"bytes": int | None, "bpp": float | int | None, "references": dict | None},
}
_BEGINNING = b'{"name": '  # of a line


class Item(NamedTuple):
    """A picture to encode or a file to decode, its references, and the file that becomes of it."""

    name: str
    picture: Path  # or the `.rsc` file
    references: tuple[Path, ...]  # as far as they are known before
    file: str  # path within the folder of the output
    needs: tuple[str, ...] = ()  # fingerprints of the references that decoding needs


class Task(NamedTuple):
    """What is to be done with an item."""

    item: Item
    folder: Path  # of the output
    key: str  # names everything that the file depends on
    state: str
    written: str | None  # SHA-256 of the file that an earlier run wrote


class Job(Protocol):
    """What is done with all items, and how; small, and can be pickled for another process."""

    @property
    def replace(self) -> bool:
        """Whether a file that is there and no run of the batch has written may be overwritten."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of what a line tells beside what it always does."""

    def depends(self, item: Item) -> list[Any]:
        """Return what the file of an item depends on, up to how the machine rounds; made of what JSON has."""

    def do(self, task: Task) -> tuple[dict[str, Any], bytes]:
        """Return what the line tells of an item, `fields` and `reference_pictures`, and its file, not yet written.

        Raises:
            RefscaleError: it cannot be coded or decoded.
        """


def distinct(items: list[Item], source: Path | str) -> list[Item]:
    """Return the items; UsageError for two that would be one file, or are one picture."""
    first: dict[str, Item] = {}
    for item in items:
        other = first.setdefault(os.path.normcase(item.file), item)
        if other is not item and other.picture == item.picture:
            raise UsageError(f"{source} lists {item.picture} more than once")
        if other is not item:
            raise UsageError(f"{other.picture} and {item.picture} would both be {item.file}: rename one")
    return items


def plan(items: Iterable[Item], job: Job, folder: Path) -> list[Task]:
    """Return what is to be done with each item.

    Args:
        items: from `find`. One is done if the journal says so for the same key and its file is as it was written: a
            `.rsc` file by its hash, since it may be all that is left of a picture; what was decoded, which may be large
            and can be decoded again, by its size.
        job: what is to be done with them.
        folder: of the output; need not exist.
    """
    known = told(folder)
    tasks = []
    for item in items:
        key = hashlib.sha256(json.dumps(job.depends(item)).encode()).hexdigest()[:16]
        line = known.get(item.file)
        if line is None:
            state = "new"
        elif line["error"] is not None:
            state = "failed"
        else:
            state = DONE if line["key"] == key and _is_as_written(folder / item.file, line) else "changed"
        tasks.append(Task(item, folder, key, state, None if line is None else line["sha256"]))
    return tasks


def told(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the last line of each file in the journal of a folder; damaged lines are left out."""
    absent: dict[str, Any] = dict.fromkeys(_TYPES)
    lines = [absent | line for line in journal.read(folder / JOURNAL)]
    return {
        line["file"]: line
        for line in lines
        if all(isinstance(line[name], kind) for name, kind in _TYPES.items())
        and (line["error"] is not None or None not in (line["bytes"], line["sha256"]))
    }


def require_journal(folder: Path, *, replace: bool) -> None:
    """Raise UsageError if the journal of a folder is not that of a batch; with `replace`, empty it."""
    path = folder / JOURNAL
    lines = journal.read(path)
    if not path.exists() or any({"file", "key"} <= line.keys() for line in lines):
        return
    with writing(path):
        data = path.read_bytes()
    if _BEGINNING.startswith(data[: len(_BEGINNING)]) and b"\n" not in data:  # the first line was cut short
        return
    if not replace:
        raise UsageError(f"{path} exists, and no earlier run has written it: -f overwrites it")
    files.write_atomically(path, b"")


def _is_as_written(path: Path, line: dict[str, Any]) -> bool:
    try:
        if path.stat().st_size != line["bytes"]:
            return False
        return path.suffix != ".rsc" or hashlib.sha256(path.read_bytes()).hexdigest() == line["sha256"]
    except OSError:
        return False


def version(path: Path) -> list[int]:
    """Return what changes when a file does, its size and time of modification; nothing if there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return []
    return [status.st_size, status.st_mtime_ns]
