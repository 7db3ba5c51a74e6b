"""What is kept: which files in care would not decode, which pictures none needs, and coded ones stored as pictures."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from refscale_codec.archive import chains, disk, promises
from refscale_codec.archive.store import Store
from refscale_codec.archive.supply import Lost, Supply
from refscale_codec.errors import ContainerError, ImageError, OutputError, UsageError, reason
from refscale_codec.fileformat import references
from refscale_codec.picture import files
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import formats, pictures

if TYPE_CHECKING:
    from refscale_codec.archive.references import References


class Problem(NamedTuple):
    """A file that would not decode."""

    path: Path
    reason: str
    """`missing`, `unreadable`, or of a reference `unknown`, `missing`, `changed`, `unreadable`, `too far`."""
    detail: str


def check(index: "References", store: Store, supply: Supply, *, full: bool) -> Iterator[tuple[Path, Problem | None]]:
    """See `References.check`."""
    faults: dict[bytes, Lost | None] = {}
    supply.forget()
    promises.settle(store, index.add)
    for path, needs in index.files():
        try:
            index.add(path, again=full)
            needs = references.needed(disk.unpacked(path)) if full else chains.needs(store, store.stored(path))
        except (ContainerError, ImageError) as error:
            yield path, Problem(path, "missing" if disk.is_gone(path) else "unreadable", str(error))
            continue
        bad: Lost | None = None
        try:
            supply.require_near(needs)
            bad = next(filter(None, (supply.fault(need, full, faults) for need in needs)), None)
        except Lost as error:
            bad = error
        yield path, None if bad is None else Problem(path, bad.kind, str(bad))


def collect(
    index: "References", store: Store, before: str | None, *, delete: bool, lost_files: bool, dry_run: bool
) -> Iterator[tuple[Path, str]]:
    """See `References.collect`."""
    promises.settle(store, index.add)
    _refresh(index)
    gone = set()
    for path, _ in index.files():
        if lost_files and disk.is_gone(path):
            gone.add(stored := store.stored(path))
            if not dry_run:
                with store.writing():
                    for table in ("file", "need"):
                        store.do(f"DELETE FROM {table} WHERE path = ?", (stored,))
            yield path, "forgotten"
    needs = store.rows("SELECT path AS owner, fingerprint FROM need")
    kept = {fingerprint for owner, fingerprint in needs if owner not in gone}
    for stored, fingerprint, date, *status in store.rows(
        "SELECT path, fingerprint, date, size, modified FROM picture ORDER BY path"
    ):
        path = store.real(stored)
        there = not disk.is_gone(path)
        old = before is not None and date is not None and date < before
        if fingerprint in kept or there and not old:
            continue
        if not dry_run and not store.do(
            "DELETE FROM picture WHERE path = ? AND fingerprint NOT IN (SELECT fingerprint FROM need)", (stored,)
        ):
            continue  # a file needs it since then
        done = "forgotten"
        if delete and there and path.suffix.lower() != ".rsc":
            try:
                if list(disk.status(path)) == status:
                    done = "deleted"
                    if not dry_run:
                        path.unlink()
            except (ImageError, OSError) as error:
                done = f"forgotten, but not deleted ({reason(error)})"
        yield path, done


def _refresh(index: "References") -> None:
    """Read the `.rsc` files in care again that have changed; of one that cannot be read, what it needed stays."""
    for path, _ in index.files():
        with suppress(ImageError, ContainerError):
            index.add(path)


def rebase(index: "References", store: Store, supply: Supply, path: Path, output: Path) -> Image:
    """See `References.rebase`."""
    kind = formats.of_path(output)
    image = supply.decoded(path)
    formats.require_support(kind, image.pixels.dtype, image.bands, image.longest)
    data = pictures.to_bytes(image, kind)
    fingerprint = image.fingerprint()
    if pictures.from_bytes(data, str(output)).fingerprint() != fingerprint:
        raise OutputError(f"{formats.NAMES[kind]} cannot hold the picture of {path} as it is: name the output .tif")
    for place in {store.stored(output), store.stored(os.path.realpath(output))}:
        known = "SELECT 1 FROM picture WHERE path = ? AND fingerprint != ? UNION SELECT 1 FROM file WHERE path = ?"
        if store.rows(known, (place, fingerprint, place)):
            raise UsageError(f"{output} is another picture or file of the index; it would be overwritten")
    files.write_atomically(output, data)
    said = store.rows("SELECT date FROM picture WHERE path = ?", (store.stored(path),))
    index.add(output, again=True, date=said[0][0] if said else None)
    return image
