"""What a display copy holds: the photo or the probabilities in Web Mercator (EPSG:3857), as GeoTIFF with overviews.

Its pixels are those of the tiles of a web map at one zoom, and its blocks are the tiles, so that a tile is read as it
lies. It is warped and written a window at a time.

The photo is one grey band with a mask, compressed as JPEG; it loses a few grey values, so nothing but a map reads it.
The probabilities are red, green, blue and alpha as in the pictures.
"""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform, reproject, transform_bounds
from rasterio.windows import Window

from historymap_lib import artifacts
from historymap_lib.errors import DisplayError
from historymap_lib.imagery import Bounds, open_photo
from historymap_lib.probability import FULL, NO_DATA
from historymap_lib.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from historymap_lib.imagery import Photo
    from historymap_lib.project import Project
    from historymap_lib.tiles import Grid

LAYERS = ("photo", "probability")
MERCATOR, DEGREES = "EPSG:3857", "EPSG:4326"
WORLD = 2 * math.pi * 6_378_137
"""Metres around the Earth in Web Mercator."""
NORTHERNMOST = 85.06
"""Degrees; the square of Web Mercator ends there."""
TILE = 256
MIN_ZOOM, MAX_ZOOM = 3, 24
"""Of a copy; at the least it has as many tiles as are written at a time."""
COARSER = 1.1
"""The pixels of a copy may be this much coarser than the photo's; one zoom more would be four times as many."""
WHOLE = 8
"""Tiles that a copy has a multiple of, so that it has whole tiles three zooms further out too: those at its edge take
thirty times as long where it ends within them (measured). What stands over is empty, and takes no room."""
CHUNK = WHOLE * TILE
"""Pixels that are written at a time, in each direction."""
MARGIN = 4
"""Pixels around a window that the interpolation (cubic) looks at, and one or two to spare."""
QUALITY = 90
"""Of the JPEG; white noise loses 4 grey values on average, photos less."""
GDAL = {
    "GDAL_CACHEMAX": 256 * 2**20,  # bytes, as rasterio wants it
    "GDAL_NUM_THREADS": "ALL_CPUS",
    "GDAL_TIFF_INTERNAL_MASK": True,
    "JPEG_QUALITY_OVERVIEW": QUALITY,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "photo": {"count": 1, "photometric": "minisblack", "compress": "jpeg", "jpeg_quality": QUALITY},
    "probability": {
        "count": 4,
        "photometric": "rgb",
        "alpha": "yes",
        "interleave": "band",
        "compress": "deflate",
        "zlevel": 1,
    },
}
"""How the layers are stored. WebP would make the probabilities four times as small, in three times the time."""


@dataclass(frozen=True)
class Frame:
    """A rectangle of whole tiles of the web map: `columns` x `rows` from tile (`left`, `top`) of a zoom."""

    zoom: int
    left: int
    top: int
    columns: int
    rows: int

    @classmethod
    def over(cls, crs: str, width: int, height: int, bounds: Bounds, what: str) -> Frame:
        """Return the frame for a raster: at the zoom where its pixels are just not lost, and around it.

        Raises:
            DisplayError: the raster reaches to a pole or over the 180th meridian, where Web Mercator ends.

        """
        west, south, east, north = degrees = transform_bounds(crs, DEGREES, *bounds)
        fits = all(math.isfinite(value) for value in degrees) and max(-south, north) < NORTHERNMOST
        if not (fits and west < east):
            raise DisplayError(f"{what}: reaches to a pole or over the 180th meridian; a web map cannot show it")
        transform, *_ = calculate_default_transform(crs, MERCATOR, width, height, *bounds)
        zoom = math.ceil(math.log2(WORLD / TILE / transform.a / COARSER))
        zoom = min(max(zoom, MIN_ZOOM), MAX_ZOOM)
        side = WORLD / 2**zoom * WHOLE
        west, south, east, north = transform_bounds(crs, MERCATOR, *bounds)
        left, right = math.floor((west + WORLD / 2) / side), math.ceil((east + WORLD / 2) / side)
        top, bottom = math.floor((WORLD / 2 - north) / side), math.ceil((WORLD / 2 - south) / side)
        return cls(zoom, left * WHOLE, top * WHOLE, (right - left) * WHOLE, (bottom - top) * WHOLE)

    @property
    def profile(self) -> dict[str, Any]:
        """Where the raster lies, as GDAL wants it."""
        shape = {"width": self.columns * TILE, "height": self.rows * TILE}
        return {"crs": MERCATOR, "transform": self.transform_of(Window(0, 0, 1, 1)), **shape}

    @property
    def halvings(self) -> list[int]:
        """The factors of the overviews: down to a tile for the whole."""
        return [2**level for level in range(1, (max(self.columns, self.rows) - 1).bit_length() + 1)]

    def windows(self) -> list[Window]:
        """Return windows of `CHUNK` x `CHUNK` pixels, row by row."""
        tops, lefts = range(0, self.rows * TILE, CHUNK), range(0, self.columns * TILE, CHUNK)
        return [Window(left, top, CHUNK, CHUNK) for top in tops for left in lefts]

    def transform_of(self, window: Window) -> rasterio.Affine:
        """Return the transform of a window, in metres of Web Mercator."""
        pixel = WORLD / 2**self.zoom / TILE
        west = (self.left * TILE + window.col_off) * pixel - WORLD / 2
        north = WORLD / 2 - (self.top * TILE + window.row_off) * pixel
        return from_origin(west, north, pixel, pixel)


@dataclass(frozen=True)
class _Layer:
    """What is to be copied: `read` gives a window of the frame, bands x height x width (uint8), the last one alpha."""

    frame: Frame
    bounds: Bounds
    read: Callable[[Window], NDArray[np.uint8]]


def write(project: Project, layer: str, path: Path) -> dict[str, Any]:
    """Write a copy, whole or not at all; return its `bounds` (in EPSG:4326) and its `max_zoom`.

    Raises:
        HistorymapError: there is no such photo or raster, or it cannot be read or placed.
        OSError: the copy cannot be written.

    """
    opened = _photo_layer(project) if layer == "photo" else _probability_layer(project)
    with opened as source, artifacts.replacing(path) as partial:
        frame = source.frame
        tiling = {"driver": "GTiff", "dtype": "uint8", "tiled": True, "blockxsize": TILE, "blockysize": TILE}
        room = {"bigtiff": "if_safer", "sparse_ok": True}
        with rasterio.Env(**GDAL):
            with rasterio.open(partial, "w", **tiling, **room, **frame.profile, **OPTIONS[layer]) as target:
                for window in track(frame.windows(), f"{layer} for the map", unit="window"):
                    _put(target, source.read(window), window)
            for factors in track([frame.halvings], "overviews", unit="layer"):
                with rasterio.open(partial, "r+", driver="GTiff") as target:
                    target.build_overviews(factors, Resampling.average)
            _check_whole(partial, len(frame.halvings))
    return {"bounds": list(source.bounds), "max_zoom": frame.zoom}


def _put(target: rasterio.io.DatasetWriter, values: NDArray[np.uint8], window: Window) -> None:
    """Write a window; where nothing is to be seen the file stays empty."""
    if not values[-1].any():
        return
    if target.count == len(values):
        target.write(values, window=window)
    else:
        target.write(values[:-1], window=window)
        target.write_mask(values[-1], window=window)


def _check_whole(path: Path, levels: int) -> None:
    """Read the overviews to their end: GDAL can close a file on a full disk without a word.

    The pixels themselves have been read when the overviews were made.
    """
    try:
        for level in range(levels):
            with rasterio.open(path, overview_level=level) as dataset:
                for _, window in dataset.block_windows(1):
                    dataset.read(window=window)
    except RasterioError as error:
        raise DisplayError(
            f"{path.name}: could not be written whole, most likely for want of disk space; make room"
        ) from error


@contextmanager
def _photo_layer(project: Project) -> Iterator[_Layer]:
    """Yield the photo as the case sees it: grey and alpha."""
    with open_photo(project) as photo:
        photo.prepare()
        grid = photo.grid
        crs = grid.crs.to_wkt()
        frame = Frame.over(crs, grid.width, grid.height, grid.bounds, f"{project.file}: the area")
        bounds = transform_bounds(crs, DEGREES, *grid.bounds)
        yield _Layer(frame, bounds, lambda window: _warped(photo, frame, window))


def _warped(photo: Photo, frame: Frame, window: Window) -> NDArray[np.uint8]:
    """Return grey and alpha of a window of the frame."""
    grey = np.zeros((int(window.height), int(window.width)), np.uint8)
    transform, crs = frame.transform_of(window), photo.grid.crs.to_wkt()
    under = _under(photo.grid, crs, rasterio.transform.array_bounds(*grey.shape, transform))
    if under is not None:
        reproject(
            photo.read(under)[0],
            grey,
            src_transform=photo.grid.transform_of(under),
            src_crs=crs,
            src_nodata=0,
            dst_transform=transform,
            dst_crs=MERCATOR,
            dst_nodata=0,
            resampling=Resampling.cubic,
            num_threads=os.cpu_count() or 1,
        )
    valid = grey > 0
    if valid.any():
        grey[~valid] = grey[valid].mean()  # a black border would ring in the JPEG
    return np.stack([grey, np.where(valid, np.uint8(255), np.uint8(0))])


def _under(grid: Grid, crs: str, bounds: Bounds) -> Window | None:
    """Return the window of the grid that is needed for these bounds in Web Mercator, or None."""
    west, south, east, north = transform_bounds(MERCATOR, crs, *bounds)
    left, right = (math.floor((x - grid.west) / grid.resolution) for x in (west, east))
    top, bottom = (math.floor((grid.north - y) / grid.resolution) for y in (north, south))
    left, top = max(left - MARGIN, 0), max(top - MARGIN, 0)
    right, bottom = min(right + MARGIN, grid.width), min(bottom + MARGIN, grid.height)
    return Window(left, top, right - left, bottom - top) if left < right and top < bottom else None


@contextmanager
def _probability_layer(project: Project) -> Iterator[_Layer]:
    """Yield the probabilities in the colours of the pictures."""
    from historymap_lib.figures import veil  # noqa: PLC0415 - the server, which only looks up copies, needs no pictures

    path = project.paths.probability
    palette = np.zeros((NO_DATA + 1, 4), np.uint8)
    palette[: FULL + 1] = np.round(np.array(veil().colors) * 255)
    with _opened(path) as dataset:
        frame = Frame.over(dataset.crs, dataset.width, dataset.height, dataset.bounds, str(path))
        bounds = transform_bounds(dataset.crs, DEGREES, *dataset.bounds)
        hidden = {"src_nodata": NO_DATA, "nodata": NO_DATA}
        with WarpedVRT(dataset, resampling=Resampling.bilinear, **hidden, **frame.profile) as view:
            yield _Layer(frame, bounds, lambda window: _coloured(view, window, palette, path))


def _opened(path: Path) -> rasterio.DatasetReader:
    try:
        return rasterio.open(path)
    except RasterioError as error:
        raise DisplayError(f"{path}: is no raster that GDAL can open ({error}); run predict again") from error


def _coloured(view: WarpedVRT, window: Window, palette: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    """Return red, green, blue and alpha of a window."""
    try:
        values = view.read(1, window=window)
    except RasterioError as error:
        raise DisplayError(
            f"{path}: cannot be read to its end ({error.__cause__ or error}); run predict again"
        ) from error
    colours: NDArray[np.uint8] = np.ascontiguousarray(palette[values].transpose(2, 0, 1))
    return colours
