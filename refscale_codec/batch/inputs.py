"""What a process opens and reads for its tasks, once for tasks in a row that share it."""

import hashlib
import os
from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from refscale_codec.archive.references import References
from refscale_codec.batch import tasks
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures, sidecars

_LAST: dict[Hashable, Image] = {}


def version(path: Path) -> list[Any]:
    """Return what changes when a picture or a file beside it does; nothing if there is none."""
    if not (known := tasks.version(path)):
        return []
    return [*known, [(other.suffix, hashlib.sha256(other.data).hexdigest()) for other in sidecars.beside(path)]]


def index(path: Path, weights: Path | None, device: str) -> References:
    """Return the index of references at a path; for weights and device see `References`."""
    return _opened(path, weights, device, os.stat(path).st_ino if os.path.exists(path) else None)


@lru_cache(maxsize=1)
def _opened(path: Path, weights: Path | None, device: str, number: int | None) -> References:
    return References(path, model=weights, device=device)


def from_paths(paths: tuple[Path, ...]) -> list[Image]:
    """Return references by their paths.

    Raises:
        ImageError: one cannot be read.
    """
    return _read({(path, str(version(path))): partial(pictures.read, path, need_georeference=False) for path in paths})


def from_index(index: References, fingerprints: list[bytes]) -> list[Image]:
    """Return references by their fingerprints.

    Raises:
        ReferenceMismatch: the index lacks one.
    """
    return _read({one: partial(index.picture, one) for one in fingerprints})


def _read(sources: Mapping[Hashable, Callable[[], Image]]) -> list[Image]:
    """Return pictures by what names them; those of the last call are not read again, and the others of it forgotten."""
    for name in _LAST.keys() - sources.keys():
        del _LAST[name]
    for name, read in sources.items():
        if name not in _LAST:
            _LAST[name] = read()
    return [_LAST[name] for name in sources]
