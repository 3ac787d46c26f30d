"""Who is asked about first: orders are complete, do not repeat, keep their promise, and do not hang on chance."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from historymap_lib.active_learning import ORDERS, SIDE, SIZES, rank, strata
from historymap_lib.errors import AnnotationsError

MAYBE = st.one_of(st.none(), st.floats(0, 1), st.sampled_from([0.25, 0.5, 0.75]))
ROW = st.tuples(MAYBE, MAYBE, st.booleans(), st.floats(0, 1e4), st.floats(0, 1e4), st.floats(1, 1e3))


def town(*rows):
    """Buildings of (probability, overlap, on the photo, x, y, area), in an index that is no count."""
    columns = ["probability", "overlap", "on_photo", "x", "y", "area"]
    frame = pd.DataFrame(rows, columns=columns).astype({"probability": float, "overlap": float})
    frame["verdict"] = np.where(frame["on_photo"].astype(bool), "unsure", "no_coverage")
    frame["building_id"] = [f"way/{number}" for number in range(len(frame))]
    return frame.set_index(pd.Index(range(len(frame), 0, -1)))


def big(count):
    """A town of chance, a tenth of it beyond the photo."""
    rng = np.random.default_rng(1937)
    seen = np.where(rng.random(count) < 0.9, rng.random(count), np.nan)
    places = rng.uniform(0, 1e4, (2, count))
    columns = seen, rng.random(count), np.ones(count), *places, rng.lognormal(4.7, 0.6, count)
    return town(*zip(*columns, strict=True))


def certainty(frame, rows):
    return np.abs(frame["probability"].to_numpy()[rows] - 0.5)


@given(st.lists(ROW), st.sampled_from(sorted(ORDERS)), st.integers(0, 5))
def test_every_order_has_each_building_on_the_photo_once_and_no_other(rows, how, seed):
    frame = town(*rows)
    before = frame.copy()
    shown = [place for place, row in enumerate(rows) if row[0] is not None and row[2]]
    found = rank(how, frame, seed=seed, conflicts={"way/1", "way/absent"})
    assert sorted(found) == shown
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, rank(how, frame, seed=seed, conflicts=["way/absent", "way/1"]))
    pd.testing.assert_frame_equal(frame, before)


@given(st.lists(ROW))
def test_uncertain_is_the_least_certain_first_and_of_equals_the_first(rows):
    frame = town(*rows)
    found = rank("uncertain", frame)
    pairs = list(zip(certainty(frame, found), found, strict=True))
    assert pairs == sorted(pairs)


@given(st.lists(ROW))
def test_spread_takes_turns_until_a_stratum_has_no_more_and_takes_its_least_certain(rows):
    frame = town(*rows)
    found = rank("spread", frame)
    stratum = strata(frame.iloc[found])
    left, picked = Counter(stratum), Counter()
    for place in stratum:
        assert all(picked[place] <= picked[other] for other in left if left[other])
        picked[place] += 1
        left[place] -= 1
    for place in left:
        inside = certainty(frame, found[stratum == place])
        assert (np.diff(inside) >= 0).all()


@given(st.lists(ROW))
def test_spread_has_the_least_certain_building_first(rows):
    frame = town(*rows)
    assert list(rank("spread", frame)[:1]) == list(rank("uncertain", frame)[:1])


def test_strata_are_parts_of_the_area_with_equally_many_buildings_by_class_of_size():
    frame = big(1600)
    found = strata(frame)
    part, size = np.divmod(found, len(SIZES) + 1)
    assert np.bincount(part).tolist() == [100] * SIDE**2
    np.testing.assert_array_equal(size, np.digitize(frame["area"], SIZES))
    west, east = frame["x"][part < SIDE], frame["x"][part >= SIDE]
    assert west.max() <= east.min()
    south, north = (frame["y"][part == number] for number in (0, 1))
    assert south.max() <= north.min()


def test_thirty_spread_clicks_reach_further_than_the_thirty_least_certain():
    # all the doubt is in one street of equal houses; elsewhere there is a little
    street = [(0.5 + step / 1e4, 0.5, True, step, 0.0, 100.0) for step in range(40)]
    others = [(0.8, 0.5, True, 37.0 * step % 1000, 61.0 * step % 1000, 30.0 + step) for step in range(200)]
    frame = town(*street, *others)
    assert (rank("uncertain", frame)[:30] < len(street)).all()
    spread = rank("spread", frame)[:30]
    assert len(set(strata(frame)[spread])) == 30
    assert 0 < (spread < len(street)).sum() < 10


def test_where_people_disagree_comes_first_then_where_network_and_verdict_do():
    frame = town(
        *((0.1, 0.0, True, 0, 0, 9), (0.9, 0.2, True, 0, 0, 9), (0.3, 0.9, True, 0, 0, 9), (0.8, 0.1, True, 0, 0, 9)),
        (None, 0.1, True, 0, 0, 9),
    )
    # by overlap 0, 3, 1, 2: the last three, 0.8 and 0.9 and then 0.3, are not in order, and stand for 0.67
    assert rank("disagreement", frame).tolist() == [2, 1, 3, 0]
    assert rank("disagreement", frame, conflicts={"way/0", "way/4"}).tolist() == [0, 2, 1, 3]


def test_a_timid_network_that_keeps_the_order_disagrees_with_nothing():
    frame = town(*((number / 10, number / 100, True, 0, 0, 9) for number in range(10)))
    assert rank("disagreement", frame).tolist() == list(range(10))


@given(st.lists(ROW), st.integers(0, 5))
def test_random_knows_nothing_of_probability_overlap_place_or_size(rows, seed):
    frame = town(*rows)
    other = town(*((p and 1 - p, o and 1 - o, s, y, x, 2 * a) for p, o, s, x, y, a in rows))
    np.testing.assert_array_equal(rank("random", frame, seed=seed), rank("random", other, seed=seed))


def test_what_leaves_the_photo_leaves_the_random_order_of_the_others_as_it_was():
    frame = big(200)
    whole = rank("random", frame)
    gone = whole[::3]
    frame.iloc[gone, frame.columns.get_loc("verdict")] = "no_coverage"
    assert rank("random", frame).tolist() == [row for row in whole if row not in gone]


def test_a_beginning_of_the_random_order_is_a_fair_sample():
    frame = town(*((0.5, 0.5, True, 0, 0, 9) for _ in range(20)))
    counts = np.bincount(np.concatenate([rank("random", frame, seed=seed)[:5] for seed in range(800)]), minlength=20)
    # each is drawn with chance 1/4: mean 200, standard deviation 12
    assert np.abs(counts - 200).max() < 5 * 12


@pytest.mark.parametrize("how", sorted(ORDERS))
def test_a_city_of_100_000_buildings_is_ranked(how):
    frame = big(100_000)
    found = rank(how, frame, conflicts=["way/7"])
    shown = frame["probability"].notna().to_numpy()
    assert len(found) == shown.sum()
    assert shown[found].all()
    assert len(set(found.tolist())) == len(found)


def test_an_unknown_order_is_one_sentence_with_the_known_ones():
    with pytest.raises(AnnotationsError, match=r"'easy' is no order to ask in; it is one of teaches, spread, .*random"):
        rank("easy", town())
