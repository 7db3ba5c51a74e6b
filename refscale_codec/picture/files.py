"""Reading whole files, and writing them atomically."""

import errno
import os
import secrets
import stat
from pathlib import Path

from refscale_codec.errors import RefscaleError, reason


def read(path: Path, wrong: type[RefscaleError]) -> bytes:
    """Return the bytes of a file; `wrong` is raised if it cannot be read."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise wrong(f"cannot read {path}: {reason(error)}") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that at any moment it is either the old one or the complete new one.

    The bytes go to a temporary file in the same folder, which is then renamed. A symbolic link stays a link and its
    target is replaced; a replaced file keeps its permissions. A device or a named pipe is written to
    directly.

    Raises:
        OSError: writing failed. Nothing is left behind, and an existing file is unchanged.
    """
    target = Path(os.path.realpath(path))
    mode = target.stat().st_mode if target.exists() else None
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if mode is not None and not stat.S_ISREG(mode):
        target.write_bytes(data)
        return
    temporary = target.with_name(f".refscale-{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(stat.S_IMODE(mode))
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
