"""Settings: what is right is read, whatever is wrong is one sentence with the file and the key."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from historymap_lib.errors import SettingsError
from historymap_lib.project import Project, load
from historymap_lib.settings import BOUNDS, FilePhoto, OverpassFootprints, WmsPhoto

JARGON = ("pydantic", "value_error", "_type", "dictionary", "instance of", "<class", "Traceback", "ctx", "str is")
CASES = Path(__file__).parents[1] / "ml"


def refusal(file):
    """Return what `load` says, which has to be one plain line that begins with the file."""
    with pytest.raises(SettingsError) as caught:
        load(file)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    assert text.startswith(f"{file}: ")
    text = text.removeprefix(f"{file}: ")
    assert not [word for word in JARGON if word in text]
    return text


def test_a_small_case_has_every_setting_and_every_path(write_case, tmp_path):
    project = load(write_case())
    assert project.name == "town"
    assert project.photo == FilePhoto(path="photo.tif")
    assert project.tiles.size == 512
    assert project.paths.root == tmp_path
    assert project.paths.training == tmp_path / "data/town/training"
    assert project.paths.verified == tmp_path / "data/town/buildings_verified.geojson"
    assert project.paths.model == tmp_path / "models/town/best_model.pth"
    assert project.paths.probability == tmp_path / "data/town/predictions/probability.tif"
    assert project.crs.to_epsg() == 25832
    assert project.photo_name() == "photo"


@pytest.mark.parametrize("file", sorted(CASES.glob("config_*.yaml")), ids=lambda file: file.name)
def test_the_cases_that_come_with_the_project_are_valid(file):
    assert isinstance(load(file), Project)


@pytest.mark.parametrize(
    ("settings", "without", "said"),
    [
        ({"tiles.resolutoin": 1}, (), "tiles.resolutoin is not a known key; did you mean resolution?"),
        ({"footprint": {}}, (), "footprint is not a known key; did you mean footprints?"),
        ({"photo.pth": "x.tif"}, ("photo.path",), "photo.pth is not a known key; did you mean path? (and 1 more in"),
        ({"photo.file": "x.tif"}, (), "photo.file is not a known key; known: source, path, name, year"),
        ({"tiles": {3: 4}}, (), "tiles.3 is not a known key; known: size"),
        ({"tiles": {None: 4}}, (), "tiles.None is not a known key"),
        ({}, ("name",), "name is missing; add it"),
        ({}, ("area.crs",), "area.crs is missing; add it"),
        ({}, ("photo", "area"), "area is missing; add it (and 1 more in this file)"),
        ({}, ("photo.path",), "photo.path is missing; add it"),
        ({"photo": {"source": "wms", "url": "http://x"}}, (), "photo.layer is missing; add it"),
        ({"photo.source": "wms"}, (), "photo.path is not a known key; known: url, access, blank"),
        ({"photo.source": "wsm"}, (), "photo.source is 'wsm', but it should be one of 'file', 'wms'"),
        ({"footprints.source": "osm"}, (), "footprints.source is 'osm', but it should be one of 'file', 'overpass'"),
        ({"name": 1937}, (), "name is 1937, but it should be text; put it in quotes"),
        ({"name": "a/b"}, (), "name: 'a/b' is no name for files"),
        ({"name": "..", "paths": {}}, (), "name: '..' is no name for files"),
        ({"area.crs": "EPSG:4326"}, (), "area.crs: EPSG:4326 (WGS 84) counts in degree; name a projected CRS in"),
        ({"area.crs": "EPSG:2263"}, (), "counts in US survey foot"),
        ({"area.crs": "EPSG:5773"}, (), "area.crs: EPSG:5773 (EGM96 height) counts in metre; name a projected CRS"),
        ({"area.crs": "EPSG:999999"}, (), "area.crs: 'EPSG:999999' is no CRS that PROJ knows; give a code such as"),
        ({"area.crs": ""}, (), "area.crs: '' is no CRS that PROJ knows"),
        ({"area.crs": 25832}, (), "area.crs is 25832, but it should be text; put it in quotes"),
        ({"area.bounds": [10, 60, 10, 61]}, (), "area.bounds: [10.0, 60.0, 10.0, 61.0] is empty; give west, south,"),
        ({"area.bounds": [10, 61, 11, 60]}, (), "is empty"),
        ({"area.bounds": [10, 61, 11]}, (), "area.bounds: [10.0, 61.0, 11.0] has 3 numbers; give four"),
        ({"area.bounds": [10, 60, 11, "n"]}, (), "area.bounds.3 is 'n', but it should be a valid number"),
        ({"area.bounds": [10, 60, 11, math.inf]}, (), "area.bounds.3 is inf, but it should be a finite number"),
        ({"area.bounds": [math.nan, 60, 11, 61]}, (), "area.bounds.0 is nan, but it should be a finite number"),
        ({"area.bounds": "10,60,11,61"}, (), "area.bounds is '10,60,11,61', but it should be a valid list"),
        ({"area.bounds_crs": "here"}, (), "area.bounds_crs: 'here' is no CRS that PROJ knows"),
        ({"area": None}, (), "area is empty, but it should hold keys with values"),
        ({"tiles": None}, (), "tiles is empty, but it should hold keys with values"),
        ({"tiles": [1, 2]}, (), "tiles is [1, 2], but it should hold keys with values"),
        ({"photo": "photo.tif"}, (), "photo is 'photo.tif', but it should hold keys with values"),
        ({"photo.path": 3}, (), "photo.path: 3 names no file"),
        ({"photo.path": []}, (), "photo.path: [] names no file; give the path of one, or a list of paths"),
        ({"photo.path": ["a.tif", ""]}, (), "photo.path: ['a.tif', ''] names no file"),
        ({"photo.stretch": [0.9, 0.1]}, (), "photo.stretch: [0.9, 0.1] is not in order"),
        ({"photo.stretch": [1, 99]}, (), "photo.stretch.1 is 99, but it should be less than or equal to 1"),
        ({"photo.stretch": [0, 0.5, 1]}, (), "photo.stretch is [0, 0.5, 1], but it has too many values"),
        ({"photo.year": "1937"}, (), "photo.year is '1937', but it should be a valid integer"),
        ({"tiles.resolution": 0}, (), "tiles.resolution is 0, but it should be greater than 0"),
        ({"tiles.resolution": True}, (), "tiles.resolution is True, but it should be a valid number"),
        ({"tiles.resolution": math.inf}, (), "tiles.resolution is inf, but it should be a finite number"),
        ({"tiles.size": 500}, (), "tiles.size is 500, but it should be a multiple of 32"),
        ({"tiles.size": 512.5}, (), "tiles.size is 512.5, but it should be a valid integer"),
        ({"tiles.folds": 11}, (), "tiles.folds is 11, but it should be less than or equal to 10"),
        ({"training.crop": 1024}, (), "training.crop 1024 must not exceed tiles.size 512"),
        ({"training.device": "gpu"}, (), "training.device is 'gpu', but it should be 'auto', 'cpu', 'cuda' or 'mps'"),
        ({"model.widths": [16]}, (), "model: widths [16] has 1 levels; give 2 to 5"),
        ({"model.pretrained": True}, (), "model: pretrained: true goes with encoder: resnet18 only"),
        ({"verification.existed_from": 0.1}, (), "verification: not_existed_to 0.1 must be less than existed_from 0.1"),
        ({"verification.existed_from": 90}, (), "verification.existed_from is 90, but it should be less than or equal"),
        ({"paths.verified": "x.gpkg"}, (), "paths.verified: x.gpkg must end in .geojson"),
        ({"paths.root": 3}, (), "paths.root is 3, but it should be a path"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_key_and_the_way_out(write_case, settings, without, said):
    assert said in refusal(write_case(settings, without=without))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty; write the settings"),
        (b"# nothing yet\n", "is empty"),
        (b"- a\n- b\n", "the file is ['a', 'b'], but it should hold keys with values"),
        (b"town\n", "the file is 'town', but it should hold keys"),
        (b"a: [1,\n", "is no valid YAML (line 2: "),
        (b"a: b: c\n", "is no valid YAML (line 1: mapping values are not allowed here); correct that"),
        (b"a:\n\tb: 1\n", "is no valid YAML (line 2: found character '\\t'"),
        (b"a: 1\n---\nb: 2\n", "is no valid YAML (line 2: "),
        (b"a: !!python/object:os.system x\n", "is no valid YAML (line 1: could not determine a constructor"),
        (b"? [a, b]\n: 3\n", "is no valid YAML (line 1: found unhashable key)"),
        (b"name: 2020-13-45\n", "is no valid YAML (month must be in 1..12"),
        (b"name: a\nphoto: {}\nname: b\n", "is no valid YAML (line 3: name is given twice)"),
        (b"[" * 100_000, "is no valid YAML (maximum recursion depth"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is no text in UTF-8; give a YAML file"),
        (bytes(100), "is no valid YAML (unacceptable character #x0000"),
        ("name: Trondheim\n".encode("utf-16"), "is no text in UTF-8"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_file_that_is_no_mapping_in_yaml_is_refused(tmp_path, content, said):
    file = tmp_path / "case.yaml"
    file.write_bytes(content)
    assert said in refusal(file)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert refusal(tmp_path / "none.yaml") == "there is no such settings file; give one with --config"
    assert "cannot be read (Is a directory)" in refusal(tmp_path)
    assert "no such settings file" in refusal(tmp_path / "no" / "folder" / "case.yaml")


def test_a_long_wrong_value_does_not_flood_the_sentence(write_case):
    assert "..." in refusal(write_case({"tiles": "x" * 10_000}))


def test_whole_numbers_do_for_numbers_and_so_does_scientific_notation(write_case):
    file = write_case({"tiles.resolution": 1, "verification.existed_from": 1, "area.bounds": [10, 60, 11, 61]})
    file.write_text(file.read_text() + "training: {learning_rate: 2e-3}\n")
    project = load(file)
    assert (project.tiles.resolution, type(project.tiles.resolution)) == (1.0, float)
    assert project.area.bounds == [10.0, 60.0, 11.0, 61.0]
    assert project.training.learning_rate == 0.002


def test_a_file_with_a_byte_order_mark_is_read(write_case):
    file = write_case()
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load(file).name == "town"


def test_the_root_is_relative_to_the_file_and_the_paths_to_the_root(write_case, tmp_path):
    absolute = tmp_path / "elsewhere" / "model"
    project = load(
        write_case(
            {
                "paths.root": "work/../deep",
                "paths.training": "tiles_{name}",
                "paths.models": str(absolute),
                "paths.verified": "{name}/{name}.geojson",
            }
        )
    )
    assert project.paths.root == tmp_path / "deep"
    assert project.paths.training == tmp_path / "deep" / "tiles_town"
    assert project.paths.models == absolute
    assert project.paths.verified == tmp_path / "deep" / "town" / "town.geojson"
    assert project.resolve("photo.tif") == tmp_path / "deep" / "photo.tif"
    assert project.resolve("/photos/a.tif") == Path("/photos/a.tif")


def test_paths_do_not_depend_on_where_the_command_runs(write_case, tmp_path, monkeypatch):
    write_case()
    monkeypatch.chdir(tmp_path)
    project = load("case.yaml")
    assert project.paths.training == tmp_path / "data/town/training"
    assert project.file == tmp_path / "case.yaml"


def test_a_tilde_is_the_home_folder_and_else_part_of_the_name(write_case, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    project = load(write_case({"paths.training": "~/tiles"}))
    assert project.paths.training == tmp_path / "home" / "tiles"
    assert project.resolve("~/photo.tif") == tmp_path / "home" / "photo.tif"
    assert project.resolve("~1937.tif") == tmp_path / "~1937.tif"


def test_the_source_says_which_keys_a_section_has(write_case):
    wms = {"source": "wms", "url": "https://example.org/wms", "layer": "Trondheim 1937"}
    project = load(write_case({"photo": wms, "footprints": {"source": "overpass"}}))
    assert isinstance(project.photo, WmsPhoto)
    assert isinstance(project.footprints, OverpassFootprints)
    assert project.photo_name() == "Trondheim 1937"


def test_one_photo_and_several_are_both_a_list(write_case):
    assert load(write_case({"photo.path": "a.tif"})).photo.paths == ["a.tif"]
    assert load(write_case({"photo.path": ["a.tif", "b.tif"]})).photo.paths == ["a.tif", "b.tif"]


def test_settings_do_not_change_after_reading(write_case):
    project = load(write_case())
    with pytest.raises(ValidationError, match="frozen"):
        project.tiles.size = 64


def test_sections_for_a_manifest_are_strict_json_that_compares_equal(write_case):
    values = load(write_case({"photo.nodata": math.nan})).settings("photo", "tiles", "paths")
    assert set(values) == {"photo", "tiles", "paths"}
    assert json.loads(json.dumps(values, allow_nan=False)) == values


KEYS = st.sampled_from(
    ["name", "area", "crs", "bounds", "photo", "source", "path", "footprints", "tiles", "paths", "x"]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.text("aé~.:/{}* \n", max_size=5)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=BOUNDS) | st.dictionaries(KEYS | LEAVES, inner), max_leaves=12
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(section=st.sampled_from(["area", "photo", "footprints", "tiles", "model", "paths", "name"]), value=TREES)
def test_no_value_whatsoever_ends_in_anything_but_settings_or_a_sentence(tmp_path, write_case, section, value):
    file = write_case()
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), section: value}), encoding="utf-8")
    try:
        load(file)
    except SettingsError as error:
        assert str(error).startswith(f"{file}: ")  # noqa: PT017 - either is right


def test_a_u_net_that_begins_from_nothing_learns_longer_unless_told_how_long(write_case):
    assert load(write_case()).training.epochs == 10
    assert load(write_case({"model.encoder": "resnet18"})).training.epochs == 80
    assert load(write_case({"model.widths": [8, 16]})).training.epochs == 80
    assert load(write_case({"model.widths": [8, 16], "training.epochs": 3})).training.epochs == 3
