"""Many buildings at once: a page of small crops sorted by probability, of which a person flips the wrong ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets

from historymap_lib.widgets.annotating import ANSWERS
from historymap_lib.widgets.panel import Panel

if TYPE_CHECKING:
    from historymap_lib.widgets.annotating import Session
    from historymap_lib.widgets.building_views import BuildingViews

PAGE = 24
"""Buildings of a page."""
FLIPPED = {"existed": "not_existed", "not_existed": "unsure", "unsure": "existed", "replaced": "existed"}
"""What a click makes of an answer; that another building stood here is said by its key."""


class GridPanel(Panel):
    """A page of the queue: each building bears what the model holds likelier, until it is flipped."""

    template = "grid.html"
    images = traitlets.Dict().tag(sync=True)

    def __init__(self, session: Session, views: BuildingViews) -> None:
        self._session, self._views = session, views
        self._page: dict[str, str] = {}
        self._order = ""
        self.active = False
        super().__init__()

    def facts(self) -> dict[str, Any]:
        """Return what the template shows."""
        session = self._session
        with session.lock:
            if self.active and (not self._page or self._order != session.order):
                self._turn()
            found = session.buildings
            rows = [row for row in map(found.row, self._page) if row is not None]
            shown = session.facts()
        cells = [self._cell(row) for row in rows] if self.active else []
        return {"cells": cells, "active": self.active, **shown}

    def act(self, action: str, content: dict[str, Any]) -> str | None:
        """Answer a button or a key."""
        building = str(content.get("building") or content.get("focus") or "")
        if action == "flip" and building in self._page:
            self._page[building] = FLIPPED[self._page[building]]
        elif action == "set" and building in self._page and content.get("verdict") in ANSWERS:
            self._page[building] = str(content["verdict"])
        elif action == "confirm" and content.get("page") == self._name():
            self._session.confirm(self._page)
            self._page = {}
        elif action in {"undo", "redo"}:
            self._page = {}
            return self._session.undo() if action == "undo" else self._session.redo()
        elif action == "settings":
            values = dict(content.get("values") or {})
            self._session.settle(str(values.get("annotator", "")), str(values.get("order", "")))
        return None

    def turn(self) -> None:
        """Show the next page, for instance since another selection is wanted."""
        self._page = {}
        self.refresh()

    def _turn(self) -> None:
        """Take the next page of the queue, the most probable first."""
        found, session = self._session.buildings, self._session
        rows = session.queue(PAGE)
        rows.sort(key=lambda row: -np.nan_to_num(found.probability[row], nan=-1.0))
        likelier = np.where(found.probability[rows] >= 0.5, "existed", "not_existed")  # noqa: PLR2004 - than not
        self._page = dict(zip(found.ids[rows], likelier.tolist(), strict=True))
        self._order = session.order
        images = {found.ids[row]: crop.source for row in rows if (crop := self._views.crop(row)) is not None}
        if images != self.images:
            self.images = images

    def _cell(self, row: int) -> dict[str, Any]:
        found = self._session.buildings
        building = found.ids[row]
        return {
            "id": building,
            "verdict": self._page[building],
            "crop": self._views.crop_facts(row),
            "probability": None if np.isnan(found.probability[row]) else float(found.probability[row]),
        }

    def _name(self) -> str:
        return next(iter(self._page), "")
