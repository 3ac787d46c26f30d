"""How single buildings are shown: the crop of the photo with their outline, and their tags."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from pyproj import Transformer

from historymap_lib.crops import Crops
from historymap_lib.errors import HistorymapError
from historymap_lib.footprint_source import load_footprints
from historymap_lib.offsets import in_words

if TYPE_CHECKING:
    from historymap_lib.crops import Crop
    from historymap_lib.project import Project
    from historymap_lib.widgets.annotating import Session

TAGS = ("name", "building", "start_date")


class BuildingViews:
    """Crops and tags of the buildings of a session; what cannot be had is told in `trouble`."""

    def __init__(self, project: Project, session: Session) -> None:
        self._project, self._session = project, session
        self._crops: Crops | None = None
        self._tags: dict[str, dict[str, str]] | None = None
        self._starting = threading.Lock()
        self.trouble = ""
        try:
            self._crops = Crops(project)
        except HistorymapError as error:
            self.trouble = str(error)
        self._reading = threading.Thread(target=self._read_tags, name="historymap tags", daemon=True)

    @property
    def has_photo(self) -> bool:
        """Whether there are crops."""
        return self._crops is not None

    def crop(self, row: int) -> Crop | None:
        """Return the crop of a building, or None where the photo cannot be read."""
        found = self._session.buildings
        if self._crops is None:
            return None
        try:
            return self._crops.of((found.ids[row], found.shift(row)), *found.on_photo([row]))
        except HistorymapError as error:
            self.trouble = str(error)
            return None

    def crop_facts(self, row: int) -> dict[str, Any] | None:
        """Return what a template needs to draw a crop: its side in metres, outlines, and where the building was found.

        The outlines are drawn where the photo shows them, as far as that is known; that of the map comes in addition.
        """
        crop, found = self.crop(row), self._session.buildings
        if crop is None:
            return None
        to_degrees = Transformer.from_crs(self._project.crs, "EPSG:4326", always_xy=True)
        near = [one for one in found.within(to_degrees.transform_bounds(*crop.bounds)) if one != row]
        shift = found.shift(row)
        return {
            "side": crop.side,
            "outline": crop.path(found.on_photo([row])),
            "on_map": crop.path([found.frame.geometry.iloc[row]]) if shift else "",
            "found": in_words(shift) if shift else "",
            "others": crop.path(found.on_photo(near)),
            "covered": crop.covered,
        }

    def tags(self, row: int) -> dict[str, str]:
        """Return the tags of a building; the name alone as long as the others are being read."""
        found = self._session.buildings
        if self._tags is not None:
            return self._tags.get(found.ids[row], {})
        with self._starting:  # not before: at 100,000 buildings it would delay the map by a second
            if self._reading.ident is None:
                self._reading.start()
        name = found.frame["name"].iloc[row]
        return {"name": name} if isinstance(name, str) else {}

    def _read_tags(self) -> None:
        try:
            frame = load_footprints(self._project).frame
        except HistorymapError as error:
            self.trouble = self.trouble or str(error)
            return
        columns = [frame[name] for name in TAGS]
        self._tags = {
            building: {name: value for name, value in zip(TAGS, values, strict=True) if isinstance(value, str)}
            for building, *values in zip(frame["building_id"], *columns, strict=True)
        }
