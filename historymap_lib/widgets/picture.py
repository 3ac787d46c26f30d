"""A picture that a step draws, on the page, drawn anew when the step has run again."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from historymap_lib.pictures import PICTURES
from historymap_lib.widgets.panel import Panel

if TYPE_CHECKING:
    from historymap_lib.widgets.case import Case


class PicturePanel(Panel):
    """One of `PICTURES`, or a line on what will be there."""

    template = "picture.html"

    def __init__(self, case: Case, name: str) -> None:
        self._case, self._picture = case, PICTURES[name]
        self._stamp, self._source = 0, ""
        super().__init__()

    def facts(self) -> dict[str, Any]:
        """Return what the template shows."""
        path = self._picture.path(self._case.project.paths)
        stamp = path.stat().st_mtime_ns if path.exists() else 0
        if stamp != self._stamp:
            data = base64.b64encode(path.read_bytes()).decode() if stamp else ""
            self._stamp, self._source = stamp, f"data:image/png;base64,{data}" if data else ""
        return {"source": self._source, "shows": self._picture.shows, "made_by": self._picture.made_by}
