"""Requests that mean harm: none is a 500, none reaches a file, a shell or another's job, and the server lives on."""

from __future__ import annotations

import json
import socket
from urllib.parse import quote

import pytest
from api_fixtures import API, MANY, held, offered
from server_fixtures import TOKEN

from historymap_lib.jobs import Jobs
from historymap_lib.server.calls import CALLS
from historymap_lib.server.openapi import build

HOSTILE = [
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "/etc/passwd",
    "\\\\host\\share",
    "C:\\Windows\\win.ini",
    "file:///etc/passwd",
    "x; touch {mark}",
    "$(touch {mark})",
    "`touch {mark}`",
    "| touch {mark}",
    "x\ntouch {mark}",
    "--output={mark}",
    "-",
    "' OR 1=1; DROP TABLE jobs; --",
    '"; DROP TABLE events; --',
    "%s%n%x",
    "{0.__class__}",
    "${jndi:ldap://evil}",
    "<script>alert(1)</script>",
    "\0",
    "a\0.yaml",
    "\ufeff1",
    "\u0661",
    "1\u0000",
    "1e3",
    "0x10",
    "NaN",
    "Infinity",
    "-0",
    "1_0",
    " 1",
    "9" * 400,
    "x" * 20_000,
    "\U0001f600" * 50,
]
RAW = [b"%ff%fe", b"%c0%af..%c0%af", b"%", b"%zz", b"%u0041", b"+%2b%00"]
DEEP = 100_000
BODIES = {
    "nothing": b"",
    "deep lists": b"[" * DEEP,
    "deep lists that end": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"annotations":' * 20_000,
    "deep notes": b'{"annotations": [{"osm_id": 2, "existed": true, "notes": ' + b"[" * 5000 + b"]" * 5000 + b"}]}",
    "no UTF-8": b'{"annotations": [{"osm_id": 2, "existed": true, "notes": "\xff\xc0\xaf"}]}',
    "UTF-16": json.dumps({"annotations": []}).encode("utf-16"),
    "half a surrogate": b'{"annotations": [{"osm_id": 2, "existed": true, "notes": "\\ud800"}]}',
    "a huge number": b'{"annotations": [{"osm_id": ' + b"9" * 5000 + b', "existed": true}]}',
    "a huge exponent": b'{"annotations": [{"osm_id": 1e999999, "existed": true}]}',
    "NaN": b'{"annotations": [{"osm_id": NaN, "existed": true}]}',
    "many wrong ones": b'{"annotations": [' + b"{}," * 200_000 + b"{}]}",
    "a key many times": b'{"annotations": [], ' + b'"annotations": [],' * 10_000 + b'"x": 1}',
    "XML": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    "a form": b"annotations=1&_xsrf=2",
    "wrong types": json.dumps({"annotations": {"osm_id": [1], "existed": {}}}).encode(),
    "a prototype": json.dumps({"__proto__": {"x": 1}, "constructor": 1}).encode(),
}


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    folder = tmp_path_factory.mktemp("town")
    with offered(folder, MANY) as (case, server), held(case, folder / "go"):
        yield case, server


@pytest.fixture(scope="module")
def server(town):
    return town[1]


@pytest.fixture(scope="module", autouse=True)
def harmless(town, tmp_path_factory):
    """See in the end that nothing has been touched."""
    case, server = town
    mark = tmp_path_factory.getbasetemp() / "mark"
    secret = case.file.read_bytes()
    before = {path for path in case.paths.root.rglob("*") if "jobs" not in path.parts and "server" not in path.parts}
    yield mark
    after = {path for path in case.paths.root.rglob("*") if "jobs" not in path.parts and "server" not in path.parts}
    assert not mark.exists()
    assert case.file.read_bytes() == secret
    assert {path.name for path in after - before} <= {
        "annotations", "annotations.db", "annotations.db-wal", "annotations.db-shm", "annotations.lock",
    }  # fmt: skip
    assert server.get(f"{API}health").status == 200
    assert "Traceback" not in server.log.read_text(encoding="utf-8", errors="replace")


def parameters():
    """Return every parameter of every call: method, path and name."""
    for path, methods in build("/")["paths"].items():
        for method, told in methods.items():
            for one in told["parameters"]:
                yield method.upper(), path.removeprefix("/").replace("{job}", "1"), one["name"], one["in"]


PARAMETERS = list(parameters())


@pytest.mark.parametrize(("method", "path", "name", "place"), PARAMETERS, ids=lambda value: value)
def test_hostile_values_of_parameters_are_refused_or_mean_nothing(server, town, harmless, method, path, name, place):
    commands = {tuple(record.command) for record in Jobs(town[0]).recent(10_000)}
    for value in [quote(value.replace("{mark}", str(harmless)), safe="") for value in HOSTILE] + [
        value.decode() for value in RAW
    ]:
        if place == "path":
            answer = server.ask(method, f"{API}{path.replace('1', value, 1)}")
        else:
            answer = server.ask(method, f"{API}{path}?{name}={value}")
        assert answer.status in {400, 404, 414, 431}, value
        assert b"root:" not in answer.body
        assert b"Traceback" not in answer.body
    assert {tuple(record.command) for record in Jobs(town[0]).recent(10_000)} == commands


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_paths_lead_nowhere(server, harmless, value):
    value = quote(value.replace("{mark}", str(harmless)), safe="/")
    for path in (API + value, f"historymap/{value}", f"{API}jobs/{value}", f"historymap/tiles/{value}/0/0/0"):
        answer = server.get(path)
        assert answer.status in {400, 404, 414, 431}, path
        assert b"root:" not in answer.body


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_words_in_annotations_are_only_words(server, harmless, value):
    value = value.replace("{mark}", str(harmless))
    entry = {"osm_id": 2, "existed": True, "notes": value, "annotator": value, "reason": value}
    answer = server.ask("POST", f"{API}annotations", {"annotations": [entry]})
    assert answer.status == 200
    (told,) = server.get(f"{API}annotations").json["annotations"]
    assert {name: told[name] for name in entry} == entry
    for name in ("osm_type", "created_at"):
        wrong = server.ask("POST", f"{API}annotations", {"annotations": [{"osm_id": 2, "existed": True, name: value}]})
        assert wrong.status == 400


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("call", [call for call in CALLS if call.body is not None], ids=lambda call: call.name)
def test_hostile_bodies_are_refused(server, call, body):
    answer = server.ask(call.method, API + call.path, body)
    empty_list = body == BODIES["a key many times"]  # is one all the same, of no annotations
    empty_list |= body == b"" and call.body_optional
    assert answer.status in ({200, 202, 422} if empty_list else {400})
    assert b"Traceback" not in answer.body
    assert len(answer.body) < 2000


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bodies_where_none_is_wanted_are_refused_or_mean_nothing(server, body):
    assert server.ask("POST", f"{API}verify?force=true", body).status == (400 if body else 202)
    assert server.ask("GET", f"{API}health", body).status == 200


def raw(server, data):
    """Send bytes as they are, and return what comes until the server closes or says no more."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as line:
        line.sendall(data)
        line.shutdown(socket.SHUT_WR)
        found = b""
        try:
            while part := line.recv(65536):
                found += part
        except OSError:
            pass
    return found


HEAD = f"Host: 127.0.0.1\r\nAuthorization: token {TOKEN}\r\n"


@pytest.mark.parametrize(
    "data",
    [
        f"GET /{API}health HTTP/9.9\r\n{HEAD}\r\n",
        f"GET /{API}health\r\n\r\n",
        f"BREW /{API}verify HTTP/1.1\r\n{HEAD}\r\n",
        f"POST /{API}verify HTTP/1.1\r\n{HEAD}Content-Length: -5\r\n\r\n",
        f"POST /{API}verify HTTP/1.1\r\n{HEAD}Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        f"POST /{API}annotations HTTP/1.1\r\n{HEAD}Content-Length: 99999999999\r\n\r\n{{}}",
        f"POST /{API}annotations HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        f"POST /{API}annotations HTTP/1.1\r\n{HEAD}Content-Length: 50\r\n\r\n{{",
        f"GET /{API}health?{'x' * 100_000} HTTP/1.1\r\n{HEAD}\r\n",
        f"GET /{API}health HTTP/1.1\r\n{HEAD}X: {'x' * 100_000}\r\n\r\n",
        f"GET //evil.example/{API}health HTTP/1.1\r\n{HEAD}\r\n",
        f"GET /{API}%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n{HEAD}\r\n",
    ],
    ids=range(12),
)
def test_what_is_no_http_is_no_trouble(server, data):
    answer = raw(server, data.encode())
    assert b" 500 " not in answer[:40]
    assert b"root:" not in answer
    assert server.get(f"{API}health").status == 200


def test_the_host_of_another_is_refused(server):
    assert server.get(f"{API}health", Host="evil.example").status == 403
    assert server.get(f"{API}health", Host=f"127.0.0.1:{server.port}").status == 200
