from __future__ import annotations

import json
import math
import sqlite3
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from shapely.geometry import Point, Polygon, box
from sklearn.metrics import roc_auc_score

from historymap_lib.errors import EvaluationError
from historymap_lib.evaluation import TARGETS, auc_interval, calibration, decidable, evaluate, write

# number, verdict, probability, annotated, truth. By hand: 7 covered (4 existed), 2 annotated, 1 without coverage.
TOWN = [
    (1, "existed", 0.95, False, True),
    (2, "existed", 0.90, False, True),
    (3, "existed", 0.85, False, False),
    (4, "unsure", 0.60, False, True),
    (5, "unsure", 0.40, False, False),
    (6, "not_existed", 0.10, False, True),
    (7, "not_existed", 0.05, False, False),
    (8, "existed", 0.20, True, True),
    (9, "not_existed", 0.90, True, True),
    (10, "no_coverage", None, False, True),
]


def square(number, side=10.0):
    """Return a square footprint in Trondheim, in EPSG:25832, of its own for each number."""
    left = 569_000 + 50 * number
    return box(left, 7_034_000, left + side, 7_034_000 + side)


def verdict(number, said="existed", probability=0.9, *, annotated=False, kind="way", geometry=None, **extra):
    return {
        "osm_type": kind,
        "osm_id": number,
        "building_id": f"{kind}/{number}",
        "verdict": said,
        "probability": probability,
        "confidence": None if probability is None else abs(2 * probability - 1),
        "annotated": annotated,
        "geometry": square(number) if geometry is None else geometry,
        **extra,
    }


@pytest.fixture
def case(tmp_path):
    """Return a writer of verdicts and of a truth table, with the two paths."""

    def verdicts(rows, name="verdicts.geojson", crs=4326):
        gpd.GeoDataFrame(rows, crs=25832).to_crs(crs).to_file(tmp_path / name)
        return tmp_path / name

    def truth(text, encoding="utf-8"):
        (tmp_path / "truth.csv").write_text(text, encoding=encoding)
        return tmp_path / "truth.csv"

    return SimpleNamespace(verdicts=verdicts, truth=truth, folder=tmp_path)


@pytest.fixture
def town(case):
    lines = [f"{number},{'yes' if existed else 'no'}" for number, *_, existed in TOWN]
    return evaluate(
        case.verdicts([verdict(n, said, p, annotated=by_hand) for n, said, p, by_hand, _ in TOWN]),
        case.truth("osm_id,existed\n" + "\n".join(lines) + "\n"),
    )


def best_by_trying_all(probability, existed, target):
    """Return the most buildings decided by any pair of thresholds lo < hi, by counting for each pair."""

    def good(chosen):
        return not chosen or sum(chosen) / len(chosen) >= target

    best = 0
    pairs = list(zip(probability, existed, strict=True))
    thresholds = [-1.0, *sorted(set(probability)), 2.0]
    for lo in thresholds:
        for hi in (one for one in thresholds if one > lo):
            under, over = [not e for p, e in pairs if p <= lo], [e for p, e in pairs if p >= hi]
            if good(under) and good(over):
                best = max(best, len(under) + len(over))
    return best


# --- the decidable share ------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=25),
    st.sampled_from([0.3, 0.5, 0.75, 0.8, 0.9, 0.95, 0.99, 1.0]),
)
def test_decidable_share_is_the_best_of_all_threshold_pairs_ties_included(buildings, target):
    probability, existed = np.array([p / 8 for p, _ in buildings]), np.array([e for _, e in buildings], bool)
    best = decidable(probability, existed, target)
    assert best.existed + best.not_existed == best_by_trying_all(list(probability), list(existed), target)
    assert best.share == (None if not buildings else (best.existed + best.not_existed) / len(buildings))


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=25), st.sampled_from([0.6, 0.9, 1.0]))
def test_thresholds_reproduce_the_counts_and_keep_the_precision(buildings, target):
    probability, existed = np.array([p / 8 for p, _ in buildings]), np.array([e for _, e in buildings])
    best = decidable(probability, existed, target)
    over = probability >= (math.inf if best.hi is None else best.hi)
    under = probability <= (-math.inf if best.lo is None else best.lo)
    assert not (over & under).any()
    assert (best.existed, best.existed_wrong) == (over.sum(), (~existed[over]).sum())
    assert (best.not_existed, best.not_existed_wrong) == (under.sum(), existed[under].sum())
    for n, wrong in ((best.existed, best.existed_wrong), (best.not_existed, best.not_existed_wrong)):
        assert n == 0 or (n - wrong) / n >= target


def test_lowest_good_threshold_is_taken_although_a_higher_one_fails():
    # {p >= 0.9} is wrong, {p >= 0.5} is right 3 times in 4.
    best = decidable(np.array([0.9, 0.7, 0.6, 0.5]), np.array([False, True, True, True]), 0.75)
    assert (best.hi, best.lo, best.share) == (0.5, None, 1.0)


def test_a_threshold_cannot_split_a_tie():
    best = decidable(np.array([0.9, 0.9, 0.1]), np.array([True, False, False]), 0.95)
    assert (best.hi, best.lo, best.share) == (None, 0.1, pytest.approx(1 / 3))


def test_a_share_of_exactly_the_target_is_enough():
    probability, existed = np.full(100, 0.8), np.arange(100) > 0
    assert decidable(probability, existed, 0.99).share == 1.0


def test_a_building_without_probability_counts_but_cannot_be_decided():
    best = decidable(np.array([0.9, np.nan]), np.array([True, True]), 0.99)
    assert (best.share, best.existed) == (0.5, 1)


def test_decidable_share_never_grows_with_the_target(town):
    shares = [best.share for best in town.decidable_curve]
    assert shares == sorted(shares, reverse=True)


# --- figures computed by hand -------------------------------------------------------------------------------------


def test_counts_are_conserved(town):
    counts = town.counts
    assert (counts.verdicts, counts.truth, counts.matched) == (10, 10, 10)
    assert (counts.covered, counts.annotated, counts.no_coverage) == (7, 2, 1)
    in_table = sum(sum(row.values()) for row in town.table.values())
    assert in_table + counts.annotated == counts.matched


def test_table_counts_verdict_by_truth_without_the_annotated(town):
    assert town.table == {
        "existed": {"existed": 2, "not_existed": 1},
        "not_existed": {"existed": 1, "not_existed": 1},
        "unsure": {"existed": 1, "not_existed": 1},
        "no_coverage": {"existed": 1, "not_existed": 0},
    }


def test_figures_agree_with_those_computed_by_hand(town):
    figures = town.figures
    assert (figures.n, figures.existed_in_truth, figures.without_probability) == (7, 4, 0)
    assert figures.decided_share == pytest.approx(5 / 7)
    assert figures.accuracy_decided == pytest.approx(3 / 5)
    assert figures.accuracy_at_half == pytest.approx(5 / 7)  # all but 3 and 6
    assert (figures.existed.precision, figures.existed.recall) == pytest.approx((2 / 3, 2 / 4))
    assert (figures.not_existed.precision, figures.not_existed.recall) == pytest.approx((1 / 2, 1 / 3))
    assert figures.auc == pytest.approx(9 / 12)  # 3 + 3 + 2 + 1 of the pairs are in the right order


def test_decidable_share_of_the_town(town):
    best = town.figures.decidable[TARGETS.index(0.99)]
    assert (best.hi, best.lo, best.existed, best.not_existed) == (0.9, 0.05, 2, 1)
    assert best.share == pytest.approx(3 / 7)


def test_annotated_buildings_are_reported_apart(town):
    assert (town.annotated.n, town.annotated.decided, town.annotated.agree) == (2, 2, 1)
    assert town.annotated.agreement == 0.5


def test_calibration_agrees_with_that_computed_by_hand():
    result = calibration(np.array([0.0, 0.05, 0.3, 0.95, 1.0]), np.array([False, True, False, True, True]))
    assert result.brier == pytest.approx((0 + 0.9025 + 0.09 + 0.0025 + 0) / 5)
    # Distances in the bins from 0, from 0.3 and from 0.9: |0.025 - 0.5|, |0.3 - 0|, |0.975 - 1|.
    assert result.expected_error == pytest.approx((2 * 0.475 + 1 * 0.3 + 2 * 0.025) / 5)
    assert [one.n for one in result.reliability] == [2, 0, 0, 1, 0, 0, 0, 0, 0, 2]
    assert result.reliability[0].mean == pytest.approx(0.025)
    assert result.reliability[0].existed == pytest.approx(0.5)
    assert result.reliability[1].mean is None


def test_auc_interval_is_about_that_of_hanley_and_mcneil():
    random = np.random.default_rng(5)
    existed = random.random(400) < 0.5
    probability = 1 / (1 + np.exp(-random.normal(np.where(existed, 1, -1), 1.5)))
    auc = roc_auc_score(existed, probability)
    positives, negatives = existed.sum(), (~existed).sum()
    spread = (positives - 1) * (auc / (2 - auc) - auc**2) + (negatives - 1) * (2 * auc**2 / (1 + auc) - auc**2)
    error = 1.96 * np.sqrt((auc * (1 - auc) + spread) / (positives * negatives))
    assert auc_interval(probability, existed) == pytest.approx((auc - error, auc + error), abs=0.01)


# --- size classes -------------------------------------------------------------------------------------------------


def test_size_classes_partition_the_covered_buildings(case):
    rows = [verdict(1, geometry=square(1, 5)), verdict(2, geometry=square(2, 10)), verdict(3, geometry=square(3, 20))]
    result = evaluate(case.verdicts(rows), case.truth("osm_id,existed\n1,1\n2,1\n3,0\n"))
    assert {size: figures.n for size, figures in result.sizes.items()} == {
        "under_50_m2": 1,
        "50_to_200_m2": 1,
        "over_200_m2": 1,
    }


def test_given_area_wins_over_that_of_the_geometry_and_bounds_belong_to_the_middle_class(case):
    rows = [verdict(n, area_m2=area) for n, area in enumerate((49.9, 50.0, 200.0, 200.1, None), start=1)]
    result = evaluate(case.verdicts(rows), case.truth("osm_id,existed\n1,1\n2,1\n3,0\n4,1\n5,1\n"))
    assert [(size, figures.n) for size, figures in result.sizes.items()] == [
        ("under_50_m2", 1),
        ("50_to_200_m2", 3),  # the fifth is 100 m2 by its geometry
        ("over_200_m2", 1),
    ]


def test_auc_is_null_where_only_one_truth_occurs(case):
    result = evaluate(
        case.verdicts([verdict(1), verdict(2, probability=0.3)]), case.truth("osm_id,existed\n1,1\n2,1\n")
    )
    assert result.figures.auc is None
    assert result.figures.auc_interval is None
    assert result.figures.not_existed.recall is None
    assert result.figures.existed.recall == 1.0


# --- matching -----------------------------------------------------------------------------------------------------


def test_buildings_in_only_one_of_the_files_are_counted_and_named(case):
    result = evaluate(case.verdicts([verdict(n) for n in (1, 2, 3)]), case.truth("osm_id,existed\n1,1\n8,0\n9,1\n"))
    assert (result.counts.matched, result.counts.verdict_without_truth) == (1, 2)
    assert result.counts.truth_without_verdict == 2
    assert result.missing == ("way/8", "way/9")


def test_number_without_type_is_the_only_building_of_that_number(case):
    result = evaluate(case.verdicts([verdict(1, kind="relation")]), case.truth("osm_id,existed\n1,true\n"))
    assert result.table["existed"] == {"existed": 1, "not_existed": 0}


def test_number_without_type_is_a_way_where_a_way_and_a_relation_share_it(case):
    rows = [verdict(1, "existed"), verdict(1, "unsure", 0.5, kind="relation")]
    result = evaluate(case.verdicts(rows), case.truth("osm_id,existed\n1,true\n"))
    assert result.table["existed"]["existed"] == 1
    assert result.counts.matched == 1


def test_type_tells_a_way_from_a_relation(case):
    rows = [verdict(1, "existed"), verdict(1, "not_existed", 0.1, kind="relation")]
    truth = case.truth("osm_type,osm_id,existed\nway,1,true\nrelation,1,false\n")
    assert evaluate(case.verdicts(rows), truth).figures.accuracy_decided == 1.0


@pytest.mark.parametrize("text", ["true", "TRUE", "1", "Yes"])
def test_truth_is_read_in_the_ways_people_write_it(case, text):
    result = evaluate(case.verdicts([verdict(1)]), case.truth(f"osm_id,existed\n1,{text}\n"))
    assert result.figures.existed_in_truth == 1


def test_truth_from_a_european_spreadsheet_with_other_columns_is_read(case):
    truth = case.truth('osm_id;existed;notes\n1;no;"Møllenberg; 1, 2"\n', encoding="utf-8-sig")
    assert evaluate(case.verdicts([verdict(1)]), truth).figures.existed_in_truth == 0


def test_geopackage_in_another_crs_gives_the_same_as_geojson(case):
    rows = [verdict(n, said, p, annotated=by_hand) for n, said, p, by_hand, _ in TOWN]
    truth = case.truth("osm_id,existed\n1,1\n2,0\n3,1\n10,1\n")
    one, other = (
        evaluate(case.verdicts(rows, name, crs), truth).as_dict()
        for name, crs in (("a.geojson", 4326), ("b.gpkg", 3857))
    )
    assert {**one, "inputs": None} == {**other, "inputs": None}


# --- writing ------------------------------------------------------------------------------------------------------


def test_json_holds_no_nan_and_is_what_the_evaluation_says(town, tmp_path):
    figures, _ = write(town, tmp_path / "new" / "folder")

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(figures.read_text(encoding="utf-8"), parse_constant=refuse) == town.as_dict()


def test_picture_is_a_picture_with_content(town, tmp_path):
    _, picture = write(town, tmp_path)
    pixels = imread(picture)
    assert min(pixels.shape[:2]) > 900
    assert pixels[..., :3].std() > 0.05


def test_nothing_half_written_is_left(town, tmp_path):
    write(town, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evaluation.json", "evaluation.png"]


@pytest.mark.parametrize(
    "rows",
    [
        [verdict(1, "no_coverage", None)],
        [verdict(1, annotated=True)],
        [verdict(1, "unsure", None)],
        [verdict(1, geometry=Point(569_000, 7_034_000))],
        [verdict(1, geometry=Polygon()), verdict(2)],
        [verdict(1, geometry=square(1, 20).difference(square(1, 15).buffer(-2)))],
    ],
    ids=["no coverage", "annotated", "no probability", "a node", "no geometry", "a courtyard"],
)
def test_unusual_towns_are_measured_drawn_and_summed_up(case, rows):
    result = evaluate(case.verdicts(rows), case.truth("osm_id,existed\n1,1\n"))
    write(result, case.folder)
    assert "decidable at 99%" in result.summary()


def test_building_without_geometry_is_kept_in_a_class_of_its_own(case):
    rows = [verdict(1, geometry=Polygon()), verdict(2)]
    result = evaluate(case.verdicts(rows), case.truth("osm_id,existed\n1,1\n2,1\n"))
    assert {size: figures.n for size, figures in result.sizes.items()} == {"50_to_200_m2": 1, "unknown": 1}


def test_summary_shows_the_figures(town):
    text = town.summary()
    assert "7, 1 have no coverage" in text
    assert "71.4%" in text
    assert "0.750" in text
    assert max(map(len, text.splitlines())) <= 100


# --- what people get wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("osm_id,existed\n1,true\n2,maybe\n", "line 3.*'maybe'"),
        ("osm_id,existed\n1,\n", "line 2.*''"),
        ("osm_id,existed\n1.5,true\n", "line 2.*'1.5' is no OSM id"),
        ("osm_id,existed,osm_type\n1,true,street\n", "line 2.*'street 1' is no OSM id"),
        ("osm_id,existed\n1,true\n\n1,false\n", "way/1 in lines 2 and 4"),
        ("osm_id,existed,osm_type\n1,true,\n1,true,way\n", "way/1 in lines 2 and 3"),
        ("id,existed\n1,true\n", "no column osm_id"),
        ("just a sentence\n", "no column existed, no column osm_id"),
        ("", "no column"),
        ('osm_id,existed\n1,"tr', "cannot be read as a truth table"),
        ("osm_id,existed\n", "no building in common"),
        ("osm_id,existed\n77,true\n", "no building in common"),
    ],
)
def test_wrong_truth_is_named_with_its_file_and_the_way_out(case, text, message):
    with pytest.raises(EvaluationError, match=message) as caught:
        evaluate(case.verdicts([verdict(1), verdict(2)]), case.truth(text))
    assert "truth.csv" in str(caught.value)


def test_missing_and_binary_truth_are_named(case):
    verdicts = case.verdicts([verdict(1)])
    with pytest.raises(EvaluationError, match=r"nowhere\.csv"):
        evaluate(verdicts, case.folder / "nowhere.csv")
    (case.folder / "table.xlsx").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(EvaluationError, match=r"table\.xlsx cannot be read"):
        evaluate(verdicts, case.folder / "table.xlsx")


def test_missing_verdicts_ask_for_the_step_before(case):
    with pytest.raises(EvaluationError, match="run `historymap run verify` first"):
        evaluate(case.folder / "nowhere.geojson", case.truth("osm_id,existed\n1,1\n"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"name": "a lake", "geometry": square(1)}], "no annotated, no building_id, no probability, no verdict"),
        ([verdict(1) | {"building_id": "1"}], "unlike way/123"),
        ([verdict(1), verdict(1)], "a building twice"),
        ([verdict(1, "perhaps")], "a verdict other than existed"),
        ([verdict(1, probability=42.0)], "a probability outside 0 to 1"),
        ([verdict(1) | {"probability": "high"}], "cannot be read, could not convert string to float"),
        ([verdict(1, geometry=Polygon())], "no place on earth"),
    ],
)
def test_file_that_verify_did_not_write_is_named_with_what_shows_it(case, rows, message):
    with pytest.raises(EvaluationError, match=message) as caught:
        evaluate(case.verdicts(rows), case.truth("osm_id,existed\n1,1\n"))
    assert "verdicts.geojson is no file of verdicts" in str(caught.value)


def test_verdicts_that_are_no_vector_file_or_have_no_geometry_are_named(case):
    broken, table = case.folder / "broken.geojson", case.folder / "table.gpkg"
    broken.write_text('{"type": "FeatureCollection", "features": [{', encoding="utf-8")
    sqlite3.connect(table).close()
    for path in (broken, table):
        with pytest.raises(EvaluationError, match=f"{path.name} is no file of verdicts"):
            evaluate(path, case.truth("osm_id,existed\n1,1\n"))
