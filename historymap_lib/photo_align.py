"""How far the photo of a case lies from the map, for the whole area and by neighbourhood: measured, stored, drawn.

The edges of the photo tell it, and the probabilities of the model where there are some; `photo_edges` says how well
each shift fits a cell, `shift_field` which shifts follow. `generate-training`, `verify` and `apply-annotations` use
what is stored.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from shapely import bounds

from historymap_lib import artifacts, offsets
from historymap_lib.alignment import Offsets
from historymap_lib.errors import PhotoError
from historymap_lib.footprint_source import load_footprints
from historymap_lib.imagery import open_photo
from historymap_lib.photo_edges import fits
from historymap_lib.probability import NO_DATA
from historymap_lib.shift_field import solve
from historymap_lib.windows import read_beyond

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from rasterio.windows import Window

    from historymap_lib.imagery import Photo
    from historymap_lib.photo_edges import Fits
    from historymap_lib.project import Project
    from historymap_lib.tiles import Grid

REACH = 10.0
"""Metres that are looked at, unless others are asked for."""
LARGEST = 50.0
MODULES = ("photo_align", "photo_edges", "shift_field", "alignment", "offsets", "outlines", "imagery", "footprints")
CODE = tuple(f"historymap_lib.{name}" for name in MODULES)
GRADIENTS, PROBABILITY = "gradients", "probability"


@dataclass(frozen=True)
class Aligned:
    """What `align` made."""

    file: Path
    picture: Path | None
    constant: tuple[float, float]
    summary: str


def align(project: Project, *, reach: float = REACH, picture: bool = True) -> Aligned:
    """Measure how far the photo lies from the map, and write `paths.offsets` (JSON) and a picture beside it.

    Args:
        project: the case; what is set by hand as `photo.offset` is where the search begins.
        reach: metres east, west, north and south of there.
        picture: draw the shifts as arrows on the photo.

    Raises:
        HistorymapError: photo or footprints cannot be used, or the reach is not within 1 to 50 m.

    """
    if not 1 <= reach <= LARGEST:
        raise PhotoError(f"a reach of {reach:g} m is none to look for an offset in; give one from 1 to {LARGEST:g} m")
    path = project.paths.offsets
    with open_photo(project) as photo:
        found = load_footprints(project, photo.grid.polygon)
        made_from = artifacts.fingerprints(offsets.inputs(project))
        print(f"footprints: {found.summary()}")  # noqa: T201 - counts are conserved, and shown
        photo.prepare()
        shapes = found.frame.geometry.to_numpy()
        stored, clarity = _measure(project, photo, shapes, reach)
        offsets.write(path, stored)
        artifacts.write_manifest(
            path,
            step=offsets.STEP,
            inputs=made_from,
            settings=offsets.depends_on(project),
            parameters={"reach": reach},
            code=CODE,
            clarity=clarity,
            probability=artifacts.fingerprint(project.paths.probability) if PROBABILITY in clarity else "",
        )
        text = _sentence(stored, shapes)
        drawn = path.with_suffix(".png") if picture else None
        if drawn is not None:
            from historymap_lib.alignment_figure import draw_offsets  # noqa: PLC0415 - matplotlib takes its time

            draw_offsets(stored, shapes, photo, text, drawn)
    where = f"{path}{f' and {drawn.name}' if drawn else ''}"
    return Aligned(path, drawn, stored.constant, f"{where}: {text}")


def _measure(
    project: Project, photo: Photo, shapes: NDArray[Any], reach: float
) -> tuple[offsets.Stored, dict[str, float]]:
    """Return the offsets, and how clearly each source tells them."""
    begin = Offsets.constant(*(project.photo.offset or (0.0, 0.0)))
    near = begin.move(shapes)
    with ExitStack() as stack:
        sources = {GRADIENTS: fits(photo.read, photo.grid, near, reach)}
        if probabilities := _probabilities(project, photo.grid, stack):
            sources[PROBABILITY] = fits(probabilities, photo.grid, near, reach, signed=True)
    field = solve(sources, reach)
    cells: Fits = sources[GRADIENTS]
    shifts = field.shifts + begin.shifts
    found = Offsets(cells.west, cells.north, cells.cell, shifts)
    constant = found.at(*_middles(shapes)).mean(axis=0)
    method = " and ".join(field.seen_by) or "none"
    crs = project.area.crs
    stored = offsets.Stored(crs, found, field.confidence, (float(constant[0]), float(constant[1])), method, reach)
    return stored, {name: round(value, 2) for name, value in field.clarity.items()}


def _probabilities(project: Project, grid: Grid, stack: ExitStack) -> Any:
    """Return what reads the probabilities in windows of the grid, or None where there are none for this grid."""
    path = project.paths.probability
    if not path.exists():
        return None
    try:
        dataset = stack.enter_context(rasterio.open(path))
    except rasterio.errors.RasterioError as error:
        print(f"by the photo alone: {path} cannot be read ({error})")  # noqa: T201 - the user should know
        return None
    same = dataset.transform.almost_equals(grid.transform, 1e-6) and dataset.shape == (grid.height, grid.width)
    if not same or dataset.crs != rasterio.CRS.from_user_input(project.area.crs):
        print(f"by the photo alone: {path} is for another area or resolution")  # noqa: T201
        return None

    def read(window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        values = read_beyond(dataset, window, NO_DATA)
        return values, values != NO_DATA

    return read


def _middles(shapes: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    west, south, east, north = bounds(shapes).T
    yield (west + east) / 2
    yield (south + north) / 2


def _sentence(stored: offsets.Stored, shapes: NDArray[Any]) -> str:
    """Return what was found, for people."""
    if stored.method == "none":
        kept = "what is set by hand stands" if np.hypot(*stored.constant) >= offsets.NONE else "nothing is moved"
        return (
            f"no offset within {stored.reach:g} m can be told, since today's outlines fit the photo nowhere better "
            f"than by chance; {kept}"
        )
    at = stored.offsets.at(*_middles(shapes))
    apart = np.hypot(*(at - stored.constant).T)
    plain = Offsets(stored.offsets.west, stored.offsets.north, stored.offsets.cell, np.stack([stored.confidence] * 2))
    known = (plain.at(*_middles(shapes))[:, 0] >= offsets.SURE).mean()
    return (
        f"the photo lies {_in_words(stored.constant)}; neighbourhoods differ from that by {np.median(apart):.1f} m "
        f"(a tenth by {np.quantile(apart, 0.9):.1f} m or more); {known:.0%} of the buildings lie where that is known "
        f"to about a metre (by {stored.method})"
    )


def _in_words(shift: tuple[float, float]) -> str:
    """Return the shift of a whole photo, such as `3.0 m to the south-east of the map (2.4 m east, 1.8 m south)`."""
    east, north = shift
    if np.hypot(east, north) < offsets.NONE:
        return f"{offsets.in_words(shift)} on the whole"
    parts = (
        f"{abs(east):.1f} m {'east' if east >= 0 else 'west'}, {abs(north):.1f} m {'north' if north >= 0 else 'south'}"
    )
    return f"{offsets.in_words(shift)} ({parts})"
