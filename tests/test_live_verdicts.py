"""What people say is learned at once, and is what `verify` finds when it is applied."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
from case_fixtures import lattice, make_case, seen, write_probability
from hypothesis import given
from hypothesis import strategies as st
from look_fixtures import ALIKE, SPACING, look_at_outlines

from historymap_lib import artifacts
from historymap_lib.annotation_store import AnnotationStore, Judgement
from historymap_lib.annotations import REPLACED
from historymap_lib.live_verdicts import CaseLayer, LiveVerdicts, layer_file
from historymap_lib.project import load
from historymap_lib.verification import verify

FIRST, *OTHERS = [f"way/{number}" for number in ALIKE]


def make(folder, *, quick=False, **verification):
    """Return a case that was verified by what a footprint network has seen."""
    case = load(make_case(folder, lattice(SPACING), verification={"max_offset": 0, **verification}))
    look_at_outlines(case, quick=quick)
    verify(case, quick=quick, picture=False)
    return case


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A case that no test changes."""
    return make(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def layer(case):
    """Its last layer."""
    return CaseLayer.read(layer_file(case), case.paths.verified)


def rows_of(live, names):
    return np.flatnonzero(np.isin(live.building_id, list(names)))


def in_file(case):
    return gpd.read_file(case.paths.verified).set_index("building_id")


@pytest.mark.parametrize("quick", [False, True], ids=["trained", "first look"])
def test_applied_judgements_give_the_probabilities_that_were_shown_before(tmp_path, quick):
    case = make(tmp_path, quick=quick)
    live = LiveVerdicts.of(case)
    before = in_file(case)
    assert live.after({})["probability"].tolist() == before.loc[live.building_id, "probability"].tolist()
    said = {FIRST: True, OTHERS[0]: False, OTHERS[1]: False, "way/1": True, "way/2": False}
    shown = live.after(said)
    judgements = [Judgement(name, "existed" if one else "not_existed", "ann") for name, one in said.items()]
    judgements[2] = Judgement(OTHERS[1], "not_existed", "ann", reason=REPLACED)
    AnnotationStore.of(case).save(*judgements, Judgement("way/3", "unsure", "ann"))
    verify(case, quick=quick, picture=False)
    after = in_file(case).loc[live.building_id]
    assert after["probability"].to_numpy() == pytest.approx(shown["probability"].to_numpy(), abs=1e-6)
    same = after.index != "way/3"  # people are unsure of it, whatever was learned
    assert after["verdict"].to_numpy()[same].tolist() == shown["verdict"].to_numpy()[same].tolist()
    assert (after["probability"] != before.loc[live.building_id, "probability"]).sum() > len(said)
    again = LiveVerdicts.of(case)
    assert again.new_in(said) == 0
    assert not again.after(said)["changed"].any()


def test_what_was_judged_keeps_the_word_of_the_person_and_its_likes_follow(case):
    live = LiveVerdicts.of(case)
    before = live.after({})["probability"]
    table = live.after({FIRST: False})
    (first,), alike = rows_of(live, [FIRST]), rows_of(live, OTHERS)
    others = np.setdiff1d(np.arange(len(before)), [first, *alike])
    assert table["verdict"][first] == "not_existed"
    assert table["probability"][first] < 0.01
    fall = before - table["probability"]
    assert fall[alike].mean() > max(0.001, fall[others].mean())
    assert live.new_in({FIRST: False}) == 1
    assert live.new_in({}) == 0


def test_what_is_said_of_a_building_holds_whatever_the_thresholds(case, layer):
    live = LiveVerdicts(layer, 0.0, 1.0)
    (first,), (other,) = rows_of(live, [FIRST]), rows_of(live, OTHERS[:1])
    table = live.after({FIRST: False, OTHERS[0]: True})
    assert (table["verdict"][first], table["verdict"][other]) == ("not_existed", "existed")
    assert set(table["verdict"]) == {"not_existed", "existed", "unsure"}
    assert (table["verdict"] != "unsure").sum() == 2


def test_only_what_differs_from_the_last_time_has_changed(case):
    live = LiveVerdicts.of(case)
    assert not live.after({})["changed"].any()
    before = live.after({})["probability"]
    table = live.after({FIRST: True})
    differs = table["probability"] != before
    assert set(np.flatnonzero(table["changed"])) == {*np.flatnonzero(differs), *rows_of(live, [FIRST])}
    assert not live.after({FIRST: True})["changed"].any()
    back = live.after({})
    assert back["probability"].tolist() == before.tolist()
    assert back["changed"].tolist() == table["changed"].tolist()


SAID = st.dictionaries(st.sampled_from([FIRST, *OTHERS, "way/1", "way/2", "way/999"]), st.booleans(), max_size=8)


@given(st.lists(SAID, min_size=1, max_size=3))
def test_what_is_found_depends_only_on_what_people_say_now(layer, history):
    live = LiveVerdicts(layer, 0.1, 0.9)
    for said in history:
        found = live.after(said)
    fresh = LiveVerdicts(layer, 0.1, 0.9).after(history[-1])
    assert found["probability"].tolist() == fresh["probability"].tolist()
    assert found["verdict"].tolist() == fresh["verdict"].tolist()


def test_those_that_teach_most_are_not_judged_yet(case):
    live = LiveVerdicts.of(case)
    live.after({FIRST: True, OTHERS[0]: False})
    order = live.teaching_order(10)
    assert len(set(order.tolist())) == 10
    assert not set(live.building_id[order]) & {FIRST, OTHERS[0]}


def test_a_layer_of_other_verdicts_is_never_used(tmp_path):
    case = make(tmp_path)
    verified, kept = case.paths.verified, layer_file(case)
    content = verified.read_text(encoding="utf-8")
    verified.write_text(content.replace("existed", "exists"), encoding="utf-8")
    assert LiveVerdicts.of(case) is None
    verified.write_text(content, encoding="utf-8")
    assert LiveVerdicts.of(case) is not None
    whole = kept.read_bytes()
    for part in (b"", whole[:100], whole[: len(whole) // 2], whole[:-30]):
        kept.write_bytes(part)
        assert LiveVerdicts.of(case) is None
    kept.unlink()
    assert LiveVerdicts.of(case) is None


def test_verdicts_without_a_layer_leave_none_behind(tmp_path):
    case = make(tmp_path)
    (case.paths.predictions / "outlines.npz").unlink()
    write_probability(case, seen(lattice(SPACING)))
    verify(case, picture=False)
    assert not layer_file(case).exists()
    assert LiveVerdicts.of(case) is None


def test_when_the_verdicts_cannot_be_written_those_before_have_no_layer_of_others(tmp_path, monkeypatch):
    case = make(tmp_path)
    before = in_file(case)
    AnnotationStore.of(case).save(Judgement(FIRST, "existed", "ann"))
    write = CaseLayer.write

    def write_and_fail(self, path, verdicts):
        write(self, path, verdicts)
        raise OSError("the disk is full")

    monkeypatch.setattr(CaseLayer, "write", write_and_fail)
    with pytest.raises(OSError, match="full"):
        verify(case, picture=False)
    assert in_file(case)["probability"].equals(before["probability"])
    assert LiveVerdicts.of(case) is None
    assert [path for path in case.paths.predictions.iterdir() if path.name.startswith(artifacts.PARTIAL)] == []


def test_among_many_buildings_those_that_teach_are_looked_for_in_a_sample(case, monkeypatch):
    monkeypatch.setattr("historymap_lib.live_verdicts.ASKED", 20)
    live = LiveVerdicts.of(case)
    live.after({FIRST: True})
    order = live.teaching_order(50)
    assert len(set(order.tolist())) == 20
    assert FIRST not in set(live.building_id[order])
