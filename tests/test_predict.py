"""From photo and model to the probability raster."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ml_fixtures import NORTH, WEST, make_case, make_tiles, write_photo, write_settings
from outline_fixtures import small_town, write_town
from pyproj import CRS
from rasterio.windows import Window
from sklearn.metrics import roc_auc_score

from historymap_lib import artifacts
from historymap_lib.errors import ModelError, PhotoError
from historymap_lib.outline_evidence import OutlineEvidence, trained_file
from historymap_lib.project import load
from historymap_lib.settings import Model, Prediction
from historymap_lib.tiles import Folds, Grid
from historymap_lib.training_data import generate
from historymap_lib.verification import VERDICTS, verify
from ml import looks
from ml import predict as predicting
from ml import runner as runners
from ml.checkpoint import OUTLINES, WEIGHTS, load_model, save_model
from ml.model import build
from ml.predict import NO_DATA, Layout, _samples, _write_blocks, predict
from ml.runner import FULL, PAYS_OFF, make_runner
from ml.train import train

UTM = CRS.from_epsg(25832)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a case whose model has learned to tell bright from dark."""
    project = make_tiles(tmp_path_factory.mktemp("trained"), training={"epochs": 30})
    train(project)
    return project


class FakePhoto:
    """A photo in memory: grey values on a grid, 0 where there is none."""

    def __init__(self, grey, west=WEST, north=NORTH):
        self.grey = grey
        self.grid = Grid(UTM, west, north, 0.5, grey.shape[1], grey.shape[0])

    def read(self, window):
        found = np.zeros((int(window.height), int(window.width)), np.uint8)
        rows, columns = (np.arange(n) + start for n, start in zip(found.shape, (window.row_off, window.col_off)))  # noqa: B905
        inside = np.ix_((rows >= 0) & (rows < self.grid.height), (columns >= 0) & (columns < self.grid.width))
        found[inside] = self.grey[rows[inside[0].ravel()][:, None], columns[inside[1].ravel()]]
        return found, found > 0


def write(photo, layout, answers, batch=3):
    """Return what `_write_blocks` writes with a runner for each of `answers`, and the share it says is covered."""
    path = "/vsimem/probability.tif"
    covered = _write_blocks(photo, layout, answers, path, batch)
    with rasterio.open(path) as file:
        assert file.transform == photo.grid.transform
        return file.read(1), covered


def constant(value):
    return lambda windows: np.full_like(windows, value)


def textured(height, width, seed):
    """Return grey values 1 to 254, and 0 in a strip and some single pixels without photo."""
    rng = np.random.default_rng(seed)
    grey = rng.integers(1, FULL + 1, (height, width)).astype(np.uint8)
    grey[rng.random(grey.shape) < 0.02] = 0
    grey[: int(rng.integers(0, height)) // 2, : int(rng.integers(0, width))] = 0
    return grey


layouts = {
    "size": st.sampled_from([32, 64, 96]),
    "block": st.integers(1, 3),
    "overlap": st.floats(0, 0.5),
    "height": st.integers(1, 180),
    "width": st.integers(1, 180),
    "count": st.integers(2, 5),
    "east": st.integers(-300, 300),
    "south": st.integers(-300, 300),
    "seed": st.integers(0, 2**32 - 1),
}


def arranged(*, size, block, overlap, height, width, count, east, south, seed):
    """Return a photo of `height` x `width` pixels and its layout, the folds anchored `east` and `south` pixels away."""
    photo = FakePhoto(textured(height, width, seed))
    folds = Folds(count, size * block * 0.5, WEST + east * 0.5, NORTH - south * 0.5)
    return photo, Layout(photo.grid, folds, size, overlap)


@settings(max_examples=60, deadline=None)
@given(value=st.integers(0, FULL), batch=st.integers(1, 5), **layouts)
@example(value=FULL, batch=4, size=64, block=2, overlap=0.5, height=180, width=1, count=2, east=7, south=-9, seed=1)
def test_a_constant_model_gives_exactly_that_constant_wherever_there_is_photo(value, batch, **where):
    photo, layout = arranged(**where)
    found, covered = write(photo, layout, [constant(value)] * where["count"], batch)
    assert (found == np.where(photo.grey > 0, value, NO_DATA)).all()
    assert covered == (photo.grey > 0).mean()


@settings(max_examples=60, deadline=None)
@given(**layouts)
def test_stitching_puts_everything_in_its_place(**where):
    photo, layout = arranged(**where)
    found, _ = write(photo, layout, [lambda windows: np.minimum(windows, FULL)] * where["count"])
    assert (found == np.where(photo.grey > 0, photo.grey, NO_DATA)).all()


@settings(max_examples=60, deadline=None)
@given(**layouts)
def test_every_pixel_is_answered_by_the_member_of_its_fold(**where):
    photo, layout = arranged(**where)
    found, _ = write(photo, layout, [constant(10 * member) for member in range(where["count"])])
    rows, columns = np.nonzero(photo.grey)
    x, y = photo.grid.west + (columns + 0.5) * 0.5, photo.grid.north - (rows + 0.5) * 0.5
    assert (found[rows, columns] == 10 * layout.folds.of(x, y)).all()


@settings(max_examples=60, deadline=None)
@given(**layouts)
def test_windows_are_fit_for_the_network_and_cover_each_block_with_a_margin(**where):
    photo, layout = arranged(**where)
    assert layout.window % 32 == 0
    assert layout.window >= layout.core * (1 + where["overlap"])
    seen = np.zeros(photo.grey.shape, int)
    for block in layout.blocks():
        core = block.core
        seen[core.row_off : core.row_off + core.height, core.col_off : core.col_off + core.width] += 1
        windows = list(layout.windows(block))
        assert min(w.row_off for w in windows) == core.row_off - layout.margin
        assert max(w.col_off + w.width for w in windows) >= core.col_off + core.width + layout.margin
    assert (seen == 1).all()


def test_the_answer_at_a_seam_passes_from_one_window_to_the_next_without_a_step():
    grey = np.broadcast_to(1 + np.arange(1024) // 256, (64, 1024)).astype(np.uint8)
    layout = Layout(FakePhoto(grey).grid, Folds(2, 4096.0, WEST, NORTH), 256, 0.25)
    asked = []

    def by_turns(windows):  # neighbours differ as much as they can
        asked.extend(windows)
        turns = [window[:, layout.window // 2].max() % 2 for window in windows]
        return np.stack([np.full_like(window, FULL * turn) for window, turn in zip(windows, turns, strict=True)])

    found, _ = write(FakePhoto(grey), layout, [by_turns, by_turns], batch=1)
    assert len(asked) == 4
    assert {found[32].min(), found[32].max()} == {0, FULL}
    assert np.abs(np.diff(found[32].astype(int))).max() <= FULL / layout.margin


def test_parts_without_photo_are_not_predicted():
    grey = np.zeros((256, 256), np.uint8)
    grey[:40, :40] = 90
    layout = Layout(FakePhoto(grey).grid, Folds(2, 32.0, WEST, NORTH), 64, 0.0)
    asked = []
    write(FakePhoto(grey), layout, [lambda windows: asked.extend(windows) or windows] * 2)
    assert len(asked) == 1


def test_the_8_bit_form_is_measured_on_windows_that_show_the_photo():
    grey = np.zeros((512, 512), np.uint8)
    grey[:20, :20] = 90  # less than half of any window
    photo = FakePhoto(grey)
    samples = _samples(photo, Layout(photo.grid, Folds(2, 32.0, WEST, NORTH), 64, 0.0))
    assert samples[0].max() == 90
    assert samples.shape[1:] == (64, 64)


def one_model(project, value=0.75, members=2, **facts):
    """Write a model for the case whose members answer `value` whatever they see."""
    settings = Model(widths=[4, 8])
    state = {key: torch.zeros_like(weights) for key, weights in build(settings).state_dict().items()}
    last = [key for key in state if key.startswith("head.")][-1]
    state[last] += float(np.log(value / (1 - value)))
    facts = {"folds": Folds(2, 32.0, WEST, NORTH), "resolution": 0.5, "settings": settings, "metrics": {}} | facts
    save_model(project.paths.model, states=[state] * members, **facts)


@pytest.mark.parametrize(
    ("runtime", "precision"), [("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32"), ("openvino", "int8")]
)
def test_a_constant_network_fills_the_raster_with_its_constant(tmp_path, runtime, precision):
    project = make_case(tmp_path, 128, prediction={"runtime": runtime, "precision": precision})
    one_model(project)
    predict(project, picture=False)
    with rasterio.open(project.paths.probability) as file:
        values = np.unique(file.read(1))
    assert len(values) == 1
    assert abs(int(values[0]) - 0.75 * FULL) <= 1


def test_the_raster_is_a_cog_on_the_grid_of_the_case(tmp_path):
    cogeo = pytest.importorskip("rio_cogeo.cogeo")
    project = make_case(tmp_path, 64)
    grey = textured(700, 600, 0)
    write_photo(tmp_path / "photo.tif", grey)
    one_model(project)
    done = predict(project)
    valid, errors, notes = cogeo.cog_validate(done.raster, quiet=True)
    assert (valid, errors, notes) == (True, [], [])
    with rasterio.open(done.raster) as file:
        assert (file.dtypes, file.count, file.nodata) == (("uint8",), 1, NO_DATA)
        assert CRS.from_user_input(file.crs) == UTM
        assert file.transform == rasterio.Affine(0.5, 0, WEST, 0, -0.5, NORTH)
        assert (file.height, file.width) == (700, 600)
        assert file.overviews(1) == [2]
        assert file.scales == (1 / FULL,)
        assert ((file.read(1) == NO_DATA) == (grey == 0)).all()
    assert done.covered == (grey > 0).mean()
    assert f"{done.covered:.1%}" in done.summary
    manifest = artifacts.read_manifest(done.raster)
    assert manifest["step"] == "predict"
    files = project.paths.model, tmp_path / "photo.tif", tmp_path / "footprints.geojson", project.paths.offsets
    assert {str(file) for file in (*files, WEIGHTS / OUTLINES)} == set(manifest["inputs"])
    assert (project.paths.predictions / "probability.png").stat().st_size > 0


def test_a_photo_that_does_not_begin_where_the_tiles_began_is_judged_by_the_right_members(tmp_path, monkeypatch):
    project = make_case(tmp_path, 64)
    write_photo(tmp_path / "photo.tif", textured(150, 170, 1), WEST - 41.5, NORTH + 17.0)
    folds = Folds(2, 32.0, WEST, NORTH)
    one_model(project, folds=folds)
    answers = iter([constant(50), constant(200)])
    monkeypatch.setattr(predicting, "make_runner", lambda *_: next(answers))
    predict(project, picture=False)
    with rasterio.open(project.paths.probability) as file:
        values = file.read(1)
        rows, columns = np.nonzero(values != NO_DATA)
        x, y = rasterio.transform.xy(file.transform, rows, columns)
    assert (values[rows, columns] == np.array([50, 200])[folds.of(np.array(x), np.array(y))]).all()


def test_an_old_raster_stays_whole_until_the_new_one_is_finished(tmp_path, monkeypatch):
    project = make_case(tmp_path, 128)
    one_model(project)
    before = predict(project, picture=False).raster.read_bytes()

    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(predicting, "make_runner", lambda *_: broken)
    with pytest.raises(KeyboardInterrupt):
        predict(project, picture=False)
    monkeypatch.undo()
    assert project.paths.probability.read_bytes() == before
    assert not list(project.paths.predictions.glob(f"{artifacts.PARTIAL}*"))
    one_model(project, value=0.25)
    assert predict(project, picture=False).raster.read_bytes() != before


def test_breaking_off_waits_for_the_batches_at_work_alone():
    photo = FakePhoto(np.full((64, 64 * 40), 9, np.uint8))
    layout = Layout(photo.grid, Folds(2, 32.0, WEST, NORTH), 64, 0.0)
    asked = []

    def interrupted(windows):
        asked.append(len(windows))
        if len(asked) == 3:
            raise KeyboardInterrupt
        time.sleep(0.01)
        return windows

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        write(photo, layout, [interrupted, interrupted])
    assert len(asked) <= 3 + predicting.AHEAD
    assert threading.active_count() == before


def test_answers_that_come_out_of_order_are_put_in_their_places():
    photo = FakePhoto(textured(300, 400, 3))
    layout = Layout(photo.grid, Folds(2, 32.0, WEST, NORTH), 64, 0.25)

    def slow_now_and_then(windows):
        time.sleep(0.005 * (int(windows.sum()) % 3))
        return windows

    found, _ = write(photo, layout, [slow_now_and_then] * 2)
    assert (found == np.where(photo.grey > 0, photo.grey, NO_DATA)).all()


def test_a_model_of_another_resolution_is_refused(tmp_path):
    project = make_case(tmp_path, 64)
    one_model(project, resolution=0.2)
    with pytest.raises(ModelError, match=r"has learned at 0\.2 m a pixel, .*case\.yaml asks for 0\.5; set tiles\.reso"):
        predict(project)


def test_without_a_model_nothing_is_written(tmp_path):
    project = make_case(tmp_path, 64)
    with pytest.raises(ModelError, match=r"best_model\.pth: there is no model; run train first"):
        predict(project)
    assert not project.paths.predictions.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then nothing", b"<html>Not found</html>"], ids=str)
def test_a_damaged_model_is_refused(tmp_path, content):
    project = make_case(tmp_path, 64)
    project.paths.model.parent.mkdir(parents=True)
    project.paths.model.write_bytes(content)
    with pytest.raises(ModelError, match=r"best_model\.pth: is no model .*; run train first"):
        predict(project)


def test_a_photo_that_is_gone_is_told(tmp_path):
    project = make_case(tmp_path, 64)
    one_model(project)
    (tmp_path / "photo.tif").unlink()
    with pytest.raises(PhotoError, match="there is no such photo"):
        predict(project)


def test_a_trained_model_finds_the_houses_that_the_photo_shows(trained):
    predict(trained)
    with rasterio.open(trained.paths.probability) as file, rasterio.open(trained.resolve("photo.tif")) as photo:
        values, grey = file.read(1).astype(int), photo.read(1)
    assert values[grey > 150].mean() > values[grey < 100].mean() + 80


def test_the_footprint_network_learns_from_the_case_and_each_member_judges_its_own_fold(tmp_path, monkeypatch):
    monkeypatch.setattr(looks, "MOST_PHANTOMS", 150)
    monkeypatch.setattr(looks, "MOST_MISFITS", 150)
    settings = {"epochs": 1, "outline_steps": 2, "outline_rounds": 1}
    project = load(write_town(tmp_path, training=settings, tiles={"count": 8, "size": 64}))
    generate(project)
    assert train(project).metrics["outlines"] is True
    model = load_model(project.paths.model)
    assert len(model.outlines) == model.folds.count == 2
    predict(project, picture=False)
    seen = OutlineEvidence.read(trained_file(project))
    middle = shapely.get_coordinates(shapely.centroid(seen.footprints.shapes))
    assert seen.fold.tolist() == model.folds.of(*middle.T).tolist()
    assert seen.footprints.logits.shape == (len(seen.building_id), 2)
    assert min(len(seen.phantoms), len(seen.misfits)) >= 30
    stood = np.array([building.stood for building in small_town().buildings])
    found = dict(zip(seen.building_id.tolist(), seen.footprints.logits, strict=True))
    logits = np.array([found[f"way/{number}"] for number in range(1, len(stood) + 1)])
    assert min(roc_auc_score(stood, column) for column in logits.T) > 0.85
    made = verify(project, picture=False)
    assert sum(made.counts[name] for name in VERDICTS) == len(stood)
    frame = gpd.read_file(project.paths.verified.with_suffix(".gpkg")).set_index("osm_id").sort_index()
    judged = frame["probability"].notna().to_numpy()
    assert roc_auc_score(stood[judged], frame["probability"][judged]) > 0.85


@pytest.fixture(scope="module")
def by_torch(trained):
    """Return a trained member, windows of the photo and what torch answers to them in 32 bits."""
    member = load_model(trained.paths.model).members[0]
    with rasterio.open(trained.resolve("photo.tif")) as photo:
        windows = np.stack([photo.read(1, window=Window(x, 0, 64, 64)) for x in range(0, 192, 16)])
    return member, windows, make_runner(member, Prediction(runtime="torch", precision="fp32"), windows)(windows)


@pytest.mark.parametrize(("precision", "most", "mean"), [("fp32", 1, 0.01), ("bf16", 40, 1.5), ("int8", 120, 8)])
def test_openvino_answers_what_torch_answers(by_torch, precision, most, mean):
    member, windows, expected = by_torch
    found = make_runner(member, Prediction(runtime="openvino", precision=precision), windows)(windows)
    assert expected.std() > 20  # there is something to get wrong
    assert (found.shape, found.dtype) == (windows.shape, np.uint8)
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= most
    assert difference.mean() <= mean


def test_a_runner_answers_a_batch_of_any_length_and_each_window_for_itself(by_torch):
    member, windows, expected = by_torch
    runner = make_runner(member, Prediction(runtime="openvino", precision="fp32"), windows)
    for start, end in ((0, 1), (1, 4), (4, 12)):
        assert np.abs(runner(windows[start:end]).astype(int) - expected[start:end]).max() <= 1


@pytest.mark.parametrize(
    ("precision", "pixels", "used"),
    [("auto", PAYS_OFF, "int8"), ("auto", PAYS_OFF - 1, "auto"), ("fp32", 10 * PAYS_OFF, "fp32"), ("int8", 1, "int8")],
)
def test_8_bits_are_chosen_only_where_they_pay(monkeypatch, precision, pixels, used):
    monkeypatch.setattr(runners, "_OpenVino", lambda network, precision, samples: precision)
    chosen = make_runner(None, Prediction(runtime="openvino", precision=precision), np.zeros((1, 32, 32)), pixels)
    assert chosen == used


def test_the_pixels_of_a_member_decide_about_8_bits(tmp_path, monkeypatch):
    project = make_case(tmp_path, 128)
    one_model(project)
    asked = []
    monkeypatch.setattr(predicting, "make_runner", lambda *given: asked.append(given[3]) or constant(1))
    predict(project, picture=False)
    assert asked == [128 * 128 // 2] * 2


def test_windows_that_the_network_cannot_halve_are_refused():
    with pytest.raises(ModelError, match="sides must be multiples of 32"):
        make_runner(build(Model(widths=[4, 8])), Prediction(runtime="openvino"), np.zeros((1, 40, 64), np.uint8))


def test_8_bits_are_refused_to_torch():
    with pytest.raises(ModelError, match="int8 needs OpenVINO"):
        make_runner(None, Prediction(runtime="torch", precision="int8"), np.zeros((1, 32, 32), np.uint8))


def test_without_openvino_it_is_torch_unless_openvino_was_asked_for(monkeypatch):
    monkeypatch.setattr(runners, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda _: None)))
    samples = np.zeros((1, 32, 32), np.uint8)
    assert make_runner(build(Model(widths=[4, 8])), Prediction(), samples)(samples).shape == (1, 32, 32)
    with pytest.raises(ModelError, match="openvino is not installed; pip install openvino"):
        make_runner(None, Prediction(runtime="openvino"), samples)


def test_the_command_says_its_result_and_no_runtime_chatters_or_calls_home(trained):
    folder = trained.file.parent
    write_settings(folder, prediction={"runtime": "openvino", "precision": "int8"})
    home = folder / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "ml.predict", "--config", str(trained.file)],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [f"predict: {trained.paths.probability}: 100.0% of the area is on the photo"]
    bars = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()]
    assert bars
    assert all(line.startswith(("predict", "where buildings lie", "outlines")) for line in bars)
    assert not (home / "intel").exists()  # where OpenVINO's telemetry counts
