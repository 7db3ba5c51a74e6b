"""What an index reads of files and folders: which there are, of which kind, and what a `.rsc` file needs."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from refscale_codec.api.arguments import FilePath
from refscale_codec.errors import ContainerError, ImageError, naming, reason
from refscale_codec.fileformat import container
from refscale_codec.fileformat.container import Container
from refscale_codec.picture import files
from refscale_codec.picture.io import formats

SUFFIXES = (*formats.SUFFIXES, ".rsc")
"""Of what is looked at in folders."""


def listed(paths: Iterable[FilePath], failed: Callable[[str], None]) -> Iterator[Path]:
    """Yield files, and the pictures and `.rsc` files in folders; `failed` is told of each that is unreadable."""
    for path in map(Path, paths):
        yield from files.below(path, SUFFIXES, failed) if os.path.isdir(path) else [path]


def is_coded(path: FilePath) -> bool:
    """Return whether a file is a `.rsc` file, by its name or by how it begins."""
    try:
        with open(path, "rb") as file:
            return Path(path).suffix.lower() == ".rsc" or file.read(len(container.MAGIC)) == container.MAGIC
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read {path}: {reason(error)}") from None


def has_hash(path: FilePath) -> bool:
    """Return whether a `.rsc` file has a hash of its decoded picture; ContainerError if it cannot be read."""
    with naming(str(path)):
        try:
            with open(path, "rb") as file:
                return container.has_hash(file.read(container.HEADER_SIZE))
        except OSError as error:
            raise ContainerError(f"cannot be read: {reason(error)}") from None


def holds(path: FilePath, data: bytes) -> bool:
    """Return whether a file has been written."""
    try:
        return os.path.isfile(path) and Path(path).read_bytes() == data
    except (OSError, ValueError):
        return False


def coded(path: FilePath) -> bytes:
    """Return the bytes of a `.rsc` file; ContainerError if it cannot be read."""
    return files.read(Path(path), ContainerError, container.most_bytes)


def unpacked(path: FilePath) -> Container:
    """Return what a `.rsc` file holds; ContainerError if it cannot be read."""
    data = coded(path)
    with naming(str(path)):
        return container.unpack(data)


def is_gone(path: FilePath) -> bool:
    """Return whether there is no such file, for sure: a place that cannot be looked into is no proof of that."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        pass
    return False


def status(path: FilePath) -> tuple[int, int]:
    """Return size and time of modification of a file, as signed numbers of 64 bits.

    The time is in nanoseconds since 1970, modulo 2**64: later than 2262, it is still another one for each time.

    Raises:
        ImageError: it is missing, a folder, a pipe or a device, or cannot be looked at.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read {path}: {reason(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(
            f"{path} is {'a folder' if stat.S_ISDIR(status.st_mode) else 'no file, but a pipe or a device'}"
        )
    return status.st_size, (status.st_mtime_ns + (1 << 63)) % (1 << 64) - (1 << 63)
