"""One thread that refreshes whatever is on the page, and forgets what a cell has shown when it is run again."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Protocol

from IPython.core.getipython import get_ipython

log = logging.getLogger(__name__)
TICK = 0.05
"""Seconds between two looks at what is due."""
SHARE = 0.25
"""Of the time, what a single refresher may take at most: what is slow is refreshed less often."""


class Refreshed(Protocol):
    """What can be refreshed: a panel."""

    every: float

    def refresh(self) -> None:
        """Show how things stand now."""

    def close(self) -> None:
        """Be refreshed no more."""


class Refresher:
    """Refreshes what was added, each in its own time, until it is removed; the thread ends when there is nothing."""

    def __init__(self) -> None:
        self._due: dict[Refreshed, float] = {}
        self._cells: dict[str, tuple[str, list[Refreshed]]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, panel: Refreshed) -> None:
        """Refresh from now on; close what an earlier run of the same cell has added."""
        cell, run = _cell()
        with self._lock:
            ran, before = self._cells.get(cell, (run, []))
            stale, kept = (before, []) if ran != run else ([], before)
            if cell:
                self._cells[cell] = (run, [*kept, panel])
            self._due[panel] = time.monotonic() + panel.every
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="historymap panels", daemon=True)
                self._thread.start()
        for one in stale:
            one.close()

    def remove(self, panel: Refreshed) -> None:
        """Refresh no more."""
        with self._lock:
            self._due.pop(panel, None)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._due:
                    self._thread = None
                    return
                due = [panel for panel, when in self._due.items() if when <= time.monotonic()]
            for panel in due:
                start = time.monotonic()
                try:
                    panel.refresh()
                except Exception:  # one panel must not stop the others
                    log.exception("a panel of the workbench failed")
                now = time.monotonic()
                with self._lock:
                    if panel in self._due:
                        self._due[panel] = now + max(panel.every, (now - start) / SHARE)
            time.sleep(TICK)


def _cell() -> tuple[str, str]:
    """Return the cell that is being run and this run of it, both empty where the frontend does not say."""
    kernel: Any = getattr(get_ipython(), "kernel", None)
    parent = kernel.get_parent() if kernel is not None else None
    if not parent:
        return "", ""
    return str(parent.get("metadata", {}).get("cellId", "")), str(parent.get("header", {}).get("msg_id", ""))


refresher = Refresher()
