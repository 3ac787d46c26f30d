"""How fast tiles of a photo come from the real server, beside rio-tiler on the photo as it is; what the copy costs.

Run `python tests/benchmarks/bench_tiles.py [--size 20000] [--tiles 400]`.

The photo is made up: 8 bits, 0.5 m, UTM, tiled, without overviews. Its display copy is made by the command in a
process of its own. Then two threads ask a Jupyter Server on loopback for tiles at the zoom of the copy and three zooms
further out, in random order, as browsers do; nothing is kept between them. The peer is rio-tiler in two threads of this
process, without HTTP: it reads the same tiles from the photo in its own CRS and writes them as the same JPEG.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import yaml
from rasterio.transform import from_origin
from rasterio.windows import Window
from rio_tiler.errors import NoOverviewWarning, TileOutsideBounds
from rio_tiler.io import Reader

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))

from server_fixtures import TOKEN, jupyter

from historymap_lib import display
from historymap_lib.project import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_fixtures import Server

    from historymap_lib.display import Display

THREADS = 2
ZOOMS = 4
RESOLUTION, WEST, NORTH = 0.5, 570_000.0, 7_033_000.0
Place = tuple[int, int, int]


def run(size: int = 20_000, count: int = 400) -> dict[str, Any]:
    """Return `copy` (seconds, peak_mb, mb) and `rows`, one a zoom (zoom, tiles, and both ways in tiles a second)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HISTORYMAP_CACHE"] = str(folder / "cache")
        make_case(folder, size)
        cost = _alone(folder / "case.yaml")
        copy = display.find(load(folder / "case.yaml"), "photo")
        assert copy is not None
        with jupyter(folder / "jupyter") as server:
            ask = _asking(server, copy)
            ask((0, 0, 0))  # imports rio-tiler
            rows = []
            for zoom in range(copy.max_zoom, copy.max_zoom - ZOOMS, -1):
                places = some_tiles(copy, zoom, count)
                row = {"zoom": zoom, "tiles": len(places), "server": _rate(ask, places)}
                rows.append(row | {"peer": _rate(_peer(folder / "photo.tif"), places[: max(20, count // 10)])})
        return {"copy": cost | {"mb": copy.path.stat().st_size / 1e6}, "rows": rows}


def make_case(folder: Path, size: int) -> None:
    """Write a photo of `size` x `size` pixels and settings into `folder`."""
    profile = {
        "driver": "GTiff", "width": size, "height": size, "count": 1, "dtype": "uint8", "crs": "EPSG:25832",
        "transform": from_origin(WEST, NORTH, RESOLUTION, RESOLUTION), "tiled": True, "blockxsize": 512,
        "blockysize": 512,
    }  # fmt: skip
    rng = np.random.default_rng(1937)
    with rasterio.open(folder / "photo.tif", "w", **profile) as file:
        for top in range(0, size, 512):
            y, x = np.mgrid[top : min(top + 512, size), 0:size].astype(np.float32)
            grey = 120 + 50 * np.sin(x / 29) * np.sin(y / 37) + rng.integers(-25, 26, x.shape)
            file.write(grey.clip(1, 255).astype(np.uint8), 1, window=Window(0, top, size, len(y)))
    values = {
        "name": "bench", "area": {"crs": "EPSG:25832"}, "photo": {"path": "photo.tif"},
        "footprints": {"path": "none.geojson"}, "tiles": {"resolution": RESOLUTION},
    }  # fmt: skip
    (folder / "case.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def some_tiles(copy: Display, zoom: int, count: int) -> list[Place]:
    """Return at most `count` tiles (zoom, column, row) of a copy, at random."""
    west, south, east, north = copy.bounds
    left, right = (int((degrees + 180) / 360 * 2**zoom) for degrees in (west, east))
    top, bottom = (
        int((1 - np.arcsinh(np.tan(np.radians(degrees))) / np.pi) / 2 * 2**zoom) for degrees in (north, south)
    )
    places = [(zoom, x, y) for y in range(top, bottom + 1) for x in range(left, right + 1)]
    chosen = np.random.default_rng(7).permutation(len(places))[:count]
    return [places[index] for index in chosen]


def _asking(server: Server, copy: Display) -> Callable[[Place], None]:
    """Return what asks the server for a tile, each thread by one connection that stays, as a browser does."""
    mine = threading.local()

    def ask(place: Place) -> None:
        if not hasattr(mine, "connection"):
            mine.connection = http.client.HTTPConnection("127.0.0.1", server.port)
        z, x, y = place
        path = f"{server.base}historymap/tiles/{copy.key}/{z}/{x}/{y}?v={copy.stamp}"
        mine.connection.request("GET", path, headers={"Authorization": f"token {TOKEN}"})
        answer = mine.connection.getresponse()
        body = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(body)

    return ask


def _peer(photo: Path) -> Callable[[Place], None]:
    """Return what draws a tile from the photo itself, which each thread opens once."""
    mine = threading.local()

    def draw(place: Place) -> None:
        if not hasattr(mine, "reader"):
            mine.reader = Reader(str(photo))
        z, x, y = place
        with suppress(TileOutsideBounds):
            mine.reader.tile(x, y, z, reproject_method="cubic").render(img_format="JPEG", quality=85)

    return draw


def _rate(draw: Callable[[Place], None], places: list[Place]) -> float:
    """Return how many tiles a second come in two threads."""
    draw(places[0])
    start = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(draw, places):
            pass
    return len(places) / (time.perf_counter() - start)


def _alone(file: Path) -> dict[str, float]:
    """Return what making the copy takes in a process of its own: `seconds` and `peak_mb`."""
    done = subprocess.run([sys.executable, __file__, "--way", str(file)], stdout=subprocess.PIPE, check=True, text=True)
    cost: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return cost


def _way(file: Path) -> None:
    """Make the copy, and print what it took."""
    start = time.perf_counter()
    display.make(load(file), "photo")
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=20_000, help="side of the photo, pixels of 0.5 m")
    parser.add_argument("--tiles", type=int, default=400, help="tiles a zoom; the peer gets a tenth")
    parser.add_argument("--way", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        _way(options.way)
        return
    found = run(options.size, options.tiles)
    cost = found["copy"]
    print(f"copy of {options.size:,} x {options.size:,} pixels: {cost['seconds']:.1f} s,", end=" ")
    print(f"peak {cost['peak_mb']:,.0f} MB, {cost['mb']:,.0f} MB on the disk")
    print(f"{'zoom':>4}{'tiles':>7}{'server/s':>10}{'ms a tile':>11}{'peer/s':>9}{'ms a tile':>11}{'ratio':>7}")
    for row in found["rows"]:
        ours, peer = (f"{row[way]:>9.1f}{THREADS * 1000 / row[way]:>11.1f}" for way in ("server", "peer"))
        print(f"{row['zoom']:>4}{row['tiles']:>7} {ours}{peer}{row['server'] / row['peer']:>7.1f}")


if __name__ == "__main__":
    warnings.simplefilter("ignore", NoOverviewWarning)  # that is the point of the peer
    main()
