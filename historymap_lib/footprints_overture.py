"""What is particular to Overture Maps in footprints: each building names the sources that it was put together from.

One of OpenStreetMap is told by `record_id` "w123@4", which is version 4 of way 123. A building that was traced by a
machine alone has no such id. The schema: https://docs.overturemaps.org/schema/reference/buildings/building/
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

OSM = "OpenStreetMap"
_RECORD = re.compile(r"(?P<kind>[wr])(?P<number>\d+)(?:@\d+)?")


def with_overture_ids(fields: pd.DataFrame) -> pd.DataFrame:
    """Return `fields` (names in lower case) with ids and tags as OpenStreetMap has them, if they are Overture's."""
    if "sources" not in fields or not any(_is_source(value) for value in fields["sources"]):
        return fields
    told: dict[str, Any] = {"@id": [_osm_id(value) for value in fields["sources"]]}
    told["building"] = fields["class"].fillna("yes") if "class" in fields else "yes"
    if "names" in fields:
        told["name"] = [names.get("primary") if isinstance(names, dict) else None for names in fields["names"]]
    if "is_underground" in fields:
        told["location"] = fields["is_underground"].map({True: "underground"}).astype(object)
    return fields.drop(columns=["names", "sources", "id"], errors="ignore").assign(**told)


def _is_source(value: Any) -> bool:
    return any("record_id" in one for one in _items(value))


def _osm_id(value: Any) -> str | None:
    """Return the id of the building in OpenStreetMap ("w123"), or None where it is not from there."""
    for one in _items(value):
        found = _RECORD.fullmatch(str(one.get("record_id") or ""))
        if one.get("dataset") == OSM and found:
            return found["kind"] + found["number"]
    return None


def _items(value: Any) -> Iterable[dict[str, Any]]:
    """Return the sources of a building; a missing list is none."""
    return [one for one in value if isinstance(one, dict)] if hasattr(value, "__len__") else []
