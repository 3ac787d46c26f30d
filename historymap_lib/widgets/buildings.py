"""All buildings of a case as arrays, for a map: what is in view, what lies under a click, what is said of each."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyogrio.errors import DataLayerError, DataSourceError

from historymap_lib import first_look
from historymap_lib.annotations import REPLACED
from historymap_lib.footprint_source import load_footprints

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from historymap_lib.annotation_store import Event
    from historymap_lib.project import Project

VERDICTS = ("existed", "not_existed", "unsure", "no_coverage")
EXISTED, NOT_EXISTED, UNSURE, NO_COVERAGE = range(4)
COLUMNS = ["building_id", "name", "verdict", "probability", "overlap", "reason", "annotated", "model"]
"""Of what `verify` wrote: those that are shown."""
SHIFT = ("shift_east", "shift_north")
"""Its columns of how far from the map the photo shows a building, in metres; null where that is not known."""
DIGITS = 7
"""Of longitude and latitude: a centimetre."""
VIEW = tuple[float, float, float, float]
"""West, south, east, north in degrees (EPSG:4326)."""


@dataclass(frozen=True)
class Filter:
    """Which buildings are shown and asked for.

    Attributes:
        verdicts: codes of verdicts, as shown.
        confidence: from and to, 0 to 1; annotated ones always pass.
        area: from and to, in square metres.
        annotated: only those that are (True), that are not (False), or both (None).

    """

    verdicts: frozenset[int] = frozenset(range(len(VERDICTS)))
    confidence: tuple[float, float] = (0.0, 1.0)
    area: tuple[float, float] = (0.0, np.inf)
    annotated: bool | None = None


class Buildings:
    """The buildings of a case, one a row.

    Attributes:
        ids: building ids, such as way/123.
        frame: what `verify` wrote of each, in the CRS of the case; without verdicts the columns of the footprints.
        shapes: the footprints in EPSG:4326.
        area: in square metres (float64).
        probability: that it existed (float64, nan where nothing is known); of what people have judged, that before.
        confidence: of the verdict of the model, 0 to 1 (float64).
        model: code of the verdict of the model (int8).
        applied: the probability in the file, before anything was learned since (float64).
        applied_model: the verdict that goes with it (int8).
        annotated: code of what people say, -1 where nobody has (int8).
        shifts: where the photo shows each, east and north of the map in metres, nan where not known (n x 2, float64).
        reasons: why the model says so, in its words; empty where `verify` was told by a person (object).

    """

    def __init__(self, frame: gpd.GeoDataFrame, thresholds: tuple[float, float]) -> None:
        """Take the buildings in `frame`; `thresholds` are not_existed_to and existed_from."""
        self.frame = frame.reset_index(drop=True)
        self.ids: NDArray[Any] = frame["building_id"].to_numpy(object)
        self._rows = {building: row for row, building in enumerate(self.ids)}
        self.shapes: NDArray[Any] = frame.geometry.to_crs("EPSG:4326").to_numpy()
        self._tree = shapely.STRtree(self.shapes)
        self.area: NDArray[Any] = frame.geometry.area.to_numpy()
        judged = "probability" in frame
        probability = pd.to_numeric(frame["probability"]) if judged else pd.Series(np.nan, frame.index)
        self.probability: NDArray[Any] = probability.to_numpy(np.float64)
        self._judged, self._thresholds = judged, thresholds
        self._looked_up: tuple[Any, NDArray[np.intp]] = None, np.zeros(0, np.intp)
        self.confidence, self.model = self._verdicts(self.probability)
        self.applied, self.applied_model = self.probability.copy(), self.model
        self.annotated = np.full(len(frame), -1, np.int8)
        self.reasons = _reasons_of_the_model(frame)
        self.shifts = _shifts(frame)
        self._replaced_by_model = np.array([REPLACED in reason for reason in self.reasons], bool)
        self._replaced_by_people = np.zeros(len(frame), bool)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def centres(self) -> NDArray[Any]:
        """Longitude and latitude of the middle of each (n x 2, float64), which may lie beside a bent one."""
        west, south, east, north = shapely.bounds(self.shapes).T
        return np.column_stack([west + east, south + north]) / 2

    def shift(self, row: int) -> tuple[float, float] | None:
        """Return how far from the map the photo shows a building (east, north; metres), or None if not known."""
        east, north = self.shifts[row].tolist()
        return None if math.isnan(east) or math.isnan(north) else (east, north)

    def on_photo(self, rows: Sequence[int]) -> NDArray[Any]:
        """Return the footprints (CRS of the case) where the photo shows them, as far as that is known."""
        chosen = np.asarray(rows, np.intp)
        shapes = self.frame.geometry.to_numpy()[chosen].copy()
        moves = np.repeat(np.nan_to_num(self.shifts[chosen]), shapely.get_num_coordinates(shapes), axis=0)
        moved: NDArray[Any] = shapely.set_coordinates(shapes, shapely.get_coordinates(shapes) + moves)
        return moved

    @property
    def first_look(self) -> bool:
        """Whether the verdicts are those of a first look, before any training."""
        return "model" in self.frame and bool((self.frame["model"] == first_look.NAME).any())

    def point(self, row: int) -> tuple[float, float]:
        """Return longitude and latitude of a place within a building."""
        inside = self.shapes[row].point_on_surface()
        return inside.x, inside.y

    def row(self, building: str) -> int | None:
        """Return the row of a building, or None where there is none of this id."""
        return self._rows.get(building)

    def note(self, holding: dict[str, Event]) -> None:
        """Take what people say now (`AnnotationStore.get`)."""
        self.annotated[:] = -1
        self._replaced_by_people[:] = False
        for building, event in holding.items():
            self.mark(building, event)

    def mark(self, building: str, event: Event | None) -> None:
        """Take what people say of one building; None where nobody says anything any more."""
        row = self._rows.get(building)
        if row is not None:
            self.annotated[row] = -1 if event is None else VERDICTS.index(event.verdict)
            self._replaced_by_people[row] = event is not None and event.replaced

    def said(self) -> dict[str, bool]:
        """Return of which buildings people say whether they existed, and whether."""
        rows = np.flatnonzero((self.annotated == EXISTED) | (self.annotated == NOT_EXISTED))
        return dict(zip(self.ids[rows].tolist(), (self.annotated[rows] == EXISTED).tolist(), strict=True))

    def learn(self, ids: NDArray[Any], probability: NDArray[np.float64]) -> bool:
        """Take other probabilities of some buildings than those in the file; True if any differs from now.

        Of a building that people have judged the one of before stays: it is what the model said without them.
        """
        rows = self.rows(ids)
        wanted = rows >= 0
        wanted &= ~np.isin(self.annotated[rows], (EXISTED, NOT_EXISTED))
        now = self.probability.copy()
        now[rows[wanted]] = probability[wanted]
        moved = bool((now[rows[wanted]] != self.probability[rows[wanted]]).any())
        self.probability = now
        self.confidence, self.model = self._verdicts(now)
        return moved

    def rows(self, ids: NDArray[Any]) -> NDArray[np.intp]:
        """Return the rows of buildings, -1 where there is none of this id; the same array is looked up only once."""
        known, rows = self._looked_up
        if known is not ids:
            rows = np.array([self._rows.get(name, -1) for name in ids.tolist()], np.intp)
            self._looked_up = ids, rows
        return rows

    def looks(self, threshold: float = 0.0) -> NDArray[np.int8]:
        """Return a number for each that differs where it is drawn otherwise."""
        looks: NDArray[np.int8] = self.shown(threshold) + np.int8(len(VERDICTS)) * self.replaced(threshold)
        return looks

    def shown(self, threshold: float = 0.0) -> NDArray[np.int8]:
        """Return the code of the verdict of each: what people say, else the model if it is as confident as this."""
        timid = (self.confidence < threshold) & (self.model != NO_COVERAGE)
        model = np.where(timid, np.int8(UNSURE), self.model)
        shown: NDArray[np.int8] = np.where(self.annotated >= 0, self.annotated, model)
        return shown

    def replaced(self, threshold: float = 0.0) -> NDArray[np.bool_]:
        """Return of which buildings people, else the model, say that another one stood there."""
        said = np.where(self.annotated >= 0, self._replaced_by_people, self._replaced_by_model)
        found: NDArray[np.bool_] = said & (self.shown(threshold) == NOT_EXISTED)
        return found

    def matching(self, wanted: Filter, threshold: float = 0.0) -> NDArray[np.bool_]:
        """Return which buildings pass a filter."""
        judged = self.annotated >= 0
        passes = np.isin(self.shown(threshold), list(wanted.verdicts))
        low, high = wanted.confidence
        passes &= judged | ((self.confidence >= low) & (self.confidence <= high))
        passes &= (self.area >= wanted.area[0]) & (self.area <= wanted.area[1])
        if wanted.annotated is not None:
            passes &= judged == wanted.annotated
        return passes

    def within(self, view: VIEW) -> NDArray[np.intp]:
        """Return the rows of the buildings that reach into a view, in order."""
        found: NDArray[np.intp] = np.sort(self._tree.query(shapely.box(*view)))
        return found

    def at(self, longitude: float, latitude: float, reach: float = 0.0) -> list[int]:
        """Return the rows of the buildings at a place, the smallest first: it may lie upon another.

        Where there is none, the nearest one not further than `reach` (in degrees of longitude, any way).
        """
        place = shapely.Point(longitude, latitude)
        found = self._tree.query(place, predicate="intersects")
        if not len(found) and reach > 0:
            shrink = math.cos(math.radians(latitude))  # so much shorter is a degree of longitude than one of latitude
            high = reach * shrink
            around = shapely.box(longitude - reach, latitude - high, longitude + reach, latitude + high)
            near = self._tree.query(around, predicate="intersects")
            plain = shapely.transform(self.shapes[near], lambda xy: (xy - (longitude, latitude)) * (shrink, 1))
            distance = shapely.distance(plain, shapely.Point(0, 0))
            found = near[distance <= high][np.argsort(distance[distance <= high])][:1]
        return sorted(found.tolist(), key=lambda row: self.area[row])

    def collection(self, rows: Sequence[int] | NDArray[np.intp], classes: Iterable[str]) -> dict[str, Any]:
        """Return buildings as GeoJSON (EPSG:4326) whose looks are classes of the style sheet."""
        chosen = self.shapes[np.asarray(rows, np.intp)]
        outlines = shapely.to_geojson(shapely.transform(chosen, lambda xy: xy.round(DIGITS)))
        features = [
            {"type": "Feature", "geometry": json.loads(outline), "properties": {"style": {"className": name}}}
            for outline, name in zip(outlines, classes, strict=True)
        ]
        return {"type": "FeatureCollection", "features": features}

    def bounds(self) -> VIEW:
        """Return the bounds of all buildings."""
        west, south, east, north = shapely.total_bounds(self.shapes)
        return float(west), float(south), float(east), float(north)

    def _verdicts(self, probability: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
        """Return the confidence of the verdict of the model, and its code."""
        low, high = self._thresholds
        with np.errstate(invalid="ignore"):
            sides = [np.isnan(probability) & self._judged, probability >= high, probability <= low]
        model = np.select(sides, [NO_COVERAGE, EXISTED, NOT_EXISTED], UNSURE).astype(np.int8)
        return np.nan_to_num(np.maximum(probability, 1 - probability)), model

    @cached_property
    def _middles(self) -> gpd.GeoSeries:
        return self.frame.geometry.centroid

    def table(self) -> pd.DataFrame:
        """Return what an order of asking needs to know of each building (`active_learning.rank`)."""
        centre = self._middles
        return pd.DataFrame(
            {
                "building_id": self.ids,
                "probability": self.probability,
                "overlap": pd.to_numeric(self.frame["overlap"]) if "overlap" in self.frame else self.probability,
                "verdict": np.take(VERDICTS, self.model),
                "x": centre.x,
                "y": centre.y,
                "area": self.area,
            }
        )


def read_buildings(project: Project, holding: dict[str, Event]) -> Buildings:
    """Read the buildings of a case with their verdicts, or the footprints alone before there are any.

    Raises:
        HistorymapError: they cannot be read.

    """
    verification = project.verification
    frame = _verified(project.paths.verified)
    if frame is None:
        frame = load_footprints(project).frame
    found = Buildings(frame, (verification.not_existed_to, verification.existed_from))
    found.note(holding)
    return found


def _verified(path: Path) -> gpd.GeoDataFrame | None:
    """Read what `verify` wrote: the GeoPackage, which is read five times faster, or else the GeoJSON."""
    if not path.exists():
        return None
    table = path.with_suffix(".gpkg")
    if table.exists() and table.stat().st_mtime >= path.stat().st_mtime - 60:
        try:
            return gpd.read_file(table, columns=[*COLUMNS, *SHIFT], use_arrow=True)
        except (DataSourceError, DataLayerError, OSError, ValueError):
            pass  # the GeoJSON says the same
    from historymap_lib.evaluation import read_verdicts  # noqa: PLC0415 - its pictures take half a second

    found = read_verdicts(path)
    return found.to_crs(found.estimate_utm_crs())


def _shifts(frame: gpd.GeoDataFrame) -> NDArray[np.float64]:
    """Return the shifts (n x 2), nan where they are not known: files of before have none at all."""
    if not set(SHIFT) <= set(frame.columns):
        return np.full((len(frame), 2), np.nan)
    found: NDArray[np.float64] = frame[list(SHIFT)].apply(pd.to_numeric).to_numpy(np.float64)
    return found


def _reasons_of_the_model(frame: gpd.GeoDataFrame) -> NDArray[Any]:
    if "reason" not in frame:
        return np.full(len(frame), "", object)
    told: NDArray[Any] = frame["reason"].fillna("").to_numpy(object)
    return np.where(frame["annotated"].to_numpy(bool), "", told)


def agreement(buildings: Buildings, rows: Collection[int]) -> float | None:
    """Return how often people and model say the same of these buildings, where both say existed or not."""
    chosen = np.fromiter(rows, np.intp, len(rows))
    both = np.isin(buildings.annotated[chosen], (EXISTED, NOT_EXISTED)) & ~np.isnan(buildings.probability[chosen])
    if not both.any():
        return None
    said = buildings.annotated[chosen][both] == EXISTED
    return float((said == (buildings.probability[chosen][both] > 0.5)).mean())  # noqa: PLR2004 - more likely than not
