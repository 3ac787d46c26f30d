"""The first look: what the network that comes with the package makes of each building, before anything is trained.

`ml.first_look` writes it, `verify` judges by it where it is asked to be quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from historymap_lib.project import Project

NAME = "first look"
"""What people read of it, and the `model` of verdicts that were made by it."""


def file(project: Project) -> Path:
    """Return where the evidence of a first look lies; see `outline_evidence`."""
    return project.paths.predictions / "first_look.npz"
