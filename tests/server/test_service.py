"""`historymap serve`: the interface alone, without files, kernels or terminals; and what the documentation starts."""

from __future__ import annotations

import configparser
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from api_fixtures import API, judged_town, logged_in, offered
from job_fixtures import PATIENCE
from server_fixtures import TOKEN, Server, free_port, jupyter, serve

from historymap_lib import cli
from historymap_lib.client import Client
from historymap_lib.errors import ServerError
from historymap_lib.project import CONFIG

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "docs" / "serve"
HISTORYMAP = [sys.executable, "-m", "historymap_lib.cli"]
ENVIRONMENT = os.environ | {"JUPYTER_TOKEN": TOKEN}


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    with offered(tmp_path_factory.mktemp("town"), "--ServerApp.allow_origin=https://page.example") as found:
        yield found


@pytest.fixture(scope="module")
def server(town):
    return town[1]


@contextmanager
def started(words, folder):
    """Yield the process of a command that starts a server."""
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=ENVIRONMENT, cwd=folder)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def healthy(port):
    """Wait until a server answers."""
    end = time.monotonic() + PATIENCE
    with Client(f"http://127.0.0.1:{port}", TOKEN) as client:
        while True:
            try:
                return client.health()
            except ServerError:
                assert time.monotonic() < end
                time.sleep(0.1)


# ----------------------------------------------------------------------------------------------------- nothing else


@pytest.mark.parametrize(
    "path",
    ["files/case.yaml", "files", "view/case.yaml", "tree", "lab", "api/contents", "api/contents/case.yaml",
     "api/kernels", "api/kernelspecs", "api/sessions", "api/terminals", "terminals/websocket/1", "api/config/x",
     "nbconvert/html/x.ipynb", "api/nbconvert", "edit/case.yaml", "api/events/subscribe", "lsp/status", "voila"],
)  # fmt: skip
def test_no_files_and_no_code_also_to_those_who_are_logged_in(server, path):
    answer = server.get(path)
    assert answer.status == 404
    assert b"footprints" not in answer.body


@pytest.mark.parametrize("path", ["api/kernels", "api/sessions", "api/terminals", "api/shutdown", "api/contents"])
def test_nothing_can_be_started_or_written(server, path):
    assert server.ask("POST", path, {"name": "python3", "path": "x", "type": "notebook"}).status == 404
    assert server.get("api/status").status == 200  # and it was not shut down


def test_settings_of_jupyter_server_hold_but_none_brings_files_or_code_back(tmp_path):
    config = tmp_path / "town" / "server" / "config"
    config.mkdir(parents=True)
    (config / "jupyter_server_config.py").write_text(
        "c.HistorymapApi.submissions_per_minute = 1\n"
        "c.ServerApp.jpserver_extensions = {'jupyter_server_terminals': True, 'jupyterlab': True}\n"
        "from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager\n"
        "c.ServerApp.contents_manager_class = AsyncLargeFileManager\n"
    )
    with offered(tmp_path / "town") as (_, server):
        assert [server.ask("POST", f"{API}verify?force=true").status for _ in range(2)] == [202, 429]
        for path in ("files/case.yaml", "api/terminals", "lab", "api/contents"):
            assert server.get(path).status == 404


def test_the_first_page_leads_to_the_interface(server):
    answer = server.get("")
    assert answer.status == 302
    assert answer.headers["Location"].startswith(f"/{API}health")


def test_it_does_so_also_below_an_address_of_our_name(town):
    with serve(town[0].file, base="/historymap/") as server:
        answer = server.get("")
        assert answer.headers["Location"].startswith(f"/historymap/{API}health")
        assert server.get(f"{API}health").status == 200


def test_tiles_are_there_too_and_counted(server):
    assert server.get(f"historymap/tiles/{'0' * 32}/0/0/0").status == 404
    assert b"historymap_tiles_served_total 0.0" in server.get("metrics").body


# ---------------------------------------------------------------------------------------------------- other origins


def test_pages_that_the_owner_allows_may_ask_with_what_their_browser_has(server):
    browser = logged_in(server)
    for origin, status in (("https://page.example", 200), ("https://evil.example", 403)):
        answer = browser.get(f"{server.url}/{API}status", headers={"Origin": origin}, timeout=PATIENCE)
        assert answer.status_code == status
        assert answer.headers.get("Access-Control-Allow-Origin", "https://page.example") == "https://page.example"


def test_a_browser_may_ask_beforehand_without_a_login(server):
    headers = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    answer = server.ask("OPTIONS", f"{API}verify", token=None, headers=headers)
    assert answer.status in (200, 204)
    assert answer.headers["Access-Control-Allow-Origin"] == "https://page.example"
    assert "authorization" in answer.headers["Access-Control-Allow-Headers"].lower()


# ------------------------------------------------------------------------------------------------------ the command


def test_the_command_becomes_the_server_and_ends_when_asked(tmp_path):
    port = free_port()
    with judged_town(tmp_path) as case:
        words = [*HISTORYMAP, "serve", "--config", str(case.file), "--", "--port", str(port)]
        with started(words, tmp_path) as process:
            healthy(port)
            with Client(f"http://127.0.0.1:{port}", TOKEN) as client:
                assert client.status()["case"] == "town"
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
    said = (tmp_path / "serve.log").read_text()
    assert f"http://127.0.0.1:{port}/historymap/api/health" in said
    assert TOKEN not in said
    assert "Traceback" not in said


def test_where_another_server_has_the_port_it_does_not_take_the_next(town, tmp_path):
    words = [*HISTORYMAP, "serve", "--config", str(town[0].file), "--", "--port", str(town[1].port)]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    assert f"The port {town[1].port} is already in use" in done.stderr


def test_settings_that_are_wrong_are_told_before_anything_starts(tmp_path, capsys):
    assert cli.main(["serve", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "there is no such settings file" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ in JupyterLab


def test_within_jupyter_the_case_is_that_of_the_environment_or_of_the_configuration(town, tmp_path):
    with jupyter(tmp_path / "one", **{CONFIG: str(town[0].file)}) as server:
        assert server.get(f"{API}status").json["case"] == "town"
        assert server.get("api/contents").status == 200
    folder = tmp_path / "two"
    (folder / "cases").mkdir(parents=True)
    (folder / "cases" / "town.yaml").write_bytes(town[0].file.read_bytes())
    further = "--HistorymapApi.config_file=cases/town.yaml"
    with jupyter(folder, "/", further, **{CONFIG: "/nowhere.yaml"}) as server:
        assert server.get(f"{API}status").json["case"] == "town"


def test_without_a_case_it_says_how_to_name_one(tmp_path, monkeypatch):
    monkeypatch.delenv(CONFIG, raising=False)
    with jupyter(tmp_path / "none") as server:
        assert server.get(f"{API}health").status == 200
        answer = server.get(f"{API}status")
        assert answer.status == 503
        assert "there is no such settings file" in answer.json["message"]
        assert "HistorymapApi.config_file" in answer.json["message"]
        assert server.get("metrics").status == 200
    with jupyter(tmp_path / "wrong", **{CONFIG: "nowhere.yaml"}) as server:
        assert "nowhere.yaml: there is no such settings file" in server.get(f"{API}status").json["message"]


# ------------------------------------------------------------------------------------------------- the documentation


def service():
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(SERVE / "historymap.service")
    return parser["Service"]


def container():
    (found,) = yaml.safe_load((SERVE / "compose.yaml").read_text())["services"].values()
    return found


@pytest.mark.parametrize("command", [service()["ExecStart"], container()["command"]], ids=["systemd", "compose"])
def test_what_the_documentation_starts_is_started_and_found_healthy(tmp_path, command):
    words, port = shlex.split(command), free_port()
    assert Path(words[0]).name == "historymap"
    assert words[-2:] == ["--port", "8888"]
    with judged_town(tmp_path) as case:
        at = words.index("--config") + 1
        words[at] = str(case.file)
        with started([*HISTORYMAP, *words[1:-1], str(port), "--allow-root"], tmp_path):
            healthy(port)
            of_a_proxy = Server(port, "/", tmp_path).get(f"{API}health", Host="maps.example.org")
            assert of_a_proxy.status == 200
            check = [word.replace("8888", str(port)) for word in container()["healthcheck"]["test"]]
            assert check[:2] == ["CMD", "historymap"]
            done = subprocess.run([*HISTORYMAP, *check[2:]], env=ENVIRONMENT, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
        done = subprocess.run([*HISTORYMAP, *check[2:]], env=ENVIRONMENT, capture_output=True, check=False)
        assert done.returncode != 0


def test_the_documentation_keeps_jobs_and_secrets_as_it_says():
    assert service()["KillMode"] == "process"
    assert "EnvironmentFile" in service()
    assert "127.0.0.1" in service()["ExecStart"]
    assert container()["environment"]["JUPYTER_TOKEN"].startswith("${JUPYTER_TOKEN:?")
    assert container()["ports"] == ["127.0.0.1:8888:8888"]
    assert container()["init"] is True
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    assert f"{pinned}+cpu" in container()["build"]["dockerfile_inline"]
    assert (SERVE / container()["build"]["context"] / "pyproject.toml").exists()
