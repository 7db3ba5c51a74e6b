"""The index: pictures that may be references, and the `.rsc` files in its care with the references that they need.

Pictures are known again by size and time of modification, and only then by their fingerprint. The decoded picture of a
`.rsc` file may be a reference, too: then the file has a row of each kind.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from refscale_codec.api.arguments import FilePath, Picture, image_of, path_of, whole
from refscale_codec.archive import chains, disk, keeping, promises, search
from refscale_codec.archive.description import Description, of_picture, require_date
from refscale_codec.archive.gain import Target
from refscale_codec.archive.keeping import Problem
from refscale_codec.archive.store import PICTURE, Store
from refscale_codec.archive.supply import UNREADABLE, Supply
from refscale_codec.errors import (
    ReferenceMismatch,
    RefscaleError,
    UsageError,
    counted,
)
from refscale_codec.fileformat import container, references
from refscale_codec.fileformat.references import LINKS
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures

if TYPE_CHECKING:
    from refscale_codec.model import Model

_log = logging.getLogger(__name__)

_LEAST = 0.01  # gain of a candidate that is worth reading again for a try


class Entry(NamedTuple):
    """A picture in the index."""

    path: Path
    """Absolute."""
    described: Description
    links: int
    """How many `.rsc` files are decoded to have it: none for a picture file."""


class Candidate(NamedTuple):
    """A picture that may be a reference."""

    entry: Entry
    gain: float
    """About which share of the bits it saves; see `gain`."""


class References:
    """An index of references; thread-safe, and other processes may have the same one open."""

    def __init__(
        self,
        path: FilePath,
        *,
        create: bool = False,
        model: "Model | FilePath | None" = None,
        device: str | None = None,
    ) -> None:
        """Open an index.

        Args:
            path: of its file.
            create: make it if there is none.
            model: weights for coded pictures that are references, loaded or the path of a file; others are looked up
                among those that ship.
            device: `auto` (default), `cpu`, `cuda` or `mps`; not with a loaded model.

        Raises:
            IndexFault: there is none, or it cannot be used.
        """
        self._store = Store(path_of(path, "an index"), create=create)
        self.path = self._store.path
        self._supply = Supply(self._store, model, device)

    def close(self) -> None:
        """Close the index."""
        self._supply.forget()
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
            date: when it was taken, in ISO 8601, if it does not say so itself; also of one that is known without. A
                warning through `logging` tells that one which has another date keeps it.

        Returns:
            Whether it was new, had changed or got its date.

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
            dated = "UPDATE picture SET date = ? WHERE path = ? AND date IS NULL"
            if date is not None and self._store.do(dated, (date, stored)) > 0:
                return True
            for (known_date,) in self._store.rows("SELECT date FROM picture WHERE path = ?", (stored,)):
                _tell_unused(path, date, known_date)
            return False
        if not disk.is_coded(path):
            self._insert(stored, status, pictures.read(Path(path)), date)
            return True
        while not self._add_file(path, stored, status):
            status = disk.status(path)
        return True

    def _add_file(self, path: FilePath, stored: bytes, status: tuple[int, int]) -> bool:
        """Take a `.rsc` file into care, and return True; False if it is no longer of that size and time when read."""
        content = disk.unpacked(path)
        with self._store.writing():
            if disk.status(path) != status:  # what another process wrote and added meanwhile is not to be forgotten
                return False
            self._store.do(
                "DELETE FROM picture WHERE path = ? AND fingerprint != ? "
                "AND fingerprint NOT IN (SELECT fingerprint FROM need)",
                (stored, content.output_hash or b""),
            )
            self._store.do("INSERT OR REPLACE INTO file VALUES (?, ?, ?)", (stored, *status))
            self._store.do("DELETE FROM need WHERE path = ?", (stored,))
            for fingerprint in references.needed(content):
                self._store.do("INSERT INTO need VALUES (?, ?)", (stored, fingerprint))
        return True

    def _insert(self, stored: bytes, status: tuple[int, int], image: Image, date: str | None) -> None:
        described = of_picture(image)
        if described.date is None:
            described = described._replace(date=date)
        _tell_unused(self._store.real(stored), date, described.date)
        values = stored, *status, *search.columns(described)
        self._store.do(f"INSERT OR REPLACE INTO picture ({PICTURE}) VALUES ({', '.join('?' * len(values))})", values)

    def add_decoded(
        self, paths: Iterable[FilePath], *, again: bool = False, date: str | None = None
    ) -> Iterator[tuple[Path, RefscaleError | None]]:
        """Take `.rsc` files into care, and add what they decode to as pictures that may be references.

        They may need each other in whatever order they are given. Files whose picture is known, or that have no hash
        of it, which all files of exact models have, are passed over.

        Args:
            paths: of the files.
            again: decode what is known, too.
            date: as for `add`.

        Yields:
            Each path whose picture was added, with None, and at the end those that cannot be references now, with the
            reason. What can be read is in care all the same.

        Raises:
            UsageError: of a date that is none.
        """
        left: dict[Path, RefscaleError] = {}
        waiting = [Path(path_of(path, "a file")) for path in paths]
        while waiting:
            left = {}
            for path in waiting:
                try:
                    if self._add_decoded(path, again, date):
                        yield path, None
                except UNREADABLE as error:
                    left[path] = error
            waiting = list(left) if len(left) < len(waiting) else []
        yield from left.items()

    def _add_decoded(self, path: Path, again: bool, date: str | None) -> bool:
        self.add(path, again=again)
        stored, status = self._store.stored(path), disk.status(path)
        known = self._store.rows("SELECT 1 FROM picture WHERE (path, size, modified) = (?, ?, ?)", (stored, *status))
        if known and not again or not self._supply.is_exact(path):
            return False
        needs = chains.needs(self._store, stored)
        if disk.unpacked(path).output_hash in {*needs, *chains.links(self._store, needs)}:
            return False  # it would be decoded from itself
        self._insert(stored, status, self._supply.decoded(path), require_date(date, "date") if date else None)
        return True

    def require_writable(self) -> None:
        """Raise IndexFault if the index can take nothing into care: it is read-only, or busy for long."""
        self._store.require_writable()

    @contextmanager
    def care(self, path: FilePath, data: bytes) -> Iterator[None]:
        """Take a `.rsc` file into care that is written inside; what it needs is kept from now on, see `promises`.

        If writing fails, the index is as it was. If the process is killed, what the file needs is kept for a day, and
        then `check` and `collect` take it into care if it was written.

        Raises:
            ReferenceMismatch: the index no longer has a picture that it needs, or has no other copy of what the file of
                this path decodes to, and another file needs that.
        """
        stored, needs = self._store.stored(path), references.needed(container.unpack(data))
        with self._store.writing():
            if chains.is_only_copy(self._store, stored) and not disk.holds(path, data):
                raise ReferenceMismatch(
                    f"{path} is the reference of other files, which would be lost if it were overwritten; "
                    "`refscale refs rebase` makes a picture of it that serves them"
                )
            for fingerprint in needs:
                if not self._store.rows("SELECT 1 FROM picture WHERE fingerprint = ?", (fingerprint,)):
                    raise ReferenceMismatch(f"{self._store.name} no longer has the reference {fingerprint.hex()}")
            promise = promises.make(self._store, stored, needs)
        try:
            yield
        except BaseException:
            with suppress(RefscaleError):
                if disk.holds(path, data):  # an interruption may come when it is written
                    self.add(path, again=True)
                promises.take_back(self._store, promise)
            raise
        self.add(path, again=True)
        promises.take_back(self._store, promise)

    # --- finding -----------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Return all pictures, by their paths."""
        return [self._entry(row) for row in self._store.rows(f"SELECT {PICTURE} FROM picture ORDER BY path")]

    def files(self) -> list[tuple[Path, list[bytes]]]:
        """Return the `.rsc` files in the index's care, each with the fingerprints that it needs."""
        rows = self._store.rows(
            "SELECT path, fingerprint AS needed FROM file LEFT JOIN need USING (path) ORDER BY path"
        )
        found: dict[bytes, list[bytes]] = {}
        for path, fingerprint in rows:
            found.setdefault(path, []).extend([fingerprint] * (fingerprint is not None))
        return [(self._store.real(path), needs) for path, needs in found.items()]

    def find(self, picture: Picture, most: int = 1, *, links: int = LINKS) -> list[Candidate]:
        """Return the pictures that would save most as a reference of another, the best first.

        They are looked for by footprint, and by descriptor where one of them has no footprint; of the 20 that
        fit best the gain is estimated, and those of next to none are left out. A picture is not a candidate for itself,
        and one that is another now is none until it is added again; the log says how many could not be read. What would
        make a chain of more than `links` files, that of the picture included, is passed over. Nothing is written to it.
        """
        if whole(most, "most") < 1:
            raise UsageError(f"most must be at least 1, not {most}")
        image = image_of(picture, "the picture", None, need_georeference=True)
        described, target = of_picture(image), Target(image)
        found, unread = [], []
        for row in search.shortlist(self._store, described):
            entry = self._entry(row)
            if not chains.near(self._store, row[3:4], links):
                continue
            try:
                coded = entry.links > 0
                older = self.picture(row[3]) if coded else pictures.read(entry.path, need_georeference=False)
                same = disk.status(entry.path) == row[1:3] or older.fingerprint() == entry.described.fingerprint
            except UNREADABLE as error:
                unread.append(error)
                continue
            if same and (gain := target.gain(older)) >= _LEAST:
                found.append(Candidate(entry, gain))
        if unread:
            many = counted(len(unread), "known picture")
            _log.warning("%s that may fit could not be read: %s", many, unread[0])
        found.sort(key=lambda candidate: -candidate.gain)
        near = chains.near(self._store, (one.entry.described.fingerprint for one in found), links)
        return [one for one in found if one.entry.described.fingerprint in near][:most]

    def paths(self, fingerprint: bytes) -> list[Path]:
        """Return where a picture is, or was when it was added; `.rsc` files that decode to it are the last."""
        return [self._store.real(path) for path in chains.copies(self._store, fingerprint)]

    def links(self, path: FilePath) -> int:
        """Return how many `.rsc` files are decoded to have what is at a path: none for a picture file."""
        stored = self._store.stored(path_of(path, "a picture or a file"))
        behind = chains.links(self._store, chains.needs(self._store, stored))
        return 1 + len(behind) if chains.is_coded(self._store, stored) else 0

    def references(self, data: bytes | FilePath) -> list[Image]:
        """Return the references that a `.rsc` file needs, given as bytes or by its path.

        Raises:
            ContainerError: not a `.rsc` file.
            ReferenceMismatch: see `picture`.
        """
        content = container.unpack(data) if isinstance(data, bytes) else disk.unpacked(path_of(data, "a file"))
        return self._supply.references(references.needed(content))

    def decoded(self, paths: Iterable[FilePath]) -> list[Image]:
        """Return what `.rsc` files decode to as references of one picture; they need not be in the index.

        Raises:
            ContainerError, ImageError, WeightsError, ReferenceMismatch: one cannot be decoded, or is not of an exact
                model, or too many files would have to be decoded.
        """
        return self._supply.decoded_together([Path(path_of(path, "a file")) for path in paths])

    def place(self, fingerprint: bytes) -> Path:
        """Return where the picture of a fingerprint is; arguments and errors are those of `picture`."""
        return self._supply.read(fingerprint)[0]

    def picture(self, fingerprint: bytes) -> Image:
        """Return the picture of a fingerprint; decoded, if it is that of a `.rsc` file.

        Raises:
            ReferenceMismatch: the index has none, or what was one is missing, has changed or cannot be read.
        """
        return self._supply.read(fingerprint)[1]

    # --- keeping -----------------------------------------------------------------------------------------------------

    def check(self, *, full: bool = False) -> Iterator[tuple[Path, Problem | None]]:
        """Yield each `.rsc` file in care, and why it would not decode.

        Args:
            full: read every reference; otherwise only those whose size or time of modification has changed.
        """
        return keeping.check(self, self._store, self._supply, full=full)

    def collect(
        self, before: str | None = None, *, delete: bool = False, lost_files: bool = False, dry_run: bool = False
    ) -> Iterator[tuple[Path, str]]:
        """Forget pictures that no `.rsc` file in care needs; yield each path with what is done.

        Args:
            before: also pictures taken before this date; otherwise only those whose file is gone.
            delete: delete files of pictures, too, unless they have changed since they were added; never `.rsc` files.
            lost_files: first forget the `.rsc` files that are gone, with what they need.
            dry_run: change nothing.

        Raises:
            UsageError: of a date that is none.
        """
        before = None if before is None else require_date(before, "before")
        return keeping.collect(self, self._store, before, delete=delete, lost_files=lost_files, dry_run=dry_run)

    def rebase(self, path: FilePath, output: FilePath) -> Image:
        """Store what a `.rsc` file decodes to as a picture file without loss, and add that; return the picture.

        Files that were coded against it need neither that file nor its references any more.

        Args:
            path: of the file, which must be of an exact model.
            output: of the picture, by its suffix a PNG, WebP or TIFF.

        Raises:
            ContainerError, ImageError, WeightsError, ReferenceMismatch: the file cannot be decoded, or is not of an
                exact model.
            UsageError, OutputError: the picture cannot be stored there, or in that format.
        """
        paths = Path(path_of(path, "a file")), Path(path_of(output, "the output"))
        return keeping.rebase(self, self._store, self._supply, *paths)

    def move(self, old: FilePath, new: FilePath) -> int:
        """Change the paths of all that was in a folder to another folder; return how many were changed.

        Raises:
            UsageError: the index has another picture or file at one of the new paths; nothing is changed.
        """
        return self._store.move(path_of(old, "a folder"), path_of(new, "a folder"))

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        path = self._store.real(row[0])
        return Entry(path, search.description(row), self.links(path))


def _tell_unused(path: FilePath, given: str | None, known: str | None) -> None:
    """Warn of a date that is given for a picture that has another one."""
    if given is not None and known not in (None, given):
        _log.warning("%s: the date %s is not used: it has one already, %s", os.fspath(path), given, known)
