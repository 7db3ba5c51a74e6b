"""Golden files: what was written once decodes to the same pixels, up to a level of floating point."""

import numpy as np
import pytest
from conftest import GOLDEN, golden

from refscale_codec import model
from refscale_codec.codec import decoder
from refscale_codec.fileformat import container, references
from refscale_codec.fileformat.sections import TABLE
from refscale_codec.picture.image import Image
from refscale_codec.reference import source, warp
from refscale_codec.reference.source import Blend

make = golden()
NAMES: list[str] = sorted(make.NAMES)
EXACT = [name for name, path in make.NOT_SHIPPED.items() if path == make.EXACT]


def test_there_is_one_of_each() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.rsc")) == NAMES
    assert sorted(path.stem for path in GOLDEN.glob("*.npz")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_file_decodes_to_its_pixels(name: str) -> None:
    data = (GOLDEN / f"{name}.rsc").read_bytes()
    file = container.unpack(data)
    assert container.pack(file) == data
    net = model.load(make.weights(name))
    picture = decoder.decode(data, make.references(name), net)
    with np.load(GOLDEN / f"{name}.npz") as expected:
        pixels = expected["pixels"]
    assert picture.pixels.dtype == pixels.dtype
    level = (
        2 if name == "fgrn" else {"u1": 1, "f4": 0.4}.get(pixels.dtype.str[1:], 13)
    )  # a 255th of the range that is coded
    finite = np.isfinite(pixels)
    assert np.array_equal(picture.pixels[~finite], pixels[~finite], equal_nan=True)
    away = abs(picture.pixels[finite].astype(float) - pixels[finite])
    assert away.max() <= (0 if net.exact else level)
    assert away.mean() < 0.01 * level


def test_golden_files_show_each_section_and_codec() -> None:
    files = [container.unpack((GOLDEN / f"{name}.rsc").read_bytes()) for name in NAMES]
    files += [container.unpack(file.extra_bands) for file in files if file.extra_bands is not None]
    shown = {section.name for file in files for section, _ in file.sections()}
    assert shown == {section.name for section in TABLE.values()}
    assert {(file.header.codec, file.header.scale, file.header.reference is None) for file in files} >= {
        (1, 2, True),
        (1, 2, False),
        (1, 4, False),
        (2, 2, True),
        (2, 2, False),
        (3, 1, True),
        (3, 1, False),
    }


@pytest.mark.parametrize("name", make.BOUNDS)
def test_golden_files_keep_their_bounds(name: str) -> None:
    with np.load(GOLDEN / f"{name}.npz") as expected:
        away = abs(expected["pixels"].astype(int) - make.target(name).pixels)
    assert away.max() == make.BOUNDS[name]


def test_golden_files_show_each_way_to_code_the_map_and_the_warp() -> None:
    files = {name: container.unpack((GOLDEN / f"{name}.rsc").read_bytes()) for name in NAMES}
    sizes = [None if file.similarity_map is None else len(file.similarity_map) for file in files.values()]
    assert {None, 0, 1} < set(sizes)  # highest everywhere; none of the reference; one level
    warps = [
        warp.unpack(file.alignment, file.header.height, file.header.width)
        for file in files.values()
        if file.alignment is not None
    ]
    assert {alignment.transform.pairs for alignment in warps} == {0, 1, 2, 3, 4}
    assert {alignment.factor for alignment in warps} == {1, 3}
    seen = {(alignment.motion.any(), alignment.radiometry is not None) for alignment in warps}
    assert seen == {(False, False), (False, True), (True, False), (True, True)}
    for name in NAMES:
        given = make.alignment(name)
        if given is not None:
            read = warp.unpack(files[name].alignment or b"", *make.SIZE)
            assert read.transform == given.transform and read.radiometry == given.radiometry


def test_golden_files_show_each_way_to_name_and_to_blend_references() -> None:
    for name in make.FURTHER:
        file = container.unpack((GOLDEN / f"{name}.rsc").read_bytes())
        older = [one.fingerprint() for one in make.references(name)]
        needed = references.needed(file)
        assert sorted(needed) == sorted(older) and needed[0] == file.header.reference
        if name == "third-reference":
            names = dict(zip(needed, ["first.tif", "third.tif", None], strict=True))
            assert references.file_names(file) == {one.hex(): of_file for one, of_file in names.items()}
            assert needed == [older[at] for at in (0, 2, 1)]
        inner, found = file, [source.of_file(file, older)]
        while inner.extra_bands is not None:
            inner = container.unpack(inner.extra_bands)
            found.append(source.of_file(inner, older))
        for given, read in zip(make.sources(name), found, strict=True):
            assert (read.places, read.alignment is None) == (given.places, given.alignment is None)
            if isinstance(given, Blend):
                assert isinstance(read, Blend)
                for a, b in zip(given.layers, read.layers, strict=True):
                    assert np.array_equal(a.weights, b.weights)
                    assert a.alignment.transform == b.alignment.transform
                    assert np.array_equal(a.alignment.motion, b.alignment.motion)


def test_golden_files_of_exact_nets_hold_their_hash() -> None:
    hashes = {
        name: container.unpack((GOLDEN / f"{name}.rsc").read_bytes()).output_hash for name in [*EXACT, *make.BOUNDS]
    }
    assert len(hashes) == 6
    for name, found in hashes.items():
        with np.load(GOLDEN / f"{name}.npz") as expected:
            assert Image(expected["pixels"]).fingerprint() == found
