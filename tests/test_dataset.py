"""Training tiles in memory, the labels that are learned from, and crops of them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_fixtures import make_tiles
from torch import nn

from historymap_lib.errors import TrainingDataError
from historymap_lib.tiles import TEST
from ml.dataset import MIN_LABELLED, TileData, as_input, batches, crops_in, load_tiles
from ml.denial import deny

SIZE = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiles(tmp_path_factory.mktemp("case")).paths.training


def blocky_tile(seed=0, size=SIZE, **metadata) -> TileData:
    """Return a tile whose image says its label: 40 is open ground, 210 a building, and 120 is not to be learned."""
    cells = np.random.default_rng(seed).choice(np.array([0, 0, 1, 255], np.uint8), (size // 16, size // 16))
    mask = np.kron(cells, np.ones((16, 16), np.uint8))
    image = np.select([mask == 0, mask == 1], [40, 210], 120).astype(np.uint8)
    index = np.kron(np.cumsum(cells.ravel() == 1).reshape(cells.shape) * (cells == 1), np.ones((16, 16), np.uint16))
    ids = [f"way/{number}" for number in range(1, int(index.max()) + 1)]
    return TileData(image, mask, index, {"tile": f"tile_{seed:04d}_0000", "fold": 0, "building_ids": ids} | metadata)


def test_all_tiles_are_read_with_their_folds_and_buildings(folder):
    tiles = load_tiles(folder)
    assert len(tiles) == 16
    assert {tile.fold for tile in tiles} == {0, 1}
    for tile in tiles:
        assert tile.image.shape == tile.mask.shape == tile.buildings.shape == (64, 64)
        assert tile.buildings.max() == len(tile.ids) == 2
        assert ((tile.buildings > 0) == (tile.mask == 1)).all()


def test_corrected_tiles_take_the_place_of_their_originals(folder, tmp_path):
    names = [path.stem for path in sorted((folder / "images").iterdir())]
    for part in ("images", "masks", "buildings", "metadata"):
        (tmp_path / part).mkdir()
        for name in names[:2]:
            shutil.copy(next((folder / part).glob(f"{name}.*")), tmp_path / part)
    with rasterio.open(tmp_path / "masks" / f"{names[0]}.tif", "r+") as file:
        file.write(np.full((64, 64), 255, np.uint8), 1)
    (tmp_path / "metadata" / f"{names[1]}.json").rename(tmp_path / "metadata" / "tile_0099_0099.json")
    stranger = json.loads((tmp_path / "metadata" / "tile_0099_0099.json").read_text()) | {"tile": "tile_0099_0099"}
    (tmp_path / "metadata" / "tile_0099_0099.json").write_text(json.dumps(stranger))
    originals, tiles = load_tiles(folder), load_tiles(folder, tmp_path)
    assert [tile.metadata["tile"] for tile in tiles] == names
    assert (tiles[0].mask == 255).all()
    assert all((a.mask == b.mask).all() for a, b in zip(originals[1:], tiles[1:], strict=True))


def test_no_tiles_say_to_generate_some(tmp_path):
    with pytest.raises(TrainingDataError, match="holds no training tiles; run generate-training first"):
        load_tiles(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "cut", "other size", "other buildings"])
def test_a_damaged_tile_is_a_sentence(folder, tmp_path, damage):
    shutil.copytree(folder, tmp_path / "tiles")
    victim = sorted((tmp_path / "tiles" / "buildings").iterdir())[3]
    with rasterio.open(victim) as file:
        profile, values = file.profile, file.read(1)
    if damage == "missing":
        victim.unlink()
    elif damage == "cut":
        victim.write_bytes(victim.read_bytes()[:40])
    else:
        wrong = values[:32] if damage == "other size" else values + 7
        with rasterio.open(victim, "w", **profile | {"height": len(wrong)}) as file:
            file.write(wrong, 1)
    with pytest.raises(TrainingDataError, match=r"tile_0000_0003.*; run generate-training again"):
        load_tiles(tmp_path / "tiles")


def test_denied_buildings_are_ignored_but_not_those_that_a_person_judged():
    tile = blocky_tile(annotated={"way/2": "existed"})
    tile.denied = {"way/1", "way/2", "way/999"}
    labels = tile.labels()
    assert (labels[tile.buildings == 1] == 255).all()
    assert (labels[tile.buildings == 2] == 1).all()
    assert (labels[tile.buildings != 1] == tile.mask[tile.buildings != 1]).all()


def test_what_a_person_has_erased_stays_open_ground_when_denied():
    tile = blocky_tile(annotated={"way/1": "not_existed"})
    tile.mask[tile.buildings == 1] = 0
    tile.denied = {"way/1"}
    assert (tile.labels()[tile.buildings == 1] == 0).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([32, 64, 128]), st.integers(1, 8))
def test_image_and_labels_stay_together_under_the_augmentation(seed, crop, batch_size):
    tiles = [blocky_tile(seed=number) for number in range(3)]
    drawn = batches(tiles, crop=crop, batch_size=batch_size, count=2, rng=np.random.default_rng(seed))
    for images, labels in drawn:
        assert images.shape == labels.shape == (batch_size, 1, crop, crop)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.uint8)
        assert torch.isfinite(images).all()
        assert set(labels.unique().tolist()) <= {0, 1, 255}
        for image, label in zip(images[:, 0], labels[:, 0], strict=True):
            bright, dark = image[label == 1], image[label == 0]
            if min(bright.numel(), dark.numel()) > 64:
                middle = (bright.median() + dark.median()) / 2
                right = torch.cat([bright > middle, dark < middle]).float().mean()
                assert right > 0.85  # the edges are blurred, and some grain is put on
                assert bright.median() > dark.median()


def test_crops_are_the_same_for_a_seed_and_other_for_another():
    def draw(seed):
        return next(batches([blocky_tile()], crop=64, batch_size=4, count=1, rng=np.random.default_rng(seed)))

    first, again, other = draw(1), draw(1), draw(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_half_of_the_labels_of_a_batch_are_known_where_the_tile_is_labelled():
    tile = blocky_tile()
    tile.mask[:] = 0
    tile.mask[:, : SIZE // 2] = 255
    _, labels = next(batches([tile], crop=32, batch_size=64, count=1, rng=np.random.default_rng(0)))
    known = (labels != 255).float().mean((1, 2, 3))
    assert known.mean() > 0.5
    assert (known > 0).float().mean() > 0.9
    assert MIN_LABELLED < 0.5


def test_a_tile_without_labels_does_not_stop_the_batches():
    tile = blocky_tile()
    tile.mask[:] = 255
    _, labels = next(batches([tile], crop=32, batch_size=2, count=1, rng=np.random.default_rng(0)))
    assert (labels == 255).all()


def test_crops_larger_than_the_tiles_are_refused():
    with pytest.raises(TrainingDataError, match=r"have 128 pixels a side, training\.crop asks for 256"):
        next(batches([blocky_tile()], crop=256, batch_size=1, count=1, rng=np.random.default_rng(0)))


def test_an_epoch_covers_the_tiles_once():
    assert crops_in([blocky_tile(), blocky_tile()], 64) == 8
    assert crops_in([blocky_tile()], 128) == 1


def test_a_whole_image_becomes_input_without_touching_it():
    image = blocky_tile().image
    image.setflags(write=False)
    assert as_input(image).shape == (1, 1, SIZE, SIZE)


def mean_of(value):
    """Return a stand-in for a member's probability: the grey values themselves, plus which member was asked."""

    def probability(network, image):
        value.append((network, image))
        return image.astype(np.float32) / 255

    return probability


def town(count, fold, later):
    """Return tiles with bright buildings, of which those whose number divides by `later` are dark: not built yet."""
    tiles = []
    for number in range(count):
        tile = blocky_tile(seed=number, fold=fold(number))
        tile.metadata["building_ids"] = [f"way/{number}-{item}" for item in range(1, len(tile.ids) + 1)]
        noise = np.random.default_rng(number).integers(0, 30, tile.image.shape).astype(np.uint8)
        dark = (tile.buildings > 0) & (tile.buildings % later == 0)
        tile.image = np.where(dark, 40, tile.image).astype(np.uint8) + noise
        tiles.append(tile)
    return tiles


def test_buildings_that_look_like_open_ground_are_denied_and_others_are_not():
    tiles = town(32, lambda number: number % 2, later=4)
    denied = deny(tiles, [nn.Identity(), nn.Identity()], mean_of([]))
    assert set(denied) == {tile.metadata["tile"] for tile in tiles}
    all_ids = {name for tile in tiles for name in tile.ids}
    later = {name for name in all_ids if int(name.rpartition("-")[2]) % 4 == 0}
    found = {name for names in denied.values() for name in names}
    assert found <= later
    assert len(found) > 0.7 * len(later)


def test_only_the_member_that_has_not_learned_from_a_tile_may_deny_there():
    tiles, asked = town(6, lambda number: number % 3, later=4), []
    members = [nn.Identity() for _ in range(3)]
    deny(tiles, members, mean_of(asked))
    assert [members.index(network) for network, _ in asked] == [0, 1, 2, 0, 1, 2]


def test_test_tiles_are_not_looked_at_and_nothing_is_denied_there():
    tiles, asked = town(6, lambda number: TEST if number == 2 else 0, later=4), []
    denied = deny(tiles, [nn.Identity()], mean_of(asked))
    assert len(asked) == 5
    assert denied[tiles[2].metadata["tile"]] == []


def test_with_too_few_buildings_nothing_is_denied():
    tiles = town(1, lambda number: 0, later=4)
    assert deny(tiles, [nn.Identity()], mean_of([])) == {tiles[0].metadata["tile"]: []}
