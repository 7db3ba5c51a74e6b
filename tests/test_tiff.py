"""TIFFs of every kind: which image is the picture, what its samples mean, and that no part of it is made up."""

import itertools
import struct
import sys
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import tiffs
from numpy.typing import NDArray
from tiffs import GEOREFERENCE, Picture

from refscale_codec.errors import ImageError
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures

pytest.importorskip("rasterio", reason="the extra geo is not installed")


def noise(*shape: int, dtype: str = "u1", top: int = 200, seed: int = 0) -> NDArray[np.generic]:
    return np.random.default_rng(seed).integers(0, top, shape).astype(dtype)


RGB = Picture(noise(24, 30, 3), 2)
OTHER = Picture(noise(24, 30, 3, seed=5), 2)
REDUCED = Picture(noise(12, 15, 3, seed=1), 2, tags={254: ("I", [1])})
MASK = Picture(noise(24, 30, 1, top=2), 4, bits=1, tags={254: ("I", [4])})
REDUCED_MASK = Picture(noise(12, 15, 1, top=2), 4, bits=1, tags={254: ("I", [5])})


def placed(picture: Picture) -> Picture:
    return replace(picture, tags=picture.tags | GEOREFERENCE)


def read(data: bytes, caplog: pytest.LogCaptureFixture, page: int | None = None) -> tuple[Image | str, list[str]]:
    """Return a picture or the message of its refusal, and the notes."""
    caplog.clear()
    try:
        return pictures.from_bytes(data, "x.tif", page=page), caplog.messages[:]
    except ImageError as error:
        return str(error), caplog.messages[:]


def refusal(data: bytes, page: int | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        pictures.from_bytes(data, "x.tif", page=page)
    return str(caught.value)


# --- roles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("georeferenced", [False, True])
@pytest.mark.parametrize(
    ("chain", "masked"),
    [
        ([RGB, REDUCED], False),
        ([REDUCED, RGB], False),
        ([replace(REDUCED, tags={255: ("H", [2])}), RGB], False),
        ([replace(RGB, children=(REDUCED,))], False),
        ([replace(REDUCED, children=(REDUCED, RGB))], False),
        ([RGB, MASK, REDUCED, REDUCED_MASK], True),
        ([MASK, RGB], True),
        ([replace(RGB, children=(MASK,))], True),
    ],
    ids=lambda value: len(value) if isinstance(value, list) else None,
)
def test_images_are_judged_by_their_role(
    chain: list[Picture], masked: bool, georeferenced: bool, big: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if georeferenced:
        chain = [placed(picture) for picture in chain]
    found, notes = read(tiffs.file(*chain, big=big), caplog)
    assert isinstance(found, Image)
    assert np.array_equal(found.pixels, RGB.samples)
    assert notes == ["x.tif: its mask becomes alpha"] * masked
    assert (found.alpha is not None) == masked
    assert not masked or np.array_equal(found.alpha, MASK.samples[..., 0] * 255)


FORMS = [
    (big, order, kind)
    for big in (False, True)
    for order in "<>"
    for kind in ("I", "I, of a directory", *("Q", "Q, of a directory") * big)
]  # a TIFF's form and order, and the type of its offsets of directories


@pytest.mark.parametrize(("big", "order", "kind"), FORMS)
def test_directories_are_found_by_offsets_of_any_type(
    big: bool, order: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    preview = replace(REDUCED, children=(replace(RGB, tags={254: ("I", [0])}),), kinds={330: kind})
    found, _ = read(tiffs.file(preview, big=big, order=order), caplog)
    assert isinstance(found, Image)
    assert np.array_equal(found.pixels, RGB.samples)
    empty = tiffs.file(replace(RGB, tags={34665: (kind, [0])}), big=big, order=order)
    data = tiffs.file(replace(RGB, tags={34665: (kind, [len(empty)])}), big=big, order=order)
    speed = struct.pack(f"{order}QHHQHHIQ" if big else f"{order}HHHIHHI", 1, 34855, 3, 1, 400, 0, *[0] * (1 + big))
    found, notes = read(data + speed, caplog)
    assert isinstance(found, Image) and not notes
    exif = PIL.Image.Exif()
    exif.load(found.metadata.exif)
    assert exif.get_ifd(34665) == {34855: 400}


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["B", "h", "i", "H", "I", "Q", "q"])
def test_numbers_may_be_of_any_type_that_gdal_reads(kind: str, order: str, big: bool) -> None:
    for tag in (254, 256, 257, 258, 259, 262, 277, 278, 284, 322, 323, 339):
        picture = replace(RGB, tile=16 * (tag in (322, 323)), tags={254: ("I", [0])}, kinds={tag: kind})
        found = pictures.from_bytes(tiffs.file(picture, order=order, big=big), "x")
        assert np.array_equal(found.pixels, RGB.samples), tag


@pytest.mark.parametrize("tag", [273, 279])
def test_places_of_blocks_that_gdal_takes_for_none_are_refused(tag: int) -> None:
    for kind in ("h", "i", "I, of a directory"):
        assert "the places of its blocks are no integers" in refusal(tiffs.file(replace(RGB, kinds={tag: kind})))


def test_several_pictures_are_pages() -> None:
    data = tiffs.file(RGB, REDUCED, OTHER, MASK)
    assert refusal(data).startswith("x.tif holds 2 pictures; refscale codes one: choose it with --page 1 to --page 2,")
    assert np.array_equal(pictures.from_bytes(data, "x", page=1).pixels, RGB.samples)
    second = pictures.from_bytes(data, "x", page=2)
    assert np.array_equal(second.pixels, OTHER.samples)
    assert second.alpha is not None
    assert refusal(data, 3) == "x.tif has no page 3: it holds 2 pictures"
    assert np.array_equal(pictures.from_bytes(tiffs.file(REDUCED), "x").pixels, REDUCED.samples)


@pytest.mark.parametrize("place", [{}, tiffs.GEOREFERENCE])
def test_a_volume_in_one_image_is_refused(place: dict[int, tiffs.Values]) -> None:
    samples, stack = noise(21, 19, 1), ("s", b"ImageJ=1.54f\nimages=4\nslices=4\n\0")
    for picture, behind in (
        (Picture(samples, tags={32997: ("I", [4])} | place), b""),
        (Picture(samples, tags={270: stack} | place), bytes(3 * samples.nbytes)),
    ):
        said = refusal(tiffs.file(picture) + behind)
        assert said.startswith("x.tif is a volume of 4 slices in one image, which refscale does not code: ")
    for tags, behind in (({32997: ("I", [1])}, b""), ({270: stack}, b"")):  # the latter taken out of a stack
        found = pictures.from_bytes(tiffs.file(Picture(samples, tags=tags | place)) + behind, "x")
        assert np.array_equal(found.pixels, samples)
    assert "holds 2 pictures" in refusal(tiffs.file(*[Picture(samples, tags={270: stack})] * 2))


def test_a_mask_of_another_size_is_told(caplog: pytest.LogCaptureFixture) -> None:
    found, notes = read(tiffs.file(RGB, replace(MASK, samples=MASK.samples[:5])), caplog)
    assert isinstance(found, Image) and found.alpha is None
    assert notes == ["x.tif: a mask of another size is left out"]


def test_a_thumbnail_as_exif_has_it_is_passed_over() -> None:
    data = bytearray(tiffs.file(RGB, replace(REDUCED, tags={513: ("I", [8]), 514: ("I", [9])})))
    second = data.index(struct.pack("<HHII", 513, 4, 1, 8))
    strips = data.rindex(struct.pack("<HHI", 273, 4, 4), 0, second)
    data[strips : strips + 2] = (272).to_bytes(2, "little")
    assert np.array_equal(pictures.from_bytes(bytes(data), "x.tif").pixels, RGB.samples)


def test_directories_in_a_circle_are_refused() -> None:
    data = bytearray(tiffs.file(RGB))
    first = int.from_bytes(data[4:8], "little")
    link = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
    data[link : link + 4] = data[4:8]
    assert "form a loop" in refusal(bytes(data))


# --- blocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("georeferenced", [False, True])
@pytest.mark.parametrize(("compression", "tile"), list(itertools.product((1, 8), (0, 16))))
def test_blocks_that_are_not_stored_are_zero(
    compression: int, tile: int, georeferenced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = replace(RGB, compression=compression, tile=tile, missing=(1,))
    data = tiffs.file(placed(picture) if georeferenced else picture)
    expected = RGB.samples.copy()
    expected[(slice(16), slice(16, 30)) if tile else slice(3, 6)] = 0
    assert np.array_equal(pictures.from_bytes(data, "x.tif").pixels, expected)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ImageError, match="needs GDAL, for its blocks that are not stored: pip install"):
        pictures.from_bytes(data, "x.tif", need_georeference=False)


@pytest.mark.parametrize(
    "picture",
    [RGB, replace(RGB, compression=8), replace(RGB, tile=16), Picture(noise(24, 30, 3, dtype="u2"), 2, planar=2)],
    ids=["strips", "deflate", "tiles", "planes"],
)
def test_a_shortened_file_is_never_read(picture: Picture) -> None:
    data = tiffs.file(picture)
    for length in range(0, len(data), 37):
        refusal(data[:length])


def test_a_block_that_is_too_short_for_its_pixels_is_refused_whatever_follows_it() -> None:
    for picture in (RGB, replace(RGB, compression=8)):
        entries = tiffs.file(picture)
        claimed = replace(picture, tags={257: ("I", [240_000]), 278: ("I", [30_000])})
        assert "the data of block 0 end early" in refusal(tiffs.file(claimed)), len(entries)


def test_jpeg_in_a_tiff_that_ends_early_is_refused_and_has_one_decoder() -> None:
    rasterio = pytest.importorskip("rasterio")
    smooth = np.kron(noise(3, 8, 8), np.ones((1, 8, 8), np.uint8))
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff", width=64, height=64, count=3, dtype="uint8", compress="JPEG", photometric="YCBCR"
        ) as file:
            file.write(smooth)
        data = bytearray(memory.read())
    found = pictures.from_bytes(bytes(data), "x.tif")
    with rasterio.MemoryFile(bytes(data)) as memory, memory.open() as file:
        assert np.array_equal(found.pixels, file.read().transpose(1, 2, 0))
    end = data.rindex(b"\xff\xd9")
    data[end - 90 : end - 88] = b"\xff\xd9"
    assert "the data of block 0 end early" in refusal(bytes(data))


@pytest.mark.parametrize("compress", ["CCITTFAX3", "CCITTFAX4", "CCITTRLE"])
def test_fax_that_ends_early_is_refused(compress: str) -> None:
    rasterio = pytest.importorskip("rasterio")
    drawn = noise(1, 60, 50, top=2)
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff", width=50, height=60, count=1, dtype="uint8", compress=compress, nbits=1, blockysize=60
        ) as file:
            file.write(drawn)
        data = bytearray(memory.read())
    assert np.array_equal(pictures.from_bytes(bytes(data), "x.tif").pixels[..., 0], 255 * drawn[0])
    lengths = data.index(b"\x17\x01\x04\0\x01\0\0\0") + 8  # StripByteCounts, one u32
    data[lengths : lengths + 4] = (int.from_bytes(data[lengths : lengths + 4], "little") // 2).to_bytes(4, "little")
    assert refusal(bytes(data)).startswith("x.tif is damaged or truncated: ")


# --- what samples mean -----------------------------------------------------------------------------------------------


def meant(
    picture: Picture, bits: int, extra: tuple[int, ...]
) -> tuple[NDArray[np.generic], NDArray[np.generic] | None]:
    """Return pixels and alpha by TIFF's specification, in floats."""
    top, full = (1 << bits) - 1, 255 if bits <= 8 else (1 << 16) - 1
    values = picture.samples.astype(float)
    if bits < 8:
        values = np.floor(values * 255 / top + 0.5)
    places = {place for place, kind in enumerate(extra, picture.depth - len(extra)) if kind}
    pixels = values[..., [place for place in range(picture.depth) if place not in places]]
    if picture.photometric == 3:
        pixels = (np.array(picture.tags[320][1]).reshape(3, -1).T >> 8)[picture.samples[..., 0]]
    if picture.photometric == 0:
        pixels = (255 if bits <= 8 else top) - pixels
    alpha = values[..., places.pop()] if places else None
    if 1 in extra and alpha is not None:
        colours = pixels[..., : picture.depth - len(extra)]
        straight = np.floor(colours * full / np.maximum(alpha, 1)[..., None] + 0.5).clip(0, full)
        colours[:] = np.where(alpha[..., None] > 0, straight, 0)
    return pixels, alpha


LAYOUTS = [  # bits, photometric interpretation, meaning of extra samples
    *itertools.product((1, 2, 4, 8, 16), (0, 1), ((), (1,), (2,))),
    *itertools.product((8, 12, 16), (2,), ((), (0,), (1,), (2,), (0, 2), (2, 0), (0, 1), (1, 0))),
    *itertools.product((2, 4, 8), (3,), ((), (2,))),
]


@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize(("bits", "photometric", "extra"), LAYOUTS)
def test_samples_and_tags_are_the_same_with_and_without_a_georeference(
    bits: int, photometric: int, extra: tuple[int, ...], planar: int, caplog: pytest.LogCaptureFixture
) -> None:
    depth = (3 if photometric == 2 else 1) + len(extra)
    samples = noise(21, 19, depth, dtype="u1" if bits <= 8 else "u2", top=1 << bits)
    tags = {271: ("s", b"Maker\0"), 274: ("H", [6])}
    if extra:
        tags[338] = ("H", list(extra))
    if photometric == 3:
        tags[320] = ("H", noise(3 << bits, top=1 << 16, dtype="u2").tolist())
    picture = Picture(samples, photometric, bits, planar=planar, tile=16 * (depth % 2), tags=tags)
    plain, notes = read(tiffs.file(picture, order=">"), caplog)
    georeferenced, others = read(tiffs.file(placed(picture), big=True), caplog)
    assert isinstance(plain, Image) and isinstance(georeferenced, Image)
    pixels, alpha = meant(picture, bits, extra)
    for found in (plain, georeferenced):
        assert np.array_equal(found.pixels, pixels)
        assert (found.alpha is None) == (alpha is None)
        assert alpha is None or np.array_equal(found.alpha, alpha)
        assert found.metadata.exif == plain.metadata.exif
        assert b"Maker" in found.metadata.exif
    assert georeferenced.metadata.geo
    assert notes == others
    told = (bits < 8 and photometric < 2) + (photometric in (0, 3)) + (1 in extra) + (extra in ((2, 0), (1, 0)))
    assert len(notes) == told


REFUSED = [  # bits, photometric interpretation, meaning of extra samples, what is said
    (8, 5, (), "is a CMYK picture, which"),
    (8, 6, (), "is a YCbCr picture, which"),
    (16, 8, (), "is a CIELAB picture, which"),
    (8, 32803, (), "is a raw picture of a colour filter array, which"),
    (8, 777, (), "is a picture of photometric interpretation 777, which"),
    (8, 3, (0,), "has a palette beside bands other than alpha"),
    (8, 3, (1,), "has a palette beside bands other than alpha"),
    (8, 0, (0,), "has grey in which 0 is white beside bands other than alpha"),
    (8, 2, (2, 2), "has 2 bands of alpha: say what its bands are with `gdal_edit.py -colorinterp_5 undefined x.tif`"),
]


@pytest.mark.parametrize(("bits", "photometric", "extra", "said"), REFUSED)
def test_what_is_refused_is_refused_with_and_without_a_georeference(
    bits: int, photometric: int, extra: tuple[int, ...], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    depth = {5: 4, 6: 3, 8: 3, 2: 3}.get(photometric, 1) + len(extra)
    samples = noise(21, 19, depth, dtype="u1" if bits <= 8 else "u2")
    tags = {320: ("H", list(range(768)))} | ({338: ("H", list(extra))} if extra else {})
    picture = Picture(samples, photometric, tags=tags)
    plain, _ = read(tiffs.file(picture), caplog)
    assert isinstance(plain, str) and said in plain and "`" in plain
    assert read(tiffs.file(placed(picture)), caplog)[0] == plain


@pytest.mark.parametrize(
    ("compression", "named"), [(50002, "JPEG XL"), (34712, "JPEG 2000"), (9999, "compression 9999")]
)
def test_a_compression_that_gdal_lacks_is_no_damage(compression: int, named: str) -> None:
    rasterio = pytest.importorskip("rasterio")
    data = tiffs.file(replace(RGB, compression=compression))
    with rasterio.MemoryFile(data) as memory:
        try:
            memory.open().close()
        except rasterio.errors.RasterioIOError:
            assert refusal(data) == (
                f"x.tif is compressed by {named}, which this GDAL does not decode in samples of 8 bits: rewrite it, "
                "for instance with `gdal_translate -co COMPRESS=DEFLATE x.tif picture.tif` of a GDAL that does, or "
                "with tifffile and imagecodecs"
            )
        else:
            pytest.skip("this GDAL has it")


def test_jpeg_of_12_bits_is_no_damage() -> None:
    said = refusal(tiffs.file(Picture(noise(24, 30, 1, dtype="u2"), bits=12, compression=7)))
    assert said.startswith("x.tif is compressed by JPEG, which this GDAL does not decode in samples of 12 bits: ")


@pytest.mark.parametrize("photometric", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_samples_of_no_type_are_without_sign(photometric: int, dtype: str, caplog: pytest.LogCaptureFixture) -> None:
    depth = 3 if photometric == 2 else 1
    picture = Picture(noise(24, 30, depth, dtype=dtype), photometric)
    void = replace(picture, tags={339: ("H", [4] * depth)})
    usual, notes = read(tiffs.file(picture), caplog)
    found, others = read(tiffs.file(void), caplog)
    assert isinstance(usual, Image) and isinstance(found, Image)
    assert np.array_equal(found.pixels, usual.pixels)
    assert notes == others


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("bands", [1, 4])
def test_without_photometric_interpretation_samples_are_grey_as_for_gdal(
    bands: int, big: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = noise(24, 30, bands)
    picture = Picture(samples, 1, tags={338: ("H", [0] * (bands - 1))} if bands > 1 else {})
    data = tiffs.file(picture, big=big).replace(struct.pack("<HH", 262, 3), struct.pack("<HH", 263, 3))
    assert np.array_equal(pictures.from_bytes(data, "x.tif").pixels, samples)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert "needs GDAL, for its photometric interpretation: pip install" in refusal(data)


def test_nodata_follows_the_samples() -> None:
    samples = noise(20, 20, 1, top=16)
    grey = Picture(samples, 0, 4, tags={42113: ("s", b"3\0")})
    found = pictures.from_bytes(tiffs.file(grey), "x")
    assert found.nodata == 255 - 3 * 17
    assert np.array_equal(found.pixels == found.nodata, samples == 3)
    palette = Picture(samples, 3, 4, tags={42113: ("s", b"3\0"), 320: ("H", [256 * 9] * 48)})
    found = pictures.from_bytes(tiffs.file(palette), "x")
    assert found.nodata is None
    assert np.array_equal(found.alpha == 0, samples[..., 0] == 3)


def test_palettes_of_eight_bits_in_sixteen_and_of_sixteen_bit_indices() -> None:
    index = noise(20, 20, 1, dtype="u2", top=1 << 16)
    table = noise(3 << 16, dtype="u2", top=1 << 16, seed=3)
    colours = table.reshape(3, -1).T
    picture = Picture(index, 3, tags={320: ("H", table.tolist())})
    assert np.array_equal(pictures.from_bytes(tiffs.file(picture), "x").pixels, (colours >> 8)[index[..., 0]])
    small = replace(picture, tags={320: ("H", (table >> 8).tolist())})
    assert np.array_equal(pictures.from_bytes(tiffs.file(small), "x").pixels, (colours >> 8)[index[..., 0]])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize(("bits", "photometric"), [*itertools.product((1, 2, 4, 8), (0, 1, 3)), (8, 2)])
def test_what_pillow_reads_right_needs_no_gdal(
    bits: int,
    photometric: int,
    compression: int,
    order: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = noise(21, 19, 3 if photometric == 2 else 1, top=1 << bits)
    tags = {320: ("H", noise(3 << bits, top=1 << 16, dtype="u2").tolist())} if photometric == 3 else {}
    picture = Picture(samples, photometric, bits, tile=16 * (order == ">"), compression=compression, tags=tags)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    found, _ = read(tiffs.file(picture, order=order), caplog)
    assert isinstance(found, Image)
    assert np.array_equal(found.pixels, meant(picture, bits, ())[0])
    refused, _ = read(tiffs.file(replace(picture, planar=2), order=order), caplog)
    assert isinstance(refused, str) and "needs GDAL, for its separate planes: pip install" in refused


@pytest.mark.parametrize("count", [0, 3, 767])
@pytest.mark.parametrize("place", [{}, tiffs.GEOREFERENCE], ids=["plain", "georeferenced"])
def test_a_palette_of_another_length_is_refused(count: int, place: dict[int, tiffs.Values]) -> None:
    tags = place | ({320: ("H", list(range(count)))} if count else {})
    said = refusal(tiffs.file(Picture(noise(21, 19, 1), 3, tags=tags)))
    assert said == f"x.tif is damaged: its palette has {count} values, expected 768"


@pytest.mark.parametrize("picture", [RGB, placed(RGB), Picture(noise(9, 8, 4, dtype="u2"), 1)])
def test_a_big_endian_bigtiff_is_read_by_gdal(picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiffs.file(picture, REDUCED, big=True, order=">")
    found = pictures.from_bytes(data, "x")
    assert np.array_equal(found.pixels, picture.samples)
    assert bool(found.metadata.geo) == bool(picture.tags)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert "needs GDAL, for its form, a BigTIFF of big-endian order: pip install" in refusal(data)
