"""The learned low-res codec: Cheng et al.'s attention model with Gaussian mixtures, for all qualities and a reference.

    lr ──analysis──> y * gain ──round──> latents ──entropy model──> bytes
                        └─hyper_analysis──> z ──┘        |
                                low-res reference ───────┘
    latents / gain ──synthesis──> lr_hat

A payload is the CRC-32 of the latents, then their bytes: a decoder that finds others says so, and makes no picture.

One net serves all qualities: each channel of y is scaled by a learned gain before rounding (Cui et al., arXiv
2003.02012). The low-res reference, which the decoder has, helps to predict the latents (no more: the rescaler has
used it already).

Analysis and synthesis are built of CompressAI's layers and run in floating point: another machine may decode samples
that differ by a level. The entropy model is exported to integers (`entropy_model`), and the latents are the same
everywhere.
"""

import importlib.util
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
from refscale_codec.lrcodec import latents, mixture
from refscale_codec.lrcodec.coefficients import Floats
from refscale_codec.lrcodec.integers import FRACTION, Layer, exported, leaky
from refscale_codec.lrcodec.latents import HYPER, TAPS, Z_LARGEST, EntropyModel, Latents
from refscale_codec.lrcodec.mixture import Integers

STRIDE = 16  # low-res pixels a latent spans
_CONTRAST = 4.0  # the rescaler keeps low-res pictures faint
_KNOTS = 8  # qualities at which gains are learned, linear in between
_REFERENCE_PLACES = 7  # binary places of the low-res reference, so that it lies within -1..1


@dataclass(frozen=True)
class GmmConfig:
    """Everything that fixes the architecture; stored in the weights file."""

    channels: int = 64  # of all layers and of the latents
    reference_channels: int = 32  # of the low-res reference's features

    def __post_init__(self) -> None:
        """Reject values that no net can be built for."""
        if not all(type(size) is int and size > 0 for size in (self.channels, self.reference_channels)):
            raise ValueError(f"channels must be positive whole numbers: {self}")


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
        n, r = config.channels, config.reference_channels
        self.config = config
        self.analysis = nn.Sequential(
            layers.ResidualBlockWithStride(3, n, 2),
            layers.ResidualBlock(n, n),
            layers.ResidualBlockWithStride(n, n, 2),
            layers.AttentionBlock(n),
            layers.ResidualBlock(n, n),
            layers.ResidualBlockWithStride(n, n, 2),
            layers.ResidualBlock(n, n),
            layers.conv3x3(n, n, 2),
            layers.AttentionBlock(n),
        )
        self.synthesis = nn.Sequential(
            layers.AttentionBlock(n),
            layers.ResidualBlock(n, n),
            layers.ResidualBlockUpsample(n, n, 2),
            layers.ResidualBlock(n, n),
            layers.ResidualBlockUpsample(n, n, 2),
            layers.AttentionBlock(n),
            layers.ResidualBlock(n, n),
            layers.ResidualBlockUpsample(n, n, 2),
            layers.ResidualBlock(n, n),
            layers.subpel_conv3x3(n, 3, 2),
        )
        self.gain = nn.Parameter(torch.linspace(0, 4, _KNOTS)[:, None].repeat(1, n))  # ln, at each knot
        self.hyper_analysis = nn.Sequential(
            layers.conv3x3(n, n), nn.LeakyReLU(), layers.conv3x3(n, n, 2), nn.LeakyReLU(), layers.conv3x3(n, n, 2)
        )
        self.bottleneck = entropy_models.EntropyBottleneck(n)
        self.hyper = nn.ModuleList(nn.Conv2d(n, size * n, 3, padding=1) for size in (4, 4, 2))
        self.reference = nn.ModuleList(
            [
                nn.Conv2d(3, r, 5, stride=4, padding=2),
                nn.Conv2d(r, r, 3, stride=2, padding=1),
                nn.Conv2d(r, r, 3, stride=2, padding=1),
            ]
        )
        self.context = layers.MaskedConv2d(n, 2 * n, kernel_size=5, padding=2)
        sizes = [4 * n + r + 2, 5 * n, 5 * n, 3 * mixture.COMPONENTS * n]
        self.mixture = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
        with torch.no_grad():  # narrow, middling and wide components to begin with
            last = self.mixture[-1]
            assert isinstance(last, nn.Conv2d)
            assert last.bias is not None
            last.weight.mul_(0.1)
            last.bias.zero_()
            last.bias[: mixture.COMPONENTS * n] = torch.tensor([10.0, 20.0, 30.0]).repeat_interleave(n)

    def forward(self, lr: Tensor, reference: Tensor, quality: Tensor) -> Coded:
        """Code and decode while training, with noise in place of rounding where bits are counted.

        Args:
            lr: sides multiples of `STRIDE`.
            reference: likewise, [b, 3, h, w] in [-1, 1), zeros for none.
            quality: [b] in [0, 1].
        """
        gain = self.gains(quality)
        y = self.analysis(_CONTRAST * (lr - 0.5).contiguous()).float() * gain
        z = self.hyper_analysis(_padded(y, HYPER)).float()
        z_hat, z_likelihood = self.bottleneck(z)
        y_hat = y + (y.round() - y).detach()
        likelihood = self._likelihood(y + torch.rand_like(y) - 0.5, *self._mixtures(y_hat, z_hat, reference, quality))
        bits = [-torch.log2(p.clamp(min=1e-9)).sum(dim=(1, 2, 3)) for p in (likelihood, z_likelihood)]
        return Coded(self._synthesised(y_hat / gain), bits[0] + bits[1])

    def gains(self, quality: Tensor) -> Tensor:
        """Return what y is multiplied by at qualities [b] in [0, 1], as [b, n, 1, 1]."""
        place = quality * (_KNOTS - 1)
        below = place.floor().clamp(0, _KNOTS - 2).long()
        share = (place - below)[:, None]
        return torch.exp(self.gain[below] * (1 - share) + self.gain[below + 1] * share)[:, :, None, None]

    def _synthesised(self, y: Tensor) -> Tensor:
        lr: Tensor = self.synthesis(y)
        return lr.float() / _CONTRAST + 0.5

    def _mixtures(self, y_hat: Tensor, z_hat: Tensor, reference: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """Return deviations, means and logits, [b, 3, n, h, w] each, as `latents` computes them in integers."""
        hyper = z_hat
        for convolution in self.hyper[:-1]:
            hyper = functional.pixel_shuffle(leaky(convolution(hyper)), 2)
        hyper = self.hyper[-1](hyper)[..., : y_hat.shape[-2], : y_hat.shape[-1]]
        for convolution in self.reference:
            reference = leaky(convolution(reference))
        planes = torch.stack([quality, quality**4], dim=1)[:, :, None, None].expand(-1, -1, *hyper.shape[-2:])
        hidden = torch.cat([self.context(y_hat), hyper, reference, planes.to(hyper.dtype)], dim=1)
        for convolution in self.mixture[:-1]:
            hidden = leaky(convolution(hidden))
        size = (len(y_hat), 3, mixture.COMPONENTS, self.config.channels, *y_hat.shape[-2:])
        scale, mean, logit = self.mixture[-1](hidden).float().reshape(size).unbind(dim=1)
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
        picture = torch.from_numpy(lr.transpose(2, 0, 1) / np.float32(255)).to(self.gain)
        made = self.analyse(picture, quality)
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
        lr = 255 * self.synthesise(found.y, height, width, quality).cpu().numpy().transpose(1, 2, 0)
        return np.ascontiguousarray(lr, np.float32)

    def _exact(self) -> EntropyModel:
        if self.exact is None:
            raise ValueError("this net has no integer entropy model: store it and load it again")
        return self.exact

    @torch.inference_mode()
    def analyse(self, lr: Tensor, quality: int) -> Latents:
        """Return the latents of one picture [3, h, w] of any size at a quality of 1..100."""
        told = torch.tensor([quality / 100], device=lr.device)
        x = _padded(lr[None], STRIDE)
        y = self.analysis(_CONTRAST * (x - 0.5).contiguous()).float() * self.gains(told)
        z = self.hyper_analysis(_padded(y, HYPER)).float()
        limits = ((y, mixture.LARGEST), (z, Z_LARGEST))
        return Latents(*(x[0].round().clamp(-most, most).cpu().numpy().astype(np.int64) for x, most in limits))

    @torch.inference_mode()
    def synthesise(self, y: Integers, height: int, width: int, quality: int) -> Tensor:
        """Return the picture [3, height, width] of latents."""
        told = torch.tensor([quality / 100], device=self.gain.device)
        given = torch.from_numpy(y).to(self.gain)[None]
        return self._synthesised(given / self.gains(told))[0, :, :height, :width]

    @torch.no_grad()
    def entropy_model(self) -> EntropyModel:
        """Return the entropy model in integers, for a new weights file."""
        n = self.config.channels
        each = mixture.COMPONENTS * n
        places = torch.cat([torch.zeros(each), torch.full((2 * each,), 4.0)])  # means and logits: sixteenths
        return EntropyModel(
            hyper=[
                exported(x, FRACTION if i else 0, FRACTION, leaky=i < 2, shuffle=2 if i < 2 else 1)
                for i, x in enumerate(_convolutions(self.hyper))
            ],
            reference=[
                exported(x, FRACTION if i else _REFERENCE_PLACES, FRACTION)
                for i, x in enumerate(_convolutions(self.reference))
            ],
            context=self._exported_context(n),
            parameters=[
                exported(x, FRACTION, places if i == 2 else FRACTION, leaky=i < 2)
                for i, x in enumerate(_convolutions(self.mixture))
            ],
            frequency=self._frequency(),
            tables=mixture.make_tables(),
        )

    def _exported_context(self, n: int) -> Layer:
        gathered = nn.Conv2d(len(TAPS) * n, 2 * n, 1)
        taps = [self.context.weight[:, :, dy + 2, dx + 2] for dy, dx in TAPS]
        gathered.weight.copy_(torch.cat(taps, dim=1)[:, :, None, None])
        assert gathered.bias is not None
        gathered.bias.copy_(self.context.bias)
        return exported(gathered, 0, FRACTION, leaky=False)

    def _frequency(self) -> Integers:
        """Return how often each hyper-latent comes, [n, 2 Z_LARGEST + 1], in parts of 2^16."""
        n, values = self.config.channels, 2 * Z_LARGEST + 1
        whole = torch.arange(values, device=self.gain.device).float() - Z_LARGEST
        likelihood, *_ = self.bottleneck._likelihood(whole.expand(n, 1, values))
        share = likelihood[:, 0].double().cpu().numpy()
        frequency = 1 + np.floor(share / share.sum(axis=1, keepdims=True) * ((1 << 16) - values)).astype(np.int64)
        frequency[np.arange(n), frequency.argmax(axis=1)] += (1 << 16) - frequency.sum(axis=1)
        return np.asarray(frequency)


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
    """Return a low-res reference [h, w, 3] as the entropy model takes it, [3, 16 rows, 16 columns] in -128..127."""
    if reference is None:
        return torch.zeros(3, STRIDE * rows, STRIDE * columns, dtype=torch.float64)
    bottom, right = STRIDE * rows - reference.shape[0], STRIDE * columns - reference.shape[1]
    padded = np.pad(reference, ((0, bottom), (0, right), (0, 0)), "edge").transpose(2, 0, 1)
    return torch.from_numpy(padded.astype(np.float64) - 128)


def _convolutions(modules: nn.ModuleList) -> list[nn.Conv2d]:
    return [module for module in modules if isinstance(module, nn.Conv2d)]


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
