"""Inter-band prediction: a band group predicted from the decoded first group, to be its reference.

Bands of one picture share their edges, so a linear combination of the first three bands is often closer to a further
band than that band of an older picture is. The encoder fits factors and an offset by least squares, and the file holds
them. Applying them is integer arithmetic, but the input is not exact: the decoded bands are the output of a net, which
may differ by one level between machines. So a prediction is used only as input of the net, which tolerates that, and
not where exactness is needed, such as in entropy coding.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError

ONE = 1 << 12
"""A factor of 1."""

_LIMIT = 8 * ONE - 1  # magnitude of a factor at most
_ROW = np.dtype([("factors", "<i2", (3,)), ("offset", "<i4")])
_SAMPLED = 512  # most rows and columns that are fitted to
_RIDGE = 1.0  # variance added to each band of the source (ridge regression), in squared 8-bit levels
_AT_ONCE = 1 << 19  # about so many pixels are predicted at once, to bound memory


class Row(NamedTuple):
    """Coefficients of a band: the sum of the source's three bands, each times factor / `ONE`, plus the offset."""

    factors: tuple[int, int, int]
    offset: int  # levels


Prediction = tuple[Row, Row, Row]
"""A row for each band of a group."""


def fit(source: NDArray[Any], group: NDArray[Any]) -> Prediction:
    """Return the prediction of least squared error, by ridge regression on a subsampled grid.

    Args:
        source: the decoded first group [h, w, 3], of 8 or 16 bits.
        group: the bands to be predicted, likewise.
    """
    step = -(-max(source.shape[:2]) // _SAMPLED)
    x, y = (pixels[::step, ::step].reshape(-1, 3).astype(np.float64) for pixels in (source, group))
    middle_x, middle_y = x.mean(axis=0), y.mean(axis=0)
    full = np.iinfo(source.dtype).max
    covariance = (x - middle_x).T @ (x - middle_x) / len(x) + _RIDGE * (full / 255) ** 2 * np.eye(3)
    solution = np.linalg.solve(covariance, (x - middle_x).T @ (y - middle_y) / len(x))  # [3 of the source, 3]
    factors = np.rint(ONE * solution).clip(-_LIMIT, _LIMIT).astype(int)
    offsets = np.rint(middle_y - middle_x @ factors / ONE).astype(int)
    first, second, third = (
        Row((int(a), int(b), int(c)), int(offset)) for (a, b, c), offset in zip(factors.T, offsets, strict=True)
    )
    return first, second, third


def predict(source: NDArray[Any], prediction: Prediction) -> NDArray[Any]:
    """Return the predicted group [h, w, 3] in the source's type: products are exact, their sum is rounded once."""
    predicted, full = np.empty_like(source), np.iinfo(source.dtype).max
    factors = np.array([row.factors for row in prediction], np.int64).T
    offsets = np.array([row.offset for row in prediction], np.int64)
    rows = max(1, _AT_ONCE // source.shape[1])
    for top in range(0, len(source), rows):
        sums = source[top : top + rows].astype(np.int64) @ factors
        predicted[top : top + rows] = (((sums + ONE // 2) // ONE) + offsets).clip(0, full)
    return predicted


def pack(prediction: Prediction) -> bytes:
    """Return a prediction as bytes; trailing rows that repeat the one before them are omitted."""
    count = next(n for n in (1, 2, 3) if all(row == prediction[n - 1] for row in prediction[n:]))
    return np.array([tuple(row) for row in prediction[:count]], _ROW).tobytes()


def unpack(payload: bytes) -> Prediction:
    """Return the prediction in a payload; ContainerError if there is none."""
    if len(payload) not in (_ROW.itemsize, 2 * _ROW.itemsize, 3 * _ROW.itemsize):
        raise ContainerError(f"malformed: PREDICTION of {len(payload)} bytes, expected 1 to 3 times {_ROW.itemsize}")
    rows = [Row((int(a), int(b), int(c)), int(offset)) for (a, b, c), offset in np.frombuffer(payload, _ROW)]
    first, second, third = (rows + [rows[-1]] * 2)[:3]
    prediction = first, second, third
    if pack(prediction) != payload:
        raise ContainerError("malformed: PREDICTION repeats its last row")
    return prediction
