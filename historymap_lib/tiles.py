"""The one grid of a case, and the tiles and spatial blocks on it.

Every array in historymap is a window of a `Grid`: a projected CRS in metres, square pixels, north up. Tiles count from
the north-west corner. Blocks of tiles carry the folds of cross-fitting: every place belongs to one fold, and the model
that judges a place has not learned from its fold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rasterio.transform import Affine
from rasterio.windows import Window
from shapely import Polygon, box

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyproj import CRS

TEST = -1
"""Stands for the fold of blocks that no training sees."""


@dataclass(frozen=True)
class Grid:
    """Square pixels of `resolution` metres from the corner (`west`, `north`) in `crs`."""

    crs: CRS
    west: float
    north: float
    resolution: float
    width: int
    height: int

    @classmethod
    def over(
        cls,
        bounds: tuple[float, float, float, float],
        crs: CRS,
        resolution: float,
        corner: tuple[float, float] = (0.0, 0.0),
    ) -> Grid:
        """Return the grid that covers `bounds` (west, south, east, north in `crs`), snapped outward to whole pixels.

        `corner` is a place (east, north) where pixels meet: that of the photo, so that its own pixels come through.
        """
        x, y = corner
        nudge = 1e-6  # so that bounds which are whole already, but for rounding, do not grow
        west, south, east, north = np.subtract(bounds, (x, y, x, y)) / resolution
        left, top = math.floor(west + nudge), math.ceil(north - nudge)
        width = max(1, math.ceil(east - nudge) - left)
        height = max(1, top - math.floor(south + nudge))
        return cls(crs, x + left * resolution, y + top * resolution, resolution, width, height)

    @property
    def transform(self) -> Affine:
        """From pixel (column, row) to metres."""
        return self.transform_of(Window(0, 0, self.width, self.height))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north in metres."""
        return self.bounds_of(Window(0, 0, self.width, self.height))

    @property
    def polygon(self) -> Polygon:
        """The area of the grid."""
        return box(*self.bounds)

    def bounds_of(self, window: Window) -> tuple[float, float, float, float]:
        """Return west, south, east, north of a window in metres."""
        west = self.west + window.col_off * self.resolution
        north = self.north - window.row_off * self.resolution
        return west, north - window.height * self.resolution, west + window.width * self.resolution, north

    def transform_of(self, window: Window) -> Affine:
        """Return the transform of a window."""
        west, _, _, north = self.bounds_of(window)
        return Affine(self.resolution, 0, west, 0, -self.resolution, north)


@dataclass(frozen=True)
class Tile:
    """A square of `size` pixels at (`row`, `column`) of the tiling; at the east and south edge it may stand over."""

    row: int
    column: int
    size: int

    @property
    def name(self) -> str:
        """A name that sorts from north to south: `tile_0003_0012`."""
        return f"tile_{self.row:04d}_{self.column:04d}"

    @property
    def window(self) -> Window:
        """The pixels of the tile on the grid."""
        return Window(self.column * self.size, self.row * self.size, self.size, self.size)


def tiles_over(grid: Grid, size: int) -> Iterator[Tile]:
    """Yield the tiles of `size` pixels that cover the grid, row by row from the north-west."""
    for row in range(math.ceil(grid.height / size)):
        for column in range(math.ceil(grid.width / size)):
            yield Tile(row, column, size)


@dataclass(frozen=True)
class Folds:
    """Which of `count` folds a place belongs to: blocks of `side` metres, dealt out like a chequerboard.

    The blocks are anchored at (`west`, `north`) and reach over the whole plane, so a photo that is larger than the
    training area is covered too. With neighbouring blocks in different folds each fold sees all parts of the town.
    """

    count: int
    side: float
    west: float
    north: float

    def of(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the fold (int64, 0 to `count` - 1) of each place in metres."""
        column = np.floor((np.asarray(x) - self.west) / self.side).astype(np.int64)
        row = np.floor((self.north - np.asarray(y)) / self.side).astype(np.int64)
        step = 1 if self.count <= 3 else 2  # noqa: PLR2004 - so that no two blocks that touch by a side share a fold
        return (row * step + column) % self.count

    def of_bounds(self, bounds: np.ndarray) -> np.ndarray:
        """Return the fold of each bounds (n x 4: west, south, east, north), or -1 where it reaches into several blocks.

        A building on a border is in the labels of both sides, so no member of the model is blind to it.
        """
        west, south, east, north = np.asarray(bounds, dtype=float).reshape(-1, 4).T
        same_column = np.floor((west - self.west) / self.side) == np.floor((east - self.west) / self.side)
        same_row = np.floor((self.north - south) / self.side) == np.floor((self.north - north) / self.side)
        return np.where(same_column & same_row, self.of((west + east) / 2, (south + north) / 2), -1)


def test_blocks(rows: int, columns: int, share: float, seed: int) -> set[tuple[int, int]]:
    """Return the (row, column) of the blocks held back for testing, drawn at random but the same for a seed.

    With fewer than five blocks none is held back: each is needed to learn from.
    """
    blocks = [(row, column) for row in range(rows) for column in range(columns)]
    few = 5
    if share == 0 or len(blocks) < few:
        return set()
    chosen = np.random.default_rng(seed).permutation(len(blocks))[: max(1, round(share * len(blocks)))]
    return {blocks[index] for index in chosen}
