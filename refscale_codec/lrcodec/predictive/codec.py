"""The codec of samples: `PredictiveCodec`."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.lrcodec.interface import USUAL, CodedLowRes, Floats, LowResReference
from refscale_codec.lrcodec.predictive import coefficients, distributions, fitting, neighbourhood, scan
from refscale_codec.lrcodec.predictive.neighbourhood import ORDER, REACH, Exact
from refscale_codec.lrcodec.predictive.residuals import ResidualCoder
from refscale_codec.lrcodec.predictive.scan import Coefficients
from refscale_codec.rangecoder import Coder, Decoder, Encoder

_STRIP = 128  # rows for which what is known is computed at once
_WHOLE = np.float32  # holds all levels, and errors in 1 / FRACTION of them


class PredictiveCodec:
    """Codes samples of 8 or 16 bits; quality 100 is lossless, below it the step grows by about 9 %."""

    id = 3
    exact = True
    conditional = True
    has_thrift = False

    def code(self, lr: Floats, reference: LowResReference | None, quality: int, thrift: float = USUAL) -> CodedLowRes:
        """See `LowResCodec`. Samples are rounded to 8 bits if all of them are whole, else to 16, and clipped."""
        highest = 255 if np.array_equal(lr, np.rint(lr)) else 0xFFFF
        planes = [np.rint(np.float32(highest // 255) * lr[..., band]).clip(0, highest) for band in ORDER]
        coder = Encoder()
        coder.bit(int(highest > 255))
        received = _code(coder, planes, lr.shape[:2], _planes(reference, highest), step_of(quality), highest)
        return CodedLowRes(coder.payload(), _joined(received, highest))

    def decode(self, payload: bytes, size: tuple[int, int], reference: LowResReference | None, quality: int) -> Floats:
        """See `LowResCodec`; a payload that is too short for any picture of the size is refused at once."""
        _require_length(payload, *size)
        coder = Decoder(payload, "the LR payload")
        highest = 0xFFFF if coder.bit() else 255
        received = _code(coder, None, size, _planes(reference, highest), step_of(quality), highest)
        coder.require_end()
        return _joined(received, highest)


def _require_length(payload: bytes, height: int, width: int) -> None:
    """Raise a ContainerError for too few bytes: no symbol is certain, so each takes a part of a bit at least."""
    bits = -3 * height * width * math.log2(float(distributions.probabilities().max()))
    if 8 * len(payload) + 64 < 0.9 * bits:  # the range coder ends within two words, and rounds probabilities
        raise ContainerError(f"the LR payload is damaged: {len(payload)} bytes are too few for the picture's size")


def step_of(quality: int) -> int:
    """Return the step of a quality of 1..100 in levels: 1 at 100, 2, 3 ... and further down each by 9 % more.

    The error of a sample is at most half a step, rounded down.
    """
    step = 1
    for _ in range(100 - quality):
        step = max(step + 1, (109 * step + 50) // 100)
    return step


def quality_of(largest_error: int) -> int:
    """Return the lowest quality at which no sample is further off than this, in levels: 100 for 0."""
    return next(quality for quality in range(1, 101) if step_of(quality) // 2 <= largest_error)


def _planes(reference: LowResReference | None, highest: int) -> list[Exact]:
    """Return the planes of a reference in `ORDER`, in levels up to the highest."""
    if reference is None:
        return []
    levels = reference.astype(_WHOLE)
    if highest > 255 and reference.dtype == np.uint8:
        levels *= 257
    elif highest == 255 and reference.dtype != np.uint8:
        levels = np.floor(levels.astype(np.float64) / 257 + 0.5).astype(_WHOLE)
    return [levels[..., band] for band in ORDER]


def _joined(planes: list[Exact], highest: int) -> Floats:
    joined = np.empty((*planes[0].shape, 3), np.float32)
    for band, plane in zip(ORDER, planes, strict=True):
        joined[..., band] = plane / np.float32(highest // 255)
    return joined


def _code(
    coder: Coder,
    wanted: list[Any] | None,
    size: tuple[int, int],
    reference: list[Exact],
    step: int,
    highest: int,
) -> list[Exact]:
    """Code all planes, in `ORDER`; `wanted` are those of an encoder."""
    planes: list[Exact] = []
    errors: list[Exact] = []
    for place in range(3):
        plane = None if wanted is None else wanted[place]
        own = reference[place] if reference else None
        fitted, outside = None, 0
        if plane is not None:
            outside = int(np.rint(plane.mean(dtype=np.float64)))
            samples = []
            for box in fitting.boxes(*size):
                known = neighbourhood.known(
                    plane[box].shape, *([each[box] for each in some] for some in (planes, errors, reference))
                )
                samples.append(fitting.Sample(plane[box], known, None if own is None else own[box]))
            fitted = fitting.fit(samples, outside, highest, step)
        outside = coder.unsigned(outside)
        if outside > highest:
            raise ContainerError(f"the LR payload is damaged: a level of {outside}")
        used = coefficients.code(coder, neighbourhood.counts(place, bool(reference)), fitted)
        known_values, known_activity = _totals(size, used, planes, errors, reference)
        visit = ResidualCoder(coder, step, highest, None if plane is None else plane.ravel())
        coded, missed = scan.run(size, used, known_values, known_activity, own, outside, highest, visit)
        planes.append(coded)
        errors.append(missed)
    return planes


def _totals(
    size: tuple[int, int], used: Coefficients, planes: list[Exact], errors: list[Exact], reference: list[Exact]
) -> tuple[Exact, Exact]:
    """Return what is known before the plane adds to predictions and scales, strip by strip for the memory."""
    height, width = size
    values, activity = np.empty(size), np.empty(size)
    for top in range(0, height, _STRIP):
        rows = slice(max(0, top - REACH), min(height, top + _STRIP + REACH))
        strip = slice(top, min(height, top + _STRIP))
        inner = slice(strip.start - rows.start, strip.stop - rows.start)
        cut = ([each[rows] for each in some] for some in (planes, errors, reference))
        known = neighbourhood.known((rows.stop - rows.start, width), *cut)
        values[strip] = _combined(used.values, known.values, rows.stop - rows.start, width)[inner]
        activity[strip] = _combined(used.activity, known.activity, rows.stop - rows.start, width)[inner]
    return values, activity


def _combined(weights: Exact, planes: list[NDArray[Any]], height: int, width: int) -> Exact:
    total = np.zeros((height, width))
    for weight, plane in zip(weights, planes, strict=True):
        if weight:
            total += weight * plane.astype(np.float64)
    return total
