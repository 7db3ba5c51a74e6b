"""What a training step spends its time on, and how near it comes to what the machine can do.

    python benchmarks/train_step.py ../shared/data/manifest.csv [--device cuda] [--threads 1]

The standing x2 recipe (`weights/recipe-x2.toml`) on real crops. The ceiling is that of a large matrix product in the
same arithmetic; a step's operations are those that PyTorch counts for convolutions and products, forward and backward.
Parts of a step: `data` draws the batch (in training a thread does that beside the step), `forward` and `backward` are
the net and the loss, `jpeg` and `map` are the quantiser and the real coder inside the forward pass, `update` is the
optimiser and the moving average.

Writes benchmarks/results/train_step-DEVICE.json, and prints the table of docs/TRAINING.md.
"""

import argparse
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from common import RESULTS, ROOT, write
from torch.utils.flop_counter import FlopCounterMode

from refscale_codec.picture.manifest import read_manifest
from refscale_codec.training import data, flow, loop, losses
from refscale_codec.training.nets import Trained
from refscale_codec.training.recipe import TrainConfig

VARIANTS = {  # bf16, channels last, compiled
    "float32": (False, False, False),
    "bf16": (True, False, False),
    "bf16, channels last (as trained)": (True, True, False),
    "the same, compiled": (True, True, True),
}
STEPS = 12


def ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Return the measured GFLOP/s of a matrix product."""
    side = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(6):
        started = now(device)
        a @ b
        best = max(best, 2 * side**3 / (now(device) - started) / 1e9)
    return best


def now(device: torch.device) -> float:
    """Return the time when the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def timed(seconds: dict[str, list[float]], device: torch.device) -> Iterator[None]:
    """Take the times of quantiser, map coder and backward pass inside a step."""

    def watched(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            started = now(device)
            result = work(*args)
            seconds[name].append(now(device) - started)
            return result

        return call

    with (
        patch.object(losses, "through_jpeg", watched("jpeg", losses.through_jpeg)),
        patch.object(flow, "coded_map_bits", watched("map", flow.coded_map_bits)),
        patch.object(torch.Tensor, "backward", watched("backward", torch.Tensor.backward)),
    ):
        yield


def measure(config: TrainConfig, crops: data.Crops, device: torch.device, variant: str) -> dict[str, Any]:
    """Return medians of the seconds of each part, operations and steps per second."""
    bf16, channels_last, compiled = VARIANTS[variant]
    net = Trained(config).to(device)
    if not channels_last:
        net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if compiled:
        for name in ("forward", "upscale"):
            setattr(net.rescaler, name, torch.compile(getattr(net.rescaler, name)))
    run = loop.Run(net.train(), config)
    seconds: dict[str, list[float]] = defaultdict(list)
    for step in range(-3, STEPS):
        if step == 0:
            seconds.clear()
        started = now(device)
        batch = crops.marked_batch(1, step + 3, config.batch)
        drawn = now(device)
        with timed(seconds, device):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss, _ = net.loss_of(batch, step + 3)
            forward = now(device)
            run.update(loss)
        ended = now(device)
        seconds["data"].append(drawn - started)
        seconds["forward"].append(forward - drawn)
        seconds["update"].append(ended - forward - seconds["backward"][-1])
        seconds["step"].append(ended - drawn)
    return {name: median(values) for name, values in seconds.items()}


def operations(config: TrainConfig, crops: data.Crops, device: torch.device) -> int:
    """Return the floating-point operations of a step."""
    net = Trained(config).to(device).train()
    with FlopCounterMode(display=False) as counter:
        loss, _ = net.loss_of(crops.marked_batch(1, 0, config.batch), 0)
        loss.backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


def main() -> None:
    """Measure, write, and print."""
    parser = argparse.ArgumentParser(description="Measure a training step.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    config = replace(TrainConfig.read(ROOT / "weights" / "recipe-x2.toml"), manifest=str(args.manifest))
    pairs = read_manifest(args.manifest, ("train",))[::8]
    crops = data.Crops(pairs, config.crop, config.simulated, config.unrelated, config.changed)
    limits = {"float32": ceiling(device, torch.float32), "bf16": ceiling(device, torch.bfloat16)}
    flops = operations(config, crops, device)
    rows: list[dict[str, Any]] = []
    for variant in VARIANTS:
        try:
            seconds = measure(config, crops, device, variant)
        except Exception as error:  # a machine without a compiler cannot take the last one
            rows.append({"variant": variant, "failed": str(error).splitlines()[0]})
            continue
        rate = flops / seconds["step"] / 1e9
        limit = limits["bf16" if variant != "float32" else "float32"]
        rows.append({"variant": variant, "seconds": seconds, "gflops": rate, "of_ceiling": rate / limit})
    result = {
        "command": f"python benchmarks/train_step.py manifest.csv --device {args.device} --threads {args.threads}",
        "machine": {"processor": platform.machine(), "threads": args.threads, "device": args.device},
        "versions": {"torch": torch.__version__},
        "ceiling_gflops": limits,
        "gflop_per_step": flops / 1e9,
        "rows": rows,
    }
    write(RESULTS / f"train_step-{args.device}.json", result)
    print(f"{flops / 1e9:.0f} GFLOP a step; ceiling {limits['float32']:.0f} float32, {limits['bf16']:.0f} bf16 GFLOP/s")
    parts = ("data", "forward", "jpeg", "map", "backward", "update")
    print(f"| | steps/s | GFLOP/s | of the ceiling | {' | '.join(f'{part}, ms' for part in parts)} |")
    print("|---" * (len(parts) + 4) + "|")
    for row in rows:
        if "failed" in row:
            print(f"| {row['variant']} | {row['failed']} |")
        else:
            times = " | ".join(f"{1000 * row['seconds'][part]:.0f}" for part in parts)
            share = f"{row['gflops']:.0f} | {row['of_ceiling']:.0%}"
            print(f"| {row['variant']} | {1 / row['seconds']['step']:.2f} | {share} | {times} |")


if __name__ == "__main__":
    main()
