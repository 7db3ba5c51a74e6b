"""Files beside a picture that say more of it: world files, GDAL's `.aux.xml` and `.msk`, RPC, MapInfo and `.prj` files.

GDAL decides what they say: it gets the bytes of the picture and of those files, in memory, and what it then says of the
picture beyond what it says without them is added. Only a `.prj`, which GDAL reads beside other formats alone, is looked
at here: it is the coordinate reference system of a picture that has none. Others are told. From standard input there
are none.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

from refscale_codec.errors import reason
from refscale_codec.picture import files, geo
from refscale_codec.picture.io import gdal_bands, gdal_fields, geotiff
from refscale_codec.picture.io.gdal_bands import Said

if TYPE_CHECKING:
    from refscale_codec.picture.image import Image

_XML, _MASK, _SYSTEM = ".aux.xml", ".msk", ".prj"
_UNREAD = (".xmp", ".hdr")
_OTHERS = ("_rpc.txt", ".rpb", ".tab")  # behind the name without its suffix
_UNREAD_ELEMENTS = {  # of an `.aux.xml`
    "CategoryNames": "names of categories", "GDALRasterAttributeTable": "raster attribute table",
    "Histograms": "histograms",
}  # fmt: skip
_MOST_LISTED = 1000  # files in a folder, as for GDAL
_MOST_BYTES = 1 << 28
_DRIVERS = ((b"\x89PNG", "PNG", ".png"), (b"\xff\xd8\xff", "JPEG", ".jpg"), (b"RIFF", "WEBP", ".webp"))
_TIFF = (b"", "GTiff", ".tif")


class Sidecar(NamedTuple):
    """A file beside a picture."""

    name: str
    """Its name, for messages."""
    suffix: str
    """What its name has behind that of the picture without suffix, in lower case but for the picture's own."""
    data: bytes
    fault: str
    """Why it cannot be read; empty if it could."""


def beside(path: Path) -> list[Sidecar]:
    """Return the files beside a picture.

    Their names may be in other cases, as for GDAL, which lists the folder for that if it has few files. In larger ones
    they are looked for one by one, in the lower and in the upper case, so these take no time.
    """
    kind = path.suffix.lower()[1:]
    worlds = [f".{kind[0]}{kind[-1]}w", f".{kind}w", ".wld"] if kind else [".wld"]
    names = _names(path.parent)
    found = [(suffix, name) for suffix in worlds if (name := _found(path, suffix, names))][:1]
    if _is_file(path.with_name(path.name + _XML)):  # in this case alone
        found.append((path.suffix + _XML, path.name + _XML))
    unread = [start + suffix for suffix in _UNREAD for start in ("", path.suffix)]
    wanted = dict.fromkeys((path.suffix + _MASK, *_OTHERS, _SYSTEM, *unread))
    found += [(suffix, name) for suffix in wanted if (name := _found(path, suffix, names))]
    return [_read(path.with_name(name), suffix) for suffix, name in found]


def _names(folder: Path) -> dict[str, str]:
    """Return the names in a folder by those in lower case; none if there are many."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, _MOST_LISTED + 1)]
    except (OSError, ValueError):
        return {}
    return {name.lower(): name for name in names} if len(names) <= _MOST_LISTED else {}


def _found(path: Path, suffix: str, names: dict[str, str]) -> str:
    """Return the name of the file with a suffix beside a picture; empty if there is none."""
    wanted = path.stem + suffix
    tried = wanted, path.stem + suffix.upper(), names.get(wanted.lower(), "")
    return next((name for name in tried if name and _is_file(path.with_name(name))), "")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long
        return False


def _read(path: Path, suffix: str) -> Sidecar:
    if suffix.endswith(_UNREAD):
        return Sidecar(path.name, suffix, b"", "refscale does not read it")
    try:
        with path.open("rb") as file:
            data = files.contents(file, path.name, lambda *_: _MOST_BYTES)
        return Sidecar(path.name, suffix, data, "" if data else "it is empty")
    except (OSError, ValueError) as error:
        return Sidecar(path.name, suffix, b"", reason(error))


def applied(image: "Image", data: bytes, name: str, sidecars: list[Sidecar]) -> tuple["Image", list[str]]:
    """Return a picture with what the files beside it say, and notes for people on what is not kept as it is there.

    Args:
        image: the picture as it is without them.
        data: the bytes of its file.
        name: of its file, for messages.
        sidecars: the files beside it, at least one.

    Raises:
        ImageError: what its bands mean by them cannot be coded.
    """
    notes: list[str] = []
    left_out = [f"{sidecar.name} beside it ({sidecar.fault})" for sidecar in sidecars if sidecar.fault]
    sidecars = [sidecar for sidecar in sidecars if not sidecar.fault]
    if not geotiff.installed():
        left_out += [f"{sidecar.name} beside it (GDAL is needed: {geotiff.INSTALL})" for sidecar in sidecars]
        sidecars = []
    masks = [sidecar for sidecar in sidecars if sidecar.suffix.endswith(_MASK)]
    systems = [sidecar for sidecar in sidecars if sidecar.suffix == _SYSTEM]
    others = [sidecar for sidecar in sidecars if sidecar not in masks + systems]
    if others:
        image, more, said = _with_georeference(image, data, name, others)
        left_out, notes = left_out + more, notes + said
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
        if masked.nodata is None and image.nodata is not None:
            left_out.append(f"nodata value {image.nodata:g}, since the mask says what is valid")
        image = masked
    return image, [*notes, f"left out: {', '.join(left_out)}"] if left_out else notes


def _with_georeference(
    image: "Image", data: bytes, name: str, sidecars: list[Sidecar]
) -> tuple["Image", list[str], list[str]]:
    """Return a picture with all that GDAL reads from the files beside it, what is left out, and notes for people."""
    left_out, used = [], []
    plain = _said(data, [])
    for sidecar in sidecars:
        world = sidecar.suffix.endswith(("w", ".wld"))
        elements, fault = _elements(sidecar) if sidecar.suffix.endswith(_XML) else (set(), "")
        unread = [what for element, what in _UNREAD_ELEMENTS.items() if element in elements]
        try:
            _require_no_path(sidecar)
            if _said(data, [sidecar]) != plain or world and {"transform", "gcps"} & plain.fields.keys():
                used.append(sidecar)
                fault = ""
            elif not fault and not unread:
                fault = "GDAL reads nothing new in it"
        except Exception as error:  # of GDAL; rasterio's and its own have no common base
            fault = gdal_fields.why(error)
        left_out += [gdal_fields.named(f"{sidecar.name} beside it", fault)] if fault else []
        left_out += [f"{what} in {sidecar.name} beside it" for what in unread]
    whole = _said(data, used)
    samples = None
    if whole.indexed not in (None, plain.indexed):
        with _opened(data, used) as file:
            samples = file.read()
    by = ", ".join(sidecar.name for sidecar in used)
    image, more, notes = gdal_bands.joined(image, plain, whole, samples, name, by)
    return image, left_out + more, notes


def _require_no_path(sidecar: Sidecar) -> None:
    """Raise ValueError for an `.aux.xml` with a reference system that may name a file: GDAL would open it."""
    if not sidecar.suffix.endswith(_XML):
        return
    try:
        elements = [*ElementTree.fromstring(sidecar.data).iter()]
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # as in `_elements`
        raise ValueError(f"it is damaged: {error}") from None
    for element in elements:
        said = [(element.tag, "".join(element.itertext())), *element.attrib.items()]
        if any(name.casefold() in ("srs", "projection") and geo.names_a_path(text) for name, text in said):
            raise ValueError("it may name a file, which is not opened")


def _elements(sidecar: Sidecar) -> tuple[set[str], str]:
    """Return the names of the elements in an XML file, and what is wrong with it, which is empty if it is whole."""
    found, parser = set[str](), expat.ParserCreate()
    parser.StartElementHandler = lambda name, _: found.add(name)
    try:
        parser.Parse(sidecar.data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the others for a character set that is not known
        return found, f"it is damaged: {error}"
    return found, ""


def _said(data: bytes, sidecars: list[Sidecar]) -> Said:
    with _opened(data, sidecars) as file:
        return gdal_bands.said(file)


@contextmanager
def _opened(data: bytes, sidecars: list[Sidecar]) -> Iterator[Any]:
    """Open a picture by rasterio with files beside it, all in memory."""
    import rasterio

    _, driver, suffix = next((row for row in _DRIVERS if data.startswith(row[0])), _TIFF)
    folder = uuid.uuid4().hex
    with ExitStack() as stack:
        for sidecar in sidecars:
            stack.enter_context(rasterio.MemoryFile(sidecar.data, folder, "picture" + _inside(sidecar.suffix, suffix)))
        memory = stack.enter_context(rasterio.MemoryFile(data, folder, "picture" + suffix))
        yield stack.enter_context(memory.open(driver=driver))


def _inside(suffix: str, picture: str) -> str:
    """Return the suffix of a file beside a picture in memory, which has a suffix of its own."""
    if suffix.endswith(_XML):
        return picture + _XML
    return suffix if suffix in _OTHERS else ".wld"


def _in_system(image: "Image", data: bytes) -> "Image":
    """Return a picture in the coordinate reference system of a `.prj` file, if it has none."""
    import rasterio

    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if geo.names_a_path(text):
        raise ValueError("it may name a file, which is not opened")
    with rasterio.Env():  # GDAL's errors are raised, and not printed
        system = rasterio.CRS.from_wkt(text, morph_from_esri_dialect=True)
    fields = geo.fields_of(image.metadata.geo)
    own = [fields[name] for name in ("crs", "gcp_crs") if name in fields]
    if any(gdal_fields.system_of(each) != system for each in own):
        raise ValueError("the picture has another coordinate reference system")
    name = "gcp_crs" if "gcps" in fields else "crs"
    fields = fields if own else fields | {name: gdal_fields.crs(system)}
    return replace(image, metadata=replace(image.metadata, geo=geo.dumped(fields)))


def _masked(image: "Image", data: bytes) -> "Image":
    """Return a picture whose alpha is 0 where a `.msk` file is 0."""
    import rasterio

    with rasterio.MemoryFile(data, filename="mask.tif") as memory, memory.open(driver="GTiff") as file:
        if (file.width, file.height) != (image.width, image.height):
            raise ValueError(f"it has {file.width} x {file.height} pixels")
        masks = [file.read(band + 1) for band in range(file.count)]
    if any((mask != masks[0]).any() for mask in masks[1:]):
        raise ValueError("bands have masks of their own")
    alpha, nodata, fields = geotiff.masked_alpha(
        image.pixels, image.alpha, image.nodata, masks[0] != 0, image.metadata.geo
    )
    return replace(image, alpha=alpha, nodata=nodata, metadata=replace(image.metadata, geo=fields))
