"""How coders look in plots: one table of colours by coder name, so that a coder has one colour everywhere.

Refscale is thick and warm, everything else thin and neither; dots mark coders that use the reference, and dashes those
among them that are not refscale. A codec with and without reference has two tones of one hue.
"""

from collections.abc import Iterable
from itertools import cycle
from typing import NamedTuple

from refscale_codec.study.results import CoderInfo

FEW = ("jpeg", "avif", "x265-reference")
"""The codecs that most people know or would use, and what they can do best with the older picture."""

COLOURS = {
    "jpeg": "#6B6B6B",
    "jpeg-420": "#8F8F8F",
    "jpeg2000": "#8C6D46",
    "webp": "#C2559B",
    "avif": "#0072B2",
    "jxl": "#3B2C85",
    "x265": "#5B9E2D",
    "x265-reference": "#1B5E20",
    "av1": "#4A9BD9",
    "av1-reference": "#174A7C",
    "bicubic-x2": "#2A9D8F",
    "bicubic-x4": "#00796B",
    "refscale-x2": "#D55E00",
    "refscale-x2-alone": "#C4703A",
    "refscale-x2-unrelated": "#A67C00",
    "refscale-x2-gmm": "#B01030",
    "refscale-x2-gmm-alone": "#D9607A",
    "refscale-x2-gmm-unrelated": "#7A1F5C",
    "refscale-x4": "#C08A00",
    "refscale-x4-alone": "#B58B4C",
    "refscale-x4-unrelated": "#8A5A00",
}
_OTHER_WEIGHTS = ("#E31A1C", "#8C2D04", "#FF5A36", "#9C4A1A", "#C2410C", "#7F1D1D")
_OTHERS = ("#117733", "#332288", "#882255", "#44808A", "#000000")


class Style(NamedTuple):
    """How a coder's line looks."""

    colour: str
    width: float  # points
    dashes: tuple[float, ...]  # on, off, ... in line widths; empty is solid
    dots: bool  # at the points of the curve: uses the reference


def styles(coders: Iterable[CoderInfo]) -> dict[str, Style]:
    """Return how each coder is drawn, see the module's docstring; one that `COLOURS` lacks gets a colour in turn."""
    spare = {True: cycle(_OTHER_WEIGHTS), False: cycle(_OTHERS)}
    result = {}
    for coder in coders:
        colour = COLOURS.get(coder.name) or next(spare[coder.is_refscale])
        dashes = (5.0, 2.0) if coder.needs_reference and not coder.is_refscale else ()
        result[coder.name] = Style(colour, 2.8 if coder.is_refscale else 1.4, dashes, coder.needs_reference)
    return result


def few(coders: Iterable[CoderInfo]) -> tuple[str, ...]:
    """Return the coders to look at first: `FEW`, and refscale with its reference."""
    return tuple(coder.name for coder in coders if coder.name in FEW or coder.name == coder.weights)
