"""The settings that the command line makes for its process."""

import errno
import os
import platform
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from conftest import Outcome

from refscale_codec.cli import memory, process, terminal
from refscale_codec.codec import encoder
from refscale_codec.errors import ImageError, OutputError
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures

RESIDENT = """
import sys
from pathlib import Path
import numpy as np
from refscale_codec.cli import process

if sys.argv[1] == "keep":
    process.keep_freed_memory()
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) // 256  # MiB, of 4 KiB pages
buffer = np.ones(2**27, np.uint8)
del buffer
print(resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_a_freed_buffer_is_kept() -> None:
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", RESIDENT, word], capture_output=True, check=True).stdout)
        for word in ("keep", "default")
    )
    assert kept - given_back > 100


def test_the_command_line_reads_pictures_beyond_pillows_limit(
    refscale: Callable[..., Outcome], tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "new.png"
    PIL.Image.new("RGB", (20, 20)).save(picture)
    for line in (("encode", picture), ("diff", picture, "--ref", picture, "-o", tmp_path / "out.tif")):
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
        outcome = refscale(*line, "--weights", tiny_weights)
        assert outcome.code == 0, outcome.err


def test_a_warning_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        terminal.show_warnings_as_lines()
        warnings.warn("damaged EXIF", stacklevel=1)
        warnings.warn("Dataset has no geotransform, gcps, or rpcs.", stacklevel=1)
    assert capsys.readouterr().err == "warning: damaged EXIF\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_a_warning_of_a_picture_is_one_line_whatever_its_name(place: Path) -> None:
    PIL.Image.open("new.png").convert("P").save("\x1b[31mof\ntwo lines.png")
    done = shell("refscale fingerprint *lines.png")
    assert (done.returncode, done.stdout.count(b"\n")) == (0, 1)
    assert done.stderr.startswith(rb"\x1b[31mof\ntwo lines.png: ")
    assert done.stderr.count(b"\n") == 1


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a picture and its file, in which commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONUNBUFFERED", "")
    picture = Image(np.tile(np.arange(32, dtype=np.uint8)[:, None, None], (1, 24, 3)))
    pictures.write(picture, tmp_path / "new.png")
    (tmp_path / "new.rsc").write_bytes(encoder.encode(picture, None, tiny_model))
    return tmp_path


def shell(line: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of sh in which `refscale` is this interpreter's."""
    script = f'refscale() {{ "{sys.executable}" -m refscale_codec "$@"; }}; {line}'
    return subprocess.run(["sh", "-c", script], capture_output=True, timeout=120, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("line", ["-o - > out.rsc 2>&-", "-o out.rsc <&- >&- 2>&-"])
def test_messages_never_get_into_the_file_that_takes_the_place_of_a_closed_stream(
    place: Path, tiny_weights: Path, line: str
) -> None:
    assert shell(f"refscale encode new.png --weights {tiny_weights} {line}").returncode == 0
    assert (place / "out.rsc").read_bytes() == (place / "new.rsc").read_bytes()


CLOSED = "Bad file descriptor"
FULL = "No space left on device"


@pytest.mark.parametrize(
    ("line", "code", "error"),
    [
        ("info new.rsc >&-", 10, f"cannot write to stdout: {CLOSED}"),
        ("encode new.png -o - --weights new.png >&-", 10, f"cannot write to stdout: {CLOSED}"),
        ("verify cut.rsc --json >/dev/full", 10, f"cannot write to stdout: {FULL}"),
        ("--help >&-", 10, f"cannot write to stdout: {CLOSED}"),
        ("info - <&-", 4, f"cannot read stdin: {CLOSED}"),
        ("encode - -o out.rsc <&-", 3, f"cannot read stdin: {CLOSED}"),
        ("--help >/dev/full", 10, f"cannot write to stdout: {FULL}"),
        ("encode -h >/dev/full", 10, f"cannot write to stdout: {FULL}"),
        ("--version >/dev/full", 10, f"cannot write to stdout: {FULL}"),
    ],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_stream_that_fails_is_one_message_and_an_exit_code(
    place: Path, monkeypatch: pytest.MonkeyPatch, line: str, code: int, error: str
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1" if line.startswith("encode") else "")
    before = sorted(place.iterdir())
    done = shell(f"refscale {line}")
    assert (done.returncode, done.stdout, done.stderr.decode()) == (code, b"", f"error: {error}\n")
    assert sorted(place.iterdir()) == before


def test_a_fault_that_names_no_file_is_not_said_to_be_one_of_stdout(
    place: Path, refscale: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errors.pop(), "why")

    errors = [errno.EMFILE, errno.EIO]
    monkeypatch.setattr(terminal, "read", fails)
    with pytest.raises(RuntimeError) as raised:
        refscale("info", "with.rsc")
    assert "why" in str(raised.value.__cause__)
    outcome = refscale("info", "with.rsc")
    assert (outcome.code, outcome.err) == (8, "error: the system gives no more: why; fewer --jobs need less\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be deleted")
def test_a_deleted_current_folder_is_one_message(place: Path) -> None:
    done = shell("mkdir gone && cd gone && rmdir ../gone && refscale refs list --refs i.sqlite")
    assert done.returncode == 2
    assert done.stderr == b"error: the current folder has been deleted: change to another\n"


PRINTING = [  # each writes to stdout at its end; inputs or weights are none, which is told where stdout is right
    "info cut.rsc",
    "fingerprint no.png",
    "verify cut.rsc --json",
    "encode new.png -o - --weights new.png",
    "encode new.png -o out.rsc --json --weights new.png",
    "decode new.rsc -o - --weights new.png",
    "diff new.png --ref no.png -o -",
    "extract-lr cut.rsc -o out.jpg --json",
    "batch no -o out --json",
    "batch no -o out --dry-run",
    "train no.toml -o out",
    "eval no.csv",
    "eval no.csv -o -",
    "rd-curve no.csv -o out",
]


@pytest.mark.parametrize("line", PRINTING)
def test_a_stdout_that_fails_is_told_before_any_work(
    refscale: Callable[..., Outcome], place: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    def closed() -> None:
        raise OutputError("stdout is closed")

    monkeypatch.setattr(terminal, "require_stdout", closed)
    assert refscale(*line.split()) == Outcome(10, b"", "error: stdout is closed\n")


def test_what_prints_nothing_needs_no_stdout(place: Path) -> None:
    assert shell("refscale extract-lr new.rsc -o out.jpg >&-").returncode == 0
    assert shell("refscale verify new.rsc --structure >&-").returncode == 0


@pytest.mark.parametrize("words", [("batch", "new.png"), ("rd-curve", "new.png", "--coders", "jpeg")])
@pytest.mark.parametrize("journal", [True, False])
def test_a_folder_of_results_that_cannot_be_written_is_told_with_its_code(
    refscale: Callable[..., Outcome], place: Path, tiny_weights: Path, words: tuple[str, ...], journal: bool
) -> None:
    command, source, *others = words
    if command == "batch":
        source = "pairs.csv"
        (place / source).write_text("target,reference\nnew.png,\n")
    blocked = "out"
    if journal:
        blocked = f"out/{'batch' if command == 'batch' else 'rows'}.jsonl"
        (place / blocked).mkdir(parents=True)
    else:
        (place / "out").write_text("")
    outcome = refscale(command, source, "-o", "out", "--weights", tiny_weights, *others)
    assert (outcome.code, outcome.out) == (10, b"")
    assert outcome.err.startswith(("error: cannot make the folder out", f"error: cannot read {blocked}: it is no file"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_fills_up_is_told_with_its_code(refscale: Callable[..., Outcome], place: Path) -> None:
    (place / "full.jpg").symlink_to("/dev/full")
    outcome = refscale("extract-lr", "new.rsc", "-o", "full.jpg")
    assert (outcome.code, outcome.err) == (10, "error: cannot write full.jpg: No space left on device\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_messages_that_cannot_be_printed_change_no_exit_code(place: Path) -> None:
    assert shell("refscale extract-lr new.rsc 2>/dev/full").returncode == 0
    assert shell("refscale encode no.png 2>/dev/full").returncode == 3


def test_descriptors_that_are_open_stay_as_they_are() -> None:
    before = sys.stdin, sys.stdout, sys.stderr
    numbers = len(os.listdir("/dev/fd"))
    process.open_closed_streams()
    assert (sys.stdin, sys.stdout, sys.stderr) == before
    assert len(os.listdir("/dev/fd")) == numbers


# --- signals and memory ----------------------------------------------------------------------------------------------


INTERRUPTED = """
import os, signal, sys
from refscale_codec.__main__ import main

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == interrupted_at:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
interrupted_at = sys.argv.pop(1)
if interrupted_at == "output":
    os.fsync = lambda number: os.kill(os.getpid(), signal.SIGINT)  # while it is being written
sys.meta_path.insert(0, Finder())
main()
"""


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("refscale_codec.cli.main", "--help"),
        ("typer", "info new.rsc"),
        ("refscale_codec.picture.metadata", "info new.rsc"),
        ("numpy", "encode new.png -o out.rsc"),
        ("refscale_codec.codec", "decode new.rsc -o out.png"),
        ("torch", "rd-curve new.png -o report"),
        ("output", "extract-lr new.rsc"),
    ],
)
def test_an_interrupt_is_told_at_any_moment_and_leaves_nothing_behind(place: Path, module: str, line: str) -> None:
    before = sorted(place.iterdir())
    program = [sys.executable, "-c", INTERRUPTED, module, *line.split()]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
    assert sorted(place.iterdir()) == before


@pytest.mark.skipif(sys.platform == "win32", reason="signals end processes of Windows at once")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("limit", ["", "ulimit -v 30000000; "])
def test_a_signal_that_ends_a_process_leaves_nothing_half_written(place: Path, name: str, limit: str) -> None:
    before = sorted(place.iterdir())
    program = INTERRUPTED.replace(
        "number: os.kill(os.getpid(), signal.SIGINT)", f"_: os.kill(os.getpid(), signal.{name})"
    )
    line = ["sh", "-c", f'{limit}exec "$@"', "sh", sys.executable, "-c", program, "output", "extract-lr", "new.rsc"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-getattr(signal, name), "", "")
    assert sorted(place.iterdir()) == before


def test_an_error_that_a_library_makes_of_an_interrupt_is_not_told(place: Path) -> None:
    program = "import os, signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from refscale_codec.cli import main, terminal\nfrom refscale_codec import __main__, errors\n"
    program += "def wrong(path):\n try: os.kill(os.getpid(), signal.SIGINT)\n"
    program += " except BaseException: raise errors.ImageError('damaged')\n"
    program += "terminal.read = wrong\n__main__.main()"
    done = subprocess.run([sys.executable, "-c", program, "info", "x"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_an_interrupt_that_is_ignored_stays_so(place: Path) -> None:
    ignoring = INTERRUPTED.replace("signal.default_int_handler", "signal.SIG_IGN")
    program = [sys.executable, "-c", ignoring, "typer", "info", "new.rsc"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:7], done.stderr) == (0, "new.rsc", "")


def test_a_command_that_waits_is_interrupted_at_once(place: Path) -> None:
    line = [sys.executable, "-c", "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"]
    line[2] += "from refscale_codec import __main__\nfrom refscale_codec.cli import terminal\nread = terminal.read\n"
    line[2] += "terminal.read = lambda path: (print('reading', flush=True), read(path))[1]\n__main__.main()"
    running = subprocess.Popen(
        [*line, "info", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"reading\n"
    time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=20) == 130
    assert running.stderr is not None
    assert running.stderr.read() == b"interrupted\n"
    for stream in (running.stdin, running.stdout, running.stderr):
        assert stream is not None
        stream.close()


def _of_torch() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def _of_numpy() -> None:
    np.empty(1 << 60, np.uint8)


def _of_opencv() -> None:
    raise cv2.error("OpenCV(4.11.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 4294967296 bytes")


def _of_the_linker() -> None:
    raise ImportError("libtorch_cpu.so: failed to map segment from shared object: Cannot allocate memory")


def _of_the_system() -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def _of_onednn() -> None:
    raise RuntimeError("could not create a primitive")


def _without_a_word() -> None:
    raise MemoryError


def _of_the_linker_by_ctypes() -> None:
    raise OSError("libgomp.so.1: failed to map segment from shared object")  # without a number, as ctypes does


def _behind_another() -> None:
    try:
        _of_torch()
    except RuntimeError:
        raise ImageError("no good") from None


SHORTAGES = [
    _of_onednn,
    _without_a_word,
    _of_torch,
    _of_numpy,
    _of_opencv,
    _of_the_linker,
    _of_the_linker_by_ctypes,
    _of_the_system,
    _behind_another,
]


@pytest.mark.parametrize("fail", SHORTAGES)
def test_lack_of_memory_is_one_message_whoever_notices(
    refscale: Callable[..., Outcome], place: Path, monkeypatch: pytest.MonkeyPatch, fail: Callable[[], None]
) -> None:
    monkeypatch.setattr(terminal, "read_picture", lambda *_, **__: fail())
    outcome = refscale("encode", "new.png", "-o", "out.rsc")
    assert (outcome.code, outcome.out) == (8, b"")
    assert outcome.err == (
        "error: there is not enough memory; smaller tiles need less: give --max-memory, such as 500M\n"
    )
    assert not (place / "out.rsc").exists()


def test_a_file_that_is_named_like_a_lack_of_memory_is_none(refscale: Callable[..., Outcome], place: Path) -> None:
    assert refscale("encode", "out of memory.png", "-o", "out.rsc").code == 3
    assert refscale("info", "out of memory.rsc").code == 4


def test_an_import_that_fails_for_no_reason_lacks_memory_where_it_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [SystemError(f"error return without {how}") for how in ("exception set", "setting an exception")]
    assert not any(map(memory.is_lacking, errors))
    monkeypatch.setattr(memory, "limit", lambda: 1 << 27)
    assert all(map(memory.is_lacking, errors))


def test_a_lack_on_the_gpu_is_said_so() -> None:
    error = RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 1 GiB")
    assert memory.is_lacking(error)
    assert memory.message(error) == "there is not enough memory on the GPU"


LIMITED = """
import ctypes, os, resource, signal, sys
from refscale_codec import __main__
from refscale_codec.cli import main

def end():
    exec(sys.argv[1])

main.main = end
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
signal.signal(signal.SIGINT, signal.default_int_handler)
__main__.main()
"""
NOTHING_LEFT = "error: there is not enough memory: this process may have 1,024 MiB (ulimit)\n"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limit")
@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        ("os.write(2, b'noise'); ctypes.CDLL(None).exit(1)", 8, NOTHING_LEFT),
        ("os.write(2, b'noise'); os._exit(127)", 8, NOTHING_LEFT),
        ("os.abort()", 8, NOTHING_LEFT),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 8, NOTHING_LEFT),
        ("bytearray(1 << 31)", 8, NOTHING_LEFT),
        ("sys.exit(0)", 0, ""),
        ("print('told', file=sys.stderr); sys.exit(7)", 7, "told\n"),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, "interrupted\n"),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, ""),
        ("os.kill(os.getppid(), signal.SIGTERM); signal.pause()", -signal.SIGTERM, ""),
        ("raise KeyError('a bug')", 1, None),
    ],
)
def test_where_memory_is_limited_a_library_that_ends_the_process_is_one_message(
    end: str, code: int, told: str | None
) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, end], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    if told is None:
        assert done.stderr.endswith("KeyError: 'a bug'\n")
    else:
        assert done.stderr == told


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limit")
@pytest.mark.parametrize("kibibytes", [60_000, 120_000, 250_000, 500_000])
def test_a_limit_that_libraries_do_not_fit_into_is_one_message(place: Path, kibibytes: int) -> None:
    done = shell(f"ulimit -v {kibibytes}; refscale encode new.png -o out.rsc")
    assert (done.returncode, done.stdout) == (8, b"")
    assert done.stderr.startswith(b"error: there is not enough memory: this process may have")
    assert done.stderr.count(b"\n") == 1
    assert not (place / "out.rsc").exists()


def test_threads_are_limited(
    refscale: Callable[..., Outcome], place: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(terminal, "write", lambda *_: seen.append((torch.get_num_threads(), cv2.getNumThreads())))
    before = cv2.getNumThreads()
    try:
        assert refscale("encode", "new.png", "-f", "--threads", 2, "--weights", tiny_weights).code == 0
        assert refscale("decode", "new.rsc", "-o", "back.png", "--threads", 1, "--weights", tiny_weights).code == 0
    finally:
        torch.set_num_threads(1)
        cv2.setNumThreads(before)
    assert seen == [(2, 2), (1, 1)]
