"""Which pictures a case has, and where the steps put them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from historymap_lib.settings import Paths


@dataclass(frozen=True)
class Picture:
    """A picture: where it lies, what it shows, and what makes it."""

    path: Callable[[Paths], Path]
    shows: str
    made_by: str


PICTURES = {
    "tiles": Picture(
        lambda paths: paths.training.with_name(f"{paths.training.name}.png"),
        "training tiles: the photo, and over it today's footprints",
        "generate-training",
    ),
    "corrected": Picture(
        lambda paths: paths.corrected.with_name(f"{paths.corrected.name}.png"),
        "training tiles as people have corrected them",
        "apply-annotations",
    ),
    "history": Picture(
        lambda paths: paths.models / "history.png", "how loss and validation IoU went while training", "train"
    ),
    "probability": Picture(
        lambda paths: paths.predictions / "probability.png", "the probability of building, over the photo", "predict"
    ),
    "verdicts": Picture(
        lambda paths: paths.verified.with_suffix(".png"), "the verdict on each building, over the photo", "verify"
    ),
    "histogram": Picture(
        lambda paths: paths.verified.with_name(f"{paths.verified.stem}_histogram.png"),
        "how many buildings have which probability",
        "verify",
    ),
    "evaluation": Picture(
        lambda paths: paths.verified.with_name("evaluation.png"), "the verdicts against the truth", "evaluate"
    ),
}
"""By name."""
