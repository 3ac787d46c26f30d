"""How the verdicts look, in pictures and on the map: told apart by more than colour."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """How footprints of one verdict are drawn: filled, hatched or hollow, so that it shows without colour too."""

    label: str
    face: str
    alpha: float
    edge: str
    line: str = "-"
    hatch: str = ""
    width: float = 1.2


LOOKS = {
    "existed": Look("existed", "#009E73", 0.8, "#00543D"),
    "not_existed": Look("not existed", "#D55E00", 0.15, "#D55E00", hatch="////"),
    "unsure": Look("unsure", "#F0E442", 0.75, "#6B5A00", line="--"),
    "no_coverage": Look("no coverage", "#999999", 0.5, "#5C5C5C", line=":"),
}
"""By verdict."""
