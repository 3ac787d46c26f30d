"""Pixels as a case sees them, and as they should be: the file after the same warp."""

from __future__ import annotations

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from historymap_lib.imagery import open_photo


def whole(project):
    """Return the grid, and the grey values of all of it."""
    with open_photo(project) as photo:
        grid = photo.grid
        pixels, valid = photo.read(Window(0, 0, grid.width, grid.height))
    assert ((pixels > 0) == valid).all()
    return grid, pixels


def warped(path, lattice, grid):
    """Return the file on the grid, by way of the lattice as the server draws it: bilinear, then as we do."""
    west, south, east, north = lattice.extent
    left, top = np.floor((west - lattice.west) / lattice.pixel), np.floor((lattice.north - north) / lattice.pixel)
    width, height = (int(np.ceil(span / lattice.pixel)) + 8 for span in (east - west, north - south))
    begin = rasterio.Affine(lattice.pixel, 0, lattice.west + (left - 4) * lattice.pixel,
                            0, -lattice.pixel, lattice.north - (top - 4) * lattice.pixel)  # fmt: skip
    shape = {"width": width, "height": height, "transform": begin, "crs": lattice.crs.to_wkt()}
    hidden = {"src_nodata": 0, "nodata": 0}
    with (
        rasterio.open(path) as source,
        WarpedVRT(source, resampling=Resampling.bilinear, **shape, **hidden) as view,
        rasterio.MemoryFile() as memory,
    ):
        with memory.open(driver="GTiff", count=1, dtype="uint8", nodata=0, **shape) as drawn:
            drawn.write(view.read())
        end = {"crs": grid.crs.to_wkt(), "transform": grid.transform, "width": grid.width, "height": grid.height}
        with memory.open() as drawn, WarpedVRT(drawn, resampling=Resampling.cubic, **end, **hidden) as seen:
            return seen.read(1)
