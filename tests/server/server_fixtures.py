"""Jupyter Server, and Voila alone, on loopback with what we ship to them, and what a browser asks of them."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from historymap_lib import server as extension
from historymap_lib.project import CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TOKEN = "sesame"
PATIENCE = 60
SHIPPED = Path(extension.__file__).parent


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        return self.headers["Content-Type"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    port: int
    base: str
    log: Path
    pid: int = 0
    secure: bool = False

    @property
    def url(self) -> str:
        return f"http{'s' * self.secure}://127.0.0.1:{self.port}{self.base}".rstrip("/")

    def connections(self) -> int:
        """Return how many lines are open to the server."""
        found = psutil.Process(self.pid).net_connections("tcp")
        return sum(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == self.port for one in found)

    def get(self, path: str, *, token: str | None = TOKEN, **headers: str) -> Answer:
        """Ask for a path below the base; nothing is followed, and `..` stays as it is."""
        return self.ask("GET", path, token=token, headers=headers)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = TOKEN,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask for a path below the base, with bytes as they are or anything else as JSON."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"token {token}"
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if self.secure:  # with a certificate that a test has made
            unchecked = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=unchecked)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, self.base + path, body=content, headers=sent)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()


@contextmanager
def jupyter(folder: Path, base: str = "/", *further: str, **environment: str) -> Iterator[Server]:
    """Yield a Jupyter Server that the shipped file has told of our extension."""
    config = folder / "config"
    shutil.copytree(SHIPPED / "jupyter_server_config.d", config / "jupyter_server_config.d")
    port = free_port()
    words = ["jupyter_server", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    words += ["--ServerApp.port_retries=0", f"--ServerApp.base_url={base}", f"--IdentityProvider.token={TOKEN}"]
    words += [f"--ServerApp.root_dir={folder}", *further]
    with _running(folder, words, Server(port, base, folder / "server.log"), "api", environment) as server:
        yield server


@contextmanager
def serve(
    file: Path, *further: str, base: str = "/", port: int | None = None, secure: bool = False, **environment: str
) -> Iterator[Server]:
    """Yield the server that `historymap serve` becomes for a case; it is killed in the end, as by a power cut."""
    folder = file.parent / "server"
    folder.mkdir(exist_ok=True)
    port = port or free_port()
    words = ["historymap_lib.server.service", "--no-browser", "--allow-root", f"--ServerApp.root_dir={file.parent}"]
    words += [f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.base_url={base}", *further]
    environment = {"JUPYTER_TOKEN": TOKEN, CONFIG: str(file)} | environment
    made = Server(port, base, folder / "server.log", secure=secure)
    with _running(folder, words, made, "api", environment) as server:
        yield server


@contextmanager
def voila(folder: Path, notebook: Path, base: str = "/", **environment: str) -> Iterator[Server]:
    """Yield Voila alone with a notebook, with the shipped settings."""
    (folder / "config").mkdir(parents=True)
    shutil.copy(SHIPPED / "voila.json", folder / "config")
    port = free_port()
    words = ["voila", "--no-browser", "--Voila.ip=127.0.0.1", f"--port={port}", f"--base_url={base}"]
    words += [f"--token={TOKEN}", str(notebook)]
    with _running(folder, words, Server(port, base, folder / "voila.log"), "login", environment) as server:
        yield server


@contextmanager
def _running(folder: Path, words: list[str], server: Server, probe: str, further: dict[str, str]) -> Iterator[Server]:
    names = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTER_DATA_DIR": "data"}
    environment = os.environ | {name: str(folder / place) for name, place in names.items()} | further
    environment.pop("HISTORYMAP_BASE_URL", None)
    with server.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=folder
        )
    try:
        _wait(server, process, probe)
        yield replace(server, pid=process.pid)
    finally:
        with suppress(psutil.NoSuchProcess):  # a test may have killed it
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                with suppress(psutil.Error):
                    one.kill()
        process.wait()


def _wait(server: Server, process: subprocess.Popen, probe: str) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError):
            server.get(probe)
            return
        time.sleep(0.1)
    raise AssertionError(server.log.read_text(encoding="utf-8", errors="replace"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
