"""Reading whole files, never more than there can be in one; and writing them atomically."""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from refscale_codec.errors import OutputError, RefscaleError, reason, writing

Most = Callable[[bytes, str], int]
"""The most bytes of a file, by its first bytes, `HEAD` or more, and its name; a RefscaleError if there is no such file.

The more bytes it is given, the better it can tell."""

HEAD = 32
_AT_ONCE = 1 << 22  # bytes


def read(path: Path, wrong: type[RefscaleError], most: Most) -> bytes:
    """Return the bytes of a file; `wrong` is raised if it cannot be read."""
    try:
        with path.open("rb") as file:
            return contents(file, str(path), most)
    except (OSError, ValueError) as error:
        raise wrong(f"cannot read {path}: {reason(error)}") from None


def contents(file: BinaryIO, name: str, most: Most) -> bytes:
    """Return the bytes of an open file, a pipe or a device, which need not end.

    Of a pipe, `most` is asked again whenever twice as many bytes have come.

    Raises:
        ValueError: there are more than `most` says. Not many more are read.
        RefscaleError: that of `most`.
        OSError: reading failed.
    """
    start = file.tell() if file.seekable() else 0
    data = bytearray(file.read(HEAD))
    limit = most(bytes(data), name)
    size = file.seek(0, os.SEEK_END) - start if file.seekable() else 0  # a device has none
    if 0 < size <= limit:
        file.seek(start)
        return file.read()  # at once, which takes half of the memory
    if not size:
        asked = _AT_ONCE
        while len(data) <= limit and (part := file.read(_AT_ONCE)):
            data += part
            if len(data) >= asked:
                limit, asked = most(bytes(data), name), 2 * len(data)
        size = len(data)
    if size > limit:
        raise ValueError(
            f"over the size limit: it has more than {limit:,} bytes, the most that a file with this beginning can have"
        )
    return bytes(data)


def begins(path: Path, magic: bytes) -> bool:
    """Return whether a regular file begins with some bytes; pipes and devices are not examined."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except (OSError, ValueError):
        return False


def absence(path: Path) -> str:
    """Return the message on a file or folder that is not there, or cannot be looked at; none if it is there."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return f"{path} does not exist"
    except (OSError, ValueError) as error:  # a name that is too long, a folder that must not be entered
        return f"cannot read {path}: {reason(error)}"
    return ""


def below(folder: Path, suffixes: Sequence[str], failed: Callable[[str], None]) -> Iterator[Path]:
    """Yield the files with these suffixes, in lower case, in a folder and in all folders in it, sorted in each.

    Pipes and devices are left out, and links to folders are not followed. `failed` is called with a line on each folder
    that cannot be read, and on each of these files that cannot be examined, such as a link to nothing.
    """

    def unreadable(error: OSError) -> None:
        failed(f"cannot read the folder {error.filename}: {reason(error)}")

    for inside, folders, names in os.walk(folder, onerror=unreadable):
        folders.sort()
        paths = (Path(inside, name) for name in sorted(names))
        for path in (path for path in paths if path.suffix.lower() in suffixes):
            try:
                regular = stat.S_ISREG(path.stat().st_mode)
            except PermissionError:  # which reading it tells
                regular = True
            except OSError as error:
                failed(f"cannot read {path}: {'it is a link, and ' * path.is_symlink()}{reason(error)}")
                continue
            if regular:
                yield path


def destination(path: Path) -> Path:
    """Return the file that is written or replaced under a name, at the end of its symbolic links.

    Raises:
        OSError: there cannot be such a file: a name is too long for the file system, or links lead in a circle.
    """
    target = Path(os.path.realpath(path))
    with suppress(FileNotFoundError):
        if stat.S_ISLNK(target.lstat().st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def no_folder(path: Path) -> str:
    """Return the message that a file cannot be written, since its folder does not exist."""
    link = f"it is a link to {destination(path)}, and " if path.is_symlink() else ""
    return f"cannot write {path}: {link}there is no folder {destination(path).parent if link else path.parent}"


def make_folder(path: Path) -> None:
    """Make a folder, and those around it, unless it is there; OutputError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        why = "there is a file of that name" if os.path.isfile(path) else reason(error)
        raise OutputError(f"cannot make the folder {path}: {why}") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that at any moment it is either the old one or the complete new one.

    The bytes go to a temporary file in the same folder, which is then renamed. A symbolic link stays a link, as with
    `>` in a shell: its target is written, even where there is none yet. A replaced file keeps its permissions. A device
    or a named pipe is written to directly.

    Raises:
        OutputError: writing failed. Nothing is left behind, and an existing file is unchanged.
    """
    with writing(path):
        _write(path, data)


def _write(path: Path, data: bytes) -> None:
    target = destination(path)
    if not target.parent.is_dir():
        raise OutputError(no_folder(path))
    mode = target.stat().st_mode if target.exists() else None
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if mode is not None and not stat.S_ISREG(mode):
        target.write_bytes(data)
        return
    temporary = target.with_name(f".refscale-{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "xb", opener=partial(os.open, mode=0o666 if mode is None else 0o600)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(stat.S_IMODE(mode))
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
