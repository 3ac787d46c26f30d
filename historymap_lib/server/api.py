"""What the HTTP interface is told by the configuration of Jupyter Server, and what all calls share.

c.HistorymapApi.config_file = "ml/config_1937.yaml"
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from traitlets import Int, Unicode
from traitlets.config import LoggingConfigurable

from historymap_lib.errors import (
    HistorymapError,
    JobsError,
    SettingsError,
    UnavailableError,
    UnknownError,
    sentence_of,
)
from historymap_lib.jobs.store import JobStateError
from historymap_lib.project import CONFIG, SAMPLE, Project, load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from historymap_lib.jobs import Jobs

MINUTE = 60.0
PATIENCE = 10
"""Seconds after which to ask again where something cannot be done just now."""


class RequestError(Exception):
    """A request that is refused: with which status, why, because of which field, and when to ask again (seconds)."""

    def __init__(self, status: int, message: str, *, field: str | None = None, wait: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.field, self.wait = status, message, field, wait


def as_refusal(error: HistorymapError | OSError) -> RequestError:
    """Return what to answer where something cannot be done: with the sentence that everybody is told."""
    said = str(sentence_of(error) or error)
    if isinstance(error, UnknownError):
        return RequestError(HTTPStatus.NOT_FOUND, said)
    if isinstance(error, JobStateError):
        return RequestError(HTTPStatus.CONFLICT, said)
    if isinstance(error, (UnavailableError, JobsError, SettingsError, OSError)):
        return RequestError(HTTPStatus.SERVICE_UNAVAILABLE, said, wait=PATIENCE)
    return RequestError(HTTPStatus.UNPROCESSABLE_ENTITY, said)


class HistorymapApi(LoggingConfigurable):
    """The HTTP interface: its case, and its limits."""

    config_file = Unicode(
        help=f"""The settings of the case that is served, a YAML file; a relative path is below the root folder of the
        server. Where it is not set, {CONFIG} in the environment names it, or else it is {SAMPLE}."""
    ).tag(config=True)
    submissions_per_minute = Int(60, min=1, help="How many requests that queue jobs are taken a minute, of all.").tag(
        config=True
    )
    largest_body = Int(16 << 20, min=1024, help="Bytes that the body of a request may have.").tag(config=True)
    root_dir = Unicode(help="The root folder of the server.")

    def __init__(self, **values: object) -> None:
        super().__init__(**values)
        self._lock = threading.Lock()
        self._submitted: deque[float] = deque()
        self._waking = threading.Lock()

    def project(self) -> Project:
        """Return the case, as its settings are now.

        Raises:
            SettingsError: they are missing or wrong.

        """
        if not self.config_file and os.environ.get(CONFIG):
            file = Path(os.environ[CONFIG])
        else:
            file = Path(self.root_dir) / (self.config_file or SAMPLE)
        if not file.exists():
            how = f"by {CONFIG} in the environment of the server, or by HistorymapApi.config_file"
            raise SettingsError(f"{file}: there is no such settings file; name one {how}")
        return load(file)

    def wake(self, jobs: Jobs) -> None:
        """Have a worker look after the jobs of a case, if none does; nobody waits for it."""
        threading.Thread(target=self._wake, args=[jobs], name="historymap waking", daemon=True).start()

    def _wake(self, jobs: Jobs) -> None:
        if not self._waking.acquire(blocking=False):
            return
        try:
            jobs.wake()
        except JobsError as error:
            self.log.warning("jobs: %s", error)
        finally:
            self._waking.release()

    @contextmanager
    def submission(self) -> Iterator[None]:
        """Count a request that queues jobs; one that queues none after all does not count.

        Raises:
            RequestError: there were too many within the last minute (429, RFC 6585).

        """
        made = self._count()
        try:
            yield
        except BaseException:
            with self._lock, suppress(ValueError):  # it may have been a minute
                self._submitted.remove(made)
            raise

    def _count(self) -> float:
        with self._lock:
            now = time.monotonic()
            while self._submitted and now - self._submitted[0] >= MINUTE:
                self._submitted.popleft()
            if len(self._submitted) >= self.submissions_per_minute:
                wait = math.ceil(MINUTE - (now - self._submitted[0]))
                raise RequestError(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    f"{self.submissions_per_minute} jobs a minute are taken; ask again in {wait} s",
                    wait=wait,
                )
            self._submitted.append(now)
            return now
