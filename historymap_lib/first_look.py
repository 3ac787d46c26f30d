"""The first look: what the network that comes with the package makes of each building, before anything is trained.

`ml.first_look` writes it, `verify` judges by it where it is asked to be quick. Training and predicting begin with it,
so that all look at the same outlines in the same places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from historymap_lib.project import Project

NAME = "first look"
"""What people read of it, and the `model` of verdicts that were made by it."""


NETWORKS = (
    *("checkpoint", "chips", "first_look", "footprint_network", "footprint_training", "looks", "model"),
    "registration",
)
LIBRARY = (
    *("alignment", "footprint_source", "footprints", "footprints_osm", "imagery", "misfits", "offsets"),
    *("outline_evidence", "phantoms", "shift_field", "surroundings", "tiles", "windows"),
)
CODE = (*(f"ml.{name}" for name in NETWORKS), *(f"historymap_lib.{name}" for name in LIBRARY))
"""Modules whose change puts a first look out of date; by their names only, since some of them import torch."""


def file(project: Project) -> Path:
    """Return where the evidence of a first look lies; see `outline_evidence`."""
    return project.paths.predictions / "first_look.npz"
