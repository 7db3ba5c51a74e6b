"""Layers come back from their bytes as they were, are blended as the format says, and bad payloads are one error."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refscale_codec.codec import decoder, encoder
from refscale_codec.errors import ContainerError, ReferenceMismatch
from refscale_codec.fileformat import container, references
from refscale_codec.fileformat.container import Container, Header
from refscale_codec.model import Model
from refscale_codec.picture.image import Image
from refscale_codec.picture.tiles import Box
from refscale_codec.reference import blending, source, warp
from refscale_codec.reference.blending import FULL, Layer, Weights
from refscale_codec.reference.source import Blend, Unused, Warped
from refscale_codec.reference.warp import Alignment, GainOffset, Transform

Above = list[tuple[bytes, Alignment, Weights]]
NAMES = [bytes([at]) * 6 for at in range(1, 10)]


@st.composite
def all_weights(draw: st.DrawFn, height: int, width: int) -> Weights:
    """Weights of a layer: the same everywhere, any, or few that are not those of most blocks."""
    if draw(st.booleans()):
        return blending.uniform(draw(st.integers(1, FULL)), height, width)
    rng, rare = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.sampled_from([0.05, 0.9]))
    most = blending.uniform(draw(st.integers(0, FULL)), height, width)
    found = np.where(rng.random(most.shape) < rare, rng.integers(0, FULL + 1, most.shape), most).astype(np.int16)
    return found if found.any() else found + 1


@st.composite
def alignments(draw: st.DrawFn, height: int, width: int) -> Alignment:
    """Warps of this size."""
    one = 1 << Transform.bits(height, width)
    limits = [1 << 30] * 2 + [64 * one] * 4 + [4 * one] * 2
    pairs = draw(st.integers(0, 4))
    numbers = [draw(st.integers(-300, 300) | st.sampled_from([-limit, limit])) for limit in limits[: 2 * pairs]]
    if pairs == 2:
        numbers += [-numbers[3], numbers[2]]
    rng, reach = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.sampled_from([0, 3, warp.LIMIT]))
    motion = rng.integers(-reach, reach + 1, (*warp.grid(height, width), 2)).astype(np.int16)
    gain = st.builds(GainOffset, st.integers(0, 600), st.integers(-300, 300))
    return Alignment(
        height, width, draw(st.integers(1, 64)), Transform(*numbers), motion, draw(st.none() | st.tuples(*[gain] * 3))
    )


@st.composite
def blends(draw: st.DrawFn) -> tuple[tuple[int, int], bytes | None, Above]:
    """The size of a picture, and what `blending.pack` takes."""
    size = draw(st.integers(1, 400)), draw(st.integers(1, 400))
    lowest = draw(st.none() | st.sampled_from(NAMES))
    count = draw(st.integers(0, 7) if lowest is not None else st.integers(1, 8))
    return (
        size,
        lowest,
        [(draw(st.sampled_from(NAMES)), draw(alignments(*size)), draw(all_weights(*size))) for _ in range(count)],
    )


# --- bytes -----------------------------------------------------------------------------------------------------------


@given(made=blends())
@settings(max_examples=30, deadline=None)
def test_layers_come_back(made: tuple[tuple[int, int], bytes | None, Above]) -> None:
    size, lowest, above = made
    payload = blending.pack(lowest, above)
    assert references.parse(payload)[:2] == (lowest, [name for name, *_ in above])
    found_lowest, found = blending.unpack(payload, *size)
    assert found_lowest == lowest
    assert len(found) == len(above)
    for (name, moved, weights), (found_name, found_moved, found_weights) in zip(above, found, strict=True):
        assert found_name == name
        assert found_moved._replace(motion=moved.motion) == moved
        assert np.array_equal(found_moved.motion, moved.motion)
        assert np.array_equal(found_weights, weights)
        assert found_weights.dtype == np.int16


@given(draws=st.data(), made=blends())
@settings(max_examples=30, deadline=None)
def test_a_damaged_payload_is_an_error_or_other_layers(
    draws: st.DataObject, made: tuple[tuple[int, int], bytes | None, Above]
) -> None:
    size, lowest, above = made
    payload = bytearray(blending.pack(lowest, above))
    for _ in range(draws.draw(st.integers(1, 3))):
        payload[draws.draw(st.integers(0, len(payload) - 1))] = draws.draw(st.integers(0, 255))
    cut = bytes(payload[: draws.draw(st.integers(0, len(payload)))])
    for broken in (bytes(payload), cut, bytes(payload) + bytes(4)):
        try:
            found_lowest, found = blending.unpack(broken, *size)
        except ContainerError:
            continue
        assert blending.pack(found_lowest, found) == broken
        assert 0 < len(found) + (found_lowest is not None) <= references.MOST
        for _, moved, weights in found:
            assert moved.transform.in_range(*size)
            assert abs(moved.motion).max() <= warp.LIMIT
            assert weights.shape == warp.grid(*size)
            assert weights.min() >= 0
            assert 0 < weights.max() <= FULL


@pytest.mark.parametrize("first", [0, 9, 127, 128 + 8, 255])
def test_a_count_out_of_range_is_refused(first: int) -> None:
    with pytest.raises(ContainerError, match="^malformed: REFERENCES section of 901 bytes"):
        references.parse(bytes([first]) + bytes(900))


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x01abcde", b"\x02abcdefabcde", b"\x80abcde", b"\x81abcdef"])
def test_fingerprints_that_are_cut_off_are_refused(payload: bytes) -> None:
    with pytest.raises(ContainerError, match=f"^malformed: REFERENCES section of {len(payload)} bytes"):
        references.parse(payload)


def test_nothing_follows_the_fingerprint_of_a_single_reference() -> None:
    alone = blending.pack(NAMES[0], [])
    assert alone == b"\x80" + NAMES[0]
    assert blending.unpack(alone, 64, 64) == (NAMES[0], [])
    with pytest.raises(ContainerError, match="nothing is coded like that"):
        blending.unpack(alone + bytes(4), 64, 64)


def test_golden_bytes() -> None:
    moved = warp.still(150, 256)._replace(transform=Transform(-700, 3), radiometry=(GainOffset(300, -9),) * 3)
    weights = (np.arange(12).reshape(3, 4) * 7 % 5).astype(np.int16)
    above = [(NAMES[1], moved, weights), (NAMES[2], warp.still(150, 256), blending.uniform(2, 150, 256))]
    for lowest, golden in ((None, GOLDEN), (NAMES[0], GOLDEN_NAMED)):
        assert blending.pack(lowest, above).hex() == golden


GOLDEN = "0202020202020203030303030360e6cd004de44cee7efb7f171ecc3909abfedcc2"
GOLDEN_NAMED = "82010101010101" + GOLDEN[2:]


def test_weights_that_are_alike_take_few_bytes() -> None:
    still = warp.still(1024, 1024)
    halves = blending.uniform(0, 1024, 1024)
    halves[:, 8:] = FULL
    assert len(blending.pack(None, [(NAMES[0], still, blending.uniform(2, 1024, 1024))])) == 11
    assert len(blending.pack(None, [(NAMES[0], still, halves)])) <= 35


# --- pixels ----------------------------------------------------------------------------------------------------------


def drawn(seed: int, height: int, width: int, dtype: type[np.generic] = np.uint8) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, 3)).astype(dtype)


@given(draws=st.data(), dtype=st.sampled_from([np.uint8, np.uint16]))
@settings(max_examples=40, deadline=None)
def test_a_blend_lies_between_its_layers_and_a_part_is_that_of_the_whole(
    draws: st.DataObject, dtype: type[np.generic]
) -> None:
    height, width = draws.draw(st.integers(1, 200)), draws.draw(st.integers(1, 200))
    weights, whole = draws.draw(all_weights(height, width)), Box(0, 0, height, width)
    below, layer = drawn(1, height, width, dtype), drawn(2, height, width, dtype)
    mixed = blending.mixed(below, layer, weights, whole)
    assert mixed.dtype == dtype
    assert (mixed >= np.minimum(below, layer)).all()
    assert (mixed <= np.maximum(below, layer)).all()
    assert np.array_equal(blending.mixed(below, layer, blending.uniform(0, height, width), whole), below)
    assert np.array_equal(blending.mixed(below, layer, blending.uniform(FULL, height, width), whole), layer)
    top, left = draws.draw(st.integers(0, height - 1)), draws.draw(st.integers(0, width - 1))
    box = Box(top, left, draws.draw(st.integers(top + 1, height)), draws.draw(st.integers(left + 1, width)))
    part = blending.mixed(below[box.slices], layer[box.slices], weights, box)
    assert np.array_equal(part, mixed[box.slices])
    for y, x in [(0, 0), (height - 1, width - 1), (height // 2, width // 3)]:
        assert mixed[y, x].tolist() == by_hand(below, layer, weights, y, x)


def by_hand(below: NDArray[np.uint8], layer: NDArray[np.uint8], weights: Weights, y: int, x: int) -> list[int]:
    """One pixel of a blend, in Python's integers, after docs/FORMAT.md."""
    (i, f), (j, g) = divmod(2 * y - 63, 128), divmod(2 * x - 63, 128)
    rows, columns = weights.shape
    total = 0
    for row, down in ((i, 128 - f), (i + 1, f)):
        for column, across in ((j, 128 - g), (j + 1, g)):
            at = min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)
            total += down * across * 64 * int(weights[at])
    share = (2 * total + 16384) // 32768
    pairs = zip(below[y, x].tolist(), layer[y, x].tolist(), strict=True)
    return [((256 - share) * under + share * over + 128) // 256 for under, over in pairs]


def test_blocks_without_weight_keep_what_is_below_them() -> None:
    below, layer = drawn(1, 64, 256), drawn(2, 64, 256)
    mixed = blending.mixed(below, layer, np.array([[0, 0, FULL, FULL]], np.int16), Box(0, 0, 64, 256))
    assert np.array_equal(mixed[:, :96], below[:, :96])  # to the centre of the second block
    assert np.array_equal(mixed[:, 160:], layer[:, 160:])
    middle = (below[:, 127:129].astype(int) + layer[:, 127:129]) / 2
    assert abs(mixed[:, 127:129] - middle).max() <= 2


# --- the encoder's weights -------------------------------------------------------------------------------------------


def test_each_half_comes_from_the_reference_that_shows_it() -> None:
    target, other, another = (drawn(seed, 128, 256) for seed in range(3))
    below, layer = target.copy(), target.copy()
    below[:, 128:], layer[:, :128] = other[:, 128:], another[:, :128]
    assert np.array_equal(blending.fit(target, below, layer), [[0, 0, FULL, FULL]] * 2)
    assert np.array_equal(blending.fit(target, layer, below), [[FULL, FULL, 0, 0]] * 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_weights_that_are_the_same_everywhere_are_found(dtype: type[np.generic]) -> None:
    below, layer = drawn(1, 130, 100, dtype), drawn(2, 130, 100, dtype)
    for weight in range(FULL + 1):
        same = blending.uniform(weight, 130, 100)
        target = blending.mixed(below, layer, same, Box(0, 0, 130, 100))
        assert np.array_equal(blending.fit(target, below, layer), same)


def test_a_blend_leaves_out_layers_of_no_use() -> None:
    target, others = drawn(0, 128, 128), [Image(drawn(seed, 128, 128)) for seed in (1, 2)]
    layers = [Layer(place, warp.still(128, 128), blending.uniform(FULL, 128, 128)) for place in range(3)]
    for place in range(3):
        older = [*others[:place], Image(target), *others[place:]]
        made, picture = Blend(tuple(layers)).made(Image(target), older, None)
        assert made == Warped(None, place=place)
        assert picture is not None and np.array_equal(picture.pixels, target)


# --- files -----------------------------------------------------------------------------------------------------------

SIZE = 70, 130
HEADER = Header(SIZE[1], SIZE[0], 2, 1, 50, bytes(6), NAMES[0])
HALF = blending.uniform(2, *SIZE)


def layered(*places: int) -> Blend:
    """Blend of the references at these places."""
    rng, (rows, columns) = np.random.default_rng(len(places)), warp.grid(*SIZE)
    return Blend(
        tuple(
            Layer(
                place,
                warp.still(*SIZE)._replace(transform=Transform(64 * place, 0)),
                rng.integers(1, FULL, (rows, columns)).astype(np.int16),
            )
            for place in places
        ),
        check=5,
    )


@pytest.mark.parametrize("places", [(0, 1), (2, 0), (1, 1), tuple(range(8))])
def test_a_blend_comes_back_from_its_sections(places: tuple[int, ...]) -> None:
    made = layered(*places)
    file = Container(HEADER, b"lr", **made.sections(NAMES))
    assert references.needed(file) == list(dict.fromkeys([NAMES[0], *(NAMES[place] for place in places)]))
    found = source.of_file(file, NAMES)
    assert isinstance(found, Blend)
    assert (found.places, found.check) == (places, 5)
    older = [Image(drawn(seed, *SIZE)) for seed in range(8)]
    box = Box(3, 60, 70, 130)
    assert np.array_equal(found.pixels(older, None, box), made.pixels(older, None, box))
    assert source.of_file(container.unpack(container.pack(file)), NAMES).places == places


def test_another_reference_alone_is_named() -> None:
    made = Warped(None, place=3)
    file = Container(HEADER, b"lr", **made.sections(NAMES))
    assert (file.alignment, file.references) == (None, b"\x80" + NAMES[3])
    assert source.of_file(file, NAMES) == made
    assert Warped(None, place=3).sections(NAMES, 3) == {}
    assert isinstance(source.of_file(replace(file, similarity_map=b""), NAMES), Unused)


def test_layers_without_an_alignment_are_refused() -> None:
    file = replace(Container(HEADER, b"lr", **layered(0, 1).sections(NAMES)), alignment=None)
    with pytest.raises(ContainerError, match="several layers without ALIGNMENT"):
        source.of_file(file, NAMES)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda file: replace(file, header=replace(HEADER, reference=None)), "REFERENCES without a reference"),
        (lambda file: replace(file, prediction=bytes(10)), "REFERENCES together with PREDICTION"),
    ],
)
def test_references_go_with_a_reference_alone(change: Callable[[Container], Container], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        container.pack(change(Container(HEADER, b"lr", references=blending.pack(NAMES[1], []))))


def test_a_file_names_at_most_eight_references() -> None:
    still = warp.still(*SIZE)
    above = [(name, still, HALF) for name in NAMES[1:]]
    most = Container(HEADER, b"lr", alignment=warp.pack(still), references=blending.pack(None, above[:7]))
    assert references.needed(most) == NAMES[:8]
    for more in (
        replace(most, references=blending.pack(None, above)),
        replace(most, extra_bands=container.pack(replace(most, references=blending.pack(NAMES[8], [])))),
    ):
        with pytest.raises(ContainerError, match="^malformed: 9 references, expected up to 8$"):
            references.needed(more)


def test_no_more_files_within_files_are_read_than_there_can_be() -> None:
    nested = container.pack(Container(replace(HEADER, reference=NAMES[1]), b"lr"))
    for _ in range(84):
        nested = container.pack(Container(HEADER, b"lr", extra_bands=nested))
    assert references.needed(Container(HEADER, b"lr", extra_bands=nested)) == NAMES[:1]
    assert references.needed(container.unpack(nested)) == NAMES[:2]


def test_names_go_to_fingerprints_in_their_order() -> None:
    file = Container(HEADER, b"lr", references=blending.pack(NAMES[2], [(NAMES[1], warp.still(*SIZE), HALF)]))
    for text, names in (
        (b"a.tif\0b.tif\0c.tif", ["a.tif", "b.tif", "c.tif"]),
        (b"\0\0c.tif", [None, None, "c.tif"]),
        (b"a.tif", ["a.tif", None, None]),
        (None, [None] * 3),
        (b"a\0b\0c\0d", ["a", "b", "c"]),
    ):
        found = references.file_names(replace(file, reference_name=text))
        assert list(found.items()) == list(zip([NAMES[at].hex() for at in (0, 2, 1)], names, strict=True))


@pytest.mark.slow
def test_a_picture_comes_back_from_two_references(tiny_models: dict[str, Model]) -> None:
    target, other = drawn(0, *SIZE), drawn(1, *SIZE)
    older = [Image(target.copy(), name=f"{at}.tif") for at in range(2)]
    older[0].pixels[:, 64:], older[1].pixels[:, :64] = other[:, 64:], other[:, :64]
    layers = tuple(Layer(place, warp.still(*SIZE), blending.uniform(FULL, *SIZE)) for place in range(2))
    for net in tiny_models.values():
        options = encoder.EncodeOptions(60, reference_name=True)
        plan = encoder.prepare(Image(target), older, net, options, choose=lambda *_: Blend(layers))
        assert isinstance(plan.sources[0], Blend)
        data = plan.code(60).file()
        file = container.unpack(data)
        assert references.needed(file) == [one.fingerprint() for one in older]
        assert file.reference_name == b"0.tif\x001.tif"
        whole = decoder.decode(data, older[::-1], net)
        assert np.array_equal(whole.pixels, plan.code(60).picture().pixels)
        window = Box(5, 40, 61, 103)
        part = decoder.decode(data, older, net, window=window)
        assert abs(part.pixels.astype(int) - whole.pixels[window.slices]).max() <= 1
        for given_ones in (None, older[0], older[1:], [older[0], Image(target)]):
            with pytest.raises(ReferenceMismatch, match="needs"):
                decoder.decode(data, given_ones, net)
        alignment = warp.with_check(file.alignment or b"", 7)
        with pytest.raises(ReferenceMismatch, match="differs from the one that the encoder used"):
            decoder.decode(container.pack(replace(file, alignment=alignment)), older, net)
