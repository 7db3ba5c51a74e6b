"""The commands that code and decode many pictures; see `cli`."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refscale_codec import weights_files
from refscale_codec.cli import many, options
from refscale_codec.cli.options import (
    COMPUTING,
    FILES,
    CodecOption,
    DeviceOption,
    JsonOption,
    LosslessOption,
    MaxErrorOption,
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
from refscale_codec.errors import UsageError, writing

if TYPE_CHECKING:
    from collections.abc import Callable

    from refscale_codec.archive.stac import Scene
    from refscale_codec.batch.tasks import Item

OutputFolderOption = Annotated[
    Path, option("--output", "-o", metavar="FOLDER", help="Of the files and batch.jsonl. Runs resume.", group=FILES)
]
ForceFolderOption = Annotated[
    bool, option("--force", "-f", help="Overwrite files that no earlier run has written.", group=FILES)
]
DryRunOption = Annotated[bool, option("--dry-run", help="Only list what would be done.", group=FILES)]
JobsOption = Annotated[
    int | None,
    option("--jobs", metavar="N", help="Processes sharing the cores; one a core, on a GPU one.", group=COMPUTING),
]
SchedulerOption = Annotated[
    str | None,
    option("--scheduler", metavar="ADDRESS", help="Of Dask, whose workers do it: tcp://HOST:PORT.", group=COMPUTING),
]


def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MANIFEST|FOLDER|ITEMS",
            help="A CSV (target,reference), folder or STAC JSON.",
        ),
    ],
    folder: OutputFolderOption,
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
    force: ForceFolderOption = False,
    dry_run: DryRunOption = False,
    quality: QualityOption = None,
    target_bytes: TargetBytesOption = None,
    target_bpp: TargetBppOption = None,
    target_psnr: TargetPsnrOption = None,
    lossless: LosslessOption = False,
    max_error: MaxErrorOption = None,
    scale: ScaleOption = None,
    codec_name: CodecOption = None,
    value_range: RangeOption = None,
    strip: StripOption = False,
    ref_name: RefNameOption = None,
    output_hash: OutputHashOption = False,
    tile: TileOption = None,
    jobs: JobsOption = None,
    scheduler: SchedulerOption = None,
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
    or has changed: a picture, its reference, its file, the options, the weights or the version; what the process
    computes with does not count. A file that is not as an earlier run has written it is left alone, unless it is equal.

    A picture that cannot be coded is one line, the run goes on, and the exit code is 9. If the process that codes it
    ends by itself, it is tried once more. Workers of --scheduler read and find all files by the same paths as here.
    """
    from refscale_codec.api.request import rate_of, shipping_of

    rate = rate_of(quality, target_bytes, target_bpp, target_psnr, max_error, lossless, name=options.named)
    shipping = shipping_of(scale, codec_name, None if weights is None else "--weights", rate, name=options.named)
    options.require_no_range(value_range, rate.max_error)
    named = options.reference_name_of(ref_name)
    options.require_positive(jobs=jobs, max_refs=max_refs)
    index_path = options.index_named(refs, ref, max_refs)
    source, ref = many.seen_by(scheduler, source), many.seen_by(scheduler, ref)
    with many.opened(index_path, weights, scheduler, jobs, device, dry_run=dry_run, quiet=quiet) as opened:
        step, index, client = opened
        step("starting")
        from refscale_codec.batch.encoding import Encoding
        from refscale_codec.batch.tasks import DONE
        from refscale_codec.picture.tiles import TILE

        unread: list[str] = []  # files and folders
        items, scenes, older = _found(source, ref, split, asset, folder, force, many.told_and_kept(unread))
        if scenes and refs is not None:
            raise UsageError("STAC items are coded against items, so --refs would have no effect")
        path = many.seen_by(scheduler, weights) or weights_files.shipped(*shipping)
        job = Encoding(
            None if weights is None else path,
            weights_files.fingerprint(path).hex(),
            rate,
            partial(options.ranges_of, value_range) if value_range else None,
            output_hash=output_hash,
            reference_name=named,
            strip=strip,
            tile=TILE if tile is None else tile,
            device=many.device_for(scheduler, device),
            index=None if index_path is None or scenes else many.seen_by(scheduler, Path(index_path)),
            most=max_refs or 1,
            replace=force,
        )
        searched = None if scenes else index_path
        tasks = many.plan(items, job, folder, searched, unread, dry_run=dry_run, json_output=json_output)
        if tasks is None:
            return
        processes = many.processes(client, jobs, device, tasks)
        if any(task.state != DONE for task in tasks):
            from refscale_codec import model

            model.load(path)  # so that wrong weights are refused at once
        in_care = None if job.index is None else index
        counts = many.run(tasks, job, folder, processes, step, index=in_care, quiet=quiet)
        if scenes:
            _write_items(scenes, older, folder)
    many.summarise(counts, "coded", folder, unread, json_output=json_output, quiet=quiet)


def batch_decode(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="Its .rsc files, and those of folders in it.")],
    folder: OutputFolderOption,
    ref: Annotated[
        Path | None, option("--ref", metavar="PATH", help="A folder of equal names, or one for all.", group=FILES)
    ] = None,
    refs: RefsOption = None,
    force: ForceFolderOption = False,
    dry_run: DryRunOption = False,
    tile: TileOption = None,
    jobs: JobsOption = None,
    scheduler: SchedulerOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Decode many files: FOLDER/a/x.rsc becomes OUTPUT/a/x.png.

    Pictures are those of decode, x.tif where a PNG cannot hold all. References are those of an index by their
    fingerprints, with --refs, or of a folder by their names: of a/x.rsc, --ref old has old/a/x.tif or old/a/x.png.

    batch.jsonl in the output gets a line of JSON for each file. A later run decodes only what is missing, has failed,
    or has changed. A picture that no earlier run has written is left alone, unless it is equal.

    A file that cannot be decoded is one line, the run goes on, and the exit code is 9. If the process that decodes it
    ends by itself, it is tried once more. Workers of --scheduler read and find all files by the same paths as here.
    """
    options.require_positive(jobs=jobs)
    index_path = options.index_named(refs, ref)
    source, ref = many.seen_by(scheduler, source), many.seen_by(scheduler, ref)
    with many.opened(index_path, weights, scheduler, jobs, device, dry_run=dry_run, quiet=quiet) as opened:
        step, index, client = opened
        step("looking into the files")
        from refscale_codec.batch import decoding
        from refscale_codec.picture.tiles import TILE

        unread: list[str] = []  # files and folders
        items = decoding.find(source, ref, index, failed=many.told_and_kept(unread))
        job = decoding.Decoding(
            many.seen_by(scheduler, weights),
            None if index_path is None else many.seen_by(scheduler, Path(index_path)),
            TILE if tile is None else tile,
            many.device_for(scheduler, device),
            replace=force,
        )
        tasks = many.plan(items, job, folder, index_path, unread, dry_run=dry_run, json_output=json_output)
        if tasks is None:
            return
        processes = many.processes(client, jobs, device, tasks)
        counts = many.run(tasks, job, folder, processes, step, quiet=quiet)
    many.summarise(counts, "decoded", folder, unread, json_output=json_output, quiet=quiet)


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
    from refscale_codec.archive import stac
    from refscale_codec.batch import encoding
    from refscale_codec.batch.tasks import JOURNAL

    if source.suffix.lower() != ".json" or os.path.isdir(source):
        if asset is not None:
            raise UsageError("--asset goes with STAC items")
        return encoding.find(source, ref, split, failed=failed), [], []
    if split is not None:
        raise UsageError("--split goes with a manifest")
    output = folder / stac.ITEMS
    if os.path.exists(output) and (not (folder / JOURNAL).exists() or output.samefile(source)) and not force:
        raise UsageError(f"{output} exists, and no earlier run has written it: -f overwrites it")
    scenes = stac.read(source, asset)
    older = stac.best_earlier(scenes, scenes if ref is None else stac.read(ref, asset))
    return encoding.of_scenes(scenes, older, source), scenes, older


def _write_items(scenes: "list[Scene]", older: "list[Scene | None]", folder: Path) -> None:
    """Write the items of the files that are coded."""
    from refscale_codec.archive import stac
    from refscale_codec.batch import tasks
    from refscale_codec.picture import files

    told = {file: line for file, line in tasks.told(folder).items() if line["error"] is None}
    items = [
        stac.coded_item(scene, old, told[scene.file], folder)
        for scene, old in zip(scenes, older, strict=True)
        if scene.file in told
    ]
    path = folder / stac.ITEMS
    with writing(path):
        files.write_atomically(path, stac.collection(items))
