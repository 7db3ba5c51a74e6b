"""The commands that inspect files: info, fingerprint, verify, diff and extract-lr.

Torch, numpy and Pillow are imported inside those that need them, so that `--help` and `info` start at once.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from refscale_codec import lrcodec, weights_files
from refscale_codec.cli import facts, options, process, sources, terminal
from refscale_codec.cli.options import (
    FILES,
    DeviceOption,
    FileArgument,
    ForceOption,
    FormatOption,
    JsonOption,
    NamedOutputOption,
    OutputOption,
    PageOption,
    QuietOption,
    RefOption,
    RefPageOption,
    RefPagesOption,
    RefsOption,
    RequiredRefOption,
    ThreadsOption,
    WeightsOption,
    option,
)
from refscale_codec.errors import ContainerError, ReferenceMismatch, UsageError, naming, printable
from refscale_codec.fileformat import container, references


def info(
    file: FileArgument,
    everything: Annotated[bool, option("--all", help="Show everything, one fact a line.")] = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what a file holds, without decoding it."""
    terminal.require_stdout()
    data, name = terminal.read(file), terminal.name_of(file)
    content = terminal.unpacked(data, name)
    with naming(name):
        found = facts.of_file(content, len(data))
    if json_output:
        terminal.write("-", terminal.as_json(found) + "\n")
        return
    lines = _every(found) if everything else facts.lines_of(name, found)
    terminal.write("-", "".join(f"{printable(line)}\n" for line in lines))


def _every(found: dict[str, Any]) -> list[str]:
    lines = []
    for name, value in found.items():
        if name == "bytes_by_section":
            lines += [f"  {part:<16}{size}" for part, size in terminal.parts(value)]
            continue
        text = value if isinstance(value, str) else "none" if value is None else terminal.as_json(value)
        lines.append(f"{name:<18}{text}")
    return lines


def fingerprint(
    pictures: Annotated[list[str], typer.Argument(metavar="PICTURE...", help="Pictures; - is stdin.")],
    page: PageOption = None,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Print the ids by which files name their reference.

    One line for each picture: its fingerprint, and its name. It is a hash of the pixels, so the same picture in another
    format has the same one. `info` shows which one a .rsc file needs.
    """
    options.require_positive(page=page)
    terminal.require_inputs(*pictures)
    terminal.require_stdout()
    found = {}
    for picture in pictures:
        found[terminal.name_of(picture)] = terminal.read_picture(picture, page).fingerprint().hex()
        if not json_output:
            terminal.write("-", f"{found[terminal.name_of(picture)]}  {printable(terminal.name_of(picture))}\n")
    if json_output:
        terminal.write("-", terminal.as_json(found) + "\n")


def verify(
    file: FileArgument,
    ref: RefOption = None,
    refs: RefsOption = None,
    ref_page: RefPagesOption = None,
    structure: Annotated[
        bool, option("--structure", help="Prove only structure and checksums, which needs no --ref.", group=FILES)
    ] = False,
    threads: ThreadsOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check a file and the picture that it decodes to.

    The exit code is 0 only if the file is proved to decode with its weights and its reference, and to the picture of
    its hash if it has one; the summary says what that proves. A file that has a reference needs it for that; without,
    what can be checked is, and the exit code is 6. With --structure, only structure and checksums are to be proved.
    """
    options.require_positive(threads=threads)
    index_path, pages = options.index_named(refs, ref), options.positive_each(ref_page or [], "--ref-page")
    terminal.require_inputs(file, *(ref or []))
    data, name = terminal.read(file), terminal.name_of(file)
    content = terminal.unpacked(data, name)
    header = content.header
    if structure:
        if ref or refs is not None:
            raise UsageError("--ref and --refs would have no effect with --structure, which needs no reference")
        with naming(name):
            facts.of_file(content, len(data))
        text = f"{name}: structure and checksums are intact; not tried: weights, reference, decoding"
        terminal.summarise([text], {"proved": ["structure"]}, json_output=json_output, quiet=quiet)
        return
    with terminal.progress(quiet) as step, terminal.index(index_path, weights, device, threads) as index:
        step("starting")
        older = sources.read(ref or [], pages, refs, weights, device, threads)
        if index is not None:
            with naming(name):
                older = index.references(data)
        from refscale_codec.codec import decoder

        model = terminal.load_model(weights or weights_files.shipped_as(header.weights, "--weights"), device, threads)
        with naming(name):
            if header.reference is not None and not older:
                decoder.check_without_reference(content, model)
                wanted = references.named(content, references.needed(content))
                raise ReferenceMismatch(
                    "what does not depend on the reference is intact; not proved: that it decodes; "
                    f"give --ref with the picture {wanted}, or --structure"
                )
            step("decoding")
            picture = decoder.decode(data, older, model)
    proved = ["structure", "weights", *(["reference"] if header.reference is not None else []), "decoding"]
    if content.output_hash is None:
        text = "proved: it decodes; not proved: to the encoder's picture, of which it has no hash"
    elif content.output_hash == picture.fingerprint():
        text = "proved: it decodes to the encoder's picture"
        proved.append("picture")
    else:
        raise ContainerError(
            f"{name}: decodes to another picture than on the encoder's machine: {picture.fingerprint().hex()}, "
            f"expected {content.output_hash.hex()} (floating point may change a sample by one level)"
        )
    terminal.summarise([f"{name}: {text}"], {"proved": proved}, json_output=json_output, quiet=quiet)


def diff(
    file: Annotated[str, typer.Argument(metavar="NEW", help="A picture or a .rsc file; - is stdin.")],
    ref: RequiredRefOption,
    output: OutputOption,
    refs: RefsOption = None,
    page: PageOption = None,
    ref_page: RefPageOption = None,
    format_name: FormatOption = None,
    threads: ThreadsOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a heat map of the changes since an older picture.

    Black is unchanged, bright is changed. It shows the similarity that the net computes, so light and season have
    little effect, and single pixels none. The reported share of changed area counts what differs by more than half as
    much as unrelated parts of the picture do.
    """
    options.require_positive(threads=threads, page=page, ref_page=ref_page)
    options.index_named(refs, [ref])
    inputs = file, ref, weights
    terminal.require_inputs(*inputs)
    terminal.require_output(output, *inputs, replace=True, json_output=json_output)
    with terminal.progress(quiet) as step:
        step("starting")
        data, name = terminal.read(file, or_picture=True), terminal.name_of(file)
        content = terminal.unpacked(data, name) if data.startswith(container.MAGIC) else None
        header = None if content is None else content.header
        from refscale_codec.picture.io import pictures, sidecars

        kind = terminal.picture_format(output, format_name)
        process.lift_pillow_limit()
        if header is not None and page is not None:
            raise UsageError(f"--page would have no effect: {name} is a .rsc file")
        beside = [] if file == "-" else sidecars.beside(Path(file))
        picture = None if header is not None else pictures.from_bytes(data, name, page=page, beside=beside)
        pages = [] if ref_page is None else [ref_page]
        (reference,) = sources.read([ref], pages, refs, weights, device, threads)
        from refscale_codec.codec import decoder
        from refscale_codec.study import change

        if weights is None:
            weights = (
                weights_files.shipped(2) if header is None else weights_files.shipped_as(header.weights, "--weights")
            )
        model = terminal.load_model(weights, device, threads)
        step("comparing")
        with naming(name):
            if picture is None:
                needed = header is not None and header.reference is not None
                picture = decoder.decode(data, reference if needed else None, model)
            alignments = [] if content is None else decoder.alignments(content)
            values = change.change(picture, reference, model, alignments)
        terminal.write(output, pictures.to_bytes(change.heat_map(values, picture), kind))
    share = float((values > change.CHANGED).mean())
    where = "stdout" if output == "-" else output
    text = f"{where}: {picture.width}x{picture.height}, {100 * share:.1f} % changed"
    told = {"width": picture.width, "height": picture.height, "changed": round(share, 4)}
    terminal.summarise([text], told, json_output=json_output, quiet=quiet)


def extract_lr(
    file: FileArgument,
    output: NamedOutputOption = None,
    force: ForceOption = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write the low-res picture of a file: x.rsc becomes x.jpg.

    It needs neither reference nor weights. Of a picture of more than three bands, it has the first three.
    """
    content = terminal.unpacked(terminal.read(file), terminal.name_of(file))
    replace = force or output is not None
    output = terminal.named_after(file, ".jpg") if output is None else output
    terminal.require_output(output, file, replace=replace, suffixes=(".jpg", ".jpeg"), json_output=json_output)
    codec = lrcodec.CODECS.get(content.header.codec)
    if codec is None or codec.to_jpeg is None:
        raise ContainerError(
            f"{terminal.name_of(file)}: the low-res picture is not a JPEG (codec {content.header.codec})"
        )
    height, width = content.header.low_res_size
    with naming(terminal.name_of(file)):
        jpeg = codec.to_jpeg(content.lr, (height, width), content.header.quality)
    terminal.write(output, jpeg)
    where = "stdout" if output == "-" else output
    told = {"output": output, "width": width, "height": height}
    terminal.summarise([f"{where}: {width}x{height}"], told, json_output=json_output, quiet=quiet)
