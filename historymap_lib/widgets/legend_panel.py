"""What the colours mean, how many buildings have which, which are shown, and what lies under them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import traitlets

from historymap_lib.errors import StepError
from historymap_lib.widgets.buildings import VERDICTS, Filter
from historymap_lib.widgets.panel import Panel

if TYPE_CHECKING:
    from collections.abc import Callable

    from historymap_lib.widgets.annotating import Session

ANNOTATED = {"all": None, "annotated": True, "not annotated": False}


class LegendPanel(Panel):
    """The legend with its filters, and the layers of the map."""

    template = "legend.html"
    layers = traitlets.Tuple()  # those that are wanted: probability, base

    def __init__(self, session: Session, photo: Callable[[], str], show_all: Callable[[], None]) -> None:
        self._session, self._photo, self._show_all = session, photo, show_all
        super().__init__()

    def facts(self) -> dict[str, Any]:
        """Return what the template shows."""
        session = self._session
        counts = session.counts()
        passing = int(session.passing().sum())
        return {
            "counts": [(name, counts[name], VERDICTS.index(name) in session.filter.verdicts) for name in VERDICTS],
            "replaced": int(session.buildings.replaced(session.threshold).sum()),
            "annotated": int((session.buildings.annotated >= 0).sum()),
            "kinds": list(ANNOTATED),
            "learned": session.learned,
            "threshold": session.threshold,
            "passing": passing,
            "all": len(session.buildings),
            "first_look": session.buildings.first_look,
            "photo": self._photo(),
            "note": session.store.note,
        }

    def act(self, action: str, content: dict[str, Any]) -> None:
        """Answer a button or a change."""
        values = dict(content.get("values") or {})
        if action == "all":
            self._show_all()
        elif action == "filter":
            wanted = Filter(
                frozenset(code for code, name in enumerate(VERDICTS) if values.get(name)),
                (_number(values, "confidence_from", 0) / 100, _number(values, "confidence_to", 100) / 100),
                (_number(values, "area_from", 0), _number(values, "area_to", math.inf)),
                ANNOTATED.get(str(values.get("annotated"))),
            )
            self._session.sieve(wanted, _number(values, "threshold", 0) / 100)
        elif action == "layers":
            self.layers = tuple(name for name in ("probability", "base") if values.get(name))


def _number(values: dict[str, Any], name: str, otherwise: float) -> float:
    """Return a number that was typed, or another where nothing was.

    Raises:
        StepError: it is none.

    """
    text = str(values.get(name) or "").strip()
    if not text:
        return otherwise
    try:
        return float(text)
    except ValueError:
        raise StepError(f"{name.replace('_', ' ')} is {text!r}; give a number") from None
