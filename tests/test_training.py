"""The training loop: it learns, it goes on exactly where it stopped, and it says what is wrong with a recipe."""

import json
import logging
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import sine_filled
from torch import Tensor

from refscale_codec import model
from refscale_codec.codec import decoder, encoder
from refscale_codec.errors import ImageError, UsageError, WeightsError
from refscale_codec.lrcodec.dct import coefficients
from refscale_codec.lrcodec.gmm.codec import GmmCodec
from refscale_codec.lrcodec.gmm.net import GmmConfig
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import read_manifest
from refscale_codec.rescale.fgrn import Fgrn, FgrnConfig
from refscale_codec.rescale.interface import Context
from refscale_codec.rescale.net import RescaleConfig, RescaleNet
from refscale_codec.rescale.trained import NetConfig, TrainedRescaler, one_of
from refscale_codec.rescale.untied import UntiedConfig
from refscale_codec.study.coders import jpeg
from refscale_codec.training import loop as training
from refscale_codec.training import losses, nets
from refscale_codec.training.data import Crops
from refscale_codec.training.losses import through_jpeg
from refscale_codec.training.nets import Trained
from refscale_codec.training.recipe import TrainConfig, crop_at, learning_rate
from refscale_codec.training.untied import maps

TINY = RescaleConfig(blocks=1, width=8, ref_width=8)
CHECKPOINT_LIMIT = 16 * 2**20  # bytes of one file


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with two small pairs, a single picture and their manifest."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:40, :40] / 40
    for name in ("a", "b", "c"):
        waves = [np.sin(rng.uniform(3, 12) * x + rng.uniform(3, 12) * y + rng.uniform(0, 6)) for _ in range(3)]
        new = 128 + 70 * np.stack(waves, axis=-1) + rng.normal(0, 8, (40, 40, 3))
        old = 0.9 * new + rng.normal(0, 4, new.shape)
        for kind, pixels in (("new", new), ("old", old)):
            PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(tmp_path / f"{name}_{kind}.png")
    (tmp_path / "pairs.csv").write_text(
        "split,dataset,target,reference\n"
        "train,waves,a_new.png,a_old.png\ntrain,waves,b_new.png,b_old.png\nsingle,more,c_new.png,\n"
    )
    return tmp_path


def recipe(**changes: Any) -> TrainConfig:
    tiny: dict[str, Any] = {"manifest": "pairs.csv", "net": TINY, "steps": 4, "warmup": 2, "batch": 2, "crop": 32}
    return TrainConfig(**(tiny | changes))


def state_of(folder: Path) -> dict[str, Any]:
    (checkpoint,) = folder.glob("checkpoint-*.pt")
    (optimizer,) = folder.glob("optimizer-*.pt")
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    return state | {"optimizer": torch.load(optimizer, weights_only=True)}


def batch_of(place: Path, config: TrainConfig, step: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pairs = read_manifest(place / config.manifest, config.splits)
    crops = Crops(pairs, config.crop, config.simulated, config.unrelated, config.changed)
    return crops.marked_batch(config.seed, step, config.batch)


def run_of(config: TrainConfig) -> training.Run[Trained]:
    return training.Run(Trained(config).train(), config)


# --- the loop --------------------------------------------------------------------------------------------------------


def test_pictures_of_more_bands_teach_further_ones_too_and_take_the_place_of_their_rgb(place: Path) -> None:
    visits = {}
    for kind in ("new", "old"):
        rgb = np.array(PIL.Image.open(place / f"a_{kind}.png"))
        visits[kind] = np.concatenate([rgb, 255 - rgb[..., :1]], axis=2)
        pictures.write(Image(visits[kind]), place / f"a_{kind}.tif")
    (place / "more.csv").write_text("dataset,name,target,reference\nwaves,a_new,a_new.tif,a_old.tif\n")
    seen: list[Crops] = []

    class Kept(Crops):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            seen.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Crops", Kept)
        training.train(recipe(steps=1, further=("more.csv",)), place, place / "run")
    assert sorted(target.shape[2] for target, _ in seen[0].pictures) == [3, 3, 3, 4, 4]
    crops = seen[0]
    crops.simulated = crops.unrelated = crops.changed = 0
    targets, references = crops.batch(1, 0, 200)
    grey = (np.ptp(targets, axis=3) == 0).all(axis=(1, 2))
    assert 5 < grey.sum() < 60  # a quarter of what is drawn from the pair of four bands
    inside = {window.tobytes() for window in windows_of(visits["new"][..., 3])}
    assert any(target[..., 0].tobytes() in inside for target in targets[grey])
    assert (np.ptp(references[grey], axis=3) == 0).all()


def windows_of(band: np.ndarray) -> Iterator[np.ndarray]:
    """All windows of 32 x 32, flipped and turned."""
    for turned in (np.rot90(flipped, turns) for turns in range(4) for flipped in (band, band[:, ::-1])):
        for y, x in np.ndindex(9, 9):
            yield turned[y : y + 32, x : x + 32]


def test_training_lowers_the_loss_and_keeps_it_finite(place: Path) -> None:
    config = recipe(
        steps=12, warmup=1, decay=0.0, learning_rate=2e-3, quality=(60, 60), alone=0.0, rounded=0.0, unrelated=0.0
    )
    batch, run = batch_of(place, config), run_of(config)
    found = []
    for _ in range(config.steps):  # the same batch and noise each time, so that the losses can be compared
        torch.manual_seed(1)
        loss, figures = run.net.loss_of(batch, 0)
        assert all(torch.isfinite(values).all() and values.shape == (2,) for values in figures.values())
        found.append(float(figures["loss"].mean()))
        run.update(loss)
    assert np.isfinite(found).all()
    assert np.mean(found[-3:]) < np.mean(found[:3])
    assert run.step == config.steps
    assert run.skipped == 0


@pytest.mark.parametrize("net", [TINY, replace(TINY, scale=4), replace(TINY, flow="paper")])
def test_every_kind_of_net_trains_and_its_weights_load(place: Path, net: RescaleConfig) -> None:
    path = training.train(recipe(net=net, steps=2), place, place / "run")
    assert path == place / "run" / "weights.safetensors"
    loaded = model.load(path).rescaler
    assert isinstance(loaded, RescaleNet) and loaded.config == net
    assert all(torch.isfinite(value).all() for value in loaded.state_dict().values())
    torch.manual_seed(1)
    assert not same(loaded.state_dict(), RescaleNet(net).state_dict())
    assert sorted(path.name for path in (place / "run").iterdir()) == [
        "checkpoint-2.pt",
        "config.json",
        "optimizer-2.pt",
        "weights.safetensors",
    ]


def prefixed(given: model.Model) -> dict[str, Tensor]:
    """Return the rescaler's parameters as a checkpoint names them."""
    assert isinstance(given.rescaler, RescaleNet)
    return {f"rescaler.{name}": value for name, value in given.rescaler.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_a_resumed_run_equals_an_uninterrupted_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipe(simulated=0.3, unrelated=0.3, changed=0.5, alone=0.3, rounded=0.3)
    whole = training.train(config, place, place / "whole")

    clock = SimpleNamespace(now=0.0)
    real = Trained.loss_of

    def a_minute_each(*arguments: Any) -> Any:
        clock.now += 60
        return real(*arguments)

    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: clock.now, process_time=time.process_time))
    monkeypatch.setattr(Trained, "loss_of", a_minute_each)
    parts = training.train(config, place, place / "parts", minutes=2)
    assert state_of(place / "parts")["counters"][0] == 2
    assert parts.read_bytes() != whole.read_bytes()
    torch.manual_seed(99)  # whatever else went on in between
    assert training.train(config, place, place / "parts", minutes=2) == parts

    assert parts.read_bytes() == whole.read_bytes()
    one, other = state_of(place / "whole"), state_of(place / "parts")
    assert one["counters"][:2] == other["counters"][:2] == (4, 0)
    assert same(one["net"], other["net"])
    assert same(one["average"], other["average"])
    for number, moments in one["optimizer"]["state"].items():
        assert same(moments, other["optimizer"]["state"][number])


def test_a_schedule_in_processor_time_ends_when_it_is_spent(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=time.monotonic, seconds=100.0)
    clock.process_time = lambda: clock.seconds
    real, rates = Trained.loss_of, []

    def twenty_seconds_each(*arguments: Any) -> Any:
        clock.seconds += 20
        return real(*arguments)

    def watched(config: TrainConfig, step: int, share: float) -> float:
        rates.append(learning_rate(config, step, share))
        return rates[-1]

    monkeypatch.setattr(training, "time", clock)
    monkeypatch.setattr(training, "learning_rate", watched)
    monkeypatch.setattr(Trained, "loss_of", twenty_seconds_each)
    config = recipe(processor_minutes=1.0, warmup=1, decay=0.5, learning_rate=0.1)
    training.train(config, place, place / "whole")
    assert state_of(place / "whole")["counters"] == (3, 0, 60.0)
    assert rates == pytest.approx([0.1, 0.1, 0.2 / 3])  # before it, 0, 1/3 and 2/3 are over
    clock.seconds = 7
    training.train(replace(config, processor_minutes=2.0), place, place / "whole")
    assert state_of(place / "whole")["counters"] == (6, 0, 120.0)
    assert rates[3:] == pytest.approx([0.1, 0.2 / 3, 0.1 / 3])


def test_more_steps_go_on_in_the_same_folder(place: Path) -> None:
    config = recipe(decay=0.0)  # without a decay at the end, the schedule does not depend on the length
    whole = training.train(config, place, place / "whole")
    training.train(replace(config, steps=2), place, place / "parts")
    assert training.train(config, place, place / "parts").read_bytes() == whole.read_bytes()
    assert json.loads((place / "parts" / "config.json").read_text())["steps"] == 4


def test_a_finished_run_is_not_changed(place: Path) -> None:
    path = training.train(recipe(steps=2), place, place / "run")
    before = path.read_bytes()
    assert training.train(recipe(steps=2), place, place / "run").read_bytes() == before
    assert state_of(place / "run")["counters"][0] == 2


def test_no_minutes_means_no_step(place: Path) -> None:
    path = training.train(recipe(), place, place / "run", minutes=0)
    assert state_of(place / "run")["counters"][0] == 0
    assert model.load(path).rescaler.config == TINY


def test_another_seed_gives_other_weights(place: Path) -> None:
    one = training.train(recipe(steps=1), place, place / "one").read_bytes()
    assert training.train(recipe(steps=1), place, place / "again").read_bytes() == one
    assert training.train(recipe(steps=1, seed=2), place, place / "two").read_bytes() != one


def test_a_run_goes_on_where_its_manifest_has_another_place(place: Path) -> None:
    training.train(recipe(steps=1), place, place / "run")
    (place / "moved").mkdir()
    for path in [*place.glob("*.png"), place / "pairs.csv"]:
        path.rename(place / "moved" / path.name)
    (place / "recipe.toml").write_text('manifest = "pairs.csv"\nfurther = ["others.csv"]\n')
    named = TrainConfig.read(place / "recipe.toml", [place / "moved" / "pairs.csv"])
    assert named == TrainConfig(str(place / "moved" / "pairs.csv"))
    training.train(recipe(steps=2, manifest=named.manifest), place, place / "run")
    assert state_of(place / "run")["counters"][0] == 2


def test_another_recipe_in_the_folder_is_refused(place: Path) -> None:
    path = training.train(recipe(steps=1), place, place / "run")
    before = path.read_bytes()
    for other in (recipe(seed=2), recipe(net=replace(TINY, blocks=2)), recipe(quality=(5, 97))):
        with pytest.raises(UsageError, match="another recipe") as caught:
            training.train(other, place, place / "run")
        assert str(place / "run") in str(caught.value)
    assert path.read_bytes() == before


def test_a_recipe_that_failed_at_once_does_not_claim_the_folder(place: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the manifest"):
        training.train(recipe(steps=1, manifest="pears.csv"), place, place / "run")
    training.train(recipe(steps=1), place, place / "run")


def test_missing_pictures_and_too_small_ones_are_named(place: Path) -> None:
    with pytest.raises(ImageError, match="at least 48 pixels"):
        training.train(recipe(crop=48), place, place / "run")
    (place / "b_old.png").unlink()
    with pytest.raises(ImageError, match="b_old.png"):
        training.train(recipe(), place, place / "other")


def test_the_log_has_a_line_every_fifty_steps(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cheap(net: Trained, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        loss = sum(parameter.square().sum() for parameter in net.parameters())
        assert isinstance(loss, Tensor)
        return loss, {"psnr": torch.full((2,), float(step)), "bpp_lr": torch.tensor([0.25, 0.75])}

    monkeypatch.setattr(Trained, "loss_of", cheap)
    reported: list[dict[str, float]] = []
    training.train(recipe(steps=101), place, place / "run", report=reported.append)
    lines = [json.loads(line) for line in (place / "run" / "log.jsonl").read_text().splitlines()]
    assert lines == reported
    assert [(line["step"], line["psnr"], line["bpp_lr"], line["skipped"]) for line in lines] == [
        (50, 24.5, 0.5, 0),  # the mean of 0 to 49
        (100, 74.5, 0.5, 0),
    ]


def test_the_loop_trains_any_net_on_any_loss(tmp_path: Path) -> None:
    config = recipe(steps=60, warmup=1, decay=0.0, learning_rate=0.1, average=0.5)
    net, wanted = torch.nn.Linear(2, 1), torch.tensor([[3.0, -2.0]])

    def draw(step: int, share: float) -> Tensor:
        return torch.randn(8, 2, generator=torch.Generator().manual_seed(step))

    def loss_of(batch: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        error = (net(batch).float() - batch @ wanted.T).square()[:, 0]
        return error.mean(), {"error": error.detach()}

    def store(averaged: torch.nn.Linear, path: Path) -> None:
        assert averaged is not net
        path.write_text(json.dumps(averaged.weight.tolist()))

    for minutes in (0, math.inf):
        path = training.fit(net, config, draw, loss_of, store, tmp_path, minutes=minutes)
    assert json.loads(path.read_text())[0] == pytest.approx([3, -2], abs=0.2)
    assert json.loads((tmp_path / "log.jsonl").read_text()).keys() == {"error", "step", "skipped", "seconds"}


# --- steps that must not count ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_skipped_and_counted(
    place: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    real = losses.guidance

    def broken_once(lr: Tensor, hr: Tensor, similarity: Tensor | None) -> Tensor:
        calls.append(1)
        return real(lr, hr, similarity) * (bad if len(calls) == 2 else 1)

    calls: list[int] = []
    monkeypatch.setattr(losses, "guidance", broken_once)
    path = training.train(recipe(), place, place / "run")
    state = state_of(place / "run")
    assert state["counters"][:2] == (4, 1)
    assert all(torch.isfinite(value).all() for value in model.load(path).rescaler.state_dict().values())
    assert {int(moments["step"]) for moments in state["optimizer"]["state"].values()} == {3}


def test_a_skipped_step_leaves_parameters_and_average_alone() -> None:
    run = run_of(recipe())
    before = {name: value.clone() for name, value in run.net.state_dict().items()}
    parameters = list(run.net.parameters())
    run.update(parameters[0].sum() * math.nan)
    assert (run.step, run.skipped) == (1, 1)
    # a finite loss whose gradient is not: the square root at zero
    run.update((parameters[0] * 0).sum().sqrt())
    assert (run.step, run.skipped) == (2, 2)
    assert same(run.net.state_dict(), before)
    assert same(run.average, before)


def test_the_gradient_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(recipe(clip=0.5))
    norms = []
    real = run.optimizer.step

    def recorded() -> None:
        norms.append(float(torch.stack([p.grad.norm() for p in run.net.parameters() if p.grad is not None]).norm()))
        real()

    monkeypatch.setattr(run.optimizer, "step", recorded)
    first = next(run.net.parameters())
    run.update(1000 * first.square().sum())
    run.update(1e-3 * first.sum() / math.sqrt(first.numel()))
    assert norms == pytest.approx([0.5, 1e-3], rel=1e-3)


def test_the_average_follows_the_parameters_by_hand() -> None:
    config = recipe(average=0.5)
    run = run_of(config)
    name, parameter = next(iter(run.net.named_parameters()))
    start = parameter.detach().clone()
    run.update(parameter.sum())
    # at step 0 the old average keeps (1 + 0) / (10 + 0) = 0.1, as that is below 0.5
    assert torch.allclose(run.average[name], 0.1 * start + 0.9 * parameter.detach(), atol=1e-7)
    run.step, run.config, middle = 100, replace(config, steps=1000), run.average[name].clone()
    run.update(parameter.sum())
    assert torch.allclose(run.average[name], 0.5 * middle + 0.5 * parameter.detach(), atol=1e-7)


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 4])
def test_the_default_checkpoint_stays_under_the_limit(tmp_path: Path, scale: int) -> None:
    run = run_of(TrainConfig("pairs.csv", net=RescaleConfig(scale=scale)))
    sum(parameter.sum() for parameter in run.net.parameters()).backward()  # type: ignore[union-attr]
    run.optimizer.step()  # makes Adam's two moments
    run.save(tmp_path)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes.keys() == {"checkpoint-0.pt", "optimizer-0.pt"}
    assert all(size < CHECKPOINT_LIMIT for size in sizes.values())


def test_the_weights_are_the_average(place: Path) -> None:
    path = training.train(recipe(steps=2), place, place / "run")
    average = state_of(place / "run")["average"]
    assert same(prefixed(model.load(path)), {name: value.half().float() for name, value in average.items()})


def test_start_from_takes_over_parameters_of_equal_name_and_shape(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, nets.__name__)
    torch.manual_seed(5)
    given = RescaleNet(replace(TINY, map_levels=8))
    with torch.no_grad():
        for parameter in given.parameters():
            parameter.copy_(torch.randn_like(parameter).half().float())
    model.store(given, place / "given.safetensors")

    # no step taken: what is written is what was taken over
    config = recipe(start_from=("given.safetensors",))
    path = training.train(config, place, place / "same", minutes=0)
    assert same(model.load(path).rescaler.state_dict(), given.state_dict())
    assert same(state_of(place / "same")["net"], prefixed(model.load(path)))

    wider = replace(config, net=replace(TINY, blocks=2, width=12))
    found = model.load(training.train(wider, place, place / "wider", minutes=0)).rescaler.state_dict()
    taken = {name for name, value in given.state_dict().items() if torch.equal(found[name], value)}
    assert taken == {name for name, value in given.state_dict().items() if found[name].shape == value.shape}
    assert any(name.startswith("refnet.") for name in taken)
    assert len(taken) < len(found)

    taken_over, left = caplog.messages
    assert re.search(r"given.safetensors: took (\d+) tensors of \1; left none$", taken_over)
    assert f"took {len(taken)} tensors of {len(found)}; left " in left
    named = re.search(r"(\d+) of another shape \((\S+), ", left)
    assert named is not None
    assert int(named[1]) == sum(value.shape != found[name].shape for name, value in given.state_dict().items())
    assert (
        given.state_dict()[named[2].removeprefix("rescaler.")].shape != found[named[2].removeprefix("rescaler.")].shape
    )

    with pytest.raises(WeightsError, match="none.safetensors"):
        training.train(replace(config, start_from=("none.safetensors",)), place, place / "none", minutes=0)


def test_start_from_weights_of_which_nothing_fits_is_refused(place: Path) -> None:
    model.store(RescaleNet(TINY), place / "given.safetensors")
    config = untied_recipe(start_from=("given.safetensors",))
    with pytest.raises(WeightsError, match=r"nothing in .*given.safetensors fits"):
        training.train(config, place, place / "run", minutes=0)
    assert not (place / "run").exists()


# --- schedule --------------------------------------------------------------------------------------------------------


def test_the_learning_rate_by_hand() -> None:
    config = recipe(steps=1000, warmup=10, decay=0.2, learning_rate=1e-3)
    expected = {
        0: 1e-4,  # 1 of 10
        4: 5e-4,
        9: 1e-3,
        10: 1e-3,
        800: 1e-3,  # the last 200 fall: (1000 - step) / 200
        900: 5e-4,
        990: 5e-5,
        999: 5e-6,
        1000: 0,
        1001: 0,
    }
    for step, rate in expected.items():
        assert learning_rate(config, step, step / 1000) == pytest.approx(rate), step


def test_rise_and_fall_of_a_short_run_multiply() -> None:
    config = recipe(steps=4, warmup=4, decay=1.0, learning_rate=1.0)
    assert [learning_rate(config, step, step / 4) for step in range(4)] == pytest.approx(
        [1 / 4 * 4 / 4, 2 / 4 * 3 / 4, 3 / 4 * 2 / 4, 4 / 4 * 1 / 4]
    )
    constant = recipe(steps=4, warmup=1, decay=0.0, learning_rate=1.0)
    assert [learning_rate(constant, step, step / 4) for step in range(4)] == [1, 1, 1, 1]


# --- through JPEG ----------------------------------------------------------------------------------------------------


def rough(height: int = 16, width: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return 0.5 + 0.2 * torch.randn(2, 3, height, width, generator=generator).clamp(-2, 2)


def levels_of(lr: Tensor, quality: int) -> coefficients.Indices:
    return coefficients.quantise(255 * lr.permute(1, 2, 0).numpy(), quality)


def restored(lr: Tensor, quality: int) -> Tensor:
    height, width = lr.shape[-2:]
    return (
        torch.from_numpy(coefficients.dequantise(levels_of(lr, quality), height, width, quality)).permute(2, 0, 1) / 255
    )


def assert_as_decoded(lr_hat: Tensor, lr: Tensor, quality: int) -> None:
    """The decoder rounds to its grid; within that, its transform of integers is as good as exact."""
    off = 255 * (lr_hat - restored(lr, quality)).abs().max()
    assert off < 2**-coefficients.GRID_BITS / 2 + 0.003


@pytest.mark.parametrize("contrast", [0.4, 4], ids=["in range", "beyond"])
def test_the_pixels_after_jpeg_are_those_that_a_decoder_restores(contrast: float) -> None:
    lr = 0.5 + contrast * (rough() - 0.5)
    lr_hat = through_jpeg(lr, torch.tensor([30.0, 90.0]))
    for number, quality in enumerate((30, 90)):
        assert_as_decoded(lr_hat[number], lr[number], quality)
    if contrast == 4:
        assert lr_hat.min() < -0.5
        assert lr_hat.max() > 1.5


def test_what_comes_out_of_a_real_jpeg_passes_another_of_its_quality() -> None:
    lr = 255 * (0.5 + 0.4 * (rough()[0] - 0.5))  # in range before and after
    payload = jpeg.encode(lr.round().to(torch.uint8).permute(1, 2, 0).numpy(), 50, tables=coefficients.tables(50))
    decoded = torch.from_numpy(jpeg.decode(payload)).permute(2, 0, 1)[None] / 255
    lr_hat = through_jpeg(decoded, torch.tensor([50.0]))
    assert (lr_hat - decoded).abs().max() < 2 / 255


def test_the_mixed_precision_of_training_stops_at_jpeg(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipe(rounded=0.0)
    calls: list[tuple[Tensor, ...]] = []

    def watched(lr: Tensor, quality: Tensor) -> Tensor:
        calls.append((lr.detach(), quality, through_jpeg(lr, quality).detach()))
        return through_jpeg(lr, quality)

    monkeypatch.setattr(losses, "through_jpeg", watched)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        Trained(config).loss_of(batch_of(place, config), 0)
    ((lr, quality, lr_hat),) = calls
    for number, q in enumerate(quality.tolist()):
        assert_as_decoded(lr_hat[number], lr[number], int(q))


def test_quality_above_100_is_rounding_only() -> None:
    lr = rough()
    lr_hat = through_jpeg(lr, torch.tensor([101.0, 50.0]))
    assert torch.allclose(lr_hat[0], (lr[0].clamp(0, 1) * 255).round() / 255, atol=1e-6)


@pytest.mark.parametrize("rounded", [0.0, 1.0])
def test_only_rounded_low_res_pictures_have_no_bits(place: Path, rounded: float) -> None:
    config = recipe(rounded=rounded)
    _, figures = Trained(config).loss_of(batch_of(place, config), 0)
    assert ((figures["bpp_lr"] == 0) == bool(rounded)).all()


def test_the_gradient_passes_jpeg_as_far_as_detail_survives_and_is_the_same_outside_the_range() -> None:
    lr = rough(8, 8)[:1].clamp(0, 1).repeat(3, 1, 1, 1)
    lr[:, 0, 0, :6] = torch.tensor([-0.7, -0.051, -0.04, 1.04, 1.051, 1.6])
    lr.requires_grad_()
    quality = torch.tensor([5.0, 95.0, 101.0])
    upstream = torch.randn(lr[:1].shape, generator=torch.Generator().manual_seed(4)).repeat(3, 1, 1, 1)
    lr_hat = through_jpeg(lr, quality)
    (gradient,) = torch.autograd.grad(lr_hat, lr, upstream)

    again = lr.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(losses.surviving(again, quality.clamp(max=100)), again, upstream)
    expected[2] = upstream[2]  # the identity where it is only rounded
    assert torch.allclose(gradient, expected, atol=1e-6)
    assert torch.equal(gradient[2], expected[2])
    assert gradient[0].norm() < gradient[1].norm()
    assert (gradient[1, 0, 0, [0, 5]] != 0).all()
    assert lr_hat[1].min() < -0.6
    assert lr_hat[1].max() > 1.5
    assert 0 <= lr_hat[2].min() <= lr_hat[2].max() <= 1


# --- recipes ---------------------------------------------------------------------------------------------------------


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_is_read_with_defaults_and_a_net(tmp_path: Path) -> None:
    text = 'manifest = "p.csv"\nsplits = ["train"]\nsteps = 10\nquality = [20, 30]\n[flow]\nscale = 4\nwidth = 16\n'
    assert TrainConfig.read(written(tmp_path, text)) == TrainConfig(
        "p.csv", splits=("train",), steps=10, quality=(20, 30), net=RescaleConfig(scale=4, width=16)
    )
    assert TrainConfig.read(written(tmp_path, 'manifest = "p.csv"\n')) == TrainConfig("p.csv")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('manifest = "p.csv"\nstepz = 10\n', "recipe.toml: unknown field stepz"),
        ('manifest = "p.csv"\nzeal = 1\nardour = 1\n', "unknown field ardour, zeal"),
        ('manifest = "p.csv"\n[flow]\nlevels = 4\n', r"recipe.toml, table \[flow\]: unknown field levels"),
        ("steps = 10\n", "manifest"),
        ('manifest = "p.csv"\n[flow]\n[untied]\n', "only one of the tables flow, untied, fgrn"),
        ('manifest = "p.csv"\n[flow]\nscale = 3\n', "scale must be 2 or 4, not 3"),
        ('manifest = "p.csv"\n[flow]\nwidth = "wide"\n', "recipe.toml"),
        (
            'manifest = "p.csv"\n[flow]\nwidth = 1000000\n',
            "recipe.toml: width must be a whole number, 1..1024, not 1000000",
        ),
        ('manifest = "p.csv"\n[fgrn]\ngrowth = 1000000\n', "growth must be a whole number, 1..1024, not 1000000"),
        ('manifest = "p.csv"\n[gmm]\nwidth = 1000000\n', "channels and widths must be whole numbers, 1 to 1024"),
        ('manifest = "p.csv\n', "cannot read the training config"),
        ("manifest = 1 = 2\n", "cannot read the training config"),
        (f"manifest = {'[' * 10_000}\n", "cannot read the training config"),
        (f"steps = {'9' * 5_000}\n", "cannot read the training config"),
    ],
)
def test_a_bad_recipe_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError, match=named) as caught:
        TrainConfig.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.toml", tmp_path, binary):
        with pytest.raises(UsageError, match="cannot read the training config") as caught:
            TrainConfig.read(path)
        assert str(path) in str(caught.value)


_WRONG = """
flow = 3|steps = "many"|steps = 0|steps = 99999999999999999999|quality = [5]|quality = ["a", "b"]|splits = [1]
batch = 1000000000|learning_rate = nan|learning_rate = inf|seed = -1|seed = 99999999999999999999|alone = 2.0
decay = 2.0|clip = 0|warmup = -1|late_crop = -16|average = 1.5|muon = -1e-3|slope = nan|crop = 1000000
gmm = {width = 3}|gmm = {channels = "x"}|manifest = 5
"""


@pytest.mark.parametrize("line", _WRONG.strip().replace("\n", "|").split("|"))
def test_a_value_of_another_kind_is_refused(tmp_path: Path, line: str) -> None:
    named, _, value = line.partition(" = ")
    words = value.strip("{}").split()[0] if named == "gmm" else named
    with pytest.raises(UsageError, match=words) as caught:
        TrainConfig.read(written(tmp_path, 'manifest = "p.csv"\n' * (named != "manifest") + f"{line}\n"))
    assert not re.search(r"Config|__|<|Error", str(caught.value).removeprefix(str(tmp_path)))


def test_a_recipe_without_a_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="manifest is missing"):
        TrainConfig.read(written(tmp_path, "steps = 3\n"))


@pytest.mark.parametrize("junk", [b"", b"junk", None])
@pytest.mark.parametrize("name", ["checkpoint-1.pt", "optimizer-1.pt", "config.json"])
def test_a_damaged_run_is_one_message_and_left_as_it_is(place: Path, name: str, junk: bytes | None) -> None:
    training.train(recipe(steps=1), place, place / "run")
    path = place / "run" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if junk is None else junk)
    before = {each: each.read_bytes() for each in (place / "run").iterdir()}
    with pytest.raises((WeightsError, UsageError), match="run/") as caught:
        training.train(recipe(steps=2), place, place / "run")
    assert "\n" not in str(caught.value)
    assert {each: each.read_bytes() for each in (place / "run").iterdir()} == before


# --- FGRN -------------------------------------------------------------------------------------------------------------

TINY_FGRN = FgrnConfig(width=8, down_blocks=1, up_blocks=1, cells=1, growth=4)


def fgrn_recipe(**changes: Any) -> TrainConfig:
    return recipe(**({"net": TINY_FGRN, "rounded": 0.0} | changes))


@pytest.mark.parametrize("rounded", [0.0, 1.0], ids=["through the quantiser", "as in the paper"])
@pytest.mark.parametrize("scale", [2, 4])
def test_fgrn_learns_and_its_weights_load(place: Path, rounded: float, scale: int) -> None:
    config = fgrn_recipe(net=replace(TINY_FGRN, scale=scale), rounded=rounded, quality=(60, 60), learning_rate=3e-3)
    config = replace(config, steps=15, warmup=1, decay=0.0)
    batch, run = batch_of(place, config), run_of(config)
    found = []
    for _ in range(config.steps):
        with torch.autocast("cpu", torch.bfloat16):
            loss, figures = run.net.loss_of(batch, 0)
        assert all(torch.isfinite(values).all() and values.shape == (2,) for values in figures.values())
        run.update(loss)
        found.append(float(figures["loss"].mean()))
    assert run.skipped == 0 and np.mean(found[-3:]) < np.mean(found[:3]) - 0.003
    run.averaged().store(place / "net.safetensors")
    assert model.load(place / "net.safetensors").rescaler.config == config.net


def gradients(config: TrainConfig, batch: Any) -> dict[str, dict[str, Tensor]]:
    """Return the gradients of the modules of a net, of which no part is zero."""
    net = Trained(config)
    sine_filled(net.rescaler)
    net.loss_of(batch, 0)[0].backward()  # type: ignore[no-untyped-call]
    found: dict[str, dict[str, Tensor]] = {"downscaler": {}, "upscaler": {}, "guidance": {}}
    for name, x in net.rescaler.named_parameters():
        found[name.partition(".")[0]][name] = torch.zeros_like(x) if x.grad is None else x.grad
    return found


def test_flow_guidance_trains_only_the_flow(place: Path) -> None:
    """As in the paper: Eq. 7 is for down- and upscaler, Eq. 9 for the flow."""
    config = fgrn_recipe(rounded=1.0)
    batch = batch_of(place, config)
    guided, free = (gradients(replace(config, guidance=weight), batch) for weight in (1.0, 0.0))
    assert same(guided["downscaler"], free["downscaler"]) and same(guided["upscaler"], free["upscaler"])
    assert all(x.any() for x in guided["downscaler"].values()) and all(x.any() for x in guided["upscaler"].values())
    assert all(x.any() for x in guided["guidance"].values())
    assert not any(x.any() for x in free["guidance"].values())
    through = gradients(replace(config, rounded=0.0, guidance=0.0), batch)
    assert all(x.any() for x in through["guidance"].values())  # it is on the way through the quantiser


def test_flow_guidance_by_hand(place: Path) -> None:
    config = fgrn_recipe(rounded=1.0, guidance=3.0)
    batch, net = batch_of(place, config), Trained(config)
    rescaler = net.rescaler
    assert isinstance(rescaler, Fgrn)
    sine_filled(rescaler)
    hr = torch.from_numpy(batch[0]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        loss, figures = net.loss_of(batch, 0)
        x = rescaler.represent(hr)
        lr, log_det = rescaler.guidance(x)
        bicubic = torch.nn.functional.interpolate(hr, size=(16, 16), mode="bicubic", antialias=True)
        wanted = (lr - bicubic).abs().mean(dim=(1, 2, 3)) - 1e-3 * log_det / (3 * 16 * 16)
        error = (rescaler.upscaler(x) - hr).abs().mean()
    assert log_det.abs().min() > 1
    assert torch.allclose(figures["guidance"], wanted, atol=1e-6)
    assert float(loss) == pytest.approx(float(error + 3 * wanted.mean()), rel=1e-5)


def test_fgrn_recipes_that_cannot_be() -> None:
    for wrong in (
        {"gmm": GmmConfig(), "rounded": 1.0},
        {"net": replace(TINY_FGRN, scale=4), "crop": 16},
    ):
        with pytest.raises(ValueError, match=next(reversed(wrong))):
            fgrn_recipe(**wrong)


def test_fgrn_learns_with_the_learned_codec(place: Path) -> None:
    gmm = GmmConfig(channels=12, width=8, reference_channels=4)
    path = training.train(fgrn_recipe(gmm=gmm, rounded=0.3, steps=2), place, place / "run")
    trained = model.load(path)
    fresh = Trained(fgrn_recipe(gmm=gmm)).low_res
    assert isinstance(trained.low_res, GmmCodec) and fresh is not None
    assert not same(trained.low_res.net.state_dict(), {name: x.half() for name, x in fresh.state_dict().items()})
    target = Image(np.asarray(PIL.Image.open(place / "a_new.png")))
    data = encoder.encode(target, Image(target.pixels[::-1].copy()), trained)
    assert decoder.decode(data, Image(target.pixels[::-1].copy()), trained).pixels.shape == (40, 40, 3)


# --- a family of one's own --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToyConfig(NetConfig):
    kind: ClassVar[str] = "toy"

    reach: int = one_of(1, range(1, 4))


class Toy(TrainedRescaler):
    """One convolution each way, without a reference."""

    Config = ToyConfig
    config: ToyConfig
    uses_reference, cell, map_levels = False, 16, 2

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        side = 2 * config.reach + 1
        self.small = torch.nn.Conv2d(3, 3, side, padding=config.reach)
        self.large = torch.nn.Conv2d(3, 3, side, padding=config.reach)

    @property
    def halo(self) -> int:
        return 16

    def down(self, hr: Tensor, context: Context | None) -> Tensor:
        return torch.nn.functional.avg_pool2d(self.small(hr), self.scale)

    def up(self, lr: Tensor, context: Context | None) -> Tensor:
        return self.large(torch.nn.functional.interpolate(lr, scale_factor=self.scale))


def loss_of_toy(net: Toy, gmm: None, config: TrainConfig, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
    hr = torch.from_numpy(batch[0]).permute(0, 3, 1, 2).float()
    error = (net.up(net.down(hr, None), None) - hr).square().mean(dim=(1, 2, 3))
    return error.mean(), {"error": error.detach()}


def test_another_family_is_a_line_in_each_of_two_tables(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(model.RESCALERS, "toy", Toy)
    monkeypatch.setitem(nets.STEPS, "toy", loss_of_toy)
    text = 'manifest = "pairs.csv"\nsteps = 3\nbatch = 2\ncrop = 32\n[toy]\nreach = 2\n'
    config = TrainConfig.read(written(place, text))
    path = training.train(config, place, place / "run")
    toy = model.load(path)
    assert isinstance(toy.rescaler, Toy) and toy.rescaler.config == ToyConfig(reach=2)
    target = Image(np.asarray(PIL.Image.open(place / "a_new.png")))
    assert decoder.decode(encoder.encode(target, None, toy), None, toy).pixels.shape == target.pixels.shape
    with pytest.raises(UsageError, match=r"reach must be a whole number, 1\.\.3, not 4"):
        TrainConfig.read(written(place, text.replace("= 2\n", "= 4\n")))


def test_every_family_is_in_both_tables_by_its_kind() -> None:
    assert model.RESCALERS.keys() == nets.STEPS.keys() | {"identity"}  # which has nothing to train
    assert all(net.Config.kind == kind for kind, net in model.RESCALERS.items())


# --- untied nets ------------------------------------------------------------------------------------------------------

SMALL = UntiedConfig(down_width=8, down_blocks=1, up_width=16, up_blocks=2)


def untied_recipe(**changes: Any) -> TrainConfig:
    return recipe(**({"net": SMALL, "muon": 1e-3} | changes))


def test_untied_nets_learn(place: Path) -> None:
    config = untied_recipe(
        steps=12, warmup=1, decay=0.0, learning_rate=2e-3, quality=(60, 60), alone=0.0, rounded=0.0, unrelated=0.0
    )
    batch = Crops(read_manifest(place / config.manifest, config.splits), 32, 0, 0, 0).marked_batch(1, 0, 4)
    run = run_of(config)
    losses_seen = []
    for _ in range(12):
        loss, figures = run.net.loss_of(batch, 0)
        run.update(loss)
        losses_seen.append(float(figures["loss"].mean()))
    assert run.skipped == 0 and losses_seen[-1] < losses_seen[0] - 0.05


def test_a_resumed_run_of_untied_nets_equals_an_uninterrupted_one(place: Path) -> None:
    config = untied_recipe(decay=0.0)
    whole = training.train(config, place, place / "whole")
    training.train(replace(config, steps=2), place, place / "parts")
    parts = training.train(config, place, place / "parts")
    assert parts.read_bytes() == whole.read_bytes()
    one, other = state_of(place / "whole"), state_of(place / "parts")
    assert same(one["net"], other["net"])
    for number, moments in one["optimizer"]["muon"]["state"].items():
        assert same(moments, other["optimizer"]["muon"]["state"][number])
    assert model.load(parts).rescaler.config == SMALL


def test_maps_are_off_where_masked_weakened_and_alone() -> None:
    elsewhere = np.zeros((400, 32, 32), bool)
    elsewhere[:, :16, 8:16] = True
    rng = np.random.default_rng(1)

    def drawn(**changes: float) -> np.ndarray:
        config = untied_recipe(**({"map_off": 0.0, "weakened": 0.0, "alone": 0.0} | changes))
        return maps(elsewhere, config, 8, 3, rng)[:, 0]

    assert (drawn() == 3).all()
    masked = drawn(map_off=0.5)
    wanted = np.full((4, 4), 3)
    wanted[:2, 1] = 0
    off = (masked == wanted).all(axis=(1, 2))
    assert 150 < off.sum() < 250 and (masked[~off] == 3).all()
    assert 50 < (drawn(alone=0.25) == 0).all(axis=(1, 2)).sum() < 150
    weakened = drawn(weakened=1.0)
    assert (weakened < 3).any(axis=(1, 2)).all() and set(np.unique(weakened)) == {0, 1, 2, 3}


def test_crops_grow_late() -> None:
    config = untied_recipe(steps=10, crop=32, late_crop=48, late=0.4)
    assert [crop_at(config, step / 10) for step in range(10)] == [32] * 6 + [48] * 4
    assert crop_at(replace(config, late_crop=0), 0.9) == 32


@pytest.mark.parametrize("wrong", [{"late_crop": 20}, {"start_from": (3,)}])
def test_untied_recipes_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="late_crop|start_from"):
        untied_recipe(**wrong)
