"""The references of a command that are given with --ref: pictures, and .rsc files that are decoded for it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refscale_codec.cli import options, terminal
from refscale_codec.errors import UsageError

if TYPE_CHECKING:
    from refscale_codec.picture.image import Image


def read(
    paths: Sequence[str],
    pages: Sequence[int],
    refs: str | None,
    weights: Path | None,
    device: str,
    threads: int | None,
) -> "list[Image]":
    """Return the references; their georeference is read where that is possible.

    Args:
        paths: of each.
        pages: of each; none for files that hold one picture.
        refs: the index that has what .rsc files need themselves; by default that of the environment.
        weights: of .rsc files whose weights do not ship.
        device: that these are decoded on.
        threads: most threads for that.
    """
    if pages and not paths:
        raise UsageError("--ref-page would have no effect: there is no --ref")
    if pages and len(pages) != len(paths):
        raise UsageError(
            f"--ref-page is given {len(pages)} times for {len(paths)} references: give it for each or none"
        )
    among = list(filter(options.is_coded, paths))
    if among and pages:
        raise UsageError(f"--ref-page would have no effect: {among[0]} is a .rsc file")
    decoded = iter(_decoded(among, refs or os.environ.get("REFSCALE_REFS") or None, weights, device, threads))
    each = zip(paths, pages or len(paths) * (None,), strict=True)
    return [next(decoded) if path in among else terminal.read_picture(path, page) for path, page in each]


def _decoded(
    paths: list[str], index_path: str | None, weights: Path | None, device: str, threads: int | None
) -> "list[Image]":
    if not paths:
        return []
    from refscale_codec.api import coded
    from refscale_codec.archive import disk
    from refscale_codec.fileformat import references

    alone = not any(references.needed(disk.unpacked(path)) for path in paths)
    with terminal.index(None if alone else index_path, weights, device, threads) as index:
        if index is not None:
            return index.decoded(paths)
        terminal.prepare(threads)
        return coded.pictures_in(paths, weights, device)
