"""A fresh snapshot of today's buildings, and what is different in it: which came, went, or changed shape.

What people have judged is kept whatever the map says: judgements are of a building by its id, and wait for it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from historymap_lib import artifacts
from historymap_lib.annotation_store import settled
from historymap_lib.errors import FootprintsError
from historymap_lib.footprint_source import fetch, locked, read, serves
from historymap_lib.imagery import area_of

if TYPE_CHECKING:
    from pathlib import Path

    import geopandas as gpd

    from historymap_lib.project import Project

ALIKE = 0.98
"""Two outlines that share this much of what both cover are the same building as it was: mappers nudge corners."""
KINDS = ("came", "went", "changed shape")
COLUMNS = ["building_id", "change", "alike", "annotated", "name", "building", "geometry"]


@dataclass(frozen=True)
class Changes:
    """What a fresh snapshot changed.

    Attributes:
        table: a row a building, with COLUMNS; in the CRS of the case; what went has its old outline. `alike` is the
            intersection over the union of old and new outline (0 to 1, nan for what came or went).
        same: how many buildings are as they were.
        dates: of which states of the map the old and the new snapshot are; "" where the server did not say.
        file: where the table is written, as GeoJSON.

    """

    table: gpd.GeoDataFrame
    same: int
    dates: tuple[str, str]
    file: Path

    def count(self, kind: str) -> int:
        """Return how many buildings came, went, or changed shape."""
        return int((self.table["change"] == kind).sum())

    @property
    def summary(self) -> str:
        """One line for people."""
        parts = ", ".join(f"{self.count(kind):,} {kind}" for kind in KINDS)
        before, after = (date[:10] or "an unknown date" for date in self.dates)
        return f"{self.file}: from {before} to {after}, {parts}, {self.same:,} are the same"


def refresh(project: Project) -> Changes | None:
    """Ask the server for today's buildings again; return what changed, or None where there were none before.

    The snapshot before is kept beside the new one, as `*.previous.*`.

    Raises:
        FootprintsError: the buildings come from no server.
        SourceError: it does not give them; the old snapshot stays.
    """
    if not project.footprints.is_remote:
        raise FootprintsError(
            f"{project.footprint_file}: comes from no server; put a newer file in its place, "
            "or set footprints.source: overpass"
        )
    path = project.footprint_file
    stem, suffix = path.name.removesuffix(project.footprints.suffix), project.footprints.suffix
    previous, file = path.with_name(f"{stem}.previous{suffix}"), path.with_name(f"{stem}_changes.geojson")
    area = area_of(project)
    with locked(path):
        before = None
        if serves(project, path):
            before = read(project, path, area).frame
            date = _date(path)
            with artifacts.replacing(previous) as partial:
                shutil.copyfile(path, partial)
        fetch(project, path)
        if before is None:
            return None
        table, same = compare(before, read(project, path, area).frame)
        table["annotated"] = table["building_id"].isin(list(settled(project)))
        found = Changes(table[COLUMNS], same, (date, _date(path)), file)
        artifacts.write_text(file, _geojson(found))
    return found


def compare(before: gpd.GeoDataFrame, after: gpd.GeoDataFrame) -> tuple[gpd.GeoDataFrame, int]:
    """Return what is different between two tables of buildings, and how many are the same.

    Args:
        before: with `building_id`, `name`, `building` and `geometry`, in any CRS in metres.
        after: the same, in the same CRS.

    """
    old, new = before.set_index("building_id"), after.set_index("building_id")
    both = old.index.intersection(new.index)
    one, other = old.loc[both].geometry.to_numpy(), new.loc[both].geometry.to_numpy()
    alike = shapely.area(shapely.intersection(one, other)) / shapely.area(shapely.union(one, other))
    parts = [
        new.loc[new.index.difference(old.index)].assign(change="came", alike=np.nan),
        old.loc[old.index.difference(new.index)].assign(change="went", alike=np.nan),
        new.loc[both].assign(change="changed shape", alike=alike.round(4))[alike < ALIKE],
    ]
    table = pd.concat([part.reset_index() for part in parts], ignore_index=True).set_geometry("geometry", crs=after.crs)
    return table, int((alike >= ALIKE).sum())


def _geojson(found: Changes) -> str:
    table = found.table.to_crs("EPSG:4326")
    content: dict[str, Any] = json.loads(table.to_json(drop_id=True, na="null"))
    content["metadata"] = {"from": found.dates[0], "to": found.dates[1], "same": found.same}
    content["metadata"] |= {kind.replace(" ", "_"): found.count(kind) for kind in KINDS}
    return json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"


def _date(path: Path) -> str:
    return str((artifacts.read_manifest(path) or {}).get("snapshot") or "")
