"""What speaks for a building under a footprint: a few numbers, and one score made of them.

The mean probability under a footprint is not all that can be seen. A building also *ends* where its footprint ends: the
probability falls across the outline, and so does the grey of the photo. What each number is worth is learned by telling
footprints from phantoms (`phantoms`) with a logistic regression. Nearly half of the footprints bear the wrong label for
this, but all in the same direction, which leaves the order of the scores as it is (Elkan and Noto 2008, KDD).

Measured on the sample town, per building AUC: mean alone 0.85, with the outline in the probability 0.87, with the
outline in the photo as well 0.915.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import rasterio
import shapely
from rasterio.windows import Window
from scipy.ndimage import gaussian_filter, map_coordinates
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from historymap_lib.probability import FULL, NO_DATA
from historymap_lib.zonal import footprint_statistics

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from historymap_lib.imagery import Photo

    Read = Callable[[Window], np.ndarray]

STEP = 0.5
"""Metres between the places along an outline."""
ACROSS = 1.0
"""Metres from the outline to the places compared, inward and outward."""
INSET = 1.0
RING = (1.5, 4.0)
"""Metres: the inside begins this far in, and the surroundings lie between these two outside."""
BLOCK, MARGIN = 2048, 64
"""Pixels that are read at once, and the margin that filters need."""
GRAIN, AROUND = 1.0, 30.0
"""Standard deviations in pixels: smoothing against grain, and what counts as the neighbourhood of a contrast."""
LEAST = 0.002


def describe(shapes: np.ndarray, raster: Path, photo: Photo | None) -> np.ndarray:
    """Return the evidence for each shape (n x 4, or n x 5 with a photo; float64), nan where there is no data.

    Args:
        shapes: polygons (shapely, CRS of the raster) where the photo shows them.
        raster: the probabilities (uint8, 0 to 254 for 0 to 1, 255 no data).
        photo: the open photo on the grid of the case.

    """
    inner = shapely.buffer(shapes, -INSET)
    inner = np.where(shapely.is_empty(inner), shapes, inner)
    ring = shapely.difference(shapely.buffer(shapes, RING[1]), shapely.buffer(shapes, RING[0]))
    mean, *others = (_logit(footprint_statistics(raster, part)["mean"].to_numpy()) for part in (shapes, inner, ring))
    columns = [mean, *(np.where(np.isnan(other), mean, other) for other in others)]
    points, normals, index = outline(shapes)
    with rasterio.open(raster) as dataset:
        corner = (dataset.transform.c, dataset.transform.f)
        sides = _across(points, normals, corner, dataset.res[0], _probabilities(dataset))
        columns.append(_per_shape(sides[0] - sides[1], index, len(shapes)))
    if photo is not None:
        grid = photo.grid
        sides = _across(points, normals, (grid.west, grid.north), grid.resolution, _greys(photo))
        columns.append(_per_shape(np.abs(sides[0] - sides[1]), index, len(shapes)))
    return np.stack(columns, axis=1)


def score(footprints: np.ndarray, phantoms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of footprints and of phantoms (higher: more like a building) from their evidence, no nan."""
    known = np.concatenate([footprints, phantoms])
    real = np.repeat([1, 0], [len(footprints), len(phantoms)])
    judge = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced")).fit(known, real)
    scores: np.ndarray = judge.decision_function(known)
    return scores[: len(footprints)], scores[len(footprints) :]


def outline(shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return places along all rings (m x 2, metres), their inward normals (m x 2) and the shape of each (m)."""
    parts, of_part = shapely.get_parts(shapely.orient_polygons(shapes, exterior_cw=False), return_index=True)
    rings, of_ring = shapely.get_rings(parts, return_index=True)
    corners, of_corner = shapely.get_coordinates(rings, return_index=True)
    same = of_corner[1:] == of_corner[:-1]
    start, step = corners[:-1][same], np.diff(corners, axis=0)[same]
    length = np.hypot(*step.T)
    count = np.where(length > 0, np.ceil(length / STEP), 0).astype(int)
    side = np.repeat(np.arange(len(count)), count)
    place = (np.arange(len(side)) - np.repeat(np.cumsum(count) - count, count) + 0.5) / count[side]
    along = step[side] / length[side, None]
    normals = np.stack([-along[:, 1], along[:, 0]], axis=1)
    return start[side] + step[side] * place[:, None], normals, of_part[of_ring[of_corner[:-1][same][side]]]


def _across(
    points: np.ndarray, normals: np.ndarray, corner: tuple[float, float], resolution: float, read: Read
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values inward and outward of each place; a block is read only once for both."""
    inward, outward = np.full(len(points), np.nan), np.full(len(points), np.nan)
    column, row = ((points - corner) * (1, -1) / resolution).T
    block = np.floor(row / BLOCK).astype(int) * 10_000 + np.floor(column / BLOCK).astype(int)
    order = np.argsort(block, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
        if len(places) == 0:
            continue
        left = int(column[places[0]] // BLOCK) * BLOCK - MARGIN
        top = int(row[places[0]] // BLOCK) * BLOCK - MARGIN
        values = read(Window(left, top, BLOCK + 2 * MARGIN, BLOCK + 2 * MARGIN))
        shift = normals[places] * ACROSS / resolution
        for target, sign in ((inward, 1), (outward, -1)):
            down, right = row[places] - sign * shift[:, 1] - top - 0.5, column[places] + sign * shift[:, 0] - left - 0.5
            target[places] = map_coordinates(values, [down, right], order=1, mode="nearest")
    return inward, outward


def _probabilities(dataset: rasterio.DatasetReader) -> Read:
    def read(window: Window) -> np.ndarray:
        values = dataset.read(1, window=window, boundless=True, fill_value=NO_DATA)
        return np.where(values == NO_DATA, np.nan, values / FULL)

    return read


def _greys(photo: Photo) -> Read:
    """Return the photo without its grain, in units of the contrast of the neighbourhood."""

    def read(window: Window) -> np.ndarray:
        grey, valid = photo.read(window)
        values = np.where(valid, grey, grey[valid].mean() if valid.any() else 0).astype(np.float32)
        mean = gaussian_filter(values, AROUND, truncate=2)
        spread = np.sqrt(np.maximum(gaussian_filter(values**2, AROUND, truncate=2) - mean**2, 1))
        return np.where(valid, gaussian_filter(values, GRAIN) / spread, np.nan)

    return read


def _per_shape(values: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """Return the mean of the known values of each shape, 0 where none is known."""
    known = ~np.isnan(values)
    total = np.bincount(index[known], values[known], minlength=count)
    means: np.ndarray = total / np.maximum(np.bincount(index[known], minlength=count), 1)
    return means


def _logit(probability: np.ndarray) -> np.ndarray:
    clipped = np.clip(probability, LEAST, 1 - LEAST)
    logits: np.ndarray = np.log(clipped / (1 - clipped))
    return logits
