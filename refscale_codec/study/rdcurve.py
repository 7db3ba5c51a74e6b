"""`refscale rd-curve`: many coders on a user's own pairs, measured to rows; `output` writes what comes of them.

Every pair goes through every coder at every quality of that coder; whole files are counted (where something else is
counted, the coder's label says so). Files of other codecs are decoded from their bytes; of refscale's only the first of
each picture, which must give what the encoder predicts (`coders.refscale`). Rows are kept in `rows.jsonl` as they are
made, each under a name for what it depends on: both pictures, coder, quality, weights and versions. A run that is
repeated measures only what is missing.

Conventions are those of `metrics` and `evaluate`: bits per high-res pixel, RGB PSNR.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import torch

from refscale_codec import journal, model, workers
from refscale_codec.errors import OutOfMemory, UsageError
from refscale_codec.picture.io import pictures
from refscale_codec.study import evaluate
from refscale_codec.study.coders import baselines, names
from refscale_codec.study.coders.protocol import Coder
from refscale_codec.study.coders.refscale import Refscale
from refscale_codec.study.environment import versions
from refscale_codec.study.pairs import Checked, cut_to
from refscale_codec.study.results import Row, from_fields, to_fields
from refscale_codec.study.styles import FEW

# --- the coders ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """What to code with; small, so that it can be sent to another process."""

    weights: tuple[Path, ...]  # refscale's own coders, with and without reference, for each
    names: tuple[str, ...] | None = None  # of the coders wanted, see `coders.names.wanted`
    device: str = "cpu"

    def coders(self) -> list[Coder]:
        """Build the coders wanted.

        Raises:
            UsageError: see `names.wanted`.
            WeightsError: weights that cannot be read.
        """
        wanted = names.wanted(self.names, self.weights)
        own = [
            Refscale(model.kept(path, self.device), name, mode)
            for path, name in zip(self.weights, names.of_weights(self.weights), strict=True)
            for mode in names.MODES
        ]
        by_name = {coder.name: coder for coder in [*baselines.available()[0], *own]}
        return [by_name[name] for name in wanted]

    def missing(self) -> dict[str, str]:
        """Return the coders that were wanted but not by name and are not installed, and what installs them."""
        everything = tuple(coder.name for coder in baselines.BASELINES)
        wanted = FEW if self.names is None else everything if self.names == names.EVERYTHING else ()
        return {name: line for name, line in baselines.available()[1].items() if name in wanted}


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(
    pairs: list[Checked],
    setup: Setup,
    folder: Path,
    *,
    jobs: int = 1,
    report: Callable[[int, int], None] = lambda done, of: None,
    finished: Callable[[Checked], None] = lambda pair: None,
) -> list[Row]:
    """Return a row for each pair, coder and quality; those in `folder/rows.jsonl` are not measured again.

    Args:
        pairs: from `check`. A pair without a reference goes only through coders that need none.
        setup: the coders.
        folder: exists; gets rows.jsonl.
        jobs: processes, each on one thread; 1 measures in this one.
        report: called with the number of rows done and the number of all.
        finished: called with each pair as soon as it has all its rows.

    Raises:
        UsageError: no coder can code any of the pairs.
    """
    coders = setup.coders()
    wanted = [
        (pair, coder, [(quality, _key(pair, coder, quality)) for quality in coder.qualities])
        for pair in pairs
        for coder in coders
        if not coder.needs_reference or _reference(pair, coder)
    ]
    if not wanted:
        raise UsageError("nothing to measure: these coders need a reference, and no pair has one")
    total = sum(len(settings) for _, _, settings in wanted)
    done = _kept(folder / "rows.jsonl")
    done = {key: done[key] for _, _, settings in wanted for _, key in settings if key in done}
    tasks = []
    for pair, coder, settings in wanted:
        left = tuple(setting for setting in settings if setting[1] not in done)
        if left:
            tasks.append(_Task(pair, _reference(pair, coder), coder.name, left))
    tasks_left = Counter(task.pair for task in tasks)
    report(len(done), total)
    for pair in pairs:
        if not tasks_left[pair]:
            finished(pair)
    with journal.appending(folder / "rows.jsonl") as append, closing(_run(tasks, setup, coders, jobs)) as results:
        for task, made in results:
            for key, row in made:
                append({"key": key, **to_fields(row)})
                done[key] = row
            report(len(done), total)
            tasks_left[task.pair] -= 1
            if not tasks_left[task.pair]:
                finished(task.pair)
    return [
        replace(done[key], dataset=pair.pair.dataset, name=pair.pair.name)
        for pair, _, settings in wanted
        for _, key in settings
    ]


def _wants_unrelated(coder: Coder) -> bool:
    return isinstance(coder, Refscale) and coder.mode == "unrelated"


def _reference(pair: Checked, coder: Coder) -> Path | None:
    """Return the reference that a coder is to be given."""
    if not coder.needs_reference:
        return None
    return pair.unrelated if _wants_unrelated(coder) else pair.pair.reference


class _Task(NamedTuple):
    pair: Checked
    reference: Path | None
    coder: str
    settings: tuple[tuple[int, str], ...]  # (quality, key)


def _key(pair: Checked, coder: Coder, quality: int) -> str:
    """Name everything that a row depends on but the machine."""
    weights = coder.model.fingerprint.hex() if isinstance(coder, Refscale) else None
    other = str(pair.unrelated.resolve()) if pair.unrelated and _wants_unrelated(coder) else None
    depends = [pair.digest, coder.name, coder.label, quality, weights, other, versions()]
    return hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:16]


def _kept(path: Path) -> dict[str, Row]:
    """Return the rows of an earlier run by their keys; lines that are damaged, or of another schema, are left out."""
    rows = {}
    for row in journal.read(path):
        key = row.pop("key", None)
        if isinstance(key, str):
            with suppress(ValueError):
                rows[key] = from_fields(Row, row)
    return rows


_CODERS: dict[str, Coder] = {}  # of this process


def _prepare(coders: list[Coder]) -> None:
    _CODERS.clear()
    _CODERS.update({coder.name: coder for coder in coders})


def _prepare_worker(setup: Setup) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _prepare(setup.coders())


def _work(task: _Task) -> list[tuple[str, Row]]:
    coder, pair = _CODERS[task.coder], task.pair.pair
    target = pictures.read_rgb(pair.target)
    reference = None
    if task.reference is not None:
        reference = pictures.read_rgb(task.reference)
        if _wants_unrelated(coder):
            reference = cut_to(reference, target)
    coded = coder.code(target, reference, [quality for quality, _ in task.settings])
    return [
        (key, evaluate.measured(pair, task.coder, quality, target, each))
        for (quality, key), each in zip(task.settings, coded, strict=True)
    ]


def _run(
    tasks: list[_Task], setup: Setup, coders: list[Coder], jobs: int
) -> Generator[tuple[_Task, list[tuple[str, Row]]], None, None]:
    if jobs == 1 or len(tasks) < 2:
        _prepare(coders)
        for task in tasks:
            yield task, _work(task)
        return
    with closing(workers.run(_work, tasks, jobs, partial(_prepare_worker, setup))) as results:
        for task, made in results:
            if made is None:
                raise OutOfMemory(
                    f"{task.pair.pair.name}, {task.coder}: the process that measured ended by itself twice, perhaps "
                    "for lack of memory; what was measured is kept: start again, with fewer --jobs"
                )
            yield task, made
