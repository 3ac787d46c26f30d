"""Step 1, generate-training: photo and footprints -> tiles to learn from.

A tile is an image of the photo, a mask of today's footprints (1 building, 0 none, 255 not to be learned from), a
raster that says which building each pixel belongs to, and a JSON with where it lies. Today's footprints are labels
with mistakes of one kind: what came later is marked as building. The training copes with that (`ml/train.py`); here
the tiles are only split fairly. Every tile belongs to one of the folds of cross-fitting or to the test blocks
(`tiles.Folds`); a footprint across the border of two folds is ignored (255), so that no model has learned from the
label of a building that it judges.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from shapely import STRtree, box

from historymap_lib import artifacts
from historymap_lib.errors import TrainingDataError
from historymap_lib.footprint_source import load_footprints
from historymap_lib.imagery import Photo, open_photo, photo_files
from historymap_lib.offsets import placed
from historymap_lib.progress import Bar
from historymap_lib.tiles import TEST, Folds, Grid, Tile, test_blocks, tiles_over
from historymap_lib.windows import burn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import geopandas as gpd

    from historymap_lib.project import Project

STEP = "generate-training"
IGNORE = 255
BLANK = 2.0
"""A tile whose grey values spread less than this (standard deviation) shows nothing."""
MODULES = ("training_data", "imagery", "footprints", "footprints_osm", "offsets", "tiles", "windows")
CODE = tuple(f"historymap_lib.{name}" for name in MODULES)
PARTS = ("images", "masks", "buildings", "metadata")


@dataclass(frozen=True)
class Generated:
    """What `generate` made."""

    folder: Path
    tiles: int
    skipped: int
    buildings: int
    summary: str


def folds_of(project: Project, grid: Grid) -> Folds:
    """Return the folds of a case."""
    tiles = project.tiles
    return Folds(tiles.folds, tiles.block * tiles.size * tiles.resolution, grid.west, grid.north)


def generate(
    project: Project, *, tiles: int | None = None, output: Path | None = None, picture: bool = True
) -> Generated:
    """Write the most useful `tiles` (default: `tiles.count`) of the area to `output` (default: `paths.training`).

    The folder is replaced as a whole. Tiles without enough photo, and blank ones, are skipped.

    Raises:
        HistorymapError: photo or footprints cannot be used, no tile is fit, or `output` holds something else.
    """
    count = project.tiles.count if tiles is None else tiles
    folder = (output or project.paths.training).resolve()
    refuse_foreign(folder, STEP)
    with open_photo(project) as photo:
        found = load_footprints(project, photo.grid.polygon)
        print(f"footprints: {found.summary()}")  # noqa: T201 - counts are conserved, and shown
        artist = _Artist(project, photo, placed(project, found.frame))
        with artifacts.replacing_folder(folder) as partial:
            for part in PARTS:
                (partial / part).mkdir()
            skipped, samples, ranked = 0, [], artist.ranked()
            photo.prepare([tile.window for tile in ranked[:count]])
            with Bar("tiles", total=min(count, len(ranked)), unit="tile") as bar:
                for tile in ranked:
                    sample = artist.draw(tile)
                    if sample is None:
                        skipped += 1
                        continue
                    _write(partial, sample, photo.grid)
                    samples.append(sample.metadata)
                    bar.step()
                    if len(samples) == count:
                        break
            if not samples:
                raise TrainingDataError(
                    f"{project.file}: no tile of the area has {project.tiles.min_valid:.0%} of the photo on it; "
                    "choose another area.bounds or lower tiles.min_valid"
                )
            artifacts.write_manifest(
                partial,
                step=STEP,
                inputs=[*photo_files(project), project.footprint_file, project.paths.offsets],
                settings=project.settings("area", "photo", "footprints", "tiles"),
                parameters={"tiles": tiles},
                code=CODE,
                tiles=len(samples),
                skipped=skipped,
                footprints=found.counts,
                splits=_tally(sample["split"] for sample in samples),
                folds={
                    "count": project.tiles.folds,
                    "side": artist.folds.side,
                    "west": artist.folds.west,
                    "north": artist.folds.north,
                },
                crs=project.area.crs,
                resolution=project.tiles.resolution,
            )
    if picture:
        draw_sheet(folder)
    text = f"{len(samples)} tiles in {folder} ({skipped} skipped; {_tally(s['split'] for s in samples)})"
    return Generated(folder, len(samples), skipped, len(found.frame), text)


def draw_sheet(folder: Path) -> None:
    """Draw some of the tiles of a folder into a PNG beside it."""
    from historymap_lib.contact_sheet import draw_tiles  # noqa: PLC0415 - it reads tiles by this module

    draw_tiles(folder, folder.with_name(f"{folder.name}.png"))


@dataclass(frozen=True)
class Sample:
    """One tile: image and mask (size x size, uint8), index of the building a pixel (uint16, 0 none), metadata."""

    tile: Tile
    image: np.ndarray
    mask: np.ndarray
    buildings: np.ndarray
    metadata: dict[str, Any]


class _Artist:
    """Draws the tiles of a case."""

    def __init__(self, project: Project, photo: Photo, frame: gpd.GeoDataFrame) -> None:
        self.project, self.photo, self.frame = project, photo, frame
        self.folds = folds_of(project, photo.grid)
        self._tree = STRtree(frame.geometry.to_numpy())
        self._border = self.folds.of_bounds(frame.geometry.bounds.to_numpy()) < 0
        size = project.tiles.size * project.tiles.block
        rows, columns = math.ceil(photo.grid.height / size), math.ceil(photo.grid.width / size)
        self._test = test_blocks(rows, columns, project.tiles.test, project.training.seed)

    def ranked(self) -> list[Tile]:
        """Return all tiles, those with most buildings first, in turn from each fold: each needs its share."""
        tiles = list(tiles_over(self.photo.grid, self.project.tiles.size))
        boxes = [box(*self.photo.grid.bounds_of(tile.window)) for tile in tiles]
        hits, _ = self._tree.query(boxes, predicate="intersects")
        buildings = np.bincount(hits, minlength=len(tiles))
        order = sorted(range(len(tiles)), key=lambda index: (-buildings[index], index))
        queues: dict[int, list[Tile]] = defaultdict(list)
        for index in order:
            queues[self._fold(tiles[index])].append(tiles[index])
        turns = [(turn, fold, tile) for fold, queue in queues.items() for turn, tile in enumerate(queue)]
        return [tile for _, _, tile in sorted(turns, key=lambda item: item[:2])]

    def draw(self, tile: Tile) -> Sample | None:
        """Return the sample of a tile, or None where the photo shows too little."""
        grid, window = self.photo.grid, tile.window
        image, valid = self.photo.read(window)
        enough = valid.any() and valid.mean() >= self.project.tiles.min_valid
        if not enough or image[valid].std() < BLANK:
            return None
        inside = np.sort(self._tree.query(box(*grid.bounds_of(window)), predicate="intersects"))
        shape, transform = (tile.size, tile.size), grid.transform_of(window)
        shapes = self.frame.geometry.to_numpy()[inside]
        labels = burn(shapes, range(1, len(shapes) + 1), shape, transform, np.uint16)
        mask = (labels > 0).astype(np.uint8)
        mask[burn(shapes[self._border[inside]], None, shape, transform, np.uint8) > 0] = IGNORE
        mask[~valid] = IGNORE
        ids = self.frame["building_id"].to_numpy()[inside].tolist()
        return Sample(tile, image, mask, labels, self._describe(tile, ids, float(valid.mean())))

    def _describe(self, tile: Tile, ids: list[str], valid: float) -> dict[str, Any]:
        fold = self._fold(tile)
        return {
            "tile": tile.name,
            "row": tile.row,
            "column": tile.column,
            "bounds": list(self.photo.grid.bounds_of(tile.window)),
            "crs": self.project.area.crs,
            "buildings": len(ids),
            "building_ids": ids,
            "valid": round(valid, 4),
            "fold": fold,
            "split": "test" if fold == TEST else "validation" if fold == 0 else "train",
            "source": self.project.photo_name(),
        }

    def _fold(self, tile: Tile) -> int:
        block = self.project.tiles.block
        if (tile.row // block, tile.column // block) in self._test:
            return TEST
        west, south, east, north = self.photo.grid.bounds_of(tile.window)
        return int(self.folds.of(np.array((west + east) / 2), np.array((south + north) / 2)))


def read_tile(folder: Path, name: str, *parts: str) -> Iterator[np.ndarray]:
    """Yield the named parts (of images, masks, buildings) of a tile.

    Raises:
        TrainingDataError: a file is missing or damaged.
    """
    for part in parts:
        path = folder / part / f"{name}.tif"
        try:
            with rasterio.open(path) as dataset:
                yield dataset.read(1)
        except rasterio.errors.RasterioError as error:
            raise TrainingDataError(f"{path}: cannot be read ({error}); run generate-training again") from error


def read_metadata(folder: Path) -> list[dict[str, Any]]:
    """Return the metadata of all tiles in a folder, sorted by name; an empty list where there is none."""
    found = []
    for path in sorted((folder / "metadata").glob("tile_*.json")):
        value = artifacts.read_json(path)
        if not isinstance(value, dict) or not {"tile", "fold", "bounds"} <= value.keys():
            raise TrainingDataError(f"{path}: is no tile metadata; run generate-training again")
        found.append(value)
    return found


def write_raster(path: Path, values: np.ndarray, bounds: list[float], crs: str, nodata: int | None = None) -> None:
    """Write a GeoTIFF of one band that covers `bounds` (west, south, east, north in `crs`).

    It is made in memory, since GDAL says nothing when the disk is full as it closes a file.

    Raises:
        OSError: the file cannot be written.
    """
    height, width = values.shape
    transform = rasterio.transform.from_bounds(*bounds, width, height)
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": values.dtype.name}
    with rasterio.MemoryFile() as memory:
        with memory.open(crs=crs, transform=transform, nodata=nodata, compress="deflate", **profile) as file:
            file.write(values, 1)
        path.write_bytes(memory.getbuffer())


def _write(folder: Path, sample: Sample, grid: Grid) -> None:
    """Write the four files of a tile."""
    name, bounds, crs = sample.tile.name, list(grid.bounds_of(sample.tile.window)), sample.metadata["crs"]
    write_raster(folder / "images" / f"{name}.tif", sample.image, bounds, crs, nodata=0)
    write_raster(folder / "masks" / f"{name}.tif", sample.mask, bounds, crs)
    write_raster(folder / "buildings" / f"{name}.tif", sample.buildings, bounds, crs)
    text = json.dumps(sample.metadata, indent=2)
    (folder / "metadata" / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def refuse_foreign(folder: Path, step: str) -> None:
    """Refuse to replace a folder that `step` has not made: it may hold someone's work."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        manifest = artifacts.read_manifest(folder) if folder.is_dir() else None
        if manifest is None or manifest.get("step") != step:
            raise TrainingDataError(
                f"{folder}: exists and was not made by {step}; name another folder or empty this one"
            )


def _tally(values: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for value in values:
        counts[value] += 1
    return dict(sorted(counts.items()))
