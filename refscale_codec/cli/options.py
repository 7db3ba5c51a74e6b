"""The options and arguments that several commands share, and the parsing of their values."""

import math
import re
from pathlib import Path
from typing import Annotated

import typer

from refscale_codec.errors import UsageError
from refscale_codec.picture import tiles

RefOption = Annotated[
    str | None,
    typer.Option("--ref", metavar="PICTURE", help="Reference: an older picture of the same place; - is stdin."),
]
PageOption = Annotated[
    int | None, typer.Option("--page", min=1, help="Which picture of a file that holds several, from 1.")
]
RefPageOption = Annotated[int | None, typer.Option("--ref-page", min=1, help="Likewise, of the reference.")]
OutputOption = Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Output file; - is stdout.")]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="FILE", help="Weights file (.safetensors) in place of the shipped one.", readable=False
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress and no summary on stderr.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
TileOption = Annotated[
    int | None,
    typer.Option("--tile", help="Largest side of the net's tiles in pixels, a multiple of 16; 512 by default."),
]
MemoryOption = Annotated[
    str | None,
    typer.Option("--max-memory", metavar="SIZE", help="Memory limit that sets the tiles' side, such as 1.5G."),
]
FormatOption = Annotated[
    str | None, typer.Option("--format", help="png, webp or tiff; by default from the suffix, png on stdout.")
]
FileArgument = Annotated[str, typer.Argument(metavar="FILE.rsc", help="A .rsc file; - is stdin.")]


def tile_side(tile: int | None, memory: str | None, height: int, width: int, depth: int) -> int:
    """Return the side of tiles for --tile or --max-memory; `depth` is the size of a pixel in bytes.

    Raises:
        UsageError: both are given, or the limit is malformed or too low.
    """
    if memory is None:
        return tiles.TILE if tile is None else tile
    if tile is not None:
        raise UsageError("--tile would have no effect: it follows from --max-memory")
    size = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG])(?:i?B)?", memory, re.IGNORECASE)
    if size is None:
        raise UsageError(f"--max-memory must be a number with K, M or G, such as 1.5G, not {memory!r}")
    allowed = float(size[1]) * 1024 ** (1 + "KMG".index(size[2].upper()))
    if math.isinf(allowed):
        raise UsageError("--max-memory is too large a number")
    return tiles.largest_within(int(allowed), height, width, depth)


def window_of(text: str) -> tiles.Box:
    """Parse x,y,w,h; UsageError for anything else."""
    numbers = re.fullmatch(r"(\d+),(\d+),(\d+),(\d+)", text.replace(" ", ""))
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
        found = re.fullmatch(rf"(?:(\d+):)?({number}),({number})", text.replace(" ", ""))
        if not found:
            raise UsageError(f"--range must be low,high or band:low,high, such as 0,10000 or 2:0,4000, not {text!r}")
        low, high = (float(value) for value in found.groups()[1:])
        into, chosen = (single, [int(found[1])]) if found[1] else (for_all, range(1, bands + 1))
        if into.keys() & set(chosen):
            raise UsageError(f"--range is given twice for {'band ' + found[1] if found[1] else 'all bands'}")
        into |= dict.fromkeys(chosen, (low, high))
    return for_all | single
