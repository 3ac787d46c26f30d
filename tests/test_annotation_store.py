"""The store of annotations: nothing saved is ever lost, undo and redo are events, and steps see what holds now."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from case_fixtures import change, lattice, make_case, seen, write_probability
from filelock import FileLock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from historymap_lib import annotations, database, steps
from historymap_lib.annotation_store import AnnotationStore, Judgement, add, settled, store_path, unpublished
from historymap_lib.annotations import Annotation
from historymap_lib.errors import AnnotationsError
from historymap_lib.project import load
from historymap_lib.status import read_status
from historymap_lib.training_data import generate

WRITER = """
import random, sys
from pathlib import Path
from historymap_lib.annotation_store import AnnotationStore, Judgement
store, random = AnnotationStore(Path(sys.argv[1])), random.Random(int(sys.argv[2]))
for number in range(int(sys.argv[3])):
    what = random.choice(["save", "save", "save", "undo", "redo"])
    if what == "save":
        verdict = random.choice(["existed", "not_existed", "unsure"])
        store.save(Judgement(f"way/{random.randint(1, 40)}", verdict, sys.argv[2]))
    else:
        getattr(store, what)(sys.argv[2])
    print(len(store.events()), flush=True)
"""


@pytest.fixture
def store(tmp_path):
    return AnnotationStore(tmp_path / "annotations.db")


def judged(store):
    return {building: event.verdict for building, event in store.get().items()}


def test_a_judgement_holds_with_all_that_is_known_of_it(store):
    given = Judgement(
        "relation/7", "unsure", "ann", notes="under a tree", reason="tree", seconds=1.5, said="existed",
        probability=0.8, model="a model", chosen_by="random",
    )  # fmt: skip
    (number,) = store.save(given)
    (event,) = store.history("relation/7")
    assert event.id == number
    assert {name: getattr(event, name) for name in given.__dataclass_fields__ if name != "made_at"} == {
        name: getattr(given, name) for name in given.__dataclass_fields__ if name != "made_at"
    }
    assert event.made_at.endswith("+00:00")


def test_the_latest_word_holds_and_everybody_keeps_their_own(store):
    store.save(Judgement("way/1", "existed", "ann"))
    store.save(Judgement("way/1", "not_existed", "bob"))
    store.save(Judgement("way/1", "unsure", "ann"))
    assert judged(store) == {"way/1": "unsure"}
    assert [(event.annotator, event.verdict) for event in store.by_person()] == [
        ("ann", "unsure"),
        ("bob", "not_existed"),
    ]
    assert len(store.history("way/1")) == 3


def test_undo_takes_back_ones_own_last_judgement_and_the_word_before_holds_again(store):
    store.save(Judgement("way/1", "existed", "ann"))
    store.save(Judgement("way/1", "not_existed", "ann"))
    store.save(Judgement("way/2", "existed", "bob"))
    assert store.undo("ann").verdict == "not_existed"
    assert judged(store) == {"way/1": "existed", "way/2": "existed"}
    assert store.undo("ann").building == "way/1"
    assert store.undo("ann") is None
    assert judged(store) == {"way/2": "existed"}
    assert store.redo("ann").verdict == "existed"
    assert store.redo("ann").verdict == "not_existed"
    assert store.redo("ann") is None
    assert judged(store) == {"way/1": "not_existed", "way/2": "existed"}
    assert [event.kind for event in store.history("way/1")] == [*["judged"] * 2, *["undone"] * 2, *["redone"] * 2]


def test_after_a_new_judgement_there_is_nothing_to_redo(store):
    store.save(Judgement("way/1", "existed", "ann"))
    store.undo("ann")
    store.save(Judgement("way/2", "existed", "ann"))
    assert store.redo("ann") is None
    store.undo("ann")
    assert store.redo("ann").building == "way/2"
    assert judged(store) == {"way/2": "existed"}


@pytest.mark.parametrize("building", ["", "7", "way/0", "way/x", "street/7", "way/7; DROP TABLE events"])
def test_what_is_no_building_is_refused(store, building):
    with pytest.raises(AnnotationsError, match="is no building"):
        store.save(Judgement(building, "existed", "ann"))
    assert store.events() == []


def test_what_is_no_verdict_is_refused(store):
    with pytest.raises(AnnotationsError, match="'maybe' is no verdict; it is one of existed, not_existed, unsure"):
        store.save(Judgement("way/1", "maybe", "ann"))


class Annotating(RuleBasedStateMachine):
    """A person clicks, undoes and redoes; a list and a position in it say what must hold."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="historymap-store-"))
        self.store = AnnotationStore(self.folder / "a.db")
        self.done, self.undone = [], []

    def teardown(self):
        shutil.rmtree(self.folder)

    @rule(number=st.integers(1, 4), verdict=st.sampled_from(["existed", "not_existed", "unsure"]))
    def judge(self, number, verdict):
        self.store.save(Judgement(f"way/{number}", verdict, "ann"))
        self.done.append((f"way/{number}", verdict))
        self.undone.clear()

    @rule()
    def undo(self):
        event = self.store.undo("ann")
        assert (event is None) == (not self.done)
        if event is not None:
            self.undone.append(self.done.pop())
            assert self.undone[-1] == (event.building, event.verdict)

    @rule()
    def redo(self):
        event = self.store.redo("ann")
        assert (event is None) == (not self.undone)
        if event is not None:
            self.done.append(self.undone.pop())
            assert self.done[-1] == (event.building, event.verdict)

    @rule()
    def another_process(self):
        self.store = AnnotationStore(self.store.path)

    @rule()
    def publish(self):
        path = self.folder / "a.json"
        told = self.store.publish(path)
        assert {building: item.verdict for building, item in told.items()} == dict(self.done)
        assert annotations.read(path, missing_ok=True) == told
        assert self.store.pending() == 0

    @invariant()
    def holds(self):
        assert judged(self.store) == dict(self.done)


class Disk(NamedTuple):
    """As psutil tells of it."""

    mountpoint: str
    fstype: str


TestAnnotating = Annotating.TestCase
TestAnnotating.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_importing_twice_changes_nothing_and_an_export_brings_nothing_new(store, tmp_path):
    entries = [
        Annotation(osm_id=1, existed=True, annotator="ann", created_at="2026-05-01T10:00:00+02:00"),
        Annotation(osm_id=2, existed=None, notes="no time"),
        Annotation(osm_id=2, existed=False, osm_type="relation"),
    ]
    assert store.absorb(entries).new == 3
    assert store.absorb(entries).known == 3
    store.save(Judgement("way/3", "existed", "ann"))
    told = store.publish(tmp_path / "a.json")
    assert store.absorb(told.values()).new == 0
    other = AnnotationStore(tmp_path / "other.db")
    assert other.absorb(told.values()).new == 4
    assert other.publish(tmp_path / "b.json") == told


def test_an_import_is_not_undone_by_z(store):
    store.absorb([Annotation(osm_id=1, existed=True, annotator="ann")])
    assert store.undo("ann") is None


def test_what_was_added_by_hand_to_the_published_file_comes_in(store, tmp_path):
    path = tmp_path / "a.json"
    store.save(Judgement("way/1", "existed", "ann"))
    store.publish(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["annotations"].append({"osm_id": 2, "existed": False})
    path.write_text(json.dumps(content), encoding="utf-8")
    assert {key: item.verdict for key, item in store.publish(path).items()} == {
        "way/1": "existed",
        "way/2": "not_existed",
    }


def test_a_published_file_that_cannot_be_read_is_left_as_it_is(store, tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{", encoding="utf-8")
    store.save(Judgement("way/1", "existed", "ann"))
    with pytest.raises(AnnotationsError, match="is no JSON"):
        store.publish(path)
    assert path.read_text(encoding="utf-8") == "{"
    assert store.pending() == 1


def test_publishing_what_is_published_leaves_the_file_untouched(store, tmp_path):
    store.save(Judgement("way/1", "existed", "ann"))
    store.publish(tmp_path / "a.json")
    before = (tmp_path / "a.json").stat().st_mtime_ns
    store.publish(tmp_path / "a.json")
    assert (tmp_path / "a.json").stat().st_mtime_ns == before


def test_what_was_shown_as_saved_is_there_after_a_kill_and_nothing_else(tmp_path):
    path = tmp_path / "a.db"
    for seed in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(seed), "200"], stdout=subprocess.PIPE, text=True
        )
        told = [int(writer.stdout.readline()) for _ in range(20 + 30 * seed)]
        writer.send_signal(signal.SIGKILL)
        rest, _ = writer.communicate()
        told += [int(line) for line in rest.splitlines() if line]
        events = AnnotationStore(path).events()
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        assert told[-1] <= len(events) <= told[-1] + 1  # one may have been saved that nobody was told of yet
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_two_kernels_at_once_lose_nothing(tmp_path):
    path = tmp_path / "a.db"
    words = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*words, str(seed), "120"], stdout=subprocess.PIPE, text=True) for seed in (1, 2)]
    copies = 0
    while any(writer.poll() is None for writer in writers):
        if path.exists() and path.with_name("a.db-wal").exists():
            copy = tmp_path / f"copy{copies}.db"
            shutil.copyfile(path, copy)
            copies += 1
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    events = AnnotationStore(path).events()
    for name in ("1", "2"):
        mine = [event for event in events if event.annotator == name]
        assert len(mine) > 60
    assert copies > 0
    for number in range(copies):
        with closing(sqlite3.connect(tmp_path / f"copy{number}.db")) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_opening_a_store_changes_nothing_in_the_file_that_somebody_may_be_copying(tmp_path):
    path = tmp_path / "a.db"
    writer = subprocess.run([sys.executable, "-c", WRITER, str(path), "1", "20"], check=True, stdout=subprocess.PIPE)
    before = path.read_bytes()
    assert len(AnnotationStore(path).events()) == int(writer.stdout.split()[-1]) > 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("who", ["is first", "finds an empty file"])
def test_saving_changes_nothing_in_the_file_either(tmp_path, who):
    path = tmp_path / "a.db"
    if who == "finds an empty file":
        path.touch()
    store = AnnotationStore(path)
    before = path.read_bytes()
    store.save(Judgement("way/1", "existed", "ann"))
    AnnotationStore(path).save(Judgement("way/2", "existed", "ann"))
    assert path.read_bytes() == before
    assert path.with_name("a.db-wal").stat().st_size > 0


def test_whoever_waits_while_another_makes_the_store_and_ends_changes_nothing_in_it(tmp_path, monkeypatch):
    path, found = tmp_path / "a.db", []
    path.touch()

    class Waiting(FileLock):
        def __enter__(self):
            subprocess.run([sys.executable, "-c", WRITER, str(path), "1", "5"], check=True, stdout=subprocess.PIPE)
            found.append(path.read_bytes())
            return super().__enter__()

    monkeypatch.setattr(database, "FileLock", Waiting)
    assert AnnotationStore(path).events()
    assert [path.read_bytes()] == found


def test_on_a_drive_of_another_machine_the_journal_is_one_that_works_there_and_people_are_told(tmp_path, monkeypatch):
    disks = [Disk("/", "ext4"), Disk(str(tmp_path.resolve()), "nfs4")]
    monkeypatch.setattr(database.psutil, "disk_partitions", lambda **_: disks)
    store = AnnotationStore(tmp_path / "a.db")
    store.save(Judgement("way/1", "existed", "ann"))
    with closing(sqlite3.connect(store.path)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert "drive of another machine" in store.note
    monkeypatch.setattr(database.psutil, "disk_partitions", lambda **_: disks[:1])
    assert store.note == ""
    assert AnnotationStore(tmp_path / "b.db").path.exists()


def test_the_file_systems_of_this_machine_are_told(tmp_path):
    assert not database.is_remote(tmp_path)
    assert psutil.disk_partitions(all=True)


def test_a_file_that_is_no_store_is_told_and_left_alone(tmp_path):
    path = tmp_path / "a.db"
    path.write_bytes(b"no store of annotations, but a text that is long enough" * 20)
    before = path.read_bytes()
    with pytest.raises(AnnotationsError, match=r"is no store of annotations.*bring back a copy"):
        AnnotationStore(path)
    assert path.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(AnnotationsError, match=r"give access|somebody else"):
        AnnotationStore(tmp_path / "deep" / "a.db")


@pytest.fixture
def town(tmp_path):
    """A case with tiles, probabilities and verdicts."""
    case = load(make_case(tmp_path, tiles={"count": 4}))
    generate(case)
    write_probability(case, seen(lattice()))
    steps.run(case, "verify")
    return case


def verdict(case, number):
    found = json.loads(case.paths.verified.read_text(encoding="utf-8"))["features"]
    return next(one["properties"]["verdict"] for one in found if one["properties"]["osm_id"] == number)


def test_saving_does_not_apply_and_the_steps_are_due_until_they_have_run(town):
    assert verdict(town, 2) == "not_existed"
    store = AnnotationStore.of(town)
    store.save(Judgement("way/2", "existed", "ann"))
    assert verdict(town, 2) == "not_existed"
    assert unpublished(town) == 1
    due = {item.name: item for item in read_status(town).items}
    assert due["verdicts"].outdated == "annotations have changed 1 time"
    assert due["annotations"].text == "1 building, 1 change not applied yet"
    steps.run(town, "apply-annotations")
    assert verdict(town, 2) == "existed"
    due = {item.name: item for item in read_status(town).items}
    assert due["verdicts"].outdated is None
    assert due["corrected tiles"].outdated is None
    assert due["annotations"].text == "1 building"


def test_when_all_is_undone_applying_brings_back_what_was(town):
    store = AnnotationStore.of(town)
    store.save(Judgement("way/2", "existed", "ann"))
    steps.run(town, "apply-annotations")
    store.undo("ann")
    steps.run(town, "apply-annotations")
    assert verdict(town, 2) == "not_existed"
    assert settled(town) == {}
    assert list((town.paths.corrected / "masks").iterdir()) == []


def test_a_new_store_begins_with_what_the_case_has_in_the_exchange_format(town):
    annotations.save(town.paths.annotations, [Annotation(osm_id=2, existed=True, annotator="ann")])
    store = AnnotationStore.of(town)
    assert judged(store) == {"way/2": "existed"}
    assert store_path(town) == town.paths.annotations.with_suffix(".db")
    assert judged(AnnotationStore.of(town)) == {"way/2": "existed"}


def test_without_a_store_the_exchange_format_is_all_there_is(town):
    annotations.save(town.paths.annotations, [Annotation(osm_id=2, existed=True)])
    assert unpublished(town) == 0
    assert list(settled(town)) == ["way/2"]
    assert not store_path(town).exists()


def test_adding_a_file_keeps_what_was_clicked(town):
    AnnotationStore.of(town).save(Judgement("way/2", "existed", "ann"))
    found = add(town, [Annotation(osm_id=4, existed=False)])
    assert {key: item.verdict for key, item in found.items()} == {"way/2": "existed", "way/4": "not_existed"}
    assert unpublished(town) == 0


def test_the_path_of_the_store_follows_the_settings(town):
    change(town.file, "paths", annotations="elsewhere/judged.json")
    assert store_path(load(town.file)) == town.paths.root / "elsewhere" / "judged.db"
