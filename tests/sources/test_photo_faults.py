"""What servers do on bad days: right pixels in the end, or one sentence; and the cache holds no rubbish."""

from __future__ import annotations

import io
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
from map_server import WEST, serving
from PIL import Image
from rasterio.windows import Window

from historymap_lib import http
from historymap_lib.block_cache import DIGEST, BlockCache, tidy
from historymap_lib.errors import SettingsError, SourceError
from historymap_lib.imagery import open_photo

AREA = (WEST, 3057100, WEST + 400, 3057500)  # 3 x 3 blocks or fewer
XML = b"""<?xml version='1.0'?><ServiceExceptionReport version="1.1.1"><ServiceException>
msDrawMap(): Image handling error. Failed to draw layer</ServiceException></ServiceExceptionReport>"""
HTML = b"<!DOCTYPE html><html><head><title>x</title></head><body><h1>Down for maintenance</h1></body></html>"


def read(project):
    with open_photo(project) as photo:
        return photo.read(Window(0, 0, photo.grid.width, photo.grid.height))[0]


def small_picture():
    body = io.BytesIO()
    Image.new("L", (256, 256), 77).save(body, "PNG")
    return body.getvalue()


def good(handler):
    return handler.server.answer(handler.path)[2]


def reset(handler):
    body = good(handler)
    handler.send_response(200)
    handler.send_header("Content-Type", "image/png")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def broken_off(handler):
    body = good(handler)
    handler.give(200, "image/png", body[: len(body) // 2], [("Connection", "close")], announced=len(body))
    handler.close_connection = True


def stall(handler):
    handler.send_response(200)
    handler.send_header("Content-Type", "image/png")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.connection.settimeout(20)
    handler.connection.recv(1)  # until whoever asked has had enough


FAULTS = {
    "reset in mid-body": (reset, "broke off the connection"),
    "less than announced": (broken_off, "broke off the connection"),
    "stall": (stall, "did not answer in time"),
    "500": (lambda handler: handler.give(500), "answered 500 Internal Server Error"),
    "503 with Retry-After": (
        lambda handler: handler.give(503, headers=[("Retry-After", "1")]),
        "answered 503 Service Unavailable",
    ),
    "429": (
        lambda handler: handler.give(429, body=b"slowly, please"),
        "answered 429 Too Many Requests: slowly, please",
    ),
    "XML": (
        lambda handler: handler.give(200, "application/vnd.ogc.se_xml", XML),
        "answers with application/vnd.ogc.se_xml where a picture was asked for, but says: msDrawMap(): Image handling",
    ),
    "XML that is called a picture": (
        lambda handler: handler.give(200, "image/png", XML),
        "answers with no picture, but says: msDrawMap(): Image handling error. Failed to draw layer",
    ),
    "HTML": (
        lambda handler: handler.give(200, "text/html", HTML),
        "answers with text/html where a picture was asked for, but says: Down for maintenance",
    ),
    "empty": (lambda handler: handler.give(200, "image/png"), "answers with nothing where a picture was asked for"),
    "truncated picture": (
        lambda handler: handler.give(200, "image/png", good(handler)[:2000]),
        "gives a picture that breaks off or is damaged",
    ),
    "wrong size": (
        lambda handler: handler.give(200, "image/png", small_picture()),
        "gives a picture of 256 x 256 pixels, not of 512 x 512 as asked",
    ),
    "wrong type": (
        lambda handler: handler.give(200, "text/plain", good(handler)),
        "answers with text/plain where a picture was asked for, but says: nothing",
    ),
}
PASSING = {name: fault for name, (fault, _) in FAULTS.items() if name != "wrong size"}


@pytest.fixture(autouse=True)
def _few_tries(monkeypatch):
    monkeypatch.setattr(http, "TRIES", 3)
    yield
    all_is_over()


def all_is_over():
    """Wait for what was still being asked for when somebody gave up."""
    for thread in threading.enumerate():
        if thread.name.startswith("photo-"):
            thread.join(25)


@pytest.fixture
def photo(case, wms):
    """Return a function that gives the case, with an access."""

    def make(url=None, **access):
        access = {"timeout": 5, "patience": 60, "connections": 3} | access  # MapServer may take its time as well
        return case(source="wms", url=url or wms.url, layer="snapped", bounds=AREA, access=access)

    return make


def kept(cache):
    """Return the pictures in the cache, by name, after looking at each."""
    found = {path.name: path.read_bytes()[DIGEST:] for path in cache.glob("*/*") if path.name != "capabilities"}
    for body in found.values():
        with Image.open(io.BytesIO(body)) as image:
            assert image.size == (512, 512)
            image.load()
    return found


def pictures_only(fault, *, first=None, only=None):
    """Return a fault that befalls pictures: the `first` ones, or those whose path is in `only`."""
    count = iter(range(10_000))

    def wrapped(handler):
        if "GetMap" not in handler.path:
            return False
        if (first is not None and next(count) >= first) or (only is not None and handler.path not in only):
            return False
        fault(handler)
        return True

    return wrapped


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_is_got_over(photo, wms, cache, name):
    wms.fault = pictures_only(PASSING[name], first=2)
    pixels = read(photo())
    assert (pixels > 0).mean() > 0.9
    count = len(kept(cache))
    assert len(wms.pictures()) == count + 2
    wms.fault = None
    wms.asked.clear()
    assert (read(photo()) == pixels).all()
    assert not wms.asked


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_stays_is_one_sentence_and_what_came_before_is_kept(photo, wms, cache, name):
    fault, said = FAULTS[name]
    project = photo()
    pixels = read(project)
    total, bad = len(kept(cache)), wms.pictures()[-1]
    for path in cache.glob("*/*_*"):
        path.unlink()
    wms.asked.clear()
    wms.fault = pictures_only(fault, only={bad})
    with pytest.raises(SourceError) as caught:
        read(project)
    text = str(caught.value)
    assert text.startswith(f"127.0.0.1:{wms.server_port} {said}")
    assert text.endswith(("; try again later", f"; correct the source in {project.file}"))
    assert "\n" not in text
    all_is_over()
    before = len(kept(cache))
    assert before < total
    wms.fault = None
    wms.asked.clear()
    assert (read(project) == pixels).all()
    assert len(wms.asked) == total - before


def test_an_exception_that_will_not_pass_is_asked_for_once(photo, wms):
    body = XML.replace(b"<ServiceException>", b'<ServiceException code="StyleNotDefined">')
    wms.fault = pictures_only(lambda handler: handler.give(200, "text/xml", body))
    with pytest.raises(SourceError, match=r"says: StyleNotDefined, msDrawMap\(\).*; correct the source in .*yaml$"):
        read(photo(connections=1))
    assert len(wms.pictures()) == 1


@pytest.mark.parametrize("body", [XML, HTML, b"", b"<WMS_Capabilities version='1.3.0'><Service>"])
def test_capabilities_that_are_none_are_one_sentence_and_not_kept(photo, wms, cache, body):
    def fault(handler):
        handler.give(200, "text/xml", body)
        return True

    wms.fault = fault
    with pytest.raises(SourceError, match=r"^127.0.0.1:\d+ answers with .*; try again later$"):
        open_photo(photo())
    wms.fault = None
    assert (read(photo()) > 0).any()


def test_connection_refused(photo):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(SourceError, match=rf"^127.0.0.1:{port} refuses the connection \(3 times\); try again"):
            open_photo(photo(f"http://127.0.0.1:{port}/wms"))


def test_a_server_whose_name_nobody_knows(photo):
    with pytest.raises(SourceError, match=r"^nobody.invalid is not known: is the name right, and this machine online"):
        open_photo(photo("https://nobody.invalid/wms"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Return the files of a certificate that nobody has signed, and of its key."""
    folder = tmp_path_factory.mktemp("certificate")
    made, key = folder / "made.pem", folder / "key.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key,
                    "-out", made, *names], check=True, capture_output=True)  # fmt: skip
    return made, key


def test_a_certificate_is_always_looked_at(photo, wms, certificate, capsys):
    made, key = certificate
    with serving(wms.answer) as secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made, key)
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        with pytest.raises(SourceError, match=r"certificate that cannot be trusted \(.*\): name that of its authority"):
            open_photo(photo(secure.url))
        assert not secure.asked
        assert (read(photo(secure.url, ca_bundle=str(made))) > 0).any()
        capsys.readouterr()
        asked = len(secure.asked)
        BlockCache({}).forget()
        assert (read(photo(f"{secure.url}/again", insecure=True)) > 0).any()
        assert len(secure.asked) > asked
        assert capsys.readouterr().err.count("its certificate is not checked, as access.insecure says") == 1


def test_a_block_that_was_damaged_on_disk_is_asked_for_again(photo, wms, cache):
    pixels = read(photo())
    one, other, *_ = sorted(path for path in cache.glob("*/*_*"))
    one.write_bytes(one.read_bytes()[:-100])
    other.write_bytes(b"")
    wms.asked.clear()
    assert (read(photo()) == pixels).all()
    assert len(wms.asked) == 2
    wms.asked.clear()
    assert (read(photo()) == pixels).all()
    assert not wms.asked


def test_a_cache_that_cannot_be_written_does_not_keep_anybody_from_the_photo(photo, wms, cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("in the way")
    assert (read(photo()) > 0).any()


def test_what_was_not_used_for_longest_goes_first(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("HISTORYMAP_CACHE_GB", "0.001")
    blocks = BlockCache({"source": "a"})
    for number in range(9):
        blocks.put(f"{number}_0", bytes(200_000))
        os.utime(blocks.folder / f"{number}_0", (number + 1, number + 1))
    blocks.get("0_0")  # used just now
    left = blocks.folder / ".part-left"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    tidy(1e6)
    assert sorted(path.name for path in blocks.folder.iterdir()) == ["0_0", "6_0", "7_0", "8_0"]
    assert blocks.get("0_0") == bytes(200_000)
    assert blocks.get("1_0") is None
    monkeypatch.setenv("HISTORYMAP_CACHE_GB", "much")
    with pytest.raises(SettingsError, match=r"HISTORYMAP_CACHE_GB is 'much', but it should be a number of gigabytes"):
        BlockCache({})


def test_nothing_here_is_remembered_for_a_while_only(cache):
    blocks = BlockCache({"source": "a"})
    blocks.put("0_0", b"")
    assert blocks.get("0_0", days=30) == b""
    os.utime(blocks.folder / "0_0", (1, 1))
    assert blocks.get("0_0", days=30) is None


READ = """
import sys
from rasterio.windows import Window
from historymap_lib.cli import guarded
from historymap_lib.imagery import open_photo
from historymap_lib.project import load
def run():
    with open_photo(load(sys.argv[1])) as photo:
        print("open", flush=True)
        grey, _ = photo.read(Window(0, 0, photo.grid.width, photo.grid.height))
        print(int(grey.astype(int).sum()))
sys.exit(guarded(run))
"""


def started(project):
    command = [sys.executable, "-c", READ, str(project.file)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_share_a_cache(photo, wms, cache):
    processes = [started(photo()) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    pixels = read(photo())
    assert {out for out, _ in said} == {f"open\n{int(pixels.astype(int).sum())}\n"}
    assert len(kept(cache)) == len(set(wms.pictures()))
    assert not [path for path in cache.glob("*/*") if path.name.startswith(".part-")]


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_whoever_waits_for_a_silent_server_can_be_interrupted(photo, wms, cache, sign, code):
    silent = threading.Event()

    def fault(handler):
        silent.set()
        stall(handler)

    wms.fault = pictures_only(fault)
    process = started(photo(timeout=600, patience=600))
    assert silent.wait(60)
    process.send_signal(sign)
    _, said = process.communicate(timeout=15)  # the server would be silent for longer
    assert process.returncode == code, said
    assert "what was finished is kept, run it again to go on" in said


def test_a_read_that_failed_can_be_tried_again_on_the_same_photo(photo, wms):
    with open_photo(photo()) as opened:
        wms.fault = pictures_only(lambda handler: handler.give(500))
        window = Window(0, 0, 600, 600)
        with pytest.raises(SourceError):
            opened.read(window)
        wms.fault = None
        grey, _ = opened.read(window)
    assert np.count_nonzero(grey) > 0.9 * grey.size
