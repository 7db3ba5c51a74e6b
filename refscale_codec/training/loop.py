"""The training loop: `refscale train config.toml -o run/`.

One step: crops -> downscale -> the JPEG's quantiser at a random quality -> upscale -> loss. The gradient passes the
quantiser as far as coefficients survive (a plain straight-through one makes the net hide detail that dies there).
With `[gmm]` in the recipe the learned low-res codec takes the JPEG's place, and learns in the same step.

It stops after `steps` or `--minutes` and continues from `run/checkpoint-STEP.pt` and `optimizer-STEP.pt`, here or on
another machine, CPU or CUDA. Batches and noise are functions of (seed, step), so a resumed run equals an uninterrupted
one. `run/weights.safetensors` holds the moving average of the parameters, ready for `encode --weights`;
`run/log.jsonl` a line every 50 steps.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from refscale_codec import model
from refscale_codec.errors import UsageError, reason
from refscale_codec.lrcodec.dct import coefficients
from refscale_codec.lrcodec.gmm.codec import Coded, Gmm, GmmConfig
from refscale_codec.lrcodec.gmm.latents import STRIDE
from refscale_codec.rescale import similarity_map
from refscale_codec.rescale.net import RescaleConfig, RescaleNet
from refscale_codec.training import losses
from refscale_codec.training.data import Crops, read_manifest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GREY = 128 / 255  # what a JPEG codes as 0
HEADER_BPP = 0.009  # bits per high-res pixel of the container and of vectors on a 256x256 picture; not trainable


@dataclass(frozen=True)
class TrainConfig:
    """A recipe; every field but `manifest` has a default.

    `[net]` in the TOML file is a `RescaleConfig`, `[gmm]` a `GmmConfig`; without it the low-res codec is JPEG.
    """

    manifest: str  # CSV of pairs, relative to the config file
    splits: tuple[str, ...] = ("train", "single")
    net: RescaleConfig = RescaleConfig()
    gmm: GmmConfig | None = None
    gmm_first: int = 0  # steps at the beginning in which only the learned low-res codec learns
    start_from: str = (
        ""  # weights to start from, relative to the config file; parameters of equal name and shape are taken
    )
    seed: int = 1
    steps: int = 6000  # length of the schedule: linear warm-up, constant, then linear decay to zero
    warmup: int = 100  # steps
    decay: float = 0.4  # share of the steps, at the end
    learning_rate: float = 6e-4  # of Adam
    batch: int = 8
    crop: int = 128  # side in pixels
    clip: float = 1.0  # bound on the gradient's norm
    average: float = 0.999  # decay of the moving average of parameters
    simulated: float = 0.12  # share of real pairs given a simulated reference
    unrelated: float = 0.12  # share of samples given an unrelated reference
    changed: float = 0.2  # share of the other samples whose reference shows an unrelated place in some rectangles
    alone: float = 0.12  # share of samples coded without a reference
    rounded: float = 0.06  # share of samples whose low-res picture is only rounded to 8 bits
    quality: tuple[int, int] = (5, 98)  # range of the JPEG's quality, drawn evenly
    slope: float = 1.45  # about the weight of ln(squared error) beside ln(bits): how steep refscale's own curves are
    guidance: float = 1.0  # weight of Eq. 5

    def __post_init__(self) -> None:
        """Reject values of the wrong type and those that no run can have."""
        for field in fields(self):
            value, default = getattr(self, field.name), field.default
            if field.name == "gmm":
                continue  # checks itself
            kind = str if field.name == "manifest" else type(default)
            allowed = (int, float) if kind is float else kind
            if not isinstance(value, allowed) or isinstance(value, bool):
                raise ValueError(f"{field.name} must be of the kind of {default!r}, not {value!r}")
        if len(self.quality) != 2 or not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise ValueError(f"quality must be two rising numbers of 1..100, not {self.quality}")
        unit = STRIDE * self.net.scale
        if self.crop < 1 or self.crop % unit:
            raise ValueError(f"crop must be a multiple of {STRIDE} low-res pixels, {unit}, not {self.crop}")
        if self.gmm is None and self.gmm_first:
            raise ValueError("gmm_first would have no effect without [gmm]")
        if min(self.batch, self.warmup, self.steps) < 1:
            raise ValueError("batch, warmup and steps must be at least 1")

    @classmethod
    def read(cls, path: Path) -> "TrainConfig":
        """Read a TOML file.

        Raises:
            UsageError: the file is missing or no TOML, or names a field that does not exist.
        """
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"cannot read the training config {path}: {reason(error)}") from None
        try:
            nets: dict[str, Any] = {}
            for name, kind in (("net", RescaleConfig), ("gmm", GmmConfig)):
                if name in table:
                    given = table.pop(name)
                    if not isinstance(given, dict):
                        raise ValueError(f"{name} must be a table, not {given!r}")
                    nets[name] = kind(**_known(given, kind, path))
            values: dict[str, Any] = _known(table, cls, path)
            values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
            return cls(**nets, **values)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{path}: {error}") from None


def _known(table: dict[str, Any], kind: type, path: Path) -> dict[str, Any]:
    unknown = table.keys() - {field.name for field in fields(kind)}
    if unknown:
        raise UsageError(f"{path}: unknown field {', '.join(sorted(unknown))} in a {kind.__name__}")
    return table


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    rise = min(1.0, (step + 1) / config.warmup)
    fall = min(1.0, (config.steps - step) / max(1.0, config.decay * config.steps))
    return config.learning_rate * rise * max(fall, 0.0)


def through_jpeg(lr: Tensor, quality: Tensor) -> Tensor:
    """Quantise low-res pictures as the codec does.

    Args:
        lr: [b, 3, h, w], about [0, 1]; sides multiples of 8.
        quality: [b], 1..100 for the JPEG's quantiser at that quality, above 100 for rounding to 8 bits only.

    Returns:
        What the coefficients restore, neither rounded nor clipped, with the gradient of `losses.surviving`; above 100
        the rounded picture, clipped, with that of the identity.
    """
    exact, asked = lr.detach(), quality.clamp(max=100)
    steps = losses.jpeg_steps(exact - GREY, asked).round().clamp(-coefficients.LARGEST, coefficients.LARGEST)
    coded = (quality <= 100)[:, None, None, None]
    lr_hat = torch.where(coded, losses.of_jpeg_steps(steps, asked) + GREY, (exact.clamp(0, 1) * 255).round() / 255)
    near = torch.where(coded, losses.surviving(lr, asked), lr)
    return near + (lr_hat - near).detach()


def through_gmm(gmm: Gmm, lr: Tensor, reference: Tensor, quality: Tensor) -> Coded:
    """Code low-res pictures with the learned codec; above a quality of 100 only round them, as `through_jpeg` does.

    Args:
        gmm: the codec.
        lr: [b, 3, h, w], about [0, 1]; sides multiples of `STRIDE`.
        reference: as `Gmm.forward` takes it.
        quality: [b].
    """
    coded = gmm(lr, reference, quality.clamp(max=100) / 100)
    used = quality <= 100
    rounded = lr + ((lr.detach().clamp(0, 1) * 255).round() / 255 - lr.detach())
    return Coded(torch.where(used[:, None, None, None], coded.lr_hat, rounded), coded.bits * used)


def low_res_reference(reference: Tensor, scale: int) -> Tensor:
    """Return references [b, 3, h, w] in [0, 1] as the low-res codec sees them: rounded means, in [-1, 1)."""
    return ((functional.avg_pool2d(255 * reference, scale) + 0.5).floor() - 128) / 128


def coded_map_bits(exact: Tensor, config: TrainConfig) -> Tensor:
    """Return the bits [b] that the real coder spends on maps [b, 1, h, w], given before rounding."""
    levels = exact.detach().round().to(torch.uint8)[:, 0].cpu().numpy()
    bits = [8.0 * len(similarity_map.encode(x, config.net.map_levels) or b"") for x in levels]
    return torch.tensor(bits, device=exact.device)


def loss_of(
    net: RescaleNet, config: TrainConfig, batch: tuple[np.ndarray, np.ndarray], step: int, device: torch.device
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run one batch down, through JPEG and up; return the mean loss and per-crop figures [b] for the log."""
    rng = np.random.default_rng([config.seed, step])
    hr, ref = (torch.from_numpy(x).to(device).permute(0, 3, 1, 2).float() / 255 for x in batch)  # [b, 3, h, w]
    size = len(hr)
    quality = torch.from_numpy(rng.integers(config.quality[0], config.quality[1] + 1, size)).float().to(device)
    rounded = torch.from_numpy(rng.random(size) < config.rounded).to(device)
    quality = torch.where(rounded, 101, quality)
    told = torch.where(rounded, 1.0, quality / 100)
    referenced = torch.from_numpy(rng.random(size) >= config.alone).float().to(device)[:, None, None, None]

    features = net.refnet.features(ref)
    similarity = net.refnet.similarity(net.refnet.features(hr), features) * referenced
    levels = net.refnet.quantise(similarity) * referenced
    maps = net.refnet.spread(levels, *hr.shape[-2:])
    condition = net.refnet.condition(features, maps, told, *hr.shape[-2:])
    lr = net.descend(hr, condition)[0]
    lr = lr.float()
    if isinstance(net.low_res, Gmm):
        lr_hat, lr_bits = through_gmm(net.low_res, lr, low_res_reference(ref, net.config.scale) * referenced, quality)
    else:
        with torch.autocast(device.type, enabled=False):  # the quantiser as the codec has it
            lr_hat = through_jpeg(lr, quality)
            lr_bits = losses.packed_bits(lr, quality.clamp(max=100)) * (quality <= 100)
    hr_hat = net.rebuild(lr_hat, condition)

    pixels = hr.shape[-2] * hr.shape[-1]
    error = (hr_hat.float() - hr).square().mean(dim=(1, 2, 3))
    rate_lr = lr_bits / pixels
    exact = similarity * (config.net.map_levels - 1)
    rate_map = losses.with_gradient_of(coded_map_bits(exact, config), losses.map_bits(levels, exact)) / pixels
    rate = rate_lr + rate_map + HEADER_BPP
    bounded = error + 4e-6  # rounding limits it anyway
    weight = losses.error_weight(bounded, rate, quality.clamp(max=100), config.slope)
    guide = losses.guidance(lr, hr, similarity)
    beside = torch.log(rate) + config.guidance * guide
    loss = beside + weight * torch.log(bounded)
    figures = {
        "loss": beside + config.slope * torch.log(bounded),  # with one weight for all, so that crops compare
        "psnr": -10 * torch.log10(error),
        "bpp_lr": rate_lr,
        "bpp_map": rate_map,
        "similarity": similarity.mean(dim=(1, 2, 3)),
        "guidance": guide,
    }
    return loss.mean(), {name: value.detach() for name, value in figures.items()}


class _Run:
    """Everything that a checkpoint holds."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.net = self._fresh().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.net.low_res is not None:  # torch 2.13 crashes in its strided 1x1 convolutions with channels last
            self.net.low_res.to(memory_format=torch.contiguous_format)
        self.average = {name: value.detach().clone() for name, value in self.net.state_dict().items()}
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
        self.step, self.skipped, self.seconds = 0, 0, 0.0

    def _fresh(self) -> RescaleNet:
        net = RescaleNet(self.config.net)
        net.low_res = None if self.config.gmm is None else Gmm(self.config.gmm)
        return net

    def start_from(self, path: Path) -> None:
        """Take over the parameters of equal name and shape from other weights."""
        given, own = model.load(path).state_dict(), self.net.state_dict()
        own.update({name: value for name, value in given.items() if name in own and own[name].shape == value.shape})
        self.net.load_state_dict(own)
        self.average = {name: value.detach().clone() for name, value in self.net.state_dict().items()}

    def save(self, folder: Path) -> None:
        """Write the checkpoint and the averaged weights, each renamed into place when complete."""
        counters = (self.step, self.skipped, self.seconds)
        nets = {"net": self.net.state_dict(), "average": self.average, "counters": counters}
        for name, state in (("optimizer", self.optimizer.state_dict()), ("checkpoint", nets)):
            file = f"{name}-{self.step}.pt"
            torch.save(state, folder / f"{file}.part")
            (folder / f"{file}.part").replace(folder / file)
        for path in [*folder.glob("checkpoint-*.pt"), *folder.glob("optimizer-*.pt")]:
            if _step_of(path) != self.step:
                path.unlink()
        averaged = self._fresh()
        averaged.load_state_dict(self.average)
        model.store(averaged, folder / "weights.safetensors")

    def load(self, path: Path, device: torch.device) -> None:
        """Continue from a checkpoint, with the optimizer's state in a file of its own beside it."""
        state = torch.load(path, map_location=device, weights_only=True)
        optimizer = path.with_name(path.name.replace("checkpoint", "optimizer"))
        self.net.load_state_dict(state["net"])
        self.average = state["average"]
        self.optimizer.load_state_dict(torch.load(optimizer, map_location=device, weights_only=True))
        self.step, self.skipped, self.seconds = state["counters"]

    def update(self, loss: Tensor, config: TrainConfig) -> None:
        """Take one optimiser step, unless loss or gradient is not finite: then count it as skipped."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.step < config.gmm_first:
            for name, parameter in self.net.named_parameters():
                if not name.startswith("low_res."):
                    parameter.grad = None
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), config.clip)
        if bool(torch.isfinite(loss)) and bool(torch.isfinite(norm)):
            self.optimizer.step()
            keep = min(config.average, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for name, value in self.net.state_dict().items():
                    if value.is_floating_point():
                        self.average[name].lerp_(value.to(self.average[name].dtype), 1 - keep)
        else:
            self.skipped += 1
        self.step += 1


def train(
    config: TrainConfig,
    config_folder: Path,
    folder: Path,
    *,
    minutes: float = math.inf,
    device: str = "cpu",
    report: Callable[[dict[str, float]], None] = lambda line: None,
) -> Path:
    """Train, or continue in `folder`, until the schedule or the time is over.

    Args:
        config: the recipe; it must equal the one that `folder` was begun with, but for `steps`.
        config_folder: where the config's relative paths start.
        folder: gets checkpoint-STEP.pt, optimizer-STEP.pt, weights.safetensors, log.jsonl, config.json.
        minutes: wall-clock limit of this call.
        device: a torch device.
        report: called with every line of the log.

    Returns:
        The path of the weights.

    Raises:
        UsageError: `folder` belongs to another recipe.
    """
    started = saved = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    recipe = asdict(config)
    before = folder / "config.json"
    if before.exists() and _without_steps(json.loads(before.read_text())) != _without_steps(
        json.loads(json.dumps(recipe))
    ):
        raise UsageError(f"{folder} was begun with another recipe ({before}); choose another folder")
    run = _Run(config, torch.device(device))
    checkpoints = sorted(folder.glob("checkpoint-*.pt"), key=_step_of)
    if checkpoints:
        run.load(checkpoints[-1], torch.device(device))
    elif config.start_from:
        run.start_from(config_folder / config.start_from)
    pairs = read_manifest(config_folder / config.manifest, config.splits)
    crops = Crops(pairs, config.crop, config.simulated, config.unrelated, config.changed)
    before.write_text(json.dumps(recipe, indent=1))
    recent: dict[str, list[Tensor]] = {}
    run.net.train()
    with ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(crops.batch, config.seed, run.step, config.batch)
        while run.step < config.steps and time.monotonic() - started < 60 * minutes:
            batch, upcoming = upcoming.result(), ahead.submit(crops.batch, config.seed, run.step + 1, config.batch)
            begun = time.monotonic()
            torch.manual_seed(config.seed * 1_000_003 + run.step)
            with torch.autocast(device_type=torch.device(device).type, dtype=torch.bfloat16):
                loss, figures = loss_of(run.net, config, batch, run.step, torch.device(device))
            run.update(loss, config)
            run.seconds += time.monotonic() - begun
            for name, value in figures.items():
                recent.setdefault(name, []).append(value)
            if run.step % 50 == 0:
                line = {name: round(float(torch.cat(values).mean()), 4) for name, values in recent.items()}
                line |= {"step": run.step, "skipped": run.skipped, "seconds": round(run.seconds)}
                recent = {}
                with (folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps(line) + "\n")
                report(line)
            if time.monotonic() - saved > 120:
                run.save(folder)
                saved = time.monotonic()
    run.save(folder)
    return folder / "weights.safetensors"


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.rpartition("-")[2])


def _without_steps(recipe: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in recipe.items() if name != "steps"}
