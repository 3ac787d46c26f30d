"""The store: any number of processes write at once, and whatever is wrong with the file is one sentence."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from contextlib import closing

import pytest
from job_fixtures import PATIENCE, TRUE, guards, helper, quick, town_of, until, workers

from historymap_lib import database
from historymap_lib.errors import JobsError
from historymap_lib.jobs import Jobs, store
from historymap_lib.jobs.store import Store

PROCESSES, EACH = 8, 50
ROW = {
    "name": "x",
    "config": "c",
    "case_name": "c",
    "command": ["x"],
    "folder": "/",
    "parameters": {},
    "submitted_by": "me",
}
SUBMIT = """
import sys
from historymap_lib.jobs import Jobs
from historymap_lib.project import load
jobs = Jobs(load(sys.argv[1]))
count, command = int(sys.argv[2]), sys.argv[3:]
print("ready", flush=True)
sys.stdin.readline()
print(*(jobs.submit_command("many", command).id for _ in range(count)), flush=True)
"""
NOTE = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(file, b"start %d\\n" % os.getpid())
os.write(file, b"end %d\\n" % os.getpid())
"""
QUICK_WORKER = """
from historymap_lib.jobs import worker
worker.POLL = 0.01
worker.main()
"""
KEEP = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
if sys.argv[3] == "everything":
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
db.execute("BEGIN EXCLUSIVE")
db.execute("UPDATE jobs SET name = name")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
db.execute("ROLLBACK")
db.close()
"""


@pytest.fixture
def town(tmp_path):
    with town_of(tmp_path) as case:
        yield case


def submit_at_once(case, count, command) -> list[int]:
    """Let processes submit jobs at the same moment; return the numbers of all."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [helper(SUBMIT, case.file, count, *command, **pipes) for _ in range(PROCESSES)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * PROCESSES
    return [int(number) for answer in answers for number in answer.split()]


def test_eight_processes_submit_400_jobs_and_each_runs_once_and_alone(tmp_path):
    with town_of(tmp_path, keep=1000, idle=20.0) as case:
        jobs = Jobs(case)
        # a worker that looks more often: 400 of its usual pauses are more than a minute
        process = helper(QUICK_WORKER, case.file)
        until(jobs.has_worker)
        notes = tmp_path / "notes.txt"
        numbers = submit_at_once(case, EACH, quick(NOTE, notes))
        assert len(numbers) == len(set(numbers)) == PROCESSES * EACH
        until(lambda: not jobs.store.find("state NOT IN ('completed')", limit=1), seconds=600)
        assert {record.id for record in jobs.recent(1000)} == set(numbers)
        process.kill()
        process.wait()
        lines = notes.read_text().splitlines()
        assert len(lines) == 2 * len(numbers)
        for start, end in zip(lines[::2], lines[1::2], strict=True):
            assert start.split()[0] == "start"
            assert end == f"end {start.split()[1]}"


def test_processes_that_submit_at_once_to_a_new_folder_make_one_store_and_start_one_worker(tmp_path):
    with town_of(tmp_path, idle=20.0) as case:
        numbers = submit_at_once(case, 1, TRUE)
        assert sorted(numbers) == list(range(1, PROCESSES + 1))
        assert len(guards(case)) == 1
        assert len(workers(case)) == 1
        jobs = Jobs(case)
        assert {jobs.get(number).wait(PATIENCE).state for number in numbers} == {"completed"}
        assert len(workers(case)) == 1


@pytest.mark.parametrize("what", ["writing", "everything"])
def test_while_another_program_keeps_the_store_submitting_waits_and_works(town, what, capfd):
    jobs = Jobs(town)
    jobs.submit_command("first", TRUE).wait(PATIENCE)
    until(lambda: not workers(town))  # one that reads would keep the other program from locking everything
    other = helper(KEEP, jobs.store.path, 4, what, stdout=subprocess.PIPE)
    assert other.stdout.readline() == "locked\n"
    start = time.monotonic()
    job = jobs.submit_command("second", TRUE)
    assert time.monotonic() - start > 2
    assert job.wait(PATIENCE).state == "completed"
    other.communicate()
    log = jobs.files.worker_log.read_text()
    assert "locked" not in log + "".join(capfd.readouterr())
    assert "Traceback" not in log


def test_a_worker_that_finds_the_store_locked_waits_and_forgets_nothing(town):
    jobs = Jobs(town)
    first = jobs.submit_command("first", quick("import time; time.sleep(1)"))
    until(lambda: first.state == "running")
    other = helper(KEEP, jobs.store.path, 3, "writing", stdout=subprocess.PIPE)
    assert other.stdout.readline() == "locked\n"
    assert first.wait(PATIENCE).state == "completed"
    other.communicate()


def test_patience_is_a_minute_and_then_there_is_a_sentence(town, monkeypatch):
    assert database.PATIENCE == 60
    monkeypatch.setattr(database, "PATIENCE", 0.3)
    path = Jobs(town).store.path
    other = helper(KEEP, path, 60, "writing", stdout=subprocess.PIPE)
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(JobsError, match="another program has kept it for 0 s; end that, and try again") as caught:
        Jobs(town).submit_command("late", TRUE)
    assert "locked" not in str(caught.value)
    other.kill()
    other.communicate()
    assert Jobs(town).recent() == []


def test_a_number_is_never_used_again(town):
    one = Store(town.paths.jobs / "jobs.db")
    (first,) = one.add([ROW | {"token": "1"}])
    assert one.change(first, "pending", state="completed")
    one.delete([first])
    assert one.add([ROW | {"token": "2"}]) == [first + 1]


def test_all_rows_are_added_or_none(town):
    one = Store(town.paths.jobs / "jobs.db")
    with pytest.raises(JobsError, match="UNIQUE"):
        one.add([ROW | {"token": "1"}, ROW | {"token": "1"}])
    assert one.find("1") == []


def test_only_what_has_ended_can_be_forgotten(town):
    one = Store(town.paths.jobs / "jobs.db")
    numbers = one.add([ROW | {"token": str(number)} for number in range(3)])
    one.change(numbers[0], "pending", state="running")
    one.change(numbers[1], "pending", state="failed")
    one.delete(numbers)
    assert [record.id for record in one.find("1")] == [numbers[0], numbers[2]]


def test_a_job_changes_only_from_the_states_that_are_named(town):
    one = Store(town.paths.jobs / "jobs.db")
    (number,) = one.add([ROW | {"token": "1"}])
    assert not one.change(number, "running", "cancelling", state="completed")
    assert one.get(number).state == "pending"


def test_the_store_has_a_version_and_keeps_a_log_ahead(town):
    with closing(sqlite3.connect(Jobs(town).store.path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (store.VERSION,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_store_of_a_newer_version_is_refused_and_left_alone(town):
    path = Jobs(town).store.path
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {store.VERSION + 1}")
    with pytest.raises(JobsError, match=r"jobs\.db: was made by a newer historymap; update this one"):
        Jobs(town)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (store.VERSION + 1,)


@pytest.mark.parametrize("content", [b"this is a letter, and no database\n" * 40, b"SQLite format 3\0" + b"x" * 4000])
def test_a_file_that_is_no_database_is_refused_and_left_alone(town, content):
    town.paths.jobs.mkdir(parents=True)
    path = town.paths.jobs / "jobs.db"
    path.write_bytes(content)
    with pytest.raises(JobsError, match=r"jobs\.db: is no store of jobs .*move it away, and a new one is made"):
        Jobs(town)
    assert path.read_bytes() == content


@pytest.mark.parametrize("where", ["store", "folder"])
def test_something_else_in_its_place_is_one_sentence(town, where):
    if where == "store":
        (town.paths.jobs / "jobs.db").mkdir(parents=True)
    else:
        town.paths.jobs.parent.mkdir(parents=True)
        town.paths.jobs.write_text("a file where a folder belongs")
    with pytest.raises(JobsError, match=f"^{town.paths.jobs}.*(ask for|give) access") as caught:
        Jobs(town)
    assert "\n" not in str(caught.value)


def test_an_unknown_number_is_told(town):
    with pytest.raises(JobsError, match="there is no job 7; the list of jobs shows those there are"):
        Jobs(town).get(7)


def test_what_is_known_of_a_job_is_plain_json_without_its_token(town):
    jobs = Jobs(town)
    told = jobs.submit_command("x", TRUE).wait(PATIENCE).as_dict()
    assert "token" not in told
    assert told["created"] <= told["started"] <= told["finished"]
    assert told["owner"]["pid"] != os.getpid()
    assert told["duration"].startswith("0:0")
