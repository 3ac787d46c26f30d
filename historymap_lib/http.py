"""Asking servers for something, robustly: photos and buildings come through here alone.

Servers are slow, busy, half broken, and lie. So an answer counts only when its asker has looked at it (`check`);
what may pass (a busy server, a broken connection, half a body) is tried again with growing pauses, as long as the
server told us to wait where it did (`Retry-After`, RFC 9110, 10.2.3), and never longer than the patience in the
settings. Then there is one sentence with the server, what it said, and what to do.

Secrets stand in the settings as `${NAME}` of an environment variable. They are put in here, on the way out, and
appear in nothing that this module returns or raises.
"""

from __future__ import annotations

import email.utils
import errno
import os
import re
import sys
import threading
import time
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import requests
import tenacity
import urllib3

from historymap_lib import __version__
from historymap_lib.errors import SettingsError, SourceError
from historymap_lib.progress import Bar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from historymap_lib.settings import Access

AGENT = f"historymap/{__version__} (+https://pypi.org/project/historymap)"
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds of the first pause and of the longest; each is twice as long as the one before, more or less."""
TRIES = 7
CONNECT = 10.0
"""Seconds to wait for a connection."""
BUSY = {408, 425, 429, 500, 502, 503, 504}
"""Answers after which asking again may help; any other error does not pass by itself."""
CHUNK = 1 << 16
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}
"""What is wrong with our own disk, and not with the server."""
SAID = 200
"""Characters of what a server said that are told."""
WORD = 6
"""Characters from which on a value is looked for in what a server sends."""
VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Answer:
    """What a server answered: as a rule status 200, and a body of the length that it announced."""

    body: bytes
    type: str  # the media type, in lower case and without parameters; "" where it named none
    headers: Mapping[str, str]
    status: int = 200


class Unusable(Exception):  # noqa: N818 - no error that anybody sees: it says that an answer is none
    """Raised by a check: an answer is none, with what the server said; `again` if it may be better next time."""

    def __init__(self, said: str, *, again: bool = False, wait: float = 0.0) -> None:
        super().__init__(said)
        self.again, self.wait = again, wait


class Client:
    """Asks one server, from as many threads as one likes; at most `access.connections` requests at once.

    Raises:
        SettingsError: an environment variable that the settings name is not set, or the CA bundle is not there.

    """

    def __init__(self, access: Access, where: Path) -> None:
        """Take how a server wants to be asked; `where` is the file of the settings, for messages."""
        self._access, self._where = access, where
        self._secrets: set[str] = set()
        self._named: dict[str, str] = {}  # what environment variables hold, and what stands for it: ${NAME}
        self._headers = {name: self.filled(value) for name, value in access.headers.items()}
        self._parameters = {name: self.filled(value) for name, value in access.parameters.items()}
        self._login = (self.filled(access.user), self.filled(access.password or "")) if access.user else None
        self._secrets |= {value for value in (*self._headers.values(), *self._parameters.values()) if value}
        if access.ca_bundle is not None and not access.ca_bundle.exists():
            raise SettingsError(f"{where}: access.ca_bundle {access.ca_bundle} is not there; correct the path")
        if access.insecure:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._warned = not access.insecure
        self._gate = threading.BoundedSemaphore(access.connections)
        self._local = threading.local()
        self._stop = threading.Event()

    def ask(
        self,
        url: str,
        parameters: Mapping[str, str] | None = None,
        *,
        data: Mapping[str, str] | None = None,
        check: Callable[[Answer], None] | None = None,
        nothing: frozenset[int] = frozenset(),
        stop: threading.Event | None = None,
        largest: int = 1 << 28,
        into: Path | None = None,
    ) -> Answer:
        """Return the answer to a GET, or with `data` to a POST, once `check` finds no fault with it.

        Args:
            url: may hold `${NAME}`; so may the values of `parameters`.
            parameters: of the query.
            data: of a form.
            check: raises `Unusable` where the answer is none.
            nothing: statuses that say that there is nothing here; the answer is an empty body then, and not checked.
            stop: once set, nobody waits any longer, as after `stop()`, for this request alone.
            largest: bytes that a body may have.
            into: a file to write the body to, in place of memory; then it may take as long as it comes at all.

        Raises:
            SourceError: there is no such answer, with one sentence on what the server said and what to do.

        """
        begun = time.monotonic()
        stop = stop or self._stop
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, Unusable) and error.again),
            wait=_pause,
            stop=tenacity.stop_after_attempt(TRIES)
            | tenacity.stop_before_delay(self._access.patience)
            | tenacity.stop_when_event_set(stop),
            sleep=tenacity.sleep_using_event(stop),
            reraise=True,
        )
        try:
            for attempt in retrying:
                with attempt, self._gate:
                    deadline = begun + self._access.patience
                    answer = self._once(url, parameters, data, largest, deadline, nothing, into)
                    if check is not None and answer.status == requests.codes.ok:
                        check(answer)
                    return answer
        except Unusable as error:
            tries = retrying.statistics.get("attempt_number", 1)
            raise SourceError(self._sentence(url, error, tries)) from None
        raise AssertionError("not reached")  # pragma: no cover - each attempt returns or raises

    def stop(self) -> None:
        """Let nobody wait any longer: whoever is in a pause asks once more, at once, and then gives up."""
        self._stop.set()

    def filled(self, text: str, *, address: bool = False) -> str:
        """Return a text with the values of the environment variables that it names.

        In an address they are written as its parts are, unless one is its beginning.

        Raises:
            SettingsError: one is not set.

        """

        def value(match: re.Match[str]) -> str:
            found = os.environ.get(match[1])
            if not found:
                raise SettingsError(f"{self._where}: the environment variable {match[1]} is not set; set it")
            self._secrets = self._secrets | {found}  # a new set: other threads may be going through the old one
            self._named = self._named | {found: match[0]}
            return quote(found, safe="") if address and match.start() else found

        return VARIABLE.sub(value, text)

    def hidden(self, text: str) -> str:
        """Return a text without secrets, also where they are written as in an address."""
        return _replaced(text, dict.fromkeys(self._secrets, "***"))

    def veiled(self, text: str) -> str:
        """Return a text with `${NAME}` again in place of what the environment variables hold: undoes `filled`."""
        return _replaced(text, self._named)

    def tells(self, body: bytes) -> bool:
        """Say whether a body holds what an environment variable does, such as a key; shorter words are everywhere."""
        text = body.decode(errors="surrogateescape")
        return any(_replaced(text, {secret: ""}) != text for secret in self._named if len(secret) >= WORD)

    def _once(  # noqa: PLR0917 - one call
        self,
        url: str,
        parameters: Mapping[str, str] | None,
        data: Mapping[str, str] | None,
        largest: int,
        end: float,
        nothing: frozenset[int],
        into: Path | None,
    ) -> Answer:
        if not self._warned:
            self._warned = True
            print(f"{_host(url)}: its certificate is not checked, as access.insecure says", file=sys.stderr)  # noqa: T201
        query = self._parameters | {name: self.filled(value) for name, value in (parameters or {}).items()}
        verify: bool | str = not self._access.insecure
        if verify and self._access.ca_bundle is not None:
            verify = str(self._access.ca_bundle)
        left = max(1.0, min(self._access.timeout, end - time.monotonic()))
        try:
            with self._session().request(
                "GET" if data is None else "POST", self.filled(url, address=True), params=query, data=data,
                timeout=(min(CONNECT, left), left), verify=verify, stream=True,
            ) as response:  # fmt: skip
                if into is not None and response.status_code == requests.codes.ok:
                    body = _saved(response, into, _host(url))
                else:
                    body = _body(response, largest, end)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if getattr(error, "errno", None) in DISK:
                raise
            raise _fault(error) from None
        kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
        if response.status_code in nothing:
            return Answer(b"", kind, response.headers, response.status_code)
        if response.status_code != requests.codes.ok:
            said = f"answered {response.status_code} {response.reason}{_told(body, kind)}"
            busy = response.status_code in BUSY
            raise Unusable(said, again=busy, wait=_retry_after(response.headers) if busy else 0.0)
        return Answer(body, kind, response.headers)

    def _session(self) -> requests.Session:
        """Return the session of this thread, whose connections are kept open."""
        found: requests.Session | None = getattr(self._local, "session", None)
        if found is None:
            found = self._local.session = _Session(set(self._access.headers))
            found.headers["User-Agent"] = AGENT
            found.headers.update(self._headers)
            found.auth = self._login
        return found

    def _sentence(self, url: str, error: Unusable, tries: int) -> str:
        times = f" ({tries} times)" if tries > 1 else ""
        advice = "try again later" if error.again else f"correct the source in {self._where}"
        return self.hidden(f"{_host(url)} {error}{times}; {advice}")


class _Session(requests.Session):
    """A session that keeps our own headers from servers that another one sends us to."""

    def __init__(self, secret: set[str]) -> None:
        super().__init__()
        self._secret = secret

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Leave out what is not for this server."""
        before, after = response.request.url or "", prepared_request.url or ""
        if self.should_strip_auth(before, after):  # type: ignore[no-untyped-call]
            for name in self._secret:
                prepared_request.headers.pop(name, None)
        super().rebuild_auth(prepared_request, response)  # type: ignore[no-untyped-call]


def _replaced(text: str, by: Mapping[str, str]) -> str:
    """Return a text with secrets replaced, the longest first, also where they are written as in an address or XML."""
    for secret in sorted(by, key=len, reverse=True):
        for form in {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), escape(secret)}:
            text = text.replace(form, by[secret])
    return text


def _pause(state: tenacity.RetryCallState) -> float:
    """Return how many seconds to wait: as the server said, else a random share of twice as long as before."""
    error = state.outcome.exception() if state.outcome is not None else None
    grown = tenacity.wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT, min=FIRST_WAIT / 2)(state)
    return max(grown, error.wait) if isinstance(error, Unusable) else grown


def _body(response: requests.Response, largest: int, end: float) -> bytes:
    parts, size = [], 0
    for part in response.iter_content(CHUNK):
        parts.append(part)
        size += len(part)
        if size > largest:
            raise Unusable(f"sends more than {largest >> 20} MiB at once; ask for less")
        if time.monotonic() > end:
            raise Unusable("sends too slowly", again=True)
    return b"".join(parts)


def _saved(response: requests.Response, path: Path, host: str) -> bytes:
    """Write a body to a file, and return its beginning."""
    length = int(response.headers.get("Content-Length", 0)) // CHUNK or None
    begin = b""
    with path.open("wb") as file, Bar(host, total=length, unit="part") as bar:
        for part in response.iter_content(CHUNK):
            begin = begin or part
            file.write(part)
            bar.step(f"{file.tell() >> 20:,} MiB")
    return begin


def _fault(error: Exception) -> Unusable:
    """Return what became of a request that brought no answer; never the text of the error, which names the address."""
    text = repr(error)
    if isinstance(error, requests.exceptions.SSLError):
        why = re.search(r"certificate verify failed: ([^()\"']+)", text)
        return Unusable(f"has a certificate that cannot be trusted ({why[1].strip() if why else 'TLS fails'}): "
                        "name that of its authority as access.ca_bundle")  # fmt: skip
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema,
                          requests.exceptions.MissingSchema, requests.exceptions.TooManyRedirects)):  # fmt: skip
        return Unusable("cannot be asked: the address is wrong, or leads nowhere")
    if isinstance(error, requests.Timeout) or "timed out" in text:  # amid a body it is no Timeout of requests'
        return Unusable("did not answer in time", again=True)
    if "NameResolution" in text or "gaierror" in text:
        return Unusable("is not known: is the name right, and this machine online?", again=True)
    if "refused" in text.lower():
        return Unusable("refuses the connection", again=True)
    return Unusable("broke off the connection", again=True)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server asks us to wait: a number, or a date."""
    said = headers.get("Retry-After", "").strip()
    if said.isdigit():
        return float(said)
    try:
        when = email.utils.parsedate_to_datetime(said)
    except ValueError:
        return 0.0
    return max(0.0, when.timestamp() - time.time())


def _told(body: bytes, kind: str) -> str:
    """Return what a body says, as far as it is text."""
    text = text_of(body) if kind.startswith("text/") or "xml" in kind or "json" in kind else ""
    return f": {text}" if text else ""


def text_of(body: bytes) -> str:
    """Return the beginning of the text in a body of HTML, XML or plain text, on one line."""
    text = body[: 1 << 14].decode("utf-8", errors="replace")
    text = re.sub(r"(?is)<(script|style|title|head)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>", " ", text)
    text = " ".join(text.split())
    return text if len(text) <= SAID else text[:SAID].rsplit(" ", 1)[0] + " ..."


def _host(url: str) -> str:
    """Return the server of an address, without a login that somebody has written into it."""
    return re.split(r"[/?#]", url.split("://", 1)[-1], maxsplit=1)[0].rsplit("@", 1)[-1]


def values_of(access: Access) -> dict[str, Any]:
    """Return what of an access may be written down: names of variables, never their values."""
    return access.model_dump(mode="json", exclude_defaults=True)
