"""Progress: a bar for people, a file for a job, and no difference to the work whether anybody looks."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_fixtures import read_terminal

from historymap_lib import progress
from historymap_lib.progress import PROGRESS, Bar, track


@pytest.fixture
def told(tmp_path, monkeypatch):
    """The file of a job."""
    file = tmp_path / "1.progress.json"
    monkeypatch.setenv(PROGRESS, str(file))
    return file


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


def test_under_a_job_a_bar_tells_how_far_it_is(told):
    with Bar("tiles", total=4, done=1, unit="tile") as bar:
        first = read(told)
        bar.step("IoU 0.5")
        bar.step("IoU 0.7", count=2)
    assert {key: first[key] for key in ("what", "done", "total", "unit", "first")} == {
        "what": "tiles", "done": 1, "total": 4, "unit": "tile", "first": 1,
    }  # fmt: skip
    last = read(told)
    assert (last["done"], last["total"], last["message"]) == (4, 4, "IoU 0.7")
    assert last["began"] == first["began"]
    assert list(told.parent.iterdir()) == [told]


@given(items=st.lists(st.integers(), max_size=30), known=st.booleans())
def test_what_is_tracked_comes_through_as_it_is_and_is_counted(tmp_path_factory, items, known):
    file = tmp_path_factory.getbasetemp() / "tracked.json"
    os.environ[PROGRESS] = str(file)
    try:
        source = items if known else iter(items)
        assert list(track(source, "things", unit="thing")) == items
    finally:
        del os.environ[PROGRESS]
    assert read(file)["done"] == len(items)
    assert read(file)["total"] == (len(items) if known else None)


def test_a_total_that_is_given_counts(told):
    assert list(track(iter("abc"), "letters", total=5)) == ["a", "b", "c"]
    assert (read(told)["done"], read(told)["total"]) == (3, 5)


def test_an_exception_goes_through_and_what_was_done_is_told(told):
    def items():
        yield from range(3)
        raise ValueError("seven")

    with pytest.raises(ValueError, match="seven"):
        list(track(items(), "things"))
    assert read(told)["done"] == 3


def test_whoever_stops_early_has_told_how_far_it_came(told):
    following = track(range(10), "things")
    for item in following:
        if item == 4:
            break
    following.close()
    assert read(told)["done"] == 4


def test_it_is_written_a_few_times_a_second_at_most(told, monkeypatch):
    written = []
    monkeypatch.setattr(progress, "_write", lambda path, values: written.append(values["done"]))
    monkeypatch.setattr(progress, "EVERY", 3600.0)
    assert sum(track(range(1000), "things")) == 499_500
    assert written == [0, 1000]


def test_without_a_job_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv(PROGRESS, raising=False)
    monkeypatch.chdir(tmp_path)
    assert list(track(range(3), "things")) == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["no such folder", "below a file", "a folder", "read-only"])
def test_where_it_cannot_be_told_the_work_goes_on(tmp_path, monkeypatch, where):
    if where == "no such folder":
        file = tmp_path / "none" / "1.json"
    elif where == "below a file":
        (tmp_path / "file").touch()
        file = tmp_path / "file" / "1.json"
    elif where == "a folder":
        file = tmp_path / "1.json"
        (file / "inside").mkdir(parents=True)
    else:
        file = type(tmp_path)("/proc/1.json")  # a file system in which nobody can write, not even root
    monkeypatch.setenv(PROGRESS, str(file))
    assert list(track(range(3), "things")) == [0, 1, 2]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("1.json.")]


def test_a_reader_never_finds_half_of_it(told, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    found, stop = [], threading.Event()

    def look():
        while not stop.is_set():
            if told.exists():
                found.append(read(told)["done"])

    reader = threading.Thread(target=look)
    reader.start()
    with Bar("things", total=2000) as bar:
        for _ in range(2000):
            bar.step("x" * 5000)
    stop.set()
    reader.join()
    assert found == sorted(found)


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_is_on_standard_error_and_moves_on_a_terminal(terminal):
    code = "import time\nfrom historymap_lib.progress import track\n"
    code += "for _ in track(range(8), 'roofs', unit='roof'): time.sleep(0.15)\nprint('done')"
    environment = {key: value for key, value in os.environ.items() if key != PROGRESS}
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    error = theirs if terminal else subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=error, env=environment)
    os.close(theirs)
    out, piped = process.communicate(timeout=60)
    shown = read_terminal(ours) if terminal else piped
    os.close(ours)
    assert out == b"done\n"
    assert b"roofs" in shown
    assert b"8/8" in shown
    assert (shown.count(b"\r") > 4) == terminal
