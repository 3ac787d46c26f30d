"""A first look at the photo of a case: coarse, so that it comes soon from a server too, with buildings on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from historymap_lib.errors import PhotoError
from historymap_lib.figures import LONGEST, draw_preview
from historymap_lib.footprint_source import read
from historymap_lib.imagery import area_of, fetched, open_photo
from historymap_lib.settings import FilePhoto

if TYPE_CHECKING:
    from pathlib import Path

    from historymap_lib.project import Project


@dataclass(frozen=True)
class Preview:
    """What `preview` drew: the picture, the share of the area that the photo covers, and how many buildings."""

    path: Path
    covered: float
    buildings: int | None
    summary: str


def preview(project: Project, path: Path | None = None) -> Preview:
    """Draw the area of a case as a PNG, beside the copy of the photo if no path is given.

    A server is asked for a coarse picture; buildings are drawn where their file is at hand already.

    Raises:
        HistorymapError: the photo cannot be opened, or has nothing in the area; or the buildings cannot be read.
    """
    path = path or project.paths.photo.with_name("preview.png")
    if path.suffix.lower() != ".png":
        raise PhotoError(f"{path}: must end in .png; give another name")
    there = project.footprint_file.exists()
    shapes = read(project, project.footprint_file, area_of(project)).frame.geometry.to_numpy() if there else None
    with open_photo(_coarse(project)) as photo:
        covered = draw_preview(photo, shapes if shapes is not None else np.array([]), path, _title(project))
    if not covered:
        path.unlink(missing_ok=True)
        raise PhotoError(
            f"{project.file}: the photo has nothing in the area; compare area.bounds with what "
            "historymap photo info tells of it"
        )
    count = None if shapes is None else len(shapes)
    drawn = "buildings come with historymap footprints info" if count is None else f"{count:,} of today's buildings"
    return Preview(path, covered, count, f"{path}: {covered:.0%} of the area is on the photo; {drawn}")


def _coarse(project: Project) -> Project:
    """Return the case with pixels so large that all of it makes a picture for the screen; of the copy, if there is."""
    copy = fetched(project)
    photo = project.photo if copy is None else FilePhoto.model_validate({"path": str(copy)})
    west, south, east, north = area_of(project).bounds
    resolution = max(project.tiles.resolution, max(east - west, north - south) / LONGEST)
    tiles = project.tiles.model_copy(update={"resolution": float(f"{resolution:.3g}")})
    return project.model_copy(update={"photo": photo, "tiles": tiles})


def _title(project: Project) -> str:
    year = project.photo.year
    return f"{project.photo_name()}{f' ({year})' if year else ''} and today's buildings"
