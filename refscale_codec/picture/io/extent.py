"""How long a picture file can be, by its beginning: what is read of a pipe that need not end.

Sizes, not places, tell that: a JPEG may have other pictures behind it, and a TIFF's directories may be anywhere.
"""

import struct
import warnings
from contextlib import suppress

from refscale_codec.picture.io import chunks, jpeg, tiff

_PER_SAMPLE = 16  # bytes: no format takes more for a sample, coded however badly
_MOST_DIRECTORIES, _MOST_TAGS = 1 << 12, 1 << 16  # of a TIFF; with more, it is not read on
_WIDTH, _HEIGHT, _BITS, _SAMPLES, _CHILDREN = 256, 257, 258, 277, 330  # tags
_BESIDE = 1 << 26  # bytes for all that is not samples: metadata, previews, a film behind the picture


def most_bytes(data: bytes) -> int | None:
    """Return the most bytes that a PNG, JPEG, WebP or TIFF file which begins so can have; None if more must be read."""
    with suppress(Exception), warnings.catch_warnings():  # nearly anything, for bytes that are not all there
        warnings.simplefilter("error")
        size = _of_tiff(data) if tiff.is_tiff(data) else _size(data)
        return None if size is None else size + _BESIDE
    return None


def _size(data: bytes) -> int | None:
    if chunks.is_png(data):
        width, height = struct.unpack_from(">II", data, 16)
        return 4 * int(width) * int(height) * _PER_SAMPLE
    if data[8:12] == b"WEBP":
        return 8 + int.from_bytes(data[4:8], "little")  # of the RIFF
    samples = jpeg.samples(data)
    return None if samples is None else samples * _PER_SAMPLE


def _of_tiff(data: bytes) -> int | None:
    """Return the most bytes of the samples of a TIFF; None while a directory is still to come.

    Only the directories themselves are looked at, not the values that are elsewhere. What is no directory ends the
    chain.
    """
    order, big = "<" if data[:2] == b"II" else ">", b"+" in data[2:4]
    number, entry, pointer = ("Q", 20, "Q") if big else ("H", 12, "L")
    waiting, seen, samples = [struct.unpack_from(order + pointer, data, 8 if big else 4)[0]], set[int](), 0
    while waiting and len(seen) < _MOST_DIRECTORIES:
        at = waiting.pop()
        if at < 8 or at in seen:
            continue
        seen.add(at)
        first = at + struct.calcsize(order + number)
        if first > len(data):
            return None
        (count,) = struct.unpack_from(order + number, data, at)
        if count > _MOST_TAGS:
            continue
        following = first + count * entry
        if following + struct.calcsize(order + pointer) > len(data):
            return None
        found: dict[int, int] = {}
        for place in range(first, following, entry):
            tag, kind, values = struct.unpack_from(f"{order}HH{pointer}", data, place)
            form = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q", 18: "Q"}.get(kind)
            inline = place + 4 + struct.calcsize(order + pointer)
            if tag == _CHILDREN and form is not None and values <= _MOST_DIRECTORIES:
                size = values * struct.calcsize(order + form)
                start = (
                    inline if size <= entry - (inline - place) else struct.unpack_from(order + pointer, data, inline)[0]
                )
                if start + size > len(data):
                    return None
                waiting += struct.unpack_from(f"{order}{values}{form}", data, start)
            elif tag == _BITS:
                found[tag] = values
            elif tag in (_WIDTH, _HEIGHT, _SAMPLES) and form is not None and values == 1:
                (found[tag],) = struct.unpack_from(order + form, data, inline)
        samples += found.get(_WIDTH, 0) * found.get(_HEIGHT, 0) * found.get(_SAMPLES, found.get(_BITS, 1))
        waiting += struct.unpack_from(order + pointer, data, following)
    return samples * _PER_SAMPLE
