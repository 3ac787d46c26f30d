"""The embedded sample town: a photo of the 1930s, today's footprints, and which of them the photo shows.

A town that never was, so that everything can be tried and measured without a download: `sample_town` lays it out,
`sample_buildings` builds it and lets the years pass, `sample_ground` covers the ground, `sample_photo` flies over it.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import shapely
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from pyproj import Transformer
from rasterio import Affine

from historymap_lib.artifacts import replacing
from historymap_lib.errors import HistorymapError
from historymap_lib.sample_ground import cover
from historymap_lib.sample_photo import NODATA, fly, margin, photograph
from historymap_lib.sample_town import lay_out, waves

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from historymap_lib.sample_buildings import Building, FloatArray, Rng

CRS = "EPSG:25832"
MAP_CRS = "EPSG:4326"
WEST, NORTH = 569_000.0, 7_034_000.0  # the photo's corner, near Trondheim
MIN_SIZE = 300.0  # metres; below that there is no room for a town
FINEST, COARSEST = 0.1, 2.0  # metres a pixel
MAX_OFFSET = 2.0  # metres between map and photo
MAP_SWAY = 0.8  # metres by which the map is off, differently by neighbourhood
JITTER, MAX_JITTER = 0.17, 0.3  # metres by which each building is drawn off
SIMPLIFIED = 0.35  # metres
DECIMALS = 7
RELATIONS = 0.015  # of the buildings without a courtyard
NAMES = ("Granheim", "Solbakken", "Nordre gård", "Fjordgata 4", "Elvelund", "Bakkehaugen", "Verkstedet", "Lillegården")
NAMED = 0.02
PREVIEW_PIXELS = 1000
STOOD_COLOUR, LATER_COLOUR = "#2fbf4a", "#e5362c"


class SampleError(HistorymapError):
    """The sample town cannot be made as asked."""


@dataclass(frozen=True)
class SamplePaths:
    """The files of a sample town."""

    photo: Path
    footprints: Path
    truth: Path
    preview: Path


@dataclass(frozen=True)
class Sample:
    """A sample town in memory: what the files are written from.

    `photo` is (rows, columns) uint8, `buildings` those of today in the order of the map, `outlines` their footprints in
    local metres as the map draws them, `ids` their (osm_type, osm_id), `off` how far each is off the photo in metres.
    """

    photo: NDArray[np.uint8]
    buildings: list[Building]
    outlines: NDArray[Any]
    ids: list[tuple[str, int]]
    names: list[str | None]
    off: FloatArray
    size: float
    resolution: float


def make_sample(folder: Path, *, seed: int = 1937, size_m: float = 1500.0, resolution: float = 0.5) -> SamplePaths:
    """Write the sample town of a seed into `folder` and return where its files are.

    `photo.tif` is a GeoTIFF (uint8, EPSG:25832, 0 = no data) over a square of `size_m` metres at `resolution` metres a
    pixel; `footprints.geojson` (EPSG:4326) holds today's buildings with `osm_type`, `osm_id`, `building`, `name`;
    `truth.csv` tells which of them stood, and is read by nothing but evaluation; `preview.png` shows all that. The same
    arguments give the same files. Raises SampleError where the size or the resolution allows no town.
    """
    sample = plan_sample(seed=seed, size_m=size_m, resolution=resolution)
    paths = SamplePaths(*(folder / name for name in ("photo.tif", "footprints.geojson", "truth.csv", "preview.png")))
    with replacing(paths.photo) as partial:
        _write_photo(partial, sample)
    with replacing(paths.footprints) as partial:
        _write_footprints(partial, sample)
    with replacing(paths.truth) as partial:
        _write_truth(partial, sample)
    with replacing(paths.preview) as partial:
        _write_preview(partial, sample)
    return paths


def plan_sample(*, seed: int, size_m: float, resolution: float) -> Sample:
    """Return the sample town of a seed; `make_sample` says what the arguments are and what it raises."""
    if not size_m >= MIN_SIZE:
        raise SampleError(f"A sample town of {size_m} m is too small; choose a size of at least {MIN_SIZE:.0f} m.")
    if not FINEST <= resolution <= COARSEST:
        raise SampleError(
            f"A resolution of {resolution} m a pixel shows no town; choose one from {FINEST} to {COARSEST} m."
        )
    size = round(size_m / resolution) * resolution
    rng = np.random.default_rng(seed)
    town = lay_out(rng, size)
    ground = cover(rng, town)
    flight = fly(rng, size, resolution)
    today = [building for building in town.buildings() if building.today]
    today = [today[i] for i in rng.permutation(len(today))]
    middles = shapely.get_coordinates(shapely.centroid([building.outline for building in today]))
    jump = shapely.contains_xy(flight.strip, middles)[:, None] * np.array(flight.jump_metres)
    plain = np.array([building.outline for building in today])
    outlines, drawn_off = draw_map(rng, plain, middles, np.array(flight.jump_metres) / 2)
    ids, names = _name(rng, today)
    photo = photograph(rng, town, ground, flight, margin(rng, size, middles))
    off = np.hypot(*(drawn_off - jump).T)
    return Sample(photo, today, outlines, ids, names, off, size, resolution)


def draw_map(
    rng: Rng,
    plain: NDArray[Any],
    middles: FloatArray,
    mean: FloatArray,
    *,
    sway: float = MAP_SWAY,
    jitter: tuple[float, float] = (JITTER, MAX_JITTER),
    reach: float = MAX_OFFSET,
) -> tuple[NDArray[Any], FloatArray]:
    """Return n footprints as drawn, and how far off each is, (n, 2) metres, in length up to about `reach`.

    `plain` are the true outlines, `middles` (n, 2) their middles in metres; all are off by `mean`, by neighbourhood by
    `sway` besides, and singly by `jitter` (its standard deviation and its limit), all in metres.
    """
    waved = np.column_stack([waves(rng, (350, 900))(middles), waves(rng, (350, 900))(middles)]) * sway / 2**0.5
    single = _limited(rng.normal(0, jitter[0], middles.shape), jitter[1])
    for _ in range(2):
        off = mean + _limited(waved + single, reach - float(np.hypot(*mean)))
        drawn = np.array([shapely.transform(o, lambda p, d=d: p + d) for o, d in zip(plain, off, strict=True)])
        one, other = shapely.STRtree(drawn).query(drawn, predicate="intersects")
        single[np.unique(one[one != other])] = 0  # neighbours wall to wall are drawn together
    return shapely.simplify(drawn, SIMPLIFIED), off


def _limited(off: FloatArray, longest: float) -> FloatArray:
    """Return (n, 2) vectors, shortened to `longest` where they are longer."""
    length = np.hypot(off[:, 0], off[:, 1])[:, None]
    return off * np.minimum(1, longest / np.maximum(length, longest))


def _name(rng: Rng, buildings: list[Building]) -> tuple[list[tuple[str, int]], list[str | None]]:
    """Return an id and perhaps a name for each building; neither tells anything about its age."""
    numbers = rng.choice(900_000_000, size=len(buildings), replace=False) + 20_000_000
    ids, names = [], []
    for building, number in zip(buildings, numbers.tolist(), strict=True):
        court = len(shapely.get_parts(building.outline.interiors)) > 0
        ids.append(("relation" if court or rng.random() < RELATIONS else "way", number))
        names.append(str(rng.choice(NAMES)) if rng.random() < NAMED else None)
    return ids, names


def _write_photo(path: Path, sample: Sample) -> None:
    height, width = sample.photo.shape
    profile = {
        "driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "uint8", "crs": CRS, "nodata": NODATA,
        "transform": Affine(sample.resolution, 0, WEST, 0, -sample.resolution, NORTH),
        "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "predictor": 2,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(sample.photo, 1)


def _write_footprints(path: Path, sample: Sample) -> None:
    """Write the map as GeoJSON, longitude before latitude."""
    transformer = Transformer.from_crs(CRS, MAP_CRS, always_xy=True)

    def to_map(points: FloatArray) -> FloatArray:
        x, y = transformer.transform(points[:, 0] + WEST, points[:, 1] + NORTH - sample.size)
        return np.round(np.column_stack([x, y]), DECIMALS)

    features = []
    for building, outline, (kind, number), name in zip(
        sample.buildings, shapely.transform(sample.outlines, to_map), sample.ids, sample.names, strict=True
    ):
        properties = {"osm_type": kind, "osm_id": number, "building": building.tag, "name": name}
        features.append({"type": "Feature", "properties": properties, "geometry": shapely.geometry.mapping(outline)})
    collection = {"type": "FeatureCollection", "name": "buildings", "features": features}
    path.write_text(json.dumps(collection, ensure_ascii=False), encoding="utf-8")


def _write_truth(path: Path, sample: Sample) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["osm_type", "osm_id", "existed"])
        for (kind, number), building in zip(sample.ids, sample.buildings, strict=True):
            writer.writerow([kind, number, "true" if building.stood else "false"])


def _write_preview(path: Path, sample: Sample) -> None:
    """Write the photo with the footprints that stood outlined in green, the later ones in red."""
    step = max(1, round(sample.photo.shape[0] / PREVIEW_PIXELS))
    whole = sample.photo.shape[0] // step
    small = sample.photo[: whole * step, : whole * step].reshape(whole, step, whole, step).mean(axis=(1, 3))
    shown = whole * step * sample.resolution
    figure = Figure(figsize=(whole / 100, whole / 100), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(small, cmap="gray", vmin=0, vmax=255, extent=(0, shown, sample.size - shown, sample.size))
    colours = [STOOD_COLOUR if building.stood else LATER_COLOUR for building in sample.buildings]
    rings = [shapely.get_coordinates(outline.exterior) for outline in sample.outlines]
    axes.add_collection(LineCollection(rings, colors=colours, linewidths=0.8))
    axes.set_xlim(0, shown)
    axes.set_ylim(sample.size - shown, sample.size)
    figure.savefig(path, metadata={"Software": None})
