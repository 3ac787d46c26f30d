"""Verdicts are read a part at a time: where, which, how many, and from where on."""

from __future__ import annotations

import json
import os
import sqlite3
from itertools import islice

import numpy as np
import pytest
from case_fixtures import lattice, make_case, seen, write_probability
from hypothesis import given
from hypothesis import strategies as st
from shapely import box, from_geojson

from historymap_lib import verdicts
from historymap_lib.errors import VerificationError
from historymap_lib.project import load
from historymap_lib.verdicts import VerdictsChangedError
from historymap_lib.verification import verify


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    case = load(make_case(tmp_path_factory.mktemp("town")))
    write_probability(case, seen(lattice()))
    verify(case, picture=False)
    return case


@pytest.fixture(scope="module")
def written(case):
    """What the GeoJSON of `verify` holds, which knows no pages."""
    return json.loads(case.paths.verified.read_text(encoding="utf-8"))["features"]


@pytest.fixture(scope="module")
def table(case):
    return verdicts.table(case)


@pytest.fixture(scope="module")
def whole(table):
    """All of them as they are read, with their numbers."""
    return list(verdicts.features(table))


def read(table, **wanted):
    return [feature for _, feature in verdicts.features(table, **wanted)]


def ids(features):
    return [feature["properties"]["building_id"] for feature in features]


def properties(feature):
    return {key: pytest.approx(value) if isinstance(value, float) else value
            for key, value in feature["properties"].items()}  # fmt: skip


def test_all_of_them_are_what_verify_wrote(table, written, monkeypatch):
    monkeypatch.setattr(verdicts, "PIECE", 7)
    found = read(table)
    assert ids(found) == ids(written)
    assert len(found) > 7
    for one, other in zip(found, written, strict=True):
        assert one["properties"] == properties(other)
        assert {type(value) for value in one["properties"].values()} <= {str, int, float, bool, type(None)}
        assert from_geojson(json.dumps(one["geometry"])).equals_exact(
            from_geojson(json.dumps(other["geometry"])), 1e-9, normalize=True
        )


@pytest.mark.parametrize("verdict", ["existed", "not_existed", "unsure", "no_coverage"])
def test_those_of_a_verdict(table, written, verdict):
    expected = ids(feature for feature in written if feature["properties"]["verdict"] == verdict)
    assert ids(read(table, verdict=verdict)) == expected


def test_a_text_that_is_no_verdict_is_only_a_text(table):
    assert list(verdicts.features(table, verdict="existed' OR '1' = '1")) == []


@given(st.integers(0, 200), st.sampled_from([None, "existed"]))
def test_after_any_of_them_come_all_that_follow(table, whole, after, verdict):
    following = [(number, one) for number, one in whole
                 if number > after and verdict in {None, one["properties"]["verdict"]}]  # fmt: skip
    assert list(verdicts.features(table, verdict=verdict, after=after)) == following


@given(st.lists(st.floats(-0.2, 1.2), min_size=4, max_size=4), st.integers(0, 20), st.sampled_from([3, 1000]))
def test_those_in_a_box_and_from_where_on(table, whole, parts, after, piece):
    numbers, found = zip(*whole, strict=True)
    shapes = [from_geojson(json.dumps(feature["geometry"])) for feature in found]
    west, south, east, north = np.array([shape.bounds for shape in shapes]).T
    (left, right), (low, high) = sorted(parts[:2]), sorted(parts[2:])
    width, height = east.max() - west.min(), north.max() - south.min()
    area = (west.min() + left * width, south.min() + low * height, west.min() + right * width,
            south.min() + high * height)  # fmt: skip
    all_of_them = zip(numbers, ids(found), shapes, strict=True)
    expected = [name for number, name, shape in all_of_them if number > after and shape.intersects(box(*area))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdicts, "PIECE", piece)
        assert ids(read(table, bbox=area, after=after)) == expected


def test_the_whole_world_holds_all_and_the_south_sea_none(table, written):
    assert ids(read(table, bbox=(-180, -90, 180, 90))) == ids(written)
    assert list(verdicts.features(table, bbox=(-150, -20, -140, -10))) == []


def test_the_ids_of_all(case, written):
    assert verdicts.building_ids(case) == set(ids(written))


# ------------------------------------------------------------------------------------------------------ unhappy paths


@pytest.fixture
def broken(tmp_path):
    """A case with verdicts that a test may damage."""
    case = load(make_case(tmp_path))
    write_probability(case, seen(lattice()))
    verify(case, picture=False)
    return case


def test_without_verdicts_it_is_told_what_makes_them(tmp_path):
    case = load(make_case(tmp_path))
    assert not verdicts.has_any(case)
    with pytest.raises(VerificationError, match=r"there are no verdicts yet; run verify first"):
        verdicts.table(case)


def test_a_file_that_is_cut_off_is_refused_and_not_read_to_where_it_breaks(broken):
    path = verdicts.table(broken)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VerificationError, match=r"is damaged .*; run verify again"):
        verdicts.table(broken)


def test_a_file_of_something_else_is_refused(broken):
    path = verdicts.table(broken)
    path.write_text("hello", encoding="utf-8")
    with pytest.raises(VerificationError, match=r"is damaged .*; run verify again"):
        verdicts.building_ids(broken)


def test_another_table_is_refused(broken):
    path = verdicts.table(broken)
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE stars (name TEXT)")
    db.close()
    os.utime(path)
    with pytest.raises(VerificationError, match=r"is damaged \(no such table: buildings\)"):
        verdicts.table(broken)


def test_verdicts_that_are_made_anew_are_read_anew(broken):
    before = read(verdicts.table(broken), verdict="existed")
    write_probability(broken, np.zeros_like(seen(lattice())))
    verify(broken, picture=False)
    after = read(verdicts.table(broken), verdict="existed")
    assert before
    assert ids(after) != ids(before)


def test_of_a_file_that_is_made_anew_on_the_way_no_half_is_told(broken, monkeypatch):
    monkeypatch.setattr(verdicts, "PIECE", 3)
    found = verdicts.features(verdicts.table(broken))
    assert [number for number, _ in islice(found, 3)] == [1, 2, 3]
    write_probability(broken, np.zeros_like(seen(lattice())))
    verify(broken, picture=False)
    with pytest.raises(VerdictsChangedError, match="was made anew while it was read; ask again"):
        next(found)
