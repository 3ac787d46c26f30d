"""A person at work on buildings, without a page: what is asked, what is stored, what is shown."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import shapely
from case_fixtures import find_elsewhere, lattice, make_case, rectangle, seen, write_probability
from shapely.affinity import translate
from widget_fixtures import page, press, words

from historymap_lib import changes, steps
from historymap_lib.annotation_store import AnnotationStore, Judgement
from historymap_lib.annotations import REPLACED
from historymap_lib.crops import Crops
from historymap_lib.errors import AnnotationsError
from historymap_lib.project import load
from historymap_lib.widgets.annotating import ORDERS, Session
from historymap_lib.widgets.building_map import BuildingMap
from historymap_lib.widgets.building_views import BuildingViews
from historymap_lib.widgets.buildings import (
    EXISTED,
    NO_COVERAGE,
    NOT_EXISTED,
    UNSURE,
    VERDICTS,
    Buildings,
    Filter,
    read_buildings,
)
from historymap_lib.widgets.grid_panel import GridPanel
from historymap_lib.widgets.judge_panel import JudgePanel
from historymap_lib.widgets.legend_panel import LegendPanel

SETTINGS = {"verification": {"max_offset": 0}}


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    """A case whose probabilities say existed, not existed and something between, with one building upon another."""
    buildings = lattice()
    buildings[900] = rectangle(3.1 + 2, 3.1 + 2, 4, 4)  # upon way/1
    buildings[901] = rectangle(40, -9, 9, 12)  # only its foot is in the area, and there the photo has no data
    file = make_case(tmp_path_factory.mktemp("town"), buildings, **SETTINGS)
    case = load(file)
    values = seen({number: shape for number, shape in buildings.items() if number < 900})
    write_probability(case, values)
    steps.run(case, "verify")
    return case


@pytest.fixture
def session(verified, tmp_path):
    """A session of ann on that case with a store of its own."""
    return Session(AnnotationStore(tmp_path / "annotations.db"), read_buildings(verified, {}), "ann")


@pytest.fixture
def judge(session, verified):
    """The panel of one building."""
    panel = JudgePanel(session, BuildingViews(verified, session))
    session.listeners.append(panel.refresh)
    yield panel
    panel.close()


@pytest.fixture
def grid(session, verified):
    """The panel of many."""
    panel = GridPanel(session, BuildingViews(verified, session))
    panel.active = True
    panel.refresh()
    yield panel
    panel.close()


def row_of(session, building):
    found = session.buildings.row(building)
    assert found is not None
    return found


def test_a_judgement_is_stored_and_shown_and_the_next_building_is_looked_at(session):
    session.forward()
    first = session.buildings.ids[session.selected]
    session.judge("existed", first, notes="a roof", reason="tree")
    stored = session.store.holding(first)
    assert (stored.verdict, stored.annotator, stored.notes, stored.reason) == ("existed", "ann", "a roof", "tree")
    assert stored.chosen_by == session.order
    assert stored.seconds is not None
    assert session.buildings.shown()[row_of(session, first)] == EXISTED
    assert session.buildings.ids[session.selected] != first
    assert session.done()[0] == 1


def test_what_the_model_said_is_stored_beside_what_the_person_says(session):
    row = int(np.flatnonzero(~np.isnan(session.buildings.probability))[0])
    session.select(row)
    session.judge("unsure", session.buildings.ids[row])
    stored = session.store.holding(session.buildings.ids[row])
    assert stored.said == VERDICTS[session.buildings.model[row]]
    assert stored.probability == pytest.approx(session.buildings.probability[row])
    assert stored.chosen_by == "person"


def test_one_key_says_that_another_building_stood_here_and_undo_takes_it_back(session, judge):
    building = "way/8"
    session.select(row_of(session, building))
    button = page(judge).select_one("[data-shortcut=r]")
    press(judge, button["data-action"], verdict=button["data-verdict"], building=button["data-building"])
    stored = session.store.holding(building)
    assert (stored.verdict, stored.reason, stored.replaced) == ("not_existed", REPLACED, True)
    assert session.buildings.shown()[row_of(session, building)] == NOT_EXISTED
    assert np.flatnonzero(session.buildings.replaced()).tolist() == [row_of(session, building)]
    session.back()
    assert words(page(judge).select_one(".hm-building-head .hm-mark")) == "not existed (replaced), annotated"
    assert REPLACED in words(page(judge).select_one(".hm-history"))
    press(judge, "undo")
    assert words(page(judge).select_one(".hm-said")) == f"{building} not existed ({REPLACED}): taken back"
    assert session.store.get() == {}
    assert not session.buildings.replaced().any()
    assert words(page(judge).select_one(".hm-building-head .hm-mark")) == "not existed"


def test_that_another_building_stood_here_is_the_reason_whatever_is_chosen_beside_it(session, judge):
    press(judge, "judge", verdict="replaced", building="way/8", values={"reason": "tree", "notes": " a barn "})
    stored = session.store.holding("way/8")
    assert (stored.reason, stored.notes) == (REPLACED, "a barn")


def test_an_answer_that_is_none_is_refused(session, judge):
    press(judge, "judge", verdict="perhaps", building="way/8")
    assert "'perhaps' is no verdict" in words(page(judge).select_one(".hm-said"))
    assert session.store.get() == {}


def test_on_a_page_of_many_the_key_says_it_of_the_one_in_focus(session, grid):
    first, second = (cell["data-building"] for cell in page(grid).select(".hm-cell")[:2])
    press(grid, "set", focus=first, verdict="replaced")
    assert page(grid).select_one(".hm-cell")["aria-label"] == f"{first}: replaced"
    press(grid, "set", focus=second, verdict="replaced")
    press(grid, "flip", building=second)
    press(grid, "confirm", page=first)
    assert session.store.holding(first).replaced
    assert session.store.holding(second).verdict == "existed"


def test_the_map_and_its_legend_tell_such_buildings_from_others(session):
    session.judge("replaced", "way/8")
    session.judge("not_existed", "way/10")
    legend = LegendPanel(session, lambda: "", lambda: None)
    assert "another building stood there 1" in words(page(legend))
    rows = [row_of(session, name) for name in ("way/8", "way/10")]
    styles = [
        feature["properties"]["style"]["className"] for feature in BuildingMap(session)._collection(rows)["features"]
    ]
    assert styles == [
        "hm-building hm-not_existed hm-annotated hm-replaced",
        "hm-building hm-not_existed hm-annotated",
    ]
    legend.close()


def test_the_reason_of_the_model_is_shown_and_not_what_a_person_said_when_it_was_made(session, judge, verified):
    frame = read_buildings(verified, {}).frame
    frame.loc[frame["building_id"] == "way/8", "reason"] = f"{REPLACED} (probability 0.02)"
    frame.loc[frame["building_id"] == "way/10", ["reason", "annotated"]] = f"annotated by ann: {REPLACED}", True
    session.replace(Buildings(frame, (0.1, 0.9)))
    session.select(row_of(session, "way/8"))
    assert f"{REPLACED} (probability 0.02)" in words(page(judge))
    assert np.flatnonzero(session.buildings.replaced()).tolist() == [row_of(session, "way/8")]
    session.select(row_of(session, "way/10"))
    assert "annotated by" not in words(page(judge))
    assert "the photo shows none: probability" in words(page(judge))


def test_undo_shows_again_what_the_model_says_and_goes_back_to_that_building(session):
    session.forward()
    first = session.buildings.ids[session.selected]
    before = session.buildings.shown()[session.selected]
    session.judge("existed", first)
    assert "taken back" in session.undo()
    assert session.buildings.ids[session.selected] == first
    assert session.buildings.shown()[session.selected] == before
    assert session.done()[0] == 0
    assert "holds again" in session.redo()
    assert session.buildings.annotated[row_of(session, first)] == EXISTED
    session.undo()
    assert "nothing to undo" in session.undo()


def test_all_listeners_are_told_without_the_lock_so_that_none_waits_for_another(session):
    free = []

    def listen():
        other = threading.Thread(
            target=lambda: free.append(session.lock.acquire(timeout=5) and not session.lock.release())
        )
        other.start()
        other.join()

    session.listeners.append(listen)
    session.forward()
    session.judge("existed", session.buildings.ids[session.selected])
    session.click(*session.buildings.point(3), 0.0)
    session.back()
    session.undo()
    session.redo()
    session.ask("random")
    session.sieve(Filter(), 0.0)
    session.confirm({session.buildings.ids[0]: "existed"})
    assert free == [True] * 9


def test_what_another_person_says_meanwhile_is_shown(session):
    building = session.buildings.ids[5]
    session.store.save(Judgement(building, "not_existed", "bob"))
    assert session.look()
    assert session.buildings.shown()[5] == NOT_EXISTED
    assert not session.look()


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_asks_for_each_building_once(session, order):
    session.ask(order)
    if order == "others":
        for building in session.buildings.ids[:5]:
            session.store.save(Judgement(building, "existed", "bob"))
        session.look()
        assert {session.buildings.ids[row] for row in session.queue(99)} == set(session.buildings.ids[:5])
    asked = []
    session.forward()
    for _ in range(5):
        asked.append(session.selected)
        session.judge("existed", session.buildings.ids[session.selected])
    assert len(set(asked)) == 5
    assert not set(asked) & set(session.queue(999)) or order == "disagreement"


def test_a_building_that_was_passed_over_does_not_come_again_at_once(session):
    session.forward()
    first = session.selected
    session.forward()
    second = session.selected
    session.forward()
    assert session.queue(999)[-2:] == [first, second]  # when there are no others


def test_the_way_back_leads_to_those_that_were_passed_over(session):
    session.forward()
    first = session.selected
    session.forward()
    session.forward()
    session.back()
    session.back()
    assert session.selected == first


def test_only_what_passes_the_filter_is_asked_for(session):
    session.sieve(Filter(verdicts=frozenset({EXISTED})), 0.0)
    assert {int(session.buildings.model[row]) for row in session.queue(999)} <= {EXISTED}
    session.sieve(Filter(area=(0, 20)), 0.0)
    assert session.passing().sum() == 1  # the small one upon another
    session.sieve(Filter(annotated=True), 0.0)
    assert not session.passing().any()


def test_below_the_threshold_a_verdict_of_the_model_is_unsure_but_never_that_of_a_person(session):
    session.judge("existed", session.buildings.ids[0])
    session.sieve(Filter(), 1.01)
    shown = session.buildings.shown(session.threshold)
    assert shown[0] == EXISTED
    assert set(shown[1:]) <= {UNSURE, NO_COVERAGE}


def test_of_two_buildings_upon_each_other_a_second_click_takes_the_other(session):
    small, large = row_of(session, "way/900"), row_of(session, "way/1")
    place = session.buildings.point(small)
    session.click(*place, 0.0)
    assert session.selected == small
    session.click(*place, 0.0)
    assert session.selected == large
    session.click(*place, 0.0)
    assert session.selected == small


def test_a_click_beside_all_buildings_changes_nothing_and_one_just_beside_takes_the_nearest(session):
    longitude, latitude = session.buildings.point(7)
    session.click(longitude + 1, latitude, 1e-5)
    assert session.selected is None
    east = shapely.bounds(session.buildings.shapes[7])[2]
    session.click(east + 1e-6, latitude, 1e-5)
    assert session.selected == 7


def test_a_building_off_the_photo_is_not_asked_for_but_can_be_judged(session):
    row = row_of(session, "way/901")
    assert session.buildings.model[row] == NO_COVERAGE
    assert row not in session.queue(999)
    session.judge("not_existed", "way/901")
    assert session.buildings.shown()[row] == NOT_EXISTED


def test_a_page_is_stored_as_a_whole_or_not_at_all(session):
    first, second = session.buildings.ids[:2]
    with pytest.raises(AnnotationsError):
        session.confirm({first: "existed", second: "perhaps"})
    assert session.store.get() == {}
    session.confirm({first: "existed", second: "not_existed"})
    assert {name: event.verdict for name, event in session.store.get().items()} == {
        first: "existed",
        second: "not_existed",
    }
    assert session.done()[0] == 2


def test_new_verdicts_are_taken_over_at_the_same_building(session, verified):
    session.forward()
    building = session.buildings.ids[session.selected]
    session.judge("existed", building)
    session.select(row_of(session, building))
    session.replace(read_buildings(verified, {}))
    assert session.buildings.ids[session.selected] == building
    assert session.buildings.annotated[session.selected] == EXISTED
    assert session.done()[0] == 1


def test_without_verdicts_the_footprints_can_be_judged(tmp_path):
    case = load(make_case(tmp_path))
    session = Session(AnnotationStore.of(case), read_buildings(case, {}), "ann")
    assert set(session.buildings.shown()) == {UNSURE}
    session.judge("existed", "way/1")
    assert session.store.holding("way/1").said is None


def test_only_buildings_in_view_are_found(session):
    west, south, east, north = session.buildings.bounds()
    assert len(session.buildings.within((west, south, east, north))) == len(session.buildings)
    assert len(session.buildings.within((east + 1, south, east + 2, north))) == 0


def test_the_crop_shows_the_photo_around_the_building_and_tells_what_is_covered(verified):
    crops = Crops(verified)
    frame = read_buildings(verified, {}).frame.set_index("building_id")
    inside, off = (crops.of(name, frame.geometry[name]) for name in ("way/40", "way/901"))
    assert inside.covered == 1
    assert off.covered == 0
    assert inside.side >= 9 + 24
    path = inside.path([frame.geometry["way/40"]])
    assert path.startswith("M")
    assert path.endswith("Z")
    crops.close()


def test_a_building_is_shown_where_it_was_found_beside_where_the_map_has_it(tmp_path):
    case = load(make_case(tmp_path, **SETTINGS))
    write_probability(case, seen(lattice()))
    steps.run(case, "verify")
    find_elsewhere(case, {"way/40": (1.5, 1.5), "way/41": (0.0, 0.0)})
    session = Session(AnnotationStore.of(case), read_buildings(case, {}), "ann")
    views = BuildingViews(case, session)
    panel = JudgePanel(session, views)
    moved, same, unknown = (row_of(session, f"way/{number}") for number in (40, 41, 42))
    shape = session.buildings.frame.geometry.iloc[moved]
    (on_photo,) = session.buildings.on_photo([moved])
    assert on_photo.equals_exact(translate(shape, 1.5, 1.5), 1e-6)
    facts = views.crop_facts(moved)
    assert facts["outline"] == views.crop(moved).path([on_photo])
    assert facts["on_map"] == views.crop(moved).path([shape]) != facts["outline"]
    session.select(moved)
    panel.refresh()
    place = "found 2.1 m to the north-east of the map as the map has it"
    assert words(page(panel).select_one(".hm-place")) == place
    assert len(page(panel).select(".hm-crop .hm-on-map")) == 1
    session.select(same)
    panel.refresh()
    assert words(page(panel).select_one(".hm-place")).startswith("found where the map says")
    session.select(unknown)
    panel.refresh()
    assert page(panel).select(".hm-place, .hm-on-map") == []
    panel.close()


def test_when_a_building_is_found_elsewhere_later_its_crop_is_cut_anew(tmp_path):
    case = load(make_case(tmp_path, **SETTINGS))
    write_probability(case, seen(lattice()))
    steps.run(case, "verify")
    session = Session(AnnotationStore.of(case), read_buildings(case, {}), "ann")
    panel = JudgePanel(session, BuildingViews(case, session))
    session.select(row_of(session, "way/40"))
    panel.refresh()
    before = panel.images["way/40"]
    find_elsewhere(case, {"way/40": (3.0, 0.0)})
    session.replace(read_buildings(case, {}))
    panel.refresh()
    assert panel.images["way/40"] != before
    panel.close()


def test_what_has_changed_is_counted_by_where_it_went(tmp_path):
    case = load(make_case(tmp_path))
    assert changes.compare(case, {"way/1": "existed"}) is None
    changes.remember(case, {"way/1": "unsure", "way/2": "unsure", "way/3": "existed", "way/4": "existed"})
    found = changes.compare(case, {"way/1": "existed", "way/2": "existed", "way/3": "existed", "way/5": "unsure"})
    assert found.buildings == {"way/1": ("unsure", "existed"), "way/2": ("unsure", "existed")}
    assert found.moves() == [("unsure", "existed", 2)]
    assert found.compared == 3
