"""Latents of the GMM codec <-> bytes: lossless, and equal on every machine.

    z ──hyper──┐
    ref ───────┼─> fixed sums ──┐
    quality ───┘                ├─ parameters ──> mixture of each latent ──> range coder
    y, upper and left ─context──┤
    y, groups before ───────────┘

The hyper-latents z are coded first, each channel with its own frequencies. The latents y follow in wavefronts: a latent
depends on those up to two rows above and two columns to the left (a 5x5 mask), so all positions with the same x + 3 y
are coded at once. At each position the channels are coded in groups, low frequencies first, each conditioned on those
before it. All networks are integer arithmetic (`integers`).

After Minnen et al. (arXiv 1809.02736; groups: Minnen and Singh, arXiv 2007.08739) and Cheng et al. (arXiv 2001.01568),
except for the order.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refscale_codec.errors import ContainerError
from refscale_codec.lrcodec.gmm import mixture
from refscale_codec.lrcodec.gmm.integers import CLAMP, Dense, Layer
from refscale_codec.lrcodec.gmm.mixture import Integers, Lookup, Mixture, Part, Tables
from refscale_codec.rangecoder import Decoder, Encoder

TAPS = [(dy, dx) for dy in (-2, -1, 0) for dx in (-2, -1, 0, 1, 2) if (dy, dx) < (0, 0)]
"""Row and column offsets of the latents in a context."""

STRIDE = 8  # low-res pixels per latent and axis
HYPER = 2  # latents per hyper-latent and axis
Z_LARGEST = 15  # largest magnitude of a hyper-latent
_ONE = 1 << 16  # sum of frequencies
_TOGETHER = 256  # positions whose mixtures the encoder computes at once


@dataclass(frozen=True, eq=False)
class EntropyModel:
    """The integers of a weights file, for n channels of y and m of z."""

    hyper: list[Layer]  # z [m, h/2, w/2] -> [a, h, w]
    reference: list[Layer]  # low-res reference [3, 8h, 8w], 7 binary places, -> [r, h, w]
    context: Layer  # n channels of 12 neighbours, companded, 1x1 -> [c]
    slope: Layer  # of each channel alone, 12 neighbours, [n, 12, 1, 1] -> what is added to the means, in steps
    parameters: list[list[Layer]]  # by groups, 1x1: a + r + 2 for the quality + c + latents of the position that came
    # before, companded -> 9 for each latent of the group: scales, means, logits; components outermost
    frequency: Integers  # of z, [m, 2 Z_LARGEST + 1], each row adds up to 2^16
    quality: Integers  # [2, 101] the networks' inputs for the qualities 0..100, `FRACTION` places
    compand: Integers  # [LARGEST + 1] magnitudes companded, `FRACTION` places
    tables: Tables

    @property
    def channels(self) -> int:
        """The number n of channels."""
        return len(self.slope.weight)

    @property
    def groups(self) -> list[slice]:
        """The channels of each group."""
        ends = np.cumsum([0, *(len(layers[-1].bias) // (3 * mixture.COMPONENTS) for layers in self.parameters)])
        return [slice(int(a), int(b)) for a, b in zip(ends[:-1], ends[1:], strict=True)]

    def tensors(self) -> dict[str, Tensor]:
        """Return all integers by name, for a weights file; strides etc. follow from the architecture."""
        tensors = {name: torch.from_numpy(table).to(torch.int32) for name, table in self._tables().items()}
        for name, layer in self._layers().items():
            tensors[f"{name}.weight"] = layer.weight.to(torch.int16)
            tensors[f"{name}.bias"] = layer.bias.to(torch.int64)
            tensors[f"{name}.shift"] = layer.shift.to(torch.int16)
        return tensors

    def _tables(self) -> dict[str, Integers]:
        own = {"frequency": self.frequency, "quality": self.quality, "compand": self.compand}
        return own | self.tables._asdict()

    def _layers(self) -> dict[str, Layer]:
        lists = {"hyper": self.hyper, "reference": self.reference}
        lists |= {f"parameters.{g}": layers for g, layers in enumerate(self.parameters)}
        named = {f"{name}.{i}": layer for name, layers in lists.items() for i, layer in enumerate(layers)}
        return named | {"context": self.context, "slope": self.slope}

    @cached_property
    def matrices(self) -> "Matrices":
        """The networks in the form that wavefronts use."""
        channels, taps = self.channels, len(TAPS)
        weight = self.context.weight.reshape(-1, channels, taps).transpose(1, 2).reshape(-1, taps * channels, 1, 1)
        slope, slope_bias = self.slope.divided()
        firsts = [Dense.of(first) for first, *_ in self.parameters]
        shared = len(firsts[0].weight)  # inputs: the first group has no others
        return Matrices(
            context=Dense.of(self.context._replace(weight=weight)),
            slope=slope[..., 0, 0].T.numpy(),
            slope_bias=slope_bias.numpy(),
            shared=torch.cat([first.weight[:shared] for first in firsts], dim=1),
            shared_bias=torch.cat([first.bias for first in firsts]),
            parameters=[
                [first._replace(weight=first.weight[shared:]), *map(Dense.of, others)]
                for first, (_, *others) in zip(firsts, self.parameters, strict=True)
            ],
            compand=np.concatenate([-self.compand[:0:-1], self.compand]).astype(np.float64),
            lookup=Lookup.of(self.tables),
        )


class Matrices(NamedTuple):
    """The networks of a wavefront, all divided (`Layer.divided`), and its tables. A row of input is a position."""

    context: Dense  # its inputs by neighbours, then channels
    slope: NDArray[np.float64]  # [12, n]
    slope_bias: NDArray[np.float64]  # [n]
    shared: Tensor  # [a + r + 2 + c, _] first layers of all groups side by side, for the inputs that all have
    shared_bias: Tensor
    parameters: list[list[Dense]]  # by groups; the first layer for its other inputs, the latents of groups before
    compand: NDArray[np.float64]  # of latents from -LARGEST on
    lookup: Lookup


class Latents(NamedTuple):
    """The latents of a low-res picture."""

    y: Integers  # [n, h, w] within mixture.LARGEST
    z: Integers  # [m, ceil(h / HYPER), ceil(w / HYPER)] within Z_LARGEST


def features(
    model: EntropyModel, z: Integers, reference: Tensor, quality: int, height: int, width: int
) -> NDArray[np.float64]:
    """Return the inputs of the mixtures apart from y, [height, width, a + r + 2].

    Args:
        model: the integer networks.
        z: hyper-latents.
        reference: [3, 8 height, 8 width] integers within -128..127, zeros for none.
        quality: 1..100.
        height: of y.
        width: of y.
    """
    hyper = torch.from_numpy(z.astype(np.float64))[None]
    for layer in model.hyper:
        hyper = layer(hyper)
    reference = reference[None]
    for layer in model.reference:
        reference = layer(reference)
    coarseness = torch.from_numpy(model.quality[:, quality].astype(np.float64))
    planes = coarseness[:, None, None].expand(-1, height, width)
    stacked = torch.cat([hyper[0, :, :height, :width], reference[0], planes])
    return stacked.permute(1, 2, 0).contiguous().numpy()


class _Wavefront(NamedTuple):
    """Positions that are coded at once, and the contribution of earlier positions to their mixtures."""

    places: Integers  # [p] in the field
    sums: list[Tensor]  # [p, _] of the first layer of each group, so far
    slope: NDArray[np.float64]  # [p, n]


class _Field:
    """The latents coded so far, with two rows above and two columns on either side. A row is a position."""

    def __init__(self, model: EntropyModel, y: Integers, side_features: NDArray[np.float64]) -> None:
        """Store y [n, h, w] and the result of `features`."""
        self.groups, self.matrices, self.side_features = model.groups, model.matrices, side_features
        padded = np.pad(y, ((0, 0), (2, 0), (2, 2)))
        self.width = padded.shape[2]
        self.taps = np.array([dy * self.width + dx for dy, dx in TAPS])
        self.raw = padded.reshape(len(y), -1).T.astype(np.float64, order="C")  # [places, n]
        self.companded = self.matrices.compand.take(self.raw.astype(np.int64) + mixture.LARGEST)

    def wavefront(self, ys: Integers, xs: Integers) -> _Wavefront:
        """Return a wavefront of positions whose neighbours are in the field."""
        own = self.matrices
        places = (ys + 2) * self.width + xs + 2
        around = places[:, None] + self.taps
        context = own.context(torch.from_numpy(self.companded.take(around, axis=0).reshape(len(places), -1)))
        inputs = torch.cat([torch.from_numpy(self.side_features[ys, xs]), context], dim=1)
        sums = torch.addmm(own.shared_bias, inputs, own.shared)
        slope = np.floor((self.raw.take(around, axis=0) * own.slope).sum(axis=1) + own.slope_bias)
        widths = [len(first.bias) for first, *_ in own.parameters]
        return _Wavefront(places, list(torch.split(sums, widths, dim=1)), slope.clip(-CLAMP, CLAMP))

    def mixture(self, wavefront: _Wavefront, group: int) -> Mixture:
        """Return the mixtures of a group's latents, position by position; the groups before must be in the field."""
        channels = self.groups[group]
        first, *others = self.matrices.parameters[group]
        before = torch.from_numpy(self.companded[wavefront.places, : channels.start])
        hidden = first(before, wavefront.sums[group])
        for layer in others:
            hidden = layer(hidden)
        kinds = hidden.numpy().reshape(len(hidden), 3, mixture.COMPONENTS, -1)
        kinds[:, 1] += wavefront.slope[:, None, channels]
        scale, mean, logit = kinds.transpose(1, 2, 0, 3).astype(np.int64).reshape(3, mixture.COMPONENTS, -1)
        reach = mixture.STEPS * mixture.LARGEST
        return Mixture(scale.clip(0, mixture.SCALES - 1), mean.clip(-reach, reach), logit)

    def parts(self, wavefront: _Wavefront, group: int) -> list[Part]:
        """Return the distributions of these latents."""
        return mixture.parts(self.mixture(wavefront, group), self.matrices.lookup)

    def fill(self, wavefront: _Wavefront, group: int, values: Integers) -> None:
        """Store a group's latents, position by position."""
        filled = values.reshape(len(wavefront.places), -1)
        self.raw[wavefront.places, self.groups[group]] = filled
        self.companded[wavefront.places, self.groups[group]] = self.matrices.compand.take(filled + mixture.LARGEST)


def _wavefronts(height: int, width: int) -> Iterator[tuple[Integers, Integers]]:
    """Yield rows and columns of the positions that can be coded at once, in their order."""
    time = np.arange(width) + 3 * np.arange(height)[:, None]
    order = np.argsort(time, axis=None, kind="stable")
    ends = np.flatnonzero(np.diff(time.ravel()[order])) + 1
    for positions in np.split(order, ends):
        yield tuple(np.divmod(positions, width))  # type: ignore[misc]


def _batches(wavefronts: Iterator[tuple[Integers, Integers]]) -> Iterator[list[tuple[Integers, Integers]]]:
    """Yield whole wavefronts of a few hundred positions in total: faster than one by one, with bounded memory."""
    batch: list[tuple[Integers, Integers]] = []
    for wavefront in wavefronts:
        batch.append(wavefront)
        if sum(len(ys) for ys, _ in batch) >= _TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch


@torch.inference_mode()
def encode(latents: Latents, reference: Tensor, quality: int, model: EntropyModel) -> bytes:
    """Return the latents of a picture as bytes; the other arguments are those of `features`, quality is in 1..100."""
    y, z = latents
    coder = Encoder()
    rows = np.repeat(np.arange(len(z)), z[0].size)
    coder.symbols(model.frequency[rows] / _ONE, (z.ravel() + Z_LARGEST).astype(np.int32))

    field = _Field(model, y, features(model, z, reference, quality, *y.shape[1:]))
    for wavefronts in _batches(_wavefronts(*y.shape[1:])):
        ys, xs = (np.concatenate(places) for places in zip(*wavefronts, strict=True))
        together = field.wavefront(ys, xs)
        groups = [
            (mixture.coded(y[channels, ys, xs].T.ravel(), field.parts(together, group)), channels.stop - channels.start)
            for group, channels in enumerate(model.groups)
        ]
        ends = np.cumsum([0, *(len(positions) for positions, _ in wavefronts)])
        for first, last in zip(ends[:-1], ends[1:], strict=True):
            for laid_out, n in groups:
                mixture.encode(coder, laid_out, first * n, last * n)
    return coder.payload()


def require_length(payload: bytes, height: int, width: int, model: EntropyModel) -> None:
    """Raise a ContainerError for a payload that is too short for latents y of this size, whatever they are.

    No symbol is certain, so each takes a part of a bit at least: one of y is at most as likely as a window and an
    escape leave it, one of z as the most frequent of its channel. That costs nothing, before memory is taken for them.
    """
    each_z = -np.log2(model.frequency.max(axis=1) / _ONE).sum()
    each_y = -model.channels * math.log2(1 - min(mixture.WINDOWS) / _ONE)
    bits = each_z * -(-height // HYPER) * -(-width // HYPER) + each_y * height * width
    if 8 * len(payload) + 64 < 0.9 * bits:  # the range coder ends within two words, and rounds probabilities
        raise ContainerError(f"the low-res payload is damaged: {len(payload)} bytes are too few for the picture's size")


@torch.inference_mode()
def decode(payload: bytes, height: int, width: int, reference: Tensor, quality: int, model: EntropyModel) -> Latents:
    """Return the latents in a payload.

    Args:
        payload: of `encode`.
        height: of y, in latents.
        width: likewise.
        reference: as for `features`, the one that `encode` was given.
        quality: 1..100, likewise.
        model: likewise.

    Raises:
        ContainerError: not the payload of such latents.
    """
    coder = Decoder(payload, "the low-res payload")
    size = (len(model.frequency), -(-height // HYPER), -(-width // HYPER))
    rows = np.repeat(np.arange(size[0]), size[1] * size[2])
    z = coder.symbols(model.frequency[rows] / _ONE).astype(np.int64).reshape(size) - Z_LARGEST
    side_features = features(model, z, reference, quality, height, width)
    field = _Field(model, np.zeros((model.channels, height, width), np.int64), side_features)
    for ys, xs in _wavefronts(height, width):
        wavefront = field.wavefront(ys, xs)
        for group in range(len(model.groups)):
            field.fill(wavefront, group, mixture.decode(coder, field.parts(wavefront, group)))
    coder.require_end()
    y = field.raw.T.reshape(-1, height + 2, width + 4)[:, 2:, 2:-2]
    return Latents(y.astype(np.int64), z)
