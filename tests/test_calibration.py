"""From scores to probabilities without a true label."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import beta

from historymap_lib.calibration import TwoGroups, corrected

STOOD, LATER = beta(6, 2), beta(2, 6)
"""How the two groups of a usable model score."""


def draw(share: float, count: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores of footprints, whether each stood, and scores of phantoms."""
    rng = np.random.default_rng(seed)
    stood = rng.random(count) < share
    scores = np.where(stood, STOOD.rvs(count, random_state=rng), LATER.rvs(count, random_state=rng))
    return scores, stood, LATER.rvs(count, random_state=rng)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_share_that_did_not_stand_is_found(share):
    found = [
        TwoGroups.fit(scores, phantoms).null_share for scores, _, phantoms in (draw(share, seed=s) for s in (1, 2))
    ]
    assert found == pytest.approx([1 - share] * 2, abs=0.08)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_probabilities_are_near_those_of_the_densities(share):
    scores, _, phantoms = draw(share)
    found = TwoGroups.fit(scores, phantoms)(scores)
    stood, later = share * STOOD.pdf(scores), (1 - share) * LATER.pdf(scores)
    assert np.abs(found - stood / (stood + later)).mean() < 0.05


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_as_many_stood_as_the_probabilities_say(share):
    scores, stood, phantoms = draw(share, seed=3)
    found = TwoGroups.fit(scores, phantoms)(scores)
    for low, high in ((0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 1)):
        those = (found >= low) & (found < high)
        assert stood[those].mean() == pytest.approx(found[those].mean(), abs=0.12)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(30, 300),
    st.integers(30, 300),
    st.floats(0, 1),
    st.sampled_from([1, 2, 50, 10**6]),
)
def test_probabilities_rise_with_the_score_and_are_never_certain(seed, count, others, share, steps):
    rng = np.random.default_rng(seed)
    scores = np.where(rng.random(count) < share, rng.beta(6, 2, count), rng.beta(2, 6, count))
    scores, phantoms = np.round(scores * steps) / steps, np.round(rng.beta(2, 6, others) * steps) / steps
    found = TwoGroups.fit(scores, phantoms)
    values = found(np.linspace(-0.5, 1.5, 201))
    assert (np.diff(values) >= 0).all()
    assert ((values > 0) & (values < 1)).all()
    assert 0 < found.null_share < 1


def test_where_all_is_open_ground_nothing_is_said_to_stand():
    scores, _, phantoms = draw(0)
    assert TwoGroups.fit(scores, phantoms)(scores).mean() < 0.1


def test_where_all_stood_nothing_is_denied():
    scores, _, phantoms = draw(1)
    assert TwoGroups.fit(scores, phantoms)(scores).mean() > 0.9


def test_a_phantom_that_weighs_twice_is_as_good_as_two():
    scores, _, phantoms = draw(0.5, seed=4)
    weights = np.random.default_rng(0).integers(1, 4, len(phantoms))
    weighted, repeated = TwoGroups.fit(scores, phantoms, weights), TwoGroups.fit(scores, np.repeat(phantoms, weights))
    assert weighted.null_share == pytest.approx(repeated.null_share, abs=0.02)
    assert weighted(scores) == pytest.approx(repeated(scores), abs=0.1)


@given(
    probabilities=arrays(float, st.integers(2, 40), elements=st.floats(0.002, 0.998)),
    answers=st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=40, max_size=40),
)
def test_what_people_say_moves_probabilities_and_keeps_their_order(probabilities, answers):
    said = np.array(answers[: len(probabilities)])
    moved = corrected(probabilities, said)
    order = np.argsort(probabilities, kind="stable")
    assert np.all(np.diff(moved[order]) >= -1e-9)
    assert np.all((moved >= 0) & (moved <= 1))
    if np.isnan(said).all():
        assert np.array_equal(moved, probabilities)


@pytest.mark.parametrize(("truth", "rises"), [(1.0, True), (0.0, False)])
def test_the_more_people_contradict_the_more_it_moves(truth, rises):
    probabilities = np.full(100, 0.4)
    moved = []
    for count in (0, 1, 10, 100):
        said = np.full(100, np.nan)
        said[:count] = truth
        moved.append(corrected(probabilities, said)[-1])
    assert (np.diff(moved) > 0).all() == rises
    assert abs(moved[1] - moved[0]) < 0.1  # one click moves little


def test_clicks_chosen_by_their_probability_mislead_nobody():
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(0.02, 0.98, 20_000)
    truth = rng.random(20_000) < probabilities
    asked = np.abs(probabilities - 0.7) < 0.1  # seven in ten of these stood
    moved = corrected(probabilities, np.where(asked, truth, np.nan))
    assert moved[asked] == pytest.approx(probabilities[asked], abs=0.02)
    assert moved == pytest.approx(probabilities, abs=0.1)
