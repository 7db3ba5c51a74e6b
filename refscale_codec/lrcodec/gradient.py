"""How much of a gradient passes quantisation in training, the same for all low-res codecs.

Rounding has no gradient of its own. Where gradients pass as if it were not there (straight through), nets hide detail
in coefficients that are then rounded away.
"""

from torch import Tensor

HALF = 1 / 32  # the square, in quantiser steps, of a coefficient half of whose gradient passes


def share(steps: Tensor) -> Tensor:
    """Return the share of the gradient that passes, v^2 / (v^2 + `HALF`), without a gradient of its own.

    Almost nothing passes where v is rounded away, almost all where it is large.

    Args:
        steps: unquantised coefficients v over their step size, of any shape.
    """
    return (steps.square() / (steps.square() + HALF)).detach()
