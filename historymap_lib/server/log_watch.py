"""Looking at jobs and their logs on behalf of all who listen, so that many cost no more than one."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from historymap_lib.errors import HistorymapError, SettingsError
from historymap_lib.jobs import Jobs, logs
from historymap_lib.jobs.files import Files
from historymap_lib.jobs.queue import LOOK, POLL
from historymap_lib.jobs.store import UNFINISHED, UnknownJobError
from historymap_lib.server.handlers import in_thread

if TYPE_CHECKING:
    from pathlib import Path

    from historymap_lib.jobs.store import Record
    from historymap_lib.server.api import HistorymapApi

PIECE = 1 << 15
"""Bytes of a log that are sent at once: little enough that nobody waits for another's."""
KEPT = 64
"""Pieces that are kept, since most listeners read at the same place."""


@dataclass(frozen=True)
class Look:
    """A job as it stood at a look, and the size of its log."""

    record: Record
    size: int

    @classmethod
    def at(cls, jobs: Jobs, stored: Record) -> Look:
        """Return how a job stands: it is over when the store says so, for until then it may print."""
        if stored.started is None:
            return cls(stored, 0)
        told = jobs.files.told(stored)
        told = told if told.ended == stored.ended else stored
        with suppress(OSError):
            return cls(told, jobs.files.log(stored.id).stat().st_size)
        return cls(told, 0)


@dataclass(frozen=True)
class Store:
    """Which store of jobs: device and inode of its file, and a mark of our own; and the number it gave last."""

    file: tuple[int, int]
    mark: str
    latest: int = field(compare=False)


class Watch:
    """Looks at jobs and logs on behalf of all listeners, a few times a second while there are any."""

    def __init__(self, api: HistorymapApi) -> None:
        self._api = api
        self._jobs: Jobs | None = None
        self._listeners = 0
        self._task: asyncio.Task[None] | None = None
        self._turn: asyncio.Future[None] | None = None
        self._looking = asyncio.Lock()
        self._pieces: OrderedDict[tuple[int, int, int], asyncio.Future[tuple[bytes, int]]] = OrderedDict()
        self._woken, self._odd = 0.0, ""
        self.store: Store | None = None
        self.seen: dict[int, Look] = {}

    async def join(self) -> None:
        """Begin to look, if nobody listened before.

        Raises:
            HistorymapError: the case or its store cannot be read.

        """
        self._listeners += 1
        try:
            await self._see()
        except BaseException:
            self.leave()
            raise
        if self._task is None:
            self._task = asyncio.create_task(self._go_on())

    def leave(self) -> None:
        """Stop looking when nobody listens any more."""
        self._listeners -= 1
        if self._listeners == 0:
            if self._task is not None:
                self._task.cancel()
            self._task, self._jobs = None, None
            self.store, self.seen = None, {}
            self._pieces.clear()

    def turn(self) -> asyncio.Future[None]:
        """Return what is done at the next look, for all listeners."""
        if self._turn is None or self._turn.done():
            self._turn = asyncio.get_running_loop().create_future()
        return self._turn

    async def piece(self, number: int, offset: int, size: int) -> tuple[bytes, int]:
        """Return the message with what a log of some size holds from a byte on, a piece at most, and the next byte."""
        key, jobs = (number, offset, min(size, offset + PIECE)), self._jobs
        assert jobs is not None  # noqa: S101 - whoever asks listens
        if key not in self._pieces:
            log = jobs.files.log(number)
            self._pieces[key] = asyncio.ensure_future(in_thread(lambda: _message(log, number, offset), pool()))
            self._pieces[key].add_done_callback(lambda done: done.exception())  # those who asked may be gone
            if len(self._pieces) > KEPT:
                self._pieces.popitem(last=False)
        try:
            return await asyncio.shield(self._pieces[key])
        except OSError:
            self._pieces.pop(key, None)
            raise

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(POLL)
            try:
                await self._see()
            except (HistorymapError, OSError) as error:  # perhaps better next time
                if str(error) != self._odd:
                    self._api.log.warning("logs: %s", error)
                self._odd = str(error)
            except Exception:
                self._api.log.exception("logs cannot be looked at")
            if self._turn is not None and not self._turn.done():
                self._turn.set_result(None)

    async def _see(self) -> None:
        async with self._looking:  # of two who come at once the second must not take away what the first has seen
            jobs, store, seen = await in_thread(self._look, pool())
            if store != self.store:
                self._pieces.clear()
            self._jobs, self.store, self.seen = jobs, store, seen

    def _look(self) -> tuple[Jobs, Store, dict[int, Look]]:
        """Return all jobs, after reading those that may have changed, and which store they are of.

        It is another where the settings have changed, or where the old one was moved away.
        """
        jobs, before = self._jobs_now(), self.store
        stat, latest = jobs.files.store.stat(), jobs.store.latest()
        file = (stat.st_dev, stat.st_ino)
        same = before is not None and before.file == file and before.latest <= latest
        known = self.seen if same else {}
        newest = max(known, default=0)
        open_ones = [number for number, look in known.items() if not look.record.ended]
        marks = ", ".join("?" for _ in open_ones)
        found = jobs.store.find(f"id >= ? OR id IN ({marks})", newest, *open_ones)
        if any(record.id in known and record.created != known[record.id].record.created for record in found):
            same, known, found = False, {}, jobs.store.find("1")  # a new file may have the number of the old one
        mark = before.mark if same and before is not None else secrets.token_hex(4)
        store = Store(file, mark, latest)
        kept = known.keys() if {record.id for record in found} == {newest, *open_ones} else jobs.store.numbers()
        seen = {number: look for number, look in known.items() if number in kept}
        seen |= {record.id: Look.at(jobs, record) for record in found}
        if any(record.state in UNFINISHED for record in found) and time.monotonic() > self._woken + LOOK:
            self._woken = time.monotonic()
            self._api.wake(jobs)
        return jobs, store, seen

    def _jobs_now(self) -> Jobs:
        """Return the jobs of the case as its settings are now; while those are broken, as they were."""
        before = self._jobs
        try:
            project = self._api.project()
        except SettingsError:
            if before is None:
                raise
            return before
        if before is not None:
            Files(project.paths.jobs).store.stat()  # who only listens makes no store anew that somebody takes away
        return Jobs(project)

    def begin(self, number: int) -> int:
        """Return the byte from which on a job that runs already is listened to: after its last finished line."""
        return 0 if self._jobs is None else logs.end(self._jobs.files.log(number))


@cache
def pool() -> ThreadPoolExecutor:
    """Return threads of their own: listeners must not wait for calls that wait for a store."""
    return ThreadPoolExecutor(2, "historymap-logs")


def _message(log: Path, number: int, offset: int) -> tuple[bytes, int]:
    chunk = logs.read(log, offset, PIECE)
    if not log.exists():
        raise UnknownJobError(f"job {number} is not known any more, nor what it printed")
    told = {"type": "log", "job_id": number, "text": chunk.text, "live": chunk.live, "offset": chunk.offset}
    return json.dumps(told, ensure_ascii=False).encode(), chunk.offset
