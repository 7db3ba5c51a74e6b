"""`reader`, written from the documents, decodes what refscale writes: FORMAT.md and NETWORK.md are enough.

It gets golden files in a process of its own, in which neither refscale nor the libraries that it codes with can be
imported: numpy and torch are there, and Pillow for the WebP planes of alpha and nodata. What golden pictures do not
show (escapes, many vectors, other configs) it gets here, part by part.

All integers must be equal: coefficients, maps, latents, warped references, and the upscaler of integers. What comes out
of floating point may differ by a level, of 8 or of 16 bits, since sums in another order round otherwise.
"""

import subprocess
import sys
import zlib
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, golden, sine_filled, stored_model
from hypothesis import given, settings
from hypothesis import strategies as st
from reader import container, dct, similarity_map
from reader.bands import Bands, predicted
from reader.decode import decode, fingerprint
from reader.fgrn import Fgrn
from reader.flow import Flow
from reader.learned import Latents, low_res_reference
from reader.references import Layers
from reader.synthesis import Synthesis
from reader.untied import Untied
from reader.warp import of_payload, require_check
from reader.weights import Weights
from test_blending import NAMES as BLENDED
from test_blending import Above, blends
from test_warp import alignments

from refscale_codec import model, weights_files
from refscale_codec.codec import decoder, encoder
from refscale_codec.fileformat import container as file_format
from refscale_codec.lrcodec.dct import coefficients, entropy
from refscale_codec.lrcodec.gmm import latents
from refscale_codec.lrcodec.gmm.codec import GmmCodec, reference_samples
from refscale_codec.picture import levels
from refscale_codec.picture.coded import band_section, bands
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import band_prediction, blending, source, warp
from refscale_codec.rescale import fgrn, tiled, untied
from refscale_codec.rescale import similarity_map as coder
from refscale_codec.rescale.interface import Context
from refscale_codec.rescale.net import RescaleConfig, RescaleNet

TESTS = Path(__file__).parent
TABLES = TESTS.parent / "refscale_codec" / "lrcodec" / "dct" / "tables.npz"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.rsc"))
FORBIDDEN = ("refscale_codec", "constriction", "safetensors", "cv2")

RUN = f"""
import sys
from pathlib import Path
for name in {FORBIDDEN}:
    sys.modules[name] = None  # importing it raises
sys.path.insert(0, {str(TESTS)!r})
import numpy as np
import torch
from reader.decode import decode
from reader.dct import Tables
from reader.weights import Weights
torch.set_num_threads(1)
tables, folder = Tables(Path(sys.argv[1])), Path(sys.argv[2])
weights = {{path.stem: Weights(path) for path in map(Path, sys.argv[3:])}}
by_name = {{weight.fingerprint: weight for weight in weights.values()}}
for file in sorted(Path({str(GOLDEN)!r}).glob("*.rsc")):
    data, older = file.read_bytes(), [np.load(path) for path in folder.glob(f"{{file.stem}}-reference-?.npy")]
    picture, bands = decode(data, by_name[data[16:22]], tables, older)
    alpha = {{}} if bands.alpha is None else {{"alpha": bands.alpha}}
    np.savez(folder / f"{{file.stem}}.npz", pixels=picture, **alpha)
"""


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """What the reader makes of all golden files."""
    folder, make = tmp_path_factory.mktemp("reader"), golden()
    for name in NAMES:
        for at, reference in enumerate(make.references(name)):
            np.save(folder / f"{name}-reference-{at}.npy", reference.pixels)
    weights = sorted({str(make.weights(name)) for name in NAMES})
    subprocess.run([sys.executable, "-c", RUN, str(TABLES), str(folder), *weights], check=True)
    found = {}
    for name in NAMES:
        with np.load(folder / f"{name}.npz") as file:
            found[name] = dict(file)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_reader_decodes_a_golden_file(name: str, decoded: dict[str, dict[str, np.ndarray]]) -> None:
    with np.load(GOLDEN / f"{name}.npz") as file:
        expected = file["pixels"]
    pixels = decoded[name]["pixels"]
    assert (pixels.dtype, pixels.shape) == (expected.dtype, expected.shape)
    finite = np.isfinite(expected)
    assert np.array_equal(pixels[~finite], expected[~finite], equal_nan=True)
    away = abs(pixels[finite].astype(float) - expected[finite])
    level = 0.01 if pixels.dtype == np.float32 else 2 if name == "fgrn" else 1
    assert away.max() <= (0 if name in golden().BOUNDS or golden().weights(name) == golden().EXACT else level)
    assert (away > 0).mean() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alpha", "nodata", "everything", "floats"])
def test_the_reader_keeps_alpha_and_nodata(name: str, decoded: dict[str, dict[str, np.ndarray]]) -> None:
    target = golden().target(name)
    if target.alpha is not None:
        assert (decoded[name]["alpha"] == target.alpha).all()
    if target.nodata is not None:
        assert (
            levels.equal(decoded[name]["pixels"], target.nodata) == levels.equal(target.pixels, target.nodata)
        ).all()


def test_the_reader_finds_metadata_and_the_output_hash() -> None:
    file = container.parse((GOLDEN / "everything.rsc").read_bytes())
    assert container.metadata(file.payloads[container.METADATA]) == dict(
        enumerate(astuple(golden().target("everything").metadata), start=1)
    )
    with np.load(GOLDEN / "everything.npz") as expected:
        assert fingerprint(expected["pixels"]) == file.payloads[container.OUTPUT_HASH]


def test_the_reader_refuses_a_picture_that_is_not_the_one_of_the_hash() -> None:
    make = golden()
    file = file_format.unpack((GOLDEN / "exact.rsc").read_bytes())
    other = file_format.pack(replace(file, output_hash=bytes(6)))
    weights, tables = Weights(make.weights("exact")), dct.Tables(TABLES)
    older = [reference.pixels for reference in make.references("exact")]
    with pytest.raises(ValueError, match="hash"):
        decode(other, weights, tables, older)
    with pytest.raises(ValueError, match="hash"):
        decode(file_format.pack(replace(file, output_hash=None)), weights, tables, older)


# --- part by part ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables() -> dct.Tables:
    return dct.Tables(TABLES)


@pytest.mark.parametrize(("rows", "columns", "quality"), [(1, 1, 1), (5, 8, 49), (3, 17, 99), (8, 7, 100)])
def test_coefficients(rows: int, columns: int, quality: int, tables: dct.Tables) -> None:
    rng = np.random.default_rng(rows)
    falling = np.exp(-np.arange(64) / 8) * 3
    index = np.rint(falling * rng.standard_cauchy((rows, columns, 3, 64))).clip(-1023, 1023).astype(np.int16)
    index[:, :, 2, 50:] = 0
    decoder = dct.Decoder(entropy.encode(index, quality), rows, columns, quality, tables)
    found = decoder.decode()
    assert (decoder.index.transpose(2, 3, 0, 1) == index).all()
    height, width = 8 * rows - 3, 8 * columns - 5
    assert (dct.picture(found, height, width) == coefficients.dequantise(index, height, width, quality)).all()


@pytest.mark.parametrize("levels", [2, 4, 13, 256])
@pytest.mark.parametrize("size", [(1, 2), (3, 1), (6, 7), (20, 8)])
def test_similarity_maps(size: tuple[int, int], levels: int) -> None:
    rng = np.random.default_rng(levels)
    for smap in (
        rng.integers(0, levels, size),
        np.minimum(rng.poisson(0.3, size), levels - 1),
        np.full(size, 1),
        np.full(size, levels - 1),
    ):
        payload = coder.encode(smap.astype(np.uint8), levels)
        assert (similarity_map.decode(payload, *size, levels) == smap).all()


@settings(max_examples=40, deadline=None)
@given(alignment=alignments(), seed=st.integers(0, 1000), dtype=st.sampled_from([np.uint8, np.uint16]))
def test_warps(alignment: warp.Alignment, seed: int, dtype: type[np.generic]) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, np.iinfo(dtype).max + 1, (*rng.integers(1, 300, 2), 3)).astype(dtype)
    warped = warp.apply(Image(reference), alignment)
    alignment = alignment._replace(check=warp.checksum(warped))
    reader, check = of_payload(warp.pack(alignment), alignment.height, alignment.width)
    made = reader.apply(reference)
    assert (made == warped.pixels).all()
    require_check(made, check)


@settings(max_examples=20, deadline=None)
@given(blend=blends(), seed=st.integers(0, 1000), dtype=st.sampled_from([np.uint8, np.uint16]))
def test_blends(blend: tuple[tuple[int, int], bytes | None, Above], seed: int, dtype: type[np.generic]) -> None:
    size, lowest, above = blend
    rng, named = np.random.default_rng(seed), [b"header", *BLENDED]
    older = {
        name: rng.integers(0, np.iinfo(dtype).max + 1, (*rng.integers(1, 300, 2), 3)).astype(dtype) for name in named
    }
    alignment = warp.still(*size)._replace(transform=warp.Transform(int(rng.integers(-300, 300)), 20))
    header = file_format.Header(size[1], size[0], 2, 1, 50, bytes(6), b"header")
    file = file_format.Container(header, b"lr", alignment=warp.pack(alignment), references=blending.pack(lowest, above))
    made = source.of_file(file, named).pixels([Image(older[name]) for name in named], None, Box(0, 0, *size))
    checked = replace(file, alignment=warp.with_check(file.alignment or b"", warp.checksum(Image(made))))
    layers = Layers(container.parse(file_format.pack(checked)))
    assert (layers.apply(older) == made).all()  # it has compared the check


@pytest.fixture(scope="module")
def learned_weights() -> tuple[Weights, GmmCodec]:
    path = weights_files.shipped(2, "gmm")
    codec = model.load(path).low_res
    assert isinstance(codec, GmmCodec)
    return Weights(path), codec


@pytest.mark.parametrize(("quality", "rows", "columns", "with_reference"), [(3, 1, 1, True), (80, 3, 2, False)])
def test_latents(
    quality: int, rows: int, columns: int, with_reference: bool, learned_weights: tuple[Weights, GmmCodec]
) -> None:
    weights, codec = learned_weights
    rng = np.random.default_rng(quality)
    n, m = codec.net.config.channels, codec.net.config.width // 2
    y = np.rint(rng.standard_cauchy((n, rows, columns))).clip(-2047, 2047).astype(np.int64)  # many are escaped
    z = rng.integers(-15, 16, (m, -(-rows // 2), -(-columns // 2)))
    reference = rng.integers(0, 256, (8 * rows - 2, 8 * columns - 1, 3)).astype(np.uint8) if with_reference else None
    samples = reference_samples(reference, rows, columns)
    check = zlib.crc32(y.astype("<i2").tobytes() + z.astype("<i2").tobytes()).to_bytes(4, "little")
    payload = check + latents.encode(latents.Latents(y, z), samples, quality, codec.entropy_model)
    own = Latents(weights, quality).decode(payload, rows, columns, samples.numpy().astype(np.int64))
    assert (own == y).all()


@pytest.mark.parametrize("quality", [1, 30, 50, 99, 100])
def test_synthesis(quality: int, learned_weights: tuple[Weights, GmmCodec]) -> None:
    weights, codec = learned_weights
    y = np.rint(np.random.default_rng(quality).laplace(0, 3, (codec.net.config.channels, 3, 4))).astype(np.int64)
    expected = 255 * codec.synthesise(y, 21, 32, quality)
    made = Synthesis(weights).picture(y, quality)[:, :21]
    assert abs(made - expected).max() < 1e-3 * max(1, float(expected.abs().max()) / 255)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("scale", [2, 4])
def test_low_res_references(scale: int, dtype: type[np.generic]) -> None:
    pixels = np.random.default_rng(scale).integers(0, np.iinfo(dtype).max + 1, (21, 34, 3)).astype(dtype)
    rows, columns = -(-21 // (8 * scale)), -(-34 // (8 * scale))
    expected = reference_samples(tiled.low_res_reference(Image(pixels), scale), rows, columns)
    assert (low_res_reference(pixels, scale, rows, columns) == expected.numpy()).all()


@pytest.mark.parametrize("referenced", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        RescaleConfig(scale=2, flow="paper", blocks=2, width=8, ref_width=8, map_divisor=1, map_levels=7),
        RescaleConfig(scale=4, flow="haar", blocks=2, width=8, ref_width=8, map_divisor=4),
        RescaleConfig(scale=4, flow="paper", blocks=1, width=6, ref_width=4),
    ],
)
def test_flows(config: RescaleConfig, referenced: bool, tmp_path: Path) -> None:
    net = stored_model(config, tmp_path / "net.safetensors").rescaler
    assert isinstance(net, RescaleNet)
    low_res, ref = torch.rand(1, 3, 7, 9), torch.rand(1, 3, 7 * config.scale, 9 * config.scale)
    sides = (-(-side // config.map_divisor) for side in (7, 9))
    levels = torch.randint(0, config.map_levels, (1, 1, *sides))
    context = Context(37, 255 * ref, net.planes(levels, *ref.shape[-2:])) if referenced else Context(37)
    expected = net.up(255 * low_res, context)[0] / 255
    flow = Flow(Weights(tmp_path / "net.safetensors"))
    made = flow.up(low_res[0], ref[0] if referenced else None, levels[0, 0] if referenced else None, 37)
    assert abs(made - expected).max() < 1e-5 * max(1, float(expected.abs().max()))


@pytest.mark.parametrize("scale", [2, 4])
def test_fgrn_nets(scale: int, tmp_path: Path) -> None:
    torch.manual_seed(scale)
    config = fgrn.FgrnConfig(scale=scale, width=8, down_blocks=1, up_blocks=2, cells=3, growth=4)
    net = sine_filled(fgrn.Fgrn(config))
    model.store(net, tmp_path / "net.safetensors")
    low_res = 1.5 * torch.rand(1, 3, 11, 9) - 0.25
    expected = net.reconstruct(low_res)[0]
    away = abs(Fgrn(Weights(tmp_path / "net.safetensors")).up(low_res[0]) - expected)
    assert expected.std() > 0.02 and (away > 1e-5).float().mean() < 0.01  # a sample at a half is rounded either way


@pytest.mark.parametrize("divisor", [1, 2, 4])
@pytest.mark.parametrize("referenced", [True, False])
def test_untied_nets(divisor: int, referenced: bool, tmp_path: Path) -> None:
    torch.manual_seed(divisor)
    config = untied.UntiedConfig(
        up_width=6, up_blocks=3, down_width=4, down_blocks=1, map_divisor=divisor, map_levels=5
    )
    net = untied.Untied(config)
    with torch.no_grad():
        for parameter in net.upscaler.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    model.store(net, tmp_path / "net.safetensors")
    low_res, ref = 255 * torch.rand(1, 3, 11, 18), torch.randint(0, 256, (1, 3, 22, 36)).float()
    levels = torch.randint(0, 5, (1, 1, -(-11 // divisor), -(-18 // divisor)))
    s_map = untied.spread(levels, divisor, 11, 18) if referenced else None
    expected = net.upscale(low_res, ref if referenced else None, s_map, torch.tensor([61]), torch.float32)[0]
    reader = Untied(Weights(tmp_path / "net.safetensors"))
    made = reader.up(low_res[0], ref[0] if referenced else None, levels[0, 0].numpy() if referenced else None, 61)
    assert (made == expected.double()).all()


@pytest.mark.parametrize("deep", [False, True])
def test_a_file_of_untied_nets_decodes_to_the_same_pixels(deep: bool, tmp_path: Path, tables: dct.Tables) -> None:
    torch.manual_seed(5)
    net = untied.Untied(untied.UntiedConfig(up_width=8, up_blocks=2, down_width=4, down_blocks=1))
    with torch.no_grad():
        for parameter in net.upscaler.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    model.store(net, tmp_path / "net.safetensors")
    make, exact = golden(), model.load(tmp_path / "net.safetensors")
    target, reference = (make.deep(make.cut(name)) if deep else make.cut(name) for name in ("target", "reference"))
    target, reference = target[:61, :83].copy(), reference[:61, :83].copy()
    data = encoder.encode(Image(target), Image(reference), exact, encoder.EncodeOptions(70))
    made, _ = decode(data, Weights(tmp_path / "net.safetensors"), tables, [reference])
    assert (made == decoder.decode(data, Image(reference), exact).pixels).all()


@pytest.mark.parametrize("declared", [None, {1: (3, 90)}])
@pytest.mark.parametrize("dtype", levels.TYPES)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_band_groups(dtype: np.dtype, count: int, declared: dict[int, tuple[int, int]] | None) -> None:
    rng, (lowest, highest) = np.random.default_rng(count), levels.limits_of(dtype)
    pixels = rng.integers(int(max(lowest, -100)), 100, (47, 52, count)).astype(dtype)
    pixels[20, 30, 0], pixels[20, 31, 0] = highest // 2, highest
    pixels[4:19, 3:20] = highest
    if dtype.kind == "f":
        pixels[30:35, 2:9], pixels[40, 2:9], pixels[41, 2:9] = np.nan, np.inf, -np.inf
    alpha = rng.integers(0, 256, (47, 52)).astype(dtype)
    picture = Image(pixels, alpha=alpha, nodata=None if count == 2 else highest)
    older = Image(np.where(rng.random(pixels.shape) < 0.8, highest, pixels[::-1]).astype(dtype))
    described = bands.describe(picture, declared)
    assert (described.kept is not None) == (dtype.itemsize > 1 and declared is None)
    assert described.fills == ((highest,) if count == 2 and (dtype.itemsize > 1 or declared and dtype == "u1") else ())
    reader = Bands(band_section.pack(described), 47, 52)
    for other in [dtype] if dtype == np.uint8 else [np.dtype("u4"), np.dtype("i2"), np.dtype("f4"), dtype]:
        again = older
        if other != dtype:
            again = Image(np.nan_to_num(older.pixels.astype(float)).clip(0, 2**15 - 1).astype(other))
        split = [group.pixels for group in bands.split_groups(again, described, reference=True)]
        assert all((a == b).all() for a, b in zip(reader.of_reference(again.pixels), split, strict=True))
    joined = bands.join_groups(split, described, Box(0, 0, 47, 52))
    assert np.array_equal(reader.joined(split), joined.pixels, equal_nan=dtype.kind == "f")
    assert (reader.alpha == alpha).all()


def test_planes_in_parts() -> None:
    alpha = np.random.default_rng(0).integers(0, 256, (2, 4101)).astype(np.uint8)
    described = bands.describe(Image(np.zeros((2, 4101, 3), np.uint8), alpha=alpha))
    assert (Bands(band_section.pack(described), 2, 4101).alpha == alpha).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_predictions(dtype: type[np.generic]) -> None:
    rng, full = np.random.default_rng(7), np.iinfo(dtype).max
    source = rng.integers(0, full + 1, (9, 11, 3)).astype(dtype)
    prediction = band_prediction.fit(source, rng.integers(0, full + 1, (9, 11, 3)).astype(dtype))
    for rows in (prediction, (prediction[0],) * 3):
        payload = band_prediction.pack(rows)
        assert (predicted(payload, source) == band_prediction.predict(source, rows)).all()
