"""Many pictures in one call, by processes that load the net once; a line of `batch.jsonl` tells of each.

A picture's file has its path with the suffix .rsc. A run that is repeated codes what is missing, what failed, and what
has changed: a picture, its reference or a file beside one of them, the weights, the options or the version. Inputs are
known by size and time of modification, and files beside them by content.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from refscale_codec import __version__, journal, workers
from refscale_codec.api.functions import encode_image
from refscale_codec.api.request import Rate
from refscale_codec.archive.references import References
from refscale_codec.archive.stac import Scene
from refscale_codec.errors import OutputError, ReferenceMismatch, UsageError, printable, writing
from refscale_codec.fileformat import container, references
from refscale_codec.picture import files
from refscale_codec.picture.coded.ranges import Declared
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures, sidecars
from refscale_codec.picture.tiles import TILE
from refscale_codec.study.pairs import SUFFIXES
from refscale_codec.training.manifest import SUFFIXES as MANIFESTS
from refscale_codec.training.manifest import read_manifest

JOURNAL = "batch.jsonl"
DONE = "done"
"""The state of a picture that is coded already; the others are new, changed and failed."""

Line = dict[str, Any]

_MOST_BANDS = 255
_BEGINNING = b'{"name": '  # of a line


@dataclass(frozen=True)
class Settings:
    """What all pictures are coded with; small, so that it can be sent to another process."""

    weights: Path
    fingerprint: str  # of the weights
    rate: Rate = Rate()
    ranges: Callable[[int], Declared] | None = None  # the values to code, by how many bands a picture has
    output_hash: bool = False
    reference_name: bool | None = None
    strip: bool = False
    tile: int = TILE
    device: str = "cpu"
    index: Path | None = None  # of references for pictures that have none of their own; it cares for the files
    most: int = 1  # how many references of the index a picture may have
    replace: bool = False  # whether a file that is there and no run of the batch has written may be overwritten

    def decisive(self) -> list[Any]:
        """Return what files depend on, up to how the machine rounds."""
        ranges = None if self.ranges is None else str(self.ranges(_MOST_BANDS))
        options = [self.output_hash, self.reference_name, self.strip, self.most if self.index else 0]
        return [self.fingerprint, self.rate, ranges, *options, __version__]


class Item(NamedTuple):
    """A picture, its reference and its file."""

    name: str
    picture: Path
    reference: Path | None
    file: str  # path within the folder of the output


class Task(NamedTuple):
    """What is to be done with an item."""

    item: Item
    folder: Path  # of the output
    key: str  # names everything that the file depends on
    state: str
    written: str | None  # SHA-256 of the file that an earlier run wrote


def find(
    source: Path,
    reference: Path | None = None,
    split: str | None = None,
    *,
    failed: Callable[[str], None] = lambda text: None,
) -> list[Item]:
    """Return the pictures to code.

    Args:
        source: a manifest (see `manifest`), by its suffix, or a folder, with all folders in it.
        reference: nothing, one reference for all pictures of a folder, or a folder of references with their paths;
            pictures without one are coded without.
        split: only rows of this split of a manifest.
        failed: called with a line on each folder that cannot be read.

    Raises:
        UsageError: nothing to code, arguments that do not belong together, or two pictures that would be one file.
    """
    if source.is_dir():
        if split is not None:
            raise UsageError("--split goes with a manifest")
        found = sorted(files.below(source, SUFFIXES, failed))
        if not found:
            raise UsageError(f"{source} has no picture: no file ends in {', '.join(SUFFIXES)}")
        older = {path: _partner(path, source, reference) for path in found}
        if reference is not None and not any(older.values()):
            raise UsageError(f"{source} and {reference} have no picture of the same name")
        items = [_item(printable(path.stem), path, older[path], source) for path in found]
    elif source.suffix.lower() in MANIFESTS:
        if reference is not None:
            raise UsageError(f"{source} names the references itself; --ref would have no effect")
        pairs = read_manifest(source, None if split is None else (split,))
        items = [_item(pair.name, pair.target, pair.reference, source.parent) for pair in pairs]
    elif source.exists():
        raise UsageError(f"{source} is neither a folder nor a manifest; `refscale encode` codes one picture")
    else:
        raise UsageError(f"{source} does not exist")
    return _distinct(items, source)


def of_scenes(scenes: Iterable[Scene], references: Iterable[Scene | None], source: Path) -> list[Item]:
    """Return the pictures of STAC items, with their references; errors as in `find`."""
    pairs = zip(scenes, references, strict=True)
    items = [Item(printable(at.item.id), at.picture, old and old.picture, at.file) for at, old in pairs]
    return _distinct(items, source)


def _distinct(items: list[Item], source: Path) -> list[Item]:
    first: dict[str, Item] = {}
    for item in items:
        other = first.setdefault(os.path.normcase(item.file), item)
        if other is not item and other.picture == item.picture:
            raise UsageError(f"{source} lists {item.picture} more than once")
        if other is not item:
            raise UsageError(f"{other.picture} and {item.picture} would both be {item.file}: rename one")
    return items


def _partner(path: Path, source: Path, reference: Path | None) -> Path | None:
    """Return the reference of a picture in a folder; None if it has none."""
    if reference is None or not reference.is_dir():
        return reference
    other = reference / path.relative_to(source)
    return other if other.is_file() else None


def _item(name: str, picture: Path, reference: Path | None, base: Path) -> Item:
    path = Path(os.path.relpath(picture, base))
    inside = Path(*(part for part in path.parts if part not in ("..", path.anchor)))
    if not inside.name:
        raise UsageError(f"{picture} is a folder, not a picture")
    return Item(name, picture, reference, printable(str(inside.with_suffix(".rsc"))))


def plan(items: Iterable[Item], settings: Settings, folder: Path) -> list[Task]:
    """Return what is to be done with each item, by what is there; nothing is decoded or written.

    Args:
        items: from `find`.
        settings: what they are to be coded with.
        folder: of the output; need not exist.
    """
    known = {line.get("file"): line for line in journal.read(folder / JOURNAL)}
    tasks = []
    for item in items:
        key, line = _key(item, settings), known.get(item.file)
        if line is None:
            state = "new"
        elif line.get("error") is not None:
            state = "failed"
        else:
            state = DONE if line.get("key") == key and _size(folder / item.file) == line.get("bytes") else "changed"
        tasks.append(Task(item, folder, key, state, None if line is None else line.get("sha256")))
    return tasks


def require_journal(folder: Path, *, replace: bool) -> None:
    """Raise UsageError if the journal of a folder is not that of a batch; with `replace`, empty it."""
    path = folder / JOURNAL
    lines = journal.read(path)
    if not path.exists() or any({"file", "key"} <= line.keys() for line in lines):
        return
    with writing(path):
        data = path.read_bytes()
    if _BEGINNING.startswith(data[: len(_BEGINNING)]) and b"\n" not in data:  # the first line was cut short
        return
    if not replace:
        raise UsageError(f"{path} exists, and no earlier run has written it: -f overwrites it")
    files.write_atomically(path, b"")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _key(item: Item, settings: Settings) -> str:
    names = [None if path is None else _version(path) for path in (item.picture, item.reference)]
    older = None if item.reference is None else item.reference.name
    depends = [*names, older, settings.decisive()]
    return hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:16]


def _version(path: Path) -> list[Any]:
    """Return what changes when a picture or a file beside it does."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return []
    beside = [(other.suffix, hashlib.sha256(other.data).hexdigest()) for other in sidecars.beside(path)]
    return [status.st_size, status.st_mtime_ns, beside]


# --- running ---------------------------------------------------------------------------------------------------------


def run(
    tasks: list[Task],
    settings: Settings,
    folder: Path,
    *,
    index: References | None = None,
    jobs: int,
    prepare: Callable[[], None],
    explain: Callable[[Exception], str],
) -> Generator[Line, None, None]:
    """Do what is to be done, and yield the line of each picture when it is in the journal.

    At the end the journal has one line for each picture, the last one, in the order of the tasks and behind those of
    pictures that are no longer among them.

    Args:
        tasks: from `plan`.
        settings: the same.
        folder: exists; gets the files and the journal.
        index: the same as that of the settings; takes the files into care.
        jobs: how many processes.
        prepare: called first in each; can be pickled.
        explain: turns an exception into the line of an error; can be pickled.

    Raises:
        OutputError: the journal cannot be written.
    """
    wanted = [task for task in tasks if task.state != DONE]
    start = partial(_start, settings, prepare, explain)
    with (
        journal.appending(folder / JOURNAL) as append,
        closing(workers.run(_work, wanted, jobs, start)) as results,
    ):
        for task, made in results:
            if made is None:
                line = _failed(
                    task,
                    "its process ended by itself twice, perhaps for lack of memory; fewer --jobs need less",
                )
            else:
                line = _saved(task, *made, index, replace=settings.replace)
            append(line)
            yield line
    last = {line.get("file"): line for line in journal.read(folder / JOURNAL)}
    order = [last.pop(task.item.file) for task in tasks if task.item.file in last]
    text = b"".join(map(journal.line, [*last.values(), *order]))
    with writing(folder / JOURNAL):
        if text != (folder / JOURNAL).read_bytes():
            files.write_atomically(folder / JOURNAL, text)


class _Process(NamedTuple):
    settings: Settings
    explain: Callable[[Exception], str]


_PROCESS: list[_Process] = []  # this one, if it is a worker


def _start(settings: Settings, prepare: Callable[[], None], explain: Callable[[Exception], str]) -> None:
    prepare()
    _PROCESS[:] = [_Process(settings, explain)]


def _work(task: Task) -> tuple[Line, bytes]:
    settings, explain = _PROCESS[0]
    with workers.warnings_of("refscale_codec") as told:
        try:
            line, data = code(task, settings)
        except Exception as error:
            line, data = _failed(task, explain(error)), b""
    return line | {"warnings": [printable(text) for text in told]}, data


def _saved(task: Task, line: Line, data: bytes, index: References | None, *, replace: bool) -> Line:
    """Write a file, here and not in the worker, which ends in the middle of it when the run is interrupted."""
    output = task.folder / task.item.file
    if line["error"] is not None:
        return line
    try:
        with writing(output):
            if output.exists():
                there = hashlib.sha256(output.read_bytes()).hexdigest()
                if not (replace or there in (line["sha256"], task.written)):
                    return _failed(task, f"{output} exists, and no earlier run has written it: -f overwrites it")
        files.make_folder(output.parent)
        with nullcontext() if index is None else index.care(output, data):
            files.write_atomically(output, data)
    except (OutputError, ReferenceMismatch) as error:
        return _failed(task, str(error))
    return line


def _failed(task: Task, why: str) -> Line:
    return _line(task, error=printable(why))


def _line(task: Task, **known: Any) -> Line:
    """Return the line of a picture; null for what is not known."""
    item = task.item
    fields: Line = {
        "name": item.name,
        "file": item.file,
        "picture": printable(str(item.picture)),
        "reference_pictures": [],
        **dict.fromkeys(("bytes", "bpp", "references", "quality", "psnr", "seconds", "error")),
        "warnings": [],
        "sha256": task.written,
        "key": task.key,
    }
    return fields | known


def code(task: Task, settings: Settings) -> tuple[Line, bytes]:
    """Code a picture; return its line and its file, which is not written.

    Raises:
        RefscaleError: see `api.encode`.
    """
    from refscale_codec import model

    begun, item = time.monotonic(), task.item
    image = pictures.read(item.picture, need_georeference=not settings.strip)
    older = _older(item, image, settings)
    reached = encode_image(
        image,
        [one for one, _ in older],
        model.kept(settings.weights, settings.device),
        settings.rate,
        value_range=None if settings.ranges is None else settings.ranges(image.bands),
        output_hash=settings.output_hash,
        reference_name=settings.reference_name,
        strip=settings.strip,
        tile=settings.tile,
    )
    used = references.file_names(container.unpack(reached.data))
    psnr = None if reached.psnr is None else round(reached.psnr, 3)
    line = _line(
        task,
        bytes=len(reached.data),
        bpp=round(8 * len(reached.data) / (image.height * image.width), 4),
        references=used,
        reference_pictures=[printable(str(path)) for one, path in older if one.fingerprint().hex() in used],
        quality=reached.quality,
        psnr=psnr if psnr is None or math.isfinite(psnr) else str(psnr),
        seconds=round(time.monotonic() - begun, 3),
        sha256=hashlib.sha256(reached.data).hexdigest(),
    )
    return line, reached.data


def _older(item: Item, image: Image, settings: Settings) -> list[tuple[Image, Path]]:
    """Return the references of a picture with their paths: its own, or the best that the index has."""
    if item.reference is not None:
        return [(_reference(item.reference, json.dumps(_version(item.reference))), item.reference)]
    if settings.index is None:
        return []
    index = _index(settings.index)
    entries = [candidate.entry for candidate in index.find(image, settings.most)]
    return [(index.picture(entry.described.fingerprint), entry.path) for entry in entries]


@lru_cache(maxsize=1)
def _index(path: Path) -> References:
    """Open the index of references, once in a process."""
    return References(path)


@lru_cache(maxsize=1)
def _reference(path: Path, version: str) -> Image:
    """Read a reference, once for pictures in a row that share it."""
    return pictures.read(path, need_georeference=False)
