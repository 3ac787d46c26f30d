"""How fast a photo comes from a server that takes its time, beside one request at a time; then from the local copy.

Run `python tests/benchmarks/bench_sources.py [--tiles 200] [--latency 0.2] [--connections 10] [--size 20000]`.

The server is one on loopback that answers each request of a WMS after so long with a picture of grain. The peer asks
for the same pictures by the same library (requests, one connection kept open), one after another, and decodes them.
Then `historymap photo fetch` brings a larger area down in a process of its own, whose memory is looked at all the
while: once a quarter of the area (half the size along a side), once all, without latency.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
import yaml
from PIL import Image
from rasterio.windows import Window

sys.path.insert(0, str(Path(__file__).parents[1] / "sources"))

from map_server import query, serving

from historymap_lib.imagery import open_photo
from historymap_lib.project import load

CAPABILITIES = """<?xml version="1.0"?>
<WMS_Capabilities version="1.3.0" xmlns="http://www.opengis.net/wms"><Service><Name>WMS</Name></Service>
<Capability><Request><GetMap><Format>image/png</Format></GetMap></Request>
<Layer><Layer><Name>then</Name><CRS>EPSG:25832</CRS>
<BoundingBox CRS="EPSG:25832" minx="500000" miny="7000000" maxx="600000" maxy="7100000"/></Layer></Layer>
</Capability></WMS_Capabilities>"""
WEST, NORTH, RESOLUTION, BLOCK = 570_112, 7_033_088, 0.5, 512
ACROSS = 20
"""Blocks along a row of those that are timed."""


def _pictures() -> list[bytes]:
    """Return some pictures as large as those of photos are: grain, smoothed."""
    pictures = []
    for seed in range(8):
        grain = np.random.default_rng(seed).normal(128, 40, (BLOCK // 2, BLOCK // 2)).clip(1, 255).astype(np.uint8)
        data = io.BytesIO()
        Image.fromarray(grain).resize((BLOCK, BLOCK), Image.Resampling.BICUBIC).save(data, "PNG", compress_level=1)
        pictures.append(data.getvalue())
    return pictures


def _case(folder: Path, url: str, size: int, connections: int) -> Path:
    side = size * RESOLUTION
    values = {
        "name": f"town{size}",
        "area": {"crs": "EPSG:25832", "bounds": [WEST, NORTH - side, WEST + side, NORTH], "bounds_crs": "EPSG:25832"},
        "photo": {"source": "wms", "url": url, "layer": "then", "access": {"connections": connections}},
        "footprints": {"path": "footprints.geojson"},
        "tiles": {"resolution": RESOLUTION, "size": BLOCK},
    }
    file = folder / f"town{size}.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def run(tiles: int = 200, latency: float = 0.2, connections: int = 10, size: int = 20_000) -> dict[str, Any]:
    """Return seconds for `tiles` of `ours` and of the `peer`; of `fetch` a row a size; `copy` in tiles a second."""
    pictures, wait = _pictures(), [latency]

    def answer(path: str) -> tuple[int, str, bytes]:
        if "GetCapabilities" in path:
            return 200, "text/xml", CAPABILITIES.encode()
        time.sleep(wait[0])
        return 200, "image/png", pictures[hash(query(path)["BBOX"]) % len(pictures)]

    with tempfile.TemporaryDirectory() as name, serving(answer) as server:
        folder = Path(name)
        os.environ["HISTORYMAP_CACHE"] = str(folder / "cache")
        with open_photo(load(_case(folder, server.url, ACROSS * BLOCK, connections))) as photo:
            begun = time.perf_counter()
            photo.read(Window(0, 0, ACROSS * BLOCK, tiles // ACROSS * BLOCK))
            ours = time.perf_counter() - begun
        asked = server.pictures()[:tiles]
        begun = time.perf_counter()
        with requests.Session() as session:
            for path in asked:
                np.asarray(Image.open(io.BytesIO(session.get(server.url + path, timeout=60).content)))
        peer = time.perf_counter() - begun
        wait[0] = 0.0
        rows = [_fetch(_case(folder, server.url, part, connections)) for part in (size // 2, size)]
        copy = _read(folder / f"town{size}.yaml")
    return {"ours": ours, "peer": peer, "fetch": rows, "copy": copy}


def _fetch(file: Path) -> dict[str, float]:
    """Fetch the photo of a case in a process of its own."""
    command = [sys.executable, "-m", "historymap_lib.cli", "photo", "fetch", "--config", str(file)]
    begun, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        lines: list[bytes] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stderr or []))
        reader.start()
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            with np.errstate(all="ignore"):
                peak = max(peak, watched.memory_info().rss)
            time.sleep(0.1)
        reader.join()
    if process.returncode:
        raise SystemExit(b"".join(lines[-5:]).decode())
    seconds, size = time.perf_counter() - begun, load(file).paths.photo.stat().st_size
    return {"seconds": seconds, "peak_mb": peak / 1e6, "mb": size / 1e6}


def _read(file: Path) -> float:
    """Return how many tiles a second come from the local copy, at random places."""
    with open_photo(load(file)) as photo:
        grid, dice = photo.grid, random.Random(0)
        places = [(dice.randrange(grid.width - BLOCK), dice.randrange(grid.height - BLOCK)) for _ in range(200)]
        begun = time.perf_counter()
        for column, row in places:
            photo.read(Window(column, row, BLOCK, BLOCK))
    return len(places) / (time.perf_counter() - begun)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Photos from servers.")
    parser.add_argument("--tiles", type=int, default=200)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds that the server takes for a picture")
    parser.add_argument("--connections", type=int, default=10)
    parser.add_argument("--size", type=int, default=20_000, help="pixels along the area that is fetched")
    options = parser.parse_args()
    found = run(options.tiles, options.latency, options.connections, options.size)
    ours, peer = found["ours"], found["peer"]
    print(f"{options.tiles} tiles, {options.latency:g} s each, one at a time: {peer:.1f} s")
    print(f"at {options.connections} connections: {ours:.1f} s, {peer / ours:.1f} times as fast (aim 8)")
    for size, row in zip((options.size // 2, options.size), found["fetch"], strict=True):
        print(f"fetch {size:,} x {size:,}: {row['seconds']:.0f} s, {row['mb']:.0f} MB, peak {row['peak_mb']:.0f} MB")
    print(f"from the local copy: {found['copy']:.0f} tiles of {BLOCK} px a second")


if __name__ == "__main__":
    main()
