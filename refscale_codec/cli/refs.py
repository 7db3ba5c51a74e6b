"""The commands of an index of references; see `cli`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refscale_codec.cli import options, terminal
from refscale_codec.cli.options import (
    FILES,
    JsonOption,
    OutputOption,
    PageOption,
    QuietOption,
    RefsOption,
    WeightsOption,
    option,
)
from refscale_codec.errors import BatchError, ReferenceMismatch, RefscaleError, UsageError, counted, printable

if TYPE_CHECKING:
    from refscale_codec.archive.references import Entry

PathsArgument = Annotated[
    list[Path], typer.Argument(metavar="PATH...", help="Pictures, .rsc files, and folders of both.")
]
DateOption = Annotated[
    str | None,
    option(
        "--date",
        metavar="DATE",
        help="Of pictures that have none: 2021-05-03; -f changes it.",
        group=FILES,
    ),
]


def add(
    paths: PathsArgument,
    refs: RefsOption = None,
    date: DateOption = None,
    force: Annotated[
        bool, option("--force", "-f", help="Read again what is in the index and has not changed.", group=FILES)
    ] = False,
    weights: WeightsOption = None,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Add pictures that may be references; take .rsc files into care.

    The index is made if there is none. What is in it already, by path, size and time of modification, is not read
    again. What was added before an interruption stays. Several processes may add at the same time.

    A .rsc file in care has its references kept by gc and looked after by check. If its net computes exactly, what it
    decodes to may be a reference, too; one line tells where that is not possible now, since a reference or the weights
    are missing. Adding it again tries it again.

    A file or folder that cannot be read is one line, the others are added, and the exit code is 9.
    """
    index_path = options.index_of(refs)
    with terminal.progress(quiet) as step:
        step("starting")
        from refscale_codec.archive import disk, references
        from refscale_codec.archive.description import require_date

        taken = None if date is None else require_date(date, "--date")
        from refscale_codec.cli import process

        process.lift_pillow_limit()
        added = unchanged = decoded = 0
        coded: list[Path] = []
        failures: list[str] = []

        def fail(text: str) -> None:
            failures.append(text)
            terminal.say(False, text)

        with references.References(index_path, create=True, model=weights) as index:
            for path in disk.listed(paths, fail):
                step(f"{counted(added + unchanged, 'file')}, {path.name}")
                try:
                    if index.add(path, again=force, date=taken):
                        added += 1
                    else:
                        unchanged += 1
                    if disk.is_coded(path):
                        coded.append(path)
                except RefscaleError as error:
                    if error.exit_code not in _OF_A_FILE:
                        raise
                    fail(str(error))
            step("decoding")
            for path, problem in index.add_decoded(coded, again=force, date=taken):
                decoded += problem is None
                step(f"{counted(decoded, 'file')} decoded, {path.name}")
                if problem is not None:
                    terminal.say(quiet, f"{path}: in care, but no reference now: {problem}")
    failed = len(failures)
    facts = {"added": added, "decoded": decoded, "unchanged": unchanged, "failed": failed}
    told = f"{index_path}: {added} added" + f"; {unchanged} were there already" * bool(unchanged)
    told += f"; what {counted(decoded, '.rsc file')} decode{'s' * (decoded == 1)} to may be a reference" * bool(decoded)
    terminal.summarise([told], facts, json_output=json_output, quiet=quiet)
    if failed:
        raise BatchError(f"{failed} of {added + unchanged + failed} files and folders could not be added")


_OF_A_FILE = (3, 4)  # exit codes of faults of a picture or a .rsc file


def list_pictures(
    refs: RefsOption = None,
    coded: Annotated[
        bool, option("--files", help="The .rsc files in care, with the references that they need.", group=FILES)
    ] = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List the pictures of an index, or the .rsc files in its care.

    What the columns are is said on stderr; links are the .rsc files that are decoded to have the picture, 0 for a
    picture file. With --json, each line is an object.
    """
    from refscale_codec.archive import references

    with references.References(options.index_of(refs)) as index:
        if coded:
            for path, needs in index.files():
                names = [fingerprint.hex() for fingerprint in needs]
                _line({"file": str(path), "needs": names}, f"{path}  {' '.join(names) or 'alone'}", json_output)
            return
        entries = index.entries()
        terminal.say(quiet or json_output, f"{'fingerprint':<12}  {'taken':<20}  {'size and type':<22}  links  picture")
        for entry in entries:
            facts = _facts(entry)
            described = f"{facts['width']}x{facts['height']}x{facts['bands']} {facts['type']}"
            columns = facts["fingerprint"], f"{facts['date'] or '-':<20}", f"{described:<22}", f"{entry.links:>5}"
            _line(facts, "  ".join((*columns, facts["picture"])), json_output)


def find(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A picture, or a .rsc file; - is stdin.")],
    refs: RefsOption = None,
    page: PageOption = None,
    max_refs: Annotated[
        int, option("--max-refs", metavar="N", help="List at most so many; 20 by default.", group=FILES)
    ] = 20,
    weights: WeightsOption = None,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find references for a picture, or those of a .rsc file.

    For a picture, the best is first: each line has about the share of the bits that a reference saves. It is estimated
    at low resolution, for the 20 that fit best by footprint, date, clouds and nodata, or look most alike where there is
    no georeference.
    For a .rsc file, each line is the path of a picture that it needs.
    """
    options.require_positive(page=page, max_refs=max_refs)
    from refscale_codec.archive.references import References
    from refscale_codec.fileformat import container, references

    index_path = options.index_of(refs)
    with terminal.progress(quiet) as step, References(index_path, model=weights) as index:
        step("starting")
        data, name = terminal.read(file, or_picture=True), terminal.name_of(file)
        if data.startswith(container.MAGIC):
            for fingerprint in references.needed(terminal.unpacked(data, name)):
                path = index.place(fingerprint)
                facts = {"fingerprint": fingerprint.hex(), "picture": str(path), "links": index.links(path)}
                _line(facts, str(path), json_output)
            return
        from refscale_codec.cli import process
        from refscale_codec.picture.io import pictures, sidecars

        process.lift_pillow_limit()
        beside = [] if file == "-" else sidecars.beside(Path(file))
        picture = pictures.from_bytes(data, name, page=page, beside=beside)
        step("comparing")
        found = index.find(picture, max_refs)
    terminal.say(quiet or json_output or not found, f"{'saves':>6}  {'taken':<20}  links  picture")
    for candidate in found:
        facts = {"gain": round(candidate.gain, 4), **_facts(candidate.entry)}
        text = f"{candidate.gain:6.1%}  {facts['date'] or '-':<20}  {facts['links']:>5}  {facts['picture']}"
        _line(facts, text, json_output)
    if not found:
        terminal.say(quiet, f"{name}: {index_path} has no picture of the same place and kind")


def check(
    refs: RefsOption = None,
    full: Annotated[
        bool, option("--full", help="Read every reference, not only those that have changed.", group=FILES)
    ] = False,
    weights: WeightsOption = None,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tell which .rsc files in care would not decode, and why.

    A file, or a reference of it, is missing, unreadable, or another picture than it was. Those of the same size and
    time of modification as in the index are believed, unless --full is given, and so are the .rsc files and pictures
    that a coded reference needs in turn. If there is one, the exit code is 6.
    """
    from refscale_codec.archive import references
    from refscale_codec.cli import process

    process.lift_pillow_limit()
    files = bad = 0
    with terminal.progress(quiet) as step, references.References(options.index_of(refs), model=weights) as index:
        for path, problem in index.check(full=full):
            step(f"{counted(files, 'file')}, {path.name}")
            files += 1
            if problem is not None:
                bad += 1
                facts = {"file": str(path), "reason": problem.reason, "detail": problem.detail}
                _line(facts, f"{path}: {problem.reason}: {problem.detail}", json_output)
    if bad:
        raise ReferenceMismatch(f"{bad} of {counted(files, 'file')} would not decode")
    terminal.say(quiet, f"{counted(files, 'file')} in care, and nothing is missing")


def collect(
    refs: RefsOption = None,
    before: Annotated[
        str | None,
        option("--before", metavar="DATE", help="Also pictures that were taken before that day.", group=FILES),
    ] = None,
    delete: Annotated[bool, option("--delete", help="Delete the files of those pictures, too.", group=FILES)] = False,
    lost_files: Annotated[
        bool, option("--lost-files", help="First forget .rsc files that are gone, and what they need.", group=FILES)
    ] = False,
    dry_run: Annotated[bool, option("--dry-run", help="Only list what would be done.", group=FILES)] = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Forget pictures that no .rsc file in care needs.

    These are those whose file is gone, and with --before old ones.

    What a .rsc file in care needs stays, also if that file is gone, because its disk may come back: --lost-files says
    that it does not. A file that is not in care is not known: `refscale refs add` takes it into care. Files of
    pictures are left alone, unless --delete is given.
    """
    from refscale_codec.archive import references
    from refscale_codec.archive.description import require_date

    day = None if before is None else require_date(before, "--before")
    with references.References(options.index_of(refs)) as index:
        found = index.collect(day, delete=delete, lost_files=lost_files, dry_run=dry_run)
        number = 0
        for path, done in found:
            number += 1
            _line({"path": str(path), "done": done}, f"{done}: {path}", json_output)
    terminal.say(quiet, f"{number} {'would be ' if dry_run else ''}forgotten")


def rebase(
    file: Annotated[Path, typer.Argument(metavar="FILE.rsc", help="A .rsc file whose net computes exactly.")],
    output: OutputOption,
    refs: RefsOption = None,
    weights: WeightsOption = None,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Store what a coded reference decodes to as a picture.

    The picture, a PNG, WebP or TIFF, is stored without loss and added to the index. What was coded against the file
    then needs neither it nor its references any more; nothing is coded again.
    """
    index_path = options.index_of(refs)
    if output == "-":
        raise UsageError("the picture becomes one of the index, so it is a file: name it with -o")
    terminal.require_output(output, file, *options.index_files(index_path), replace=True, json_output=json_output)
    with terminal.progress(quiet) as step, terminal.index(index_path, weights) as index:
        assert index is not None
        index.require_writable()
        step("decoding")
        image = index.rebase(file, output)
        fingerprint = image.fingerprint()
        served = sum(fingerprint in needs for _, needs in index.files())
    facts = {"output": output, "fingerprint": fingerprint.hex(), "files": served}
    told = f"{output}: {image.width}x{image.height}, which {counted(served, 'file')} in care may use in place of {file}"
    terminal.summarise([told], facts, json_output=json_output, quiet=quiet)


def move(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The folder where files were.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The folder where they are now.")],
    refs: RefsOption = None,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tell an index that a folder or a disk has another place now.

    Files below the folder of the index need no such call when they move together with it.
    """
    from refscale_codec.archive import references

    index_path = options.index_of(refs)
    with references.References(index_path) as index:
        moved = index.move(old, new)
    if not moved:
        raise UsageError(f"{index_path} has nothing below {old}")
    terminal.summarise([f"{counted(moved, 'path')} changed"], {"moved": moved}, json_output=json_output, quiet=quiet)


def _facts(entry: "Entry") -> dict[str, Any]:
    """Return what `--json` tells of a picture."""
    described = entry.described
    place = described.footprint
    return {
        "picture": str(entry.path),
        "fingerprint": described.fingerprint.hex(),
        "links": entry.links,
        "width": described.width,
        "height": described.height,
        "bands": described.bands,
        "type": described.type,
        "footprint": None if place is None else [list(corner) for corner in place.corners],
        "date": described.date,
        "sensor": described.sensor,
        "nodata_share": described.nodata,
        "cloud": described.cloud,
    }


def _line(facts: dict[str, Any], text: str, json_output: bool) -> None:
    terminal.write("-", (terminal.as_json(facts) if json_output else printable(text)) + "\n")
