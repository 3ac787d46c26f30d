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
FIRST, AGAIN = 1.0, 0.1
"""Seconds that a panel waits for the first status, and for a newer one."""


class Case:
    """The case of a YAML file, which people may edit while the page is open.

    Raises:
        SettingsError: the file is missing or wrong.

    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._project, self._stamp = load(file), _stamp(file)
        self._status: Status | None = None
        self._error: Exception | None = None
        self._good_until = 0.0
        self._reader: threading.Thread | None = None

    @property
    def project(self) -> Project:
        """The settings as the file holds them now."""
        with self._lock:
            stamp = _stamp(self._file)
            if stamp != self._stamp:
                self._project = load(self._file)
                self._stamp, self._good_until = stamp, 0.0
            return self._project

    @property
    def jobs(self) -> Jobs:
        """The background jobs."""
        return Jobs(self.project)

    def status(self, patience: float | None = None) -> Status | None:
        """Return where the case stands, a few seconds old, or None where that is not known yet.

        It is read in a thread of its own: hashing 10,000 tiles for the first time must not keep a panel waiting.
        `patience` is how long to wait for it, in seconds.
        """
        project = self.project
        with self._lock:
            if time.monotonic() > self._good_until and (self._reader is None or not self._reader.is_alive()):
                self._reader = threading.Thread(
                    target=self._read, args=[project], name="historymap status", daemon=True
                )
                self._reader.start()
            reader = self._reader
        if reader is not None:
            reader.join(patience if patience is not None else FIRST if self._status is None else AGAIN)
        if self._error is not None:
            raise self._error
        return self._status

    def look_again(self) -> None:
        """Read the status anew when it is next asked for."""
        self._good_until = 0.0

    def short(self, text: str) -> str:
        """Return a text with the paths below the root of the case relative to it: long ones do not fit into a card."""
        return text.replace(f"{self._project.paths.root}/", "")

    def _read(self, project: Project) -> None:
        start = time.monotonic()
        self._good_until = start + AGE  # unless somebody looks again meanwhile, prolonged below
        before = self._good_until
        try:
            self._status, self._error = read_status(project), None
        except Exception as error:  # noqa: BLE001 - told by the panel that asks
            self._error = error
        now = time.monotonic()
        if self._good_until == before:
            self._good_until = now + max(AGE, (now - start) / SHARE)


def _stamp(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
