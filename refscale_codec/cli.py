"""The command line: parse, call one function, print. Data goes to stdout or files, everything else to stderr.

Torch, numpy and Pillow are imported inside the commands that need them, so that `--help` and `info` start at once.
"""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from refscale_codec import __version__, allocator, container, progress
from refscale_codec.errors import ContainerError, ImageError, RefscaleError, UsageError

if TYPE_CHECKING:
    from refscale_codec.image import Image
    from refscale_codec.rescale.net import RescaleNet

CODEC_NAMES = {1: "jpeg"}  # the table in lrcodec, which is not imported here: it takes numpy and Pillow

app = typer.Typer(
    name="refscale",
    help="Code pictures of a place against an older picture of the same place.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RefOption = Annotated[
    str | None, typer.Option("--ref", metavar="PICTURE", help="Older picture of the place, same size; - is stdin.")
]
OutputOption = Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where to write; - is stdout.")]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="A .safetensors file instead of the one that ships.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress and no summary on stderr.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable result on stdout.")]
FileArgument = Annotated[str, typer.Argument(metavar="FILE.rsc", help="A file that encode wrote; - is stdin.")]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"refscale {__version__}")
        raise typer.Exit


@app.command()
def encode(
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="8-bit RGB PNG, JPEG, WebP or TIFF; - is stdin.")],
    output: OutputOption,
    ref: RefOption = None,
    quality: Annotated[int, typer.Option("--quality", min=1, max=100, help="Higher is better and bigger.")] = 85,
    scale: Annotated[int | None, typer.Option("--scale", help="2 (default) or 4; follows from --weights.")] = None,
    codec_name: Annotated[str, typer.Option("--codec", help="Codec of the low-res picture: jpeg.")] = "jpeg",
    subsampling: Annotated[str, typer.Option(help="Chroma of the low-res JPEG: 4:4:4, 4:2:2 or 4:2:0.")] = "4:4:4",
    output_hash: Annotated[bool, typer.Option(help="Decode too, and store the hash of what comes out.")] = False,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Code a picture, against a reference if there is one."""
    if codec_name != "jpeg":
        raise UsageError(f"unknown codec {codec_name!r}; there is: jpeg")
    if weights is not None and scale is not None:
        raise UsageError("--scale would have no effect: it follows from --weights")
    if scale not in (None, *container.SCALES):
        raise UsageError(f"--scale must be 2 or 4, not {scale}")
    if json_output and output == "-":
        raise UsageError("--json and -o - both want stdout")
    _require_distinct(output, picture, ref, weights)
    with progress.shown(quiet) as step:
        step("starting")
        from refscale_codec import codec, metrics
        from refscale_codec.rescale import weights as weights_files

        options = codec.EncodeOptions(quality, subsampling, output_hash)  # type: ignore[arg-type]
        target, reference = _read_picture(picture), None if ref is None else _read_picture(ref)
        net = _net(weights or weights_files.shipped(scale or 2), device)
        step("coding")
        data = codec.encode(target, reference, net, options)
        _write(output, data)
    parts = container.part_sizes(container.unpack(data))
    summary = {
        "bytes": len(data),
        "bytes_header": parts.header + parts.other,
        "bytes_map": parts.map,
        "bytes_lr": parts.lr,
        "bpp": round(metrics.bits_per_pixel(len(data), target.height, target.width), 4),
        "width": target.width,
        "height": target.height,
    }
    if json_output:
        print(json.dumps(summary))
    _say(
        quiet,
        f"{'stdout' if output == '-' else output}: {len(data)} bytes, {summary['bpp']} bits per pixel "
        f"(low-res {parts.lr}, map {parts.map}, header {parts.header + parts.other})",
    )


@app.command()
def decode(
    file: FileArgument,
    output: OutputOption,
    ref: RefOption = None,
    format_name: Annotated[
        str | None, typer.Option("--format", help="png, webp or tiff; by default what the suffix says.")
    ] = None,
    z_scale: Annotated[float, typer.Option(min=0, help="Deviation of the latent; anything but 0 adds noise.")] = 0.0,
    z_seed: Annotated[int | None, typer.Option(help="Seed of the latent, with --z-scale.")] = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Rebuild the picture from a file and the very reference it was made with."""
    if z_seed is not None and not z_scale:
        raise UsageError("--z-seed would have no effect without --z-scale")
    _require_distinct(output, file, ref, weights)
    with progress.shown(quiet) as step:
        step("starting")
        data, name = _read(file), _name(file)
        header = _unpacked(data, name).header
        from refscale_codec import codec
        from refscale_codec import image as pictures

        kind = format_name or ("png" if output == "-" else pictures.format_of(Path(output)))
        reference = None if ref is None else _read_picture(ref)
        net = _net(weights or _wanted(header), device)
        step("decoding")
        with _naming(name):
            picture = codec.decode(data, reference, net, z_scale=z_scale, z_seed=z_seed or 0)
        _write(output, pictures.to_bytes(picture, kind))
    _say(quiet, f"{'stdout' if output == '-' else output}: {picture.width}x{picture.height}")


@app.command()
def info(file: FileArgument, json_output: JsonOption = False) -> None:
    """Tell what a file holds, without decoding it."""
    data = _read(file)
    content = _unpacked(data, _name(file))
    header, parts = content.header, container.part_sizes(content)
    facts: dict[str, Any] = {
        "width": header.width,
        "height": header.height,
        "scale": header.scale,
        "codec": CODEC_NAMES.get(header.codec, f"unknown ({header.codec})"),
        "quality": header.quality,
        "weights": header.weights.hex(),
        "reference": None if header.reference is None else header.reference.hex(),
        "output_hash": None if content.output_hash is None else content.output_hash.hex(),
        "bytes": len(data),
        "bytes_header": parts.header + parts.other,
        "bytes_map": parts.map,
        "bytes_lr": parts.lr,
        "bpp": round(8 * len(data) / (header.width * header.height), 4),
    }
    if json_output:
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            print(f"{name:<13}{'none' if value is None else value}")


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
    data, name = _read(file), _name(file)
    content = _unpacked(data, name)
    with progress.shown(quiet) as step:
        step("starting")
        from refscale_codec import codec

        reference = None if ref is None else _read_picture(ref)
        net = _net(weights or _wanted(content.header), device)
        with _naming(name):
            if content.header.reference is not None and reference is None:
                codec.require_same_weights(content.header, net)
                codec.unpack_low_res(content, net)
                _say(quiet, f"{name}: sound; give --ref to check the reference and the picture")
                return
            step("decoding")
            picture = codec.decode(data, reference, net)
    if content.output_hash is None:
        _say(quiet, f"{name}: sound, and decodes; it holds no hash of the picture to compare with")
    elif content.output_hash == picture.fingerprint():
        _say(quiet, f"{name}: sound, and decodes to exactly the picture that the encoder saw")
    else:
        raise ContainerError(
            f"{name}: decodes to another picture than on the encoder's machine: {picture.fingerprint().hex()}, "
            f"expected {content.output_hash.hex()} (floating point may differ by a level between machines)"
        )


@app.command("extract-lr")
def extract_lr(file: FileArgument, output: OutputOption) -> None:
    """Write the low-res picture inside a file: a plain JPEG, no reference or weights needed."""
    _require_distinct(output, file)
    content = _unpacked(_read(file), _name(file))
    if CODEC_NAMES.get(content.header.codec) != "jpeg":
        raise ContainerError(f"{_name(file)}: the low-res picture is not a JPEG (codec {content.header.codec})")
    if output != "-" and Path(output).suffix.lower() not in (".jpg", ".jpeg"):
        raise UsageError(f"{output}: the low-res picture is a JPEG; name it .jpg")
    _write(output, content.lr)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The recipe; see weights/README.md.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Checkpoint, weights and log.")],
    minutes: Annotated[float, typer.Option(min=0, help="Stop after so long; run again to go on.")] = float("inf"),
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Train a net, or go on where the folder's checkpoint stopped."""
    with progress.shown(quiet) as step:
        step("starting")
        from refscale_codec import train as training

        recipe = training.TrainConfig.read(config)
        where = _device(device)

        def report(line: dict[str, float]) -> None:
            print(json.dumps(line), flush=True)
            step(
                f"step {line['step']} of {recipe.steps}: {line['psnr']} dB at {line['bpp_lr']} + {line['bpp_map']} bpp"
            )

        path = training.train(recipe, config.parent, output, minutes=minutes, device=where, report=report)
    _say(quiet, f"weights in {path}")


@app.command("eval")
def evaluate_command(
    manifest: Annotated[
        Path, typer.Argument(metavar="PAIRS.csv", help="Columns target and reference; split, dataset.")
    ],
    split: Annotated[str | None, typer.Option(help="Only rows of this split.")] = None,
    scale: Annotated[int | None, typer.Option("--scale", help="2 (default) or 4; follows from --weights.")] = None,
    weights: WeightsOption = None,
    modes: Annotated[str, typer.Option(help="Any of reference,alone,unrelated.")] = "reference,alone,unrelated",
    qualities: Annotated[str, typer.Option(help="Qualities to code at.")] = "5,15,30,50,70,83,92,97",
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Results as JSON.")] = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Measure bits and quality on pairs: BD-rate against JPEG, with the reference, without, with an unrelated one."""
    if weights is not None and scale is not None:
        raise UsageError("--scale would have no effect: it follows from --weights")
    with progress.shown(quiet) as step:
        step("starting")
        from refscale_codec import evaluate
        from refscale_codec.data import read_manifest
        from refscale_codec.rescale import weights as weights_files

        if output not in (None, "-") and not Path(str(output)).parent.is_dir():
            raise UsageError(f"cannot write {output}: there is no folder {Path(str(output)).parent}")
        chosen = _choices(modes, evaluate.MODES)
        wanted = [int(text) if text.isdecimal() else 0 for text in qualities.split(",")]
        if not all(1 <= quality <= 100 for quality in wanted):
            raise UsageError(f"--qualities must be numbers from 1 to 100, separated by commas, not {qualities}")
        pairs = read_manifest(manifest, None if split is None else (split,))
        net = _net(weights or weights_files.shipped(scale or 2), device)
        done = iter(range(1, len(pairs) + 1))
        rows = evaluate.evaluate(
            pairs,
            net,
            qualities=wanted,
            modes=chosen,  # type: ignore[arg-type]
            report=lambda pair: step(f"{next(done)} of {len(pairs)}: {pair.dataset} {pair.name}"),
        )
        rounded = evaluate.rounded_psnr(pairs, net)
        comparisons = [c for mode in chosen for c in evaluate.compare(rows, mode, "jpeg")]
        comparisons += evaluate.compare(rows, "reference", "unrelated") + evaluate.compare(rows, "unrelated", "alone")
        if output is not None:
            command = " ".join(["refscale", *(re.sub(r"[^=]*/", "", word) for word in sys.argv[1:])])  # without folders
            result = evaluate.as_json(rows, comparisons, rounded, net, command)
            _write(output, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    from rich.console import Console
    from rich.table import Table

    table = Table("dataset", "coder", "against", "BD-rate %", "pictures", "left out")
    for c in comparisons:
        table.add_row(c.dataset, c.coder, c.anchor, f"{c.percent:+.1f}", str(c.pictures), str(c.left_out))
    Console(stderr=output == "-").print(table)
    per_dataset = ", ".join(f"{dataset} {psnr:.2f}" for dataset, psnr in rounded.items())
    _say(quiet, f"mean PSNR in dB with the low-res picture rounded to 8 bits and not coded further: {per_dataset}")
    _say(quiet, f"mean cost of the similarity map: {evaluate.map_bpp(rows):.4f} bits per pixel")
    for note in sorted({f"{c.dataset} {c.coder}: {note}" for c in comparisons for note in c.notes}):
        _say(quiet, note)


def _choices(text: str, known: tuple[str, ...]) -> list[str]:
    chosen = text.split(",")
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise UsageError(f"unknown {', '.join(unknown)}; there are: {', '.join(known)}")
    return chosen


def _device(name: str) -> str:
    import torch

    available = ["cpu"]
    if torch.cuda.is_available():
        available.append("cuda")
    if torch.backends.mps.is_available():
        available.append("mps")
    if name == "auto":
        return available[-1]
    if name not in ("cpu", "cuda", "mps"):
        raise UsageError(f"--device must be auto, cpu, cuda or mps, not {name}")
    if name not in available:
        raise UsageError(
            f"--device {name}: this machine or this build of torch has none; there is: {', '.join(available)}"
        )
    return name


def _net(path: Path, device: str) -> "RescaleNet":
    from refscale_codec.rescale import weights

    allocator.keep_freed_memory()
    return weights.load(path).to(_device(device))


def _wanted(header: container.Header) -> Path:
    from refscale_codec.rescale import weights

    return weights.shipped_as(header.weights)


def _name(path: str) -> str:
    return "stdin" if path == "-" else path


def _read(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ContainerError(f"cannot read {path}: {error.strerror}") from None


def _read_picture(path: str) -> "Image":
    from refscale_codec import image

    return image.from_bytes(sys.stdin.buffer.read(), "stdin") if path == "-" else image.read(Path(path))


def _unpacked(data: bytes, name: str) -> container.Container:
    with _naming(name):
        return container.unpack(data)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put the file's name before the message of any error raised inside."""
    try:
        yield
    except RefscaleError as error:
        if not str(error).startswith(name):
            raise type(error)(f"{name}: {error}") from None
        raise


def _write(path: str, data: bytes) -> None:
    if path == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    from refscale_codec.image import write_atomically

    try:
        write_atomically(Path(path), data)
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error.strerror}") from None


def _require_distinct(output: str, *inputs: str | Path | None) -> None:
    if inputs[:2] == ("-", "-"):
        raise UsageError("stdin can be only one of the inputs")
    if output == "-":
        return
    for path in inputs:
        with suppress(OSError):  # a path that does not exist is no reason to stop here; reading or writing will tell
            if path not in (None, "-") and Path(str(path)).samefile(output):
                raise UsageError(f"{output} is also an input; it would be overwritten")


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        print(text, file=sys.stderr)


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
