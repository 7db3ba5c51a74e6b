"""A `.rsc` file, its weights and its references -> the picture: FORMAT.md and NETWORK.md from top to bottom."""

import hashlib
import struct
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reader import bands, container, dct, learned, similarity_map
from reader.container import BANDS, EXTRA_BANDS, MAP, OUTPUT_HASH, PREDICTION, File
from reader.fgrn import Fgrn
from reader.flow import Flow
from reader.predictive import Samples
from reader.references import Layers
from reader.synthesis import Synthesis
from reader.untied import Untied
from reader.weights import Weights


def fingerprint(pixels: np.ndarray) -> bytes:
    """Return that of pixels [h, w, bands]."""
    kind = pixels.dtype.str[1:].replace("u1", "v1").encode()
    if pixels.dtype.kind == "f":
        pixels = np.where(np.isnan(pixels), np.array(0x7FC00000, np.uint32).view(np.float32), pixels)
    start = b"refscale-pixels-" + kind + struct.pack("<III", *pixels.shape)
    return hashlib.sha256(start + pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()).digest()[:6]


def low_res_picture(file: File, weights: Weights, tables: dct.Tables, reference: np.ndarray | None) -> Tensor:
    """Return [3, lh, lw] on about 0..255, for codec 3 whole numbers up to 65535; `reference` is the warped one of the
    codecs 2 and 3.
    """
    height, width = file.low_res
    rows, columns = -(-height // 8), -(-width // 8)
    payload = file.payloads[container.LR]
    if file.codec == 1:
        coefficients = dct.Decoder(payload, rows, columns, file.quality, tables).decode()
        return torch.from_numpy(dct.picture(coefficients, height, width).astype(np.float32)).permute(2, 0, 1)
    if file.codec == 3:
        samples = Samples(payload, file.low_res, reference, file.quality)
        return torch.from_numpy(samples.decode() * (65535 // samples.full)).permute(2, 0, 1)
    if file.codec != 2:
        raise ValueError("unknown codec")
    seen = learned.low_res_reference(reference, file.scale, rows, columns)
    y = learned.Latents(weights, file.quality).decode(payload, rows, columns, seen)
    return Synthesis(weights).picture(y, file.quality)[:, :height, :width]


def group(
    file: File, weights: Weights, tables: dct.Tables, reference: np.ndarray | None, dtype: np.dtype
) -> np.ndarray:
    """Return a band group [height, width, 3]; `reference` is the group's, warped or predicted, None for none."""
    height, width = file.low_res
    exact = None if PREDICTION in file.payloads else reference
    low_res = low_res_picture(file, weights, tables, exact)
    if weights.config.get("kind") == "identity":
        return (low_res if dtype == np.uint16 else (2 * low_res + 257) // 514).permute(1, 2, 0).numpy().astype(dtype)
    levels, x, full = None, None, int(np.iinfo(dtype).max)
    if reference is not None:
        size = -(-height // weights.config["map_divisor"]), -(-width // weights.config["map_divisor"])
        levels = similarity_map.decode(file.payloads.get(MAP), *size, weights.config["map_levels"])
        padding = ((0, file.scale * height - file.height), (0, file.scale * width - file.width), (0, 0))
        x = torch.from_numpy(np.pad(reference, padding, "edge").astype(np.float32)).permute(2, 0, 1)
    kind = weights.config.get("kind", "flow")
    if kind == "fgrn":
        made = full * Fgrn(weights).up(low_res / 255)
    elif kind == "untied":
        made = full // 255 * Untied(weights).up(low_res, None if x is None else x / (full // 255), levels, file.quality)
    else:
        s_map = None if levels is None else torch.from_numpy(levels)
        made = full * Flow(weights).up(low_res / 255, None if x is None else x / full, s_map, file.quality)
    pixels = np.rint(made.permute(1, 2, 0).numpy()).clip(0, full)
    return pixels[: file.height, : file.width].astype(dtype)


def decode(
    data: bytes, weights: Weights, tables: dct.Tables, references: list[np.ndarray]
) -> tuple[np.ndarray, bands.Bands]:
    """Return the picture [height, width, bands], and what the file says of its bands (alpha, nodata).

    The references may come in any order.
    """
    file = container.parse(data)
    if file.weights != weights.fingerprint or file.scale != weights.config["scale"]:
        raise ValueError("other weights")
    given = {fingerprint(reference): reference for reference in references}
    described = bands.Bands(file.payloads.get(BANDS), file.height, file.width)
    older: dict[bytes, list[np.ndarray]] = {}
    groups: list[np.ndarray] = []
    output_hash = file.payloads.get(OUTPUT_HASH)
    for index in range(len(described.groups)):
        seen = None
        if file.uses_reference and PREDICTION in file.payloads:
            seen = bands.predicted(file.payloads[PREDICTION], groups[0])
        elif file.uses_reference:
            layers = Layers(file)
            for name in layers.names:
                if name not in given:
                    raise ValueError("another reference")
                older.setdefault(name, described.of_reference(given[name]))
            seen = layers.apply({name: older[name][index] for name in layers.names})
        groups.append(group(file, weights, tables, seen, described.group_type))
        if EXTRA_BANDS in file.payloads:
            file = container.parse(file.payloads[EXTRA_BANDS])
    picture = described.joined(groups)
    exact = weights.config.get("kind") in ("untied", "identity") and "gmm" not in weights.config
    if exact and output_hash != fingerprint(picture):
        raise ValueError("the decoded picture is not the one of the file's hash")
    return picture, described


if __name__ == "__main__":  # FILE WEIGHTS TABLES OUT.npy [REFERENCE.npy ...]
    torch.set_num_threads(1)
    picture, _ = decode(
        Path(sys.argv[1]).read_bytes(),
        Weights(Path(sys.argv[2])),
        dct.Tables(Path(sys.argv[3])),
        [np.load(path) for path in sys.argv[5:]],
    )
    np.save(sys.argv[4], picture)
