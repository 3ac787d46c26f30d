"""photo align: shifts that were put in are found, nothing is invented, and the steps use what is stored."""

from __future__ import annotations

import json
import re

import geopandas as gpd
import numpy as np
import pytest
import shapely
from case_fixtures import (
    NORTH,
    RESOLUTION,
    SIZE,
    WEST,
    change,
    lattice,
    make_case,
    rectangle,
    seen,
    write_footprints,
    write_photo,
    write_probability,
)
from shapely.affinity import translate

from historymap_lib import artifacts, cli, offsets, sample, steps
from historymap_lib.alignment import Offsets, moved
from historymap_lib.errors import PhotoError, SettingsError
from historymap_lib.footprint_source import load_footprints
from historymap_lib.offsets import in_words
from historymap_lib.photo_align import _in_words, align
from historymap_lib.project import load
from historymap_lib.training_data import generate, read_tile
from historymap_lib.verification import verify

UTM = "EPSG:32645"
CASE = """
name: banepa
area: {{crs: {crs}}}
photo: {{path: {photo}}}
footprints: {{path: {footprints}}}
tiles: {{size: 256, resolution: {resolution}}}
"""


@pytest.fixture(scope="module")
def banepa(shared_data):
    """Today's buildings of Banepa, in metres."""
    return gpd.read_file(shared_data / "banepa" / "footprints.geojson").to_crs(UTM)


@pytest.fixture
def shifted(shared_data, banepa, tmp_path):
    """Return a function that makes the case of Banepa with footprints that lie off by what `by` gives of a place."""

    def make(by):
        frame = banepa.copy()
        shift = np.asarray(by(*middles(frame.geometry)), float)
        frame["geometry"] = moved(frame.geometry.to_numpy(), shift)
        frame.to_crs("EPSG:4326").to_file(tmp_path / "f.geojson", driver="GeoJSON", engine="pyogrio")
        photo = shared_data / "banepa" / "orthophoto.tif"
        text = CASE.format(crs=UTM, photo=photo, footprints="f.geojson", resolution=0.4)
        (tmp_path / "case.yaml").write_text(text)
        return load(tmp_path / "case.yaml"), frame, shift

    return make


@pytest.fixture(scope="module")
def as_it_is(shared_data, tmp_path_factory):
    """What is found for the footprints of Banepa as they are."""
    data = shared_data / "banepa"
    file = tmp_path_factory.mktemp("banepa") / "case.yaml"
    photo, footprints = data / "orthophoto.tif", data / "footprints.geojson"
    file.write_text(CASE.format(crs=UTM, photo=photo, footprints=footprints, resolution=0.4))
    case = load(file)
    align(case, picture=False)
    return offsets.read(case.paths.offsets)


def middles(shapes):
    west, south, east, north = np.asarray(shapes.bounds).T
    return (west + east) / 2, (south + north) / 2


def found_at(case, frame):
    return offsets.read(case.paths.offsets).offsets.at(*middles(frame.geometry))


def everywhere(east, north):
    return lambda x, _: np.tile((east, north), (len(x), 1))


@pytest.mark.parametrize("shift", [(3.0, 0.0), (0.0, 3.0), (-2.4, -1.8), (2.1, -2.1)])
def test_three_metres_put_into_the_footprints_of_banepa_are_found_to_half_a_metre(shifted, banepa, as_it_is, shift):
    case, frame, _ = shifted(everywhere(*shift))
    made = align(case, picture=False)
    assert np.hypot(*(np.array(made.constant) - as_it_is.constant + shift)) < 0.2
    before = as_it_is.offsets.at(*middles(banepa.geometry))
    apart = np.hypot(*(found_at(case, frame) + shift - before).T)
    assert np.quantile(apart, 0.9) < 0.5
    assert "by gradients" in made.summary


@pytest.mark.parametrize(
    "by",
    [
        lambda x, y: np.stack([(x - x.mean()) / 100, (y - y.mean()) / 150], 1),
        lambda x, y: 3 * np.stack([np.cos((x - x.mean()) / 130), np.sin((y - y.mean()) / 170)], 1),
    ],
    ids=["ramp", "wave"],
)
def test_shifts_that_differ_by_neighbourhood_are_found_to_a_metre(shifted, banepa, as_it_is, by):
    case, frame, shift = shifted(by)
    align(case, picture=False)
    before = as_it_is.offsets.at(*middles(banepa.geometry))
    apart = np.hypot(*(found_at(case, frame) + shift - before).T)
    assert np.median(apart) < 0.4
    assert np.quantile(apart, 0.9) < 1.0


def test_where_two_photos_meet_each_half_is_found_to_a_metre(shifted, banepa, as_it_is):
    x, _ = middles(banepa.geometry)
    case, frame, shift = shifted(lambda x, _: np.stack([np.where(x < np.median(x), 2.0, -2.0), 0 * x], 1))
    align(case, picture=False)
    before = as_it_is.offsets.at(*middles(banepa.geometry))
    apart = np.hypot(*(found_at(case, frame) + shift - before).T)[abs(x - np.median(x)) > as_it_is.offsets.cell]
    assert np.median(apart) < 0.4
    assert np.quantile(apart, 0.9) < 1.0


def test_a_shift_of_twelve_metres_is_found_by_hand_set_start_and_by_a_longer_reach(shifted, as_it_is):
    case, _, _ = shifted(everywhere(12.0, -4.0))
    wide = align(case, reach=16.0, picture=False)
    assert np.hypot(*(np.array(wide.constant) - as_it_is.constant + (12.0, -4.0))) < 0.3
    change(case.file, "photo", offset=[-11, 3.5])
    near = align(load(case.file), reach=4.0, picture=False)
    assert near.constant == pytest.approx(wide.constant, abs=0.3)


def test_the_sample_town_is_laid_where_its_photo_was_taken(tmp_path, monkeypatch):
    flights = []
    fly = sample.fly
    monkeypatch.setattr(sample, "fly", lambda *given: flights.append(fly(*given)) or flights[-1])
    planned = sample.plan_sample(seed=7, size_m=900.0, resolution=0.5)
    there = shapely.get_coordinates(shapely.centroid([one.outline for one in planned.buildings]))
    drawn = shapely.get_coordinates(shapely.centroid(planned.outlines))
    jump = shapely.contains_xy(flights[0].strip, there)[:, None] * np.array(flights[0].jump_metres)
    known, stood = there + jump - drawn, np.array([one.stood for one in planned.buildings])
    made = sample.make_sample(tmp_path, seed=7, size_m=900.0)
    text = CASE.format(crs=sample.CRS, photo=made.photo.name, footprints=made.footprints.name, resolution=0.5)
    (tmp_path / "case.yaml").write_text(text)
    case = load(tmp_path / "case.yaml")
    align(case, picture=False)
    stored = offsets.read(case.paths.offsets)
    x, y = drawn.T + np.array([[sample.WEST], [sample.NORTH - planned.size]])
    error = np.hypot(*(stored.offsets.at(x, y) - known).T)[stood]
    assert np.median(error) < 0.5
    assert np.quantile(error, 0.9) < 1.0


def scattered():
    """Buildings of all sizes where the photo shows them; on a lattice each would fit its neighbour's place as well."""
    rng = np.random.default_rng(4)
    return {
        number: rectangle(x - WEST + east, NORTH - y + south, width, depth)
        for number, (x, y), (east, south, width, depth) in (
            (number, (shape.bounds[0], shape.bounds[3]), rng.uniform((0, 0, 6, 6), (5, 5, 13, 13)))
            for number, shape in lattice().items()
        )
    }


def away(east, north):
    """Return the same where the map has them, if the photo lies so far from it."""
    return {number: translate(shape, -east, -north) for number, shape in scattered().items()}


@pytest.fixture
def town(tmp_path):
    """A case of bright roofs that lie 2 m east and 3 m north of their footprints."""
    file = make_case(tmp_path, scattered())
    write_footprints(tmp_path / "footprints.geojson", away(2, 3))
    return load(file)


def test_what_is_stored_says_where_and_how_sure(town):
    made = align(town)
    told = json.loads(town.paths.offsets.read_text())
    assert told["crs"] == "EPSG:25832"
    assert (told["west"], told["north"]) == (WEST, NORTH)
    assert told["constant"] == pytest.approx((2.0, 3.0), abs=0.3)
    assert (told["method"], told["reach"]) == ("gradients", 10)
    assert np.shape(told["shifts"]["east"]) == np.shape(told["shifts"]["north"]) == np.shape(told["confidence"])
    assert np.median(told["confidence"]) > offsets.SURE
    assert made.picture.read_bytes().startswith(b"\x89PNG")
    assert "to the north of the map" in made.summary or "to the north-east of the map" in made.summary
    assert str(made.file) in made.summary
    assert artifacts.read_manifest(made.file)["parameters"] == {"reach": 10}


def test_measuring_twice_gives_the_same_bytes(town):
    align(town, picture=False)
    first = town.paths.offsets.read_bytes()
    align(town, picture=False)
    assert town.paths.offsets.read_bytes() == first


def test_where_the_photo_shows_only_noise_nothing_is_moved(town):
    noise = np.random.default_rng(5).integers(1, 255, (SIZE, SIZE), dtype=np.uint8)
    write_photo(town.paths.root / "photo.tif", noise)
    made = align(town)
    stored = offsets.read(town.paths.offsets)
    assert np.hypot(*made.constant) < 0.5
    assert stored.confidence.max() < 0.3
    assert "no offset within 10 m can be told" in made.summary


def test_a_photo_without_a_pixel_moves_nothing(town):
    write_photo(town.paths.root / "photo.tif", np.zeros((SIZE, SIZE), np.uint8))
    assert align(town, picture=False).constant == (0, 0)


def test_probabilities_tell_what_a_blank_photo_does_not(town):
    write_photo(town.paths.root / "photo.tif", np.full((SIZE, SIZE), 99, np.uint8))
    write_probability(town, seen(scattered()))
    made = align(town, picture=False)
    assert made.constant == pytest.approx((2.0, 3.0), abs=0.4)
    assert offsets.read(town.paths.offsets).method == "probability"


def test_a_model_that_has_learned_the_error_of_the_map_does_not_hide_it(town):
    write_probability(town, seen(away(2, 3)))
    made = align(town, picture=False)
    assert offsets.read(town.paths.offsets).method == "gradients and probability"
    assert made.constant == pytest.approx((2.0, 3.0), abs=0.4)


@pytest.mark.parametrize("content", [b"not a raster", None])
def test_probabilities_that_are_of_no_use_are_told_and_left_aside(town, content, capsys):
    if content is None:
        write_probability(town, np.zeros((SIZE // 2, SIZE), np.uint8))
    else:
        town.paths.predictions.mkdir(parents=True)
        town.paths.probability.write_bytes(content)
    align(town, picture=False)
    assert "by the photo alone" in capsys.readouterr().out


def test_finer_pixels_than_are_needed_are_averaged(town):
    change(town.file, "tiles", resolution=RESOLUTION / 4)
    assert align(load(town.file), picture=False).constant == pytest.approx((2.0, 3.0), abs=0.3)


def verdicts(case):
    verify(case, picture=False)
    return gpd.read_file(case.paths.verified).set_index("osm_id")


def test_verify_uses_what_is_stored_and_is_out_of_date_when_it_changes(town):
    write_footprints(town.paths.root / "footprints.geojson", away(6, 5))
    write_probability(town, seen(scattered()))
    plain = verdicts(town)
    assert steps.why_outdated(town, steps.STEPS["verify"], {}) is None
    align(town, picture=False)
    assert "offsets.json has changed" in steps.why_outdated(town, steps.STEPS["verify"], {})
    laid = verdicts(town)
    assert steps.why_outdated(town, steps.STEPS["verify"], {}) is None
    odd = laid.index % 2 == 1
    assert laid["overlap"][odd].mean() > 0.9 > plain["overlap"][odd].mean()
    assert laid.geometry.geom_equals_exact(plain.geometry, 1e-9).all()  # the verdicts stay where the map is


def test_an_offset_set_by_hand_is_used_and_makes_verdicts_out_of_date(town):
    write_footprints(town.paths.root / "footprints.geojson", away(6, 5))
    write_probability(town, seen(scattered()))
    plain = verdicts(town)
    change(town.file, "photo", offset=[6, 5])
    case = load(town.file)
    assert steps.why_outdated(case, steps.STEPS["verify"], {}) == "its settings have changed"
    laid = verdicts(case)
    odd = laid.index % 2 == 1
    assert laid["overlap"][odd].mean() > 0.9 > plain["overlap"][odd].mean()
    assert offsets.known_offsets(case).at(np.array([WEST]), np.array([NORTH])).tolist() == [[6, 5]]


def test_what_was_stored_for_other_footprints_is_left_aside(town, capsys):
    align(town, picture=False)
    assert offsets.known_offsets(town) is not None
    write_footprints(town.paths.root / "footprints.geojson", scattered())
    assert offsets.known_offsets(town) is None
    assert "is left aside" in capsys.readouterr().out
    change(town.file, "photo", offset=[1, 2])
    assert offsets.known_offsets(load(town.file)).shifts.ravel().tolist() == [1, 2]


def test_what_was_stored_is_used_where_the_photo_is_not_at_hand(town):
    align(town, picture=False)
    write_probability(town, seen(scattered()))
    (town.paths.root / "photo.tif").unlink()
    assert offsets.known_offsets(town) is not None
    verify(town, picture=False)


def test_a_name_for_the_photo_or_new_probabilities_leave_what_is_stored_in_use(town):
    align(town, picture=False)
    write_probability(town, seen(scattered()))
    change(town.file, "photo", name="1937")
    assert offsets.known_offsets(load(town.file)) is not None


def test_training_tiles_show_buildings_where_the_photo_does(town):
    align(town, picture=False)
    generate(town, picture=False)
    assert steps.why_outdated(town, steps.STEPS["generate-training"], {}) is None
    names = [f"tile_{row:04d}_{column:04d}" for row in range(1, 4) for column in range(4)]
    roofs = []
    for name in names:
        image, labels = read_tile(town.paths.training, name, "images", "buildings")
        roofs.append((labels > 0)[image == 200].mean())
    assert np.mean(roofs) > 0.93
    align(town, reach=5.0, picture=False)
    town.paths.offsets.write_text(town.paths.offsets.read_text().replace('"reach": 5', '"reach": 6'))
    assert "offsets.json has changed" in steps.why_outdated(town, steps.STEPS["generate-training"], {})


def test_stored_offsets_that_are_damaged_are_told_and_the_verdicts_stay(town):
    write_probability(town, seen(scattered()))
    align(town, picture=False)
    verify(town, picture=False)
    before = town.paths.verified.read_bytes()
    text = town.paths.offsets.read_text()
    for damaged in (
        text[: len(text) // 2], "[]", "{}", text.replace('"cell": 30', '"cell": 0'), text.replace('"west"', '"vest"'),
        re.sub(r'"confidence": \[\s*\[', '"confidence": [[0.5], [', text), text.replace('"east": [', '"east": [[1],'),
    ):  # fmt: skip
        assert damaged != text
        town.paths.offsets.write_text(damaged)
        with pytest.raises(PhotoError, match=r"offsets\.json: is damaged or no file of offsets; remove it"):
            verify(town, picture=False)
        assert town.paths.verified.read_bytes() == before
    align(town, picture=False)
    verify(town, picture=False)


def test_a_photo_that_breaks_off_leaves_what_was_stored(town):
    align(town)
    before = [town.paths.offsets.read_bytes(), town.paths.offsets.with_suffix(".png").read_bytes()]
    photo = town.paths.root / "photo.tif"
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    with pytest.raises(PhotoError, match="cannot be read"):
        align(town)
    assert [town.paths.offsets.read_bytes(), town.paths.offsets.with_suffix(".png").read_bytes()] == before


def test_the_command_prints_what_was_found(town, capsys):
    assert cli.main(["photo", "align", "--config", str(town.file), "--reach", "6"]) == 0
    out = capsys.readouterr().out
    assert "the photo lies 3." in out
    assert "offsets.png" in out
    assert json.loads(town.paths.offsets.read_text())["reach"] == 6


@pytest.mark.parametrize("reach", ["0", "-3", "500", "nan"])
def test_a_reach_that_makes_no_sense_is_told(town, reach, capsys):
    assert cli.main(["photo", "align", "--config", str(town.file), "--reach", reach]) == 2
    assert "give one from 1 to 50 m" in capsys.readouterr().err
    assert not town.paths.offsets.exists()


@pytest.mark.parametrize("offset", [3, [1], [1, 2, 3], ["a", 1], [float("inf"), 0]])
def test_an_offset_that_is_not_two_numbers_is_told(town, offset):
    change(town.file, "photo", offset=offset)
    with pytest.raises(SettingsError, match=r"photo\.offset"):
        load(town.file)


def test_shifts_are_said_in_words():
    assert in_words((2.4, -1.8)) == "3.0 m to the south-east of the map"
    assert _in_words((2.4, -1.8)) == "3.0 m to the south-east of the map (2.4 m east, 1.8 m south)"
    assert _in_words((0.0, 4.0)) == "4.0 m to the north of the map (0.0 m east, 4.0 m north)"
    assert _in_words((-1.0, 0.04)) == "1.0 m to the west of the map (1.0 m west, 0.0 m north)"
    assert in_words((0.01, 0.0)) == "where the map says"
    assert _in_words((0.01, 0.0)) == "where the map says on the whole"


def test_one_shift_for_all_places_moves_all_the_same():
    shapes = shapely.box([0.0, 900.0], [0.0, -5.0], [1.0, 901.0], [1.0, -4.0])
    there = Offsets.constant(2.0, -1.0).move(shapes)
    assert shapely.bounds(there).tolist() == [[2, -1, 3, 0], [902, -6, 903, -5]]


def test_footprints_are_placed_without_a_change_of_anything_else(town):
    frame = load_footprints(town).frame
    assert offsets.placed(town, frame) is frame
    change(town.file, "photo", offset=[2, 3])
    there = offsets.placed(load(town.file), frame)
    assert there.drop(columns="geometry").equals(frame.drop(columns="geometry"))
    assert np.allclose(there.bounds - frame.bounds, [2, 3, 2, 3])
    assert there.crs == frame.crs
