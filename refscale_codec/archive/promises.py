"""Promises: what a `.rsc` file that is being written will need is kept, whatever is at its path until it is there.

A promise has rows among the needs, under a name that no file has: the path, a zero byte, the time at which it was made
and a random number, since several processes may write to one path. Reading a file in care leaves it alone. Its writer
takes it back; one whose writer was killed ends after a day, by `settle`.
"""

import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from refscale_codec.archive import disk
from refscale_codec.archive.store import Store
from refscale_codec.errors import ContainerError, ImageError

_LASTS = 24 * 3600  # seconds; writing a file takes less, and clocks of several machines differ by less


def make(store: Store, stored: bytes, needs: Iterable[bytes]) -> bytes:
    """Keep what a file that will be written needs; return the name that takes it back. Call it within `writing`."""
    name = b"%s\0%d %s" % (stored, time.time(), secrets.token_hex(4).encode())
    for fingerprint in needs:
        store.do("INSERT INTO need VALUES (?, ?)", (name, fingerprint))
    return name


def take_back(store: Store, name: bytes) -> None:
    """End a promise: the file is in care, or was not written."""
    store.do("DELETE FROM need WHERE path = ?", (name,))


def settle(store: Store, add: Callable[[Path], object]) -> None:
    """End the promises of writers that were killed: `add` takes their files into care, as far as they were written.

    One whose file is there but cannot be read stays.
    """
    for (name,) in store.rows("SELECT DISTINCT path AS promise FROM need WHERE instr(path, x'00')"):
        stored, _, made = name.partition(b"\0")
        if abs(time.time() - int(made.split(b" ")[0])) < _LASTS:
            continue
        path = store.real(stored)
        if not disk.is_gone(path):
            try:
                add(path)
            except (ImageError, ContainerError):
                continue
        take_back(store, name)
