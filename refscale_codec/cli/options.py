"""The options and arguments that several commands share, and the parsing of their values."""

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from refscale_codec import lrcodec, weights_files
from refscale_codec.errors import UsageError
from refscale_codec.fileformat import container, references
from refscale_codec.picture import files, tiles

FILES, CODING, COMPUTING = "Files", "Coding", "Computing"
"""Groups of options in the help; the others are in a last group."""


def option(
    *names: str,
    help: str,
    group: str | None = None,
    metavar: str | None = None,
    check: Callable[[Any], Any] | None = None,
) -> Any:
    """Return the declaration of an option, with its names, the line in the help and what is called with its value."""
    return typer.Option(
        *names, help=help, rich_help_panel=group, metavar=metavar, show_default=False, readable=False, callback=check
    )


def known_device(name: str) -> str:
    """Return the name of a device; UsageError if there is no such name."""
    from refscale_codec.api.request import require_device

    require_device(name, "--device")
    return name


def _present(path: Path | None) -> Path | None:
    if path is not None:
        weights_files.require(path)
    return path


RefOption = Annotated[
    list[str] | None,
    option(
        "--ref",
        metavar="PICTURE",
        help="Older picture or .rsc file; repeat it for several.",
        group=FILES,
    ),
]
RequiredRefOption = Annotated[
    str, option("--ref", metavar="PICTURE", help="An older picture, or a .rsc file; - is stdin.", group=FILES)
]
OutputOption = Annotated[str, option("--output", "-o", metavar="FILE", help="Output; - is stdout.", group=FILES)]
NamedOutputOption = Annotated[
    str | None,
    option("--output", "-o", metavar="FILE", help="Output; by default beside the input; - is stdout.", group=FILES),
]
ForceOption = Annotated[
    bool, option("--force", "-f", help="Overwrite a file that has the output's default name.", group=FILES)
]
FormatOption = Annotated[
    str | None,
    option("--format", metavar="FORMAT", help="png, webp or tiff; by default from the output's suffix.", group=FILES),
]
PageOption = Annotated[
    int | None, option("--page", metavar="N", help="Which picture of a file that holds several, from 1.", group=FILES)
]
RefPageOption = Annotated[
    int | None, option("--ref-page", metavar="N", help="Which picture of the reference's file.", group=FILES)
]
RefPagesOption = Annotated[
    list[int] | None, option("--ref-page", metavar="N", help="Which picture of each reference's file.", group=FILES)
]
RefsOption = Annotated[
    str | None,
    option("--refs", metavar="INDEX", help="Index of references; by default that of REFSCALE_REFS.", group=FILES),
]
MaxRefsOption = Annotated[
    int | None,
    option("--max-refs", metavar="N", help="Pictures of --refs to use; 1 by default.", group=FILES),
]
QualityOption = Annotated[
    int | None,
    option("--quality", metavar="1..100", help="Higher is better and larger; 75 by default.", group=CODING),
]
TargetBytesOption = Annotated[
    int | None,
    option("--target-bytes", metavar="N", help="Largest size of a file, instead of --quality.", group=CODING),
]
TargetBppOption = Annotated[
    float | None,
    option("--target-bpp", metavar="N", help="Largest size in bits per pixel of the picture.", group=CODING),
]
TargetPsnrOption = Annotated[
    float | None, option("--target-psnr", metavar="DB", help="Lowest PSNR of the decoded picture.", group=CODING)
]
LosslessOption = Annotated[
    bool, option("--lossless", help="Decode to equal samples, instead of --quality.", group=CODING)
]
MaxErrorOption = Annotated[
    float | None,
    option("--max-error", metavar="N", help="Bound on the error of each sample, in its units.", group=CODING),
]
ScaleOption = Annotated[
    int | None, option("--scale", metavar="1|2|4", help="Downscaling factor; 2 by default.", group=CODING)
]
CodecOption = Annotated[str | None, option("--codec", metavar="NAME", help=f"{lrcodec.choices()}.", group=CODING)]
RangeOption = Annotated[
    list[str] | None,
    option("--range", metavar="LOW,HIGH", help="Values to code, or BAND:LOW,HIGH; may be repeated.", group=CODING),
]
StripOption = Annotated[bool, option("--strip", help="Drop colour profile, EXIF, XMP and georeference.", group=CODING)]
RefNameOption = Annotated[
    str | None,
    option("--ref-name", metavar="yes|no", help="Keep the reference's name; else beside metadata.", group=CODING),
]
OutputHashOption = Annotated[
    bool, option("--output-hash", help="Also decode, and store a hash of what comes out.", group=CODING)
]
WeightsOption = Annotated[
    Path | None,
    option(
        "--weights",
        metavar="FILE",
        help="Weights (.safetensors), instead of those that ship.",
        group=COMPUTING,
        check=_present,
    ),
]
DeviceOption = Annotated[
    str,
    option("--device", metavar="NAME", help="auto (default), cpu, cuda or mps.", group=COMPUTING, check=known_device),
]
ThreadsOption = Annotated[
    int | None,
    option("--threads", metavar="N", help="Most threads to compute with; all cores by default.", group=COMPUTING),
]
TileOption = Annotated[
    int | None,
    option("--tile", metavar="PIXELS", help="Side of the tiles, a multiple of 16; 512 by default.", group=COMPUTING),
]
MemoryOption = Annotated[
    str | None,
    option("--max-memory", metavar="SIZE", help="Memory limit, instead of --tile, such as 1.5G.", group=COMPUTING),
]
QuietOption = Annotated[bool, option("--quiet", "-q", help="No progress and no summary on stderr.")]
JsonOption = Annotated[bool, option("--json", help="Print the summary as JSON on stdout.")]
FileArgument = Annotated[str, typer.Argument(metavar="FILE.rsc", help="A .rsc file; - is stdin.")]


_LARGEST = 1 << 16  # more pages than that are a mistake
_MOST_THREADS = 1 << 10  # also processes; systems refuse many more


def require_positive(**numbers: int | None) -> None:
    """Raise UsageError for a number below 1 or of no use; `numbers` are by the names of their options."""
    for name, number in numbers.items():
        most = _MOST_THREADS if name in ("threads", "jobs") else _LARGEST
        if number is not None and not 1 <= number <= most:
            bound = "at least 1" if number < 1 else f"at most {most}"
            raise UsageError(f"--{name.replace('_', '-')} must be {bound}, not {number}")


def index_named(refs: str | None, ref: object = None, max_refs: int | None = None) -> str | None:
    """Return the path of the index that references are looked for in: the one given or that of the environment.

    With --ref there is none, and --refs is only for what a .rsc file that is given with --ref needs itself.
    """
    coded = isinstance(ref, list) and any(map(is_coded, ref))
    if refs is not None and ref and not coded:
        raise UsageError("--ref and --refs exclude each other: give one")
    found = None if ref else refs or os.environ.get("REFSCALE_REFS") or None
    if max_refs is not None and found is None:
        raise UsageError("--max-refs would have no effect: there is no index, see --refs")
    references.require_count(max_refs or 0)
    return found


def is_coded(path: str) -> bool:
    """Return whether a file begins as a .rsc file."""
    return files.begins(Path(path), container.MAGIC)


def index_of(refs: str | None) -> str:
    """Return the path of the index of references that is given or that the environment names; UsageError for none."""
    found = index_named(refs)
    if found is None:
        raise UsageError("there is no index: name one with --refs, or in the environment as REFSCALE_REFS")
    return found


def index_files(refs: str | None) -> list[str]:
    """Return the index that is given and that of the environment, and the files that SQLite has beside them."""
    indices = filter(None, (refs, os.environ.get("REFSCALE_REFS")))
    return [os.path.realpath(index) + end for index in indices for end in ("", "-journal", "-wal", "-shm")]


def positive_each(numbers: list[int], name: str) -> list[int]:
    """Return the numbers of an option that may be repeated; errors are those of `require_positive`."""
    for number in numbers:
        require_positive(**{name.removeprefix("--").replace("-", "_"): number})
    return numbers


def tile_side(
    tile: int | None, memory: str | None, height: int, width: int, depth: int, *, searched: bool = False
) -> int:
    """Return the side of tiles for --tile or --max-memory; see `tiles.largest_within`.

    Raises:
        UsageError: both are given, or the limit is malformed or too low.
    """
    if memory is None:
        side = tiles.TILE if tile is None else tile
        tiles.require_side(side)
        return side
    if tile is not None:
        raise UsageError("--tile would have no effect: it follows from --max-memory")
    size = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG])(?:i?B)?", memory, re.IGNORECASE)
    if size is None:
        raise UsageError(f"--max-memory must be a number with K, M or G, such as 1.5G, not {memory!r}")
    allowed = float(size[1]) * 1024 ** (1 + "KMG".index(size[2].upper()))
    if math.isinf(allowed):
        raise UsageError("--max-memory is too large a number")
    return tiles.largest_within(int(allowed), height, width, depth, searched=searched)


def window_of(text: str) -> tiles.Box:
    """Parse x,y,w,h; UsageError for anything else."""
    numbers = re.fullmatch(r"(\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})", text.replace(" ", ""))
    left, top, width, height = map(int, numbers.groups()) if numbers else (0, 0, 0, 0)
    if not width or not height:
        raise UsageError(f"--window must be x,y,w,h in pixels, such as 1024,0,512,512, not {text!r}")
    return tiles.Box(top, left, top + height, left + width)


def ranges_of(texts: list[str], bands: int) -> dict[int, tuple[float, float]]:
    """Parse ranges low,high of all bands and band:low,high of single ones; UsageError for anything else.

    Returns:
        Lowest and highest value by the number of the band, from 1; a range of a single band goes before that of all.
    """
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    for_all: dict[int, tuple[float, float]] = {}
    single: dict[int, tuple[float, float]] = {}
    for text in texts:
        found = re.fullmatch(rf"(?:(\d{{1,9}}):)?({number}),({number})", text.replace(" ", ""))
        if not found:
            raise UsageError(f"--range must be low,high or band:low,high, such as 0,10000 or 2:0,4000, not {text!r}")
        low, high = (float(value) for value in found.groups()[1:])
        into, chosen = (single, [int(found[1])]) if found[1] else (for_all, range(1, bands + 1))
        if into.keys() & set(chosen):
            raise UsageError(f"--range is given twice for {'band ' + found[1] if found[1] else 'all bands'}")
        into |= dict.fromkeys(chosen, (low, high))
    return for_all | single


def named(argument: str) -> str:
    """Return the option for an argument of Python, such as --target-bytes for target_bytes."""
    return f"--{argument.replace('_', '-')}"


def require_no_range(value_range: object, max_error: float | None) -> None:
    """Raise UsageError for a range of values beside a bound on the error, from which it follows."""
    if value_range and max_error is not None:
        raise UsageError("--range would have no effect: it follows from the bound on the error")


def reference_name_of(choice: str | None) -> bool | None:
    """Return whether --ref-name keeps the name of the reference; None if it is not given. UsageError for others."""
    if choice not in (None, "yes", "no"):
        raise UsageError(f"--ref-name must be yes or no, not {choice}")
    return None if choice is None else choice == "yes"
