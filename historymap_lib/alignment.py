"""How far the map lies off the photo, neighbourhood by neighbourhood.

Old photos are rectified to a metre or three, and the error changes slowly over a town. Where the model sees buildings,
their probability can be laid over the footprints: the shift with the best correlation is the offset. Cells share what
they see with their neighbours, so that a cell of fields, or of estates built later, follows the town around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.windows import Window
from scipy import fft
from scipy.ndimage import gaussian_filter, map_coordinates
from shapely import STRtree, bounds, box, get_coordinates, get_num_coordinates, set_coordinates

from historymap_lib.errors import VerificationError
from historymap_lib.probability import FULL, NO_DATA
from historymap_lib.windows import burn, read_beyond

if TYPE_CHECKING:
    from pathlib import Path

CELL = 120.0
"""Metres along a neighbourhood; what is measured is spread over about three of them."""
TOWN = 0.1
"""Weight of the whole town beside a neighbourhood: it decides where nothing else is seen, however large the town."""


@dataclass(frozen=True)
class Offsets:
    """Shifts from the map to the photo in metres, (2, rows, columns: east, north), for cells from (west, north)."""

    west: float
    north: float
    cell: float
    shifts: np.ndarray

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the shift (n x 2: east, north; metres) at places in the CRS of the raster, linear between cells."""
        rows, columns = (self.north - y) / self.cell - 0.5, (x - self.west) / self.cell - 0.5
        return np.stack([map_coordinates(part, [rows, columns], order=1, mode="nearest") for part in self.shifts], 1)

    def move(self, shapes: np.ndarray) -> np.ndarray:
        """Return the shapes (shapely, in the CRS of the raster) where the photo shows them."""
        if len(shapes) == 0:
            return shapes
        west, south, east, north = bounds(shapes).T
        shift = self.at((west + east) / 2, (south + north) / 2)
        return moved(shapes, shift)

    def smoothed(self, spread: float) -> Offsets:
        """Return the shifts smoothed by a Gaussian of `spread` metres."""
        smooth = [gaussian_filter(part, spread / self.cell, mode="nearest") for part in self.shifts]
        return Offsets(self.west, self.north, self.cell, np.stack(smooth))

    @classmethod
    def constant(cls, east: float, north: float) -> Offsets:
        """Return one shift for all places."""
        return cls(0.0, 0.0, CELL, np.array([east, north], float).reshape(2, 1, 1))


def moved(shapes: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Return the shapes, each moved by its row of `shifts` (n x 2: east, north)."""
    count = get_num_coordinates(shapes)
    answer: np.ndarray = set_coordinates(shapes.copy(), get_coordinates(shapes) + np.repeat(shifts, count, axis=0))
    return answer


def estimate(raster: Path, shapes: np.ndarray, reach: float) -> Offsets:
    """Return the offsets between footprints and probability raster, of at most `reach` metres east or north.

    Raises:
        VerificationError: the raster cannot be read.
    """
    try:
        with rasterio.open(raster) as dataset:
            return _estimate(dataset, np.asarray(shapes, dtype=object), reach)
    except rasterio.errors.RasterioError as error:
        raise VerificationError(f"{raster}: cannot be read ({error}); run predict again") from error


def _estimate(dataset: rasterio.DatasetReader, shapes: np.ndarray, reach: float) -> Offsets:
    resolution = dataset.res[0]
    pixels, side = round(reach / resolution), max(32, round(CELL / resolution))
    rows, columns = math.ceil(dataset.height / side), math.ceil(dataset.width / side)
    tree = STRtree(shapes)
    fits = np.zeros((rows, columns, 2 * pixels + 1, 2 * pixels + 1))
    for row in range(rows):  # a row of cells is read at once: reading each by itself would take most of the time
        band = Window(0, row * side, columns * side, side)
        inside = tree.query(box(*dataset.window_bounds(band)), predicate="intersects")
        mask = burn(shapes[inside], None, (side, columns * side), dataset.window_transform(band), np.uint8)
        around = Window(-pixels, row * side - pixels, columns * side + 2 * pixels, side + 2 * pixels)
        values = read_beyond(dataset, around, NO_DATA)
        for column in range(columns):
            left = column * side
            fits[row, column] = _fit(values[:, left : left + side + 2 * pixels], mask[:, left : left + side])
    shared = gaussian_filter(fits, (1.0, 1.0, 0, 0), mode="constant") + TOWN * fits.mean((0, 1))
    shifts = np.zeros((2, rows, columns))
    for row in range(rows):
        for column in range(columns):
            down, right = _peak(shared[row, column])
            shifts[:, row, column] = (right - pixels) * resolution, (pixels - down) * resolution
    smooth = np.stack([gaussian_filter(part, 0.7, mode="nearest") for part in shifts])
    left, top = dataset.transform.c, dataset.transform.f
    return Offsets(left, top, side * resolution, smooth)


def _fit(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return how well the footprints of a cell fit its probabilities, which have a margin, at each (down, right)."""
    known = values != NO_DATA
    down, right = (1 + whole - part for whole, part in zip(values.shape, mask.shape, strict=True))
    if not known.any() or not mask.any():
        return np.zeros((down, right))
    seen = np.where(known, values / FULL - values[known].mean() / FULL, 0.0)
    # the correlation theorem; going round at the border does not reach the shifts asked for
    both = fft.rfft2(seen) * np.conj(fft.rfft2(mask, seen.shape))
    fit: np.ndarray = fft.irfft2(both, seen.shape)[:down, :right]
    fit -= fit.mean()
    return fit


def _peak(fit: np.ndarray) -> tuple[float, float]:
    """Return the (down, right) of the best fit, between pixels by a parabola; the middle where nothing was seen."""
    middle = fit.shape[0] // 2
    if np.ptp(fit) < 1e-9:  # noqa: PLR2004 - flat
        return middle, middle
    down, right = (int(value) for value in np.unravel_index(fit.argmax(), fit.shape))
    return down + _vertex(fit[:, right], down), right + _vertex(fit[down], right)


def _vertex(line: np.ndarray, peak: int) -> float:
    if not 0 < peak < len(line) - 1:
        return 0.0
    before, at, after = line[peak - 1 : peak + 2]
    bend = before - 2 * at + after
    return 0.0 if bend == 0 else float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5))
