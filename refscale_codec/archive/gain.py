"""About how much a reference would save: how much of a picture's detail it explains, at low resolution.

The reference is laid onto the picture by their georeferences, or as showing the same part of the place, and moved by
phase correlation. In each block its detail, scaled by the best factor, is subtracted; what a block costs to code is
taken as the logarithm of its energy above a noise.
"""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from refscale_codec.archive import descriptor
from refscale_codec.archive.descriptor import Luma
from refscale_codec.picture.image import Image
from refscale_codec.reference import georeference, registration

_BLOCK = 16  # side in pixels of a preview
_SIGMA = 3.0  # of the Gaussian: what is coarser is no detail
_SHARP = 6.0  # of another one: what the displacement is looked for in
_NOISE = 32.0  # squared 8-bit levels that no reference can predict
_MOST = 1.3  # largest factor by which a block's detail may be scaled
_SMALLEST = 32  # a side shorter than that is not moved
_MARGIN = 0.1  # of the part of a reference that the picture shows, by which more of it is looked at

Matrix = NDArray[np.float64]


class Target:
    """A picture that a reference is wanted for."""

    def __init__(self, image: Image) -> None:
        """Reduce a picture."""
        self.image = image
        self.preview = descriptor.preview(image)
        self._detail = _detail(self.preview)

    def gain(self, reference: Image) -> float:
        """Return about which share of the bits a reference saves, 0..1; below 0 where it is of no use."""
        image, preview = self.image, self.preview
        base = georeference.prior(image, reference)
        if base is None:
            base = registration.scaling(reference.width / image.width, reference.height / image.height)
        part, base = _shown(reference, base, image)
        if part is None:
            return 0.0
        older = descriptor.preview(part)
        to_small = [
            registration.scaling(small.shape[1] / whole.width, small.shape[0] / whole.height)
            for small, whole in ((preview, image), (older, part))
        ]
        matrix = to_small[1] @ base @ np.linalg.inv(to_small[0])
        warped, inside = _warped(older, matrix, preview)
        if min(preview.shape) >= _SMALLEST:
            window = cv2.createHanningWindow(preview.shape[::-1], cv2.CV_32F)
            here, there = (descriptor.normalised(luma, _SHARP) for luma in (preview, warped))
            (right, down), _ = cv2.phaseCorrelate(here, there, window)
            moved = matrix @ np.array([[1, 0, right], [0, 1, down], [0, 0, 1]])
            return max(self._explained(warped, inside), self._explained(*_warped(older, moved, preview)))
        return self._explained(warped, inside)

    def _explained(self, warped: Luma, inside: Luma) -> float:
        target, older = _blocks(self._detail), _blocks(_detail(warped) * inside)
        energy = np.square(older).mean(axis=(1, 3)) + 1e-3
        factor = ((target * older).mean(axis=(1, 3)) / energy).clip(0, _MOST)
        left = np.square(target - factor[:, None, :, None] * older).mean(axis=(1, 3))
        alone = np.log1p(np.square(target).mean(axis=(1, 3)) / _NOISE).sum()
        return float(1 - np.log1p(left / _NOISE).sum() / max(float(alone), 1e-9))


def _shown(reference: Image, matrix: Matrix, image: Image) -> tuple[Image | None, Matrix]:
    """Return the part of a reference that a picture shows, with a margin, and the matrix to its pixels; or None."""
    corners = np.array([[x, y, 1] for x in (0, image.width - 1) for y in (0, image.height - 1)]).T
    placed = matrix @ corners
    placed = placed[:2] / placed[2]
    margin = _MARGIN * np.ptp(placed, axis=1) + 1
    left, top = np.maximum(0, np.floor(placed.min(axis=1) - margin)).astype(int)
    right, bottom = np.minimum([reference.width, reference.height], np.ceil(placed.max(axis=1) + margin + 1)).astype(
        int
    )
    if right <= left or bottom <= top:
        return None, matrix
    alpha = None if reference.alpha is None else reference.alpha[top:bottom, left:right]
    part = replace(reference, pixels=reference.pixels[top:bottom, left:right], alpha=alpha)
    return part, np.array([[1.0, 0, -left], [0, 1, -top], [0, 0, 1]]) @ matrix


def _warped(luma: Luma, matrix: Matrix, like: Luma) -> tuple[Luma, Luma]:
    """Return a luma warped onto another's grid, and where it lies there (1) or not (0)."""
    size, flags = like.shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(luma, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpPerspective(np.ones_like(luma), matrix, size, flags=flags, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(warped, np.float32), np.asarray(inside > 0.5, np.float32)


def _detail(luma: Luma) -> Luma:
    return np.asarray(luma - cv2.GaussianBlur(luma, (0, 0), _SIGMA), np.float32)


def _blocks(plane: Luma) -> NDArray[Any]:
    """Return [rows, _BLOCK, columns, _BLOCK] of a plane, padded with zeros."""
    rows, columns = (-(-side // _BLOCK) for side in plane.shape)
    padded = np.pad(plane, ((0, rows * _BLOCK - plane.shape[0]), (0, columns * _BLOCK - plane.shape[1])))
    return padded.reshape(rows, _BLOCK, columns, _BLOCK)
