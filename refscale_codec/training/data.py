"""Training crops: real revisit pairs, and pairs that a revisit simulator makes out of one picture.

Every sample is a function of (seed, step, position in the batch) alone, so a resumed run sees what an uninterrupted one
would have seen.
"""

import contextlib
import copy
import hashlib
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from refscale_codec.errors import ImageError, OutputError
from refscale_codec.picture.files import make_folder, write_atomically
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import Pair
from refscale_codec.reference import registration, warp
from refscale_codec.reference.warp import Alignment

Pixels = NDArray[np.uint8]  # [h, w, 3] RGB
Bands = NDArray[np.uint8]  # [h, w, 3 or more], the first three RGB
Floats = NDArray[np.float32]  # [h, w, 3] in [0, 1]
Mask = NDArray[np.bool_]  # [h, w]


def simulate_revisit(picture: Floats, rng: Generator) -> Floats:
    """Return a picture [h, w, 3] in [0, 1] as an older visit might have seen it.

    In this order: things that came or went (patches of the picture copied elsewhere), sub-pixel to few-pixel shift and
    small rotation, season and illumination (per-channel gamma, gain, offset; a smooth field of brightness), cloud or
    shadow, sensor blur and noise. Each with its own chance and strength.
    """
    height, width = picture.shape[:2]
    old = picture.copy()
    for _ in range(rng.poisson(1.5)):
        side = int(rng.integers(6, max(7, min(height, width) // 4)))
        y, v = rng.integers(0, height - side + 1, 2)
        x, u = rng.integers(0, width - side + 1, 2)
        old[y : y + side, x : x + side] = picture[v : v + side, u : u + side]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.normal(0, 0.3)), 1.0)
    turn[:, 2] = turn[:, 2] + rng.laplace(0, 0.6, 2)
    old = np.array(cv2.warpAffine(old, turn, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT))
    gain, gamma, offset = np.exp(rng.normal(0, 0.12, 3)), np.exp(rng.normal(0, 0.15, 3)), rng.normal(0, 0.04, 3)
    old = _float32(gain * np.clip(old, 0, 1) ** gamma + offset)
    field = _float32(cv2.resize(rng.normal(0, 1, (4, 4, 1)), (width, height), interpolation=cv2.INTER_CUBIC)[..., None])
    old = _float32(old * (1 + rng.exponential(0.05) * field))
    if rng.random() < 0.15:
        cover = np.clip(field * 2 - 1, 0, 1) * rng.uniform(0.4, 1)
        old = _float32(old * (1 - cover) + cover * (0.9 if rng.random() < 0.7 else 0.05))
    if rng.random() < 0.5:
        old = _float32(cv2.GaussianBlur(old, (0, 0), float(rng.uniform(0.3, 1.0))))
    return np.clip(_float32(old + rng.normal(0, rng.exponential(0.012), old.shape)), 0, 1)


def _float32(x: Any) -> Floats:
    return np.asarray(x, np.float32)


def _visits(pair: Pair) -> list[tuple[str, Bands, Bands | None]]:
    """Return dataset, target and the reference warped into place, of both directions of a pair."""
    with pair.named_in_errors():
        visits = [_read(path) for path in (pair.target, pair.reference) if path is not None]
    if visits[0].shape != visits[-1].shape:
        raise ImageError(f"{pair.target} and {pair.reference} differ in size or bands")
    if len(visits) == 1:
        return [(pair.dataset, visits[0], None)]
    return [(pair.dataset, target, _warped(target, other)) for target, other in (visits, visits[::-1])]


def _read(path: Path) -> Bands:
    """Return a picture of 8 bits of three bands or more, the first of them RGB."""
    picture = pictures.read(path)
    further = picture.bands > 3 and picture.pixels.dtype == np.uint8 and picture.alpha is None
    return picture.pixels if further else pictures.read_rgb(path).pixels


def _warped(target: Bands, other: Bands) -> Bands:
    """Return all bands of `other` warped into place by what its RGB bands show."""
    alignment = _alignment(*(Image(np.ascontiguousarray(visit[..., :3])) for visit in (target, other)))
    groups = [other[..., :3], *(np.repeat(other[..., k, None], 3, axis=2) for k in range(3, other.shape[2]))]
    rgb, *further = [warp.apply(Image(np.ascontiguousarray(group)), alignment).pixels for group in groups]
    return np.concatenate([rgb, *(group[..., :1] for group in further)], axis=2)


@cache
def _kept() -> Path:
    """Return the folder where alignments of training pictures are kept, since estimating them takes minutes.

    It is another one for another estimator.
    """
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    source = b"".join(Path(str(module.__file__)).read_bytes() for module in (registration, warp))
    return Path(folder) / "refscale" / f"alignments-{hashlib.sha256(source).hexdigest()[:12]}"


def _alignment(target: Image, reference: Image) -> Alignment | None:
    """Return what the encoder estimates; kept for later runs, if the folder for it can be written to."""
    file = _kept() / f"{target.fingerprint().hex()}-{reference.fingerprint().hex()}"
    if file.exists():
        packed = file.read_bytes()
        return warp.unpack(packed, target.height, target.width) if packed else None
    alignment = registration.estimate(target, reference)
    with contextlib.suppress(OutputError):
        make_folder(file.parent)
        write_atomically(file, b"" if alignment is None else warp.pack(alignment))
    return alignment


class Crops:
    """Draws batches of (target, reference) crops from pictures held in memory, of 8 bits.

    Datasets are drawn in proportion to the square root of their area, pictures inside one by area. Both directions of a
    pair are used, the older picture warped into place as the codec does it, and the same flip or quarter turn for both.
    Of a picture of n bands, n > 3, one of the further bands is drawn in n - 3 of n cases, repeated three times as the
    codec does it with a band that is left over, else RGB.
    """

    def __init__(self, pairs: list[Pair], crop: int, simulated: float, unrelated: float, changed: float) -> None:
        """Load all pictures.

        Args:
            pairs: what to draw from.
            crop: side in pixels; smaller pictures are left out.
            simulated: share of real pairs whose reference is replaced by a simulated one (singles always are).
            unrelated: share of samples whose reference is a crop of an unrelated picture.
            changed: share of the other samples in whose reference some rectangles show an unrelated picture.

        Raises:
            ImageError: no picture is large enough, or one cannot be read.
        """
        self.crop, self.simulated, self.unrelated, self.changed = crop, simulated, unrelated, changed
        self.pictures: list[tuple[Bands, Bands | None]] = []
        areas: dict[str, list[float]] = defaultdict(list)
        places: dict[str, list[int]] = defaultdict(list)
        with ThreadPoolExecutor() as pool:
            visits = [both for read in pool.map(_visits, pairs) for both in read]
        for dataset, target, reference in visits:
            if min(target.shape[:2]) >= crop:
                places[dataset].append(len(self.pictures))
                areas[dataset].append(target.shape[0] * target.shape[1])
                self.pictures.append((target, reference))
        if not self.pictures:
            raise ImageError(f"no training picture is at least {crop} pixels on both sides")
        weight = np.zeros(len(self.pictures))
        for dataset, inside in areas.items():
            weight[places[dataset]] = np.asarray(inside) / np.sqrt(np.sum(inside))
        self.weight = weight / weight.sum()

    def smaller(self, crop: int) -> "Crops":
        """Return what draws smaller crops from the same pictures, of which there is no second copy."""
        same = copy.copy(self)
        same.crop = crop
        return same

    def sample(self, rng: Generator) -> tuple[Pixels, Pixels, Mask]:
        """Return one target and reference, each [crop, crop, 3], and where that one was made to show another place."""
        target, reference = self._pick(rng)
        y, x = (int(rng.integers(0, side - self.crop + 1)) for side in target.shape[:2])
        window = np.s_[y : y + self.crop, x : x + self.crop]
        elsewhere = np.zeros((self.crop, self.crop), bool)
        if rng.random() < self.unrelated:
            target, reference = target[window], self._unrelated(rng)
            elsewhere[:] = True
        elif reference is None or rng.random() < self.simulated:
            target = target[window]
            simulated = simulate_revisit(_float32(target) / np.float32(255), rng)
            reference = np.rint(simulated * 255).astype(np.uint8)
        else:
            target, reference = target[window], reference[window]
        if rng.random() < self.changed:
            reference = self._changed(reference, elsewhere, rng)
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))
        target, reference = np.rot90(target, turns), np.rot90(reference, turns)
        elsewhere = np.rot90(elsewhere, turns)
        return (target[:, ::-1], reference[:, ::-1], elsewhere[:, ::-1]) if flip else (target, reference, elsewhere)

    def _pick(self, rng: Generator) -> tuple[Pixels, Pixels | None]:
        target, reference = self.pictures[int(rng.choice(len(self.pictures), p=self.weight))]
        if (count := target.shape[2]) == 3:
            return target, reference
        band = int(rng.integers(count))
        group = [0, 1, 2] if band < 3 else [band] * 3
        return target[..., group], None if reference is None else reference[..., group]

    def _unrelated(self, rng: Generator) -> Pixels:
        other, _ = self._pick(rng)
        y, x = (int(rng.integers(0, side - self.crop + 1)) for side in other.shape[:2])
        return other[y : y + self.crop, x : x + self.crop]

    def _changed(self, reference: Pixels, elsewhere: Mask, rng: Generator) -> Pixels:
        changed, other = reference.copy(), self._unrelated(rng)
        for _ in range(int(rng.integers(1, 4))):
            (y, x), (height, width) = rng.integers(0, self.crop, 2), rng.integers(self.crop // 8, self.crop // 2, 2)
            changed[y : y + height, x : x + width] = other[y : y + height, x : x + width]
            elsewhere[y : y + height, x : x + width] = True
        return changed

    def batch(self, seed: int, step: int, size: int) -> tuple[Pixels, Pixels]:
        """Return the (targets, references) of one training step, each [size, crop, crop, 3]."""
        return self.marked_batch(seed, step, size)[:2]

    def marked_batch(self, seed: int, step: int, size: int) -> tuple[Pixels, Pixels, Mask]:
        """Return the same and, [size, crop, crop], where a reference was made to show another place."""
        samples = [self.sample(np.random.default_rng([seed, step, index])) for index in range(size)]
        targets, references, elsewhere = zip(*samples, strict=True)
        return np.stack(targets), np.stack(references), np.stack(elsewhere)
