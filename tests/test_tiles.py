"""The grid, its tiles and its folds: invariants of where things lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS
from rasterio.windows import Window

from historymap_lib import tiles
from historymap_lib.tiles import Folds, Grid, Tile, tiles_over

UTM = CRS.from_epsg(25832)
RESOLUTIONS = st.sampled_from([0.1, 0.134, 0.2, 0.25, 0.3, 0.4, 0.5, 1.0, 2.5])
EASTINGS = st.floats(-500_000, 1_000_000)
NORTHINGS = st.floats(-1_000_000, 10_000_000)
SPANS = st.floats(0.01, 5_000)
BORDER = 1e-5
"""Of a pixel: bounds that are whole but for rounding do not grow."""


BOXES = st.builds(
    lambda west, south, width, height: (west, south, west + width, south + height), EASTINGS, NORTHINGS, SPANS, SPANS
)


@given(bounds=BOXES, resolution=RESOLUTIONS, corner=st.tuples(EASTINGS, NORTHINGS))
def test_a_grid_covers_its_bounds_and_less_than_a_pixel_more_and_its_pixels_meet_at_the_corner(
    bounds, resolution, corner
):
    grid = Grid.over(bounds, UTM, resolution, corner)
    steps = (np.array([grid.west, grid.north]) - corner) / resolution
    assert steps == pytest.approx(np.round(steps), abs=BORDER)
    more = (np.array(grid.bounds) - bounds) / resolution * [-1, -1, 1, 1]
    assert (more > -BORDER).all()
    assert (more < 1 + BORDER).all()


@given(
    column=st.integers(0, 10_000_000),
    row=st.integers(0, 10_000_000),
    width=st.integers(1, 5_000),
    height=st.integers(1, 5_000),
    resolution=RESOLUTIONS,
)
def test_bounds_that_are_whole_pixels_do_not_grow(column, row, width, height, resolution):
    bounds = np.array([column, row, column + width, row + height]) * resolution
    grid = Grid.over(tuple(bounds), UTM, resolution)
    assert (grid.width, grid.height) == (width, height)
    assert grid.bounds == pytest.approx(tuple(bounds), abs=BORDER * resolution)
    again = Grid.over(grid.bounds, UTM, resolution)
    assert (again.west, again.north, again.width, again.height) == (grid.west, grid.north, width, height)


def test_a_point_has_a_grid_of_one_pixel():
    grid = Grid.over((10.2, 20.2, 10.2, 20.2), UTM, 1)
    assert (grid.width, grid.height, grid.bounds) == (1, 1, (10, 20, 11, 21))


@given(left=st.integers(-100, 100), top=st.integers(-100, 100), width=st.integers(1, 50), height=st.integers(1, 50))
def test_the_transform_of_a_window_has_the_corners_of_its_bounds(left, top, width, height):
    grid = Grid(UTM, 1000.0, 2000.0, 0.5, 40, 30)
    window = Window(left, top, width, height)
    west, south, east, north = grid.bounds_of(window)
    a, b, c, d, e, f = grid.transform_of(window)[:6]
    assert (c, f, b, d) == (west, north, 0, 0)
    assert (a * width + c, e * height + f) == (east, south)
    assert grid.transform == grid.transform_of(Window(0, 0, 40, 30))
    assert grid.polygon.bounds == grid.bounds == (1000, 1985, 1020, 2000)


@given(width=st.integers(1, 200), height=st.integers(1, 200), size=st.integers(20, 210))
def test_tiles_cover_every_pixel_of_the_grid_once(width, height, size):
    times = np.zeros((height + size, width + size), int)
    found = list(tiles_over(Grid(UTM, 0, 0, 1, width, height), size))
    for tile in found:
        rows, columns = tile.window.toslices()
        assert rows.start < height
        assert columns.start < width
        times[rows, columns] += 1
    assert (times[:height, :width] == 1).all()
    assert len({tile.name for tile in found}) == len(found)


def test_names_sort_from_north_to_south_and_west_to_east():
    names = [tile.name for tile in tiles_over(Grid(UTM, 0, 0, 1, 1200, 1300), 100)]
    assert names == sorted(names)
    assert Tile(3, 12, 64).name == "tile_0003_0012"


@pytest.mark.parametrize("count", range(2, 11))
def test_blocks_that_share_a_side_are_never_in_the_same_fold(count):
    folds = Folds(count, 100.0, 500_000.0, 6_000_000.0)
    x, y = np.meshgrid(500_000.0 + 100 * np.arange(-15, 15) + 50, 6_000_000.0 - 100 * np.arange(-15, 15) - 50)
    found = folds.of(x, y)
    assert (found[:, 1:] != found[:, :-1]).all()
    assert (found[1:] != found[:-1]).all()


@pytest.mark.parametrize("count", range(2, 11))
def test_the_folds_are_all_used_and_about_equally(count):
    x, y = np.meshgrid(np.arange(40) + 0.5, -np.arange(40) - 0.5)
    _, times = np.unique(Folds(count, 1.0, 0.0, 0.0).of(x, y), return_counts=True)
    assert len(times) == count
    assert times.max() - times.min() <= 0.1 * times.mean()


@given(
    count=st.integers(2, 10),
    column=st.integers(-50, 50),
    row=st.integers(-50, 50),
    x=st.floats(0.001, 0.999),
    y=st.floats(0.001, 0.999),
)
def test_every_place_of_a_block_has_the_fold_of_its_centre(count, column, row, x, y):
    folds = Folds(count, 256.0, 570_000.0, 7_030_000.0)
    west, north = folds.west + column * folds.side, folds.north - row * folds.side
    place = folds.of(np.array(west + x * folds.side), np.array(north - y * folds.side))
    assert place == folds.of(np.array(west + folds.side / 2), np.array(north - folds.side / 2))
    assert 0 <= place < count


COORDINATES = st.floats(-300, 300)


@given(count=st.integers(2, 10), west=COORDINATES, south=COORDINATES, width=st.floats(0, 50), height=st.floats(0, 50))
def test_bounds_within_a_block_have_its_fold_and_others_none(count, west, south, width, height):
    folds = Folds(count, 100.0, 0.0, 0.0)
    east, north = west + width, south + height
    corners = {(np.floor(x / 100), np.floor(-y / 100)) for x in (west, east) for y in (south, north)}
    (found,) = folds.of_bounds(np.array([west, south, east, north]))
    if len(corners) > 1:
        assert found == -1
    else:
        assert found == folds.of(np.array(west), np.array(south)) >= 0


def test_no_bounds_have_no_folds():
    assert Folds(2, 100.0, 0.0, 0.0).of_bounds(np.zeros((0, 4))).shape == (0,)


@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    share=st.floats(0, 0.5),
    seed=st.integers(0, 2**31),
)
def test_the_blocks_held_back_are_the_share_asked_for_and_the_same_for_a_seed(rows, columns, share, seed):
    held = tiles.test_blocks(rows, columns, share, seed)
    assert held == tiles.test_blocks(rows, columns, share, seed)
    assert all(0 <= row < rows and 0 <= column < columns for row, column in held)
    if share == 0 or rows * columns < 5:
        assert not held
    else:
        assert len(held) == max(1, round(share * rows * columns))


def test_another_seed_holds_back_other_blocks():
    assert len({frozenset(tiles.test_blocks(10, 10, 0.1, seed)) for seed in range(10)}) == 10


def test_the_blocks_of_the_default_seed_stay_what_they_are():
    assert tiles.test_blocks(3, 3, 0.2, 1937) == {(0, 2), (1, 0)}
