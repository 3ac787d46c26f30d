"""What is known of each job, in one SQLite file that any number of processes write and read."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from historymap_lib.database import Database, Kind
from historymap_lib.errors import JobsError, UnavailableError, UnknownError
from historymap_lib.jobs.files import Files
from historymap_lib.jobs.processes import Identity

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection
    from pathlib import Path

VERSION = 1
ACTIVE = ("running", "cancelling")
UNFINISHED = ("pending", *ACTIVE)
ENDED = ("cancelled", "completed", "failed", "crashed")
STATES = (*UNFINISHED, *ENDED)
LARGEST = 2**63 - 1
"""The largest number that SQLite knows."""
SCHEMA = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again, also after pruning
    name TEXT NOT NULL,
    config TEXT NOT NULL,
    case_name TEXT NOT NULL,
    command TEXT NOT NULL,
    folder TEXT NOT NULL,
    parameters TEXT NOT NULL,
    result TEXT,
    after INTEGER,
    token TEXT NOT NULL UNIQUE,
    submitted_by TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending',
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    exit_code INTEGER,
    error TEXT,
    progress TEXT,
    owner_pid INTEGER,
    owner_started REAL,
    owner_boot TEXT,
    leader_pid INTEGER,
    leader_started REAL,
    leader_boot TEXT,
    cancelled_by TEXT
);
CREATE INDEX jobs_state ON jobs (state);
"""


class StoreUnavailableError(JobsError, UnavailableError):
    """The store cannot be written just now: no room on the disk, or another program keeps it."""


class UnknownJobError(JobsError, UnknownError):
    """There is no job of this number."""


class JobStateError(JobsError):
    """A job does not stand so that this can be done with it; or others do, so that it must not be queued."""


KIND = Kind(SCHEMA, VERSION, JobsError, StoreUnavailableError, "store of jobs", "move it away, and a new one is made")


@dataclass(frozen=True)
class Record:
    """One row: a job as it stood when it was read. Times are seconds since the epoch.

    Attributes:
        name: the step, or what a command was called.
        config: the YAML of its case.
        case_name: its root and name; two cases of the same write the same files.
        command: the program and its arguments.
        folder: where it runs.
        parameters: those of the step.
        result: the path that must be there when it has completed.
        after: the job that must have completed before it starts.
        token: what its processes carry in their environment.
        progress: `done`, `total`, `unit`, `message`, as far as known.
        owner: the worker that runs it.
        leader: its first process, which leads its group.

    """

    id: int
    name: str
    config: str
    case_name: str
    command: list[str]
    folder: str
    parameters: dict[str, Any]
    result: str | None
    after: int | None
    token: str
    submitted_by: str
    state: str
    created: float
    started: float | None
    finished: float | None
    exit_code: int | None
    error: str | None
    progress: dict[str, Any]
    owner: Identity | None
    leader: Identity | None
    cancelled_by: str | None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ENDED

    @property
    def seconds(self) -> float | None:
        """How long it has run, or ran."""
        return None if self.started is None else max(0.0, (self.finished or time.time()) - self.started)

    @property
    def duration(self) -> str:
        """The same for people: hours, minutes and seconds."""
        if self.seconds is None:
            return ""
        minutes, seconds = divmod(round(self.seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"  # noqa: PLR2004

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with times as ISO 8601; without the token of its processes.

        A file name that is no UTF-8 may stand in a command, and nowhere else.
        """
        values = asdict(self) | {"duration": self.duration}
        del values["token"]
        for name in ("command", "parameters"):
            values[name] = json.loads(json.dumps(values[name], ensure_ascii=False).encode(errors="replace"))
        for name in ("created", "started", "finished"):
            if values[name] is not None:
                values[name] = datetime.fromtimestamp(values[name]).astimezone().isoformat(timespec="milliseconds")
        return values


class Store:
    """The jobs of a project.

    Raises:
        JobsError: the file cannot be opened, is no store, or was made by a newer version.

    """

    def __init__(self, path: Path) -> None:
        self.path, self._database = path, Database(path, KIND)

    def add(self, rows: list[dict[str, Any]], *, if_idle: bool = False, gone: Collection[int] = ()) -> list[int]:
        """Queue jobs, all or none, and return their numbers; in a row `after` -n means the n-th before it.

        Args:
            rows: their columns.
            if_idle: only if nothing is queued or running,
            gone: but for jobs of these numbers.

        Raises:
            JobStateError: something is.

        """
        numbers: list[int] = []
        with self._database.transaction() as db:
            if if_idle:
                _refuse_busy(db, gone)
            self._count_on(db)
            for row in rows:
                after = row.get("after")
                values = row | {
                    "command": json.dumps(row["command"]),
                    "parameters": json.dumps(row["parameters"]),
                    "after": numbers[after] if after is not None and after < 0 else after,
                    "created": time.time(),
                }
                names = ", ".join(values)
                marks = ", ".join(f":{name}" for name in values)
                cursor = db.execute(f"INSERT INTO jobs ({names}) VALUES ({marks})", values)  # noqa: S608 - our names
                numbers.append(int(cursor.lastrowid or 0))
        return numbers

    def get(self, number: int) -> Record:
        """Return a job.

        Raises:
            UnknownJobError: there is none of this number.

        """
        found = self.find("id = ?", number) if number <= LARGEST else []
        if not found:
            raise UnknownJobError(f"there is no job {number}; the list of jobs shows those there are")
        return found[0]

    def of(self, *states: str, order: str = "id", limit: int = -1) -> list[Record]:
        """Return the jobs in one of the states."""
        return self.find(f"state IN ({_marks(states)})", *states, order=order, limit=limit)

    def find(self, condition: str, *values: Any, order: str = "id", limit: int = -1) -> list[Record]:
        """Return the jobs that meet an SQL condition."""
        query = f"SELECT * FROM jobs WHERE {condition} ORDER BY {order} LIMIT {limit}"  # noqa: S608 - ours
        with self._database.opened() as db:
            return [_record(row) for row in db.execute(query, values)]

    def numbers(self) -> set[int]:
        """Return the numbers of all jobs."""
        with self._database.opened() as db:
            return {number for (number,) in db.execute("SELECT id FROM jobs")}

    def latest(self) -> int:
        """Return the number that was given last, which none is given again; 0 before the first."""
        with self._database.opened() as db:
            row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'jobs'").fetchone()
            return 0 if row is None else int(row[0])

    def counts(self) -> list[tuple[str, str, int, int, float]]:
        """Return name, state, how many there are, how many of them ran and ended, and for how many seconds in all."""
        query = """
            SELECT name, state, count(*), count(finished - started), coalesce(total(finished - started), 0)
            FROM jobs GROUP BY name, state"""
        with self._database.opened() as db:
            return [tuple(row) for row in db.execute(query)]

    def change(self, number: int, *states: str, **values: Any) -> bool:
        """Set columns of a job if it is in one of the states; return whether it was."""
        names = ", ".join(f"{name} = ?" for name in values)
        query = f"UPDATE jobs SET {names} WHERE id = ? AND state IN ({_marks(states)})"  # noqa: S608 - our names
        with self._database.transaction() as db:
            return db.execute(query, (*values.values(), number, *states)).rowcount == 1

    def delete(self, numbers: list[int]) -> None:
        """Forget jobs that have ended."""
        with self._database.transaction() as db:
            query = f"DELETE FROM jobs WHERE id = ? AND state IN ({_marks(ENDED)})"  # noqa: S608
            db.executemany(query, [(number, *ENDED) for number in numbers])

    def _count_on(self, db: sqlite3.Connection) -> None:
        """Begin to count after the logs of a store that is gone, so that none is taken for that of a new job."""
        if db.execute("SELECT 1 FROM sqlite_sequence WHERE name = 'jobs'").fetchone() is None:
            latest = Files(self.path.parent).latest_log()
            db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('jobs', ?)", [latest])


def _refuse_busy(db: sqlite3.Connection, gone: Collection[int]) -> None:
    query = f"SELECT id, name, state FROM jobs WHERE state IN ({_marks(UNFINISHED)}) ORDER BY id"  # noqa: S608
    for number, name, state in db.execute(query, UNFINISHED):
        if number in gone:
            continue
        raise JobStateError(
            f"job {number} ({name}) is {state}, and nothing was queued; wait for it, or queue behind it"
        )


def _record(row: sqlite3.Row) -> Record:
    values = {field.name: row[field.name] for field in fields(Record) if field.name in row.keys()}  # noqa: SIM118
    values["command"], values["parameters"] = json.loads(row["command"]), json.loads(row["parameters"])
    values["progress"] = json.loads(row["progress"] or "{}")
    return Record(**values, owner=_identity(row, "owner"), leader=_identity(row, "leader"))


def columns(role: str, identity: Identity) -> dict[str, Any]:
    """Return the columns that keep who is the `owner` or the `leader` of a job."""
    return {f"{role}_pid": identity.pid, f"{role}_started": identity.started, f"{role}_boot": identity.boot}


def _marks(values: tuple[str, ...]) -> str:
    return ", ".join("?" for _ in values)


def _identity(row: sqlite3.Row, role: str) -> Identity | None:
    pid, started, boot = (row[f"{role}_{part}"] for part in ("pid", "started", "boot"))
    return None if pid is None else Identity(pid, started, boot)
