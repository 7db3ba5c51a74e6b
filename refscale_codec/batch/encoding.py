"""Encoding many pictures: which there are, with which references, and how each is coded.

A picture's file has its path with the suffix .rsc. It is coded again when the picture, its reference or a file beside
one of them has changed, or the weights, the options or the version. Inputs are known by size and time of modification,
and files beside them by content.
"""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from refscale_codec import __version__
from refscale_codec.api.functions import encode_image
from refscale_codec.api.models import shipped_as
from refscale_codec.api.request import Rate, device_named
from refscale_codec.archive.stac import Scene
from refscale_codec.batch import inputs
from refscale_codec.batch.tasks import Item, Task, distinct
from refscale_codec.errors import UsageError, printable
from refscale_codec.fileformat import container, references
from refscale_codec.fileformat.references import LINKS
from refscale_codec.picture import files
from refscale_codec.picture.coded.ranges import Declared
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import formats, pictures
from refscale_codec.picture.manifest import SUFFIXES as MANIFESTS
from refscale_codec.picture.manifest import read_manifest
from refscale_codec.picture.tiles import TILE

_MOST_BANDS = 255


@dataclass(frozen=True)
class Encoding:
    """What all pictures are coded with; a `Job`."""

    fields: ClassVar[tuple[str, ...]] = ("bpp", "references", "quality", "psnr")

    weights: Path | None  # None: those that ship
    fingerprint: str  # of the weights
    rate: Rate = Rate()
    ranges: Callable[[int], Declared] | None = None  # the values to code, by how many bands a picture has
    output_hash: bool = False
    reference_name: bool | None = None
    strip: bool = False
    tile: int = TILE
    device: str = "cpu"
    index: Path | None = None  # of references for pictures that have none of their own
    most: int = 1  # how many references of the index a picture may have
    links: int = LINKS  # most `.rsc` files to decode for one, itself included
    replace: bool = False

    def depends(self, item: Item) -> list[Any]:
        """See `Job`."""
        older = item.references[0] if item.references else None
        read = [None if path is None else inputs.version(path) for path in (item.picture, older)]
        ranges = None if self.ranges is None else str(self.ranges(_MOST_BANDS))
        options = [self.output_hash, self.reference_name, self.strip, self.most if self.index else 0]
        decisive = [self.fingerprint, self.rate, ranges, *options, __version__]
        return [*read, None if older is None else older.name, decisive]

    def do(self, task: Task) -> tuple[dict[str, Any], bytes]:
        """See `Job`; for errors see `api.encode`."""
        from refscale_codec import model

        item = task.item
        image = pictures.read(item.picture, need_georeference=not self.strip)
        older = self._older(item, image)
        reached = encode_image(
            image,
            [one for one, _ in older],
            model.kept(self.weights or shipped_as(bytes.fromhex(self.fingerprint)), device_named(self.device)),
            self.rate,
            value_range=None if self.ranges is None else self.ranges(image.bands),
            output_hash=self.output_hash,
            reference_name=self.reference_name,
            strip=self.strip,
            tile=self.tile,
        )
        used = references.file_names(container.unpack(reached.data))
        psnr = None if reached.psnr is None else round(reached.psnr, 3)
        facts = {
            "bpp": round(8 * len(reached.data) / (image.height * image.width), 4),
            "references": used,
            "reference_pictures": [printable(str(path)) for one, path in older if one.fingerprint().hex() in used],
            "quality": reached.quality,
            "psnr": psnr if psnr is None or math.isfinite(psnr) else str(psnr),
        }
        return facts, reached.data

    def _older(self, item: Item, image: Image) -> list[tuple[Image, Path]]:
        """Return the references of a picture with their paths: its own, or the best that the index has."""
        paths: tuple[Path, ...] = item.references
        if paths or self.index is None:
            return list(zip(inputs.from_paths(paths), paths, strict=True))
        index = inputs.index(self.index, self.weights, self.device)
        found = [candidate.entry for candidate in index.find(image, self.most, links=self.links)]
        older = inputs.from_index(index, [entry.described.fingerprint for entry in found])
        return list(zip(older, (entry.path for entry in found), strict=True))


def find(
    source: Path,
    reference: Path | None = None,
    split: str | None = None,
    *,
    failed: Callable[[str], None] = lambda text: None,
) -> list[Item]:
    """Return the pictures to code.

    Args:
        source: a manifest (see `manifest`), by its suffix, or a folder, with all folders in it.
        reference: nothing, one reference for all pictures of a folder, or a folder of references with their paths;
            pictures without one are coded without.
        split: only rows of this split of a manifest.
        failed: called with a line on each file or folder that cannot be read.

    Raises:
        UsageError: nothing to code, arguments that do not belong together, or two pictures that would be one file.
    """
    if os.path.isdir(source):
        if split is not None:
            raise UsageError("--split goes with a manifest")
        found = _below(source, failed)
        older = {path: _partner(path, source, reference) for path in found}
        if reference is not None and not any(older.values()):
            raise UsageError(f"{source} and {reference} have no picture of the same name")
        items = [_item(printable(path.stem), path, older[path], source) for path in found]
    elif source.suffix.lower() in MANIFESTS:
        if reference is not None:
            raise UsageError(f"{source} names the references itself; --ref would have no effect")
        pairs = read_manifest(source, None if split is None else (split,))
        items = [_item(pair.name, pair.target, pair.reference, source.parent) for pair in pairs]
    else:
        neither = f"{source} is neither a folder nor a manifest; `refscale encode` codes one picture"
        raise UsageError(files.absence(source) or neither)
    return distinct(items, source)


def of_paths(paths: Iterable[Path], *, failed: Callable[[str], None] = lambda text: None) -> list[Item]:
    """Return pictures, and those in folders, without references of their own; arguments and errors as in `find`."""
    items = []
    for path in paths:
        base, found = (path, _below(path, failed)) if path.is_dir() else (path.parent, [path])
        items += [_item(printable(one.stem), one, None, base) for one in found]
    return distinct(items, "the command line")


def of_scenes(scenes: Iterable[Scene], references: Iterable[Scene | None], source: Path) -> list[Item]:
    """Return the pictures of STAC items, with their references; errors as in `find`."""
    pairs = zip(scenes, references, strict=True)
    items = [Item(printable(at.item.id), at.picture, (old.picture,) if old else (), at.file) for at, old in pairs]
    return distinct(items, source)


def _below(folder: Path, failed: Callable[[str], None]) -> list[Path]:
    """Return the pictures in a folder; UsageError for none."""
    if not (found := sorted(files.below(folder, formats.SUFFIXES, failed))):
        raise UsageError(f"{folder} has no picture: no file ends in {', '.join(formats.SUFFIXES)}")
    return found


def _partner(path: Path, source: Path, reference: Path | None) -> Path | None:
    """Return the reference of a picture in a folder; None if it has none."""
    if reference is None or not os.path.isdir(reference):
        return reference
    other = reference / path.relative_to(source)
    return (
        other if os.path.isfile(other) or os.path.islink(other) and not os.path.exists(other) else None
    )  # a link to nothing is told


def _item(name: str, picture: Path, reference: Path | None, base: Path) -> Item:
    path = Path(os.path.relpath(picture, base))
    inside = Path(*(part for part in path.parts if part not in ("..", path.anchor)))
    if not inside.name:
        raise UsageError(f"{picture} is a folder, not a picture")
    return Item(name, picture, (reference,) if reference else (), printable(str(inside.with_suffix(".rsc"))))
