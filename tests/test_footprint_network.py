"""The footprint network: what it is shown, how it learns, and what the one that comes with the package knows."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from outline_fixtures import examples_of_houses, grid_of, reader, small_town
from sklearn.metrics import roc_auc_score

from historymap_lib.errors import ModelError
from ml.checkpoint import OUTLINES, PIXELS, WEIGHTS, footprint_network
from ml.chips import CHIP, CROP, NEAR, Chips, cut_chips
from ml.footprint_network import UNIT, Augmentation, FootprintNetwork, augmented_crops, plain_crops
from ml.footprint_training import FOOTPRINT, Examples, Plan, ask, fit, rate_at

SQUARE = 7
"""Half the side of the bright square of these chips, in pixels."""


@pytest.fixture(scope="module")
def fresh():
    torch.manual_seed(0)
    return FootprintNetwork((4, 8, 96)).eval()


def chips_of(count, seed=0):
    """Return chips of noise, with frames that lie any way."""
    rng = np.random.default_rng(seed)
    photo = rng.integers(1, 255, (count, CHIP, CHIP), dtype=np.uint8)
    distance = rng.integers(-127, 127, (count, CROP, CROP)).astype(np.int8)
    return Chips(photo, distance, np.stack([*rng.normal(0, 1, (3, count)), rng.uniform(0.4, 2, count)], 1))


def squares(count):
    """Return photo, distance and scale (torch) of bright squares on dark ground with an outline that fits."""
    axis = np.abs(np.arange(CHIP) + 0.5 - CHIP / 2)
    far = np.maximum.outer(axis, axis)
    photo = np.where(far < SQUARE, 200, 60).astype(np.uint8)
    edge = (CHIP - CROP) // 2
    distance = np.clip((SQUARE - far[edge:-edge, edge:-edge]) * NEAR, -127, 127).astype(np.int8)
    many = (torch.from_numpy(np.repeat(one[None], count, axis=0)) for one in (photo, distance))
    return (*many, torch.ones(count))


@settings(max_examples=10)
@given(axis=st.sampled_from([1, 2]), seed=st.integers(0, 99))
def test_a_mirrored_chip_gets_the_same_answer_and_a_mirrored_shift(fresh, axis, seed):
    chips = chips_of(3, seed)
    plain = Chips(chips.photo, chips.distance, np.tile([0.0, 0, 0, 1], (3, 1)))
    mirrored = Chips(np.flip(chips.photo, axis).copy(), np.flip(chips.distance, axis).copy(), plain.frames)
    (logit, embedding, shift), (other, too, moved) = ask(fresh, plain), ask(fresh, mirrored)
    assert other == pytest.approx(logit, abs=1e-4)
    assert too == pytest.approx(embedding, abs=1e-4)
    sign = np.array([-1, 1, 1]) if axis == 2 else np.array([1, -1, 1])
    assert moved == pytest.approx(shift * sign, abs=1e-4)


def test_a_shift_is_told_in_metres_on_the_ground_however_the_frame_lies(fresh):
    chips = chips_of(4)
    pixels = ask(fresh, Chips(chips.photo, chips.distance, np.tile([0.0, 0, 0, 1], (4, 1))))[2]
    angle, scale = chips.frames[:, 2], chips.frames[:, 3]
    turned = np.exp(1j * angle) * (pixels[:, 0] + 1j * pixels[:, 1]) * scale
    found = ask(fresh, chips)[2]
    assert found[:, 0] + 1j * found[:, 1] == pytest.approx(turned, abs=1e-4)
    assert found[:, 2] == pytest.approx(pixels[:, 2] * scale, rel=1e-4)


def test_many_are_asked_in_parts_and_none_gives_nothing(fresh):
    chips = chips_of(300)
    logit, embedding, shift = ask(fresh, chips, mirrored=False)
    assert ask(fresh, chips.take(np.arange(290, 300)), mirrored=False)[0] == pytest.approx(logit[290:], abs=1e-4)
    assert (embedding.shape, shift.shape) == ((300, 192), (300, 3))
    assert [len(part) for part in ask(fresh, chips_of(0))] == [0, 0, 0]


def test_where_the_shift_says_that_the_building_lies_there_it_lies():
    photo, distance, scale = squares(64)
    how = Augmentation(shift=3.0, blur=0.01, grain=0.0, gamma=0.0)
    crops = augmented_crops(photo, distance, scale, how, torch.Generator().manual_seed(2))
    bright = (crops.pixels[:, 0] > 0.8).float()
    axis = torch.arange(CROP) + 0.5 - CROP / 2
    count = bright.sum((1, 2))
    seen = torch.stack([(bright.sum(1) * axis).sum(1), (bright.sum(2) * axis).sum(1)], 1) / count[:, None]
    assert (count > 0.5 * (2 * SQUARE) ** 2).all()
    assert (seen - crops.shift).abs().max() < 0.5
    assert crops.shift.abs().max() > 4  # there was something to find


def test_the_outline_is_turned_and_scaled_with_the_building():
    photo, distance, scale = squares(64)
    how = Augmentation(own_turn=0.0, own_scale=0.0, shift=0.0, far_shift=0.0, blur=0.01, grain=0.0, gamma=0.0)
    crops = augmented_crops(photo, distance, scale, how, torch.Generator().manual_seed(3))
    clear = crops.pixels[:, 1].abs() * UNIT > 1.2
    assert ((crops.pixels[:, 0] > 0.8) == (crops.pixels[:, 1] > 0))[clear].all()


def test_a_photo_is_moved_so_that_what_lay_off_lies_in_the_middle():
    photo, distance, _ = squares(1)
    moved = torch.roll(photo, (3, -5), (1, 2))  # down and left
    crops = plain_crops(moved, distance, torch.tensor([[-5.0, 3.0]]))
    assert crops.pixels[0, 0] == pytest.approx(plain_crops(photo, distance).pixels[0, 0], abs=1e-4)
    assert crops.shift.tolist() == [[5, -3]]


def test_neither_the_brightness_nor_the_contrast_of_a_film_makes_a_difference():
    photo, distance, _ = squares(1)
    darker = (photo.float() * 0.5 + 20).to(torch.uint8)
    plain, other = (plain_crops(one, distance).pixels for one in (photo, darker))
    assert other == pytest.approx(plain, abs=1e-3)


def test_it_learns_to_tell_houses_from_bare_ground_and_a_seed_gives_the_same_weights():
    examples = examples_of_houses()
    plan = Plan(60, batch_size=24, learning_rate=3e-3, learn_shift=True, seed=3)
    networks, losses = [], []
    for _ in range(2):
        torch.manual_seed(1)
        networks.append(fit(FootprintNetwork((8, 16, 96)), examples, plan, losses.append))
    assert len(losses) == 120
    assert losses[:60] == losses[60:]
    assert np.mean(losses[50:60]) < 0.6 * np.mean(losses[:5])
    assert not networks[0].training
    logit = ask(networks[0], examples.chips)[0]
    assert roc_auc_score(examples.label, logit) > 0.95
    for one, other in zip(networks[0].state_dict().values(), networks[1].state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_what_is_never_drawn_teaches_nothing():
    examples = examples_of_houses()
    silly = Examples.of(FOOTPRINT, examples.chips, 1 - examples.label, 0.0)
    plan = Plan(3, batch_size=8)
    weights = []
    for lesson in (examples, Examples.join([examples, silly])):
        torch.manual_seed(1)
        weights.append(fit(FootprintNetwork((4, 8, 96)), lesson, plan).state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_network_that_runs_away_is_told():
    with pytest.raises(ModelError, match=r"has run away while it learned; lower training\.learning_rate"):
        fit(FootprintNetwork((4, 8, 96)), examples_of_houses(), Plan(3, batch_size=8, learning_rate=1e30))


def test_the_learning_rate_rises_first_and_falls_to_nothing():
    rates = [rate_at(position) for position in np.linspace(0, 1, 101)]
    assert max(rates) == rates[5] == 1
    assert rates[:6] == sorted(rates[:6])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-6)


def test_the_network_of_the_package_knows_what_stood_in_a_town_that_it_has_never_seen():
    town = small_town()
    stood = np.array([building.stood for building in town.buildings])
    logit = ask(footprint_network(), cut_chips(reader(town.photo), grid_of(town.photo), town.outlines))[0]
    assert roc_auc_score(stood, logit) > 0.9


@pytest.mark.parametrize("name", [OUTLINES, PIXELS])
def test_the_weights_of_the_package_are_small_and_those_of_their_card(name):
    file = WEIGHTS / name
    assert file.stat().st_size <= 2e6
    card = file.with_suffix(".json")
    facts = json.loads(card.read_text(encoding="utf-8"))
    assert facts["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert facts["sha256"] in (WEIGHTS / "README.md").read_text(encoding="utf-8")
