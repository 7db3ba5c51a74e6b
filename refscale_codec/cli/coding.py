"""The commands that code: encode and decode.

Torch, numpy and Pillow are imported inside them, so that `--help` starts at once.
"""

import math
import os
from collections.abc import Collection
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refscale_codec import weights_files
from refscale_codec.cli import options, sources, terminal
from refscale_codec.cli.options import (
    FILES,
    CodecOption,
    DeviceOption,
    FileArgument,
    ForceOption,
    FormatOption,
    JsonOption,
    LosslessOption,
    MaxErrorOption,
    MaxRefsOption,
    MemoryOption,
    NamedOutputOption,
    OutputHashOption,
    PageOption,
    QualityOption,
    QuietOption,
    RangeOption,
    RefNameOption,
    RefOption,
    RefPagesOption,
    RefsOption,
    ScaleOption,
    StripOption,
    TargetBppOption,
    TargetBytesOption,
    TargetPsnrOption,
    ThreadsOption,
    TileOption,
    WeightsOption,
    option,
)
from refscale_codec.errors import OutputError, ReferenceMismatch, naming
from refscale_codec.fileformat import container, references
from refscale_codec.picture import metadata

if TYPE_CHECKING:
    from refscale_codec.archive.references import Candidate, Entry, References
    from refscale_codec.codec.rate_control import Reached, Target
    from refscale_codec.picture.image import Image


def encode(
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="PNG, JPEG, WebP or TIFF; - is stdin.")],
    ref: RefOption = None,
    refs: RefsOption = None,
    max_refs: MaxRefsOption = None,
    page: PageOption = None,
    ref_page: RefPagesOption = None,
    output: NamedOutputOption = None,
    force: ForceOption = False,
    dry_run: Annotated[
        bool, option("--dry-run", help="Write nothing, but say what would be written.", group=FILES)
    ] = False,
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
    max_memory: MemoryOption = None,
    threads: ThreadsOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Encode a picture: x.png becomes x.rsc.

    Pictures have 8 or 16 bits per sample and any number of bands: grey, RGB, palette (coded as RGB); in a TIFF four or
    more bands, 32 bits, and floating point. Alpha, nodata, colour profile, EXIF, XMP and georeference are stored
    losslessly. Of several references, --ref given up to 8 times, the file uses those that help, also blended; decoding
    needs these alone. Where none helps, the summary says so. With --refs they are the best that an index has (`refscale
    refs add`), and the file is in its care from then on.

    The name of the reference's file is kept as a hint if the picture has metadata and the name takes less than 0.1 % of
    the file; --ref-name yes keeps it always, no never. By default the range of values is that of each band's own
    values, and 0,255 for 8 bits; --range 3:0,10000 sets that of the third.

    With a target, at most 6 files are tried, for the largest that does not exceed --target-bytes or --target-bpp, or
    the one with the least PSNR that is not below --target-psnr. The search stops within 2 % or 0.1 dB. The exit code is
    7 if no quality from 1 to 100 reaches the target.

    The PSNR is told if the picture was decoded, which takes time: with --output-hash or --target-psnr, and for files
    that always hold a hash. Otherwise it is null in --json.
    """
    from refscale_codec.api.functions import encode_image
    from refscale_codec.api.request import rate_of, shipping_of

    rate = rate_of(quality, target_bytes, target_bpp, target_psnr, max_error, lossless, name=options.named)
    shipping = shipping_of(scale, codec_name, None if weights is None else "--weights", rate, name=options.named)
    options.require_no_range(value_range, rate.max_error)
    named = options.reference_name_of(ref_name)
    options.require_positive(threads=threads, page=page, max_refs=max_refs)
    index_path, pages = options.index_named(refs, ref, max_refs), options.positive_each(ref_page or [], "--ref-page")
    references.require_count(len(ref or []))
    inputs = picture, *(ref or []), weights
    terminal.require_inputs(*inputs)
    terminal.require_pictures(picture, *(one for one in ref or [] if not options.is_coded(one)))
    replace = force or output is not None
    output = terminal.named_after(picture, ".rsc") if output is None else output
    in_care = not dry_run and output != "-" and (os.path.isfile(output) or not os.path.exists(output))
    if not dry_run:
        held = (*inputs, *options.index_files(refs))
        terminal.require_output(output, *held, replace=replace, suffixes=(".rsc",), json_output=json_output)
    with terminal.progress(quiet) as step, terminal.index(index_path, weights, device, threads) as index:
        step("starting")
        if index is not None and in_care:
            index.require_writable()
        if not dry_run:
            known = (entry.path for entry in _replaceable(index, output) if not entry.links)  # others: see `care`
            terminal.require_other(output, *known)
        image = terminal.read_picture(picture, page, need_georeference=not strip)
        older = sources.read(ref or [], pages, refs, weights, device, threads)
        from refscale_codec.picture.coded import ranges

        _say_what_of_alpha_is_kept(image, terminal.name_of(picture), quiet)
        depth = image.pixels.itemsize * (image.bands + (image.alpha is not None))
        side = options.tile_side(tile, max_memory, image.height, image.width, depth, searched=rate.searched)
        limits = options.ranges_of(value_range, image.bands) if value_range else None
        ranges.by_band(limits, image.pixels.dtype, image.bands)  # refused before torch is loaded
        model = terminal.load_model(weights or weights_files.shipped(*shipping), device, threads)
        found = None
        if index is not None:
            step("looking for references")
            found = index.find(image, max_refs or 1)
            if not dry_run:
                terminal.require_other(output, *(one.entry.path for one in found))
            older = [index.picture(one.entry.described.fingerprint) for one in found]
        step("encoding")
        reached = encode_image(
            image,
            older,
            model,
            rate,
            value_range=limits,
            output_hash=output_hash,
            reference_name=named,
            strip=strip,
            tile=side,
            step=step,
        )
        if not dry_run:
            with index.care(output, reached.data) if index is not None and in_care else nullcontext():
                terminal.write(output, reached.data)
    name = ("not written: " if dry_run else "") + ("stdout" if output == "-" else output)
    facts, lines = _summary(name, reached, rate.target(image))
    more_facts, more_lines = _on_references(facts["references"], len(older), found)
    terminal.summarise([*lines, *more_lines], facts | more_facts, json_output=json_output, quiet=quiet)


def _say_what_of_alpha_is_kept(image: "Image", name: str, quiet: bool) -> None:
    if image.alpha is not None:
        hidden = int((image.alpha == 0).sum())
        colours = f"; the colours of {hidden:,} fully transparent pixels are not kept" if hidden else ""
        terminal.say(quiet, f"{name}: alpha is stored losslessly{colours}")


def _replaceable(index: "References | None", output: str) -> "list[Entry]":
    """Return the pictures of an index, one of which an output might be; none if there is no such file yet."""
    return [] if index is None or not os.path.exists(output) else index.entries()


def _summary(name: str, reached: "Reached", target: "Target | None") -> tuple[dict[str, Any], list[str]]:
    """Return what `--json` and people are told of a new file: its size, how it was coded, how close a target came."""
    content, size = container.unpack(reached.data), len(reached.data)
    header = content.header
    facts: dict[str, Any] = {
        "bytes": size,
        "bytes_by_section": container.bytes_by_section(content),
        "bpp": round(8 * size / (header.width * header.height), 4),
        "width": header.width,
        "height": header.height,
        "references": references.file_names(content),
        "quality": reached.quality,
        "psnr": None if reached.psnr is None else round(reached.psnr, 3),
    }
    parts = ", ".join(f"{part} {number}" for part, number in terminal.parts(facts["bytes_by_section"]))
    psnr = "" if reached.psnr in (None, math.inf) else f", {reached.psnr:.2f} dB"
    if reached.max_error is not None:
        facts["max_error"] = reached.max_error
        psnr += f", no sample off by more than {reached.max_error:g}" if reached.max_error else ", lossless"
    lines = [f"{name}: {size} bytes, {facts['bpp']} bits per pixel{psnr} ({parts})"]
    if target is not None:
        facts["tries"] = reached.tries
        off = 100 * size / target.value - 100
        got = f"{off:+.2f} % of {target.value} bytes" if target.measure == "bytes" else f"{reached.psnr:.2f} dB"
        tries = "1 try" if reached.tries == 1 else f"{reached.tries} tries"
        lines.append(f"target: {got}, at quality {reached.quality} after {tries}")
    return facts, lines


def _on_references(
    used: Collection[str], given: int, found: "list[Candidate] | None"
) -> tuple[dict[str, Any], list[str]]:
    """Return what `--json` and people are told of the references of a new file.

    Args:
        used: fingerprints of those that decoding needs.
        given: how many were tried.
        found: those of the index; None if none was searched.
    """
    if found is not None:
        paths = {one.entry.described.fingerprint.hex(): str(one.entry.path) for one in found}
        pictures = [paths[one] for one in used]
        told = ", ".join(pictures) or "none helps; decoding needs none"
        line = f"reference{'s' * (len(used) > 1)}: {told} (of {given} that the index has for it)"
        return {"reference_pictures": pictures, "tried": given}, [line]
    if given and not used:
        each = "does not help, so it is" if given == 1 else "do not help, so they are"
        return {}, [f"reference{'s' * (given > 1)}: {each} left out; decoding needs none"]
    if given > 1:
        return {}, [f"references: {len(used)} of {given} are used; decoding needs no other"]
    return {}, []


def decode(
    file: FileArgument,
    ref: RefOption = None,
    refs: RefsOption = None,
    ref_page: RefPagesOption = None,
    output: NamedOutputOption = None,
    force: ForceOption = False,
    format_name: FormatOption = None,
    window: Annotated[
        str | None,
        option("--window", metavar="X,Y,W,H", help="Only this part, to the same pixels as in the whole.", group=FILES),
    ] = None,
    tile: TileOption = None,
    max_memory: MemoryOption = None,
    threads: ThreadsOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Decode a picture: x.rsc becomes x.png, or x.tif.

    It is a TIFF if a PNG cannot hold all of the picture, or if --format says so. A file that has references needs the
    same ones, in any order, or an index that finds them (--refs); others may be given, too. Colour profile, EXIF, XMP
    and georeference are restored; a message on stderr names what the output format cannot hold. TIFF can hold every
    picture.
    """
    box = None if window is None else options.window_of(window)
    options.require_positive(threads=threads)
    index_path, pages = options.index_named(refs, ref), options.positive_each(ref_page or [], "--ref-page")
    inputs = file, *(ref or []), weights
    terminal.require_inputs(*inputs)
    with terminal.progress(quiet) as step, terminal.index(index_path, weights, device, threads) as index:
        step("starting")
        data, name = terminal.read(file), terminal.name_of(file)
        content = terminal.unpacked(data, name)
        header = content.header
        if header.reference is not None and not ref and index is None:
            with naming(name):
                needed = references.needed(content)
            what, each = ("reference", "it") if len(needed) == 1 else ("references", "each")
            wanted = references.named(content, needed)
            raise ReferenceMismatch(f"{name}: it needs its {what} {wanted}: give {each} with --ref")
        if box is not None:
            box.require_inside(header.height, header.width)
        from refscale_codec.picture.coded import band_section
        from refscale_codec.picture.io import formats, geotiff, pictures

        with naming(name):
            described = band_section.summary(content.bands, header.height, header.width)
            geo = metadata.unpack(content.metadata).geo
        longest = max(header.height, header.width) if box is None else max(box.height, box.width)
        replace = force or output is not None
        if output is None:
            kind = formats.fitting(*described[:2], longest, described.nodata, geo, alpha=described.alpha)
            format_name = format_name or kind
            output = terminal.named_after(file, "." + format_name.lower().replace("tiff", "tif"))
        known = [entry.path for entry in _replaceable(index, output)]
        held = (*inputs, *options.index_files(refs), *known)
        terminal.require_output(output, *held, replace=replace, json_output=json_output)
        kind = terminal.picture_format(output, format_name)
        formats.require_support(kind, described.dtype, described.depth, longest)
        if kind == "tiff" and formats.needs_gdal(described.dtype, described.depth, described.nodata, geo):
            geotiff.require_gdal("a TIFF of this picture", geotiff.WRITTEN, OutputError)
        depth = described.dtype.itemsize * (described.depth + described.alpha)
        side = options.tile_side(tile, max_memory, header.height, header.width, depth)
        older = sources.read(ref or [], pages, refs, weights, device, threads)
        if index is not None:
            with naming(name):
                older = index.references(data)
        from refscale_codec.codec import decoder

        model = terminal.load_model(weights or weights_files.shipped_as(header.weights, "--weights"), device, threads)
        step("decoding")
        with naming(name):
            picture = decoder.decode(data, older, model, tile=side, window=box)
        terminal.write(output, pictures.to_bytes(picture, kind))
    where = "stdout" if output == "-" else output
    facts = {"output": output, "format": kind, "width": picture.width, "height": picture.height}
    lines = [f"{where}: {picture.width}x{picture.height}"]
    if ref and header.reference is None:
        were = "was" if len(ref) == 1 else "were"
        lines.append(f"{name}: needs no reference; {', '.join(map(terminal.name_of, ref))} {were} not used")
    terminal.summarise(lines, facts, json_output=json_output, quiet=quiet)
