"""The command that makes the weights of the package: weights, cards and a text that agree, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rasterio.features
import torch
from outline_fixtures import UTM, house
from rasterio.transform import from_origin

from historymap_lib.errors import ModelError
from historymap_lib.settings import Model
from ml import checkpoint, lessons, pretrain
from ml.checkpoint import OUTLINES, PIXELS, footprint_network, save_weights, shipped
from ml.footprint_network import FootprintNetwork
from ml.footprint_training import FOOTPRINT, MISFIT, PHANTOM
from ml.lessons import examples_of_roofs, paint_lesson
from ml.model import build
from ml.weights_card import README

SMALL = ["--metres", "300", "--steps", "2", "--unet-steps", "1", "--device", "cpu", "--processes", "1", "--towns", "2"]


@pytest.fixture(scope="module")
def lesson():
    return paint_lesson(1000, 300.0)


@pytest.fixture
def towns(lesson, monkeypatch):
    """Let the same painted town stand for all of them: painting takes seconds."""
    monkeypatch.setattr(pretrain, "paint_lessons", lambda count, *_: [lesson] * count)
    monkeypatch.setattr(pretrain, "HELD_BACK", 2)


@pytest.fixture(scope="module")
def roofs(tmp_path_factory):
    """A photo of 24 roofs, a corner of which has no data, with pixels that are not quite square."""
    folder = tmp_path_factory.mktemp("roofs")
    east, south = (28.0 * place + 20 for place in np.divmod(np.arange(24), 5))
    shapes = np.array([house(569_000 + x, 7_034_000 - y, 11, 8, x) for x, y in zip(east, south, strict=True)])
    photo = np.full((300, 320), 80, np.uint8)
    transform = from_origin(569_000, 7_034_000, 0.5, 0.52)
    photo[rasterio.features.geometry_mask(shapes, photo.shape, transform, invert=True)] = 190
    photo[:60, :60] = 0
    with rasterio.open(
        folder / "here.tif", "w", driver="GTiff", dtype="uint8", count=1, nodata=0, crs=UTM.to_wkt(),
        width=320, height=300, transform=transform,
    ) as file:  # fmt: skip
        file.write(photo, 1)
    frame = gpd.GeoDataFrame({"building": ["yes"] * 24}, geometry=shapes, crs=UTM)
    frame.to_file(folder / "here.geojson", driver="GeoJSON", engine="pyogrio")
    return folder


def test_a_painted_town_teaches_what_stood_and_what_did_not(lesson):
    examples = lesson.examples
    assert lesson.photo.shape == lesson.mask.shape
    assert lesson.photo[lesson.mask == 1].mean() != lesson.photo[lesson.mask == 0].mean()
    footprints = examples.kind == FOOTPRINT
    assert set(examples.label[footprints]) == {0, 1}
    assert set(examples.kind) == {FOOTPRINT, PHANTOM, MISFIT}
    assert not examples.label[~footprints].any()
    assert examples.placed.tolist() == footprints.tolist()
    stood = footprints & (examples.label == 1)
    assert examples.weight[stood].sum() == pytest.approx(lessons.STOOD)
    assert [examples.weight[examples.kind == kind].sum() for kind in range(3)] == pytest.approx([1, 1, 1])


def test_both_weights_come_with_cards_and_a_text_that_says_the_same(towns, roofs, tmp_path, monkeypatch):
    pretrain.main([*SMALL, "--roofs", str(roofs), "--output", str(tmp_path / "weights")])
    folder = tmp_path / "weights"
    assert {file.name for file in folder.iterdir()} == {OUTLINES, PIXELS, "footprint.json", "unet.json", README}
    text = (folder / README).read_text(encoding="utf-8")
    for name in (OUTLINES, PIXELS):
        card = json.loads((folder / name).with_suffix(".json").read_text(encoding="utf-8"))
        assert card["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert card["bytes"] == (folder / name).stat().st_size <= 2e6
        assert len(card["held_back"]) == pretrain.HELD_BACK
        assert (card["towns"], card["device"]) == (2, "cpu")
        assert card["command"].startswith("python -m ml.pretrain --metres 300 --steps 2 ")
        assert str(tmp_path) not in json.dumps(card)
        for said in (card["sha256"], card["command"], f"{card['steps']:,} steps"):
            assert said in text
    outlines = json.loads((folder / "footprint.json").read_text(encoding="utf-8"))
    assert outlines["roofs"] == ["here"]
    for said in ("OpenAerialMap, CC BY 4.0", "ODbL 1.0", "**Never** trained on any set of Banepa"):
        assert said in text
    assert f"{np.mean([town['auc'] for town in outlines['held_back']]):.3f}" in text
    monkeypatch.setattr(checkpoint, "WEIGHTS", folder)
    assert isinstance(footprint_network(), FootprintNetwork)
    build(Model()).load_state_dict(shipped(PIXELS))


def test_one_network_can_be_made_alone_and_real_roofs_are_not_needed(towns, tmp_path):
    pretrain.main([*SMALL, "--only", "footprint", "--output", str(tmp_path)])
    made = (tmp_path / OUTLINES).read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {OUTLINES, "footprint.json", README}
    text = (tmp_path / README).read_text(encoding="utf-8")
    assert "Real roofs" not in text
    assert PIXELS not in text
    pretrain.main([*SMALL, "--only", "unet", "--output", str(tmp_path)])
    assert (tmp_path / OUTLINES).read_bytes() == made
    text = (tmp_path / README).read_text(encoding="utf-8")
    assert OUTLINES in text
    assert PIXELS in text


def test_a_training_that_fails_leaves_what_was_there(towns, tmp_path, monkeypatch):
    pretrain.main([*SMALL, "--only", "footprint", "--output", str(tmp_path)])
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def broken(*_, **__):
        raise ModelError("it has run away")

    monkeypatch.setattr(pretrain, "fit", broken)
    with pytest.raises(ModelError, match="run away"):
        pretrain.main([*SMALL, "--output", str(tmp_path)])
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_real_roofs_stand_and_only_those_on_the_photo_are_shown(roofs):
    (examples,) = examples_of_roofs(roofs)
    footprints = examples.kind == FOOTPRINT
    assert 10 < footprints.sum() < 24  # some lie where there is no data
    assert (examples.label[footprints] == 1).all()
    assert not examples.placed.any()
    assert examples.weight[footprints].sum() == pytest.approx(lessons.ROOFS)
    assert examples.chips.take(footprints).coverage().min() > 0.99
    inside = examples.chips.photo[footprints][:, 16:-16, 16:-16][examples.chips.distance[footprints] > 16]
    assert (inside > 150).mean() > 0.98


def test_a_folder_without_roofs_is_told_before_anything_is_painted(tmp_path):
    with pytest.raises(ModelError, match="there is no photo of roofs"):
        pretrain.main([*SMALL, "--roofs", str(tmp_path), "--output", str(tmp_path / "weights")])
    assert not (tmp_path / "weights").exists()


def test_weights_keep_their_numbers_to_three_digits(tmp_path):
    torch.manual_seed(0)
    network = FootprintNetwork()
    save_weights(tmp_path / "new" / OUTLINES, network)
    found = checkpoint.read_checkpoint(tmp_path / "new" / OUTLINES, checkpoint.WEIGHTS_FORMAT, "")["state"]
    for name, value in network.state_dict().items():
        assert torch.allclose(found[name].float(), value.float(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then nothing"], ids=["empty", "cut off"])
def test_weights_of_the_package_that_are_missing_or_damaged_are_told(tmp_path, monkeypatch, content):
    monkeypatch.setattr(checkpoint, "WEIGHTS", tmp_path)
    with pytest.raises(ModelError, match=r"footprint\.pth: there is no model; install historymap again"):
        footprint_network()
    (tmp_path / OUTLINES).write_bytes(content)
    with pytest.raises(ModelError, match=r"footprint\.pth: is no model .*; install historymap again"):
        footprint_network()
    torch.save({"format": "another"}, tmp_path / OUTLINES)
    with pytest.raises(ModelError, match=r"is no model of historymap"):
        footprint_network()


def test_the_weights_go_into_the_wheel():
    root = Path(__file__).parents[1]
    build_of = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    wheel = build_of["targets"]["wheel"]
    assert checkpoint.WEIGHTS.relative_to(root).parts[0] in wheel["packages"]
    assert not {"exclude", "only-include", "include"} & (set(wheel) | set(build_of))
    ignored = (root / ".gitignore").read_text(encoding="utf-8").split()  # hatch leaves out what git ignores
    assert not [line for line in ignored if "pth" in line or "weights" in line]
