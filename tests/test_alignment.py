"""The offset between map and photo: found where it is known, and nothing invented where nothing is seen."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from case_fixtures import NORTH, TRANSFORM, WEST, write_photo
from hypothesis import given
from hypothesis import strategies as st
from rasterio.features import rasterize
from scipy.ndimage import gaussian_filter

from historymap_lib.alignment import NO_DATA, Offsets, estimate, moved
from historymap_lib.errors import VerificationError

SIDE = 600.0
PIXELS = round(SIDE / 0.5)


@pytest.fixture(scope="module")
def houses():
    """Some 400 houses of today of 50 to 200 m2, turned by their street."""
    rng = np.random.default_rng(1)
    x, y = np.meshgrid(np.arange(15, SIDE - 15, 29.0), np.arange(15, SIDE - 15, 29.0))
    x, y = (part.ravel() + rng.uniform(-5, 5, part.size) for part in (x, y))
    long, short = rng.uniform(9, 14, x.size), rng.uniform(6, 12, x.size)
    shapes = shapely.box(x - long / 2, y - short / 2, x + long / 2, y + short / 2)
    turned = [shapely.affinity.rotate(shape, angle) for shape, angle in zip(shapes, 40 * np.sin(x / 200), strict=True)]
    return shapely.transform(np.array(turned, dtype=object), lambda points: points * (1, -1) + (WEST, NORTH))


def centres(shapes):
    points = shapely.centroid(shapes)
    return shapely.get_x(points), shapely.get_y(points)


def drift(x, y):
    """A shift of about 1.5 m that turns over the town, as old rectifications have."""
    phase = (x - WEST) / 500 + (NORTH - y) / 700
    return np.stack([1.5 * np.cos(phase), 1.5 * np.sin(phase)], 1)


def photographed(path, shapes, shifts, *, nodata=None):
    """Write the probabilities of a model that sees 55 % of the houses, blurred and with noise, where they lay."""
    rng = np.random.default_rng(2)
    stood = rng.random(len(shapes)) < 0.55
    seen = rasterize(moved(shapes, shifts)[stood], out_shape=(PIXELS, PIXELS), transform=TRANSFORM).astype(float)
    noise = gaussian_filter(rng.normal(0, 1, seen.shape), 4)
    values = np.clip(0.05 + 0.8 * gaussian_filter(seen, 2) + 0.1 * noise / noise.std(), 0, 1)
    raster = np.round(values * 254).astype(np.uint8)
    if nodata is not None:
        raster[nodata] = NO_DATA
    write_photo(path, raster, nodata=NO_DATA)
    return path


def test_a_shift_that_differs_by_neighbourhood_is_found_to_half_a_metre(houses, tmp_path):
    x, y = centres(houses)
    known = drift(x, y)
    raster = photographed(tmp_path / "p.tif", houses, known)
    found = estimate(raster, houses, 3.0).at(x, y)
    error = np.hypot(*(found - known).T)
    assert np.median(error) < 0.3
    assert np.quantile(error, 0.95) < 0.6
    assert np.hypot(*known.T).min() == pytest.approx(1.5)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (2.0, -1.0), (-2.5, 2.5)])
def test_one_shift_for_the_whole_town_is_found_everywhere(houses, tmp_path, shift):
    raster = photographed(tmp_path / "p.tif", houses, np.tile(shift, (len(houses), 1)))
    found = estimate(raster, houses, 3.0).at(*centres(houses))
    assert np.hypot(*(found - shift).T).max() < 0.5


def test_neighbourhoods_without_photo_or_without_old_houses_follow_the_town_around_them(houses, tmp_path):
    shift = np.tile((1.5, 1.0), (len(houses), 1))
    raster = photographed(tmp_path / "p.tif", houses, shift, nodata=np.s_[:400, :400])
    found = estimate(raster, houses, 3.0).at(*centres(houses))
    assert np.hypot(*(found - shift).T).max() < 0.5


def test_no_shift_is_longer_than_the_reach(houses, tmp_path):
    raster = photographed(tmp_path / "p.tif", houses, np.tile((2.5, 0.0), (len(houses), 1)))
    assert np.abs(estimate(raster, houses, 1.0).shifts).max() <= 1.0
    assert (estimate(raster, houses, 0.0).shifts == 0).all()


@pytest.mark.parametrize("value", [0, 100, NO_DATA])
def test_where_nothing_is_seen_nothing_is_moved(houses, tmp_path, value):
    write_photo(tmp_path / "p.tif", np.full((300, 400), value, np.uint8), nodata=NO_DATA)
    offsets = estimate(tmp_path / "p.tif", houses, 3.0)
    assert (offsets.shifts == 0).all()
    assert shapely.equals_exact(offsets.move(houses), houses, 0).all()


def test_no_buildings_have_no_offset(tmp_path):
    write_photo(tmp_path / "p.tif", np.full((300, 400), 100, np.uint8), nodata=NO_DATA)
    offsets = estimate(tmp_path / "p.tif", np.array([], dtype=object), 3.0)
    assert len(offsets.move(np.array([], dtype=object))) == 0


def test_a_raster_that_is_damaged_is_told(tmp_path, houses):
    (tmp_path / "p.tif").write_bytes(b"II*\0")
    with pytest.raises(VerificationError, match=r"p\.tif: cannot be read .*; run predict again"):
        estimate(tmp_path / "p.tif", houses, 3.0)


@given(
    east=st.floats(-5, 5), north=st.floats(-5, 5), x=st.floats(-100, 1000), y=st.floats(-100, 1000),
)  # fmt: skip
def test_between_and_beyond_equal_cells_the_shift_is_theirs(east, north, x, y):
    shifts = np.broadcast_to(np.array([east, north])[:, None, None], (2, 3, 4))
    offsets = Offsets(0.0, 900.0, 300.0, shifts)
    assert offsets.at(np.array([x]), np.array([y]))[0] == pytest.approx((east, north), abs=1e-9)


def test_between_the_centres_of_two_cells_the_shift_is_linear():
    shifts = np.array([[[0.0, 2.0]], [[1.0, 1.0]]])
    offsets = Offsets(0.0, 100.0, 100.0, shifts)
    found = offsets.at(np.array([50.0, 75.0, 100.0, 150.0]), np.full(4, 50.0))
    assert found[:, 0] == pytest.approx([0, 0.5, 1, 2])
    assert found[:, 1] == pytest.approx(1)


def test_moving_leaves_the_shapes_given_as_they_are(houses):
    before = shapely.to_wkb(houses)
    there = moved(houses, np.tile((3.0, -4.0), (len(houses), 1)))
    assert (shapely.to_wkb(houses) == before).all()
    assert shapely.area(there) == pytest.approx(shapely.area(houses))
    back = moved(there, np.tile((-3.0, 4.0), (len(houses), 1)))
    assert shapely.equals_exact(back, houses, 1e-6).all()


def test_smoothing_keeps_a_tilt_and_takes_out_what_one_cell_says():
    tilt = np.tile(np.linspace(0, 4, 40), (40, 1))
    tilt[20, 20] += 8.0
    smooth = Offsets(0.0, 1200.0, 30.0, np.stack([tilt, -tilt])).smoothed(150.0)
    assert np.abs(smooth.shifts[0] - np.linspace(0, 4, 40))[:, 10:-10].max() < 0.2
    assert smooth.shifts[1] == pytest.approx(-smooth.shifts[0])
    assert Offsets.constant(2.0, -1.0).smoothed(150.0).shifts.ravel().tolist() == [2.0, -1.0]
