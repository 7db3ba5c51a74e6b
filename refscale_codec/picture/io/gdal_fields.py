"""The fields of `geo`, read from a data set that rasterio has open, and written to one. Each that fails is named."""

import re
from collections.abc import Callable
from itertools import islice
from typing import Any

from refscale_codec.errors import reason
from refscale_codec.picture import geo
from refscale_codec.picture.geo import Fields

_DOMAINS_OF_FILES = {"IMAGE_STRUCTURE", "SUBDATASETS", "DERIVED_SUBDATASETS", "COLOR_PROFILE", "xml:XMP", "EXIF", "RPC"}
_EXIF_TAGS = {  # as GDAL calls them; they are among the EXIF
    *("TIFFTAG_DOCUMENTNAME", "TIFFTAG_IMAGEDESCRIPTION", "TIFFTAG_SOFTWARE", "TIFFTAG_DATETIME", "TIFFTAG_ARTIST"),
    *("TIFFTAG_HOSTCOMPUTER", "TIFFTAG_COPYRIGHT", "TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION"),
    "TIFFTAG_RESOLUTIONUNIT",
}
_IMPLIED_TAG = ("AREA_OR_POINT", "Area")  # GDAL sets it for every georeferenced file
_STATISTICS = "STATISTICS_"  # tags of a band that are computed from its samples begin so
_LONGEST_REASON = 200  # characters
_INTERNAL = re.compile(r"(\S*/vsimem/[^\s:]*|\b(picture|mask)\.\w+)[:,]?\s*|\b_?[A-Z]\w+:(?=[A-Za-z_])")
_BLOCK = re.compile(r"IReadBlock failed.*", re.DOTALL)

NAMES = {
    "crs": "coordinate reference system",
    "tags": "tags",
    "band_tags": "tags of bands",
    "gcps": "ground control points",
    "gcp_crs": "coordinate reference system of ground control points",
    "rpcs": "rational polynomial coefficients",
}
"""Fields in messages, where they are called otherwise."""


def why(error: BaseException) -> str:
    """Return the reason of GDAL or PROJ, without the names of its functions and of files in memory."""
    return plain(reason(error.__cause__ or error))


def plain(text: str) -> str:
    """Return a message of GDAL without the names of its functions and of files in memory."""
    return _BLOCK.sub("its data cannot be decoded", _INTERNAL.sub("", text)).strip()


def named(name: str, why: object) -> str:
    """Return a field and why it is left out, in one line."""
    line = " ".join(str(why).split())
    return f"{NAMES.get(name, name)} ({line if len(line) <= _LONGEST_REASON else line[:_LONGEST_REASON] + '...'})"


def read(file: Any, kinds: list[str], order: list[int]) -> tuple[Fields, list[str]]:
    """Return the fields of a data set, without those that have their default, and the names of what is left out.

    Args:
        file: the open data set.
        kinds: the colour interpretations of its bands, alpha the last.
        order: which of the data set's bands these are.
    """
    fields: Fields = {}
    left_out: list[str] = []
    no_texts, alpha = [None] * len(order), kinds[-1:] == ["alpha"]
    band_tags = [file.tags(band + 1) for band in order]
    kept = [{key: text for key, text in tags.items() if not key.startswith(_STATISTICS)} for tags in band_tags]
    if kept != band_tags:
        left_out.append("statistics, which are those of the samples before coding")
    readers: dict[str, tuple[Callable[[], Any], Any]] = {  # and the default
        "crs": (lambda: crs(file.crs), None),
        "transform": (lambda: None if file.transform.is_identity else list(file.transform)[:6], None),
        "tags": (lambda: first_tags(_tags(file), left_out), {}),
        "band_tags": (lambda: kept, [{} for _ in order]),
        "descriptions": (lambda: [file.descriptions[band] or None for band in order], no_texts),
        "units": (lambda: [file.units[band] or None for band in order], no_texts),
        "scales": (lambda: [file.scales[band] for band in order], [1.0] * len(order)),
        "offsets": (lambda: [file.offsets[band] for band in order], [0.0] * len(order)),
        "interpretations": (lambda: kinds, geo.usual_interpretations(len(order) - alpha, alpha)),
        "gcps": (lambda: [[point.row, point.col, point.x, point.y, point.z or 0.0] for point in file.gcps[0]], []),
        "gcp_crs": (lambda: crs(file.gcps[1]) if file.gcps[0] else None, None),
        "rpcs": (lambda: None if file.rpcs is None else file.rpcs.to_dict(), None),
    }
    for name, (found, default) in readers.items():
        try:
            value = found()
        except Exception as error:  # of GDAL or PROJ, or for contents of another kind
            left_out.append(named(name, why(error)))
            continue
        wrong = "" if value == default else geo.fault(name, value)
        if wrong:
            left_out.append(named(name, wrong))
        elif value != default:
            fields[name] = value
    domains = {name for band in range(file.count + 1) for name in file.tag_namespaces(band)} - _DOMAINS_OF_FILES
    if domains:
        left_out.append(f"tags in {', '.join(sorted(domains))}")
    while len(geo.dumped(fields)) > geo.MAX_BYTES:
        largest = max(fields, key=lambda name: len(geo.dumped({name: fields[name]})))
        left_out.append(named(largest, f"{len(geo.dumped({largest: fields.pop(largest)})):,} bytes"))
    return fields, left_out


def crs(system: Any) -> str | None:
    """Return a reference system as an authority and code, where that says all, or as WKT."""
    if not system:
        return None
    found, whole = system.to_authority(), str(system.to_wkt())
    if found is None:
        return whole
    code = ":".join(found)
    return code if system_of(code).to_wkt() == whole else whole


def system_of(text: str) -> Any:
    """Return rasterio's coordinate reference system of an authority and code, or of WKT.

    No file but PROJ's own is opened for it, and no address.

    Raises:
        ImportError: rasterio is not installed.
        ValueError: PROJ does not know it, it names a file by its path, or is of another form.
    """
    import rasterio

    if geo.names_a_path(text):
        raise ValueError("it may name a file, which is not opened")
    found = geo.authority_and_code(text)
    with rasterio.Env():  # GDAL's errors are raised, and not printed
        if found is None:
            return rasterio.CRS.from_wkt(text)
        authority, code = found
        if authority.upper() == "EPSG":
            return rasterio.CRS.from_epsg(code)
        # As `authority:code`, GDAL may take it for a file.
        return rasterio.CRS.from_string(f"urn:ogc:def:crs:{authority}::{code}")


def first_tags(tags: dict[str, str], left_out: list[str]) -> dict[str, str]:
    """Return as many tags as are kept, in their order; the number of the others is added to what is left out."""
    if len(tags) > geo.MOST_TAGS:
        left_out.append(f"{len(tags) - geo.MOST_TAGS:,} of {len(tags):,} tags")
    return dict(islice(tags.items(), geo.MOST_TAGS))


def _tags(file: Any) -> dict[str, str]:
    return {key: text for key, text in file.tags().items() if (key, text) != _IMPLIED_TAG and key not in _EXIF_TAGS}


def write(file: Any, fields: Fields) -> None:
    """Write fields, but for the interpretations, to a data set that is open for writing.

    Raises:
        Exception: nearly any, for a value that GDAL does not accept.
    """
    import rasterio
    from rasterio.control import GroundControlPoint
    from rasterio.rpc import RPC

    if "crs" in fields:
        file.crs = system_of(fields["crs"])
    if "transform" in fields:
        file.transform = rasterio.Affine(*fields["transform"])
    if "gcps" in fields:
        system = system_of(fields["gcp_crs"]) if "gcp_crs" in fields else rasterio.CRS()
        file.gcps = [GroundControlPoint(*point) for point in fields["gcps"]], system
    if "rpcs" in fields:
        file.rpcs = RPC(**fields["rpcs"])
    file.update_tags(**fields.get("tags", {}))
    for band, tags in enumerate(fields.get("band_tags", ()), start=1):
        file.update_tags(band, **tags)
    for key in ("descriptions", "units", "scales", "offsets"):
        if key in fields:
            setattr(file, key, tuple(value or "" if key == "units" else value for value in fields[key]))
