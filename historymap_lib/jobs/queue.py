"""The door to background jobs: submit, look, follow, cancel.

    jobs = Jobs(load("ml/config_sample.yaml"))
    job = jobs.submit("train", epochs=5)
    for update in job.follow():
        print(update.text, end="")

Everything is read from the store and the logs, so any other process sees the same. A worker is started by whoever
finds that there is something to do and nobody who does it.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import secrets
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from historymap_lib import steps
from historymap_lib.errors import JobsError
from historymap_lib.jobs import logs, waking
from historymap_lib.jobs.files import Files
from historymap_lib.jobs.store import ACTIVE, JobStateError, Record, Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from historymap_lib.project import Project

POLL = 0.2
"""Seconds between two looks at the store or a log."""
LOOK = 2.0
"""Seconds between two looks whether the worker still lives."""


class NotStartedError(JobsError):
    """Jobs are queued (`jobs`), but there is no worker, and none starts."""

    def __init__(self, message: str, jobs: list[Job]) -> None:
        super().__init__(message)
        self.jobs = jobs


@dataclass(frozen=True)
class Update:
    """What is new of a job that is followed: finished lines, the line being written, and how it stands."""

    text: str
    live: str
    offset: int
    record: Record


class Jobs:
    """The background jobs of a project, and of all cases that share its `paths.jobs`.

    Args:
        project: the case.
        who: says of a job who submitted or cancelled it; without it the user of this process.

    Raises:
        JobsError: the store cannot be opened.

    """

    def __init__(self, project: Project, who: str | None = None) -> None:
        self.project, self.who = project, who or _who()
        self.files = Files(project.paths.jobs)
        self.store = Store(self.files.store)

    def submit(self, step: str, *, force: bool = False, **parameters: Any) -> Job:
        """Queue a step and return at once; `force` runs it even if what it makes is up to date.

        Raises:
            StepError: no such step or parameter, or what it needs is missing and no job is about to make it.
            JobsError: it cannot be stored.
            NotStartedError: it is queued, but no worker starts.

        """
        return self.submit_all([(step, parameters)], force=force)[0]

    def submit_all(
        self, chain: Sequence[str | tuple[str, dict[str, Any]]], *, force: bool = False, if_idle: bool = False
    ) -> list[Job]:
        """Queue steps one after the other; where one does not complete, those after it are cancelled and say why.

        Raises:
            StepError, JobsError: as with `submit`; then none is queued.
            NotStartedError: as with `submit`.
            JobStateError: they are wanted only if nothing is queued or running (`if_idle`), and something is.

        """
        wanted = [(item, {}) if isinstance(item, str) else item for item in chain]
        wanted = [(name, steps.absolute(name, parameters)) for name, parameters in wanted]
        coming = self.coming()
        rows: list[dict[str, Any]] = []
        for name, parameters in wanted:
            step = steps.check(self.project, name, parameters, coming=coming)
            coming += [name] if "output" not in parameters else []
            arguments = steps.arguments(step, parameters) + (["--force"] if force else [])
            command = [sys.executable, "-P", "-m", "historymap_lib.cli", "run", name, "--config", self._config]
            made = Path(parameters.get("output") or step.makes(self.project))
            row = self._row(name, [*command, *arguments], parameters | ({"force": True} if force else {}), made)
            rows.append(row | {"after": -1 if rows else None})
        return self._add(rows, if_idle=if_idle)

    def submit_command(self, name: str, command: Sequence[str | Path], *, result: Path | None = None) -> Job:
        """Queue any program with its arguments; it has completed if it ends with 0 and has made `result`, if given.

        Raises:
            JobsError: there is no program, or as with `submit`.

        """
        words = [str(part) for part in command]
        if not words or any("\0" in word for word in words):
            raise JobsError(f"{words!r} is no command; give a program and its arguments")
        return self._add([self._row(name, words, {}, result.absolute() if result is not None else None)])[0]

    def coming(self) -> list[str]:
        """Return the steps of this case that are queued or running, and will have made what they make by default."""
        return [record.name for record in self.unfinished() if "output" not in record.parameters]

    def unfinished(self) -> list[Record]:
        """Return the jobs of this case that are queued or running."""
        return self.store.find("case_name = ? AND state IN ('pending', 'running')", self._case)

    def get(self, number: int) -> Job:
        """Return a job by its number.

        Raises:
            UnknownJobError: there is none.

        """
        self.store.get(number)
        return Job(self, number)

    def current(self) -> Job | None:
        """Return the job that is running, the oldest where there are several."""
        found = [self.files.told(record) for record in self.store.of(*ACTIVE)]
        return next((Job(self, record.id) for record in found if not record.ended), None)

    def recent(self, count: int = 10) -> list[Record]:
        """Return the latest jobs, the newest first, with their progress."""
        return [self.files.told(record) for record in self.store.find("1", order="id DESC", limit=count)]

    def waiting(self) -> list[Record]:
        """Return the jobs that are queued, the next one first."""
        return self.store.of("pending")

    def wake(self) -> None:
        """Start a worker if there is something to do and none lives.

        Raises:
            JobsError: it does not come up.

        """
        waking.wake(self.project, self.files, self.store)

    def has_worker(self) -> bool:
        """Return whether a worker lives."""
        return waking.has_worker(self.files)

    def _row(self, name: str, command: list[str], parameters: dict[str, Any], result: Path | None) -> dict[str, Any]:
        return {
            "name": name,
            "config": self._config,
            "case_name": self._case,
            "command": command,
            "folder": str(self.project.paths.root),
            "parameters": parameters,
            "result": str(result) if result is not None else None,
            "after": None,
            "token": secrets.token_hex(16),
            "submitted_by": self.who,
        }

    def _add(self, rows: list[dict[str, Any]], *, if_idle: bool = False) -> list[Job]:
        gone = [record.id for record in self.store.of(*ACTIVE) if self.files.told(record).ended] if if_idle else ()
        added = [Job(self, number) for number in self.store.add(rows, if_idle=if_idle, gone=gone)]
        try:
            self.wake()
        except JobsError as error:
            said = f"job {', '.join(str(job.id) for job in added)} is queued, but {error}"
            raise NotStartedError(said, added) from error
        return added

    @property
    def _config(self) -> str:
        return str(self.project.file)

    @property
    def _case(self) -> str:
        return f"{self.project.paths.root}/{self.project.name}"


@dataclass(frozen=True)
class Job:
    """A job: its number, and what can be done with it."""

    jobs: Jobs
    id: int

    @property
    def record(self) -> Record:
        """How it stands now, with its progress."""
        return self.jobs.files.told(self.jobs.store.get(self.id))

    @property
    def state(self) -> str:
        """Its state now."""
        return self.record.state

    @property
    def log_path(self) -> Path:
        """The file with all that it printed, byte for byte."""
        return self.jobs.files.log(self.id)

    def log(self) -> str:
        """Return all that it has printed so far, with bars as they last showed."""
        return "".join(self.pieces())

    def pieces(self) -> Iterator[str]:
        """Yield the same in pieces of about a megabyte."""
        offset = 0
        while True:
            chunk = logs.read(self.log_path, offset)
            yield chunk.text
            if chunk.offset == offset:
                yield chunk.live
                return
            offset = chunk.offset

    def follow(self, offset: int = 0) -> Follow:
        """Return what it prints from a byte on, until it ends: for `for`, and for `async for`."""
        return Follow(self, offset)

    def wait(self, timeout: float | None = None) -> Record:
        """Wait until it has ended and return how.

        Raises:
            TimeoutError: it has not ended after `timeout` seconds.

        """
        until = None if timeout is None else time.monotonic() + timeout
        look = 0.0
        while not (record := self.jobs.store.get(self.id)).ended:
            if until is not None and time.monotonic() > until:
                raise TimeoutError(f"job {self.id} ({record.name}) is still {record.state} after {timeout:g} s")
            if time.monotonic() > look:
                self.jobs.wake()
                look = time.monotonic() + LOOK
            time.sleep(POLL)
        return record

    def cancel(self) -> Record:
        """Take it out of the queue, or ask it to end; that takes up to `jobs.grace` seconds, and `wait` waits for it.

        Raises:
            JobStateError: it has ended already.

        """
        store, who = self.jobs.store, self.jobs.who
        said = f"cancelled by {who} before it started"
        if not store.change(self.id, "pending", state="cancelled", finished=time.time(), error=said):
            if not store.change(self.id, "running", "cancelling", state="cancelling", cancelled_by=who):
                record = store.get(self.id)
                said = f"job {self.id} ({record.name}) is {record.state} already; there is nothing to cancel"
                raise JobStateError(said)
            self.jobs.wake()
        return self.record

    def retry(self) -> Job:
        """Queue the same again, as a new job.

        Raises:
            JobStateError: it has not ended yet.
            StepError: what it needs is no longer there.

        """
        record = self.record  # as crashed where its worker is gone: the next one tidies up before it runs this
        if not record.ended:
            said = f"job {self.id} ({record.name}) is {record.state}; it can be retried when it has ended"
            raise JobStateError(said)
        if record.name in steps.STEPS and record.config == str(self.jobs.project.file):
            parameters = dict(record.parameters)
            return self.jobs.submit(record.name, force=parameters.pop("force", False), **parameters)
        row = {
            key: getattr(record, key)
            for key in ("name", "config", "case_name", "command", "folder", "parameters", "result")
        }
        return self.jobs._add([row | {"token": secrets.token_hex(16), "submitted_by": self.jobs.who}])[0]  # noqa: SLF001


@dataclass(frozen=True)
class Follow:
    """The updates of a job from a byte of its log on, until it has ended and all is read."""

    job: Job
    offset: int

    def __iter__(self) -> Iterator[Update]:
        for update in self._updates():
            if update is None:
                time.sleep(POLL)
            else:
                yield update

    async def __aiter__(self) -> AsyncIterator[Update]:
        updates = self._updates()
        while (update := await asyncio.to_thread(next, updates, self)) is not self:
            if not isinstance(update, Update):
                await asyncio.sleep(POLL)
            else:
                yield update

    def _updates(self) -> Iterator[Update | None]:
        """Yield what is new, and None where there is nothing yet."""
        jobs, offset, before, look = self.job.jobs, self.offset, None, 0.0
        while True:
            stored = jobs.store.get(self.job.id)  # before the log, so that of an ended job all is read
            chunk = logs.read(self.job.log_path, offset)
            moved, offset = chunk.offset != offset, chunk.offset
            update = Update(chunk.text, chunk.live, offset, jobs.files.told(stored))
            if moved or update != before:
                before = update
                yield update
            if not moved:
                if stored.ended:
                    return
                if time.monotonic() > look:
                    jobs.wake()
                    look = time.monotonic() + LOOK
                yield None


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
