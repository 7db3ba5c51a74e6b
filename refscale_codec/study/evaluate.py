"""How many bits at what quality: `refscale eval`, the figures behind every claim about weights.

Each pair is coded at several qualities, against its reference, without one, and against an unrelated one; plain JPEG
(4:4:4, optimised) is the anchor. One row per picture, coder and quality; whole files are counted, and every file is
decoded from its bytes. Conventions: bits per high-res pixel; PSNR over RGB, 8 bits, no border cropped; BD-rate per
picture over a range of rates, then the mean.

An unrelated reference is that of the next row with another place, repeated or cropped to the size asked for.
"""

import math
import platform
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import PIL
import torch

import refscale_codec
from refscale_codec import lrcodec
from refscale_codec.fileformat import container
from refscale_codec.picture import image as pictures
from refscale_codec.picture.image import Image
from refscale_codec.reference import registration, warp
from refscale_codec.rescale import tiled
from refscale_codec.rescale.net import RescaleNet
from refscale_codec.study import coders, metrics
from refscale_codec.study.coders import Coded
from refscale_codec.study.qualities import DOWNSCALED, JPEG_DENSE
from refscale_codec.training.data import Pair

Mode = Literal["reference", "alone", "unrelated"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class Row:
    """One picture through one coder at one quality."""

    dataset: str
    name: str
    coder: str  # "jpeg", or a mode of refscale
    quality: int  # 1..100
    bytes_total: int  # the whole file
    bytes_by_section: dict[str, int]  # its parts: see `container.bytes_by_section`, or one "picture"
    bpp: float  # bits of the whole file per high-res pixel
    psnr: float  # dB, RGB
    psnr_y: float  # dB, luma
    ssim: float  # NaN where the picture is too small for it
    ms_ssim: float
    si_lr_mean: float  # spatial information of the decoded low-res picture; NaN where there is none
    si_lr_std: float  # the same as in ITU-T P.910
    seconds: dict[str, float]  # by stage; at least "encode" and "decode"


@dataclass(frozen=True)
class Comparison:
    """BD-rate of a coder against an anchor, mean over the pictures of a dataset."""

    dataset: str
    coder: str
    anchor: str
    percent: float  # negative: the coder saves bits
    bd_psnr: float  # dB that the coder gains at equal rate
    pictures: int  # that count in the mean
    left_out: int  # without a BD-rate, see the notes
    notes: tuple[str, ...]


def evaluate(
    pairs: list[Pair],
    net: RescaleNet,
    *,
    qualities: Iterable[int] = DOWNSCALED,
    modes: Iterable[Mode] = MODES,
    report: Callable[[Pair], None] = lambda pair: None,
) -> list[Row]:
    """Code all pairs; `report` is called after each. A pair without a reference is coded alone only.

    Raises:
        ImageError: a picture cannot be read.
    """
    qualities, modes = tuple(qualities), tuple(modes)
    rows = []
    for place, pair in enumerate(pairs):
        target = pictures.read_rgb(pair.target)
        references = _references(pairs, place, target)
        rows += [_jpeg_row(pair, target, quality) for quality in JPEG_DENSE]
        for mode in modes:
            if mode in references:
                rows += [_row(pair, mode, target, references[mode], net, quality) for quality in qualities]
        report(pair)
    return rows


def rounded_psnr(pairs: list[Pair], net: RescaleNet, *, mode: Mode = "reference") -> dict[str, float]:
    """Return the mean PSNR in dB by dataset when the low-res picture is rounded to 8 bits but not coded further.

    A reference of another size that cannot be brought onto the picture's grid is left out.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for place, pair in enumerate(pairs):
        target = pictures.read_rgb(pair.target)
        reference = _references(pairs, place, target).get(mode)
        if reference is not None:
            alignment = registration.estimate(target, reference)
            fits = alignment is not None or reference.pixels.shape == target.pixels.shape
            reference = warp.apply(reference, alignment) if fits else None
        low = tiled.downscale(target, reference, net, 100)
        low = low._replace(lr=low.picture.astype(np.float32))
        header = container.Header(
            target.width, target.height, net.config.scale, lrcodec.JPEG, 100, net.fingerprint, None
        )
        values[pair.dataset].append(metrics.psnr(target.pixels, tiled.upscale(low, reference, header, net).pixels))
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


def unrelated(pairs: list[Pair], place: int) -> Path | None:
    """Return the reference of the next pair that shows another place; None where there is none."""
    here = {pairs[place].reference, pairs[place].target}
    for pair in pairs[place + 1 :] + pairs[:place]:
        if pair.reference and not here & {pair.reference, pair.target}:
            return pair.reference
    return None


def cut_to(other: Image, target: Image) -> Image:
    """Return a picture repeated or cropped to the size of another."""
    times = [-(-have // side) for have, side in zip(target.pixels.shape, other.pixels.shape, strict=True)]
    return Image(np.ascontiguousarray(np.tile(other.pixels, times)[: target.height, : target.width]))


def _row(pair: Pair, mode: Mode, target: Image, reference: Image | None, net: RescaleNet, quality: int) -> Row:
    coder = coders.Refscale(net, "alone" if reference is None else "reference")
    return measured(pair, mode, quality, target, coder.code(target, reference, quality))


def _jpeg_row(pair: Pair, target: Image, quality: int) -> Row:
    return measured(pair, "jpeg", quality, target, coders.JPEG.code(target, None, quality))


def measured(pair: Pair, coder: str, quality: int, target: Image, coded: Coded) -> Row:
    """Return the figures of a target that was coded and decoded."""
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


def compare(rows: list[Row], coder: str, anchor: str, low: float = 0.1, high: float = 1.0) -> list[Comparison]:
    """Return the BD-rate of `coder` against `anchor` over [low, high] bits per pixel, by dataset and for "all"."""
    curves: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        curves[row.dataset, row.name][row.coder].append(row)
    found: dict[str, list[metrics.BdRate]] = defaultdict(list)
    for (dataset, _), of_coder in curves.items():
        if coder in of_coder and anchor in of_coder:
            a, b = of_coder[anchor], of_coder[coder]
            rate = metrics.bd_rate(
                [r.bpp for r in a], [r.psnr for r in a], [r.bpp for r in b], [r.psnr for r in b], low, high
            )
            found[dataset].append(rate)
    if len(found) > 1:
        found["all"] = [rate for rates in found.values() for rate in rates]
    return [_comparison(dataset, coder, anchor, rates) for dataset, rates in found.items()]


def _comparison(dataset: str, coder: str, anchor: str, rates: list[metrics.BdRate]) -> Comparison:
    percents = [rate.percent for rate in rates if np.isfinite(rate.percent)]
    decibels = [rate.psnr for rate in rates if np.isfinite(rate.psnr)]
    mean, gain = (float(np.mean(values)) if values else math.nan for values in (percents, decibels))
    used = [rate for rate in rates if np.isfinite(rate.percent)]
    notes = sorted({rate.note for rate in rates if not np.isfinite(rate.percent)})
    for count, what in (
        (sum(rate.overlap < metrics.GOOD_OVERLAP for rate in used), "curves with little PSNR in common"),
        (sum(rate.dropped > 0 for rate in used), "curves with points whose PSNR does not rise with the rate, left out"),
    ):
        notes += [f"{count} of {len(rates)} pictures: {what}"] if count else []
    return Comparison(dataset, coder, anchor, mean, gain, len(percents), len(rates) - len(percents), tuple(notes))


def map_bpp(rows: list[Row]) -> float:
    """Return the mean bits per pixel of the similarity map, over pictures and qualities coded with their reference."""
    shares = [row.bpp * row.bytes_by_section["map"] / row.bytes_total for row in rows if row.coder == "reference"]
    return float(np.mean(shares)) if shares else float("nan")


def as_json(
    rows: list[Row], comparisons: list[Comparison], rounded: dict[str, float], net: RescaleNet, command: str
) -> dict[str, Any]:
    """Return everything for a results file: what was measured, with what, where and how."""
    return {
        "command": command,
        "convention": "whole file, bits per high-res pixel; RGB PSNR, 8 bits, no crop; BD-rate Akima, mean of pictures",
        "weights": net.fingerprint.hex(),
        "net": asdict(net.config),
        "versions": {
            "refscale": refscale_codec.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pillow": PIL.__version__,
            "numpy": np.__version__,
        },
        "machine": {"system": platform.system(), "processor": platform.machine(), "threads": torch.get_num_threads()},
        "map_bpp": finite({"mean": map_bpp(rows)})["mean"],
        "rounded_psnr": finite(dict(rounded)),
        "comparisons": [finite(asdict(comparison)) for comparison in comparisons],
        "rows": [finite(asdict(row)) for row in rows],
    }


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """Replace what JSON cannot hold: no BD-rate, and the PSNR of a lossless picture, become null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
