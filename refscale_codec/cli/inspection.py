"""The commands that inspect files: info, verify, diff and extract-lr.

Torch, numpy and Pillow are imported inside those that need them, so that `--help` and `info` start at once.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from refscale_codec import lrcodec
from refscale_codec.cli import options, process, terminal
from refscale_codec.cli.options import (
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
    RequiredRefOption,
    ThreadsOption,
    WeightsOption,
)
from refscale_codec.errors import ContainerError, UsageError, naming
from refscale_codec.fileformat import container
from refscale_codec.picture import metadata


def info(file: FileArgument, json_output: JsonOption = False) -> None:
    """Show what a file holds, without decoding it."""
    data = terminal.read(file)
    content = terminal.unpacked(data, terminal.name_of(file))
    header, sizes = content.header, container.bytes_by_section(content)
    with naming(terminal.name_of(file)):
        parts = metadata.parts_of(metadata.unpack(content.metadata))
        samples: dict[str, Any] = {"bands": 3, "type": "uint8", "alpha": False, "nodata": None}
        if content.bands is not None:
            from refscale_codec.picture import band_section, levels

            described = band_section.summary(content.bands, header.height, header.width)
            samples = {
                "bands": described.depth,
                "type": described.dtype.name,
                "alpha": described.alpha,
                "nodata": described.nodata,
            }
            if described.ranges:
                samples["ranges"] = described.ranges
                samples["step"] = [float(f"{levels.step(low, high):.6g}") for low, high in described.ranges]
    facts: dict[str, Any] = {
        "width": header.width,
        "height": header.height,
        **samples,
        "scale": header.scale,
        "codec": codec.name if (codec := lrcodec.CODECS.get(header.codec)) else f"unknown ({header.codec})",
        "quality": header.quality,
        "weights": header.weights.hex(),
        "reference": None if header.reference is None else header.reference.hex(),
        "output_hash": None if content.output_hash is None else content.output_hash.hex(),
        "metadata": " ".join(name for name, part in parts.items() if part) or None,
        "bytes": len(data),
        "bytes_by_section": sizes,
        "bpp": round(8 * len(data) / (header.width * header.height), 4),
    }
    if json_output:
        terminal.write("-", json.dumps(facts) + "\n")
    else:
        lines = []
        for name, value in facts.items():
            if name == "bytes_by_section":
                lines += [f"  {part:<13}{size}" for part, size in terminal.parts(sizes)]
                continue
            text = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
            lines.append(f"{name:<15}{text}")
        terminal.write("-", "\n".join(lines) + "\n")


def verify(
    file: FileArgument,
    ref: RefOption = None,
    ref_page: RefPageOption = None,
    threads: ThreadsOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Check a file: structure and checksums, weights and reference, and the decoded picture.

    Without --ref, a file that has a reference is checked only as far as it does not depend on it.
    """
    options.require_positive(threads=threads, ref_page=ref_page)
    terminal.require_inputs(file, ref)
    data, name = terminal.read(file), terminal.name_of(file)
    content = terminal.unpacked(data, name)
    with terminal.progress(quiet) as step:
        step("starting")
        reference = terminal.read_reference(ref, ref_page)
        from refscale_codec.codec import decoder

        model = terminal.load_model(weights or terminal.wanted_weights(content.header), device, threads)
        with naming(name):
            if content.header.reference is not None and reference is None:
                decoder.check_without_reference(content, model)
                terminal.say(quiet, f"{name}: valid; give --ref to check the reference and the decoded picture, too")
                return
            step("decoding")
            picture = decoder.decode(data, reference, model)
    if content.output_hash is None:
        terminal.say(quiet, f"{name}: valid; it decodes, and has no hash to compare the picture with")
    elif content.output_hash == picture.fingerprint():
        terminal.say(quiet, f"{name}: valid; it decodes to the same picture as on the encoder's machine")
    else:
        raise ContainerError(
            f"{name}: decodes to another picture than on the encoder's machine: {picture.fingerprint().hex()}, "
            f"expected {content.output_hash.hex()} (floating point may change a sample by one level)"
        )


def diff(
    file: Annotated[str, typer.Argument(metavar="NEW", help="A picture or a .rsc file; - is stdin.")],
    ref: RequiredRefOption,
    output: OutputOption,
    force: ForceOption = False,
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
    inputs = file, ref, weights
    terminal.require_inputs(*inputs)
    terminal.require_output(output, *inputs, force=force, json_output=json_output)
    with terminal.progress(quiet) as step:
        step("starting")
        data, name = terminal.read(file, or_picture=True), terminal.name_of(file)
        content = terminal.unpacked(data, name) if data.startswith(container.MAGIC) else None
        header = None if content is None else content.header
        from refscale_codec.picture import image as pictures
        from refscale_codec.picture import sidecars

        kind = terminal.picture_format(output, format_name)
        process.lift_pillow_limit()
        if header is not None and page is not None:
            raise UsageError(f"--page would have no effect: {name} is a .rsc file")
        beside = [] if file == "-" else sidecars.beside(Path(file))
        picture = None if header is not None else pictures.from_bytes(data, name, page=page, beside=beside)
        reference = terminal.read_picture(ref, ref_page)
        from refscale_codec import model as weights_files
        from refscale_codec.codec import decoder
        from refscale_codec.study import change

        if weights is None:
            weights = weights_files.shipped(2) if header is None else terminal.wanted_weights(header)
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
    facts = {"width": picture.width, "height": picture.height, "changed": round(share, 4)}
    terminal.summarise([text], facts, json_output=json_output, quiet=quiet)


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
    output = terminal.named_after(file, ".jpg") if output is None else output
    terminal.require_output(output, file, force=force, suffixes=(".jpg", ".jpeg"), json_output=json_output)
    content = terminal.unpacked(terminal.read(file), terminal.name_of(file))
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
    facts = {"output": output, "width": width, "height": height}
    terminal.summarise([f"{where}: {width}x{height}"], facts, json_output=json_output, quiet=quiet)
