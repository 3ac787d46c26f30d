"""One SQLite file that any number of processes write and read, and errors that say what to do.

Every operation opens the file, does one short transaction and closes it again: no lock is held, so nothing is lost with
a process, and threads and forks need no care. Writers wait for each other; with the write-ahead log readers wait for
nobody.
"""

from __future__ import annotations

import sqlite3
import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from historymap_lib.errors import HistorymapError

PATIENCE = 60.0
"""Seconds to wait for another writer."""
LOG = 1 << 22
"""Bytes of the write-ahead log of a durable file from which on it is emptied when the file is opened."""
NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "davfs", "fuse.davfs", "fuse.glusterfs", "fuse.rclone", "fuse.sshfs",
    "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb2", "smb3", "smbfs",
}  # fmt: skip
"""File systems of other machines, on which the write-ahead log does not work: it needs shared memory
(https://sqlite.org/wal.html)."""


@dataclass(frozen=True)
class Kind:
    """What a file is for.

    Attributes:
        schema: the SQL that makes it.
        version: of the schema; a file of a newer one is refused.
        error: raised where the file cannot be used.
        unavailable: raised where it cannot be used just now: no room, or somebody else keeps it.
        what: what it is called in messages.
        keep: what to do with a file that is none, in a message.
        durable: whether a change must survive a power cut.

    """

    schema: str
    version: int
    error: type[HistorymapError]
    unavailable: type[HistorymapError]
    what: str
    keep: str
    durable: bool = False


class Database:
    """A file of some kind, made where there is none."""

    def __init__(self, path: Path, kind: Kind) -> None:
        self.path, self._kind = path, kind
        self._keeper: sqlite3.Connection | None = None
        self._prepare()
        self._keep_log()
        if kind.durable and self._log_size() > LOG:
            self.checkpoint()

    @contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection for reading."""
        try:
            db = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        except sqlite3.Error as error:
            raise self._told(error) from error
        try:
            db.row_factory = sqlite3.Row
            if self._kind.durable:
                db.execute("PRAGMA synchronous = FULL")
                db.execute("PRAGMA wal_autocheckpoint = 0")
            yield db
        except sqlite3.Error as error:
            raise self._told(error) from error
        finally:
            db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection that holds the right to write, so that what is read stays true until it is written."""
        with self.opened() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def checkpoint(self) -> None:
        """Move what the write-ahead log holds into the file itself, so that the file alone is all there is.

        The one moment in which a copy of a durable file could be torn, so it is rare.
        """
        with self.opened() as db:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _log_size(self) -> int:
        log = self.path.with_name(f"{self.path.name}-wal")
        return log.stat().st_size if log.exists() else 0

    def _keep_log(self) -> None:
        """Keep SQLite from changing a durable file itself whenever it likes: a copy taken meanwhile shall open.

        The last connection that closes moves the log into the file, in place. One that may only read cannot, so it
        is opened before any other closes, and stays open until the end. It takes part in the log once it has read.
        """
        if not self._kind.durable:
            return
        try:
            if self._keeper is None:
                place = f"{self.path.resolve().as_uri()}?mode=ro"
                self._keeper = sqlite3.connect(place, uri=True, check_same_thread=False)
                weakref.finalize(self, self._keeper.close)
            self._keeper.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            raise self._told(error) from error

    def _prepare(self) -> None:
        """Make the tables, unless they are there; one process at a time, since the log is switched on by locking."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and self._version() == self._kind.version:
                return
            with FileLock(self.path.with_suffix(".lock"), timeout=PATIENCE):
                self._make()
        except Timeout as error:
            said = f"{self.path}: another program has locked it; end that, and try again"
            raise self._kind.unavailable(said) from error
        except OSError as error:
            said = f"{self.path}: {error.strerror}; give access or make room, and try again"
            raise self._kind.error(said) from error

    def _version(self) -> int:
        if self.path.exists():  # what closes here may be the last, for whoever made the file may have ended
            self._keep_log()
        with self.opened() as db:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version > self._kind.version:
            raise self._kind.error(f"{self.path}: was made by a newer historymap; update this one")
        return version

    def _make(self) -> None:
        kind = self._kind
        if self._version() == kind.version:
            return
        with self.opened() as db:
            db.execute(f"PRAGMA journal_mode = {'DELETE' if is_remote(self.path) else 'WAL'}")
            db.executescript(f"BEGIN IMMEDIATE; {kind.schema} PRAGMA user_version = {kind.version}; COMMIT;")
            self._keep_log()

    def _told(self, error: sqlite3.Error) -> HistorymapError:
        code, text, kind = getattr(error, "sqlite_errorname", ""), str(error), self._kind
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            said = f"{self.path}: another program has kept it for {PATIENCE:.0f} s; end that, and try again"
            return kind.unavailable(said)
        if code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            return kind.unavailable(f"{self.path}: cannot be written ({text}); make room on the disk, and try again")
        if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            return kind.error(f"{self.path}: is no {kind.what} ({text}); {kind.keep}")
        if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
            return kind.error(f"{self.path}: {text}; it belongs to somebody else, ask for access to it")
        return kind.error(f"{self.path}: {text}; {kind.keep}")


def is_remote(path: Path) -> bool:
    """Return whether a path lies on a drive of another machine, as far as the system tells."""
    place = path.resolve()
    mounts = {disk.mountpoint: disk.fstype for disk in psutil.disk_partitions(all=True)}
    within = [folder for folder in map(str, [place, *place.parents]) if folder in mounts]
    return bool(within) and mounts[within[0]].lower() in NETWORK
