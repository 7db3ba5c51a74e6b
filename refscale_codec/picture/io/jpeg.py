"""Where a JPEG ends, and whether its entropy-coded data are all there.

Decoders fill what is missing with grey, and at most warn of it. Here some bytes are added where the data of each scan
or restart interval end. A decoder that has all of its data skips them; another one decodes them, and gets other pixels.
"""

import io
import re
import struct
from collections.abc import Iterator

import numpy as np
import PIL.Image
from numpy.typing import NDArray

_MARKER = re.compile(rb"\xff+[^\x00\xff]")  # within entropy-coded data, where FF 00 stands for FF
_FILLER = bytes.fromhex("5ac3913e b7046d29 f1584fa6 127bd08c 35e96a97 c81e43b2 7df40b5a 2c86e19d")
_FILLERS = (_FILLER, bytes(byte ^ 0xFF for byte in _FILLER))  # no pixel stays as it is with both, whatever is missing
_START_OF_SCAN, _END, _RESTART_INTERVAL, _RESTARTS = 0xDA, 0xD9, 0xDD, range(0xD0, 0xD8)
_WITHOUT_CONTENTS = {0x01, 0xD8, *_RESTARTS}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_ARITHMETIC = {0xC9, 0xCA, 0xCB}  # such data end with zeros that are left out
_SMALL = 1 << 22  # pixels; larger pictures are compared at an eighth of their size, which takes little memory


def length(data: bytes) -> int:
    """Return the bytes of the first picture with its end marker, behind which there may be others; all without one."""
    return next((end for kind, _, end in _segments(data) if kind == _END), len(data))


def ends_early(data: bytes) -> bool:
    """Return whether entropy-coded data of a JPEG end before its last pixel.

    Raises:
        UnidentifiedImageError: Pillow does not decode such a JPEG: of two components or 12 bits, say.
        Exception: nearly any, for bytes that are not a JPEG.
    """
    segments = list(_segments(data))
    kinds = {kind for kind, _, _ in segments}
    if kinds & _ARITHMETIC:
        return False
    if _lacks_scans([data[start:end] for kind, start, end in segments if kind == _START_OF_SCAN]):
        return True
    scans, restarts = [end for kind, _, end in segments if kind == _START_OF_SCAN], _RESTART_INTERVAL in kinds
    pixels = _pixels(data)
    return not all(np.array_equal(pixels, _pixels(_filled(data, scans, restarts, filler))) for filler in _FILLERS)


def _lacks_scans(headers: list[bytes]) -> bool:
    """Return whether a progressive JPEG has coefficients whose last bits do not come in any scan."""
    shifts: dict[tuple[int, int], int] = {}  # by component and coefficient: how many lower bits are still to come
    for header in headers:
        first, last, approximation = header[-3:]
        shifts |= {(name, k): approximation & 15 for name in header[1:-3:2] for k in range(first, last + 1)}
    return any(shifts.values())


def _filled(data: bytes, scans: list[int], restarts: bool, filler: bytes) -> bytes:
    """Return a JPEG with bytes added at the end of each scan and restart interval, and with one more interval."""
    parts, done = [], 0
    for scan in scans:
        for count, marker in enumerate(_MARKER.finditer(data, scan)):
            parts += [data[done : marker.start()], filler]
            done = marker.start()
            if data[marker.end() - 1] not in _RESTARTS:
                parts += [bytes([0xFF, _RESTARTS[count % 8]]), filler] if restarts else []
                break
    return b"".join([*parts, data[done:]])


def samples(data: bytes) -> int | None:
    """Return how many samples the frame has; None if its header is not there yet."""
    for kind, start, end in _segments(data):
        if kind in _FRAMES and end <= len(data):
            height, width, components = struct.unpack_from(">HHB", data, start + 1)
            return int(height * width * components)
    return None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of the contents of the segments of the first picture, but for entropy-coded data."""
    at = 2
    while marker := _MARKER.search(data, at):
        kind, at = data[marker.end() - 1], marker.end()
        if kind == _END:
            yield kind, at, at
            return
        if kind not in _WITHOUT_CONTENTS:
            start, at = at + 2, at + int.from_bytes(data[at : at + 2], "big")
            yield kind, start, at


def _pixels(data: bytes) -> NDArray[np.uint8]:
    picture = PIL.Image.open(io.BytesIO(data), formats=("JPEG",))
    if picture.width * picture.height > _SMALL:
        picture.draft(picture.mode, (picture.width // 8, picture.height // 8))
    return np.array(picture)
