"""The schema of the georeference: what is valid, what is refused, and with which message."""

import json
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome
from hypothesis import given
from hypothesis import strategies as st

from refscale_codec.cli import facts
from refscale_codec.errors import ContainerError
from refscale_codec.picture import geo, metadata

RPCS: dict[str, Any] = (
    {f"{name}_{kind}": 1.5 for name in ("height", "lat", "line", "long", "samp") for kind in ("off", "scale")}
    | {f"{name}_coeff": [0.5] * 20 for name in ("line_num", "line_den", "samp_num", "samp_den")}
    | {"err_bias": None, "err_rand": 2}
)
VALID: dict[str, Any] = {
    "crs": "EPSG:32630",
    "transform": [10, 0, 5e5, 0, -10, 4.1e6],
    "tags": {"A": "b"},
    "band_tags": [{}, {"C": "d"}],
    "descriptions": ["red", None],
    "units": [None, "K"],
    "interpretations": ["gray", "undefined"],
    "scales": [1, 0.5],
    "offsets": [0.0, -3],
    "gcps": [[0, 0, 10.5, 20, 0]],
    "gcp_crs": "EPSG:4326",
    "rpcs": RPCS,
}


def test_what_is_valid_comes_back_without_unknown_fields() -> None:
    assert geo.parse(geo.dumped(VALID)) == VALID
    assert geo.parse(geo.dumped(VALID | {"later": [[1]]})) == VALID
    assert geo.parse(b"{}") == {}
    assert geo.fields_of(b"[") == {}


def test_as_many_tags_and_points_as_the_format_allows_are_read() -> None:
    most = {"tags": dict.fromkeys(map(str, range(4096)), "x"), "gcps": [[0] * 5] * 8192}
    most["band_tags"] = [most["tags"]] * 4 + [{}]
    assert geo.parse(geo.dumped(most)) == most


NUMBERS = [True, None, "1", "nan", [], 10**400, [1] * 5]
TEXTS = [1, None, [], "a\0b", "\ud800"]
SYSTEMS = [
    "",
    "nonsense",
    "/dev/stdin",
    "http://a/b",
    "http:a/b",
    "/vsicurl/http://a",
    "+proj=longlat",
    "{}",
    "EPSG:4326\n",
]
SYSTEMS += ["EPSG:4326+5773", ":1", "EPSG:", f"EPSG:{'1' * 33}", "DICT:a,b", "urn:ogc:def:crs:EPSG::4326", "WKT", "[x]"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("crs", value) for value in (*TEXTS, *SYSTEMS, f'X["{"x" * 70_000}"]')],
        *[("transform", value) for value in ([], [1] * 5, [1] * 7, "123456", {}, [[1]] * 6)],
        *[("transform", [1, 0, value, 0, 1, 0]) for value in NUMBERS],
        *[("tags", value) for value in ([], "a", {"a": 1}, {"a": None}, {"a": {}}, {"a": "b\0"})],
        *[("band_tags", value) for value in ({}, [], [[]], [None], [{}] * 257)],
        *[(name, [value]) for name in ("descriptions", "units") for value in (1, [], "a\0b", "\ud800")],
        *[("interpretations", value) for value in ([], ["nonsense"], [1], [[]], "gray", ["__class__"])],
        *[(name, [value]) for name in ("scales", "offsets") for value in NUMBERS],
        *[("gcps", value) for value in ([], [1], [[1, 2, 3, 4]], [[1, 2, 3, 4, "5"]])],
        *[("tags", dict.fromkeys(map(str, range(4097)), "x")), ("gcps", [[0] * 5] * 8193)],
        *[("band_tags", [dict.fromkeys(map(str, range(count)), "x")] * 5) for count in (3277, 4097)],
        *[("gcp_crs", value) for value in (*TEXTS, *SYSTEMS)],
        *[("rpcs", value) for value in ([], {}, RPCS | {"lat_off": "1"}, RPCS | {"line_num_coeff": [1] * 19})],
        *[("rpcs", RPCS | {"err_bias": "1"}), ("rpcs", {name: RPCS[name] for name in list(RPCS)[1:]})],
    ],
)
def test_a_field_that_is_not_as_the_schema_says_is_refused(name: str, value: object) -> None:
    data = json.dumps({name: value}).encode()
    with pytest.raises(ValueError, match=f"^{name}: it must be "):
        geo.parse(data)
    assert geo.fault(name, value).startswith("it must be ")
    with pytest.raises(ContainerError, match=f"^malformed: METADATA, georeference and tags: {name}: it must be "):
        metadata.unpack(b"\4" + len(data).to_bytes(3, "little") + data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "Expecting value"),
        (b"\xff", "not in UTF-8"),
        (b"[]", "not a JSON object"),
        (b"7", "not a JSON object"),
        (b'{"scales":[NaN]}', "NaN is not a number of JSON"),
        (b'{"scales":[1,-Infinity]}', "-Infinity is not a number of JSON"),
        (b'{"scales":[1e999]}', "scales: it must be a list of finite numbers"),
        (b'{"scales":[' + b"1" * 5000 + b"]}", "Exceeds the limit|scales: it must be a list of finite numbers"),
        (b'{"a":' * 4 + b"1" + b"}" * 4, "more than 3 objects and lists in one another"),
        (b"[" * 100_000, "more than 3 objects and lists in one another"),
        (b'{"crs":"' + b"x" * (1 << 20) + b'"}', "1,048,586 bytes, at most 1,048,576 are read"),
    ],
)
def test_other_json_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        geo.parse(data)


def test_brackets_in_texts_do_not_count() -> None:
    fields = {"tags": {'[[[["{{{{': '\\"[[[[', "\\": "]"}}
    assert geo.parse(geo.dumped(fields)) == fields


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists) | st.binary())
def test_any_bytes_give_fields_or_an_error(value: object) -> None:
    data = value if isinstance(value, bytes) else json.dumps({name: value for name in VALID}).encode()
    found = geo.fields_of(data)
    assert not found or geo.parse(geo.dumped(found)) == found


def test_a_bomb_of_lists_is_refused_in_little_time_and_memory() -> None:
    plain = b"[" + b"[]," * 5_592_000 + b"[]]"
    deflated = zlib.compress(plain, 9, wbits=-15)
    assert len(deflated) < 20_000
    tracemalloc.start()
    begun = time.process_time()
    try:
        with pytest.raises(ContainerError, match="at most 1,048,576 are read"):
            metadata.unpack(b"\4" + len(plain).to_bytes(3, "little") + deflated)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(plain)
    finally:
        tracemalloc.stop()
    assert time.process_time() - begun < 2


def test_a_window_moves_all_that_says_where_it_is() -> None:
    moved = geo.parse(geo.of_window(geo.dumped(VALID), 7, 3))
    assert moved["transform"] == [10, 0, 5e5 + 70, 0, -10, 4.1e6 - 30]
    assert moved["gcps"] == [[-3, -7, 10.5, 20, 0]]
    assert (moved["rpcs"]["line_off"], moved["rpcs"]["samp_off"]) == (-1.5, -5.5)
    same = [name for name in VALID if moved[name] == VALID[name]]
    assert sorted(set(VALID) - set(same)) == ["gcps", "rpcs", "transform"]


def test_info_refuses_a_hostile_georeference(refscale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from conftest import ROOT

    from refscale_codec.fileformat import container

    content = container.unpack((ROOT / "tests/golden/alone.rsc").read_bytes())
    said = b'{"transform":[' + b"1" * 400 + b",0,0,0,1,0]}"
    payload = b"\4" + len(said).to_bytes(3, "little") + said
    (tmp_path / "bad.rsc").write_bytes(container.pack(replace(content, metadata=payload)))
    monkeypatch.chdir(tmp_path)
    for line in ("info bad.rsc", "verify bad.rsc", "decode bad.rsc -o out.tif"):
        done: Outcome = refscale(*line.split())
        assert (done.code, done.err.count("\n")) == (4, 1)
        assert (
            "bad.rsc: malformed: METADATA, georeference and tags: transform: it must be six finite numbers" in done.err
        )
    assert not (tmp_path / "out.tif").exists()


HUGE = int("9" * 308)


def test_numbers_are_floats_and_those_of_a_window_are_finite() -> None:
    found = geo.parse(geo.dumped({"transform": [HUGE, 0, 1, 0, 1, 0], "gcps": [[0, 0, 1, 2, 3]]}))
    assert all(isinstance(number, float) for number in [*found["transform"], *found["gcps"][0]])
    moved = geo.parse(geo.of_window(geo.dumped(found), 999, 0))
    assert moved == {"gcps": [[0, -999, 1, 2, 3]]}


@pytest.mark.parametrize("transform", [[HUGE, 0, 0, 0, 1, 0], [HUGE, -HUGE, HUGE, 0, 1, 0], [1, 0, 0, 0, -HUGE, 0]])
def test_bounds_are_finite_or_not_there(transform: list[float]) -> None:
    parsed = geo.parse(geo.dumped({"transform": transform}))["transform"]
    assert facts.bounds(parsed, 32, 32) is None
    assert facts.bounds(parsed, 0, 0) in (None, [parsed[2], parsed[5]] * 2)
