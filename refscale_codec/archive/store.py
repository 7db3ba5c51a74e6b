"""The SQLite file of an index: its tables, the paths in them, transactions, and SQLite's errors as one message.

A picture or file is one row, by its path: relative to the index's folder where it lies below that, so that both can
move together.

The journal is SQLite's default one, not a write-ahead log: that would need shared memory, which network disks do not
have, and two more files beside the index. A transaction is as long as one picture's rows, so processes that add at the
same time wait for each other only for moments.
"""

import json
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from refscale_codec.archive import descriptor, disk, footprint
from refscale_codec.archive.description import iso_date
from refscale_codec.errors import IndexFault, UsageError
from refscale_codec.fileformat import container

VERSION = 1
"""Of the tables; in `user_version`."""

_APPLICATION = 0x52534349  # in `application_id`: "RSCI"
_PATIENCE = 60.0  # seconds to wait for another process
_LISTS = "picture", "file"  # tables with a row for each path
_TABLES = """
CREATE TABLE picture (
    path BLOB PRIMARY KEY, size INTEGER NOT NULL, modified INTEGER NOT NULL, fingerprint BLOB NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, bands INTEGER NOT NULL, type TEXT NOT NULL,
    outline TEXT, west REAL, south REAL, east REAL, north REAL,
    date TEXT, sensor TEXT, nodata REAL NOT NULL, cloud REAL, descriptor BLOB NOT NULL
);
CREATE INDEX picture_fingerprint ON picture (fingerprint);
CREATE INDEX picture_place ON picture (west, east, south, north);
CREATE TABLE file (path BLOB PRIMARY KEY, size INTEGER, modified INTEGER);
CREATE TABLE need (path BLOB NOT NULL, fingerprint BLOB NOT NULL, PRIMARY KEY (path, fingerprint)) WITHOUT ROWID;
CREATE INDEX need_fingerprint ON need (fingerprint);
"""

PICTURE = (
    "path, size, modified, fingerprint, width, height, bands, type, outline, west, south, east, north, "
    "date, sensor, nodata, cloud, descriptor"
)
"""The columns of a picture's row, wherever a damaged index has them, and no others."""


def _number(low: float, high: float, *, optional: bool = False) -> Callable[[Any], bool]:
    return lambda cell: (isinstance(cell, int | float) and low <= cell <= high) or (optional and cell is None)


_longitude, _latitude = _number(*footprint.LONGITUDES), _number(*footprint.LATITUDES)


def _any(cell: Any) -> bool:
    return True


def _is_outline(cell: Any) -> bool:
    """Return whether a text is JSON of four corners."""
    try:
        corners = json.loads(cell)
        return len(corners) == 4 and all(_longitude(x) and _latitude(y) for x, y in corners)
    except (ValueError, TypeError, RecursionError):
        return False


_CELLS: dict[str, Callable[[Any], bool]] = {
    "path": lambda cell: isinstance(cell, bytes) and b"\0" not in cell and cell != b"",
    "promise": lambda cell: (
        isinstance(cell, bytes) and re.fullmatch(rb"[^\0]+\0\d{1,18} [0-9a-f]{8}", cell) is not None
    ),
    "fingerprint": lambda cell: isinstance(cell, bytes) and len(cell) == container.FINGERPRINT_SIZE,
    "needed": lambda cell: cell is None or isinstance(cell, bytes) and len(cell) == container.FINGERPRINT_SIZE,
    **dict.fromkeys(("width", "height"), lambda cell: isinstance(cell, int) and cell > 0),
    "bands": lambda cell: isinstance(cell, int) and 0 < cell < 256,
    "outline": lambda cell: cell is None or _is_outline(cell),
    **dict.fromkeys(("west", "east"), lambda cell: cell is None or _longitude(cell)),
    **dict.fromkeys(("south", "north"), lambda cell: cell is None or _latitude(cell)),
    "date": lambda cell: cell is None or isinstance(cell, str) and iso_date(cell) == cell,
    "type": lambda cell: isinstance(cell, str),
    "sensor": lambda cell: cell is None or isinstance(cell, str),
    "nodata": _number(0, 1),
    "cloud": _number(0, 1, optional=True),
    "descriptor": lambda cell: isinstance(cell, bytes) and len(cell) == descriptor.SIZE,
}
"""Whether a cell can be one, by the name of its column."""


def _damaged(why: str) -> str:
    return f"is damaged ({why}): restore it, or remove it and make it again with `refscale refs add`"


class Store:
    """An open index. It is thread-safe, and so are processes that have the same one open."""

    def __init__(self, path: str | os.PathLike[str], *, create: bool = False) -> None:
        """Open a file; with `create`, make it if there is none.

        Raises:
            IndexFault: there is no such file, or it is no index of this version.
        """
        self.name = os.fspath(path)
        self.path = Path(os.path.realpath(path))  # also, that a name such as :memory: is no other than others
        self._lock = threading.RLock()
        if not create and disk.is_gone(self.path):
            raise IndexFault(f"there is no index {self.name}; `refscale refs add` makes one")
        with self._errors():
            self._file = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(create)
        except BaseException:
            self.close()
            raise

    def _prepare(self, create: bool) -> None:
        if create and not self.rows("SELECT 1 FROM sqlite_master LIMIT 1"):
            with self.writing():
                if not self.rows("SELECT 1 FROM sqlite_master LIMIT 1"):  # no other process was faster
                    for statement in _TABLES.split(";")[:-1]:
                        self.do(statement)
                    self.do(f"PRAGMA application_id = {_APPLICATION}")
                    self.do(f"PRAGMA user_version = {VERSION}")
        ((application,),) = self.rows("PRAGMA application_id")
        ((version,),) = self.rows("PRAGMA user_version")
        if not application and not self.rows("SELECT 1 FROM sqlite_master LIMIT 1"):
            raise IndexFault(f"{self.name} is empty; `refscale refs add` makes an index of it")
        if application != _APPLICATION:
            raise IndexFault(f"{self.name} is a database of another program, not an index of references")
        if version != VERSION:
            raise IndexFault(f"{self.name} is an index of version {version}; this refscale reads version {VERSION}")

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query; IndexFault if a cell is none that an index can have, since SQLite takes any."""
        with self._lock, self._errors():
            cursor = self._file.execute(query, values)
            found = cursor.fetchall()
        names = [column[0] for column in cursor.description]
        for name, cells in zip(names, zip(*found, strict=True), strict=False):
            if not all(map(_CELLS.get(name, _any), cells)):
                raise IndexFault(f"{self.name} {_damaged(f'a wrong {name}')}")
        return found

    def do(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Execute a statement, and return how many rows it changed."""
        with self._lock, self._errors():
            return self._file.execute(statement, values).rowcount

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Do what is inside as a whole or not at all, while nobody else writes."""
        with self._lock:
            self.do("BEGIN IMMEDIATE")
            try:
                yield
                self.do("COMMIT")
            except BaseException:
                with suppress(IndexFault):
                    self.do("ROLLBACK")
                raise

    def require_writable(self) -> None:
        """Raise IndexFault if it cannot be written to; that shows only when something is."""
        with self._lock:
            self.do("BEGIN IMMEDIATE")
            try:
                self.do(f"PRAGMA user_version = {VERSION}")
            finally:
                with suppress(IndexFault):  # on a full disk SQLite has done so by itself
                    self.do("ROLLBACK")

    def stored(self, path: str | os.PathLike[str]) -> bytes:
        """Return a path as it is stored: its folder without links, relative to the index's if it lies below that."""
        around, name = os.path.split(path)
        named = name not in ("", os.curdir, os.pardir)  # `..` behind a link is not the folder that the link is in
        whole = os.path.join(os.path.realpath(around), name) if named else os.path.realpath(path)
        folder = str(self.path.parent)
        inside = os.path.relpath(whole, folder) if whole.startswith(folder.rstrip(os.sep) + os.sep) else whole
        return os.fsencode(inside.replace(os.sep, "/"))

    def real(self, stored: bytes) -> Path:
        """Return the absolute path; the inverse of `stored`."""
        return self.path.parent / os.fsdecode(stored)

    def move(self, old: str | os.PathLike[str], new: str | os.PathLike[str]) -> int:
        """Change the paths of all that was in a folder; see `References.move`."""
        before, after = map(os.path.realpath, (old, new))
        with self.writing():
            known = [path for table in _LISTS for (path,) in self.rows(f"SELECT path FROM {table}")]
            places = {}
            for stored in known:
                path = os.path.abspath(self.real(stored))
                if path.startswith(before.rstrip(os.sep) + os.sep):
                    places[stored] = self.stored(os.path.join(after, os.path.relpath(path, before)))
            for taken in (set(known) - places.keys()).intersection(places.values()):
                raise UsageError(f"{self.name} has another {self.real(taken)}; nothing was moved")
            for table in (*_LISTS, "need"):  # by names that no path has, since one may move to where another was
                for stored, place in places.items():
                    self.do(f"UPDATE {table} SET path = ? WHERE path = ?", (b"\0" + place, stored))
                self.do(f"UPDATE {table} SET path = substr(path, 2) WHERE substr(path, 1, 1) = x'00'")
        return len(places)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn SQLite's errors into an IndexFault that names the file."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            text = "" if isinstance(error, UnicodeDecodeError) else str(error)
            if "not a database" in text:
                why = "is not an index of references"
            elif "locked" in text or "busy" in text:
                why = f"is busy: another process has been writing to it for {_PATIENCE:.0f} s"
            elif "unable to open" in text:
                why = "cannot be opened"
            elif "UTF-8" in text or isinstance(error, UnicodeDecodeError):
                why = _damaged("text that is none")
            elif isinstance(error, sqlite3.OperationalError | sqlite3.ProgrammingError):  # disk full, read-only, closed
                why = f"cannot be used: {text}"
            else:
                why = _damaged(text)
            raise IndexFault(f"{self.name} {why}") from None
