"""apply-annotations: which tiles change, and what becomes of each pixel."""

from __future__ import annotations

import json

import numpy as np
import pytest
from case_fixtures import (
    MARGIN,
    NORTH,
    SIDE,
    TILE,
    WEST,
    covered,
    lattice,
    make_case,
    rectangle,
    seen,
    write_footprints,
    write_probability,
)
from hypothesis import given
from hypothesis import strategies as st
from shapely import box, contains_xy

from historymap_lib import annotations, artifacts
from historymap_lib.annotations import REPLACED, Annotation
from historymap_lib.corrections import apply, correct_mask
from historymap_lib.errors import AnnotationsError, TrainingDataError
from historymap_lib.project import load
from historymap_lib.training_data import IGNORE, generate, read_metadata, read_tile

ACROSS_FOUR = 43
"""The building of the lattice that stands on the corner of four tiles."""


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A case with all its tiles."""
    case = load(make_case(tmp_path_factory.mktemp("town")))
    generate(case)
    return case


@pytest.fixture
def judge(town):
    """Return a function that stores judgements by the number of the building, and applies them."""

    def apply_all(judgements, **options):
        annotations.save(town.paths.annotations, [Annotation(osm_id=n, existed=said) for n, said in judgements.items()])
        return apply(town, **options)

    return apply_all


def tile_box(row, column):
    return box(WEST + column * SIDE, NORTH - (row + 1) * SIDE, WEST + (column + 1) * SIDE, NORTH - row * SIDE)


def mosaic(folder, names=None):
    """Return the masks of a folder as one array, 7 where there is none."""
    whole = np.full((4 * TILE, 4 * TILE), 7, np.uint8)
    for item in read_metadata(folder):
        if names is None or item["tile"] in names:
            (mask,) = read_tile(folder, item["tile"], "masks")
            whole[item["row"] * TILE :, item["column"] * TILE :][:TILE, :TILE] = mask
    return whole


def test_the_building_for_four_tiles_stands_on_four():
    touched = [tile for row in range(4) for tile in range(4) if lattice()[ACROSS_FOUR].intersects(tile_box(row, tile))]
    assert len(touched) == 4


def test_exactly_the_tiles_that_the_buildings_touch_are_corrected(town, judge):
    judgements = {2: False, 30: True, ACROSS_FOUR: False, 100: None, 169: True}
    before = artifacts.fingerprint(town.paths.training)
    done = judge(judgements)
    touched = {
        f"tile_{row:04d}_{column:04d}"
        for row in range(4)
        for column in range(4)
        if any(lattice()[number].intersection(tile_box(row, column)).area > 0 for number in judgements)
    }
    assert set(done.tiles) == touched == {path.stem for path in (town.paths.corrected / "masks").iterdir()}
    assert len(touched) < 16
    assert artifacts.fingerprint(town.paths.training) == before


def test_twenty_annotations_change_the_pixels_of_their_buildings_and_no_others(town, judge):
    numbers = list(range(1, 160, 8))
    judgements = {number: (True, False, None)[number % 3] for number in numbers}
    done = judge(judgements)
    original, corrected = mosaic(town.paths.training, done.tiles), mosaic(town.paths.corrected)
    expected = original.copy()
    for verdict, value in ((False, 0), (None, IGNORE), (True, 1)):
        expected[covered([lattice()[n] for n, said in judgements.items() if said is verdict]) & (original != 7)] = value
    expected[:MARGIN][original[:MARGIN] != 7] = IGNORE
    assert (corrected == expected).all()
    assert (corrected != original).any()


@pytest.mark.parametrize(("existed", "value"), [(True, 1), (False, 0), (None, IGNORE)])
def test_a_building_across_four_tiles_is_corrected_in_all_of_them(town, judge, existed, value):
    done = judge({ACROSS_FOUR: existed})
    assert len(done.tiles) == 4
    assert (mosaic(town.paths.corrected)[covered([lattice()[ACROSS_FOUR]])] == value).all()


def test_where_another_building_stood_nothing_is_learned(town):
    annotations.save(town.paths.annotations, [Annotation(osm_id=ACROSS_FOUR, existed=False, reason=REPLACED)])
    apply(town)
    assert (mosaic(town.paths.corrected)[covered([lattice()[ACROSS_FOUR]])] == IGNORE).all()
    assert {item["annotated"][f"way/{ACROSS_FOUR}"] for item in read_metadata(town.paths.corrected)} == {"not_existed"}


def test_images_and_building_rasters_are_the_originals(town, judge):
    for name in judge({ACROSS_FOUR: False}).tiles:
        for part in ("images", "buildings"):
            file = f"{part}/{name}.tif"
            assert (town.paths.corrected / file).read_bytes() == (town.paths.training / file).read_bytes()


def test_the_metadata_says_who_was_judged_and_how_much_changed(town, judge):
    judge({ACROSS_FOUR: True, 2: False})
    known = {item["tile"]: item for item in read_metadata(town.paths.training)}
    for item in read_metadata(town.paths.corrected):
        (before,), (after,) = (
            read_tile(folder, item["tile"], "masks") for folder in (town.paths.training, town.paths.corrected)
        )
        assert item["changed_pixels"] == (before != after).sum()
        assert item["annotated"] == {
            name: verdict
            for name, verdict in {f"way/{ACROSS_FOUR}": "existed", "way/2": "not_existed"}.items()
            if name in item["building_ids"]
        }
        assert {key: item[key] for key in known[item["tile"]]} == known[item["tile"]]


def test_applying_twice_gives_the_same(town, judge):
    judgements = {2: False, ACROSS_FOUR: True, 50: None}
    judge(judgements)
    first = artifacts.fingerprint(town.paths.corrected)
    judge(judgements)
    assert artifacts.fingerprint(town.paths.corrected) == first


def test_a_change_of_mind_gives_what_the_latest_says(town, judge):
    judge({ACROSS_FOUR: True})
    wanted = artifacts.fingerprint(town.paths.corrected)
    judge({ACROSS_FOUR: False, 2: False})
    assert artifacts.fingerprint(town.paths.corrected) != wanted
    judge({ACROSS_FOUR: True})
    assert artifacts.fingerprint(town.paths.corrected) == wanted


def test_an_unknown_building_is_reported_and_stays_in_the_store(town, judge):
    done = judge({2: True, 999_999: False})
    assert done.unknown == ["way/999999"]
    assert "1 name no building of the tiles' area: way/999999" in done.summary
    assert "way/999999" in annotations.read(town.paths.annotations)
    assert judge({999_999: False}).tiles == []


def test_a_file_of_annotations_is_added_to_those_of_the_case(town, judge, tmp_path):
    judge({2: False})
    file = tmp_path / "others.json"
    file.write_text(json.dumps({"annotations": [{"osm_id": 50, "existed": True, "notes": "Verified"}]}))
    done = apply(town, file=file)
    stored = annotations.read(town.paths.annotations)
    assert set(stored) == {"way/2", "way/50"}
    assert "2 annotations" in done.summary
    before = town.paths.annotations.read_bytes(), artifacts.fingerprint(town.paths.corrected)
    apply(town, file=file)
    assert (town.paths.annotations.read_bytes(), artifacts.fingerprint(town.paths.corrected)) == before


def test_the_file_of_the_case_itself_may_be_named(town, judge):
    judge({2: False})
    before = town.paths.annotations.read_bytes()
    apply(town, file=town.paths.annotations)
    assert town.paths.annotations.read_bytes() == before


def test_another_output_leaves_the_corrected_tiles_of_the_case_alone(town, judge, tmp_path):
    judge({2: False})
    before = artifacts.fingerprint(town.paths.corrected)
    done = judge({100: True}, output=tmp_path / "elsewhere")
    assert done.folder == tmp_path / "elsewhere"
    assert artifacts.fingerprint(town.paths.corrected) == before
    with pytest.raises(TrainingDataError, match="was not made by apply-annotations"):
        judge({100: True}, output=town.paths.training)


@pytest.mark.parametrize("content", [None, {"annotations": []}])
def test_no_annotation_at_all_is_told(tmp_path, content):
    case = load(make_case(tmp_path))
    generate(case, tiles=1)
    file = tmp_path / "others.json"
    if content is not None:
        file.write_text(json.dumps(content))
    with pytest.raises(AnnotationsError, match=r"others\.json"):
        apply(case, file=file)
    assert not case.paths.corrected.exists()
    with pytest.raises(AnnotationsError, match="there is no such file"):
        apply(case)


def test_missing_tiles_are_told(tmp_path):
    with pytest.raises(TrainingDataError, match="holds no training tiles; run generate-training first"):
        apply(load(make_case(tmp_path)))


def test_a_damaged_tile_is_told_and_the_corrected_tiles_stay(tmp_path):
    case = load(make_case(tmp_path))
    generate(case)
    annotations.save(case.paths.annotations, [Annotation(osm_id=2, existed=False)])
    apply(case)
    before = artifacts.fingerprint(case.paths.corrected)
    tile = case.paths.training / "masks" / "tile_0000_0000.tif"
    tile.write_bytes(tile.read_bytes()[:100])
    with pytest.raises(TrainingDataError, match="run generate-training again"):
        apply(case)
    assert artifacts.fingerprint(case.paths.corrected) == before


def test_the_buildings_are_judged_again_where_there_are_probabilities(tmp_path):
    case = load(make_case(tmp_path))
    generate(case, tiles=2)
    annotations.save(case.paths.annotations, [Annotation(osm_id=2, existed=True)])
    assert apply(case).verified is None
    write_probability(case, seen(lattice()))
    done = apply(case, picture=False)
    assert done.verified.counts["annotated"] == 1
    assert case.paths.verified.exists()
    case.paths.verified.unlink()
    assert apply(case, again=False).verified is None
    assert not case.paths.verified.exists()


def test_a_relation_and_a_way_of_one_number_are_two_buildings(tmp_path):
    file = make_case(tmp_path)
    write_footprints(tmp_path / "footprints.geojson", lattice(), kind="relation")
    case = load(file)
    generate(case)
    annotations.save(case.paths.annotations, [Annotation(osm_id=2, existed=False)])
    assert apply(case).unknown == ["way/2"]
    annotations.save(case.paths.annotations, [Annotation(osm_id=2, osm_type="relation", existed=False)])
    assert apply(case).unknown == []


SHAPE = (40, 50)
BOUNDS = [0.0, 0.0, 50.0, 40.0]
X, Y = np.meshgrid(np.arange(50) + 0.5, 39.5 - np.arange(40))
SHAPES = st.builds(
    lambda west, south, width, height: box(west + 0.1, south + 0.1, west + width, south + height),
    st.integers(-10, 45), st.integers(-10, 35), st.integers(1, 25), st.integers(1, 25),
)  # fmt: skip
JUDGED = st.tuples(SHAPES, st.sampled_from(["existed", "not_existed", "unsure", ""]))


def inside(judged, verdict):
    found = np.zeros(SHAPE, bool)
    for shape, said in judged:
        if said == verdict:
            found |= contains_xy(shape, X, Y)
    return found


def corrected(judged, mask, on_photo):
    shapes = np.array([shape for shape, _ in judged], dtype=object)
    return correct_mask(mask, on_photo, shapes, np.array([said for _, said in judged], dtype=object), BOUNDS)


@given(judged=st.lists(JUDGED, max_size=8), seed=st.integers(0, 99))
def test_only_pixels_under_judged_footprints_change_and_become_what_was_said(judged, seed):
    rng = np.random.default_rng(seed)
    on_photo = rng.random(SHAPE) > 0.1
    mask = np.where(inside(judged, ""), 1, rng.choice([0, 1, IGNORE], SHAPE)).astype(np.uint8)
    mask[~on_photo] = IGNORE
    before = mask.copy()
    after = corrected(judged, mask, on_photo)
    assert (mask == before).all()
    existed, gone, unsure, standing = (inside(judged, said) for said in ("existed", "not_existed", "unsure", ""))
    assert (after[~(existed | gone | unsure)] == mask[~(existed | gone | unsure)]).all()
    assert (after[~on_photo] == IGNORE).all()
    assert (after[existed & on_photo] == 1).all()
    kept = standing & (mask != 0) & ~existed
    assert (after[kept] == mask[kept]).all()
    free = on_photo & ~existed & ~kept
    assert (after[free & unsure] == IGNORE).all()
    assert (after[free & gone & ~unsure] == 0).all()
    assert (corrected(judged, after, on_photo)[~standing] == after[~standing]).all()


def test_a_building_that_goes_leaves_the_ground_shared_with_a_neighbour_that_stands():
    gone, neighbour = box(5.1, 5.1, 20.1, 20.1), box(15.1, 5.1, 30.1, 20.1)
    mask = (contains_xy(gone, X, Y) | contains_xy(neighbour, X, Y)).astype(np.uint8)
    for said in ("", "existed"):
        after = corrected([(gone, "not_existed"), (neighbour, said)], mask, np.ones(SHAPE, bool))
        assert (after[contains_xy(neighbour, X, Y)] == 1).all()
        assert after[contains_xy(gone, X, Y) & ~contains_xy(neighbour, X, Y)].max() == 0


def test_a_footprint_that_only_shares_an_edge_with_a_tile_does_not_touch_it(tmp_path):
    case = load(make_case(tmp_path, {1: rectangle(SIDE, SIDE + 5, 10, 10), 2: rectangle(10, SIDE + 5.1)}))
    generate(case)
    annotations.save(case.paths.annotations, [Annotation(osm_id=1, existed=False)])
    assert apply(case).tiles == ["tile_0001_0001"]
