"""One building: how the photo shows it, what is known and said of it, and the buttons to say what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets

from historymap_lib.annotations import REPLACED
from historymap_lib.status import age
from historymap_lib.widgets.buildings import NO_COVERAGE, VERDICTS
from historymap_lib.widgets.panel import Panel

if TYPE_CHECKING:
    from historymap_lib.widgets.annotating import Session
    from historymap_lib.widgets.building_views import BuildingViews

REASONS = ("shadow", "tree", "photo seam", "footprint off", "blurred")
"""Why a building is hard to judge."""
AHEAD = 3
"""Buildings of the queue whose crops are cut before they are looked at."""


class JudgePanel(Panel):
    """The building that is looked at, with keys: E, N, R, U, Z, Shift+Z, arrows, Space and slash."""

    template = "judge.html"
    images = traitlets.Dict().tag(sync=True)  # by building, so that the next one is there before it is asked for

    def __init__(self, session: Session, views: BuildingViews) -> None:
        self._session, self._views = session, views
        super().__init__()

    def facts(self) -> dict[str, Any]:
        """Return what the template shows."""
        session = self._session
        with session.lock:
            row, ahead = session.selected, session.queue(AHEAD)
            shown = session.facts()
        self._show_images([row] if row is not None else [], ahead)
        return {
            "building": self._building(row) if row is not None else None,
            "reasons": REASONS,
            "replaced": REPLACED,
            **shown,
        }

    def act(self, action: str, content: dict[str, Any]) -> str | None:
        """Answer a button or a key."""
        session, values = self._session, dict(content.get("values") or {})
        if action == "judge":
            session.judge(
                str(content.get("verdict")), str(content.get("building")),
                notes=str(values.get("notes", "")).strip(), reason=str(values.get("reason", "")),
            )  # fmt: skip
        elif action in {"undo", "redo"}:
            return session.undo() if action == "undo" else session.redo()
        elif action == "forward":
            session.forward()
        elif action == "back":
            session.back()
        elif action == "settings":
            session.settle(str(values.get("annotator", "")), str(values.get("order", "")))
        return None

    def _show_images(self, rows: list[int], ahead: list[int]) -> None:
        wanted = {row: self._views.crop(row) for row in [*rows, *ahead] if self._views.has_photo}
        images = {self._session.buildings.ids[row]: crop.source for row, crop in wanted.items() if crop is not None}
        if images != self.images:  # of the same building too, where new verdicts have found it elsewhere
            self.images = images

    def _building(self, row: int) -> dict[str, Any]:
        found, session = self._session.buildings, self._session
        building, probability = found.ids[row], found.probability[row]
        shown = VERDICTS[found.shown(session.threshold)[row]]
        return {
            "id": building,
            "verdict": shown,
            "annotated": found.annotated[row] >= 0,
            "replaced": bool(found.replaced(session.threshold)[row]),
            "probability": None if np.isnan(probability) else float(probability),
            "model": found.reasons[row]
            or _model_says(VERDICTS[found.applied_model[row]], found.applied[row], known="probability" in found.frame),
            "learned": self._learned(row),
            "uncovered": found.model[row] == NO_COVERAGE,
            "area": float(found.area[row]),
            "tags": self._views.tags(row),
            "crop": self._views.crop_facts(row),
            "history": [
                {
                    "kind": event.kind, "verdict": event.verdict, "who": event.annotator, "age": age(event.made_at),
                    "why": "; ".join(text for text in (event.reason, event.notes) if text),
                }
                for event in session.store.history(building)
            ],
        }  # fmt: skip

    def _learned(self, row: int) -> str:
        """Return what was learned of a building that nobody has judged since the verdicts were made, if it shows."""
        found, count = self._session.buildings, self._session.learned
        before, now = found.applied[row], found.probability[row]
        same = np.isnan(now) or (found.model[row] == found.applied_model[row] and f"{now:.2f}" == f"{before:.2f}")
        if not count or found.annotated[row] >= 0 or same:
            return ""
        verdict = VERDICTS[found.model[row]].replace("_", " ")
        judgements = f"{count:,} judgement{'s' if count > 1 else ''}"
        return f"now {verdict}, probability {now:.2f}: as learned from {judgements}, not applied yet"


def _model_says(verdict: str, probability: float, *, known: bool) -> str:
    if not known:
        return "no model has judged it yet"
    if verdict == "no_coverage":
        return "the photo does not cover it"
    seen = {"existed": "the photo shows a building", "not_existed": "the photo shows none"}
    return f"{seen.get(verdict, 'the photo leaves it open')}: probability {probability:.2f} that it existed"
