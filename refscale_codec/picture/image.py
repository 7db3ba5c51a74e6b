"""Pictures in memory: what codes, measures, reads or writes pictures works on `Image`."""

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import ImageError
from refscale_codec.picture import levels
from refscale_codec.picture.levels import Number
from refscale_codec.picture.metadata import Metadata

MAX_PIXELS = 400_000_000
"""Most pixels of a picture; the container has the same limit."""

MAX_SIDE = 1 << 20
"""Longest side of a picture, in pixels; the container has the same limit."""

MAX_BANDS = 255
"""Most bands, without alpha."""

MAX_SAMPLES = 3 * MAX_PIXELS
"""Most samples in all bands; the container has the same limit."""


@dataclass(frozen=True, eq=False)
class Image:
    """A picture in memory.

    Raises:
        ImageError: an array of another shape or type, or a nodata value outside the range of the type.
    """

    pixels: NDArray[Any]  # [h, w, bands] of a type of `levels.TYPES`, each >= 1
    """Row by row from the top left, as stored in the file. One band is grey, three are RGB."""
    metadata: Metadata = Metadata()
    """Colour profile, EXIF, XMP and georeference."""
    alpha: NDArray[Any] | None = None  # [h, w], of the pixels' type
    """Opacity, from 0 to the highest value of the type (float32: to 1); None if all pixels are opaque."""
    nodata: Number | None = None
    """The nodata value: a whole number of the type, or for float32 any that it can hold, NaN too; None for none."""
    name: str | None = None
    """Of its file, without folders; None if it was not read from one."""

    def __post_init__(self) -> None:
        """Check the arrays."""
        if self.pixels.dtype not in levels.TYPES:
            raise ImageError(f"pixels must be {levels.NAMES}, not {self.pixels.dtype}")
        if self.pixels.ndim != 3 or self.pixels.shape[2] > MAX_BANDS:
            raise ImageError(f"pixels must be [h, w, 1..{MAX_BANDS}], not {list(self.pixels.shape)}")
        if 0 in self.pixels.shape:
            raise ImageError(f"pixels must not be empty, but are {list(self.pixels.shape)}")
        alpha = self.alpha
        if alpha is not None:
            kind, shape = getattr(alpha, "dtype", type(alpha).__name__), np.shape(alpha)
            if (kind, shape) != (self.pixels.dtype, self.pixels.shape[:2]):
                raise ImageError(f"alpha must have the shape and type of a band, not {shape} and {kind}")
        if self.nodata is not None and not levels.can_be(self.pixels.dtype, self.nodata):
            lowest, highest = levels.limits_of(self.pixels.dtype)
            whole = "number" if self.pixels.dtype.kind == "f" else "whole number"
            raise ImageError(f"nodata must be a {whole} within {lowest}..{highest}, not {self.nodata!r}")

    @property
    def height(self) -> int:
        """Rows, in pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns, in pixels."""
        return int(self.pixels.shape[1])

    @property
    def longest(self) -> int:
        """The longer side, in pixels."""
        return max(self.height, self.width)

    @property
    def bands(self) -> int:
        """Bands, without alpha."""
        return int(self.pixels.shape[2])

    @property
    def kind(self) -> str:
        """For messages, without alpha: `8-bit RGB`."""
        return kind_of(self.pixels.dtype, self.bands)

    def fingerprint(self) -> bytes:
        """Return 6 bytes that identify the pixels with their shape and type; alpha does not count.

        They are the first 6 of SHA-256 over `refscale-pixels-` and `v1` for uint8, else numpy's name of the type such
        as `u2` or `f4`, height, width and bands as u32 little endian, then the pixels in row-major order, little
        endian, each NaN as the same quiet one. The same picture in another file format has the same fingerprint.

        It is computed by each call, because the pixels may be a caller's array and change.
        """
        dtype = self.pixels.dtype
        digest = hashlib.sha256(b"refscale-pixels-" + (b"v1" if dtype == np.uint8 else dtype.str[1:].encode()))
        digest.update(struct.pack("<III", *self.pixels.shape))
        pixels = self.pixels
        if dtype.kind == "f" and (missing := np.isnan(pixels)).any():
            pixels = np.where(missing, np.array(levels.QUIET_NAN, np.uint32).view(dtype), pixels)
        digest.update(np.ascontiguousarray(pixels, dtype.newbyteorder("<")).data)
        return digest.digest()[:6]


def kind_of(dtype: np.dtype[Any], bands: int) -> str:
    """Return the name of a kind of pictures in messages: `8-bit RGB`, `16-bit 4-band`, `32-bit floating-point grey`."""
    colour = {1: "grey", 3: "RGB"}.get(bands, f"{bands}-band")
    kind = {"i": "signed ", "f": "floating-point "}.get(dtype.kind, "")
    return f"{8 * dtype.itemsize}-bit {kind}{colour}"
