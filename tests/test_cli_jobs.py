"""`historymap jobs`: what a person does with jobs at a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from job_fixtures import PATIENCE, TRUE, hold, quick, read_terminal, said, town_of, until

from historymap_lib import cli
from historymap_lib.jobs import Jobs

HISTORYMAP = [sys.executable, "-m", "historymap_lib.cli"]
TRAINING = """
import os, sys, time
print("epoch 1: loss 0.5", flush=True)
step = 0
while not os.path.exists(sys.argv[1]):
    step += 1
    print(f"\\rtraining: step {step}", end="", flush=True)
    time.sleep(0.05)
print("\\rtraining: all steps\\nepoch 2: loss 0.4")
"""


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    with town_of(tmp_path_factory.mktemp("town"), idle=60.0) as case:
        yield case


@pytest.fixture
def run(town, capsys):
    """Run the command in this process: return its exit code, what it printed, and what went wrong."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([*map(str, arguments), "--config", str(town.file)])
        return code, *capsys.readouterr()

    return run


def start(town, *arguments: object, **options) -> subprocess.Popen:
    command = [*HISTORYMAP, *map(str, arguments), "--config", str(town.file)]
    return subprocess.Popen(command, text=True, **options)


def test_without_jobs_the_list_says_how_to_get_one(tmp_path, capsys):
    with town_of(tmp_path) as case:
        assert cli.main(["jobs", "list", "--config", str(case.file)]) == 0
        assert capsys.readouterr().out == "there are no jobs yet; historymap jobs submit STEP queues one\n"
        assert cli.main(["jobs", "list", "--json", "--config", str(case.file)]) == 0
        assert json.loads(capsys.readouterr().out) == []


def test_a_step_is_submitted_and_waited_for(run, town):
    code, out, error = run("jobs", "submit", "generate-training", "--tiles", "1", "--wait")
    lines = out.splitlines()
    number = int(lines[0].split()[1].rstrip(":"))
    assert (code, error) == (0, "")
    assert lines[0] == (
        f"job {number}: generate-training is queued; historymap jobs log {number} -f shows what it does"
    )
    assert lines[-1].startswith("generate-training: 1 tiles")
    assert Jobs(town).get(number).record.parameters == {"tiles": 1}


def test_run_with_job_runs_in_the_background_and_shows_it(run, town):
    code, out, _ = run("run", "generate-training", "--tiles", "1", "--force", "--job")
    assert code == 0
    assert out.startswith("job ")
    assert out.splitlines()[-1].startswith("generate-training: 1 tiles")
    assert "--force" in Jobs(town).recent(1)[0].command


def test_a_step_that_cannot_run_is_refused_with_a_sentence_and_2(run, town):
    before = Jobs(town).recent(1)
    code, out, error = run("jobs", "submit", "predict")
    assert (code, out) == (2, "")
    assert error.startswith("historymap: predict needs what train makes")
    assert error.count("\n") == 1
    assert Jobs(town).recent(1) == before


def test_a_step_that_fails_ends_with_2_and_its_sentence(run, town, tmp_path):
    held = Jobs(town).submit_command("held", hold(tmp_path / "go"))
    said(held, "on")
    waiting = start(
        town, "run", "generate-training", "--force", "--job", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until(lambda: Jobs(town).waiting())
    photo = town.file.parent / "photo.tif"
    aside = photo.rename(photo.with_suffix(".aside"))
    (tmp_path / "go").touch()
    out, error = waiting.communicate(timeout=PATIENCE)
    aside.rename(photo)
    number = Jobs(town).recent(1)[0].id
    assert waiting.returncode == 2
    assert f"historymap: {photo}" in out
    assert error.startswith(f"historymap: job {number} (generate-training) failed: {photo}")
    assert error.count("\n") == 1


def test_jobs_are_listed_the_newest_first(run, town):
    jobs = Jobs(town)
    good = jobs.submit_command("good", TRUE)
    bad = jobs.submit_command("bad", quick("raise SystemExit('x' * 300)"))
    bad.wait(PATIENCE)
    code, out, _ = run("jobs", "list", "--count", "2")
    first, second = out.splitlines()
    assert code == 0
    assert first.split()[:3] == [str(bad.id), "bad", "failed"]
    assert first.endswith("...")
    assert second.split()[:3] == [str(good.id), "good", "completed"]
    told = json.loads(run("jobs", "list", "--json", "--count", "2")[1])
    assert [(job["id"], job["state"], job["exit_code"]) for job in told] == [
        (bad.id, "failed", 1),
        (good.id, "completed", 0),
    ]
    assert "token" not in told[0]


def test_all_that_is_known_of_a_job_is_shown(run, town):
    job = Jobs(town).submit_command("good", TRUE)
    job.wait(PATIENCE)
    told = json.loads(run("jobs", "show", job.id)[1])
    assert (told["id"], told["state"], told["command"]) == (job.id, "completed", TRUE)
    assert told["log"] == str(job.log_path)


def test_a_log_is_printed_whole_or_its_last_lines(run, town):
    job = Jobs(town).submit_command("lines", quick("for n in range(5): print('line', n)\nprint('50%', end='')"))
    job.wait(PATIENCE)
    whole = "".join(f"line {n}\n" for n in range(5))
    assert run("jobs", "log", job.id)[1].rstrip("\n") == f"{whole}50%"
    assert run("jobs", "log", job.id, "-n", "2")[1] == "line 4\n50%\n"
    assert run("jobs", "log", job.id, "-f")[1] == f"{whole}50%\n"


def test_what_is_running_is_listed_with_its_progress_and_cancelled(run, town):
    code = "import json, os, time\nwith open(os.environ['HISTORYMAP_PROGRESS'], 'w') as file:\n"
    code += "    json.dump({'done': 3, 'total': 7, 'unit': 'tile', 'message': 'fine'}, file)\n"
    code += "print('on', flush=True)\ntime.sleep(600)"
    job = Jobs(town).submit_command("long", quick(code))
    said(job, "on")
    assert "3/7 tile fine" in run("jobs", "list", "--count", "1")[1]
    code, out, _ = run("jobs", "cancel", job.id)
    assert code == 0
    assert out.split()[:3] == [str(job.id), "long", "cancelled"]
    assert "cancelled by" in out
    code, out, error = run("jobs", "cancel", job.id)
    assert (code, out) == (2, "")
    assert error == f"historymap: job {job.id} (long) is cancelled already; there is nothing to cancel\n"


def test_a_job_is_tried_again(run, town):
    job = Jobs(town).submit_command("again", TRUE)
    job.wait(PATIENCE)
    code, out, _ = run("jobs", "retry", job.id)
    assert code == 0
    number, name = out.split()[:2]
    assert (int(number) > job.id, name) == (True, "again")
    assert Jobs(town).get(int(number)).wait(PATIENCE).state == "completed"


@pytest.mark.parametrize("command", ["show", "log", "cancel", "retry"])
def test_an_unknown_job_is_one_sentence_and_2(run, command):
    told = "historymap: there is no job 99999; the list of jobs shows those there are\n"
    assert run("jobs", command, 99999) == (2, "", told)


def test_ctrl_c_ends_following_and_not_the_job(run, town, tmp_path):
    job = Jobs(town).submit_command("held", hold(tmp_path / "go"))
    following = start(town, "jobs", "log", job.id, "-f", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert following.stdout.readline().startswith("on ")
    following.send_signal(signal.SIGINT)
    out, error = following.communicate(timeout=PATIENCE)
    assert (following.returncode, error) == (0, "")
    assert f"job {job.id} goes on; historymap jobs log {job.id} -f follows it" in out
    assert job.state == "running"
    (tmp_path / "go").touch()
    assert job.wait(PATIENCE).state == "completed"


def test_a_reader_that_goes_away_is_no_error(town):
    """As with `historymap jobs log 1 | head -1`."""
    job = Jobs(town).submit_command("lines", quick("for n in range(200_000): print('line', n)"))
    job.wait(PATIENCE)
    reading = start(town, "jobs", "log", job.id, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert reading.stdout.readline() == "line 0\n"
    reading.stdout.close()
    error = reading.stderr.read()
    reading.stderr.close()
    reading.wait(timeout=PATIENCE)
    assert "make room" not in error
    assert "Traceback" not in error


def test_on_a_terminal_the_bar_of_a_training_moves(town, tmp_path):
    job = Jobs(town).submit_command("train", quick(TRAINING, tmp_path / "go"))
    said(job, "epoch 1")
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    following = start(town, "jobs", "log", job.id, "-f", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    screen, end = b"", time.monotonic() + PATIENCE
    while screen.count(b"training: step") < 4:
        screen += os.read(ours, 65536)
        assert time.monotonic() < end
    (tmp_path / "go").touch()
    screen += read_terminal(ours)
    os.close(ours)
    assert following.wait(timeout=PATIENCE) == 0
    steps = [int(part.split()[0]) for part in screen.decode().split("training: step ")[1:]]
    assert len(set(steps)) >= 3
    assert steps == sorted(steps)
    # each state takes the place of the one before it
    assert screen.count(b"\n") == screen.count(b"epoch 1") + screen.count(b"all steps") + screen.count(b"epoch 2") == 3
    assert screen.endswith(b"epoch 2: loss 0.4\r\n")
