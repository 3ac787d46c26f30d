"""The training: the same for a seed, whole or not at all, and resumed to the bit."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from ml_fixtures import make_tiles, write_settings

from historymap_lib import artifacts
from historymap_lib.cli import step_main
from historymap_lib.errors import ModelError, TrainingDataError
from historymap_lib.settings import Model
from ml import train as training
from ml.checkpoint import OUTLINES, PIXELS, WEIGHTS, begin_unet, load_model, shipped
from ml.train import train


@pytest.fixture
def project(tmp_path):
    return make_tiles(tmp_path, 128)


def weights_of(project) -> list[torch.Tensor]:
    return [value for member in load_model(project.paths.model).members for value in member.state_dict().values()]


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def interrupted(monkeypatch, after: int) -> None:
    """Let the training stop as by ctrl-C right after it has saved its state for the `after`-th time."""
    save, done = training._Trainer._save, []

    def save_and_stop(self, run):
        save(self, run)
        done.append(1)
        if len(done) == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(training._Trainer, "_save", save_and_stop)


def test_writes_the_model_and_what_is_told_of_it(project):
    done = train(project)
    paths = project.paths
    model = load_model(done.model)
    assert done.model == paths.model
    assert (len(model.members), model.folds.count, model.resolution) == (2, 2, 0.5)
    assert not same(*(list(member.state_dict().values()) for member in model.members))
    metrics = json.loads((paths.models / "metrics.json").read_text())
    assert metrics == done.metrics == model.metrics
    assert 0 <= metrics["validation_iou"] <= 1
    assert metrics["test_iou"] is None  # the case has no test tiles
    assert (metrics["tiles"], metrics["epochs"], metrics["rounds"], metrics["corrected_tiles"]) == (4, 2, 1, 0)
    history = json.loads((paths.models / "history.json").read_text())
    assert [(record["member"], record["epoch"]) for record in history] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert all(math.isfinite(record["loss"]) for record in history)
    assert (paths.models / "history.png").stat().st_size > 0
    assert not (paths.models / "training_state.pth").exists()
    manifest = artifacts.read_manifest(paths.model)
    assert manifest["step"] == "train"
    weights = {str(WEIGHTS / name) for name in (OUTLINES, PIXELS)}
    assert set(manifest["inputs"]) == {str(paths.training), str(paths.corrected)} | weights


def test_a_seed_gives_the_same_weights_and_another_seed_others(project):
    train(project)
    first = weights_of(project)
    train(project)
    assert same(first, weights_of(project))
    train(write_settings(project.file.parent, training={"seed": 2024}))
    assert not same(first, weights_of(project))


def test_a_u_net_of_the_usual_widths_begins_as_that_of_the_package(tmp_path):
    usual = {"widths": Model().widths, "stride": Model().stride}
    project = make_tiles(tmp_path, 128, model=usual, training={"learning_rate": 1e-12, "weight_decay": 0.0})
    train(project)
    package = shipped(PIXELS)
    for member in load_model(project.paths.model).members:
        learnt = dict(member.named_parameters())
        assert all(torch.allclose(values, package[name], atol=1e-6) for name, values in learnt.items())
    assert not same(list(begin_unet(Model(stride=1)).state_dict().values()), list(package.values()))


def test_epochs_given_to_the_call_win_over_the_settings(project):
    assert train(project, epochs=1).metrics["epochs"] == 1


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return a case, its weights and its history after two rounds in one go."""
    project = make_tiles(tmp_path_factory.mktemp("whole"), 128, training={"epochs": 2, "rounds": 2})
    train(project)
    return project, weights_of(project), (project.paths.models / "history.json").read_text()


@pytest.mark.parametrize("after", [1, 2, 5, 9, 10], ids=lambda after: f"save {after}")
def test_resuming_after_any_saved_state_gives_the_weights_of_an_uninterrupted_run(uninterrupted, monkeypatch, after):
    project, weights, history = uninterrupted
    project.paths.model.unlink()
    interrupted(monkeypatch, after)
    with pytest.raises(KeyboardInterrupt):
        train(project)
    monkeypatch.undo()
    assert not project.paths.model.exists()
    train(project, resume=True)
    assert same(weights, weights_of(project))
    assert (project.paths.models / "history.json").read_text() == history


def test_a_killed_training_leaves_the_old_model_and_resumes_to_the_same_weights(tmp_path):
    settings = {"training": {"epochs": 8, "rounds": 2}}
    project, other = (make_tiles(tmp_path / name, 128, **settings) for name in ("killed", "whole"))
    train(project, epochs=1)
    old, state = project.paths.model.read_bytes(), project.paths.models / "training_state.pth"
    process = subprocess.Popen(
        [sys.executable, "-m", "ml.train", "--config", str(project.file)],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _wait_for(state, process)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert state.exists()
    assert project.paths.model.read_bytes() == old
    assert step_main("train", ["--config", str(project.file), "--resume"]) == 0
    assert not list(project.paths.models.glob(f"{artifacts.PARTIAL}*"))
    train(other)
    assert same(weights_of(project), weights_of(other))


def _wait_for(path: Path, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_nothing_to_resume_is_a_sentence(project):
    with pytest.raises(ModelError, match="there is nothing to resume; train without --resume"):
        train(project, resume=True)


def test_a_damaged_state_is_a_sentence(project):
    project.paths.models.mkdir(parents=True)
    (project.paths.models / "training_state.pth").write_bytes(b"half a st")
    with pytest.raises(ModelError, match=r"training_state\.pth: is no model .*train without --resume"):
        train(project, resume=True)


@pytest.mark.parametrize("change", ["settings", "epochs", "tiles", "corrected"])
def test_resuming_with_other_settings_or_tiles_is_refused(project, monkeypatch, change):
    interrupted(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        train(project)
    monkeypatch.undo()
    epochs = None
    if change == "settings":
        project = write_settings(project.file.parent, training={"learning_rate": 0.02})
    elif change == "epochs":
        epochs = 3
    elif change == "tiles":
        mask = next(iter((project.paths.training / "masks").iterdir()))
        mask.write_bytes(mask.read_bytes() + b" ")
    else:
        (project.paths.corrected / "metadata").mkdir(parents=True)
        (project.paths.corrected / "note.txt").write_text("a tile, say")
    with pytest.raises(ModelError, match="belongs to other settings or tiles than today's; train without --resume"):
        train(project, epochs=epochs, resume=True)


def test_patience_stops_a_member_that_no_longer_improves(tmp_path, monkeypatch):
    project = make_tiles(tmp_path, 128, training={"epochs": 12, "patience": 3})
    monkeypatch.setattr(training._Trainer, "_validate", lambda *_: (0.5, 0.5))
    train(project)
    history = json.loads((project.paths.models / "history.json").read_text())
    assert [record["epoch"] for record in history] == [1, 2, 3, 4] * 2


def test_the_weights_of_the_best_epoch_are_kept(tmp_path, monkeypatch):
    project = make_tiles(tmp_path, 128, training={"epochs": 3})
    train(project, epochs=3)
    ious, seen = iter([0.9, 0.1, 0.1] * 2), []

    def validate(_, network, tiles):
        seen.append([value.clone() for value in network.state_dict().values()])
        return next(ious), 0.5

    monkeypatch.setattr(training._Trainer, "_validate", validate)
    train(project)
    assert same(weights_of(project), [*seen[0], *seen[3]])


def test_each_member_learns_from_all_folds_but_its_own(tmp_path, monkeypatch):
    project = make_tiles(tmp_path, 256, tiles={"folds": 3})
    seen = []
    cut = training.batches
    monkeypatch.setattr(training, "batches", lambda tiles, **kwargs: seen.append(tiles) or cut(tiles, **kwargs))
    train(project, epochs=1)
    assert [{tile.fold for tile in tiles} for tiles in seen] == [{1, 2}, {0, 2}, {0, 1}]


def test_test_tiles_are_measured_but_never_learned_from(tmp_path, monkeypatch):
    project = make_tiles(tmp_path, 256, tiles={"test": 0.25})
    seen = []
    cut = training.batches
    monkeypatch.setattr(training, "batches", lambda tiles, **kwargs: seen.append(tiles) or cut(tiles, **kwargs))
    metrics = train(project, epochs=1).metrics
    assert all(tile.fold in (0, 1) for tiles in seen for tile in tiles)
    assert sum(len(tiles) for tiles in seen) == 12
    assert 0 <= metrics["test_iou"] <= 1


def test_too_few_tiles_for_the_folds_is_a_sentence(tmp_path):
    project = make_tiles(tmp_path, 128, tiles={"count": 1})
    with pytest.raises(TrainingDataError, match=r"1 tiles are too few for 2 folds; generate more"):
        train(project)


def test_tiles_without_manifest_are_a_sentence(project):
    artifacts.manifest_path(project.paths.training).unlink()
    with pytest.raises(TrainingDataError, match="has no manifest; run generate-training again"):
        train(project)


def test_pretrained_without_network_is_told_before_anything_else(tmp_path, monkeypatch):
    project = make_tiles(tmp_path, 128, model={"encoder": "resnet18", "pretrained": True})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(training, "load_tiles", lambda *_: pytest.fail("tiles were read first"))
    with pytest.raises(ModelError, match="the weights cannot be had"):
        train(project)


def test_a_training_that_runs_away_says_so_and_leaves_the_old_model(project):
    train(project)
    old = project.paths.model.read_bytes()
    wild = write_settings(project.file.parent, training={"learning_rate": 1e30, "epochs": 6})
    with pytest.raises(ModelError, match=r"has run away.*; lower training\.learning_rate"):
        train(wild)
    assert project.paths.model.read_bytes() == old


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trains_in_either_precision(tmp_path, precision):
    project = make_tiles(tmp_path, 128, training={"precision": precision})
    assert train(project, epochs=1).metrics["precision"] == precision


def test_an_encoder_of_resnet18_trains_and_loads(tmp_path):
    project = make_tiles(tmp_path, 128, model={"encoder": "resnet18"})
    assert train(project, epochs=1).metrics["parameters"] > 10_000_000
    assert len(load_model(project.paths.model).members) == 2
