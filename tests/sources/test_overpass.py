"""Today's buildings by Overpass: those of the extract itself, kept as a snapshot; and what servers do on bad days."""

from __future__ import annotations

import json
import subprocess
import sys
from urllib.parse import parse_qs

import pyogrio
import pytest
from overpass_fixtures import HELSINKI, PLACES, by_overpass
from overpass_server import DATE
from shapely import box

from historymap_lib import artifacts, overpass
from historymap_lib.errors import FootprintsError, SettingsError, SourceError
from historymap_lib.footprint_source import load_footprints, source_file
from historymap_lib.imagery import open_photo
from historymap_lib.status import read_status


@pytest.mark.parametrize("place", PLACES)
def test_the_buildings_are_those_of_the_extract_itself(town, servers, shared_data, place):
    ours = town(by_overpass(servers[place]), place)
    file = town({"path": str(shared_data / "osm" / f"{place}.osm.pbf")}, place, name="file")
    with open_photo(ours) as photo:
        area = box(*photo.grid.bounds)
    one, other = (load_footprints(project, area).frame.set_index("building_id") for project in (ours, file))
    assert len(one) > 300
    assert set(one.index) == set(other.index)
    other = other.loc[one.index]
    assert (one.geometry.geom_equals_exact(other.geometry, 0.02)).all()
    assert (one["name"].fillna("") == other["name"].fillna("")).all()
    courtyards = one.geometry.map(lambda shape: sum(len(part.interiors) for part in getattr(shape, "geoms", [shape])))
    assert courtyards.sum() > 0
    assert (one["osm_type"] == "relation").sum() > 0


def test_a_snapshot_is_kept_and_used_until_somebody_asks_for_another(town, server):
    project = town(by_overpass(server))
    first = load_footprints(project)
    asked = len(server.asked)
    told = artifacts.read_manifest(project.footprint_file)
    assert told["snapshot"] == DATE
    assert told["server"] == f"{server.url}/api"
    server.fault = lambda handler: handler.give(503)
    again = load_footprints(project)
    assert len(server.asked) == asked
    assert (again.frame["building_id"] == first.frame["building_id"]).all()
    item = next(one for one in read_status(project).items if one.name == "footprints")
    assert "of 2026-11-01" in item.text


def test_before_the_first_snapshot_the_status_says_that_it_will_be_fetched(town, server):
    item = next(one for one in read_status(town(by_overpass(server))).items if one.name == "footprints")
    assert item.exists
    assert "fetched" in item.text
    assert server.asked == []


def test_a_larger_area_is_asked_for_anew_and_a_smaller_one_is_not(town, server):
    west, south, east, north = HELSINKI
    middle = (west + 0.004, south + 0.004, east - 0.004, north - 0.004)
    small = town(by_overpass(server), bounds=middle)
    source_file(small)
    source_file(small)
    assert len(server.asked) == 1
    source_file(town(by_overpass(server)))
    assert len(server.asked) == 2
    source_file(town(by_overpass(server), bounds=middle))
    assert len(server.asked) == 2


def test_a_large_area_is_asked_for_in_parts_and_nothing_is_lost_at_their_borders(town, server):
    whole = load_footprints(town(by_overpass(server), name="whole"))
    server.asked.clear()
    parts = load_footprints(town(by_overpass(server, largest=0.5), name="parts"))
    assert len(server.asked) == 9
    one, other = (found.frame.set_index("building_id").sort_index() for found in (whole, parts))
    assert (one.index == other.index).all()
    assert one.geometry.geom_equals(other.geometry).all()


def test_what_is_too_much_for_the_server_is_asked_for_in_quarters(town, server, shared_data):
    remark = (shared_data / "overpass" / "remark-runtime-error-01.json").read_bytes()

    def fault(handler):
        if len(server.asked) > 1:
            return False
        handler.give(200, "application/json", remark)
        return True

    server.fault = fault
    found = load_footprints(town(by_overpass(server), name="quarters"))
    assert len(server.asked) == 5
    server.fault = None
    assert len(found.frame) == len(load_footprints(town(by_overpass(server), name="whole")).frame)


def test_what_is_too_much_however_small_ends_in_one_sentence(town, server, shared_data, monkeypatch):
    monkeypatch.setattr(overpass, "DEEPEST", 1)
    remark = (shared_data / "overpass" / "remark-runtime-error-01.json").read_bytes()
    server.fault = lambda handler: handler.give(200, "application/json", remark) or True
    project = town(by_overpass(server))
    with pytest.raises(SourceError, match=r"^127\.0\.0\.1 could not finish: .*timed out.*little.*town\.yaml$") as told:
        load_footprints(project)
    assert len(server.asked) == 2
    assert "\n" not in str(told.value)
    assert not project.footprint_file.exists()


def recorded(name, status=200, kind="application/json"):
    return lambda folder: (status, kind, (folder / name).read_bytes())


def made(status, kind, body, headers=()):
    return lambda _: (status, kind, body, headers)


def once_good(fault, server):
    """Return a fault for the first two requests."""

    def first(handler):
        return len(server.asked) <= 2 and fault(handler)

    return first


def cut(answer):
    """Return the fault of a body that comes half, though its length is told to be that."""

    def fault(handler):
        status, kind, body = answer
        handler.give(status, kind, body[: len(body) // 2])
        return True

    return fault


PASSING = {
    "busy": (made(429, "text/html", b"<p>Too many", [("Retry-After", "0")]), "429"),
    "gateway": (made(504, "text/html", b"<p>The server is probably too busy to handle your request."), "504"),
    "busy in 200": (made(200, "text/html", b"<p>Dispatcher_Client::request_read_and_idx::timeout</p>"), "timeout"),
    "remark": (recorded("remark-unknown-01.json"), "Test remark"),
    "runtime remark": (recorded("remark-runtime-remark-01.json"), "runtime remark: Test"),
    "nothing": (made(200, "application/json", b""), "half an answer"),
    "no date": (recorded("empty.json"), "date"),
    "half a relation": (recorded("relation.json"), "date"),
}
LASTING = {
    "bad query": (recorded("bad-request.html", 400, "text/html"), "parse error"),
    "encoding": (recorded("bad-request-encoding.html", 400, "text/html"), "parse error"),
    "a page": (made(200, "text/html", b"<html><body>Welcome to our hotel</body></html>"), "Welcome to our hotel"),
    "other JSON": (made(200, "application/json", b'{"error": "x"}'), "no answer of Overpass"),
    "gone": (made(404, "text/html", b"<p>Not Found</p>"), "404"),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_asked_again_and_then_the_buildings_are_there(town, server, shared_data, name):
    answer, _ = PASSING[name]

    def fault(handler):
        handler.give(*answer(shared_data / "overpass"))
        return True

    server.fault = once_good(fault, server)
    assert len(load_footprints(town(by_overpass(server))).frame) > 300
    assert len(server.asked) == 3


@pytest.mark.parametrize("name", [*PASSING, *LASTING])
def test_what_does_not_pass_ends_in_one_sentence_and_is_never_kept(town, server, shared_data, name):
    answer, said = (PASSING | LASTING)[name]
    server.fault = lambda handler: handler.give(*answer(shared_data / "overpass")) or True
    project = town(by_overpass(server))
    with pytest.raises(SourceError) as told:
        load_footprints(project)
    text = str(told.value)
    assert said in text
    assert text.startswith("127.0.0.1:")
    assert "\n" not in text
    assert text.endswith(("try again later", f"correct the source in {project.file}"))
    assert len(server.asked) == (7 if name in PASSING else 1)
    assert [path.name for path in project.footprint_file.parent.iterdir()] == ["footprints.osm.lock"]


def test_half_a_body_is_no_answer(town, server, extracts):
    box = ",".join(str(HELSINKI[i]) for i in (1, 0, 3, 2))
    form = "data=" + f'[out:json][bbox:{box}];way["building"];relation["building"];out body;>;out skel qt;'.replace(
        ";", "%3B"
    )
    server.fault = once_good(cut(extracts["helsinki"].answer(form)), server)
    assert len(load_footprints(town(by_overpass(server))).frame) > 300
    assert len(server.asked) == 3


def test_an_answer_in_which_nodes_are_missing_is_none(town, server, extracts):
    def fault(handler):
        status, kind, body = extracts["helsinki"].answer(handler.sent)
        answer = json.loads(body)
        answer["elements"] = [one for one in answer["elements"] if one["type"] != "node" or one["id"] % 50]
        handler.give(status, kind, json.dumps(answer).encode())
        return True

    server.fault = fault
    with pytest.raises(SourceError, match=r"without \d+ of the nodes and ways"):
        load_footprints(town(by_overpass(server)))


def test_a_mirror_is_asked_where_the_first_does_not_answer_and_is_told_no_secret(town, servers, monkeypatch):
    monkeypatch.setenv("OUR_KEY", "very-secret")
    bad, good = servers["liechtenstein"], servers["helsinki"]
    bad.fault = lambda handler: handler.give(400, "text/plain", b"no") or True
    access = {"patience": 20, "headers": {"X-Key": "${OUR_KEY}"}}
    project = town(by_overpass(bad, mirrors=[f"{good.url}/api"], access=access))
    assert len(load_footprints(project).frame) > 300
    assert [one.get("X-Key") for one in bad.headers] == ["very-secret"]
    assert [one.get("X-Key") for one in good.headers] == [None]
    assert artifacts.read_manifest(project.footprint_file)["server"] == f"{good.url}/api"
    for file in project.paths.root.rglob("*"):
        assert file.is_dir() or b"very-secret" not in file.read_bytes()


def test_where_no_mirror_answers_both_are_named(town, server):
    server.fault = lambda handler: handler.give(400, "text/plain", b"go away") or True
    project = town(by_overpass(server, mirrors=["http://127.0.0.1:1/api"], access={"patience": 0.2}))
    with pytest.raises(SourceError, match=r"go away.*no mirror answers: 127\.0\.0\.1:1 refuses the connection"):
        load_footprints(project)


def test_an_area_without_buildings_says_so(town, server):
    project = town(by_overpass(server), bounds=(24.97, 60.10, 24.98, 60.11))
    with pytest.raises(FootprintsError, match=r"no building in .*24\.9.*correct area\.bounds"):
        load_footprints(project)
    assert not project.footprint_file.exists()


def test_an_address_that_is_none_is_told_when_the_settings_are_read(town, server):
    with pytest.raises(SettingsError, match=r"footprints\.mirrors"):
        town(by_overpass(server, mirrors=["overpass.example.org"]))
    with pytest.raises(SettingsError, match="login"):
        town({"source": "overpass", "url": "https://me:pass@example.org/api"})


def test_an_extract_is_killed_while_it_comes_and_the_next_run_brings_it(town, server):
    stop = []

    def fault(handler):
        process.kill()
        stop.append(process.wait())
        return False

    project = town(by_overpass(server))
    code = (
        "from historymap_lib.footprint_source import source_file; from historymap_lib.project import load; "
        f"source_file(load({str(project.file)!r}))"
    )
    server.fault = fault
    process = subprocess.Popen([sys.executable, "-c", code])
    process.wait(60)
    assert stop
    server.fault = None
    assert len(load_footprints(project).frame) > 300


@pytest.mark.parametrize("text", ['a "b" <c> & d', "line\nbreak", "tab\tand \x07 bell", "Œdipus 東京 🏠"])
def test_names_come_through_as_they_are(text, tmp_path):
    extract = overpass.Extract()
    nodes = [{"type": "node", "id": i, "lat": 60 + i % 2, "lon": 24 + i // 2} for i in range(1, 5)]
    way = {"type": "way", "id": 9, "nodes": [1, 2, 4, 3, 1], "tags": {"building": "yes", "name": text}}
    extract.add({"osm3s": {"timestamp_osm_base": DATE}, "elements": [*nodes, way]})
    extract.write(tmp_path / "x.osm")
    frame = pyogrio.read_dataframe(tmp_path / "x.osm", layer="multipolygons")
    assert list(frame["name"]) == [text.replace("\x07", "")]


def test_what_is_asked_says_who_asks_and_how_long_it_may_take(town, server):
    source_file(town(by_overpass(server, timeout=77)))
    assert server.headers[0]["User-Agent"].startswith("historymap/")
    assert "[timeout:77]" in parse_qs(server.bodies[-1])["data"][0]
