"""Misfits: outlines laid over buildings that do not fit them.

A house stands there, but not the one of this outline: what a model must be shown to learn that a roof under a footprint
is not enough, as where another house has taken the place of an old one. Beside `phantoms`, under which nothing stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely import STRtree

from historymap_lib.alignment import moved
from historymap_lib.phantoms import DRAWS
from historymap_lib.surroundings import turned, wall_axes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

KINDS = ("moved", "turned", "replaced")
SHARE = 0.35, 0.8
"""Of its side that a shape is moved by."""
ANGLE = np.radians(25), np.radians(65)
SIZES = 4.0
"""Another outline is at most so many times as large or as small."""
FITS = 0.6
"""Intersection over union from which an outline fits a building well enough to be its own."""
FITS_TURNED = 0.8
"""The same for a shape turned on its own place: its corners still stick out where those of a square overlap by 0.7."""
TRIES = 6


def make_misfits(
    shapes: NDArray[Any], *, most: int = 8000, seed: int = 0
) -> tuple[NDArray[Any], Indices, NDArray[np.str_]]:
    """Return outlines (shapely, CRS in metres) that do not fit, over which shape each lies, and of which kind it is.

    *moved* is the shape itself, off by `SHARE` of its sides along them or along the diagonal; *turned* is the shape
    turned about its centroid by `ANGLE`, either way; *replaced* is the outline of another shape, about as large or not,
    laid over this one and along its walls. None fits any of the shapes: intersection over union is below `FITS`, or
    below `FITS_TURNED` of a turned one with itself. The order of the shapes does not matter, and the same seed gives
    the same misfits.

    Args:
        shapes: the footprints.
        most: how many misfits at most; `DRAWS` for each shape at most, and fewer where none is found in `TRIES`.
        seed: of what is drawn.

    """
    rng = np.random.default_rng(seed)
    order = np.argsort(shapely.to_wkb(shapes), kind="stable")
    shapes = shapes[order]
    todo = np.resize(rng.permutation(len(shapes)), min(most, DRAWS * len(shapes)) if len(shapes) else 0)
    tree, axes = STRtree(shapes), wall_axes(shapes)
    found = np.empty(len(todo), dtype=object)
    kinds = np.zeros(len(todo), dtype=np.int64)
    missing = np.arange(len(todo))
    for _ in range(TRIES):
        kinds[missing] = rng.integers(0, len(KINDS), len(missing))
        for kind, draw in enumerate((_moved, _turned, _replaced)):
            place = missing[kinds[missing] == kind]
            found[place] = draw(shapes, axes, todo[place], rng)
        limit = np.where(kinds[missing] == KINDS.index("turned"), FITS_TURNED, FITS)
        missing = missing[_fits(found[missing], todo[missing], limit, shapes, tree)]
    done = np.setdiff1d(np.arange(len(todo)), missing)
    return found[done], order[todo[done]], np.array(KINDS)[kinds[done]]


def _moved(shapes: NDArray[Any], axes: Floats, which: Indices, rng: np.random.Generator) -> NDArray[Any]:
    """Return the shapes, each moved along one of its sides or its diagonal."""
    ways = np.array([[1, 0], [0, 1], [1, 1], [1, -1]])[rng.integers(0, 4, len(which))]
    ways = ways / np.hypot(*ways.T)[:, None] * rng.choice([-1, 1], len(which))[:, None]
    along, across = (ways * _sides(shapes[which], axes[which]) * rng.uniform(*SHARE, len(which))[:, None]).T
    return moved(shapes[which], _on_the_map(along, across, axes[which]))


def _turned(shapes: NDArray[Any], _axes: Floats, which: Indices, rng: np.random.Generator) -> NDArray[Any]:
    """Return the shapes, each turned one way or the other."""
    return turned(shapes[which], rng.uniform(*ANGLE, len(which)) * rng.choice([-1, 1], len(which)))


def _replaced(shapes: NDArray[Any], axes: Floats, which: Indices, rng: np.random.Generator) -> NDArray[Any]:
    """Return for each of the shapes another, of a size of its own choice, over it and along its walls."""
    by_size = np.argsort(shapely.area(shapes), kind="stable")
    sizes = shapely.area(shapes)[by_size]
    first, last = (np.searchsorted(sizes, shapely.area(shapes[which]) * factor) for factor in (1 / SIZES, SIZES))
    other = by_size[np.minimum(rng.integers(first, np.maximum(last, first + 1)), len(shapes) - 1)]
    quarter = rng.integers(0, 4, len(which)) * np.pi / 2
    there = turned(shapes[other], axes[which] - axes[other] + quarter)
    off = rng.uniform(-0.25, 0.25, (len(which), 2)) * _sides(shapes[which], axes[which])
    here, were = (shapely.get_coordinates(shapely.centroid(part)) for part in (shapes[which], there))
    return moved(there, here - were + _on_the_map(off[:, 0], off[:, 1], axes[which]))


def _sides(shapes: NDArray[Any], axes: Floats) -> Floats:
    """Return how long each shape is along its axis and across it (n x 2, metres)."""
    west, south, east, north = shapely.bounds(turned(shapes, -axes)).T
    return np.stack([east - west, north - south], axis=1)


def _on_the_map(along: Floats, across: Floats, axes: Floats) -> Floats:
    """Return steps along and across the axes as steps east and north (n x 2)."""
    cosine, sine = np.cos(axes), np.sin(axes)
    return np.stack([along * cosine - across * sine, along * sine + across * cosine], axis=1)


def _fits(
    found: NDArray[Any], origin: Indices, limit: Floats, shapes: NDArray[Any], tree: STRtree
) -> NDArray[np.bool_]:
    """Return which outlines fit a building: their own one by `limit`, or another one."""
    first, other = tree.query(found, predicate="intersects")
    common = shapely.area(shapely.intersection(found[first], shapes[other]))
    union = shapely.area(found[first]) + shapely.area(shapes[other]) - common
    too_well = common >= union * np.where(other == origin[first], limit[first], FITS)
    return np.bincount(first[too_well], minlength=len(found)) > 0
