"""Footprints of Overture Maps: ids of OpenStreetMap out of the sources of each building."""

from __future__ import annotations

import geopandas as gpd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from shapely import box

from historymap_lib import footprints
from historymap_lib.footprints import NO_ID, UNDERGROUND, load

UTM = "EPSG:32632"
WEST, SOUTH = 500_000.0, 6_000_000.0


def source(dataset, record, place=""):
    return {"property": place, "dataset": dataset, "record_id": record, "confidence": None}


ROWS = [
    ([source("OpenStreetMap", "w123@4")], {"primary": "Old mill"}, "industrial", None),
    ([source("OpenStreetMap", "r45@17")], None, None, False),
    ([source("Microsoft ML Buildings", None)], None, None, None),
    (
        [source("Google Open Buildings", "x"), source("OpenStreetMap", "w7@1", "/names")],
        {"primary": None},
        "house",
        None,
    ),
    ([source("OpenStreetMap", "w9@2")], None, "garage", True),
    ([source("OpenStreetMap", "n11@2")], None, None, None),
]


def overture(path, *, covering=False):
    """Write a file as Overture gives it: lists and structs, and bounding boxes by which a part can be read."""
    shapes = [box(WEST + 50 * i, SOUTH, WEST + 50 * i + 10, SOUTH + 10) for i in range(len(ROWS))]
    table = gpd.GeoDataFrame(geometry=shapes, crs=UTM).to_crs("EPSG:4326")
    table.to_parquet(path, write_covering_bbox=covering)
    stored = pq.read_table(path)
    for name, values in (
        ("sources", [row[0] for row in ROWS]),
        ("names", [row[1] for row in ROWS]),
        ("class", [row[2] for row in ROWS]),
        ("is_underground", [row[3] for row in ROWS]),
        ("id", [f"08b2a100d2{i}" for i in range(len(ROWS))]),
    ):
        stored = stored.append_column(name, pa.array(values))
    pq.write_table(stored, path)
    return path


def test_buildings_bear_the_ids_names_and_kinds_of_openstreetmap(tmp_path):
    found = load(overture(tmp_path / "buildings.parquet"), crs=UTM)
    assert list(found.frame["building_id"]) == ["relation/45", "way/7", "way/123"]
    assert list(found.frame["name"].fillna("")) == ["", "", "Old mill"]
    assert list(found.frame["building"]) == ["yes", "house", "industrial"]
    assert sorted(found.rejected["reason"]) == [NO_ID, NO_ID, UNDERGROUND]
    assert found.counts["read"] == len(ROWS)


@pytest.mark.parametrize("covering", [True, False])
def test_of_a_large_file_only_the_area_is_read_where_it_says_what_lies_where(tmp_path, monkeypatch, covering):
    path = overture(tmp_path / "buildings.parquet", covering=covering)
    monkeypatch.setattr(footprints, "LARGE", 0)
    area = box(WEST - 5, SOUTH - 5, WEST + 70, SOUTH + 15)
    found = load(path, crs=UTM, area=area)
    assert list(found.frame["building_id"]) == ["relation/45", "way/123"]
    assert found.counts["read"] == (2 if covering else len(ROWS))


def test_a_column_of_sources_that_is_somebody_elses_is_left_alone(tmp_path):
    shapes = [box(WEST, SOUTH, WEST + 10, SOUTH + 10)]
    table = gpd.GeoDataFrame({"osm_id": [5], "sources": ["survey"]}, geometry=shapes, crs=UTM)
    table.to_parquet(tmp_path / "houses.parquet")
    found = load(tmp_path / "houses.parquet", crs=UTM)
    assert list(found.frame["building_id"]) == ["way/5"]
    assert shapely.area(found.frame.geometry.to_numpy()).sum() == pytest.approx(100)
