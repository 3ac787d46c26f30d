"""Logs by WebSocket: every line once and in order, to everybody, however slow, and whatever breaks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from contextlib import contextmanager

import pytest
import websocket
import yaml
from api_fixtures import API, MANY, logged_in
from job_fixtures import PATIENCE, TRUE, hold, quick, said, stop_workers, town_of, until, workers
from server_fixtures import TOKEN, serve

from historymap_lib.client import Client
from historymap_lib.jobs import Jobs
from historymap_lib.project import load
from historymap_lib.server.messages import JobTold

LINES = 20_000
COUNT = "import sys\nfor n in range({}): print('line', n, 'of a log', flush=n % 100 == 0)"
TICK = """
import os, sys, time
n = 0
while not os.path.exists(sys.argv[1]):
    print("tick", n, flush=True)
    n += 1
    time.sleep(0.002)
"""


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    with town_of(tmp_path_factory.mktemp("town"), idle=60.0) as case, serve(case.file, MANY) as server:
        yield case, server


@pytest.fixture
def jobs(town):
    return Jobs(town[0])


@pytest.fixture
def server(town):
    return town[1]


def address(server, query=""):
    return f"ws://127.0.0.1:{server.port}{server.base}{API}logs{query}"


@contextmanager
def listening(server, query="", **options):
    """Yield a connection with the token; what comes first is read."""
    options = {"header": [f"Authorization: token {TOKEN}"], "timeout": PATIENCE} | options
    connection = websocket.create_connection(address(server, query), skip_utf8_validation=True, **options)
    try:
        connection.first = json.loads(connection.recv())
        yield connection
    finally:
        connection.close(timeout=1)
        connection.shutdown()


def heard(connection):
    """Return all messages until the server says that all is said."""
    found = []
    while True:
        kind, data = connection.recv_data()
        if kind == websocket.ABNF.OPCODE_CLOSE:
            assert int.from_bytes(data[:2], "big") == 1000
            return found
        found.append(json.loads(data))


def text_of(messages, number=None):
    return "".join(m["text"] for m in messages if m["type"] == "log" and number in (None, m["job_id"]))


# ----------------------------------------------------------------------------------------------------------- who may


@pytest.mark.parametrize("header", [[], ["Authorization: token guess"]])
def test_without_login_nobody_listens(server, header):
    with pytest.raises(websocket.WebSocketBadStatusException) as error:
        websocket.create_connection(address(server), header=header, timeout=PATIENCE)
    assert error.value.status_code == 403
    assert json.loads(error.value.resp_body)["message"] == "you are not logged in; give the token of the server"


def test_with_a_cookie_only_pages_of_this_server_listen(server):
    cookies = "; ".join(f"{name}={value}" for name, value in logged_in(server).cookies.items())
    with listening(server, header=[], cookie=cookies, origin=f"http://127.0.0.1:{server.port}") as connection:
        assert connection.first["type"] == "connected"
    with pytest.raises(websocket.WebSocketBadStatusException) as error:
        websocket.create_connection(
            address(server), cookie=cookies, origin="https://evil.example", timeout=PATIENCE
        )  # fmt: skip
    assert error.value.status_code == 403


def test_a_token_in_the_address_will_do(server):
    with listening(server, f"?token={TOKEN}", header=[]) as connection:
        assert connection.first["type"] == "connected"


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("?job=999999", 404, "there is no job 999999"),
        ("?job=x", 400, "should be a whole number"),
        ("?offset=-1", 400, "should be a whole number"),
        ("?offset=1", 400, "name that with job"),
        ("?resume=1-2", 400, "should be jobs and bytes"),
        ("?jobs=1", 400, "jobs is no parameter"),
        ("?job=1&job=2", 400, "given twice"),
        ("?job=%ff", 400, "no text in UTF-8"),
    ],
)
def test_what_is_wrong_in_the_address_is_told(server, query, status, text):
    with pytest.raises(websocket.WebSocketBadStatusException) as error:
        websocket.create_connection(
            address(server, query), header=[f"Authorization: token {TOKEN}"], timeout=PATIENCE
        )  # fmt: skip
    assert error.value.status_code == status
    assert text in json.loads(error.value.resp_body)["message"]


# ------------------------------------------------------------------------------------------------------- what is heard


def test_a_job_is_heard_to_its_end(server, jobs):
    job = jobs.submit_command("counts", quick(COUNT.format(LINES)))
    with listening(server, f"?job={job.id}") as connection:
        messages = heard(connection)
    assert text_of(messages) == job.log_path.read_text()
    states = [m for m in messages if m["type"] == "job_status"]
    assert messages[-1] == states[-1]
    assert states[-1]["status"] == "completed"
    JobTold.model_validate(states[-1])
    assert {m["job_id"] for m in messages} == {job.id}


def test_of_a_job_that_has_ended_all_is_heard_from_any_byte(server, jobs):
    job = jobs.submit_command(
        "umlauts", quick("print('gr\\u00fc\\u00dfe'); print('zw\\u00f6lf'); print('end', end='')")
    )
    job.wait(PATIENCE)
    whole = job.log_path.read_bytes()
    for offset in (0, 9, len(whole), 10**12):
        with listening(server, f"?job={job.id}&offset={offset}") as connection:
            messages = heard(connection)
        logs = [m for m in messages if m["type"] == "log"]
        shown = text_of(messages) + (logs[-1]["live"] if logs else "")
        assert shown == whole[offset:].decode()
        assert messages[-1]["status"] == "completed"


def test_a_job_without_a_word_ends_as_well(server, jobs):
    job = jobs.submit_command("quiet", TRUE)
    with listening(server, f"?job={job.id}") as connection:
        assert {m["type"] for m in heard(connection)} == {"job_status"}


def test_the_line_that_is_written_is_heard_as_it_changes(server, jobs, tmp_path):
    code = (
        "import os, sys, time\n"
        "for n in range(3):\n"
        "    sys.stdout.write(f'\\r{n} of 3'); sys.stdout.flush(); time.sleep(0.7)\n"
        "print()\n"
    )
    job = jobs.submit_command("bar", quick(code))
    with listening(server, f"?job={job.id}") as connection:
        messages = heard(connection)
    lives = [m["live"] for m in messages if m["type"] == "log" and m["live"]]
    assert lives == sorted(set(lives))
    assert lives[-1] == "2 of 3"
    assert text_of(messages) == "2 of 3\n"


def test_without_a_job_all_are_heard_from_now_on(server, jobs, tmp_path):
    running = jobs.submit_command("ticks", [*quick(TICK), str(tmp_path / "stop")])
    update = said(running, "tick 100")
    with listening(server) as connection:
        place = next(place for place in connection.first["jobs"] if place["job_id"] == running.id)
        assert place["offset"] >= update.offset
        (tmp_path / "stop").touch()
        later = jobs.submit_command("later", quick("print('hello from later')"))
        messages = []
        while not any(m["type"] == "job_status" and m["job_id"] == later.id and m["status"] == "completed"
                      for m in messages):  # fmt: skip
            messages.append(json.loads(connection.recv()))
    assert text_of(messages, later.id) == "hello from later\n"
    assert text_of(messages, running.id) == running.log_path.read_bytes()[place["offset"] :].decode()
    states = [m["status"] for m in messages if m["type"] == "job_status" and m["job_id"] == later.id]
    assert states == sorted(states, key=["pending", "running", "completed"].index)


def test_who_says_where_it_was_goes_on_there(server, jobs):
    first, second, third = (jobs.submit_command(name, quick(f"print('{name}\\n' * 3, end='')")) for name in "abc")
    third.wait(PATIENCE)
    with listening(server, f"?after={second.id}&resume={first.id}:2,{second.id}:6,999999:5") as connection:
        assert connection.first["jobs"] == [
            {"job_id": first.id, "offset": 2}, {"job_id": second.id, "offset": 6},
        ]  # fmt: skip
        messages = [json.loads(connection.recv()) for _ in range(5)]
    assert {number: text_of(messages, number) for number in (first.id, second.id, third.id)} == {
        first.id: "a\na\n", second.id: "", third.id: "c\nc\nc\n",
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------- many, and slow ones


def test_many_listeners_hear_every_line_once_and_sleepers_when_they_wake(server, jobs):
    count, sleepers = 12, 4
    job = jobs.submit_command("held", hold(jobs.files.folder / "go"))
    said(job, "on")
    big = jobs.submit_command("counts", quick(COUNT.format(10 * LINES)))
    texts, wake = {}, threading.Event()

    def listen(number):
        with listening(server, f"?job={big.id}") as connection:
            ready.release()
            if number < sleepers:
                wake.wait(PATIENCE)
            texts[number] = text_of(heard(connection))

    ready = threading.Semaphore(0)
    threads = [threading.Thread(target=listen, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert ready.acquire(timeout=PATIENCE)
    (jobs.files.folder / "go").touch()
    big.wait(PATIENCE)
    until(lambda: len(texts) == count - sleepers, "those who are awake have not heard all")
    time.sleep(6)  # longer than the server waits for whoever does not answer its good-bye
    wake.set()
    for thread in threads:
        thread.join(PATIENCE)
    whole = big.log_path.read_text()
    assert len(whole.splitlines()) == 10 * LINES
    assert [number for number in range(count) if texts.get(number) != whole] == []


def test_a_sleeper_that_answers_no_ping_is_not_given_up(tmp_path, capfd):
    often = "--ServerApp.tornado_settings={'ws_ping_interval': 100}"
    with town_of(tmp_path / "town", idle=60.0) as case, serve(case.file, often) as server:
        job = Jobs(case).submit_command("ticks", [*quick(TICK), str(tmp_path / "stop")])
        with listening(server, f"?job={job.id}") as connection:
            time.sleep(3)
            (tmp_path / "stop").touch()
            assert text_of(heard(connection)) == job.log_path.read_text()
        assert "ping" not in server.log.read_text()


def test_a_listener_that_goes_leaves_nothing_behind(server, jobs, tmp_path):
    job = jobs.submit_command("ticks", [*quick(TICK), str(tmp_path / "stop")])
    said(job, "tick")
    for _ in range(20):
        connection = websocket.create_connection(
            address(server, f"?job={job.id}"), header=[f"Authorization: token {TOKEN}"], timeout=PATIENCE
        )
        connection.recv()
        connection.sock.close()  # without a word
    with listening(server, f"?job={job.id}") as connection:
        (tmp_path / "stop").touch()
        assert text_of(heard(connection)) == job.log_path.read_text()
    assert "Traceback" not in server.log.read_text()


def test_a_listener_that_goes_takes_nothing_from_one_that_waits(server, jobs):
    until(lambda: not jobs.unfinished())
    with listening(server) as stays:
        with listening(server) as goes:
            assert goes.first["jobs"] == []
            time.sleep(1)  # both wait for the next look by now
        job = jobs.submit_command("hello", quick("print('hello')"))
        messages = []
        while not any(m["type"] == "job_status" and m["status"] == "completed" for m in messages):
            messages.append(json.loads(stays.recv()))
    assert text_of(messages, job.id) == "hello\n"


def test_a_job_whose_worker_is_killed_is_heard_until_it_has_really_ended(server, jobs, tmp_path, town):
    job = jobs.submit_command("ticks", [*quick(TICK), str(tmp_path / "stop")])
    said(job, "tick 50")
    with listening(server, f"?job={job.id}") as connection:
        for worker in workers(town[0]):  # not its guard, which starts another one
            worker.kill()
        messages = heard(connection)
    assert messages[-1]["status"] == "crashed"
    assert text_of(messages) == job.log_path.read_text()
    page = server.get(f"{API}jobs/{job.id}/log").json
    assert (page["text"], page["complete"]) == (job.log_path.read_text(), True)


def test_words_that_are_no_text_are_told_as_far_as_they_are(server, jobs):
    with listening(server) as connection:
        odd = jobs.submit_command("odd", [*TRUE, "\udcff.txt"])
        job = jobs.submit_command("hello", quick("print('hello')"))
        messages = []
        while not any(m["job_id"] == job.id and m.get("status") == "completed" for m in messages):
            messages.append(json.loads(connection.recv()))
    assert text_of(messages, job.id) == "hello\n"
    assert server.get(f"{API}jobs/{odd.id}").json["command"][-1] == "?.txt"
    assert server.get(f"{API}jobs").json["jobs"][0]["id"] == job.id


def test_after_the_store_was_moved_away_no_old_log_is_taken_for_a_new_one(tmp_path):
    with town_of(tmp_path / "town", idle=60.0) as case, serve(case.file) as server:
        old = Jobs(case).submit_command("old", quick("print('old ' * 100)"))
        old.wait(PATIENCE)
        with listening(server) as connection:
            stop_workers(case)
            (case.paths.jobs / "jobs.db").rename(tmp_path / "away")
            for left in case.paths.jobs.glob("jobs.db-*"):
                left.unlink()
            jobs = Jobs(case)
            (jobs.files.folder / "worker.log").unlink()
            new = jobs.submit_command("new", quick("print('new')"))
            messages = []
            while not any(m["type"] == "job_status" and m["status"] == "completed" for m in messages):
                messages.append(json.loads(connection.recv()))
        assert new.id > old.id
        assert text_of(messages) == "new\n"
        assert server.get(f"{API}jobs/{new.id}/log").json["text"] == "new\n"


@pytest.mark.parametrize("count", [1, 2])
def test_after_the_folder_of_jobs_was_removed_new_ones_are_heard_and_no_old_log_is(tmp_path, count):
    with town_of(tmp_path / "town", idle=60.0) as case, serve(case.file) as server:
        old = Jobs(case).submit_command("old", quick("print('old')"))
        old.wait(PATIENCE)
        with listening(server) as connection, listening(server, f"?job={old.id}") as one:
            assert text_of(heard(one)) == "old\n"  # and kept for others
            stop_workers(case)
            shutil.rmtree(case.paths.jobs)
            jobs = Jobs(case)
            new = jobs._add([jobs._row("new", quick(f"print('ne{n}')"), {}, None) for n in range(count)])  # at once
            assert new[0].id == old.id
            messages = []
            while sum(m["type"] == "job_status" and m["status"] == "completed" for m in messages) < count:
                messages.append(json.loads(connection.recv()))
        assert text_of(messages) == "".join(f"ne{n}\n" for n in range(count))
        with listening(server, "?after=1000&resume=900:5") as connection:  # a follower from before, that comes back
            assert (connection.first["after"], connection.first["jobs"]) == (0, [])
            assert json.loads(connection.recv())["job_id"] == new[0].id


def test_the_newest_job_may_be_forgotten_first_and_all_is_heard_once(tmp_path):
    with town_of(tmp_path / "town", idle=60.0, keep=1) as case, serve(case.file) as server:
        jobs = Jobs(case)
        first = jobs.submit_command("ticks", [*quick(TICK), str(tmp_path / "first")])
        said(first, "tick 50")
        with listening(server) as connection, listening(server, f"?job={first.id}") as one:
            second = jobs.submit_command("ticks", [*quick(TICK), str(tmp_path / "second")])
            third = jobs.submit_command("never", TRUE)
            third.cancel()
            (tmp_path / "first").touch()
            assert heard(one)[-1]["status"] == "completed"
            said(second, "tick 50")
            until(lambda: jobs.store.numbers() == {first.id, second.id})  # of what has ended the latest is kept
            with listening(server, f"?after={third.id}&resume={second.id}:0") as again:
                assert (again.first["after"], [p["job_id"] for p in again.first["jobs"]]) == (third.id, [second.id])
            (tmp_path / "second").touch()
            messages = []
            while not any(m["job_id"] == second.id and m.get("status") == "completed" for m in messages):
                messages.append(json.loads(connection.recv()))
        assert text_of(messages, second.id) == second.log_path.read_text()
        ticks = [int(line.split()[1]) for line in text_of(messages, first.id).splitlines()]
        assert ticks == list(range(ticks[0], ticks[-1] + 1))


def test_settings_that_name_another_place_are_seen_by_those_who_listen_already(tmp_path):
    with town_of(tmp_path / "town", idle=60.0) as case, serve(case.file) as server:
        old = Jobs(case).submit_command("old", hold(tmp_path / "go"))
        said(old, "on")
        settings = yaml.safe_load(case.file.read_text())
        with listening(server) as connection, listening(server, f"?job={old.id}") as one:
            settings["paths"] = settings.get("paths", {}) | {"jobs": "elsewhere"}
            case.file.write_text(yaml.safe_dump(settings))
            other = load(case.file)
            new = Jobs(other).submit_command("new", quick("print('new')"))
            assert new.id == old.id
            messages = []
            while not any(m["type"] == "job_status" and m["status"] == "completed" for m in messages):
                messages.append(json.loads(connection.recv()))
            assert text_of(messages).endswith("new\n")
            while (frame := one.recv_data())[0] != websocket.ABNF.OPCODE_CLOSE:
                pass
            assert int.from_bytes(frame[1][:2], "big") == 4404
        (tmp_path / "go").touch()
        until(lambda: old.record.ended)  # its worker is told nothing of this


def test_a_worker_that_cannot_start_keeps_nobody_from_reading(tmp_path):
    with town_of(tmp_path / "town", idle=60.0) as case, serve(case.file) as server:
        jobs = Jobs(case)
        before = jobs.submit_command("before", quick("print('before')"))
        before.wait(PATIENCE)
        stop_workers(case)
        (jobs.files.folder / "worker.log").unlink()
        (jobs.files.folder / "worker.log").mkdir()
        told = server.ask("POST", f"{API}generate-training?tiles=1")
        assert (told.status, told.json["status"]) == (202, "pending")
        assert "is queued, but the worker" in told.json["message"]
        assert len(jobs.waiting()) == 1
        with listening(server, f"?job={before.id}") as connection:
            assert text_of(heard(connection)) == "before\n"
        (jobs.files.folder / "worker.log").rmdir()
        with listening(server, f"?job={told.json['job_id']}") as connection:  # and has one start as soon as it can
            assert heard(connection)[-1]["status"] == "completed"


def test_a_listener_keeps_a_worker_alive_as_followers_do(server, jobs, tmp_path, town):
    with listening(server) as connection:
        job = jobs.submit_command("ticks", [*quick(TICK), str(tmp_path / "stop")])
        said(job, "tick")
        for worker in workers(town[0]):
            worker.kill()
        found = None
        while found is None:
            message = json.loads(connection.recv())
            if message["type"] == "job_status" and message["job_id"] == job.id and message["status"] == "crashed":
                found = message
    (tmp_path / "stop").touch()
    assert "its worker" in found["error"]


# ---------------------------------------------------------------------------------------------------- server that dies


@pytest.mark.parametrize("one", [True, False], ids=["of one job", "of all"])
def test_a_server_that_is_killed_and_comes_back_shows_the_same_and_followers_go_on(tmp_path, one):
    with town_of(tmp_path / "town", idle=60.0) as case:
        jobs = Jobs(case)
        before = jobs.submit_command("before", quick("print('before')"))
        before.wait(PATIENCE)
        with serve(case.file) as server:
            job = jobs.submit_command("ticks", [*quick(TICK), str(tmp_path / "stop")])
            said(job, "tick")
            messages = []

            def follow():
                for message in Client(server.url, TOKEN).follow_logs(job.id if one else None):
                    messages.append(message)
                    if message["type"] == "job_status" and message["status"] == "completed":
                        return

            follower = threading.Thread(target=follow)
            follower.start()
            until(lambda: text_of(list(messages)).count("tick") > 100)
            os.kill(server.pid, signal.SIGKILL)
            time.sleep(1)
        with serve(case.file, port=server.port):
            client = Client(server.url, TOKEN)
            shown = [(told["id"], told["state"]) for told in client.jobs()["jobs"]]
            assert shown == [(job.id, "running"), (before.id, "completed")]
            until(lambda: sum(m["type"] == "connected" for m in list(messages)) >= 2)
            (tmp_path / "stop").touch()
            follower.join(PATIENCE)
        assert not follower.is_alive()
        begin = 0 if one else messages[0]["jobs"][0]["offset"]
        assert text_of(messages) == job.log_path.read_bytes()[begin:].decode()
        assert job.record.state == "completed"
