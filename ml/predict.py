"""Step 3, predict: photo and model -> the probability that a pixel is building, as a COG.

    python ml/predict.py --config ml/config_1937.yaml

The photo is predicted block by block of the folds (`tiles.Folds`), each by the one member of the model that has not
learned from there. Inside a block, windows overlap and are blended with weights that fall towards their edges; a margin
beyond the block gives context and is thrown away. Only one block is in memory.

Probabilities are rounded to 0..254 before blending and blended in whole numbers, so a model that answers a constant
gives exactly that constant everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window

from historymap_lib import artifacts
from historymap_lib.errors import ModelError
from historymap_lib.figures import draw_probability
from historymap_lib.imagery import Photo, open_photo, photo_files
from historymap_lib.probability import FULL, NO_DATA
from historymap_lib.progress import track
from historymap_lib.settings import DIVISOR
from ml import runtime
from ml.checkpoint import load_model
from ml.runner import Runner, make_runner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from historymap_lib.project import Project
    from historymap_lib.tiles import Folds, Grid

LIBRARY = ("imagery", "probability", "tiles")
CODE = ("ml.predict", "ml.model", "ml.runner", *(f"historymap_lib.{name}" for name in LIBRARY))
CALIBRATION = 24
"""Windows of the photo that the 8-bit form of a network is measured on."""
CACHE_MB = 256


@dataclass(frozen=True)
class Predicted:
    """What `predict` made."""

    raster: Path
    covered: float
    summary: str


@dataclass(frozen=True)
class Block:
    """A part of the photo in one fold: `core` is what it answers for, on the grid."""

    fold: int
    core: Window


def predict(project: Project, *, picture: bool = True) -> Predicted:
    """Write `probability.tif`: uint8, 0 to 254 for probability 0 to 1, 255 where the photo has no data.

    Raises:
        HistorymapError: the photo or the model cannot be used, or the model is for another resolution.
    """
    runtime.prepare()
    model, paths = load_model(project.paths.model), project.paths
    if not math.isclose(model.resolution, project.tiles.resolution):
        raise ModelError(
            f"{paths.model}: has learned at {model.resolution} m a pixel, {project.file} asks for "
            f"{project.tiles.resolution}; set tiles.resolution to the former or train again"
        )
    with open_photo(project) as photo:
        with artifacts.replacing(paths.probability) as partial:
            layout = Layout(photo.grid, model.folds, project.tiles.size, project.prediction.overlap)
            samples = _samples(photo, layout)
            pixels = photo.grid.width * photo.grid.height // len(model.members)
            runners = [make_runner(member, project.prediction, samples, pixels) for member in model.members]
            raw = partial.with_name("raw.tif")
            covered = _write_blocks(photo, layout, runners, raw, project.prediction.batch_size)
            _as_cog(raw, partial)
            _check_whole(partial, raw)
        settings = project.settings("area", "photo", "tiles", "prediction")
        inputs = [*photo_files(project), paths.model]
        artifacts.write_manifest(
            paths.probability,
            step="predict",
            inputs=inputs,
            settings=settings,
            parameters={},
            code=CODE,
            covered=covered,
        )
        if picture:
            draw_probability(photo, paths.probability, paths.predictions / "probability.png")
    return Predicted(paths.probability, covered, f"{paths.probability}: {covered:.1%} of the area is on the photo")


class Layout:
    """How a grid is cut into blocks and windows.

    Each block of the folds is cut into equal cores of about `size` pixels, each with a margin of `overlap` x `size` / 2
    on all sides, rounded up so that windows are multiples of 32 pixels.
    """

    def __init__(self, grid: Grid, folds: Folds, size: int, overlap: float) -> None:
        self.grid, self.folds = grid, folds
        self.side = max(1, round(folds.side / grid.resolution))
        self.parts = math.ceil(self.side / size)
        self.core = math.ceil(self.side / self.parts)
        self.window = math.ceil(self.core * (1 + overlap) / DIVISOR) * DIVISOR
        self.margin = (self.window - self.core) // 2
        self._left = round((folds.west - grid.west) / grid.resolution) % self.side - self.side
        self._top = round((grid.north - folds.north) / grid.resolution) % self.side - self.side

    def blocks(self) -> list[Block]:
        """Return the blocks that touch the grid, row by row; their cores are cut at its edge."""
        found = []
        for top in range(self._top, self.grid.height, self.side):
            for left in range(self._left, self.grid.width, self.side):
                right, bottom = min(left + self.side, self.grid.width), min(top + self.side, self.grid.height)
                if right > 0 and bottom > 0:
                    core = Window(max(left, 0), max(top, 0), right - max(left, 0), bottom - max(top, 0))
                    west, south, east, north = self.grid.bounds_of(Window(left, top, self.side, self.side))
                    fold = int(self.folds.of(np.array((west + east) / 2), np.array((south + north) / 2)))
                    found.append(Block(fold, core))
        return found

    def windows(self, block: Block) -> Iterator[Window]:
        """Yield the windows (all of the same size) that cover the core of a block."""
        core = block.core
        for top in range(core.row_off, core.row_off + core.height, self.core):
            for left in range(core.col_off, core.col_off + core.width, self.core):
                yield Window(left - self.margin, top - self.margin, self.window, self.window)

    @cached_property
    def weights(self) -> np.ndarray:
        """Return the weight of each pixel of a window (uint32): 1 at its edge, rising over twice the margin."""
        ramp = np.minimum(np.arange(self.window) + 1, np.arange(self.window, 0, -1))
        ramp = np.minimum(ramp, max(1, 2 * self.margin)).astype(np.uint32)
        return np.minimum.outer(ramp, ramp)


def _write_blocks(photo: Photo, layout: Layout, runners: list[Runner], path: Path, batch: int) -> float:
    """Write the probabilities of all blocks and return the share of pixels with data."""
    grid, valid_pixels = layout.grid, 0
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "width": grid.width, "height": grid.height}
    tiling = {"tiled": True, "blockxsize": 256, "blockysize": 256, "bigtiff": "if_safer", "sparse_ok": True}
    with (
        rasterio.Env(GDAL_CACHEMAX=CACHE_MB),
        rasterio.open(
            path, "w", crs=grid.crs.to_wkt(), transform=grid.transform, nodata=NO_DATA, **profile, **tiling
        ) as target,
    ):
        for block in track(layout.blocks(), "predict", unit="block"):
            runner = runners[min(block.fold, len(runners) - 1)]
            values = _predict_block(photo, layout, block, runner, batch)
            valid_pixels += int((values != NO_DATA).sum())
            target.write(values, 1, window=block.core)
    return valid_pixels / (grid.width * grid.height)


def _predict_block(photo: Photo, layout: Layout, block: Block, runner: Runner, batch: int) -> np.ndarray:
    """Return the blended probabilities of the core of a block (uint8, 255 where the photo has no data)."""
    core, margin, weights = block.core, layout.margin, layout.weights
    # the frame is the core with room for windows that reach over it
    frame = Window(core.col_off - margin, core.row_off - margin, *_room(core, layout))
    grey, valid = photo.read(frame)
    total = np.zeros(grey.shape, np.uint32)
    weight = np.zeros(grey.shape, np.uint32)
    places = [
        np.s_[top : top + layout.window, left : left + layout.window]
        for top, left in ((w.row_off - frame.row_off, w.col_off - frame.col_off) for w in layout.windows(block))
    ]
    places = [place for place in places if valid[place].any()]
    for start in range(0, len(places), batch):
        group = places[start : start + batch]
        answers = runner(np.stack([grey[place] for place in group]))
        for place, answer in zip(group, answers, strict=True):
            total[place] += weights * answer
            weight[place] += weights
    inner = np.s_[margin : margin + int(core.height), margin : margin + int(core.width)]
    total, weight, valid = total[inner], np.maximum(weight[inner], 1), valid[inner]
    return np.where(valid, (total + weight // 2) // weight, NO_DATA).astype(np.uint8)


def _room(core: Window, layout: Layout) -> tuple[int, int]:
    """Return the (width, height) that the windows of a block take up."""
    columns, rows = math.ceil(core.width / layout.core), math.ceil(core.height / layout.core)
    extra = layout.window - layout.core
    return columns * layout.core + extra, rows * layout.core + extra


def _samples(photo: Photo, layout: Layout) -> np.ndarray:
    """Return windows spread over the photo, those that show most of it (n, window, window; uint8), at least one."""
    windows = [window for block in layout.blocks() for window in layout.windows(block)]
    chosen = np.random.default_rng(0).permutation(len(windows))[: 4 * CALIBRATION]
    found = [(valid.mean(), grey) for grey, valid in (photo.read(windows[index]) for index in chosen)]
    found.sort(key=lambda item: -item[0])
    return np.stack([grey for _, grey in found[:CALIBRATION]])


def _as_cog(source: Path, target: Path) -> None:
    """Write a cloud optimised GeoTIFF whose band says that 254 is probability 1."""
    with rasterio.open(source, "r+") as dataset:
        dataset.scales = (1 / FULL,)
        dataset.set_band_description(1, "probability of building")
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        copy_raster(
            source,
            target,
            driver="COG",
            compress="deflate",
            blocksize=512,
            overview_resampling="average",
            num_threads="all_cpus",
            bigtiff="if_safer",
        )


def _check_whole(path: Path, source: Path) -> None:
    """Read the COG to its end: GDAL can close a file on a full disk without a word."""
    try:
        with rasterio.open(path) as made, rasterio.open(source) as raw:
            whole = all(
                np.array_equal(made.read(1, window=window), raw.read(1, window=window))
                for _, window in made.block_windows(1)
            )
    except rasterio.errors.RasterioError:
        whole = False
    if not whole:
        raise ModelError(f"{path.name}: could not be written whole, most likely for want of disk space; make room")


if __name__ == "__main__":
    from historymap_lib.cli import step_main

    raise SystemExit(step_main("predict"))
