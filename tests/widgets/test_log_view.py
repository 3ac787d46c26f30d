"""The live output of a job: bounded, in its colours, and the same however it came."""

from __future__ import annotations

import os
import random
import threading

import pytest
from bs4 import BeautifulSoup
from case_fixtures import make_case
from hypothesis import given, settings
from hypothesis import strategies as st
from job_fixtures import TRUE, until
from widget_fixtures import HOSTILE, press, text_of

from historymap_lib.jobs import Jobs, logs
from historymap_lib.project import load
from historymap_lib.widgets import log_view
from historymap_lib.widgets.log_view import LINES, WIDTH, LogView, plain

PRINTED = st.lists(
    st.one_of(
        st.binary(max_size=8),
        st.text("ab äœ漢🏠<&>", max_size=8).map(str.encode),
        st.sampled_from([b"\n", b"\r\n", b"\r", b"\x0c", b"\x85"]),
        st.sampled_from([b"\x1b[31m", b"\x1b[0m", b"\x1b[2K", b"\x1b", b"\x1b["]),
    ),
    max_size=30,
).map(b"".join)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A case whose jobs nobody runs: the tests write their logs."""
    return load(make_case(tmp_path_factory.mktemp("town")))


def queue(case, log: bytes = b"", name="a job"):
    jobs = Jobs(case)
    (number,) = jobs.store.add([jobs._row(name, TRUE, {}, None)])
    job = jobs.get(number)
    job.log_path.parent.mkdir(exist_ok=True)
    job.log_path.write_bytes(log)
    return job


@pytest.fixture
def view_of(case):
    """Return a function that shows the log of a new job which has printed this."""

    def show(log: bytes = b"", **options) -> LogView:
        return LogView(queue(case, log, **options))

    return show


def append(view: LogView, data: bytes) -> None:
    with view.job.log_path.open("ab") as file:
        file.write(data)
    view.refresh()


def texts(view: LogView) -> list[str]:
    return [text_of(line) for line in view.lines]


def test_without_a_job_it_says_so():
    view = LogView()
    assert (view.lines, view.first, view.note) == ([], 0, "no job yet")


def test_lines_come_as_they_are_printed_and_the_last_one_while_it_is_written(view_of):
    view = view_of()
    assert (view.lines, view.note) == ([], "nothing printed yet")
    append(view, b"one\ntw")
    assert view.lines == ["one", "tw"]
    append(view, b"o\nthree\n")
    assert view.lines == ["one", "two", "three"]
    assert view.note == f"job {view.job.id}: a job, 14 bytes"


def test_it_goes_on_by_itself(view_of):
    view = view_of(b"one\n")
    with view.job.log_path.open("ab") as file:
        file.write(b"two\n")
    until(lambda: view.lines == ["one", "two"])


def test_a_log_that_is_not_there_yet_is_none_until_it_is(view_of):
    view = view_of()
    view.job.log_path.unlink()
    view.refresh()
    assert view.note == "nothing printed yet"
    view.job.log_path.write_bytes(b"now\n")
    view.refresh()
    assert view.lines == ["now"]


def test_it_holds_the_last_lines_and_counts_those_before(view_of):
    view = view_of(b"".join(b"line %d\n" % number for number in range(LINES + 100)))
    assert (view.first, len(view.lines)) == (100, LINES)
    assert view.lines[0] == "line 100"
    append(view, b"more\nliv")
    assert (view.first, len(view.lines)) == (101, LINES + 1)
    assert view.lines[-2:] == ["more", "liv"]


@settings(max_examples=80)
@given(parts=st.lists(PRINTED, min_size=1, max_size=5))
def test_in_whatever_pieces_a_log_grows_its_lines_are_those_of_the_whole(case, parts):
    growing = LogView(queue(case))
    for part in parts:
        append(growing, part)
    whole = LogView(queue(case, b"".join(parts)))
    assert (growing.lines, growing.first) == (whole.lines, whole.first)
    assert whole.first == 0
    expected = logs.read(whole.job.log_path)
    shown = [*expected.text.split("\n")[:-1], *([expected.live] if expected.live else [])]
    assert len(whole.lines) == len(shown)
    for line in whole.lines:
        assert {tag.name for tag in BeautifulSoup(line, "html.parser").find_all()} <= {"span"}
    growing.close()
    whole.close()


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_a_line_ends_where_the_file_says_and_not_at_what_unicode_calls_a_separator(view_of, separator):
    view = view_of(f"a{separator}b\nc\n".encode())
    assert texts(view) == [f"a{separator}b", "c"]


def test_colours_are_classes_and_end_with_their_line(view_of):
    view = view_of(b"\x1b[31mred\nplain\x1b[0m\n\x1b[1;32mboth\x1b[0m end\n")
    assert view.lines == [
        '<span class="ansi31">red</span>',
        "plain",
        '<span class="ansi1 ansi32">both</span> end',
    ]


@pytest.mark.parametrize(
    "escape",
    [
        "\x1b[2K", "\x1b[1A", "\x1b[10;20H", "\x1b[?25l", "\x1b[?25h", "\x1b[J", "\x1b[>4;2m", "\x1b7", "\x1b8",
        "\x1bc", "\x1bM", "\x1b(B", "\x1b(0", "\x1b#8", "\x1b]0;a title\x07", "\x1b]0;a title\x1b\\", "\x1bP1$r\x1b\\",
    ],
)  # fmt: skip
def test_what_moves_cursors_or_sets_titles_is_dropped(view_of, escape):
    view = view_of(f"be{escape}fore\nafter\n".encode())
    assert texts(view) == ["before", "after"]
    assert plain(f"be{escape}fore") == "before"


def test_a_link_of_a_terminal_does_not_become_a_link_of_the_page(view_of):
    one, other = b"\x1b]8;;javascript:alert(1)\x1b\\", b"\x1b\x1b]8;;javascript:alert(1)\x07"
    view = view_of(one + b"press\x1b]8;;\x1b\\\n" + other + b"press\x1b]8;;\x07\n")
    assert not [line for line in view.lines if "<a" in line]
    assert all("press" in line for line in view.lines)


@pytest.mark.parametrize("code", ["38;5;300", "38;2;1", "38", "9" * 1000, ";;;", "38;2;1;2;3", "48;5"])
def test_odd_colours_are_no_error(view_of, code):
    assert texts(view_of(f"\x1b[{code}mtext\n".encode())) == ["text"]


def test_what_a_job_prints_or_is_called_is_never_html(view_of):
    view = view_of(f"{HOSTILE}\n\x1b[31m{HOSTILE}\n{HOSTILE}".encode(), name=HOSTILE)
    assert len(view.lines) == 3
    for line in view.lines:
        assert "<script" not in line
        assert "<img" not in line
        assert text_of(line) == HOSTILE


def test_of_a_very_long_line_the_beginning_is_shown_and_how_long_it_is(view_of):
    view = view_of(b"x" * 300_000 + b"\nend\n")
    assert len(view.lines) == 2
    assert len(view.lines[0]) < 2 * WIDTH
    assert view.lines[0].endswith(" ... (300,000 characters)")


def test_a_line_of_megabytes_without_end_is_no_obstacle(view_of):
    view = view_of(b"x" * (2 * logs.LIMIT))
    append(view, b"y" * 10)
    assert sum(map(len, view.lines)) < 5 * WIDTH
    append(view, b"\nend\n")
    assert view.lines[-1] == "end"


def test_a_bar_that_redraws_itself_is_one_line(view_of):
    view = view_of(b"start\n" + b"".join(b"\r%3d%%" % percent for percent in range(60)))
    assert view.lines == ["start", " 59%"]
    append(view, b"\r100%\ndone\n")
    assert view.lines == ["start", "100%", "done"]


def test_bytes_that_are_no_text_are_no_error(view_of):
    noise = random.Random(1937).randbytes(200_000)
    view = view_of(noise)
    assert 0 < len(view.lines) <= LINES + 1
    for line in view.lines:
        assert {tag.name for tag in BeautifulSoup(line, "html.parser").find_all()} <= {"span"}


def test_a_job_that_prints_faster_than_anybody_reads_shows_its_last_lines(view_of):
    view = view_of(b"begin\n")
    append(view, b"".join(b"line %d of very many, which are many bytes\n" % number for number in range(200_000)))
    assert len(view.lines) == LINES
    assert texts(view) == [f"line {n} of very many, which are many bytes" for n in range(200_000 - LINES, 200_000)]
    append(view, b"more\n")
    assert view.lines[-1] == "more"
    assert len(view.lines) == LINES


def test_while_another_thread_prints_no_line_is_lost_doubled_or_cut(view_of):
    view = view_of()
    stop = threading.Event()

    def write() -> None:
        with view.job.log_path.open("ab", buffering=0) as file:
            for number in range(20_000):
                file.write(b"line %d" % number)
                file.write(b" of many\n")
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not stop.is_set():
        view.refresh()
        lines = texts(view)[:-1]
        numbers = [int(line.split()[1]) for line in lines]
        assert numbers == list(range(view.first, view.first + len(lines)))
    writer.join()
    view.refresh()
    assert texts(view)[-1] == "line 19999 of many"
    assert view.first == 20_000 - LINES


def test_a_log_that_is_cut_or_begun_anew_is_read_anew(view_of):
    view = view_of(b"old\n" * 100)
    view.job.log_path.write_bytes(b"new\n")
    view.refresh()
    assert view.lines == ["new"]


def test_of_a_job_that_is_forgotten_something_is_said(view_of):
    view = view_of(b"line\n")
    view.job.jobs.store.change(view.job.id, "pending", state="completed")
    view.job.jobs.store.delete([view.job.id])
    view.refresh()
    assert f"there is no job {view.job.id}" in view.note
    view.job.log_path.unlink()
    view.refresh()
    assert view.note == "nothing printed yet"


def test_another_job_takes_the_place_of_the_first(case, view_of):
    view = view_of(b"line\n" * (LINES + 50))
    other = queue(case, b"other\n", name="another")
    view.look_at(other)
    assert (view.lines, view.first) == (["other"], 0)
    assert view.note.startswith(f"job {other.id}: another")
    view.look_at(None)
    assert (view.lines, view.note) == ([], "no job yet")


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 5000])
def test_the_whole_log_is_handed_out_byte_for_byte(view_of, monkeypatch, size):
    monkeypatch.setattr(log_view, "PIECE", 1000)
    data = os.urandom(size)
    view = view_of(data)
    sent = press(view, "download", view="mine")
    assert b"".join(b"".join(buffers) for _, buffers in sent) == data
    assert {message["view"] for message, _ in sent} == {"mine"}
    assert [message["last"] for message, _ in sent] == [False] * (len(sent) - 1) + [True]
    assert sent[-1][0]["file"] == f"historymap-job-{view.job.id}.log"
    assert all(len(buffer) <= 1000 for _, buffers in sent for buffer in buffers)


def test_a_log_that_cannot_be_handed_out_says_why(view_of):
    view = view_of(b"line\n")
    view.job.log_path.unlink()
    press(view, "download", view="mine")
    assert "No such file" in view.note


def test_without_a_job_there_is_nothing_to_hand_out():
    assert press(LogView(), "download", view="mine") == []
