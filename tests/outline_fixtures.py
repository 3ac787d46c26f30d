"""Photos in memory, houses on them, and a small painted town, for what looks at outlines."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import rasterio
import shapely
import torch
import yaml
from pyproj import CRS
from rasterio.transform import from_origin
from shapely import affinity

from historymap_lib.sample import NORTH, WEST, plan_sample
from historymap_lib.tiles import Grid

if TYPE_CHECKING:
    from pathlib import Path

    from historymap_lib.sample import Sample
    from historymap_lib.sample_varied import VariedTown
    from ml.footprint_training import Examples

torch.set_num_threads(1)  # networks and crops are so small that threads would only wait for each other
UTM = CRS.from_epsg(25832)


def grid_of(photo, resolution=0.5) -> Grid:
    """Return the grid of a photo whose south-western corner is at 0, 0."""
    height, width = photo.shape
    return Grid(UTM, 0.0, height * resolution, resolution, width, height)


def reader(photo):
    """Return a function that gives grey values, and which of them are known, in a window, also beyond the photo."""

    def read(window):
        rows, columns = (
            np.arange(n) + start for n, start in ((window.height, window.row_off), (window.width, window.col_off))
        )
        known = ((rows >= 0) & (rows < photo.shape[0]))[:, None] & (columns >= 0) & (columns < photo.shape[1])
        values = photo[np.clip(rows, 0, photo.shape[0] - 1)[:, None], np.clip(columns, 0, photo.shape[1] - 1)]
        known &= values > 0
        return np.where(known, values, 0).astype(np.uint8), known

    return read


def house(x: float, y: float, length: float, width: float, angle: float) -> shapely.Polygon:
    """Return a rectangle about (x, y) whose long side has an angle (radians)."""
    plain = shapely.box(x - length / 2, y - width / 2, x + length / 2, y + width / 2)
    return affinity.rotate(plain, angle, use_radians=True)


@cache
def small_town() -> Sample:
    """Return a painted town of 400 m."""
    return plan_sample(seed=5, size_m=400.0, resolution=0.5)


@cache
def examples_of_houses(count: int = 120) -> Examples:
    """Return examples of bright houses on bare ground, in a photo with grain, and of outlines where there are none."""
    from ml.chips import cut_chips  # noqa: PLC0415 - for tests of networks alone
    from ml.footprint_training import FOOTPRINT, PHANTOM, Examples  # noqa: PLC0415

    rng = np.random.default_rng(1)
    photo = rng.normal(90, 12, (700, 700))
    x, y = (25 * (place + 1.0) + 0.5 for place in np.divmod(np.arange(169), 13))
    length, angle = rng.uniform(8, 13, 169), rng.uniform(-1.5, 1.5, 169)
    shapes = np.array([house(*one) for one in zip(x, y, length, 0.8 * length, angle, strict=True)])
    there = np.arange(169) % 2 == 0
    columns, rows = np.meshgrid((np.arange(700) + 0.5) / 2, 350 - (np.arange(700) + 0.5) / 2)
    photo[shapely.contains_xy(shapely.union_all(shapes[there]), columns, rows)] += 70
    grey = np.clip(photo, 1, 255).astype(np.uint8)
    chips = cut_chips(reader(grey), grid_of(grey), shapes)
    houses, ground = chips.take(np.flatnonzero(there)[:count]), chips.take(np.flatnonzero(~there)[:count])
    return Examples.join([Examples.of(FOOTPRINT, houses, 1.0, placed=True), Examples.of(PHANTOM, ground, 0.0)])


def write_town(
    folder: Path,
    *,
    count: int | None = None,
    varied: VariedTown | None = None,
    shift: tuple[float, float] = (0.0, 0.0),
    **settings: dict,
) -> Path:
    """Write the small town as a case, and return its YAML.

    Args:
        folder: where it goes.
        count: how many of the buildings are on the map.
        varied: a town to be written in place of it.
        shift: metres east and north by which the map lies off.
        settings: keys of some sections.

    """
    town = small_town() if varied is None else varied
    outlines = [building.outline for building in town.buildings] if varied is None else varied.seen_outlines
    corner = np.array([WEST, NORTH - town.size])
    with rasterio.open(
        folder / "photo.tif", "w", driver="GTiff", dtype="uint8", count=1, nodata=0, crs=UTM.to_wkt(),
        width=town.photo.shape[1], height=town.photo.shape[0],
        transform=from_origin(WEST, NORTH, town.resolution, town.resolution),
    ) as file:  # fmt: skip
        file.write(town.photo, 1)
    on_map = shapely.transform(np.array(outlines[:count], dtype=object), lambda points: points + corner + shift)
    columns = {"osm_type": "way", "osm_id": np.arange(1, len(on_map) + 1), "building": "yes"}
    frame = gpd.GeoDataFrame(columns, geometry=on_map, crs=UTM)
    frame.to_file(folder / "footprints.geojson", driver="GeoJSON", engine="pyogrio")
    values = {
        "name": "small",
        "area": {"crs": "EPSG:25832"},
        "photo": {"path": "photo.tif"},
        "footprints": {"path": "footprints.geojson"},
        "tiles": {"size": 128, "resolution": town.resolution, "test": 0.0},
        "model": {"widths": [4, 8]},
        "training": {"epochs": 1, "crop": 64, "outline_steps": 2, "outline_rounds": 1},
        "prediction": {"runtime": "torch"},
    }
    for section, changes in settings.items():
        values[section] = values[section] | changes
    (folder / "case.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "case.yaml"
