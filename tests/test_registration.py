"""Registration: neighbours agree where the photo shows their buildings, though many of them came later."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.registration import register

WEST, NORTH = 569_000.0, 7_034_000.0
BLUR = 1.0
"""Metres within which a building seems to fit."""


def town(seed=0, count=120, side=200.0, at=(0.0, 0.0)):
    """Return places within a square around `at`."""
    middle = np.array([WEST, NORTH]) + np.array(at)
    return middle + np.random.default_rng(seed).uniform(-side / 2, side / 2, (count, 2))


def network(truth, stood, seed=0):
    """Return what sees buildings at their true shifts, and anything anywhere where there is none."""

    def see(shift):
        rng = np.random.default_rng(seed)
        away = truth - shift
        logit = np.where(stood, 3 - 0.5 * (away**2).sum(axis=1) / BLUR**2, -2) + rng.normal(0, 0.5, len(truth))
        guess = np.where(stood[:, None], away, rng.normal(0, 2, truth.shape)) + rng.normal(0, 0.3, truth.shape)
        spread = np.where(stood & (np.hypot(*away.T) < 2 * BLUR), 0.5, 3.0)
        return np.asarray(logit, np.float32), np.column_stack([guess, spread]).astype(np.float32)

    return see


def found_at(places, see):
    return register(places, see).at(*places.T)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (1.5, -0.5), (-3.4, 2.6)])
def test_a_town_that_lies_off_is_found_though_half_of_it_came_later(shift):
    places = town()
    truth, stood = np.tile(shift, (len(places), 1)), np.arange(len(places)) % 2 == 0
    away = found_at(places, network(truth, stood)) - shift
    assert np.hypot(*away.T).max() < 0.5


def test_two_quarters_are_found_each_as_it_lies():
    here, there = town(1), town(2, at=(500.0, -300.0))
    places = np.concatenate([here, there])
    truth = np.repeat([(1.5, 0.0), (-1.5, 1.0)], len(here), axis=0)
    away = found_at(places, network(truth, np.ones(len(places), bool))) - truth
    assert np.quantile(np.hypot(*away.T), 0.9) < 0.5


def test_one_that_disagrees_with_all_around_is_moved_as_they_are():
    places = town()
    truth = np.tile((1.5, -0.5), (len(places), 1))
    middle = np.hypot(*(places - (WEST, NORTH)).T).argmin()
    truth[middle] = -3.0, 2.0
    away = found_at(places, network(truth, np.ones(len(places), bool)))[middle] - (1.5, -0.5)
    assert np.hypot(*away) < 0.5


def test_an_estate_that_came_later_follows_the_town_around_it():
    places = town(count=200)
    estate = np.hypot(*(places - (WEST, NORTH)).T) < 40
    truth = np.tile((2.0, 1.0), (len(places), 1))
    away = found_at(places, network(truth, ~estate))[estate] - (2.0, 1.0)
    assert estate.sum() > 10
    assert np.hypot(*away.T).max() < 0.8


def test_where_the_network_sees_nothing_next_to_nothing_is_moved():
    places = town()

    def see(shift):
        return np.full(len(shift), -3.0, np.float32), np.tile(np.float32([0, 0, 50]), (len(shift), 1))

    assert np.abs(found_at(places, see)).max() < 0.3


def test_one_building_alone_is_looked_for_too():
    place = town(count=1)
    found = found_at(place, network(np.array([[1.0, -1.0]]), np.ones(1, bool)))
    assert found[0] == pytest.approx([1.0, -1.0], abs=0.5)


@settings(max_examples=10)
@given(seed=st.integers(0, 99), count=st.integers(1, 40))
def test_the_order_of_the_buildings_makes_no_difference(seed, count):
    rng = np.random.default_rng(seed)
    places, truth = town(seed, count), rng.normal(0, 1, (count, 2))
    order = rng.permutation(count)
    stood = np.ones(count, bool)

    def seen_by(which):
        away = truth[which]

        def see(shift):
            logit = 3 - ((away - shift) ** 2).sum(axis=1)
            return logit.astype(np.float32), np.column_stack([away - shift, stood[which] * 0.5]).astype(np.float32)

        return see

    found = found_at(places, seen_by(np.arange(count)))
    assert found_at(places[order], seen_by(order)) == pytest.approx(found[order], abs=1e-3)
