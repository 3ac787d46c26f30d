"""A case as all panels on a page see it: its settings as they are now, and its status, read once for all of them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from historymap_lib.jobs import Jobs
from historymap_lib.project import load
from historymap_lib.status import read_status

if TYPE_CHECKING:
    from pathlib import Path

    from historymap_lib.project import Project
    from historymap_lib.status import Status

AGE = 1.5
"""Seconds for which a status is good."""
SHARE = 0.1
"""Of the time, what reading it may take: that of a large case is good for longer."""


class Case:
    """The case of a YAML file, which people may edit while the page is open.

    Raises:
        SettingsError: the file is missing or wrong.

    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.RLock()
        self._project, self._stamp = load(file), _stamp(file)
        self._status: Status | None = None
        self._good_until = 0.0

    @property
    def project(self) -> Project:
        """The settings as the file holds them now."""
        with self._lock:
            stamp = _stamp(self._file)
            if stamp != self._stamp:
                self._project = load(self._file)
                self._stamp, self._status = stamp, None
            return self._project

    @property
    def status(self) -> Status:
        """Where the case stands, at most a few seconds old."""
        with self._lock:
            project, start = self.project, time.monotonic()
            if self._status is None or start > self._good_until:
                self._status = read_status(project)
                now = time.monotonic()
                self._good_until = now + max(AGE, (now - start) / SHARE)
            return self._status

    @property
    def jobs(self) -> Jobs:
        """The background jobs."""
        return Jobs(self.project)

    def look_again(self) -> None:
        """Read the status anew when it is next asked for."""
        self._good_until = 0.0


def _stamp(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
