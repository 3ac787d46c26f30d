"""The picture of how far the photo lies from the map: arrows on the photo, from where the map has it to the photo."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from matplotlib.patheffects import withStroke

from historymap_lib import offsets
from historymap_lib.figures import (
    DPI,
    FOOT,
    INK,
    LONGEST,
    blank_map,
    draw_photo,
    draw_scale,
    footprint_patch,
    thumbnail,
    write_figure,
)
from historymap_lib.looks import Look

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from historymap_lib.imagery import Photo
    from historymap_lib.offsets import Stored

OUTLINE = Look("outline", INK, 0.0, "#56B4E9", width=0.8)
KNOWN, DOUBTFUL = "#FFD400", "#FFFFFF"
ARROWS = 24
"""Along the longer side at most."""
LONG = 0.9
"""Share of the room between two arrows that the longest of them fills."""
KEYS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


def draw_offsets(stored: Stored, shapes: NDArray[Any], photo: Photo, words: str, path: Path) -> None:
    """Draw the shifts as arrows, with footprints as the map has them, and a key.

    Args:
        stored: what was found.
        shapes: footprints in the CRS of the photo's grid.
        photo: the open photo.
        words: what was found, in a sentence.
        path: the PNG to write.

    """
    figure, axes = blank_map(photo, "How far does the photo lie from the map?")
    draw_photo(axes, *thumbnail(photo, LONGEST), fade=0.2)
    axes.add_artist(footprint_patch(shapes, OUTLINE, 0.6, zorder=2))
    x, y, shifts, confidence = _arrows(stored, photo, shapes)
    length = np.hypot(*shifts)
    longest = max(float(length.max(initial=0.0)), KEYS[0])
    room = _room(photo)
    scale = room * LONG / longest
    sure = confidence >= offsets.SURE
    for which, colour, width in ((sure, KNOWN, 0.0028), (~sure, DOUBTFUL, 0.0014)):
        axes.quiver(
            x[which], y[which], *(shifts[:, which] * scale), color=colour, width=width, angles="xy", scale_units="xy",
            scale=1, zorder=4, path_effects=[withStroke(linewidth=2.5, foreground=INK)],
        )  # fmt: skip
    _draw_key(axes, scale, longest, room)
    draw_scale(axes)
    wide, high = figure.get_size_inches() * DPI
    text = f"{words[0].upper()}{words[1:]}. Thin white arrows are doubtful; outlines as the map has them."
    lines = "\n".join(textwrap.wrap(text, int(wide / 8)))
    figure.text(0.5, FOOT / 2 / high, lines, ha="center", va="center", fontsize=10)
    write_figure(figure, path)


def _room(photo: Photo) -> float:
    """Return metres between arrows."""
    west, south, east, north = photo.grid.bounds
    return max(east - west, north - south) / ARROWS


def _arrows(
    stored: Stored, photo: Photo, shapes: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return x, y, shifts (2, n) and confidence of arrows, each for some cells, where there are buildings near."""
    west, south, east, north = photo.grid.bounds
    room = _room(photo)
    x, y = np.meshgrid(np.arange(west + room / 2, east, room), np.arange(north - room / 2, south, -room))
    x, y = x.ravel(), y.ravel()
    squares = shapely.box(x - room / 2, y - room / 2, x + room / 2, y + room / 2)
    built = np.unique(shapely.STRtree(shapes).query(squares)[0])
    x, y = x[built], y[built]
    cells = stored.offsets
    row = np.clip(((cells.north - y) / cells.cell).astype(int), 0, stored.confidence.shape[0] - 1)
    column = np.clip(((x - cells.west) / cells.cell).astype(int), 0, stored.confidence.shape[1] - 1)
    return x, y, cells.at(x, y).T, stored.confidence[row, column]


def _draw_key(axes: Axes, scale: float, longest: float, room: float) -> None:
    """Draw an arrow of a round length at the bottom right."""
    length = max(value for value in KEYS if value <= longest or value == KEYS[0])
    (_, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x, y, drawn = right - 0.6 * room, bottom + 0.025 * (top - bottom), length * scale
    style: dict[str, Any] = {
        "angles": "xy",
        "scale_units": "xy",
        "scale": 1,
        "width": 0.0028,
        "color": KNOWN,
        "zorder": 9,
    }
    halo = [withStroke(linewidth=3, foreground=INK)]
    axes.quiver([x - drawn], [y], [drawn], [0.0], path_effects=halo, **style)
    white = [withStroke(linewidth=5, foreground="white")]
    above = y + 0.012 * (top - bottom)
    words = f"arrow of {length:g} m"
    axes.text(x, above, words, ha="right", va="bottom", path_effects=white, fontsize=13, zorder=9)
