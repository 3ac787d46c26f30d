"""What the notebooks call: before a person, in a real kernel, and without one, in this process."""

from __future__ import annotations

import base64
import os
import sys
from queue import Empty

import pytest
from case_fixtures import lattice, make_case, seen, write_probability
from job_fixtures import PATIENCE, town_of, until
from jupyter_client.manager import start_new_kernel
from widget_fixtures import page, said, words

from historymap_lib import steps
from historymap_lib.errors import HistorymapError, SettingsError, StepError
from historymap_lib.jobs import Jobs
from historymap_lib.pictures import PICTURES
from historymap_lib.project import load
from historymap_lib.widgets import Notebook, Workbench, open_case
from historymap_lib.widgets import notebook as module
from historymap_lib.widgets.case import Case
from historymap_lib.widgets.notebook import attended
from historymap_lib.widgets.panel import Live
from historymap_lib.widgets.picture import PicturePanel

WIDGET = "application/vnd.jupyter.widget-view+json"
OPEN = "from historymap_lib.widgets import open_case\ncase = open_case({file!r})"
COUNT = "from historymap_lib.widgets.refresher import refresher; print(len(refresher._due))"


@pytest.fixture
def file(tmp_path):
    """The YAML of a case without anything made."""
    return make_case(tmp_path, tiles={"count": 2})


@pytest.fixture
def shown(monkeypatch):
    """What is displayed."""
    found = []
    monkeypatch.setattr(module, "display", found.append)
    return found


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    with town_of(tmp_path_factory.mktemp("town"), idle=60.0) as case:
        yield case


@pytest.fixture(scope="module")
def kernel(town):
    """Return a function that runs a cell in a kernel, as JupyterLab or as papermill does; gives what comes back."""
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(town.paths.root))

    def run(code: str, *, person: bool = True, cell: str = "", wait: bool = True) -> list[dict]:
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}}
        content |= {"allow_stdin": person, "stop_on_error": True}
        message = client.session.msg("execute_request", content, metadata={"cellId": cell} if cell else {})
        client.shell_channel.send(message)
        found = []
        while wait:
            try:
                got = client.get_iopub_msg(timeout=PATIENCE)
            except Empty:
                raise AssertionError(f"no answer to {code}") from None
            mine = got["parent_header"].get("msg_id") == message["header"]["msg_id"]
            if mine and got["msg_type"] == "status" and got["content"]["execution_state"] == "idle":
                break
            if mine or got["msg_type"].startswith("comm"):
                found.append({"type": got["msg_type"], **got["content"]})
        return found

    run.client = client
    run(OPEN.format(file=str(town.file)))
    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def printed(messages: list[dict]) -> str:
    return "".join(one["text"] for one in messages if one["type"] == "stream" and one["name"] == "stdout")


def displayed(messages: list[dict]) -> set[str]:
    return {kind for one in messages if one["type"] == "display_data" for kind in one["data"]}


def test_before_a_person_a_step_is_queued_and_without_one_it_is_run_in_the_cell(kernel, town):
    jobs = Jobs(town)
    found = kernel("case.run('generate-training', tiles=1)")
    assert WIDGET in displayed(found)
    (record,) = jobs.recent()
    assert jobs.get(record.id).wait(PATIENCE).state == "completed"
    found = kernel("case.run('generate-training', tiles=2)", person=False)
    assert "\ngenerate-training: 2 tiles" in printed(found)
    assert not displayed(found)
    assert len(jobs.recent()) == 1


def test_before_a_person_what_is_up_to_date_or_queued_already_is_only_shown(kernel, town):
    jobs = Jobs(town)
    steps.run(town, "generate-training", tiles=2)
    before = len(jobs.recent())
    found = kernel("case.run('generate-training', tiles=2)")
    assert "is up to date; force = True runs it all the same" in printed(found)
    assert len(jobs.recent()) == before
    kernel("case.run('generate-training', force=True); case.run('generate-training', force=True)")
    (forced,) = jobs.recent()[: len(jobs.recent()) - before]
    assert jobs.get(forced.id).wait(PATIENCE).parameters == {"force": True}


def test_what_goes_wrong_in_a_cell_is_our_sentence_and_no_traceback(kernel):
    for person in (True, False):
        found = kernel("case.run('predict')", person=person)
        (error,) = [one for one in found if one["type"] == "error"]
        assert error["ename"] == "StepError"
        (line,) = error["traceback"]
        assert line.startswith("historymap: ")
        assert "train" in line


def test_panels_are_refreshed_while_a_cell_runs_and_a_cell_run_again_closes_those_it_showed(kernel, town):
    for _ in range(2):
        assert WIDGET in displayed(kernel("case.workbench()", cell="bench"))
    panels = 2 + len(steps.STEPS) + 1  # cards and jobs, forms, the log
    count = printed(kernel(COUNT))
    kernel("case.workbench()", cell="bench")
    assert printed(kernel(COUNT)) == count
    kernel("case.workbench()", cell="another")
    assert int(printed(kernel(COUNT))) == int(count) + panels
    kernel("import time; time.sleep(3600)", wait=False)
    jobs = Jobs(town)
    job = jobs.submit_command("beside", [sys.executable, "-c", "print('hello')"])

    def told() -> bool:
        got = kernel.client.get_iopub_msg(timeout=PATIENCE)
        return got["msg_type"] == "comm_msg" and f"job {job.id}, beside, completed" in str(got["content"])

    until(told)


def test_outside_of_a_kernel_nobody_attends():
    assert not attended()


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        (None, False),
        ({}, False),
        ({"content": {}}, False),
        ({"content": {"allow_stdin": False}}, False),
        ({"content": {"allow_stdin": True}}, True),
    ],
)
def test_whether_a_person_attends_is_what_the_frontend_says(monkeypatch, parent, expected):
    class Shell:
        class kernel:  # noqa: N801 - as IPython calls it
            get_parent = staticmethod(lambda: parent)

    monkeypatch.setattr(module, "get_ipython", lambda: Shell)
    assert attended() is expected


def test_without_a_person_a_step_runs_here_and_says_so(file, capsys):
    case = open_case(file)
    case.run("generate-training", tiles=None, force=False)
    assert "\ngenerate-training: 2 tiles" in capsys.readouterr().out
    case.run("generate-training")
    assert "skipped" in capsys.readouterr().out
    case.run("generate-training", force=True, output="elsewhere")
    assert ": skipped" not in capsys.readouterr().out
    assert (file.parent / "elsewhere" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("step", "parameters", "sentence"),
    [
        ("dance", {}, "there is no step dance"),
        ("train", {"tiles": 3}, "train takes no tiles"),
        ("train", {"epochs": "5"}, "epochs is '5', but it should be a whole number"),
        ("verify", {}, "there are no probabilities; run predict first"),
    ],
)
def test_without_a_person_a_step_that_cannot_run_raises_one_sentence(file, step, parameters, sentence):
    with pytest.raises(StepError, match=sentence) as raised:
        open_case(file).run(step, **parameters)
    assert raised.value._render_traceback_() == [f"historymap: {raised.value}"]
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_a_full_disk_is_one_sentence_and_a_bug_keeps_its_traceback(file, monkeypatch):
    def fail(error):
        def run(*_, **__):
            raise error

        monkeypatch.setattr(steps, "run", run)

    case = open_case(file)
    fail(OSError(28, "No space left on device", "/data/tile.tif"))
    with pytest.raises(StepError, match=r"/data/tile\.tif: No space left on device; make room"):
        case.run("generate-training")
    fail(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        case.run("generate-training")


def test_without_a_person_where_a_case_stands_is_plain_html(file, shown):
    case = open_case(file)
    case.status()
    case.workbench()
    for one in shown:
        assert "Where the case town stands" in one.data
        assert "<style>" in one.data
        assert "<button" not in one.data  # nobody could press it


def test_pictures_are_shown_when_there_are_some_and_else_what_will_be_there(file, shown):
    case = open_case(file)
    case.picture("tiles")
    assert "Here will be seen: training tiles" in shown[-1].data
    case.run("generate-training")
    case.picture("tiles")
    assert shown[-1].data == PICTURES["tiles"].path(load(file).paths).read_bytes()
    with pytest.raises(StepError, match="there is no picture dog; there are tiles, "):
        case.picture("dog")


def test_a_picture_on_the_page_is_drawn_anew_when_its_file_changes(file):
    path = PICTURES["tiles"].path(load(file).paths)
    panel = PicturePanel(Case(file), "tiles")
    assert page(panel).select("img") == []
    assert words(page(panel)).endswith("generate-training draws it.")
    path.parent.mkdir(parents=True)
    for content in (b"one", b"another"):
        path.write_bytes(content)
        panel.refresh()
        source = page(panel).select_one("img")["src"]
        assert source == f"data:image/png;base64,{base64.b64encode(content).decode()}"
    path.unlink()
    panel.refresh()
    assert page(panel).select("img") == []
    path.mkdir()
    panel.refresh()
    assert "Is a directory" in said(panel)


def test_the_truth_is_measured_where_there_is_some(file, shown, capsys):
    case, folder = open_case(file), file.parent
    case.evaluate("truth.csv")
    assert "there is no table of truth, so nothing is measured" in capsys.readouterr().out
    (folder / "truth.csv").write_text("osm_id,existed\n" + "".join(f"{n},{n % 2}\n" for n in range(1, 170)))
    case.evaluate("truth.csv")
    assert "there are no verdicts yet" in capsys.readouterr().out
    write_probability(load(file), seen(lattice()))
    case.run("verify")
    case.evaluate("truth.csv")
    assert "AUC" in capsys.readouterr().out
    assert shown[-1].data == PICTURES["evaluation"].path(load(file).paths).read_bytes()
    table = case.buildings(5)
    assert len(table) <= 5
    distances = (table["probability"] - 0.5).abs()
    assert distances.dropna().is_monotonic_increasing


def test_buildings_before_there_are_verdicts_are_one_sentence(file):
    with pytest.raises(HistorymapError, match="verify"):
        open_case(file).buildings()


def test_settings_are_looked_for_here_then_above_then_beside_the_library(file, tmp_path, monkeypatch):
    below = tmp_path / "notebooks" / "deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert open_case("case.yaml")._case.project.file == file
    nearer = make_case(tmp_path / "notebooks")
    assert open_case("case.yaml")._case.project.file == nearer
    assert open_case("ml/config_sample.yaml")._case.project.name == "sample"
    monkeypatch.setenv("HISTORYMAP_CONFIG", str(file))
    assert open_case()._case.project.file == file
    monkeypatch.delenv("HISTORYMAP_CONFIG")
    assert open_case()._case.project.name == "sample"
    with pytest.raises(SettingsError, match=r"none\.yaml: there is no such settings file"):
        open_case("none.yaml")
    with pytest.raises(SettingsError, match="there is no such settings file"):
        open_case(tmp_path / "none.yaml")


def test_the_workbench_holds_cards_a_form_for_each_step_jobs_and_their_log(file):
    def panels(box) -> list[str]:
        inner = getattr(box, "children", ())
        return [type(box).__name__] if isinstance(box, Live) else [one for child in inner for one in panels(child)]

    found = panels(Workbench(Case(file)))
    assert found == ["StatusPanel", *["StepForm"] * len(steps.STEPS), "JobPanel", "LogView"]


def test_notebooks_of_two_cases_do_not_mix(file, tmp_path):
    other = open_case(make_case(tmp_path / "other", tiles={"count": 1}))
    assert isinstance(other, Notebook)
    other.run("generate-training")
    assert not load(file).paths.training.exists()
    assert os.environ.get("HISTORYMAP_CONFIG") is None
