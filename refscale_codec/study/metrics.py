"""How good, how big, how busy: PSNR, bits per pixel, spatial information and BD-rate.

One definition each, the same everywhere in the project:

- PSNR over all RGB values of the 8-bit pictures, no border cropped; `psnr_y` on BT.601 full-range luma beside it.
- Bits per pixel of the *high-res* picture, from the size of the whole file.
- Spatial information as in ITU-T P.910 (the standard deviation of the Sobel magnitude of luma), with luma in [0, 1].
- SSIM and MS-SSIM (Wang et al. 2004, 2003), mean of the RGB channels, out of the `pytorch-msssim` package: over the
  windows that lie within the picture, as the papers have it. Torchmetrics pads the picture and counts windows across
  its border, which moves both in the third decimal, and scikit-image has no MS-SSIM. The package is one small module
  that no longer changes, so the tests hold it to the papers' formulas.
- BD-rate and BD-PSNR (Bjontegaard, VCEG-M33) with Akima interpolation out of the `bjontegaard` package.

Deliberately absent: averaging over pictures. Metrics are per picture; who reports a mean says of what.
"""

import importlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import UsageError

_PEAK = 255
_LUMA_WEIGHTS = (299, 587, 114)  # BT.601, in thousandths, so that luma is exact in integers
_MIN_POINTS = 3  # with two, the package draws a straight line and no longer an Akima spline
_FEW_POINTS = 4
GOOD_OVERLAP = 0.75  # below that a BD-rate gets a note

_Points = list[tuple[float, float]]  # (rate, psnr), by rising rate


@dataclass(frozen=True)
class BdRate:
    """The mean difference in rate between two rate-distortion curves at equal quality."""

    percent: float
    """Rate of the test against the anchor, in percent: -30 is 30 % saved. NaN where it is undefined; see `note`."""

    overlap: float
    """Share of the PSNR interval common to both curves in the interval that either covers, 0..1."""

    dropped: int
    """Points left out, of both curves: PSNR not finite, or not above that of every cheaper point."""

    note: str
    """What a reader should know about the figure, or why there is none; empty if nothing."""

    psnr: float = math.nan
    """PSNR of the test over the anchor at equal rate (BD-PSNR), in dB; NaN where it is undefined."""

    whole_overlap: float = 1.0
    """As `overlap`, of the whole curves: what was measured, before a range of rates is cut out."""


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio over all RGB values, in dB; infinity where the pictures are equal.

    Args:
        a: Picture, uint8 [h, w, 3].
        b: Picture of the same shape.

    Raises:
        ValueError: another type or shape.
    """
    _require_same_pictures(a, b)
    difference = a.astype(np.int32) - b  # [h, w, 3]
    return _psnr_of(int(np.sum(np.square(difference), dtype=np.int64)) / difference.size, _PEAK)


def psnr_y(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio of luma, in dB; infinity where the lumas are equal.

    Luma is 0.299 R + 0.587 G + 0.114 B (BT.601, full range, peak 255) and is not rounded.

    Args:
        a: Picture, uint8 [h, w, 3].
        b: Picture of the same shape.

    Raises:
        ValueError: another type or shape.
    """
    _require_same_pictures(a, b)
    difference = (_luma_thousandths(a) - _luma_thousandths(b)).astype(np.float64)  # [h, w]
    return _psnr_of(float(np.mean(np.square(difference))), 1000 * _PEAK)


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the mean structural similarity, up to 1 for equal pictures; NaN below 11 x 11 pixels.

    Args:
        a: Picture, uint8 [h, w, 3].
        b: Picture of the same shape.

    Raises:
        ValueError: another type or shape.
        UsageError: the package `pytorch-msssim` is not installed.
    """
    return _structural("ssim", a, b, 11)


def ms_ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the multi-scale structural similarity (five scales); NaN below 161 x 161 pixels. Else as `ssim`."""
    return _structural("ms_ssim", a, b, 161)


def _structural(name: str, a: NDArray[np.uint8], b: NDArray[np.uint8], least: int) -> float:
    _require_same_pictures(a, b)
    if min(a.shape[:2]) < least:
        return math.nan
    import torch

    try:
        package = importlib.import_module("pytorch_msssim")
    except ImportError as error:
        raise UsageError(
            f"SSIM needs the package pytorch-msssim ({error}): pip install 'refscale-codec[rd]'"
        ) from error
    pictures = (torch.from_numpy(x.astype(np.float32)).permute(2, 0, 1)[None] for x in (a, b))  # [1, 3, h, w]
    return float(getattr(package, name)(*pictures, data_range=_PEAK))


def bits_per_pixel(n_bytes: int, height: int, width: int) -> float:
    """Return the bits spent on each high-res pixel.

    Args:
        n_bytes: Size of the whole file, map and headers included.
        height: Rows of the high-res picture, >= 1.
        width: Columns of the high-res picture, >= 1.

    Raises:
        ValueError: a negative size, or a picture without pixels.
    """
    if n_bytes < 0 or height < 1 or width < 1:
        raise ValueError(f"no bits per pixel for {n_bytes = }, {height = }, {width = }")
    return 8 * n_bytes / (height * width)


def spatial_information(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Return mean and standard deviation of the Sobel magnitude of luma; ITU-T P.910's SI is the latter.

    Luma is BT.601, full range, in [0, 1]. The Sobel kernels are the plain 1 2 1 by -1 0 1, not normalised, so that a
    vertical edge from black to white gives 4. Only the pixels that have all eight neighbours count. The standard
    deviation divides by their number, not by one less. A picture below 3 x 3 has none of them: (0.0, 0.0).

    Args:
        pixels: Picture, uint8 [h, w, 3].

    Raises:
        ValueError: another type or shape.
    """
    _require_picture(pixels)
    if min(pixels.shape[:2]) < 3:
        return 0.0, 0.0
    y = _luma_thousandths(pixels)  # [h, w]
    down = y[:-2] + 2 * y[1:-1] + y[2:]  # [h - 2, w]
    across = y[:, :-2] + 2 * y[:, 1:-1] + y[:, 2:]  # [h, w - 2]
    gradient_x = (down[:, 2:] - down[:, :-2]).astype(np.float64)  # [h - 2, w - 2]
    gradient_y = (across[2:] - across[:-2]).astype(np.float64)  # [h - 2, w - 2]
    magnitude = np.hypot(gradient_x, gradient_y) / (1000 * _PEAK)
    return float(np.mean(magnitude)), float(np.std(magnitude))


def bd_rate(
    rates_a: Sequence[float],
    psnrs_a: Sequence[float],
    rates_b: Sequence[float],
    psnrs_b: Sequence[float],
    low: float = 0.0,
    high: float = math.inf,
) -> BdRate:
    """Return how much rate curve b needs against curve a for the same PSNR.

    Points may come in any order. From each curve go, and are counted in `dropped`: points whose PSNR is not finite
    (lossless ones), and points whose PSNR is not above that of every cheaper point (of two at one rate the better
    stays). Then both curves are cut to [low, high]: measured points inside stay, and where a curve crosses an end a
    point is put there, linear in PSNR over log rate. No curve is ever continued beyond its own points.

    Akima's spline takes three points; with fewer in a curve, or no PSNR that both reach, the result is NaN and a note.

    Args:
        rates_a: Rates of the anchor, bits per pixel, > 0.
        psnrs_a: Its PSNRs in dB, one for each rate.
        rates_b: Rates of the test.
        psnrs_b: Its PSNRs.
        low: Lower end of the range that counts, bits per pixel.
        high: Upper end.

    Raises:
        ValueError: lists of different length, a rate that is not positive and finite, or low not below high.
        UsageError: the package `bjontegaard` is not installed.
    """
    if not low < high:
        raise ValueError(f"the range of rates must rise, got {low = }, {high = }")
    package, notes = _bjontegaard()
    anchor, dropped_a = _rising(rates_a, psnrs_a)
    test, dropped_b = _rising(rates_b, psnrs_b)
    dropped = dropped_a + dropped_b
    if dropped:
        notes.append(f"points dropped, anchor {dropped_a}, test {dropped_b}: PSNR not finite or not rising with rate")
    whole_overlap = _overlap(anchor, test)
    anchor, test = _cut(anchor, low, high), _cut(test, low, high)
    overlap = _overlap(anchor, test)

    counts = f"anchor {len(anchor)}, test {len(test)}"
    fewest = min(len(anchor), len(test))
    if fewest < _MIN_POINTS:
        notes.insert(0, f"no BD-rate: usable points in the range: {counts}; each needs {_MIN_POINTS}")
        return BdRate(math.nan, overlap, dropped, "; ".join(notes))
    if overlap == 0:
        notes.insert(0, f"no BD-rate: no PSNR in common, anchor {_span(anchor)}, test {_span(test)}")
        return BdRate(math.nan, overlap, dropped, "; ".join(notes))
    if fewest < _FEW_POINTS:
        notes.append(f"few points: {counts}")
    if overlap < GOOD_OVERLAP:
        notes.append(f"the curves share only {100 * overlap:.0f} % of their PSNR range")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        curves = (*np.array(anchor).T, *np.array(test).T)
        options = {"method": "akima", "require_matching_points": False, "min_overlap": 0}
        percent = float(package.bd_rate(*curves, **options))
        decibels = float(package.bd_psnr(*curves, **options)) if _rates_meet(anchor, test) else math.nan
    notes += sorted({str(warning.message) for warning in caught})
    return BdRate(percent, overlap, dropped, "; ".join(notes), decibels, whole_overlap)


def _bjontegaard() -> tuple[ModuleType, list[str]]:
    """Import the package, which brings SciPy and Matplotlib, only when it is needed; with what it warned about."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            package = importlib.import_module("bjontegaard")
        except ImportError as error:
            raise UsageError(
                f"BD-rate needs the package bjontegaard ({error}): pip install 'refscale-codec[rd]'"
            ) from error
    return package, [str(warning.message) for warning in caught]


def _rising(rates: Sequence[float], psnrs: Sequence[float]) -> tuple[_Points, int]:
    """Return the points that improve on every cheaper one, by rising rate, and how many others there were."""
    if len(rates) != len(psnrs):
        raise ValueError(f"one PSNR for each rate, got {len(rates) = }, {len(psnrs) = }")
    if not all(0 < rate < math.inf for rate in rates):
        raise ValueError(f"rates must be positive and finite, got {list(rates)}")
    points: _Points = []
    for rate, quality in sorted(zip(rates, psnrs, strict=True), key=lambda point: (point[0], -point[1])):
        if math.isfinite(quality) and (not points or quality > points[-1][1]):
            points.append((float(rate), float(quality)))
    return points, len(rates) - len(points)


def _cut(points: _Points, low: float, high: float) -> _Points:
    """Return the part of a curve with low <= rate <= high, with an end point where it crosses either."""
    rates = [rate for rate, _ in points]
    psnrs = [quality for _, quality in points]
    inside = [(rate, quality) for rate, quality in points if low <= rate <= high]
    for end in (low, high):
        if points and rates[0] < end < rates[-1] and end not in rates:
            inside.append((end, float(np.interp(math.log(end), np.log(rates), psnrs))))
    return sorted(inside)


def _overlap(a: _Points, b: _Points) -> float:
    """Return the share of the common PSNR interval in the one that spans both; 0 where there is none."""
    if not a or not b:
        return 0.0
    common = min(a[-1][1], b[-1][1]) - max(a[0][1], b[0][1])
    total = max(a[-1][1], b[-1][1]) - min(a[0][1], b[0][1])
    return max(common, 0.0) / total if total > 0 else 0.0


def _rates_meet(a: _Points, b: _Points) -> bool:
    return max(a[0][0], b[0][0]) < min(a[-1][0], b[-1][0])


def _span(points: _Points) -> str:
    return f"{points[0][1]:.2f} to {points[-1][1]:.2f} dB"


def _psnr_of(mean_squared_error: float, peak: int) -> float:
    return math.inf if mean_squared_error == 0 else 10 * math.log10(peak**2 / mean_squared_error)


def _luma_thousandths(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return 1000 times the luma, [h, w], 0..255000."""
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    weight_r, weight_g, weight_b = _LUMA_WEIGHTS
    return weight_r * red + weight_g * green + weight_b * blue


def _require_same_pictures(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> None:
    _require_picture(a)
    _require_picture(b)
    if a.shape != b.shape:
        raise ValueError(f"pictures of different shape: {a.shape = }, {b.shape = }")


def _require_picture(pixels: NDArray[np.uint8]) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ValueError(f"a picture is uint8 [h, w, 3], got {pixels.dtype = !s}, {pixels.shape = }")
