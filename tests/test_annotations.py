"""Annotations: the exchange format both ways, and the latest judgement of each building."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from historymap_lib import annotations
from historymap_lib.annotations import Annotation, add, merge, read, save
from historymap_lib.errors import AnnotationsError

MORNING, NOON = "2026-05-01T08:00:00+00:00", "2026-05-01T12:00:00+00:00"


def write(path, *entries):
    path.write_text(json.dumps({"annotations": entries}), encoding="utf-8")
    return path


ANNOTATIONS = st.builds(
    Annotation,
    osm_id=st.integers(1, 2**62),
    existed=st.sampled_from([True, False, None]),
    osm_type=st.sampled_from(["node", "way", "relation"]),
    notes=st.text(),
    annotator=st.text(),
    created_at=st.datetimes().map(lambda time: f"{time.isoformat()}Z"),
    reason=st.text(),
)


def test_the_shortest_entry_of_an_outside_tool_is_read(tmp_path):
    file = write(tmp_path / "a.json", {"osm_id": 123456, "existed": True, "notes": "Verified"})
    found = read(file)
    assert list(found) == ["way/123456"]
    assert found["way/123456"].verdict == "existed"
    assert found["way/123456"].notes == "Verified"


def test_null_is_unsure_and_the_type_tells_a_relation_from_a_way(tmp_path):
    entries = {"osm_id": 5, "existed": None}, {"osm_id": 5, "osm_type": "relation", "existed": False}
    found = read(write(tmp_path / "a.json", *entries))
    assert {key: value.verdict for key, value in found.items()} == {"way/5": "unsure", "relation/5": "not_existed"}


def test_optional_fields_may_be_null_and_unknown_ones_are_passed_over(tmp_path):
    entry = {"osm_id": 5, "existed": True, "notes": None, "annotator": None, "colour": "red"}
    assert read(write(tmp_path / "a.json", entry))["way/5"].annotator == ""


def test_every_optional_field_is_written(tmp_path):
    save(tmp_path / "deep" / "a.json", [Annotation(osm_id=7, existed=None)])
    content = json.loads((tmp_path / "deep" / "a.json").read_text(encoding="utf-8"))
    assert set(content) == {"annotations", "updated_at"}
    (entry,) = content["annotations"]
    assert set(entry) == {"osm_id", "existed", "osm_type", "notes", "annotator", "created_at", "reason"}
    assert entry["existed"] is None
    assert entry["created_at"]


@given(st.lists(ANNOTATIONS, unique_by=lambda annotation: annotation.building_id))
def test_what_is_saved_is_read_back(tmp_path_factory, items):
    file = tmp_path_factory.mktemp("store") / "a.json"
    save(file, items)
    assert read(file) == {item.building_id: item for item in items}


def test_of_two_judgements_of_a_building_the_later_in_time_wins_whatever_their_order():
    early = Annotation(osm_id=1, existed=True, created_at=MORNING)
    late = Annotation(osm_id=1, existed=False, created_at=NOON)
    assert merge([early, late]) == merge([late, early]) == {"way/1": late}


def test_times_are_compared_across_time_zones():
    early = Annotation(osm_id=1, existed=True, created_at="2026-05-01T12:30:00+02:00")  # 10:30 in UTC
    late = Annotation(osm_id=1, existed=False, created_at="2026-05-01T11:00:00Z")
    assert merge([late, early]) == {"way/1": late}
    plain = Annotation(osm_id=1, existed=None, created_at="2026-05-01T10:45:00")  # stands for UTC
    assert merge([plain, early]) == {"way/1": plain}


def test_without_times_the_last_in_order_wins():
    first, last = Annotation(osm_id=1, existed=True, created_at=NOON), Annotation(osm_id=1, existed=False)
    assert merge([first, last]) == {"way/1": last}
    assert merge([last, first]) == {"way/1": first}


def test_adding_keeps_what_was_known_and_returns_all(tmp_path):
    file = tmp_path / "a.json"
    save(file, [Annotation(osm_id=1, existed=True, created_at=MORNING)])
    merged = add(file, [Annotation(osm_id=2, existed=False, created_at=NOON)])
    assert list(merged) == ["way/1", "way/2"]
    assert read(file) == merged


def test_an_older_judgement_does_not_replace_a_newer_one(tmp_path):
    file = tmp_path / "a.json"
    newer = Annotation(osm_id=1, existed=True, created_at=NOON)
    save(file, [newer])
    assert add(file, [Annotation(osm_id=1, existed=False, created_at=MORNING)]) == {"way/1": newer}


@pytest.mark.parametrize("time", ["", MORNING])
def test_adding_the_same_twice_changes_not_a_byte(tmp_path, time):
    file = tmp_path / "a.json"
    new = [Annotation(osm_id=1, existed=True, created_at=time), Annotation(osm_id=2, existed=None, created_at=time)]
    add(file, new)
    before = file.read_bytes(), file.stat().st_mtime_ns
    add(file, new)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


@given(st.lists(ANNOTATIONS), st.lists(ANNOTATIONS))
def test_merging_loses_no_building_and_is_settled_after_once(known, new):
    merged = merge([*known, *new])
    assert set(merged) == {item.building_id for item in (*known, *new)}
    assert merge([*merged.values(), *merged.values()]) == merged


def test_a_missing_file_is_told_or_empty(tmp_path):
    assert read(tmp_path / "none.json", missing_ok=True) == {}
    with pytest.raises(AnnotationsError, match=r"none\.json: there is no such file .*--annotations"):
        read(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"annotations": [{"osm_id": 1, "exi', "is no JSON"),
        (b"\xff\xfe broken", "is no JSON"),
        (b"", "is no JSON"),
        (b"[1, 2]", 'holds no list "annotations"'),
        (b'{"annotations": {"osm_id": 1}}', 'holds no list "annotations"'),
    ],
)
def test_a_broken_file_is_told_and_never_written_over(tmp_path, content, words):
    file = tmp_path / "a.json"
    file.write_bytes(content)
    for action in (lambda: read(file), lambda: add(file, [Annotation(osm_id=1, existed=True)])):
        with pytest.raises(AnnotationsError, match=words):
            action()
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("entry", "key"),
    [
        ({"existed": True}, "osm_id"),
        ({"osm_id": 5}, "existed"),
        ({"osm_id": "5", "existed": True}, "osm_id"),
        ({"osm_id": -5, "existed": True}, "osm_id"),
        ({"osm_id": 5, "existed": "yes"}, "existed"),
        ({"osm_id": 5, "existed": 1}, "existed"),
        ({"osm_id": 5, "existed": True, "osm_type": "house"}, "osm_type"),
        ({"osm_id": 5, "existed": True, "created_at": "yesterday"}, "created_at"),
        ("way/5", "entry"),
    ],
)
def test_a_wrong_entry_is_told_by_its_number_and_key(tmp_path, entry, key):
    file = write(tmp_path / "a.json", {"osm_id": 1, "existed": True}, entry)
    before = file.read_bytes()
    with pytest.raises(AnnotationsError, match=rf"a\.json: annotation 2, {key}: .*; correct it"):
        add(file, [Annotation(osm_id=9, existed=True)])
    assert file.read_bytes() == before


def test_nothing_is_written_when_the_disk_is_full(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    save(file, [Annotation(osm_id=1, existed=True)])
    before = file.read_bytes()

    def full(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(annotations.artifacts, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        add(file, [Annotation(osm_id=2, existed=True)])
    assert file.read_bytes() == before
