"""How well people agree: against published examples, and where it says nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from historymap_lib import agreement
from historymap_lib.annotation_store import VERDICTS, Event


def said(**people):
    """What each person says of way/1, way/2, ...: E, N, U, or - for nothing."""
    words = {"E": "existed", "N": "not_existed", "U": "unsure"}
    return [
        Event(f"way/{number}", words[letter], name)
        for name, letters in people.items()
        for number, letter in enumerate(letters, 1)
        if letter != "-"
    ]


def test_two_people_are_compared_on_what_both_have_judged():
    (pair,) = agreement.pairs(said(ann="EENNU-", bob="EENEUE"))
    assert (pair.one, pair.other, pair.buildings, pair.alike) == ("ann", "bob", 5, 4)
    # observed 0.8; by chance 2/5 * 3/5 + 2/5 * 1/5 + 1/5 * 1/5 = 0.36
    assert pair.kappa == pytest.approx((0.8 - 0.36) / (1 - 0.36))


def test_where_both_always_say_the_same_kappa_says_nothing():
    (pair,) = agreement.pairs(said(ann="EEE", bob="EEE"))
    assert pair.alike == 3
    assert pair.kappa is None
    assert agreement.fleiss(said(ann="EEE", bob="EEE")) is None


def test_people_without_a_building_in_common_are_not_compared():
    assert agreement.pairs(said(ann="E-", bob="-E")) == []
    assert agreement.fleiss(said(ann="E-", bob="-E")) is None
    assert agreement.fleiss([]) is None


def test_fleiss_kappa_of_a_table_worked_out_by_hand():
    # three people, two buildings: EEE and EEN; pairs alike 1 and 1/3, shares 5/6 and 1/6
    observed, expected = (1 + 1 / 3) / 2, (5 / 6) ** 2 + (1 / 6) ** 2
    found = agreement.fleiss(said(ann="EE", bob="EE", cat="EN"))
    assert found == pytest.approx((observed - expected) / (1 - expected))


def test_who_disagrees_is_listed():
    found = agreement.conflicts(said(ann="EN", bob="EE", cat="-U"))
    assert list(found) == ["way/2"]
    assert [(event.annotator, event.verdict) for event in found["way/2"]] == [
        ("ann", "not_existed"), ("bob", "existed"), ("cat", "unsure"),
    ]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from("ENU"), st.sampled_from("ENU")), min_size=2))
def test_kappa_is_at_most_one_whoever_comes_first(letters):
    first, second = ("".join(column) for column in zip(*letters, strict=True))
    (one,) = agreement.pairs(said(ann=first, bob=second))
    (other,) = agreement.pairs(said(ann=second, bob=first))
    assert one.kappa == pytest.approx(other.kappa) if one.kappa is not None else other.kappa is None
    together = agreement.fleiss(said(ann=first, bob=second))
    for value in (one.kappa, together):
        assert value is None or value <= 1 + 1e-9
    assert len(agreement.conflicts(said(ann=first, bob=second))) == sum(a != b for a, b in letters)
    assert set(VERDICTS) == {"existed", "not_existed", "unsure"}
