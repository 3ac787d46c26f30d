"""Statistics of a raster under many footprints, quickly.

No pixel is labelled and no polygon is burnt. Let S(row, column) be the sum of the pixels of a column above a row. Then
the sum over a polygon is the sum of S where its outline, going round anticlockwise, crosses the middle line of a column
eastward, less the sum of S where it crosses westward: Green's theorem on pixels. A pixel counts when its centre is
inside, as in GDAL. Each footprint is on its own, so overlapping ones need no care; crossings above or below a window
cancel out when moved to its border, so a footprint across several windows is the sum of its parts. The sums are whole
numbers, hence exact.

Footprints too small to hold the centre of a pixel are weighted by the share of each pixel instead (exactextract).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import rasterio
import shapely
from exactextract import exact_extract
from exactextract.feature import JSONFeatureSource
from rasterio.windows import Window
from shapely.geometry import mapping

from historymap_lib.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import geopandas as gpd
    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

ONE = 254
"""The pixel value that stands for probability 1."""
LIKELY = 127
"""The pixel value that stands for probability 0.5."""
WINDOW = (512, 8192)
"""Rows and columns of the windows read: whole blocks of a COG, and wide, since whole rows are added up at once."""


def footprint_statistics(
    raster: Path, shapes: NDArray[Any] | gpd.GeoSeries, *, nodata: int = 255, window: tuple[int, int] = WINDOW
) -> pd.DataFrame:
    """Return what the raster says under each footprint, one row a shape in the order given.

    Args:
        raster: one band of uint8, north up; 0 to 254 stand for probabilities of 0 to 1.
        shapes: valid polygons or multipolygons in the CRS of the raster; empty ones and None have no pixels.
        nodata: the pixel value that stands for no data.
        window: rows and columns that are read at a time; memory is bounded by it.

    Returns:
        `pixels`: how many pixels the footprint covers, those beyond the raster too. The number of pixel centres in
        it, or its area in pixels where it is too small to hold one or reaches over the edge of the raster.
        `coverage`: which share of them holds data, 0 to 1.
        `mean`: mean probability of those that hold data, 0 to 1; nan where none does.
        `overlap`: share of those that hold data with a probability of 0.5 or more; nan where none does.

    Raises:
        VerificationError: the raster is missing, damaged or not one band of uint8.

    """
    shapes = np.asarray(shapes, dtype=object)
    try:
        with rasterio.open(raster, num_threads="all_cpus") as dataset:
            _check(dataset)
            sums, touched = _sum_windows(dataset, shapes, nodata, window)
            area = np.nan_to_num(shapely.area(shapes)) / abs(dataset.transform.determinant)
            within = _within(shapes, dataset.bounds)
            small = np.flatnonzero(touched & (sums["centres"] == 0) & (area > 0))
            for name, values in _weigh(dataset, shapes[small], nodata).items():
                sums[name][small] = values
    except rasterio.errors.RasterioError as error:
        raise VerificationError(f"{raster}: cannot be read ({error}); run predict again") from error
    pixels = np.where(within & (sums["centres"] > 0), sums["centres"], area)
    with np.errstate(invalid="ignore", divide="ignore"):
        return pd.DataFrame(
            {
                "pixels": pixels,
                "coverage": np.where(pixels > 0, np.minimum(sums["valid"] / pixels, 1.0), 0.0),
                "mean": sums["value"] / sums["valid"] / ONE,
                "overlap": sums["likely"] / sums["valid"],
            }
        )


def _check(dataset: DatasetReader) -> None:
    """Refuse a raster that is not one band of uint8, north up."""
    if dataset.count != 1 or dataset.dtypes[0] != "uint8":
        found = f"{dataset.count} band(s) of {dataset.dtypes[0]}"
        raise VerificationError(f"{dataset.name}: holds {found} instead of one of uint8; run predict again")
    if not (dataset.transform.is_rectilinear and dataset.transform.a > 0 > dataset.transform.e):
        raise VerificationError(f"{dataset.name}: is not north up; run predict again")


def _within(shapes: NDArray[Any], bounds: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    """Return which shapes lie wholly in `bounds` (west, south, east, north)."""
    west, south, east, north = shapely.bounds(shapes).T
    return np.asarray((west >= bounds[0]) & (south >= bounds[1]) & (east <= bounds[2]) & (north <= bounds[3]))


def _sum_windows(
    dataset: DatasetReader, shapes: NDArray[Any], nodata: int, size: tuple[int, int]
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_]]:
    """Return sums over the pixels of each shape, and which shapes may touch the raster.

    The sums are whole numbers: `centres` in the raster, `valid` ones, those that are `likely`, and the total `value`.
    """
    sums = {name: np.zeros(len(shapes)) for name in ("centres", "valid", "likely", "value")}
    windows = list(_windows(dataset, size))
    boxes = shapely.box(*np.array([dataset.window_bounds(window) for window in windows]).T)
    which, touching = shapely.STRtree(shapes).query(boxes)
    for number in np.unique(which):
        window, here = windows[number], touching[which == number]
        crossings = _Crossings(shapes[here], dataset.window_transform(window), window.height, window.width)
        for name, values in crossings.sums(dataset.read(1, window=window), nodata).items():
            sums[name][here] += values
    touched = np.zeros(len(shapes), dtype=bool)
    touched[touching] = True
    return sums, touched


def _windows(dataset: DatasetReader, size: tuple[int, int]) -> Iterator[Window]:
    """Yield the windows of at most `size` (rows, columns) that cover the raster, from the north-west."""
    rows, columns = size
    for row in range(0, dataset.height, rows):
        for column in range(0, dataset.width, columns):
            yield Window(column, row, min(columns, dataset.width - column), min(rows, dataset.height - row))


class _Crossings:
    """Where the outlines of shapes cross the middle lines of the pixel columns of a window.

    A crossing has the number of its `shape`, how many pixel centres of the column lie above it (`row`), and a `sign`:
    1 where the outline leaves the shape to the south, -1 where it enters.
    """

    def __init__(self, shapes: NDArray[Any], transform: rasterio.Affine, height: int, width: int) -> None:
        parts, shape_of = shapely.get_parts(shapes, return_index=True)
        rings, part_of = shapely.get_rings(shapely.orient_polygons(parts), return_index=True)
        points, ring_of = shapely.get_coordinates(rings, return_index=True)
        # in pixels, shifted so that the centres of pixels are whole numbers
        x = (points[:, 0] - transform.c) / transform.a - 0.5
        y = (points[:, 1] - transform.f) / transform.e - 0.5
        start = np.flatnonzero(ring_of[1:] == ring_of[:-1])
        eastward = x[start] < x[start + 1]
        # each edge from west to east, so that walls which two houses share are cut at the same place
        west, east = np.where(eastward, start, start + 1), np.where(eastward, start + 1, start)
        first, last = (np.clip(np.ceil(x[end]), 0, width).astype(np.intp) for end in (west, east))
        count = last - first
        edge = np.repeat(np.arange(len(count)), count)
        column = np.arange(len(edge)) + np.repeat(first - (np.cumsum(count) - count), count)
        with np.errstate(invalid="ignore", divide="ignore"):  # edges that run north cross no line
            slope = (y[east] - y[west]) / (x[east] - x[west])
        crossed = y[west][edge] + (column - x[west][edge]) * slope[edge]
        self.row = np.clip(np.ceil(crossed), 0, height).astype(np.intp)
        self.pixel = self.row * width + column
        self.sign = np.where(eastward, 1, -1)[edge]  # anticlockwise, so the outline runs east on the south side
        self.shape = shape_of[part_of[ring_of[start]]][edge]
        self.count = len(shapes)

    def sums(self, pixels: NDArray[np.uint8], nodata: int) -> dict[str, NDArray[np.float64]]:
        """Return the sums of `_sum_windows` over each shape's part of the window (uint8, rows x columns)."""
        valid = pixels != nodata
        centres = self._sum(self.row)
        return {
            "centres": centres,
            "valid": centres if valid.all() else self._sum_pixels(valid),
            "likely": self._sum_pixels((pixels >= LIKELY) & valid),
            "value": self._sum_pixels(pixels * valid),
        }

    def _sum_pixels(self, pixels: NDArray[Any]) -> NDArray[np.float64]:
        """Return the sum over each shape of an array of the window's rows x columns."""
        total = np.zeros((pixels.shape[0] + 1, pixels.shape[1]), dtype=np.int32)
        total[1:] = pixels
        for above, below in pairwise(total):  # whole rows at once: several times faster than np.cumsum
            np.add(above, below, out=below)
        return self._sum(total.ravel()[self.pixel])

    def _sum(self, above: NDArray[Any]) -> NDArray[np.float64]:
        """Return the signed sum over each shape of what lies above its crossings."""
        signed = np.bincount(self.shape, weights=self.sign * above, minlength=self.count)
        return signed.astype(np.float64, copy=False)


def _weigh(dataset: DatasetReader, shapes: NDArray[Any], nodata: int) -> dict[str, NDArray[np.float64]]:
    """Return the sums of `_sum_windows`, without `centres`, with each pixel counting by the share that is covered."""
    features = [{"type": "Feature", "properties": {}, "geometry": mapping(shape)} for shape in shapes]
    source = JSONFeatureSource(features, srs_wkt=dataset.crs.to_wkt() if dataset.crs else None)
    sums = np.zeros((len(shapes), 3))
    for row, feature in zip(sums, exact_extract(dataset, source, ["values", "coverage"]), strict=True):
        values, share = feature["properties"]["values"], feature["properties"]["coverage"]
        valid = values != nodata
        row[:] = share[valid].sum(), share[valid & (values >= LIKELY)].sum(), share[valid] @ values[valid]
    return dict(zip(("valid", "likely", "value"), sums.T, strict=True))
