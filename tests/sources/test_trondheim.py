"""The first case, as its settings stand: what its servers are asked for."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import yaml
from map_server import query, serving
from overpass_server import DATE
from PIL import Image
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from historymap_lib.footprint_source import load_footprints
from historymap_lib.imagery import open_photo
from historymap_lib.project import load

CONFIG = Path(__file__).parents[2] / "ml" / "config_1937.yaml"
LIMITS = (10.38, 63.42, 10.44, 63.44)
OFFER = b"""<?xml version="1.0" encoding="UTF-8"?>
<WMS_Capabilities version="1.3.0" xmlns="http://www.opengis.net/wms"><Service><Name>WMS</Name></Service>
<Capability><Request><GetMap><Format>image/png</Format><Format>image/jpeg</Format></GetMap></Request>
<Layer><CRS>AUTO:42001</CRS><CRS>EPSG:25832</CRS><CRS>EPSG:3857</CRS><CRS>CRS:84</CRS>
<Layer queryable="1" opaque="0"><Name>ortofoto1937</Name><Title>ortofoto1937</Title><CRS>EPSG:25832</CRS>
<EX_GeographicBoundingBox><westBoundLongitude>10.2</westBoundLongitude><eastBoundLongitude>10.6</eastBoundLongitude>
<southBoundLatitude>63.3</southBoundLatitude><northBoundLatitude>63.5</northBoundLatitude></EX_GeographicBoundingBox>
<BoundingBox CRS="EPSG:25832" minx="559000" miny="7020000" maxx="580000" maxy="7046000"/></Layer>
</Layer></Capability></WMS_Capabilities>"""
HOUSE = [(63.43, 10.40), (63.43, 10.4003), (63.4301, 10.4003), (63.4301, 10.40)]
TAGS = {"building": "house", "name": "Gamle huset", "start_date": "1890"}
BUILDINGS = {
    "osm3s": {"timestamp_osm_base": DATE},
    "elements": [
        *({"type": "node", "id": i, "lat": y, "lon": x} for i, (y, x) in enumerate(HOUSE, 1)),
        {"type": "way", "id": 9, "nodes": [1, 2, 3, 4, 1], "tags": TAGS},
    ],
}


@pytest.fixture
def wms():
    """Return a server with the layer, as GeoServer tells of it."""

    def answer(path):
        if "GetCapabilities" in path:
            return 200, "text/xml", OFFER
        body = io.BytesIO()
        Image.new("L", (int(query(path)["WIDTH"]), int(query(path)["HEIGHT"])), 120).save(body, "PNG")
        return 200, "image/png", body.getvalue()

    with serving(answer) as server:
        yield server


def test_its_servers_are_asked_for_its_area_and_nothing_else(wms, tmp_path):
    given = load(CONFIG)
    assert given.photo.url == "https://kart.trondheim.kommune.no/geoserver/Raster/wms"
    assert given.footprints.url.startswith("https://overpass-api.de/")
    with serving(lambda _: (200, "application/json", json.dumps(BUILDINGS).encode())) as overpass:
        values = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
        values["photo"]["url"], values["footprints"]["url"] = wms.url, f"{overpass.url}/api"
        values["paths"]["root"] = "."
        (tmp_path / "case.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        project = load(tmp_path / "case.yaml")
        found = load_footprints(project)
        sent = parse_qs(overpass.bodies[0])["data"][0]
    with open_photo(project) as photo:
        grid = photo.grid
        pixels, valid = photo.read(Window(0, 0, 2048, 2048))
    assert valid.all()
    assert (pixels == 120).all()
    west, south, east, north = transform_bounds("EPSG:4326", "EPSG:25832", *LIMITS, densify_pts=21)
    assert grid.bounds == pytest.approx((west, south, east, north), abs=1)
    for path in wms.pictures():
        asked = query(path)
        assert (asked["LAYERS"], asked["CRS"], asked["VERSION"]) == ("ortofoto1937", "EPSG:25832", "1.3.0")
        left, bottom, right, top = map(float, asked["BBOX"].split(","))
        assert left < east
        assert right > west
        assert bottom < north
        assert top > south
        assert right - left == int(asked["WIDTH"]) * 0.5
    south, west, north, east = map(float, re.search(r"\[bbox:([^\]]+)\]", sent)[1].split(","))
    assert (west, south, east, north) == pytest.approx(LIMITS, abs=0.006)
    assert west < LIMITS[0]
    assert north > LIMITS[3]
    (house,) = found.frame.itertuples()
    assert (house.building_id, house.name, house.start_date) == ("way/9", "Gamle huset", "1890")
