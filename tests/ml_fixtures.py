"""A case small enough to train in a second: bright houses on dark ground, some of them only on today's map."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import torch
import yaml
from rasterio.transform import from_origin

from historymap_lib.project import load
from historymap_lib.training_data import generate

if TYPE_CHECKING:
    from pathlib import Path

    from historymap_lib.project import Project

WEST, NORTH = 570_000.0, 7_033_000.0
torch.set_num_threads(1)  # the networks are so small that threads would only wait for each other
CELL = 64
"""Pixels along a tile; each has two houses, well inside."""


def make_case(folder: Path, size: int = 256, **settings: dict) -> Project:
    """Write photo, footprints and settings of a case of `size` x `size` pixels of 0.5 m into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1937)
    grey = rng.normal(70, 12, (size, size))
    features = []
    for number, (row, column) in enumerate(np.ndindex(size // CELL, size // CELL)):
        for half in range(2):
            top, left = row * CELL + rng.integers(4, 40), column * CELL + 4 + half * 30 + rng.integers(0, 8)
            height, width = rng.integers(14, 20, 2)
            if rng.random() < 0.75:  # the others came later
                grey[top : top + height, left : left + width] += 110
            features.append(_house(2 * number + half + 1, top, left, height, width))
    write_photo(folder / "photo.tif", np.clip(grey, 1, 255).astype(np.uint8))
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::25832"}}
    collection = {"type": "FeatureCollection", "crs": crs, "features": features}
    (folder / "footprints.geojson").write_text(json.dumps(collection), encoding="utf-8")
    return write_settings(folder, **settings)


def write_settings(folder: Path, **settings: dict) -> Project:
    """Write the settings of the case in `folder`, with keys of some sections changed, and load them."""
    values = {
        "name": "tiny",
        "area": {"crs": "EPSG:25832"},
        "photo": {"path": "photo.tif"},
        "footprints": {"path": "footprints.geojson"},
        "tiles": {"size": CELL, "resolution": 0.5, "count": 64, "test": 0.0},
        "model": {"widths": [4, 8], "stride": 1},
        "training": {
            "epochs": 2,
            "crop": CELL,
            "batch_size": 4,
            "rounds": 1,
            "learning_rate": 0.01,
            "outline_steps": 0,
        },
        "prediction": {"runtime": "torch", "precision": "fp32"},
    }
    for section, changes in settings.items():
        values[section] = values.get(section, {}) | changes
    file = folder / "case.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load(file)


def make_tiles(folder: Path, size: int = 256, **settings: dict) -> Project:
    """Make a case and its training tiles."""
    project = make_case(folder, size, **settings)
    generate(project)
    return project


def write_photo(path: Path, grey: np.ndarray, west: float = WEST, north: float = NORTH) -> None:
    """Write grey values as a GeoTIFF of 0.5 m whose 0 is no data."""
    height, width = grey.shape
    profile = {"driver": "GTiff", "width": width, "height": height, "count": 1, "dtype": "uint8", "nodata": 0}
    with rasterio.open(path, "w", crs="EPSG:25832", transform=from_origin(west, north, 0.5, 0.5), **profile) as file:
        file.write(grey, 1)


def _house(number: int, top: int, left: int, height: int, width: int) -> dict:
    west, east = WEST + left / 2, WEST + (left + width) / 2
    north, south = NORTH - top / 2, NORTH - (top + height) / 2
    ring = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    return {
        "type": "Feature",
        "properties": {"osm_type": "way", "osm_id": number, "building": "yes"},
        "geometry": {"type": "Polygon", "coordinates": [[[float(x), float(y)] for x, y in ring]]},
    }
