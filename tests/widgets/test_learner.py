"""A click changes the verdicts on like buildings, on the map and in the queue, before anything is applied."""

from __future__ import annotations

import time

import numpy as np
import pytest
from case_fixtures import change, lattice, make_case, seen, write_probability
from job_fixtures import until
from look_fixtures import ALIKE, SPACING, look_at_outlines
from widget_fixtures import page, press, words

from historymap_lib import steps
from historymap_lib.annotation_store import AnnotationStore, Judgement
from historymap_lib.live_verdicts import LiveVerdicts
from historymap_lib.project import load
from historymap_lib.verification import verify
from historymap_lib.widgets.annotating import ORDERS, Session
from historymap_lib.widgets.annotation_map import AnnotationMap
from historymap_lib.widgets.building_map import EMPTY, MANY, NOTHING, BuildingMap
from historymap_lib.widgets.building_views import BuildingViews
from historymap_lib.widgets.buildings import EXISTED, NOT_EXISTED, UNSURE, read_buildings
from historymap_lib.widgets.case import Case
from historymap_lib.widgets.judge_panel import JudgePanel
from historymap_lib.widgets.learner import Learner, learn, rank_anew
from historymap_lib.widgets.legend_panel import LegendPanel

FIRST, SECOND, *OTHERS = [f"way/{number}" for number in ALIKE]
NOTE = "as learned from 1 judgement, not applied yet"


def tip(file):
    """Set the thresholds so that most of what looks alike is said to have existed until one of it did not."""
    live = LiveVerdicts.of(load(file))
    alike = np.isin(live.building_id, [SECOND, *OTHERS])
    before, after = (live.after(said)["probability"][alike].median() for said in ({}, {FIRST: False}))
    assert before > after + 0.001
    change(file, "verification", existed_from=float((before + after) / 2), not_existed_to=0.1)
    return load(file)


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    """A case in which some existed until a person says that one like these did not."""
    file = make_case(tmp_path_factory.mktemp("town"), lattice(SPACING), verification={"max_offset": 0})
    look_at_outlines(load(file), quick=True)
    verify(load(file), quick=True, picture=False)
    return tip(file)


def session_on(case, store, name="ann"):
    return Session(store, read_buildings(case, {}), name, LiveVerdicts.of(case))


@pytest.fixture
def session(verified, tmp_path):
    """A session of ann with a store of its own."""
    return session_on(verified, AnnotationStore(tmp_path / "annotations.db"))


def rows_of(session, names):
    return [session.buildings.row(name) for name in names]


def alike(session):
    return rows_of(session, [SECOND, *OTHERS])


def test_the_building_itself_changes_at_once_and_its_likes_when_it_is_learned(session, verified):
    before = session.buildings.shown()
    content = verified.paths.verified.read_bytes()
    (row,) = rows_of(session, [FIRST])
    session.judge("not_existed", FIRST)
    shown = session.buildings.shown()
    assert np.flatnonzero(shown != before).tolist() == [row]
    assert (session.changed, session.behind) == ({row}, True)
    assert learn(session)
    moved = np.flatnonzero(session.buildings.shown() != shown)
    assert set(moved) & set(alike(session))
    assert session.changed == {row, *moved}
    assert (session.learned, session.behind) == (1, False)
    assert verified.paths.verified.read_bytes() == content
    assert not learn(session)
    session.undo()
    assert learn(session)
    assert session.buildings.shown().tolist() == before.tolist()
    assert session.learned == 0


def test_what_the_model_said_without_the_person_stays_what_it_said(session):
    (row,) = rows_of(session, [FIRST])
    before = session.buildings.probability[row]
    session.judge("not_existed", FIRST)
    learn(session)
    assert session.buildings.probability[row] == before
    session.judge("existed", FIRST)
    assert session.store.holding(FIRST).probability == before
    assert session.done()[2] in {0.0, 1.0}


def test_legend_and_panel_tell_what_was_learned_and_that_it_is_not_applied(session, verified):
    legend = LegendPanel(session, lambda: "", lambda: None)
    judge = JudgePanel(session, BuildingViews(verified, session))
    session.listeners += [legend.refresh, judge.refresh]
    assert page(legend).select(".hm-learned") == []
    counts = session.counts()
    session.judge("not_existed", FIRST)
    learn(session)
    moved = next(row for row in alike(session) if session.buildings.model[row] != session.buildings.applied_model[row])
    session.select(moved)
    assert session.counts() != counts
    assert words(page(legend).select_one(".hm-learned")) == NOTE
    assert words(page(judge).select_one(".hm-learned")).endswith(NOTE)
    assert words(page(judge).select_one(".hm-learned")).startswith("now unsure, probability 0.")
    session.judge("unsure", SECOND)
    learn(session)
    assert words(page(legend).select_one(".hm-learned")) == NOTE  # who is unsure teaches nothing
    session.undo()
    press(judge, "undo")
    learn(session)
    session.select(moved)
    assert page(judge).select(".hm-learned") == page(legend).select(".hm-learned") == []
    legend.close()
    judge.close()


def test_a_session_opens_with_what_has_been_said_and_is_not_applied(verified, tmp_path):
    store = AnnotationStore(tmp_path / "annotations.db")
    first = session_on(verified, store)
    first.judge("not_existed", FIRST)
    learn(first)
    second = session_on(verified, store, "bob")
    assert second.buildings.shown().tolist() == first.buildings.shown().tolist()
    assert second.learned == 1
    second.judge("replaced", SECOND)
    assert first.look()
    assert first.behind
    learn(first)
    learn(second)
    assert (
        first.buildings.probability[alike(first)[1:]].tolist()
        == second.buildings.probability[alike(first)[1:]].tolist()
    )
    assert first.learned == 2


def test_the_queue_learns_but_what_is_looked_at_and_what_comes_next_stays(session):
    session.forward()
    rank_anew(session)
    ahead = session.queue(2)
    assert ahead[0] == session.selected
    session.judge("not_existed", FIRST)
    session.judge("not_existed", SECOND)
    ahead = session.queue(2)
    learn(session)
    rank_anew(session)
    assert session.queue(2) == ahead
    assert sorted(session.queue(999)) == sorted(set(session.queue(999)))
    assert not set(session.queue(999)) & set(rows_of(session, [FIRST, SECOND]))


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_still_asks_for_each_building_once(session, order):
    session.ask(order)
    before = sorted(session.queue(999))
    rank_anew(session)
    assert sorted(session.queue(999)) == before


def test_a_thread_learns_after_a_pause_and_ends(session):
    told, learner = [], Learner(session)
    session.listeners.append(lambda: told.append(session.learned))
    until(lambda: not session.behind)
    session.judge("not_existed", FIRST)
    session.judge("not_existed", SECOND)
    until(lambda: session.learned == 2)
    until(lambda: told[-1] == 2)
    assert told.count(1) == 0  # both were learned from together
    learner.close()
    until(lambda: learner._thread is None or not learner._thread.is_alive())
    session.undo()
    time.sleep(0.5)
    assert session.learned == 2


def test_verdicts_made_without_a_last_layer_stay_as_they_are(tmp_path):
    case = load(make_case(tmp_path, lattice(SPACING), verification={"max_offset": 0}))
    write_probability(case, seen(lattice(SPACING)))
    steps.run(case, "verify")
    session = session_on(case, AnnotationStore.of(case))
    learner = Learner(session)
    before = session.buildings.shown()
    session.judge("not_existed", FIRST)
    assert (session.live, session.behind, session.order, learner._thread) == (None, False, "spread", None)
    assert not learn(session)
    rank_anew(session)
    assert (session.buildings.shown() != before).sum() <= 1
    learner.close()


def test_new_verdicts_take_the_place_of_what_was_learned(verified, tmp_path):
    session = session_on(verified, AnnotationStore(tmp_path / "annotations.db"))
    session.judge("not_existed", FIRST)
    learn(session)
    shown = session.buildings.shown()
    session.replace(read_buildings(verified, {}), LiveVerdicts.of(verified))
    assert session.learned == 1
    assert session.buildings.shown().tolist() == shown.tolist()
    session.replace(read_buildings(verified, {}))
    assert session.learned == 0
    assert not session.behind


def on_view(session, view):
    drawn = BuildingMap(session)
    for side, value in zip(("west", "south", "east", "north"), view, strict=True):
        drawn.set_trait(side, value)
    drawn.draw()
    return drawn


def count(layer):
    return len(layer.data["features"])


def test_the_map_draws_what_changed_in_view_and_nothing_of_what_did_not(session):
    west, south, east, north = session.buildings.bounds()
    drawn, middle = on_view(session, (west, south, east, north)), (south + north) / 2
    half = on_view(session, (west, south, east, middle))
    below = drawn._shapes.data
    session.judge("not_existed", FIRST)
    learn(session)
    changed = set(session.changed)
    for one in (drawn, half):
        session.changed = set(changed)
        one.draw()
    assert count(drawn._top) == len(changed) > 1
    assert drawn._shapes.data is below
    inside = set(session.buildings.within((west, south, east, middle)).tolist())
    assert count(half._top) == len(changed & inside)


def test_where_very_many_have_changed_the_view_is_drawn_anew(session, monkeypatch):
    drawn = on_view(session, session.buildings.bounds())
    monkeypatch.setattr("historymap_lib.widgets.building_map.MANY", 2)
    assert MANY > 2
    below = drawn._shapes.data
    session.judge("not_existed", FIRST)
    learn(session)
    drawn.draw()
    assert drawn._top.data == EMPTY
    assert drawn._shapes.data != below
    assert count(drawn._shapes) == len(session.buildings)
    assert drawn._far.url == NOTHING


def test_on_the_annotation_map_a_click_changes_its_likes_without_anything_else(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = make_case(tmp_path, lattice(SPACING), verification={"max_offset": 0})
    look_at_outlines(load(file), quick=True)
    verify(load(file), quick=True, picture=False)
    tip(file)
    annotation_map = AnnotationMap(Case(file))
    session = annotation_map._session
    try:
        session.judge("not_existed", FIRST)
        until(lambda: session.learned == 1)
        until(lambda: NOTE in words(page(annotation_map._legend)))
        found = set(session.buildings.shown()[alike(session)].tolist())
        assert found & {EXISTED, NOT_EXISTED, UNSURE}
        before = session.buildings.probability[alike(session)]
        session.store.save(Judgement(SECOND, "not_existed", "bob"))
        annotation_map.refresh()
        until(lambda: session.learned == 2)
        shown = session.buildings.probability[alike(session)[1:]]
        assert (shown != before[1:]).any()
        verify(load(file), quick=True, picture=False)
        annotation_map.refresh()
        until(lambda: session.learned == 0)  # the thread of all panels may have been faster
        assert session.buildings.probability[alike(session)[1:]].tolist() == shown.tolist()
        until(lambda: "as learned" not in words(page(annotation_map._legend)))
    finally:
        annotation_map.close()
