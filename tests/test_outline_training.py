"""Fine-tuning on a case: no member learns from its own fold, and what people say is the label."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from outline_fixtures import write_town

from historymap_lib import annotations
from historymap_lib.annotation_store import settled
from historymap_lib.annotations import Annotation, answers_on
from historymap_lib.calibration import FEW
from historymap_lib.errors import ModelError
from historymap_lib.imagery import open_photo
from historymap_lib.project import load
from historymap_lib.tiles import Folds
from ml import looks, outline_training, runtime
from ml.checkpoint import footprint_network
from ml.footprint_network import FootprintNetwork
from ml.footprint_training import FOOTPRINT, MISFIT, PHANTOM, Plan, fit
from ml.looks import Case, fold_of
from ml.outline_training import CERTAIN, _Lesson, fine_tune

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def few_outlines():
    """Let a case have few phantoms and misfits, as tests that look at them need no more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "MOST_PHANTOMS", 150)
        patch.setattr(looks, "MOST_MISFITS", 150)
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory, few_outlines):
    project = load(write_town(tmp_path_factory.mktemp("town")))
    judged = [
        Annotation(osm_id=1, existed=False),
        Annotation(osm_id=2, existed=True),
        Annotation(osm_id=3, existed=None),
    ]
    annotations.save(project.paths.annotations, judged)
    return project


@pytest.fixture(scope="module")
def case(project):
    with open_photo(project) as photo:
        yield Case.of(project, photo, footprint_network())


@pytest.fixture(scope="module")
def folds(case):
    return Folds(2, 80.0, case.photo.grid.west, case.photo.grid.north)


@pytest.fixture(scope="module")
def lesson(project, case, folds):
    return _Lesson(case, folds, answers_on(case.building_id, settled(project)), seed=1)


def frames(chips):
    return {tuple(row) for row in chips.frames.round(6).tolist()}


def test_no_member_learns_from_its_own_fold_nor_from_what_was_made_of_it(lesson, case, folds):
    stood = np.linspace(0, 1, len(case.footprints))
    for fold in range(folds.count):
        examples = lesson.examples(fold, stood)
        groups = (case.footprints, np.arange(len(case.footprints))), case.phantoms, case.misfits
        for kind, (shapes, host) in zip((FOOTPRINT, PHANTOM, MISFIT), groups, strict=True):
            own = fold_of(case, host, folds) == fold
            learned = frames(examples.chips.take(examples.kind == kind))
            assert learned == frames(case.chips(shapes[~own]))
            assert not learned & frames(case.chips(shapes[own]))
        assert not examples.placed.any()


def test_a_footprint_counts_as_what_it_probably_is_and_the_outlines_over_it_are_drawn_as_often(lesson, case, folds):
    stood = np.linspace(0, 1, len(case.footprints))
    examples = lesson.examples(0, stood)
    others = fold_of(case, np.arange(len(case.footprints)), folds) != 0
    assert examples.label[examples.kind == FOOTPRINT] == pytest.approx(stood[others])
    assert not examples.label[examples.kind != FOOTPRINT].any()
    host = case.misfits[1][fold_of(case, case.misfits[1], folds) != 0]
    weight = examples.weight[examples.kind == MISFIT]
    assert weight - weight.min() == pytest.approx(stood[host] - stood[host].min())


def test_what_a_person_says_is_the_label_and_counts_for_more(lesson, case):
    network = footprint_network()
    stood = lesson.guess([network, network])
    rows = [case.building_id.tolist().index(f"way/{number}") for number in (1, 2, 3)]
    assert stood[rows[:2]].tolist() == [0, 1]
    assert ((stood >= 0) & (stood <= 1)).all()
    assert len(np.unique(stood)) > 20
    examples = [lesson.examples(fold, stood) for fold in (0, 1)]
    heavy = [(part.weight[part.kind == FOOTPRINT] == CERTAIN).sum() for part in examples]
    assert sum(heavy) == 2  # each in the one fold that may learn from it; an unsure person is none


def test_members_are_asked_about_their_own_fold_alone(lesson, monkeypatch):
    asked = []

    def ask(network, chips, **_):
        asked.append((network, frames(chips)))
        return np.full(len(chips), 1.0 + network), None, None

    monkeypatch.setattr(outline_training, "ask", ask)
    answers = lesson._ask([0, 1], FOOTPRINT)
    assert (answers == 1 + lesson.fold[FOOTPRINT]).all()
    assert not asked[0][1] & asked[1][1]


def test_of_very_many_some_are_drawn_and_all_that_people_have_judged(case, folds, monkeypatch):
    monkeypatch.setattr(outline_training, "MOST", 40)
    said = np.full(len(case.footprints), np.nan)
    said[[3, 5, 7]] = 1.0, 0.0, 1.0
    lesson = _Lesson(case, folds, said, seed=1)
    assert 40 <= len(lesson.chips[FOOTPRINT]) <= 43
    assert (~np.isnan(lesson.said)).sum() == 3
    for kind in (PHANTOM, MISFIT):
        assert len(lesson.chips[kind]) == len(lesson.host[kind]) == len(lesson.fold[kind])
        assert lesson.host[kind].max() < len(lesson.chips[FOOTPRINT])
        assert (lesson.fold[FOOTPRINT][lesson.host[kind]] == lesson.fold[kind]).all()


def test_a_member_for_each_fold_that_has_learned_and_the_same_every_time(project, folds):
    members, again = fine_tune(project, folds, CPU), fine_tune(project, folds, CPU)
    assert len(members) == folds.count
    shipped = footprint_network().state_dict()
    for state, other in zip(members, again, strict=True):
        FootprintNetwork().load_state_dict(state)
        assert all(torch.equal(value, other[name]) for name, value in state.items())
        assert not torch.equal(state["fits.weight"], shipped["fits.weight"])
    assert not torch.equal(members[0]["fits.weight"], members[1]["fits.weight"])


def test_in_a_second_round_footprints_count_as_what_the_members_say(project, folds, monkeypatch):
    asked = []
    guess = _Lesson.guess

    def noted(self, members):
        asked.append(members)
        return guess(self, members)

    monkeypatch.setattr(_Lesson, "guess", noted)
    file = project.file.with_name("rounds.yaml")
    file.write_text(project.file.read_text(encoding="utf-8").replace("outline_rounds: 1", "outline_rounds: 2"))
    fine_tune(load(file), folds, CPU)
    assert len(asked) == 2
    assert asked[0][0] is asked[0][1]  # as it comes with the package
    assert asked[1][0] is not asked[1][1]


def test_nothing_is_learned_where_there_is_too_little_or_nobody_wants_it(tmp_path, few_outlines, folds):
    project = load(write_town(tmp_path, count=FEW + 5))
    assert fine_tune(project, folds, CPU) == []  # not thirty in each fold
    unwanted = load(write_town(tmp_path, training={"outline_steps": 0}))
    assert fine_tune(unwanted, SimpleNamespace(count=2), CPU) == []


def test_members_learn_side_by_side_as_they_would_alone(lesson, folds, monkeypatch):
    def learnt():
        def work(fold, go_on):
            plan = Plan(3, batch_size=8, seed=fold)
            examples = lesson.examples(fold, np.full(len(lesson.said), 0.5))
            return fit(footprint_network(), examples, plan, lambda _: go_on()).state_dict()

        return runtime.side_by_side(work, folds.count, CPU)

    cores = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = learnt()
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        alone = learnt()
    finally:
        torch.set_num_threads(cores)
    for one, other in zip(together, alone, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(together[0]["fits.weight"], together[1]["fits.weight"])


def test_when_one_member_fails_the_other_ends_too():
    begun, ended = threading.Event(), []

    def work(number, go_on):
        if number == 0:
            begun.wait()
            raise ModelError("the footprint network has run away")
        begun.set()
        try:
            while True:
                time.sleep(0.01)
                go_on()
        finally:
            ended.append(number)

    cores = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(ModelError, match="run away"):
            runtime.side_by_side(work, 2, CPU)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(cores)
    assert ended == [1]
