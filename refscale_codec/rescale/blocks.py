"""Invertible blocks and the sub-nets inside them.

Contract: every block has `forward(x, condition)` and `inverse(y, condition)`; `inverse(forward(x, c), c)` equals `x` up
to rounding for every input shape with even sides (tested in float64 and float32). A block that needs no condition
ignores it, so that a flow is a plain sequence.

Sources: un-normalised Haar split and the 3 | rest coupling after IRN (Xiao et al., arXiv 2005.05650); ActNorm and the
invertible 1x1 convolution after Glow (Kingma and Dhariwal, arXiv 1807.03039); the conditional affine coupling is
RefScale's Eq. 10 and 11. Log-determinants are omitted: nothing is trained by likelihood.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


def leaky_(x: Tensor) -> Tensor:
    """Apply the activation of all nets here, in place."""
    return functional.leaky_relu_(x, 0.2)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around an identity: [b, width, h, w] -> the same shape."""

    def __init__(self, width: int) -> None:
        """Build the block for `width` channels."""
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus the residual."""
        residual: Tensor = self.second(leaky_(self.first(x)))
        return residual.add_(x)


class SubNet(nn.Module):
    """The learnable function inside a coupling; its last convolution starts at zero, and so the coupling as identity.

    The condition already has spatial context from the Ref-Net, so a 1x1 convolution injects it.
    """

    def __init__(self, channels_in: int, channels_out: int, condition: int, width: int) -> None:
        """Build the sub-net; `condition` is the number of condition channels, `width` that of hidden ones."""
        super().__init__()
        self.input = nn.Conv2d(channels_in, width, 3, padding=1)
        self.inject = nn.Conv2d(condition, width, 1, bias=False)
        self.body = ResidualBlock(width)
        self.output = nn.Conv2d(width, channels_out, 3, padding=1)
        nn.init.zeros_(self.output.weight)
        assert self.output.bias is not None
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map x [b, channels_in, h, w] and the condition [b, condition, h, w] to [b, channels_out, h, w] in float."""
        hidden = leaky_(self.input(x).add_(self.inject(condition)))
        hidden = leaky_(self.body(hidden))
        return self.output(hidden).to(x.dtype)  # type: ignore[no-any-return]


class DenseBlock(nn.Module):
    """IRN's sub-net: 3x3 convolutions, each on everything before it; the last one starts at zero."""

    LAYERS = 5

    def __init__(self, channels_in: int, channels_out: int, growth: int) -> None:
        """Build it; every layer but the last adds `growth` channels."""
        super().__init__()
        sizes = [growth] * (self.LAYERS - 1) + [channels_out]
        self.layers = nn.ModuleList(
            nn.Conv2d(channels_in + index * growth, size, 3, padding=1) for index, size in enumerate(sizes)
        )
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [b, channels_in, h, w] to [b, channels_out, h, w] in its own type."""
        hidden = x
        for layer in self.layers[:-1]:
            hidden = torch.cat([hidden, leaky_(layer(hidden))], dim=1)
        output: Tensor = self.layers[-1](hidden)
        return output.to(x.dtype)


def bounded(log_scale: Tensor) -> Tensor:
    """Bound a log-scale to (-0.5, 0.5): stacked exponentials compound, and without a bound training diverges."""
    return 0.5 * torch.tanh(log_scale)


class HaarSplit(nn.Module):
    """Un-normalised Haar transform: [b, c, h, w] -> [b, 4c, h/2, w/2]; the first c channels are the 2x2 mean."""

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Split an image with even sides into mean, horizontal, vertical and diagonal detail."""
        a, b = x[..., 0::2, 0::2], x[..., 0::2, 1::2]
        c, d = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
        return torch.cat([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], dim=1) / 4  # [b, 4c, h/2, w/2]

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> Tensor:
        """Undo `forward`."""
        mean, horizontal, vertical, diagonal = y.chunk(4, dim=1)
        rows = [
            torch.stack([mean + horizontal + vertical + diagonal, mean - horizontal + vertical - diagonal], dim=-1),
            torch.stack([mean + horizontal - vertical - diagonal, mean - horizontal - vertical + diagonal], dim=-1),
        ]  # two times [b, c, h/2, w/2, 2]
        return torch.stack(rows, dim=-3).flatten(-2).flatten(-3, -2)  # [b, c, h, w]


class Squeeze(nn.Module):
    """Space to channels: [b, c, h, w] -> [b, 4c, h/2, w/2], RefScale's squeeze block."""

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Move each 2x2 neighbourhood of an image with even sides into channels."""
        return functional.pixel_unshuffle(x, 2)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> Tensor:
        """Undo `forward`."""
        return functional.pixel_shuffle(y, 2)


class SplitCoupling(nn.Module):
    """Coupling of the `haar` flow between the low-res picture (first 3 channels) and the rest.

    lr' = lr + F(rest, c);  rest' = rest * exp(scale(lr', c)) + G(lr', c).
    """

    def __init__(self, channels: int, condition: int, width: int) -> None:
        """Build for `channels` in all; scale and G share one sub-net."""
        super().__init__()
        rest = channels - 3
        self.to_lr = SubNet(rest, 3, condition, width)
        self.to_rest = SubNet(3, 2 * rest, condition, width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return [lr', rest'] for x = [lr, rest], both [b, channels, h, w]."""
        lr, rest = x[:, :3], x[:, 3:]
        lr = lr + self.to_lr(rest, condition)
        log_scale, shift = self.to_rest(lr, condition).chunk(2, dim=1)
        return torch.cat([lr, rest * torch.exp(bounded(log_scale)) + shift], dim=1)

    def inverse(self, y: Tensor, condition: Tensor) -> Tensor:
        """Undo `forward` under the same condition."""
        lr, rest = y[:, :3], y[:, 3:]
        log_scale, shift = self.to_rest(lr, condition).chunk(2, dim=1)
        rest = (rest - shift) * torch.exp(-bounded(log_scale))
        return torch.cat([lr - self.to_lr(rest, condition), rest], dim=1)


class ActNorm(nn.Module):
    """Affine map of each channel of [b, c, h, w], from the first training batch's to zero mean and unit deviation."""

    def __init__(self, channels: int) -> None:
        """Build for `channels`; whether it is initialised is stored with the weights."""
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("initialised", torch.zeros(1))
        self.initialised: Tensor

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (x + bias) * exp(log_scale)."""
        if self.training and not self.initialised.item():
            with torch.no_grad():
                self.bias.copy_(-x.mean(dim=(0, 2, 3), keepdim=True))
                self.log_scale.copy_(-torch.log(x.std(dim=(0, 2, 3), keepdim=True) + 1e-3))
                self.initialised.fill_(1)
        return (x + self.bias) * torch.exp(self.log_scale)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> Tensor:
        """Undo `forward`."""
        return y * torch.exp(-self.log_scale) - self.bias


class InvertibleConv1x1(nn.Module):
    """A square matrix over the channels of [b, c, h, w], started as a random rotation."""

    def __init__(self, channels: int) -> None:
        """Build for `channels`."""
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels))
        self.matrix = nn.Parameter(rotation)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Multiply each pixel's channels by the matrix."""
        return functional.conv2d(x, self.matrix[:, :, None, None])

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> Tensor:
        """Multiply by the inverse, taken in float64."""
        inverse = torch.linalg.inv(self.matrix.double()).to(y.dtype)
        return functional.conv2d(y, inverse[:, :, None, None])


class ConditionalAffine(nn.Module):
    """RefScale's conditional affine coupling, Eq. 10 and 11: a' = a * exp(psi(b, c)) - phi(b, c);  b' = b."""

    def __init__(self, channels: int, condition: int, width: int) -> None:
        """Build for `channels`, of which the first half is a; psi and phi share one sub-net."""
        super().__init__()
        self.kept = channels - channels // 2
        self.affine = SubNet(self.kept, 2 * (channels - self.kept), condition, width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return [a', b'] for x = [a, b], both [b, channels, h, w]."""
        a, b = x[:, : -self.kept], x[:, -self.kept :]
        log_scale, shift = self.affine(b, condition).chunk(2, dim=1)
        return torch.cat([a * torch.exp(bounded(log_scale)) - shift, b], dim=1)

    def inverse(self, y: Tensor, condition: Tensor) -> Tensor:
        """Undo `forward` under the same condition."""
        a, b = y[:, : -self.kept], y[:, -self.kept :]
        log_scale, shift = self.affine(b, condition).chunk(2, dim=1)
        return torch.cat([(a + shift) * torch.exp(-bounded(log_scale)), b], dim=1)


class Flow(nn.Module):
    """A sequence of invertible blocks that share one condition: [b, 3, h, w] <-> [b, 12, h/2, w/2] in the nets here."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        """Chain the blocks in this order."""
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Apply all blocks."""
        for block in self.blocks:
            x = block(x, condition)
        return x

    def inverse(self, y: Tensor, condition: Tensor) -> Tensor:
        """Apply all inverses, last block first."""
        for block in reversed(self.blocks):
            y = block.inverse(y, condition)  # type: ignore[operator]
        return y


def haar_stage(blocks: int, condition: int, width: int) -> Flow:
    """Return one x2 stage of the `haar` flow for RGB: Haar split, then couplings 3 | 9."""
    return Flow([HaarSplit(), *(SplitCoupling(12, condition, width) for _ in range(blocks))])


def paper_stage(blocks: int, condition: int, width: int) -> Flow:
    """Return one x2 stage of the `paper` flow for RGB: squeeze, then ActNorm, 1x1 and coupling, `blocks` times."""
    flow: list[nn.Module] = [Squeeze()]
    for _ in range(blocks):
        flow += [ActNorm(12), InvertibleConv1x1(12), ConditionalAffine(12, condition, width)]
    return Flow(flow)
