"""The learned codec without the rescaler, on pictures at their full size: rate and distortion, size, operations, time.

    python benchmarks/full_size.py ../shared/data/manifest.csv weights/refscale-x2-gmm.safetensors --steps 5000

What the paper's supplement compares in its Table 2. The codec at full size is the one in the weights, same
architecture, trained on from there on full-size crops, transform and all, to fewer bits at equal error (`--steps`;
stopped, it goes on where it was; kept in build/, not shipped). It is given the warped reference as the low-res one is,
in its entropy model, and also none. Judged as `ablations.py` judges: 26 dev pairs cut to 256 x 256 pixels, BD-rate
against JPEG over 0.1 to 1.0 bits per pixel, RGB PSNR, whole files. Operations are multiplications and additions of the
nets, both ways; seconds are the processor's on one thread without the search for the reference's place, both for a
megapixel of the picture.

Writes benchmarks/results/full-size.json, and the table in docs/TRAINING.md.
"""

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablations import JPEG_QUALITIES, Judge
from ablations import QUALITIES as HALF_SIZE  # after the rescaler
from common import RESULTS, ROOT, bd_rate, point, replace_table, write
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from refscale_codec import lrcodec as low_res_codecs
from refscale_codec import model
from refscale_codec.codec import decoder, encoder
from refscale_codec.fileformat import container
from refscale_codec.lrcodec.gmm.codec import GmmCodec
from refscale_codec.lrcodec.gmm.net import Gmm
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.manifest import read_manifest
from refscale_codec.reference.source import Unused, Warped
from refscale_codec.rescale.net import RescaleNet
from refscale_codec.rescale.tiled import LowRes
from refscale_codec.training import data, loop, low_res
from refscale_codec.training import step as steps
from refscale_codec.training.losses import HEADER_BPP
from refscale_codec.training.recipe import TrainConfig

RUN = ROOT / "build" / "full-size"
QUALITIES = (3, 10, 25, 50, 75, 90)  # at full size
TIMED = 75, 82  # one quality each, of like bits
RECIPE = TrainConfig(
    "",
    seed=3,
    warmup=50,
    decay=0.5,
    learning_rate=4e-4,
    batch=8,
    crop=64,
    average=0.998,
    unrelated=0.08,
    alone=0.3,
    rounded=0.0,
    quality=(1, 80),
    slope=1.2,  # about how steep such a codec's curves are
)

Coder = Callable[[Image, Image | None, int], tuple[Image, int]]


def learn(given: Model, manifest: Path, steps: int) -> GmmCodec:
    """Train the codec of some weights on full-size crops, or go on with it; return it with its integers."""
    assert isinstance(given.low_res, GmmCodec) and isinstance(given.rescaler, RescaleNet)
    recipe, rescaler = replace(RECIPE, manifest=str(manifest), steps=steps), given.rescaler
    gmm = Gmm(given.low_res.net.config)
    gmm.load_state_dict(given.low_res.net.state_dict())

    @cache
    def crops() -> data.Crops:
        pairs = read_manifest(manifest, recipe.splits)
        return data.Crops(pairs, recipe.crop, recipe.simulated, recipe.unrelated, recipe.changed)

    def draw(step: int, share: float) -> tuple[data.Pixels, data.Pixels]:
        return crops().batch(recipe.seed, step, recipe.batch)

    def store(net: Gmm, path: Path) -> None:
        model.store(rescaler, path, net)

    file = loop.fit(gmm, recipe, draw, partial(loss_of, gmm, recipe), store, RUN, report=print)
    trained = model.load(file).low_res
    assert isinstance(trained, GmmCodec)
    return trained


def loss_of(
    gmm: Gmm, recipe: TrainConfig, batch: tuple[data.Pixels, data.Pixels], step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return ln(bits) and, with its weight, ln(squared error); and figures of each crop."""
    rng, device = steps.random_of(recipe, step), torch.device("cpu")
    hr, ref = (steps.tensor(x, device) / 255 for x in batch)
    quality, _ = steps.qualities(recipe, rng, len(hr), device)
    used = torch.from_numpy(rng.random((len(hr), 1, 1, 1)) >= recipe.alone)
    coded = gmm(hr, low_res.normalised_reference(ref, 1) * used, quality / 100)
    rate = coded.bits / recipe.crop**2 + HEADER_BPP
    error = (coded.lr_hat.float() - hr).square().mean(dim=(1, 2, 3))
    loss, comparable = steps.rate_and_error(rate, error, quality, recipe.slope)
    figures = {"loss": comparable, "psnr": -10 * torch.log10(error), "bpp": rate}
    return loss.mean(), {name: value.detach() for name, value in figures.items()}


def at_full_size(codec: GmmCodec) -> Coder:
    """Return a coder by the codec alone; bytes are those of a file with its header and one section."""

    def code(target: Image, reference: Image | None, quality: int) -> tuple[Image, int]:
        older = None if reference is None else reference.pixels
        payload, _ = codec.code(target.pixels.astype(np.float32), older, quality)
        decoded = codec.decode(payload, (target.height, target.width), older, quality)
        fingerprint = None if older is None else bytes(6)
        header = container.Header(target.width, target.height, 2, low_res_codecs.GMM, quality, bytes(6), fingerprint)
        return Image(LowRes(decoded, None).picture), len(container.pack(container.Container(header, payload)))

    return code


def rescaled(given: Model) -> Coder:
    """Return a coder by rescaler and codec; the reference is in place already."""

    def code(target: Image, reference: Image | None, quality: int) -> tuple[Image, int]:
        source = Unused() if reference is None else Warped(None)
        file = encoder.prepare(target, reference, given, choose=lambda *_: source).code(quality).file()
        return decoder.decode(file, reference, given), len(file)

    return code


def measured(code: Coder, qualities: tuple[int, ...], timed: int, judge: Judge, with_reference: bool) -> dict[str, Any]:
    """Return the mean BD-rate against JPEG, the curves, and seconds and operations a megapixel."""
    percents, curves, seconds, pixels = [], [], 0.0, 0
    for (target, reference), anchor in zip(judge.pictures, judge.anchors, strict=True):
        curve = []
        for quality in qualities:
            started = time.process_time()
            decoded, size = code(target, reference if with_reference else None, quality)
            if quality == timed:
                seconds += time.process_time() - started
                pixels += target.height * target.width
            curve.append(point(target, decoded, size))
        percents.append(bd_rate(anchor, curve).percent)
        curves.append(curve)
    return {
        "percent": float(np.nanmean(percents)),
        "curves": curves,
        "seconds_per_megapixel": seconds / pixels * 1e6,
    }


def operations(net: RescaleNet, gmm: Gmm, side: int = 256) -> tuple[float, float]:
    """Return 10^9 multiplications and additions a megapixel of rescaler and codec, both ways; entropy nets once."""
    hr = torch.rand(1, 3, side, side)
    quality = torch.tensor([0.5])
    lr = torch.rand(1, 3, side // net.config.scale, side // net.config.scale)
    with torch.no_grad():
        with FlopCounterMode(display=False) as rescaler:
            own, known = net.refnet.features(hr), net.refnet.features(hr)
            levels = net.refnet.quantise(net.refnet.similarity(own, known))
            condition = net.refnet.condition(known, net.refnet.spread(levels, side, side), quality, side, side)
            net.upscale(net(hr, condition)[0], condition)
        with FlopCounterMode(display=False) as coder:
            gmm(lr, torch.zeros_like(lr), quality)
    per = 1e-9 * 1e6 / side**2
    return rescaler.get_total_flops() * per, coder.get_total_flops() * per


def main() -> None:
    """Train, measure, write results and table."""
    parser = argparse.ArgumentParser(description="Compare the learned codec with and without the rescaler.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("weights", type=Path, help="with the learned codec")
    parser.add_argument("--steps", type=int, default=5000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    full = learn(model.load(args.weights), args.manifest, args.steps)
    given = model.load(args.weights)
    assert isinstance(given.low_res, GmmCodec) and isinstance(given.rescaler, RescaleNet)
    judge = Judge(args.manifest)
    parameters = sum(x.numel() for x in given.low_res.net.parameters())
    every = parameters + sum(x.numel() for x in given.rescaler.parameters())
    of_rescaler, of_codec = operations(given.rescaler, given.low_res.net)
    alone = at_full_size(full), QUALITIES, TIMED[0], parameters, of_codec * given.scale**2
    both = rescaled(given), HALF_SIZE, TIMED[1], every, of_rescaler + of_codec
    rows: list[dict[str, Any]] = []
    for name, (code, qualities, timed, size, work) in (("codec at full size", alone), ("rescaler x2 and codec", both)):
        for reference in (False, True):
            row: dict[str, Any] = {"coder": name, "reference": reference, "parameters": size}
            row["operations_per_megapixel"] = work
            rows.append(row | measured(code, qualities, timed, judge, reference))
            print(name, reference, f"{rows[-1]['percent']:+.2f} %", flush=True)
    result = {
        "command": f"python benchmarks/full_size.py manifest.csv {args.weights.name} --steps {args.steps}",
        "weights": given.fingerprint.hex(),
        "machine": platform.machine(),
        "versions": {"torch": torch.__version__},
        "pictures": len(judge.pictures),
        "jpeg_qualities": JPEG_QUALITIES,
        "rows": rows,
    }
    write(RESULTS / "full-size.json", result)
    lines = ["| coder | reference | BD-rate | parameters | 10⁹ operations | seconds |", "|---" * 6 + "|"]
    for row in rows:
        figures = f"{row['percent']:+.1f} % | {row['parameters'] / 1e6:.1f} M | {row['operations_per_megapixel']:,.0f}"
        used = "yes" if row["reference"] else "no"
        lines.append(f"| {row['coder']} | {used} | {figures} | {row['seconds_per_megapixel']:.1f} |")
    replace_table("docs/TRAINING.md", "benchmarks/full_size.py", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
