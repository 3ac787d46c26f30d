"""generate-training: what the tiles hold, which are taken, and how they are parted."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict

import numpy as np
import pytest
import rasterio
import shapely
from case_fixtures import (
    CRS,
    MARGIN,
    NORTH,
    SIDE,
    SIZE,
    TILE,
    WEST,
    change,
    lattice,
    make_case,
    photo_of,
    rectangle,
    write_photo,
)

from historymap_lib import artifacts
from historymap_lib.errors import FootprintsError, PhotoError, TrainingDataError
from historymap_lib.project import load
from historymap_lib.training_data import IGNORE, PARTS, generate, read_metadata, read_tile, write_raster


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A case with all its tiles."""
    case = load(make_case(tmp_path_factory.mktemp("town")))
    return case, generate(case)


def centres(row, column):
    """Return x and y of the pixel centres of a tile."""
    steps = (np.arange(TILE) + 0.5) * SIDE / TILE
    return np.meshgrid(WEST + column * SIDE + steps, NORTH - row * SIDE - steps)


def across(shape):
    """Say whether a building reaches into several blocks (here a block is a tile)."""
    west, south, east, north = shape.bounds
    return (west - WEST) // SIDE != (east - WEST) // SIDE or (NORTH - south) // SIDE != (NORTH - north) // SIDE


def test_every_tile_of_the_area_is_written_once_with_its_four_files(town):
    case, made = town
    names = [f"tile_{row:04d}_{column:04d}" for row in range(4) for column in range(4)]
    assert made.tiles == len(names)
    assert made.skipped == 0
    for part, suffix in zip(PARTS, (".tif", ".tif", ".tif", ".json"), strict=True):
        assert sorted(path.name for path in (case.paths.training / part).iterdir()) == [name + suffix for name in names]


def test_images_are_the_photo_pixel_by_pixel(town):
    case, _ = town
    photo = photo_of(lattice())
    for item in read_metadata(case.paths.training):
        (image,) = read_tile(case.paths.training, item["tile"], "images")
        top, left = item["row"] * TILE, item["column"] * TILE
        assert (image == photo[top : top + TILE, left : left + TILE]).all()


def test_masks_say_for_each_pixel_centre_what_an_own_test_of_inside_says(town):
    case, _ = town
    buildings = lattice()
    for item in read_metadata(case.paths.training):
        (mask,) = read_tile(case.paths.training, item["tile"], "masks")
        x, y = centres(item["row"], item["column"])
        expected = np.zeros((TILE, TILE), int)
        for shape in buildings.values():
            expected[shapely.contains_xy(shape, x, y)] = 1
        for shape in filter(across, buildings.values()):
            expected[shapely.contains_xy(shape, x, y)] = IGNORE
        if item["row"] == 0:
            expected[:MARGIN] = IGNORE
        assert (mask == expected).all(), item["tile"]
    assert any(map(across, buildings.values()))


def test_the_building_raster_counts_the_ids_of_the_metadata_from_one(town):
    case, _ = town
    buildings = lattice()
    for item in read_metadata(case.paths.training):
        (numbers,) = read_tile(case.paths.training, item["tile"], "buildings")
        x, y = centres(item["row"], item["column"])
        assert item["buildings"] == len(item["building_ids"])
        expected = np.zeros((TILE, TILE), int)
        for number, name in enumerate(item["building_ids"], 1):
            expected[shapely.contains_xy(buildings[int(name.removeprefix("way/"))], x, y)] = number
        assert (numbers == expected).all()


def test_rasters_and_metadata_say_where_the_tile_lies(town):
    case, _ = town
    for item in read_metadata(case.paths.training):
        west, north = WEST + item["column"] * SIDE, NORTH - item["row"] * SIDE
        assert item["bounds"] == [west, north - SIDE, west + SIDE, north]
        assert item["crs"] == CRS
        assert item["source"] == "photo"
        for part, kind in (("images", "uint8"), ("masks", "uint8"), ("buildings", "uint16")):
            with rasterio.open(case.paths.training / part / f"{item['tile']}.tif") as file:
                assert list(file.bounds) == item["bounds"]
                assert (file.crs.to_epsg(), file.shape, file.dtypes[0]) == (25832, (TILE, TILE), kind)


def test_the_manifest_counts_what_was_made(town):
    case, made = town
    manifest = artifacts.read_manifest(case.paths.training)
    assert manifest["tiles"] == made.tiles == sum(manifest["splits"].values())
    assert manifest["footprints"]["kept"] == made.buildings == len(lattice())
    assert manifest["folds"] == {"count": 2, "side": SIDE, "west": WEST, "north": NORTH}
    assert set(manifest["inputs"]) == {
        str(case.paths.root / "photo.tif"),
        str(case.paths.root / "footprints.geojson"),
        str(case.paths.offsets),
    }


def test_the_same_case_gives_the_same_bytes(town, tmp_path):
    case, _ = town
    generate(case, output=tmp_path / "again")
    assert artifacts.fingerprint(tmp_path / "again") == artifacts.fingerprint(case.paths.training)


@pytest.mark.parametrize("count", [1, 5])
def test_exactly_as_many_tiles_as_asked_for_are_written(town, tmp_path, count):
    case, _ = town
    made = generate(case, tiles=count, output=tmp_path / "some")
    assert made.tiles == len(read_metadata(tmp_path / "some")) == count


def test_the_most_useful_tiles_come_first_in_turn_from_each_fold(tmp_path):
    crowded = {1: (0, 1), 2: (2, 2), 3: (3, 3), 4: (1, 0)}
    buildings = {
        100 * copies + copy: rectangle(column * SIDE + 1.1 + 12 * copy, row * SIDE + 20.1)
        for copies, (row, column) in crowded.items()
        for copy in range(copies)
    }
    case = load(make_case(tmp_path, buildings, tiles={"test": 0}))
    generate(case, tiles=4)
    found = read_metadata(case.paths.training)
    assert {(item["row"], item["column"]) for item in found} == set(crowded.values())
    generate(case, tiles=2)
    found = read_metadata(case.paths.training)
    assert {item["buildings"] for item in found} == {4, 3}
    assert {item["fold"] for item in found} == {0, 1}


def test_blank_tiles_and_tiles_without_photo_are_skipped(tmp_path):
    file = make_case(tmp_path)
    photo = photo_of(lattice())
    photo[:TILE, :TILE] = 0
    photo[TILE : 2 * TILE, :TILE] = 128
    photo[2 * TILE : 3 * TILE, : TILE - 8] = 0
    write_photo(tmp_path / "photo.tif", photo)
    made = generate(load(file))
    names = {item["tile"] for item in read_metadata(made.folder)}
    assert made.skipped == 3
    assert not names & {"tile_0000_0000", "tile_0001_0000", "tile_0002_0000"}
    change(file, "tiles", min_valid=0)
    names = {item["tile"] for item in read_metadata(generate(load(file)).folder)}
    assert "tile_0002_0000" in names
    assert "tile_0000_0000" not in names


def test_a_tile_that_stands_over_the_photo_is_padded_with_pixels_to_ignore(tmp_path):
    file = make_case(tmp_path, tiles={"test": 0})
    write_photo(tmp_path / "photo.tif", photo_of(lattice())[:, : SIZE - TILE // 2])
    generate(load(file))
    image, mask = read_tile(load(file).paths.training, "tile_0002_0003", "images", "masks")
    assert (image[:, TILE // 2 :] == 0).all()
    assert (mask[:, TILE // 2 :] == IGNORE).all()
    assert (mask[:, : TILE // 2] != IGNORE).any()


@pytest.mark.parametrize("block", [1, 2])
def test_no_spatial_block_is_in_two_splits(tmp_path, block):
    case = load(make_case(tmp_path, tiles={"block": block, "size": 64, "test": 0.2}))
    generate(case, tiles=64)
    splits = defaultdict(set)
    for item in read_metadata(case.paths.training):
        splits[item["row"] // block, item["column"] // block].add((item["split"], item["fold"]))
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split, _ in found} == {"train", "validation", "test"}


def test_no_building_is_labelled_in_two_folds(tmp_path):
    case = load(make_case(tmp_path, tiles={"size": 64}))
    generate(case, tiles=64)
    folds = defaultdict(set)
    for item in read_metadata(case.paths.training):
        mask, numbers = read_tile(case.paths.training, item["tile"], "masks", "buildings")
        for number in np.unique(numbers[mask == 1]):
            folds[item["building_ids"][number - 1]].add(item["fold"])
    assert folds
    assert all(len(found) == 1 for found in folds.values())


def test_the_tiles_made_before_are_replaced_as_a_whole(tmp_path):
    case = load(make_case(tmp_path))
    generate(case)
    generate(case, tiles=2)
    assert len(list((case.paths.training / "images").iterdir())) == 2
    assert {path.name for path in case.paths.training.parent.iterdir()} == {"training", "training.png"}


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    case = load(make_case(tmp_path))
    precious = tmp_path / "precious"
    precious.mkdir()
    generate(case, output=precious, tiles=1)  # an empty one is free to use
    shutil.rmtree(precious)
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(TrainingDataError, match="precious: exists and was not made by generate-training"):
        generate(case, output=precious)
    with pytest.raises(TrainingDataError, match="was not made by"):
        generate(case, output=precious / "thesis.txt")
    (precious / "manifest.json").write_text('{"step": "apply-annotations"}')
    with pytest.raises(TrainingDataError, match="was not made by"):
        generate(case, output=precious)
    assert (precious / "thesis.txt").read_text() == "years of work"


def test_a_photo_with_nothing_on_it_is_told_and_the_old_tiles_stay(tmp_path):
    case = load(make_case(tmp_path))
    generate(case, tiles=1)
    before = artifacts.fingerprint(case.paths.training)
    write_photo(tmp_path / "photo.tif", np.full((SIZE, SIZE), 77, np.uint8))
    with pytest.raises(TrainingDataError, match="no tile of the area"):
        generate(case)
    assert artifacts.fingerprint(case.paths.training) == before
    assert {path.name for path in case.paths.training.parent.iterdir()} == {"training", "training.png"}


def test_a_photo_that_is_cut_off_is_told(tmp_path):
    case = load(make_case(tmp_path))
    path = tmp_path / "photo.tif"
    path.write_bytes(path.read_bytes()[:60_000])
    with pytest.raises(PhotoError, match=r"photo\.tif: cannot be read to its end"):
        generate(case)
    assert not case.paths.training.exists()


def test_footprints_elsewhere_are_told(tmp_path):
    case = load(make_case(tmp_path, {1: rectangle(9_000, 9_000)}))
    with pytest.raises(FootprintsError, match="photo and footprints must overlap"):
        generate(case)


def test_a_tile_that_is_damaged_or_missing_is_told_with_the_way_out(tmp_path):
    (tmp_path / "images").mkdir()
    write_raster(tmp_path / "images" / "tile.tif", np.ones((4, 4), np.uint8), [0, 0, 2, 2], CRS)
    (tmp_path / "images" / "tile.tif").write_bytes(b"II*\0 no tile")
    for name in ("tile", "other"):
        with pytest.raises(TrainingDataError, match=r"cannot be read .*; run generate-training again"):
            list(read_tile(tmp_path, name, "images"))
    (tmp_path / "metadata").mkdir()
    assert read_metadata(tmp_path) == []
    (tmp_path / "metadata" / "tile_0000_0000.json").write_text(json.dumps({"tile": "tile_0000_0000"}))
    with pytest.raises(TrainingDataError, match="is no tile metadata; run generate-training again"):
        read_metadata(tmp_path)
