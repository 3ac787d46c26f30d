"""What speaks for a building: edges, light and shadow, and a score learned without a single true label."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import shapely
from case_fixtures import CRS
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin
from scipy.ndimage import gaussian_filter, shift
from shapely import affinity
from sklearn.metrics import roc_auc_score

from historymap_lib import evidence, outlines
from historymap_lib.outlines import STEP, Outlines

RES = 0.5


class Scene:
    """A photo in memory, with what `evidence` asks of one: a grid's corner, and windows."""

    west, north, resolution = 1000.0, 9000.0, RES

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.grid = values, self

    def read(self, window):
        top, left, high, wide = window.row_off, window.col_off, window.height, window.width
        grey, valid = np.zeros((high, wide), np.uint8), np.zeros((high, wide), bool)
        rows = slice(max(top, 0), min(top + high, self.values.shape[0]))
        columns = slice(max(left, 0), min(left + wide, self.values.shape[1]))
        into = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        grey[into] = self.values[rows, columns]
        valid[into] = grey[into] > 0
        return grey, valid


def write_raster(path, values, transform):
    with rasterio.open(
        path, "w", driver="GTiff", width=values.shape[1], height=values.shape[0], count=1, dtype="uint8", crs=CRS,
        nodata=255, transform=transform,
    ) as target:  # fmt: skip
        target.write(values, 1)
    return path


def lit_town(light, *, size=1400, seed=0):
    """Return a photo of flat roofs as bright as their yards, the shapes and which of them stand: only light tells."""
    rng = np.random.default_rng(seed)
    steps = np.arange(12.0, size * RES - 30, 22.0)
    shapes = np.array([
        affinity.rotate(shapely.box(1000 + x, 9000 - y - 11, 1000 + x + 8, 9000 - y), rng.uniform(0, 90))
        for x in steps for y in steps
    ])  # fmt: skip
    stood = rng.random(len(shapes)) < 0.5
    roofs = rasterio.features.rasterize(
        shapes[stood].tolist(), (size, size), transform=from_origin(1000, 9000, RES, RES), dtype="uint8"
    )
    shadow = shift(roofs, np.round(np.array(light) * 5), order=0).astype(bool) & (roofs == 0)
    ground = 120 + 15 * gaussian_filter(rng.normal(size=(size, size)), 3) * 3
    ground = np.where(shadow, ground * 0.6, ground) + rng.normal(0, 12, (size, size))
    return np.clip(ground, 1, 255).astype(np.uint8), shapes, stood


@pytest.mark.parametrize("light", [(1, 0), (-0.7, 0.7), (0, -1)])
def test_a_shadow_on_one_side_tells_what_stood_from_wherever_the_light_comes(tmp_path, light):
    photo, shapes, stood = lit_town(light)
    blank = write_raster(tmp_path / "p.tif", np.full(photo.shape, 120, np.uint8), from_origin(1000, 9000, RES, RES))
    phantoms = np.array([affinity.translate(shape, 11, -11) for shape in shapes])
    known = evidence.describe(np.concatenate([shapes, phantoms]), shapes, blank, Scene(photo))
    scores, _ = evidence.score(known[: len(shapes)], known[len(shapes) :])
    assert roc_auc_score(stood, scores) > 0.95


def test_the_score_needs_no_label_that_is_true():
    """Half of the footprints stand on nothing, and on other ground than the phantoms: still what stood comes first."""
    rng = np.random.default_rng(1)
    stood = np.arange(600) < 300
    ground = np.where(stood, rng.normal(0, 1, 600), rng.normal(1, 1, 600))  # what came later, came on fields
    house = np.where(stood, rng.normal(3, 1, 600), rng.normal(0, 1, 600))
    phantoms = rng.normal(0, 1, (600, 2))
    scores, null = evidence.score(np.stack([ground, house], 1), phantoms)
    assert len(null) == 600
    assert roc_auc_score(stood, scores) > 0.93


def test_what_people_say_of_some_tells_the_others_apart():
    """Something bright stands on every plot, and only how it is lit tells a house of then from what came later."""
    rng = np.random.default_rng(2)
    stood = np.arange(600) < 300
    table = np.stack([rng.normal(3, 1, 600), np.where(stood, 1.5, -1.5) + rng.normal(0, 1, 600)], 1)
    phantoms = rng.normal(0, 1, (600, 2))
    said = np.full(600, np.nan)
    asked = rng.permutation(600)[:40]
    said[asked] = stood[asked]
    others = np.isnan(said)
    before, after = (evidence.score(table, phantoms, answers)[0][others] for answers in (None, said))
    assert roc_auc_score(stood[others], after) > roc_auc_score(stood[others], before) + 0.1
    nothing, _ = evidence.score(table, phantoms, np.full(600, np.nan))
    assert np.array_equal(nothing[others], before)


def test_without_a_photo_the_probabilities_speak_alone(tmp_path):
    raster = np.full((200, 200), 10, np.uint8)
    raster[50:80, 50:80] = 240
    path = write_raster(tmp_path / "p.tif", raster, from_origin(0, 100, RES, RES))
    shapes = np.array([shapely.box(25, 60, 40, 75), shapely.box(70, 10, 85, 25)])
    found = evidence.describe(shapes, shapes, path, None)
    assert found.shape == (2, 4)
    mean, inner, ring, edge = found.T
    assert mean[0] > 2 > -2 > mean[1]
    assert inner[0] > 2
    assert ring[0] < -2
    assert edge == pytest.approx([230 / 254, 0], abs=0.05)


def test_where_there_is_no_data_a_shape_gets_the_usual_numbers(tmp_path):
    raster = np.full((200, 200), 120, np.uint8)
    raster[:, 100:] = 255
    path = write_raster(tmp_path / "p.tif", raster, from_origin(0, 100, RES, RES))
    shapes = np.array([shapely.box(10, 40, 20, 50), shapely.box(25, 40, 35, 50), shapely.box(80, 40, 90, 50)])
    found = evidence.describe(shapes, shapes, path, None)
    assert np.isfinite(found).all()
    assert found[2] == pytest.approx(found[0])


def test_the_house_next_door_does_not_count_as_surroundings(tmp_path):
    """A gap between two roofs looks on paper as if it had edges all round."""
    raster = np.full((200, 200), 10, np.uint8)
    raster[80:120, :80] = raster[80:120, 120:] = 240  # two roofs with a gap of 20 m
    path = write_raster(tmp_path / "p.tif", raster, from_origin(0, 100, RES, RES))
    built = shapely.box([0, 60], [40, 40], [40, 100], [60, 60])
    gap = np.array([shapely.box(43, 43, 57, 57)])
    alone, with_map = (evidence.describe(gap, ground, path, None)[0] for ground in (built[:0], built))
    assert alone[2] > with_map[2] + 1
    assert alone[3] < -0.1
    assert with_map[3] == pytest.approx(0, abs=0.02)


def test_blocks_meet_without_a_seam(tmp_path, monkeypatch):
    photo, shapes, _ = lit_town((1, 0), size=500)
    blank = write_raster(tmp_path / "p.tif", photo, from_origin(1000, 9000, RES, RES))
    whole = evidence.describe(shapes, shapes, blank, Scene(photo))
    monkeypatch.setattr(outlines, "BLOCK", 96)
    assert evidence.describe(shapes, shapes, blank, Scene(photo)) == pytest.approx(whole, abs=0.02)


@settings(max_examples=50, deadline=None)
@given(st.floats(3, 60), st.floats(3, 60), st.floats(0, 360), st.booleans(), st.booleans())
def test_normals_point_inward_and_places_lie_on_the_outline(width, height, angle, turned, courtyard):
    shape = shapely.box(0, 0, width, height)
    if courtyard:
        shape = shape.difference(shapely.box(width / 3, height / 3, width / 1.5, height / 1.5))
    shape = affinity.rotate(shape, angle)
    shape = shapely.reverse(shape) if turned else shape
    lines = Outlines(np.array([shape, shapely.box(90, 90, 95, 95)]), np.array([], dtype=object))
    points, normals, index = lines.points, lines.normals, lines.index
    own = index == 0
    assert set(index.tolist()) == {0, 1}
    assert np.hypot(*normals.T) == pytest.approx(1)
    assert shapely.distance(shape.boundary, shapely.points(points[own])) == pytest.approx(0, abs=1e-6)
    assert shapely.contains_xy(shape, points[own] + 1e-3 * normals[own]).all()
    assert not shapely.contains_xy(shape, points[own] - 1e-3 * normals[own]).any()
    assert own.sum() * STEP == pytest.approx(shape.length, abs=STEP * 8)
