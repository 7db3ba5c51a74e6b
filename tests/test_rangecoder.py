"""The range coder: what goes in comes out, in the bits of docs/FORMAT.md, and bad payloads are one named error."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refscale_codec.errors import ContainerError
from refscale_codec.rangecoder import LONGEST, ORDER, Decoder, Encoder

integers = st.integers(-20, 20) | st.integers(-(1 << LONGEST - 1), (1 << LONGEST - 1) - 1)


def written(symbols: list[tuple[int, list[int]]]) -> bytes:
    """Code symbols, each with the limits of its shares of 2^24, as docs/FORMAT.md, *Writing*, says."""
    low, wide, moved = 0, (1 << 64) - 1, 0
    for symbol, limits in symbols:
        low += (wide >> 24) * limits[symbol]
        wide = (wide >> 24) * (limits[symbol + 1] - limits[symbol])
        if wide < 1 << 32:
            low, wide, moved = low << 32, wide << 32, moved + 1
    value = low + (1 << 32) - 1 >> 32
    words = value.to_bytes(4 * (moved + 1), "big") + bytes(4 * (low + wide >> 32 == value))
    return np.frombuffer(words, ">u4").astype("<u4").tobytes()


def uniform(n: int) -> list[int]:
    return [*((1 << 24) // n * s for s in range(n)), 1 << 24]


def bits(value: int) -> str:
    """The Exp-Golomb code of 0 or more."""
    above = f"{(value >> ORDER) + 1:b}"
    return "0" * (len(above) - 1) + above + f"{value % (1 << ORDER):0{ORDER}b}"


@given(st.lists(integers, min_size=1))
def test_integers_come_back(values: list[int]) -> None:
    coder = Encoder()
    for value in values:
        assert coder.signed(value) == value
        assert coder.unsigned(abs(value)) == abs(value)
    back = Decoder(coder.payload(), "it")
    for value in values:
        assert back.signed() == value
        assert back.unsigned() == abs(value)
    back.require_end()


@given(st.integers(0, 1 << LONGEST - 1))
def test_an_integer_has_the_bits_of_the_exp_golomb_code(value: int) -> None:
    one, other = Encoder(), Encoder()
    one.unsigned(value)
    for bit in bits(value):
        other.bit(int(bit))
    assert one.payload() == other.payload()


def test_small_integers_by_hand() -> None:
    assert [bits(n) for n in (0, 7, 8, 23, 24)] == ["1000", "1111", "010000", "011111", "00100000"]
    for folded, value in enumerate((0, -1, 1, -2, 2)):
        one, other = Encoder(), Encoder()
        one.signed(value)
        other.unsigned(folded)
        assert one.payload() == other.payload()


@given(st.data())
def test_bytes_are_those_of_the_format_document(data: st.DataObject) -> None:
    coder, symbols = Encoder(), []
    for kind in data.draw(st.lists(st.sampled_from(["uniform", "bit", "frequencies"]), min_size=1, max_size=60)):
        if kind == "frequencies":
            ends = data.draw(st.lists(st.integers(1, 65535), min_size=1, max_size=6, unique=True).map(sorted))
            frequencies = np.diff([0, *ends, 65536])
            n = len(frequencies)
            limits = [*(f * ((1 << 24) - n) // 65536 + s for s, f in enumerate([0, *ends])), 1 << 24]
        else:
            n = 2 if kind == "bit" else data.draw(st.integers(2, 5000))
            limits = uniform(n)
        symbol = data.draw(st.integers(0, n - 1))
        if kind == "frequencies":
            coder.symbols(frequencies[None] / 65536, np.array([symbol], np.int32))
        elif kind == "bit":
            coder.bit(symbol)
        else:
            coder.uniform(n, symbol)
        symbols.append((symbol, limits))
    assert coder.payload() == written(symbols)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_no_payload_of_an_encoder_ends_early(data: st.DataObject) -> None:
    coder, coded = Encoder(), []
    for _ in range(data.draw(st.integers(1, 12))):
        n, times = data.draw(st.integers(2, 300)), data.draw(st.sampled_from([1, 40, 900]))
        weights = np.random.default_rng(n).random(n) ** data.draw(st.sampled_from([0, 1, 30, 300, 3000])) + 1e-300
        probabilities = np.tile(weights / weights.sum(), (times, 1))
        symbols = np.full(times, data.draw(st.sampled_from([weights.argmax(), weights.argmin(), 0, n - 1])), np.int32)
        size = data.draw(st.integers(1, 12).map(lambda bits: 1 << 2 * bits)) - data.draw(st.integers(0, 2))
        value = data.draw(st.sampled_from([0, size - 1]))
        coder.symbols(probabilities, symbols)
        for _ in range(times // 30):
            coder.uniform(size, value)
            coder.signed(value)
        coded.append((probabilities, symbols, size, value, times // 30))
    back = Decoder(coder.payload(), "it")
    for probabilities, symbols, size, value, times in coded:
        assert (back.symbols(probabilities) == symbols).all()
        assert [(back.uniform(size), back.signed()) for _ in range(times)] == [(value, value)] * times
    back.require_end()


@pytest.mark.parametrize("words", [1, 2, 50])
def test_a_payload_gives_no_more_than_its_bits(words: int) -> None:
    bits, bytewise, likely = (Decoder(bytes(4 * words), "it") for _ in range(3))
    with pytest.raises(ContainerError, match="^it is damaged: it ends before the last symbol"):
        for _ in range(32 * words + 2):
            bits.bit()
    with pytest.raises(ContainerError, match="it ends before"):
        for _ in range(4 * words + 1):
            bytewise.uniform(256)
    with pytest.raises(ContainerError, match="it ends before"):
        for _ in range(words + 2):
            likely.symbols(np.tile([0.5, 0.5], (36, 1)))


def test_a_carry_runs_through_the_words_before() -> None:
    half, low, wide, symbols = 1 << 63, 0, (1 << 64) - 1, []
    for _ in range(200):  # the symbol that has one half inside its share: low is 0.01111.. and may still become 0.1
        limits = uniform(7)
        ends = [low + (wide >> 24) * limit for limit in limits]
        symbol = next(s for s in range(7) if half < ends[s + 1])
        symbols.append((symbol, limits))
        low, wide = ends[symbol], ends[symbol + 1] - ends[symbol]
        if wide < 1 << 32:
            half, low, wide = half << 32, low << 32, wide << 32
    for last in (0, 6):
        coder = Encoder()
        for symbol, _ in [*symbols, (last, [])]:
            coder.uniform(7, symbol)
        assert coder.payload() == written([*symbols, (last, uniform(7))])
        assert coder.payload()[:8].hex() == ("ffffff7fffffffff" if last == 0 else "0000008000000000")


def test_an_integer_of_too_many_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        Encoder().unsigned(1 << LONGEST + ORDER + 1)
    coder = Encoder()
    for _ in range(LONGEST + 1):
        coder.bit(0)
    coder.bit(1)
    with pytest.raises(ContainerError, match="^the map is damaged: a number is out of range"):
        Decoder(coder.payload(), "the map").unsigned()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5])
def test_a_payload_is_whole_words(size: int) -> None:
    with pytest.raises(ContainerError, match=f"^the map is malformed: {size} bytes"):
        Decoder(bytes(size), "the map")


def test_words_to_spare_are_noticed() -> None:
    coder = Encoder()
    for value in range(20):
        coder.uniform(100, value)
    for spare in (bytes(8), b"\1\2\3\4\5\6\7\10"):
        back = Decoder(coder.payload() + spare, "the map")
        assert [back.uniform(100) for _ in range(20)] == list(range(20))
        with pytest.raises(ContainerError, match="to spare"):
            back.require_end()


def test_what_nothing_is_coded_like_is_refused() -> None:
    for read in (
        lambda: Decoder(b"\xff" * 8, "it").uniform(3),
        lambda: Decoder(b"\xff" * 8, "it").bit(),
        lambda: Decoder(b"\xff" * 8, "it").symbols(np.full((2, 4), 0.25)),
    ):
        with pytest.raises(ContainerError, match="^it is damaged: it does not decode"):
            read()
