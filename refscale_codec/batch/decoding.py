"""Decoding many files: which there are, where their references are, and how each is decoded.

A file's picture has its path with the suffix of a format that can hold all of it, as with `refscale decode`. It is
decoded again when the file or the version has changed. A reference may come and go: a file names the pixels it needs.
"""

import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from refscale_codec import __version__
from refscale_codec.api.models import shipped_as
from refscale_codec.api.request import device_named
from refscale_codec.archive.references import References
from refscale_codec.batch import inputs
from refscale_codec.batch.tasks import Item, Task, distinct, version
from refscale_codec.errors import (
    ContainerError,
    OutputError,
    ReferenceMismatch,
    RefscaleError,
    UsageError,
    naming,
    printable,
)
from refscale_codec.fileformat import container, references
from refscale_codec.fileformat.container import Container
from refscale_codec.picture import files, metadata
from refscale_codec.picture.coded import band_section
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import formats, geotiff, pictures
from refscale_codec.picture.tiles import TILE


@dataclass(frozen=True)
class Decoding:
    """What all files are decoded with; a `Job`."""

    fields: ClassVar[tuple[str, ...]] = ("width", "height", "references")

    weights: Path | None = None  # None: those that ship and that each file names
    index: Path | None = None  # of references; where there is none, they are those of the items
    tile: int = TILE
    device: str = "cpu"
    replace: bool = False

    def depends(self, item: Item) -> list[Any]:
        """See `Job`."""
        return [version(item.picture), "decoded", __version__]

    def do(self, task: Task) -> tuple[dict[str, Any], bytes]:
        """See `Job`; for errors see `decoder.decode`, and those of references and weights that are not there."""
        from refscale_codec import model
        from refscale_codec.codec import decoder

        item = task.item
        data, kind = files.read(item.picture, ContainerError, container.most_bytes), formats.of_path(Path(item.file))
        with naming(str(item.picture)):
            file = _File.of(data)
            file.require_gdal(kind)
            older = self._older(item, file)
            weights = self.weights or shipped_as(file.content.header.weights, "--weights")
            loaded = model.kept(weights, device_named(self.device))
            picture = decoder.decode(data, older, loaded, tile=self.tile)
        facts = {
            "width": picture.width,
            "height": picture.height,
            "references": references.file_names(file.content),
            "reference_pictures": [printable(str(path)) for path in item.references],
        }
        return facts, pictures.to_bytes(picture, kind)

    def _older(self, item: Item, file: "_File") -> list[Image]:
        if not file.needs:
            return []
        if self.index is not None:
            return inputs.from_index(inputs.index(self.index, self.weights, self.device), file.needs)
        if not item.references:
            wanted = references.named(file.content, file.needs)
            raise ReferenceMismatch(f"it needs the reference {wanted}: --ref has none of its name, --refs finds any")
        return inputs.from_paths(item.references)


class _File(NamedTuple):
    """What a `.rsc` file says before it is decoded."""

    content: Container
    needs: list[bytes]  # the fingerprints of its references
    described: band_section.Summary
    geo: bytes

    @staticmethod
    def of(data: bytes) -> "_File":
        """Parse a file; ContainerError if that fails."""
        content = container.unpack(data)
        described = band_section.summary(content.bands, content.header.height, content.header.width)
        return _File(content, references.needed(content), described, metadata.unpack(content.metadata).geo)

    def format(self) -> str:
        """Return the format of the picture."""
        header, (dtype, bands, nodata, alpha, _) = self.content.header, self.described
        return formats.fitting(dtype, bands, max(header.height, header.width), nodata, self.geo, alpha=alpha)

    def require_gdal(self, kind: str) -> None:
        """Raise OutputError if GDAL is not installed and needed to write the picture in a format."""
        dtype, bands, nodata, *_ = self.described
        if kind == "tiff" and formats.needs_gdal(dtype, bands, nodata, self.geo):
            geotiff.require_gdal("a TIFF of this picture", geotiff.WRITTEN, OutputError)


def find(
    source: Path,
    reference: Path | None = None,
    index: References | None = None,
    *,
    failed: Callable[[str], None] = lambda text: None,
) -> list[Item]:
    """Return the files to decode, each read to know what it needs and becomes; a damaged one is told when it is done.

    Args:
        source: a folder, with all folders in it.
        reference: one picture for all files, or a folder of references with their paths, but for the suffix.
        index: of references, instead.
        failed: called with a line on each file or folder that cannot be read.

    Raises:
        UsageError: nothing to decode, or two files that would be one picture.
        IndexFault: of the index.
    """
    if not os.path.isdir(source):
        is_file = f"{source} is no folder; `refscale decode` decodes one file"
        raise UsageError(files.absence(source) or is_file)
    found = sorted(files.below(source, (".rsc",), failed))
    if not found:
        raise UsageError(f"{source} has no file that ends in .rsc")
    older = defaultdict(list)  # by their paths without suffixes
    in_folder = reference is not None and os.path.isdir(reference)
    if reference is not None and in_folder:
        for path in files.below(reference, formats.SUFFIXES, failed):
            older[path.relative_to(reference).with_suffix("")].append(path)
    items = []
    for path in found:
        kind, needs, paths = "png", [], []  # of a damaged file
        name = path.relative_to(source)
        try:
            file = _File.of(files.read(path, ContainerError, container.most_bytes))
        except RefscaleError:
            pass
        else:
            kind, needs = file.format(), file.needs
        if index is not None:
            paths = [place for one in needs for place in index.paths(one)[:1]]
        elif needs and reference is not None:
            paths = older[name.with_suffix("")] if in_folder else [reference]
        suffix = {"tiff": ".tif"}.get(kind, f".{kind}")
        output = printable(str(name.with_suffix(suffix)))
        items.append(Item(printable(path.stem), path, tuple(paths), output, tuple(one.hex() for one in needs)))
    return distinct(items, source)
