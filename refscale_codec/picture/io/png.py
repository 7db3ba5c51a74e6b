"""The samples of a PNG where Pillow does not do: 16 bits, one transparent colour, and data that end early.

OpenCV codes 16 bits, which Pillow reads as 8. Pillow gives no transparency to grey of 2 and 4 bits, and reads a PNG
whose data are too short, with black in place of what is missing.
"""

import struct
import zlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from refscale_codec.picture.io import chunks

START = 33
"""Bytes of the signature and the header chunk."""

_DEPTH, _GREY_WITH_ALPHA = 24, 4  # where the bits of a sample are; a colour type
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))  # Adam7
_PIECE, _INFLATED = 1 << 16, 1 << 20  # bytes at a time
_TO_BGR = {3: [2, 1, 0], 4: [2, 1, 0, 3], 1: [0]}  # channels in OpenCV's order, and back


def is_deep(data: bytes) -> bool:
    """Return whether a PNG has 16 bits per sample."""
    return data[_DEPTH] == 16


def ends_early(data: bytes) -> bool:
    """Return whether the samples of a PNG end before the last pixel; little memory is taken."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    needed = 0
    for top, left, down, right in _PASSES if interlaced else ((0, 0, 1, 1),):
        rows, columns = -(-(height - top) // down), -(-(width - left) // right)
        if rows > 0 and columns > 0:
            needed += rows * (1 + -(-columns * depth * _CHANNELS[colour] // 8))
    inflater = zlib.decompressobj()
    for kind, contents, _ in chunks.of_png(data):
        for at in range(0, len(contents) * (kind == b"IDAT"), _PIECE):
            piece = contents[at : at + _PIECE]
            while piece and needed > 0:
                needed -= len(inflater.decompress(piece, _INFLATED))
                piece = inflater.unconsumed_tail
    return needed > 0


def deep_samples(data: bytes) -> NDArray[Any]:
    """Return the samples of a PNG of 16 bits, [h, w, channels], without a transparent colour; ValueError for none."""
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16:
        raise ValueError("OpenCV cannot decode it")
    if samples.ndim == 2:
        return samples[..., None]
    samples = samples[..., _TO_BGR[samples.shape[2]]]
    if data[_DEPTH + 1] == _GREY_WITH_ALPHA:
        return samples[..., 2:]  # OpenCV converts it to RGB
    return samples[..., : _CHANNELS[data[_DEPTH + 1]]]


def alpha_of(samples: NDArray[Any], colour: int | tuple[int, ...], data: bytes) -> NDArray[Any]:
    """Return the alpha of samples [h, w, channels] of which one colour is transparent.

    Args:
        samples: in 8 or 16 bits.
        colour: as Pillow gives it: in the bits of the file, but 0 or 255 for 1 bit.
        data: the file.
    """
    depth = data[_DEPTH]
    wanted = np.array(colour) * (255 // ((1 << depth) - 1) if depth in (2, 4) else 1)
    full = samples.dtype.type(np.iinfo(samples.dtype).max)
    return np.asarray(np.where((samples == wanted).all(axis=2), samples.dtype.type(0), full))


def deep_file(samples: NDArray[Any], donor: bytes) -> bytes:
    """Return a PNG of 16 bits with the chunks that another PNG has between its header and its pixels.

    Args:
        samples: [h, w, 1..4] in uint16.
        donor: the other PNG.

    Raises:
        ValueError: OpenCV cannot encode it.
    """
    if samples.shape[2] == 2:
        samples = samples[..., [0, 0, 0, 1]]
    done, coded = cv2.imencode(".png", samples[..., _TO_BGR[samples.shape[2]]])
    if not done:
        raise ValueError("OpenCV cannot encode it")
    at, data = START, coded.tobytes()
    while donor[at + 4 : at + 8] != b"IDAT":
        at += 12 + int.from_bytes(donor[at : at + 4], "big")
    return bytes(data[:START] + donor[START:at] + data[START:])
