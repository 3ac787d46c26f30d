"""The client: a method a call, errors that say what to do, and logs that go on where a connection broke."""

from __future__ import annotations

import http.server
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from contextlib import contextmanager, suppress

import pytest
import websocket
from api_fixtures import MANY, held, offered
from job_fixtures import PATIENCE, TRUE, quick, said, town_of, until
from server_fixtures import TOKEN, free_port, serve

from historymap_lib import client as module
from historymap_lib import client_logs
from historymap_lib.client import Client, RefusedError
from historymap_lib.errors import HistorymapError, ServerError
from historymap_lib.jobs import Jobs
from historymap_lib.server.calls import CALLS

BASE = "/user/ann/"
ONE = {"osm_id": 2, "existed": True, "notes": "Verified"}
TICK = """
import os, sys, time
n = 0
while not os.path.exists(sys.argv[1]):
    print("tick", n, "x" * 500, flush=True)
    n += 1
    time.sleep(0.002)
"""


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    with offered(tmp_path_factory.mktemp("town"), MANY, base=BASE) as found:
        yield found


@pytest.fixture(scope="module")
def jobs(town):
    return Jobs(town[0])


@pytest.fixture
def client(town):
    with Client(town[1].url, TOKEN) as client:
        yield client


# ---------------------------------------------------------------------------------------------------- a method a call


def test_there_is_a_method_for_every_call():
    assert [call.name for call in CALLS if not callable(getattr(Client, call.name, None))] == []


def test_what_is_queued_looked_at_cancelled_and_run_again(client, town, jobs, tmp_path):
    case = town[0]
    case.paths.models.mkdir(parents=True, exist_ok=True)
    case.paths.model.touch()
    with held(case, tmp_path / "go") as running:
        queued = [
            client.generate_training(tiles=7),
            client.train(epochs=3, resume=True, force=True),
            client.predict(),
            client.verify(quick=True, force=True),
            client.apply_annotations([ONE], retrain=True),
        ]
        records = [jobs.get(answer["job_id"]).record for answer in queued]
        assert [record.name for record in records] == [
            "generate-training", "train", "predict", "verify", "apply-annotations",
        ]  # fmt: skip
        assert [record.parameters for record in records] == [
            {"tiles": 7}, {"epochs": 3, "resume": True, "force": True}, {}, {"quick": True, "force": True}, {},
        ]  # fmt: skip
        assert client.status()["current_job"]["id"] == running.id
        assert client.cancel(records[0].id)["state"] == "cancelled"
        assert client.retry(records[0].id)["job_id"] > records[-1].id
        with pytest.raises(RefusedError, match=r"\(held\) is running") as refused:
            client.verify(if_busy="reject")
        assert refused.value.status == 409
    assert client.job(running.id)["state"] == "completed"
    assert client.wait(running.id)["state"] == "completed"
    page = client.jobs(limit=2)
    assert client.jobs(limit=2, before=page["next"])["jobs"][0]["id"] == page["jobs"][-1]["id"] - 1
    assert {job["state"] for job in client.jobs(100, state="cancelled")["jobs"]} == {"cancelled"}


def test_annotations_and_verdicts(client):
    assert client.health()["status"] == "ok"
    client.save_annotations([ONE])
    (told,) = [entry for entry in client.annotations()["annotations"] if entry["osm_id"] == 2]
    assert told["notes"] == "Verified"
    whole = client.verdicts()["features"]
    page = client.verdicts(limit=4, after=3)
    assert page["features"] == whole[3:7]
    assert page["next"] == 7
    assert client.verdicts(bbox=(-1.5, -1, 0, 1))["features"] == []
    assert {f["properties"]["verdict"] for f in client.verdicts(verdict="existed")["features"]} == {"existed"}


def test_a_log_is_read_whole(client, jobs):
    job = jobs.submit_command("long", quick("for n in range(200_000): print('line', n)\nprint('end', end='')"))
    job.wait(PATIENCE)
    assert "".join(client.whole_log(job.id)) == job.log_path.read_text()
    assert client.log(job.id, offset=5)["text"].startswith("0\nline 1\n")


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("token", [None, "guess"])
def test_without_the_token_it_says_what_is_wanted(town, token):
    client = Client(town[1].url, token)
    for ask in (client.health, client.verify, lambda: next(client.follow_logs())):
        with pytest.raises(RefusedError, match="you are not logged in; give the token of the server") as refused:
            ask()
        assert refused.value.status == 403
    client.close()


def test_a_refusal_names_status_and_field(client):
    with pytest.raises(RefusedError, match="there is no job 99999") as refused:
        client.job(99999)
    assert refused.value.status == 404
    with pytest.raises(RefusedError, match="greater than or equal to 1") as refused:
        client.generate_training(tiles=0)
    assert (refused.value.status, refused.value.field) == (400, "tiles")
    with pytest.raises(RefusedError) as refused:
        client.save_annotations([{"osm_id": "x", "existed": True}])
    assert refused.value.field == "annotations.0.osm_id"
    with pytest.raises(RefusedError, match="there is no job 99999"):
        next(client.follow_logs(99999))
    assert issubclass(RefusedError, HistorymapError)


def test_where_nobody_listens_it_says_so():
    with pytest.raises(ServerError, match=r"does not answer \(Connection refused\); see whether the server runs"):
        Client(f"http://127.0.0.1:{free_port()}").health()


@pytest.mark.parametrize("address", ["", "ftp://x", "http://", "file:///etc/passwd"])
def test_what_is_no_address_is_refused_at_once(address):
    with pytest.raises(ServerError, match="is no address of a server"):
        Client(address)


@pytest.mark.parametrize(
    "address",
    ["http://lab.example/user/ann", "lab.example/user/ann/", "http://lab.example/user/ann/lab?token=x",
     "http://lab.example/user/ann/historymap/api/"],
)  # fmt: skip
def test_the_address_may_be_what_a_browser_shows(address):
    assert Client(address).url == "http://lab.example/user/ann"


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>hello</html>"), (404, b"[]"), (200, b"[]"), (302, b"")])
def test_another_server_is_told_from_ours(status, body):
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever).start()
        with Client(f"127.0.0.1:{other.server_port}") as client, pytest.raises(ServerError, match="right server"):
            client.health()
        other.shutdown()


# -------------------------------------------------------------------------------------------------------- follow logs


def text_of(messages, number):
    return "".join(m["text"] for m in messages if m["type"] == "log" and m["job_id"] == number)


def test_a_job_is_followed_to_its_end_from_a_byte_on(client, jobs):
    job = jobs.submit_command("lines", quick("for n in range(5000): print('line', n)"))
    messages = list(client.follow_logs(job.id, offset=7))
    assert messages[0]["type"] == "connected"
    assert text_of(messages, job.id) == job.log_path.read_text()[7:]
    assert messages[-1]["status"] == "completed"


def test_all_are_followed_for_so_many_seconds(client, jobs):
    start, messages = time.monotonic(), []
    for message in client.follow_logs(seconds=3):
        messages.append(message)
        if message["type"] == "connected":
            job = jobs.submit_command("hello", quick("print('hello')"))
    assert 2.5 < time.monotonic() - start < 10
    assert text_of(messages, job.id) == "hello\n"


class Line(socketserver.ThreadingTCPServer):
    """A line to a server that breaks after so many bytes, or says no more while `silent` is set."""

    def __init__(self, port, cut=None):
        super().__init__(("127.0.0.1", 0), _Call)
        self.far_port, self.cut, self.silent = port, cut, threading.Event()
        self.calls, self.open_ones = 0, []

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, args=[0.05])
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.silent.clear()
        self.shutdown()
        self.thread.join()
        self.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}{BASE}"

    def drop(self):
        """Break what goes over it now."""
        for one in self.open_ones:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class _Call(socketserver.BaseRequestHandler):
    def handle(self):
        self.server.calls += 1
        self.server.open_ones.append(self.request)
        with socket.create_connection(("127.0.0.1", self.server.far_port)) as far:
            there = threading.Thread(target=self.pump, args=[self.request, far])
            there.start()
            self.pump(far, self.request, self.server.cut)
            there.join()

    def pump(self, source, target, cut=None):
        passed = 0
        with suppress(OSError):
            while (data := source.recv(16384)) and not (cut and passed > cut):
                while self.server.silent.is_set():
                    time.sleep(0.05)
                target.sendall(data)
                passed += len(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("one", [True, False], ids=["one job", "all"])
def test_over_a_line_that_breaks_again_and_again_nothing_is_lost_or_comes_twice(town, jobs, tmp_path, one):
    job = jobs.submit_command("ticks", [*quick(TICK), str(tmp_path / "stop")])
    said(job, "tick 50 ")
    messages = []
    with Line(town[1].port, cut=150_000) as line, Client(line.url, TOKEN) as follower:
        for message in follower.follow_logs(job.id if one else None):
            messages.append(message)
            if line.calls > 4:
                (tmp_path / "stop").touch()
            if message["type"] == "job_status" and message["job_id"] == job.id and message["status"] == "completed":
                break
    begin = 0 if one else next(p["offset"] for p in messages[0]["jobs"] if p["job_id"] == job.id)
    assert text_of(messages, job.id) == job.log_path.read_bytes()[begin:].decode()
    assert sum(message["type"] == "connected" for message in messages) > 4


def test_a_line_that_falls_silent_is_given_up_for_another(town, jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(client_logs, "SILENCE", 0.3)
    job = jobs.submit_command("ticks", [*quick(TICK), str(tmp_path / "stop")])
    messages = []
    with Line(town[1].port) as line, Client(line.url, TOKEN) as follower:
        for message in follower.follow_logs(job.id):
            messages.append(message)
            if line.calls == 1 and text_of(messages, job.id).count("tick") > 20 and not line.silent.is_set():
                line.silent.set()
                threading.Timer(2.5, line.silent.clear).start()  # it is given up after 1.2 s
            if line.calls > 1:
                (tmp_path / "stop").touch()
    assert line.calls > 1
    assert text_of(messages, job.id) == job.log_path.read_text()


def test_a_server_that_stays_away_is_told_in_the_end(monkeypatch):
    monkeypatch.setattr(client_logs, "PATIENCE", 1.0)
    with pytest.raises(ServerError, match="see whether the server runs, then follow again"):
        list(Client(f"http://127.0.0.1:{free_port()}").follow_logs())


def test_after_a_long_silence_it_is_as_patient_as_at_first(town, jobs, monkeypatch):
    until(lambda: not jobs.unfinished())
    monkeypatch.setattr(client_logs, "PATIENCE", 2.0)
    monkeypatch.setattr(client_logs, "SILENCE", 0.5)
    messages = []
    with Line(town[1].port) as line, Client(line.url, TOKEN) as follower:
        for message in follower.follow_logs():
            messages.append(message)
            if len(messages) == 1:
                threading.Timer(4, line.drop).start()  # without a word, but connected
            elif message["type"] == "connected":
                job = jobs.submit_command("hello", quick("print('hello')"))
            elif message.get("status") == "completed":
                break
    assert [message["type"] for message in messages[:2]] == ["connected", "connected"]
    assert text_of(messages, job.id) == "hello\n"


@contextmanager
def listening_for(port, status=503, location=""):
    """Answer everything with a status."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(dict(self.headers))
            self.send_response(status)
            self.send_header("Location", location)
            self.send_header("Set-Cookie", "username-127-0-0-1-8888=secret; Path=/")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    seen = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Answers) as server:
        server.seen = seen
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_a_proxy_without_a_server_behind_it_is_told_in_the_end_and_no_login_with_it(monkeypatch, caplog):
    monkeypatch.setattr(client_logs, "PATIENCE", 1.0)
    with listening_for(0) as proxy, pytest.raises(ServerError, match="answers with 503; see whether the") as error:
        list(Client(f"http://127.0.0.1:{proxy.server_port}").follow_logs())
    assert "secret" not in caplog.text + str(error.value)


def test_settings_that_are_broken_for_a_while_end_no_follower(tmp_path, caplog):
    with offered(tmp_path / "town", MANY) as (case, server):
        messages = []

        def follow():
            for message in Client(server.url, TOKEN).follow_logs():
                messages.append(message)
                if message.get("status") == "completed":
                    return

        text = case.file.read_text()
        case.file.write_text(text.replace("tiles:", "tils:"))
        follower = threading.Thread(target=follow)
        follower.start()
        until(lambda: "answers with 503" in caplog.text)
        assert "did you mean tiles?" in caplog.text
        case.file.write_text(text)
        until(lambda: messages)
        Jobs(case).submit_command("hello", quick("print('hello')"))
        follower.join(PATIENCE)
        assert not follower.is_alive()


def test_a_job_that_was_forgotten_before_all_was_told_has_not_completed(town, jobs):
    """As when `jobs.keep` others have ended, while its follower slept."""
    job = jobs.submit_command("long", quick("for n in range(200_000): print('line', n, 'x' * 100)"))
    with Client(town[1].url, TOKEN) as follower:
        messages = follower.follow_logs(job.id)
        assert next(messages)["type"] == "connected"
        job.wait(PATIENCE)
        jobs.store.delete([job.id])
        job.log_path.unlink()
        jobs.submit_command("next", TRUE).wait(PATIENCE)
        with pytest.raises(RefusedError, match=f"job {job.id} is not known any more") as refused:
            list(messages)
    assert refused.value.status == 404


@pytest.mark.parametrize("running", [True, False])
def test_a_server_that_cannot_go_on_is_told_in_the_end_also_if_it_answers(town, jobs, tmp_path, monkeypatch, running):
    """As where a log cannot be read: it connects, tells of the job, and closes."""
    monkeypatch.setattr(client_logs, "PATIENCE", 1.0)
    job = jobs.submit_command("ticks", [*quick(TICK), str(tmp_path / "stop")])
    said(job, "tick 50")
    if not running:
        (tmp_path / "stop").touch()
        job.wait(PATIENCE)
    log = job.log_path.rename(tmp_path / "log")
    job.log_path.mkdir()
    with Client(town[1].url, TOKEN) as follower, pytest.raises(ServerError, match="see whether the server runs"):
        list(follower.follow_logs(job.id))
    job.log_path.rmdir()
    log.rename(job.log_path)
    (tmp_path / "stop").touch()
    job.wait(PATIENCE)


def test_what_is_closed_without_a_reason_is_no_end(town, jobs, tmp_path):
    """As a proxy does that is started anew."""
    job = jobs.submit_command("ticks", [*quick(TICK), str(tmp_path / "stop")])
    said(job, "tick 50")
    closed = threading.Event()
    received = client_logs.received

    def received_until_closed(connection, until):
        for frame in received(connection, until):
            yield frame
            if not closed.is_set():
                closed.set()
                yield websocket.ABNF.OPCODE_CLOSE, (1000).to_bytes(2, "big")
                return

    with pytest.MonkeyPatch.context() as patch, Client(town[1].url, TOKEN) as follower:
        patch.setattr(module, "received", received_until_closed)
        messages = follower.follow_logs(job.id)
        assert [next(messages)["type"] for _ in range(2)] == ["connected", "connected"]
        (tmp_path / "stop").touch()
        assert list(messages)[-1]["status"] == "completed"


def test_a_certificate_is_trusted_as_requests_trusts_it(tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate; apt-get install openssl")
    subprocess.run(words, check=True, capture_output=True)
    further = (f"--ServerApp.certfile={certificate}", f"--ServerApp.keyfile={key}")
    with town_of(tmp_path / "town", idle=60.0) as case, serve(case.file, *further, secure=True) as server:
        with Client(server.url, TOKEN) as client, pytest.raises(ServerError, match="its certificate is not trusted"):
            next(client.follow_logs())
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        with Client(server.url, TOKEN) as client:
            assert client.health()["status"] == "ok"
            assert next(client.follow_logs())["type"] == "connected"


def test_the_token_goes_nowhere_else(town, tmp_path, monkeypatch):
    with listening_for(0) as other, listening_for(0, 302, f"ws://127.0.0.1:{other.server_port}/") as leads:
        follower = Client(f"http://127.0.0.1:{leads.server_port}", TOKEN)
        with pytest.raises(ServerError, match="see whether it is the right server"):
            list(follower.follow_logs())
        with pytest.raises(ServerError, match=f"leads to ws://127.0.0.1:{other.server_port}/"):
            follower.health()
    assert other.seen == []
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ann password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with Client(town[1].url, TOKEN) as client:
        assert client.health()["status"] == "ok"


def test_a_small_box_is_sent_in_digits(client):
    assert client.verdicts((-0.00005, -0.00001, 0.00001, 1e-7))["features"] == []


def test_whoever_stops_following_closes_the_line(client, town, jobs):
    jobs.submit_command("quick", TRUE).wait(PATIENCE)
    follower = client.follow_logs()
    assert next(follower)["type"] == "connected"
    assert town[1].connections() > 0
    client.close()  # what calls have left open
    follower.close()
    until(lambda: town[1].connections() == 0)
