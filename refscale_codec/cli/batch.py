"""The command that codes many pictures; see `cli`."""

import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refscale_codec.cli import memory, options, process, terminal
from refscale_codec.cli.options import (
    COMPUTING,
    FILES,
    CodecOption,
    DeviceOption,
    JsonOption,
    MaxRefsOption,
    OutputHashOption,
    QualityOption,
    QuietOption,
    RangeOption,
    RefNameOption,
    RefsOption,
    ScaleOption,
    StripOption,
    TargetBppOption,
    TargetBytesOption,
    TargetPsnrOption,
    TileOption,
    WeightsOption,
    option,
)
from refscale_codec.errors import BatchError, RefscaleError, UsageError, counted, writing

if TYPE_CHECKING:
    from collections.abc import Callable

    from refscale_codec.archive.stac import Scene
    from refscale_codec.batch import Item, Task

_BETWEEN_LINES = 30.0  # seconds, where stderr is no terminal


def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MANIFEST|FOLDER|ITEMS",
            help="A CSV (target,reference), folder or STAC JSON.",
        ),
    ],
    folder: Annotated[
        Path, option("--output", "-o", metavar="FOLDER", help="Of the files and batch.jsonl. Runs resume.", group=FILES)
    ],
    ref: Annotated[
        Path | None,
        option(
            "--ref",
            metavar="PATH",
            help="A folder of equal names, one for all, or STAC items.",
            group=FILES,
        ),
    ] = None,
    refs: RefsOption = None,
    max_refs: MaxRefsOption = None,
    asset: Annotated[
        str | None, option("--asset", metavar="KEY", help="The asset of STAC items that is the picture.", group=FILES)
    ] = None,
    split: Annotated[
        str | None, option("--split", metavar="NAME", help="Only rows of this split of the CSV.", group=FILES)
    ] = None,
    force: Annotated[
        bool, option("--force", "-f", help="Overwrite files that no earlier run has written.", group=FILES)
    ] = False,
    dry_run: Annotated[bool, option("--dry-run", help="Only list what would be done.", group=FILES)] = False,
    quality: QualityOption = None,
    target_bytes: TargetBytesOption = None,
    target_bpp: TargetBppOption = None,
    target_psnr: TargetPsnrOption = None,
    scale: ScaleOption = None,
    codec_name: CodecOption = None,
    value_range: RangeOption = None,
    strip: StripOption = False,
    ref_name: RefNameOption = None,
    output_hash: OutputHashOption = False,
    tile: TileOption = None,
    jobs: Annotated[
        int | None,
        option(
            "--jobs",
            metavar="N",
            help="Processes sharing the cores; one a core, on a GPU one.",
            group=COMPUTING,
        ),
    ] = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Encode many pictures: FOLDER/a/x.png becomes OUTPUT/a/x.rsc.

    Files are those of encode. A manifest is a CSV with the columns target and reference; paths are relative to it. A
    picture without a reference is coded without one, or with --refs against the best that an index has, in whose care
    the files are from then on.

    STAC items are an ItemCollection, a catalogue or an item. Each is coded against the best earlier item that overlaps
    it, among themselves or those of --ref; items.json in the output has the items of the files.

    batch.jsonl in the output gets a line of JSON for each picture. A later run codes only what is missing, has failed,
    or has changed: a picture, its reference, the options, the weights or the version; what the process computes with
    does not count. A file that no earlier run has written is left alone, unless it is equal.

    A picture that cannot be coded is one line, the run goes on, and the exit code is 9. If the process that codes it
    ends by itself, it is tried once more.
    """
    from refscale_codec.api.request import rate_of, shipping_of

    rate = rate_of(quality, target_bytes, target_bpp, target_psnr, options.named)
    shipping = shipping_of(scale, codec_name, None if weights is None else "--weights", options.named)
    named = options.reference_name_of(ref_name)
    options.require_positive(jobs=jobs, max_refs=max_refs)
    index_path = options.index_named(refs, ref, max_refs)
    if dry_run:
        terminal.require_stdout()
    with terminal.progress(quiet or dry_run) as step, terminal.index(index_path) as index:
        step("starting")
        from refscale_codec import batch as batches
        from refscale_codec.picture import files
        from refscale_codec.picture.tiles import TILE
        from refscale_codec.study.environment import cores

        unread: list[str] = []  # folders
        items, scenes, older = _found(source, ref, split, asset, folder, force, unread.append)
        for text in unread:
            terminal.say(False, text)
        if scenes and refs is not None:
            raise UsageError("STAC items are coded against items, so --refs would have no effect")
        from refscale_codec import model as weights_files

        path = weights or weights_files.shipped(*shipping)
        settings = batches.Settings(
            path,
            weights_files.load(path).fingerprint.hex(),
            rate,
            partial(options.ranges_of, value_range) if value_range else None,
            output_hash=output_hash,
            reference_name=named,
            strip=strip,
            tile=TILE if tile is None else tile,
            device=terminal.device_named(device),
            index=None if index_path is None or scenes else Path(index_path),
            most=max_refs or 1,
            replace=force,
        )
        if not dry_run:
            batches.require_journal(folder, replace=force)
        tasks = batches.plan(items, settings, folder)
        wanted = sum(task.state != batches.DONE for task in tasks)
        if dry_run:
            _list(tasks, settings.index, json_output)
            return
        files.make_folder(folder)
        processes = min(jobs or (cores() if settings.device == "cpu" else 1), max(1, wanted))
        threads = max(1, cores() // processes)
        begun = said = time.monotonic()
        failed = size = alone = 0
        results = batches.run(
            tasks,
            settings,
            folder,
            index=None if settings.index is None else index,
            jobs=processes,
            prepare=partial(_prepare, threads),
            explain=_explained,
        )
        with closing(results) as lines:
            for done, line in enumerate(lines, 1):
                for warning in line["warnings"]:
                    terminal.say(quiet, f"{line['file']}: {warning}")
                if line["error"] is None:
                    size += line["bytes"]
                    alone += not line["references"]
                else:
                    failed += 1
                    terminal.say(False, f"{line['file']}: {line['error']}")
                now = time.monotonic()
                left = terminal.duration((now - begun) * (wanted - done) / done)
                told = f"{done} of {counted(wanted, 'picture')}, {left} left" + f", {failed} failed" * bool(failed)
                step(told)
                if now - said > _BETWEEN_LINES:
                    said = now
                    terminal.say(quiet or sys.stderr.isatty(), told)
        if scenes:
            _write_items(scenes, older, folder)
    facts = {
        "pictures": len(tasks),
        "coded": wanted - failed,
        "unchanged": len(tasks) - wanted,
        "failed": failed,
        "without_reference": alone,
        "bytes": size,
        "seconds": round(time.monotonic() - begun, 3),
    }
    told = f"{folder}: {facts['coded']} of {counted(len(tasks), 'picture')} coded" + f", to {size} bytes" * bool(size)
    told += f"; {facts['unchanged']} were coded already" * bool(facts["unchanged"])
    told += f"; {facts['without_reference']} without a reference" * bool(facts["without_reference"])
    terminal.summarise([told], facts, json_output=json_output, quiet=quiet)
    if unread:
        raise BatchError(
            f"{len(unread)} folders could not be read, nor what is in them"
            + f", and {failed} of {len(tasks)} pictures not coded; {folder / batches.JOURNAL} has why" * bool(failed)
        )
    if failed:
        of = counted(len(tasks), "picture")
        raise BatchError(f"{failed} of {of} could not be coded; {folder / batches.JOURNAL} has why")


def _found(
    source: Path,
    ref: Path | None,
    split: str | None,
    asset: str | None,
    folder: Path,
    force: bool,
    failed: "Callable[[str], None]",
) -> "tuple[list[Item], list[Scene], list[Scene | None]]":
    """Return what is to be coded, and if these are STAC items, they and their references."""
    from refscale_codec import batch as batches
    from refscale_codec.archive import stac

    if source.suffix.lower() != ".json" or source.is_dir():
        if asset is not None:
            raise UsageError("--asset goes with STAC items")
        return batches.find(source, ref, split, failed=failed), [], []
    if split is not None:
        raise UsageError("--split goes with a manifest")
    output = folder / stac.ITEMS
    if output.exists() and (not (folder / batches.JOURNAL).exists() or output.samefile(source)) and not force:
        raise UsageError(f"{output} exists, and no earlier run has written it: -f overwrites it")
    scenes = stac.read(source, asset)
    older = stac.best_earlier(scenes, scenes if ref is None else stac.read(ref, asset))
    return batches.of_scenes(scenes, older, source), scenes, older


def _write_items(scenes: "list[Scene]", older: "list[Scene | None]", folder: Path) -> None:
    """Write the items of the files that are coded."""
    from refscale_codec import batch as batches
    from refscale_codec import journal
    from refscale_codec.archive import stac
    from refscale_codec.picture import files

    told = {line.get("file"): line for line in journal.read(folder / batches.JOURNAL) if line.get("error") is None}
    items = [
        stac.coded_item(scene, old, told[scene.file], folder)
        for scene, old in zip(scenes, older, strict=True)
        if scene.file in told
    ]
    path = folder / stac.ITEMS
    with writing(path):
        files.write_atomically(path, stac.collection(items))


def _list(tasks: "list[Task]", index: Path | None, json_output: bool) -> None:
    """Write what would be done, a line each."""
    for state, item in ((task.state, task.item) for task in tasks):
        given = [] if item.reference is None else [str(item.reference)]
        facts = {"state": state, "picture": str(item.picture), "reference_pictures": given, "file": item.file}
        older = f"with {given[0]}" if given else "alone" if index is None else f"with the best of {index}"
        text = terminal.as_json(facts) if json_output else f"{state}: {item.picture} {older} to {item.file}"
        terminal.write("-", text + "\n")


def _prepare(threads: int) -> None:
    """Make the settings of a process that codes."""
    import torch

    terminal.show_warnings_as_lines()
    process.keep_freed_memory()
    process.lift_pillow_limit()
    process.limit_threads(min(threads, torch.get_num_threads()))


def _explained(error: Exception) -> str:
    if isinstance(error, RefscaleError):
        return str(error)
    if memory.is_lacking(error):
        return memory.message(error, "; fewer --jobs and smaller tiles (--tile) need less")
    return f"a fault of refscale: {type(error).__name__}: {error}"
