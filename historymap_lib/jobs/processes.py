"""Telling processes apart, and ending them with all their children.

The number of a process is used again, after a reboot soonest; a process is known by its number, the time it started and
the boot it belongs to. What a job started is known by a token in its environment, which children inherit: so they are
found also when they have left their group, or when their parent is gone. Where a program throws its environment away,
the group of the job's first process remains.
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


def ask(token: str, leader: Identity | None = None) -> None:
    """Ask a job to end, so that it may tidy up: the group of its first process, and all others that carry its token.

    Each is asked once: a second signal would cut short a Python that is already on its way out, since the interpreter
    takes its handlers down before it ends.
    """
    group = leader.pid if leader is not None and leader.is_alive() else None
    others = [process for process in carriers(token) if group is None or _group(process) != group]
    _signal_group(leader, signal.SIGTERM)
    for process in others:
        with suppress(psutil.Error):
            process.terminate()


def kill(token: str, leader: Identity | None = None, patience: float = 5.0) -> bool:
    """Make all of a job end, and return whether there was anything left of it.

    Its parent is to be waited for by whoever started it, not here. What does not even end when killed, since it waits
    for a broken disk, is left after `patience` seconds.
    """
    found = _signal_group(leader, signal.SIGKILL)
    until = time.monotonic() + patience
    while (left := carriers(token)) and time.monotonic() < until:  # again: one may have started another meanwhile
        found = True
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(POLL)
    return found


def end(token: str, grace: float, leader: Identity | None = None) -> bool:
    """Ask, wait for `grace` seconds, then make it end; return whether that was needed."""
    ask(token, leader)
    until = time.monotonic() + grace
    while carriers(token) or (leader is not None and leader.is_alive()):
        if time.monotonic() >= until:
            return kill(token, leader)
        time.sleep(POLL)
    return False


def _signal_group(leader: Identity | None, number: signal.Signals) -> bool:
    """Send a signal to the group of a process, if it is still that process that leads it."""
    if leader is None or not leader.is_alive():
        return False
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader.pid, number)
    return True


def _group(process: psutil.Process) -> int | None:
    """Return the group of a process, or None where it is gone."""
    try:
        return os.getpgid(process.pid)
    except (ProcessLookupError, PermissionError):
        return None


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
