"""Step 3, predict: photo and model -> the probability that a pixel is building, as a COG.

    python ml/predict.py --config ml/config_1937.yaml

The photo is predicted block by block of the folds (`tiles.Folds`), each by the one member of the model that has not
learned from there. Inside a block, windows overlap and are blended with weights that fall towards their edges; a margin
beyond the block gives context and is thrown away. Only a few batches of windows and the blocks that they belong to are
in memory.

Probabilities are rounded to 0..254 before blending and blended in whole numbers, so a model that answers a constant
gives exactly that constant everywhere.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.windows import Window

from historymap_lib import artifacts
from historymap_lib.cog import is_whole, write_cog
from historymap_lib.errors import ModelError
from historymap_lib.figures import draw_probability
from historymap_lib.first_look import CODE as CODE_OF_LOOK
from historymap_lib.footprint_source import source_file
from historymap_lib.imagery import Photo, open_photo, photo_files
from historymap_lib.outline_evidence import trained_file
from historymap_lib.probability import FULL, NO_DATA
from historymap_lib.progress import track
from historymap_lib.settings import DIVISOR
from ml import runtime
from ml.checkpoint import OUTLINES, WEIGHTS, load_model
from ml.first_look import look_first
from ml.looks import fold_of, look_at
from ml.runner import STREAMS, Runner, make_runner

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from historymap_lib.outline_evidence import OutlineEvidence
    from historymap_lib.project import Project
    from historymap_lib.tiles import Folds, Grid
    from ml.checkpoint import TrainedModel

CODE = (*CODE_OF_LOOK, "ml.predict", "ml.runner", "historymap_lib.probability")
CALIBRATION = 8
"""Windows of the photo that the 8-bit form of a network is measured on; 24 give the same within its error (a mean of
1.5 and 1.3 of 254 from 32 bits, 9 trained networks) and take a second longer, four with resnet18."""
LOOKED_AT = 96
"""Windows that are looked at for them at most."""
CACHE = 256
"""Bytes, so next to none: blocks are written at once. 256 MiB took that much more memory and were slower (measured)."""
AHEAD = 4 * STREAMS
"""Batches that are asked for ahead of the one that is waited for, so that no stream runs dry while a block is finished
and the next is read; a default block is one batch and its end (measured: 6.1 s for what 2 * STREAMS do in 6.7)."""
Place = tuple[slice, slice]


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
        photo.prepare()
        with artifacts.replacing(paths.probability) as partial:
            layout = Layout(photo.grid, model.folds, project.tiles.size, project.prediction.overlap)
            samples = _samples(photo, layout)
            pixels = photo.grid.width * photo.grid.height // len(model.members)
            runners = [make_runner(member, project.prediction, samples, pixels) for member in model.members]
            raw = partial.with_name("raw.tif")
            covered = _write_blocks(photo, layout, runners, raw, project.prediction.batch_size)
            _as_cog(raw, partial)
        _look(project, photo, model).write(trained_file(project))
        settings = project.settings("area", "photo", "footprints", "tiles", "prediction")
        inputs = [*photo_files(project), paths.model, source_file(project), paths.offsets, WEIGHTS / OUTLINES]
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


def _look(project: Project, photo: Photo, model: TrainedModel) -> OutlineEvidence:
    """Return what the footprint networks of a model see, beside the first look."""
    case, first = look_first(project, photo)
    if not model.outlines:
        return replace(first, fold=fold_of(case, np.arange(len(case.footprints)), model.folds))
    where = runtime.device(project.training.device)
    members = [runtime.place(network, where) for network in model.outlines]
    return look_at(case, members, model.folds).beside(first)


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
        """Return the weight of each pixel of a window: a whole number, 1 at its edge, rising over twice the margin."""
        ramp = np.minimum(np.arange(self.window) + 1, np.arange(self.window, 0, -1))
        ramp = np.minimum(ramp, max(1, 2 * self.margin)).astype(np.float32)
        return np.minimum.outer(ramp, ramp)


def _write_blocks(photo: Photo, layout: Layout, runners: list[Runner], path: Path, batch: int) -> float:
    """Write the probabilities of all blocks and return the share of pixels with data."""
    grid, valid_pixels = layout.grid, 0
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "width": grid.width, "height": grid.height}
    tiling = {"tiled": True, "blockxsize": 256, "blockysize": 256, "bigtiff": "if_safer", "sparse_ok": True}
    with (
        rasterio.Env(GDAL_CACHEMAX=CACHE),
        rasterio.open(
            path, "w", crs=grid.crs.to_wkt(), transform=grid.transform, nodata=NO_DATA, **profile, **tiling
        ) as target,
        _threads() as pool,
    ):
        blocks = layout.blocks()
        opened = ((_Mosaic(photo, layout, block), runners[min(block.fold, len(runners) - 1)]) for block in blocks)
        done = _answered(_asked(opened, batch, pool))
        for mosaic in track(done, "predict", total=len(blocks), unit="block"):
            values = mosaic.values()
            valid_pixels += int((values != NO_DATA).sum())
            target.write(values, 1, window=mosaic.core)
    return valid_pixels / (grid.width * grid.height)


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Yield threads for the runners; whoever breaks off waits for what is at work, not for what is asked ahead."""
    pool = ThreadPoolExecutor(STREAMS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _asked(
    mosaics: Iterable[tuple[_Mosaic, Runner]], batch: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[_Mosaic, list[Place], Future[np.ndarray] | None]]:
    """Give the windows of the blocks to their runners, batch by batch; after the last of a block comes a None."""
    for mosaic, runner in mosaics:
        for start in range(0, len(mosaic.places), batch):
            group = mosaic.places[start : start + batch]
            yield mosaic, group, pool.submit(runner, np.stack([mosaic.grey[place] for place in group]))
        yield mosaic, [], None


def _answered(asked: Iterator[tuple[_Mosaic, list[Place], Future[np.ndarray] | None]]) -> Iterator[_Mosaic]:
    """Yield the blocks in their order when all their windows are answered, asking ahead so that no core waits.

    Networks run in threads of their own; everything else, GDAL above all, stays in this one.
    """
    waiting = deque(itertools.islice(asked, AHEAD))
    while waiting:
        mosaic, group, answers = waiting.popleft()
        if answers is None:
            yield mosaic
        else:
            mosaic.add(group, answers.result())
        waiting.extend(itertools.islice(asked, 1))


class _Mosaic:
    """A block on its way: the photo under its windows, and the weighted sum of what they were answered.

    Sums are whole numbers below 2 ** 24, which 32-bit floats hold exactly and divide faster than integers.
    """

    def __init__(self, photo: Photo, layout: Layout, block: Block) -> None:
        self.core, self._margin, self._weights = block.core, layout.margin, layout.weights
        # the frame is the core with room for windows that reach over it
        left, top = block.core.col_off - layout.margin, block.core.row_off - layout.margin
        self.grey, self._valid = photo.read(Window(left, top, *_room(block.core, layout)))
        corners = ((int(window.row_off) - top, int(window.col_off) - left) for window in layout.windows(block))
        places = (np.s_[y : y + layout.window, x : x + layout.window] for y, x in corners)
        self.places: list[Place] = [place for place in places if self._valid[place].any()]
        self._total = np.zeros(self.grey.shape, np.float32)
        self._weight = np.zeros(self.grey.shape, np.float32)

    def add(self, places: list[Place], answers: np.ndarray) -> None:
        """Blend in what the windows at some places were answered."""
        for place, answer in zip(places, answers, strict=True):
            self._total[place] += self._weights * answer
            self._weight[place] += self._weights

    def values(self) -> np.ndarray:
        """Return the blended probabilities of the core (uint8, 255 where the photo has no data)."""
        margin = self._margin
        inner = np.s_[margin : margin + int(self.core.height), margin : margin + int(self.core.width)]
        mean = self._total[inner] / np.maximum(self._weight[inner], 1)
        values = (mean + 0.5).astype(np.uint8)
        values[~self._valid[inner]] = NO_DATA
        return values


def _room(core: Window, layout: Layout) -> tuple[int, int]:
    """Return the (width, height) that the windows of a block take up."""
    columns, rows = math.ceil(core.width / layout.core), math.ceil(core.height / layout.core)
    extra = layout.window - layout.core
    return columns * layout.core + extra, rows * layout.core + extra


def _samples(photo: Photo, layout: Layout) -> np.ndarray:
    """Return windows spread over the photo, those that show most of it (n, window, window; uint8), at least one."""
    windows = [window for block in layout.blocks() for window in layout.windows(block)]
    found: list[tuple[float, np.ndarray]] = []
    for index in np.random.default_rng(0).permutation(len(windows))[:LOOKED_AT]:
        grey, valid = photo.read(windows[index])
        found.append((valid.mean(), grey))
        if sum(share == 1 for share, _ in found) == CALIBRATION:
            break
    found.sort(key=lambda item: -item[0])
    return np.stack([grey for _, grey in found[:CALIBRATION]])


def _as_cog(source: Path, target: Path) -> None:
    """Write the COG, whose band says that 254 is probability 1; more compression would take long for 7 %."""
    with rasterio.Env(GDAL_CACHEMAX=CACHE, GDAL_NUM_THREADS="ALL_CPUS"):
        with rasterio.open(source, "r+") as dataset:
            dataset.scales = (1 / FULL,)
            dataset.set_band_description(1, "probability of building")
        write_cog(source, target, level=1)
    if not is_whole(target, source):
        raise ModelError(f"{target.name}: could not be written whole, most likely for want of disk space; make room")


if __name__ == "__main__":
    from historymap_lib.cli import step_main

    raise SystemExit(step_main("predict"))
