"""The options and arguments that several commands share, and what their texts stand for."""

import re
from pathlib import Path
from typing import Annotated

import typer

from refscale_codec.errors import UsageError
from refscale_codec.picture import tiles

RefOption = Annotated[
    str | None, typer.Option("--ref", metavar="PICTURE", help="Older picture of the place, of any size; - is stdin.")
]
OutputOption = Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where to write; - is stdout.")]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="FILE", help="A .safetensors file instead of the one that ships.", readable=False
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress and no summary on stderr.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable result on stdout.")]
TileOption = Annotated[
    int | None,
    typer.Option("--tile", help="Code in tiles of at most so many pixels a side, 512 by default; a multiple of 16."),
]
MemoryOption = Annotated[
    str | None,
    typer.Option("--max-memory", metavar="SIZE", help="Choose the tile to stay below, such as 1.5G or 800M."),
]
FormatOption = Annotated[
    str | None, typer.Option("--format", help="png, webp or tiff; by default what the suffix says, png on stdout.")
]
FileArgument = Annotated[str, typer.Argument(metavar="FILE.rsc", help="A file that encode wrote; - is stdin.")]


def tile_side(tile: int | None, memory: str | None, height: int, width: int, depth: int) -> int:
    """Return the side of tiles that --tile or --max-memory ask for; UsageError for both.

    `depth` is the bytes of a pixel, see `tiles.largest_within`.
    """
    if memory is None:
        return tiles.TILE if tile is None else tile
    if tile is not None:
        raise UsageError("--tile would have no effect: it follows from --max-memory")
    size = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG])(?:i?B)?", memory, re.IGNORECASE)
    if size is None:
        raise UsageError(f"--max-memory must be a number with K, M or G, such as 1.5G, not {memory!r}")
    allowed = int(float(size[1]) * 1024 ** (1 + "KMG".index(size[2].upper())))
    return tiles.largest_within(allowed, height, width, depth)


def window_of(text: str) -> tiles.Box:
    """Return the box that x,y,w,h stand for; UsageError if they are no window."""
    numbers = re.fullmatch(r"(\d+),(\d+),(\d+),(\d+)", text.replace(" ", ""))
    left, top, width, height = map(int, numbers.groups()) if numbers else (0, 0, 0, 0)
    if not width or not height:
        raise UsageError(f"--window must be x,y,w,h in pixels, such as 1024,0,512,512, not {text!r}")
    return tiles.Box(top, left, top + height, left + width)


def range_of(text: str) -> tuple[int, int]:
    """Return the lowest and the highest value that low,high stand for; UsageError if they are no range."""
    numbers = re.fullmatch(r"(-?\d+),(-?\d+)", text.replace(" ", ""))
    if not numbers:
        raise UsageError(f"--range must be low,high, such as 0,10000, not {text!r}")
    return int(numbers[1]), int(numbers[2])
