"""Gaussian mixtures over integers, by integer arithmetic: the distributions of the GMM codec's latents.

Each latent has a mixture of `COMPONENTS` normal distributions (Cheng et al., arXiv 2001.01568, Eq. 8), whose parameters
are integers: scale indices, and means and logits in sixteenths. Cumulative frequencies are sums of products of table
entries and integer weights, all below 2^53, so every machine gets the same. The tables are stored with the weights,
not computed again.

A latent is coded within a window around its mixture's mean, as wide as the mixture. One outside is escaped: its
distance from the window follows as an integer of any size.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.rangecoder import Decoder, Encoder

Integers = NDArray[np.int64]

COMPONENTS = 3
SCALES = 64
RATIO = 0.101  # ln of the ratio of neighbouring standard deviations
STEPS = 16  # of a mean and of a logit, in a whole one
WINDOWS = (3, 7, 15, 31, 63, 127)
LARGEST = 2047  # magnitude of a latent

_REACH = 128 * STEPS  # steps from a mean beyond which a normal distribution has no mass
_ONE = 1 << 16  # sum of frequencies
_WEIGHTS = 1 << 12  # sum of mixture weights
_FAR = 8 * STEPS  # largest difference of a logit from the largest one; more are clipped
_HEAVY = _WEIGHTS // 32  # weight from which a component counts for the window
_MOST = 32_680  # mass on one side of a mean, of _ONE / 2, that the window holds: 3 standard deviations
_BELOW = _REACH + STEPS * WINDOWS[-1]  # steps below a mean from which no window reaches back to its mass
_SPAN = _BELOW + _REACH + STEPS * WINDOWS[-1] + 1  # steps from there to the last edge of a window that begins beyond it
_HALF_WINDOWS = np.array(WINDOWS) // 2


class Tables(NamedTuple):
    """Integer tables, equal on every machine."""

    normal: Integers  # [SCALES, _REACH] 2^16 times a normal distribution's mass from its mean up to 0, 1, 2 ... steps
    exponential: Integers  # [_FAR + 1] 2^16 exp(-x) for x of 0, 1, 2 ... steps

    def require_sound(self) -> None:
        """Raise a ValueError unless all mixtures have valid frequencies: masses rising up to a half, and shares."""
        rises = (np.diff(self.normal, axis=1, prepend=0) >= 0).all()
        if not rises or self.normal.max() > _ONE // 2:
            raise ValueError("the table of the normal distribution does not rise up to a half")
        if self.exponential[0] != _ONE or self.exponential.min() < 0 or self.exponential.max() > _ONE:
            raise ValueError("the table of the exponential is out of range")


TABLE_SHAPES = {"normal": (SCALES, _REACH), "exponential": (_FAR + 1,)}
"""Of `Tables`, by name."""


class Mixture(NamedTuple):
    """Parameters of n latents, [COMPONENTS, n] each."""

    scale: Integers  # index in 0 .. SCALES - 1
    mean: Integers  # in steps, within LARGEST wholes
    logit: Integers  # in steps


def deviation(index: float) -> float:
    """Return the standard deviation of a scale index: 0.11 to 64."""
    return 0.11 * math.exp(RATIO * index)


def make_tables() -> Tables:
    """Compute the tables, for a new weights file."""
    ends = np.arange(_REACH) / STEPS
    units = [deviation(i) * math.sqrt(2) for i in range(SCALES)]
    normal = [[math.erf(x / unit) / 2 for x in ends] for unit in units]
    exponential = np.exp(-np.arange(_FAR + 1) / STEPS)
    return Tables(*(np.rint(_ONE * np.array(table)).astype(np.int64) for table in (normal, exponential)))


class Lookup(NamedTuple):
    """The tables, arranged for lookups."""

    exponential: NDArray[np.float64]  # as in `Tables`
    mass: NDArray[np.int32]  # [SCALES * _SPAN] of `normal`, _BELOW steps below the mean and on, with a sign
    wide: Integers  # [SCALES] steps on one side of a mean that hold most of the mass
    window_index: NDArray[np.uint8]  # of a window in WINDOWS, by the steps on one side that it has to hold

    @classmethod
    def of(cls, tables: Tables) -> "Lookup":
        """Return the tables so arranged."""
        away = np.arange(_SPAN) - _BELOW
        half = tables.normal[:, np.minimum(abs(away), _REACH - 1)]
        holds = STEPS * (np.array(WINDOWS) // 2)
        window_index = np.searchsorted(holds[:-1], np.arange(holds[-2] + 2)).astype(np.uint8)
        wide = (tables.normal < _MOST).sum(axis=1)
        mass = np.where(away < 0, -half, half)
        return cls(tables.exponential.astype(np.float64), mass.astype(np.int32).ravel(), wide, window_index)


class WindowPlan(NamedTuple):
    """Weights and windows of n latents."""

    weight: NDArray[np.float64]  # [COMPONENTS, n] whole numbers, adding up to _WEIGHTS
    middle: Integers  # [n] whole numbers nearest to the mixtures' means
    window_index: NDArray[np.uint8]  # [n] of the window in WINDOWS


def _weights(logit: Integers, lookup: Lookup) -> NDArray[np.float64]:
    below = np.minimum(logit.max(axis=0) - logit, _FAR)
    share = lookup.exponential.take(below)
    weight = np.floor(share * _WEIGHTS / share.sum(axis=0))  # exact: no quotient is so close to a whole number
    largest = below == 0
    largest[1] &= ~largest[0]
    largest[2] = ~(largest[0] | largest[1])  # now the first of them only
    return np.asarray(weight + largest * (_WEIGHTS - weight.sum(axis=0)))


def plan(mixture: Mixture, lookup: Lookup) -> WindowPlan:
    """Return weights and windows of latents with these mixtures."""
    weight = _weights(mixture.logit, lookup)
    total = (weight * mixture.mean).sum(axis=0)
    middle = np.floor(total / (_WEIGHTS * STEPS) + 0.5).astype(np.int64)
    reach = abs(mixture.mean - STEPS * middle) + lookup.wide.take(mixture.scale)
    widest = (reach * (weight >= _HEAVY)).max(axis=0)
    return WindowPlan(weight, middle, lookup.window_index.take(np.minimum(widest, len(lookup.window_index) - 1)))


class Part(NamedTuple):
    """Those of n latents that have the same window."""

    window: int
    at: Integers  # [m] rising, of 0 .. n - 1
    middle: Integers  # [m]
    probabilities: NDArray[np.float64]  # [m, window + 1] of the values around the middle, and of an escape


def parts(mixture: Mixture, lookup: Lookup) -> list[Part]:
    """Return latents with these mixtures as they are coded, by rising windows."""
    weight, middle, window_index = plan(mixture, lookup)
    half = _HALF_WINDOWS.take(window_index)
    first = STEPS * (middle - half) - STEPS // 2 - mixture.mean  # edge of the window, in steps from the mean
    first = np.minimum(np.maximum(first, -_BELOW), _REACH) + (mixture.scale * _SPAN + _BELOW)  # its index in `mass`
    order = window_index.argsort(kind="stable")
    first, share, middle = first.take(order, axis=1), weight.astype(np.int32).take(order, axis=1), middle.take(order)
    ends = np.bincount(window_index, minlength=len(WINDOWS)).cumsum().tolist()
    parts = []
    for window, start, end in zip(WINDOWS, [0, *ends], ends, strict=False):
        if start < end:
            these = slice(start, end)
            probabilities = _probabilities(first[:, these], share[:, these], window, lookup)
            parts.append(Part(window, order[these], middle[these], probabilities))
    return parts


def _probabilities(first: Integers, weight: NDArray[np.int32], window: int, lookup: Lookup) -> NDArray[np.float64]:
    """Return the probabilities of `Part`, whole 65,536ths, of latents whose windows begin at these places of `mass`.

    Edges are the rows of the intermediate arrays, since numpy is slow with many short rows.
    """
    edges = STEPS * np.arange(window + 1)
    mass = (lookup.mass.take(first + edges[:, None, None]) * weight).sum(axis=1, dtype=np.int32)  # within 2^28
    mass -= mass[0].copy()
    inside = np.floor(mass * ((_ONE - window - 1) / (_ONE * _WEIGHTS)))  # exact
    probabilities = np.empty((first.shape[1], window + 1))
    # each value of the window and the escape get a frequency of at least 1
    np.subtract(inside[1:], inside[:-1] - 1, out=probabilities.T[:-1])
    np.subtract(_ONE - window, inside[-1], out=probabilities.T[-1])
    probabilities /= _ONE
    return probabilities


class CodedPart(NamedTuple):
    """The values of a `Part`."""

    at: Integers  # [m] rising
    symbols: NDArray[np.int32]  # [m] places in the window, `window` for an escape
    beyond: Integers  # [m] of an escape, by how much it is above the window or, negative, below; 0 inside
    probabilities: NDArray[np.float64]  # [m, window + 1]


def coded(values: Integers, laid_out: list[Part]) -> list[CodedPart]:
    """Return the latents [n], each within `LARGEST`, as they are coded."""
    parts = []
    for window, at, middle, probabilities in laid_out:
        off = values.take(at) - middle
        beyond = off - off.clip(-(window // 2), window // 2)
        symbols = np.where(beyond == 0, off + window // 2, window)
        parts.append(CodedPart(at, symbols.astype(np.int32), beyond, probabilities))
    return parts


def encode(coder: Encoder, laid_out: list[CodedPart], first: int, last: int) -> None:
    """Append the latents `first` to `last` - 1 of [n] to a coder."""
    for at, symbols, beyond, probabilities in laid_out:
        start, end = at.searchsorted((first, last))
        if start == end:
            continue
        coder.symbols(probabilities[start:end], symbols[start:end])
        for far in beyond[start:end][beyond[start:end] != 0]:
            coder.signed(int(far - (far > 0)))


def decode(coder: Decoder, laid_out: list[Part]) -> Integers:
    """Return the next latents [n] of a coder.

    Raises:
        ContainerError: one of them is out of range.
    """
    values = np.zeros(sum(len(part.at) for part in laid_out), np.int64)
    for window, at, middle, probabilities in laid_out:
        off = coder.symbols(probabilities).astype(np.int64) - window // 2
        for i in (off > window // 2).nonzero()[0]:
            far = coder.signed()
            off[i] = far + 1 + window // 2 if far >= 0 else far - window // 2
        values[at] = middle + off
    if abs(values).max(initial=0) > LARGEST:
        raise ContainerError("the low-res payload is damaged: a latent is out of range")
    return values
