"""NETWORK.md, "Synthesis": latents -> low-res picture."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reader.weights import Weights


def small_leaky(x: Tensor) -> Tensor:
    return torch.where(x < 0, 0.01 * x, x)


class Synthesis:
    """The learned codec's way from latents to a picture."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def conv(self, name: str, x: Tensor) -> Tensor:
        weight, bias = (self.weights.floats(f"low_res.{name}.{part}") for part in ("weight", "bias"))
        return functional.conv2d(x[None], weight, bias, padding=weight.shape[-1] // 2)[0]

    def residual(self, name: str, x: Tensor) -> Tensor:
        return x + small_leaky(self.conv(f"{name}.conv2", small_leaky(self.conv(f"{name}.conv1", x))))

    def upsampling(self, name: str, x: Tensor) -> Tensor:
        h = small_leaky(functional.pixel_shuffle(self.conv(f"{name}.subpel_conv.0", x), 2))
        h = self.conv(f"{name}.conv", h)
        beta, gamma = (self.weights.floats(f"low_res.{name}.igdn.{part}") for part in ("beta", "gamma"))
        beta = beta.clamp(min=math.sqrt(1e-6 + 2**-36)) ** 2 - 2**-36
        gamma = gamma.clamp(min=2**-18) ** 2 - 2**-36
        h = h * torch.sqrt(beta[:, None, None] + torch.einsum("ij,jrc->irc", gamma, h**2))
        return h + functional.pixel_shuffle(self.conv(f"{name}.upsample.0", x), 2)

    def attention(self, name: str, x: Tensor) -> Tensor:
        def units(part: str) -> Tensor:
            h = x
            for i in range(3):
                inner = h
                for j in (0, 2):
                    inner = functional.relu(self.conv(f"{name}.{part}.{i}.conv.{j}", inner))
                h = functional.relu(h + self.conv(f"{name}.{part}.{i}.conv.4", inner))
            return h

        return x + units("conv_a") * torch.sigmoid(self.conv(f"{name}.conv_b.3", units("conv_b")))

    @torch.no_grad()
    def picture(self, y: np.ndarray, quality: int) -> Tensor:
        """Latents [n, h, w] -> [3, 8h, 8w] on about 0..255."""
        p = max(2, 5000 / quality if quality < 50 else 200 - 2 * quality)
        kappa = math.log(p / 2) / math.log(2500)
        i = min(int(8 * kappa), 7)
        t, knots = 8 * kappa - i, self.weights.floats("low_res.gain")
        v = torch.from_numpy(y).float() / torch.exp((1 - t) * knots[i] + t * knots[i + 1])[:, None, None]
        planes = torch.tensor([kappa, 4 * kappa**2])[:, None, None].expand(2, *y.shape[1:])
        x = self.conv("synthesis.0", torch.cat([v / 4, planes]))
        x = self.upsampling("synthesis.2", self.residual("synthesis.1", x))
        x = self.residual("synthesis.4", self.attention("synthesis.3", x))
        x = functional.pixel_shuffle(self.conv("synthesis.6.0", self.upsampling("synthesis.5", x)), 2)
        bases = self.weights.floats("low_res.inverse_dct")
        d = torch.einsum("ibus,irc->brucs", bases, v).reshape(x.shape)
        return 255 * (x / 4 + d + 0.5)
