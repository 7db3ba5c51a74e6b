"""How many bits at what quality: `refscale eval`, the figures behind every claim about weights.

Each pair is coded at several qualities, against its reference, without one, and against an unrelated one; plain JPEG
(4:4:4, optimised) is the anchor. One row per picture, coder and quality; whole files are counted. What is decoded and
what is not: see `coders.refscale.Refscale` and the other coders. Conventions: bits per high-res pixel; PSNR over RGB, 8
bits, no border cropped; BD-rate per picture over a range of rates, then the mean.

An unrelated reference is that of the next row with another place, repeated or cropped to the size asked for.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np
import torch

from refscale_codec.codec.reconstruction import reconstruct
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import Pair
from refscale_codec.picture.tiles import TILE
from refscale_codec.reference import registration, warp
from refscale_codec.rescale import tiled
from refscale_codec.study import environment, metrics
from refscale_codec.study.coders.baselines import JPEG
from refscale_codec.study.coders.names import MODES, Mode
from refscale_codec.study.coders.protocol import CodedPicture, Coder
from refscale_codec.study.coders.refscale import Refscale
from refscale_codec.study.pairs import cut_to, unrelated
from refscale_codec.study.qualities import DOWNSCALED, JPEG_DENSE
from refscale_codec.study.results import CoderInfo, Comparison, Results, Row


def evaluate(
    pairs: list[Pair],
    model: Model,
    *,
    qualities: Iterable[int] = DOWNSCALED,
    modes: Iterable[Mode] = MODES,
    report: Callable[[Pair], None] = lambda pair: None,
) -> list[Row]:
    """Return rows of all pairs, whose coders are "jpeg" and the modes. A pair without a reference is coded alone only.

    Args:
        pairs: of 8-bit RGB pictures.
        model: with which to code.
        qualities: of refscale, 1..100; JPEG has qualities of its own.
        modes: see `coders.refscale.Refscale`.
        report: called after each pair.

    Raises:
        ImageError: a picture cannot be read.
    """
    qualities, modes = tuple(qualities), tuple(modes)
    rows = []
    for place, pair in enumerate(pairs):
        with pair.named_in_errors():
            target = pictures.read_rgb(pair.target)
            references = _references(pairs, place, target)
        rows += _rows(pair, "jpeg", JPEG, target, None, JPEG_DENSE)
        for mode in modes:
            if mode in references:
                coder = Refscale(model, "refscale", mode)
                rows += _rows(pair, mode, coder, target, references[mode], qualities)
        report(pair)
    return rows


def rounded_psnr(pairs: list[Pair], model: Model, *, mode: Mode = "reference") -> dict[str, float]:
    """Return the mean PSNR in dB by dataset when the low-res picture is rounded to 8 bits but not coded further.

    A reference of another size that cannot be brought onto the picture's grid is left out.

    Args:
        pairs: as for `evaluate`.
        model: likewise.
        mode: the reference to use; a pair that has none is coded without.

    Raises:
        ImageError: a picture cannot be read.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for place, pair in enumerate(pairs):
        target = pictures.read_rgb(pair.target)
        reference = _references(pairs, place, target).get(mode)
        if reference is not None:
            alignment = registration.estimate(target, reference)
            fits = alignment is not None or reference.pixels.shape == target.pixels.shape
            reference = warp.apply(reference, alignment) if fits else None
        mapped = tiled.map_reference(target, reference, model.rescaler)
        low = tiled.downscale(target, mapped, model.rescaler, 100)
        low = low._replace(lr=low.picture.astype(np.float32))
        warped = None if mapped is None else tiled.reference_in_place(mapped.picture)
        decoded = reconstruct(low, warped, (target.height, target.width), model, 100, tile=TILE)
        values[pair.dataset].append(metrics.psnr(target.pixels, decoded))
    return {dataset: float(np.mean(psnrs)) for dataset, psnrs in values.items()}


def _references(pairs: list[Pair], place: int, target: Image) -> dict[Mode, Image | None]:
    references: dict[Mode, Image | None] = {"alone": None}
    own = pairs[place].reference
    if own is None:
        return references
    references["reference"] = pictures.read_rgb(own)
    other = unrelated(pairs, place)
    if other is not None:
        references["unrelated"] = cut_to(pictures.read_rgb(other), target)
    return references


def _rows(
    pair: Pair, name: str, coder: Coder, target: Image, reference: Image | None, qualities: tuple[int, ...]
) -> list[Row]:
    coded = zip(qualities, coder.code(target, reference, qualities), strict=True)
    return [measured(pair, name, quality, target, each) for quality, each in coded]


def measured(pair: Pair, coder: str, quality: int, target: Image, coded: CodedPicture) -> Row:
    """Return the figures of a target that was coded.

    Args:
        pair: that it is of.
        coder: name for the row.
        quality: the coder's own.
        target: [h, w, 3] of 8 bits.
        coded: what came of it.
    """
    si = (math.nan, math.nan) if coded.lr is None else metrics.spatial_information(coded.lr)
    return Row(
        dataset=pair.dataset,
        name=pair.name,
        coder=coder,
        quality=quality,
        bytes_total=coded.bytes_total,
        bytes_by_section=coded.bytes_by_section,
        bpp=metrics.bits_per_pixel(coded.bytes_total, target.height, target.width),
        psnr=metrics.psnr(target.pixels, coded.decoded),
        psnr_y=metrics.psnr_y(target.pixels, coded.decoded),
        ssim=metrics.ssim(target.pixels, coded.decoded),
        ms_ssim=metrics.ms_ssim(target.pixels, coded.decoded),
        si_lr_mean=si[0],
        si_lr_std=si[1],
        seconds=coded.seconds,
    )


def map_bpp(rows: Iterable[Row]) -> float:
    """Return the mean bits per pixel of the similarity map, over pictures and qualities coded with their reference."""
    shares = [row.bpp * row.bytes_by_section["map"] / row.bytes_total for row in rows if row.coder == "reference"]
    return float(np.mean(shares)) if shares else math.nan


def results(
    rows: list[Row],
    comparisons: list[Comparison],
    rounded: dict[str, float],
    model: Model,
    weights: str,
    command: str,
) -> Results:
    """Return everything for a results file. Its further figures are `map_bpp` and `rounded_psnr`.

    Args:
        rows: of `evaluate`.
        comparisons: of these rows.
        rounded: of `rounded_psnr`.
        model: that was measured.
        weights: the name of its weights.
        command: that did it, for people.
    """
    used = {row.coder for row in rows}
    coders: list[Coder] = [JPEG, *(Refscale(model, weights, mode) for mode in MODES)]
    named = zip(("jpeg", *MODES), coders, strict=True)
    return Results(
        command=command,
        convention="whole file, bits per high-res pixel; RGB PSNR, 8 bits, no crop; BD-rate Akima, mean of pictures",
        versions=environment.versions(),
        machine=environment.machine(1, torch.get_num_threads()),
        weights={weights: model.fingerprint.hex()},
        coders=tuple(
            CoderInfo(name, coder.label, coder.needs_reference, None if name == "jpeg" else weights)
            for name, coder in named
            if name in used
        ),
        comparisons=tuple(comparisons),
        rows=tuple(rows),
        figures={"map_bpp": map_bpp(rows), "rounded_psnr": rounded},
    )
