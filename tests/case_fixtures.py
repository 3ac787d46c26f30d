"""A case of 256 m x 256 m: made in a moment, and known to the pixel.

Tiles are 128 pixels of 0.5 m, so there are 4 x 4 of them. Buildings stand on a lattice, every second one of which the
photo shows as a bright roof; no edge of a building runs through the centre of a pixel. The northernmost metres hold no
photo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import rasterio
import yaml
from rasterio.features import rasterize
from rasterio.transform import from_origin
from scipy.special import logit
from shapely import Polygon, box

from historymap_lib import first_look, project, tiles
from historymap_lib.footprint_source import load_footprints
from historymap_lib.outline_evidence import Looks, OutlineEvidence

if TYPE_CHECKING:
    from pathlib import Path

CRS = "EPSG:25832"
WEST, NORTH = 570_000.0, 7_034_000.0
RESOLUTION, SIZE, TILE = 0.5, 512, 128
SIDE = TILE * RESOLUTION
"""Metres along a tile."""
TRANSFORM = from_origin(WEST, NORTH, RESOLUTION, RESOLUTION)
MARGIN = 8
"""Rows at the north without photo."""


def rectangle(east: float, south: float, width: float = 9.0, height: float = 12.0) -> Polygon:
    """A building, by metres east and south of the corner of the photo."""
    return box(WEST + east, NORTH - south - height, WEST + east + width, NORTH - south)


def lattice(spacing: float = 19.7) -> dict[int, Polygon]:
    """Buildings by the number of their way; odd numbers stood when the photo was taken."""
    steps = np.arange(3.1, SIZE * RESOLUTION - 13, spacing)
    places = [(east, south) for south in steps for east in steps]
    return {number: rectangle(*place) for number, place in enumerate(places, 1)}


def make_case(folder: Path, buildings: dict[int, Polygon] | None = None, **settings: dict) -> Path:
    """Write photo, footprints and settings; return the YAML. Sections of settings can be added to."""
    folder.mkdir(parents=True, exist_ok=True)
    buildings = lattice() if buildings is None else buildings
    write_photo(folder / "photo.tif", photo_of(buildings))
    write_footprints(folder / "footprints.geojson", buildings)
    values = {
        "name": "town",
        "area": {"crs": CRS},
        "photo": {"path": "photo.tif", "year": 1937},
        "footprints": {"path": "footprints.geojson"},
        "tiles": {"size": TILE, "resolution": RESOLUTION, "count": 50},
        "model": {"widths": [4, 8]},
        "training": {"crop": 64, "outline_steps": 0},
        "prediction": {"runtime": "torch"},
    }
    for section, changes in settings.items():
        values[section] = values.get(section, {}) | changes
    file = folder / "case.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def change(file: Path, section: str, **values: object) -> None:
    """Change settings in a YAML."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content[section] = content.get(section, {}) | values
    file.write_text(yaml.safe_dump(content), encoding="utf-8")


def photo_of(buildings: dict[int, Polygon]) -> np.ndarray:
    """Grain of 60 to 140, roofs of 200 where an odd number stands, 0 where there is no photo."""
    photo = np.random.default_rng(7).integers(60, 140, (SIZE, SIZE), dtype=np.uint8)
    photo[covered([shape for number, shape in buildings.items() if number % 2])] = 200
    photo[:MARGIN] = 0
    return photo


def covered(shapes: list[Polygon]) -> np.ndarray:
    """Return which pixels (SIZE x SIZE) have their centre in one of the shapes."""
    if not shapes:
        return np.zeros((SIZE, SIZE), bool)
    return rasterize(shapes, out_shape=(SIZE, SIZE), transform=TRANSFORM).astype(bool)


def write_photo(path: Path, values: np.ndarray, nodata: int | None = 0) -> None:
    """Write one band of uint8 that starts at the corner."""
    height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=1, dtype="uint8", nodata=nodata, crs=CRS,
        transform=TRANSFORM, tiled=True, blockxsize=128, blockysize=128, compress="deflate",
    ) as file:  # fmt: skip
        file.write(values, 1)


def write_footprints(path: Path, buildings: dict[int, Polygon], kind: str = "way") -> None:
    """Write buildings with osm_type and osm_id."""
    columns = {"osm_type": [kind] * len(buildings), "osm_id": list(buildings), "building": ["yes"] * len(buildings)}
    frame = gpd.GeoDataFrame(columns, geometry=list(buildings.values()), crs=CRS)
    frame.to_file(path, driver="GeoJSON", engine="pyogrio")


def write_probability(case: project.Project, values: np.ndarray) -> None:
    """Write probabilities (uint8, 255 no data) where predict would."""
    case.paths.predictions.mkdir(parents=True, exist_ok=True)
    write_photo(case.paths.probability, values, nodata=255)


def seen(buildings: dict[int, Polygon], probability: float = 0.9) -> np.ndarray:
    """Return the probabilities of a model that sees the roofs of the photo."""
    values = np.random.default_rng(3).integers(0, 12, (SIZE, SIZE), dtype=np.uint8)
    values[covered([shape for number, shape in buildings.items() if number % 2])] = round(254 * probability)
    values[:MARGIN] = 255
    return values


def take_first_look(case: project.Project) -> None:
    """Do what `ml.first_look:look` does, knowing which buildings the photo shows: half are clear, and half are not.

    There are no phantoms to learn from, so what it says of a building is the probability.
    """
    frame = load_footprints(case).frame
    ids, count = frame["building_id"].to_numpy(np.str_), len(frame)
    probability = np.where(np.arange(count) < count // 2, 0.05 + 0.9 * stood(ids), 0.5)
    buildings = looks_of(frame.geometry.to_numpy(), logit(probability))
    nothing = buildings.take(np.arange(0))
    found = OutlineEvidence(ids, np.zeros((count, 2)), np.full(count, -1), buildings, nothing, nothing)
    found.write(first_look.file(case))


def stood(building_ids: np.ndarray) -> np.ndarray:
    """Return which buildings of a case the photo shows (n, bool)."""
    return np.array([int(name.split("/")[1]) % 2 == 1 for name in building_ids])


def looks_of(shapes: np.ndarray, logits: np.ndarray, embedding: np.ndarray | None = None) -> Looks:
    """Return what a network saw that says this of some outlines, wholly on the photo."""
    count = len(shapes)
    return Looks(
        shapes,
        np.asarray(logits, np.float32).reshape(count, 1),
        np.zeros((count, 4), np.float32) if embedding is None else embedding,
        np.ones(count, np.float32),
        np.full((count, 2), (120.0, 30.0), np.float32),
        np.arange(count),
    )


def find_elsewhere(case: project.Project, shifts: dict[str, tuple[float, float]]) -> None:
    """Write into the verdicts how far from the map (metres east, north) some buildings were found."""
    table = case.paths.verified.with_suffix(".gpkg")
    frame = gpd.read_file(table)
    found = [shifts.get(name, (np.nan, np.nan)) for name in frame["building_id"]]
    frame[["shift_east", "shift_north"]] = np.array(found, np.float64)
    frame.to_file(table, driver="GPKG", layer="buildings", engine="pyogrio")


def save_random_model(case: project.Project) -> None:
    """Write a model that has learned nothing."""
    import torch  # noqa: PLC0415 - takes seconds, and few tests need it

    from ml.checkpoint import save_model  # noqa: PLC0415
    from ml.model import build  # noqa: PLC0415

    torch.manual_seed(0)
    case.paths.models.mkdir(parents=True, exist_ok=True)
    save_model(
        case.paths.model,
        states=[build(case.model).state_dict() for _ in range(2)],
        folds=tiles.Folds(2, SIDE, WEST, NORTH),
        resolution=RESOLUTION,
        settings=case.model,
        metrics={},
    )
