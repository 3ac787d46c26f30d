"""The pictures of the steps: training curves, training tiles, probabilities over the photo, the map of verdicts.

Each function writes one PNG, whole or not at all. No state is shared (no pyplot), so a picture can be drawn in any
thread and in a notebook alike. What matters is never told by colour alone: see `LOOKS`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import shapely
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from shapely import Polygon

from historymap_lib import artifacts
from historymap_lib.training_data import IGNORE, read_metadata, read_tile

if TYPE_CHECKING:
    from pathlib import Path

    import geopandas as gpd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from historymap_lib.imagery import Photo

LONGEST = 1400
"""Pixels along the longer side of a map."""
SHORTEST = 420
"""Pixels along the shorter side of a map, so that title and legend find room over a narrow strip."""
MARGIN, HEAD, FOOT = 24, 62, 66
"""Pixels around a map, above it for the title, and below it for the legend."""
BLOCK = 1024
"""About how many pixels of the photo are read at a time, in each direction."""
DPI = 100
QUIET, NOTHING, INK = "#767676", "#E4E4E4", "#1A1A1A"
BUILDING, IGNORED = "#56B4E9", "#E69F00"
CURVES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", (0, (1, 1))), ("#E69F00", (0, (5, 1))))
"""Colour and line style of each member of the model; the colours are Okabe and Ito's (2008, Color Universal Design)."""


@dataclass(frozen=True)
class Look:
    """How footprints of one verdict are drawn: filled, hatched or hollow, so that it shows without colour too."""

    label: str
    face: str
    alpha: float
    edge: str
    line: str = "-"
    hatch: str = ""


LOOKS = {
    "no_coverage": Look("no coverage", "#999999", 0.25, "#5C5C5C", line=":"),
    "existed": Look("existed", "#009E73", 0.8, "#00543D"),
    "not_existed": Look("not existed", "#D55E00", 0.15, "#D55E00", hatch="//////"),
    "unsure": Look("unsure", "#F0E442", 0.75, "#6B5A00", line="--"),
}
"""By verdict, in the order of drawing."""

Extent = tuple[float, float, float, float]


def draw_history(history: list[dict[str, Any]], path: Path) -> None:
    """Draw loss and validation IoU over the epochs, a line a member, the rounds one after another.

    Args:
        history: records with `round`, `member` (from 0), `epoch` (from 1), `loss`, and where it was validated `iou`.
        path: the PNG to write.

    """
    figure = Figure(figsize=(10, 6.4), dpi=DPI, layout="constrained")
    losses, overlaps = figure.subplots(2, 1, sharex=True)
    starts = _round_starts(history)
    for member in sorted({record["member"] for record in history}):
        color, line = CURVES[member % len(CURVES)]
        for number, start in starts.items():
            records = [one for one in history if (one["member"], one["round"]) == (member, number)]
            records.sort(key=lambda one: one["epoch"])
            label = f"member {member + 1}" if number == min(starts) else None
            style = {"color": color, "linestyle": line, "linewidth": 1.8, "markersize": 4}
            _curve(losses, records, start, "loss", label=label, **style)
            _curve(overlaps, records, start, "iou", **style)
            _mark_best(overlaps, records, start, color)
    losses.set(ylabel="training loss")
    overlaps.set(ylabel="validation IoU", xlabel="epoch (each round starts anew at 1)")
    overlaps.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (losses, overlaps):
        _tidy(axes)
        axes.margins(y=0.18)
    _name_rounds(losses, overlaps, starts, history)
    figure.suptitle("How the training went", x=0.01, ha="left", fontsize=14, fontweight="bold")
    _write(figure, path)


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
    columns = min(4, max(1, math.ceil(math.sqrt(len(chosen)))))
    rows = max(1, math.ceil(len(chosen) / columns))
    width, height = columns * 3.4, rows * 3.7
    figure = Figure(figsize=(max(width, 6.8), height + 1), dpi=DPI, layout="constrained")
    sheet = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in sheet:
        axes.set_axis_off()
    for axes, metadata in zip(sheet, chosen, strict=False):
        _draw_tile(axes, folder, metadata)
    title = f"{len(chosen)} of {len(found)} training tiles" if found else "no training tiles yet"
    figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
    handles = [
        Rectangle((0, 0), 1, 1, facecolor=(*_rgb(BUILDING), 0.35), edgecolor=BUILDING, label="building of today"),
        Rectangle((0, 0), 1, 1, facecolor="none", edgecolor=IGNORED, hatch="////", label="not learned from"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False)
    _write(figure, path)


def draw_probability(photo: Photo, raster: Path, path: Path) -> None:
    """Draw the probabilities of `raster` over the photo; the more probable, the less of the photo shines through.

    Args:
        photo: the open photo.
        raster: uint8, 0 to 254 for probability 0 to 1, 255 no data, in any CRS.
        path: the PNG to write.

    """
    figure, axes = _map(photo, "How probable is a building?")
    grey, extent = thumbnail(photo, LONGEST)
    _draw_photo(axes, grey, extent)
    left, right, bottom, top = extent
    transform = rasterio.transform.from_bounds(left, bottom, right, top, grey.shape[1], grey.shape[0])
    with rasterio.open(raster) as dataset:
        grid = {"crs": photo.grid.crs.to_wkt(), "transform": transform, "width": grey.shape[1], "height": grey.shape[0]}
        with WarpedVRT(dataset, src_nodata=255, nodata=255, resampling=Resampling.average, **grid) as view:
            values = view.read(1)
    shown = np.ma.masked_equal(values, 255) / 254
    image = axes.imshow(shown, cmap=_veil(), vmin=0, vmax=1, extent=extent, zorder=2)
    _scale_bar(axes)
    _colour_bar(figure, image)
    _write(figure, path)


def draw_verdicts(verdicts: gpd.GeoDataFrame, photo: Photo, path: Path) -> None:
    """Draw the footprints over the photo, each in the look of its verdict, annotated ones with a dark border.

    Args:
        verdicts: polygons in any CRS, with the columns `verdict` and `annotated`, and perhaps `photo` (its name).
        photo: the open photo.
        path: the PNG to write.

    """
    names = verdicts["photo"].dropna().unique() if "photo" in verdicts else []
    on = f" on {names[0]}" if len(names) == 1 else ""
    figure, axes = _map(photo, f"Which of {len(verdicts):,} buildings stood?{on}")
    _draw_photo(axes, *thumbnail(photo, LONGEST), fade=0.35)
    shapes = verdicts.geometry.to_crs(photo.grid.crs).to_numpy()
    line = _line_width(shapes, axes)
    for order, (verdict, look) in enumerate(LOOKS.items()):
        chosen = (verdicts["verdict"] == verdict).to_numpy()
        axes.add_patch(_footprints(shapes[chosen], look, line, zorder=2 + order))
    annotated = verdicts["annotated"].to_numpy(dtype=bool)
    border = {"facecolor": "none", "edgecolor": INK, "linewidth": max(1.2, 2.2 * line)}
    axes.add_patch(PathPatch(_outline(shapes[annotated]), zorder=8, **border))
    _scale_bar(axes)
    handles = [
        _footprints(np.array([]), look, 1.2, label=f"{look.label} ({(verdicts['verdict'] == verdict).sum():,})")
        for verdict, look in LOOKS.items()
    ]
    handles = [*handles[1:], handles[0], PathPatch(_outline(np.array([])), **border)]
    handles[-1].set_label(f"annotated by a person ({annotated.sum():,})")
    figure.legend(handles=handles, loc="lower left", ncols=len(handles), frameon=False, fontsize=12, handlelength=2.2)
    _write(figure, path)


def thumbnail(photo: Photo, longest: int) -> tuple[NDArray[np.uint8], Extent]:
    """Return the photo reduced to at most `longest` pixels a side, and where it lies.

    Whole numbers of pixels are averaged, those without data left out. The photo is read a block at a time.

    Returns:
        Grey values (height x width, uint8), 0 where there is no data, and left, right, bottom, top in metres, as
        `imshow` takes them. They may reach over the grid by less than a pixel of the thumbnail.

    """
    grid = photo.grid
    factor = math.ceil(max(grid.width, grid.height) / longest)
    height, width = math.ceil(grid.height / factor), math.ceil(grid.width / factor)
    small = np.zeros((height, width), np.uint8)
    step = max(1, BLOCK // factor)
    for top in range(0, height, step):
        for left in range(0, width, step):
            rows, columns = min(step, height - top), min(step, width - left)
            window = Window(left * factor, top * factor, columns * factor, rows * factor)
            small[top : top + rows, left : left + columns] = _pool(*photo.read(window), factor)
    west, south, east, north = grid.bounds_of(Window(0, 0, width * factor, height * factor))
    return small, (west, east, south, north)


def _pool(grey: NDArray[np.uint8], valid: NDArray[np.bool_], factor: int) -> NDArray[np.uint8]:
    """Return the mean of the valid pixels in each square of `factor` pixels, 0 where there is none."""
    rows, columns = grey.shape[0] // factor, grey.shape[1] // factor
    squares = (rows, factor, columns, factor)
    total = np.where(valid, grey, 0).reshape(squares).sum(axis=(1, 3), dtype=np.uint32)
    number = valid.reshape(squares).sum(axis=(1, 3), dtype=np.uint32)
    return (total / np.maximum(number, 1)).round().astype(np.uint8)


def _write(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    FigureCanvasAgg(figure)
    with artifacts.replacing(path) as partial:
        figure.savefig(partial, format="png")


def _round_starts(history: list[dict[str, Any]]) -> dict[int, int]:
    """Return after how many epochs each round starts on the common axis."""
    starts, total = {}, 0
    for number in sorted({record["round"] for record in history}):
        starts[number] = total
        total += max(record["epoch"] for record in history if record["round"] == number)
    return starts


def _curve(axes: Axes, records: list[dict[str, Any]], start: int, key: str, **style: Any) -> None:
    """Draw one key of the records that have it."""
    points = [(start + one["epoch"], one[key]) for one in records if one.get(key) is not None]
    x, y = zip(*points, strict=True) if points else ((), ())
    axes.plot(x, y, marker="o" if len(points) < 20 else "", **style)


def _mark_best(axes: Axes, records: list[dict[str, Any]], start: int, color: str) -> None:
    """Mark the epoch whose weights a member keeps."""
    scored = [one for one in records if one.get("iou") is not None]
    if scored:
        best = max(scored, key=lambda one: one["iou"])
        axes.plot(
            start + best["epoch"], best["iou"], "*", color=color, markersize=14, markeredgecolor="white", zorder=4
        )


def _name_rounds(upper: Axes, lower: Axes, starts: dict[int, int], history: list[dict[str, Any]]) -> None:
    """Divide the rounds by thin lines, name them, and count the epochs from 1 in each."""
    for number, start in starts.items():
        if start:
            for axes in (upper, lower):
                axes.axvline(start + 0.5, color=QUIET, linewidth=0.8)
        where = {"transform": upper.get_xaxis_transform(), "va": "top", "color": QUIET}
        upper.text(start + 0.62, 0.97, f"round {number}", **where)
    if history:
        last = max(starts.values())
        end = last + max(record["epoch"] for record in history if record["round"] == max(starts))
        lower.set_xlim(0.5, end + 0.5)
        upper.legend(loc="upper right", frameon=False)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_tile(axes: Axes, folder: Path, metadata: dict[str, Any]) -> None:
    """Draw one tile: the photo, buildings outlined and tinted, what is not learned from hatched."""
    image, mask = read_tile(folder, metadata["tile"], "images", "masks")
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    _tint(axes, mask == 1, BUILDING, alpha=0.3)
    _tint(axes, mask == IGNORE, IGNORED, hatch="////")
    number = metadata.get("buildings", 0)
    words = f"{metadata.get('split', '')} · {number} building{'' if number == 1 else 's'}"
    axes.set_title(f"{metadata['tile']}\n{words}", loc="left", fontsize=10)


def _tint(axes: Axes, where: NDArray[np.bool_], color: str, *, alpha: float = 0.0, hatch: str = "") -> None:
    """Outline where a mask is true, and fill it or hatch it; padded, so that the edge of the tile is outlined too."""
    if not where.any():
        return
    values = np.pad(where, 1).astype(float)
    x, y = np.arange(-1, where.shape[1] + 1), np.arange(-1, where.shape[0] + 1)
    filled = axes.contourf(x, y, values, levels=[0.5, 1.5], colors=[color], alpha=alpha, hatches=[hatch])
    filled.set_edgecolor(color)
    filled.set_linewidth(0)
    axes.contour(x, y, values, levels=[0.5], colors=[color], linewidths=1.3)


def _map(photo: Photo, title: str) -> tuple[Figure, Axes]:
    """Return a figure with a title, and axes in metres with the shape of the photo, room for a legend below."""
    west, south, east, north = photo.grid.bounds
    scale = LONGEST / max(east - west, north - south)
    wide, high = max(SHORTEST, (east - west) * scale), max(SHORTEST, (north - south) * scale)
    width, height = max(wide, 900) + 2 * MARGIN, high + HEAD + FOOT
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((MARGIN / width, FOOT / height, wide / width, high / height), facecolor=NOTHING)
    axes.set(xlim=(west, east), ylim=(south, north), xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim", anchor="W")
    axes.set_autoscale_on(False)
    axes.spines[:].set_color(QUIET)
    figure.text(MARGIN / width, 1 - HEAD / 2 / height, title, va="center", fontsize=17, fontweight="bold")
    return figure, axes


def _draw_photo(axes: Axes, grey: NDArray[np.uint8], extent: Extent, fade: float = 0.0) -> None:
    """Draw the photo; `fade` lifts black towards white, so that what lies over it stands out."""
    shown = np.ma.masked_equal(grey, 0)
    axes.imshow(shown, cmap="gray", vmin=-255 * fade / (1 - fade), vmax=255, extent=extent, aspect="auto", zorder=1)


def _veil() -> ListedColormap:
    """Return matplotlib's plasma, ever less transparent."""
    import matplotlib as mpl

    colors = mpl.colormaps["plasma"](np.linspace(0, 1, 255))
    colors[:, 3] = np.linspace(0.1, 0.85, 255)
    return ListedColormap(colors)


def _rgb(color: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(color)


def _colour_bar(figure: Figure, image: Any) -> None:
    width, height = figure.get_size_inches() * DPI
    axes = figure.add_axes((MARGIN / width, 34 / height, 420 / width, 14 / height), facecolor="#808080")
    bar = figure.colorbar(image, cax=axes, orientation="horizontal", format=PercentFormatter(1))
    bar.outline.set_edgecolor(QUIET)


def _scale_bar(axes: Axes) -> None:
    """Draw a bar of 1, 2, 5, 10, 20... metres, about a sixth of the map."""
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    power = 10.0 ** math.floor(math.log10((right - left) / 5))
    length = max(step * power for step in (1, 2, 5) if step * power <= (right - left) / 5)
    unit = (right - left) / LONGEST
    x, y = left + 20 * unit, bottom + 20 * unit
    halo = [withStroke(linewidth=5, foreground="white")]
    axes.plot([x, x + length], [y, y], color=INK, linewidth=4, solid_capstyle="butt", path_effects=halo, zorder=9)
    words = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axes.text(x + length / 2, y + 8 * unit, words, ha="center", va="bottom", path_effects=halo, fontsize=13, zorder=9)


def _line_width(shapes: NDArray[Any], axes: Axes) -> float:
    """Return a width of lines in points that a building of usual size can bear."""
    if len(shapes) == 0:
        return 1.0
    left, right = axes.get_xlim()
    side = math.sqrt(np.median(shapely.area(shapes))) * LONGEST / (right - left)
    return min(1.4, max(0.2, side / 12))


def _footprints(shapes: NDArray[Any], look: Look, line: float, **style: Any) -> PathPatch:
    """Return all footprints of one look as one patch, which draws a hundred thousand as fast as it can."""
    face, hatch = (*_rgb(look.face), look.alpha), look.hatch
    return PathPatch(
        _outline(shapes), facecolor=face, edgecolor=look.edge, linestyle=look.line, hatch=hatch, linewidth=line, **style
    )


def _outline(shapes: NDArray[Any]) -> Outline:
    """Return polygons as one path; their holes turn the other way round, which is what leaves them empty."""
    polygons = shapely.get_parts(shapes[~(shapely.is_missing(shapes) | shapely.is_empty(shapes))])
    if len(polygons) == 0:
        return Outline(np.empty((0, 2)))
    _, points, (rings, _) = shapely.to_ragged_array(shapely.orient_polygons(polygons))
    codes = np.full(len(points), Outline.LINETO, Outline.code_type)
    codes[rings[:-1]], codes[rings[1:] - 1] = Outline.MOVETO, Outline.CLOSEPOLY
    return Outline(points, codes)
