"""The verdicts and the queue follow what a person says, without anybody having to wait for it.

Nothing of this is in any file before it is applied.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

import numpy as np

from historymap_lib.active_learning import ORDERS, rank

if TYPE_CHECKING:
    from historymap_lib.widgets.annotating import Session

log = logging.getLogger(__name__)
PAUSE = 0.15
"""Seconds after the last judgement: the building itself comes first, and fast answers are learned from together."""
LONGEST = 0.5
"""Seconds that somebody who never pauses waits for the others."""
TEACHING = 12
"""Buildings whose place in the queue is found after each judgement: by then there have been others."""
KEPT = 2
"""Of the queue, what stays first whatever has been learned: the building that is looked at, and the next one."""


def learn(session: Session) -> bool:
    """Let the verdicts on all other buildings follow from what people say; True if that shows anywhere."""
    with session.learning:
        with session.lock:
            live, found, session.behind = session.live, session.buildings, False
            said = found.said()
        if live is None:
            return False
        probability = live.after(said)["probability"].to_numpy()  # not under the lock: the next key must not wait
        learned = live.new_in(said)
        with session.lock:
            if session.live is not live or session.buildings is not found:
                return False  # there are new verdicts meanwhile, and who brought them learns
            before = found.looks(session.threshold)
            moved = found.learn(live.building_id, probability)
            session.changed.update(np.flatnonzero(found.looks(session.threshold) != before).tolist())
            shows, session.learned = moved or learned != session.learned, learned
            return shows


def rank_anew(session: Session) -> None:
    """Let the queue follow from what was learned; what a person has before them, or at once, stays where it is."""
    with session.learning:
        with session.lock:
            live, found, order = session.live, session.buildings, session.order
            first = [] if session.selected is None else session.queue(KEPT)
            disputed = set(session.disputed)
        if live is None or order == "random":
            return
        table = found.table()
        if order == "teaches":
            rows = found.rows(live.building_id)[live.teaching_order(TEACHING)]
            table["teaches"] = np.nan
            table.loc[rows[rows >= 0], "teaches"] = np.flatnonzero(rows >= 0)
        ranked = rank(order if order in ORDERS else "uncertain", table, conflicts=disputed)
        with session.lock:
            if session.live is live and session.buildings is found and session.order == order:
                session.ranked = np.concatenate([np.array(first, np.int64), ranked[~np.isin(ranked, first)]])


class Learner:
    """A thread that lets a session learn; it starts with the first thing to learn, and ends with `close`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._wake, self._ended = threading.Event(), False
        self._thread: threading.Thread | None = None
        session.listeners.append(self.look)
        self.look()

    def look(self) -> None:
        """Learn soon, if there is something to learn."""
        if self._ended or not self._session.behind:
            return
        self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="historymap learning", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Learn no more."""
        self._ended = True
        if self.look in self._session.listeners:
            self._session.listeners.remove(self.look)
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wait_for_a_pause()
            if self._ended:
                return
            try:
                if learn(self._session):
                    self._session.tell()
                rank_anew(self._session)
            except Exception:  # what is learned later may go well
                log.exception("the map could not learn")

    def _wait_for_a_pause(self) -> None:
        until = time.monotonic() + LONGEST
        while not self._ended and time.monotonic() < until:
            self._wake.clear()
            if not self._wake.wait(PAUSE):
                return
        self._wake.clear()
