"""A file that is written is at every moment the old one or the whole new one; no more is read than there can be."""

import io
import os
import socket
import stat
import struct
import sys
import threading
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from refscale_codec.errors import ContainerError, ImageError, OutputError, RefscaleError
from refscale_codec.fileformat import container
from refscale_codec.picture import files
from refscale_codec.picture.io import extent, pictures

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    existing = tmp_path / "old"
    existing.write_bytes(b"the old one")
    monkeypatch.setattr(os, step, fail)
    for name in ("old", "new"):
        with pytest.raises(OutputError, match="No space left"):
            files.write_atomically(tmp_path / name, b"bytes")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert existing.read_bytes() == b"the old one"


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions there")
def test_what_replaces_a_private_file_is_never_readable_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "private"
    path.touch(0o600)
    modes = []
    monkeypatch.setattr(os, "fsync", lambda number: modes.append(stat.S_IMODE(os.fstat(number).st_mode)))
    files.write_atomically(path, b"secret")
    assert modes == [0o600]
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"secret", 0o600)


def test_a_new_file_has_the_usual_permissions_and_a_replaced_one_keeps_its_own(tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.write_bytes(b"")
    new = tmp_path / "new"
    files.write_atomically(new, b"one")
    assert new.stat().st_mode == usual.stat().st_mode
    new.chmod(0o640)
    files.write_atomically(new, b"two")
    assert new.read_bytes() == b"two"
    assert stat.S_IMODE(new.stat().st_mode) == 0o640


def test_a_symbolic_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    files.write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_device_is_written_to_and_not_replaced() -> None:
    files.write_atomically(Path(os.devnull), b"gone")
    assert not Path(os.devnull).is_file()


def circle(folder: Path) -> Path:
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("one")
    return folder / "one"


def test_links_in_a_circle_are_not_replaced(tmp_path: Path) -> None:
    link = circle(tmp_path)
    with pytest.raises(OutputError, match="Too many levels of symbolic links"):
        files.write_atomically(link, b"new")
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_a_link_to_nothing_makes_its_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    files.write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["n" * 256, "é" * 128, "n" * 255 + "/" + "x"])
def test_a_name_that_is_too_long_is_known_before_writing(tmp_path: Path, name: str) -> None:
    files.destination(tmp_path / ("n" * 255))
    with pytest.raises(OSError, match="File name too long|No such file"):
        files.destination(tmp_path / name).open("xb")
    with pytest.raises(OutputError, match="File name too long|no folder"):
        files.write_atomically(tmp_path / name, b"new")
    assert list(tmp_path.iterdir()) == []


# --- reading ---------------------------------------------------------------------------------------------------------


class Whole(io.RawIOBase):
    """A pipe of some bytes."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        return self.file.readinto(buffer)


class Endless(io.RawIOBase):
    """A pipe that never ends: it begins with some bytes, and counts what is read."""

    def __init__(self, start: bytes) -> None:
        self.start, self.count = start, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        part = self.start[self.count : self.count + len(buffer)] or bytes(len(buffer))
        buffer[: len(part)] = part
        self.count += len(part)
        return len(part)


def written(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (64, 48), (30, 60, 90)).save(buffer, kind, **options)
    return buffer.getvalue()


ANY_MORE = 9 << 20  # bytes that may be read before the beginning of a file is examined


def test_no_more_is_read_than_the_sections_of_a_file() -> None:
    data = (GOLDEN / "map.rsc").read_bytes()
    pipe = Endless(data)
    with pytest.raises(ValueError, match=f"more than {len(data):,} bytes, the most that a file with this beginning"):
        files.contents(io.BufferedReader(pipe), "stdin", container.most_bytes)
    assert pipe.count < ANY_MORE


@pytest.mark.parametrize("cut", [0, 40, 100])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_no_more_is_read_than_a_picture_of_that_size_can_have(kind: str, cut: int) -> None:
    options = {"exif": b"Exif\0\0" + bytes(60_000)} if kind == "JPEG" else {}
    data = written(kind, **options)
    pipe = Endless(data[: len(data) - cut])  # of a TIFF, the end has the values of tags
    with pytest.raises(ValueError, match="over the size limit: it has more than"):
        files.contents(io.BufferedReader(pipe), "stdin", pictures.most_bytes)
    assert pipe.count < extent._BESIDE + 200_000 + ANY_MORE


@pytest.mark.parametrize("count", [0, 1, 7, 0xFFFF])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_whose_directory_is_none_is_not_read_on(count: int, order: str) -> None:
    junk = b"\xff" * 12 * count + b"\0\0\0\0"
    pipe = Endless({"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "LH", 8, count) + junk)
    with pytest.raises(ValueError, match="over the size limit: it has more than"):
        files.contents(io.BufferedReader(pipe), "stdin", pictures.most_bytes)
    assert pipe.count < extent._BESIDE + ANY_MORE


def test_no_more_is_read_than_the_sections_that_the_flags_announce() -> None:
    header = container.Header(20_000, 20_000, 2, 1, 50, bytes(6), None)
    start = container.pack(container.Container(header, b"low-res"))
    assert container.most_bytes(start[:32], "x") < 65_536 + 32 * 10_000**2 + (1 << 24) + 100
    pipe = Endless(start)
    with pytest.raises(ValueError, match=f"more than {len(start):,} bytes"):
        files.contents(io.BufferedReader(pipe), "stdin", container.most_bytes)
    assert pipe.count < ANY_MORE
    for end in range(32, len(start)):
        assert len(start) <= container.most_bytes(start[: end + 1], "x")


def test_a_tiff_whose_directory_is_at_its_end_is_read_up_to_it() -> None:
    pages = io.BytesIO()
    shown = [PIL.Image.new("RGB", (1500, 1100), colour) for colour in ("red", "blue")]
    shown[0].save(pages, "TIFF", save_all=True, append_images=shown[1:])
    data = pages.getvalue()
    assert len(data) > 9_000_000
    assert extent.most_bytes(data[: 4 << 20]) is None
    assert extent.most_bytes(data) == 16 * 2 * 3 * 1500 * 1100 + extent._BESIDE
    assert files.contents(io.BufferedReader(Whole(data)), "stdin", pictures.most_bytes) == data


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_noise_is_not_longer_than_its_size_allows(kind: str) -> None:
    options = {"quality": 100} if kind == "JPEG" else {}
    noise = PIL.Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 4 if kind == "PNG" else 3), "u1"))
    buffer = io.BytesIO()
    noise.save(buffer, kind, **options)
    most = extent.most_bytes(buffer.getvalue())
    assert most is not None
    assert len(buffer.getvalue()) <= most - extent._BESIDE


@pytest.mark.parametrize(
    ("start", "most", "error"),
    [
        (b"", container.most_bytes, ContainerError),
        (b"\x89RSC", container.most_bytes, ContainerError),  # a version that was never used
        (b"", pictures.most_bytes, ImageError),
        (b"%PDF", pictures.most_bytes, ImageError),
    ],
)
def test_another_kind_of_file_is_refused_by_its_first_bytes(start: bytes, most: files.Most, error: type) -> None:
    pipe = Endless(start)
    with pytest.raises(error, match="^stdin"):
        files.contents(io.BufferedReader(pipe), "stdin", most)
    assert pipe.count <= io.DEFAULT_BUFFER_SIZE + files.HEAD


def hundred(head: bytes, name: str) -> int:
    return 100


@pytest.mark.parametrize("size", [0, 1, files.HEAD, 99, 100])
def test_files_pipes_and_buffers_are_read_whole(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    path, pipe = tmp_path / "file", tmp_path / "pipe"
    path.write_bytes(data)
    assert files.read(path, RefscaleError, hundred) == data
    assert files.contents(io.BytesIO(data), "-", hundred) == data
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    assert files.read(pipe, RefscaleError, hundred) == data
    writer.join()
    with path.open("rb") as file:
        file.seek(size // 2)  # as a shell may leave stdin
        assert files.contents(file, "-", hundred) == data[size // 2 :]


def test_what_is_too_long_is_refused_and_a_sparse_file_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ImageError, match=f"cannot read {path}: over the size limit: it has more than 100 bytes"):
        files.read(path, ImageError, hundred)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        files.contents(io.BytesIO(bytes(101)), "-", hundred)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        (tmp_path / "folder").mkdir()
        circle(tmp_path)
        for name in ("socket", "folder", "one", "none", "n" * 256, "nul\0"):
            with pytest.raises(ContainerError, match=f"cannot read {tmp_path / name}: "):
                files.read(tmp_path / name, ContainerError, hundred)
