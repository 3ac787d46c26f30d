"""A small case with background jobs, commands that start in a moment, and an end for whatever a test leaves running."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from case_fixtures import lattice, make_case

from historymap_lib.progress import PROGRESS
from historymap_lib.project import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from historymap_lib.jobs import Job
    from historymap_lib.jobs.queue import Update
    from historymap_lib.project import Project

PATIENCE = 60.0
"""Seconds after which a test gives up; nothing takes so long, also on a busy machine."""
TRUE = [shutil.which("true") or "/bin/true"]
HOLD = """
import os, sys, time
print("on", os.getpid(), flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
"""


@contextmanager
def town_of(folder: Path, paths: dict[str, str] | None = None, **jobs: Any) -> Iterator[Project]:
    """Yield a case, and end its guard, its worker and its jobs in the end."""
    settings = {"idle": 1.0, "grace": 1.0} | jobs
    few = dict(list(lattice().items())[:30])
    case = load(make_case(folder, few, tiles={"count": 2}, jobs=settings, paths=paths or {}))
    try:
        yield case
    finally:
        end_all(case)


def end_all(case: Project) -> None:
    """Kill all that belongs to the jobs of a case; the guard goes first, since it would start the worker again."""
    while found := [*guards(case), *workers(case), *_of_jobs(case)]:
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        for process in found:
            gone(process.pid)


def guards(case: Project) -> list[psutil.Process]:
    return _running("historymap_lib.jobs.guard", case)


def workers(case: Project) -> list[psutil.Process]:
    return _running("historymap_lib.jobs.worker", case)


def stop_workers(case: Project) -> None:
    """Kill the worker in such a way that nobody starts it again."""
    for process in [*guards(case), *workers(case)]:
        process.kill()
        gone(process.pid)


def _running(module: str, case: Project) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if {module, str(case.file)} <= set(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _of_jobs(case: Project) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            inside = process.environ().get(PROGRESS, "").startswith(str(case.paths.jobs))
            if inside and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextmanager
def small_disk(folder: Path, size: str):
    """A file system of its own, which is soon full."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False) if os.getuid() == 0 else None
    if done is None or done.returncode:
        pytest.skip("only who may mount a file system can fill one: " + (done.stderr if done else "not root"))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def quick(code: str, *arguments: object) -> list[str]:
    """Return a command that runs Python without packages, which starts in a hundredth of a second."""
    return [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]


def hold(until_there: Path) -> list[str]:
    """Return a command that says `on` and its number, and ends with 0 as soon as a file is there."""
    return quick(HOLD, until_there)


def helper(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start another process with the packages of the tests."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, text=True, **options)


def until(condition: Callable[[], Any], what: str = "", seconds: float = PATIENCE) -> Any:
    """Return what a condition gives as soon as that is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, what or "it did not happen"
        time.sleep(0.02)
    return value


def said(job: Job, text: str) -> Update:
    """Return the first update of a job with this in what it printed."""
    return next(update for update in job.follow() if text in update.text)


def gone(pid: int) -> None:
    """Wait until there is no such process, or only what its parent has not yet taken note of."""
    until(lambda: not alive(pid), f"process {pid} lives")


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def read_terminal(terminal: int) -> bytes:
    """Return what comes until nobody has the terminal open any more."""
    parts = []
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # how Linux tells that there is no more
            return b"".join(parts)
        if not part:
            return b"".join(parts)
        parts.append(part)
