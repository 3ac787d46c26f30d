"""The one process a project that runs what is queued.

    python -m historymap_lib.jobs.worker CONFIG

Started by `queue.Jobs.wake` by way of `guard`; holds a lock as long as it lives, ends by itself when idle. The job
writes its log itself, so that the worker needs to read nothing, and a job goes on whatever the worker is busy with.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from historymap_lib import artifacts, steps
from historymap_lib.errors import HistorymapError
from historymap_lib.jobs import logs, processes
from historymap_lib.jobs.files import Files
from historymap_lib.jobs.guard import HOPELESS
from historymap_lib.jobs.processes import Identity
from historymap_lib.jobs.queue import POLL
from historymap_lib.jobs.store import ACTIVE, ENDED, Record, Store, StoreUnavailableError, columns
from historymap_lib.progress import PROGRESS
from historymap_lib.project import load

if TYPE_CHECKING:
    from historymap_lib.project import Project

SAID = "historymap: "
"""How the sentence begins with which a command tells a user's error."""
TAIL = 30
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
"""Colours and the like, which do not belong into a sentence."""
CLOCKS = 2.0
"""Seconds by which the clock of a file system may differ."""
LEFT_OVER = 1.0
"""Seconds that children have to end when their parent has."""
NOTIFY = 30.0
"""Seconds that a notification may take."""


@dataclass
class _Running:
    """A job that this worker runs; `deadline` is when it is made to end, once it has been asked to."""

    record: Record
    process: subprocess.Popen[bytes]
    leader: Identity | None
    deadline: float | None = None
    forced: bool = False


class Worker:
    """Runs jobs until there are none."""

    def __init__(self, project: Project) -> None:
        self.settings = project.jobs
        self.files = Files(project.paths.jobs)
        self.store = Store(self.files.store)
        self.lock = FileLock(self.files.lock)
        self.running: dict[int, _Running] = {}
        self.identity = Identity.of()

    def run(self) -> None:
        """Run what is queued, until nothing has been for `jobs.idle` seconds; at once if another worker lives."""
        try:
            self.lock.acquire(timeout=5)  # whoever looks whether a worker lives holds it for a moment
            _patiently(self.recover)
            while True:
                self._serve()
                self.lock.release()
                # a job queued before the lock was free counts on this worker
                if not self.store.of("pending", limit=1):
                    return
                self.lock.acquire(timeout=1)
        except Timeout:
            return
        except BaseException:
            # nobody would look after them any more
            for running in self.running.values():
                processes.kill(running.record.token, running.leader)
            raise

    def recover(self) -> None:
        """Mark as crashed what runs without an owner, and end what is left of it."""
        for record in self.store.of(*ACTIVE):
            if record.owner is not None and record.owner.is_alive():
                continue
            processes.end(record.token, self.settings.grace, record.leader)
            if record.state == "cancelling":
                self._close(record, "cancelled", f"cancelled by {record.cancelled_by}; its worker had ended")
            elif record.owner is not None and record.owner.boot != processes.boot():
                self._close(record, "crashed", "the machine was started anew while it ran; retry it")
            else:
                who = f"process {record.owner.pid}" if record.owner else "process"
                said = f"its worker ({who}) was ended while it ran, by somebody or for want of memory; retry it"
                self._close(record, "crashed", said)

    def _serve(self) -> None:
        idle = time.monotonic()
        while time.monotonic() - idle < self.settings.idle:
            if _patiently(self._turn):
                idle = time.monotonic()
            self._pause()

    def _pause(self) -> None:
        """Wait a little, but no longer than the oldest job runs."""
        for running in self.running.values():
            with suppress(subprocess.TimeoutExpired):
                running.process.wait(POLL)
            return
        time.sleep(POLL / 2)

    def _turn(self) -> bool:
        """Look after all jobs once, and return whether there is anything to do."""
        for running in list(self.running.values()):
            self._watch(running)
        waiting = self.store.of("pending")
        before = [running.record for running in self.running.values()]
        for record in waiting:
            if len(self.running) >= self.settings.max_concurrent:
                break
            if self._is_due(record, before):
                self._start(record)
            before.append(record)
        return bool(self.running or waiting)

    def _is_due(self, record: Record, others: list[Record]) -> bool:
        """Return whether a waiting job can start now, beside those that run and ahead of none that it would overtake.

        One whose predecessor has not completed is cancelled.
        """
        if record.after is not None:
            found = self.store.find("id = ?", record.after)
            if found and not found[0].ended:
                return False
            if not found or found[0].state != "completed":
                what = f"job {record.after} ({found[0].name}) {found[0].state}" if found else "it is forgotten"
                said = f"not started, since what it builds on did not complete: {what}"
                self.store.change(record.id, "pending", state="cancelled", finished=time.time(), error=said)
                return False
        same = [other.name for other in others if other.case_name == record.case_name]
        return not any(steps.clash(record.name, name) for name in same)

    def _start(self, record: Record) -> None:
        owner = self.identity
        assert owner is not None  # noqa: S101 - this process lives
        if not self.store.change(record.id, "pending", state="running", started=time.time(), **columns("owner", owner)):
            return  # cancelled meanwhile
        log = self.files.log(record.id)
        variables = os.environ | {
            processes.TOKEN: record.token,
            PROGRESS: str(self.files.progress(record.id)),
            "PYTHONIOENCODING": "utf-8",
            "MPLBACKEND": "agg",
        }
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            self.files.progress(record.id).unlink(missing_ok=True)  # of a store that is gone
            with log.open("wb") as file:
                process = subprocess.Popen(  # noqa: S603 - a list, never through a shell
                    record.command, cwd=record.folder, env=variables, stdin=subprocess.DEVNULL, stdout=file,
                    stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
        except (OSError, ValueError) as error:
            told = f"{error.filename or log}: {error.strerror}" if isinstance(error, OSError) else str(error)
            _patiently(lambda: self._close(record, "failed", f"it cannot be started: {told}"))
            return
        leader = Identity.of(process.pid)
        self.running[record.id] = _Running(record, process, leader)
        if leader is not None:
            _patiently(lambda: self.store.change(record.id, *ACTIVE, **columns("leader", leader)))

    def _watch(self, running: _Running) -> None:
        """Close a job that has ended, and see that one ends that is cancelled."""
        record, code = running.record, running.process.poll()
        if code is not None:
            processes.end(record.token, min(self.settings.grace, LEFT_OVER))
            state, said = self._outcome(running, code)
            self._close(record, state, said, code)
            del self.running[record.id]
        elif running.deadline is None:
            if self.store.get(record.id).state == "cancelling":
                running.deadline = time.monotonic() + self.settings.grace
                processes.ask(record.token, running.leader)
        elif time.monotonic() > running.deadline:
            running.forced = processes.kill(record.token, running.leader)

    def _outcome(self, running: _Running, code: int) -> tuple[str, str | None]:
        """Return the state of a job that has ended, and what is to be said of it."""
        record = self.store.get(running.record.id)
        well = code == 0 and (record.result is None or self._is_made(record))
        if record.state == "cancelling":
            if well and not running.forced and (record.result is not None or running.deadline is None):
                return "completed", "it had completed before it could be cancelled"
            how = f"; it did not end within {self.settings.grace:g} s and was killed" if running.forced else ""
            return "cancelled", f"cancelled by {record.cancelled_by}{how}"
        if well:
            return "completed", None
        if code == 0:
            return "failed", f"it ended well, but {record.result} is not there; see its log, and run it again"
        return "failed", self._why(record, code)

    @staticmethod
    def _is_made(record: Record) -> bool:
        """Return whether the result is there: of a step, which skips what is up to date, or made by this job."""
        try:
            changed = Path(record.result or "").lstat().st_mtime
        except OSError:
            return False
        return record.name in steps.STEPS or changed >= (record.started or 0) - CLOCKS

    def _why(self, record: Record, code: int) -> str:
        """Return a sentence on why a job has failed: its own, if it said one."""
        if code < 0:
            name = processes.signal_name(-code)
            hint = "; often for want of memory" if name == "SIGKILL" else ""
            return f"it was ended by {name}{hint}; see its log, and retry it"
        lines = [line for line in logs.tail(self.files.log(record.id), TAIL).split("\n") if line.strip()]
        told = [line.removeprefix(SAID) for line in lines if line.startswith(SAID)]
        if told:
            return ESCAPE.sub("", told[-1])
        free = shutil.disk_usage(self.files.folder).free
        full = f"; the disk has {free // 1024} KiB left, make room" if free < logs.LIMIT else ""
        last = f": {ESCAPE.sub('', lines[-1][:500])}" if lines else ""
        return f"it ended with exit code {code}{last}{full}; its log says more"

    def _close(self, record: Record, state: str, said: str | None, code: int | None = None) -> None:
        """Note how a job has ended, tell whoever wants to know, and forget the oldest."""
        progress = self.files.progress(record.id)
        last = artifacts.read_json(progress)
        values: dict[str, Any] = {"state": state, "error": said, "exit_code": code, "finished": time.time()}
        if isinstance(last, dict):
            values["progress"] = json.dumps(last)
        self.store.change(record.id, *ACTIVE, **values)
        for left in progress.parent.glob(f"{progress.name}*"):
            left.unlink(missing_ok=True)
        if self.settings.notify:
            threading.Thread(target=self._notify, args=(record, state, said)).start()
        self._prune()

    def _notify(self, record: Record, state: str, said: str | None) -> None:
        """Run the user's command; whatever becomes of it goes to the worker's log and nowhere else."""
        words = {"id": str(record.id), "name": record.name, "state": state, "case": record.config, "error": said or ""}
        command = list(self.settings.notify)
        for word, value in words.items():
            command = [part.replace(f"{{{word}}}", value) for part in command]
        try:
            done = subprocess.run(  # noqa: S603 - the command of the settings' owner
                command, cwd=record.folder, stdin=subprocess.DEVNULL, timeout=NOTIFY, check=False
            )
            if done.returncode != 0:
                print(f"notification of job {record.id}: exit code {done.returncode}", flush=True)
        except Exception as error:  # noqa: BLE001 - the job must not suffer
            print(f"notification of job {record.id}: {error!r}", flush=True)

    def _prune(self) -> None:
        """Forget the oldest ended jobs beyond `jobs.keep`, with their logs, but none that another waits for."""
        wanted = {record.after for record in self.store.of("pending")}
        ended = self.store.of(*ENDED, order="finished DESC, id DESC")
        old = [record for record in ended[self.settings.keep :] if record.id not in wanted]
        if old:
            self.store.delete([record.id for record in old])
            for record in old:
                self.files.log(record.id).unlink(missing_ok=True)


def _patiently(action: Any) -> Any:
    """Do something with the store; while it cannot be written, wait and try again: nothing may be forgotten."""
    while True:
        try:
            return action()
        except StoreUnavailableError as error:
            with suppress(OSError):  # the log may lie on the same full disk
                print(error, flush=True)
        time.sleep(1)


def main() -> int:
    """Run a worker for the case of the YAML."""
    try:
        project = load(sys.argv[1])
        _patiently(lambda: Worker(project)).run()
    except KeyboardInterrupt:
        return 0
    except HistorymapError as error:
        print(error, flush=True)
        return HOPELESS
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
