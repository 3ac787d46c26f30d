"""How well the edges of a picture fit the outlines of today's buildings, for each shift of them, cell by cell.

An old photo has its own tone, and buildings that are gone or stand anew; but where a building of today stood, the grey
changes across its walls. So at each place of the photo stands how strong an edge there is, and which way it runs; the
sum over the outlines of a cell of the edges that run as the walls do is the fit. Which side is the brighter one does
not matter: the angle counts twice, as in the structure tensor (Bigün and Granlund 1987, ICCV), so that opposite
gradients are the same. The probability of a model is a picture too, where it is known that the inside is brighter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.windows import Window
from scipy import fft
from scipy.ndimage import gaussian_filter, uniform_filter
from shapely import STRtree, box

from historymap_lib.outlines import Outlines
from historymap_lib.progress import Bar

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from historymap_lib.tiles import Grid

    Read = Callable[[Window], tuple[NDArray[np.uint8], NDArray[np.bool_]]]

CELL = 30.0
"""Metres along a cell at least."""
FINEST = 0.4
"""Metres: finer pixels are averaged, since the grain of the film is no edge."""
SMOOTH = 0.7
"""Metres (standard deviation) by which a picture is smoothed, at least a pixel."""
AROUND = 60.0
"""Metres: what is usual around a place is what its edges are measured by."""
BEYOND = 6.0
"""Metres beyond the reach that are looked at too: what fits there is chance, and tells how much chance there is."""
BLOCK = 2000
"""About how many pixels are worked on at a time, in each direction."""
LARGEST = 20_000_000
"""Numbers in an array of fits at most; over a larger area cells are larger."""


@dataclass(frozen=True)
class Fits:
    """How well each cell fits at each shift.

    Attributes:
        west: of the first cell, metres.
        north: of the first cell, metres.
        cell: metres along a cell.
        step: metres between two shifts.
        values: (rows, columns, n, n; float32): the fit by (down, right), no shift in the middle.
        length: metres of outlines in each cell (rows, columns).

    """

    west: float
    north: float
    cell: float
    step: float
    values: NDArray[np.float32]
    length: NDArray[np.float64]


def fits(read: Read, grid: Grid, shapes: NDArray[Any], reach: float, *, signed: bool = False) -> Fits:
    """Return how well the outlines of the shapes fit a picture when moved by up to `reach` metres (and `BEYOND`).

    Args:
        read: gives the values and which of them are known of a window of the grid, also beyond it.
        grid: of the picture.
        shapes: polygons in the CRS of the grid.
        reach: metres east, west, north and south.
        signed: whether the inside of a building is known to be brighter.

    """
    factor = max(1, int(FINEST / grid.resolution + 0.01))
    step = grid.resolution * factor
    most = math.ceil((reach + BEYOND) / step)
    area = grid.width * grid.height * grid.resolution**2
    cell = max(CELL, math.sqrt(area * (2 * most + 1) ** 2 / LARGEST))
    side = max(8, math.ceil(cell / step))
    rows, columns = (math.ceil(pixels / factor / side) for pixels in (grid.height, grid.width))
    values = np.zeros((rows, columns, 2 * most + 1, 2 * most + 1), np.float32)
    length = np.zeros((rows, columns))
    work = _Work(read, grid, shapes, factor, most, signed)
    many = max(1, BLOCK // side)
    blocks = [(row, column) for row in range(0, rows, many) for column in range(0, columns, many)]
    with Bar(
        "probabilities and outlines" if signed else "edges and outlines", total=rows * columns, unit="cell"
    ) as bar:
        for row, column in blocks:
            down, right = min(many, rows - row), min(many, columns - column)
            part = np.s_[row : row + down, column : column + right]
            values[part], length[part] = work.fit(row * side, column * side, side, (down, right))
            bar.step(count=down * right)
    return Fits(grid.west, grid.north, side * step, step, values, length)


@dataclass
class _Work:
    """Fits parts of a picture; pixels are those of `factor` x `factor` of the grid."""

    read: Read
    grid: Grid
    shapes: NDArray[Any]
    factor: int
    most: int
    signed: bool

    def __post_init__(self) -> None:
        self.tree = STRtree(self.shapes)
        self.step = self.grid.resolution * self.factor
        self.smooth = max(1.0, SMOOTH / self.step)
        self.pad = math.ceil(4 * self.smooth)

    def fit(
        self, top: int, left: int, side: int, count: tuple[int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return the fits and the metres of outlines of `count` (rows, columns) cells from a pixel on."""
        most, high, wide = self.most, count[0] * side, count[1] * side
        found = np.zeros((*count, 2 * most + 1, 2 * most + 1), np.float32)
        walls, length = self._walls(top, left, high, wide, side)
        if not length.any():
            return found, length
        picture = self._edges(top - most, left - most, high + 2 * most, wide + 2 * most)
        shape = [fft.next_fast_len(side + 2 * most)] * 2
        for row, column in np.argwhere(length):
            seen = picture[row * side : (row + 1) * side + 2 * most, column * side : (column + 1) * side + 2 * most]
            if seen.any():
                wall = walls[row * side : (row + 1) * side, column * side : (column + 1) * side]
                both = fft.fft2(seen, shape) * np.conj(fft.fft2(wall, shape))
                found[row, column] = fft.ifft2(both)[: 2 * most + 1, : 2 * most + 1].real
        return found, length

    def _walls(
        self, top: int, left: int, high: int, wide: int, side: int
    ) -> tuple[NDArray[np.complex64], NDArray[np.float64]]:
        """Return the walls of a part as complex pixels, and the metres of them in each cell."""
        west, north = self.grid.west + left * self.step, self.grid.north - top * self.step
        around = box(west, north - high * self.step, west + wide * self.step, north)
        inside = self.shapes[np.sort(self.tree.query(around, predicate="intersects"))]
        outlines = Outlines(inside, inside)
        column, row = np.floor((outlines.points - (west, north)) * (1, -1) / self.step).astype(int).T
        within = (row >= 0) & (row < high) & (column >= 0) & (column < wide)
        row, column = row[within], column[within]
        way = outlines.normals[within] @ (1, 1j)
        walls = np.zeros((high, wide), np.complex64)
        np.add.at(walls, (row, column), way if self.signed else way**2)
        cells = high // side, wide // side
        length = np.bincount(row // side * cells[1] + column // side, minlength=cells[0] * cells[1]).reshape(cells)
        return walls, length.astype(np.float64)

    def _edges(self, top: int, left: int, high: int, wide: int) -> NDArray[np.complex64]:
        """Return strength and direction of the edges (0 to 1, complex) in a part of the picture."""
        pad, factor = self.pad, self.factor
        top, left, high, wide = top - pad, left - pad, high + 2 * pad, wide + 2 * pad
        window = Window(left * factor, top * factor, wide * factor, high * factor)
        grey, known = _averaged(*self.read(window), factor)
        inner = np.s_[pad:-pad, pad:-pad]
        if not known.any():
            return np.zeros(grey[inner].shape, np.complex64)
        grey = np.where(known, grey, grey[known].mean())
        east = gaussian_filter(grey, self.smooth, order=(0, 1))
        edge = east - 1j * gaussian_filter(grey, self.smooth, order=(1, 0))  # rows count to the south
        whole = uniform_filter(known.astype(np.float32), 2 * round(2 * self.smooth) + 1) > 0.999  # noqa: PLR2004
        strength = np.where(whole, np.abs(edge), 0)
        width = 2 * round(AROUND / self.step) + 1
        share = uniform_filter(whole.astype(np.float32), width)
        usual = np.maximum(uniform_filter(strength, width), 1e-6) / np.maximum(share, 0.05)
        edge = edge / np.maximum(np.abs(edge), 1e-9)
        found: NDArray[np.complex64] = strength / (strength + usual) * (edge if self.signed else edge**2)
        return found[inner].astype(np.complex64)


def _averaged(
    values: NDArray[np.uint8], known: NDArray[np.bool_], factor: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the mean of the known values in squares of `factor` pixels, and where half of them are known."""
    squares = (values.shape[0] // factor, factor, values.shape[1] // factor, factor)
    number = known.reshape(squares).sum(axis=(1, 3))
    total = np.where(known, values, 0).reshape(squares).sum(axis=(1, 3), dtype=np.float32)
    return total / np.maximum(number, 1), number * 2 >= factor**2
