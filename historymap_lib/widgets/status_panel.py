"""Cards that show where a case stands: what there is, how good and how old, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from historymap_lib import first_look
from historymap_lib.status import age, sized
from historymap_lib.steps import ALL
from historymap_lib.widgets.panel import Panel

if TYPE_CHECKING:
    from historymap_lib.status import Item, Status
    from historymap_lib.widgets.case import Case

VERDICTS = ("existed", "not_existed", "unsure", "no_coverage")


class StatusPanel(Panel):
    """A card each for what people bring and for what each step makes, from left to right."""

    template = "status.html"
    every = 1.5

    def __init__(self, case: Case) -> None:
        self._case = case
        super().__init__()

    def facts(self) -> dict[str, Any]:
        """Return what the template shows."""
        status = self._case.status()
        return facts(self._case, status) if status else {"case": self._case.project.name, "cards": []}

    def act(self, action: str, content: dict[str, Any]) -> None:  # noqa: ARG002 - the buttons say all
        """Queue all steps, of which those that are up to date say so and end at once; or take a first look."""
        if action == "run-all":
            self._case.jobs.submit_all(ALL)
        elif action == "first-look":
            self._case.jobs.submit("verify", quick=True)
        self._case.look_again()


def facts(case: Case, status: Status) -> dict[str, Any]:
    """Return what the template shows."""
    items = {item.name: item for item in status.items}
    corrected = items.pop("corrected tiles")
    cards = [_card(item, case) for item in items.values()]
    if corrected.exists:
        tiles = next(card for card in cards if card["name"] == "training tiles")
        tiles["more"].append(f"{corrected.text} corrected, {age(corrected.made_at)}")
    can_look = not (items["probability"].exists or items["verdicts"].exists)
    told = {"case": status.case, "odd": status.odd, "due": status.due}
    return told | {"cards": cards, "next": _next(status, case), "can_look": can_look}


def _next(status: Status, case: Case) -> str:
    """Return what comes next, in words for somebody who presses buttons."""
    if status.due is None:
        return "all is up to date; look at the verdicts, and judge what is unsure"
    item = next(item for item in status.items if item.step == status.due)
    return f"{status.due}, since {case.short(str(item.outdated))}" if item.exists else status.due


def _card(item: Item, case: Case) -> dict[str, Any]:
    more = [f"made {age(item.made_at)}" if item.step else f"changed {age(item.made_at)}"] if item.made_at else []
    more += [sized(item.size)] if item.size else []
    state, said, advice = _state(item)
    return {
        "name": item.name,
        "state": state,
        "said": said,
        "text": case.short(item.text),
        "more": [*_details(item), ", ".join(more)] if more else _details(item),
        "advice": case.short(advice),
        "parts": _parts(item),
    }


def _state(item: Item) -> tuple[str, str, str]:
    """Return the state of a card, the same in words, and what to do about it."""
    if item.step is None:
        if item.name == "annotations":
            return ("good", "there", "") if item.facts.get("annotations") else ("none", "none yet", "")
        return ("good", "there", "") if item.exists else ("bad", "missing", "")
    if not item.exists:
        sooner = "; a first look needs no training" if item.name == "verdicts" else ""
        return "none", "not made yet", f"run {item.step}{sooner}"
    if item.facts.get("first_look"):
        return "old", first_look.NAME, "training makes it better: run all that is due"
    if item.outdated:
        return "old", "out of date", f"{item.outdated}: run {item.step} again"
    return "good", "up to date", ""


def _details(item: Item) -> list[str]:
    """Return further lines on what a thing is made of."""
    if item.name == "model" and "tiles" in item.facts:
        corrected, denied = item.facts.get("corrected_tiles", 0), item.facts.get("denied_buildings", 0)
        lines = [f"{corrected} of its tiles corrected by people"] if corrected else []
        return lines + ([f"{denied} labels denied"] if denied else [])
    return []


def _parts(item: Item) -> list[tuple[str, int]]:
    """Return how many buildings of each verdict there are, for a bar."""
    if item.name != "verdicts":
        return []
    return [(name, item.facts[name]) for name in VERDICTS if item.facts.get(name)]
