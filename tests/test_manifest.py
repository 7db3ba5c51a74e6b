"""Manifests: the same pairs whatever program saved the table, and one message that says where and what else."""

import codecs
import csv
import io
import os
from pathlib import Path

import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale_codec.errors import ImageError, UsageError
from refscale_codec.picture.manifest import Pair, read_manifest
from refscale_codec.study import pairs as study_pairs


def manifest(folder: Path, text: str) -> Path:
    path = folder / "pairs.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def refusal(path: Path, splits: tuple[str, ...] | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        read_manifest(path, splits)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_manifest_needs_two_columns_only(tmp_path: Path) -> None:
    path = manifest(tmp_path, "reference,target\nold/x.png,new/x.png\n,new/y.webp\n")
    assert read_manifest(path) == [
        Pair("pictures", "x", tmp_path / "new/x.png", tmp_path / "old/x.png"),
        Pair("pictures", "y", tmp_path / "new/y.webp", None),
    ]
    assert read_manifest(path, ("train",)) == read_manifest(path)  # without the column every row counts


def test_manifest_columns_may_name_split_dataset_and_picture(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        "split,dataset,name,target,reference,width\n"
        "train,town,first,a.png,b.png,256\ndev,town,,c.png,d.png,256\nsingle,,,e.png,,64\n",
    )
    first = Pair("town", "first", tmp_path / "a.png", tmp_path / "b.png")
    second = Pair("town", "c", tmp_path / "c.png", tmp_path / "d.png")
    third = Pair("pictures", "e", tmp_path / "e.png", None)
    assert read_manifest(path) == [first, second, third]
    assert read_manifest(path, ("dev",)) == [second]
    assert read_manifest(path, ("single", "train")) == [first, third]


def test_manifest_paths_may_be_absolute(tmp_path: Path) -> None:
    picture = tmp_path / "elsewhere" / "a.png"
    (only,) = read_manifest(manifest(tmp_path, f"target,reference\n{picture},{picture}\n"))
    assert (only.target, only.reference) == (picture, picture)


def test_backslashes_separate_folders_where_no_name_has_them(tmp_path: Path) -> None:
    (tmp_path / "sub" / "old").mkdir(parents=True)
    for name in ("sub/k.png", "sub/old/k.png", "a\\b.png"):
        (tmp_path / name).touch()
    rows = "sub\\k.png,sub\\old\\k.png\na\\b.png,\nsub\\gone.png,\n"
    found = read_manifest(manifest(tmp_path, f"target,reference\n{rows}"))
    assert found[0] == Pair("pictures", "k", tmp_path / "sub" / "k.png", tmp_path / "sub" / "old" / "k.png")
    assert [pair.target for pair in found[1:]] == [tmp_path / "a\\b.png", tmp_path / "sub\\gone.png"]


def test_a_split_without_rows_is_named(tmp_path: Path) -> None:
    path = manifest(tmp_path, "split,target,reference\ntrain,a.png,b.png\n")
    with pytest.raises(UsageError, match="no row of the split dev or test"):
        read_manifest(path, ("dev", "test"))


@pytest.mark.parametrize("row", ["b.png", "b.png,"])
def test_a_row_without_a_target_is_refused(tmp_path: Path, row: str) -> None:
    with pytest.raises(UsageError, match="row 2: there is no target"):
        read_manifest(manifest(tmp_path, f"reference,target\n{row}\n"))


# --- what saved the table --------------------------------------------------------------------------------------------

CELL = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=8)
ENCODINGS = (
    ("utf-8", b""),
    ("utf-8", codecs.BOM_UTF8),
    ("utf-16-le", codecs.BOM_UTF16_LE),
    ("utf-16-be", codecs.BOM_UTF16_BE),
    ("utf-16-le", b""),
    ("utf-16-be", b""),
)


@given(
    rows=st.lists(st.tuples(CELL, CELL | st.just(""), CELL), min_size=1, max_size=4),
    separator=st.sampled_from(",;\t"),
    quoting=st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
    line_end=st.sampled_from(("\n", "\r\n", "\r")),
    encoding=st.sampled_from(ENCODINGS),
    empty=st.sampled_from(("", ",,", " ", None)),
    columns=st.permutations(["Target", "REFERENCE", "dataset", "note"]),
)
def test_one_table_gives_the_same_pairs_however_it_is_saved(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str]],
    separator: str,
    quoting: int,
    line_end: str,
    encoding: tuple[str, bytes],
    empty: str | None,
    columns: list[str],
) -> None:
    file = io.StringIO(newline="")
    table = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=line_end)  # type: ignore[arg-type]
    table.writerow(columns)
    for target, reference, dataset in rows:
        by_name = {"Target": target, "REFERENCE": reference, "dataset": dataset, "note": ""}
        table.writerow([by_name[name] for name in columns])
        file.write("" if empty is None else empty.replace(",", separator) + line_end)
    path = tmp_path_factory.mktemp("table") / "pairs.csv"
    path.write_bytes(encoding[1] + file.getvalue().encode(encoding[0]))
    read = read_manifest(path)
    assert [(pair.target, pair.reference) for pair in read] == [
        (path.parent / target, path.parent / reference if reference else None) for target, reference, _ in rows
    ]
    assert [pair.row for pair in read] == [
        f"{path}, row {2 + place * (1 if empty is None else 2)}" for place in range(len(rows))
    ]


@pytest.mark.parametrize(
    "text",
    [
        "target, reference\nt.png, o.png\n",
        ' "target" ; "reference" \n "t.png" ; "o.png" \n',
        "\n,,\nTarget,Reference,\nt.png,o.png,\n,,\n",
        "sep=;\r\ntarget;reference\r\nt.png;o.png\r\n",
        '"sep=|"\ntarget|reference\nt.png|o.png',
        "note,target,reference\nx;y;z,t.png,o.png\n",  # more semicolons than commas in a row
        'target,reference,note\nt.png,o.png,"two\nlines, and ""more"""\n',
    ],
)
def test_blanks_empty_rows_hints_and_notes_make_no_difference(tmp_path: Path, text: str) -> None:
    path = manifest(tmp_path, text)
    assert read_manifest(path) == [Pair("pictures", "t", tmp_path / "t.png", tmp_path / "o.png")]


def test_cells_that_a_spreadsheet_leaves_out_at_the_end_are_empty(tmp_path: Path) -> None:
    read = read_manifest(manifest(tmp_path, "target,reference,dataset\na.png\nb.png,c.png\n"))
    assert [(pair.name, pair.reference, pair.dataset) for pair in read] == [
        ("a", None, "pictures"),
        ("b", tmp_path / "c.png", "pictures"),
    ]


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes")
def test_bytes_that_are_no_utf_8_name_a_file_and_can_be_printed(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    path = tmp_path / "pairs.csv"
    path.write_bytes(b"target,reference,dataset\ncaf\xe9.png,,caf\xe9\n")
    (pair,) = read_manifest(path)
    assert (pair.dataset, pair.name) == ("caf\\xe9", "caf\\xe9")
    assert pair.target.exists()
    path.write_bytes(b"target,reference\nth\xe9.png,\n")
    assert "row 2: there is no file th\udce9.png; if it is named otherwise, save the table as UTF-8" in refusal(path)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "it is empty"),
        ("\n ,\n", "it is empty"),
        ("target,reference\n", "it has the columns 'target', 'reference' and no row below them"),
        ("target\na.png\n", "it has the columns 'target'"),
        ("Image;reference\na.png;b.png\n", "it has the columns 'Image', 'reference'"),
        ("new.png\told.png\n", "it has the columns 'new.png', 'old.png' and no row below them"),
    ],
)
def test_a_manifest_without_its_columns_or_rows_is_refused(tmp_path: Path, text: str, found: str) -> None:
    message = refusal(manifest(tmp_path, text))
    assert message.endswith(f"needs the columns 'target' and 'reference' and at least one row; {found}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("target,reference\na.png,b.png\n\n,b.png\n", "row 4: there is no target"),
        ("target,reference\na.png,b.png\na,b.png,c.png\n", "row 3: 3 cells for 2 columns"),
        ('target,reference\na.png,b.png\n"c.png,d.png\ne.png,f.png\n', "row 3: a quote is opened and never closed"),
        ('"target,reference\na.png,b.png\n', "row 1: a quote is opened and never closed"),
        ("target,reference,Target\na.png,b.png,c.png\n", "the column 'target' twice"),
        ("target,reference\n" + "a" * 200_000 + ",\n", "larger than field limit"),
    ],
)
def test_a_row_that_cannot_be_meant_is_named_by_its_number(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(manifest(tmp_path, text))


@pytest.mark.parametrize(
    "data", [b"PK\x03\x04\0\0", b"PK\x03\x04\0", codecs.BOM_UTF16_LE + b"t", "target,reference\na,b".encode("utf-32")]
)
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(data)
    assert "cannot read the manifest" in refusal(path)


def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        assert "cannot read the manifest" in refusal(path)


def test_a_picture_that_is_missing_is_named_with_its_row(tmp_path: Path) -> None:
    pairs = study_pairs.find(manifest(tmp_path, "target;reference\n\na.png;\n"), None)
    with pytest.raises(ImageError, match=r"pairs\.csv, row 3: .*a\.png"):
        study_pairs.check(pairs)


@pytest.mark.parametrize("text", ["a" * 200_000, "target,reference\n" + "a" * 200_000, "sep=\r\nx", 'sep="\nx'])
def test_cells_that_are_too_long_and_separators_that_are_none_are_one_message(tmp_path: Path, text: str) -> None:
    refusal(manifest(tmp_path, text))
