"""Kernels in which a person annotates, and which are killed on the way: what was shown as saved is in the store."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import time
from contextlib import closing, contextmanager

import pytest
from case_fixtures import lattice, make_case, seen, write_probability
from job_fixtures import PATIENCE, until
from jupyter_client.manager import KernelManager

from historymap_lib import steps
from historymap_lib.annotation_store import AnnotationStore, Judgement
from historymap_lib.project import load

ANNOTATE = """
import json, os, random
from pathlib import Path
from historymap_lib.annotation_store import VERDICTS, AnnotationStore
from historymap_lib.project import load
from historymap_lib.widgets.annotating import Session
from historymap_lib.widgets.buildings import VERDICTS as CODES, read_buildings

dice = random.Random({seed})
session = Session(AnnotationStore(Path({store!r})), read_buildings(load(Path({case!r})), {{}}), {annotator!r})
few = sorted(session.buildings.ids)[:30]
file = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def tell(**what):
    os.write(file, (json.dumps(what) + "\\n").encode())
    os.fsync(file)

for _ in range({count}):
    what = dice.choice(["judge"] * 4 + ["undo", "undo", "redo", "page"])
    chosen = dice.sample(few, {{"judge": 1, "page": 3}}.get(what, 0))
    said = {{building: dice.choice(VERDICTS) for building in chosen}}
    tell(what=what, said=said, shown=False)
    answer = ""
    if what == "judge":
        session.judge(said[chosen[0]], chosen[0])
    elif what == "page":
        session.confirm(said)
    else:
        answer = getattr(session, what)()
    pairs = zip(session.buildings.ids, session.buildings.annotated)
    colours = {{building: CODES[code] for building, code in pairs if code >= 0}}
    tell(what=what, said=said, shown=True, answer=answer, colours=colours)
"""
"""Does what keys and buttons of the map do; writes down what a person asks for, then what is shown."""
OPERATIONS = 200


class Told:
    """What a kernel has written down, and what must be stored of it.

    Attributes:
        shown: how many operations have returned.
        events: kind, building and verdict of each event they make.
        asked: those of the operation that has not returned.
        holds: what holds of each building, by what the person said alone.
        colours: what the person saw last.

    """

    def __init__(self, log) -> None:
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
        told = [json.loads(line) for line in lines if line.endswith("\n")]
        self.shown, self.events, self.asked, self.colours = 0, [], [], {}
        self._done, self._undone = [], []
        for ask in (one for one in told if not one["shown"]):
            self.asked = self._events(ask)
            self.holds = dict(self._done)
            if self.shown < sum(one["shown"] for one in told):
                self.events += self.asked
                self.asked, self.before = [], self.holds
                self.shown += 1
        returned = [one for one in told if one["shown"]]
        if returned:
            self.colours = returned[-1]["colours"]

    def _events(self, ask):
        if ask["what"] in {"judge", "page"}:
            self._done += ask["said"].items()
            self._undone.clear()
            return [("judged", *one) for one in ask["said"].items()]
        source, target, kind = (
            (self._done, self._undone, "undone") if ask["what"] == "undo" else (self._undone, self._done, "redone")
        )
        if not source:
            return []
        target.append(source.pop())
        return [(kind, *target[-1])]


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A case with verdicts."""
    buildings = lattice()
    case = load(make_case(tmp_path_factory.mktemp("town"), buildings, verification={"max_offset": 0}))
    write_probability(case, seen(buildings))
    steps.run(case, "verify")
    return case


@contextmanager
def annotating(town, store, log, seed, annotator="ann"):
    """Yield the manager of a kernel that annotates."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE)
        places = {"case": str(town.file), "store": str(store), "log": str(log)}
        client.execute(ANNOTATE.format(**places, seed=seed, annotator=annotator, count=OPERATIONS))
        yield manager
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.context.destroy(linger=0)


def stored(path, annotator=None):
    events = AnnotationStore(path).events()
    return [(one.kind, one.building, one.verdict) for one in events if annotator in {None, one.annotator}]


def is_whole(path):
    with closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_what_a_killed_kernel_has_shown_as_saved_is_there_and_nothing_else(town, tmp_path, seed):
    path, log, dice = tmp_path / "annotations.db", tmp_path / "log", random.Random(seed)
    moment, later = dice.randrange(1, OPERATIONS - 20), dice.uniform(0, 0.03)
    with annotating(town, path, log, seed) as manager:
        until(lambda: Told(log).shown >= moment)
        time.sleep(later)
        kernel = manager.provisioner.process
        kernel.send_signal(signal.SIGKILL)
        assert kernel.wait(PATIENCE) == -signal.SIGKILL
    told, found = Told(log), stored(path)
    assert found[: len(told.events)] == told.events
    assert told.colours == told.before
    in_flight = found[len(told.events) :]
    assert in_flight in ([], told.asked)
    store = AnnotationStore(path)
    assert {name: event.verdict for name, event in store.get().items()} == (told.holds if in_flight else told.before)
    assert is_whole(path)
    store.save(Judgement("way/1", "unsure", "ann"))
    assert stored(path) == [*found, ("judged", "way/1", "unsure")]


@pytest.mark.slow
def test_two_kernels_at_once_lose_nothing_and_a_copy_made_meanwhile_has_what_was_shown(town, tmp_path):
    path = tmp_path / "annotations.db"
    logs = {name: tmp_path / name for name in ("bob", "cleo")}
    with annotating(town, path, logs["bob"], 1, "bob"), annotating(town, path, logs["cleo"], 2, "cleo"):
        for moment in (20, 60, 120):
            until(lambda moment=moment: min(Told(log).shown for log in logs.values()) >= moment)
            before = {name: Told(log).events for name, log in logs.items()}
            copy = tmp_path / f"copy{moment}" / path.name
            copy.parent.mkdir()
            for name in (path.name, f"{path.name}-wal"):
                shutil.copyfile(path.with_name(name), copy.with_name(name))
            after = {name: Told(log) for name, log in logs.items()}
            for name, events in before.items():
                found = stored(copy, name)
                assert found[: len(events)] == events
                assert found == (after[name].events + after[name].asked)[: len(found)]
            assert is_whole(copy)
        until(lambda: min(Told(log).shown for log in logs.values()) == OPERATIONS)
    for name, log in logs.items():
        assert stored(path, name) == Told(log).events
    assert len(stored(path)) == sum(len(Told(log).events) for log in logs.values())
    assert is_whole(path)
