"""Which net to train in earnest: variants of the nets at equal processor time, two seeds, judged on dev pairs.

    python benchmarks/nets.py ../shared/data/manifest.csv                       # goes on with what is missing
    python benchmarks/nets.py ../shared/data/manifest.csv --hours 2             # stops then, and can be continued
    python benchmarks/nets.py ../shared/data/manifest.csv --only untied,flow --seeds 1
    python benchmarks/nets.py ../shared/data/manifest.csv --minutes 120 --only quarter

Every variant trains from fresh parameters for 40 processor minutes on one thread, on crops of 64 pixels and at last of
96; the schedule follows the share of the minutes that is spent. It is judged as by benchmarks/ablations.py. Variants
that do not ship are built here and in net_variants.py, by replacing parts of the package's nets. The first seed of all
comes before the second.

Writes benchmarks/results/nets.json, and the table in docs/TRAINING.md. Done rows are kept; checkpoints lie under
build/nets, where an interrupted run goes on.
"""

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import net_variants
import torch
from ablations import Judge
from common import RESULTS as FOLDER
from common import ROOT, kept, replace_table, write
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from refscale_codec import model
from refscale_codec.picture.manifest import read_manifest
from refscale_codec.rescale import untied
from refscale_codec.rescale.fgrn import FgrnConfig
from refscale_codec.rescale.interface import Context, Rescaler
from refscale_codec.rescale.net import RescaleConfig
from refscale_codec.rescale.quantised import IntegerConv, fastest_carrier
from refscale_codec.rescale.untied import Untied, UntiedConfig
from refscale_codec.training import data, loop, nets
from refscale_codec.training.nets import Trained
from refscale_codec.training.recipe import TrainConfig, crop_at

RESULTS = FOLDER / "nets.json"
RUNS = ROOT / "build" / "nets"
SEEDS = (1, 2)
FIELDS = (
    "variant",
    "what",
    "seed",
    "percent",
    "minutes",
    "steps",
    "parameters",
    "multiplications_down",
    "multiplications_up",
    "seconds_up",
)  # of a row

BASE = TrainConfig(
    "",
    net=UntiedConfig(),
    decay=0.6,
    learning_rate=1e-3,
    muon=1e-3,
    crop=64,
    late_crop=96,
    late=0.25,
    quality=(10, 98),
    alone=0.1,
    unrelated=0.08,
    rounded=0.04,
)


@contextmanager
def nothing() -> Iterator[None]:
    """Change nothing."""
    yield


@dataclass(frozen=True)
class Variant:
    """A net and how it is trained."""

    what: str
    config: TrainConfig = BASE
    changing: Callable[[], Any] = nothing


def upscaler(fold: int, *, taps: int = 0, full: int = 0) -> Callable[[], Any]:
    """Build untied nets with another upscaler, see `net_variants.Up`."""

    @contextmanager
    def changing() -> Iterator[None]:
        with (
            patch.object(untied, "Up", partial(net_variants.Up, fold=fold, taps=taps, full=full)),
            patch.object(Untied, "reach", property(net_variants.reach)),
        ):
            yield

    return changing


@contextmanager
def guided() -> Iterator[None]:
    """Build untied nets with the flow guidance module between them."""
    with (
        patch.object(nets, "Untied", net_variants.Guided),
        patch.dict(model.RESCALERS, {"untied": net_variants.Guided.stored}),
    ):
        yield


@contextmanager
def soap() -> Iterator[None]:
    """Train hidden kernels with SOAP (Vyas et al., arXiv 2409.11321), as the package pytorch-optimizer has it."""
    import pytorch_optimizer  # type: ignore[import-not-found,unused-ignore]

    def of(kernels: list[nn.Parameter], lr: float) -> Any:
        return pytorch_optimizer.SOAP(kernels, lr=lr, weight_decay=0.0)

    with patch.object(loop, "Muon", of):
        yield


def shaped(width: int, blocks: int) -> TrainConfig:
    """Return the base with other sizes of the upscaler."""
    return replace(BASE, net=UntiedConfig(up_width=width, up_blocks=blocks))


QUARTER = shaped(96, 6)
VARIANTS: dict[str, Variant] = {
    "untied": Variant("3 blocks of 32 down, 8 blocks of 64 up at half of the picture's side, as `rescale/untied.py`"),
    "relu": Variant("`untied`, slope 0 below zero in the rectifier", BASE, net_variants.plain_rectifier),
    "untied-taps": Variant(
        "`untied`, and 3 x 3 weights of the reference's pixels predicted for each 2 x 2",
        BASE,
        upscaler(1, taps=3),
    ),
    "untied-slow": Variant("`untied`, learning rates 5e-4", replace(BASE, learning_rate=5e-4, muon=5e-4), upscaler(1)),
    "untied-no-guidance": Variant("`untied`, guidance weight 0", replace(BASE, guidance=0.0)),
    "untied-down": Variant(
        "`untied`, 4 blocks of 64 down",
        replace(BASE, net=UntiedConfig(down_width=64, down_blocks=4)),
    ),
    "flow": Variant(
        "the flow of the weights that ship: 6 couplings of 48",
        replace(BASE, net=RescaleConfig(blocks=6, map_divisor=4), muon=0.0),
    ),
    "fgrn": Variant("FGRN, no reference", replace(BASE, net=FgrnConfig(), muon=0.0, rounded=0.0)),
    "guided": Variant("`untied` with FGRN's flow guidance module between", BASE, guided),
    "guided-no-guidance": Variant("the same, guidance weight 0", replace(BASE, guidance=0.0), guided),
    "untied-half": Variant("`untied`, 4 blocks", shaped(64, 4)),
    "untied-wide": Variant("`untied`, 3 blocks of 96", shaped(96, 3)),
    "untied-deep": Variant("`untied`, 32 blocks of 32", shaped(32, 32)),
    "untied-full": Variant("`untied`, 16 features of the reference at full size", BASE, upscaler(1, full=16)),
    "untied-quarter": Variant("6 blocks of 96 at a quarter of the picture's side", QUARTER, upscaler(2)),
    "untied-taps-5": Variant("`untied`, 5 x 5 such weights", BASE, upscaler(1, taps=5)),
    "untied-adam": Variant("`untied`, Adam for all", replace(BASE, muon=0.0)),
    "untied-soap": Variant("`untied`, SOAP in place of Muon", BASE, soap),
}
"""In this order they are run, for one seed after the other."""


class Pictures:
    """The training pictures, read once for all variants of a split."""

    def __init__(self, manifest: Path) -> None:
        """Read nothing yet."""
        self.manifest = manifest
        self.read = cache(self._read)

    def _read(self, splits: tuple[str, ...]) -> data.Crops:
        return data.Crops(read_manifest(self.manifest, splits), BASE.late_crop, 0, 0, 0)

    def drawn(self, config: TrainConfig) -> Callable[[int, float], tuple[data.Pixels, data.Pixels, data.Mask]]:
        """Return what draws the batches of a recipe."""

        def draw(step: int, share: float) -> tuple[data.Pixels, data.Pixels, data.Mask]:
            crops = self.read(config.splits).smaller(crop_at(config, share))
            crops.simulated, crops.unrelated, crops.changed = config.simulated, config.unrelated, config.changed
            return crops.marked_batch(config.seed, step, config.batch)

        return draw


@torch.inference_mode()
def cost(rescaler: Rescaler) -> dict[str, float]:
    """Return multiplications in convolutions a pixel, each way, and the processor seconds a megapixel upwards."""
    side, counted = 512, {"down": 0, "up": 0}
    picture = 255 * torch.rand(1, 3, side, side)
    levels = torch.full((1, 1, side // rescaler.cell, side // rescaler.cell), rescaler.map_levels - 1)
    context = Context(75, picture, rescaler.planes(levels, side, side))
    fastest_carrier(rescaler.device)  # finds it by convolutions, which must not count
    way = "down"

    def count(layer: nn.Module, given: Any, result: Any) -> None:
        if isinstance(layer, nn.Conv2d | IntegerConv):
            counted[way] += layer.weight[0].numel() * result.numel()

    hook = register_module_forward_hook(count)
    lr = rescaler.down(picture, context)
    way = "up"
    rescaler.up(lr, context)
    hook.remove()
    taken = []
    for _ in range(3):
        started = time.process_time()
        rescaler.up(lr, context)
        taken.append(time.process_time() - started)
    pixels = side * side
    result: dict[str, float] = {f"multiplications_{way}": count / pixels for way, count in counted.items()}
    return result | {"seconds_up": min(taken) / (pixels / 1e6)}


def trained(config: TrainConfig, folder: Path, pictures: Pictures, minutes: float) -> Path | None:
    """Train a variant, or go on with it, for at most so many minutes by the clock; None if it is not finished then."""
    net = Trained(config)
    file = loop.fit(
        net, config, pictures.drawn(config), net.loss_of, Trained.store, folder, minutes=minutes, report=print
    )
    return file if spent(folder) >= 60 * config.processor_minutes else None


def spent(folder: Path) -> float:
    """Return the processor seconds of a run so far."""
    (*_, seconds) = torch.load(loop.checkpoints(folder)[-1], weights_only=True)["counters"]
    return float(seconds)


def main() -> None:
    """Train and judge what is missing; write results and table after each."""
    parser = argparse.ArgumentParser(description="Train and judge nets at equal processor time.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--only", default=",".join(VARIANTS), help="names of variants, separated by commas")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--minutes", type=float, default=40.0, help="of the processor, for each")
    parser.add_argument("--hours", type=float, default=1e9, help="by the clock, after which nothing more is trained")
    args = parser.parse_args()
    torch.set_num_threads(1)
    until = time.monotonic() + 3600 * args.hours
    results = {"rows": []} | kept(RESULTS, FIELDS)
    pictures = Pictures(args.manifest.resolve())
    judge = cache(Judge)
    for seed in map(int, args.seeds.split(",")):
        for name in args.only.split(","):
            key = name, seed, args.minutes
            if any((row["variant"], row["seed"], row["minutes"]) == key for row in results["rows"]):
                continue
            variant, folder = VARIANTS[name], RUNS / "-".join(map(str, key))
            config = replace(variant.config, manifest=args.manifest.name, seed=seed, processor_minutes=args.minutes)
            with variant.changing():
                file = trained(config, folder, pictures, (until - time.monotonic()) / 60)
                if file is None:
                    return
                net = model.load(file)
                percent, _ = judge(args.manifest)(net)
                row = {"variant": name, "what": variant.what, "seed": seed, "percent": percent}
                row |= {"minutes": args.minutes, "parameters": parameters(config)} | cost(net.rescaler)
            row["steps"] = int(loop.checkpoints(file.parent)[-1].stem.rpartition("-")[2])
            results = {"rows": []} | kept(RESULTS, FIELDS)  # another process may have added rows
            results["rows"].append({name: row[name] for name in FIELDS})
            results |= {"command": "python benchmarks/nets.py manifest.csv", "machine": platform.machine()}
            results |= {"versions": {"torch": torch.__version__}, "pictures": len(judge(args.manifest).pictures)}
            write(RESULTS, results)
            print(row, flush=True)
            write_table(results)


def parameters(config: TrainConfig) -> int:
    """Return how many parameters a recipe trains."""
    return sum(x.numel() for x in Trained(config).parameters())


def write_table(results: dict[str, Any]) -> None:
    """Put the table into docs/TRAINING.md: a row a variant."""
    by_name: dict[tuple[str, float], dict[int, dict[str, Any]]] = {}
    for row in results["rows"]:
        by_name.setdefault((row["variant"], row["minutes"]), {})[row["seed"]] = row
    lines = [
        "| variant | what | minutes | BD-rate, % | steps | parameters | down, products a pixel | up | up, s/MP |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, minutes), of in by_name.items():
        rows = [of[seed] for seed in sorted(of)]
        first, percents = rows[0], ", ".join(f"{row['percent']:+.2f}" for row in rows)
        lines.append(
            f"| {name} | {first['what']} | {minutes:g} | {percents} | {first['steps']:,} | {first['parameters']:,} | "
            f"{first['multiplications_down']:,.0f} | {first['multiplications_up']:,.0f} | {first['seconds_up']:.2f} |"
        )
    replace_table("docs/TRAINING.md", "benchmarks/nets.py", lines)


if __name__ == "__main__":
    main()
