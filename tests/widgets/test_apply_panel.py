"""Apply: which jobs what people have said is worth, by what the case has."""

from __future__ import annotations

import pytest
from case_fixtures import lattice, seen, take_first_look, write_probability
from job_fixtures import hold, town_of
from job_fixtures import said as printed
from widget_fixtures import page, press, words

from historymap_lib.annotation_store import AnnotationStore
from historymap_lib.jobs import Jobs
from historymap_lib.verification import verify
from historymap_lib.widgets.annotating import Session
from historymap_lib.widgets.apply_panel import ApplyPanel
from historymap_lib.widgets.buildings import read_buildings
from historymap_lib.widgets.case import Case
from historymap_lib.widgets.legend_panel import LegendPanel

FIRST_LOOK = "These verdicts are a first look; training makes them better."


@pytest.fixture
def town(tmp_path):
    """A case whose worker has something else to do all the time, so that what is queued stays there."""
    with town_of(tmp_path, idle=60.0) as case:
        printed(Jobs(case).submit_command("held", hold(tmp_path / "go")), "on")
        yield case


def opened(town):
    """Return the session of ann, who has judged a building, and her panel."""
    session = Session(AnnotationStore.of(town), read_buildings(town, {}), "ann")
    session.judge("replaced", "way/1")
    return session, ApplyPanel(Case(town.file), session)


def queued(town):
    return [(record.name, record.parameters) for record in Jobs(town).waiting()]


def test_a_first_look_learns_from_people_without_any_tiles(town):
    take_first_look(town)
    verify(town, quick=True, picture=False)
    session, panel = opened(town)
    assert FIRST_LOOK in words(page(LegendPanel(session, lambda: "", lambda: None)))
    assert "aria-disabled" not in page(panel).select_one("[data-action=apply]").attrs
    press(panel, "apply", values={})
    assert queued(town) == [("verify", {"quick": True})]
    press(panel, "apply", values={})
    assert "queued or running already" in words(page(panel).select_one(".hm-said"))
    assert len(queued(town)) == 1


def test_to_train_after_a_first_look_begins_with_the_tiles(town):
    take_first_look(town)
    verify(town, quick=True, picture=False)
    _, panel = opened(town)
    press(panel, "apply", values={"learn": True})
    assert [name for name, _ in queued(town)] == [
        "generate-training",
        "apply-annotations",
        "train",
        "predict",
        "verify",
    ]


def test_without_tiles_and_first_look_it_says_what_is_missing(town):
    write_probability(town, seen(lattice()))
    verify(town, picture=False)
    session, panel = opened(town)
    assert FIRST_LOOK not in words(page(LegendPanel(session, lambda: "", lambda: None)))
    assert page(panel).select_one("[data-action=apply]")["aria-disabled"] == "true"
    assert "run generate training first" in words(page(panel))
