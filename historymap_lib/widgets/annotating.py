"""A person at work on the buildings of a case: which one is looked at, what comes next, what was said.

No widget is in here: maps and panels show a `Session`, and call it. What is said is in the store when a call returns.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from historymap_lib.active_learning import ORDERS as LEARNING
from historymap_lib.active_learning import rank
from historymap_lib.agreement import conflicts
from historymap_lib.annotation_store import AnnotationStore, Judgement
from historymap_lib.annotations import REPLACED
from historymap_lib.widgets.buildings import VERDICTS, Filter, agreement
from historymap_lib.widgets.learner import learn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from historymap_lib.annotation_store import Event
    from historymap_lib.live_verdicts import LiveVerdicts
    from historymap_lib.widgets.buildings import VIEW, Buildings

ORDERS = LEARNING | {
    "view": "in view, the least certain first",
    "others": "judged by others, not yet by you",
}
"""In which order a person can be asked, with what it means."""
ANSWERS = {
    "existed": ("existed", ""),
    "not_existed": ("not_existed", ""),
    "unsure": ("unsure", ""),
    "replaced": ("not_existed", REPLACED),
}
"""What a person can answer by one key: the verdict that is stored, and the reason where the answer is one."""
PERSON = "person"
"""Stands in the store for a building that a person has chosen on the map."""
LONGEST = 600.0
"""Seconds; who takes longer over a building has been away."""


class Session:
    """What a person does with the buildings of a case; any thread may call.

    Attributes:
        store: where judgements go.
        buildings: what is judged; replaced as a whole when there are new verdicts.
        live: what lets the verdicts follow from what people say, without being applied; None where nothing does.
        annotator: who judges.
        selected: the row that is looked at, or None.
        changed: rows whose look has changed since the map was drawn.
        behind: whether people have said what verdicts and queue do not follow from yet (`learner`).
        learned: how many judgements they follow from that are not applied.
        ranked: rows in the order in which they are asked for, or None until somebody asks.
        disputed: ids of the buildings on which people disagree.

    """

    def __init__(
        self, store: AnnotationStore, buildings: Buildings, annotator: str, live: LiveVerdicts | None = None
    ) -> None:
        self.store, self.buildings, self.annotator, self.live = store, buildings, annotator, live
        self.lock = threading.RLock()
        self.learning = threading.Lock()  # taken before the other, never after it
        self.behind, self.learned = False, 0
        self.ranked: NDArray[np.int64] | None = None
        self.disputed: set[str] = set()
        self.listeners: list[Callable[[], None]] = []
        self.selected: int | None = None
        self.changed: set[int] = set()
        # no order was measured to teach a last layer more than chance does (docs/judge.md), and chance is unbiased
        self.order = "random" if live is not None else "spread"
        self.filter, self.threshold = Filter(), 0.0
        self.view: VIEW | None = None
        self.only: NDArray[np.bool_] | None = None
        self._chosen_by, self._since = PERSON, time.monotonic()
        self._trail: list[int] = []
        self._done: dict[int, float | None] = {}
        self._seen = 0
        self._own: set[int] = set()
        self._mine: set[str] = set()
        self.reread()
        self._learn()

    def reread(self) -> None:
        """Take from the store what everybody has said."""
        with self.lock:
            events = self.store.events(after=self._seen)
            self._seen = max((event.id for event in events), default=self._seen)
            latest = self.store.by_person()
            self._mine = {event.building for event in latest if event.annotator == self.annotator}
            self.disputed = set(conflicts(latest))
            holding: dict[str, Event] = {}
            for event in sorted(latest, key=lambda one: (one.made_at, one.id)):
                holding[event.building] = event
            self.buildings.note(holding)
            self.ranked, self.behind = None, self.live is not None

    def replace(self, buildings: Buildings, live: LiveVerdicts | None = None) -> None:
        """Go on with other buildings or verdicts, at the same building."""
        with self.lock:
            selected = None if self.selected is None else self.buildings.ids[self.selected]
            by_row = self._done
            done = {buildings.row(self.buildings.ids[row]): seconds for row, seconds in by_row.items()}
            self.buildings, self.only, self.live, self.learned = buildings, None, live, 0
            self.selected = buildings.row(selected) if selected is not None else None
            self._done = {row: seconds for row, seconds in done.items() if row is not None}
            self._trail.clear()
            self.reread()
        self._learn()
        self.tell()

    def _learn(self) -> None:
        """Let the verdicts follow from what people say at once; the queue, which takes longer, is left behind."""
        learn(self)
        self.behind = self.live is not None

    def look(self) -> bool:
        """Take what others have said since; True if that changes anything here."""
        with self.lock:
            events = self.store.events(after=self._seen)
            for event in events:
                self._seen = max(self._seen, event.id)
                self._take(event.building)
            others = [event for event in events if event.id not in self._own]
            self._own.clear()
            return bool(others)

    def name(self, annotator: str) -> None:
        """Judge under another name from now on."""
        with self.lock:
            self.annotator = annotator.strip() or self.annotator
            self._done.clear()
            self.reread()

    # which one

    def select(self, row: int | None, chosen_by: str = PERSON) -> None:
        """Look at a building."""
        with self.lock:
            self._pick(row, chosen_by)
        self.tell()

    def click(self, longitude: float, latitude: float, reach: float) -> None:
        """Look at the building at a place; where several lie upon each other, at the next of them."""
        with self.lock:
            passing = self.passing()
            found = [row for row in self.buildings.at(longitude, latitude, reach) if passing[row]]
            if not found:
                return
            place = found.index(self.selected) + 1 if self.selected in found else 0
            self._pick(found[place % len(found)], PERSON)
        self.tell()

    def forward(self) -> None:
        """Look at the next building of the queue."""
        with self.lock:
            self._advance()
        self.tell()

    def back(self) -> None:
        """Look at the building before."""
        with self.lock:
            if self._trail:
                self.selected, self._chosen_by, self._since = self._trail.pop(), PERSON, time.monotonic()
        self.tell()

    def ask(self, order: str) -> None:
        """Ask in another order."""
        with self.lock:
            self.order, self.ranked, self.behind = order, None, self.live is not None
        self.tell()

    def settle(self, annotator: str, order: str) -> None:
        """Take what a person has put down of themselves and of the order; nothing changes where it is as before."""
        if annotator != self.annotator:
            self.name(annotator)
        if order in ORDERS and order != self.order:
            self.ask(order)

    def sieve(self, wanted: Filter, threshold: float) -> None:
        """Show and ask for other buildings only."""
        with self.lock:
            self.filter, self.threshold = wanted, threshold
        self.tell()

    def passing(self) -> NDArray[np.bool_]:
        """Return which buildings are shown."""
        with self.lock:
            shown = self.buildings.matching(self.filter, self.threshold)
            return shown if self.only is None else shown & self.only

    def queue(self, count: int) -> list[int]:
        """Return the rows that come next; not those that somebody has judged, unless these are asked for.

        Those that were passed over come again when there are no others, the one that has waited longest first.
        """
        with self.lock:
            ranked = self._ranking()
            wanted = self._open()
            passed = {row: when for when, row in enumerate(self._trail) if row not in self._done}
            again = [row for row in sorted(passed, key=passed.__getitem__) if wanted[row]]
            wanted[again] = False
            found: list[int] = ranked[wanted[ranked]][:count].tolist()
            return found + again[: count - len(found)]

    def left(self) -> int:
        """Return how many the queue still has."""
        with self.lock:
            return int(self._open().sum())

    def _pick(self, row: int | None, chosen_by: str) -> None:
        if self.selected is not None and self.selected != row:
            self._trail.append(self.selected)
        self.selected, self._chosen_by, self._since = row, chosen_by, time.monotonic()

    def _advance(self) -> None:
        ahead = [row for row in self.queue(2) if row != self.selected]
        if ahead:
            self._pick(ahead[0], self.order)

    def _ranking(self) -> NDArray[np.int64]:
        """Return all rows that can be asked for, in order."""
        if self.ranked is None:
            how = self.order if self.order in LEARNING else "uncertain"
            self.ranked = rank(how, self.buildings.table(), conflicts=self.disputed)
        return self.ranked

    def _open(self) -> NDArray[np.bool_]:
        """Return which buildings the order asks for, of those that the photo shows."""
        judged = self.buildings.annotated >= 0
        wanted: NDArray[np.bool_] = self.passing() & ~np.isnan(self.buildings.probability)
        if self.order == "others":
            return wanted & judged & ~self._rows(self._mine)
        if self.order == "disagreement":
            return wanted & (~judged | self._rows(self.disputed - self._mine))
        wanted &= ~judged
        if self.order == "view" and self.view is not None:
            inside = np.zeros(len(self.buildings), bool)
            inside[self.buildings.within(self.view)] = True
            wanted &= inside
        return wanted

    def _rows(self, names: Iterable[str]) -> NDArray[np.bool_]:
        rows = [row for row in map(self.buildings.row, names) if row is not None]
        mask = np.zeros(len(self.buildings), bool)
        mask[rows] = True
        return mask

    # what is said

    def judge(self, answer: str, building: str, *, notes: str = "", reason: str = "") -> None:
        """Store what the person says of a building, and look at the next.

        Args:
            answer: one of `ANSWERS`; that another building stood here is the reason itself.
            building: its id.
            notes: in the words of the person.
            reason: why it is hard to tell.

        Raises:
            AnnotationsError: it could not be stored; the building stays selected.

        """
        with self.lock:
            seconds = min(time.monotonic() - self._since, LONGEST)
            row = self.buildings.row(building)
            chosen_by = self._chosen_by if row == self.selected else PERSON
            said = self._judgement(building, answer, chosen_by, seconds, notes=notes, reason=reason)
            self._own.update(self.store.save(said))
            self._mine.add(building)
            self._take(building)
            if row is not None:
                self._done[row] = seconds
            self._advance()
        self.tell()

    def confirm(self, answers: dict[str, str]) -> None:
        """Store what the person says of a page of buildings (by id, of `ANSWERS`), all or none.

        Raises:
            AnnotationsError: it could not be stored.

        """
        with self.lock:
            seconds = min(time.monotonic() - self._since, LONGEST) / max(1, len(answers))
            said = [self._judgement(name, answer, self.order, seconds) for name, answer in answers.items()]
            self._own.update(self.store.save(*said))
            for building in answers:
                self._mine.add(building)
                self._take(building)
                row = self.buildings.row(building)
                if row is not None:
                    self._done[row] = seconds
            self._since = time.monotonic()
        self.tell()

    def undo(self) -> str:
        """Take back what the person said last, look at that building, and say what was done."""
        return self._answered(self.store.undo, "taken back", "there is nothing to undo")

    def redo(self) -> str:
        """Let it hold again."""
        return self._answered(self.store.redo, "holds again", "there is nothing to redo")

    def _answered(self, answer: Callable[[str], Event | None], done: str, nothing: str) -> str:
        with self.lock:
            event = answer(self.annotator)
            if event is None:
                return nothing
            self._take(event.building)
            row = self.buildings.row(event.building)
            if row is not None:
                if self.buildings.annotated[row] < 0:
                    self._done.pop(row, None)
                    self._mine.discard(event.building)
                else:
                    self._done[row] = event.seconds
                    self._mine.add(event.building)
                self._pick(row, event.chosen_by)
        self.tell()
        what = event.verdict.replace("_", " ") + (f" ({REPLACED})" if event.replaced else "")
        return f"{event.building} {what}: {done}"

    def _take(self, building: str) -> None:
        """Take from the store what holds of one building."""
        event = self.store.holding(building)
        self.buildings.mark(building, event)
        self.behind = self.live is not None
        row = self.buildings.row(building)
        if row is not None:
            self.changed.add(row)

    def _judgement(
        self, building: str, answer: str, chosen_by: str, seconds: float, *, notes: str = "", reason: str = ""
    ) -> Judgement:
        verdict, why = ANSWERS.get(answer, (answer, ""))  # what is no answer is refused by the store
        row = self.buildings.row(building)
        found = self.buildings
        said = probability = model = None
        if row is not None and not np.isnan(found.probability[row]):
            said, probability = VERDICTS[found.model[row]], float(found.probability[row])
            model = found.frame["model"].iloc[row] if "model" in found.frame else None
        return Judgement(
            building, verdict, self.annotator, notes, why or reason, round(seconds, 2), said, probability, model,
            chosen_by,
        )  # fmt: skip

    # how it goes

    def done(self) -> tuple[int, float | None, float | None]:
        """Return how many were judged here, the median of seconds each, and the agreement with the model (0 to 1)."""
        with self.lock:
            seconds = [one for one in self._done.values() if one is not None]
            median = float(np.median(seconds)) if seconds else None
            return len(self._done), median, agreement(self.buildings, self._done)

    def facts(self) -> dict[str, Any]:
        """Return what is told of the session: who judges, in which order, how many, how fast."""
        with self.lock:
            done, seconds, agreed = self.done()
            return {
                "annotator": self.annotator,
                "orders": ORDERS,
                "order": self.order,
                "left": self.left(),
                "done": done,
                "seconds": seconds,
                "agreed": agreed,
            }

    def counts(self) -> dict[str, int]:
        """Return how many buildings are shown as what, whether they pass the filter or not."""
        with self.lock:
            found = np.bincount(self.buildings.shown(self.threshold), minlength=len(VERDICTS))
            return {name: int(found[code]) for code, name in enumerate(VERDICTS)}

    def tell(self) -> None:
        """Let whatever shows this show it; never under the lock, for which they may wait."""
        for listener in list(self.listeners):
            listener()
