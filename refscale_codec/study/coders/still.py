"""Still-picture codecs: JPEG, and what Pillow and its plugins write."""

import importlib
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.features
import PIL.Image

from refscale_codec.picture.image import Image
from refscale_codec.study.coders import jpeg
from refscale_codec.study.coders.jpeg import Subsampling
from refscale_codec.study.coders.protocol import CodedPicture, resized


@dataclass(frozen=True)
class JpegCoder:
    """JPEG with standard quantiser and fitted Huffman tables, of the picture or of a bicubic reduction of it."""

    name: str
    label: str
    qualities: tuple[int, ...]  # 1..100
    subsampling: Subsampling = "4:4:4"
    scale: int = 1
    needs_reference: bool = field(default=False, init=False)

    def missing(self) -> str | None:
        """Return how to install what is not here; None: this always is."""
        return None

    def code(self, target: Image, reference: Image | None, qualities: Sequence[int]) -> Iterator[CodedPicture]:
        """See `Coder.code`."""
        for quality in qualities:
            start = time.perf_counter()
            lr = resized(target.pixels, -(-target.height // self.scale), -(-target.width // self.scale))
            payload = jpeg.encode(lr, quality, self.subsampling)
            encoded = time.perf_counter()
            lr_hat = jpeg.decode(payload)
            decoded = resized(lr_hat, target.height, target.width)
            seconds = {"encode": encoded - start, "decode": time.perf_counter() - encoded}
            yield CodedPicture(decoded, {"picture": len(payload)}, seconds, None if self.scale == 1 else lr_hat)


@dataclass(frozen=True)
class PillowCoder:
    """A still-picture format that Pillow writes, by itself or through a plugin; the whole file counts."""

    name: str
    label: str
    qualities: tuple[int, ...]  # 0..100; dB for JPEG 2000
    format: str
    options: dict[str, Any]  # of `PIL.Image.Image.save`, beside the quality
    feature: str | None  # Pillow's own name of what it must have been built with; None with a plugin
    plugin: str | None = None  # the module that adds the format
    install: str = "pip install --upgrade pillow"
    needs_reference: bool = field(default=False, init=False)

    def missing(self) -> str | None:
        """Return how to install what is not here; None when all is."""
        if self.plugin is None:
            return None if self.feature in PIL.features.get_supported() else self.install
        try:
            importlib.import_module(self.plugin)
        except ImportError:
            return self.install
        return None

    def code(self, target: Image, reference: Image | None, qualities: Sequence[int]) -> Iterator[CodedPicture]:
        """See `Coder.code`."""
        if self.plugin is not None:
            importlib.import_module(self.plugin)
        for quality in qualities:
            setting = {"quality_layers": [quality]} if self.format == "JPEG2000" else {"quality": quality}
            start = time.perf_counter()
            buffer = io.BytesIO()
            picture = PIL.Image.fromarray(np.ascontiguousarray(target.pixels))
            picture.save(buffer, self.format, **setting, **self.options)
            encoded = time.perf_counter()
            with PIL.Image.open(buffer, formats=[self.format]) as opened:
                decoded = np.array(opened.convert("RGB"))
            seconds = {"encode": encoded - start, "decode": time.perf_counter() - encoded}
            yield CodedPicture(decoded, {"picture": buffer.getbuffer().nbytes}, seconds)
