"""From HTTP to the calls and back: who may ask, what a request must look like, and what an answer does.

Login, tokens, XSRF and foreign origins are as everywhere in Jupyter Server. Whatever is wrong is answered with a
sentence as JSON (`messages.Problem`), never with a traceback.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from pydantic import BaseModel, ValidationError
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, authenticated, stream_request_body

from historymap_lib.errors import LOGIN, HistorymapError
from historymap_lib.server.api import RequestError, as_refusal
from historymap_lib.server.calls import Request
from historymap_lib.server.messages import Job, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tornado.web import RequestHandler

    from historymap_lib.server.api import HistorymapApi
    from historymap_lib.server.calls import Call

RESOURCE = "historymap"
"""What an authorizer of Jupyter Server is asked about."""
JUPYTERS = ("token", "_xsrf", "no_track_activity")
"""Parameters of an address that are Jupyter's own."""
THREADS = 8
"""For calls that only look, and as many for those that change something and may wait for a store or a worker."""
NO_ANNOTATIONS = b'{"annotations": []}'
SHOWN = 60
"""Characters of a wrong value that are told."""
Model = TypeVar("Model", bound=BaseModel)


class Answering(JupyterHandler):
    """What all addresses have in common: those without a login hear so, and what is wrong is a sentence as JSON."""

    auth_resource = RESOURCE
    _refused: HTTPError | None = None

    async def prepare(self) -> None:  # type: ignore[override]
        """Refuse those without a login before anything else is looked at, and say what is missing."""
        try:
            await super().prepare()
        except HTTPError as error:
            if error.status_code != HTTPStatus.FORBIDDEN or self.current_user is not None:
                raise
            name = self.request.host[:SHOWN]
            named = f"this server is not known as {name}; its owner may set ServerApp.local_hostnames, "
            named += "or ServerApp.allow_remote_access"
            raise HTTPError(HTTPStatus.FORBIDDEN, "%s", LOGIN if self.check_host() else named) from error
        if self.current_user is None and self.request.method != "OPTIONS":
            raise HTTPError(HTTPStatus.FORBIDDEN, LOGIN)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with a sentence."""
        error = (kwargs.get("exc_info") or (None, None))[1]
        if status_code == HTTPStatus.FORBIDDEN and isinstance(error, HTTPError) and not error.log_message:
            error = self._refused or HTTPError(status_code, LOGIN)  # Tornado says nothing
        said = error.log_message % error.args if isinstance(error, HTTPError) and error.log_message else None
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.set_header("Allow", ", ".join(self.methods()))
            said = f"{self.request.path} takes {', '.join(self.methods())} only"
        self._explain(Problem(message=said or HTTPStatus(status_code).phrase))

    def methods(self) -> list[str]:
        """Return the methods that are taken here."""
        return ["GET"]

    def refuse(self, refusal: RequestError) -> None:
        """Answer that something cannot be done, and why."""
        self.set_status(refusal.status)
        if refusal.wait is not None:
            self.set_header("Retry-After", str(refusal.wait))
        self._explain(Problem(message=refusal.message, field=refusal.field))

    def _explain(self, problem: Problem) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(problem.model_dump_json())


class Handler(Answering, APIHandler):
    """What all calls have in common."""

    def initialize(self, api: HistorymapApi) -> None:
        """Take what the configuration says."""
        self.api = api

    def check_origin(self, origin_to_satisfy_tornado: str = "") -> bool:
        """Refuse pages of other servers, unless the owner allows them (`ServerApp.allow_origin`)."""
        if not super().check_origin(origin_to_satisfy_tornado):
            raise HTTPError(HTTPStatus.FORBIDDEN, "a page of another server may not ask this one")
        return True

    def update_api_activity(self) -> None:
        """Note that somebody is at work, also where the address is odd."""
        try:
            super().update_api_activity()
        except HTTPError:
            self.settings.setdefault("api_last_activity", None)


@stream_request_body
class CallHandler(Handler):
    """One address, and the calls that it takes, by method."""

    def initialize(self, api: HistorymapApi, calls: Mapping[str, Call]) -> None:  # type: ignore[override]
        """Take the calls."""
        super().initialize(api)
        self._calls = calls
        self._body, self._size = bytearray(), 0

    async def prepare(self) -> None:  # type: ignore[override]
        """Look who asks, before the body comes.

        To answer before it has come would break the connection, and many a client never hears why.
        """
        try:
            await super().prepare()
        except HTTPError as error:
            self._refused = error

    def data_received(self, chunk: bytes) -> None:
        """Collect the body; what is too much is counted and dropped, so that whoever sends it hears why."""
        self._size += len(chunk)
        if self._refused is None and self._size <= self.api.largest_body:
            self._body += chunk
        else:
            self._body = bytearray()

    @authenticated
    @authorized
    async def get(self, job: str = "") -> None:
        """Answer a call that only looks."""
        await self._answer(job)

    @authenticated
    @authorized
    async def post(self, job: str = "") -> None:
        """Answer a call that does something."""
        await self._answer(job)

    put = patch = delete = head = get  # to be told that it is not taken takes a login as well

    def methods(self) -> list[str]:
        """Return the methods that are taken here."""
        return list(self._calls)

    async def _answer(self, job: str) -> None:
        if self._refused is not None:
            raise self._refused
        call = self._calls.get(self.request.method or "")
        if call is None:
            raise HTTPError(HTTPStatus.METHOD_NOT_ALLOWED)
        try:
            asked = partial(self._asked, call, job)
            pool = _pool("changes" if call.method == "POST" else "api")
            found = call.run(asked()) if call.at_once else await in_thread(lambda: call.run(asked()), pool)
            piece = found.model_dump_json() if isinstance(found, BaseModel) else await in_thread(lambda: next(found))
        except RequestError as refusal:
            self.refuse(refusal)
            return
        except (HistorymapError, OSError) as error:
            self.refuse(as_refusal(error))
            return
        if call.method == "POST":
            self.log.info("historymap: %s, asked by %s", call.path.format(job=job), self.who)
        self.set_status(call.status)
        self.set_header("Content-Type", call.media_type)
        self.write(piece)
        if not isinstance(found, BaseModel):
            await self._stream(found)
        self.finish(set_content_type=call.media_type)

    async def _stream(self, pieces: Iterator[str]) -> None:
        """Send pieces as fast as they are taken; where it breaks off, so does the connection, and everybody sees it."""
        try:
            while (piece := await in_thread(lambda: next(pieces, None))) is not None:
                self.write(piece)
                await self.flush()
        except StreamClosedError:
            return
        except Exception:
            self.log.exception("an answer broke off: %s", self.request.path)
            self.detach().close()
            raise

    def _asked(self, call: Call, job: str) -> Request:
        """Return what is asked.

        Raises:
            RequestError: it cannot be, for what is sent is wrong.

        """
        if self._size > self.api.largest_body:
            said = f"the body has more than {self.api.largest_body} bytes; send it in parts"
            raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, said)
        query = checked(lambda: call.query.model_validate(query_of(self)), "the address")
        content, number = None, 0
        if call.body is not None:
            model = call.body
            sent = bytes(self._body) or (NO_ANNOTATIONS if call.body_optional else b"")
            content = checked(lambda: model.model_validate_json(sent), "the body")
        elif call.method == "POST" and bytes(self._body).strip() not in (b"", b"{}"):
            said = "this call takes no body; what it takes stands in the address, as in ?force=true"
            raise RequestError(HTTPStatus.BAD_REQUEST, said, field="the body")
        if job:
            try:
                number = Job.model_validate({"job": job}).job
            except ValidationError:
                raise RequestError(HTTPStatus.NOT_FOUND, f"there is no job {job[:SHOWN]}; give its number") from None
        return Request(self.api, self.who, query, content, number)

    @property
    def who(self) -> str:
        """Who asks; Jupyter Server makes up another name with each request that brings the token."""
        name = self.current_user.display_name or self.current_user.username
        if self.token_authenticated and name.startswith("Anonymous "):
            name = "somebody with the token"
        return f"{name} at {self.request.remote_ip}"


class DocumentHandler(Handler):
    """The OpenAPI document."""

    def initialize(self, api: HistorymapApi, document: Callable[[str], str]) -> None:  # type: ignore[override]
        """Take what makes the document, from the address of the server."""
        super().initialize(api)
        self._document = document

    @authenticated
    @authorized
    async def get(self) -> None:
        """Answer with the document."""
        self.finish(self._document(self.base_url))


class NothingHandler(Handler):
    """Any other address below ours: 404, to those who are logged in."""

    @authenticated
    @authorized
    async def get(self) -> None:
        """Answer that there is nothing."""
        raise HTTPError(HTTPStatus.NOT_FOUND, "there is no such call; openapi.json lists those there are")

    post = put = patch = delete = head = get


async def in_thread(function: Callable[[], Any], pool: ThreadPoolExecutor | None = None) -> Any:
    """Return what a function returns that reads files, run where it keeps nobody waiting."""
    return await asyncio.get_running_loop().run_in_executor(pool or _pool("api"), function)


@cache
def _pool(name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, f"historymap-{name}")


def query_of(handler: RequestHandler) -> dict[str, str]:
    """Return the parameters of an address, but those that are Jupyter's.

    Raises:
        RequestError: one is given twice, or is no text.

    """
    found = {}
    for name, values in handler.request.query_arguments.items():
        if name in JUPYTERS:
            continue
        if len(values) > 1:
            raise RequestError(HTTPStatus.BAD_REQUEST, f"{name[:SHOWN]} is given twice", field=name[:SHOWN])
        try:
            found[name] = values[0].decode()
        except UnicodeDecodeError:
            said = f"{name[:SHOWN]} is no text in UTF-8"
            raise RequestError(HTTPStatus.BAD_REQUEST, said, field=name[:SHOWN]) from None
    return found


def checked(read: Callable[[], Model], where: str) -> Model:
    """Return a model.

    Raises:
        RequestError: something is wrong, with which field.

    """
    try:
        return read()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"])) or where
        raise RequestError(HTTPStatus.BAD_REQUEST, _told(first, field, where), field=field) from error


def _told(error: Any, field: str, where: str) -> str:
    if error["type"] == "extra_forbidden":
        return f"{field[:SHOWN]} is no parameter of this call; openapi.json lists those there are"
    if error["type"] == "missing":
        return f"{field} is missing in {where}; add it"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "json_invalid":
        return f"{where} is no JSON ({message.removeprefix('Invalid JSON: ')}); correct it"
    value = repr(error["input"])
    return f"{field} is {value if len(value) <= SHOWN else f'{value[:SHOWN]}...'}, but it {message}; correct it"
