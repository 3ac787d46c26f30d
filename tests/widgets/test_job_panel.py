"""The panel of jobs shows what the store holds, whoever queued it, and does what its buttons say."""

from __future__ import annotations

import json
import resource
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager

import pytest
from case_fixtures import make_case
from job_fixtures import PATIENCE, TRUE, hold, quick, town_of, until
from job_fixtures import said as printed
from widget_fixtures import HOSTILE, page, press, said, text_of, words

from historymap_lib import database
from historymap_lib.jobs import Jobs
from historymap_lib.project import load
from historymap_lib.widgets.case import Case
from historymap_lib.widgets.job_panel import ENDED, JobPanel
from historymap_lib.widgets.log_view import LogView
from historymap_lib.widgets.step_form import StepForm

COUNTING = """
import json, os, sys, time
began = time.time() - 10
with open(os.environ["HISTORYMAP_PROGRESS"], "w") as file:
    told = {"what": "tiles", "done": 3, "total": 7, "unit": "tile", "message": "<fine>", "first": 1, "began": began}
    json.dump(json.loads(sys.argv[2]) or told, file)
print("on", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    with town_of(tmp_path_factory.mktemp("town"), idle=60.0) as case:
        yield case


@pytest.fixture
def jobs(town):
    return Jobs(town)


@pytest.fixture
def panel(town):
    return JobPanel(Case(town.file), LogView())


@pytest.fixture
def quiet(tmp_path):
    """A case whose queue nobody works on: the jobs are there, but no worker is started."""
    return load(make_case(tmp_path))


@pytest.fixture
def held(jobs, tmp_path):
    """A job that runs until its file `go` is there."""
    job = jobs.submit_command("held", hold(tmp_path / "go"))
    printed(job, "on")
    yield job
    (tmp_path / "go").touch()
    job.wait(PATIENCE)


@pytest.fixture
def counting(jobs, tmp_path):
    """Return a function that starts a job which tells such progress and runs until the end of the test."""
    started = []

    def start(progress: dict | None = None):
        job = jobs.submit_command("counting", quick(COUNTING, tmp_path / "go", json.dumps(progress)))
        started.append(job)
        printed(job, "on")
        return job

    yield start
    (tmp_path / "go").touch()
    for job in started:
        job.wait(PATIENCE)


def shows(panel: JobPanel, job, what: str) -> str:
    """Return how a panel shows a job as `job` (active), `wait` or `ended`; empty where it does not."""
    found = page(panel).find(attrs={"data-key": f"{what}{job.id}"})
    return words(found) if found else ""


def announced(panel: JobPanel) -> str:
    return words(page(panel).select_one("[role=status]"))


def add(project, *names: str, **values) -> list:
    """Queue jobs for nobody, in a state."""
    jobs = Jobs(project)
    numbers = jobs.store.add([jobs._row(name, TRUE, {}, None) for name in names])
    for number in numbers:
        if values:
            jobs.store.change(number, "pending", **values)
    return [jobs.get(number) for number in numbers]


def test_without_jobs_it_says_that_none_runs(quiet):
    panel = JobPanel(Case(quiet.file), LogView())
    assert words(page(panel)) == "No job is running."


def test_a_job_goes_from_waiting_to_running_to_ended_and_each_is_said(panel, jobs, held, tmp_path):
    later = jobs.submit_command("later", TRUE)
    until(lambda: shows(panel, later, "wait"))  # by itself
    assert shows(panel, held, "job").startswith("held running job")
    assert announced(panel) == f"job {held.id}, held, is running"
    assert shows(panel, later, "wait") == f"later job {later.id} Cancel"
    (tmp_path / "go").touch()
    until(lambda: shows(panel, later, "ended"))
    assert shows(panel, held, "ended").startswith("held completed job")
    assert announced(panel) == f"job {later.id}, later, completed"
    order = [one["data-key"] for one in page(panel).select("[data-key^=ended]")][:2]
    assert order == [f"ended{later.id}", f"ended{held.id}"]  # the newest first


def test_what_waits_is_taken_out_of_the_queue(panel, jobs, held):
    later = jobs.submit_command("later", TRUE)
    press(panel, "cancel", job=str(later.id))
    assert later.state == "cancelled"
    assert shows(panel, later, "ended").startswith("later cancelled")
    assert shows(panel, later, "wait") == ""
    press(panel, "cancel", job=str(later.id))
    assert said(panel).startswith(f"job {later.id} (later) is cancelled already")


def test_what_runs_is_ended_and_can_be_run_again(panel, jobs, held, tmp_path):
    press(panel, "cancel", job=str(held.id))
    assert held.wait(PATIENCE).state == "cancelled"
    until(lambda: shows(panel, held, "ended").startswith("held cancelled"))
    press(panel, "retry", job=str(held.id))
    again = jobs.get(jobs.recent(1)[0].id)
    assert again.id > held.id
    assert again.record.command == held.record.command
    (tmp_path / "go").touch()
    assert again.wait(PATIENCE).state == "completed"
    until(lambda: shows(panel, again, "ended"))


def test_an_unknown_job_is_one_sentence(panel):
    press(panel, "cancel", job="99999")
    assert said(panel) == "there is no job 99999; the list of jobs shows those there are"
    press(panel, "show", job="99999")
    assert "there is no job 99999" in said(panel)


def test_how_far_a_job_is_how_fast_and_how_long_it_will_take(panel, counting):
    job = counting()
    until(lambda: "3 of 7 tile" in shows(panel, job, "job"))
    assert page(panel).select_one(f"[data-key=job{job.id}] progress")["value"] == "0.4286"
    line = shows(panel, job, "job")
    assert "s/tile" in line
    assert " left, <fine>" in line
    assert page(panel).select("fine") == []


@pytest.mark.parametrize(
    "progress",
    [
        {"done": "many", "total": "more"},
        {"done": 3},
        {"done": 3, "total": 0},
        {"done": 3, "total": 2, "began": "today"},
        {"done": 1, "total": 2, "first": None, "began": 1e12},
        {"done": [1], "unit": 7, "message": 5},
        {"done": float("nan"), "total": 5},
        {"done": -3, "total": 5, "began": 5},
    ],
)
def test_a_program_of_ones_own_that_tells_odd_progress_spoils_nothing(panel, counting, progress):
    job = counting(progress)
    panel.refresh()
    assert said(panel) == ""
    assert shows(panel, job, "job").startswith("counting running")


def test_a_failed_job_shows_its_last_lines_and_a_sentence(panel, jobs):
    code = "for n in range(9): print(f'\\x1b[31mline {n}\\x1b[0m')\nraise SystemExit(3)"
    job = jobs.submit_command("bad", quick(code))
    job.wait(PATIENCE)
    panel.refresh()
    shown = page(panel).find(attrs={"data-key": f"ended{job.id}"})
    assert words(shown.select_one(".hm-badge")) == "failed"
    assert words(shown.select_one(".hm-error")) == job.record.error
    assert shown.select_one("pre").text.splitlines() == [f"line {n}" for n in range(5, 9)]
    assert [button.text for button in shown.select("button")] == ["Show log", "Retry"]


def test_what_a_job_is_called_prints_or_says_is_never_html(panel, jobs):
    code = f"print({HOSTILE!r})\nraise SystemExit('historymap: ' + {HOSTILE!r})"
    job = jobs.submit_command(HOSTILE, quick(code))
    job.wait(PATIENCE)
    until(lambda: shows(panel, job, "ended"))
    until(lambda: len(panel._log.lines) == 2)
    for text in (panel.html, *panel._log.lines):
        assert "<script" not in text
        assert "<img" not in text
    shown = page(panel).find(attrs={"data-key": f"ended{job.id}"})
    assert HOSTILE in shown.text
    assert shown.select("button")[-1]["aria-label"] == f"Run job {job.id}, {HOSTILE}, again"
    assert {text_of(line) for line in panel._log.lines} == {HOSTILE, f"historymap: {HOSTILE}"}


def test_the_log_follows_what_starts_unless_one_is_chosen_and_then_what_starts_after(panel, jobs):
    first = jobs.submit_command("first", quick("print('first')"))
    jobs.submit_command("second", quick("print('second')"))
    until(lambda: panel._log.lines == ["second"])
    press(panel, "show", job=str(first.id))
    assert panel._log.lines == ["first"]
    assert "hm-chosen" in page(panel).find(attrs={"data-key": f"ended{first.id}"})["class"]
    panel.refresh()
    assert panel._log.lines == ["first"]
    jobs.submit_command("third", quick("print('third')"))
    until(lambda: panel._log.lines == ["third"])


def test_a_job_that_a_terminal_has_queued_appears_by_itself(panel, town, jobs, held):
    command = [sys.executable, "-m", "historymap_lib.cli", "jobs", "submit", "generate-training", "--tiles", "1"]
    subprocess.run([*command, "--config", str(town.file)], check=True, capture_output=True)
    job = jobs.get(jobs.recent(1)[0].id)
    until(lambda: shows(panel, job, "wait").startswith("generate-training"))
    press(panel, "cancel", job=str(job.id))
    assert job.state == "cancelled"


def test_a_panel_of_one_job_shows_that_one_and_after_retry_the_new_one(town, jobs, tmp_path):
    job = jobs.submit_command("bad", quick("raise SystemExit(3)"))
    job.wait(PATIENCE)
    jobs.submit_command("another", TRUE).wait(PATIENCE)
    panel = JobPanel(Case(town.file), LogView(job), only=job)
    assert [one["data-key"] for one in page(panel).select("li")] == [f"ended{job.id}"]
    press(panel, "retry", job=str(job.id))
    again = jobs.get(jobs.recent(1)[0].id)
    until(lambda: shows(panel, again, "ended"))
    assert shows(panel, job, "ended") == ""
    assert panel._log.job.id == again.id


def test_of_many_ended_jobs_the_latest_are_shown(quiet):
    added = add(quiet, *[f"job {n}" for n in range(ENDED + 5)], state="completed", started=1.0, finished=2.0)
    panel = JobPanel(Case(quiet.file), LogView())
    keys = [one["data-key"] for one in page(panel).select("li")]
    assert keys == [f"ended{job.id}" for job in reversed(added[-ENDED:])]


def test_however_many_wait_what_runs_is_shown(panel, jobs, held):
    numbers = jobs.store.add([jobs._row("later", TRUE, {}, None) for _ in range(150)])
    panel.refresh()
    try:
        assert shows(panel, held, "job").startswith("held running")
        assert page(panel).select_one("li")["data-key"] == f"wait{numbers[0]}"  # the next comes first
    finally:
        for number in numbers:
            jobs.get(number).cancel()


def test_a_job_whose_worker_is_gone_is_told_as_crashed(quiet):
    values = {"state": "running", "started": 1.0, "owner_pid": 4_000_000, "owner_started": 1.0, "owner_boot": "x"}
    (job,) = add(quiet, "lost")
    jobs = Jobs(quiet)
    jobs.wake = None  # nobody is to tidy up here
    jobs.store.change(job.id, "pending", **values)
    panel = JobPanel(Case(quiet.file), LogView())
    assert shows(panel, job, "ended").startswith("lost crashed")
    assert "its worker is gone" in shows(panel, job, "ended")
    assert jobs.has_worker() is False


def test_a_store_that_is_none_is_one_sentence_until_it_is_put_right(quiet):
    (job,) = add(quiet, "fine", state="completed", finished=2.0)
    panel = JobPanel(Case(quiet.file), LogView())
    file = quiet.paths.jobs / "jobs.db"
    content = file.read_bytes()
    for left in quiet.paths.jobs.glob("jobs.db-*"):
        left.unlink()
    file.write_bytes(b"no database " * 500)
    panel.refresh()
    assert "is no store of jobs" in said(panel)
    press(panel, "cancel", job=str(job.id))
    assert "is no store of jobs" in said(panel)
    file.write_bytes(content)
    panel.refresh()
    assert shows(panel, job, "ended").startswith("fine completed")


def test_a_store_that_another_program_keeps_is_one_sentence_until_it_lets_go(quiet, monkeypatch):
    (job,) = add(quiet, "fine", state="completed", finished=2.0)
    monkeypatch.setattr(database, "PATIENCE", 0.05)
    panel = JobPanel(Case(quiet.file), LogView())
    with closing(sqlite3.connect(quiet.paths.jobs / "jobs.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        panel.refresh()
        assert "another program has kept it" in said(panel)
        press(panel, "cancel", job=str(job.id))
        assert "another program has kept it" in said(panel)
    panel.refresh()
    assert shows(panel, job, "ended").startswith("fine completed")


@contextmanager
def full_disk():
    """Let no file grow any more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_on_a_full_disk_a_step_is_refused_with_a_sentence_and_later_it_is_queued(tmp_path):
    with town_of(tmp_path) as project:
        case = Case(project.file)
        form, panel = StepForm(case, "generate-training"), JobPanel(case, LogView())
        with full_disk():
            press(form, "run", values={"tiles": "1"})
            panel.refresh()
        assert "make room" in said(form)
        assert case.jobs.recent() == []
        press(form, "run", values={"tiles": "1"})
        assert said(form) == ""
        (record,) = case.jobs.recent()
        until(lambda: shows(panel, case.jobs.get(record.id), "ended").startswith("generate-training completed"))
