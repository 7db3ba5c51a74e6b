"""Files beside a picture that say more of it: world files, GDAL's `.aux.xml` and `.msk`, RPC, MapInfo and `.prj` files.

GDAL decides what they say: it gets the bytes of the picture and of those files, in memory, and what it then says of the
picture beyond what it says without them is added. Only a `.prj`, which GDAL reads beside other formats alone, is looked
at here: it is the coordinate reference system of a picture that has none. Others are told. From standard input there
are none.
"""

import uuid
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from refscale_codec.errors import reason
from refscale_codec.picture import files, geo
from refscale_codec.picture.geo import Fields
from refscale_codec.picture.io import gdal_fields, geotiff

if TYPE_CHECKING:
    from refscale_codec.picture.image import Image

_MASK, _SYSTEM = ".msk", ".prj"
_UNREAD = (".xmp", ".hdr")
_OTHERS = ("_RPC.TXT", "_rpc.txt", ".RPB", ".rpb", ".tab", ".TAB")  # behind the name without its suffix
_MOST_BYTES = 1 << 28
_DRIVERS = ((b"\x89PNG", "PNG", ".png"), (b"\xff\xd8\xff", "JPEG", ".jpg"), (b"RIFF", "WEBP", ".webp"))
_TIFF = (b"", "GTiff", ".tif")


class Sidecar(NamedTuple):
    """A file beside a picture."""

    name: str
    """Its name, for messages."""
    suffix: str
    """What its name has behind that of the picture without suffix."""
    data: bytes
    fault: str
    """Why it cannot be read; empty if it could."""


def beside(path: Path) -> list[Sidecar]:
    """Return the files beside a picture. Their names are looked for one by one, so a large folder takes no time."""
    kind = path.suffix.lower()[1:]
    worlds = [f".{kind[0]}{kind[-1]}w", f".{kind}w", ".wld"] if kind else [".wld"]
    wanted = [suffix for world in worlds for suffix in (world, world.upper())]
    found = next(([suffix] for suffix in wanted if _exists(path, suffix)), [])
    found += [suffix for suffix in (f"{path.suffix}.aux.xml", path.suffix + _MASK) if _exists(path, suffix)]
    unread = [start + suffix for suffix in _UNREAD for start in ("", path.suffix)]
    for suffix in (*_OTHERS, _SYSTEM, _SYSTEM.upper(), *unread, *map(str.upper, unread)):
        if _exists(path, suffix) and suffix.lower() not in map(str.lower, found):
            found.append(suffix)
    return [_read(path.with_name(path.stem + suffix), suffix) for suffix in found]


def _exists(path: Path, suffix: str) -> bool:
    try:
        return path.with_name(path.stem + suffix).is_file()
    except (OSError, ValueError):  # a name that is too long
        return False


def _read(path: Path, suffix: str) -> Sidecar:
    if suffix.lower().endswith(_UNREAD):
        return Sidecar(path.name, suffix, b"", "refscale does not read it")
    try:
        with path.open("rb") as file:
            data = files.contents(file, path.name, lambda *_: _MOST_BYTES)
        return Sidecar(path.name, suffix, data, "" if data else "it is empty")
    except (OSError, ValueError) as error:
        return Sidecar(path.name, suffix, b"", reason(error))


def applied(image: "Image", data: bytes, sidecars: list[Sidecar]) -> tuple["Image", list[str]]:
    """Return a picture with what the files beside it say, and notes for people on what is not kept as it is there.

    Args:
        image: the picture as it is without them.
        data: the bytes of its file.
        sidecars: the files beside it, at least one.
    """
    notes: list[str] = []
    left_out = [f"{sidecar.name} beside it ({sidecar.fault})" for sidecar in sidecars if sidecar.fault]
    sidecars = [sidecar for sidecar in sidecars if not sidecar.fault]
    if not geotiff.installed():
        left_out += [f"{sidecar.name} beside it (GDAL is needed: {geotiff.INSTALL})" for sidecar in sidecars]
        sidecars = []
    masks = [sidecar for sidecar in sidecars if sidecar.suffix.endswith(_MASK)]
    systems = [sidecar for sidecar in sidecars if sidecar.suffix.lower() == _SYSTEM]
    others = [sidecar for sidecar in sidecars if sidecar not in masks + systems]
    if others:
        image, more = _with_georeference(image, data, others)
        left_out += more
    for sidecar in systems:
        try:
            image = _in_system(image, sidecar.data)
        except Exception as error:  # of PROJ, or for contents of another kind
            left_out.append(gdal_fields.named(f"{sidecar.name} beside it", gdal_fields.why(error)))
    for sidecar in masks:
        try:
            masked = _masked(image, sidecar.data)
        except Exception as error:  # of GDAL, or for contents of another kind
            left_out.append(gdal_fields.named(f"{sidecar.name} beside it", gdal_fields.why(error)))
            continue
        notes.append(f"the mask {sidecar.name} beside it becomes alpha")
        if image.nodata is not None:
            left_out.append(f"nodata value {image.nodata:g}, since the mask says what is valid")
        image = masked
    return image, [*notes, f"left out: {', '.join(left_out)}"] if left_out else notes


def _with_georeference(image: "Image", data: bytes, sidecars: list[Sidecar]) -> tuple["Image", list[str]]:
    """Return a picture with all that GDAL reads from the files beside it, and the names of what is left out."""
    left_out, used = [], []
    plain = _said(data, [])
    for sidecar in sidecars:
        world = sidecar.suffix.lower().endswith(("w", ".wld"))
        try:
            nothing = _said(data, [sidecar]) == plain and not (world and {"transform", "gcps"} & plain.fields.keys())
            fault = "GDAL finds nothing in it that it uses" if nothing else ""
        except Exception as error:  # of GDAL; rasterio's and its own have no common base
            fault = gdal_fields.why(error)
        if fault:
            left_out.append(gdal_fields.named(f"{sidecar.name} beside it", fault))
        else:
            used.append(sidecar)
    image, more = _joined(image, plain, _said(data, used))
    return image, left_out + more


class _Said(NamedTuple):
    """What GDAL says of a picture."""

    fields: Fields
    left_out: list[str]
    nodata: float | None
    bands: int


def _said(data: bytes, sidecars: list[Sidecar]) -> _Said:
    import rasterio

    _, driver, suffix = next((row for row in _DRIVERS if data.startswith(row[0])), _TIFF)
    folder = uuid.uuid4().hex
    with ExitStack() as stack:
        for sidecar in sidecars:
            stack.enter_context(rasterio.MemoryFile(sidecar.data, folder, "picture" + _inside(sidecar.suffix, suffix)))
        memory = stack.enter_context(rasterio.MemoryFile(data, folder, "picture" + suffix))
        with memory.open(driver=driver) as file:
            kinds = [kind.name for kind in file.colorinterp]
            order = sorted(range(len(kinds)), key=lambda band: kinds[band] == "alpha")
            fields, left_out = gdal_fields.read(file, [kinds[band] for band in order], order)
            return _Said(fields, left_out, file.nodata, file.count)


def _inside(suffix: str, picture: str) -> str:
    """Return the suffix of a file beside a picture in memory, which has a suffix of its own."""
    if suffix.endswith(".aux.xml"):
        return f"{picture}.aux.xml"
    return suffix if suffix in _OTHERS else ".wld"


def _joined(image: "Image", plain: _Said, whole: _Said) -> tuple["Image", list[str]]:
    """Return a picture with what GDAL says with the files beside it, and not without."""
    left_out = [what for what in whole.left_out if what not in plain.left_out]
    more = {name: value for name, value in whole.fields.items() if value != plain.fields.get(name)}
    if whole.bands != image.bands + (image.alpha is not None):  # a palette, say
        left_out += [gdal_fields.named(name, "of other bands") for name in set(more) - {*geo.GEOREFERENCE, "tags"}]
        more = {name: value for name, value in more.items() if name in (*geo.GEOREFERENCE, "tags")}
    fields = geo.fields_of(image.metadata.geo)
    if "tags" in more:
        known = plain.fields.get("tags", {})
        new = {key: text for key, text in more["tags"].items() if known.get(key) != text}
        more["tags"] = fields.get("tags", {}) | new
    if "gcps" in more and "transform" in fields:
        del fields["transform"]
    image = replace(image, metadata=replace(image.metadata, geo=geo.dumped(fields | more)))
    if whole.nodata == plain.nodata or whole.nodata is None:
        return image, left_out
    notes: list[str] = []
    nodata = geotiff.nodata_of(whole.nodata, image.pixels.dtype, notes)
    if whole.bands != image.bands + (image.alpha is not None):
        nodata, notes = None, [f"nodata value {whole.nodata:g}"]
    return (image if nodata is None else replace(image, nodata=nodata)), left_out + notes


def _in_system(image: "Image", data: bytes) -> "Image":
    """Return a picture in the coordinate reference system of a `.prj` file, if it has none."""
    import rasterio

    system = rasterio.CRS.from_wkt(data.decode(), morph_from_esri_dialect=True)
    fields = geo.fields_of(image.metadata.geo)
    own = [fields[name] for name in ("crs", "gcp_crs") if name in fields]
    if any(rasterio.CRS.from_user_input(each) != system for each in own):
        raise ValueError("the picture has another coordinate reference system")
    name = "gcp_crs" if "gcps" in fields else "crs"
    fields = fields if own else fields | {name: gdal_fields.crs(system)}
    return replace(image, metadata=replace(image.metadata, geo=geo.dumped(fields)))


def _masked(image: "Image", data: bytes) -> "Image":
    """Return a picture whose alpha is 0 where a `.msk` file is 0; it has no nodata value then."""
    import rasterio

    with rasterio.MemoryFile(data, filename="mask.tif") as memory, memory.open(driver="GTiff") as file:
        if (file.width, file.height) != (image.width, image.height):
            raise ValueError(f"it has {file.width} x {file.height} pixels")
        masks = [file.read(band + 1) for band in range(file.count)]
    if any((mask != masks[0]).any() for mask in masks[1:]):
        raise ValueError("bands have masks of their own")
    alpha, fields = geotiff.masked_alpha(image.alpha, masks[0] != 0, image.pixels.dtype, image.metadata.geo)
    return replace(image, alpha=alpha, nodata=None, metadata=replace(image.metadata, geo=fields))
