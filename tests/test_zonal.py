"""Statistics under footprints: exactextract is the oracle; edges, holes, windows and everything tiny."""

from __future__ import annotations

import math
from itertools import pairwise

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from exactextract import exact_extract
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import LineString, MultiPolygon, Point, Polygon, affinity, box

from historymap_lib import zonal
from historymap_lib.errors import VerificationError
from historymap_lib.zonal import footprint_statistics

# rasterio 1.4 multiplies transforms in a way that affine 3 gives up some day
pytestmark = pytest.mark.filterwarnings("ignore:Use .@. matmul:PendingDeprecationWarning")

CRS = "EPSG:25832"
WEST, NORTH, PIXEL = 569_000.0, 7_034_000.0, 0.5
SIZE = 200
TINY_WINDOWS = (16, 24)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("zonal")


def write(path, pixels, nodata=255, **options):
    profile = {
        "driver": "GTiff", "count": 1, "dtype": pixels.dtype, "height": pixels.shape[0], "width": pixels.shape[1],
        "crs": CRS, "transform": rasterio.Affine(PIXEL, 0, WEST, 0, -PIXEL, NORTH), "nodata": nodata,
    }  # fmt: skip
    with rasterio.open(path, "w", **(profile | options)) as dataset:
        dataset.write(pixels, 1)
    return path


def noise():
    """Smooth ground with grain, and a patch without data."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    grain = np.random.default_rng(1).integers(-30, 31, (SIZE, SIZE))
    pixels = np.clip(np.sin(x / 17) * np.cos(y / 23) * 110 + 127 + grain, 0, 254).astype(np.uint8)
    pixels[60:90, 100:140] = 255
    return pixels


@pytest.fixture(scope="session")
def raster(folder):
    return write(folder / "noise.tif", noise())


def place(shape):
    """Move a shape drawn in pixels, (0, 0) the north-west corner and y southward, to its place."""
    return shapely.transform(shape, lambda p: np.column_stack([WEST + p[:, 0] * PIXEL, NORTH - p[:, 1] * PIXEL]))


def shapes_of(*shapes):
    return np.array([place(shape) for shape in shapes], dtype=object)


def houses(count, seed=0, low=8.0, high=30.0, margin=25.0):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(margin, SIZE - margin, (2, count))
    width, height, angle = rng.uniform(low, high, count), rng.uniform(low, high, count), rng.uniform(0, 180, count)
    turned = [
        affinity.rotate(box(-w / 2, -h / 2, w / 2, h / 2), a) for w, h, a in zip(width, height, angle, strict=True)
    ]
    return shapes_of(*[affinity.translate(*moved) for moved in zip(turned, x, y, strict=True)])


def oracle(raster, shapes):
    """Say what exactextract says, with `valid` the pixels that hold data."""
    frame = gpd.GeoDataFrame(geometry=shapes, crs=CRS)
    found = exact_extract(raster, frame, ["mean", "count", "values", "coverage"], output="pandas")
    likely = [share[values >= 127].sum() for values, share in zip(found["values"], found["coverage"], strict=True)]
    return pd.DataFrame(
        {"mean": found["mean"] / 254, "valid": found["count"], "overlap": np.array(likely) / found["count"]}
    )


def without_exactextract(monkeypatch):
    def refuse(dataset, source, operations):
        assert source.count() == 0
        return []

    monkeypatch.setattr(zonal, "exact_extract", refuse)


def test_agrees_with_exactextract_on_turned_houses(raster):
    shapes = houses(300)
    found, expected = footprint_statistics(raster, shapes), oracle(raster, shapes)
    valid = found["pixels"] * found["coverage"]
    plenty = (expected["valid"] > 60).to_numpy()
    assert plenty.sum() > 250
    assert np.abs(found["mean"] - expected["mean"])[plenty].max() < 0.03
    assert np.abs(found["mean"] - expected["mean"])[plenty].mean() < 0.005
    assert np.abs(found["overlap"] - expected["overlap"])[plenty].mean() < 0.015
    assert (np.abs(valid - expected["valid"])[plenty] / expected["valid"][plenty]).mean() < 0.02


@given(st.lists(st.tuples(*[st.integers(0, SIZE - 1)] * 2, *[st.integers(1, 60)] * 2), min_size=1, max_size=8))
def test_equals_exactextract_on_rectangles_of_whole_pixels(raster, corners):
    shapes = shapes_of(*[box(x, y, min(x + w, SIZE), min(y + h, SIZE)) for x, y, w, h in corners])
    found, expected = footprint_statistics(raster, shapes), oracle(raster, shapes)
    assert found["pixels"].to_numpy() == pytest.approx(shapely.area(shapes) / PIXEL**2, abs=1e-6)
    assert (found["pixels"] == found["pixels"].round()).all()
    np.testing.assert_allclose(found["pixels"] * found["coverage"], expected["valid"], rtol=1e-12)
    np.testing.assert_allclose(found["mean"], expected["mean"], rtol=1e-12)
    np.testing.assert_allclose(found["overlap"], expected["overlap"], rtol=1e-12)


def test_counts_the_pixels_whose_centres_are_inside(raster):
    shapes, pixels = houses(40, seed=3), noise()
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    centres = WEST + (x + 0.5) * PIXEL, NORTH - (y + 0.5) * PIXEL
    found = footprint_statistics(raster, shapes, window=TINY_WINDOWS)
    for shape, row in zip(shapes, found.itertuples(), strict=True):
        inside = shapely.contains_xy(shape, *centres)
        values = pixels[inside & (pixels != 255)].astype(float)
        assert row.pixels == inside.sum()
        assert row.coverage == len(values) / inside.sum()
        expected = (values.mean() / 254, (values >= 127).mean()) if len(values) else (math.nan, math.nan)
        assert (row.mean, row.overlap) == pytest.approx(expected, rel=1e-12, nan_ok=True)


@given(
    value=st.integers(0, 254),
    points=st.lists(st.tuples(*[st.floats(0, SIZE, width=32)] * 2), min_size=3, max_size=9),
    rows=st.integers(30, 230),
    columns=st.integers(30, 230),
)
def test_a_constant_raster_gives_its_constant_under_any_shape(folder, value, points, rows, columns):
    raster = write(folder / "constant.tif", np.full((SIZE, SIZE), value, np.uint8))
    shape = shapely.convex_hull(shapely.multipoints(points))
    if shape.area < 1:
        return
    row = footprint_statistics(raster, shapes_of(shape), window=(rows, columns)).iloc[0]
    assert row["mean"] == pytest.approx(value / 254, rel=1e-12)
    assert row["coverage"] == pytest.approx(1)
    assert row["overlap"] == (value >= 127)
    assert row["pixels"] == pytest.approx(shape.area, abs=shape.length + 4)


@settings(max_examples=25)
@given(st.integers(12, 230), st.integers(12, 230))
def test_the_windows_make_no_difference(raster, rows, columns):
    shapes = houses(60, seed=5, high=90, margin=-20)
    whole = footprint_statistics(raster, shapes)
    pd.testing.assert_frame_equal(footprint_statistics(raster, shapes, window=(rows, columns)), whole, rtol=1e-12)


def test_keeps_the_order_and_gives_a_fresh_index(raster):
    shapes = houses(50, seed=7)
    found = footprint_statistics(raster, shapes)
    turned = footprint_statistics(raster, gpd.GeoSeries(shapes[::-1], crs=CRS, index=range(900, 950)))
    assert isinstance(turned.index, pd.RangeIndex)
    assert list(turned.columns) == ["pixels", "coverage", "mean", "overlap"]
    pd.testing.assert_frame_equal(turned, found[::-1].reset_index(drop=True))


def test_no_data_lowers_the_coverage_and_stays_out_of_the_mean(raster):
    half, none = box(90, 65, 110, 85), box(105, 65, 135, 85)
    found = footprint_statistics(raster, shapes_of(half, none))
    assert found["coverage"].tolist() == [0.5, 0]
    assert found["mean"][0] == pytest.approx(noise()[65:85, 90:100].mean() / 254)
    assert math.isnan(found["mean"][1])
    assert math.isnan(found["overlap"][1])
    assert found["pixels"].tolist() == [400, 600]


@pytest.mark.parametrize("declared", [255, None])
def test_no_data_need_not_be_declared_in_the_file(folder, declared):
    raster = write(folder / f"declared_{declared}.tif", noise(), nodata=declared)
    shapes = shapes_of(box(90, 65, 110, 85), box(99.9, 70.1, 100.1, 70.2))  # the second holds no pixel centre
    found = footprint_statistics(raster, shapes)
    assert found["coverage"].to_numpy() == pytest.approx([0.5, 0.5])
    assert found["mean"][1] == pytest.approx(noise()[70, 99] / 254)


def test_another_value_can_stand_for_no_data(folder):
    pixels = np.full((20, 20), 200, np.uint8)
    pixels[:, 10:] = 0
    raster = write(folder / "zero.tif", pixels, nodata=0)
    row = footprint_statistics(raster, shapes_of(box(5, 5, 15, 15)), nodata=0).iloc[0]
    assert (row["coverage"], row["mean"], row["overlap"]) == (0.5, 200 / 254, 1)


def test_half_is_likely(folder):
    pixels = np.full((20, 20), 126, np.uint8)
    pixels[:, 10:] = 127
    raster = write(folder / "half.tif", pixels)
    found = footprint_statistics(raster, shapes_of(box(0, 0, 10, 10), box(10, 0, 20, 10), box(5, 0, 15, 10)))
    assert found["overlap"].tolist() == [0, 1, 0.5]


def test_outside_the_raster_nothing_is_covered(raster):
    found = footprint_statistics(raster, shapes_of(box(-50, 20, -30, 40), box(500, 500, 500.1, 500.1)))
    assert found["coverage"].tolist() == [0, 0]
    assert found["mean"].isna().all()
    assert found["overlap"].isna().all()
    assert found["pixels"].to_numpy() == pytest.approx([400, 0.01])


@pytest.mark.parametrize("window", [zonal.WINDOW, TINY_WINDOWS])
def test_over_the_edge_what_is_beyond_lowers_the_coverage(raster, window):
    over = [box(-10, 10, 10, 30), box(190, 10, 210, 30), box(10, -10, 30, 10), box(190, 190, 210, 210)]
    found = footprint_statistics(raster, shapes_of(*over, box(-100, -100, 300, 300)), window=window)
    assert found["coverage"][:4].to_numpy() == pytest.approx([0.5, 0.5, 0.5, 0.25])
    assert found["pixels"].to_numpy() == pytest.approx([400] * 4 + [160_000])
    assert found["mean"][0] == pytest.approx(noise()[10:30, :10].mean() / 254)
    assert found["coverage"][4] == pytest.approx((SIZE**2 - 30 * 40) / 160_000)


def test_overlapping_shapes_are_judged_as_if_alone(raster):
    shapes = shapes_of(box(10, 10, 60, 60), box(20, 20, 40, 40), box(30, 30, 80, 80), box(10, 10, 60, 60))
    together = footprint_statistics(raster, shapes)
    alone = pd.concat([footprint_statistics(raster, shapes[[i]]) for i in range(4)], ignore_index=True)
    pd.testing.assert_frame_equal(together, alone)
    assert together["pixels"].tolist() == [2500, 400, 2500, 2500]


def test_row_houses_share_out_the_pixels_without_exactextract(raster, monkeypatch):
    without_exactextract(monkeypatch)
    corners = [affinity.rotate(LineString([(x, 80), (x, 110)]), 31, origin=(100, 95)) for x in np.linspace(20, 180, 22)]
    walls = [list(wall.coords) for wall in corners]
    row = [Polygon([*left, *right[::-1]]) for left, right in pairwise(walls)]
    block = Polygon([wall[0] for wall in walls] + [wall[1] for wall in walls[::-1]])
    found = footprint_statistics(raster, shapes_of(*row, block), window=TINY_WINDOWS)
    assert found["pixels"][:21].sum() == found["pixels"][21]
    held = found["pixels"] * found["coverage"]
    assert (found["mean"] * held)[:21].sum() == pytest.approx((found["mean"] * held)[21], rel=1e-12)


def test_a_tiny_shape_takes_the_pixels_it_lies_in(raster):
    shapes = shapes_of(box(20.6, 30.6, 20.9, 30.9), box(20.9, 30.6, 21.2, 30.8), box(110.6, 70.6, 110.9, 70.9))
    found, pixels = footprint_statistics(raster, shapes), noise()
    assert found["mean"][0] == pytest.approx(pixels[30, 20] / 254)
    assert found["mean"][1] == pytest.approx((pixels[30, 20] + 2.0 * pixels[30, 21]) / 3 / 254, rel=1e-6)
    assert found["coverage"].to_numpy() == pytest.approx([1, 1, 0])
    assert found["pixels"].to_numpy() == pytest.approx([0.09, 0.06, 0.09])
    assert math.isnan(found["mean"][2])


def test_a_tiny_shape_on_the_edge_of_the_raster_is_covered_in_part(raster):
    row = footprint_statistics(raster, shapes_of(box(-0.3, 30.6, 0.3, 30.9))).iloc[0]
    assert row["coverage"] == pytest.approx(0.5)
    assert row["mean"] == pytest.approx(noise()[30, 0] / 254)


def test_a_sliver_between_the_pixel_centres_is_weighed_too(raster):
    shapes = shapes_of(box(10, 20.6, 60, 20.9))
    found, expected = footprint_statistics(raster, shapes), oracle(raster, shapes)
    assert found["mean"][0] == pytest.approx(expected["mean"][0])
    assert found["overlap"][0] == pytest.approx(expected["overlap"][0])


@pytest.mark.parametrize("nothing", [Polygon(), MultiPolygon(), None, Point(WEST + 9, NORTH - 9)])
def test_what_has_no_area_has_no_pixels(raster, nothing):
    shapes = np.array([nothing, place(box(10, 10, 20, 20))], dtype=object)
    found = footprint_statistics(raster, shapes)
    assert found["pixels"].tolist() == [0, 100]
    assert found["coverage"].tolist() == [0, 1]
    assert found["mean"].isna().tolist() == [True, False]
    assert found["overlap"].isna().tolist() == [True, False]


def test_no_shapes_give_an_empty_table(raster):
    found = footprint_statistics(raster, np.array([], dtype=object))
    assert found.empty
    assert list(found.columns) == ["pixels", "coverage", "mean", "overlap"]


@pytest.mark.parametrize("window", [zonal.WINDOW, TINY_WINDOWS])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_courtyard_does_not_belong_to_the_house(raster, window, reverse):
    court = Polygon(box(10, 10, 50, 50).exterior, [box(20, 20, 40, 40).exterior])
    shapes = shapes_of(court)
    row = footprint_statistics(raster, shapely.reverse(shapes) if reverse else shapes, window=window).iloc[0]
    pixels = noise()[10:50, 10:50].astype(float)
    pixels[10:30, 10:30] = math.nan
    assert row["pixels"] == 1200
    assert row["mean"] == pytest.approx(np.nanmean(pixels) / 254, rel=1e-12)


def test_the_way_an_outline_runs_does_not_matter(raster):
    shapes = houses(30, seed=11)
    pd.testing.assert_frame_equal(
        footprint_statistics(raster, shapes), footprint_statistics(raster, shapely.reverse(shapes)), rtol=1e-12
    )


def test_the_parts_of_a_multipolygon_are_one_building(raster):
    parts = box(10, 10, 20, 20), Polygon(box(150, 150, 180, 180).exterior, [box(160, 160, 170, 170).exterior])
    both, *each = shapes_of(MultiPolygon(parts), *parts)
    found = footprint_statistics(raster, np.array([both, *each], dtype=object), window=TINY_WINDOWS)
    assert found["pixels"].tolist() == [900, 100, 800]
    assert found["mean"][0] == pytest.approx((found["mean"][1] * 100 + found["mean"][2] * 800) / 900)


def test_a_missing_raster_says_to_predict_again(tmp_path):
    with pytest.raises(VerificationError, match=r"probability\.tif.*run predict again$"):
        footprint_statistics(tmp_path / "probability.tif", houses(1))


def test_a_raster_cut_short_says_to_predict_again(tmp_path):
    file = write(tmp_path / "cut.tif", noise(), compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(VerificationError, match=r"cut\.tif: cannot be read .*run predict again$"):
        footprint_statistics(file, houses(200, margin=5))


def test_a_file_that_is_no_raster_says_to_predict_again(tmp_path):
    file = tmp_path / "note.tif"
    file.write_text("no raster")
    with pytest.raises(VerificationError, match=r"run predict again$"):
        footprint_statistics(file, houses(1))


def test_a_raster_of_another_type_is_refused(tmp_path):
    file = write(tmp_path / "float.tif", noise().astype(np.float32))
    with pytest.raises(VerificationError, match=r"float32 instead of one of uint8; run predict again$"):
        footprint_statistics(file, houses(1))


def test_a_raster_that_is_not_north_up_is_refused(tmp_path):
    file = write(tmp_path / "south.tif", noise(), transform=rasterio.Affine(PIXEL, 0, WEST, 0, PIXEL, NORTH))
    with pytest.raises(VerificationError, match=r"not north up; run predict again$"):
        footprint_statistics(file, houses(1))


def test_a_raster_without_a_crs_is_read_too(folder):
    raster = write(folder / "nowhere.tif", noise(), crs=None)
    found = footprint_statistics(raster, shapes_of(box(20, 20, 30, 30), box(20.6, 30.6, 20.9, 30.9)))
    assert found["coverage"].to_numpy() == pytest.approx([1, 1])
