"""FORMAT.md, "REFERENCES section": which references a file names, and how those of a band group are blended."""

import numpy as np

from reader import warp
from reader.container import ALIGNMENT, REFERENCES, File
from reader.rangecoder import RangeDecoder, of_counts
from reader.warp import Alignment


class Layers:
    """The layers of a band group, lowest first."""

    def __init__(self, file: File) -> None:
        self.height, self.width = file.height, file.width
        self.names = [file.reference]
        self.alignment: Alignment | None = None
        self.check = 0
        self.above: list[tuple[Alignment, np.ndarray]] = []
        if ALIGNMENT in file.payloads:
            self.alignment, self.check = warp.of_payload(file.payloads[ALIGNMENT], file.height, file.width)
        if REFERENCES in file.payloads:
            self._read(file.payloads[REFERENCES])

    def _read(self, payload: bytes) -> None:
        above, named = payload[0] % 128, payload[0] >= 128
        count = above + named
        end = 1 + 6 * count
        if not 1 <= count <= 8 or len(payload) < end or (above and self.alignment is None):
            raise ValueError("REFERENCES of no such layers")
        found = [payload[at : at + 6] for at in range(1, end, 6)]
        self.names = found if named else [*self.names, *found]
        if not above:
            if payload[end:]:
                raise ValueError("words without a layer")
            return
        coder = RangeDecoder(payload[end:])
        for _ in range(above):
            alignment = Alignment(coder, self.height, self.width)
            self.above.append((alignment, self._weights(coder)))
        coder.require_end()

    def _weights(self, coder: RangeDecoder) -> np.ndarray:
        rows, columns = -(-self.height // 64), -(-self.width // 64)
        if coder.uniform(2):
            return np.full((rows, columns), 1 + coder.uniform(4))
        start = [33, 20, 12, 7, 5]
        counts = [[start[abs(weight - mean)] for weight in range(5)] for mean in range(5)]
        found = np.zeros((rows, columns), np.int64)
        for row in range(rows):
            for column in range(columns):
                around = [int(found[row, column - 1])] if column else []
                around += [int(found[row - 1, column])] if row else []
                mean = (sum(around) + len(around) - 1) // len(around) if around else 2
                weight = coder.symbol(of_counts(counts[mean]))
                counts[mean][weight] += 12
                found[row, column] = weight
        return found

    def apply(self, references: dict[bytes, np.ndarray]) -> np.ndarray:
        """Return the warped or blended reference [height, width, 3] of references by their fingerprints."""
        lowest, *others = (references[name] for name in self.names)
        if self.alignment is None:
            if lowest.shape[:2] != (self.height, self.width):
                raise ValueError("a reference of another size without ALIGNMENT")
            return lowest
        made = self.alignment.apply(lowest)
        y, x = np.mgrid[: self.height, : self.width]
        for reference, (alignment, weights) in zip(others, self.above, strict=True):
            w = warp.interpolated(64 * weights[..., None], y, x)
            layer = alignment.apply(reference).astype(np.int64)
            made = (((256 - w) * made.astype(np.int64) + w * layer + 128) // 256).astype(made.dtype)
        warp.require_check(made, self.check)
        return made
