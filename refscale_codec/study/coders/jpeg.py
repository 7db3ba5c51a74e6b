"""JPEG by Pillow, to compare with: the smallest baseline files, with fitted Huffman tables."""

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import PIL.Image
import PIL.ImageFile
from numpy.typing import NDArray

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]

_buffer_lock = threading.Lock()


@contextmanager
def _buffer_of(size: int) -> Iterator[None]:
    """Have Pillow write into buffers of at least `size` bytes while the block lasts.

    Fitted Huffman tables need the whole file in one buffer, and what Pillow takes is too small for noise. Its minimum
    is a variable of the whole process and there is no argument for it, so one thread at a time raises it, and puts it
    back.
    """
    with _buffer_lock:
        before = PIL.ImageFile.MAXBLOCK
        PIL.ImageFile.MAXBLOCK = max(before, size)
        try:
            yield
        finally:
            PIL.ImageFile.MAXBLOCK = before


def encode(
    pixels: NDArray[np.uint8],
    quality: int,
    subsampling: Subsampling = "4:4:4",
    tables: Sequence[Sequence[int]] | None = None,
) -> bytes:
    """Return a picture as a JPEG.

    Args:
        pixels: [h, w, 3] RGB.
        quality: 1..100.
        subsampling: of chroma.
        tables: quantiser tables in place of those that T.81, Annex K, has for the quality.
    """
    buffer = io.BytesIO()
    picture = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    quantiser: dict[str, Any] = {"quality": quality} if tables is None else {"qtables": tables}
    with _buffer_of(2 * pixels.size):
        picture.save(buffer, "JPEG", **quantiser, subsampling=subsampling, optimize=True)
    return buffer.getvalue()


def decode(payload: bytes) -> NDArray[np.uint8]:
    """Return the picture [h, w, 3] RGB in a JPEG that `encode` made."""
    with PIL.Image.open(io.BytesIO(payload), formats=["JPEG"]) as opened:
        return np.array(opened)
