"""Annotations from and to files: the exchange format, GeoJSON, GeoPackage, CSV.

    osm_type, osm_id, existed, notes, annotator, created_at, reason

are the columns of a table; `existed` is true, false, or empty for *unsure*. Only `osm_id` and `existed` must be there.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import pandas as pd
from pydantic import ValidationError

from historymap_lib import artifacts
from historymap_lib.annotations import Annotation
from historymap_lib.annotations import save as save_annotations
from historymap_lib.errors import AnnotationsError
from historymap_lib.footprint_source import load_footprints

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from historymap_lib.project import Project

COLUMNS = tuple(Annotation.model_fields)
VECTOR = (".geojson", ".gpkg")
TRUE, FALSE, UNSURE = (
    ("true", "1", "yes", "existed"),
    ("false", "0", "no", "not_existed"),
    ("", "null", "unsure", "none"),
)


@dataclass
class Found:
    """What is in a file: annotations, and a sentence for each row that is none."""

    entries: list[Annotation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_file(path: Path) -> Found:
    """Read a file of annotations: .json (the exchange format), .csv, .geojson, .gpkg.

    Rows that are wrong are told in `problems`, and the others are read all the same. Of rows that say the same of a
    building only the first counts.

    Raises:
        AnnotationsError: the file is missing, damaged, or of another kind.

    """
    if not path.exists():
        raise AnnotationsError(f"{path}: there is no such file; give one that ends in .json, .csv, .geojson or .gpkg")
    try:
        rows = _rows(path)
    except (OSError, ValueError, RuntimeError, csv.Error) as error:
        raise AnnotationsError(f"{path}: cannot be read ({error}); correct it or bring back a copy") from error
    found, seen = Found(), set()
    for number, row in enumerate(rows, 1):
        entry = _entry(row)
        if isinstance(entry, str):
            found.problems.append(f"{path}: row {number}: {entry}")
        elif entry in seen:
            found.problems.append(f"{path}: row {number}: says of {entry.building_id} what a row before says")
        else:
            seen.add(entry)
            found.entries.append(entry)
    return found


def write_file(path: Path, entries: Iterable[Annotation], project: Project) -> int:
    """Write annotations to a file by its ending, whole or not at all; return how many.

    GeoJSON and GeoPackage hold the footprints (EPSG:4326), without those that today's map no longer has.

    Raises:
        AnnotationsError: the ending is none of .json, .csv, .geojson, .gpkg.
        FootprintsError: the footprints of the case cannot be read.

    """
    found = list(entries)
    if path.suffix == ".json":
        save_annotations(path, found)
        return len(found)
    table = pd.DataFrame([entry.model_dump() for entry in found], columns=list(COLUMNS))
    table["existed"] = table["existed"].map({True: "true", False: "false"}).fillna("")
    if path.suffix == ".csv":
        artifacts.write_text(path, table.to_csv(index=False))
        return len(table)
    if path.suffix not in VECTOR:
        raise AnnotationsError(f"{path}: end it in .json, .csv, .geojson or .gpkg, which says what to write")
    table["building_id"] = table["osm_type"] + "/" + table["osm_id"].astype(str)
    shapes = load_footprints(project).frame.set_index("building_id").geometry.to_crs("EPSG:4326")
    known = table[table["building_id"].isin(shapes.index)]
    frame = gpd.GeoDataFrame(known, geometry=shapes.loc[known["building_id"]].to_numpy(), crs="EPSG:4326")
    with artifacts.replacing(path) as partial:
        frame.to_file(partial, driver="GPKG" if path.suffix == ".gpkg" else "GeoJSON")
    return len(frame)


def _rows(path: Path) -> list[Any]:
    """Return the rows of a file as they stand."""
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = content.get("annotations") if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise ValueError('it holds no list "annotations"')
        return rows
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            _check_columns(table.fieldnames or ())
            return list(table)
    if path.suffix in VECTOR:
        frame = gpd.read_file(path, ignore_geometry=True)
        _check_columns(frame.columns)
        return [dict(row) for row in frame.astype(object).where(frame.notna(), None).to_dict("records")]
    raise ValueError("its ending is none of .json, .csv, .geojson, .gpkg")


def _check_columns(names: Iterable[str]) -> None:
    missing = [name for name in ("osm_id", "existed") if name not in set(names)]
    if missing:
        raise ValueError(f"it has no column {' and no '.join(missing)}")


def _entry(row: Any) -> Annotation | str:
    """Return a row as annotation, or what is wrong with it."""
    if not isinstance(row, dict):
        return f"{row!r} holds no keys; write osm_id and existed"
    values = {key: value for key, value in row.items() if key in COLUMNS and (value is not None or key == "existed")}
    if isinstance(values.get("created_at"), datetime):  # as GDAL reads a text that looks like a time
        values["created_at"] = values["created_at"].isoformat()
    try:
        values |= {"existed": _existed(row["existed"]), "osm_id": _number(row["osm_id"])}
        return Annotation.model_validate({key: value for key, value in values.items() if value != "" or key == "notes"})
    except KeyError as error:
        return f"{error.args[0]} is missing; add it"
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()} (is {first['input']!r}); correct it"
    except ValueError as error:
        return str(error)


def _existed(value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    for words, meaning in ((TRUE, True), (FALSE, False), (UNSURE, None)):
        if text in words:
            return meaning
    raise ValueError(f"existed is {value!r}; write true, false, or nothing for unsure")


def _number(value: Any) -> int:
    if isinstance(value, bool) or not str(value).strip().isdecimal():
        raise ValueError(f"osm_id is {value!r}; write a whole number of 1 or more")
    return int(str(value))
