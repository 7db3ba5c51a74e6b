"""Batches on a real cluster of Dask: the bytes are those of local processes, and a death loses nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import PIL.Image
import pytest
from conftest import Outcome

from refscale_codec import cluster, workers
from refscale_codec.errors import BatchError, UsageError

distributed = pytest.importorskip("distributed")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # those of Dask and Tornado are not ours

PAIRS = 40
LOCAL: dict[str, Any] = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0"}


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """Take back what Dask sets in the environment for its workers: numbers of threads."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def scheduler() -> Iterator[Any]:
    """A cluster of two processes with one thread each, which say that they have a GPU each."""
    with distributed.LocalCluster(**{**LOCAL, "n_workers": 2}, resources={"GPU": 1}) as local:
        yield local


@pytest.fixture(scope="module")
def client(scheduler: Any) -> Iterator[Any]:
    with cluster.connected(scheduler.scheduler_address) as client:
        yield client


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small pairs, in the working folder."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :48, :1][:2]
    for folder in ("new", "old"):
        (tmp_path / folder).mkdir()
    for number in range(PAIRS):
        older = 120 + 60 * np.sin(x * rng.uniform(0.1, 0.5, 3) + y * rng.uniform(0.1, 0.5, 3))
        for folder, picture in (("old", older), ("new", 0.9 * older + rng.normal(0, 3, older.shape))):
            PIL.Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(tmp_path / folder / f"{number:02}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def here(refscale: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run the command line with the work done in this process."""

    def inline(
        work: Callable[[Any], Any], tasks: Iterable[Any], jobs: int, prepare: Callable[[], None]
    ) -> Generator[tuple[Any, Any], None, None]:
        prepare()
        for task in tasks:
            yield task, work(task)

    monkeypatch.setattr(workers, "run", inline)
    return refscale


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "batch.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "batch.jsonl"}


def killing(pid: int, when: Path) -> threading.Thread:
    """Begin to wait for a file, and kill a process when it is there."""

    def watch() -> None:
        while not when.exists():
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_files_and_pictures_are_those_of_local_processes_even_if_a_worker_is_killed(
    place: Path, here: Callable[..., Outcome], tiny_weights: Path, scheduler: Any, client: Any
) -> None:
    options = "--weights", tiny_weights, "--json"
    there = "--scheduler", scheduler.scheduler_address
    one = here("batch", "new", "--ref", "old", "-o", "here", *options, "--device", "cpu")
    assert one.code == 0, one.err
    victim = next(iter(client.run(os.getpid).values()))
    killer = killing(victim, place / "there" / "02.rsc")
    other = here("batch", "new", "--ref", "old", "-o", "there", *options, *there)
    assert (other.code, json.loads(other.text)["coded"]) == (0, PAIRS), other.err
    killer.join()
    assert contents(place / "here") == contents(place / "there")
    told = lines(place / "there")
    assert [line["key"] for line in told] == [line["key"] for line in lines(place / "here")]
    assert all(line["error"] is None for line in told)
    again = here("batch", "new", "--ref", "old", "-o", "there", *options, *there)
    assert (again.code, json.loads(again.text)["unchanged"]) == (0, PAIRS)

    assert here("refs", "add", "old", "--refs", "i.sqlite").code == 0
    decode = "batch-decode", "there", "--refs", "i.sqlite", *options
    assert here(*decode, "-o", "hat", "--device", "cpu").code == 0
    other = here(*decode, "-o", "hat2", *there)
    assert (other.code, json.loads(other.text)["decoded"]) == (0, PAIRS), other.err
    assert contents(place / "hat") == contents(place / "hat2")


def test_what_fails_is_one_line_and_the_run_goes_on(
    place: Path, refscale: Callable[..., Outcome], tiny_weights: Path, scheduler: Any
) -> None:
    for path in sorted((place / "new").iterdir())[3:]:
        path.unlink()
    (place / "new" / "01.png").write_text("nothing to see")
    there = "--scheduler", scheduler.scheduler_address
    outcome = refscale("batch", "new", "-o", "out", "--weights", tiny_weights, *there)
    assert outcome.code == 9
    assert [line["error"] is None for line in lines(place / "out")] == [True, False, True]


def work(task: tuple[int, Path | None]) -> int:
    """Return a number's square; a task with a path ends the process."""
    number, deadly = task
    if deadly is not None:
        with deadly.open("a") as file:
            file.write(".")
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def prepare(threads: int) -> None:
    assert threads == 1


def test_a_task_that_kills_each_worker_fails_alone(tmp_path: Path, client: Any) -> None:
    tasks = [(number, tmp_path / "deaths" if number == 1 else None) for number in range(30)]
    with closing(cluster.run(client, prepare, {}, work, tasks)) as results:
        made = {task[0]: result for task, result in results}
    assert made == {number: None if number == 1 else number * number for number in range(30)}
    assert (tmp_path / "deaths").read_text() == "...."  # as Dask's `allowed-failures` says


def fail(task: object) -> None:
    raise RuntimeError("cannot begin")


def test_workers_that_cannot_work_and_a_scheduler_that_goes_are_one_error(client: Any) -> None:
    with (
        pytest.raises(BatchError, match="^a worker of tcp://.* cannot work: cannot begin; the same command goes on"),
        closing(cluster.run(client, prepare, {}, fail, [1])) as results,
    ):
        next(results)
    with (
        distributed.LocalCluster(**LOCAL, processes=False) as local,
        cluster.connected(local.scheduler_address) as other,
        closing(cluster.run(other, prepare, {}, work, [(1, None), (2, None)])) as results,
    ):
        next(results)
        local.close()
        with pytest.raises(BatchError, match="^the scheduler .* has gone; the same command goes on"):
            list(results)


def test_a_device_is_a_resource(client: Any) -> None:
    assert [cluster.count(client, {"GPU": need} if need else {}) for need in (0, 1, 2)] == [2, 2, 0]
    with closing(cluster.run(client, prepare, {"GPU": 1}, work, [(3, None)])) as results:
        assert list(results) == [((3, None), 9)]


@pytest.mark.parametrize("command", ["batch new", "batch-decode new"])
def test_a_scheduler_that_is_not_there_is_one_message(
    place: Path, refscale: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 1.0)
    for address in ("tcp://127.0.0.1:1", "127.0.0.1", "gopher://127.0.0.1:1"):
        outcome = refscale(*command.split(), "-o", "out", "--scheduler", address)
        assert outcome.code == 2
        assert outcome.err.startswith(f"error: there is no Dask scheduler at {address}: ")
        assert len(outcome.err.splitlines()) == 1
    outcome = refscale(*command.split(), "-o", "out", "--scheduler", "tcp://127.0.0.1:1", "--jobs", "2")
    assert outcome.err == "error: --jobs would have no effect: the workers are those of --scheduler\n"
    assert not (place / "out").exists()


def test_an_address_that_is_none_is_one_message_in_a_process_of_its_own(place: Path) -> None:
    line = [sys.executable, "-m", "refscale_codec", "batch", "new", "-o", "out", "--scheduler", "127.0.0.1"]
    done = subprocess.run(line, cwd=place, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no Dask scheduler at 127.0.0.1: ")
    assert done.stderr.count("\n") == 1


def test_a_server_of_another_kind_is_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"^there is no Dask scheduler at {address}: "), cluster.connected(address):
            pass
