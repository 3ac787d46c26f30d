"""Phantoms: the shapes of today's buildings moved onto open ground, where the map shows none.

Their scores tell what a footprint looks like to the model where nothing stands (see `calibration`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from shapely import STRtree

from historymap_lib.alignment import moved

if TYPE_CHECKING:
    from shapely import Polygon
    from shapely.geometry.base import BaseGeometry

NEAREST, FARTHEST = 12.0, 250.0
"""Metres that a shape is moved: off its own ground, but within the neighbourhood."""
APART = 1.0
"""Metres between a phantom and any footprint, so that no wall of the house next door looks like its own."""
TRIES = 80
DRAWS = 8
"""Phantoms of a shape at most: with more the verdicts hang less on where they happen to lie."""


def make_phantoms(
    shapes: np.ndarray, within: Polygon, *, most: int = 8000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return shapes (shapely, CRS in metres) moved to where they touch no other, and which shape each was.

    The order of the shapes does not matter, and the same seed gives the same phantoms.

    Args:
        shapes: the footprints.
        within: what the photo covers; phantoms lie in it whole.
        most: how many phantoms at most. Shapes have several where there are few of them, and one has none where it
            finds no open ground in its tries.
        seed: of the places.

    """
    if len(shapes) == 0:
        return np.array([], dtype=object), np.array([], dtype=int)
    rng = np.random.default_rng(seed)
    tree = STRtree(shapes)
    shapely.prepare(within)
    centres = shapely.get_coordinates(shapely.centroid(shapes))
    order = np.lexsort([shapely.area(shapes), *centres.T])
    found: list[BaseGeometry] = []
    origin: list[int] = []
    for _ in range(min(DRAWS, -(-most // len(shapes)))):
        todo = order[rng.permutation(len(shapes))[: 2 * most]]
        for _ in range(TRIES):
            if len(todo) == 0 or len(found) >= most:
                break
            distance = np.sqrt(rng.uniform(NEAREST**2, FARTHEST**2, len(todo)))
            angle = rng.uniform(0, 2 * np.pi, len(todo))
            shift = np.stack([distance * np.cos(angle), distance * np.sin(angle)], 1)
            tried = moved(shapes[todo], shift)
            taken = ~shapely.contains(within, tried)
            taken[tree.query(tried, predicate="dwithin", distance=APART)[0]] = True
            found += tried[~taken].tolist()
            origin += todo[~taken].tolist()
            todo = todo[taken]
    return np.array(found[:most], dtype=object), np.array(origin[:most], dtype=int)
