"""Starts the worker away from whoever asked for it, and again where it is killed.

    python -m historymap_lib.jobs.guard CONFIG LOG

Prints the number of its process and returns at once. Nothing heavy is imported here: the guard only waits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

HOPELESS = 3
"""The exit code of a worker that cannot run, whatever happens; its log says why."""
LONGEST = 30.0
"""Seconds between two starts at most."""
STEADY = 60.0
"""A worker that has lived for so many seconds is started again at once."""
TIMES = 20
"""So many short lives one after the other, some eight minutes, and the guard gives up."""


def main() -> int:
    """Leave the session and the parent behind, and guard a worker."""
    config, log = sys.argv[1:]
    child = os.fork()
    if child > 0:
        print(child)  # noqa: T201 - for whoever starts the guard
        return 0
    os.setsid()
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    guard([sys.executable, "-P", "-m", "historymap_lib.jobs.worker", config])
    return 0


def guard(command: list[str]) -> None:
    """Run a command until it ends by itself, with growing pauses where it dies young."""
    young = 0
    while young < TIMES:
        began = time.monotonic()
        code = subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode  # noqa: S603 - our own
        if code in (0, HOPELESS):
            return
        young = 0 if time.monotonic() - began > STEADY else young + 1
        time.sleep(min(0.1 * 2**young, LONGEST) if young > 1 else 0)


if __name__ == "__main__":
    raise SystemExit(main())
