"""NETWORK.md, "Flow": low-res picture, reference and map -> picture."""

import torch
from torch import Tensor
from torch.nn import functional

from reader.weights import Weights


def leaky(x: Tensor) -> Tensor:
    return torch.where(x < 0, 0.2 * x, x)


def haar(x: Tensor) -> Tensor:
    """[c, 2r, 2s] -> [4c, r, s]."""
    a, b, d, e = x[:, ::2, ::2], x[:, ::2, 1::2], x[:, 1::2, ::2], x[:, 1::2, 1::2]
    return torch.cat([a + b + d + e, a - b + d - e, a + b - d - e, a - b - d + e]) / 4


def inverse_haar(y: Tensor) -> Tensor:
    """[4c, r, s] -> [c, 2r, 2s]."""
    m, h, v, g = y.chunk(4)
    x = y.new_empty(len(m), 2 * y.shape[1], 2 * y.shape[2])
    x[:, ::2, ::2], x[:, ::2, 1::2] = m + h + v + g, m - h + v - g
    x[:, 1::2, ::2], x[:, 1::2, 1::2] = m + h - v - g, m - h - v + g
    return x


class Flow:
    """The conditional invertible net, from its weights."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self.config = weights, weights.config
        self.stages = {2: 1, 4: 2}[self.config["scale"]]

    def conv(self, name: str, x: Tensor) -> Tensor:
        weight = self.weights.floats(f"{name}.weight")
        bias = None if name.endswith("inject") else self.weights.floats(f"{name}.bias")
        return functional.conv2d(x[None], weight, bias, padding=weight.shape[-1] // 2)[0]

    def sub_net(self, name: str, x: Tensor, condition: Tensor) -> Tensor:
        h = leaky(self.conv(f"{name}.input", x) + self.conv(f"{name}.inject", condition))
        h = leaky(h + self._residual(f"{name}.body", h))
        return self.conv(f"{name}.output", h)

    def _residual(self, name: str, x: Tensor) -> Tensor:
        return self.conv(f"{name}.second", leaky(self.conv(f"{name}.first", x)))

    def features(self, reference: Tensor) -> list[Tensor]:
        """[f_k, t_k] of each stage, of a reference [3, H, W] on 0..1."""
        t, f, found = haar(reference), None, []
        for k in range(self.stages):
            if f is not None:
                t = haar(t[:3])
            before = t if f is None else torch.cat([t, functional.pixel_unshuffle(f, 2)])
            f = leaky(self.conv(f"refnet.inputs.{k}", before))
            for group in range(2):
                y = f
                for block in range(2):
                    y = y + self._residual(f"refnet.groups.{k}.{group}.blocks.{block}", y)
                f = f + 0.2 * y
            found.append(torch.cat([f, t]))
        return found

    def stretched(self, levels: Tensor, rows: int, columns: int) -> Tensor:
        """The map [cells down, cells right] in levels -> [1, rows, columns] on 0..1."""
        s = levels.float() / (self.config["map_levels"] - 1)

        def along(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
            x = ((torch.arange(n) + 0.5) * (m / n) - 0.5).clamp(min=0)
            j = x.long()
            return j, (j + 1).clamp(max=m - 1), x - j

        (top, below, dy), (left, beside, dx) = along(rows, s.shape[0]), along(columns, s.shape[1])
        s = (1 - dy)[:, None] * s[top] + dy[:, None] * s[below]
        return ((1 - dx) * s[:, left] + dx * s[:, beside])[None]

    def condition(
        self, reference: Tensor | None, levels: Tensor | None, quality: int, size: tuple[int, int]
    ) -> list[Tensor]:
        """The condition of each stage, for a picture of the padded size."""
        found, q = [], quality / 100
        features = None if reference is None else self.features(reference)
        for k in range(1, self.stages + 1):
            rows, columns = size[0] >> k, size[1] >> k
            if features is None or levels is None:
                known = torch.zeros(self.config["ref_width"] + 13, rows, columns)
            else:
                s = self.stretched(levels, rows, columns)
                known = torch.cat([s * features[k - 1], s])
            planes = torch.tensor([q, q**4])[:, None, None].expand(2, rows, columns)
            found.append(torch.cat([known, planes]))
        return found

    @torch.no_grad()
    def up(self, low_res: Tensor, reference: Tensor | None, levels: Tensor | None, quality: int) -> Tensor:
        """[3, lh, lw] on about 0..1, reference [3, H, W] on 0..1 -> [3, H, W] on about 0..1."""
        size = (self.config["scale"] * low_res.shape[1], self.config["scale"] * low_res.shape[2])
        condition = self.condition(reference, levels, quality, size)
        x = low_res + self.sub_net("restore", low_res, condition[-1])
        for k in reversed(range(self.stages)):
            y = torch.cat([x, x.new_zeros(9, *x.shape[1:])])
            x = {"haar": self._haar_up, "paper": self._paper_up}[self.config["flow"]](
                f"stages.{k}.blocks", y, condition[k]
            )
        return x

    def _haar_up(self, name: str, y: Tensor, condition: Tensor) -> Tensor:
        x, z = y[:3], y[3:]
        for j in range(self.config["blocks"], 0, -1):
            a, b = self.sub_net(f"{name}.{j}.to_rest", x, condition).chunk(2)
            z = (z - b) * torch.exp(-torch.tanh(a) / 2)
            x = x - self.sub_net(f"{name}.{j}.to_lr", z, condition)
        return inverse_haar(torch.cat([x, z]))

    def _paper_up(self, name: str, y: Tensor, condition: Tensor) -> Tensor:
        for j in range(3 * self.config["blocks"], 0, -3):
            u, v = y[:6], y[6:]
            a, b = self.sub_net(f"{name}.{j}.affine", v, condition).chunk(2)
            y = torch.cat([(u + b) * torch.exp(-torch.tanh(a) / 2), v])
            matrix = torch.linalg.inv(self.weights.floats(f"{name}.{j - 1}.matrix").double()).float()
            y = torch.einsum("oi,irc->orc", matrix, y)
            log_scale, bias = (self.weights.floats(f"{name}.{j - 2}.{part}")[0] for part in ("log_scale", "bias"))
            y = y * torch.exp(-log_scale) - bias
        return functional.pixel_shuffle(y, 2)
