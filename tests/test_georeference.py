"""The matrix between two georeferenced grids: by hand where one system serves both, and against rasterio's own way."""

import json

import cv2
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refscale_codec import model, weights_files
from refscale_codec.codec import decoder, encoder
from refscale_codec.errors import ImageError, UsageError
from refscale_codec.fileformat import container
from refscale_codec.picture import geo
from refscale_codec.picture.image import Image
from refscale_codec.picture.io import pictures
from refscale_codec.picture.metadata import Metadata
from refscale_codec.reference import georeference, registration
from refscale_codec.reference.georeference import Grid
from refscale_codec.study import metrics

pytest.importorskip("rasterio", reason="rasterio is not installed: pip install 'refscale-codec[geo]'")

UTM = "EPSG:32610"
sizes, corners = st.integers(1, 5000), st.integers(-1000, 1000)


@settings(deadline=None, max_examples=30)
@given(width=sizes, height=sizes, step=st.sampled_from([0.25, 1.0, 3.0]), right=corners, down=corners)
def test_grids_of_one_system_differ_by_a_scale_and_a_shift(
    width: int, height: int, step: float, right: int, down: int
) -> None:
    target = Grid(UTM, (1, 0, 600_000 + right, 0, -1, 4_200_000 - down), height, width)
    reference = Grid(UTM, (step, 0, 600_000, 0, -step, 4_200_000), 10, 10)
    matrix, residual = georeference.between(target, reference)
    expected = registration.scaling(1 / step, 1 / step) + np.array([[0, 0, right], [0, 0, down], [0, 0, 0]]) / step
    assert residual < 1e-6
    assert np.allclose(matrix @ [0, 0, 1], expected @ [0, 0, 1], atol=1e-6)
    last = [width - 1, height - 1, 1]
    assert np.allclose(matrix @ last, expected @ last, atol=1e-6)


@pytest.mark.parametrize("wanted", ["EPSG:4326", "EPSG:32611", "EPSG:3857"])
def test_another_system_is_followed(wanted: str) -> None:
    from rasterio.warp import transform, transform_bounds

    target = Grid(UTM, (10, 0, 600_000, 0, -10, 4_200_000), 700, 900)
    west, south, east, north = transform_bounds(UTM, wanted, 600_000, 4_193_000, 609_000, 4_200_000)
    turn = np.array([[0.8, -0.6], [-0.6, -0.8]]) * (east - west) / 900
    (a, b), (d, e), c, f = *turn, west, north
    matrix, residual = georeference.between(target, Grid(wanted, (a, b, c, d, e, f), 800, 800))
    assert residual < 0.5
    for row, column in [(0, 0), (699, 899), (0, 899), (350, 420)]:
        (x,), (y,) = transform(UTM, wanted, [600_005 + 10 * column], [4_199_995 - 10 * row])
        there = np.linalg.solve([[a, b], [d, e]], [x - c, y - f]) - 0.5
        placed = matrix @ [column, row, 1]
        assert np.allclose(placed[:2] / placed[2], there, atol=residual + 1e-6)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:4807"])  # in degrees, and in gon
@pytest.mark.parametrize("turns", [-1, 0, 1, 2])
def test_longitudes_go_round_the_earth(crs: str, turns: int, caplog: pytest.LogCaptureFixture) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    target = placed(pixels, crs, 0.001, 0, 179.95, 0, -0.001, 10)
    west = 179.94 + turns * (360 if crs == "EPSG:4326" else 400)
    matrix = georeference.prior(target, placed(pixels, crs, 0.001, 0, west, 0, -0.001, 10))
    assert matrix is not None and np.allclose(matrix, [[1, 0, 10], [0, 1, 0], [0, 0, 1]], atol=1e-6)
    assert caplog.messages == []


@pytest.mark.parametrize("west", [-180.05, 179.95])
def test_a_picture_across_the_antimeridian_is_not_torn(west: float) -> None:
    from rasterio.warp import transform

    target = Grid("EPSG:32660", (10, 0, 828_000, 0, -10, 100_000), 900, 1000)
    reference = Grid("EPSG:4326", (1e-4, 0, west, 0, -1e-4, 0.91), 1000, 1000)
    matrix, residual = georeference.between(target, reference)
    assert residual < 0.1
    for row, column in [(0, 0), (899, 999), (450, 500)]:
        (x,), (y,) = transform(target.crs, reference.crs, [828_005 + 10 * column], [99_995 - 10 * row])
        wanted = np.array([(x - west + 180) % 360 - 180, 0.91 - y]) / 1e-4 - 0.5
        place = matrix @ [column, row, 1]
        assert np.allclose((place / place[2])[:2], wanted, atol=0.2)


def test_a_tilt_is_seen_where_it_is_more_than_a_small_part_of_a_pixel() -> None:
    target = Grid(UTM, (30, 0, 400_000, 0, -30, 4_400_000), 5000, 5000)  # 150 km across
    matrix, residual = georeference.between(target, Grid("EPSG:4326", (3e-4, 0, -124.2, 0, -3e-4, 39.8), 5000, 6000))
    assert abs(matrix[2, :2]).max() > 0
    assert 0.05 < residual < 20


@settings(deadline=None, max_examples=30)
@given(tilt=st.floats(-1e-5, 1e-5), far=st.sampled_from([0, 1e4, -1e6]), size=st.sampled_from([2, 700, 10_000]))
def test_a_homography_is_found_from_its_points_however_far_they_lie(tilt: float, far: float, size: int) -> None:
    expected = np.array([[0.9, 0.2, far], [-0.3, 1.1, -far], [tilt, -tilt / 2, 1]])
    here = np.stack([*map(np.ravel, np.meshgrid(*[np.linspace(-0.5, size - 0.5, 9)] * 2)), np.ones(81)])
    there = expected @ here
    there /= there[2]
    found = georeference._homography(here, there)
    assert georeference._errors(found, here, there).max() < 5e-3  # pixels, of up to a million


def test_what_cannot_be_is_told() -> None:
    target = Grid(UTM, (10, 0, 600_000, 0, -10, 4_200_000), 70, 90)
    with pytest.raises(ImageError, match="nonsense"):
        georeference.between(target, target._replace(crs="nonsense"))
    with pytest.raises(ImageError, match="degenerate"):
        georeference.between(target, target._replace(transform=(1, 1, 0, 1, 1, 0)))
    beyond = Grid("EPSG:4326", (1, 0, 0, 0, -1, 90), 180, 360)
    with pytest.raises(ImageError, match="outside the area"):
        georeference.between(beyond, target._replace(crs="ESRI:102036"))


@pytest.mark.parametrize(
    "said",
    [
        *(b"", b"not JSON", b"[" * 100_000, b"[]", b'{"crs":"EPSG:4326"}'),
        *(b'{"crs":7,"transform":[1,0,0,0,1,0]}', b'{"crs":"EPSG:4326","transform":[1,0,0]}'),
        *(b'{"crs":"EPSG:4326","transform":"abcdef"}', b'{"crs":"EPSG:4326","transform":[1,0,0,0,1e999,0]}'),
        b'{"crs":"EPSG:4326","transform":[1,0,0,0,1,1' + b"0" * 400 + b"]}",
    ],
)
def test_a_damaged_georeference_is_none(said: bytes) -> None:
    picture = Image(np.zeros((4, 4, 3), np.uint8), Metadata(geo=said))
    assert georeference.prior(picture, picture) is None
    assert geo.georeference(geo.of_window(said, 1, 1)) is None


def test_a_missing_rasterio_is_told_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    target = Grid(UTM, (10, 0, 600_000, 0, -10, 4_200_000), 70, 90)
    beside = target._replace(transform=(10, 0, 601_000, 0, -10, 4_200_000))
    one = registration.scaling(1, 1)
    one[0, 2] = -100
    assert np.allclose(georeference.between(target, beside)[0], one)  # one system needs no PROJ
    with pytest.raises(UsageError, match=r"refscale-codec\[geo\]"):
        georeference.between(target, target._replace(crs="EPSG:4326"))


LOCAL = 'LOCAL_CS["site grid",UNIT["metre",1]]'


@pytest.mark.parametrize(
    ("target", "reference", "told"),
    [
        ((UTM, 10, 0, 600_000, 0, -10, 4_200_000), (LOCAL, 1, 0, 0, 0, -1, 0), "LOCAL_CS"),
        ((LOCAL, 1, 0, 0, 0, -1, 0), (UTM, 10, 0, 600_000, 0, -10, 4_200_000), "EPSG:32610, or LOCAL_CS"),
        (("EPSG:4326", 1, 0, -96, 0, -1, 96), ("EPSG:3857", 1, 0, 0, 0, -1, 0), "outside the area of EPSG:3857"),
        ((UTM, 10, 0, 600_000, 0, -10, 4_200_000), ('NONSENSE["x"]', 1, 0, 0, 0, -1, 0), "NONSENSE"),
        ((UTM, 10, 0, 600_000, 0, -10, 4_200_000), (UTM, 1, 1, 0, 1, 1, 0), "degenerate"),
        ((UTM, 1e308, 0, 0, 0, 1, 0), (UTM, 10, 0, 600_000, 0, -10, 4_200_000), "out of range"),
        ((UTM, 10, 0, 600_000, 0, -10, 4_200_000), ("EPSG:4326", 1, -1e308, 0, 1, 0, 0), "out of range"),
    ],
)
def test_a_hint_that_fails_is_told_in_one_line_and_not_used(
    target: tuple[float, ...], reference: tuple[float, ...], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    assert georeference.prior(placed(pixels, *target), placed(pixels, *reference)) is None
    (message,) = caplog.messages
    assert message.startswith("the georeferences of picture and reference are not used: ")
    assert told in message and "\n" not in message and len(message) < 450


def test_two_pictures_of_one_local_system_are_related(caplog: pytest.LogCaptureFixture) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    here, there = placed(pixels, LOCAL, 1, 0, 0, 0, -1, 0), placed(pixels, LOCAL, 1, 0, 5, 0, -1, -3)
    assert np.allclose(georeference.prior(here, there), [[1, 0, -5], [0, 1, -3], [0, 0, 1]], atol=1e-9)
    far = placed(pixels, LOCAL, 1, 0, 1064, 0, -1, 0)
    assert georeference.prior(here, far) is None
    assert "lies 1,000 units of its coordinate reference system away" in caplog.text


@pytest.mark.parametrize(
    ("crs", "reference", "told"),
    [
        (UTM, (10, 0, 650_640, 0, -10, 4_200_000), "50 km"),
        (UTM, (10, 0, 600_000, 0, -10, 4_199_000), "360 m"),
        (UTM, (10, 0, 600_000, 0, -10, 4_190_320), "9,040 m"),
        (UTM, (10, 0, 600_000, 0, -10, 4_198_360.4), "1,000 m"),
        (UTM, (10, 0, 600_640, 0, -10, 4_200_640), ""),  # they touch
        (UTM, (10, 0, 600_000, 0, -10, 4_200_630), ""),
        ("EPSG:4326", (1e-4, 0, -121.0, 0, -1e-4, 37.9), "75 km"),  # from about -121.853, 0.853 degrees of 87.7 km
        ("EPSG:2227", (10, 0, 6_600_000, 0, -10, 2_100_000), " km"),  # in feet
    ],
)
def test_a_reference_of_another_place_is_told_with_its_distance(
    crs: str, reference: tuple[float, ...], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    target = placed(pixels, UTM, 10, 0, 600_000, 0, -10, 4_200_000)
    assert (georeference.prior(target, placed(pixels, crs, *reference)) is None) == bool(told)
    assert [("another place" in message, f"{told} away" in message) for message in caplog.messages] == (
        [(True, True)] if told else []
    )


@pytest.mark.parametrize(("x", "told"), [(650_640, "50 km"), (600_000, "")])
def test_control_points_tell_another_place_and_nothing_more(
    x: float, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    target = placed(pixels, UTM, 10, 0, 600_000, 0, -10, 4_200_000)
    corners = [[row, column, x + 10 * column, 4_200_000 - 10 * row, 0] for row in (0, 64) for column in (0, 64)]
    reference = Image(pixels, Metadata(geo=json.dumps({"gcp_crs": UTM, "gcps": corners}).encode()))
    for one, other in ((target, reference), (reference, target)):
        assert georeference.prior(one, other) is None
    assert [f"{told} away" in message for message in caplog.messages] == ([True, True] if told else [])
    on_a_line = Image(pixels, Metadata(geo=json.dumps({"gcp_crs": UTM, "gcps": corners[:2]}).encode()))
    lost = Image(pixels, Metadata(geo=json.dumps({"gcp_crs": 'NONSENSE["x"]', "gcps": corners}).encode()))
    caplog.clear()
    assert georeference.prior(target, on_a_line) is georeference.prior(target, lost) is None
    assert caplog.messages == []


def placed(pixels: NDArray[np.uint8], crs: str, *transform: float) -> Image:
    return Image(pixels, Metadata(geo=json.dumps({"crs": crs, "transform": transform}).encode()))


def test_a_georeferenced_reference_of_another_extent_and_grain_is_used() -> None:
    target, reference = (pictures.read(ROOT / "examples" / f"{name}.png").pixels for name in ("target", "reference"))
    part = placed(np.ascontiguousarray(target[100:292, 150:342]), UTM, 1, 0, 600_150, 0, -1, 4_199_900)
    coarser = cv2.resize(reference, (340, 340), interpolation=cv2.INTER_AREA)
    older = placed(coarser, UTM, 512 / 340, 0, 600_000, 0, -512 / 340, 4_200_000)
    net = model.load(weights_files.shipped(2))
    data = encoder.encode(part, older, net)
    assert container.unpack(data).alignment is not None
    assert len(data) < 0.95 * len(encoder.encode(part, None, net))
    assert metrics.psnr(decoder.decode(data, older, net).pixels, part.pixels) > 30
    assert georeference.prior(part, Image(part.pixels)) is None
