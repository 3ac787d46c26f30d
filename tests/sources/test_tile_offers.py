"""What a WMTS says that it offers, and what servers really say there; and MapServer as a server of web map tiles."""

from __future__ import annotations

import re

import numpy as np
import pytest
from comparing import warped, whole
from map_server import EAST, NORTH, SOUTH, WEST, query, serving
from pyproj import CRS
from rasterio.warp import transform_bounds
from tile_server import Tiles

from historymap_lib.errors import PhotoError, SettingsError, SourceError
from historymap_lib.imagery import open_photo
from historymap_lib.photo_services import Case
from historymap_lib.photo_tiles import wmts as service_of
from historymap_lib.settings import WmtsPhoto

INSIDE = (353950, 3057100, 354150, 3057300)
CRS_OF_CASE = CRS.from_epsg(32645)
DOCUMENT = "/wmts/1.0.0/WMTSCapabilities.xml"
KEY = "k3y-0f-th3-t1l3s&="


@pytest.fixture
def made(snapped):
    """Return the server behind `tiles`, to change what it says."""
    return Tiles(snapped, transform_bounds("EPSG:32645", "EPSG:4326", WEST, SOUTH, EAST, NORTH))


@pytest.fixture
def saying(made):
    """Return a running server, and a function by which it says other capabilities: pairs of before and after."""
    pairs: list[tuple[str, str]] = []
    with serving(lambda path: _changed(made.answer(path), pairs)) as server:
        made.url = server.url
        yield server, lambda *new: pairs.extend(new)


def _changed(answer, pairs):
    status, kind, body = answer
    if kind.endswith("/xml") and status == 200:
        for before, after in pairs:
            assert before.encode() in body
            body = body.replace(before.encode(), after.encode())
    return status, kind, body


def wmts(server, path="/wmts", **more):
    return {"source": "wmts", "url": server.url + path, "layer": "then"} | more


@pytest.mark.parametrize("name", ["GoogleMapsCompatible", "UTM45", "WGS84"])
def test_a_layer_that_is_said_to_cover_the_world_is_found_all_the_same(case, made, saying, name):
    server, _ = saying
    expected = whole(case(**wmts(server, matrix_set=name), bounds=INSIDE))[1]
    made.degrees = (-180, -90, 180, 90)
    _, pixels = whole(case(**wmts(server, "/wmts?world", matrix_set=name), bounds=INSIDE, name="world"))
    assert (pixels == expected).all()


def test_longitude_first_where_latitude_should_be_is_seen_by_its_number(case, saying):
    server, say = saying
    photo = {"matrix_set": "WGS84"}
    expected = whole(case(**wmts(server, **photo), bounds=INSIDE))[1]
    say(("<TopLeftCorner>90.0 -180.0<", "<TopLeftCorner>-180.0 90.0<"))
    _, pixels = whole(case(**wmts(server, "/wmts?turned", **photo), bounds=INSIDE, name="turned"))
    assert (pixels == expected).all()
    assert (expected > 0).mean() > 0.99


@pytest.mark.parametrize(
    "name", ["urn:ogc:def:crs:EPSG:6.18:3:3857", "EPSG:900913", "http://www.opengis.net/def/crs/EPSG/0/3857"]
)
def test_a_crs_is_known_however_it_is_written(case, saying, name):
    server, say = saying
    say(("urn:ogc:def:crs:EPSG::3857", name))
    _, pixels = whole(case(**wmts(server, matrix_set="GoogleMapsCompatible"), bounds=INSIDE))
    assert (pixels > 0).mean() > 0.99


def test_a_matrix_without_limits_where_others_have_them_is_not_asked_for(case, saying):
    server, say = saying
    say(("<TileMatrixLimits><TileMatrix>fine</TileMatrix>", "<TileMatrixLimits><TileMatrix>none</TileMatrix>"))
    whole(case(**wmts(server), bounds=INSIDE))
    assert {query(path)["TILEMATRIX"] for path in server.pictures()} == {"coarse"}


def test_empty_matrices_and_sets_in_a_crs_that_nobody_knows_are_passed_over(case, saying):
    server, say = saying
    say(("urn:ogc:def:crs:EPSG::32645", "urn:ogc:def:crs:EPSG::999999"))
    with pytest.raises(
        PhotoError, match=r"no matrix set UTM45; set photo\.matrix_set to one of GoogleMapsC\w+, WGS84$"
    ):
        open_photo(case(**wmts(server, matrix_set="UTM45")))
    say((f"<MatrixWidth>{1 << 22}<", "<MatrixWidth>0<"))
    with pytest.raises(PhotoError, match=r"has no tiles in a CRS that PROJ knows$"):
        open_photo(case(**wmts(server, "/wmts?empty"), name="empty"))


def test_a_matrix_set_on_another_planet_is_told(case, saying):
    server, say = saying
    say(("urn:ogc:def:crs:EPSG::32645", "urn:ogc:def:crs:IAU::49900"))  # Mars
    with pytest.raises(PhotoError, match=r"area\.bounds cannot be told in Mars .*; set another CRS for the photo$"):
        open_photo(case(**wmts(server, matrix_set="UTM45")))


@pytest.mark.parametrize("bad", ["nan", "0", "-1", "much"])
def test_numbers_that_mean_nothing_are_told_and_not_kept(case, saying, bad, cache):
    server, say = saying
    say(("<ScaleDenominator>", f"<ScaleDenominator>{bad}</ScaleDenominator><ScaleDenominator>"))
    with pytest.raises(SourceError, match=r"^127\.0\.0\.1:\d+ gives capabilities that cannot be understood \("):
        open_photo(case(**wmts(server)))
    assert not list(cache.glob("*/*"))


def test_a_format_that_is_not_offered_is_told_with_those_that_are(case, saying):
    server, say = saying
    say(("<Format>image/png</Format>", ""))
    with pytest.raises(PhotoError, match=r"photo\.format image/png is not offered; set it to one of image/jpeg$"):
        open_photo(case(**wmts(server, format="image/png")))


def test_a_time_other_than_the_default_is_a_parameter_of_the_access(case, saying):
    """This server has 1937 alone, and says so by 400."""
    server, _ = saying
    with pytest.raises(SourceError, match="answered 400"):
        whole(case(**wmts(server, access={"parameters": {"Time": "1947"}}), bounds=INSIDE))
    assert "TIME=1947" in server.pictures()[-1]


@pytest.mark.parametrize("path", ["/wmts?key=${TILE_KEY}", f"{DOCUMENT}?key=${{TILE_KEY}}"])
def test_a_key_that_the_server_repeats_in_its_addresses_is_used_and_not_kept(case, saying, cache, monkeypatch, path):
    monkeypatch.setenv("TILE_KEY", KEY)
    server, say = saying
    quoted = "k3y-0f-th3-t1l3s%26%3D"
    said = (".png", f".png?key={quoted}") if path.startswith(DOCUMENT) else ("/wmts?", f"/wmts?key={quoted}")
    say(said)
    project = case(**wmts(server, path), bounds=INSIDE)
    expected = whole(project)[1]
    assert {query(one)["KEY"] for one in server.asked} == {KEY}
    kept = [file.read_bytes() for file in cache.glob("*/*")]
    assert any(b"?key=${TILE_KEY}" in body for body in kept)
    assert not any(part in body for body in kept for part in (b"k3y-0f", quoted.encode()))
    server.asked.clear()
    assert (whole(project)[1] == expected).all()
    assert not server.asked


def test_a_key_that_the_server_repeats_anywhere_else_keeps_its_offer_from_the_disk(case, saying, cache, monkeypatch):
    monkeypatch.setenv("TILE_KEY", KEY)
    server, say = saying
    say(("<ows:Title>Tiles of Banepa<", "<ows:Title>for k3y-0f-th3-t1l3s&amp;=<"))
    assert whole(case(**wmts(server, "/wmts?key=${TILE_KEY}"), bounds=INSIDE))[1].any()
    assert not [file for file in cache.glob("*/*") if b"k3y-0f" in file.read_bytes()]


@pytest.mark.parametrize("dollar", ["$", "&#36;", "&#x24;"])
def test_a_server_that_asks_for_what_is_in_the_environment_does_not_get_it(case, saying, monkeypatch, dollar):
    monkeypatch.setenv("OTHER_SECRET", "nobody-knows")
    server, say = saying
    say((".png", f".png?tell={dollar}{{OTHER_SECRET}}"))
    with pytest.raises(SourceError, match="names an environment variable in its capabilities"):
        whole(case(**wmts(server, DOCUMENT), bounds=INSIDE))
    assert not any("nobody-knows" in path for path in server.asked)


@pytest.mark.parametrize("path", ["/wmts", DOCUMENT])
def test_tiles_are_asked_for_by_https_where_the_offer_was(made, tmp_path, path):
    made.url = "http://map.invalid"
    body = made.capabilities(rest=path == DOCUMENT).encode()
    settings = WmtsPhoto(source="wmts", url=f"https://map.invalid{path}", layer="then")
    service = service_of(settings, body, Case(CRS_OF_CASE, INSIDE, 0.4, tmp_path))
    assert service.request((38, 25))[0].startswith("https://map.invalid/")


@pytest.mark.parametrize("place", ["{s}", "{quadkey}", "{r}"])
def test_a_template_with_another_place_to_fill_is_told(case, place):
    with pytest.raises(SettingsError, match=re.escape(f"holds {place}; write what")):
        case(source="xyz", url=f"https://tiles.invalid/{{z}}/{{x}}/{{y}}.png?a={place}")


def test_mapserver_gives_tiles_of_the_web_map(case, wms, banepa):
    """Its bilinear is not GDAL's to the bit: as by WMS, less than one grey value on average."""
    url = f"{wms.url}/?mode=tile&tilemode=gmap&layers=then&map.imagetype=png&tile={{x}}+{{y}}+{{z}}"
    project = case(source="xyz", url=url, bounds=INSIDE)
    grid, pixels = whole(project)
    with open_photo(project) as photo:
        expected = warped(banepa, photo._sources[0].service.lattice, grid)
    both = (pixels > 0) & (expected > 0)
    assert both.mean() > 0.99
    off = np.abs(pixels.astype(int) - expected)[both]
    assert off.mean() < 1
    assert np.quantile(off, 0.99) <= 5
