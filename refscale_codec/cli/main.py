"""The command line: parse, call one function, print. Data goes to stdout or files, everything else to stderr.

The commands that code and look into files are here; those that train and measure are in `cli_study`. Torch, numpy and
Pillow are imported inside the commands that need them, so that `--help` and `info` start at once.

Longer than most modules: one function a command, whose signature is its help.
"""

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from refscale_codec import __version__, lrcodec
from refscale_codec.cli import study, terminal
from refscale_codec.cli.terminal import (
    DeviceOption,
    FileArgument,
    FormatOption,
    JsonOption,
    MemoryOption,
    OutputOption,
    QuietOption,
    RefOption,
    TileOption,
    WeightsOption,
)
from refscale_codec.errors import ContainerError, RefscaleError, UsageError, naming
from refscale_codec.fileformat import container
from refscale_codec.picture import metadata

CODEC_NAMES = {lrcodec.JPEG: "jpeg", lrcodec.GMM: "gmm"}

app = typer.Typer(
    name="refscale",
    help="Code pictures of a place against an older picture of the same place.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        terminal.tell(f"refscale {__version__}")
        raise typer.Exit


@app.command()
def encode(
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="PNG, JPEG, WebP or TIFF; - is stdin.")],
    output: OutputOption,
    ref: RefOption = None,
    quality: Annotated[
        int | None, typer.Option("--quality", min=1, max=100, help="Higher is better and bigger; 75 by default.")
    ] = None,
    target_bytes: Annotated[
        int | None, typer.Option("--target-bytes", min=1, help="Size of the file, instead of --quality.")
    ] = None,
    target_bpp: Annotated[
        float | None, typer.Option("--target-bpp", help="Size of the file in bits per pixel of the picture, likewise.")
    ] = None,
    target_psnr: Annotated[
        float | None, typer.Option("--target-psnr", help="RGB PSNR of what comes out, in dB, likewise.")
    ] = None,
    scale: Annotated[int | None, typer.Option("--scale", help="2 (default) or 4; follows from --weights.")] = None,
    codec_name: Annotated[
        str | None,
        typer.Option("--codec", help="jpeg (default) or gmm, for the low-res picture; follows from --weights."),
    ] = None,
    output_hash: Annotated[bool, typer.Option(help="Decode too, and store the hash of what comes out.")] = False,
    value_range: Annotated[
        str | None,
        typer.Option(
            "--range", metavar="LOW,HIGH", help="Values that 16-bit bands can have; by default those that they have."
        ),
    ] = None,
    strip: Annotated[
        bool, typer.Option("--strip", help="Leave out colour profile (ICC), EXIF, XMP and georeference.")
    ] = False,
    tile: TileOption = None,
    max_memory: MemoryOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Code a picture, against a reference if there is one. Colour profile, EXIF, XMP and georeference go along.

    Pictures have 8 or 16 bits and any bands: grey, RGB, palettes (coded as their colours), four and more in a TIFF.
    Alpha and nodata are kept exactly.

    With a target, at most 6 tries seek the largest file that is not above --target-bytes or --target-bpp, or the one
    that is above --target-psnr by the least; within 2 % and within 0.1 dB is close enough. A target that no quality
    from 1 to 100 gives ends with exit code 7.
    """
    if sum(given is not None for given in (quality, target_bytes, target_bpp, target_psnr)) > 1:
        raise UsageError(
            "give one of --quality, --target-bytes, --target-bpp and --target-psnr; they contradict each other"
        )
    for name, given in (("--target-bpp", target_bpp), ("--target-psnr", target_psnr)):
        if given is not None and not 0 < given < math.inf:
            raise UsageError(f"{name} must be a positive number, not {given}")
    if codec_name not in (None, *CODEC_NAMES.values()):
        raise UsageError(f"unknown codec {codec_name!r}; there are: {', '.join(CODEC_NAMES.values())}")
    if weights is not None and (scale, codec_name) != (None, None):
        raise UsageError(f"--{'codec' if scale is None else 'scale'} would have no effect: it follows from --weights")
    if scale not in (None, *container.SCALES):
        raise UsageError(f"--scale must be 2 or 4, not {scale}")
    if json_output and output == "-":
        raise UsageError("--json and -o - both want stdout")
    terminal.require_streams(output, picture, ref, weights)
    with terminal.progress(quiet) as step:
        step("starting")
        image = terminal.read_picture(picture, need_place=not strip)
        reference = None if ref is None else terminal.read_picture(ref)
        from refscale_codec import api
        from refscale_codec import model as weights_files
        from refscale_codec.codec import encoder, rate_control
        from refscale_codec.study import metrics

        if image.alpha is not None:
            hidden = int((image.alpha == 0).sum())
            colours = f", the colours of {hidden:,} fully transparent pixels are not" if hidden else ""
            terminal.say(quiet, f"{terminal.name_of(picture)}: alpha is kept without loss{colours}")
        if strip:
            image = replace(image, metadata=metadata.Metadata())
        depth = image.pixels.itemsize * (image.bands + (image.alpha is not None))
        side = terminal.tile_side(tile, max_memory, image.height, image.width, depth)
        between = None if value_range is None else terminal.range_of(value_range)
        options = encoder.EncodeOptions(quality or 75, output_hash, side, between)
        net = terminal.load_net(weights or weights_files.shipped(scale or 2, codec_name or "jpeg"), device)
        step("coding")
        target = api.target_of(image, target_bytes, target_bpp, target_psnr)
        reached = None if target is None else rate_control.encode(image, reference, net, target, options, step=step)
        data = encoder.encode(image, reference, net, options) if reached is None else reached.data
        terminal.write(output, data)
    sizes = container.bytes_by_section(container.unpack(data))
    summary = {
        "bytes": len(data),
        "bytes_by_section": sizes,
        "bpp": round(metrics.bits_per_pixel(len(data), image.height, image.width), 4),
        "width": image.width,
        "height": image.height,
    }
    if reached is not None:
        summary |= {"quality": reached.quality, "tries": reached.tries}
        if reached.psnr is not None:
            summary["psnr"] = round(reached.psnr, 3)
    if json_output:
        terminal.tell(json.dumps(summary))
    terminal.say(
        quiet,
        f"{'stdout' if output == '-' else output}: {len(data)} bytes, {summary['bpp']} bits per pixel "
        f"({', '.join(f'{part} {size}' for part, size in terminal.parts(sizes))})",
    )
    if target is not None and reached is not None:
        off = 100 * len(data) / target.value - 100
        got = f"{off:+.2f} % of {target.value} bytes" if reached.psnr is None else f"{reached.psnr:.2f} dB"
        terminal.say(quiet, f"target: {got}, at quality {reached.quality} after {reached.tries} tries")


@app.command()
def decode(
    file: FileArgument,
    output: OutputOption,
    ref: RefOption = None,
    format_name: FormatOption = None,
    z_scale: Annotated[float, typer.Option(min=0, help="Deviation of the latent; anything but 0 adds noise.")] = 0.0,
    z_seed: Annotated[int | None, typer.Option(help="Seed of the latent, with --z-scale.")] = None,
    window: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="Decode only this part; the same pixels as in the whole.")
    ] = None,
    tile: TileOption = None,
    max_memory: MemoryOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Rebuild the picture from a file and the very reference it was made with.

    Colour profile, EXIF, XMP and georeference come back as they were; what the picture's format cannot hold is told on
    stderr. Only TIFF holds every picture.
    """
    if z_seed is not None and not z_scale:
        raise UsageError("--z-seed would have no effect without --z-scale")
    box = None if window is None else terminal.window_of(window)
    terminal.require_streams(output, file, ref, weights)
    with terminal.progress(quiet) as step:
        step("starting")
        data, name = terminal.read(file), terminal.name_of(file)
        content = terminal.unpacked(data, name)
        header = content.header
        from refscale_codec.picture import bands, formats, geotiff
        from refscale_codec.picture import image as pictures

        kind = terminal.picture_format(output, format_name)
        with naming(name):
            described = bands.unpack(content.bands, header.height, header.width)
            said = metadata.unpack(content.metadata)
        shown = (header.height, header.width) if box is None else (box.height, box.width)
        formats.require_holds(kind, described.dtype, described.depth, max(shown))
        if kind == "tiff" and formats.takes_gdal(described.dtype, described.depth, described.nodata, said.geo):
            geotiff.require_gdal("a TIFF of this picture")
        depth = described.dtype.itemsize * (described.depth + (described.alpha is not None))
        side = terminal.tile_side(tile, max_memory, header.height, header.width, depth)
        reference = None if ref is None else terminal.read_picture(ref)
        from refscale_codec.codec import decoder

        net = terminal.load_net(weights or terminal.wanted_weights(header), device)
        step("decoding")
        with naming(name):
            picture = decoder.decode(data, reference, net, z_scale=z_scale, z_seed=z_seed or 0, tile=side, window=box)
        terminal.write(output, pictures.to_bytes(picture, kind))
    terminal.say(quiet, f"{'stdout' if output == '-' else output}: {picture.width}x{picture.height}")


@app.command()
def info(file: FileArgument, json_output: JsonOption = False) -> None:
    """Tell what a file holds, without decoding it."""
    data = terminal.read(file)
    content = terminal.unpacked(data, terminal.name_of(file))
    header, sizes = content.header, container.bytes_by_section(content)
    with naming(terminal.name_of(file)):
        said = metadata.unpack(content.metadata)
        samples: dict[str, Any] = {"bands": 3, "type": "uint8", "alpha": False, "nodata": None}
        if content.bands is not None:
            from refscale_codec.picture import bands

            described = bands.unpack(content.bands, header.height, header.width)
            samples = {
                "bands": described.depth,
                "type": described.dtype.name,
                "alpha": described.alpha is not None,
                "nodata": described.nodata,
            }
    facts: dict[str, Any] = {
        "width": header.width,
        "height": header.height,
        **samples,
        "scale": header.scale,
        "codec": CODEC_NAMES.get(header.codec, f"unknown ({header.codec})"),
        "quality": header.quality,
        "weights": header.weights.hex(),
        "reference": None if header.reference is None else header.reference.hex(),
        "output_hash": None if content.output_hash is None else content.output_hash.hex(),
        "metadata": " ".join(name for name, part in asdict(said).items() if part) or None,
        "bytes": len(data),
        "bytes_by_section": sizes,
        "bpp": round(8 * len(data) / (header.width * header.height), 4),
    }
    if json_output:
        terminal.tell(json.dumps(facts))
    else:
        for name, value in facts.items():
            if name == "bytes_by_section":
                for part, size in terminal.parts(sizes):
                    terminal.tell(f"  {part:<13}{size}")
                continue
            shown = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
            terminal.tell(f"{name:<15}{shown}")


@app.command()
def verify(
    file: FileArgument,
    ref: RefOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Check a file: structure and checksums, then that weights and reference fit, then what it decodes to.

    Without --ref a file that needs one is checked as far as that goes.
    """
    terminal.require_streams(None, file, ref)
    data, name = terminal.read(file), terminal.name_of(file)
    content = terminal.unpacked(data, name)
    with terminal.progress(quiet) as step:
        step("starting")
        reference = None if ref is None else terminal.read_picture(ref)
        from refscale_codec.codec import decoder, payloads

        net = terminal.load_net(weights or terminal.wanted_weights(content.header), device)
        with naming(name):
            if content.header.reference is not None and reference is None:
                decoder.require_same_weights(content.header, net)
                metadata.unpack(content.metadata)
                for group in decoder.disassemble(content)[1]:
                    if group.header.codec == lrcodec.JPEG:
                        payloads.unpack_low_res(group, net, None)
                terminal.say(quiet, f"{name}: sound; give --ref to check the reference and the picture")
                return
            step("decoding")
            picture = decoder.decode(data, reference, net)
    if content.output_hash is None:
        terminal.say(quiet, f"{name}: sound, and decodes; it holds no hash of the picture to compare with")
    elif content.output_hash == picture.fingerprint():
        terminal.say(quiet, f"{name}: sound, and decodes to exactly the picture that the encoder saw")
    else:
        raise ContainerError(
            f"{name}: decodes to another picture than on the encoder's machine: {picture.fingerprint().hex()}, "
            f"expected {content.output_hash.hex()} (floating point may differ by a level between machines)"
        )


@app.command()
def diff(
    file: Annotated[str, typer.Argument(metavar="NEW", help="A picture, or a file that encode wrote; - is stdin.")],
    ref: Annotated[
        str, typer.Option("--ref", metavar="PICTURE", help="Older picture of the place, of any size; - is stdin.")
    ],
    output: OutputOption,
    format_name: FormatOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw where a picture differs from an older one, at its size and place: black is alike, bright is changed.

    It is the net's similarity, so light and season count little, and single pixels nothing. Changed is a share of the
    area: what is more than half as unlike as other places of the picture are.
    """
    if json_output and output == "-":
        raise UsageError("--json and -o - both want stdout")
    terminal.require_streams(output, file, ref, weights)
    with terminal.progress(quiet) as step:
        step("starting")
        data, name = terminal.read(file), terminal.name_of(file)
        content = terminal.unpacked(data, name) if data.startswith(container.MAGIC) else None
        header = None if content is None else content.header
        from refscale_codec.picture import image as pictures

        kind = terminal.picture_format(output, format_name)
        picture = None if header is not None else pictures.from_bytes(data, name)
        reference = terminal.read_picture(ref)
        from refscale_codec import model as weights_files
        from refscale_codec.codec import decoder
        from refscale_codec.study import change

        if weights is None:
            weights = weights_files.shipped(2) if header is None else terminal.wanted_weights(header)
        net = terminal.load_net(weights, device)
        step("comparing")
        with naming(name):
            if picture is None:
                needed = header is not None and header.reference is not None
                picture = decoder.decode(data, reference if needed else None, net)
            alignments = [] if content is None else decoder.alignments(content)
            values = change.change(picture, reference, net, alignments)
        terminal.write(output, pictures.to_bytes(change.heat_map(values, picture), kind))
    share = float((values > change.CHANGED).mean())
    if json_output:
        terminal.tell(json.dumps({"width": picture.width, "height": picture.height, "changed": round(share, 4)}))
    where = "stdout" if output == "-" else output
    terminal.say(quiet, f"{where}: {picture.width}x{picture.height}, {100 * share:.1f} % changed")


@app.command("extract-lr")
def extract_lr(file: FileArgument, output: OutputOption) -> None:
    """Write the low-res picture inside a file: a plain JPEG, no reference or weights needed.

    Of more than three bands it shows the first three.
    """
    terminal.require_streams(output, file)
    content = terminal.unpacked(terminal.read(file), terminal.name_of(file))
    if CODEC_NAMES.get(content.header.codec) != "jpeg":
        raise ContainerError(
            f"{terminal.name_of(file)}: the low-res picture is not a JPEG (codec {content.header.codec})"
        )
    if output != "-" and Path(output).suffix.lower() not in (".jpg", ".jpeg"):
        raise UsageError(f"{output}: the low-res picture is a JPEG; name it .jpg")
    from refscale_codec.lrcodec.dct import coefficients, entropy

    size, quality = content.header.low_res_size, content.header.quality
    with naming(terminal.name_of(file)):
        levels = entropy.decode(content.lr, *size, quality)
    terminal.write(output, coefficients.write(levels, *size, quality))


app.command("train")(study.train)
app.command("eval")(study.evaluate_command)
app.command("rd-curve")(study.rd_curve)


def main() -> NoReturn:
    """Run the command line; every error a user can cause becomes one line and its exit code."""
    try:
        app()
    except RefscaleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    sys.exit(0)
