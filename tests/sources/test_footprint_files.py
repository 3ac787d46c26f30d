"""Buildings in a file at an address: fetched once, whole, looked at before they are kept."""

from __future__ import annotations

import pytest
from map_server import serving

from historymap_lib import artifacts
from historymap_lib.errors import FootprintsError, SourceError
from historymap_lib.footprint_changes import refresh
from historymap_lib.footprint_source import load_footprints, source_file

CHANGED = "Sun, 01 Nov 2026 20:21:22 GMT"


@pytest.fixture
def files(shared_data):
    """Return a server with an extract of OpenStreetMap."""
    body = (shared_data / "osm" / "helsinki.osm.pbf").read_bytes()
    with serving(lambda _: (200, "application/octet-stream", body, [("Last-Modified", CHANGED)])) as server:
        yield server


def at(server, name="/helsinki-latest.osm.pbf", **settings):
    return {"path": f"{server.url}{name}", "access": {"patience": 5}} | settings


def test_an_extract_is_fetched_once_and_kept(town, files, shared_data):
    project = town(at(files))
    found = load_footprints(project)
    assert len(found.frame) > 300
    assert project.footprint_file.name == "footprints.osm.pbf"
    assert project.footprint_file.read_bytes() == (shared_data / "osm" / "helsinki.osm.pbf").read_bytes()
    load_footprints(project)
    assert len(files.asked) == 1
    told = artifacts.read_manifest(project.footprint_file)
    assert told["snapshot"] == "2026-11-01T20:21:22+00:00"
    assert len(refresh(project).table) == 0
    assert len(files.asked) == 2


def test_half_a_file_is_asked_for_again_and_never_kept(town, files):
    body = files.answer("")[2]

    def half(handler):
        if len(files.asked) < 3:
            handler.give(200, "application/octet-stream", body[:50_000], announced=len(body))
            handler.close_connection = True
            return True
        return False

    files.fault = half
    project = town(at(files))
    assert len(load_footprints(project).frame) > 300
    assert len(files.asked) == 3


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ((200, "text/html", b"<html><body>Please log in</body></html>"), SourceError, "web page.*Please log in"),
        ((200, "application/octet-stream", b"<!DOCTYPE html><p>Please log in"), SourceError, "web page.*Please log in"),
        ((200, "application/octet-stream", b""), SourceError, "empty file"),
        ((404, "text/plain", b"no such extract"), SourceError, "404 Not Found: no such extract"),
        (
            (200, "application/octet-stream", b"\x00\x00\x00\rnonsense" * 9),
            FootprintsError,
            "damaged or no vector file",
        ),
    ],
)
def test_what_is_no_file_of_buildings_ends_in_one_sentence_and_is_not_kept(town, files, answer, error, said):
    files.fault = lambda handler: handler.give(*answer) or True
    project = town(at(files))
    with pytest.raises(error, match=said) as told:
        source_file(project)
    assert "\n" not in str(told.value)
    assert "partial" not in str(told.value)
    assert [path.name for path in project.footprint_file.parent.iterdir()] == ["footprints.osm.pbf.lock"]


def test_a_full_disk_is_not_blamed_on_the_server(town, files, monkeypatch):
    project = town(at(files))
    opened = type(project.file).open

    def full(self, *arguments, **named):
        if self.name == "footprints.osm.pbf":
            raise OSError(28, "No space left on device", str(self))
        return opened(self, *arguments, **named)

    monkeypatch.setattr(type(project.file), "open", full)
    with pytest.raises(OSError, match="No space left"):
        source_file(project)
    assert len(files.asked) == 1


def test_a_key_in_the_address_is_written_nowhere(town, files, monkeypatch):
    monkeypatch.setenv("FILE_KEY", "very-secret-17")
    project = town(at(files, "/x.osm.pbf?key=${FILE_KEY}"))
    source_file(project)
    assert files.asked == ["/x.osm.pbf?key=very-secret-17"]
    for file in project.paths.root.rglob("*"):
        assert file.is_dir() or b"very-secret-17" not in file.read_bytes()
    files.fault = lambda handler: handler.give(403, "text/plain", b"key very-secret-17 is wrong") or True
    with pytest.raises(SourceError) as told:
        refresh(project)
    assert "very-secret-17" not in str(told.value)
