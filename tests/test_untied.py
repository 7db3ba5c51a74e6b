import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from refscale_codec.codec import decoder, encoder
from refscale_codec.errors import ContainerError, WeightsError
from refscale_codec.fileformat import container
from refscale_codec.model import load, store
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import Box
from refscale_codec.reference.source import Warped
from refscale_codec.rescale.quantised import floats
from refscale_codec.rescale.untied import MAP_FULL, Untied, UntiedConfig, spread

CONFIG = UntiedConfig(down_width=8, down_blocks=1, up_width=32, up_blocks=2)
QUALITY = torch.tensor([40, 75])


def net(seed: int = 1) -> Untied:
    """Return a net whose last layers are not zero."""
    torch.manual_seed(seed)
    made = Untied(CONFIG)
    for layer in (made.downscaler.output, made.upscaler.output):
        torch.nn.init.normal_(layer.weight, std=0.02)
    torch.nn.init.normal_(made.upscaler.phase, std=0.05)
    return made.to(memory_format=torch.channels_last)


def pictures(height: int = 48, width: int = 64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two smooth pictures [2, 3, height, width] in whole levels."""
    noise = torch.rand(2, 2, 3, height, width, generator=torch.Generator().manual_seed(seed)).flatten(0, 1)
    smooth = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)
    return tuple((255 * (3 * smooth - 1).clamp(0, 1)).round().unflatten(0, (2, 2)))  # type: ignore[return-value]


def half_off(height: int = 24, width: int = 32) -> torch.Tensor:
    levels = torch.full((2, 1, height // 4, width // 4), 3)
    levels[..., : width // 8] = torch.tensor([0, 1])[:, None, None, None]
    return spread(levels, 4, height, width)


def test_starts_as_mean_and_repetition():
    fresh, (hr, ref) = Untied(CONFIG), pictures()
    lr = fresh.downscale(hr / 255, ref / 255, half_off(), QUALITY)
    assert torch.allclose(255 * lr, torch.nn.functional.avg_pool2d(hr, 2), atol=1e-3)
    back = fresh.upscale(255 * lr, ref, half_off(), QUALITY, torch.float32)
    assert torch.allclose(back, torch.nn.functional.interpolate(255 * lr, scale_factor=2), atol=1 / 32 + 1e-3)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # by torch, of its own flags
@pytest.mark.parametrize("referenced", [True, False])
def test_pixels_are_equal_in_every_carrier_and_setting(referenced):
    made, (lr, _), (_, ref) = net(), pictures(24, 32), pictures(48, 64, seed=1)
    given = (ref, half_off()) if referenced else (None, None)
    trained = made.upscale(lr, *given, QUALITY, torch.bfloat16)
    wanted = made.for_inference().upscale(lr, *given, QUALITY, torch.float32)
    assert torch.equal(trained, wanted)
    assert torch.equal(wanted * 16, (wanted * 16).round()) and wanted.std() > 10
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for carrier in (torch.bfloat16, torch.float32, torch.float64):
                assert torch.equal(made.upscale(lr, *given, QUALITY, carrier), wanted)
        with torch.backends.mkldnn.flags(enabled=False):
            assert torch.equal(made.upscale(lr, *given, QUALITY, torch.float32), wanted)
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def test_tile_equals_the_whole_inside_of_its_halo():
    made, (lr, _), (_, ref) = net().for_inference(), pictures(64, 64), pictures(128, 128, seed=1)
    s_map = torch.full((2, 1, 64, 64), 3 * MAP_FULL)
    whole = made.upscale(lr, ref, s_map, QUALITY, torch.bfloat16)
    part, reach = (
        made.upscale(lr[..., 8:56, 8:56], ref[..., 16:112, 16:112], s_map[..., 8:56, 8:56], QUALITY, torch.float32),
        made.reach,
    )
    assert 0 < reach < 16
    inner = slice(2 * reach, 96 - 2 * reach)
    assert torch.equal(part[..., inner, inner], whole[..., 16:112, 16:112][..., inner, inner])
    outer = slice(2 * reach - 2, 96 - 2 * reach + 2)
    assert not torch.equal(part[..., outer, outer], whole[..., 16:112, 16:112][..., outer, outer])


@torch.no_grad()
def test_reference_is_unseen_where_the_map_is_off():
    made, (lr, _), (ref, other) = net().for_inference(), pictures(24, 32), pictures(48, 64, seed=1)
    off = torch.zeros(2, 1, 24, 32, dtype=torch.int64)
    one, two = (made.upscale(lr, x, off, QUALITY, torch.bfloat16) for x in (ref, other))
    assert torch.equal(one, two)
    assert torch.equal(one, made.upscale(lr, None, None, QUALITY, torch.bfloat16))
    on = torch.full_like(off, 3 * MAP_FULL)
    assert not torch.equal(one, made.upscale(lr, ref, on, QUALITY, torch.bfloat16))


@torch.no_grad()
def test_sixteen_bits_and_quality_tell():
    made, (lr, _), (ref, _) = net().for_inference(), pictures(24, 32), pictures(48, 64, seed=1)
    on = torch.full((2, 1, 24, 32), 3 * MAP_FULL)
    usual = made.upscale(lr, ref, on, QUALITY, torch.float32)
    assert torch.equal(made.upscale(lr + 0.01, ref, on, QUALITY, torch.float32), usual)  # below the grid
    assert not torch.equal(made.upscale(lr + 0.25, ref, on, QUALITY, torch.float32), usual)
    assert not torch.equal(made.upscale(lr, ref, on, QUALITY + 10, torch.float32), usual)


@pytest.mark.parametrize("divisor", [1, 2, 4])
def test_spread_is_bilinear_interpolation(divisor):
    levels = torch.randint(0, 4, (2, 1, 5, 7), generator=torch.Generator().manual_seed(divisor))
    wanted = torch.nn.functional.interpolate(
        levels.double(), scale_factor=divisor, mode="bilinear", align_corners=False
    )
    whole = spread(levels, divisor, 5 * divisor, 7 * divisor)
    assert torch.equal(whole.double(), MAP_FULL * wanted)
    assert torch.equal(spread(levels, divisor, 5 * divisor - 1, 7 * divisor), whole[..., :-1, :])


def test_every_parameter_learns():
    made, (hr, ref) = net(), pictures()
    with torch.autocast("cpu", torch.bfloat16):
        lr = made.downscale(hr / 255, ref / 255, half_off(), QUALITY)
        back = made.upscale(255 * lr, ref, half_off(), QUALITY, torch.bfloat16)
    (back - hr).square().mean().backward()
    silent = [name for name, x in made.named_parameters() if x.grad is None or not x.grad.abs().sum() > 0]
    assert not silent


@pytest.mark.parametrize(
    "wrong", [{"scale": 4}, {"map_divisor": 3}, {"map_levels": 1}, {"up_blocks": 0}, {"up_width": 1.5}]
)
def test_config_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[-1]):
        UntiedConfig(**wrong)


@torch.no_grad()
def test_what_is_stored_makes_the_same_pixels(tmp_path):
    made, (lr, _), (ref, _) = net().for_inference(), pictures(24, 32), pictures(48, 64, seed=1)
    store(made, tmp_path / "net.safetensors")
    again = load(tmp_path / "net.safetensors").rescaler
    assert isinstance(again, Untied)
    assert again.config == made.config
    wanted = made.upscale(lr, ref, half_off(), QUALITY, torch.bfloat16)
    assert torch.equal(again.upscale(lr, ref, half_off(), QUALITY, torch.float32), wanted)
    hr = ref / 255
    near = again.downscale(hr, hr, half_off(), QUALITY) - made.downscale(hr, hr, half_off(), QUALITY)
    assert near.abs().max() < 1e-3  # half precision


def test_a_file_that_does_not_fit_its_config_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    store(net().for_inference(), path)
    data = path.read_bytes()
    for changed in (
        data.replace(b"untied", b"united"),
        data[:-1],
        data.replace(b'up_blocks\\": 2', b'up_blocks\\": 3'),
        data.replace(b'up_blocks\\": 2', b'up_blocks\\": 9'),
    ):
        assert changed != data
        path.write_bytes(changed)
        with pytest.raises(WeightsError, match=str(path)):
            load(path)


def test_weights_whose_sums_are_not_exact_are_refused_when_they_are_read(tmp_path):
    path, exact = tmp_path / "net.safetensors", net().for_inference()
    exact.upscaler.output.bias[0] = 1 << 24
    store(exact, path)
    with pytest.raises(WeightsError, match="sums are not exact"):
        load(path)


@torch.no_grad()
def test_training_goes_on_from_the_net_that_was_stored():
    exact, trained, (lr, _), (_, ref) = net().for_inference(), net(seed=2), pictures(24, 32), pictures(48, 64, seed=1)
    trained.load_state_dict(floats(exact.state_dict()))
    wanted = exact.upscale(lr, ref, half_off(), QUALITY, torch.float32)
    assert torch.equal(trained.upscale(lr, ref, half_off(), QUALITY, torch.float32), wanted)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("untied") / "net.safetensors"
    store(net().for_inference(), path)
    return load(path)


def test_a_file_has_the_hash_of_its_picture_and_decodes_to_nothing_else(model, pair):
    target, reference = pair
    data = encoder.encode(target, reference, model)
    file = container.unpack(data)
    decoded = decoder.decode(data, reference, model)
    assert file.output_hash == decoded.fingerprint()
    forged = container.pack(replace(file, output_hash=b"forged"))
    with pytest.raises(ContainerError, match=f"{decoded.fingerprint().hex()}.*{b'forged'.hex()}"):
        decoder.decode(forged, reference, model)
    decoder.decode(forged, reference, model, window=Box(0, 0, 9, 9))  # of a part nothing can be told
    with pytest.raises(ContainerError, match="no OUTPUT_HASH"):
        decoder.decode(container.pack(replace(file, output_hash=None)), reference, model)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_tiles_of_any_size_give_the_same_picture(model, kind):
    y, x = np.mgrid[:150, :203]
    planes = [np.sin(x / 9 + k) * np.cos(y / (7 + k)) for k in range(3)]
    pixels = (np.iinfo(kind).max * (0.5 + 0.4 * np.stack(planes, axis=-1))).astype(kind)
    target, reference = Image(pixels), Image(pixels[::-1].copy())
    plan = encoder.prepare(target, reference, model, choose=lambda *_: Warped(None))
    data = plan.code(80).file()
    first, *others = (decoder.decode(data, reference, model, tile=tile).pixels for tile in (512, 16, 48, 112))
    assert first.std() > 0.05 * np.iinfo(kind).max
    assert all(np.array_equal(first, other) for other in others)


HASHES = """
import hashlib, torch, test_untied as t
net, (lr, _), (_, ref) = t.net().for_inference(), t.pictures(24, 32), t.pictures(48, 64, seed=1)
with torch.no_grad():
    for carrier in (torch.bfloat16, torch.float32):
        picture = net.upscale(lr, ref, t.half_off(), t.QUALITY, carrier)
        print(hashlib.sha256(picture.numpy().tobytes()).hexdigest())
"""


def hashes(**settings: str) -> list[str]:
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", HASHES], env=os.environ | paths | settings, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_pixels_are_equal_whatever_the_processor_can_do():
    usual = hashes()
    assert usual == 2 * usual[:1]
    assert hashes(ONEDNN_MAX_CPU_ISA="SSE41", ATEN_CPU_CAPABILITY="default") == usual
    assert hashes(ONEDNN_MAX_CPU_ISA="AVX2") == usual
