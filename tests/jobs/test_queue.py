"""The queue: what is submitted runs as it should, one after the other, and says how it ended."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import time
from pathlib import Path

import pytest
from job_fixtures import PATIENCE, TRUE, alive, hold, quick, said, town_of, until, workers

from historymap_lib.errors import HistorymapError, JobsError, StepError
from historymap_lib.jobs import Jobs
from historymap_lib.jobs.queue import POLL


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A case whose worker lives as long as the tests of this file."""
    with town_of(tmp_path_factory.mktemp("town"), idle=60.0) as case:
        yield case


@pytest.fixture
def jobs(town):
    return Jobs(town)


@pytest.fixture
def held(jobs, tmp_path):
    """A running job, which ends with 0 as soon as `go` in the folder of the test is there."""
    job = jobs.submit_command("held", hold(tmp_path / "go"))
    said(job, "on")
    yield job
    (tmp_path / "go").touch()
    job.wait(PATIENCE)


def fail(code: int) -> list[str]:
    return quick(f"raise SystemExit({code})")


def test_a_job_runs_and_what_is_known_of_it_is_whole(jobs, town):
    command = quick("print('one'); print('two')")
    job = jobs.submit_command("two lines", command)
    record = job.wait(PATIENCE)
    assert (record.state, record.exit_code, record.error) == ("completed", 0, None)
    assert (record.name, record.command, record.config) == ("two lines", command, str(town.file))
    assert record.created <= record.started <= record.finished
    assert "@" in record.submitted_by
    assert job.log() == "one\ntwo\n"
    assert job.log_path.read_bytes() == b"one\ntwo\n"
    assert job.record == record


def test_submitting_returns_at_once_and_jobs_run_in_order_one_at_a_time(jobs, held, tmp_path):
    later = [jobs.submit_command(name, TRUE) for name in ("b", "c")]
    assert [job.state for job in later] == ["pending", "pending"]
    assert jobs.current().id == held.id
    assert [record.id for record in jobs.waiting()] == [job.id for job in later]
    (tmp_path / "go").touch()
    records = [job.wait(PATIENCE) for job in (held, *later)]
    for one, other in itertools.pairwise(records):
        assert one.finished <= other.started
    assert jobs.current() is None
    assert [record.id for record in jobs.recent(3)] == [record.id for record in reversed(records)]
    assert [record.id for record in jobs.recent(1)] == [later[-1].id]


def test_a_real_step_runs_and_runs_again(jobs, town):
    job = jobs.submit("generate-training", tiles=1)
    record = job.wait(PATIENCE)
    assert (record.state, record.error) == ("completed", None)
    assert record.parameters == {"tiles": 1}
    assert record.result == str(town.paths.training)
    assert town.paths.training.is_dir()
    assert record.progress["total"] == 1
    assert job.log().rstrip().splitlines()[-1].startswith("generate-training: ")
    again = job.retry()
    assert again.id > job.id
    assert again.record.parameters == {"tiles": 1}
    assert again.record.command == record.command
    assert again.wait(PATIENCE).state == "completed"
    assert "skipped" in again.log()
    shutil.rmtree(town.paths.training)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_that_is_given_is_where_the_step_writes(jobs, town, tmp_path, monkeypatch, kind):
    """A relative one too: the folder of whoever submits is not the one in which the job runs."""
    monkeypatch.chdir(tmp_path)
    record = jobs.submit("generate-training", tiles=1, output=kind("elsewhere")).wait(PATIENCE)
    assert (record.state, record.error) == ("completed", None)
    assert Path(record.result, "metadata.json").exists() or any(Path(record.result).iterdir())


@pytest.mark.parametrize(
    ("step", "parameters", "message"),
    [
        ("dance", {}, "there is no step dance; the steps are generate-training, train"),
        ("train", {"tiles": 3}, "train takes no tiles; it takes epochs, resume"),
        ("train", {"epochs": "5"}, "train: epochs is '5', but it should be a whole number of 1 or more"),
        ("train", {"epochs": 0}, "train: epochs is 0, but it should be"),
        ("train", {"epochs": True}, "train: epochs is True, but it should be"),
        ("train", {"resume": 1}, "train: resume is 1, but it should be true or false"),
        ("generate-training", {"output": 5}, "output is 5, but it should be a path"),
        ("train", {}, "train needs what generate-training makes, and .* is not there; run generate-training first"),
        ("predict", {}, "predict needs what train makes"),
        ("verify", {}, "verify needs what predict makes"),
        ("verify", {"quick": False}, "verify needs what predict makes"),
        ("verify", {"quick": 1}, "verify: quick is 1, but it should be true or false"),
        ("apply-annotations", {}, "needs what generate-training makes"),
    ],
)
def test_what_cannot_run_is_refused_before_it_is_queued(jobs, step, parameters, message):
    before = jobs.recent(1)
    with pytest.raises(StepError, match=message):
        jobs.submit(step, **parameters)
    assert jobs.recent(1) == before


@pytest.mark.parametrize("name", ["photo.tif", "footprints.geojson"])
def test_a_missing_file_is_told_before_the_step_is_queued(jobs, town, name):
    file = town.file.parent / name
    aside = file.rename(file.with_suffix(".aside"))
    with pytest.raises(HistorymapError, match=name):
        jobs.submit("generate-training")
    aside.rename(file)


def test_corrections_without_annotations_are_refused(jobs, town):
    town.paths.training.mkdir(parents=True)
    with pytest.raises(HistorymapError, match="there are no annotations; judge a building first"):
        jobs.submit("apply-annotations")
    town.paths.training.rmdir()


def test_of_a_chain_with_a_mistake_nothing_is_queued(jobs):
    before = jobs.recent(1)
    with pytest.raises(StepError, match="epochs"):
        jobs.submit_all(["generate-training", ("train", {"epochs": -1}), "predict"])
    assert jobs.recent(1) == before


def test_a_failed_step_says_its_own_sentence_and_stops_those_after_it(jobs, town, held, tmp_path):
    one, two, three = jobs.submit_all(["generate-training", ("train", {"epochs": 1}), "predict"])
    photo = town.file.parent / "photo.tif"
    aside = photo.rename(photo.with_suffix(".aside"))
    (tmp_path / "go").touch()
    failed, second, third = (job.wait(PATIENCE) for job in (one, two, three))
    aside.rename(photo)
    assert (failed.state, failed.exit_code) == ("failed", 2)
    assert failed.error.startswith(str(photo))
    assert f"historymap: {failed.error}" in one.log()
    assert second.state == third.state == "cancelled"
    told = "not started, since what it builds on did not complete: job"
    assert second.error == f"{told} {one.id} (generate-training) failed"
    assert third.error == f"{told} {two.id} (train) cancelled"
    assert second.started is None
    assert two.log() == ""


def test_a_step_may_be_submitted_while_what_it_needs_is_about_to_be_made(jobs, held):
    first = jobs.submit("generate-training")
    second = jobs.submit("train", epochs=1)
    assert (first.cancel().state, second.cancel().state) == ("cancelled", "cancelled")


def test_it_has_completed_only_if_its_result_is_there(jobs, tmp_path):
    record = jobs.submit_command("nothing", TRUE, result=tmp_path / "made").wait(PATIENCE)
    assert (record.state, record.exit_code) == ("failed", 0)
    assert record.error == f"it ended well, but {tmp_path / 'made'} is not there; see its log, and run it again"
    make = quick("import sys; open(sys.argv[1], 'w').close()", tmp_path / "made")
    assert jobs.submit_command("made", make, result=tmp_path / "made").wait(PATIENCE).state == "completed"


def test_a_result_does_not_help_if_the_exit_code_is_not_0(jobs, tmp_path):
    record = jobs.submit_command("odd", fail(3), result=tmp_path).wait(PATIENCE)
    assert (record.state, record.exit_code) == ("failed", 3)
    assert record.error == "it ended with exit code 3; its log says more"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("print('historymap: no photo; give one'); print('a word after it')", "no photo; give one"),
        ("print('historymap: first'); print('historymap: last')", "last"),
        ("print('some'); print('last words')", "it ended with exit code 1: last words; its log says more"),
        ("print('x' * 3_000_000)", f"it ended with exit code 1: {'x' * 500}; its log says more"),
        ("sys.stdout.buffer.write(b'\\xff\\n')", "it ended with exit code 1: \ufffd; its log says more"),
    ],
)
def test_why_a_job_failed_is_taken_from_what_it_said(jobs, code, sentence):
    job = jobs.submit_command("talks", quick(f"import sys; {code}; sys.stdout.flush(); raise SystemExit(1)"))
    assert job.wait(PATIENCE).error == sentence


def test_an_exception_fails_the_job_with_its_last_line(jobs):
    record = jobs.submit_command("raises", quick("raise ValueError('seven')")).wait(PATIENCE)
    assert record.state == "failed"
    assert "ValueError: seven" in record.error


def test_a_program_that_does_not_exist_fails_the_job_with_its_name(jobs, tmp_path):
    record = jobs.submit_command("none", [tmp_path / "no-such-program"]).wait(PATIENCE)
    assert record.state == "failed"
    assert record.error == f"it cannot be started: {tmp_path / 'no-such-program'}: No such file or directory"


def test_arguments_reach_the_program_as_they_are(jobs, tmp_path):
    odd = ["two words", "$HOME; rm -rf *", "äœ漢🏠", "", "'\"\\", "*", "line\nline"]
    job = jobs.submit_command("odd", quick("import json, sys; print(json.dumps(sys.argv[1:]))", *odd))
    assert job.wait(PATIENCE).state == "completed"
    assert json.loads(job.log()) == odd


def test_following_gives_all_lines_once_and_the_line_that_moves(jobs):
    code = "import time\nfor n in range(5): print('line', n, flush=True)\n"
    code += "for n in range(4): print(f'\\r{n} of 3', end='', flush=True); time.sleep(0.3)"
    job = jobs.submit_command("bar", quick(code))
    updates = list(job.follow())
    assert "".join(update.text for update in updates) == "".join(f"line {n}\n" for n in range(5))
    assert len({update.live for update in updates} & {f"{n} of 3" for n in range(4)}) >= 2
    assert updates[-1].live == "3 of 3"
    assert updates[-1].record.state == "completed"
    assert {update.record.state for update in updates} <= {"pending", "running", "completed"}


def test_following_starts_where_one_likes_also_after_the_end(jobs):
    job = jobs.submit_command("lines", quick("for n in range(5): print(n)"))
    job.wait(PATIENCE)
    assert "".join(update.text for update in job.follow(4)) == "2\n3\n4\n"
    assert "".join(update.text for update in job.follow()) == "0\n1\n2\n3\n4\n"
    assert [update.text for update in job.follow(10)] == [""]


def test_followers_in_async_code_leave_the_loop_free(jobs, held, tmp_path):
    other = jobs.submit_command("other", quick("print('hello')"))

    async def collect(job):
        return "".join([update.text async for update in job.follow()])

    async def run():
        following = asyncio.gather(collect(held), collect(other))
        longest, before = 0.0, time.monotonic()
        for turn in range(40):
            await asyncio.sleep(0.02)
            longest, before = max(longest, time.monotonic() - before), time.monotonic()
            if turn == 20:
                (tmp_path / "go").touch()
        return await following, longest

    (first, second), longest = asyncio.run(run())
    assert first.startswith("on ")
    assert second == "hello\n"
    assert longest < 10 * POLL  # it has not waited for the job


def test_waiting_gives_up_after_its_time(jobs, held):
    with pytest.raises(TimeoutError, match=f"job {held.id} \\(held\\) is still running after 0.1 s"):
        held.wait(0.1)
    assert held.state == "running"


def test_a_waiting_job_is_cancelled_at_once_and_never_runs(jobs, held, tmp_path):
    job = jobs.submit_command("never", quick("open(__import__('sys').argv[1], 'w')", tmp_path / "ran"))
    record = job.cancel()
    assert record.state == "cancelled"
    assert record.error.startswith("cancelled by ")
    assert record.error.endswith(" before it started")
    (tmp_path / "go").touch()
    assert jobs.submit_command("after", TRUE).wait(PATIENCE).state == "completed"
    assert not (tmp_path / "ran").exists()


def test_what_has_ended_cannot_be_cancelled_and_what_has_not_cannot_be_retried(jobs, held):
    job = jobs.submit_command("waits", TRUE)
    for one in (job, held):
        with pytest.raises(JobsError, match="it can be retried when it has ended"):
            one.retry()
    job.cancel()
    with pytest.raises(JobsError, match=f"job {job.id} \\(waits\\) is cancelled already; there is nothing to cancel"):
        job.cancel()


def test_a_command_is_retried_as_it_was(jobs, tmp_path):
    made = tmp_path / "made"
    job = jobs.submit_command("once", quick("import os, sys; os.stat(sys.argv[1])", made), result=made)
    assert job.wait(PATIENCE).state == "failed"
    made.touch()
    again = job.retry()
    assert again.id != job.id
    assert again.wait(PATIENCE).state == "completed"
    assert job.state == "failed"


def test_what_a_job_tells_of_its_progress_is_seen_while_it_runs_and_afterwards(jobs, tmp_path):
    code = """
import json, os, sys
def tell(done):
    with open(os.environ["HISTORYMAP_PROGRESS"] + ".new", "w") as file:
        json.dump({"done": done, "total": 4, "unit": "tile", "message": "fine"}, file)
    os.replace(file.name, os.environ["HISTORYMAP_PROGRESS"])
tell(1)
"""
    job = jobs.submit_command("tells", quick(f"{code}{_waiting()}\ntell(4)", tmp_path / "go"))
    seen = until(lambda: job.record.progress)
    assert seen == {"done": 1, "total": 4, "unit": "tile", "message": "fine"}
    assert jobs.recent(1)[0].progress == seen
    assert next(iter(job.follow())).record.progress == seen
    (tmp_path / "go").touch()
    assert job.wait(PATIENCE).progress["done"] == 4
    assert not jobs.files.progress(job.id).exists()


def _waiting() -> str:
    return "import time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.02)"


@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff"])
def test_odd_progress_is_no_progress(jobs, content):
    code = "import os, sys; open(os.environ['HISTORYMAP_PROGRESS'], 'w', encoding='latin-1').write(sys.argv[1])"
    record = jobs.submit_command("odd", quick(code, content)).wait(PATIENCE)
    assert (record.state, record.progress) == ("completed", {})


def test_two_jobs_submitted_in_the_same_instant_are_two(jobs):
    first, second = jobs._add([jobs._row(name, TRUE, {}, None) for name in ("one", "two")])
    assert first.id != second.id
    assert {first.wait(PATIENCE).state, second.wait(PATIENCE).state} == {"completed"}


def test_what_a_job_leaves_running_is_ended_with_it(jobs):
    sleep = quick("import time; time.sleep(600)")
    code = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], start_new_session=True).pid)"
    job = jobs.submit_command("parent", quick(code, *sleep))
    assert job.wait(PATIENCE).state == "completed"
    assert not alive(int(job.log()))


def test_a_missing_folder_of_logs_is_made_again(jobs):
    shutil.rmtree(jobs.files.log(1).parent)
    job = jobs.submit_command("x", quick("print(1)"))
    assert job.wait(PATIENCE).state == "completed"
    assert job.log() == "1\n"


def test_the_worker_ends_by_itself_when_idle_and_comes_again(tmp_path):
    with town_of(tmp_path, idle=0.3) as case:
        jobs = Jobs(case)
        for _ in range(2):
            assert jobs.submit_command("x", TRUE).wait(PATIENCE).state == "completed"
            until(lambda: not workers(case))
            assert not jobs.has_worker()
        assert jobs.files.worker_log.read_text() == ""
