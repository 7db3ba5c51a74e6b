"""STAC: items in, items out, by `refscale batch`; what comes out is valid, offline."""

import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from conftest import Outcome
from hypothesis import given
from hypothesis import strategies as st

import refscale_codec
from refscale_codec.archive import stac
from refscale_codec.errors import UsageError

pystac = pytest.importorskip("pystac", reason="the extra stac is not installed")

FILE_EXTENSION = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
FIRST = datetime(2021, 5, 3, tzinfo=timezone.utc)
PLACE = (11.0, 46.0, 11.1, 46.1)  # west, south, east, north


def item(name: str, days: int = 0, cloud: float | None = None, box: tuple[float, ...] = PLACE) -> Any:
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    found = pystac.Item(name, {"type": "Polygon", "coordinates": [ring]}, list(box), FIRST + timedelta(days), {})
    if cloud is not None:
        found.properties["eo:cloud_cover"] = cloud
    found.add_asset(
        "visual", pystac.Asset(f"./{name}.png", media_type="image/png", roles=["data"], title="True colour")
    )
    found.add_asset("thumbnail", pystac.Asset(f"./{name}.jpg", media_type="image/jpeg", roles=["thumbnail"]))
    return found


def scene(found: Any) -> stac.Scene:
    return stac.Scene(found, "items.json", "visual", Path(f"{found.id}.png"))


def chosen(target: Any, *older: Any) -> str | None:
    (best,) = stac.best_earlier([scene(target)], [scene(each) for each in older])
    return None if best is None else best.item.id


# --- choosing references ---------------------------------------------------------------------------------------------


def test_the_latest_of_the_earlier_ones_is_chosen_unless_another_shows_more() -> None:
    new, half = item("new", 9), (11.05, 46.0, 11.15, 46.1)
    assert chosen(new) is None
    assert chosen(new, item("before", 1), item("after", 10), item("same", 9)) == "before"
    assert chosen(new, item("early", 1), item("late", 5)) == "late"
    assert chosen(new, item("early", 1), item("cloudy", 5, 60.0)) == "early"
    assert chosen(new, item("early", 1, 3.0), item("late", 5, 4.0)) == "late"
    assert chosen(new, item("early", 1), item("beside", 5, box=half)) == "early"
    assert chosen(new, item("beside", 5, box=half)) == "beside"
    assert chosen(new, item("elsewhere", 5, box=(12.0, 46.0, 12.1, 46.1)), item("under clouds", 5, 95.0)) is None


def test_the_antimeridian_is_no_border() -> None:
    across, east = (179.9, 0.0, -179.9, 1.0), (-180.0, 0.0, -179.9, 1.0)
    assert chosen(item("new", 9, box=across), item("old", box=across), item("part", 5, box=east)) == "old"
    assert chosen(item("new", 9, box=east), item("old", box=across)) == "old"


def test_items_without_a_date_or_a_place_are_no_references() -> None:
    undated, ranged = item("undated"), item("ranged")
    for each, start in ((undated, None), (ranged, "2021-05-01T00:00:00Z")):
        each.datetime = None
        each.properties |= {"start_datetime": start, "end_datetime": "2021-05-02T00:00:00Z"} if start else {}
    placeless = item("placeless")
    placeless.bbox = placeless.geometry = None
    assert chosen(item("new", 9), undated, placeless) is None
    assert chosen(item("new", 9), undated, ranged) == "ranged"


@given(
    days=st.lists(st.integers(0, 20), min_size=1, max_size=6),
    wests=st.lists(st.floats(10.9, 11.2), min_size=6, max_size=6),
    clouds=st.lists(st.one_of(st.none(), st.floats(0, 100)), min_size=6, max_size=6),
)
def test_a_reference_is_earlier_and_overlaps(days: list[int], wests: list[float], clouds: list[float | None]) -> None:
    scenes = [
        scene(item(str(at), day, clouds[at], (wests[at], 46.0, wests[at] + 0.1, 46.1))) for at, day in enumerate(days)
    ]
    for target, best in zip(scenes, stac.best_earlier(scenes, scenes), strict=True):
        if best is not None:
            assert best.item.datetime < target.item.datetime
            assert abs(best.item.bbox[0] - target.item.bbox[0]) < 0.09 + 1e-9


# --- items in --------------------------------------------------------------------------------------------------------


def drawn(seed: int) -> PIL.Image.Image:
    y, x = np.mgrid[:32, :48]
    waves = 128 + 70 * np.sin(x[..., None] * [0.1, 0.2, 0.3] + y[..., None] * 0.2)
    noise = np.random.default_rng(seed).normal(0, 5, waves.shape)
    return PIL.Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8))


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three dates of a place as a catalogue and as an ItemCollection; the tests run there."""
    items = [item("a", 0), item("b/2", 3, 2.0), item("c", 6, 80.0)]
    (tmp_path / "in").mkdir()
    for seed, each in enumerate(items):
        for asset in each.assets.values():
            asset.href = asset.href.replace("b/2", "b")
        drawn(seed).save(tmp_path / "in" / each.assets["visual"].href)
    listed = [each.to_dict(include_self_link=False) for each in items]
    (tmp_path / "in" / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": listed}))
    catalogue = pystac.Catalog("place", "Three dates of a place")
    for each in items:
        each.id = each.id.replace("/", "-")
        for asset in each.assets.values():
            asset.href = f"../../in/{Path(asset.href).name}"
        catalogue.add_item(each)
    catalogue.normalize_hrefs(str(tmp_path / "catalogue"))
    catalogue.save(pystac.CatalogType.SELF_CONTAINED)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_catalogue_and_an_item_collection_are_read_alike(archive: Path) -> None:
    for path in (archive / "in" / "items.json", archive / "catalogue" / "catalog.json"):
        scenes = stac.read(path)
        assert [each.file for each in scenes] == (
            ["a.rsc", "b_2.rsc", "c.rsc"] if "in" in path.parts else ["a.rsc", "b-2.rsc", "c.rsc"]
        )
        assert [each.picture.resolve() for each in scenes] == [archive / "in" / f"{name}.png" for name in "abc"]
        assert {each.key for each in scenes} == {"visual"}
    (one,) = stac.read(archive / "catalogue" / "a" / "a.json")
    assert one.picture.resolve() == archive / "in" / "a.png"


def listing(change: Callable[[dict[str, Any]], object]) -> str:
    one = item("x").to_dict(include_self_link=False)
    change(one)
    return json.dumps({"type": "FeatureCollection", "features": [one]})


@pytest.mark.parametrize(
    ("text", "asset", "said"),
    [
        ("{", None, "is no STAC"),
        ("[]", None, "is no STAC"),
        ('{"type": "FeatureCollection", "features": [7]}', None, "is no STAC"),
        ('{"type": "Catalog", "id": "x"}', None, "is no STAC"),
        ('{"type": "FeatureCollection", "features": []}', None, "no item with a picture"),
        (listing(lambda one: one["assets"].pop("visual")), None, "no item with a picture"),
        (listing(lambda one: one["assets"].pop("visual")), "B04", "no item with an asset B04"),
        (listing(lambda one: one["assets"]["thumbnail"].update(roles=["data"])), None, r"--asset visual\|thumbnail"),
        (listing(lambda one: one["assets"]["visual"].update(href="https://x.org/a.tif")), None, "fetch it first"),
        (listing(lambda one: one["assets"]["visual"].update(href=7)), None, "is no STAC"),
        (listing(lambda one: one.update(id=5)), None, "is no STAC"),
        (listing(lambda one: one.update(id=None)), None, "is no STAC"),
        (listing(lambda one: one.update(bbox=5)), None, "is no STAC"),
        (listing(lambda one: one.update(bbox=dict.fromkeys("abcdef", 0))), None, "is no STAC"),
        (listing(lambda one: one.update(bbox=[0, 0, 10**400, 1])), None, "is no STAC"),
        (
            listing(lambda one: one["properties"].update(datetime=None, start_datetime=5, end_datetime=6)),
            None,
            "is no STAC",
        ),
    ],
)
def test_what_is_no_list_of_pictures_is_refused(tmp_path: Path, text: str, asset: str | None, said: str) -> None:
    (tmp_path / "items.json").write_text(text)
    with pytest.raises(UsageError, match=said):
        stac.read(tmp_path / "items.json", asset)


def test_links_into_the_network_are_not_followed(archive: Path) -> None:
    path = archive / "catalogue" / "catalog.json"
    path.write_text(path.read_text().replace("./a/a.json", "https://example.org/a.json"))
    with pytest.raises(UsageError, match="links to https://example.org/a.json, which is no file"):
        stac.read(path)


# --- items out -------------------------------------------------------------------------------------------------------


@pytest.fixture
def validator() -> Any:
    """Validates by the schemas that pystac has, and the rules of the file extension; the network is not asked."""
    pytest.importorskip("jsonschema")
    from pystac.validation.stac_validator import JsonSchemaSTACValidator

    found = JsonSchemaSTACValidator()
    fields = {
        "file:checksum": {"type": "string", "pattern": "^[a-f0-9]+$"},
        "file:size": {"type": "integer", "minimum": 0},
    }
    assets = {"additionalProperties": {"properties": fields, "patternProperties": {"^(?!file:)": {}}}}
    found.schema_cache[FILE_EXTENSION] = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": FILE_EXTENSION,
        "required": ["stac_extensions", "assets"],
        "properties": {"stac_extensions": {"contains": {"const": FILE_EXTENSION}}, "assets": assets},
    }
    return found


@pytest.fixture
def batch(refscale: Callable[..., Outcome], tiny_weights: Path) -> Callable[..., Outcome]:
    return lambda *arguments: refscale("batch", *arguments, "--weights", tiny_weights, "--device", "cpu", "--jobs", "1")


@pytest.mark.slow
@pytest.mark.parametrize("source", ["in/items.json", "catalogue/catalog.json"])
def test_a_round_trip_is_valid_and_decodes(
    archive: Path, batch: Callable[..., Outcome], tiny_weights: Path, validator: Any, source: str
) -> None:
    outcome = batch(source, "-o", "out")
    assert outcome.code == 0, outcome.err
    given, found = stac.read(archive / source), json.loads((archive / "out" / "items.json").read_text())["features"]
    older = {"a": None, "b/2": "a", "b-2": "a", "c": given[1].item.id}
    for before, after in zip(given, found, strict=True):
        pystac.validation.validate_dict(after, validator=validator)
        for key in ("id", "geometry", "bbox"):
            assert after[key] == before.item.to_dict()[key]
        assert after["properties"] == before.item.to_dict()["properties"]
        coded = after["assets"]["visual"]
        file = archive / "out" / coded["href"]
        data = file.read_bytes()
        assert (coded["type"], coded["roles"], coded["title"]) == (stac.MEDIA_TYPE, ["data"], "True colour")
        assert (coded["file:size"], coded["file:checksum"]) == (len(data), "1220" + hashlib.sha256(data).hexdigest())
        assert coded["refscale:bits_per_pixel"] == round(8 * len(data) / (32 * 48), 4)
        small = after["assets"]["thumbnail"]["href"]
        assert (archive / "out" / small).resolve() == before.picture.resolve().with_suffix(".jpg")
        links = {link["rel"]: link for link in after["links"]}
        assert (archive / "out" / links["derived_from"]["href"]).resolve() == Path(before.href).resolve()
        needed = links.get("reference")
        assert (needed and needed["title"]) == older[after["id"]]
        assert ("reference" in links) == bool(refscale_codec.open(data).references)
        if needed:
            (reference,) = [each.picture for each in given if each.item.id == needed["title"]]
            assert needed["refscale:fingerprint"] == refscale_codec.fingerprint(reference)
            refscale_codec.decode(data, reference, model=tiny_weights)
    again = batch(source, "-o", "out")
    assert "3 were coded already" in again.err + again.text
    assert json.loads((archive / "out" / "items.json").read_text())["features"] == found


@pytest.mark.slow
def test_references_may_be_items_of_their_own_and_a_bad_picture_has_no_item(
    archive: Path, batch: Callable[..., Outcome]
) -> None:
    (archive / "in" / "a.png").write_bytes(b"damaged")
    older = item("old", -9).to_dict(include_self_link=False)
    drawn(7).save(archive / "old.png")
    (archive / "old.json").write_text(json.dumps({"type": "FeatureCollection", "features": [older]}))
    outcome = batch("in/items.json", "--ref", "old.json", "-o", "out")
    assert outcome.code == 9 and "a.png" in outcome.err
    found = json.loads((archive / "out" / "items.json").read_text())["features"]
    assert [each["id"] for each in found] == ["b/2", "c"]
    assert {link["title"] for each in found for link in each["links"] if link["rel"] == "reference"} <= {"old"}


def test_lists_of_others_are_not_overwritten(archive: Path, batch: Callable[..., Outcome]) -> None:
    before = (archive / "in" / "items.json").read_bytes()
    outcome = batch("in/items.json", "-o", "in")
    assert outcome.code == 2 and "no earlier run has written it" in outcome.err
    assert (archive / "in" / "items.json").read_bytes() == before


def test_dry_run_lists_the_references(archive: Path, batch: Callable[..., Outcome]) -> None:
    outcome = batch("in/items.json", "-o", "out", "--dry-run", "--json")
    told = [json.loads(line) for line in outcome.text.splitlines()]
    assert [[Path(path).name for path in line["reference_pictures"]] for line in told] == [[], ["a.png"], ["b.png"]]


def test_an_asset_goes_with_items(archive: Path, batch: Callable[..., Outcome]) -> None:
    outcome = batch("in", "-o", "out", "--asset", "visual")
    assert outcome.code == 2 and "--asset goes with STAC items" in outcome.err


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_json_that_does_not_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: bool) -> None:
    monkeypatch.setattr(stac, "_MOST_BYTES", 1 << 20)
    path = tmp_path / "endless.json"
    path.symlink_to("/dev/zero")
    if link:
        catalogue = pystac.Catalog("all", "of one item").to_dict()
        catalogue["links"] = [{"rel": "item", "href": "./endless.json"}]
        path = tmp_path / "catalog.json"
        path.write_text(json.dumps(catalogue))
    with pytest.raises(UsageError, match="endless.json: over the size limit: it has more than 1,048,576 bytes"):
        stac.read(path)
