"""Where the jobs of a project keep what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from historymap_lib import artifacts

if TYPE_CHECKING:
    from pathlib import Path

    from historymap_lib.jobs.store import Record


@dataclass(frozen=True)
class Files:
    """The files below `paths.jobs`."""

    folder: Path

    @property
    def store(self) -> Path:
        """The SQLite file."""
        return self.folder / "jobs.db"

    @property
    def lock(self) -> Path:
        """Held by the worker as long as it lives."""
        return self.folder / "worker.lock"

    @property
    def start(self) -> Path:
        """Held by whoever starts a worker."""
        return self.folder / "start.lock"

    @property
    def worker_log(self) -> Path:
        """What the worker itself prints."""
        return self.folder / "worker.log"

    def log(self, number: int) -> Path:
        """Return the file with what a job prints, byte for byte."""
        return self.folder / "logs" / f"{number}.log"

    def latest_log(self) -> int:
        """Return the largest number of a job that there is a log of, or 0."""
        return max((int(log.stem) for log in (self.folder / "logs").glob("*.log") if log.stem.isdecimal()), default=0)

    def progress(self, number: int) -> Path:
        """Return the file in which a job says how far it is."""
        return self.folder / "logs" / f"{number}.progress.json"

    def told(self, record: Record) -> Record:
        """Return a running job with what it says of its progress right now; as crashed if its worker is gone."""
        if record.ended:
            return record
        if record.owner is not None and not record.owner.is_alive():
            said = "its worker is gone; the next one tidies up"
            return replace(record, state="crashed", error=said)
        found = artifacts.read_json(self.progress(record.id))
        return replace(record, progress=found) if isinstance(found, dict) else record
