"""The exception tree and the exit codes of the command line.

    RefscaleError                anything a user can cause; the message says what, where and what was expected
    ├── UsageError           2   options that exclude each other or would have no effect
    ├── ImageError           3   a picture that is missing, damaged or of an unsupported kind
    ├── ContainerError       4   a file that is not a `.rsc` file, or a damaged or too new one
    ├── WeightsError         5   weights that are missing, damaged, or not those of the file
    ├── ReferenceMismatch    6   the reference is missing, or another one
    ├── TargetError          7   a size or PSNR that no quality reaches
    ├── OutOfMemory          8   memory does not suffice; in Python it is Python's, torch's or OpenCV's own error
    ├── BatchError           9   pictures of a batch that could not be coded; all others are
    ├── OutputError         10   a file, a folder or stdout that cannot be written
    └── IndexFault          11   an index of references that is missing, damaged, foreign or busy

`cli.main` catches the base class, prints one line and exits with the code. Anything else is a bug, keeps its traceback
and exits with 1, as does a command whose reader closes the pipe; Ctrl-C gives 130 (`cli.interrupt`). `docs/FORMAT.md`
has the table for users.
"""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager


class RefscaleError(Exception):
    """Base class of the errors that a user can cause."""

    exit_code = 1


class UsageError(RefscaleError):
    """Options that exclude each other, are out of range, or would have no effect."""

    exit_code = 2


class ImageError(RefscaleError):
    """A picture that cannot be read or coded."""

    exit_code = 3


class ContainerError(RefscaleError):
    """Bytes that are not a valid `.rsc` file of a known version and feature set."""

    exit_code = 4


class WeightsError(RefscaleError):
    """A weights file that cannot be used, or is not the one that a `.rsc` file names."""

    exit_code = 5


class ReferenceMismatch(RefscaleError):
    """The reference is missing, or not the one that a `.rsc` file names."""

    exit_code = 6


class TargetError(RefscaleError):
    """A size or PSNR that no quality from 1 to 100 reaches."""

    exit_code = 7


class OutOfMemory(RefscaleError):
    """An allocation failed. Only commands raise it."""

    exit_code = 8


class BatchError(RefscaleError):
    """Some pictures of a batch could not be coded. Only the command raises it, when all others are."""

    exit_code = 9


class OutputError(RefscaleError):
    """A file, a folder or stdout that cannot be written; nothing half-written is left."""

    exit_code = 10


class IndexFault(RefscaleError):
    """An index of references that is missing, damaged, of another program or version, or busy."""

    exit_code = 11


@contextmanager
def writing(output: object) -> Iterator[None]:
    """Raise an OutputError that names an output in place of any OSError or ValueError (of a name) raised inside."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {output}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Return a short message of a foreign exception; what only a programmer understands is not repeated."""
    text = getattr(error, "strerror", None) or str(error)
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8"
    if isinstance(error, _UNWORDED) or _ABOUT_CODE.search(text):
        return "it is not laid out as such a file must be"
    return text or type(error).__name__


_UNWORDED = (LookupError, AttributeError, TypeError, ArithmeticError, AssertionError, struct.error)
"""How hostile bytes end in a parser."""

_ABOUT_CODE = re.compile(
    r"\b(reshape|broadcast|ndarray|dtype|buffer|NoneType|arguments?|decoder object|values to unpack)\b"
)


def counted(number: int, what: str) -> str:
    """Return "1 picture", "2 pictures"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    r"""Return a text in one line that any UTF-8 file, terminal or page can hold.

    Letters stay. What is none is escaped as in a string of Python: control characters, and bytes of a file name that
    are not UTF-8, which Python has as surrogates (`os.fsdecode`), as `\xe9`.
    """
    return "".join(letter if letter.isprintable() else _escaped(ord(letter)) for letter in text)


def _escaped(code: int) -> str:
    byte_of_a_name = 0xDC80 <= code <= 0xDCFF
    return chr(code - 0xDC00 if byte_of_a_name else code).encode("unicode_escape").decode()


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put a file's name before the message of any error raised inside, where the name is not known."""
    try:
        yield
    except RefscaleError as error:
        raise type(error)(f"{name}: {error}") from None
