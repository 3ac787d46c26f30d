"""Asking a server on loopback that does what servers do."""

from __future__ import annotations

import email.utils
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from historymap_lib import http
from historymap_lib.errors import SettingsError, SourceError
from historymap_lib.http import Answer, Client, Unusable, text_of
from historymap_lib.settings import Access

KEY = "s3cr3t/+ key"


class Server(ThreadingHTTPServer):
    """Answers each request as the next of `plan` says, the last one for ever; notes what it was asked."""

    daemon_threads = True

    def __init__(self):
        self.plan, self.asked = [], []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/wms"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        length = int(self.headers.get("Content-Length") or 0)
        server = self.server
        server.asked.append((self.path, dict(self.headers), self.rfile.read(length)))
        step = server.plan.pop(0) if len(server.plan) > 1 else server.plan[0]
        step(self)

    do_POST = do_GET  # noqa: N815 - as the base class wants it

    def log_message(self, *_):
        pass


def answering(status=200, body=b"good", length=None, **headers):
    def answer(handler):
        handler.send_response(status)
        for name, value in ({"Content-Type": "text/plain"} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)
        if length is not None:
            handler.close_connection = True

    return answer


def silent(handler):
    time.sleep(1)
    handler.close_connection = True


def dripping(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(100):
        try:
            handler.wfile.write(b"x" * 1000)
            time.sleep(0.05)
        except OSError:
            return


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(http, "TRIES", 4)


def client(**access):
    return Client(Access(**access), Path("town.yaml"))


@pytest.mark.parametrize(
    "first",
    [answering(500), answering(503, Retry_After="0"), answering(429), answering(504, b"busy"),
     answering(200, b"half", length=400), silent],
)  # fmt: skip
def test_what_passes_is_asked_again(server, first):
    server.plan = [first, answering()]
    assert client(timeout=0.3).ask(server.url).body == b"good"
    assert len(server.asked) == 2


def test_it_waits_as_long_as_it_is_told_by_seconds_or_by_date(server):
    later = email.utils.formatdate(time.time() + 2, usegmt=True)
    server.plan = [answering(503, Retry_After="1"), answering(429, Retry_After=later), answering()]
    begun = time.monotonic()
    client().ask(server.url)
    assert time.monotonic() - begun >= 1
    assert len(server.asked) == 3


def test_it_does_not_wait_longer_than_the_settings_have_patience(server):
    server.plan = [answering(503, b"come back tomorrow", Retry_After="86400")]
    with pytest.raises(SourceError) as caught:
        client(patience=5).ask(server.url)
    assert str(caught.value) == (
        f"127.0.0.1:{server.server_port} answered 503 Service Unavailable: come back tomorrow; try again later"
    )
    assert len(server.asked) == 1


def test_what_does_not_pass_is_asked_once(server):
    server.plan = [answering(401, b"<html><head><title>x</title></head><body>no <b>entry</b></body></html>",
                             Content_Type="text/html")]  # fmt: skip
    with pytest.raises(SourceError, match=r"answered 401 Unauthorized: no entry; correct the source in town\.yaml"):
        client().ask(server.url)
    assert len(server.asked) == 1


def test_a_server_that_stays_broken_is_given_up_and_named(server):
    server.plan = [answering(502, b"")]
    with pytest.raises(SourceError, match=r"^127.0.0.1:\d+ answered 502 Bad Gateway \(4 times\); try again later$"):
        client().ask(server.url)
    assert len(server.asked) == 4


def test_a_body_that_comes_too_slowly_is_given_up(server):
    server.plan = [dripping]
    with pytest.raises(SourceError, match="sends too slowly"):
        client(patience=0.5).ask(server.url)


def test_a_body_that_is_too_large_is_not_read_to_its_end(server):
    server.plan = [answering(200, b"x" * 300_000)]
    with pytest.raises(SourceError, match="ask for less"):
        client().ask(server.url, largest=1000)


def test_a_check_decides_what_an_answer_is_and_whether_to_ask_again(server):
    def check(answer: Answer):
        if answer.body != b"good":
            raise Unusable("sends nonsense", again=answer.body == b"busy")

    server.plan = [answering(200, b"busy"), answering()]
    assert client().ask(server.url, check=check).type == "text/plain"
    server.plan, server.asked = [answering(200, b"wrong")], []
    with pytest.raises(SourceError, match="sends nonsense; correct the source"):
        client().ask(server.url, check=check)
    assert len(server.asked) == 1


def test_a_form_is_posted(server):
    server.plan = [answering()]
    client().ask(server.url, data={"data": "[out:json];ä"})
    assert server.asked[0][2] == b"data=%5Bout%3Ajson%5D%3B%C3%A4"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://no-such-host.invalid/x", "nonsense", "http://[::1/x"])
def test_who_cannot_be_reached_is_named(url):
    with pytest.raises(SourceError) as caught:
        client().ask(url)
    assert "\n" not in str(caught.value)
    assert "town.yaml" in str(caught.value) or "try again later" in str(caught.value)


def test_secrets_go_to_the_server_and_nowhere_else(server, monkeypatch):
    monkeypatch.setenv("TOWN_KEY", KEY)
    monkeypatch.setenv("TOWN_TOKEN", "t0ken")
    asking = client(headers={"X-Key": "${TOWN_TOKEN}"}, parameters={"key": "${TOWN_KEY}"},
                    user="${TOWN_TOKEN}", password="${TOWN_KEY}")  # fmt: skip
    server.plan = [answering(403, f"bad key {KEY} of t0ken".encode())]
    with pytest.raises(SourceError) as caught:
        asking.ask(server.url + "?also=${TOWN_TOKEN}")
    path, headers, _ = server.asked[0]
    assert headers["X-Key"] == "t0ken"
    assert "also=t0ken" in path
    assert "key=s3cr3t" in path
    assert headers["Authorization"].startswith("Basic ")
    assert "bad key *** of ***" in str(caught.value)
    assert "s3cr3t" not in json.dumps(http.values_of(Access(parameters={"key": "${TOWN_KEY}"})))


def test_a_variable_that_is_not_set_is_told(monkeypatch):
    monkeypatch.delenv("TOWN_KEY", raising=False)
    with pytest.raises(SettingsError, match=r"town.yaml: the environment variable TOWN_KEY is not set"):
        client(headers={"X-Key": "${TOWN_KEY}"})


def test_secrets_do_not_follow_to_another_server(server, monkeypatch):
    monkeypatch.setenv("TOWN_KEY", KEY)
    other = Server()
    other.plan = [answering()]
    thread = threading.Thread(target=other.serve_forever, args=[0.01])
    thread.start()
    try:
        server.plan = [answering(302, b"", Location=f"http://localhost:{other.server_port}/")]
        client(headers={"X-Key": "${TOWN_KEY}"}, user="me", password="${TOWN_KEY}").ask(server.url)
    finally:
        other.shutdown()
        thread.join()
        other.server_close()
    _, headers, _ = other.asked[0]
    assert "X-Key" not in headers
    assert "Authorization" not in headers


def test_no_more_requests_at_once_than_the_settings_allow(server):
    busy, most, lock = [0], [0], threading.Lock()

    def slow(handler):
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        time.sleep(0.05)
        with lock:
            busy[0] -= 1
        answering()(handler)

    server.plan = [slow]
    asking = client(connections=3)
    threads = [threading.Thread(target=asking.ask, args=[server.url]) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 3


def test_a_pause_ends_when_the_asking_is_called_off(server):
    server.plan = [answering(503, Retry_After="60")]
    asking = client(patience=1000)
    threading.Timer(0.3, asking.stop).start()
    begun = time.monotonic()
    with pytest.raises(SourceError):
        asking.ask(server.url)
    assert time.monotonic() - begun < 30


def test_text_is_found_in_what_servers_say():
    said = b'<?xml version="1.0"?><ServiceExceptionReport><ServiceException>no  layer\n x</ServiceException></a>'
    assert text_of(said) == "no layer x"
    assert text_of(b"a " * 500).endswith(" ...")
