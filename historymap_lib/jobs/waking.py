"""Starting a worker where there is something to do and none lives."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from historymap_lib.database import PATIENCE
from historymap_lib.errors import JobsError
from historymap_lib.jobs import logs
from historymap_lib.jobs.processes import TOKEN, Identity
from historymap_lib.jobs.store import UNFINISHED
from historymap_lib.progress import PROGRESS

if TYPE_CHECKING:
    from historymap_lib.jobs.files import Files
    from historymap_lib.jobs.store import Store
    from historymap_lib.project import Project

START = 30.0
"""Seconds that a worker has to come up."""
MOMENT = 0.05
"""Seconds between two looks at the lock; whoever looks holds it for less."""
FOREIGN = ("JPY_", "JUPYTER", "MPLBACKEND", "PYTHONSTARTUP", "KERNEL_", TOKEN, PROGRESS)
"""Variables of a notebook kernel, or of a job, that do not fit a process of its own."""


def wake(project: Project, files: Files, store: Store) -> None:
    """Start a worker if there is something to do and none lives; it keeps the environment of whoever starts it.

    Raises:
        JobsError: it does not come up.

    """
    if not store.of(*UNFINISHED, limit=1) or has_worker(files):
        return
    try:
        with FileLock(files.start, timeout=PATIENCE):
            if not has_worker(files):
                _start(project, files, store)
    except Timeout:
        return  # somebody else has been at it all the time
    except OSError as error:
        raise JobsError(f"the worker cannot be started: {error.filename or files.folder}: {error.strerror}") from error


def has_worker(files: Files) -> bool:
    """Return whether a worker lives, which is whoever holds the lock; looked at twice, since looking holds it too."""
    for pause in (MOMENT, 0):
        try:
            with FileLock(files.lock, timeout=0):
                return False
        except Timeout:
            time.sleep(pause)
    return True


def _start(project: Project, files: Files, store: Store) -> None:
    log = files.worker_log
    if log.exists() and log.stat().st_size > logs.LIMIT:
        log.unlink()
    # -P: what lies in the folder of the project must not stand in for a module
    command = [sys.executable, "-P", "-m", "historymap_lib.jobs.guard", str(project.file), str(log)]
    started = subprocess.run(  # noqa: S603 - our own program
        command, cwd=project.paths.root, env=_variables(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False, start_new_session=True,
    )  # fmt: skip
    if started.returncode != 0 or not started.stdout.strip().isdecimal():
        raise JobsError(f"the worker cannot be started: {started.stderr.strip()[-500:]}; the jobs wait")
    guard = Identity.of(int(started.stdout))
    until = time.monotonic() + START
    while not has_worker(files):
        if not store.of(*UNFINISHED, limit=1):
            return  # it was so quick that it has ended again
        if guard is None or not guard.is_alive():
            raise JobsError(f"the worker does not start: {logs.tail(log, 1)}; the jobs wait until it can")
        if time.monotonic() > until:
            raise JobsError(f"the worker does not start within {START:.0f} s; {log} says why, and the jobs wait")
        time.sleep(MOMENT)


def _variables() -> dict[str, str]:
    """Return the environment of the worker: ours, without what is a notebook's own, and with our code in reach."""
    found = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    ours = str(Path(__file__).parents[2])
    paths = [path for path in found.get("PYTHONPATH", "").split(os.pathsep) if path and path != ours]
    return found | {"PYTHONPATH": os.pathsep.join([ours, *paths])}
