"""Photos that come in tiles: a WMTS by parameters and by paths, and the tiles of web maps."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from comparing import warped, whole
from map_server import EAST, NORTH, SOUTH, WEST, query, serving
from PIL import Image
from rasterio.warp import transform_bounds
from tile_server import SETS, Tiles, picture

from historymap_lib.errors import PhotoError, SettingsError, SourceError
from historymap_lib.imagery import open_photo
from historymap_lib.photo_fetch import fetch
from historymap_lib.photo_info import ask as offered
from historymap_lib.settings import Access

INSIDE = (353950, 3057100, 354150, 3057300)


@pytest.fixture(scope="module")
def running(snapped):
    """Return a server of tiles of the photo whose pixels begin at the origin of the CRS."""
    degrees = transform_bounds("EPSG:32645", "EPSG:4326", WEST, SOUTH, EAST, NORTH)
    made = Tiles(snapped, degrees)
    with serving(made.answer) as server:
        made.url = server.url
        yield server


@pytest.fixture
def tiles(running):
    """Return it as new."""
    running.fault = None
    running.asked.clear()
    running.headers.clear()
    return running


def xyz(server, path="/xyz/{z}/{x}/{y}.png", **more):
    return {"source": "xyz", "url": server.url + path} | more


def wmts(server, path="/wmts", **more):
    return {"source": "wmts", "url": server.url + path, "layer": "then"} | more


def compare(project, path, *, mean=1.0, most=6):
    """Compare with the file after the same warp; what differs is the edge, where averaging meets no data."""
    grid, pixels = whole(project)
    with open_photo(project) as photo:
        expected = warped(path, photo._sources[0].service.lattice, grid)
    both = (pixels > 0) & (expected > 0)
    assert both.sum() > 0.995 * (expected > 0).sum() > 0
    off = np.abs(pixels.astype(int) - expected)[both]
    assert off.mean() < mean
    assert np.quantile(off, 0.99) <= most
    beside = np.abs(pixels[:, 1:].astype(int) - expected[:, :-1])[both[:, 1:] & both[:, :-1]]
    assert off.mean() < beside.mean() / 5


@pytest.mark.parametrize("path", ["/wmts", "/wmts/1.0.0/WMTSCapabilities.xml"], ids=["parameters", "paths"])
def test_in_the_crs_of_the_case_the_pixels_are_those_of_the_file(case, tiles, snapped, path):
    _, pixels = whole(case(**wmts(tiles, path)))
    _, expected = whole(case(path=str(snapped), name="file"))
    assert (pixels[: len(expected), : expected.shape[1]] == expected).all()
    assert expected.any()


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("path", ["/wmts", "/wmts/1.0.0/WMTSCapabilities.xml"], ids=["parameters", "paths"])
def test_in_any_matrix_set_the_pixels_are_those_of_the_file_after_the_same_warp(case, tiles, snapped, name, path):
    compare(case(**wmts(tiles, path, matrix_set=name), bounds=INSIDE), snapped)


@pytest.mark.parametrize("path", ["/xyz/{z}/{x}/{y}.png", "/tms/{z}/{x}/{-y}.png"])
def test_tiles_of_the_web_map_have_the_pixels_of_the_file_after_the_same_warp(case, tiles, snapped, path):
    compare(case(**xyz(tiles, path)), snapped)


def test_jpeg_tiles_are_nearly_those_of_the_file(case, tiles, snapped):
    compare(case(**xyz(tiles, "/xyz/{z}/{x}/{y}.jpg"), bounds=INSIDE), snapped, mean=2.5, most=12)
    tiles.asked.clear()
    compare(case(**wmts(tiles, format="image/jpeg"), bounds=INSIDE, name="by"), snapped, mean=2.5, most=12)
    assert {query(path)["FORMAT"] for path in tiles.pictures()} == {"image/jpeg"}


@pytest.mark.parametrize(
    ("resolution", "more", "zoom"),
    [(0.5, {}, 18), (0.4, {}, 19), (0.25, {}, 19), (0.5, {"max_zoom": 17}, 17), (0.5, {"zoom": 16}, 16), (2.0, {}, 16)],
)
def test_the_zoom_is_the_first_that_loses_nothing(case, tiles, resolution, more, zoom):
    """A pixel of zoom 18 is 0.53 m at 27.6 degrees north: more than a tenth coarser than 0.4, but not than 0.5."""
    whole(case(**xyz(tiles, **more), bounds=INSIDE, resolution=resolution))
    assert {int(path.split("/")[2]) for path in tiles.asked} == {zoom}


@pytest.mark.parametrize(("resolution", "matrix"), [(0.4, "fine"), (0.8, "coarse"), (2.0, "coarse"), (0.1, "fine")])
def test_the_matrix_is_the_coarsest_that_loses_nothing(case, tiles, resolution, matrix):
    whole(case(**wmts(tiles), bounds=INSIDE, resolution=resolution))
    assert {query(path)["TILEMATRIX"] for path in tiles.pictures()} == {matrix}


def test_nothing_is_asked_for_outside_the_limits_of_the_matrix(case, tiles):
    """The server of this test answers such with 400, which would be told."""
    around = (WEST - 300, SOUTH - 300, EAST + 300, NORTH + 300)
    _, pixels = whole(case(**wmts(tiles), bounds=around))
    assert (pixels > 0).any()
    places = {(int(query(path)["TILECOL"]), int(query(path)["TILEROW"])) for path in tiles.pictures()}
    assert {column for column, _ in places} <= set(range(37, 42))
    assert {row for _, row in places} <= set(range(23, 30))


def test_default_style_and_dimensions_are_those_that_the_server_names(case, tiles):
    whole(case(**wmts(tiles), bounds=INSIDE))
    assert {(query(path)["STYLE"], query(path)["TIME"]) for path in tiles.pictures()} == {("plain", "1937")}
    tiles.asked.clear()
    whole(case(**wmts(tiles, "/wmts/1.0.0/WMTSCapabilities.xml"), bounds=INSIDE))
    assert all(path.startswith("/rest/then/plain/1937/UTM45/fine/") for path in tiles.asked if "Capab" not in path)


@pytest.mark.parametrize("status", [404, 204])
def test_a_tile_that_is_not_there_is_no_data_and_the_others_are(case, tiles, status):
    _, there = whole(case(**wmts(tiles), bounds=INSIDE))
    gone = min(tiles.pictures())
    tiles.fault = lambda handler: handler.path.replace("again=1&", "") == gone and (handler.give(status) or True)
    again = case(**wmts(tiles, "/wmts?again=1"), bounds=INSIDE, name="again")
    _, pixels = whole(again)
    lost = (pixels == 0) & (there > 0)
    assert 0.05 < lost.mean() < 0.5
    assert (pixels[~lost] == there[~lost]).all()
    tiles.asked.clear()
    assert (whole(again)[1] == pixels).all()
    assert not tiles.asked  # also that there is nothing is remembered


LARGE = np.full((512, 512), 9, np.uint8)
NOISE = np.random.default_rng(1).integers(1, 255, (256, 256), np.uint8)
FAULTS = {
    "a page": ((200, "text/html", b"<html><body>Sorry, no tiles today</body></html>"), "Sorry, no tiles today"),
    "an exception": (
        (200, "text/xml", b"<ExceptionReport><Exception exceptionCode='InvalidParameterValue'/></ExceptionReport>"),
        "InvalidParameterValue",
    ),
    "a page as a picture": ((200, "image/png", b"<html><body>Sorry</body></html>"), "Sorry"),
    "another size": ((200, "image/png", picture(LARGE)), "512 x 512 pixels, not of 256 x 256"),
    "half a picture": ((200, "image/png", picture(NOISE)[:9000]), "breaks off"),
    "nothing": ((200, "image/png", b""), "nothing"),
    "forbidden": ((403, "text/plain", b"no key given"), "403 Forbidden: no key given"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("source", [xyz, wmts])
def test_what_is_no_tile_is_told_in_one_sentence_and_never_kept(case, tiles, cache, name, source):
    answer, said = FAULTS[name]
    tiles.fault = lambda handler: "GetCapabilities" not in handler.path and (handler.give(*answer) or True)
    project = case(**source(tiles, access={"patience": 3}), bounds=INSIDE)
    with pytest.raises(SourceError, match=re.escape(said)) as told:
        whole(project)
    assert str(told.value).startswith("127.0.0.1:")
    assert "\n" not in str(told.value)
    assert not [file for file in cache.glob("*/*_*") if not _is_good(file)]
    tiles.fault = None
    _, pixels = whole(project)
    assert (pixels > 0).mean() > 0.99
    assert all(map(_is_good, cache.glob("*/*_*")))


def _is_good(file):
    """Say whether a file of the cache is a whole tile, after its checksum."""
    with Image.open(io.BytesIO(file.read_bytes()[16:])) as image:
        image.load()
        return image.size == (256, 256)


def test_what_was_fetched_is_there_without_the_server(case, snapped):
    degrees = transform_bounds("EPSG:32645", "EPSG:4326", WEST, SOUTH, EAST, NORTH)
    made = Tiles(snapped, degrees)
    with serving(made.answer) as server:
        made.url = server.url
        projects = [case(**xyz(server), bounds=INSIDE), case(**wmts(server), bounds=INSIDE, name="by")]
        before = [whole(project)[1] for project in projects]
    after = [whole(project)[1] for project in projects]
    assert all((one == other).all() for one, other in zip(before, after, strict=True))


def test_a_tile_server_is_fetched_as_a_file_of_the_case(case, tiles):
    project = case(**xyz(tiles))
    _, before = whole(project)
    fetch(project)
    tiles.fault = lambda handler: handler.give(500) or True
    _, after = whole(project)
    assert (before == after).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layer": "them"}, r"has no layer them; did you mean then\?"),
        ({"matrix_set": "Mars"}, r"no matrix set Mars; set photo\.matrix_set to one of GoogleMapsCompatible, UTM45"),
        ({"style": "light"}, r"photo\.style light is not offered; set it to one of plain, dark"),
    ],
)  # fmt: skip
def test_what_the_server_does_not_have_is_told_with_what_it_has(case, tiles, settings, said):
    with pytest.raises(PhotoError, match=said):
        open_photo(case(**(wmts(tiles) | settings)))


def test_a_case_without_bounds_has_those_of_the_layer_but_tiles_of_the_web_map_need_some(case, tiles):
    with open_photo(case(**wmts(tiles), bounds=None)) as photo:
        assert photo.grid.bounds == pytest.approx((WEST, SOUTH, EAST, NORTH), abs=12)
    with pytest.raises(PhotoError, match=r"set area\.bounds"):
        open_photo(case(**xyz(tiles), bounds=None))
    degrees = transform_bounds("EPSG:32645", "EPSG:4326", *INSIDE)
    with open_photo(case(**xyz(tiles, photo_bounds=list(degrees)), bounds=None)) as photo:
        assert photo.grid.bounds == pytest.approx(INSIDE, abs=3)


@pytest.mark.parametrize("body", [b"<html>no</html>", b"<Capabilities><Contents>", b"", b"<Capabilities/>"])
def test_capabilities_that_are_none_are_told(case, tiles, body):
    tiles.fault = lambda handler: handler.give(200, "text/xml", body) or True
    with pytest.raises(SourceError):
        open_photo(case(**wmts(tiles, access={"patience": 2})))
    tiles.fault = None
    assert (whole(case(**wmts(tiles), bounds=INSIDE))[1] > 0).mean() > 0.99


@pytest.mark.parametrize(
    "url", ["https://example.org/{z}/{x}.png", "https://example.org/{z}/{x}/{y}/{-y}", "tiles/{z}"]
)
def test_an_address_that_is_none_of_tiles_is_told(case, url):
    with pytest.raises(SettingsError, match=r"photo\.url"):
        case(source="xyz", url=url)


def test_a_key_in_the_address_is_written_nowhere(case, tiles, cache, monkeypatch):
    monkeypatch.setenv("TILE_KEY", "very-secret-9")
    project = case(**xyz(tiles, "/xyz/{z}/{x}/{y}.png?key=${TILE_KEY}"), bounds=INSIDE)
    fetch(project)
    assert all(path.endswith("?key=very-secret-9") for path in tiles.asked)
    told = json.dumps([str(path) for path in (*cache.rglob("*"), *project.paths.root.rglob("*"))])
    assert "very-secret-9" not in told
    for file in (*cache.rglob("*"), *project.paths.root.rglob("*")):
        assert file.is_dir() or b"very-secret-9" not in file.read_bytes()
    tiles.fault = lambda handler: handler.give(403, "text/plain", b"very-secret-9 is no key") or True
    with pytest.raises(SourceError) as error:
        fetch(project, fresh=True)
    assert "very-secret-9" not in str(error.value)


def test_its_layers_are_listed(tiles, tmp_path):
    for path in ("/wmts", "/wmts/1.0.0/WMTSCapabilities.xml"):
        offer = offered(tiles.url + path, Access(), tmp_path)
        (layer,) = offer.layers
        assert (offer.source, offer.title, layer.name, layer.title) == (
            "wmts",
            "Tiles of Banepa",
            "then",
            "Banepa then",
        )
        assert layer.crs == tuple(crs for crs, _, _ in SETS.values())
        assert layer.resolution == pytest.approx(0.2986, abs=0.001)
