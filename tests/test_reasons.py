"""Reasons: what the numbers show is said, what they do not is not, and nothing that is missing breaks a sentence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from historymap_lib import reasons
from historymap_lib.reasons import RULES, explain, explain_all

EXISTED = {"verdict": "existed", "probability": 0.97, "coverage": 1.0}
GONE = {"verdict": "not_existed", "probability": 0.02, "coverage": 1.0}
OPEN = {"verdict": "unsure", "coverage": 1.0}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (EXISTED, "the photo shows a building (probability 0.97)"),
        (EXISTED | {"fit": 0.99}, "the outline fits a building (probability 0.97)"),
        (
            {"verdict": "existed", "fit": 0.99, "shadow": 1.4, "contrast": 0.9, "shift": 2.12},
            "the outline fits a building, it stands out from the ground, and a shadow falls beside it, moved by 2.1 m",
        ),
        (EXISTED | {"fit": 0.5, "probability_under": 0.8}, "a building shows under the outline (probability 0.97)"),
        (EXISTED | {"shift": 2.12}, "the photo shows a building, moved by 2.1 m (probability 0.97)"),
        (EXISTED | {"shift": 0.4}, "the photo shows a building (probability 0.97)"),
        (GONE, "the photo shows none (probability 0.02)"),
        (
            GONE | {"fit": 0.01, "probability_under": 0.05, "contrast": -1.0, "shadow": -1.0},
            "no building fits the outline, nothing stands out from the ground, and it has no shadow (probability 0.02)",
        ),
        (GONE | {"shift": 3.0}, "the photo shows none (probability 0.02)"),  # nothing was found there
        (OPEN, "the photo leaves it open"),
        (OPEN | {"darkness": 30.0}, "the photo leaves it open: the photo is too dark here"),
        (OPEN | {"shift": 1.5}, "the photo leaves it open, moved by 1.5 m"),
        ({"verdict": "no_coverage", "coverage": 0.12}, "only 12% of the footprint is on the photo"),
        ({"verdict": "no_coverage"}, "too little of the footprint is on the photo"),
        ({"verdict": "existed", "probability": float("nan")}, "the photo shows a building"),
    ],
)  # fmt: skip
def test_a_sentence_says_what_the_numbers_show(row, said):
    assert explain(row) == said


NUMBER = st.one_of(st.none(), st.floats(-3, 300), st.just(np.nan))
ROWS = st.fixed_dictionaries(
    {"verdict": st.sampled_from(["existed", "not_existed", "unsure", "no_coverage"])},
    optional=dict.fromkeys((*reasons.NUMBERS, "probability", "coverage"), NUMBER),
)


@given(st.lists(ROWS, min_size=1, max_size=6))
def test_whatever_is_known_of_the_others_each_gets_its_own_sentence(rows):
    said = explain_all(pd.DataFrame(rows))
    assert said == [explain(row) for row in rows]
    for sentence in said:
        assert sentence
        assert "nan" not in sentence
        assert "None" not in sentence
        assert "{" not in sentence


@given(ROWS)
def test_no_topic_is_spoken_of_twice_and_none_that_belongs_to_another_verdict(row):
    said = explain(row)
    foreign = [rule.text for rule in RULES if row["verdict"] not in rule.verdicts]
    assert not [text for text in foreign if "{" not in text and text in said]
    for topic in {rule.topic for rule in RULES}:
        texts = {rule.text for rule in RULES if rule.topic == topic and "{" not in rule.text}
        assert sum(text in said for text in texts) <= 1


def test_every_rule_is_said_of_some_building():
    for rule in RULES:
        inside = {name: float(np.clip(100.0, *bounds)) for name, bounds in rule.bounds.items()}
        for verdict in rule.verdicts:
            begin = rule.text.split("{", maxsplit=1)[0]
            assert begin in explain({"verdict": verdict} | inside)


def test_an_empty_table_has_no_sentences():
    assert explain_all(pd.DataFrame({"verdict": []})) == []
