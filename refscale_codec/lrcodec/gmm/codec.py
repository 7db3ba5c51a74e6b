"""The learned low-res codec: a DCT with a net in parallel, Gaussian mixtures, all qualities, with a reference.

    lr ──forward transform──> y * gain ──round──> latents ──entropy model in integers──> payload
                                 └─hyper-analysis──> z ──┘        │
                                        low-res reference ────────┘
    latents / gain ──inverse transform──> received lr

A payload is the CRC-32 of the latents, then their bytes: a decoder that gets other latents raises an error. The net's
transforms (`net`) run in floating point, so samples may differ by a level between machines. The entropy model is
integer arithmetic (`latents`), so the latents are the same everywhere.
"""

import itertools
import struct
import zlib
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
import threadpoolctl
import torch
from numpy.typing import NDArray
from torch import Tensor

from refscale_codec.errors import ContainerError
from refscale_codec.lrcodec import GMM
from refscale_codec.lrcodec.gmm import export, latents, mixture
from refscale_codec.lrcodec.gmm.latents import STRIDE, Z_LARGEST, Latents, Whole
from refscale_codec.lrcodec.gmm.net import Gmm, GmmConfig, padded
from refscale_codec.lrcodec.interface import USUAL, CodedLowRes, Floats, LowResReference, finite
from refscale_codec.picture import tiles

_HALO = 64  # low-res pixels around a tile, a multiple of STRIDE: the receptive field of both transforms
_CHECK = struct.Struct("<I")


class GmmCodec:
    """Codes low-res pictures with a net from a weights file."""

    id = GMM
    exact = False  # the latents are exact, the synthesis is not
    conditional = True
    has_thrift = False

    def __init__(self, net: Gmm) -> None:
        """Take a net that has its entropy model in integers.

        Raises:
            ValueError: it has none.
        """
        if net.entropy_model is None:
            raise ValueError("this net has no integer entropy model: store it and load it again")
        self.net, self.entropy_model = net, net.entropy_model

    @staticmethod
    def stored(config: dict[str, Any]) -> Gmm:
        """Return a net of the parameters that a weights file has; see `lrcodec.CODECS`."""
        return Gmm(GmmConfig(**config))

    @classmethod
    def restored(cls, net: Gmm, integers: dict[str, Tensor]) -> "GmmCodec":
        """Return the codec of a net, and of the integers of its weights file.

        Raises:
            ValueError: they do not fit.
        """
        net.entropy_model = export.read(net.config, integers)
        return cls(net)

    def code(self, lr: Floats, reference: LowResReference | None, quality: int, thrift: float = USUAL) -> CodedLowRes:
        """See `LowResCodec.code`."""
        coded = self.analyse(self._tensor(lr), quality)
        samples = reference_samples(reference, *coded.y.shape[1:])
        with _one_thread():
            payload = latents.encode(coded, samples, quality, self.entropy_model)
        return CodedLowRes(
            _CHECK.pack(_check(coded)) + payload, self._picture(coded, lr.shape[0], lr.shape[1], quality)
        )

    def decode(self, payload: bytes, size: tuple[int, int], reference: LowResReference | None, quality: int) -> Floats:
        """See `LowResCodec.decode`."""
        height, width = size
        rows, columns = -(-height // STRIDE), -(-width // STRIDE)
        if len(payload) < _CHECK.size:
            raise ContainerError("the low-res payload holds no latents")
        latents.require_length(payload[_CHECK.size :], rows, columns, self.entropy_model)
        samples = reference_samples(reference, rows, columns)
        with _one_thread():
            decoded = latents.decode(payload[_CHECK.size :], rows, columns, samples, quality, self.entropy_model)
        if _check(decoded) != _CHECK.unpack_from(payload)[0]:
            raise ContainerError("the low-res payload is damaged: its latents do not fit their CRC-32")
        return self._picture(decoded, height, width, quality)

    @torch.inference_mode()
    def analyse(self, lr: Tensor, quality: int) -> Latents:
        """Return the latents of one picture [3, h, w], in about [0, 1] and of any size, at a quality of 1..100."""
        picture = padded(lr[None], STRIDE)
        height, width = picture.shape[-2:]
        y = lr.new_empty(1, self.net.config.channels, height // STRIDE, width // STRIDE)
        for tile, context in tiles.grid(height, width, tiles.TILE, _HALO, STRIDE):
            part = self.net.forward_transform(picture[(..., *context.slices)])
            y[(..., *tile.reduced(STRIDE).slices)] = part[(..., *tile.within(context).reduced(STRIDE).slices)]
        y *= self.net.gains(torch.tensor([quality / 100], device=lr.device))
        limits = ((y, mixture.LARGEST), (self.net.hyper_transform(y), Z_LARGEST))
        return Latents(*(finite(x[0].cpu().numpy()).round().clip(-most, most).astype(np.int16) for x, most in limits))

    @torch.inference_mode()
    def synthesise(self, y: Whole, height: int, width: int, quality: int) -> Tensor:
        """Return the picture [3, height, width] of latents [n, h, w]."""
        share = torch.tensor([quality / 100], device=self.net.gain.device)
        gains = self.net.gains(share)
        bottom, right = STRIDE * y.shape[1], STRIDE * y.shape[2]
        lr = gains.new_empty(3, bottom, right)
        for tile, context in tiles.grid(bottom, right, tiles.TILE, _HALO, STRIDE):
            own = torch.from_numpy(np.ascontiguousarray(y[(..., *context.reduced(STRIDE).slices)]))
            part = self.net.inverse_transform(own.to(gains)[None] / gains, share)[0]
            lr[(..., *tile.slices)] = part[(..., *tile.within(context).slices)]
        return lr[:, :height, :width]

    def _tensor(self, lr: Floats) -> Tensor:
        return torch.from_numpy(lr.transpose(2, 0, 1) / np.float32(255)).to(self.net.gain)

    def _picture(self, coded: Latents, height: int, width: int, quality: int) -> Floats:
        lr = 255 * self.synthesise(coded.y, height, width, quality).cpu().numpy().transpose(1, 2, 0)
        return np.ascontiguousarray(lr, np.float32)


def reference_samples(reference: NDArray[np.uint8] | None, rows: int, columns: int) -> Tensor:
    """Return a low-res reference [h, w, 3] for the entropy model, [3, 8 rows, 8 columns] in -128..127."""
    if reference is None:
        return torch.zeros((), dtype=torch.int8).expand(3, STRIDE * rows, STRIDE * columns)
    bottom, right = STRIDE * rows - reference.shape[0], STRIDE * columns - reference.shape[1]
    extended = np.pad(reference, ((0, bottom), (0, right), (0, 0)), "edge").transpose(2, 0, 1)
    return torch.from_numpy((extended ^ 128).view(np.int8))


@cache
def _thread_pools() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


def _one_thread() -> AbstractContextManager[object]:
    """Limit the small matrix products of a wavefront to one thread: two are slower, much slower on a busy machine.

    It applies to the calling thread alone, like OpenMP's number of threads (`torch.set_num_threads` would also apply to
    threads that start meanwhile, and permanently if two calls overlap). If the caller has set torch's number of
    threads, MKL uses that.
    """
    limited: AbstractContextManager[object] = _thread_pools().limit(limits=1, user_api="openmp")
    return limited


def _check(coded: Latents) -> int:
    """Return the CRC-32 of latents, y before z, as 16-bit integers."""
    check = 0
    for plane in itertools.chain(coded.y, coded.z):
        check = zlib.crc32(plane.astype("<i2").tobytes(), check)
    return check
