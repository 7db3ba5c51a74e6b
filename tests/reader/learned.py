"""NETWORK.md, "Learned low-res codec": payload of codec 2 -> latents, by integers alone."""

import struct
import zlib

import numpy as np
import torch
from torch.nn import functional

from reader.rangecoder import RangeDecoder, of_frequencies
from reader.weights import Weights

NEIGHBOURS = [(dy, dx) for dy in (-2, -1, 0) for dx in range(-2, 3) if (dy, dx) < (0, 0)]
WINDOWS = [3, 7, 15, 31, 63]


class Latents:
    """The entropy model of one payload."""

    def __init__(self, weights: Weights, quality: int) -> None:
        self.weights, self.quality = weights, quality
        self.normal = weights.integers("exact.normal")
        self.exponential = weights.integers("exact.exponential")
        self.wide = (self.normal < 32680).sum(axis=1)
        n = weights.config["gmm"]["channels"]
        self.ends = [0, n // 12, n // 12 + n // 4, n]

    def layer(self, name: str, x: np.ndarray, *, leaky: bool, stride: int = 1) -> np.ndarray:
        """Map [in, rows, columns] to [out, rows, columns]."""
        weight, bias, shift = (self.weights.integers(f"exact.{name}.{part}") for part in ("weight", "bias", "shift"))
        largest = 32767 * abs(weight).sum(axis=(1, 2, 3)) + abs(bias)
        if (largest >= 2**53).any() or (abs(shift) >= 53).any():
            raise ValueError("sums are not exact")
        inputs = torch.from_numpy(x.astype(np.float64))[None]
        kernel = torch.from_numpy(weight.astype(np.float64))
        t = functional.conv2d(inputs, kernel, stride=stride, padding=weight.shape[-1] // 2)[0].numpy()
        return finished(t + bias[:, None, None], shift[:, None, None], leaky)

    def companded(self, y: np.ndarray) -> np.ndarray:
        return np.sign(y) * self.weights.integers("exact.compand")[abs(y)]

    def decode(self, payload: bytes, rows: int, columns: int, reference: np.ndarray) -> np.ndarray:
        """Return y [n, rows, columns], given the low-res reference [3, 8 rows, 8 columns]."""
        coder = RangeDecoder(payload[4:])
        limits = of_frequencies(self.weights.integers("exact.frequency"))
        size = -(-rows // 2), -(-columns // 2)
        z = np.array([[coder.symbol(row) - 15 for _ in range(size[0] * size[1])] for row in limits]).reshape(-1, *size)
        hyper = shuffled(self.layer("hyper.0", z, leaky=True))
        hyper = self.layer("hyper.1", hyper, leaky=False)[:, :rows, :columns]
        features = self.layer("reference.0", reference, leaky=True, stride=4)
        features = self.layer("reference.1", features, leaky=True, stride=2)
        planes = np.broadcast_to(
            self.weights.integers("exact.quality")[:, self.quality, None, None], (2, rows, columns)
        )
        self.side = np.concatenate([hyper, features, planes])
        self.y = np.zeros((self.ends[-1], rows + 2, columns + 4), np.int64)  # two more above, left and right
        for front in range(columns + 3 * (rows - 1)):
            ys = np.array([r for r in range(rows) if 0 <= front - 3 * r < columns], int)
            if len(ys):
                self._wavefront(coder, ys, front - 3 * ys)
        coder.require_end()
        y = self.y[:, 2:, 2:-2]
        if (
            abs(y).max() > 2047
            or zlib.crc32(y.astype("<i2").tobytes() + z.astype("<i2").tobytes()) != struct.unpack_from("<I", payload)[0]
        ):
            raise ValueError("the latents do not fit their CRC-32")
        return y

    def _wavefront(self, coder: RangeDecoder, ys: np.ndarray, xs: np.ndarray) -> None:
        near = np.stack([self.y[:, ys + 2 + dy, xs + 2 + dx] for dy, dx in NEIGHBOURS], axis=1)  # [n, 12, positions]
        n, _, positions = near.shape
        context = self.layer("context", self.companded(near).reshape(12 * n, positions, 1), leaky=False)[..., 0]
        slope = self._slope(near)
        shared = np.concatenate([self.side[:, ys, xs], context])
        for group in range(3):
            first, end = self.ends[group], self.ends[group + 1]
            hidden = np.concatenate([shared, self.companded(self.y[:first, ys + 2, xs + 2])])[..., None]
            for i in range(3):
                hidden = self.layer(f"parameters.{group}.{i}", hidden, leaky=i < 2)
            scale, mean, logit = hidden[..., 0].reshape(3, 3, end - first, positions)
            mean = (mean + slope[first:end]).clip(-32752, 32752)
            mixture = (x.transpose(0, 2, 1).reshape(3, -1) for x in (scale.clip(0, 63), mean, logit))  # by positions
            values = self._values(coder, *mixture)
            self.y[first:end, ys + 2, xs + 2] = values.reshape(positions, end - first).T

    def _slope(self, near: np.ndarray) -> np.ndarray:
        weight, bias, shift = (self.weights.integers(f"exact.slope.{part}") for part in ("weight", "bias", "shift"))
        t = (weight[:, :, 0] * near).sum(axis=1) + bias[:, None]
        return finished(t.astype(np.float64), shift[:, None], False)

    def _values(self, coder: RangeDecoder, scale: np.ndarray, mean: np.ndarray, logit: np.ndarray) -> np.ndarray:
        """Return latents whose mixtures these are, [3, latents] each."""
        e = self.exponential[np.minimum(logit.max(axis=0) - logit, 128)]
        weight = 4096 * e // e.sum(axis=0)
        largest = logit.argmax(axis=0)  # the first of them
        weight[largest, np.arange(len(largest))] += 4096 - weight.sum(axis=0)
        middle = ((weight * mean).sum(axis=0) + 32768) // 65536
        reach = ((abs(mean - 16 * middle) + self.wide[scale]) * (weight >= 128)).max(axis=0)
        window = np.searchsorted([16 * (size // 2) for size in WINDOWS], reach)  # the first that is no less
        values = np.empty_like(middle)
        for i, size in enumerate([*WINDOWS, 127]):
            own, half = np.flatnonzero(window == i), size // 2
            edges = 16 * (middle[own] - half)[None] + 16 * np.arange(size + 1)[:, None] - 8  # [edges, latents]
            away = edges[:, None] - mean[None, :, own]
            mass = np.sign(away) * self.normal[scale[None, :, own], np.minimum(abs(away), 2047)]
            m = (weight[None, :, own] * mass).sum(axis=1)
            m = (m - m[0]) * (65535 - size) >> 28
            frequencies = np.diff(m, axis=0) + 1
            frequencies = np.concatenate([frequencies, 65536 - frequencies.sum(axis=0, keepdims=True)]).T
            symbols = [coder.symbol(limits) for limits in of_frequencies(frequencies)]
            for at, symbol in zip(own.tolist(), symbols, strict=True):
                values[at] = middle[at] - half + symbol
            for at in (at for at, symbol in zip(own.tolist(), symbols, strict=True) if symbol == size):
                values[at] = middle[at] + _beyond(coder.signed(), half)
        return values


def _beyond(f: int, half: int) -> int:
    return half + 1 + f if f >= 0 else f - half


def finished(t: np.ndarray, shift: np.ndarray, leaky: bool) -> np.ndarray:
    """Return what a layer makes of its sums."""
    y = np.floor(t * 2.0**-shift + 0.5).clip(-32767, 32767).astype(np.int64)
    return np.where(y < 0, y // 128, y) if leaky else y


def shuffled(x: np.ndarray) -> np.ndarray:
    """[4c, r, s] -> [c, 2r, 2s]."""
    c, r, s = x.shape
    return x.reshape(c // 4, 2, 2, r, s).transpose(0, 3, 1, 4, 2).reshape(c // 4, 2 * r, 2 * s)


def low_res_reference(reference: np.ndarray | None, scale: int, rows: int, columns: int) -> np.ndarray:
    """Return what the entropy model sees, [3, 8 rows, 8 columns], of the warped reference [h, w, 3]."""
    if reference is None:
        return np.zeros((3, 8 * rows, 8 * columns), np.int64)
    height, width, _ = reference.shape
    padded = np.pad(reference, ((0, -height % scale), (0, -width % scale), (0, 0)), "edge").astype(np.int64)
    s = padded.reshape(padded.shape[0] // scale, scale, padded.shape[1] // scale, scale, 3).sum(axis=(1, 3))
    mean = (2 * s + scale**2) // (2 * scale**2)
    if reference.dtype == np.uint16:
        mean //= 256
    bottom, right = 8 * rows - mean.shape[0], 8 * columns - mean.shape[1]
    return np.pad(mean - 128, ((0, bottom), (0, right), (0, 0)), "edge").transpose(2, 0, 1)
