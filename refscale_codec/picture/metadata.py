"""Metadata of a picture file, and the METADATA payload of a `.rsc` file. Standard library only.

Colour profile, EXIF, XMP and georeference are opaque bytes here; `image` reads them from files and writes them.
`docs/FORMAT.md` has the layout of the payload.
"""

import zlib
from dataclasses import astuple, dataclass, field
from itertools import accumulate

from refscale_codec.errors import ContainerError, ImageError

MAX_BYTES = 0xFF_FFFF
"""Most bytes of all parts together, before compression."""

_LENGTH = 3  # bytes of each length
_LENGTHS = 4 * _LENGTH


@dataclass(frozen=True)
class Metadata:
    """The bytes of each part, without the framing of the picture format."""

    icc: bytes = field(default=b"", repr=False)
    """ICC colour profile; empty for none."""
    exif: bytes = field(default=b"", repr=False)
    """EXIF, starting with its byte order mark, `II` or `MM`; empty for none."""
    xmp: bytes = field(default=b"", repr=False)
    """XMP packet; empty for none."""
    geo: bytes = field(default=b"", repr=False)
    """Georeference and tags of a GeoTIFF, as the JSON of `geotiff`; empty for none."""

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return any(astuple(self))


def pack(metadata: Metadata) -> bytes | None:
    """Return the payload, deflated if that is smaller; None if there is no metadata.

    Raises:
        ImageError: there is more than `MAX_BYTES`.
    """
    if not metadata:
        return None
    parts: tuple[bytes, ...] = astuple(metadata)
    plain = b"".join(parts)
    if len(plain) > MAX_BYTES:
        raise ImageError(
            f"the picture has {len(plain):,} bytes of metadata; at most {MAX_BYTES:,} are kept: "
            "leave it out with --strip, or strip=True in Python"
        )
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = deflater.compress(plain) + deflater.flush()
    lengths = b"".join(len(part).to_bytes(_LENGTH, "little") for part in parts)
    return lengths + min(plain, deflated, key=len)


def unpack(payload: bytes | None) -> Metadata:
    """Return the metadata in a payload; None is no payload.

    Raises:
        ContainerError: not a valid payload. No more than `MAX_BYTES` is ever inflated.
    """
    if payload is None:
        return Metadata()
    if len(payload) < _LENGTHS:
        raise ContainerError(f"malformed: METADATA of {len(payload)} bytes, expected at least {_LENGTHS + 1}")
    lengths = [int.from_bytes(payload[at : at + _LENGTH], "little") for at in range(0, _LENGTHS, _LENGTH)]
    size, plain = sum(lengths), payload[_LENGTHS:]
    if size > MAX_BYTES:
        raise ContainerError(f"over the size limit: METADATA of {size} bytes, expected up to {MAX_BYTES}")
    if not 0 < len(plain) <= size:
        raise ContainerError(f"malformed: METADATA has {len(plain)} bytes for {size}")
    if len(plain) < size:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            plain = inflater.decompress(plain, size + 1)
        except zlib.error as error:
            raise ContainerError(f"malformed: METADATA does not inflate: {error}") from None
        if len(plain) != size or not inflater.eof or inflater.unused_data:
            raise ContainerError(f"malformed: METADATA does not inflate to the {size} bytes that it names")
    ends = list(accumulate(lengths))
    return Metadata(*(plain[end - length : end] for length, end in zip(lengths, ends, strict=True)))
