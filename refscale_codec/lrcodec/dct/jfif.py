"""Quantisation indices -> a baseline 4:4:4 JPEG (ITU-T T.81, JFIF) with the standard Huffman tables, for viewers."""

import struct
from functools import cache

import numpy as np
from numpy.typing import NDArray

from refscale_codec.lrcodec.dct.coefficients import Indices, steps

# Huffman tables, T.81 Tables K.3 to K.6: how many codes have 1, 2, .. 16 bits, and their symbols in order of code.
_HUFFMAN = {
    0x00: (bytes([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]), bytes(range(12))),  # Y, DC
    0x10: (  # Y, AC
        bytes([0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125]),
        bytes.fromhex(
            "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435"
            "363738393a434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798"
            "999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4"
            "f5f6f7f8f9fa"
        ),
    ),
    0x01: (bytes([0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]), bytes(range(12))),  # Cb and Cr, DC
    0x11: (  # Cb and Cr, AC
        bytes([0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119]),
        bytes.fromhex(
            "000102031104052131061241510761711322328108144291a1b1c109233352f0156272d10a162434e125f11718191a262728292a"
            "35363738393a434445464748494a535455565758595a636465666768696a737475767778797a82838485868788898a9293949596"
            "9798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4"
            "f5f6f7f8f9fa"
        ),
    ),
}
_END_OF_BLOCK, _SIXTEEN_ZEROS = 0x00, 0xF0


def write(indices: Indices, height: int, width: int, quality: int) -> bytes:
    """Return the JPEG of a picture [height, width] of a quality."""
    blocks = indices.astype(np.int64).reshape(-1, 64)  # in the order of the scan
    values = blocks.copy()
    values[3:, 0] -= blocks[:-3, 0]
    chroma = np.arange(len(blocks)) % 3 > 0
    block, k = np.nonzero(values[:, 1:])
    k += 1
    first = np.append(True, block[1:] != block[:-1])[: len(block)]
    run = k - 1 - np.where(first, 0, np.roll(k, 1))
    size = np.frexp(abs(values))[1].astype(np.int64)  # bits of the magnitude
    zeros = np.repeat(np.arange(len(run)), run // 16)  # one entry for each sixteen zeros
    ended = np.flatnonzero(values[:, 63] == 0)
    all_blocks = np.arange(len(blocks))

    def tokens(
        kind: int,
        at: NDArray[np.int64],
        position: NDArray[np.int64],
        symbol: NDArray[np.int64],
        bits: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return [order, code with the `bits` last bits of the value still to come, length] of each."""
        codes, lengths = (np.where(chroma[at], *(_codes(kind | c)[i][symbol] for c in (1, 0))) for i in (0, 1))
        value = values[at, position]
        extra = np.where(value < 0, value - 1, value) & ((1 << bits) - 1)
        return np.stack([at * 128 + 2 * position, codes << bits | extra, lengths + bits])

    none = np.zeros_like
    zero_runs = tokens(0x10, block[zeros], k[zeros], np.full_like(zeros, _SIXTEEN_ZEROS), none(zeros))
    coded = tokens(0x10, block, k, run % 16 << 4 | size[block, k], size[block, k])
    coded[0] += 1  # after its runs of zeros
    stops = tokens(0x10, ended, none(ended), none(ended) + _END_OF_BLOCK, none(ended))
    stops[0] += 127
    starts = tokens(0x00, all_blocks, none(all_blocks), size[:, 0], size[:, 0])
    stream = np.concatenate([starts, zero_runs, coded, stops], axis=1)
    _, code, length = stream[:, np.argsort(stream[0], kind="stable")]
    bits = np.unpackbits((code << 32 - length).astype(">u4").view(np.uint8).reshape(-1, 4), axis=1)
    scan = bits[np.arange(32) < length[:, None]]
    packed = np.packbits(np.append(scan, np.ones(-len(scan) % 8, np.uint8))).tobytes()
    return _headers(height, width, quality) + packed.replace(b"\xff", b"\xff\0") + b"\xff\xd9"


def _headers(height: int, width: int, quality: int) -> bytes:
    """Return everything before the entropy-coded part."""
    quantiser = steps(quality).astype(np.uint8)
    parts = [b"\xff\xd8", _segment(0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0")]
    parts += [_segment(0xDB, bytes([table]) + quantiser[table].tobytes()) for table in (0, 1)]
    parts += [_segment(0xC0, struct.pack(">BHHB", 8, height, width, 3) + bytes([1, 0x11, 0, 2, 0x11, 1, 3, 0x11, 1]))]
    parts += [_segment(0xC4, bytes([table]) + counts + symbols) for table, (counts, symbols) in _HUFFMAN.items()]
    parts += [_segment(0xDA, bytes([3, 1, 0x00, 2, 0x11, 3, 0x11, 0, 63, 0]))]
    return b"".join(parts)


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


@cache
def _codes(table: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return code and its length in bits [256] of each symbol (T.81, Annex C)."""
    counts, symbols = _HUFFMAN[table]
    codes, lengths = np.zeros(256, np.int64), np.zeros(256, np.int64)
    code, ordered = 0, iter(symbols)
    for length, count in enumerate(counts, 1):
        for symbol in (next(ordered) for _ in range(count)):
            codes[symbol], lengths[symbol] = code, length
            code += 1
        code <<= 1
    return codes, lengths
