"""What is known of how far the photo lies from the map: stored by `photo align`, or set by hand as `photo.offset`.

A shift is that from the map to the photo: a footprint moved by it lies where the photo shows the building.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from historymap_lib import artifacts
from historymap_lib.alignment import Offsets
from historymap_lib.errors import PhotoError
from historymap_lib.imagery import fetch_settings, photo_files
from historymap_lib.settings import FilePhoto

if TYPE_CHECKING:
    from pathlib import Path

    import geopandas as gpd

    from historymap_lib.project import Project

STEP = "photo align"
AXES = 2
SURE = 0.7
"""The shift of a cell is known if it is right to a metre with this probability."""
WINDS = ("east", "north-east", "north", "north-west", "west", "south-west", "south", "south-east")
NONE = 0.05
"""Metres: less is nothing."""


@dataclass(frozen=True)
class Stored:
    """What `photo align` found.

    Attributes:
        crs: of the shifts, such as EPSG:25832.
        offsets: by cell.
        confidence: how probably each cell is right to a metre (rows, columns; 0 to 1).
        constant: the mean shift of all buildings (east, north; metres).
        method: what it was told by: gradients, probability, both, or none.
        reach: metres that were looked at, around what was set by hand.

    """

    crs: str
    offsets: Offsets
    confidence: np.ndarray
    constant: tuple[float, float]
    method: str
    reach: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        offsets = self.offsets
        return {
            "crs": self.crs,
            "cell": offsets.cell,
            "west": offsets.west,
            "north": offsets.north,
            "constant": [round(value, 3) for value in self.constant],
            "method": self.method,
            "reach": self.reach,
            "shifts": {"east": offsets.shifts[0].round(3).tolist(), "north": offsets.shifts[1].round(3).tolist()},
            "confidence": self.confidence.round(3).tolist(),
        }


def known_offsets(project: Project) -> Offsets | None:
    """Return the stored offsets if they are up to date, else what was set by hand, else None.

    Raises:
        PhotoError: the file is damaged.
    """
    path = project.paths.offsets
    if path.exists():
        stored = read(path)
        if up_to_date(project):
            return stored.offsets
        print(  # noqa: T201 - the user should know
            f"{path}: is left aside, since photo, area or footprints have changed; run historymap photo align again"
        )
    by_hand = project.photo.offset
    return None if by_hand is None else Offsets.constant(*by_hand)


def placed(project: Project, frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Return the footprints (in the CRS of the case) where the photo shows them, as far as that is known.

    Raises:
        PhotoError: the stored offsets are damaged.
    """
    offsets = known_offsets(project)
    return frame if offsets is None else frame.set_geometry(offsets.move(frame.geometry.to_numpy()), crs=frame.crs)


def up_to_date(project: Project) -> bool:
    """Say whether photo, area, footprints and what was set by hand are those that the stored offsets are made from."""
    told = artifacts.read_manifest(project.paths.offsets) or {}
    if told.get("settings") != depends_on(project):
        return False
    try:
        return bool(told.get("inputs") == artifacts.fingerprints(inputs(project)))
    except PhotoError:  # it is not at hand now, and buildings can be judged without
        return True


def depends_on(project: Project) -> dict[str, Any]:
    """Return the settings that stored offsets are made with."""
    return fetch_settings(project) | project.settings("footprints") | {"offset": project.photo.offset}


def inputs(project: Project) -> list[Path]:
    """Return the files that they are made from; a copy of a server's photo is the same photo.

    The probabilities are not among them, since these depend on the offsets, by way of the training tiles.

    Raises:
        PhotoError: the file of the photo is missing.
    """
    files = photo_files(project) if isinstance(project.photo, FilePhoto) else []
    return [*files, project.footprint_file]


def write(path: Path, stored: Stored) -> None:
    """Write offsets, whole or not at all."""
    artifacts.write_json(path, stored.as_dict())


def read(path: Path) -> Stored:
    """Read offsets.

    Raises:
        PhotoError: the file is damaged.
    """
    told: Any = artifacts.read_json(path)
    try:
        shifts = np.array([told["shifts"]["east"], told["shifts"]["north"]], np.float64)
        confidence = np.array(told["confidence"], np.float64)
        place = [float(told[name]) for name in ("west", "north", "cell", "reach")]
        constant = float(told["constant"][0]), float(told["constant"][1])
        crs, method = str(told["crs"]), str(told["method"])
    except (KeyError, TypeError, ValueError, IndexError):
        raise _damaged(path) from None
    west, north, cell, reach = place
    good = shifts.ndim == AXES + 1 and shifts.size and shifts.shape[1:] == confidence.shape and cell > 0
    if not good or not np.isfinite([*shifts.ravel(), *place]).all():
        raise _damaged(path)
    return Stored(crs, Offsets(west, north, cell, shifts), confidence, constant, method, reach)


def in_words(shift: tuple[float, float]) -> str:
    """Return a shift (east, north; metres) such as `3.0 m to the south-east of the map`."""
    east, north = shift
    length = float(np.hypot(east, north))
    if length < NONE:
        return "where the map says"
    wind = WINDS[round(float(np.arctan2(north, east)) / (np.pi / 4)) % len(WINDS)]
    return f"{length:.1f} m to the {wind} of the map"


def _damaged(path: Path) -> PhotoError:
    return PhotoError(f"{path}: is damaged or no file of offsets; remove it, or run historymap photo align again")
