"""Reading the verdicts of a case, a part at a time: what a map or another program asks for of a whole city.

They are read from the GeoPackage that `verify` writes beside its GeoJSON, which finds a place by its index and never
needs the whole city in memory.
"""

from __future__ import annotations

import json
import math
import sqlite3
from contextlib import closing, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import pyogrio
from pyproj import Transformer
from pyproj.enums import TransformDirection
from shapely import box

from historymap_lib.errors import UnavailableError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from historymap_lib.project import Project

Bounds = tuple[float, float, float, float]
LAYER = "buildings"
PIECE = 1000
"""Buildings that are read at once."""
EDGE = 21
"""Points along an edge of a box that is brought into another CRS, where it is no box any more."""
BACK = TransformDirection.INVERSE
MARGIN = 0.001
"""Degrees around the buildings, for the points between those."""
SLACK = 1.0
"""Metres around a box in the CRS of the case, for the same; what it holds is compared in degrees afterwards."""


class VerdictsChangedError(VerificationError, UnavailableError):
    """The file was made anew while it was read: what comes before and after would be of two."""


def table(project: Project) -> Path:
    """Return the GeoPackage of a case.

    Raises:
        VerificationError: there are no verdicts yet, or the file is damaged.

    """
    path = project.paths.verified.with_suffix(".gpkg")
    try:
        _check(path, _state(path))
    except FileNotFoundError:
        raise VerificationError(f"{path}: there are no verdicts yet; run verify first") from None
    return path


def has_any(project: Project) -> bool:
    """Return whether buildings have been judged."""
    return project.paths.verified.with_suffix(".gpkg").exists()


def building_ids(project: Project) -> set[str]:
    """Return the ids of all buildings that have been judged.

    Raises:
        VerificationError: as with `table`.

    """
    with _opened(table(project)) as db:
        return {name for (name,) in db.execute(f"SELECT building_id FROM {LAYER}")}  # noqa: S608 - ours


def features(
    path: Path, *, bbox: Bounds | None = None, verdict: str | None = None, after: int = 0
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield verdicts as features of GeoJSON (EPSG:4326), in the order of the file, each with its number there.

    Args:
        path: the GeoPackage, as `table` gives it.
        bbox: west, south, east, north in degrees (EPSG:4326); only buildings that touch it.
        verdict: only those of this verdict.
        after: only those after this number.

    Raises:
        VerificationError: the file cannot be read.
        VerdictsChangedError: it was made anew on the way.

    """
    state = _state(path)
    numbers = _numbers(path, bbox, verdict, after)
    for first in range(0, len(numbers), PIECE):
        shown = _read(path, numbers[first : first + PIECE])
        if _state(path) != state:
            raise VerdictsChangedError(f"{path}: was made anew while it was read; ask again")
        if bbox is not None:
            shown = shown[shown.intersects(box(*bbox))]
        yield from zip(shown.index.tolist(), _as_features(shown), strict=True)


def _state(path: Path) -> tuple[int, ...]:
    """Return what tells a file from another of its name."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _as_features(frame: gpd.GeoDataFrame) -> Iterator[dict[str, Any]]:
    if frame.empty:
        return
    existed = frame["existed"].astype(object).where(frame["existed"].notna(), None)
    plain = frame.assign(existed=[None if value is None else bool(value) for value in existed])
    for column in ("needs_verification", "annotated"):
        plain[column] = plain[column].astype(bool)
    yield from json.loads(plain.to_json(drop_id=True))["features"]


def _read(path: Path, numbers: list[int]) -> gpd.GeoDataFrame:
    """Return buildings by their numbers in the file, in EPSG:4326."""
    try:
        found = gpd.read_file(path, layer=LAYER, fids=numbers, fid_as_index=True, engine="pyogrio")
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, RuntimeError, ValueError) as error:
        raise VerificationError(f"{path}: cannot be read ({error}); run verify again") from error
    return found.to_crs("EPSG:4326")


def _numbers(path: Path, bbox: Bounds | None, verdict: str | None, after: int) -> list[int]:
    """Return the numbers in the file of buildings of a verdict whose box may touch `bbox`, by the index of the file."""
    wanted, values = ["fid > :after"], dict[str, Any](after=after)
    if verdict is not None:
        wanted.append("verdict = :verdict")
        values["verdict"] = verdict
    if bbox is not None:
        around = _brought(path, bbox)
        if around is None:
            return []
        wanted.append(
            f"fid IN (SELECT id FROM rtree_{LAYER}_geom"  # noqa: S608 - ours
            " WHERE maxx >= :west AND maxy >= :south AND minx <= :east AND miny <= :north)"
        )
        values |= dict(zip(("west", "south", "east", "north"), around, strict=True))
    with _opened(path) as db:
        query = f"SELECT fid FROM {LAYER} WHERE {' AND '.join(wanted)} ORDER BY fid"  # noqa: S608 - ours
        return [number for (number,) in db.execute(query, values)]


def _brought(path: Path, bbox: Bounds) -> Bounds | None:
    """Return the box in the CRS of the file that holds as much of a box in degrees as there is; None where none is.

    The rest of the world may have no place in that CRS.
    """
    told = pyogrio.read_info(path, layer=LAYER, force_total_bounds=True)
    if not all(map(math.isfinite, told["total_bounds"])):
        return None
    bring = Transformer.from_crs("EPSG:4326", str(told["crs"]), always_xy=True)
    west, south, east, north = told["total_bounds"]
    left, low, right, high = bring.transform_bounds(west, south, east, north, EDGE, direction=BACK)
    west, south = max(bbox[0], left - MARGIN), max(bbox[1], low - MARGIN)
    east, north = min(bbox[2], right + MARGIN), min(bbox[3], high + MARGIN)
    if west > east or south > north:
        return None
    west, south, east, north = bring.transform_bounds(west, south, east, north, EDGE)
    return west - SLACK, south - SLACK, east + SLACK, north + SLACK


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection that only reads; nobody writes to a file of verdicts, which appears whole."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as db:
        yield db


@lru_cache(maxsize=4)
def _check(path: Path, _state: tuple[int, ...]) -> None:
    """Raise VerificationError where a file is damaged: GDAL would give what it finds before the damage, without a word.

    Remembered, since a city takes a moment.
    """
    try:
        with _opened(path) as db:
            (said,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if said == "ok":
                db.execute(f"SELECT building_id, verdict FROM {LAYER} LIMIT 1").fetchone()  # noqa: S608 - ours
    except sqlite3.Error as error:
        said = str(error)
    if said != "ok":
        raise VerificationError(f"{path}: is damaged ({said}); run verify again")
