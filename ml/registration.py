"""Registration: where the photo shows the outlines of a map, by a footprint network and what neighbours agree on.

Maps lie off old photos by some metres, differently from one neighbourhood to the next. So the network is asked about
each outline at shifts on a grid. How sure it is at each of them, and where it sees the building from there, tells how
likely each shift is. A building that came later tells nothing, so the likelihood is that of a mixture. The shifts of a
neighbourhood then follow from those of its buildings and of its neighbours (`historymap_lib.shift_field`).

Measured on Banepa by what is known of 1,150 buildings, in metres (median, and what a tenth lies beyond): a map that is
2.1 (2.9) off a poor photo, and is aligned by edges alone to 1.0 (3.4), comes to 0.7 (1.9); one that is 1.0 (1.8) off
a good photo, and is aligned to 0.6 (1.2), comes to 0.5 (0.9).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import expit, logsumexp

from historymap_lib.alignment import Offsets
from historymap_lib.progress import Bar
from historymap_lib.shift_field import agree

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    See = Callable[[NDArray[np.float64]], tuple[NDArray[np.float32], NDArray[np.float32]]]

WIDE, CLOSE = (4.0, 2.0, 0.5), (1.0, 1.0, 0.25)
"""Two searches, in metres: how far each goes, the step between shifts that are asked about, and that between shifts
that are told apart. Together they must stay within the margin of a chip (`chips`), which is 7.2 m at least."""
CELL = 30.0
"""Metres along a cell at least."""
LARGEST = 20_000_000
"""Numbers in an array of likelihoods at most; over a larger area cells are larger."""
STOOD = 0.7
"""Share of the buildings that the photo shows: its value matters little, but it must be below 1."""
LEAST_SPREAD = 0.5
"""Metres: the network is never surer than this of where it sees a building."""


def register(places: NDArray[np.float64], see: See) -> Offsets:
    """Return the shifts from outlines to where the photo shows their buildings.

    Args:
        places: x and y of the outlines (n x 2, metres).
        see: gives for the shift of each (n x 2: east, north; metres) the logit of "a building fits" (n), and from
            there to the building east, north and standard deviation (n x 3, metres).

    """
    area = np.ptp(places, axis=0) + CELL
    size = len(_axis(WIDE[0], WIDE[2]))
    cell = max(CELL, math.sqrt(float(area.prod()) * size**2 / LARGEST))
    west, north = places[:, 0].min() - cell / 2, places[:, 1].max() + cell / 2
    column = ((places[:, 0] - west) / cell).astype(int)
    row = ((north - places[:, 1]) / cell).astype(int)
    field = Offsets(west, north, cell, np.zeros((2, row.max() + 1, column.max() + 1)))
    asked = sum(len(_axis(*search[:2])) ** 2 for search in (WIDE, CLOSE))
    with Bar("where buildings lie", total=asked * len(places), unit="outline") as bar:
        for reach, coarse, fine in (WIDE, CLOSE):
            own = _likelihood(_axis(reach, coarse), _axis(reach, fine), field.at(*places.T), see, bar)
            cells = np.zeros((*field.shifts.shape[1:], *own.shape[1:]), np.float32)
            np.add.at(cells, (row, column), own)
            shifts, _ = agree(cells, fine)
            field = Offsets(west, north, cell, field.shifts + shifts)
    return field


def _axis(reach: float, step: float) -> NDArray[np.float64]:
    axis: NDArray[np.float64] = np.arange(-round(reach / step), round(reach / step) + 1, dtype=np.float64) * step
    return axis


def _likelihood(
    coarse: NDArray[np.float64], fine: NDArray[np.float64], begin: NDArray[np.float64], see: See, bar: Bar
) -> NDArray[np.float32]:
    """Return the logarithm of the likelihood of each shift of each outline (n x down x right), on the fine axis."""
    count = len(begin)
    logits = np.zeros((count, len(coarse), len(coarse)), np.float32)
    seen = np.zeros((*logits.shape, 3), np.float32)
    for i, east in enumerate(coarse):
        for j, north in enumerate(coarse):
            step = np.array([east, north])
            logits[:, i, j], seen[:, i, j] = see(begin + step)
            seen[:, i, j, :2] += step
            bar.step(count=count)
    surer = _surer(logits, CubicSpline(coarse, np.eye(len(coarse)))(fine))
    there = _density(seen, logits, fine)
    stood = STOOD * expit(logits.max(axis=(1, 2), keepdims=True))
    found = np.log1p(STOOD * (surer - 1)) + np.log1p(stood * (there - 1))
    return np.ascontiguousarray(found.transpose(0, 2, 1)[:, ::-1], np.float32)


def _surer(logits: NDArray[np.float32], between: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many times likelier than on average each shift is; `between` interpolates along an axis."""
    values = np.einsum("fi,nij,gj->nfg", between, logits, between, optimize=True)
    odds: NDArray[np.float64] = np.exp(values - logsumexp(values, axis=(1, 2), keepdims=True)) * len(between) ** 2
    return odds


def _density(seen: NDArray[np.float32], logits: NDArray[np.float32], fine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the density of where the building is seen relative to knowing nothing; each shift counts by its odds."""
    seen = seen.reshape(len(seen), -1, 3)
    weight = np.exp(logits.reshape(len(seen), -1) - logsumexp(logits, axis=(1, 2))[:, None])
    spread = np.maximum(seen[..., 2], LEAST_SPREAD)
    east, north = (np.exp(-0.5 * ((fine - seen[..., axis, None]) / spread[..., None]) ** 2) for axis in (0, 1))
    density: NDArray[np.float64] = np.einsum(
        "nk,nkf,nkg->nfg", weight / (2 * np.pi * spread**2), east, north, optimize=True
    )
    return density * float(len(fine) * (fine[1] - fine[0])) ** 2
