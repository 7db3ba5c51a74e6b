"""The coefficients of a plane in a payload: the offset, then Rice codes, with a parameter for each kind."""

import numpy as np

from refscale_codec.errors import ContainerError
from refscale_codec.lrcodec.predictive.neighbourhood import OWN, Counts, Exact
from refscale_codec.lrcodec.predictive.scan import LARGEST, LARGEST_OFFSET, Coefficients
from refscale_codec.rangecoder import Coder

_PARAMETERS = 16
_OUT_OF_RANGE = "the LR payload is damaged: a coefficient is out of range"


def code(coder: Coder, counts: Counts, fitted: Coefficients | None) -> Coefficients:
    """Code the coefficients of a plane; `fitted` are those of an encoder.

    Raises:
        ContainerError: one is larger than `scan.LARGEST`, or the offset than `scan.LARGEST_OFFSET`.
    """
    own, values, own_activity, activity = fitted or (np.zeros(size) for size in (len(OWN), *counts))
    offset = coder.signed(int(values[0]))
    if abs(offset) > LARGEST_OFFSET:
        raise ContainerError(_OUT_OF_RANGE)
    own, rest, own_activity, activity = (_coded(coder, kind) for kind in (own, values[1:], own_activity, activity))
    return Coefficients(own, np.append(float(offset), rest), own_activity, activity)


def _coded(coder: Coder, kind: Exact) -> Exact:
    folded = [2 * value if value >= 0 else -2 * value - 1 for value in map(int, kind)]  # 0, -1, 1, -2 ...
    parameter = min(range(_PARAMETERS), key=lambda k: sum((value >> k) + k for value in folded))
    parameter = coder.uniform(_PARAMETERS, parameter)
    found = np.empty(len(kind))
    for index, value in enumerate(folded):
        above = 0
        while not coder.bit(int(above == value >> parameter)):
            above += 1
            if above << parameter > 2 * LARGEST:
                raise ContainerError(_OUT_OF_RANGE)
        value = above << parameter
        for place in reversed(range(parameter)):
            value |= coder.bit(folded[index] >> place & 1) << place
        if value > 2 * LARGEST:
            raise ContainerError(_OUT_OF_RANGE)
        found[index] = -(value + 1) // 2 if value % 2 else value // 2
    return found
