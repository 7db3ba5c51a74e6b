"""Low-res codec 1: JPEG by Pillow. The payload is a complete ordinary JPEG that any viewer opens."""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import PIL.Image
import PIL.ImageFile
from numpy.typing import NDArray

from refscale_codec.errors import ContainerError
from refscale_codec.lrcodec.dct import coefficients

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


@dataclass(frozen=True)
class Jpeg:
    """The codec; what it decodes does not depend on `subsampling`."""

    subsampling: Subsampling = "4:4:4"  # of chroma: detail that the net hid there dies at 4:2:0
    standard: bool = False  # quantiser tables of T.81, Annex K, else the flatter ones of `coefficients`

    def encode(self, lr: NDArray[np.uint8], quality: int) -> bytes:
        """Return `lr` [h, w, 3] RGB as a JPEG of quality 1..100."""
        buffer = io.BytesIO()
        picture = PIL.Image.fromarray(np.ascontiguousarray(lr))
        tables: dict[str, Any] = {"quality": quality} if self.standard else {"qtables": coefficients.tables(quality)}
        with _buffer_of(2 * lr.size):
            picture.save(buffer, "JPEG", **tables, subsampling=self.subsampling, optimize=True)
        return buffer.getvalue()

    def decode(self, payload: bytes, height: int, width: int) -> NDArray[np.uint8]:
        """Return the picture [height, width, 3] RGB in a payload.

        Raises:
            ContainerError: the payload is not a JPEG of exactly this size; checked before its pixels are decoded.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about metadata, which is not read
                picture = PIL.Image.open(io.BytesIO(payload), formats=["JPEG"])
                found = picture.height, picture.width, picture.mode
                if found == (height, width, "RGB"):
                    return np.array(picture)
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            raise ContainerError(f"the low-res payload is not a readable JPEG: {error}") from None
        raise ContainerError(
            f"the low-res JPEG is {found[1]}x{found[0]} {found[2]}, but the header asks for {width}x{height} RGB"
        )
