"""A fresh snapshot: what came, went or changed shape is listed, and nothing that people said is lost."""

from __future__ import annotations

import copy
import json

import pytest
import shapely
from overpass_fixtures import by_overpass
from overpass_server import DATE

from historymap_lib import cli
from historymap_lib.annotation_store import AnnotationStore, Judgement
from historymap_lib.errors import FootprintsError, SourceError
from historymap_lib.footprint_changes import refresh
from historymap_lib.footprint_source import load_footprints

LATER = "2026-12-24T18:00:00Z"
EDGE = 0.0002


@pytest.fixture
def inside(town, server):
    """Return the case, and the ids of a few ways in the middle of it."""
    project = town(by_overpass(server))
    frame = load_footprints(project).frame
    frame = frame[frame["osm_type"] == "way"]
    middle = frame[frame.within(shapely.box(*frame.total_bounds).buffer(-200))]
    return project, [int(number) for number in middle["osm_id"].head(5)]


@pytest.fixture
def mapped(server, extracts):
    """Return a function: the map is as it was but for one building gone, one new, one moved, one nudged, one named."""

    def edit(gone, moved, nudged, named):
        town = copy.deepcopy(extracts["helsinki"])
        town.buildings.remove(("way", gone))
        first = town.ways[moved]["nodes"]
        for shift, (way, nodes) in ((EDGE, (moved, first)), (1e-7, (nudged, town.ways[nudged]["nodes"]))):
            numbers = {node: 10**12 + way * 100 + i for i, node in enumerate(dict.fromkeys(nodes))}
            for node, number in numbers.items():
                lat, lon = map(float, town.nodes[node])
                town.nodes[number] = (f"{lat + shift:.7f}", f"{lon:.7f}")
            town.ways[way] = town.ways[way] | {"nodes": [numbers[node] for node in nodes]}
        town.ways[7 * 10**11] = {"nodes": first, "tags": {"building": "house", "name": "Uusi talo"}}
        town.buildings.append(("way", 7 * 10**11))
        town.boxes[("way", 7 * 10**11)] = town.boxes[("way", moved)]
        town.ways[named]["tags"]["name"] = "Another name"

        def fault(handler):
            status, kind, body = town.answer(handler.sent)
            handler.give(status, kind, body.replace(DATE.encode(), LATER.encode()))
            return True

        server.fault = fault

    return edit


def test_what_came_went_and_changed_shape_is_listed_and_written(inside, mapped, capsys):
    project, (gone, moved, nudged, named, other) = inside
    store = AnnotationStore.of(project)
    store.save(*(Judgement(f"way/{number}", "existed", annotator="Ada") for number in (gone, moved, other)))
    mapped(gone, moved, nudged, named)
    before = project.footprint_file.read_bytes()
    cli.main(["footprints", "refresh", "--config", str(project.file)])
    printed = capsys.readouterr().out
    assert "1 came, 1 went, 1 changed shape" in printed
    assert "from 2026-11-01 to 2026-12-24" in printed
    assert " went, judged by people" in next(line for line in printed.splitlines() if f"way/{gone}" in line)
    assert "2 of them were judged by people" in printed
    content = json.loads((project.paths.root / "data/town/footprints_changes.geojson").read_text())
    told = {one["properties"]["change"]: one["properties"] for one in content["features"]}
    assert told["came"]["building_id"] == f"way/{7 * 10**11}"
    assert told["came"]["name"] == "Uusi talo"
    assert told["went"]["building_id"] == f"way/{gone}"
    assert told["went"]["annotated"]
    assert told["changed shape"]["building_id"] == f"way/{moved}"
    assert 0 <= told["changed shape"]["alike"] < 0.98
    assert content["metadata"]["came"] == 1
    kept = {event.building for event in store.by_person()}
    assert kept == {f"way/{number}" for number in (gone, moved, other)}
    previous = project.footprint_file.with_name("footprints.previous.osm")
    assert previous.read_bytes() == before
    assert f"way/{7 * 10**11}" in set(load_footprints(project).frame["building_id"])


def test_the_same_map_again_changes_nothing_not_even_a_byte(inside, server):
    project, _ = inside
    before = project.footprint_file.read_bytes()
    found = refresh(project)
    assert len(found.table) == 0
    assert found.same > 300
    assert project.footprint_file.read_bytes() == before


def test_a_server_that_fails_leaves_the_snapshot_as_it_was(inside, server):
    project, _ = inside
    before = project.footprint_file.read_bytes()
    server.fault = lambda handler: handler.give(400, "text/plain", b"no") or True
    with pytest.raises(SourceError):
        refresh(project)
    assert project.footprint_file.read_bytes() == before
    assert len(load_footprints(project).frame) > 300
    assert not project.footprint_file.with_name("footprints_changes.geojson").exists()


def test_the_first_refresh_brings_the_snapshot(town, server, capsys):
    project = town(by_overpass(server))
    cli.main(["footprints", "refresh", "--config", str(project.file)])
    assert "the first snapshot" in capsys.readouterr().out
    assert project.footprint_file.exists()


def test_a_file_cannot_be_refreshed(town, shared_data):
    project = town({"path": str(shared_data / "osm" / "helsinki.osm.pbf")})
    with pytest.raises(FootprintsError, match="comes from no server; put a newer file in its place"):
        refresh(project)


def test_info_says_where_they_come_from_and_what_was_left_out(town, server, capsys):
    project = town(by_overpass(server))
    cli.main(["footprints", "info", "--config", str(project.file)])
    printed = capsys.readouterr().out
    assert f"from {server.url}/api, the map of {DATE}" in printed
    assert "659 kept" in printed
    cli.main(["footprints", "info", "--json", "--config", str(project.file)])
    told = json.loads(capsys.readouterr().out)
    counts = told["counts"]
    assert counts["read"] == counts["kept"] + counts["rejected"] + counts["duplicates"] + counts["outside"]
    assert sum(told["rejected"].values()) == counts["rejected"]
