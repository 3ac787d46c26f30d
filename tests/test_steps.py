"""The table of steps: what is up to date is skipped, and everything that matters puts it out of date."""

from __future__ import annotations

import json
import shutil
import sys
import types
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
from case_fixtures import (
    SIZE,
    change,
    lattice,
    make_case,
    photo_of,
    save_random_model,
    seen,
    take_first_look,
    write_footprints,
    write_photo,
    write_probability,
)

from historymap_lib import annotations, artifacts, steps
from historymap_lib.annotations import Annotation
from historymap_lib.errors import StepError
from historymap_lib.project import load

RAN, SKIPPED = " tiles in ", "skipped, "


@pytest.fixture
def town(tmp_path):
    """The YAML of a case whose training tiles are up to date."""
    file = make_case(tmp_path, tiles={"count": 3})
    assert RAN in steps.run(load(file), "generate-training")
    return file


@pytest.fixture
def judged(tmp_path):
    """The YAML of a case whose buildings have been judged."""
    file = make_case(tmp_path)
    write_probability(load(file), seen(lattice()))
    annotations.save(load(file).paths.annotations, [Annotation(osm_id=2, existed=True)])
    steps.run(load(file), "verify")
    return file


def test_what_is_up_to_date_is_skipped_and_says_so(town):
    before = artifacts.read_manifest(load(town).paths.training)
    said = steps.run(load(town), "generate-training")
    assert said.startswith("generate-training: skipped, ")
    assert said.endswith("training is up to date (--force runs it all the same)")
    assert artifacts.read_manifest(load(town).paths.training) == before
    assert SKIPPED in steps.run(load(town), "generate-training")


def test_force_runs_it_all_the_same(town):
    assert RAN in steps.run(load(town), "generate-training", force=True)


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda file: write_photo(file.parent / "photo.tif", photo_of({})), id="the photo"),
        pytest.param(
            lambda file: write_footprints(file.parent / "footprints.geojson", dict(list(lattice().items())[:90])),
            id="the footprints",
        ),
        pytest.param(lambda file: change(file, "tiles", count=4), id="a setting"),
        pytest.param(lambda file: change(file, "photo", year=1938), id="a setting of another section"),
        pytest.param(lambda file: shutil.rmtree(load(file).paths.training), id="the artifact is gone"),
        pytest.param(lambda file: (load(file).paths.training / "manifest.json").unlink(), id="the manifest is gone"),
        pytest.param(
            lambda file: (load(file).paths.training / "manifest.json").write_text('{"step": "generate-training"}'),
            id="the manifest is damaged",
        ),
    ],
)
def test_a_change_of_what_it_was_made_from_makes_it_run(town, act):
    act(town)
    if not artifacts.manifest_path(load(town).paths.training).exists():
        shutil.rmtree(load(town).paths.training, ignore_errors=True)  # without a manifest it is a foreign folder
    assert RAN in steps.run(load(town), "generate-training")
    assert SKIPPED in steps.run(load(town), "generate-training")


def test_a_setting_that_does_not_matter_for_a_step_does_not_make_it_run(town):
    change(town, "verification", existed_from=0.8)
    assert SKIPPED in steps.run(load(town), "generate-training")


def test_a_touched_file_with_the_same_content_does_not_make_it_run(town):
    (town.parent / "photo.tif").touch()
    assert SKIPPED in steps.run(load(town), "generate-training")


@pytest.mark.parametrize("module", ["training_data", "imagery", "footprints", "tiles"])
def test_changed_code_makes_it_run(town, monkeypatch, module):
    true = artifacts.code_fingerprint
    monkeypatch.setattr(
        artifacts, "code_fingerprint", lambda name: true(name) + "x" * (name == f"historymap_lib.{module}")
    )
    assert RAN in steps.run(load(town), "generate-training")
    assert SKIPPED in steps.run(load(town), "generate-training")


def test_another_parameter_makes_it_run_and_the_same_one_does_not(town):
    assert RAN in steps.run(load(town), "generate-training", tiles=2)
    assert SKIPPED in steps.run(load(town), "generate-training", tiles=2)
    assert RAN in steps.run(load(town), "generate-training", tiles=5)


def test_to_be_written_elsewhere_makes_it_run(town, tmp_path):
    for _ in range(2):
        assert RAN in steps.run(load(town), "generate-training", output=tmp_path / "elsewhere")
    assert SKIPPED in steps.run(load(town), "generate-training")


@pytest.mark.parametrize("name", ["probability", "footprints", "annotations", "new annotations", "threshold"])
def test_verify_runs_when_what_it_reads_has_changed(judged, name):
    case = load(judged)
    assert SKIPPED in steps.run(case, "verify")
    if name == "probability":
        write_probability(case, np.full((SIZE, SIZE), 80, np.uint8))
    elif name == "footprints":
        write_footprints(judged.parent / "footprints.geojson", dict(list(lattice().items())[:90]))
    elif name == "annotations":
        case.paths.annotations.unlink()
    elif name == "new annotations":
        annotations.add(case.paths.annotations, [Annotation(osm_id=4, existed=False)])
    else:
        change(judged, "verification", existed_from=0.8)
    assert SKIPPED not in steps.run(load(judged), "verify")
    assert SKIPPED in steps.run(load(judged), "verify")


@pytest.fixture
def looks(monkeypatch):
    """The cases of which a first look was taken, which here needs no weights."""
    taken = []

    def look(case, *, force):
        taken.append(f"{case.name} anew" if force else case.name)
        take_first_look(case)

    spec = ModuleSpec("ml.first_look", None)
    monkeypatch.setitem(sys.modules, spec.name, types.SimpleNamespace(look=look, __spec__=spec))
    return taken


def test_a_first_look_needs_no_other_step_and_is_taken_when_it_is_due(tmp_path, looks):
    case = load(make_case(tmp_path))
    with pytest.raises(StepError, match="verify needs what predict makes"):
        steps.check(case, "verify", {"quick": False})
    assert steps.check(case, "verify", {"quick": True}).name == "verify"
    assert steps.run(case, "verify", quick=True).startswith(f"verify: {case.paths.verified}: first look: ")
    assert SKIPPED in steps.run(case, "verify", quick=True)
    assert looks == ["town"]
    annotations.save(case.paths.annotations, [Annotation(osm_id=2, existed=True)])
    assert SKIPPED not in steps.run(case, "verify", quick=True)
    assert SKIPPED not in steps.run(case, "verify", quick=True, force=True)
    assert len(looks) == 3
    assert steps.arguments(steps.find("verify"), {"quick": True}) == ["--quick"]


def test_after_a_first_look_verify_is_due_and_takes_no_other_one(tmp_path, looks):
    case = load(make_case(tmp_path))
    steps.run(case, "verify", quick=True)
    write_probability(case, seen(lattice()))
    for parameters in ({}, {"quick": False}, {"quick": None}):
        assert steps.why_outdated(case, steps.find("verify"), parameters) == "it was a first look"
    assert "first look" not in steps.run(case, "verify")
    assert SKIPPED in steps.run(case, "verify", quick=False)
    assert steps.why_outdated(case, steps.find("verify"), {"quick": True}) == "other parameters are asked for"
    assert looks == ["town"]


def test_corrections_after_a_first_look_judge_by_it_again(town, looks):
    case = load(town)
    steps.run(case, "verify", quick=True)
    annotations.save(case.paths.annotations, [Annotation(osm_id=2, existed=True)])
    steps.run(case, "apply-annotations")
    told = json.loads(case.paths.verified.read_text(encoding="utf-8"))
    assert told["metadata"]["first_look"] is True
    assert told["metadata"]["counts"]["annotated"] == 1


def test_corrections_run_when_annotations_tiles_or_footprints_have_changed(town):
    case = load(town)
    annotations.save(case.paths.annotations, [Annotation(osm_id=2, existed=True)])
    run = lambda: SKIPPED not in steps.run(load(town), "apply-annotations")  # noqa: E731
    assert run()
    assert not run()
    annotations.add(case.paths.annotations, [Annotation(osm_id=4, existed=False)])
    assert run()
    write_footprints(town.parent / "footprints.geojson", dict(list(lattice().items())[:90]))
    assert run()
    assert not run()
    steps.run(load(town), "generate-training", tiles=1)
    assert run()


def test_predict_is_skipped_until_the_model_changes(tmp_path):
    file = make_case(tmp_path, dict(list(lattice().items())[:6]))
    save_random_model(load(file))
    assert SKIPPED not in steps.run(load(file), "predict")
    assert SKIPPED in steps.run(load(file), "predict")
    load(file).paths.model.write_bytes(load(file).paths.model.read_bytes() + b"\0")
    assert SKIPPED not in steps.run(load(file), "predict")


def test_an_unknown_step_or_parameter_is_told(town):
    with pytest.raises(StepError, match="there is no step dance; the steps are generate-training, train"):
        steps.run(load(town), "dance")
    with pytest.raises(StepError, match="verify takes no colour; it takes quick"):
        steps.run(load(town), "verify", colour="red")
    with pytest.raises(StepError, match="predict takes no colour; it takes no parameters"):
        steps.run(load(town), "predict", colour="red")
    with pytest.raises(StepError, match="train takes no tiles; it takes epochs, resume"):
        steps.run(load(town), "train", tiles=3)
    with pytest.raises(StepError, match="train: epochs is '5', but it should be a whole number of 1 or more"):
        steps.run(load(town), "train", epochs="5")


def test_every_step_of_the_table_has_its_function_and_a_line_of_help():
    for name, step in steps.STEPS.items():
        assert step.name == name
        assert callable(step.load())
        assert step.help[0].islower()
        assert not step.help.endswith(".")
    assert set(steps.ALL) < set(steps.STEPS)


def test_the_manifest_traces_what_was_made_from_what(town):
    manifest = json.loads((load(town).paths.training / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["step"] == "generate-training"
    assert manifest["inputs"][str(town.parent / "photo.tif")] == artifacts.fingerprint(town.parent / "photo.tif")
    assert manifest["settings"]["tiles"]["count"] == 3
    assert manifest["code"]["historymap_lib.tiles"] == artifacts.code_fingerprint("historymap_lib.tiles")
