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
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from pydantic import BeforeValidator, Field
from tornado.web import HTTPError
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from historymap_lib.errors import HistorymapError
from historymap_lib.jobs import Jobs
from historymap_lib.jobs.store import UnknownJobError
from historymap_lib.server.api import RequestError, as_refusal
from historymap_lib.server.handlers import Answering, checked, in_thread, query_of
from historymap_lib.server.log_watch import pool
from historymap_lib.server.messages import JobTold, Natural, Number, Query

if TYPE_CHECKING:
    from historymap_lib.jobs.store import Record
    from historymap_lib.server.api import HistorymapApi
    from historymap_lib.server.log_watch import Look, Store, Watch

END = b"end"
"""What the last ping says; once it is answered, all that was sent has arrived."""
OVER, GONE, FORGOTTEN = 1000, 1011, 4404
"""With what a connection is closed (RFC 6455, 7.4): all is said; not just now; the job is not known any more."""


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
        self._store: Store | None = None
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
            await in_thread(self._find, pool())
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
        assert self._store is not None  # noqa: S101 - it has joined
        if query.job is not None:
            self._at = {query.job: _Place(query.offset)}
        elif query.after is not None and query.after <= self._store.latest:  # else of a store that is gone
            self._after = query.after
            self._at = {number: _Place(offset) for number, offset in query.resumed().items() if number in seen}
        elif query.after is None:
            self._after = self._store.latest
            running = [number for number, look in seen.items() if not look.record.ended]
            begins = await in_thread(lambda: [self._watch.begin(number) for number in running], pool())
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
