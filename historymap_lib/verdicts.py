"""Reading the verdicts of a case, a part at a time: what a map or another program asks for of a whole city.

They are read from the GeoPackage that `verify` writes beside its GeoJSON, which finds a place by its index and never
needs the whole city in memory.
"""

from __future__ import annotations

import json
import math
import sqlite3
from contextlib import closing
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import pyogrio
from pyproj import Transformer
from shapely import box

from historymap_lib.errors import VerificationError

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
MARGIN = 0.001
"""Degrees around the buildings, for the points between those."""
SLACK = 1.0
"""Metres around a box in the CRS of the case, for the same; what it holds is compared in degrees afterwards."""


def table(project: Project) -> Path:
    """Return the GeoPackage of a case.

    Raises:
        VerificationError: there are no verdicts yet, or the file is damaged.

    """
    path = project.paths.verified.with_suffix(".gpkg")
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise VerificationError(f"{path}: there are no verdicts yet; run verify first") from None
    _check(path, (stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return path


def has_any(project: Project) -> bool:
    """Return whether buildings have been judged."""
    return project.paths.verified.with_suffix(".gpkg").exists()


def building_ids(project: Project) -> set[str]:
    """Return the ids of all buildings that have been judged.

    Raises:
        VerificationError: as with `table`.

    """
    with closing(sqlite3.connect(f"{table(project).resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as db:
        return {name for (name,) in db.execute(f"SELECT building_id FROM {LAYER}")}  # noqa: S608 - ours


def features(
    path: Path, *, bbox: Bounds | None = None, verdict: str | None = None, limit: int | None = None, offset: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield verdicts as features of GeoJSON (EPSG:4326), in the order of the file.

    Args:
        path: the GeoPackage, as `table` gives it.
        bbox: west, south, east, north in degrees (EPSG:4326); only buildings that touch it.
        verdict: only those of this verdict.
        limit: at most so many.
        offset: how many to leave out at first.

    Raises:
        VerificationError: the file cannot be read.

    """
    left = math.inf if limit is None else limit
    around = None if bbox is None else _brought(path, bbox)
    if bbox is not None and around is None:
        return
    where = "1 = 1" if verdict is None else "verdict = '{}'".format(verdict.replace("'", "''"))
    last = -1
    while left > 0:
        frame = _read(path, f"{where} AND fid > {last}", around, PIECE)
        if frame.empty:
            return
        last = int(frame.index[-1])
        shown = frame.to_crs("EPSG:4326")
        if bbox is not None:
            shown = shown[shown.intersects(box(*bbox))]
        skipped, offset = min(offset, len(shown)), max(0, offset - len(shown))
        shown = shown.iloc[skipped:]
        for feature in _as_features(shown):
            if left <= 0:
                return
            left -= 1
            yield feature


def _as_features(frame: gpd.GeoDataFrame) -> Iterator[dict[str, Any]]:
    if frame.empty:
        return
    existed = frame["existed"].astype(object).where(frame["existed"].notna(), None)
    plain = frame.assign(existed=[None if value is None else bool(value) for value in existed])
    for column in ("needs_verification", "annotated"):
        plain[column] = plain[column].astype(bool)
    yield from json.loads(plain.to_json(drop_id=True))["features"]


def _read(path: Path, where: str, around: Bounds | None, count: int) -> gpd.GeoDataFrame:
    """Return buildings in the order of their numbers, which are the index; those whose box touches `around`."""
    try:
        return gpd.read_file(
            path, layer=LAYER, where=where, bbox=around, max_features=count, fid_as_index=True, engine="pyogrio"
        )
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, RuntimeError, ValueError) as error:
        raise VerificationError(f"{path}: cannot be read ({error}); run verify again") from error


def _brought(path: Path, bbox: Bounds) -> Bounds | None:
    """Return the box in the CRS of the file that holds as much of a box in degrees as there is; None where none is.

    The rest of the world may have no place in that CRS.
    """
    told = pyogrio.read_info(path, layer=LAYER, force_total_bounds=True)
    if not all(map(math.isfinite, told["total_bounds"])):
        return None
    bring = Transformer.from_crs("EPSG:4326", str(told["crs"]), always_xy=True)
    there = bring.transform_bounds(*told["total_bounds"], densify_pts=EDGE, direction="INVERSE")
    common = box(*there).buffer(MARGIN).intersection(box(*bbox))
    if common.is_empty:
        return None
    west, south, east, north = bring.transform_bounds(*common.bounds, densify_pts=EDGE)
    return west - SLACK, south - SLACK, east + SLACK, north + SLACK


@lru_cache(maxsize=4)
def _check(path: Path, _state: tuple[int, ...]) -> None:
    """Raise VerificationError where a file is damaged: GDAL would give what it finds before the damage, without a word.

    Remembered, since a city takes a moment.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as db:
            (said,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if said == "ok":
                db.execute(f"SELECT building_id, verdict FROM {LAYER} LIMIT 1").fetchone()  # noqa: S608 - ours
    except sqlite3.Error as error:
        said = str(error)
    if said != "ok":
        raise VerificationError(f"{path}: is damaged ({said}); run verify again")
