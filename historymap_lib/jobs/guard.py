"""Starts the worker away from whoever asked for it, and again where it is killed.

    python -m historymap_lib.jobs.guard CONFIG

Returns at once. Nothing heavy is imported here: the guard only waits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

TIMES, SECONDS = 5, 60.0
"""A worker that dies so often in so many seconds is given up: something else is wrong, and its log says what."""


def main() -> int:
    """Leave the session and the parent behind, and guard a worker."""
    if os.fork() > 0:
        return 0
    os.setsid()
    guard([sys.executable, "-m", "historymap_lib.jobs.worker", *sys.argv[1:]])
    return 0


def guard(command: list[str]) -> None:
    """Run a command until it ends by itself."""
    deaths: list[float] = []
    while subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode != 0:  # noqa: S603 - our own
        now = time.monotonic()
        deaths = [*(death for death in deaths if now - death < SECONDS), now]
        if len(deaths) >= TIMES:
            return


if __name__ == "__main__":
    raise SystemExit(main())
