"""A case that a server offers (`historymap serve`, or any JupyterLab that has historymap), from anywhere.

    client = Client("http://gpu.example:8888", token="...")
    job = client.train(epochs=40)
    for message in client.follow_logs(job["job_id"]):
        print(message.get("text", ""), end="")  # finished lines; `live` is the one being written, such as a bar

Each method is a call of the HTTP interface, and returns its JSON; the server's `historymap/api/openapi.json` describes
it.
"""

from __future__ import annotations

import json
import math
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode, urlsplit, urlunsplit

import requests
import websocket
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from historymap_lib import __version__
from historymap_lib.client_logs import Outage, Place, received
from historymap_lib.errors import LOGIN, ServerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = "historymap/api"
CONNECT, ANSWER = 10.0, 120.0
"""Seconds to wait for a connection, and for an answer."""
PAGE = 5000
"""Verdicts that are asked for at once where all are wanted."""
FORGOTTEN = 4404
"""With what a server closes where a job is not known any more."""
SAID = 300
"""Characters that are told of an answer that is not ours."""


class RefusedError(ServerError):
    """The server answers that it will not; `status` is that of HTTP, `field` what of the request is wrong."""

    def __init__(self, message: str, status: int, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.field = status, field


class Client:
    """A server, and whoever asks it.

    Args:
        url: the address of the server, with its base where it has one, such as https://lab.example/user/ann.
        token: that of Jupyter Server; without it a server answers only if it wants none.

    """

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerError(f"{url!r} is no address of a server; give one such as http://localhost:8888")
        path = parts.path.rstrip("/").removesuffix("/lab").removesuffix(f"/{ROOT}")
        self.url = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
        self._headers = {"User-Agent": f"historymap/{__version__}"}
        if token:
            self._headers["Authorization"] = f"token {token}"
        self._session = requests.Session()
        self._session.auth = self._signed  # not as a header: what ~/.netrc says of the host would take its place

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open to the server."""
        self._session.close()

    def _signed(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add who asks, and with what."""
        request.headers.update(self._headers)
        return request

    def health(self) -> dict[str, Any]:
        """Return that the server lives, and its versions."""
        return self._ask("GET", "health")

    def status(self) -> dict[str, Any]:
        """Return where the case stands."""
        return self._ask("GET", "status")

    def generate_training(self, tiles: int | None = None, **options: Any) -> dict[str, Any]:
        """Queue generate-training; as with all that queue, `if_busy="reject"` and `force=True` are options."""
        return self._ask("POST", "generate-training", {"tiles": tiles, **options})

    def train(
        self, config: str | None = None, epochs: int | None = None, *, resume: bool | None = None, **options: Any
    ) -> dict[str, Any]:
        """Queue train; `config` is another YAML of the project."""
        return self._ask("POST", "train", {"config": config, "epochs": epochs, "resume": resume, **options})

    def predict(self, **options: Any) -> dict[str, Any]:
        """Queue predict."""
        return self._ask("POST", "predict", options)

    def verify(self, *, quick: bool | None = None, **options: Any) -> dict[str, Any]:
        """Queue verify; `quick` is a first look before any training."""
        return self._ask("POST", "verify", {"quick": quick, **options})

    def apply_annotations(
        self, annotations: Iterable[dict[str, Any]] = (), *, retrain: bool = False, **options: Any
    ) -> dict[str, Any]:
        """Save annotations (`{"osm_id": 123456, "existed": True}`), then queue what makes all of them count."""
        body = {"annotations": list(annotations)}
        return self._ask("POST", "apply-annotations", {"retrain": retrain, **options}, body)

    def save_annotations(self, annotations: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """Save annotations without applying them."""
        return self._ask("POST", "annotations", body={"annotations": list(annotations)})

    def annotations(self) -> dict[str, Any]:
        """Return what people have judged, in the exchange format."""
        return self._ask("GET", "annotations")

    def jobs(self, limit: int = 10, before: int | None = None, state: str | None = None) -> dict[str, Any]:
        """Return jobs, the newest first; `next` is `before` of the page that follows."""
        return self._ask("GET", "jobs", {"limit": limit, "before": before, "state": state})

    def job(self, number: int) -> dict[str, Any]:
        """Return a job."""
        return self._ask("GET", f"jobs/{number}")

    def log(self, number: int, offset: int = 0) -> dict[str, Any]:
        """Return a part of what a job printed; `next` is the `offset` of the part that follows."""
        return self._ask("GET", f"jobs/{number}/log", {"offset": offset})

    def whole_log(self, number: int) -> Iterator[str]:
        """Yield all that a job has printed so far, in parts."""
        offset = 0
        while True:
            page = self.log(number, offset)
            yield page["text"]
            if page["next"] == offset:
                yield page["live"]
                return
            offset = page["next"]

    def cancel(self, number: int) -> dict[str, Any]:
        """Ask a job to end, or take it out of the queue."""
        return self._ask("POST", f"jobs/{number}/cancel")

    def retry(self, number: int) -> dict[str, Any]:
        """Queue a job again that has ended."""
        return self._ask("POST", f"jobs/{number}/retry")

    def wait(self, number: int) -> dict[str, Any]:
        """Return a job when it has ended."""
        for _ in self.follow_logs(number):
            pass
        return self.job(number)

    def verdicts(
        self,
        bbox: tuple[float, float, float, float] | None = None,
        verdict: str | None = None,
        limit: int = 1000,
        after: int = 0,
    ) -> dict[str, Any]:
        """Return verdicts as GeoJSON (EPSG:4326); `next` is the `after` of the page that follows.

        Args:
            bbox: west, south, east, north in degrees; only buildings that touch it.
            verdict: existed, not_existed, unsure or no_coverage.
            limit: at most so many.
            after: only those that follow the building of this number in the file.

        """
        area = None if bbox is None else ",".join(f"{edge:.9f}".rstrip("0").rstrip(".") for edge in bbox)
        return self._ask("GET", "verdicts", {"bbox": area, "verdict": verdict, "limit": limit, "after": after})

    def every_verdict(
        self, bbox: tuple[float, float, float, float] | None = None, verdict: str | None = None, after: int = 0
    ) -> Iterator[dict[str, Any]]:
        """Yield all verdicts as features of GeoJSON, asking for one page after the other."""
        following: int | None = after
        while following is not None:
            page = self.verdicts(bbox, verdict, limit=PAGE, after=following)
            yield from page["features"]
            following = page["next"]

    def follow_logs(
        self, job: int | None = None, offset: int = 0, seconds: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the messages `connected`, `log` and `job_status` as they come.

        Of a job from a byte of its log on until it has ended; without one those of all jobs, for ever. A connection
        that breaks is made anew, and goes on where it was: no line is lost, and none comes twice.

        Args:
            job: its number.
            offset: byte of its log.
            seconds: how long.

        Raises:
            RefusedError: the server will not, or does not know the job any more.
            ServerError: it has been gone for `PATIENCE` seconds.

        """
        until = math.inf if seconds is None else time.monotonic() + seconds
        place, outage = Place(job, offset), Outage(self.url)
        while not place.over and time.monotonic() < until:
            try:
                for message in self._listen(place, until):
                    yield message
                    outage.hear(message)
            except ssl.SSLCertVerificationError as error:  # one that requests trusts as well passes
                said = f"{self.url}: its certificate is not trusted ({error.verify_message}); name that of its maker"
                raise ServerError(f"{said} by REQUESTS_CA_BUNDLE") from error
            except websocket.WebSocketBadStatusException as error:
                why = self._passing(error)
            except (OSError, websocket.WebSocketException) as error:
                why = str(error).rstrip(".") or "the connection broke"
            else:
                return
            if not place.over:
                outage.wait(why, until)

    def _listen(self, place: Place, until: float) -> Iterator[dict[str, Any]]:
        """Yield the messages of one connection; it ends where the job or the time does, and breaks elsewhere."""
        address = f"ws{self.url.removeprefix('http')}/{ROOT}/logs?{urlencode(place.query())}"
        connection = self._connected(address)
        try:
            for kind, content in received(connection, until):
                if kind == websocket.ABNF.OPCODE_CLOSE:
                    said = content[2:].decode(errors="replace")
                    if int.from_bytes(content[:2], "big") == FORGOTTEN:
                        raise RefusedError(f"{self.url}: {said}", FORGOTTEN - 4000)
                    if not place.over:
                        raise websocket.WebSocketConnectionClosedException(said or "the connection was closed")
                    return
                if kind == websocket.ABNF.OPCODE_TEXT:
                    message: dict[str, Any] = json.loads(content)
                    place.note(message)
                    yield message
        finally:
            connection.close(timeout=1)  # says good-bye, unless the server has; then only this closes:
            connection.shutdown()  # type: ignore[no-untyped-call]

    def _connected(self, address: str) -> websocket.WebSocket:
        """Return a connection to where logs are told; the token goes nowhere else."""
        told = self._session.merge_environment_settings(self.url, {}, False, None, None)["verify"]  # noqa: FBT003
        bundle = told if isinstance(told, str) else DEFAULT_CA_BUNDLE_PATH  # as with all other calls
        kind = "ca_cert_path" if Path(bundle).is_dir() else "ca_certs"
        try:
            # what is no UTF-8 json refuses; the check of this library takes longer than all the rest
            return websocket.create_connection(
                address, timeout=CONNECT, header=self._headers, skip_utf8_validation=True, suppress_origin=True,
                redirect_limit=0, sslopt={kind: bundle},
            )  # fmt: skip
        except websocket.WebSocketException as error:
            if type(error) is not websocket.WebSocketException:
                raise
            said = f"{self.url}: answers, but not as historymap does ({error}); see whether it is the right server"
            raise ServerError(said) from error

    def _ask(
        self, method: str, path: str, query: dict[str, Any] | None = None, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return what the server answers.

        Raises:
            RefusedError: that it will not.
            ServerError: nothing, or nothing of ours.

        """
        given = {
            name: str(value).lower() if isinstance(value, bool) else value
            for name, value in (query or {}).items()
            if value is not None
        }
        try:
            answer = self._session.request(
                method, f"{self.url}/{ROOT}/{path}", params=given, json=body, timeout=(CONNECT, ANSWER),
                allow_redirects=False,
            )  # fmt: skip
        except requests.RequestException as error:
            said = f"{self.url}: does not answer ({_cause(error)}); see whether the server runs, and at this address"
            raise ServerError(said) from error
        if answer.is_redirect:
            raise ServerError(f"{self.url}: leads to {answer.headers['Location']}; see whether it is the right server")
        try:
            content = answer.json()
        except ValueError:
            content = None
        if not answer.ok or not isinstance(content, dict):
            raise self._refused(answer.status_code, content, answer.headers.get("Retry-After"))
        return content

    def _refused(self, status: int, content: Any, wait: str | None = None) -> ServerError:
        if status in (401, 403) and not isinstance(content, dict):
            return RefusedError(f"{self.url}: {LOGIN}", status)
        if not isinstance(content, dict) or not isinstance(content.get("message"), str):
            said = f"{self.url}: answers with {status}, and not as historymap does; see whether it is the right server"
            return ServerError(said)
        later = f" (ask again in {wait} s)" if wait and wait not in content["message"] else ""
        return RefusedError(f"{self.url}: {content['message']}{later}", status, content.get("field"))

    def _passing(self, error: websocket.WebSocketBadStatusException) -> str:
        """Return what the server says instead of a WebSocket, and raise it unless it may pass.

        What the error says of itself holds all headers, and so a cookie that is a login.
        """
        try:
            content = json.loads(error.resp_body or b"")
        except ValueError:
            content = None
        if error.status_code not in (502, 503, 504):
            raise self._refused(error.status_code, content) from None
        said = content.get("message") if isinstance(content, dict) else None
        return f"answers with {error.status_code}" + (f", {said}" if said else "")


def _cause(error: BaseException) -> str:
    """Return what is at the bottom of an error of requests, without the names of its classes."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return getattr(error, "strerror", None) or str(error)
