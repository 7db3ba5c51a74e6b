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
import logging
import math
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from refscale_codec import model
from refscale_codec.errors import UsageError, WeightsError
from refscale_codec.lrcodec.gmm.codec import GmmCodec
from refscale_codec.lrcodec.gmm.net import Coded, Gmm
from refscale_codec.rescale import similarity_map
from refscale_codec.rescale.net import RescaleNet
from refscale_codec.rescale.quantised import floats
from refscale_codec.rescale.untied import Untied
from refscale_codec.training import losses, untied
from refscale_codec.training.data import Crops, Mask, Pixels, read_manifest
from refscale_codec.training.losses import HEADER_BPP, through_jpeg
from refscale_codec.training.muon import Muon
from refscale_codec.training.recipe import TrainConfig, crop_at, learning_rate

_log = logging.getLogger(__name__)
_NAMED = 4  # tensors that a message names


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


class Trained(nn.Module):
    """What is trained together: a rescaler, and the learned low-res codec if the recipe has one."""

    def __init__(self, config: TrainConfig) -> None:
        """Build with fresh parameters."""
        super().__init__()
        self.rescaler: RescaleNet | Untied = RescaleNet(config.net) if config.untied is None else Untied(config.untied)
        self.low_res = None if config.gmm is None else Gmm(config.gmm)


def loss_of(
    net: Trained, config: TrainConfig, batch: tuple[Any, ...], step: int, device: torch.device
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a `Crops.marked_batch` down, through the low-res codec and up; the flow does without the marks.

    Returns:
        The mean loss and, for the log, figures of each crop [b].
    """
    if isinstance(net.rescaler, Untied):
        return untied.loss_of(net.rescaler, config, batch, step, device)
    return _loss_of_flow(net.rescaler, net.low_res, config, batch, step, device)


def _loss_of_flow(
    net: RescaleNet, gmm: Gmm | None, config: TrainConfig, batch: tuple[Any, ...], step: int, device: torch.device
) -> tuple[Tensor, dict[str, Tensor]]:
    rng = np.random.default_rng([config.seed, step])
    hr, ref = (torch.from_numpy(x).to(device).permute(0, 3, 1, 2).float() / 255 for x in batch[:2])  # [b, 3, h, w]
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
    lr = net(hr, condition)[0].float()
    if gmm is not None:
        lr_hat, lr_bits = through_gmm(gmm, lr, low_res_reference(ref, net.config.scale) * referenced, quality)
    else:
        with torch.autocast(device.type, enabled=False):  # the quantiser as the codec has it
            lr_hat = through_jpeg(lr, quality)
            lr_bits = losses.packed_bits(lr, quality.clamp(max=100)) * (quality <= 100)
    hr_hat = net.upscale(lr_hat, condition)

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
        "bpp": rate,
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
        self.net = Trained(config).to(device)
        # not the low-res codec: torch 2.13 crashes in its strided 1x1 convolutions with channels last
        self.net.rescaler.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = {name: value.detach().clone() for name, value in self.net.state_dict().items()}
        hidden = self._hidden() if config.muon else []
        others = [x for x in self.net.parameters() if not any(x is kernel for kernel in hidden)]
        self.optimizer = torch.optim.Adam(others, lr=config.learning_rate, betas=(0.9, 0.99))
        self.muon = Muon(hidden, config.muon) if hidden else None
        self.step, self.skipped, self.seconds = 0, 0, 0.0

    def _hidden(self) -> list[nn.Parameter]:
        """Return the kernels of the convolutions between others."""
        inside = [(name, x) for name, x in self.net.named_parameters() if "blocks." in name or "inject." in name]
        return [x for name, x in inside if name.endswith("weight")]

    def start_from(self, path: Path) -> None:
        """Take over what has equal name and shape in other weights; tell through `logging` what has not.

        Raises:
            WeightsError: not weights of any net here, or no parameter fits.
        """
        loaded, own = model.load(path), self.net.state_dict()
        assert isinstance(loaded.rescaler, RescaleNet | Untied)
        given = {f"rescaler.{name}": x for name, x in floats(loaded.rescaler.state_dict()).items()}
        if isinstance(loaded.low_res, GmmCodec):
            given |= {f"low_res.{name}": x for name, x in loaded.low_res.net.state_dict().items()}
        fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
        if fitting.keys().isdisjoint(name for name, _ in self.net.named_parameters()):
            raise WeightsError(f"nothing in {path} fits the net of the recipe: no parameter has equal name and shape")
        self.net.load_state_dict(own | fitting)
        left = {
            "of another shape": own.keys() & given.keys() - fitting.keys(),
            "new in the recipe's net": own.keys() - given.keys(),
            "only in the file": given.keys() - own.keys(),
        }
        told = [f"{len(names)} {why} ({_abridged(names)})" for why, names in left.items() if names]
        level = logging.WARNING if told else logging.INFO
        _log.log(level, "%s: took %d tensors of %d; left %s", path, len(fitting), len(own), "; ".join(told) or "none")
        self.average = {name: value.detach().clone() for name, value in self.net.state_dict().items()}

    def save(self, folder: Path) -> None:
        """Write the checkpoint and the averaged weights, each renamed into place when complete."""
        counters = (self.step, self.skipped, self.seconds)
        nets = {"net": self.net.state_dict(), "average": self.average, "counters": counters}
        optimizer = self.optimizer.state_dict()
        if self.muon is not None:
            optimizer["muon"] = self.muon.state_dict()
        for name, state in (("optimizer", optimizer), ("checkpoint", nets)):
            file = f"{name}-{self.step}.pt"
            torch.save(state, folder / f"{file}.part")
            (folder / f"{file}.part").replace(folder / file)
        for path in [*folder.glob("checkpoint-*.pt"), *folder.glob("optimizer-*.pt")]:
            if _step_of(path) != self.step:
                path.unlink()
        averaged = Trained(self.config)
        averaged.load_state_dict(self.average)
        if isinstance(averaged.rescaler, Untied):
            averaged.rescaler.make_exact()
        model.store(averaged.rescaler, folder / "weights.safetensors", averaged.low_res)

    def load(self, path: Path, device: torch.device) -> None:
        """Continue from a checkpoint, with the optimizer's state in a file of its own beside it."""
        state = torch.load(path, map_location=device, weights_only=True)
        optimizer = path.with_name(path.name.replace("checkpoint", "optimizer"))
        self.net.load_state_dict(state["net"])
        self.average = state["average"]
        moments = torch.load(optimizer, map_location=device, weights_only=True)
        if self.muon is not None:
            self.muon.load_state_dict(moments.pop("muon"))
        self.optimizer.load_state_dict(moments)
        self.step, self.skipped, self.seconds = state["counters"]

    def update(self, loss: Tensor, config: TrainConfig) -> None:
        """Take one optimiser step, unless loss or gradient is not finite: then count it as skipped."""
        rate = learning_rate(config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for group in [] if self.muon is None else self.muon.param_groups:
            group["lr"] = rate * config.muon / config.learning_rate
        self.net.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.step < config.gmm_first:
            for name, parameter in self.net.named_parameters():
                if not name.startswith("low_res."):
                    parameter.grad = None
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), config.clip)
        if bool(torch.isfinite(loss)) and bool(torch.isfinite(norm)):
            self.optimizer.step()
            if self.muon is not None:
                self.muon.step()
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
        WeightsError: nothing in the weights that `start_from` names fits.
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
    sides = sorted({config.crop, config.late_crop or config.crop})
    crops = {side: Crops(pairs, side, config.simulated, config.unrelated, config.changed) for side in sides}

    def draw(step: int) -> tuple[Pixels, Pixels, Mask]:
        return crops[crop_at(config, step)].marked_batch(config.seed, step, config.batch)

    before.write_text(json.dumps(recipe, indent=1))
    recent: dict[str, list[Tensor]] = {}
    run.net.train()
    with ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(draw, run.step)
        while run.step < config.steps and time.monotonic() - started < 60 * minutes:
            batch, upcoming = upcoming.result(), ahead.submit(draw, run.step + 1)
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


def _abridged(names: Collection[str]) -> str:
    """Return the first few of the names of tensors."""
    return ", ".join(sorted(names)[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.rpartition("-")[2])


def _without_steps(recipe: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in recipe.items() if name != "steps"}
