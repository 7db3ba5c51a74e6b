"""What `info` shows of a file.

Numpy and Pillow are imported only for files that need them, torch only for a map that is not the same everywhere.
"""

import math
from contextlib import suppress
from typing import Any

from refscale_codec import lrcodec, weights_files
from refscale_codec.errors import ContainerError, WeightsError
from refscale_codec.fileformat import container, references
from refscale_codec.fileformat.container import Container, Header
from refscale_codec.picture import geo, metadata

CODECS = {"jpeg": "DCT coefficients", "gmm": "learned, Gaussian mixtures", "predictive": "predicted samples"}
"""The low-res codecs in words."""

_DATES = ("ACQUISITIONDATETIME", "TIFFTAG_DATETIME")  # tags of a GeoTIFF


def of_file(content: Container, size: int) -> dict[str, Any]:
    """Return all facts of a file of so many bytes, as `--json` shows them.

    Raises:
        ContainerError: a section is not valid.
    """
    header = content.header
    kept = metadata.unpack(content.metadata)
    fields = geo.fields_of(kept.geo)
    codec = lrcodec.CODECS.get(header.codec)
    return {
        "width": header.width,
        "height": header.height,
        **_samples(content),
        "band_names": fields.get("descriptions"),
        "crs": fields.get("crs"),
        "transform": fields.get("transform"),
        "bounds": bounds(fields.get("transform"), header.width, header.height),
        "tags": fields.get("tags", {}),
        "date": _date(kept, fields.get("tags", {})),
        "scale": header.scale,
        "codec": codec.name if codec else f"unknown ({header.codec})",
        "quality": header.quality,
        "weights": header.weights.hex(),
        "references": references.file_names(content),
        "uses_of_reference": [_use(group) for group in _groups(content)],
        "output_hash": None if content.output_hash is None else content.output_hash.hex(),
        "metadata": " ".join(name for name, part in metadata.parts_of(kept).items() if part) or None,
        "bytes": size,
        "bytes_by_section": container.bytes_by_section(content),
        "bpp": round(8 * size / (header.width * header.height), 4),
    }


def lines_of(name: str, facts: dict[str, Any]) -> list[str]:
    """Return the facts that people look for, one a line."""
    bands = f"{facts['bands']} band{'s' * (facts['bands'] != 1)} of {facts['type']}"
    sections = ", ".join(f"{part.replace('_', ' ')} {n}" for part, n in facts["bytes_by_section"].items() if n)
    codec = facts["codec"] + (f" ({CODECS[facts['codec']]})" if facts["codec"] in CODECS else "")
    found = {
        "picture": f"{facts['width']}x{facts['height']}, {bands}{' and alpha' * facts['alpha']}",
        "nodata": facts["nodata"],
        "band names": None if facts["band_names"] is None else ", ".join(name or "-" for name in facts["band_names"]),
        "ranges": ", ".join(f"{low:g}..{high:g}" for low, high in facts.get("ranges", ())) or None,
        "steps": ", ".join(f"{step:g}" for step in facts.get("step", ())) or None,
        "crs": facts["crs"] if facts["crs"] is None else facts["crs"].split("[")[0][:60],
        "bounds": None if facts["bounds"] is None else ", ".join(f"{side:.10g}" for side in facts["bounds"]),
        "date": facts["date"],
        "metadata": facts["metadata"],
        "size": f"{facts['bytes']} bytes, {facts['bpp']} bits per pixel ({sections})",
        "coding": f"scale {facts['scale']}, {codec}, quality {facts['quality']}",
        "weights": facts["weights"],
        "references" if len(facts["references"]) > 1 else "reference": _reference(facts),
        "output hash": facts["output_hash"],
    }
    return [name, *(f"  {key:<12}{value}" for key, value in found.items() if value is not None)]


def bounds(transform: list[float] | None, width: int, height: int) -> list[float] | None:
    """Return the least x and y and the largest x and y of a picture's corners.

    None without a transform, or if they are not finite.
    """
    if transform is None:
        return None
    a, b, c, d, e, f = transform
    corners = [(column, row) for column in (0, width) for row in (0, height)]
    xs = [a * column + b * row + c for column, row in corners]
    ys = [d * column + e * row + f for column, row in corners]
    found = [min(xs), min(ys), max(xs), max(ys)]
    return found if all(map(math.isfinite, xs + ys)) else None


def _samples(content: Container) -> dict[str, Any]:
    if content.bands is None:
        return {"bands": 3, "type": "uint8", "alpha": False, "nodata": None}
    from refscale_codec.picture import levels
    from refscale_codec.picture.coded import band_section

    described = band_section.summary(content.bands, content.header.height, content.header.width)
    samples: dict[str, Any] = {
        "bands": described.depth,
        "type": described.dtype.name,
        "alpha": described.alpha,
        "nodata": described.nodata,
    }
    if described.ranges:
        samples["ranges"] = described.ranges
        samples["step"] = [float(f"{levels.step(low, high):.6g}") for low, high in described.ranges]
    return samples


def _date(kept: metadata.Metadata, tags: dict[str, str]) -> str | None:
    """Return when the picture was taken, or else changed, as its metadata has it."""
    found = metadata.exif_text(kept.exif, *metadata.EXIF_DATES)
    return found or next((tags[name] for name in _DATES if name in tags), None)


def _groups(content: Container) -> list[Container]:
    """Return the files of all band groups."""
    groups = [content]
    while (extra_bands := groups[-1].extra_bands) is not None:
        groups.append(container.unpack(extra_bands))
    return groups


def _use(group: Container) -> str | float | None:
    """Return what a band group uses: the share of the picture that uses the reference, or `predicted`.

    0 is no use; None is some of it, by a map that only weights that are not here can interpret.
    """
    if group.prediction is not None:
        return "predicted"
    if group.header.reference is None or group.similarity_map == b"":
        return 0.0
    if group.similarity_map is None or len(group.similarity_map) == 1:  # the same everywhere
        return 1.0
    return _share(group.similarity_map, group.header)


def _share(payload: bytes, header: Header) -> float | None:
    """Return the share of cells above 0 in a similarity map; the weights say how many there are."""
    from refscale_codec.rescale import similarity_map

    with suppress(WeightsError, ContainerError, KeyError):  # the last: of a net without a map
        net = weights_files.described(weights_files.shipped_as(header.weights))
        rows, columns = (-(-side // net["map_divisor"]) for side in header.low_res_size)
        return round(float((similarity_map.decode(payload, rows, columns, net["map_levels"]) > 0).mean()), 4)
    return None


def _reference(facts: dict[str, Any]) -> str:
    uses = facts["uses_of_reference"]
    words = []
    for index, use in enumerate(uses):
        if use == "predicted":
            word = "predicted from bands 1 to 3"
        else:
            word = "used in part" if use is None else f"used in {100 * use:.3g} % of the picture" if use else "not used"
        first, last = 3 * index + 1, min(3 * index + 3, facts["bands"])
        which = f"band {first}" if first == last else f"bands {first} to {last}"
        words.append(word if len(uses) == 1 else f"{which} {word}")
    if not facts["references"]:
        return "none" + (f"; {', '.join(words)}" if "predicted" in uses else "")
    named = (one if name is None else f"{one} ({name})" for one, name in facts["references"].items())
    return ", ".join([*named, *words])
