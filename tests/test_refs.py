"""The index of references: what is added is found, gc orphans nothing, and faults of a file are told in one line."""

import builtins
import contextlib
import io
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from commands import drawn, older
from conftest import GOLDEN
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refscale_codec.archive import description, descriptor, disk, footprint
from refscale_codec.archive.disk import listed
from refscale_codec.archive.gain import Target
from refscale_codec.archive.references import References
from refscale_codec.errors import ContainerError, ImageError, IndexFault, ReferenceMismatch, RefscaleError, UsageError
from refscale_codec.fileformat import container
from refscale_codec.picture import levels
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.metadata import Metadata

PLAIN = container.unpack((GOLDEN / "reference.rsc").read_bytes())


def needing(fingerprint: bytes | None) -> bytes:
    """Return a file that names a reference; what it decodes to does not matter here."""
    if fingerprint is None:
        return (GOLDEN / "alone.rsc").read_bytes()
    return container.pack(replace(PLAIN, header=replace(PLAIN.header, reference=fingerprint)))


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
    return path


def fingerprint(path: Path) -> bytes:
    return pictures.read(path).fingerprint()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[References]:
    with References(tmp_path / "refs.sqlite", create=True) as opened:
        yield opened


# --- adding and finding ----------------------------------------------------------------------------------------------


def test_what_is_added_is_found_and_adding_again_reads_nothing(
    index: References, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a" / "x.png", older(drawn(1, 96, 96)))
    assert index.add(path)
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "read", lambda *_, **__: pytest.fail("read again"))
        assert not index.add(path)
    (found,) = index.find(Image(drawn(1, 96, 96)))
    assert found.entry.path == path
    assert found.gain > 0.5
    assert index.paths(fingerprint(path)) == [path]
    save(path, drawn(2))
    assert index.add(path)
    (entry,) = index.entries()
    assert entry.described.fingerprint == fingerprint(path)


def test_a_picture_is_no_candidate_for_itself_and_other_kinds_are_none(index: References, tmp_path: Path) -> None:
    index.add(save(tmp_path / "same.png", drawn(1, 64, 64)))
    index.add(save(tmp_path / "deep.png", drawn(1, 64, 64)[..., 0].astype(np.uint16) * 257))
    assert index.find(Image(drawn(1, 64, 64)), 9) == []


@settings(max_examples=15, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=4, unique=True), st.booleans())
def test_paths_of_any_bytes_are_found_again_wherever_the_index_moves(names: list[bytes], below: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        usable = [os.fsdecode(name.translate(None, b"\0/\\")).lstrip(".") for name in names]
        paths = []
        for at, name in enumerate(usable):
            path = place / "a" / f"{at}{name}.png"
            try:
                paths.append(save(path, drawn(at)))
            except (OSError, ValueError):  # a file system that takes UTF-8 only
                continue
        where = place / ("a" if below else "b")
        where.mkdir(exist_ok=True)
        with References(where / "i.sqlite", create=True) as index:
            assert sorted(listed([place / "a"], pytest.fail)) == sorted(paths)
            assert all(index.add(path) for path in paths)
            assert not any(index.add(path) for path in paths)
            assert sorted(entry.path for entry in index.entries()) == sorted(paths)
        shutil.move(place / "a", place / "c")
        with References(place / ("c" if below else "b") / "i.sqlite") as index:
            assert index.move(place / "a", place / "c") == (0 if below else len(paths))
            assert all(entry.path.exists() for entry in index.entries())


def test_georeferenced_pictures_are_found_by_place_and_sorted_by_date(index: References, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")

    def geotiff(name: str, x: float, date: str, seed: int = 1) -> Path:
        profile = {"driver": "GTiff", "dtype": "uint8", "crs": "EPSG:32633", "count": 3, "height": 64, "width": 64}
        with rasterio.open(tmp_path / name, "w", **profile, transform=rasterio.Affine(10, 0, x, 0, -10, 4e6)) as file:
            file.write(np.moveaxis(older(drawn(seed, 64, 64)), -1, 0))
            file.update_tags(ACQUISITIONDATETIME=date, CLOUDY_PIXEL_PERCENTAGE="12.5", SPACECRAFT_NAME="S2A")
        return tmp_path / name

    far = geotiff("far.tif", 7e5, "2020-06-01T10:00:00Z", 2)
    near = geotiff("near.tif", 5e5, "2021-06-01T12:00:00+02:00", 3)
    for path in (far, near):
        index.add(path)
    target = pictures.read(geotiff("new.tif", 500_200, "2022-01-01"))
    assert [candidate.entry.path for candidate in index.find(target, 5)] == [near]
    (entry,) = (each for each in index.entries() if each.path == near)
    assert entry.described[6:10] == ("2021-06-01T10:00:00Z", "S2A", 0.0, 0.125)
    assert entry.described.footprint is not None
    assert entry.described.footprint.west == pytest.approx(15.0, abs=0.01)


# --- descriptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2021:05:03 10:11:12", "2021-05-03T10:11:12"),
        ("2021-05-03T10:11:12.024Z", "2021-05-03T10:11:12Z"),
        ("20210503T231112-0200", "2021-05-04T01:11:12Z"),
        ("2021-05-03", "2021-05-03"),
        ("0000:00:00 00:00:00", None),
        ("2021-02-30", None),
        ("yesterday", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("0987:01:02 10:11:12+00:00", "0987-01-02T10:11:12Z"),
        ("\uff12\uff10\uff12\uff11-05-03", None),
    ],
)
def test_dates_are_iso_8601_or_nothing(text: str, wanted: str | None) -> None:
    found = description.iso_date(text)
    assert found == wanted
    assert found is None or description.iso_date(found) == found


def test_a_date_of_exif_is_in_utc_if_its_time_zone_is_known() -> None:
    exif = PIL.Image.Exif()
    exif.get_ifd(0x8769).update({0x9003: "2021:05:03 01:00:00", 0x9011: "+02:00"})
    exif[0x0110] = "X100"
    described = description.of_picture(Image(drawn(1), Metadata(exif=exif.tobytes()[6:])))
    assert (described.date, described.sensor, described.cloud) == ("2021-05-02T23:00:00Z", "X100", None)


def test_nodata_and_transparent_pixels_are_counted_and_do_not_show() -> None:
    pixels = drawn(1, 64, 64)
    hole = pixels.copy()
    hole[:16] = 0
    described = description.of_picture(Image(hole, nodata=0))
    assert described.nodata == pytest.approx(0.25, abs=0.01)
    alpha = np.full((64, 64), 255, np.uint8)
    alpha[:16] = 0
    filled = [descriptor.preview(Image(x, alpha=alpha)) for x in (hole, pixels)]
    np.testing.assert_allclose(*filled, atol=1e-3)


@given(st.floats(-180, 179.9), st.floats(-80, 80), st.floats(0.01, 5), st.floats(-0.9, 0.9))
def test_neighbours_overlap_across_the_antimeridian_too(west: float, south: float, side: float, shift: float) -> None:
    def square(left: float) -> footprint.Footprint:
        x = np.array([left, left + side, left + side, left])
        found = footprint.around((x + 180) % 360 - 180, np.array([south, south, south + side, south + side]))
        assert found is not None
        return found

    here, there = square(west), square(west + shift * side)
    assert -180 <= here.west < 180
    assert footprint.overlap(here, there) == pytest.approx(1 - abs(shift), abs=1e-6)
    assert footprint.overlap(here, square(west + 2 * side)) == 0 or side > 100


def test_a_pole_inside_is_a_cap() -> None:
    turn = np.linspace(-180, 180, 8, endpoint=False)
    cap = footprint.around(turn, np.full(8, 80.0))
    assert cap is not None
    assert (cap.west, cap.south, cap.east, cap.north) == (-180, 80, 180, 90)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("world")


WIDE = (10.0, 0.0, 0.0, 0.0, -0.5, 40.0)  # 960 degrees


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["EPSG:4326", "EPSG:3857", "EPSG:32633", "EPSG:3413"]),
    st.tuples(*[st.one_of(st.floats(-10, 10), st.floats(-1e7, 1e7), st.floats(allow_nan=False, width=32))] * 6),
)
@example("EPSG:4326", WIDE)
@example("EPSG:4326", (1e300, 0.0, 0.0, 0.0, -0.5, 40.0))
@example("EPSG:3857", (1e6, 0.0, -2e7, 0.0, -1e3, 0.0))
@example("EPSG:4326", (4.0, 0.0, -180.0, 0.0, -1.8, 90.0))
def test_a_picture_of_any_georeference_can_be_read_again(world: Path, crs: str, transform: tuple[float, ...]) -> None:
    rasterio = pytest.importorskip("rasterio")
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": 96, "width": 96}
    with rasterio.open(world / "a.tif", "w", **profile, crs=crs, transform=rasterio.Affine(*transform)) as file:
        file.write(drawn(1, 96, 96)[None, ..., 0])
    (world / "i.sqlite").unlink(missing_ok=True)
    with References(world / "i.sqlite", create=True) as index:
        index.add(world / "a.tif")
        (entry,) = index.entries()
        place = entry.described.footprint
        assert place is None or place.east - place.west < 541
        assert (place is None) >= (transform == WIDE)
        index.find(world / "a.tif")


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(levels.TYPES), st.integers(1, 70), st.integers(1, 70), st.integers(1, 5), st.booleans(), st.data()
)
def test_pictures_of_any_kind_can_be_described_and_compared(
    dtype: np.dtype[Any], height: int, width: int, bands: int, alpha: bool, data: st.DataObject
) -> None:
    low, high = levels.limits_of(dtype)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    few = np.array([low, high, 0, *rng.integers(0, 100, 3)], dtype)
    if dtype.kind == "f":
        few[:2] = np.nan, np.inf
    pixels = rng.choice(few, (height, width, bands))
    picture = Image(pixels, alpha=pixels[..., 0] if alpha and dtype.kind != "f" else None, nodata=few[-1].item())
    described = description.of_picture(picture)
    assert len(described.descriptor) == descriptor.SIZE
    assert descriptor.similarities(described.descriptor, [described.descriptor])[0] <= 1.001
    assert 0 <= described.nodata <= 1
    assert Target(picture).gain(picture) <= 1


# --- keeping ---------------------------------------------------------------------------------------------------------

NAMES = ("a", "b", "c")
ACTIONS = st.lists(
    st.tuples(st.sampled_from(["add", "code", "lose", "unlink", "gc", "delete"]), st.integers(0, 2), st.integers(0, 2)),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(ACTIONS)
def test_gc_never_removes_what_a_file_in_care_needs(actions: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        paths = [save(place / f"{name}.png", drawn(at)) for at, name in enumerate(NAMES)]
        prints = [fingerprint(path) for path in paths]
        needs: dict[Path, bytes] = {}
        with References(place / "i.sqlite", create=True) as index:
            for action, first, second in actions:
                coded = place / f"{first}.rsc"
                there = [path.exists() for path in paths]
                if action == "add" and there[first]:
                    index.add(paths[first], date="2001-01-01")
                elif action == "code" and there[second] and index.paths(prints[second]):
                    data = needing(prints[second])
                    with index.care(coded, data):
                        list(index.collect("2002-01-01", delete=True))
                        coded.write_bytes(data)
                        list(index.collect("2002-01-01", delete=True))
                    needs[coded] = prints[second]
                elif action == "lose":
                    coded.unlink(missing_ok=True)
                elif action == "unlink" and prints[first] not in needs.values():
                    paths[first].unlink(missing_ok=True)
                elif action in ("gc", "delete"):
                    list(index.collect("2002-01-01", delete=action == "delete"))
                for wanted in needs.values():
                    assert index.picture(wanted).fingerprint() == wanted
            for path, problem in index.check():
                assert (problem is None) == path.exists()


def test_a_file_that_fails_to_be_written_keeps_what_the_old_one_needs(index: References, tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{at}.png", drawn(at)) for at in range(2)]
    coded = tmp_path / "x.rsc"
    for path in paths:
        index.add(path, date="2001-01-01")
    with index.care(coded, needing(fingerprint(paths[0]))):
        coded.write_bytes(needing(fingerprint(paths[0])))
    with pytest.raises(OSError, match="full"), index.care(coded, needing(fingerprint(paths[1]))):
        raise OSError("full")
    assert list(index.collect("2002-01-01", delete=True)) == [(paths[1], "deleted")]
    assert index.picture(fingerprint(paths[0])) is not None


@pytest.fixture
def three(index: References, tmp_path: Path) -> list[Path]:
    """Return three old pictures that the index knows."""
    paths = [save(tmp_path / f"{at}.png", drawn(at)) for at in range(3)]
    for path in paths:
        index.add(path, date="2001-01-01")
    return paths


def swept(index: References, **options: bool) -> list[Path]:
    """Return what another process's gc takes."""
    with References(index.path) as other:
        return [path for path, _ in other.collect("2002-01-01", delete=True, **options)]


@pytest.mark.parametrize("before", ["nothing", "in care", "not in care", "changed"])
def test_gc_while_a_file_is_written_takes_neither_what_it_needs_nor_what_the_old_one_does(
    index: References, tmp_path: Path, three: list[Path], before: str
) -> None:
    old, new, _ = map(needing, map(fingerprint, three))
    coded = tmp_path / "x.rsc"
    if before != "nothing":
        coded.write_bytes(old)
    if before in ("in care", "changed"):
        index.add(coded)
    if before == "changed":
        os.utime(coded, (1, 1))
    with index.care(coded, new):
        assert swept(index, lost_files=True) == (
            [three[2]] if before in ("in care", "changed") else [three[0], three[2]]
        )
        coded.write_bytes(new)
        assert not {three[1], coded}.intersection(swept(index, lost_files=True))
    swept(index)
    assert [path.exists() for path in three] == [False, True, False]
    assert dict(index.check(full=True)) == {coded: None}


def test_writers_of_one_path_keep_what_each_of_them_needs(index: References, tmp_path: Path, three: list[Path]) -> None:
    one, other = map(needing, map(fingerprint, three[:2]))
    coded = tmp_path / "x.rsc"
    with index.care(coded, one):
        with index.care(coded, other):
            coded.write_bytes(other)
        with pytest.raises(OSError, match="full"), index.care(coded, one):
            raise OSError("full")
        assert swept(index) == [three[2]]
        coded.write_bytes(one)
    assert swept(index) == [three[1]]
    assert dict(index.check(full=True)) == {coded: None}


@pytest.mark.parametrize("written", [True, False])
def test_what_a_killed_writer_needs_is_kept_for_a_day_and_then_if_its_file_was_written(
    index: References, tmp_path: Path, three: list[Path], monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    data = needing(fingerprint(three[0]))
    coded = tmp_path / "x.rsc"
    writer = index.care(coded, data)
    writer.__enter__()  # and never ends
    if written:
        coded.write_bytes(data)
    assert swept(index) == three[1:]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 90_000)
    if written:
        with monkeypatch.context() as patch:
            patch.setattr(disk, "coded", lambda path: (_ for _ in ()).throw(ContainerError("cannot be read")))
            assert swept(index) == []
    assert swept(index) == ([] if written else [three[0]])
    assert index.files() == ([(coded, [fingerprint(three[0])])] if written else [])


def test_a_file_that_is_written_while_the_old_one_is_read_needs_its_new_reference(
    index: References, tmp_path: Path, three: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = map(needing, map(fingerprint, three[:2]))
    coded = tmp_path / "x.rsc"
    coded.write_bytes(old)
    read = disk.unpacked

    def read_too_early(path: Any) -> container.Container:
        monkeypatch.undo()
        content = read(path)
        with References(index.path) as other, other.care(coded, new):
            coded.write_bytes(new)
            os.utime(coded, (9, 9))
        return content

    monkeypatch.setattr(disk, "unpacked", read_too_early)
    index.add(coded)
    assert index.files() == [(coded, [fingerprint(three[1])])]


def test_a_reference_that_gc_took_meanwhile_is_told_before_the_file_is_written(index: References) -> None:
    with pytest.raises(ReferenceMismatch, match="no longer has the reference"), index.care("x.rsc", needing(b"gone!!")):
        pytest.fail("written")
    assert index.files() == []


def test_a_file_that_was_overwritten_needs_its_new_reference(index: References, tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{at}.png", drawn(at)) for at in range(2)]
    coded = tmp_path / "x.rsc"
    for path in paths:
        index.add(path, date="2001-01-01")
    coded.write_bytes(needing(fingerprint(paths[0])))
    assert index.add(coded)
    coded.write_bytes(needing(fingerprint(paths[1])))
    os.utime(coded, (1, 1))
    assert list(index.collect("2002-01-01", delete=True)) == [(paths[0], "deleted")]
    assert paths[1].exists()


def test_check_tells_why_a_file_would_not_decode(index: References, tmp_path: Path) -> None:
    names = ("fine", "missing", "changed", "unreadable")
    for at, name in enumerate(names):
        path = save(tmp_path / f"{name}.png", drawn(at))
        index.add(path)
        (tmp_path / f"{name}.rsc").write_bytes(needing(fingerprint(path)))
    (tmp_path / "unknown.rsc").write_bytes(needing(b"never!"))
    (tmp_path / "gone.rsc").write_bytes(needing(None))
    for path in listed([tmp_path], pytest.fail):
        index.add(path)
    assert all(problem is None for path, problem in index.check() if path.stem != "unknown")
    (tmp_path / "missing.png").unlink()
    save(tmp_path / "changed.png", drawn(9))
    (tmp_path / "unreadable.png").write_bytes(b"\x89PNG\r\n\x1a\n, cut")
    (tmp_path / "gone.rsc").unlink()
    found = {path.stem: problem and problem.reason for path, problem in index.check()}
    assert found == {name: name for name in names[1:]} | {"fine": None, "unknown": "unknown", "gone": "missing"}


def test_another_copy_of_a_reference_serves(index: References, tmp_path: Path) -> None:
    paths = [save(tmp_path / name, drawn(1)) for name in ("a.png", "b.png")]
    for path in paths:
        index.add(path)
    coded = tmp_path / "x.rsc"
    coded.write_bytes(needing(fingerprint(paths[0])))
    index.add(coded)
    paths[0].unlink()
    assert index.place(fingerprint(paths[1])) == paths[1]
    assert dict(index.check()) == {coded: None}


def test_processes_may_add_at_the_same_time(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{at}.png", drawn(at)) for at in range(12)]

    def add(part: list[Path]) -> None:
        with References(tmp_path / "i.sqlite", create=True) as index:
            for path in part:
                index.add(path)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, [paths[at::3] for at in range(3)] + [paths]))
    with References(tmp_path / "i.sqlite") as index:
        assert sorted(entry.path for entry in index.entries()) == sorted(paths)


def test_a_folder_moves_into_itself_as_a_whole(index: References, tmp_path: Path) -> None:
    paths = [save(tmp_path / name, drawn(at)) for at, name in enumerate(("lib/a.png", "lib/sub/a.png"))]
    for path in paths:
        index.add(path, date="2001-01-01")
        coded = path.with_suffix(".rsc")
        coded.write_bytes(needing(fingerprint(path)))
        index.add(coded)
    (tmp_path / "lib").rename(tmp_path / "x")
    (tmp_path / "lib").mkdir()
    (tmp_path / "x").rename(tmp_path / "lib" / "sub")
    assert index.move(tmp_path / "lib", tmp_path / "lib" / "sub") == 4
    assert list(index.collect("2002-01-01", delete=True)) == []
    assert [needs for _, needs in index.files()] == [[fingerprint(entry.path)] for entry in index.entries()]
    assert dict(index.check(full=True)) == {entry.path.with_suffix(".rsc"): None for entry in index.entries()}


def test_a_move_onto_what_else_is_in_the_index_is_refused_and_changes_nothing(
    index: References, tmp_path: Path
) -> None:
    for at, name in enumerate(("a/x.png", "a/y.png", "b/y.png")):
        index.add(save(tmp_path / name, drawn(at)))
    before = index.entries()
    with pytest.raises(UsageError, match=r"another .*y\.png"):
        index.move(tmp_path / "a", tmp_path / "b")
    assert index.entries() == before


def test_an_index_is_the_same_by_a_link_to_it_or_to_its_folder(tmp_path: Path) -> None:
    path = save(tmp_path / "disk" / "a.png", drawn(1))
    (tmp_path / "folder").symlink_to("disk")
    (tmp_path / "i.sqlite").symlink_to("disk/refs.sqlite")
    with References(tmp_path / "i.sqlite", create=True) as index:
        assert index.add(path)
        assert not index.add(tmp_path / "folder" / "a.png")
    for name in ("disk/refs.sqlite", "folder/refs.sqlite", "i.sqlite"):
        with References(tmp_path / name) as index:
            assert index.picture(fingerprint(path)).width == 33
            assert not index.add(path)


def test_a_name_is_a_path_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "file:i.sqlite?mode=memory"):
        References(name, create=True).close()
        assert (tmp_path / name).is_file()


def test_what_cannot_be_written_to_still_finds(index: References, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", older(drawn(1, 96, 96)))
    other = save(tmp_path / "b.png", older(drawn(1, 96, 96))[::-1])
    for each in (path, other):
        index.add(each)
        os.utime(each, (1, 1))
    save(other, drawn(2))
    with sqlite3.connect(f"file:{index.path}?mode=ro", uri=True) as read_only:
        index._store._file = read_only
        assert [found.entry.path for found in index.find(Image(drawn(1, 96, 96)), 5)] == [path]
        with pytest.raises(IndexFault, match="readonly"):
            index.require_writable()
    read_only.close()


def test_a_fault_of_the_index_is_no_lack_of_candidates(index: References, tmp_path: Path) -> None:
    index.add(save(tmp_path / "a.png", older(drawn(1, 96, 96))))
    index.close()
    with pytest.raises(IndexFault):
        index.find(Image(drawn(1, 96, 96)))


def test_a_file_that_fails_to_be_written_is_not_in_care(index: References, tmp_path: Path) -> None:
    index.add(save(tmp_path / "a.png", drawn(1)))
    data = needing(fingerprint(tmp_path / "a.png"))
    with pytest.raises(OSError, match="full"), index.care(tmp_path / "x.rsc", data):
        raise OSError("full")
    assert index.files() == []
    with pytest.raises(KeyboardInterrupt), index.care(tmp_path / "x.rsc", data):
        (tmp_path / "x.rsc").write_bytes(data)
        raise KeyboardInterrupt
    assert index.files() == [(tmp_path / "x.rsc", [fingerprint(tmp_path / "a.png")])]


def test_a_date_that_is_given_later_is_that_of_a_picture_without_one(index: References, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", drawn(1))
    added = [index.add(path, date=date) for date in (None, "2021-05-03", "2021-05-03", "2022-05-03")]
    assert added == [True, True, False, False]
    assert [entry.described.date for entry in index.entries()] == ["2021-05-03"]
    index.add(path, date="2022-05-03", again=True)
    assert [entry.described.date for entry in index.entries()] == ["2022-05-03"]


@pytest.mark.parametrize("year", [1950, 2261, 2262, 2400])
def test_a_picture_of_any_time_of_modification_is_known_again(index: References, tmp_path: Path, year: int) -> None:
    path = save(tmp_path / "a.png", drawn(1))
    seconds = (year - 1970) * 31_556_952
    os.utime(path, (0, seconds))
    assert (index.add(path), index.add(path)) == (True, False)
    os.utime(path, (0, seconds + 1))
    assert index.add(path)


def test_a_folder_behind_a_link_is_the_one_that_the_system_goes_to(index: References, tmp_path: Path) -> None:
    path = save(tmp_path / "d" / "v.png", drawn(1))
    (tmp_path / "d" / "e").mkdir()
    (tmp_path / "link").symlink_to("d/e")
    index.add(tmp_path / "link" / ".." / "v.png")
    coded = tmp_path / "link" / ".." / "y.rsc"
    data = needing(fingerprint(path))
    with index.care(coded, data):
        coded.write_bytes(data)
    assert [entry.path for entry in index.entries()] == [path]
    assert dict(index.check(full=True)) == {tmp_path / "d" / "y.rsc": None}
    assert index.move(tmp_path / "link" / "..", tmp_path / "f") == 2
    assert [entry.path for entry in index.entries()] == [tmp_path / "f" / "v.png"]


@pytest.mark.parametrize(
    "name", ["v.png", "./v.png", "a/../v.png", "a/../b/../v.png", "../%s/v.png", "a/b/../../v.png"]
)
def test_a_path_is_the_same_however_it_is_written(
    index: References, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    save(tmp_path / "v.png", drawn(1))
    for folder in ("a/b", "b"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert index.add("v.png")
    assert not index.add(name.replace("%s", tmp_path.name))


def test_dates_in_python_are_checked_too(index: References, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", drawn(1))
    with pytest.raises(UsageError, match="date must be a date"):
        index.add(path, date="foo")
    with pytest.raises(UsageError, match="before must be a date"):
        list(index.collect("foo"))
    assert index.entries() == []


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda index: References(None), "an index"),  # type: ignore[arg-type]
        (lambda index: index.add(None), "a picture or a file"),
        (lambda index: index.add("x.png", date=5), "date must be a date"),
        (lambda index: index.place("abc"), "a fingerprint"),
        (lambda index: index.find(5), "the picture must be"),
        (lambda index: index.find("x.png", 0), "most must be"),
        (lambda index: index.references(5), "a file"),
        (lambda index: index.move("a", None), "a folder"),
    ],
)
def test_a_wrong_argument_is_one_message(index: References, call: Callable[[References], Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        call(index)


# --- faults ----------------------------------------------------------------------------------------------------------


def test_what_is_no_index_is_one_message_and_left_as_it_is(tmp_path: Path) -> None:
    text, empty, foreign, newer, cut = (tmp_path / name for name in ("text", "empty", "foreign", "newer", "cut"))
    text.write_bytes(b"no database at all, but long enough to be one" * 40)
    empty.write_bytes(b"")
    with sqlite3.connect(foreign) as other:
        other.execute("CREATE TABLE t (a)")
    other.close()
    for path in (newer, cut):
        References(path, create=True).close()
    with sqlite3.connect(newer) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    cut.write_bytes(cut.read_bytes()[:5000])
    for path, words in {
        empty: "is empty; `refscale refs add` makes",
        tmp_path / ("x" * 300): "cannot be opened",
        text: "is not an index of references",
        foreign: "a database of another program",
        newer: "version 99; this refscale reads version 1",
        cut: "is damaged",
        tmp_path / "none": "there is no index",
        tmp_path: "cannot be opened",
    }.items():
        before = path.read_bytes() if os.path.isfile(path) else b""
        with pytest.raises(IndexFault, match=words), References(path) as index:
            index.entries()
        assert (path.read_bytes() if os.path.isfile(path) else b"") == before
    with pytest.raises(IndexFault, match="another program"):
        References(foreign, create=True)
    References(empty, create=True).close()


def test_pictures_and_files_that_cannot_be_read_are_refused(index: References, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("no picture")
    (tmp_path / "x.rsc").write_bytes(needing(None)[:-3])
    with pytest.raises(ImageError, match=r"x\.png"):
        index.add(tmp_path / "x.png")
    with pytest.raises(ContainerError, match=r"x\.rsc: truncated"):
        index.add(tmp_path / "x.rsc")
    with pytest.raises(ImageError, match="does not exist"):
        index.add(tmp_path / "none.png")
    assert index.entries() == index.files() == []


def test_pipes_and_devices_are_no_pictures_of_an_index(index: References, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "y.png").symlink_to("/dev/zero")
    assert list(listed([tmp_path], pytest.fail)) == []
    for name, word in {"x.png": "pipe", "y.png": "device", ".": "folder"}.items():
        with pytest.raises(ImageError, match=word):
            index.add(tmp_path / name)


def test_links_to_nothing_and_in_a_circle_are_told(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", drawn(1))
    for name, target in {"b.png": path, "c.png": "nowhere", "d.png": "d.png", "e.txt": "nowhere"}.items():
        (tmp_path / name).symlink_to(target)
    told: list[str] = []
    assert list(listed([tmp_path], told.append)) == [path, tmp_path / "b.png"]
    assert [line.rpartition(": ")[0] for line in told] == [f"cannot read {tmp_path / name}.png" for name in "cd"]


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", drawn(1))
    locked = tmp_path / "locked"
    locked.mkdir()
    scan = os.scandir

    def denied(path: Any) -> Any:
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    told: list[str] = []
    assert list(listed([tmp_path], told.append)) == [path]
    assert told == [f"cannot read the folder {locked}: Permission denied"]


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Return a function after which a folder cannot be entered."""

    def close(folder: Path) -> None:
        def denying(call: Callable[..., Any]) -> Callable[..., Any]:
            def called(path: Any, *rest: Any, **options: Any) -> Any:
                if isinstance(path, str | os.PathLike) and folder in Path(path).parents:
                    raise PermissionError(13, "Permission denied", str(path))
                return call(path, *rest, **options)

            return called

        for module, name in ((os, "stat"), (os, "unlink"), (io, "open"), (builtins, "open")):
            monkeypatch.setattr(module, name, denying(getattr(module, name)))
        scan = os.scandir

        def scanned(path: Any) -> Any:
            if Path(path) == folder:
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", scanned)

    return close


def test_a_folder_that_may_not_be_entered_is_told_and_nothing_in_it_is_taken_for_gone(
    index: References, tmp_path: Path, closed: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path / "old" / "o.png", older(drawn(1, 96, 96)))
    data = needing(fingerprint(path))
    for coded in (tmp_path / "old" / "x.rsc", tmp_path / "x.rsc"):
        coded.write_bytes(data)
        index.add(coded)
    index.add(path, date="2001-01-01")
    index.add(save(tmp_path / "old" / "unneeded.png", drawn(2)), date="2001-01-01")
    closed(tmp_path / "old")
    for use in (index.add, index.references):
        with pytest.raises(RefscaleError, match="Permission denied"):
            use(tmp_path / "old" / "x.rsc")
    with pytest.raises(ReferenceMismatch, match=r"is unreadable: .*Permission denied"):
        index.place(container.unpack(data).header.reference or b"")
    told: list[str] = []
    assert list(listed([tmp_path / "old" / "o.png"], told.append)) == [path]
    assert list(listed([tmp_path / "old"], told.append)) == []
    assert len(told) == 1
    assert index.find(Image(drawn(1, 96, 96))) == []
    assert "2 known pictures that may fit could not be read: cannot read" in caplog.text
    problems = {one: problem and problem.reason for one, problem in index.check(full=True)}
    assert problems == dict.fromkeys((tmp_path / "old" / "x.rsc", tmp_path / "x.rsc"), "unreadable")
    assert list(index.collect(lost_files=True, delete=True)) == []
    ((taken, done),) = index.collect("2002-01-01", lost_files=True, delete=True)
    assert (taken.name, done.partition(" (cannot")[0]) == ("unneeded.png", "forgotten, but not deleted")


def test_gc_goes_on_behind_a_picture_whose_place_is_now_a_folder(
    index: References, tmp_path: Path, three: list[Path]
) -> None:
    three[1].unlink()
    three[1].mkdir()
    found = [(path, done.partition(" (")[0]) for path, done in index.collect("2002-01-01", delete=True)]
    assert found == [(three[0], "deleted"), (three[1], "forgotten, but not deleted"), (three[2], "deleted")]
    assert three[1].is_dir()


DAMAGE = {
    "path": ["text", 5, b"a\0b"],
    "fingerprint": ["text", b"short"],
    "width": ["wide", 0, 1.5],
    "bands": [0, 300, b""],
    "type": [b"uint8"],
    "outline": [
        "{",
        f"[[{'9' * 400}, 1], [1, 2], [1, 2], [1, 2]]",
        "[[null, 0], [1, 2], [1, 2], [1, 2]]",
        "[1, 2, 3, 4]",
        "[[1], [2], [3], [4]]",
        "[" * 5000,
        b"\xff",
    ],
    "west": ["far", float("inf")],
    "date": ["yesterday", 5, b"\xff"],
    "sensor": [b"\xff"],
    "nodata": [2, b"x"],
    "cloud": [-1],
    "descriptor": [b"short", "text"],
}


@pytest.mark.parametrize(("column", "value"), [(name, value) for name, some in DAMAGE.items() for value in some])
def test_a_cell_that_no_index_has_is_one_message(index: References, tmp_path: Path, column: str, value: Any) -> None:
    index.add(save(tmp_path / "a.png", drawn(1)))
    index._store.do(f"UPDATE picture SET {column} = ?", (value,))
    with pytest.raises(IndexFault, match=f"damaged .a wrong {column}.: restore it"):
        index.entries()


@pytest.mark.parametrize("table", ["picture", "file", "need"])
@pytest.mark.parametrize("change", ["ADD COLUMN more", "DROP COLUMN {}", "RENAME COLUMN {} TO other"])
def test_tables_with_other_columns_are_one_message_or_serve(
    index: References, tmp_path: Path, table: str, change: str
) -> None:
    path = save(tmp_path / "a.png", drawn(1))
    index.add(path)
    (tmp_path / "x.rsc").write_bytes(needing(fingerprint(path)))
    index.add(tmp_path / "x.rsc")
    try:
        index._store._file.execute("DROP INDEX need_fingerprint")
        index._store._file.execute(
            f"ALTER TABLE {table} {change.format({'picture': 'cloud', 'file': 'modified'}.get(table, 'fingerprint'))}"
        )
    except sqlite3.OperationalError:  # a column of a primary key
        return
    for use in (
        index.entries,
        index.files,
        lambda: index.find(Image(older(drawn(1))), 5),
        lambda: list(index.check(full=True)),
        lambda: list(index.collect("2100-01-01", dry_run=True)),
        lambda: index.add(path, again=True),
    ):
        with contextlib.suppress(IndexFault):
            use()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    folder = tmp_path_factory.mktemp("full")
    with References(folder / "i.sqlite", create=True) as index:
        for at in range(3):
            path = save(folder / f"{at}.png", drawn(at))
            index.add(path)
            (folder / f"{at}.rsc").write_bytes(needing(fingerprint(path)))
            index.add(folder / f"{at}.rsc")
    return folder, (folder / "i.sqlite").read_bytes()


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 1 << 30), bit=st.integers(0, 7))
def test_a_bit_that_is_flipped_never_gives_another_error(full: tuple[Path, bytes], at: int, bit: int) -> None:
    folder, sound = full
    used = [place for place, byte in enumerate(sound) if byte]
    data = bytearray(sound)
    data[used[at % len(used)]] ^= 1 << bit
    (folder / "f.sqlite").write_bytes(data)
    for use in (
        lambda index: index.entries(),
        lambda index: index.find(Image(older(drawn(1))), 5),
        lambda index: list(index.check()),
        lambda index: list(index.collect("2100-01-01", dry_run=True)),
        lambda index: index.references(folder / "0.rsc"),
    ):
        with contextlib.suppress(RefscaleError), References(folder / "f.sqlite") as index:
            use(index)


def test_text_in_the_schema_that_is_none_is_one_message(full: tuple[Path, bytes]) -> None:
    folder, sound = full
    (folder / "f.sqlite").write_bytes(sound.replace(b"KEY, size", b"\xcbEY, size"))
    with pytest.raises(IndexFault, match="damaged"), References(folder / "f.sqlite") as index:
        index.entries()
