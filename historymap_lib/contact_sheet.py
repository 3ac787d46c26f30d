"""A contact sheet of training tiles: photo and mask of a few of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from matplotlib.figure import Figure
from rasterio import features

from historymap_lib.figures import DPI, footprint_patch, write_figure
from historymap_lib.looks import Look
from historymap_lib.training_data import IGNORE, read_metadata, read_tile

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

LABELS = {
    1: Look("building of today", "#56B4E9", 0.3, "#56B4E9"),
    IGNORE: Look("not learned from", "#E69F00", 0.0, "#E69F00", hatch="////"),
}
"""By value of a mask."""


def draw_tiles(folder: Path, path: Path, count: int = 12) -> None:
    """Draw a contact sheet of up to `count` training tiles, taken evenly from north to south.

    Args:
        folder: of training tiles, as `training_data.generate` or `corrections` writes it.
        path: the PNG to write.
        count: how many tiles at most.

    Raises:
        TrainingDataError: a tile is missing or damaged.

    """
    found = read_metadata(folder)
    chosen = [found[i] for i in np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)]
    columns = min(4, max(2, math.ceil(math.sqrt(len(chosen)))))
    rows = max(1, math.ceil(len(chosen) / columns))
    figure = Figure(figsize=(columns * 3.4, rows * 3.7 + 1), dpi=DPI, layout="constrained")
    sheet = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in sheet:
        axes.set_axis_off()
    for axes, metadata in zip(sheet, chosen, strict=False):
        _draw_tile(axes, folder, metadata)
    title = f"{len(chosen)} of {len(found)} training tiles" if found else "No training tiles yet"
    figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
    handles = [footprint_patch(np.array([]), look, label=look.label) for look in LABELS.values()]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False)
    write_figure(figure, path)


def _draw_tile(axes: Axes, folder: Path, metadata: dict[str, Any]) -> None:
    """Draw one tile: the photo, its grey values stretched, and over it what the mask says."""
    image, mask = read_tile(folder, metadata["tile"], "images", "masks")
    seen = image[image > 0] if image.any() else image
    low, high = np.percentile(seen, [0.5, 99.5])
    axes.imshow(np.ma.masked_equal(image, 0), cmap="gray", vmin=low, vmax=max(high, low + 1))
    for value, look in LABELS.items():
        found = features.shapes(mask, mask=mask == value)
        axes.add_artist(footprint_patch(np.array([shapely.geometry.shape(one) for one, _ in found]), look))
    number = metadata.get("buildings", 0)
    words = f"{metadata.get('split', '')} · {number} building{'' if number == 1 else 's'}"
    axes.set_title(f"{metadata['tile']}\n{words}", loc="left", fontsize=10)
