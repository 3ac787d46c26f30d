"""What a server offers, and a first look at a photo: enough to write the settings of a case."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import yaml
from map_server import EAST, NORTH, SOUTH, WEST, serving
from PIL import Image

from historymap_lib import cli
from historymap_lib.errors import PhotoError, SourceError
from historymap_lib.imagery import open_photo
from historymap_lib.photo_fetch import fetch
from historymap_lib.photo_info import describe
from historymap_lib.photo_preview import preview
from historymap_lib.project import load


def run(capsys, *words):
    code = cli.main([str(word) for word in words])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_layers_of_a_server_are_listed_with_crs_and_extent(wms, capsys):
    code, out, _ = run(capsys, "photo", "info", f"{wms.url}/?SERVICE=WMS&REQUEST=GetMap&LAYERS=x")
    assert code == 0
    assert out.startswith("WMS Banepa: 3 layers, ")
    assert "then  (Banepa then)\n    EPSG:32645" in out
    assert re.search(r"west 85\.5\d+, south 27\.6\d+, east 85\.5\d+, north 27\.6\d+", out)
    assert "image/png" in out


def test_what_it_says_of_one_layer_can_be_written_into_the_settings_as_it_stands(wms, capsys, tmp_path):
    _, out, _ = run(capsys, "photo", "info", wms.url, "--layer", "SNAPPED")
    values = yaml.safe_load(out.split("in the settings of a case:", 1)[1])
    area = {"crs": "EPSG:32645", "bounds": [WEST, SOUTH, EAST, NORTH], "bounds_crs": "EPSG:32645"}
    values |= {"name": "banepa", "area": area, "footprints": {"path": "none.geojson"}, "tiles": {"resolution": 0.4}}
    file = tmp_path / "case.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    with open_photo(load(file)) as photo:
        assert photo.read(photo_window(photo))[1].mean() > 0.9


def photo_window(photo):
    from rasterio.windows import Window  # noqa: PLC0415 - here alone

    return Window(200, 200, 300, 300)


def test_the_list_is_there_for_programs_too(wms, capsys):
    _, out, _ = run(capsys, "photo", "info", wms.url, "--json")
    told = json.loads(out)
    assert told["source"] == "wms"
    assert {one["name"] for one in told["layers"]} == {"banepa", "then", "snapped"}
    west, south, east, north = next(one["bounds"] for one in told["layers"] if one["name"] == "then")
    assert west < 85.52 < east
    assert south < 27.63 < north


def test_a_layer_that_is_not_there_and_addresses_that_list_nothing_are_told_in_a_sentence(wms, capsys):
    code, out, error = run(capsys, "photo", "info", wms.url, "--layer", "1947")
    assert (code, "has no layer like '1947'" in error) == (2, True)
    assert "Traceback" not in out + error
    code, _, error = run(capsys, "photo", "info", "https://example.org/{z}/{x}/{y}.png")
    assert (code, "photo preview shows them" in error) == (2, True)
    with serving(lambda _: (200, "text/html", b"<html><body>Welcome to our hotel</body></html>")) as hotel:
        code, _, error = run(capsys, "photo", "info", hotel.url)
        assert len(hotel.asked) == 2
    assert code == 2
    assert "Welcome to our hotel" in error


def test_of_a_case_it_says_what_is_asked_and_how_much_of_it(case, wms, capsys):
    project = case(source="wms", url=wms.url, layer="snapped", year=1937)
    told = describe(project)
    assert told["asked_in"] == {"crs": "EPSG:32645", "pixel": 0.4, "block": 512}
    assert told["copy"] is None
    wms.asked.clear()
    fetch(project)
    assert len(wms.pictures()) == told["requests"]
    code, out, _ = run(capsys, "photo", "info", "--config", project.file)
    assert code == 0
    assert out.startswith(f"snapped, 1937: {wms.url}")
    assert f"copy: {project.paths.photo}" in out


def test_of_a_file_it_says_size_crs_and_extent(case, banepa, capsys):
    project = case(path=str(banepa))
    _, out, _ = run(capsys, "photo", "info", "--config", project.file)
    assert "pixels of 0.4 in EPSG:32645" in out
    assert "no data: 0.0" in out
    _, out, _ = run(capsys, "photo", "info", "--json", "--config", project.file)
    assert json.loads(out)["files"][0]["bands"] == 1


def test_a_preview_asks_little_of_the_server_and_shows_the_photo(case, wms, banepa):
    project = case(source="wms", url=wms.url, layer="then", resolution=0.05)
    made = preview(project)
    assert len(wms.pictures()) < 20  # at the resolution of the case it would be some 400
    with Image.open(made.path) as image:
        shown = np.asarray(image.convert("L"))
    assert shown.std() > 30
    assert made.covered > 0.95
    assert made.buildings is None
    file = preview(case(path=str(banepa), name="file"))
    with Image.open(file.path) as image:
        other = np.asarray(image.convert("L"))
    assert shown.shape == other.shape
    inner = np.s_[100:-100, 100:-100]
    assert abs(shown[inner].astype(int) - other[inner]).mean() < 12


def test_a_preview_has_the_buildings_that_are_at_hand(case, wms, shared_data):
    project = case(source="wms", url=wms.url, layer="then")
    plain = preview(project).path.read_bytes()
    content = (shared_data / "banepa" / "footprints.geojson").read_bytes()
    (project.paths.root / "footprints.geojson").write_bytes(content)
    made = preview(project)
    assert made.buildings > 100
    assert made.path.read_bytes() != plain
    assert "of today's buildings" in made.summary


def test_a_preview_uses_the_copy_of_the_photo(case, wms):
    project = case(source="wms", url=wms.url, layer="snapped")
    fetch(project)
    asked = len(wms.asked)
    preview(project)
    assert len(wms.asked) == asked


def test_a_preview_of_nothing_is_none(case, wms):
    bounds = (EAST + 5000, SOUTH, EAST + 5400, NORTH)
    project = case(source="wms", url=wms.url, layer="then", bounds=bounds)
    with pytest.raises(PhotoError, match="outside the photo"):
        preview(project)
    assert not project.paths.photo.with_name("preview.png").exists()


def test_a_preview_goes_where_it_is_told_and_nowhere_else(case, banepa, tmp_path, capsys):
    project = case(path=str(banepa))
    code, out, _ = run(capsys, "photo", "preview", "--config", project.file, "--output", tmp_path / "look.png")
    assert (code, (tmp_path / "look.png").exists()) == (0, True)
    assert str(tmp_path / "look.png") in out
    code, _, error = run(capsys, "photo", "preview", "--config", project.file, "--output", tmp_path / "look.jpg")
    assert (code, "must end in .png" in error) == (2, True)


def test_a_server_that_is_not_there_is_told_in_a_sentence(case):
    project = case(source="wms", url="http://127.0.0.1:1/wms", layer="then", access={"patience": 0.2})
    with pytest.raises(SourceError, match="refuses the connection"):
        preview(project)
