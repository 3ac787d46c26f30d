from __future__ import annotations

import csv
import json
from collections import Counter
from functools import cache

import numpy as np
import pytest
import rasterio
import shapely
from pyproj import Transformer

from historymap_lib.errors import HistorymapError
from historymap_lib.sample import CRS, MAX_OFFSET, NORTH, WEST, make_sample, plan_sample
from historymap_lib.sample_town import lay_out

SMALL = {"size_m": 400.0, "resolution": 0.5}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("sample"), seed=1, **SMALL)


@pytest.fixture(scope="module")
def photo(paths):
    with rasterio.open(paths.photo) as file:
        yield file


@pytest.fixture(scope="module")
def features(paths):
    return json.loads(paths.footprints.read_text())["features"]


@pytest.fixture(scope="module")
def truth(paths):
    with paths.truth.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def town():
    return lay_out(np.random.default_rng(1937), 1500.0)


@cache
def sample(seed):
    return plan_sample(seed=seed, **SMALL)


def shapes(features):
    return np.array([shapely.from_geojson(json.dumps(feature["geometry"])) for feature in features])


def test_same_seed_gives_the_same_bytes(paths, tmp_path):
    again = make_sample(tmp_path, seed=1, **SMALL)
    for name in ("photo", "footprints", "truth", "preview"):
        assert getattr(again, name).read_bytes() == getattr(paths, name).read_bytes(), name


def test_other_seeds_give_other_towns(photo):
    one, other = photo.read(1).astype(float), sample(2)
    both = (one > 0) & (other.photo > 0)
    assert abs(np.corrcoef(one[both], other.photo[both].astype(float))[0, 1]) < 0.3


def test_other_seeds_give_other_footprints():
    one, other = (sample(seed).outlines for seed in (1, 2))
    shared = shapely.union_all(one).intersection(shapely.union_all(other)).area
    assert shared < 0.4 * shapely.area(one).sum()


def test_photo_is_a_tiled_geotiff_with_no_data_at_its_margin(photo):
    assert (photo.count, photo.dtypes[0], photo.nodata, photo.crs.to_string()) == (1, "uint8", 0, CRS)
    assert photo.profile["tiled"]
    assert photo.compression.name == "deflate"
    assert photo.shape == (800, 800)
    assert photo.bounds == (WEST, NORTH - 400, WEST + 400, NORTH)
    pixels = photo.read(1)
    assert 0.001 < (pixels == 0).mean() < 0.2
    assert (pixels[200:600, 200:600] > 0).all()
    assert pixels.std() > 20


def test_every_footprint_has_a_truth_and_every_truth_a_footprint(features, truth):
    ids = [(feature["properties"]["osm_type"], str(feature["properties"]["osm_id"])) for feature in features]
    assert ids == [(row["osm_type"], row["osm_id"]) for row in truth]
    assert len(set(ids)) == len(ids)
    assert {row["existed"] for row in truth} == {"true", "false"}


def test_footprints_are_valid_buildings_in_the_photo(features, photo):
    outlines = shapes(features)
    assert shapely.is_valid(outlines).all()
    metres = Transformer.from_crs("EPSG:4326", CRS, always_xy=True)
    there = shapely.transform(outlines, lambda p: np.column_stack(metres.transform(p[:, 0], p[:, 1])))
    assert shapely.contains(shapely.box(*photo.bounds).buffer(4), there).all()
    assert shapely.area(there).min() > 8
    assert shapely.area(there).max() < 20_000
    assert all(feature["properties"]["building"] for feature in features)


def test_footprints_of_today_overlap_next_to_nowhere():
    outlines = sample(1).outlines
    one, other = shapely.STRtree(outlines).query(outlines, predicate="overlaps")
    shared = shapely.area(shapely.intersection(outlines[one], outlines[other])).sum() / 2
    assert shared < 0.002 * shapely.area(outlines).sum()


@pytest.mark.parametrize("seed", [1, 2])
def test_footprints_are_off_the_photo_by_less_than_two_metres(seed):
    off = sample(seed).off
    assert off.max() <= MAX_OFFSET
    assert off.mean() > 0.3
    assert off.std() > 0.05


def test_town_has_its_size_and_its_share_of_old_buildings(town):
    today = [building for building in town.buildings() if building.today]
    assert 1500 <= len(today) <= 2500
    assert 0.5 <= np.mean([building.stood for building in today]) <= 0.6


@pytest.mark.parametrize("seed", range(6))
def test_small_towns_have_their_share_of_old_buildings_too(seed):
    today = [building for building in lay_out(np.random.default_rng(seed), 400.0).buildings() if building.today]
    assert 90 <= len(today) <= 200
    assert 0.5 <= np.mean([building.stood for building in today]) <= 0.6


@pytest.mark.parametrize("resolution", [0.25, 1.0, 2.0])
def test_a_town_can_be_photographed_at_other_resolutions(resolution):
    photo = plan_sample(seed=1, size_m=300.0, resolution=resolution).photo
    assert photo.shape == (300 / resolution, 300 / resolution)


def test_some_buildings_were_demolished_and_some_replaced(town):
    old = [building for building in town.buildings() if building.stood]
    gone = [building.outline for building in old if not building.today]
    later = [building.outline for building in town.buildings() if building.today and not building.stood]
    new, former = shapely.STRtree(gone).query(later, predicate="intersects")
    replaced = len(np.unique(new)) / sum(building.today for building in town.buildings())
    assert 0.04 <= replaced <= 0.06
    assert 0.06 <= (len(gone) - len(np.unique(former))) / len(old) <= 0.13


def test_no_building_of_the_photo_stands_in_another(town):
    outlines = np.array([building.outline for building in town.buildings() if building.stood])
    assert len(shapely.STRtree(outlines).query(outlines, predicate="overlaps")[0]) == 0


def test_neither_tags_nor_ids_nor_sizes_give_the_truth_away(town):
    today = [building for building in town.buildings() if building.today]
    share = Counter(building.tag for building in today if building.stood)
    for tag, count in Counter(building.tag for building in today).items():
        if count >= 40:
            assert 0.15 < share[tag] / count < 0.9, tag
    stood = np.array([building.stood for building in today])
    areas = shapely.area([building.outline for building in today])
    assert abs((areas[stood][:, None] > areas[~stood][None, :]).mean() - 0.5) < 0.13


@pytest.mark.parametrize("asked", [{"size_m": 50.0}, {"size_m": float("nan")}, {"resolution": 0}, {"resolution": -1.0}])
def test_a_size_or_resolution_that_allows_no_town_is_refused(tmp_path, asked):
    with pytest.raises(HistorymapError, match="choose"):
        make_sample(tmp_path, **asked)
    assert not list(tmp_path.iterdir())
