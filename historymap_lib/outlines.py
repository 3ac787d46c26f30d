"""Values of a raster along the outlines of many shapes, so many metres inward or outward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from rasterio.transform import from_origin
from rasterio.windows import Window
from scipy.ndimage import map_coordinates

from historymap_lib.windows import burn

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Read = Callable[[Window], NDArray[Any]]

STEP = 0.5
"""Metres between the places along an outline."""
BLOCK, MARGIN = 2048, 96
"""Pixels that are read at once, and the margin that filters need beyond the farthest place."""


class Outlines:
    """Places along all rings of polygons, every `STEP` metres.

    Attributes:
        points: the places (m x 2, metres).
        normals: of length 1, pointing into the shape (m x 2).
        index: which shape each place belongs to (m).

    """

    def __init__(self, shapes: NDArray[Any], built: NDArray[Any]) -> None:
        """Take the shapes, and `built`: the polygons of ground that does not count as open."""
        self.count = len(shapes)
        self.points, self.normals, self.index = _places(shapes)
        self._built = built
        self._tree = shapely.STRtree(built)

    def values(
        self, read: Read, corner: tuple[float, float], resolution: float, distances: tuple[float, ...]
    ) -> NDArray[Any]:
        """Return the values (distances x places) so many metres inward of each place, nan where there is none.

        Outward (negative) of an outline only open ground has a value: the wall of the house next door says nothing.

        Args:
            read: gives the values of a window, which may reach beyond the raster, with nan where there is no data.
            corner: x and y of the north-western corner of the raster.
            resolution: metres a pixel.
            distances: metres.

        """
        margin = MARGIN + int(np.ceil(np.abs(distances).max() / resolution))
        found = np.full((len(distances), len(self.points)), np.nan, np.float32)
        column, row = ((self.points - corner) * (1, -1) / resolution).T
        block = np.floor(row / BLOCK).astype(int) * 10_000 + np.floor(column / BLOCK).astype(int)
        order = np.argsort(block, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
            if len(places) == 0:
                continue
            left = int(column[places[0]] // BLOCK) * BLOCK - margin
            top = int(row[places[0]] // BLOCK) * BLOCK - margin
            window = Window(left, top, BLOCK + 2 * margin, BLOCK + 2 * margin)
            values, built = read(window), self._burnt(window, corner, resolution)
            for target, distance in zip(found, distances, strict=True):
                right, down = self.normals[places].T * np.array([[1], [-1]]) * distance / resolution
                at = np.stack([row[places] + down - top - 0.5, column[places] + right - left - 0.5])
                target[places] = map_coordinates(values, at, order=1, mode="nearest")
                if distance < 0:
                    near = np.clip(np.round(at).astype(int), 0, values.shape[0] - 1)
                    target[places[built[tuple(near)] > 0]] = np.nan
        return found

    def mean(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the mean of all values (places, or distances x places) of each shape that are known, or nan."""
        known = ~np.isnan(values)
        index = np.broadcast_to(self.index, values.shape)[known]
        number = np.bincount(index, minlength=self.count)
        total = np.bincount(index, values[known], minlength=self.count)
        return np.where(number > 0, total / np.maximum(number, 1), np.nan)

    def _burnt(self, window: Window, corner: tuple[float, float], resolution: float) -> NDArray[Any]:
        """Return where a window is built upon (uint8, 1 built)."""
        west, north = corner[0] + window.col_off * resolution, corner[1] - window.row_off * resolution
        area = shapely.box(west, north - window.height * resolution, west + window.width * resolution, north)
        inside, shape = self._tree.query(area), (window.height, window.width)
        return burn(self._built[inside], None, shape, from_origin(west, north, resolution, resolution), np.uint8)


def _places(shapes: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return points, inward normals and the shape of each."""
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
