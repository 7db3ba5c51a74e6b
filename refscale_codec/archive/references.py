"""The index: pictures that may be references, and the `.rsc` files in its care with the references that they need.

Pictures are known again by size and time of modification, and only then by their fingerprint. The decoded picture of a
`.rsc` file may be a reference, too: then the file has a row of each kind.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from refscale_codec.api.arguments import FilePath, Picture, image_of, path_of, whole
from refscale_codec.archive import disk, search
from refscale_codec.archive.description import Description, of_picture, require_date
from refscale_codec.archive.gain import Target
from refscale_codec.archive.store import Store
from refscale_codec.errors import (
    ContainerError,
    ImageError,
    IndexFault,
    ReferenceMismatch,
    UsageError,
    reason,
)
from refscale_codec.fileformat import container, references
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures

_LEAST = 0.01  # gain of a candidate that is worth reading again for a try


class Entry(NamedTuple):
    """A picture in the index."""

    path: Path
    """Absolute."""
    described: Description


class Candidate(NamedTuple):
    """A picture that may be a reference."""

    entry: Entry
    gain: float
    """About which share of the bits it saves; see `gain`."""


class Problem(NamedTuple):
    """A file that would not decode."""

    path: Path
    reason: str
    """`missing`, `unreadable`, or of a reference `unknown`, `missing`, `changed`, `unreadable`."""
    detail: str


class References:
    """An index of references; thread-safe, and other processes may have the same one open."""

    def __init__(self, path: FilePath, *, create: bool = False) -> None:
        """Open an index; with `create`, make it if there is none.

        Raises:
            IndexFault: there is none, or it cannot be used.
        """
        self._store = Store(path_of(path, "an index"), create=create)
        self.path = self._store.path

    def close(self) -> None:
        """Close the index."""
        self._store.close()

    def __enter__(self) -> "References":
        """Return the object itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    # --- adding ------------------------------------------------------------------------------------------------------

    def add(self, path: FilePath, *, again: bool = False, date: str | None = None) -> bool:
        """Add a picture that may be a reference, or take a `.rsc` file into care.

        Args:
            path: of the picture or file.
            again: read it even if its size and time of modification are known.
            date: when it was taken, in ISO 8601, if it does not say so itself.

        Returns:
            Whether it was new or had changed.

        Raises:
            ImageError, ContainerError: it cannot be read.
            UsageError: of a date that is none.
        """
        path = path_of(path, "a picture or a file")
        date = None if date is None else require_date(date, "date")
        stored, status = self._store.stored(path), disk.status(path)
        known = "SELECT 1 FROM {} WHERE (path, size, modified) = (?, ?, ?)"
        both = f"{known.format('picture')} UNION {known.format('file')}"
        if not again and self._store.rows(both, (stored, *status) * 2):
            return False
        if disk.is_coded(path):
            needs = references.needed(disk.unpacked(path))
            with self._store.writing():
                self._store.do("INSERT OR REPLACE INTO file VALUES (?, ?, ?)", (stored, *status))
                self._store.do("DELETE FROM need WHERE path = ?", (stored,))
                for fingerprint in needs:
                    self._store.do("INSERT INTO need VALUES (?, ?)", (stored, fingerprint))
            return True
        described = of_picture(pictures.read(Path(path)))
        if described.date is None:
            described = described._replace(date=date)
        values = stored, *status, *search.columns(described)
        self._store.do(f"INSERT OR REPLACE INTO picture VALUES ({', '.join('?' * len(values))})", values)
        return True

    def require_writable(self) -> None:
        """Raise IndexFault if the index can take nothing into care: it is read-only, or busy for long."""
        self._store.require_writable()

    @contextmanager
    def care(self, path: FilePath, data: bytes) -> Iterator[None]:
        """Take a `.rsc` file into care that is written inside; what it needs is kept from now on.

        If writing fails, the index is as it was.

        Raises:
            ReferenceMismatch: the index no longer has a picture that it needs.
        """
        stored = self._store.stored(path)
        undo: list[tuple[str, tuple[bytes, ...]]] = []
        with self._store.writing():
            if self._store.do("INSERT OR IGNORE INTO file VALUES (?, NULL, NULL)", (stored,)):
                undo.append(("DELETE FROM file WHERE path = ?", (stored,)))
            for fingerprint in references.needed(container.unpack(data)):
                if not self._store.rows("SELECT 1 FROM picture WHERE fingerprint = ?", (fingerprint,)):
                    raise ReferenceMismatch(f"{self._store.name} no longer has the reference {fingerprint.hex()}")
                if self._store.do("INSERT OR IGNORE INTO need VALUES (?, ?)", (stored, fingerprint)):
                    undo.append(("DELETE FROM need WHERE (path, fingerprint) = (?, ?)", (stored, fingerprint)))
        try:
            yield
        except BaseException:
            if not disk.holds(path, data):  # an interruption may come when it is written
                with suppress(IndexFault), self._store.writing():
                    for statement, values in undo:
                        self._store.do(statement, values)
            raise
        self.add(path, again=True)

    # --- finding -----------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Return all pictures, by their paths."""
        return [self._entry(row) for row in self._store.rows("SELECT * FROM picture ORDER BY path")]

    def files(self) -> list[tuple[Path, list[bytes]]]:
        """Return the `.rsc` files in the index's care, each with the fingerprints that it needs."""
        rows = self._store.rows(
            "SELECT path, fingerprint AS needed FROM file LEFT JOIN need USING (path) ORDER BY path"
        )
        found: dict[bytes, list[bytes]] = {}
        for path, fingerprint in rows:
            found.setdefault(path, []).extend([fingerprint] * (fingerprint is not None))
        return [(self._store.real(path), needs) for path, needs in found.items()]

    def find(self, picture: Picture, most: int = 1) -> list[Candidate]:
        """Return the pictures that would save most as a reference of another, the best first.

        They are looked for by footprint, and by descriptor where one of them has no footprint; of the 20 that
        fit best the gain is estimated, and those of next to none are left out. A picture is not a candidate for itself,
        and one that is another now is none until it is added again. The index is not written to.
        """
        if whole(most, "most") < 1:
            raise UsageError(f"most must be at least 1, not {most}")
        image = image_of(picture, "the picture", None, need_georeference=True)
        described, target = of_picture(image), Target(image)
        found = []
        for row in search.shortlist(self._store, described):
            entry = self._entry(row)
            try:
                older = pictures.read(entry.path, need_georeference=False)
                same = disk.status(entry.path) == row[1:3] or older.fingerprint() == entry.described.fingerprint
            except ImageError:  # it is no longer there; `check` tells
                continue
            if same and (gain := target.gain(older)) >= _LEAST:
                found.append(Candidate(entry, gain))
        return sorted(found, key=lambda candidate: -candidate.gain)[:most]

    def paths(self, fingerprint: bytes) -> list[Path]:
        """Return where a picture is, or was when it was added."""
        if not isinstance(fingerprint, bytes):
            raise UsageError(f"a fingerprint must be given as bytes, not as {type(fingerprint).__name__}")
        rows = self._store.rows("SELECT path FROM picture WHERE fingerprint = ? ORDER BY path", (fingerprint,))
        return [self._store.real(path) for (path,) in rows]

    def references(self, data: bytes | FilePath) -> list[Image]:
        """Return the references that a `.rsc` file needs, given as bytes or by its path.

        Raises:
            ContainerError: not a `.rsc` file.
            ReferenceMismatch: see `picture`.
        """
        content = container.unpack(data) if isinstance(data, bytes) else disk.unpacked(path_of(data, "a file"))
        return [self.picture(fingerprint) for fingerprint in references.needed(content)]

    def place(self, fingerprint: bytes) -> Path:
        """Return where the picture of a fingerprint is; arguments and errors are those of `picture`."""
        return self._read(fingerprint)[0]

    def picture(self, fingerprint: bytes) -> Image:
        """Return the picture of a fingerprint.

        Raises:
            ReferenceMismatch: the index has none, or what was one is missing, has changed or cannot be read.
        """
        return self._read(fingerprint)[1]

    def _read(self, fingerprint: bytes) -> tuple[Path, Image]:
        faults = []
        for path in self.paths(fingerprint):
            try:
                image = pictures.read(path, need_georeference=False)
            except ImageError as error:
                faults.append(("missing" if not path.exists() else "unreadable", str(error)))
                continue
            if image.fingerprint() == fingerprint:
                return path, image
            faults.append(("changed", f"{path} is another picture now, {image.fingerprint().hex()}"))
        kind, detail = faults[0] if faults else ("unknown", f"{self._store.name} has no such picture")
        raise _Lost(f"the reference {fingerprint.hex()} is {kind}: {detail}", kind)

    # --- keeping -----------------------------------------------------------------------------------------------------

    def check(self, *, full: bool = False) -> Iterator[tuple[Path, Problem | None]]:
        """Yield each `.rsc` file in care, and why it would not decode.

        Args:
            full: read every reference; otherwise only those whose size or time of modification has changed.
        """
        faults: dict[bytes, tuple[str, str] | None] = {}
        for path, needs in self.files():
            try:
                self.add(path, again=full)
                needs = references.needed(disk.unpacked(path)) if full else self._needs(path)
            except (ContainerError, ImageError) as error:
                yield path, Problem(path, "missing" if not path.exists() else "unreadable", str(error))
                continue
            for fingerprint in needs:
                if fingerprint not in faults:
                    faults[fingerprint] = self._fault(fingerprint, full)
            bad = [fault for fingerprint in needs if (fault := faults[fingerprint]) is not None]
            yield path, Problem(path, *bad[0]) if bad else None

    def _fault(self, fingerprint: bytes, full: bool) -> tuple[str, str] | None:
        rows = self._store.rows("SELECT path, size, modified FROM picture WHERE fingerprint = ?", (fingerprint,))
        for path, *status in rows:
            try:
                if not full and list(disk.status(self._store.real(path))) == status:
                    return None
            except ImageError:
                continue
        try:
            self.picture(fingerprint)
        except _Lost as error:
            return error.kind, str(error)
        return None

    def _needs(self, path: Path) -> list[bytes]:
        rows = self._store.rows("SELECT fingerprint FROM need WHERE path = ?", (self._store.stored(path),))
        return [fingerprint for (fingerprint,) in rows]

    def collect(
        self, before: str | None = None, *, delete: bool = False, lost_files: bool = False, dry_run: bool = False
    ) -> Iterator[tuple[Path, str]]:
        """Forget pictures that no `.rsc` file in care needs; yield each path with what is done.

        Args:
            before: also pictures taken before this date; otherwise only those whose file is gone.
            delete: delete files of pictures, too, unless they have changed since they were added.
            lost_files: first forget the `.rsc` files that are gone, with what they need.
            dry_run: change nothing.

        Raises:
            UsageError: of a date that is none.
        """
        before = None if before is None else require_date(before, "before")
        self._refresh()
        gone = [path for path, _ in self.files() if lost_files and not path.exists()]
        for path in gone:
            if not dry_run:
                with self._store.writing():
                    for table in ("file", "need"):
                        self._store.do(f"DELETE FROM {table} WHERE path = ?", (self._store.stored(path),))
            yield path, "forgotten"
        kept = {fingerprint for path, needs in self.files() if path not in gone for fingerprint in needs}
        for stored, fingerprint, date, *status in self._store.rows(
            "SELECT path, fingerprint, date, size, modified FROM picture ORDER BY path"
        ):
            path = self._store.real(stored)
            there = path.exists()
            old = before is not None and date is not None and date < before
            if fingerprint in kept or there and not old:
                continue
            if not dry_run and not self._store.do(
                "DELETE FROM picture WHERE path = ? AND fingerprint NOT IN (SELECT fingerprint FROM need)", (stored,)
            ):
                continue  # a file needs it since then
            done = "forgotten"
            if delete and there and list(disk.status(path)) == status:
                done = "deleted"
                if not dry_run:
                    try:
                        path.unlink()
                    except OSError as error:
                        done = f"forgotten, but not deleted ({reason(error)})"
            yield path, done

    def _refresh(self) -> None:
        """Read the `.rsc` files in care again that have changed; of one that cannot be read, what it needed stays."""
        for path, _ in self.files():
            with suppress(ImageError, ContainerError):
                self.add(path)

    def move(self, old: FilePath, new: FilePath) -> int:
        """Change the paths of all that was in a folder to another folder; return how many were changed.

        Raises:
            UsageError: the index has another picture or file at one of the new paths; nothing is changed.
        """
        return self._store.move(path_of(old, "a folder"), path_of(new, "a folder"))

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        return Entry(self._store.real(row[0]), search.description(row))


class _Lost(ReferenceMismatch):
    """A reference that cannot be read, and in one word why."""

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind
