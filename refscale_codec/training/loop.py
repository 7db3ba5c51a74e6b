"""The training loop, and `refscale train recipe.toml -o run/`.

`fit` trains any net on any loss: optimiser, schedule, moving average, checkpoints and log. It stops after the schedule
or `minutes` and continues from `run/checkpoint-STEP.pt` and `optimizer-STEP.pt`, here or on another machine, CPU or
CUDA. Batches and noise are functions of (seed, step), so a resumed run equals an uninterrupted one, if its schedule is
counted in steps. `run/log.jsonl` has a line every 50 steps. Nets compute in bfloat16 where that is the faster type, as
with AMX or on a GPU; AVX-512 alone is faster in float32.

`train` has it train what a recipe says (`nets`) on crops of a manifest's pictures (`data`): `run/weights.safetensors`
holds the moving average of the parameters, ready for `encode --weights`.
"""

import copy
import io
import json
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from refscale_codec.errors import UsageError, WeightsError, writing
from refscale_codec.picture import files
from refscale_codec.picture.manifest import Pair, read_manifest
from refscale_codec.rescale.quantised import faster_float
from refscale_codec.training.data import Crops, Mask, Pixels
from refscale_codec.training.muon import Muon
from refscale_codec.training.nets import Trained
from refscale_codec.training.recipe import TrainConfig, crop_at, learning_rate

Net = TypeVar("Net", bound=nn.Module)
Batch = TypeVar("Batch")

_LOGGED = 50  # steps of a line of the log
_SAVED = 120  # seconds between checkpoints
# may change when a run is continued: the length of the schedule, and where the manifests are on this machine
_CHANGEABLE = {"steps", "processor_minutes", "manifest", "further"}


class Run(Generic[Net]):
    """A net in training, and everything that a checkpoint holds of it."""

    def __init__(self, net: Net, config: TrainConfig) -> None:
        """Begin at step 0 with the parameters that the net has."""
        self.net, self.config = net, config
        self.average = {name: value.detach().clone() for name, value in net.state_dict().items()}
        hidden = hidden_kernels(net) if config.muon else []
        others = [x for x in net.parameters() if not any(x is kernel for kernel in hidden)]
        self.optimizer = torch.optim.Adam(others, lr=config.learning_rate, betas=(0.9, 0.99))
        self.muon = Muon(hidden, config.muon) if hidden else None
        self.step, self.skipped = 0, 0
        self.seconds = 0.0  # of the processor, all threads together

    @property
    def share(self) -> float:
        """The share of the schedule that is over."""
        if self.config.processor_minutes:
            return self.seconds / (60 * self.config.processor_minutes)
        return self.step / self.config.steps

    def update(self, loss: Tensor) -> None:
        """Take one optimiser step, unless loss or gradient is not finite: then count it as skipped."""
        config, rate = self.config, learning_rate(self.config, self.step, self.share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for group in [] if self.muon is None else self.muon.param_groups:
            group["lr"] = rate * config.muon / config.learning_rate
        self.net.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
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

    def averaged(self) -> Net:
        """Return a copy of the net on the CPU, with the moving average of its parameters."""
        net = copy.deepcopy(self.net).cpu()
        net.load_state_dict(self.average)
        return net

    def save(self, folder: Path) -> None:
        """Write the checkpoint in place of earlier ones, each file renamed into place when complete."""
        counters = (self.step, self.skipped, self.seconds)
        nets = {"net": self.net.state_dict(), "average": self.average, "counters": counters}
        optimizer = self.optimizer.state_dict()
        if self.muon is not None:
            optimizer["muon"] = self.muon.state_dict()
        for name, state in (("optimizer", optimizer), ("checkpoint", nets)):
            file = f"{name}-{self.step}.pt"
            data = io.BytesIO()
            torch.save(state, data)
            files.write_atomically(folder / file, data.getvalue())
        for path in [*folder.glob("checkpoint-*.pt"), *folder.glob("optimizer-*.pt")]:
            if _step_of(path) not in (-1, self.step):
                path.unlink()

    def resume(self, folder: Path, device: torch.device) -> None:
        """Continue from the folder's checkpoint, if there is one; WeightsError if it is damaged."""
        if not (saved := checkpoints(folder)):
            return
        try:
            state = torch.load(saved[-1], map_location=device, weights_only=True)
            optimizer = saved[-1].with_name(saved[-1].name.replace("checkpoint", "optimizer"))
            self.net.load_state_dict(state["net"])
            self.average = state["average"]
            moments = torch.load(optimizer, map_location=device, weights_only=True)
            if self.muon is not None:
                self.muon.load_state_dict(moments.pop("muon"))
            self.optimizer.load_state_dict(moments)
            self.step, self.skipped, self.seconds = state["counters"]
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:  # nearly any, for bytes that are none of torch's
            raise WeightsError(
                f"cannot go on from {saved[-1]}, or the optimizer file beside it: damaged or missing; "
                "name another folder, or remove both to begin anew"
            ) from None


def hidden_kernels(net: nn.Module) -> list[nn.Parameter]:
    """Return the kernels of the convolutions between others."""
    inside = [(name, x) for name, x in net.named_parameters() if "blocks." in name or "inject." in name]
    return [x for name, x in inside if name.endswith("weight")]


def checkpoints(folder: Path) -> list[Path]:
    """Return a folder's checkpoints, the newest last."""
    return sorted((path for path in folder.glob("checkpoint-*.pt") if _step_of(path) >= 0), key=_step_of)


def fit(
    net: Net,
    config: TrainConfig,
    draw: Callable[[int, float], Batch],
    loss_of: Callable[[Batch, int], tuple[Tensor, dict[str, Tensor]]],
    store: Callable[[Net, Path], None],
    folder: Path,
    *,
    minutes: float = math.inf,
    device: str = "cpu",
    report: Callable[[dict[str, float]], None] = lambda line: None,
) -> Path:
    """Train a net, or continue in `folder`, until the schedule or the time is over.

    Args:
        net: with the parameters to begin with.
        config: the recipe, for schedule, optimiser and seed; it must equal the one that `folder` was begun with, but
            for the length of the schedule and where its manifests are.
        draw: returns the batch of a step, counted from 0, before which a share of the schedule is over; called by a
            thread beside the step before.
        loss_of: returns the loss of `net` on a batch, and figures [b] for the log.
        store: writes a net with averaged parameters, its own copy, to a path.
        folder: gets checkpoint-STEP.pt, optimizer-STEP.pt, weights.safetensors, log.jsonl, config.json.
        minutes: wall-clock limit of this call.
        device: a torch device.
        report: called with every line of the log.

    Returns:
        The path of the weights.

    Raises:
        UsageError: `folder` belongs to another recipe.
        WeightsError: its checkpoint is damaged.
        OutputError: the folder or a file in it cannot be written.
    """
    started = saved = time.monotonic()
    where, weights = torch.device(device), folder / "weights.safetensors"
    before = folder / "config.json"
    if os.path.exists(before) and _fixed(_recipe(before)) != _fixed(json.loads(json.dumps(asdict(config)))):
        raise UsageError(f"{folder} was begun with another recipe ({before}); choose another folder")
    files.make_folder(folder)
    run = Run(net.to(where), config)
    run.resume(folder, where)
    recent: dict[str, list[Tensor]] = {}
    net.train()
    with ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(draw, run.step, run.share)
        upcoming.result()  # a recipe that cannot begin does not claim the folder
        files.write_atomically(before, json.dumps(asdict(config), indent=1).encode())
        begun = time.process_time() - run.seconds
        while run.share < 1 and time.monotonic() - started < 60 * minutes:
            batch, upcoming = upcoming.result(), ahead.submit(draw, run.step + 1, run.share)
            torch.manual_seed(config.seed * 1_000_003 + run.step)
            with torch.autocast(where.type, torch.bfloat16, enabled=faster_float(where) == torch.bfloat16):
                loss, figures = loss_of(batch, run.step)
            run.update(loss)
            run.seconds = time.process_time() - begun
            for name, value in figures.items():
                recent.setdefault(name, []).append(value)
            if run.step % _LOGGED == 0:
                line = {name: round(float(torch.cat(values).mean()), 4) for name, values in recent.items()}
                line |= {"step": run.step, "skipped": run.skipped, "seconds": round(run.seconds)}
                recent = {}
                with writing(folder / "log.jsonl"), (folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps(line) + "\n")
                report(line)
            if time.monotonic() - saved > _SAVED:
                run.save(folder)
                store(run.averaged(), weights)
                saved = time.monotonic()
    run.save(folder)
    store(run.averaged(), weights)
    return weights


def train(
    config: TrainConfig,
    config_folder: Path,
    folder: Path,
    *,
    minutes: float = math.inf,
    device: str = "cpu",
    report: Callable[[dict[str, float]], None] = lambda line: None,
) -> Path:
    """Train what a recipe says, or continue in `folder`; see `fit`.

    Args:
        config: the recipe.
        config_folder: where the config's relative paths start.
        folder: see `fit`, as `minutes`, `device` and `report`.
        minutes: likewise.
        device: likewise.
        report: likewise.

    Returns:
        The path of the weights.

    Raises:
        UsageError: `folder` belongs to another recipe, or the manifest cannot be read.
        ImageError: no picture is large enough, or one cannot be read.
        WeightsError: nothing in the weights that `start_from` names fits.
    """
    net = Trained(config)
    for name in () if checkpoints(folder) else config.start_from:
        net.start_from(config_folder / name)

    @cache
    def crops() -> dict[int, Crops]:
        pairs: list[Pair] = []
        for name in (config.manifest, *config.further):
            others = read_manifest(config_folder / name, config.splits)
            replaced = {(pair.dataset, pair.name) for pair in others}
            pairs = [pair for pair in pairs if (pair.dataset, pair.name) not in replaced] + others
        sides = config.crop, config.late_crop or config.crop
        largest = Crops(pairs, max(sides), config.simulated, config.unrelated, config.changed)
        return {side: largest.smaller(side) for side in sides}

    def draw(step: int, share: float) -> tuple[Pixels, Pixels, Mask]:
        return crops()[crop_at(config, share)].marked_batch(config.seed, step, config.batch)

    return fit(net, config, draw, net.loss_of, Trained.store, folder, minutes=minutes, device=device, report=report)


def _step_of(checkpoint: Path) -> int:
    """Return the step in the name of a checkpoint; -1 if there is none."""
    step = checkpoint.stem.rpartition("-")[2]
    return int(step) if step.isdecimal() else -1


def _recipe(path: Path) -> dict[str, Any]:
    try:
        recipe = json.loads(path.read_bytes())
        if not isinstance(recipe, dict):
            raise ValueError
    except (OSError, ValueError, RecursionError):
        raise UsageError(f"{path} is no recipe that a run was begun with; name another folder") from None
    return recipe


def _fixed(recipe: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in recipe.items() if name not in _CHANGEABLE}
