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
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refscale_codec.errors import ContainerError
from refscale_codec.lrcodec.gmm import mixture
from refscale_codec.lrcodec.gmm.integers import CLAMP, Dense, Layer
from refscale_codec.lrcodec.gmm.mixture import Integers, Lookup, Mixture, Part, Tables
from refscale_codec.picture import tiles
from refscale_codec.picture.tiles import Tile
from refscale_codec.rangecoder import Decoder, Encoder

TAPS = [(dy, dx) for dy in (-2, -1, 0) for dx in (-2, -1, 0, 1, 2) if (dy, dx) < (0, 0)]
"""Row and column offsets of the latents in a context."""

STRIDE = 8  # low-res pixels per latent and axis
HYPER = 2  # latents per hyper-latent and axis
Z_LARGEST = 15  # largest magnitude of a hyper-latent
_ONE = 1 << 16  # sum of frequencies
_TOGETHER = 256  # positions whose mixtures the encoder computes at once
_Z_TOGETHER = 1 << 14  # hyper-latents that the decoder reads at once
_TILE = 64  # side, in latents, of the parts in which side features are computed
_HALO = 4  # latents around them that they depend on, a multiple of HYPER

Whole = NDArray[np.signedinteger[Any]]


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

    y: Whole  # [n, h, w] within mixture.LARGEST
    z: Whole  # [m, ceil(h / HYPER), ceil(w / HYPER)] within Z_LARGEST


class Side(NamedTuple):
    """What the mixtures depend on, apart from y."""

    z: Whole  # hyper-latents, as in `Latents`
    reference: Tensor  # [3, 8 h, 8 w] integers within -128..127, zeros for none
    quality: int  # 1..100

    def features(self, model: EntropyModel, tile: Tile) -> NDArray[np.int16]:
        """Return the networks' inputs [h, w, a + r + 2] for a tile of latents with its halo."""
        rows, columns = tile.box.within(tile.padded).slices
        hyper = torch.from_numpy(self.z[(slice(None), *tile.padded.reduced(HYPER).slices)].astype(np.float64))[None]
        for layer in model.hyper:
            hyper = layer(hyper)
        top, left, bottom, right = (STRIDE * edge for edge in tile.padded)
        reference = self.reference[None, :, top:bottom, left:right].double()
        for layer in model.reference:
            reference = layer(reference)
        planes = torch.from_numpy(model.quality[:, self.quality].astype(np.float64))[:, None, None]
        parts = [x[:, rows, columns] for x in (hyper[0], reference[0], planes.expand(-1, *reference.shape[2:]))]
        return torch.cat(parts).permute(1, 2, 0).to(torch.int16).contiguous().numpy()


class _Wavefront(NamedTuple):
    """Positions that are coded at once, and the contribution of earlier positions to their mixtures."""

    places: Integers  # [p] in the field
    sums: list[Tensor]  # [p, _] of the first layer of each group, so far
    slope: NDArray[np.float64]  # [p, n]


class _Field:
    """The latents coded so far, with two rows above and two columns on either side.

    Arrays are of the whole picture, but memory is taken only for what wavefronts have reached: that of the latents when
    they are written, that of the side features tile by tile.
    """

    def __init__(self, model: EntropyModel, height: int, width: int, side: Side) -> None:
        """Start with latents of zero."""
        self.model, self.groups, self.matrices, self.side = model, model.groups, model.matrices, side
        self.y = np.zeros((height + 2, width + 4, model.channels), np.int16)
        self.width = width + 4
        self.taps = np.array([dy * self.width + dx for dy, dx in TAPS])
        self.raw = self.y.reshape(-1, model.channels)  # a row is a position
        self.features = np.empty((height, width, len(self.matrices.shared) - len(model.context.weight)), np.int16)
        grid = tiles.grid(height, width, _TILE, _HALO, HYPER)
        self.tiles = sorted(grid, key=lambda tile: _time(*tile.box[:2]), reverse=True)  # without features so far

    def wavefront(self, ys: Integers, xs: Integers) -> _Wavefront:
        """Return a wavefront of positions whose neighbours are in the field."""
        own, last = self.matrices, _time(ys, xs).max()
        while self.tiles and _time(*self.tiles[-1].box[:2]) <= last:
            tile = self.tiles.pop()
            self.features[tile.box.slices] = self.side.features(self.model, tile)
        places = (ys + 2) * self.width + xs + 2
        raw = self.raw.take(places[:, None] + self.taps, axis=0)
        context = own.context(torch.from_numpy(self._companded(raw).reshape(len(places), -1)))
        inputs = torch.cat([torch.from_numpy(self.features[ys, xs]).double(), context], dim=1)
        sums = torch.addmm(own.shared_bias, inputs, own.shared)
        slope = np.floor((raw * own.slope).sum(axis=1) + own.slope_bias)
        widths = [len(first.bias) for first, *_ in own.parameters]
        return _Wavefront(places, list(torch.split(sums, widths, dim=1)), slope.clip(-CLAMP, CLAMP))

    def mixture(self, wavefront: _Wavefront, group: int) -> Mixture:
        """Return the mixtures of a group's latents, position by position; the groups before must be in the field."""
        channels = self.groups[group]
        first, *others = self.matrices.parameters[group]
        before = torch.from_numpy(self._companded(self.raw[wavefront.places, : channels.start]))
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
        self.raw[wavefront.places, self.groups[group]] = values.reshape(len(wavefront.places), -1)

    def _companded(self, raw: NDArray[np.int16]) -> NDArray[np.float64]:
        return self.matrices.compand.take(raw + mixture.LARGEST)


def _time(y: Any, x: Any) -> Any:
    """Return when positions are coded."""
    return 3 * y + x


def _wavefronts(height: int, width: int) -> Iterator[tuple[Integers, Integers]]:
    """Yield rows and columns of the positions that can be coded at once, in their order."""
    for time in range(_time(height - 1, width - 1) + 1):
        ys = np.arange(max(0, (time - width) // 3 + 1), min(height - 1, time // 3) + 1)
        if len(ys):
            yield ys, time - 3 * ys


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
    """Return the latents of a picture as bytes; for the other arguments see `Side`."""
    y, z = latents
    coder = Encoder()
    rows = np.repeat(np.arange(len(z)), z[0].size)
    coder.symbols(model.frequency[rows] / _ONE, (z.ravel() + Z_LARGEST).astype(np.int32))

    height, width = y.shape[1:]
    field = _Field(model, height, width, Side(z, reference, quality))
    field.y[2:, 2:-2] = y.transpose(1, 2, 0)
    for wavefronts in _batches(_wavefronts(height, width)):
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
        reference: as in `Side`, the one that `encode` was given.
        quality: 1..100, likewise.
        model: likewise.

    Raises:
        ContainerError: not the payload of such latents.
    """
    coder = Decoder(payload, "the low-res payload")
    z = np.empty((len(model.frequency), -(-height // HYPER), -(-width // HYPER)), np.int16)
    for channel, frequency in zip(z.reshape(len(z), -1), model.frequency / _ONE, strict=True):
        for start in range(0, len(channel), _Z_TOGETHER):
            part = channel[start : start + _Z_TOGETHER]
            part[:] = coder.symbols(np.tile(frequency, (len(part), 1))) - Z_LARGEST
    field = _Field(model, height, width, Side(z, reference, quality))
    for ys, xs in _wavefronts(height, width):
        wavefront = field.wavefront(ys, xs)
        for group in range(len(model.groups)):
            field.fill(wavefront, group, mixture.decode(coder, field.parts(wavefront, group)))
    coder.require_end()
    return Latents(field.y[2:, 2:-2].transpose(2, 0, 1), z)
