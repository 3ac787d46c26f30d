"""How `Client.follow_logs` goes on where it was: how far it is, and how long a server may be gone."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any

import websocket

from historymap_lib.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG = logging.getLogger(__name__)
SILENCE = 5.0
"""Seconds after which a connection without a word is tried."""
TRIES = 3
"""How often, before it counts as broken."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds before connecting again; each pause is twice as long as the one before."""
PATIENCE = 300.0
"""Seconds for which a server may be gone while its logs are followed."""
ENDED = ("cancelled", "completed", "failed", "crashed")


class Place:
    """How far logs have been followed: a byte of one job, or of each that runs, beside the latest job known of."""

    def __init__(self, job: int | None, offset: int) -> None:
        self.job, self.over = job, False
        self._offset = offset
        self._after: int | None = None
        self._open: dict[int, int] = {}

    def query(self) -> dict[str, Any]:
        """Return what to ask for, to go on there."""
        if self.job is not None:
            return {"job": self.job, "offset": self._offset}
        if self._after is None:
            return {}
        places = ",".join(f"{number}:{offset}" for number, offset in self._open.items())
        return {"after": self._after} | ({"resume": places} if places else {})

    def note(self, message: dict[str, Any]) -> None:
        """Go on to where a message leads."""
        if message["type"] == "connected":
            self._after = message["after"]
            self._open = {place["job_id"]: place["offset"] for place in message["jobs"]}
            return
        number = message["job_id"]
        self._after = max(self._after or 0, number)
        self._open.setdefault(number, 0)
        if message["type"] == "log":
            self._offset = self._open[number] = message["offset"]
        elif message["status"] in ENDED:
            del self._open[number]
            self.over = number == self.job


class Outage:
    """A server that is gone, or has nothing to tell: since when, and when to ask it again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._pause, self._since, self._heard = FIRST_PAUSE, math.inf, math.inf

    def hear(self, message: dict[str, Any]) -> None:
        """Note that the server is there; over is an outage when it tells of a log, or has been there for a while."""
        self._heard = min(self._heard, time.monotonic())
        if message["type"] == "log":
            self._since = math.inf

    def wait(self, why: str, until: float) -> None:
        """Wait before connecting again.

        Raises:
            ServerError: it has been gone for too long.

        """
        now = time.monotonic()
        if now - self._heard > LONGEST_PAUSE:
            self._since = math.inf
        if self._since == math.inf:
            self._since, self._pause = now, FIRST_PAUSE
            LOG.warning("%s: %s; trying again", self._url, why)
        if now - self._since > PATIENCE:
            raise ServerError(f"{self._url}: {why}; see whether the server runs, then follow again")
        time.sleep(max(0.0, min(self._pause, until - now)))
        self._pause, self._heard = min(2 * self._pause, LONGEST_PAUSE), math.inf


def received(connection: websocket.WebSocket, until: float) -> Iterator[tuple[int, bytes]]:
    """Yield what comes by a connection, which is tried where nothing does."""
    tries = 0
    while (left := until - time.monotonic()) > 0:
        connection.settimeout(min(SILENCE, left))
        try:
            frame = connection.recv_data(control_frame=True)
        except websocket.WebSocketTimeoutException:
            if tries == TRIES:
                raise
            if time.monotonic() < until:
                connection.ping()
                tries += 1
        else:
            tries = 0
            yield frame
