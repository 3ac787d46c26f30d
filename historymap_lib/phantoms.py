"""Phantoms: the shapes of today's buildings moved onto open ground, where the map shows none.

Their scores tell what a footprint looks like to the model where nothing stands (see `calibration`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from shapely import STRtree

from historymap_lib.alignment import moved

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

NEAREST, FARTHEST = 12.0, 250.0
"""Metres that a shape is moved: off its own ground, but within the neighbourhood."""
TRIES = 12


def make_phantoms(shapes: np.ndarray, *, most: int = 4000, seed: int = 0) -> np.ndarray:
    """Return shapes (shapely, CRS in metres) moved to where they touch no other; at most `most`.

    Each shape gets a few tries; one that finds no open ground has no phantom. Some end up beyond the photo, and get no
    score. The same seed gives the same phantoms.
    """
    rng = np.random.default_rng(seed)
    tree = STRtree(shapes)
    todo = rng.permutation(len(shapes))[: 2 * most]
    found: list[BaseGeometry] = []
    for _ in range(TRIES):
        if len(todo) == 0 or len(found) >= most:
            break
        distance = np.sqrt(rng.uniform(NEAREST**2, FARTHEST**2, len(todo)))
        angle = rng.uniform(0, 2 * np.pi, len(todo))
        shift = np.stack([distance * np.cos(angle), distance * np.sin(angle)], 1)
        tried = moved(shapes[todo], shift)
        taken = np.zeros(len(todo), bool)
        taken[tree.query(tried, predicate="intersects")[0]] = True
        found += tried[~taken].tolist()
        todo = todo[taken]
    return np.array(found[:most], dtype=object)
