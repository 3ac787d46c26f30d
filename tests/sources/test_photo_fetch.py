"""`historymap photo fetch`: the whole photo once, resumable, whole or not at all; every step reads the copy then."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from map_server import NORTH, SOUTH, query
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from historymap_lib import http, photo_fetch
from historymap_lib.artifacts import read_manifest
from historymap_lib.cli import main
from historymap_lib.errors import PhotoError, SourceError
from historymap_lib.imagery import fetched, open_photo, photo_files
from historymap_lib.photo_fetch import fetch


def whole(project, **options):
    with open_photo(project, **options) as photo:
        return photo.grid, photo.read(Window(0, 0, photo.grid.width, photo.grid.height))[0]


@pytest.fixture(params=["EPSG:32645", "EPSG:4326"])
def project(request, case, wms):
    """Return a case by WMS, on the lattice of the case and on another."""
    return case(source="wms", url=wms.url, layer="then", crs=request.param, access={"connections": 3})


def test_the_copy_has_the_pixels_of_the_server_and_is_used_by_everyone(project, wms, monkeypatch):
    grid, expected = whole(project)
    monkeypatch.setattr(photo_fetch, "CHUNK", 700)
    made = fetch(project)
    assert made.path == project.paths.photo == fetched(project)
    assert photo_files(project) == [made.path]
    wms.asked.clear()
    again, pixels = whole(project)
    assert not wms.asked
    assert (again.transform, again.width, again.height) == (grid.transform, grid.width, grid.height)
    assert ((pixels > 0) != (expected > 0)).mean() < 1e-4
    assert np.abs(pixels.astype(int) - expected)[(pixels > 0) & (expected > 0)].max() <= 2
    valid, errors, warnings = cog_validate(made.path)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(made.path) as file:
        assert file.overviews(1) == [2, 4]


def test_it_is_made_once_and_anew_only_if_asked_for(project, wms):
    fetch(project)
    wms.asked.clear()
    assert fetch(project).summary.endswith("is up to date; ask for it again with --fresh")
    assert not wms.asked
    assert fetch(project, fresh=True).summary.endswith("x 1361 pixels, 97.6% of the area")
    assert len(wms.asked) == len(wms.pictures()) + 1 > 10


def test_a_copy_for_another_area_or_photo_is_none(case, wms):
    settings = {"source": "wms", "url": wms.url, "layer": "then"}
    fetch(case(**settings))
    assert fetched(case(**settings, name="banepa")) is not None
    assert fetched(case(**settings, name="banepa", year=1937, access={"connections": 2})) is not None
    assert fetched(case(**settings, resolution=0.5)) is None
    assert fetched(case(**settings, bounds=(353900, SOUTH, 354000, NORTH))) is None
    assert fetched(case(**settings | {"layer": "snapped"})) is None
    kept = fetched(case(**settings))
    kept.write_bytes(b"cut")
    assert fetched(case(**settings)) is None


def test_a_fetch_that_was_broken_off_goes_on(project, wms, monkeypatch):
    monkeypatch.setattr(http, "TRIES", 2)
    allowed = iter(range(8))

    def fault(handler):
        return "GetMap" in handler.path and next(allowed, None) is None and (handler.give(500) or True)

    wms.fault = fault
    with pytest.raises(SourceError, match="answered 500"):
        fetch(project)
    assert not project.paths.photo.exists()
    assert not list(project.paths.photo.parent.iterdir())
    with open_photo(project) as photo:
        needed = photo.remote.count(Window(0, 0, photo.grid.width, photo.grid.height))
        kept = sum(not path.name.startswith(".") for path in photo.remote.cache.folder.iterdir())
    wms.fault = None
    wms.asked.clear()
    fetch(project)
    assert 0 < len(set(wms.asked)) <= needed - kept < needed
    assert fetched(project) is not None


def test_a_disk_without_room_is_told_before(project, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(PhotoError, match=r"has room for 1 MB, and the photo may need \d MB; make room, or set"):
        fetch(project)


def test_an_area_where_the_server_has_nothing_is_told(case, wms):
    corner = case(source="wms", url=wms.url, layer="then", bounds=(353875, 3057560, 353879, 3057564))
    with pytest.raises(PhotoError, match=r"the server has nothing in the area; compare area\.bounds with"):
        fetch(corner)
    assert not corner.paths.photo.exists()


def test_the_photo_of_a_file_is_not_fetched(case, banepa):
    with pytest.raises(PhotoError, match=r"the photo is a file already"):
        fetch(case(path=str(banepa)))


def test_secrets_are_sent_and_appear_nowhere(case, wms, tmp_path, monkeypatch, capfd):
    key, header, password = "k3y-0f-th3-m4p&=", "h34d3r-s3cr3t", "p4ssw0rd-s3cr3t"
    for name, value in {"MAP_KEY": key, "MAP_HEADER": header, "MAP_PASSWORD": password}.items():
        monkeypatch.setenv(name, value)
    access = {"parameters": {"token": "${MAP_KEY}"}, "headers": {"X-Key": "${MAP_HEADER}"}, "user": "me"}
    access |= {"password": "${MAP_PASSWORD}", "connections": 2}
    url = f"{wms.url}/${{MAP_KEY}}/wms?apikey=${{MAP_KEY}}"
    project = case(source="wms", url=url, layer="then", access=access)
    assert main(["photo", "fetch", "--config", str(project.file)]) == 0
    assert {query(path)["TOKEN"] for path in wms.asked} == {query(path)["APIKEY"] for path in wms.asked} == {key}
    assert {one["X-Key"] for one in wms.headers} == {header}
    assert all(one["Authorization"].startswith("Basic ") for one in wms.headers)

    def echo(handler):
        said = f"who is {handler.path} with {handler.headers['X-Key']} and {key}?"
        handler.give(403, body=said.encode())
        return True

    wms.fault = echo
    assert main(["photo", "fetch", "--fresh", "--config", str(project.file)]) == 2
    out, err = capfd.readouterr()
    assert "answered 403 Forbidden: who is" in err
    written = [*tmp_path.rglob("*")]
    assert any(path.name.endswith(".manifest.json") for path in written)
    said = [out.encode(), err.encode(), *(str(path).encode() for path in written)]
    said += [path.read_bytes() for path in written if path.is_file()]
    said.append(json.dumps(read_manifest(project.paths.photo)).encode())
    for secret in (key, key[:-2], header, password):
        assert not any(secret.encode() in one for one in said)
