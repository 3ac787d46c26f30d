"""What is particular to OpenStreetMap in footprints: how ids and tags are written, and how GDAL reads .osm.pbf.

The tools that people export with each write the id of a building in their own way. `identify` knows those of
overpass-turbo (`@id`: "way/123"), QuickOSM (`full_id`: "w123"), GDAL (`osm_way_id` beside `osm_id`), osm2pgsql (an
`osm_id` below zero is a relation), osmnx (`element` or `element_type` beside `id` or `osmid`) and osmium (`@type`
beside `@id`, or "a246" for an area).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from pathlib import Path

ID_COLUMNS = ("@id", "full_id", "osm_id", "osmid", "id", "building_id")
"""Where the id of a building is looked for, the least ambiguous first."""
TYPE_COLUMNS = ("osm_type", "@type", "element_type", "element_ty", "element", "type")
"""Where it may say whether the id is one of a way or of a relation; Shapefile cuts names to ten characters."""
TAG_STORES = ("other_tags", "tags")
"""Where GDAL and osm2pgsql put tags that have no column of their own, as PostgreSQL's hstore."""
COLUMNS = (*ID_COLUMNS, "osm_way_id", *TYPE_COLUMNS, *TAG_STORES)
"""The columns that this module reads, besides those of tags."""

LAYERS = {
    "multipolygons": "building IS NOT NULL",
    "lines": """other_tags LIKE '%"building"=>%'""",
    "other_relations": """other_tags LIKE '%"building"=>%'""",
}
"""GDAL's layers that hold ways and relations tagged as buildings, with the filter that finds them.

Whole buildings are in the first. The others hold what is tagged so but has no outline of its own (a way that is not
closed, a relation that is not a multipolygon): read in order to say that it was left out.
"""

_KINDS = {"w": "way", "r": "relation", "n": "node", "way": "way", "relation": "relation", "node": "node"}
_ID = (
    r"(?i)^(?:https?://(?:www\.)?openstreetmap\.org/)?"
    r"(?P<kind>way|relation|node|[wrna])?/?(?P<number>-?\d{1,18})(?:\.0+)?$"
)


def is_osm(path: Path) -> bool:
    """Tell whether `path` is an extract of OpenStreetMap (`.osm.pbf`, `.pbf`, `.osm`), for GDAL's OSM driver."""
    return path.suffix.lower() in {".pbf", ".osm"}


def id_column(fields: pd.DataFrame) -> str | None:
    """Return the name of the column of ids, None where there is none; `fields` has names in lower case."""
    return next((name for name in ID_COLUMNS if name in fields and fields[name].notna().any()), None)


def with_gdal_ids(fields: pd.DataFrame, layer: str | None) -> pd.DataFrame:
    """Return `fields` with the ids that GDAL's OSM driver wrote as `@id`; `layer` is its layer, None in another file.

    Where there is a column `osm_way_id`, it has the id of a way, and `osm_id` that of a relation.
    """
    if layer is None and "osm_way_id" not in fields:
        return fields
    ids = pd.Series(pd.NA, fields.index, "string")
    if "osm_way_id" in fields:
        ids = "way/" + _text(fields["osm_way_id"])
    if "osm_id" in fields:
        ids = ids.fillna(("way/" if layer == "lines" else "relation/") + _text(fields["osm_id"]))
    return fields.assign(**{"@id": ids})


def identify(fields: pd.DataFrame, column: str) -> pd.DataFrame:
    """Read the ids in `column` of `fields`, whose names are in lower case.

    Returns `osm_type` (str), `osm_id` (int64, 0 where unknown) and `known` (bool), on the index of `fields`. A bare
    number is a relation where it is negative or a type column says so, else a way.
    """
    parts = _text(fields[column]).str.extract(_ID)
    known = parts["number"].notna()
    number = pd.Series([int(value) for value in parts["number"].where(known, "0")], fields.index, np.int64)
    letter = parts["kind"].str.lower()
    kind = letter.map(_KINDS).astype(object)
    for name in TYPE_COLUMNS:
        if name in fields:
            kind = kind.where(kind.notna(), _text(fields[name]).str.lower().map(_KINDS).astype(object))
    kind = kind.where(kind.notna(), np.where(number < 0, "relation", "way"))
    # osmium numbers areas: twice the id of a closed way, twice the id of a relation and one
    area = (letter == "a").fillna(value=False).to_numpy(bool)
    kind = kind.mask(area, np.where(number % 2 == 1, "relation", "way"))
    return pd.DataFrame({"osm_type": kind, "osm_id": number.abs().where(~area, number // 2), "known": known})


def tag(fields: pd.DataFrame, key: str) -> pd.Series[str]:
    """Return the value of the OSM tag `key` for each row, from its own column or from hstore; None where there is none.

    Values are str (a number such as the year 1937 as "1937"), without spaces around; an empty one counts as none.
    """
    value = _text(fields[key]) if key in fields else pd.Series(pd.NA, fields.index, "string")
    for store in TAG_STORES:
        if store in fields:
            value = value.fillna(_from_hstore(_text(fields[store]), key))
    return value.astype(object).where(value.notna() & (value != ""), None)


def not_a_building(fields: pd.DataFrame) -> np.ndarray:
    """Return where a row is no building by its tags (bool): `building=no`, a building part, or something else.

    In a file that tags any row with `building`, one without it is something else: a member of a mixed export.
    """
    building, part = tag(fields, "building"), tag(fields, "building:part")
    untagged = building.isna() & (part.notna() | bool(building.notna().any()))
    return np.asarray(untagged | building.str.lower().isin(["no", "false"]))


def underground(fields: pd.DataFrame) -> np.ndarray:
    """Return where a building cannot be seen from above (bool): `location=underground` or `tunnel=yes`.

    A negative `layer` alone does not say so: it orders things that cross.
    """
    return np.asarray((tag(fields, "location") == "underground") | (tag(fields, "tunnel") == "yes"))


def _from_hstore(store: pd.Series[str], key: str) -> pd.Series[str]:
    found = store.str.extract(rf'(?:^|,)\s*"{key}"=>"((?:[^"\\]|\\.)*)"', expand=False)
    return found.str.replace(r"\\(.)", r"\1", regex=True)


def _text(column: pd.Series[str]) -> pd.Series[str]:
    text = column.astype("string").str.strip()
    if pd.api.types.is_float_dtype(column):  # whole numbers with gaps between them
        text = text.str.replace(r"\.0$", "", regex=True)
    return text
