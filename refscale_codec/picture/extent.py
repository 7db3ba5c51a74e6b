"""How long a picture file can be, by its beginning: what is read of a pipe that need not end.

Sizes, not places, tell that: a JPEG may have other pictures behind it, and a TIFF's directories may be anywhere.
"""

import struct
import warnings
from contextlib import suppress

from refscale_codec.picture import chunks, jpeg, tiff

_PER_SAMPLE = 16  # bytes: no format takes more for a sample, coded however badly
_BESIDE = 1 << 26  # bytes for all that is not samples: metadata, previews, a film behind the picture


def most_bytes(data: bytes) -> int | None:
    """Return the most bytes that a PNG, JPEG, WebP or TIFF file which begins so can have; None if more must be read."""
    with suppress(Exception), warnings.catch_warnings():  # nearly anything, for bytes that are not all there
        warnings.simplefilter("error")
        size = _size(data)
        return None if size is None else size + _BESIDE
    return None


def _size(data: bytes) -> int | None:
    if chunks.is_png(data):
        width, height = struct.unpack_from(">II", data, 16)
        return 4 * int(width) * int(height) * _PER_SAMPLE
    if data[8:12] == b"WEBP":
        return 8 + int.from_bytes(data[4:8], "little")  # of the RIFF
    if tiff.is_tiff(data):
        return tiff.samples(data) * _PER_SAMPLE
    samples = jpeg.samples(data)
    return None if samples is None else samples * _PER_SAMPLE
