"""Kernels in which a person annotates, and which are killed on the way: what was shown as saved is in the store."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
from contextlib import closing, contextmanager

import psutil
import pytest
from case_fixtures import lattice, make_case, seen, write_probability
from job_fixtures import until
from jupyter_client.manager import KernelManager

from historymap_lib import steps
from historymap_lib.annotation_store import AnnotationStore
from historymap_lib.project import load

ANNOTATE = """
import json, os, random
from pathlib import Path
from historymap_lib.annotation_store import AnnotationStore
from historymap_lib.project import load
from historymap_lib.widgets.annotating import Session
from historymap_lib.widgets.buildings import VERDICTS, read_buildings

dice = random.Random({seed})
case = load(Path({case!r}))
session = Session(AnnotationStore(Path({store!r})), read_buildings(case, {{}}), {annotator!r})
ids = list(session.buildings.ids)
with open({shown!r}, "a") as file:
    for number in range({count}):
        what = dice.choice(["judge"] * 4 + ["undo", "undo", "redo", "page"])
        if what == "judge":
            session.select(dice.randrange(len(session.buildings)))
            session.judge(dice.choice(VERDICTS[:3]), session.buildings.ids[session.selected])
        elif what == "page":
            session.confirm({{building: dice.choice(VERDICTS[:3]) for building in dice.sample(ids, 3)}})
        else:
            getattr(session, what)()
        mine = [event.id for event in session.store.events(after={since}) if event.annotator == {annotator!r}]
        said = zip(session.buildings.ids, session.buildings.annotated)
        colours = {{building: VERDICTS[code] for building, code in said if code >= 0}}
        file.write(json.dumps({{"events": mine, "colours": colours}}) + "\\n")
        file.flush()
        os.fsync(file.fileno())
"""
"""Does what the keys and buttons of the map do, and writes down what a person then sees."""
OPERATIONS = 200


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    buildings = lattice()
    case = load(make_case(tmp_path_factory.mktemp("town"), buildings, verification={"max_offset": 0}))
    write_probability(case, seen(buildings))
    steps.run(case, "verify")
    return case


@contextmanager
def annotating(town, store, shown, seed, annotator="ann"):
    """Yield a kernel that annotates."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        since = AnnotationStore(store).events()[-1].id if store.exists() and annotator == "ann" else 0
        client.execute(
            ANNOTATE.format(
                case=str(town.file), store=str(store), shown=str(shown), seed=seed, annotator=annotator, since=since,
                count=OPERATIONS,
            )
        )  # fmt: skip
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.context.destroy(linger=0)


def told(shown):
    """Return what was shown, the last of all."""
    lines = shown.read_text(encoding="utf-8").splitlines() if shown.exists() else []
    whole = [line for line in lines if line.endswith("}}")]
    return len(whole), json.loads(whole[-1]) if whole else {"events": [], "colours": {}}


@pytest.mark.slow
def test_what_a_killed_kernel_has_shown_as_saved_is_there_and_nothing_else(town, tmp_path):
    path, dice = tmp_path / "annotations.db", random.Random(5)
    for kill in range(5):
        shown, moment = tmp_path / f"shown{kill}", dice.randrange(OPERATIONS)
        before = len(AnnotationStore(path).events()) if path.exists() else 0
        with annotating(town, path, shown, seed=kill) as (manager, _):
            until(lambda shown=shown, moment=moment: told(shown)[0] >= moment)
            os.kill(manager.provisioner.process.pid, signal.SIGKILL)
            psutil.wait_procs([psutil.Process(manager.provisioner.process.pid)], timeout=60)
        _, last = told(shown)
        store = AnnotationStore(path)
        events = [event.id for event in store.events()][before:]
        known = len(last["events"])
        assert events[:known] == last["events"]
        assert len(events) - known in {0, 1, 3}  # one click, or one page, that nobody was told of yet
        if len(events) == known:
            assert {name: event.verdict for name, event in store.get().items()} == last["colours"]
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
def test_two_kernels_at_once_lose_nothing_and_a_copy_made_meanwhile_opens(town, tmp_path):
    path = tmp_path / "annotations.db"
    AnnotationStore(path).events()
    shown = {name: tmp_path / name for name in ("bob", "cleo")}
    with (
        annotating(town, path, shown["bob"], 1, "bob"),
        annotating(town, path, shown["cleo"], 2, "cleo"),
    ):
        for number, moment in enumerate((20, 60, 120)):
            until(lambda moment=moment: min(told(file)[0] for file in shown.values()) >= moment)
            known = [told(file)[1]["events"] for file in shown.values()]
            copy = tmp_path / f"copy{number}"
            copy.mkdir()
            for file in (path, path.with_name(f"{path.name}-wal")):
                shutil.copyfile(file, copy / file.name)
            with closing(sqlite3.connect(copy / path.name)) as db:
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            found = {event.id for event in AnnotationStore(copy / path.name).events()}
            assert found.issuperset(known[0] + known[1])
        until(lambda: min(told(file)[0] for file in shown.values()) == OPERATIONS)
    events = AnnotationStore(path).events()
    for name, file in shown.items():
        assert [event.id for event in events if event.annotator == name] == told(file)[1]["events"]
    assert len(events) == sum(len(told(file)[1]["events"]) for file in shown.values())
