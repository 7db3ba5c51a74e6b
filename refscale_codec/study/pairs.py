"""The pairs to measure: from a manifest, from two folders or two pictures; read once before anything is measured."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refscale_codec.errors import UsageError, printable
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import formats, pictures
from refscale_codec.picture.manifest import SUFFIXES as MANIFESTS
from refscale_codec.picture.manifest import Pair, read_manifest

_log = logging.getLogger(__name__)


class Checked(NamedTuple):
    """A pair whose pictures can be read."""

    pair: Pair
    digest: str  # of both files' bytes
    unrelated: Path | None = None  # the reference of another place
    resampled: bool = False  # whether the reference has another size, which only refscale takes as it is


def find(source: Path, reference: Path | None, split: str | None = None) -> list[Pair]:
    """Return the pairs to measure, each with a name of its own within its dataset.

    Args:
        source: a manifest (see `manifest`), by its suffix, a folder of targets, or one target.
        reference: nothing, a folder of references with the same file names, or one reference.
        split: only rows of this split of a CSV.

    Raises:
        UsageError: nothing to measure, or the two do not belong together.
    """
    is_manifest = source.suffix.lower() in MANIFESTS and not os.path.isdir(source)
    if split is not None and not is_manifest:
        raise UsageError("--split goes with a CSV of pairs")
    if os.path.isdir(source):
        if reference is None or not os.path.isdir(reference):
            raise UsageError(f"{source} is a folder: give a folder of references with the same file names, too")
        pairs = _of_folders(source, reference)
    elif is_manifest:
        if reference is not None:
            raise UsageError(f"{source} names the references itself; {reference} would have no effect")
        pairs = read_manifest(source, None if split is None else (split,))
    else:
        pairs = [Pair(printable(source.parent.name) or "pictures", printable(source.stem), source, reference)]
    for name_of in (lambda p: p.name, lambda p: f"{p.target.parent.name}/{p.target.stem}", lambda p: str(p.target)):
        named = [replace(pair, name=printable(name_of(pair))) for pair in pairs]
        (_, name), times = Counter((pair.dataset, pair.name) for pair in named).most_common(1)[0]
        if times == 1:
            return named
    raise UsageError(f"{source} lists the same target more than once: {name}")


def _of_folders(targets: Path, references: Path) -> list[Pair]:
    names = {
        folder: {path.name for path in folder.iterdir() if path.suffix.lower() in formats.SUFFIXES}
        for folder in (targets, references)
    }
    common = sorted(names[targets] & names[references])
    if not common:
        raise UsageError(f"{targets} and {references} have no picture of the same name")
    for folder in (targets, references):
        if alone := len(names[folder]) - len(common):
            _log.warning("%s: left out: %d pictures without one of the same name in the other folder", folder, alone)
    return [
        Pair(printable(targets.name) or "pictures", printable(Path(name).stem), targets / name, references / name)
        for name in common
    ]


def check(pairs: Iterable[Pair]) -> list[Checked]:
    """Read every picture once, so that a bad one is reported before hours of work.

    Raises:
        ImageError: a picture cannot be read.
    """
    pairs, checked = list(pairs), []
    for place, pair in enumerate(pairs):
        digest = hashlib.sha256()
        sizes = []
        for path in filter(None, (pair.target, pair.reference)):
            with pair.named_in_errors():
                sizes.append(pictures.read_rgb(path).pixels.shape)
            digest.update(path.read_bytes())
        digits, other = digest.hexdigest()[:16], unrelated(pairs, place)
        checked.append(Checked(pair, digits, other, len(set(sizes)) > 1))
    return checked


def unrelated(pairs: list[Pair], place: int) -> Path | None:
    """Return the reference of the next pair that is of another place; None where there is none."""
    here = {pairs[place].reference, pairs[place].target}
    for pair in pairs[place + 1 :] + pairs[:place]:
        if pair.reference and not here & {pair.reference, pair.target}:
            return pair.reference
    return None


def cut_to(other: Image, target: Image) -> Image:
    """Return a picture repeated or cropped to the size of another."""
    times = [-(-have // side) for have, side in zip(target.pixels.shape, other.pixels.shape, strict=True)]
    return Image(np.ascontiguousarray(np.tile(other.pixels, times)[: target.height, : target.width]))
