"""NETWORK.md, "Untied": the upscaler of integers."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reader.flow import haar, inverse_haar
from reader.weights import Weights


def bf(x: Tensor) -> Tensor:
    return x.bfloat16().double()


def signed(x: Tensor) -> Tensor:
    return x.clamp(-127, 127).round()


def rectified(x: Tensor) -> Tensor:
    return torch.where(x < 0, x / 4, x).clamp(-64, 191).round()


def ratio(a: np.ndarray | int, unit: int, b: int) -> np.ndarray | int:
    return (2 * unit * a + b) // (2 * b)


def coarse_and_fine(x: Tensor) -> list[Tensor]:
    coarse = signed(x)
    return [coarse, signed(127 * (x - coarse))]


class Untied:
    """From its weights; all numbers are carried in 64-bit floats."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self.config = weights, weights.config

    def conv(self, name: str, x: Tensor) -> Tensor:
        weight, bias, exponent = (
            self.weights.integers(f"upscaler.{name}.{part}") for part in ("weight", "bias", "exponent")
        )
        if (191 * abs(weight).sum(axis=(1, 2, 3)) + abs(bias)).max() > 1 << 24:
            raise ValueError("sums are not exact")
        kernel, start = (torch.from_numpy(part.astype(np.float64)) for part in (weight, bias))
        t = functional.conv2d(x[None], kernel, start, padding=1)[0]
        return bf(t * torch.from_numpy(2.0**exponent)[:, None, None])

    def stretched(self, levels: np.ndarray, rows: int, columns: int) -> np.ndarray:
        """Return M [rows, columns]."""
        d, m = self.config["map_divisor"], levels
        for _ in range(2):  # along the columns, then transposed, along the rows
            left, right = np.hstack([m[:, :1], m[:, :-1]]), np.hstack([m[:, 1:], m[:, -1:]])
            places = []
            for i in range(d):
                a = 2 * i + 1 - d
                places.append((2 * d - abs(a)) * m + abs(a) * (left if a < 0 else right))
            m = np.stack(places, axis=2).reshape(m.shape[0], -1).T
        return (m * 16 // (d * d))[:rows, :columns]

    @torch.no_grad()
    def up(self, low_res: Tensor, reference: Tensor | None, levels: np.ndarray | None, quality: int) -> Tensor:
        """[3, lh, lw] and the reference [3, 2 lh, 2 lw] on 0..255 -> [3, 2 lh, 2 lw] in sixteenths."""
        low_res = (16 * low_res.double()).round() / 16
        _, rows, columns = low_res.shape
        full = 64 * (self.config["map_levels"] - 1)
        if reference is None or levels is None:
            m, t = np.zeros((rows, columns), np.int64), torch.zeros(12, rows, columns, dtype=torch.float64)
        else:
            m, t = self.stretched(levels, rows, columns), haar((16 * reference.double()).round() / 16)
        each = [ratio(m, 127, full), ratio(quality, 127, 100), ratio(quality**4, 127, 100**4)]
        planes = torch.from_numpy(np.stack([np.broadcast_to(x, m.shape) for x in each]).astype(np.float64))
        gate = torch.from_numpy(ratio(m, 16, full) / 16)
        known = torch.cat([*coarse_and_fine(t[:3] - 128), signed(2 * t[3:])])
        g = rectified(bf(gate * self.conv("ref_in", known)))
        own = torch.cat([*coarse_and_fine(low_res - 128), planes])
        x = bf(self.conv("input", own) + self.conv("inject.0", g))
        phase = bf(32 * self.weights.floats("upscaler.phase")[0])
        x = bf(x + phase[:, torch.arange(rows) % 8][:, :, torch.arange(columns) % 8])
        for j in range(self.config["up_blocks"]):
            if j == self.config["up_blocks"] // 2:
                x = bf(x + self.conv("inject.1", g))
            x = bf(x + self.conv(f"blocks.{j}.second", rectified(self.conv(f"blocks.{j}.first", signed(x)))))
        o = (16 * self.conv("output", signed(x))).round() / 16
        return inverse_haar(torch.cat([low_res + o[:3], o[3:]]))
