"""Untied nets judged as benchmarks/ablations.py judges the flow, and with maps that the encoder would not choose.

    python benchmarks/untied.py ../shared/data/manifest.csv runs/untied/weights.safetensors

BD-rate against JPEG over 0.1 to 1.0 bits per pixel, whole files, RGB PSNR, on every second dev pair, cut to 256 x 256
pixels in its middle, the reference warped into place and used everywhere; with `--clouds` also, on every fourth of
these, the reference half under clouds, of another place, and left out, with the map on, off where the clouds
lie, and off everywhere. Seconds are of one thread, of a 512 x 512 picture.

Writes benchmarks/results/untied.json and, between markers, the tables in docs/TRAINING.md.
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ablations
import numpy as np
import robustness
import torch
from common import RESULTS as FOLDER
from common import bd_rate, point, replace_table, write
from torch import Tensor, nn

from refscale_codec import lrcodec, model
from refscale_codec.fileformat import container
from refscale_codec.fileformat.container import Container, Header
from refscale_codec.lrcodec.dct import coefficients, entropy
from refscale_codec.picture.image import Image
from refscale_codec.rescale import similarity_map
from refscale_codec.rescale.quantised import IntegerConv
from refscale_codec.rescale.untied import Untied, spread

RESULTS = FOLDER / "untied.json"
Curve = list[tuple[float, float]]  # bits per pixel, PSNR


def tensor(picture: Image) -> Tensor:
    """Return a picture as [1, 3, h, w] in levels."""
    return torch.from_numpy(picture.pixels.copy()).permute(2, 0, 1)[None].float()


@torch.inference_mode()
def curve(net: Untied, target: Image, reference: Image, levels: Tensor) -> Curve:
    """Code a picture at each quality with a map [1, 1, rows, columns]."""
    hr, ref = tensor(target), tensor(reference)
    height, width = target.height // 2, target.width // 2
    s_map, points = spread(levels, net.config.map_divisor, height, width), []
    coded_map = similarity_map.encode(levels[0, 0].numpy().astype(np.uint8), net.config.map_levels)
    for quality in ablations.QUALITIES:
        asked = torch.tensor([quality])
        with torch.autocast("cpu", torch.bfloat16):
            lr = 255 * net.downscale(hr / 255, ref / 255, s_map, asked)
        coded = coefficients.quantise(lr[0].permute(1, 2, 0).numpy(), quality)
        header = Header(target.width, target.height, 2, lrcodec.JPEG, quality, bytes(6), reference.fingerprint())
        file = container.pack(Container(header, entropy.encode(coded, quality), coded_map))
        back = torch.from_numpy(coefficients.dequantise(coded, height, width, quality)).permute(2, 0, 1)[None]
        hr_hat = net.upscale(back, ref, s_map, asked, torch.bfloat16)[0].permute(1, 2, 0)
        decoded = Image(hr_hat.round().clamp(0, 255).to(torch.uint8).numpy())
        points.append(point(target, decoded, len(file)))
    return points


def maps_of(target: Image, levels: int, clouds: np.ndarray | None = None) -> Tensor:
    """Return a map of one level, or of the highest but where clouds [h, w] cover half a cell."""
    rows, columns = target.height // 8, target.width // 8
    full = torch.full((1, 1, rows, columns), levels)
    if clouds is not None:
        covered = clouds.reshape(rows, 8, columns, 8).mean(axis=(1, 3)) > 0.5
        full[0, 0][torch.from_numpy(covered)] = 0
    return full


def clouded(net: Untied, judge: ablations.Judge) -> dict[str, float]:
    """Return BD-rates against the clean reference in %, of references that show something else."""
    robustness.SIDE = 256
    highest, rows = net.config.map_levels - 1, []
    pictures = [pair for pair in judge.pictures[::4] if pair[0].pixels.shape[:2] == (256, 256)]
    for place, (target, reference) in enumerate(pictures):
        cloudy = Image(robustness.clouded(reference.pixels, 0.5))
        clouds = abs(cloudy.pixels.astype(int) - reference.pixels).max(axis=-1) > 8
        other = pictures[(place + 1) % len(pictures)][1]
        on, off = maps_of(target, highest), maps_of(target, 0)
        clean = curve(net, target, reference, on)
        cases = {
            "no reference": curve(net, target, reference, off),
            "half under clouds, map on": curve(net, target, cloudy, on),
            "half under clouds, map off under them": curve(net, target, cloudy, maps_of(target, highest, clouds)),
            "of another place, map on": curve(net, target, other, on),
        }
        rows.append({name: bd_rate(clean, case).percent for name, case in cases.items()})
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} | {"pictures": len(rows)}


@torch.inference_mode()
def silent(net: Untied, judge: ablations.Judge) -> dict[str, str]:
    """Return of each layer behind a rectifier how many channels are 0 in all pictures, at a low and a high quality."""
    heard: dict[str, Tensor] = {}

    def listening(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def listen(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            loud = (given[0] > 0.5).any(dim=-1).any(dim=-1)[0]
            heard[name] = loud | heard.get(name, torch.zeros_like(loud))

        return listen

    layers = [(name, x) for name, x in net.upscaler.named_modules() if isinstance(x, IntegerConv) and x.rectifies]
    hooks = [layer.register_forward_pre_hook(listening(name)) for name, layer in layers]
    for target, reference in judge.pictures[::4]:
        levels = maps_of(target, net.config.map_levels - 1)
        s_map = spread(levels, net.config.map_divisor, target.height // 2, target.width // 2)
        for quality in (40, 91):
            hr, ref, asked = tensor(target), tensor(reference), torch.tensor([quality])
            lr = 255 * net.downscale(hr / 255, ref / 255, s_map, asked)
            net.upscale(lr, ref, s_map, asked, torch.bfloat16)
    for hook in hooks:
        hook.remove()
    return {name: f"{int((~loud).sum())} of {len(loud)}" for name, loud in heard.items()}


def operations(net: Untied) -> dict[str, float]:
    """Return multiplications a pixel of the picture, on board and on the ground."""
    count = {"downscaler": 0, "upscaler": 0}
    for part in count:
        for layer in getattr(net, part).modules():
            weight = getattr(layer, "weight", None)
            if isinstance(layer, nn.Conv2d | IntegerConv) and weight is not None:
                count[part] += weight.numel()
    return {part: kernels / 4 for part, kernels in count.items()}


@torch.inference_mode()
def seconds(net: Untied) -> dict[str, float]:
    """Return the processor seconds a megapixel of each way, after a first one to warm up."""
    hr = torch.rand(1, 3, 512, 512)
    s_map, quality, taken = torch.full((1, 1, 256, 256), 192), torch.tensor([75]), {}

    def down() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            net.downscale(hr, hr, s_map, quality)

    def up(carrier: torch.dtype) -> None:
        net.upscale(255 * hr[..., ::2, ::2], 255 * hr, s_map, quality, carrier)

    ways: dict[str, Callable[[], None]] = {
        "down, bfloat16": down,
        "up, integers in bfloat16": lambda: up(torch.bfloat16),
        "up, integers in float32": lambda: up(torch.float32),
    }
    for name, way in ways.items():
        way()
        started = time.process_time()
        way()
        taken[name] = (time.process_time() - started) / (512 * 512 / 1e6)
    return taken


def main() -> None:
    """Judge each file of weights."""
    parser = argparse.ArgumentParser(description="Judge untied nets.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--clouds", action="store_true", help="also references that show something else")
    args = parser.parse_args()
    torch.set_num_threads(1)
    judge = ablations.Judge(args.manifest)
    results = []
    for path in args.weights:
        net = model.load(path).rescaler
        assert isinstance(net, Untied)
        highest = net.config.map_levels - 1
        each = [
            bd_rate(anchor, curve(net, target, reference, maps_of(target, highest))).percent
            for (target, reference), anchor in zip(judge.pictures, judge.anchors, strict=True)
        ]
        row = {"weights": path.name, "percent": float(np.nanmean(each)), "each": each}
        row |= {"operations": operations(net), "seconds": seconds(net), "bytes": path.stat().st_size}
        row["silent"] = silent(net, judge)
        if args.clouds:
            row["references"] = clouded(net, judge)
        results.append(row)
        print(row, flush=True)
    result: dict[str, Any] = {"command": "python benchmarks/untied.py manifest.csv weights --clouds", "rows": results}
    result |= {"machine": platform.machine(), "versions": {"torch": torch.__version__}}
    write(RESULTS, result)
    write_table(results[-1])


def write_table(row: dict[str, object]) -> None:
    """Put the last weights' figures into docs/TRAINING.md."""
    lines = ["| what | figure |", "|---|---|", f"| BD-rate against JPEG, 26 `dev` pairs | {row['percent']:+.1f} % |"]
    per_pixel, times, references = row["operations"], row["seconds"], row.get("references", {})
    assert isinstance(per_pixel, dict) and isinstance(times, dict) and isinstance(references, dict)
    lines += [f"| multiplications a pixel, {part} | {count:,.0f} |" for part, count in per_pixel.items()]
    lines += [f"| seconds a megapixel, {way} | {taken:.2f} |" for way, taken in times.items()]
    silent = row.get("silent", {})
    assert isinstance(silent, dict)
    lines += [f"| channels that are always 0 before {name} | {count} |" for name, count in silent.items()]
    for name, percent in references.items():
        if name != "pictures":
            lines.append(f"| reference {name} | {percent:+.1f} % against the clean one ({references['pictures']}) |")
    replace_table("docs/TRAINING.md", "benchmarks/untied.py", lines)


if __name__ == "__main__":
    main()
