"""Why a building got its verdict, in the words of somebody who looks at the photo.

    explain({"verdict": "existed", "probability": 0.97, "fit": 0.99, "shadow": 1.4})
    'the outline fits a building, and a shadow falls beside it (probability 0.97)'

A table of rules says which numbers make which clause. Each rule belongs to a topic, and of a topic only the first rule
that holds speaks; what is not known makes no clause. Where the numbers show nothing in particular the sentence says
what the verdict is, and no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

EXISTED, NOT_EXISTED, UNSURE = "existed", "not_existed", "unsure"
PLAIN = {EXISTED: "the photo shows a building", NOT_EXISTED: "the photo shows none"}
OPEN = "the photo leaves it open"

FITS, MISSES = 0.8, 0.2
"""Probability that a building fits the outline: from here on one does, up to here none does."""
SHOWS, BARE = 0.5, 0.2
"""Mean probability under the outline: from here on the photo shows a building, up to here bare ground."""
STRONG, NONE = 0.7, -0.7
"""Standard deviations of light and shadow, or of the contrast along the outline: clearly more or less than usual."""
DARK = 50.0
"""Mean grey (0 to 255) around a building up to which little can be seen."""
APART = 1.0
"""Metres between map and photo from which on it is worth telling."""


@dataclass(frozen=True)
class Rule:
    """What is said of buildings of some verdicts whose numbers lie within bounds.

    Attributes:
        topic: what it speaks of; of each topic the first rule that holds speaks.
        text: the clause; `{shift:.1f}` and the like stand for the numbers.
        verdicts: of which buildings.
        bounds: by column the least and the largest value, both included.

    """

    topic: str
    text: str
    verdicts: tuple[str, ...]
    bounds: Mapping[str, tuple[float, float]]

    def holds(self, verdict: NDArray[Any], numbers: pd.DataFrame) -> NDArray[np.bool_]:
        """Return for which rows it holds."""
        found: NDArray[np.bool_] = np.isin(verdict, self.verdicts)
        for name, (low, high) in self.bounds.items():
            found &= numbers[name].between(low, high).to_numpy()  # never where it is not known
        return found


HIGH = np.inf
PLACE = "place"
"""The topic that says where the building was found, and nothing of whether one is there."""
RULES = (
    Rule("building", "the outline fits a building", (EXISTED,), {"fit": (FITS, 1)}),
    Rule("building", "a building shows under the outline", (EXISTED,), {"probability_under": (SHOWS, 1)}),
    Rule("building", "no building fits the outline", (NOT_EXISTED,), {"fit": (0, MISSES)}),
    Rule(
        "ground",
        "nothing stands out from the ground",
        (NOT_EXISTED,),
        {"probability_under": (0, BARE), "contrast": (-HIGH, NONE)},
    ),
    Rule("ground", "it stands out from the ground", (EXISTED,), {"contrast": (STRONG, HIGH)}),
    Rule("light", "a shadow falls beside it", (EXISTED,), {"shadow": (STRONG, HIGH)}),
    Rule("light", "it has no shadow", (NOT_EXISTED, UNSURE), {"shadow": (-HIGH, NONE)}),
    Rule("sight", "the photo is too dark here", (UNSURE,), {"darkness": (0, DARK)}),
    Rule(PLACE, "moved by {shift:.1f} m", (EXISTED, UNSURE), {"shift": (APART, HIGH)}),
)
NUMBERS = tuple(dict.fromkeys(name for rule in RULES for name in rule.bounds))
"""The columns that the rules look at."""


def explain_all(frame: pd.DataFrame) -> list[str]:
    """Return a sentence for each row of a table.

    Args:
        frame: `verdict` (text), and as far as they are known (float, nan or no column where not) `probability` that it
            existed, `coverage` (share of the footprint that the photo shows), `fit` (probability that a building fits
            the outline), `probability_under` (mean under the outline), `shadow` and `contrast` (standardised: light and
            shadow, edges along the outline), `darkness` (mean grey around it, 0 to 255), `shift` (metres).

    """
    verdict = frame["verdict"].to_numpy(object)
    known = {name: _numbers(frame, name) for name in (*NUMBERS, "probability", "coverage")}
    numbers = pd.DataFrame(known)
    clauses: list[dict[str, str]] = [{} for _ in verdict]  # by topic
    for rule in RULES:
        holds = rule.holds(verdict, numbers)
        for row in np.flatnonzero(holds).tolist():
            values = {name: known[name][row] for name in rule.bounds}
            clauses[row].setdefault(rule.topic, rule.text.format(**values))
    rows = zip(verdict, clauses, known["probability"], known["coverage"], strict=True)
    return [_sentence(*row) for row in rows]


def explain(row: Mapping[str, Any]) -> str:
    """Return the sentence for one building; see `explain_all`."""
    return explain_all(pd.DataFrame([dict(row)]))[0]


def _numbers(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Return a column as numbers, nan where it is not known."""
    if name not in frame:
        return np.full(len(frame), np.nan)
    return pd.to_numeric(frame[name]).to_numpy(np.float64, na_value=np.nan)


def _sentence(verdict: str, clauses: dict[str, str], probability: float, coverage: float) -> str:
    if verdict == "no_coverage":
        share = "too little" if np.isnan(coverage) else f"only {coverage:.0%}"
        return f"{share} of the footprint is on the photo"
    seen = [text for topic, text in clauses.items() if topic != PLACE]
    said = ", and ".join(part for part in (", ".join(seen[:-1]), *seen[-1:]) if part)
    if verdict not in PLAIN:
        said = f"{OPEN}: {said}" if said else OPEN
    said = said or PLAIN[verdict]
    if PLACE in clauses:
        said += f", {clauses[PLACE]}"
    return said if np.isnan(probability) else f"{said} (probability {probability:.2f})"
