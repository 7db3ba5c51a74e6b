"""FORMAT.md, "BANDS section" and "PREDICTION section": band groups of a reference, and back to a picture."""

import io

import numpy as np
import PIL.Image

TYPES = {0: np.dtype("<u1"), 1: np.dtype("<u2"), 2: np.dtype("<i2")}
FULL = 65535


class Bands:
    """What a file says of its picture's bands; without a payload they are red, green and blue in 8 bits."""

    def __init__(self, payload: bytes | None, height: int, width: int) -> None:
        self.plain = payload is None
        self.dtype, self.count, flags = TYPES[0], 3, 0
        self.ranges: list[tuple[int, int]] = []
        self.nodata: int | None = None
        self.alpha: np.ndarray | None = None
        self.mask: np.ndarray | None = None
        if payload is None:
            return
        self.dtype, self.count, flags = TYPES[payload[0]], payload[1], payload[2]
        at = 3
        if payload[0]:
            numbers = np.frombuffer(payload, self.dtype, 2 * self.count, at).tolist()
            self.ranges = list(zip(numbers[::2], numbers[1::2], strict=True))
            at += 4 * self.count
        if flags & 2:
            self.nodata = int(np.frombuffer(payload, self.dtype, 1, at)[0])
            at += self.dtype.itemsize
        rest = payload[at:]
        if flags & 1:
            alpha, rest = plane(rest, height, width, self.dtype.itemsize)
            self.alpha = alpha.astype(f"u{self.dtype.itemsize}").view(self.dtype)
        if flags & 4:
            stacked, rest = plane(rest, self.count * height, width, 1)
            unlike = stacked.reshape(self.count, height, width) != 0
            self.mask = np.logical_xor.accumulate(unlike, axis=0).transpose(1, 2, 0)
        if rest:
            raise ValueError("BANDS has bytes to spare")

    @property
    def group_type(self) -> np.dtype:
        """Of samples in band groups."""
        return np.dtype(np.uint16 if self.ranges else np.uint8)

    @property
    def groups(self) -> list[list[int]]:
        """The bands of each group."""
        return [[min(first + i, self.count - 1) for i in range(3)] for first in range(0, self.count, 3)]

    def of_reference(self, reference: np.ndarray) -> list[np.ndarray]:
        """Return a reference [h, w, bands] in band groups."""
        found, others = [], reference.shape[2]
        if self.count == 1 and others > 1:
            a, b, c = (reference[..., i].astype(np.int64) for i in range(3))
            reference = ((77 * a + 150 * b + 29 * c + 128) // 256)[..., None]
        else:
            reference = reference[..., [min(i, others - 1) for i in range(self.count)]]
        for group in self.groups:
            pixels = reference[..., group].astype(np.int64)
            hidden = np.zeros(pixels.shape, bool) if self.nodata is None else pixels == self.nodata
            for place, band in enumerate(group):
                if self.ranges:
                    low, high = self.ranges[band]
                    off, wide = pixels[..., place].clip(low, high) - low, high - low
                    pixels[..., place] = (2 * FULL * off + wide) // (2 * wide) if wide else 0
            found.append(filled(pixels, ~hidden).astype(self.group_type))
        return found

    def joined(self, groups: list[np.ndarray]) -> np.ndarray:
        """Return the picture [h, w, bands] of its band groups."""
        picture = np.empty((*groups[0].shape[:2], self.count), self.dtype)
        for pixels, group in zip(groups, self.groups, strict=True):
            for band in set(group):
                copies = [pixels[..., place].astype(np.int64) for place in range(3) if group[place] == band]
                s = (2 * sum(copies) + len(copies)) // (2 * len(copies))
                if self.ranges:
                    low, high = self.ranges[band]
                    s = low + (2 * (high - low) * s + FULL) // (2 * FULL)
                picture[..., band] = s
        if self.nodata is not None:
            beside = 1 if self.nodata < np.iinfo(self.dtype).max else -1
            picture[picture == self.nodata] = self.nodata + beside
            if self.mask is not None:
                picture[self.mask] = self.nodata
        return picture


def filled(pixels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return pixels [h, w, bands] with what is not known replaced by the mean of the smallest square that is."""
    height, width, bands = pixels.shape
    if known.all() or height == width == 1:
        return np.where(known, pixels, 0)
    shape = (-(-height // 2), 2, -(-width // 2), 2, bands)
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    c = np.pad(known, padding).reshape(shape).sum(axis=(1, 3))
    s = np.pad(np.where(known, pixels, 0), padding).reshape(shape).sum(axis=(1, 3))
    means = filled((2 * s + c) // np.maximum(1, 2 * c), c > 0)
    return np.where(known, pixels, means.repeat(2, axis=0).repeat(2, axis=1)[:height, :width])


def plane(data: bytes, height: int, width: int, size: int) -> tuple[np.ndarray, bytes]:
    """Return a plane of so many bytes a sample from lossless WebP files, and the bytes after them."""
    found = np.empty((height, width), np.uint16)
    (down, across) = ([16 * -(-i * side // (16 * n)) for i in range(n)] + [side] for side, n in _parts(height, width))
    for top, bottom in zip(down[:-1], down[1:], strict=True):
        for left, right in zip(across[:-1], across[1:], strict=True):
            length = 8 + int.from_bytes(data[4:8], "little")
            colours = np.array(PIL.Image.open(io.BytesIO(data[:length])).convert("RGB")).astype(np.uint16)
            low, high = colours[..., 0], colours[..., 1]
            found[top:bottom, left:right] = low | high << 8 if size == 2 else low
            data = data[length:]
    return found, data


def _parts(*sides: int) -> list[tuple[int, int]]:
    return [(side, -(-side // 4096)) for side in sides]


def predicted(payload: bytes, source: np.ndarray) -> np.ndarray:
    """Return the predicted reference, from the first band group as it was restored."""
    rows = np.frombuffer(payload, [("f", "<i2", 3), ("o", "<i4")]).tolist()
    rows += [rows[-1]] * (3 - len(rows))
    found = np.empty_like(source)
    for band, (f, o) in enumerate(rows):
        s = (source.astype(np.int64) * np.array(f)).sum(axis=2)
        found[..., band] = ((s + 2048) // 4096 + o).clip(0, np.iinfo(source.dtype).max)
    return found
