"""The sentence works end to end, and refuses what would give a plausible wrong picture."""

import csv
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from conftest import ROOT, TINY, stored_model
from hypothesis import given, settings
from hypothesis import strategies as st

from refscale_codec import lrcodec, model, weights_files
from refscale_codec.codec import decoder, encoder, payloads
from refscale_codec.codec.encoder import EncodeOptions
from refscale_codec.codec.reconstruction import reconstruct
from refscale_codec.errors import ContainerError, ReferenceMismatch, UsageError, WeightsError
from refscale_codec.fileformat import container
from refscale_codec.lrcodec.dct import coefficients, entropy, jfif
from refscale_codec.lrcodec.dct.codec import BIT_WORTH
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.metadata import Metadata
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import band_prediction, registration, warp
from refscale_codec.reference.source import Predicted, ReferenceSource, Unused, Warped
from refscale_codec.rescale import similarity_map, tiled
from refscale_codec.rescale.net import RescaleNet
from refscale_codec.study import metrics
from refscale_codec.study.coders import jpeg

Pair = tuple[Image, Image]


@pytest.fixture(scope="module", params=[2, 4], ids=["x2", "x4"])
def net(request: pytest.FixtureRequest, tiny_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The tiny net, and one of scale 4."""
    if request.param == 2:
        return tiny_model
    return stored_model(replace(TINY, scale=4, blocks=1), tmp_path_factory.mktemp("weights") / "tiny-x4.safetensors")


@pytest.fixture(scope="module")
def coded(pair: Pair, tiny_model: Model) -> bytes:
    """The pair's target, coded with its reference."""
    return encoder.encode(*pair, tiny_model)


def cut(picture: Image, height: int, width: int) -> Image:
    return Image(np.ascontiguousarray(picture.pixels[:height, :width]))


def in_place(*_: object) -> ReferenceSource:
    """Choose the reference as it lies."""
    return Warped(None)


def downscaled(target: Image, reference: Image, net: Model, quality: int, tile: int = 512) -> tiled.LowRes:
    """Return what the net makes of a picture and a reference in place."""
    mapped = tiled.map_reference(target, reference, net.rescaler, tile)
    return tiled.downscale(target, mapped, net.rescaler, quality, tile)


def upscaled(low: tiled.LowRes, reference: Image, net: Model, quality: int = 75) -> np.ndarray:
    """Return what the net makes of a low-res picture and a reference in place, of the picture's size."""
    size = reference.height, reference.width
    return reconstruct(low, tiled.reference_in_place(reference), size, net, quality, tile=512)


def with_header(data: bytes, **changes: object) -> bytes:
    """Return a file whose header says something else; its check sums fit."""
    file = container.unpack(data)
    return container.pack(replace(file, header=replace(file.header, **changes)))


# --- it works --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_reference", [True, False], ids=["reference", "alone"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 7), (3, 2), (37, 29)])
def test_a_picture_of_any_size_comes_back_in_it(
    pair: Pair, net: Model, width: int, height: int, with_reference: bool
) -> None:
    target, reference = (cut(picture, height, width) for picture in pair)
    given, choose = (reference, in_place) if with_reference else (None, lambda *_: Unused())
    data = encoder.prepare(target, given, net, choose=choose).code(95).file()
    decoded = decoder.decode(data, given, net)
    assert decoded.pixels.shape == (height, width, 3)

    file = container.unpack(data)
    scale = net.scale
    assert file.header == container.Header(
        width, height, scale, lrcodec.JPEG, 95, net.fingerprint, reference.fingerprint() if with_reference else None
    )
    low = payloads.low_res_of(file, net, None)
    assert (low.lr.shape, low.lr.dtype) == ((-(-height // scale), -(-width // scale), 3), np.float32)
    if with_reference:
        assert low.similarity_map is not None
        assert low.similarity_map.shape == tuple(-(-scale * side // net.rescaler.cell) for side in low.lr.shape[:2])
    else:
        assert low.similarity_map is None


def test_a_decoded_picture_resembles_what_was_coded(pair: Pair, tiny_model: Model) -> None:
    target, reference = pair
    data = encoder.encode(target, reference, tiny_model, EncodeOptions(quality=95))
    assert (
        metrics.psnr(target.pixels, decoder.decode(data, reference, tiny_model).pixels) > 20
    )  # the net is not trained


def test_coding_and_decoding_are_deterministic(pair: Pair, tiny_model: Model, coded: bytes) -> None:
    target, reference = pair
    assert encoder.encode(target, reference, tiny_model) == coded
    first, second = (decoder.decode(coded, reference, tiny_model) for _ in range(2))
    assert np.array_equal(first.pixels, second.pixels)


def test_pictures_are_left_alone(pair: Pair, tiny_model: Model) -> None:
    copies = [Image(picture.pixels.copy()) for picture in pair]
    decoder.decode(encoder.encode(*copies, tiny_model), copies[1], tiny_model)
    for picture, kept in zip(copies, pair, strict=True):
        assert np.array_equal(picture.pixels, kept.pixels)


def test_a_picture_is_padded_by_repeating_its_last_row_and_column(pair: Pair, net: Model) -> None:
    scale = net.scale
    height, width = 4 * scale - 1, 3 * scale - 1
    odd = [cut(picture, height, width) for picture in pair]
    padded = [Image(np.pad(picture.pixels, ((0, 1), (0, 1), (0, 0)), mode="edge")) for picture in odd]
    low, expected = (downscaled(*both, net, 75) for both in (odd, padded))
    assert np.array_equal(low.lr, expected.lr)
    assert np.array_equal(low.similarity_map, expected.similarity_map)
    whole = upscaled(low, padded[1], net, 75)
    assert np.array_equal(upscaled(low, odd[1], net, 75), whole[:height, :width])


def test_low_res_samples_are_neither_rounded_nor_clipped(tiny_model: Model) -> None:
    fresh = RescaleNet(TINY).eval()  # it averages
    pixels = np.array([[10, 10, 10, 10], [10, 13, 10, 11]], np.uint8)[..., None].repeat(3, axis=2)  # 10.75, 10.25
    low = tiled.downscale(Image(pixels), None, fresh, 75)
    assert low.lr.dtype == np.float32
    assert low.lr[..., 0].tolist() == [pytest.approx([10.75, 10.25], abs=1e-3)]
    assert low.picture.dtype == np.uint8
    assert low.picture[..., 0].tolist() == [[11, 10]]

    halves = Image(np.repeat([0, 255], 8).astype(np.uint8)[None, :, None].repeat(16, axis=0).repeat(3, axis=2))
    low = tiled.downscale(halves, None, tiny_model.rescaler, 75)
    assert low.lr.min() < 0
    assert low.lr.max() > 255
    assert (low.picture.min(), low.picture.max()) == (0, 255)


def test_eight_bits_are_the_nearest_in_range() -> None:
    samples = np.array([-300, -0.6, 0.4, 0.6, 127.4, 254.6, 255.4, 256, 700], np.float32)
    found = tiled.LowRes(samples, None).picture
    assert found.dtype == np.uint8
    assert found.tolist() == [0, 0, 0, 1, 127, 255, 255, 255, 255]


@pytest.mark.parametrize("quality", [20, 85, 100])
def test_the_low_res_payload_holds_what_the_net_made(pair: Pair, tiny_model: Model, quality: int) -> None:
    target, reference = pair
    group = encoder.prepare(target, reference, tiny_model, choose=in_place).code(quality).groups[0]
    low = downscaled(target, reference, tiny_model, quality)
    sent = payloads.low_res_of(group.file, tiny_model, None)
    assert np.array_equal(low.similarity_map, sent.similarity_map)
    exact = coefficients.in_steps(low.lr, quality)
    payload, indices = entropy.quantise_and_encode(exact, quality, BIT_WORTH)
    assert group.file.lr == payload
    expected = coefficients.dequantise(indices, *low.lr.shape[:2], quality)
    assert np.array_equal(sent.lr, expected)
    assert abs(sent.lr - low.lr).mean() < {20: 20, 85: 5, 100: 0.5}[quality]


@pytest.mark.parametrize("thrift", [1.0, 4.0])
def test_the_encoder_knows_what_is_received(pair: Pair, tiny_model: Model, thrift: float) -> None:
    coded = encoder.prepare(*pair, tiny_model).code(40, thrift)
    sent = payloads.low_res_of(coded.groups[0].file, tiny_model, None)
    assert np.array_equal(coded.groups[0].low.lr, sent.lr)
    assert np.array_equal(coded.groups[0].low.similarity_map, sent.similarity_map)
    assert np.array_equal(coded.picture().pixels, decoder.decode(coded.file(), pair[1], tiny_model).pixels)


def test_what_the_net_gets_is_not_rounded(pair: Pair, tiny_model: Model) -> None:
    coded = encoder.prepare(*pair, tiny_model, choose=in_place).code(75).file()
    low = payloads.low_res_of(container.unpack(coded), tiny_model, None)
    assert (low.lr != low.picture).any()
    rounded = low._replace(lr=low.picture.astype(np.float32))
    exact, other = (upscaled(x, pair[1], tiny_model) for x in (low, rounded))
    assert np.array_equal(decoder.decode(coded, pair[1], tiny_model).pixels, exact)
    assert not np.array_equal(exact, other)


def test_the_reference_and_the_quality_reach_the_decoded_picture(pair: Pair, tiny_model: Model) -> None:
    target, reference = pair
    low = downscaled(target, reference, tiny_model, 75)
    decoded = upscaled(low, reference, tiny_model, 75)
    assert not np.array_equal(upscaled(low, Image(reference.pixels // 2), tiny_model, 75), decoded)
    assert not np.array_equal(upscaled(low, reference, tiny_model, 1), decoded)
    sizes = [len(encoder.encode(target, reference, tiny_model, EncodeOptions(quality))) for quality in (30, 75)]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("level", range(TINY.map_levels))
def test_a_map_that_is_the_same_everywhere_comes_back(pair: Pair, tiny_model: Model, level: int) -> None:
    target, reference = pair
    coded = encoder.prepare(target, reference, tiny_model, choose=in_place).code(75).groups[0]
    low = coded.low._replace(similarity_map=np.full((8, 10), level, np.uint8))
    sections = payloads.reference_sections(Warped(None), low.similarity_map, tiny_model, [reference.fingerprint()])
    file = container.Container(coded.file.header, coded.file.lr, **sections)
    assert file.similarity_map == [b"", b"\1", b"\2", None][level]
    sent = payloads.low_res_of(file, tiny_model, None)
    assert np.array_equal(sent.similarity_map, low.similarity_map if level else None)
    decoded = decoder.decode(container.pack(file), reference, tiny_model)
    if level:
        assert np.array_equal(decoded.pixels, upscaled(sent, reference, tiny_model))
    else:
        alone = reconstruct(sent, None, (29, 37), tiny_model, 75, tile=512)
        assert np.array_equal(decoded.pixels, alone)


def test_no_map_is_not_an_empty_one(pair: Pair, tiny_model: Model, coded: bytes) -> None:
    file = container.unpack(coded)
    none, empty = (container.pack(replace(file, similarity_map=payload)) for payload in (None, b""))
    assert len(empty) == len(none) + 6
    decoded = [decoder.decode(data, pair[1], tiny_model).pixels for data in (none, empty)]
    assert not np.array_equal(*decoded)


@pytest.mark.parametrize("with_reference", [True, False], ids=["reference", "alone"])
def test_the_output_hash_is_that_of_the_decoded_picture(pair: Pair, net: Model, with_reference: bool) -> None:
    target, reference = pair
    given = reference if with_reference else None
    plain = encoder.encode(target, given, net)
    hashed = encoder.encode(target, given, net, EncodeOptions(output_hash=True))
    assert container.unpack(plain).output_hash is None
    assert container.unpack(hashed).output_hash == decoder.decode(hashed, given, net).fingerprint()
    assert replace(container.unpack(hashed), output_hash=None) == container.unpack(plain)


# --- a reference that does not help ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_reference_is_used_where_it_helps_and_left_where_it_does_not() -> None:
    target, reference = (
        cut(pictures.read(ROOT / "examples" / f"{name}.png"), 192, 192) for name in ("target", "reference")
    )
    net = model.load(weights_files.shipped(2))
    noise = Image(np.random.default_rng(0).integers(0, 256, target.pixels.shape, dtype=np.uint8))
    used = [encoder.prepare(target, ref, net).groups[0].source.used for ref in (reference, noise)]
    assert used == [True, False]

    helped, alone = (encoder.encode(target, ref, net) for ref in (reference, None))
    assert encoder.encode(target, noise, net) == alone
    sent = payloads.low_res_of(container.unpack(helped), net, None)
    assert sent.similarity_map is not None
    assert sent.similarity_map.any()


@pytest.mark.slow
def test_a_reference_is_moved_only_where_that_helps() -> None:
    target, reference = (pictures.read(ROOT / "examples" / f"{name}.png") for name in ("target", "reference"))
    net = model.load(weights_files.shipped(2))
    assert (
        registration.estimate(target, reference) is not None
    )  # light and season mislead it: this reference lies in place
    [lit] = decoder.alignments(container.unpack(encoder.encode(target, reference, net)))
    assert lit is None or lit._replace(radiometry=None).does_nothing
    off = Image(np.roll(reference.pixels, (5, -3), axis=(0, 1)))
    assert container.unpack(encoder.encode(target, off, net)).alignment is not None


@pytest.mark.slow
def test_a_reference_of_another_size_is_brought_onto_the_grid() -> None:
    target, reference = (
        cut(pictures.read(ROOT / "examples" / f"{name}.png"), 240, 240) for name in ("target", "reference")
    )
    net = model.load(weights_files.shipped(2))
    sizes = {}
    for side in (120, 240, 450):
        resized = Image(cv2.resize(reference.pixels, (side, side), interpolation=cv2.INTER_AREA))
        data = encoder.encode(target, resized, net)
        sizes[side] = len(data)
        decoded = decoder.decode(data, resized, net)
        assert metrics.psnr(target.pixels, decoded.pixels) > 30
        window = decoder.decode(data, resized, net, window=Box(100, 50, 200, 151))
        assert np.array_equal(window.pixels, decoded.pixels[100:200, 50:151])
    assert sizes[450] < 1.1 * sizes[240]
    assert sizes[120] < 0.9 * len(encoder.encode(target, None, net))


def test_a_reference_that_is_no_help_is_left_out_of_the_file(pair: Pair, net: Model) -> None:
    coded = encoder.prepare(*pair, net, choose=lambda *_: Unused()).code(75)
    assert coded.file() == encoder.encode(pair[0], None, net)
    assert coded.size() == len(coded.file())


def test_a_reference_that_helps_one_group_is_needed_and_one_for_none_is_not(pair: Pair, net: Model) -> None:
    target, reference = (Image(np.dstack([one.pixels, one.pixels[..., ::-1]])) for one in pair)
    fingerprint = reference.fingerprint()

    def named(*sources: ReferenceSource) -> list[bytes | None]:
        found = iter(sources)
        data = encoder.prepare(target, reference, net, choose=lambda *_: next(found)).code(60).file()
        older = reference if container.unpack(data).header.reference else None
        assert decoder.decode(data, older, net).bands == 6
        return [file.header.reference for file in decoder.disassemble(container.unpack(data))[1]]

    flat = np.zeros((1, 1, 3), np.uint8)
    nothing = Predicted(band_prediction.fit(flat, flat))  # fitted again at each quality
    assert named(Warped(None), Unused()) == [fingerprint, fingerprint]
    assert named(Unused(), Warped(None)) == [fingerprint, fingerprint]
    assert named(Unused(), Unused()) == [None, None]
    assert named(Unused(), nothing) == [None, None]


def test_the_name_of_a_reference_is_kept_only_where_it_is_cheap_or_wanted(pair: Pair, tiny_model: Model) -> None:
    target, reference = pair[0], replace(pair[1], name="é" * 200 + ".tif")

    def name_in(picture: Image, wanted: bool | None = None) -> bytes | None:
        plan = encoder.prepare(picture, reference, tiny_model, EncodeOptions(reference_name=wanted))
        coded = plan.code(75)
        assert coded.size() == len(coded.file())
        return container.unpack(coded.file()).reference_name

    cut_name = ("é" * 127).encode()
    noise = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()
    assert name_in(target) is None
    assert name_in(target, True) == cut_name
    assert name_in(replace(target, metadata=Metadata(icc=noise[:200_000]))) is None
    assert name_in(replace(target, metadata=Metadata(icc=noise))) == cut_name
    assert name_in(replace(target, metadata=Metadata(icc=noise)), False) is None
    with pytest.raises(ReferenceMismatch, match=r"its reference [0-9a-f]{12} \(ééé"):
        decoder.decode(
            encoder.encode(target, reference, tiny_model, EncodeOptions(reference_name=True)), None, tiny_model
        )


def test_a_reference_of_another_size_must_be_warped(pair: Pair, net: Model) -> None:
    target, reference = pair[0], cut(pair[1], 8, 8)
    file = encoder.prepare(target, reference, net, choose=lambda *_: Unused()).code(75).groups[0].file
    wrong = container.pack(replace(file, similarity_map=None))  # says that the reference lies in place
    with pytest.raises(ContainerError, match="another size"):
        decoder.decode(wrong, reference, net)


def test_another_warped_reference_than_the_encoders_is_noticed(scene: Pair, mapped: bytes, net: Model) -> None:
    file = container.unpack(mapped)
    [found] = decoder.alignments(file)
    assert found is not None
    forged = container.pack(replace(file, alignment=warp.pack(found._replace(check=found.check ^ 1))))
    decoder.decode(forged, scene[1], net, window=Box(0, 0, 50, 50))
    with pytest.raises(ReferenceMismatch, match="warped reference differs"):
        decoder.decode(forged, scene[1], net)


# --- tiles and windows -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene() -> Pair:
    """A pair of 203 x 150 pixels: several tiles of 64 each way, and no whole number of cells of the map."""
    target, reference = (
        cut(pictures.read(ROOT / "examples" / f"{name}.png"), 150, 203) for name in ("target", "reference")
    )
    return target, reference


@pytest.fixture(scope="module")
def mapped(scene: Pair, net: Model) -> bytes:
    """The scene, coded with a warped reference and a map that varies."""
    target, reference = scene
    still = warp.still(target.height, target.width)
    alignment = still._replace(motion=np.full((3, 4, 2), 7, np.int16))
    plan = encoder.prepare(target, reference, net, choose=lambda *_: Warped(alignment))
    group = plan.code(75).groups[0]
    assert group.low.similarity_map is not None
    levels = np.random.default_rng(1).integers(0, 4, group.low.similarity_map.shape, dtype=np.uint8)
    sections = payloads.reference_sections(group.reference.source, levels, net, [reference.fingerprint()])
    return container.pack(container.Container(group.file.header, group.file.lr, **sections))


def test_the_net_comes_to_the_same_in_tiles(scene: Pair, net: Model, mapped: bytes) -> None:
    target, reference = scene
    whole, parts = (downscaled(target, reference, net, 75, tile) for tile in (512, 64))
    assert whole.similarity_map is not None
    assert abs(whole.lr - parts.lr).max() < 0.05
    assert (whole.similarity_map != parts.similarity_map).mean() < 0.002  # on the edge between two levels
    decoded = [decoder.decode(mapped, reference, net, tile=tile).pixels.astype(int) for tile in (512, 64)]
    assert abs(decoded[0] - decoded[1]).max() <= 1
    assert (decoded[0] != decoded[1]).mean() < 0.002


def test_a_tile_is_what_the_net_makes_of_it_and_its_halo(scene: Pair, tiny_model: Model) -> None:
    target = scene[0]
    whole = tiled.downscale(target, None, tiny_model.rescaler, 75, 64)
    corner = tiled.downscale(
        cut(target, 48 + 48, 64 + 48), None, tiny_model.rescaler, 75
    )  # the first core is 64 x 64 or less
    assert np.allclose(whole.lr[:24, :24], corner.lr[:24, :24], atol=1e-3)  # rounding goes with a tensor's size


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_window_has_exactly_the_pixels_of_the_whole(
    scene: Pair, net: Model, mapped: bytes, data: st.DataObject
) -> None:
    reference = scene[1]
    top, left = data.draw(st.integers(0, 149)), data.draw(st.integers(0, 202))
    box = Box(top, left, data.draw(st.integers(top + 1, 150)), data.draw(st.integers(left + 1, 203)))
    whole, part = (decoder.decode(mapped, reference, net, tile=64, window=window) for window in (None, box))
    assert np.array_equal(part.pixels, whole.pixels[box.slices])


@pytest.mark.parametrize("window", [Box(0, 0, 29, 38), Box(-1, 0, 5, 5), Box(29, 0, 30, 1), Box(3, 3, 3, 9)])
def test_a_window_beyond_the_picture_is_refused(pair: Pair, tiny_model: Model, coded: bytes, window: Box) -> None:
    with pytest.raises(UsageError, match="picture of 37x29"):
        decoder.decode(coded, pair[1], tiny_model, window=window)


def test_a_tile_of_another_size_is_refused(pair: Pair, tiny_model: Model, coded: bytes) -> None:
    with pytest.raises(UsageError, match="multiple of 16"):
        decoder.decode(coded, pair[1], tiny_model, tile=100)
    with pytest.raises(UsageError, match="multiple of 16"):
        EncodeOptions(tile=0)


@pytest.mark.slow
def test_a_real_revisit_has_no_seams(data_folder: Path) -> None:
    with (data_folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if (row["dataset"], row["split"]) == ("naip_chico", "dev"))
    target, reference = (pictures.read(data_folder / row[column]) for column in ("target", "reference"))
    net = model.load(weights_files.shipped(2))
    psnr = []
    for tile in (512, 128):
        data = encoder.encode(target, reference, net, EncodeOptions(tile=tile))
        decoded = decoder.decode(data, reference, net, tile=tile)
        psnr.append(metrics.psnr(target.pixels, decoded.pixels))
    assert abs(psnr[0] - psnr[1]) < 0.005
    window = decoder.decode(data, reference, net, tile=128, window=Box(100, 90, 150, 200))
    assert np.array_equal(window.pixels, decoded.pixels[100:150, 90:200])


# --- it refuses ------------------------------------------------------------------------------------------------------


def test_a_wrong_reference_is_refused(pair: Pair, tiny_model: Model, coded: bytes) -> None:
    target, reference = pair
    pixels = reference.pixels.copy()
    pixels[-1, -1, -1] ^= 1
    with pytest.raises(
        ReferenceMismatch, match=f"{reference.fingerprint().hex()}.*{Image(pixels).fingerprint().hex()}"
    ):
        decoder.decode(coded, Image(pixels), tiny_model)
    with pytest.raises(ReferenceMismatch):
        decoder.decode(coded, cut(reference, 28, 37), tiny_model)
    with pytest.raises(ReferenceMismatch):
        decoder.decode(coded, target, tiny_model)


def test_a_missing_reference_is_named(pair: Pair, tiny_model: Model, coded: bytes) -> None:
    with pytest.raises(ReferenceMismatch, match=pair[1].fingerprint().hex()):
        decoder.decode(coded, None, tiny_model)


def test_a_reference_that_is_not_needed_is_ignored(pair: Pair, tiny_model: Model) -> None:
    target, reference = pair
    data = encoder.encode(target, None, tiny_model)
    alone = decoder.decode(data, None, tiny_model).pixels
    assert np.array_equal(decoder.decode(data, reference, tiny_model).pixels, alone)
    grey = Image(np.ascontiguousarray(reference.pixels[:9, :9, :1]))
    assert np.array_equal(decoder.decode(data, grey, tiny_model).pixels, alone)


def test_other_weights_are_refused(pair: Pair, tiny_model: Model, coded: bytes) -> None:
    other = replace(tiny_model, fingerprint=bytes(range(6)))
    with pytest.raises(WeightsError, match=f"{tiny_model.fingerprint.hex()}.*{bytes(range(6)).hex()}"):
        decoder.decode(coded, pair[1], other)


@pytest.mark.parametrize("size", [(28, 37), (29, 36), (30, 37), (1, 1), (58, 74)])
def test_a_reference_of_any_size_will_do(pair: Pair, net: Model, size: tuple[int, int]) -> None:
    reference = Image(cv2.resize(pair[1].pixels, size[::-1]))
    decoded = decoder.decode(encoder.encode(pair[0], reference, net), reference, net)
    assert (decoded.height, decoded.width) == (29, 37)


def test_a_header_whose_size_is_not_the_references_is_refused(pair: Pair, tiny_model: Model, coded: bytes) -> None:
    with pytest.raises(ContainerError, match="another size"):
        decoder.decode(with_header(coded, width=38), pair[1], tiny_model)


def test_a_header_of_another_scale_is_refused(pair: Pair, tiny_model: Model, coded: bytes) -> None:
    with pytest.raises(ContainerError, match="scale 4.*scale 2"):
        decoder.decode(with_header(coded, scale=4), pair[1], tiny_model)


def test_an_unknown_low_res_codec_is_refused(pair: Pair, tiny_model: Model, coded: bytes) -> None:
    with pytest.raises(ContainerError, match="codec 77"):
        decoder.decode(with_header(coded, codec=77), pair[1], tiny_model)


@pytest.mark.parametrize("codec", ["jpeg", "gmm"])
def test_a_damaged_group_is_refused_by_every_read(pair: Pair, tiny_models: dict[str, Model], codec: str) -> None:
    target, reference = (Image(np.dstack([one.pixels, one.pixels[..., ::-1]])) for one in pair)
    plan = encoder.prepare(target, reference, tiny_models[codec], choose=in_place)
    first, second = (group.file for group in plan.code(75).groups)
    for files in (
        [replace(first, lr=b"\0" + first.lr[1:]), second],
        [first, replace(second, lr=b"\0" + second.lr[1:])],
    ):
        opened = decoder.Decoder(container.pack(encoder.assemble(files, plan)), reference, tiny_models[codec])

        def refused(_: int, opened: decoder.Decoder = opened) -> str:
            with pytest.raises(ContainerError) as caught:
                opened.read()
            return str(caught.value)

        assert len({refused(0), refused(1)}) == 1
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(refused, range(8))) == {refused(0)}


def test_damaged_coefficients_are_refused(pair: Pair, tiny_model: Model, coded: bytes) -> None:
    file = container.unpack(coded)
    for lr in (file.lr[:-1], file.lr + bytes(8), b"\0" + file.lr[1:]):
        with pytest.raises(ContainerError, match="^the low-res payload is (malformed|damaged)"):
            decoder.decode(container.pack(replace(file, lr=lr)), pair[1], tiny_model)


@pytest.mark.parametrize("quality", [30, 85, 100])
def test_the_jpeg_of_a_file_shows_its_low_res_picture(pair: Pair, tiny_model: Model, quality: int) -> None:
    target, reference = pair
    file = container.unpack(encoder.encode(target, reference, tiny_model, EncodeOptions(quality=quality)))
    low = payloads.low_res_of(file, tiny_model, None)
    size = low.lr.shape[:2]
    plain = jfif.write(entropy.decode(file.lr, *size, quality), *size, quality)
    assert len(plain) > len(file.lr)
    shown = jpeg.decode(plain)
    assert abs(shown.astype(int) - low.picture).max() <= 2


@pytest.mark.parametrize(
    "similarity_map",
    [b"abc", bytes(400), similarity_map.encode(np.arange(900, dtype=np.uint8).reshape(30, 30) % 4, 4)],
    ids=["no words", "too long", "of another size"],
)
def test_a_map_that_does_not_fit_is_refused(pair: Pair, tiny_model: Model, coded: bytes, similarity_map: bytes) -> None:
    data = container.pack(replace(container.unpack(coded), similarity_map=similarity_map))
    with pytest.raises(ContainerError, match="similarity map"):
        decoder.decode(data, pair[1], tiny_model)


def test_a_truncated_file_is_refused(pair: Pair, tiny_model: Model, coded: bytes) -> None:
    for size in range(0, len(coded), 7):
        with pytest.raises(ContainerError):
            decoder.decode(coded[:size], pair[1], tiny_model)


@pytest.mark.parametrize("quality", [-1, 0, 101])
def test_a_quality_out_of_range_is_refused(quality: int) -> None:
    with pytest.raises(UsageError, match=f"1..100, not {quality}"):
        EncodeOptions(quality=quality)


@pytest.mark.parametrize("quality", [1, 100])
def test_the_ends_of_the_quality_scale_work(pair: Pair, tiny_model: Model, quality: int) -> None:
    data = encoder.encode(*pair, tiny_model, EncodeOptions(quality=quality))
    assert decoder.decode(data, pair[1], tiny_model).pixels.shape == pair[0].pixels.shape


# --- another device, the trained net ---------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize("with_reference", [True, False], ids=["reference", "alone"])
def test_a_file_written_on_cuda_decodes_on_the_cpu(
    pair: Pair, tiny_weights: Path, tiny_model: Model, with_reference: bool
) -> None:
    target, reference = pair
    given = reference if with_reference else None
    on_cuda = model.load(tiny_weights, "cuda")
    data = encoder.encode(target, given, on_cuda)
    there, here = decoder.decode(data, given, on_cuda), decoder.decode(data, given, tiny_model)
    assert metrics.psnr(there.pixels, here.pixels) > 50


def smallest_jpeg(pixels: np.ndarray, psnr: float) -> int:
    """Return the bytes of the smallest JPEG, 4:4:4 with fitted tables, that reaches a PSNR in dB."""
    sizes = []
    for quality in range(1, 101):
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling="4:4:4", optimize=True)
        if metrics.psnr(pixels, np.array(PIL.Image.open(buffer))) >= psnr:
            sizes.append(len(buffer.getvalue()))
    return min(sizes)


def test_a_real_revisit_is_smaller_than_a_jpeg_of_its_quality(data_folder: Path) -> None:
    with (data_folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if (row["dataset"], row["split"]) == ("naip_chico", "dev"))
    target, reference = (cut(pictures.read(data_folder / row[column]), 128, 128) for column in ("target", "reference"))
    net = model.load(weights_files.shipped(2))
    data = encoder.encode(target, reference, net)
    psnr = metrics.psnr(target.pixels, decoder.decode(data, reference, net).pixels)
    assert psnr > 30
    assert len(data) < smallest_jpeg(target.pixels, psnr)
