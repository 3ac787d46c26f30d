"""What tests of buildings from servers share: servers with extracts of OpenStreetMap, and cases of their places."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import yaml
from map_server import serving
from overpass_server import Extract, complete
from pyproj import Transformer

from historymap_lib.project import load

HELSINKI = (24.935, 60.163, 24.953, 60.181)
VADUZ = (9.505, 47.125, 9.535, 47.155)
PLACES = {"helsinki": ("EPSG:3067", HELSINKI), "liechtenstein": ("EPSG:32632", VADUZ)}


@pytest.fixture(scope="session")
def extracts(shared_data):
    """Return the extracts, read into memory, by name."""
    return {name: complete(Extract(str(shared_data / "osm" / f"{name}.osm.pbf"))) for name in PLACES}


@pytest.fixture(scope="session")
def running(extracts):
    """Return a running server for each extract."""
    with serving(extracts["helsinki"].answer) as one, serving(extracts["liechtenstein"].answer) as other:
        yield {"helsinki": one, "liechtenstein": other}


@pytest.fixture
def servers(running):
    """Return these servers as new."""
    for one in running.values():
        one.fault = None
        for told in (one.asked, one.headers, one.bodies):
            told.clear()
    return running


@pytest.fixture
def server(servers):
    """Return that of Helsinki."""
    return servers["helsinki"]


@pytest.fixture
def town(tmp_path):
    """Return a function that gives a case of a place, whose photo is there."""

    def make(footprints, place="helsinki", bounds=None, name="town"):
        crs, limits = PLACES[place]
        limits = bounds or limits
        west, south, east, north = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform_bounds(*limits)
        photo = tmp_path / f"{place}.tif"
        shape = {"width": 60, "height": 60, "count": 1, "dtype": "uint8", "crs": crs}
        across, down = (east - west + 2000) / 60, (north - south + 2000) / 60
        where = rasterio.Affine(across, 0, west - 1000, 0, -down, north + 1000)
        with rasterio.open(photo, "w", driver="GTiff", transform=where, **shape) as dataset:
            dataset.write(np.full((1, 60, 60), 99, np.uint8))
        file = tmp_path / f"{name}.yaml"
        area = {"crs": crs, "bounds": list(limits)}
        values = {"name": name, "area": area, "photo": {"path": str(photo)}, "footprints": footprints}
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        return load(file)

    return make


def by_overpass(server, **settings):
    return {"source": "overpass", "url": f"{server.url}/api", "access": {"patience": 20}} | settings
