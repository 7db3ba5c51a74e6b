"""The learned low-res codec in files, weights, training and on the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import safetensors.torch
import torch
from conftest import SMALL, TINY, Outcome, always_predicted

from refscale_codec import lrcodec, model
from refscale_codec.codec import decoder, encoder, payloads
from refscale_codec.codec.encoder import EncodeOptions
from refscale_codec.codec.reconstruction import reconstruct
from refscale_codec.errors import ContainerError, ReferenceMismatch, UsageError, WeightsError
from refscale_codec.fileformat import container
from refscale_codec.lrcodec.gmm import export, latents
from refscale_codec.lrcodec.gmm.codec import GmmCodec
from refscale_codec.lrcodec.gmm.net import Gmm, GmmConfig
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.manifest import read_manifest
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import band_prediction, warp
from refscale_codec.reference import source as sources
from refscale_codec.reference.source import Unused, Warped
from refscale_codec.rescale import tiled
from refscale_codec.rescale.untied import UntiedConfig
from refscale_codec.study import metrics
from refscale_codec.training import loop, low_res
from refscale_codec.training.data import Crops
from refscale_codec.training.nets import Trained
from refscale_codec.training.recipe import TrainConfig

GOOD = EncodeOptions(quality=90)


@pytest.fixture(scope="module")
def path(learned_weights: Path) -> Path:
    return learned_weights


@pytest.fixture(scope="module")
def net(path: Path) -> Model:
    return model.load(path)


def coder(net: Model) -> GmmCodec:
    assert isinstance(net.low_res, GmmCodec)
    return net.low_res


def learned(net: Model) -> Gmm:
    return coder(net).net


def exact(net: Model) -> latents.EntropyModel:
    return coder(net).entropy_model


# --- weights ---------------------------------------------------------------------------------------------------------


def test_weights_come_back_with_the_integers_of_the_file(path: Path, net: Model) -> None:
    tensors = safetensors.torch.load_file(path)
    assert learned(net).config == SMALL
    for name, integers in exact(net).tensors().items():
        assert torch.equal(integers, tensors[f"exact.{name}"])
    for name, parameter in learned(net).named_parameters():
        assert torch.equal(parameter, tensors[f"low_res.{name}"].float())
    assert {name for name in tensors if name.startswith("low_res.")} == {
        f"low_res.{name}" for name in learned(net).state_dict()
    }


def test_integers_are_read_and_never_made_again(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(export, "to_integers")
    tensors, metadata = opened(path)
    tensors["exact.context.bias"] += 7
    safetensors.torch.save_file(tensors, tmp_path / "other.safetensors", metadata)
    other = exact(model.load(tmp_path / "other.safetensors"))
    assert torch.equal(other.context.bias, tensors["exact.context.bias"].double())


def opened(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safetensors.safe_open(path, "pt") as file:
        metadata: dict[str, str] = file.metadata()
    return safetensors.torch.load_file(path), metadata


@pytest.mark.parametrize("fault", ["missing", "shape", "kind", "frequency", "parameter", "config"])
def test_a_file_that_does_not_fit_itself_is_refused(path: Path, tmp_path: Path, fault: str) -> None:
    tensors, metadata = opened(path)
    if fault == "missing":
        del tensors["exact.hyper.1.shift"]
    elif fault == "shape":
        tensors["exact.normal"] = tensors["exact.normal"][:, :9].contiguous()
    elif fault == "kind":
        tensors["exact.context.weight"] = tensors["exact.context.weight"].float()
    elif fault == "frequency":
        tensors["exact.frequency"][0, 0] += 1
    elif fault == "parameter":
        del tensors["low_res.gain"]
    else:
        metadata["config"] = json.dumps(json.loads(metadata["config"]) | {"gmm": {"channels": 17}})
    safetensors.torch.save_file(tensors, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(WeightsError, match="does not hold the weights"):
        model.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("name", "place", "number", "said"),
    [
        ("normal", (3, 9), -1, "normal distribution"),
        ("normal", (3, -1), 32_769, "normal distribution"),
        ("normal", (3, 1000), 5, "normal distribution"),
        ("exponential", (0,), 0, "exponential"),
        ("exponential", (5,), -1, "exponential"),
        ("exponential", (5,), 65_537, "exponential"),
        ("quality", (0, 7), 32_768, "quality"),
        ("compand", (7,), -1, "compand"),
        ("context.shift", (0,), 53, "context: sums are not exact"),
        ("context.shift", (0,), -32_768, "context: sums are not exact"),
        ("hyper.0.bias", (0,), -(1 << 53), "hyper.0: sums are not exact"),
        ("parameters.1.2.bias", (0,), 1 << 62, "parameters.1.2: sums are not exact"),
    ],
)
def test_numbers_out_of_range_are_refused(
    path: Path, tmp_path: Path, name: str, place: tuple[int, ...], number: int, said: str
) -> None:
    tensors, metadata = opened(path)
    tensors[f"exact.{name}"][place] = number
    safetensors.torch.save_file(tensors, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(WeightsError, match=f"does not hold the weights of a refscale model: .*{said}"):
        model.load(tmp_path / "bad.safetensors")


def test_a_net_fresh_from_training_cannot_code_yet() -> None:
    with pytest.raises(ValueError, match="store it and load it again"):
        GmmCodec(Gmm(SMALL))


def test_a_host_that_uses_compressai_gets_its_own() -> None:
    program = (
        "import sys\n"
        "from refscale_codec.lrcodec.gmm.net import Gmm, GmmConfig\n"
        "Gmm(GmmConfig(12, 2, 2))\n"
        "print([name for name in sys.modules if 'compressai' in name])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_reference", [True, False])
def test_a_picture_is_what_its_latents_make(net: Model, pair: tuple[Image, Image], with_reference: bool) -> None:
    target, reference = pair[0], pair[1] if with_reference else None
    data = encoder.encode(target, reference, net, GOOD)
    file = container.unpack(data)
    assert file.header.codec == lrcodec.GMM
    decoded = decoder.decode(data, reference, net)
    source, tiles_of, low_reference = sources.of_file(file), None, None
    if reference is not None and isinstance(source, Warped):
        moved = warp.apply(reference, source.alignment)
        tiles_of, low_reference = tiled.reference_in_place(moved), tiled.low_res_reference(moved, net.scale)
    low = payloads.low_res_of(file, net, low_reference)
    assert low.lr.shape == (15, 19, 3)
    expected = reconstruct(low, tiles_of, (29, 37), net, GOOD.quality, tile=512)
    assert np.array_equal(expected, decoded.pixels)
    assert encoder.encode(target, reference, net, GOOD) == data


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (33, 64)])
def test_constant_and_extreme_pictures_come_back(net: Model, height: int, width: int) -> None:
    for value in (0, 128, 255):
        flat = Image(np.full((height, width, 3), value, np.uint8))
        for quality in (1, 100):
            data = encoder.encode(flat, None, net, EncodeOptions(quality=quality))
            assert decoder.decode(data, None, net).pixels.shape == (height, width, 3)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 40])
def test_low_res_pictures_of_any_size_come_back(net: Model, size: int) -> None:
    rng = np.random.default_rng(size)
    lr = rng.normal(128, 60, (size, 2 * size, 3)).astype(np.float32)
    reference = rng.integers(0, 256, lr.shape, np.uint8)
    payload, received = coder(net).code(lr, reference, 90)
    found = coder(net).decode(payload, lr.shape[:2], reference, 90)
    assert np.array_equal(found, received)
    assert found.shape == lr.shape
    made = coder(net).analyse(torch.from_numpy(lr.transpose(2, 0, 1) / 255), 90)
    expected = coder(net).synthesise(made.y, *lr.shape[:2], 90).numpy().transpose(1, 2, 0)
    assert np.allclose(found, 255 * expected, atol=1e-3)
    assert abs(made.y).max() > 0


def test_another_reference_or_model_is_an_error_and_no_picture(net: Model, path: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    lr = rng.normal(128, 60, (48, 48, 3)).astype(np.float32)
    reference, other = (rng.integers(0, 256, lr.shape, np.uint8) for _ in range(2))
    payload, _ = coder(net).code(lr, reference, 90)
    tensors, metadata = opened(path)
    tensors["exact.parameters.2.2.bias"] += 1 << 16
    safetensors.torch.save_file(tensors, tmp_path / "other.safetensors", metadata)
    elsewhere = coder(model.load(tmp_path / "other.safetensors"))
    for codec_, given in ((coder(net), other), (coder(net), None), (elsewhere, reference)):
        with pytest.raises(ContainerError):
            codec_.decode(payload, (48, 48), given, 90)


def test_overlapping_calls_leave_the_numbers_of_threads_alone(path: Path) -> None:
    program = (
        "import sys, threading, time, numpy as np, torch\n"
        "from pathlib import Path\n"
        "from refscale_codec import model\n"
        "from refscale_codec.lrcodec.gmm import latents\n"
        "coder = model.load(Path(sys.argv[1])).low_res\n"
        "entered, leave = threading.Barrier(3), {True: threading.Event(), False: threading.Event()}\n"
        "counts, encode = [], latents.encode\n"
        "def watched(*args):\n"
        "    counts.append(torch.get_num_threads())\n"
        "    entered.wait()\n"
        "    leave[threading.current_thread().name == 'first'].wait()\n"
        "    return encode(*args)\n"
        "latents.encode = watched\n"
        "def code():\n"
        "    coder.code(np.zeros((9, 9, 3), np.float32), None, 50)\n"
        "    counts.append(torch.get_num_threads())\n"
        "threads = [threading.Thread(target=code, name=name) for name in ('first', 'second')]\n"
        "[thread.start() for thread in threads]\n"
        "entered.wait()\n"
        "for first, thread in zip((True, False), threads):\n"
        "    leave[first].set()\n"
        "    thread.join()\n"
        "threading.Thread(target=lambda: counts.append(torch.get_num_threads())).start()\n"
        "time.sleep(0.2)\n"
        "print(*counts, torch.get_num_threads())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1", "1", "2", "2", "2", "2"]


def test_damaged_latents_are_refused(net: Model, pair: tuple[Image, Image]) -> None:
    file = container.unpack(encoder.prepare(*pair, net, GOOD, choose=lambda *_: Warped(None)).code(90).file())
    reference = tiled.low_res_reference(pair[1], net.scale)
    rng = np.random.default_rng(4)
    for length in [*range(1, 12), len(file.lr) - 1, len(file.lr) + 1]:
        cut = file.lr[:length] + bytes(max(0, length - len(file.lr)))
        with pytest.raises(ContainerError):
            payloads.low_res_of(replace(file, lr=cut), net, reference)
    for _ in range(60):
        flipped = bytearray(file.lr)
        flipped[int(rng.integers(len(flipped)))] ^= 1 << int(rng.integers(8))
        with pytest.raises(ContainerError):
            payloads.low_res_of(replace(file, lr=bytes(flipped)), net, reference)


def test_the_encoder_knows_what_is_received(net: Model, pair: tuple[Image, Image]) -> None:
    group = encoder.prepare(*pair, net, choose=lambda *_: Warped(None)).code(90).groups[0]
    sent = payloads.low_res_of(group.file, net, tiled.low_res_reference(pair[1], net.scale))
    assert np.array_equal(group.low.lr, sent.lr)


def test_the_reference_is_warped_once_and_checked(
    net: Model, pair: tuple[Image, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, reference = pair
    alignment = warp.still(target.height, target.width)._replace(radiometry=(warp.GainOffset(250, 3),) * 3)
    coded = encoder.prepare(target, reference, net, choose=lambda *_: Warped(alignment)).code(90)
    file, warped = coded.groups[0].file, warp.apply(reference, alignment)
    apply, applied = warp.apply, []

    def counted(reference: Image, alignment: warp.Alignment | None, *box: Any) -> Image:
        if alignment is not None:
            applied.append(alignment)
        return apply(reference, alignment, *box)

    monkeypatch.setattr(warp, "apply", counted)
    scene = decoder.Decoder(container.pack(file), reference, net)
    whole, window = scene.read(), scene.read(Box(3, 5, 20, 30))
    assert len(applied) == 1
    assert np.array_equal(window.pixels, whole.pixels[3:20, 5:30])
    plain = replace(file, alignment=None, header=replace(file.header, reference=warped.fingerprint()))
    assert np.array_equal(whole.pixels, decoder.decode(container.pack(plain), warped, net).pixels)
    [found] = decoder.alignments(file)
    assert found is not None
    forged = replace(file, alignment=warp.pack(found._replace(check=found.check ^ 1)))
    with pytest.raises(ReferenceMismatch, match="warped reference differs"):
        decoder.decode(container.pack(forged), reference, net)


def test_codec_and_weights_must_belong_together(net: Model, tiny_model: Model, pair: tuple[Image, Image]) -> None:
    file = container.unpack(encoder.encode(pair[0], None, net, GOOD))
    with pytest.raises(ContainerError, match="not the one of the file's weights"):
        payloads.low_res_of(file, tiny_model, None)
    other = replace(file, header=replace(file.header, codec=lrcodec.JPEG))
    with pytest.raises(ContainerError, match="not the one"):
        payloads.low_res_of(other, net, None)


def test_a_reference_left_unused_is_not_needed_for_the_low_res_picture(net: Model, pair: tuple[Image, Image]) -> None:
    unused, used = (
        encoder.prepare(*pair, net, choose=lambda *_, found=source: found).code(90).groups[0].file
        for source in (Unused(), Warped(None))
    )
    assert np.isfinite(payloads.low_res_of(unused, net, None).lr).all()
    assert used.similarity_map != b""
    with pytest.raises(ContainerError):
        payloads.low_res_of(used, net, None)


def test_latents_do_not_hang_on_predicted_bands(
    net: Model, pair: tuple[Image, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, reference = (Image(np.dstack([x.pixels, x.pixels.mean(axis=2).astype(np.uint8)])) for x in pair)
    data = encoder.prepare(target, reference, net, GOOD, choose=always_predicted).code(GOOD.quality).file()
    _, (_, further) = decoder.disassemble(container.unpack(data))
    assert further.prediction is not None
    payloads.low_res_of(further, net, None)
    usual = decoder.decode(data, reference, net).pixels.astype(int)
    exact = band_prediction.predict
    monkeypatch.setattr(
        band_prediction, "predict", lambda x, rows: exact(np.maximum(x, 1) - 1, rows)
    )  # another machine's
    other = decoder.decode(data, reference, net).pixels
    assert 0 < abs(other - usual).max() <= 3


def test_the_low_res_reference_is_the_rounded_mean(net: Model) -> None:
    pixels = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    found = tiled.low_res_reference(Image(pixels), net.scale)
    padded = np.pad(pixels.astype(float), ((0, 1), (0, 1), (0, 0)), "edge")
    assert np.array_equal(found, np.floor(padded.reshape(2, 2, 3, 2, 3).mean(axis=(1, 3)) + 0.5))
    tensor = torch.from_numpy(padded / 255).permute(2, 0, 1)[None].float()
    told = low_res.normalised_reference(tensor, 2)[0].permute(1, 2, 0)
    assert np.array_equal(128 * told.numpy() + 128, found)


def test_a_real_pair_comes_back(net: Model, data_folder: Path) -> None:
    from refscale_codec.picture.manifest import read_manifest

    pair = next(p for p in read_manifest(data_folder / "manifest.csv", ("dev",)) if p.reference)
    assert pair.reference is not None
    target, reference = (pictures.read(path) for path in (pair.target, pair.reference))
    data = encoder.encode(target, reference, net, GOOD)
    decoded = decoder.decode(data, reference, net)
    assert decoded.pixels.shape == target.pixels.shape
    assert metrics.psnr(target.pixels, decoded.pixels) > 8


# --- training --------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with a small pair and its manifest."""
    rng = np.random.default_rng(1)
    for name in ("new", "old"):
        waves = 128 + 60 * np.sin(np.mgrid[:40, :40].sum(axis=0) / 5)[..., None] + rng.normal(0, 9, (40, 40, 3))
        PIL.Image.fromarray(waves.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "pairs.csv").write_text("split,dataset,target,reference\ntrain,waves,new.png,old.png\n")
    return tmp_path


RECIPE = TrainConfig(
    "pairs.csv", ("train",), replace(TINY, blocks=1), gmm=SMALL, steps=2, warmup=1, decay=0.1, batch=2, crop=32
)
UNTIED = replace(RECIPE, net=UntiedConfig(down_width=8, down_blocks=1, up_width=8, up_blocks=1))
families = pytest.mark.parametrize("recipe", [RECIPE, UNTIED], ids=["flow", "untied"])


@families
def test_both_nets_learn_and_the_weights_code(place: Path, pair: tuple[Image, Image], recipe: TrainConfig) -> None:
    path = loop.train(recipe, place, place / "run")
    net = model.load(path)
    assert isinstance(net.low_res, GmmCodec)
    data = encoder.encode(*pair, net, GOOD)
    assert decoder.decode(data, pair[1], net).pixels.shape == pair[0].pixels.shape
    loop.train(replace(recipe, steps=1), place, place / "pieces")
    again = loop.train(recipe, place, place / "pieces")
    assert again.read_bytes() == path.read_bytes()


def test_rescaler_and_codec_may_start_from_two_files(place: Path) -> None:
    rescaler = loop.train(replace(UNTIED, gmm=None, seed=5), place, place / "rescaler")
    codec = loop.train(replace(RECIPE, seed=6), place, place / "codec")
    started = replace(UNTIED, start_from=("rescaler/weights.safetensors", "codec/weights.safetensors"))
    both = loop.train(started, place, place / "both", minutes=0)
    found = safetensors.torch.load_file(both)
    for path, codec_too in ((rescaler, False), (codec, True)):
        for name, tensor in safetensors.torch.load_file(path).items():
            if name.startswith("low_res.") == codec_too and not name.startswith("exact."):
                assert torch.equal(found[name], tensor), name


@families
def test_at_first_only_the_entropy_model_of_the_codec_learns(place: Path, recipe: TrainConfig) -> None:
    both, alone = (Trained(config).train() for config in (replace(recipe, gmm_first=2), replace(recipe, gmm=None)))
    batch = Crops(read_manifest(place / "pairs.csv", ("train",)), 32, 0.0, 0.0, 0.0).marked_batch(1, 0, 2)
    moved = {}
    for step in (1, 2):
        gradients = []
        for net in (both, alone):
            net.zero_grad()
            torch.manual_seed(step)
            loss, _ = net.loss_of(batch, step)
            loss.backward()  # type: ignore[no-untyped-call]
            gradients.append([x.grad for x in net.rescaler.parameters() if x.grad is not None])
        same = all(torch.equal(x, y) for x, y in zip(*gradients, strict=True))
        assert same == (step == 1)  # until then the rescaler learns with JPEG, as without the codec
        assert both.low_res is not None
        moved[step] = {name for name, x in both.low_res.named_parameters() if x.grad is not None and x.grad.any()}
    entropy = {name for name, _ in both.low_res.named_parameters() if name.startswith(("mixture", "context", "hyper"))}
    transform = {"gain", "forward_dct", "inverse_dct", "analysis.4.weight", "synthesis.6.0.weight"}
    assert not transform & moved[1] and len(entropy - moved[1]) < len(entropy) / 2
    assert transform <= moved[2] and entropy & moved[1] <= moved[2]


def test_the_entropy_model_learns_what_jpeg_leaves() -> None:
    torch.manual_seed(1)
    gmm, quality = Gmm(SMALL), torch.tensor([50.0, 80.0])
    lr, reference = 0.5 + 0.1 * torch.randn(2, 3, 32, 32), torch.zeros(2, 3, 32, 32)
    optimizer = torch.optim.Adam(gmm.parameters(), 3e-3)
    found = []
    for _ in range(20):
        torch.manual_seed(2)
        loss = low_res.entropy_loss(gmm, lr, reference, quality)
        optimizer.zero_grad()
        loss.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        found.append(float(loss.detach().mean()))
    assert found[-1] < found[0] - 0.1


def test_recipes_name_the_codec(place: Path) -> None:
    config = place / "recipe.toml"
    config.write_text('manifest = "pairs.csv"\ncrop = 64\ngmm_first = 5\n[gmm]\nchannels = 16\n')
    recipe = TrainConfig.read(config)
    assert (recipe.gmm, recipe.gmm_first) == (GmmConfig(channels=16), 5)
    for text, reason in {
        "crop = 24\n[gmm]\n": "multiple of 8 low-res pixels, 16, not 24",
        "gmm_first = 5\n": "no effect",
        "[gmm]\nchannels = 0\n": "channels",
        "[gmm]\nwidth = 3\n": "width even",
        "[gmm]\ndepth = 3\n": "unknown field depth",
        "gmm = 3\n": "gmm must be a table",
    }.items():
        config.write_text(f'manifest = "pairs.csv"\n{text}')
        with pytest.raises(UsageError, match=reason):
            TrainConfig.read(config)


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_command_line_codes_and_tells(
    refscale: Callable[..., Outcome], path: Path, pair: tuple[Image, Image], tmp_path: Path
) -> None:
    target, reference = (tmp_path / name for name in ("target.png", "reference.png"))
    for file, picture in zip((target, reference), pair, strict=True):
        file.write_bytes(pictures.to_bytes(picture, "png"))
    coded, back, both = tmp_path / "out.rsc", tmp_path / "back.png", ("--weights", path)
    assert refscale("encode", target, "--ref", reference, "-o", coded, *both, "--output-hash").code == 0
    assert json.loads(refscale("info", coded, "--json").text)["codec"] == "gmm"
    assert refscale("decode", coded, "--ref", reference, "-o", back, *both).code == 0
    net = model.load(path)
    assert np.array_equal(pictures.read(back).pixels, decoder.decode(coded.read_bytes(), pair[1], net).pixels)
    assert "proved: it decodes to the encoder's picture" in refscale("verify", coded, "--ref", reference, *both).err
    assert refscale("verify", coded, *both).code == ReferenceMismatch.exit_code
    outcome = refscale("extract-lr", coded, "-o", tmp_path / "lr.jpg")
    assert (outcome.code, "not a JPEG" in outcome.err) == (ContainerError.exit_code, True)
    outcome = refscale("encode", target, "-o", coded, "--codec", "gmm", *both)
    assert (outcome.code, "--codec would have no effect" in outcome.err) == (UsageError.exit_code, True)


def test_the_codec_works_with_what_ships(refscale: Callable[..., Outcome], tmp_path: Path) -> None:
    examples = Path(__file__).parent.parent / "examples"
    target, reference = examples / "target.png", examples / "reference.png"
    coded, back = tmp_path / "out.rsc", tmp_path / "back.png"
    assert refscale("encode", target, "--ref", reference, "-o", coded, "--codec", "gmm").code == 0
    assert json.loads(refscale("info", coded, "--json").text)["codec"] == "gmm"
    assert refscale("decode", coded, "--ref", reference, "-o", back).code == 0
    assert metrics.psnr(pictures.read(target).pixels, pictures.read(back).pixels) > 30
    assert refscale("encode", target, "-o", coded, "--codec", "gmm", "--scale", "4").code == UsageError.exit_code
