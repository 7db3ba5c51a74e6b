"""Encode at a quality, or to a size or a PSNR: a search over `encoder.Plan.code`.

The reference is registered and its use decided once; each try repeats the net, the low-res codec and, for a PSNR, the
inverse pass. ln(bytes) and PSNR are almost linear in the logarithm of JPEG's step size, so the secant through the two
best tries soon leads to the quality next above the target. One step of quality exceeds the tolerance in bytes, so the
excess is removed by more thrift at that quality (`benchmarks/targets.py` measures its cost). Of all tries only the best
one stays in memory, and one low-res picture, to be coded with another thrift.

With a low-res codec that knows no thrift, such as the learned one, the search ends at the best integer quality.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from refscale_codec.codec import encoder
from refscale_codec.codec.encoder import Coded, EncodeOptions, Plan, References
from refscale_codec.errors import TargetError
from refscale_codec.lrcodec.dct.coefficients import step_percent
from refscale_codec.lrcodec.interface import USUAL
from refscale_codec.model import Model
from refscale_codec.picture.coded import bands
from refscale_codec.picture.image import Image

TRIES = 6
"""Most files that are tried."""
CLOSE = 0.02
"""A file smaller than the target by no more than this share of it ends the search."""
CLOSE_DB = 0.1
"""A PSNR above the target by no more than this, in dB, ends the search."""

_TYPICAL = 75, 0.4, 32.0  # quality, bits per pixel and dB of a typical picture
_ABSCISSA = [-math.log(max(step_percent(max(q, 0.5)), 1)) for q in range(101)]  # by quality: rises
_MOST = 20.0  # thrift
_SLOPE_OF_THRIFT = 0.06  # of ln(bytes), about; falling
_NEAR = 0.06  # on the abscissa: what thrift may remove even if it is more than one step
_SLOPES = {"bytes": 1.0, "psnr": 3.5}  # of the value over the abscissa, about


@dataclass(frozen=True)
class Target:
    """The largest size of a whole file in bytes, or the lowest PSNR in dB, see `bands.psnr`."""

    measure: Literal["bytes", "psnr"]
    value: float


class Reached(NamedTuple):
    """A file, the best of those tried, and what it is like."""

    data: bytes
    quality: int
    psnr: float | None  # dB, of what the file decodes to; None if it was not decoded
    tries: int
    max_error: float | None = None  # of a sample, in its units, where a bound on it is proved


class _Try(NamedTuple):
    quality: int
    thrift: float
    value: float  # ln(bytes) or dB
    coded: Coded | None  # of the best one only


def encode(
    image: Image,
    reference: References,
    model: Model,
    target: Target | None,
    options: EncodeOptions | None = None,
    *,
    step: Callable[[str], None] = lambda text: None,
) -> Reached:
    """Return the largest file found that is not above a target's bytes, or the one that reaches its PSNR by the least.

    Without a target it is the file of the options' quality.

    The search ends within 2 % of the bytes or 0.1 dB of the PSNR, and after `TRIES` files.

    Args:
        image: the picture.
        reference: as for `encoder.encode`.
        model: likewise.
        target: what to reach; None for nothing.
        options: likewise; with a target the quality is the search's.
        step: called with a line on each try.

    Raises:
        TargetError: no quality gives it.
    """
    options = options or EncodeOptions()
    if target is not None:
        options = replace(options, quality=_start(target, image.height * image.width))
    plan = encoder.prepare(image, reference, model, options)
    if target is not None:
        return reach(plan, image, target, step=step)
    coded = plan.code(options.quality)
    return Reached(coded.file(), coded.quality, coded.known_psnr(image), 1)


def reach(plan: Plan, image: Image, target: Target, *, step: Callable[[str], None] = lambda text: None) -> Reached:
    """Search a plan for a target, from the plan's quality on; see `encode`.

    Args:
        plan: of `encoder.prepare`.
        image: the picture that it is of.
        target: what to reach.
        step: called with a line on each try.

    Raises:
        TargetError: no quality gives it.
    """

    def tried(quality: int, thrift: float) -> _Try:
        coded = plan.code(quality, thrift)
        if target.measure == "bytes":
            size = coded.size()
            step(f"quality {quality}: {size} bytes")
            return _Try(quality, thrift, math.log(size), coded)
        psnr = bands.psnr(image, coded.picture(), plan.described)
        step(f"quality {quality}: {psnr:.2f} dB")
        return _Try(quality, thrift, psnr, coded)

    best, tries = _search(tried, plan.forget, target, plan.options.quality, finer=plan.model.low_res.has_thrift)
    assert best.coded is not None
    data = best.coded.file()
    psnr = best.value if target.measure == "psnr" else best.coded.known_psnr(image)
    return Reached(data, best.quality, psnr, tries)


def _start(target: Target, pixels: int) -> int:
    """Return the quality at which a usual picture would be near the target."""
    quality, bpp, psnr = _TYPICAL
    if target.measure == "bytes":
        at = _ABSCISSA[quality] + math.log(8 * max(target.value, 1) / (bpp * pixels)) / _SLOPES["bytes"]
    else:
        at = _ABSCISSA[quality] + (target.value - psnr) / _SLOPES["psnr"]
    return min(max(_quality_at(at), 5), 97)


def _quality_at(at: float) -> int:
    """Return the lowest quality whose abscissa is not below this one, or 100."""
    return next((quality for quality in range(1, 101) if _ABSCISSA[quality] >= at), 100)


def _search(
    tried: Callable[[int, float], _Try],
    forget: Callable[[int | None], None],
    target: Target,
    start: int,
    finer: bool,
) -> tuple[_Try, int]:
    """Return the best try and how many there were; see `encode` for what is raised.

    Args:
        tried: codes at a quality and a thrift.
        forget: called with the only quality that may be tried once more, with more thrift.
        target: what to reach.
        start: first quality.
        finer: whether more thrift is to be tried.
    """
    in_bytes = target.measure == "bytes"
    wanted = math.log(max(target.value, 1)) if in_bytes else target.value
    low, high = (wanted + math.log(1 - CLOSE), wanted) if in_bytes else (wanted, wanted + CLOSE_DB)
    tries: list[_Try] = []
    best: _Try | None = None
    setting: tuple[int, float] | None = start, USUAL
    while setting is not None and len(tries) < TRIES and setting not in [(one.quality, one.thrift) for one in tries]:
        last = tried(*setting)
        tries.append(last._replace(coded=None))
        if low <= last.value <= high:
            return last, len(tries)
        if (last.value <= high if in_bytes else last.value >= low) and (
            best is None or (last.value > best.value if in_bytes else last.value < best.value)
        ):
            best = last
        del last
        aim, slope = (low + high) / 2, _SLOPES[target.measure]
        forget(_bracket(tries, aim)[1])
        setting = _next(tries, aim, slope, finer)
        if setting is not None and best is None and len(tries) == TRIES - 2:  # better a bit off than missed
            setting = _next(tries, aim - 0.2 * slope if in_bytes else aim + 0.2 * slope, slope, False)
        elif setting is not None and best is None and len(tries) == TRIES - 1:
            setting = 1 if in_bytes else 100, USUAL
    if best is None:
        raise TargetError(_out_of_reach(tries[-1], target))
    return best, len(tries)


def _bracket(tries: list[_Try], aim: float) -> tuple[int, int]:
    """Return the highest quality below an aim and the lowest above it, among those tried; 0 and 101 for none."""
    whole = [one for one in tries if one.thrift == USUAL]
    lowest = max((one.quality for one in whole if one.value < aim), default=0)
    return lowest, min((one.quality for one in whole if one.value > aim), default=101)


def _next(tries: list[_Try], aim: float, slope: float, finer: bool) -> tuple[int, float] | None:
    """Return the quality and the thrift to try next; None if nothing is left."""
    whole = [one for one in tries if one.thrift == USUAL]
    lowest, highest = _bracket(tries, aim)
    if finer and 1 < highest <= 100:
        step = _ABSCISSA[highest] - _ABSCISSA[highest - 1]
        points = [(-one.thrift, one.value) for one in tries if one.quality == highest]
        if highest - 1 == lowest or points[0][1] - slope * max(step, _NEAR) < aim:
            over, under = ([p for p in points if (p[1] > aim) is side] for side in (True, False))
            if under:
                points = [min(over, key=lambda p: p[1]), max(under, key=lambda p: p[1])]
            thrift = -_crossing(points, aim, slope * _SLOPE_OF_THRIFT, 5)
            if thrift <= _MOST:
                return highest, max(thrift, USUAL + 1e-3)
    quality = _quality_at(_crossing([(_ABSCISSA[one.quality], one.value) for one in whole], aim, slope, 2))
    quality = min(max(quality, lowest + 1), highest - 1, 100)
    return (quality, USUAL) if lowest < quality < highest else None


def _crossing(points: list[tuple[float, float]], aim: float, slope: float, trust: float) -> float:
    """Return where the line through the two points (x, value) nearest the aim meets it.

    `slope` is about that of the line, within a factor of `trust`; it is taken for a single point. Where several points
    lie on one side of the aim only, the way from the nearest is made longer, to get to the other side soon.
    """
    (x, value), *others = sorted(points, key=lambda point: abs(point[1] - aim))
    if others and others[0][0] != x:
        secant = (others[0][1] - value) / (others[0][0] - x)
        slope = min(max(secant, slope / trust), slope * trust)
    one_sided = len({point[1] > aim for point in points}) == 1
    return x + (aim - value) / slope * (0.7 + 0.3 * len(points) if one_sided else 1)


def _out_of_reach(one: _Try, target: Target) -> str:
    """Say what the lowest or the highest quality gives."""
    if target.measure == "bytes":
        wanted, reached = f"{target.value:.0f} bytes", f"{math.exp(one.value):.0f} bytes"
    else:
        wanted, reached = f"{target.value:.2f} dB", f"{one.value:.2f} dB"
    return f"{wanted} cannot be reached: quality {one.quality} gives {reached}"
