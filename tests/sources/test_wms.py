"""A photo by WMS: the pixels of the server's file, in every version and CRS; from the cache, also offline."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from comparing import warped, whole
from map_server import EAST, NORTH, SOUTH, WEST, query
from PIL import Image
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from historymap_lib.errors import PhotoError, SourceError
from historymap_lib.imagery import open_photo, photo_files

VERSIONS = ["1.1.1", "1.3.0"]
INSIDE = (353900, 3057100, 354200, 3057400)


@pytest.mark.parametrize("version", VERSIONS)
def test_in_the_crs_of_the_case_the_pixels_are_those_of_the_file(case, wms, snapped, version):
    _, pixels = whole(case(source="wms", url=wms.url, layer="snapped", version=version))
    _, expected = whole(case(path=str(snapped), name="file"))
    assert (pixels[: len(expected), : expected.shape[1]] == expected).all()
    assert expected.any()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("crs", ["EPSG:32645", "EPSG:4326", "EPSG:3857"])
def test_in_any_crs_the_pixels_are_those_of_the_file_after_the_same_warp(case, wms, banepa, version, crs):
    """MapServer's bilinear is not GDAL's to the bit: 0.7 grey values on average, less than a tenth of a pixel."""
    project = case(source="wms", url=wms.url, layer="then", version=version, crs=crs)
    grid, pixels = whole(project)
    with open_photo(project) as photo:
        expected = warped(banepa, photo._sources[0].service.lattice, grid)
    both = (pixels > 0) & (expected > 0)
    assert both.sum() > 0.999 * (expected > 0).sum()
    assert ((pixels > 0) & (expected == 0)).mean() < 0.001
    off = np.abs(pixels.astype(int) - expected)[both]
    assert off.mean() < 1
    assert np.quantile(off, 0.99) <= 4
    beside = np.abs(pixels[:, 1:].astype(int) - expected[:, :-1])[both[:, 1:] & both[:, :-1]]
    assert off.mean() < beside.mean() / 5  # one pixel to the side is something else


def test_axes_are_turned_where_the_version_and_the_crs_want_it(case, wms):
    boxes = {}
    for version in VERSIONS:
        for crs in ("EPSG:4326", "EPSG:3857", "EPSG:32645"):
            wms.asked.clear()
            whole(case(source="wms", url=wms.url, layer="then", version=version, crs=crs, bounds=INSIDE))
            asked = [query(path) for path in wms.pictures()]
            assert {one["VERSION"] for one in asked} == {version}
            assert {one.get("CRS") or one.get("SRS") for one in asked} == {crs}
            boxes[version, crs] = {tuple(map(float, one["BBOX"].split(","))) for one in asked}
    assert {(b, a, d, c) for a, b, c, d in boxes["1.1.1", "EPSG:4326"]} == boxes["1.3.0", "EPSG:4326"]
    assert boxes["1.1.1", "EPSG:3857"] == boxes["1.3.0", "EPSG:3857"]
    assert boxes["1.1.1", "EPSG:32645"] == boxes["1.3.0", "EPSG:32645"]


@pytest.mark.parametrize(("case_crs", "asked"), [("EPSG:32645", "EPSG:32645"), ("EPSG:32644", "EPSG:3857")])
def test_the_crs_of_the_case_is_asked_for_if_the_server_has_it_and_else_the_web_map(case, wms, case_crs, asked):
    bounds = transform_bounds("EPSG:32645", case_crs, *INSIDE)
    _, pixels = whole(case(source="wms", url=wms.url, layer="then", bounds=bounds, case_crs=case_crs))
    assert (pixels > 0).mean() > 0.9
    assert {query(path)["CRS"] for path in wms.pictures()} == {asked}


@pytest.mark.parametrize("crs", ["EPSG:32645", "EPSG:4326"])
def test_neighbouring_windows_have_no_seam(case, wms, crs):
    project = case(source="wms", url=wms.url, layer="then", crs=crs)
    _, pixels = whole(project)
    with open_photo(project) as photo:
        parts = [[photo.read(Window(x, y, 259, 340))[0] for x in range(0, 1033, 259)] for y in range(0, 1361, 340)]
    together = np.block(parts)[: pixels.shape[0], : pixels.shape[1]]
    assert ((together > 0) != (pixels > 0)).mean() < 1e-4  # the edge of the photo falls on one side or the other
    off = np.abs(together.astype(int) - pixels)[(together > 0) & (pixels > 0)]
    assert off.max() <= 2
    assert off.mean() < 0.05


def test_a_window_over_the_edge_is_padded(case, wms):
    with open_photo(case(source="wms", url=wms.url, layer="snapped", bounds=INSIDE)) as photo:
        inner, _ = photo.read(Window(0, 0, 64, 64))
        over, valid = photo.read(Window(-3000, -3000, 3064, 3064))
    assert (over[3000:, 3000:] == inner).all()
    assert not valid[:1000, :1000].any()


def test_without_bounds_the_area_is_that_of_the_layer(case, wms):
    with open_photo(case(source="wms", url=wms.url, layer="then", bounds=None)) as photo:
        west, south, east, north = photo.grid.bounds
    assert (west, south, east, north) == pytest.approx((WEST, SOUTH, EAST, NORTH), abs=10)


def test_an_area_outside_is_refused(case, wms):
    bounds = (400000, 3057100, 400300, 3057400)
    with pytest.raises(PhotoError, match=r"area.bounds .* lies outside the photo layer then of http"):
        open_photo(case(source="wms", url=wms.url, layer="then", bounds=bounds))


def test_an_unknown_layer_is_refused_with_the_one_that_is_like_it(case, wms):
    with pytest.raises(PhotoError, match=r"has no layer them; did you mean then\?"):
        open_photo(case(source="wms", url=wms.url, layer="them"))


def test_a_format_that_the_server_does_not_give_is_refused(case, wms):
    def fault(handler):
        status, kind, body = wms.answer(handler.path)
        handler.give(status, kind, body.replace(b"image/tiff", b"image/none"))
        return True

    wms.fault = fault
    with pytest.raises(PhotoError, match=r"does not give image/tiff; set photo.format to one of image/png, image/jpeg"):
        open_photo(case(source="wms", url=wms.url, layer="then", format="image/tiff"))


@pytest.mark.parametrize(("kind", "loss"), [("image/tiff", 0), ("image/jpeg", 6)])
def test_other_formats_differ_by_what_they_lose(case, wms, snapped, kind, loss):
    _, pixels = whole(case(source="wms", url=wms.url, layer="snapped", format=kind, bounds=INSIDE))
    _, expected = whole(case(path=str(snapped), name="file", bounds=INSIDE))
    pixels = pixels[: expected.shape[0], : expected.shape[1]]
    off = np.abs(pixels.astype(int) - expected)[(expected > 0) & (pixels > 0)]
    assert off.mean() <= loss


@pytest.mark.parametrize("shade", ["white", "black"])
@pytest.mark.parametrize("blank", ["keep", "white", "black", "both"])
def test_a_white_or_black_picture_is_no_data_only_if_the_settings_say_so(case, wms, shade, blank):
    body = io.BytesIO()
    Image.new("RGB", (512, 512), shade).save(body, "PNG")

    def fault(handler):
        if "GetMap" in handler.path:
            handler.give(200, "image/png", body.getvalue())
            return True
        return False

    wms.fault = fault
    _, pixels = whole(case(source="wms", url=wms.url, layer="then", blank=blank, bounds=INSIDE))
    assert (pixels == {"white": 255, "black": 1}[shade] * (blank not in (shade, "both"))).all()


def test_nothing_is_asked_for_twice_also_for_another_area(case, wms):
    settings = {"source": "wms", "url": wms.url, "layer": "then"}
    whole(case(**settings))
    before = len(wms.asked)
    assert before == len(set(wms.asked))
    whole(case(**settings))
    whole(case(**settings, bounds=INSIDE))
    assert len(wms.asked) == before


def test_what_was_fetched_serves_without_a_server(case, wms):
    _, pixels = whole(case(source="wms", url=wms.url, layer="then"))

    def fault(handler):
        handler.connection.close()
        return True

    wms.fault = fault
    again = case(source="wms", url=wms.url, layer="then", access={"patience": 1})
    assert (whole(again)[1] == pixels).all()


def test_another_layer_or_version_is_another_source(case, wms):
    whole(case(source="wms", url=wms.url, layer="then", bounds=INSIDE))
    wms.asked.clear()
    whole(case(source="wms", url=wms.url, layer="snapped", bounds=INSIDE))
    assert wms.pictures()


def test_a_photo_by_a_server_is_no_file(case, wms):
    assert photo_files(case(source="wms", url=wms.url, layer="then")) == []


def test_what_people_copy_along_with_an_address_does_not_disturb(case, wms):
    copied = f"{wms.url}/?SERVICE=WMS&REQUEST=GetCapabilities&version=1.1.1&more=1"
    _, pixels = whole(case(source="wms", url=copied, layer="then", bounds=INSIDE))
    assert pixels.any()
    assert {query(path)["MORE"] for path in wms.asked} == {"1"}


def test_settings_for_manifests_have_no_pace(case):
    project = case(source="wms", url="https://example.org", layer="a", access={"connections": 3, "user": "${ME}"})
    assert json.dumps(project.settings("photo")["photo"]["access"]) == (
        '{"headers": {}, "parameters": {}, "user": "${ME}", "password": null}'
    )


def test_a_server_that_is_not_there_is_one_sentence(case):
    project = case(source="wms", url="http://127.0.0.1:9/wms", layer="then", access={"patience": 1})
    with pytest.raises(SourceError, match=r"^127.0.0.1:9 refuses the connection .*; try again later$"):
        open_photo(project)
