"""Brings the photo of a server down once, as a cloud optimised GeoTIFF on the grid of the case.

Every step after that reads the copy: it is faster, works without the server, and stays the same whatever the server
does. What was fetched before a break lies in the cache of blocks, so that the next run goes on from there.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import rasterio
from rasterio.windows import Window

from historymap_lib import artifacts, imagery_remote
from historymap_lib.cog import BLOCK, is_whole, write_cog
from historymap_lib.errors import PhotoError
from historymap_lib.imagery import fetch_settings, fetched, open_photo
from historymap_lib.progress import Bar
from historymap_lib.settings import FilePhoto

if TYPE_CHECKING:
    from pathlib import Path

    from historymap_lib.imagery import Photo
    from historymap_lib.project import Project

CHUNK = 4096
"""Pixels along a window: some 80 blocks are asked for together, and memory stays below 200 MB."""
CACHE = 128 << 20
"""Bytes of raster blocks that GDAL keeps."""
ROOM = 2.5
"""Bytes of disk a pixel that are needed at most: the pixels as they come, and the compressed copy."""
CODE = tuple(
    f"historymap_lib.{name}"
    for name in ("photo_fetch", "imagery_remote", "photo_services", "photo_wms", "photo_tiles", "capabilities_wmts")
)


@dataclass(frozen=True)
class Fetched:
    """What `fetch` made."""

    path: Path
    covered: float
    summary: str


def fetch(project: Project, *, fresh: bool = False) -> Fetched:
    """Write the copy of a server's photo, whole or not at all, unless there is one that is up to date.

    With `fresh` everything is asked for again, also what is kept from before.

    Raises:
        PhotoError: the photo is a file already, the server has nothing in the area, or the disk has no room.
        SourceError: the server does not give it; what it gave is kept, and another run goes on from there.

    """
    if isinstance(project.photo, FilePhoto):
        raise PhotoError(
            f"{project.file}: the photo is a file already (photo.source is file); there is nothing to fetch"
        )
    path = project.paths.photo
    if fetched(project) is not None and not fresh:
        covered = (artifacts.read_manifest(path) or {}).get("covered", 0.0)
        return Fetched(path, covered, f"{path}: is up to date; ask for it again with --fresh")
    if fresh:
        imagery_remote.forget_offer(project)
    with open_photo(project, copy=False) as photo:
        if fresh and photo.remote is not None:
            photo.remote.cache.forget()
        _check_room(photo, path)
        with artifacts.replacing(path) as partial, rasterio.Env(GDAL_CACHEMAX=CACHE, GDAL_NUM_THREADS="ALL_CPUS"):
            raw = partial.with_name("raw.tif")
            covered = _write(photo, raw)
            if not covered:
                raise PhotoError(
                    f"{project.file}: the server has nothing in the area; compare area.bounds with what "
                    "historymap photo info tells of the photo"
                )
            write_cog(raw, partial, predictor=2)
            if not is_whole(partial, raw):
                raise PhotoError(f"{path}: could not be written whole, most likely for want of disk space; make room")
            size = partial.stat().st_size
        grid = photo.grid
    artifacts.write_manifest(
        path,
        step="photo-fetch",
        inputs={},
        settings=fetch_settings(project),
        parameters={},
        code=CODE,
        covered=covered,
        size=size,
    )
    return Fetched(path, covered, f"{path}: {grid.width} x {grid.height} pixels, {covered:.1%} of the area")


def _write(photo: Photo, path: Path) -> float:
    """Write all windows of the photo as they come; return the share of pixels with data."""
    grid, valid = photo.grid, 0
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "width": grid.width, "height": grid.height}
    tiling = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "bigtiff": "if_safer", "sparse_ok": True}
    place = {"crs": grid.crs.to_wkt(), "transform": grid.transform, "nodata": 0}
    windows = [
        Window(left, top, min(CHUNK, grid.width - left), min(CHUNK, grid.height - top))
        for top in range(0, grid.height, CHUNK)
        for left in range(0, grid.width, CHUNK)
    ]
    remote = photo.remote
    blocks = sum(remote.count(window) for window in windows) if remote else 0
    with (
        rasterio.open(path, "w", **profile, **tiling, **place) as target,
        Bar("photo", total=blocks, unit="block") as bar,
    ):
        if remote:
            remote.on_block = bar.step
        for window in windows:
            grey, seen = photo.read(window)
            valid += int(seen.sum())
            target.write(grey, 1, window=window)
    return valid / (grid.width * grid.height)


def _check_room(photo: Photo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    needed, free = ROOM * photo.grid.width * photo.grid.height, shutil.disk_usage(path.parent).free
    if needed > free:
        raise PhotoError(
            f"{path.parent}: has room for {free / 1e6:,.0f} MB, and the photo may need {needed / 1e6:,.0f} MB; "
            "make room, or set a smaller area.bounds or a larger tiles.resolution"
        )
