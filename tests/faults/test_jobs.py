"""Whatever is killed - submitter, worker, guard, job - the rest run, nothing is left over, and what is said is true."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from contextlib import closing

import psutil
import pytest
from case_fixtures import change
from job_fixtures import (
    PATIENCE,
    TRUE,
    alive,
    gone,
    guards,
    helper,
    hold,
    quick,
    said,
    small_disk,
    stop_workers,
    town_of,
    until,
    workers,
)

from historymap_lib import steps
from historymap_lib.artifacts import PARTIAL
from historymap_lib.errors import HistorymapError
from historymap_lib.jobs import Jobs
from historymap_lib.project import load
from historymap_lib.training_data import read_metadata

SUBMIT = """
import sys, time
from historymap_lib.jobs import Jobs
from historymap_lib.project import load
print(Jobs(load(sys.argv[1])).submit_command("long", sys.argv[2:]).id, flush=True)
time.sleep(600)
"""
FOLLOW = """
import sys
from historymap_lib.jobs import Jobs
from historymap_lib.project import load
for update in Jobs(load(sys.argv[1])).get(int(sys.argv[2])).follow():
    print(update.text, end="", flush=True)
print(update.record.state, flush=True)
"""
TALK = """
import os, sys, time
print("on", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
for number in range(2000):
    print("line", number)
"""
FAMILY = """
import os, subprocess, sys, time
sleep = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleep)
far = subprocess.Popen(sleep, start_new_session=True)
if os.fork() == 0:  # a daemon: in a session of its own, and its parent is gone
    os.setsid()
    if os.fork() > 0:
        os._exit(0)
    print("daemon", os.getpid(), flush=True)
    time.sleep(600)
os.wait()
print("family", os.getpid(), child.pid, far.pid, flush=True)
time.sleep(600)
"""
SLEEP = "import os, time; print('on', os.getpid(), flush=True); time.sleep(600)"
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("on", os.getpid(), flush=True)
time.sleep(600)
"""
TIDY = """
import atexit, signal, sys, time
atexit.register(time.sleep, 0.5)
def end(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as the interpreter does on its way out
    print("tidied", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("on", flush=True)
time.sleep(600)
"""


@pytest.fixture
def town(tmp_path):
    with town_of(tmp_path, idle=5.0) as case:
        yield case


def family(job) -> list[int]:
    """Wait for the processes of FAMILY, and return their numbers."""
    text = until(lambda: log if "family" in (log := job.log()) and "daemon" in log else "")
    numbers = [int(word) for word in text.split() if word.isdigit()]
    assert len(numbers) == 4
    assert all(map(alive, numbers))
    return numbers


def own(job) -> int:
    """Wait for a job that says `on` and its number, and return that."""
    said(job, "on")
    return int(job.log().split()[1])


def is_sound(jobs) -> bool:
    with closing(sqlite3.connect(jobs.store.path)) as db:
        return db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_job_outlives_its_submitter_and_everybody_reads_the_same(town, tmp_path):
    first = helper(SUBMIT, town.file, *quick(TALK, tmp_path / "go"), stdout=subprocess.PIPE)
    number = int(first.stdout.readline())
    readers = [helper(FOLLOW, town.file, number, stdout=subprocess.PIPE) for _ in range(2)]
    for reader in readers:
        assert reader.stdout.readline() == "on\n"
    first.kill()
    first.communicate()
    (tmp_path / "go").touch()
    lines = "".join(f"line {line}\n" for line in range(2000))
    assert [reader.communicate(timeout=PATIENCE)[0] for reader in readers] == [lines + "completed\n"] * 2
    late = helper(FOLLOW, town.file, number, stdout=subprocess.PIPE)
    assert late.communicate(timeout=PATIENCE)[0] == f"on\n{lines}completed\n"


def test_after_kill_9_of_the_worker_the_job_is_crashed_its_children_are_gone_and_the_next_runs(town, tmp_path):
    jobs = Jobs(town)
    job = jobs.submit_command("family", quick(FAMILY))
    after = jobs.submit_command("after", quick("import sys; open(sys.argv[1], 'w')", tmp_path / "ran"))
    numbers, (worker,) = family(job), workers(town)
    worker.kill()
    until((tmp_path / "ran").exists)  # and nobody has asked for a worker
    record = job.record
    assert record.state == "crashed"
    assert f"its worker (process {worker.pid}) was ended while it ran" in record.error
    assert record.error.endswith("retry it")
    assert not any(map(alive, numbers))
    assert after.wait(PATIENCE).state == "completed"
    until(lambda: len(workers(town)) == len(guards(town)) == 1)


@pytest.mark.parametrize("how", ["submit", "wake", "wait", "follow"])
def test_after_kill_9_of_guard_and_worker_whoever_comes_next_heals(town, how):
    jobs = Jobs(town)
    job = jobs.submit_command("family", quick(FAMILY))
    numbers = family(job)
    stop_workers(town)
    if how == "submit":
        assert jobs.submit_command("next", TRUE).wait(PATIENCE).state == "completed"
    elif how == "wake":
        jobs.wake()
    elif how == "wait":
        job.wait(PATIENCE)
    else:
        assert list(job.follow())[-1].record.ended
    until(lambda: jobs.store.get(job.id).state == "crashed")
    until(lambda: not any(map(alive, numbers)))


def test_after_kill_9_of_the_guard_alone_the_worker_goes_on(town, tmp_path):
    jobs = Jobs(town)
    job = jobs.submit_command("held", hold(tmp_path / "go"))
    said(job, "on")
    (worker,) = workers(town)
    for guard in guards(town):
        guard.kill()
        gone(guard.pid)
    (tmp_path / "go").touch()
    assert job.wait(PATIENCE).state == "completed"
    assert jobs.submit_command("next", TRUE).wait(PATIENCE).state == "completed"
    assert workers(town) == [worker]


def test_a_worker_that_cannot_live_is_given_up_and_comes_back_when_asked(town):
    jobs = Jobs(town)
    content = town.file.read_text()
    job = jobs.submit_command("family", quick(FAMILY))
    family(job)
    town.file.write_text("name: [")
    workers(town)[0].kill()
    until(lambda: not guards(town), "the guard tries for ever")
    town.file.write_text(content)
    jobs.wake()
    assert job.wait(PATIENCE).state == "crashed"
    assert "no valid YAML" in jobs.files.worker_log.read_text()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM"])
def test_a_job_that_is_killed_has_failed_and_names_the_signal(town, name):
    job = Jobs(town).submit_command(
        "long", quick("import os, time; print('on', os.getpid(), flush=True); time.sleep(600)")
    )
    os.kill(own(job), signal.Signals[name])
    record = job.wait(PATIENCE)
    assert (record.state, record.exit_code) == ("failed", -signal.Signals[name])
    assert f"it was ended by {name}" in record.error


def test_when_a_job_is_killed_its_children_end_with_it(town):
    job = Jobs(town).submit_command("family", quick(FAMILY))
    numbers = family(job)
    os.kill(next(int(line.split()[1]) for line in job.log().splitlines() if "family" in line), signal.SIGKILL)
    assert job.wait(PATIENCE).state == "failed"
    assert not any(map(alive, numbers))


def test_after_a_restart_of_the_machine_the_job_is_crashed_and_says_so(town, tmp_path):
    jobs = Jobs(town)
    job = jobs.submit_command("family", quick(FAMILY))
    waiting = jobs.submit_command("waiting", TRUE)
    numbers = family(job)
    stop_workers(town)
    assert jobs.store.change(job.id, "running", owner_boot="another boot")
    jobs.wake()
    record = job.wait(PATIENCE)
    assert (record.state, record.error) == ("crashed", "the machine was started anew while it ran; retry it")
    assert waiting.wait(PATIENCE).state == "completed"
    assert not any(map(alive, numbers))
    assert job.retry().cancel().state in ("cancelled", "cancelling")


def test_a_stranger_with_the_number_of_the_dead_worker_is_no_owner_and_is_left_alone(town):
    jobs = Jobs(town)
    job = jobs.submit_command("family", quick(FAMILY))
    numbers = family(job)
    stop_workers(town)
    stranger = subprocess.Popen(quick("import time; time.sleep(600)"))
    assert jobs.store.change(job.id, "running", owner_pid=stranger.pid)
    jobs.wake()
    assert job.wait(PATIENCE).state == "crashed"
    assert not any(map(alive, numbers))
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_job_that_was_being_cancelled_when_the_worker_died_is_cancelled(town):
    change(town.file, "jobs", grace=30.0)
    jobs = Jobs(load(town.file))
    job = jobs.submit_command("stubborn", quick(STUBBORN))
    number = own(job)
    assert job.cancel().state == "cancelling"
    change(town.file, "jobs", grace=0.5)
    workers(town)[0].kill()
    record = job.wait(PATIENCE)
    assert record.state == "cancelled"
    assert record.error.endswith("; its worker had ended")
    assert not alive(number)


def test_a_cancelled_job_is_gone_with_all_its_children(town):
    job = Jobs(town).submit_command("family", quick(FAMILY))
    numbers = family(job)
    assert job.cancel().state == "cancelling"
    record = job.wait(PATIENCE)
    assert not any(map(alive, numbers))
    assert record.state == "cancelled"
    assert record.error.startswith("cancelled by ")
    assert "killed" not in record.error
    assert record.cancelled_by == record.submitted_by


def test_a_cancelled_job_may_tidy_up(town):
    job = Jobs(town).submit_command("tidy", quick(TIDY))
    said(job, "on")
    job.cancel()
    record = job.wait(PATIENCE)
    assert (record.state, record.exit_code) == ("cancelled", 143)
    assert job.log() == "on\ntidied\n"


def test_one_that_ignores_the_asking_is_killed_after_the_grace_and_the_state_says_so(town):
    job = Jobs(town).submit_command("stubborn", quick(STUBBORN))
    number = own(job)
    job.cancel()
    record = job.wait(PATIENCE)
    assert not alive(number)
    assert record.state == "cancelled"
    assert record.error.endswith("; it did not end within 1 s and was killed")
    assert record.exit_code == -signal.SIGKILL


def test_one_that_has_thrown_away_its_surroundings_is_ended_too(town):
    """`env -i`, `sudo` and the like start programs without the variables of their parents."""
    job = Jobs(town).submit_command("bare", ["/usr/bin/env", "-i", *quick(SLEEP)])
    number = own(job)
    job.cancel()
    try:
        assert job.wait(10).state == "cancelled"
        assert not alive(number)
    finally:
        if alive(number):
            os.kill(number, signal.SIGKILL)


def test_cancelling_twice_is_cancelling_once(town):
    job = Jobs(town).submit_command("stubborn", quick(STUBBORN))
    own(job)
    assert job.cancel().state == job.cancel().state == "cancelling"
    assert job.wait(PATIENCE).state == "cancelled"


def test_a_step_that_is_cancelled_leaves_whole_tiles_and_runs_again(tmp_path):
    with town_of(tmp_path, grace=PATIENCE) as town:  # on a busy machine it takes its time to tidy up
        steps.run(town, "generate-training")
        job = Jobs(town).submit("generate-training", force=True)
        until(lambda: job.record.progress or job.record.ended)
        job.cancel()
        assert job.wait(2 * PATIENCE).state in ("cancelled", "completed")
        assert len(read_metadata(town.paths.training)) == 2
        assert not list(town.paths.root.rglob(f"{PARTIAL}*"))
        assert steps.run(town, "generate-training", force=True).startswith("generate-training: 2 tiles in ")


def test_a_job_whose_log_may_not_grow_fails_and_says_why(town):
    limited = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\nprint('x' * 8000)"
    job = Jobs(town).submit_command("limited", quick(limited))
    record = job.wait(PATIENCE)
    assert record.state == "failed"
    assert record.error.startswith(f"it ended with exit code {record.exit_code}: xxx")
    assert job.log_path.stat().st_size == 4096
    assert Jobs(town).submit_command("next", TRUE).wait(PATIENCE).state == "completed"


def test_on_a_full_disk_the_state_is_clear_nothing_is_corrupt_and_it_goes_on_with_space(tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, "2m"), town_of(tmp_path / "town", {"jobs": str(disk / "jobs")}, idle=5.0) as case:
        jobs = Jobs(case)
        assert jobs.submit_command("before", TRUE).wait(PATIENCE).state == "completed"
        (worker,) = workers(case)
        job = jobs.submit_command("talks", quick("print('a line of a log\\n' * 400_000)"))
        until(lambda: psutil.disk_usage(str(disk)).free == 0)
        try:
            later = jobs.submit_command("later", TRUE)
        except HistorymapError as error:
            assert "make room" in str(error)  # noqa: PT017 - there may be a page left in the store, and then it is queued
            later = None
        psutil.wait_procs([worker], timeout=2)  # long enough to try to note that the job has ended
        with job.log_path.open("r+b") as log:
            log.truncate(1000)
        record = job.wait(PATIENCE)
        assert (record.state, record.exit_code) in {("failed", 1), ("failed", 120)}
        assert "exit code" in record.error
        assert workers(case) == [worker]
        assert is_sound(jobs)
        if later:
            assert later.wait(PATIENCE).state == "completed"
        assert jobs.submit_command("after", quick("print('fine')")).wait(PATIENCE).state == "completed"
