"""The command that codes references for another place; see `cli`."""

from pathlib import Path
from typing import Annotated

import typer

from refscale_codec import weights_files
from refscale_codec.cli import many, options
from refscale_codec.cli.batch import DryRunOption, ForceFolderOption, JobsOption, OutputFolderOption
from refscale_codec.cli.options import (
    FILES,
    DeviceOption,
    JsonOption,
    QualityOption,
    QuietOption,
    TileOption,
    WeightsOption,
    option,
)
from refscale_codec.errors import WeightsError
from refscale_codec.fileformat.references import LINKS


def bundle(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Pictures, and folders of them.")],
    folder: OutputFolderOption,
    to: Annotated[Path, option("--to", metavar="INDEX", help="What the other place has, kept here.", group=FILES)],
    force: ForceFolderOption = False,
    dry_run: DryRunOption = False,
    quality: QualityOption = None,
    tile: TileOption = None,
    jobs: JobsOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Code pictures as references for another place.

    The files go there, to a satellite perhaps, where `refs add` takes them. Each is coded against the best that is
    there already: --to is an index of that, made here if there is none. It gets what the files decode to, so it is as
    good as the index there when they have arrived, and what is coded there decodes with it.

    Weights must be exact, and chains of files stay one link short of what can be decoded, for the pictures that are
    coded against them. Else a run is one of batch, with its journal, resumption and exit code 9.
    """
    from refscale_codec.api.request import rate_of

    rate = rate_of(quality)
    options.require_positive(jobs=jobs)
    with many.opened(None, weights, None, jobs, device, dry_run=dry_run, quiet=quiet) as (step, _, client):
        step("starting")
        from refscale_codec.archive.references import References
        from refscale_codec.batch import encoding
        from refscale_codec.batch import tasks as planning
        from refscale_codec.picture.tiles import TILE

        unread: list[str] = []  # files and folders
        tell = many.told_and_kept(unread)
        items = encoding.of_paths(paths, failed=tell)
        path = weights or weights_files.shipped(2)
        if not dry_run:
            _require_exact(path)
        job = encoding.Encoding(
            weights,
            weights_files.fingerprint(path).hex(),
            rate,
            tile=TILE if tile is None else tile,
            device=device,
            index=to,
            links=LINKS - 1,
            replace=force,
        )
        tasks = many.plan(items, job, folder, str(to), unread, dry_run=dry_run, json_output=json_output)
        if tasks is None:
            return
        with References(to, create=True, model=weights, device=device) as index:
            processes = many.processes(client, jobs, device, tasks)
            counts = many.run(tasks, job, folder, processes, step, index=index, quiet=quiet)
            step("decoding")
            told = planning.told(folder)
            coded = [folder / task.item.file for task in tasks if told[task.item.file]["error"] is None]
            for one, problem in index.add_decoded(coded):
                if problem is not None:
                    tell(f"{one}: no reference now: {problem}")
    many.summarise(counts, "coded", folder, unread, json_output=json_output, quiet=quiet)


def _require_exact(path: Path) -> None:
    """Raise WeightsError for weights whose files cannot be references elsewhere."""
    from refscale_codec import model

    if not model.load(path).exact:
        raise WeightsError(
            f"{path} computes with floating point, so that its files may decode to other pixels elsewhere and "
            "cannot be references there; name exact weights with --weights"
        )
