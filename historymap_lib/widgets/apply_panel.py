"""Apply: what people have said goes into the tiles and the verdicts, and what that changed is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from historymap_lib import changes
from historymap_lib.annotation_store import unpublished
from historymap_lib.errors import StepError
from historymap_lib.status import age
from historymap_lib.widgets.panel import Panel

if TYPE_CHECKING:
    from historymap_lib.widgets.annotating import Session
    from historymap_lib.widgets.case import Case

STEPS = ("apply-annotations", "train", "predict", "verify")


class ApplyPanel(Panel):
    """A button that queues the steps, and the verdicts before and after."""

    template = "apply.html"

    def __init__(self, case: Case, session: Session) -> None:
        self._case, self._session = case, session
        self._compared: tuple[Any, changes.Changes | None] = (None, None)
        super().__init__()

    def facts(self) -> dict[str, Any]:
        """Return what the template shows."""
        project = self._case.project
        busy = [record for record in self._case.jobs.unfinished() if record.name in STEPS]
        found = self._changes()
        return {
            "pending": unpublished(project),
            "applicable": project.paths.training.exists() or self._by_first_look(),
            "busy": [record.name for record in busy],
            "changes": found,
            "age": age(found.since) if found else "",
            "only": self._session.only is not None,
        }

    def act(self, action: str, content: dict[str, Any]) -> str | None:
        """Queue the steps, or show what has changed."""
        session = self._session
        if action == "apply":
            return self._apply(learn=bool(dict(content.get("values") or {}).get("learn")))
        if action == "changed":
            found = self._changes()
            rows = [session.buildings.row(name) for name in found.buildings] if found and session.only is None else None
            with session.lock:
                if rows is None:
                    session.only = None
                else:
                    session.only = np.zeros(len(session.buildings), bool)
                    session.only[[row for row in rows if row is not None]] = True
            session.tell()
        return None

    def _apply(self, *, learn: bool) -> str:
        project = self._case.project
        if any(record.name in STEPS for record in self._case.jobs.unfinished()):
            raise StepError("these steps are queued or running already; wait for them")
        frame = self._session.buildings.frame
        chain: list[str | tuple[str, dict[str, Any]]] = list(STEPS if learn else STEPS[:1])
        if self._by_first_look():
            chain = ["generate-training", *STEPS] if learn else [("verify", {"quick": True})]
        jobs = self._case.jobs.submit_all(chain)
        if "verdict" in frame:
            changes.remember(project, dict(zip(frame["building_id"], frame["verdict"], strict=True)))
        self._case.look_again()
        return f"queued as job {jobs[0].id}; the map follows when it is done"

    def _by_first_look(self) -> bool:
        """Return whether all there is are the verdicts of a first look, which learn from people without any tiles."""
        return self._session.buildings.first_look and not self._case.project.paths.training.exists()

    def _changes(self) -> changes.Changes | None:
        """Compare anew when there are other verdicts, before or now."""
        project, frame = self._case.project, self._session.buildings.frame
        path = changes.path_of(project)
        state = (id(frame), path.stat().st_mtime_ns if path.exists() else 0)
        if state != self._compared[0]:
            known = "verdict" in frame and path.exists()
            verdicts = dict(zip(frame["building_id"], frame["verdict"], strict=True)) if known else {}
            self._compared = state, changes.compare(project, verdicts) if known else None
        return self._compared[1]
