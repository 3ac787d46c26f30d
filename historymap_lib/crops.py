"""A piece of the old photo around a building, with the outline of its footprint to lay over it."""

from __future__ import annotations

import base64
import threading
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from PIL import Image
from rasterio.windows import Window

from historymap_lib.imagery import open_photo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from historymap_lib.imagery import Photo
    from historymap_lib.project import Project

LARGEST = 480
"""Pixels of a side of a crop at most."""
AROUND = 12.0
"""Metres around a footprint at least; what surrounds it tells as much as what is under it."""
SHARE = 0.7
"""Or this much of its longer side."""
HELD = 400
"""Crops that are kept."""
QUALITY = 88
GROUND = 160
"""Grey of what the photo does not cover."""


@dataclass(frozen=True)
class Crop:
    """A square piece of the photo.

    Attributes:
        source: the picture, as a `data:` URL (JPEG).
        bounds: west, south, east, north in metres (CRS of the case).
        covered: share of the footprint that the photo covers.

    """

    source: str
    bounds: tuple[float, float, float, float]
    covered: float

    @property
    def side(self) -> float:
        """The length of a side in metres."""
        return self.bounds[2] - self.bounds[0]

    def path(self, shapes: Iterable[Any]) -> str:
        """Return footprints (shapely, CRS of the case) as an SVG path, in metres from the north-west corner."""
        west, _, _, north = self.bounds
        parts = []
        for ring in shapely.get_rings(shapely.get_parts(np.asarray(list(shapes), object))):
            x, y = shapely.get_coordinates(ring).T
            corners = " ".join(f"{a:.2f},{b:.2f}" for a, b in zip(x - west, north - y, strict=True))
            parts.append(f"M{corners}Z")
        return "".join(parts)


class Crops:
    """Crops of the photo of a case, read from one open photo; any thread may ask.

    Raises:
        PhotoError: the photo cannot be opened.

    """

    def __init__(self, project: Project) -> None:
        self._photo: Photo = open_photo(project)
        self._lock = threading.Lock()
        self._held: dict[Any, Crop] = {}

    def of(self, key: Any, shape: Any) -> Crop:
        """Return the crop around a footprint (shapely, CRS of the case); `key` stands for it.

        Raises:
            PhotoError: the photo cannot be read there.

        """
        with self._lock:
            if key not in self._held:
                while len(self._held) >= HELD:
                    del self._held[next(iter(self._held))]
                self._held[key] = self._cut(shape)
            return self._held[key]

    def close(self) -> None:
        """Close the photo."""
        with self._lock:
            self._photo.__exit__()

    def _cut(self, shape: Any) -> Crop:
        grid = self._photo.grid
        west, south, east, north = shape.bounds
        longer = max(east - west, north - south)
        half = int(np.ceil((longer / 2 + max(AROUND, SHARE * longer)) / grid.resolution))
        column = round(((west + east) / 2 - grid.west) / grid.resolution)
        row = round((grid.north - (south + north) / 2) / grid.resolution)
        window = Window(column - half, row - half, 2 * half, 2 * half)
        grey, valid = self._photo.read(window)
        picture = Image.fromarray(np.where(valid, grey, GROUND).astype(np.uint8))
        if max(picture.size) > LARGEST:
            picture = picture.resize((LARGEST, LARGEST), Image.Resampling.BOX)
        data = BytesIO()
        picture.save(data, "JPEG", quality=QUALITY)
        bounds = grid.bounds_of(window)
        return Crop(
            f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}", bounds, _share(shape, bounds, valid)
        )


def _share(shape: Any, bounds: tuple[float, ...], valid: np.ndarray) -> float:
    """Return the share of a footprint that is covered, by the pixels whose centre lies within it."""
    west, south, east, north = bounds
    height, width = valid.shape
    x = west + (np.arange(width) + 0.5) * (east - west) / width
    y = north - (np.arange(height) + 0.5) * (north - south) / height
    inside = shapely.contains_xy(shape, *np.meshgrid(x, y))
    return float(valid[inside].mean()) if inside.any() else 0.0
