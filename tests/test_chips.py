"""Chips: the photo and the outline in the frame of the outline, wherever, however turned and however large it is."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from outline_fixtures import grid_of, house, reader

from ml.chips import CHIP, CROP, FILL, FINEST, NEAR, Chips, cut_chips, frames_of, signed_distances

EDGE = (CHIP - CROP) // 2
SIDE = 200.0
"""Metres along the photo of these tests."""


def photo_of(shape, resolution=0.5, inside=220, outside=60):
    """Return a photo of SIDE metres with a bright shape, drawn much finer than its pixels."""
    fine = 2
    side = round(SIDE / resolution)
    axis = (np.arange(side * fine) + 0.5) * resolution / fine
    x, y = np.meshgrid(axis, SIDE - axis)
    share = shapely.contains_xy(shape, x, y).reshape(side, fine, side, fine).mean(axis=(1, 3))
    return np.round(outside + (inside - outside) * share).astype(np.uint8)


def places(frame):
    """Return x and y of the pixels of a crop (CROP, CROP) in metres."""
    axis = np.arange(CROP) + 0.5 - CROP / 2
    right, up = np.meshgrid(axis * frame[3], -axis * frame[3])
    cos, sin = np.cos(frame[2]), np.sin(frame[2])
    return frame[0] + right * cos - up * sin, frame[1] + right * sin + up * cos


def crop(chips, index=0):
    return chips.photo[index, EDGE:-EDGE, EDGE:-EDGE]


@st.composite
def outlines(draw):
    """Polygons of 4 to 80 metres: stars about a middle, some with a court, some of two parts."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    parts = []
    for part in range(draw(st.integers(1, 2))):
        count, size = draw(st.integers(3, 24)), draw(st.floats(4, 80))
        angle = np.sort(rng.uniform(0, 2 * np.pi, count))
        radius = size / 2 * rng.uniform(0.5, 1, count)
        ring = np.stack([100 + 90 * part + radius * np.cos(angle), 100 + radius * np.sin(angle)], 1)
        shape = shapely.make_valid(shapely.Polygon(ring))
        court = shapely.Point(ring.mean(axis=0)).buffer(size / 9, quad_segs=2)
        parts.append(shape.difference(court) if draw(st.booleans()) else shape)
    whole = shapely.union_all(parts)
    polygons = [one for one in shapely.get_parts(whole) if one.geom_type == "Polygon" and one.area > 1]
    assume(polygons)
    return shapely.MultiPolygon(polygons) if len(polygons) > 1 else polygons[0]


@settings(max_examples=40)
@given(shapes=st.lists(outlines(), min_size=1, max_size=4))
def test_distances_are_those_of_shapely_to_a_tenth_of_a_pixel(shapes):
    shapes = np.array(shapes, dtype=object)
    frames = frames_of(shapes)
    found = signed_distances(shapes, frames).astype(float) / NEAR
    for shape, frame, distance in zip(shapes, frames, found, strict=True):
        points = shapely.points(*places(frame))
        expected = shapely.distance(shapely.boundary(shape), points) / frame[3]
        inside = shapely.contains(shape, points)
        near = expected < 7
        assert np.abs(np.abs(distance) - expected)[near].max() < 0.1
        assert (np.abs(distance)[~near] > 6.8).all()
        clear = expected > 0.1
        assert ((distance > 0) == inside)[clear].all()


@settings(max_examples=15)
@given(
    angle=st.floats(-np.pi, np.pi),
    length=st.floats(6, 70),
    ratio=st.floats(0.4, 1),
    resolution=st.sampled_from([0.25, 0.5, 1.0]),
)
def test_a_bright_roof_is_bright_in_its_chip_and_the_ground_is_not(angle, length, ratio, resolution):
    shape = house(100, 100, length, length * ratio, angle)
    photo = photo_of(shape, resolution)
    chips = cut_chips(reader(photo), grid_of(photo, resolution), np.array([shape], dtype=object))
    # away from the outline by more than the photo is blurred by its pixels
    clear = 1 + 1.5 * resolution / chips.frames[0, 3]
    distance = chips.distance[0] / NEAR
    known = crop(chips) > 0
    assert (crop(chips)[(distance > clear) & known] > 215).all()
    assert (crop(chips)[(distance < -clear) & known] < 65).all()
    assert chips.coverage()[0] == pytest.approx(1, abs=0.001)


def test_the_long_side_lies_level_and_takes_what_it_may_of_a_crop():
    small, large = house(100, 100, 9, 6, 0.7), house(100, 100, 90, 30, -1.2)
    frames = frames_of(np.array([small, large], dtype=object))
    assert frames[:, :2] == pytest.approx(np.full((2, 2), 100.0))
    assert np.cos(2 * (frames[:, 2] - [0.7, -1.2])) == pytest.approx([1, 1])  # it may lie the other way round
    assert frames[:, 3] == pytest.approx([FINEST, 90 / (FILL * CROP)])
    wide = signed_distances(np.array([large], dtype=object), frames[1:])[0] > 0
    assert (wide.any(axis=0).sum(), wide.any(axis=1).sum()) == pytest.approx((FILL * CROP, FILL * CROP / 3), abs=1)


def test_a_building_larger_than_a_crop_of_the_finest_pixels_is_seen_whole():
    shape = house(100, 100, 120, 60, 0.3)
    photo = photo_of(shape, 0.25)
    chips = cut_chips(reader(photo), grid_of(photo, 0.25), np.array([shape], dtype=object))
    bright = crop(chips) > 140
    assert (bright == (chips.distance[0] > 0)).mean() > 0.99
    assert bright.any(axis=0).sum() < CROP


def test_where_there_is_no_photo_there_is_no_data():
    shape = house(4, 190, 30, 20, 0.4)  # in the north-western corner
    photo = photo_of(shape)
    photo[:, 30:40] = 0  # a strip of 5 m without data
    chips = cut_chips(reader(photo), grid_of(photo), np.array([shape], dtype=object))
    x, y = places(chips.frames[0])
    within = (x > 1) & (y < SIDE - 1)
    beyond = (x < -1) | (y > SIDE + 1)
    strip = (x > 16) & (x < 19)
    assert (crop(chips)[within & ((x < 14) | (x > 21))] > 0).all()
    assert (crop(chips)[beyond | strip] == 0).all()
    on_photo = shape.intersection(shapely.box(0, 0, SIDE, SIDE)).difference(shapely.box(15, 0, 20, SIDE))
    assert chips.coverage()[0] == pytest.approx(on_photo.area / shape.area, abs=0.03)


def test_tone_is_that_of_what_is_known_and_nothing_where_nothing_is():
    photo = np.full((400, 400), 90, np.uint8)
    photo[:, 200:] = 0
    shapes = np.array([house(50, 100, 9, 7, 0), house(150, 100, 9, 7, 0)], dtype=object)
    chips = cut_chips(reader(photo), grid_of(photo), shapes)
    assert chips.tone()[0] == pytest.approx([90, 0], abs=0.01)
    assert np.isnan(chips.tone()[1]).all()
    assert chips.coverage().tolist() == [1, 0]


def test_neither_the_order_nor_the_company_of_outlines_makes_a_difference():
    rng = np.random.default_rng(0)
    photo = rng.integers(1, 255, (2300, 1200), dtype=np.uint8)  # over the borders of several blocks
    x, y, angle = rng.uniform(5, 595, 60), rng.uniform(5, 1145, 60), rng.uniform(-3, 3, 60)
    shapes = np.array(
        [house(*one, 8 + index % 40, 7, a) for index, (*one, a) in enumerate(zip(x, y, angle, strict=True))]
    )
    read, grid = reader(photo), grid_of(photo)
    counted = []
    whole = cut_chips(read, grid, shapes, counted.append)
    assert sum(counted) == 60
    order = rng.permutation(60)
    shuffled = cut_chips(read, grid, shapes[order])
    one_by_one = Chips.join([cut_chips(read, grid, shapes[index : index + 1]) for index in range(60)])
    for other in (shuffled.take(np.argsort(order)), one_by_one):
        assert (other.distance == whole.distance).all()
        assert np.abs(other.photo.astype(int) - whole.photo).max() <= 1  # of rounding


def test_no_outlines_give_no_chips():
    chips = cut_chips(reader(np.full((9, 9), 9, np.uint8)), grid_of(np.zeros((9, 9))), np.array([], dtype=object))
    assert (len(chips), chips.photo.shape, chips.distance.shape) == (0, (0, CHIP, CHIP), (0, CROP, CROP))
