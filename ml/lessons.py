"""What networks learn from before they see a case: painted towns with their truth, and photos with real roofs."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import shapely
import torch
from pyproj import CRS

from historymap_lib.errors import ModelError
from historymap_lib.footprints import load
from historymap_lib.misfits import make_misfits
from historymap_lib.phantoms import make_phantoms
from historymap_lib.progress import track
from historymap_lib.sample_varied import paint_varied
from historymap_lib.tiles import Grid
from historymap_lib.windows import burn
from ml.chips import cut_chips
from ml.footprint_training import FOOTPRINT, MISFIT, PHANTOM, Examples

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from rasterio.windows import Window

    Outlines = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]

FIRST_TOWN = 1000
"""Seed of the first painted town; the sample town and the towns of tests have smaller ones."""
SIZES = (600.0, 700.0, 800.0)
"""Metres along the painted towns, in turn."""
STOOD = 0.6
"""Share of the footprints in a batch that stood."""
MARGIN = 3.0
"""Metres: outlines whose centre lies nearer to the edge of a photo are left out."""
STANDING = 0.25
"""A phantom that covers more of a building that the photo shows than this is none."""
ROOFS = 6.0
"""A photo with real roofs counts as so many painted towns."""
LOCAL = CRS.from_wkt('LOCAL_CS["painted town",UNIT["metre",1]]')
"""Of a painted town, which lies nowhere on earth."""


@dataclass(frozen=True)
class Lesson:
    """What there is to learn from a painted town: outlines, and the photo with a mask of what stands.

    `photo` and `mask` are (rows, columns) uint8; 0 in the photo is no data, 1 in the mask a building.
    """

    examples: Examples
    photo: NDArray[np.uint8]
    mask: NDArray[np.uint8]


def paint_lessons(count: int, processes: int, sizes: Sequence[float] = SIZES) -> list[Lesson]:
    """Return so many lessons, the same every time, painted by several processes side by side.

    `sizes` are the metres along the towns, in turn.
    """
    seeds = range(FIRST_TOWN, FIRST_TOWN + count)
    metres = [sizes[seed % len(sizes)] for seed in seeds]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(track(pool.map(paint_lesson, seeds, metres), "towns", total=count, unit="town"))


def paint_lesson(seed: int, size: float) -> Lesson:
    """Return what there is to learn from the painted town of a seed, `size` metres along."""
    torch.set_num_threads(1)  # towns are made side by side
    town = paint_varied(seed, size_m=size)
    whole = shapely.box(0, 0, town.size, town.size)
    inside = shapely.within(shapely.centroid(town.seen_outlines), whole.buffer(-MARGIN))
    seen, stood = town.seen_outlines[inside], town.stood[inside]
    phantoms, _ = make_phantoms(seen, whole, most=len(seen), seed=seed)
    phantoms = phantoms[~_on_something(phantoms, np.concatenate([seen[stood], town.gone_outlines]))]
    misfits = make_misfits(seen[stood], most=int(0.8 * stood.sum()), seed=seed)[0]
    height, width = town.photo.shape
    grid = Grid(LOCAL, 0.0, town.size, town.resolution, width, height)
    weight = np.where(stood, STOOD / max(1, stood.sum()), (1 - STOOD) / max(1, (~stood).sum()))
    label = stood.astype(np.float32)
    examples = _examples(town.photo, grid, (seen, phantoms, misfits), label, weight, placed=True)
    standing = np.concatenate([town.seen_outlines[town.stood], town.gone_outlines])
    mask: NDArray[np.uint8] = burn(standing, None, town.photo.shape, grid.transform, np.uint8)
    return Lesson(examples, town.photo, mask)


def examples_of_roofs(folder: Path) -> list[Examples]:
    """Return what there is to learn from photos (NAME.tif) with real roofs (NAME.geojson), all of which they show.

    Raises:
        ModelError: there is no photo in the folder, or none of its roofs lies on it.
        FootprintsError: roofs cannot be read.

    """
    photos = sorted(folder.glob("*.tif"))
    if not photos:
        raise ModelError(
            f"{folder}: there is no photo of roofs (NAME.tif with NAME.geojson) in it; name another folder"
        )
    return [_roofs_of(file) for file in photos]


def _roofs_of(file: Path) -> Examples:
    with rasterio.open(file) as dataset:
        photo, bounds, resolution = dataset.read(1), dataset.bounds, dataset.res
        crs = CRS.from_user_input(dataset.crs)
    photo = _with_square_pixels(photo, resolution)
    shapes = load(file.with_suffix(".geojson"), crs=crs, id_field="fid").frame.geometry.to_numpy()
    grid = Grid(crs, bounds.left, bounds.top, float(resolution[0]), photo.shape[1], photo.shape[0])
    covered = _covered(photo > 0, grid)
    shapes = shapes[shapely.within(shapes, covered)]
    if len(shapes) == 0:
        raise ModelError(f"{file}: none of the roofs in {file.with_suffix('.geojson').name} lies on this photo")
    phantoms, _ = make_phantoms(shapes, covered, most=3 * len(shapes))
    misfits = make_misfits(shapes, most=2 * len(shapes))[0]
    return _examples(photo, grid, (shapes, phantoms, misfits), 1.0, ROOFS / len(shapes), placed=False)


def _with_square_pixels(photo: NDArray[np.uint8], resolution: tuple[float, float]) -> NDArray[np.uint8]:
    """Return the photo with pixels as high as they are wide: rows are repeated or left out."""
    rows = round(photo.shape[0] * resolution[1] / resolution[0])
    row = (np.arange(rows) + 0.5) * photo.shape[0] // rows
    square: NDArray[np.uint8] = photo[np.minimum(row, photo.shape[0] - 1).astype(int)]
    return square


def _examples(
    photo: NDArray[np.uint8],
    grid: Grid,
    outlines: Outlines,
    label: NDArray[np.float32] | float,
    weight: NDArray[np.floating] | float,
    *,
    placed: bool,
) -> Examples:
    """Return examples of footprints, with their labels and weights, of phantoms and of misfits."""

    def read(window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        rows = np.arange(window.height) + window.row_off
        columns = np.arange(window.width) + window.col_off
        values = photo[np.clip(rows, 0, grid.height - 1)[:, None], np.clip(columns, 0, grid.width - 1)]
        within = ((rows >= 0) & (rows < grid.height))[:, None] & (columns >= 0) & (columns < grid.width)
        return values, within & (values > 0)

    parts = []
    for kind, shapes in zip((FOOTPRINT, PHANTOM, MISFIT), outlines, strict=True):
        chips = cut_chips(read, grid, shapes)
        if kind == FOOTPRINT:
            parts.append(Examples.of(kind, chips, label, weight, placed=placed))
        elif len(chips):
            total = float(np.sum(parts[0].weight))
            parts.append(Examples.of(kind, chips, 0.0, total / len(chips)))
    return Examples.join(parts)


def _covered(known: NDArray[np.bool_], grid: Grid, step: int = 16) -> Any:
    """Return the area of the squares of `step` pixels in which the photo has data."""
    rows, columns = (size // step for size in known.shape)
    whole = known[: rows * step, : columns * step].reshape(rows, step, columns, step).mean(axis=(1, 3)) > 0.9  # noqa: PLR2004
    row, column = np.nonzero(whole)
    side = step * grid.resolution
    west, north = grid.west + column * side, grid.north - row * side
    return shapely.union_all(shapely.box(west, north - side, west + side, north), grid_size=0.001)


def _on_something(phantoms: NDArray[Any], standing: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which phantoms lie on what stands in the photo."""
    found = np.zeros(len(phantoms), bool)
    if len(phantoms) and len(standing):
        one, other = shapely.STRtree(standing).query(phantoms, predicate="intersects")
        common = shapely.area(shapely.intersection(phantoms[one], standing[other]))
        smaller = np.minimum(shapely.area(phantoms[one]), shapely.area(standing[other]))
        found[one[common > STANDING * smaller]] = True
    return found
