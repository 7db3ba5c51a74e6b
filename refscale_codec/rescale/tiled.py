"""A rescaler on whole pictures, tile by tile: picture and reference <-> low-res picture and similarity map.

The map is one for the whole picture, and so is the low-res picture; everything else is done for one tile after another,
with the rescaler's halo around it (benchmarks/scenes.py measures what tiles change).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from refscale_codec.errors import ImageError
from refscale_codec.lrcodec.interface import Floats, LowResReference, finite
from refscale_codec.picture import tiles
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import TILE, Box, Tile
from refscale_codec.rescale.interface import Context, Rescaler

Reference = Callable[[Tile], NDArray[Any]]
"""Gives the warped reference over the padded part of a tile that lies in the picture, [h, w, 3]."""


class LowRes(NamedTuple):
    """A picture made small."""

    lr: Floats
    """[ceil(h/s), ceil(w/s), 3]."""
    similarity_map: NDArray[np.uint8] | None
    """Levels [rows, columns]; None without a reference, and where it is left out everywhere."""

    @property
    def picture(self) -> NDArray[np.uint8]:
        """The low-res picture in 8 bits, [h, w, 3], to look at."""
        return np.clip(np.rint(self.lr), 0, 255).astype(np.uint8)


class MappedReference(NamedTuple):
    """A warped reference with its similarity map, which does not depend on the quality."""

    picture: Image
    """Of the picture's size."""
    levels: NDArray[np.uint8]
    """The map [rows, columns], not zero everywhere."""


@torch.inference_mode()
def map_reference(
    image: Image, reference: Image | None, rescaler: Rescaler, tile: int = TILE
) -> MappedReference | None:
    """Compute the similarity map of a picture of three bands and its reference; None if no part of it is of use.

    Args:
        image: the picture.
        reference: the warped reference, of the same size; None for none.
        rescaler: the net.
        tile: largest side of a tile in pixels.

    Raises:
        ImageError: the reference has another size.
    """
    if reference is None or not rescaler.uses_reference:
        return None
    similar = torch.from_numpy(similarity(image, reference, rescaler, tile)).to(rescaler.device)
    levels = rescaler.quantise_similarity(similar[None, None])[0, 0].to(torch.uint8).cpu().numpy()
    return MappedReference(reference, levels) if levels.any() else None


@torch.inference_mode()
def downscale(
    image: Image, reference: MappedReference | None, rescaler: Rescaler, quality: int, tile: int = TILE
) -> LowRes:
    """Make a picture of three bands small.

    Args:
        image: the picture.
        reference: from `map_reference`; None for none.
        rescaler: the net.
        quality: of the low-res codec to follow, 1..100.
        tile: largest side of a tile in pixels.
    """
    levels = None if reference is None else reference.levels
    scale = rescaler.scale
    height, width = low_res_size(image.height, image.width, scale)
    planes = _planes(levels, height, width, rescaler)
    lr = np.empty((height, width, 3), np.float32)
    for own, padded in tiles.grid(scale * height, scale * width, tile, rescaler.halo):
        warped = None if reference is None else _tensor(reference.picture.pixels[padded.slices], rescaler, padded)
        hr = _tensor(image.pixels[padded.slices], rescaler, padded)
        small = rescaler.down(hr, _context(quality, warped, planes, padded, scale * width))
        part = own.within(padded).reduced(scale).slices
        lr[own.reduced(scale).slices] = finite(small[0].permute(1, 2, 0).float().cpu().numpy()[part])
    return LowRes(lr, levels)


@torch.inference_mode()
def similarity(image: Image, reference: Image, rescaler: Rescaler, tile: int = TILE) -> NDArray[np.float32]:
    """Return how similar a warped reference is, [rows, columns] of the map's cells, in [-1, 1].

    Raises:
        ImageError: the reference has another size.
    """
    _require_same_size(reference, image.height, image.width)
    scale, cell = rescaler.scale, rescaler.cell
    height, width = (scale * side for side in low_res_size(image.height, image.width, scale))
    similarities = np.empty((-(-height // cell), -(-width // cell)), np.float32)
    for own, padded in tiles.grid(height, width, tile, rescaler.halo):
        hr, ref = (_tensor(picture.pixels[padded.slices], rescaler, padded) for picture in (image, reference))
        part = own.within(padded).reduced(cell).slices
        similarities[own.reduced(cell).slices] = rescaler.similarity(hr, ref)[0, 0].float().cpu().numpy()[part]
    return similarities


@torch.inference_mode()
def upscale(
    low: LowRes,
    reference: Reference | None,
    size: tuple[int, int],
    rescaler: Rescaler,
    quality: int,
    *,
    tile: int = TILE,
    window: Box | None = None,
) -> Iterator[tuple[Box, Floats]]:
    """Make a received low-res picture large, tile by tile.

    Args:
        low: the low-res picture, and the map.
        reference: gives the warped reference; None if it is not used.
        size: height and width of the picture.
        rescaler: the net.
        quality: of the low-res codec, 1..100.
        tile: largest side of a tile in pixels.
        window: the part that is wanted; None for all. Only tiles that it overlaps are made.

    Yields:
        What of a tile lies in the window, and its samples [h, w, 3] in levels on about 0..255, neither rounded nor
        clipped.
    """
    scale, (height, width) = rescaler.scale, low.lr.shape[:2]
    window = window or Box(0, 0, *size)
    planes = () if reference is None else _planes(low.similarity_map, height, width, rescaler)
    for current in tiles.grid(scale * height, scale * width, tile, rescaler.halo):
        wanted, padded = current.box.overlap(window), current.padded
        if wanted is None:
            continue
        warped = None if reference is None else _tensor(reference(current), rescaler, padded)
        lr = _tensor(low.lr[padded.reduced(scale).slices], rescaler, padded.reduced(scale))
        hr_hat = rescaler.up(lr, _context(quality, warped, planes, padded, scale * width))
        part = hr_hat[(0, slice(None), *wanted.within(padded).slices)]
        yield wanted, finite(part.permute(1, 2, 0).float().cpu().numpy())


def reference_in_place(warped: Image) -> Reference:
    """Return the reference that is a whole picture, warped already."""
    return lambda tile: warped.pixels[tile.padded.slices]


def low_res_size(height: int, width: int, scale: int) -> tuple[int, int]:
    """Return rows and columns of the low-res picture."""
    return -(-height // scale), -(-width // scale)


def low_res_reference(reference: Image, scale: int) -> LowResReference:
    """Return the mean of each square of scale x scale pixels, rounded half up, of 16 bits the upper 8.

    Beyond the picture its last pixels are repeated. At scale 1 it is the reference itself, with all its bits.
    """
    if scale == 1:
        return reference.pixels
    s, (height, width) = scale, (reference.height, reference.width)
    means = np.empty((*low_res_size(height, width, s), 3), np.uint8)
    for top in range(0, height, s * TILE):
        part = reference.pixels[top : top + s * TILE]
        padded = np.pad(part, ((0, -len(part) % s), (0, -width % s), (0, 0)), "edge")
        sums = padded.reshape(len(padded) // s, s, means.shape[1], s, 3).sum(axis=(1, 3), dtype=np.uint32)
        rounded = (2 * sums + s * s) // (2 * s * s)
        means[top // s :][: len(rounded)] = rounded if part.dtype == np.uint8 else rounded >> 8
    return means


def padded_window(window: Box, height: int, width: int, rescaler: Rescaler, tile: int) -> Box:
    """Return the part of a picture of height x width pixels that all tiles with pixels in a window depend on."""
    rows, columns = (rescaler.scale * side for side in low_res_size(height, width, rescaler.scale))
    needed = [each.padded for each in tiles.grid(rows, columns, tile, rescaler.halo) if each.box.overlap(window)]
    tops, lefts, bottoms, rights = zip(*needed, strict=True)
    return Box(min(tops), min(lefts), min(max(bottoms), height), min(max(rights), width))


def _planes(levels: NDArray[np.uint8] | None, height: int, width: int, rescaler: Rescaler) -> tuple[Tensor, ...]:
    """Return the planes of a map for a low-res picture of this size."""
    if levels is None:
        return ()
    whole = torch.from_numpy(levels).to(rescaler.device)[None, None]
    return rescaler.planes(whole, rescaler.scale * height, rescaler.scale * width)


def _context(quality: int, warped: Tensor | None, planes: tuple[Tensor, ...], padded: Box, width: int) -> Context:
    """Return the context of a padded tile in a picture that is so wide."""
    near = tuple(plane[(..., *padded.reduced(width // plane.shape[-1]).slices)] for plane in planes)
    return Context(quality, warped, near)


def _require_same_size(reference: Image, height: int, width: int) -> None:
    if (reference.height, reference.width) != (height, width):
        raise ImageError(
            f"the reference is {reference.width}x{reference.height} pixels, the picture {width}x{height}: "
            "bring the reference onto the picture's grid first"
        )


def _tensor(part: NDArray[Any], rescaler: Rescaler, box: Box) -> Tensor:
    """Return a part of a picture as [1, 3, h, w] in levels; beyond the picture its last pixels are repeated.

    The full scale of uint8 or uint16 goes to 0..255; floats stay as they are.
    """
    levels = part.astype(np.float32) / np.float32(257) if part.dtype == np.uint16 else part.astype(np.float32)
    x = torch.from_numpy(levels).to(rescaler.device).permute(2, 0, 1)[None]
    bottom, right = box.height - x.shape[-2], box.width - x.shape[-1]
    return functional.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
