"""A case with tiles, verdicts and a held queue, behind a server of its own; and people who log in by their browser."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import requests
from case_fixtures import lattice, seen, write_probability
from job_fixtures import PATIENCE, end_all, hold, said, town_of
from server_fixtures import TOKEN, serve

from historymap_lib import steps
from historymap_lib.jobs import Jobs
from historymap_lib.jobs.store import JobStateError
from historymap_lib.project import load
from historymap_lib.verification import verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server_fixtures import Server

    from historymap_lib.jobs import Job
    from historymap_lib.project import Project

API = "historymap/api/"
MANY = "--HistorymapApi.submissions_per_minute=1000000"
BUILDINGS = dict(list(lattice().items())[:30])


@contextmanager
def judged_town(folder: Path) -> Iterator[Project]:
    """Yield a case of 30 buildings that have been judged, and end its jobs in the end."""
    folder.mkdir(parents=True, exist_ok=True)
    case = bring_back(folder)
    try:
        yield case
    finally:
        end_all(case)


def bring_back(folder: Path) -> Project:
    """Return such a case in a folder, as it was at first, whatever has become of it."""
    for place in template().iterdir():
        old = folder / place.name
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        shutil.copytree(place, old) if place.is_dir() else shutil.copy(place, old)
    return load(folder / "case.yaml")


@cache
def template() -> Path:
    """Return the folder of such a case, made once."""
    folder = Path(tempfile.mkdtemp(prefix="historymap-town-"))
    with town_of(folder, idle=60.0) as case:
        steps.run(case, "generate-training")
        write_probability(case, seen(BUILDINGS))
        verify(case, picture=False)
    return folder


@contextmanager
def offered(folder: Path, *further: str, base: str = "/") -> Iterator[tuple[Project, Server]]:
    """Yield such a case, and the server that offers it."""
    with judged_town(folder) as case, serve(case.file, *further, base=base) as server:
        yield case, server


@contextmanager
def held(case: Project, go: Path) -> Iterator[Job]:
    """Yield a job that runs meanwhile, so that all others wait; those that wait in the end are cancelled."""
    jobs = Jobs(case)
    job = jobs.submit_command("held", hold(go))
    said(job, "on")
    try:
        yield job
    finally:
        for record in jobs.waiting():
            with suppress(JobStateError):  # one that was to come after another has gone with it
                jobs.get(record.id).cancel()
        go.touch()
        job.wait(PATIENCE)


def logged_in(server: Server) -> requests.Session:
    """Return a browser that has logged in by the form, with the token as password: what it has is cookies."""
    browser, page = requests.Session(), f"{server.url}/login"
    browser.get(page, timeout=PATIENCE).raise_for_status()
    form = {"password": TOKEN, "_xsrf": browser.cookies["_xsrf"]}
    browser.post(page, data=form, timeout=PATIENCE).raise_for_status()
    return browser
