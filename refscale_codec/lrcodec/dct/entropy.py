"""Lossless entropy coding of the low-res picture's quantised DCT coefficients, under a fixed context model.

A coefficient is its quantisation index times its step size. They are coded by the groups of a scan, with contexts
(`scan`). One weighted sum of a group's context predicts each coefficient, another its expected error; both select one
of a few hundred distributions for the range coder.

All arithmetic is exact: integers, or floats that hold integers, below 2^24 in single precision and 2^53 in double. So a
file decodes the same on every machine.
Weights and distributions are in `tables.npz`, fitted by `benchmarks/fit_entropy_model.py`; they are part of the format.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.lrcodec.dct import coefficients
from refscale_codec.lrcodec.dct.coefficients import Indices
from refscale_codec.lrcodec.dct.scan import ONE, Exact, Group, Integers, Short, scan
from refscale_codec.lrcodec.interface import Floats
from refscale_codec.rangecoder import Decoder, Encoder

BINS = 48  # classes of the expected error, four to an octave
FRACTIONS = 4  # classes of the distance between a prediction and its nearest index, 0 to 1/2
ESCAPE = 16  # errors of this magnitude or more are escaped: the excess follows
_LOWEST = 7.125  # octaves below one step where the second class of expected errors begins
_ROOT = 4096  # number of values of the first block's DC indices, coded uniformly

_AT_ONCE = 1024  # symbols that are passed to the range coder at once
_LEAST = 2.0**-17  # probability that a length is taken of


class EntropyTables(NamedTuple):
    """The content of `tables.npz`: integers."""

    mean: dict[str, Exact]  # by key, weights [j] of the prediction
    spread: dict[str, Exact]  # by key, weights [j + i] of the expected error, none negative
    frequency: Integers  # [4, BINS * FRACTIONS, 2 * ESCAPE + 1], each row adds up to 2^16


@cache
def shipped() -> EntropyTables:
    """Return the model of the format."""
    with np.load(Path(__file__).with_name("tables.npz")) as file:
        sizes = zip(file["keys"].tolist(), file["signed"].tolist(), file["plain"].tolist(), strict=True)
        mean, spread = file["mean"].astype(np.float64), file["spread"].astype(np.float64)
        means, spreads = {}, {}
        for key, signed, plain in sizes:
            means[key], mean = mean[:signed], mean[signed:]
            spreads[key], spread = spread[: signed + plain], spread[signed + plain :]
        return EntropyTables(means, spreads, file["frequency"].astype(np.int64))


@cache
def _classes() -> Integers:
    """Return the class of each expected error, in steps times ONE; larger ones have the class of the last one."""
    starts = [round(ONE * 2 ** (i / 4 - _LOWEST)) for i in range(BINS - 1)]
    return np.searchsorted(starts, np.arange(starts[-1] + 1), side="right")


class Context(NamedTuple):
    """The prediction of each coefficient and its distribution."""

    nearest: Integers  # [n] index nearest to the prediction
    sign: Integers  # [n] 1 or -1: errors are mirrored so that the prediction is above the nearest index
    row: Integers  # [n] of `EntropyTables.frequency`


def context(group: Group, mean: Exact, spread: Exact) -> Context:
    """Return the contexts of a group under its weights."""
    one = ONE * group.step
    sums = group.base + _weighed(mean, group, group.signed)
    predicted = group.chosen(sums).astype(np.int64)
    nearest = (2 * predicted + one) // (2 * one)
    beyond = predicted - nearest * one
    of_step, of_constant = spread[-2:]
    error = _weighed(spread[:-2], group, group.sizes) + of_step * group.step + of_constant * 16
    classes = _classes()
    size = classes[np.minimum(group.chosen(error).astype(np.int64) // group.step, len(classes) - 1)]
    fraction = np.minimum(2 * FRACTIONS * abs(beyond) // one, FRACTIONS - 1)
    return Context(nearest, np.where(beyond < 0, -1, 1), size * FRACTIONS + fraction)


def _weighed(weights: Exact, group: Group, inputs: list[Exact] | list[Short]) -> Exact:
    """Return the weighted sum [m] of inputs [j, m], in single precision if no partial sum can exceed 2^24."""
    short = abs(weights).sum() * group.largest < 1 << 24
    weights = weights.astype(np.float32) if short else weights
    total, at = np.zeros(group.base.size, weights.dtype), 0
    for piece in inputs:
        total += weights[at : at + len(piece)] @ piece
        at += len(piece)
    return total.astype(np.float64)


def encode(indices: Indices, quality: int) -> bytes:
    """Return indices [rows, columns, 3, 64] of a quality of 1..100, each within `coefficients.LARGEST`, as bytes."""
    payload, _ = quantise_and_encode(indices, quality, 0.0)
    return payload


def quantise_and_encode(exact: Floats | Indices, quality: int, bit_worth: float) -> tuple[bytes, Indices]:
    """Choose the indices of coefficients and return them as bytes, and as they are.

    Rate-distortion optimised quantisation: of each AC coefficient, in the order of the scan, the nearest index or the
    next one towards zero is taken, whichever has the less squared error plus worth of its bits. Bits are counted under
    the model, in the context of the indices chosen before.

    Args:
        exact: coefficients in quantiser steps, [rows, columns, 3, 64], each within `coefficients.LARGEST`.
        quality: 1..100.
        bit_worth: in quantiser steps squared, 0 or more; 0 takes the nearest index always.
    """
    model, coder = shipped(), Encoder()
    probability = model.frequency / 65536
    lengths = -np.log2(np.maximum(probability, _LEAST))
    rounded = np.rint(exact).astype(np.int16)
    used = (rounded != 0).any(axis=(0, 1))  # [3, 64]
    highest = [int(np.flatnonzero(of).max(initial=0)) for of in used]
    first = rounded[0, 0, :, 0].astype(np.int64)
    for index in first:
        coder.uniform(_ROOT, int(index) + _ROOT // 2)

    def code(group: Group) -> Integers:
        ys, xs, component, k = group.positions
        values = rounded[ys, xs, component, k].ravel().astype(np.int64)
        contexts = context(group, model.mean[group.key], model.spread[group.key])

        def symbols_of(values: Integers) -> tuple[Integers, NDArray[np.int32]]:
            off = (values - contexts.nearest) * contexts.sign
            return off, (np.clip(off, -ESCAPE, ESCAPE) + ESCAPE).astype(np.int32)

        off, symbols = symbols_of(values)
        if bit_worth and k:
            wanted, lower = exact[ys, xs, component, k].ravel(), values - np.sign(values)
            cost, cost_lower = (
                (wanted - tried) ** 2 + bit_worth * lengths[group.kind][contexts.row, symbols_of(tried)[1]]
                for tried in (values, lower)
            )
            values = np.where(cost_lower < cost, lower, values)
            off, symbols = symbols_of(values)
        for part in _parts(len(values)):
            coder.symbols(probability[group.kind].take(contexts.row[part], 0), symbols[part])
        for excess in abs(off[abs(off) >= ESCAPE]) - ESCAPE:
            coder.unsigned(int(excess))
        return values

    rows, columns = rounded.shape[:2]
    indices = scan(rows, columns, coefficients.steps(quality), first, highest, code)
    return bytes(highest) + coder.payload(), indices


def _parts(n: int) -> Iterator[slice]:
    """Yield slices of a group, so that their distributions fit into the processor's cache."""
    return (slice(start, start + _AT_ONCE) for start in range(0, n, _AT_ONCE))


def decode(payload: bytes, height: int, width: int, quality: int) -> Indices:
    """Return the indices in a payload, of a picture [height, width].

    Raises:
        ContainerError: not the payload of a picture of this size and quality.
    """
    model, coder, highest = shipped(), Decoder(payload[3:], "the low-res payload"), list(payload[:3])
    if max(highest) > 63:
        raise ContainerError("the low-res payload is damaged: a frequency is out of range")
    probability = model.frequency / 65536

    def in_range(values: Integers) -> Integers:
        if abs(values).max(initial=0) > coefficients.LARGEST:
            raise ContainerError("the low-res payload is damaged: a coefficient is out of range")
        return values

    def code(group: Group) -> Integers:
        contexts = context(group, model.mean[group.key], model.spread[group.key])
        off = np.empty_like(contexts.nearest)
        for part in _parts(len(off)):
            off[part] = coder.symbols(probability[group.kind].take(contexts.row[part], 0))
        off -= ESCAPE
        for i in np.flatnonzero(abs(off) == ESCAPE):
            off[i] = np.sign(off[i]) * (ESCAPE + coder.unsigned())
        values: Integers = contexts.nearest + contexts.sign * off
        return in_range(values)

    first = in_range(np.array([coder.uniform(_ROOT) - _ROOT // 2 for _ in range(3)]))
    indices = scan(*coefficients.grid(height, width), coefficients.steps(quality), first, highest, code)
    coder.require_end()
    return indices
