"""The commands that code: encode and decode.

Torch, numpy and Pillow are imported inside them, so that `--help` starts at once.
"""

import json
import math
from dataclasses import replace
from typing import Annotated

import typer

from refscale_codec import lrcodec
from refscale_codec.cli import options, terminal
from refscale_codec.cli.options import (
    DeviceOption,
    FileArgument,
    FormatOption,
    JsonOption,
    MemoryOption,
    OutputOption,
    PageOption,
    QuietOption,
    RefOption,
    RefPageOption,
    TileOption,
    WeightsOption,
)
from refscale_codec.errors import UsageError, naming
from refscale_codec.fileformat import container
from refscale_codec.picture import metadata


def encode(
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="PNG, JPEG, WebP or TIFF; - is stdin.")],
    output: OutputOption,
    ref: RefOption = None,
    page: PageOption = None,
    ref_page: RefPageOption = None,
    quality: Annotated[
        int | None, typer.Option("--quality", min=1, max=100, help="Higher is better and larger; 75 by default.")
    ] = None,
    target_bytes: Annotated[
        int | None, typer.Option("--target-bytes", min=1, help="Largest size of the file, instead of --quality.")
    ] = None,
    target_bpp: Annotated[
        float | None, typer.Option("--target-bpp", help="Largest size in bits per pixel of the picture, likewise.")
    ] = None,
    target_psnr: Annotated[
        float | None, typer.Option("--target-psnr", help="Lowest PSNR of the decoded picture in dB, likewise.")
    ] = None,
    scale: Annotated[
        int | None, typer.Option("--scale", help="Downscaling factor, 2 (default) or 4; follows from --weights.")
    ] = None,
    codec_name: Annotated[
        str | None,
        typer.Option(
            "--codec",
            help=f"Codec of the low-res picture, {lrcodec.choices()}; follows from --weights.",
        ),
    ] = None,
    output_hash: Annotated[bool, typer.Option(help="Also decode, and store a hash of the decoded picture.")] = False,
    value_range: Annotated[
        list[str] | None,
        typer.Option(
            "--range",
            metavar="[BAND:]LOW,HIGH",
            help="Range of values to code, of all bands or of one (from 1), again for others; by default of each band "
            "its own, and 0,255 for 8 bits.",
        ),
    ] = None,
    strip: Annotated[
        bool, typer.Option("--strip", help="Drop colour profile (ICC), EXIF, XMP and georeference.")
    ] = False,
    tile: TileOption = None,
    max_memory: MemoryOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Encode a picture, with or without a reference.

    Pictures have 8 or 16 bits per sample and any number of bands: grey, RGB, palette (coded as RGB); in a TIFF four or
    more bands, 32 bits, and floating point. Alpha, nodata, colour profile, EXIF, XMP and georeference are stored
    losslessly.

    With a target, at most 6 files are tried, for the largest that does not exceed --target-bytes or --target-bpp, or
    the one with the least PSNR that is not below --target-psnr. The search stops within 2 % or 0.1 dB. The exit code is
    7 if no quality from 1 to 100 reaches the target.
    """
    if sum(given is not None for given in (quality, target_bytes, target_bpp, target_psnr)) > 1:
        raise UsageError("--quality, --target-bytes, --target-bpp and --target-psnr exclude each other: give one")
    for name, given in (("--target-bpp", target_bpp), ("--target-psnr", target_psnr)):
        if given is not None and not 0 < given < math.inf:
            raise UsageError(f"{name} must be a positive number, not {given}")
    if codec_name is not None:
        lrcodec.named(codec_name)
    if weights is not None and (scale, codec_name) != (None, None):
        raise UsageError(f"--{'codec' if scale is None else 'scale'} would have no effect: it follows from --weights")
    if scale not in (None, *container.SCALES):
        raise UsageError(f"--scale must be 2 or 4, not {scale}")
    if json_output and output == "-":
        raise UsageError("--json and -o - both write to stdout")
    terminal.require_streams(output, picture, ref, weights)
    with terminal.progress(quiet) as step:
        step("starting")
        image = terminal.read_picture(picture, page, need_georeference=not strip)
        reference = terminal.read_reference(ref, ref_page)
        from refscale_codec import model as weights_files
        from refscale_codec.api.functions import target_of
        from refscale_codec.codec import encoder, rate_control
        from refscale_codec.study import metrics

        if image.alpha is not None:
            hidden = int((image.alpha == 0).sum())
            colours = f"; the colours of {hidden:,} fully transparent pixels are not kept" if hidden else ""
            terminal.say(quiet, f"{terminal.name_of(picture)}: alpha is stored losslessly{colours}")
        if strip:
            image = replace(image, metadata=metadata.Metadata())
        depth = image.pixels.itemsize * (image.bands + (image.alpha is not None))
        side = options.tile_side(tile, max_memory, image.height, image.width, depth)
        limits = options.ranges_of(value_range, image.bands) if value_range else None
        settings = encoder.EncodeOptions(quality or 75, output_hash, side, limits)
        model = terminal.load_model(weights or weights_files.shipped(scale or 2, codec_name or "jpeg"), device)
        step("encoding")
        target = target_of(image, target_bytes, target_bpp, target_psnr)
        reached = None if target is None else rate_control.encode(image, reference, model, target, settings, step=step)
        data = encoder.encode(image, reference, model, settings) if reached is None else reached.data
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


def decode(
    file: FileArgument,
    output: OutputOption,
    ref: RefOption = None,
    ref_page: RefPageOption = None,
    format_name: FormatOption = None,
    window: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="Decode only this part, to the same pixels as in the whole.")
    ] = None,
    tile: TileOption = None,
    max_memory: MemoryOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Decode a picture; a file that has a reference needs the same one.

    Colour profile, EXIF, XMP and georeference are restored; a message on stderr names what the output format cannot
    hold. TIFF can hold every picture.
    """
    box = None if window is None else options.window_of(window)
    terminal.require_streams(output, file, ref, weights)
    with terminal.progress(quiet) as step:
        step("starting")
        data, name = terminal.read(file), terminal.name_of(file)
        content = terminal.unpacked(data, name)
        header = content.header
        if box is not None:
            box.require_inside(header.height, header.width)
        from refscale_codec.picture import band_section, formats, geotiff
        from refscale_codec.picture import image as pictures

        kind = terminal.picture_format(output, format_name)
        with naming(name):
            described = band_section.summary(content.bands, header.height, header.width)
            geo = metadata.unpack(content.metadata).geo
        longest = max(header.height, header.width) if box is None else max(box.height, box.width)
        formats.require_support(kind, described.dtype, described.depth, longest)
        if kind == "tiff" and formats.needs_gdal(described.dtype, described.depth, described.nodata, geo):
            geotiff.require_gdal("a TIFF of this picture", geotiff.WRITTEN)
        depth = described.dtype.itemsize * (described.depth + described.alpha)
        side = options.tile_side(tile, max_memory, header.height, header.width, depth)
        reference = terminal.read_reference(ref, ref_page)
        from refscale_codec.codec import decoder

        model = terminal.load_model(weights or terminal.wanted_weights(header), device)
        step("decoding")
        with naming(name):
            picture = decoder.decode(data, reference, model, tile=side, window=box)
        terminal.write(output, pictures.to_bytes(picture, kind))
    terminal.say(quiet, f"{'stdout' if output == '-' else output}: {picture.width}x{picture.height}")
