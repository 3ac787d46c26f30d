"""One thread refreshes all panels: whatever the main thread does, and whatever one of them does."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from job_fixtures import until
from widget_fixtures import page, press, said

from historymap_lib.errors import StepError
from historymap_lib.widgets import refresher as module
from historymap_lib.widgets.panel import Panel
from historymap_lib.widgets.refresher import Refresher


class Counting:
    """Counts how often it is refreshed, each time taking some seconds."""

    every = 0.05

    def __init__(self, takes: float = 0.0) -> None:
        self.count, self.closed, self.thread, self._takes = 0, 0, None, takes

    def refresh(self) -> None:
        self.count += 1
        self.thread = threading.current_thread()
        time.sleep(self._takes)

    def close(self) -> None:
        self.closed += 1


class Shaky(Panel):
    """Raises what it is told to."""

    template = "error.html"
    every = 0.05

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.count = error, 0
        super().__init__()

    def facts(self) -> dict:
        self.count += 1
        if self.error is not None:
            raise self.error
        return {}

    def act(self, action, content) -> None:
        raise content["error"]


@pytest.fixture
def refresher():
    one = Refresher()
    yield one
    for panel in list(one._due):
        one.remove(panel)
    until(lambda: one._thread is None)


def test_panels_are_refreshed_in_one_thread_of_their_own(refresher):
    one, other = Counting(), Counting()
    refresher.add(one)
    refresher.add(other)
    until(lambda: min(one.count, other.count) >= 3)
    assert one.thread is other.thread is not threading.main_thread()
    assert one.thread.daemon  # it keeps no kernel alive


def test_panels_are_refreshed_while_the_main_thread_waits_for_something(refresher):
    one, enough = Counting(), threading.Event()
    one.close = enough.set
    refresher.add(one)

    def watch() -> None:
        until(lambda: one.count >= 3)
        enough.set()

    threading.Thread(target=watch).start()
    assert enough.wait(60)  # which blocks this thread, as a cell that computes does


def test_what_is_removed_is_refreshed_no_more_and_with_nothing_left_the_thread_ends(refresher):
    one, other = Counting(), Counting()
    refresher.add(one)
    refresher.add(other)
    until(lambda: one.count and other.count)
    thread = one.thread
    refresher.remove(one)
    refresher.remove(one)  # once more is no error
    count, more = one.count + 1, other.count + 3  # it may just be at it
    until(lambda: other.count >= more)
    assert one.count <= count
    refresher.remove(other)
    thread.join(60)
    assert not thread.is_alive()
    refresher.add(one)
    until(lambda: one.count > count)
    assert one.thread is not thread


def test_a_slow_panel_is_refreshed_less_often_than_those_beside_it(refresher):
    slow, quick = Counting(takes=0.15), Counting()
    refresher.add(slow)
    refresher.add(quick)
    until(lambda: slow.count >= 3)
    assert quick.count >= 3 * slow.count


def test_a_panel_with_a_bug_keeps_no_other_from_going_on_and_the_bug_is_logged_once(caplog):
    with caplog.at_level(logging.ERROR):
        bad, good = Shaky(ZeroDivisionError("of this test")), Shaky()
        count, more = bad.count, good.count
        until(lambda: bad.count > count + 3 and good.count > more + 3)
    assert [record.message for record in caplog.records] == ["a panel of the workbench failed"]
    assert "ZeroDivisionError" in caplog.text
    assert "not thought of: ZeroDivisionError('of this test'); please report it" in said(bad)
    assert said(good) == ""
    bad.error = None
    until(lambda: said(bad) == "")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (StepError("no tiles; make some"), "no tiles; make some"),
        (OSError(28, "No space left on device", "/data"), "/data: No space left on device; make room"),
    ],
)
def test_what_a_person_can_put_right_is_one_sentence_and_no_log(caplog, error, sentence):
    panel = Shaky(error)
    assert sentence in said(panel)
    assert page(panel).select_one("[role=alert]") is not None
    panel.error = None
    press(panel, "fail", error=error)
    assert sentence in said(panel)
    assert caplog.records == []


def test_a_bug_behind_a_button_is_told_and_the_button_is_answered(caplog):
    panel = Shaky()
    press(panel, "fail", error=KeyError("behind a button"))
    assert "KeyError('behind a button')" in said(panel)
    assert len(caplog.records) == 1


def test_a_cell_that_is_run_again_closes_what_it_showed_before(refresher, monkeypatch):
    def add(cell: str, run: str) -> Counting:
        monkeypatch.setattr(module, "_cell", lambda: (cell, run))
        panel = Counting()
        panel.close = lambda: (setattr(panel, "closed", panel.closed + 1), refresher.remove(panel))
        refresher.add(panel)
        return panel

    first, second, other = add("a", "1"), add("a", "1"), add("b", "2")
    assert (first.closed, second.closed) == (0, 0)  # one run may show several
    third, fourth = add("a", "3"), add("a", "3")
    assert [panel.closed for panel in (first, second, other, third, fourth)] == [1, 1, 0, 0, 0]
    add("a", "5")
    assert [panel.closed for panel in (first, second, other, third, fourth)] == [1, 1, 0, 1, 1]


def test_where_no_frontend_says_which_cell_it_is_nothing_is_closed(refresher):
    one, other = Counting(), Counting()
    refresher.add(one)
    refresher.add(other)
    assert (one.closed, other.closed) == (0, 0)
