"""Coordinate reference systems of untrusted files: no file, pipe or address that they name is opened."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import refscale_codec as refscale
from refscale_codec.errors import ContainerError
from refscale_codec.fileformat import container
from refscale_codec.picture import geo, metadata
from refscale_codec.picture.io import gdal_fields

rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")

PICTURE = np.full((32, 32, 3), 9, np.uint8)
SECONDS = 100  # a pipe that is opened waits for ever
WKT = (
    'GEOGCS["x",DATUM["y",SPHEROID["Bessel 1841",6377397.155,299.1528128]%s],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]]'
)
SHIFTED = WKT % ',EXTENSION["PROJ4_GRIDS","%s"]'
FILE = 'PARAMETERFILE["Latitude and longitude difference file","%s"]'

TRIED = """
import sys
import xarray
from refscale_codec.cli import main
weights, *files = sys.argv[1:]
for file in files:
    decode = ["decode", file, "--weights", weights, "-o"]
    for command in (["info", file], [*decode, file + ".tif"], [*decode, file + ".png"]):
        sys.argv = ["refscale", *command]
        try:
            main.main()
        except SystemExit as end:
            print("exit code", end.code)
    try:
        xarray.open_dataset(file, engine="refscale", model=weights).close()
    except Exception as error:
        print(type(error).__name__)
    else:
        print("opened")
"""


def crafted(weights: Path, crs: str, name: str = "crs") -> bytes:
    """Return a file whose georeference says this system; a writer would refuse most of them."""
    fields = {name: crs} | ({"transform": [1, 0, 0, 0, -1, 0]} if name == "crs" else {"gcps": [[0, 0, 1, 1, 0]]})
    said = json.dumps(fields).encode()
    content = container.unpack(refscale.encode(PICTURE, model=weights))
    return container.pack(replace(content, metadata=b"\4" + len(said).to_bytes(3, "little") + said))


@pytest.fixture
def address() -> Iterator[str]:
    """Return an address where nobody must come."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.fixture
def pipe(tmp_path: Path) -> str:
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no pipes with names here")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "NONE:1")
    return str(tmp_path / "pipe")


def test_no_file_makes_a_command_open_what_its_system_names(
    tmp_path: Path, tiny_weights: Path, address: str, pipe: str
) -> None:
    pytest.importorskip("xarray", reason="the extra xarray is not installed")
    refused = [pipe, "pipe", f"http://{address}/x", f"/vsicurl/http://{address}/x", "+proj=longlat +nadgrids=pipe"]
    refused += [f"+proj=longlat +nadgrids={pipe}", '{"type": "GeographicCRS"}', "EPSG:4326\n\x1b[31m", "EPSG:1+2"]
    left_out = [SHIFTED % pipe, SHIFTED % f"null,@{pipe}", SHIFTED % "./pipe", 'NONSENSE["x"]', "NONE:1"]
    left_out += [SHIFTED % f"http://{address}/x"]
    said = [("crs", crs) for crs in refused] + [("gcp_crs", pipe)]
    kept = [("crs", crs) for crs in left_out] + [("gcp_crs", SHIFTED % pipe)]
    files = [tmp_path / f"{number}.rsc" for number in range(len(said + kept))]
    for path, (name, crs) in zip(files, said + kept, strict=True):
        path.write_bytes(crafted(tiny_weights, crs, name))
    command = [sys.executable, "-c", TRIED, str(tiny_weights), *map(str, files)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=SECONDS, cwd=tmp_path,
        env=os.environ | {"PROJ_NETWORK": "ON", "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line in ("opened", "ContainerError") or "exit code" in line]
    codes = [*["exit code 4"] * 3, "ContainerError"] * len(said) + [*["exit code 0"] * 3, "opened"] * len(kept)
    assert lines == codes
    assert done.stderr.count("left out of the georeference and tags:") == len(kept)
    assert "Traceback" not in done.stderr
    for path in files[len(said) :]:
        with rasterio.open(path.with_name(path.name + ".tif")) as file:
            assert not file.crs and not file.gcps[1]


@pytest.mark.parametrize("crs", ["EPSG:32630", "ESRI:54009", "OGC:CRS84", "IAU_2015:30100", "epsg:4326", WKT % ""])
def test_a_code_or_wkt_becomes_a_system_and_the_same_text_again(crs: str) -> None:
    assert geo.fault("crs", crs) == geo.fault("gcp_crs", crs) == ""
    system = gdal_fields.system_of(crs)
    said = gdal_fields.crs(system)
    assert said is not None and geo.fault("crs", said) == ""
    assert gdal_fields.system_of(said) == system
    if geo.authority_and_code(crs):
        assert (said if geo.authority_and_code(said) else ":".join(system.to_authority())) == crs.upper()


@pytest.mark.parametrize(
    "said",
    ["+proj=geos +h=35785831 +sweep=x", "+proj=laea +lat_0=47 +ellps=bessel", "+proj=lcca +lat_0=35 +lon_0=1"]
    + ["+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=30", "+proj=merc +a=6378137 +b=6378137 +nadgrids=@null"],
)
def test_a_system_without_a_code_is_written_as_wkt(said: str) -> None:
    system = rasterio.CRS.from_proj4(said)
    text = gdal_fields.crs(system)
    assert text is not None and geo.authority_and_code(text) is None and geo.fault("crs", text) == ""
    assert gdal_fields.system_of(text).to_wkt() == system.to_wkt()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        *[(SHIFTED % path, True) for path in ("/a", "~/a", "../a", "c:\\a", "a,/b", "a],/b", '""/b""')],
        *[(FILE % path, True) for path in ("/a", "sub/a")],
        *[(SHIFTED % path, False) for path in ("egm96_15.gtx", "@null", "a,b")],
        ('PROJCS["WGS 84 / UTM zone 30N",EXTENSION["PROJ4","+proj=merc +nadgrids=@null +wktext"]]', False),
        ('PROJCS["S-JTSK/05 / Modified Krovak",UNIT["m/s",1]]', False),
        ('X["PROJ-based operation method: +init=/tmp/a:1"]', True),
    ],
)
def test_wkt_that_may_name_a_file_is_told_from_other(text: str, names: bool) -> None:
    assert geo.names_a_path(text) == names


def test_no_file_beside_a_picture_makes_anything_open(tmp_path: Path, pipe: str) -> None:
    quoted = (SHIFTED % pipe).replace('"', "&quot;").replace("/", "&#47;")
    points = f'<GCPList Projection="{quoted}"><GCP Pixel="0" Line="0" X="1" Y="1"/></GCPList>'
    beside = {"a.prj": SHIFTED % pipe, "b.png.aux.xml": f"<PAMDataset><SRS>{quoted}</SRS></PAMDataset>"}
    beside["c.png.aux.xml"] = f"<PAMDataset>{points}</PAMDataset>"
    beside["d.png.aux.xml"] = f"<PAMDataset><srs>+proj=longlat +nadgrids={pipe}</srs></PAMDataset>"
    for name, text in beside.items():
        (tmp_path / name).write_text(text)
        PIL.Image.fromarray(PICTURE).save(tmp_path / f"{name[0]}.png")
    read = "import pathlib, sys; from refscale_codec.picture.io import pictures\n"
    read += "for name in sys.argv[1:]: pictures.read(pathlib.Path(name))"
    command = [sys.executable, "-W", "ignore", "-c", read, *(str(tmp_path / f"{name}.png") for name in "abcd")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS)
    for name in beside:
        assert f"{name} beside it (it may name a file, which is not opened)" in done.stderr


def test_an_invalid_system_is_refused_with_what_it_must_be() -> None:
    data = b'{"crs":"http://example.org/crs"}'
    with pytest.raises(ContainerError, match="crs: it must be an authority and code, or WKT"):
        metadata.unpack(b"\4" + len(data).to_bytes(3, "little") + data)
