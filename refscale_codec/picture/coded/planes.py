"""Planes of samples of 8, 16 or 32 bits <-> lossless WebP files, as BANDS payloads hold them."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.picture import tiles

_SIDE = 4096  # pixels; planes are stored in parts of at most this side, and WebP has no more than 16,383


def pack(plane: NDArray[Any]) -> Iterator[bytes]:
    """Yield a plane [h, w] as lossless WebP files; green and blue are the high bytes, red the low.

    32 bits are stored as a plane [2 h, w] of the low 16 bits, and below them the high ones.
    """
    plane = plane.view(f"u{plane.itemsize}")
    if plane.itemsize == 4:
        plane = np.concatenate([plane & 0xFFFF, plane >> 16]).astype(np.uint16)
    for tile, _ in tiles.grid(plane.shape[0], plane.shape[1], _SIDE, 0):
        part = plane[tile.slices]
        high = part >> (8 * part.itemsize - 8)
        colours = np.dstack([part & 0xFF, high, high]).astype(np.uint8)
        buffer = io.BytesIO()
        PIL.Image.fromarray(colours).save(buffer, "WEBP", lossless=True)
        yield buffer.getvalue()


def unpack(data: memoryview, height: int, width: int, dtype: np.dtype[Any]) -> tuple[NDArray[Any], memoryview]:
    """Return a plane of samples [height, width] of a type of 1, 2 or 4 bytes, and the bytes after it.

    Raises:
        ContainerError: that is not what the bytes begin with.
    """
    if dtype.itemsize == 4:
        halves, data = unpack(data, 2 * height, width, np.dtype(np.uint16))
        low, high = halves[:height], halves[height:].astype(np.uint32)
        return (low | high << 16).view(dtype), data
    plane = np.empty((height, width), f"u{dtype.itemsize}")
    for tile, _ in tiles.grid(height, width, _SIDE, 0):
        length = 8 + int.from_bytes(data[4:8], "little")
        part, data = bytes(data[:length]), data[length:]
        try:
            _require_lossless(part, tile.height, tile.width)
            with PIL.Image.open(io.BytesIO(part), formats=("WEBP",)) as picture:
                low, high = np.array(picture.convert("RGB"))[..., :2].transpose(2, 0, 1).astype(plane.dtype)
        except Exception as error:  # hostile bytes
            raise ContainerError(f"malformed: BANDS holds a damaged plane: {error}") from None
        plane[tile.slices] = low if plane.itemsize == 1 else low | high << 8
    return plane.view(dtype), data


def _require_lossless(part: bytes, height: int, width: int) -> None:
    """Raise a ValueError unless bytes begin as a lossless WebP file of this size: before a decoder allocates memory."""
    if len(part) < 25 or part[:4] != b"RIFF" or part[8:16] != b"WEBPVP8L" or part[20] != 0x2F:
        raise ValueError("not a lossless WebP file")
    sides = int.from_bytes(part[21:25], "little")
    found = 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
    if found != (width, height):
        raise ValueError(f"{found} in place of {width, height} pixels")
