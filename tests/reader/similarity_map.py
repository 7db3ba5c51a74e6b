"""FORMAT.md, "MAP section": payload -> similarity map."""

import numpy as np

from reader.rangecoder import RangeDecoder, of_counts


def decode(payload: bytes | None, rows: int, columns: int, levels: int) -> np.ndarray:
    """Return the map [rows, columns]."""
    if payload is None:
        return np.full((rows, columns), levels - 1)
    if len(payload) < 2:
        return np.full((rows, columns), payload[0] if payload else 0)
    coder, classes = RangeDecoder(payload), min(levels, 8)
    counts: dict[tuple[int, int, int], list[int]] = {}
    found = np.zeros((rows, columns), np.int64)
    for y in range(rows):
        above = found[y - 1].tolist() if y else [0] * columns
        for phase in (0, 1):
            seen = []
            for x in range(phase, columns, 2):
                if phase == 0:
                    left = above[x - 1] if x else above[x]
                    right = above[x + 1] if x + 1 < columns else above[x]
                    pair = above[x], round((left + right) / 2)
                else:
                    pair = int(found[y, x - 1]), int(found[y, x + 1]) if x + 1 < columns else above[x]
                low, high = sorted(v * classes // levels for v in pair)
                context = phase, low, high
                value = coder.symbol(of_counts(counts.setdefault(context, [1] * levels)))
                found[y, x] = value
                seen.append((context, value))
            for context, value in seen:
                counts[context][value] += 16
    coder.require_end()
    return found
