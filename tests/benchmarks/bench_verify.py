"""How fast statistics under many footprints are, beside exactextract and rasterstats.

Run `python tests/benchmarks/bench_verify.py [--buildings 100000] [--size 12000]`. The raster and the houses are made
up, the same each time. They take turns in one process; times are medians. exactextract runs as called plainly (feature
by feature) and in its other way (raster by raster). rasterstats is so slow that it gets a sample of the houses: from
the raster in memory already, its fastest way, and from the file; it is compared by buildings a second.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import psutil
import rasterio
import shapely
from exactextract import exact_extract
from rasterio.windows import Window

from historymap_lib import zonal

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

CRS = "EPSG:32632"
RESOLUTION = 0.5
WEST, NORTH = 500_000.0, 7_000_000.0
ROUNDS = 3
SAMPLE = 1000


def run(buildings: int = 100_000, size: int = 12_000, rounds: int = ROUNDS, sample: int = SAMPLE) -> dict[str, Any]:
    """Return `rows` (name, buildings, seconds, per_second, ratio, peak_mb) and the `difference` from exactextract."""
    with tempfile.TemporaryDirectory() as folder:
        raster = Path(folder) / "probability.tif"
        make_raster(raster, size)
        houses = make_houses(buildings, size * RESOLUTION)
        frame = gpd.GeoDataFrame(geometry=houses, crs=CRS)
        ways: dict[str, tuple[int, Callable[[], Any]]] = {
            "historymap": (buildings, lambda: zonal.footprint_statistics(raster, houses)),
            "exactextract": (buildings, lambda: _exactextract(raster, frame, "feature-sequential")),
            "  by raster": (buildings, lambda: _exactextract(raster, frame, "raster-sequential")),
        }
        if importlib.util.find_spec("rasterstats"):
            few = houses[:sample]
            with rasterio.open(raster) as dataset:
                pixels, affine = dataset.read(1), dataset.transform
            ways["rasterstats"] = (len(few), lambda: _rasterstats(few, pixels, affine=affine))
            ways["  from file"] = (len(few), lambda: _rasterstats(few, str(raster)))
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        results: dict[str, Any] = {}
        for turn in range(rounds):
            for name, (_, work) in ways.items():
                if turn == 0 or name != "  from file":
                    seconds, peak, results[name] = _measure(work)
                    taken[name].append((seconds, peak))
    rows = [_row(name, ways[name][0], taken[name]) for name in ways]
    for row in rows:
        row["ratio"] = rows[0]["per_second"] / row["per_second"]
    difference = np.abs(results["historymap"]["mean"] - results["exactextract"]["mean"] / zonal.ONE)
    return {
        "rows": rows,
        "difference": float(difference.mean()),
        "largest_difference": float(difference.max()),
        "peak_process_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def make_raster(path: Path, size: int) -> None:
    """Write probabilities as predict does: tiled, deflated, smooth blobs with grain, a strip without data."""
    profile = {
        "driver": "GTiff", "width": size, "height": size, "count": 1, "dtype": "uint8", "nodata": 255, "crs": CRS,
        "transform": rasterio.Affine(RESOLUTION, 0, WEST, 0, -RESOLUTION, NORTH), "tiled": True, "blockxsize": 512,
        "blockysize": 512, "compress": "deflate",
    }  # fmt: skip
    rng = np.random.default_rng(1937)
    with rasterio.open(path, "w", **profile) as dataset:
        for row in range(0, size, 512):
            y, x = np.mgrid[row : min(row + 512, size), 0:size].astype(np.float32)
            smooth = np.sin(x / 23) * np.sin(y / 31) * 120 + 127
            strip = np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 254).astype(np.uint8)
            strip[:, : size // 50] = 255
            dataset.write(strip, 1, window=Window(0, row, size, len(y)))


def make_houses(count: int, side: float) -> np.ndarray:
    """Return turned houses, a third of them L-shaped, 3 in 100 set upon another, in an order of chance.

    They stand on a lattice and are 20 to 400 m2 (an L a fifth less), but no larger than rarely to overlap a neighbour.
    """
    rng = np.random.default_rng(1814)
    columns = int(np.ceil(np.sqrt(count)))
    place = rng.permutation(columns * columns)[:count]
    centre = (np.column_stack([place % columns, place // columns]) + rng.uniform(0.4, 0.6, (count, 2))) * side / columns
    upon = rng.choice(count, max(1, count * 3 // 100), replace=False)
    centre[upon] = centre[rng.permutation(count)[: len(upon)]] + rng.uniform(-4, 4, (len(upon), 2))
    area = np.minimum(np.clip(rng.lognormal(4.7, 0.6, count), 20, 400), (0.8 * side / columns) ** 2)
    long = np.sqrt(area * rng.uniform(1, 1.8, count))
    half = np.column_stack([long, area / long]) / 2
    outline = np.array([(-1, -1), (1, -1), (1, 1), (0.2, 1), (0.2, 0.2), (-1, 0.2)])
    outlines = np.repeat(outline[None], count, axis=0)
    outlines[rng.random(count) < 2 / 3, 3:] = (-1, 1)  # no L: the last three corners fall together
    angle = rng.uniform(0, np.pi, count)
    turn = np.moveaxis(np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]), -1, 0)
    corners = np.einsum("nij,nkj->nki", turn, outlines * half[:, None])
    polygons = shapely.polygons(corners + centre[:, None] + np.array([WEST, NORTH - side]))
    return np.asarray(shapely.simplify(polygons, 0))


def _exactextract(raster: Path, frame: gpd.GeoDataFrame, strategy: str) -> pd.DataFrame:
    return exact_extract(raster, frame, ["mean", "count"], strategy=strategy, output="pandas")


def _rasterstats(houses: np.ndarray, raster: np.ndarray | str, **options: Any) -> list[dict[str, Any]]:
    import rasterstats  # noqa: PLC0415 - it may not be there

    return rasterstats.zonal_stats(list(houses), raster, nodata=255, stats=["mean", "count"], **options)


def _measure(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return seconds, the highest resident memory (MB) above that before, and what the work returned."""
    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        result = work()
        seconds = time.perf_counter() - start
    finally:
        done.set()
        watcher.join()
    return seconds, (peak - before) / 1e6, result


def _row(name: str, buildings: int, taken: list[tuple[float, float]]) -> dict[str, Any]:
    seconds = statistics.median(time for time, _ in taken)
    peak = max(peak for _, peak in taken)
    return {
        "name": name, "buildings": buildings, "seconds": seconds, "per_second": buildings / seconds, "peak_mb": peak,
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--buildings", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=12_000, help="side of the raster, pixels of 0.5 m")
    arguments = parser.parse_args()
    found = run(arguments.buildings, arguments.size)
    print(f"{'':14}{'buildings':>10}{'seconds':>10}{'per second':>12}{'times slower':>14}{'peak MB more':>14}")
    for row in found["rows"]:
        cells = f"{row['buildings']:>10,}{row['seconds']:>10.2f}{row['per_second']:>12,.0f}"
        print(f"{row['name']:14}{cells}{row['ratio']:>14.1f}{row['peak_mb']:>14,.0f}")
    if importlib.util.find_spec("rasterstats"):
        print(f"rasterstats: on a sample of {found['rows'][-1]['buildings']:,}, from the raster in memory")
    else:
        print("rasterstats is not installed (pip install rasterstats): left out")
    print(f"difference from exactextract in mean: {found['difference']:.5f} on average, ", end="")
    print(f"{found['largest_difference']:.3f} at most; peak of the process {found['peak_process_mb']:,.0f} MB")


if __name__ == "__main__":
    main()
