"""`historymap --server URL`: a case on another machine from a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
from api_fixtures import MANY, bring_back, held, judged_town, offered
from job_fixtures import PATIENCE, end_all, quick, read_terminal, said, until
from server_fixtures import TOKEN, free_port, serve

from historymap_lib import cli, client
from historymap_lib.annotation_store import AnnotationStore
from historymap_lib.jobs import Jobs
from historymap_lib.status import read_status


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    with offered(tmp_path_factory.mktemp("town"), MANY) as found:
        yield found


@pytest.fixture
def case(town):
    end_all(town[0])
    return bring_back(town[0].paths.root)


@pytest.fixture
def remote(town, capsys, monkeypatch):
    """Return a function that asks the server: it returns the exit code, what was printed, and what went wrong."""
    monkeypatch.setenv("HISTORYMAP_TOKEN", TOKEN)

    def ask(*arguments: object, server: str = town[1].url) -> tuple[int, str, str]:
        try:
            code = cli.main(["--server", server, *map(str, arguments)])
        except SystemExit as stop:  # from argparse
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return ask


def test_health_and_status_are_told(remote, case):
    code, out, _ = remote("health")
    assert (code, json.loads(out)["status"]) == (0, "ok")
    assert json.loads(remote("status", "--json")[1])["training_tiles"] == 2
    lines = remote("status")[1].splitlines()
    assert lines[:3] == read_status(case).table().splitlines()[:3]
    assert re.match(r"next: historymap --server http\S+ train ", lines[-1])  # there, and not here


def test_the_server_may_be_named_either_way(town, remote, capsys):
    assert cli.main([f"--server={town[1].url}", "health"]) == 0


@pytest.mark.parametrize("name", ["HISTORYMAP_TOKEN", "JUPYTER_TOKEN"])
def test_the_token_comes_from_the_environment(town, remote, monkeypatch, name):
    monkeypatch.delenv("HISTORYMAP_TOKEN")
    monkeypatch.delenv("JUPYTER_TOKEN", raising=False)
    code, _, err = remote("health")
    assert (code, "give the token of the server by HISTORYMAP_TOKEN; HISTORYMAP_TOKEN is not set" in err) == (2, True)
    monkeypatch.setenv(name, "guess")
    assert f"give the token of the server by HISTORYMAP_TOKEN; what {name} holds is another" in remote("health")[2]
    code, _, err = remote("--token", TOKEN, "health")
    assert (code, "give the token by HISTORYMAP_TOKEN instead" in err, TOKEN in err) == (2, True, False)
    monkeypatch.setenv(name, TOKEN)
    assert remote("health")[0] == 0


def test_a_step_is_queued_and_followed(remote, case):
    code, out, _ = remote("generate-training", "--tiles", 1, "--force", "--wait")
    assert code == 0
    assert re.search(r"job 1: generate-training is (queued|running); historymap --server http\S+ logs --job 1", out)
    assert "generate-training: 1 tiles" in out
    assert Jobs(case).get(1).record.parameters == {"tiles": 1, "force": True}


def test_what_fails_is_told_by_the_exit_code(remote, case):
    for tile in (case.paths.training / "images").iterdir():
        tile.write_bytes(b"no TIFF")
    code, out, err = remote("train", "--epochs", 1, "--wait")
    assert code == 2
    assert re.search("train is (queued|running)", out)
    assert "historymap: job 1 (train) failed: " in err
    assert "run generate-training again" in err


def test_jobs_are_listed_shown_cancelled_and_run_again(remote, case, tmp_path):
    assert remote("jobs")[1] == "there are no jobs yet\n"
    with held(case, tmp_path / "go") as running:
        assert remote("verify", "--force")[0] == 0
        code, _, err = remote("verify", "--reject")
        assert (code, "(held) is running" in err) == (2, True)
        listed = remote("jobs")[1].splitlines()
        assert re.search(r"2 +verify +pending", listed[0])
        assert re.search(r"1 +held +running", listed[1])
        assert json.loads(remote("jobs", "--count", 1, "--json")[1])["jobs"][0]["id"] == 2
        assert json.loads(remote("cancel", 2)[1])["state"] == "cancelled"
        assert "cancelled by" in remote("jobs")[1]
        assert remote("retry", 2)[1].startswith("job 3: verify is queued; historymap --server ")
        assert json.loads(remote("job", running.id)[1])["name"] == "held"
    assert remote("job", 77)[2].endswith("there is no job 77; the list of jobs shows those there are\n")
    assert remote("log", running.id)[1] == running.log()


def test_annotations_are_sent_from_a_file_read_back_and_applied(remote, case, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("osm_id,existed,notes\n2,true,Verified\n3,,\n")
    assert json.loads(remote("save-annotations", file)[1])["saved"] == 2
    told = json.loads(remote("annotations")[1])["annotations"]
    assert [(entry["osm_id"], entry["existed"]) for entry in told] == [(2, True), (3, None)]
    code, out, _ = remote("apply-annotations", file, "--wait")
    assert code == 0
    assert "0 annotations saved, 2 known already" in out
    assert "apply-annotations: 2 annotations corrected" in out
    verified = json.loads(remote("verdicts", "--limit", 3)[1])
    assert [f["properties"]["annotated"] for f in verified["features"]] == [False, True, True]
    assert verified["next"] == 3


def test_a_file_with_a_wrong_row_is_not_sent(remote, case, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("osm_id,existed\n2,true\nx,true\n")
    code, _, err = remote("save-annotations", file)
    assert (code, "row 2" in err, "nothing was sent" in err) == (2, True, True)
    assert AnnotationStore.of(case).events() == []


def test_verdicts_come_whole_or_in_a_page(remote, case, monkeypatch):
    monkeypatch.setattr(client, "PAGE", 7)
    whole = json.loads(remote("verdicts")[1])
    expected = json.loads(case.paths.verified.read_text())["features"]
    assert [f["properties"]["building_id"] for f in whole["features"]] == [
        f["properties"]["building_id"] for f in expected
    ]
    page = json.loads(remote("verdicts", "--limit", 4, "--after", 8)[1])
    assert (page["features"], page["next"]) == (whole["features"][8:12], 12)
    assert json.loads(remote("verdicts", "--after", 8)[1])["features"] == whole["features"][8:]


def test_verdicts_of_an_area(remote, case):
    box = ("--bbox", "-1.5", "-1", "0", "1")
    assert json.loads(remote("verdicts", *box, "--verdict", "existed")[1])["features"] == []
    assert "expected 4 arguments" in remote("verdicts", "--bbox", "1", "2")[2]
    assert "should be" in remote("verdicts", "--verdict", "gone")[2]


def test_logs_of_all_jobs_for_some_seconds(remote, case):
    job = Jobs(case).submit_command(
        "ticks", quick("import time\nfor n in range(60): print('tick', n, flush=True); time.sleep(.05)")
    )
    said(job, "tick 1")
    code, out, _ = remote("logs", "--seconds", 4)
    assert code == 0
    assert re.search(r"^1: tick \d+$", out, re.MULTILINE)
    assert "job 1 (ticks) is completed" in out
    assert remote("logs", "--job", 1)[1] == job.log()


def test_the_last_word_is_heard_also_where_no_line_ends(remote, case):
    code = "import time\nfor n in range(40): print('tick', n, flush=True); time.sleep(.05)\nprint('last word', end='')"
    said(Jobs(case).submit_command("ticks", quick(code)), "tick 1")
    out = remote("logs", "--seconds", 5)[1]
    assert "1: last word\njob 1 (ticks) is completed" in out
    assert out.count("job 1 (ticks) is running") <= 1


BAR = """
import os, sys, time
n = 0
while not os.path.exists(sys.argv[1]):
    print(f"\\r{n} so far", end="", flush=True)
    n += 1
    time.sleep(0.3)
print("\\rdone")
"""


def test_on_a_terminal_the_line_that_is_written_moves(town, case, tmp_path):
    job = Jobs(case).submit_command("bar", [*quick(BAR), str(tmp_path / "stop")])
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "historymap_lib.cli", "--server", town[1].url, "logs", "--job", str(job.id)]
    with subprocess.Popen(words, stdout=theirs, env=os.environ | {"HISTORYMAP_TOKEN": TOKEN}) as looking:
        os.close(theirs)
        seen = b""
        while b"so far\r\x1b[K" not in seen:
            seen += os.read(ours, 65536)
        (tmp_path / "stop").touch()
        seen += read_terminal(ours)
    assert looking.returncode == 0
    assert seen.endswith(b"\x1b[Kdone\r\n")


def test_where_the_server_goes_it_says_so_and_goes_on_when_it_comes_back(tmp_path):
    with judged_town(tmp_path / "town") as case, held(case, tmp_path / "go") as job:
        with serve(case.file) as server:
            looking = subprocess.Popen(
                [sys.executable, "-m", "historymap_lib.cli", "--server", server.url, "logs", "--job", str(job.id)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"HISTORYMAP_TOKEN": TOKEN},
            )  # fmt: skip
            assert looking.stdout.readline().startswith("on ")
        assert looking.stderr.readline().endswith("; trying again\n")
        with serve(case.file, port=server.port):
            (tmp_path / "go").touch()
            _, further = looking.communicate(timeout=PATIENCE)
    assert (looking.returncode, further) == (0, "")


@pytest.mark.parametrize("arguments", [["nothing"], [], ["job", "x"], ["train", "--epochs", "many"]])
def test_what_is_no_command_is_told(remote, arguments):
    code, _, err = remote(*arguments)
    assert (code, "usage: historymap --server URL" in err) == (2, True)


def test_where_nobody_listens_it_says_so(remote):
    code, _, err = remote("health", server=f"http://127.0.0.1:{free_port()}")
    assert (code, "does not answer (Connection refused)" in err) == (2, True)


def test_ctrl_c_ends_the_looking_and_not_the_job(town, case, tmp_path):
    with held(case, tmp_path / "go") as job:
        looking = subprocess.Popen(
            [sys.executable, "-m", "historymap_lib.cli", "--server", town[1].url, "logs", "--job", str(job.id)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"HISTORYMAP_TOKEN": TOKEN},
        )  # fmt: skip
        assert looking.stdout.readline().startswith("on ")
        time.sleep(0.2)
        looking.send_signal(signal.SIGINT)
        _, err = looking.communicate(timeout=PATIENCE)
        assert (looking.returncode, err) == (130, "\nwhat runs on the server goes on\n")
        assert job.state == "running"
    until(lambda: job.state == "completed")
