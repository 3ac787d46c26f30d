"""One building at a time, or many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from historymap_lib.widgets.panel import Panel

if TYPE_CHECKING:
    from collections.abc import Callable

MODES = {"one": "one by one, on the map", "grid": "many at once"}


class ModePanel(Panel):
    """Two buttons, of which one is pressed."""

    template = "mode.html"
    every = 5.0

    def __init__(self, choose: Callable[[str], None]) -> None:
        self._choose, self._mode = choose, "one"
        super().__init__()

    def facts(self) -> dict[str, Any]:
        """Return what the template shows."""
        return {"modes": MODES, "mode": self._mode}

    def act(self, action: str, content: dict[str, Any]) -> None:
        """Change over."""
        if action == "mode" and content.get("mode") in MODES:
            self._mode = str(content["mode"])
            self._choose(self._mode)
