"""RescaleNet on whole pictures, tile by tile: picture and reference <-> low-res picture and similarity map.

The map is one for the whole picture, and so is the low-res picture; everything else is done for one tile after another,
with a halo around it that makes tiles all but invisible (benchmarks/scenes.py).
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from refscale_codec.errors import ImageError, ReferenceMismatch
from refscale_codec.fileformat.container import Header
from refscale_codec.lrcodec.dct.coefficients import Floats
from refscale_codec.picture import tiles
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import TILE, Box
from refscale_codec.reference import warp
from refscale_codec.reference.band_prediction import Prediction
from refscale_codec.reference.warp import Alignment
from refscale_codec.rescale.net import RescaleNet

Guide = NDArray[np.uint8]  # [h, w, 3]: the low-res reference, for an entropy model
HALO = {2: 32, 4: 48}  # pixels around a tile by scale: what lies beyond hardly matters


class LowRes(NamedTuple):
    """What the net leaves of a picture: all that a file has to hold."""

    lr: Floats  # [ceil(h/s), ceil(w/s), 3] RGB on 0..255, real-valued; may lie outside
    levels: NDArray[np.uint8] | None  # the similarity map [rows, columns]; None without a reference, or if left unused
    alignment: Alignment | None = None  # where the reference lies on the picture; None for right where it is
    guide: NDArray[np.uint8] | None = None  # [ceil(h/s), ceil(w/s), 3]: the moved reference, for the entropy model
    prediction: Prediction | None = None  # from the first band group to the reference that was used; None for none

    @property
    def picture(self) -> NDArray[np.uint8]:
        """The low-res picture in 8 bits."""
        return to_8_bits(self.lr)


@torch.inference_mode()
def downscale(
    image: Image,
    reference: Image | None,
    net: RescaleNet,
    quality: int,
    tile: int = TILE,
    predicted: Prediction | None = None,
) -> LowRes:
    """Run the net down, tile by tile; the reference is taken as it lies.

    `quality` is that of the low-res codec to follow, 1..100; `tile` is the largest side of a tile in pixels. What made
    a reference that is predicted goes into the result; such a one is not exact, and no guide of an entropy model.

    Raises:
        ImageError: the reference has another size.
    """
    if reference is not None:
        _require_same_size(reference, image.height, image.width)
    scale = net.config.scale
    height, width = -(-image.height // scale), -(-image.width // scale)
    similarity = None if reference is None else _similarity(image, reference, net, tile)
    maps = _maps(similarity, height, width, net)
    lr = np.empty((height, width, 3), np.float32)
    for core, seen in tiles.grid(scale * height, scale * width, tile, HALO[scale]):
        ref = None if reference is None else _tensor(reference.pixels, net, seen)
        condition = _condition(ref, maps, seen, quality, net)
        found, _ = net.descend(_tensor(image.pixels, net, seen), condition)
        own = core.within(seen).reduced(scale).slices
        lr[core.reduced(scale).slices] = (255 * found[0].permute(1, 2, 0).float()).cpu().numpy()[own]
    guide, exact = None, None if predicted is not None else reference
    if net.low_res is not None and exact is not None and similarity is not None and similarity.any():
        guide = low_res_reference(exact, net)
    return LowRes(lr, similarity, guide=guide, prediction=predicted)


@torch.inference_mode()
def likeness(image: Image, reference: Image, net: RescaleNet, tile: int = TILE) -> NDArray[np.float32]:
    """Return the cosine that the similarity map is made of, [rows, columns] of the map, in [-1, 1].

    The reference is taken as it lies. ImageError if it has another size.
    """
    _require_same_size(reference, image.height, image.width)
    scale = net.config.scale
    height, width = -(-image.height // scale), -(-image.width // scale)
    cell = scale * net.config.map_divisor
    cosine = np.empty(net.config.map_size(height, width), np.float32)
    for core, seen in tiles.grid(scale * height, scale * width, tile, HALO[scale]):
        hr, ref = (net.refnet.features(_tensor(picture.pixels, net, seen)) for picture in (image, reference))
        own = core.within(seen).reduced(cell).slices
        cosine[core.reduced(cell).slices] = net.refnet.cosine(hr, ref)[0, 0].cpu().numpy()[own]
    return cosine


def _similarity(image: Image, reference: Image, net: RescaleNet, tile: int) -> NDArray[np.uint8]:
    """Return the similarity map's levels [rows, columns]."""
    cosine = torch.from_numpy(likeness(image, reference, net, tile)).to(_device(net))
    return np.asarray(net.refnet.quantise(net.refnet.ramped(cosine)).to(torch.uint8).cpu().numpy())


def _maps(levels: NDArray[np.uint8] | None, height: int, width: int, net: RescaleNet) -> list[Tensor] | None:
    """Return the similarity map at the size of each stage, for a low-res picture of this size."""
    if levels is None:
        return None
    scale = net.config.scale
    return net.refnet.spread(
        torch.from_numpy(levels).to(_device(net)).float()[None, None], scale * height, scale * width
    )


def _condition(ref: Tensor | None, maps: list[Tensor] | None, seen: Box, quality: int, net: RescaleNet) -> list[Tensor]:
    """Return the condition of a tile: `ref` is the tile's, `maps` are the picture's."""
    features = None if ref is None else net.refnet.features(ref)
    near = None
    if maps is not None:
        near = [s_map[(..., *seen.reduced(2 << stage).slices)] for stage, s_map in enumerate(maps)]
    told = torch.tensor([quality / 100], device=_device(net))
    return net.refnet.condition(features, near, told, seen.height, seen.width)


@torch.inference_mode()
def upscale(
    low: LowRes,
    reference: Image | None,
    header: Header,
    net: RescaleNet,
    *,
    alignment: Alignment | None = None,
    z_scale: float = 0.0,
    z_seed: int = 0,
    tile: int = TILE,
    window: Box | None = None,
    dtype: np.dtype[Any] | type[Any] = np.uint8,
    place: Box | None = None,
) -> Image:
    """Run the net up, tile by tile; the reference is taken as it lies, but for an alignment that moves it.

    The header gives the size of the picture and the quality. With a window, only that part of the picture is made.
    Samples are of the given type, uint8 or uint16, over its full scale. With a place, the reference is only that part
    of a whole one: all that the net sees of it.

    Raises:
        ReferenceMismatch: the whole was made, and the moved reference is not the one that the alignment tells.
    """
    scale, (height, width) = net.config.scale, header.low_res_size
    whole = Box(0, 0, header.height, header.width)
    window = window or whole
    check = 0
    maps = _maps(low.levels, height, width, net)
    z = _latents(height, width, net, z_scale, z_seed) if z_scale else None
    pixels, full = np.empty((window.height, window.width, 3), dtype), np.iinfo(dtype).max
    for core, seen in tiles.grid(scale * height, scale * width, tile, HALO[scale]):
        shown = core.overlap(window)
        if shown is None:
            continue
        near = None
        if z is not None:
            near = [part[(..., *seen.reduced(2 << stage).slices)].to(_device(net)) for stage, part in enumerate(z)]
        ref = None
        if reference is not None:
            if place is None:
                guide = warp.apply(reference, alignment, seen)
            else:
                guide = Image(reference.pixels[(seen.overlap(place) or place).within(place).slices])
            if alignment is not None:
                check += warp.checksum(Image(guide.pixels[core.within(seen).slices]), core)
            ref = _tensor(guide.pixels, net, seen.within(seen))
        condition = _condition(ref, maps, seen, header.quality, net)
        hr_hat = net.rebuild(_tensor(low.lr, net, seen.reduced(scale)), condition, near)
        own = hr_hat[(0, slice(None), *shown.within(seen).slices)].permute(1, 2, 0).float()
        pixels[shown.within(window).slices] = _rounded(full * own.cpu().numpy(), dtype)
    if reference is not None and alignment is not None and window == whole:
        require_check(check, alignment)
    return Image(pixels)


def _latents(height: int, width: int, net: RescaleNet, scale: float, seed: int) -> list[Tensor]:
    """Return a sample of the latents for a low-res picture of this size, drawn on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    stages = range(len(net.stages) - 1, -1, -1)
    sizes = [(1, 9, height << stage, width << stage) for stage in stages]
    return [scale * torch.randn(size, generator=generator) for size in sizes]


def _require_same_size(reference: Image, height: int, width: int) -> None:
    if (reference.height, reference.width) != (height, width):
        raise ImageError(
            f"the reference is {reference.width}x{reference.height} pixels, the picture {width}x{height}: "
            "bring the reference onto the picture's grid first"
        )


def _device(net: RescaleNet) -> torch.device:
    return next(net.parameters()).device


def _tensor(pixels: NDArray[Any], net: RescaleNet, box: Box) -> Tensor:
    """Return a part as [1, 3, h, w] on the net's device; beyond the picture its last pixels are repeated.

    The full scale of uint8 or uint16 goes to [0, 1], and so does 0..255 of floats.
    """
    part = pixels[box.slices]
    full = 0xFFFF if part.dtype == np.uint16 else 255
    part = part.astype(np.float32) if part.dtype == np.uint16 else part.copy()  # torch hardly knows that type
    x = torch.from_numpy(part).to(_device(net)).permute(2, 0, 1)[None].float() / full
    bottom, right = box.height - x.shape[-2], box.width - x.shape[-1]
    return functional.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def to_8_bits(picture: Floats) -> NDArray[np.uint8]:
    """Return a picture on 0..255 rounded and clipped."""
    return _rounded(picture, np.uint8)


def _rounded(picture: Floats, dtype: np.dtype[Any] | type[Any]) -> NDArray[Any]:
    return np.asarray(np.clip(np.rint(picture), 0, np.iinfo(dtype).max).astype(dtype))


def low_res_reference(reference: Image, net: RescaleNet) -> NDArray[np.uint8]:
    """Return the mean of each square of scale x scale pixels, rounded; sides are padded as the net's."""
    s, (height, width) = net.config.scale, (reference.height, reference.width)
    padded = np.pad(reference.pixels, ((0, -height % s), (0, -width % s), (0, 0)), "edge").astype(np.int64)
    sums = padded.reshape(padded.shape[0] // s, s, padded.shape[1] // s, s, 3).sum(axis=(1, 3))
    means: NDArray[np.uint8] = ((2 * sums + s * s) // (2 * s * s)).astype(reference.pixels.dtype)
    return means.astype(np.uint8) if means.dtype == np.uint8 else (means >> 8).astype(np.uint8)


def padded_window(window: Box, header: Header, tile: int) -> Box:
    """Return what the net sees of the picture to make a window."""
    height, width = (header.scale * side for side in header.low_res_size)
    needed = [seen for core, seen in tiles.grid(height, width, tile, HALO[header.scale]) if core.overlap(window)]
    tops, lefts, bottoms, rights = zip(*needed, strict=True)
    return Box(min(tops), min(lefts), min(max(bottoms), header.height), min(max(rights), header.width))


def require_check(found: int, alignment: Alignment) -> None:
    """Raise ReferenceMismatch if a sum of `align.checksum` is not what the encoder saw."""
    if found % (1 << 32) != alignment.check:
        raise ReferenceMismatch("the reference, moved into place, is not the one that the encoder saw")
