"""The worker by its settings: side by side, how much is kept, who is told, and in what surroundings a job runs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import psutil
import pytest
from case_fixtures import make_case
from job_fixtures import PATIENCE, TRUE, helper, hold, quick, said, town_of, until, workers

from historymap_lib.errors import HistorymapError, JobsError
from historymap_lib.jobs import Jobs
from historymap_lib.project import load

LINES = 50_000
FOLLOW = """
import sys
from historymap_lib.jobs import Jobs
from historymap_lib.project import load
job = Jobs(load(sys.argv[1])).get(int(sys.argv[2]))
print("ready", flush=True)
text = "".join(update.text for update in job.follow())
assert text == "".join(f"line {number} of many\\n" for number in range(int(sys.argv[3])))
"""


def test_steps_that_do_not_touch_the_same_run_side_by_side_and_the_others_wait(tmp_path):
    with town_of(tmp_path, max_concurrent=3) as case:
        jobs = Jobs(case)
        names = ("generate-training", "train", "verify", "my own")
        tiles, train, verify, own = (jobs.submit_command(name, hold(tmp_path / "go")) for name in names)
        for job in (tiles, verify, own):
            said(job, "on")
        assert train.state == "pending"  # it reads the tiles
        assert {record.state for record in (tiles.record, verify.record, own.record)} == {"running"}
        assert jobs.current() == tiles
        (tmp_path / "go").touch()
        assert train.wait(PATIENCE).started >= tiles.wait(PATIENCE).finished


def test_no_more_run_at_once_than_the_settings_say_and_none_is_overtaken_by_what_it_clashes_with(tmp_path):
    with town_of(tmp_path, max_concurrent=2) as case:
        jobs = Jobs(case)
        names = ("train", "predict", "generate-training", "my own", "another")
        train, predict, tiles, own, another = (jobs.submit_command(name, hold(tmp_path / name)) for name in names)
        for job in (train, own):
            said(job, "on")
        assert [job.state for job in (predict, tiles, another)] == ["pending"] * 3
        for name in names:
            (tmp_path / name).touch()
        assert predict.wait(PATIENCE).started >= train.wait(PATIENCE).finished
        assert tiles.wait(PATIENCE).started >= train.record.finished
        assert another.wait(PATIENCE).started >= min(own.wait(PATIENCE).finished, train.record.finished)


def test_the_same_step_of_two_cases_that_share_a_store_runs_side_by_side(tmp_path):
    with town_of(tmp_path / "one", max_concurrent=2) as case:
        second = load(make_case(tmp_path / "two", paths={"jobs": str(case.paths.jobs)}))
        both = [Jobs(one).submit_command("train", hold(tmp_path / "go")) for one in (case, second)]
        for job in both:
            said(job, "on")
        assert len(workers(case)) == 1
        assert workers(second) == []
        (tmp_path / "go").touch()
        assert {job.wait(PATIENCE).state for job in both} == {"completed"}


def test_old_jobs_are_forgotten_but_never_one_that_runs_or_that_another_waits_for(tmp_path):
    with town_of(tmp_path, max_concurrent=2, keep=2) as case:
        jobs = Jobs(case)
        tiles = jobs.submit_command("generate-training", hold(tmp_path / "go"))
        said(tiles, "on")
        rows = [jobs._row("first", TRUE, {}, None), jobs._row("train", TRUE, {}, None) | {"after": -1}]
        first, train = jobs._add(rows)
        others = [jobs.submit_command(f"other {number}", quick("print(1)")) for number in range(6)]
        until(lambda: jobs.recent(1)[0].state == "completed")
        kept = {tiles.id, first.id, train.id, others[-2].id, others[-1].id}
        until(lambda: {record.id for record in jobs.recent(100)} == kept)  # forgotten a moment after the last has ended
        logs = {tiles.id, first.id, others[-2].id, others[-1].id}
        until(lambda: {path.name for path in tiles.log_path.parent.glob("*.log")} == {f"{one}.log" for one in logs})
        with pytest.raises(JobsError, match=f"there is no job {others[0].id}"):
            others[0].wait()
        assert others[0].log() == ""
        (tmp_path / "go").touch()
        until(lambda: {record.state for record in jobs.recent(100)} == {"completed"})
        until(lambda: len(jobs.recent(100)) == 2)
        assert {record.name for record in jobs.recent(100)} == {"generate-training", "train"}  # the last to end


def test_whoever_wants_to_know_is_told_when_a_job_ends(tmp_path):
    told = tmp_path / "told.txt"
    code = "import sys; open(sys.argv[1], 'a', encoding='utf-8').write(sys.argv[2] + '|')"
    with town_of(tmp_path, notify=[*quick(code, told), "{id} {name} {state} {case} {error}"]) as case:
        jobs = Jobs(case)
        jobs.submit_command("good", TRUE).wait(PATIENCE)
        jobs.submit_command("bad", quick("raise SystemExit(4)")).wait(PATIENCE)
        until(lambda: told.exists() and told.read_text().count("|") == 2)
        sentences = set(told.read_text().split("|"))
        error = "it ended with exit code 4; its log says more"
        assert sentences == {f"1 good completed {case.file} ", f"2 bad failed {case.file} {error}", ""}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["/no/such/program"], id="no such program"),
        pytest.param(quick("raise SystemExit(9)"), id="it fails"),
    ],
)
def test_a_notification_that_fails_never_touches_the_job(tmp_path, command):
    with town_of(tmp_path, notify=command) as case:
        jobs = Jobs(case)
        for _ in range(2):
            record = jobs.submit_command("good", TRUE).wait(PATIENCE)
            assert (record.state, record.error) == ("completed", None)
        until(lambda: "notification of job 2" in jobs.files.worker_log.read_text())


def test_braces_that_are_no_word_of_ours_stay_as_they_are(tmp_path):
    note = tmp_path / "note"
    write = quick(f"import sys; open({str(note)!r}, 'w').write(sys.argv[1])")
    with town_of(tmp_path / "town", notify=[*write, '{"job": {id}, "colour": "{colour}"}']) as case:
        Jobs(case).submit_command("good", TRUE).wait(PATIENCE)
        until(note.exists)
        until(note.read_text)
    assert note.read_text() == '{"job": 1, "colour": "{colour}"}'


def test_a_job_runs_in_the_folder_of_its_case_in_surroundings_of_its_own(tmp_path, monkeypatch):
    kernel = {"JPY_PARENT_PID": "1", "JPY_SESSION_NAME": "x", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    for name, value in (kernel | {"HISTORYMAP_JOB": "another", "HISTORYMAP_PROGRESS": "/elsewhere"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MINE", "stays")
    monkeypatch.chdir("/")
    code = """
import json, os, sys
print(json.dumps([dict(os.environ), os.getcwd(), os.getpgid(0) == os.getsid(0) == os.getpid(), sys.stdin.read()]))
"""
    with town_of(tmp_path) as case:
        job = Jobs(case).submit_command("surroundings", quick(code))
        assert job.wait(PATIENCE).state == "completed"
        variables, folder, own_group, given = json.loads(job.log())
        assert variables["MPLBACKEND"] == "agg"
        assert variables["MINE"] == "stays"
        assert not [name for name in variables if name.startswith("JPY_")]
        assert variables["HISTORYMAP_JOB"] == Jobs(case).store.get(job.id).token
        assert variables["HISTORYMAP_PROGRESS"].startswith(str(case.paths.jobs))
        assert folder == str(case.paths.root)
        assert own_group
        assert given == ""
        # the guard and the worker are no children of the job that may have submitted it, and do not end with that
        assert "HISTORYMAP_JOB" not in workers(case)[0].environ()


def test_a_file_beside_the_case_does_not_pass_for_a_module(tmp_path):
    with town_of(tmp_path) as case:
        for name in ("yaml", "filelock", "random"):
            (tmp_path / f"{name}.py").write_text("raise ImportError('somebody else')")
        job = Jobs(case).submit("generate-training", tiles=1)
        assert (job.wait(PATIENCE).state, job.record.error) == ("completed", None)


def test_the_submitter_is_not_the_parent_and_its_files_are_not_held_open(tmp_path):
    with town_of(tmp_path) as case, (tmp_path / "mine.txt").open("w") as mine:
        os.set_inheritable(mine.fileno(), True)  # noqa: FBT003 - it takes no keyword
        job = Jobs(case).submit_command("held", hold(tmp_path / "go"))
        said(job, "on")
        worker, own = workers(case)[0], psutil.Process(int(job.log().split()[1]))
        for process in (worker, worker.parent(), own):
            assert os.getpid() not in [parent.pid for parent in process.parents()]
            opened = [file.readlink() for file in Path(f"/proc/{process.pid}/fd").iterdir()]
            assert tmp_path / "mine.txt" not in opened
            assert os.getsid(process.pid) != os.getsid(0)
        (tmp_path / "go").touch()
        job.wait(PATIENCE)


def test_readers_that_stall_neither_slow_the_job_nor_lose_a_byte(tmp_path):
    with town_of(tmp_path) as case:
        jobs = Jobs(case)
        code = "import sys\nfor number in range(int(sys.argv[1])): print(f'line {number} of many')"
        wait = 'while [ ! -e "$1" ]; do sleep 0.02; done; shift; exec "$@"'
        command = ["/bin/sh", "-c", wait, "sh", str(tmp_path / "go"), *quick(code, LINES)]
        job = jobs.submit_command("many", command)
        until(job.log_path.exists)
        pipe = {"stdout": subprocess.PIPE}
        live = [helper(FOLLOW, case.file, job.id, LINES, **pipe) for _ in range(2)]
        assert [reader.stdout.readline() for reader in live] == ["ready\n"] * 2
        with job.log_path.open("rb"):
            stalled = iter(job.follow())
            next(stalled)
            (tmp_path / "go").touch()
            assert job.wait(PATIENCE).state == "completed"
            for reader in live:
                reader.communicate(timeout=PATIENCE)
            assert [reader.returncode for reader in live] == [0, 0]
            assert job.log_path.read_bytes() == b"".join(b"line %d of many\n" % number for number in range(LINES))
            rest = "".join(update.text for update in stalled)
        assert rest.endswith(f"line {LINES - 1} of many\n")


@pytest.mark.parametrize("command", [[], ["", "x"], ["a\0b"]])
def test_what_is_no_command_is_refused_or_fails_and_the_others_go_on(tmp_path, command):
    with town_of(tmp_path, max_concurrent=2) as case:
        jobs = Jobs(case)
        other = jobs.submit_command("other", hold(tmp_path / "go"))
        said(other, "on")
        try:
            job = jobs.submit_command("odd", command)
        except HistorymapError:
            job = None  # that is fine as well
        if job is not None:
            until(lambda: job.record.ended or other.record.ended)
            assert job.state == "failed"
        (tmp_path / "go").touch()
        assert other.wait(PATIENCE).state == "completed"
