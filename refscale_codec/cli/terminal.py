"""What the commands share: reading and writing, weights and devices, and progress on stderr.

Torch, numpy and Pillow are imported inside the functions that need them, so that `--help` and `info` start at once.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refscale_codec.cli import process
from refscale_codec.errors import ContainerError, ImageError, UsageError, WeightsError, naming
from refscale_codec.fileformat import container
from refscale_codec.picture import files

if TYPE_CHECKING:
    from refscale_codec.picture.image import Image
    from refscale_codec.rescale.net import RescaleNet

PATIENCE = 2.0  # seconds without a word before progress is shown


def device_named(name: str) -> str:
    """Return what torch is to be told; UsageError for a device that is not there."""
    from refscale_codec import model

    return model.device_named(name, "--device")


def load_net(path: Path, device: str) -> "RescaleNet":
    """Read weights onto a device."""
    from refscale_codec import model

    process.keep_freed_memory()
    return model.load(path).to(device_named(device))


def wanted_weights(header: container.Header) -> Path:
    """Return the shipped weights that a file asks for."""
    from refscale_codec import model

    try:
        return model.shipped_as(header.weights)
    except WeightsError as error:
        raise WeightsError(f"{error}; give --weights") from None


def name_of(path: str) -> str:
    """Return what to call an input in messages."""
    return "stdin" if path == "-" else path


def read(path: str) -> bytes:
    """Return the bytes of a file or of stdin."""
    if path == "-":
        return sys.stdin.buffer.read()
    return files.read(Path(path), ContainerError)


def read_picture(path: str, *, need_georeference: bool = False) -> "Image":
    """Return the picture in a file or on stdin; see `image.from_bytes`."""
    from refscale_codec.picture import image

    process.lift_pillow_limit()
    if path == "-":
        return image.from_bytes(sys.stdin.buffer.read(), "stdin", need_georeference=need_georeference)
    return image.read(Path(path), need_georeference=need_georeference)


def unpacked(data: bytes, name: str) -> container.Container:
    """Take a container apart; errors begin with its name."""
    with naming(name):
        return container.unpack(data)


def write(path: str, data: bytes) -> None:
    """Write a file whole or not at all, or to stdout."""
    if path == "-":
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # who reads has enough
            raise
        except OSError as error:
            raise ImageError(f"cannot write to stdout: {error.strerror}") from None
        return
    try:
        files.write_atomically(Path(path), data)
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error.strerror}") from None


def picture_format(output: str, named: str | None) -> str:
    """Return the format to write a picture in: as named, else by the output's suffix, PNG on stdout."""
    from refscale_codec.picture import formats

    if named is not None:
        return formats.named(named)
    return "png" if output == "-" else formats.of_path(Path(output))


def require_streams(output: str | None, *inputs: str | Path | None) -> None:
    """Refuse to read stdin twice, to fill a terminal with binary data, to overwrite an input, and to work in vain.

    `output` is None for a command that writes no file.
    """
    if inputs.count("-") > 1:
        raise UsageError("input and --ref are both -, but stdin can be only one of them: give a file for the other")
    if output == "-":
        if sys.stdout.isatty():
            raise UsageError("binary data is not written to a terminal: name a file with -o, or pipe or redirect")
        return
    for path in inputs:
        with suppress(OSError):  # a path that does not exist is no reason to stop here; reading or writing will tell
            if output is not None and path not in (None, "-") and Path(str(path)).samefile(output):
                raise UsageError(f"{output} is also an input; it would be overwritten")
    if output is not None:
        _require_place(Path(output))


def _require_place(output: Path) -> None:
    """Refuse an output that cannot be written, before there is any: ImageError."""
    place = os.path.realpath(output)
    folder = os.path.dirname(place)
    if os.path.isdir(place):
        raise ImageError(f"cannot write {output}: it is a folder")
    if not os.path.isdir(folder):
        raise ImageError(f"cannot write {output}: there is no folder {output.parent}")
    special = os.path.exists(place) and not os.path.isfile(place)  # a device or a pipe
    if not special and not os.access(folder, os.W_OK):
        raise ImageError(f"cannot write {output}: the folder {output.parent} takes no files from you")


def tell(text: str) -> None:
    """Print a result, a line on stdout."""
    write("-", f"{text}\n".encode())


def parts(sizes: dict[str, int]) -> list[tuple[str, int]]:
    """Return the parts of a file that take bytes, for people: names with spaces. See `container.bytes_by_section`."""
    return [(part.replace("_", " "), size) for part, size in sizes.items() if size]


def say(quiet: bool, text: str) -> None:
    """Print a line for people."""
    if not quiet:
        print(text, file=sys.stderr)


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that sets what is said to be going on; shown on stderr after `PATIENCE` seconds, if at all."""
    if quiet:
        yield lambda text: None
        return
    turning: list[tuple[Any, Any]] = []  # the spinner and what keeps it turning, once there is something to show
    said = ["starting"]
    lock = threading.Lock()

    def show() -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        with lock:
            if not finished.is_set():
                spinner = Spinner("dots", said[0])
                shared_terminal = sys.stdout.isatty()  # else what goes to stdout must go there untouched
                console = Console(stderr=True)
                display = Live(spinner, console=console, transient=True, redirect_stdout=shared_terminal)
                turning.append((spinner, display))
                display.start()

    def step(text: str) -> None:
        with lock:
            said[0] = text
            if turning:
                turning[0][0].update(text=text)

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
            if turning:
                turning[0][1].stop()
