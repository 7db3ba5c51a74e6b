"""What each choice of net and training is worth: small nets, equal budgets, two seeds, judged on dev pairs.

    python benchmarks/ablations.py ../shared/data/manifest.csv                 # everything that is missing
    python benchmarks/ablations.py ../shared/data/manifest.csv --only base,no-rate
    python benchmarks/ablations.py ../shared/data/manifest.csv --judge build/runs/x2/weights.safetensors   # only prints

Each variant changes one thing of `base`, a net of a third of the parameters of the shipped one, trained from fresh
parameters for 500 steps on one thread; other shapes of the sub-net get as many steps as take the same time. It is
judged by BD-rate against JPEG (0.1 to 1.0 bits per pixel, whole files, RGB PSNR) on every second dev pair, cut to
256 x 256 pixels in its middle, the reference warped into place and always used. The budget is small on purpose; where
two seeds disagree about the order, nothing is decided.

Writes benchmarks/results/ablations.json, and the table in docs/TRAINING.md. Done rows are kept.
"""

import argparse
import copy
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from common import RESULTS as FOLDER
from common import ROOT, Point, bd_rate, kept, middle, point, replace_table, write
from torch import Tensor, nn

from refscale_codec import model
from refscale_codec.codec import encoder
from refscale_codec.lrcodec import gradient
from refscale_codec.lrcodec.dct import coefficients
from refscale_codec.lrcodec.interface import Floats
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import Pair, read_manifest
from refscale_codec.reference import registration, warp
from refscale_codec.reference.source import Warped
from refscale_codec.rescale import blocks, refnet, tiled
from refscale_codec.rescale import net as net_module
from refscale_codec.rescale.net import RescaleConfig, RescaleNet
from refscale_codec.study.coders import jpeg as jpeg_coder
from refscale_codec.study.qualities import JPEG_DENSE
from refscale_codec.training import data, loop, losses
from refscale_codec.training.nets import Trained
from refscale_codec.training.recipe import TrainConfig

RESULTS = FOLDER / "ablations.json"
SIDE = 256
QUALITIES = (15, 40, 65, 82, 91, 97)  # the last one beyond 1 bit per pixel: a curve that ends early flatters a variant
JPEG_QUALITIES = JPEG_DENSE[:-2]  # without those far beyond 1 bit per pixel
SEEDS = (1, 2)
FIELDS = ("variant", "what", "seed", "percent", "map_bpp", "steps", "seconds")  # of a row

NET = RescaleConfig(blocks=4, width=32, ref_width=16, map_divisor=4)
BASE = TrainConfig("", net=NET, steps=500, warmup=30, decay=0.6, learning_rate=1e-3, crop=64, quality=(15, 95))


@contextmanager
def nothing() -> Iterator[None]:
    """Change nothing."""
    yield


@contextmanager
def rate_left_out() -> Iterator[None]:
    """Leave bits out of the gradient: only squared error and guidance are minimised."""
    bits = losses.coded_bits
    with (
        patch.object(losses, "coded_bits", lambda lr, quality: bits(lr, quality).detach()),
        patch.object(losses, "with_gradient_of", lambda value, estimate: value.detach()),
    ):
        yield


def gradient_of(stand_in: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Any]:
    """Take the gradient of another stand-in for the JPEG's rounding."""
    return lambda: patch.object(losses, "surviving", stand_in)


def cubic(lr: Tensor, quality: Tensor) -> Tensor:
    """Return `lr` with quantisation indices rounded by DiffJPEG's stand-in, round(v) + (v - round(v))^3."""
    steps = losses.jpeg_steps(lr, quality)
    nearest = steps.detach().round()
    return losses.of_jpeg_steps(nearest + (steps - nearest) ** 3, quality)


@contextmanager
def latent_sampled() -> Iterator[None]:
    """Go up with a normal latent instead of zeros while training."""
    up = RescaleNet.upscale

    def sampled(net: RescaleNet, lr_hat: Tensor, condition: list[Tensor]) -> Tensor:
        if not net.training:
            return up(net, lr_hat, condition)
        z = [torch.randn(len(lr_hat), 9, *f_c.shape[-2:]) for f_c in condition]
        return net.inverse(lr_hat + net.restore(lr_hat, condition[-1]), condition, z)

    with patch.object(RescaleNet, "upscale", sampled):
        yield


@contextmanager
def quality_not_given() -> Iterator[None]:
    """Show the net the same quality always, in training and afterwards."""
    planes = refnet.quality_channels
    with patch.object(refnet, "quality_channels", lambda quality, like: planes(torch.full_like(quality, 0.6), like)):
        yield


@contextmanager
def eight_bits() -> Iterator[None]:
    """Round and clip the low-res picture to 8 bits before and after its JPEG, in training and afterwards."""
    through, quantise, dequantise = losses.through_jpeg, coefficients.quantise, coefficients.dequantise

    def rounded(x: Tensor) -> Tensor:
        return x + ((x.clamp(0, 1) * 255).round() / 255 - x).detach()

    def coded(lr: Tensor, quality: Tensor) -> Tensor:
        return rounded(through(rounded(lr), quality))

    def quantised(lr: Floats, quality: int) -> coefficients.Indices:
        return quantise(tiled.LowRes(lr, None).picture.astype(np.float32), quality)

    def restored(indices: coefficients.Indices, height: int, width: int, quality: int) -> Floats:
        return tiled.LowRes(dequantise(indices, height, width, quality), None).picture.astype(np.float32)

    with (
        patch.object(losses, "through_jpeg", coded),
        patch.object(coefficients, "quantise", quantised),
        patch.object(coefficients, "dequantise", restored),
    ):
        yield


class Dense(blocks.DenseBlock):
    """IRN's sub-net, with the condition beside its input."""

    def __init__(self, channels_in: int, channels_out: int, condition: int, width: int) -> None:
        """Build it; half the width is added a convolution, so that parameters are about equal."""
        super().__init__(channels_in + condition, channels_out, width // 2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:  # type: ignore[override]
        """Map x and the condition as `blocks.SubNet` does."""
        return super().forward(torch.cat([x, condition], dim=1))


class Separable(blocks.SubNet):
    """The shipped sub-net, its inner 3x3 convolutions split into a depthwise one and a 1x1."""

    def __init__(self, channels_in: int, channels_out: int, condition: int, width: int) -> None:
        """Build it, twice as wide."""
        super().__init__(channels_in, channels_out, condition, 2 * width)
        for name in ("first", "second"):
            depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
            setattr(self.body, name, nn.Sequential(depthwise, nn.Conv2d(2 * width, 2 * width, 1)))


def sub_net(kind: type[nn.Module]) -> Callable[[], Any]:
    """Build nets with another sub-net."""

    @contextmanager
    def changing() -> Iterator[None]:
        with patch.object(blocks, "SubNet", kind), patch.object(net_module, "SubNet", kind):
            yield

    return changing


def shaped(blocks: int, width: int) -> TrainConfig:
    """Return the base with other sizes of the flow."""
    return replace(BASE, net=replace(NET, blocks=blocks, width=width))


Variant = tuple[str, TrainConfig, Callable[[], Any]]
VARIANTS: dict[str, Variant] = {
    "base": ("haar flow, map at a quarter with 4 levels, through the JPEG, rate in the loss, z = 0", BASE, nothing),
    "flow-paper": ("the paper's flow", replace(BASE, net=replace(NET, flow="paper")), nothing),
    "no-codec": (
        "low-res picture only rounded while training, so no JPEG and no bits",
        replace(BASE, rounded=1.0),
        nothing,
    ),
    "no-rate": ("bits left out of the gradient", BASE, rate_left_out),
    "straight-through": ("gradient through the JPEG as if it were not there", BASE, gradient_of(lambda lr, q: lr)),
    "dead-wider": (
        "half of the gradient passes at half a quantiser step, not at 0.18",
        BASE,
        lambda: patch.object(gradient, "HALF", 1 / 4),
    ),
    "diffjpeg": ("gradient through cubic rounding, as DiffJPEG", BASE, gradient_of(cubic)),
    "eight-bits": ("low-res picture rounded to 8 bits before and after the JPEG", BASE, eight_bits),
    "map-full": ("map at the low-res size", replace(BASE, net=replace(NET, map_divisor=1)), nothing),
    "map-half": ("map at half of it", replace(BASE, net=replace(NET, map_divisor=2)), nothing),
    "levels-2": ("map of 2 levels", replace(BASE, net=replace(NET, map_levels=2)), nothing),
    "levels-16": ("map of 16 levels", replace(BASE, net=replace(NET, map_levels=16)), nothing),
    "z-sampled": ("latent drawn while training, zero afterwards", BASE, latent_sampled),
    "no-simulator": ("real pairs only", replace(BASE, splits=("train",), simulated=0.0), nothing),
    "quality-not-given": ("the net does not know the quality", BASE, quality_not_given),
    "shape-wide": ("2 couplings of width 48, equal time", shaped(blocks=2, width=48), nothing),
    "shape-deep": ("8 couplings of width 20, equal time", shaped(blocks=8, width=20), nothing),
    "shape-deeper": ("12 couplings of width 16, equal time", shaped(blocks=12, width=16), nothing),
    "shape-dense": ("IRN's dense sub-net, equal time", BASE, sub_net(Dense)),
    "shape-separable": ("depthwise-separable sub-net of twice the width, equal time", BASE, sub_net(Separable)),
}


class Judge:
    """The dev pictures, and how JPEG codes them."""

    def __init__(self, manifest: Path) -> None:
        """Read every second dev pair, cut it, and move its reference into place."""
        self.pictures: list[tuple[Image, Image]] = []
        for pair in read_manifest(manifest, ("dev",))[::2]:
            if pair.reference is not None:
                target, reference = (middle(pictures.read(path), SIDE) for path in (pair.target, pair.reference))
                self.pictures.append((target, warp.apply(reference, registration.estimate(target, reference))))
        self.anchors = [[point(target, *jpeg(target, q)) for q in JPEG_QUALITIES] for target, _ in self.pictures]

    def __call__(self, net: Model) -> tuple[float, float]:
        """Return the mean BD-rate against JPEG in %, and the mean bits per pixel of the map."""
        percents, maps = [], []
        for (target, reference), anchor in zip(self.pictures, self.anchors, strict=True):
            plan = encoder.prepare(target, reference, net, choose=lambda *_: Warped(None))
            curve: list[Point] = []
            for quality in QUALITIES:
                coded = plan.code(quality)
                curve.append(point(target, coded.picture(), coded.size()))
                maps.append(8 * len(coded.groups[0].file.similarity_map or b"") / (target.height * target.width))
            percents.append(bd_rate(anchor, curve).percent)
        return float(np.nanmean(percents)), float(np.mean(maps))


def seconds_per_step(config: TrainConfig) -> float:
    """Return the processor time of a training step on noise."""
    net = Trained(config).train()
    run = loop.Run(net, config)
    new, old = np.random.default_rng(0).integers(0, 256, (2, config.batch, config.crop, config.crop, 3), dtype=np.uint8)
    batch = new, old, np.zeros(new.shape[:3], bool)
    for step in range(12):
        if step == 2:
            started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = net.loss_of(batch, step)
        run.update(loss)
    return (time.process_time() - started) / 10


def jpeg(target: Image, quality: int) -> tuple[Image, int]:
    """Return a target as JPEG leaves it, and the bytes."""
    payload = jpeg_coder.encode(target.pixels, quality)
    return Image(jpeg_coder.decode(payload)), len(payload)


def main() -> None:
    """Train and judge what is missing; write results and table after each."""
    parser = argparse.ArgumentParser(description="Train and judge small nets that differ in one choice each.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--only", help="names of variants, separated by commas")
    parser.add_argument("--judge", type=Path, nargs="+", help="weights to judge as variants are, and nothing else")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.judge:
        judge = Judge(args.manifest)
        for path in args.judge:
            percent, map_bpp = judge(model.load(path))
            print(f"{path}: {percent:+.2f} %, map {map_bpp:.4f} bpp, {len(judge.pictures)} pictures", flush=True)
        return
    results = {"rows": []} | kept(RESULTS, FIELDS)
    chosen = VARIANTS if args.only is None else {name: VARIANTS[name] for name in args.only.split(",")}
    judge = Judge(args.manifest)
    loaded: dict[tuple[str, ...], data.Crops] = {}

    def crops(pairs: list[Pair], crop: int, simulated: float, unrelated: float, changed: float) -> data.Crops:
        """Load the pictures of a split only once."""
        key = tuple(str(pair.target) for pair in pairs)
        if key not in loaded:
            loaded[key] = data.Crops(pairs, crop, simulated, unrelated, changed)
        same = copy.copy(loaded[key])
        same.simulated = simulated
        return same

    usual = seconds_per_step(BASE)
    for seed in SEEDS:
        for name, (what, config, changing) in chosen.items():
            if any((row["variant"], row["seed"]) == (name, seed) for row in results["rows"]):
                continue
            recipe = replace(config, manifest=args.manifest.name, seed=seed)
            folder = ROOT / "build" / "ablations" / f"{name}-{seed}"
            started = time.perf_counter()
            with changing(), patch.object(loop, "Crops", crops):
                if name.startswith("shape"):
                    recipe = replace(recipe, steps=round(BASE.steps * usual / seconds_per_step(config)))
                file = loop.train(recipe, args.manifest.resolve().parent, folder)
                percent, map_bpp = judge(model.load(file))
            took = round(time.perf_counter() - started)
            row = {"variant": name, "what": what, "seed": seed, "percent": percent, "map_bpp": map_bpp}
            results["rows"].append(row | {"steps": recipe.steps, "seconds": took})
            results |= {"command": "python benchmarks/ablations.py manifest.csv", "pictures": len(judge.pictures)}
            results |= {"machine": platform.machine(), "versions": {"torch": torch.__version__}}
            write(RESULTS, results)
            print(row, flush=True)
            write_table(results)


def write_table(results: dict[str, Any]) -> None:
    """Put the table into docs/TRAINING.md: a row a variant, a column a seed."""
    by_name: dict[str, dict[int, dict[str, Any]]] = {}
    for row in results["rows"]:
        by_name.setdefault(row["variant"], {})[row["seed"]] = row
    base = by_name.get("base", {})
    lines = ["| variant | what | steps | BD-rate, % | against base, points | map, bpp |", "|---|---|---|---|---|---|"]
    for name, of in by_name.items():
        seeds = sorted(of)
        percents = ", ".join(f"{of[seed]['percent']:+.1f}" for seed in seeds)
        away = ", ".join(f"{of[seed]['percent'] - base[seed]['percent']:+.1f}" for seed in seeds if seed in base)
        maps = np.mean([of[seed]["map_bpp"] for seed in seeds])
        steps = of[seeds[0]]["steps"]
        lines.append(f"| {name} | {of[seeds[0]]['what']} | {steps} | {percents} | {away} | {maps:.4f} |")
    replace_table("docs/TRAINING.md", "benchmarks/ablations.py", lines)


if __name__ == "__main__":
    main()
