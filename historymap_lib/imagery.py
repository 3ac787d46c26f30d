"""The photo, whatever it is, as windows of grey pixels on the one grid of a case.

`open_photo` is the only way in. Files are read through a warped view (GDAL's WarpedVRT), so any CRS, resolution and
format is brought onto the grid while reading, a window at a time, and memory does not grow with the photo. A plain file
whose pixels are those of the grid is read as it is: the values are the same, in a thirtieth of the time (measured).
"""

from __future__ import annotations

import math
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import rasterio
from pyproj import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window
from shapely import box

from historymap_lib.artifacts import read_manifest
from historymap_lib.errors import PhotoError
from historymap_lib.imagery_remote import RemoteSource, source_of
from historymap_lib.settings import FilePhoto
from historymap_lib.tiles import Grid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from shapely import Polygon

    from historymap_lib.project import Project

Bounds = tuple[float, float, float, float]
"""West, south, east, north."""

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601: how bright red, green and blue look
RGB = 3
NOT_PIXELS = {"name", "year", "offset"}
"""Settings of a photo that change no pixel."""
PREVIEW = 1024
"""Pixels along the longer side of the reduced read that the contrast stretch is measured on."""
FINER = 1.5
"""A source this many times finer than the grid is averaged; else it is interpolated."""


class Photo:
    """An open photo. `read` gives windows of `grid`; use it as a context manager, one a thread."""

    def __init__(self, sources: Sequence[_Source | RemoteSource], grid: Grid) -> None:
        self.grid = grid
        self._sources = [source for source in sources if _overlap(source.bounds_in(grid.crs), grid.bounds)]
        with ExitStack() as stack:
            for source in self._sources:
                source.open(grid, stack)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Return the grey values (height x width, uint8) and where they are valid (bool) of a window of the grid.

        The window may reach over the grid or over the photo. Valid pixels are 1 to 255; 0 is what the photo does not
        cover, so the grey values alone can be stored.

        Raises:
            PhotoError: the file cannot be read there, for instance since it is cut off.
        """
        shape = (int(window.height), int(window.width))
        grey, valid = np.zeros(shape, np.uint8), np.zeros(shape, bool)
        for source in self._sources:
            if not valid.all() and source.touches(self.grid.bounds_of(window)):
                pixels, covered = source.read(window)
                np.copyto(grey, np.maximum(pixels, 1), where=covered & ~valid)
                valid |= covered
        return grey, valid

    @property
    def remote(self) -> RemoteSource | None:
        """The server that the photo comes from, if one gives it."""
        return next((source for source in self._sources if isinstance(source, RemoteSource)), None)

    def prepare(self, windows: Sequence[Window] | None = None) -> None:
        """Fetch from a server, many at once, what these windows need, or all: it saves time before they are read.

        Raises:
            SourceError: the server does not give it.
        """
        if self.remote is not None:
            self.remote.prepare(windows or [Window(0, 0, self.grid.width, self.grid.height)])


def open_photo(project: Project, *, copy: bool = True) -> Photo:
    """Open the photo of a case on its grid; that of a server from its copy if there is one, unless not `copy`.

    Raises:
        PhotoError: the photo is missing, damaged, has no CRS, or does not reach into the area of the case.
        SourceError: a server does not say what it has.
    """
    sources = _sources(project, copy=copy)
    covered = [source.bounds_in(project.crs) for source in sources]
    west, south, east, north = zip(*covered, strict=True)
    whole = min(west), min(south), max(east), max(north)
    corner = sources[0].corner(project.crs)
    grid = Grid.over(_bounds(project) or whole, project.crs, project.tiles.resolution, corner)
    if not any(_overlap(grid.bounds, bounds) for bounds in covered):
        raise PhotoError(
            f"{project.file}: area.bounds {project.area.bounds} lies outside the photo {sources[0].path}, "
            f"which covers {_rounded(whole)} in {project.area.crs}; correct the one or the other"
        )
    return Photo(sources, grid)


def area_of(project: Project) -> Polygon:
    """Return the area of a case in its CRS: its bounds, or where it has none, those of the photo.

    Raises:
        HistorymapError: there are no bounds, and the photo cannot be opened.
    """
    bounds = _bounds(project)
    if bounds is None:
        with open_photo(project) as photo:
            bounds = photo.grid.bounds
    return box(*bounds)


def photo_files(project: Project) -> list[Path]:
    """Return the files that the photo is read from, for manifests; none where a server gives it.

    Raises:
        PhotoError: one is missing.
    """
    if isinstance(project.photo, FilePhoto):
        return _files(project, project.photo)
    copy = fetched(project)
    return [] if copy is None else [copy]


def fetched(project: Project) -> Path | None:
    """Return the copy of a server's photo that `historymap photo fetch` has made, or None where there is none.

    One that was made for another area, resolution or photo counts as none.
    """
    copy = project.paths.photo
    told = read_manifest(copy) if copy.exists() else None
    made_for = told is not None and told.get("settings") == fetch_settings(project)
    return copy if told is not None and made_for and told.get("size") == copy.stat().st_size else None


def fetch_settings(project: Project) -> dict[str, Any]:
    """Return the settings that a copy of a server's photo depends on."""
    settings = project.settings("area", "photo") | {"tiles": {"resolution": project.tiles.resolution}}
    settings["photo"] = {key: value for key, value in settings["photo"].items() if key not in NOT_PIXELS}
    return settings


def _sources(project: Project, *, copy: bool) -> Sequence[_Source | RemoteSource]:
    if isinstance(project.photo, FilePhoto):
        return [_Source(path, project.photo) for path in _files(project, project.photo)]
    there = fetched(project) if copy else None
    if there is not None:
        return [_Source(there, FilePhoto.model_validate({"path": str(there)}))]
    return [source_of(project, _bounds(project))]


def _files(project: Project, photo: FilePhoto) -> list[Path]:
    files: list[Path] = []
    for name in photo.paths:
        path = project.resolve(name)
        found = sorted(path.parent.glob(path.name)) if "*" in path.name else [path]
        if not found or not found[0].exists():
            raise PhotoError(f"{path}: there is no such photo; correct photo.path in {project.file}")
        files += found
    return files


def _bounds(project: Project) -> Bounds | None:
    """Return the bounds of the area in the CRS of the case, or None for the whole photo."""
    area = project.area
    if area.bounds is None:
        return None
    west, south, east, north = area.bounds
    what = f"{project.file}: area.bounds {area.bounds} in area.bounds_crs {area.bounds_crs}"
    return _reproject(CRS.from_user_input(area.bounds_crs), project.crs, (west, south, east, north), what)


def _reproject(source: CRS, target: CRS, bounds: Bounds, what: str) -> Bounds:
    west, south, east, north = transform_bounds(source.to_wkt(), target.to_wkt(), *bounds, densify_pts=21)
    if not all(math.isfinite(value) for value in (west, south, east, north)):
        raise PhotoError(f"{what} cannot be placed in {target.name}; correct the numbers or the CRS that they are in")
    return west, south, east, north


def _overlap(one: Bounds, other: Bounds) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _rounded(bounds: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.0f}" for value in bounds)


@dataclass(frozen=True)
class _Stretch:
    """The grey values that become black and white."""

    low: float
    high: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        scaled = (values - self.low) * (254 / max(self.high - self.low, 1e-12)) + 1
        return np.clip(np.nan_to_num(scaled), 1, 255).round().astype(np.uint8)


class _Source:
    """One raster file of a photo."""

    def __init__(self, path: Path, settings: FilePhoto) -> None:
        self.path = path
        self._settings = settings
        with self._opened() as dataset:
            if dataset.crs is None or dataset.transform.is_identity:
                raise PhotoError(f"{path}: does not say where it lies (no CRS or no transform); georeference it first")
            self._crs = CRS.from_user_input(dataset.crs)
            if not (self._crs.is_projected or self._crs.is_geographic):
                raise PhotoError(
                    f"{path}: has the CRS {self._crs.name}, which is nowhere on Earth; georeference it first"
                )
            self._bounds = _corners(dataset)
            colours = [i for i, what in enumerate(dataset.colorinterp, 1) if what != ColorInterp.alpha]
            self._bands = colours[:RGB] if len(colours) >= RGB else colours[:1]
            self._palette = _palette(dataset)

    def bounds_in(self, crs: CRS) -> Bounds:
        """Return the bounds of the file in another CRS."""
        what = f"{self.path}: the bounds {_rounded(self._bounds)} in {self._crs.name}"
        return _reproject(self._crs, crs, self._bounds, what)

    def corner(self, crs: CRS) -> tuple[float, float]:
        """Return the north-west corner (east, north) if the file is in `crs`, else the origin of `crs`."""
        return (self._bounds[0], self._bounds[3]) if self._crs == crs else (0.0, 0.0)

    def open(self, grid: Grid, stack: ExitStack) -> None:
        """Open the file as it is if its pixels are those of the grid, else the warped view onto the grid."""
        self._grid, self._extent = grid, self.bounds_in(grid.crs)
        dataset = stack.enter_context(self._opened())
        self._stretch = None if dataset.dtypes[0] == "uint8" else self._measure(dataset)
        west, south, east, north = self._extent
        finer = max(east - west, north - south) / max(dataset.width, dataset.height) * FINER < grid.resolution
        smooth = Resampling.average if finer else Resampling.cubic
        nodata = dataset.nodata if self._settings.nodata is None else self._settings.nodata
        if nodata is None and "float" in dataset.dtypes[0]:
            nodata = math.nan
        alpha = ColorInterp.alpha in dataset.colorinterp
        masked = alpha or MaskFlags.per_dataset in dataset.mask_flag_enums[0]
        plain = not masked and len(self._bands) == dataset.count and self._crs == grid.crs
        begin = _aligned(dataset, grid) if plain else None
        if begin is not None:
            self._view, self._mask, self._hidden = dataset, [], nodata
            self._left, self._top = begin
            return
        self._left = self._top = 0
        self._hidden = nodata if masked else None  # GDAL knows either a mask or a value
        self._mask = [dataset.colorinterp.index(ColorInterp.alpha) + 1 if alpha else dataset.count + 1]
        self._view = stack.enter_context(
            WarpedVRT(
                dataset,
                crs=grid.crs.to_wkt(),
                transform=grid.transform,
                width=grid.width,
                height=grid.height,
                resampling=Resampling.nearest if self._palette is not None else smooth,
                src_nodata=None if masked else nodata,
                add_alpha=not alpha,
            )
        )

    def touches(self, bounds: Bounds) -> bool:
        """Say whether the file reaches into these bounds (in the CRS of the grid)."""
        return _overlap(self._extent, bounds)

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Return grey values and validity; a view cannot read beyond its edge, so this pads."""
        shape = (int(window.height), int(window.width))
        grey, valid = np.zeros(shape, np.uint8), np.zeros(shape, bool)
        left, top = max(0, self._left, window.col_off), max(0, self._top, window.row_off)
        right = min(self._grid.width, self._left + self._view.width, window.col_off + window.width)
        bottom = min(self._grid.height, self._top + self._view.height, window.row_off + window.height)
        if right > left and bottom > top:
            inside = Window(left - self._left, top - self._top, right - left, bottom - top)
            try:
                values = self._view.read([*self._bands, *self._mask], window=inside)
            except RasterioError as error:
                raise self._damaged(error) from error
            bands = values[: len(self._bands)]
            covered = (values[len(self._bands) :] > 0).all(axis=0)
            if values.dtype.kind == "f":
                covered &= np.isfinite(bands).all(axis=0)
            if self._hidden is not None:
                covered &= (bands != self._hidden).any(axis=0)
            part = np.s_[top - window.row_off : bottom - window.row_off, left - window.col_off : right - window.col_off]
            grey[part] = self._grey(bands)
            valid[part] = covered
            grey[~valid] = 0
        return grey, valid

    def _grey(self, bands: np.ndarray) -> np.ndarray:
        if self._palette is not None:
            grey: np.ndarray = self._palette[np.minimum(bands[0], len(self._palette) - 1)]
            return grey
        values = _brightness(bands)
        if self._stretch is not None:
            return self._stretch(values)
        return values if values.dtype == np.uint8 else values.round().astype(np.uint8)

    def _measure(self, dataset: rasterio.DatasetReader) -> _Stretch:
        """Return the stretch from the chosen percentiles of a reduced read."""
        scale = max(1.0, max(dataset.shape) / PREVIEW)
        shape = (len(self._bands), max(1, round(dataset.height / scale)), max(1, round(dataset.width / scale)))
        try:
            values = dataset.read(self._bands, out_shape=shape, masked=True)
        except RasterioError as error:
            raise self._damaged(error) from error
        if self._settings.nodata is not None:
            values = np.ma.masked_equal(values, self._settings.nodata)
        grey = _brightness(values.data.astype(float))[~np.ma.getmaskarray(values).all(axis=0)]
        grey = grey[np.isfinite(grey)]
        if grey.size == 0:
            return _Stretch(0, 1)
        low, high = np.quantile(grey, self._settings.stretch)
        return _Stretch(float(low), float(high))

    def _damaged(self, error: RasterioError) -> PhotoError:
        return PhotoError(f"{self.path}: cannot be read to its end ({error.__cause__ or error}); the file is damaged")

    def _opened(self) -> rasterio.DatasetReader:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # it warns where we raise
            try:
                return rasterio.open(self.path)
            except RasterioError as error:
                raise PhotoError(f"{self.path}: is no raster that GDAL can open ({error}); give another") from error


def _corners(dataset: rasterio.DatasetReader) -> Bounds:
    """Return the bounds, also of a file that is rotated or south up."""
    a, b, c, d, e, f = dataset.transform[:6]
    corners = [(0, 0), (dataset.width, 0), (0, dataset.height), (dataset.width, dataset.height)]
    x, y = [a * i + b * j + c for i, j in corners], [d * i + e * j + f for i, j in corners]
    return min(x), min(y), max(x), max(y)


def _aligned(dataset: rasterio.DatasetReader, grid: Grid) -> tuple[int, int] | None:
    """Return the column and row of the grid where a file in its CRS begins, or None if its pixels are others."""
    size, east, north = grid.resolution, dataset.transform.c, dataset.transform.f
    column, row = round((east - grid.west) / size), round((grid.north - north) / size)
    begin = Window(column, row, dataset.width, dataset.height)
    hundredth = size / 100 / max(dataset.shape)  # of a pixel, at the far corner
    return (column, row) if dataset.transform.almost_equals(grid.transform_of(begin), hundredth) else None


def _brightness(bands: np.ndarray) -> np.ndarray:
    """Return how bright a grey band, or red, green and blue, look."""
    grey: np.ndarray = bands[0] if len(bands) == 1 else np.tensordot(LUMA, bands, axes=1)
    return grey


def _palette(dataset: rasterio.DatasetReader) -> np.ndarray | None:
    """Return the grey value of each palette entry (uint8), or None where the file has no palette."""
    if dataset.colorinterp[0] != ColorInterp.palette:
        return None
    colours = np.array([colour[:RGB] for _, colour in sorted(dataset.colormap(1).items())])
    return _brightness(colours.T).round().astype(np.uint8)
