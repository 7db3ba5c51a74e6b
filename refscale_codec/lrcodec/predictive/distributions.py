"""What is expected around a prediction: tables of a mixture of two logistic distributions, in whole numbers.

The tables are computed when they are first needed. They take only +, -, *, / and exp of doubles, and no entry lies so
near to a half that another library's exp could round it to another whole number (a test).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

OCTAVE = 8
"""Scales in a factor of two."""
PHASES = 32
"""Positions of a prediction between two values."""
SYMBOLS = 48
"""Of a sample: its distance from the prediction in cells, the first and the last one for all that lie further off."""
MIDDLE = SYMBOLS // 2
"""The symbol of the cell of the prediction itself."""

LOWEST = -5 * OCTAVE  # the smallest scale is 2^-5 of a cell
_HIGHEST = 2 * OCTAVE  # larger ones have larger cells: this is 4 of them
SCALES = _HIGHEST - LOWEST

_TAIL, _WIDER = 0.03, 3.0  # share of the wider distribution, and its scale in those of the narrower one
_ONE = 1 << 22  # probabilities are rounded to whole parts of it
_FLOOR = 2  # so many at least: no symbol is impossible


def _logistic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -500, 500))))


@lru_cache(1)
def probabilities() -> NDArray[np.float64]:
    """Return the probabilities of all symbols, [SCALES * PHASES, SYMBOLS], multiples of 2^-22; rows add up to about 1.

    Row `scale * PHASES + phase` is for the scale 2^((LOWEST + scale) / OCTAVE) of a cell and a prediction that lies
    (phase + 1/2) / PHASES - 1/2 of a cell above the middle of its own.
    """
    return np.maximum(np.rint(_ONE * _masses()), _FLOOR) / _ONE


def _masses() -> NDArray[np.float64]:
    edges = np.arange(1, SYMBOLS) - MIDDLE - 0.5
    means = (np.arange(PHASES) + 0.5) / PHASES - 0.5
    scales = 2.0 ** ((LOWEST + np.arange(SCALES)) / OCTAVE)
    away = (edges - means[:, None]) / scales[:, None, None]
    below = (1 - _TAIL) * _logistic(away) + _TAIL * _logistic(away / _WIDER)
    return np.diff(below, axis=-1, prepend=0.0, append=1.0).reshape(SCALES * PHASES, SYMBOLS)
