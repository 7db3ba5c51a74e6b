"""Work in other processes: what one of them leaves behind when it ends by itself."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from refscale_codec import journal, workers
from refscale_codec.errors import OutputError

PREPARED: list[str] = []


def prepare(word: str) -> None:
    PREPARED.append(word)


def work(task: tuple[int, Path | None]) -> tuple[str, int]:
    """Return a number's square; a task with a path ends the process, unless there is a file: it makes one."""
    number, once = task
    if once is not None and not once.exists():
        if once.parent.is_dir():
            once.touch()
        os.kill(os.getpid(), signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    return PREPARED[0], number * number


@pytest.mark.slow
def test_a_process_that_dies_costs_its_own_task_only_and_is_tried_once_more(tmp_path: Path) -> None:
    tasks = [(1, None), (2, tmp_path / "once"), (3, tmp_path / "no" / "always"), (4, None), (5, None)]
    with closing(workers.run(work, tasks, 2, partial(prepare, "ready"))) as results:
        made = {task[0]: result for task, result in results}
    assert made == {number: None if number == 3 else ("ready", number * number) for number in range(1, 6)}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a process group is interrupted")
def test_an_interrupt_at_any_moment_says_so_in_one_line_and_leaves_nothing() -> None:
    program = """if True:
        import os, signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from refscale_codec.cli import interrupt
        with interrupt.told():
            from refscale_codec import workers
            print("begun", flush=True)
            for _ in workers.run(abs, range(10**6), 2, os.getpid):
                pass
    """
    for attempt in range(16):
        running = subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1, start_new_session=True)
        assert running.stdout is not None
        running.stdout.readline()
        time.sleep(attempt * 0.04)
        os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=60)  # a process that is left would keep them open
        assert (running.returncode, out, err) == (130, b"", b"interrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_journal_that_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="^cannot write /dev/full: No space left on device$"),
        journal.appending(Path("/dev/full")) as append,
    ):
        append({"a": 1})
    with pytest.raises(OutputError, match="^cannot write .*: Is a directory$"), journal.appending(tmp_path):
        pass
    with pytest.raises(OutputError, match="^cannot read .*: it is no file$"):
        journal.read(tmp_path)


def test_a_journal_goes_on_behind_a_line_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert journal.read(path) == []
    with journal.appending(path) as append:
        append({"a": 1})
        append({"a": 2})
        assert journal.read(path) == [{"a": 1}, {"a": 2}]
    path.write_bytes(path.read_bytes()[:-3])
    with journal.appending(path) as append:
        append({"a": 3})
    assert journal.read(path) == [{"a": 1}, {"a": 3}]
    path.write_text('[1]\n\n{"a": 4}\n')
    assert journal.read(path) == [{"a": 4}]
