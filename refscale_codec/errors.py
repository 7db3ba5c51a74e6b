"""The exception tree and the exit codes of the command line.

    RefscaleError                anything a user can cause; its message says what, where and what was expected
    ├── UsageError           2   options that contradict each other or would have no effect
    ├── ImageError           3   a picture that is missing, damaged, unwritable or of an unsupported kind
    ├── ContainerError       4   a file that is not a `.rsc` file, or a damaged or too new one
    ├── WeightsError         5   weights that are missing, damaged, or not those the file was made with
    ├── ReferenceMismatch    6   no reference, or not the one the file was made with
    └── TargetError          7   a size or PSNR that no quality gives

`cli.main` catches the base class, prints one line and exits with the code. Anything else is a bug and keeps its
traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class RefscaleError(Exception):
    """Base of everything that a user can cause and that a message can explain."""

    exit_code = 1


class UsageError(RefscaleError):
    """Options that contradict each other, are out of range, or would have no effect."""

    exit_code = 2


class ImageError(RefscaleError):
    """A picture that cannot be read, written or coded."""

    exit_code = 3


class ContainerError(RefscaleError):
    """Bytes that are not a valid `.rsc` container of a version and feature set known here."""

    exit_code = 4


class WeightsError(RefscaleError):
    """A weights file that cannot be used, or that is not the one a container names."""

    exit_code = 5


class ReferenceMismatch(RefscaleError):
    """The reference picture is missing, superfluous, or not the one a container names."""

    exit_code = 6


class TargetError(RefscaleError):
    """A size or a PSNR that no quality from 1 to 100 gives."""

    exit_code = 7


def reason(error: BaseException) -> str:
    """Return what an exception of others says, in a few words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put a file's name before the message of any error raised inside, where nothing knows the name."""
    try:
        yield
    except RefscaleError as error:
        raise type(error)(f"{name}: {error}") from None
