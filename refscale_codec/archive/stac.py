"""STAC: items in, items out (https://stacspec.org, version 1.1).

An item in says where its picture is, when it was taken, where it lies and how cloudy it is: enough to choose its
reference. The item out is the same with the picture's asset replaced by the `.rsc` file, and with links to the items
that it was made of and coded against. Nothing is fetched: catalogues, items and pictures must be files.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray

from refscale_codec.errors import UsageError, printable, reason
from refscale_codec.picture import files
from refscale_codec.picture.io import formats

if TYPE_CHECKING:
    import pystac

ITEMS = "items.json"
"""The file of the items out, in the folder of their files."""

MEDIA_TYPE = "image/x.refscale"
"""Of `.rsc` files; it is not registered (RFC 6838, 3.4)."""

_FILE_EXTENSION = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
_SHA2_256 = "1220"  # what a multihash of SHA-256 begins with: the function, and the length of 32 bytes
_TYPES = ("image/tiff", "image/png", "image/jpeg", "image/webp")
_MOST_BYTES = 1 << 28  # of JSON; a device need not end
_LEAST = 0.1  # share of a picture that its reference must show


class Scene(NamedTuple):
    """An item with its picture."""

    item: "pystac.Item"
    href: str
    """The item's own; that of the file it is listed in, if it has none."""
    key: str
    """Of the asset that is the picture."""
    picture: Path

    @property
    def file(self) -> str:
        """The name of its `.rsc` file."""
        return printable("".join("_" if letter in '/\\:*?"<>|' else letter for letter in self.item.id)) + ".rsc"


def read(path: Path, asset: str | None = None) -> list[Scene]:
    """Return the items of an ItemCollection, of a catalogue or collection and all below it, or one item.

    Args:
        path: of the JSON file.
        asset: the key of the asset that is the picture; None for the only one with the role `data`, else `visual`,
            else without a role. Items without such an asset are left out.

    Raises:
        UsageError: pystac is not installed, no such file, no STAC, several assets that may be meant, or a link or
            picture that is not a file.
    """
    try:
        import pystac
        from pystac.stac_io import DefaultStacIO
    except ImportError as error:
        raise UsageError(f"STAC items need pystac ({error}): pip install 'refscale-codec[stac]'") from error

    class Files(DefaultStacIO):
        """Reads files, and nothing from the network."""

        def read_text_from_href(self, href: str) -> str:
            return _json(_local(href, f"{path} links to")).decode()

    try:
        said = json.loads(_json(path))
        if said.get("type") == "FeatureCollection":
            items = [pystac.Item.from_dict(each) for each in said["features"]]
        elif said.get("type") == "Feature":
            items = [pystac.Item.from_dict(said, href=os.path.abspath(path))]
        else:
            items = [*pystac.Catalog.from_file(os.path.abspath(path), stac_io=Files()).get_items(recursive=True)]
        scenes = [_scene(item, path, asset) for item in items]
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"cannot read {path}: {reason(error)}") from None
    except Exception as error:  # nearly any, for JSON that is no STAC
        if isinstance(cause := error.__cause__ or error.__context__, UsageError):
            raise cause from None
        raise UsageError(f"{path} is no STAC item, ItemCollection or catalogue: {reason(error)}") from None
    found = [scene for scene in scenes if scene is not None]
    if not found:
        raise UsageError(f"{path} has no item with {'a picture' if asset is None else f'an asset {asset}'}")
    return found


def _json(path: Path) -> bytes:
    return files.read(path, UsageError, lambda head, name: _MOST_BYTES)


def _scene(item: "pystac.Item", path: Path, asset: str | None) -> Scene | None:
    from pystac.utils import make_absolute_href

    href = item.get_self_href() or os.path.abspath(path)
    keys = _pictures(item) if asset is None else [asset] if asset in item.assets else []
    if len(keys) > 1:
        raise UsageError(f"{path}: the item {item.id} has several pictures: choose one with --asset {'|'.join(keys)}")
    if not keys:
        return None
    where = make_absolute_href(item.assets[keys[0]].href, href, start_is_dir=False)
    scene = Scene(item, href, keys[0], _local(where, f"{path}: the picture of {item.id} is"))
    _ = scene.file, _bounds([scene]), _taken([scene])  # pystac takes any values; what is not of STAC fails here
    return scene


def _pictures(item: "pystac.Item") -> list[str]:
    """Return the keys of the assets that may be the picture."""
    pictures = {
        key: asset.roles or []
        for key, asset in item.assets.items()
        if (asset.media_type or "").split(";")[0].strip().lower() in _TYPES
        or asset.media_type is None
        and asset.href.lower().endswith(formats.SUFFIXES)
    }
    by_role = ([key for key, roles in pictures.items() if role in roles] for role in ("data", "visual"))
    return next(filter(None, by_role), [key for key, roles in pictures.items() if not roles])


def _local(href: str, what: str) -> Path:
    url = urlparse(href)
    if url.scheme == "file":
        return Path(url2pathname(url.path))
    if len(url.scheme) > 1:  # a letter is a drive
        raise UsageError(
            f"{what} {printable(href)}, which is no file: nothing is read from a network, so fetch it first"
        )
    return Path(href)


# --- choosing references ---------------------------------------------------------------------------------------------


def best_earlier(scenes: list[Scene], older: list[Scene]) -> list[Scene | None]:
    """Return for each scene the best earlier one that overlaps it, None if there is none.

    That is the one that shows the largest share of it, in tenths, by the items' bounds and cloud cover; of equal ones
    the latest.

    Args:
        scenes: to find references for.
        older: the references; may be the same list.
    """
    boxes, clear, taken = _bounds(older), np.array([_clear(scene) for scene in older]), _taken(older)
    chosen: list[Scene | None] = []
    for box, when in zip(_bounds(scenes), _taken(scenes), strict=True):
        seen = _overlap(box, boxes) * clear
        allowed = np.flatnonzero((taken < when) & (seen >= _LEAST))
        ranks = [(round(10 * float(seen[each])), float(taken[each]), int(each)) for each in allowed]
        chosen.append(older[max(ranks)[-1]] if ranks else None)
    return chosen


def _bounds(scenes: list[Scene]) -> NDArray[np.float64]:
    """Return west, south, east and north of each [n, 4], in degrees; NaN where they are not known."""
    unknown = [np.nan] * 4
    boxes = [scene.item.bbox or [] for scene in scenes]
    flat = [[*box[:2], *box[3:5]] if len(box) == 6 else box for box in boxes]
    known = [len(box) == 4 and all(isinstance(edge, int | float) for edge in box) for box in flat]
    found = np.array([box if each else unknown for box, each in zip(flat, known, strict=True)], np.float64).reshape(
        -1, 4
    )
    found[:, 2] += 360 * (found[:, 2] < found[:, 0])  # across the antimeridian
    return found


def _overlap(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return which share of a box each of the others [n, 4] covers, 0..1."""
    shared = np.zeros(len(others))
    for turn in (-360, 0, 360):
        moved = others + [turn, 0, turn, 0]
        sides = np.minimum(box[2:], moved[:, 2:]) - np.maximum(box[:2], moved[:, :2])
        shared = np.fmax(shared, np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0))
    return shared / max(float((box[2:] - box[:2]).prod()), 1e-12)


def _taken(scenes: list[Scene]) -> NDArray[np.float64]:
    """Return when each was taken, in seconds; NaN where that is not known."""
    dates = [scene.item.datetime or scene.item.common_metadata.start_datetime for scene in scenes]
    return np.array([np.nan if date is None else date.timestamp() for date in dates], np.float64)


def _clear(scene: Scene) -> float:
    cloud = scene.item.properties.get("eo:cloud_cover")
    return 1 - min(max(cloud, 0), 100) / 100 if isinstance(cloud, int | float) else 1.0


# --- items out -------------------------------------------------------------------------------------------------------


def coded_item(scene: Scene, older: Scene | None, line: Mapping[str, Any], folder: Path) -> "pystac.Item":
    """Return the item of a coded picture.

    Args:
        scene: the item in.
        older: the one that it was coded against, if any.
        line: what `batch.jsonl` tells of its file.
        folder: the one that hrefs are relative to.
    """
    import pystac

    item = scene.item.clone()
    for asset in item.assets.values():
        asset.href = _href(pystac.utils.make_absolute_href(asset.href, scene.href, start_is_dir=False), folder)
    asset = item.assets[scene.key]
    asset.href, asset.media_type, asset.roles = f"./{line['file']}", MEDIA_TYPE, asset.roles or ["data"]
    kept = {name: value for name, value in asset.extra_fields.items() if not name.startswith(("file:", "alternate"))}
    asset.extra_fields = kept | {
        "file:size": line["bytes"],
        "file:checksum": _SHA2_256 + line["sha256"],
        "refscale:bits_per_pixel": line["bpp"],
    }
    item.stac_extensions = [*dict.fromkeys([*item.stac_extensions, _FILE_EXTENSION])]
    item.clear_links()
    item.add_link(_link("derived_from", scene, folder))
    if older is not None and line["references"]:
        item.add_link(_link("reference", older, folder, {"refscale:fingerprint": next(iter(line["references"]))}))
    return item


def _link(relation: str, scene: Scene, folder: Path, more: dict[str, Any] | None = None) -> "pystac.Link":
    import pystac

    href = _href(scene.href, folder)
    return pystac.Link(relation, href, pystac.MediaType.GEOJSON, title=scene.item.id, extra_fields=more)


def _href(href: str, folder: Path) -> str:
    """Return a file's path relative to a folder; a URL, or a path on another drive, as it is."""
    if len(urlparse(href).scheme) > 1:
        return href
    try:
        return Path(os.path.relpath(href, folder)).as_posix()
    except ValueError:
        return href


def collection(items: Iterable["pystac.Item"]) -> bytes:
    """Return items as the JSON of an ItemCollection."""
    features: list[Mapping[str, Any]] = [item.to_dict(include_self_link=False, transform_hrefs=False) for item in items]
    return json.dumps({"type": "FeatureCollection", "features": features}, indent=1).encode() + b"\n"
