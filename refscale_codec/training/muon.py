"""Muon: steps of equal size in all directions of a matrix (Keller Jordan et al., 2024).

The momentum of a convolution's kernels, as a matrix [out, in * 3 * 3], is made orthogonal by five Newton-Schulz steps.
Steps have the root mean square 0.2 of Adam's (Liu et al., arXiv 2502.16982), so its learning rates do.
torch's own `optim.Muon` takes matrices only.
"""

from collections import defaultdict
from collections.abc import Iterable
from math import sqrt

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """For the kernels [out, in, h, w] of hidden convolutions, with Nesterov momentum."""

    def __init__(self, kernels: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        """Start with no momentum."""
        super().__init__(kernels, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step along the gradients; kernels without one stay."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                state = self.state[kernel]
                if not state:
                    state["momentum"] = torch.zeros_like(kernel)
                momentum = state["momentum"].lerp_(kernel.grad, 1 - group["momentum"])
                alike[kernel.shape].append((kernel, kernel.grad.lerp(momentum, group["momentum"])))
            for (out, channels, height, width), kernels in alike.items():
                steps = orthogonal(torch.stack([x.permute(0, 2, 3, 1).reshape(out, -1) for _, x in kernels]))
                for (kernel, _), step in zip(kernels, steps, strict=True):
                    change = step.reshape(out, height, width, channels).permute(0, 3, 1, 2)
                    kernel.add_(change, alpha=-0.2 * sqrt(max(step.shape)) * group["lr"])


def orthogonal(x: Tensor) -> Tensor:
    """Return matrices [n, rows, columns] with their singular values brought to about 1 (0.7 to 1.2).

    A Newton-Schulz step multiplies by a polynomial of x x^T. Polynomials of one matrix commute, so all steps are taken
    on the small square matrices, and x is multiplied once, by their product.
    """
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-12)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    square = x @ x.mT
    unit = torch.eye(x.shape[1], device=x.device)
    product = unit
    for _ in range(5):
        factor = 3.4445 * unit - 4.7750 * square + 2.0315 * (square @ square)
        product, square = factor @ product, factor @ square @ factor
    x = product @ x
    return x.mT if tall else x
