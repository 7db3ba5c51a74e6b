"""NETWORK.md, "FGRN": low-res picture -> picture."""

import torch
from torch import Tensor
from torch.nn import functional

from reader.flow import leaky
from reader.weights import Weights


class Fgrn:
    """The flow guidance module backwards, then the upscaler, from their weights."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self.config = weights, weights.config

    def conv(self, name: str, x: Tensor) -> Tensor:
        weight, bias = (self.weights.floats(f"{name}.{part}") for part in ("weight", "bias"))
        return functional.conv2d(x[None], weight, bias, padding=1)[0]

    def dense(self, name: str, h: Tensor) -> Tensor:
        for layer in range(4):
            h = torch.cat([h, leaky(self.conv(f"{name}.layers.{layer}", h))])
        return self.conv(f"{name}.layers.4", h)

    @torch.no_grad()
    def up(self, low_res: Tensor) -> Tensor:
        """[3, lh, lw] on about 0..1 -> [3, scale lh, scale lw] on about 0..1."""
        x = low_res - 0.5
        for j in reversed(range(self.config["cells"])):
            name, u, v = f"guidance.cells.{j}", x[:1], x[1:]
            v = (v - self.dense(f"{name}.phi", u)) * torch.exp(-torch.tanh(self.dense(f"{name}.beta", u)) / 2)
            x = torch.cat([u - self.dense(f"{name}.alpha", v), v])
        h = self.conv("upscaler.input", (255 * (x + 0.5).clamp(0, 1)).round() / 255 - 0.5)
        for j in range(self.config["up_blocks"]):
            h = h + self.conv(f"upscaler.blocks.{j}.second", leaky(self.conv(f"upscaler.blocks.{j}.first", h)))
        for k in range({2: 1, 4: 2}[self.config["scale"]]):
            h = functional.pixel_shuffle(self.conv(f"upscaler.doublings.{k}", h), 2)
        return self.conv("upscaler.output", h) + 0.5
