"""The cards: where a case stands, in words, and what comes next."""

from __future__ import annotations

import pytest
import yaml
from case_fixtures import change, lattice, make_case, save_random_model, seen, take_first_look, write_probability
from job_fixtures import hold, town_of, until
from job_fixtures import said as printed
from widget_fixtures import HOSTILE, page, press, said, words

from historymap_lib import artifacts, steps
from historymap_lib.annotations import Annotation, save
from historymap_lib.jobs import Jobs
from historymap_lib.project import load
from historymap_lib.verification import verify
from historymap_lib.widgets.case import Case
from historymap_lib.widgets.status_panel import VERDICTS, StatusPanel


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The YAML of a case with everything, up to date."""
    file = make_case(tmp_path_factory.mktemp("town"), tiles={"count": 3})
    case = load(file)
    steps.run(case, "generate-training")
    save_random_model(case)
    artifacts.write_json(case.paths.models / "metrics.json", {"validation_iou": 0.5, "tiles": 3, "corrected_tiles": 1})
    write_probability(case, seen(lattice()))
    for path, step in ((case.paths.model, "train"), (case.paths.probability, "predict")):
        artifacts.write_manifest(path, step=step, inputs=[], settings={}, parameters={}, code=[], covered=0.9)
    save(case.paths.annotations, [Annotation(osm_id=2, existed=True, annotator=HOSTILE)])
    steps.run(case, "apply-annotations")
    steps.run(case, "verify")
    return file


def fresh(panel: StatusPanel) -> StatusPanel:
    panel._case.look_again()
    panel.refresh()
    return panel


def card(panel: StatusPanel, name: str):
    return page(panel).find(attrs={"data-key": name})


def states(panel: StatusPanel) -> dict[str, tuple[str, str]]:
    """Return by card its state as a colour, and as words."""
    return {
        one["data-key"]: (one["class"][1].removeprefix("hm-"), words(one.select_one(".hm-state")))
        for one in page(panel).select(".hm-card")
    }


def test_of_a_new_case_each_card_says_what_is_there_and_what_to_run(tmp_path):
    panel = StatusPanel(Case(make_case(tmp_path)))
    assert states(panel) == {
        "photo": ("good", "there"),
        "footprints": ("good", "there"),
        "training tiles": ("none", "not made yet"),
        "model": ("none", "not made yet"),
        "probability": ("none", "not made yet"),
        "verdicts": ("none", "not made yet"),
        "annotations": ("none", "none yet"),
    }
    cards = page(panel).select(".hm-card:has(.hm-advice)")
    advice = {one["data-key"]: words(one.select_one(".hm-advice")) for one in cards}
    assert advice == {
        "training tiles": "run generate-training",
        "model": "run train",
        "probability": "run predict",
        "verdicts": "run verify; a first look needs no training",
    }
    assert words(page(panel).select_one(".hm-next")) == "Next: generate-training Run all that is due First look"


def test_of_a_finished_case_each_card_says_how_good_and_how_old_its_thing_is(made):
    panel = StatusPanel(Case(made))
    assert {state for state, _ in states(panel).values()} == {"good"}
    assert set(states(panel)["verdicts"]) == {"good", "up to date"}
    assert "made just now" in words(card(panel, "verdicts"))
    assert "validation IoU 0.500, 3 tiles 1 of its tiles corrected by people" in words(card(panel, "model"))
    assert "90% of the area" in words(card(panel, "probability"))
    assert "corrected, just now" in words(card(panel, "training tiles"))
    assert "169 buildings" in words(card(panel, "footprints"))
    assert "1 building" in words(card(panel, "annotations"))
    assert words(page(panel).select_one(".hm-next")).startswith("Next: all is up to date; look at the verdicts")
    assert page(panel).select("button") == []


def test_a_first_look_says_that_it_is_one_and_what_makes_it_better(tmp_path):
    file = make_case(tmp_path)
    take_first_look(load(file))
    verify(load(file), quick=True, picture=False)
    panel = StatusPanel(Case(file))
    assert states(panel)["verdicts"] == ("old", "first look")
    assert words(card(panel, "verdicts").select_one(".hm-advice")) == "training makes it better: run all that is due"
    assert "first look: " in words(card(panel, "verdicts"))


def test_a_bar_shows_the_verdicts_in_proportion_and_says_the_same_in_words(made):
    panel = StatusPanel(Case(made))
    counts = artifacts.read_manifest(load(made).paths.verified)["counts"]
    bar = card(panel, "verdicts").select_one("[role=img]")
    shares = {one["class"][0].removeprefix("hm-"): int(one["style"].split(":")[1]) for one in bar.select("span")}
    assert shares == {name: counts[name] for name in VERDICTS if counts[name]}
    assert len(shares) >= 2
    assert f"{counts['existed']} existed, {counts['not_existed']} not existed" in bar["aria-label"]


def test_what_is_out_of_date_says_so_why_and_what_to_run(made):
    panel = StatusPanel(Case(made))
    change(made, "tiles", count=4)
    try:
        fresh(panel)
        assert states(panel)["training tiles"] == ("old", "out of date")
        advice = words(card(panel, "training tiles").select_one(".hm-advice"))
        assert advice == "its settings have changed: run generate-training again"
        following = words(page(panel).select_one(".hm-next"))
        assert following == "Next: generate-training, since its settings have changed Run all that is due"
    finally:
        change(made, "tiles", count=3)
    assert states(fresh(panel))["training tiles"] == ("good", "up to date")


def test_no_two_states_differ_by_colour_alone(made, tmp_path):
    file = make_case(tmp_path)
    found = [*states(StatusPanel(Case(made))).values(), *states(StatusPanel(Case(file))).values()]
    (tmp_path / "photo.tif").unlink()
    found += states(StatusPanel(Case(file))).values()
    change(made, "tiles", count=4)
    found += states(StatusPanel(Case(made))).values()
    change(made, "tiles", count=3)
    colours = {text: {colour for colour, other in found if other == text} for _, text in found}
    assert all(len(one) == 1 for one in colours.values()), colours
    assert {colour for colour, _ in found} == {"good", "none", "bad", "old"}


def test_what_people_bring_is_noticed_when_it_goes_and_when_it_comes_back(tmp_path):
    file = make_case(tmp_path)
    panel = StatusPanel(Case(file))
    photo = (tmp_path / "photo.tif").rename(tmp_path / "away.tif")
    until(lambda: states(panel)["photo"] == ("bad", "missing"))  # by itself
    assert "there is no such photo" in words(card(panel, "photo"))
    photo.rename(tmp_path / "photo.tif")
    assert states(fresh(panel))["photo"] == ("good", "there")
    (tmp_path / "footprints.geojson").unlink()
    assert states(fresh(panel))["footprints"] == ("bad", "missing")
    assert "correct footprints.path" in words(card(panel, "footprints"))


def test_names_of_files_are_never_html(tmp_path):
    file = make_case(tmp_path)
    name = "<img src=x onerror=alert(2)>&\"'.tif"
    (tmp_path / "photo.tif").rename(tmp_path / name)
    change(file, "photo", path=name)
    panel = StatusPanel(Case(file))
    assert page(panel).select("img") == []
    assert name in words(card(panel, "photo"))
    change(file, "photo", path=HOSTILE)  # and where it is not there
    fresh(panel)
    assert page(panel).select("img, script") == []
    assert HOSTILE in words(card(panel, "photo"))


def test_settings_that_are_edited_while_the_page_is_open_are_noticed(tmp_path):
    file = make_case(tmp_path)
    panel = StatusPanel(Case(file))
    change(file, "photo", year=1944)
    until(lambda: "photo.tif, 1944" in panel.html)  # by itself


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda text: "name: [town", "is no valid YAML"),
        (lambda text: text.replace("tiles:", "tils:"), "tils is not a known key; did you mean tiles?"),
        (lambda text: "", "is empty"),
        (None, "there is no such settings file"),
    ],
    ids=["no YAML", "a typo", "empty", "gone"],
)
def test_broken_settings_are_one_sentence_until_they_are_put_right(tmp_path, spoil, sentence):
    file = make_case(tmp_path)
    panel = StatusPanel(Case(file))
    text = file.read_text()
    file.unlink() if spoil is None else file.write_text(spoil(text))
    panel.refresh()
    assert sentence in said(panel)
    assert page(panel).select_one("[role=alert]") is not None
    assert page(panel).select(".hm-card") == []
    panel.refresh()
    assert sentence in said(panel)  # and again, while it is so
    file.write_text(text)
    panel.refresh()
    assert said(panel) == ""
    assert len(page(panel).select(".hm-card")) == 7


def test_a_store_of_jobs_that_is_none_is_told_beside_the_cards(tmp_path):
    file = make_case(tmp_path)
    store = load(file).paths.jobs / "jobs.db"
    store.parent.mkdir(parents=True)
    store.write_bytes(b"no database" * 100)
    panel = StatusPanel(Case(file))
    assert "is no store of jobs" in said(panel)
    assert len(page(panel).select(".hm-card")) == 7
    press(panel, "run-all")
    assert said(panel).count("is no store of jobs") == 2
    store.unlink()
    press(panel, "another")  # no such button; but what went wrong is forgotten with the next
    assert said(fresh(panel)) == ""


def test_one_button_queues_all_steps_in_their_order(tmp_path):
    with town_of(tmp_path) as case:
        panel = StatusPanel(Case(case.file))
        press(panel, "run-all")
        assert said(panel) == ""
        jobs = Jobs(case)
        assert [record.name for record in reversed(jobs.recent())] == list(steps.ALL)
        for record in jobs.waiting():
            jobs.get(record.id).cancel()


def test_run_all_without_a_photo_says_why_and_queues_nothing(tmp_path):
    file = make_case(tmp_path)
    (tmp_path / "photo.tif").unlink()
    panel = StatusPanel(Case(file))
    press(panel, "run-all")
    assert "there is no such photo" in said(panel)
    assert Jobs(load(file)).recent() == []


def test_the_browser_is_told_only_what_differs(tmp_path):
    panel = StatusPanel(Case(make_case(tmp_path)))
    changes = []
    panel.observe(changes.append, "html")
    fresh(fresh(panel))
    assert changes == []


def test_a_case_of_broken_settings_cannot_be_opened(tmp_path):
    file = make_case(tmp_path)
    values = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(values | {"colour": "red"}))
    with pytest.raises(Exception, match="colour is not a known key"):
        Case(file)


def test_a_first_look_can_be_taken_by_a_button_as_long_as_there_is_nothing(tmp_path):
    with town_of(tmp_path, idle=60.0) as case:
        held = Jobs(case).submit_command("held", hold(tmp_path / "go"))
        printed(held, "on")
        panel = StatusPanel(Case(case.file))
        press(panel, "first-look")
        assert [(record.name, record.parameters) for record in Jobs(case).waiting()] == [("verify", {"quick": True})]
    take_first_look(case)
    verify(case, quick=True, picture=False)
    assert [words(one) for one in page(fresh(panel)).select("button")] == ["Run all that is due"]
