"""Rasters as people can use them anywhere: cloud optimised GeoTIFF, with overviews, and whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.shutil import copy as copy_raster

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 512
"""Pixels along a block."""


def write_cog(source: Path, target: Path, **options: Any) -> None:
    """Write a raster as COG; `source` is changed: it gets overviews, averaged, down to one block.

    They are made here since GDAL's COG driver left to itself takes three times as long (measured on a town). Of its
    `options` (such as level or predictor) compression and blocks are chosen.
    """
    with rasterio.open(source, "r+") as dataset:
        halvings = math.ceil(math.log2(max(1, max(dataset.shape) / BLOCK)))
        if halvings:
            dataset.build_overviews([2**level for level in range(1, halvings + 1)], Resampling.average)
    copy_raster(source, target, driver="COG", compress="deflate", blocksize=BLOCK, bigtiff="if_safer", **options)


def is_whole(path: Path, source: Path) -> bool:
    """Say whether a COG can be read to its end and has the pixels of its source.

    GDAL can close a file on a full disk without a word.
    """
    try:
        with rasterio.open(path) as made, rasterio.open(source) as raw:
            return all(
                np.array_equal(made.read(1, window=window), raw.read(1, window=window))
                for _, window in made.block_windows(1)
            )
    except RasterioError:
        return False
