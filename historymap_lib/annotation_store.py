"""What people have judged, kept for ever: an append-only list of events in one SQLite file.

    store = AnnotationStore.of(project)
    store.save(Judgement("way/123456", "existed", annotator="ann", seconds=1.4))
    store.undo("ann")

Nothing is ever changed or removed: to undo is an event too, and what holds now is a view of the events. `save` returns
when its event is on the disk, so what is shown as saved survives a kill and a power cut. Any number of processes write.

The steps read the exchange format (`annotations.py`), which `publish` writes from here: saving does not apply.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from historymap_lib.annotations import REPLACED, Annotation
from historymap_lib.annotations import read as read_annotations
from historymap_lib.annotations import save as save_annotations
from historymap_lib.database import PATIENCE, Database, Kind, is_remote
from historymap_lib.errors import AnnotationsError, UnavailableError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from pathlib import Path

    from historymap_lib.project import Project

VERDICTS = ("existed", "not_existed", "unsure")
BUILDING = re.compile("(node|way|relation)/[1-9][0-9]*")
SCHEMA = """
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('judged', 'undone', 'redone')),
    target INTEGER REFERENCES events (id),     -- the judgement that is undone or redone
    building TEXT NOT NULL,                    -- way/123
    verdict TEXT NOT NULL CHECK (verdict IN ('existed', 'not_existed', 'unsure')),
    annotator TEXT NOT NULL,
    made_at TEXT NOT NULL,                     -- ISO 8601, UTC
    notes TEXT NOT NULL,
    reason TEXT NOT NULL,
    seconds REAL,                              -- how long it took to judge
    said TEXT,                                 -- the verdict of the model at that time,
    probability REAL,                          -- its probability,
    model TEXT,                                -- and which model it was
    chosen_by TEXT NOT NULL,                   -- why this building: person, uncertain, random, ..., import
    entry TEXT UNIQUE                          -- hash of an imported entry, so that it comes in once
);
CREATE INDEX events_building ON events (building, annotator, made_at);
CREATE INDEX events_target ON events (target);
CREATE TABLE published (event INTEGER NOT NULL);
CREATE VIEW holding AS  -- judgements that are not undone
    SELECT * FROM events AS judged WHERE kind = 'judged' AND coalesce(
        (SELECT kind FROM events WHERE target = judged.id ORDER BY id DESC LIMIT 1), 'redone') = 'redone';
CREATE VIEW latest AS  -- of each person on each building
    SELECT * FROM holding AS one WHERE NOT EXISTS (
        SELECT 1 FROM holding AS later WHERE later.building = one.building AND later.annotator = one.annotator
            AND (later.made_at, later.id) > (one.made_at, one.id));
CREATE VIEW current AS  -- of each building
    SELECT * FROM latest AS one WHERE NOT EXISTS (
        SELECT 1 FROM latest AS later WHERE later.building = one.building
            AND (later.made_at, later.id) > (one.made_at, one.id));
"""
SAME = "building = ? AND annotator = ? AND verdict = ? AND notes = ? AND reason = ? AND kind = 'judged'"


class AnnotationsUnavailableError(AnnotationsError, UnavailableError):
    """Annotations cannot be stored just now: no room on the disk, or another program keeps the file."""


KIND = Kind(
    SCHEMA, 1, AnnotationsError, AnnotationsUnavailableError, "store of annotations",
    "bring back a copy, or move it away and import an export", durable=True,
)  # fmt: skip


@dataclass(frozen=True)
class Judgement:
    """What a person says of a building.

    Attributes:
        building: its id, such as way/123.
        verdict: existed, not_existed or unsure.
        annotator: who says so.
        notes: in their words.
        reason: why it is hard, such as shadow, tree, photo seam, footprint off; or `annotations.REPLACED`.
        seconds: how long it took.
        said: the verdict of the model, with its `probability` and which `model` it was.
        chosen_by: why this building: person, or the order of a queue (random ones make an honest audit).
        made_at: when (ISO 8601, UTC); now, where it is empty.

    """

    building: str
    verdict: str
    annotator: str
    notes: str = ""
    reason: str = ""
    seconds: float | None = None
    said: str | None = None
    probability: float | None = None
    model: str | None = None
    chosen_by: str = "person"
    made_at: str = ""

    @property
    def replaced(self) -> bool:
        """Whether it says that another building stood here."""
        return self.verdict == "not_existed" and self.reason == REPLACED


@dataclass(frozen=True)
class Event(Judgement):
    """A judgement as it is stored, or that one was undone or redone (`kind`; `target` is its number)."""

    id: int = 0
    kind: str = "judged"
    target: int | None = None


@dataclass(frozen=True)
class Imported:
    """What became of the entries of a file: of each person's latest word, how many were new and how many known."""

    new: int
    known: int


class AnnotationStore:
    """The annotations of a case.

    Raises:
        AnnotationsError: the file cannot be opened, is no store, or was made by a newer version.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database = Database(path, KIND)

    @classmethod
    def of(cls, project: Project) -> AnnotationStore:
        """Return the store of a case; when it is made, what the case has in the exchange format comes in."""
        path = store_path(project)
        is_new = not path.exists()
        store = cls(path)
        if is_new:
            store.absorb(read_annotations(project.paths.annotations, missing_ok=True).values())
        return store

    @property
    def changed(self) -> datetime:
        """When something was stored last, as far as the files tell."""
        files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        return datetime.fromtimestamp(max(file.stat().st_mtime for file in files if file.exists()), UTC)

    @property
    def note(self) -> str:
        """What people should know of where the file lies; as a rule nothing."""
        if not is_remote(self.path):
            return ""
        return f"{self.path} is on a drive of another machine: saving is slower there, but as safe as that drive is"

    def save(self, *judgements: Judgement) -> list[int]:
        """Store judgements, all or none, and return their numbers; they are on the disk then.

        Raises:
            AnnotationsError: there is no such verdict or building id, or it cannot be written.

        """
        for judgement in judgements:
            if judgement.verdict not in VERDICTS:
                raise AnnotationsError(f"{judgement.verdict!r} is no verdict; it is one of {', '.join(VERDICTS)}")
            if not BUILDING.fullmatch(judgement.building):
                raise AnnotationsError(f"{judgement.building!r} is no building; name it as way/123 or relation/123")
        with self._database.transaction() as db:
            return [_insert(db, "judged", judgement) for judgement in judgements]

    def undo(self, annotator: str) -> Event | None:
        """Undo the latest judgement of a person that still holds, and return it; None where there is none."""
        query = "SELECT * FROM holding WHERE annotator = ? AND entry IS NULL ORDER BY id DESC LIMIT 1"
        return self._answer("undone", query, annotator)

    def redo(self, annotator: str) -> Event | None:
        """Let the judgement hold again that a person has undone last; None after they have judged anew."""
        query = """
            SELECT * FROM events AS judged WHERE annotator = ? AND kind = 'judged' AND entry IS NULL
            AND id NOT IN (SELECT id FROM holding)
            AND NOT EXISTS (
                SELECT 1 FROM events AS later WHERE later.annotator = judged.annotator AND later.kind = 'judged'
                AND later.entry IS NULL
                AND later.id > (SELECT max(id) FROM events WHERE target = judged.id AND kind = 'undone'))
            ORDER BY id LIMIT 1"""
        return self._answer("redone", query, annotator)

    def get(self) -> dict[str, Event]:
        """Return what holds now by building: the latest word, whoever said it."""
        return {event.building: event for event in self._events("SELECT * FROM current ORDER BY building")}

    def counts(self) -> dict[str, int]:
        """Return of how many buildings which verdict holds now."""
        with self._database.opened() as db:
            return {row[0]: row[1] for row in db.execute("SELECT verdict, count(*) FROM current GROUP BY verdict")}

    def holding(self, building: str) -> Event | None:
        """Return what holds now of one building, or None."""
        return next(iter(self._events("SELECT * FROM current WHERE building = ?", building)), None)

    def by_person(self) -> list[Event]:
        """Return the latest word of each person on each building."""
        return self._events("SELECT * FROM latest ORDER BY building, annotator")

    def history(self, building: str) -> list[Event]:
        """Return all that ever happened to a building, in order."""
        return self._events("SELECT * FROM events WHERE building = ? ORDER BY id", building)

    def events(self, after: int = 0) -> list[Event]:
        """Return all events after a number, in order."""
        return self._events("SELECT * FROM events WHERE id > ? ORDER BY id", after)

    def absorb(self, entries: Iterable[Annotation], *, said_now: bool = False) -> Imported:
        """Import annotations in the exchange format; what is known already changes nothing.

        Those without a time are of a file that may come in again, after a change of mind too, and then say nothing new.
        If they are `said_now`, they are known only where they are the latest word of whoever says so.
        """
        new = known = 0
        with self._database.transaction() as db:
            for entry in entries:
                now = said_now and entry.when is None
                if _is_latest(db, entry) if now else _is_known(db, entry):
                    known += 1
                    continue
                made_at = entry.when.astimezone(UTC).isoformat() if entry.when else ""
                judgement = Judgement(
                    entry.building_id, entry.verdict, entry.annotator, entry.notes, entry.reason, made_at=made_at,
                    chosen_by="import",
                )  # fmt: skip
                _insert(db, "judged", judgement, entry=None if now else _hash(entry))
                new += 1
        return Imported(new, known)

    def pending(self) -> int:
        """Return how many events there are that have not been published."""
        with self._database.opened() as db:
            (count,) = db.execute(
                "SELECT count(*) FROM events WHERE id > coalesce((SELECT max(event) FROM published), 0)"
            ).fetchone()
        return int(count)

    def publish(self, path: Path) -> dict[str, Annotation]:
        """Write what holds now in the exchange format, whole or not at all, and return it by building.

        What somebody has added to that file by hand comes in first.

        Raises:
            AnnotationsError: the file is there, but cannot be read; it is left as it is.

        """
        with FileLock(path.with_name(f"{path.name}.lock"), timeout=PATIENCE):
            self.absorb(read_annotations(path, missing_ok=True).values())
            with self._database.transaction() as db:  # nobody saves between reading and marking
                found = [_event(row) for row in db.execute("SELECT * FROM current ORDER BY building")]
                told = {event.building: as_annotation(event) for event in found}
                if told != read_annotations(path, missing_ok=True):
                    save_annotations(path, told.values())
                db.execute("DELETE FROM published")
                db.execute("INSERT INTO published SELECT coalesce(max(id), 0) FROM events")
            self._database.checkpoint()
        return told

    def _answer(self, kind: str, query: str, annotator: str) -> Event | None:
        """Undo or redo what a query finds."""
        with self._database.transaction() as db:
            row = db.execute(query, [annotator]).fetchone()
            if row is None:
                return None
            event = _event(row)
            judgement = {field.name: getattr(event, field.name) for field in fields(Judgement)}
            _insert(db, kind, Judgement(**judgement | {"made_at": ""}), target=event.id)
            return event

    def _events(self, query: str, *values: Any) -> list[Event]:
        with self._database.opened() as db:
            return [_event(row) for row in db.execute(query, values)]


def store_path(project: Project) -> Path:
    """Return where the store of a case lies: beside the exchange format."""
    return project.paths.annotations.with_suffix(".db")


def settled(project: Project) -> dict[str, Annotation]:
    """Return the annotations of a case by building, after publishing those that were clicked.

    Raises:
        AnnotationsError: store or exchange format cannot be read.

    """
    if store_path(project).exists():
        return AnnotationStore.of(project).publish(project.paths.annotations)
    return read_annotations(project.paths.annotations, missing_ok=True)


def add(project: Project, entries: Iterable[Annotation]) -> dict[str, Annotation]:
    """Add annotations to those of a case, and return them all.

    Raises:
        AnnotationsError: store or exchange format cannot be read or written.

    """
    AnnotationStore.of(project).absorb(entries)
    return settled(project)


def unpublished(project: Project) -> int:
    """Return how many events the store has that the steps have not seen; 0 where there is no store."""
    return AnnotationStore(store_path(project)).pending() if store_path(project).exists() else 0


def as_annotation(event: Event) -> Annotation:
    """Return a judgement in the exchange format."""
    kind, number = event.building.split("/")
    existed = {"existed": True, "not_existed": False, "unsure": None}[event.verdict]
    values = {"osm_type": kind, "osm_id": int(number), "existed": existed, "created_at": event.made_at}
    values |= {"notes": event.notes, "annotator": event.annotator, "reason": event.reason}
    return Annotation.model_validate(values)


def _insert(
    db: sqlite3.Connection, kind: str, judgement: Judgement, *, target: int | None = None, entry: str | None = None
) -> int:
    values = asdict(judgement) | {"kind": kind, "target": target, "entry": entry}
    values["made_at"] = judgement.made_at or datetime.now(UTC).isoformat(timespec="microseconds")
    names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
    cursor = db.execute(f"INSERT INTO events ({names}) VALUES ({marks})", values)  # noqa: S608 - our names
    return int(cursor.lastrowid or 0)


def _event(row: sqlite3.Row) -> Event:
    return Event(**{field.name: row[field.name] for field in fields(Event)})


def _is_known(db: sqlite3.Connection, entry: Annotation) -> bool:
    """Return whether an entry says nothing new: it came in before, or it is what a judgement of ours says."""
    if db.execute("SELECT 1 FROM events WHERE entry = ?", [_hash(entry)]).fetchone():
        return True
    if entry.when is None:
        return _is_latest(db, entry)
    rows = db.execute(f"SELECT made_at FROM events WHERE {SAME}", _compared(entry))  # noqa: S608 - ours
    return any(datetime.fromisoformat(row["made_at"]) == entry.when for row in rows)


def _is_latest(db: sqlite3.Connection, entry: Annotation) -> bool:
    """Return whether an entry is what its person said last of the building."""
    return db.execute(f"SELECT 1 FROM latest WHERE {SAME}", _compared(entry)).fetchone() is not None  # noqa: S608 - ours


def _compared(entry: Annotation) -> list[str]:
    """Return the values that `SAME` compares."""
    return [entry.building_id, entry.annotator, entry.verdict, entry.notes, entry.reason]


def _hash(entry: Annotation) -> str:
    return hashlib.sha256(json.dumps(entry.model_dump(), sort_keys=True).encode()).hexdigest()
