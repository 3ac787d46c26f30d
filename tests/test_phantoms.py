"""Phantoms and misfits: where outlines may lie that no house of today has."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from historymap_lib.footprints import load
from historymap_lib.misfits import FITS, FITS_TURNED, KINDS, make_misfits
from historymap_lib.phantoms import DRAWS, FARTHEST, OVERLAP, make_phantoms
from historymap_lib.sample import plan_sample
from historymap_lib.surroundings import COLUMNS, FAR, describe_surroundings


def houses(count: int, side: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, side, (2, count))
    width, height = rng.uniform(4, 25, (2, count))
    return shapely.box(x, y, x + width, y + height)


def edges(shape) -> np.ndarray:
    """Return the lengths of the walls, which no turn and no move changes."""
    return np.hypot(*np.diff(shapely.get_coordinates(shape), axis=0).T)


def map_alone(footprints, phantoms) -> float:
    """Return the AUC, out of fold, of telling footprints from phantoms by their surroundings."""
    real = describe_surroundings(footprints, footprints, np.arange(len(footprints)))
    rows = np.concatenate([real, describe_surroundings(phantoms, footprints)])
    truth = np.repeat([1, 0], [len(footprints), len(phantoms)])
    model = HistGradientBoostingClassifier(max_leaf_nodes=15, class_weight="balanced", random_state=0)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return roc_auc_score(truth, cross_val_predict(model, rows, truth, cv=folds, method="predict_proba")[:, 1])


@settings(max_examples=20)
@given(st.integers(1, 200), st.floats(30, 2000), st.integers(0, 1000), st.integers(1, 150))
def test_phantoms_are_shapes_of_the_neighbourhood_on_ground_that_is_free(count, side, seed, most):
    shapes = houses(count, side, seed)
    photo = shapely.box(-30, -30, side + 60, side)
    found, origin = make_phantoms(shapes, photo, most=most, seed=seed)
    assert len(found) == len(origin) <= most
    first, other = shapely.STRtree(shapes).query(found, predicate="intersects")
    common = shapely.area(shapely.intersection(found[first], shapes[other]))
    assert (common <= OVERLAP[1] * np.minimum(shapely.area(found[first]), shapely.area(shapes[other])) + 1e-6).all()
    assert shapely.contains(photo, found).all()
    assert not len(origin) or np.bincount(origin).max() <= DRAWS
    for phantom, shape in zip(found, shapes[origin], strict=True):
        assert edges(phantom) == pytest.approx(edges(shape), abs=1e-6)
    assert (shapely.distance(shapely.centroid(found), shapely.centroid(shapes[origin])) <= FARTHEST + 1e-6).all()


def test_nearly_every_building_of_an_open_town_has_a_phantom():
    shapes = houses(50, 3000, 1)
    _, origin = make_phantoms(shapes, shapely.box(-300, -300, 3300, 3300))
    assert len(np.unique(origin)) > 45


def test_phantoms_share_walls_as_often_as_footprints_do():
    """Houses alone in their yards, and pairs of them wall to wall."""
    rng = np.random.default_rng(0)
    east, north = (part.ravel() + rng.uniform(0, 25, part.size) for part in np.mgrid[0:900:60, 0:900:60])
    second = rng.random(len(east)) < 0.4
    houses_alone = shapely.box(east, north, east + 8, north + 10)
    shapes = np.concatenate([houses_alone, shapely.box(east + 8, north, east + 16, north + 10)[second]])
    found, _ = make_phantoms(shapes, shapely.box(-60, -60, 960, 960))
    share = 2 * second.sum() / len(shapes)
    assert len(found) >= 150
    assert np.mean(shapely.distance(found, shapely.union_all(shapes)) < 0.02) == pytest.approx(share, abs=0.15)


def test_where_footprints_keep_their_distance_phantoms_do_not_stand_between_them():
    x, y = np.meshgrid(np.arange(0, 400, 20.0), np.arange(0, 400, 20.0))
    shapes = shapely.box(x.ravel(), y.ravel(), x.ravel() + 10, y.ravel() + 10)
    found, _ = make_phantoms(shapes, shapely.box(-80, -80, 470, 470))
    assert len(found) > 30
    assert shapely.distance(found, shapely.union_all(shapes)).min() >= 8


def some_phantoms(shapes, seed):
    return make_phantoms(shapes, shapely.box(-300, -300, 900, 900), seed=seed)[0]


def some_misfits(shapes, seed):
    return make_misfits(shapes, seed=seed)[0]


@pytest.mark.parametrize("make", [some_phantoms, some_misfits])
def test_the_order_does_not_matter_and_the_seed_does(make):
    shapes = houses(80, 600, 3)
    first, turned, again, other = (
        shapely.to_wkb(make(given, seed)).tolist()
        for given, seed in ((shapes, 5), (shapes[::-1], 5), (shapes, 5), (shapes, 6))
    )
    assert first == turned == again != other


def test_a_town_without_open_ground_or_houses_has_no_phantoms():
    block = shapely.box(0, 0, 5000, 5000)
    cover = np.array([block, *shapely.box([2400, 2450], [2400, 2450], [2410, 2460], [2410, 2460])])
    for shapes in (cover, np.array([], dtype=object)):
        found, origin = make_phantoms(shapes, block, most=10)
        assert len(found) == len(origin) == 0


def test_the_map_alone_does_not_tell_phantoms_of_the_sample_town():
    outlines = np.array([shapely.Polygon(shape) for shape in plan_sample(seed=3, size_m=900, resolution=2).outlines])
    found, _ = make_phantoms(outlines, shapely.box(0, 0, 900, 900), most=3000)
    assert len(found) > 500
    assert map_alone(outlines, found) < 0.6


@pytest.mark.parametrize(
    ("file", "crs", "limit"),
    [
        ("banepa/footprints_today_full.geojson", "EPSG:32645", 0.72),
        ("banepa-hard/footprints.geojson", "EPSG:32645", 0.68),
    ],
)
def test_the_map_alone_hardly_tells_phantoms_of_a_dense_town(shared_data, file, crs, limit):
    """Houses between two others wall to wall have no free place like theirs: there less is reached than elsewhere."""
    shapes = load(shared_data / file, crs=crs).frame.geometry.to_numpy()
    found, _ = make_phantoms(shapes, shapely.box(*shapely.total_bounds(shapes)), most=4000)
    assert len(found) > 300
    assert map_alone(shapes, found) < limit


@settings(max_examples=20)
@given(st.integers(0, 150), st.floats(30, 800), st.integers(0, 1000))
def test_misfits_fit_no_house(count, side, seed):
    shapes = houses(count, side, seed)
    found, origin, kinds = make_misfits(shapes, most=200, seed=seed)
    assert len(found) == len(origin) == len(kinds) <= 200
    assert set(kinds) <= set(KINDS)
    for outline, own, kind in zip(found, origin, kinds, strict=True):
        common = shapely.area(shapely.intersection(shapes, outline))
        fit = common / (shapely.area(shapes) + shapely.area(outline) - common)
        assert fit[own] < (FITS_TURNED if kind == "turned" else FITS)
        assert (np.delete(fit, own) < FITS).all()
        assert common[own] > 0
        if kind != "replaced":
            assert edges(outline) == pytest.approx(edges(shapes[own]), abs=1e-6)


def test_surroundings_are_those_of_a_row_of_three_houses():
    row = shapely.box([0, 10, 22], 0, [10, 20, 30], 8)
    one, _, three = (
        dict(zip(COLUMNS, values, strict=True)) for values in describe_surroundings(row, row, np.arange(3))
    )
    assert (one["gap"], one["second_gap"], one["third_gap"]) == (0, 12, FAR)
    assert (three["gap"], three["turn"], three["near"], three["far"]) == (2, 0, 2, 2)
    assert one["cover_1"] == pytest.approx(8 / 39, rel=0.1)
    assert one["longest"] == pytest.approx(10)
