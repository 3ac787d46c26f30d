"""WS historymap/api/logs: what jobs print, as it comes, to any number of listeners.

Messages are JSON: `connected` first; `log` with finished lines, the line being written, and the byte from which on to
read next; `job_status`. Each listener is sent what the log file holds from its own place on, and the next piece when
the one before has left: a slow one loses nothing as long as the job is remembered (`jobs.keep`), keeps nothing in
memory, and slows nobody. With `?job=ID&offset=BYTE` comes that job alone, and the connection ends with it. Without, all
jobs: those that run from now on, later ones whole; `?after=ID&resume=ID:BYTE,...` goes on where a connection broke.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import secrets
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from pydantic import BeforeValidator, Field
from tornado.web import HTTPError
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from historymap_lib.errors import HistorymapError
from historymap_lib.jobs import Jobs, logs
from historymap_lib.jobs.queue import LOOK, POLL
from historymap_lib.jobs.store import UNFINISHED, UnknownJobError
from historymap_lib.server.api import RequestError, as_refusal
from historymap_lib.server.handlers import Answering, checked, in_thread, query_of
from historymap_lib.server.messages import JobTold, Natural, Number, Query

if TYPE_CHECKING:
    from pathlib import Path

    from historymap_lib.jobs.store import Record
    from historymap_lib.server.api import HistorymapApi

PIECE = 1 << 15
"""Bytes of a log that are sent at once: little enough that nobody waits for another's."""
KEPT = 64
"""Pieces that are kept, since most listeners read at the same place."""
END = b"end"
"""What the last ping says; once it is answered, all that was sent has arrived."""
OVER, GONE, FORGOTTEN = 1000, 1011, 4404
"""With what a connection is closed (RFC 6455, 7.4): all is said; not just now; the job is not known any more."""
Store = tuple[int, int, str]
"""Which store of jobs: device and inode of its file, and a mark of our own."""


def _places(value: str) -> str:
    if not re.fullmatch(r"[0-9]{1,15}:[0-9]{1,15}(,[0-9]{1,15}:[0-9]{1,15})*", value):
        raise ValueError("should be jobs and bytes, as in 3:1200,4:0")
    return value


class LogsQuery(Query):
    """Which logs, and from where on."""

    job: Number | None = None
    offset: Natural = 0
    after: Natural | None = None
    resume: Annotated[str, BeforeValidator(_places)] | None = Field(default=None, max_length=100_000)

    def resumed(self) -> dict[int, int]:
        """Return the bytes from which on to read jobs."""
        pairs = (pair.split(":") for pair in (self.resume or "").split(",") if pair)
        return {int(number): int(offset) for number, offset in pairs}


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
            self._pieces[key] = asyncio.ensure_future(in_thread(lambda: _message(log, number, offset), _pool()))
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
            jobs, store, seen = await in_thread(self._look, _pool())
            if store != self.store:
                self._pieces.clear()
            self._jobs, self.store, self.seen = jobs, store, seen

    def _look(self) -> tuple[Jobs, Store, dict[int, Look]]:
        """Return all jobs, after reading those that may have changed, and which store they are of.

        It is another where the settings have changed, or where the old one was moved away.
        """
        jobs = Jobs(self._api.project())
        stat = jobs.files.store.stat()
        known = self.seen if self.store is not None and self.store[:2] == (stat.st_dev, stat.st_ino) else {}
        newest = max(known, default=0)
        open_ones = [number for number, look in known.items() if not look.record.ended]
        marks = ", ".join("?" for _ in open_ones)
        found = jobs.store.find(f"id >= ? OR id IN ({marks})", newest, *open_ones)
        last = next((record for record in reversed(found) if record.id >= newest), None)
        if known and (last is None or (last.id == newest and last.created != known[newest].record.created)):
            known, found = {}, jobs.store.find("1")  # a new file may have the number of the old one
        store = self.store if known and self.store is not None else (stat.st_dev, stat.st_ino, secrets.token_hex(4))
        kept = known.keys() if len(found) == len({newest, *open_ones}) else jobs.store.numbers()
        seen = {number: look for number, look in known.items() if number in kept}
        seen |= {record.id: Look.at(jobs, record) for record in found}
        if any(record.state in UNFINISHED for record in found) and time.monotonic() > self._woken + LOOK:
            self._woken = time.monotonic()
            self._api.wake(jobs)
        return jobs, store, seen

    def begin(self, number: int) -> int:
        """Return the byte from which on a job that runs already is listened to: after its last finished line."""
        return 0 if self._jobs is None else logs.end(self._jobs.files.log(number))


@cache
def _pool() -> ThreadPoolExecutor:
    """Return threads of their own: listeners must not wait for calls that wait for a store."""
    return ThreadPoolExecutor(2, "historymap-logs")


def _message(log: Path, number: int, offset: int) -> tuple[bytes, int]:
    chunk = logs.read(log, offset, PIECE)
    if not log.exists():
        raise UnknownJobError(f"job {number} is not known any more, nor what it printed")
    told = {"type": "log", "job_id": number, "text": chunk.text, "live": chunk.live, "offset": chunk.offset}
    return json.dumps(told, ensure_ascii=False).encode(), chunk.offset


@dataclass
class _Place:
    """Where a listener is in a job."""

    offset: int
    read: int = -1
    """The size of the log when it was read last."""
    told: Any = None


class LogsSocket(Answering, WebSocketMixin, WebSocketHandler, JupyterHandler):
    """One listener."""

    def initialize(self, api: HistorymapApi, watch: Watch) -> None:
        """Take what looks for all of them."""
        self._api, self._watch = api, watch
        self._query = LogsQuery()
        self._at: dict[int, _Place] = {}
        self._after = 0
        self._store: Any = None
        self._task: asyncio.Task[None] | None = None
        self._joined = False
        self._arrived = asyncio.Event()

    @property
    def ping_timeout(self) -> float:
        """Never, as Tornado says it: a listener that sleeps is no dead one, and TCP finds out about those."""
        return 0

    def send_ping(self) -> None:
        """Keep the line open, whether or not the ping before was answered."""
        self.last_pong = math.inf
        super().send_ping()

    @ws_authenticated
    @authorized
    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Take a listener, or say what is wrong with what it asks for."""
        if not self.check_origin():
            raise HTTPError(HTTPStatus.FORBIDDEN, "a page of another server may not ask this one")
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            self.set_header("Upgrade", "websocket")
            self.refuse(RequestError(HTTPStatus.UPGRADE_REQUIRED, "logs come by WebSocket; jobs/ID/log gives pages"))
            return
        try:
            self._query = checked(lambda: LogsQuery.model_validate(query_of(self)), "the address")
            if self._query.job is None and self._query.offset:
                said = "offset is a byte of the log of a job; name that with job"
                raise RequestError(HTTPStatus.BAD_REQUEST, said, field="offset")  # noqa: TRY301 - one way to refuse
            await in_thread(self._find, _pool())
        except RequestError as refusal:
            self.refuse(refusal)
        except (HistorymapError, OSError) as error:
            self.refuse(as_refusal(error))
        else:
            await super().get(*args, **kwargs)

    def open(self, *args: Any, **kwargs: Any) -> None:
        """Begin to send."""
        super().open(*args, **kwargs)
        self._task = asyncio.create_task(self._serve())

    def on_message(self, message: str | bytes) -> None:
        """Leave it: listeners have nothing to say."""

    def on_pong(self, data: bytes) -> None:
        """Note that all has arrived."""
        super().on_pong(data)
        if data == END:
            self._arrived.set()

    def on_close(self) -> None:
        """Stop sending."""
        super().on_close()
        if self._task is not None:
            self._task.cancel()
        if self._joined:
            self._joined = False
            self._watch.leave()

    def _find(self) -> None:
        """Raise HistorymapError where there is nothing to listen to."""
        jobs = Jobs(self._api.project())
        if self._query.job is not None:
            jobs.get(self._query.job)

    async def _serve(self) -> None:
        """Send all there is, and what comes, until the listener goes or the job is over."""
        with suppress(WebSocketClosedError):
            try:
                await self._watch.join()
                self._joined = True
                await self._begin()
                await self._go_on()
            except (HistorymapError, OSError) as error:
                self.close(FORGOTTEN if isinstance(error, UnknownJobError) else GONE, _short(str(error)))
                return
            except WebSocketClosedError:
                raise
            except Exception:
                self.log.exception("a listener cannot be told more")
                self.close(GONE, "it cannot go on; the log of the server says why")
                return
            self.ping(END)
            await self._arrived.wait()  # to close gives a slow listener seconds only
            self.close(OVER, "the job is over")

    async def _begin(self) -> None:
        query, seen, self._store = self._query, self._watch.seen, self._watch.store
        if query.job is not None:
            self._at = {query.job: _Place(query.offset)}
        elif query.after is not None and query.after <= max(seen, default=0):  # else of a store that is gone
            self._after = query.after
            self._at = {number: _Place(offset) for number, offset in query.resumed().items() if number in seen}
        elif query.after is None:
            self._after = max(seen, default=0)
            running = [number for number, look in seen.items() if not look.record.ended]
            begins = await in_thread(lambda: [self._watch.begin(number) for number in running], _pool())
            self._at = {number: _Place(begin) for number, begin in zip(running, begins, strict=True)}
        places = [{"job_id": number, "offset": place.offset} for number, place in self._at.items()]
        await self._send({"type": "connected", "job": query.job, "after": self._after, "jobs": places})

    async def _go_on(self) -> None:
        while True:
            turn = self._watch.turn()  # before looking, so that none is missed
            seen = self._watch.seen
            self._notice(seen)
            moved = False
            for number in list(self._at):
                try:
                    moved |= await self._tell(number, seen.get(number))
                except UnknownJobError:
                    if self._query.job is not None:
                        raise
                    del self._at[number]
            if self._query.job is not None and not self._at:
                return
            if not moved:
                await asyncio.shield(turn)  # it is that of all listeners: one that goes must not take it along

    def _notice(self, seen: dict[int, Look]) -> None:
        """Begin with jobs that are new."""
        if self._store != self._watch.store:
            self._store, self._after, self._at = self._watch.store, 0, {}
            if self._query.job is not None:
                raise UnknownJobError(f"job {self._query.job} is not known any more; its store was moved away")
        if self._query.job is None:
            for number in sorted(number for number in seen if number > self._after):
                self._at.setdefault(number, _Place(0))
                self._after = number

    async def _tell(self, number: int, look: Look | None) -> bool:
        """Send what is new of a job, a piece at most; return whether there may be more."""
        place = self._at[number]
        if look is None:
            raise UnknownJobError(f"job {number} is not known any more")
        record = look.record
        told = (record.state, record.progress, record.error)
        if not record.ended and told != place.told:
            place.told = told
            await self._status(record)
        if look.size > place.offset and look.size != place.read:
            message, offset = await self._watch.piece(number, place.offset, look.size)
            at_end = offset == place.offset
            place.read, place.offset = look.size if at_end else -1, offset
            await self._send(message)
            return True
        if record.ended:
            await self._status(record)
            del self._at[number]
        return False

    async def _status(self, record: Record) -> None:
        told = JobTold.model_validate(record.as_dict()).model_dump()
        await self._send({"type": "job_status", "job_id": record.id, "status": record.state, **told})

    async def _send(self, message: bytes | dict[str, Any]) -> None:
        """Send a message, and wait until it has left."""
        await self.write_message(message if isinstance(message, bytes) else json.dumps(message, ensure_ascii=False))


def _short(reason: str) -> str:
    """Return as much of a reason as fits where a WebSocket is closed: 123 bytes (RFC 6455, 5.5)."""
    return reason.encode()[:120].decode(errors="ignore")
