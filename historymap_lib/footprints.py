"""Today's buildings, from whatever vector file, as one clean table: `load` is the only way in.

Nothing is dropped in silence: each row that is read is kept, rejected with a reason, a duplicate, or outside the area.
"""

from __future__ import annotations

import json
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet  # type: ignore[import-untyped]
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from shapely import GeometryType
from shapely.errors import ShapelyError

from historymap_lib import footprints_osm as osm
from historymap_lib.errors import FootprintsError
from historymap_lib.footprints_overture import with_overture_ids

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from shapely import Polygon

COLUMNS = ["osm_type", "osm_id", "building_id", "name", "building", "start_date"]
TAGS = ("name", "building", "start_date", "building:part", "location", "tunnel")
LARGE = 200_000_000
"""Bytes from which on only what lies in the bounding box of the area is read, to spare time and memory."""
SMALLEST = 1.0
"""Square metres that must be left of an outline after repair."""

NO_ID = "no usable id"
NOT_A_BUILDING = "not tagged as a building"
UNDERGROUND = "underground"
NO_GEOMETRY = "no geometry"
BROKEN = "outline of fewer than three corners"
NO_OUTLINE = "neither a polygon nor a closed line"
NOT_FINITE = "coordinates that are not finite in the CRS"
NOTHING_LEFT = f"less than {SMALLEST:g} m2 after repair"

_POLYGONS = (GeometryType.POLYGON, GeometryType.MULTIPOLYGON)


@dataclass(frozen=True)
class Footprints:
    """Buildings, and what became of every row that was read: read = kept + rejected + duplicates + outside.

    `frame` has COLUMNS and `geometry` (valid Polygon or MultiPolygon in the CRS asked for), sorted by type and id;
    `osm_id` is int64, `building_id` such as "way/123"; `name`, `building` and `start_date` are str or None.
    `rejected` has `building_id` ("row 17", counted from 1, where the id is unknown) and `reason`, in the file's order.
    `counts` has read, kept, rejected, duplicates, outside, and repaired, which are among the kept.
    """

    frame: gpd.GeoDataFrame
    rejected: pd.DataFrame
    counts: dict[str, int]

    def summary(self) -> str:
        """Return one line for people on what was read and what became of it."""
        count = {name: f"{number:,}" for name, number in self.counts.items()}
        return (
            f"{count['read']} read: {count['kept']} kept ({count['repaired']} repaired), "
            f"{count['rejected']} rejected, {count['duplicates']} duplicates, {count['outside']} outside the area"
        )


@dataclass(frozen=True)
class _Table:
    """Rows as they stand in a file: fields we use, in lower case; shapes; which are damaged; CRS; all names."""

    fields: pd.DataFrame
    shapes: np.ndarray
    damaged: np.ndarray
    crs: CRS
    names: list[str]


def load(
    path: Path,
    *,
    crs: str | CRS,
    area: Polygon | None = None,
    layer: str | None = None,
    id_field: str | None = None,
) -> Footprints:
    """Read the buildings in a vector file and bring them into `crs`, a projected CRS in metres.

    Reads what GDAL reads (GeoJSON, GeoPackage, Shapefile also as a folder or .zip, FlatGeobuf, .osm.pbf) and
    GeoParquet. Of OSM extracts, ways and relations tagged `building` are read; nodes have no outline. `area` is in
    `crs`; buildings that do not touch it count as outside. Of a file of more than LARGE bytes only what lies in the
    bounding box of `area` is read and counted. `layer` is needed where several hold polygons. `id_field` names the
    column of ids where `footprints_osm.identify` does not know it; `fid` stands for the feature's number in the file.

    Invalid outlines are repaired. Of rows with the same `osm_type` and `osm_id` the first good one is kept.

    Raises:
        FootprintsError: the file is missing or damaged, no vector file, has no CRS, no ids, or no such layer.
    """
    target = CRS.from_user_input(crs)
    table = _read(path, layer, id_field, _within(path, area, target))
    rows = _identified(table, id_field, path)
    rows["geometry"], repaired, faults = _outlines(table, target, path)
    rows["repaired"] = repaired
    reasons: dict[str, np.ndarray] = {
        NO_ID: ~rows.pop("known").to_numpy(),
        NOT_A_BUILDING: osm.not_a_building(table.fields),
        UNDERGROUND: osm.underground(table.fields),
        **faults,
    }
    rows["reason"] = np.select(list(reasons.values()), [np.array(reason) for reason in reasons], default="")
    return _sorted_out(rows, area, target)


def _sorted_out(rows: pd.DataFrame, area: Polygon | None, crs: CRS) -> Footprints:
    """Part the rows into kept, rejected, duplicates and outside, and count them."""
    bad = rows["reason"] != ""
    good = rows[~bad]
    unique = good[~good.duplicated(["osm_type", "osm_id"])]
    kept = unique
    if area is not None:
        shapely.prepare(area)
        kept = unique[shapely.intersects(area, unique["geometry"].to_numpy())]
    kept = kept.sort_values(["osm_type", "osm_id"], ignore_index=True)
    counts = {
        "read": len(rows),
        "kept": len(kept),
        "rejected": int(bad.sum()),
        "duplicates": len(good) - len(unique),
        "outside": len(unique) - len(kept),
        "repaired": int(kept["repaired"].sum()),
    }
    frame = gpd.GeoDataFrame(kept[COLUMNS], geometry=kept["geometry"].to_numpy(), crs=crs)
    return Footprints(frame, rows.loc[bad, ["building_id", "reason"]].reset_index(drop=True), counts)


def _identified(table: _Table, id_field: str | None, path: Path) -> pd.DataFrame:
    """Return COLUMNS and whether the id is `known`, for each row."""
    fields = table.fields
    if len(fields) == 0:  # a good file may hold no building, and then no columns either
        rows = osm.identify(pd.DataFrame({"id": []}, dtype="string"), "id")
    else:
        column = id_field.lower() if id_field else osm.id_column(fields)
        if column is None:
            raise FootprintsError(
                f"{path} has no column of building ids such as osm_id or @id, only {', '.join(table.names) or 'none'}; "
                "set id_field to the column with a whole number or an OSM id for each building"
            )
        rows = osm.identify(fields, column)
        _check_ids(rows["known"], fields[column], path)
    numbers = rows["osm_id"].astype(str)
    row = pd.Series([f"row {number}" for number in range(1, len(rows) + 1)], rows.index, object)
    rows["building_id"] = (rows["osm_type"] + "/" + numbers).astype(object).where(rows["known"], row)
    for name in ("name", "building", "start_date"):
        rows[name] = osm.tag(fields, name)
    return rows


def _check_ids(known: pd.Series[bool], ids: pd.Series[str], path: Path) -> None:
    """Raise where most ids are not OSM ids: a few bad rows can be told one by one, a wrong column cannot."""
    unknown = ids[~known & ids.notna()]
    if len(unknown) > known.sum():
        raise FootprintsError(
            f"{path}: the ids in {ids.name!r}, such as {str(unknown.iloc[0])!r}, are neither OSM ids nor whole "
            "numbers; set id_field to a column of such ids, or to fid for the number of each feature in the file"
        )
    if not known.any():
        raise FootprintsError(f"{path}: the column {ids.name!r} is empty; set id_field to the column with the ids")


def _outlines(table: _Table, target: CRS, path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return valid polygons in `target`, which of them were repaired, and where there is none by reason."""
    shapes = shapely.force_2d(table.shapes)
    missing = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    shapes = _closed_lines_filled(shapes)
    no_outline = ~np.isin(shapely.get_type_id(shapes), _POLYGONS)
    finite = _finite(shapes)
    usable = ~missing & ~no_outline & finite
    shapes[~usable] = None
    shapes = _transformed(shapes, table.crs, target, path)
    finite &= _finite(shapes)
    shapes[~finite] = None
    usable &= finite
    invalid = usable & ~shapely.is_valid(shapes)
    # the structure method leaves polygons of polygons, or an empty one
    shapes[invalid] = shapely.make_valid(shapes[invalid], method="structure", keep_collapsed=False)
    repaired = invalid | (usable & table.damaged)
    nothing = repaired & ~(shapely.area(shapes) >= SMALLEST)
    faults = {
        BROKEN: table.damaged & missing,
        NO_GEOMETRY: missing,
        NO_OUTLINE: no_outline,
        NOT_FINITE: ~finite,
        NOTHING_LEFT: nothing,
    }
    return shapes, repaired & ~nothing, faults


def _closed_lines_filled(shapes: np.ndarray) -> np.ndarray:
    """Turn closed lines, as some exports write building ways, into polygons; GeoPackage makes multi lines of them."""
    shapes = shapes.copy()
    multi = shapely.get_type_id(shapes) == GeometryType.MULTILINESTRING
    shapes[multi] = shapely.line_merge(shapes[multi])
    rings = (shapely.get_type_id(shapes) == GeometryType.LINESTRING) & shapely.is_closed(shapes)
    rings &= _finite(shapes) & (shapely.get_num_points(shapes) > 3)  # noqa: PLR2004 - a triangle that ends where it began
    shapes[rings] = [shapely.Polygon(line.coords) for line in shapes[rings]]
    return shapes


def _finite(shapes: np.ndarray) -> np.ndarray:
    points, owner = shapely.get_coordinates(shapes, return_index=True)
    finite = np.ones(len(shapes), bool)
    finite[owner[~np.isfinite(points).all(axis=1)]] = False
    return finite


def _transformed(shapes: np.ndarray, source: CRS, target: CRS, path: Path) -> np.ndarray:
    if source.equals(target, ignore_axis_order=True):
        return shapes
    try:
        transformer = Transformer.from_crs(source, target, always_xy=True)
    except ProjError as error:
        raise FootprintsError(
            f"{path} is in {source.name}, which cannot be brought into {target.name}; save it in EPSG:4326"
        ) from error
    moved: np.ndarray = shapely.transform(shapes, transformer.transform, interleaved=False)
    return moved


def _within(path: Path, area: Polygon | None, crs: CRS) -> tuple[Polygon, CRS] | None:
    """Return the area where only what lies within its bounds is to be read, since the file is large."""
    large = path.is_file() and path.stat().st_size > LARGE
    return (area, crs) if large and area is not None else None


def _read(path: Path, layer: str | None, id_field: str | None, within: tuple[Polygon, CRS] | None) -> _Table:
    if not path.exists():
        raise FootprintsError(f"{path} does not exist; correct the path to the footprints")
    if path.suffix.lower() in {".parquet", ".geoparquet"}:
        table = _read_parquet(path, within)
    else:
        tables = [_read_layer(path, name, where, id_field, within) for name, where in _layers(path, layer)]
        table = _joined(tables)
    if id_field and id_field.lower() not in table.fields and len(table.fields):
        raise FootprintsError(f"{path} has no column {id_field!r}; set id_field to one of {', '.join(table.names)}")
    return table


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the errors of GDAL, pyarrow and GEOS into one sentence, and keep their warnings from people."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them shows in the counts
            yield
    except (DataSourceError, DataLayerError, ShapelyError, ValueError, OSError, NotImplementedError) as error:
        raise _unreadable(path) from error


def _unreadable(path: Path) -> FootprintsError:
    return FootprintsError(
        f"{path} is damaged or no vector file; check that it is whole, or export it again as GeoPackage or GeoJSON"
    )


def _layers(path: Path, layer: str | None) -> list[tuple[str, str | None]]:
    """Return each layer to read, with the filter for it."""
    with _reading(path):
        kinds = {str(name): str(kind) for name, kind in pyogrio.list_layers(path)}
    if not kinds or _cut_off(path):
        raise _unreadable(path)
    if layer is not None and layer not in kinds:
        raise FootprintsError(f"{path} has no layer {layer!r}; set layer to one of {', '.join(kinds)}")
    if osm.is_osm(path):
        return [(layer, osm.LAYERS.get(layer))] if layer else list(osm.LAYERS.items())
    if layer is not None:
        return [(layer, None)]
    polygons = [name for name, kind in kinds.items() if "Polygon" in kind] or list(kinds)
    if len(polygons) != 1:
        raise FootprintsError(f"{path} has {len(kinds)} layers ({', '.join(kinds)}); set layer to the one of buildings")
    return [(polygons[0], None)]


def _cut_off(path: Path) -> bool:
    """Tell whether a Shapefile is shorter than its header says; GDAL gives empty geometries then, without a word."""
    for file in path.glob("*.shp") if path.is_dir() else [path] if path.suffix.lower() == ".shp" else []:
        with file.open("rb") as opened:
            words = int.from_bytes(opened.read(28)[24:], "big")  # of 16 bits
        if file.stat().st_size < 2 * words:
            return True
    return False


def _read_layer(
    path: Path, layer: str, where: str | None, id_field: str | None, within: tuple[Polygon, CRS] | None
) -> _Table:
    with _reading(path):
        info = pyogrio.read_info(path, layer=layer)
    crs = _crs(info["crs"], info["driver"], path)
    bounds = None
    if within is not None:
        bounds = Transformer.from_crs(within[1], crs, always_xy=True).transform_bounds(*within[0].bounds)
    wanted = {*osm.COLUMNS, *TAGS, (id_field or "").lower()}
    columns = [name for name in info["fields"] if name.lower() in wanted]
    with _reading(path):
        meta, numbers, wkb, values = pyogrio.raw.read(
            path, layer=layer, columns=columns, where=where, bbox=bounds, return_fids=True, datetime_as_string=True
        )
        shapes, damaged = _from_wkb(wkb)
    if info["driver"] == "FlatGeobuf" and bounds is None and len(wkb) < info["features"]:
        raise _unreadable(path)  # cut off; elsewhere the number of features is not to be relied on
    fields = _lower(pd.DataFrame(dict(zip(meta["fields"], values, strict=True)), index=range(len(wkb))))
    fields = osm.with_gdal_ids(fields, layer if osm.is_osm(path) else None)
    if "fid" not in fields:
        fields["fid"] = numbers
    return _Table(fields, shapes, damaged, crs, list(info["fields"]))


def _read_parquet(path: Path, within: tuple[Polygon, CRS] | None) -> _Table:
    with _reading(path):
        frame = _parquet(path, within)
    shapes = frame.geometry.to_numpy()
    fields = _lower(pd.DataFrame(frame.drop(columns=frame.geometry.name)).reset_index(drop=True))
    fields["fid"] = fields.get("fid", pd.Series(range(len(fields))))
    crs = _crs(frame.crs, "Parquet", path)
    fields = with_overture_ids(osm.with_gdal_ids(fields, None))
    return _Table(fields, shapes, np.zeros(len(frame), bool), crs, list(fields.columns))


def _parquet(path: Path, within: tuple[Polygon, CRS] | None) -> gpd.GeoDataFrame:
    """Return what lies in the area, where the file has a column by which that can be told (GeoParquet 1.1)."""
    if within is not None:
        stored = json.loads(pyarrow.parquet.read_schema(path).metadata.get(b"geo", b"{}"))
        column = stored.get("columns", {}).get(stored.get("primary_column"), {})
        if "bbox" in column.get("covering", {}):
            crs = CRS.from_user_input(column.get("crs") or "OGC:CRS84")
            bounds = Transformer.from_crs(within[1], crs, always_xy=True).transform_bounds(*within[0].bounds)
            return gpd.read_parquet(path, bbox=bounds)
    return gpd.read_parquet(path)


def _joined(tables: list[_Table]) -> _Table:
    if len(tables) == 1:
        return tables[0]
    return _Table(
        pd.concat([table.fields for table in tables if len(table.fields)] or [tables[0].fields], ignore_index=True),
        np.concatenate([table.shapes for table in tables]),
        np.concatenate([table.damaged for table in tables]),
        tables[0].crs,
        tables[0].names,
    )


def _from_wkb(wkb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shapes, and which of them could not be built as they stand: rings closed for them, or None."""
    shapes = shapely.from_wkb(wkb, on_invalid="ignore")
    damaged = shapely.is_missing(shapes) & np.array([item is not None for item in wkb], bool)
    shapes[damaged] = shapely.from_wkb(wkb[damaged], on_invalid="fix")
    return shapes, damaged


def _crs(value: Any, driver: str, path: Path) -> CRS:
    if value is not None:
        return CRS.from_user_input(value)
    if driver.startswith("GeoJSON"):
        return CRS.from_epsg(4326)  # RFC 7946
    raise FootprintsError(f"{path} does not say its CRS; save it with one, for instance as GeoPackage from QGIS")


def _lower(fields: pd.DataFrame) -> pd.DataFrame:
    fields = fields.rename(columns=str.lower)
    return fields.loc[:, ~fields.columns.duplicated()]
