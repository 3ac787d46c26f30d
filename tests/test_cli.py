"""The command line: what it says, its exit codes, and one sentence for whatever a user can get wrong."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import pytest
from case_fixtures import (
    CRS,
    change,
    lattice,
    make_case,
    rectangle,
    save_random_model,
    seen,
    write_footprints,
    write_probability,
)

from historymap_lib import artifacts, cli, steps
from historymap_lib.project import load
from historymap_lib.training_data import read_metadata

ROOT = Path(__file__).parents[1]
SCRIPTS = {
    "scripts/generate_1937_training_data.py": "generate-training",
    "scripts/verify_1937_buildings.py": "verify",
    "scripts/apply_annotations.py": "apply-annotations",
    "ml/train.py": "train",
    "ml/predict.py": "predict",
}


@pytest.fixture
def town(tmp_path):
    """The YAML of a case."""
    return make_case(tmp_path, tiles={"count": 4})


@pytest.fixture
def historymap(capsys):
    """Return a function that runs the command and returns exit code, standard output, and its own lines of errors."""

    def run(*arguments):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:  # from argparse
            code = stop.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, [line for line in err.splitlines() if line.startswith("historymap")]

    return run


def footprints_without_ids(file):
    frame = gpd.GeoDataFrame({"colour": ["red"]}, geometry=[rectangle(5, 50)], crs=CRS)
    frame.to_file(file.parent / "footprints.geojson", driver="GeoJSON", engine="pyogrio")


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def no_model(file):
    case = load(file)
    case.paths.models.mkdir(parents=True)
    case.paths.model.write_text("a poem")


def other_pickle(file):
    import torch  # noqa: PLC0415 - takes seconds

    case = load(file)
    case.paths.models.mkdir(parents=True)
    torch.save({"weights": 1}, case.paths.model)


def cut_model(file):
    case = load(file)
    save_random_model(case)
    cut(case.paths.model, 2000)


BAD = {
    "no settings": (lambda file: file.unlink(), "generate-training", "there is no such settings file"),
    "YAML that is none": (lambda file: file.write_text("name: [town"), "generate-training", "is no valid YAML"),
    "a typo in a section": (
        lambda file: change(file, "tiles", cuont=5),
        "generate-training",
        "tiles.cuont is not a known key; did you mean count?",
    ),
    "a wrong type": (lambda file: change(file, "tiles", count="many"), "generate-training", "tiles.count is 'many'"),
    "a CRS in degrees": (lambda file: change(file, "area", crs="EPSG:4326"), "generate-training", "in metres"),
    "an empty area": (lambda file: change(file, "area", bounds=[10.4, 63.4, 10.4, 63.5]), "generate-training", "empty"),
    "an area beside the photo": (
        lambda file: change(file, "area", bounds=[11.4, 63.42, 11.5, 63.43]),
        "generate-training",
        "lies outside the photo",
    ),
    "no photo": (lambda file: (file.parent / "photo.tif").unlink(), "generate-training", "there is no such photo"),
    "a truncated photo": (
        lambda file: cut(file.parent / "photo.tif", 50_000),
        "generate-training",
        "cannot be read to its end",
    ),
    "a photo of a few bytes": (lambda file: cut(file.parent / "photo.tif", 6), "generate-training", "is no raster"),
    "a photo by WMS": (
        lambda file: change(file, "photo", source="wms", url="http://localhost", layer="x", path=None),
        "generate-training",
        "photo.path is not a known key",
    ),
    "no footprints": (
        lambda file: (file.parent / "footprints.geojson").unlink(),
        "generate-training",
        "does not exist; correct the path to the footprints",
    ),
    "footprints without ids": (footprints_without_ids, "generate-training", "has no column of building ids"),
    "truncated footprints": (
        lambda file: cut(file.parent / "footprints.geojson", 3000),
        "generate-training",
        "is damaged or no vector file",
    ),
    "footprints elsewhere": (
        lambda file: write_footprints(file.parent / "footprints.geojson", {1: rectangle(9_000, 9_000)}),
        "generate-training",
        "photo and footprints must overlap",
    ),
    "no tiles to learn from": (lambda file: None, "train", "holds no training tiles; run generate-training first"),
    "no tiles to correct": (lambda file: None, "apply-annotations", "holds no training tiles"),
    "no model": (lambda file: None, "predict", "there is no model; run train first"),
    "a text for a model": (no_model, "predict", "is no model that historymap can read; run train first"),
    "another file of torch for a model": (other_pickle, "predict", "is no model of historymap; run train first"),
    "a truncated model": (cut_model, "predict", "is no model that historymap can read"),
    "no probabilities": (lambda file: None, "verify", "there are no probabilities; run predict first"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_is_one_sentence_and_exit_code_2(town, historymap, name):
    spoil, step, words = BAD[name]
    spoil(town)
    code, out, said = historymap("run", step, "--config", town)
    assert code == 2
    assert len(said) == 1
    assert words in said[0]
    assert re.match(r"historymap: \S", said[0])
    assert f"{step}:" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dance"], "invalid choice: 'dance'"),
        (["run", "dance"], "invalid choice: 'dance'"),
        (["run"], "required: STEP"),
        ([], "required: COMMAND"),
        (["run", "verify", "--tiles", "3"], "unrecognized arguments: --tiles 3"),
        (["run", "generate-training", "--tiles", "many"], "--tiles: 'many' is no whole number of 1 or more"),
        (["run", "generate-training", "--tiles", "0"], "'0' is no whole number of 1 or more"),
        (["sample", "--seed=-1"], "'-1' is no whole number of 0 or more"),
        (["evaluate"], "required: --truth"),
    ],
)
def test_wrong_arguments_are_told_with_exit_code_2(historymap, arguments, words):
    code, _, said = historymap(*arguments)
    assert code == 2
    assert words in said[-1]


def test_evaluating_without_a_table_of_truth_is_one_sentence(town, historymap):
    code, _, said = historymap("evaluate", "--config", town, "--truth", town.parent / "none.csv")
    assert code == 2
    assert len(said) == 1
    assert "verify" in said[0]


def test_a_folder_where_a_file_should_be_is_one_sentence(town, historymap):
    for config in (town.parent, town.parent / "photo.tif"):
        code, _, said = historymap("run", "verify", "--config", config)
        assert code == 2
        assert len(said) == 1


def test_a_full_disk_is_one_sentence(town, historymap, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "/data/tile.tif")

    monkeypatch.setattr(steps, "run", full)
    assert historymap("run", "all", "--config", town)[::2] == (
        2,
        ["historymap: /data/tile.tif: No space left on device; make room or give access, and run it again"],
    )


def test_ctrl_c_is_one_sentence_and_exit_code_130(town, historymap, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "run", stop)
    code, _, said = historymap("run", "all", "--config", town)
    assert code == 130
    assert said == ["historymap: interrupted; what was finished is kept, run it again to go on"]


def test_a_training_that_is_cut_off_says_what_goes_on_where_it_was(town, historymap, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "run", stop)
    said = "historymap: interrupted; what was finished is kept, train --resume goes on there"
    assert historymap("run", "train", "--config", town)[::2] == (130, [said])


def test_a_bug_keeps_its_traceback(town, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(steps, "run", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["run", "all", "--config", str(town)])


def test_a_step_says_what_it_made_and_then_that_it_is_up_to_date(town, historymap):
    code, out, _ = historymap("run", "generate-training", "--config", town, "--tiles", 2)
    assert code == 0
    assert "footprints: 169 read: 169 kept" in out
    assert re.search(r"^generate-training: 2 tiles in .*training \(0 skipped; ", out, re.MULTILINE)
    _, out, _ = historymap("run", "generate-training", "--config", town, "--tiles", 2)
    assert out.startswith("generate-training: skipped, ")
    _, out, _ = historymap("run", "generate-training", "--config", town, "--tiles", 2, "--force")
    assert "skipped, " not in out


def test_run_all_does_the_first_four_steps_in_order_and_stops_at_an_error(town, historymap, monkeypatch):
    done = []

    def note(project, name, *, force=False, **parameters):
        done.append((name, force, parameters))
        if name == "predict" and force:
            raise steps.StepError("no")
        return f"{name}: fine"

    monkeypatch.setattr(steps, "run", note)
    code, out, _ = historymap("run", "all", "--config", town)
    assert code == 0
    assert out.splitlines() == ["generate-training: fine", "train: fine", "predict: fine", "verify: fine"]
    done.clear()
    assert historymap("run", "all", "--config", town, "--force")[0] == 2
    assert done == [("generate-training", True, {}), ("train", True, {}), ("predict", True, {})]


def test_annotations_are_applied_from_a_file(town, historymap):
    historymap("run", "generate-training", "--config", town)
    file = town.parent / "a.json"
    file.write_text(json.dumps({"annotations": [{"osm_id": 43, "existed": False}]}))
    code, out, _ = historymap("run", "apply-annotations", "--config", town, "--annotations", file)
    assert code == 0
    assert "1 annotations corrected" in out
    code, _, said = historymap("run", "apply-annotations", "--config", town, "--annotations", town.parent / "none")
    assert code == 2
    assert "name it with --annotations" in said[0]


def test_status_is_for_people_or_for_programs(town, historymap):
    code, out, _ = historymap("status", "--config", town)
    assert code == 0
    assert out.startswith("case town\n")
    assert "next: historymap run generate-training" in out
    code, out, _ = historymap("status", "--config", town, "--json")
    assert json.loads(out)["case"] == "town"


def test_the_config_may_be_named_once_for_all_commands(town, historymap, monkeypatch):
    monkeypatch.setenv("HISTORYMAP_CONFIG", str(town))
    assert historymap("status")[1].startswith("case town\n")


COMMANDS = [[], ["sample"], ["run"], *(["run", name] for name in (*steps.STEPS, "all")), ["status"], ["evaluate"]]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_help_says_what_the_command_does_and_what_each_option_means(historymap, arguments):
    code, out, _ = historymap(*arguments, "--help")
    assert code == 0
    usage, *sections = out.split("\n\n")
    assert usage.startswith(f"usage: {' '.join(['historymap', *arguments])} ")
    assert re.fullmatch(r"[A-Z].+[.?]", sections[0], re.DOTALL)
    for option in re.finditer(r"^ {2}(--?\S+.*?)(?=^ {2}\S|\Z)", sections[-1], re.MULTILINE | re.DOTALL):
        assert len(option[1].split()) >= 3, option[1]


def test_the_help_of_run_names_every_step(historymap):
    _, out, _ = historymap("run", "--help")
    assert all(name in out for name in (*steps.STEPS, "all"))


@pytest.mark.parametrize("script", list(SCRIPTS))
def test_each_script_runs_under_its_known_name(script):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--config" in done.stdout
    options = {f"--{one.flag or one.name}" for one in steps.STEPS[SCRIPTS[script]].parameters}
    assert options <= set(re.findall(r"--\w+", done.stdout))
    assert "(default: ml/config_1937.yaml)" in " ".join(done.stdout.split())


def script(name, *arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / name), run_name="__main__")
    return stop.value.code


def test_the_scripts_turn_the_loop_with_a_config(town, tmp_path, monkeypatch, capsys):
    case = load(town)
    tiles, corrected, file = tmp_path / "tiles", tmp_path / "corrected", tmp_path / "a.json"
    made = script(
        "scripts/generate_1937_training_data.py", "--config", town, "--output", tiles, "--tiles", 3,
        monkeypatch=monkeypatch,
    )  # fmt: skip
    assert made == 0
    assert len(read_metadata(tiles)) == 3
    assert script("scripts/generate_1937_training_data.py", "--config", town, monkeypatch=monkeypatch) == 0
    write_probability(case, seen(lattice()))
    assert script("scripts/verify_1937_buildings.py", "--config", town, monkeypatch=monkeypatch) == 0
    assert case.paths.verified.exists()
    file.write_text(json.dumps({"annotations": [{"osm_id": 2, "existed": True}]}))
    arguments = "--config", town, "--annotations", file, "--output", corrected
    assert script("scripts/apply_annotations.py", *arguments, monkeypatch=monkeypatch) == 0
    assert artifacts.read_manifest(corrected)["step"] == "apply-annotations"
    said = capsys.readouterr()
    assert "apply-annotations: 1 annotations corrected" in said.out
    assert "Traceback" not in said.err


def test_a_script_always_runs_its_step_and_tells_errors_as_the_command_does(town, monkeypatch, capsys):
    for _ in range(2):
        assert script("scripts/generate_1937_training_data.py", "--config", town, monkeypatch=monkeypatch) == 0
        assert "skipped, " not in capsys.readouterr().out
    assert script("scripts/verify_1937_buildings.py", "--config", town, monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("historymap: ")
    assert script("scripts/verify_1937_buildings.py", "--config", "none.yaml", monkeypatch=monkeypatch) == 2


def test_the_installed_command_itself_ends_with_the_exit_code(town):
    command = Path(sys.executable).with_name("historymap")
    done = subprocess.run([command, "run", "verify", "--config", town], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"historymap: [^\n]+; run predict first\n", done.stderr)
    module = [sys.executable, "-m", "historymap_lib.cli", "--version"]
    done = subprocess.run(module, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "historymap")
