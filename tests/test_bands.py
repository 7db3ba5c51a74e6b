"""Pictures of any bands <-> band groups: round trips, golden bytes, and every way a payload can be bad."""

import csv
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import always_predicted
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refscale_codec import model, weights_files
from refscale_codec.codec import decoder, encoder, rate_control
from refscale_codec.codec.encoder import EncodeOptions
from refscale_codec.errors import ContainerError, ImageError, ReferenceMismatch
from refscale_codec.fileformat import container
from refscale_codec.model import Model
from refscale_codec.picture import levels
from refscale_codec.picture.coded import band_section, bands, planes
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.metadata import Metadata
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import band_prediction
from refscale_codec.study import metrics

U8, U16, I16, F32 = (np.dtype(name) for name in ("u1", "u2", "i2", "f4"))
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def drawn(seed: int, depth: int, dtype: np.dtype = U8, height: int = 20, width: int = 33) -> NDArray[np.generic]:
    """Return smooth bands over the full scale of a type, or -50..150 of floats, with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (3 + band) + seed) * np.cos(y / (4 + band / 2)) for band in range(depth)]
    values = np.dstack(waves) * 0.4 + 0.5 + rng.normal(0, 0.02, (height, width, depth))
    low, high = (-50, 150) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return (low + values.clip(0, 1) * (high - low)).astype(dtype)


def older(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return a darker picture of the same."""
    return (pixels * 0.8).astype(pixels.dtype)


@st.composite
def any_pictures(draw: st.DrawFn) -> Image:
    """Pictures of any bands and type, small; with nodata, other special values and alpha, or without."""
    dtype = draw(st.sampled_from(levels.TYPES))
    shape = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    if dtype.kind == "f":
        low, high = sorted(draw(st.tuples(FLOATS, FLOATS)))
        share = rng.random(shape)
        pixels = (low * (1 - share) + high * share).astype(dtype)
        for value in draw(st.lists(st.sampled_from([math.nan, math.inf, -math.inf, -9999.9]))):
            pixels[rng.random(shape) < 0.2] = value
        top: float = 1
    else:
        limits = np.iinfo(dtype)
        low = draw(st.integers(limits.min, limits.max))
        pixels = rng.integers(low, draw(st.integers(low, limits.max)), shape, dtype, endpoint=True)
        top = limits.max
    alpha = rng.choice(np.array([0, 1, top], dtype), shape[:2]) if draw(st.booleans()) else None
    other = FLOATS | st.just(math.nan) | st.just(-9999.9) if dtype.kind == "f" else st.integers(limits.min, limits.max)
    nodata = draw(st.none() | other | st.just(levels.number(pixels[0, 0, 0])))
    return Image(pixels, Metadata(), alpha, nodata)


# --- band groups -----------------------------------------------------------------------------------------------------


def marked(picture: Image) -> NDArray[np.bool_]:
    """Return which samples have a special value."""
    special = levels.special(picture.pixels.dtype, picture.nodata)
    return np.any([levels.equal(picture.pixels, value) for value in special.values()] or [False], axis=0)


@given(any_pictures())
@settings(max_examples=100, deadline=None)
def test_what_is_split_is_joined_again(picture: Image) -> None:
    described = bands.describe(picture)
    groups = list(bands.split_groups(picture, described))
    assert len(groups) == -(-picture.bands // 3)
    assert all(group.pixels.dtype == (U8 if picture.pixels.dtype == U8 else U16) for group in groups)
    back = bands.join_groups([t.pixels for t in groups], described, Box(0, 0, picture.height, picture.width))
    seen = np.ones(picture.pixels.shape, bool)
    if picture.alpha is not None:
        assert np.array_equal(back.alpha, picture.alpha)
        seen &= (picture.alpha > 0)[..., None]
    special = np.broadcast_to(marked(picture), seen.shape)
    assert same(back.pixels[special], picture.pixels[special])
    assert not np.any(marked(back) & ~special & seen)  # what is hidden may be anything
    coded = seen & ~special
    for band in range(picture.bands):
        low, high = described.ranges[band] if described.ranges else (0, 255)
        step = levels.step(low, high)
        rounding = max(abs(low), abs(high)) * 2**-23 + 2**-149 if picture.pixels.dtype == F32 else 0.5
        expected = picture.pixels[..., band][coded[..., band]].astype(float)
        error = abs(back.pixels[..., band][coded[..., band]].astype(float) - expected)
        beside = step if picture.nodata is not None and low < picture.nodata < high else 0  # it may lie at a level
        assert np.all(error <= (step / 2 + beside) * (1 + 1e-9) + rounding)
        if picture.pixels.itemsize <= 2:
            assert np.all(error == 0)
    assert back.nodata is picture.nodata or back.nodata == picture.nodata


def same(one: NDArray[np.generic], other: NDArray[np.generic]) -> bool:
    """Return whether samples are equal, NaN too."""
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


@given(any_pictures(), st.data())
@settings(max_examples=30, deadline=None)
def test_a_window_is_the_same_part_of_the_whole(picture: Image, data: st.DataObject) -> None:
    described = bands.describe(picture)
    parts = [group.pixels for group in bands.split_groups(picture, described)]
    top, left = data.draw(st.integers(0, picture.height - 1)), data.draw(st.integers(0, picture.width - 1))
    window = Box(top, left, picture.height, picture.width)
    whole = bands.join_groups(parts, described, Box(0, 0, picture.height, picture.width))
    part = bands.join_groups([x[window.slices] for x in parts], described, window)
    assert same(part.pixels, whole.pixels[window.slices])
    if picture.alpha is not None:
        assert np.array_equal(part.alpha, picture.alpha[window.slices])


@given(any_pictures(), st.integers(-40_000, 40_000))
@settings(max_examples=40, deadline=None)
def test_whatever_the_net_makes_nodata_is_exact(picture: Image, error: int) -> None:
    described = bands.describe(picture)
    full = np.iinfo(described.group_dtype).max
    made = [
        (t.pixels.astype(int) + error).clip(0, full).astype(t.pixels.dtype)
        for t in bands.split_groups(picture, described)
    ]
    back = bands.join_groups(made, described, Box(0, 0, picture.height, picture.width))
    seen = np.ones((1, 1, 1), bool) if picture.alpha is None else picture.alpha[..., None] > 0  # the rest is not kept
    assert np.array_equal(marked(back) & seen, marked(picture) & seen)
    special = np.broadcast_to(marked(picture), picture.pixels.shape)
    assert same(back.pixels[special], picture.pixels[special])


def test_a_grey_picture_is_three_times_itself_and_comes_back_as_the_mean() -> None:
    grey = Image(drawn(0, 1))
    described = bands.describe(grey)
    (group,) = bands.split_groups(grey, described)
    assert np.array_equal(group.pixels, grey.pixels.repeat(3, axis=2))
    part = np.array([[[10, 11, 11], [0, 0, 1], [254, 255, 255]]], np.uint8)
    assert bands.join_groups([part], described, Box(0, 0, 1, 3)).pixels[..., 0].tolist() == [[11, 0, 255]]


@pytest.mark.parametrize(
    ("depth", "chosen"), [(1, [[0, 0, 0]]), (2, [[0, 1, 1]]), (4, [[0, 1, 2], [3, 3, 3]]), (5, [[0, 1, 2], [3, 4, 4]])]
)
def test_bands_come_three_by_three(depth: int, chosen: list[list[int]]) -> None:
    assert bands.Bands(U8, depth).group_bands() == chosen


def test_eight_bit_rgb_is_its_own_group() -> None:
    picture = Image(drawn(0, 3), Metadata(xmp=b"x"))
    described = bands.describe(picture)
    assert described.plain
    assert list(bands.split_groups(picture, described)) == [picture]
    assert band_section.pack(described) is None
    assert band_section.unpack(None, 1, 1).plain


def test_what_is_hidden_is_filled_with_what_lies_around() -> None:
    pixels = drawn(0, 3, height=64, width=50)
    hidden = np.zeros(pixels.shape, bool)
    hidden[5:30, 7:40] = True
    filled = bands._filled(np.where(hidden, 255, pixels).astype(np.uint8), hidden)
    assert np.array_equal(filled[~hidden], pixels[~hidden])
    assert pixels[~hidden].min() <= filled.min() and filled.max() <= pixels[~hidden].max()
    assert len(np.unique(filled[hidden])) < 200
    example = np.array([[[10], [0], [40]], [[20], [33], [0]]], np.uint8)
    mask = np.array([[[False], [True], [False]], [[False], [False], [True]]])
    assert bands._filled(example, mask)[..., 0].tolist() == [[10, 21, 40], [20, 33, 40]]


def test_psnr_leaves_out_what_does_not_count() -> None:
    picture = Image(drawn(0, 3))
    worse = Image(picture.pixels ^ 3)
    assert bands.psnr(picture, worse, bands.describe(picture)) == pytest.approx(
        metrics.psnr(picture.pixels, worse.pixels)
    )
    assert bands.psnr(picture, picture, bands.describe(picture)) == math.inf
    pixels = np.array([[[100], [300], [9]]], np.uint16)
    off = Image(np.array([[[110], [300], [200]]], np.uint16))
    described = bands.describe(Image(pixels, nodata=9))
    assert bands.psnr(Image(pixels), off, described) == pytest.approx(10 * math.log10(200**2 / 50))


# --- the payload -----------------------------------------------------------------------------------------------------

GOLDEN = {
    "grey": (bands.Bands(U8, 1), "00 01 00"),
    "eight bits with nodata": (bands.Bands(U8, 3, nodata=7), "00 03 02 07"),
    "sixteen bits": (bands.Bands(U16, 2, ((1, 0x0203), (4, 0x0506))), "01 02 00 0100 0302 0400 0605"),
    "signed": (bands.Bands(I16, 1, ((-2, 5),), -9999), "02 01 02 feff 0500 f1d8"),
    "eight bits in a range": (bands.Bands(U8, 3, ((1, 9), (0, 255), (7, 8))), "00 03 10 01 09 00 ff 07 08"),
    "floats": (bands.Bands(F32, 1, ((-2.0, 0.5),), -9999.9), "06 01 02 000000c0 0000003f 33333333f387c3c0"),
    "fill values": (bands.Bands(U16, 1, ((1, 9),), 3, fills=(0, 0xFFFE)), "01 01 22 0100 0900 0300 02 0000 feff"),
    "thirty-two bits": (bands.Bands(np.dtype("i4"), 1, ((-2, 5),), 7), "05 01 02 feffffff 05000000 07000000"),
}
ALPHA_HEX = """
    010101 00000900 52494646 40000000 57454250 5650384c 33000000 2f024000 002f2010 4872d89f 750d356d 1b30e9a0
    54feb8fa 0904921c f6677dfe 03120af1 d702356d 1bb0a1ce bf201ad1 ff586f00
"""
NODATA_MASK_HEX = """
    00020605 52494646 24000000 57454250 5650384c 17000000 2f02c000 000f3001 133001f3 1f781012 a4109311
    fd8f0500
"""


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes_both_ways(name: str) -> None:
    value, data = GOLDEN[name]
    assert band_section.pack(value) == bytes.fromhex(data)
    assert band_section.unpack(bytes.fromhex(data), 2, 3) == value


def test_golden_planes_are_read() -> None:
    """Only read: another WebP encoder may find other bytes."""
    alpha = np.array([[0, 1, 0x1234], [65535, 5, 6]], np.uint16)
    data = bytes.fromhex(ALPHA_HEX)
    found = band_section.unpack(data, 2, 3)
    assert found.ranges == ((0, 9),)
    assert np.array_equal(found.alpha, alpha)
    nodata_mask = np.zeros((2, 3, 2), bool)
    nodata_mask[0, :, 0] = nodata_mask[0, 1:, 1] = True
    found = band_section.unpack(bytes.fromhex(NODATA_MASK_HEX), 2, 3)
    assert np.array_equal(found.marks, nodata_mask.astype(np.uint8))


@given(any_pictures())
@settings(max_examples=30, deadline=None)
def test_what_is_packed_comes_back(picture: Image) -> None:
    described = bands.describe(picture)
    found = band_section.unpack(band_section.pack(described), picture.height, picture.width)
    assert (found.dtype, found.depth, found.ranges) == (described.dtype, described.depth, described.ranges)
    assert str(found.nodata) == str(described.nodata)
    for name in ("alpha", "marks"):
        stored = getattr(described, name)
        assert (stored is None) == (getattr(found, name) is None)
        assert stored is None or np.array_equal(getattr(found, name), stored)
    told = band_section.summary(band_section.pack(described), picture.height, picture.width)
    assert (told.dtype, told.depth, told.ranges) == (described.dtype, described.depth, described.ranges)
    assert (str(told.nodata), told.alpha) == (str(described.nodata), described.alpha is not None)


def test_a_summary_looks_at_no_plane() -> None:
    assert band_section.summary(b"\0\1\1" + b"no plane", 20_000, 20_000) == (U8, 1, None, True, ())


def test_a_plane_of_another_size_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes.PIL.Image, "open", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(ContainerError, match=r"damaged plane: \(3, 2\) in place of \(2, 3\) pixels"):
        band_section.unpack(b"\0\1\1" + PLANE, 3, 2)


def test_an_absurd_number_of_samples_is_refused_before_anything_is_allocated() -> None:
    with pytest.raises(ContainerError, match="over the size limit: 255 bands of 20000x20000"):
        band_section.unpack(b"\0\xff\6\0" + PLANE, 20_000, 20_000)


def test_a_large_plane_is_stored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes, "_SIDE", 16)
    plane = drawn(0, 1, U16)[..., 0]
    parts = list(planes.pack(plane))
    assert len(parts) == 6
    data = b"".join(parts) + b"rest"
    found, rest = planes.unpack(memoryview(data), 20, 33, U16)
    assert np.array_equal(found, plane)
    assert rest == b"rest"
    assert rest.obj is data  # not copied: a picture may have thousands of parts


KEPT = bands.Kept(*map(np.array, ([0, 5, 5], [9, 0, 0], [0, 0, 1])), np.array([-7, 40, 0xFFFF], "i4"))


def test_kept_samples_come_back() -> None:
    described = bands.Bands(np.dtype("i4"), 2, ((0, 1), (0, 1)), kept=KEPT)
    data = band_section.pack(described)
    found = band_section.unpack(data, 10, 10).kept
    assert found is not None
    assert all(np.array_equal(one, other) for one, other in zip(found, KEPT, strict=True))
    assert found.samples.dtype == KEPT.samples.dtype
    window = found.within(Box(5, 0, 6, 10))
    assert [part.tolist() for part in window] == [[0, 0], [0, 0], [0, 1], [40, 0xFFFF]]
    with pytest.raises(ContainerError, match="keeps 3 samples of 72"):
        band_section.unpack(data, 6, 6)
    with pytest.raises(ContainerError, match="beyond the picture"):
        band_section.unpack(data, 40, 9)
    with pytest.raises(ContainerError, match="not in so many bytes"):
        band_section.unpack(data + b"x", 10, 10)
    with pytest.raises(ContainerError, match="do not inflate|not in so many"):
        band_section.unpack(data[:-1], 10, 10)
    with pytest.raises(ContainerError, match="ends before"):
        band_section.unpack(data[:22], 10, 10)
    twice = KEPT._replace(rows=np.zeros(3, int), columns=np.zeros(3, int), bands=np.zeros(3, int))
    with pytest.raises(ContainerError, match="out of their order"):
        band_section.unpack(band_section.pack(described._replace(kept=twice)), 10, 10)


@given(st.binary(max_size=60))
def test_any_bytes_are_bands_or_an_error(data: bytes) -> None:
    try:
        found = band_section.unpack(data, 2, 3)
    except ContainerError:
        return
    assert band_section.pack(found) == data


@given(st.binary(max_size=60))
@settings(max_examples=30, deadline=None)
def test_any_kept_samples_are_in_the_picture_or_an_error(data: bytes) -> None:
    try:
        found = band_section.unpack(b"\1\1\x08\0\0\1\0" + data, 40, 40).kept
    except ContainerError:
        return
    assert found is not None
    assert found.rows.max() < 40


PLANE = b"".join(planes.pack(np.zeros((2, 3), np.uint8)))
MARKED = b"".join(planes.pack(np.full((2, 3), 5, np.uint8)))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "of 0 bytes"),
        (b"\0\1", "of 2 bytes"),
        (b"\7\1\0", "begins with 07 01 00"),
        (b"\xff\1\0", "begins with ff 01 00"),
        (b"\1\1\x10", "begins with"),  # what says that 8 bits have a range
        (b"\0\1\x20\7", "keeps samples beyond ranges that there are not"),
        (b"\0\1\x80", "begins with"),
        (b"\0\0\0", "begins with"),
        (b"\0\1\x08", "keeps samples beyond ranges that there are not"),
        (b"\6\1\0" + np.array([0, np.nan], "<f4").tobytes(), "lowest value is above"),
        (b"\6\1\0" + np.array([-np.inf, 0], "<f4").tobytes(), "lowest value is above"),
        (b"\6\1\2" + bytes(8) + np.array(1e300, "<f8").tobytes(), "no sample can have"),
        (b"\0\1\4" + PLANE, "begins with"),  # samples of nodata, but no value for it
        (b"\1\1\0\0\0\0", "expected at least 7"),
        (b"\1\1\0\2\0\1\0", "lowest value is above"),
        (b"\0\1\0x", "1 bytes after its end"),
        (b"\0\1\1", "damaged plane"),
        (b"\0\1\1" + PLANE[:-1], "damaged plane"),
        (b"\0\1\1" + PLANE + PLANE, "bytes after its end"),
        (b"\0\1\6\0" + MARKED, "marks samples"),
        (b"\6\1\4" + bytes(8) + MARKED, "marks samples"),
        (b"\0\2\6\0" + PLANE, "damaged plane: .* in place of"),
        (b"\0\3\0", "has none"),
        (b"\1\1\x20" + bytes(4), "of 7 bytes, expected at least 8"),
        (b"\1\1\x20" + bytes(4) + b"\0", "fill values that do not rise"),
        (b"\1\1\x20" + bytes(4) + b"\2\7\0\7\0", "fill values that do not rise"),
        (b"\1\1\x20" + bytes(4) + b"\xff" + bytes(510), "fill values that do not rise"),
        (b"\6\1\x20" + bytes(8) + b"\1\0\0\xc0\x7f", "fill values that do not rise"),
        (b"\0\1\x40" + bytes(16), "ranges of the reference alone"),
        (b"\1\1\x40" + bytes(4), "of 7 bytes, expected at least 23"),
        (b"\1\1\x40" + bytes(4) + struct.pack("<2d", 2, 1), "range of the reference whose lowest"),
        (b"\1\1\x40" + bytes(4) + struct.pack("<2d", 1, math.nan), "range of the reference whose lowest"),
        (b"\6\1\x40" + bytes(8) + struct.pack("<2d", 1, math.inf), "range of the reference whose lowest"),
        (b"\1\1\x40" + bytes(4) + struct.pack("<2d", 0, 1.5), "not of whole numbers in reach"),
        (b"\1\1\x40" + bytes(4) + struct.pack("<2d", -1e300, 0), "not of whole numbers in reach"),
    ],
)
def test_a_bad_payload_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ContainerError, match=said):
        band_section.unpack(data, 2, 3)


@given(
    offset=st.integers(-1500, 40_000),
    scale=st.sampled_from([1, 3]),
    kind=st.sampled_from(["u2", "i4", "f4"]),
)
@settings(deadline=None, max_examples=30)
def test_a_reference_with_an_offset_or_scale_of_its_own_is_not_clipped(offset: int, scale: int, kind: str) -> None:
    rng = np.random.default_rng(1)
    samples = 2000 + np.add.outer(np.arange(40) * 17, np.arange(30) * 9)[..., None] + rng.integers(0, 50, (40, 30, 3))
    picture, reference = Image(samples.astype(kind)), Image((scale * samples + offset).astype(kind))
    described = bands.describe(picture)
    found = bands.with_reference(described, picture, reference)
    assert band_section.unpack(band_section.pack(found), 40, 30).reference_ranges == found.reference_ranges
    (group,) = bands.split_groups(picture, found)
    (older,) = bands.split_groups(reference, found, reference=True)
    assert found._replace(reference_ranges=()) == described
    assert found.reference_ranges or scale == 1 and abs(offset) < 100  # hardly anything is clipped
    for band, one in enumerate(found.reference_ranges):
        if one != described.ranges[band]:
            assert np.abs(group.pixels[..., band].astype(int) - older.pixels[..., band]).max() <= 1
        else:
            assert scale == 1 and abs(offset) < 100


def test_a_reference_of_the_same_values_has_no_ranges_of_its_own() -> None:
    picture = Image(drawn(0, 3, np.dtype("u2")))
    described = bands.describe(picture)
    cloudy = np.where(np.arange(33)[None, :, None] < 9, np.uint16(60_000), picture.pixels)
    for reference in (None, picture, Image(cloudy), Image(np.zeros((4, 4, 2), np.uint8))):
        assert bands.with_reference(described, picture, reference) is described
    eight = Image(drawn(0, 3))
    assert bands.with_reference(bands.describe(eight), eight, Image(255 - eight.pixels)).reference_ranges == ()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_reference_before_an_offset_serves_as_well_as_after_it(sign: int, tiny_model: Model) -> None:
    pixels = drawn(0, 3, np.dtype("u2"), 64, 64) // 30 + np.uint16(5000)
    picture, same = Image(pixels), Image(older(pixels))
    shifted = Image((older(pixels).astype(int) + 4000 * sign).astype(np.uint16))
    sizes = []
    for reference in (same, shifted):
        data = encoder.encode(picture, reference, tiny_model)
        decoded = decoder.decode(data, reference, tiny_model)
        sizes.append(len(data))
        assert bands.psnr(picture, decoded, bands.describe(picture)) > 20
    assert sizes[1] <= sizes[0] + 60


# --- whole files -----------------------------------------------------------------------------------------------------


def kinds() -> dict[str, tuple[Image, Image]]:
    found = {}
    for name, depth, dtype in (
        ("grey", 1, U8),
        ("rgb", 3, U8),
        ("two", 2, U8),
        ("seven", 7, U8),
        ("rgb16", 3, U16),
        ("four signed", 4, I16),
        ("two of 32 bits", 2, np.dtype("u4")),
    ):
        pixels = drawn(1, depth, dtype)
        found[name] = Image(pixels), Image(older(pixels))
    pixels = drawn(1, 3)
    alpha = np.where(np.arange(33) < 9, 0, np.arange(33) * 7).astype(np.uint8)[None].repeat(20, axis=0)
    found["rgba"] = Image(pixels, alpha=alpha), Image(older(pixels))
    pixels = drawn(1, 4, I16)
    pixels[:7, 5:20] = -9999
    pixels[10, 10, 2] = -9999
    found["nodata"] = Image(pixels, nodata=-9999), Image(older(pixels), nodata=-9999)
    pixels = drawn(1, 4, F32, 64, 40)
    pixels[:7, 5:20], pixels[8, 10, 2], pixels[9, 10, 1], pixels[12, 3:6, 3] = np.nan, np.inf, -np.inf, -9999.9
    pixels[15, 4, 0] = 1e30
    found["floats"] = Image(pixels, nodata=-9999.9), Image(older(pixels), nodata=-9999.9)
    return found


KINDS = kinds()


@pytest.mark.parametrize("with_reference", [True, False], ids=["reference", "alone"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_any_kind_comes_back(kind: str, tiny_model: Model, with_reference: bool) -> None:
    target, reference = KINDS[kind]
    given = reference if with_reference else None
    data = encoder.encode(target, given, tiny_model, EncodeOptions(quality=95, output_hash=True))
    decoded = decoder.decode(data, given, tiny_model)
    assert (decoded.pixels.dtype, decoded.pixels.shape) == (target.pixels.dtype, target.pixels.shape)
    assert decoded.nodata == target.nodata
    described, files = decoder.disassemble(container.unpack(data))
    assert len(files) == -(-target.bands // 3)
    assert bands.psnr(target, decoded, described) > 15  # the net is not trained
    if target.alpha is not None:
        assert np.array_equal(decoded.alpha, target.alpha)
    special = np.broadcast_to(marked(target), target.pixels.shape)
    assert np.array_equal(np.broadcast_to(marked(decoded), special.shape), special)
    assert same(decoded.pixels[special], target.pixels[special])
    assert kind != "floats" or decoded.pixels[15, 4, 0] == np.float32(1e30)
    assert container.unpack(data).output_hash == decoded.fingerprint()
    window = Box(3, 4, 17, 30)
    part = decoder.decode(data, given, tiny_model, window=window)
    assert same(part.pixels, decoded.pixels[window.slices])


def extremes() -> dict[str, Image]:
    """Return pictures of floats at the ends of what there is."""
    smooth = drawn(3, 1, F32).astype(float) / 150
    one, empty = np.full(smooth.shape, np.nan), np.full(smooth.shape, np.nan)
    one[7, 9] = 2.5
    signed = np.where(smooth > 0.3, -0.0, 0.0)
    infinite = np.where(smooth > 0.3, np.inf, smooth)
    infinite[3:5, 4] = -np.inf
    values = {
        "constant": np.full(smooth.shape, 0.1), "empty": empty, "one": one, "tiny": smooth * 1e-30,
        "denormal": smooth * 1e-44, "huge": smooth * 3.4e38 - 1.7e38, "wide": 10 ** (60 * smooth.clip(0, 1) - 30),
        "zeros": signed, "infinite": infinite,
    }  # fmt: skip
    return {name: Image(pixels.astype(F32)) for name, pixels in values.items()} | {
        "nodata of zero": Image(np.where(smooth > 0.2, smooth, 0).astype(F32), nodata=0),
        "nodata of NaN": Image(np.where(smooth > 0.2, smooth, np.nan).astype(F32), nodata=math.nan),
        "only nodata": Image(np.full(smooth.shape, -9999, F32), nodata=-9999),
    }


EXTREMES = extremes()


@pytest.mark.parametrize("name", EXTREMES)
def test_floats_at_the_ends_of_what_there_is_come_back(name: str, tiny_model: Model) -> None:
    target = EXTREMES[name]
    reference = Image(target.pixels[::-1].copy(), nodata=-1.5)
    data = encoder.encode(target, reference, tiny_model, EncodeOptions(95, output_hash=True))
    decoded = decoder.decode(data, reference, tiny_model)
    assert container.unpack(data).output_hash == decoded.fingerprint()
    special = np.broadcast_to(marked(target), target.pixels.shape).copy()
    assert np.array_equal(np.broadcast_to(marked(decoded), special.shape), special)
    described = bands.describe(target)
    assert (described.kept is not None) == (name == "wide")
    if described.kept is not None:  # beyond the range, exactly
        special[described.kept.rows, described.kept.columns, described.kept.bands] = True
    assert same(decoded.pixels[special], target.pixels[special])
    ((low, high),) = described.ranges
    coded = decoded.pixels[~special]
    assert np.all((coded >= low) & (coded <= high))
    if low == high:
        assert np.array_equal(coded, target.pixels[~special])
    elif name != "wide":
        error = abs(coded.astype(float) - target.pixels[~special])
        assert error.mean() < (high - low) / 8  # the net is not trained


def test_a_psnr_of_floats_is_reached(tiny_model: Model) -> None:
    target, reference = KINDS["floats"]
    reached = rate_control.encode(target, reference, tiny_model, rate_control.Target("psnr", 20.0))
    decoded = decoder.decode(reached.data, reference, tiny_model)
    assert reached.psnr == bands.psnr(target, decoded, bands.describe(target))
    assert reached.psnr >= 20


def test_what_is_hidden_does_not_change_the_file(tiny_model: Model) -> None:
    target, reference = KINDS["rgba"]
    pixels = target.pixels.copy()
    pixels[target.alpha == 0] = 99
    assert encoder.encode(replace(target, pixels=pixels), reference, tiny_model) == encoder.encode(
        target, reference, tiny_model
    )


def test_sixteen_bits_of_eight_are_coded_alike(tiny_model: Model) -> None:
    target, reference = KINDS["rgb"]
    wide = [Image(picture.pixels.astype(np.uint16) * 257) for picture in (target, reference)]
    narrow_data = encoder.encode(target, reference, tiny_model)
    data = encoder.encode(*wide, tiny_model, EncodeOptions(value_range=(0, 65535)))
    narrow_file, file = container.unpack(narrow_data), container.unpack(data)
    assert abs(len(file.lr) - len(narrow_file.lr)) <= 8  # a rounding here and there
    decoded, narrow = decoder.decode(data, wide[1], tiny_model), decoder.decode(narrow_data, reference, tiny_model)
    assert metrics.psnr((decoded.pixels >> 8).astype(np.uint8), narrow.pixels) > 40
    assert len(np.unique(decoded.pixels % 257)) > 100  # finer than 8 bits


@pytest.mark.parametrize("kind", ["nodata", "rgba", "grey"])
def test_targets_are_for_all_kinds(kind: str, tiny_model: Model) -> None:
    target, reference = KINDS[kind]
    usual = len(encoder.encode(target, reference, tiny_model))
    reached = rate_control.encode(target, reference, tiny_model, rate_control.Target("bytes", usual))
    assert len(reached.data) <= usual
    reached = rate_control.encode(target, reference, tiny_model, rate_control.Target("psnr", 20.0))
    decoded = decoder.decode(reached.data, reference, tiny_model)
    assert reached.psnr == bands.psnr(target, decoded, bands.describe(target))
    assert reached.psnr >= 20


@pytest.mark.parametrize("depth", [1, 3, 4])
@pytest.mark.parametrize(("dtype", "other"), [(U8, U16), (U16, U8), (U8, F32), (I16, U8), (F32, U8)])
def test_a_reference_of_another_type_serves(depth: int, dtype: np.dtype, other: np.dtype, tiny_model: Model) -> None:
    pixels = drawn(1, depth, dtype, 64, 64)
    target, same, reference = Image(pixels), Image(older(pixels)), Image(older(drawn(1, depth, other, 64, 64)))
    data = encoder.encode(target, reference, tiny_model)
    file = container.unpack(data)
    assert file.header.reference == reference.fingerprint()
    decoded = decoder.decode(data, reference, tiny_model)
    assert (decoded.pixels.dtype, decoded.pixels.shape) == (dtype, pixels.shape)
    assert bands.psnr(target, decoded, bands.describe(target)) > 20
    section = len(file.bands or b"")
    assert len(data) - section <= 1.2 * len(encoder.encode(target, same, tiny_model))
    with pytest.raises(ReferenceMismatch):
        decoder.decode(data, same, tiny_model)


@pytest.mark.parametrize(("kind", "other"), [("two", "rgb"), ("four signed", "seven"), ("rgb", "two")])
def test_a_reference_of_other_bands_is_refused(kind: str, other: str, tiny_model: Model) -> None:
    with pytest.raises(ImageError, match="bring both to the same"):
        encoder.encode(KINDS[kind][0], KINDS[other][1], tiny_model)
    data = encoder.encode(*KINDS[kind], tiny_model)
    with pytest.raises(ReferenceMismatch):
        decoder.decode(data, KINDS[other][1], tiny_model)


NAMED = Metadata(geo=b'{"interpretations":["red","green","blue","undefined"]}')


@pytest.mark.parametrize("dtype", [U8, I16])
@pytest.mark.parametrize(("depth", "other"), [(1, 3), (1, 4), (3, 1), (5, 1), (3, 4), (4, 3)])
def test_a_reference_of_other_bands_serves_where_their_meaning_is_clear(
    depth: int, other: int, dtype: np.dtype, tiny_model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    target, given = drawn(1, depth, dtype), older(drawn(1, other, dtype))
    red, green, blue = (given[..., min(band, other - 1)].astype(int) for band in range(3))
    luma = np.floor((77 * red + 150 * green + 29 * blue + 128) / 256).astype(dtype)
    brought = luma[..., None] if depth == 1 else given[..., [min(band, other - 1) for band in range(depth)]]
    picture, reference = (Image(x, NAMED if x.shape[2] == 4 else Metadata()) for x in (target, given))
    data = encoder.encode(picture, reference, tiny_model)
    same = container.unpack(encoder.encode(picture, Image(brought), tiny_model))
    file = container.unpack(data)
    assert file.header.reference == reference.fingerprint()
    assert replace(file, header=same.header, extra_bands=same.extra_bands) == same
    decoded = decoder.decode(data, Image(given), tiny_model)
    assert decoded.pixels.shape == target.shape
    assert ": its" in caplog.text and reference.kind in caplog.text


@pytest.mark.parametrize("named", [Metadata(), Metadata(geo=b'{"interpretations":["blue","green","red","undefined"]}')])
def test_four_bands_of_unknown_order_serve_only_for_four(named: Metadata, tiny_model: Model) -> None:
    for depth, other in ((3, 4), (4, 3), (1, 4)):
        target, reference = (Image(drawn(1, n), named if n == 4 else Metadata()) for n in (depth, other))
        with pytest.raises(ImageError, match=r"not known which bands .* red, green and blue: .*`gdal_edit\.py -color"):
            encoder.encode(target, reference, tiny_model)


def test_a_grey_reference_serves_for_bands_of_any_meaning(tiny_model: Model, caplog: pytest.LogCaptureFixture) -> None:
    unlabelled = Metadata(geo=b'{"interpretations":["gray","undefined","undefined"]}')
    target, grey = Image(drawn(1, 3, U16), unlabelled), Image(older(drawn(1, 1, U16)))
    assert container.unpack(encoder.encode(target, grey, tiny_model)).header.reference == grey.fingerprint()
    said = "the reference is 16-bit grey and the picture 16-bit 3-band: its band is used for all"
    assert caplog.messages == [said]
    with pytest.raises(ImageError, match="^the reference is 16-bit 3-band and the picture 16-bit grey, and it is not"):
        bands.require_related(Image(grey.pixels), target)


def test_metadata_that_is_not_stored_still_says_what_bands_mean(tiny_model: Model) -> None:
    target, reference = Image(drawn(1, 4), NAMED), Image(older(drawn(1, 3)))
    whole, bare = (
        container.unpack(encoder.encode(target, reference, tiny_model, encoder.EncodeOptions(store_metadata=store)))
        for store in (True, False)
    )
    assert whole.metadata is not None
    assert replace(whole, metadata=None) == bare


def test_alpha_of_the_reference_is_ignored(tiny_model: Model) -> None:
    target, reference = KINDS["rgba"]
    half = replace(reference, alpha=np.full(reference.pixels.shape[:2], 128, np.uint8))
    assert encoder.encode(target, half, tiny_model) == encoder.encode(target, reference, tiny_model)
    assert half.fingerprint() == reference.fingerprint()


def test_files_within_files_must_fit(tiny_model: Model) -> None:
    target, reference = KINDS["seven"]
    file = container.unpack(encoder.encode(target, reference, tiny_model))
    grey = container.unpack(encoder.encode(*KINDS["grey"], tiny_model))
    assert file.extra_bands is not None
    for changed in (
        replace(file, extra_bands=None),
        replace(file, bands=band_section.pack(bands.Bands(U8, 4))),
        replace(file, bands=None),
        replace(file, extra_bands=container.pack(replace(grey, bands=None))),  # of another reference
        replace(file, extra_bands=container.pack(file)),
    ):
        with pytest.raises(ContainerError, match="EXTRA_BANDS"):
            decoder.decode(container.pack(changed), reference, tiny_model)


@pytest.mark.slow
@pytest.mark.parametrize("with_reference", [True, False], ids=["reference", "alone"])
@pytest.mark.parametrize("kind", ["seven", "four signed", "nodata"])
def test_predicted_bands_come_back_in_windows_too(kind: str, tiny_model: Model, with_reference: bool) -> None:
    target, reference = (replace(picture, pixels=np.tile(picture.pixels, (6, 5, 1))) for picture in KINDS[kind])
    given = reference if with_reference else None
    options = EncodeOptions(output_hash=True, tile=32)
    data = encoder.prepare(target, given, tiny_model, options, choose=always_predicted).code(75).file()
    file = container.unpack(data)
    described, files = decoder.disassemble(file)
    assert [inner.prediction is not None for inner in files] == [False] + [True] * (len(files) - 1)
    assert all(inner.alignment is None for inner in files[1:])
    assert file.output_hash == decoder.decode(data, given, tiny_model).fingerprint()
    whole = decoder.decode(data, given, tiny_model, tile=32)
    assert bands.psnr(target, whole, described) > 10  # the net is not trained
    for window in (Box(0, 0, 7, 9), Box(33, 60, 34, 97), Box(100, 90, 120, 165)):
        part = decoder.decode(data, given, tiny_model, tile=32, window=window)
        assert np.array_equal(part.pixels, whole.pixels[window.slices])


def test_another_machines_first_bands_do_no_harm(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    target, reference = KINDS["seven"]
    data = encoder.prepare(target, reference, tiny_model, choose=always_predicted).code(75).file()
    usual = decoder.decode(data, reference, tiny_model).pixels.astype(int)
    exact = band_prediction.predict
    level = np.random.default_rng(0).integers(-1, 2, (*target.pixels.shape[:2], 3))
    monkeypatch.setattr(
        band_prediction, "predict", lambda x, rows: exact((x + level).clip(0, 255).astype(np.uint8), rows)
    )
    other = decoder.decode(data, reference, tiny_model).pixels
    assert 0 < abs(other - usual).max() <= 3
    assert np.array_equal(other[..., :3], usual[..., :3])


def test_targets_are_for_predicted_bands(tiny_model: Model) -> None:
    target, reference = KINDS["seven"]
    options = EncodeOptions(output_hash=True)
    plan = encoder.prepare(target, reference, tiny_model, options, choose=always_predicted)
    usual = plan.code(75).size()
    assert len(rate_control.reach(plan, target, rate_control.Target("bytes", usual)).data) <= usual
    reached = rate_control.reach(plan, target, rate_control.Target("psnr", 20.0))
    decoded = decoder.decode(reached.data, reference, tiny_model)
    assert reached.psnr == bands.psnr(target, decoded, bands.describe(target))
    file = container.unpack(reached.data)
    assert file.output_hash == decoded.fingerprint()
    assert all(inner.prediction is not None for inner in decoder.disassemble(file)[1][1:])


def test_first_bands_are_not_predicted(tiny_model: Model) -> None:
    target, _ = KINDS["seven"]
    file = container.unpack(encoder.prepare(target, None, tiny_model, choose=always_predicted).code(75).file())
    further = decoder.disassemble(file)[1][1]
    changed = container.pack(replace(file, prediction=further.prediction))
    with pytest.raises(ContainerError, match="predicted from themselves"):
        decoder.decode(changed, None, tiny_model)


def test_a_real_pair_with_infrared(data_folder: Path) -> None:
    with (data_folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if row["name"] == "albania_0035")
    net = model.load(weights_files.shipped(2))
    infrared = [0, 2, 2, 1]  # shortwave, red, red, near
    pair = [pictures.read(data_folder / row[column]).pixels[:160, :160, infrared] for column in ("target", "reference")]
    target, reference = (Image(pixels) for pixels in pair)
    data = encoder.encode(target, reference, net)
    described, (first, further) = decoder.disassemble(container.unpack(data))
    assert further.prediction is not None
    group, (older,) = list(encoder.band_groups(target, [reference], described))[1]
    assert len(container.pack(further)) < 0.9 * len(encoder.encode(group, older, net))
    assert bands.psnr(target, decoder.decode(data, reference, net), described) > 30


def test_a_real_pair_of_any_kind(data_folder: Path) -> None:
    with (data_folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if (row["dataset"], row["split"]) == ("naip_chico", "dev"))
    net = model.load(weights_files.shipped(2))
    rgb = [pictures.read(data_folder / row[column]).pixels[:96, :96] for column in ("target", "reference")]
    plain = encoder.encode(*(Image(x) for x in rgb), net)
    described = bands.describe(Image(rgb[0]))
    usual = bands.psnr(Image(rgb[0]), decoder.decode(plain, Image(rgb[1]), net), described)
    four = [np.dstack([x, (x[..., 1].astype(int) * 2 - x[..., 0]).clip(0, 255)]).astype(np.uint16) * 16 for x in rgb]
    four[0][:20, :30] = four[1][:20, :30] = 9
    target, reference = (Image(x, nodata=9) for x in four)
    data = encoder.encode(target, reference, net)
    decoded = decoder.decode(data, reference, net)
    assert np.array_equal(decoded.pixels == 9, target.pixels == 9)
    assert bands.psnr(target, decoded, bands.describe(target)) > usual - 2
    assert len(data) < 3 * len(plain)
