"""Windows of rasters: values also beyond the edge, and shapes burnt into pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.features import rasterize
from rasterio.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterable

    import rasterio


def read_beyond(dataset: rasterio.DatasetReader, window: Window, fill: int) -> np.ndarray:
    """Return the first band in a window, with `fill` beyond the raster; GDAL's own way of that takes much longer."""
    top, left = window.row_off, window.col_off
    bottom, right = top + window.height, left + window.width
    rows, columns = (max(top, 0), min(bottom, dataset.height)), (max(left, 0), min(right, dataset.width))
    if rows[0] >= rows[1] or columns[0] >= columns[1]:
        return np.full((window.height, window.width), fill, dataset.dtypes[0])
    values: np.ndarray = dataset.read(1, window=Window.from_slices(rows, columns))
    beyond = ((rows[0] - top, bottom - rows[1]), (columns[0] - left, right - columns[1]))
    return np.pad(values, beyond, constant_values=fill)


def burn(
    shapes: Iterable[Any], values: Iterable[int] | None, shape: tuple[int, int], transform: Any, dtype: Any
) -> np.ndarray:
    """Return an array with the `values` (default 1) of the `shapes` in the pixels whose centres they cover, else 0."""
    pairs = list(zip(shapes, values, strict=True)) if values is not None else [(item, 1) for item in shapes]
    if not pairs:
        return np.zeros(shape, dtype)
    burnt: np.ndarray = rasterize(pairs, out_shape=shape, transform=transform, dtype=dtype)
    return burnt
