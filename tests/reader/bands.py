"""FORMAT.md, "BANDS section" and "PREDICTION section": band groups of a reference, and back to a picture."""

import io
import zlib

import numpy as np
import PIL.Image

TYPES = [np.dtype(name) for name in ("<u1", "<u2", "<i2", "<i1", "<u4", "<i4", "<f4")]
FULL = 65535


class Bands:
    """What a file says of its picture's bands; without a payload they are red, green and blue in 8 bits."""

    def __init__(self, payload: bytes | None, height: int, width: int) -> None:
        self.plain = payload is None
        self.dtype, self.count, flags = TYPES[0], 3, 0
        self.ranges: list[tuple[float, float]] = []
        self.reference_ranges: list[tuple[float, float]] = []
        self.nodata: float | None = None
        self.fills: list[float] = []
        self.alpha: np.ndarray | None = None
        self.marks: np.ndarray | None = None
        self.kept: tuple[np.ndarray, ...] = ()
        if payload is None:
            return
        self.dtype, self.count, flags = TYPES[payload[0]], payload[1], payload[2]
        at = 3
        if payload[0] or flags & 16:
            numbers = np.frombuffer(payload, self.dtype, 2 * self.count, at).tolist()
            self.ranges = list(zip(numbers[::2], numbers[1::2], strict=True))
            at += 2 * self.dtype.itemsize * self.count
        if flags & 2:
            stored = np.dtype("<f8") if self.is_float else self.dtype
            self.nodata = np.frombuffer(payload, stored, 1, at).tolist()[0]
            at += stored.itemsize
        if flags & 32:
            self.fills = np.frombuffer(payload, self.dtype, payload[at], at + 1).tolist()
            at += 1 + payload[at] * self.dtype.itemsize
        if flags & 64:
            numbers = np.frombuffer(payload, "<f8", 2 * self.count, at).tolist()
            numbers = numbers if self.is_float else [int(number) for number in numbers]
            self.reference_ranges = list(zip(numbers[::2], numbers[1::2], strict=True))
            at += 16 * self.count
        rest = payload[at:]
        if flags & 1:
            self.alpha, rest = plane(rest, height, width, self.dtype)
        if flags & 4:
            stacked, rest = plane(rest, self.count * height, width, TYPES[0])
            unlike = stacked.reshape(self.count, height, width)
            self.marks = np.bitwise_xor.accumulate(unlike, axis=0).transpose(1, 2, 0)
        if flags & 8:
            n = int.from_bytes(rest[:4], "little")
            if n > height * width * self.count // 64:
                raise ValueError("too many kept samples")
            inflater = zlib.decompressobj(-15)
            plain = inflater.decompress(rest[4:], n * (9 + self.dtype.itemsize) + 1)
            if len(plain) != n * (9 + self.dtype.itemsize) or not inflater.eof:
                raise ValueError("kept samples of another size")
            down, column, band = (
                np.frombuffer(plain, kind, n, at * n) for kind, at in (("<u4", 0), ("<u4", 4), ("u1", 8))
            )
            self.kept = np.cumsum(down), column, band, np.frombuffer(plain, self.dtype, n, 9 * n)
            rest = inflater.unused_data
        if rest:
            raise ValueError("BANDS has bytes to spare")

    @property
    def is_float(self) -> bool:
        """Whether samples are floating point."""
        return self.dtype.kind == "f"

    def is_nodata(self, samples: np.ndarray) -> np.ndarray:
        """Return where samples have the nodata value."""
        if self.nodata is None:
            return np.zeros(samples.shape, bool)
        value = np.float32(self.nodata) if samples.dtype.kind == "f" else self.nodata
        return np.isnan(samples) if self.nodata != self.nodata else samples == value

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
        found, others, real = [], reference.shape[2], reference.dtype.kind == "f"
        if self.count == 1 and others > 1:
            a, b, c = (reference[..., i].astype(np.float64 if real else np.int64) for i in range(3))
            luma = 77 * a + 150 * b + 29 * c
            reference = (luma / 256 if real else (luma + 128) // 256).astype(reference.dtype)[..., None]
        else:
            reference = reference[..., [min(i, others - 1) for i in range(self.count)]]
        for group in self.groups:
            pixels = reference[..., group]
            hidden = self.is_nodata(pixels) | ~np.isfinite(pixels)
            for fill in self.fills:
                hidden |= pixels == (np.float32(fill) if reference.dtype.kind == "f" else fill)
            coded = np.where(hidden, 0, pixels).astype(np.float64 if real or self.is_float else np.int64)
            for place, band in enumerate(group):
                if self.ranges:
                    low, high = (self.reference_ranges or self.ranges)[band]
                    off, wide = coded[..., place].clip(low, high) - low, high - low
                    if not wide:
                        coded[..., place] = 0
                    elif real or self.is_float:
                        coded[..., place] = np.floor(off * FULL / wide + 0.5)
                    else:
                        coded[..., place] = (2 * FULL * off + wide) // (2 * wide)
            found.append(filled(coded.astype(np.int64), ~hidden).astype(self.group_type))
        return found

    def values(self, band: int) -> np.ndarray:
        """Return what each level of a band stands for, or each sample."""
        level = np.arange(256)
        if self.ranges:
            (low, high), level = self.ranges[band], np.arange(FULL + 1)
            if self.is_float:
                level = (low * (FULL - level.astype(np.float64)) + high * level) / FULL
            else:
                level = low + (2 * (high - low) * level + FULL) // (2 * FULL)
        found = level.astype(self.dtype)
        good = np.flatnonzero(~self.is_nodata(found))
        for place in np.flatnonzero(self.is_nodata(found)):
            above = good[good > place]
            if len(good):
                found[place] = found[above[0] if len(above) else good[-1]]
        return found

    def joined(self, groups: list[np.ndarray]) -> np.ndarray:
        """Return the picture [h, w, bands] of its band groups."""
        picture = np.empty((*groups[0].shape[:2], self.count), self.dtype)
        for pixels, group in zip(groups, self.groups, strict=True):
            for band in set(group):
                copies = [pixels[..., place].astype(np.int64) for place in range(3) if group[place] == band]
                picture[..., band] = self.values(band)[(2 * sum(copies) + len(copies)) // (2 * len(copies))]
        if self.marks is not None:
            for mark, value in enumerate((self.nodata, np.nan, np.inf, -np.inf, *self.fills), start=1):
                if (self.marks == mark).any():
                    picture[self.marks == mark] = value
        if self.kept:
            picture[self.kept[:3]] = self.kept[3]
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


def plane(data: bytes, height: int, width: int, dtype: np.dtype) -> tuple[np.ndarray, bytes]:
    """Return a plane of samples from lossless WebP files, and the bytes after them."""
    if dtype.itemsize == 4:
        halves, data = plane(data, 2 * height, width, np.dtype("<u2"))
        return np.stack([halves[:height], halves[height:]], axis=2).view(dtype)[..., 0], data
    found = np.empty((height, width), np.uint16)
    (down, across) = ([16 * -(-i * side // (16 * n)) for i in range(n)] + [side] for side, n in _parts(height, width))
    for top, bottom in zip(down[:-1], down[1:], strict=True):
        for left, right in zip(across[:-1], across[1:], strict=True):
            length = 8 + int.from_bytes(data[4:8], "little")
            colours = np.array(PIL.Image.open(io.BytesIO(data[:length])).convert("RGB")).astype(np.uint16)
            low, high = colours[..., 0], colours[..., 1]
            found[top:bottom, left:right] = low | high << 8 if dtype.itemsize == 2 else low
            data = data[length:]
    return found.astype(f"<u{dtype.itemsize}").view(dtype), data


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
