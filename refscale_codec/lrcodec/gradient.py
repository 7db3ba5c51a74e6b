"""The gradient of quantisation in training, the same for all low-res codecs.

Rounding has no useful gradient. With the straight-through gradient, nets put detail into coefficients that are then
rounded to zero.
"""

from torch import Tensor

HALF = 1 / 32  # squared coefficient, in quantiser steps, at which half of the gradient passes


def share(steps: Tensor) -> Tensor:
    """Return the share of the gradient that passes, v^2 / (v^2 + `HALF`), itself without a gradient.

    Almost nothing passes where v is rounded to zero, almost all where it is large.

    Args:
        steps: unquantised coefficients v over their step size, of any shape.
    """
    return (steps.square() / (steps.square() + HALF)).detach()
