"""How well people agree with each other, and where they do not.

Cohen's kappa (1960) of two people, and Fleiss' kappa (1971) of all, in its form for buildings that not everybody has
judged: each building counts with the pairs of people that have.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from historymap_lib.annotation_store import VERDICTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from historymap_lib.annotation_store import Event

ALIKE = 1e-12


@dataclass(frozen=True)
class Pair:
    """Two people: on how many buildings both have spoken, on how many alike, and Cohen's kappa.

    `kappa` is None where chance alone would make them agree, for instance if both only ever said *existed*.
    """

    one: str
    other: str
    buildings: int
    alike: int
    kappa: float | None


def pairs(latest: Iterable[Event]) -> list[Pair]:
    """Return the agreement of every two people that have judged a building in common.

    Args:
        latest: the latest word of each person on each building (`AnnotationStore.by_person`).

    """
    from sklearn.metrics import cohen_kappa_score  # noqa: PLC0415 - takes a second, which a new kernel need not wait

    said: dict[str, dict[str, str]] = defaultdict(dict)
    for event in latest:
        said[event.annotator][event.building] = event.verdict
    found = []
    for one, other in combinations(sorted(said), 2):
        shared = sorted(said[one].keys() & said[other].keys())
        if shared:
            first, second = [said[one][key] for key in shared], [said[other][key] for key in shared]
            alike = sum(a == b for a, b in zip(first, second, strict=True))
            kappa = None if len({*first, *second}) == 1 else float(cohen_kappa_score(first, second))
            found.append(Pair(one, other, len(shared), alike, kappa))
    return found


def fleiss(latest: Iterable[Event]) -> float | None:
    """Return Fleiss' kappa over the buildings that at least two people have judged; None where it says nothing."""
    counts = [Counter(verdicts) for verdicts in _by_building(latest).values() if len(verdicts) > 1]
    if not counts:
        return None
    total = sum(count.total() for count in counts)
    observed = sum(_pairs_alike(count) for count in counts) / len(counts)
    shares = [sum(count[verdict] for count in counts) / total for verdict in VERDICTS]
    expected = sum(share**2 for share in shares)
    return None if 1 - expected < ALIKE else (observed - expected) / (1 - expected)


def conflicts(latest: Iterable[Event]) -> dict[str, list[Event]]:
    """Return the buildings on which people disagree, with what each of them says last."""
    events: dict[str, list[Event]] = defaultdict(list)
    for event in latest:
        events[event.building].append(event)
    return {key: said for key, said in sorted(events.items()) if len({event.verdict for event in said}) > 1}


def _by_building(latest: Iterable[Event]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for event in latest:
        found[event.building].append(event.verdict)
    return found


def _pairs_alike(count: Counter[str]) -> float:
    """Return the share of the pairs of people that say the same of a building."""
    people = count.total()
    return sum(number * (number - 1) for number in count.values()) / (people * (people - 1))
