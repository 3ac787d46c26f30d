"""The forms: made from the table of steps, and each presses what the command line would do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from case_fixtures import change, make_case
from job_fixtures import PATIENCE, hold, town_of
from job_fixtures import said as printed
from widget_fixtures import page, press, said, words

from historymap_lib import steps
from historymap_lib.annotations import Annotation, save
from historymap_lib.jobs import Jobs
from historymap_lib.widgets.case import Case
from historymap_lib.widgets.step_form import StepForm


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A case whose worker has something else to do all the time, so that what is queued stays there."""
    with town_of(tmp_path_factory.mktemp("town"), idle=60.0) as case:
        held = Jobs(case).submit_command("held", hold(case.paths.root / "go"))
        printed(held, "on")
        yield case


@pytest.fixture
def case(town):
    """The case, with an empty queue afterwards."""
    yield Case(town.file)
    jobs = Jobs(town)
    for record in jobs.waiting():
        jobs.get(record.id).cancel()


def queued(case: Case) -> list[tuple[str, dict]]:
    return [(record.name, record.parameters) for record in case.jobs.waiting()]


def reason(form: StepForm) -> str:
    return words(page(form).select_one(".hm-state"))


@pytest.mark.parametrize("name", list(steps.STEPS))
def test_each_parameter_of_the_table_has_a_field_that_shows_the_setting(case, name):
    form, step = StepForm(case, name), steps.STEPS[name]
    fields = page(form).select("input")
    assert [field["name"] for field in fields] == [*(one.name for one in step.parameters), "force"]
    kinds = {int: "number", bool: "checkbox"}
    for field, parameter in zip(fields, step.parameters, strict=False):
        assert field["type"] == kinds.get(parameter.kind, "text")
        assert parameter.help in words(field.parent)
        if parameter.kind is int:
            assert field["placeholder"] == parameter.default(case.project)
        if parameter.kind is Path and parameter.setting:  # as it may be typed, from the root of the case
            assert str(case.project.resolve(field["placeholder"])) == parameter.default(case.project)
    assert words(page(form).select_one("h3")) == name.replace("-", " ")
    assert step.help in words(page(form))


def test_the_settings_are_shown_as_they_are_now(tmp_path):
    file = make_case(tmp_path, tiles={"count": 7})
    form = StepForm(Case(file), "generate-training")
    assert page(form).select_one("[name=tiles]")["placeholder"] == "7"
    change(file, "tiles", count=8)
    form.refresh()
    assert page(form).select_one("[name=tiles]")["placeholder"] == "8"


def test_a_step_that_cannot_run_yet_says_why_where_its_button_is(case):
    form = StepForm(case, "train")
    button = page(form).select_one("button")
    assert button["aria-disabled"] == "true"
    assert button["aria-describedby"] == page(form).select_one(".hm-state")["id"]
    assert reason(form).startswith("train needs what generate-training makes")
    press(form, "run", values={})
    assert said(form).startswith("train needs what generate-training makes")
    assert queued(case) == []


def test_a_first_look_has_a_button_of_its_own_as_long_as_nothing_is_predicted(case):
    form = StepForm(case, "verify")
    run, first = page(form).select("button")
    assert (words(run), run["aria-disabled"]) == ("Run", "true")
    assert (words(first), "aria-disabled" in first.attrs) == ("First look", False)
    press(form, "run", parameter=first["data-parameter"], values={"quick": False})
    assert said(form) == ""
    assert queued(case) == [("verify", {"quick": True})]
    case.project.paths.predictions.mkdir(parents=True)
    try:
        case.project.paths.probability.touch()
        form.refresh()
        assert [words(one) for one in page(form).select("button")] == ["Run"]
    finally:
        shutil.rmtree(case.project.paths.predictions)


def test_when_the_step_before_is_queued_the_next_can_be_queued_too(case):
    form = StepForm(case, "train")
    first = StepForm(case, "generate-training")
    assert reason(first) == "due, it has not run yet"
    press(first, "run", values={})
    assert reason(first) == "queued or running"
    form.refresh()
    assert "aria-disabled" not in page(form).select_one("button").attrs
    press(form, "run", values={"epochs": "3", "resume": True})
    assert queued(case) == [("generate-training", {}), ("train", {"epochs": 3, "resume": True})]


def test_what_is_filled_in_is_what_is_queued(case):
    form = StepForm(case, "generate-training")
    press(form, "run", values={"tiles": "12", "output": "elsewhere/tiles", "force": True})
    assert said(form) == ""
    output = str(case.project.paths.root / "elsewhere" / "tiles")
    assert queued(case) == [("generate-training", {"tiles": 12, "output": output, "force": True})]


def test_what_is_left_empty_is_as_the_settings_say(case):
    form = StepForm(case, "generate-training")
    press(form, "run", values={"tiles": "", "output": "", "force": False})
    press(form, "run")
    assert queued(case) == [("generate-training", {})] * 2


def test_a_path_is_relative_to_the_root_of_the_case_wherever_the_notebook_lies(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    form = StepForm(case, "generate-training")
    press(form, "run", values={"output": "mine"})
    press(form, "run", values={"output": str(tmp_path / "absolute")})
    outputs = [parameters["output"] for _, parameters in queued(case)]
    assert outputs == [str(case.project.paths.root / "mine"), str(tmp_path / "absolute")]


@pytest.mark.parametrize("tiles", ["three", "-1", "2.5", "0", "1e3", "²", " ", "<script>"])
def test_a_number_that_is_none_is_one_sentence_until_the_next_press(case, tiles):
    form = StepForm(case, "generate-training")
    press(form, "run", values={"tiles": tiles})
    assert "whole number of 1 or more" in said(form)
    assert "tiles is " in said(form)
    assert page(form).select("script") == []
    assert queued(case) == []
    press(form, "run", values={"tiles": "2"})
    assert said(form) == ""
    assert queued(case) == [("generate-training", {"tiles": 2})]


def test_annotations_are_asked_for_until_there_are_some(case):
    paths = case.project.paths
    paths.training.mkdir(parents=True)
    try:
        form = StepForm(case, "apply-annotations")
        assert "there are no annotations; judge a building first" in reason(form)
        save(paths.annotations, [Annotation(osm_id=2, existed=True)])
        form.refresh()
        assert "aria-disabled" not in page(form).select_one("button").attrs
    finally:
        paths.annotations.unlink(missing_ok=True)
        paths.training.rmdir()


def test_an_action_that_is_none_does_nothing(case):
    form = StepForm(case, "generate-training")
    press(form, "dance", values={})
    press(form, "", values=None)
    assert (said(form), queued(case)) == ("", [])


def test_a_step_that_was_queued_by_its_form_runs_and_is_then_up_to_date(tmp_path):
    with town_of(tmp_path) as project:
        case = Case(project.file)
        form = StepForm(case, "generate-training")
        press(form, "run", values={"tiles": "1"})
        (record,) = case.jobs.recent()
        assert case.jobs.get(record.id).wait(PATIENCE).state == "completed"
        case.look_again()
        form.refresh()
        assert page(form).select_one("form")["class"][1] == "hm-good"
        assert reason(form) == "up to date"
