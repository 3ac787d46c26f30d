"""What the footprint networks would have seen of a case, without them: what `outline_evidence` keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from case_fixtures import covered, seen, write_probability

from historymap_lib import first_look
from historymap_lib.footprint_source import load_footprints
from historymap_lib.outline_evidence import Looks, OutlineEvidence, trained_file

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from historymap_lib.project import Project

SPACING, EAST = 25.7, 12.5
"""Metres between the buildings of a lattice with room for phantoms, and how far east of a building its phantom lies."""
ALIKE = range(4, 101, 6)
"""Numbers of buildings that look like each other, and of which the network cannot tell whether they stood."""


def look_at_outlines(case: Project, alike: Collection[int] = ALIKE, *, quick: bool = False) -> None:
    """Write what was seen of a lattice: odd numbers stood, except those that look `alike`, which nobody knows.

    Some phantoms look like these too.
    """
    frame = load_footprints(case).frame
    shapes = frame.geometry.to_numpy()
    number = np.array([int(name.split("/")[1]) for name in frame["building_id"]])
    odd = np.isin(number, list(alike))
    host = np.arange(len(shapes))
    phantoms, odd_too = shapely.transform(shapes, lambda xy: np.add(xy, (EAST, 0))), host % 12 == 0
    nothing = _looks(phantoms, np.where(odd_too, 0.0, -4.0), odd_too, host)
    footprints = _looks(shapes, np.where(odd, 0.0, np.where(number % 2, 4.0, -4.0)), odd, host)
    x = shapely.get_coordinates(shapely.centroid(shapes))[:, 0]
    fold = np.full(len(shapes), -1) if quick else (x > np.median(x)).astype(np.int64)
    names, shift = frame["building_id"].to_numpy(np.str_), np.zeros((len(shapes), 2))
    found = OutlineEvidence(names, shift, fold, footprints, nothing, nothing.take(np.arange(0)))
    found.write(first_look.file(case) if quick else trained_file(case))
    if not quick:
        values = seen(dict(zip(number.tolist(), shapes, strict=True)))
        values[covered([*shapes[odd], *phantoms[odd_too]])] = 127
        write_probability(case, values)


def _looks(shapes: NDArray[Any], logits: NDArray[Any], odd: NDArray[Any], host: NDArray[Any]) -> Looks:
    """Return looks with some noise, whose embedding tells the odd ones from all others."""
    rng, count = np.random.default_rng(len(shapes)), len(shapes)
    embedding = np.column_stack([4 * odd + rng.normal(0, 0.3, count), rng.normal(0, 0.3, (count, 5))])
    noisy = (logits + rng.normal(0, 1, count))[:, None]
    whole, tone = np.ones(count, np.float32), np.full((count, 2), [100, 8], np.float32)
    return Looks(shapes, noisy.astype(np.float32), embedding.astype(np.float32), whole, tone, host.astype(np.int64))
