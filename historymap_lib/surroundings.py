"""What the map alone says of the place of a shape: how near its neighbours are, how many, and how they lie to it.

Footprints and phantoms must not differ in any of this (see `phantoms`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely import STRtree

if TYPE_CHECKING:
    from numpy.typing import NDArray

FAR = 50.0
"""Metres up to which there is a neighbourhood; who has no neighbour in it has one at this distance."""
NEAR = 20.0
GAPS = 3
DIGITS = 2
RINGS = (1.0, 3.0, 10.0)
"""Metres around a shape in which the share of covered ground is looked at."""
COLUMNS = (
    *("gap", "second_gap", "third_gap", "turn", "near", "far"),
    *(f"cover_{radius:.0f}" for radius in RINGS),
    *("area", "longest"),
)


def describe_surroundings(
    shapes: NDArray[Any], footprints: NDArray[Any], own: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Return a row of `COLUMNS` for each shape (shapely, CRS in metres), measured against the footprints.

    `gap` to `third_gap` are metres to the three nearest footprints (0 where they touch, `FAR` where there is none),
    `turn` is the angle in degrees between the walls of the shape and of its nearest neighbour (0 to 45), `near` and
    `far` count footprints within `NEAR` and `FAR` metres (the latter by their bounding boxes), `cover_R` is the share
    of the ring of R metres around the shape that footprints cover, `area` is in square metres and `longest` is the
    long side of the bounding box along the walls, in metres.

    Args:
        shapes: what is looked at.
        footprints: who the neighbours are.
        own: for each shape the footprint that it is itself, and that is no neighbour of its own; -1 or None for none.

    """
    count = len(shapes)
    first, other = STRtree(footprints).query(shapely.box(*_widened(shapely.bounds(shapes), FAR).T))
    if own is not None:
        first, other = (part[other != own[first]] for part in (first, other))
    apart = _box_distance(shapely.bounds(shapes)[first], shapely.bounds(footprints)[other])
    first, other, apart = (part[apart <= FAR] for part in (first, other, apart))
    far = np.bincount(first, minlength=count)
    first, other = (part[apart <= NEAR] for part in (first, other))
    gap = np.round(shapely.distance(shapes[first], footprints[other]), 2)
    order = np.lexsort([gap, first])
    first, other, gap = first[order], other[order], gap[order]
    number = np.bincount(first, minlength=count)
    start = np.cumsum(number) - number
    gaps = np.full((count, GAPS), FAR)
    rank = np.arange(len(first)) - start[first]
    gaps[first[rank < GAPS], rank[rank < GAPS]] = gap[rank < GAPS]
    axes, turn = wall_axes(shapes), np.full(count, -1.0)
    nearest = rank == 0
    turn[first[nearest]] = np.degrees(np.abs(turned_by(axes[first[nearest]], wall_axes(footprints[other[nearest]]))))
    near = np.bincount(first[gap <= NEAR], minlength=count)
    covers = [_cover(shapes, footprints, radius, first[gap <= radius], other[gap <= radius]) for radius in RINGS]
    west, south, east, north = shapely.bounds(turned(shapes, -axes)).T
    longest = np.maximum(east - west, north - south)
    table = np.stack([*gaps.T, turn, near, far, *covers, shapely.area(shapes), longest], axis=1)
    return np.round(table, DIGITS)  # the last digits would tell what has been turned from what has not


def wall_axes(shapes: NDArray[Any]) -> NDArray[np.float64]:
    """Return the direction of the walls of each shape in radians, modulo a right angle: the mean by length of wall."""
    coordinates, shape = shapely.get_coordinates(shapes, return_index=True)
    step = np.diff(coordinates, axis=0)
    length = np.where(shape[1:] == shape[:-1], np.hypot(*step.T), 0.0)
    angle = 4 * np.arctan2(step[:, 1], step[:, 0])
    east, north = (
        np.bincount(shape[1:], length * part, minlength=len(shapes)) for part in (np.cos(angle), np.sin(angle))
    )
    return np.arctan2(north, east) / 4


def turned_by(axes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how many radians `axes` are turned against `others`, from -45 to 45 degrees."""
    return (axes - others + np.pi / 4) % (np.pi / 2) - np.pi / 4


def turned(shapes: NDArray[Any], angles: NDArray[np.float64]) -> NDArray[Any]:
    """Return the shapes, each turned about its centroid by its angle (radians, anticlockwise)."""
    coordinates, shape = shapely.get_coordinates(shapes, return_index=True)
    centres = shapely.get_coordinates(shapely.centroid(shapes))[shape]
    east, north = (coordinates - centres).T
    cosine, sine = np.cos(angles)[shape], np.sin(angles)[shape]
    there = np.stack([east * cosine - north * sine, east * sine + north * cosine], axis=1) + centres
    answer: NDArray[Any] = shapely.set_coordinates(shapes.copy(), there)
    return answer


def _cover(
    shapes: NDArray[Any], footprints: NDArray[Any], radius: float, first: NDArray[np.int64], other: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the share of a ring around each shape that is covered, from the pairs that lie so near."""
    wide, place = np.zeros(len(shapes), dtype=object), np.unique(first)
    wide[place] = shapely.buffer(shapes[place], radius, quad_segs=2)
    ring = np.full(len(shapes), np.inf)
    ring[place] = shapely.area(wide[place]) - shapely.area(shapes[place])
    covered = shapely.area(shapely.intersection(wide[first], footprints[other]))
    answer: NDArray[np.float64] = np.bincount(first, covered, minlength=len(shapes)) / ring
    return answer


def _widened(bounds: NDArray[np.float64], by: float) -> NDArray[np.float64]:
    answer: NDArray[np.float64] = bounds + np.array([-by, -by, by, by])
    return answer


def _box_distance(bounds: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    lower = np.maximum(bounds[:, :2], others[:, :2])
    upper = np.minimum(bounds[:, 2:], others[:, 2:])
    east, north = np.maximum(lower - upper, 0.0).T
    answer: NDArray[np.float64] = np.hypot(east, north)
    return answer
