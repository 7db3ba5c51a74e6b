"""The samples of a wavefront <-> symbols: how many steps they lie from their predictions."""

import math

import numpy as np
from numpy.typing import NDArray

from refscale_codec.lrcodec.predictive import distributions
from refscale_codec.lrcodec.predictive.distributions import LOWEST, MIDDLE, OCTAVE, PHASES, SCALES, SYMBOLS
from refscale_codec.lrcodec.predictive.neighbourhood import FRACTION, LG, Exact
from refscale_codec.lrcodec.predictive.scan import Front
from refscale_codec.rangecoder import Coder

_LARGEST_SHIFT = 16


class ResidualCoder:
    """Codes the wavefronts of a plane; a `scan.Visit`.

    Where the scale is large, 2^shift steps make a cell: the symbol is the cell, and the step in it comes as it is.
    """

    def __init__(self, coder: Coder, step: int, highest: int, plane: Exact | None = None) -> None:
        """Start.

        Args:
            coder: an encoder or a decoder.
            step: between the levels that are told apart around a prediction.
            highest: the highest level.
            plane: the samples, flattened, for an encoder.
        """
        self._coder, self._step, self._highest, self._plane = coder, step, highest, plane
        self._coarser = round(OCTAVE * math.log2(step)) + LOWEST
        self._probabilities = distributions.probabilities()

    def __call__(self, front: Front) -> Exact:
        """Return the samples of a wavefront as the decoder has them."""
        middle = np.floor(front.mean / FRACTION + 0.5)
        scale = np.floor(front.scale / (LG // OCTAVE)) - self._coarser
        shift = np.clip(-np.floor((SCALES - 1 - scale) / OCTAVE), 0, _LARGEST_SHIFT)
        size = np.exp2(shift)
        half = np.floor(size / 2)  # so many steps below the middle its cell begins
        off = (front.mean - FRACTION * middle) * (PHASES / FRACTION) / self._step + (shift > 0) * (PHASES / 2)
        row = np.clip(scale - OCTAVE * shift, 0, SCALES - 1) * PHASES + np.floor(off / size) + PHASES // 2
        probabilities = self._probabilities[row.astype(np.intp)]

        away = np.zeros(len(middle))
        if self._plane is not None:
            away = np.floor((self._plane[front.at] - middle) / self._step + 0.5) + half
        cell = self._cells(probabilities, np.floor(away / size))
        inside = away - size * cell
        for bits in np.unique(shift[shift > 0]):
            which = np.flatnonzero(shift == bits)
            inside[which] = self._coder.uniforms(1 << int(bits), inside[which].astype(np.int32))
        if self._plane is None:
            inside[shift == 0] = 0
        return np.asarray(np.clip(middle + self._step * (cell * size + inside - half), 0, self._highest))

    def _cells(self, probabilities: NDArray[np.float64], cell: Exact) -> Exact:
        """Code cells: 0 is that of the prediction."""
        symbol = np.clip(cell + MIDDLE, 0, SYMBOLS - 1).astype(np.int32)
        symbol = self._coder.symbols(probabilities, symbol)
        found = (symbol - MIDDLE).astype(np.float64)
        for place in np.flatnonzero((symbol == 0) | (symbol == SYMBOLS - 1)):
            further = self._coder.unsigned(int(abs(cell[place] - found[place])))
            found[place] += further if symbol[place] else -further
        return found
