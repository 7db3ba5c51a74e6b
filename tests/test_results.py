"""Results come back from their file as they were; any other file is refused in one line."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale_codec.errors import UsageError
from refscale_codec.study import results as results_files
from refscale_codec.study.results import CoderInfo, Comparison, Results, Row, from_fields, to_fields

FIGURES = st.floats(allow_infinity=False)
ROWS = st.builds(
    Row,
    **{name: st.text() for name in ("dataset", "name", "coder")},
    **{name: st.integers() for name in ("quality", "bytes_total")},
    bytes_by_section=st.dictionaries(st.text(), st.integers()),
    **{name: FIGURES for name in ("bpp", "psnr", "psnr_y", "ssim", "ms_ssim", "si_lr_mean", "si_lr_std")},
    seconds=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
)
COMPARISONS = st.builds(
    Comparison,
    **{name: st.text() for name in ("dataset", "coder", "anchor")},
    **{name: FIGURES for name in ("percent", "bd_psnr")},
    **{name: st.integers() for name in ("pictures", "left_out")},
    notes=st.lists(st.text()).map(tuple),
)
CODERS = st.builds(CoderInfo, st.text(), st.text(), st.booleans(), st.none() | st.text())


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A results file with one row of a lossless picture, and no BD-rate."""
    row = Row("d", "a", "jpeg", 95, 10, {"picture": 10}, 4.5, math.inf, 50.0, 1.0, math.nan, 0.1, 0.1, {"encode": 1.0})
    comparison = Comparison("d", "avif", "jpeg", math.nan, math.nan, 0, 1, ("few points",))
    coder = CoderInfo("jpeg", "JPEG", False)
    path = tmp_path / "results.json"
    results_files.write(Results("c", "c", {}, {}, {}, (coder,), (comparison,), (row,)), path)
    return path


@given(st.one_of(ROWS, COMPARISONS, CODERS))
def test_a_record_comes_back_from_json(record: Row | Comparison | CoderInfo) -> None:
    fields = json.loads(json.dumps(to_fields(record), allow_nan=False))
    assert str(from_fields(type(record), fields)) == str(record)  # as text, since NaN differs from itself


def test_a_file_comes_back_and_what_is_not_finite_is_nan(stored: Path) -> None:
    results = results_files.read(stored)
    assert math.isnan(results.rows[0].psnr)
    assert math.isnan(results.comparisons[0].percent)
    assert results.rows[0].bytes_by_section == {"picture": 10}
    assert results.comparisons[0].notes == ("few points",)
    again = stored.with_name("again.json")
    results_files.write(results, again)
    assert again.read_bytes() == stored.read_bytes()
    assert sum('"bytes_by_section"' in line for line in stored.read_text().splitlines()) == 1  # a row a line


def without_schema(fields: dict[str, Any]) -> None:
    del fields["schema"]


def of_a_later_schema(fields: dict[str, Any]) -> None:
    fields["schema"] = results_files.SCHEMA + 1


def with_bytes_map(fields: dict[str, Any]) -> None:
    fields["rows"][0]["bytes_map"] = fields["rows"][0].pop("bytes_by_section")


def with_text_for_a_number(fields: dict[str, Any]) -> None:
    fields["rows"][0]["bpp"] = "x"


def with_text_in_a_table(fields: dict[str, Any]) -> None:
    fields["rows"][0]["seconds"] = {"encode": "x"}


def without_coders(fields: dict[str, Any]) -> None:
    del fields["coders"]


def with_more(fields: dict[str, Any]) -> None:
    fields["more"] = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_schema, "older than schemas have numbers.*measure it again"),
        (of_a_later_schema, "has the schema 2.*reads 1"),
        (with_bytes_map, "unexpected or missing: bytes_by_section, bytes_map"),
        (with_text_for_a_number, "of another type: bpp"),
        (with_text_in_a_table, "of another type: seconds"),
        (without_coders, "not a results file.*coders"),
        (with_more, "not a results file.*more"),
    ],
)
def test_files_of_another_shape_are_refused_by_name(stored: Path, change: Any, message: str) -> None:
    fields = json.loads(stored.read_text())
    change(fields)
    stored.write_text(json.dumps(fields))
    with pytest.raises(UsageError, match=rf"results\.json.*{message}"):
        results_files.read(stored)


@pytest.mark.parametrize("text", ["", "[]", "nothing", None])
def test_what_is_no_results_file_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=r"results\.json"):
        results_files.read(path)


def test_a_mean_stands_for_all_if_more_than_half_count() -> None:
    def comparison(pictures: int, left_out: int) -> Comparison:
        return Comparison("d", "avif", "jpeg", -1.0, 0.1, pictures, left_out, ())

    assert [comparison(*of).stands_for_all for of in ((1, 0), (1, 1), (2, 1), (0, 0), (0, 2))] == [
        *(True, False, True, False, False)
    ]
    assert [comparison(*of).counts for of in ((3, 0), (1, 1))] == ["3", "1 of 2"]


def test_times_are_of_a_megapixel_and_large_pictures_weigh_more() -> None:
    def row(coder: str, megapixels: float, **seconds: float) -> Row:
        size = 1000
        bpp = 8e-6 * size / megapixels
        return Row("d", "a", coder, 1, size, {}, bpp, 30.0, 30.0, 1.0, 1.0, 0.0, 0.0, seconds)

    rows = [row("a", 1.0, encode=2.0, decode=1.0), row("a", 3.0, encode=2.0), row("b", 0.5, encode=1.0)]
    times = results_files.seconds_per_megapixel(rows)
    assert times["a"] == pytest.approx({"encode": 1.0, "decode": 1.0})
    assert times["b"] == pytest.approx({"encode": 2.0})
