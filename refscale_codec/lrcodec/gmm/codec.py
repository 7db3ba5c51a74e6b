"""The learned low-res codec: a DCT and a net beside it, Gaussian mixtures, for all qualities, with a reference.

    lr ──DCT + analysis──> y * gain ──round──> latents ──entropy model──> bytes
                              └─hyper_analysis──> z ──┘        |
                                      low-res reference ───────┘
    latents / gain ──inverse DCT + synthesis──> lr_hat

A payload is the CRC-32 of the latents, then their bytes: a decoder that finds others says so, and makes no picture.

Mixtures, attention and context are those of Cheng et al. (arXiv 2001.01568), but a latent stands for 8x8 pixels,
since low-res pictures are coded at up to some 4 bits a pixel, and the transform starts as JPEG's, so that it serves a
rescaler that was trained with JPEG from the first step. One net serves all qualities: each channel of y is scaled by
a learned gain before rounding (Cui et al., arXiv 2003.02012). The low-res reference, which the decoder has, helps to
predict the latents (no more: the rescaler has used it already).

Analysis and synthesis are built of CompressAI's layers and run in floating point: another machine may decode samples
that differ by a level. The entropy model is exported to integers (`entropy_model`), and the latents are the same
everywhere.

Longer than most modules, because what is trained and its export to integers must change together.
"""

import importlib.util
import math
import struct
import sys
import types
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from refscale_codec.errors import ContainerError, UsageError
from refscale_codec.lrcodec.dct.coefficients import CHROMA, DCT, LUMA, YCBCR, Floats
from refscale_codec.lrcodec.gmm import latents, mixture
from refscale_codec.lrcodec.gmm.integers import FRACTION, Layer, exported, leaky
from refscale_codec.lrcodec.gmm.latents import HYPER, STRIDE, TAPS, Z_LARGEST, EntropyModel, Latents
from refscale_codec.lrcodec.gmm.mixture import Integers
from refscale_codec.picture import tiles

_REFERENCE_PLACES = 7  # binary places of the low-res reference, so that it lies within -1..1
_STEP_PLACES = 4  # of means and logits: `mixture.STEPS`
_CONTRAST = 4.0  # the rescaler keeps low-res pictures faint
_DEAD = 1 / 32  # the square of a latent half of whose gradient passes the rounding
_KNOTS = 9  # at which gains are learned, linear in between
_HALO = 64  # low-res pixels around a tile, a multiple of STRIDE: neither analysis nor synthesis looks further
_RANGE = 2500.0  # the coarsest quantiser of JPEG's, quality 1, over the finest here, quality 99


@dataclass(frozen=True)
class GmmConfig:
    """Everything that fixes the architecture; stored in the weights file."""

    channels: int = 192  # of the latents; that many are all of the DCT, which the rescaler makes use of
    width: int = 64  # of the layers
    reference_channels: int = 32  # of the low-res reference's features

    def __post_init__(self) -> None:
        """Reject values that no net can be built for."""
        sizes = (self.channels, self.width, self.reference_channels)
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"channels and width must be positive whole numbers: {self}")
        if not 12 <= self.channels <= 192 or self.width % 2:
            raise ValueError(f"channels must be 12 to 192, the width even: {self}")

    @property
    def groups(self) -> list[int]:
        """Channels of each group that the entropy model codes in turn, low frequencies first."""
        first, second = self.channels // 12, self.channels // 4
        return [first, second, self.channels - first - second]


class Coded(NamedTuple):
    """What a pass in training gives."""

    lr_hat: Tensor  # [b, 3, h, w]
    bits: Tensor  # [b]


class Gmm(nn.Module):
    """The codec's net, built from a `GmmConfig`. Low-res pictures are [b, 3, h, w] in about [0, 1].

    It codes (`encode`, `decode`) once it has its entropy model in integers, as it has when it comes out of a file.
    """

    exact: EntropyModel | None = None

    def __init__(self, config: GmmConfig) -> None:
        """Build with fresh parameters.

        Raises:
            UsageError: CompressAI is not installed.
        """
        super().__init__()
        layers, entropy_models = _compressai()
        n, w, r = config.channels, config.width, config.reference_channels
        self.config = config
        forward, inverse, steps = _dct(n)
        self.forward_dct = nn.Parameter(forward)
        self.inverse_dct = nn.Parameter(inverse)
        last_down, last_up = layers.conv3x3(w, n, 2), layers.subpel_conv3x3(w // 2, 3, 2)
        self.analysis = nn.Sequential(
            layers.ResidualBlockWithStride(3, w, 2),
            layers.ResidualBlockWithStride(w, w, 2),
            layers.AttentionBlock(w),
            layers.ResidualBlock(w, w),
            last_down,
        )
        self.synthesis = nn.Sequential(
            layers.conv3x3(n + 2, w),
            layers.ResidualBlock(w, w),
            layers.ResidualBlockUpsample(w, w, 2),
            layers.AttentionBlock(w),
            layers.ResidualBlock(w, w),
            layers.ResidualBlockUpsample(w, w // 2, 2),
            last_up,
        )
        places = torch.linspace(0, 1, _KNOTS)[:, None]
        self.gain = nn.Parameter(-torch.log(steps / 50) - math.log(_RANGE) * places)  # ln, at each knot
        self.hyper_analysis = nn.Sequential(
            layers.conv3x3(n, w), nn.LeakyReLU(), layers.conv3x3(w, w, 2), nn.LeakyReLU(), layers.conv3x3(w, w // 2)
        )
        self.bottleneck = entropy_models.EntropyBottleneck(w // 2)
        self.hyper = nn.ModuleList([nn.Conv2d(w // 2, 4 * w, 3, padding=1), nn.Conv2d(w, w, 3, padding=1)])
        self.reference = nn.ModuleList(
            [nn.Conv2d(3, r, 5, stride=4, padding=2), nn.Conv2d(r, r, 3, stride=2, padding=1)]
        )
        self.context = layers.MaskedConv2d(n, n, kernel_size=5, padding=2)
        self.slope = layers.MaskedConv2d(n, n, kernel_size=5, padding=2, groups=n)
        before = [sum(config.groups[:i]) for i in range(len(config.groups))]
        self.mixture = nn.ModuleList(
            _perceptron(w + r + 2 + n + known, 2 * w, group) for known, group in zip(before, config.groups, strict=True)
        )
        with torch.no_grad():  # the net adds nothing to the DCT as yet
            for convolution in (last_down, last_up[0]):
                convolution.weight.zero_()
                convolution.bias.zero_()
            self.slope.weight.zero_()
            self.slope.bias.zero_()

    def forward(self, lr: Tensor, reference: Tensor, quality: Tensor) -> Coded:
        """Code and decode while training.

        Args:
            lr: sides multiples of `STRIDE`.
            reference: likewise, [b, 3, h, w] in [-1, 1), zeros for none.
            quality: [b] in [0, 1].
        """
        gain = self.gains(quality)
        y = self._analysed(lr) * gain
        return Coded(self._synthesised(rounded(y) / gain, quality), self.bits(y, reference, quality))

    def bits(self, y: Tensor, reference: Tensor, quality: Tensor) -> Tensor:
        """Return the bits [b] of latents before they are rounded, [b, n, h, w]; for the others see `forward`.

        Bits are those of the rounded latents, which lie closer to zero than with noise added. Noise is what tells the
        analysis how bits change with y, since rounding does not (Ballé et al., arXiv 1611.01704).
        """
        z_hat, z_likelihood = self.bottleneck(self._hyper_analysed(y))
        mixtures = self._mixtures(rounded(y), z_hat, reference, quality)
        bits = _bits(z_likelihood) + _bits(self._likelihood(y.detach().round(), *mixtures))
        if y.requires_grad:
            fixed = (parameter.detach() for parameter in mixtures)
            noisy = _bits(self._likelihood(y + torch.rand_like(y) - 0.5, *fixed))
            bits = bits + noisy - noisy.detach()
        return bits

    def gains(self, quality: Tensor) -> Tensor:
        """Return what y is multiplied by at qualities [b] in [0, 1], as [b, n, 1, 1]."""
        place = _told(quality) * (_KNOTS - 1)
        below = place.floor().clamp(0, _KNOTS - 2).long()
        share = (place - below)[:, None]
        return torch.exp(self.gain[below] * (1 - share) + self.gain[below + 1] * share)[:, :, None, None]

    def _analysed(self, lr: Tensor) -> Tensor:
        x = (lr - 0.5).contiguous()
        net = self.analysis(_CONTRAST * x).float()
        with _whole_floats(x):
            y: Tensor = net + functional.conv2d(x, self.forward_dct, stride=STRIDE)
        return y

    def _hyper_analysed(self, y: Tensor) -> Tensor:
        z: Tensor = self.hyper_analysis(_companded(_padded(y, HYPER)))
        return z.float()

    def _synthesised(self, y: Tensor, quality: Tensor) -> Tensor:
        planes = _planes(quality).expand(-1, -1, *y.shape[-2:])
        net = self.synthesis(torch.cat([y / _CONTRAST, planes], dim=1)).float()
        with _whole_floats(y):
            lr: Tensor = net / _CONTRAST + functional.conv_transpose2d(y, self.inverse_dct, stride=STRIDE)
        return lr + 0.5

    def _mixtures(self, y_hat: Tensor, z_hat: Tensor, reference: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """Return deviations, means and logits, [b, 3, n, h, w] each, as `latents` computes them in integers."""
        height, width = y_hat.shape[-2:]
        hyper = functional.pixel_shuffle(leaky(self.hyper[0](z_hat)), HYPER)
        hyper = self.hyper[1](hyper)[..., :height, :width]
        for convolution in self.reference:
            reference = leaky(convolution(reference))
        planes = _planes(quality).expand(-1, -1, height, width).to(hyper.dtype)
        seen = _companded(y_hat)
        known = torch.cat([hyper, reference, planes, self.context(seen)], dim=1)
        parts = []
        before = 0
        for layers, group in zip(self.mixture, self.config.groups, strict=True):
            hidden = torch.cat([known, seen[:, :before].to(known.dtype)], dim=1)
            *others, last = _convolutions(layers)
            for convolution in others:
                hidden = leaky(convolution(hidden))
            size = (len(y_hat), 3, mixture.COMPONENTS, group, height, width)
            parts.append(last(hidden).float().reshape(size))
            before += group
        scale, mean, logit = torch.cat(parts, dim=3).unbind(dim=1)
        with _whole_floats(y_hat):
            mean = mean + self.slope(y_hat)[:, None]
        index = scale.clamp(0, mixture.SCALES - 1)
        return mixture.deviation(0) * torch.exp(index * mixture.RATIO), mean, logit

    @staticmethod
    def _likelihood(y: Tensor, deviation: Tensor, mean: Tensor, logit: Tensor) -> Tensor:
        away = (y[:, None] - mean).abs()
        inside = torch.special.ndtr((0.5 - away) / deviation) - torch.special.ndtr((-0.5 - away) / deviation)
        return torch.sum(logit.softmax(dim=1) * inside, dim=1)

    def encode(self, lr: Floats, reference: NDArray[np.uint8] | None, quality: int) -> bytes:
        """Return the payload of a picture.

        Args:
            lr: [h, w, 3] RGB on about 0..255, any size from 1x1.
            reference: the low-res reference, likewise; None for none.
            quality: 1..100.
        """
        made = self.analyse(self._tensor(lr), quality)
        with _one_thread():
            payload = latents.encode(made, _guide(reference, *made.y.shape[1:]), quality, self._exact())
        return _CHECK.pack(_check(made)) + payload

    def decode(
        self, payload: bytes, height: int, width: int, reference: NDArray[np.uint8] | None, quality: int
    ) -> Floats:
        """Return the picture [height, width, 3] that `encode` was given, as the codec leaves it.

        Raises:
            ContainerError: the payload holds no such picture, or not with this reference.
        """
        rows, columns = -(-height // STRIDE), -(-width // STRIDE)
        if len(payload) < _CHECK.size:
            raise ContainerError("the low-res payload holds no latents")
        with _one_thread():
            guide = _guide(reference, rows, columns)
            found = latents.decode(payload[_CHECK.size :], rows, columns, guide, quality, self._exact())
        if _check(found) != _CHECK.unpack_from(payload)[0]:
            raise ContainerError("the low-res payload is damaged: its latents do not fit their CRC-32")
        return self._picture(found, height, width, quality)

    def quantised(self, lr: Floats, quality: int) -> Floats:
        """Return what `decode` makes of the payload that `encode` makes of a picture, without entropy coding."""
        height, width, _ = lr.shape
        return self._picture(self.analyse(self._tensor(lr), quality), height, width, quality)

    def _tensor(self, lr: Floats) -> Tensor:
        return torch.from_numpy(lr.transpose(2, 0, 1) / np.float32(255)).to(self.gain)

    def _picture(self, made: Latents, height: int, width: int, quality: int) -> Floats:
        lr = 255 * self.synthesise(made.y, height, width, quality).cpu().numpy().transpose(1, 2, 0)
        return np.ascontiguousarray(lr, np.float32)

    def _exact(self) -> EntropyModel:
        if self.exact is None:
            raise ValueError("this net has no integer entropy model: store it and load it again")
        return self.exact

    @torch.inference_mode()
    def analyse(self, lr: Tensor, quality: int) -> Latents:
        """Return the latents of one picture [3, h, w] of any size at a quality of 1..100."""
        told = torch.tensor([quality / 100], device=lr.device)
        picture = _padded(lr[None], STRIDE)
        height, width = picture.shape[-2:]
        y = lr.new_empty(1, self.config.channels, height // STRIDE, width // STRIDE)
        for core, seen in tiles.grid(height, width, tiles.TILE, _HALO, STRIDE):
            part = self._analysed(picture[(..., *seen.slices)])
            y[(..., *core.reduced(STRIDE).slices)] = part[(..., *core.within(seen).reduced(STRIDE).slices)]
        y *= self.gains(told)
        limits = ((y, mixture.LARGEST), (self._hyper_analysed(y), Z_LARGEST))
        return Latents(*(x[0].round().clamp(-most, most).cpu().numpy().astype(np.int64) for x, most in limits))

    @torch.inference_mode()
    def synthesise(self, y: Integers, height: int, width: int, quality: int) -> Tensor:
        """Return the picture [3, height, width] of latents."""
        told = torch.tensor([quality / 100], device=self.gain.device)
        given = torch.from_numpy(y).to(self.gain)[None] / self.gains(told)
        bottom, right = STRIDE * y.shape[1], STRIDE * y.shape[2]
        lr = given.new_empty(3, bottom, right)
        for core, seen in tiles.grid(bottom, right, tiles.TILE, _HALO, STRIDE):
            part = self._synthesised(given[(..., *seen.reduced(STRIDE).slices)], told)[0]
            lr[(..., *core.slices)] = part[(..., *core.within(seen).slices)]
        return lr[:, :height, :width]

    @torch.no_grad()
    def entropy_model(self) -> EntropyModel:
        """Return the entropy model in integers, for a new weights file."""
        n = self.config.channels
        told = _planes(torch.arange(101) / 100)[..., 0, 0].T
        magnitudes = _companded(torch.arange(mixture.LARGEST + 1).double())
        return EntropyModel(
            hyper=[
                exported(x, FRACTION if i else 0, FRACTION, leaky=i < 1, shuffle=1 if i else HYPER)
                for i, x in enumerate(_convolutions(self.hyper))
            ],
            reference=[
                exported(x, FRACTION if i else _REFERENCE_PLACES, FRACTION)
                for i, x in enumerate(_convolutions(self.reference))
            ],
            context=_exported_taps(self.context, n, FRACTION, FRACTION),
            slope=_exported_taps(self.slope, 1, 0, _STEP_PLACES),
            parameters=[_exported_perceptron(layers) for layers in self.mixture],
            frequency=self._frequency(),
            quality=np.rint(told.double().numpy() * 2**FRACTION).astype(np.int64),
            compand=np.rint(magnitudes.numpy() * 2**FRACTION).astype(np.int64),
            tables=mixture.make_tables(),
        )

    def _frequency(self) -> Integers:
        """Return how often each hyper-latent comes, [n, 2 Z_LARGEST + 1], in parts of 2^16."""
        n, values = self.config.width // 2, 2 * Z_LARGEST + 1
        whole = torch.arange(values, device=self.gain.device).float() - Z_LARGEST
        likelihood, *_ = self.bottleneck._likelihood(whole.expand(n, 1, values))
        share = likelihood[:, 0].double().cpu().numpy()
        frequency = 1 + np.floor(share / share.sum(axis=1, keepdims=True) * ((1 << 16) - values)).astype(np.int64)
        frequency[np.arange(n), frequency.argmax(axis=1)] += (1 << 16) - frequency.sum(axis=1)
        return np.asarray(frequency)


def _dct(channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return how latents start: bases [n, 3, 8, 8] down and up for RGB, and JPEG's quantiser steps at 50.

    The frequencies are taken in the order of their wavelengths, chroma when luma has twice theirs.
    """
    tables = np.array([LUMA, CHROMA, CHROMA]).reshape(-1)
    along = np.add.outer(np.arange(8), np.arange(8)).reshape(-1)
    order = np.argsort(np.concatenate([along, 2 * along + 2.5, 2 * along + 2.6]), kind="stable")[:channels]
    forward, inverse = (
        np.einsum("cr,uy,vx->cuvryx", colours, DCT, DCT).reshape(-1, 3, STRIDE, STRIDE)[order]
        for colours in (np.array(YCBCR), np.linalg.inv(np.array(YCBCR)).T)
    )
    bases = torch.from_numpy(forward * 255 / STRIDE), torch.from_numpy(inverse / 255 * STRIDE)
    return bases[0].float(), bases[1].float(), torch.from_numpy(tables[order] / STRIDE).float()


def rounded(y: Tensor) -> Tensor:
    """Round, with a gradient that passes what survives: nothing of a latent near zero, all of a large one.

    As `losses.surviving` has it for JPEG, and for its reason.
    """
    near = y * (y.square() / (y.square() + _DEAD)).detach()
    return near + (y.round() - near).detach()


def _bits(likelihood: Tensor) -> Tensor:
    """Return the bits [b] of latents [b, n, h, w]."""
    return -torch.log2(likelihood.clamp(min=1e-9)).sum(dim=(1, 2, 3))


def _told(quality: Tensor) -> Tensor:
    """Return what is told of qualities in [0, 1]: ln of JPEG's quantiser, 0 for the finest, 1 for the coarsest."""
    percent = torch.where(quality < 0.5, 50 / quality.clamp(min=0.01), 200 - 200 * quality)
    return torch.log(percent.clamp(min=2) / 2) / math.log(_RANGE)


def _planes(quality: Tensor) -> Tensor:
    """Return the same as the networks take it, [b, 2, 1, 1]."""
    told = _told(quality)
    return torch.stack([told, 4 * told.square()], dim=1)[:, :, None, None]


def _companded(y: Tensor) -> Tensor:
    """Return latents as the networks take them: they span four decades between the lowest and the highest quality."""
    return torch.sign(y) * torch.log2(1 + y.abs())


def _perceptron(before: int, width: int, latents: int) -> nn.ModuleList:
    """Return 1x1 convolutions that end in the mixtures of some latents of a position."""
    sizes = [before, width, width, 3 * mixture.COMPONENTS * latents]
    layers = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
    with torch.no_grad():  # narrow, middling and wide components to begin with
        last = _convolutions(layers)[-1]
        assert last.bias is not None
        last.weight.mul_(0.1)
        last.bias.zero_()
        each = mixture.COMPONENTS * latents
        last.bias[:each] = torch.tensor([10.0, 20.0, 30.0]).repeat_interleave(latents)
    return layers


def _exported_perceptron(layers: nn.Module) -> list[Layer]:
    *others, last = _convolutions(layers)
    each = last.out_channels // 3
    places = torch.cat([torch.zeros(each), torch.full((2 * each,), float(_STEP_PLACES))])
    return [*(exported(x, FRACTION, FRACTION) for x in others), exported(last, FRACTION, places, leaky=False)]


def _exported_taps(convolution: nn.Conv2d, channels: int, before: int, after: int) -> Layer:
    """Return a masked convolution as one over the neighbours that it sees, of so many channels each."""
    assert convolution.bias is not None
    gathered = nn.Conv2d(len(TAPS) * channels, convolution.out_channels, 1)
    taps = [convolution.weight[:, :, dy + 2, dx + 2] for dy, dx in TAPS]
    gathered.weight.copy_(torch.stack(taps, dim=2).flatten(1)[:, :, None, None])
    assert gathered.bias is not None
    gathered.bias.copy_(convolution.bias)
    return exported(gathered, before, after, leaky=False)


def _whole_floats(x: Tensor) -> torch.autocast:
    """Keep what is linear in the samples in 32 bits while training in 16."""
    return torch.autocast(x.device.type, enabled=False)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep the many small convolutions of a wave on one thread: two are slower, and much so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_CHECK = struct.Struct("<I")


def _check(made: Latents) -> int:
    return zlib.crc32(made.z.astype("<i2").tobytes(), zlib.crc32(made.y.astype("<i2").tobytes()))


def _guide(reference: NDArray[np.uint8] | None, rows: int, columns: int) -> Tensor:
    """Return a low-res reference [h, w, 3] as the entropy model takes it, [3, 8 rows, 8 columns] in -128..127."""
    if reference is None:
        return torch.zeros(3, STRIDE * rows, STRIDE * columns, dtype=torch.float64)
    bottom, right = STRIDE * rows - reference.shape[0], STRIDE * columns - reference.shape[1]
    padded = np.pad(reference, ((0, bottom), (0, right), (0, 0)), "edge").transpose(2, 0, 1)
    return torch.from_numpy(padded.astype(np.float64) - 128)


def _convolutions(modules: nn.Module) -> list[nn.Conv2d]:
    return [module for module in modules.children() if isinstance(module, nn.Conv2d)]


def _padded(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until the sides are multiples."""
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    return functional.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def _compressai() -> tuple[Any, Any]:
    """Import CompressAI's layers and entropy models, and nothing else of it.

    Its package imports torchvision and torch-geometric, which these modules do not need and which often do not fit the
    installed torch. So a bare package of that name is put in place first.

    Raises:
        UsageError: CompressAI is not installed.
    """
    if "compressai" not in sys.modules:
        found = importlib.util.find_spec("compressai")
        if found is None or found.submodule_search_locations is None:
            raise UsageError(
                "the gmm codec needs CompressAI: pip install 'refscale-codec[gmm]' "
                "(Python 3.10 to 3.12, Linux on x86-64 or macOS)"
            )
        package = types.ModuleType("compressai")
        package.__path__ = list(found.submodule_search_locations)
        package.__dict__.update(get_entropy_coder=lambda: "ans", available_entropy_coders=lambda: ["ans"])
        sys.modules["compressai"] = package
    layers = importlib.import_module("compressai.layers.layers")
    return layers, importlib.import_module("compressai.entropy_models.entropy_models")
