"""All that speaks for each building: in its row, from what is known of it, and nan where nothing is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shapely
from case_fixtures import SIZE, lattice, looks_of, make_case, photo_of, stood, write_photo, write_probability
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from historymap_lib.building_evidence import BLOCK, NUMBERS, gather
from historymap_lib.imagery import open_photo
from historymap_lib.last_layer import BY_NETWORK, BY_POOR_PHOTO
from historymap_lib.outline_evidence import OutlineEvidence
from historymap_lib.project import load

PLOTS = np.array(list(lattice().values()), dtype=object)
BUILT = np.sort(np.random.default_rng(4).permutation(len(PLOTS))[:90])
BARE = np.delete(np.arange(len(PLOTS)), BUILT)
IDS = np.array([f"way/{number + 1}" for number in BUILT])
STOOD = stood(IDS)


def seen_of(*, fold=0, phantoms=None, misfits=None):
    """Return what a network saw of the built plots: phantoms on the bare ones, and misfits of its own look."""
    rng = np.random.default_rng(1)
    mark = np.eye(4, dtype=np.float32) * 3

    def group(shapes, logits, kind):
        embedding = mark[kind] + rng.normal(0, 1, (len(shapes), 4))
        return looks_of(shapes, logits + rng.normal(0, 1, len(shapes)), embedding.astype(np.float32))

    houses = group(PLOTS[BUILT], np.where(STOOD, 3.0, -3.0), np.where(STOOD, 0, 1))
    bare = BARE[:phantoms]
    ground = replace(group(PLOTS[bare], np.full(len(bare), -3.0), np.ones(len(bare), int)), host=bare % len(BUILT))
    over = shapely.transform(PLOTS[BUILT][:misfits], lambda points: points + 4.0)
    unfit = group(over, np.full(len(over), -3.0), np.full(len(over), 2))
    shift = rng.normal(0, 1, (len(IDS), 2))
    return OutlineEvidence(IDS, shift, np.full(len(IDS), fold), houses, ground, unfit)


@settings(max_examples=15)
@given(order=st.permutations(range(len(IDS))), strangers=st.integers(0, 3))
def test_each_row_is_that_of_its_building_and_of_a_stranger_nothing_is_known(order, strangers):
    seen = seen_of()
    ids = [f"way/{9000 + number}" for number in range(strangers)] + IDS[list(order)].tolist()
    known = gather(ids, seen, 0.5)
    assert list(known.table.columns) == ["coverage", "overlap", *NUMBERS]
    assert known.rows.tolist() == list(range(strangers, len(ids)))
    assert known.table["coverage"].tolist() == [0.0] * strangers + [1.0] * len(IDS)
    assert known.table.iloc[:strangers, 1:].isna().all().all()
    rows = known.table.iloc[strangers:]
    assert rows["fit"].to_numpy() == pytest.approx(expit(seen.footprints.logits[list(order), -1]))
    assert rows[["shift_east", "shift_north"]].to_numpy() == pytest.approx(seen.shift[list(order)])
    assert (rows["darkness"] == 120).all()
    assert (rows["texture"] == 30).all()
    assert known.footprints.embedding == pytest.approx(seen.footprints.embedding[list(order)])


def test_without_probabilities_nothing_is_told_of_pixels():
    table = gather(IDS.tolist(), seen_of(), 0.5).table
    assert table[["overlap", "probability_under", "contrast", "shadow"]].isna().all().all()
    assert table[["fit", "darkness"]].notna().all().all()


def test_what_is_not_enough_on_the_photo_is_left_out_of_everything():
    seen = seen_of()
    coverage = np.linspace(0, 1, len(IDS)).astype(np.float32)
    seen = replace(
        seen,
        footprints=replace(seen.footprints, coverage=coverage),
        phantoms=replace(seen.phantoms, coverage=coverage[: len(seen.phantoms)]),
    )
    known = gather(IDS.tolist(), seen, 0.6)
    assert known.rows.tolist() == np.flatnonzero(coverage >= 0.6).tolist()
    assert len(known.footprints) == len(known.rows)
    assert len(known.phantoms) == (coverage[: len(seen.phantoms)] >= 0.6).sum()
    assert known.table["coverage"].to_numpy() == pytest.approx(coverage)
    assert known.table.loc[coverage < 0.6, "fit"].isna().all()


def test_nothing_on_the_photo_breaks_nothing(tmp_path):
    case = load(make_case(tmp_path))
    write_probability(case, np.full((SIZE, SIZE), 99, np.uint8))
    seen = seen_of()
    nowhere = replace(seen.footprints, coverage=np.zeros(len(IDS), np.float32))
    for raster in (None, case.paths.probability):
        known = gather(IDS.tolist(), replace(seen, footprints=nowhere), 0.01, raster=raster)
        assert (len(known.rows), len(known.footprints)) == (0, 0)
        assert known.table.iloc[:, 1:].isna().all().all()


def test_too_few_misfits_tell_nothing():
    assert gather(IDS.tolist(), seen_of(misfits=29), 0.5).misfits is None
    assert len(gather(IDS.tolist(), seen_of(misfits=30), 0.5).misfits) == 30


def test_parts_of_the_town_are_those_of_the_model_or_else_a_chequerboard():
    seen = seen_of()
    dealt = np.arange(len(IDS)) % 3
    known = gather(IDS.tolist(), replace(seen, fold=dealt), 0.5)
    assert known.footprints.fold.tolist() == dealt.tolist()
    assert known.phantoms.fold.tolist() == dealt[seen.phantoms.host].tolist()
    known = gather(IDS.tolist(), replace(seen, fold=np.full(len(IDS), -1)), 0.5)
    assert set(known.footprints.fold) == {0, 1}
    assert known.misfits.fold.tolist() == known.footprints.fold[seen.misfits.host].tolist()
    block = np.floor(known.footprints.place / BLOCK)
    for one in np.unique(block, axis=0):
        assert len(set(known.footprints.fold[(block == one).all(axis=1)])) == 1


def test_pixels_and_photo_speak_for_what_stood(tmp_path):
    buildings = {int(number) + 1: PLOTS[number] for number in BUILT}
    case = load(make_case(tmp_path, buildings))
    values = np.where(photo_of(buildings) == 200, 230, 10).astype(np.uint8)
    write_probability(case, values)
    with open_photo(case) as photo:
        known = gather(IDS.tolist(), seen_of(), 0.5, raster=case.paths.probability, photo=photo)
    table = known.table
    assert table["probability_under"][STOOD].min() > 0.6
    assert table["probability_under"][~STOOD].max() < 0.2
    assert roc_auc_score(STOOD, table["contrast"]) > 0.95
    assert table["contrast"][STOOD].mean() > 2
    assert abs(table["contrast"][~STOOD].mean()) < 1
    assert table["shadow"].notna().all()
    assert known.footprints.table.shape[1] == 1 + 20
    assert known.phantoms.table.shape[1] == 1 + 20
    assert np.isfinite(known.footprints.table).all()


def test_the_side_away_from_the_sun_shows_as_a_shadow(tmp_path):
    buildings = {int(number) + 1: PLOTS[number] for number in BUILT}
    case = load(make_case(tmp_path, buildings))
    write_probability(case, np.full((SIZE, SIZE), 99, np.uint8))
    photo = photo_of({})
    lit = photo_of(buildings) == 200
    shade = np.zeros_like(lit)
    for step in range(1, 7):  # 3 m to the south-east
        shade[step:, step:] |= lit[:-step, :-step]
    photo[shade & ~lit] = 20
    photo[lit] = 110  # as bright as the ground
    write_photo(tmp_path / "photo.tif", photo)
    with open_photo(case) as opened:
        table = gather(IDS.tolist(), seen_of(), 0.5, raster=case.paths.probability, photo=opened).table
    assert roc_auc_score(STOOD, table["shadow"]) > 0.9
    assert table["shadow"][STOOD].mean() > 0.5
    assert table["shadow"][~STOOD].mean() < 0


def test_a_photo_on_which_the_network_leaves_much_open_is_poor():
    seen = seen_of()
    assert gather(IDS.tolist(), seen, 0.5).trust == BY_NETWORK
    half = np.where(np.arange(len(IDS)) % 2, 0.0, seen.footprints.logits[:, 0])[:, None].astype(np.float32)
    poor = replace(seen, footprints=replace(seen.footprints, logits=half))
    assert gather(IDS.tolist(), poor, 0.5).trust == BY_POOR_PHOTO
