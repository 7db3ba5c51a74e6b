"""The net is invertible block by block and as a whole, its architecture is what it was, its weights file is safe."""

import hashlib
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, sine_filled
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from refscale_codec import model, weights_files
from refscale_codec.errors import UsageError, WeightsError
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import Box
from refscale_codec.rescale import blocks, tiled
from refscale_codec.rescale.net import RescaleConfig, RescaleNet

CONDITION = 5  # channels of the condition that single blocks are tested with
FLOAT64_TOLERANCE = 1e-10  # rounding only: a mistake in an inverse is far larger
# The largest errors measured in float32 over the cases below, on x86-64 with torch 2.13: 3.6e-7 for a block (the 1x1
# convolution), 6.6e-7 for a stage and 7.2e-7 for a whole net (both of the paper's flow). A picture's step is 3.9e-3.
FLOAT32_TOLERANCE = 5e-6
GOLDEN_TOLERANCE = 1e-5  # float32 on any CPU, against values taken on x86-64 with torch 2.13

BLOCKS = {  # name: (block, input channels, what it divides the sides by)
    "HaarSplit": (blocks.HaarSplit, 3, 2),
    "Squeeze": (blocks.Squeeze, 3, 2),
    "SplitCoupling": (lambda: blocks.SplitCoupling(12, CONDITION, 8), 12, 1),
    "ActNorm": (lambda: blocks.ActNorm(12), 12, 1),
    "InvertibleConv1x1": (lambda: blocks.InvertibleConv1x1(12), 12, 1),
    "ConditionalAffine": (lambda: blocks.ConditionalAffine(12, CONDITION, 8), 12, 1),
    "ConditionalAffine of odd channels": (lambda: blocks.ConditionalAffine(7, CONDITION, 8), 7, 1),
    "haar_stage": (lambda: blocks.haar_stage(2, CONDITION, 8), 3, 2),
    "paper_stage": (lambda: blocks.paper_stage(2, CONDITION, 8), 3, 2),
}
EVEN_SIZES = [(2, 2), (6, 10), (14, 34), (2, 18)]


def waves(*shape: int, phase: float = 0.0) -> Tensor:
    """Return a fixed tensor in [0, 1] without structure that a net could exploit, float64."""
    count = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    return (0.5 + 0.5 * torch.sin(0.37 * count + 0.003 * count**2 + phase)).reshape(shape)


def tiny(**changes: object) -> RescaleNet:
    """Return a sine-filled tiny net in evaluation mode."""
    return sine_filled(RescaleNet(replace(TINY, **changes))).eval().requires_grad_(False)


def similar(hr: Tensor) -> Tensor:
    """Return a reference that agrees with `hr` in its left half and not in its right one."""
    ref = 0.9 * hr
    half = ref.shape[-1] // 2
    ref[..., half:] = waves(*ref.shape, phase=2.0)[..., half:]
    return ref


# --- invertibility ---------------------------------------------------------------------------------------------------


def round_trip_error(name: str, size: tuple[int, int], dtype: torch.dtype, batch: int = 2) -> float:
    make, channels, divisor = BLOCKS[name]
    block = sine_filled(make()).to(dtype).eval()
    x = waves(batch, channels, *size).to(dtype)
    condition = waves(batch, CONDITION, size[0] // divisor, size[1] // divisor, phase=1.0).to(dtype)
    with torch.no_grad():
        y = block(x, condition)
        back = block.inverse(y, condition)
    assert y.shape == (batch, channels * divisor**2, size[0] // divisor, size[1] // divisor)
    assert back.shape == x.shape
    assert y.dtype == back.dtype == dtype
    if divisor == 1:
        assert (y - x).abs().max() > 1e-3, "the block does nothing, so its inverse proves nothing"
    return (back - x).abs().max().item()


@pytest.mark.parametrize("size", EVEN_SIZES)
@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_is_undone_by_its_inverse(name: str, size: tuple[int, int]) -> None:
    assert round_trip_error(name, size, torch.float64) < FLOAT64_TOLERANCE
    assert round_trip_error(name, size, torch.float32) < FLOAT32_TOLERANCE


@given(name=st.sampled_from(list(BLOCKS)), rows=st.integers(1, 9), columns=st.integers(1, 9), batch=st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_every_block_is_undone_by_its_inverse_at_any_size(name: str, rows: int, columns: int, batch: int) -> None:
    divisor = BLOCKS[name][2]  # a block that does not split takes odd sides too
    assert round_trip_error(name, (divisor * rows, divisor * columns), torch.float64, batch) < FLOAT64_TOLERANCE


@pytest.mark.parametrize("name", ["SplitCoupling", "ConditionalAffine", "haar_stage", "paper_stage"])
def test_inverse_under_another_condition_does_not_undo(name: str) -> None:
    make, channels, divisor = BLOCKS[name]
    block = sine_filled(make()).double()
    x = waves(1, channels, 8, 8)
    condition = waves(1, CONDITION, 8 // divisor, 8 // divisor, phase=1.0)
    with torch.no_grad():
        assert (block.inverse(block(x, condition), 1 - condition) - x).abs().max() > 1e-3


def test_actnorm_starts_from_its_first_training_batch() -> None:
    block = blocks.ActNorm(3)
    with torch.no_grad():
        y = block.train()(7 + 5 * waves(2, 3, 8, 8).float())
        again = block(waves(2, 3, 8, 8).float())
    assert torch.allclose(y.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(y.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-2)
    assert not torch.allclose(again.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-1)  # the second one changes nothing


def levels_of(net: RescaleNet, hr: Tensor, ref: Tensor) -> Tensor:
    """Return the similarity map in levels."""
    return net.refnet.quantise(net.refnet.similarity(net.refnet.features(hr), net.refnet.features(ref)))


def condition_of(
    net: RescaleNet, ref: Tensor | None, levels: Tensor | None, quality: Tensor, height: int, width: int
) -> list[Tensor]:
    """Return the condition of each stage for pictures of this size."""
    features = None if ref is None else net.refnet.features(ref)
    maps = None if levels is None else net.refnet.spread(levels, height, width)
    return net.refnet.condition(features, maps, quality, height, width)


@pytest.mark.parametrize("with_reference", [True, False], ids=["reference", "alone"])
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("flow", ["haar", "paper"])
def test_whole_net_is_undone_from_z(flow: str, scale: int, with_reference: bool) -> None:
    for dtype, tolerance in ((torch.float64, FLOAT64_TOLERANCE), (torch.float32, FLOAT32_TOLERANCE)):
        net = tiny(flow=flow, scale=scale).to(dtype)
        hr = waves(2, 3, 3 * scale, 5 * scale).to(dtype)
        ref = similar(hr) if with_reference else None
        quality = torch.tensor([0.3, 0.9], dtype=dtype)
        levels = None if ref is None else levels_of(net, hr, ref)
        condition = condition_of(net, ref, levels, quality, *hr.shape[-2:])
        lr, z = net(hr, condition)
        assert lr.shape == (2, 3, 3, 5)
        assert [tuple(latent.shape) for latent in z] == [(2, 9, 3 * 2**k, 5 * 2**k) for k in reversed(range(len(z)))]
        assert (net.inverse(lr, condition, z) - hr).abs().max() < tolerance
        assert (net.inverse(lr, condition) - hr).abs().max() > 1e-2  # zeros for z do lose something
        assert (lr - functional.avg_pool2d(hr, scale)).abs().max() > 1e-3


# --- what goes down --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 4])
def test_fresh_haar_flow_averages(scale: int) -> None:
    net = RescaleNet(replace(TINY, scale=scale)).eval().requires_grad_(False)
    hr = waves(1, 3, 8, 12).float()
    levels = levels_of(net, hr, similar(hr))
    lr, _ = net(hr, condition_of(net, similar(hr), levels, torch.tensor([0.5]), 8, 12))
    assert torch.allclose(lr, functional.avg_pool2d(hr, scale), atol=1e-6)


def test_haar_coefficients_of_a_block_by_hand() -> None:
    x = torch.tensor([[[[8.0, 4.0], [2.0, 6.0]]]])
    assert blocks.HaarSplit()(x).flatten().tolist() == [
        5.0,
        0.0,
        1.0,
        2.0,
    ]  # mean, left - right, top - bottom, diagonal


@pytest.mark.parametrize(("height", "width"), [(29, 37), (1, 1), (1, 7), (16, 24)])
@pytest.mark.parametrize("scale", [2, 4])
def test_any_picture_size_goes_down_and_up(pair: tuple[Image, Image], scale: int, height: int, width: int) -> None:
    target, reference = (Image(picture.pixels[:height, :width]) for picture in pair)
    net = tiny(scale=scale)
    low = tiled.downscale(target, tiled.map_reference(target, reference, net), net, 75)
    rows, columns = -(-height // scale), -(-width // scale)
    assert (low.lr.shape, low.lr.dtype) == ((rows, columns, 3), np.float32)
    assert (low.picture.shape, low.picture.dtype) == ((rows, columns, 3), np.uint8)
    assert low.similarity_map is not None
    assert low.similarity_map.shape == tuple(-(-scale * side // net.cell) for side in (rows, columns))
    [(box, levels)] = tiled.upscale(low, tiled.reference_in_place(reference), (height, width), net, 75)
    assert (box, levels.shape) == (Box(0, 0, height, width), (height, width, 3))


# --- the similarity map and the condition ----------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("divisor", [1, 2, 4])
def test_map_has_the_size_that_the_config_says(divisor: int, scale: int) -> None:
    net = tiny(map_divisor=divisor, scale=scale)
    for rows, columns in ((1, 1), (1, 6), (3, 5), (7, 9), (8, 4)):
        hr = waves(1, 3, scale * rows, scale * columns).float()
        levels = levels_of(net, hr, similar(hr))
        assert tuple(levels.shape[2:]) == (-(-rows // divisor), -(-columns // divisor))
        assert net.cell == scale * divisor


@pytest.mark.parametrize("map_levels", [2, 4, 256])
def test_levels_are_integers_in_range_and_noisy_only_in_training(map_levels: int) -> None:
    net = tiny(map_levels=map_levels)
    hr = waves(2, 3, 24, 32).float()
    features = [net.refnet.features(x) for x in (hr, similar(hr))]
    similarity = net.refnet.similarity(*features)
    assert 0 <= similarity.min() <= similarity.max() <= 1
    exact = similarity * (map_levels - 1)

    levels = net.refnet.quantise(similarity)
    assert torch.equal(levels, levels.round())
    assert (levels - exact).abs().max() <= 0.5
    assert len(levels.unique()) > 1

    torch.manual_seed(0)
    net.train()
    first, second = net.refnet.quantise(similarity), net.refnet.quantise(similarity)
    assert not torch.equal(first, second)
    for noisy in (first, second):
        assert not torch.equal(noisy, noisy.round())
        assert noisy.min() >= 0
        assert noisy.max() <= map_levels - 1
        assert (noisy - exact).abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "sine-filled"])
def test_equal_pictures_have_the_top_level_everywhere(fresh: bool) -> None:
    torch.manual_seed(0)
    net = RescaleNet(TINY).eval().requires_grad_(False) if fresh else tiny()
    hr = waves(1, 3, 16, 20).float()
    levels = levels_of(net, hr, hr.clone())
    assert torch.equal(levels, torch.full_like(levels, TINY.map_levels - 1))


@pytest.mark.parametrize("scale", [2, 4])
def test_a_map_of_zeros_codes_as_no_reference_does(scale: int) -> None:
    net = tiny(scale=scale)
    ref = waves(2, 3, 8 * scale, 6 * scale).float()
    quality = torch.tensor([0.25, 1.0])
    zeros = torch.zeros(2, 1, 4, 3)
    distrusted = condition_of(net, ref, zeros, quality, 8 * scale, 6 * scale)
    alone = condition_of(net, None, None, quality, 8 * scale, 6 * scale)
    for a, b in zip(distrusted, alone, strict=True):
        assert torch.equal(a, b)
        assert not a[:, :-2].any()
        for picture, q in enumerate(quality.tolist()):  # the planes of the quality and of its fourth power
            assert torch.equal(a[picture, -2], torch.full_like(a[picture, -2], q))
            assert torch.equal(a[picture, -1], torch.full_like(a[picture, -1], q**4))
    lr = waves(2, 3, 8, 6, phase=0.5).float()
    assert torch.equal(net.inverse(lr, distrusted), net.inverse(lr, alone))


def test_reference_map_and_quality_matter() -> None:
    net = tiny()
    lr = waves(1, 3, 6, 8).float()
    ref = waves(1, 3, 12, 16, phase=1.0).float()
    levels, quality = torch.full((1, 1, 3, 4), 3.0), torch.tensor([0.5])
    base = net.inverse(lr, condition_of(net, ref, levels, quality, 12, 16))
    for other in (
        condition_of(net, 1 - ref, levels, quality, 12, 16),
        condition_of(net, ref, levels - 1, quality, 12, 16),
        condition_of(net, ref, levels, quality + 0.3, 12, 16),
    ):
        assert (net.inverse(lr, other) - base).abs().max() > 1e-4


# --- numeric goldens -------------------------------------------------------------------------------------------------

# flow, scale: mean of lr, three values of lr, mean of hr_hat, three values of hr_hat, mean similarity
GOLDENS = {
    ("haar", 2): [0.487752, 0.708652, 0.564599, 0.499600, 0.498452, 0.702682, 0.681969, 0.509675, 0.498628],
    ("haar", 4): [0.512207, 0.732098, 0.475352, 0.449701, 0.500406, 0.758201, 0.623996, 0.515771, 0.192659],
    ("paper", 2): [0.408151, 0.570685, -0.062876, 0.044131, 0.091507, 0.599236, 0.007636, -0.172067, 0.498628],
    ("paper", 4): [1.039749, 0.884568, 0.352007, 1.930963, -0.002489, 0.456900, -0.047134, -0.097880, 0.192659],
}


def golden_values(flow: str, scale: int) -> list[float]:
    """Return a few numbers that depend on every parameter; the map is a fixed one, lest rounding flips a level."""
    net = tiny(flow=flow, scale=scale)
    hr = waves(1, 3, 12, 16).float()
    ref = similar(hr)
    quality = torch.tensor([0.6])
    rows, columns = -(-12 // net.cell), -(-16 // net.cell)
    levels = (torch.arange(rows * columns) % 4).reshape(1, 1, rows, columns).float()
    condition = condition_of(net, ref, levels, quality, 12, 16)
    lr, _ = net(hr, condition)
    hr_hat = net.inverse(lr, condition)
    similarity = net.refnet.similarity(net.refnet.features(hr), net.refnet.features(ref))
    values = [lr.mean(), lr[0, 0, 0, 0], lr[0, 1, 1, 2], lr[0, 2, 2, 3]]
    values += [hr_hat.mean(), hr_hat[0, 0, 0, 0], hr_hat[0, 1, 5, 7], hr_hat[0, 2, 11, 15], similarity.mean()]
    return [value.item() for value in values]


@pytest.mark.parametrize(("flow", "scale"), GOLDENS)
def test_architecture_computes_what_it_always_did(flow: str, scale: int) -> None:
    assert golden_values(flow, scale) == pytest.approx(GOLDENS[flow, scale], abs=GOLDEN_TOLERANCE)


def test_restoring_comes_before_the_flow_and_starts_as_nothing() -> None:
    hr = waves(1, 3, 12, 16).float()
    quality = torch.tensor([0.6])
    fresh, filled = RescaleNet(TINY).eval().requires_grad_(False), tiny()
    for net in (fresh, filled):
        condition = condition_of(net, similar(hr), levels_of(net, hr, similar(hr)), quality, 12, 16)
        lr, _ = net(hr, condition)
        difference = net.restore(lr, condition[-1])
        assert difference.any() == (net is filled)
        assert torch.equal(net.upscale(lr, condition), net.inverse(lr + difference, condition))


# --- config ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale", 1),
        ("scale", 3),
        ("scale", 8),
        ("flow", "glow"),
        ("map_divisor", 0),
        ("map_divisor", 3),
        ("map_levels", 1),
        ("map_levels", 257),
        ("blocks", 0),
        ("width", 0),
        ("ref_width", -1),
    ],
)
def test_config_refuses_what_no_net_can_be_built_for(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{field}.*{re.escape(str(value))}"):
        RescaleConfig(**{field: value})


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", ["haar", "paper"])
def test_a_stored_model_is_the_same_net(tmp_path: Path, flow: str) -> None:
    path = tmp_path / "net.safetensors"
    net = sine_filled(RescaleNet(replace(TINY, flow=flow, scale=4, map_divisor=4)))
    model.store(net, path)
    loaded = model.load(path).rescaler
    assert isinstance(loaded, RescaleNet)
    assert loaded.config == net.config
    assert loaded.state_dict().keys() == net.state_dict().keys()
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, net.state_dict()[name]), name
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_stored_model_is_in_half_precision_with_its_config_beside_it(tiny_weights: Path) -> None:
    with safe_open(tiny_weights, framework="pt") as file:
        assert json.loads(file.metadata()["config"]) == {"kind": "flow"} | asdict(TINY)
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118


def test_fingerprint_is_of_the_file(tiny_weights: Path, tiny_model: Model) -> None:
    expected = hashlib.sha256(tiny_weights.read_bytes()).digest()[:6]
    assert weights_files.fingerprint(tiny_weights) == tiny_model.fingerprint == expected


def test_storing_twice_gives_the_same_file(tmp_path: Path, tiny_weights: Path, tiny_model: Model) -> None:
    model.store(flow_of(tiny_model), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == tiny_weights.read_bytes()


def flow_of(given: Model) -> RescaleNet:
    assert isinstance(given.rescaler, RescaleNet)
    return given.rescaler


def weights_file(path: Path, metadata: dict[str, str] | None, tensors: dict[str, Tensor] | None = None) -> None:
    given = {"x": torch.zeros(1)} if tensors is None else tensors
    save_file({name: tensor.contiguous() for name, tensor in given.items()}, path, metadata=metadata)


def config_with(**changes: object) -> dict[str, str]:
    return {"config": json.dumps({**asdict(TINY), **changes})}


@pytest.mark.parametrize(
    "content",
    [b"", b"refscale", b"\xff" * 64, b"\0" * 8, b"\x02\0\0\0\0\0\0\0{}", b"PK\x03\x04 a zip file as torch writes it"],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "photo.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=re.escape(str(path))):
        model.load(path)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {"config": "scale=2"},
        {"config": "[2]"},
        {"config": "null"},
        {"config": '{"scale": 3}'},
        {"config": '{"depth": 3}'},
        {"config": '{"blocks": 2.5}'},
        {"config": '{"width": "48"}'},
        config_with(),
    ],
)
def test_a_safetensors_file_of_another_kind_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "other.safetensors"
    weights_file(path, metadata)
    with pytest.raises(WeightsError, match=re.escape(str(path))) as caught:
        model.load(path)
    assert not re.search("__|argument|attribute|torch|NoneType|Expecting", str(caught.value))


@pytest.mark.parametrize("change", [{"width": 9}, {"ref_width": 7}, {"blocks": 3}, {"scale": 4}, {"flow": "paper"}])
def test_weights_that_do_not_fit_their_config_are_refused(
    tmp_path: Path, tiny_model: Model, change: dict[str, object]
) -> None:
    path = tmp_path / "misfit.safetensors"
    weights_file(path, config_with(**change), flow_of(tiny_model).state_dict())
    with pytest.raises(WeightsError, match=re.escape(str(path))):
        model.load(path)


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path, tiny_model: Model) -> None:
    path = tmp_path / "short.safetensors"
    tensors: dict[str, Tensor] = dict(flow_of(tiny_model).state_dict())
    tensors.popitem()
    weights_file(path, config_with(), tensors)
    with pytest.raises(WeightsError, match=re.escape(str(path))):
        model.load(path)


def test_weights_whose_config_lacks_a_field_are_refused(tmp_path: Path, tiny_model: Model) -> None:
    path = tmp_path / "short.safetensors"
    config = json.loads(config_with()["config"])
    del config["flow"]  # of which there is a default
    weights_file(path, {"config": json.dumps(config)}, flow_of(tiny_model).state_dict())
    with pytest.raises(WeightsError, match="lacks flow"):
        model.load(path)


def test_damaged_numbers_and_absurd_sizes_are_refused(tmp_path: Path, tiny_model: Model) -> None:
    path = tmp_path / "bad.safetensors"
    tensors: dict[str, Tensor] = {name: tensor.clone() for name, tensor in flow_of(tiny_model).state_dict().items()}
    weights_file(path, config_with(blocks=1_000_000_000), tensors)
    with pytest.raises(WeightsError, match="blocks must be a whole number, 1..128, not 1000000000"):
        model.load(path)
    next(tensor for tensor in tensors.values() if tensor.is_floating_point()).view(-1)[0] = torch.nan
    weights_file(path, config_with(), tensors)
    with pytest.raises(WeightsError, match="not finite"):
        model.load(path)


@pytest.mark.parametrize("change", [{"width": 1_000_000}, {"ref_width": 1 << 40}, {"width": 10**30}])
def test_a_net_takes_no_memory_before_its_arrays_fit(
    tmp_path: Path, tiny_model: Model, change: dict[str, object]
) -> None:
    path = tmp_path / "wide.safetensors"
    weights_file(path, config_with(**change), flow_of(tiny_model).state_dict())
    with pytest.raises(WeightsError, match=f"^{re.escape(str(path))} does not hold the weights of a refscale model"):
        model.load(path)


@pytest.mark.parametrize("kind", ["F4", "F8_E8M0", "F6_E2M3", "U64", "BF16", "F64", "C64", "I8", "BOOL", "none"])
def test_an_array_of_another_type_is_refused(tmp_path: Path, tiny_weights: Path, kind: str) -> None:
    """The first array of the file is said to be of another type, of as many bytes."""
    data = tiny_weights.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    name = next(name for name in header if name.endswith("input.weight"))
    bits = {"none": 16, "BOOL": 8, "BF16": 16}.get(kind) or int(re.search(r"\d+", kind)[0])
    start, stop = header[name]["data_offsets"]
    header[name] |= {"dtype": kind, "shape": [8 * (stop - start) // bits]}
    text = json.dumps(header).encode()
    path = tmp_path / "typed.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    with pytest.raises(WeightsError, match=f"^{re.escape(str(path))} ") as caught:
        model.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("zz", torch.zeros(3)),
        ("low_res.gain", torch.zeros(3)),
        ("exact.normal", torch.zeros(3, dtype=torch.int32)),
        ("zz", torch.zeros(3, dtype=torch.complex64)),
    ],
)
def test_a_stray_array_is_refused_by_its_name(tmp_path: Path, tiny_model: Model, name: str, array: Tensor) -> None:
    path = tmp_path / "stray.safetensors"
    weights_file(path, config_with(), {**flow_of(tiny_model).state_dict(), name: array})
    with pytest.raises(WeightsError, match=f"does not hold the weights of a refscale model: .*{name}"):
        model.load(path)


@pytest.mark.parametrize("array", [torch.complex64, torch.float64, torch.int16, torch.bool])
def test_an_array_is_not_cast_silently(tmp_path: Path, tiny_model: Model, array: torch.dtype) -> None:
    path = tmp_path / "cast.safetensors"
    tensors = dict(flow_of(tiny_model).state_dict())
    name = next(iter(tensors))
    weights_file(path, config_with(), {**tensors, name: torch.zeros(tensors[name].shape, dtype=array)})
    with pytest.raises(WeightsError, match=f"its array {name} has .* of the type {str(array)[6:]}; by its description"):
        model.load(path)


def test_a_header_that_is_too_long_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    path.write_bytes((1 << 21).to_bytes(8, "little") + b"[" * (1 << 21))
    with pytest.raises(WeightsError, match="its header has 2097152 bytes"):
        model.load(path)
    with path.open("wb") as file:
        file.truncate(weights_files.LARGEST + 1)
    for read in (model.load, weights_files.fingerprint):
        with pytest.raises(WeightsError, match=f"cannot read {re.escape(str(path))}: over the size limit"):
            read(path)


def test_truncated_weights_are_refused(tmp_path: Path, tiny_weights: Path) -> None:
    path = tmp_path / "cut.safetensors"
    data = tiny_weights.read_bytes()
    for size in (7, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(WeightsError, match=re.escape(str(path))):
            model.load(path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    for read in (model.load, weights_files.fingerprint):
        with pytest.raises(WeightsError, match=re.escape(str(path))):
            read(path)
    with pytest.raises(WeightsError, match=re.escape(str(tmp_path))):
        model.load(tmp_path)  # a folder


def test_weights_that_come_with_the_package_are_found_by_their_fingerprint() -> None:
    path = weights_files.shipped(2)
    assert weights_files.shipped_as(weights_files.fingerprint(path)).read_bytes() == path.read_bytes()
    assert model.load(path).scale == 2


def test_weights_that_do_not_come_with_the_package_are_an_error() -> None:
    with pytest.raises(WeightsError, match="010203040506"):
        weights_files.shipped_as(bytes(range(1, 7)))
    with pytest.raises(UsageError, match="not 3"):
        weights_files.shipped(3)
