"""Telling processes apart, and ending them with all their children.

The number of a process is used again, after a reboot soonest; a process is known by its number, the time it started and
the boot it belongs to. What a job started is known by a token in its environment, which children inherit: so they are
found also when they have left their group, or when their parent is gone.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

TOKEN = "HISTORYMAP_JOB"  # noqa: S105 - the name of a variable
BOOT = Path("/proc/sys/kernel/random/boot_id")
POLL = 0.05
"""Seconds between two looks at processes that are to end."""


@dataclass(frozen=True)
class Identity:
    """A process: its number, when it started (seconds since the epoch, or ticks; only compared), and its boot."""

    pid: int
    started: float
    boot: str

    @classmethod
    def of(cls, pid: int | None = None) -> Self | None:
        """Return the identity of a living process, by default this one, or None."""
        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else cls(process.pid, _started(process), boot())
        except psutil.Error:
            return None

    def is_alive(self) -> bool:
        """Return whether it is still this very process that has the number."""
        return self.boot == boot() and Identity.of(self.pid) == self


def boot() -> str:
    """Return what is different after each start of the machine."""
    with suppress(OSError):
        return BOOT.read_text(encoding="ascii").strip()
    return str(round(psutil.boot_time()))


def ask(token: str) -> None:
    """Ask all processes that carry the token to end, so that each may tidy up."""
    for process in carriers(token):
        with suppress(psutil.Error):
            process.terminate()


def kill(token: str) -> bool:
    """Make all processes that carry the token end, and return whether there were any."""
    left = found = carriers(token)
    while left:  # again, since one may have started another meanwhile
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1)
        left = carriers(token)
    return bool(found)


def end(token: str, grace: float) -> bool:
    """Ask them, wait for `grace` seconds, then make them; return whether one had to be made."""
    ask(token)
    until = time.monotonic() + grace
    while carriers(token):
        if time.monotonic() >= until:
            return kill(token)
        time.sleep(POLL)
    return False


def carriers(token: str) -> list[psutil.Process]:
    """Return the living processes of ours that carry the token."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            living = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if living and process.environ().get(TOKEN) == token:
                found.append(process)
    return found


def signal_name(number: int) -> str:
    """Return what a signal is called, such as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _started(process: psutil.Process) -> float:
    """Return when it started; on Linux in ticks since the boot, which no change of the clock moves."""
    try:
        text = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
        return float(text.rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return process.create_time()
