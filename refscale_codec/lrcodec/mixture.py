"""Gaussian mixtures over integers, by integers alone: the distributions of the GMM codec's latents.

Each latent has a mixture of `COMPONENTS` normal distributions (Cheng et al., arXiv 2001.01568, Eq. 8), whose parameters
are integers: scale indices, and means and logits in sixteenths. Cumulative frequencies are sums of products of table
entries and integer weights, all below 2^53, so every machine codes and decodes alike. The tables travel with the
weights; they are never computed again.

A latent is coded inside a window around its mixture's mean, as wide as the mixture. One outside is escaped: its
distance follows in exponential Golomb form.
"""

import math
from typing import NamedTuple

import constriction
import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError

Integers = NDArray[np.int64]

COMPONENTS = 3
SCALES = 64
RATIO = 0.101  # ln of the ratio of neighbouring standard deviations
STEPS = 16  # of a mean and of a logit, in a whole one
WINDOWS = (3, 7, 15, 31, 63, 127)
LARGEST = 2047  # magnitude of a latent

_REACH = 128 * STEPS  # steps from a mean beyond which a normal distribution has no mass
_ONE = 1 << 16  # frequencies add up to that
_WEIGHTS = 1 << 12  # mixture weights add up to that
_FAR = 8 * STEPS  # how far below the largest a logit may lie before it counts as that far
_HEAVY = _WEIGHTS // 32  # weight from which a component has a say in the window
_MOST = 32_680  # mass on one side of a mean, of _ONE / 2, that the window holds: 3 standard deviations
_BITS = constriction.stream.model.Uniform(16)
_CATEGORICAL = constriction.stream.model.Categorical(perfect=False)


class Tables(NamedTuple):
    """Integers that every machine must have alike."""

    normal: Integers  # [SCALES, _REACH] 2^16 times a normal distribution's mass from its mean up to 0, 1, 2 ... steps
    exponential: Integers  # [_FAR + 1] 2^16 exp(-x) for x of 0, 1, 2 ... steps


class Mixture(NamedTuple):
    """Parameters of n latents, [COMPONENTS, n] each."""

    scale: Integers  # index in 0 .. SCALES - 1
    mean: Integers  # in steps, within LARGEST wholes
    logit: Integers  # in steps


def deviation(index: float) -> float:
    """Return the standard deviation that a scale index stands for: 0.11 to 64."""
    return 0.11 * math.exp(RATIO * index)


def make_tables() -> Tables:
    """Compute the tables, for a new weights file."""
    ends = np.arange(_REACH) / STEPS
    normal = [[math.erf(x / (deviation(i) * math.sqrt(2))) / 2 for x in ends] for i in range(SCALES)]
    exponential = np.exp(-np.arange(_FAR + 1) / STEPS)
    return Tables(*(np.rint(_ONE * np.array(table)).astype(np.int64) for table in (normal, exponential)))


class _Plan(NamedTuple):
    """How n latents are coded."""

    weight: Integers  # [COMPONENTS, n], adding up to _WEIGHTS
    middle: Integers  # [n] whole numbers nearest to the mixtures' means
    window: Integers  # [n] one of WINDOWS


def _weights(logit: Integers, tables: Tables) -> Integers:
    share = tables.exponential[np.minimum(logit.max(axis=0) - logit, _FAR)]
    weight = share * _WEIGHTS // share.sum(axis=0)
    weight[share.argmax(axis=0), np.arange(share.shape[1])] += _WEIGHTS - weight.sum(axis=0)
    return np.asarray(weight)


def plan(mixture: Mixture, tables: Tables) -> _Plan:
    """Return how latents with these mixtures are coded."""
    weight = _weights(mixture.logit, tables)
    total = (weight * mixture.mean).sum(axis=0)
    middle = (2 * total + _WEIGHTS * STEPS) // (2 * _WEIGHTS * STEPS)
    wide = (tables.normal < _MOST).sum(axis=1)  # [SCALES] steps
    reach = np.where(weight < _HEAVY, 0, abs(mixture.mean - STEPS * middle) + wide[mixture.scale]).max(axis=0)
    place = np.searchsorted(STEPS * (np.array(WINDOWS[:-1]) // 2), reach)
    return _Plan(weight, middle, np.array(WINDOWS)[place])


def cumulative(mixture: Mixture, weight: Integers, middle: Integers, window: int, tables: Tables) -> Integers:
    """Return cumulative frequencies [n, window + 2] from 0 to 2^16, of the values around `middle` and of an escape."""
    start = middle - window // 2
    edges = STEPS * (start[:, None] + np.arange(window + 1)) - STEPS // 2  # [n, window + 1]
    mass = np.zeros(edges.shape, np.int64)
    for k in range(COMPONENTS):
        beyond = edges - mixture.mean[k][:, None]
        half = tables.normal[mixture.scale[k][:, None], np.minimum(abs(beyond), _REACH - 1)]
        mass += weight[k][:, None] * np.where(beyond < 0, -half, half)
    # each value of the window and the escape get a frequency of at least 1
    inside = ((mass - mass[:, :1]) * (_ONE - window - 1) // (_ONE * _WEIGHTS)) + np.arange(window + 1)
    return np.append(inside, np.full((len(inside), 1), _ONE), axis=1)


class Part(NamedTuple):
    """Those of n latents whose window is the same."""

    window: int
    at: Integers  # [m] rising, of 0 .. n - 1
    middle: Integers  # [m]
    probabilities: NDArray[np.float64]  # [m, window + 1]


def parts(mixture: Mixture, tables: Tables) -> list[Part]:
    """Return latents with these mixtures as they are coded, by rising windows."""
    weight, middle, windows = plan(mixture, tables)
    found = []
    for window in WINDOWS:
        at = np.flatnonzero(windows == window)
        if at.size:
            chosen = Mixture(*(parameter[:, at] for parameter in mixture))
            edges = cumulative(chosen, weight[:, at], middle[at], window, tables)
            found.append(Part(window, at, middle[at], np.diff(edges) / _ONE))
    return found


def encode(
    coder: constriction.stream.queue.RangeEncoder, values: Integers, laid_out: list[Part], first: int, last: int
) -> None:
    """Append the latents `first` to `last` - 1 of [n], each within `LARGEST`, to a coder."""
    for window, at, middle, probabilities in laid_out:
        start, end = np.searchsorted(at, (first, last))
        if start == end:
            continue
        off = values[at[start:end]] - middle[start:end]
        within = abs(off) <= window // 2
        symbols = np.where(within, off + window // 2, window)
        coder.encode(symbols.astype(np.int32), _CATEGORICAL, probabilities[start:end])
        for far in off[~within]:
            number = int(2 * (abs(far) - window // 2) - (far > 0))  # from 1, positive and negative in turn
            bits = number.bit_length() - 1
            coder.encode(bits, _BITS)
            if bits:
                coder.encode(number - (1 << bits), constriction.stream.model.Uniform(1 << bits))


def decode(coder: constriction.stream.queue.RangeDecoder, laid_out: list[Part]) -> Integers:
    """Return the next latents [n] of a coder.

    Raises:
        ContainerError: one of them is out of range.
    """
    values = np.zeros(sum(len(part.at) for part in laid_out), np.int64)
    for window, at, middle, probabilities in laid_out:
        off = coder.decode(_CATEGORICAL, probabilities).astype(np.int64) - window // 2
        for i in np.flatnonzero(off > window // 2):
            bits = int(coder.decode(_BITS))
            number = (1 << bits) + (int(coder.decode(constriction.stream.model.Uniform(1 << bits))) if bits else 0)
            off[i] = ((number + 1) // 2 + window // 2) * (1 if number % 2 else -1)
        values[at] = middle + off
    if abs(values).max(initial=0) > LARGEST:
        raise ContainerError("the low-res payload is damaged: a latent is out of range")
    return values
