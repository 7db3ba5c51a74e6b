"""What the commands share: reading and writing, weights and devices, and messages and progress on stderr.

Results go to stdout or files by `write`, everything else to stderr by `say`.

Torch, numpy and Pillow are imported inside the functions that need them, so that `--help` and `info` start at once.
"""

import io
import json
import logging
import math
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refscale_codec.cli import process
from refscale_codec.cli.options import index_files
from refscale_codec.errors import (
    ContainerError,
    ImageError,
    OutputError,
    RefscaleError,
    UsageError,
    naming,
    printable,
    reason,
    writing,
)
from refscale_codec.fileformat import container
from refscale_codec.picture import files

if TYPE_CHECKING:
    from refscale_codec.archive.references import References
    from refscale_codec.model import Model
    from refscale_codec.picture.image import Image

PATIENCE = 2.0  # seconds before progress is shown

_SURROGATE = re.compile("[\ud800-\udfff]")  # what Python has for bytes of a file name that are not UTF-8


def device_named(name: str) -> str:
    """Return the device by torch's name; UsageError for one that is unknown or not available."""
    from refscale_codec.api import request

    return request.device_named(name, "--device")


def load_model(path: Path, device: str, threads: int | None = None) -> "Model":
    """Load weights onto a device, and set up the process for computing with at most so many threads."""
    where = device_named(device)
    prepare(threads)
    from refscale_codec import model

    return model.load(path, where)


def prepare(threads: int | None) -> None:
    """Set up the process for computing with at most so many threads."""
    process.keep_freed_memory()
    if threads is not None:
        process.limit_threads(threads)


def name_of(path: str) -> str:
    """Return the name of an input in messages."""
    return "stdin" if path == "-" else path


def read(path: str, *, or_picture: bool = False) -> bytes:
    """Return the bytes of a `.rsc` file, by path or on stdin; also of a picture if that is allowed."""

    def most(head: bytes, name: str) -> int:
        from_refscale = container.MAGIC.startswith(head[: len(container.MAGIC)])
        if not or_picture and not from_refscale:
            from refscale_codec.picture.io import formats

            if formats.readable(head):
                raise ContainerError(f"{name}: not a .rsc file, but a picture; `refscale encode` makes one of it")
        if not or_picture or from_refscale:
            return container.most_bytes(head, name)
        from refscale_codec.picture.io import pictures

        return pictures.most_bytes(head, name)

    wrong = ImageError if or_picture else ContainerError
    return _stdin(wrong, most) if path == "-" else files.read(Path(path), wrong, most)


def _stdin(wrong: type[RefscaleError], most: files.Most) -> bytes:
    """Return the bytes of stdin, see `files.contents`; `wrong` is raised if it cannot be read."""
    try:
        if sys.stdin is None:
            raise ValueError("it is closed")
        return files.contents(sys.stdin.buffer, "stdin", most)
    except (OSError, ValueError) as error:
        raise wrong(f"cannot read stdin: {reason(error)}") from None


def read_picture(path: str, page: int | None = None, *, need_georeference: bool = False) -> "Image":
    """Return the picture in a file or on stdin; see `pictures.from_bytes`."""
    from refscale_codec.picture.io import pictures

    process.lift_pillow_limit()
    if path == "-":
        data = _stdin(ImageError, pictures.most_bytes)
        return pictures.from_bytes(data, "stdin", page=page, need_georeference=need_georeference)
    return pictures.read(Path(path), page=page, need_georeference=need_georeference)


@contextmanager
def index(
    path: str | None, weights: Path | None = None, device: str | None = None, threads: int | None = None
) -> Iterator["References | None"]:
    """Yield an index of references, which is closed again; None for no path.

    Args:
        path: of its file.
        weights: those of coded pictures that are references, if they do not ship.
        device: that these are decoded on.
        threads: most threads for that.
    """
    if path is None:
        yield None
        return
    from refscale_codec.archive.references import References

    process.lift_pillow_limit()
    prepare(threads)
    with References(path, model=weights, device=device) as opened:
        yield opened


def unpacked(data: bytes, name: str) -> container.Container:
    """Parse a container; errors begin with its name."""
    with naming(name):
        return container.unpack(data)


def named_after(path: str, suffix: str) -> str:
    """Return the name of the output that belongs to an input: beside it with another suffix, stdout for stdin."""
    if path == "-":
        return "-"
    from refscale_codec.picture.io import formats

    known = Path(path).suffix.lower() in (*formats.SUFFIXES, ".rsc")
    return str(Path(path).with_suffix(suffix)) if known else f"{path}{suffix}"


def write(path: str, data: bytes | str) -> None:
    """Write a file atomically, or to stdout."""
    if isinstance(data, str):
        data = data.encode("utf-8", "backslashreplace")
    if path != "-":
        files.write_atomically(Path(path), data)
        return
    with _to_stdout():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def require_stdout() -> None:
    """Raise an OutputError if stdout is known to fail, before any work for it: it is closed, or a full device.

    That a disk is full shows only when something is written.
    """
    with suppress(io.UnsupportedOperation), _to_stdout():  # that without a descriptor is an object of Python
        os.write(sys.stdout.fileno(), b"")


@contextmanager
def _to_stdout() -> Iterator[None]:
    try:
        yield
    except (BrokenPipeError, io.UnsupportedOperation):  # the reader has closed the pipe; see `require_stdout`
        raise
    except OSError as error:
        raise OutputError(f"cannot write to stdout: {reason(error)}") from None


def picture_format(output: str, named: str | None) -> str:
    """Return the format to write a picture in: as named, else by the output's suffix, PNG on stdout.

    A suffix of another format than the one that is named is told.
    """
    from refscale_codec.picture.io import formats

    if named is not None:
        kind = formats.named(named)
        suffix = "" if output == "-" else Path(output).suffix.lower()
        if suffix in formats.SUFFIXES and suffix[1:].replace("tiff", "tif") != kind.replace("tiff", "tif"):
            say(False, f"{output}: what is written is a {formats.NAMES[kind]} file, by --format")
        return kind
    return "png" if output == "-" else formats.of_path(Path(output))


def require_inputs(*paths: str | Path | None) -> None:
    """Raise UsageError if stdin is to be read twice."""
    if paths.count("-") > 1:
        raise UsageError("- is given more than once, but stdin can be read only once: give a file for the others")


def require_pictures(*paths: str | None) -> None:
    """Raise an ImageError for a file that is no picture, by its first bytes; pipes are not examined."""
    from refscale_codec.picture.io import formats

    for path in paths:
        if path in (None, "-") or os.path.exists(str(path)) and not os.path.isfile(str(path)):
            continue
        try:
            with open(str(path), "rb") as file:
                if formats.readable(file.read(files.HEAD)):
                    continue
        except OSError:
            pass
        read_picture(str(path))  # which says what is wrong


def require_output(
    output: str, *inputs: str | Path | None, replace: bool, suffixes: Sequence[str] = (), json_output: bool = False
) -> None:
    """Check before any work that an output can be written, and that nothing is lost by that.

    Args:
        output: a path, or - for stdout.
        inputs: paths that must not be overwritten in any case.
        replace: whether another file may be, since it was named, or for --force.
        suffixes: those that the file may have; none for any.
        json_output: whether JSON goes to stdout, too.

    Raises:
        UsageError: an input or, without `replace`, another file would be overwritten; another suffix; binary data for a
            terminal, or beside JSON.
        OutputError: no such folder, or no permission; stdout is closed.
    """
    if output == "-":
        if json_output:
            raise UsageError("--json and -o - both write to stdout")
        if sys.stdout.isatty():
            raise UsageError("binary data is not written to a terminal: name a file with -o, or redirect stdout")
        require_stdout()
        return
    path = Path(output)
    require_other(output, *inputs, *index_files(None))
    _require_writable(path)
    exists = os.path.exists(path)
    if exists and not path.is_file():  # a device or a pipe
        return
    if suffixes and path.suffix.lower() not in ("", *suffixes):
        raise UsageError(f"{output}: what is written is a {suffixes[0]} file; name it so")
    if exists and not replace:
        raise UsageError(f"{output} exists: -f overwrites it, or name an output with -o")


def require_other(output: str, *inputs: str | Path | None) -> None:
    """Raise UsageError if an output is one of the inputs, by another name, too."""
    for other in map(str, filter(None, inputs)):
        with suppress(OSError):  # a missing path is reported when it is read
            if "-" in (output, other):
                continue
            if os.path.realpath(other) == os.path.realpath(output) or os.path.samefile(other, output):
                raise UsageError(f"{output} is also an input; it would be overwritten")


def _require_writable(output: Path) -> None:
    """Raise OutputError for an output that cannot be written."""
    with writing(output):
        target = files.destination(output)
    folder = os.path.dirname(target)
    if os.path.isdir(target):
        raise OutputError(f"cannot write {output}: it is a folder")
    if not os.path.isdir(folder):
        raise OutputError(files.no_folder(output))
    special = os.path.exists(target) and not os.path.isfile(target)  # a device or a pipe
    if not special and not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {output}: no permission to write to the folder {folder}")


def parts(sizes: dict[str, int]) -> list[tuple[str, int]]:
    """Return the sections that take bytes, with readable names; `sizes` are from `container.bytes_by_section`."""
    return [(part.replace("_", " "), size) for part, size in sizes.items() if size]


def duration(seconds: float) -> str:
    """Return a duration for people: seconds, minutes or hours."""
    minutes = round(seconds / 60)
    return f"{round(seconds)} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def say(quiet: bool, text: str) -> None:
    """Print a message to stderr, unless `quiet`; nothing happens where stderr cannot be written to."""
    if not quiet:
        with suppress(OSError):
            print(printable(text), file=sys.stderr, flush=True)


def as_json(value: Any) -> str:
    """Return JSON that every program reads.

    A number that JSON cannot hold becomes a text, `inf`, `-inf` or `nan`; bytes of a file name that are not UTF-8 are
    escaped as in messages.
    """

    def held(part: Any) -> Any:
        if isinstance(part, dict):
            return {held(name): held(inner) for name, inner in part.items()}
        if isinstance(part, list | tuple):
            return [held(inner) for inner in part]
        if isinstance(part, float) and not math.isfinite(part):
            return str(part)
        return printable(part) if isinstance(part, str) and _SURROGATE.search(part) else part

    return json.dumps(held(value), allow_nan=False)


def summarise(lines: Sequence[str], facts: dict[str, Any], *, json_output: bool, quiet: bool) -> None:
    """Tell people on stderr, and machines on stdout if they asked for JSON, what a command has done."""
    if json_output:
        write("-", as_json(facts) + "\n")
    for line in lines:
        say(quiet, line)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def show_warnings_as_lines() -> None:
    """Print warnings of Python and of `logging` as one line each, and not that a TIFF has no georeference.

    They are those of refscale, Pillow and rasterio; names of files in them may be of any letters.
    """
    if logging.lastResort is not None:  # which prints what no handler takes
        logging.lastResort.setFormatter(_OneLine())
    warnings.filterwarnings("ignore", "Dataset has no geotransform")
    warnings.showwarning = lambda message, *_: say(False, f"warning: {message}")


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that sets the progress text; a spinner shows it on stderr after `PATIENCE` seconds."""
    if quiet:
        yield lambda text: None
        return
    shown: list[tuple[Any, Any]] = []  # spinner and its live display, once they are shown
    current = ["starting"]
    lock = threading.Lock()

    def show() -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner
        from rich.text import Text

        with lock:
            if not finished.is_set():
                spinner = Spinner("dots", Text(current[0]))  # not markup, which a name may look like
                shared_terminal = sys.stdout.isatty()  # otherwise the data on stdout must not be altered
                console = Console(stderr=True)
                display = Live(spinner, console=console, transient=True, redirect_stdout=shared_terminal)
                shown.append((spinner, display))
                display.start()

    def step(text: str) -> None:
        from rich.text import Text

        with lock:
            current[0] = text
            if shown:
                shown[0][0].update(text=Text(text))

    finished = threading.Event()
    timer = threading.Timer(PATIENCE, show)
    timer.daemon = True
    timer.start()
    try:
        yield step
    finally:
        timer.cancel()
        with lock:
            finished.set()
            if shown:
                shown[0][1].stop()
