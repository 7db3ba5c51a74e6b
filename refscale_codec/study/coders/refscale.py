"""Refscale as one of the coders."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from refscale_codec import lrcodec
from refscale_codec.codec import decoder, encoder
from refscale_codec.fileformat import container
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.study.coders import names
from refscale_codec.study.coders.names import Mode
from refscale_codec.study.coders.protocol import CodedPicture, Pixels, require
from refscale_codec.study.qualities import REFSCALE

_WORDS = {"reference": "with reference", "alone": "without reference", "unrelated": "with an unrelated reference"}


@dataclass(frozen=True, eq=False)
class Refscale:
    """Refscale with one file of weights; the whole file counts.

    A picture is prepared once for all qualities; its files are those of `encoder.encode`. The file of the first quality
    is decoded, and must give what `Coded.picture` predicts; the others are not. The encoder may find that the reference
    does not help.

    The mode "unrelated" is "reference" for a caller who gives a picture of another place instead.
    """

    model: Model
    weights: str  # the name of the weights, which begins with "refscale"
    mode: Mode = "reference"

    @property
    def name(self) -> str:
        """See `names.refscale`."""
        return names.refscale(self.weights, self.mode)

    @property
    def label(self) -> str:
        """Such as "refscale ×2 with reference", and with the weights' name unless it is that of those that ship."""
        entry = lrcodec.CODECS.get(self.model.low_res.id)
        suffix = f"-{self.model.low_res.id}" if entry is None else entry.suffix
        shipped = self.weights == f"refscale-x{self.model.scale}{suffix}"
        codec, which = suffix.upper().replace("-", " + "), "" if shipped else f" ({self.weights})"
        return f"refscale ×{self.model.scale}{codec}{which} {_WORDS[self.mode]}"

    @property
    def qualities(self) -> tuple[int, ...]:
        """See `Coder.qualities`."""
        return REFSCALE[self.model.scale]

    @property
    def needs_reference(self) -> bool:
        """Whether `code` must be given a reference."""
        return self.mode != "alone"

    def code(self, target: Image, reference: Image | None, qualities: Sequence[int]) -> Iterator[CodedPicture]:
        """See `Coder.code`. "encode" includes the preparation, as if there were one quality.

        Raises:
            RuntimeError: a file does not decode to what the encoder predicts.
        """
        used = require(reference) if self.needs_reference else None
        start = time.perf_counter()
        plan = encoder.prepare(Image(target.pixels), used, self.model)  # no other coder has metadata
        prepared = time.perf_counter() - start
        for place, quality in enumerate(qualities):
            start = time.perf_counter()
            coded = plan.code(quality)
            file = coded.file()
            seconds = {"encode": prepared + time.perf_counter() - start}
            decoded = coded.picture().pixels
            if place == 0:
                seconds["decode"] = self._require_same(file, used, decoded)
            sizes = container.bytes_by_section(container.unpack(file))
            low = coded.groups[0].low
            yield CodedPicture(decoded, sizes, seconds, low.picture, low.similarity_map)

    def _require_same(self, file: bytes, reference: Image | None, expected: Pixels) -> float:
        """Decode a file and return the seconds. On a GPU, whose rounding is not repeatable, one level is allowed."""
        start = time.perf_counter()
        decoded = decoder.decode(file, reference, self.model).pixels
        seconds = time.perf_counter() - start
        on_cpu = self.model.rescaler.device.type == "cpu"
        away = int(np.abs(decoded.astype(np.int16) - expected).max())
        if away > (0 if on_cpu else 1):
            raise RuntimeError(f"{self.name}: the file decodes to samples {away} levels off what the encoder predicts")
        return seconds
