"""What tests of servers share: MapServer with the photo of Banepa, short pauses, and a cache of their own."""

from __future__ import annotations

import pytest
import rasterio
import yaml
from map_server import EAST, MAPSERV, NORTH, SOUTH, WEST, cgi, mapfile, serving
from overpass_fixtures import extracts, running, server, servers, town  # noqa: F401 - fixtures

from historymap_lib import http
from historymap_lib.project import load

CRS = "EPSG:32645 EPSG:4326 EPSG:3857 EPSG:2193"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(http, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(http, "LONGEST_WAIT", 0.05)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Return the folder of a cache of this test's own."""
    monkeypatch.setenv("HISTORYMAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "historymap" / "blocks"


@pytest.fixture(scope="session")
def banepa(shared_data):
    """Return the photo that the servers give."""
    return shared_data / "banepa" / "orthophoto.tif"


@pytest.fixture(scope="session")
def snapped(tmp_path_factory, banepa):
    """Return the photo moved by less than a pixel, so that its pixels are those of a grid from the CRS's origin."""
    path = tmp_path_factory.mktemp("snapped") / "snapped.tif"
    with rasterio.open(banepa) as source:
        west, north = (round(value / 0.4) * 0.4 for value in (WEST, NORTH))
        profile = source.profile | {"transform": rasterio.Affine(0.4, 0, west, 0, -0.4, north)}
        with rasterio.open(path, "w", **profile) as target:
            target.write(source.read())
    return path


@pytest.fixture(scope="session")
def map_server(tmp_path_factory, banepa, snapped):
    """Return a running MapServer; its requests are counted."""
    if MAPSERV is None:
        pytest.skip("there is no MapServer (apt-get install cgi-mapserver)")
    environment = mapfile(tmp_path_factory.mktemp("mapserver"), banepa, snapped, f"{WEST} {SOUTH} {EAST} {NORTH}", CRS)
    with serving(cgi(environment)) as started:
        yield started


@pytest.fixture
def wms(map_server):
    """Return MapServer as new: no fault, nothing asked yet."""
    map_server.fault = None
    map_server.asked.clear()
    map_server.headers.clear()
    return map_server


@pytest.fixture
def case(tmp_path):
    """Return a function that gives a case of Banepa with a photo by these settings."""

    def make(*, bounds=(WEST, SOUTH, EAST, NORTH), case_crs="EPSG:32645", resolution=0.4, name="banepa", **photo):
        photo |= {"bounds": photo.pop("photo_bounds")} if "photo_bounds" in photo else {}
        area = {"crs": case_crs} | ({"bounds": list(bounds), "bounds_crs": case_crs} if bounds else {})
        values = {
            "name": name,
            "area": area,
            "photo": photo,
            "footprints": {"path": "footprints.geojson"},
            "tiles": {"resolution": resolution, "size": 256},
        }
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        return load(file)

    return make
