"""The last layer: probabilities mean what they say, clicks teach what is alike, nothing hangs on chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from historymap_lib.errors import VerificationError
from historymap_lib.last_layer import BY_NETWORK, BY_POOR_PHOTO, FEW, Evidence, LastLayer, Trust, fit_last_layer
from historymap_lib.mixture import fit_lines

ALL_SEEN = Trust(missed=0.0, replaced=0.0)


def evidence(rng, scores, kinds=None):
    """Return evidence whose first number is a score, the second noise; the embedding tells kinds apart."""
    count = len(scores)
    kinds = np.zeros(count, int) if kinds is None else kinds
    embedding = np.eye(4)[kinds] * 3 + rng.normal(0, 0.5, (count, 4))
    place = rng.uniform(0, 1000, (count, 2))
    return Evidence(np.stack([scores, rng.normal(size=count)], 1), embedding, place, rng.integers(0, 3, count))


def town(share, count=1500, apart=4.0, seed=0, lower=0.0):
    """Return whether each footprint stood, footprints and phantoms; what came later scores so much lower than these."""
    rng = np.random.default_rng(seed)
    stood = rng.random(count) < share
    scores = rng.normal(np.where(stood, apart, -lower), 1.3)
    return stood, evidence(rng, scores, rng.integers(0, 4, count)), evidence(rng, rng.normal(0, 1.3, count))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.85])
@pytest.mark.parametrize("lower", [-0.3, 0.0, 0.5])
def test_what_is_claimed_of_either_side_holds_wherever_buildings_came_later(share, lower):
    stood, footprints, phantoms = town(share, lower=lower)
    layer = fit_last_layer(footprints, phantoms, None, trust=ALL_SEEN)
    existed, gone = layer.probability >= 0.9, layer.probability <= 0.1
    assert (existed | gone).mean() > 0.6
    assert stood[existed].mean() > layer.probability[existed].mean() - 0.03
    assert (~stood[gone]).mean() > 1 - layer.probability[gone].mean() - 0.03


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_the_interval_of_the_share_holds_it(share):
    stood, footprints, phantoms = town(share, seed=4)
    middle, low, high = fit_last_layer(footprints, phantoms, None, trust=ALL_SEEN).share
    assert low <= middle <= high
    assert low - 0.03 < stood.mean() < high + 0.03
    assert high - low < 0.3


def test_evidence_that_tells_nothing_gives_no_verdicts():
    rng = np.random.default_rng(0)
    footprints, phantoms = (evidence(rng, rng.normal(size=count)) for count in (300, 600))
    layer = fit_last_layer(footprints, phantoms, None, trust=BY_NETWORK)
    assert ((layer.probability >= 0.9) | (layer.probability <= 0.1)).mean() < 0.02
    assert layer.share[2] - layer.share[1] > 0.2


def test_most_of_a_town_may_have_come_later_on_other_ground_than_phantoms():
    """Then a second number tells later buildings from phantoms better than what stood from either."""
    rng = np.random.default_rng(3)
    stood = rng.random(1000) < 0.2
    ground = np.where(stood, rng.normal(0, 1, 1000), rng.normal(1.5, 1, 1000))
    house, null = rng.normal(np.where(stood, 4, 0), 1.2), rng.normal(0, 1.2, 1000)
    places = rng.uniform(0, 1000, (2, 1000, 2))
    tables = np.stack([house, ground], 1), np.stack([null, rng.normal(0, 1, 1000)], 1)
    fold, nothing = rng.integers(0, 3, 1000), np.zeros((1000, 0))
    groups = [Evidence(table, nothing, place, fold) for table, place in zip(tables, places, strict=True)]
    layer = fit_last_layer(*groups, None, trust=ALL_SEEN)
    assert roc_auc_score(stood, layer.probability) > 0.95
    assert (~stood[layer.probability <= 0.1]).mean() > 0.95


def test_what_evidence_misses_weakens_not_existed_and_what_was_replaced_weakens_existed():
    _, footprints, phantoms = town(0.6)
    plain, missing, replaced = (
        fit_last_layer(footprints, phantoms, None, trust=Trust(*one)).likeliest for one in ((0, 0), (2, 0), (0, 0.05))
    )
    assert missing.min() > plain.min() + 0.005
    assert replaced.max() <= 0.95 < plain.max()


def test_on_a_poor_photo_only_people_say_that_a_building_did_not_exist_and_the_order_stays():
    _, footprints, phantoms = town(0.6)
    sharp, poor = (fit_last_layer(footprints, phantoms, None, trust=trust) for trust in (ALL_SEEN, BY_POOR_PHOTO))
    assert (sharp.probability <= 0.1).mean() > 0.2
    assert poor.probability.min() >= BY_POOR_PHOTO.least
    assert (np.diff(poor.probability[np.argsort(poor.logit)]) > -0.01).all()
    said = np.full(len(footprints), np.nan)
    said[7] = 0
    assert poor.update(said).probability[7] <= 0.1


def test_misfits_that_look_like_houses_make_existed_more_careful():
    rng = np.random.default_rng(5)
    _, footprints, phantoms = town(0.6)
    misfits = evidence(rng, rng.normal(2.5, 1.3, 1000))
    without, with_them = (
        fit_last_layer(footprints, phantoms, one, trust=ALL_SEEN).probability for one in (None, misfits)
    )
    assert (with_them >= 0.9).sum() < (without >= 0.9).sum()


def test_clicks_move_buildings_like_those_judged_and_those_more_than_others():
    stood, footprints, phantoms = town(0.6)
    kind = footprints.embedding.argmax(1)
    layer = fit_last_layer(footprints, phantoms, None, trust=BY_NETWORK)
    doubt = np.argsort(np.abs(layer.logit - 1))[:400]
    asked = doubt[kind[doubt] == 2][:40]
    said = np.full(len(stood), np.nan)
    said[asked] = 0
    after = layer.update(said)
    moved = (after.logit - layer.logit)[np.setdiff1d(doubt, asked)]
    alike = kind[np.setdiff1d(doubt, asked)] == 2
    assert moved[alike].mean() < -0.5
    assert moved[alike].mean() < 2 * moved[~alike].mean() - 0.2
    assert (after.probability[asked] < 0.01).all()
    assert after.update(np.full(len(stood), np.nan)).logit == pytest.approx(layer.logit, abs=1e-3)


def test_true_clicks_leave_as_many_verdicts_and_these_right():
    stood, footprints, phantoms = town(0.6, apart=3.0, seed=2)
    layer = fit_last_layer(footprints, phantoms, None, trust=BY_NETWORK)
    order = np.random.default_rng(0).permutation(len(stood))
    rest = order[300:]
    shares, truths = [], []
    for count in (0, 30, 100, 300):
        said = np.full(len(stood), np.nan)
        said[order[:count]] = stood[order[:count]]
        found = layer.update(said).probability[rest]
        existed, gone = found >= 0.9, found <= 0.1
        shares.append((existed | gone).mean())
        truths.append((stood[rest][existed].mean(), (~stood[rest][gone]).mean()))
    assert (np.diff(shares) > -0.04).all()
    assert shares[-1] >= shares[0]
    assert np.min(truths) > 0.93


def test_the_order_that_teaches_leaves_out_what_is_judged_and_spreads_over_kinds():
    stood, footprints, phantoms = town(0.6)
    said = np.full(len(stood), np.nan)
    said[::2] = stood[::2]
    layer = fit_last_layer(footprints, phantoms, None, said, trust=BY_NETWORK)
    order = layer.teaching_order(40)
    assert len(set(order.tolist())) == 40
    assert np.isnan(said[order]).all()
    assert set(footprints.embedding[order].argmax(1)) == {0, 1, 2, 3}
    assert len(layer.teaching_order(10_000)) == np.isnan(said).sum()
    among = footprints.place[:, 0] < 500
    assert among[layer.teaching_order(50, among)].all()


def test_how_low_a_probability_may_be_is_kept_with_the_layer(tmp_path):
    _, footprints, phantoms = town(0.6)
    layer = fit_last_layer(footprints, phantoms, None, trust=BY_POOR_PHOTO)
    layer.save(tmp_path / "layer.npz")
    assert LastLayer.load(tmp_path / "layer.npz").least == layer.least == BY_POOR_PHOTO.least


def test_a_layer_that_was_saved_is_the_same_and_a_damaged_one_is_told(tmp_path):
    stood, footprints, phantoms = town(0.6, count=200)
    said = np.full(len(stood), np.nan)
    said[:20] = stood[:20]
    layer = fit_last_layer(footprints, phantoms, None, said, trust=BY_NETWORK)
    path = tmp_path / "layer.npz"
    layer.save(path)
    read = LastLayer.load(path)
    assert read.probability == pytest.approx(layer.probability, abs=1e-4)
    assert read.share == pytest.approx(layer.share, abs=1e-4)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(VerificationError, match=r"layer\.npz: cannot be read .*run verify again"):
        LastLayer.load(path)
    with pytest.raises(VerificationError, match="run verify again"):
        LastLayer.load(tmp_path / "absent.npz")


def test_fitting_twice_gives_the_same():
    _, footprints, phantoms = town(0.6, count=300)
    first, again = (fit_last_layer(footprints, phantoms, None, trust=BY_NETWORK) for _ in range(2))
    assert np.array_equal(first.probability, again.probability)


def test_too_few_are_told():
    _, footprints, phantoms = town(0.6, count=FEW - 1)
    with pytest.raises(VerificationError, match=r"29 footprints and 29 phantoms are too few .* 30 of each"):
        fit_last_layer(footprints, phantoms, None, trust=BY_NETWORK)


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(FEW, 80),
    columns=st.integers(1, 5),
    unknown=st.floats(0, 1),
    constant=st.booleans(),
    folds=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_whatever_the_evidence_probabilities_are_probabilities(count, columns, unknown, constant, folds, seed):
    rng = np.random.default_rng(seed)

    def some(number):
        table = rng.normal(size=(number, columns)) * 10.0 ** rng.integers(-3, 4)
        table[rng.random(table.shape) < unknown] = np.nan
        table = np.zeros_like(table) if constant else table
        return Evidence(table, np.zeros((number, 0)), rng.uniform(0, 9, (number, 2)), rng.integers(0, folds, number))

    said = rng.choice([0.0, 1.0, np.nan], count)
    layer = fit_last_layer(some(count), some(count), some(count), said, trust=BY_NETWORK)
    for values in (layer.low, layer.likeliest, layer.high, layer.probability):
        assert values.shape == (count,)
        assert ((values > 0) & (values < 1)).all()
    assert (layer.low <= layer.likeliest).all()
    assert (layer.likeliest <= layer.high).all()
    assert (np.abs(layer.probability - 0.5) <= np.abs(layer.likeliest - 0.5) + 1e-9).all()
    assert ((layer.probability > 0.5) == (said == 1))[~np.isnan(said)].all()


@settings(max_examples=15, deadline=None)
@given(st.floats(0.2, 0.9), st.floats(1.5, 6), st.integers(0, 9))
def test_a_higher_score_is_never_less_probable(share, apart, seed):
    rng = np.random.default_rng(seed)
    scores = rng.normal(np.where(rng.random(500) < share, apart, 0), 1)
    places = [rng.uniform(0, 99, (500, 2)) for _ in range(2)]
    lines = fit_lines(np.sort(scores), [rng.normal(0, 1, 500)], places, ((1.0,),), seed=seed)
    assert (np.diff(lines.probabilities(np.sort(scores), 0.05).mean(0)) >= -1e-12).all()
