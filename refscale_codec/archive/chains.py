"""Chains: coded pictures whose references are coded pictures, and how many files have to be decoded for one."""

from collections.abc import Iterable

from refscale_codec.archive.store import Store
from refscale_codec.errors import UsageError
from refscale_codec.fileformat.references import LINKS


def copies(store: Store, fingerprint: bytes) -> list[bytes]:
    """Return the paths of a picture, those of `.rsc` files behind the others; UsageError for no fingerprint."""
    if not isinstance(fingerprint, bytes):
        raise UsageError(f"a fingerprint must be given as bytes, not as {type(fingerprint).__name__}")
    found = store.rows(
        "SELECT path FROM picture LEFT JOIN file USING (path) WHERE fingerprint = ? ORDER BY file.path NOTNULL, path",
        (fingerprint,),
    )
    return [path for (path,) in found]


def needs(store: Store, path: bytes) -> list[bytes]:
    """Return the fingerprints of the pictures that a `.rsc` file in care needs; none for another path."""
    rows = store.rows("SELECT fingerprint FROM need WHERE path = ?", (path,))
    return [fingerprint for (fingerprint,) in rows]


def is_coded(store: Store, path: bytes) -> bool:
    """Return whether a path is that of a `.rsc` file in care."""
    return bool(store.rows("SELECT 1 FROM file WHERE path = ?", (path,)))


def is_only_copy(store: Store, path: bytes) -> bool:
    """Return whether a picture that other `.rsc` files need is at a path, and at no other one."""
    needed = "SELECT 1 FROM need WHERE need.fingerprint = here.fingerprint AND need.path != here.path"
    others = "SELECT 1 FROM picture WHERE picture.fingerprint = here.fingerprint AND picture.path != here.path"
    query = f"SELECT 1 FROM picture AS here WHERE path = ? AND EXISTS ({needed}) AND NOT EXISTS ({others})"
    return bool(store.rows(query, (path,)))


def links(store: Store, fingerprints: Iterable[bytes]) -> set[bytes]:
    """Return the fingerprints of all `.rsc` files that are decoded to have some pictures, as far as these are known."""
    found: set[bytes] = set()
    left = list(fingerprints)
    while left:
        path = next(iter(copies(store, one := left.pop())), None)
        if path is not None and one not in found and is_coded(store, path):
            found.add(one)
            left += needs(store, path)
    return found


def near(store: Store, fingerprints: Iterable[bytes], most: int = LINKS) -> set[bytes]:
    """Return those of some pictures, the first ones first, with which a file is one of at most `most` to decode."""
    chosen: set[bytes] = set()
    behind: set[bytes] = set()
    for fingerprint in fingerprints:
        more = behind | links(store, [fingerprint])
        if len(more) < most:
            chosen.add(fingerprint)
            behind = more
    return chosen
