"""A first look at a case before any training, by the footprint network that comes with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from historymap_lib.first_look import file
from historymap_lib.imagery import open_photo
from ml import runtime
from ml.checkpoint import footprint_network
from ml.looks import Case, look_at

if TYPE_CHECKING:
    from pathlib import Path

    from historymap_lib.project import Project


def look(project: Project) -> Path:
    """Write what the network sees under the footprints of a case, and return the file.

    Raises:
        HistorymapError: photo or footprints cannot be used.

    """
    runtime.prepare()
    network = runtime.place(footprint_network(), runtime.device(project.training.device))
    with open_photo(project) as photo:
        evidence = look_at(Case(project, photo, network), [network], [], None)
    path = file(project)
    evidence.write(path)
    return path
