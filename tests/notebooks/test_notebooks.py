"""The notebooks as files, and run without a person: by `historymap run all --notebooks`, papermill and nbval."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import case_fixtures
import ml_fixtures
import nbformat
import psutil
import pytest
from bs4 import BeautifulSoup
from job_fixtures import PATIENCE, end_all, gone, until

from historymap_lib import steps
from historymap_lib.annotations import Annotation, save
from historymap_lib.artifacts import PARTIAL, read_manifest
from historymap_lib.batch import NOTEBOOKS
from historymap_lib.jobs import Jobs
from historymap_lib.project import load

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
HISTORYMAP = [sys.executable, "-m", "historymap_lib.cli"]
PAPERMILL = [sys.executable, "-m", "papermill", "--no-progress-bar"]
WIDGET = "application/vnd.jupyter.widget-view+json"
BEYOND = re.compile(
    r"""<(?:script|img|link|iframe|source)\b[^>]*(?:src|href)\s*=\s*["']?\s*(?:https?:)?//"""
    r"""|@import|url\(["']?https?:|import\(["']https?:"""
)
"""What a page would fetch from elsewhere."""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def call(*words: object, **options) -> subprocess.CompletedProcess[str]:
    options = {"env": environment()} | options
    return subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, **options)


def run_all(case, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return call(*HISTORYMAP, "run", "all", "--config", case.file, "--notebooks", folder, *more)


def states(folder: Path) -> list[str]:
    """Return what the index says of each notebook, in order."""
    index = BeautifulSoup((folder / "index.html").read_text(encoding="utf-8"), "html.parser")
    return [one.text for one in index.select(".state")]


def outputs(file: Path) -> list[dict]:
    book = nbformat.read(file, as_version=4)
    return [output for cell in book.cells for output in cell.get("outputs", [])]


def printed(file: Path) -> str:
    """Return what the steps said, without their bars."""
    return "".join(output.get("text", "") for output in outputs(file) if output.get("name") == "stdout")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A case that trains in a second."""
    case = ml_fixtures.make_case(
        tmp_path_factory.mktemp("tiny"), training={"epochs": 1}, jobs={"idle": 1.0, "grace": 5.0}
    )
    yield case
    end_all(case)


@pytest.fixture(scope="session")
def reports(tiny):
    """The reports of a case from nothing, and what was printed."""
    folder = tiny.paths.root / "reports"
    return folder, run_all(tiny, folder)


@pytest.fixture(scope="session")
def judged(tiny, reports):
    """The reports of the same case with everything up to date, when somebody has judged a building: as a job."""
    folder = tiny.paths.root / "judged"
    save(tiny.paths.annotations, [Annotation(osm_id=1, existed=True), Annotation(osm_id=2, existed=False)])
    steps.run(tiny, "verify")
    rows = "".join(f"{number},{number % 2}\n" for number in range(1, 33))
    (tiny.paths.root / "truth.csv").write_text(f"osm_id,existed\n{rows}", encoding="utf-8")
    return folder, run_all(tiny, folder, "--job")


@pytest.fixture(scope="session")
def town(tmp_path_factory):
    """A case with tiles, whose training does not end during a test."""
    endless = {"epochs": 100_000, "patience": 100_000}
    file = case_fixtures.make_case(
        tmp_path_factory.mktemp("town"), tiles={"count": 4}, training=endless, jobs={"idle": 1.0, "grace": 10.0}
    )
    case = load(file)
    steps.run(case, "generate-training")
    yield case
    end_all(case)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_notebook_in_the_repository_is_valid_clean_and_takes_parameters(file):
    content = json.loads(file.read_text(encoding="utf-8"))
    book = nbformat.reads(json.dumps(content), as_version=4)
    nbformat.validate(book)
    assert book.cells[0].cell_type == "markdown"
    assert re.match(r"# \S", book.cells[0].source)
    codes = [cell for cell in book.cells if cell.cell_type == "code"]
    assert codes
    for cell in codes:
        assert cell.outputs == []
        assert cell.execution_count is None
    tagged = [cell for cell in codes if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == codes[:1]
    assert tagged[0].source.startswith("config = None  # ")
    assert "widgets" not in book.metadata


def test_every_step_has_its_notebook_and_every_notebook_is_run_in_order():
    assert [file.stem for file in FILES] == [*NOTEBOOKS, "workbench"]
    assert {name for name in NOTEBOOKS.values() if name} == set(steps.STEPS)
    for name, step in NOTEBOOKS.items():
        source = (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
        assert step is None or f'case.run(\\"{step}\\"' in source


def test_all_notebooks_run_without_a_person_and_leave_reports(tiny, reports):
    folder, done = reports
    assert (done.returncode, states(folder)) == (0, ["done"] * 5 + ["left out"])
    assert done.stdout.splitlines()[-1] == f"reports: {folder / 'index.html'}"
    for name in list(NOTEBOOKS)[:5]:
        assert (folder / f"{name}.html").exists()
        assert [output for output in outputs(folder / f"{name}.ipynb") if output.output_type == "error"] == []
    assert not (folder / "6_apply_annotations.ipynb").exists()
    for step in steps.ALL:
        assert re.search(rf"^{step}: (?!skipped)", done.stdout, re.MULTILINE)  # as it comes, not only in the report
    assert tiny.paths.verified.exists()
    assert "nobody has judged a building yet" in (folder / "index.html").read_text(encoding="utf-8")
    assert not list(folder.glob(f"{PARTIAL}*"))
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", [*list(NOTEBOOKS)[:5], "index"])
def test_a_report_needs_nothing_from_elsewhere_and_holds_its_pictures(reports, name):
    folder, _ = reports
    text = (folder / f"{name}.html").read_text(encoding="utf-8")
    assert BEYOND.findall(text) == []
    page = BeautifulSoup(text, "html.parser")
    sources = [picture["src"] for picture in page.select("img")]
    assert all(source.startswith("data:image/") for source in sources)
    if name == "index":
        assert len(sources) == 4
        links = [link["href"] for link in page.select("a")]
        assert links
        assert all((folder / link).exists() for link in links)
    else:
        pictures = [output for output in outputs(folder / f"{name}.ipynb") if "image/png" in output.get("data", {})]
        assert len(sources) == len(pictures)
        assert len(pictures) == {"4_verify": 2, "5_annotate": 0}.get(name, 1)
        assert page.title.text.startswith(name[0])


def test_a_report_holds_plain_pictures_and_no_widgets_that_would_be_dead(reports):
    folder, _ = reports
    for file in folder.glob("*.ipynb"):
        assert not [output for output in outputs(file) if WIDGET in output.get("data", {})]
    assert "Here will be seen" not in (folder / "2_train.html").read_text(encoding="utf-8")
    assert "up to date" in (folder / "5_annotate.html").read_text(encoding="utf-8")


def test_with_everything_up_to_date_they_run_again_as_a_job_and_learn_from_people(tiny, judged):
    folder, done = judged
    assert (done.returncode, states(folder)) == (0, ["done"] * 6)
    for name, step in list(NOTEBOOKS.items())[:4]:
        assert printed(folder / f"{name}.ipynb").startswith(f"{step}: skipped, ")
    assert "apply-annotations: 2 annotations corrected" in printed(folder / "6_apply_annotations.ipynb")
    measured = outputs(folder / "4_verify.ipynb")
    assert "AUC" in printed(folder / "4_verify.ipynb")
    assert len([output for output in measured if "image/png" in output.get("data", {})]) == 3
    (record,) = Jobs(tiny).recent()
    assert (record.name, record.state, record.result) == ("all", "completed", str(folder / "index.html"))


def test_they_are_tests_as_well(tiny, judged, tmp_path):
    """By nbval; the settings of our own tests are not those of notebooks."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    words = [sys.executable, "-m", "pytest", "--nbval-lax", "-p", "no:cacheprovider", "-q", "-c", "pytest.ini"]
    done = call(*words, ROOT / "notebooks", env=environment(HISTORYMAP_CONFIG=str(tiny.file)), cwd=tmp_path)
    cells = [cell for file in FILES for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]
    assert done.returncode == 0, done.stdout
    assert f"{len(cells)} passed" in done.stdout


def test_a_notebook_that_fails_is_told_and_those_after_it_do_not_run(tmp_path):
    case = load(case_fixtures.make_case(tmp_path))
    (tmp_path / "photo.tif").unlink()
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "2_train.html").write_text("of another day", encoding="utf-8")
    done = run_all(case, folder)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"historymap: 1_generate_training failed: {tmp_path / 'photo.tif'}")
    assert "Traceback" not in done.stderr + done.stdout
    assert states(folder) == ["failed"] + ["waiting"] * 5
    index = BeautifulSoup((folder / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert "there is no such photo" in index.select_one(".failed .said").text
    assert "there is no such photo" in (folder / "1_generate_training.html").read_text(encoding="utf-8")
    assert (folder / "2_train.html").read_text(encoding="utf-8") == "of another day"
    assert not (folder / "2_train.ipynb").exists()


def test_reports_that_cannot_be_written_are_one_sentence(tmp_path):
    case = load(case_fixtures.make_case(tmp_path))
    (tmp_path / "reports").write_text("a file", encoding="utf-8")
    done = run_all(case, tmp_path / "reports")
    assert done.returncode == 2
    assert re.fullmatch(r"historymap: [^\n]*reports[^\n]*\n", done.stderr)


def kernels(process: int) -> list[psutil.Process]:
    """Return the notebook kernels below a process."""
    below = psutil.Process(process).children(recursive=True)
    return [one for one in below if any("ipykernel" in word for word in one.cmdline())]


@contextmanager
def training(case, folder: Path):
    """Yield a run of all notebooks, and its kernel, in the middle of the second one; there are old reports."""
    folder.mkdir()
    for name in ("1_generate_training", "2_train"):
        for kind in ("ipynb", "html"):
            (folder / f"{name}.{kind}").write_text("old", encoding="utf-8")
    log = folder / "log.txt"
    words = [*HISTORYMAP, "run", "all", "--config", str(case.file), "--notebooks", str(folder)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            words, stdout=file, stderr=subprocess.STDOUT, env=environment(), start_new_session=True
        )
    try:
        until(lambda: "train: " in log.read_text(encoding="utf-8"), "no training")
        (kernel,) = kernels(process.pid)
        yield process, kernel
        gone(kernel.pid)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143)], ids=str)
def test_when_it_is_ended_in_the_middle_old_reports_are_whole_and_no_kernel_is_left(town, tmp_path, how, code):
    folder = tmp_path / "reports"
    with training(town, folder) as (process, _):
        process.send_signal(how)
        assert process.wait(PATIENCE) == code
    assert (folder / "2_train.ipynb").read_text(encoding="utf-8") == "old"
    assert (folder / "2_train.html").read_text(encoding="utf-8") == "old"
    nbformat.validate(nbformat.read(folder / "1_generate_training.ipynb", as_version=4))
    assert (folder / "1_generate_training.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert states(folder)[:2] == ["done", "running" if how == signal.SIGKILL else "broken off"]
    if how != signal.SIGKILL:
        assert not list(folder.glob(f"{PARTIAL}*"))
        last = (folder / "log.txt").read_text(encoding="utf-8").splitlines()[-1]
        assert last == "historymap: ended on request; what was finished is kept, run it again to go on"


def test_a_job_of_all_notebooks_is_cancelled_with_its_kernel(town, tmp_path):
    words = [*HISTORYMAP, "run", "all", "--config", town.file, "--notebooks", tmp_path / "reports"]
    job = Jobs(town).submit_command("all", words, result=tmp_path / "reports" / "index.html")
    until(lambda: "train: " in job.log(), "no training")
    (kernel,) = kernels(job.record.leader.pid)
    job.cancel()
    record = job.wait(PATIENCE)
    assert record.state == "cancelled"
    gone(kernel.pid)


def test_papermill_runs_a_notebook_from_any_folder_with_parameters(town, tmp_path):
    """A relative path is looked for above the folder it is run in, and a number is a number."""
    below = town.paths.root / "some" / "where"
    below.mkdir(parents=True, exist_ok=True)
    output = tmp_path / "out.ipynb"
    words = [*PAPERMILL, ROOT / "notebooks" / "2_train.ipynb", output, "-p", "config", "case.yaml"]
    done = call(*words, "-p", "epochs", "1", cwd=below)
    assert done.returncode == 0, done.stderr
    assert printed(output).splitlines()[-1].startswith(f"train: {town.paths.model}")
    assert read_manifest(town.paths.model)["parameters"]["epochs"] == 1


def test_papermill_finds_settings_beside_the_library_from_anywhere(tmp_path):
    output = tmp_path / "out.ipynb"
    words = [*PAPERMILL, ROOT / "notebooks" / "workbench.ipynb", output, "-p", "config", "ml/config_sample.yaml"]
    done = call(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Where the case sample stands" in json.dumps(outputs(output))


def test_papermill_ends_with_1_and_our_sentence_where_a_step_fails(tmp_path):
    file = case_fixtures.make_case(tmp_path)
    words = [*PAPERMILL, ROOT / "notebooks" / "2_train.ipynb", tmp_path / "out.ipynb", "-p", "config", file]
    done = call(*words)
    assert done.returncode == 1
    assert "holds no training tiles; run generate-training first" in done.stderr
    (error,) = [output for output in outputs(tmp_path / "out.ipynb") if output.output_type == "error"]
    assert error["ename"] == "StepError"
    shown = "\n".join(error["traceback"])
    assert shown.startswith("historymap: ")
    assert "historymap_lib/" not in shown
    assert "historymap_lib/" not in done.stderr
