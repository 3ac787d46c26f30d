"""verify: every building gets one verdict that follows from what is known, and none is lost."""

from __future__ import annotations

import json
from collections import Counter

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from case_fixtures import (
    CRS,
    SIZE,
    WEST,
    change,
    covered,
    lattice,
    looks_of,
    make_case,
    photo_of,
    rectangle,
    save_random_model,
    seen,
    stood,
    take_first_look,
    write_footprints,
    write_photo,
    write_probability,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from historymap_lib import annotations, artifacts, first_look
from historymap_lib.annotations import Annotation
from historymap_lib.errors import AnnotationsError, FootprintsError, PhotoError, VerificationError
from historymap_lib.outline_evidence import OutlineEvidence, trained_file
from historymap_lib.project import load
from historymap_lib.settings import Verification
from historymap_lib.verification import COLUMNS, VERDICTS, judge, verify

FEW = {number: rectangle(20 + 30 * number, 40 + 20 * number) for number in range(1, 7)}
"""Too few buildings to calibrate, so the mean under the footprint is the probability."""


def probabilities(values, nodata=None):
    """Return a raster with a value (0 to 254, 255 no data) under each of the few buildings."""
    raster = np.full((SIZE, SIZE), 20, np.uint8)
    for number, value in values.items():
        raster[covered([FEW[number]])] = value
    if nodata is not None:
        raster[nodata] = 255
    return raster


@pytest.fixture
def few(tmp_path):
    """A case of six buildings that lie where the map says."""
    return load(make_case(tmp_path, FEW, verification={"max_offset": 0.0}))


def verdicts(case, raster, judgements=()):
    """Verify, and return the features by their number and the counts."""
    write_probability(case, raster)
    case.paths.annotations.unlink(missing_ok=True)
    if judgements:
        annotations.save(case.paths.annotations, judgements)
    made = verify(case, picture=False)
    content = json.loads(case.paths.verified.read_text(encoding="utf-8"))
    assert content["metadata"]["counts"] == made.counts
    return {item["properties"]["osm_id"]: item["properties"] for item in content["features"]}, made.counts


def test_the_verdict_follows_from_the_thresholds(few):
    values = {1: 254, 2: 229, 3: 228, 4: 26, 5: 25, 6: 0}
    found, counts = verdicts(few, probabilities(values))
    assert {number: item["verdict"] for number, item in found.items()} == {
        1: "existed", 2: "existed", 3: "unsure", 4: "unsure", 5: "not_existed", 6: "not_existed",
    }  # fmt: skip
    assert {number: item["existed"] for number, item in found.items()} == {
        1: True, 2: True, 3: None, 4: None, 5: False, 6: False,
    }  # fmt: skip
    for number, item in found.items():
        assert item["probability"] == pytest.approx(values[number] / 254, abs=1e-4)
        assert item["confidence"] == pytest.approx(max(item["probability"], 1 - item["probability"]), abs=2e-4)
        assert item["needs_verification"] == (item["verdict"] == "unsure")
        assert item["coverage"] == 1
        assert item["annotated"] is False
    assert counts["needs_verification"] == 2


def test_other_thresholds_give_other_verdicts(few):
    values = dict.fromkeys(FEW, 160)
    found, _ = verdicts(few, probabilities(values))
    assert {item["verdict"] for item in found.values()} == {"unsure"}
    change(few.file, "verification", existed_from=0.6)
    found, _ = verdicts(load(few.file), probabilities(values))
    assert {item["verdict"] for item in found.values()} == {"existed"}


def test_without_data_under_it_a_building_gets_no_verdict(few):
    raster = probabilities(dict.fromkeys(FEW, 254), covered([FEW[1]]))
    columns = np.flatnonzero(covered([FEW[2]]).any(axis=0))
    raster[:, columns[: round(0.6 * len(columns))]] = 255
    raster[:, columns[round(0.6 * len(columns)) :]] = 254
    columns = np.flatnonzero(covered([FEW[3]]).any(axis=0))
    raster[:, columns[: round(0.4 * len(columns))]] = 255
    found, counts = verdicts(few, raster)
    for number in (1, 2):
        item = found[number]
        assert (item["verdict"], item["existed"], item["probability"]) == ("no_coverage", None, None)
        assert item["confidence"] == 0
        assert item["needs_verification"] is False
        assert "of the footprint is on the photo" in item["reason"]
    assert found[1]["coverage"] == 0
    assert 0.3 < found[2]["coverage"] < 0.5
    assert found[3]["verdict"] == "existed"
    assert 0.5 <= found[3]["coverage"] < 0.7
    assert counts["no_coverage"] == 2


def test_an_annotation_always_wins_and_says_so(few):
    raster = probabilities({1: 254, 2: 0, 3: 254}, covered([FEW[4]]))
    judgements = [
        Annotation(osm_id=1, existed=False, annotator="Kari", notes="a garden then"),
        Annotation(osm_id=2, existed=True),
        Annotation(osm_id=3, existed=None, reason="tree"),
        Annotation(osm_id=4, existed=True),
    ]
    found, counts = verdicts(few, raster, judgements)
    assert [found[n]["verdict"] for n in (1, 2, 3, 4)] == ["not_existed", "existed", "unsure", "existed"]
    assert [found[n]["existed"] for n in (1, 2, 3, 4)] == [False, True, None, True]
    assert [found[n]["confidence"] for n in (1, 2, 3, 4)] == [1, 1, 0, 1]
    assert found[1]["reason"] == "annotated by Kari: a garden then"
    assert found[2]["reason"] == "annotated"
    assert found[3]["reason"] == "annotated: tree"
    assert found[1]["probability"] == 1
    assert found[4]["probability"] is None
    assert not any(found[n]["needs_verification"] for n in (1, 2, 3, 4))
    assert [item["annotated"] for item in found.values()] == [True] * 4 + [False] * 2
    assert counts["annotated"] == 4


def test_an_annotation_without_a_building_is_listed_and_changes_nothing(few):
    raster = probabilities({})
    plain, _ = verdicts(few, raster)
    judgements = [Annotation(osm_id=999, existed=True), Annotation(osm_id=1, osm_type="relation", existed=True)]
    found, counts = verdicts(few, raster, judgements)
    assert found == plain
    assert counts["annotated"] == 0
    metadata = json.loads(few.paths.verified.read_text(encoding="utf-8"))["metadata"]
    assert metadata["annotations_without_building"] == ["relation/1", "way/999"]


def test_the_geojson_has_the_properties_agreed_on_and_lies_in_degrees(few):
    verdicts(few, probabilities({1: 254}))
    content = json.loads(few.paths.verified.read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection"
    for feature in content["features"]:
        assert list(feature["properties"]) == [name for name in COLUMNS if name != "geometry"]
        for longitude, latitude in feature["geometry"]["coordinates"][0]:
            assert 10 < longitude < 11
            assert 63 < latitude < 64
    first = content["features"][0]["properties"]
    assert (first["osm_type"], first["osm_id"], first["building_id"], first["photo"]) == ("way", 1, "way/1", "photo")
    assert content["metadata"]["year"] == 1937
    assert content["metadata"]["settings"]["verification"]["existed_from"] == 0.9
    frame = gpd.read_file(few.paths.verified)
    assert frame.to_crs(CRS).geometry.iloc[0].equals_exact(FEW[1], 0.01, normalize=True)


def test_the_geopackage_says_the_same_in_the_crs_of_the_case(few):
    found, _ = verdicts(few, probabilities({1: 254}, covered([FEW[2]])), [Annotation(osm_id=3, existed=None)])
    frame = gpd.read_file(few.paths.verified.with_suffix(".gpkg"), layer="buildings")
    assert frame.crs == CRS
    assert list(frame.columns) == COLUMNS
    for row in frame.itertuples():
        known = found[row.osm_id]
        assert (row.building_id, row.verdict) == (known["building_id"], known["verdict"])
        assert (None if pd.isna(row.existed) else bool(row.existed)) == known["existed"]
        assert (None if pd.isna(row.probability) else row.probability) == known["probability"]


def test_verdicts_name_the_model_that_made_the_probabilities_not_one_trained_since(few):
    write_probability(few, probabilities({}))
    save_random_model(few)
    artifacts.write_manifest(
        few.paths.probability, step="predict", inputs=[few.paths.model], settings={}, parameters={}, code=[]
    )
    made_by = artifacts.fingerprint(few.paths.model)[:12]
    few.paths.model.write_bytes(b"a newer one")
    verify(few, picture=False)
    (name,) = set(gpd.read_file(few.paths.verified)["model"])
    assert name == made_by


def test_a_first_look_is_marked_as_one_and_people_are_right_about_it_too(few):
    take_first_look(few)
    annotations.save(few.paths.annotations, [Annotation(osm_id=2, existed=True)])
    made = verify(few, quick=True)
    content = json.loads(few.paths.verified.read_text(encoding="utf-8"))
    found = {feature["properties"]["osm_id"]: feature["properties"] for feature in content["features"]}
    assert [found[n]["verdict"] for n in range(1, 7)] == ["existed", "existed", "existed", *["unsure"] * 3]
    assert {properties["model"] for properties in found.values()} == {"first look"}
    assert content["metadata"]["first_look"] is True
    assert "first look: 3 existed" in made.summary
    assert list(gpd.read_file(few.paths.verified.with_suffix(".gpkg")).columns) == COLUMNS
    write_probability(few, probabilities({1: 254}))
    assert verify(few, picture=False).summary.startswith(f"{few.paths.verified}: 2 existed")
    assert json.loads(few.paths.verified.read_text(encoding="utf-8"))["metadata"]["first_look"] is False


def test_without_a_first_look_a_sentence_says_how_to_take_it(few):
    with pytest.raises(VerificationError, match=r"first_look\.npz: there was no first look yet; historymap run verify"):
        verify(few, quick=True)
    few.paths.predictions.mkdir(parents=True)
    first_look.file(few).write_bytes(b"a poem")
    with pytest.raises(VerificationError, match=r"first_look\.npz: cannot be read .*; run what makes it again"):
        verify(few, quick=True)
    take_first_look(few)
    (few.paths.root / "photo.tif").unlink()
    with pytest.raises(PhotoError, match="there is no such photo"):
        verify(few, quick=True)


def test_a_building_that_the_network_has_not_looked_at_is_told(few):
    take_first_look(few)
    write_footprints(few.file.parent / "footprints.geojson", FEW | {77: rectangle(100.1, 20.1)})
    told = (
        r"has not looked at 1 of the 7 buildings, since the footprints have changed; run verify --quick --force again"
    )
    with pytest.raises(VerificationError, match=told):
        verify(few, quick=True)
    first_look.file(few).replace(trained_file(few))
    write_probability(few, probabilities({1: 254}))
    with pytest.raises(VerificationError, match=r"outlines\.npz: .* 1 of the 7 buildings, .*; run predict again"):
        verify(few, picture=False)
    assert not few.paths.verified.exists()


def test_where_the_network_has_looked_at_too_little_to_learn_from_its_word_stands_whatever_the_pixels_say(few):
    take_first_look(few)
    first_look.file(few).replace(trained_file(few))
    found, _ = verdicts(few, probabilities({2: 254, 4: 254}))
    assert [found[n]["probability"] for n in range(1, 7)] == [0.95, 0.05, 0.95, 0.5, 0.5, 0.5]
    assert [found[n]["fit"] for n in range(1, 7)] == [found[n]["probability"] for n in range(1, 7)]
    assert [found[n]["probability_under"] for n in (1, 2)] == pytest.approx([20 / 254, 1.0], abs=1e-3)
    assert found[1]["model"] is None


def test_verdicts_are_out_of_date_when_the_network_has_looked_again(few):
    take_first_look(few)
    first_look.file(few).replace(trained_file(few))
    write_probability(few, probabilities({}))
    verify(few, picture=False)
    assert str(trained_file(few)) in artifacts.read_manifest(few.paths.verified)["inputs"]


def test_a_town_that_the_network_has_looked_at_is_told_apart_by_its_probabilities(tmp_path):
    """What it says is timid and biased; phantoms tell what it means, and the pixels do not."""
    plots = np.array(list(lattice().values()), dtype=object)
    rng = np.random.default_rng(4)
    built = np.sort(rng.permutation(len(plots))[:110])  # the other plots are bare, and lie as these do
    case = load(make_case(tmp_path, {int(number) + 1: plots[number] for number in built}))
    ids = np.array([f"way/{number + 1}" for number in built])
    there, shift = stood(ids), rng.normal(0, 1, (len(ids), 2))
    houses = looks_of(plots[built], np.where(there, -1.0, -5.0) + rng.normal(0, 0.7, len(ids)))
    bare = np.delete(plots, built)
    ground = looks_of(bare, -5.0 + rng.normal(0, 0.7, len(bare)))
    nothing = houses.take(np.arange(0))
    OutlineEvidence(ids, shift, np.arange(len(ids)) % 2, houses, ground, nothing).write(trained_file(case))
    write_photo(tmp_path / "photo.tif", photo_of({}))  # bare ground, which says nothing
    write_probability(case, np.full((SIZE, SIZE), 100, np.uint8))
    later = int(built[~there][0]) + 1
    annotations.save(case.paths.annotations, [Annotation(osm_id=later, existed=True)])
    verify(case, picture=False)
    frame = gpd.read_file(case.paths.verified.with_suffix(".gpkg")).set_index("building_id").loc[ids]
    assert roc_auc_score(there, frame["probability"]) > 0.9
    told = frame[frame["verdict"].isin(["existed", "not_existed"]) & ~frame["annotated"]]
    assert len(told) > 0.2 * len(ids)
    assert (told["existed"].astype(bool) == stood(told.index)).mean() > 0.9
    assert frame.loc[f"way/{later}", "existed"]
    assert frame[["shift_east", "shift_north"]].to_numpy() == pytest.approx(shift, abs=1e-4)


def test_a_town_is_told_apart_also_where_neighbourhoods_lie_off_differently(tmp_path):
    buildings = lattice()
    shifts = {n: (1.5, 1.0) if shape.centroid.x < WEST + 128 else (-1.0, 1.5) for n, shape in buildings.items()}
    on_photo = {n: gpd.GeoSeries([shape]).translate(*shifts[n]).iloc[0] for n, shape in buildings.items()}
    case = load(make_case(tmp_path, on_photo))
    write_footprints(tmp_path / "footprints.geojson", buildings)
    write_probability(case, seen(on_photo))
    made = verify(case, picture=False)
    frame = gpd.read_file(case.paths.verified).set_index("osm_id")
    told = frame[frame["verdict"].isin(["existed", "not_existed"])]
    assert len(told) > 0.3 * len(frame)
    assert (told["existed"].astype(bool) == (told.index % 2 == 1)).mean() > 0.97
    assert roc_auc_score(frame.index % 2 == 1, frame["probability"]) > 0.99
    assert made.counts["read"] == len(buildings)


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["fine", "fine", "fine", "outside", "no id", "not a building", "no geometry", "underground"]),
        st.integers(1, 12),
        st.floats(0, 220),
        st.floats(0, 220),
        st.sampled_from([None, True, False, "unjudged", "unjudged"]),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, seed=st.integers(0, 9))
def test_counts_are_conserved(tmp_path_factory, rows, seed):
    folder = tmp_path_factory.mktemp("counts")
    case = load(make_case(folder, FEW))
    fine = [row for row in rows if row[0] == "fine"]
    frame = gpd.GeoDataFrame(
        {
            "osm_type": "way",
            "osm_id": pd.array([None if kind == "no id" else number for kind, number, *_ in rows] + [77], "Int64"),
            "building": ["no" if kind == "not a building" else "yes" for kind, *_ in rows] + ["yes"],
            "location": ["underground" if kind == "underground" else None for kind, *_ in rows] + [None],
        },
        geometry=[
            None if kind == "no geometry" else rectangle(east + (9000 if kind == "outside" else 0), south)
            for kind, _, east, south, _ in rows
        ]
        + [rectangle(100.1, 100.1)],
        crs=CRS,
    )
    frame.to_file(folder / "footprints.geojson", driver="GeoJSON", engine="pyogrio")
    raster = np.random.default_rng(seed).integers(0, 255, (SIZE // 32, SIZE // 32), dtype=np.uint8)
    raster[:, : seed + 1] = 255
    write_probability(case, np.kron(raster, np.ones((32, 32), np.uint8)))
    judged = [Annotation(osm_id=number, existed=said) for _, number, _, _, said in rows if said != "unjudged"]
    annotations.save(case.paths.annotations, judged)
    counts = verify(case, picture=False).counts
    assert counts["read"] == len(rows) + 1
    lost = counts["rejected"] + counts["duplicates"] + counts["outside"]
    assert counts["read"] == sum(counts[name] for name in VERDICTS) + lost
    assert counts["rejected"] == sum(kind not in {"fine", "outside"} for kind, *_ in rows)
    content = json.loads(case.paths.verified.read_text(encoding="utf-8"))
    tally = Counter(feature["properties"]["verdict"] for feature in content["features"])
    assert {name: tally[name] for name in VERDICTS} == {name: counts[name] for name in VERDICTS}
    assert len(content["metadata"]["rejected"]) == counts["rejected"]
    assert all(item["reason"] and item["building_id"] for item in content["metadata"]["rejected"])
    assert sum(tally.values()) <= len({number for _, number, *_ in fine}) + 1 + len(rows)


@pytest.mark.parametrize("value", [0, 130, 255])
def test_a_model_that_says_the_same_everywhere_breaks_nothing(tmp_path, value):
    case = load(make_case(tmp_path))
    write_probability(case, np.full((SIZE, SIZE), value, np.uint8))
    counts = verify(case, picture=False).counts
    assert sum(counts[name] for name in VERDICTS) == len(lattice())
    assert counts["existed"] == 0
    if value == 255:
        assert counts["no_coverage"] == len(lattice())


def test_judging_twice_gives_the_same_bytes(tmp_path):
    case = load(make_case(tmp_path))
    write_probability(case, seen(lattice()))
    verify(case, picture=False)
    first = case.paths.verified.read_bytes()
    verify(case, picture=False)
    assert case.paths.verified.read_bytes() == first


def test_the_buildings_given_to_the_judge_are_left_as_they_are(few):
    write_probability(few, probabilities({}))
    frame = gpd.GeoDataFrame({"building_id": [f"way/{n}" for n in FEW]}, geometry=list(FEW.values()), crs=CRS)
    before = frame.copy()
    judge(frame, few.paths.probability, {}, Verification())
    assert frame.equals(before)


def test_missing_probabilities_are_told(few):
    with pytest.raises(VerificationError, match="there are no probabilities; run predict first"):
        verify(few, picture=False)


def test_probabilities_that_are_cut_off_are_told_and_the_old_verdicts_stay(few):
    verdicts(few, np.random.default_rng(0).integers(0, 255, (SIZE, SIZE), dtype=np.uint8))
    before = few.paths.verified.read_bytes()
    whole = few.paths.probability.read_bytes()
    for size in (10, len(whole) // 2):
        few.paths.probability.write_bytes(whole[:size])
        with pytest.raises(VerificationError, match=r"probability\.tif: cannot be read .*; run predict again"):
            verify(few, picture=False)
    assert few.paths.verified.read_bytes() == before


def test_probabilities_in_another_crs_are_told(few):
    write_probability(few, probabilities({}))
    change(few.file, "area", crs="EPSG:25833")
    with pytest.raises(VerificationError, match=r"is in another CRS than area\.crs EPSG:25833; run predict again"):
        verify(load(few.file), picture=False)


def test_footprints_elsewhere_and_broken_annotations_are_told(few):
    write_probability(few, probabilities({}))
    few.paths.annotations.write_text("{")
    with pytest.raises(AnnotationsError, match="is no JSON"):
        verify(few, picture=False)
    few.paths.annotations.unlink()
    write_footprints(few.file.parent / "footprints.geojson", {1: rectangle(9_000, 9_000)})
    with pytest.raises(FootprintsError, match="must overlap"):
        verify(few, picture=False)


def test_a_picture_is_drawn_and_its_absence_stops_nothing(few, capsys):
    write_probability(few, probabilities({1: 254}))
    verify(few)
    picture = few.paths.verified.with_suffix(".png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    (few.file.parent / "photo.tif").unlink()
    verify(few)
    assert "no picture" in capsys.readouterr().out
    assert not picture.exists()


def test_a_photo_of_another_size_than_the_probabilities_is_no_matter(few):
    write_photo(few.file.parent / "photo.tif", np.full((SIZE - 100, SIZE - 200), 99, np.uint8))
    found, _ = verdicts(few, probabilities({1: 254}))
    assert found[1]["verdict"] == "existed"
