"""A file that is written is at every moment the old one or the whole new one."""

import os
import stat
from pathlib import Path

import pytest

from refscale_codec.picture import files


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    existing = tmp_path / "old"
    existing.write_bytes(b"the old one")
    monkeypatch.setattr(os, step, fail)
    for name in ("old", "new"):
        with pytest.raises(OSError, match="No space left"):
            files.write_atomically(tmp_path / name, b"bytes")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert existing.read_bytes() == b"the old one"


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
