"""How many tiles a second generate-training writes, beside a program that works row by row.

Run `python tests/benchmarks/bench_generate.py [--tiles 200]`. Photo and houses are made up, the same each time. Both
write image, mask and metadata a tile from the same files. *Row by row* is what a first script does: for each tile it
clips the photo, asks the whole table of houses which of them intersect, and draws these one after the other. It is so
slow that it gets a sample of the tiles, after which its time for all of them is extrapolated. The spatial index of
geopandas (`.cx` by bounds) is a third way, also on a sample.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import rasterio
import yaml
from bench_verify import CRS, NORTH, RESOLUTION, WEST, make_houses
from rasterio.features import rasterize
from rasterio.transform import from_origin
from rasterio.windows import Window
from rasterio.windows import from_bounds as window_of
from shapely import box

from historymap_lib import project
from historymap_lib.training_data import generate, read_metadata

if TYPE_CHECKING:
    from collections.abc import Callable

TILE = 512
SAMPLE = 8
ROUNDS = 3


def run(
    tiles: int = 200, buildings: int = 100_000, size: int = 12_000, sample: int = SAMPLE, rounds: int = ROUNDS
) -> list[dict[str, Any]]:
    """Return a row a way: name, tiles made, seconds, per_second, seconds for all tiles, and how many times slower."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = make_case(folder, buildings, size)
        ours = [_timed(lambda: generate(case, tiles=tiles)) for _ in range(rounds)]
        chosen = read_metadata(case.paths.training)
        made = len(chosen)
        rows = [_row("historymap", made, ours, made)]
        few = [chosen[index] for index in np.linspace(0, made - 1, min(sample, made)).astype(int)]
        others: dict[str, Callable[[gpd.GeoDataFrame, Any], gpd.GeoDataFrame]] = {
            "row by row": lambda frame, area: frame[frame.intersects(area)],
            "by .cx": lambda frame, area: frame.cx[area.bounds[0] : area.bounds[2], area.bounds[1] : area.bounds[3]],
        }
        frame = gpd.read_file(folder / "houses.gpkg")
        frame.sindex  # noqa: B018 - built on first use; that is not what is measured
        for what, select in others.items():
            target = folder / what
            taken = [_timed(lambda s=select, t=target: _row_by_row(folder, t, frame, few, s)) for _ in range(rounds)]
            rows.append(_row(what, len(few), taken, made))
    for row in rows:
        row["slower"] = rows[0]["per_second"] / row["per_second"]
    return rows


def make_case(folder: Path, buildings: int, size: int) -> project.Project:
    """Write photo, houses and settings."""
    write_photo(folder / "photo.tif", size)
    houses = make_houses(buildings, size * RESOLUTION)
    columns = {"osm_type": "way", "osm_id": np.arange(1, buildings + 1), "building": "yes"}
    gpd.GeoDataFrame(columns, geometry=houses, crs=CRS).to_file(folder / "houses.gpkg", driver="GPKG", engine="pyogrio")
    values = {
        "name": "bench",
        "area": {"crs": CRS},
        "photo": {"path": "photo.tif"},
        "footprints": {"path": "houses.gpkg"},
        "tiles": {"size": TILE, "resolution": RESOLUTION},
    }
    file = folder / "case.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return project.load(file)


def write_photo(path: Path, size: int) -> None:
    """Write a photo of grain, tiled and deflated."""
    rng = np.random.default_rng(1937)
    grain = rng.integers(60, 200, (TILE, size), dtype=np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", width=size, height=size, count=1, dtype="uint8", nodata=0, crs=CRS,
        transform=from_origin(WEST, NORTH, RESOLUTION, RESOLUTION), tiled=True, blockxsize=TILE, blockysize=TILE,
        compress="deflate",
    ) as file:  # fmt: skip
        for row in range(0, size, TILE):
            height = min(TILE, size - row)
            file.write(np.roll(grain, row, axis=1)[:height], 1, window=Window(0, row, size, height))


def _row_by_row(folder: Path, target: Path, frame: gpd.GeoDataFrame, tiles: list[dict[str, Any]], select: Any) -> None:
    """Make tiles one after the other, from the open table of houses."""
    target.mkdir(exist_ok=True)
    for tile in tiles:
        area = box(*tile["bounds"])
        with rasterio.open(folder / "photo.tif") as photo:
            window = window_of(*area.bounds, transform=photo.transform)
            image = photo.read(1, window=window, boundless=True, fill_value=0, out_shape=(TILE, TILE))
            transform = photo.window_transform(window)
        mask = np.zeros((TILE, TILE), np.uint8)
        found = select(frame, area)
        for _, house in found.iterrows():
            mask |= rasterize([house.geometry], out_shape=mask.shape, transform=transform, dtype="uint8")
        for part, values in (("image", image), ("mask", mask)):
            with rasterio.open(
                target / f"{part}_{tile['tile']}.tif", "w", driver="GTiff", width=TILE, height=TILE, count=1,
                dtype="uint8", crs=CRS, transform=transform, compress="deflate",
            ) as file:  # fmt: skip
                file.write(values, 1)
        (target / f"{tile['tile']}.json").write_text(json.dumps({"buildings": len(found)}))


def _timed(work: Callable[[], Any]) -> float:
    """Return seconds; what the work says is not shown."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        work()
    return time.perf_counter() - start


def _row(name: str, tiles: int, seconds: list[float], of: int) -> dict[str, Any]:
    middle = statistics.median(seconds)
    return {
        "name": name, "tiles": tiles, "seconds": middle, "per_second": tiles / middle, "all": middle * of / tiles,
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=200)
    parser.add_argument("--buildings", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=12_000, help="side of the photo, pixels of 0.5 m")
    arguments = parser.parse_args()
    rows = run(arguments.tiles, arguments.buildings, arguments.size)
    made = rows[0]["tiles"]
    heading = f"{'':14}{'tiles':>7}{'seconds':>10}{'tiles a second':>16}"
    print(f"{heading}{f'seconds for {made}':>18}{'times slower':>14}")
    for row in rows:
        guessed = "" if row["tiles"] == made else " *"
        cells = f"{row['tiles']:>7}{row['seconds']:>10.2f}{row['per_second']:>16.2f}"
        print(f"{row['name']:14}{cells}{row['all']:>18.1f}{row['slower']:>14.1f}{guessed}")
    print(f"* extrapolated from {SAMPLE} of the tiles, and without reading the table of houses, which historymap's has")


if __name__ == "__main__":
    main()
