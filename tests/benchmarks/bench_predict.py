"""How fast predict is from file to file, beside the same network called by torch tile by tile; and its peak memory.

Run `python tests/benchmarks/bench_predict.py [--size 12000] [--peer-tiles 40] [--encoder widths|resnet18|both]`.

The photo is made up; the weights are random, which cost the same as learned ones. Each way runs alone in a process of
its own, on all cores. predict does everything: loading and quantising the model, overlapping windows, blending, the
COG. The peer is the plainest way: torch in 32 bits, windows of 512 px read from the file one after the other without
overlap, nothing written. It gets a sample of windows, after one to warm up, and its time for the whole photo is
extrapolated from that; what loading the model and the first window took is told beside and not counted. The photo of
half the side shows whether memory grows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
import yaml
from rasterio.transform import from_origin
from rasterio.windows import Window

from historymap_lib.project import load
from historymap_lib.settings import Model
from historymap_lib.tiles import Folds
from ml.checkpoint import load_model, save_model
from ml.dataset import as_input
from ml.model import build
from ml.predict import predict

TILE, RESOLUTION = 512, 0.5
WEST, NORTH = 570_000.0, 7_033_000.0


def run(size: int = 12_000, peer_tiles: int = 40, encoder: str = "widths") -> dict[str, Any]:
    """Return `rows` (name, side, seconds, mpx_per_second, tiles_per_second, peak_mb) and the `ratio` to the peer."""
    with tempfile.TemporaryDirectory() as folder:
        sides = {size // 2: Path(folder) / "half", size: Path(folder) / "whole"}
        for side, place in sides.items():
            make_case(place, side, encoder)
        rows = [_row("predict", side, _alone("predict", place)) for side, place in sides.items()]
        rows.append(_row("torch eager", size, _alone("peer", sides[size], size, peer_tiles)))
    return {"rows": rows, "ratio": rows[1]["mpx_per_second"] / rows[2]["mpx_per_second"]}


def make_case(folder: Path, size: int, encoder: str) -> None:
    """Write a photo of `size` x `size` pixels, a model of one member and their settings into `folder`."""
    folder.mkdir()
    profile = {
        "driver": "GTiff", "width": size, "height": size, "count": 1, "dtype": "uint8", "crs": "EPSG:25832",
        "transform": from_origin(WEST, NORTH, RESOLUTION, RESOLUTION), "tiled": True, "blockxsize": 512,
        "blockysize": 512,
    }  # fmt: skip
    rng = np.random.default_rng(1937)
    with rasterio.open(folder / "photo.tif", "w", **profile) as file:
        for top in range(0, size, TILE):
            y, x = np.mgrid[top : min(top + TILE, size), 0:size].astype(np.float32)
            grey = 120 + 50 * np.sin(x / 29) * np.sin(y / 37) + rng.integers(-25, 26, x.shape)
            file.write(grey.clip(1, 255).astype(np.uint8), 1, window=Window(0, top, size, len(y)))
    values = {
        "name": "bench", "area": {"crs": "EPSG:25832"}, "photo": {"path": "photo.tif"},
        "footprints": {"path": "none.geojson"}, "tiles": {"size": TILE, "resolution": RESOLUTION},
    }  # fmt: skip
    (folder / "case.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    settings = Model(encoder=encoder)
    torch.manual_seed(1937)
    save_model(
        load(folder / "case.yaml").paths.model,
        states=[build(settings).state_dict()],
        folds=Folds(2, TILE * RESOLUTION, WEST, NORTH),
        resolution=RESOLUTION,
        settings=settings,
        metrics={},
    )


def _alone(way: str, folder: Path, *arguments: int) -> dict[str, float]:
    """Run one way in a process of its own; return its `seconds` and `peak_mb`."""
    command = [sys.executable, __file__, "--way", way, str(folder), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _way(way: str, folder: Path, *arguments: int) -> None:
    """Do it, and print what it took."""
    torch.set_num_threads(os.cpu_count() or 1)
    project = load(folder / "case.yaml")
    start = time.perf_counter()
    if way == "predict":
        predict(project, picture=False)
        taken = {"seconds": time.perf_counter() - start}
    else:
        taken = _peer(project.paths.model, folder / "photo.tif", *arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(taken | {"peak_mb": peak}))


def _peer(model: Path, photo: Path, size: int, count: int) -> dict[str, float]:
    """Return the `seconds` that torch would take for the whole photo, judging by `count` windows, and its `start`."""
    begun = time.perf_counter()
    network = load_model(model).members[0]
    windows = [
        Window(x, y, TILE, TILE) for y in range(0, size - TILE + 1, TILE) for x in range(0, size - TILE + 1, TILE)
    ]
    sample = [windows[index] for index in np.linspace(0, len(windows) - 1, count + 1).astype(int)]
    with rasterio.open(photo) as file, torch.inference_mode():
        for index, window in enumerate(sample):
            if index == 1:
                warm = time.perf_counter()
            torch.sigmoid(network(as_input(file.read(1, window=window)))).numpy()
    seconds = (time.perf_counter() - warm) / count * (size / TILE) ** 2
    return {"seconds": seconds, "start": warm - begun}


def _row(name: str, side: int, taken: dict[str, float]) -> dict[str, Any]:
    speed = side**2 / taken["seconds"]
    return {"name": name, "side": side, "mpx_per_second": speed / 1e6, "tiles_per_second": speed / TILE**2} | taken


def main() -> None:
    """Print a table for each encoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=12_000, help="side of the photo, pixels of 0.5 m")
    parser.add_argument("--peer-tiles", type=int, default=40, help="windows that torch gets")
    parser.add_argument("--encoder", choices=["widths", "resnet18", "both"], default="widths")
    parser.add_argument("--way", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        way, folder, *arguments = options.way
        _way(way, Path(folder), *map(int, arguments))
        return
    for encoder in ["widths", "resnet18"] if options.encoder == "both" else [options.encoder]:
        found = run(options.size, options.peer_tiles, encoder)
        print(f"{encoder:14}{'pixels':>16}{'seconds':>10}{'Mpx/s':>8}{'tiles/s':>9}{'peak MB':>9}")
        for row in found["rows"]:
            cells = f"{row['side']:>7,} x {row['side']:>6,}{row['seconds']:>10.1f}{row['mpx_per_second']:>8.2f}"
            print(f"{row['name']:14}{cells}{row['tiles_per_second']:>9.2f}{row['peak_mb']:>9,.0f}")
        print(f"predict is {found['ratio']:.1f} times as fast as torch; torch's seconds are extrapolated from", end=" ")
        print(f"{options.peer_tiles} windows, without {found['rows'][-1]['start']:.1f} s of starting;", end=" ")
        print(f"tiles of {TILE} px; peak of the whole process")


if __name__ == "__main__":
    main()
