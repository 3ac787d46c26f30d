"""The job that runs, the queue, and the last that have ended, each with what can be done about it."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from historymap_lib.jobs import logs
from historymap_lib.jobs.store import ACTIVE, UNFINISHED
from historymap_lib.widgets.log_view import plain
from historymap_lib.widgets.panel import Panel

if TYPE_CHECKING:
    from historymap_lib.jobs import Job, Jobs
    from historymap_lib.jobs.store import Record
    from historymap_lib.widgets.case import Case
    from historymap_lib.widgets.log_view import LogView

ENDED = 10
"""How many ended jobs are shown."""
TAIL = 4
"""Lines of the log that are shown of a failed one."""
NUMBERS = ("done", "total", "first", "began")
"""What of the progress of a job is a number; the rest is text."""
WAKE = 2.0
"""Seconds between two looks whether a worker lives."""


class JobPanel(Panel):
    """The jobs of the project; the log of the latest is shown beside, or of the one that the person chose.

    With `only` it is the panel of a single job.
    """

    template = "jobs.html"
    every = 0.5

    def __init__(self, case: Case, log: LogView, only: Job | None = None) -> None:
        self._case, self._log, self._only = case, log, only
        self._latest = 0
        self._woken = 0.0
        super().__init__()

    def facts(self) -> dict[str, Any]:
        """Return what the template shows."""
        jobs = self._case.jobs
        records = [self._only.record] if self._only is not None else _records(jobs)
        active = [record for record in records if record.state in ACTIVE and not record.ended]
        waiting = [record for record in reversed(records) if record.state == "pending"]
        ended = [record for record in records if record.ended][:ENDED]
        self._follow_latest(jobs, records)
        if active or waiting:
            self._wake(jobs)
        return {
            "active": [_shown(record) | {"share": _share(record), "how": how(record)} for record in active],
            "waiting": [_shown(record) for record in waiting],
            "ended": [self._ended(jobs, record) for record in ended],
            "chosen": self._log.job.id if self._log.job else 0,
            "announced": _announced(active, ended),
        }

    def _ended(self, jobs: Jobs, record: Record) -> dict[str, Any]:
        """Return what is shown of an ended job: of one that came to grief why, and the last that it printed else."""
        error, shown = record.error or "", _shown(record)
        if record.state not in ("failed", "crashed"):
            return shown | {"tail": ""}
        lines = plain(logs.tail(jobs.get(record.id).log_path, TAIL, limit=1 << 13)).splitlines()
        tail = "\n".join(line for line in lines if not line.endswith(error))
        return shown | {"tail": self._case.short(tail), "error": self._case.short(error)}

    def act(self, action: str, content: dict[str, Any]) -> None:
        """Cancel a job, run it again, or show its log."""
        job = self._case.jobs.get(int(content.get("job", 0)))
        if action == "cancel":
            job.cancel()
        elif action == "retry":
            again = job.retry()
            self._only = again if self._only is not None else None
        elif action == "show":
            self._log.look_at(job)
        self._case.look_again()

    def _follow_latest(self, jobs: Jobs, records: list[Record]) -> None:
        """Let the log follow what has started since, so that the person sees what they have just begun."""
        latest = max((record.id for record in records if record.started is not None), default=0)
        if latest > self._latest:
            self._latest = latest
            self._log.look_at(jobs.get(latest))
            self._case.look_again()

    def _wake(self, jobs: Jobs) -> None:
        """See that somebody does what is queued, also after the machine was started anew."""
        if time.monotonic() > self._woken + WAKE:
            self._woken = time.monotonic()
            jobs.wake()


def _records(jobs: Jobs) -> list[Record]:
    """Return the latest jobs, and all that have not ended, the newest first."""
    unfinished = [jobs.files.told(record) for record in jobs.store.of(*UNFINISHED)]
    found = {record.id: record for record in [*unfinished, *jobs.recent(10 * ENDED)]}
    return [found[number] for number in sorted(found, reverse=True)]


def how(record: Record) -> str:
    """Return how far a job is: what it does, how much of it, how fast, and how long it will take."""
    progress = _progress(record)
    done, total, unit = progress.get("done"), progress.get("total"), progress.get("unit", "")
    if done is None:
        return ""
    parts = [f"{progress.get('what', '')}: {done:,}{f' of {total:,}' if total else ''} {unit}"]
    passed = time.time() - progress.get("began", time.time())
    rate = (done - progress.get("first", 0)) / passed if passed > 0 else 0
    if rate > 0:
        parts.append(f"{rate:.1f} {unit}/s" if rate >= 1 else f"{1 / rate:.1f} s/{unit}")
        if total:
            parts.append(f"{tqdm.format_interval((total - done) / rate)} left")
    return ", ".join([*parts, *([progress["message"]] if progress.get("message") else [])])


def _shown(record: Record) -> dict[str, Any]:
    values = ("id", "name", "state", "duration", "error")
    return {name: getattr(record, name) for name in values}


def _progress(record: Record) -> dict[str, Any]:
    """Return what a job says of its progress, as far as it can be: any program may have written it."""
    return {
        key: value
        for key, value in record.progress.items()
        if (isinstance(value, (int, float)) and math.isfinite(value) if key in NUMBERS else isinstance(value, str))
    }


def _share(record: Record) -> float | None:
    progress = _progress(record)
    done, total = progress.get("done"), progress.get("total")
    return round(min(1.0, done / total), 4) if done is not None and total else None


def _announced(active: list[Record], ended: list[Record]) -> str:
    """Return what a screen reader says when it changes."""
    if active:
        return f"job {active[0].id}, {active[0].name}, is {active[0].state}"
    return f"job {ended[0].id}, {ended[0].name}, {ended[0].state}" if ended else ""
