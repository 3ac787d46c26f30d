"""The status of a case: what is there, and the next step; whatever state the files are in."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta

import pytest
from case_fixtures import change, lattice, make_case, save_random_model, seen, take_first_look, write_probability

from historymap_lib import annotations, artifacts, steps
from historymap_lib.annotations import Annotation
from historymap_lib.jobs import Jobs
from historymap_lib.project import load
from historymap_lib.status import age, read_status
from historymap_lib.verification import verify


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A case with everything but a model trained here."""
    file = make_case(tmp_path_factory.mktemp("town"), tiles={"count": 5})
    case = load(file)
    steps.run(case, "generate-training")
    annotations.save(case.paths.annotations, [Annotation(osm_id=2, existed=True)])
    steps.run(case, "apply-annotations")
    write_probability(case, seen(lattice()))
    steps.run(case, "verify")
    return file


def texts(case):
    return {item.name: item.text for item in read_status(case).items}


def test_of_a_new_case_nothing_is_there_and_the_first_step_is_due(tmp_path):
    case = load(make_case(tmp_path))
    status = read_status(case)
    assert [item.name for item in status.items if item.exists] == ["photo", "footprints"]
    assert status.next == "historymap run generate-training (it has not run yet)"
    assert texts(case)["annotations"] == "0 buildings"


def test_a_first_look_is_offered_told_as_such_and_due_to_be_bettered(tmp_path):
    case = load(make_case(tmp_path))
    assert "before any training: historymap run verify --quick" in read_status(case).table()
    take_first_look(case)
    verify(case, quick=True, picture=False)
    (item,) = [item for item in read_status(case).items if item.name == "verdicts"]
    assert item.text.startswith("first look: ")
    assert item.facts["first_look"] is True
    assert item.outdated == "it was a first look"
    table = read_status(case).table()
    assert "out of date, it was a first look" in table
    assert "before any training" not in table
    assert read_status(case).next == "historymap run generate-training (it has not run yet)"


def test_the_things_are_told_in_numbers_in_the_order_in_which_they_are_made(finished):
    case = load(finished)
    status = read_status(case)
    assert [item.name for item in status.items] == [
        "photo", "footprints", "training tiles", "corrected tiles", "model", "probability", "verdicts", "annotations",
    ]  # fmt: skip
    found = texts(case)
    assert found["training tiles"].startswith("5 tiles (")
    assert found["corrected tiles"].endswith(" tiles")
    assert found["probability"] == "there, but without its manifest"
    counts = artifacts.read_manifest(case.paths.verified)["counts"]
    assert found["verdicts"].startswith(f"{counts['existed']} existed, {counts['not_existed']} not existed, ")
    assert found["annotations"] == "1 building"
    assert status.next == "historymap run train (it has not run yet)"


def test_the_next_step_is_the_first_that_is_out_of_date_and_why(finished):
    change(finished, "tiles", count=6)
    assert read_status(load(finished)).next == "historymap run generate-training (its settings have changed)"
    change(finished, "tiles", count=5)
    assert "generate-training" not in read_status(load(finished)).next


def test_the_table_is_for_people_and_the_dict_for_programs(finished):
    status = read_status(load(finished))
    lines = status.table().splitlines()
    assert lines[0] == "case town"
    assert lines[-1] == f"next: {status.next}"
    assert len(lines) == len(status.items) + 3
    told = json.loads(json.dumps(status.as_dict()))
    assert told["items"][2]["exists"] is True
    assert told["items"][2]["facts"]["tiles"] == 5
    assert told["items"][6]["facts"] == artifacts.read_manifest(load(finished).paths.verified)["counts"]
    assert told["size"] == sum(item["size"] for item in told["items"]) > 0
    assert told["current"] is None


def test_what_is_out_of_date_says_so_where_it_is_listed(finished):
    assert read_status(load(finished)).items[2].outdated is None
    change(finished, "tiles", count=7)
    status = read_status(load(finished))
    change(finished, "tiles", count=5)
    assert status.items[2].outdated == "its settings have changed"
    assert "out of date, its settings have changed" in status.table()


def test_jobs_are_part_of_the_status_and_those_that_run_come_first(tmp_path):
    case = load(make_case(tmp_path, jobs={"idle": 0.5, "grace": 1.0}))
    jobs = Jobs(case)
    done = jobs.submit_command("done", [sys.executable, "-c", ""])
    done.wait(60)
    failed = jobs.submit_command("failed", [sys.executable, "-c", "raise SystemExit(3)"])
    failed.wait(60)
    code = "import time; print('on', flush=True); time.sleep(60)"
    running = jobs.submit_command("running", [sys.executable, "-c", code])
    next(update for update in running.follow() if "on" in update.text)
    waiting = jobs.submit_command("waiting", [sys.executable, "-c", ""])
    status = read_status(case)
    assert status.current["id"] == running.id
    assert [job["name"] for job in status.jobs] == ["running", "waiting", "failed", "done"]
    assert f"job {failed.id}" in status.table()
    assert "exit code 3" in status.table()
    json.dumps(status.as_dict())
    waiting.cancel()
    running.cancel()
    running.wait(60)
    assert read_status(case).current is None


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + b"x" * 200])
def test_a_broken_store_of_jobs_is_told_and_is_no_error(tmp_path, content):
    case = load(make_case(tmp_path))
    case.paths.jobs.mkdir(parents=True)
    (case.paths.jobs / "jobs.db").write_bytes(content)
    status = read_status(case)
    assert status.jobs == []
    assert bool(status.odd) == bool(content)  # an empty file is a store that nobody has written yet


def test_things_that_are_no_files_or_folders_are_no_error(tmp_path):
    case = load(make_case(tmp_path))
    case.paths.training.parent.mkdir(parents=True)
    case.paths.training.write_text("a file where a folder belongs")
    case.paths.verified.mkdir()
    case.paths.models.mkdir(parents=True)
    case.paths.model.symlink_to(tmp_path / "nowhere")
    assert read_status(case).table()


@pytest.mark.parametrize(
    ("seconds", "said"), [(5, "just now"), (61, "1 minute ago"), (7300, "2 hours ago"), (90_000, "1 day ago")]
)
def testages_are_told_in_words(seconds, said):
    assert age((datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()) == said


@pytest.mark.parametrize(
    "manifest", ["", "{", "[]", "{}", '{"inputs": 3, "settings": [], "code": "x", "parameters": null, "made_at": 7}']
)
def test_damaged_manifests_are_told_and_are_no_error(tmp_path, manifest):
    case = load(make_case(tmp_path))
    steps.run(case, "generate-training", tiles=1)
    save_random_model(case)
    write_probability(case, seen(lattice()))
    case.paths.verified.write_text("{}")
    for path in (case.paths.training, case.paths.model, case.paths.probability, case.paths.verified):
        artifacts.manifest_path(path).write_text(manifest)
    status = read_status(case)
    assert status.next.startswith("historymap run generate-training (it")
    assert status.table()


def test_broken_annotations_are_told_and_are_no_error(tmp_path):
    case = load(make_case(tmp_path))
    case.paths.annotations.parent.mkdir(parents=True)
    case.paths.annotations.write_text("{")
    assert "is no JSON" in texts(case)["annotations"]


def test_metrics_of_the_model_are_told(tmp_path):
    case = load(make_case(tmp_path))
    save_random_model(case)
    artifacts.write_manifest(case.paths.model, step="train", inputs=[], settings={}, parameters={}, code=[])
    assert texts(case)["model"] == "there, but without its metrics"
    artifacts.write_json(case.paths.models / "metrics.json", {"validation_iou": 0.5, "tiles": 7})
    assert texts(case)["model"] == "validation IoU 0.500, 7 tiles"
    artifacts.write_json(case.paths.models / "metrics.json", {"validation_iou": None})
    assert "odd" in texts(case)["model"]


def test_what_people_bring_is_told_with_its_year_its_size_and_what_is_wrong_with_it(tmp_path):
    file = make_case(tmp_path, tiles={"count": 2})
    photo, footprints = read_status(load(file)).items[:2]
    assert (photo.text, photo.facts, photo.step) == ("photo.tif, 1937", {"year": 1937}, None)
    assert photo.size == (tmp_path / "photo.tif").stat().st_size
    assert datetime.now(UTC) - datetime.fromisoformat(photo.made_at) < timedelta(hours=1)
    assert (footprints.text, footprints.facts) == ("footprints.geojson", {})  # nobody has read it yet
    steps.run(load(file), "generate-training")
    assert texts(load(file))["footprints"] == "footprints.geojson, 169 buildings"
    content = (tmp_path / "footprints.geojson").read_text()
    (tmp_path / "footprints.geojson").write_text(content + "\n")
    assert texts(load(file))["footprints"] == "footprints.geojson"  # another file, and nobody has read that
    (tmp_path / "photo.tif").unlink()
    (tmp_path / "footprints.geojson").unlink()
    photo, footprints = read_status(load(file)).items[:2]
    assert (photo.exists, footprints.exists) == (False, False)
    assert "there is no such photo" in photo.text
    assert "correct footprints.path" in footprints.text


def test_a_photo_of_several_files_and_footprints_from_elsewhere_are_told(tmp_path):
    file = make_case(tmp_path)
    (tmp_path / "second.tif").write_bytes((tmp_path / "photo.tif").read_bytes())
    change(file, "photo", path=["photo.tif", "second.tif"])
    change(file, "footprints", source="overpass")
    text = file.read_text().replace("  path: footprints.geojson\n", "")
    file.write_text(text)
    photo, footprints = read_status(load(file)).items[:2]
    assert photo.text == "2 files, 1937"
    assert photo.size == 2 * (tmp_path / "photo.tif").stat().st_size
    assert (footprints.exists, footprints.made_at) == (True, None)
    assert footprints.text == "they are fetched from overpass-api.de when they are needed first"


def test_the_step_that_is_due_is_the_first_that_is_out_of_date(finished):
    assert read_status(load(finished)).due == "train"
    change(finished, "tiles", count=6)
    assert read_status(load(finished)).due == "generate-training"
    change(finished, "tiles", count=5)
