"""What PNG, JPEG and WebP files say beside their pixels: their chunks or segments, read and, for PNG, written.

Pillow refuses a PNG of which a text or the colour profile is larger than a limit, so those chunks are read here and not
given to it. What is not kept is named.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from refscale_codec.picture import metadata
from refscale_codec.picture.metadata import MAX_BYTES, Metadata

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_SMALL = {b"gAMA": "gamma", b"cHRM": "chromaticities", b"sRGB": "intent", b"cICP": "cicp", b"pHYs": "resolution"}
_OF_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")
_LONGEST_KEYWORD = 79  # characters
_INCHES = 0.0254  # metres
_JPEG_UNITS = metadata.RATIO, metadata.INCH, metadata.CENTIMETRE
_WEBP = ("VP8 ", "VP8L", "VP8X", "ALPH", "ANIM", "ANMF", "ICCP", "EXIF", "XMP ")
_KEPT_SEGMENTS = (b"JFIF", b"Exif\0", b"http://ns.adobe.com/xap/", b"ICC_PROFILE\0", b"Adobe", b"MPF\0")


def is_png(data: bytes) -> bool:
    """Return whether these are the bytes of a PNG."""
    return data.startswith(_SIGNATURE)


def of_png(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield type, contents and offset of the chunks of a PNG, up to the first that is not whole."""
    at = len(_SIGNATURE)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            return
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length], at
        at += 12 + length


def read_png(data: bytes) -> tuple[bytes, Metadata, list[str]]:
    """Return a PNG without its metadata except EXIF, that metadata, and the names of what is left out.

    Raises:
        ValueError: its chunks are damaged.
    """
    found: dict[str, bytes] = {}
    texts: list[tuple[str, str]] = []
    unknown: dict[str, None] = {}  # ordered
    left_out: list[str] = []
    kept = [data[: len(_SIGNATURE)]]
    budget, end = MAX_BYTES, len(_SIGNATURE)
    for kind, contents, at in of_png(data):
        end = at + 12 + len(contents)
        if kind not in (*_TEXTS, *_SMALL, b"iCCP"):
            kept.append(data[at:end])
            if kind not in _OF_PIXELS:
                unknown[kind.decode("latin-1")] = None
            if kind == b"IEND":
                left_out += [behind(len(data) - end)] if end < len(data) else []
                data = data[:end]
                break
            continue
        if zlib.crc32(contents, zlib.crc32(kind)) != int.from_bytes(data[end - 4 : end], "big"):
            raise ValueError(f"the checksum of its chunk {kind.decode()} is wrong")
        if kind in _SMALL:
            found.setdefault(_SMALL[kind], contents)
            continue
        try:
            keyword, text, notes = _text(kind, contents, budget)
        except ValueError as error:
            left_out.append(f"a chunk {kind.decode()} ({error})")
            continue
        budget -= len(text)
        left_out += notes
        name = {b"iCCP": "icc"}.get(kind, "xmp" if kind == b"iTXt" and keyword == _XMP_KEYWORD else "")
        if not name:
            texts.append((keyword.decode("latin-1"), text.decode("utf-8" if kind == b"iTXt" else "latin-1", "replace")))
        elif found.setdefault(name, text) != text:
            left_out.append(f"a second {metadata.NAMES[name]}")
    if unknown:
        left_out.append(f"PNG chunks {', '.join(unknown)}")
    sizes = {name: len(part) for name, part in metadata.parts_of(Metadata(**found)).items() if part}
    for name in [name for name, size in sizes.items() if size != metadata.SIZES.get(name, size)]:
        left_out.append(f"{metadata.NAMES[name]} of {sizes[name]} bytes")
        del found[name]
    if texts:
        found["texts"] = metadata.packed_texts(texts)
    return b"".join([*kept, data[end:]]), Metadata(**found), left_out


def behind(count: int) -> str:
    """Return the name of so many bytes that follow the end of a picture."""
    return f"{count:,} byte{'s' * (count > 1)} behind its end"


def _text(kind: bytes, contents: bytes, most: int) -> tuple[bytes, bytes, list[str]]:
    """Return keyword and text of a chunk, and what is left out of it; ValueError if it is damaged or too long."""
    keyword, zero, rest = contents.partition(b"\0")
    deflated, notes = kind in (b"zTXt", b"iCCP"), []
    if not zero or not 0 < len(keyword) <= _LONGEST_KEYWORD:
        raise ValueError("damaged")
    if kind == b"iTXt":
        deflated, method, rest = rest[:1] == b"\1", rest[1:2], rest[2:]
        language, _, rest = rest.partition(b"\0")
        translated, zero, rest = rest.partition(b"\0")
        if not zero:
            raise ValueError("damaged")
        if (language or translated) and keyword != _XMP_KEYWORD:
            notes = ["languages of texts"]
        rest = method + rest if deflated else rest
    if deflated:
        if rest[:1] != b"\0":
            raise ValueError("of an unknown compression")
        inflater = zlib.decompressobj()
        try:
            rest = inflater.decompress(rest[1:], most + 1)
        except zlib.error:
            raise ValueError("damaged") from None
        if len(rest) <= most and not inflater.eof:
            raise ValueError("damaged")
    if len(rest) > most:
        raise ValueError(f"more than {MAX_BYTES:,} bytes")
    if b"\0" in rest and kind != b"iCCP":
        raise ValueError("damaged")
    return keyword, rest, notes


def png(said: Metadata) -> bytes:
    """Return the chunks of a PNG with all metadata that Pillow does not write: all but colour profile and EXIF."""
    parts = [(kind, getattr(said, name)) for kind, name in _SMALL.items() if name != "resolution"]
    resolution = metadata.resolution_of(said)
    if resolution is not None:
        across, down, unit = resolution
        factor = {metadata.INCH: 1 / _INCHES, metadata.CENTIMETRE: 100.0}.get(unit, 1.0)
        across, down = (min(round(side * factor), 0xFFFF_FFFF) for side in (across, down))
        parts.append((b"pHYs", metadata.packed_resolution(across, down, min(unit, metadata.METRE))))
    if said.xmp:
        parts.append((b"iTXt", _XMP_KEYWORD + bytes(5) + said.xmp))
    for keyword, text in metadata.texts_of(said):
        key = keyword.encode("latin-1")
        try:
            parts.append((b"tEXt", key + b"\0" + text.encode("latin-1")))
        except UnicodeEncodeError:
            parts.append((b"iTXt", key + bytes(5) + text.encode()))
    return b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(part, zlib.crc32(kind)))
        for kind, part in parts
        if part
    )


def read_jpeg(info: dict[Any, Any], segments: list[tuple[str, bytes]]) -> tuple[Metadata, list[str]]:
    """Return resolution and comments of a JPEG, and the names of what is left out.

    Args:
        info: Pillow's.
        segments: Pillow's `applist`.
    """
    found, left_out = {}, []
    across, down = info.get("jfif_density", (0, 0))
    unit = info.get("jfif_unit", 0)
    if across and down and unit < len(_JPEG_UNITS) and not (unit == 0 and across == down):
        found["resolution"] = metadata.packed_resolution(across, down, _JPEG_UNITS[unit])
    texts = []
    for name, contents in segments:
        if name == "COM":
            text = contents.rstrip(b"\0")
            with suppress(UnicodeDecodeError):
                texts.append(("Comment", text.decode()))
                continue
            texts.append(("Comment", text.decode("latin-1")))
        elif not contents.startswith(_KEPT_SEGMENTS):
            kind = contents[:_LONGEST_KEYWORD].partition(b"\0")[0]
            readable = kind.isascii() and kind.decode("latin-1").isprintable()
            left_out.append(f"segment {name}" + (f" ({kind.decode()})" if kind and readable else ""))
    texts = [(keyword, text) for keyword, text in texts if text]
    if any("\0" in text for _, text in texts):
        left_out.append("a comment that is not text")
        texts = [(keyword, text) for keyword, text in texts if "\0" not in text]
    if texts:
        found["texts"] = metadata.packed_texts(texts)
    return Metadata(**found), list(dict.fromkeys(left_out))


def read_webp(data: bytes) -> list[str]:
    """Return the names of what is left out of a WebP."""
    at, unknown, end = 12, dict[str, None](), 8 + int.from_bytes(data[4:8], "little")
    while at + 8 <= min(end, len(data)):
        kind = data[at : at + 4].decode("latin-1")
        if kind not in _WEBP and kind.isprintable():
            unknown[kind] = None
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little") + data[at + 4] % 2
    left_out = [f"WebP chunks {', '.join(unknown)}"] if unknown else []
    return left_out + ([behind(len(data) - end)] if end < len(data) else [])
